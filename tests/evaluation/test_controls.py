"""Controls and intervals: that each is what its name says, held against slow twins and against known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spiketok.errors import DataError
from spiketok.evaluation.controls import (
    Labels,
    against_shifted,
    against_shuffled,
    by_own_past,
    by_session_time,
    by_trial_time,
    ridges,
    shifted_scores,
)
from spiketok.evaluation.few_shot import ALPHAS, fit_ridge
from spiketok.evaluation.stress_intervals import half_width, interval_rows
from spiketok.recording.nouns import Intervals
from spiketok.training.tasks.decode import Prediction

SECOND = 1_000_000_000
R2 = "r2_variance_weighted"


def prediction(n=400, seed=0, noise=0.3, step_s=0.05):
    """20 s of a slow behaviour in two components and a noisy prediction of it; some samples are not measured."""
    rng = np.random.default_rng(seed)
    second = np.arange(n) * step_s
    true = np.column_stack([np.sin(2 * np.pi * 0.37 * second), 3 * np.cos(2 * np.pi * 0.23 * second)])
    weight = np.ones(n, np.float32)
    weight[50:60] = 0
    time_ns = (second * SECOND).astype(np.int64)
    return Prediction(time_ns, true + noise * rng.normal(size=true.shape), true, weight, ("x", "y"), "mm/s")


def test_all_shifts_score_as_a_roll_of_the_labels_does():
    answer = prediction()
    found = shifted_scores(answer)
    n = int(answer.valid.sum())
    assert len(found) == n - 2 * 100 + 1
    for at, score in ((100, found[0]), (173, found[73]), (n - 100, found[-1])):
        true = answer.true.copy()
        true[answer.valid] = np.roll(answer.true[answer.valid], -at, axis=0)
        assert score == pytest.approx(replace(answer, true=true).score()[R2], abs=1e-9)


def test_a_constant_component_is_in_no_shifted_score():
    answer = prediction()
    fixed = replace(answer, true=np.column_stack([answer.true[:, 0], np.full(400, 7.0)]))
    one = replace(answer, true=answer.true[:, :1], predicted=answer.predicted[:, :1], components=("x",))
    assert shifted_scores(fixed) == pytest.approx(shifted_scores(one), abs=1e-9)
    with pytest.raises(DataError, match="constant in the scored time"):
        shifted_scores(replace(answer, true=np.ones_like(answer.true)))


def test_labels_that_are_shifted_too_little_are_refused():
    with pytest.raises(DataError, match=r"9\.5 s are scored, labels that are shifted by 5 s need 10 s"):
        against_shifted(prediction(200))


def test_a_good_prediction_stands_out_and_a_constant_one_does_not():
    assert against_shifted(prediction())["p"] == pytest.approx(1 / (1 + 191))
    mean = replace(prediction(), predicted=np.tile(prediction().true.mean(0), (400, 1)))
    assert against_shifted(mean)["p"] == 1.0


def trials(n=10):
    return Intervals(np.arange(n) * 2 * SECOND, (np.arange(n) * 2 + 2) * SECOND)


def test_shuffled_trials_tell_the_mean_trial_from_the_trial():
    """A behaviour of the same course in all trials is foretold as well by another's labels; one of its own is not."""
    rng, time_ns = np.random.default_rng(0), np.arange(400) * SECOND // 20
    course = np.sin(np.pi * np.arange(40) / 40)
    for of_trial, p_low, p_high in ((np.ones(10), 0.9, 1.0), (rng.normal(size=10), 0.0, 0.01)):
        true = (of_trial[:, None] * course).reshape(-1, 1)
        answer = Prediction(time_ns, true + 1e-3, true, np.ones(400, np.float32), ("x",), "mm")
        found = against_shuffled(answer, trials(), 0)
        assert found["as_it_is"] == pytest.approx(answer.score()[R2])
        assert p_low <= found["p"] <= p_high
    with pytest.raises(DataError, match="3 trials are scored, labels are shuffled among at least 4"):
        against_shuffled(answer, trials(3), 0)


