"""A session back as an NWB 2 file, through pynwb.

    /units                   spike times, observation intervals (where they are stated), every unit column
    /intervals/<table>       every interval table with its columns; ``splits`` is one more table
    /processing/behavior     every signal as a TimeSeries; NaN where it is not valid
    /processing/ophys        fluorescence as a RoiResponseSeries; of units without spikes, in place of the units table
    /general                 subject, and what the source said of itself; where it came from in the notes

What is unusual: what was written is read again by :func:`spiketok.sources.formats.nwb.read_nwb` before the file gets
its name. Spikes that do not come back to the nanosecond are an error; whatever else does not come back becomes a
remark.

What NWB cannot hold as it is: unit ids that are no whole numbers (they are in the column ``unit_name``); splits other
than as a table; values of samples that are not valid; names with ``/`` or ``:``. The same session gives the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spiketok.errors import DataError
from spiketok.pipeline.export.base import Exporter, origin_text
from spiketok.pipeline.export.nwb.imaging import add_imaging, is_imaged_only
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Column, Intervals, Ragged, Session, Signal
from spiketok.storage.hdf5 import writing_hdf5

if TYPE_CHECKING:
    import h5py
    from hdmf.common import VectorData
    from pynwb import NWBFile

SPLITS = "splits"
UNIT_NAME = "unit_name"
UNITS_OWN = frozenset({
    *("id", "spike_times", "obs_intervals", "electrodes", "electrode_group"),
    *("waveform_mean", "waveform_sd", "waveforms"),
})  # fmt: skip
TABLES_OWN = frozenset({"start_time", "stop_time", "timeseries", "timestamp"})
TEXTS = ("experiment_description", "institution", "lab", "session_id", "protocol")
LISTS = ("experimenter", "keywords", "related_publications")
OF_SUBJECT = ("species", "sex", "age", "genotype", "strain", "weight")
UNKNOWN_START = datetime(1970, 1, 1, tzinfo=UTC)


def write_nwb(session: Session, digest: str, path: Path) -> list[str]:
    """Write a session as an NWB file.

    Args:
        session: what to write. digest: of the store, for the notes and the ids of the file's objects.
        path: the file.

    Returns:
        what did not come back when the file was read again, one sentence each.

    Raises:
        DataError: a time is not held to the nanosecond by NWB's seconds, or the spikes did not come back.
    """
    from pynwb import NWBHDF5IO

    from spiketok.pipeline.export.nwb.check import not_kept
    from spiketok.sources.simulator import fix_object_ids

    remarks: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # habits of the source's texts, names of columns, the name of an unfinished file
        nwb = _new_file(session, digest, remarks)
        _add_units(nwb, session, remarks)
        tables = {**session.intervals, **({_splits_name(session): session.splits} if len(session.splits) else {})}
        for (name, table), legal in zip(tables.items(), _legal_names(tables, remarks), strict=True):
            _add_table(nwb, name, legal, table, remarks)
        _add_signals(nwb, {k: s for k, s in session.signals.items() if k != FLUORESCENCE}, remarks)
        remarks += [f"stimulus '{name}' is not written: take it from the session's source" for name in session.stimuli]
        fix_object_ids(nwb, digest)
        with writing_hdf5(path) as file:
            io = NWBHDF5IO(file=file, mode="w")  # it would close the file
            io.write(nwb)
    return remarks + not_kept(session, path, _splits_name(session))


def _origin(file: h5py.File) -> str:
    return file["general/notes"].asstr()[()]


EXPORTER = Exporter("nwb", ".nwb", "Neurodata Without Borders 2, a file a session", write_nwb, _origin)


def _splits_name(session: Session) -> str:
    """The name of the table that holds the splits: its own, or another where the source has such a table."""
    return SPLITS if SPLITS not in session.intervals else "stored_splits"


def _seconds(time_ns: np.ndarray, what: str) -> np.ndarray:
    """Nanoseconds as the float64 seconds from which they come back exactly.

    Raises:
        DataError: they would not.
    """
    seconds = np.asarray(time_ns, np.int64) / NS_PER_S
    lost = np.rint(seconds * NS_PER_S).astype(np.int64) != time_ns
    if lost.any():
        message = (
            f"{what}: {int(lost.sum())} times, as {int(np.asarray(time_ns)[lost][0])} ns, are too far from zero to be "
            "float64 seconds to the nanosecond: NWB cannot hold them"
        )
        raise DataError(message)
    return seconds


# ---- what the file says of itself -----------------------------------------------------------------------------------


def _new_file(session: Session, digest: str, remarks: list[str]) -> NWBFile:
    from pynwb import NWBFile

    info = session.info
    start = _moment(session.source.session_start or info.get("session_start_time", ""))
    if start is None:
        remarks.append("the source states no session start: 1970-01-01 is written, which NWB demands")
    zero = _moment(info.get("timestamps_reference_time", ""))
    citations = [source.citation for source in session.source.files if source.citation]
    lists = {name: _items(info, name) for name in LISTS}
    lists["related_publications"] = list(dict.fromkeys([*lists["related_publications"], *citations]))
    notes = [info["notes"]] if info.get("notes") else []
    return NWBFile(
        session_description=info.get("session_description") or f"{session.id}, exported by spiketok",
        identifier=f"spiketok-{digest[:32]}",
        session_start_time=start or UNKNOWN_START,
        timestamps_reference_time=zero or start or UNKNOWN_START,
        file_create_date=start or UNKNOWN_START,  # fixed: the same session gives the same bytes
        notes=" ".join([*notes, origin_text(session, digest)]),
        subject=_subject(session, remarks),
        **{name: info[name] for name in TEXTS if info.get(name)},
        **{name: items for name, items in lists.items() if items},
    )


def _items(info: Mapping[str, str], name: str) -> list[str]:
    return [part for part in info.get(name, "").split("; ") if part]


def _moment(text: str) -> datetime | None:
    """A time in ISO 8601; where it has no time zone, as UTC. None where it is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _subject(session: Session, remarks: list[str]):
    from pynwb.file import Subject

    info = session.info
    facts: dict[str, object] = {name: info[name] for name in OF_SUBJECT if info.get(name)}
    if info.get("subject_description"):
        facts["description"] = info["subject_description"]
    if info.get("date_of_birth"):
        born = _moment(info["date_of_birth"])
        if born is None:
            remarks.append(f"the subject's date of birth '{info['date_of_birth']}' is no date: left out")
        else:
            facts["date_of_birth"] = born
    if session.subject:
        facts["subject_id"] = session.subject
    return Subject(**facts) if facts else None


