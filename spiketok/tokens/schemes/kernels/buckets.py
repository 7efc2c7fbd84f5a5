"""Numbers into buckets: counts by a table of all 256, float32 values by a table of cells and a search among few."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit


@njit(nogil=True)
def count_categories(count, table, surplus):
    """Replace each count by ``table[count]``, in place; returns the sum of ``surplus[count]`` before.

    Args:
        count: uint8, flat. table: uint8 ``[256]``. surplus: int64 ``[256]``, the spikes that the category forgets.
    """
    forgotten = 0
    for i in range(count.size):
        c = np.uint64(count[i])
        forgotten += surplus[c]
        count[i] = table[c]
    return forgotten


@njit(nogil=True)
def copy_categories(source, first, n_rows, keep, row, out):
    """``out[row[b] + k] = source[first[b] + k]`` for k below ``n_rows``.

    Args:
        source, out: ``[., C]`` of one dtype. first, row: int64 ``[B]``.
        keep: bool ``[B, C]``, False where the copy has category 0; or no rows for all.
    """
    for b in range(first.size):
        given, taken = source[first[b] : first[b] + n_rows], out[row[b] : row[b] + n_rows]
        if keep.shape[0] == 0:
            g, o = given.reshape(-1), taken.reshape(-1)
            for i in range(g.size):  # a loop: assigning the slice takes many times as long
                o[i] = g[i]
        else:
            kept = keep[b]
            for k in range(n_rows):
                g, o = given[k], taken[k]
                for n in range(kept.size):
                    o[n] = g[n] if kept[n] else 0


@njit(nogil=True)
def cell_of(value, low, scale, n_cells):
    """The cell of a value: never falling where values rise, which is all that the table needs of it.

    ``n_cells`` is the cell of values above the last edge, and of NaN.
    """
    x = (value - low) * scale
    if x < np.float32(n_cells):  # False for NaN
        return np.uint64(max(x, np.float32(0.0)))
    return np.uint64(n_cells)


@njit(nogil=True)
def cell_table(edges, low, scale, n_cells, below):
    """``below[c]`` becomes the number of edges in cells before c; returns the largest number of edges in one cell.

    Args:
        edges: float32, sorted. below: int64 ``[n_cells + 2]``.
    """
    below[:] = 0
    for i in range(edges.size):
        below[np.int64(cell_of(edges[i], low, scale, n_cells)) + 1] += 1
    most = 0
    for c in range(1, below.size):
        most = max(most, below[c])
        below[c] += below[c - 1]
    return most


@njit(nogil=True)
def buckets_by_compare(value, edges, right, below, low, scale, out):
    """The bucket of each value where no cell has more than one edge: one look-up, one comparison, no branch.

    Args:
        value: float32, flat. edges: float32, the sorted edges and NaN after them, which is above and below nothing.
        right: whether a value on an edge is in the bucket that begins there.
        below: uint16 or int32 ``[n_cells + 1]``, the edges in cells before each.
        out: any integers, as many as values.
    """
    n_cells = below.size - 1
    if right:
        for i in range(value.size):
            start = below[cell_of(value[i], low, scale, n_cells)]
            out[i] = start + (edges[np.uint64(start)] <= value[i])
    else:
        for i in range(value.size):
            start = below[cell_of(value[i], low, scale, n_cells)]
            out[i] = start + (edges[np.uint64(start)] < value[i])


@njit(nogil=True)
def buckets_by_search(value, edges, right, below, low, scale, out):
    """The bucket of each value where cells have more than one edge: a binary search among those of its cell.

    Args:
        edges: float32, sorted, infinities allowed. below: int64 ``[n_cells + 2]``. Others as above.
    """
    n_cells = below.size - 2
    for i in range(value.size):
        v = value[i]
        if np.isnan(v):
            out[i] = edges.size
            continue
        cell = cell_of(v, low, scale, n_cells)
        start, stop = below[cell], below[cell + np.uint64(1)]
        while start < stop:
            middle = (start + stop) >> 1
            if edges[middle] < v or (right and edges[middle] == v):
                start = middle + 1
            else:
                stop = middle
        out[i] = start
