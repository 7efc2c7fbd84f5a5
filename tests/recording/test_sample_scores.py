"""What drawn spikes are scored by: against scipy, against slow loops, and on samples whose score is known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from spiketok.errors import DataError
from spiketok.recording.sample_scores import intervals, poisson_sample, sample_scores, wasserstein

BIN_NS = 20_000_000


def coupled(seed: int, n_windows: int = 200) -> np.ndarray:
    """Counts of 8 units of different rates, of which the first four follow one slow drive."""
    rng = np.random.default_rng(seed)
    drive = np.repeat(rng.gamma(2.0, 0.5, (n_windows, 5, 1)), 10, axis=1)
    rate = np.linspace(0.1, 0.8, 8) * np.concatenate([np.repeat(drive, 4, -1), np.ones((n_windows, 50, 4))], -1)
    return rng.poisson(rate).astype(np.uint8)


def test_the_distance_is_scipys():
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (5, 3), (40, 70)):
        a, b = rng.integers(0, 9, n), rng.integers(2, 12, m)
        assert wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b))


def test_intervals_stay_inside_windows():
    counts = coupled(0, 5)
    for unit, found in enumerate(intervals(counts)):
        expected = []
        for window in counts[:, :, unit]:
            spikes = [at for at, n in enumerate(window) for _ in range(n)]
            expected += [b - a for a, b in pairwise(spikes)]
        assert found.tolist() == expected


def test_the_same_process_scores_better_than_independent_units():
    held = coupled(1)
    same, independent = (
        sample_scores(sample, held, BIN_NS) for sample in (coupled(2), poisson_sample(coupled(3), 200, seed=0))
    )
    assert same["rate_r"] > 0.98 and independent["rate_r"] > 0.98
    assert same["correlation_r"] > 0.9 and abs(independent["correlation_r"]) < 0.5
    for distance in ("isi_distance_ms", "cv_difference", "population_distance"):
        assert same[distance] < 0.6 * independent[distance]


def test_a_sample_is_its_own_equal():
    held = coupled(0)
    scores = sample_scores(held, held[::-1], BIN_NS)
    ones, zeros = ("rate_r", "correlation_r"), ("isi_distance_ms", "cv_difference", "population_distance")
    assert [scores[key] for key in ones] == pytest.approx([1, 1])
    assert [scores[key] for key in zeros] == pytest.approx([0, 0, 0])


def test_what_does_not_exist_is_none():
    held = coupled(0, 20)
    silent = sample_scores(np.zeros_like(held), held, BIN_NS)
    assert silent["rate_r"] is silent["isi_distance_ms"] is silent["cv_difference"] is silent["correlation_r"] is None
    assert silent["population_distance"] == pytest.approx(held.sum(-1).mean())
    with pytest.raises(DataError, match="not the same units"):
        sample_scores(held[..., :3], held, BIN_NS)
    with pytest.raises(DataError, match="nothing to compare"):
        sample_scores(held[:0], held, BIN_NS)
