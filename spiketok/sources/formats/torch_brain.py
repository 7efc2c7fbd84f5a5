"""A file of torch_brain 0.2 (temporaldata): one HDF5 file becomes one session, here read with h5py alone.

    spikes (IrregularTimeSeries) with timestamps, unit_index; units (ArrayDict)      spikes and units
    any other series, RegularTimeSeries or IrregularTimeSeries                       a signal a column: <group>.<column>
    an IrregularTimeSeries without a column of numbers                               a table of events
    Interval                                                                         a table
    domain of the root; <set>_<train|val|test>_domain                                observed time; splits
    attributes of Data groups                                                        info, as ``subject.species``

Groups in Data groups have the names of all, with dots between. What is left out (columns of the spikes, an ArrayDict
other than the units) is listed in a note.

What is unusual: the file's seconds are float64 and the session's times whole nanoseconds. Tables whose starts or ends
are no whole nanoseconds keep them, as they are, in the columns ``start_s`` and ``stop_s``; a regular series has its
domain as the table ``<group>.domain``. So windows can be cut as torch_brain cuts them, to the last bit. A file that
``spiketok export`` wrote says in its group ``spiketok`` what torch_brain has no place for, and comes back whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from spiketok.recording.intervals import from_whole_second, holds
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Column, Intervals, Session, Signal, Source, Spikes
from spiketok.recording.nouns import UnitTable as Units
from spiketok.sources.formats.nwb.hdf5 import AGAIN, HDF5_ERRORS, Hdf5, decoded, require_alone
from spiketok.sources.formats.nwb.intervals import SPLIT_NAMES, Reach, Table, find_reach, finish_table
from spiketok.sources.formats.nwb.series import MAX_COMPONENTS, MAX_DEPTH, MAX_IMAGED_VALUES, MAX_VALUES, stamped
from spiketok.sources.formats.nwb.series import Series as Named
from spiketok.sources.formats.nwb.tables import Findings, in_seconds, is_time, listed, misfit, ns_from_seconds
from spiketok.sources.formats.nwb.units import MAX_UNIT_VALUES, count_unobserved, note_spikes
from spiketok.sources.formats.torch_brain_own import OWN, Own, read_own, texts_of

READER = {"reader": "torch_brain", "reader_version": 1}
SUFFIXES = (".h5", ".hdf5")
SERIES = ("IrregularTimeSeries", "RegularTimeSeries")
CLASSES = ("Data", "ArrayDict", "Interval", *SERIES)
OF_SERIES = ("timestamps", "timestamp_indices_1s", "domain")
SPLIT = re.compile(rf"(?:(\w+)_)?({'|'.join(SPLIT_NAMES)}|calibration)_domain")
PLAIN_INFO = {"subject.species": "species", "subject.sex": "sex", "subject.age": "age", "session.id": "session_id",
              "brainset.id": "identifier", "session.recording_date": "session_start_time"}  # fmt: skip
RESERVED = re.compile(r"part_of|reach_ns:.*")  # info that the toolkit itself reads: no attribute of a file makes it
START_S, STOP_S = "start_s", "stop_s"
BROKEN = "it is no file of torch_brain 0.2, ask who wrote it"
ANY_TIME = Reach(-(2**62), 2**62)


@dataclass
class _Found:
    """What a file holds: its groups by path, and what is said of them."""

    series: dict[tuple[str, ...], tuple[h5py.Group, str]] = field(default_factory=dict)
    intervals: dict[tuple[str, ...], h5py.Group] = field(default_factory=dict)
    dicts: dict[tuple[str, ...], h5py.Group] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    keep_width: bool = False  # of texts: as wide as they are declared
    left_out: list[str] = field(default_factory=list)
    notes: Findings = field(default_factory=Findings)


def read_torch_brain(path: Path, session_id: str, source: Source) -> Session:
    """Read a file of torch_brain whole.

    Args:
        path: the file. session_id: ``"<dataset>/<session>"``.
        source: where it came from; ``session_start`` is filled in from the file where it is empty.

    Raises:
        SourceError: there is no such file, it is damaged, names other files, is not torch_brain's, or has no spike.
    """
    with Hdf5(path) as h5:
        require_alone(h5.root.file, h5.name)
        require_data(h5)
        own = read_own(h5)
        found = _Found(keep_width=own is not None)
        _walk(h5, h5.root, (), found, set())
        return _session(h5, session_id, source, found, own)


def require_data(h5: Hdf5) -> None:
    """Raise SourceError where a file's root is no Data of torch_brain."""
    if _class_of(h5, h5.root) != "Data":
        holds_ = listed(sorted(h5.names(h5.root)), 5) or "nothing"
        fact = f"is HDF5, but neither NWB nor torch_brain's (its root has no attribute 'object'; it holds {holds_})"
        h5.refuse(fact, "check what was fetched")


