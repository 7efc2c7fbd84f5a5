"""Over sessions and repeats: means, spread, intervals, and tests between rows of the transfer table.

What is unusual: repeats of a session share its test time and its units, so they are no sessions more. A mean is over
sessions, each the mean of its repeats; an interval draws sessions again, and in each of them repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from spiketok.evaluation.results import ADAPTED, FLOOR, Cell

BOOTSTRAP_DRAWS = 2000
LEAST = 3  # values for an interval or a test
WILCOXON_LEAST = 6  # pairs; of fewer the signed-rank test cannot come below .05, and a paired t test stands


def by_session(cells: Sequence[Cell], metric: str) -> dict[str, dict[int, float]]:
    """The scores there are, by session and repeat."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        value = None if cell.score is None else cell.score.get(metric)
        if value is not None:
            found.setdefault(cell.session, {})[cell.repeat] = float(value)
    return found


def summarize(cells: Sequence[Cell], metrics: Sequence[str], seed: int = 0) -> dict[str, dict[str, object]]:
    """Mean and spread of each metric, over the cells that have a score.

    Returns:
        by metric: ``n``, sessions; ``mean`` over them, None without a score; ``sd`` over them (n - 1 in the
        denominator), None with fewer than two; ``sd_repeats``, within a session over its repeats (root of the mean
        variance), None without repeats; ``ci95``, the 2.5 and 97.5 percentiles of the mean over sessions and repeats
        drawn again, of repeats alone where there is one session; None with fewer than three to draw from.
    """
    summary = {}
    for name in metrics:
        values = [np.array(list(repeats.values())) for repeats in by_session(cells, name).values()]
        means = np.array([own.mean() for own in values])
        within = [own.var(ddof=1) for own in values if own.size >= 2]
        summary[name] = {
            "n": int(means.size),
            "mean": float(means.mean()) if means.size else None,
            "sd": float(means.std(ddof=1)) if means.size >= 2 else None,
            "sd_repeats": float(np.sqrt(np.mean(within))) if within else None,
            "ci95": _interval(values, seed),
        }
    return summary


def _interval(values: Sequence[np.ndarray], seed: int) -> list[float] | None:
    n, repeated = len(values), any(own.size > 1 for own in values)
    if n < LEAST and not (n == 1 and values[0].size >= LEAST):
        return None
    rng = np.random.default_rng(seed)
    chosen = rng.integers(n, size=(BOOTSTRAP_DRAWS, n))
    if not repeated:
        return np.percentile(np.concatenate(values)[chosen].mean(axis=1), [2.5, 97.5]).tolist()
    drawn = [
        own[rng.integers(own.size, size=(BOOTSTRAP_DRAWS, n, own.size))].mean(axis=2) for own in values
    ]  # a mean of repeats for each place that the session may be drawn into
    mean = np.stack(drawn)[chosen, np.arange(BOOTSTRAP_DRAWS)[:, None], np.arange(n)].mean(axis=1)
    return np.percentile(mean, [2.5, 97.5]).tolist()


def paired_tests(rows: dict[str, Sequence[Cell]], task: str, metric: str) -> list[dict[str, object]]:
    """Tests of each row against the floor, and of ``adapted`` against each other row.

    Pairs are sessions (means of their repeats) where six have both; else each session and repeat, which says less: the
    repeats of a session are no sessions more, and ``pairs`` says which it was. Six pairs and more: Wilcoxon's
    signed-rank test; three to five: a paired t test; fewer: no test.

    Args:
        rows: the cells of one task by row. task, metric: their names.

    Returns:
        a dict each: ``task``, ``metric``, ``row``, ``against``, ``n``, ``pairs``, ``difference`` (mean), ``test`` and
        its two-sided ``p`` (None without one).
    """
    scores = {row: by_session(cells, metric) for row, cells in rows.items()}
    return [
        {"task": task, "metric": metric, "row": row, "against": other} | _paired(scores[row], scores[other])
        for row, other in _compared(list(rows))
    ]


def _compared(rows: Sequence[str]) -> Iterator[tuple[str, str]]:
    if FLOOR in rows:
        yield from ((row, FLOOR) for row in rows if row != FLOOR)
    if ADAPTED in rows:
        yield from ((ADAPTED, row) for row in rows if row not in (ADAPTED, FLOOR))


def _paired(a: dict[str, dict[int, float]], b: dict[str, dict[int, float]]) -> dict[str, object]:
    both = {s: [r for r in a[s] if r in b[s]] for s in a if s in b}
    differences = [np.array([a[s][r] - b[s][r] for r in repeats]) for s, repeats in both.items() if repeats]
    repeated = any(d.size > 1 for d in differences)
    as_sessions = len(differences) >= WILCOXON_LEAST or not repeated
    means = np.array([d.mean() for d in differences])
    x = means if as_sessions else np.concatenate(differences) if differences else means
    test, p = "", None
    if x.size >= LEAST and np.ptp(x) > 0:
        from scipy import stats

        test = "Wilcoxon signed-rank" if x.size >= WILCOXON_LEAST else "paired t"
        found = stats.wilcoxon(x) if x.size >= WILCOXON_LEAST else stats.ttest_1samp(x, 0.0)
        p = float(found.pvalue)
    return {
        "n": int(x.size),
        "pairs": "sessions" if as_sessions else "sessions and repeats",
        "difference": float(means.mean()) if means.size else None,
        "test": test,
        "p": p,
    }
