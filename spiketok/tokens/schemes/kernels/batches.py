"""What a batch needs besides tokens: kept units, behaviour at query times, padding."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit
from spiketok.tokens.schemes.kernels.windows import SECONDS, first_not_before


@njit(nogil=True)
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


@njit(nogil=True)
def sample_rows(time_ns, start_ns, length_ns, low, high):
    """``low[b]:high[b]`` becomes the rows of the samples inside window b."""
    for b in range(start_ns.size):
        low[b] = first_not_before(time_ns, start_ns[b])
        high[b] = low[b] + first_not_before(time_ns[low[b] :], start_ns[b] + length_ns)


@njit(nogil=True)
def fill_queries(
    time_ns, step_ns, value, known, low, high, start_ns, mean, std, row, out_time, out_ns, out_target, out_weight
):
    """Queries of each window: time, normalised value and weight; zero and zero where the value is not known.

    Args:
        time_ns: int64 ``[T]``, the samples' times; or no rows where sample k of window b lies at
            ``start_ns[b] + k * step_ns + step_ns // 2`` (bins).
        value: float32 ``[T, C]``. known: float32 ``[T]``, the weight of each sample, 0 where it was not measured.
        low, high, start_ns, row: int64 ``[B]``.
        mean, std: float64 ``[C]``.
    """
    for b in range(low.size):
        v, ok = value[low[b] : high[b]], known[low[b] : high[b]]
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
            weight[k] = ok[k]
            for c in range(mean.size):
                target[k, c] = np.float32((np.float64(v[k, c]) - mean[c]) / std[c]) if ok[k] > 0 else np.float32(0.0)


@njit(nogil=True)
def clear_tails(row_bytes, used):
    """Zero each row of uint8 ``[B, W]`` from byte ``used[b]`` on."""
    for b in range(used.size):
        row_bytes[b, used[b] :] = 0
