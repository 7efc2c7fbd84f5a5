"""The real DANDI client against a loopback archive with every fault that we know of; then the same command again.

After each fault: nothing half-written stands under a final name, no file is missing without a word, and the second run
ends with all files right and moves only the bytes that were missing. ``python -m tests.sources.test_fetch_faults``
prints it as a table: the fault, what the first run said, the bytes and ranges of the second.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from spiketok.errors import FetchError
from spiketok.sources.archives import web
from spiketok.sources.archives.dandi import api
from spiketok.sources.catalogue import download, plan_fetch, resolve
from tests.dandi_server import DandiServer

pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")

SMALL, BIG = "sub-A/sub-A_desc-test_ecephys.nwb", "sub-A/sub-A_desc-train_behavior+ecephys.nwb"
BYTES = {SMALL: random.Random(2).randbytes(150_000), BIG: random.Random(1).randbytes(700_000)}
TOTAL = sum(map(len, BYTES.values()))
PIECE = 65536  # what the client reads at once here: what a cut may lose
FOLDER = "000140/0.220113.0408"


def hurry(patch: pytest.MonkeyPatch) -> None:
    """The client's pauses between attempts (up to minutes) take no time, and pieces are small."""
    import dandi.dandiapi
    import dandi.download
    import tenacity.nap

    patch.setattr(dandi.download, "random", SimpleNamespace(random=lambda: 0.0))
    patch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None))
    patch.setattr(dandi.dandiapi.BaseRemoteAsset.get_download_file_iter, "__defaults__", (PIECE,))
    patch.setattr(api, "CONNECT_PAUSE_S", 0)
    patch.setenv("DANDI_MAX_CHUNK_SIZE", str(PIECE))
    for name in ("DANDI_API_KEY", "CUSTOM_DANDI_API_KEY", "DANDI_INSTANCE"):
        patch.delenv(name, raising=False)


# ---- the faults: each sets the server up, and says what of the first run must fail -----------------------------------

OLD_DATE, BOTH = "Wed, 21 Oct 2015 07:28:00 GMT", {SMALL, BIG}


def _set(name: str, value: Callable[[], object]) -> Callable[[DandiServer], None]:
    return lambda server: setattr(server.faults, name, value())


def _wrong_digest(server: DandiServer) -> None:
    server.faults.digest[BIG] = {**server.asset_metadata(BIG)["digest"], "dandi:sha2-256": "0" * 64}


def _hostile(server: DandiServer) -> None:
    server.assets["sub-A/../../../outside.nwb"] = b"x"


FAULTS: dict[str, tuple[Callable[[DandiServer], None], set[str]]] = {
    "connection cut once": (_set("cut", lambda: {BIG: [400_000]}), set()),
    "connection cut again and again": (_set("cut", lambda: {BIG: [400_000] + [0] * 40}), {BIG}),
    "503, 429, 500, Retry-After in seconds": (
        _set("blob_status", lambda: {BIG: [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (500, {})]}),
        set(),
    ),
    "503 with Retry-After as a date": (
        _set("blob_status", lambda: {BIG: [(503, {"Retry-After": OLD_DATE})]}),
        set(),
    ),
    "503 for ever": (_set("blob_status", lambda: {BIG: [(503, {"Retry-After": "0"})] * 40}), {BIG}),
    "API busy (503, 429)": (_set("api_status", lambda: [503, 429]), set()),
    "wrong byte once": (_set("corrupt", lambda: {BIG: 1}), set()),
    "wrong bytes": (_set("corrupt", lambda: {BIG: 99}), {BIG}),
    "wrong sha256 announced": (_wrong_digest, {BIG}),
    "announced size too small": (_set("size", lambda: {BIG: 699_900}), {BIG}),
    "announced size too large": (_set("size", lambda: {BIG: 700_100}), {BIG}),
    "slow trickle": (_set("trickle", lambda: {BIG: (300_000, 0.05)}), {BIG}),
    "asset vanished (404)": (_set("vanished", lambda: {BIG}), {BIG}),
    "401 for one blob": (_set("blob_status", lambda: {BIG: [(401, {})] * 9}), {BIG}),
    "403 for one asset's metadata": (_set("metadata_status", lambda: {BIG: 403}), {BIG}),
    "403 for all blobs": (_set("blob_status", lambda: {p: [(403, {})] * 9 for p in BYTES}), BOTH),
    "hostile path in the list": (_hostile, BOTH),
}


