"""Interval tables (trials, epochs, stimulus presentations ...), the source's splits, and the reach of a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from spiketok.recording.moving import scaled_columns
from spiketok.recording.nouns import NS_PER_S, Column, Intervals, Ragged
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.tables import (
    BROKEN,
    Findings,
    is_time,
    listed,
    ns_from_seconds,
    read_columns,
    row_ids,
)

FAR_NS = 24 * 3600 * NS_PER_S  # further than this from all spikes and trials, a stamp is no time of this recording
SPLIT_NAMES = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}


@dataclass
class Table:
    """An interval table as the source has it: seconds, NaN where it states none."""

    parts: tuple[str, ...]
    start_s: np.ndarray
    stop_s: np.ndarray
    columns: dict[str, Column]

    @property
    def path(self) -> str:
        return "/".join(self.parts)


def is_table(h5: Hdf5, item: h5py.Group | h5py.Dataset | None) -> bool:
    """Whether a member is an interval table, or an events table (NWB 2.11): rows with a time."""
    names = set(h5.names(item)) if isinstance(item, h5py.Group) else set()
    return "id" in names and bool(names & {"start_time", "timestamp"})


def read_table(h5: Hdf5, group: h5py.Group, parts: tuple[str, ...], found: Findings) -> Table:
    """An interval or events table with all its usable columns, the rows' ids among them.

    An event lasts for its duration, or no time at all where it has none.
    """
    ids = row_ids(h5, group)

    def seconds(name: str) -> np.ndarray:
        item = h5.dataset(group, name)
        if item is None:
            return np.full(ids.size, np.nan)
        if h5.dtype(item).kind not in "iuf" or h5.shape(item) != (ids.size,):
            fact = f"{item.name} is {h5.dtype(item)} of shape {h5.shape(item)}, expected seconds of {ids.size} rows"
            h5.refuse(fact, BROKEN)
        return h5.array(item).astype(np.float64) * (h5.time_unit.scale(parts) or 1.0)

    columns = read_columns(h5, group, ids.size, found, skip=("start_time", "stop_time", "timestamp"))
    own = {name: _in_unit(column, h5.time_unit.own_scale((*parts, name))) for name, column in columns.items()}
    columns = {"id": ids} | own
    if h5.child(group, "start_time") is not None:
        table = Table(parts, seconds("start_time"), seconds("stop_time"), columns)
    else:
        start_s, lasts_s = seconds("timestamp"), seconds("duration")
        table = Table(parts, start_s, start_s + np.where(is_time(lasts_s) & (lasts_s > 0), lasts_s, 0), columns)
    scale = h5.time_unit.scale(parts)
    if scale not in (None, 1.0):  # the columns that hold times of their rows are in the same unit
        plain = {name: column for name, column in columns.items() if h5.time_unit.own_scale((*parts, name)) is None}
        table.columns |= scaled_columns(plain, table.start_s / scale, table.stop_s / scale, scale)
    return table if h5.laid is None else h5.laid.lay_table(table)


def _in_unit(column: Column, scale: float | None) -> Column:
    """A column whose unit is stated, in seconds; others, and texts, as they are."""
    value = column.value if isinstance(column, Ragged) else column
    if scale is None or value.dtype.kind not in "if":
        return column
    seconds = value.astype(np.float64) * scale
    return Ragged(seconds, column.offset) if isinstance(column, Ragged) else seconds


def read_tables(h5: Hdf5, found: Findings) -> list[Table]:
    """The tables of ``/intervals`` and ``/events``, and those that early NWB 2 files keep at the root."""
    tables, left_out = [], []
    places = [(h5.root, (name,)) for name in ("trials", "epochs", "invalid_times")]
    for name in ("intervals", "events"):
        folder = h5.group(h5.root, name)
        places += [(folder, (name, member)) for member in h5.names(folder)] if folder is not None else []
    for parent, parts in places:
        item = h5.child(parent, parts[-1])
        if is_table(h5, item):
            tables.append(read_table(h5, item, parts, found))
        elif item is not None:
            left_out.append("/".join(parts))
    found.note("intervals-left-out", len(left_out), f"left out what is no interval table: {listed(left_out)}")
    return tables


def _take(column: Column, keep: np.ndarray) -> Column:
    """The rows of a column where ``keep`` is True."""
    if not isinstance(column, Ragged):
        return column[keep]
    size = np.diff(column.offset)
    return Ragged(column.value[np.repeat(keep, size)], np.cumsum([0, *size[keep]]))


def finish_table(table: Table, stop_ns: int, found: Findings, ends_ns: Sequence[int] = ()) -> Intervals:
    """A table with its times in ns, and with missing starts and stops repaired.

    Args:
        table: as it was read.
        stop_ns: the session's end, which takes the place of the last stop where that is missing.
        found: takes the repairs.
        ends_ns: where the blocks of the recording end: no row without a stop lasts beyond.
    """
    keep = is_time(table.start_s)
    n_lost = int((~keep).sum())
    text = f"{table.path}: left out {n_lost} of {keep.size} rows that have no start_time"
    found.repair("interval-start-missing", n_lost, text)
    columns = {name: _take(column, keep) if n_lost else column for name, column in table.columns.items()}
    start, stop_s = ns_from_seconds(table.start_s[keep]), table.stop_s[keep]
    missing = ~is_time(stop_s)
    stop = ns_from_seconds(np.where(missing, 0, stop_s))
    before = ~missing & (stop < start)
    repaired = missing | before
    if repaired.any():
        later = np.union1d(start, np.array(ends_ns, np.int64))
        following = np.append(later, stop_ns)[np.searchsorted(later, start, side="right")]
        stop = np.where(repaired, np.maximum(following, start), stop)
        columns["stop_repaired"] = repaired
        for name, rows, fact in (
            ("interval-stop-missing", missing, "have no stop_time"),
            ("interval-stop-before-start", before, "stop before they start"),
        ):
            text = f"{table.path}: {int(rows.sum())} of {stop.size} rows {fact}; taken is the next start, or the end"
            found.repair(name, int(rows.sum()), text)
    return Intervals(start, stop, columns)


def source_splits(trials: Intervals | None, found: Findings) -> Intervals:
    """The splits that the trials' column ``split`` states: one row a stretch of trials that touch or overlap."""
    column = trials.columns.get("split") if trials is not None else None
    if not isinstance(column, np.ndarray) or column.dtype.kind != "U" or column.ndim != 1:
        return Intervals.empty()
    words = np.char.lower(np.char.strip(column))
    other = sorted(set(words.tolist()) - set(SPLIT_NAMES) - {"none", ""})
    n_other = int(np.isin(words, other).sum())
    text = f"{n_other} trials are in splits that are neither train, val nor test: {listed(other)}; not used"
    found.note("splits-other", n_other, text)
    parts = {
        name: trials.take(np.isin(words, [word for word, meant in SPLIT_NAMES.items() if meant == name])).union()
        for name in ("train", "valid", "test")
    }
    start = np.concatenate([part.start_ns for part in parts.values()])
    stop = np.concatenate([part.stop_ns for part in parts.values()])
    names = np.repeat(np.array(list(parts)), [len(part) for part in parts.values()])
    if not names.size:
        return Intervals.empty()
    order = np.argsort(start, kind="stable")
    return Intervals(start[order], stop[order], {"name": names[order]})


