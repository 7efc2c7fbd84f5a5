"""The index of a store is what reading every session would tell, however the store came to be as it is."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spiketok.errors import ArtefactError
from spiketok.pipeline.tokenize import context_path, plan_session, shard_path
from spiketok.recording.nouns import Source
from spiketok.storage import index as indexes
from spiketok.storage.files import SESSION_MARKS
from spiketok.storage.index import INDEX, open_index, session_ids
from spiketok.storage.remote import place
from spiketok.storage.store import array_shapes, read_attributes, read_session, write_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.context import write_context
from spiketok.tokens.schemes import make_scheme
from spiketok.training.config import load_config
from spiketok.training.runs import choose_training
from tests.made import random_session
from tests.s3_server import s3_server


def refuse(line: str) -> None:
    pytest.fail(f"nothing was to be told: {line}")


def stored(workspace: Workspace, name: str, seed: int = 0, **changes) -> str:
    """A session in the store, of subject and day by its name (``"A-02"``)."""
    subject, day = name.split("-")
    source = Source(f"{name}.nwb", f"{seed:064}", 1, session_start=f"2020-01-{day}T10:00:00+00:00")
    session = replace(random_session(name, seed), subject=subject, source=source, **changes)
    write_session(session, workspace.store_path(session.id))
    return session.id


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = Workspace(tmp_path)
    for seed, name in enumerate(("A-01", "A-02", "A-03", "B-01", "B-02")):
        stored(made, name, seed)
    stored(made, "B-03", 9, info={"part_of": "made/B-02", "rig": "x" * 50})
    stored(made, "C-01", 10, signals={})
    return made


def mark_of(workspace: Workspace, session_id: str) -> Path:
    path = workspace.store_path(session_id)
    return next(path / name for name in SESSION_MARKS if (path / name).exists())


def assert_true(workspace: Workspace) -> None:
    """What the index tells is what each session's own attributes say, read without it."""
    told = workspace.indexed(refuse)
    assert told.session_ids() == workspace.session_ids()
    for session_id in told.session_ids():
        attributes, facts = read_attributes(workspace.store_path(session_id)), told.facts(session_id)
        for key in ("digest", "id", "subject", "start_ns", "stop_ns", "n_units", "n_spikes"):
            assert facts[key] == attributes[key]
        assert facts["session_start"] == attributes["source"]["session_start"]
        assert facts["info"].get("part_of") == attributes["info"].get("part_of")
        assert {n: (s["components"], s["measure"]) for n, s in facts["signals"].items()} == {
            n: (s["components"], s["measure"]) for n, s in attributes["signals"].items()
        }
        assert told.index.entries[session_id]["facts"] == facts == workspace.facts(session_id)
        assert told.sizes(session_id) == workspace.sizes(session_id)


def test_it_says_what_each_session_says_and_reads_none_twice(workspace):
    assert workspace.indexed(refuse).index.read == 7
    before = (workspace.store / INDEX).read_bytes()
    assert workspace.indexed(refuse).index.read == 0
    assert (workspace.store / INDEX).read_bytes() == before
    assert_true(workspace)


def test_selection_and_plans_are_those_of_the_sessions_themselves(workspace, tmp_path):
    indexed, scheme, config = workspace.indexed(refuse), make_scheme("per-spike"), load_config("poyo")
    for sessions, hold_out in ((None, None), (None, "none"), ("A-*,B-*", "B-02")):
        chosen = choose_training(indexed, config, sessions, hold_out)
        assert chosen == choose_training(workspace, config, sessions, hold_out)
    assert choose_training(indexed, config, None, None).held_out == ["made/A-03", "made/B-02"]
    for session_id in workspace.session_ids():
        path = shard_path(indexed, session_id, scheme, "continuous")
        assert path == shard_path(workspace, session_id, scheme, "continuous")
        assert context_path(indexed, session_id) == context_path(workspace, session_id)
        plans = plan_session(indexed, session_id, [scheme, make_scheme("binned")])
        assert plans == plan_session(workspace, session_id, [scheme, make_scheme("binned")])


