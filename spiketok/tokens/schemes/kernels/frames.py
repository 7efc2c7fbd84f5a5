"""Frames of an imaged population into windows: one token for each frame and kept unit."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit
from spiketok.tokens.schemes.kernels.windows import SECONDS, first_not_before


@njit(nogil=True)
def frame_rows(time_ns, segment_row, segment, start_ns, length_ns, low, high):
    """``low[b]:high[b]`` becomes the rows of the frames inside window b.

    Args:
        time_ns: ``[F]``, rising inside each segment. segment_row: int64 ``[G + 1]``.
        segment, start_ns, low, high: int64 ``[B]``.
    """
    for b in range(segment.size):
        first = segment_row[segment[b]]
        own = time_ns[first : segment_row[segment[b] + 1]]
        low[b] = first + first_not_before(own, start_ns[b])
        high[b] = first + first_not_before(own, start_ns[b] + length_ns)


@njit(nogil=True)
def frame_lengths(valid, low, high, keep, n_units, length):
    """Tokens of each window: its valid frames times its kept units."""
    for b in range(low.size):
        flags, n_frames = valid[low[b] : high[b]], 0
        for k in range(flags.size):
            n_frames += np.int64(flags[k])
        n_kept = n_units
        if keep.shape[0] > 0:
            n_kept = 0
            kept = keep[b]
            for n in range(kept.size):
                n_kept += np.int64(kept[n])
        length[b] = n_frames * n_kept


@njit(nogil=True)
def fill_frames(time_ns, value, valid, low, high, start_ns, keep, unit_row, row, out_value, out_time, out_unit):
    """Write each window's valid frames in order of time, each with its kept units in order of row.

    Args:
        time_ns, value, valid: int64 ``[F]``, float32 ``[F, N]``, uint8 ``[F]``.
        low, high, start_ns, row: int64 ``[B]``. keep: bool ``[B, N]``, or no rows for all. unit_row: int32 ``[N]``.
        out_value, out_time, out_unit: float32, float32, int32 of one length.
    """
    n_units = unit_row.size
    kept_units = np.arange(n_units)
    for b in range(low.size):
        n_kept = n_units
        if keep.shape[0] > 0:
            n_kept = 0
            for n in range(n_units):
                if keep[b, n]:
                    kept_units[n_kept] = n
                    n_kept += 1
        at = row[b]
        for f in range(low[b], high[b]):
            if not valid[f]:
                continue
            frame = value[f]
            values, times, units = out_value[at : at + n_kept], out_time[at : at + n_kept], out_unit[at : at + n_kept]
            times[:] = np.float32(np.float64(time_ns[f] - start_ns[b]) * SECONDS)
            if n_kept == n_units:
                values[:] = frame
                units[:] = unit_row
            else:
                for k in range(n_kept):
                    n = np.uint64(kept_units[k])
                    values[k] = frame[n]
                    units[k] = unit_row[n]
            at += n_kept
