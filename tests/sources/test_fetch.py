"""Fetching: the official DANDI client against a loopback archive with faults, plain addresses, the catalogue."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, FetchError, SpiketokError, UnknownNameError, UsageError
from spiketok.sources import catalogue
from spiketok.sources.archives import ranged, web
from spiketok.sources.archives.dandi import api
from spiketok.sources.archives.dandi.client import staged_name
from spiketok.sources.archives.plans import POLICIES, judge_paths
from spiketok.sources.catalogue import (
    DATASETS,
    DandiRequest,
    LocalRequest,
    Selection,
    UrlRequest,
    dataset_of,
    download,
    load_source,
    plan_fetch,
    resolve,
)
from tests.dandi_server import DandiServer

pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")

TRAIN, TEST = "sub-A/sub-A_desc-train_behavior+ecephys.nwb", "sub-A/sub-A_desc-test_ecephys.nwb"
BYTES = {TRAIN: random.Random(1).randbytes(700_000), TEST: random.Random(2).randbytes(150_000)}
CHUNK = 65536  # of the client in these tests: what a cut may lose
FOLDER = "000140/0.220113.0408"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The client's pauses between attempts (up to minutes) take no time; no token of this machine is used."""
    import dandi.dandiapi
    import dandi.download
    import tenacity.nap

    monkeypatch.setattr(dandi.download, "random", SimpleNamespace(random=lambda: 0.0))
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(ranged, "PAUSE_S", 0.0)
    monkeypatch.setattr(dandi.dandiapi.BaseRemoteAsset.get_download_file_iter, "__defaults__", (CHUNK,))
    monkeypatch.setenv("DANDI_MAX_CHUNK_SIZE", str(CHUNK))  # for the processes that are started here
    monkeypatch.setattr(api, "CONNECT_PAUSE_S", 0)
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("DANDI_INSTANCE"):
            monkeypatch.delenv(name)


@pytest.fixture
def server():
    with DandiServer({**BYTES, "sub-A/notes.txt": b"not NWB"}) as running:
        yield running


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "work" / "raw"


def plan_of(server, raw, name="mc_maze_small", **options):
    return plan_fetch(resolve(name), raw, api_url=server.api_url, **options)


def fetch(server, raw, name="mc_maze_small", *, policy="skip", sessions=None, **options):
    plan = plan_of(server, raw, name, policy=policy, selection=Selection(sessions))
    return {result.path: result for result in download(plan, raw, policy=policy, **options)}


def on_disk(raw: Path, ending: str = ".nwb") -> dict[str, bytes]:
    found = [p for p in raw.rglob("*") if p.is_file() and p.name.endswith(ending)]
    return {p.relative_to(raw).as_posix(): p.read_bytes() for p in found}


