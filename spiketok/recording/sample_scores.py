"""How much drawn spikes look like recorded ones: what is compared are statistics, never the spikes of one bin.

All take counts on bins, cut into windows that need not follow each other, uint8 ``[W, T, N]``; the two sides may hold
other windows of other number. Intervals between spikes are of whole bins, inside of a window: a bin with several spikes
holds intervals of 0.

A score is None where it does not exist: for fewer than two units, or where too few have spikes enough.

Shape letters: W windows, T bins, N units.
"""

from __future__ import annotations

import numpy as np

from spiketok.errors import DataError

LEAST_INTERVALS = 20  # of a unit, on each side, for which its intervals are compared


def sample_scores(sample: np.ndarray, recorded: np.ndarray, bin_ns: int) -> dict[str, float | None]:
    """Hold a sample against recorded spikes of the same units.

    Args:
        sample, recorded: counts ``[W, T, N]``. bin_ns: length of a bin.

    Returns:
        ``rate_r``: correlation of the units' mean counts. ``isi_distance_ms``: Wasserstein distance of the intervals
        between spikes, and ``cv_difference``: absolute difference of their coefficient of variation, each the mean
        over units. ``correlation_r``: correlation of the correlations of all pairs of units. ``population_distance``:
        Wasserstein distance of the spikes of all units in a bin.

    Raises:
        DataError: they have other units, or one holds no bin.
    """
    if sample.ndim != 3 or recorded.ndim != 3 or sample.shape[-1] != recorded.shape[-1]:
        message = f"a sample of shape {sample.shape} and recorded counts of shape {recorded.shape}: not the same units"
        raise DataError(message)
    if not sample.size or not recorded.size:
        message = f"a sample of shape {sample.shape} against counts of shape {recorded.shape}: nothing to compare"
        raise DataError(message)
    flat, other = (counts.reshape(-1, counts.shape[-1]).astype(np.float64) for counts in (sample, recorded))
    distance, difference = _interval_scores(sample, recorded)
    return {
        "rate_r": _pearson(flat.mean(0), other.mean(0)),
        "isi_distance_ms": None if distance is None else distance * bin_ns / 1e6,
        "cv_difference": difference,
        "correlation_r": _correlation_r(flat, other),
        "population_distance": wasserstein(flat.sum(1), other.sum(1)),
    }


def intervals(counts: np.ndarray) -> list[np.ndarray]:
    """For each unit the intervals between its spikes, int64 in bins.

    Args:
        counts: ``[W, T, N]``.

    >>> [found.tolist() for found in intervals(np.array([[[1], [0], [2]], [[1], [1], [0]]]))]
    [[2, 0, 1]]
    """
    found = []
    for unit in np.moveaxis(counts, -1, 0):
        window, at = np.nonzero(unit)
        window, at = (np.repeat(place, unit[window, at]) for place in (window, at))
        found.append(np.diff(at)[np.diff(window) == 0])
    return found


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """The area between two empirical distribution functions, in the measure of the values.

    >>> wasserstein(np.array([0, 1, 3]), np.array([5, 6, 8]))
    5.0
    """
    a, b = np.sort(a), np.sort(b)
    value = np.sort(np.concatenate([a, b]))
    below = (np.searchsorted(side, value[:-1], side="right") / len(side) for side in (a, b))
    return float((np.abs(np.subtract(*below)) * np.diff(value)).sum())


def poisson_sample(counts: np.ndarray, n_windows: int, seed: int) -> np.ndarray:
    """uint8 ``[n_windows, T, N]``: independent Poisson counts with the units' mean counts; what a sample must beat."""
    mean = counts.reshape(-1, counts.shape[-1]).mean(0)
    drawn = np.random.default_rng(seed).poisson(mean, (n_windows, *counts.shape[1:]))
    return drawn.clip(max=255).astype(np.uint8)


def _interval_scores(sample: np.ndarray, recorded: np.ndarray) -> tuple[float | None, float | None]:
    distance, difference = [], []
    for a, b in zip(intervals(sample), intervals(recorded), strict=True):
        if min(len(a), len(b)) < LEAST_INTERVALS:
            continue
        distance.append(wasserstein(a, b))
        if a.any() and b.any():
            difference.append(abs(a.std() / a.mean() - b.std() / b.mean()))
    return (float(np.mean(part)) if part else None for part in (distance, difference))


def _correlation_r(a: np.ndarray, b: np.ndarray) -> float | None:
    """Over the pairs of units that vary on both sides."""
    vary = (a.std(0) > 0) & (b.std(0) > 0)
    if vary.sum() < 3:
        return None
    pair = np.triu_indices(int(vary.sum()), 1)
    return _pearson(*(np.corrcoef(side[:, vary], rowvar=False)[pair] for side in (a, b)))


def _pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < 2 or not (a.std() and b.std()):
        return None
    return float(np.corrcoef(a, b)[0, 1])
