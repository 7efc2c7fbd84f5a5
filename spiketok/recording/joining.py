"""Joining the units of several files of one recording.

Pure functions over :class:`~spiketok.recording.nouns.Session`. What is unusual: two files are joined only where they
say themselves that they are of one subject, on one time base, at one time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import (
    NS_PER_S,
    Column,
    Finding,
    Intervals,
    Ragged,
    Session,
    Signal,
    Spikes,
    Stimulus,
    UnitTable,
)

PROBE = "probe"  # the column that says which of the joined files a unit is from


def short_labels(names: Sequence[str]) -> list[str]:
    """What tells names from each other: without the words that all begin and end with.

    >>> short_labels(["sub-A_probe-0_ecephys", "sub-A_probe-1_ecephys"])
    ['probe-0', 'probe-1']
    """
    words = [name.split("_") for name in names]
    head = _shared(words)
    tail = _shared([w[head:][::-1] for w in words])
    short = ["_".join(w[head : len(w) - tail]) for w in words]
    return short if len(set(short)) == len(names) and all(short) else list(names)


def _shared(words: Sequence[Sequence[str]]) -> int:
    """With how many words all begin."""
    return next((k for k, place in enumerate(zip(*words, strict=False)) if len(set(place)) > 1), min(map(len, words)))


def merge_units(sessions: Sequence[Session], session_id: str, labels: Sequence[str] = ()) -> Session:
    """The units of several files of one recording as one session.

    Args:
        sessions: of one subject, on one time base, each overlapping in time with all others.
        session_id: of the joined session.
        labels: a name for each; empty: from the names of their files. Units are called ``<label>:<id>`` and have it in
            the column ``probe``.

    Returns:
        all units and spikes, each unit observed when its own file says so; a table or signal that is equal in several
        files once, what differs under ``<name>.<label>``.

    Raises:
        DataError: they are not of one recording, or state different splits.
    """
    labels = list(labels) or short_labels([file_stem(s.source.file) for s in sessions])
    _check_one_recording(sessions, session_id)
    first, notes = sessions[0], []
    size = [len(s.units) for s in sessions]
    columns = _joined_columns(sessions, notes)
    columns.setdefault(PROBE, np.repeat(np.array(labels), size))
    ids = [f"{label}:{unit}" for label, s in zip(labels, sessions, strict=True) for unit in s.units.id.tolist()]
    time_ns = np.concatenate([s.spikes.time_ns for s in sessions])
    unit = np.concatenate([s.spikes.unit + sum(size[:k]) for k, s in enumerate(sessions)]).astype(np.int32)
    order = np.lexsort((unit, time_ns))
    observed, unit_observed = _joined_observed(sessions)
    splits = [s.splits for s in sessions if len(s.splits)]
    if any(not equal_arrays(interval_arrays(one), interval_arrays(splits[0])) for one in splits):
        message = f"{session_id}: its files state different splits: ingest them one by one"
        raise DataError(message)
    clocks = {s.clock_hz for s in sessions}
    if len(clocks) > 1:
        notes.append(Finding("merge-clocks", len(clocks), f"the files declare {len(clocks)} clocks: none is taken"))
    parts = [f"{label} ({n} units, {len(s.spikes)} spikes)" for label, n, s in zip(labels, size, sessions, strict=True)]
    merged = Finding("files-merged", len(sessions), f"joined the units of {len(sessions)} files: {', '.join(parts)}")
    return Session(
        id=session_id,
        subject=first.subject,
        start_ns=min(s.start_ns for s in sessions),
        stop_ns=max(s.stop_ns for s in sessions),
        units=UnitTable(np.array(ids, dtype=np.str_), columns),
        spikes=Spikes(time_ns[order], unit[order]),
        observed=observed,
        source=replace(first.source, joined=tuple(s.source for s in sessions[1:])),
        unit_observed=unit_observed,
        observed_source="assumed" if any(s.observed_source == "assumed" for s in sessions) else first.observed_source,
        intervals=once([s.intervals for s in sessions], labels, interval_arrays, notes),
        splits=splits[0] if splits else first.splits,
        signals=once([s.signals for s in sessions], labels, signal_arrays, notes),
        clock_hz=clocks.pop() if len(clocks) == 1 else None,
        info={key: text for s in reversed(sessions) for key, text in s.info.items()},
        repairs=(*told(sessions, labels, "repairs"), merged),
        stimuli=once([s.stimuli for s in sessions], labels, stimulus_arrays, notes),
        notes=(*told(sessions, labels, "notes"), *notes),
    )


def file_stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".nwb")


def told(sessions: Sequence[Session], labels: Sequence[str], kind: str) -> list[Finding]:
    pairs = zip(labels, sessions, strict=True)
    return [replace(found, text=f"{label}: {found.text}") for label, s in pairs for found in getattr(s, kind)]


def _check_one_recording(sessions: Sequence[Session], session_id: str) -> None:
    facts = {
        "subjects": [s.subject for s in sessions],
        "session starts": [s.source.session_start for s in sessions],
        "times zero": [s.info.get("timestamps_reference_time", s.source.session_start) for s in sessions],
    }
    for name, values in facts.items():
        if len(set(map(_moment, values))) > 1:
            message = (
                f"{session_id}: its files have different {name} ({', '.join(map(repr, values))}): not one recording"
            )
            raise DataError(message)
    spans = [recorded_span(s) for s in sessions]
    begin, end = max(first for first, _ in spans), min(last for _, last in spans)
    if begin >= end:
        message = (
            f"{session_id}: one of its files begins at {begin / NS_PER_S:.1f} s, another ends at "
            f"{end / NS_PER_S:.1f} s: they do not overlap in time, so they are not one recording"
        )
        raise DataError(message)


def _moment(text: str) -> object:
    """A text as a moment, which has one value in all time zones; the text itself where it is none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def recorded_span(session: Session) -> tuple[int, int]:
    """From when to when a file was surely recording: its stated observed time, else its spikes, else its extent."""
    if session.observed_source != "assumed" and len(session.observed):
        return int(session.observed.start_ns[0]), int(session.observed.stop_ns[-1])
    time_ns = session.spikes.time_ns
    return (int(time_ns[0]), int(time_ns[-1]) + 1) if time_ns.size else (session.start_ns, session.stop_ns)


