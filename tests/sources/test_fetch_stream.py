"""``fetch --stream``: a session from a remote NWB file of which most bytes stay where they are."""

from __future__ import annotations

import hashlib
import json
import sys

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.ecephys import ElectricalSeries
from typer.testing import CliRunner

from spiketok.errors import SourceError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.ingest_remote import stream
from spiketok.sources.archives.dandi import stream as stream_module
from spiketok.sources.catalogue import Selection, catalogued, download, plan_fetch, resolve
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import Workspace
from tests.dandi_server import DandiServer
from tests.nwb_files import new_file, save

pytest.importorskip("remfile", reason="remfile is not installed (pip install 'spiketok[remote]')")
pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")

PATH = "sub-A/sub-A_ses-1.nwb"
ID = "000777/sub-A_ses-1"
RAW_BYTES = 6_000_000


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> bytes:
    """An NWB file of 6 MB of voltage that is no behaviour, and a little of what a session is made of."""
    rng, nwb = np.random.default_rng(0), new_file()
    group = nwb.create_electrode_group("g", description="g", location="M1", device=nwb.create_device("d"))
    for _ in range(4):
        nwb.add_electrode(location="M1", group=group)
    for _ in range(5):
        nwb.add_unit(spike_times=np.sort(rng.uniform(0, 60, 400)), electrodes=[1])
    nwb.add_trial(start_time=0.0, stop_time=30.0)
    nwb.add_trial(start_time=30.0, stop_time=60.0)
    raw = rng.integers(-999, 999, (RAW_BYTES // 8, 4), dtype=np.int16)
    region = nwb.create_electrode_table_region([0, 1, 2, 3], "all")
    nwb.add_acquisition(ElectricalSeries(name="raw", data=raw, electrodes=region, rate=25_000.0))
    time_s = np.arange(6000) / 100
    vel = TimeSeries(name="hand_vel", data=rng.normal(size=(6000, 2)), unit="mm/s", timestamps=time_s)
    nwb.create_processing_module("behavior", "b").add(vel)
    return save(nwb, tmp_path_factory.mktemp("nwb") / "a.nwb").read_bytes()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stream_module, "PAUSE_S", 0.0)
    for name in ("DANDI_API_KEY", "CUSTOM_DANDI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(body):
    with DandiServer({PATH: body}, dandiset="000777") as running:
        yield running


def plan_of(server, root, **selection):
    return plan_fetch(resolve("000777"), root / "raw", api_url=server.api_url, selection=Selection(**selection))


def streamed(server, root) -> list:
    return list(stream(Workspace(root), plan_of(server, root)))


def run(*words: object):
    from spiketok.cli import app

    words, argv = [str(word) for word in words], sys.argv
    sys.argv = ["spiketok", *words]
    try:
        return CliRunner().invoke(app, words)
    finally:
        sys.argv = argv


def test_the_session_is_the_file_s_and_the_voltage_stays_where_it_is(server, tmp_path, body):
    (outcome,) = streamed(server, tmp_path / "far")
    assert outcome.error is None
    assert (outcome.result.ingested.state, outcome.result.total_bytes) == ("new", len(body))
    assert outcome.result.read_bytes == server.blob_bytes < len(body) / 10
    assert not (tmp_path / "far" / "raw").exists()

    near = Workspace(tmp_path / "near")
    plan = plan_of(server, near.root)
    (file,) = [result.file for result in download(plan, near.raw)]
    (done,) = list(ingest(near, [file]))
    assert done.error is None
    a = read_session(Workspace(tmp_path / "far").store_path(ID))
    b = read_session(near.store_path(ID))
    np.testing.assert_array_equal(a.spikes.time_ns, b.spikes.time_ns)
    np.testing.assert_array_equal(a.spikes.unit, b.spikes.unit)
    np.testing.assert_array_equal(a.signals["hand_vel"].value, b.signals["hand_vel"].value)
    np.testing.assert_array_equal(a.trials.start_ns, b.trials.start_ns)
    assert len(a.spikes) == 2000

    assert a.source == b.source
    assert (a.source.file, a.source.sha256, a.source.size) == (PATH, hashlib.sha256(body).hexdigest(), len(body))
    assert (a.source.dandiset, a.source.version) == ("000777", server.version)
    assert [f.id for f in a.notes if f not in b.notes] == ["streamed"]
    assert "not verified as a whole" in a.notes[-1].text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mc_maze_small", "mc_rtt"])
def test_joined_sessions_go_through_their_rules(name, tmp_path):
    """Two remote files of one session, electrodes mended, as from files that are here."""
    from tests.layouts.nlb import write_nlb

    write_nlb(name, tmp_path / "made")
    files = {p.relative_to(tmp_path / "made").as_posix(): p.read_bytes() for p in (tmp_path / "made").rglob("*.nwb")}
    known = catalogued(name)
    far, near = Workspace(tmp_path / "far"), Workspace(tmp_path / "near")
    with DandiServer(files, dandiset=known.dandiset, version=known.version) as server:
        (outcome,) = list(stream(far, plan_fetch(resolve(name), far.raw, api_url=server.api_url)))
        plan = plan_fetch(resolve(name), near.raw, api_url=server.api_url)
        (done,) = list(ingest(near, [result.file for result in download(plan, near.raw)]))
    session_id = done.result.session_id
    assert outcome.result.ingested.session_id == session_id
    a, b = (read_session(work.store_path(session_id)) for work in (far, near))
    np.testing.assert_array_equal(a.spikes.time_ns, b.spikes.time_ns)
    assert (a.source, a.repairs, len(a.splits)) == (b.source, b.repairs, len(b.splits))
    assert len(a.source.joined) == 1
    assert [note.id for note in a.notes if note not in b.notes] == ["streamed"]


def test_again_costs_nothing_and_a_verified_file_takes_its_place(server, tmp_path):
    streamed(server, tmp_path)
    plan = plan_of(server, tmp_path)
    server.forget()
    (again,) = list(stream(Workspace(tmp_path), plan))
    assert (again.result.ingested.state, again.result.read_bytes) == ("already", 0)
    assert not server.blob_requests
    workspace = Workspace(tmp_path)
    files = [result.file for result in download(plan, workspace.raw)]
    assert [o.result.state for o in ingest(workspace, files)] == ["replaced"]
    assert "streamed" not in read_attributes(workspace.store_path(ID))["settings"]
    (kept,) = streamed(server, tmp_path)
    assert kept.result.ingested.state == "already", "one that was made of a verified file is not made worse"
    assert "streamed" not in read_attributes(workspace.store_path(ID))["settings"]


def test_signed_address_that_expires_is_renewed(server, tmp_path):
    server.faults.expire_after = 2
    (outcome,) = streamed(server, tmp_path)
    assert outcome.error is None
    assert len([path for path, _ in server.requests if path.endswith("/download/")]) >= 2
    assert outcome.result.read_bytes == server.blob_bytes


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("busy", ""),
        ("cut", ""),
        ("gone", "the connection broke"),
        ("forbidden", "HTTP 403"),
        ("vanished", "HTTP 404"),
        ("ignores ranges", "does not serve parts of files"),
        ("wrong range", "gives the bytes"),
        ("size", "were announced"),
        ("no sha256", "announces no sha2-256"),
    ],
)
def test_faults_of_the_network(server, tmp_path, body, fault, says):
    faults = server.faults
    if fault == "busy":
        faults.blob_status[PATH] = [(503, {"Retry-After": "0"}), (429, {}), (500, {})]
    elif fault == "cut":
        faults.cut[PATH] = [10, 0, 1000]
    elif fault == "gone":
        faults.cut[PATH] = [10**9, *[0] * 99]
    elif fault == "forbidden":
        faults.expire_after = 0
    elif fault == "vanished":
        faults.vanished.add(PATH)
    elif fault == "ignores ranges":
        faults.ignore_range = True
    elif fault == "wrong range":
        faults.wrong_range = True
    elif fault == "size":
        faults.size[PATH] = len(body) - 7
    else:
        faults.digest[PATH] = {"dandi:dandi-etag": server.asset_metadata(PATH)["digest"]["dandi:dandi-etag"]}
    (outcome,) = streamed(server, tmp_path)
    if not says:
        assert outcome.error is None
        return
    assert says in outcome.message
    assert "\n" not in outcome.message
    assert "secret" not in outcome.message, "signatures of addresses are not repeated"
    assert server.blob_bytes < len(body) * 0.9, "the body of a wrong answer is not read (what the socket holds is sent)"
    assert Workspace(tmp_path).store_path(ID).exists() is False
    server.faults = type(faults)()
    assert streamed(server, tmp_path)[0].error is None