def is_torch_brain(path: Path) -> bool:
    """Whether a file is torch_brain's, by its root; False for one that is HDF5 of another kind.

    Raises:
        SourceError: it is no HDF5 file, or is damaged.
    """
    with Hdf5(path) as h5:
        return _class_of(h5, h5.root) == "Data"


def _session(h5: Hdf5, session_id: str, source: Source, found: _Found, own: Own | None) -> Session:
    notes = found.notes
    units, spikes = _read_units(h5, found)
    domain = _domain(h5, h5.group(h5.root, "domain"))
    if own is not None and h5.group(h5.root, "observed") is not None:
        domain = _domain(h5, h5.group(h5.root, "observed"))
    signals = _read_signals(h5, 0 if len(spikes) else len(units), found)
    tables, splits = _read_tables(h5, found, own)
    near = find_reach(_extent(h5, domain, spikes, signals), [t for t, _ in tables], Findings() if own else notes)
    start_ns, stop_ns = near.start_ns, near.stop_ns
    observed = domain or Intervals([start_ns], [stop_ns])
    if domain is None:
        notes.note("observed-assumed", 1, "the file has no domain: from the first to the last time is observed")
    if own is None:
        observed = from_whole_second(_with_last(observed, spikes))
    finished = {name: finish_table(table, stop_ns, notes) for table, name in tables}
    if len(observed):
        start_ns, stop_ns = min(start_ns, int(observed.start_ns[0])), max(stop_ns, int(observed.stop_ns[-1]))
    for name, table in finished.items():
        if name in splits:
            splits[name] = (*splits[name][:2], table)
    info = found.info
    made = Session(
        id=session_id,
        subject=info.get("subject.id", ""),
        start_ns=start_ns,
        stop_ns=stop_ns,
        units=units,
        spikes=spikes,
        observed=observed,
        source=source if source.session_start else replace(source, session_start=_moment(info)),
        observed_source="assumed" if domain is None else "obs_intervals",
        intervals={name: table for name, table in finished.items() if name not in splits or _inexact(table)},
        splits=_as_splits(splits),
        signals=signals,
        info={PLAIN_INFO.get(key, key): value for key, value in info.items() if key != "subject.id"},
    )
    if own is not None:
        return own.complete(h5, replace(made, repairs=tuple(notes.repairs)), source)
    note_spikes(spikes, len(units), None, notes)
    outside = count_unobserved(spikes, observed, None)
    text = f"{outside} spikes lie outside of the observed time; kept, --drop-outside leaves them out"
    notes.note("spikes-unobserved", outside, text)
    notes.note("series-left-out", len(found.left_out), f"left out of the file: {listed(found.left_out, 20)}")
    return replace(made, repairs=tuple(notes.repairs), notes=tuple(notes.notes))


def _with_last(observed: Intervals, spikes: Spikes) -> Intervals:
    """The observed time with the last spike: a domain that torch_brain makes by itself ends at its time."""
    if len(spikes) and len(observed) and observed.stop_ns[-1] == spikes.time_ns[-1]:
        return Intervals(observed.start_ns, [*observed.stop_ns[:-1], observed.stop_ns[-1] + 1])
    return observed


# ---- what is there --------------------------------------------------------------------------------------------------


def _class_of(h5: Hdf5, group: h5py.Group) -> str:
    name = h5.text_attr(group, "object")
    return name if name in CLASSES else ""