def _joined_observed(sessions: Sequence[Session]) -> tuple[Intervals, Ragged | None]:
    """Observed by any unit, and each unit's own where they differ."""
    pairs = []
    for s in sessions:
        shared = np.stack([s.observed.start_ns, s.observed.stop_ns], axis=1)
        pairs += [shared if s.unit_observed is None else s.unit_observed[row] for row in range(len(s.units))]
    rows = np.concatenate(pairs)
    observed = Intervals(rows[:, 0], rows[:, 1]).union()
    if all(np.array_equal(pair, pairs[0]) for pair in pairs):
        return observed, None
    return observed, Ragged(rows, np.cumsum([0, *(len(pair) for pair in pairs)]))


def _joined_columns(sessions: Sequence[Session], notes: list[Finding]) -> dict[str, Column]:
    """Every column of any file; a file without it has NaN, an empty text or an empty row there."""
    names = list(dict.fromkeys(name for s in sessions for name in s.units.columns))
    columns: dict[str, Column] = {}
    for name in names:
        parts = [s.units.columns.get(name) for s in sessions]
        missing = sum(len(s.units) for s, part in zip(sessions, parts, strict=True) if part is None)
        if missing:
            text = f"column '{name}' is missing in some of the files: {missing} units have no value there"
            notes.append(Finding("merge-columns", missing, text))
        columns[name] = stacked(parts, [len(s.units) for s in sessions])
    return columns


def stacked(parts: Sequence[Column | None], size: Sequence[int]) -> Column:
    values = [p.value if isinstance(p, Ragged) else p for p in parts if p is not None]
    kinds = {v.dtype.kind for v in values}
    text = "U" in kinds
    ragged = any(isinstance(p, Ragged) for p in parts) or len({v.shape[1:] for v in values}) > 1
    as_float = len(kinds) > 1 or (not ragged and any(p is None for p in parts))

    def typed(values: np.ndarray) -> np.ndarray:
        return values.astype(np.str_) if text else values.astype(np.float64) if as_float else values

    if not ragged:
        shape = values[0].shape[1:]
        filler = np.str_("") if text else np.float64(np.nan)
        return np.concatenate(
            [np.full((n, *shape), filler) if p is None else typed(p) for p, n in zip(parts, size, strict=True)]
        )
    flat, length = [], []
    for part, n in zip(parts, size, strict=True):
        if part is None:
            length += [0] * n
        elif isinstance(part, Ragged):
            flat.append(typed(part.value.reshape(len(part.value), -1)[:, 0] if part.value.ndim > 1 else part.value))
            length += np.diff(part.offset).tolist()
        else:
            flat.append(typed(part.reshape(-1)))
            length += [part.size // max(1, n)] * n
    return Ragged(np.concatenate(flat), np.cumsum([0, *length]))


def interval_arrays(table: Intervals) -> list[np.ndarray]:
    columns: list[np.ndarray] = []
    for name, column in sorted(table.columns.items()):
        parts = [column.value, column.offset] if isinstance(column, Ragged) else [column]
        columns += [np.array([name]), *map(np.asarray, parts)]
    return [table.start_ns, table.stop_ns, *columns]


def signal_arrays(signal: Signal) -> list[np.ndarray]:
    return [signal.time_ns, signal.value, signal.valid, np.array(signal.components), np.array([signal.measure])]


def stimulus_arrays(stimulus: Stimulus) -> list[np.ndarray]:
    return [stimulus.frames, stimulus.time_ns, stimulus.stop_ns, stimulus.frame]


def equal_arrays(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether two rows of arrays are the same; NaN equals NaN."""
    return len(one) == len(other) and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f") for a, b in zip(one, other, strict=True)
    )


def once(
    items: Sequence[Mapping[str, Intervals | Signal | Stimulus]], labels: Sequence[str], arrays, notes: list[Finding]
) -> dict[str, Intervals | Signal | Stimulus]:
    """What the files hold by name: equal ones once; others beside the first as ``<name>.<label>``."""
    joined: dict[str, Intervals | Signal | Stimulus] = {}
    for label, held in zip(labels, items, strict=True):
        for name, item in held.items():
            if name not in joined:
                joined[name] = item
            elif not equal_arrays(arrays(joined[name]), arrays(item)):
                joined[f"{name}.{label}"] = item
                text = f"'{name}' of {label} differs from that of the files before it: kept as '{name}.{label}'"
                notes.append(Finding("merge-differs", 1, text))
    return joined
