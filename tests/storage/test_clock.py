"""The recording's clock: which one is found, and that its ticks are rounded as exact fractions are."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from spiketok.storage.clock import find_period, ns_from_ticks, ticks_from_ns

CLOCKS_HZ = [25_000, 24_414.0625, 48_828.125, 30_000, 32_000, 32_768, 44_100]
KNOWN_NS = {25_000: 1_000, 24_414.0625: 40_960, 30_000: Fraction(100_000, 3)}  # found undeclared; 40 us are on 1 MHz
HALF = Fraction(1, 2)


def on_clock(clock_hz: float) -> tuple[list[int], np.ndarray, Fraction]:
    """Ticks before, at and long after time zero, their times rounded to the nearest ns (halves up), and the period."""
    period_ns = 10**9 / Fraction(clock_hz)
    ticks = [*range(-700, 700), *range(3_600 * int(clock_hz), 3_600 * int(clock_hz) + 300)]
    return ticks, np.array([floor(tick * period_ns + HALF) for tick in ticks], np.int64), period_ns


@pytest.mark.parametrize("clock_hz", CLOCKS_HZ)
def test_ticks_and_times_are_those_of_exact_fractions(clock_hz):
    ticks, time_ns, period_ns = on_clock(clock_hz)
    assert ns_from_ticks(np.array(ticks, np.int64), period_ns).tolist() == time_ns.tolist()
    found = ticks_from_ns(time_ns, period_ns)
    assert found is not None
    assert found.tolist() == ticks


@pytest.mark.parametrize("clock_hz", CLOCKS_HZ)
@pytest.mark.parametrize("off_ns", [-1, 1])
def test_one_time_beside_its_tick_is_on_no_clock(clock_hz, off_ns):
    _, time_ns, period_ns = on_clock(clock_hz)
    time_ns[701] += off_ns  # the first tick after zero
    assert ticks_from_ns(time_ns, period_ns) is None
    assert find_period(time_ns, float(clock_hz)) == 1


@pytest.mark.parametrize("clock_hz", CLOCKS_HZ)
def test_a_declared_clock_is_found_whatever_its_rate(clock_hz):
    _, time_ns, period_ns = on_clock(clock_hz)
    assert find_period(time_ns, float(clock_hz)) == period_ns
    assert find_period(time_ns) == KNOWN_NS.get(clock_hz, 1)


def test_a_tie_goes_up_on_both_sides_of_zero():
    """A tick of 32,768 Hz lasts 30517.578125 ns: every 32nd may lie half-way between two ns."""
    period_ns = Fraction(10**9, 32_768)
    ticks = np.array([-64, -32, 32, 64])
    assert 32 * period_ns == 976_562 + HALF
    assert ns_from_ticks(ticks, period_ns).tolist() == [-1_953_125, -976_562, 976_563, 1_953_125]
    assert ticks_from_ns(np.array([-976_562, 976_563]), period_ns).tolist() == [-32, 32]
    assert ticks_from_ns(np.array([-976_563]), period_ns) is None
