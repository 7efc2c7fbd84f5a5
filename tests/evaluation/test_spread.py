"""Spread over sessions and repeats, and the tests between rows, held against scipy on values laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spiketok.evaluation.results import Cell
from spiketok.evaluation.spread import paired_tests, summarize

M = "r2_mean"


def cells(row: str, values) -> list[Cell]:
    """Values ``[sessions, repeats]``."""
    return [
        Cell(f"a/{s}", row, "t", {M: float(v)}, repeat=r) for s, own in enumerate(values) for r, v in enumerate(own)
    ]


def test_repeats_are_no_sessions_more():
    values = np.array([[0.1, 0.3], [0.6, 0.8]])
    found = summarize(cells("full", values), [M])[M]
    assert found["n"] == 2 and found["ci95"] is None
    assert found["mean"] == pytest.approx(0.45)
    assert found["sd"] == pytest.approx(np.std([0.2, 0.7], ddof=1))
    assert found["sd_repeats"] == pytest.approx(np.sqrt(0.02))


def test_the_interval_is_of_the_mean_over_sessions_and_repeats():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (30, 1)) + rng.normal(0, 0.3, (30, 8))
    low, high = summarize(cells("full", values), [M])[M]["ci95"]
    error = values.mean(1).std(ddof=1) / np.sqrt(30)  # of session means, which hold the spread of repeats already
    assert 1.7 * error < (high - low) / 2 < 3.2 * error
    assert low < values.mean() < high
    one = values[:1]
    low, high = summarize(cells("full", one), [M])[M]["ci95"]
    assert (high - low) / 2 == pytest.approx(1.96 * one.std() / np.sqrt(8), rel=0.15)


def compared(row, floor, **others):
    rows = {"linear": cells("linear", floor), "adapted": cells("adapted", row)}
    return paired_tests(rows | {name: cells(name, v) for name, v in others.items()}, "t", M)


def test_six_sessions_give_a_signed_rank_test_of_their_means():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 0.2, (7, 2)), rng.normal(0.1, 0.2, (7, 2))
    (found,) = compared(a, b)
    assert (found["row"], found["against"], found["n"], found["pairs"]) == ("adapted", "linear", 7, "sessions")
    assert found["test"] == "Wilcoxon signed-rank"
    assert found["p"] == pytest.approx(stats.wilcoxon(a.mean(1), b.mean(1)).pvalue)
    assert found["difference"] == pytest.approx((a - b).mean())


def test_fewer_pairs_give_a_t_test_or_none():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.3, 0.2, (4, 1)), rng.normal(0.1, 0.2, (4, 1))
    (found,) = compared(a, b)
    assert (found["test"], found["pairs"]) == ("paired t", "sessions")
    assert found["p"] == pytest.approx(stats.ttest_rel(a[:, 0], b[:, 0]).pvalue)
    (found,) = compared(a[:2], b[:2])
    assert (found["test"], found["p"], found["n"]) == ("", None, 2)
    a, b = rng.normal(0.3, 0.2, (2, 4)), rng.normal(0.1, 0.2, (2, 4))
    (found,) = compared(a, b)
    assert (found["n"], found["pairs"]) == (8, "sessions and repeats")
    assert found["p"] == pytest.approx(stats.wilcoxon((a - b).ravel()).pvalue)


def test_each_row_stands_against_the_floor_and_adapted_against_each():
    x = np.ones((3, 1))
    found = [(t["row"], t["against"]) for t in compared(x, x, full=x)]
    assert found == [("adapted", "linear"), ("full", "linear"), ("adapted", "full")]
    assert all(t["p"] is None and t["difference"] == 0 for t in compared(x, x, full=x))  # equal: nothing to test
