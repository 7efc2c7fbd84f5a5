"""Step-down ranks: the recorded ranks of ibl-bwb-eval, scipy's own t test, and the cases without a test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spiketok.evaluation.scoring.ranks import Summary, is_better, naive_ranks, step_down_ranks
from tests.evaluation.scoring.golden import cases, needs_golden, number


def recorded(case: dict) -> dict[str, dict[str, dict[str, Summary]]]:
    """By task and recording, the candidates of a case in the order in which they were scored."""
    found: dict = {}
    for key, scores in case["aggregate"].items():
        label, task, recording = key.split("|")
        mean, sem, n = scores[case["primary"][task]]
        own = Summary(number(mean), None if sem is None else number(sem), n)
        found.setdefault(task, {}).setdefault(recording, {})[label] = own
    return found


@needs_golden
@pytest.mark.parametrize("name", cases("ranks.json"))
@pytest.mark.parametrize(("way", "ranks"), [("step_down", step_down_ranks), ("naive", naive_ranks)])
def test_ranks_are_those_of_the_reference(name, way, ranks):
    case = cases("ranks.json")[name]
    for task, recordings in recorded(case).items():
        found: dict[str, list[int]] = {}
        for candidates in recordings.values():
            for label, rank in ranks(candidates).items():
                found.setdefault(label, []).append(rank)
        assert {label: float(np.mean(r)) for label, r in found.items()} == case[way][task]


def test_the_comparison_is_scipys_welch_test():
    rng = np.random.default_rng(0)
    for k in range(40):
        one, other = rng.normal(0.05 * (k % 5), 0.1, 5).tolist(), rng.normal(0, 0.2, 3 + k % 4).tolist()
        expected = stats.ttest_ind(one, other, equal_var=False, alternative="greater").pvalue < 0.05
        assert is_better(Summary.of(one), Summary.of(other)) == expected


def test_without_a_spread_the_greater_mean_wins_and_equal_means_tie():
    assert step_down_ranks({"b": Summary(0.5, None, 1), "a": Summary(0.6, 0.1, 5), "c": Summary(0.5, None, 1)}) == {
        "b": 2,
        "a": 1,
        "c": 2,
    }
    assert step_down_ranks({"a": Summary(0.5, 0.0, 3), "b": Summary(0.5 - 1e-9, 0.0, 3)}) == {"a": 1, "b": 2}


def test_a_stricter_level_ties_what_a_looser_one_tells_apart():
    near = {"a": Summary(0.70, 0.01, 5), "b": Summary(0.66, 0.01, 5)}
    assert step_down_ranks(near, alpha=0.05) == {"a": 1, "b": 2}
    assert step_down_ranks(near, alpha=0.001) == {"a": 1, "b": 1}


def test_nobody_is_ranked_of_nobody():
    assert step_down_ranks({}) == {}
