"""Compare a session with the NWB file that it came from, through pynwb.

The session is what the store gives back; nothing here knows how it is stored. What is unusual: this is a second,
independent reading of the source. It shares no code with the h5py reader in ``spiketok.sources.formats.nwb``, states
the rules of the repairs once more, and holds every deviation from the source against them: a spike, interval or sample
that is missing must be one that a rule removes, and a finding of the session must say so.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import NS_PER_S, Column, Intervals, Ragged, Session, Signal

LIMIT_S = 9.2e9  # |seconds| beyond this have no int64 ns
DAY_NS = 86_400 * NS_PER_S
WIDE = 16  # unit columns with more values a unit are not taken
MOST_COMPONENTS, MOST_VALUES = 64, 10**8  # nor are series with more
NOT_TAKEN = (
    *("ElectricalSeries", "ImageSeries", "IndexSeries", "PatchClampSeries"),
    *("DecompositionSeries", "OptogeneticSeries", "ImageMaskSeries", "OnePhotonSeries", "TwoPhotonSeries"),
)
EVENTS = (
    "BehavioralEvents",
    "BehavioralEpochs",
    "AnnotationSeries",
    "IntervalSeries",
    "Events",
    "LabeledEvents",
    "TTLs",
)
COUNTS = ("binned_spikes", "tx", "ThresholdCrossings")  # they stand for a units table, one column a unit
ACRONYMS = (  # columns that stand for a location or region that is not there
    *("beryl_location", "ecephys_structure_acronym", "structure_acronym", "brain_region", "brain_area"),
    *("allen_location", "cosmos_location"),
)
IMAGED = "fluorescence"  # the signal of units that were imaged and have no spikes
SPLIT_WORDS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}


@dataclass
class Verification:
    """What was compared, and every difference as one sentence with both values."""

    differences: list[str] = field(default_factory=list)
    n_units: int = 0
    n_spikes: int = 0
    n_tables: int = 0
    n_intervals: int = 0
    n_columns: int = 0
    n_signals: int = 0
    n_samples: int = 0

    @property
    def is_equal(self) -> bool:
        return not self.differences

    def expect(self, what: str, stored: object, source: object) -> bool:
        """Note a difference where two values are not equal."""
        equal = stored == source
        if not equal:
            self.differences.append(f"{what}: {stored} in the session, {source} in the source")
        return bool(equal)

    def expect_array(self, what: str, stored: np.ndarray, source: np.ndarray) -> bool:
        """Note the first difference between two arrays; NaN equals NaN."""
        if stored.shape != source.shape:
            return self.expect(f"{what}, shape", stored.shape, source.shape)
        unequal = stored != source
        if stored.dtype.kind == "f" and source.dtype.kind == "f":
            unequal &= ~(np.isnan(stored) & np.isnan(source))
        wrong = np.argwhere(unequal)
        if not len(wrong):
            return True
        place = tuple(int(i) for i in wrong[0])
        label = ", ".join(str(i) for i in place)
        self.differences.append(
            f"{what}: {len(wrong)} of {stored.size} values differ, the first at {label}: "
            f"{stored[place]} in the session, {source[place]} in the source"
        )
        return False


def verify_session(session: Session, path: Path) -> list[str]:
    """Every difference between a session and its source file; empty where they are equal.

    Args:
        session: as the store gives it back.
        path: the NWB file.

    Raises:
        SourceError: pynwb cannot read the file.
    """
    return compare_with_source(session, path).differences


def compare_with_source(session: Session, path: Path) -> Verification:
    """Compare all spikes, unit columns, observed time, interval tables and series of a session with its source file.

    Args:
        session: as the store gives it back.
        path: the NWB file.

    Returns:
        the differences, and how much was compared.

    Raises:
        SourceError: pynwb cannot read the file.
    """
    from hdmf.build.errors import ConstructError
    from pynwb import NWBHDF5IO

    if Path(path).is_dir():  # zarr arrays: by way of a file that pynwb writes of them
        from spiketok.sources.formats.nwb.zarr_folder import as_hdf5

        with as_hdf5(Path(path)) as file:
            return compare_with_source(session, file)
    out = Verification()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pynwb says of old or odd files is no difference
            with NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
                nwb = io.read()
                with h5py.File(path, "r") as raw:
                    _compare(session, nwb, raw, out)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, ConstructError) as error:
        reason = " ".join(str(error).split())[:200]
        message = f"{Path(path).name}: cannot be read through pynwb ({type(error).__name__}: {reason}): fetch it again"
        raise SourceError(message) from error
    return out


def _compare(session: Session, nwb, raw: h5py.File, out: Verification) -> None:
    units = nwb.units
    tables, series = _walk_file(nwb)
    counts = [s for s in series if s.parts[-1] in COUNTS] if units is None or not len(units.id) else []
    if len(counts) == 1:
        series.remove(counts[0])
        _compare_counts(session, counts[0], out)
    elif IMAGED in session.signals and session.observed_source == "frames":
        session = _compare_imaged(session, series, raw, out)
        units = None
    elif units is None:
        out.differences.append(f"units: {len(session.units)} in the session, no units table in the source")
        return
    subject = nwb.subject.subject_id if nwb.subject is not None else None
    out.expect("subject", session.subject, (subject or "").strip())
    if not counts and units is not None and out.expect("units", len(session.units), len(units.id)):
        _compare_spikes(session, units, out)
        _compare_unit_columns(session, units, raw, out)
        _compare_observed(session, units, out)
    matched = _compare_tables(session, tables, raw, out)
    matched |= _compare_events(session, [s for s in series if s.is_event], out)
    for name in sorted(set(session.intervals) - matched):
        out.differences.append(f"intervals '{name}': {len(session.intervals[name])} rows, no such table in the source")
    _compare_signals(session, [s for s in series if not s.is_event], out)
    _compare_splits(session, nwb, out)


# ---- times ----------------------------------------------------------------------------------------------------------


def _is_time(seconds: np.ndarray) -> np.ndarray:
    return np.isfinite(seconds) & (seconds > -LIMIT_S) & (seconds < LIMIT_S)


def _to_ns(seconds: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(seconds, dtype=np.float64) * 1e9).astype(np.int64)


def _stated(session: Session, finding: str, place: str = "") -> int:
    """The count that the session's repairs state under this id (of this place, which begins their text)."""
    return sum(f.count for f in session.repairs if f.id == finding and f.text.startswith(place))


