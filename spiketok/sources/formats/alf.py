"""A folder of ALF files, as the International Brain Laboratory's ONE keeps a session: ``object.attribute.npy``.

    alf/probe00/pykilosort/spikes.times.npy, spikes.clusters.npy, clusters.*      units, one probe or several
    alf/_ibl_trials.intervals.npy, _ibl_trials.*; or _ibl_trials.table.pqt        tables of intervals
    alf/_ibl_wheel.position.npy, _ibl_wheel.timestamps.npy; _ibl_leftCamera.*     signals

What is unusual: spikeinterface's reader takes ``spikes.samples``, which are on each probe's own clock, needs ONE-api
and knows no behaviour; so arrays are read by numpy, and times are those that were brought to the session's clock. All
is laid out as NWB and read as that (see ``as_nwb``): the same findings and the same checks of clocks. Of a file that
was revised (``#2024-05-06#``) the last revision is taken.

An object with ``intervals`` is a table. One with ``timestamps``, or a camera with ``times``, is a signal for each of
its other attributes. Any other with ``times`` is a table of events. What is none of these is left out and listed.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import Finding, Session, Source
from spiketok.sources.formats.as_nwb import put_series, put_table, put_texts, put_units, read_as_nwb
from spiketok.sources.formats.nwb.hdf5 import read_memory
from spiketok.sources.formats.nwb.tables import listed
from spiketok.sources.formats.plain import npy_header, read_npy, read_table

SUFFIXES = (".npy", ".csv", ".tsv", ".pqt")  # the first one is taken where an attribute is there twice
NAME = re.compile(r"(?:_[a-zA-Z0-9]+_)?([A-Za-z][A-Za-z0-9]*)\.([A-Za-z_][A-Za-z0-9_]*)")
SESSION = re.compile(r"([^/]+)/(\d{4}-\d{2}-\d{2})/(\d{3})(?:/alf)?")  # subject, date, number
REVISION = re.compile(r"#.*#")
PROBE, CLUSTER_ID = "probe", "cluster_id"
OF_UNITS = frozenset({"spikes", "clusters", "channels", "templates", "waveforms", "electrodeSites", "probes", "drift"})
SORTINGS = ("iblsorter", "pykilosort", "")  # of several of one probe the first that is there
REGIONS = ("brainLocationAcronyms_ccf_2017", "acronym", "brainAcronyms")
MOST_VALUES = 16  # an attribute with more values a cluster is a waveform or the like
# names that the layout has for itself
TAKEN = ("id", "start_time", "stop_time", "timestamp", "duration", "spike_times", "spike_times_index", "obs_intervals",
         "electrodes", "electrode_group")  # fmt: skip


def parts_of(path: str) -> tuple[str, str, str] | None:
    """Subject, date and number of a session's folder, as ONE names it; None for another folder.

    >>> parts_of("/data/lab/Subjects/NYU-12/2020-01-22/001/alf")
    ('NYU-12', '2020-01-22', '001')
    """
    found = SESSION.search(path.rstrip("/"))
    return found.groups() if found and found.end() == len(path.rstrip("/")) else None


@dataclass
class _Folder:
    """A folder that is read: its files by collection, object and attribute, and what is to be said of it."""

    name: str
    memory_bytes: int
    files: dict[tuple[str, ...], dict[str, dict[str, Path]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def refuse(self, fact: str, remedy: str = "copy it again") -> NoReturn:
        message = f"{self.name}: {fact}: {remedy}"
        raise SourceError(message)

    def array(self, path: Path) -> np.ndarray:
        return read_npy(path, f"{self.name}: {path.name}")

    def table(self, path: Path) -> dict[str, np.ndarray]:
        return read_table(path, f"{self.name}: {path.name}", self.memory_bytes)

    def note(self, name: str, count: int, text: str) -> None:
        if count:
            self.notes.append(Finding(name, count, text))


def read_alf(folder: Path, session_id: str, source: Source, time_unit: Mapping[str, str] | None = None) -> Session:
    """Read a session's folder of ALF files.

    Args:
        folder: the session's, its ``alf``, or one probe's.
        session_id: ``"<dataset>/<session>"``. source: where it came from.
        time_unit: what its times are where they are no seconds, as of ``read_nwb``.

    Returns:
        all clusters of all probes with their columns, and all behaviours that were found.

    Raises:
        SourceError: it holds no spikes, or several sessions, or files that do not fit each other.
        MissingExtraError: a table is parquet, and pyarrow is not installed.
    """
    found = _Folder(folder.name, read_memory(source.size))
    _list(_base(folder), found)
    units = _joined({label: _probe(found, label, held) for label, held in _sortings(found).items()})
    named = parts_of(folder.resolve().as_posix())

    def fill(file: h5py.File) -> None:
        put_units(file, units.ids, (units.seconds, units.row), units.columns)
        for collection, held in sorted(found.files.items()):
            of_probe = bool(collection) and (collection[0].startswith(PROBE) or "spikes" in held)
            for name, files in sorted(held.items()):
                if of_probe or name in OF_UNITS:
                    _omit_unread(found, "/".join((*collection, name)), files)
                else:
                    _put_object(file, found, "_".join((*collection, name)), name, files)
        if named:
            put_texts(file, {"general/subject/subject_id": named[0], "session_start_time": named[1]})

    session = read_as_nwb(folder.name, session_id, source, fill, time_unit)
    found.note("files-left-out", len(found.left_out), f"left out of the folder: {listed(found.left_out, 20)}")
    facts = {"sorter": "alf"} | ({"session_start_time": named[1], "session_id": named[2]} if named else {})
    return replace(session, info=facts, notes=(*found.notes, *session.notes))


# ---- what is there --------------------------------------------------------------------------------------------------


def _base(folder: Path) -> Path:
    """The folder below which the files of the session lie."""
    if (folder / "alf").is_dir():
        return folder / "alf"
    below = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("alf") if path.is_dir())
    if below:
        message = f"{folder.name}: holds {len(below)} sessions ({listed(below, 3)}): give the folder of each"
        raise SourceError(message)
    return folder


def _list(base: Path, found: _Folder) -> None:
    """Find the files; of several revisions of one the last."""
    revision: dict[tuple, tuple[str, int]] = {}
    kept: dict[tuple, Path] = {}
    for path in sorted(base.rglob("*")):
        named = NAME.match(path.name)
        if path.suffix not in SUFFIXES or not named or not path.is_file():
            continue
        parts = path.relative_to(base).parts[:-1]
        collection = tuple(part for part in parts if not REVISION.fullmatch(part))
        rank = (max([part for part in parts if REVISION.fullmatch(part)], default=""), -SUFFIXES.index(path.suffix))
        key = (collection, *named.groups())
        if key not in kept or rank > revision[key]:
            kept[key], revision[key] = path, rank
    for (collection, name, attribute), path in kept.items():
        found.files.setdefault(collection, {}).setdefault(name, {})[attribute] = path
    revised = sorted({rank[0] for rank in revision.values()} - {""})
    count = sum(bool(rank[0]) for rank in revision.values())
    found.note("files-revised", count, f"{count} files are of a revision, the last of each is taken: {listed(revised)}")


def _omit_unread(found: _Folder, name: str, files: Mapping[str, Path]) -> None:
    """Say which files of units are not read."""
    all_ = tuple(files)
    read = {"spikes": ("times", "clusters"), "clusters": all_, "channels": all_}.get(name.rpartition("/")[2], ())
    found.left_out += [f"{name}.{attribute}" for attribute in files if attribute not in read]


def _sortings(found: _Folder) -> dict[str, dict[str, dict[str, Path]]]:
    """The objects of each probe's sorting, by the probe's name; several sortings of one are told."""
    probes: dict[str, dict[str, dict]] = {}
    for collection, held in sorted(found.files.items()):
        if "spikes" in held:
            probe = collection[:1] if collection[:1] and collection[0].startswith(PROBE) else ()
            rest = collection[len(probe) :]
            outer, inner = (rest[:-1], rest[-1]) if rest and rest[-1] in SORTINGS else (rest, "")
            label, inner = "/".join(probe or outer), "/".join(rest) if probe else inner
            above = found.files.get(collection[:1], {})  # channels lie beside the sortings in some
            probes.setdefault(label, {})[inner] = {"channels": above.get("channels", {})} | held
    if not probes:
        found.refuse("holds no spikes.times and spikes.clusters", "give the folder of a session, or its alf")
    chosen = {}
    for label, sortings in probes.items():
        first = next((name for name in SORTINGS if name in sortings), None)
        if first is None and len(sortings) > 1:
            found.refuse(f"{label} has {len(sortings)} sortings ({', '.join(sortings)})", "keep one of them there")
        first = next(iter(sortings)) if first is None else first
        chosen[label] = sortings[first]
        others = [name or "its own folder" for name in sortings if name != first]
        text = f"{label}: taken is {first or 'its own folder'}, left out: {', '.join(others)}"
        found.note("sortings-other", len(others), text)
    return chosen


# ---- units ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Units:
    """Units of a probe, or of all: str ids ``[N]``, columns ``[N]``, and spikes: seconds and row of unit, ``[S]``."""

    ids: np.ndarray
    columns: dict[str, np.ndarray]
    seconds: np.ndarray
    row: np.ndarray


def _probe(found: _Folder, label: str, held: Mapping[str, Mapping[str, Path]]) -> _Units:
    """The clusters of a probe and their spikes."""
    spikes = held["spikes"]
    missing = [f"spikes.{name}" for name in ("times", "clusters") if name not in spikes]
    if missing:
        also = f"; it has spikes.{', spikes.'.join(sorted(spikes))}"
        found.refuse(f"{label} holds no {' and no '.join(missing)}{also}", "they are needed: fetch them")
    seconds, cluster = (found.array(spikes[name]) for name in ("times", "clusters"))
    for name, array, kinds in (("times", seconds, "f"), ("clusters", cluster, "iuf")):
        if array.dtype.kind not in kinds or array.size != max(array.shape, default=0):
            what = "seconds" if name == "times" else "whole numbers"
            found.refuse(f"{spikes[name].name} is {array.dtype} of shape {array.shape}", f"it must hold {what}")
    seconds, cluster = seconds.reshape(-1), cluster.reshape(-1)
    if seconds.size != cluster.size:
        found.refuse(f"{label} has {seconds.size} spikes.times and {cluster.size} spikes.clusters")
    if (cluster.dtype.kind == "f" and not (cluster == np.rint(cluster)).all()) or (np.abs(cluster) >= 2.0**62).any():
        found.refuse(f"{spikes['clusters'].name} holds what is no number of a cluster", "it must hold whole numbers")
    cluster = cluster.astype(np.int64)
    columns, own = _cluster_columns(found, held)
    ids = np.union1d(np.unique(cluster), own)
    beyond = np.isin(ids, own, invert=True)
    if own.size:
        text = f"{int(beyond.sum())} clusters of {label or 'the folder'} have spikes and no row in clusters.*; kept"
        found.note("clusters-undescribed", int(beyond.sum()), text)
    columns = {name: _placed(values, rows, ids) for name, (rows, values) in columns.items()}
    region = next((columns[name] for name in REGIONS if name in columns and columns[name].dtype.kind == "U"), None)
    if region is not None and "region" not in columns:
        columns["region"] = region
    return _Units(ids.astype(np.str_), columns, seconds, np.searchsorted(ids, cluster))


def _cluster_columns(
    found: _Folder, held: Mapping[str, Mapping[str, Path]]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Columns by name, each with the clusters that it speaks of; and all of these clusters."""
    plain, by_id = {}, {}
    for attribute, path in sorted(held.get("clusters", {}).items()):
        if path.suffix == ".npy":
            shape, dtype = npy_header(path, f"{found.name}: {path.name}")
            if _is_column(shape, dtype):
                plain[attribute] = found.array(path)
            else:
                found.left_out.append(f"clusters.{attribute} ({dtype} of shape {shape})")
            continue
        table = found.table(path)
        key = table.get(CLUSTER_ID)
        usable = key is not None and key.dtype.kind in "iuf" and np.unique(key).size == key.size
        if usable and (np.abs(key) < 2**62).all() and (key == np.rint(key)).all():
            by_id |= {name: (key.astype(np.int64), column) for name, column in table.items() if name != CLUSTER_ID}
        else:
            plain |= table
    rows = {len(column) for column in plain.values()}
    if len(rows) > 1:
        told = listed([f"{name}: {len(column)}" for name, column in plain.items()])
        found.refuse(f"the files of clusters have different numbers of rows ({told})", "they are of several sortings")
    number = np.arange(max(rows, default=0))
    plain = _of_channels(found, held.get("channels", {}), plain.get("channels")) | plain
    columns = {name: (number, column) for name, column in plain.items()}
    columns = by_id | columns
    named = {name: pair for name, pair in columns.items() if _is_name(name, columns)}
    found.left_out += [f"clusters column {name!r}" for name in columns if name not in named]
    return named, np.unique(np.concatenate([number, *(key for key, _ in by_id.values())]))


