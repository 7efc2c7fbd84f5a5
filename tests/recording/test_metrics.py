"""Each score against its slow twin, against scikit-learn where that has it, and at the ends where scores go wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError
from spiketok.recording.metrics import (
    METRICS,
    bps_per_unit,
    co_bps,
    fp_bps,
    poisson_nll,
    r2_mean,
    r2_per_component,
    r2_variance_weighted,
)


def slow_r2(target, prediction, weight) -> list[tuple[float, float]]:
    """(residual, total) of each component, by loops."""
    sums = []
    for c in range(len(target[0])):
        mean = math.fsum(w * t[c] for w, t in zip(weight, target, strict=True)) / math.fsum(weight)
        residual = math.fsum(w * (t[c] - p[c]) ** 2 for w, t, p in zip(weight, target, prediction, strict=True))
        sums.append((residual, math.fsum(w * (t[c] - mean) ** 2 for w, t in zip(weight, target, strict=True))))
    return sums


def slow_nll(rate, count) -> float:
    """Nats of one unit, bin by bin."""
    return math.fsum(
        max(r, 1e-9) - y * math.log(max(r, 1e-9)) + math.lgamma(y + 1) for r, y in zip(rate, count, strict=True)
    )


def slow_bits(rate, count) -> float:
    """NLB's formula, with nan counts left out and the null fitted on the same counts."""
    model = null = spikes = 0.0
    for n in range(count.shape[1]):
        seen = ~np.isnan(count[:, n])
        y, r = count[seen, n], rate[seen, n]
        model += slow_nll(r, y)
        null += slow_nll([y.mean()] * len(y), y)
        spikes += y.sum()
    return (null - model) / (spikes * math.log(2))


def behaviour(seed: int, n: int, c: int):
    rng = np.random.default_rng(seed)
    target = rng.normal(size=(n, c)) * rng.uniform(0.1, 10, c) + rng.normal(size=c)
    return target, target + rng.normal(size=(n, c)), rng.uniform(0, 2, n)


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 4))
def test_r2_is_its_slow_twin(seed, n, c):
    target, prediction, weight = behaviour(seed, n, c)
    sums = slow_r2(target, prediction, weight)
    each = [1 - residual / total for residual, total in sums]
    np.testing.assert_allclose(r2_per_component(target, prediction, weight), each, rtol=1e-9)
    assert r2_mean(target, prediction, weight) == pytest.approx(np.mean(each), rel=1e-9)
    whole = 1 - sum(r for r, _ in sums) / sum(t for _, t in sums)
    assert r2_variance_weighted(target, prediction, weight) == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_r2_is_scikit_learns(weighted):
    sklearn = pytest.importorskip(
        "sklearn.metrics", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    target, prediction, weight = behaviour(1, 200, 3)
    weight = weight if weighted else None
    for ours, name in ((r2_mean, "uniform_average"), (r2_variance_weighted, "variance_weighted")):
        theirs = sklearn.r2_score(target, prediction, sample_weight=weight, multioutput=name)
        assert ours(target, prediction, weight) == pytest.approx(theirs, rel=1e-12)
    theirs = sklearn.r2_score(target, prediction, sample_weight=weight, multioutput="raw_values")
    np.testing.assert_allclose(r2_per_component(target, prediction, weight), theirs, rtol=1e-12)


def test_the_two_r2_differ():
    target = np.array([[0.0, 0.0], [10.0, 1.0], [0.0, 0.0], [10.0, 1.0]])
    prediction = target.copy()
    prediction[:, 1] = 0.5  # the small component is not predicted at all
    assert r2_mean(target, prediction) == 0.5
    assert r2_variance_weighted(target, prediction) == pytest.approx(1 - 1 / 101)


def test_a_constant_target_has_no_r2():
    target = np.full((5, 2), 0.1)  # whose mean is not exactly 0.1
    target[:, 1] = np.arange(5)
    prediction = target + 0.5
    each = r2_per_component(target, prediction)
    assert np.isnan(each[0])
    assert each[1] == pytest.approx(1 - 0.25 / 2)
    assert np.isnan(r2_mean(target, prediction))
    assert r2_variance_weighted(target, prediction) == pytest.approx(each[1])  # a constant one has no weight
    assert np.isnan(r2_variance_weighted(target[:, :1], prediction[:, :1]))
    assert np.isnan(r2_mean(target, prediction, valid=np.zeros(5, bool)))


@pytest.mark.parametrize("how", ["valid", "weight"])
def test_what_is_not_scored_has_no_influence(how):
    target, prediction, _ = behaviour(2, 40, 2)
    used = np.arange(40) % 3 > 0
    expected = r2_mean(target[used], prediction[used]), r2_variance_weighted(target[used], prediction[used])
    target[~used], prediction[~used] = np.nan, np.inf
    given = {"valid": used} if how == "valid" else {"weight": used.astype(float)}
    assert (r2_mean(target, prediction, **given), r2_variance_weighted(target, prediction, **given)) == pytest.approx(
        expected
    )


def test_one_component_may_be_a_plain_series():
    assert r2_mean([0.0, 1.0, 2.0], [0.0, 1.0, 1.0]) == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 1))), r"\(3, 2\).*\(3, 1\)"),
        ((np.zeros((3, 1)), np.full((3, 1), np.nan)), "3 of 3 scored samples of the prediction"),
        ((np.array([[0.0], [np.inf]]), np.zeros((2, 1))), "1 of 2 scored samples of the target"),
        ((np.zeros((2, 1)), np.zeros((2, 1)), [1.0, -1.0]), "-1.0"),
        ((np.zeros((2, 1)), np.zeros((2, 1)), [1.0]), r"\(1,\)"),
    ],
)
def test_bad_behaviour_is_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        r2_mean(*arguments)


