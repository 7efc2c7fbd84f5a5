"""Divisions of a session as the reference loaders draw them.

What is unusual: a seeded division is only the reference's if its generator and its rounding are. Two are in use, and
both are reproduced with numpy alone: scikit-learn's ``train_test_split`` (numpy's legacy RandomState) and torch_brain's
``Interval.split`` (numpy's default_rng).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from spiketok.recording.nouns import Intervals

NAMES = ("train", "valid", "test")


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
