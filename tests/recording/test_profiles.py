"""Profiles against their formulas written out, and what must not count in them."""

from __future__ import annotations

import numpy as np
import pytest

from spiketok.errors import DataError
from spiketok.recording.profiles import (
    cosine_tuning,
    deviations,
    fit_normaliser,
    rectified_states,
    responses,
    signed_states,
)

RNG = np.random.default_rng(0)
RATE, BEHAVIOUR = RNG.poisson(4, (50, 3)) * 10.0, RNG.normal(size=(50, 2))
KNOWN = RNG.random((50, 3)) < 0.7


def test_a_response_is_the_mean_deviation_while_a_state_lasts():
    """By the formula, number by number; a unit's unrecorded rows count nowhere."""
    rms = np.array([2.0, 0.5])
    states, found = signed_states(BEHAVIOUR, rms), deviations(RATE, 0.1, KNOWN)
    raw = responses(found, states, 10.0, KNOWN)
    for n in range(3):
        rows = [t for t in range(50) if KNOWN[t, n]]
        mean = sum(RATE[t, n] for t in rows) / len(rows)
        noise = np.sqrt(max(0.1 * mean, 1.0)) / 0.1
        for k in range(4):
            turned = (1 if k < 2 else -1) * BEHAVIOUR[:, k % 2] / rms[k % 2]
            weight = np.log(1 + np.exp(turned))
            expected = sum(weight[t] * (RATE[t, n] - mean) / noise for t in rows) / (sum(weight[t] for t in rows) + 10)
            assert raw[n, k] == pytest.approx(expected, rel=1e-9)
    spoilt = np.where(KNOWN, RATE, 1e9)
    np.testing.assert_array_equal(responses(deviations(spoilt, 0.1, KNOWN), states, 10.0, KNOWN), raw)


def test_all_known_is_the_plain_formula():
    states = rectified_states(BEHAVIOUR, np.ones(2))
    assert (states >= 0).all() and states.max() == BEHAVIOUR.max()
    plain = responses(deviations(RATE, 0.1), states, 3.0)
    known = np.ones(RATE.shape, np.bool_)
    np.testing.assert_allclose(responses(deviations(RATE, 0.1, known), states, 3.0, known), plain, rtol=1e-12)


def test_a_silent_unit_and_one_that_was_never_recorded_have_no_response():
    rate, known = RATE.copy(), np.ones(RATE.shape, np.bool_)
    rate[:, 0], known[:, 1] = 0, False
    raw = responses(deviations(rate, 0.1, known), signed_states(BEHAVIOUR, np.ones(2)), 10.0, known)
    assert (raw[:2] == 0).all() and (raw[2] != 0).all()


def test_the_cosine_is_found_again():
    angle = np.arange(8) * np.pi / 4 + 0.3
    rate = 2 + 0.7 * np.cos(angle) - 0.4 * np.sin(angle)
    counts, n_bins = np.stack([rate, np.full(8, 3.0)], 1) * 25, np.full(8, 25)
    more = [np.append(a, [bad], 0) for a, bad in ((counts, [1e6, 1e6]), (n_bins, 25), (angle, np.nan))]
    for given in ((counts, n_bins, angle), more):
        found = cosine_tuning(*given)
        np.testing.assert_allclose(found, [[0.7, -0.4, np.hypot(0.7, 0.4), 2], [0, 0, 0, 3]], atol=1e-12)


@pytest.mark.parametrize("angle", [[0.0, 1.0, np.nan], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0, 2.0]])
def test_too_few_angles_are_refused(angle):
    with pytest.raises(DataError, match=r"trials of 2 different angles: a cosine needs three"):
        cosine_tuning(np.ones((len(angle), 2)), np.ones(len(angle)), np.array(angle))


def test_what_normalises():
    raw = RNG.normal(size=(40, 6)) @ np.diag([5, 4, 3, 2, 1, 1]) + 1
    each, one, kept = fit_normaliser(raw, 4), fit_normaliser(raw, 4, one_scale=True), fit_normaliser(raw, None)
    values, vectors = np.linalg.eigh(raw.T @ raw)  # another way to the singular vectors
    for k in range(4):
        column = vectors[:, np.argsort(values)[::-1][k]]
        assert abs(column @ each.basis[:, k]) == pytest.approx(1, abs=1e-9)
        assert each.basis[:, k].max() == np.abs(each.basis[:, k]).max()
    np.testing.assert_allclose(each(raw).mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(each(raw).std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(one(raw), each(raw) * each.scale / one.scale, rtol=1e-9)
    assert np.square(one(raw).std(0)).mean() == pytest.approx(1) and len(set(one.scale)) == 1
    np.testing.assert_allclose(kept(raw), (raw - raw.mean(0)) / raw.std(0), rtol=1e-9)
    assert np.isfinite(fit_normaliser(np.ones((5, 3)), 2)(np.ones((5, 3)))).all()  # nothing varies
