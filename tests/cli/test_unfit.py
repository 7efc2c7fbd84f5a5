"""Sessions that cannot serve: left out and said where nobody named them, an error where somebody did."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.cli.options import counted
from spiketok.recording.nouns import Intervals, Signal, Source
from spiketok.storage.store import write_session
from spiketok.storage.workspace import Workspace
from spiketok.training.config import load_config
from spiketok.training.runs import choose_training
from tests.cli.test_cli import spiketok
from tests.decodable import decodable_session
from tests.made import random_session

TRAIN = ("train", "-m", "linear", "--task", "decode:hand_vel", "--hold-out", "*held")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two sessions that serve, one of half a second; the first alone has trials."""
    root = tmp_path_factory.mktemp("unfit")
    starts = [k * 2 * SECOND for k in range(1, 19)]
    trials = Intervals(starts, [start + SECOND for start in starts])
    for name, seconds in (("good", 40.0), ("held", 60.0), ("short", 0.5)):
        session = decodable_session(name, seed=len(name), seconds=seconds)
        tables = {"trials": trials} if name == "good" else {}
        write_session(replace(session, intervals=tables), root / "store" / session.id)
    spiketok(root, "tokenize", "--scheme", "binned")
    spiketok(root, *TRAIN)
    return root


def test_training_leaves_out_what_nobody_named(root):
    done = spiketok(root, *TRAIN, "--restart")
    left = [line for line in done.stderr.splitlines() if line.startswith("left out: made/short: no ")]
    assert len(left) == 1, done.stderr
    assert "made/good" in done.stdout and "made/short" not in done.stdout
    assert "made/short: no " in spiketok(root, *TRAIN, "-s", "made/good,made/short,made/held", code=1).stderr


def test_a_session_of_event_codes_alone_is_no_choice(tmp_path):
    """Where all are so, none is better than another: who chooses the behaviour says so of all."""
    for k, name in enumerate(("one", "two", "strobes")):
        session = random_session(name, k, seconds=10.0)
        vel = session.signals["vel"]
        if name == "strobes":
            code = (np.arange(len(vel.time_ns)) // 50 % 4)[:, None].astype(np.float32)
            own = {"strobe": Signal(vel.time_ns, code, ("code",), "n/a", np.ones(len(code), np.bool_), 100.0)}
        else:
            own = {"vel": vel}
        source = Source(f"{name}.nwb", str(k) * 64, 1)
        write_session(replace(session, signals=own, source=source), tmp_path / "store" / session.id)
    workspace = Workspace(tmp_path)
    chosen = choose_training(workspace, load_config("linear"), None, "none")
    assert sorted(chosen.sessions) == ["made/one", "made/two"]
    assert chosen.left_out == ["made/strobes has no behaviour but event codes (strobe)"]
    named = load_config("linear", tasks=["decode:strobe"])  # named, a code is decoded
    assert choose_training(workspace, named, None, "none").sessions == ["made/strobes"]
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / "store" / "made" / name)
    assert choose_training(Workspace(tmp_path), load_config("linear"), None, "none").sessions == ["made/strobes"]


def test_evaluation_leaves_out_what_nobody_named(root):
    done = spiketok(root, "eval-xsession", "linear", "--calibration-s", "5")
    assert "left out: made/short: " in done.stderr
    assert "made/held" in done.stdout and "made/short" not in done.stdout
    assert "made/short: " in spiketok(root, "eval-xsession", "linear", "-s", "made/short,made/held", code=1).stderr


def test_tokenize_leaves_out_what_nobody_named(root):
    rule = ("tokenize", "--scheme", "per-spike", "--segments", "trials:start,0,500")
    plan = spiketok(root, *rule, "--dry-run")
    assert "left out: made/held" in plan.stderr
    done = spiketok(root, *rule)
    assert "3 shards: 1 written, 2 left out" in done.stderr
    assert "3 shards: 1 already, 2 left out" in spiketok(root, *rule).stderr
    assert "made/held" in spiketok(root, *rule, "-s", "made/held,made/good", code=1).stderr


def test_splits_leave_out_what_nobody_named(root):
    rule = ("splits", "--rule", "kind=trial", "--store-as")
    done = spiketok(root, *rule, "mine")
    assert "left out: made/held" in done.stderr
    assert "made/good: set 'mine' stored" in done.stderr
    told = spiketok(root, *rule, "other", "made/good", "made/held", code=1).stderr
    assert "nothing was stored: 1 of 2 sessions cannot be divided so" in told


def test_splits_of_a_damaged_session_are_an_error_though_nobody_named_it(root, tmp_path):
    copied = tmp_path / "damaged"
    shutil.copytree(root / "store", copied / "store")
    (copied / "store" / "made" / "held" / "session.json").write_text("{}")
    done = spiketok(copied, "splits", "--json", code=1)
    assert "made/held" in done.stderr and "left out" not in done.stderr
    assert "made/good" in done.stdout


def test_a_summary_counts_each_state_once():
    assert counted("sessions", ["new", "already", "already"]) == "3 sessions: 1 written, 2 already"
    assert counted("files", ["fetched", "skipped"], 2) == "4 files: 1 written, 1 already, 2 failed"
    assert counted("sessions", ["replaced"]) == "1 session: 1 replaced"
    assert counted("sessions", []) == "0 sessions"