def test_what_is_no_nwb_or_leads_elsewhere_is_refused(tmp_path, body):
    good = tmp_path / "a.nwb"
    good.write_bytes(body)
    with h5py.File(good, "a") as file:
        del file["processing/behavior/hand_vel"]
        file["processing/behavior/hand_vel"] = h5py.ExternalLink("/etc/hostname", "/x")
    with DandiServer({"a.nwb": good.read_bytes(), "b.nwb": b"<!DOCTYPE html>" * 9}, dandiset="000777") as server:
        outcomes = {o.name: o for o in streamed(server, tmp_path)}
    assert isinstance(outcomes["a.nwb"].error, SourceError)
    assert "link into another file" in outcomes["a.nwb"].message
    assert "is not HDF5" in outcomes["b.nwb"].message


def test_token_goes_to_the_archive_alone(server, tmp_path, monkeypatch):
    server.faults.token = "s3cr3t-t0ken"
    monkeypatch.setenv("CUSTOM_DANDI_API_KEY", "s3cr3t-t0ken")
    (outcome,) = streamed(server, tmp_path)
    assert outcome.error is None
    assert server.blob_tokens == {None}
    stored = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(b"t0ken" in data for data in stored)


def test_verify_says_that_nobody_read_the_whole_file(server, tmp_path):
    streamed(server, tmp_path)
    done = run("verify", "--root", tmp_path)
    assert done.exit_code == 0
    assert "source not here, digests hold" in done.stdout
    assert f"{PATH}, read from afar and never verified as a whole" in done.stderr
    chain = run("verify", tmp_path / "store" / ID, "--root", tmp_path)
    assert chain.exit_code == 0
    column = Workspace(tmp_path).store_path(ID)
    chunk = max(
        (p for p in column.rglob("*") if p.is_file() and not p.name.startswith(".")), key=lambda p: p.stat().st_size
    )
    chunk.write_bytes(chunk.read_bytes()[:-9] + bytes(9))
    assert run("verify", "--root", tmp_path).exit_code == 1, "its own digests hold it"