def _walk(h5: Hdf5, group: h5py.Group, parts: tuple[str, ...], found: _Found, seen: set[tuple[int, int]]) -> None:
    """Find all groups of a Data group by their class."""
    place = h5.identity(group)
    if place in seen or len(parts) > MAX_DEPTH:
        h5.refuse(f"{group.name} lies inside itself, or below {MAX_DEPTH} others, the file is damaged", AGAIN)
    seen = seen | {place}
    _read_attributes(h5, group, parts, found)
    for name in h5.names(group):
        path = (*parts, name)
        if path == (OWN,):
            continue
        item = h5.child(group, name)
        kind = _class_of(h5, item) if isinstance(item, h5py.Group) else ""
        if kind == "Data":
            _walk(h5, item, path, found, seen)
        elif kind in SERIES:
            found.series[path] = (item, kind)
        elif kind == "Interval":
            found.intervals[path] = item
        elif kind == "ArrayDict":
            found.dicts[path] = item
        else:
            what = "a group of no known class" if isinstance(item, h5py.Group) else "an array without time"
            found.left_out.append(f"{'.'.join(path)} ({what})")


def _read_attributes(h5: Hdf5, group: h5py.Group, parts: tuple[str, ...], found: _Found) -> None:
    """Texts and numbers of a Data group as info, by their dotted names."""
    try:
        names = [name for name in group.attrs if isinstance(name, str)]
    except HDF5_ERRORS as error:
        h5.refuse(f"listing the attributes of {group.name} failed, the file is damaged ({str(error)[:100]})", AGAIN)
    for name in names:
        key = ".".join((*parts, name))
        if name in ("object", "absolute_start", "_unicode_keys", "timekeys") or RESERVED.fullmatch(key):
            continue
        value = h5.attr(group, name)
        if isinstance(value, bytes | str):
            found.info[key] = decoded(value)
        elif isinstance(value, np.generic) and value.dtype.kind in "biuf":
            found.info[key] = repr(value.item())
        else:
            found.left_out.append(f"{key} (an attribute that is neither text nor number)")


def _moment(info: Mapping[str, str]) -> str:
    """When the session began, ISO 8601; empty where the file does not say it so."""
    text = info.get("session.recording_date", "")
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        return ""


# ---- columns --------------------------------------------------------------------------------------------------------


def _numbers(h5: Hdf5, group: h5py.Group, name: str, kinds: str = "f") -> np.ndarray:
    """A dataset of one value a row, which must be there."""
    item = h5.dataset(group, name)
    if item is None:
        h5.refuse(f"{group.name} has no '{name}'", BROKEN)
    dtype, shape = h5.dtype(item), h5.shape(item)
    if dtype.kind not in kinds or len(shape) != 1:
        h5.refuse(f"{item.name} is {dtype} of shape {shape}, expected one number a row", BROKEN)
    return h5.array(item, stored=True)


def _columns(h5: Hdf5, group: h5py.Group, n_rows: int, most: int, skip: tuple[str, ...], found: _Found) -> dict:
    """The plain columns of a group; what is none is left out with the reason."""
    columns: dict[str, Column] = {}
    for name in h5.names(group):
        if name in skip:
            continue
        item, where = h5.child(group, name), f"{(group.name or '').strip('/').replace('/', '.')}.{name}"
        if not isinstance(item, h5py.Dataset):
            found.left_out.append(f"{where} (a group)")
            continue
        shape, fault = h5.shape(item), misfit(h5, item)
        if shape[:1] != (n_rows,):
            h5.refuse(f"{item.name} has shape {shape}, its group {n_rows} rows", BROKEN)
        width = int(np.prod(shape[1:], dtype=np.int64))
        if fault or width > most:
            found.left_out.append(f"{where} ({fault or f'{width} values a row'})")
            continue
        values = h5.array(item)
        columns[name] = _plain(values, found)
    return columns


def _plain(values: np.ndarray, found: _Found) -> np.ndarray:
    """Texts as str, numbers in this machine's order of bytes."""
    if values.dtype.kind in "OS":
        return texts_of(values, keep_width=found.keep_width)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _domain(h5: Hdf5, group: h5py.Group | None) -> Intervals | None:
    """The time of an Interval, as it is; None where there is none."""
    if group is None:
        return None
    start, stop = _numbers(h5, group, "start"), _numbers(h5, group, "end")
    if start.size != stop.size or not (is_time(start) & is_time(stop) & (start <= stop)).all():
        h5.refuse(f"{group.name} has {start.size} starts and {stop.size} ends, or one that is no time", BROKEN)
    return Intervals(ns_from_seconds(start), ns_from_seconds(stop)).union()


# ---- units and spikes -----------------------------------------------------------------------------------------------