@dataclass(frozen=True)
class Seen:
    """What two runs did: the first one's results and words, the bytes and ranges of the second."""

    failed: set[str]
    words: str
    missing: int
    moved: int
    ranges: list[str]


def fetch(server: DandiServer, raw: Path, progress: Callable | None = None) -> dict:
    plan = plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url)
    return {result.path: result for result in download(plan, raw, jobs=1, progress=progress)}


def finals(raw: Path) -> dict[str, bytes]:
    """What stands under final names."""
    folder = raw / FOLDER
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.nwb") if p.is_file()}


def first_run(server: DandiServer, raw: Path) -> tuple[set[str], str]:
    """What failed, and in which words; a plan that is refused fails all."""
    try:
        results = fetch(server, raw)
    except FetchError as error:
        return set(BYTES), str(error)
    assert set(results) == set(BYTES), "no file is missing without a word"
    failed = {path for path, result in results.items() if result.file is None}
    assert all(results[path].message for path in failed)
    told = "; ".join(sorted({results[path].message for path in failed}))
    return failed, told or "recovered by itself"


def second_run(server: DandiServer, raw: Path, failed: set[str], words: str) -> Seen:
    """The same command after the fault has gone; checks what was left and what is moved."""
    stood = finals(raw)
    assert stood == {path: BYTES[path] for path in set(BYTES) - failed}, "nothing half-written under a final name"
    assert not list(raw.parent.rglob("outside*"))
    server.forget()
    plan = plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url)
    missing = plan.fetch_bytes
    kept = sum(asset.partial_bytes for asset in plan.assets)
    assert missing == TOTAL - sum(map(len, stood.values())) - kept
    results = {result.path: result for result in download(plan, raw, jobs=1)}
    assert {path: result.status for path, result in results.items()} == {
        path: "fetched" if path in failed else "skipped" for path in BYTES
    }
    assert finals(raw) == BYTES
    assert server.blob_bytes == missing, "only the missing bytes are moved"
    assert not (raw / ".staging").exists()
    ranges = [wanted or "whole" for _, wanted in server.blob_requests]
    return Seen(failed, words, missing, server.blob_bytes, ranges)


def try_fault(name: str, raw: Path) -> Seen:
    """Fetch under a fault, then again without it."""
    sets, _ = FAULTS[name]
    with DandiServer(BYTES) as server, pytest.MonkeyPatch.context() as patch:
        sets(server)
        patch.setattr(web, "PROGRESS_S", 0.4 if server.faults.trickle else 30.0)
        failed, words = first_run(server, raw)
        server.release.set()
        time.sleep(0.05 if server.faults.trickle else 0)
        server.faults, server.assets = type(server.faults)(), dict(BYTES)
        return second_run(server, raw, failed, words)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    hurry(monkeypatch)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_then_again(name, tmp_path):
    seen = try_fault(name, tmp_path / "work" / "raw")
    assert seen.failed == FAULTS[name][1]
    assert "\n" not in seen.words and "secret" not in seen.words
    if name == "slow trickle":
        assert "too slow" in seen.words
        assert 700_000 - 300_000 <= seen.moved < 700_000 - 300_000 + PIECE
    if name == "connection cut again and again":
        assert 700_000 - 400_000 <= seen.moved < 700_000 - 400_000 + PIECE


# ---- faults that end a process or a server --------------------------------------------------------------------------


def part_bytes(raw: Path) -> int:
    """Bytes that the client has kept of the file that is on its way."""
    return sum(p.stat().st_size for p in raw.rglob("*.dandidownload/file"))


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, "it never came so far"
        time.sleep(0.01)


def try_dead_server(raw: Path) -> Seen:
    """The server vanishes in the middle of a body, and comes back."""
    with DandiServer(BYTES) as server:
        server.faults.stall[BIG] = 400_000

        def vanish() -> None:
            until(lambda: part_bytes(raw) >= 5 * PIECE)
            server.die()

        thread = threading.Thread(target=vanish)
        thread.start()
        results = fetch(server, raw)
        thread.join()
    assert results[SMALL].status == "fetched"
    assert any("no connection" in line for line in results[BIG].tried), results[BIG].tried
    with DandiServer(BYTES, port=server.port) as again:
        return second_run(again, raw, {BIG}, results[BIG].message)


def test_server_gone_in_the_middle(tmp_path):
    seen = try_dead_server(tmp_path / "raw")
    assert seen.moved <= 700_000 - 5 * PIECE


