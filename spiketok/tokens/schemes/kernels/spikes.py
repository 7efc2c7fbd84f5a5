"""Event streams: the spikes of windows, one token each, in order of time, in chunks or unit by unit."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit
from spiketok.tokens.schemes.kernels.windows import SECONDS, first_not_before


@njit(nogil=True)
def spike_rows(time_ns, coarse_row, coarse_first, coarse_ns, segment_start, segment, start_ns, length_ns, low, high):
    """``low[b]:high[b]`` becomes the rows of window b's spikes, found inside one step of the coarse table.

    Args:
        time_ns: ``[S]``, ordered inside each segment.
        coarse_row: int64; the rows at which each step of ``coarse_ns`` begins, segment after segment.
        coarse_first: int64 ``[G + 1]``; where in ``coarse_row`` each segment begins.
        segment, start_ns: int64 ``[B]``.
    """
    for b in range(segment.size):
        g = segment[b]
        table = coarse_row[coarse_first[g] : coarse_first[g + 1]]
        start = start_ns[b]
        step = (start - segment_start[g]) // coarse_ns
        low[b] = table[step] + first_not_before(time_ns[table[step] : table[step + 1]], start)
        stop = start + length_ns
        step = (stop - segment_start[g]) // coarse_ns
        high[b] = table[step] + first_not_before(time_ns[table[step] : table[step + 1]], stop)


@njit(nogil=True)
def spike_lengths(unit, low, high, keep, n_units, start_end, length):
    """Tokens of each window: its spikes of kept units and, with ``start_end``, two more for each kept unit."""
    for b in range(low.size):
        if keep.shape[0] == 0:
            length[b] = high[b] - low[b] + (2 * n_units if start_end else 0)
            continue
        kept = keep[b].view(np.uint8)
        total = 0
        if start_end:
            for n in range(kept.size):
                total += 2 * np.int64(kept[n])
        u = unit[low[b] : high[b]]
        for i in range(u.size):
            total += np.int64(kept[np.uint64(u[i])])
        length[b] = total


@njit(nogil=True)
def fill_spikes(
    time_ns, unit, low, high, start_ns, length_ns, length, keep, unit_row, start_end, row, out_time, out_unit, out_type
):
    """Write the START and END block of each window's kept units, then their spikes in order of time.

    Args:
        length: int64 ``[B]``, from :func:`spike_lengths`. unit_row: int32 ``[N]``. row: int64 ``[B]``.
        out_time, out_unit, out_type: float32, int32, uint8 of one length.
    """
    end_time = np.float32(np.float64(length_ns) * SECONDS)
    all_kept = keep.shape[0] == 0
    one = np.uint64(1)
    row_and_flag = np.empty(unit_row.size, np.int64)  # one look-up a spike instead of two
    for b in range(low.size):
        times = out_time[row[b] : row[b] + length[b]]
        units = out_unit[row[b] : row[b] + length[b]]
        types = out_type[row[b] : row[b] + length[b]]
        at = np.uint64(0)
        if start_end:
            for n in range(unit_row.size):
                if all_kept or keep[b, n]:
                    times[at] = 0.0
                    times[at + one] = end_time
                    units[at] = unit_row[n]
                    units[at + one] = unit_row[n]
                    types[at] = 1
                    types[at + one] = 2
                    at += one + one
        types[np.int64(at) :] = 0
        t, u, origin = time_ns[low[b] : high[b]], unit[low[b] : high[b]], start_ns[b]
        if all_kept:
            spike_times, spike_units = times[np.int64(at) :], units[np.int64(at) :]
            for i in range(t.size):
                spike_times[i] = np.float32(np.float64(t[i] - origin) * SECONDS)
            for i in range(u.size):
                spike_units[i] = unit_row[np.uint64(u[i])]
        else:
            for n in range(unit_row.size):
                row_and_flag[n] = 2 * np.int64(unit_row[n]) + np.int64(keep[b, n])
            # every spike is written, and the place moves on only if its unit is kept: no branch to mispredict, and no
            # write past the window's own rows because the loop ends with the last kept spike
            stop = np.uint64(times.size)
            for i in range(t.size):
                if at == stop:
                    break
                known = row_and_flag[np.uint64(u[i])]
                times[at] = np.float32(np.float64(t[i] - origin) * SECONDS)
                units[at] = np.int32(known >> 1)
                at += np.uint64(known & 1)


@njit(nogil=True)
def chunk_lengths(time_ns, unit, low, high, start_ns, length_ns, chunk_ns, keep, n_units, length):
    """Tokens of each window in chunks: its spikes of kept units, and one blank for each chunk without any."""
    everyone = np.ones(n_units, np.uint8)
    for b in range(low.size):
        kept = everyone if keep.shape[0] == 0 else keep[b].view(np.uint8)
        t, u = time_ns[low[b] : high[b]], unit[low[b] : high[b]]
        total = length_ns // chunk_ns
        edge = start_ns[b]  # the end of the last chunk with a spike: one division for each such chunk
        for i in range(t.size):
            if kept[np.uint64(u[i])]:
                total += 1
                if t[i] >= edge:
                    total -= 1
                    edge = start_ns[b] + ((t[i] - start_ns[b]) // chunk_ns + 1) * chunk_ns
        length[b] = total


@njit(nogil=True)
def fill_chunks(
    time_ns,
    unit,
    low,
    high,
    start_ns,
    length_ns,
    chunk_ns,
    length,
    keep,
    unit_row,
    row,
    out_time,
    out_unit,
    out_type,
    out_chunk,
):
    """Write each window's spikes of kept units chunk by chunk, and a blank where a chunk has none.

    Args:
        length: int64 ``[B]``, from :func:`chunk_lengths`. unit_row: int32 ``[N]``. row: int64 ``[B]``.
        out_time, out_unit, out_type, out_chunk: float32, int32, uint8, int32 of one length.
    """
    everyone = np.ones(unit_row.size, np.uint8)
    for b in range(low.size):
        kept = everyone if keep.shape[0] == 0 else keep[b].view(np.uint8)
        times = out_time[row[b] : row[b] + length[b]]
        units = out_unit[row[b] : row[b] + length[b]]
        types = out_type[row[b] : row[b] + length[b]]
        chunks = out_chunk[row[b] : row[b] + length[b]]
        types[:] = 0
        t, u = time_ns[low[b] : high[b]], unit[low[b] : high[b]]
        chunk, origin, edge = np.int64(-1), start_ns[b], start_ns[b]  # the chunk being filled; none before the first
        at = np.uint64(0)
        for i in range(t.size):
            if not kept[np.uint64(u[i])]:
                continue
            if t[i] >= edge:
                own = (t[i] - start_ns[b]) // chunk_ns
                at = _blanks(chunk + 1, own, at, times, units, types, chunks)
                chunk, origin = own, start_ns[b] + own * chunk_ns
                edge = origin + chunk_ns
            times[at] = np.float32(np.float64(t[i] - origin) * SECONDS)
            units[at] = unit_row[np.uint64(u[i])]
            chunks[at] = chunk
            at += np.uint64(1)
        _blanks(chunk + 1, length_ns // chunk_ns, at, times, units, types, chunks)


@njit(nogil=True)
def _blanks(first, stop, at, times, units, types, chunks):
    """A blank token for each chunk from ``first`` up to ``stop``; returns the next free place."""
    for chunk in range(first, stop):
        times[at] = 0.0
        units[at] = 0
        types[at] = 3
        chunks[at] = chunk
        at += np.uint64(1)
    return at


@njit(nogil=True)
def fill_by_unit(
    time_ns, unit, low, high, start_ns, length_ns, length, keep, unit_row, start_end, row, out_time, out_unit, out_type
):
    """Write each window's kept units one after the other: START, the unit's spikes in order of time, END.

    A counting sort: the spikes are in order of time already and are dealt out to their units' rows.

    Args:
        length: int64 ``[B]``, from :func:`spike_lengths`. unit_row: int32 ``[N]``. row: int64 ``[B]``.
        out_time, out_unit, out_type: float32, int32, uint8 of one length.
    """
    end_time = np.float32(np.float64(length_ns) * SECONDS)
    everyone = np.ones(unit_row.size, np.uint8)
    place = np.empty(unit_row.size, np.uint64)  # first the unit's spikes, then where its next one goes
    one = np.uint64(1)
    for b in range(low.size):
        kept = everyone if keep.shape[0] == 0 else keep[b].view(np.uint8)
        times = out_time[row[b] : row[b] + length[b]]
        units = out_unit[row[b] : row[b] + length[b]]
        types = out_type[row[b] : row[b] + length[b]]
        types[:] = 0
        t, u, origin = time_ns[low[b] : high[b]], unit[low[b] : high[b]], start_ns[b]
        place[:] = 0
        for i in range(u.size):
            place[np.uint64(u[i])] += one
        at = np.uint64(0)
        for n in range(unit_row.size):
            if not kept[n]:
                continue
            size = place[n]
            if start_end:
                end = at + size + one
                times[at], units[at], types[at] = 0.0, unit_row[n], 1
                times[end], units[end], types[end] = end_time, unit_row[n], 2
                place[n] = at + one
                at = end + one
            else:
                place[n] = at
                at += size
        for i in range(t.size):
            n = np.uint64(u[i])
            if kept[n]:
                times[place[n]] = np.float32(np.float64(t[i] - origin) * SECONDS)
                units[place[n]] = unit_row[n]
                place[n] += one


@njit(nogil=True)
def first_lengths(unit, low, high, keep, n_units, start_end, length):
    """Tokens of each window: one for each kept unit with a spike in it and, with ``start_end``, two for each kept."""
    heard = np.empty(n_units, np.int64)  # the last window in which the unit had a spike
    heard[:] = -1
    for b in range(low.size):
        total = 0
        if start_end:
            for n in range(n_units):
                total += 2 * np.int64(keep.shape[0] == 0 or keep[b, n])
        for i in range(low[b], high[b]):
            n = unit[i]
            if heard[n] != b and (keep.shape[0] == 0 or keep[b, n]):
                heard[n] = b
                total += 1
        length[b] = total


@njit(nogil=True)
def fill_first(
    time_ns, unit, low, high, start_ns, length_ns, length, keep, unit_row, start_end, by_unit, row,
    out_time, out_unit, out_type,
):  # fmt: skip
    """Write the first spike of each kept unit in each window, in order of time or unit by unit, with START and END.

    Args:
        length: int64 ``[B]``, from :func:`first_lengths`. unit_row: int32 ``[N]``. row: int64 ``[B]``.
        by_unit: START, spike and END of each unit together; else all START and END first, then the spikes by time.
        out_time, out_unit, out_type: float32, int32, uint8 of one length.
    """
    end_time = np.float32(np.float64(length_ns) * SECONDS)
    first = np.empty(unit_row.size, np.int64)  # the row of each unit's first spike; -1 for none
    for b in range(low.size):
        times = out_time[row[b] : row[b] + length[b]]
        units = out_unit[row[b] : row[b] + length[b]]
        types = out_type[row[b] : row[b] + length[b]]
        first[:] = -1
        for i in range(low[b], high[b]):
            if first[unit[i]] < 0:
                first[unit[i]] = i
        at = 0
        for n in range(unit_row.size):
            if keep.shape[0] > 0 and not keep[b, n]:
                first[n] = -1
                continue
            if start_end:
                times[at], units[at], types[at] = 0.0, unit_row[n], 1
                at += 1
            if by_unit and first[n] >= 0:
                time = np.float32(np.float64(time_ns[first[n]] - start_ns[b]) * SECONDS)
                times[at], units[at], types[at] = time, unit_row[n], 0
                at += 1
            if start_end:
                times[at], units[at], types[at] = end_time, unit_row[n], 2
                at += 1
        if by_unit:
            continue
        for i in range(low[b], high[b]):
            n = unit[i]
            if first[n] == i:
                time = np.float32(np.float64(time_ns[i] - start_ns[b]) * SECONDS)
                times[at], units[at], types[at] = time, unit_row[n], 0
                at += 1
