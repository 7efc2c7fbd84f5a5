"""Spikes and samples outside of what was observed: which spike times stand for nothing, and leaving all of it out.

What is unusual: a filler is known by what no neuron does. At the first or the last time of a recording one unit fires
several times in the same nanosecond, or most units do so together, and nothing like it is found at any time between.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session, Signal, Spikes

LEAST_REPEATED, LEAST_SHARING = 3, 3  # spikes of one unit, or units, at one time
MORE = 2  # times as many as at any time between
OF_ALL_SPIKES = ("spikes-negative", "spikes-duplicate", "spikes-after-end")
OF_OUTSIDE = ("spikes-unobserved", "spikes-filler")


def fillers(spikes: Spikes) -> slice:
    """The spikes between those whose time stands for nothing: the first time of all, the last one, or both.

    Args:
        spikes: of a units table. Counts of bins have many spikes at the start of each bin: nothing is found there.

    >>> spikes = Spikes([-1, -1, -1, 5, 9], [0, 0, 0, 0, 1])
    >>> spikes.time_ns[fillers(spikes)].tolist()
    [5, 9]
    """
    time_ns, whole = spikes.time_ns, slice(0, len(spikes))
    if not len(spikes) or time_ns[0] == time_ns[-1]:
        return whole
    first, last = int(np.searchsorted(time_ns, time_ns[0], "right")), int(np.searchsorted(time_ns, time_ns[-1]))
    if first >= last:  # two times in all: neither is more odd than the other
        return whole
    n_spiking = None
    found = []
    for edge in (slice(0, first), slice(last, len(spikes))):
        repeated, sharing = _at_once(time_ns[edge], spikes.unit[edge])
        if repeated >= LEAST_REPEATED or sharing >= LEAST_SHARING:
            n_spiking = n_spiking or np.unique(spikes.unit).size
            found.append((edge, repeated, sharing if 2 * sharing >= n_spiking else 0))
    if not any(repeated >= LEAST_REPEATED or sharing >= LEAST_SHARING for _, repeated, sharing in found):
        return whole
    usual_repeated, usual_sharing = _at_once(time_ns[first:last], spikes.unit[first:last])
    for edge, repeated, sharing in found:
        is_repeated = repeated >= LEAST_REPEATED and repeated > MORE * usual_repeated
        if is_repeated or (sharing >= LEAST_SHARING and sharing > MORE * usual_sharing):
            whole = slice(first, whole.stop) if edge.start == 0 else slice(whole.start, last)
    return whole


def _at_once(time_ns: np.ndarray, unit: np.ndarray) -> tuple[int, int]:
    """The most spikes of one unit, and the most units, at one time; times in order, ties in order of unit."""
    if not time_ns.size:
        return 0, 0
    later = np.diff(time_ns) > 0
    own = np.flatnonzero(np.concatenate([[True], later | (np.diff(unit) > 0), [True]]))
    first_of_time = np.concatenate([[True], later])[own[:-1]]
    units = np.diff(np.append(np.flatnonzero(first_of_time), own.size - 1))
    return int(np.diff(own).max()), int(units.max())


def filler_note(spikes: Spikes, recorded: slice) -> Finding | None:
    """What is said of the spikes that stand outside of a slice of :func:`fillers`; None where there are none."""
    n_out = len(spikes) - (recorded.stop - recorded.start)
    if not n_out:
        return None
    text = (
        f"{n_out} of {len(spikes)} spikes stand at {_edges(spikes, recorded)}, as often as at no other time: taken as "
        "fillers, not as observed; kept, --drop-outside leaves them out"
    )
    return Finding("spikes-filler", n_out, text)


def _edges(spikes: Spikes, recorded: slice) -> str:
    edges = [spikes.time_ns[0]] if recorded.start else []
    edges += [spikes.time_ns[-1]] if recorded.stop < len(spikes) else []
    return " and ".join(f"{time_ns / NS_PER_S:.9g} s" for time_ns in edges)


def drop_outside(session: Session) -> Session:
    """The session without fillers, spikes outside of their observed time, and samples outside of all observed time.

    Samples in a pause of the units' recording stay: a behaviour may have been measured there. What is said of all
    spikes as they were read says so from then on.

    Raises:
        DataError: not one spike would be left.
    """
    spikes, n_all = session.spikes, len(session.spikes)
    recorded = fillers(spikes)
    keep = np.zeros(n_all, np.bool_)
    keep[recorded] = True
    n_filler = n_all - int(keep.sum())
    keep &= _in_observed(session)
    repairs, notes = list(session.repairs), session.notes
    if not keep.all():
        n_out = n_all - int(keep.sum())
        if n_out == n_all:
            message = f"{session.id}: all {n_all} spikes lie outside of its observed time: leave out --drop-outside"
            raise DataError(message)
        text = f"dropped {n_out} of {n_all} spikes outside of the observed time"
        text += f", {n_filler} of them fillers at {_edges(spikes, recorded)}" if n_filler else ""
        repairs.append(Finding("spikes-outside-dropped", n_out, text))
        spikes = Spikes(spikes.time_ns[keep], spikes.unit[keep])
        notes = tuple(_as_read(note) for note in notes if note.id not in OF_OUTSIDE)
    signals = {}
    for name, signal in session.signals.items():
        signals[name] = _within(signal, session.observed)
        n_out = signal.time_ns.size - signals[name].time_ns.size
        if n_out:
            text = f"{name}: dropped {n_out} of {signal.time_ns.size} samples before or after the observed time"
            repairs.append(Finding("samples-outside-dropped", n_out, text))
    found = replace(session, spikes=spikes, signals=signals, repairs=tuple(repairs), notes=notes)
    return _with_extent(found) if len(repairs) > len(session.repairs) else session


def _in_observed(session: Session) -> np.ndarray:
    """bool ``[S]``: which spikes lie in the observed time of their unit."""
    spikes = session.spikes
    if session.unit_observed is None:
        return holds(session.observed, spikes.time_ns)
    inside = np.zeros(len(spikes), np.bool_)
    order = np.argsort(spikes.unit, kind="stable")
    begins = np.searchsorted(spikes.unit[order], np.arange(len(session.units) + 1))
    for row in range(len(session.units)):
        pairs, own = session.unit_observed[row], order[begins[row] : begins[row + 1]]
        inside[own] = holds(Intervals(pairs[:, 0], pairs[:, 1]), spikes.time_ns[own])
    return inside


def _as_read(note: Finding) -> Finding:
    return replace(note, text=f"as it was read: {note.text}") if note.id in OF_ALL_SPIKES else note


def _within(signal: Signal, observed: Intervals) -> Signal:
    low, high = np.searchsorted(signal.time_ns, [observed.start_ns[0], observed.stop_ns[-1]])
    if high - low == signal.time_ns.size:
        return signal
    return replace(signal, time_ns=signal.time_ns[low:high], value=signal.value[low:high], valid=signal.valid[low:high])


def _with_extent(session: Session) -> Session:
    """The session with an extent that reaches no further than its observed time and the rows of its tables do."""
    observed = session.observed
    starts, stops = [observed.start_ns[:1]], [observed.stop_ns[-1:]]
    for table in session.intervals.values():
        starts.append(table.start_ns)
        stops.append(table.stop_ns)
    start, stop = np.concatenate(starts), np.concatenate(stops)
    low, high = session.start_ns, session.stop_ns
    start_ns = int(start[start >= low].min())
    start_ns -= max(start_ns, 0) % NS_PER_S  # on the recording's own clock
    return replace(session, start_ns=max(low, start_ns), stop_ns=int(stop[stop <= high].max()))