def everything(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


WHOLE = {f"{FOLDER}/{path}": body for path, body in BYTES.items()}


# ---- the catalogue and names ----------------------------------------------------------------------------------------


def test_catalogue_is_consistent():
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        forms = {"dandi": (r"[0-9]{6}", ""), "zenodo": ("", r"[0-9]+"), "s3": ("", r"[a-z0-9.-]{3,63}")}
        places = forms[dataset.host]
        for number, form in zip((dataset.dandiset, dataset.record), places, strict=True):
            assert re.fullmatch(form, number)
        assert dataset.version is None or re.fullmatch(r"draft|[0-9]+\.[0-9]+\.[0-9]+", dataset.version)
        assert dataset.doi is None or dataset.doi in dataset.citation
    names = [n for d in DATASETS.values() for n in (d.name, *d.aliases)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("word", "dandiset", "version", "path", "instance"),
    [
        ("mc_maze_small", "000140", "0.220113.0408", None, None),
        ("MC-Maze-Small", "000140", "0.220113.0408", None, None),
        ("nlb_mc_rtt", "000129", "0.241017.1444", None, None),
        ("000140", "000140", None, None, None),
        ("000140/draft", "000140", "draft", None, None),
        ("DANDI:000140/0.220113.0408", "000140", "0.220113.0408", None, None),
        ("000128:sub-Jenkins/a b.nwb", "000128", None, "sub-Jenkins/a b.nwb", None),
        ("000128/draft:sub-J*", "000128", "draft", "sub-J*", None),
        ("dandi://dandi/000140@0.220113.0408/sub-A/", "000140", "0.220113.0408", "sub-A/", "dandi"),
        ("dandi://dandi-sandbox/000140", "000140", None, None, "dandi-sandbox"),
        ("https://dandiarchive.org/dandiset/000140/0.220113.0408", "000140", "0.220113.0408", None, "dandi"),
        ("https://dandiarchive.org/dandiset/000140/draft/files?location=sub-A%2F", "000140", "draft", "sub-A", "dandi"),
        ("https://sandbox.dandiarchive.org/#/dandiset/000140", "000140", None, None, "dandi-sandbox"),
        ("https://doi.org/10.48324/dandi.000140/0.220113.0408", "000140", "0.220113.0408", None, None),
    ],
)
def test_resolve_dandisets(word, dandiset, version, path, instance):
    request = resolve(word)
    assert isinstance(request, DandiRequest)
    assert (request.dandiset, request.version, request.path, request.instance) == (dandiset, version, path, instance)
    assert request.dataset == {"000140": "mc_maze_small", "000129": "mc_rtt", "000128": "mc_maze"}.get(dandiset, "")


def test_resolve_addresses_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = "https://example.org/data/a.nwb?token=x"
    assert resolve(address) == UrlRequest("https://example.org/data/a.nwb", (address,))  # its name is told
    Path("list.txt").write_text("# two files\nhttp://a.org/a.nwb  # one\n\nhttps://a.org/b.nwb\nhttp://a.org/a.nwb\n")
    assert resolve("list.txt").urls == ("http://a.org/a.nwb", "https://a.org/b.nwb")
    with h5py.File("no_ending", "w"):
        pass
    assert resolve("no_ending") == LocalRequest("no_ending", Path("no_ending"))
    Path("mc_rtt").mkdir()
    assert isinstance(resolve("./mc_rtt"), LocalRequest)
    assert isinstance(resolve("mc_rtt"), DandiRequest), "a name of the catalogue goes before a folder"


@pytest.mark.parametrize(
    ("word", "error", "says"),
    [
        ("mc_maze_smal", UnknownNameError, "did you mean 'mc_maze_small'?"),
        ("nonsense", UnknownNameError, "known: "),
        ("140", UsageError, "did you mean 000140?"),
        ("data/absent.nwb", UsageError, "no such file"),
        ("empty.txt", UsageError, "holds no address"),
        ("bad.txt", UsageError, "bad.txt, line 2: 'a.nwb'"),
        ("binary.dat", UsageError, "neither an NWB"),
        ("pipe", UsageError, "neither a file nor a folder"),
    ],
)
def test_resolve_refuses(tmp_path, monkeypatch, word, error, says):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("# nothing\n")
    Path("bad.txt").write_text("http://a.org/a.nwb\na.nwb\n")
    Path("binary.dat").write_bytes(b"\xff\xfe\x00\x81")
    os.mkfifo("pipe")
    with pytest.raises(error, match=re.escape(says)):
        resolve(word)


# ---- names of files from a server -----------------------------------------------------------------------------------

HOSTILE = [
    ["../outside.nwb"],
    ["a/../../outside.nwb"],
    ["/outside.nwb"],
    ["a//b.nwb"],
    ["./a.nwb"],
    ["a\\..\\b.nwb"],
    ["C:/a.nwb"],
    ["a\x00.nwb"],
    ["a\n.nwb"],
    ["a\x1b[2J.nwb"],
    ["a\u202ebwn.nwb"],
    ["a\ud800.nwb"],
    ["é" * 126 + ".nwb"],
    ["a.nwb", "A.NWB"],
    ["e\u0301.nwb", "\u00e9.nwb"],
    ["a.nwb", "a.nwb/b.nwb"],
    ["a.nwb/b.nwb", "a.nwb"],
    ["a.nwb/c/b.nwb", "A.nwb"],
    ["a.nwb", "a.nwb"],
]


@pytest.mark.parametrize("paths", HOSTILE, ids=ascii)
def test_hostile_paths_are_refused_before_anything_is_written(paths, tmp_path, raw):
    with pytest.raises(FetchError, match="nothing was written"):
        judge_paths(paths, "it")
    if len(set(paths)) < len(paths):
        return  # the loopback archive cannot hold one path twice
    before = everything(tmp_path)
    with DandiServer({"good.nwb": b"1", **dict.fromkeys(paths, b"2")}) as server:
        with pytest.raises(FetchError, match=r"dandiset 000140/0\.220113\.0408 names .* nothing was written") as caught:
            plan_of(server, raw)
        assert not server.blob_requests
    assert str(caught.value).isprintable()
    assert everything(tmp_path) == before


@given(st.lists(st.text(st.sampled_from("ab./\\\x00é"), max_size=6), max_size=3))
def test_judged_paths_stay_below_their_folder_and_apart(paths):
    try:
        judge_paths(paths, "it")
    except FetchError:
        return
    targets = [os.path.normpath(os.path.join("/base", path)) for path in paths]
    assert [f"/base/{path}" for path in paths] == targets
    for target in targets:
        assert not any(other.casefold().startswith(target.casefold() + "/") for other in targets)
    assert len({target.casefold() for target in targets}) == len(targets)


def test_harmless_paths_pass():
    judge_paths(["sub-A/a+b [1] ~$HOME é.nwb", "sub-A/.git", "sub-a2/a..nwb", "x" * 255], "it")


def test_hostile_version_is_refused(server, raw):
    server.version = "../../outside"
    with pytest.raises(FetchError, match="not a version"):
        plan_of(server, raw, "000140")
    assert not raw.exists()


# ---- plan -----------------------------------------------------------------------------------------------------------


def test_plan_tells_bytes_licence_and_citation_and_writes_nothing(server, raw, tmp_path):
    server.zarrs = ["sub-A/sub-A.nwb.zarr"]
    plan = plan_of(server, raw)
    assert (plan.dandiset, plan.version, plan.license) == ("000140", "0.220113.0408", "CC-BY-4.0")
    assert plan.citation == server.citation
    assert [asset.path for asset in plan.assets] == sorted(BYTES)
    for asset in plan.assets:
        assert (asset.size, asset.state) == (len(BYTES[asset.path]), "missing")
        assert asset.sha256 == hashlib.sha256(BYTES[asset.path]).hexdigest()
    assert plan.total_bytes == plan.fetch_bytes == 850_000
    assert len(plan.left_out) == 1
    assert not plan.complete
    assert everything(tmp_path) == []
    assert not server.blob_requests


@pytest.mark.parametrize("page_size", [1, 2, 3])
def test_plan_reads_all_pages(server, raw, page_size):
    server.page_size = page_size
    assert [asset.path for asset in plan_of(server, raw).assets] == sorted(BYTES)


@pytest.mark.parametrize(
    ("name", "sessions", "expected"),
    [
        ("mc_maze_small", "*test*", [TEST]),
        ("mc_maze_small", "sub-A_desc-test_ecephys, *train*", [TEST, TRAIN]),
        (f"000140:{TRAIN}", None, [TRAIN]),
        ("000140/draft:sub-A/", "*train*", [TRAIN]),
        ("000140:sub-A", None, [TEST, TRAIN]),
        ("000140:*desc-test*", None, [TEST]),
    ],
)
def test_plan_chooses(server, raw, name, sessions, expected):
    assert [asset.path for asset in plan_of(server, raw, name, selection=Selection(sessions)).assets] == expected


@pytest.mark.parametrize(
    ("name", "sessions", "says"),
    [
        ("mc_maze_small", "sub-A_desc-tset_ecephys", "did you mean 'sub-A_desc-test_ecephys'?"),
        ("000140:sub-A/sub-A_desc-tset_ecephys.nwb", None, f"did you mean '{TEST}'?"),
        ("000140/0.220113.0409", None, "did you mean '0.220113.0408'?"),
    ],
)
def test_plan_offers_the_nearest_name(server, raw, name, sessions, says):
    with pytest.raises(UnknownNameError, match=re.escape(says)):
        plan_of(server, raw, name, selection=Selection(sessions))


def test_plan_of_a_dandiset_that_is_not_there_or_holds_no_nwb(server, raw):
    with pytest.raises(FetchError, match="has no dandiset 000999"):
        plan_of(server, raw, "000999")
    server.assets = {"a.txt": b"x"}
    with pytest.raises(FetchError, match="holds no NWB file"):
        plan_of(server, raw)


def test_plan_and_download_refuse_bad_settings(server, raw):
    with pytest.raises(UnknownNameError, match="did you mean 'refresh'"):
        plan_of(server, raw, policy="refrsh")
    with pytest.raises(UsageError, match="0 files at a time"):
        plan_of(server, raw, jobs=0)
    with pytest.raises(UsageError, match="not an http"):
        plan_fetch(resolve("mc_rtt"), raw, api_url="example.org/api")


# ---- download -------------------------------------------------------------------------------------------------------


def test_download_then_nothing_is_asked_again(server, raw):
    seen = []
    results = fetch(server, raw, progress=lambda *told: seen.append(told))
    assert {path: result.status for path, result in results.items()} == dict.fromkeys(sorted(BYTES), "fetched")
    assert on_disk(raw) == WHOLE
    assert server.blob_bytes == 850_000
    for path, body in BYTES.items():
        done = [told[1] for told in seen if told[0] == path]
        assert done == sorted(done)
        assert seen[-1][2] and done[-1] == len(body)
    record = json.loads((raw / FOLDER / "dandiset.json").read_text())
    assert record == {
        "dandiset": "000140",
        "version": "0.220113.0408",
        "license": "CC-BY-4.0",
        "citation": server.citation,
        "assets": {p: {"size": len(b), "sha256": hashlib.sha256(b).hexdigest()} for p, b in BYTES.items()},
    }
    assert everything(raw) == sorted(
        ["000140", FOLDER, f"{FOLDER}/.listing.json", f"{FOLDER}/dandiset.json", f"{FOLDER}/sub-A", *WHOLE]
    )

    before = {p: p.stat().st_mtime_ns for p in raw.rglob("*")}
    server.forget()
    again = fetch(server, raw)
    assert {result.status for result in again.values()} == {"skipped"}
    assert again[TRAIN].file == raw / FOLDER / TRAIN
    assert server.requests == []
    assert {p: p.stat().st_mtime_ns for p in raw.rglob("*")} == before


def test_complete_dataset_needs_no_network_and_no_client(raw):
    with DandiServer(BYTES) as server:
        fetch(server, raw)
    code = (
        "import sys; from pathlib import Path; from spiketok.sources.catalogue import *\n"
        "plan = plan_fetch(resolve('mc_maze_small'), Path(sys.argv[1]), api_url=sys.argv[2])\n"
        "print([r.status for r in download(plan, Path(sys.argv[1]))], 'dandi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, raw, server.api_url], capture_output=True, text=True, check=True)
    assert done.stdout == "['skipped', 'skipped'] False\n"
    with pytest.raises(FetchError, match=r"on this machine already: 000140/0\.220113\.0408"):
        plan_of(server, raw, "000140")  # which version is the newest, only the archive knows


def test_draft_is_asked_again_and_not_downloaded_again(server, raw):
    fetch(server, raw, "000140/draft")
    assert set(on_disk(raw)) == {f"000140/draft/{path}" for path in BYTES}
    assert not (raw / "000140" / "draft" / ".listing.json").exists(), "a draft's list may change"
    server.forget()
    assert {result.status for result in fetch(server, raw, "000140/draft").values()} == {"skipped"}
    assert server.requests
    assert not server.blob_requests
    changed = random.Random(3).randbytes(700_000)
    server.assets[TRAIN] = changed
    results = fetch(server, raw, "000140/draft")
    assert "-e overwrite-different" in results[TRAIN].message
    assert results[TEST].status == "skipped"
    assert fetch(server, raw, "000140/draft", policy="overwrite-different")[TRAIN].status == "fetched"
    assert on_disk(raw)[f"000140/draft/{TRAIN}"] == changed


def test_number_alone_is_the_published_version(server, raw):
    fetch(server, raw, "000140")
    assert on_disk(raw) == WHOLE


def test_sessions_add_up(server, raw):
    fetch(server, raw, sessions="*test*")
    assert set(on_disk(raw)) == {f"{FOLDER}/{TEST}"}
    server.forget()
    fetch(server, raw, sessions="*train*")
    assert server.blob_bytes == len(BYTES[TRAIN])
    assert len(json.loads((raw / FOLDER / "dandiset.json").read_text())["assets"]) == 2
    server.forget()
    assert plan_of(server, raw).complete
    assert server.requests == []


def test_several_at_a_time_and_one_at_a_time(raw):
    assets = {f"sub-{k:02}/sub-{k:02}.nwb": random.Random(k).randbytes(1000 + k) for k in range(20)}
    with DandiServer(assets) as server:
        for jobs in (1, 8):
            results = fetch(server, raw / str(jobs), jobs=jobs)
            assert list(results) == sorted(assets)
            assert on_disk(raw / str(jobs)) == {f"{FOLDER}/{path}": body for path, body in assets.items()}


def test_long_names_fit(raw):
    path = "s" * 250 + "/" + "n" * 251 + ".nwb"  # with the client's own suffix the name would not fit
    with DandiServer({path: b"x" * 100}) as server:
        assert fetch(server, raw)[path].status == "fetched"
    assert on_disk(raw) == {f"{FOLDER}/{path}": b"x" * 100}


def test_provenance(server, raw, tmp_path):
    fetch(server, raw, "000140/draft")
    file = raw / "000140" / "draft" / TEST
    source = load_source(file)
    assert (source.file, source.size, source.dandiset, source.version) == (TEST, 150_000, "000140", "draft")
    assert source.sha256 == hashlib.sha256(BYTES[TEST]).hexdigest()
    assert (source.license, source.citation) == ("CC-BY-4.0", server.citation)
    assert dataset_of(file) == "mc_maze_small"
    plain = tmp_path / "plain.nwb"
    plain.write_bytes(b"x")
    (file.parent / "extra.nwb").write_bytes(b"x")
    for other in (plain, file.parent / "extra.nwb"):
        assert load_source(other) is None
        assert dataset_of(other) is None
    with open(file, "ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtefactError, match="has 150001 bytes, 150000 were fetched"):
        load_source(file)
    (raw / "000140" / "draft" / "dandiset.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"dandiset\.json is damaged"):
        load_source(file)
    server.forget()
    with pytest.raises(ArtefactError, match=r"dandiset\.json is damaged"):
        fetch(server, raw, "000140/draft", policy="overwrite")
    assert not server.blob_requests


def test_dataset_of_a_dandiset_outside_the_catalogue_is_its_number(raw):
    with DandiServer({"a.nwb": b"1"}, dandiset="000777") as server:
        fetch(server, raw, "DANDI:000777")
    assert dataset_of(raw / "000777" / "0.220113.0408" / "a.nwb") == "000777"


# ---- faults of the network ------------------------------------------------------------------------------------------


def test_cut_connection_resumes(server, raw):
    server.faults.cut[TRAIN] = [500_000, 100_000]
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert on_disk(raw) == WHOLE
    assert server.blob_bytes < 850_000 + 2 * CHUNK
    ranges = [int(r.removeprefix("bytes=").rstrip("-")) for _, r in server.blob_requests if r]
    assert len(ranges) == 2
    assert 500_000 - CHUNK < ranges[0] <= 500_000


def test_busy_server_is_tried_again(server, raw):
    server.faults.blob_status[TRAIN] = [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"}), (500, {})]
    server.faults.api_status = [503, 503]
    assert fetch(server, raw)[TRAIN].status == "fetched"
    server.faults.api_status = [502]
    assert not fetch(server, raw, policy="overwrite", sessions="*test*")[TEST].message
    assert on_disk(raw) == WHOLE


def test_endless_retry_after_is_capped():
    for given_value, expected in [("604800", "60"), ("Wed, 21 Oct 2099 07:28:00 GMT", "60"), ("7", "7"), (None, None)]:
        headers = {} if given_value is None else {"Retry-After": given_value}
        web.cap_retry_after(SimpleNamespace(headers=headers))
        assert headers.get("Retry-After") == expected


def test_connection_that_always_breaks_keeps_what_came(server, raw):
    server.faults.cut[TRAIN] = [200_000] + [0] * 40
    results = fetch(server, raw)
    assert results[TRAIN].status == "failed"
    assert "kept for the next run" in results[TRAIN].message
    assert results[TEST].status == "fetched"
    assert set(on_disk(raw)) == {f"{FOLDER}/{TEST}"}
    server.faults.cut.clear()
    server.forget()
    plan = plan_of(server, raw)
    states = {asset.path: asset.state for asset in plan.assets}
    assert states == {TEST: "here", TRAIN: "partial"}
    assert 700_000 - 200_000 <= plan.fetch_bytes < 700_000 - 200_000 + CHUNK
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert server.blob_bytes == plan.fetch_bytes
    assert on_disk(raw) == WHOLE


@pytest.mark.parametrize("fault", ["vanished", "forbidden", "metadata 403", "metadata 404", "no digest"])
def test_one_failing_asset_stops_no_other(server, raw, fault):
    if fault == "vanished":
        server.faults.vanished.add(TEST)
    elif fault == "forbidden":
        server.faults.blob_status[TEST] = [(403, {})] * 9
    elif fault.startswith("metadata"):
        server.faults.metadata_status[TEST] = int(fault[-3:])
    else:
        server.faults.digest[TEST] = {"dandi:sha2-256": hashlib.sha256(BYTES[TEST]).hexdigest()}
    results = fetch(server, raw)
    assert results[TRAIN].status == "fetched"
    assert results[TEST].status == "failed"
    assert results[TEST].file is None
    says = {"vanished": "HTTP 404", "forbidden": "HTTP 403", "no digest": "no dandi-etag"}
    assert says.get(fault, f"HTTP {fault[-3:]}") in results[TEST].message
    assert "secret" not in results[TEST].message, "signatures of addresses are not repeated"
    assert set(on_disk(raw)) == {f"{FOLDER}/{TRAIN}"}
    server.faults = type(server.faults)()
    server.forget()
    assert fetch(server, raw)[TEST].status == "fetched"
    assert server.blob_bytes == len(BYTES[TEST])


def test_api_that_hangs_meets_the_deadline(server, raw, monkeypatch):
    monkeypatch.setattr(web, "API_TIMEOUT_S", (5.0, 0.2))
    monkeypatch.setattr(web, "HUNG_PAUSE_S", 0.0)
    server.faults.api_stall = True
    with pytest.raises(FetchError, match=r"does not answer \(no answer within 0.2 s, 3 times\)"):
        plan_of(server, raw)


def test_dead_address_and_foreign_server(raw):
    with DandiServer({}) as server:
        address = server.api_url
        server.faults.html = True
        with pytest.raises(FetchError, match="not JSON"):
            plan_of(server, raw)
        with pytest.raises(FetchError, match="HTTP 404"):
            plan_fetch(resolve("mc_rtt"), raw, api_url=server.root + "/other")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:\d+ does not answer .*no connection.*--api-url") as caught:
        plan_fetch(resolve("mc_rtt"), raw, api_url=address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"cli-minimal-version": "99.0"}, "pip install -U dandi"),
        ({"cli-minimal-version": "soon"}, "does not describe itself"),
    ],
)
def test_archive_that_refuses_the_client(server, raw, info, says):
    server.faults.info = info
    with pytest.raises(FetchError, match=says):
        plan_of(server, raw)


def test_embargo_needs_a_token_and_never_prompts(server, raw, monkeypatch, caplog):
    caplog.set_level("DEBUG")
    server.faults.token = "s3cr3t-t0ken"
    monkeypatch.setattr("sys.stdin", io.StringIO("typed\n"))
    with pytest.raises(FetchError, match="is embargoed .HTTP 401.: set CUSTOM_DANDI_API_KEY"):
        plan_of(server, raw)
    assert sys.stdin.read() == "typed\n"
    monkeypatch.setenv("CUSTOM_DANDI_API_KEY", "wr0ng-t0ken")
    with pytest.raises(FetchError, match="does not accept the token in CUSTOM_DANDI_API_KEY") as caught:
        plan_of(server, raw)
    assert "wr0ng" not in str(caught.value)
    monkeypatch.setenv("CUSTOM_DANDI_API_KEY", "s3cr3t-t0ken")
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert on_disk(raw) == WHOLE
    assert "t0ken" not in caplog.text
    assert b"t0ken" not in b"".join(on_disk(raw, ".json").values())


def test_token_of_the_public_archive_stays_there(server, raw, monkeypatch):
    monkeypatch.setenv("DANDI_API_KEY", "s3cr3t-t0ken")
    server.faults.token = "s3cr3t-t0ken"
    with pytest.raises(FetchError, match="set CUSTOM_DANDI_API_KEY"):
        plan_of(server, raw)


# ---- faults of the bytes --------------------------------------------------------------------------------------------


def test_corrupt_body_is_fetched_once_more(server, raw):
    server.faults.corrupt[TRAIN] = 1
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert on_disk(raw) == WHOLE
    assert server.blob_bytes == 2 * 700_000 + 150_000


@pytest.mark.parametrize("fault", ["corrupt", "sha256", "etag", "too long", "too short"])
def test_wrong_bytes_are_refused_and_never_stand_under_the_final_name(server, raw, fault):
    right = server.asset_metadata(TRAIN)["digest"]
    if fault == "corrupt":
        server.faults.corrupt[TRAIN] = 99
    elif fault == "sha256":
        server.faults.digest[TRAIN] = {**right, "dandi:sha2-256": "0" * 64}
    elif fault == "etag":
        server.faults.digest[TRAIN] = {**right, "dandi:dandi-etag": "0" * 32 + "-1"}
    else:
        server.faults.size[TRAIN] = 700_000 + (-100 if fault == "too long" else 100)
    stood = []

    def look(*_):
        stood.append((raw / FOLDER / TRAIN).exists())

    results = fetch(server, raw, progress=look)
    assert results[TRAIN].status == "failed"
    assert results[TRAIN].message
    assert stood
    assert not any(stood)
    assert set(on_disk(raw)) == {f"{FOLDER}/{TEST}"}
    assert not (raw / ".staging").exists()
    assert len([r for r in server.blob_requests if server.asset_id(TRAIN) in r[0]]) == 2, (
        "fetched once more, not endlessly"
    )
    assert list(json.loads((raw / FOLDER / "dandiset.json").read_text())["assets"]) == [TEST]


def test_etag_alone_is_enough(server, raw):
    server.faults.digest[TRAIN] = {"dandi:dandi-etag": server.asset_metadata(TRAIN)["digest"]["dandi:dandi-etag"]}
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert load_source(raw / FOLDER / TRAIN).sha256 == hashlib.sha256(BYTES[TRAIN]).hexdigest()
    server.forget()
    assert fetch(server, raw)[TRAIN].status == "skipped"
    assert server.requests == []


def test_server_that_ignores_ranges(server, raw):
    server.faults.cut[TRAIN] = [300_000]
    server.faults.ignore_range = True
    assert fetch(server, raw)[TRAIN].status == "fetched"
    assert on_disk(raw) == WHOLE


def test_file_that_changed_on_the_server_between_two_runs(server, raw):
    server.faults.cut[TRAIN] = [300_000] + [0] * 40
    assert fetch(server, raw, "000140/draft")[TRAIN].status == "failed"
    server.faults.cut.clear()
    server.assets[TRAIN] = random.Random(9).randbytes(700_000)
    assert fetch(server, raw, "000140/draft")[TRAIN].status == "fetched"
    assert on_disk(raw)[f"000140/draft/{TRAIN}"] == server.assets[TRAIN]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_on_a_damaged_and_a_good_file(server, raw, policy):
    fetch(server, raw)
    damaged = raw / FOLDER / TRAIN
    body = bytearray(BYTES[TRAIN])
    body[1000] ^= 1
    damaged.write_bytes(body)
    os.utime(damaged, (0, 1642046880))  # the archive's own time stamp: same size, same time, other bytes
    server.forget()
    results = fetch(server, raw, policy=policy)
    expected = {
        "error": ("failed", "failed"),
        "skip": ("failed", "skipped"),
        "overwrite": ("fetched", "fetched"),
        "overwrite-different": ("fetched", "skipped"),
        "refresh": ("fetched", "skipped"),
    }[policy]
    assert (results[TRAIN].status, results[TEST].status) == expected
    assert (damaged.read_bytes() == BYTES[TRAIN]) == (expected[0] == "fetched")
    moved = {"fetched": 1, "skipped": 0, "failed": 0}
    assert server.blob_bytes == 700_000 * moved[expected[0]] + 150_000 * moved[expected[1]]
    for result in results.values():
        assert (result.status == "failed") == bool(result.message) == (result.file is None)


def test_list_of_another_archive_or_a_damaged_list_is_not_used(server, raw):
    fetch(server, raw)
    with DandiServer({**BYTES, "sub-B/sub-B.nwb": b"new"}) as other:
        assert fetch(other, raw)["sub-B/sub-B.nwb"].status == "fetched"
        assert other.blob_bytes == 3
    (raw / FOLDER / ".listing.json").write_text('{"format": 1, "api_url"')
    server.forget()
    assert {result.status for result in fetch(server, raw).values()} == {"skipped"}
    assert server.requests


def test_full_disk_is_known_before_the_first_byte(server, raw, monkeypatch):
    plan = plan_of(server, raw)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchError, match=r"needs 850\.0 kB more and the disk has 1\.0 kB"):
        download(plan, raw)
    assert not raw.exists()
    assert not server.blob_requests


def test_disk_error_in_one_file_stops_no_other(server, raw):
    (raw / FOLDER / TRAIN).mkdir(parents=True)  # a folder stands where the file belongs
    results = fetch(server, raw, policy="overwrite")
    assert results[TRAIN].status == "failed"
    assert results[TEST].status == "fetched"


# ---- killed and interrupted -----------------------------------------------------------------------------------------

RUN = (
    "import sys; from pathlib import Path; from spiketok.sources.catalogue import *\n"
    "raw = Path(sys.argv[1])\n"
    "plan = plan_fetch(resolve('mc_maze_small'), raw, api_url=sys.argv[2])\n"
    "print([r.status for r in download(plan, raw, jobs=1)])"
)


@contextmanager
def running(raw, server):
    process = subprocess.Popen([sys.executable, "-c", RUN, raw, server.api_url], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def part_of(path: str, raw: Path) -> int:
    """Bytes that the client has kept of an asset."""
    part = raw / ".staging" / FOLDER / f"{staged_name(path)}.dandidownload" / "file"
    return part.stat().st_size if part.exists() else 0


def until(condition, process):
    limit = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit, "it never came so far"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "interrupt"])
