"""``spiketok splits``: what it shows, checks and stores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.pipeline.divide import describe, timeline
from spiketok.recording.leakage import Reach, check_leakage, with_stated_reach
from spiketok.recording.nouns import Intervals
from spiketok.recording.splits import set_splits, stored_sets
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.store import read_attributes, read_session, write_session
from tests.cli.test_cli import Terminal, spiketok
from tests.made import MS, SECOND, random_session


def session(name: str = "one", day: str = "2020-01-01", **changes: object):
    """Six seconds with ten trials in two directions and a stored NLB set."""
    made = random_session(name, 1)
    start = np.arange(10) * 600 * MS
    columns = {"direction": np.array(["left", "right"] * 5)}
    stored = Intervals(
        [0, 3 * SECOND],
        [3 * SECOND, 6 * SECOND],
        {"name": np.array(["train", "test"]), "set": np.array(["nlb", "nlb"])},
    )
    return replace(
        made,
        intervals={"trials": Intervals(start, start + 500 * MS, columns)},
        splits=stored,
        source=replace(made.source, session_start=day),
        **changes,
    )


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    for name, day in (("one", "2020-01-01"), ("two", "2020-01-02"), ("three", "")):
        write_session(session(name, day), folder / "store" / "made" / name)
    return folder


@pytest.fixture
def root(made_once, tmp_path, monkeypatch) -> Path:
    """A workspace with three sessions, and lines of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    shutil.copytree(made_once / "store", tmp_path / "store")
    return tmp_path


def test_stored_splits_are_shown_as_a_timeline_with_counts(root):
    done = spiketok(root, "splits", "one")
    bars, _, table = done.stdout.partition("\n\n")
    lines = bars.splitlines()
    assert lines[0] == "made/one: set nlb"
    assert all(len(line) <= 100 for line in lines)
    assert [line.split()[0] for line in lines[1:3]] == ["train", "test"]
    assert lines[1].count("#") == lines[2].count("#") == 43
    header, *rows = [line.split("\t") for line in table.splitlines()]
    assert header == ["session", "division", "split", "seconds", "stretches", "trials", "spikes"]
    held = read_session(root / "store/made/one")
    for row, (start, stop) in zip(rows, ((0, 3), (3, 6)), strict=True):
        assert float(row[3]) == 3.0
        assert row[5] == "5"
        assert int(row[6]) == len(held.spikes.window(start * SECOND, stop * SECOND))