RUN = (
    "import sys; from pathlib import Path; from spiketok.sources.catalogue import *\n"
    "plan = plan_fetch(resolve('mc_maze_small'), Path(sys.argv[1]), api_url=sys.argv[2])\n"
    "download(plan, Path(sys.argv[1]), jobs=1)"
)


def try_kill(raw: Path) -> Seen:
    """kill -9 in the middle of a body."""
    with DandiServer(BYTES) as server:
        server.faults.stall[BIG] = 400_000
        process = subprocess.Popen([sys.executable, "-c", RUN, raw, server.api_url])
        until(lambda: part_bytes(raw) >= 5 * PIECE)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        server.release.set()
        time.sleep(0.2)  # its last bytes to the dead process
        server.faults.stall.clear()
        return second_run(server, raw, {BIG}, "killed with SIGKILL")


@pytest.mark.slow  # test_fetch.py kills, too; here the table is what is held
def test_killed_in_the_middle(tmp_path):
    assert try_kill(tmp_path / "raw").moved <= 700_000 - 5 * PIECE


# ---- a disk that fills up: a real one, of 2 MB ----------------------------------------------------------------------

FULL_DISK = """
import json, os, subprocess, sys, urllib.request
sys.path.insert(0, {tests!r})
import pytest
from tests.sources import test_fetch_faults as t
from pathlib import Path
from spiketok.sources.catalogue import check_here, download, plan_fetch, resolve
disk, root = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=True)
filler, raw = disk / "filler", disk / "raw"
def fill(path, done, total):
    if path == t.BIG and done >= 4 * t.PIECE and not filler.exists():
        with open(filler, "wb", buffering=0) as stream:
            try:
                while stream.write(bytes(4096)): pass
            except OSError: pass
with pytest.MonkeyPatch.context() as patch:
    t.hurry(patch)
    server = type("S", (), {{"api_url": root + "/api"}})
    try: first = {{p: r.message for p, r in t.fetch(server, raw, fill).items()}}
    except t.FetchError as error: first = {{t.BIG: str(error)}}
    stood = {{p: b == t.BYTES[p] for p, b in t.finals(raw).items()}}
    filler.unlink()
    try: urllib.request.urlopen(root + "/mark")
    except OSError: pass
    missing = plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url).fetch_bytes
    second = {{p: r.status for p, r in t.fetch(server, raw).items()}}
    right = t.finals(raw) == t.BYTES
print(json.dumps([first, stood, missing, second, right]))
"""