# ---- tables ---------------------------------------------------------------------------------------------------------


def _add_units(nwb: NWBFile, session: Session, remarks: list[str]) -> None:
    """The units table; for units that are known by their fluorescence alone the segmentation in its place."""
    from pynwb.misc import Units

    units, spikes = session.units, session.spikes
    ids = _whole_ids(units.id)
    columns = dict(units.columns)
    if ids is None:
        remarks.append(f"unit ids are no whole numbers (as '{units.id[0]}'): they stand in the column '{UNIT_NAME}'")
        columns = {UNIT_NAME: units.id} | columns
        ids = np.arange(len(units))
    own = []
    for name, (free, column) in _free_names(columns, UNITS_OWN, "units", remarks).items():
        own += _column(free, f"{name} of the unit", column)
    if is_imaged_only(session):
        _add_fluorescence(nwb, session, ids, own, remarks)
        return
    order = np.argsort(spikes.unit, kind="stable")
    stop = np.cumsum(np.bincount(spikes.unit, minlength=len(units)))
    seconds = _seconds(spikes.time_ns[order], f"{session.id}: spikes")
    parts = _column("spike_times", "spike times in seconds", Ragged(seconds, np.concatenate([[0], stop])))
    if _states_observed(session):
        parts += _column("obs_intervals", "when the unit was observed, in seconds", _observed(session))
    parts += own
    clock_hz = session.clock_hz
    nwb.units = Units(
        name="units",
        description=f"units of {session.id}",
        id=ids.astype(np.int64),
        columns=parts,
        colnames=_names(parts),
        **({"resolution": 1 / clock_hz} if clock_hz is not None and clock_hz > 1 else {}),
    )
    if FLUORESCENCE in session.signals:
        components = np.array(session.signals[FLUORESCENCE].components, np.str_)
        rois = _whole_ids(components)
        _add_fluorescence(nwb, session, np.arange(components.size) if rois is None else rois, [], remarks)


def _add_fluorescence(
    nwb: NWBFile, session: Session, ids: np.ndarray, columns: list[VectorData], remarks: list[str]
) -> None:
    remarks.append("what NWB demands of microscope, plane and indicator is not known: 'not stated' and NaN are written")
    timing = _timing(FLUORESCENCE, session.signals[FLUORESCENCE])
    add_imaging(nwb, session, ids, columns, _names(columns), timing)


def _names(parts: list[VectorData]) -> list[str]:
    """The columns that a table declares: all but the indices."""
    return [part.name for part in parts if not _is_index(part)]


def _whole_ids(unit_id: np.ndarray) -> np.ndarray | None:
    """Unit ids as whole numbers; None where one is written in another way than its number is."""
    numbers = [int(text) if text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() else None
               for text in unit_id.tolist()]  # fmt: skip
    if any(number is None or abs(number) >= 2**31 for number in numbers):
        return None
    return np.array(numbers) if [str(n) for n in numbers] == unit_id.tolist() else None


def _states_observed(session: Session) -> bool:
    """Whether observation intervals are written: not where they were assumed to be the whole session."""
    whole = len(session.observed) == 1 and session.observed.total_ns == session.stop_ns - session.start_ns
    return session.observed_source != "assumed" or not whole or session.unit_observed is not None


def _observed(session: Session) -> Ragged:
    """Each unit's observed intervals, in seconds."""
    own = session.unit_observed
    if own is None:
        pairs = np.stack([session.observed.start_ns, session.observed.stop_ns], axis=1)
        n_units = len(session.units)
        own = Ragged(np.tile(pairs, (n_units, 1)), np.arange(n_units + 1) * len(pairs))
    return Ragged(_seconds(own.value, f"{session.id}: observed time"), own.offset)


