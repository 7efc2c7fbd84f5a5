"""FALCON's own evaluator (falcon-challenge 1.0.2, ``make oracle``) runs our decoder over files in its layouts.

The files of M1 are decodable: each muscle is a sum of channels, counted as the evaluator counts and smoothed causally,
so that an answer that comes a bin late or to another session's rows costs score.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import DataError
from spiketok.evaluation.falcon_container import write_container
from spiketok.evaluation.falcon_decoder import falcon_decoder
from spiketok.evaluation.scoring.falcon import FalconScorer
from spiketok.pipeline.export.falcon_tensors import TARGETS, falcon_tensors, smooth_causal
from spiketok.pipeline.ingest import ingest
from spiketok.recording.metrics import r2_variance_weighted
from spiketok.recording.nouns import Source
from spiketok.sources.catalogue.falcon.rules import adjust
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import Run, load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.runs import make_shards, open_shards, run_path
from spiketok.training.tasks.decode import Prediction
from tests.evaluation.test_falcon_decoder import AT_NS, MODELS, counted, distance, offline
from tests.layouts import falcon as layout

pytestmark = pytest.mark.oracle

M1_DAYS = ("20120924", "20120926", "20120927", "20120928")


def decodable_m1(root: Path, role: str, day: str) -> layout.Made:
    """A file of M1 whose muscles follow from its counts, by the same weights on every day."""
    from falcon_challenge.config import FalconTask
    from falcon_challenge.dataloaders import load_nwb

    made = layout.write_m1(root, role, day)
    counts = load_nwb(made.path, FalconTask.m1)[0]
    weights = np.random.default_rng(0).normal(size=(64, 16)) * (np.arange(64) % 4 == 0)[:, None]
    emg = smooth_causal(counts, 60.0) @ weights
    with h5py.File(made.path, "r+") as file:
        for k, muscle in enumerate(layout.MUSCLES):
            file[f"acquisition/preprocessed_emg/{muscle}/data"][:] = emg[:, k]
    return made


def stored(root: Path, name: str, files: list[Path]) -> Workspace:
    workspace = Workspace(root)
    assert [one.error for one in ingest(workspace, files, name, rules="falcon") if one.error] == []
    return workspace


def trained(workspace: Workspace, name: str, model: str, task: str) -> Run:
    config = load_config(model, None, MODELS[model], tasks=[f"decode:{TARGETS[task]}"])
    sessions = workspace.select(f"{name}/*_held_in_calib")
    make_shards(workspace, sessions, config, print)
    opened = open_shards(workspace, sessions, config)
    path = run_path(workspace, config, opened)
    train(config, opened, path)
    return load_run(path)


def offline_of(run: Run, session_id: str, file: Path, task: str, folder: Path) -> Prediction:
    """The prediction of a file's counts in the place of a session that the run was trained on."""
    session = adjust(read_nwb(file, "falcon/x", Source(file.name, "0" * 64, 1), mends_clocks=True), file)
    made = falcon_tensors(session, file)
    return offline(folder, run, counted(replace(session, id=session_id), made.neural, AT_NS[task]))


@pytest.fixture(scope="module")
def m1(tmp_path_factory) -> tuple[Workspace, Path]:
    """The workspace of four held-in days, and the folder of their minival files."""
    root = tmp_path_factory.mktemp("m1")
    held_in = [decodable_m1(root / "000941", layout.HELD_IN, day) for day in M1_DAYS]
    for day in M1_DAYS:
        decodable_m1(root / "000941", layout.MINIVAL, day)
    return stored(root / "workspace", "falcon_m1", [one.path for one in held_in]), root


def evaluated(evaluator, decoder, folder: Path, patch) -> tuple[dict, dict, dict]:
    """The evaluator's scores, and by tag the predictions and the truth that it wrote."""
    patch.setenv("PREDICTION_PATH_LOCAL", str(folder / "said.pkl"))
    patch.setenv("GT_PATH", str(folder / "true.pkl"))
    scores = evaluator.evaluate(decoder, phase="minival")
    said, true = (pickle.loads((folder / f"{name}.pkl").read_bytes())["m1"] for name in ("said", "true"))
    del said["normalized_latency"]
    return scores["submission_result"]["minival_split_m1"], said, true


