"""Ctrl-C at a moment drawn by seed: one line, code 130; the same command again ends in an undisturbed run's bytes.

Every fifth moment is SIGTERM, as a scheduler sends it. The signal goes to the whole group of processes, as a terminal
sends it; where Python itself still starts and nobody listens, it comes as soon as somebody does. A command that had
ended before its moment is counted too: all moments of its time are as likely. What a stop may leave behind are files in
the making, under their own names, of a step that could not end them; the next command removes them.
"""

from __future__ import annotations

import contextlib
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
from tests.robustness import PATIENCE_S, Case, Cli
from tests.robustness import _workspace as workspace
from tests.robustness._workspace import tree

MOMENTS = 20  # of each command
ENDS_S = 15  # no command may take longer to end
BODIES = {f"sub-A/sub-A_ses-{k}_ecephys.nwb": random.Random(k).randbytes(900_000) for k in range(3)}
TRAIN = ["train", "--model", "poyo", "--set", "optim.steps=25", "--set", "data.batch_size=4",
         "--task", "decode:cursor_vel"]  # fmt: skip
SUITE = """
name = "tiny"
version = 1
title = "Tiny"
about = "Two decoders on a simulated day."
seeds = [3]

[[tracks]]
name = "days"
dataset = "simulated"
score = "transfer"
tasks = ["decode:cursor_vel"]
metrics = ["r2_variance_weighted"]
unseen = "*day03*"
protocols = ["identity_only"]
calibration_s = [5]
headline_s = 5
sets = ["data.batch_size=4"]

[[models]]
name = "ridge"
model = "linear"
protocol = "linear"

[[models]]
name = "small"
model = "poyo"
protocol = "identity_only"
sets = ["model.dim=16", "model.depth=1", "optim.steps=10", "transfer.identity_steps=4", "transfer.batch_size=4"]

[[changes]]
version = 1
text = "First."
"""

_peace: dict[tuple[Path, str], tuple[dict[str, str], float]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Stage:
    """A command that may be stopped.

    Args:
        words: of the command, with SOURCE for the folder of NWB files and API for the server's address.
        base: makes the workspace that it starts from.
        made: what must have the same bytes at the end.
    """

    words: list[str]
    base: Callable[[Cli, Path], Path]
    made: tuple[str, ...]


def _empty(cli: Cli, folder: Path) -> Path:
    (folder / "root").mkdir(parents=True)
    return folder / "root"


def _suite(cli: Cli, folder: Path) -> Path:
    root = workspace.store(cli, folder)
    (root / "tiny.toml").write_text(SUITE)
    return root


STAGES = {
    "tokenize": Stage(["tokenize", "--scheme", "per-spike,binned,patch"], workspace.store, ("shards",)),
    "train": Stage(TRAIN, workspace.shards, ("runs/*/checkpoint", "runs/*/result.json")),
    "eval-xsession": Stage(
        ["eval-xsession", "linear", "--calibration-s", "5"], workspace.run, ("runs/*/xsession/report.json",)
    ),
    "fetch": Stage(["fetch", "000140", "--download-only", "--api-url", "API"], _empty, ("raw/000140/*/sub-A",)),
    "ingest": Stage(["ingest", "SOURCE"], _empty, ("store",)),
    "bench": Stage(["bench", "tiny.toml"], _suite, ("bench/*/leaderboard.json", "bench/*/cells")),
}


def cases(count: int | None) -> list[Case]:
    """``count``: of each command, in place of all."""
    return [
        Case(f"{name}, moment {k}", partial(_run, name, k))
        for name in STAGES
        for k in range(MOMENTS if count is None else count)
    ]


def _run(name: str, seed: int, cli: Cli, folder: Path) -> None:
    stage, moment = STAGES[name], random.Random(f"ctrl-c {name} {seed}")
    right, took = _undisturbed(name, cli)
    with DandiServer(BODIES) as server:
        if name == "fetch" and seed % 2:  # a server that says nothing more in the middle of a file
            server.faults.stall = {path: moment.randrange(1, 900_000) for path in BODIES}
        words, root = _placed(stage, cli, server), stage.base(cli, folder)
        after_s = moment.uniform(0, took)
        number = signal.SIGTERM if seed % 5 == 4 else signal.SIGINT
        code, err, ended_s = _stop(cli, root, words, after_s, number)
        server.faults.stall = {}
        server.release.set()
        if code != 0:  # else it was through before
            _is_one_line(code, err, words)
            assert ended_s <= ENDS_S, f"ended {ended_s:.1f} s after the signal at {after_s:.2f} s"
        again = cli(*words, root=root)
        assert again.code == 0, f"the same command again: {again}"
        if name == "train" and " is saved at step " in err:
            reached = err.split(" is saved at step ")[1].split(";")[0]
            assert f"going on from step {reached}" in again.err, f"stopped at step {reached}: {again}"
        assert _made(root, stage) == right, f"other bytes after a stop at {after_s:.2f} s: {again}"
        left = [str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith((".wip-", ".lock"))]
        assert not left, f"left behind after a stop at {after_s:.2f} s: {left}"


def _is_one_line(code: int, err: str, words: list[str]) -> None:
    assert code == 130, f"code {code}: {err[-600:]}"
    assert "Traceback" not in err and "error" not in err.lower(), err[-1500:]
    told = [line for line in err.splitlines() if line.startswith("stopped by ")]
    assert len(told) == 1 and err.endswith(f"{told[0]}\n"), err[-600:]
    assert f"; to go on: spiketok {words[0]} " in told[0], told[0]


def _made(root: Path, stage: Stage) -> dict[str, str]:
    return {name: digest for pattern in stage.made for name, digest in tree(root, pattern).items()}


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
            made = _made(root, stage)
            assert made and done.code == 0, f"{name} made nothing: {done}"
            _peace[key] = made, done.seconds
            shutil.rmtree(folder)
        return _peace[key]


def _listens(pid: int) -> bool:
    """Whether the process has a handler of SIGTERM: until then Python itself starts, and a signal ends it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _stop(cli: Cli, root: Path, words: list[str], after_s: float, number: int) -> tuple[int, str, float]:
    """The exit code of a command that got a signal, what it said, and how long it took to end."""
    with open(root.parent / "err.txt", "w+") as err:
        process = cli.start(*words, root=root, stdout=subprocess.DEVNULL, stderr=err)
        begun = time.monotonic()
        while process.poll() is None and not (time.monotonic() >= begun + after_s and _listens(process.pid)):
            time.sleep(0.002)
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            code = process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -signal.SIGKILL
        ended_s = time.monotonic() - sent
        err.seek(0)
        return code, err.read(), ended_s
