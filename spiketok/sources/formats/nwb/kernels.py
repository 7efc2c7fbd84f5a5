"""Loops over all spikes of a file that numpy would make several copies for."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit

BLOCK = 4096


@njit(nogil=True)
def count_times(seconds, most_s):
    """How many of the float64 seconds are a time at all: finite, and below ``most_s`` in size."""
    count = 0
    for k in range(seconds.size):
        count += np.abs(seconds[k]) < most_s  # NaN compares False
    return count


@njit(nogil=True)
def seconds_to_ns(seconds, time_ns):
    """Each second as ns to the nearest; all are times that int64 ns can hold.

    Args:
        seconds: float64 ``[S]``.
        time_ns: int64 ``[S]``, takes the ns; it may be the very memory of ``seconds``.
    """
    block = np.empty(BLOCK, np.int64)
    for at in range(0, seconds.size, BLOCK):
        own = seconds[at : at + BLOCK]
        out = block[: own.size]
        for k in range(own.size):
            out[k] = np.int64(np.rint(own[k] * 1e9))
        time_ns[at : at + BLOCK] = out


@njit(nogil=True)
def steps_back(time_ns, offset):
    """How often times fall within a unit, in how many units, and the largest fall in ns.

    Args:
        time_ns: int64 ``[S]``, unit after unit.
        offset: int64 ``[N + 1]``.
    """
    n_back, n_units, most = 0, 0, 0.0
    for n in range(offset.size - 1):
        own = time_ns[offset[n] : offset[n + 1]]
        later, own_back = own[1:], 0
        for k in range(later.size):
            own_back += later[k] < own[k]
        if own_back:
            n_back += own_back
            n_units += 1
            for k in range(later.size):
                most = max(most, np.float64(own[k]) - np.float64(later[k]))
    return n_back, n_units, most


@njit(nogil=True)
def count_stream(time_ns, unit, per_unit):
    """Count each unit's spikes; returns how many have the time of the one before of their unit.

    Args:
        time_ns: int64 ``[S]``, in order.
        unit: int32 ``[S]``; ties in order of unit.
        per_unit: int64 ``[N]``, to which the counts are added.
    """
    twice = 0
    for k in range(time_ns.size):
        per_unit[unit[k]] += 1
        twice += k > 0 and time_ns[k] == time_ns[k - 1] and unit[k] == unit[k - 1]
    return twice


@njit(nogil=True)
def count_inside(time_ns, unit, start_ns, stop_ns, offset):
    """How many spikes lie in an interval of their unit.

    Args:
        time_ns, unit: int64 and int32 ``[S]``.
        start_ns, stop_ns: int64 ``[V]``, sorted and disjoint within each unit.
        offset: int64 ``[N + 1]``; unit n has the intervals ``offset[n]:offset[n + 1]``.
    """
    inside = 0
    for k in range(time_ns.size):
        low, high = offset[unit[k]], offset[unit[k] + 1]
        row = low + np.searchsorted(start_ns[low:high], time_ns[k], side="right") - 1
        inside += row >= low and time_ns[k] < stop_ns[row]
    return inside


@njit(nogil=True)
def begins_again(time_ns, least_ns, around, low_ns, high_ns):
    """How often times begin again: step back and go on rising through time that was there before.

    A time that is the one before it once more tells nothing, nor does one outside of ``low_ns`` to ``high_ns``.

    Args:
        time_ns: int64 ``[S]``, as they stand. least_ns: a smaller step back does not count.
        around: so many before the step are later than the first after it, rising, and so many after it are earlier
            than the last before it, rising.
        low_ns, high_ns: the first and the last time that tells of the clock.

    Returns:
        how often; how many steps back there are at all; the times before and after the first.
    """
    own, size = np.empty(time_ns.size, np.int64), 0
    for k in range(time_ns.size):
        if low_ns <= time_ns[k] <= high_ns and (size == 0 or own[size - 1] != time_ns[k]):
            own[size] = time_ns[k]
            size += 1
    n_again, n_back, before, after = 0, 0, np.int64(0), np.int64(0)
    for k in range(1, size):
        if own[k - 1] - own[k] < least_ns:
            continue
        n_back += 1
        if k < around or k + around > size:
            continue
        rises = own[k - around] > own[k] and own[k + around - 1] < own[k - 1]
        for j in range(1, around):
            rises = rises and own[k - j - 1] < own[k - j] and own[k + j - 1] < own[k + j]
        if rises:
            if n_again == 0:
                before, after = own[k - 1], own[k]
            n_again += 1
    return n_again, n_back, before, after
