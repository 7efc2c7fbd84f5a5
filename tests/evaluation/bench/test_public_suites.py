"""The suites of public benchmarks, on files of their layouts: fewer steps, the same ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.evaluation.bench.leaderboard import run_suite  # noqa: E402
from spiketok.evaluation.bench.page import markdown  # noqa: E402
from spiketok.evaluation.bench.suite import part_of, read_suite  # noqa: E402
from spiketok.evaluation.nlb_rates import export_rates  # noqa: E402
from spiketok.pipeline.ingest import ingest  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.runs import open_shards  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402
from tests.evaluation.bench.made_suite import TEXT, suite_file  # noqa: E402
from tests.layouts.falcon import HELD_IN, HELD_OUT, write_m1  # noqa: E402
from tests.layouts.nlb import write_nlb  # noqa: E402

SMALL = ("size=tiny", "model.dim=16", "model.layers=1", "model.heads=2", "model.hidden=16", "optim.steps=4",
         "data.batch_size=4")  # fmt: skip


def stored(workspace: Workspace, folder: Path, dataset: str) -> list[str]:
    for outcome in ingest(workspace, [folder], dataset, told=lambda line: None):
        assert outcome.error is None, outcome.message
    return workspace.session_ids()


@pytest.mark.long
def test_nlb21_scores_as_the_export_of_a_run_does(tmp_path):
    workspace, whole = Workspace(tmp_path), read_suite("nlb21")
    write_nlb("mc_maze_small", tmp_path / "raw")
    (session,) = stored(workspace, tmp_path / "raw", "mc_maze_small")
    suite = replace(whole, models=tuple(replace(e, sets=SMALL) for e in whole.models if e.model == "ndt1"))
    part = part_of(suite, ["ndt1"], [43], ["mc_maze_small"])
    board = run_suite(workspace, suite, part, tmp_path / "out", lambda line: None)
    ((place, row),) = board.ranked(part.tracks[0])
    run = load_run(workspace.runs / board.scored[0].run["run"])
    (tokens,) = open_shards(workspace, [session], run.config)
    wanted = export_rates(run, tokens, workspace.store_path(session), "valid", tmp_path / "exported").scores
    assert place == 1 and {m: row.summary(m).mean for m in part.tracks[0].metrics} == {
        m: pytest.approx(wanted[m]) for m in ("co-bps", "vel R2", "psth R2")
    }
    assert "partial result" in markdown(board) and "co-bps" in markdown(board)


@pytest.mark.slow  # half a minute on a busy machine: three files are read in processes of their own
def test_falcon_takes_held_out_files_as_unseen_and_says_where_calibration_is_too_short(tmp_path):
    workspace, whole = Workspace(tmp_path), read_suite("falcon")
    for role, day in ((HELD_IN, "20120924"), (HELD_IN, "20120926"), (HELD_OUT, "20121004")):
        write_m1(tmp_path / "raw", role, day)
    stored(workspace, tmp_path / "raw", "falcon_m1")
    short = replace(whole.tracks[0], calibration_s=(2.0, 20.0), headline_s=2.0, protocols=("zero_gradient",))
    models = tuple(e for e in whole.models if e.name in ("linear", "spint"))
    few = tuple(replace(e, sets=("optim.steps=3",) if e.name == "spint" else e.sets) for e in models)
    suite = replace(whole, tracks=(short,), models=few)
    board = run_suite(workspace, suite, part_of(suite, None, [43]), tmp_path / "out", lambda line: None)
    assert board.sessions["m1"].unseen == ("falcon_m1/20121004_held_out_calib",)
    assert len(board.sessions["m1"].trained) == 2
    assert {row.model for place, row in board.ranked(short) if place} == {"linear", "spint"}
    said = [line for line in board.reasons() if "20 s of calibration are asked for" in line]
    assert said and all(", 20 s: falcon_m1/20121004_held_out_calib" in line for line in said)


@pytest.mark.long
def test_a_process_that_is_killed_leaves_whole_cells_and_the_next_one_the_same_bytes(tmp_path):
    """Simulated data and all, by the command, killed without a word in the middle."""
    simulated = TEXT.replace('dataset = "made"', 'dataset = "simulated"').replace("hand_vel", "cursor_vel")
    simulated = simulated.replace('"day2"', '"*day02*"').replace(
        "[[models]]",
        "[tracks.simulate]\nn_subjects = 1\nsessions_per_subject = 2\nduration_s = 20\nn_units = 8\n\n[[models]]",
        1,
    )
    path = suite_file(tmp_path / "own", simulated)
    words = [sys.executable, "-m", "spiketok", "bench", str(path), "--root", str(tmp_path / "killed")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while "small, seed 3: sub-S01" not in (line := process.stderr.readline()):
        assert line, "it was done before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    def finish(root: Path) -> dict[str, bytes]:
        spiketok(root, "bench", path)
        folder = root / "bench" / "tiny-2"
        assert json.loads((folder / "leaderboard.json").read_text())["partial"] == []
        files = [*(folder / "cells").rglob("*.json"), folder / "leaderboard.json"]
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}

    before = len([*(tmp_path / "killed" / "bench" / "tiny-2" / "cells").rglob("*.json")])
    assert 0 < before < len(finish(tmp_path / "killed")) and finish(tmp_path / "killed") == finish(tmp_path / "whole")
