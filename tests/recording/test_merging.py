"""Merging units' spike times: equal to the stable sort for any input, any number of threads, any place of a border."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.merging import merge_units

HOUR_NS = 3_600_000_000_000


def check(trains: list[np.ndarray], threads: tuple[int, ...] = (1, 3)) -> None:
    """The merged stream against numpy's stable sort."""
    time_ns = np.concatenate(trains).astype(np.int64)
    unit = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    order = np.argsort(time_ns, kind="stable")
    before = time_ns.copy()
    offset = np.cumsum([0, *(len(t) for t in trains)])
    for n in threads:
        found_time, found_unit = merge_units(time_ns, offset, threads=n)
        assert (found_time.dtype, found_unit.dtype) == (np.int64, np.int32)
        np.testing.assert_array_equal(found_time, time_ns[order])
        np.testing.assert_array_equal(found_unit, unit[order])
    np.testing.assert_array_equal(time_ns, before)  # the input is left as it was


@given(
    st.lists(
        st.lists(st.one_of(st.integers(-3, 3), st.integers(-HOUR_NS, HOUR_NS), st.integers(-(2**63), 2**63 - 1))),
        min_size=1,
        max_size=6,
    )
)
def test_any_times_in_any_order(trains):
    check([np.array(t, np.int64) for t in trains])


@pytest.mark.parametrize("n_units", [1, 2, 3, 300])
def test_a_recording_on_a_clock(n_units):
    """Ticks of a 30 kHz clock, so that many spikes share their time; enough of them for the counting sorts."""
    rng = np.random.default_rng(n_units)
    tick = [np.sort(rng.integers(-30_000, 30_000 * 60, rng.poisson(90_000 / n_units))) for _ in range(n_units)]
    check([np.rint(t * (1e9 / 30_000)).astype(np.int64) for t in tick])


def test_a_few_spikes_a_tick_apart_by_one_nanosecond():
    """Times that the counting sorts cannot tell apart, falling with the unit: each of them needs the repair."""
    moments = np.arange(20_000) * 100_000_000
    check([moments + 5, moments + 4, moments + 4, moments])


def test_bursts_in_silence():
    """All spikes of hours in a few milliseconds, in falling order of unit: more than the repair would put right."""
    rng = np.random.default_rng(0)
    burst = [np.sort(rng.integers(0, 3_000_000, 3000)) for _ in range(8)]
    check([np.concatenate([b + 3_000_000 * (9 - n), b + 5 * HOUR_NS]) for n, b in enumerate(burst)])


def test_one_moment():
    check([np.full(5000, -7), np.full(3, -8), np.full(5000, -7)])
    check([np.full(100_000, 2**62), np.array([-(2**62)])])


def test_silent_units_and_no_spike_at_all():
    empty = np.zeros(0, np.int64)
    check([empty, np.array([3, 5]), empty, np.array([3]), empty])
    check([empty, empty])
    found_time, found_unit = merge_units(empty, np.array([0]))
    assert (len(found_time), len(found_unit)) == (0, 0)


def test_more_units_than_a_byte_numbers():
    rng = np.random.default_rng(1)
    check([rng.integers(0, 1000, 2) for _ in range(70_000)], threads=(1, 2))


def test_given_outputs_are_filled():
    out = (np.full(3, 9, np.int64), np.full(3, 9, np.int32))
    found = merge_units(np.array([4, 1, 2]), np.array([0, 1, 3]), threads=2, out=out)
    assert found[0] is out[0]
    assert found[1] is out[1]
    assert (out[0].tolist(), out[1].tolist()) == ([1, 2, 4], [1, 1, 0])


def test_what_does_not_fit_is_refused():
    times, offset = np.array([1, 2]), np.array([0, 2])
    with pytest.raises(UsageError, match="threads is 0"):
        merge_units(times, offset, threads=0)
    for wrong in ([0, 1], [1, 2], [0, 2, 1, 2]):
        with pytest.raises(UsageError, match="must rise from 0 to its 2 rows"):
            merge_units(times, np.array(wrong))
    with pytest.raises(UsageError, match="is float64"):
        merge_units(times * 0.5, offset)
    for out in ((np.empty(2, np.int32), np.empty(2, np.int32)), (np.empty(2, np.int64), np.empty(3, np.int32))):
        with pytest.raises(UsageError, match="out (time|unit) is int32"):
            merge_units(times, offset, out=out)
