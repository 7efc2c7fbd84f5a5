"""MtM by the command line alone: regions from the files, two tasks, an unseen day, and a run that was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.models.mtm import Mtm
from spiketok.sources.simulator import SimulationConfig, simulate
from tests.cli.test_cli import spiketok

pytestmark = pytest.mark.slow  # a minute of CPU

SETS = {
    "model": ("dim=16", "heads=2", "channels=12", "hidden=24", 'masks=["inter_region", "intra_region"]'),
    "optim": ("steps=4", "checkpoint_every=2"),
    "data": ("window_ms=500", "batch_size=4"),
    "task.population": ("held_out=0.25",),
    "transfer": ("identity_steps=2", "full_steps=2", "unfreeze_after=1", "batch_size=4", "adapt_steps=1"),
}
TRAIN = (
    "train",
    "--model",
    "mtm",
    "--tokenize",
    *(w for s, k in SETS.items() for v in k for w in ("--set", f"{s}.{v}")),
)
UNITS = 19  # recorded of 20


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, float]]:
    """The mask of each training batch of the first run, and the share of the units that it hid."""
    return []


@pytest.fixture(scope="module")
def root(tmp_path_factory, drawn) -> Path:
    """A workspace with three days of one subject, on which mtm was trained but for the last."""
    root, nwb = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("nwb")
    files = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=3, n_units=20, duration_s=40.0), nwb)
    spiketok(root, "ingest", *files)
    plain = Mtm._draw

    def watching(self, batch, session, counts):
        mask, hidden, predicted = plain(self, batch, session, counts)
        drawn.append((mask, float(hidden.expand_as(counts).float().mean())))
        return mask, hidden, predicted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Mtm, "_draw", watching)
        spiketok(root, *TRAIN)
    return root


def run_of(root: Path) -> Path:
    (run,) = root.glob("runs/mtm-*")
    return run


def test_both_tasks_are_scored(root, drawn):
    result = json.loads((run_of(root) / "result.json").read_text())
    assert [task["name"] for task in result["tasks"]] == ["population", "decode:cursor_vel"]
    assert len(result["test"]) == 2
    for scores in result["test"].values():
        assert np.isfinite(scores["population"]["co_bps"]) and np.isfinite(scores["decode:cursor_vel"]["r2_mean"])
    assert len(drawn) == 4
    assert all(0 < share < 1 for _, share in drawn)  # the files name two regions: neither mask hides all or nothing


def test_an_unseen_day_has_every_row_of_the_table(root, tmp_path):
    done = spiketok(root, "eval-xsession", "mtm", "--calibration-s", "8", "--json", "--out", tmp_path / "report")
    rows = json.loads(done.stdout)["scores"]
    for task in ("population", "decode:cursor_vel"):
        own = {row["protocol"]: row for row in rows if row["task"] == task}
        assert all(own[protocol]["reason"] == "" for protocol in Mtm.protocols)
    # the read-in, the read-out and the token of the new session are all that moves
    moved = (UNITS * 12 + 12) + (16 * UNITS + UNITS) + 16
    assert {own[p]["trained_parameters"] for p in ("identity_unlabelled", "identity_only")} == {moved}


def test_a_run_that_was_stopped_ends_in_the_same_bytes(root, tmp_path, monkeypatch):
    """The masks that are drawn go on where they stood."""
    shutil.copytree(root, tmp_path / "root")
    weights = run_of(root) / "checkpoint" / "model.safetensors"
    shutil.rmtree(tmp_path / "root" / "runs")
    plain = Mtm.loss

    def stopping(self, batch, output, progress):
        if progress.step == 3:
            raise RuntimeError("the power went")
        return plain(self, batch, output, progress)

    with monkeypatch.context() as patched:
        patched.setattr(Mtm, "loss", stopping)
        assert "the power went" in spiketok(tmp_path / "root", *TRAIN, code=1).stderr
    spiketok(tmp_path / "root", *TRAIN, "--resume")
    assert (run_of(tmp_path / "root") / "checkpoint" / "model.safetensors").read_bytes() == weights.read_bytes()
