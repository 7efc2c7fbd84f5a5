"""What the schemes with bins share: spikes into bins, and which bins were recorded.

Bins are half-open, anchored at each segment's start and found by whole numbers. A segment's last bin may reach over its
end: it is kept, so that counts sum to the spikes, and it is never observed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.schemes.base import grid_rows

PARTS_PER_THREAD = 4  # more parts than threads, so that a thread that is done early takes another


def count_bins(
    session: Session, segments: Intervals, bin_ns: int, *, threads: int = 1, out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Count a session's spikes in the bins of its segments.

    Args:
        threads: how many work on it; the result is the same for any number.
        out: uint8 ``[T, N]`` that takes the counts; a fresh array costs several times the counting.

    Returns:
        uint8 ``[T, N]``, at most 255; int64 ``[G + 1]``, each segment's first bin; the spikes above 255.
    """
    row = grid_rows(segments.start_ns, segments.stop_ns, bin_ns)
    counts = count_array((int(row[-1]), len(session.units)), out)
    time_ns, unit = session.spikes.time_ns, session.spikes.unit
    saturated = count_between(time_ns, unit, segments.start_ns, segments.stop_ns, row, bin_ns, counts, threads)
    return counts, row, saturated


def count_array(shape: tuple[int, int], out: np.ndarray | None) -> np.ndarray:
    """``out`` if it fits, or a fresh array."""
    if out is None:
        return np.empty(shape, np.uint8)
    if out.dtype != np.uint8 or out.shape != shape or not out.flags.c_contiguous:
        message = f"out is {out.dtype} {out.shape}, must be uint8 {shape}, contiguous: bins by units"
        raise UsageError(message)
    return out


def count_between(
    time_ns: np.ndarray,
    unit: np.ndarray,
    start_ns: np.ndarray,
    stop_ns: np.ndarray,
    row: np.ndarray,
    bin_ns: int,
    counts: np.ndarray,
    threads: int = 1,
) -> int:
    """Write the counts of all bins of the stretches ``start_ns..stop_ns``, whose first bins are ``row``.

    Returns:
        How many spikes found their count at 255.
    """
    from spiketok.tokens.schemes.kernels import counts as kernels

    if type(threads) is not int or threads < 1:
        message = f"threads is {threads!r}, must be a whole number of at least 1"
        raise UsageError(message)
    if threads == 1:
        low, high = np.searchsorted(time_ns, start_ns), np.searchsorted(time_ns, stop_ns)
        pieces = low, high, start_ns, row[:-1], row[1:]
        return int(kernels.count_pieces(time_ns, unit, *pieces, np.int64(bin_ns), counts))
    # the rows are cut at the stretches' borders and into parts; what lies between two cuts is one piece
    parts = np.linspace(0, row[-1], threads * PARTS_PER_THREAD + 1).astype(np.int64)
    cut = np.unique(np.concatenate([row, parts]))
    first, stop = cut[:-1], cut[1:]
    stretch = np.searchsorted(row, first, side="right") - 1
    begin = start_ns[stretch] + (first - row[stretch]) * bin_ns
    low = np.searchsorted(time_ns, begin)
    high = np.searchsorted(time_ns, np.minimum(begin + (stop - first) * bin_ns, stop_ns[stretch]))

    def count(pieces: slice) -> int:
        p = pieces
        return kernels.count_pieces(
            time_ns, unit, low[p], high[p], begin[p], first[p], stop[p], np.int64(bin_ns), counts
        )

    edge = np.searchsorted(first, parts)
    with ThreadPoolExecutor(threads) as pool:
        return int(sum(pool.map(count, [slice(a, b) for a, b in pairwise(edge)])))


def bin_starts(segments: Intervals, row: np.ndarray, bin_ns: int) -> np.ndarray:
    """int64 ``[T]``: the start of each bin of each segment."""
    size = np.diff(row)
    index = np.arange(row[-1]) - np.repeat(row[:-1], size)
    return np.repeat(segments.start_ns, size) + index * bin_ns


