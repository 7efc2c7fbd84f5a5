"""Store and raw files behind URLs, against a loopback S3: the same bytes as on a disk, whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spiketok.errors import ArtefactError, FetchError, MissingExtraError, SourceError, UsageError
from spiketok.pipeline import ingest, tokenize, verify
from spiketok.sources.catalogue import dataset_of, load_source
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.remote import RemotePath, local_copy, place
from spiketok.storage.store import array_shapes, read_attributes, read_session, read_units, write_session
from spiketok.storage.window_reader import open_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.stamps import STAMP
from tests.made import as_folder, random_session
from tests.s3_server import s3_server
from tests.storage.test_store import assert_equal

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install 'spiketok[remote]')")


@pytest.fixture(scope="module")
def s3():
    """The file system of an empty bucket, for looking into it."""
    with s3_server() as (system, _):
        system.mkdir("bucket")
        yield system


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=6, duration_s=12.0)
    return [Path(file) for file in simulate(config, folder)]


def local_tree(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(STAMP)]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def remote_tree(system, path: str) -> dict[str, str]:
    found = system.cat(system.find(path))
    return {key[len(path) + 1 :]: hashlib.sha256(data).hexdigest() for key, data in found.items()}


def results(outcomes) -> list:
    outcomes = list(outcomes)
    assert not [o.message for o in outcomes if o.error]
    return sorted((o.result for o in outcomes), key=str)


@pytest.mark.long
def test_raw_and_store_in_a_bucket_give_the_bytes_of_a_disk(s3, recordings, tmp_path):
    for file in recordings:
        s3.put_file(str(file), f"bucket/raw/day/{file.name}")
    here = Workspace(tmp_path / "here")
    there = Workspace(tmp_path / "there", place("s3://bucket/store/"))
    results(ingest.ingest(here, recordings))
    # by two processes: a worker reaches the bucket by its URL and the environment alone
    done = results(ingest.ingest(there, ["s3://bucket/raw"], executor="processes:2"))
    assert [(d.state, d.paths) for d in done] == [
        ("new", (f"s3://bucket/raw/day/{f.name}",)) for f in sorted(recordings)
    ]
    assert len(local_tree(here.store)) == 2 * len(recordings)
    assert remote_tree(s3, "bucket/store") == local_tree(here.store)
    assert there.session_ids() == here.session_ids() == [d.session_id for d in done]
    for session_id in here.session_ids():
        assert_equal(read_session(there.store_path(session_id)), read_session(here.store_path(session_id)))

    schemes = [make_scheme("per-spike"), make_scheme("binned")]
    for workspace in (here, there):
        results(tokenize.tokenize(workspace, workspace.select(), schemes))
    assert local_tree(there.shards) == local_tree(here.shards)
    assert not there.root.joinpath("store").exists()
    assert not list(there.root.rglob(".wip-*"))

    (verified, _) = results(verify.verify(there, there.session_ids()))
    assert verified.differences == []
    assert verified.n_shards == 2

    # again: nothing is made; with other bytes behind the same name the session is replaced
    assert {d.state for d in results(ingest.ingest(there, ["s3://bucket/raw/day/*.nwb"]))} == {"already"}
    s3.put_file(str(recordings[1]), f"bucket/raw/day/{recordings[0].name}")
    (done,) = results(ingest.ingest(there, [f"s3://bucket/raw/day/{recordings[0].name}"]))
    assert done.state == "replaced"
    assert (
        read_attributes(there.store_path(done.session_id))["source"]["sha256"]
        == hashlib.sha256(recordings[1].read_bytes()).hexdigest()
    )
    assert ingest.source_paths(there, done.session_id) == [place(f"s3://bucket/raw/day/{recordings[0].name}")]
    s3.rm_file(f"bucket/raw/day/{recordings[0].name}")
    with pytest.raises(SourceError, match=r"its source file s3://bucket/raw/day/.* is gone"):
        ingest.source_paths(there, done.session_id)


UPLOAD_AND_DIE = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import s3fs
from tests.made import random_session
from spiketok.storage.remote import place
from spiketok.storage.store import write_session
put, n = s3fs.S3FileSystem._put_file, 0
async def dying(self, lpath, rpath, **options):
    global n
    if not rpath.endswith("/session.json"):
        await put(self, lpath, rpath, **options)
        n += 1
    if n == int(sys.argv[3]) or rpath.endswith("/session.json"):
        os.kill(os.getpid(), signal.SIGKILL)
s3fs.S3FileSystem._put_file = dying
write_session(random_session("one", 1), place(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("before", "n_put"),
    [("nothing", 1), *(pytest.param(*p, marks=pytest.mark.long) for p in (("another session", 0), ("a folder", 1)))],
)
def test_an_upload_that_was_killed_leaves_no_session(s3, tmp_path, before, n_put):
    """Killed when some files were put, and killed when all were but the last (``n_put`` 0)."""
    url = place(f"s3://bucket/killed-{before.split()[0]}/made/one")
    workspace = Workspace(tmp_path, place(url.url.removesuffix("/made/one")))
    if before == "another session":
        write_session(random_session("two", 2), url)
    if before == "a folder":  # as sessions were before, with another file that makes it one
        write_session(random_session("two", 2), tmp_path / "two")
        url.upload(as_folder(tmp_path / "two"), last=".zattrs")
        assert len(read_session(url).spikes) == len(random_session("two", 2).spikes)
    if before != "nothing":
        assert workspace.session_ids() == ["made/one"]
    code = [sys.executable, "-c", UPLOAD_AND_DIE, url.url, str(Path(__file__).parents[2]), str(n_put)]
    assert subprocess.run(code, capture_output=True).returncode == -9
    assert s3.find(str(url).removeprefix("s3://")), "killed before anything was put: proves nothing"
    assert workspace.session_ids() == []
    with pytest.raises(ArtefactError, match="holds no session"):
        read_session(url)
    write_session(random_session("one", 1), url)
    write_session(random_session("one", 1), tmp_path / "local")
    assert remote_tree(s3, str(url).removeprefix("s3://")) == local_tree(tmp_path / "local")


def test_a_raw_tree_that_was_copied_to_a_bucket_keeps_its_record(s3):
    record = {"dandiset": "000140", "version": "0.220113.0408", "license": "CC-BY-4.0", "citation": "Someone (2022)"}
    path = "sub-Jenkins/sub-Jenkins_ses-small_desc-train_behavior+ecephys.nwb"
    record |= {"assets": {path: {"size": 3, "sha256": "ab" * 32}}}
    s3.pipe_file("bucket/copy/000140/0.220113.0408/dandiset.json", json.dumps(record).encode())
    file = place("s3://bucket/copy/000140/0.220113.0408") / path
    s3.pipe_file(file.url.removeprefix("s3://"), b"nwb")
    source = load_source(file)
    assert (source.file, source.dandiset, source.sha256) == (path, "000140", "ab" * 32)
    assert dataset_of(file) == "mc_maze_small"
    assert load_source(place("s3://bucket/copy/000140/other/a.nwb")) is None
    assert load_source(place("s3://bucket/a.nwb")) is None
    s3.pipe_file(file.url.removeprefix("s3://"), b"other")
    with pytest.raises(ArtefactError, match=r"has 5 bytes, 3 were fetched"):
        load_source(file)


def test_damage_in_a_bucket_is_named_never_read(s3):
    url = place("s3://bucket/damaged/made/one")
    session = random_session("one", 1)
    write_session(session, url)
    expected = session.spikes.time_ns[session.spikes.unit == 1]
    assert open_session(url).unit_times(1).tolist() == expected.tolist()
    assert read_units(url, read_attributes(url)).id.tolist() == session.units.id.tolist()
    assert array_shapes(url, "spikes")["unit"] == ((len(session.spikes),), session.spikes.unit.dtype)
    chunk = "bucket/damaged/made/one/arrays.zip"
    whole = s3.cat_file(chunk)
    with zipfile.ZipFile(io.BytesIO(whole)) as held:
        place_of = held.getinfo("spikes/index/0").header_offset + 60
    s3.pipe_file(chunk, whole[:place_of] + bytes([whole[place_of] ^ 1]) + whole[place_of + 1 :])
    with pytest.raises(ArtefactError, match=r"s3://bucket/damaged/made/one is damaged \(spikes/index/0"):
        open_session(url).unit_times(1)
    with pytest.raises(ArtefactError, match=r"s3://bucket/damaged/made/one is damaged"):
        read_session(url)
    s3.rm_file(chunk)
    with pytest.raises(ArtefactError, match=r"s3://bucket/damaged/made/one is damaged"):
        read_session(url)


def test_a_copy_that_came_short_is_refused(s3, tmp_path, monkeypatch):
    s3.pipe_file("bucket/short/file.nwb", b"x" * 1000)
    with place("s3://bucket/short")._reaching() as (system, _):
        monkeypatch.setattr(system, "get_file", lambda rpath, lpath: Path(lpath).write_bytes(b"x" * 999))
    with (
        pytest.raises(FetchError, match=r"file\.nwb: 999 B of 1\.0 kB came"),
        local_copy(place("s3://bucket/short/file.nwb"), tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_said_in_one_line(s3, tmp_path):
    workspace = Workspace(tmp_path, place("s3://no-such-bucket/store"))
    for call in (
        workspace.session_ids,
        lambda: read_session(workspace.store_path("a/b")),
        lambda: write_session(random_session("one", 1), workspace.store_path("a/b")),
        lambda: ingest.find_files(["s3://no-such-bucket/raw"]),
        lambda: ingest.find_files(["s3://no-such-bucket/raw/*.nwb"]),
    ):
        with pytest.raises(FetchError, match=r"^s3://no-such-bucket/\S+: there is no such bucket: [^\n]*$"):
            call()
    with pytest.raises(UsageError, match="s3://bucket/nothing does not exist"):
        ingest.find_files(["s3://bucket/nothing"])
    with pytest.raises(UsageError, match=r"s3://bucket/\*\.nwb matches nothing"):
        ingest.find_files(["s3://bucket/*.nwb"])
    with pytest.raises(FetchError, match=r"^s3://\*\.nwb [^\n]*$"):
        ingest.find_files(["s3://*.nwb"])
    s3.pipe_file("bucket/texts/a.txt", b"a")
    with pytest.raises(SourceError, match=r"s3://bucket/texts holds no \.nwb file"):
        ingest.find_files(["s3://bucket/texts"])
    assert Workspace(tmp_path, place("s3://bucket/empty")).session_ids() == []


def test_denied_is_said_in_one_line(s3):
    import requests

    count = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    requests.post(count, data="0", timeout=10)  # from now on this S3 knows nobody
    try:
        with pytest.raises(FetchError, match=r"^s3://bucket/raw/a\.nwb: access denied \([^\n]+\): [^\n]*$"):
            place("s3://bucket/raw/a.nwb").exists()
    finally:
        requests.post(count, data="inf", timeout=10)


def test_without_credentials_or_server_is_said_in_one_line(s3, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for words in (r"Could not connect to the endpoint", r"Unable to locate credentials"):
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(FetchError, match=rf"^s3://bucket/raw/a\.nwb cannot be reached \({words}[^\n]*$"):
            place("s3://bucket/raw/a.nwb").exists()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()


def test_urls_that_nobody_knows(monkeypatch):
    with pytest.raises(UsageError, match=r"nope://a/b: Protocol not known: nope"):
        place("nope://a/b").exists()
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spiketok\[remote\]'"):
        place("s3://bucket/a").exists()


def test_where_the_store_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIKETOK_STORE", raising=False)
    assert Workspace.locate(Path("w")).store == Path("w/store")
    assert Workspace.locate(Path("w"), "elsewhere").absolute().store == tmp_path / "elsewhere"
    monkeypatch.setenv("SPIKETOK_STORE", "s3://bucket/store/")
    workspace = Workspace.locate(Path("w"))
    assert workspace.store_path("a/b") == RemotePath("s3://bucket/store/a/b")
    assert workspace.absolute() == Workspace(tmp_path / "w", RemotePath("s3://bucket/store"))
    assert Workspace.locate(Path("w"), "s3://other/x").store == RemotePath("s3://other/x")
    assert os.fspath(workspace.shards) == "w/shards"


@pytest.mark.parametrize(
    "url", ["https://u:s3cr3t@h.org/a.nwb", "s3://key:s3cr3t@bucket/store", "http://h.org/a.nwb?X-Amz-Signature=s3cr3t"]
)
def test_a_place_with_credentials_is_refused_without_showing_them(url):
    with pytest.raises(UsageError, match="which would be kept in records") as error:
        place(url)
    assert "s3cr3t" not in str(error.value)
