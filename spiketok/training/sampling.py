"""Which windows are met, in which order, and with which units: samplers, numpy only.

    SessionTokens      one session's shards, by the names of the inputs that read them
    SessionWindows     where windows of one session may lie: allowed time, inside segments, inside observed time
    RandomWindows      jittered anew each epoch, shuffled, sessions weighted: for training
    SequentialWindows  one behind the other with a last one flush with the end: for evaluation
    TrialWindows       one a trial segment
    UnitDropout        how many units a training window keeps

Everything random is a pure function of (seed, epoch, position), on any machine. Nothing is left out silently:
``dropped`` says what time no window can use, and why.

Shape letters: B windows in a batch, I intervals, N units, W windows in an epoch.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from functools import cached_property

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording.leakage import Reach, inner
from spiketok.recording.nouns import Intervals, SessionInfo, Signal
from spiketok.tokens.reach import scheme_reach, signal_reach
from spiketok.tokens.schemes.base import Windows, grid_rows
from spiketok.tokens.schemes.behaviour import signal_on_bins
from spiketok.tokens.shards import ShardReader
from spiketok.training.vectors import VECTORS, SessionVectors


def listing(names: Sequence[str], most: int = 6) -> str:
    """Names for a message: the first few, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def dropped_words(dropped: Mapping[str, int]) -> str:
    """What no window uses, for people: ``"0.3 s split border, 2 short intervals"``; empty where all is used."""
    parts = [
        f"{value / 1e9:.1f} s {reason.removesuffix('_ns').replace('_', ' ')}" if reason.endswith("_ns")
        else f"{value} {reason.replace('_', ' ')}"
        for reason, value in dropped.items()
        if value
    ]  # fmt: skip
    return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Once:
    """A shard of which tokens are cut once a session: those inside its calibration time, ``most`` of them at most.

    Args:
        choose: which of them: the ``"first"``; or a ``"block"`` of neighbours, drawn for each batch of a training.
    """

    reader: ShardReader
    most: int | None = None
    choose: str = "first"


