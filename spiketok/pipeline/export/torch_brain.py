"""A session as torch_brain 0.2 keeps it: one HDF5 file that its ``Data.from_hdf5`` and ``Dataset`` open.

    brainset, subject, session    Data: attributes only
    units                         ArrayDict: id, and every plain column
    spikes                        IrregularTimeSeries: timestamps (s), unit_index
    <signal>                      IrregularTimeSeries: timestamps, value [T, C] (NaN where not valid)
    trials, <table>               Interval: start, end, and every plain column
    domain, observed, train_domain, valid_domain, test_domain ...    Interval
    spiketok                      Data: the rest of the session, see ``sources.formats.torch_brain_own``

The layout is torch_brain's own: each group says its class in the attribute ``object``, texts are fixed-length ASCII and
are named in ``_unicode_keys``, times are float64 seconds and are named in ``timekeys``, and a time series has the row
of each whole second of its domain in ``timestamp_indices_1s``. It is written with h5py; torch_brain is not imported.

What is unusual: ``domain`` is the observed time, from which its samplers draw; the domain of the spikes is the whole
session, because torch_brain's lazy slices lose what is before a domain's start. Time columns of tables are those
whose name ends in ``_time``: they move with a slice, as start and end do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spiketok import __version__
from spiketok.errors import DataError
from spiketok.pipeline.export.base import Exporter, origin_text
from spiketok.recording.nouns import NS_PER_S, Intervals, Ragged, Session, Signal
from spiketok.sources.formats.torch_brain_own import OWN as OWN_GROUP
from spiketok.sources.formats.torch_brain_own import facts_of
from spiketok.storage.hdf5 import writing_hdf5

if TYPE_CHECKING:
    import h5py

TIME_SUFFIX = "_time"
DAY_NS = 24 * 3600 * NS_PER_S
MOST_SECONDS = 10**7  # 115 days: the layout has a row for each second
OWN = frozenset({"brainset", "subject", "session", "units", "spikes", "domain", "observed", "file", OWN_GROUP})


def write_torch_brain(session: Session, digest: str, path: Path) -> list[str]:
    """Write a session in torch_brain's layout.

    Args:
        session: what to write. digest: of the store, for the description.
        path: the file.

    Returns:
        what the layout could not take as it is, one sentence each.

    Raises:
        DataError: the session is longer than its layout can be.
    """

    if session.stop_ns - session.start_ns > MOST_SECONDS * NS_PER_S:
        message = (
            f"{session.id}: it lasts {(session.stop_ns - session.start_ns) / NS_PER_S:.0f} s, and torch_brain's layout "
            f"has a row for each second: at most {MOST_SECONDS} s are written"
        )
        raise DataError(message)
    remarks: list[str] = []
    with writing_hdf5(path) as file:
        file.attrs["object"] = "Data"
        file.attrs["absolute_start"] = 0.0
        _write_descriptions(file, session, digest)
        units = {"id": session.units.id, **{k: c for k, c in session.units.columns.items() if k != "id"}}
        _write_array_dict(file.create_group("units"), units, "units", remarks)
        remarks += [f"stimulus '{name}' is not written: take it from the session's source" for name in session.stimuli]
        spikes = session.spikes
        whole = Intervals([session.start_ns], [session.stop_ns])
        columns = {"unit_index": spikes.unit.astype(np.int64)}
        _write_series(file.create_group("spikes"), spikes.time_ns, columns, whole, remarks)
        observed = session.observed if len(session.observed) else whole
        _write_interval(file.create_group("domain"), observed.union(), "domain", remarks)
        _write_interval(file.create_group("observed"), session.observed.union(), "observed", remarks)
        taken = set(OWN)
        keys: dict[str, dict[str, str]] = {"domains": {}, "tables": {}, "signals": {}}

        def new_key(kind: str, name: str) -> str:
            key = _key(name, taken, remarks)
            keys[kind][key] = name
            return key

        for name, split in _domains(session.splits).items():
            _write_interval(file.create_group(new_key("domains", name)), split, name, remarks)
        for name, table in session.intervals.items():
            _write_interval(file.create_group(new_key("tables", name)), table, f"table '{name}'", remarks)
        near = {name: _near(session, name, signal, remarks) for name, signal in session.signals.items()}
        for name, signal in near.items():
            _write_signal(file, new_key("signals", name), name, signal, remarks)
        _write_own(_new_data(file, OWN_GROUP), replace(session, signals=near), keys)
    return list(dict.fromkeys(remarks))


def _origin(file: h5py.File) -> str:
    return str(file["brainset"].attrs["description"])


EXPORTER = Exporter(
    "torch_brain", ".h5", "torch_brain 0.2 (temporaldata), an HDF5 file a session", write_torch_brain, _origin
)


def _seconds(time_ns: np.ndarray, place: str, remarks: list[str]) -> np.ndarray:
    """Nanoseconds as float64 seconds, with a remark where they do not come back from them."""
    time_ns = np.asarray(time_ns, np.int64)
    seconds = time_ns / NS_PER_S
    lost = int((np.rint(seconds * NS_PER_S).astype(np.int64) != time_ns).sum())
    if lost:
        remarks.append(f"{place}: {lost} times are too far from zero to be float64 seconds to the nanosecond")
    return seconds


def _key(name: str, taken: set[str], remarks: list[str]) -> str:
    """A name as an attribute of Python, which torch_brain makes of it; another where it is taken."""
    key = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name).lstrip("_")
    key = key if key[:1].isalpha() else f"x_{key}"  # neither a digit first, nor torch_brain's mark of private parts
    while key in taken:
        key += "_"
    taken.add(key)
    if key != name:
        remarks.append(f"'{name}' is written as '{key}'")
    return key


# ---- descriptions ---------------------------------------------------------------------------------------------------


def _write_descriptions(file: h5py.File, session: Session, digest: str) -> None:
    source, info = session.source, session.info
    place = f"dandi/{source.dandiset}/{source.version}" if source.dandiset else f"sha256 {source.sha256}"
    started = source.session_start or info.get("session_start_time", "")
    facts: dict[str, dict[str, object]] = {
        "brainset": {
            "id": session.dataset,
            "origin_version": place,
            "derived_version": f"spiketok {__version__}, {digest}",
            "source": source.citation or source.file,
            "description": origin_text(session, digest),
            "license": source.license,
        },
        "subject": {"id": session.subject or "unknown", "species": info.get("species"), "sex": info.get("sex")},
        "session": {"id": session.name, "recording_date": _recording_date(started)},
    }
    for name, own in facts.items():
        group = _new_data(file, name)
        for key, value in own.items():
            if value:
                group.attrs[key] = value


def _new_data(place: h5py.Group, name: str) -> h5py.Group:
    group = place.create_group(name)
    group.attrs["object"] = "Data"
    group.attrs["absolute_start"] = 0.0
    return group


def _recording_date(text: str) -> str:
    """The start as torch_brain writes one: Python's own text of a datetime; empty where there is none."""
    try:
        return str(datetime.fromisoformat(text))
    except ValueError:
        return ""


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _write_columns(
    group: h5py.Group, columns: Mapping[str, object], place: str, remarks: list[str]
) -> list[tuple[str, str]]:
    """Plain columns as datasets; returns each column's name and its key. Ragged ones are left out, with a remark."""
    written, texts, taken = [], [], set(group)
    for name, column in columns.items():
        if isinstance(column, Ragged):
            remarks.append(f"{place}: column '{name}' has rows of unequal length, which torch_brain has not: left out")
            continue
        values, key = np.asarray(column), _key(name, taken, remarks)
        if values.dtype.kind == "U":
            plain = np.char.encode(values, "ascii", "backslashreplace") if values.size else values.astype("S1")
            lost = sum(not text.isascii() for text in values.reshape(-1).tolist())
            if lost:
                remarks.append(f"{place}: {lost} texts of column '{name}' are not ASCII: other letters are escaped")
            values = plain.astype(f"S{max(1, plain.dtype.itemsize, values.dtype.itemsize // 4)}")
            texts.append(key)
        group.create_dataset(key, data=values)
        written.append((name, key))
    group.attrs["_unicode_keys"] = np.array(texts, dtype="S")
    return written


