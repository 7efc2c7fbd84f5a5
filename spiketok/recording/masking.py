"""Time that a user takes out of what was observed: bad stretches that a table of the session names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spiketok.errors import DataError, UnknownNameError
from spiketok.recording.intervals import seconds, without
from spiketok.recording.nouns import Finding, Intervals, Ragged, Session


def mask_time(session: Session, tables: Sequence[str]) -> Session:
    """The session without the intervals of tables in its observed time; spikes and samples stay where they are.

    Args:
        session: with the tables among its ``intervals``.
        tables: their names, as ``"invalid_times"``.

    Raises:
        UnknownNameError: it has no such table. DataError: no observed time is left.
    """
    for table in tables:
        if table not in session.intervals:
            raise UnknownNameError("interval table", table, session.intervals, session.id)
        gone = session.intervals[table]
        left = without(session.observed, gone)
        if not left.total_ns:
            message = f"{session.id}: nothing is left of {seconds(session.observed):.1f} s observed without '{table}'"
            raise DataError(message)
        taken_s = seconds(session.observed) - seconds(left)
        text = f"{taken_s:.3f} s in {len(gone)} rows of '{table}' are not observed, {seconds(left):.1f} s are"
        note = Finding("time-masked", len(gone), text)
        own = None if session.unit_observed is None else _without(session.unit_observed, gone)
        session = replace(session, observed=left, unit_observed=own, notes=(*session.notes, note))
    return session


def _without(unit_observed: Ragged, gone: Intervals) -> Ragged:
    pairs = []
    for row in range(len(unit_observed)):
        own = unit_observed[row].astype(np.int64)
        left = without(Intervals(own[:, 0], own[:, 1]), gone)
        pairs.append(np.stack([left.start_ns, left.stop_ns], axis=1))
    return Ragged(np.concatenate(pairs), np.cumsum([0, *map(len, pairs)]))
