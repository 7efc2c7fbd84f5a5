"""Counts of trials, and the same laid on another number of points.

Each point's place is found by whole numbers, and each sum has one order: the same bytes on every machine. Rows over all
units are the inner loop, which is contiguous in every array.
"""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit


@njit(nogil=True)
def count_bins(time_ns, unit, start_ns, bin_ns, counts):
    """Add spikes to the bins that begin at ``start_ns``, up to 255; returns how many spikes are in one of them.

    Args:
        time_ns, unit: ``[S]`` in order of time. start_ns: int64 ``[T]``, rising by ``bin_ns`` or more.
        counts: uint8 ``[T, N]``, zero before.
    """
    k, inside = 0, 0
    for i in range(time_ns.size):
        t = time_ns[i]
        while k < start_ns.size and t >= start_ns[k] + bin_ns:
            k += 1
        if k == start_ns.size:
            break
        if t >= start_ns[k]:
            inside += 1
            if counts[k, unit[i]] < 255:
                counts[k, unit[i]] += 1
    return inside


@njit(nogil=True)
def smooth(counts, decay, value):
    """``value[k] = decay * value[k - 1] + (1 - decay) * counts[k]``, from 0: a causal exponential; 0 leaves the counts.

    Args:
        counts: uint8 ``[T, N]``. value: float64 ``[T, N]``.
    """
    for k in range(counts.shape[0]):
        given, taken = counts[k], value[k]
        if decay == 0.0 or k == 0:
            for n in range(given.size):
                taken[n] = (1.0 - decay) * given[n]
        else:
            before = value[k - 1]
            for n in range(given.size):
                taken[n] = decay * before[n] + (1.0 - decay) * given[n]