def test_every_session_of_a_dataset_on_a_terminal_and_as_json(root):
    seen = spiketok(root, "splits", "made", stream=Terminal).stdout
    assert seen.count(": set nlb") == 3
    told = json.loads(spiketok(root, "splits", "made/t*", "--rule", "kfold", "--rule", "k=3", "--json").stdout)
    assert [d["session"] for d in told["divisions"]] == ["made/three", "made/two"]
    for division in told["divisions"]:
        # of one trial the first 100 ms are not observed
        assert (sum(row["trials"] for row in division["splits"]), division["trials_cut"]) == (9, 1)
        assert division["left_out_s"] == pytest.approx({"between trials": 1.0, "not observed": 0.1})


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["one", "--rule", "set=nbl"], 1, "unknown split set 'nbl' in the stored splits (nlb): did you mean 'nlb'?"),
        (["one", "--rule", "sett=nlb"], 2, "unknown key 'sett' in split: did you mean 'set'?"),
        (["one", "--rule", "folds"], 2, "split kind 'folds' is not one of auto, stored, block, trial, kfold, day, all"),
        (["one", "--rule", "k=x"], 2, "split.k is 'x', expected int"),
        (["four"], 2, "unknown session 'four'"),
        (["one", "--store-as", "x"], 2, "--store-as x stores what a rule makes: give one"),
        (["one", "--rule", "auto", "--store-as", "x"], 2, "split kind 'auto' makes no division of its own"),
        (["one", "--rule", "block", "--store-as", "nlb"], 2, "split set 'nlb' is the source's own"),
        (["made", "--rule", "day"], 1, "made/three: split kind 'day' needs the day of recording and its source states"),
        (["one", "--scheme", "binned"], 2, "say what --check is to check: add --check"),
        (["one", "--check", "--scheme", "bim"], 2, "unknown scheme 'bim'"),
        (["one", "--check", "--target", "vell"], 1, "unknown behaviour 'vell' in made/one: did you mean 'vel'?"),
        (["one", "--plot", "x.gif"], 2, "the ending '.gif' is not one of"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_clear_line(root, words, code, message):
    assert message in spiketok(root, "splits", *words, code=code).stderr
    assert "splits" not in read_attributes(root / "store/made/one")["settings"]


def test_days_divide_sessions(root):
    told = json.loads(spiketok(root, "splits", "made/one", "made/two", "--rule", "day", "--json").stdout)
    assert [[r["seconds"] > 0 for r in d["splits"]] for d in told["divisions"]] == [
        [True, False, False],
        [False, False, True],
    ]
    spiketok(root, "splits", "made/one", "made/two", "--rule", "day", "--store-as", "days")
    settings = read_attributes(root / "store/made/two")["settings"]
    assert settings == {"splits": {"days": {"kind": "day", "assigned": "test"}}}


def test_storing_a_division_is_atomic_and_done_once(root):
    path = root / "store/made/one"
    before = read_attributes(path)["digest"]
    words = ["splits", "one", "--rule", "trial", "--rule", "stratify=direction", "--rule", "seed=4"]
    assert "set 'mine' stored" in spiketok(root, *words, "--store-as", "mine").stderr
    stored = read_attributes(path)
    assert stored["digest"] != before
    assert stored["settings"]["splits"] == {"mine": {"kind": "trial", "seed": 4, "stratify": "direction"}}
    when = (path / "session.json").stat().st_mtime_ns
    assert "set 'mine' stood already" in spiketok(root, *words, "--store-as", "mine").stderr
    assert (path / "session.json").stat().st_mtime_ns == when
    held = read_session(path)  # checks the digest
    assert stored_sets(held.splits) == ["nlb", "mine"]
    assert sum(part.total_ns for part in set_splits(held.splits, "mine").values()) > 4 * SECOND
    # another rule takes the place of the first, and leaves the source's own set as it was
    spiketok(root, "splits", "one", "--rule", "kfold", "--store-as", "mine")
    again = read_session(path)
    assert stored_sets(again.splits) == ["nlb", "mine"]
    assert set_splits(again.splits, "nlb")["test"].total_ns == 3 * SECOND
    told = json.loads(spiketok(root, "splits", "one", "--json").stdout)
    assert [d["division"] for d in told["divisions"]] == ["set nlb", "set mine"]


def test_a_check_says_what_leaks_and_ends_with_1(root):
    done = spiketok(root, "splits", "one", "--check", "--scheme", "event-pair", "--lag-ms", "50", "--json", code=1)
    (border,) = json.loads(done.stdout)["borders"]
    assert (border["border"], border["at_s"], border["gap_ms"], border["leak_ms"]) == ("train | test", 3.0, 0.0, 200.0)
    assert "nothing can leak" in spiketok(root, "splits", "one", "--check", "--scheme", "per-spike").stderr
    # the margin that it names is what it takes, also where there is a gap already
    between = ["--rule", "trial", "--rule", "seed=1", "--check", "--scheme", "event-pair", "--json"]
    assert any(b["leak_ms"] for b in json.loads(spiketok(root, "splits", "one", *between, code=1).stdout)["borders"])
    assert "margin_ms=75 would" in spiketok(root, "splits", "one", *between[:-1], code=1).stderr
    assert spiketok(root, "splits", "one", *between, "--rule", "margin_ms=75").returncode == 0
    gap = ["--rule", "block", "--rule", "margin_ms=100"]
    assert spiketok(root, "splits", "one", *gap, "--check", "--scheme", "event-pair", "--lag-ms", "50").returncode == 0
    assert "by up to 150 ms" in spiketok(root, "splits", "one", "--check", "--scheme", "event-pair", code=1).stderr
    assert (
        "depend on the whole session"
        in spiketok(root, "splits", "one", "--check", "--scheme", "calibration", code=1).stderr
    )
    smooth = session("smooth", info=with_stated_reach({}, "vel", 80 * MS, 40 * MS))
    write_session(smooth, root / "store/made/smooth")
    words = ["splits", "smooth", "--check", "--json"]
    (border,) = json.loads(spiketok(root, *words, "--scheme", "per-spike", "--target", "vel", code=1).stdout)["borders"]
    assert border["leak_ms"] == 120.0
    assert spiketok(root, *words, "--scheme", "per-spike").returncode == 0


def test_windows_around_trials_are_checked_too(root):
    """Trials of 500 ms each 600 ms; the border at 3 s touches the sixth."""
    words = ["splits", "one", "--check", "--json", "--segments"]
    rows = json.loads(spiketok(root, *words, "trials:start,0,500").stdout)["windows"]
    assert [(r["split"], r["windows"], r["over_border"], r["leak_ms"]) for r in rows] == [
        ("train", 5, 0, 0.0), ("test", 5, 0, 0.0)
    ]  # fmt: skip
    rows = json.loads(spiketok(root, *words, "trials:start,250,700", code=1).stdout)["windows"]
    assert [(r["split"], r["windows"], r["over_border"], r["leak_ms"]) for r in rows] == [
        ("train", 5, 1, 100.0), ("test", 5, 1, 250.0)
    ]  # fmt: skip
    assert "cannot be read" in spiketok(root, "splits", "one", "--check", "--segments", "trials", code=1).stderr


def test_a_simulated_session_keeps_its_division_through_verify_and_ingest(tmp_path):
    config = SimulationConfig(n_subjects=1, sessions_per_subject=1, n_units=5, duration_s=20)
    (file,) = simulate(config, tmp_path / "simulated")
    spiketok(tmp_path, "ingest", file)
    spiketok(tmp_path, "splits", "local", "--rule", "trial", "--store-as", "mine")
    assert "equal" in spiketok(tmp_path, "verify").stdout
    assert "already" in spiketok(tmp_path, "ingest", file).stdout
    (path,) = (p.parent for p in (tmp_path / "store").glob("*/*/session.json"))
    digest = read_attributes(path)["digest"]
    held = read_session(path)
    write_session(replace(held, subject="spoiled"), path, read_attributes(path)["settings"] | {"reader_version": 0})
    assert "replaced" in spiketok(tmp_path, "ingest", file).stdout
    assert read_attributes(path)["digest"] == digest


def test_a_timeline_shows_what_is_short_and_fits_its_width():
    made = session()
    tiny = {"train": Intervals([0], [3 * SECOND]), "test": Intervals([3 * SECOND], [3 * SECOND + 1])}
    division = describe(made, "x", tiny)
    for width in (24, 60, 200):
        lines = timeline(division, width)
        assert all(len(line) <= width for line in lines)
        assert lines[2].removeprefix("test").strip() == "░"
    assert set("".join(timeline(division, 60, ascii_only=True)[1:4])) <= set("train test (left out)#+.")
    assert check_leakage(tiny, Reach())[0].gap_ns == 0


def test_a_picture_is_drawn(root):
    out = root / "splits.png"
    spiketok(root, "splits", "made", "--plot", out)
    assert out.stat().st_size > 10_000


def test_a_division_whose_training_time_is_silent_is_refused_and_not_stored(tmp_path):
    """All spikes in the last second and a half of six: blocks and the source's own set have a silent train split."""
    made = session("late")
    spikes = made.spikes.window(4500 * MS, 6 * SECOND)
    write_session(replace(made, spikes=spikes), tmp_path / "store" / "made" / "late")
    for words in ((), ("--rule", "block"), ("--rule", "block", "--store-as", "mine")):
        done = spiketok(tmp_path, "splits", "late", *words, code=1)
        assert "made/late: not one spike in its train time" in done.stderr
    assert "splits" not in read_attributes(tmp_path / "store" / "made" / "late")["settings"]
    spiketok(tmp_path, "splits", "late", "--rule", "kind=block", "--rule", "train=0.8", "--rule", "valid=0")
    failed = spiketok(tmp_path, "tokenize", "--scheme", "calibration", "--set", "n_trials=6", code=1)
    assert "not one spike in its calibration time (" in failed.stderr
    spiketok(tmp_path, "tokenize", "--scheme", "calibration", "--set", "n_trials=8")