# ---- units ----------------------------------------------------------------------------------------------------------


def _cell(column, row: int) -> np.ndarray:
    """One row of a table's column as an array, ragged or not."""
    return np.atleast_1d(np.asarray(column[row]))


def _compare_spikes(session: Session, units, out: Verification) -> None:
    n_units = len(units.id)
    ids = [str(i) for i in np.asarray(units.id[:]).tolist()]
    uses = Counter(ids)
    named = [f"{name}.row{row}" if uses[name] > 1 else name for row, name in enumerate(ids)]
    for row, (stored, source) in enumerate(zip(session.units.id.tolist(), named, strict=True)):
        out.expect(f"id of unit row {row}", stored, source)
    if "spike_times" not in units.colnames:
        out.differences.append(f"spikes: {len(session.spikes)} in the session, no column spike_times in the source")
        return
    order = np.argsort(session.spikes.unit, kind="stable")
    stop = np.cumsum(np.bincount(session.spikes.unit, minlength=n_units))
    column, n_removed = units["spike_times"], 0
    for row, stored in enumerate(np.split(session.spikes.time_ns[order], stop[:-1])):
        seconds = _cell(column, row).astype(np.float64)
        good = _is_time(seconds)
        n_removed += int((~good).sum())
        source = np.sort(_to_ns(seconds[good]))
        if out.expect(f"spikes of unit '{ids[row]}' (row {row})", stored.size, source.size):
            out.expect_array(f"spike times in ns of unit '{ids[row]}' (row {row})", stored, source)
        out.n_units += 1
        out.n_spikes += source.size
    out.expect("spikes removed because they are no time", _stated(session, "spikes-not-finite"), n_removed)