@contextmanager
def small_disk(script: str, *words: object) -> Iterator[object]:
    """Run a script where it may mount a small disk of its own; what it prints as JSON."""
    with tempfile.TemporaryDirectory() as disk:
        if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a disk of his own (unshare -rm)")
        command = ["unshare", "-rm", sys.executable, "-c", script, disk, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        yield json.loads(done.stdout)


def try_full_disk() -> Seen:
    """Another process fills the disk in the middle of a body."""
    script = FULL_DISK.format(tests=str(Path(__file__).parents[2]))
    with DandiServer(BYTES) as server, small_disk(script, server.root) as (first, stood, missing, second, right):
        at = [path for path, _ in server.requests].index("/mark")
        later = [(path, wanted) for path, wanted in server.requests[at:] if path.startswith("/blobs/")]
    assert stood == {SMALL: True}
    assert second == {SMALL: "skipped", BIG: "fetched"}
    assert right
    ranges = [wanted or "whole" for _, wanted in later]
    moved = sum(700_000 - int(r.removeprefix("bytes=").rstrip("-")) for r in ranges)
    assert moved == missing
    return Seen({BIG}, first[BIG], missing, moved, ranges)


def test_disk_full_in_the_middle_of_a_download():
    seen = try_full_disk()
    assert "no space left on the disk" in seen.words
    assert seen.moved < 700_000


FULL_STORE = """
import json, subprocess, sys
from pathlib import Path
from spiketok.pipeline.ingest import ingest
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
disk, file = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%sk" % sys.argv[3], "none", disk], check=True)
work = Workspace(disk / "work")
(first,) = list(ingest(work, [file]))
left = sorted(str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file())
subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
(second,) = list(ingest(work, [file]))
spikes = len(read_session(work.store_path(second.result.session_id)).spikes)
print(json.dumps([first.message, left, second.message, spikes]))
"""


@pytest.mark.slow
def test_disk_full_in_the_middle_of_the_store(tmp_path):
    import numpy as np

    from tests.nwb_files import write_plain

    rng = np.random.default_rng(0)
    file = write_plain(tmp_path / "a.nwb", [np.sort(rng.uniform(0, 100, 50_000)) for _ in range(4)])
    with small_disk(FULL_STORE, file, 200) as (message, left, again, spikes):
        assert "no space left on the disk" in message
        assert left == []
        assert (again, spikes) == ("", 200_000)


def test_api_that_trickles_meets_the_deadline(tmp_path, monkeypatch):
    """A byte now and then meets no read timeout."""
    monkeypatch.setattr(web, "PROGRESS_S", 0.2)
    with DandiServer(BYTES) as server:
        server.faults.api_trickle_s = 0.05
        begun = time.monotonic()
        with pytest.raises(FetchError, match=r"the connection broke|too slow|does not answer"):
            plan_fetch(resolve("mc_maze_small"), tmp_path, api_url=server.api_url)
        assert time.monotonic() - begun < 5
        server.release.set()


# ---- what is waited for, and what is told ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(tmp_path, monkeypatch, form):
    import dandi.download

    slept = []
    monkeypatch.setattr(dandi.download, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    with DandiServer(BYTES) as server:
        server.faults.blob_status[BIG] = [(503, {"Retry-After": "9" if form == "seconds" else until})]
        results = fetch(server, tmp_path / "raw")
    assert results[BIG].status == "fetched"
    assert len(slept) == 1
    assert 7 <= slept[0] <= 9


def test_what_was_tried_is_told_in_order_and_without_secrets(tmp_path, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("CUSTOM_DANDI_API_KEY", "s3cr3t-t0ken")
    with DandiServer(BYTES) as server:
        server.faults.token = "s3cr3t-t0ken"
        server.faults.cut[BIG] = [400_000] + [0] * 40
        server.faults.blob_status[BIG] = [(503, {"Retry-After": "0"})]
        tried = fetch(server, tmp_path / "raw")[BIG].tried
    steps = [line.split(" ", 1)[1] for line in tried]
    assert all(len(line.split(" ", 1)[0].split(":")) == 3 for line in tried), "each with its time"
    asked = [step for step in steps if "/blobs/" in step]
    assert asked[0].endswith("-> 503, to be asked again after 0 s")
    assert asked[1].endswith("-> 200")
    assert "bytes=393216- -> 206" in asked[2]
    assert any("the connection broke; again in" in step for step in steps)
    assert "kept for the next run" in steps[-1]
    everything = "".join(tried) + caplog.text
    everything += "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*.json"))
    assert "t0ken" not in everything
    assert "secret" not in "".join(tried), "signatures of addresses are not repeated"


def test_failed_item_is_told_with_its_log_and_the_command_to_repeat(tmp_path):
    from typer.testing import CliRunner

    from spiketok.cli import app

    with DandiServer(BYTES) as server:
        server.faults.vanished.add(BIG)
        words = ["fetch", "mc_maze_small", "--root", str(tmp_path), "--api-url", server.api_url, "--json"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["spiketok", *words])
            done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    at = next(k for k, line in enumerate(lines) if line.startswith("error:") and BIG in line)
    assert "HTTP 404" in lines[at]
    assert lines[at + 1].startswith("    ") and "/download/ -> 302" in lines[at + 1]
    assert "-> 404" in lines[at + 2]
    assert any(line.endswith("spiketok " + " ".join(words)) for line in lines)
    told = json.loads(done.stdout)
    assert [(one["name"], one["stage"]) for one in told["failures"]] == [(SMALL, "ingest"), (BIG, "download")]
    assert told["again"] == "spiketok " + " ".join(words)


# ---- the table ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print what every fault did: first run, bytes of the second, its ranges."""
    tries: dict[str, Callable[[Path], Seen]] = {name: lambda raw, name=name: try_fault(name, raw) for name in FAULTS}
    tries |= {
        "server gone in the middle": try_dead_server,
        "kill -9 in the middle": try_kill,
        "disk full in the middle": lambda _: try_full_disk(),
    }
    print(f"two files, {TOTAL:,} bytes; pieces of {PIECE:,}\n")
    print("fault\tfirst run: failed\tits words\tmissing then\tmoved by the second run\tits ranges")
    for name, run in tries.items():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            hurry(patch)
            seen = run(Path(folder) / "work" / "raw")
            row = [name, f"{len(seen.failed)} of 2", seen.words, f"{seen.missing:,}", f"{seen.moved:,}"]
            print("\t".join([*row, ", ".join(seen.ranges) or "-"]))


if __name__ == "__main__":
    main()
