"""Kill -9 at random moments in ingest, tokenize and train, run again, and get the bytes of an undisturbed run."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.files import WIP
from spiketok.storage.index import INDEX
from spiketok.tokens.stamps import STAMP

TRAIN = ["train", "--model", "poyo", "--set", "optim.steps=40", "--set", "optim.checkpoint_every=10",
         "--set", "data.batch_size=4", "--task", "decode:cursor_vel"]  # fmt: skip
STAGES = {
    "ingest": (["ingest", "SOURCE"], "store"),
    "tokenize": (["tokenize", "--scheme", "per-spike"], "shards"),
    "train": (TRAIN, "runs/*/checkpoint"),
}


def spiketok(root: Path, words: list[str]) -> subprocess.Popen:
    environment = os.environ | {"SPIKETOK_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "spiketok", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(root: Path, words: list[str]) -> float:
    begun = time.monotonic()
    process = spiketok(root, words)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - begun


def tree(root: Path, pattern: str) -> dict[str, str]:
    """Digest of every file below the folders that match; a half-written one would show as an extra name.

    But for stamps (whether and when a shard was checked is no part of it) and the index, which names times of files.
    """
    found = [f for folder in root.glob(pattern) for f in folder.rglob("*") if f.is_file()]
    files = [f for f in found if not f.name.startswith(STAMP) and f.name != INDEX]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, Path, dict[str, float]]:
    """The sources, a workspace in which stages run in peace, and how long those took that have run."""
    source = tmp_path_factory.mktemp("source")
    simulate(SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=12, duration_s=30.0), source)
    return source, tmp_path_factory.mktemp("peace"), {}


def run_in_peace(undisturbed: tuple[Path, Path, dict[str, float]], stage: str) -> None:
    """Run a stage, and those before it, in the peaceful workspace, where they have not run yet."""
    source, root, took = undisturbed
    for name, (words, _) in STAGES.items():
        if name not in took:
            took[name] = finish(root, place(words, source))
        if name == stage:
            return


def place(words: list[str], source: Path) -> list[str]:
    return [str(source) if w == "SOURCE" else w for w in words]


SLOW = pytest.mark.slow  # tests/training/test_training.py kills a training too, in one stage of it


@pytest.mark.parametrize("n_kills", [1, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize(
    "stage", [pytest.param(s, marks=[SLOW] if s == "train" else [pytest.mark.long]) for s in STAGES]
)
def test_killed_and_run_again_gives_the_same_bytes(undisturbed, tmp_path, stage, n_kills):
    source, peace, took = undisturbed
    run_in_peace(undisturbed, stage)
    names = list(STAGES)
    root = tmp_path / "root"
    root.mkdir()
    for before in names[: names.index(stage)]:
        part = STAGES[before][1].split("/")[0]
        shutil.copytree(peace / part, root / part)
    words, pattern = STAGES[stage]
    words = place(words, source)
    moments = random.Random()
    killed = 0
    for _ in range(n_kills):
        process = spiketok(root, words)
        deadline = time.monotonic() + moments.uniform(0.4, 1.0) * took[stage]
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    finish(root, words)
    assert tree(root, pattern) == tree(peace, pattern)
    assert not list(root.rglob(f"{WIP}*")), f"left behind after {killed} kills"
