"""Which units a session has: taking some of them, what is said of each, and how long each was observed.

What is unusual: a unit takes all that is its own with it, its spikes, its columns, its observed time and its
fluorescence.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Column, Intervals, Ragged, Session, Spikes, UnitTable

MOST_UNIT_WORDS = 256  # a column with more different words than this divides units into no groups


def column_rows(column: Column, rows: np.ndarray) -> Column:
    """Some rows of a column, plain or ragged."""
    if not isinstance(column, Ragged):
        return column[rows]
    parts = [column[row] for row in rows.tolist()]
    value = np.concatenate(parts) if parts else column.value[:0]
    return Ragged(value, np.cumsum([0, *(len(part) for part in parts)]))


def plain_unit_columns(units: UnitTable) -> dict[str, np.ndarray]:
    """The columns of one number, flag or word a unit; words only where they are few (so no free text of each unit)."""
    found = {}
    for name, column in units.columns.items():
        if isinstance(column, Ragged) or np.ndim(column) != 1:
            continue
        column = np.asarray(column)
        if column.dtype.kind in "biuf" or (column.dtype.kind == "U" and len(np.unique(column)) <= MOST_UNIT_WORDS):
            found[name] = column
    return found


def take_units(session: Session, keep: np.ndarray) -> Session:
    """The session with only the units where ``keep`` (bool ``[N]``) is True, and all that is theirs.

    Where units were observed at different times, the session's observed time becomes that of the units that stay.
    """
    keep = np.asarray(keep, np.bool_)
    rows = np.flatnonzero(keep)
    new_row = np.cumsum(keep, dtype=np.int32) - np.int32(1)
    spikes, unit_observed = session.spikes, session.unit_observed
    kept = keep[spikes.unit] if len(spikes) else np.zeros(0, np.bool_)
    observed = session.observed
    if unit_observed is not None:
        unit_observed = column_rows(unit_observed, rows)
        observed = Intervals(unit_observed.value[:, 0], unit_observed.value[:, 1]).union()
    signals = dict(session.signals)
    imaged = signals.get(FLUORESCENCE)
    if imaged is not None and len(imaged.components) == keep.size:
        names = tuple(imaged.components[row] for row in rows.tolist())
        signals[FLUORESCENCE] = replace(imaged, value=imaged.value[:, rows], components=names)
    return replace(
        session,
        units=UnitTable(
            session.units.id[rows], {name: column_rows(c, rows) for name, c in session.units.columns.items()}
        ),
        spikes=Spikes(spikes.time_ns[kept], new_row[spikes.unit[kept]]),
        observed=observed,
        unit_observed=unit_observed,
        signals=signals,
    )


def observed_spikes(session: Session) -> tuple[np.ndarray, np.ndarray]:
    """How many spikes each unit has inside its observed time (int64 ``[N]``), and how long that is (float64 s)."""
    spikes, n_units = session.spikes, len(session.units)
    if session.unit_observed is None:
        inside = _inside(spikes.time_ns, session.observed.start_ns, session.observed.stop_ns)
        return np.bincount(spikes.unit[inside], minlength=n_units), np.full(
            n_units, session.observed.total_ns / NS_PER_S
        )
    count, seconds = np.zeros(n_units, np.int64), np.zeros(n_units)
    order = np.argsort(spikes.unit, kind="stable")
    begins = np.searchsorted(spikes.unit[order], np.arange(n_units + 1))
    for row in range(n_units):
        pairs = session.unit_observed[row]
        observed = Intervals(pairs[:, 0], pairs[:, 1]).union()
        time_ns = spikes.time_ns[order[begins[row] : begins[row + 1]]]
        count[row] = _inside(time_ns, observed.start_ns, observed.stop_ns).sum()
        seconds[row] = observed.total_ns / NS_PER_S
    return count, seconds


def _inside(time_ns: np.ndarray, start_ns: np.ndarray, stop_ns: np.ndarray) -> np.ndarray:
    """Where times lie in sorted disjoint intervals."""
    if not start_ns.size:
        return np.zeros(time_ns.size, np.bool_)
    row = np.searchsorted(start_ns, time_ns, side="right") - 1
    return (row >= 0) & (time_ns < stop_ns[row])