def _read_units(h5: Hdf5, found: _Found) -> tuple[Units, Spikes]:
    """The units as their table says them, or as their spikes count them; and all spikes."""
    group, kind = found.series.pop(("spikes",), (None, ""))
    time_ns, unit = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if group is not None:
        if kind != "IrregularTimeSeries":
            h5.refuse(f"spikes is a {kind}, expected an IrregularTimeSeries", BROKEN)
        seconds, unit = _numbers(h5, group, "timestamps"), _numbers(h5, group, "unit_index", "iu")
        if seconds.size != unit.size:
            h5.refuse(f"spikes has {seconds.size} timestamps and {unit.size} unit_index", BROKEN)
        others = [name for name in h5.names(group) if name not in (*OF_SERIES, "unit_index")]
        found.left_out += [f"spikes.{name} (a value a spike)" for name in others]
        good = is_time(seconds)
        n_removed = int((~good).sum())
        text = f"removed {n_removed} of {seconds.size} spike times that are NaN, infinite or beyond 292 years"
        found.notes.repair("spikes-not-finite", n_removed, text)
        time_ns, unit = ns_from_seconds(seconds[good]), unit[good].astype(np.int64)
    table = found.dicts.pop(("units",), None)
    if table is None:
        ids, columns = np.arange(int(unit.max(initial=-1)) + 1).astype(np.str_), {}
        found.notes.note("units-undescribed", ids.size, "the file has no units: they are called by their numbers")
    else:
        ids, columns = _unit_table(h5, table, found)
    if unit.size and not (unit.min() >= 0 and unit.max() < len(ids)):
        h5.refuse(f"spikes.unit_index goes from {unit.min()} to {unit.max()}, units has {len(ids)} rows", BROKEN)
    return Units(ids, columns), _ordered(time_ns, unit, found)


def _unit_table(h5: Hdf5, group: h5py.Group, found: _Found) -> tuple[np.ndarray, dict[str, Column]]:
    item = h5.dataset(group, "id")
    if item is None or len(h5.shape(item)) != 1 or misfit(h5, item):
        h5.refuse("units has no column 'id' of one value a unit", BROKEN)
    values = h5.array(item)
    ids = _plain(values, found).astype(np.str_, copy=False)
    if np.unique(ids).size != ids.size:
        h5.refuse(f"units has {ids.size} rows and {np.unique(ids).size} different ids", BROKEN)
    return ids, _columns(h5, group, ids.size, MAX_UNIT_VALUES, ("id",), found)


def _ordered(time_ns: np.ndarray, unit: np.ndarray, found: _Found) -> Spikes:
    step = np.diff(time_ns)
    n_back = int((step < 0).sum())
    text = f"sorted the spikes: {n_back} steps back in time, the largest by {in_seconds(-step.min(initial=0))}"
    found.notes.repair("spikes-unsorted", n_back, text)
    if ((step < 0) | ((step == 0) & (np.diff(unit) < 0))).any():
        order = np.lexsort((unit, time_ns))
        time_ns, unit = time_ns[order], unit[order]
    return Spikes(time_ns, unit.astype(np.int32))


# ---- series ---------------------------------------------------------------------------------------------------------


def _read_signals(h5: Hdf5, n_imaged: int, found: _Found) -> dict[str, Signal]:
    """Every column of numbers of every series.

    Args:
        n_imaged: how many units may have been imaged; 0 where they have spikes.
    """
    signals = {}
    imaged = _imaged(h5, n_imaged, found)
    for parts, (group, kind) in found.series.items():
        domain = _domain(h5, h5.group(group, "domain"))
        fitting = {}
        for name in h5.names(group):
            if name in OF_SERIES:
                continue
            most = MAX_IMAGED_VALUES if (parts, name) == imaged else MAX_VALUES
            reason = _no_signal(h5, group, name, n_imaged if (parts, name) == imaged else MAX_COMPONENTS, most)
            if reason:
                found.left_out.append(f"{'.'.join((*parts, name))} ({reason})")
            else:
                fitting[name] = h5.dataset(group, name)
        if not fitting:
            continue
        lengths = {name: h5.shape(item)[0] for name, item in fitting.items()}
        if len(set(lengths.values())) > 1:
            h5.refuse(f"the columns of {group.name} have different lengths ({lengths})", BROKEN)
        n = next(iter(lengths.values()))
        seconds, rate_hz = _clock(h5, group, kind, n)
        for name, item in fitting.items():
            named = FLUORESCENCE if (parts, name) == imaged else ".".join(parts if name == "value" else (*parts, name))
            values, called = h5.array(item), Named((*parts, name), group, kind, False)
            time_ns, values = stamped(called, seconds, values, ANY_TIME, found.notes)
            signals[named] = _signal(h5, group, time_ns, values, rate_hz, domain, called.path, found)
    return signals


