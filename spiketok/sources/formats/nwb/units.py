"""The units table: spikes, the units' columns, their electrodes, and the time in which they were observed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.merging import merge_units
from spiketok.recording.nouns import Column, Intervals, Ragged, Spikes
from spiketok.recording.outside import fillers
from spiketok.sources.formats.nwb import kernels
from spiketok.sources.formats.nwb.clocks import (
    SPIKES,
    STATE,
    refuse_restarted_spikes,
    refuse_spikes_in_no_seconds,
)
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.tables import (
    BROKEN,
    MAX_SECONDS,
    Findings,
    in_seconds,
    is_time,
    listed,
    misfit,
    ns_from_seconds,
    ragged_offset,
    read_columns,
    row_ids,
    texts,
)

MAX_UNIT_VALUES = 16  # a column with more values a unit is a waveform or the like
# columns of regions as acronyms (IBL, Allen), for files without a column region or location; the first one is taken
REGION_COLUMNS = (
    *("beryl_location", "ecephys_structure_acronym", "structure_acronym", "brain_region", "brain_area"),
    *("allen_location", "cosmos_location"),
)
MOST_THREADS, MANY_SPIKES = 2, 10**6
CLOCK_COLUMNS = ("sampling_rate", "sampling_frequency", "sample_rate", "sampling_rate_hz")


PLACES = ("processing", "acquisition", "analysis", "scratch", "stimulus", "general", "intervals")
MAX_DEPTH = 32  # groups within groups
UNITS, OBSERVED = "units", "obs_intervals"


def find_units(h5: Hdf5, path: str, found: Findings) -> tuple[h5py.Group, str] | None:
    """The units table and its path: ``/units``, or the one other table of the file that has spike times.

    Args:
        h5: the file. path: where the user says that it is, as ``"processing/ecephys/units"``; empty: wherever it is.
        found: takes the note of a table elsewhere.

    Returns:
        None where there is none, or only one without rows.

    Raises:
        SourceError: there is none at the path, or there are several and no path says which.
    """
    if path:
        units = _group_at(h5, path)
        if units is None or "spike_times" not in h5.names(units) or not row_ids(h5, units).size:
            there = "no table with spike_times and rows" if units is not None else "nothing"
            known = listed([one for one, _ in _all_tables(h5)]) or "none"
            h5.refuse(f"--units {path}: {there} is there (tables with spike_times: {known})", "name one of these")
        return units, path
    units = h5.group(h5.root, UNITS)
    if units is not None and row_ids(h5, units).size and "spike_times" in h5.names(units):
        return units, UNITS
    tables = [(one, table) for one, table in _all_tables(h5) if row_ids(h5, table).size]
    if len(tables) > 1:
        paths = listed([one for one, _ in tables])
        h5.refuse(f"has no units at /units and {len(tables)} tables with spike_times ({paths})", "add --units PATH")
    if not tables:
        return (units, UNITS) if units is not None and row_ids(h5, units).size else None
    where, table = tables[0]
    text = f"the units are those of {where}, the one table with spike times: there are none at /units"
    found.note("units-elsewhere", 1, text)
    return table, where


def _group_at(h5: Hdf5, path: str) -> h5py.Group | None:
    """The group at a path; None where there is none on the way."""
    group = h5.root
    for name in path.split("/"):
        group = h5.child(group, name) if isinstance(group, h5py.Group) else None
    return group if isinstance(group, h5py.Group) else None


def _all_tables(h5: Hdf5) -> list[tuple[str, h5py.Group]]:
    """Every table of the file with spike times, in order of its path; a link that leads nowhere leads to none."""
    tables: list[tuple[str, h5py.Group]] = []
    seen: set[tuple[int, int]] = set()

    def walk(group: h5py.Group, parts: tuple[str, ...]) -> None:
        members = h5.names(group)
        if {"id", "spike_times"} <= set(members):
            tables.append(("/".join(parts), group))
            return
        for name in members if len(parts) < MAX_DEPTH else ():
            try:
                item = h5.child(group, name)
            except SourceError:  # what is read besides says what is wrong with it
                continue
            if isinstance(item, h5py.Group) and (identity := h5.identity(item)) not in seen:
                seen.add(identity)
                walk(item, (*parts, name))

    for place in (UNITS, *PLACES):
        top = h5.child(h5.root, place)
        if isinstance(top, h5py.Group):
            walk(top, (place,))
    return tables


def read_unit_ids(h5: Hdf5, units: h5py.Group, found: Findings) -> np.ndarray:
    """The units' ids as str ``[N]``, made unique where the source repeats one."""
    ids = np.array(row_ids(h5, units).tolist(), dtype=np.str_)
    _, inverse, count = np.unique(ids, return_inverse=True, return_counts=True)
    shared = count[inverse] > 1
    if shared.any():
        text = f"{int(shared.sum())} units share their id with another: they are named '<id>.row<row>'"
        found.repair("unit-ids-duplicate", int(shared.sum()), text)
        ids = np.array([f"{n}.row{i}" if s else n for i, (n, s) in enumerate(zip(ids, shared, strict=True))])
    return ids


