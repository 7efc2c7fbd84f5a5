"""Times moved along the clock: blocks of a recording laid out one behind the other, and their tables with them.

Pure functions of numpy. What is unusual: what lies between two blocks was not observed, whatever lies at its ends; and
columns of a table that hold times of its own clock move with their rows, while fillers and durations stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Column, Intervals, Ragged

GAP_NS = 30 * NS_PER_S  # between two blocks whose distance nobody knows
TOUCHES_S = 1e-9  # what one rounding to ns may move an edge by
LEAST_RISING, SHARE_RISING = 5, 0.8  # times of a column whose name does not say so rise so often within a block


def laid_out(start_ns: np.ndarray, stop_ns: np.ndarray) -> np.ndarray:
    """int64 ``[B]``: what is added to the times of each block so that it begins ``GAP_NS`` after the one before it.

    Whole seconds, so that times stay on their clock's ticks; the first block stays where it is.

    Args:
        start_ns, stop_ns: int64 ``[B]``, from where to where each block reaches by its own clock.

    >>> laid_out(np.array([0, 500_000_000]), np.array([60 * NS_PER_S + 1, 70 * NS_PER_S])).tolist()
    [0, 91000000000]
    """
    shift = np.zeros(len(start_ns), np.int64)
    for k in range(1, len(shift)):
        ends_ns = int(stop_ns[k - 1] + shift[k - 1])
        shift[k] = -(-ends_ns // NS_PER_S) * NS_PER_S + GAP_NS - int(start_ns[k]) // NS_PER_S * NS_PER_S
    return shift


def gaps(start_ns: np.ndarray, stop_ns: np.ndarray) -> Intervals:
    """The time between blocks, int64 ``[B]`` each, that follow one another."""
    apart = start_ns[1:] > stop_ns[:-1]
    return Intervals(stop_ns[:-1][apart], start_ns[1:][apart])


def moved_columns(
    columns: Mapping[str, Column], start_s: np.ndarray, stop_s: np.ndarray, shift_s: np.ndarray
) -> dict[str, Column]:
    """The columns of a table with the times among them moved as their rows are.

    A column holds times where most of its values lie in their own row's interval, and its name says so ("time") or its
    values rise from row to row. Values outside of their row stay: fillers, times that count from the row's start.

    Args:
        columns: of the table. start_s, stop_s: float64 ``[I]``, its rows before they are moved; NaN: not stated.
        shift_s: float64 ``[I]``, by how much each row is moved.
    """
    found: dict[str, Column] = {}
    for name, column in columns.items():
        found[name] = column
        value, inside, row = _times(name, column, start_s, stop_s, shift_s)
        if inside is not None:
            moved = value + np.where(inside, shift_s[row], 0.0)
            found[name] = Ragged(moved, column.offset) if isinstance(column, Ragged) else moved
    return found


def scaled_columns(
    columns: Mapping[str, Column], start_s: np.ndarray, stop_s: np.ndarray, scale: float
) -> dict[str, Column]:
    """The columns of a table in another unit, with the times among them as :func:`moved_columns` knows them.

    Args:
        columns, start_s, stop_s: as there, in the unit that they stand in. scale: what each time is multiplied by.
    """
    found: dict[str, Column] = {}
    for name, column in columns.items():
        found[name] = column
        value, inside, _ = _times(name, column, start_s, stop_s, np.zeros(len(start_s)))
        if inside is not None:
            scaled = np.where(inside, value * scale, value)
            found[name] = Ragged(scaled, column.offset) if isinstance(column, Ragged) else scaled
    return found


def _times(
    name: str, column: Column, start_s: np.ndarray, stop_s: np.ndarray, shift_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The values of a column, which of them are times of its own row (None: it holds none), and the row of each."""
    value = column.value if isinstance(column, Ragged) else column
    row = np.arange(len(start_s))
    if value.dtype.kind != "f" or value.ndim != 1:
        return value, None, row
    row = np.repeat(row, np.diff(column.offset)) if isinstance(column, Ragged) else row
    inside = (value >= start_s[row] - TOUCHES_S) & ~(value > stop_s[row] + TOUCHES_S)
    together = np.diff(shift_s[row][inside]) == 0  # from one block to the next they may fall
    rises = np.diff(value[inside])[together] > 0
    is_time = "time" in name.lower() or (rises.sum() >= LEAST_RISING and rises.mean() > SHARE_RISING)
    return value, inside if is_time and inside.any() and 2 * inside.sum() >= np.isfinite(value).sum() else None, row
