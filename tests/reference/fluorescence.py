"""fluorescence: each valid frame in order of time, each with its kept units in order of row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Session, Signal
from spiketok.tokens.schemes import Fluorescence
from tests import strategies
from tests.reference.common import seconds

VARIANTS = [Fluorescence()]


@st.composite
def sessions(draw) -> Session:
    """A session imaged at most every 10 ms: jitter, gaps, frames that are not valid, perhaps two 1 ns apart."""
    session = draw(strategies.sessions())
    n_units, n = len(session.units), draw(st.integers(0, 20))
    steps = draw(st.lists(st.sampled_from([10_000_000, 10_000_001, 33_333_333, 90_000_000]), min_size=n, max_size=n))
    time_ns = draw(strategies.times()) + np.cumsum(np.array(steps, np.int64))
    if n and draw(st.booleans()):
        time_ns = np.sort(np.append(time_ns, draw(st.sampled_from(time_ns.tolist())) + 1))
    value = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(len(time_ns), n_units)).astype(np.float32)
    valid = np.array(draw(st.lists(st.booleans(), min_size=len(time_ns), max_size=len(time_ns))), np.bool_)
    value[~valid, 0] = np.nan
    names = tuple(f"roi{n}" for n in range(n_units))
    signal = Signal(time_ns, value, names, "", valid)
    return replace(session, signals={"fluorescence": signal})


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """Tokens as (value, ns in the window, row)."""
    start, n_units, signal = int(windows.start_ns[b]), len(session.units), session.signals[scheme.signal]
    tokens = []
    for f, t in enumerate(signal.time_ns.tolist()):
        if start <= t < start + windows.length_ns and signal.valid[f]:
            for n in range(n_units):
                if keep is None or keep[n]:
                    tokens.append((signal.value[f, n], t - start, n if unit_row is None else unit_row[n]))
    return {
        "value": np.array([v for v, _, _ in tokens], np.float32),
        "time": np.array([seconds(t) for _, t, _ in tokens], np.float32),
        "unit": np.array([u for _, _, u in tokens], np.int32),
    }


def check_bake(scheme, session, segments, baked) -> None:
    """Each segment's rows are its frames; every spike inside a segment is counted as not held."""
    row, signal, n_spikes = baked.columns["segment.row"], session.signals[scheme.signal], 0
    for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        frames = [f for f, t in enumerate(signal.time_ns.tolist()) if start <= t < stop]
        rows = slice(row[g], row[g + 1])
        assert baked.columns["time_ns"][rows].tolist() == [int(signal.time_ns[f]) for f in frames]
        assert baked.columns["valid"][rows].tolist() == [int(signal.valid[f]) for f in frames]
        np.testing.assert_array_equal(baked.columns["value"][rows], signal.value[frames])
        n_spikes += sum(start <= t < stop for t in session.spikes.time_ns.tolist())
    assert baked.lost["not_in_fluorescence"] == n_spikes
    assert scheme.spikes_held(baked.columns) == 0
