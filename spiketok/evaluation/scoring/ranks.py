"""Ranks that say no more than the seeds do: step-down competition ranks by Welch's t test.

Candidates are walked from the best mean down, each compared with the anchor alone (the best of the place before it):
one that is not worse by a one-sided Welch t test ties with the anchor; one that is worse takes its own place and is the
next anchor. Places are competition ranks: 1, 1, 3. So of three candidates the second may tie with the first, and the
third with the second but not with the first: it is third.

These are the ranks of BrainWideBench (ibl-bwb-eval 0.1.0, ``scoring/aggregation.py``). Two things are as there: where a
side has one seed, or neither side varies, any higher mean wins; and a mean that is nan is better and worse than none,
so it ties with its anchor (a caller who wants it last leaves it out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05


class Summary(NamedTuple):
    """What the seeds of one candidate gave.

    Args:
        mean: of the score over seeds; higher is better. sem: its standard error (ddof 1), None of one seed.
        n: how many seeds.
    """

    mean: float
    sem: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Mean, standard error and number of the values, one a seed."""
        n = len(values)
        sem = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
        return cls(float(np.mean(values)), sem, n)


def is_better(one: Summary, other: Summary, alpha: float = ALPHA) -> bool:
    """Whether ``one`` has the greater mean by a one-sided Welch t test (degrees of freedom by Satterthwaite)."""
    if not one.mean > other.mean:
        return False
    if one.sem is None or other.sem is None:
        return True
    square = one.sem**2 + other.sem**2
    if square == 0:
        return True
    freedom = square**2 / (one.sem**4 / (one.n - 1) + other.sem**4 / (other.n - 1))
    return bool(stats.t.sf((one.mean - other.mean) / math.sqrt(square), freedom) < alpha)


def step_down_ranks(candidates: Mapping[str, Summary], alpha: float = ALPHA) -> dict[str, int]:
    """The place of each candidate; candidates that are not told apart share one.

    Args:
        candidates: by name; equal means keep this order. alpha: the level of each comparison.

    >>> near = {"a": Summary(0.70, 0.003, 5), "b": Summary(0.696, 0.003, 5), "c": Summary(0.5, 0.005, 5)}
    >>> step_down_ranks(near)
    {'a': 1, 'b': 1, 'c': 3}
    """
    return _ranks(candidates, lambda anchor, own: is_better(anchor, own, alpha))


def naive_ranks(candidates: Mapping[str, Summary]) -> dict[str, int]:
    """The place of each candidate by its mean alone; only equal means share one."""
    return _ranks(candidates, lambda anchor, own: anchor.mean > own.mean)


def _ranks(candidates: Mapping[str, Summary], better: Callable[[Summary, Summary], bool]) -> dict[str, int]:
    places: dict[str, int] = {}
    anchor = None
    for k, name in enumerate(sorted(candidates, key=lambda name: -candidates[name].mean)):
        if anchor is None or better(candidates[anchor], candidates[name]):
            anchor, place = name, k + 1
        places[name] = place
    return {name: places[name] for name in candidates}