def _write_array_dict(group: h5py.Group, columns: Mapping[str, object], place: str, remarks: list[str]) -> None:
    group.attrs["object"] = "ArrayDict"
    _write_columns(group, columns, place, remarks)


def _write_interval(group: h5py.Group, table: Intervals, place: str, remarks: list[str]) -> None:
    group.attrs["object"] = "Interval"
    start, stop, columns = table.start_ns, table.stop_ns, dict(table.columns)
    order = np.lexsort((stop, start))
    if (np.diff(order) != 1).any():
        remarks.append(f"{place}: its rows are put in order of time, as torch_brain wants them")
        columns = {k: c if isinstance(c, Ragged) else np.asarray(c)[order] for k, c in columns.items()}
        start, stop = start[order], stop[order]
    if (np.diff(stop) < 0).any():
        remarks.append(f"{place}: some rows lie inside others, and torch_brain's slices may miss them")
    group.create_dataset("start", data=_seconds(start, place, remarks))
    group.create_dataset("end", data=_seconds(stop, place, remarks))
    written = _write_columns(group, columns, place, remarks)
    times = [
        key
        for name, key in written
        if name.endswith(TIME_SUFFIX) and np.asarray(columns[name]).dtype.kind == "f" and group[key].ndim == 1
    ]
    group.attrs["timekeys"] = np.array(["start", "end", *times], dtype="S")


