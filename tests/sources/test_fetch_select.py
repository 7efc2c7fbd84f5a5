"""Which files a fetch takes, and whether those that are here are still good."""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spiketok.errors import FetchError, UnknownNameError, UsageError
from spiketok.sources import catalogue
from spiketok.sources.archives.plans import Asset
from spiketok.sources.archives.selection import choose, subject_of
from spiketok.sources.catalogue import RULES, Selection, check_here, download, plan_fetch, resolve
from spiketok.sources.catalogue.base import Rules
from tests.dandi_server import DandiServer

PATHS = [f"sub-{s}/sub-{s}_ses-{k}_{part}.nwb" for s in ("A", "B") for k in (1, 2) for part in ("test", "train")]
LISTING = [Asset(path, 1000 * (k + 1)) for k, path in enumerate(PATHS)]
JOINED = Rules("joined", 1, session_name=lambda name: name.rsplit("_", 1)[0], join=lambda parts, _: parts[0])


def session_of(path: str) -> str:
    return "x/" + JOINED.session_name(path.rsplit("/", 1)[1])


def taken(selection: Selection, **options) -> list[str]:
    return [asset.path for asset in choose(LISTING, selection, "it", **options).assets]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), PATHS),
        (Selection(subjects="A"), PATHS[:4]),
        (Selection(subjects="sub-B"), PATHS[4:]),
        (Selection(subjects="[AB]"), PATHS),
        (Selection(glob="sub-A/*train*"), [PATHS[1], PATHS[3]]),
        (Selection(glob="*_ses-1_*, *_ses-2_test.nwb"), [p for p in PATHS if "ses-1" in p or "ses-2_test" in p]),
        (Selection(sessions="sub-A_ses-1_train"), [PATHS[1]]),
        (Selection(sessions="x/sub-A_ses-1"), PATHS[:2]),
        (Selection(subjects="B", max_sessions=1), PATHS[4:6]),
        (Selection(max_sessions=3), PATHS[:6]),
        (Selection(max_bytes=3000), PATHS[:2]),
        (Selection(max_bytes=9999), PATHS[:2]),
        (Selection(max_sessions=3, max_bytes=10_000), PATHS[:4]),
        (Selection(max_sessions=99, max_bytes=10**9), PATHS),
    ],
    ids=str,
)
def test_selection(selection, expected):
    assert taken(selection, session_of=session_of) == expected


def test_exclude_goes_before_all_else():
    assert taken(Selection(), include=["sub-A/*"], exclude=["*test*"]) == [PATHS[1], PATHS[3]]
    with pytest.raises(UnknownNameError):
        taken(Selection(sessions="*test*"), exclude=["*test*"])
    with pytest.raises(FetchError, match=r"none that matches \*.nwb but not sub-\*"):
        taken(Selection(), include=["*.nwb"], exclude=["sub-*"])


@pytest.mark.parametrize(
    ("selection", "error", "says"),
    [
        (Selection(subjects="sub-C"), UnknownNameError, "unknown subject 'C' in it: known: A, B"),
        (Selection(glob="sub-A/sub-A_ses-1_tset.nwb"), UnknownNameError, f"did you mean '{PATHS[0]}'"),
        (Selection(sessions="sub-A_ses-1_tset"), UnknownNameError, "did you mean 'sub-A_ses-1_test'"),
        (Selection(max_bytes=999), UsageError, f"not even the first session of it ({PATHS[0]}, 3.0 kB)"),
        (Selection(max_sessions=0), UsageError, "must be at least 1"),
    ],
    ids=str,
)
def test_selection_refuses(selection, error, says):
    with pytest.raises(error) as caught:
        taken(selection, session_of=session_of)
    assert says in str(caught.value)


