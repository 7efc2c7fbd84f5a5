"""The one loop of all archives: what plain addresses and Zenodo have of it, and that a new archive is one class."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

from spiketok.errors import FetchError, UsageError
from spiketok.sources.archives import ARCHIVES, download, kept, ranged
from spiketok.sources.archives.base import Archive, Bring, DamagedError, Found, Job
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import Trace
from spiketok.sources.catalogue import check_here, dataset_of, load_source, plan_fetch, resolve
from spiketok.sources.catalogue import download as fetch_plan
from spiketok.storage.locks import beside
from tests.dandi_server import DandiServer
from tests.zenodo_server import ZenodoServer

pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")

PIECE = 65536
VALIDATORS = [("ETag", '"one"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses between attempts take no time, and pieces are small."""
    monkeypatch.setattr(ranged, "PAUSE_S", 0.0)
    monkeypatch.setattr(ranged, "PIECE_BYTES", PIECE)


def nwb_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["x"] = list(random.Random(seed).randbytes(60_000))
    return stream.getvalue()


BODY = nwb_bytes(1)  # about 480 kB


@pytest.fixture
def server():
    with DandiServer({}) as running:
        running.plain = {"/a.nwb": BODY}
        yield running


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def fetch(server, raw, *, policy="skip", progress=None):
    """The plan before, and the result of the one file."""
    plan = plan_fetch(resolve(f"{server.root}/a.nwb"), raw, policy=policy)
    (result,) = fetch_plan(plan, raw, policy=policy, progress=progress)
    return plan, result


def starts(server) -> list[int]:
    """Where each request for a part began."""
    return [int(r.removeprefix("bytes=").rstrip("-")) for path, r in server.requests if path == "/a.nwb" and r]


# ---- plain addresses resume, if the server says which file it is -----------------------------------------------------


@pytest.mark.parametrize("validator", VALIDATORS, ids=lambda v: v[0])
def test_cut_address_goes_on_where_it_was(server, raw, validator):
    server.validators["/a.nwb"] = validator
    server.faults.cut["/a.nwb"] = [200_000, 100_000]
    seen = []
    assert fetch(server, raw, progress=lambda *told: seen.append(told))[1].status == "fetched"
    assert (raw / "url" / "a.nwb").read_bytes() == BODY
    first, second = starts(server)
    assert 200_000 - PIECE < first <= 200_000 < second
    assert server.blob_bytes < len(BODY) + 2 * PIECE
    assert [told[1] for told in seen] == sorted(told[1] for told in seen)
    assert seen[-1] == ("a.nwb", len(BODY), len(BODY))
    assert not (raw / ".staging").exists()


@pytest.mark.parametrize("validator", VALIDATORS, ids=lambda v: v[0])
def test_next_run_brings_the_rest_of_an_address(server, raw, validator):
    server.validators["/a.nwb"] = validator
    server.faults.cut["/a.nwb"] = [200_000] + [0] * 40
    _, result = fetch(server, raw)
    assert (result.status, result.message.endswith("what came is kept for the next run")) == ("failed", True)
    assert not (raw / "url" / "a.nwb").exists()
    server.faults.cut.clear()
    server.forget()
    plan, result = fetch(server, raw)
    (asset,) = plan.assets
    assert (asset.state, result.status) == ("partial", "fetched")
    assert 200_000 - PIECE < asset.partial_bytes <= 200_000
    assert server.blob_bytes == len(BODY) - asset.partial_bytes
    assert (raw / "url" / "a.nwb").read_bytes() == BODY


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds If-Range", "ignores If-Range"])
@pytest.mark.parametrize("when", ["between two runs", "between two pieces"])
def test_address_whose_file_changes_is_never_a_mixture(server, raw, heeds, when):
    server.validators["/a.nwb"], server.heeds_if_range = ("ETag", '"one"'), heeds

    def change(*_) -> None:
        server.plain["/a.nwb"], server.validators["/a.nwb"] = nwb_bytes(2), ("ETag", '"two"')

    if when == "between two runs":
        server.faults.cut["/a.nwb"] = [200_000] + [0] * 40
        assert fetch(server, raw)[1].status == "failed"
        server.faults.cut.clear()
        change()
    else:
        server.faults.cut["/a.nwb"] = [200_000]
    assert fetch(server, raw, progress=change)[1].status == "fetched"
    assert (raw / "url" / "a.nwb").read_bytes() == nwb_bytes(2)
    assert starts(server), "it was tried to go on"