def test_killed_in_the_middle_then_run_again(server, raw, how):
    server.faults.stall[TRAIN] = 400_000
    staging = raw / ".staging"
    with running(raw, server) as process:
        until(lambda: part_of(TRAIN, raw) >= 5 * CHUNK, process)
        assert not (raw / FOLDER / TRAIN).exists()
        process.send_signal(how)
        if how == signal.SIGINT:
            time.sleep(0.5)  # let it arrive before the bytes that wake the download
            server.release.set()
        process.wait(30)
    assert process.returncode != 0
    assert set(on_disk(raw)) == {f"{FOLDER}/{TEST}"}, "the first file was whole before"
    assert (raw / FOLDER / "dandiset.json").exists() == (how == signal.SIGINT), "an interrupt leaves a record"
    server.faults.stall.clear()
    server.forget()
    results = fetch(server, raw)
    assert {path: result.status for path, result in results.items()} == {TEST: "skipped", TRAIN: "fetched"}
    assert server.blob_bytes <= 700_000 - 5 * CHUNK
    assert how == signal.SIGINT or server.blob_bytes >= 700_000 - 400_000
    assert on_disk(raw) == WHOLE
    assert not staging.exists()
    assert len(json.loads((raw / FOLDER / "dandiset.json").read_text())["assets"]) == 2