def _imaged(h5: Hdf5, n_imaged: int, found: _Found) -> tuple[tuple[str, ...], str] | None:
    """The one column with a value for each imaged unit: their fluorescence; None where there is none, or several."""
    if not n_imaged:
        return None
    columns = [
        (parts, name, h5.child(group, name)) for parts, (group, _) in found.series.items() for name in h5.names(group)
    ]
    own = [
        (p, name) for p, name, item in columns if isinstance(item, h5py.Dataset) and h5.shape(item)[1:] == (n_imaged,)
    ]
    named = [one for one in own if one[0] == (FLUORESCENCE,)]
    return (named or own)[0] if len(named or own) == 1 else None


def _no_signal(h5: Hdf5, group: h5py.Group, name: str, widest: int, most: int) -> str:
    """Why a member of a series is no signal; empty where it is one."""
    item = h5.child(group, name)
    if not isinstance(item, h5py.Dataset):
        return "a group"
    shape = h5.shape(item)
    if h5.dtype(item).kind not in "biuf":
        return "not numbers"
    if len(shape) not in (1, 2) or 0 in shape:
        return f"shape {shape}"
    if len(shape) == 2 and shape[1] > widest:
        return f"{shape[1]} components"
    return f"{np.prod(shape, dtype=np.int64)} values" if np.prod(shape, dtype=np.int64) > most else ""


def _clock(h5: Hdf5, group: h5py.Group, kind: str, n: int) -> tuple[np.ndarray, float | None]:
    """The seconds of each sample, and the rate of a regular series."""
    if kind == "IrregularTimeSeries":
        seconds = _numbers(h5, group, "timestamps")
        if seconds.size != n:
            h5.refuse(f"{group.name} has {seconds.size} timestamps and columns of {n} values", BROKEN)
        return seconds, None
    rate_hz, domain = h5.number_attr(group, "sampling_rate"), h5.group(group, "domain")
    if rate_hz is None or not 0 < rate_hz < NS_PER_S or domain is None:
        h5.refuse(f"{group.name} is regular and has the sampling rate {rate_hz}, or no domain", BROKEN)
    start = _numbers(h5, domain, "start")
    if not start.size:
        h5.refuse(f"{group.name} has {n} samples and no start of its domain", BROKEN)
    return start[0] + np.arange(n) / rate_hz, rate_hz


def _signal(
    h5: Hdf5,
    group: h5py.Group,
    time_ns: np.ndarray,
    raw: np.ndarray,
    rate_hz: float | None,
    domain: Intervals | None,
    path: str,
    found: _Found,
) -> Signal:
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is marked so below
        value = raw.reshape(len(time_ns), -1).astype(np.float32)
    finite = np.isfinite(value)
    valid = finite.all(axis=1)
    n_invalid = int((~valid).sum())
    text = f"{path}: {n_invalid} of {valid.size} samples are not finite, marked as not valid"
    found.notes.note("signal-not-finite", n_invalid, text)
    if rate_hz is not None and domain is not None and len(domain) > 1:  # gaps of it were filled
        gap = ~holds(domain, time_ns + round(NS_PER_S / rate_hz / 2))
        text = f"{path}: {int(gap.sum())} of {valid.size} samples lie in gaps of its domain, marked as not valid"
        found.notes.note("signal-gaps", int((gap & valid).sum()), text)
        valid &= ~gap
    components = tuple(filter(None, h5.text_attr(group, "components").split(",")))
    if len(components) != value.shape[1]:
        components = ("value",) if value.shape[1] == 1 else tuple(map(str, range(value.shape[1])))
    measure = h5.text_attr(group, "measure")
    return Signal(time_ns, np.where(finite, value, np.float32(0)), components, measure, valid, rate_hz)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _read_tables(
    h5: Hdf5, found: _Found, own: Own | None
) -> tuple[list[tuple[Table, str]], dict[str, tuple[str, str, Intervals]]]:
    """Every table with its name; and the set and the split of those that are splits, by the table's name."""
    tables: list[tuple[Table, str]] = []
    splits: dict[str, tuple[str, str, Intervals]] = {}
    for parts, group in found.intervals.items():
        if parts in (("domain",),) or (own is not None and (parts == ("observed",) or parts[0] in own.domains)):
            continue
        name = ".".join(parts)
        tables.append((_table(h5, group, parts, found), name))
        split = SPLIT.fullmatch(name) if own is None else None
        if split:
            splits[name] = (split[1] or "source", SPLIT_NAMES.get(split[2], split[2]), Intervals.empty())
    for parts, (group, kind) in found.series.items():
        domain = h5.group(group, "domain")
        if kind == "RegularTimeSeries" and domain is not None:
            tables.append((_table(h5, domain, (*parts, "domain"), found), ".".join((*parts, "domain"))))
        elif kind == "IrregularTimeSeries" and _is_events(h5, group):
            seconds = _numbers(h5, group, "timestamps")
            columns = _columns(h5, group, seconds.size, MAX_COMPONENTS, OF_SERIES, found)
            tables.append((Table(parts, seconds, seconds.copy(), columns), ".".join(parts)))
    for parts in found.dicts:
        found.left_out.append(f"{'.'.join(parts)} (a table without time)")
    return tables, splits