def _compare_unit_columns(session: Session, units, raw: h5py.File, out: Verification) -> None:
    elsewhere = {"spike_times", "obs_intervals", "electrodes", "electrode_group"}
    renamed = {"heldout": "held_out"}
    expected = {}
    for name, column in _source_columns(units, raw, "units"):
        if name not in elsewhere and not _is_wide(column, len(units.id)):
            flag = name in ("heldout", "held_out") and isinstance(column, np.ndarray) and column.dtype.kind in "biu"
            expected[renamed.get(name, name) if flag else name] = column.astype(bool) if flag else column
    derived = _electrode_columns(units)
    for name, column in derived.items():
        expected[f"electrode_{name}" if name in expected else name] = column
    if "region" not in expected and isinstance(expected.get("location"), np.ndarray):
        places = expected["location"].tolist()
        inside = [p.split("brain_region:")[1].split(";")[0].strip() if "brain_region:" in p else p for p in places]
        expected["region"] = np.array(inside, dtype=np.str_)
    for name in ACRONYMS:
        named = expected.get(name)
        if "region" not in expected and isinstance(named, np.ndarray) and named.dtype.kind == "U":
            expected["region"] = named
    _compare_columns("units", session.units.columns, expected, out)


def _is_wide(column: Column, n_rows: int) -> bool:
    values = column.value if isinstance(column, Ragged) else column
    return values.size > WIDE * n_rows


def _electrode_columns(units) -> dict[str, Column]:
    """Channel, group and location of each unit as the electrodes table has them."""
    if "electrodes" not in units.colnames or len(units["electrodes"]) == 0:
        own = units["electrode_group"][:] if "electrode_group" in units.colnames else []
        return {"group": np.array([group.name for group in own], dtype=np.str_)} if len(own) else {}
    column = units["electrodes"]
    region = getattr(column, "target", column)
    row = np.asarray(region.data[:]).astype(np.int64)
    end = np.asarray(column.data[:]).astype(np.int64) if region is not column else np.arange(1, row.size + 1)
    offset = np.concatenate([[0], end])
    table = region.table
    if row.size and not (row.min() >= 0 and row.max() < len(table.id)):
        return {}
    ids = np.asarray(table.id[:]).astype(np.int64)
    columns: dict[str, Column] = {"channel": ids[row] if (np.diff(offset) == 1).all() else Ragged(ids[row], offset)}
    placed = next((name for name in ("location", *ACRONYMS) if name in table.colnames), "location")
    for name, source in (("group", "group_name"), ("location", placed)):
        if source in table.colnames:
            words = _as_values(table[source].data[:]).tolist()
            own = [[words[i] for i in rows] for rows in np.split(row, offset[1:-1])]
            texts = [",".join(sorted(set(w), key=w.index)) for w in own]
            columns[name] = np.array(texts, dtype=np.str_)
    return columns


