"""Spikes into bins, and rows of bins into windows."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit
from spiketok.tokens.schemes.kernels.windows import first_not_before

TILE_BYTES = 1 << 18  # of counts, zeroed and filled while they are in the cache
BLOCK = 2048  # spikes whose cells are computed together: eight at once where the processor can
HALF = 128  # of the 256 spikes in one bin that it takes for a count to pass 255
EXACT_NS = 1 << 50  # up to here (t + 0.5) * (1 / bin) in float64 is never rounded over a whole number


@njit(nogil=True)
def count_pieces(time_ns, unit, low, high, start_ns, first, stop, bin_ns, count):
    """Write the counts of pieces of segments; returns how many spikes found their cell full at 255.

    Args:
        time_ns, unit: ``[S]`` in order of time.
        low, high: int64 ``[P]``; the spikes of each piece, all inside its bins.
        start_ns: int64 ``[P]``; where each piece's first bin begins.
        first, stop: int64 ``[P]``; each piece's rows of ``count``.
        count: uint8 ``[T, N]``; what was in the rows does not matter.
    """
    n_units = count.shape[1]
    if n_units == 0:
        return 0
    flat = count.reshape(-1)
    rows = max(1, min(TILE_BYTES // n_units, EXACT_NS // bin_ns))
    per_ns = 1.0 / bin_ns if rows > 1 else 0.0  # one row has the number 0 whatever its length
    cells = np.empty(BLOCK, np.uint32)
    saturated = 0
    for p in range(low.size):
        at = low[p]
        for row in range(first[p], stop[p], rows):
            last = min(row + rows, stop[p])
            begin = start_ns[p] + (row - first[p]) * bin_ns
            end = at + first_not_before(time_ns[at : high[p]], begin + (last - row) * bin_ns)
            tile = flat[row * n_units : last * n_units]
            saturated += _count_tile(time_ns[at:end], unit[at:end], begin, bin_ns, per_ns, n_units, cells, tile)
            at = end
    return saturated


@njit(nogil=True)
def _count_tile(time_ns, unit, begin_ns, bin_ns, per_ns, n_units, cells, tile):
    """Count without a look at the limit where no bin has spikes enough to reach it, else with one.

    A bin of 256 spikes holds two that are a multiple of 128 from the tile's first one and 127 after that.
    """
    crowded = False
    for k in range(0, time_ns.size - HALF + 1, HALF):
        crowded |= time_ns[k + HALF - 1] - time_ns[k] < bin_ns
    tile[:] = 0
    saturated = 0
    for k in range(0, time_ns.size, BLOCK):
        block = _cells(time_ns[k : k + BLOCK], unit[k : k + BLOCK], begin_ns, per_ns, n_units, cells)
        if crowded:
            for i in range(block.size):
                cell = np.uint64(block[i])
                if tile[cell] == 255:
                    saturated += 1
                else:
                    tile[cell] += np.uint8(1)
        else:
            for i in range(block.size):
                tile[np.uint64(block[i])] += np.uint8(1)
    return saturated


@njit(nogil=True)
def _cells(time_ns, unit, begin_ns, per_ns, n_units, cells):
    """The place of each spike in its tile: a loop without a branch, which vectorises."""
    block = cells[: time_ns.size]
    width = np.int32(n_units)
    for i in range(block.size):
        row = np.int32((np.float64(time_ns[i] - begin_ns) + 0.5) * per_ns)
        block[i] = np.uint32(row * width + unit[i])
    return block


@njit(nogil=True)
def flag_observed(start_ns, bin_ns, whole, own, offset, flag):
    """``flag[k, n]``: bin k is whole and is inside the time that unit n's intervals cover together.

    Args:
        start_ns: int64 ``[T]``; where each bin begins. whole: bool ``[T]``.
        own: int64 ``[V, 2]``; start and stop of intervals, in any order. offset: int64 ``[N + 1]``; each unit's first.
        flag: uint8 ``[T, N]``.
    """
    for n in range(offset.size - 1):
        mine = own[offset[n] : offset[n + 1]]
        order = np.argsort(mine[:, 0])
        low, high = np.empty(order.size, np.int64), np.empty(order.size, np.int64)
        last = -1  # intervals that touch or overlap become one
        for k in range(order.size):
            begin, end = mine[order[k], 0], mine[order[k], 1]
            if end <= begin:
                continue
            if last >= 0 and begin <= high[last]:
                high[last] = max(high[last], end)
            else:
                last += 1
                low[last], high[last] = begin, end
        covered = low[: last + 1]
        for k in range(start_ns.size):
            at = first_not_before(covered, start_ns[k] + 1) - 1
            flag[k, n] = whole[k] and at >= 0 and start_ns[k] + bin_ns <= high[at]


@njit(nogil=True)
def copy_rows(source, first, n_rows, keep, row, out):
    """``out[row[b] + k] = source[first[b] + k]`` for k below ``n_rows``, zero where a unit is not kept.

    Args:
        source, out: uint8 ``[., N]``. first, row: int64 ``[B]``. keep: bool ``[B, N]``, or no rows for all.
    """
    for b in range(first.size):
        given = source[first[b] : first[b] + n_rows]
        taken = out[row[b] : row[b] + n_rows]
        if keep.shape[0] == 0:
            g, o = given.reshape(-1), taken.reshape(-1)  # flat: a two-dimensional assignment takes nine times as long
            for i in range(g.size):
                o[i] = g[i]
        else:
            kept = keep[b]
            for k in range(n_rows):
                g, o = given[k], taken[k]
                for n in range(kept.size):
                    o[n] = g[n] if kept[n] else 0