def test_unknown_sizes_have_no_limit():
    with pytest.raises(UsageError, match="needs sizes"):
        choose([Asset("a.nwb", None)], Selection(max_bytes=5), "it")


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50)), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(1, 200),
)
def test_limits_take_a_beginning_of_whole_sessions(files, max_sessions, max_bytes):
    listing = [Asset(f"{name}/{k:02}.nwb", size) for k, (name, size) in enumerate(files)]

    def of(path: str) -> str:
        return path[0]

    try:
        chosen = choose(listing, Selection(max_sessions=max_sessions, max_bytes=max_bytes), "it", session_of=of)
    except UsageError:
        first = min(listing, key=lambda a: a.path).path[0]
        assert sum(a.size for a in listing if a.path[0] == first) > max_bytes
        return
    inside, outside = {of(a.path) for a in chosen.assets}, {of(a.path) for a in chosen.beyond}
    assert not inside & outside, "no session is cut in two"
    assert len(chosen.assets) + len(chosen.beyond) == len(listing)
    assert max(inside) < min(outside, default="z")
    assert len(inside) <= max_sessions and sum(a.size for a in chosen.assets) <= max_bytes
    assert bool(outside) == bool(chosen.limits)
    more = choose(listing, Selection(max_sessions=max_sessions + 1, max_bytes=max_bytes + 9), "it", session_of=of)
    assert set(chosen.assets) <= set(more.assets), "a higher limit only adds"


def test_subject_of():
    assert subject_of("sub-MonkeyL-held-in-calib/sub-MonkeyL-held-in-calib_ses-1.nwb") == "MonkeyL-held-in-calib"
    assert subject_of("sub-1_ses-2.nwb") == "1"
    assert subject_of("data/a.nwb") is None


@pytest.fixture
def server():
    with DandiServer({path: random.Random(k).randbytes(1000 * (k + 1)) for k, path in enumerate(PATHS)}) as running:
        yield running


@pytest.fixture
def joined(monkeypatch):
    """The dandiset of the server in the catalogue, with rules that join train and test."""
    entry = replace(catalogue.DATASETS["mc_maze_small"], rules="joined", exclude=("*_ses-2_*",))
    monkeypatch.setitem(catalogue.DATASETS, "mc_maze_small", entry)
    monkeypatch.setitem(RULES, "joined", JOINED)


def test_limits_count_sessions_as_the_rules_join_them(server, tmp_path, joined):
    plan = plan_fetch(resolve("mc_maze_small"), tmp_path, api_url=server.api_url, selection=Selection(max_sessions=1))
    assert [asset.path for asset in plan.assets] == PATHS[:2]
    assert [asset.path for asset in plan.beyond] == PATHS[4:6]
    assert plan.limits == (
        f"--max-sessions 1 leaves out 1 of 2 sessions (2 files, 11.0 kB), from {PATHS[4]} on",
    )  # ses-2 is excluded


def test_nlb_limits_take_train_and_test_together(tmp_path):
    stem = "sub-Jenkins/sub-Jenkins_ses-small_desc"
    files = {f"{stem}-test_ecephys.nwb": b"1" * 10, f"{stem}-train_behavior+ecephys.nwb": b"2" * 90}
    with DandiServer(files) as server:

        def taken(**limits) -> list[str]:
            plan = plan_fetch(resolve("mc_maze_small"), tmp_path, api_url=server.api_url, selection=Selection(**limits))
            return [asset.path for asset in plan.assets]

        assert taken(max_sessions=1) == taken(max_bytes=100) == taken(sessions="sub-Jenkins_ses-small") == list(files)
        with pytest.raises(UsageError, match="not even the first session"):
            taken(max_bytes=99)


def test_half_a_session_is_not_ingested(tmp_path):
    """One file of a session that is joined of two cannot be had: the other one alone would be another session."""
    stem = "sub-Jenkins/sub-Jenkins_ses-small_desc"
    train, other = f"{stem}-train_behavior+ecephys.nwb", f"{stem}-test_ecephys.nwb"
    with DandiServer({train: b"1", other: b"2"}) as server:
        server.faults.vanished.add(train)
        done = run("fetch", "mc_maze_small", "--root", tmp_path, "--api-url", server.api_url, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["sessions"] == []
    assert {one["name"]: one["stage"] for one in told["failures"]} == {train: "download", other: "ingest"}
    assert "another file of its session could not be fetched" in done.stderr
    assert (tmp_path / "raw" / "000140" / server.version / other).read_bytes() == b"2"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("mc_maze_small", None, "0.220113.0408"),
        ("nlb/mc_maze_small", "latest", None),
        ("mc_maze_small", "draft", "draft"),
        ("000140", "0.1.2", "0.1.2"),
        ("000140/draft", "draft", "draft"),
    ],
)
def test_version(name, version, expected):
    assert resolve(name, version).version == expected


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("mc_maze_small", "newest", "must be latest, draft or a version"),
        ("000140/draft", "latest", "names the version draft"),
        ("https://example.org/a.nwb", "latest", "has no versions"),
    ],
)
def test_version_refused(name, version, says):
    with pytest.raises(UsageError, match=says):
        resolve(name, version)


