"""The arithmetic of intervals: what is left of time, what is grown, where samples are.

Integers of ns, numpy only. A gap in a signal has one definition here (``GAP_PERIODS``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Intervals, Signal

GAP_PERIODS = 3  # valid samples further apart than this many sampling periods have a gap between them
# Where the source does not say what was observed, emptiness that is longer than both of these was not: no recorded
# population, with its trials and behaviours, is silent for a minute if it usually fires thirty times in one.
EMPTY_NS = 60 * NS_PER_S
EMPTY_TIMES = 30  # usual intervals between spikes
LEAST_ROWS = 5  # a table with fewer has no usual row
TOUCHING_NS = NS_PER_S // 1000  # where one row begins so near to another's stop, the first ends there
STRAY_NS = NS_PER_S  # what lies alone for less than this is no recording of its own


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


def touching(rows: Intervals, time: Intervals) -> np.ndarray:
    """bool ``[I]``: which rows share time with the other intervals.

    >>> touching(Intervals([0, 5, 9], [3, 6, 10]), Intervals([2, 9], [4, 20])).tolist()
    [True, False, True]
    """
    whole = time.union()
    later = np.searchsorted(whole.stop_ns, rows.start_ns, side="right")  # the first that ends after a row begins
    return np.append(whole.start_ns, np.iinfo(np.int64).max)[later] < np.maximum(rows.stop_ns, rows.start_ns + 1)


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


def inhabited(moments: Sequence[np.ndarray], spans: Iterable[Intervals] = ()) -> Intervals:
    """The stretches of time in which something lies, each from its first to its last.

    Two things lie together where no emptiness longer than ``EMPTY_NS`` is between them, nor longer than ``EMPTY_TIMES``
    the usual interval of the first ``moments``: so a few units that fire once a minute are no row of stretches. What
    lies alone, in a stretch shorter than ``STRAY_NS``, is left out where there is any other; so is a stretch without
    any of the first ``moments`` where another has some: that trials or a behaviour lie there, on a clock of their own
    or hours before, says nothing of the units.

    Args:
        moments: int64, each sorted: times of spikes, of samples; those of the spikes first. spans: as trials, which
            fill the time that they last.

    Returns:
        sorted disjoint intervals; none where nothing lies anywhere.

    >>> hour = 3600 * NS_PER_S
    >>> found = inhabited([np.array([hour, hour + NS_PER_S, 3 * hour])])
    >>> found.start_ns.tolist(), found.stop_ns.tolist()
    ([3600000000000], [3601000000001])
    """
    most_ns = max([EMPTY_NS, *(EMPTY_TIMES * _usual_interval_ns(time_ns) for time_ns in moments[:1])])
    starts, stops = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for time_ns in moments:
        last = np.flatnonzero(np.diff(time_ns) > most_ns)
        starts += [time_ns[:1], time_ns[last + 1]]
        stops += [time_ns[last] + 1, time_ns[-1:] + 1]
    for span in spans:
        starts.append(span.start_ns)
        stops.append(np.maximum(span.stop_ns, span.start_ns + 1))
    start, stop = np.concatenate(starts), np.concatenate(stops)
    if not start.size:
        return Intervals.empty()
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(stop[order])
    divides = start[1:] - reach[:-1] > most_ns
    first, last = start[np.concatenate([[True], divides])], reach[np.concatenate([divides, [True]])]
    lasting = last - first >= STRAY_NS
    if lasting.any():
        first, last = first[lasting], last[lasting]
    spikes = moments[0] if moments else np.zeros(0, np.int64)
    spiking = np.searchsorted(spikes, last) > np.searchsorted(spikes, first)
    if spiking.any():
        first, last = first[spiking], last[spiking]
    return Intervals(first, last)


def as_far_as_usual(rows: Intervals) -> Intervals:
    """The rows of a table; of one that lasts far longer than usual, and over ``EMPTY_NS``, its two ends alone.

    A start or a stop that is a filler (0, 9999) makes a row of hours: that row is no sign that anything was observed.
    One that ends where the next begins, with none beginning in it, is as it should be: a pause that is a trial.

    >>> minute = 60 * NS_PER_S
    >>> starts = [k * minute for k in range(5)]
    >>> rows = Intervals(starts, [*(start + NS_PER_S for start in starts[:4]), 1000 * minute])
    >>> as_far_as_usual(rows).total_ns == 4 * NS_PER_S
    True
    """
    lasts_ns = rows.stop_ns - rows.start_ns
    if len(rows) < LEAST_ROWS:
        return rows
    long = lasts_ns > max(EMPTY_NS, EMPTY_TIMES * int(np.median(lasts_ns)))
    starts = np.sort(rows.start_ns)
    following = np.searchsorted(starts, rows.start_ns, side="right")
    apart_ns = np.append(starts, 2**62)[following] - rows.stop_ns
    long &= np.abs(apart_ns) > TOUCHING_NS
    if not long.any():
        return rows
    ends = rows.stop_ns[long]
    start_ns, stop_ns = np.concatenate([rows.start_ns, ends]), np.concatenate([rows.stop_ns, ends])
    stop_ns[: len(rows)][long] = rows.start_ns[long]
    order = np.argsort(start_ns, kind="stable")
    return Intervals(start_ns[order], stop_ns[order])


def from_whole_second(intervals: Intervals) -> Intervals:
    """The intervals, the first one from the whole second before: bins that divide a second stand on the clock's own.

    One that begins before time zero stays.
    """
    start_ns = intervals.start_ns.copy()
    start_ns[:1] -= np.maximum(start_ns[:1], 0) % NS_PER_S
    return Intervals(start_ns, intervals.stop_ns)


def _usual_interval_ns(time_ns: np.ndarray) -> int:
    """The mean interval of the middle half of sorted times, which neither a late one nor an early one changes."""
    low, high = time_ns.size // 4, 3 * time_ns.size // 4
    return int(time_ns[high] - time_ns[low]) // (high - low) if high > low else 0


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
