"""The contract of a task: one kind of question, from its truth in a session to its score.

What is unusual:

- a task knows no model and a model no task: they meet in a :class:`~spiketok.models.batch.Head` (what to put out), in
  ``batch.asked`` (where, and what is right) and in ``batch.hidden`` (what must not be seen);
- its state (a normalisation, a list of classes, held-out units) is set once, by :meth:`Task.fit` on training time, and
  is stored with the checkpoint;
- a session without a task's truth takes part all the same, with no query in it.

Shape letters: B windows, Q query times, C components, T samples or bins, N units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Head, Input, Timing
from spiketok.recording.leakage import Reach
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes.base import Windows
from spiketok.training.sampling import Sampler, SessionTokens, SessionWindows

# Numbers by metric, None where one does not exist, with words under "reasons" where it is not plain why; dicts of
# numbers by component, class or unit.
Score = dict[str, object]
MISSING = ("", "nan", "None", "NaN")  # words that say that a trial or a unit has no label


class Buffers(Protocol):
    """Memory that a batch reuses."""

    def array(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        """An array of this shape, with whatever was in it before."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What is asked in one session: values at their own times, or (no times) on bins.

    Args:
        time_ns: int64 ``[T]``; no rows for bins.
        value: float32 ``[T, C]``. weight: float32 ``[T]``, 0 where nothing was measured.
        bin_ns: length of the bins. bin_row: int64 ``[G + 1]``, the first bin of each segment.
    """

    time_ns: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    bin_ns: int = 1
    bin_row: np.ndarray | None = None

    def rows(self, windows: Windows, segments: Intervals) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[b]`` twice: the rows of the values that lie in each window."""
        if self.bin_row is not None:
            segment = windows.segment
            low = self.bin_row[segment] + (windows.start_ns - segments.start_ns[segment]) // self.bin_ns
            return low, low + windows.length_ns // self.bin_ns
        from spiketok.tokens.schemes.kernels import batches as kernels

        low, high = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
        kernels.sample_rows(self.time_ns, windows.start_ns, windows.length_ns, low, high)
        return low, high


@dataclass(frozen=True, eq=False)
class Group:
    """The windows of one session in a batch: rows ``rows`` of it.

    Args:
        keep: bool ``[b, N]``, the units that unit dropout leaves in each window; None for all.
    """

    session: SessionTokens
    rows: slice
    windows: Windows
    truth: Truth | None
    keep: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """One of several times that windows are scored, each with other things hidden.

    Args:
        hide: what is hidden, in the task's own words.
        mode: as ``Batch.mode`` has it; empty where the pass is the task's score itself and no mode beside it.
        given: names of the tasks whose truth the model may read; they are asked in the batch too.
    """

    hide: object
    mode: str = ""
    given: tuple[str, ...] = ()


