"""Spikes drawn from a run, and behaviour read from its latents: files, scores, refusals, the same bytes for a seed."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.generation import counts_of, generate, write_drawn
from spiketok.evaluation.latents import ALPHAS, AROUND, FOLDS, around, read_latents, ridge_r2, rows_of
from spiketok.models.batch import Generation
from spiketok.recording.sample_scores import sample_scores
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.sessions import divide
from tests.decodable import bake_tokens, decodable_session
from tests.models.test_models import QUICK

SETS = [
    *(f"model.{key}={value}" for key, value in (QUICK["ldns"] | {"diffuse_from": 0.5}).items()),
    *("data.window_ms=500", "data.batch_size=4", "optim.steps=6", "optim.checkpoint_every=4", "optim.accumulate=2"),
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


def test_a_step_of_several_batches_counts_once(trained):
    assert int(load_run(trained[0] / "whole").model.n_diffused) == 3  # the second half of six steps


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


# ---- what latents say of behaviour ----------------------------------------------------------------------------------


def test_a_ridge_is_that_of_its_equations_with_the_penalty_of_blocks_of_time():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(203, 12)).cumsum(0) / 5  # slow, so that shuffled folds would choose another penalty
    y = x[:, :2] + 4 * rng.normal(size=(203, 2))
    test_x, test_y = rng.normal(size=(50, 12)), rng.normal(size=(50, 2))

    def told(rows: np.ndarray, alpha: float, at: np.ndarray) -> np.ndarray:
        a, b = x[rows] - x.mean(0), y[rows]
        a, at, shift = a / x.std(0), (at - x.mean(0)) / x.std(0), (a / x.std(0)).mean(0)
        weight = np.linalg.solve((a - shift).T @ (a - shift) + alpha * np.eye(12), (a - shift).T @ (b - b.mean(0)))
        return (at - shift) @ weight + b.mean(0)

    def r2(target: np.ndarray, found: np.ndarray) -> float:
        return float(np.mean(1 - ((target - found) ** 2).sum(0) / ((target - target.mean(0)) ** 2).sum(0)))

    blocks = np.array_split(np.arange(203), FOLDS)
    reached = [
        np.mean([r2(y[block], told(np.setdiff1d(np.arange(203), block), alpha, x[block])) for block in blocks])
        for alpha in ALPHAS
    ]
    best = ALPHAS[int(np.argmax(reached))]
    assert ridge_r2(x, y, test_x, test_y) == pytest.approx(r2(test_y, told(np.arange(203), best, test_x)), rel=1e-6)


def test_counts_around_a_bin():
    counts = np.arange(2 * 9 * 3).reshape(2, 9, 3)
    found = around(counts).reshape(2, 9, 2 * AROUND + 1, 3)
    for w, t, k in np.ndindex(2, 9, 2 * AROUND + 1):
        at = t + k - AROUND
        assert np.array_equal(found[w, t, k], counts[w, at] if 0 <= at < 9 else np.zeros(3))


def test_rows_are_the_bins_of_a_split_once_each(trained):
    run = load_run(trained[0] / "whole")
    (row,) = read_latents(run, trained[1])
    session = divide(trained[1], run.tasks, run.config.split)
    task = next(task for task in session.tasks if task.labelled)
    rows = rows_of(run, session, task, "test", "cpu")
    assert row["task"] == task.name and row["n_test"] == len(rows.target) and row["session"] == trained[1].id
    windows = session.windows("test")
    assert len(rows.target) <= windows.total_ns // 20_000_000  # none of the windows that lie over each other is twice
    signal = SESSION.signals["hand_vel"]
    inside = (signal.time_ns >= windows.start_ns[0]) & (signal.time_ns < windows.start_ns[0] + 20_000_000)
    expected = task.normalised(signal.value[inside]).mean(0)
    np.testing.assert_allclose(rows.target[0], expected, rtol=1e-5)
    middle = AROUND * 6
    whole = counts_of(SESSION, windows.start_ns[:1], 20_000_000, 20_000_000)[0, 0]
    assert np.array_equal(rows.counts[0, middle : middle + 6], whole)
