"""A suite that runs: stopped and gone on with, in parts; its cells against eval-xsession, its numbers by formulas."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.evaluation.bench import jobs as running  # noqa: E402
from spiketok.evaluation.bench.jobs import Cells  # noqa: E402
from spiketok.evaluation.bench.leaderboard import Leaderboard, run_suite, write_leaderboard  # noqa: E402
from spiketok.evaluation.bench.page import markdown, number, ranking_rows, write_page  # noqa: E402
from spiketok.evaluation.bench.suite import Suite, part_of  # noqa: E402
from spiketok.evaluation.scoring.ranks import Summary, step_down_ranks  # noqa: E402
from spiketok.evaluation.transfer import evaluate_transfer  # noqa: E402
from spiketok.storage.store import read_session, write_session  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.runs import open_shards  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.evaluation.bench.made_suite import made_workspace, suite, suite_file  # noqa: E402


def run(workspace: Workspace, of: Suite, folder: Path, division=None, lines=None, **some) -> Leaderboard | None:
    told = (lambda line: None) if lines is None else lines.append
    return run_suite(workspace, of, part_of(of, **some), folder, told, division=division)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted((folder / "cells").rglob("*.json"))}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Workspace, Suite, Path, Leaderboard]:
    """The suite, run without a stop."""
    home = tmp_path_factory.mktemp("bench")
    workspace, of = made_workspace(home / "one"), suite(home)
    return workspace, of, home / "out", run(workspace, of, home / "out")


def test_a_suite_that_is_stopped_anywhere_goes_on_to_the_same_bytes(done, tmp_path, monkeypatch):
    workspace, of, whole, board = done
    put, left = Cells.put, [0]

    def put_some(self, *what) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(self, *what)

    monkeypatch.setattr(Cells, "put", put_some)
    left[0] = 12  # cells until it stops: within a model, a session and its rows
    with pytest.raises(KeyboardInterrupt):
        run(workspace, of, tmp_path)
    assert len(contents(tmp_path)) == 12
    monkeypatch.setattr(Cells, "put", put)
    after = run(workspace, of, tmp_path)
    assert contents(tmp_path) == contents(whole) and len(contents(whole)) == 4 * (1 + 2 * 3)
    assert after.to_json() == board.to_json()


def test_nothing_is_done_twice_and_what_was_changed_is_done_again(done, tmp_path, monkeypatch):
    workspace, of, whole, board = done
    folder = shutil.copytree(whole, tmp_path / "out")
    file = folder / "cells" / "made" / "small-3" / "day2" / "8s-identity_only.json"
    file.write_text(file.read_text().replace('"n_samples": ', '"n_samples": 1'))
    monkeypatch.setattr(running, "train", lambda *a, **k: pytest.fail("it is trained"))
    lines: list[str] = []
    again = run(workspace, of, folder, lines=lines)
    assert lines == ["made, small, seed 3: day2, 8 s", "4 of 4 trainings are there and scored"]
    assert contents(folder) == contents(whole) and again.to_json() == board.to_json()


@pytest.mark.long
def test_parts_in_any_order_make_the_same_leaderboard(done, tmp_path):
    workspace, of, whole, board = done
    for k in (3, 1, 2):
        found = run(workspace, of, tmp_path, (k, 3))
        assert (found is None) == (k != 2)  # the last one finds all that the others made
    assert contents(tmp_path) == contents(whole)
    assert run(workspace, of, tmp_path).to_json() == board.to_json()


def test_a_cell_is_what_eval_xsession_says_of_the_run(done):
    workspace, _, whole, _ = done
    cells = whole / "cells" / "made" / "small-5"
    of = json.loads((cells / "train.json").read_text())["facts"]
    loaded = load_run(workspace.runs / of["run"])
    assert loaded.config.seed == 5 and loaded.digest == of["checkpoint_digest"]
    wanted = evaluate_transfer(
        loaded,
        open_shards(workspace, ["made/day2"], loaded.config),
        protocols=["identity_only"],
        calibration_s=4.0,
        stored=lambda s: read_session(workspace.store_path(s)),
    )
    for cell in wanted.cells:
        found = json.loads((cells / "day2" / f"4s-{cell.protocol}.json").read_text())["facts"]
        assert found["score"] == {cell.task: json.loads(json.dumps(cell.score))} and found["reason"] == cell.reason


def test_numbers_are_means_over_sessions_and_standard_errors_over_seeds(done):
    _, of, whole, board = done
    (track,) = of.tracks

    def values(model: str, row: str) -> np.ndarray:
        files = [whole / "cells" / "made" / f"{model}-{seed}" / "day2" / f"8s-{row}.json" for seed in (3, 5)]
        return np.array([json.loads(f.read_text())["facts"]["score"]["decode:hand_vel"]["r2_mean"] for f in files])

    small, ridge = values("small", "identity_only"), values("ridge", "linear")
    places = {row.model: (place, row) for place, row in board.ranked(track)}
    found = places["small"][1].summary("r2_mean")
    assert found.mean == pytest.approx(small.mean()) and found.sem == pytest.approx(small.std(ddof=1) / np.sqrt(2))
    assert places["ridge"][1].summary("r2_mean").mean == pytest.approx(ridge.mean())
    head = {m: row.summary("r2_variance_weighted") for m, (_, row) in places.items()}
    assert {m: place for m, (place, _) in places.items()} == step_down_ranks(head)
    assert [row.model for _, row in board.ranked(track)] == ["ridge", "small"]  # the better mean first
    floor = board.floor(places["small"][1])
    assert floor.summary("r2_mean").mean == pytest.approx(values("small", "linear").mean())
    assert board.floor(places["ridge"][1]) is None  # it is the floor
    assert [line.split(":")[0] for line in board.reasons()][:2] == [
        "made, ridge, identity_only",
        "made, ridge, trial_time",
    ]


def test_what_a_cheat_gets_stands_beside_every_score(done):
    """A constant cannot have an R2 above 0; here nobody has trials, and time says little of a behaviour."""
    _, of, whole, board = done
    row = next(row for _, row in board.ranked(of.tracks[0]) if row.model == "small")
    cell = json.loads((whole / "cells" / "made" / "small-3" / "day2" / "8s-cheats.json").read_text())["facts"]
    said = cell["score"]["decode:hand_vel"]
    assert board.cheat(row, "constant") == said["constant"]["score"] <= 0
    assert board.cheat(row, "trial_time") is None and said["trial_time"]["reason"] == "the session has no trials"
    (shown,) = (r for r in ranking_rows(board, of.tracks[0]) if r["model"] == "small")
    assert shown["constant"] == f"{said['constant']['score']:.3f}" and shown["clock"] == number(
        board.cheat(row, "session_time")
    )


def test_a_seed_without_a_score_in_a_session_leaves_the_row_without_a_mean(done):
    row = done[3].rows[0]
    missing = {m: {s: dict(own) for s, own in by.items()} for m, by in row.values.items()}
    missing["r2_mean"][5]["made/day0"] = None
    holed = type(row)(row.track, row.model, row.protocol, 0.0, missing)
    assert list(holed.seeds("r2_mean")) == [3] and holed.summary("r2_mean") is None
    assert holed.session("r2_mean", "made/day0") is None and holed.session("r2_mean", "made/day1") is not None
    assert Summary.of([1.0]).sem is None


@pytest.mark.long
def test_the_page_stands_alone_and_says_what_is_partial(done, tmp_path):
    pytest.importorskip("matplotlib")
    workspace, of, whole, board = done
    some = run(workspace, of, whole, models=["ridge"])
    for one, name in ((board, "whole"), (some, "part")):
        write_page(one, tmp_path / f"{name}.html")
        write_leaderboard(one, tmp_path / f"{name}.json")
    page, part = ((tmp_path / f"{name}.html").read_text() for name in ("whole", "part"))
    assert "http" not in page.replace('lang="en"', "") and page.count("<img") == 2 and "tiny 2" in page
    assert "partial" not in page.lower()
    assert "A partial result, not to be cited as tiny 2:</b> models ridge of ridge, small" in part
    assert markdown(board) == markdown(board) and "| 1 | ridge |" in markdown(board)
    assert "partial result" in markdown(some) and "small" not in markdown(some).partition("##")[2]
    assert json.loads((tmp_path / "part.json").read_text())["partial"] == ["models ridge of ridge, small"]


@pytest.mark.long
def test_another_session_in_the_place_of_one_is_scored_anew(done, tmp_path):
    _, of, whole, board = done
    workspace = made_workspace(tmp_path / "one")
    write_session(decodable_session("day2", 9, n_units=8, seconds=16.0), workspace.store_path("made/day2"))
    folder = shutil.copytree(whole, tmp_path / "out")
    again = run(workspace, of, folder, models=["ridge"])
    (mine,), (theirs,) = ([r for _, r in b.ranked(of.tracks[0]) if r.model == "ridge"] for b in (again, board))
    assert mine.summary("r2_mean") != theirs.summary("r2_mean")


@pytest.mark.long
def test_the_command_is_interrupted_inspected_verified_and_cited(tmp_path, monkeypatch):
    made_workspace(tmp_path)
    path, put = suite_file(tmp_path / "own"), Cells.put

    def interrupted(self, *what) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cells, "put", interrupted)
    spiketok(tmp_path, "bench", path, code=130)
    monkeypatch.setattr(Cells, "put", put)
    table = tmp_path / "table.md"
    said = spiketok(tmp_path, "bench", path, "--markdown", table)
    page = tmp_path / "bench" / "tiny-2" / "leaderboard.html"
    assert said.stdout.endswith(f"page {page}\n") and page.is_file() and "| 1 | ridge |" in table.read_text()
    assert json.loads(spiketok(tmp_path, "bench", path, "--json").stdout)["suite"]["name"] == "tiny"
    assert "partial" in spiketok(tmp_path, "bench", path, "--seeds", "5").stderr
    assert page.with_name("leaderboard-partial.json").is_file()
    scores = page.with_suffix(".json")
    assert "tiny 2" in spiketok(tmp_path, "inspect", scores).stdout
    assert spiketok(tmp_path, "inspect", page.parent).stdout == spiketok(tmp_path, "inspect", page).stdout
    assert "poyo" in spiketok(tmp_path, "cite", scores).stdout
    chain = spiketok(tmp_path, "verify", scores, "--quick", "--json", code=0).stdout
    kinds = [link["kind"] for link in json.loads(chain)["chain"]]
    assert kinds[0] == "leaderboard" and kinds.count("checkpoint") == 4 and kinds.count("store") == 3
    scores.write_text(scores.read_text().replace('"rank": 1', '"rank": 3'))
    assert "the first broken link: leaderboard" in spiketok(tmp_path, "verify", scores, "--quick", code=1).stderr
    assert "was changed since it was written" in spiketok(tmp_path, "inspect", scores, code=1).stderr
