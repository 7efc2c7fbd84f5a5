"""Which windows of a session are cut, of which split each is, and the counts in their bins.

What is unusual: a window belongs to the split that holds the time to which it is aligned, and is left out where it
touches the time of another split, a window of one, or time that was not observed: no bin that is trained on is scored,
and no zero stands for what nobody saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, Spikes
from spiketok.recording.segments import parse_trial_rule, resolve_segments
from spiketok.recording.splits import SplitRule, divide_session


@dataclass(frozen=True)
class Windows:
    """How a session is cut into windows of one length.

    Args:
        bin_ms: width of a bin.
        segments: ``"trials:ALIGN,PRE_MS,POST_MS"``; without it and ``window_ms`` each trial is a window.
        window_ms: windows of this length, one after the other, through the time of each split.
        forward_ms: time after each window whose counts are in arrays of their own.
        held_out: share of units that are held out, where the session has no unit column ``held_out``.
        seed: of the draw of these.
        behavior: a signal that goes with the windows. split: how the session is divided.
    """

    bin_ms: float = 20.0
    segments: str | None = None
    window_ms: float | None = None
    forward_ms: float = 0.0
    held_out: float = 0.0
    seed: int = 0
    behavior: str | None = None
    split: SplitRule = field(default_factory=SplitRule)

    def __post_init__(self) -> None:
        if not 1e-3 <= self.bin_ms <= 1e7 or not 0 <= self.forward_ms <= 1e7 or not 0 <= self.held_out < 1:
            message = "bin_ms must be from 0.001, forward_ms from 0, held_out from 0 to below 1"
            raise UsageError(message)
        if self.segments is not None and self.window_ms is not None:
            message = f"segments={self.segments} and window_ms={self.window_ms:g} both say where windows are: give one"
            raise UsageError(message)


@dataclass(frozen=True, eq=False)
class Cut:
    """Windows of one length.

    Args:
        start_ns: int64 ``[R]``, rising. rows: those of each split. scored: the split that is evaluated.
        n_bins, n_forward, bin_ns: of each window. behavior: the signal that goes with them.
    """

    start_ns: np.ndarray
    rows: Mapping[str, np.ndarray]
    scored: str
    n_bins: int
    n_forward: int
    bin_ns: int
    behavior: str | None

    def intervals(self, start_ns: np.ndarray) -> Intervals:
        return Intervals(start_ns, start_ns + self.n_bins * self.bin_ns)


def cut_windows(session: Session, settings: Windows) -> tuple[Cut, list[str]]:
    """The windows of a session, and what was left out, one sentence each.

    Raises:
        DataError: it has no spikes, its trials have no one length, or a split has no window.
        UsageError: a length is no whole number of bins.
    """
    if not len(session.spikes):
        message = f"{session.id}: has no spikes to count (its units were imaged): export it --to nwb"
        raise DataError(message)
    splits = divide_session(session, settings.split)
    bin_ns, n_forward = round(settings.bin_ms * NS_PER_MS), _bins(settings.forward_ms, settings, "forward_ms")
    remarks: list[str] = []
    if settings.window_ms is not None:
        n_bins = _bins(settings.window_ms, settings, "window_ms")
        start_ns = _tiled(session, splits, n_bins * bin_ns, n_forward * bin_ns)
        aligned_ns = start_ns
    elif settings.segments is not None:
        _, pre_ns, post_ns = parse_trial_rule(settings.segments)
        n_bins = _bins((pre_ns + post_ns) / NS_PER_MS, settings, f"the length of segments={settings.segments}")
        start_ns = np.sort(resolve_segments(session, settings.segments).start_ns)
        aligned_ns = start_ns + pre_ns
        lost = len(session.trials) - start_ns.size
        remarks += [f"{lost} trials have no usable time to align to"] if lost else []
    else:
        n_bins, start_ns = _whole_trials(session, bin_ns)
        aligned_ns = start_ns
    if n_bins < 1:
        message = f"{session.id}: windows are shorter than a bin of {settings.bin_ms:g} ms: take a smaller bin_ms"
        raise DataError(message)
    stop_ns = start_ns + (n_bins + n_forward) * bin_ns
    rows, why = _by_split(session, splits, start_ns, stop_ns, aligned_ns)
    scored = "valid" if rows["valid"].size else "test"
    for name in ("train", scored):
        if not rows[name].size:
            left = "; ".join(why) or "there are none"
            message = (
                f"{session.id}: no window of {start_ns.size} lies in {name} ({left}): divide it otherwise "
                "(--set split.kind=trial), or take other windows"
            )
            raise DataError(message)
    remarks += why
    if scored == "test":
        remarks.append("the session has no valid time: what is evaluated is its test split")
    remarks += _of_unit_times(session, start_ns, stop_ns, np.concatenate(list(rows.values())))
    return Cut(start_ns, rows, scored, n_bins, n_forward, bin_ns, settings.behavior), remarks


def _bins(length_ms: float, settings: Windows, what: str) -> int:
    """A length as a whole number of bins; UsageError where it is none."""
    n_bins, over = divmod(round(length_ms * NS_PER_MS), round(settings.bin_ms * NS_PER_MS))
    if over:
        message = f"{what} is {length_ms:g} ms, no whole number of bins of {settings.bin_ms:g} ms"
        raise UsageError(message)
    return n_bins


def _whole_trials(session: Session, bin_ns: int) -> tuple[int, np.ndarray]:
    """Bins of a trial, and the starts of all; DataError where trials last unequal numbers of bins."""
    trials = session.trials
    if trials is None or not len(trials):
        message = f"{session.id}: has no trials: cut windows by --set window_ms=1000"
        raise DataError(message)
    n_bins = (trials.stop_ns - trials.start_ns) // bin_ns
    low, high = int(n_bins.min()), int(n_bins.max())
    if low != high:
        lasts_s = (trials.stop_ns - trials.start_ns) / NS_PER_S
        message = (
            f"{session.id}: its {len(trials)} trials last {lasts_s.min():.3f} to {lasts_s.max():.3f} s, {low} to "
            f"{high} bins, and windows have one length: --set segments=trials:start,0,MS or --set window_ms=MS"
        )
        raise DataError(message)
    return low, np.sort(trials.start_ns)


def _tiled(session: Session, splits: Mapping[str, Intervals], length_ns: int, ahead_ns: int) -> np.ndarray:
    """Starts of windows, one after the other from the start of each observed stretch of each split."""
    starts = [np.zeros(0, np.int64)]
    for split in splits.values():
        part = split.intersect(session.observed)
        for start, stop in zip(part.start_ns.tolist(), part.stop_ns.tolist(), strict=True):
            starts.append(start + length_ns * np.arange(max(0, (stop - start - ahead_ns) // max(1, length_ns))))
    return np.sort(np.concatenate(starts))


def _by_split(
    session: Session, splits: Mapping[str, Intervals], start_ns: np.ndarray, stop_ns: np.ndarray, aligned_ns: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The rows of each split; and of those that are in none, how many and why."""
    parts = {name: splits.get(name, Intervals.empty()).union() for name in ("train", "valid", "test")}
    seen = _touching(session.observed, start_ns, stop_ns, whole=True)
    held = {name: _touching(part, aligned_ns, aligned_ns + 1, whole=True) for name, part in parts.items()}
    touched = {name: _touching(part, start_ns, stop_ns, whole=False) for name, part in parts.items()}
    other = {name: np.any([touched[o] for o in parts if o != name], axis=0) for name in parts}
    chosen = {name: held[name] & ~other[name] & seen for name in parts}
    shared, taken = np.zeros(start_ns.size, np.bool_), Intervals.empty()
    for name in ("test", "valid", "train"):  # between two splits' time their windows may meet: what is scored stays
        meets = chosen[name] & _touching(taken, start_ns, stop_ns, whole=False)
        chosen[name] &= ~meets
        shared |= meets
        own = chosen[name]
        taken = Intervals(np.append(taken.start_ns, start_ns[own]), np.append(taken.stop_ns, stop_ns[own])).union()
    rows = {name: np.flatnonzero(marked) for name, marked in chosen.items()}
    nowhere = ~np.any(list(held.values()), axis=0)
    both = np.any([held[name] & other[name] for name in parts], axis=0)
    facts = (
        (nowhere, "lie in no split"),
        (both, "touch the time of another split"),
        (~seen & ~nowhere & ~both, "reach into time that was not observed"),
        (shared, "share time with a window of another split"),
    )
    return rows, [f"left out: {int(mark.sum())} windows that {text}" for mark, text in facts if mark.any()]


