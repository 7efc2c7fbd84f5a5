"""Divisions of a session as the reference loaders draw them, and the arithmetic of intervals that they need.

What is unusual: a seeded division is only the reference's if its generator and its rounding are. Two are in use, and
both are reproduced with numpy alone: scikit-learn's ``train_test_split`` (numpy's legacy RandomState) and torch_brain's
``Interval.split`` (numpy's default_rng).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from spiketok.recording import NS_PER_S, Intervals

NAMES = ("train", "valid", "test")


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def ns_of(seconds: float | np.ndarray) -> np.ndarray:
    """Seconds to the nearest ns, as int64."""
    return np.rint(np.asarray(seconds, np.float64) * NS_PER_S).astype(np.int64)


def without(time: Intervals, gone: Intervals) -> Intervals:
    """The time of the first that is not in the second, as sorted disjoint intervals; columns are left out."""
    whole, gone = time.union(), gone.union()
    if not len(whole):
        return whole
    low, high = whole.start_ns[0], whole.stop_ns[-1]
    # The gaps of what is gone, from the first instant to the last: what remains is what lies in one of them.
    inside = (gone.stop_ns > low) & (gone.start_ns < high)
    start = np.concatenate([[low], gone.stop_ns[inside]])
    stop = np.concatenate([gone.start_ns[inside], [high]])
    real = start < stop
    return whole.intersect(Intervals(start[real], stop[real]))


def grown(intervals: Intervals, by_ns: int) -> Intervals:
    """Each interval longer by ``by_ns`` at both ends, as sorted disjoint intervals."""
    return Intervals(intervals.start_ns - by_ns, intervals.stop_ns + by_ns).union()


def longer_than(intervals: Intervals, least_ns: int) -> Intervals:
    """The intervals that last longer than ``least_ns``; columns are left out."""
    keep = intervals.stop_ns - intervals.start_ns > least_ns
    return Intervals(intervals.start_ns[keep], intervals.stop_ns[keep])


def marked_segments(marked: np.ndarray, time_ns: np.ndarray) -> Intervals:
    """Runs of marked samples as torch_brain's pipelines bound them.

    A run begins at the stamp of the sample before its first (at its first where there is none before) and ends at the
    stamp of its last sample, which a half-open interval leaves out: one sample earlier than the samples themselves.

    Args:
        marked: bool ``[T]``. time_ns: int64 ``[T]``.
    """
    if not marked.size:
        return Intervals.empty()
    step = np.diff(marked.astype(np.int8))
    start, stop = time_ns[:-1][step == 1], time_ns[:-1][step == -1]
    if marked[0]:
        start = np.concatenate([time_ns[:1], start])
    if marked[-1]:
        stop = np.concatenate([stop, time_ns[-1:]])
    real = start < stop
    return Intervals(start[real], stop[real])


# ---- draws ----------------------------------------------------------------------------------------------------------


def draw_sklearn(n: int, *, valid: float = 0.1, test: float = 0.2, seed: int = 42) -> np.ndarray:
    """The name of each of ``n`` trials after two calls of scikit-learn's ``train_test_split``, as str ``[n]``.

    First the test share is drawn from all, then the valid share from the rest, both by ``RandomState(seed)``; counts
    are rounded up.
    """
    n_test = ceil(test * n)
    order = np.random.RandomState(seed).permutation(n)
    rest = order[n_test:]
    train = 1.0 - test - valid
    n_valid = ceil(valid / (train + valid) * rest.size)  # the reference's own expression: its rounding counts
    names = np.full(n, "train")
    names[order[:n_test]] = "test"
    names[rest[np.random.RandomState(seed).permutation(rest.size)[:n_valid]]] = "valid"
    return names


def draw_torch_brain(n: int, shares: Sequence[float] = (0.7, 0.1, 0.2), *, seed: int = 42) -> np.ndarray:
    """The name of each of ``n`` intervals after torch_brain's shuffled ``Interval.split``, as str ``[n]``.

    The order is ``default_rng(seed).permutation``; counts are rounded to the nearest (halves to even) and the largest
    takes what is left.
    """
    size = [round(share * n) for share in shares]
    largest = int(np.argmax(size))
    size[largest] = n - (sum(size) - size[largest])
    names = np.empty(n, dtype="<U5")
    names[np.random.default_rng(seed).permutation(n)] = np.repeat(NAMES, size)
    return names


# ---- tables ---------------------------------------------------------------------------------------------------------


def division(parts: Mapping[str, Intervals], name: str) -> Intervals:
    """Named parts as rows for ``Session.splits``, in order of time.

    Args:
        parts: the time of each part, as ``{"train": ..., "test": ...}``.
        name: of the whole division, for the column ``set``.
    """
    table = labelled(parts)
    return Intervals(table.start_ns, table.stop_ns, {**table.columns, "set": np.full(len(table), name)})


def labelled(parts: Mapping[str, Intervals]) -> Intervals:
    """All intervals of all parts in order of time, with the part's name in the column ``name``."""
    names = np.repeat(np.array(list(parts), dtype=np.str_), [len(part) for part in parts.values()])
    start = np.concatenate([np.zeros(0, np.int64), *(part.start_ns for part in parts.values())])
    stop = np.concatenate([np.zeros(0, np.int64), *(part.stop_ns for part in parts.values())])
    order = np.argsort(start, kind="stable")
    return Intervals(start[order], stop[order], {"name": names[order]})
