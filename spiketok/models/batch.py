"""The nouns of learning: what a model asks for (Input, Head), what it gets (Batch), and nothing of how it is made.

What is unusual:

- a model names its inputs as schemes with all their fields; no setting of a scheme lives anywhere else;
- tokens of a *session* (calibration) stand once in a batch, whatever number of its windows the batch holds;
- what is asked of a model is named by task: the behaviour at some times, a label, the counts of hidden bins.

Shape letters: B windows, L tokens, N units, T bins, Q query times, C components, S sessions in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import SessionInfo

# ---- what a model and a task ask for --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """The time base of a run: the length of its windows, and the bins of whatever has bins."""

    window_ns: int
    bin_ns: int


@dataclass(frozen=True)
class Input:
    """Tokens that a model or a task reads.

    Args:
        scheme: its name. fields: the scheme's fields that differ from its defaults.
        per: ``"window"``, cut for each window; or ``"session"``, cut once a session from its calibration time.
        most: for ``"session"``, the largest number of tokens (calibration trials) that are taken; None for all.
        choose: which of them. ``"first"``: the first ``most``. ``"block"``: in training so many neighbours, drawn anew
            for each batch, so that a model cannot learn one fixed set by heart; elsewhere the first.
    """

    scheme: str
    fields: Mapping[str, object] = field(default_factory=dict)
    per: Literal["window", "session"] = "window"
    most: int | None = None
    choose: Literal["first", "block"] = "first"


@dataclass(frozen=True)
class Head:
    """What a task wants a model to put out, under the task's name.

    Args:
        task: the task's name in the run, as ``"decode:cursor_vel"``. kind: of the task, as ``"decode"``.
        output: ``"values"``: ``[Q, size]`` normalised numbers at the queries; ``"classes"``: ``[Q, size]`` logits;
            ``"counts"``: log rates in the shape of ``asked[task].target``. ``"sequence"``: ``[F, size]`` logits of F
            frames, class 0 of which is the blank, and beside them ``<task>.offset``, int64 ``[B + 1]``, the frames of
            each window; only frames that end inside ``asked[task].span`` are given. ``"events"``: ``[Q, size]`` logits
            of the next token's unit and what else the task says. ``"vectors"``: ``[n, size]``, one row a unit that a
            window holds, and ``<task>.unit`` (int64 ``[n]``, rows of the session's own table) and ``<task>.offset``.
        size: components or classes; 0 where it follows the session (one number a unit).
        words: names of the components or classes.
        input: for ``"counts"``, the name of the input whose counts are predicted and of ``batch.hidden``.
    """

    task: str
    kind: str
    output: Literal["values", "classes", "counts", "sequence", "events", "vectors"]
    size: int = 0
    words: tuple[str, ...] = ()
    input: str = ""


@dataclass(frozen=True)
class Generation:
    """How spikes are drawn from a model.

    Args:
        seed: of the draws; the same gives the same spikes.
        temperature: logits are divided by it; 0 takes the likeliest.
        top_k: only so many of the likeliest are drawn from; None for all. top_p: only the likeliest that have this
            share of the probability together.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.temperature < math.inf and 0 < self.top_p <= 1 and (self.top_k is None or self.top_k >= 1)):
            message = (
                f"temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: must be at least 0, "
                "at least 1 (or none), and in (0, 1]"
            )
            raise UsageError(message)


@dataclass(frozen=True)
class Progress:
    """How far a training is: for ramps of losses and masks.

    >>> Progress(25, 100).share
    0.25
    """

    step: int
    total: int

    @property
    def share(self) -> float:
        return self.step / self.total if self.total else 0.0


@dataclass(frozen=True, eq=False)
class Stretch:
    """A contiguous stretch of a session's training time in whole bins, for what is fitted and not trained.

    Args:
        columns: by input, the columns that have one row a bin, as ``counts`` ``[T, N]``.
        target: by task, ``[T, C]`` normalised. weight: by task, ``[T]``; 0 where nothing was measured or observed.
        trial_bin: int64, the bins in which trials begin, of those that begin in it. trial_columns: of these trials.
    """

    columns: Mapping[str, Mapping[str, np.ndarray]]
    target: Mapping[str, np.ndarray]
    weight: Mapping[str, np.ndarray]
    trial_bin: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    trial_columns: Mapping[str, np.ndarray] = field(default_factory=dict)


def exposure_of(columns: Mapping[str, Tensor]) -> Tensor | None:
    """float32 ``[T, N]`` or ``[T, 1]``: the share of each bin that was recorded; None where tokens do not carry it."""
    share = columns.get("unit_exposure", columns.get("exposure"))
    return share if share is None or share.ndim == 2 else share[:, None]


