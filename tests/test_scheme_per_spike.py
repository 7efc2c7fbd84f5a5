"""What per-spike promises besides the laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from laws import assert_same
from strategies import SOURCE

from spiketok.recording import Intervals, Session, Spikes, UnitTable
from spiketok.schemes import PerSpike
from spiketok.schemes.base import Windows


@example(1_000_000_000, [(9, 3), (2, 1), (1, 0)])  # the nearest nanosecond is the window's last, and two must follow
@given(
    st.one_of(st.sampled_from([1, 10**9, 10**10]), st.integers(5 * 10**8, 4 * 10**11)),
    st.lists(
        st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 3_000_000)), st.integers(0, 3)), min_size=1, max_size=60
    ),
)
def test_per_spike_law_4_where_float32_cannot_tell_spikes_apart(length, close):
    """Many spikes within one float32 step, up to the last nanosecond of windows of up to 400 s."""
    pairs = sorted((max(0, length - 1 - back), unit) for back, unit in close)
    spikes = Spikes(np.array([t for t, _ in pairs]), np.array([u for _, u in pairs], np.int32))
    whole = Intervals([0], [length])
    session = Session("made/one", "s", 0, length, UnitTable(np.arange(4)), spikes, whole, SOURCE)
    window, scheme = Windows(np.array([0]), np.array([0]), length), PerSpike()
    tokens = scheme.cut(scheme.bake(session, whole).columns, window)
    (back,) = scheme.detokenize(tokens, window)
    again = scheme.cut(scheme.bake(replace(session, spikes=back), whole).columns, window)
    assert_same(again.columns, tokens.columns)
    step_ns = float(np.spacing(np.float32(length * 1e-9))) * 1e9
    assert np.abs(back.time_ns - spikes.time_ns).max() <= step_ns + 1


def test_per_spike_tokens_by_hand():
    """POYO's order: START and END unit by unit, silent units too, then the spikes; a dropped unit leaves neither."""
    spikes = Spikes.from_units([np.array([1_000_000_000, 1_500_000_000]), np.zeros(0), np.array([1_250_000_000])])
    whole = Intervals([0], [3_000_000_000])
    session = Session("a/b", "", 0, 3_000_000_000, UnitTable(["u", "v", "w"]), spikes, whole, SOURCE)
    columns = PerSpike().bake(session, whole).columns
    window = Windows(np.array([0, 0]), np.array([1_000_000_000, 0]), 1_000_000_000)
    rows = np.array([10, 20, 30], np.int32)
    tokens = PerSpike().cut(columns, window, np.array([[True, True, True], [False, True, False]]), rows)
    assert tokens.offset.tolist() == [0, 9, 11]
    assert tokens.columns["unit"].tolist() == [10, 10, 20, 20, 30, 30, 10, 30, 10, 20, 20]
    assert tokens.columns["type"].tolist() == [1, 2, 1, 2, 1, 2, 0, 0, 0, 1, 2]
    assert tokens.columns["time"].tolist() == [0, 1, 0, 1, 0, 1, 0, 0.25, 0.5, 0, 1]


def test_the_look_up_table_is_right_over_long_silence_and_bursts():
    """Windows on, before and behind steps of the table, in a session with 1 s of silence between bursts."""
    rng = np.random.default_rng(0)
    bursts = [k * 1_000_000_000 + np.sort(rng.integers(0, 2_000_000, 50)) for k in range(5)]
    spikes = Spikes.from_units([np.concatenate(bursts)])
    whole = Intervals([-1], [5_000_000_001])
    session = Session("a/b", "", -1, 5_000_000_001, UnitTable(["u"]), spikes, whole, SOURCE)
    scheme = PerSpike()
    columns = scheme.bake(session, whole).columns
    starts = (np.arange(0, 45)[:, None] * 100_000_000 + np.array([-1, 0, 1])).ravel()
    for length in (1, 99_999_999, 100_000_000, 300_000_001):
        window = Windows(np.zeros(len(starts), np.int64), starts, length)
        found = scheme.lengths(columns, window) - 2
        low, high = np.searchsorted(spikes.time_ns, starts), np.searchsorted(spikes.time_ns, starts + length)
        np.testing.assert_array_equal(found, high - low)