def test_killed_between_the_last_byte_and_the_final_name(server, raw, monkeypatch):
    import spiketok.sources.archives.download as module

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync", killed)  # the step between
        with pytest.raises(KeyboardInterrupt):
            fetch(server, raw, sessions="*train*")
    assert on_disk(raw) == {}
    fetch(server, raw, sessions="*train*")
    assert set(on_disk(raw)) == {f"{FOLDER}/{TRAIN}"}
    assert server.blob_bytes == 700_000, "what was whole was not fetched again"


def test_two_runs_at_once(server, raw):
    server.faults.stall[TRAIN] = 400_000
    with running(raw, server) as process:
        until(lambda: part_of(TRAIN, raw) >= 5 * CHUNK, process)
        server.faults.stall.clear()
        threading.Timer(0.5, server.release.set).start()
        results = fetch(server, raw)
        assert results[TRAIN].status == "fetched"
    assert on_disk(raw) == WHOLE
    assert server.blob_bytes == 850_000, "each byte came once"


# ---- plain addresses ------------------------------------------------------------------------------------------------


def nwb_bytes(seed: int) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["x"] = list(random.Random(seed).randbytes(50_000))
    return stream.getvalue()


@pytest.fixture
def listed(server, tmp_path):
    """Two addresses in a list."""
    server.plain = {"/files/a.nwb": nwb_bytes(1), "/files/b%20b.nwb": nwb_bytes(2)}
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{server.root}{address}\n" for address in server.plain))
    return str(path)


