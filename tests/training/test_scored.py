"""How much time a score is of, against counting by the millisecond."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spiketok.recording.nouns import NS_PER_MS, Intervals
from spiketok.training.scored import WindowTime, time_told
from spiketok.training.tasks.base import bin_spans, sample_spans

MS = NS_PER_MS


def grid(spans: list[tuple[int, int]], n_ms: int) -> np.ndarray:
    """bool ``[n_ms]``: the milliseconds inside of any of these, each looked at by itself."""
    return np.array([any(a <= k * MS < b for a, b in spans) for k in range(n_ms)])


@pytest.mark.parametrize("seed", range(4))
def test_bins_and_samples_count_what_a_millisecond_clock_counts(seed):
    rng = np.random.default_rng(seed)
    period = int(rng.integers(3, 9)) * MS
    stamps = np.arange(60) * period + int(rng.integers(5)) * MS
    stamps = np.delete(stamps, rng.choice(59, 6, replace=False))  # a sensor that missed some
    n_ms = int(stamps[-1] // MS) + 40
    row = np.sort(rng.choice(stamps.size, 30, replace=False))
    valid = rng.random(30) < 0.7
    answer = SimpleNamespace(time_ns=stamps[row], scored=valid)
    split = Intervals(np.array([0, 90]) * MS, np.array([70, n_ms]) * MS)
    inside = grid([(0, 70 * MS), (90 * MS, n_ms * MS)], n_ms)

    cells = []
    for k in row:  # until the next sample, or a period where that is lost
        after = stamps[k + 1] if k + 1 < stamps.size else stamps[k] + period
        cells.append((stamps[k], after if after - stamps[k] <= 1.5 * period else stamps[k] + period))
    task = SimpleNamespace(row_spans=lambda session, time_ns: sample_spans(stamps, time_ns))
    told = time_told(task, None, split, answer, None)
    scored = grid([c for c, ok in zip(cells, valid, strict=True) if ok], n_ms) & inside
    assert told["scored_s"] == pytest.approx(scored.sum() / 1e3)
    assert told["unanswered_s"] == pytest.approx((inside & ~grid(cells, n_ms)).sum() / 1e3)

    wide = 6 * MS
    middle = (np.arange(40) * wide + wide // 2)[np.sort(rng.choice(40, 30, replace=False))]
    answer = SimpleNamespace(time_ns=middle, scored=valid)
    task = SimpleNamespace(row_spans=lambda session, time_ns: bin_spans(time_ns, wide))
    cells = [(m - wide // 2, m + wide // 2) for m in middle.tolist()]
    told = time_told(task, None, split, answer, None)
    scored = grid([c for c, ok in zip(cells, valid, strict=True) if ok], n_ms) & inside
    assert told["scored_s"] == pytest.approx(scored.sum() / 1e3)
    assert told["unanswered_s"] == pytest.approx((inside & ~grid(cells, n_ms)).sum() / 1e3)


def batch_of(start_ms: list[int], window_ms: int, weights: list[list[float]]):
    """A batch of windows with queries of these weights in each."""
    asked = SimpleNamespace(
        offset=torch.tensor(np.cumsum([0, *map(len, weights)])),
        weight=torch.tensor([w for own in weights for w in own]),
    )
    start = np.array(start_ms) * MS
    return SimpleNamespace(start_ns=start, window_ns=window_ms * MS, asked={"classify:side": asked})


def test_what_is_asked_of_windows_counts_the_windows_with_a_truth():
    task = SimpleNamespace(name="classify:side", whole_windows=False, row_spans=lambda session, time_ns: None)
    spent, split = WindowTime(task), Intervals(np.array([0]), np.array([100 * MS]))
    answer = SimpleNamespace(time_ns=np.zeros(0, np.int64))
    # windows of 20 ms: one scored, one with a query but no truth, one without a query; then one over the first two
    spent.add(batch_of([0, 20, 40], 20, [[1.0], [0.0], []]), None, None)
    spent.add(batch_of([10], 20, [[1.0, 0.0]]), None, None)
    told = time_told(task, None, split, answer, spent)
    assert told == {"scored_s": pytest.approx(0.030), "unanswered_s": pytest.approx(0.060)}
    # queries that are not used, and windows of which only the last part is
    spent = WindowTime(task)
    spent.add(batch_of([0, 60], 20, [[1.0], [1.0]]), np.array([False, True]), np.array([0, 75]) * MS)
    told = time_told(task, None, split, answer, spent)
    assert told == {"scored_s": pytest.approx(0.005), "unanswered_s": pytest.approx(0.095)}


def test_whole_windows_count_without_queries():
    task = SimpleNamespace(name="classify:side", whole_windows=True, row_spans=lambda session, time_ns: None)
    spent, split = WindowTime(task), Intervals(np.array([10 * MS]), np.array([100 * MS]))
    spent.add(batch_of([0, 30], 20, [[], []]), None, None)
    told = time_told(task, None, split, SimpleNamespace(time_ns=np.zeros(0, np.int64)), spent)
    assert told == {"scored_s": pytest.approx(0.030), "unanswered_s": pytest.approx(0.060)}
