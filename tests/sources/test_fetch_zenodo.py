"""Fetching records of Zenodo, against a loopback server with faults."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.errors import ArtefactError, FetchError, UnknownNameError, UsageError
from spiketok.sources.archives import ranged
from spiketok.sources.archives.plans import POLICIES
from spiketok.sources.catalogue import (
    Selection,
    ZenodoRequest,
    check_here,
    dataset_of,
    download,
    load_source,
    plan_fetch,
    resolve,
)
from spiketok.storage.store import read_attributes
from tests.zenodo_server import ZenodoServer

BIG, SMALL = "indy_20160407_02.mat", "loco_20170210_03.mat"
BYTES = {BIG: random.Random(1).randbytes(700_000), SMALL: random.Random(2).randbytes(150_000)}
NAME = "zenodo:3854034:*.mat"
FOLDER = "zenodo/3854034"
PIECE = 65536


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Our own pauses between attempts take no time, and pieces are small."""
    monkeypatch.setattr(ranged, "PAUSE_S", 0.0)
    monkeypatch.setattr(ranged, "PIECE_BYTES", PIECE)


@pytest.fixture
def server():
    with ZenodoServer({**BYTES, "readme.txt": b"words", "plain.nwb": b"no"}) as running:
        yield running


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def fetch(server, raw, name=NAME, *, policy="skip", jobs=2, **selection):
    plan = plan_fetch(resolve(name), raw, api_url=server.api_url, policy=policy, selection=Selection(**selection))
    return {result.path: result for result in download(plan, raw, policy=policy, jobs=jobs)}


def on_disk(raw: Path) -> dict[str, bytes]:
    found = [p for p in raw.rglob("*") if p.is_file() and p.suffix in (".mat", ".nwb")]
    return {p.relative_to(raw).as_posix(): p.read_bytes() for p in found}


WHOLE = {f"{FOLDER}/{path}": body for path, body in BYTES.items()}


@pytest.mark.parametrize(
    ("word", "record", "path"),
    [
        ("zenodo:3854034", "3854034", None),
        ("ZENODO:3854034:a b.mat", "3854034", "a b.mat"),
        ("10.5281/zenodo.3854034", "3854034", None),
        ("doi:10.5281/zenodo.3854034", "3854034", None),
        ("https://doi.org/10.5281/zenodo.3854034", "3854034", None),
        ("https://zenodo.org/record/3854034", "3854034", None),
        ("https://zenodo.org/records/3854034?preview=1", "3854034", None),
        ("https://zenodo.org/records/3854034/files/a%20b.nwb?download=1", "3854034", "a b.nwb"),
    ],
)
def test_resolve_records(word, record, path):
    request = resolve(word)
    assert isinstance(request, ZenodoRequest)
    assert (request.record, request.path) == (record, path)


def test_plan_tells_licence_and_citation_and_writes_nothing(server, raw, tmp_path):
    plan = plan_fetch(resolve(NAME), raw, api_url=server.api_url)
    assert (plan.record, plan.version, plan.license, plan.doi) == (
        "3854034",
        "2",
        "cc-by-4.0",
        "10.5281/zenodo.3854034",
    )
    assert plan.citation == (
        "O'Doherty, Joseph E.; Sabes, Philip N. (2020) Nonhuman Primate Reaching with Multichannel Sensorimotor Cortex "
        "Electrophysiology (Version 2) [Data set]. Zenodo. https://doi.org/10.5281/zenodo.3854034"
    )
    assert [(a.path, a.size, a.md5) for a in plan.assets] == [
        (path, len(body), hashlib.md5(body).hexdigest()) for path, body in sorted(BYTES.items())
    ]
    assert not server.file_requests
    assert list(tmp_path.iterdir()) == []


def test_download_then_nothing_is_asked_again(server, raw):
    assert {r.status for r in fetch(server, raw).values()} == {"fetched"}
    assert on_disk(raw) == WHOLE
    assert server.file_bytes == 850_000
    record = json.loads((raw / FOLDER / "zenodo.json").read_text())
    assert record["assets"][BIG] == {
        "size": 700_000, "md5": hashlib.md5(BYTES[BIG]).hexdigest(), "sha256": hashlib.sha256(BYTES[BIG]).hexdigest(),
    }  # fmt: skip
    assert not (raw / ".staging").exists()
    source = load_source(raw / FOLDER / BIG)
    assert (source.sha256, source.version, source.license) == (record["assets"][BIG]["sha256"], "2", "cc-by-4.0")
    assert "zenodo.3854034" in source.citation
    assert dataset_of(raw / FOLDER / BIG) == "odoherty_sabes"
    server.forget()
    assert {r.status for r in fetch(server, raw).values()} == {"skipped"}
    assert server.requests == []


