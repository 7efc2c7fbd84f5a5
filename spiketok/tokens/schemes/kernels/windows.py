"""Where windows are: the loops that every scheme needs."""

from __future__ import annotations

from spiketok.compiled import njit

SECONDS = 1e-9  # window-relative seconds are float32(float64(ns) * 1e-9)


@njit(nogil=True)
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


@njit(nogil=True)
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
