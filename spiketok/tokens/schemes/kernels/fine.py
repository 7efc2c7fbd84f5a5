"""Cells: one unit in one bin with at least one spike, and what is known of its spikes."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit


@njit(nogil=True)
def count_cells(time_ns, unit, start_ns, bin_ns, seen, cells):
    """``cells[k]`` becomes the number of units with a spike in bin k of one segment.

    Args:
        time_ns, unit: ``[S]`` in order of time, all inside the segment that begins at ``start_ns``.
        seen: int64 ``[N]``, scratch. cells: int64 ``[T]``, zero before.
    """
    seen[:] = -1
    edge, k = start_ns, np.int64(-1)
    for i in range(time_ns.size):
        if time_ns[i] >= edge:
            k = (time_ns[i] - start_ns) // bin_ns
            edge = start_ns + (k + 1) * bin_ns
        u = np.uint64(unit[i])
        if seen[u] != k:
            seen[u] = k
            cells[k] += 1


@njit(nogil=True)
def fill_cells(
    time_ns, unit, start_ns, bin_ns, cell_row, seen, squares, held, out_unit, out_count, out_first, out_last, out_cv
):
    """Write the cells of one segment, bin by bin and inside a bin in order of unit; returns the spikes above 255.

    Args:
        time_ns, unit: as in :func:`count_cells`. cell_row: int64 ``[T]``, the first cell of each bin of the segment.
        seen, squares: int64 ``[N]``, scratch. held: int64 ``[N]``, takes the spikes of each unit that are held.
        out_unit, out_count, out_first, out_last, out_cv: int32, uint8, int32, int32, float32 ``[cells]``, of all
            segments; the counts are zero before.
    """
    seen[:] = -1
    saturated = 0
    i = 0
    while i < time_ns.size:
        k = (time_ns[i] - start_ns) // bin_ns
        origin, first_cell = start_ns + k * bin_ns, cell_row[k]
        n = 0
        j = i
        while j < time_ns.size and time_ns[j] < origin + bin_ns:
            u = unit[j]
            if seen[u] != k:
                seen[u] = k
                out_unit[first_cell + n] = u
                n += 1
            j += 1
        units, count = out_unit[first_cell : first_cell + n], out_count[first_cell : first_cell + n]
        first, last = out_first[first_cell : first_cell + n], out_last[first_cell : first_cell + n]
        units.sort()
        for c in range(n):
            slot = units[c]
            # from here to the end of the bin `seen` holds the unit's place, marked by its sign
            seen[slot] = -2 - c
            squares[slot] = 0
        for s in range(i, j):
            u = unit[s]
            c, t = -2 - seen[u], np.int32(time_ns[s] - origin)
            if count[c] == 255:
                saturated += 1
                continue
            if count[c] == 0:
                first[c] = t
            else:
                interval = np.int64(t - last[c])
                squares[u] += interval * interval
            last[c] = t
            count[c] += 1
        for c in range(n):
            span = np.int64(last[c] - first[c])
            variance = (np.int64(count[c]) - 1) * squares[units[c]] - span * span  # times intervals squared, exact
            cv = np.sqrt(np.float64(variance)) / np.float64(span) if span > 0 else 0.0
            out_cv[first_cell + c] = np.float32(cv)
            held[units[c]] += np.int64(count[c])
        i = j
    return saturated


@njit(nogil=True)
def spread_cells(
    cell_row, unit, count, first, last, cv, bin_row, n_rows, keep, row, out_count, out_first, out_last, out_mean, out_cv
):
    """Write the bins of each window as rows of all units, zero where a unit has no spike or is not kept.

    Args:
        cell_row: int64 ``[T + 1]``. unit, count, first, last, cv: the cells.
        bin_row, row: int64 ``[B]``, the first bin of each window and its first row in the outputs.
        n_rows: bins in a window. keep: bool ``[B, N]``, or no rows for all.
        out_count, out_first, out_last, out_mean, out_cv: uint8, int32, int32, float32, float32 ``[., N]``.
    """
    for b in range(bin_row.size):
        rows = slice(row[b], row[b] + n_rows)
        out_count[rows, :] = 0
        out_first[rows, :] = 0
        out_last[rows, :] = 0
        out_mean[rows, :] = 0.0
        out_cv[rows, :] = 0.0
        for k in range(n_rows):
            cells = slice(cell_row[bin_row[b] + k], cell_row[bin_row[b] + k + 1])
            own_unit, own_count, own_cv = unit[cells], count[cells], cv[cells]
            own_first, own_last = first[cells], last[cells]
            to_count, to_first, to_last = out_count[row[b] + k], out_first[row[b] + k], out_last[row[b] + k]
            to_mean, to_cv = out_mean[row[b] + k], out_cv[row[b] + k]
            for c in range(own_unit.size):
                u = np.uint64(own_unit[c])
                if keep.shape[0] > 0 and not keep[b, u]:
                    continue
                to_count[u] = own_count[c]
                to_first[u] = own_first[c]
                to_last[u] = own_last[c]
                to_cv[u] = own_cv[c]
                if own_count[c] > 1:
                    span = np.float64(own_last[c] - own_first[c])
                    to_mean[u] = np.float32(span / np.float64(own_count[c] - 1))