def test_command(server, tmp_path):
    there = ["--api-url", server.api_url, "--root", tmp_path]
    done = run("fetch", "000777", "--stream", *there)
    assert done.exit_code == 0
    assert f"{ID}\tnew\t5\t2000" in done.stdout
    assert "not verified as a whole" in done.stderr
    told = json.loads(run("fetch", "000777", "--stream", "--json", *there).stdout)
    assert told["sessions"][0]["state"] == "already"
    server.faults.vanished.add(PATH)
    server.faults.digest[PATH] = {**server.asset_metadata(PATH)["digest"], "dandi:sha2-256": "0" * 64}
    failed = run("fetch", "000777", "--stream", *there)
    assert failed.exit_code == 1
    assert f"to try the rest again: spiketok fetch 000777 --stream --api-url {server.api_url}" in failed.stderr
    assert run("fetch", tmp_path, "--stream", "--root", tmp_path).exit_code != 0


def test_strict_reads_and_stores_nothing_of_what_is_here_under_another_name(server, tmp_path, body):
    """The digest that the archive announces is that of a file which was ingested before."""
    (tmp_path / "mine.nwb").write_bytes(body)
    assert run("ingest", tmp_path / "mine.nwb", "--root", tmp_path).exit_code == 0
    words = ["fetch", "000777", "--stream", "--api-url", server.api_url, "--root", tmp_path]
    refused = run(*words, "--strict", "--json")
    assert refused.exit_code == 1 and not (tmp_path / "store" / ID).exists()
    told = json.loads(refused.stdout)
    assert [(row["session"], row["state"]) for row in told["sessions"]] == [(ID, "refused")]
    assert f"{ID} is refused by --strict: same-file (warning, 1)" in told["failures"][0]["error"]
    done = run(*words)
    assert done.exit_code == 0 and f"{ID}: warning: same-file (1)" in done.stderr