@pytest.mark.parametrize("model", ["linear", "poyo", "possm"])
def test_m1_is_scored_as_we_score_it(model, m1, tmp_path, monkeypatch):
    from falcon_challenge.evaluator import FalconEvaluator

    workspace, data = m1
    monkeypatch.setenv("EVAL_DATA_PATH", str(data))
    run = trained(workspace, "falcon_m1", model, "m1")
    evaluator = FalconEvaluator(split="m1", dataloader_workers=0)
    files = evaluator.get_eval_files("minival")
    together = falcon_decoder(run.path, "m1", batch_size=4, files=files)
    scores, said, true = evaluated(evaluator, together, tmp_path, monkeypatch)
    assert set(said) == set(M1_DAYS)
    (row,) = FalconScorer().table(tmp_path / "said.pkl", tmp_path / "true.pkl").rows
    assert {f"Held In {name}": row[name] for name in ("R2 Mean", "R2 Std.")} == pytest.approx(
        {name: value for name, value in scores.items() if name != "Normalized Latency"}, abs=1e-9
    ), "our scorer's table is the evaluator's"
    assert FalconScorer().check(tmp_path / "said.pkl", tmp_path / "true.pkl") == []
    r2 = []
    for day in M1_DAYS:
        mask = true[day]["mask"]
        r2.append(r2_variance_weighted(true[day]["data"], said[day][mask]))
    assert abs(scores["Held In R2 Mean"] - np.mean(r2)) < 1e-9
    (tmp_path / "alone").mkdir()
    one_by_one = evaluated(evaluator, falcon_decoder(run.path, "m1"), tmp_path / "alone", monkeypatch)
    for day in M1_DAYS:
        n_bins = len(one_by_one[1][day])
        assert np.array_equal(one_by_one[1][day], said[day][:n_bins]), "four at once, or one by one"
    ours = []
    for day, file in zip(M1_DAYS, files, strict=True):
        expected = offline_of(run, f"falcon_m1/{day}_held_in_calib", file, "m1", tmp_path / day)
        assert distance(run, said[day], expected) <= 1e-5
        ours.append(expected.score()["r2_variance_weighted"])
    if model == "linear":  # ours is of the middles of bins, FALCON's of the samples 10 ms later
        assert np.mean(ours) > 0.9, "the target lies in the counts"
        assert 0.7 < scores["Held In R2 Mean"] < np.mean(ours)
    if model == "poyo":  # offline, possm has no answer where less than a window is left at the end
        assert abs(scores["Held In R2 Mean"] - np.mean(ours)) < 1e-6


@pytest.mark.parametrize(("task", "model"), [("m2", "possm"), ("h1", "linear")])
def test_other_tasks_are_predicted_as_offline(task, model, tmp_path):
    from falcon_challenge.evaluator import FalconEvaluator

    name = f"falcon_{task}"
    made = [one.path for one in layout.write_set(tmp_path / "files", name)]
    held_in, minival = made[:2], made[-1]
    workspace = stored(tmp_path / "workspace", name, held_in)
    run = trained(workspace, name, model, task)
    decoder = falcon_decoder(run.path, task, batch_size=2)
    said = FalconEvaluator(split=task, dataloader_workers=0).predict_files(decoder, [minival, held_in[1]])[0]
    assert len(said) == 2
    for file in (minival, held_in[1]):
        (tag,) = decoder.require([file])
        expected = offline_of(run, decoder.sessions[tag].id, file, task, tmp_path / "counted" / tag)
        assert distance(run, said[tag], expected) <= 1e-5


def test_the_container_s_entry_script_writes_the_same_files(m1, tmp_path, monkeypatch):
    """As a process of its own, from the folder that the image is made of, moved, and from nothing else."""
    from falcon_challenge.evaluator import FalconEvaluator

    workspace, data = m1
    monkeypatch.setenv("EVAL_DATA_PATH", str(data))
    run = trained(workspace, "falcon_m1", "linear", "m1")
    evaluator = FalconEvaluator(split="m1", dataloader_workers=0)
    evaluated(evaluator, falcon_decoder(run.path, "m1", batch_size=2), tmp_path, monkeypatch)
    packed = write_container(run.path, tmp_path / "packed")
    assert "it knows no session of 20121004, 20121017, 20121024" in packed.remarks[1]
    folder = Path(shutil.move(packed.path, tmp_path / "moved"))
    wanted = {"EVALUATION_LOC": "local", "PHASE": "minival", "BATCH_SIZE": "2", "EVAL_DATA_PATH": str(data)}
    wanted |= {"PREDICTION_PATH_LOCAL": str(tmp_path / "own.pkl"), "GT_PATH": str(tmp_path / "own_gt.pkl")}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | wanted
    said = subprocess.run(
        [sys.executable, str(folder / "evaluate.py")], cwd="/", env=environment, capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr[-2000:]
    pairs = [(tmp_path / f"{a}.pkl", tmp_path / f"{b}.pkl") for a, b in (("said", "true"), ("own", "own_gt"))]
    first, second = (FalconScorer().table(*pair).rows[0] for pair in pairs)
    assert {k: v for k, v in first.items() if k not in ("file", "Normalized Latency")} == {
        k: v for k, v in second.items() if k not in ("file", "Normalized Latency")
    }
    assert 0 < second["R2 Mean"] < 1


def test_a_file_without_a_session_is_told_before_anything_is_decoded(m1, tmp_path):
    workspace, _ = m1
    run = trained(workspace, "falcon_m1", "linear", "m1")
    other = layout.write_m1(tmp_path, layout.HELD_OUT, "20121004").path
    with pytest.raises(DataError, match="tag '20121004', of which linear-.* knows no session .it knows 20120924, "):
        falcon_decoder(run.path, "m1", files=[other])
    with pytest.raises(DataError, match="other.nwb has no name of FALCON's m1"):
        falcon_decoder(run.path, "m1", files=[tmp_path / "other.nwb"])
    with pytest.raises(DataError, match="was trained on no file of FALCON's m2"):
        falcon_decoder(run.path, "m2")
    shutil.copytree(workspace.runs, tmp_path / "image" / "runs")
    shutil.copytree(workspace.shards, tmp_path / "image" / "shards")
    moved = falcon_decoder(tmp_path / "image" / "runs" / run.path.name, "m1")
    assert list(moved.sessions) == list(M1_DAYS), "runs and shards are enough"