@dataclass(frozen=True, eq=False)
class SessionTokens:
    """One session's shards, by the names of the inputs that read them.

    Args:
        windowed: shards of which windows are cut; of the same segments, at least one.
        once: shards of which tokens are cut once a session.
        facts: what the store's index says of the session; empty where there is no store.
        made: by name, behaviours beside those of the shards: the signal, and how many ns before and after its time a
            sample depends on.
        vectors: of its units, where the run reads some.

    Raises:
        UsageError: there is no windowed shard, or shards are of different sessions or segments.
    """

    windowed: Mapping[str, ShardReader]
    once: Mapping[str, Once] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    made: Mapping[str, tuple[Signal, tuple[int, int]]] = field(default_factory=dict)
    vectors: SessionVectors | None = None

    def __post_init__(self) -> None:
        readers = [*self.windowed.values(), *(o.reader for o in self.once.values())]
        if not self.windowed:
            message = "a session needs at least one input that is cut for each window"
            raise UsageError(message)
        for other in readers[1:]:
            same = other.info.id == readers[0].info.id and all(
                np.array_equal(getattr(other.segments, edge), getattr(readers[0].segments, edge))
                for edge in ("start_ns", "stop_ns")
            )
            if not same:
                message = (
                    f"{readers[0].path} and {other.path} are of different sessions or segments: tokenize both with the "
                    "same --segments"
                )
                raise UsageError(message)

    @property
    def reader(self) -> ShardReader:
        """The first windowed shard: it speaks for what all shards of a session share."""
        return next(iter(self.windowed.values()))

    @property
    def readers(self) -> list[ShardReader]:
        """Every different shard, once."""
        found = [*self.windowed.values(), *(o.reader for o in self.once.values())]
        return list({id(r): r for r in found}.values())

    @cached_property
    def info(self) -> SessionInfo:
        if not self.made:
            return self.reader.info
        made = {name: (signal.components, signal.measure) for name, (signal, _) in self.made.items()}
        return replace(self.reader.info, signals={**self.reader.info.signals, **made})

    @property
    def id(self) -> str:
        return self.reader.info.id

    @property
    def segments(self) -> Intervals:
        return self.reader.segments

    @cached_property
    def observed(self) -> Intervals:
        """Observed time; of bins that carry their share, those of which any was recorded."""
        shares = next((reader.columns for reader in self.windowed.values() if "exposure" in reader.columns), None)
        if shares is None:
            return self.reader.observed
        first_ns = self.bin_middle_ns - self.bin_ns // 2
        first_ns = first_ns[np.asarray(shares["observed"]) > 0]
        return Intervals(first_ns, first_ns + self.bin_ns).union()

    @property
    def splits(self) -> Intervals:
        return self.reader.splits

    @property
    def trials(self) -> Intervals:
        return self.reader.trials

    def signal(self, name: str) -> Signal:
        return self.made[name][0] if name in self.made else self.reader.signal(name)

    def signal_reach_ns(self, name: str) -> tuple[int, int]:
        return self.made[name][1] if name in self.made else self.reader.signal_reach_ns(name)

    @cached_property
    def grid_ns(self) -> int:
        """Windows start on multiples of this, counted from their segment's start."""
        return math.lcm(*(r.scheme.grid_ns for r in self.windowed.values()))

    @property
    def length_grid_ns(self) -> int:
        """Windows are a multiple of this long."""
        return math.lcm(*(r.scheme.length_grid_ns for r in self.windowed.values()))

    @cached_property
    def bin_row(self) -> np.ndarray:
        """int64 ``[G + 1]``: the first bin (of ``bin_ns``) of each segment."""
        return grid_rows(self.segments.start_ns, self.segments.stop_ns, self.bin_ns)

    @cached_property
    def bin_ns(self) -> int:
        """The bins on which continuous values are asked: the coarsest of the windowed shards'; 1 without bins."""
        return max(r.scheme.grid_ns for r in self.windowed.values())

    @cached_property
    def bin_middle_ns(self) -> np.ndarray:
        """int64 ``[T]``: the middle of each bin."""
        segment = np.repeat(np.arange(len(self.segments)), np.diff(self.bin_row))
        index = np.arange(len(segment)) - self.bin_row[segment]
        return self.segments.start_ns[segment] + index * self.bin_ns + self.bin_ns // 2

    def bin_signal(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A behaviour on the bins: float32 ``[T, C]``, and uint8 ``[T]``, 0 where it was not measured."""
        kept = self.__dict__.setdefault("_bin_signals", {})
        if name not in kept:
            kept[name] = signal_on_bins(self.signal(name), self.segments, self.bin_ns)
        return kept[name]

    @cached_property
    def reach(self) -> Reach:
        """How far the tokens of a window tell of time outside of it: histories, and behaviours among the tokens."""
        reach = Reach()
        for reader in self.windowed.values():
            reach |= scheme_reach(reader.scheme)
            for name in reader.scheme.signals_read:
                if name in reader.info.signals:
                    period_ns = reader.signal(name).period_ns
                    reach |= signal_reach(name, reader.signal_reach_ns(name), period_ns, reader.scheme.grid_ns)
        return reach

    @property
    def once_names(self) -> list[str]:
        """The inputs of the session."""
        return [*self.once, *([VECTORS] if self.vectors is not None else [])]

    def cut_once(self, name: str, calibration: Intervals) -> dict[str, np.ndarray]:
        """The tokens of an input of the session that lie wholly inside calibration time, in order of time."""
        if name == VECTORS and self.vectors is not None:
            return self.vectors.columns(calibration)
        reader, parts = self.once[name].reader, []
        start_grid_ns, grid_ns, segments = reader.scheme.grid_ns, reader.scheme.length_grid_ns, reader.segments
        for g in range(len(segments)):
            low, high = int(segments.start_ns[g]), int(segments.stop_ns[g])
            inside = calibration.intersect(Intervals([low], [high]))
            for start, stop in zip(inside.start_ns.tolist(), inside.stop_ns.tolist(), strict=True):
                first = low - (low - start) // start_grid_ns * start_grid_ns
                length = (stop - first) // grid_ns * grid_ns
                if length > 0:
                    windows = Windows(np.array([g]), np.array([first]), length)
                    parts.append(reader.scheme.cut(reader.columns, windows).columns)
        items = reader.scheme.outputs(reader.columns, grid_ns)
        empty = {column: np.zeros((0, *item), dtype) for column, (dtype, item) in items.items()}
        return {c: np.concatenate([empty[c], *(part[c] for part in parts)]) for c in items}


class SessionWindows:
    """Where windows of one session may lie: allowed, inside one segment, inside observed time, on the scheme's grid.

    Args:
        tokens: the session's shards; a single shard stands for itself.
        allowed: a split, or any other time that may be used.
        reach: how far windows reach beyond their ends; that of the shards' tokens by default.
        within: the time in which a window must stay with its whole reach: a split's territory (see
            ``spiketok.recording.leakage``); what is allowed by default.

    Attributes:
        segment, start_ns, stop_ns: int64 ``[I]``, the usable intervals by segment and time; they start and end on the
            grid counted from their segment's start. No window crosses from one into another.
    """

    def __init__(
        self,
        tokens: SessionTokens | ShardReader,
        allowed: Intervals,
        *,
        reach: Reach | None = None,
        within: Intervals | None = None,
    ) -> None:
        self.tokens = tokens if isinstance(tokens, SessionTokens) else SessionTokens({"tokens": tokens})
        self.allowed, self.id = allowed, self.tokens.id
        self.reach = self.tokens.reach if reach is None else reach
        self.grid_ns, self.segments = self.tokens.grid_ns, self.tokens.segments
        segments, grid_ns = self.segments, self.grid_ns
        observed = allowed.intersect(self.tokens.observed)
        usable = observed.intersect(inner((allowed if within is None else within).union(), self.reach))
        low = np.searchsorted(usable.stop_ns, segments.start_ns, side="right")
        high = np.searchsorted(usable.start_ns, segments.stop_ns, side="left")
        count = np.maximum(high - low, 0)
        segment = np.repeat(np.arange(len(segments)), count)
        row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
        origin = segments.start_ns[segment]
        start = np.maximum(usable.start_ns[row], origin)
        stop = np.minimum(usable.stop_ns[row], segments.stop_ns[segment])
        first = origin - (origin - start) // grid_ns * grid_ns  # up to the grid
        last = origin + (stop - origin) // grid_ns * grid_ns  # down to the grid
        kept = last > first
        self.segment, self.start_ns, self.stop_ns = segment[kept], first[kept], last[kept]
        self._observed, self._usable = observed, usable
        self._off_grid_ns = int((stop - start).sum()) - self.total_ns

    def __repr__(self) -> str:
        return f"SessionWindows({self.id}, {len(self.start_ns)} intervals, {self.total_ns / 1e9:.3f} s)"

    @property
    def total_ns(self) -> int:
        return int((self.stop_ns - self.start_ns).sum())

    @cached_property
    def dropped(self) -> dict[str, int]:
        """Allowed time that no window can use: ``unobserved_ns``, ``split_border_ns`` (windows there would reach over
        the border), ``outside_segments_ns``, ``off_grid_ns``.
        """
        observed_ns, usable_ns = self._observed.total_ns, self._usable.total_ns
        return {
            "unobserved_ns": self.allowed.union().total_ns - observed_ns,
            "split_border_ns": observed_ns - usable_ns,
            "outside_segments_ns": usable_ns - self._usable.intersect(self.segments).total_ns,
            "off_grid_ns": self._off_grid_ns,
        }


@dataclass(frozen=True, eq=False)
class WindowPlan:
    """The windows of one epoch, in the order in which they are met.

    Args:
        session: int64 ``[W]``, position in the sampler's sessions. segment, start_ns: int64 ``[W]``.
    """

    session: np.ndarray
    segment: np.ndarray
    start_ns: np.ndarray

    def __len__(self) -> int:
        return len(self.start_ns)

    def take(self, rows: np.ndarray | slice) -> WindowPlan:
        return WindowPlan(self.session[rows], self.segment[rows], self.start_ns[rows])


class Stream(IntEnum):
    """What a random generator is for: the first word of its key, so that no two uses share a stream."""

    JITTER = 0
    SHARE = 1
    SHUFFLE = 2
    BATCH_ORDER = 3
    UNITS = 4
    CALIBRATION = 5
    PAIR = 6
    CURRICULUM = 7


def generator(stream: Stream, *key: int) -> np.random.Generator:
    """A generator that is a pure function of its stream and key (whole numbers from 0)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((stream, *key))))