@pytest.mark.parametrize("validator", [None, ("ETag", 'W/"weak"')], ids=["none", "weak"])
def test_address_without_a_validator_begins_anew(server, raw, validator):
    if validator:
        server.validators["/a.nwb"] = validator
    server.faults.cut["/a.nwb"] = [200_000]
    assert fetch(server, raw)[1].status == "fetched"
    assert (raw / "url" / "a.nwb").read_bytes() == BODY
    assert starts(server) == []
    server.faults.cut["/a.nwb"] = [200_000] * 40
    assert fetch(server, raw, policy="overwrite")[1].status == "failed"
    assert not (raw / ".staging").exists(), "a part that nobody could continue is not kept"


def test_address_whose_bytes_are_recorded_goes_on_without_a_validator(server, raw):
    """The recorded digest would tell a mixture."""
    fetch(server, raw)
    (raw / "url" / "a.nwb").unlink()
    server.validators["/a.nwb"] = ("X-None", "")
    server.faults.cut["/a.nwb"] = [200_000]
    server.forget()
    assert fetch(server, raw)[1].status == "fetched"
    assert len(starts(server)) == 1
    assert (raw / "url" / "a.nwb").read_bytes() == BODY


def test_killed_between_the_last_byte_of_an_address_and_its_name(server, raw, monkeypatch):
    server.validators["/a.nwb"] = ("ETag", '"one"')

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "sync", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, raw)
    assert not (raw / "url" / "a.nwb").exists()
    assert fetch(server, raw)[1].status == "fetched"
    assert server.blob_bytes == len(BODY), "what was whole was not fetched again"


# ---- what all have ---------------------------------------------------------------------------------------------------