def fetch_urls(name, raw, policy="skip", **options):
    plan = plan_fetch(resolve(name), raw, policy=policy)
    return {result.path: result for result in download(plan, raw, policy=policy, **options)}


def test_addresses_are_fetched_once(server, raw, listed):
    seen = []
    assert plan_fetch(resolve(listed), raw).total_bytes is None
    assert {r.status for r in fetch_urls(listed, raw, progress=lambda *told: seen.append(told)).values()} == {"fetched"}
    bodies = {"url/a.nwb": nwb_bytes(1), "url/b b.nwb": nwb_bytes(2)}
    assert on_disk(raw) == bodies
    assert max(told[1] for told in seen if told[0] == "a.nwb") == len(nwb_bytes(1))
    assert sorted(p.name for p in raw.iterdir()) == ["url"]
    assert everything(raw / ".staging") == []
    source = load_source(raw / "url" / "a.nwb")
    assert (source.sha256, source.size) == (hashlib.sha256(nwb_bytes(1)).hexdigest(), len(nwb_bytes(1)))
    assert source.citation == f"{server.root}/files/a.nwb"
    assert dataset_of(raw / "url" / "a.nwb") is None
    server.forget()
    assert {r.status for r in fetch_urls(listed, raw).values()} == {"skipped"}
    assert server.requests == []
    (raw / "url" / "a.nwb").unlink()
    assert fetch_urls(listed, raw)["a.nwb"].status == "fetched"
    assert on_disk(raw) == bodies


