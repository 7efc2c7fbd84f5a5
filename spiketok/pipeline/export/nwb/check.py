"""What of a session does not come back when its NWB file is read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spiketok.errors import DataError
from spiketok.pipeline.export.nwb.imaging import is_imaged_only
from spiketok.recording.nouns import Column, Intervals, Ragged, Session, Signal, Source


def not_kept(session: Session, path: Path, splits_name: str) -> list[str]:
    """Read a file that was written from a session, and tell what differs.

    Args:
        session: what was written. path: the file. splits_name: the table that holds its splits.

    Raises:
        DataError: a spike did not come back.
    """
    from spiketok.sources.formats.nwb import read_nwb

    if not len(session.spikes) and not is_imaged_only(session):
        return ["the session has no spike: spiketok itself does not read such a file"]
    back = read_nwb(path, session.id, Source(path.name, "", 0))
    if not (_same(session.spikes.time_ns, back.spikes.time_ns) and _same(session.spikes.unit, back.spikes.unit)):
        message = f"{session.id}: {len(session.spikes)} spikes were written, other {len(back.spikes)} came back"
        raise DataError(message)
    told = _columns("units", session.units.columns, back.units.columns)
    for what, ours, theirs in (
        ("the subject", session.subject, back.subject),
        ("the extent in ns", (session.start_ns, session.stop_ns), (back.start_ns, back.stop_ns)),
        ("the source of the observed time", session.observed_source, back.observed_source),
        ("the clock", session.clock_hz, back.clock_hz),
    ):
        if ours != theirs:
            told.append(f"{what} is {ours}, comes back as {theirs}")
    if not _same_times(session.observed, back.observed):
        told.append(f"the observed time ({len(session.observed)} intervals) comes back as {len(back.observed)} others")
    if not _same_ragged(session.unit_observed, back.unit_observed):
        told.append("what single units were observed comes back differently")
    tables = dict(session.intervals) | ({splits_name: session.splits} if len(session.splits) else {})
    for name, table in tables.items():
        told += _table(name, table, back.intervals.get(name))
    for name, signal in session.signals.items():
        told += _signal(name, signal, back.signals.get(name))
    return told


def _same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal in shape, kind and values; NaN equals NaN."""
    if ours.shape != theirs.shape or ours.dtype.kind != theirs.dtype.kind:
        return False
    return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


def _same_ragged(ours: Ragged | None, theirs: Ragged | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return _same(ours.offset, theirs.offset) and _same(ours.value, theirs.value)


def _same_column(ours: Column, theirs: Column) -> bool:
    if isinstance(ours, Ragged) or isinstance(theirs, Ragged):
        return isinstance(ours, Ragged) and isinstance(theirs, Ragged) and _same_ragged(ours, theirs)
    return _same(np.asarray(ours), np.asarray(theirs))


def _same_times(ours: Intervals, theirs: Intervals) -> bool:
    return _same(ours.start_ns, theirs.start_ns) and _same(ours.stop_ns, theirs.stop_ns)


def _columns(place: str, ours: Mapping[str, Column], theirs: Mapping[str, Column]) -> list[str]:
    """What differs between the columns of two tables; ids that NWB gives to rows without any are no difference."""
    gone = [name for name in ours if name not in theirs]
    other = [name for name in ours if name in theirs and not _same_column(ours[name], theirs[name])]
    return [f"{place}: column '{name}' does not come back under its name" for name in gone] + [
        f"{place}: column '{name}' comes back with other values or another type" for name in other
    ]


def _table(name: str, ours: Intervals, theirs: Intervals | None) -> list[str]:
    if theirs is None:
        return [f"table '{name}' does not come back under its name"]
    if not _same_times(ours, theirs):
        return [f"table '{name}': its {len(ours)} intervals come back as {len(theirs)} others"]
    return _columns(f"table '{name}'", ours.columns, theirs.columns)


def _signal(name: str, ours: Signal, theirs: Signal | None) -> list[str]:
    if theirs is None:
        return [f"signal '{name}' does not come back under its name"] if len(ours.time_ns) else []
    if not (_same(ours.time_ns, theirs.time_ns) and _same(ours.valid, theirs.valid)):
        return [f"signal '{name}': its {len(ours.time_ns)} samples come back as {len(theirs.time_ns)} others"]
    told = []
    if not _same(ours.value[ours.valid], theirs.value[theirs.valid]):
        told.append(f"signal '{name}' comes back with other values")
    for what, one, other in (
        ("components", ours.components, theirs.components),
        ("measure", ours.measure, theirs.measure),
        ("rate", ours.rate_hz, theirs.rate_hz),
    ):
        if one != other:
            told.append(f"signal '{name}': its {what} {one!r} comes back as {other!r}")
    return told
