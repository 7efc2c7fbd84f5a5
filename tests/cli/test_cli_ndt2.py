"""NDT2 by the command line alone: patches of each array, two tasks, an unseen day, and a run that was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.evaluation.results import OF_MAPS
from spiketok.models.ndt2 import Ndt2
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok

pytestmark = pytest.mark.slow  # a minute of CPU

SETS = {
    "model": ("dim=16", "heads=2", "patch_size=8", "subject_token=true"),
    "optim": ("steps=4", "checkpoint_every=2"),
    "data": ("window_ms=500", "batch_size=4"),
    "task.population": ("held_out=0.25",),
    "transfer": ("identity_steps=2", "full_steps=2", "unfreeze_after=1", "batch_size=4", "adapt_steps=1"),
}
TRAIN = (
    "train",
    "--model",
    "ndt2",
    "--tokenize",
    *(w for s, k in SETS.items() for v in k for w in ("--set", f"{s}.{v}")),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A workspace with three days of one subject, on which ndt2 was trained but for the last."""
    root, nwb = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nwb")
    files = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=20, duration_s=40.0), nwb)
    spiketok(root, "ingest", *files)
    spiketok(root, *TRAIN)
    return root


def run_of(root: Path) -> Path:
    (run,) = root.glob("runs/ndt2-*")
    return run


def test_both_tasks_are_scored(root):
    result = json.loads((run_of(root) / "result.json").read_text())
    assert [task["name"] for task in result["tasks"]] == ["population", "decode:cursor_vel"]
    assert len(result["test"]) == 2
    for scores in result["test"].values():
        assert np.isfinite(scores["population"]["co_bps"]) and np.isfinite(scores["decode:cursor_vel"]["r2_mean"])
    (shard,) = {s["shards"]["patches"]["shard"].split("/")[0] for s in result["sessions"]}
    assert "patch" in shard


def test_patches_are_of_one_array_each(root):
    for manifest in root.glob("shards/patch*/*/*/*/manifest.json"):
        assert json.loads(manifest.read_text())["scheme"]["config"]["group_by"] == "group"
    assert any(root.glob("shards/patch*/*/*/*/manifest.json"))


def test_an_unseen_day_has_every_row_of_the_table(root, tmp_path):
    done = spiketok(root, "eval-xsession", "ndt2", "--calibration-s", "8", "--json", "--out", tmp_path / "report")
    rows = json.loads(done.stdout)["scores"]
    for task in ("population", "decode:cursor_vel"):
        own = {row["protocol"]: row for row in rows if row["task"] == task}
        assert own.keys() == {"linear", "adapted+linear", *Ndt2.protocols, *OF_MAPS}
        assert all(own[p]["reason"] == "" for p in Ndt2.protocols)
    # without labels and with them, the four tokens of the new session are all that moves; its subject is known
    assert {own[p]["trained_parameters"] for p in ("identity_unlabelled", "identity_only")} == {4 * 16}


def test_a_run_that_was_stopped_ends_in_the_same_bytes(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "root")
    weights = run_of(root) / "checkpoint" / "model.safetensors"
    shutil.rmtree(tmp_path / "root" / "runs")
    plain = Ndt2.loss

    def stopping(self, batch, output, progress):
        if progress.step == 3:
            raise RuntimeError("the power went")
        return plain(self, batch, output, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Ndt2, "loss", stopping)
        assert "the power went" in spiketok(tmp_path / "root", *TRAIN, code=1).stderr
    spiketok(tmp_path / "root", *TRAIN, "--resume")
    assert (run_of(tmp_path / "root") / "checkpoint" / "model.safetensors").read_bytes() == weights.read_bytes()
