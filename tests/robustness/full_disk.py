"""A disk that gets full while a command writes: one line says so, nothing is half there, what was there stays whole.

Each case has a small disk of its own (a tmpfs, which takes the right to mount one). When there is room again the same
command ends well.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.nwb_files import write_rich
from tests.robustness import Case, Cli, Outcome
from tests.robustness._workspace import POYO, SIMULATE, workspace
from tests.robustness.causes import DAY, EVALUATE, LINEAR, LINEAR_RUN, TOKENIZE, told

DISK_BYTES = 64 << 20
BALLAST = "ballast"
CHANGES = ("index.jsonl", "sources.json", ".lock", ".checked", "metrics.jsonl")  # these may, whole or not at all
MANY_STEPS = tuple(word.replace("optim.steps=4", "optim.steps=40") for word in POYO)
Listing = dict[str, str]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder that is a disk of its own."""
    place = folder / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], capture_output=True, text=True
    )
    assert done.returncode == 0, f"these cases need the right to mount a tmpfs: {done.stderr}"
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(root: Path, free: int) -> None:
    """Leave so many bytes, to the page."""
    with open(root / BALLAST, "wb") as stream:
        while (room := shutil.disk_usage(root).free - free) > 0:
            stream.write(bytes(min(room, 1 << 20)))
            stream.flush()


def listing(root: Path) -> Listing:
    """The digest of every file."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != BALLAST)
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def unharmed(root: Path, before: Listing, outcome: Outcome) -> None:
    after = listing(root)
    changed = [name for name in before if after.get(name) != before[name] and Path(name).name not in CHANGES]
    assert not changed, f"changed: {changed}: {outcome}"
    half = [str(path.relative_to(root)) for path in root.rglob(".wip-*")]
    assert not half, f"left behind: {half}: {outcome}"
    empty = [name for name in after.keys() - before.keys() if not (root / name).stat().st_size]
    assert not [name for name in empty if Path(name).name != ".lock"], f"empty: {empty}: {outcome}"
    lines = [line for line in outcome.err.splitlines() if "no space left" in line]
    assert len(lines) <= 3, f"more than a line an item: {outcome}"


def _run(words: tuple[str, ...], free: str, place: str, cli: Cli, folder: Path) -> None:
    """A command on a workspace, with room for a half, or more than one, of an artefact of the kind that it writes."""
    with small_disk(folder) as root:
        workspace(cli, root)
        pattern, _, share = free.partition(" x ")
        like = sorted(root.glob(pattern))[0] if share else root / "sources.json"
        size = sum(path.stat().st_size for path in ([like] if like.is_file() else like.rglob("*")) if path.is_file())
        fill(root, int(float(share) * size) if share else 0)
        before = listing(root)
        outcome = cli(*words, root=root)
        told(outcome, "no space left", "are free", place, "free some")
        unharmed(root, before, outcome)
        (root / BALLAST).unlink()
        cli(*words, root=root).succeeds()
        unharmed(root, {name: sha for name, sha in before.items() if "xsession" not in name}, outcome)


def _next_checkpoint(cli: Cli, folder: Path) -> None:
    """A run was killed; the disk is full when it goes on and writes its next checkpoint."""
    with small_disk(folder) as root:
        workspace(cli, root)
        earlier = set(root.glob("runs/*"))
        process = cli.start(*MANY_STEPS, root=root)
        deadline = time.monotonic() + 120
        while not (made := [p for p in root.glob("runs/*/checkpoint/checkpoint.json") if p.parents[1] not in earlier]):
            assert process.poll() is None and time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for half in made[0].parents[1].glob(".wip-*"):  # of the kill
            shutil.rmtree(half)
        fill(root, 20_000)
        before = listing(root)
        outcome = cli(*MANY_STEPS, root=root)
        told(outcome, "no space left", "are needed", f"runs/{made[0].parents[1].name}/checkpoint")
        unharmed(root, before, outcome)
        (root / BALLAST).unlink()
        cli(*MANY_STEPS, root=root).succeeds()


class _Server(http.server.SimpleHTTPRequestHandler):
    announces = True

    def log_message(self, *_: object) -> None:
        pass

    def send_header(self, name: str, value: str) -> None:
        if self.announces or name.lower() != "content-length":
            super().send_header(name, value)


class _Silent(_Server):
    announces = False


def _fetch(handler: type[_Server], said: tuple[str, ...], cli: Cli, folder: Path) -> None:
    served = folder / "served"
    served.mkdir()
    path = write_rich(served / "a.nwb")
    with open(path, "ab") as stream:
        stream.write(bytes(3 << 20))  # longer than what the system keeps back
    with (
        small_disk(folder) as root,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(served))) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = ("fetch", f"http://127.0.0.1:{server.server_address[1]}/a.nwb", "--download-only")
        fill(root, 1 << 20)
        told(cli(*words, root=root), *said)
        (root / BALLAST).unlink()
        cli(*words, root=root).succeeds()
        (came,) = root.rglob("a.nwb")
        assert came.read_bytes() == path.read_bytes()
        server.shutdown()


def _simulate(cli: Cli, folder: Path) -> None:
    with small_disk(folder) as root:
        fill(root, 200_000)
        words = (*SIMULATE, "--files-only")
        outcome = cli(*words, root=root)
        told(outcome, "no space left", "simulated", "free some")
        unharmed(root, {}, outcome)
        (root / BALLAST).unlink()
        cli(*words, root=root).succeeds()


def cases(count: int | None) -> list[Case]:
    ingest = ("ingest", "simulated", "--dataset", "new")
    new_run = (*LINEAR, "--set", "seed=7")
    export = ("export", DAY, "--to", "nwb", "--out", "out")
    session, shard = f"store/{DAY}", f"shards/per-spike/{DAY}/*"
    found = [
        Case("ingest, no room", partial(_run, ingest, "", "store/new")),
        Case("ingest, room for one session", partial(_run, ingest, f"{session} x 1.4", "store/new")),
        Case("tokenize, no room", partial(_run, TOKENIZE, "", "shards/quantized")),
        Case("tokenize, room for half a shard", partial(_run, TOKENIZE, f"{shard} x 0.5", "shards/quantized")),
        Case("train, no room", partial(_run, new_run, "", "runs/linear")),
        Case("train, room for half of its weights", partial(_run, new_run, f"{LINEAR_RUN}/checkpoint x 0.5", "runs/")),
        Case("train, no room for the next checkpoint", _next_checkpoint),
        Case("eval-xsession over an earlier report", partial(_run, EVALUATE, "", "xsession")),
        Case("export, room for half", partial(_run, export, "simulated/sub-S01/*.nwb x 0.4", "out/simulated")),
        Case("fetch of a size announced", partial(_fetch, _Server, ("no space left", "are needed", "a.nwb"))),
        Case("fetch of a size not announced", partial(_fetch, _Silent, ("no space left", "a.nwb"))),
        Case("simulate, room for half a file", _simulate),
    ]
    return found if count is None else found[:count]