def run(*words: object) -> object:
    """The command line in this process."""
    from spiketok.cli import app

    words = [str(word) for word in words]
    argv, sys.argv = sys.argv, ["spiketok", *words]
    try:
        return CliRunner().invoke(app, words)
    finally:
        sys.argv = argv


def test_dry_run_tells_what_the_limits_leave_out(server, tmp_path):
    done = run("fetch", "000140", "--dry-run", "--max-bytes", "6kB", "--root", tmp_path, "--api-url", server.api_url)
    assert "left out   --max-bytes 6.0 kB leaves out 5 of 8 sessions (5 files, 30.0 kB)" in done.stdout
    told = run("fetch", "000140", "--dry-run", "--max-sessions", 2, "--json", "--root", tmp_path, "--api-url",
               server.api_url)  # fmt: skip
    plan = json.loads(told.stdout)["plans"][0]
    assert (len(plan["assets"]), len(plan["beyond"])) == (2, 6)
    assert list(tmp_path.iterdir()) == []


def test_verify_names_every_bad_file_with_the_command_that_mends_it(server, tmp_path):
    raw = tmp_path / "raw"
    download(plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url), raw)
    folder = raw / "000140" / "0.220113.0408"
    server.forget()
    good = run("fetch", "mc_maze_small", "--verify", "--root", tmp_path)
    assert (good.exit_code, good.stdout.count("\tgood")) == (0, len(PATHS))

    bodies = {path: (folder / path).read_bytes() for path in PATHS}
    (folder / PATHS[0]).unlink()
    (folder / PATHS[1]).write_bytes(bodies[PATHS[1]][:-1])
    (folder / PATHS[2]).write_bytes(b"x" + bodies[PATHS[2]][1:])
    record = json.loads((folder / "dandiset.json").read_text())
    del record["assets"][PATHS[3]]
    (folder / "dandiset.json").write_text(json.dumps(record))
    shutil.copy(folder / PATHS[3], folder / "sub-A" / "my own.nwb")
    done = run("fetch", "000140", "--verify", "--json", "--root", tmp_path, "--api-url", server.api_url)
    assert done.exit_code == 1
    rows = {row["file"]: row for row in json.loads(done.stdout)["files"]}
    states = [rows[path]["state"] for path in PATHS[:5]]
    assert states == ["missing", "differs", "differs", "unrecorded", "good"]
    assert rows["sub-A/my own.nwb"]["state"] == "unrecorded"
    assert server.requests == []
    assert run("fetch", "000140", "--verify", "--subjects", "B", "--root", tmp_path).exit_code == 0

    for path in PATHS[:4]:
        assert f"{path}: {rows[path]['detail']}: {rows[path]['repair']}" in done.stderr
        words = rows[path]["repair"].split()
        assert words[:3] == ["spiketok", "fetch", f"000140/0.220113.0408:{path}"]
        assert run(*words[1:]).exit_code == 0
    (folder / "sub-A" / "my own.nwb").unlink()
    assert run("fetch", "mc_maze_small", "--verify", "--root", tmp_path).exit_code == 0
    assert {path: (folder / path).read_bytes() for path in PATHS} == bodies


def test_verify_of_a_run_that_was_killed_before_its_record(server, tmp_path):
    raw = tmp_path / "raw"
    download(plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url), raw)
    (raw / "000140" / "0.220113.0408" / "dandiset.json").unlink()
    assert {one.state for one in check_here(resolve("mc_maze_small"), raw)} == {"unrecorded"}
    server.forget()
    download(plan_fetch(resolve("mc_maze_small"), raw, api_url=server.api_url), raw)
    assert {one.state for one in check_here(resolve("mc_maze_small"), raw)} == {"good"}
    assert server.requests == [], "the kept list vouches for them"


def test_verify_of_what_is_not_here(tmp_path):
    with pytest.raises(FetchError, match="nothing of mc_rtt is here: spiketok fetch mc_rtt"):
        check_here(resolve("mc_rtt"), tmp_path)
    with pytest.raises(UsageError, match="was not fetched"):
        check_here(resolve(str(tmp_path)), tmp_path)