def bins_inside(start_ns: np.ndarray, bin_ns: int, covered: Intervals) -> np.ndarray:
    """bool ``[T]``: the bin lies wholly inside one of the sorted, disjoint intervals."""
    if len(covered) == 0:
        return np.zeros(len(start_ns), np.bool_)
    interval = np.searchsorted(covered.start_ns, start_ns, side="right") - 1
    return (interval >= 0) & (start_ns + bin_ns <= covered.stop_ns[np.maximum(interval, 0)])


def shares_inside(start_ns: np.ndarray, stop_ns: np.ndarray, bin_ns: int, covered: Intervals) -> np.ndarray:
    """float32 ``[T]``: the share of each bin of ``bin_ns`` in which one of the sorted, disjoint intervals lies.

    Args:
        start_ns, stop_ns: int64 ``[T]``; what lies behind the stop of a bin, as of one cut short, does not count.
    """
    if len(covered) == 0:
        return np.zeros(len(start_ns), np.float32)
    before = np.concatenate([[0], np.cumsum(covered.stop_ns - covered.start_ns)])

    def covered_until(time_ns: np.ndarray) -> np.ndarray:
        row = np.searchsorted(covered.start_ns, time_ns, side="right") - 1
        at = np.maximum(row, 0)
        own = np.minimum(time_ns, covered.stop_ns[at]) - covered.start_ns[at]
        return np.where(row >= 0, before[at] + own, 0)

    return ((covered_until(stop_ns) - covered_until(start_ns)) / bin_ns).astype(np.float32)


def exposed_bins(session: Session, segments: Intervals, row: np.ndarray, bin_ns: int) -> dict[str, np.ndarray]:
    """Which share of each bin was recorded, and whether any of it was.

    Returns:
        ``observed`` uint8 and ``exposure`` float32 ``[T]``; and ``unit_observed`` uint8 and ``unit_exposure`` float32
        ``[T, N]`` where the session says it for each unit.
    """
    start_ns = bin_starts(segments, row, bin_ns)
    stop_ns = np.minimum(start_ns + bin_ns, np.repeat(segments.stop_ns, np.diff(row)))
    share = shares_inside(start_ns, stop_ns, bin_ns, session.observed)
    columns = {"observed": (share > 0).astype(np.uint8), "exposure": share}
    if session.unit_observed is not None:
        by_unit = np.empty((len(start_ns), len(session.units)), np.float32)
        for unit in range(len(session.units)):
            pairs = session.unit_observed[unit].reshape(-1, 2)
            own = Intervals(pairs[:, 0], pairs[:, 1]).union()
            by_unit[:, unit] = shares_inside(start_ns, stop_ns, bin_ns, own)
        columns |= {"unit_observed": (by_unit > 0).astype(np.uint8), "unit_exposure": by_unit}
    return columns


def observed_bins(session: Session, segments: Intervals, row: np.ndarray, bin_ns: int) -> dict[str, np.ndarray]:
    """Which bins were recorded from their first to their last nanosecond.

    Returns:
        ``observed`` uint8 ``[T]``, and ``unit_observed`` uint8 ``[T, N]`` where the session says it for each unit.
    """
    start_ns = bin_starts(segments, row, bin_ns)
    whole = start_ns + bin_ns <= np.repeat(segments.stop_ns, np.diff(row))
    columns = {"observed": (whole & bins_inside(start_ns, bin_ns, session.observed)).astype(np.uint8)}
    if session.unit_observed is not None:
        from spiketok.tokens.schemes.kernels import counts as kernels

        flags = np.empty((len(start_ns), len(session.units)), np.uint8)
        own = session.unit_observed
        kernels.flag_observed(start_ns, bin_ns, whole, own.value.reshape(-1, 2), own.offset, flags)
        columns["unit_observed"] = flags
    return columns