# ---- spikes ---------------------------------------------------------------------------------------------------------


def spike_seconds(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Spike times in seconds (float64 ``[S]``), unit after unit as the file has them, and the units' offsets."""
    data = h5.dataset(units, "spike_times")
    if data is None:
        h5.refuse(f"has a units table of {n_units} rows without 'spike_times'", "take the file with spike times")
    shape, dtype = h5.shape(data), h5.dtype(data)
    if dtype.kind != "f":
        fact = f"{data.name} is {dtype}, expected seconds as floating-point numbers"
        h5.refuse(fact, "write the file again with seconds in place of samples")
    if math.prod(shape) != max(shape, default=0):
        h5.refuse(f"{data.name} has shape {shape}, expected one dimension", BROKEN)
    seconds = h5.array(data, stored=True).reshape(-1)
    if dtype.itemsize < 8 and seconds.size:
        step = np.spacing(np.abs(seconds[np.isfinite(seconds)]).max(initial=0))
        text = f"{data.name} is {dtype}: its last times are exact to {step:.1g} s only"
        found.note("spikes-low-precision", seconds.size, text)
    index = h5.dataset(units, "spike_times_index")
    if index is not None:
        offset = ragged_offset(h5, index, n_units, seconds.size)
    elif seconds.size == n_units:  # a plain column: one spike a unit
        offset = np.arange(n_units + 1)
    else:
        h5.refuse(f"{seconds.size} spike times of {n_units} units have no 'spike_times_index'", BROKEN)
    seconds = np.ascontiguousarray(seconds, np.float64)
    scale = h5.time_unit.scale(SPIKES)
    return (seconds if scale in (None, 1.0) else seconds * scale), offset


def spike_ns(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> tuple[np.ndarray, np.ndarray]:
    """Spike times that are times, int64 ns ``[S]``, unit after unit as the file has them, and the units' offsets."""
    seconds, offset = spike_seconds(h5, units, n_units, found)
    n_removed = seconds.size - kernels.count_times(seconds, MAX_SECONDS)
    text = f"removed {n_removed} of {seconds.size} spike times that are NaN, infinite or beyond 292 years"
    found.repair("spikes-not-finite", n_removed, text)
    if n_removed == seconds.size and np.isfinite(seconds).any():
        first = seconds[np.isfinite(seconds)][0]
        fact = f"all {seconds.size} spike times of {n_units} units are beyond 292 years (the first is {first:.6g} s)"
        h5.refuse(f"{fact}: these are not seconds", STATE.format("spikes"))
    if n_removed:
        good = is_time(seconds)
        seconds, offset = seconds[good], np.concatenate([[0], np.cumsum(good)])[offset]
    if not seconds.size:
        h5.refuse(f"has {n_units} units and not one spike", "take the file of this dataset that has spikes")
    time_ns = seconds.view(np.int64)  # in place: there may be a hundred million of them
    kernels.seconds_to_ns(seconds, time_ns)
    return time_ns, offset


def read_spikes(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> Spikes:
    """All spikes, to the nearest ns and in order of time."""
    time_ns, offset = spike_ns(h5, units, n_units, found)
    refuse_restarted_spikes(h5, time_ns, offset, found)
    if h5.laid is not None:
        h5.laid.lay_spikes(time_ns)
    n_back, n_of, most_ns = kernels.steps_back(time_ns, offset)
    text = f"sorted the spikes of {n_of} of {n_units} units: {n_back} steps back in time, the largest by "
    found.repair("spikes-unsorted", n_back, text + in_seconds(most_ns))
    spikes = Spikes(*merge_units(time_ns, offset, threads=_threads(time_ns.size)))
    refuse_spikes_in_no_seconds(h5, spikes.time_ns[fillers(spikes)], n_units)
    return spikes


def _threads(n_spikes: int) -> int:
    """How many threads merge so many spikes: few are merged before a thread has begun."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS) if n_spikes > MANY_SPIKES else 1


def warm_up() -> None:
    """Load the compiled loops, so that processes forked from this one need not."""
    time_ns = ns_from_seconds(np.array([2.0, 1.0]))
    kernels.seconds_to_ns(np.zeros(kernels.count_times(np.zeros(1), MAX_SECONDS)), np.zeros(1, np.int64))
    kernels.steps_back(time_ns, np.array([0, 2]))
    kernels.begins_again(time_ns, 1, 1, 0, 1)
    note_spikes(Spikes(*merge_units(time_ns, np.array([0, 2]))), 1, None, Findings())


def note_spikes(spikes: Spikes, n_units: int, end_ns: int | None, found: Findings) -> None:
    """Say what is odd about the spikes and is left as it is.

    Args:
        spikes, n_units: what was read.
        end_ns: where the last trial and the last behaviour sample end, None where there are none.
        found: takes the notes.
    """
    if not len(spikes):  # imaged, not heard
        return
    per_unit = np.zeros(n_units, np.int64)
    # equal times of one unit are neighbours in the stream, because ties are in order of unit
    twice = kernels.count_stream(spikes.time_ns, spikes.unit, per_unit)
    silent = int((per_unit == 0).sum())
    found.note("units-silent", silent, f"{silent} of {n_units} units have no spikes")
    found.note("spikes-duplicate", twice, f"{twice} spikes have the time of another spike of their unit; kept")
    early = int(np.searchsorted(spikes.time_ns, 0))
    text = f"{early} spikes lie before time zero, the first at {in_seconds(spikes.time_ns[0])}; kept"
    found.note("spikes-negative", early, text)
    if end_ns is not None:
        late = len(spikes) - int(np.searchsorted(spikes.time_ns, end_ns))
        text = f"{late} spikes lie after the last trial and behaviour sample, which end at {in_seconds(end_ns)}; kept"
        found.note("spikes-after-end", late, text)


# ---- columns --------------------------------------------------------------------------------------------------------


def read_unit_columns(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> dict[str, Column]:
    """The units' own columns and, from their electrodes, ``channel``, ``group``, ``location`` and ``region``.

    Where the table has a column of such a name itself, that one keeps the name and the derived one is called
    ``electrode_<name>``.
    """
    elsewhere = ("spike_times", "obs_intervals", "electrodes", "electrode_group")
    columns = read_columns(h5, units, n_units, found, skip=elsewhere, most=MAX_UNIT_VALUES)
    for name in ("heldout", "held_out"):
        column = columns.get(name)
        if isinstance(column, np.ndarray) and column.dtype.kind in "bi" and column.ndim == 1:
            del columns[name]
            columns["held_out"] = column.astype(np.bool_)
    derived = _electrode_columns(h5, units, n_units, found)
    if "group" not in derived:
        derived |= _group_column(h5, units, n_units)
    for name, column in derived.items():
        columns[f"electrode_{name}" if name in columns else name] = column
    location = columns.get("location")
    if "region" not in columns and isinstance(location, np.ndarray) and location.dtype.kind == "U":
        columns["region"] = np.array([_region(t) for t in location.reshape(-1).tolist()]).reshape(location.shape)
    given = [columns[name] for name in REGION_COLUMNS if name in columns]
    given = [column for column in given if isinstance(column, np.ndarray) and column.dtype.kind == "U"]
    if "region" not in columns and given:
        columns["region"] = given[0]
    return columns


def _region(location: str) -> str:
    """``ALM`` from ``brain_region: ALM; brain_subregion: N/A``; a location of another form is the region itself."""
    match = re.search(r"(?:^|[;\s])brain_region:\s*([^;]+)", location)
    return match[1].strip() if match else location


def _electrode_columns(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> dict[str, Column]:
    data = h5.dataset(units, "electrodes")
    if data is None or not math.prod(h5.shape(data)):
        return {}
    table = h5.follow(data, "table") or h5.group(h5.root, "general", "extracellular_ephys", "electrodes")
    if not isinstance(table, h5py.Group):
        text = f"{data.name} points at no electrodes table: no channel, group or location of units is known"
        found.note("electrodes-missing", n_units, text)
        return {}
    if misfit(h5, data) or h5.dtype(data).kind not in "iu" or len(h5.shape(data)) != 1:
        text = f"{data.name} is {h5.dtype(data)} of shape {h5.shape(data)}, expected rows of the electrodes table"
        found.note("electrodes-unusable", n_units, text)
        return {}
    row, index = h5.array(data).astype(np.int64), h5.dataset(units, "electrodes_index")
    if index is None and row.size != n_units:
        h5.refuse(f"{data.name} has {row.size} rows, expected {n_units}", BROKEN)
    offset = np.arange(n_units + 1) if index is None else ragged_offset(h5, index, n_units, row.size)
    ids = row_ids(h5, table)
    outside = int(((row < 0) | (row >= ids.size)).sum())
    if outside:
        text = f"{outside} of {row.size} electrodes of units lie outside of the table of {ids.size}: none is used"
        found.note("electrodes-out-of-range", outside, text)
        return {}
    columns: dict[str, Column] = {"channel": ids[row] if (np.diff(offset) == 1).all() else Ragged(ids[row], offset)}
    groups = _electrode_texts(h5, table, "group_name", ids.size) or _electrode_groups(h5, table, ids.size)
    places = (_electrode_texts(h5, table, name, ids.size) for name in ("location", *REGION_COLUMNS))
    for name, words in (("group", groups), ("location", next(filter(None, places), []))):
        if words:
            columns[name] = _joined(words, row, offset)
    return columns


def _electrode_texts(h5: Hdf5, table: h5py.Group, name: str, n_rows: int) -> list[str]:
    item = h5.dataset(table, name)
    if item is None or h5py.check_string_dtype(h5.dtype(item)) is None or h5.shape(item) != (n_rows,):
        return []
    return texts(h5.array(item)).tolist()


def _references(h5: Hdf5, table: h5py.Group, name: str, n_rows: int) -> list[str]:
    item = h5.dataset(table, name)
    if item is None or h5py.check_ref_dtype(h5.dtype(item)) is not h5py.Reference or h5.shape(item) != (n_rows,):
        return []
    return h5.reference_names(item)


def _electrode_groups(h5: Hdf5, table: h5py.Group, n_rows: int) -> list[str]:
    return _references(h5, table, "group", n_rows)


def _group_column(h5: Hdf5, units: h5py.Group, n_units: int) -> dict[str, Column]:
    """The units' own ``electrode_group``: references, of which the names are kept."""
    names = _references(h5, units, "electrode_group", n_units)
    return {"group": np.array(names, dtype=np.str_)} if names else {}


def _joined(words: list[str], row: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """One text a unit: those of its electrodes, each once, in order, joined by a comma."""
    rows = np.split(row, offset[1:-1])
    return np.array([",".join(dict.fromkeys(words[i] for i in r)) for r in rows], dtype=np.str_)


def declared_clock_hz(h5: Hdf5, units: h5py.Group, columns: Mapping[str, Column]) -> float | None:
    """The clock rate that the units table states for all units; None where it states none or several."""
    for item in (h5.dataset(units, "spike_times"), units):
        resolution = h5.number_attr(item, "resolution")
        if resolution is not None and 0 < resolution < 1:
            clock_hz = 1 / resolution
            near = round(clock_hz)
            return float(near) if abs(clock_hz - near) < 1e-9 * clock_hz else clock_hz
    for name in CLOCK_COLUMNS:
        column = columns.get(name)
        if isinstance(column, np.ndarray) and column.dtype.kind in "if" and column.ndim == 1:
            rates = np.unique(column)
            if rates.size == 1 and np.isfinite(rates[0]) and rates[0] > 0:
                return float(rates[0])
    waveform = h5.child(units, "waveform_mean")
    rate_hz = h5.number_attr(waveform, "sampling_rate") if waveform is not None else None
    return rate_hz if rate_hz is not None and math.isfinite(rate_hz) and rate_hz > 0 else None


# ---- observed time --------------------------------------------------------------------------------------------------


def observed_seconds(h5: Hdf5, units: h5py.Group, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """``obs_intervals`` as float64 ``[R, 2]``, unit after unit, and how many rows each unit has; none: it is silent."""
    data = h5.dataset(units, "obs_intervals")
    if data is None or not math.prod(h5.shape(data)):
        return np.zeros((0, 2)), np.zeros(n_units, np.int64)
    shape = h5.shape(data)
    if h5.dtype(data).kind not in "iuf" or len(shape) != 2 or shape[1] != 2:
        h5.refuse(f"{data.name} is {h5.dtype(data)} of shape {shape}, expected rows of (start, stop)", BROKEN)
    index = h5.dataset(units, "obs_intervals_index")
    if index is None and shape[0] != n_units:
        h5.refuse(f"{shape[0]} observation intervals of {n_units} units have no 'obs_intervals_index'", BROKEN)
    offset = np.arange(n_units + 1) if index is None else ragged_offset(h5, index, n_units, shape[0])
    return h5.array(data).astype(np.float64) * (h5.time_unit.scale((UNITS, OBSERVED)) or 1.0), np.diff(offset)


def read_observed(h5: Hdf5, units: h5py.Group, n_units: int, found: Findings) -> tuple[Intervals, Ragged | None] | None:
    """``obs_intervals`` as (observed by any unit, each unit's own where they differ); None where the file is silent."""
    seconds, count = observed_seconds(h5, units, n_units)
    if not len(seconds):
        return None
    if h5.laid is not None:
        seconds = seconds + h5.laid.shift_s("obs_intervals", len(seconds))[:, None]
    unit = np.repeat(np.arange(n_units), count)
    good = is_time(seconds).all(axis=1) & (seconds[:, 0] <= seconds[:, 1])
    n_bad = int((~good).sum())
    text = f"removed {n_bad} of {good.size} observation intervals that are NaN or stop before they start"
    found.repair("obs-intervals-invalid", n_bad, text)
    span_ns, unit = ns_from_seconds(seconds[good]), unit[good]
    observed = Intervals(span_ns[:, 0], span_ns[:, 1]).union()
    if not len(observed):
        return None
    count = np.bincount(unit, minlength=n_units)
    silent = int((count == 0).sum())
    text = f"{silent} of {n_units} units state no observation intervals: taken as observed where any other unit is"
    found.note("obs-intervals-missing", silent, text)
    stated = [rows for rows in np.split(span_ns, np.cumsum(count)[:-1]) if len(rows)]
    if all(np.array_equal(rows, stated[0]) for rows in stated):
        return observed, None
    return observed, _own_intervals(span_ns, count, observed)


def _own_intervals(span_ns: np.ndarray, count: np.ndarray, observed: Intervals) -> Ragged | None:
    """Each unit's intervals, merged where they overlap or touch; None where all come to the same."""
    pairs = []
    for rows in np.split(span_ns, np.cumsum(count)[:-1]):
        own = Intervals(rows[:, 0], rows[:, 1]).union() if len(rows) else observed
        pairs.append(np.stack([own.start_ns, own.stop_ns], axis=1))
    if all(np.array_equal(pair, pairs[0]) for pair in pairs):
        return None
    return Ragged(np.concatenate(pairs), np.cumsum([0, *(len(pair) for pair in pairs)]))


def count_unobserved(spikes: Spikes, observed: Intervals, unit_observed: Ragged | None) -> int:
    """The number of spikes outside of their unit's observed intervals."""
    if unit_observed is None:
        count = np.searchsorted(spikes.time_ns, observed.stop_ns) - np.searchsorted(spikes.time_ns, observed.start_ns)
        return len(spikes) - int(count.sum())
    pairs = np.ascontiguousarray(unit_observed.value, np.int64)
    inside = kernels.count_inside(spikes.time_ns, spikes.unit, pairs[:, 0], pairs[:, 1], unit_observed.offset)
    return len(spikes) - inside
