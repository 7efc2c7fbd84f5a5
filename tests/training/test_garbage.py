"""What a training may not use, it does not use: any values there leave every weight and every score as they were."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spiketok.recording.intervals import holds
from spiketok.recording.leakage import with_stated_reach
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes
from spiketok.training.config import load_config
from spiketok.training.loop import prepare, train
from tests.decodable import SECOND, SMALL_POYO, bake_tokens, decodable_session

MS = 1_000_000
BACK, AHEAD = 80 * MS, 40 * MS  # how far the behaviour reaches, as the session says

# Usable are 20 s: of these 70 % train, 10 % validate, 20 % test. Of the first and the last none is used that reaches
# over their borders.
OBSERVED = Intervals([0, 6 * SECOND], [5 * SECOND, 21 * SECOND])
USED = Intervals([0, 6 * SECOND, 17 * SECOND + BACK], [5 * SECOND, 15 * SECOND - AHEAD, 21 * SECOND])

NDT1 = ["model.dim=16", "model.layers=1", "model.heads=2", "model.hidden=16", "data.batch_size=8", "optim.steps=2"]
MODELS = {
    "linear": ("binned", [], ["decode:hand_vel"]),
    "poyo": ("per-spike", [*SMALL_POYO, "optim.steps=2", "optim.checkpoint_every=0"], ["decode:hand_vel"]),
    "ndt1": ("binned", [*NDT1, "optim.checkpoint_every=0"], ["population", "decode:hand_vel"]),
}


def clean() -> Session:
    """A session with a stretch that nobody observed, and behaviour that was not measured here and there."""
    session = decodable_session("a", n_units=6, seconds=22)
    rng = np.random.default_rng(3)
    valid = rng.random(2200) > 0.05  # most gaps are so short that they are no border of labelled time
    valid[1200:1260] = True
    vel = session.signals["hand_vel"]
    signals = {"hand_vel": Signal(vel.time_ns, vel.value, vel.components, "mm/s", valid, 100.0)}
    info = with_stated_reach({}, "hand_vel", BACK, AHEAD)
    return replace(session, observed=OBSERVED, signals=signals, info=info)


def polluted(session: Session, seed: int) -> Session:
    """The session with other spikes outside of all used time, and garbage there and in samples not measured."""
    rng = np.random.default_rng(seed)
    vel = session.signals["hand_vel"]
    value = vel.value.copy()
    used = holds(USED, vel.time_ns)
    value[~used] = rng.choice([1e30, -1e30, 0.0, 7.0], value[~used].shape)
    value[~vel.valid] = rng.choice([np.nan, np.inf, 1e30, -3.0], value[~vel.valid].shape)
    signals = {"hand_vel": Signal(vel.time_ns, value, vel.components, "mm/s", vel.valid, 100.0)}
    times = []
    for k in range(len(session.units)):
        own = session.spikes.time_ns[session.spikes.unit == k]
        other = rng.integers(0, session.stop_ns, rng.integers(0, 2000))
        times.append(np.sort(np.concatenate([own[holds(USED, own)], other[~holds(USED, other)]])))
    return replace(session, signals=signals, spikes=Spikes.from_units(times))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a model on a session, and gives its weights as bytes and its scores; each once."""
    kept: dict[tuple, tuple[bytes, dict]] = {}

    def run(model: str, seed: int | None) -> tuple[bytes, dict]:
        if (model, seed) not in kept:
            scheme, sets, tasks = MODELS[model]
            session = clean() if seed is None else polluted(clean(), seed)
            folder = tmp_path_factory.mktemp("run")
            config = load_config(model, sets=[*sets, "data.window_ms=500"], tasks=tasks)
            tokens = bake_tokens(folder, session, scheme)
            (divided,), _ = prepare(config, [tokens])
            assert divided.splits["train"].stop_ns.tolist() == [5 * SECOND, 15 * SECOND]
            assert divided.splits["test"].start_ns.tolist() == [17 * SECOND]
            result = train(config, [tokens], folder / "run")
            weights = (folder / "run" / "checkpoint" / "model.safetensors").read_bytes()
            kept[model, seed] = weights, json.loads(json.dumps(result.scores))
        return kept[model, seed]

    return run


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("model", MODELS)
def test_garbage_where_nothing_is_used_changes_no_weight_and_no_score(trained, model, seed):
    weights, scores = trained(model, None)
    other_weights, other_scores = trained(model, seed)
    assert other_scores == scores
    assert other_weights == weights


def test_what_is_used_does_change_them(trained, monkeypatch):
    """The contrast: the same garbage one sample further in."""
    monkeypatch.setattr(f"{__name__}.USED", Intervals([0, 6 * SECOND], [5 * SECOND, 15 * SECOND - AHEAD - 10 * MS]))
    weights, scores = trained("linear", None)
    other_weights, other_scores = trained("linear", 99)
    assert other_weights != weights
    assert other_scores != scores
