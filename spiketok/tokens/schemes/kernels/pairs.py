"""Event pairs: spikes in order of step and unit, and the two streams of a window."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit


@njit(nogil=True)
def order_by_step(time_ns, unit, start_ns, step_ns, n_units, first_row, step_row, out_unit):
    """Order the spikes of one segment by step and unit.

    Args:
        time_ns, unit: ``[S]`` in order of time, all inside the segment that begins at ``start_ns``.
        first_row: the segment's first row. step_row: int64 ``[T]``, becomes the first row of each step.
        out_unit: int32 ``[S]``, the segment's rows.
    """
    count = np.zeros(n_units, np.int64)
    i = 0
    for k in range(step_row.size):
        step_row[k] = first_row + i
        stop, first = start_ns + (k + 1) * step_ns, i
        while i < time_ns.size and time_ns[i] < stop:
            out_unit[i] = unit[i]
            i += 1
        _sort(out_unit[first:i], count)


@njit(nogil=True)
def _sort(unit, count):
    """Sort units in place: by insertion where they are few, else by counting. ``count`` is zero before and after."""
    if unit.size * unit.size < 4 * count.size:
        for i in range(1, unit.size):
            own, j = unit[i], i - 1
            while j >= 0 and unit[j] > own:
                unit[j + 1] = unit[j]
                j -= 1
            unit[j + 1] = own
        return
    for i in range(unit.size):
        count[unit[i]] += 1
    at = 0
    for n in range(count.size):
        unit[at : at + count[n]] = n
        at += count[n]
        count[n] = 0


@njit(nogil=True)
def count_pairs(unit, step_row, first, current, n_current, keep, count):
    """``count[b]`` becomes the spikes of kept units in the history and in the current window.

    Args:
        step_row: int64, the first row of each step. first, current: int64 ``[B]``, the steps at which the history and
            the current window begin. count: int64 ``[B, 2]``.
    """
    for b in range(first.size):
        for s in range(2):
            low = step_row[first[b] if s == 0 else current[b]]
            high = step_row[current[b] if s == 0 else current[b] + n_current]
            if keep.shape[0] == 0:
                count[b, s] = high - low
            else:
                kept, u = keep[b].view(np.uint8), unit[low:high]
                total = 0
                for i in range(u.size):
                    total += np.int64(kept[np.uint64(u[i])])
                count[b, s] = total


@njit(nogil=True)
def fill_pairs(
    unit,
    step_row,
    first,
    current,
    n_history,
    n_current,
    count,
    keep,
    unit_row,
    special,
    end_dt,
    max_history,
    max_current,
    pad,
    row,
    out_unit,
    out_dt,
    out_stream,
    out_type,
):
    """Write each window's history and current window: SOS, the last spikes that fit, EOS and, with ``pad``, PADs.

    Args:
        count: int64 ``[B, 2]``, from :func:`count_pairs`. unit_row: int32 ``[N]``. row: int64 ``[B]``.
        special: the unit of SOS; EOS and PAD follow. end_dt: the dt of EOS; that of PAD follows.
        out_unit, out_dt, out_stream, out_type: int32, int16, uint8, uint8 of one length.
    """
    everyone = np.ones(unit_row.size, np.uint8)
    for b in range(first.size):
        kept = everyone if keep.shape[0] == 0 else keep[b].view(np.uint8)
        place = row[b]
        for s in range(2):
            begin, stop, origin = first[b], current[b], current[b] - n_history
            if s == 1:
                begin, stop, origin = current[b], current[b] + n_current, current[b]
            largest = max_history if s == 0 else max_current
            held = min(count[b, s], largest - 2)
            size = largest if pad else held + 2
            units, dts = out_unit[place : place + size], out_dt[place : place + size]
            streams, types = out_stream[place : place + size], out_type[place : place + size]
            place += size
            streams[:] = s
            units[0], dts[0], types[0] = special, 0, 1
            at = np.uint64(1)
            skip = count[b, s] - held
            for k in range(begin, stop):
                u = unit[step_row[k] : step_row[k + 1]]
                for i in range(u.size):
                    if not kept[np.uint64(u[i])]:
                        continue
                    if skip > 0:
                        skip -= 1
                        continue
                    units[at] = unit_row[np.uint64(u[i])]
                    dts[at] = k - origin
                    at += np.uint64(1)
            end = held + 1
            types[1:end] = 0
            units[end], dts[end], types[end] = special + 1, end_dt, 2
            units[end + 1 :], dts[end + 1 :], types[end + 1 :] = special + 2, end_dt + 1, 3