@njit(nogil=True, error_model="numpy")  # a check for zero at each division would undo the vectors
def linear_counts(counts, out):
    """Lines between neighbouring counts, at as many points as ``out`` has rows, from the first bin to the last.

    Both products and their sum are whole numbers below 2**24, which float32 holds: one rounding, in the division.

    Args:
        counts: uint8 ``[T, N]``, at least 2 rows. out: float32 ``[points, N]``, 2 to 65,536 rows.
    """
    last, steps = counts.shape[0] - 1, out.shape[0] - 1
    whole = np.float32(steps)
    for t in range(out.shape[0]):
        at = min(t * last // steps, last - 1)
        share = np.float32(t * last - at * steps)
        rest = whole - share
        left, right, taken = counts[at], counts[at + 1], out[t]
        for n in range(taken.size):
            taken[n] = (np.float32(left[n]) * rest + np.float32(right[n]) * share) / whole


@njit(nogil=True)
def linear(value, out):
    """Lines between neighbouring values, as :func:`linear_counts`.

    Args:
        value: float64 ``[T, N]``, at least 2 rows. out: float32 ``[points, N]``, at least 2 rows.
    """
    last, steps = value.shape[0] - 1, out.shape[0] - 1
    for t in range(out.shape[0]):
        at = min(t * last // steps, last - 1)
        share = (t * last - at * steps) / steps
        left, right, taken = value[at], value[at + 1], out[t]
        for n in range(taken.size):
            taken[n] = left[n] + (right[n] - left[n]) * share


@njit(nogil=True)
def bend(value, second):
    """Second derivatives at the bins of the cubic spline that has no knot at the second and the last but one.

    At equal steps that condition makes those two equal to the second differences there, which leaves three equal
    diagonals between them: one pass forward and one back.

    Args:
        value: float64 ``[T, N]``, at least 4 rows. second: float64 ``[T, N]``.
    """
    size = value.shape[0]
    for k in range(1, size - 1):
        before, here, after, taken = value[k - 1], value[k], value[k + 1], second[k]
        for n in range(taken.size):
            taken[n] = (before[n] - 2.0 * here[n]) + after[n]
    pivot = np.empty(size)
    pivot[1] = 0.0
    for k in range(2, size - 2):  # second[k - 1] + 4 second[k] + second[k + 1] = 6 differences
        pivot[k] = 1.0 / (4.0 - pivot[k - 1])
        above, taken, scale = second[k - 1], second[k], pivot[k]
        for n in range(taken.size):
            taken[n] = (6.0 * taken[n] - above[n]) * scale
    for k in range(size - 3, 1, -1):
        below, taken, scale = second[k + 1], second[k], pivot[k]
        for n in range(taken.size):
            taken[n] -= below[n] * scale
    for n in range(second.shape[1]):
        second[0, n] = 2.0 * second[1, n] - second[2, n]
        second[size - 1, n] = 2.0 * second[size - 2, n] - second[size - 3, n]


@njit(nogil=True)
def cubic(value, second, out):
    """The spline of :func:`bend`, at as many points as ``out`` has rows, from the first bin to the last.

    Args:
        value, second: float64 ``[T, N]``. out: float32 ``[points, N]``, at least 2 rows.
    """
    last, steps = value.shape[0] - 1, out.shape[0] - 1
    for t in range(out.shape[0]):
        at = min(t * last // steps, last - 1)
        share = (t * last - at * steps) / steps
        rest = 1.0 - share
        left_bend, right_bend = (rest * rest * rest - rest) / 6.0, (share * share * share - share) / 6.0
        left, right, low, high, taken = value[at], value[at + 1], second[at], second[at + 1], out[t]
        for n in range(taken.size):
            line = rest * left[n] + share * right[n]
            taken[n] = line + (left_bend * low[n] + right_bend * high[n])


@njit(nogil=True)
def area(value, out):
    """Each row of ``out`` is what falls into an equal share of the whole length: sums over rows are kept.

    Args:
        value: float64 ``[T, N]``, at least 1 row. out: float32 ``[points, N]``.
    """
    size, points = value.shape[0], out.shape[0]
    total = np.empty(value.shape[1])
    for t in range(points):
        # one bin is `points` long, one share `size`
        low, high = t * size, (t + 1) * size
        total[:] = 0.0
        for k in range(low // points, (high + points - 1) // points):
            overlap = np.float64(min(high, (k + 1) * points) - max(low, k * points))
            given = value[k]
            for n in range(given.size):
                total[n] += overlap * given[n]
        taken = out[t]
        for n in range(taken.size):
            taken[n] = total[n] / points


@njit(nogil=True)
def copy_kept(source, keep, b, out):
    """``out[...] = source`` for ``[T, N]`` arrays, zero where unit n is not kept in window b."""
    if keep.shape[0] == 0:
        given, taken = source.reshape(-1), out.reshape(-1)
        for i in range(given.size):
            taken[i] = given[i]
        return
    kept = keep[b]
    for k in range(source.shape[0]):
        given, taken = source[k], out[k]
        for n in range(kept.size):
            taken[n] = given[n] if kept[n] else 0


@njit(nogil=True)
def trials_inside(start_ns, stop_ns, low, high, window_start, length_ns, inside):
    """Mark which trials of ``low[b]:high[b]`` are wholly inside window b.

    Args:
        start_ns, stop_ns: int64 ``[R]``. low, high, window_start: int64 ``[B]``. inside: bool ``[B, R]``.
    """
    for b in range(low.size):
        inside[b, :] = False
        for r in range(low[b], high[b]):
            inside[b, r] = start_ns[r] >= window_start[b] and stop_ns[r] <= window_start[b] + length_ns


@njit(nogil=True)
def fill_trials(
    matrix, counts, bins, count_row, unit_observed, inside, keep, row, out_matrix, out_counts, out_bins, out_unit
):
    """Write the trials of each window, zero where a unit is not kept.

    Args:
        matrix: float32 ``[R, points, N]``. unit_observed: uint8 ``[R, N]``, or no rows where all units were recorded.
        counts: uint8 ``[T, N]``; bins: int32 ``[T]``; count_row: int64 ``[R + 1]``, each trial's rows there.
        inside: bool ``[B, R]``, from :func:`trials_inside`. row: int64 ``[B]``.
        keep: bool ``[B, N]``, or no rows for all.
        out_matrix: float32 ``[L, points, N]``. out_counts: uint8 ``[L, K, N]``; out_bins: int32 ``[L, K]``, zero and -1
            after a trial's last bin. out_unit: uint8 ``[L, N]`` for ``unit_observed``.
    """
    for b in range(row.size):
        at = row[b]
        for r in range(inside.shape[1]):
            if not inside[b, r]:
                continue
            rows, size = slice(count_row[r], count_row[r + 1]), count_row[r + 1] - count_row[r]
            copy_kept(matrix[r], keep, b, out_matrix[at])
            copy_kept(counts[rows], keep, b, out_counts[at, :size])
            out_counts[at, size:] = 0
            out_bins[at, :size] = bins[rows]
            out_bins[at, size:] = -1
            if unit_observed.shape[0]:
                copy_kept(unit_observed[r : r + 1], keep, b, out_unit[at : at + 1])
            at += 1