def test_a_trial_that_is_shorter_is_scored_as_long_as_it_is():
    answer = prediction(noise=0)
    uneven = Intervals([0, 2 * SECOND, 5 * SECOND, 6 * SECOND], [2 * SECOND, 5 * SECOND, 6 * SECOND, 10 * SECOND])
    assert against_shuffled(answer, uneven, 0)["as_it_is"] == pytest.approx(1.0)


def labels(answer, known_s):
    return Labels(answer.time_ns, answer.true, answer.time_ns < known_s * SECOND)


def test_the_clock_tells_a_behaviour_that_follows_it_and_no_other():
    answer = prediction()
    drift = replace(answer, true=np.column_stack([answer.time_ns / SECOND, -2.0 * answer.time_ns / SECOND]))
    calibration = Intervals([0], [10 * SECOND])
    clock = by_session_time(labels(drift, 10), calibration)
    assert replace(drift, predicted=clock(drift.time_ns)).score()[R2] > 0.9
    noise = replace(answer, true=np.random.default_rng(3).normal(size=(400, 2)))
    clock = by_session_time(labels(noise, 10), calibration)
    assert replace(noise, predicted=clock(noise.time_ns)).score()[R2] < 0.1


def test_the_mean_trial_is_the_mean_by_time_since_the_start():
    answer = prediction()
    course = np.tile(np.column_stack([np.arange(40.0), -np.arange(40.0)]), (10, 1))
    same = replace(answer, true=course)
    predict = by_trial_time(labels(same, 8), trials())
    assert np.array_equal(predict(same.time_ns), course)
    outside = predict(np.array([25 * SECOND]))  # after the last trial: the calibration's mean
    assert np.allclose(outside, course[:160].mean(0))
    for few, why in ((Intervals.empty(), "the session has no trials"), (trials(1), "1 trials, a mean trial needs 2")):
        with pytest.raises(DataError, match=why):
            by_trial_time(labels(same, 8), few)


def test_its_own_past_tells_a_periodic_behaviour():
    answer = prediction(noise=0)
    predict = by_own_past(labels(answer, 12), Intervals([0], [12 * SECOND]), SECOND)
    assert replace(answer, predicted=predict(answer.time_ns)).score()[R2] > 0.7
    early = predict(answer.time_ns[:1])
    assert np.isfinite(early).all()


@pytest.mark.long  # of what it imports
def test_ridges_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 1] + 4, rng.normal(size=(60, 2))
    new = rng.normal(size=(7, 5))
    for ours, alpha in zip(ridges(x, y), ALPHAS, strict=True):
        weight, bias = fit_ridge((x, y, np.ones(60)), alpha)
        assert np.allclose(ours(new), new @ weight + bias, atol=1e-9)


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_an_interval_holds_a_new_one_as_often_as_it_says():
    """With one sample a block, the promise is exact: at least the level, and less than one rank more."""
    rng = np.random.default_rng(0)
    for n, level in ((19, 0.95), (20, 0.8), (9, 0.9), (30, 0.5)):
        drawn = abs(rng.normal(size=(4000, n + 1)))
        held = np.mean([new <= half_width(known, n, level) for *known, new in drawn])
        assert level - 0.02 < held < level + 1 / (n + 1) + 0.02


def test_too_few_blocks_give_no_interval():
    error = np.arange(1000.0)
    assert half_width(error, 18, 0.95) is None
    assert half_width(error, 19, 0.95) == 999.0
    assert half_width(error, 8, 0.9) is None
    assert half_width(error, 9, 0.9) == 999.0
    assert half_width(error[:0], 0, 0.5) is None


def test_rows_count_blocks_and_scored_samples_only():
    known, scored = prediction(seed=1), prediction(seed=2)
    wrong = scored.predicted.copy()
    wrong[~scored.valid] = 1e9
    rows = list(interval_rows(known, replace(scored, predicted=wrong)))
    assert [(r["component"], r["level"]) for r in rows[:2]] == [("x", 0.5), ("x", 0.6)]
    assert {r["blocks"] for r in rows} == {39}  # 20 s, of which half a second was not measured
    assert all(r["coverage"] >= r["level"] - 0.06 for r in rows)