def test_record_outside_the_catalogue_goes_by_its_number(raw):
    with ZenodoServer({"a.nwb": b"1", "b.mat": b"2"}, record="77") as server:
        assert list(fetch(server, raw, "zenodo:77")) == ["a.nwb"]
        with pytest.raises(UnknownNameError, match=r"did you mean 'b\.mat'"):
            fetch(server, raw, "zenodo:77:c.mat")
    assert dataset_of(raw / "zenodo" / "77" / "a.nwb") == "zenodo-77"


def test_from_the_catalogue_to_the_store(tmp_path):
    from tests.layouts import odoherty_sabes

    file = tmp_path / odoherty_sabes.M1_ONLY
    odoherty_sabes.write(file, still=True)
    body = file.read_bytes()
    with ZenodoServer({file.name: body, "broken.mat": body[:2000]}) as server:
        words = ["fetch", "odoherty_sabes", "--root", str(tmp_path), "--api-url", server.api_url, "--json"]
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    (session,) = told["sessions"]
    assert session["session"] == f"odoherty_sabes/{file.stem}"
    assert [(one["name"], one["stage"]) for one in told["failures"]] == [("broken.mat", "ingest")]
    source = read_attributes(tmp_path / "store" / session["session"])["source"]
    assert (source["sha256"], source["file"]) == (hashlib.sha256(body).hexdigest(), file.name)
    assert "10.5281/zenodo.3854034" in source["citation"]


def test_newest_version_is_another_record(server, raw):
    server.newest = "9999999"
    plan = plan_fetch(resolve(NAME, "latest"), raw, api_url=server.api_url)
    assert (plan.record, plan.folder) == ("9999999", raw / "zenodo" / "9999999")
    with pytest.raises(UsageError, match="a Zenodo record is one version"):
        resolve(NAME, "0.1.2")


def test_names_that_are_not_there(server, raw):
    with pytest.raises(FetchError, match="has no record 3854035"):
        fetch(server, raw, "zenodo:3854035")
    with pytest.raises(UnknownNameError, match=f"did you mean '{BIG}'"):
        fetch(server, raw, "zenodo:3854034:indy_20160407_03.mat")
    with pytest.raises(UsageError, match="names a subject"):
        fetch(server, raw, subjects="Indy")


@pytest.mark.parametrize("key", ["../out.mat", "/out.mat", "a\\b.mat", "a\nb.mat", "INDY_20160407_02.MAT"])
def test_hostile_names_are_refused(server, raw, key):
    server.said[SMALL] = {"key": key}
    with pytest.raises(FetchError, match="nothing was written"):
        fetch(server, raw)
    assert not raw.exists()


def test_cut_connection_costs_only_what_is_missing(server, raw):
    server.cut[BIG] = [300_000, 0, 100_000]
    assert fetch(server, raw)[BIG].status == "fetched"
    assert on_disk(raw) == WHOLE
    ranges = [int(r.removeprefix("bytes=").rstrip("-")) for _, r in server.file_requests if r]
    assert len(ranges) == 3
    assert ranges[0] == ranges[1] <= 300_000 < ranges[0] + PIECE
    assert server.file_bytes < 850_000 + 2 * PIECE


