"""The contract of a model.

One file holds all of a model: its Config, its sizes, its recipes, the tokens that it reads, and its computation. The
trunk (sessions, loader, loop, transfer) knows models by this contract alone.

Subclasses are final; parts that several models share are blocks in ``spiketok.models.nn``; what some keep of a session
in the same way is a parent between (``binned``, ``perceiver``). Everything that belongs to one session (unit rows,
read-ins) is a parameter of its own or a range of rows of a table (:class:`Part`), keyed by stable ids, never by the
number or position of its units. Training one session moves no other, neither by weight decay nor by momentum: a table's
gradient holds the rows of a batch alone, and its optimizer moves no others.

Shape letters: B windows, L tokens, N units, T bins, Q query times, C components, D width, H heads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Batch, Generation, Head, Input, Progress, Stretch, Timing
from spiketok.models.nn import module_key
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

# What can be done with an unseen session, in the order of the report. (calibration, what moves):
PROTOCOLS = {
    "zero_shot": ("none", "nothing"),
    "zero_gradient": ("unlabelled", "calibrate"),
    "identity_unlabelled": ("unlabelled", "identity"),
    "identity_only": ("labelled", "identity"),
    "full": ("labelled", "all"),
    "profile": ("labelled", "profile"),
}


@dataclass(frozen=True, eq=False)
class Part:
    """What belongs to one session of a parameter: all of it, or some rows of a table.

    Args:
        rows: which rows; None for the whole parameter.
    """

    parameter: nn.Parameter
    rows: slice | None = None

    @classmethod
    def of(cls, table: Vocabulary, block: str) -> Part:
        """A block of a table."""
        return cls(table.weight, table.span(block))

    @property
    def value(self) -> Tensor:
        """A view, without a gradient."""
        return self.parameter.detach() if self.rows is None else self.parameter.detach()[self.rows]


class Model(nn.Module, ABC):
    """A decoder, or a model of the spikes, or both.

    Class attributes:
        name: its name on the command line. checked: what its numbers were held against.
        tasks: the kinds of question that it can answer. default_tasks: those of a run that names none; a task that no
            session can serve is left out of them.
        protocols: the rows of the transfer table that it has; each of the others needs a reason in
            :meth:`why_not`.
        one_session: it holds one session and refuses a second (may be a property of the instance).
        one_session_batches: every batch must hold windows of one session (models with a read-in a session).
        causal: what it puts out for a time depends on nothing after that time (may be a property of the instance).
        carries: :meth:`predict` hands on a state from window to window.
        generates: it can draw spikes (:meth:`generate`).
        draws_apart: it draws each window by itself: nothing of those before goes into it.
        couplings: the ways in which it can say how much a unit depends on another (:meth:`coupling`), the best first.
        weighs_exposure: it reads bins that were recorded in part by their share (``data.exposure``).
        has_latents: beside its answers it puts out ``latents``, ``[B * T, K]``, a row a bin of its counts.
        infers: who a unit is it infers from calibration (:meth:`own_units`).
        by_place: it knows a unit by its place among the others alone, and has no number of it (:meth:`unit_places`).
        read_by: the name of its module dict that holds, by ``module_key`` of a task, the last layer of each behaviour;
            empty where there is none (:meth:`last_layers`).
        reconstructs: it learns from the spikes also where no task asks them.
        Config: a frozen dataclass of the reference's numbers; ``sizes`` holds named presets of its fields.
        recipes: by size, the defaults of a run's sections ``data``, ``optim``, ``task`` and ``transfer``; ``"*"`` for
            the other sizes. ``optim.lr_per_window`` ties the learning rate to the batch size.
    """

    name: ClassVar[str]
    checked: ClassVar[str] = ""
    tasks: ClassVar[tuple[str, ...]] = ("decode",)
    default_tasks: ClassVar[tuple[str, ...]] = ("decode",)
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "identity_only", "full")
    one_session: ClassVar[bool] = False
    one_session_batches: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    carries: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    draws_apart: ClassVar[bool] = False
    couplings: ClassVar[tuple[str, ...]] = ()
    has_latents: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    weighs_exposure: ClassVar[bool] = False
    infers: ClassVar[bool] = False
    by_place: ClassVar[bool] = False
    read_by: ClassVar[str] = ""
    Config: ClassVar[type]
    sizes: ClassVar[dict[str, dict[str, object]]]
    recipes: ClassVar[dict[str, dict[str, dict]]]

    @classmethod
    @abstractmethod
    def inputs(cls, config, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        """The tokens that the model reads, by the names under which its batches hold them.

        Args:
            config: the model's own. tasks: the kinds of question of the run. timing: windows and bins of the run.
        """

    @abstractmethod
    def __init__(self, config, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__()
        self.config, self.heads, self.timing = config, {head.task: head for head in heads}, timing

    @property
    def unanswered_ns(self) -> int:
        """Time at the start of each window that gets no answer, for want of a history."""
        return 0

    def head(self, output: str) -> Head:
        """The one head of a model that answers one question of this kind of output.

        Raises:
            UsageError: the run asks several.
        """
        found = [head for head in self.heads.values() if head.output == output]
        if len(found) != 1:
            named = ", ".join(head.task for head in found) or "none"
            message = f"{self.name} answers one question of {output} in a run, asked are {named}: train them apart"
            raise UsageError(message)
        return found[0]

    # ---- sessions -------------------------------------------------------------------------------------------------

    @abstractmethod
    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """Make rows or read-ins for sessions that the model does not know yet; those it knows stay as they are.

        New parameters are drawn from torch's global generator: seed it for the same result. A table that grows becomes
        another parameter, with the old rows bit for bit: an optimizer is made after all sessions are there.

        Raises:
            DataError: a session is known with other units than these.
        """

    @abstractmethod
    def sessions(self) -> list[str]:
        """Ids of the sessions that the model has rows for, in the order of their rows."""

    def session_row(self, session_id: str) -> int:
        """The session's row, as ``Batch.session_B`` carries it.

        Raises:
            DataError: the model does not know the session.
        """
        return self.session_rows([session_id])[session_id]

    def session_rows(self, session_ids: Sequence[str]) -> dict[str, int]:
        """:meth:`session_row` of several at once, by id."""
        row = {session: k for k, session in enumerate(self.sessions())}
        for session in session_ids:
            if session not in row:
                raise self.unknown(session)
        return {session: row[session] for session in session_ids}

    def unknown(self, session_id: str) -> DataError:
        """The error that says that the model does not know a session."""
        message = (
            f"session '{session_id}' is not one of the {len(self.sessions())} that the model knows: "
            "add_sessions() first"
        )
        return DataError(message)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        """int32 ``[N]``: what the cut writes for each unit of the session; its rows in the unit table by default."""
        return np.arange(info.n_units, dtype=np.int32)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """All that identity-only transfer may train: what belongs to these sessions and to no other.

        Args:
            sessions: ids; None for all that the model knows. Transfer names the sessions that it adapts to.
        """
        for session in sessions or ():
            self.session_row(session)
        return []

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        """What of :meth:`identity_parameters` lies along the units of a session, each with that axis; none by default.

        The units stand in the order of ``SessionInfo``. All sessions have the same kinds, of the same width, in one
        order.
        """
        self.session_row(session)
        return []

    def own_units(self, session: str) -> None:
        """Make rows of a session's units of what :meth:`calibrate` inferred, and read them from now on.

        Of a model that ``infers``; the rows are :meth:`unit_parts` then.
        """
        message = f"{self.name} infers no units"
        raise UsageError(message)

    def unit_places(self, info: SessionInfo) -> np.ndarray:
        """int64 ``[N]``: of a model that knows units ``by_place``, the place of each unit of a session."""
        message = f"{self.name} knows no unit by its place"
        raise UsageError(message)

    def put_units(self, session: str, places: Sequence[int]) -> None:
        """Read each unit of a session at another place from now on; of a model that knows units ``by_place``.

        Raises:
            DataError: these are not different places that the model has, one for each unit.
        """
        message = f"{self.name} knows no unit by its place"
        raise UsageError(message)

    # ---- the computation ------------------------------------------------------------------------------------------

    def begin_step(self, progress: Progress) -> None:
        """Once before the batches of each step of a training, which may be several: what is done a step, not a batch.

        Nothing by default.
        """

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, what its head says. Other names may stand beside; they are the model's own.

        Rows are NaN where the model makes no prediction (its past lies outside of the window): such rows are neither
        averaged nor scored, and a consumer that forgets them is stopped by the metrics instead of scoring a made-up
        value. A model that gives such rows says which ones it made under ``<task>.known``, bool ``[Q]``; from any other
        model NaN is an error.
        """

    @abstractmethod
    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Named terms; ``total`` is minimised. A task that the batch does not ask adds nothing."""

    def predict(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        """What :meth:`forward` says, in evaluation and live decoding; and what the next window of the session needs.

        A model that carries gets windows of one session, one after the other without overlap, one at a time; ``carry``
        is None at the start of a stretch.
        """
        return self.forward(batch), None

    def last_layers(self) -> dict[str, nn.Module]:
        """By task of values, the layer whose output is its answer; none by default.

        What goes into it, a row a query or a row that a query takes, are the features of :meth:`features`.
        """
        if not self.read_by:
            return {}
        table, valued = getattr(self, self.read_by), [t for t, head in self.heads.items() if head.output == "values"]
        return {task: table[module_key(task)] for task in valued}

    def features(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        """As :meth:`predict`, with what it reads in place of each answer in values, ``[Q, D]``: for a read-out anew.

        Raises:
            UsageError: it has nothing of this kind.
        """
        layers = self.last_layers()
        if not layers:
            message = f"{self.name} says of no layer that it reads its answers of it"
            raise UsageError(message)
        hooks = [layer.register_forward_hook(lambda _, given, __: given[0]) for layer in layers.values()]
        try:
            return self.predict(batch, carry)
        finally:
            for hook in hooks:
                hook.remove()

    def generate(self, batch: Batch, how: Generation, carry: object = None) -> tuple[Tensor, object]:
        """Spikes drawn from the model for the time of a batch's windows, and what the next windows need.

        Args:
            batch: of one session; of its tokens a model reads no spike of the time that it generates, but where it says
                that it is given what came before a stretch. how: the draw.
            carry: None at the start of a stretch; else what the call for the windows before gave.

        Returns:
            uint8 ``[B * T, N]`` counts on bins of :meth:`generated_bin_ns`, in the units' own order.
        """
        message = f"{self.name} generates no spikes"
        raise UsageError(message)

    def generated_bin_ns(self) -> int:
        """The bins of :meth:`generate`; those of the run by default."""
        return self.timing.bin_ns

    def shortest_window_ns(self) -> int:
        """The shortest windows of which a model that carries says the same as of the run's, for live decoding.

        By default the run's.
        """
        return self.timing.window_ns

    def coupling(self, batches: Iterable[Batch], how: str) -> Tensor:
        """float64 ``[N, N]``: how much unit i depends on unit j, by one of ``couplings``; NaN where nobody knows.

        Args:
            batches: windows of one session.
        """
        message = f"{self.name} says of no unit how much it depends on another"
        raise UsageError(message)

    # ---- what is fitted, not trained ------------------------------------------------------------------------------

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """Before the first step: what must be known from data; by default :meth:`fit_sessions` alone.

        For a model without parameters it is all: no step follows.

        Args:
            sessions: by id, the contiguous stretches of its training time.
        """
        self.fit_sessions(sessions)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """What belongs to these sessions alone and follows from their tokens, as mean rates. Nothing by default.

        Of all sessions in :meth:`fit`; of a new one before an adaptation begins, and before a training that starts from
        another one's weights.

        Args:
            sessions: by id, stretches of training or calibration time. No target stands in those of a calibration, but
                for the row ``profile``, for which this is all.
        """

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Take in an unseen session by a forward pass, without a gradient: for ``zero_gradient``.

        Args:
            batches: of calibration time, with the session's inputs; no task with labels is asked in them.
        """
        message = f"{self.name} has no calibration without gradients"
        raise UsageError(message)

    def why_not(self, protocol: str, session_id: str) -> str:
        """Why a row of the transfer table does not apply to a session; empty where it does."""
        has_identity = bool(self.identity_parameters([session_id]))
        if protocol in self.protocols:
            if PROTOCOLS[protocol][1] == "identity" and not has_identity:
                return "it has no parameters of a session's own"
            if protocol == "identity_unlabelled" and not {"counts", "events"} & {h.output for h in self.heads.values()}:
                return "the run has no population task and no events task, whose loss alone needs no label"
            return ""
        if protocol == "zero_shot":
            return "its read-in is a session's own and nothing has trained the new one"
        if protocol == "zero_gradient" and has_identity:
            return "a new session has parameters of its own, which a forward pass cannot set"
        if protocol == "zero_gradient":
            return "a forward pass sets nothing in it"
        if protocol == "identity_unlabelled":
            return "it has no loss that needs no label" if has_identity else "it has no parameters of a session's own"
        if protocol == "identity_only":
            return "it has no parameters of a session's own"
        if protocol == "profile":
            return "it reads no profiles of units"
        return f"{self.name} has no '{protocol}'"

    # ---- state ----------------------------------------------------------------------------------------------------

    def n_fitted(self) -> int:
        """How many numbers training sets."""
        return sum(p.numel() for p in self.parameters())

    def extra_state(self) -> dict[str, object]:
        """JSON-able facts beside the weights that rebuild the same model: vocabularies, sessions."""
        return {}

    def load_extra_state(self, state: dict[str, object]) -> None:
        """Rebuild tables and read-ins for a state from :meth:`extra_state`, before the weights are loaded."""


