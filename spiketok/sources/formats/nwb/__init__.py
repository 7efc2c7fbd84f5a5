"""NWB files: one file on disk becomes one :class:`~spiketok.recording.nouns.Session`.

Reads with h5py, one flat read a dataset: ragged access through pynwb costs one read a row, and pynwb takes a broken
link for an empty array and a wrong index column for fewer spikes. pynwb is the second, independent reader: see
``spiketok.pipeline.source_check``. Layout: the NWB schema 2.0 to 2.11 (nwb-schema.readthedocs.io).

What is unusual: nothing is dropped without a word. What had to be mended is listed in ``Session.repairs``, what was
found and left as it is, or left out, in ``Session.notes``. The repairs:

    spikes-not-finite           spike times that are NaN, infinite or beyond int64 ns are removed
    clock-restarts              blocks of a clock that began again are laid out, where the caller says so
    spikes-unsorted             spike times that step back are put in order
    unit-ids-duplicate          an id that several units share gets its row appended
    obs-intervals-invalid       observation intervals that are NaN or stop before they start are removed
    interval-start-missing      rows with no start are left out
    interval-stop-missing       a stop that is missing becomes the next start, the last one the session's end
    interval-stop-before-start  such a stop is replaced in the same way
    signal-length               a series and its time stamps differ in length: both are cut to the shorter
    signal-transposed           a series stored components first is turned
    signal-conversion           a conversion that is NaN or zero is taken as 1
    signal-times                samples whose stamp is missing, over a day outside the recording or out of order go

Stops that were replaced are marked in the column ``stop_repaired``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from spiketok.recording.intervals import EMPTY_NS, as_far_as_usual, from_whole_second, inhabited, without
from spiketok.recording.nouns import (
    FLUORESCENCE,
    NS_PER_S,
    Intervals,
    Session,
    Signal,
    Source,
    Stimulus,
    UnitTable,
)
from spiketok.recording.outside import filler_note
from spiketok.sources.formats.nwb.apart import note_apart, note_empty, note_long, span_told
from spiketok.sources.formats.nwb.blocks import find_blocks
from spiketok.sources.formats.nwb.clocks import (
    UNBOUND,
    refuse_restarted_trials,
    refuse_spikes_that_last,
    refuse_times_in_no_seconds,
)
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.intervals import Reach, Table, find_reach, finish_table, read_tables, source_splits
from spiketok.sources.formats.nwb.series import Series, find_series, read_events, read_signal, short_names
from spiketok.sources.formats.nwb.sources import no_units, read_units_elsewhere, read_units_table
from spiketok.sources.formats.nwb.stimuli import read_stimulus
from spiketok.sources.formats.nwb.tables import Findings, in_seconds, is_time, listed, ns_from_seconds, texts
from spiketok.sources.formats.nwb.time_units import TimeUnit
from spiketok.sources.formats.nwb.units import count_unobserved, note_spikes
from spiketok.sources.formats.nwb.zarr_folder import as_hdf5, is_zarr_folder

INVALID = "invalid_times"
UNIX_NS = (10**9 * NS_PER_S, 4 * 10**9 * NS_PER_S)  # September 2001 to 2096
STATED = "obs_intervals"
LATE_NS, LATE_SHARE = 60 * NS_PER_S, 0.1  # so long (and so much of the extent) without spikes at an end is noted


def read_nwb(
    path: Path | BinaryIO,
    session_id: str,
    source: Source,
    *,
    clock_hz: float | None = None,
    time_unit: Mapping[str, str] | None = None,
    mends_clocks: bool = False,
    units_path: str = "",
    restarts: Sequence[str] = (),
    is_part: bool = False,
) -> Session:
    """Read an NWB file (version 2) whole.

    Args:
        path: the file, a zarr folder, or a file that is open for reading (see ``Hdf5``); for its units see ``sources``.
        session_id: ``"<dataset>/<session>"``.
        source: where the file came from; ``session_start`` is filled in from the file where it is empty.
        clock_hz: the recording's clock, where the caller knows it better than the file.
        time_unit: what its times are, see ``time_units.TimeUnit``; without it what is plainly no seconds is refused.
        mends_clocks: its times may be no seconds of one clock, which is refused otherwise: the caller mends that.
        units_path: where its units table lies, as ``"processing/ecephys/units"``; empty: see ``units.find_units``.
        restarts: words of ``blocks.Restarts``: lay out the blocks of a clock that begins again, which is refused
            otherwise.
        is_part: it is one of several files of a session: it may have no units, and not all of which a time unit is
            stated.

    Returns:
        the session: every spike to the nearest ns and in order, all interval tables, behaviours and observed time,
        with every repair and every oddity named.

    Raises:
        SourceError: there is no such file, it is damaged or no NWB 2, or it has no units or no spikes.
        MissingExtraError: it is a zarr folder and hdmf-zarr is not installed.
    """
    if isinstance(path, Path | str) and is_zarr_folder(Path(path)):
        with as_hdf5(Path(path)) as file:
            options = {"clock_hz": clock_hz, "time_unit": time_unit, "mends_clocks": mends_clocks, "restarts": restarts}
            return read_nwb(file, session_id, source, units_path=units_path, is_part=is_part, **options)
    found = Findings()
    stated = TimeUnit(time_unit)
    blocks = find_blocks(path, TimeUnit(time_unit), restarts, units_path) if restarts else None
    with Hdf5(path, stated, mends_clocks=mends_clocks, laid=blocks) as h5:
        _check_version(h5)
        units = read_units_table(h5, found, units_path)
        below = find_series(h5, found, () if units is None else units.taken)
        units = units or read_units_elsewhere(h5, below.series, found, needed=not is_part)
        tables = read_tables(h5, found) + below.tables
        units = units or no_units(h5, below.series, tables)
        for table in tables:
            refuse_times_in_no_seconds(h5, table.parts, table.start_s, units.reach, is_table=True)
            refuse_restarted_trials(h5, table)
        reach = find_reach(units.reach, tables, found)
        series = [one for one in below.series if one.parts not in units.taken]
        signals, events = _read_series(h5, series, reach, below.left_out, found)
        refuse_spikes_that_last(h5, units.recorded_ns, units.unit_id.size, _others_ns(tables, signals))
        stimuli = _read_stimuli(h5, below.stimuli, reach, below.left_out, found)
        if stated.unmet and not is_part:
            h5.refuse(
                f"a time unit is stated of {listed(stated.unmet)}, which it does not have", "see 'spiketok inspect'"
            )
        info = _read_info(h5)
        subject = _text(h5, h5.group(h5.root, "general", "subject"), "subject_id")
        linked = h5.linked_sources()
        source = replace(source, linked=linked) if linked or source.linked else source
        values = f", values come from {listed([one.file for one in linked])}" if linked else ""
        text = f"{h5.n_external} links lead into other files of its folder{values}"
        found.note("external-links", h5.n_external, text)
    found.note("series-left-out", len(below.left_out), f"left out as no behaviour: {listed(below.left_out, 20)}")
    _note_time_zero(info, found)
    if blocks is not None:
        found.repair("clock-restarts", len(blocks) - 1, blocks.told())
    text = f"its times are Unix time, from {in_seconds(reach.start_ns)} on; kept as they are"
    found.note("clock-unix", UNIX_NS[0] < reach.start_ns < UNIX_NS[1], text)

    end_ns = _behaviour_end(tables, signals, reach)
    spikes, observed, unit_observed = units.spikes, units.observed, units.unit_observed
    if units.fluorescence is None:
        note_spikes(spikes, units.unit_id.size, end_ns, found)
    filler = None if units.recorded is None else filler_note(spikes, units.recorded)
    if filler is not None:
        found.notes.append(filler)
    near = [_counted(one, signal, reach, max(reach.stop_ns, end_ns or reach.stop_ns)) for one, signal in signals]
    rows = {table.path: _near(_stated(table), reach) for table in tables}
    if observed is None:
        spans = [_near(span, reach) for span in (*map(as_far_as_usual, map(_stated, tables)), *(e for _, e in events))]
        observed = from_whole_second(inhabited([units.recorded_ns, *near], spans))
        if not len(observed):  # no units, and no sample that is valid
            observed = Intervals([reach.start_ns], [reach.stop_ns + 1])
        start_ns, stop_ns = int(observed.start_ns[0]), int(observed.stop_ns[-1])
        _note_assumed(units.recorded_ns, tables, observed, end_ns, found)
        observed = observed if blocks is None else without(observed, blocks.gaps)
        note_long(rows, observed, found)
    else:
        start_ns = min(reach.start_ns, int(observed.start_ns[0]))
        start_ns -= max(start_ns, 0) % NS_PER_S  # on the recording's own clock, as where nothing is stated
        stop_ns = max(reach.stop_ns, end_ns or reach.stop_ns, int(observed.stop_ns[-1]))
        if units.observed_source == STATED:
            spans = [*rows.values(), *(inhabited([time_ns]) for time_ns in near), *(e for _, e in events)]
            note_empty(units.recorded_ns, spans, observed, found)
    if units.unit_id.size:
        note_apart([(table, rows[table.path]) for table in tables], signals, observed, found)
    outside = count_unobserved(spikes, observed, unit_observed)
    hint = ", --drop-outside leaves them out" if units.observed is None else ""
    if outside and outside == len(spikes):
        where = f"observed is {span_told(observed)}, the spikes lie from {in_seconds(spikes.time_ns[0])}"
        text = f"all {outside} spikes lie outside of the observed time ({where} to {in_seconds(spikes.time_ns[-1])})"
        found.note("spikes-all-unobserved", outside, f"{text}: one of both is on another clock")
    text = f"{outside} spikes lie outside of the observed time; kept{hint}"
    found.note("spikes-unobserved", outside, text)

    ends_ns = () if blocks is None else blocks.ends_ns.tolist()
    finished = [(table.parts, finish_table(table, stop_ns, found, ends_ns)) for table in tables] + events
    intervals = {parts[-1]: item for parts, item in finished if parts[0] == "intervals"}  # these keep their names
    others = [(parts, item) for parts, item in finished if parts[0] != "intervals"]
    names = short_names([parts for parts, _ in others], tuple(intervals))
    intervals |= {name: item for name, (_, item) in zip(names, others, strict=True)}
    bad = intervals.get(INVALID, Intervals.empty())
    text = f"{len(bad)} rows of {INVALID} ({in_seconds(bad.union().total_ns)}); --mask {INVALID} leaves them out"
    found.note("invalid-times", len(bad), text)
    names = short_names([one.parts for one, _ in signals], () if units.fluorescence is None else (FLUORESCENCE,))
    named = {} if units.fluorescence is None else {FLUORESCENCE: units.fluorescence}
    return Session(
        id=session_id,
        subject=subject,
        start_ns=start_ns,
        stop_ns=stop_ns,
        units=UnitTable(units.unit_id, units.columns),
        spikes=spikes,
        observed=observed,
        source=source if source.session_start else replace(source, session_start=info.get("session_start_time", "")),
        unit_observed=unit_observed,
        observed_source=units.observed_source,
        intervals=intervals,
        splits=source_splits(intervals.get("trials"), found),
        signals=named | {name: signal for name, (_, signal) in zip(names, signals, strict=True)},
        clock_hz=clock_hz or units.clock_hz,
        info=info,
        repairs=tuple(found.repairs),
        notes=tuple(found.notes),
        stimuli=stimuli,
    )


def _check_version(h5: Hdf5) -> None:
    version = h5.text_attr(h5.root, "nwb_version")
    if not version and h5.child(h5.root, "nwb_version") is not None:  # NWB 1 keeps it in a dataset
        version = _text(h5, h5.root, "nwb_version") or "1"
    elif not version or h5.type_name(h5.root) != "NWBFile":
        holds = listed(sorted(h5.names(h5.root)), 5) or "nothing"
        h5.refuse(f"is HDF5 but not NWB (no 'nwb_version' of an NWBFile; it holds {holds})", "check what was fetched")
    if not version.removeprefix("NWB-").startswith("2"):
        is_newer = version.split(".")[0].isdigit() and int(version.split(".")[0]) > 2
        remedy = (
            "pip install --upgrade spiketok, or have it exported as NWB 2" if is_newer else "convert it to NWB 2 first"
        )
        h5.refuse(f"is NWB of version '{version}', expected version 2", remedy)


def _read_series(
    h5: Hdf5, series: Sequence[Series], reach: Reach, left_out: list[str], found: Findings
) -> tuple[list[tuple[Series, Signal]], list[tuple[tuple[str, ...], Intervals]]]:
    """Signals and events with their places; what is neither is added to ``left_out`` with the reason."""
    signals, events = [], []
    for one in series:
        read = read_events(h5, one, reach, found) if one.is_event else read_signal(h5, one, reach, found)
        if isinstance(read, Signal):
            signals.append((one, read))
        elif isinstance(read, Intervals):
            events.append((one.parts, read))
        else:
            left_out.append(f"{one.path} ({read})")
    return signals, events


def _read_stimuli(
    h5: Hdf5, series: Sequence[Series], reach: Reach, left_out: list[str], found: Findings
) -> dict[str, Stimulus]:
    """Stimuli by name; what is none is added to ``left_out`` with the reason."""
    stimuli = {}
    for one, name in zip(series, short_names([one.parts for one in series]), strict=True):
        read = read_stimulus(h5, one, reach, found)
        if isinstance(read, str):
            left_out.append(f"{one.path} ({one.type_name}: {read})")
        else:
            stimuli[name] = read
    return stimuli


def _behaviour_end(tables: Sequence[Table], signals: Sequence[tuple[Series, Signal]], reach: Reach) -> int | None:
    """Where the last trial and the last sample of a processed behaviour end; None where there are none.

    What was acquired or shown may run on long after the recording and does not count; nor do times over a day outside.
    """
    stops = [ns_from_seconds(table.stop_s[is_time(table.stop_s)]) for table in tables]
    stops += [signal.time_ns[-1:] + 1 for one, signal in signals if one.parts[0] not in UNBOUND]
    near = np.concatenate([np.zeros(0, np.int64), *stops])
    near = near[reach.is_near(near)]
    return int(near.max()) if near.size else None


def _others_ns(tables: Sequence[Table], signals: Sequence[tuple[Series, Signal]]) -> list[np.ndarray]:
    """The times of what lies beside the spikes and is on their clock: starts of tables, samples of behaviours."""
    starts = [np.sort(ns_from_seconds(table.start_s[is_time(table.start_s)])) for table in tables]
    return starts + [signal.time_ns for one, signal in signals if one.parts[0] not in UNBOUND]


def _near(span: Intervals, reach: Reach) -> Intervals:
    """The rows that begin near the recording; one that stops far from it lasts no time."""
    begins = reach.is_near(span.start_ns)
    start_ns, stop_ns = span.start_ns[begins], span.stop_ns[begins]
    return Intervals(start_ns, np.where(reach.is_near(stop_ns), stop_ns, start_ns))


def _counted(one: Series, signal: Signal, reach: Reach, stop_ns: int) -> np.ndarray:
    """The times of a signal that say that something was recorded; what was acquired or shown says so up to the end."""
    counted = signal.valid & reach.is_near(signal.time_ns)
    if one.parts[0] in UNBOUND:
        counted &= (signal.time_ns >= reach.start_ns) & (signal.time_ns < stop_ns)
    return signal.time_ns[counted]


def _stated(table: Table) -> Intervals:
    """The rows of a table as far as it states them: one without a stop, or one before its start, lasts no time."""
    known = is_time(table.start_s)
    start_s, stop_s = table.start_s[known], table.stop_s[known]
    start_ns = ns_from_seconds(start_s)
    lasts = is_time(stop_s) & (stop_s >= start_s)
    stop_ns = start_ns.copy()
    stop_ns[lasts] = ns_from_seconds(stop_s[lasts])
    return Intervals(start_ns, stop_ns)


def _note_assumed(
    spike_ns: np.ndarray, tables: Sequence[Table], observed: Intervals, end_ns: int | None, found: Findings
) -> None:
    start_ns, stop_ns = int(observed.start_ns[0]), int(observed.stop_ns[-1])
    extent, empty_ns = f"{in_seconds(start_ns)} to {in_seconds(stop_ns)}", stop_ns - start_ns - observed.total_ns
    but = f"but for {in_seconds(empty_ns)} of emptiness, each part longer than {in_seconds(EMPTY_NS)}"
    taken = f"is taken as observed {but if empty_ns else 'throughout'}"
    found.note("observed-assumed", 1, f"the source states no obs_intervals: {extent} {taken}")
    if not spike_ns.size:
        return
    starts = [table.start_s[is_time(table.start_s)] for table in tables]
    first_ns = min((float(s.min()) for s in starts if s.size), default=math.inf) * NS_PER_S
    long_ns = max(LATE_NS, LATE_SHARE * (stop_ns - start_ns))
    first, last, stop_ns = spike_ns[0], spike_ns[-1], max(stop_ns, end_ns or stop_ns)
    if first - first_ns > long_ns:
        text = (
            f"the first spike comes at {in_seconds(first)}, the first trial at {in_seconds(first_ns)}: "
            "spikes may not have been recorded in between"
        )
        found.note("spikes-begin-late", 1, text)
    if stop_ns - last > long_ns:
        text = (
            f"the last spike comes at {in_seconds(last)}, trials and behaviour end at {in_seconds(stop_ns)}: "
            "spikes may not have been recorded in between"
        )
        found.note("spikes-end-early", 1, text)


# ---- what the file says about itself --------------------------------------------------------------------------------


def _text(h5: Hdf5, group: h5py.Group | None, name: str) -> str:
    """The text of a dataset (or several, joined); empty if there is none."""
    item = h5.child(group, name) if group is not None else None
    if not isinstance(item, h5py.Dataset) or h5py.check_string_dtype(h5.dtype(item)) is None:
        return ""
    words = texts(np.atleast_1d(h5.array(item))).reshape(-1).tolist()
    return "; ".join(word.strip() for word in words if word.strip())


def _read_info(h5: Hdf5) -> dict[str, str]:
    """Facts for people, by name; only those that the file states."""
    general, subject = h5.group(h5.root, "general"), h5.group(h5.root, "general", "subject")
    of_file = ("identifier", "session_description", "session_start_time", "timestamps_reference_time")
    of_work = ("session_id", "experiment_description", "experimenter", "institution", "lab", "keywords", "protocol")
    of_subject = ("species", "sex", "age", "genotype", "strain", "weight", "date_of_birth")
    info = {name: _text(h5, h5.root, name) for name in of_file}
    info |= {name: _text(h5, general, name) for name in (*of_work, "related_publications", "notes")}
    info |= {name: _text(h5, subject, name) for name in of_subject}
    info["subject_description"] = _text(h5, subject, "description")
    info["nwb_version"] = h5.text_attr(h5.root, "nwb_version")
    return {name: text for name, text in info.items() if text}


def _note_time_zero(info: Mapping[str, str], found: Findings) -> None:
    start, zero = info.get("session_start_time", ""), info.get("timestamps_reference_time", "")
    text = f"time zero is {zero} (timestamps_reference_time), the session's start {start}"
    found.note("time-zero-differs", bool(start and zero) and not _same_moment(start, zero), text)


def _same_moment(one: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(one) == datetime.fromisoformat(other)
    except (ValueError, TypeError):  # not ISO 8601, or only one of them has a time zone
        return one == other
