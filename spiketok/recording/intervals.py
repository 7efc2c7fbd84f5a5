"""The arithmetic of intervals: what is left of time, what is grown, where samples are.

Integers of ns, numpy only. A gap in a signal has one definition here (``GAP_PERIODS``).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Intervals, Signal

GAP_PERIODS = 3  # valid samples further apart than this many sampling periods have a gap between them
# Where the source does not say what was observed, emptiness that is longer than this was not: no recorded population,
# with its trials and behaviours, is silent for ten minutes, and pauses in which nothing is kept are rarely as long.
EMPTY_NS = 600 * NS_PER_S


# ---- measures -------------------------------------------------------------------------------------------------------


def ns_of(seconds: float | np.ndarray) -> np.ndarray:
    """Seconds to the nearest ns, as int64."""
    return np.rint(np.asarray(seconds, np.float64) * NS_PER_S).astype(np.int64)


def seconds(intervals: Intervals) -> float:
    """The intervals' total length in seconds, for people and reports."""
    return intervals.union().total_ns / NS_PER_S


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def without(time: Intervals, gone: Intervals) -> Intervals:
    """The time of the first that is not in the second, as sorted disjoint intervals; columns are left out."""
    whole, gone = time.union(), gone.union()
    if not len(whole):
        return whole
    low, high = whole.start_ns[0], whole.stop_ns[-1]
    # The gaps of what is gone, from the first instant to the last: what remains is what lies in one of them.
    inside = (gone.stop_ns > low) & (gone.start_ns < high)
    start = np.concatenate([[low], gone.stop_ns[inside]])
    stop = np.concatenate([gone.start_ns[inside], [high]])
    real = start < stop
    return whole.intersect(Intervals(start[real], stop[real]))


def grown(intervals: Intervals, by_ns: int) -> Intervals:
    """Each interval longer by ``by_ns`` at both ends, as sorted disjoint intervals."""
    return Intervals(intervals.start_ns - by_ns, intervals.stop_ns + by_ns).union()


def longer_than(intervals: Intervals, least_ns: int) -> Intervals:
    """The intervals that last longer than ``least_ns``; columns are left out."""
    keep = intervals.stop_ns - intervals.start_ns > least_ns
    return Intervals(intervals.start_ns[keep], intervals.stop_ns[keep])


def first_of(intervals: Intervals, length_ns: int) -> Intervals:
    """The first ``length_ns`` of the intervals' time; less where they are shorter."""
    whole = intervals.union()
    before = np.concatenate([[0], np.cumsum(whole.stop_ns - whole.start_ns)[:-1]]).astype(np.int64)
    stop = np.minimum(whole.stop_ns, whole.start_ns + (length_ns - before))
    keep = stop > whole.start_ns
    return Intervals(whole.start_ns[keep], stop[keep])


def inhabited(start_ns: int, stop_ns: int, moments: Iterable[np.ndarray], spans: Iterable[Intervals] = ()) -> Intervals:
    """An extent without its stretches longer than ``EMPTY_NS`` in which nothing lies; whole where it has none.

    Args:
        start_ns, stop_ns: the extent.
        moments: int64, each sorted: times of spikes, of samples. spans: as trials, which fill the time that they last.

    >>> hour = 3600 * NS_PER_S
    >>> found = inhabited(0, 2 * hour, [np.array([0, NS_PER_S, hour])])
    >>> found.start_ns.tolist(), found.stop_ns.tolist()
    ([0, 3600000000000], [1000000001, 3600000000001])
    """
    starts, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for time_ns in moments:
        own = time_ns[np.searchsorted(time_ns, start_ns) : np.searchsorted(time_ns, stop_ns)]
        last = np.flatnonzero(np.diff(own) > EMPTY_NS)
        starts += [own[:1], own[last + 1]]
        stops += [own[last] + 1, own[-1:] + 1]
    for span in spans:
        touching = (span.stop_ns >= start_ns) & (span.start_ns < stop_ns)
        starts.append(np.maximum(span.start_ns[touching], start_ns))
        stops.append(np.clip(span.stop_ns[touching], starts[-1] + 1, stop_ns))
    start, stop = np.concatenate(starts), np.concatenate(stops)
    if not start.size:
        return Intervals([start_ns], [stop_ns])
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(stop[order])
    divides = start[1:] - reach[:-1] > EMPTY_NS
    first, last = start[np.concatenate([[True], divides])], reach[np.concatenate([divides, [True]])]
    first[0] = start_ns if first[0] - start_ns <= EMPTY_NS else first[0]
    last[-1] = stop_ns if stop_ns - last[-1] <= EMPTY_NS else last[-1]
    return Intervals(first, last)


# ---- of samples -----------------------------------------------------------------------------------------------------


def labelled_intervals(signal: Signal) -> Intervals:
    """Where a signal was measured: stretches of valid samples with no gap over ``GAP_PERIODS`` sampling periods.

    A stretch ends one period after its last sample. Invalid samples inside short gaps carry no weight in a batch.
    """
    time_ns, period_ns = signal.time_ns[signal.valid], signal.period_ns
    if time_ns.size == 0 or period_ns == 0:
        return Intervals.empty()
    last = np.flatnonzero(np.diff(time_ns) > GAP_PERIODS * period_ns)
    first = np.concatenate([[0], last + 1])
    last = np.concatenate([last, [time_ns.size - 1]])
    return Intervals(time_ns[first], time_ns[last] + period_ns)


def holds(intervals: Intervals, time_ns: np.ndarray) -> np.ndarray:
    """bool ``[T]``: whether one of the intervals holds each time."""
    whole = intervals.union()
    row = np.searchsorted(whole.start_ns, time_ns, side="right") - 1
    inside = row >= 0
    inside[inside] = time_ns[inside] < whole.stop_ns[row[inside]]
    return inside


def values_in(signal: Signal, allowed: Intervals) -> tuple[np.ndarray, np.ndarray]:
    """Times ``[T]`` and values ``[T, C]`` of the valid samples inside ``allowed``."""
    inside = holds(allowed, signal.time_ns) & signal.valid
    return signal.time_ns[inside], signal.value[inside]


def marked_segments(marked: np.ndarray, time_ns: np.ndarray) -> Intervals:
    """Runs of marked samples as torch_brain's pipelines bound them.

    A run begins at the stamp of the sample before its first (at its first where there is none before) and ends at the
    stamp of its last sample, which a half-open interval leaves out: one sample earlier than the samples themselves.

    Args:
        marked: bool ``[T]``. time_ns: int64 ``[T]``.
    """
    if not marked.size:
        return Intervals.empty()
    step = np.diff(marked.astype(np.int8))
    start, stop = time_ns[:-1][step == 1], time_ns[:-1][step == -1]
    if marked[0]:
        start = np.concatenate([time_ns[:1], start])
    if marked[-1]:
        stop = np.concatenate([stop, time_ns[-1:]])
    real = start < stop
    return Intervals(start[real], stop[real])