def test_secrets_in_an_address_are_not_written(server, raw):
    server.plain["/a.nwb?signature=s3cr3t"] = nwb_bytes(1)
    address = f"{server.root}/a.nwb?signature=s3cr3t"
    assert fetch_urls(address, raw)["a.nwb"].status == "fetched"
    assert b"s3cr3t" not in b"".join(on_disk(raw, ".json").values())


@pytest.mark.parametrize("fault", ["html", "cut", "absent", "changed"])
def test_address_with_a_fault_stops_no_other(server, raw, listed, fault):
    if fault == "html":
        server.plain["/files/a.nwb"] = b"<!DOCTYPE html><title>Sign in</title>"
    elif fault == "cut":
        server.faults.cut["/files/a.nwb"] = [20_000] * 9
    elif fault == "absent":
        del server.plain["/files/a.nwb"]
    else:
        fetch_urls(listed, raw)
        (raw / "url" / "a.nwb").unlink()
        server.plain["/files/a.nwb"] = nwb_bytes(3)
    results = fetch_urls(listed, raw)
    says = {"html": "no NWB", "cut": "broke", "absent": "HTTP 404", "changed": "other bytes than in an earlier run"}
    assert says[fault] in results["a.nwb"].message
    assert "\n" not in results["a.nwb"].message
    assert results["b b.nwb"].file is not None
    assert set(on_disk(raw)) == {"url/b b.nwb"}
    assert everything(raw / ".staging") == []