def test_its_sizes_bound_the_context(workspace, tmp_path):
    for session_id in workspace.session_ids():
        session, sizes = read_session(workspace.store_path(session_id)), workspace.indexed(refuse).sizes(session_id)
        columns = write_context(tmp_path / "context", session, store_digest="d" * 64)["columns"]
        assert sizes["n_trials"] == len(session.trials or ())
        assert sizes["context_bytes"] >= sum(c["bytes"] for n, c in columns.items() if not n.startswith("unit."))
        shapes = array_shapes(workspace.store_path(session_id), "signals")
        assert sizes["context_arrays"] >= len(shapes)


def test_it_is_never_believed_stale(workspace):
    workspace.indexed(refuse)
    old = workspace.facts("made/A-01")["digest"]
    stored(workspace, "A-01", 77)  # replaced
    stored(workspace, "D-01", 78)  # new
    shutil.rmtree(workspace.store_path("made/A-02"))  # gone
    found = workspace.indexed(refuse)
    assert found.index.read == 2
    assert found.facts("made/A-01")["digest"] != old
    assert "made/A-02" not in found.session_ids()
    assert_true(workspace)


def test_a_mark_of_the_same_size_and_time_is_another_file(workspace):
    workspace.indexed(refuse)
    mark = mark_of(workspace, "made/A-01")
    text, before = mark.read_text(), mark.stat()
    other = mark.with_name("other")
    digest = read_attributes(mark.parent)["digest"]
    other.write_text(text.replace(digest, digest[::-1]))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, mark)
    after = mark.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert open_index(workspace.store, refuse).read == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.replace(b'"n_spikes":', b'"n_spikes":1', 1), "is damaged"),
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data[1:], "is damaged"),
        (lambda data: b"", "is damaged"),
        (lambda data: b"[]\n" + data, "is damaged"),
        (lambda data: data.replace(b'"version":2', b'"version":3', 1), "version 3"),
    ],
)
def test_a_damaged_one_is_told_and_made_again(workspace, change, said):
    workspace.indexed(refuse)
    path, lines = workspace.store / INDEX, []
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    assert workspace.indexed(lines.append).index.read == 7
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert said in lines[0]
    assert lines[0].endswith("made anew from the sessions")
    assert path.read_bytes() == whole


