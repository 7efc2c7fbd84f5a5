"""From files to sessions: by which rules, joined when, made again when."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import SourceError, UnknownNameError
from spiketok.pipeline import ingest, verify
from spiketok.pipeline.citations import cite
from spiketok.recording.nouns import Finding, Intervals, Session, Spikes
from spiketok.sources import catalogue
from spiketok.sources.catalogue.base import Dataset, Rules, name_of_file
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import Workspace
from tests.nwb_files import PLAIN_SPIKES, write_plain

SECOND_NS = 10**9
ENTRY = Dataset(
    "halves", "two halves", "000999", None, None, None, None, None, None, None, (), None, None, (), None, rules="halves"
)


def _adjust(session: Session, path: Path) -> Session:
    return replace(session, repairs=(*session.repairs, Finding("halves-seen", 1, f"saw {path.name}")))


def _join(parts, session_id: str) -> Session:
    """The second half ten seconds behind the first."""
    first, *rest = parts
    if not rest:
        return first
    (second,) = rest
    time_ns = np.concatenate([first.spikes.time_ns, second.spikes.time_ns + 10 * SECOND_NS])
    spikes = Spikes(time_ns, np.concatenate([first.spikes.unit, second.spikes.unit]))
    stop_ns = second.stop_ns + 10 * SECOND_NS
    observed = Intervals(np.array([0]), np.array([stop_ns]))
    return replace(first, id=session_id, spikes=spikes, stop_ns=stop_ns, observed=observed)


HALVES = Rules("halves", 3, adjust=_adjust, session_name=lambda name: name_of_file(name).split("_")[0], join=_join)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setitem(catalogue.DATASETS, "halves", ENTRY)
    monkeypatch.setitem(catalogue.RULES, "halves", HALVES)
    for half, times in (("a", PLAIN_SPIKES), ("b", [[0.5], [0.7], [0.1, 0.2]])):
        write_plain(tmp_path / f"day1_{half}.nwb", times)
    return Workspace(tmp_path / "root")


def run(outcomes) -> list:
    found = list(outcomes)
    for outcome in found:
        if outcome.error is not None:
            raise outcome.error
    return [outcome.result for outcome in found]


def test_files_of_one_name_are_joined_and_the_store_tells_both(workspace, tmp_path):
    (done,) = run(ingest.ingest(workspace, [tmp_path], "halves"))
    assert (done.session_id, done.n_spikes) == ("halves/day1", 7 + 4)
    assert [r["id"] for r in done.repairs] == ["halves-seen"]
    session = read_session(workspace.store_path("halves/day1"))
    assert [part.file for part in session.source.files] == ["day1_a.nwb", "day1_b.nwb"]
    assert len({part.sha256 for part in session.source.files}) == 2
    settings = read_attributes(workspace.store_path("halves/day1"))["settings"]
    assert (settings["rules"], settings["rules_version"]) == ("halves", 3)
    (verified,) = run(verify.verify(workspace, ["halves/day1"]))
    assert verified.differences == []


def test_a_session_is_made_again_only_for_other_bytes_or_settings(workspace, tmp_path, monkeypatch):
    assert [d.state for d in run(ingest.ingest(workspace, [tmp_path], "halves"))] == ["new"]
    assert [d.state for d in run(ingest.ingest(workspace, [tmp_path], "halves"))] == ["already"]
    write_plain(tmp_path / "day1_b.nwb", [[0.5], [0.7], [0.1]])
    assert [(d.state, d.n_spikes) for d in run(ingest.ingest(workspace, [tmp_path], "halves"))] == [("replaced", 10)]
    monkeypatch.setitem(catalogue.RULES, "halves", replace(HALVES, version=4))
    (verified,) = run(verify.verify(workspace, ["halves/day1"]))
    assert "made by the rules 'halves' of version 3, this spiketok has 4" in verified.differences[0]
    assert [d.state for d in run(ingest.ingest(workspace, [tmp_path], "halves"))] == ["replaced"]


def test_verify_names_the_file_that_changed(workspace, tmp_path):
    run(ingest.ingest(workspace, [tmp_path], "halves"))
    write_plain(tmp_path / "day1_b.nwb", [[0.5], [0.7], [0.1]])
    (verified,) = run(verify.verify(workspace, ["halves/day1"]))
    assert len(verified.differences) == 1
    assert verified.differences[0].startswith("source day1_b.nwb has sha256")


def test_rules_can_be_turned_off_and_asked_for(workspace, tmp_path):
    done = run(ingest.ingest(workspace, [tmp_path], "halves", rules="none"))
    assert sorted(d.session_id for d in done) == ["halves/day1_a", "halves/day1_b"]
    (one,) = run(ingest.ingest(workspace, [tmp_path], "mine", rules="halves"))
    assert one.session_id == "mine/day1"
    with pytest.raises(UnknownNameError, match="unknown rules 'halve'.* did you mean 'halves'"):
        run(ingest.ingest(workspace, [tmp_path], "mine", rules="halve"))


def test_another_table_is_the_trials_where_that_is_stated(tmp_path):
    """It is made again from its file by verify; a file that has trials, or no such table, is refused."""
    path = write_plain(tmp_path / "shown.nwb")
    with h5py.File(path, "a") as h5:
        h5.move("intervals/trials", "intervals/shown")
    workspace = Workspace(tmp_path / "root")
    (plain,) = run(ingest.ingest(workspace, [path]))
    (done,) = run(ingest.ingest(workspace, [path], wanted={"trials": "shown"}))
    assert (plain.state, done.state) == ("new", "replaced")
    session = read_session(workspace.store_path("local/shown"))
    assert session.trials.columns["side"].tolist() == ["left", "right", "left"]
    assert "shown" not in session.intervals
    assert [(n.count, n.text) for n in session.notes if n.id == "trials-stated"] == [
        (3, "the 3 rows of 'shown' are the trials")
    ]
    (verified,) = run(verify.verify(workspace, ["local/shown"]))
    assert verified.differences == []
    (unknown,) = ingest.ingest(workspace, [path], wanted={"trials": "show"})
    assert "unknown interval table 'show'" in str(unknown.error) and "'shown'" in str(unknown.error)
    other = write_plain(tmp_path / "own.nwb")
    with h5py.File(other, "a") as h5:
        h5.copy("intervals/trials", "intervals/shown")
    (refused,) = ingest.ingest(workspace, [other], wanted={"trials": "shown"})
    assert "has a table of 3 trials, so that --trials shown cannot be it: leave --trials out" in str(refused.error)


def test_files_of_one_name_without_a_rule_to_join_them_all_fail(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write_plain(tmp_path / folder / "same.nwb")
    outcomes = list(ingest.ingest(Workspace(tmp_path / "root"), [tmp_path / "x", tmp_path / "y"]))
    assert len(outcomes) == 2
    assert all(isinstance(o.error, SourceError) and "2 files would all be session" in str(o.error) for o in outcomes)


def test_the_second_of_two_sessions_that_differ_in_case_alone_is_refused(tmp_path):
    paths = [write_plain(tmp_path / f"{name}.nwb") for name in ("Mouse", "mouse", "rat")]
    workspace = Workspace(tmp_path / "root")
    outcomes = {o.name: o for o in ingest.ingest(workspace, paths)}
    assert {name: o.error is None for name, o in outcomes.items()} == {
        "Mouse.nwb": True,
        "mouse.nwb": False,
        "rat.nwb": True,
    }
    (again,) = ingest.ingest(workspace, paths[1:2])
    assert "session 'local/mouse' and 'local/Mouse' are one name" in str(again.error)
    (other,) = ingest.ingest(workspace, paths[2:], dataset="LOCAL")
    assert "session 'LOCAL/rat' and 'local' are one name" in str(other.error)


def test_another_file_behind_a_link_is_noticed(tmp_path):
    path, near = write_plain(tmp_path / "a.nwb"), tmp_path / "near.h5"
    times = np.array([0.5, 1.5, 2.5, 3.0, 3.5, 4.0, 4.5])
    with h5py.File(path, "a") as file, h5py.File(near, "w") as other:
        other["times"] = times
        del file["units/spike_times"]
        file["units/spike_times"] = h5py.ExternalLink("near.h5", "/times")
    workspace = Workspace(tmp_path / "root")
    assert next(ingest.ingest(workspace, [path])).result.state == "new"
    assert next(ingest.ingest(workspace, [path])).result.state == "already"
    linked = read_attributes(workspace.store_path("local/a"))["source"]["linked"]
    assert linked == [linked[0] | {"file": "near.h5", "sha256": hashlib.sha256(near.read_bytes()).hexdigest()}]
    cited = [one.name for one in cite(["local/a"], workspace) if one.kind == "data"]
    assert cited == ["file a.nwb", "file near.h5, to which a.nwb links"]
    with h5py.File(near, "w") as other:
        other["times"] = times + 1
    (outcome,) = verify.verify(workspace, ["local/a"])
    assert "near.h5, to which a.nwb has links, has sha256" in outcome.result.differences[0]
    assert next(ingest.ingest(workspace, [path])).result.state == "replaced"
