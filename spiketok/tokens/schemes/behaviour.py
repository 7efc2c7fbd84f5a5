"""A behaviour on the bins of a scheme: one rule for every shard and every scheme that holds behaviour as tokens."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Signal
from spiketok.tokens.schemes.base import grid_rows

# A bin takes the mean of the samples inside it where at least two are expected there, else a line between neighbours
# that are not further apart than this many sampling periods.
REACH_PERIODS = 2.5


def takes_line(period_ns: float, bin_ns: int) -> bool:
    """Whether bins are too short for two samples of this period, so that each has its value from a line."""
    return 2 * period_ns > bin_ns


def signal_on_bins(signal: Signal, segments: Intervals, bin_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """A behaviour on the bins of the segments.

    Where at least two samples are expected in a bin (median period at most half of it), the bin has the mean of the
    valid samples in it; else the value at its middle (``start + bin_ns // 2``) on the line between valid neighbours, if
    these are at most 2.5 median periods apart. A bin without either is not valid. Samples and middles after the
    segment's end do not count.

    Returns:
        float32 ``[T, C]``, 0 where not valid; uint8 ``[T]``.
    """
    row = grid_rows(segments.start_ns, segments.stop_ns, bin_ns)
    value = np.zeros((int(row[-1]), len(signal.components)), np.float32)
    valid = np.zeros(int(row[-1]), np.uint8)
    time_ns, sample = signal.time_ns[signal.valid], signal.value[signal.valid].astype(np.float64)
    lay = _on_line if takes_line(signal.period_ns, bin_ns) else _means
    for g in range(len(segments)):
        bins = slice(row[g], row[g + 1])
        start_ns, stop_ns = int(segments.start_ns[g]), int(segments.stop_ns[g])
        value[bins], valid[bins] = lay(time_ns, sample, start_ns, stop_ns, bin_ns, signal.period_ns)
    return value, valid


def _means(
    time_ns: np.ndarray, sample: np.ndarray, start_ns: int, stop_ns: int, bin_ns: int, _period_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    n_bins = -((start_ns - stop_ns) // bin_ns)
    low, high = np.searchsorted(time_ns, [start_ns, stop_ns])
    index = (time_ns[low:high] - start_ns) // bin_ns
    count = np.bincount(index, minlength=n_bins)
    value = np.zeros((n_bins, sample.shape[1]))
    for c in range(sample.shape[1]):
        total = np.bincount(index, weights=sample[low:high, c], minlength=n_bins)
        np.divide(total, count, out=value[:, c], where=count > 0)
    return value, count > 0


def _on_line(
    time_ns: np.ndarray, sample: np.ndarray, start_ns: int, stop_ns: int, bin_ns: int, period_ns: int
) -> tuple[np.ndarray, np.ndarray]:
    n_bins = -((start_ns - stop_ns) // bin_ns)
    middle = start_ns + np.arange(n_bins) * bin_ns + bin_ns // 2
    value, valid = np.zeros((n_bins, sample.shape[1])), np.zeros(n_bins, np.bool_)
    if len(time_ns) == 0:
        return value, valid
    right = np.searchsorted(time_ns, middle)  # the first sample not before the middle
    exact = time_ns[np.minimum(right, len(time_ns) - 1)] == middle
    left = np.where(exact, right, right - 1)
    inside = (left >= 0) & (right < len(time_ns)) & (middle < stop_ns)
    left, right = left[inside], right[inside]
    gap = time_ns[right] - time_ns[left]
    near = gap <= REACH_PERIODS * period_ns
    share = (middle[inside] - time_ns[left]) / np.maximum(gap, 1)
    line = sample[left] + (sample[right] - sample[left]) * share[:, None]
    valid[inside] = near
    value[inside] = np.where(near[:, None], line, 0.0)
    return value, valid