def _touching(intervals: Intervals, start_ns: np.ndarray, stop_ns: np.ndarray, *, whole: bool) -> np.ndarray:
    """bool ``[R]``: whether ``[start, stop)`` lies wholly in one of the intervals, or touches any of them."""
    part = intervals.union()
    if not len(part):
        return np.zeros(start_ns.size, np.bool_)
    if whole:
        row = np.searchsorted(part.start_ns, start_ns, side="right") - 1
        return (row >= 0) & (stop_ns <= part.stop_ns[np.maximum(row, 0)])
    row = np.searchsorted(part.stop_ns, start_ns, side="right")  # the first that ends after the start
    return (row < len(part)) & (part.start_ns[np.minimum(row, len(part) - 1)] < stop_ns)


def _of_unit_times(session: Session, start_ns: np.ndarray, stop_ns: np.ndarray, rows: np.ndarray) -> list[str]:
    if session.unit_observed is None:
        return []
    n_pairs = 0
    for unit in range(len(session.units)):
        own = session.unit_observed[unit]
        n_pairs += int((~_touching(Intervals(own[:, 0], own[:, 1]), start_ns[rows], stop_ns[rows], whole=True)).sum())
    text = (
        f"{n_pairs} of {rows.size * len(session.units)} pairs of window and unit were not observed: counts are 0 there"
    )
    return [text] if n_pairs else []