class Sampler(ABC):
    """Which windows are met and in which order: its sessions, checked, a plan an epoch, and the count of what it drops.

    Class attributes:
        shuffled: the order is drawn anew in each epoch.
        together: so many windows, one behind the other in the plan and of one session, stay next to each other.
    """

    shuffled = False
    together = 1

    def __init__(self, sessions: Sequence[SessionWindows], window_ns: int) -> None:
        self.sessions, self.window_ns = list(sessions), int(window_ns)
        if not self.sessions:
            message = "a sampler needs at least one session"
            raise UsageError(message)
        count = Counter(s.id for s in self.sessions)
        twice = next((session for session, times in count.items() if times > 1), None)
        if twice is not None:
            message = f"session {twice} is given twice: put its allowed time into one SessionWindows"
            raise UsageError(message)
        self._check_grid("window_ns", self.window_ns)

    def _check_grid(self, name: str, value_ns: int) -> None:
        for session in self.sessions:
            grid_ns = session.grid_ns
            if value_ns <= 0 or value_ns % grid_ns:
                message = (
                    f"{name} is {value_ns} ns, must be a positive multiple of the {grid_ns} ns grid of {session.id} "
                    f"({', '.join(str(r.scheme) for r in session.tokens.windowed.values())})"
                )
                raise UsageError(message)

    @abstractmethod
    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch: a pure function of (seed, epoch) and of the sessions."""

    @property
    def dropped(self) -> dict[str, int]:
        """Time that no window uses, by reason, summed over sessions."""
        total: dict[str, int] = {}
        for session in self.sessions:
            length = session.stop_ns - session.start_ns
            short = length < self.window_ns
            facts = session.dropped | {"short_intervals": int(short.sum()), "short_ns": int(length[short].sum())}
            for reason, value in facts.items():
                total[reason] = total.get(reason, 0) + value
        return total

    def describe(self) -> dict[str, object]:
        """What must be the same for a resumed run to meet the same windows."""
        return {"sampler": type(self).__name__, "window_ns": self.window_ns}


class RandomWindows(Sampler):
    """Windows at random places, new ones each epoch, shuffled over all sessions.

    In each usable interval the first window starts at an offset drawn from one window length (on the scheme's grid),
    and the others follow without gap or overlap. An interval always gives ``length // window`` windows: where the
    offset leaves room for one less, another stands flush with the interval's start or end, whichever has more room (as
    in torch_brain's sampler; it can overlap its neighbour). So every epoch has the same number of windows.

    Args:
        sessions: where windows may lie.
        window_ns: their length, a multiple of the scheme's grid.
        seed: a whole number from 0.
        weights: windows an epoch relative to one pass over the session, by session id, 1 where not named: 2 gives two
            passes with different jitter, 0.5 a random half of one.
    """

    shuffled = True

    def __init__(
        self,
        sessions: Sequence[SessionWindows],
        window_ns: int,
        *,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(sessions, window_ns)
        self.seed, self.weights = int(seed), dict(weights or {})
        known = {session.id: None for session in self.sessions}
        for name, weight in self.weights.items():
            if name not in known or not 0 <= weight < np.inf:
                message = f"session weight {weight} for '{name}': must be a number from 0 for one of {', '.join(known)}"
                raise UsageError(message)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"sampler_seed": self.seed, "weights": self.weights}

    def plan(self, epoch: int) -> WindowPlan:
        """The windows of an epoch: a pure function of (seed, epoch) and of the sessions."""
        parts = [self._session(k, epoch, wanted) for k, wanted in enumerate(self.wanted(epoch))]
        whole = WindowPlan(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(WindowPlan)))
        return whole.take(generator(Stream.SHUFFLE, self.seed, epoch).permutation(len(whole)))

    def wanted(self, epoch: int) -> list[int]:
        """How many windows an epoch has of each session."""
        length = ((s.id, int(((s.stop_ns - s.start_ns) // self.window_ns).sum())) for s in self.sessions)
        return [round(self.weights.get(session, 1.0) * of_pass) for session, of_pass in length]

    def _session(self, k: int, epoch: int, wanted: int) -> WindowPlan:
        session = self.sessions[k]
        each = (session.stop_ns - session.start_ns) // self.window_ns
        of_pass = int(each.sum())
        key = (self.seed, epoch, zlib.crc32(session.id.encode()))
        if wanted == of_pass > 0:  # most sessions, of which there may be thousands
            segment, start = self._pass(session, each, generator(Stream.JITTER, *key, 0))
            return WindowPlan(np.full(of_pass, k), segment, start)
        segment, start, n, turn = [], [], 0, 0
        while n < wanted:
            own_segment, own_start = self._pass(session, each, generator(Stream.JITTER, *key, turn))
            if n + len(own_start) > wanted:
                chosen = generator(Stream.SHARE, *key, turn).permutation(len(own_start))[: wanted - n]
                own_segment, own_start = own_segment[chosen], own_start[chosen]
            segment.append(own_segment)
            start.append(own_start)
            n += len(own_start)
            turn += 1
        empty = np.zeros(0, np.int64)
        return WindowPlan(np.full(n, k), np.concatenate([empty, *segment]), np.concatenate([empty, *start]))

    def _pass(
        self, session: SessionWindows, each: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Segment and start of the windows of one pass over a session, in order of interval; ``each`` of them."""
        window_ns, grid_ns = self.window_ns, session.grid_ns
        length = session.stop_ns - session.start_ns
        offset = random.integers(0, window_ns // grid_ns, size=len(length)) * grid_ns
        follow = np.maximum(length - offset, 0) // window_ns  # windows that follow the offset: `each`, or one less
        interval = np.repeat(np.arange(len(length)), each)
        rank = np.arange(len(interval)) - np.repeat(np.cumsum(each) - each, each)
        start = session.start_ns[interval] + offset[interval] + rank * window_ns
        flush = rank >= follow[interval]
        right = length - offset - follow * window_ns
        at_end = (right > offset)[interval]
        flush_start = np.where(at_end, session.stop_ns[interval] - window_ns, session.start_ns[interval])
        return session.segment[interval], np.where(flush, flush_start, start)


class SequentialWindows(Sampler):
    """Windows one behind the other, by session, segment and time, and a last one flush with each interval's end.

    Args:
        step_ns: from one window's start to the next, a multiple of the scheme's grid; one window length by default.
    """

    def __init__(self, sessions: Sequence[SessionWindows], window_ns: int, *, step_ns: int | None = None) -> None:
        super().__init__(sessions, window_ns)
        self.step_ns = self.window_ns if step_ns is None else int(step_ns)
        self._check_grid("step_ns", self.step_ns)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"step_ns": self.step_ns}

    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch; the same in every one."""
        session_of, segment, start = [], [], []
        for k, session in enumerate(self.sessions):
            room = session.stop_ns - session.start_ns - self.window_ns
            each = np.where(room >= 0, -(-room // self.step_ns) + 1, 0)
            interval = np.repeat(np.arange(len(room)), each)
            rank = np.arange(len(interval)) - np.repeat(np.cumsum(each) - each, each)
            session_of.append(np.full(len(interval), k))
            segment.append(session.segment[interval])
            start.append(session.start_ns[interval] + np.minimum(rank * self.step_ns, room[interval]))
        return WindowPlan(np.concatenate(session_of), np.concatenate(segment), np.concatenate(start))


class TrialWindows(Sampler):
    """One window for each segment (trial), from its start. A segment that is not wholly usable is dropped and counted.

    Args:
        window_ns: the length; by default that of the segments, which must then all be of one length (down to the grid).
        shuffle: a new order in each epoch.
        seed: of the order.

    Raises:
        DataError: no length was given and the segments are of different lengths.
    """

    def __init__(
        self, sessions: Sequence[SessionWindows], window_ns: int | None = None, *, shuffle: bool = False, seed: int = 0
    ) -> None:
        super().__init__(sessions, self._common_length(sessions) if window_ns is None else window_ns)
        self.shuffled, self.seed = shuffle, int(seed)

    @staticmethod
    def _common_length(sessions: Sequence[SessionWindows]) -> int:
        lengths: set[int] = set()
        for session in sessions:
            segments, grid_ns = session.segments, session.grid_ns
            lengths.update(np.unique((segments.stop_ns - segments.start_ns) // grid_ns * grid_ns).tolist())
        if len(lengths) != 1:
            found = f"{min(lengths)} to {max(lengths)} ns" if lengths else "none"
            message = (
                f"trial windows need segments of one length, found {found}: tokenize with --segments "
                "trials:ALIGN,PRE_MS,POST_MS, or give a window length"
            )
            raise DataError(message)
        return lengths.pop()

    @property
    def dropped(self) -> dict[str, int]:
        total = super().dropped
        segments = sum(len(session.segments) for session in self.sessions)
        return total | {"trials": segments - len(self.plan(0))}

    def describe(self) -> dict[str, object]:
        return super().describe() | {"shuffle": self.shuffled, "sampler_seed": self.seed}

    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch: a pure function of (seed, epoch) and of the sessions."""
        session_of, segment, start = [], [], []
        for k, session in enumerate(self.sessions):
            origin = session.segments.start_ns[session.segment]
            whole = (session.start_ns == origin) & (session.stop_ns - origin >= self.window_ns)
            session_of.append(np.full(int(whole.sum()), k))
            segment.append(session.segment[whole])
            start.append(origin[whole])
        plan = WindowPlan(np.concatenate(session_of), np.concatenate(segment), np.concatenate(start))
        if self.shuffled:
            plan = plan.take(generator(Stream.SHUFFLE, self.seed, epoch).permutation(len(plan)))
        return plan


# ---- unit dropout ---------------------------------------------------------------------------------------------------
