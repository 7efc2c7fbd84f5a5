"""Unit statistics, held against a slow twin that walks over single spikes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from spiketok.evaluation.identity_map import fit_ridge
from spiketok.evaluation.unit_statistics import LAG_BINS, SHRINK_SPIKES, unit_statistics
from spiketok.models.batch import Stretch
from tests.decodable import decodable_session

BIN_S, TASK = 0.05, "decode:v"


def stretch(rng: np.random.Generator, n_bins: int, n_units: int = 5, components: int = 2) -> Stretch:
    """Counts of units with other rates, some bins not observed, a behaviour that some bins lack."""
    counts = rng.poisson(rng.uniform(0.05, 2, n_units), (n_bins, n_units)).astype(np.uint8)
    observed = (rng.random(n_bins) < 0.9).astype(np.float32)
    weight = (rng.random(n_bins) < 0.8).astype(np.float32)
    target = rng.normal(size=(n_bins, components)).astype(np.float32) * (weight[:, None] > 0)
    return Stretch({"counts": {"counts": counts, "observed": observed}}, {TASK: target}, {TASK: weight})


def spikes_of(one: Stretch) -> np.ndarray:
    columns = one.columns["counts"]
    return columns["counts"] * (columns["observed"] > 0)[:, None].astype(float)


def at_spikes(stretches: list[Stretch], unit: int, lag: int, value) -> float:
    """Mean of a value ``lag`` bins after a unit's spikes, less its mean; with spikes of no tuning beside them."""
    own, every = [], []
    for one in stretches:
        counts, n = spikes_of(one), len(one.target[TASK])
        for t in range(n):
            if 0 <= t + lag < n and one.weight[TASK][t + lag] > 0:
                x = value(one.target[TASK][t + lag].astype(float))
                every.append(x)
                own += [x] * int(counts[t, unit])
    mean = np.mean(every)
    return (np.sum(own) - len(own) * mean) / (len(own) + SHRINK_SPIKES)


def slow(stretches: list[Stretch], unit: int) -> list[float]:
    spikes = [spikes_of(one) for one in stretches]
    total, bins = sum(s[:, unit].sum() for s in spikes), sum(map(len, spikes))
    sums = [s[k : k + 10, unit].sum() for s in spikes for k in range(0, len(s) - 9, 10)]
    root = np.sqrt(np.concatenate(spikes))
    z = (root - root.mean(0)) / root.std(0)
    trust = total / (total + SHRINK_SPIKES)
    others = np.delete(z, unit, axis=1).sum(1)
    border = np.cumsum([0, *map(len, spikes)])
    again = [
        np.mean([z[t, unit] * z[t + lag, unit] for a, b in pairwise(border)
                 for t in range(a, b - lag)]) for lag in (1, 5)
    ]  # fmt: skip
    found = [np.log((total + 0.5) / ((bins + 1) * BIN_S)), np.log((np.var(sums) + 1) / (np.mean(sums) + 1))]
    found += [np.mean(z[:, unit] * others / others.std()) * trust, *(a * trust for a in again)]
    for lag in (0, *LAG_BINS):
        found += [at_spikes(stretches, unit, lag, lambda v, c=c: v[c]) for c in (0, 1)]
    return found + [at_spikes(stretches, unit, 0, lambda v, a=a, b=b: v[a] * v[b]) for a, b in ((0, 0), (0, 1), (1, 1))]


@pytest.fixture(scope="module")
def stretches() -> list[Stretch]:
    rng = np.random.default_rng(3)
    return [stretch(rng, n) for n in (60, 33, 8)]  # the last is shorter than a lag


def test_they_are_what_single_spikes_say(stretches):
    found = unit_statistics(stretches[:2], "counts", BIN_S, [TASK])
    np.testing.assert_allclose(found, [slow(stretches[:2], unit) for unit in range(5)], rtol=1e-9, atol=1e-12)


def test_without_labels_they_are_the_first_of_them_and_read_no_target(stretches):
    bare = [Stretch(one.columns, {}, {}) for one in stretches]
    spikes = unit_statistics(bare, "counts", BIN_S)
    assert spikes.shape == (5, 5)
    np.testing.assert_array_equal(spikes, unit_statistics(stretches, "counts", BIN_S, [TASK])[:, :5])


def test_neither_the_order_of_units_nor_of_stretches_counts(stretches):
    order = [3, 0, 4, 1, 2]
    turned = [
        Stretch(
            {"counts": one.columns["counts"] | {"counts": one.columns["counts"]["counts"][:, order]}},
            one.target,
            one.weight,
        )
        for one in stretches[::-1]
    ]
    expected = unit_statistics(stretches, "counts", BIN_S, [TASK])[order]
    np.testing.assert_allclose(unit_statistics(turned, "counts", BIN_S, [TASK]), expected, atol=1e-12)


def test_a_silent_unit_and_time_without_behaviour_give_numbers():
    columns = {"counts": np.zeros((4, 3), np.uint8), "observed": np.ones(4, np.float32)}
    one = Stretch({"counts": columns}, {TASK: np.zeros((4, 2), np.float32)}, {TASK: np.zeros(4, np.float32)})
    found = unit_statistics([one], "counts", BIN_S, [TASK])
    assert np.isfinite(found).all() and (found[:, 2:] == 0).all()


def test_the_tuning_of_made_units_can_be_foretold_from_them_and_from_no_other_units():
    """Preferred directions of cosine-tuned units stand for trained rows; the ridge never saw the last session."""
    draws, rows = [], []
    for seed in range(6):
        session = decodable_session("a", seed, n_units=15)
        rng = np.random.default_rng(seed)
        rng.uniform(0, 2 * np.pi, (2, 4))  # the draws of decodable_session: phases, then preferred directions
        preferred = rng.uniform(0, 2 * np.pi, 15)
        rows.append(np.column_stack([np.cos(preferred), np.sin(preferred)]))
        draws.append(unit_statistics([binned(session, 30.0)], "counts", 0.02, [TASK]))
    ridge = fit_ridge(np.concatenate(draws[:5]), np.concatenate(rows[:5]), np.repeat(np.arange(5), 15))
    found = ridge.foretell(draws[5])
    assert r2(rows[5], found) > 0.8
    assert r2(rows[5], found[np.random.default_rng(0).permutation(15)]) < 0.3


def r2(truth: np.ndarray, found: np.ndarray) -> float:
    return 1 - np.square(found - truth).sum() / np.square(truth - truth.mean(0)).sum()


def binned(session, length_s: float) -> Stretch:
    """The first seconds of a session in bins of 20 ms, counted by numpy, its velocity in SDs."""
    n = round(length_s / 0.02)
    spikes = session.spikes
    counts = np.stack(
        [np.histogram(spikes.time_ns[spikes.unit == k], bins=n, range=(0, n * 20_000_000))[0] for k in range(15)],
        axis=1,
    )
    velocity = session.signals["hand_vel"].value[: 2 * n : 2]
    columns = {"counts": {"counts": counts, "observed": np.ones(n, np.float32)}}
    return Stretch(columns, {TASK: velocity / velocity.std(0)}, {TASK: np.ones(n, np.float32)})