def _of_channels(found: _Folder, files: Mapping[str, Path], channel: np.ndarray | None) -> dict[str, np.ndarray]:
    """What the channels' files say of the channel of each cluster, as columns of clusters."""
    if channel is None or channel.dtype.kind not in "iu" or channel.ndim != 1:
        return {}
    columns = {}
    for attribute, path in sorted(files.items()):
        if path.suffix == ".npy":
            read = {attribute: found.array(path)} if _is_column(*npy_header(path, f"{found.name}: {path.name}")) else {}
        else:
            read = found.table(path)
        for name, value in read.items():
            if channel.size and channel.min() >= 0 and channel.max() < len(value):
                columns[name] = value[channel]
            else:
                found.left_out.append(f"channels.{name} (it has no row of some clusters' channel)")
    return columns


def _is_column(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return len(shape) in (1, 2) and dtype.kind in "biufUS" and 0 < prod(shape[1:]) <= MOST_VALUES


def _is_name(name: str, others: Container[str]) -> bool:
    """Whether a column may be called so in the layout that is read."""
    index_of = name.endswith("_index") and name.removesuffix("_index") in others
    return name.isprintable() and "/" not in name and name not in ("", ".", "..", *TAKEN) and not index_of


def _placed(values: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The values of some clusters as a column of all; NaN or an empty text where nothing is said."""
    values = _texts(values)
    if rows.size == ids.size:
        return values[np.argsort(rows)]
    if values.dtype.kind == "U":
        out = np.full((ids.size, *values.shape[1:]), "", values.dtype)
    else:
        out = np.full((ids.size, *values.shape[1:]), np.nan)
    out[np.searchsorted(ids, rows)] = values
    return out


def _texts(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values, "utf-8", "backslashreplace") if values.dtype.kind == "S" else values


def _joined(probes: Mapping[str, _Units]) -> _Units:
    """The units of all probes, one after the other, called ``<probe>:<cluster>`` where there are several."""
    size = [unit.ids.size for unit in probes.values()]
    first = np.cumsum([0, *size])
    ids = [f"{label}:{one}" if len(probes) > 1 else one for label, unit in probes.items() for one in unit.ids.tolist()]
    columns = {}
    for name in dict.fromkeys(name for unit in probes.values() for name in unit.columns):
        parts = [unit.columns.get(name) for unit in probes.values()]
        is_text = any(part is not None and part.dtype.kind == "U" for part in parts)
        shape = max((part.shape[1:] for part in parts if part is not None), key=prod)
        filled = []
        for part, n in zip(parts, size, strict=True):
            if part is None or part.shape[1:] != shape:
                part = np.full((n, *shape), "" if is_text else np.nan)
            filled.append(part.astype(np.str_) if is_text else part)
        columns[name] = np.concatenate(filled)
    if any(probes):
        columns["probe"] = np.repeat(np.array(list(probes)), size)
    seconds = np.concatenate([unit.seconds for unit in probes.values()])
    row = np.concatenate([unit.row + low for unit, low in zip(probes.values(), first, strict=False)])
    return _Units(np.array(ids, np.str_), columns, seconds, row)


# ---- behaviours -----------------------------------------------------------------------------------------------------


def _put_object(file: h5py.File, found: _Folder, long_name: str, name: str, files: Mapping[str, Path]) -> None:
    """One object as a table, as events, or as signals; what is none of these is left out."""

    def free(place: str, own: str, longer: str) -> str:
        path = f"{place}/{own}"
        return path if path not in file else f"{place}/{longer}"

    arrays = {attribute: path for attribute, path in files.items() if path.suffix == ".npy"}
    clock = "timestamps" if "timestamps" in arrays else "times" if name.endswith("Camera") and "times" in arrays else ""
    if clock:
        stamps = found.array(files[clock])
        for attribute, path in sorted(files.items()):
            if attribute != clock:
                place = free("processing/behavior", f"{name}_{attribute}", f"{long_name}_{attribute}")
                _put_signal(file, found, place, stamps, path)
        return
    columns = _rows(found, files)
    if "intervals" in columns and columns["intervals"].ndim == 2 and columns["intervals"].shape[1] == 2:
        times = columns.pop("intervals")
        starts, stops = times[:, 0], times[:, 1]
    elif {"intervals_0", "intervals_1"} <= set(columns):
        starts, stops = columns.pop("intervals_0"), columns.pop("intervals_1")
    elif "times" in columns and columns["times"].ndim == 1:
        starts = columns.pop("times")
        stops = None
    else:
        found.left_out.append(f"{name} (it has neither intervals nor times)")
        return
    kept = {}
    for attribute, column in columns.items():
        if len(column) != len(starts):
            found.refuse(f"{name}.{attribute} has {len(column)} rows, its times have {len(starts)}")
        if _is_column(column.shape, column.dtype) and _is_name(attribute, columns):
            kept[attribute] = _texts(column)
        else:
            found.left_out.append(f"{name}.{attribute} ({column.dtype} of shape {column.shape})")
    timed = {"timestamp": starts} if stops is None else {"start_time": starts, "stop_time": stops}
    group = file.create_group(free("events" if stops is None else "intervals", name, long_name))
    put_table(group, np.arange(len(starts)), timed | kept)


def _rows(found: _Folder, files: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """The columns of an object: those of its tables, and its arrays where no table has them."""
    columns: dict[str, np.ndarray] = {}
    for attribute, path in sorted(files.items(), key=lambda pair: (pair[1].suffix == ".npy", pair[0])):
        read = {attribute: found.array(path)} if path.suffix == ".npy" else found.table(path)
        columns |= {name: column for name, column in read.items() if name not in columns}
    return columns


def _put_signal(file: h5py.File, found: _Folder, place: str, stamps: np.ndarray, path: Path) -> None:
    """An attribute as a series: an array, or the columns of numbers of a table."""
    components: list[str] = []
    if path.suffix == ".npy":
        data = found.array(path)
    else:
        table = {name: column for name, column in found.table(path).items() if column.dtype.kind in "biuf"}
        components = list(table)
        data = np.stack([column.astype(np.float64) for column in table.values()], axis=1) if table else np.zeros(0)
    if data.dtype.kind not in "biuf" or data.ndim not in (1, 2) or not data.size:
        found.left_out.append(f"{path.name} ({data.dtype} of shape {data.shape})")
        return
    if stamps.dtype.kind in "iuf" and stamps.ndim == 2 and stamps.shape[1] == 2 and len(stamps):
        seconds = np.interp(np.arange(len(data)), stamps[:, 0], stamps[:, 1])  # a row is (sample, seconds)
    else:
        seconds = stamps.reshape(-1) if stamps.ndim == 2 and 1 in stamps.shape else stamps
    put_series(file.create_group(place), data, seconds=seconds, components=components)
