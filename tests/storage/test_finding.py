"""What a typed name means: itself, the one name that begins so, or one line with all that it could mean."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from spiketok.errors import (
    AmbiguousNameError,
    DataError,
    NotFoundError,
    UnknownNameError,
    UsageError,
    nearest,
    the_one,
)
from spiketok.storage.files import sha256_file, write_json, write_signed
from spiketok.storage.finding import find_run, locate, run_names
from spiketok.storage.workspace import Workspace, match_sessions, one_session

IDS = ["local/day1-a", "local/day1-b", "nlb/day2"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three sessions (their marks alone), two finished runs of poyo, one unfinished of ndt2."""
    for session in IDS:
        folder = tmp_path / "store" / session
        folder.mkdir(parents=True)
        (folder / "session.json").write_text("{}")
    for name in ("poyo-aa1", "poyo-ab2", "ndt2-cc3"):
        run = tmp_path / "runs" / name
        (run / "checkpoint").mkdir(parents=True)
        write_signed(run / "config.json", {"model": name.split("-")[0]})
        write_json(run / "checkpoint" / "checkpoint.json", {})
        if name != "ndt2-cc3":
            digest = sha256_file(run / "checkpoint" / "checkpoint.json")
            told = {"tasks": [], "test": {}, "test_mean": {}}
            write_signed(run / "result.json", told | {"model": name.split("-")[0], "checkpoint_digest": digest})
    return Workspace(tmp_path)


@pytest.mark.parametrize(("word", "found"), [("per-spike", "per-spike"), ("per", "per-spike"), ("binned", "binned")])
def test_a_name_or_its_only_beginning_is_taken(word, found):
    assert the_one("scheme", word, ["binned", "binned-2", "per-spike"]) == found


def test_what_means_several_or_none_says_so():
    with pytest.raises(AmbiguousNameError, match=r"^'b' names 2 schemes: binned, binned-2$") as caught:
        the_one("scheme", "b", ["binned", "binned-2", "per-spike"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    for word in ("", "bined"):
        with pytest.raises(UnknownNameError):
            the_one("scheme", word, ["binned", "per-spike"])


@pytest.mark.parametrize(
    ("word", "near"),
    [("pyo", "poyo-767eec192f"), ("day02", "sim/sub-S01_ses-day02"), ("sub-SO1", "sim/sub-S01_ses-day02"), ("zz", "")],
)
def test_the_nearest_of_long_names_is_found_by_a_short_word(word, near):
    assert nearest(word, ["poyo-767eec192f", "sim/sub-S01_ses-day02"]) == near


@pytest.mark.parametrize(
    ("patterns", "found"),
    [("*", IDS), ("day1-a", IDS[:1]), ("nlb/d", IDS[2:]), ("day2,day1-b", IDS[1:]), ("day1*", IDS[:2])],
)
def test_sessions_are_meant_by_globs_names_and_beginnings(patterns, found):
    assert match_sessions(IDS, patterns, "here") == found


def test_a_beginning_of_several_sessions_is_no_glob(workspace):
    with pytest.raises(AmbiguousNameError, match=r"'day1' names 2 sessions: .*; write 'day1\*' for all of them"):
        match_sessions(IDS, "day1", "here")
    with pytest.raises(AmbiguousNameError, match=r"'day1\*' names 2 sessions: .*; a stream replays one"):
        one_session(workspace, "day1*", "a stream replays one")
    assert one_session(workspace, "day2", "") == "nlb/day2"


def test_a_run_is_meant_by_name_model_and_beginning(workspace):
    assert run_names(workspace) == ["ndt2-cc3", "poyo-aa1", "poyo-ab2"]
    assert find_run(workspace, "poyo-aa").name == "poyo-aa1"
    newest = workspace.runs / "poyo-ab2" / "result.json"
    later = newest.stat().st_mtime + 10
    import os

    os.utime(newest, (later, later))
    assert find_run(workspace, "poyo").name == find_run(workspace, None).name == "poyo-ab2"
    with pytest.raises(AmbiguousNameError, match="'poyo-a' names 2 runs: poyo-aa1, poyo-ab2"):
        find_run(workspace, "poyo-a")
    with pytest.raises(DataError, match="no run of ndt2 .* is finished: ndt2-cc3"):
        find_run(workspace, "ndt2")
    assert find_run(workspace, "ndt2-c").name == "ndt2-cc3"  # who begins a run's own name means it, finished or not
    with pytest.raises(UnknownNameError, match="unknown run 'poyoo' in .*: did you mean 'poyo-a"):
        find_run(workspace, "poyoo")


def test_locate_takes_sessions_and_runs_alike(workspace):
    assert locate("day2", workspace) == workspace.store / "nlb/day2"
    assert locate("local/day1-b", workspace) == workspace.store / "local/day1-b"
    assert locate("poyo-aa", workspace) == workspace.runs / "poyo-aa1"
    assert locate("ndt2", workspace) == workspace.runs / "ndt2-cc3"
    assert locate(None, workspace) == workspace.root
    with pytest.raises(AmbiguousNameError, match="'day1' names 2 sessions"):
        locate("day1", workspace)
    with pytest.raises(NotFoundError, match="neither a path nor a session or run in .*: did you mean 'nlb/day2'") as e:
        locate("dey2", workspace)
    assert str(pickle.loads(pickle.dumps(e.value))) == str(e.value)
    with pytest.raises(UsageError, match="there is no workspace"):
        locate(None, Workspace(workspace.root / "nothing"))
