"""Many sorted trains of spikes into one stream in order of (time, unit)."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit

DIGIT_BITS = 9  # of the time, sorted by in one pass: 512 counters and 512 places to write at, which L1 holds
LEVEL_BITS = 2 * DIGIT_BITS
FEW = 512  # spikes that a comparison sort orders sooner than two passes over 512 counters
REPAIRS = 4  # steps a spike; where more are needed, the tile is bursty and sorted by comparison


@njit(nogil=True)
def merge_trains(time_ns, low, high, tile_bits, unit_bits, out_time, out_unit):
    """Write the spikes ``low[n]:high[n]`` of every unit n to the outputs, which have room for just these.

    Tile after tile of ``2**tile_bits`` ns, each begun at the first spike that is left, so that silence costs nothing.
    A tile's spikes become keys (time in the tile, unit), which two counting sorts by the upper 18 bits of the time put
    into place but for neighbours that these bits cannot tell apart; a last pass puts those right.

    Args:
        time_ns: int64 ``[S]``, sorted within each unit.
        low, high: int64 ``[N]``.
        tile_bits, unit_bits: at most 64 together; N is at most ``2**unit_bits``.
        out_time, out_unit: int64 and int32.
    """
    level = np.uint64(unit_bits + max(0, tile_bits - LEVEL_BITS))
    keys, passed = np.empty(1 << 14, np.uint64), np.empty(1 << 14, np.uint64)
    low, ends = low.copy(), np.empty_like(low)
    minor, major = np.empty(1 << DIGIT_BITS, np.uint64), np.empty(1 << DIGIT_BITS, np.uint64)
    at = 0
    while at < out_time.size:
        begin = np.uint64(_first_time(time_ns, low, high))
        size = _tile_ends(time_ns, low, high, begin, np.uint64(tile_bits), ends)
        if size > keys.size:
            keys, passed = np.empty(2 * size, np.uint64), np.empty(2 * size, np.uint64)
        own = keys[:size]
        _gather(time_ns, low, ends, begin, np.uint64(unit_bits), own)
        low[:] = ends
        if size >= FEW:
            _two_passes(own, passed[:size], minor, major, level)
        if size < FEW or not _repair(own):
            own.sort()
        _unpack(own, begin, np.uint64(unit_bits), out_time[at : at + size], out_unit[at : at + size])
        at += size


@njit(nogil=True)
def order_by_unit(unit, place, out):
    """``out`` becomes the positions of the spikes unit after unit, in order within each.

    Args:
        unit: int32 ``[S]``.
        place: int64 ``[N]``, where each unit's positions begin in ``out``; where they end, afterwards.
        out: integers ``[S]``.
    """
    for k in range(unit.size):
        n = unit[k]
        out[place[n]] = k
        place[n] += 1


@njit(nogil=True)
def units_out_of_order(time_ns, offset, back):
    """``back[n]`` becomes whether the times ``offset[n]:offset[n + 1]`` fall anywhere."""
    for n in range(back.size):
        own = time_ns[offset[n] : offset[n + 1]]
        later = own[1:]
        falls = 0
        for k in range(later.size):
            falls |= later[k] < own[k]
        back[n] = falls != 0


@njit(nogil=True)
def _first_time(time_ns, low, high):
    first = np.iinfo(np.int64).max
    for n in range(low.size):
        if low[n] < high[n]:
            first = min(first, time_ns[low[n]])
    return first


@njit(nogil=True)
def _tile_ends(time_ns, low, high, begin, tile_bits, ends):
    """Where each unit's spikes of the tile end; returns how many there are in all.

    Times are compared as distances modulo 2**64, which cannot overflow.
    """
    size = 0
    for n in range(low.size):
        own = time_ns[low[n] : high[n]]
        k = np.uint64(0)
        stop = np.uint64(own.size)
        while k < stop and (np.uint64(own[k]) - begin) >> tile_bits == 0:
            k += np.uint64(1)
        ends[n] = low[n] + np.int64(k)
        size += np.int64(k)
    return size


@njit(nogil=True)
def _gather(time_ns, low, ends, begin, unit_bits, keys):
    at = 0
    for n in range(low.size):
        own = time_ns[low[n] : ends[n]]
        out = keys[at : at + own.size]
        at += own.size
        unit = np.uint64(n)
        for k in range(own.size):
            out[k] = ((np.uint64(own[k]) - begin) << unit_bits) | unit


@njit(nogil=True)
def _two_passes(keys, passed, minor, major, level):
    """Stable counting sorts by the lower and then the upper digit of the bits from ``level`` on, there and back."""
    digit, one = np.uint64(DIGIT_BITS), np.uint64(1)
    most = np.uint64((1 << DIGIT_BITS) - 1)
    minor[:], major[:] = 0, 0
    for k in range(keys.size):
        value = keys[k] >> level
        minor[value & most] += one
        major[(value >> digit) & most] += one
    before_minor, before_major = np.uint64(0), np.uint64(0)
    for d in range(minor.size):
        minor[d], before_minor = before_minor, before_minor + minor[d]
        major[d], before_major = before_major, before_major + major[d]
    for k in range(keys.size):
        d = (keys[k] >> level) & most
        passed[minor[d]] = keys[k]
        minor[d] += one
    level += digit
    for k in range(passed.size):
        d = (passed[k] >> level) & most
        keys[major[d]] = passed[k]
        major[d] += one


@njit(nogil=True)
def _repair(keys):
    """Insert each key before those above it; False, with all keys still there, where that takes too many steps."""
    steps = REPAIRS * keys.size
    for k in range(1, keys.size):
        key = keys[k]
        if keys[k - 1] <= key:
            continue
        place = k
        while place > 0 and keys[place - 1] > key:
            keys[place] = keys[place - 1]
            place -= 1
        keys[place] = key
        steps -= k - place
        if steps < 0:
            return False
    return True


@njit(nogil=True)
def _unpack(keys, begin, unit_bits, out_time, out_unit):
    unit = (np.uint64(1) << unit_bits) - np.uint64(1)
    for k in range(keys.size):
        out_time[k] = np.int64(begin + (keys[k] >> unit_bits))
        out_unit[k] = np.int32(keys[k] & unit)
