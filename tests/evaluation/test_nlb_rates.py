"""The benchmark's file of a population run: what the model says of the benchmark's own tensors, and its scores."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.nlb_rates import benchmark_of, read_rates, score_rates, write_rates
from spiketok.evaluation.nlb_scores import scores
from spiketok.models.batch import Asked, Batch, Tokens
from spiketok.pipeline.export.nlb_tensors import eval_input, eval_target, train_input
from spiketok.pipeline.ingest import normalize
from spiketok.recording.nouns import Intervals, Source
from spiketok.storage.store import read_attributes, read_session, write_session
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.predict import score_split
from spiketok.training.runs import make_shards, open_shards, run_path
from spiketok.training.sessions import divide
from tests.layouts.nlb import write_nlb

NAME = "mc_maze_small/sub-Jenkins_ses-small"
SETS = ["model.dim=16", "model.layers=1", "model.heads=2", "model.hidden=16", "optim.steps=30", "data.batch_size=4",
        "data.bin_ms=5"]  # fmt: skip
TRIALS = 'data.segments="trials:move_onset_time,250,450"'


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A set of the benchmark, its trials aligned on the 5 ms grid, so that both kinds of windows share bins."""
    root = tmp_path_factory.mktemp("nlb")
    files = sorted(write_nlb("mc_maze_small", root / "raw").values(), key=str)
    session = normalize(files, NAME, [Source(f.name, "0" * 64, f.stat().st_size) for f in files], {"rules": "nlb"})
    trials = session.trials
    onset = np.round(trials.columns["move_onset_time"] / 0.005) * 0.005
    trials = Intervals(trials.start_ns, trials.stop_ns, {**trials.columns, "move_onset_time": onset.round(3)})
    session = replace(session, intervals={**session.intervals, "trials": trials})
    workspace = Workspace.locate(root)
    write_session(session, workspace.store_path(NAME))
    return workspace


def trained(workspace, *sets):
    config = load_config("ndt1", sets=[*SETS, *sets], tasks=["population"])
    make_shards(workspace, [NAME], config, lambda line: None)
    tokens = open_shards(workspace, [NAME], config)
    folder = run_path(workspace, config, tokens)
    train(config, tokens, folder)
    return load_run(folder), tokens[0]


@pytest.fixture(scope="module")
def plain(workspace):
    return trained(workspace, "data.window_ms=700", "split.kind=stored", TRIALS)


@pytest.fixture(scope="module")
def ahead(workspace):
    """The test file's stretches of 700 ms hold no such window, so trials are divided by chance."""
    return trained(workspace, "data.window_ms=900", "task.population.forward_ms=200", "split.kind=trial")


def said_of(run, session, spikes: dict[str, np.ndarray], forward: int) -> np.ndarray:
    """What the model says of spikes of the held-in units ``[R, T, U]``, by a batch made by hand."""
    held = session.units.columns["held_out"].astype(bool)
    seen = np.nan_to_num(spikes["heldin"])
    n, bins = seen.shape[0], seen.shape[1] + forward
    counts = np.zeros((n, bins, len(held)), np.uint8)
    counts[:, : seen.shape[1], ~held] = seen
    hidden = np.broadcast_to(held, counts.shape).copy()
    hidden[:, seen.shape[1] :] = True
    flat = torch.from_numpy(counts).flatten(0, 1)
    columns = {"counts": flat, "observed": torch.ones(n * bins, dtype=torch.uint8)}
    offset = torch.arange(n + 1) * bins
    asked = Asked(torch.zeros(n * bins), offset, np.zeros(n * bins, np.int64), flat, torch.ones_like(flat).bool())
    batch = Batch(
        inputs={"counts": Tokens(columns, offset)},
        window_ns=run.config.data.window_ns,
        session_B=torch.zeros(n, dtype=torch.int64),
        sessions=[NAME] * n,
        start_ns=np.zeros(n, np.int64),
        asked={"population": asked},
        hidden={"counts": torch.from_numpy(hidden).flatten(0, 1)},
    )
    with torch.inference_mode():
        return run.model(batch)["population"].exp().unflatten(0, (n, bins)).numpy()


