"""Which sessions help to decode another one, measured on its calibration alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.choosing import LAGS, _fit, _rows, rank_sessions
from spiketok.evaluation.unit_statistics import unit_statistics
from spiketok.models.batch import Stretch
from spiketok.recording.nouns import Session, Spikes
from spiketok.training.config import load_config
from spiketok.training.loop import prepare
from tests.decodable import bake_tokens, decodable_session

CONFIG = load_config("linear", None, ["tasks=decode:hand_vel"])
TASK = "decode:hand_vel"


def shuffled(session: Session) -> Session:
    """The same spikes beside the behaviour of other moments: its two halves change places."""
    signal = session.signals["hand_vel"]
    moved = replace(signal, value=np.roll(signal.value, len(signal.value) // 2, axis=0))
    return replace(session, id="made/shuffled", signals={"hand_vel": moved})


def changed_after(session: Session, at_ns: int, name: str) -> Session:
    """Another recording from a moment on: no spike, and a behaviour that stands still far away."""
    spikes = session.spikes
    times = [spikes.time_ns[(spikes.unit == k) & (spikes.time_ns < at_ns)] for k in range(len(session.units))]
    signal = session.signals["hand_vel"]
    value = np.where((signal.time_ns < at_ns)[:, None], signal.value, np.float32(1e4))
    signals = {"hand_vel": replace(signal, value=value)}
    return replace(session, id=f"made/{name}", spikes=Spikes.from_units(times), signals=signals)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two sessions, and one whose behaviour is of other moments."""
    folder = tmp_path_factory.mktemp("bins")
    sessions = [decodable_session(f"day{k}", k, n_units=20 + 3 * k) for k in range(2)]
    return [bake_tokens(folder, s, "binned") for s in (*sessions, shuffled(decodable_session("x", 9)))]


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """A session of other units; the same that changes after its calibration of 15 s; and inside of it."""
    folder, whole = tmp_path_factory.mktemp("targets"), decodable_session("day2", 2, n_units=26)
    others = changed_after(whole, 17_000_000_000, "later"), changed_after(whole, 9_000_000_000, "sooner")
    return [bake_tokens(folder, session, "binned") for session in (whole, *others)]


@pytest.fixture(scope="module")
def ranked(made, targets):
    return rank_sessions(CONFIG, made, targets, calibration_s=15.0)


def test_a_session_of_other_moments_helps_nobody(ranked):
    assert ranked.sessions[-1].session == "made/shuffled"
    assert ranked.chosen == tuple(one.session for one in ranked.sessions[:2])
    assert set(ranked.chosen) == {"made/day0", "made/day1"}
    for one in ranked.sessions[:2]:  # a decoder of other units, of which it saw nothing but ten seconds
        assert one.transfer["made/day2"] > 0.5
        assert one.own > 0.7
    assert ranked.sessions[-1].transfer["made/day2"] < 0.1
    assert ranked.targets["made/day2"] == "d" * 64
    assert [one.store_digest for one in ranked.sessions] == ["d" * 64] * 3
    for one in ranked.sessions:
        assert one.worth == pytest.approx(np.mean([max(r2, -1) for r2 in one.transfer.values()]))


def test_of_a_target_nothing_is_read_but_its_calibration(ranked):
    for one in ranked.sessions:
        assert one.transfer["made/later"] == one.transfer["made/day2"] != one.transfer["made/sooner"]


def test_without_a_target_sessions_are_ranked_by_themselves(made):
    found = rank_sessions(CONFIG, made[1:], top=1)
    assert [one.session for one in found.sessions] == ["made/day1", "made/shuffled"]
    assert found.chosen == ("made/day1",)
    assert [one.worth for one in found.sessions] == [one.own for one in found.sessions]
    assert found.targets == {} and found.calibration_s == 0


def test_predictors_are_weighed_sums_of_the_population():
    """Held against loops over bins, lags, statistics and units; bins without behaviour are left out."""
    rng = np.random.default_rng(2)
    counts = [rng.poisson(1.0, (n, 4)).astype(np.uint8) for n in (20, 17)]
    known = [(rng.random(len(c)) < 0.8).astype(np.float32) for c in counts]
    target = [rng.normal(size=(len(c), 2)).astype(np.float32) for c in counts]
    stretches = [
        Stretch({"counts": {"counts": c, "observed": np.ones(len(c))}}, {TASK: y}, {TASK: w})
        for c, y, w in zip(counts, target, known, strict=True)
    ]
    statistics = rng.normal(size=(4, 3))
    x, y = _rows(stretches, statistics, TASK)
    root = np.sqrt(np.concatenate(counts).astype(float))
    mean, deviation = root.mean(0), root.std(0)
    expected, truth = [], []
    for c, b, w in zip(counts, target, known, strict=True):
        for t in range(LAGS - 1, len(c)):
            if w[t] > 0:
                row = []
                for f in range(4):
                    for lag in range(LAGS):
                        z = (np.sqrt(c[t - LAGS + 1 + lag].astype(float)) - mean) / deviation
                        weight = statistics[:, f] if f < 3 else np.ones(4)
                        row.append(sum(z[u] * weight[u] for u in range(4)) / 4)
                expected.append(row)
                truth.append(b[t])
    np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y, truth)


def test_units_that_were_not_recorded_count_nothing():
    counts = np.random.default_rng(3).poisson(1.0, (30, 3)).astype(np.uint8)
    seen = np.ones((30, 3), np.uint8)
    seen[10:, 1] = 0
    truth = {TASK: np.zeros((30, 1), np.float32)}, {TASK: np.ones(30, np.float32)}
    columns = {"counts": counts, "observed": np.ones(30), "unit_observed": seen}
    cleared = {"counts": counts * seen, "observed": np.ones(30)}
    ours, theirs = (_rows([Stretch({"counts": c}, *truth)], np.eye(3), TASK)[0] for c in (columns, cleared))
    np.testing.assert_array_equal(ours, theirs)


def test_its_ridge_is_that_of_scikit_learn(made):
    """The decoder of a candidate, on predictors of its own making."""
    sessions, (task,) = prepare(CONFIG, made[:1])
    stretches = sessions[0].stretches("train")
    decoder, own = _fit(stretches, task.name, 0.02)
    statistics = unit_statistics(stretches, "counts", 0.02, [task.name])
    x, y = _rows(stretches, (statistics - decoder.centre) / decoder.scale, task.name)
    z = (x - x.mean(0)) / x.std(0)
    said = Ridge(alpha=decoder.ridge.alpha).fit(z, y).predict(z)
    np.testing.assert_allclose(decoder.ridge.foretell(x), said, rtol=1e-5, atol=1e-6)
    assert 0.7 < own < 1


def test_what_cannot_be_is_refused(made, targets):
    with pytest.raises(UsageError, match="--top 4: there are 3 sessions"):
        rank_sessions(CONFIG, made, targets, top=4)
    with pytest.raises(DataError, match=r"made/day2: a third of 0.6 s of calibration holds no whole window"):
        rank_sessions(CONFIG, made, targets, calibration_s=0.6)
    with pytest.raises(DataError, match="made/day2: 300 s of calibration are asked for"):
        rank_sessions(CONFIG, made, targets, calibration_s=300)