class Task(ABC):
    """One question that a run asks, of one kind.

    Class attributes:
        kind: the word on the command line. Config: a frozen dataclass of its settings (``--set task.KIND.KEY=VALUE``).
        like: a built-in kind that is answered in the same way: a model that serves that one serves this one too; empty
            for none.
        labelled: whether its truth is a label, which unlabelled calibration does not show.
        metrics: names of the numbers of its score, the headline first; higher is better in all of them.
        titles: the metrics' names in a report.
        whole_windows: whether a window of it is answered as a whole, with or without queries.

    Args:
        about: what stands behind the colon, as a signal's name; empty for none. config: its settings.
    """

    kind: ClassVar[str]
    like: ClassVar[str] = ""
    Config: ClassVar[type]
    labelled: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]]
    titles: ClassVar[Mapping[str, str]]
    whole_windows: ClassVar[bool] = False

    def __init__(self, about: str, config) -> None:
        self.about, self.config = about, config

    @property
    def name(self) -> str:
        """Names it in batches, losses and reports: ``"decode:hand_vel"``."""
        return f"{self.kind}:{self.about}" if self.about else self.kind

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name})"

    # ---- what it is in these sessions -----------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config) -> Task:
        """The task for these sessions; chooses what ``about`` leaves open.

        Raises:
            DataError: the sessions cannot serve it, or there is more than one choice; the message says the remedy.
        """

    @classmethod
    def has(cls, about: str, session: SessionTokens) -> bool:
        """Whether a session has what a question of this kind asks; of several questions each may be of some sessions.

        Args:
            about: what stands behind the colon; empty where it is left open.
        """
        return True

    @classmethod
    def inputs(cls, timing: Timing) -> dict[str, Input]:
        """The tokens that its truth is made of; none where it is a signal or a column of trials."""
        return {}

    @abstractmethod
    def why_not(self, session: SessionTokens) -> str:
        """Why a session has nothing to ask; empty where it has."""

    @abstractmethod
    def usable(self, session: SessionTokens) -> Intervals:
        """The time in which there is something to learn or to score."""

    def reach(self, session: SessionTokens) -> Reach:
        """How far what is asked in a window tells of time outside of it."""
        return Reach()

    @abstractmethod
    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """Set what training time says (a normalisation), from sessions and the training time of each.

        Raises:
            DataError: nothing can be learned from that time.
        """

    @abstractmethod
    def head(self) -> Head:
        """What a model must put out; after :meth:`fit`.

        A task of ``"values"`` has its normalisation as ``target`` (``decode.TargetSpec``), and its answers are
        ``decode.Prediction``: the floor, adaptation and the report read both.
        """

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def truth(self, session: SessionTokens) -> Truth | None:
        """What the loader looks up once a session; None where the session has no values to ask.

        Where the session's tokens have bins, continuous values are asked on them.
        """
        return None

    def normalised(self, value: np.ndarray) -> np.ndarray:
        """Values of the truth as they stand in batches, float32 ``[T, C]``."""
        return value

    @abstractmethod
    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        """Put ``batch.asked[name]``, and ``batch.hidden`` where something is hidden in every batch."""

    def sampler(
        self, windows: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool
    ) -> Sampler | None:
        """Which windows are met, where any window will not do: from each trial's start, or in pairs; None by default.

        Args:
            windows: where windows of the sessions may lie. training: whether they are for training, shuffled and drawn
                by ``seed``; else for a score, in order.
        """
        return None

    def passes(self, session: SessionTokens, others: Sequence[str] = ()) -> Sequence[Pass]:
        """The passes over the evaluated windows that are made for this task alone; none by default.

        A task is also scored beside all others, in one walk over the windows, unless a pass of its own mode (``""``)
        stands for that.

        Args:
            others: names of the tasks with labels that are asked in the session too.
        """
        return ()

    def hide(self, batch: Batch, session: SessionTokens, of: Pass) -> Batch:
        """The windows of a batch as one of :meth:`passes` shows and asks them; tokens are shared with ``batch``.

        Args:
            batch: windows of this session, with what :meth:`ask` put into it; it is not changed.
        """
        message = f"{self.name} has no passes"
        raise NotImplementedError(message)

    # ---- scores ---------------------------------------------------------------------------------------------------

    def row_spans(self, session: SessionTokens, time_ns: np.ndarray) -> Intervals | None:
        """The time that rows of its answer stand for; None where what was asked is of whole windows.

        Args:
            time_ns: int64 ``[T]``, of an answer.
        """
        return None

    @abstractmethod
    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        """What gathers the predictions of a session, of the walk beside other tasks and of the passes alike.

        Args:
            others: as :meth:`passes` has them.
        """

    # ---- state ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def to_dict(self) -> dict[str, object]:
        """What :meth:`fit` set, JSON-able."""

    @classmethod
    @abstractmethod
    def from_dict(cls, facts: Mapping[str, object], config) -> Task:
        """The inverse of :meth:`to_dict`."""


def own_sampler(
    tasks: Sequence[Task], windows: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool
) -> Sampler | None:
    """The windows of the one task that has windows of its own; None where any window will do.

    Raises:
        UsageError: several tasks have, or one has and others need any window.
    """
    found = [(task, task.sampler(windows, window_ns, seed=seed, training=training)) for task in tasks]
    own = [(task, sampler) for task, sampler in found if sampler is not None]
    if not own:
        return None
    if len(found) > 1:
        others = ", ".join(task.name for task in tasks if task is not own[0][0])
        message = f"{own[0][0].name} has windows of its own: train it in a run without {others}"
        raise UsageError(message)
    return own[0][1]


def number(value: float) -> float | None:
    """A score as JSON has it: None where it does not exist."""
    return float(value) if np.isfinite(value) else None


def reason_lines(scores: Mapping[str, Score]) -> list[str]:
    """Why sessions have no score of a metric, each reason once with its sessions.

    >>> reason_lines({"made/a": {"unit_bps": None, "reasons": {"unit_bps": "it has one unit"}}})
    ['no unit_bps of made/a: it has one unit']
    """
    lacking: dict[tuple[str, str], list[str]] = {}
    for session, score in scores.items():
        for metric, why in score.get("reasons", {}).items():
            lacking.setdefault((metric, why), []).append(session)
    return [f"no {metric} of {', '.join(ids)}: {why}" for (metric, why), ids in lacking.items()]


