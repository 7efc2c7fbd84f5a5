"""Spikes drawn from a run by the command: files, scores, refusals, the same bytes for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.generation import counts_of, generate, write_drawn
from spiketok.models.batch import Generation
from spiketok.recording.sample_scores import sample_scores
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from tests.decodable import bake_tokens, decodable_session
from tests.models.test_models import QUICK

SETS = [
    *(f"model.{key}={value}" for key, value in (QUICK["ldns"] | {"diffuse_from": 0.5}).items()),
    *("data.window_ms=500", "data.batch_size=4", "optim.steps=6", "optim.checkpoint_every=4"),
]
SESSION = decodable_session("day", 0, n_units=6)


CONFIG = load_config("ldns", sets=SETS, tasks=["population", "decode:hand_vel"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tokens = bake_tokens(folder, SESSION, "binned")
    train(CONFIG, [tokens], folder / "whole")
    return folder, tokens


def draw(run, tokens, seed: int = 0, seconds: float = 2.0):
    (drawn,) = generate(run, [tokens], Generation(seed), seconds=seconds, stored=lambda _: SESSION)
    return drawn


@pytest.mark.slow  # three seconds
def test_a_run_that_stopped_in_its_second_stage_goes_on_to_the_same_bytes(trained):
    folder, tokens = trained

    def stop(event: dict) -> None:
        if event["event"] == "checkpoint" and event["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, [tokens], folder / "killed", on_event=stop)
    assert train(CONFIG, [tokens], folder / "killed").resumed_from == 4
    one, other = (load_run(folder / name).model.state_dict() for name in ("whole", "killed"))
    assert all(value.equal(other[key]) for key, value in one.items())


def test_what_is_drawn_is_scored_and_written(trained, tmp_path):
    run = load_run(trained[0] / "whole")
    drawn = draw(run, trained[1])
    assert drawn.counts.shape == (4, 25, 6) and (np.diff(drawn.start_ns) >= 500_000_000).all()
    truth = counts_of(SESSION, drawn.start_ns, 500_000_000, drawn.bin_ns)
    assert drawn.scores["sample"] == sample_scores(drawn.counts, truth, drawn.bin_ns)
    assert set(drawn.scores) == {"sample", "poisson", "training"}
    paths = [write_drawn(draw(run, trained[1]), Generation(), tmp_path / name) for name in "ab"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with np.load(paths[0]) as file:
        assert np.array_equal(file["counts"], drawn.counts) and file["unit_id"].tolist() == list(SESSION.units.id)
    assert json.loads(paths[0].with_suffix(".json").read_text())["scores"] == drawn.scores
    assert not np.array_equal(draw(run, trained[1], seed=1).counts, drawn.counts)


def test_recorded_spikes_are_counted_as_by_hand():
    start = np.array([1_003_000_000, 4_000_000_000])
    found = counts_of(SESSION, start, 100_000_000, 20_000_000)
    for w, t, n in np.ndindex(found.shape):
        low = start[w] + t * 20_000_000
        own = SESSION.spikes.time_ns[SESSION.spikes.unit == n]
        assert found[w, t, n] == ((own >= low) & (own < low + 20_000_000)).sum()


def test_what_cannot_be_drawn(trained, tmp_path):
    run = load_run(trained[0] / "whole")
    with pytest.raises(UsageError, match="--seconds is 0"):
        draw(run, trained[1], seconds=0)
    other = bake_tokens(tmp_path, decodable_session("other", 1, n_units=4), "binned")
    with pytest.raises(DataError, match="made/other is none of the sessions"):
        draw(run, other)
