"""FALCON's own evaluator (falcon-challenge 1.0.2, ``make oracle``) on the same files: its numbers, and its refusals."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from spiketok.evaluation.scoring.falcon import FalconScorer, score_task
from spiketok.evaluation.scoring.falcon_rules import COMPONENTS, LATENCY, PARTS, SETS, session_of
from tests.evaluation.scoring.test_falcon_scorer import MADE, made_binned, made_song, made_text, written

pytestmark = pytest.mark.oracle


def evaluated(said: Path, true: Path) -> dict[str, dict]:
    """The evaluator's numbers by task."""
    from falcon_challenge.evaluator import evaluate

    found = evaluate(str(true), str(said), "minival")["result"]
    return {next(iter(one)).removeprefix("minival_split_"): next(iter(one.values())) for one in found}


def assert_same_table(said: Path, true: Path) -> None:
    scorer, theirs = FalconScorer(), evaluated(said, true)
    assert scorer.check(said, true) == []
    rows = scorer.table(said, true).rows
    ours: dict[str, dict] = {}
    for row in rows:
        own = ours.setdefault(row["task"], {"Normalized Latency": row["Normalized Latency"]})
        lead = ("file", "task", "part", "Normalized Latency")
        own |= {f"{row['part']} {k}": v for k, v in row.items() if k not in lead and v is not None}
    assert set(ours) == set(theirs)
    for task, numbers in theirs.items():
        assert set(ours[task]) == set(numbers)
        for name, value in numbers.items():
            assert abs(ours[task][name] - value) < 1e-9, (task, name)


@pytest.mark.parametrize("task", [*MADE, "b1, flat"])
def test_the_table_is_the_evaluators(task, tmp_path):
    made = made_song(flat=True) if task == "b1, flat" else MADE[task](task)
    assert_same_table(*written(tmp_path, *made))


def test_several_tasks_one_part_and_runs_in_any_order(tmp_path):
    m1, h1 = made_binned("m1", ("held_in",)), made_binned("h1", ("held_out",))
    m2_said, m2_true = made_binned("m2")
    runs_first = sorted(name for name in m2_said["m2"] if name != LATENCY)  # as the server's own file names sort
    m2 = {"m2": {**{name: m2_said["m2"][name] for name in runs_first}, LATENCY: 0.1}}
    text = made_text()
    said, true = m1[0] | h1[0] | m2 | text[0], m1[1] | h1[1] | m2_true | text[1]
    assert_same_table(*written(tmp_path, said, true))


def test_sessions_out_of_order_are_scored_as_there_too(tmp_path):
    """The rule ``order`` is broken; what it warns of is what the evaluator does."""
    said, true = made_binned("h1", ("held_out",))
    by_number = sorted((n for n in said["h1"] if n != LATENCY), key=lambda n: int(session_of(n)[1:]))
    said = {"h1": {**{name: said["h1"][name] for name in by_number}, LATENCY: 0.1}}
    paths = written(tmp_path, said, true)
    (broken,) = FalconScorer().check(*paths)
    assert broken.rule == "order" and "S10 stands before S6" in broken.message
    theirs = evaluated(*paths)["h1"]
    ours = score_task("h1", said["h1"], true["h1"])["held_out"]
    assert {f"Held Out {k}": v for k, v in ours.items()} == pytest.approx(
        {k: v for k, v in theirs.items() if k != "Normalized Latency"}, abs=1e-9
    )
    right = written(tmp_path, made_binned("h1", ("held_out",))[0], true)
    assert abs(evaluated(*right)["h1"]["Held Out R2 Mean"] - theirs["Held Out R2 Mean"]) > 1e-3


def refused_cases() -> dict[str, tuple[dict, dict]]:
    """By rule a submission that breaks it alone, and a truth."""
    said, true = made_binned("m1")
    day, own = "20120926", said["m1"]["20120926"]
    mask = true["m1"][day]["mask"]
    nan = own.copy()
    nan[np.flatnonzero(mask)[0]] = np.nan

    def but(**changed) -> dict:
        return {"m1": {**said["m1"], **changed}}

    return {
        "axes": (but(**{day: own.T}), true),
        "components": (but(**{day: own[:, :15]}), true),
        "dimensions": (but(**{day: own[:, None]}), true),
        "length": (but(**{day: own[: len(mask) - 1]}), true),
        "type": (but(**{day: np.full(own.shape, "x")}), true),
        "finite": (but(**{day: nan}), true),
        "set-name": (but(other=own), true),
        "sets-missing": ({"m1": {k: v for k, v in said["m1"].items() if k != day}}, true),
        "latency": ({"m1": {k: v for k, v in said["m1"].items() if k != LATENCY}}, true),
        "task": ({"m3": said["m1"]}, true),
        "truth": (made_binned("m2")[0], true),
        "layout": ({}, true),
        "text": ({"h2": {**made_text()[0]["h2"], SETS["h2"]["held_in"][0]: ["a", "b"]}}, made_text()[1]),
        "frames": ({"b1": {**made_song()[0]["b1"], "2021.06.26": np.zeros((880, 1, 158))}}, made_song()[1]),
    }


@pytest.mark.parametrize("rule", refused_cases())
def test_what_breaks_a_rule_is_refused_there(rule, tmp_path):
    paths = written(tmp_path, *refused_cases()[rule])
    broken = FalconScorer().check(*paths)
    assert {one.rule for one in broken} == {{"frames": "length"}.get(rule, rule)}
    with pytest.raises(Exception):  # noqa: B017 - each is another one there
        evaluated(*paths)


def test_what_the_evaluator_forgets_is_told(tmp_path):
    said, true = made_text()
    day = SETS["h2"]["held_in"][0]
    said["h2"][day] = [said["h2"][day][0][:2]]
    paths = written(tmp_path, said, true)
    assert "Held In WER" in evaluated(*paths)["h2"], "taken without a word"
    assert [one.rule for one in FalconScorer().check(*paths)] == ["sentences"]


def test_the_lists_are_the_evaluators():
    from falcon_challenge.config import FalconConfig, FalconTask
    from falcon_challenge.evaluator import DATASET_HELDINOUT_MAP, HELDIN_OR_OUT_MAP, reduce_key

    assert {t: {p: list(s) for p, s in parts.items()} for t, parts in SETS.items()} == DATASET_HELDINOUT_MAP
    assert PARTS == HELDIN_OR_OUT_MAP
    for task, n in COMPONENTS.items():
        assert FalconConfig(FalconTask[task]).out_dim == n
        for names in SETS[task].values():
            assert all(session_of(name) == reduce_key(name) for name in names)


def test_its_own_pickles_are_read(tmp_path):
    """Of every protocol, by the numpy that is installed there."""
    said, true = made_binned("m1", ("held_in",))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same_table(*written(tmp_path, said, true, protocol))