def held_out_units(session: Session, settings: Windows) -> np.ndarray:
    """bool ``[N]``: the units that are held out: as the column ``held_out`` says, else a share drawn by seed."""
    column = session.units.columns.get("held_out")
    if isinstance(column, np.ndarray) and column.dtype == np.bool_ and column.ndim == 1:
        if settings.held_out:
            message = f"{session.id}: its units say themselves which are held out: leave held_out out"
            raise UsageError(message)
        return column
    out = np.zeros(len(session.units), np.bool_)
    n_out = round(settings.held_out * out.size)
    out[np.random.default_rng(settings.seed).permutation(out.size)[:n_out]] = True
    return out


def counts(
    spikes: Spikes, start_ns: np.ndarray, n_bins: int, bin_ns: int, units: np.ndarray, n_units: int
) -> np.ndarray:
    """Spikes in half-open bins from each start, float32 ``[R, T, U]``.

    Args:
        spikes: of the session. start_ns: int64 ``[R]``. n_bins, bin_ns: of each window.
        units: rows of the unit table, in the order in which they stand. n_units: rows of that table.
    """
    place = np.full(n_units, -1)
    place[units] = np.arange(units.size)
    out = np.zeros((start_ns.size, n_bins * units.size), np.float32)
    low, high = np.searchsorted(spikes.time_ns, [start_ns, start_ns + n_bins * bin_ns])
    for row in range(start_ns.size):
        own = slice(low[row], high[row])
        column = place[spikes.unit[own]]
        cell = (spikes.time_ns[own] - start_ns[row]) // bin_ns * units.size + column
        out[row] = np.bincount(cell[column >= 0], minlength=n_bins * units.size)
    return out.reshape(start_ns.size, n_bins, units.size)