def spikes(seed: int, bins: int, units: int):
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 2.0, (bins, units))
    count = rng.poisson(rate).astype(float)
    count[0] = np.maximum(count[0], 1)  # every unit has a spike
    count[1:][rng.random((bins - 1, units)) < 0.1] = np.nan
    return rate, count


@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(1, 5))
def test_bits_are_their_slow_twins(seed, bins, units):
    rate, count = spikes(seed, bins, units)
    rate[0, 0] = 0.0  # raised to 1e-9, at a bin that has a spike
    before = rate.copy()
    whole = slow_bits(rate, count)
    assert co_bps(rate, count) == pytest.approx(whole, rel=1e-9, abs=1e-12)
    assert fp_bps(rate, count) == pytest.approx(whole, rel=1e-9, abs=1e-12)
    each = [slow_bits(rate[:, [n]], count[:, [n]]) for n in range(units)]
    assert bps_per_unit(rate, count) == pytest.approx(np.mean(each), rel=1e-9, abs=1e-12)
    np.testing.assert_array_equal(rate, before)  # nlb_tools overwrites its argument


def test_the_bits_differ_where_units_do():
    count = np.array([[3.0, 0.0], [1.0, 0.0], [2.0, 1.0], [0.0, 0.0]])
    rate = np.array([[3.0, 0.5], [1.0, 0.5], [2.0, 0.5], [0.1, 0.5]])
    assert abs(co_bps(rate, count) - bps_per_unit(rate, count)) > 0.1


def test_null_rates_have_zero_bits():
    _, count = spikes(3, 50, 4)
    null = np.broadcast_to(np.nanmean(count, axis=0), count.shape)
    for score in (co_bps, fp_bps, bps_per_unit):
        assert score(null, count) == pytest.approx(0.0, abs=1e-12)


def test_trials_count_like_one_long_series():
    rate, count = spikes(4, 30, 3)
    assert co_bps(rate.reshape(5, 6, 3), count.reshape(5, 6, 3)) == co_bps(rate, count)


def test_silence_has_no_bits():
    rate, count = np.full((4, 2), 0.1), np.zeros((4, 2))
    assert np.isnan(co_bps(rate, count))
    assert np.isnan(bps_per_unit(rate, count))
    assert poisson_nll(rate, count) == pytest.approx(0.1)
    assert np.isnan(poisson_nll(rate, np.full((4, 2), np.nan)))
    count[0, 0] = 2
    assert bps_per_unit(rate, count) == pytest.approx(
        slow_bits(rate[:, :1], count[:, :1])
    )  # the silent unit is left out


@given(st.integers(0, 10**6))
def test_poisson_nll_is_its_slow_twin(seed):
    rate, count = spikes(seed, 10, 3)
    seen = ~np.isnan(count)
    assert poisson_nll(rate, count) == pytest.approx(slow_nll(rate[seen], count[seen]) / seen.sum(), rel=1e-10)


@pytest.mark.parametrize(
    ("rate", "count", "words"),
    [
        (np.ones((2, 2)), np.ones((2, 3)), r"\(2, 2\).*\(2, 3\)"),
        (np.ones(2), np.ones(2), "expected"),
        (-np.ones((2, 1)), np.ones((2, 1)), "2 rates"),
        (np.full((2, 1), np.nan), np.ones((2, 1)), "2 rates"),
        (np.ones((2, 1)), np.full((2, 1), 0.5), "whole numbers"),
        (np.ones((2, 1)), -np.ones((2, 1)), "whole numbers"),
    ],
)
def test_bad_spikes_are_refused(rate, count, words):
    with pytest.raises(DataError, match=words):
        co_bps(rate, count)


def test_the_names_are_the_functions():
    assert all(name == function.__name__ for name, function in METRICS.items())


def test_co_bps_is_nlb_tools_formula():
    """The published formula with its own gammaln and its own null, written out with arrays (nlb_tools 0.0.3)."""
    special = pytest.importorskip("scipy.special", reason="scipy is not installed (pip install spiketok)")
    rng = np.random.default_rng(5)
    rate = rng.gamma(2.0, 0.2, (7, 11, 3))
    count = rng.poisson(rate)

    def total(r):
        return np.sum(r - count * np.log(r) + special.gammaln(count + 1.0))

    null = np.tile(count.mean(axis=(0, 1), keepdims=True), (7, 11, 1))
    assert co_bps(rate, count) == pytest.approx((total(null) - total(rate)) / count.sum() / np.log(2), rel=1e-10)
