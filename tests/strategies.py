"""Hypothesis strategies for the nouns, nasty cases first.

Times are drawn around the places where mistakes live: multiples of a bin and one nanosecond to either side, segment and
window borders, negative times, ties. Sessions have few units, some without a spike.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Windows

STEP_NS = 10_000_000  # half of binned's default bin: bins, edges and middles are multiples of it
LOW, HIGH = -5, 25  # sessions lie between these multiples of STEP_NS
SOURCE = Source(file="made.nwb", sha256="0" * 64, size=1)


@st.composite
def times(draw, low: int = LOW * STEP_NS, high: int = HIGH * STEP_NS) -> int:
    """A nanosecond: on an edge, beside one, or anywhere."""
    edge = draw(st.integers(LOW, HIGH)) * STEP_NS
    t = draw(st.sampled_from([edge, edge - 1, edge + 1, edge + STEP_NS // 2])) if draw(st.booleans()) else None
    return min(max(draw(st.integers(low, high)) if t is None else t, low), high)


@st.composite
def intervals(draw, max_size: int = 4, sorted_disjoint: bool = False) -> Intervals:
    """Intervals, perhaps empty, overlapping, out of order or of length 0; or an ``observed`` that Session accepts."""
    pairs = draw(st.lists(st.tuples(times(), times()), max_size=max_size))
    start, stop = np.array([min(p) for p in pairs], np.int64), np.array([max(p) for p in pairs], np.int64)
    made = Intervals(start, stop)
    return made.union() if sorted_disjoint else made


@st.composite
def signals(draw) -> Signal:
    """A behaviour of two components: regular or not, slower or faster than a bin, with missing samples."""
    step = draw(st.sampled_from([STEP_NS // 5, STEP_NS, 2 * STEP_NS, 3 * STEP_NS + 1]))
    n = draw(st.integers(0, 12))
    jitter = draw(st.lists(st.integers(0, step), min_size=n, max_size=n))
    time_ns = draw(times()) + np.arange(n, dtype=np.int64) * 2 * step + np.array(jitter, np.int64)
    if draw(st.booleans()):
        time_ns = (time_ns[0] if n else 0) + np.arange(n, dtype=np.int64) * step
    valid = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    number = st.floats(-1e3, 1e3, width=32)
    value = np.array(draw(st.lists(st.tuples(number, number), min_size=n, max_size=n)), np.float32).reshape(n, 2)
    return Signal(time_ns, np.where(valid[:, None], value, np.nan).astype(np.float32), ("x", "y"), "mm/s", valid)


@st.composite
def sessions(draw, max_units: int = 4, max_spikes: int = 30, with_signal: bool = False) -> Session:
    """A session: one unit or several, some silent; ties, negative times, a burst that fills a bin; gaps in observed."""
    n_units = draw(st.integers(1, max_units))
    spike = st.tuples(times(), st.integers(0, n_units - 1))
    pairs = draw(st.lists(spike, max_size=max_spikes))
    if pairs and draw(st.integers(0, 9)) == 0:
        pairs += [pairs[0]] * 300  # more than a uint8 holds, in one bin and at one time
    pairs.sort()
    spikes = Spikes(np.array([t for t, _ in pairs], np.int64), np.array([u for _, u in pairs], np.int32))
    whole = Intervals(np.array([LOW * STEP_NS]), np.array([HIGH * STEP_NS + 1]))
    observed = whole if draw(st.booleans()) else draw(intervals(sorted_disjoint=True))
    unit_observed = None
    if draw(st.booleans()):
        own = [draw(intervals(max_size=2)) for _ in range(n_units)]
        rows = [np.stack([i.start_ns, i.stop_ns], axis=1) for i in own]
        unit_observed = Ragged(np.concatenate(rows), np.cumsum([0, *[len(r) for r in rows]]))
    return Session(
        id="made/one",
        subject="s",
        start_ns=LOW * STEP_NS,
        stop_ns=HIGH * STEP_NS + 1,
        units=UnitTable(np.array([f"u{n}" for n in range(n_units)])),
        spikes=spikes,
        observed=observed,
        unit_observed=unit_observed,
        source=SOURCE,
        signals={"hand/vel": draw(signals())} if with_signal else {},
    )


def all_segments() -> st.SearchStrategy[Intervals]:
    """Segments: the whole session, or any intervals (overlapping trials, out of order, shorter than a bin, empty)."""
    whole = Intervals(np.array([LOW * STEP_NS]), np.array([HIGH * STEP_NS + 1]))
    return st.one_of(st.just(whole), intervals())


@st.composite
def windows(draw, segments: Intervals, scheme: Scheme, max_windows: int = 4) -> Windows:
    """Windows of one length inside the segments, at their very start and end too; none where nothing fits."""
    step = scheme.window_ns or scheme.length_grid_ns
    room = segments.stop_ns - segments.start_ns
    fits = [g for g in range(len(segments)) if room[g] >= step]
    if not fits:
        return Windows(np.zeros(0, np.int64), np.zeros(0, np.int64), step)
    longest = 1 if scheme.window_ns else int(max(room[g] for g in fits)) // step
    length = draw(st.one_of(st.just(longest), st.integers(1, longest))) * step
    fits = [g for g in fits if room[g] >= length]
    segment, start = [], []
    for _ in range(draw(st.integers(0, max_windows))):
        g = draw(st.sampled_from(fits))
        last = (int(room[g]) - length) // scheme.grid_ns
        at = draw(st.one_of(st.just(0), st.just(last), st.integers(0, last)))
        segment.append(g)
        start.append(int(segments.start_ns[g]) + at * scheme.grid_ns)
    return Windows(np.array(segment, np.int64), np.array(start, np.int64), length)


@st.composite
def keeps(draw, n_windows: int, n_units: int) -> np.ndarray | None:
    """Which units each window keeps: all (None), none, or any."""
    kind = draw(st.sampled_from(["all", "none", "any"]))
    if kind == "all":
        return None
    flags = draw(st.lists(st.booleans(), min_size=n_windows * n_units, max_size=n_windows * n_units))
    return np.array([f and kind == "any" for f in flags], np.bool_).reshape(n_windows, n_units)
