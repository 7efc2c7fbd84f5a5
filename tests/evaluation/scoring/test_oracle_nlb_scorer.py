"""nlb_tools' own evaluation (0.0.4, ``make oracle-nlb``: SPIKETOK_NLB_PYTHON) of the same files: numbers, refusals."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spiketok.evaluation.scoring.nlb import NlbScorer
from tests.evaluation.scoring.test_nlb_scorer import HELDIN, SET, TABLES, T, cases, made, numbers, write
from tests.sources.test_oracle_nlb import SCRIPT

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def old_python() -> str:
    python = os.environ.get("SPIKETOK_NLB_PYTHON")
    if not python:
        pytest.skip("SPIKETOK_NLB_PYTHON names no interpreter with nlb_tools 0.0.4: run make oracle-nlb")
    return python


def evaluated(python: str, truth: Path, rates: Path) -> dict | str:
    """Its numbers by split, or the last line of what it stopped with."""
    out = rates.with_suffix(".json")
    words = [python, str(SCRIPT), "--evaluate", str(truth), str(rates), str(out)]
    done = subprocess.run(words, capture_output=True, text=True)
    return json.loads(out.read_text()) if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def test_whole_tables(old_python, tmp_path):
    rates = write(tmp_path / "rates.h5", {name: case[0] for name, case in cases().items()})
    truth = write(tmp_path / "truth.h5", {name: case[1] for name, case in cases().items()})
    theirs, ours = evaluated(old_python, truth, rates), numbers(NlbScorer().table(rates, truth).rows)
    assert {split: set(own) for split, own in ours.items()} == {split: set(own) for split, own in theirs.items()}
    for split, own in theirs.items():
        assert ours[split] == pytest.approx(own, abs=1e-9), split
    kept = json.loads(TABLES.read_text())
    assert {split: pytest.approx(own, abs=1e-9) for split, own in kept.items()} == theirs


def refused_cases() -> dict[str, dict]:
    """By rule the rates that break it alone."""
    rates, _ = made()
    eval_in, eval_out = rates["eval_rates_heldin"], rates["eval_rates_heldout"]
    nan = eval_out.copy()
    nan[0, 0, 0] = np.nan
    return {
        "axes": {**rates, "eval_rates_heldin": eval_in.transpose(0, 2, 1)},
        "dimensions": {**rates, "eval_rates_heldin": eval_in.reshape(-1, HELDIN)},
        "bin-width": {**rates, "eval_rates_heldout": eval_out[:, ::4]},
        "bins": {**rates, "eval_rates_heldin": eval_in[:, : T - 20]},
        "heldin-heldout": {**rates, "eval_rates_heldout": eval_in},
        "units": {**rates, "eval_rates_heldin": eval_in[..., :4]},
        "trials": {**rates, "eval_rates_heldout": eval_out[:3]},
        "finite": {**rates, "eval_rates_heldout": nan},
        "negative": {**rates, "eval_rates_heldout": np.log(eval_out)},
        "type": {**rates, "eval_rates_heldin": np.full(eval_in.shape, b"x")},
        "array": {name: rate for name, rate in rates.items() if name != "train_rates_heldin"},
    }


@pytest.mark.parametrize("rule", refused_cases())
def test_what_breaks_a_rule_is_refused_there(rule, old_python, tmp_path):
    paths = write(tmp_path / "rates.h5", {SET: refused_cases()[rule]}), write(tmp_path / "truth.h5", {SET: made()[1]})
    assert {one.rule for one in NlbScorer().check(*paths)} == {rule}
    assert isinstance(evaluated(old_python, paths[1], paths[0]), str)


@pytest.mark.parametrize("group", ["mc_maze_smal", "mc_rtt"])
def test_what_it_leaves_out_without_a_word_is_told(group, old_python, tmp_path):
    rates, target = made()
    paths = write(tmp_path / "rates.h5", {group: rates}), write(tmp_path / "truth.h5", {SET: target})
    assert {one.rule for one in NlbScorer().check(*paths)} == {"group" if group != "mc_rtt" else "truth"}
    assert evaluated(old_python, paths[1], paths[0]) == {}
