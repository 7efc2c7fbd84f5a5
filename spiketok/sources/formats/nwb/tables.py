"""Findings, seconds to ns, and the columns of NWB's dynamic tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np

from spiketok.recording.nouns import NS_PER_S, Column, Finding, Ragged
from spiketok.sources.formats.nwb.hdf5 import Hdf5, decoded, text_bytes

BROKEN = "the table is broken, ask its authors or fetch it again"
MAX_TEXT_BYTES = 2**26  # a column of str takes the length of the longest text for each row
MAX_SECONDS = 9.2e9  # what int64 ns can hold
MOST_COLUMNS = 2**12  # of one table: the widest that are known have some hundred


@dataclass
class Findings:
    """What a reader mended (repairs) and what it found and left (notes); a count of zero is no finding."""

    repairs: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def repair(self, name: str, count: int, text: str) -> None:
        if count:
            self.repairs.append(Finding(name, int(count), text))

    def note(self, name: str, count: int, text: str) -> None:
        if count:
            self.notes.append(Finding(name, int(count), text))


def ns_from_seconds(seconds: np.ndarray) -> np.ndarray:
    """Seconds as int64 ns, to the nearest; all must be times in the sense of :func:`is_time`."""
    return np.rint(np.asarray(seconds, np.float64) * NS_PER_S).astype(np.int64)


def is_time(seconds: np.ndarray) -> np.ndarray:
    """Where seconds are a time at all: finite, and within int64 ns."""
    return np.abs(seconds) < MAX_SECONDS  # NaN compares False


def in_seconds(time_ns: float) -> str:
    """A time for people: ``1498.9 s``."""
    return f"{time_ns / NS_PER_S:.1f} s"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for people, not too many of them."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def texts(array: np.ndarray) -> np.ndarray:
    """Strings of any HDF5 make as a numpy array of str of the same shape."""
    return np.array([decoded(value) for value in array.reshape(-1).tolist()], dtype=np.str_).reshape(array.shape)


def plain(array: np.ndarray) -> np.ndarray:
    """Values as one of the four column types: bool, int64, float64, str."""
    if array.dtype.kind in "OSU":
        return texts(array)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def misfit(h5: Hdf5, dataset: h5py.Dataset) -> str:
    """Why the values of a dataset cannot be a column; empty where they can."""
    dtype = h5.dtype(dataset)
    parts = [dtype[name] for name in dtype.names] if dtype.names else [dtype]
    if any(h5py.check_ref_dtype(part) is not None for part in parts):
        return "references to other objects"
    if dtype.names:
        return "compound values"
    if h5py.check_string_dtype(dtype) is not None or dtype.kind in "bif":
        return ""
    if dtype.kind == "u":
        too_large = dtype.itemsize == 8 and h5.array(dataset).max(initial=0) > np.iinfo(np.int64).max
        return "values beyond int64" if too_large else ""
    return f"values of type {dtype}"


def row_ids(h5: Hdf5, table: h5py.Group) -> np.ndarray:
    """The ids of a table's rows: their number is the number of rows."""
    item = h5.dataset(table, "id")
    if item is None:
        h5.refuse(f"table {table.name} has no 'id'", BROKEN)
    ids = h5.array(item) if not misfit(h5, item) else np.zeros(())
    if ids.ndim != 1 or ids.dtype.kind not in "iuOS":
        h5.refuse(f"{item.name} is {h5.dtype(item)} of shape {h5.shape(item)}, expected one id a row", BROKEN)
    return plain(ids)


def ragged_offset(h5: Hdf5, index: h5py.Dataset, n_rows: int, n_values: int) -> np.ndarray:
    """The int64 ``[n_rows + 1]`` offsets of a ragged column.

    Args:
        h5, index: the index dataset: where each row ends among the values.
        n_rows: rows of the table.
        n_values: values that are there; the index must end exactly at it, or rows would lose or share values.
    """
    stop = h5.array(index, stored=True)
    if stop.dtype.kind not in "iu" or stop.ndim != 1:
        h5.refuse(f"{index.name} is {stop.dtype} of shape {stop.shape}, expected one whole number a row", BROKEN)
    if stop.size != n_rows:
        h5.refuse(f"{index.name} has {stop.size} rows, expected {n_rows}", BROKEN)
    offset = np.concatenate([np.zeros(1, np.int64), stop.astype(np.int64)])
    wrong = np.flatnonzero(np.diff(offset) < 0)
    if wrong.size:
        row = int(wrong[0])
        h5.refuse(f"{index.name} falls from {offset[row]} to {offset[row + 1]} at row {row}", BROKEN)
    if offset[-1] != n_values:
        h5.refuse(f"{index.name} ends at {offset[-1]}, but {n_values} values are there", BROKEN)
    return offset


