"""The loops that numba compiles, and nothing else.

Rules that every kernel keeps: int64 times, int32 units, uint8 counts and flags, bool keep, float32 out; outputs are
given by the caller and never outgrown; the GIL is released; no fast math, so that a number is the same on every
machine. A kernel slices before it loops and looks up by ``np.uint64``: a signed index is checked for being negative
each time, which keeps a loop from vectorising and costs more than half of a look-up. An array of no rows stands for
"not given" where a numpy caller would pass None, so that each kernel compiles for one set of types. The readable twins
of these loops are in ``tests/reference.py``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SECONDS = 1e-9  # window-relative seconds are float32(float64(ns) * 1e-9)


@njit(cache=True, nogil=True)
def count_spikes(time_ns, unit, start_ns, bin_ns, count):
    """Add the spikes of one segment to its bins; returns how many found their bin full at 255.

    Args:
        time_ns, unit: ``[S]`` in order of time, all inside the segment that begins at ``start_ns``.
        count: uint8 ``[T, N]``, the segment's rows, zero before.
    """
    n_units = count.shape[1]
    flat = count.reshape(-1)
    saturated = 0
    edge = start_ns  # the end of the bin that `base` points to: integers only, one division per bin that holds spikes
    base = 0
    for i in range(time_ns.size):
        t = time_ns[i]
        if t >= edge:
            row = (t - start_ns) // bin_ns
            edge = start_ns + (row + 1) * bin_ns
            base = row * n_units
        cell = base + unit[i]
        if flat[cell] == 255:
            saturated += 1
        else:
            flat[cell] += 1
    return saturated


@njit(cache=True, nogil=True)
def copy_rows(source, first, n_rows, keep, row, out):
    """``out[row[b] + k] = source[first[b] + k]`` for k below ``n_rows``, zero where a unit is not kept.

    Args:
        source, out: uint8 ``[., N]``. first, row: int64 ``[B]``. keep: bool ``[B, N]``, or no rows for all.
    """
    for b in range(first.size):
        given = source[first[b] : first[b] + n_rows]
        taken = out[row[b] : row[b] + n_rows]
        if keep.shape[0] == 0:
            taken[:, :] = given
        else:
            kept = keep[b]
            for k in range(n_rows):
                g, o = given[k], taken[k]
                for n in range(kept.size):
                    o[n] = g[n] if kept[n] else 0


@njit(cache=True, nogil=True)
def first_not_before(time_ns, value):
    """The first index in the ordered ``time_ns`` whose time is not before ``value``."""
    low, high = 0, time_ns.size
    while low < high:
        middle = (low + high) // 2
        if time_ns[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def spike_rows(time_ns, coarse_row, coarse_first, coarse_ns, segment_start, segment, start_ns, length_ns, low, high):
    """``low[b]:high[b]`` becomes the rows of window b's spikes, found inside one step of the coarse table.

    Args:
        time_ns: ``[S]``, ordered inside each segment.
        coarse_row: int64; the rows at which each step of ``coarse_ns`` begins, segment behind segment.
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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
            # write behind the window's own rows because the loop ends with the last kept spike
            stop = np.uint64(times.size)
            for i in range(t.size):
                if at == stop:
                    break
                known = row_and_flag[np.uint64(u[i])]
                times[at] = np.float32(np.float64(t[i] - origin) * SECONDS)
                units[at] = np.int32(known >> 1)
                at += np.uint64(known & 1)


@njit(cache=True, nogil=True)
def choose_units(n_keep, random, keep):
    """Mark ``n_keep[b]`` of N units in each row, every subset alike (Floyd's sampling of the smaller part).

    Args:
        n_keep: int64 ``[B]``. random: uint32, ``min(n_keep[b], N - n_keep[b])`` for each row, in order of row.
        keep: bool ``[B, N]``.
    """
    n_units = keep.shape[1]
    at = 0
    for b in range(n_keep.size):
        chosen = keep[b]
        part = min(n_keep[b], n_units - n_keep[b])
        flag = n_keep[b] == part  # whether the smaller part is the kept one
        chosen[:] = not flag
        for k in range(n_units - part, n_units):
            # a whole number up to k by the high half of a product; off from uniform by at most N / 2**32
            drawn = (np.int64(random[at]) * (k + 1)) >> 32
            at += 1
            if chosen[drawn] == flag:
                chosen[k] = flag
            else:
                chosen[drawn] = flag


@njit(cache=True, nogil=True)
def first_misplaced(segment, start_ns, length_ns, segment_start, segment_stop, grid_ns):
    """The first window that is not inside its segment or not on its grid; -1 where all are well placed."""
    for b in range(segment.size):
        g = segment[b]
        if g < 0 or g >= segment_start.size:
            return b
        since = start_ns[b] - segment_start[g]
        if since < 0 or start_ns[b] > segment_stop[g] - length_ns or since % grid_ns != 0:
            return b
    return -1


@njit(cache=True, nogil=True)
def sample_rows(time_ns, start_ns, length_ns, low, high):
    """``low[b]:high[b]`` becomes the rows of the samples inside window b."""
    for b in range(start_ns.size):
        low[b] = first_not_before(time_ns, start_ns[b])
        high[b] = low[b] + first_not_before(time_ns[low[b] :], start_ns[b] + length_ns)


@njit(cache=True, nogil=True)
def fill_queries(
    time_ns, step_ns, value, valid, low, high, start_ns, mean, std, row, out_time, out_ns, out_target, out_weight
):
    """Queries of each window: time, normalised behaviour and weight; zero and zero where the behaviour is not valid.

    Args:
        time_ns: int64 ``[T]``, the samples' times; or no rows where sample k of window b lies at
            ``start_ns[b] + k * step_ns + step_ns // 2`` (bins).
        value: float32 ``[T, C]``. valid: uint8 ``[T]``. low, high, start_ns, row: int64 ``[B]``.
        mean, std: float64 ``[C]``.
    """
    for b in range(low.size):
        v, ok = value[low[b] : high[b]], valid[low[b] : high[b]]
        size = ok.size
        seconds, ns = out_time[row[b] : row[b] + size], out_ns[row[b] : row[b] + size]
        target, weight = out_target[row[b] : row[b] + size], out_weight[row[b] : row[b] + size]
        origin = start_ns[b]
        if time_ns.size == 0:
            for k in range(size):
                ns[k] = origin + k * step_ns + step_ns // 2
        else:
            ns[:] = time_ns[low[b] : high[b]]
        for k in range(size):
            seconds[k] = np.float32(np.float64(ns[k] - origin) * SECONDS)
            weight[k] = 1.0 if ok[k] else 0.0
            for c in range(mean.size):
                target[k, c] = np.float32((np.float64(v[k, c]) - mean[c]) / std[c]) if ok[k] else np.float32(0.0)


@njit(cache=True, nogil=True)
def clear_tails(row_bytes, used):
    """Zero each row of uint8 ``[B, W]`` from byte ``used[b]`` on."""
    for b in range(used.size):
        row_bytes[b, used[b] :] = 0