@pytest.mark.parametrize("kind", ["plain", "ahead"])
def test_rates_are_what_the_model_says_of_the_benchmarks_tensors(kind, workspace, request, tmp_path):
    (run, _), path = request.getfixturevalue(kind), workspace.store_path(NAME)
    session, digest = read_session(path), read_attributes(path)["digest"]
    held = session.units.columns["held_out"].astype(bool)
    forward = 40 if kind == "ahead" else 0
    for split, train_split in (("valid", "train"), ("test", "train+valid")):
        file = tmp_path / f"{split}.h5"
        shapes = write_rates(run, session, digest, split, file)
        found = read_rates(file)
        given = {"train": train_input(session, split=train_split), "eval": eval_input(session, split=split)}
        for part, tensors in given.items():
            spikes = {"heldin": tensors[f"{part}_spikes_heldin"]}
            rate = said_of(run, session, spikes, forward)
            for group, units in (("heldin", ~held), ("heldout", held)):
                mine = found[f"{part}_rates_{group}"]
                assert mine.shape == (*spikes["heldin"].shape[:2], units.sum())
                np.testing.assert_allclose(mine, rate[:, :140][:, :, units], rtol=1e-5)
                assert (f"{part}_rates_{group}_forward" in found) == bool(forward)
                if forward:
                    late = found[f"{part}_rates_{group}_forward"]
                    np.testing.assert_allclose(late, rate[:, 140:][:, :, units], rtol=1e-5)
        assert set(shapes) == {f"mc_maze_small/{name}" for name in found}
        with h5py.File(file) as h5:
            assert list(h5) == ["mc_maze_small"]
            assert h5.attrs["checkpoint_digest"] == run.digest


def test_its_co_bps_is_the_runs_own_on_the_same_trials(plain, workspace, tmp_path):
    """One window a trial, on the same bins: both definitions are one number."""
    (run, tokens), path = plain, workspace.store_path(NAME)
    session = read_session(path)
    write_rates(run, session, read_attributes(path)["digest"], "valid", tmp_path / "r.h5")
    found = score_rates(session, tmp_path / "r.h5", 5)
    divided = divide(tokens, run.tasks, run.config.split)
    whole = np.isin(session.trials.columns["split"], ["val", "valid"])
    onset = np.rint(session.trials.columns["move_onset_time"][whole] * 1e9).astype(np.int64)
    valid = Intervals(onset - 250_000_000, onset + 450_000_000)
    divided = replace(divided, splits={"train": divided.splits["train"], "valid": valid})
    scored, _ = score_split(run.model, [divided], "valid", run.config)
    own = scored[NAME]["population"]
    assert own["n_samples"] == len(onset) * 140 * 3
    assert found["co-bps"] == pytest.approx(own["co_bps"], abs=1e-6)
    assert set(found) == {"co-bps", "vel R2", "psth R2"}
    again = scores(eval_target(session, psth=True)["mc_maze_small"], read_rates(tmp_path / "r.h5"))
    assert found == again


def test_on_the_command_line(ahead, workspace, tmp_path):
    run, _ = ahead
    words = ["export", run.path.name, "--to", "nlb", "--out", str(tmp_path), "--root", str(workspace.root)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    assert "evaluated windows lie in the run's training time, so their scores are no test" in done.stderr
    (row,) = json.loads(done.stdout)
    assert row["file"] == str(tmp_path / "mc_maze_small/sub-Jenkins_ses-small.nlb_rates.h5")
    session = read_session(workspace.store_path(NAME))
    expected = scores(eval_target(session, psth=True)["mc_maze_small"], read_rates(row["file"]))
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert {"co-bps", "fp-bps", "vel R2", "psth R2"} <= set(row)
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0
    assert "1 session: 1 already" in again.stderr
    with h5py.File(row["file"], "r+") as file:
        file.attrs["checkpoint_digest"] = "another"
    other = CliRunner().invoke(app, words)
    assert isinstance(other.exception, UsageError)
    assert "is there already, and was made of something else: --overwrite replaces it" in str(other.exception)
    wrong = CliRunner().invoke(app, [*words[:3], "falcon", *words[4:]])
    assert "a run is exported --to nlb or nlb_test" in str(wrong.exception)
    test = CliRunner().invoke(app, [*words[:3], "nlb_test", *words[4:], "--json"])
    (row,) = json.loads(test.stdout)
    assert row["file"].endswith(".nlb_test_rates.h5")
    assert "co-bps" not in row


def test_a_run_that_does_not_fit_is_refused_with_the_remedy(workspace, plain, ahead, tmp_path):
    path = workspace.store_path(NAME)
    session, run = read_session(path), plain[0]

    def refused(match, error, run=run, session=session):
        with pytest.raises(error, match=match):
            write_rates(run, session, "d" * 64, "valid", tmp_path / "no.h5")
        assert not (tmp_path / "no.h5").exists()

    data = replace(run.config.data, window_ms=600.0)
    refused(
        "windows of 600 ms with 0 ms of forward bins, mc_maze_small has 700 ms: train with --set data.window_ms=700",
        UsageError,
        run=replace(run, config=replace(run.config, data=data)),
    )
    data = replace(run.config.data, bin_ms=10.0)
    refused("data.bin_ms is 10", UsageError, run=replace(run, config=replace(run.config, data=data)))
    refused("was not asked for the population", UsageError, run=replace(run, tasks=()))
    columns = {name: c for name, c in session.units.columns.items() if name != "held_out"}
    refused(
        "names no held-out units", DataError, session=replace(session, units=replace(session.units, columns=columns))
    )
    refused("benchmark set", UnknownNameError, session=replace(session, id="made/a"))
    with pytest.raises(UnknownNameError):
        benchmark_of(replace(session, id="made/a"))
