"""Series of single units: spikes into unit-major bins, and stretches of them into windows."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit


@njit(nogil=True)
def count_series(time_ns, unit, start_ns, bin_ns, column, counts):
    """Add the spikes of one segment to its units' rows; returns how many found their bin full at 255.

    Spikes come in order of time, so that all rows are written near one column: no counting by bins and turning over.

    Args:
        time_ns, unit: ``[S]`` in order of time, none before ``start_ns``.
        start_ns: the start of the bin at ``column``.
        counts: uint8 ``[N, T]``, the segment's columns zero before.
    """
    width = np.uint64(counts.shape[1])
    flat = counts.reshape(-1)
    saturated = 0
    edge = start_ns  # the end of the bin at `at`: one division per bin that holds spikes
    at = np.uint64(column)
    for i in range(time_ns.size):
        t = time_ns[i]
        if t >= edge:
            index = (t - start_ns) // bin_ns
            edge = start_ns + (index + 1) * bin_ns
            at = np.uint64(column + index)
        cell = np.uint64(unit[i]) * width + at
        if flat[cell] == 255:
            saturated += 1
        else:
            flat[cell] += 1
    return saturated


@njit(nogil=True)
def choose_units(counts, column, width, keep, b, skip_silent, units):
    """List the units that have tokens in window b: kept and, with ``skip_silent``, with a spike in ``width`` bins.

    Returns:
        How many there are at the start of ``units``, int64 ``[N]``.
    """
    n_chosen = 0
    for n in range(units.size):
        has = keep.shape[0] == 0 or keep[b, n]
        if has and skip_silent:
            series = counts[n][column : column + width]
            any_bits = np.uint8(0)
            for k in range(series.size):
                any_bits |= series[k]
            has = any_bits != 0
        if has:
            units[n_chosen] = n
            n_chosen += 1
    return n_chosen


@njit(nogil=True)
def series_lengths(counts, first, width, n_steps, keep, skip_silent, length):
    """Tokens of each window: ``n_steps`` for each unit that has any.

    Args:
        counts: uint8 ``[N, T]``. first: int64 ``[B]``, each window's first column. width: the columns of a window.
        keep: bool ``[B, N]``, or no rows for all. length: int64 ``[B]``.
    """
    units = np.empty(counts.shape[0], np.int64)
    for b in range(first.size):
        length[b] = n_steps * choose_units(counts, first[b], width, keep, b, skip_silent, units)


@njit(nogil=True)
def copy_stretch(source, first, out):
    """``out`` becomes the stretch of the flat ``source`` that begins at ``first``."""
    given = source[first : first + out.size]
    for k in range(out.size):
        out[k] = given[k]


@njit(nogil=True)
def fill_series(
    counts,
    observed,
    first,
    width,
    n_steps,
    step,
    by_time,
    keep,
    skip_silent,
    unit_row,
    row,
    out_series,
    out_observed,
    out_unit,
    out_time,
):
    """Write each window's tokens: step k of unit n has the columns from ``first[b] + k * step`` on, ``item`` of them.

    Args:
        counts: uint8 ``[N, T]``. observed: uint8 ``[N, T]``, or ``[1, T]`` where it is the same for all units.
        first, width, n_steps, keep, skip_silent: as of :func:`series_lengths`.
        by_time: whether all units of a step follow each other, or all steps of a unit.
        unit_row: int32 ``[N]``. row: int64 ``[B]``.
        out_series, out_observed: uint8 ``[L, item]``. out_unit, out_time: int32 ``[L]``.
    """
    n_units, n_columns = counts.shape
    flat, flags = counts.reshape(-1), observed.reshape(-1)
    own = n_columns if observed.shape[0] == n_units else 0
    units = np.empty(n_units, np.int64)
    for b in range(first.size):
        n_chosen = choose_units(counts, first[b], width, keep, b, skip_silent, units)
        fast, slow = (n_chosen, n_steps) if by_time else (n_steps, n_chosen)
        at = row[b]
        for i in range(slow):
            for j in range(fast):
                k, n = (i, units[j]) if by_time else (j, units[i])
                column = first[b] + k * step
                copy_stretch(flat, n * n_columns + column, out_series[at])
                copy_stretch(flags, n * own + column, out_observed[at])
                out_unit[at] = unit_row[n]
                out_time[at] = k
                at += 1