def test_where_the_store_cannot_be_written_it_is_used_without(workspace, monkeypatch):
    def refused(target):
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(indexes, "atomic_file", refused)
    assert workspace.indexed(refuse).index.read == 7
    assert not (workspace.store / INDEX).exists()
    monkeypatch.setattr(indexes, "atomic_file", lambda target: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        workspace.indexed(refuse)


def test_a_session_that_cannot_be_read_stops_only_who_wants_it(workspace):
    mark_of(workspace, "made/B-01").write_text("{")
    indexed = workspace.indexed(refuse)
    assert "made/B-01" in indexed.select()
    assert indexed.facts("made/A-01")["subject"] == "A"
    with pytest.raises(ArtefactError, match="B-01"):
        indexed.facts("made/B-01")


def test_both_layouts_are_sessions_and_temporary_names_are_none(tmp_path):
    for name in ("new/session.json", "old/.zattrs", ".wip-1@here-x/.zattrs", "none/columns.bin"):
        file = tmp_path / "store" / "d" / name
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    assert session_ids(tmp_path / "store") == ["d/new", "d/old"]
    assert session_ids(tmp_path / "nowhere") == []


def test_workers_get_the_workspace_without_it(workspace):
    assert workspace.indexed(refuse).absolute().index is None


# ---- behind a URL ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3():
    """A file system for an empty bucket, and the list of the requests that its server answered."""
    with s3_server() as (system, answered):
        system.mkdir("index")
        yield system, answered


@pytest.fixture
def remote(s3, workspace, request) -> Workspace:
    """The workspace's sessions behind a URL, without an index."""
    name = f"index/{request.node.name.replace('[', '-')}"
    s3[0].put(f"{workspace.store}/", f"{name}/", recursive=True)
    return Workspace(workspace.root / "there", place(f"s3://{name}"))


@pytest.mark.slow  # ten seconds; the parts are tested below
def test_behind_a_url_it_is_put_by_who_writes_and_used_by_who_reads(remote, s3):
    lines: list[str] = []
    assert remote.indexed(lines.append).index.read == 7
    assert lines == [f"7 of 7 sessions were read from {remote.store}: 'spiketok index' spares this"]
    assert not (remote.store / INDEX).exists()
    assert open_index(remote.store, refuse, put=True).read == 7
    before = len(s3[1])
    indexed = remote.indexed(refuse)
    assert indexed.index.read == 0
    assert len(s3[1]) - before <= 3, s3[1][before:]  # one page of the listing; s3fs asks for the size, then the index
    assert_true(remote)
    data = (remote.store / INDEX).read_bytes()
    (remote.store / INDEX).write_bytes(data.replace(b'"n_units":', b'"n_units":1', 1))
    del lines[:]
    assert remote.indexed(lines.append).index.read == 7
    assert "is damaged" in lines[0]


def test_behind_a_url_only_what_others_wrote_since_is_read(remote, s3):
    open_index(remote.store, refuse, put=True)
    stored(remote, "A-02", 99)
    lines: list[str] = []
    indexed = remote.indexed(lines.append)
    assert indexed.index.read == 1
    assert lines[0].startswith("1 of 7 sessions were read")
    assert indexed.facts("made/A-02")["digest"] == read_attributes(remote.store_path("made/A-02"))["digest"]


def test_train_asks_a_store_behind_a_url_hardly_anything(remote, s3, workspace, monkeypatch):
    """From local shards to the first step, by the command line itself."""
    from spiketok.cli import app
    from spiketok.training import loop

    class Reached(Exception):
        pass

    def begin(*args, **kwargs):
        raise Reached

    monkeypatch.setattr(loop, "train", begin)
    here = ["--root", str(remote.root)]
    app(["index", "--store", str(remote.store), *here], standalone_mode=False)
    app(["tokenize", "--scheme", "binned", "--store", str(remote.store), *here], standalone_mode=False)
    monkeypatch.setenv("SPIKETOK_STORE", str(remote.store))
    for words in (["--model", "linear"], []):
        before = len(s3[1])
        with pytest.raises(Reached):
            app(["train", *words, *here], standalone_mode=False)
        assert len(s3[1]) - before <= 4, s3[1][before:]


@pytest.mark.long
def test_ingest_puts_the_index_at_the_end(s3, tmp_path):
    from spiketok.cli import app
    from spiketok.sources.simulator import SimulationConfig, simulate

    files = simulate(
        SimulationConfig(n_subjects=1, sessions_per_subject=2, n_units=4, duration_s=8.0), tmp_path / "raw"
    )
    store = place("s3://index/ingested")
    app(["ingest", *map(str, files), "--store", str(store), "--root", str(tmp_path)], standalone_mode=False)
    assert open_index(store, refuse).read == 0
    here = Workspace(tmp_path / "here")
    app(["ingest", *map(str, files), "--root", str(here.root)], standalone_mode=False)
    head = json.loads((here.store / INDEX).read_bytes().splitlines()[0])
    assert (head["format"], head["version"]) == ("spiketok-index", 2)
    assert open_index(here.store, refuse).read == 0
    set_by = ["splits", "--rule", "kind=block", "--store-as", "mine", "--root", str(here.root)]
    app(set_by, standalone_mode=False)
    assert open_index(here.store, refuse).read == 0
    assert_true(here)
