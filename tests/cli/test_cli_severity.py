"""Severities through the command line: --strict, what is said again, and the same recording twice."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pynwb import NWBFile, TimeSeries
from pynwb.file import Subject

from tests import nwb_files
from tests.cli.test_cli import spiketok

LASTS_S = 40.0


def made(
    path: Path,
    *,
    identifier: str = "id",
    session_id: str | None = None,
    seed: int = 0,
    early: int = 0,
    invalid: bool = False,
    lost: int = 0,
    begins_s: float = 0.0,
    n_units: int = 4,
    written: int = 0,
) -> Path:
    """A clean recording, or one with ``early`` spikes before zero, ``lost`` samples, or time called invalid.

    ``written``: the same content in another file.
    """
    rng = np.random.default_rng(seed)
    nwb = NWBFile(
        session_description=f"writing {written}",
        identifier=identifier,
        session_start_time=datetime(2021, 5, 6, 7, tzinfo=UTC),
        session_id=session_id,
        subject=Subject(subject_id="M", species="Macaca mulatta"),
    )
    for unit in range(n_units):
        own = np.sort(rng.uniform(0.01, LASTS_S - 0.02, 400)) + begins_s
        before = -np.linspace(0.7, 0.1, early) if unit == 0 else np.zeros(0)
        nwb.add_unit(spike_times=np.concatenate([before, own]))
    for start in np.arange(0.5, LASTS_S - 2, 2.0) + begins_s:
        nwb.add_trial(start_time=start, stop_time=start + 1)
    if invalid:
        nwb.add_invalid_time_interval(start_time=4.0, stop_time=9.0)
    time_s = np.arange(0, LASTS_S, 0.02) + begins_s
    value = np.stack([np.sin(time_s + seed), np.cos(2 * time_s)], axis=1)
    value[100 : 100 + lost] = np.nan
    module = nwb.create_processing_module("behavior", "behaviour")
    module.add(TimeSeries(name="hand_vel", data=value, unit="m/s", timestamps=time_s))
    return nwb_files.save(nwb, path)


def stored(root: Path) -> list[str]:
    return sorted(f"{p.parent.parent.name}/{p.parent.name}" for p in root.glob("store/*/*/session.json"))


def findings(told: str) -> dict[str, list[tuple[str, str, str]]]:
    return {r["session"]: [(f["id"], f["severity"], f["kind"]) for f in r["findings"]] for r in json.loads(told)}


def leftovers(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if ".wip-" in p.name]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    made(folder / "clean.nwb", seed=1)
    made(folder / "early.nwb", seed=2, early=13)
    made(folder / "bad.nwb", seed=3, invalid=True)
    made(folder / "first.nwb", identifier="rec-9", session_id="day9", seed=4)
    made(folder / "written.nwb", identifier="rec-9", session_id="day9", seed=4, written=1)
    made(folder / "later.nwb", identifier="rec-9", session_id="day9", seed=5, begins_s=100.0)
    made(folder / "lost.nwb", seed=6, lost=17)
    return folder


def test_strict_stores_what_is_clean_and_names_what_is_not(files, tmp_path):
    paths = [files / f"{name}.nwb" for name in ("bad", "clean", "early")]
    done = spiketok(tmp_path, "ingest", "--strict", "--json", *paths, code=1)
    assert stored(tmp_path) == ["local/clean"] and not leftovers(tmp_path)
    found = findings(done.stdout)
    assert ("invalid-times", "error", "note") in found["local/bad"]
    assert ("spikes-negative", "warning", "note") in found["local/early"]
    assert {severity for _, severity, _ in found["local/clean"]} == {"info"}
    states = {row["session"]: row["state"] for row in json.loads(done.stdout)}
    assert states == {"local/bad": "refused", "local/clean": "new", "local/early": "refused"}
    counted = next(f for r in json.loads(done.stdout) for f in r["findings"] if f["id"] == "spikes-negative")
    assert counted["count"] == 13 and counted["text"].startswith("13 spikes lie before time zero")
    line = next(line for line in done.stderr.splitlines() if "local/early" in line)
    assert "refused by --strict: spikes-negative (warning, 13): 13 spikes lie before" in line
    assert json.loads((tmp_path / "sources.json").read_text()).keys() == {"local/clean"}


def test_without_strict_warnings_and_errors_are_printed_and_inspect_shows_them(files, tmp_path):
    done = spiketok(tmp_path, "ingest", files / "bad.nwb", files / "early.nwb")
    assert "local/bad: error: invalid-times (1): 1 rows of invalid_times (5.0 s)" in done.stderr
    assert "local/early: warning: spikes-negative (13): 13 spikes lie before" in done.stderr
    assert "observed-assumed" not in done.stderr  # an info
    assert "1 session has errors: decide before you train on them: spiketok inspect local/bad" in done.stderr
    said = json.loads(spiketok(tmp_path, "inspect", "local/early", "--json").stdout)
    rows = {row["note"]: row for row in said["tables"]["notes"]}
    assert (rows["spikes-negative"]["severity"], rows["spikes-negative"]["count"]) == ("warning", 13)
    assert rows["observed-assumed"]["severity"] == "info"
    assert "spikes-negative\twarning\t13" in spiketok(tmp_path, "inspect", "local/early").stdout
    (sessions,) = [t for name, t in json.loads(spiketok(tmp_path, "inspect", "--json").stdout)["tables"].items()]
    assert [(row["warnings"], row["errors"]) for row in sessions] == [(0, 1), (1, 0)]
    # time that was masked is decided, and so is what was refused
    done = spiketok(tmp_path / "masked", "ingest", "--strict", files / "bad.nwb", "--mask", "invalid_times")
    assert stored(tmp_path / "masked") == ["local/bad"]


@pytest.mark.long
def test_strict_leaves_what_the_store_had(files, tmp_path):
    spiketok(tmp_path, "ingest", files / "early.nwb")
    before = (tmp_path / "store/local/early/session.json").read_bytes()
    for more in ([], ["--min-rate", "1"]):  # the same once more, and other settings, which would replace it
        done = spiketok(tmp_path, "ingest", "--strict", files / "early.nwb", *more, code=1)
        assert "what the store has of it, from an earlier ingest, stays as it is" in done.stderr
        assert (tmp_path / "store/local/early/session.json").read_bytes() == before
    assert not leftovers(tmp_path)


@pytest.mark.long
def test_fetch_is_as_strict(files, tmp_path):
    done = spiketok(tmp_path, "fetch", "--strict", "--json", files / "early.nwb", files / "clean.nwb", code=1)
    said = json.loads(done.stdout)
    assert stored(tmp_path) == ["local/clean"]
    assert {row["session"]: row["state"] for row in said["sessions"]} == {
        "local/clean": "new",
        "local/early": "refused",
    }
    assert [("spikes-negative" in one["error"]) for one in said["failures"]] == [True]


def test_the_same_file_under_another_name_or_dataset_is_said(files, tmp_path):
    spiketok(tmp_path, "ingest", files / "clean.nwb")
    shutil.copy(files / "clean.nwb", tmp_path / "again.nwb")
    for words in (["--dataset", "other", files / "clean.nwb"], [tmp_path / "again.nwb"]):
        refused = spiketok(tmp_path, "ingest", "--strict", *words, code=1)
        assert "same-file (warning, 1): it shares the file with sha256" in refused.stderr
        assert "local/clean" in refused.stderr and stored(tmp_path) == ["local/clean"]
    done = spiketok(tmp_path, "ingest", "--dataset", "other", "--json", files / "clean.nwb")
    assert ("same-file", "warning", "store") in findings(done.stdout)["other/clean"]
    assert "other/clean: warning: same-file (1)" in done.stderr and "with local/clean" in done.stderr
    attributes = json.loads((tmp_path / "store/other/clean/session.json").read_text())
    assert "same-file" not in {note["id"] for note in attributes["notes"]}  # of the store, not of the session


def test_the_same_recording_in_another_file_is_said(files, tmp_path):
    done = spiketok(tmp_path, "ingest", "--strict", "--json", files / "first.nwb", files / "written.nwb", code=1)
    assert stored(tmp_path) == ["local/first"]  # the second of one command, too
    found = findings(done.stdout)
    assert ("same-recording", "warning", "store") in found["local/written"]
    assert "same-recording" not in {name for name, *_ in found["local/first"]}
    assert "the identifier 'rec-9' and session id 'day9' with local/first" in done.stderr
    # files that are all called "id" are no one recording, but where size and extent agree as well
    made(tmp_path / "id_again.nwb", seed=1, written=2)
    paths = [files / "clean.nwb", files / "early.nwb", tmp_path / "id_again.nwb"]
    found = findings(spiketok(tmp_path, "ingest", "--json", *paths).stdout)
    twins = {session: [name for name, *_ in own if name.startswith("same")] for session, own in found.items()}
    assert twins == {"local/clean": [], "local/early": [], "local/id_again": ["same-recording"]}


@pytest.mark.long
def test_strict_in_several_processes(files, tmp_path):
    done = spiketok(tmp_path, "ingest", "--strict", "--json", "--jobs", "2", *sorted(files.glob("*.nwb")), code=1)
    states = {row["session"]: row["state"] for row in json.loads(done.stdout)}
    assert sorted(s for s, state in states.items() if state == "new") == stored(tmp_path)
    assert sum(states[f"local/{name}"] == "new" for name in ("first", "written", "later")) == 1
    assert states["local/early"] == states["local/bad"] == "refused" and not leftovers(tmp_path)


# ---- training and scores --------------------------------------------------------------------------------------------

TRAIN = ["train", "--model", "linear", "--set", "data.window_ms=500"]


@pytest.fixture(scope="module")
def root(files, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("root")
    names = ("first", "written", "later", "lost")
    spiketok(root, "ingest", *(files / f"{name}.nwb" for name in names))
    spiketok(root, "ingest", "--dataset", "copy", files / "lost.nwb")
    done = spiketok(root, "tokenize", "--scheme", "binned", "--json")
    assert all(row["findings"] == [] for row in json.loads(done.stdout))
    return root


@pytest.mark.long
def test_one_recording_is_not_trained_on_and_held_out(root):
    done = spiketok(root, *TRAIN, "-s", "first,written", "--hold-out", "written", code=2)
    assert "local/first and local/written are one recording" in done.stderr and "is held out" in done.stderr
    assert "they share the identifier 'rec-9' and session id 'day9'" in done.stderr
    done = spiketok(root, *TRAIN, "--hold-out", "copy/lost", code=2)  # the others are there by default
    assert "local/lost and copy/lost are one recording, they share the file with sha256" in done.stderr
    done = spiketok(root, *TRAIN, "-s", "local/lost,copy/lost", "--hold-out", "none", code=2)
    assert "and both are trained on" in done.stderr and "--merge-as" in done.stderr


def test_by_default_the_second_is_left_out_and_said(root):
    done = spiketok(root, *TRAIN, "--hold-out", "none", "--json")
    assert "left out: local/written: local/written and local/first are one recording" in done.stderr
    assert "left out: local/lost: local/lost and copy/lost are one recording" in done.stderr
    said = json.loads(done.stdout)
    assert {row["session"] for row in said["test"]} == {"copy/lost", "local/first", "local/later"}
    # what matters is said again once, and stands in the output and in the run
    found = {one["id"]: one["sessions"] for one in said["findings"]}
    assert found == {
        "observed-assumed": ["copy/lost", "local/first", "local/later"],
        "signal-not-finite": ["copy/lost"],
    }
    assert done.stderr.count("observed-assumed") == 1
    assert "info: signal-not-finite in copy/lost: hand_vel: samples that are not finite are not scored" in done.stderr
    assert json.loads((Path(said["run"]) / "result.json").read_text())["findings"] == said["findings"]
    for row in said["test"]:
        assert row["scored_s"] > 0 and row["scored_s"] + row["unanswered_s"] == pytest.approx(0.2 * LASTS_S, rel=0.02)


@pytest.mark.long
def test_parts_of_a_recording_that_share_no_time_are_two(root):
    spiketok(root, *TRAIN, "-s", "first,later", "--hold-out", "later")


def test_eval_xsession_refuses_a_trained_recording(root):
    run = json.loads(spiketok(root, *TRAIN, "-s", "first,local/lost", "--hold-out", "none", "--json").stdout)["run"]
    done = spiketok(root, "eval-xsession", run, "-s", "written", code=2)
    assert "local/written is the recording of local/first (they share the identifier 'rec-9'" in done.stderr
    done = spiketok(root, "eval-xsession", run, "-s", "copy/lost", code=2)
    assert "copy/lost is the recording of local/lost (they share the file with sha256" in done.stderr


@pytest.mark.long
def test_eval_xsession_says_what_was_scored_and_found(root):
    run = json.loads(spiketok(root, *TRAIN, "-s", "first,local/lost", "--hold-out", "none", "--json").stdout)["run"]
    done = spiketok(root, "eval-xsession", run, "--calibration-s", "5", "--json")  # of its own choice, the one unseen
    report = json.loads(done.stdout)
    assert [s["id"] for s in report["sessions"]] == ["local/later"]
    assert "note: local/written is the recording of local/first" in done.stderr
    assert [one["id"] for one in report["findings"]] == ["observed-assumed"]
    (session,) = report["sessions"]
    scores = [row["score"] for row in report["scores"] if row["score"] is not None]
    assert scores
    for score in scores:
        assert 0 < score["scored_s"] <= session["test_s"]
        assert score["scored_s"] + score["unanswered_s"] == pytest.approx(session["test_s"])
    assert "scored_s" in spiketok(root, "eval-xsession", run, "--calibration-s", "5").stdout