@contextmanager
def one_file(host: str) -> Iterator[tuple[object, str]]:
    """A server of one file for each archive, and the word for it."""
    if host == "zenodo":
        with ZenodoServer({"a.nwb": BODY}, record="77") as running:
            yield running, "zenodo:77"
        return
    with DandiServer({"a.nwb": BODY}) as running:
        running.plain = {"/a.nwb": BODY}
        yield running, "000140" if host == "dandi" else f"{running.root}/a.nwb"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the lock, for half a second."""
    code = (
        "import sys, time; from pathlib import Path; from spiketok.storage.locks import locked\n"
        "with locked(Path(sys.argv[1]), 'it'): print(1, flush=True); time.sleep(0.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"1\n"
        yield


@pytest.mark.parametrize("host", ["dandi", "zenodo", "url"])
def test_two_runs_at_once_and_a_disk_that_fails(raw, host):
    archive = ARCHIVES[host]
    with one_file(host) as (server, word):

        def run(policy):
            plan = plan_fetch(resolve(word), raw, api_url=server.api_url, policy=policy)
            return plan, fetch_plan(plan, raw, policy=policy)[0]

        plan = plan_fetch(resolve(word), raw, api_url=server.api_url)
        part = archive.part(kept.staging_of(plan.folder, raw), plan.assets[0])
        begun = time.monotonic()
        with locked(beside(part)):
            assert run("skip")[1].status == "fetched"
            assert time.monotonic() - begun > 0.4, "it waits for the other"
        (plan.folder / "a.nwb").unlink()
        (plan.folder / "a.nwb").mkdir()  # a folder stands where the file belongs
        result = run("overwrite-different")[1]
        assert (result.status, result.message.partition(":")[0]) == ("failed", "this machine's disk")
        (plan.folder / "a.nwb").rmdir()
        assert run("skip")[1].status == "fetched"
        assert (plan.folder / "a.nwb").read_bytes() == BODY
        assert not (raw / ".staging").exists()
        assert load_source(plan.folder / "a.nwb").sha256 == hashlib.sha256(BODY).hexdigest()


def test_disk_that_is_too_small_for_a_recorded_address(server, raw, monkeypatch):
    fetch(server, raw)
    (raw / "url" / "a.nwb").unlink()
    server.forget()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchError, match=r"needs .* more and the disk has 1\.0 kB"):
        fetch(server, raw)
    assert server.requests == []


# ---- a new archive is one class --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawerRequest(Request):
    host = "drawer"
    drawer: str

    @property
    def number(self) -> str:
        return self.drawer


class Drawer(Archive):
    """Files in this process's memory."""

    host = "drawer"
    shape = kept.Shape("drawer.json", head=("record", "license"))

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.asked, self.brought, self.spoiled = files, 0, 0, 0

    def request(self, name):
        return DrawerRequest(name, name.removeprefix("drawer:")) if name.startswith("drawer:") else None

    def place(self, plan):
        return f"drawer {plan.record}"

    def _head(self, request: DrawerRequest, raw: Path) -> Plan:
        return Plan("drawer", request.name, raw / "drawer" / request.drawer, record=request.drawer, license="none")

    def ask(self, request, raw, api_url):
        self.asked += 1
        listing = [Asset(p, len(b), sha256=hashlib.sha256(b).hexdigest()) for p, b in sorted(self.files.items())]
        return Plan(**{**vars(self._head(request, raw)), "listing": tuple(listing)})

    def lasting(self, request, raw, api_url):
        return self._head(request, raw)

    @contextmanager
    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> Iterator[Bring]:
        def bring(job: Job) -> None:
            self.brought += 1
            job.part.write_bytes(self.files[job.asset.path])
            if self.spoiled:
                self.spoiled -= 1
                message = "spoiled"
                raise DamagedError(message)

        yield bring

    def entry(self, asset):
        return {}

    def owns(self, folder):
        return folder.parent.name == "drawer"

    def folders(self, request, raw):
        return [self._head(request, raw)]

    def word(self, found: Found):
        return f"drawer:{found.record['record']}"

    def number(self, found: Found):
        return found.record["record"]


def test_a_new_archive_is_one_class(raw, monkeypatch):
    drawer = Drawer({"a.nwb": b"1", "b/c.nwb": b"22", "d.txt": b"333"})
    monkeypatch.setitem(ARCHIVES, "drawer", drawer)
    request = resolve("drawer:7")

    def run() -> dict[str, str]:
        plan = plan_fetch(request, raw)
        return {result.path: result.status for result in fetch_plan(plan, raw)}

    drawer.spoiled = 1
    assert run() == {"a.nwb": "fetched", "b/c.nwb": "fetched"}
    assert (drawer.asked, drawer.brought) == (1, 3), "the spoiled one came twice"
    file = raw / "drawer" / "7" / "b" / "c.nwb"
    assert file.read_bytes() == b"22"
    assert run() == {"a.nwb": "skipped", "b/c.nwb": "skipped"}
    assert (drawer.asked, drawer.brought) == (1, 3), "nothing was asked again"
    assert (load_source(file).license, load_source(file).sha256) == ("none", hashlib.sha256(b"22").hexdigest())
    assert dataset_of(file) is None
    assert {one.state for one in check_here(request, raw)} == {"good"}
    file.write_bytes(b"23")
    bad = {one.path: one for one in check_here(request, raw)}["b/c.nwb"]
    assert (bad.state, bad.repair[:3]) == ("differs", ("spiketok", "fetch", "drawer:7"))
    drawer.spoiled = 99
    plan = plan_fetch(request, raw, policy="overwrite-different")
    (failed,) = [r for r in fetch_plan(plan, raw, policy="overwrite-different") if r.status == "failed"]
    assert failed.message.endswith("spoiled")
    assert plan_fetch(request, raw).kept_list is False, "a list that did not fit the bytes is not kept"
    with pytest.raises(UsageError, match="has no versions"):
        resolve("drawer:7", "latest")
    with pytest.raises(FetchError, match="nothing was written"):
        drawer.files["../x.nwb"] = b""
        plan_fetch(resolve("drawer:8"), raw)