class NamesUnits(Model, ABC):
    """A model that keeps of a session the names of its units, ``units`` by session, and no parameter."""

    units: dict[str, list[str]]

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """Remember the names of the sessions' units; there is nothing to be drawn."""
        for info in infos:
            keys = info.unit_keys()
            check_same_units(info.id, self.units.get(info.id, keys), keys)
            self.units[info.id] = keys

    def sessions(self) -> list[str]:
        return list(self.units)

    def extra_state(self) -> dict[str, object]:
        return {"units": [[session, keys] for session, keys in self.units.items()]}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units = {session: list(keys) for session, keys in state["units"]}


def session_of(model: Model, batch: Batch, units: Mapping[str, Sequence[str]], n_units: int) -> str:
    """The one session of a batch, which a model knows with as many units.

    Args:
        units: of each session that it knows, by name. n_units: of the batch.

    Raises:
        DataError: there are several sessions, or an unknown one, or one with other units.
    """
    session = batch.one_session(model.name)
    if session not in units:
        raise model.unknown(session)
    if len(units[session]) != n_units:
        message = f"{session}: the batch has {n_units} units, the model knows {len(units[session])}"
        raise DataError(message)
    return session


def check_range(config: object, interval: str, *names: str) -> None:
    """Raise UsageError where a setting of a model lies outside of an interval.

    Args:
        config: a model's own. interval: as ``"[0, 1)"``; ``inf`` for no upper bound. names: of the settings.

    >>> from types import SimpleNamespace
    >>> check_range(SimpleNamespace(dropout=0.0), "[0, 1)", "dropout")
    """
    low, high = (float(text) for text in interval[1:-1].split(","))
    for name in names:
        value = getattr(config, name)
        above = value >= low if interval[0] == "[" else value > low
        if above and (value <= high if interval[-1] == "]" else value < high):
            continue
        bound = f"{'at least' if interval[0] == '[' else 'above'} {low:g}" if high == math.inf else f"in {interval}"
        message = f"model.{name} is {value}, must be {bound}"
        raise UsageError(message)


def check_same_units(session_id: str, known: Sequence[str], given: Sequence[str]) -> None:
    """Raise DataError where a session that the model knows comes with other units."""
    if list(known) == list(given):
        return
    pairs = enumerate(zip(known, given, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(known), len(given)))
    message = (
        f"{session_id}: the model knows it with {len(known)} units and it now has {len(given)}, the first that "
        f"differs being row {first}: train anew, or use the store that the model was trained on"
    )
    raise DataError(message)


def n_patches(info: SessionInfo, patch_size: int, group_by: str) -> int:
    """Patches of a session's units where each group of a unit column is cut apart (the scheme ``patch``).

    Args:
        group_by: the column; one that the session lacks, or none, is one group.
    """
    group = np.asarray(info.unit_columns.get(group_by, np.zeros(info.n_units)))
    sizes = np.unique(group, return_counts=True)[1]
    return int(-(-sizes // patch_size).sum())
