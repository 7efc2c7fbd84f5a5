"""The spikes of many units as one stream in order of time, ties in order of unit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from spiketok.errors import UsageError

TILE_SPIKES = 1 << 14  # as many as two passes order within the cache, and few enough for 18 bits to tell them apart
PARTS_PER_THREAD = 4  # more parts than threads, so that a thread that is done early takes another


def merge_units(
    time_ns: np.ndarray, offset: np.ndarray, *, threads: int = 1, out: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Merge the units' spike times into one stream: what a stable sort by time gives, several times sooner.

    Args:
        time_ns: int64 ``[S]``, unit after unit. A unit whose times are not in order is sorted first, in a copy.
        offset: int64 ``[N + 1]``; unit n has the times ``offset[n]:offset[n + 1]``.
        threads: how many work on it; the result is the same for any number.
        out: int64 ``[S]`` and int32 ``[S]`` that take the stream; fresh arrays where not given.

    Returns:
        The times and the units of the stream.

    >>> from spiketok.recording.merging import merge_units
    >>> time_ns, unit = merge_units(np.array([10, 30, 10, 20]), np.array([0, 2, 4]))
    >>> time_ns.tolist(), unit.tolist()
    ([10, 10, 20, 30], [0, 1, 1, 0])
    """
    from spiketok.recording import merge_kernels as kernels

    if type(threads) is not int or threads < 1:
        message = f"threads is {threads!r}, must be a whole number of at least 1"
        raise UsageError(message)
    if time_ns.dtype != np.int64 or offset[0] != 0 or offset[-1] != time_ns.size or (np.diff(offset) < 0).any():
        message = f"time_ns must be int64, is {time_ns.dtype}, and offset must rise from 0 to its {time_ns.size} rows"
        raise UsageError(message)
    out_time, out_unit = out or (np.empty(time_ns.size, np.int64), np.empty(time_ns.size, np.int32))
    for name, array, dtype in (("time", out_time, np.int64), ("unit", out_unit, np.int32)):
        if array.dtype != dtype or array.shape != time_ns.shape:
            message = f"out {name} is {array.dtype} {array.shape}, must be {np.dtype(dtype)} {time_ns.shape}"
            raise UsageError(message)
    if time_ns.size == 0:
        return out_time, out_unit
    offset = np.asarray(offset, np.int64)
    time_ns = _with_sorted_units(time_ns, offset)
    trains = [time_ns[a:b] for a, b in pairwise(offset.tolist())]
    first, last = min(int(t[0]) for t in trains if t.size), max(int(t[-1]) for t in trains if t.size)
    unit_bits = max(1, (len(trains) - 1).bit_length())
    tile_ns = (last - first + 1) * TILE_SPIKES // time_ns.size
    tile_bits = min(max(1, tile_ns.bit_length() - 1), 64 - unit_bits)
    # parts of the time, one after the other in the stream: equal times never fall into two of them
    parts = 1 if threads == 1 else threads * PARTS_PER_THREAD
    edges = np.array([first + (last - first) * k // parts for k in range(1, parts)], np.int64)
    cut = np.empty((parts + 1, len(trains)), np.int64)
    cut[0], cut[-1] = offset[:-1], offset[1:]
    for n, train in enumerate(trains):
        cut[1:-1, n] = offset[n] + np.searchsorted(train, edges)
    row = (cut - offset[:-1]).sum(axis=1).tolist()

    def merge(part: int) -> None:
        rows = slice(row[part], row[part + 1])
        kernels.merge_trains(time_ns, cut[part], cut[part + 1], tile_bits, unit_bits, out_time[rows], out_unit[rows])

    if threads == 1:
        merge(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(merge, range(parts)))
    return out_time, out_unit


def _with_sorted_units(time_ns: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The times as they are where every unit is in order; else a copy in which it is."""
    from spiketok.recording import merge_kernels as kernels

    back = np.empty(offset.size - 1, np.bool_)
    kernels.units_out_of_order(time_ns, offset, back)
    if back.any():
        time_ns = time_ns.copy()
        for n in np.flatnonzero(back):
            time_ns[offset[n] : offset[n + 1]].sort()
    return time_ns
