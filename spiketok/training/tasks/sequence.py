"""Sequence: what was written or said in each trial, as symbols in their order without times (CTC).

What is unusual:

- windows are the task's own: one from each trial's start (the first step of the grid in it), as long as the longest
  trial or longer; ``asked.span`` says how much of a window is the trial. What lies behind is not to be read;
- symbols are the characters of a trial column, or its words (``task.sequence.separator``); their list is that of
  training time. A trial with another symbol is not trained on, and it is scored: the model must miss that symbol;
- errors are counted by torchmetrics' edit distance, over all trials of a session together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from spiketok.errors import DataError, UsageError, require
from spiketok.models.batch import Asked, Batch, Head
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import Intervals
from spiketok.training.sampling import Sampler, SessionTokens, SessionWindows, Stream, WindowPlan, generator, listing
from spiketok.training.tasks.base import MISSING, Answer, Buffers, Collector, Group, Score, Task, Truth
from spiketok.training.tasks.sequence_paths import best_path, prefix_beam

BLANK_WORD = "<blank>"
MOST_SYMBOLS = 1000
ROUND_NS = 10_000_000  # a window that is proposed is a multiple of this


@dataclass(frozen=True)
class SequenceConfig:
    """What symbols are, and how they are read from a model's frames.

    Args:
        separator: what stands between the words of a trial's text; empty where each character is a symbol.
        decoding: ``"greedy"`` (the likeliest path) or ``"beam"`` (the likeliest labels, by prefix beam search).
        beam_width: beginnings that the search keeps.
    """

    separator: str = ""
    decoding: Literal["greedy", "beam"] = "greedy"
    beam_width: int = 16

    def __post_init__(self) -> None:
        if self.beam_width < 1:
            message = f"task.sequence.beam_width is {self.beam_width}, must be at least 1"
            raise UsageError(message)


@dataclass(frozen=True, eq=False)
class _Trials:
    """The trials with a text, in order of time, and the windows that begin with them.

    Args:
        segment, start_ns: int64 ``[n]``, of the windows. stop_ns: int64 ``[n]``, of the trials. symbols: of each.
    """

    segment: np.ndarray
    start_ns: np.ndarray
    stop_ns: np.ndarray
    symbols: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def longest_ns(self) -> int:
        return int((self.stop_ns - self.start_ns).max(initial=0))


class SequenceTask(Task):
    """The text in one column of the trials."""

    kind: ClassVar[str] = "sequence"
    Config: ClassVar[type] = SequenceConfig
    metrics: ClassVar[tuple[str, ...]] = ("symbol_accuracy", "word_accuracy")
    whole_windows: ClassVar[bool] = True
    titles: ClassVar[Mapping[str, str]] = {"symbol_accuracy": "1 - symbol errors", "word_accuracy": "1 - word errors"}

    def __init__(self, about: str, config: SequenceConfig, symbols: tuple[str, ...] = ()) -> None:
        super().__init__(about, config)
        self.symbols = symbols

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: SequenceConfig) -> SequenceTask:
        """``about`` is the column's name; it may be left out where the trials have but one."""
        columns = {s.id: set(s.trials.columns) for s in sessions}
        if not about:
            shared = sorted(set.intersection(*columns.values()))
            if len(shared) != 1:
                held = f" ({', '.join(shared)})" if shared else ""
                message = (
                    f"{'no' if not shared else 'more than one'} trial column can be a sequence{held}: "
                    "choose by --task sequence:COLUMN"
                )
                raise DataError(message)
            about = shared[0]
        lacking = [s for s, names in columns.items() if about not in names]
        if lacking:
            known = ", ".join(sorted(set().union(*columns.values()))) or "none"
            message = (
                f"{listing(lacking)} has no trial column '{about}' of text (there are {known}): "
                "choose by --task sequence:COLUMN, or sessions by --sessions GLOB"
            )
            raise DataError(message)
        return cls(about, config)

    def why_not(self, session: SessionTokens) -> str:
        if self.about in session.trials.columns:
            return ""
        return f"it has no trial column '{self.about}' (it has {', '.join(session.trials.columns) or 'none'})"

    def usable(self, session: SessionTokens) -> Intervals:
        """From the first trial with a text to where a window of the last one ends, if it is as long as the longest."""
        trials = self.trials(session)
        if not len(trials):
            return Intervals.empty()
        longest_ns = _whole(trials.longest_ns, math.lcm(session.grid_ns, session.length_grid_ns))
        return Intervals([int(trials.start_ns[0])], [int(trials.start_ns[-1]) + longest_ns])

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """The symbols are those of the trials that begin in training time, sorted."""
        found: set[str] = set()
        for session, allowed in sessions:
            trials = self.trials(session)
            for row in np.flatnonzero(holds(allowed, trials.start_ns)):
                found |= set(trials.symbols[row])
        if not 1 <= len(found) <= MOST_SYMBOLS:
            message = (
                f"'{self.about}' has {len(found)} symbols in the training time, must have 1 to {MOST_SYMBOLS} "
                f"(task.sequence.separator is '{self.config.separator}')"
            )
            raise DataError(message)
        self.symbols = tuple(sorted(found))

    def head(self) -> Head:
        return Head(self.name, self.kind, "sequence", 1 + len(self.symbols), (BLANK_WORD, *self.symbols))

    def trials(self, session: SessionTokens) -> _Trials:
        """The trials with a text, each with its window; one window a step of the grid."""
        table, segments, grid_ns = session.trials, session.segments, session.grid_ns
        symbols = [self._split(text) for text in np.asarray(table.columns[self.about]).astype(str).tolist()]
        segment = np.searchsorted(segments.start_ns, table.start_ns, side="right") - 1
        origin = segments.start_ns[np.maximum(segment, 0)]
        start = origin + -(-(table.start_ns - origin) // grid_ns) * grid_ns
        written = np.array([len(one) > 0 for one in symbols], np.bool_) & (segment >= 0) & (start < table.stop_ns)
        row = np.flatnonzero(written)
        _, first = np.unique(start[row], return_index=True)
        row = row[first]
        return _Trials(segment[row], start[row], table.stop_ns[row], tuple(symbols[k] for k in row))

    def _split(self, text: str) -> tuple[str, ...]:
        """The symbols of a text; none where it says that there is none."""
        if text in MISSING:
            return ()
        return tuple(word for word in text.split(self.config.separator) if word) if self.config.separator else (*text,)

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def truth(self, session: SessionTokens) -> Truth | None:
        """A row for each symbol: the start of its trial's window; its label, and the seconds that the trial takes.

        Labels begin at 1; a symbol that training time does not know has none, and no row.
        """
        if self.why_not(session):
            return None
        trials, label = self.trials(session), {word: k + 1 for k, word in enumerate(self.symbols)}
        row = [(k, label[word]) for k, one in enumerate(trials.symbols) for word in one if word in label]
        of, said = np.array(row, np.int64).reshape(-1, 2).T
        span_s = (trials.stop_ns - trials.start_ns)[of] / 1e9
        return Truth(trials.start_ns[of], np.column_stack([said, span_s]).astype(np.float32), np.ones(len(of), "f4"))

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        low, n = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
        for group in groups:
            if group.truth is not None:
                at = group.truth.time_ns
                low[group.rows] = np.searchsorted(at, group.windows.start_ns, side="left")
                n[group.rows] = np.searchsorted(at, group.windows.start_ns, side="right") - low[group.rows]
        offset = buffers.array(f"{self.name}.offset", (len(batch) + 1,), np.int64)
        offset[0] = 0
        np.cumsum(n, out=offset[1:])
        total = int(offset[-1])
        ns, target = (buffers.array(f"{self.name}.{what}", (total,), np.int64) for what in ("ns", "target"))
        span = buffers.array(f"{self.name}.span", (len(batch),), np.float32)
        span[:] = 0
        for group in groups:
            for b in range(group.rows.start, group.rows.stop):
                value = group.truth.value[low[b] : low[b] + n[b]] if n[b] else np.zeros((0, 2), np.float32)
                rows = slice(offset[b], offset[b + 1])
                target[rows], ns[rows], span[b] = value[:, 0], batch.start_ns[b], value[:, 1].max(initial=0)
        batch.asked[self.name] = Asked(
            time=torch.zeros(total),
            offset=torch.from_numpy(offset),
            ns=ns,
            target=torch.from_numpy(target),
            weight=torch.ones(total),
            span=torch.from_numpy(span),
        )

    def sampler(self, windows: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool) -> Sampler:
        return TrialStarts(self, windows, window_ns, seed=seed, training=training)

    # ---- scores ---------------------------------------------------------------------------------------------------

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Reader(self, session)

    def read(self, log_probability: np.ndarray) -> tuple[str, ...]:
        """The symbols in the frames of a window, ``[F, 1 + symbols]``."""
        if self.config.decoding == "greedy":
            labels = best_path(log_probability)
        else:
            labels = prefix_beam(log_probability, self.config.beam_width)
        return tuple(self.symbols[k - 1] for k in labels)

    def to_dict(self) -> dict[str, object]:
        return {"column": self.about, "symbols": list(self.symbols)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: SequenceConfig) -> SequenceTask:
        return cls(str(facts["column"]), config, tuple(facts["symbols"]))


def _whole(length_ns: int, grid_ns: int) -> int:
    """A length up to the next whole step of a grid."""
    return -(-length_ns // grid_ns) * grid_ns


class TrialStarts(Sampler):
    """One window from the start of each trial with a text, where it fits; shuffled anew each epoch in training.

    Raises:
        DataError: a trial is longer than the window, or no trial has room for its window.
    """

    def __init__(
        self, task: SequenceTask, sessions: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool
    ) -> None:
        super().__init__(sessions, window_ns)
        self.task, self.shuffled, self.seed = task, training, int(seed)
        self._no_room, self._unknown = 0, 0
        parts = [self._windows(k, session) for k, session in enumerate(self.sessions)]
        self._windows_of_all = WindowPlan(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("session", "segment", "start_ns"))
        )
        if not len(self._windows_of_all):
            message = (
                f"{listing([s.id for s in self.sessions])}: no trial with '{task.about}' has its window of "
                f"{window_ns / 1e6:g} ms in the {'training' if training else 'scored'} time "
                f"({self._no_room} have no room, {self._unknown} a symbol that was not trained on): "
                "use a shorter data.window_ms, split.kind=block, or other shares by --set split.train=... and so on"
            )
            raise DataError(message)

    def _windows(self, k: int, session: SessionWindows) -> WindowPlan:
        trials = self.task.trials(session.tokens)
        if trials.longest_ns > self.window_ns:
            grid_ns = math.lcm(session.grid_ns, session.tokens.length_grid_ns, ROUND_NS)
            message = (
                f"{session.id}: its longest trial with '{self.task.about}' takes {trials.longest_ns / 1e6:g} ms and "
                f"data.window_ms is {self.window_ns / 1e6:g}: train with --set "
                f"data.window_ms={_whole(trials.longest_ns, grid_ns) / 1e6:g}"
            )
            raise DataError(message)
        fits = np.zeros(len(trials), np.bool_)
        for start, stop in zip(session.start_ns.tolist(), session.stop_ns.tolist(), strict=True):
            fits |= (trials.start_ns >= start) & (trials.start_ns + self.window_ns <= stop)
        known = np.array([set(one) <= set(self.task.symbols) for one in trials.symbols], np.bool_)
        known |= not self.shuffled
        inside = holds(session.allowed.union(), trials.start_ns)
        self._no_room += int((inside & ~fits).sum())
        self._unknown += int((fits & ~known).sum())
        row = np.flatnonzero(fits & known)
        return WindowPlan(np.full(len(row), k), trials.segment[row], trials.start_ns[row])

    @property
    def dropped(self) -> dict[str, int]:
        return super().dropped | {"trials_without_room": self._no_room, "trials_of_unknown_symbols": self._unknown}

    def describe(self) -> dict[str, object]:
        return super().describe() | {"sampler_seed": self.seed, "windows": len(self._windows_of_all)}

    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch: a pure function of (seed, epoch) and of the sessions."""
        if not self.shuffled:
            return self._windows_of_all
        order = generator(Stream.SHUFFLE, self.seed, epoch).permutation(len(self._windows_of_all))
        return self._windows_of_all.take(order)


class _Reader(Collector):
    """Reads each window's frames as they come."""

    def __init__(self, task: SequenceTask, session: SessionTokens) -> None:
        self.task, trials = task, task.trials(session)
        self.true = dict(zip(trials.start_ns.tolist(), trials.symbols, strict=True))
        self.said: dict[int, tuple[str, ...]] = {}

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        frames = output[self.task.name].float().log_softmax(-1).cpu().numpy()
        offset = output[f"{self.task.name}.offset"].cpu().tolist()
        if len(offset) != len(batch) + 1 or offset[-1] != len(frames) or not np.isfinite(frames).all():
            message = (
                f"{self.task.name}: the model gave {len(frames)} frames, {int(np.isnan(frames).any(1).sum())} of them "
                f"NaN, and {len(offset)} offsets up to {offset[-1]} for {len(batch)} windows"
            )
            raise DataError(message)
        for b, start in enumerate(batch.start_ns.tolist()):
            self.said[start] = self.task.read(frames[offset[b] : offset[b + 1]])

    def answer(self) -> Read:
        start = sorted(self.said)
        said, true = tuple(self.said[ns] for ns in start), tuple(self.true[ns] for ns in start)
        return Read(np.array(start, np.int64), said, true, self.task.symbols, self.task.config.separator)


@dataclass(frozen=True, eq=False)
class Read(Answer):
    """What was read in the trials of one session, and what stands there.

    Args:
        time_ns: int64 ``[n]``, the start of each window. said, true: the symbols of each.
        symbols: that the model knows. separator: as :class:`SequenceConfig` has it.
    """

    time_ns: np.ndarray
    said: tuple[tuple[str, ...], ...]
    true: tuple[tuple[str, ...], ...]
    symbols: tuple[str, ...]
    separator: str = ""

    def score(self) -> Score:
        """Errors (substituted, left out, put in) over what is true, of all trials together.

        ``symbol_accuracy``: 1 minus the errors of symbols; ``word_accuracy``: 1 - ``wer``. ``cer``: of the characters
        of the text; ``wer``: of its words, which white space divides where symbols are characters.
        """
        ser, cer, wer = (error_rate(part(self.said), part(self.true)) for part in (tuple, self._texts, self._words))
        return {
            "symbol_accuracy": None if ser is None else 1 - ser,
            "word_accuracy": None if wer is None else 1 - wer,
            "cer": cer,
            "wer": wer,
            "n_symbols": sum(len(one) for one in self.true),
            "n_unknown_symbols": sum(word not in self.symbols for one in self.true for word in one),
            "n_samples": len(self.true),
        }

    def _texts(self, read: Sequence[tuple[str, ...]]) -> list[str]:
        return [self.separator.join(one) for one in read]

    def _words(self, read: Sequence[tuple[str, ...]]) -> list[Sequence[str]]:
        return list(read) if self.separator else [text.split() for text in self._texts(read)]

    def arrays(self) -> dict[str, np.ndarray]:
        """``prediction`` and ``target``: int64 labels, trial behind trial, divided by ``<name>_offset`` ``[n + 1]``.

        Labels are those of the task's symbols, from 1; one more than there are for a symbol that it does not know.
        """
        label = {word: k + 1 for k, word in enumerate(self.symbols)}
        found = {"time_ns": self.time_ns, "weight": np.ones(len(self.time_ns), np.float32)}
        for name, read in (("prediction", self.said), ("target", self.true)):
            rows = [label.get(word, len(label) + 1) for one in read for word in one]
            found[name] = np.array(rows, np.int64)
            found[f"{name}_offset"] = np.cumsum([0, *(len(one) for one in read)], dtype=np.int64)
        return found


def error_rate(said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> float | None:
    """Edits that make what is said of what is true, over the length of all that is true; None where that is nothing.

    Args:
        said, true: items of each trial: characters, symbols or words.

    >>> error_rate(["hallo", "you"], ["hello", "you"])
    0.125
    """
    text = require("torchmetrics.functional.text", "train", "scoring a sequence")
    total = sum(len(one) for one in true)
    if total == 0:
        return None
    # the library counts characters: each item is written as one
    code = {
        item: chr(k + 0x10000) for k, item in enumerate(sorted({i for part in (said, true) for o in part for i in o}))
    }
    coded = (["".join(code[item] for item in one) for one in part] for part in (said, true))
    return int(text.edit_distance(*coded, reduction="sum")) / total