def _declared(h5: Hdf5, table: h5py.Group, found: Findings) -> tuple[list[str], list[str]]:
    """The columns that a table declares and has, in its order; and what else is in it."""
    members = [name for name in h5.names(table) if name != "id"]
    value = h5.attr(table, "colnames")
    if value is None or isinstance(value, h5py.Empty):
        return [name for name in members if not name.endswith("_index")], []
    declared = [decoded(n) for n in np.atleast_1d(np.asarray(value)).tolist() if isinstance(n, bytes | str)]
    declared, there = list(dict.fromkeys(declared)), set(members)
    missing = [name for name in declared if name not in there]
    found.note("columns-missing", len(missing), f"{table.name} declares columns it does not hold: {listed(missing)}")
    known = {f"{name}{end}" for name in declared for end in ("", "_index", "_index_index")}
    return [name for name in declared if name in there], [name for name in members if name not in known]


def _fits(h5: Hdf5, table: h5py.Group, name: str, n_rows: int) -> bool:
    """Whether a member that a table does not declare can be one of its columns: a plain value a row."""
    item = h5.child(table, name)
    return isinstance(item, h5py.Dataset) and h5.shape(item) == (n_rows,) and not misfit(h5, item)


def _column(h5: Hdf5, table: h5py.Group, name: str, n_rows: int, most: int | None) -> tuple[Column | None, str]:
    """One column, or None and the reason why it is left out."""
    item = h5.child(table, name)
    if not isinstance(item, h5py.Dataset):
        return None, "a group"
    reason = misfit(h5, item)
    if reason:
        return None, reason
    if h5.child(table, f"{name}_index_index") is not None:
        return None, "rows of rows"
    shape, index = h5.shape(item), h5.dataset(table, f"{name}_index")
    width = math.prod(shape) / max(1, n_rows)
    if most is not None and width > most:
        return None, f"{width:.0f} values a row"
    if index is None and (not shape or shape[0] != n_rows):
        h5.refuse(f"{item.name} has {shape[0] if shape else 1} rows, expected {n_rows}", BROKEN)
    offset = None if index is None else ragged_offset(h5, index, n_rows, shape[0] if shape else 0)
    values = h5.array(item, narrow=False)
    if values.dtype.kind == "O" and text_bytes(values) > max(MAX_TEXT_BYTES, 16 * sum(map(len, values.flat))):
        return None, f"{values.size} texts of which the longest has {max(map(len, values.flat))} characters"
    return plain(values) if offset is None else Ragged(plain(values), offset), ""


def read_columns(
    h5: Hdf5, table: h5py.Group, n_rows: int, found: Findings, *, skip: Sequence[str], most: int | None = None
) -> dict[str, Column]:
    """The usable columns of a table under the source's own names; what is left out is noted with its reason.

    Args:
        h5, table: the table.
        n_rows: its rows.
        found: takes the notes.
        skip: columns that the caller reads himself.
        most: leave out columns with more values a row than this.
    """
    declared, other = _declared(h5, table, found)
    if len(declared) > MOST_COLUMNS:
        fact = f"table {table.name} has {len(declared)} columns, at most {MOST_COLUMNS} are read of one"
        h5.refuse(fact, BROKEN)
    other = [name for name in other if name not in skip]
    if len(other) > MOST_COLUMNS:
        text = f"{table.name}: left out {len(other)} members that it does not declare, over {MOST_COLUMNS}"
        found.note("columns-left-out", len(other), text)
        other = []
    fitting = [name for name in other if _fits(h5, table, name, n_rows)]
    found.note(
        "columns-undeclared",
        len(fitting),
        f"{table.name} holds columns that it does not declare, taken all the same: {listed(fitting)}",
    )
    columns, is_column = {}, set(fitting)
    left_out = [f"{name} (no column of it)" for name in other if name not in is_column]
    for name in declared + fitting:
        if name in skip:
            continue
        column, reason = _column(h5, table, name, n_rows, most)
        if column is None:
            left_out.append(f"{name} ({reason})")
        else:
            columns[name] = column
    found.note("columns-left-out", len(left_out), f"{table.name}: left out {listed(left_out, 20)}")
    return columns
