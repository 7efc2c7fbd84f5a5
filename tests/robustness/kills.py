"""kill -9 at a moment drawn by seed; the same command again ends in the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.dandi_server import DandiServer
from tests.robustness import Case, Cli
from tests.robustness import _workspace as workspace
from tests.robustness._workspace import tree

BODIES = {f"sub-A/sub-A_ses-{k}_ecephys.nwb": random.Random(k).randbytes(900_000) for k in range(3)}
TRAIN = ["train", "--model", "poyo", "--set", "optim.steps=12", "--set", "optim.checkpoint_every=2",
         "--set", "data.batch_size=4", "--task", "decode:cursor_vel"]  # fmt: skip
WIP = ".wip-"

_peace: dict[tuple[Path, str], tuple[dict[str, str], float]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Stage:
    """A command that may be killed.

    Args:
        words: of the command, with SOURCE for the folder of NWB files and API for the server's address.
        base: makes the workspace that it starts from.
        made: the folders whose bytes must be the same.
        seeds: how many moments are tried.
    """

    words: list[str]
    base: Callable[[Cli, Path], Path]
    made: str
    seeds: int


def _empty(cli: Cli, folder: Path) -> Path:
    (folder / "root").mkdir(parents=True)
    return folder / "root"


STAGES = {
    "ingest": Stage(["ingest", "SOURCE"], _empty, "store", 12),
    "tokenize": Stage(["tokenize", "--scheme", "per-spike,binned,patch"], workspace.store, "shards", 12),
    "train": Stage(TRAIN, workspace.shards, "runs/*/checkpoint", 10),
    "eval-xsession": Stage(
        ["eval-xsession", "linear", "--calibration-s", "5"], workspace.run, "runs/*/xsession/report.json", 6
    ),
    "fetch": Stage(["fetch", "000140", "--download-only", "--api-url", "API"], _empty, "raw/000140/*/sub-A", 12),
    "export": Stage(["export", "*", "--to", "nwb", "--out", "out"], workspace.store, "out", 12),
    "splits": Stage(["splits", "--rule", "kind=trial", "--store-as", "mine"], workspace.store, "store", 6),
}


def cases(count: int | None) -> list[Case]:
    found = [
        Case(f"{name}, seed {k}", partial(_run, name, k)) for name, stage in STAGES.items() for k in range(stage.seeds)
    ]
    return found if count is None else random.Random(0).sample(found, min(count, len(found)))


def _run(name: str, seed: int, cli: Cli, folder: Path) -> None:
    stage, moment = STAGES[name], random.Random(f"{name} {seed}")
    with DandiServer(BODIES) as server:
        words = _placed(stage, cli, server)
        right, took = _undisturbed(name, cli)
        root = stage.base(cli, folder)
        # most of a command is the start of Python: of its work, all moments are as likely
        killed = _kill(cli, root, words, moment.uniform(0.35, 1.05) * took)
        again = cli(*words, root=root).succeeds()
        assert tree(root, stage.made) == right, f"other bytes after a kill at {killed:.2f} s: {again}"
        left = [str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith((WIP, ".lock"))]
        assert not left, f"left behind after a kill at {killed:.2f} s: {left}"


def _placed(stage: Stage, cli: Cli, server: DandiServer) -> list[str]:
    source = str(workspace.files_of_sessions(cli) / "simulated") if "SOURCE" in stage.words else ""
    return [{"SOURCE": source, "API": server.api_url}.get(word, word) for word in stage.words]


def _undisturbed(name: str, cli: Cli) -> tuple[dict[str, str], float]:
    """What a stage makes in peace, and the seconds that it takes."""
    stage = STAGES[name]
    with _lock:
        key = cli.package, name
        if key not in _peace:
            maker = Cli(cli.package, cli.python)
            with DandiServer(BODIES) as server:
                folder = workspace.scratch()
                root = stage.base(maker, folder)
                done = maker(*_placed(stage, maker, server), root=root)
            made = tree(root, stage.made)
            assert made and done.code == 0, f"{name} made nothing: {done}"
            _peace[key] = made, done.seconds
            shutil.rmtree(folder)
        return _peace[key]


def _kill(cli: Cli, root: Path, words: list[str], after_s: float) -> float:
    process = cli.start(*words, root=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    while time.monotonic() < begun + after_s and process.poll() is None:
        time.sleep(0.002)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return time.monotonic() - begun