def _write_series(
    group: h5py.Group, time_ns: np.ndarray, columns: Mapping[str, np.ndarray], domain: Intervals, remarks: list[str]
) -> None:
    """An IrregularTimeSeries; its times rise, as torch_brain finds windows by bisection."""
    group.attrs["object"] = "IrregularTimeSeries"
    seconds = _seconds(time_ns, f"series '{(group.name or '').strip('/')}'", remarks)
    group.create_dataset("timestamps", data=seconds)
    for name, values in columns.items():
        group.create_dataset(name, data=values)
    first, last = domain.start_ns[0] / NS_PER_S, domain.stop_ns[-1] / NS_PER_S
    grid = np.arange(first, last + 1.0, 1.0)
    group.create_dataset("timestamp_indices_1s", data=np.searchsorted(seconds, grid))
    _write_interval(group.create_group("domain"), domain, "domain", [])
    group.attrs["_unicode_keys"] = np.array([], dtype="S")
    group.attrs["timekeys"] = np.array(["timestamps"], dtype="S")


def _near(session: Session, name: str, signal: Signal, remarks: list[str]) -> Signal:
    """A signal without the samples over a day outside of the session."""
    keep = (signal.time_ns >= session.start_ns - DAY_NS) & (signal.time_ns < session.stop_ns + DAY_NS)
    lost = int((~keep).sum())
    if not lost:
        return signal
    remarks.append(f"signal '{name}': {lost} of {keep.size} samples lie over a day outside of the session: left out")
    return replace(signal, time_ns=signal.time_ns[keep], value=signal.value[keep], valid=signal.valid[keep])


def _write_signal(file: h5py.File, key: str, name: str, signal: Signal, remarks: list[str]) -> None:
    """A signal; what torch_brain has no place for (measure, names of components) is in attributes of its group."""
    if not len(signal.time_ns):
        remarks.append(f"signal '{name}' has no sample: left out")
        return
    group = file.create_group(key)
    value = np.where(signal.valid[:, None], signal.value, np.float32(np.nan))
    domain = Intervals(signal.time_ns[:1], signal.time_ns[-1:] + 1)
    _write_series(group, signal.time_ns, {"value": value}, domain, remarks)
    group.attrs["measure"] = signal.measure
    group.attrs["components"] = ",".join(signal.components)


# ---- the rest of the session ----------------------------------------------------------------------------------------


def _write_own(group: h5py.Group, session: Session, keys: Mapping[str, Mapping[str, str]]) -> None:
    """What torch_brain's own groups do not hold, so that ``spiketok ingest`` makes the same session of the file."""
    text = json.dumps(facts_of(session, keys), sort_keys=True).encode()
    group.create_dataset("session", data=np.frombuffer(text, np.uint8))
    plain = {name: column for name, column in session.splits.columns.items() if not isinstance(column, Ragged)}
    edges = {"start_ns": session.splits.start_ns, "stop_ns": session.splits.stop_ns}
    _write_array_dict(group.create_group("splits"), {**edges, **plain}, "splits", [])
    if session.unit_observed is not None:
        offset, span = session.unit_observed.offset, np.asarray(session.unit_observed.value).reshape(-1, 2)
        unit = np.repeat(np.arange(len(offset) - 1), np.diff(offset))
        columns = {"unit": unit, "start_ns": span[:, 0], "stop_ns": span[:, 1]}
        _write_array_dict(group.create_group("unit_observed"), columns, "unit_observed", [])
    below = _new_data(group, "unmeasured")
    for key, name in keys["signals"].items():
        signal = session.signals[name]
        row = np.flatnonzero(~signal.valid)
        value = signal.value[row]
        if ((value != 0) | np.signbit(value)).any():  # zero is what stands there without
            _write_array_dict(below.create_group(key), {"row": row, "value": value}, key, [])


# ---- splits ---------------------------------------------------------------------------------------------------------


def _domains(splits: Intervals) -> dict[str, Intervals]:
    """``train_domain`` ... of the source's division; with the division's name before it, those of every other."""
    if not len(splits):
        return {}
    names = np.asarray(splits.columns["name"])
    sets = np.asarray(splits.columns["set"]) if "set" in splits.columns else np.full(len(splits), "source")
    made = {}
    kinds = sorted(set(sets.tolist()))
    for one in kinds:
        prefix = "" if one == "source" or len(kinds) == 1 else f"{one}_"
        for name in sorted(set(names[sets == one].tolist())):
            made[f"{prefix}{name}_domain"] = splits.take((sets == one) & (names == name)).union()
    return made
