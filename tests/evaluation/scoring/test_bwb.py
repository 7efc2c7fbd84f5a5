"""BrainWideBench's table: the recorded tree of ibl-bwb-eval, and what is left out."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.scoring.bwb import BwbScorer, Key, aggregate, over_seeds, ranked, score_folder
from spiketok.evaluation.scoring.bwb_files import ALL_RECORDINGS, TASKS
from spiketok.evaluation.scoring.ranks import Summary
from tests.evaluation.scoring.golden import GOLDEN, answers, cases, far, needs_golden, number
from tests.evaluation.scoring.submissions import CHOICE, FORECAST, SESSIONS, change, file_of, write_submission

EXACT = 1e-6


@pytest.fixture(scope="module")
def tree():
    return score_folder(GOLDEN / "tree" / "predictions", GOLDEN / "tree" / "ground_truth")


def summaries_apart(own: dict[str, Summary], recorded: dict[str, list]) -> float:
    assert set(own) == set(recorded)
    pairs = [(own[name], recorded[name]) for name in own]
    assert all(one.n == other[2] and (one.sem is None) == (other[1] is None) for one, other in pairs)
    means = [far(one.mean, other[0]) for one, other in pairs]
    return max(means + [far(one.sem, other[1]) for one, other in pairs if one.sem is not None])


@needs_golden
@pytest.mark.long
def test_scores_of_a_tree_are_the_references(tree):
    scores, notes = tree
    recorded = {
        tuple(key) if len(key) == 4 else (*key[:2], ALL_RECORDINGS, key[2]): value
        for key, value in answers("tree.json")["raw"]
    }
    assert set(scores) == set(recorded) and notes == []
    assert max(far(scores[key][name], recorded[key][name]) for key in scores for name in recorded[key]) <= EXACT


@needs_golden
@pytest.mark.long
def test_aggregates_of_a_tree_are_the_references(tree):
    golden = answers("tree.json")
    for own, recorded in ((aggregate(tree[0]), golden["aggregate"]), (over_seeds(tree[0]), golden["over_seeds"])):
        assert {"|".join(key) for key in own} == set(recorded)
        assert max(summaries_apart(of, recorded["|".join(key)]) for key, of in own.items()) <= EXACT
    places, remarks = ranked(aggregate(tree[0]))
    assert places == golden["rank_step_down"]
    assert remarks == []


@needs_golden
@pytest.mark.parametrize("name", cases("ranks.json"))
def test_aggregates_and_ranks_of_recorded_scores_are_the_references(name):
    case = cases("ranks.json")[name]
    raw = {
        Key(*key) if len(key) == 4 else Key(*key[:2], ALL_RECORDINGS, key[2]): {m: number(v) for m, v in value.items()}
        for key, value in case["raw"]
    }
    for own, recorded in ((aggregate(raw), case["aggregate"]), (over_seeds(raw), case["over_seeds"])):
        assert max(summaries_apart(of, recorded["|".join(key)]) for key, of in own.items()) <= EXACT
        assert len(own) == len(recorded)
    places, remarks = ranked(aggregate(raw))
    assert places == case["step_down"] and len(remarks) == len(case["warnings"])


@needs_golden
@pytest.mark.long
def test_the_table_of_a_tree_has_the_printed_numbers():
    table = BwbScorer(compare=True).table(GOLDEN / "tree" / "predictions", GOLDEN / "tree" / "ground_truth")
    printed = (GOLDEN / "tree_stdout.txt").read_text()
    cells = {(row["label"], row["task"]): row for row in table.rows}
    for (label, task), row in cells.items():
        line = next(line for line in printed.splitlines() if line.split("│")[1:2] == [f" {label:<18} "])
        if task == "all":
            assert f"{row['rank']:.2f}" in printed
            continue
        assert row["metric"] == TASKS[task].primary
        assert f"{row['mean']:.3f} ± {row['SEM']:.3f}" in line
    assert cells["bad", "all"]["rank"] == pytest.approx(7 / 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of TS2 alone: it needs no library that takes seconds to import."""
    root = tmp_path_factory.mktemp("bwb")
    write_submission(root, tasks=(FORECAST,))
    return root


@pytest.fixture
def own(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_table_has_a_line_a_task(own):
    table = BwbScorer().table(own / "predictions", own / "truth")
    assert table.columns == ("task", "metric", "mean", "SEM", "seeds")
    (row,) = table.rows
    assert (row["task"], row["metric"], row["seeds"]) == (FORECAST, "poisson_d2", 3)
    assert 0 < row["mean"] < 1 and 0 < row["SEM"] < 0.1 and table.notes == ()
    every = BwbScorer(all_metrics=True).table(own / "predictions", own / "truth")
    assert [row["metric"] for row in every.rows] == ["poisson_d2", "bps"]
    assert BwbScorer().table(own / "predictions" / "model", own / "truth") == table


def test_a_file_that_cannot_be_scored_is_left_out_and_named(own):
    change(file_of(own / "predictions", FORECAST), lambda held: held.update(predictions=held["predictions"][..., :5]))
    shutil.move(own / "truth" / FORECAST / SESSIONS[1], own / "truth" / FORECAST / "another")
    table = BwbScorer().table(own / "predictions", own / "truth")
    assert table.rows[0]["seeds"] == 2
    assert len(table.notes) == 5
    assert "seed_43.safetensors: left out: predictions of the common windows have shape [8, 5, 5]" in table.notes[0]
    assert all("left out: there is no truth ts2-forecasting" in note for note in table.notes[1:4])
    assert table.notes[4] == "model: ts2-forecasting is scored on 1 of 2 recordings that have a truth"


def test_scores_below_zero_are_clipped_before_the_mean():
    scores = {Key("m", FORECAST, "a", k): {"poisson_d2": value, "bps": value} for k, value in enumerate((-3.0, 0.5))}
    (summary,) = over_seeds(scores).values()
    assert summary["poisson_d2"].mean == 0.25


def test_what_cannot_be_told_apart_is_refused(own):
    shutil.copytree(own / "predictions" / "model", own / "predictions" / "again")
    with pytest.raises(DataError, match="as another file does"):
        score_folder(own / "predictions", own / "truth")
    shutil.rmtree(own / "predictions" / "again")
    change(file_of(own / "predictions", FORECAST), words={"seed": None})
    with pytest.raises(DataError, match="metadata lack seed"):
        score_folder(own / "predictions", own / "truth")


def test_folders_that_hold_nothing_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    for predictions, told in ((tmp_path / "none", "no folder of predictions"), (tmp_path / "empty", "no file in")):
        with pytest.raises(UsageError, match=told):
            BwbScorer().check(predictions, None)
    (tmp_path / "model" / CHOICE / "r").mkdir(parents=True)
    (tmp_path / "model" / CHOICE / "r" / "seed_1.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="no folder of truths"):
        BwbScorer().check(tmp_path, tmp_path / "nowhere")