@pytest.mark.parametrize("fault", ["gone", "busy", "forbidden", "ignores ranges"])
def test_faults_then_a_rerun(server, raw, fault):
    if fault == "gone":
        server.cut[BIG] = [300_000] + [0] * 40
    elif fault == "busy":
        server.status[BIG] = [
            (503, {"Retry-After": "0"}),
            (429, {}),
            (500, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        ]
    elif fault == "forbidden":
        server.status[BIG] = [(403, {})]
    else:
        server.cut[BIG], server.ignore_range = [300_000], True
    results = fetch(server, raw)
    assert results[SMALL].status == "fetched"
    assert results[BIG].status == ("failed" if fault in ("gone", "forbidden") else "fetched")
    if fault == "forbidden":
        assert "HTTP 403" in results[BIG].message
        assert any("-> 403" in line for line in results[BIG].tried)
    if fault == "gone":
        assert "kept for the next run" in results[BIG].message
        assert set(on_disk(raw)) == {f"{FOLDER}/{SMALL}"}
        server.cut.clear()
        server.forget()
        plan = plan_fetch(resolve(NAME), raw, api_url=server.api_url)
        assert 400_000 <= plan.fetch_bytes < 400_000 + PIECE
        assert fetch(server, raw)[BIG].status == "fetched"
        assert server.file_bytes == plan.fetch_bytes
    elif fault == "forbidden":
        fetch(server, raw)
    assert on_disk(raw) == WHOLE


def test_busy_record_is_asked_again_and_refused_one_is_told(server, raw):
    server.status[""] = [(503, {"Retry-After": "0"}), (429, {})]
    assert plan_fetch(resolve(NAME), raw, api_url=server.api_url).total_bytes == 850_000
    server.status[""] = [(403, {})]
    with pytest.raises(FetchError, match="HTTP 403.*restricted"):
        plan_fetch(resolve(NAME), raw, api_url=server.api_url)


@pytest.mark.parametrize("fault", ["corrupt once", "corrupt", "md5", "too long", "too short", "no md5"])
def test_wrong_bytes_never_stand_under_the_final_name(server, raw, fault):
    if fault.startswith("corrupt"):
        server.corrupt[BIG] = 1 if fault == "corrupt once" else 99
    elif fault == "md5":
        server.said[BIG] = {"checksum": "md5:" + "0" * 32}
    elif fault == "no md5":
        server.said[BIG] = {"checksum": "sha512:" + "0" * 32}
    else:
        server.said[BIG] = {"size": 700_000 + (-100 if fault == "too long" else 100)}
    result = fetch(server, raw)[BIG]
    if fault == "corrupt once":
        assert result.status == "fetched"
        assert server.file_bytes == 2 * 700_000 + 150_000
        return
    assert result.status == "failed"
    assert ("no md5" in result.message) == (fault == "no md5")
    assert set(on_disk(raw)) == {f"{FOLDER}/{SMALL}"}
    assert not (raw / ".staging").exists()
    asked = [path for path, _ in server.file_requests if BIG in path]
    assert len(asked) <= 4, "fetched once more, not endlessly"
    assert list(json.loads((raw / FOLDER / "zenodo.json").read_text())["assets"]) == [SMALL]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_on_a_damaged_and_a_good_file(server, raw, policy):
    fetch(server, raw)
    damaged = raw / FOLDER / BIG
    damaged.write_bytes(b"x" + BYTES[BIG][1:])
    server.forget()
    results = fetch(server, raw, policy=policy)
    expected = {
        "error": ("failed", "failed"),
        "skip": ("failed", "skipped"),
        "overwrite": ("fetched", "fetched"),
        "overwrite-different": ("fetched", "skipped"),
        "refresh": ("fetched", "skipped"),
    }[policy]
    assert (results[BIG].status, results[SMALL].status) == expected
    assert (damaged.read_bytes() == BYTES[BIG]) == (expected[0] == "fetched")


def test_what_is_here_is_checked_offline(server, raw):
    fetch(server, raw)
    server.forget()
    assert {c.state for c in check_here(resolve(NAME), raw)} == {"good"}
    (raw / FOLDER / SMALL).unlink()
    with open(raw / FOLDER / BIG, "r+b") as stream:
        stream.write(b"x")
    found = {c.path: c for c in check_here(resolve(NAME), raw)}
    assert (found[BIG].state, found[SMALL].state) == ("differs", "missing")
    assert server.requests == []
    for one in found.values():
        name, *options = one.repair[2:]
        policy = options[options.index("-e") + 1] if "-e" in options else "skip"
        fetch(server, raw, name, policy=policy)
    assert on_disk(raw) == WHOLE
    (raw / FOLDER / "zenodo.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"zenodo\.json is damaged"):
        check_here(resolve(NAME), raw)


RUN = (
    "import sys; from pathlib import Path; from spiketok.sources.catalogue import *\n"
    "plan = plan_fetch(resolve(sys.argv[3]), Path(sys.argv[1]), api_url=sys.argv[2])\n"
    "print([r.status for r in download(plan, Path(sys.argv[1]), jobs=1)])"
)


@pytest.mark.slow
def test_killed_in_the_middle_then_run_again(server, raw):
    server.stall[BIG] = 600_000
    part = raw / ".staging" / FOLDER
    process = subprocess.Popen([sys.executable, "-c", RUN, raw, server.api_url, NAME], stderr=subprocess.PIPE)
    limit = time.monotonic() + 30
    while sum(p.stat().st_size for p in part.glob("*/part")) < 500_000:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert on_disk(raw) == {}
    server.stall.clear()
    server.release.set()
    time.sleep(0.3)  # the server's last bytes to the dead process
    server.forget()
    assert {r.status for r in fetch(server, raw).values()} == {"fetched"}
    assert on_disk(raw) == WHOLE
    assert server.file_bytes <= 850_000 - 500_000
    assert not (raw / ".staging").exists()
