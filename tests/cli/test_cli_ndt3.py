"""NDT3 by the command line alone: two tasks, behaviour rolled out, an unseen day, and a run that was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.models.ndt3 import Ndt3
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok

pytestmark = pytest.mark.slow  # half a minute of CPU

SETS = {
    "model": ("dim=16", "heads=2", "layers=2", "activation=gelu", "patch_size=8", "hide_random=true", "rollout=true"),
    "optim": ("steps=4", "checkpoint_every=2"),
    "data": ("window_ms=500", "batch_size=4"),
    "task.population": ("held_out=0.25",),
    "transfer": ("full_steps=2", "batch_size=4", "adapt_steps=1"),
}
SET = tuple(w for section, keys in SETS.items() for key in keys for w in ("--set", f"{section}.{key}"))
TRAIN = ("train", "--model", "ndt3", "--tokenize", *SET)
TASK = "decode:cursor_vel"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with three days of one subject, on which ndt3 was trained but for the last."""
    root, nwb = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nwb")
    files = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=20, duration_s=30.0), nwb)
    spiketok(root, "ingest", *files)
    spiketok(root, *TRAIN)
    return root


def run_of(root: Path) -> Path:
    (run,) = root.glob("runs/ndt3-*")
    return run


def test_both_tasks_are_scored(root):
    result = json.loads((run_of(root) / "result.json").read_text())
    assert [task["name"] for task in result["tasks"]] == [TASK, "population"]
    assert len(result["test"]) == 2
    for scores in result["test"].values():
        assert np.isfinite(scores["population"]["co_bps"]) and np.isfinite(scores[TASK]["r2_mean"])
    assert any(root.glob("shards/patch*"))


def test_an_unseen_day_has_every_row_of_the_table(root, tmp_path):
    done = spiketok(root, "eval-xsession", "ndt3", "--calibration-s", "8", "--json", "--out", tmp_path / "report")
    rows = json.loads(done.stdout)["scores"]
    for task in ("population", TASK):
        own = {row["protocol"]: row for row in rows if row["task"] == task}
        assert set(Ndt3.protocols) <= own.keys()
        assert all(own[p]["reason"] == "" for p in Ndt3.protocols)


def test_a_run_that_was_stopped_ends_in_the_same_bytes(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "root")
    weights = run_of(root) / "checkpoint" / "model.safetensors"
    shutil.rmtree(tmp_path / "root" / "runs")
    plain = Ndt3.loss

    def stopping(self, batch, output, progress):
        if progress.step == 3:
            raise RuntimeError("the power went")
        return plain(self, batch, output, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Ndt3, "loss", stopping)
        assert "the power went" in spiketok(tmp_path / "root", *TRAIN, code=1).stderr
    spiketok(tmp_path / "root", *TRAIN, "--resume")
    assert (run_of(tmp_path / "root") / "checkpoint" / "model.safetensors").read_bytes() == weights.read_bytes()
