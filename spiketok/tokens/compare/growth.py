"""How a scheme's windows grow with units and with spikes: measured with half of either left out."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Spikes, UnitTable
from spiketok.tokens.compare.attention import Lengths
from spiketok.tokens.compare.windows import batches
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Windows


def growth(scheme: Scheme, session: Session, windows: Windows, lengths: Lengths, seed: int) -> dict[str, float | None]:
    """How a window's length grows with each unit and with each spike in it; None where it cannot be measured."""
    n_units, rng = len(session.units), np.random.default_rng([seed, 1])
    kept_units = np.sort(rng.permutation(n_units)[: n_units // 2])
    kept_spikes = np.sort(rng.permutation(len(session.spikes))[: len(session.spikes) // 2])
    thinned = Spikes(session.spikes.time_ns[kept_spikes], session.spikes.unit[kept_spikes])
    spikes, length = _spikes_per_window(session.spikes, windows), lengths.tokens.mean()
    fewer_spikes = spikes - _spikes_per_window(thinned, windows)
    if not fewer_spikes:
        return {"tokens_per_unit": None, "tokens_per_spike": None}
    shorter = length - _mean_length(scheme, _changed(session, spikes=thinned), windows)
    per_spike = shorter / fewer_spikes
    if kept_units.size == 0:
        return {"tokens_per_unit": None, "tokens_per_spike": float(per_spike)}
    smaller = _with_units(session, kept_units)
    fewer_spikes = spikes - _spikes_per_window(smaller.spikes, windows)
    shorter = length - _mean_length(scheme, smaller, windows)
    per_unit = (shorter - per_spike * fewer_spikes) / (n_units - kept_units.size)
    return {"tokens_per_unit": float(per_unit), "tokens_per_spike": float(per_spike)}


def _spikes_per_window(spikes: Spikes, windows: Windows) -> float:
    low = np.searchsorted(spikes.time_ns, windows.start_ns)
    return float((np.searchsorted(spikes.time_ns, windows.start_ns + windows.length_ns) - low).mean())


def _mean_length(scheme: Scheme, session: Session, windows: Windows) -> float:
    columns = scheme.bake(session, Intervals([session.start_ns], [session.stop_ns])).columns
    return float(np.concatenate([scheme.lengths(columns, batch) for batch in batches(windows)]).mean())


def _changed(session: Session, **values: object) -> Session:
    return Session(**{**session.__dict__, **values})


def _with_units(session: Session, rows: np.ndarray) -> Session:
    """The session as if only these units had been recorded; a signal with a component a unit keeps only theirs."""
    n_units = len(session.units)
    new_row = np.full(n_units, -1, np.int32)
    new_row[rows] = np.arange(rows.size, dtype=np.int32)
    unit = new_row[session.spikes.unit]
    plain = {name: column[rows] for name, column in session.units.columns.items() if not isinstance(column, Ragged)}
    signals = {
        name: Signal(s.time_ns, s.value[:, rows], tuple(s.components[n] for n in rows), s.measure, s.valid, s.rate_hz)
        if len(s.components) == n_units
        else s
        for name, s in session.signals.items()
    }
    observed = session.unit_observed
    if observed is not None:
        kept = [observed[n].reshape(-1, 2) for n in rows]
        observed = Ragged(np.concatenate(kept), np.cumsum([0, *[len(i) for i in kept]]))
    return _changed(
        session,
        units=UnitTable(session.units.id[rows], plain),
        spikes=Spikes(session.spikes.time_ns[unit >= 0], unit[unit >= 0]),
        unit_observed=observed,
        signals=signals,
    )