def whole_counts(columns: Mapping[str, Tensor]) -> Tensor:
    """``[T, N]``: counts as of whole bins: over the share that was recorded, where tokens carry it (float32 then).

    Args:
        columns: of tokens by ``binned``, of torch or numpy.
    """
    share = exposure_of(columns)
    return columns["counts"] if share is None else columns["counts"] / (share + (share == 0))


def observed_counts(columns: Mapping[str, Tensor]) -> Tensor:
    """``[T, N]``: :func:`whole_counts`, with 0 where nothing was observed: a bin that was recorded in part has some.

    Args:
        columns: of tokens by ``binned``.

    >>> observed_counts({"counts": torch.tensor([[3, 1], [2, 2]]), "observed": torch.tensor([1, 0])})
    tensor([[3, 1],
            [0, 0]])
    """
    return whole_counts(columns) * (columns.get("unit_observed", columns["observed"][:, None]) > 0)


def mean_counts(stretches: Sequence[Stretch], name: str) -> np.ndarray:
    """float64 ``[N]``: spikes a bin of each unit in the observed bins, above 0: half a spike and one bin are added.

    A bin that was recorded in part counts by its share, where tokens carry it.

    Args:
        name: of the input.
    """
    spikes, bins = 0.5, 1.0  # one half: a unit without a spike has a rate too
    for stretch in stretches:
        columns = stretch.columns[name]
        seen = columns.get("unit_observed", columns["observed"][:, None]) > 0
        share = exposure_of(columns)
        bins = bins + (seen.sum(0) if share is None else (seen * share).sum(0, dtype=np.float64))
        spikes = spikes + (columns["counts"] * seen).sum(0)
    return np.asarray(spikes / bins)


# ---- what a model gets ----------------------------------------------------------------------------------------------


@dataclass
class Tokens:
    """Tokens of B windows (or S sessions) by one scheme.

    Packed layout (the default): columns are ``[L_total, *item]``, window b is ``offset[b]:offset[b + 1]``.
    Padded layout: columns are ``[B, L, *item]`` and ``valid_BL`` says what is real.

    Args:
        columns: per-spike: ``time`` float32 seconds from the window's start, ``unit`` int32 rows of the model's table,
            ``type`` uint8. binned: ``counts`` uint8 ``[B*T, N]``, ``observed`` uint8 ``[B*T]``, and ``unit_observed``
            uint8 ``[B*T, N]`` where units were not all recorded at the same times. Others: ``spiketok schemes NAME``.
        offset: int64 ``[B + 1]``; None in the padded layout.
        valid_BL: bool ``[B, L]``; None in the packed layout.
    """

    columns: dict[str, Tensor]
    offset: Tensor | None = None
    valid_BL: Tensor | None = None

    def packed(self) -> tuple[dict[str, Tensor], list[int]]:
        """The columns as ``[L_total, *item]`` and the number of tokens in each window, for either layout."""
        if self.offset is not None:
            return self.columns, self.offset.diff().tolist()
        return {name: c[self.valid_BL] for name, c in self.columns.items()}, self.valid_BL.sum(1).tolist()


@dataclass
class Asked:
    """What one task asks of the windows of a batch. Queries are packed by ``offset``.

    Args:
        time: float32 ``[Q]`` seconds from the window's start; offset: int64 ``[B + 1]``.
        ns: int64 ``[Q]`` session time (on the host, numpy): what predictions are stitched by.
        target: float32 ``[Q, C]``, normalised, 0 where not valid; int64 ``[Q]`` for classes; counts ``[Q, N]`` for
            counts, one query a bin; int64 ``[Q]`` from 1 for sequences, one query a label, in their order.
        weight: float32 ``[Q]``, 0 where nothing is to be learned or scored; for counts bool ``[Q, N]``.
        span: float32 ``[B]``, for sequences: the seconds of each window, from its start, in which the sequence lies.
        exposure: for counts float32 ``[Q, N]`` or ``[Q, 1]``, the share of each bin that was recorded; None for all of
            each. Rates that a model puts out are of whole bins.
    """

    time: Tensor
    offset: Tensor
    ns: np.ndarray
    target: Tensor
    weight: Tensor
    span: Tensor | None = None
    exposure: Tensor | None = None

    def exposed(self, log_rate: Tensor) -> Tensor:
        """ln of expected spikes in the recorded share of each bin, of rates of whole bins ``[Q, N]``."""
        if self.exposure is None:
            return log_rate
        return log_rate + (self.exposure + (self.exposure == 0)).log()


class Facts:
    """What is known of sessions, by id.

    No Mapping: Fabric's mixed precision walks through those, and refuses a frozen dataclass in them.

    >>> Facts()["made/a"]
    Traceback (most recent call last):
    KeyError: 'made/a'
    """

    def __init__(self, infos: Mapping[str, SessionInfo] | None = None) -> None:
        self._infos = dict(infos or {})

    def __getitem__(self, session: str) -> SessionInfo:
        return self._infos[session]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