def _merged(pairs_ns: np.ndarray) -> list[tuple[int, int]]:
    """Sorted disjoint intervals; what overlaps or touches is one."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted((int(a), int(b)) for a, b in pairs_ns if b > a):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _compare_observed(session: Session, units, out: Verification) -> None:
    n_units, pairs = len(units.id), []
    if "obs_intervals" in units.colnames:
        for row in range(n_units):
            seconds = np.asarray(units["obs_intervals"][row], dtype=np.float64).reshape(-1, 2)
            good = _is_time(seconds).all(axis=1)
            good &= seconds[:, 0] <= seconds[:, 1]
            pairs.append(_to_ns(seconds[good]))
    together = _merged(np.concatenate(pairs)) if pairs else []
    stored = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    if not together:
        out.expect("source of the observed time", session.observed_source, "assumed")
        out.expect("assumed observed time in ns", stored, [(session.start_ns, session.stop_ns)])
        return
    out.expect("source of the observed time", session.observed_source, "obs_intervals")
    out.expect("observed time in ns", stored, together)
    for row in range(n_units):
        own = _merged(pairs[row]) if len(pairs[row]) else together
        kept = stored
        if session.unit_observed is not None:
            kept = [(int(a), int(b)) for a, b in session.unit_observed[row]]
        out.expect(f"observed time in ns of unit row {row}", kept, own)


def _compare_counts(session: Session, found: _Found, out: Verification) -> None:
    """Spikes that the source has as counts of bins: so many of each unit at the bin's stamp, and nothing between."""
    data = np.asarray(found.item.data[:])
    seconds, (n_bins, n_units) = _series_seconds(found.item, len(data)), data.shape
    if seconds is None or seconds.size != n_bins or not out.expect("units", len(session.units), n_units):
        out.expect(f"{found.path}: time stamps", None if seconds is None else seconds.size, n_bins)
        return
    out.expect("unit ids", session.units.id.tolist(), [str(column) for column in range(n_units)])
    out.expect("source of the observed time", session.observed_source, "bins")
    start_ns = _to_ns(seconds)
    order = np.argsort(session.spikes.unit, kind="stable")
    stop = np.cumsum(np.bincount(session.spikes.unit, minlength=n_units))
    for column, stored in enumerate(np.split(session.spikes.time_ns[order], stop[:-1])):
        source = np.repeat(start_ns, data[:, column].astype(np.int64))
        if out.expect(f"{found.path}: spikes of channel {column}", stored.size, source.size):
            out.expect_array(f"{found.path}: spike times in ns of channel {column}", stored, source)
        out.n_units += 1
        out.n_spikes += source.size
    width_ns = int(np.rint(np.median(np.diff(start_ns))))
    there = _merged([(t, t + width_ns + width_ns // 2) for t in start_ns])  # half a bin more bridges uneven stamps
    there = [(start, stop - width_ns // 2) for start, stop in there]
    stored = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    out.expect("observed time in ns", stored, there)


def _compare_imaged(session: Session, series: list[_Found], raw: h5py.File, out: Verification) -> Session:
    """Units that are ROIs: their series (taken out of ``series``), columns and frames; returns the rest to compare."""
    signal = session.signals[IMAGED]
    out.expect("spikes of units that were imaged", len(session.spikes), 0)
    out.expect("components of the fluorescence", list(signal.components), session.units.id.tolist())
    n_units = len(session.units)
    rois = [s for s in series if "RoiResponseSeries" in _type_names(s.item) and np.ndim(s.item.data) == 2]
    rois = [s for s in rois if n_units in s.item.data.shape and n_units > 1]
    found = next((s for s in rois if "DfOverF" in _type_names(s.item.parent)), rois[0] if rois else None)
    if found is not None:
        series.remove(found)
        table, row = found.item.rois.table, np.asarray(found.item.rois.data[:]).astype(np.int64)
        out.expect("ids of the ROIs", session.units.id.tolist(), [str(table.id[r]) for r in row])
        _compare_signal(session, signal, found, _series_seconds(found.item, len(found.item.data)), out)
        place = raw[raw[f"{found.path}/rois"].attrs["table"]].name
        source = {name: c for name, c in _source_columns(table, raw, place) if not _is_wide(c, len(table.id))}
        expected = {name: _rows(c, row) for name, c in source.items()}
        _compare_columns("ROIs", session.units.columns, expected, out)
    else:
        _compare_neurons(session, signal, series, out)
    times = signal.time_ns[signal.valid]
    if times.size > 1:
        period = 1e9 / signal.rate_hz if signal.rate_hz else float(np.median(np.diff(signal.time_ns)))
        steps = np.flatnonzero(np.diff(times) > 1.5 * period)
        first, last = times[np.concatenate([[0], steps + 1])], times[np.concatenate([steps, [times.size - 1]])]
        out.expect_array("observed frames, starts in ns", session.observed.start_ns, first)
        out.expect_array("observed frames, stops in ns", session.observed.stop_ns, last + max(1, round(period)))
    out.n_units += n_units
    return replace(session, signals={name: s for name, s in session.signals.items() if name != IMAGED})


def _compare_neurons(session: Session, signal: Signal, series: list[_Found], out: Verification) -> None:
    """Fluorescence that the source has as one series a neuron, named as the unit."""
    groups = {s.parts[:-1] for s in series}
    names = session.units.id.tolist()
    own = [{s.parts[-1]: s for s in series if s.parts[:-1] == group} for group in sorted(groups)]
    own = [members for members in own if set(members) == set(names)]
    if not out.expect("groups of one series a unit", len(own[:1]), 1):
        return
    valid = np.ones(signal.valid.size, np.bool_)
    for column, name in enumerate(names):
        found = own[0][name]
        series.remove(found)
        value = _in_units(found.item, np.asarray(found.item.data[:]).reshape(-1)).astype(np.float32)
        seconds = _series_seconds(found.item, value.size)
        if seconds is not None and out.expect_array(f"{found.path}: times in ns", signal.time_ns, _to_ns(seconds)):
            valid &= np.isfinite(value)
            out.expect_array(f"{found.path}: values", signal.value[signal.valid, column], value[signal.valid])
            out.n_samples += value.size
    out.expect_array("valid frames", signal.valid, valid)
    out.n_signals += 1


# ---- columns --------------------------------------------------------------------------------------------------------


def _as_values(data: object) -> np.ndarray | None:
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


def _source_columns(table, raw: h5py.File, place: str) -> Iterator[tuple[str, Column]]:
    """The comparable columns of a table: those that pynwb shows, and those that it holds undeclared."""
    for name in table.colnames:
        column = table[name]
        target = getattr(column, "target", None)
        if target is not None and getattr(target, "target", None) is not None:
            continue  # rows of rows
        values = _as_values((column if target is None else target).data[:])
        if values is not None:
            ends = None if target is None else np.asarray(column.data[:]).astype(np.int64)
            yield name, values if ends is None else Ragged(values, np.concatenate([[0], ends]))
    index = {f"{name}_index" for name in table.colnames} | {f"{name}_index_index" for name in table.colnames}
    for name in sorted(set(raw[place]) - set(table.colnames) - index - {"id"}):
        item = raw[place][name]
        if isinstance(item, h5py.Dataset) and item.shape == (len(table.id),):
            values = _as_values(item[()])
            if values is not None:
                yield name, values


def _compare_columns(place: str, stored: Iterable[str], expected: dict[str, Column], out: Verification) -> None:
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


# ---- what the file holds --------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """An object of the source with its path, as ``("processing", "behavior", "Position", "cursor")``."""

    parts: tuple[str, ...]
    item: object
    is_event: bool = False

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    def names(self) -> list[str]:
        """Under what names the session may have it, the shortest first."""
        return list(dict.fromkeys([self.parts[-1], ".".join(self.parts[-2:]), ".".join(self.parts)]))


def _type_names(item: object) -> set[str]:
    return {kind.__name__ for kind in type(item).__mro__}


def _walk_file(nwb) -> tuple[list[_Found], list[_Found]]:
    """All interval tables and all series, of the places that a session is made from."""
    from hdmf.common import DynamicTable
    from pynwb import TimeSeries
    from pynwb.epoch import TimeIntervals

    main = [nwb.trials, nwb.epochs, nwb.invalid_times, *(nwb.intervals or {}).values()]
    tables = {table.name: _Found(("intervals", table.name), table) for table in main if table is not None}
    events = [_Found(("events", table.name), table) for table in (getattr(nwb, "events", None) or {}).values()]
    below, series = [], []

    def walk(item: object, parts: tuple[str, ...], in_events: bool) -> None:
        kinds = _type_names(item)
        is_event = in_events or bool(kinds & set(EVENTS))
        if isinstance(item, TimeIntervals) or (isinstance(item, DynamicTable) and "timestamp" in item.colnames):
            below.append(_Found(parts, item))
        elif isinstance(item, TimeSeries) or hasattr(item, "timestamps"):
            if not kinds & set(NOT_TAKEN):
                series.append(_Found(parts, item, is_event))
        elif not isinstance(item, DynamicTable):
            for child in item.children:
                walk(child, (*parts, child.name), is_event)

    for module in nwb.processing.values():
        for item in module.data_interfaces.values():
            walk(item, ("processing", module.name, item.name), False)
    for item in nwb.acquisition.values():
        walk(item, ("acquisition", item.name), False)
    for item in nwb.analysis.values():
        walk(item, ("analysis", item.name), False)
    for item in nwb.stimulus.values():
        walk(item, ("stimulus", "presentation", item.name), False)
    return [*tables.values(), *events, *below], series


def _pick(found: _Found, candidates: Iterable[str], matched: set[str]) -> str | None:
    free = [name for name in found.names() if name in candidates and name not in matched]
    return free[-1] if free else None


# ---- interval tables ------------------------------------------------------------------------------------------------


def _compare_tables(session: Session, tables: list[_Found], raw: h5py.File, out: Verification) -> set[str]:
    matched: set[str] = set()
    for found in tables:
        name = _pick(found, session.intervals, matched)
        if name is None:
            out.differences.append(f"{found.path}: missing in the session, {len(found.item.id)} rows in the source")
            continue
        matched.add(name)
        _compare_table(session, session.intervals[name], found, raw, out)
        out.n_tables += 1
    return matched


def _table_seconds(table) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops; an event lasts for its duration, or no time at all where it has none."""
    columns = {
        name: np.asarray(table[name].data[:], dtype=np.float64)
        for name in ("start_time", "stop_time", "timestamp", "duration")
        if name in table.colnames and (name != "duration" or "timestamp" in table.colnames)
    }
    if "start_time" in columns:
        return columns["start_time"], columns.get("stop_time", np.full(len(table.id), np.nan))
    start_s = columns["timestamp"]
    lasts_s = columns.get("duration", np.zeros(start_s.size))
    return start_s, np.where(np.isfinite(lasts_s) & (lasts_s > 0), start_s + lasts_s, start_s)


def _compare_table(session: Session, stored: Intervals, found: _Found, raw: h5py.File, out: Verification) -> None:
    table = found.item
    start_s, stop_s = _table_seconds(table)
    keep = _is_time(start_s)
    out.expect(
        f"{found.path}: rows without a start", _stated_in(session, "interval-start-missing", found), (~keep).sum()
    )
    start, stop_s = _to_ns(start_s[keep]), stop_s[keep]
    if not out.expect(f"{found.path}: rows", len(stored), start.size):
        return
    out.expect_array(f"{found.path}: starts in ns", stored.start_ns, start)
    known = _is_time(stop_s)
    stop = _to_ns(np.where(known, stop_s, 0))
    good = known & (stop >= start)
    for row in np.flatnonzero(~good):  # the rule: the next start; after the last one, the session's end
        later = start[start > start[row]]
        stop[row] = later.min() if later.size else max(session.stop_ns, int(start[row]))
    out.expect_array(f"{found.path}: stops in ns", stored.stop_ns, stop)
    out.expect(f"{found.path}: missing stops", _stated_in(session, "interval-stop-missing", found), (~known).sum())
    early = (known & ~good).sum()
    out.expect(f"{found.path}: stops before starts", _stated_in(session, "interval-stop-before-start", found), early)
    expected = {"id": np.asarray(table.id[:]).astype(np.int64)[keep]}
    for name, column in _source_columns(table, raw, found.path):
        if name not in ("start_time", "stop_time", "timestamp"):
            expected[name] = _rows(column, keep)
    if not good.all():
        expected["stop_repaired"] = ~good
    _compare_columns(found.path, stored.columns, expected, out)
    out.n_intervals += start.size


def _stated_in(session: Session, finding: str, found: _Found) -> int:
    return _stated(session, finding, f"{found.path}:")


def _rows(column: Column, keep: np.ndarray) -> Column:
    if not isinstance(column, Ragged):
        return column[keep]
    rows = [column[row] for row in (np.flatnonzero(keep) if keep.dtype == np.bool_ else keep)]
    value = np.concatenate(rows) if rows else column.value[:0]
    return Ragged(value, np.cumsum([0, *(len(row) for row in rows)]))


def _compare_splits(session: Session, nwb, out: Verification) -> None:
    trials = session.intervals.get("trials")
    words = None
    if nwb.trials is not None and "split" in nwb.trials.colnames and trials is not None:
        words = _as_values(nwb.trials["split"].data[:])
    if words is not None and words.dtype.kind == "U" and words.ndim == 1:
        words = words[_is_time(np.asarray(nwb.trials["start_time"].data[:], dtype=np.float64))]
    else:
        words = np.zeros(0, np.str_)
    if words.size and words.size != len(trials):
        return  # the tables differ already
    names = session.splits.columns.get("name", np.zeros(0, np.str_))
    for name, known in SPLIT_WORDS.items():
        rows = [row for row, word in enumerate(words.tolist()) if word.strip().lower() in known]
        source = _merged([(trials.start_ns[row], trials.stop_ns[row]) for row in rows])
        own = np.flatnonzero(names == name)
        stored = [(int(session.splits.start_ns[row]), int(session.splits.stop_ns[row])) for row in own]
        out.expect(f"split '{name}' in ns", stored, source)


# ---- series ---------------------------------------------------------------------------------------------------------


def _series_seconds(item, n_samples: int) -> np.ndarray | None:
    """The seconds of a series' samples; None where it states neither stamps nor a rate."""
    stamps = getattr(item, "timestamps", None)
    if stamps is not None:
        return np.asarray(stamps[:], dtype=np.float64)
    rate_hz = getattr(item, "rate", None)
    if rate_hz is None or not 0 < rate_hz < 1e9:
        return None
    return (item.starting_time or 0.0) + np.arange(n_samples) / rate_hz


def _in_units(item, values: np.ndarray) -> np.ndarray:
    """``data * conversion * channel_conversion + offset``; a conversion that is NaN or zero counts as 1."""
    conversion, offset = getattr(item, "conversion", 1.0), getattr(item, "offset", 0.0)
    scale = 1.0 if conversion is None or not np.isfinite(conversion) or conversion == 0 else float(conversion)
    channel = getattr(item, "channel_conversion", None)
    if channel is not None:
        scale = scale * np.asarray(channel[:], dtype=np.float64)
    shift = float(offset) if offset is not None and np.isfinite(offset) else 0.0
    return values.astype(np.float64) * scale + shift


def _in_reach(session: Session, time_ns: np.ndarray) -> np.ndarray:
    return (time_ns >= session.start_ns - DAY_NS) & (time_ns <= session.stop_ns + DAY_NS)


def _compare_events(session: Session, series: list[_Found], out: Verification) -> set[str]:
    matched: set[str] = set()
    for found in series:
        data = getattr(found.item, "data", None)
        values = None if data is None else _as_values(data[:])
        seconds = _series_seconds(found.item, 0 if values is None else len(values))
        if seconds is None:
            continue
        if values is not None:
            shorter = min(len(values), seconds.size)
            values, seconds = values[:shorter], seconds[:shorter]
            if values.dtype.kind in "if" and getattr(found.item, "conversion", 1.0) not in (None, 1.0):
                values = _in_units(found.item, values)
        keep = _is_time(seconds)
        time_ns = _to_ns(np.where(keep, seconds, 0))
        keep &= _in_reach(session, time_ns)
        name = _pick(found, session.intervals, matched)
        if name is None:
            out.differences.append(f"{found.path}: missing in the session, {seconds.size} events in the source")
            continue
        matched.add(name)
        stored = session.intervals[name]
        out.expect_array(f"{found.path}: times in ns", stored.start_ns, time_ns[keep])
        out.expect_array(f"{found.path}: stops in ns", stored.stop_ns, time_ns[keep])
        out.expect(f"{found.path}: events dropped", _stated_in(session, "signal-times", found), (~keep).sum())
        _compare_columns(found.path, stored.columns, {} if values is None else {"value": values[keep]}, out)
        out.n_tables += 1
        out.n_intervals += len(stored)
    return matched


def _is_imaged(series: object) -> bool:
    """Whether a series has a component for each unit, and no limit to how many."""
    return "RoiResponseSeries" in _type_names(series)


def _is_turned(series: object, shape: tuple[int, ...], n_samples: int) -> bool:
    """Whether a series stands components first: its second dimension fits its times, and its first is narrow."""
    fits = len(shape) == 2 and shape[0] != n_samples == shape[1]
    return fits and (shape[0] <= MOST_COMPONENTS or _is_imaged(series))


def _is_signal(series: object, data: object, seconds: np.ndarray | None, session: Session) -> bool:
    """Whether a series has what makes a signal: numbers in few columns, with a time."""
    shape, kind = np.shape(data), np.asarray(data[:0]).dtype.kind
    imaged = _is_imaged(series)
    if kind not in "biuf" or len(shape) not in (1, 2) or 0 in shape or seconds is None:
        return False
    if np.prod(shape) > MOST_VALUES and not imaged:
        return False
    turned = _is_turned(series, shape, seconds.size)
    width = 1 if len(shape) == 1 else shape[0] if turned else shape[1]
    good = _is_time(seconds)
    return (imaged or width <= MOST_COMPONENTS) and bool(_in_reach(session, _to_ns(seconds[good])).any())


def _compare_signals(session: Session, series: list[_Found], out: Verification) -> None:
    matched: set[str] = set()
    for found in series:
        data = getattr(found.item, "data", None)
        if data is None:
            continue
        seconds = _series_seconds(found.item, len(data))
        name = _pick(found, session.signals, matched)
        if name is None:
            if _is_signal(found.item, data, seconds, session):
                out.differences.append(f"{found.path}: missing in the session, {len(data)} samples in the source")
            continue
        if seconds is None:
            out.differences.append(
                f"{found.path}: {session.signals[name].time_ns.size} samples, no times in the source"
            )
            continue
        matched.add(name)
        _compare_signal(session, session.signals[name], found, seconds, out)
    for name in sorted(set(session.signals) - matched):
        out.differences.append(f"signal '{name}': {len(session.signals[name].time_ns)} samples, none in the source")


def _compare_signal(session: Session, signal: Signal, found: _Found, seconds: np.ndarray, out: Verification) -> None:
    item, raw = found.item, np.asarray(found.item.data[:])
    if item.rate is None and _is_turned(item, raw.shape, seconds.size):
        raw = raw.T  # components first
    shorter = min(len(raw), seconds.size)
    cut = abs(len(raw) - seconds.size)
    out.expect(f"{found.path}: samples cut", _stated(session, "signal-length", f"{found.path} "), cut)
    out.expect(f"{found.path}: measure", signal.measure, item.unit or "")
    out.expect(f"{found.path}: rate in Hz", signal.rate_hz, item.rate)
    seconds, raw = seconds[:shorter], raw[:shorter]
    time_ns = _to_ns(np.where(_is_time(seconds), seconds, 0))
    rows = _kept_rows(session, signal, found, seconds, time_ns, out)
    if rows is None:
        return
    n_dropped = shorter - rows.size
    out.expect(f"{found.path}: samples dropped", _stated_in(session, "signal-times", found), n_dropped)
    with np.errstate(over="ignore"):
        value = _in_units(item, raw[rows]).reshape(rows.size, -1).astype(np.float32)
    finite = np.isfinite(value)
    out.expect_array(f"{found.path}: valid", signal.valid, finite.all(axis=1))
    out.expect_array(f"{found.path}: values", signal.value, np.where(finite, value, np.float32(0)))
    out.n_signals += 1
    out.n_samples += rows.size


def _kept_rows(
    session: Session, signal: Signal, found: _Found, seconds: np.ndarray, time_ns: np.ndarray, out: Verification
) -> np.ndarray | None:
    """The rows of the source that a signal's samples are, or None with a difference noted.

    A row may be missing only where it has no time, a time far outside the recording (stamps only), or one that does not
    lie between those of the rows that are kept before and after it.
    """
    if np.array_equal(signal.time_ns, time_ns) and _is_time(seconds).all():
        return np.arange(seconds.size)
    usable = _is_time(seconds)
    if found.item.rate is None:
        usable &= _in_reach(session, time_ns)
    rows, row = [], 0
    source = time_ns.tolist()
    for stored in signal.time_ns.tolist():
        while row < len(source) and not (usable[row] and source[row] == stored):
            row += 1
        if row == len(source):
            out.differences.append(
                f"{found.path}: a sample at {stored} ns in the session, none in the source (in order)"
            )
            return None
        rows.append(row)
        row += 1
    kept = np.array(rows, np.int64)
    after = np.searchsorted(kept, np.arange(len(source)), side="left")
    low = np.concatenate([[np.iinfo(np.int64).min], time_ns[kept]])[after]
    high = np.concatenate([time_ns[kept], [np.iinfo(np.int64).max]])[after]
    needless = usable & (time_ns > low) & (time_ns < high)
    needless[kept] = False
    if needless.any():
        first = int(np.flatnonzero(needless)[0])
        out.differences.append(
            f"{found.path}: {int(needless.sum())} usable samples are missing in the session, "
            f"the first is row {first} at {time_ns[first]} ns in the source"
        )
        return None
    return kept