class Answer(ABC):
    """Stitched predictions of one task in one session.

    Attributes:
        time_ns: int64 ``[T]``, rising.
    """

    time_ns: np.ndarray

    @abstractmethod
    def score(self) -> Score:
        """The task's metrics and ``n_samples``; None where one does not exist."""

    @property
    def scored(self) -> np.ndarray:
        """bool ``[T]``: the rows that have a truth."""
        weight = self.arrays()["weight"] > 0
        return weight.any(axis=tuple(range(1, weight.ndim)))

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """``time_ns``, ``prediction``, ``target`` and ``weight``, as they are scored, for ``--save-predictions``."""


class Collector(ABC):
    """Gathers the predictions of overlapping windows."""

    @abstractmethod
    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        """Take what a model said of a batch.

        Args:
            used: bool ``[Q]``, the queries that count (causal stitching); None for all.
        """

    @abstractmethod
    def answer(self) -> Answer:
        """The mean of all predictions at each time."""


# ---- values at times ------------------------------------------------------------------------------------------------


def ask_values(
    name: str,
    groups: Sequence[Group],
    batch: Batch,
    buffers: Buffers,
    mean: np.ndarray,
    std: np.ndarray,
    as_label: bool = False,
) -> None:
    """Queries of all windows with the normalised values there; zero and weight zero where nothing was measured.

    Args:
        mean, std: float64 ``[C]``. as_label: the one component is a class, and the target int64 ``[Q]``.
    """
    from spiketok.tokens.schemes.kernels import batches as kernels

    offset = buffers.array(f"{name}.offset", (len(batch) + 1,), np.int64)
    offset[:] = 0
    asked = [(group, *group.truth.rows(group.windows, group.session.segments)) for group in groups if group.truth]
    for group, low, high in asked:
        offset[group.rows.start + 1 : group.rows.stop + 1] = high - low
    np.cumsum(offset, out=offset)
    total = int(offset[-1])
    time, ns = buffers.array(f"{name}.time", (total,), np.float32), buffers.array(f"{name}.ns", (total,), np.int64)
    target = buffers.array(f"{name}.target", (total, len(mean)), np.float32)
    weight = buffers.array(f"{name}.weight", (total,), np.float32)
    for group, low, high in asked:
        truth, windows = group.truth, group.windows
        kernels.fill_queries(
            truth.time_ns, truth.bin_ns, truth.value, truth.weight, low, high, windows.start_ns, mean, std,
            offset[group.rows], time, ns, target, weight,
        )  # fmt: skip
    tensor = torch.from_numpy(target)
    batch.asked[name] = Asked(
        time=torch.from_numpy(time),
        offset=torch.from_numpy(offset),
        ns=ns,
        target=tensor[:, 0].long() if as_label else tensor,
        weight=torch.from_numpy(weight),
    )


class Stitch(Collector):
    """Means of ``[Q, C]`` predictions at identical times; what is true is the same in every window."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.parts: list[tuple[np.ndarray, ...]] = []

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        asked, said = batch.asked[self.task], self.say(output[self.task]).cpu().double().numpy()
        made = slice(None) if used is None else used
        target, weight = asked.target.cpu().double().numpy(), asked.weight.cpu().numpy()
        self.parts.append((np.array(asked.ns)[made], said[made], target[made], np.array(weight)[made]))

    def say(self, output: torch.Tensor) -> torch.Tensor:
        """What is averaged of a model's output."""
        return output

    def stitched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """time ``[T]``, prediction ``[T, C]``, target, weight and the number of windows ``[T]``.

        Raises:
            DataError: nothing was predicted.
        """
        if not self.parts or not sum(len(part[0]) for part in self.parts):
            message = f"no prediction of {self.task} was made: no query lies in the evaluated windows"
            raise DataError(message)
        time_ns, said, target, weight = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        unique_ns, first, inverse, count = np.unique(
            time_ns, return_index=True, return_inverse=True, return_counts=True
        )
        total = np.zeros((len(unique_ns), said.shape[1]))
        np.add.at(total, inverse, said)
        return unique_ns, total / count[:, None], target[first], weight[first], count


# ---- the time that rows stand for -----------------------------------------------------------------------------------


def bin_spans(middle_ns: np.ndarray, bin_ns: int) -> Intervals:
    """Bins by their middles."""
    start = middle_ns - bin_ns // 2
    return Intervals(start, start + bin_ns)


def sample_spans(stamp_ns: np.ndarray, time_ns: np.ndarray) -> Intervals:
    """From each of some samples to the next one of its signal; where that lies far, for the usual period.

    Args:
        stamp_ns: int64 ``[T]``, all stamps of the signal, rising. time_ns: some of them.
    """
    step = np.diff(stamp_ns)
    period = int(np.median(step)) if step.size else 0
    length = np.append(np.where(2 * step <= 3 * period, step, period), period)
    length = length[np.searchsorted(stamp_ns, time_ns)]
    return Intervals(time_ns, time_ns + length)