@dataclass
class Batch:
    """B windows of one length, from one or several sessions.

    Args:
        inputs: by name, tokens of the windows.
        session_inputs: by name, for each session of ``present`` its tokens, cut once from its calibration time (one
            window in the packed layout, possibly without a token).
        window_ns: the windows' length.
        session_B: int64 ``[B]``, rows of the model's session table.
        sessions: the session id of each window.
        start_ns: int64 ``[B]``, the window's start in session time (on the host, numpy).
        asked: by task. A session that lacks a task's truth has no query in it.
        hidden: by input, bool in the shape of its counts ``[B*T, N]``: what the model must not see, and must predict
            (held-out units, forward bins, hidden bins). Absent where nothing is hidden.
        present: the different sessions of the batch, in the order of their first window.
        present_B: int64 ``[B]``, each window's position in ``present``.
        facts: by session id, its units with their columns (region, group, channel, held_out).
        mode: in a pass of an evaluation, how what is hidden was chosen (a word of ``task.population.modes``), for
            models that are told it. Empty in training and in every other evaluation.
        given: names of the tasks whose truth a model may read as an input in an evaluation: behaviour from which rates
            are predicted. In training a model may read all of it, and hides itself what it then predicts.
    """

    inputs: dict[str, Tokens]
    window_ns: int
    session_B: Tensor
    sessions: list[str]
    start_ns: np.ndarray
    asked: dict[str, Asked] = field(default_factory=dict)
    hidden: dict[str, Tensor] = field(default_factory=dict)
    session_inputs: dict[str, list[Tokens]] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    present_B: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    facts: Facts = field(default_factory=Facts)
    mode: str = ""
    given: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sessions)

    def tokens(self) -> Tokens:
        """The tokens of a model that reads one input a window.

        Raises:
            DataError: there are several.
        """
        if len(self.inputs) != 1:
            message = f"the batch has inputs {', '.join(self.inputs) or 'none'}, expected one"
            raise DataError(message)
        return next(iter(self.inputs.values()))

    def one_session(self, model: str) -> str:
        """The session of a batch that may hold only one.

        Raises:
            DataError: it holds several; ``model`` names who cannot read it.
        """
        if len(set(self.sessions)) > 1:
            held = ", ".join(sorted(set(self.sessions)))
            message = f"{model} reads batches of one session, this one holds {held}"
            raise DataError(message)
        return self.sessions[0]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; on the same device, the batch itself with its reused buffers."""
        return _changed(self, lambda tensor: tensor.to(device))

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, as ``DataLoader(pin_memory=True)`` asks for it."""
        return _changed(self, torch.Tensor.pin_memory)

    def clone(self) -> Batch:
        """A copy in memory of its own, which stays valid when the loader goes on."""
        copied = _changed(self, torch.clone)
        for asked in copied.asked.values():
            asked.ns = asked.ns.copy()
        return copied


def _changed(value, change: Callable[[Tensor], Tensor]):
    """The same nouns with ``change`` applied to each tensor in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _changed(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    if isinstance(value, Tokens | Asked | Batch):
        return replace(value, **{f.name: _changed(getattr(value, f.name), change) for f in fields(value)})
    return value


def query_bin(batch: Batch, asked: Asked, bins_per_window: int) -> Tensor:
    """int64 ``[Q]``: for each query the row, in packed bins, of the bin that holds it (exact, in integer ns).

    Raises:
        DataError: the window is no whole number of bins, or a query lies outside its window.
    """
    if bins_per_window < 1 or batch.window_ns % bins_per_window:
        message = f"a window of {batch.window_ns} ns does not divide into {bins_per_window} bins"
        raise DataError(message)
    window = np.repeat(np.arange(len(batch)), np.diff(asked.offset.cpu().numpy()))
    index = (asked.ns - batch.start_ns[window]) // (batch.window_ns // bins_per_window)
    outside = np.flatnonzero((index < 0) | (index >= bins_per_window))
    if outside.size:
        row = outside[0]
        session, start = batch.sessions[window[row]], batch.start_ns[window[row]]
        window_text = f"its window {start}..{start + batch.window_ns} ns"
        message = f"{session}: a query at {asked.ns[row]} ns is not in {window_text}"
        raise DataError(message)
    return torch.from_numpy(window * bins_per_window + index).to(asked.target.device)


def bins_of(length: Sequence[int]) -> int:
    """Bins of each window of a batch of windows of one length.

    Raises:
        DataError: they differ.
    """
    if len(set(length)) > 1:
        message = f"the windows of a batch have {min(length)} to {max(length)} bins, expected the same number"
        raise DataError(message)
    return length[0]
