"""NEDS by the command line alone: three kinds of question, an unseen day, spikes without labels, a run that stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.models.neds import Neds
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok

pytestmark = pytest.mark.slow  # a minute of CPU

SETS = {
    "model": ("dim=16", "heads=2", "hidden=24"),
    "optim": ("steps=4", "checkpoint_every=2"),
    "data": ("window_ms=500", "batch_size=4"),
    "transfer": ("identity_steps=2", "full_steps=2", "unfreeze_after=1", "batch_size=4", "adapt_steps=1"),
}
SET = [word for section, keys in SETS.items() for key in keys for word in ("--set", f"{section}.{key}")]
ASKED = ("population", "decode:cursor_vel", "classify:target_dir")
TRAIN = ("train", "--model", "neds", "--tokenize", *SET, "--task", ",".join(ASKED))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with three days of one subject, on which neds was trained but for the last."""
    root, nwb = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nwb")
    files = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=20, duration_s=40.0), nwb)
    spiketok(root, "ingest", *files)
    spiketok(root, *TRAIN)
    return root


def run_of(root: Path) -> Path:
    (run,) = root.glob("runs/neds-*")
    return run


def test_all_tasks_are_scored(root):
    result = json.loads((run_of(root) / "result.json").read_text())
    assert [task["name"] for task in result["tasks"]] == list(ASKED)
    assert len(result["test"]) == 2
    for scores in result["test"].values():
        found = scores["population"]["bps_per_unit"], scores[ASKED[1]]["r2_mean"], scores[ASKED[2]]["accuracy"]
        assert np.isfinite(found).all()


def test_an_unseen_day_has_every_row_of_the_table(root, tmp_path):
    done = spiketok(root, "eval-xsession", "neds", "--calibration-s", "8", "--json", "--out", tmp_path / "report")
    rows = json.loads(done.stdout)["scores"]
    for task in ASKED:
        own = {row["protocol"]: row for row in rows if row["task"] == task}
        assert all(own[p]["reason"] == "" for p in Neds.protocols)


def test_spikes_are_learned_without_labels(root, tmp_path):
    shutil.copytree(root, tmp_path / "root", ignore=shutil.ignore_patterns("runs"))
    spiketok(tmp_path / "root", "train", "--model", "neds", "--tokenize", *SET, "--task", "population")
    result = json.loads((run_of(tmp_path / "root") / "result.json").read_text())
    assert [task["name"] for task in result["tasks"]] == ["population"]


def test_a_run_that_was_stopped_ends_in_the_same_bytes(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "root")
    weights = run_of(root) / "checkpoint" / "model.safetensors"
    shutil.rmtree(tmp_path / "root" / "runs")
    plain = Neds.loss

    def stopping(self, batch, output, progress):
        if progress.step == 3:
            raise RuntimeError("the power went")
        return plain(self, batch, output, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Neds, "loss", stopping)
        assert "the power went" in spiketok(tmp_path / "root", *TRAIN, code=1).stderr
    spiketok(tmp_path / "root", *TRAIN, "--resume")
    assert (run_of(tmp_path / "root") / "checkpoint" / "model.safetensors").read_bytes() == weights.read_bytes()
