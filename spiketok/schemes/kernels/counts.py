"""Spikes into bins, and rows of bins into windows."""

from __future__ import annotations

from numba import njit


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