def _add_table(nwb: NWBFile, name: str, legal: str, table: Intervals, remarks: list[str]) -> None:
    from pynwb.epoch import TimeIntervals

    columns = dict(table.columns)
    ids = columns.get("id")
    whole = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i"
    if whole:
        del columns["id"]
    parts = _column("start_time", "start of the interval, in seconds", _seconds(table.start_ns, f"{name}: starts"))
    parts += _column("stop_time", "stop of the interval, in seconds", _seconds(table.stop_ns, f"{name}: stops"))
    own = TABLES_OWN if whole else TABLES_OWN | {"id"}
    for key, (free, column) in _free_names(columns, own, f"table '{name}'", remarks).items():
        parts += _column(free, f"{key} of the interval", column)
    made = TimeIntervals(
        name=legal,
        description="which time belongs to which split" if name == SPLITS else f"table {name}",
        id=ids.astype(np.int64) if whole else np.arange(len(table)),
        columns=parts,
        colnames=_names(parts),
    )
    if name in ("trials", "epochs", "invalid_times"):
        setattr(nwb, name, made)
    else:
        nwb.add_time_intervals(made)


def _is_index(part: VectorData) -> bool:
    from hdmf.common import VectorIndex

    return isinstance(part, VectorIndex)


def _column(name: str, description: str, column: Column) -> list[VectorData]:
    """A column as pynwb's: one of its objects, or two where rows differ in length."""
    from hdmf.common import VectorData, VectorIndex

    values = column.value if isinstance(column, Ragged) else np.asarray(column)
    made = VectorData(name=name, description=description, data=_data(values))
    if not isinstance(column, Ragged):
        return [made]
    stop = column.offset[1:]
    index = stop.astype(np.min_scalar_type(int(stop[-1]) if stop.size else 0))
    return [VectorIndex(name=f"{name}_index", target=made, data=index), made]


def _data(values: np.ndarray):
    """Values as hdmf takes them: texts as objects, all else as it is."""
    return values.astype(object) if values.dtype.kind == "U" else values


def _free_names(
    columns: Mapping[str, Column], own: frozenset[str], place: str, remarks: list[str]
) -> dict[str, tuple[str, Column]]:
    """Each column with the name that it is written under: another than its own where NWB has a meaning for that."""
    legal = dict(zip(columns, _legal_names(columns, remarks), strict=True))
    taken, free = set(legal.values()), {}
    for name, column in columns.items():
        key = legal[name]
        if key in own or (key.endswith("_index") and key.removesuffix("_index") in taken | own):
            key = f"source_{key}"
            while key in taken:
                key += "_"
            taken.add(key)
            remarks.append(f"{place}: column '{name}' has a meaning of its own in NWB and is written as '{key}'")
        free[name] = (key, column)
    return free


def _legal_names(names: Iterable[str], remarks: list[str]) -> list[str]:
    """Names without the two characters that NWB forbids, no two of them equal."""
    taken = set(names)
    made = []
    for name in names:
        legal = name.replace("/", "_").replace(":", "_")
        if legal != name:
            while legal in taken:
                legal += "_"
            taken.add(legal)
            remarks.append(f"the name '{name}' is written as '{legal}': NWB forbids '/' and ':'")
        made.append(legal)
    return made


# ---- signals --------------------------------------------------------------------------------------------------------


def _add_signals(nwb: NWBFile, signals: Mapping[str, Signal], remarks: list[str]) -> None:
    from pynwb import TimeSeries

    kept = {name: signal for name, signal in signals.items() if len(signal.time_ns)}
    remarks += [f"signal '{name}' has no sample: left out" for name in signals if name not in kept]
    if not kept:
        return
    module = nwb.create_processing_module("behavior", "behaviours and other signals of the session")
    for (name, signal), legal in zip(kept.items(), _legal_names(kept, remarks), strict=True):
        value = np.where(signal.valid[:, None], signal.value, np.float32(np.nan))
        components = ",".join(signal.components)
        module.add(
            TimeSeries(
                name=legal,
                description=f"{name}; NaN where it was not measured",
                data=value[:, 0] if value.shape[1] == 1 else value,
                unit=signal.measure,
                comments=f"columns=[{components}]",
                **_timing(name, signal),
            )
        )


def _timing(name: str, signal: Signal) -> dict[str, object]:
    """A rate if the samples are on it to the nanosecond, else a time stamp for each."""
    seconds = _seconds(signal.time_ns, f"signal '{name}'")
    rate_hz = signal.rate_hz
    if rate_hz is not None and rate_hz > 0:
        on_rate = np.rint((np.arange(len(seconds)) / rate_hz + seconds[0]) * NS_PER_S).astype(np.int64)
        if np.array_equal(on_rate, signal.time_ns):
            return {"rate": float(rate_hz), "starting_time": float(seconds[0])}
    return {"timestamps": seconds}