def test_address_that_trickles_meets_the_deadline(server, raw, listed, monkeypatch):
    monkeypatch.setattr(web, "PROGRESS_S", 0.2)
    server.faults.trickle["/files/a.nwb"] = (20_000, 0.05)
    begun = time.monotonic()
    results = fetch_urls(listed, raw)
    server.release.set()
    assert time.monotonic() - begun < 10
    assert re.search("broke|too slow", results["a.nwb"].message)
    assert any("-> 200" in line for line in results["a.nwb"].tried)
    assert results["b b.nwb"].file is not None


def test_cut_address_is_tried_again(server, raw, listed):
    server.faults.cut["/files/a.nwb"] = [20_000]
    assert fetch_urls(listed, raw)["a.nwb"].status == "fetched"


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (["http://h/a.nwb", "http://h/b/A.nwb"], "cannot both exist"),
        (["http://h/%2e%2e%2fx%2f..nwb\u202e.nwb"], "control character"),
        (["http://h/a%0a.nwb"], "control character"),
        (["http://h/a%5c..%5cb.nwb"], "not a relative path"),
        (["http://user:s3cr3t@h/download?id=3"], "not the http(s) address of a .nwb file"),
    ],
)
def test_hostile_addresses(raw, addresses, says):
    with pytest.raises(FetchError, match=re.escape(says)) as caught:
        plan_fetch(UrlRequest("list.txt", tuple(addresses)), raw)
    assert "s3cr3t" not in str(caught.value)
    assert not raw.exists()


