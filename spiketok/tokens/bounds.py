"""Bounds of columns: what indexes memory in a kernel is held to them once, before a kernel sees it.

Kernels trust their columns. A digest says that the bytes are those that were written, not that they were right; these
checks hold whoever wrote and signed them. Each raises ArtefactError with the fault in one line, which names the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from spiketok.errors import ArtefactError

FARTHEST_NS = 1 << 61  # sums and differences of times below this are int64
INT64 = np.dtype(np.int64)

Wanted = Mapping[str, tuple[np.dtype, int]]  # dtype and number of axes


def require_columns(columns: Mapping[str, np.ndarray], wanted: Wanted, optional: Wanted | None = None) -> None:
    """These columns are there, and have these dtypes and numbers of axes; optional ones only where they are there."""
    for name in wanted:
        if name not in columns:
            message = f"column '{name}' is missing"
            raise ArtefactError(message)
    there = {name: kind for name, kind in (optional or {}).items() if name in columns}
    for name, (dtype, n_axes) in {**wanted, **there}.items():
        found = columns[name]
        if found.dtype != dtype or found.ndim != n_axes:
            message = (
                f"column '{name}' is {found.dtype} with {found.ndim} axes, must be {np.dtype(dtype)} with {n_axes}"
            )
            raise ArtefactError(message)


def require_shape(columns: Mapping[str, np.ndarray], shape: tuple[int, ...], names: Iterable[str]) -> None:
    """Each of these columns that is there begins with these lengths."""
    for name in names:
        if name in columns and columns[name].shape[: len(shape)] != shape:
            message = f"column '{name}' has shape {columns[name].shape}, must begin with {shape}"
            raise ArtefactError(message)


def require_within(columns: Mapping[str, np.ndarray], name: str, low: int, stop: int) -> None:
    """All values of a column are from ``low`` to below ``stop``."""
    values = columns[name]
    if not values.size or (values.min() >= low and values.max() < stop):
        return
    flat = values.reshape(-1)
    row = int(np.flatnonzero((flat < low) | (flat >= stop))[0])
    message = f"column '{name}' holds {flat[row]} at {row}, must be from {low} to below {stop}"
    raise ArtefactError(message)


def require_offsets(columns: Mapping[str, np.ndarray], name: str, n_rows: int, end: int) -> None:
    """A column is the offsets of ``n_rows`` rows: it rises, or stays, from 0 to ``end``."""
    offset = columns[name]
    if offset.size != n_rows + 1:
        message = f"column '{name}' has {offset.size} offsets for {n_rows} rows, must have {n_rows + 1}"
        raise ArtefactError(message)
    if offset[0] != 0 or offset[-1] != end or (offset[1:] < offset[:-1]).any():
        message = f"column '{name}' must rise from 0 to {end}, it goes from {offset[0]} to {offset[-1]}"
        raise ArtefactError(message + (" and falls in between" if (offset[1:] < offset[:-1]).any() else ""))


def require_intervals(columns: Mapping[str, np.ndarray], start: str, stop: str) -> None:
    """Two columns are the starts and stops of intervals, within what whole numbers of ns can be reckoned with."""
    require_columns(columns, {start: (INT64, 1), stop: (INT64, 1)})
    require_shape(columns, columns[start].shape, [stop])
    for name in (start, stop):
        require_within(columns, name, -FARTHEST_NS, FARTHEST_NS)
    wrong = np.flatnonzero(columns[start] > columns[stop])
    if wrong.size:
        row = int(wrong[0])
        message = f"column '{stop}' holds {columns[stop][row]} at {row}, before the start at {columns[start][row]}"
        raise ArtefactError(message)


def require_segments(columns: Mapping[str, np.ndarray], n_rows: int) -> None:
    """The columns ``segment.*`` are stretches whose rows follow one after the other, ``n_rows`` in all."""
    require_intervals(columns, "segment.start_ns", "segment.stop_ns")
    require_columns(columns, {"segment.row": (INT64, 1)})
    require_offsets(columns, "segment.row", len(columns["segment.start_ns"]), n_rows)


def require_equal(columns: Mapping[str, np.ndarray], name: str, wanted: np.ndarray, what: str) -> None:
    """A column is what follows from others; ``what`` says it for the message."""
    if not np.array_equal(columns[name], wanted):
        message = f"column '{name}' is not {what}"
        raise ArtefactError(message)


def require_order(columns: Mapping[str, np.ndarray], name: str, row: np.ndarray) -> None:
    """A column rises, or stays, inside each part that begins at one of ``row``."""
    values = columns[name]
    falls = np.flatnonzero(values[1:] < values[:-1]) + 1
    wrong = falls[~np.isin(falls, row)]
    if wrong.size:
        at = int(wrong[0])
        message = f"column '{name}' falls from {values[at - 1]} to {values[at]} at {at}, must be in order"
        raise ArtefactError(message)