@dataclass(frozen=True)
class Reach:
    """The time from the first to the last spike (or bin), trial start and trial stop."""

    start_ns: int
    stop_ns: int

    def is_near(self, time_ns: np.ndarray) -> np.ndarray:
        """Where times may belong to this recording: not over a day away from it."""
        return (time_ns >= self.start_ns - FAR_NS) & (time_ns <= self.stop_ns + FAR_NS)


def find_reach(near: Reach, tables: Sequence[Table], found: Findings) -> Reach:
    """The reach of units and tables; rows over a day away from all spikes do not stretch it, and are noted.

    Args:
        near: the reach of the units: their spikes, bins or frames.
        tables: all interval tables.
        found: takes the note.
    """
    low, high, far = near.start_ns, near.stop_ns, Counter()
    for table in tables:
        for seconds in (table.start_s, table.stop_s):
            time_ns = ns_from_seconds(seconds[is_time(seconds)])
            inside = time_ns[near.is_near(time_ns)]
            far[table.path] += time_ns.size - inside.size
            low, high = int(inside.min(initial=low)), int(inside.max(initial=high))
    places = listed([path for path, count in far.items() if count])
    text = f"{far.total()} starts or stops lie over a day from all spikes ({places}); kept, not used for the extent"
    found.note("intervals-far", far.total(), text)
    return Reach(low, high)
