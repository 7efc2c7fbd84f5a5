"""What the schemes with bins share: spikes into bins, and which bins were recorded.

Bins are half-open, anchored at each segment's start and found by whole numbers. A segment's last bin may reach over its
end: it is kept, so that counts sum to the spikes, and it is never observed.
"""

from __future__ import annotations

import numpy as np

from spiketok.recording import Intervals, Session
from spiketok.schemes.base import grid_rows


def count_bins(session: Session, segments: Intervals, bin_ns: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Count a session's spikes in the bins of its segments.

    Returns:
        uint8 ``[T, N]``, at most 255; int64 ``[G + 1]``, each segment's first bin; the spikes above 255.
    """
    from spiketok.schemes.kernels import counts as kernels

    spikes = session.spikes
    row = grid_rows(segments.start_ns, segments.stop_ns, bin_ns)
    counts = np.zeros((int(row[-1]), len(session.units)), np.uint8)
    low = np.searchsorted(spikes.time_ns, segments.start_ns)
    high = np.searchsorted(spikes.time_ns, segments.stop_ns)
    saturated = 0
    for g in range(len(segments)):
        time_ns, unit = spikes.time_ns[low[g] : high[g]], spikes.unit[low[g] : high[g]]
        saturated += kernels.count_spikes(time_ns, unit, segments.start_ns[g], bin_ns, counts[row[g] : row[g + 1]])
    return counts, row, int(saturated)


def bin_starts(segments: Intervals, row: np.ndarray, bin_ns: int) -> np.ndarray:
    """int64 ``[T]``: the start of each bin of each segment."""
    size = np.diff(row)
    index = np.arange(row[-1]) - np.repeat(row[:-1], size)
    return np.repeat(segments.start_ns, size) + index * bin_ns


def bins_inside(start_ns: np.ndarray, bin_ns: int, covered: Intervals) -> np.ndarray:
    """bool ``[T]``: the bin lies wholly inside one of the sorted, disjoint intervals."""
    if len(covered) == 0:
        return np.zeros(len(start_ns), np.bool_)
    at = np.searchsorted(covered.start_ns, start_ns, side="right") - 1
    return (at >= 0) & (start_ns + bin_ns <= covered.stop_ns[np.maximum(at, 0)])


def observed_bins(session: Session, segments: Intervals, row: np.ndarray, bin_ns: int) -> dict[str, np.ndarray]:
    """Which bins were recorded from their first to their last nanosecond.

    Returns:
        ``observed`` uint8 ``[T]``, and ``unit_observed`` uint8 ``[T, N]`` where the session says it for each unit.
    """
    start_ns = bin_starts(segments, row, bin_ns)
    whole = start_ns + bin_ns <= np.repeat(segments.stop_ns, np.diff(row))
    columns = {"observed": (whole & bins_inside(start_ns, bin_ns, session.observed)).astype(np.uint8)}
    if session.unit_observed is not None:
        flags = np.empty((len(start_ns), len(session.units)), np.uint8)
        for n in range(len(session.units)):
            own = session.unit_observed[n].reshape(-1, 2)
            flags[:, n] = whole & bins_inside(start_ns, bin_ns, Intervals(own[:, 0], own[:, 1]).union())
        columns["unit_observed"] = flags
    return columns
