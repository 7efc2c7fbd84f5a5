"""The recording's clock: nanoseconds as ticks where every one of them lies exactly on one, in integers only."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from spiketok.recording.nouns import NS_PER_S

CLOCK_ROWS = 1 << 14  # looked at together: what is off the clock shows early, and what is computed stays in the cache
CLOCKS_HZ = (Fraction(1_000), Fraction(10_000), Fraction(390_625, 16), Fraction(30_000), Fraction(1_000_000))


def ticks_from_ns(time_ns: np.ndarray, period_ns: Fraction) -> np.ndarray | None:
    """Ticks of a clock, or None if a time is not exactly on one.

    Args:
        time_ns: int64 ``[S]``.
        period_ns: the clock's period; a tick's time is ``tick * period_ns`` rounded to the nearest ns.
    """
    num, den = period_ns.numerator, period_ns.denominator
    if not _all_within(time_ns, 2**61 // (2 * den)):
        return None
    tick = nearest_ticks(time_ns, period_ns)
    if not _all_within(tick, 2**61 // (2 * num)):
        return None
    rest = 2 * num * tick
    rest -= 2 * den * time_ns  # a tick's time is this time where 0 <= rest + den < 2 den: no second division
    return tick if not rest.size or (int(rest.min()) >= -den and int(rest.max()) < den) else None


def nearest_ticks(time_ns: np.ndarray, period_ns: Fraction) -> np.ndarray:
    """The ticks of times that are known to lie on the clock."""
    num, den = period_ns.numerator, period_ns.denominator
    return (2 * den * time_ns + num) // (2 * num)


def _all_within(values: np.ndarray, limit: int) -> bool:
    return not values.size or (int(values.min()) >= -limit and int(values.max()) <= limit)


def ns_from_ticks(tick: np.ndarray, period_ns: Fraction) -> np.ndarray:
    """int64 ns of ticks, rounded to the nearest (halves up)."""
    num, den = period_ns.numerator, period_ns.denominator
    return tick if num == den else (2 * num * tick + den) // (2 * den)  # as they are: twice of 146 years overflows


def find_period(time_ns: np.ndarray, declared_hz: float | None = None) -> Fraction:
    """The period in ns of the coarsest clock that all times are exactly on; 1 if there is none."""
    clocks = set(CLOCKS_HZ)
    if declared_hz is not None and np.isfinite(declared_hz) and declared_hz > 0:
        clocks.add(Fraction(declared_hz).limit_denominator(1_000_000))
    for clock_hz in sorted(clocks):
        period_ns = NS_PER_S / clock_hz
        pieces = (time_ns[low : low + CLOCK_ROWS] for low in range(0, time_ns.size, CLOCK_ROWS))
        if all(ticks_from_ns(piece, period_ns) is not None for piece in pieces):
            return period_ns
    return Fraction(1)
