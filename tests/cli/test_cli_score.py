"""The command ``score`` as a user meets it: what it prints, what it writes, its exit codes, a zip, what it refuses."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from tests.cli.test_cli import spiketok
from tests.evaluation.scoring.submissions import CHOICE, FORECAST, SESSIONS, change, file_of, write_submission


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Predictions and truth of TS2, whose scores need no library that takes seconds to import."""
    root = tmp_path_factory.mktemp("score")
    write_submission(root, tasks=(FORECAST,))
    return root


def broken_copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    change(file_of(tmp_path / "predictions", FORECAST), words={"unit_filtering": "all_units"})
    return tmp_path


def test_a_submission_that_is_taken_has_its_table(whole, tmp_path):
    words = (whole / "predictions", "--suite", "bwb", "--truth", whole / "truth")
    done = spiketok(tmp_path, "score", *words, "--json", tmp_path / "told.json")
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["task", "metric", "mean", "SEM", "seeds"]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["suite"] == "bwb" and told["broken"] == []
    (kept,) = told["table"]["rows"]
    assert row == [FORECAST, "poisson_d2", f"{kept['mean']:.3f}", f"{kept['SEM']:.3f}", "3"]
    assert "no rule is broken" in done.stderr


def test_a_broken_rule_is_told_with_file_session_and_fact_and_ends_with_1(whole, tmp_path):
    root = broken_copy(whole, tmp_path)
    words = (root / "predictions", "--suite", "bwb", "--truth", root / "truth", "--json", root / "told.json")
    done = spiketok(root, "score", *words, code=1)
    header, row = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["rule", "file", "session", "fact"]
    assert row[:3] == ["E109", f"model/{FORECAST}/{SESSIONS[0]}/seed_43.safetensors", SESSIONS[0]]
    assert row[3] == "unit_filtering is 'all_units', ts2-forecasting takes selected_units alone"
    assert "rules are broken: E109 (1): bwb would not take this" in done.stderr
    told = json.loads((root / "told.json").read_text())
    assert told["table"] is None and told["broken"] == [dict(zip(header, row, strict=True))]


def test_rules_alone_need_no_truth_and_a_table_does(whole, tmp_path):
    words = ("score", whole / "predictions", "--suite", "bwb")
    for more, told in (
        ((), "--truth asks the others"),
        (("--check-only", "--truth", whole / "truth"), "no rule is brok"),
    ):
        done = spiketok(tmp_path, *words, *more)
        assert done.stdout == "" and told in done.stderr


@pytest.mark.long
def test_a_zip_is_taken_as_its_folder_is(whole, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "mine"), "zip", whole / "predictions"))
    words = ("--suite", "bwb", "--truth", whole / "truth")
    folder = spiketok(tmp_path, "score", whole / "predictions", *words)
    assert spiketok(tmp_path, "score", archive, *words).stdout == folder.stdout
    with zipfile.ZipFile(archive, "a") as members:
        members.writestr("model/notes.txt", "x")
    assert "'notes.txt' is no prediction" in spiketok(tmp_path, "score", archive, *words, code=1).stdout


@pytest.mark.long
def test_zips_that_lead_elsewhere_or_are_cut_are_refused(whole, tmp_path):
    bad, cut = tmp_path / "bad.zip", tmp_path / "cut.zip"
    with zipfile.ZipFile(bad, "w") as members:
        members.writestr("../outside.txt", "x")
    cut.write_bytes(bad.read_bytes()[:30])
    words = ("--suite", "bwb", "--check-only")
    assert "which leads out of it" in spiketok(tmp_path, "score", bad, *words, code=1).stderr
    assert "no whole zip" in spiketok(tmp_path, "score", cut, *words, code=1).stderr
    assert "nothing at" in spiketok(tmp_path, "score", tmp_path / "none.zip", *words, code=2).stderr
    assert not (tmp_path.parent / "outside.txt").exists()


@pytest.mark.long
def test_labels_are_compared_on_request(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    write_submission(tmp_path, "worse", skill=0.2, tasks=(FORECAST,))
    words = ("score", tmp_path / "predictions", "--suite", "bwb", "--truth", tmp_path / "truth")
    assert "E106" in spiketok(tmp_path, *words, code=1).stdout
    rows = [line.split("\t") for line in spiketok(tmp_path, *words, "--compare").stdout.splitlines()]
    assert rows[0][0] == "label" and rows[0][-1] == "rank"
    assert [(row[0], row[1], row[-1]) for row in rows[1:]] == [
        ("model", FORECAST, "1.000"),
        ("model", "all", "1.000"),
        ("worse", FORECAST, "2.000"),
        ("worse", "all", "2.000"),
    ]


@pytest.mark.long
def test_scores_that_are_no_number_are_words_in_the_json(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "truth").rglob("*.safetensors"):
        change(path, lambda held: held.update(targets=np.zeros_like(held["targets"])))
    words = (
        tmp_path / "predictions",
        "--suite",
        "bwb",
        "--truth",
        tmp_path / "truth",
        "--json",
        tmp_path / "told.json",
    )
    spiketok(tmp_path, "score", *words)
    assert json.loads((tmp_path / "told.json").read_text())["table"]["rows"][0]["mean"] == "nan"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--suite", "bwd", "--check-only"), "unknown suite 'bwd': did you mean 'bwb'?"),
        (("--suite", "bwb", "--check-only", "--versions", "0.1.0"), "expected MIN:MAX"),
        (("--suite", "bwb", "--check-only", "--versions", "0.1:"), "'0.1' is no version of a dataset"),
    ],
)
def test_wrong_requests_are_told(whole, tmp_path, words, told):
    assert told in spiketok(tmp_path, "score", whole / "predictions", *words, code=2).stderr


def test_on_a_terminal_a_fact_stands_once_with_its_places(whole, tmp_path, monkeypatch, capsys):
    from spiketok.cli import score
    from spiketok.evaluation.scoring.base import Broken

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    broken = [Broken("E107", Path("model", CHOICE, "r", f"seed_{k}.safetensors"), "r", "nan") for k in range(7)]
    score._show_broken([*broken, Broken("E104", Path("."), "r", "no prediction")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "E107  nan" and lines[1] == f"      model/{CHOICE}/r/seed_0.safetensors"
    assert lines[6] == "      and 2 more, all of which --json FILE names"
    assert lines[7:] == ["E104  no prediction", "      session r"]