def _is_events(h5: Hdf5, group: h5py.Group) -> bool:
    """Whether a series has times, and no column of numbers."""
    names = [name for name in h5.names(group) if name not in OF_SERIES]
    items = [h5.child(group, name) for name in names]
    return not any(isinstance(item, h5py.Dataset) and h5.dtype(item).kind in "biuf" for item in items)


def _table(h5: Hdf5, group: h5py.Group, parts: tuple[str, ...], found: _Found) -> Table:
    """An Interval with its columns, and its own seconds where ns do not hold them."""
    start_s, stop_s = _numbers(h5, group, "start"), _numbers(h5, group, "end")
    if start_s.size != stop_s.size:
        h5.refuse(f"{group.name} has {start_s.size} starts and {stop_s.size} ends", BROKEN)
    columns = _columns(h5, group, start_s.size, MAX_COMPONENTS, ("start", "end"), found)
    if not (_whole(start_s) and _whole(stop_s)) and START_S not in columns and STOP_S not in columns:
        columns |= {START_S: start_s.astype(np.float64), STOP_S: stop_s.astype(np.float64)}
    return Table(parts, start_s, stop_s, columns)


def _whole(seconds: np.ndarray) -> bool:
    """Whether all times are the float64 nearest to whole nanoseconds; what is no time is not asked."""
    known = seconds[is_time(seconds)]
    return bool((ns_from_seconds(known) / NS_PER_S == known).all())


def _inexact(table: Intervals) -> bool:
    return START_S in table.columns


def _as_splits(found: Mapping[str, tuple[str, str, Intervals]]) -> Intervals:
    """The stored divisions, in order of time; a column ``set`` where there is more than the file's plain one."""
    rows = [(one, name, a, b) for one, name, table in found.values()
            for a, b in zip(table.start_ns.tolist(), table.stop_ns.tolist(), strict=True) if a < b]  # fmt: skip
    if not rows:
        return Intervals.empty()
    rows.sort(key=lambda row: (row[2], row[3], row[0], row[1]))
    sets, names, start, stop = zip(*rows, strict=True)
    columns = {"name": np.array(names)} | ({} if set(sets) == {"source"} else {"set": np.array(sets)})
    return Intervals(start, stop, columns)


def _extent(h5: Hdf5, domain: Intervals | None, spikes: Spikes, signals: Mapping[str, Signal]) -> Reach:
    """From the first to the last of the domain and of all spikes; of the signals where there is neither."""
    edges = [] if domain is None else [*domain.start_ns[:1], *domain.stop_ns[-1:]]
    edges += [*spikes.time_ns[:1], *(spikes.time_ns[-1:] + 1)]
    if not edges:
        edges = [t for s in signals.values() if len(s.time_ns) for t in (s.time_ns[0], s.time_ns[-1] + 1)]
    if not edges:
        h5.refuse("has neither spikes, nor a domain, nor samples", "check what was fetched")
    return Reach(int(min(edges)), int(max(edges)))