def test_same_name_from_another_address_is_refused(server, raw, listed):
    fetch_urls(listed, raw)
    with pytest.raises(FetchError, match=r"was fetched from http://127.*/files/a\.nwb"):
        plan_fetch(resolve("http://elsewhere.org/a.nwb"), raw)


def test_file_without_a_record_is_not_trusted(server, raw, listed):
    (raw / "url").mkdir(parents=True)
    (raw / "url" / "a.nwb").write_bytes(b"mine")
    assert "-e overwrite-different" in fetch_urls(listed, raw)["a.nwb"].message
    assert (raw / "url" / "a.nwb").read_bytes() == b"mine"
    assert fetch_urls(listed, raw, policy="overwrite-different")["a.nwb"].status == "fetched"


# ---- the rest -------------------------------------------------------------------------------------------------------


def test_catalogue_and_names_import_nothing_heavy():
    code = (
        "import sys, spiketok.sources.catalogue as d; d.resolve('000140'); print([m for m in %r if m in sys.modules])"
    )
    heavy = ("dandi", "requests", "pooch", "pynwb", "pydantic", "zarr", "numba")
    done = subprocess.run([sys.executable, "-c", code % (heavy,)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_extra_is_one_line(server, raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "dandi.consts", None)
    with pytest.raises(SpiketokError, match=r"pip install 'spiketok\[dandi\]'"):
        plan_of(server, raw)


def test_local_request_has_no_plan(raw, tmp_path):
    assert catalogue.plan_fetch(resolve(str(tmp_path)), raw) is None
