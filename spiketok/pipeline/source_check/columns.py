"""Columns of tables: what a source's columns hold, and whether a session's are the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import h5py
import numpy as np

from spiketok.pipeline.source_check.differences import Verification
from spiketok.recording.nouns import Column, Ragged

WIDE = 16  # unit columns with more values a unit are not taken
MOST_UNDECLARED = 4096  # where a table has more members that it does not declare, none is taken


def as_values(data: object) -> np.ndarray | None:
    """The values of a column as bool, int64, float64 or str; None where they are none of these (references ...)."""
    values = np.asarray(data)
    if values.dtype.kind in "OSU":
        flat = [v.decode() if isinstance(v, bytes) else v for v in values.reshape(-1).tolist()]
        if not all(isinstance(v, str) for v in flat):
            return None
        return np.array(flat, dtype=np.str_).reshape(values.shape)
    if values.dtype.kind in "iu":
        return None if values.size and int(values.max()) > np.iinfo(np.int64).max else values.astype(np.int64)
    if values.dtype.kind == "f":
        return values.astype(np.float64)
    return values if values.dtype.kind == "b" else None


def source_columns(table, raw: h5py.File, place: str, most: float = math.inf) -> Iterator[tuple[str, Column]]:
    """The comparable columns of a table: those that pynwb shows, and those that it holds undeclared.

    One with more than ``most`` values a row is not read.
    """
    for name in table.colnames:
        column = table[name]
        target = getattr(column, "target", None)
        if target is not None and getattr(target, "target", None) is not None:
            continue  # rows of rows
        data = (column if target is None else target).data
        if math.prod(np.shape(data)) > most * len(table.id):
            continue
        values = as_values(data[:])
        if values is not None:
            ends = None if target is None else np.asarray(column.data[:]).astype(np.int64)
            yield name, values if ends is None else Ragged(values, np.concatenate([[0], ends]))
    index = {f"{name}_index" for name in table.colnames} | {f"{name}_index_index" for name in table.colnames}
    times = {"start_time", "stop_time", "timestamp"} if place != "units" else set()
    undeclared = sorted(set(raw[place]) - set(table.colnames) - index - {"id"})
    for name in undeclared if len(set(undeclared) - times) <= MOST_UNDECLARED else ():
        item = raw[place][name]
        if isinstance(item, h5py.Dataset) and item.shape == (len(table.id),):
            values = as_values(item[()])
            if values is not None:
                yield name, values


def rows_of(column: Column, keep: np.ndarray) -> Column:
    if not isinstance(column, Ragged):
        return column[keep]
    rows = [column[row] for row in (np.flatnonzero(keep) if keep.dtype == np.bool_ else keep)]
    value = np.concatenate(rows) if rows else column.value[:0]
    return Ragged(value, np.cumsum([0, *(len(row) for row in rows)]))


def compare_columns(place: str, stored: Iterable[str], expected: dict[str, Column], out: Verification) -> None:
    for name in sorted(set(stored) | set(expected)):
        if name not in expected or name not in stored:
            here, there = ("there", "missing") if name in stored else ("missing", "there")
            out.differences.append(f"{place} column '{name}': {here} in the session, {there} in the source")
            continue
        ours, theirs = stored[name], expected[name]
        if out.expect(f"{place} column '{name}' is ragged", isinstance(ours, Ragged), isinstance(theirs, Ragged)):
            if isinstance(ours, Ragged):
                out.expect_array(f"{place} column '{name}', row ends", ours.offset, theirs.offset)
                ours, theirs = ours.value, theirs.value
            if out.expect(f"{place} column '{name}', kind of values", ours.dtype.kind, theirs.dtype.kind):
                out.expect_array(f"{place} column '{name}'", ours, theirs)
            out.n_columns += 1
