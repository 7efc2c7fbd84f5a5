"""Patches of K units: counts into their slots, and windows of them out, with behaviour between them or without."""

from __future__ import annotations

import numpy as np

from spiketok.compiled import njit

NULL, CONSTRAINT, SPIKES, RETURN, COVARIATE = 0, 1, 2, 3, 4


@njit(nogil=True)
def lay_patches(counts, run_unit, run_slot, run_size, max_count, out):
    """Put each unit's counts into its slot, limited to ``max_count``; returns the spikes above it.

    Args:
        counts: uint8 ``[T, N]``.
        run_unit, run_slot, run_size: int64 ``[R]``, stretches of units that are in as many slots side by side; by
            rising slot.
        max_count: uint8.
        out: uint8 ``[T, P * K]``; slots of no unit become 0.
    """
    clipped = 0
    for t in range(counts.shape[0]):
        given, taken = counts[t], out[t]
        at = 0
        for r in range(run_unit.size):
            gap = taken[at : run_slot[r]]
            for i in range(gap.size):  # a slice assignment costs more than these few bytes
                gap[i] = 0
            g = given[run_unit[r] : run_unit[r] + run_size[r]]
            o = taken[run_slot[r] : run_slot[r] + run_size[r]]
            bits = np.uint8(0)  # no count is above the union of all bits, which is cheap to have: few rows are counted
            for i in range(g.size):
                o[i] = g[i]
                bits |= g[i]
            if bits > max_count:
                for i in range(g.size):
                    o[i] = min(g[i], max_count)
                    clipped += np.int64(g[i]) - np.int64(o[i])
            at = run_slot[r] + run_size[r]
        gap = taken[at:]
        for i in range(gap.size):
            gap[i] = 0
    return clipped


@njit(nogil=True)
def count_changes(change, first, n_bins, length):
    """Add to ``length[b]`` the constraints of window b: all in its first bin, then those that change.

    Args:
        change: uint8 ``[T, C]``. first: int64 ``[B]``, each window's first bin.
    """
    for b in range(first.size):
        if n_bins > 0:
            length[b] += change.shape[1]
            later = change[first[b] + 1 : first[b] + n_bins]
            for t in range(later.shape[0]):
                for c in range(later.shape[1]):
                    length[b] += np.int64(later[t, c])


@njit(nogil=True)
def place_bins(change, first, per_bin, row, place):
    """``place[b, t]`` becomes the row of the first patch of bin t of window b.

    Args:
        change: uint8 ``[T, C]``. first, row: int64 ``[B]``. per_bin: tokens of a bin besides constraints.
        place: int64 ``[B, T]``.
    """
    for b in range(first.size):
        at, flags = row[b], change[first[b] : first[b] + place.shape[1]]
        for t in range(place.shape[1]):
            for c in range(flags.shape[1]):
                at += 1 if t == 0 else np.int64(flags[t, c])
            place[b, t] = at
            at += per_bin


@njit(nogil=True)
def fill_patches(
    patch,
    observed,
    unit_observed,
    slot_unit,
    first,
    keep,
    unit_row,
    first_space,
    place,
    out_patch,
    out_unit,
    out_time,
    out_space,
    out_n_real,
    out_observed,
    out_unit_observed,
):
    """Write the patches of each window, P for a bin, from row ``place[b, t]`` on.

    Args:
        patch, unit_observed: uint8 ``[T * P, K]``; no rows of the second where the session does not say it by unit.
        observed: uint8 ``[T]``. slot_unit: int32 ``[P, K]``, the unit in each slot, -1 where there is none.
        first: int64 ``[B]``, each window's first bin. place: int64 ``[B, T]``. first_space: of the first patch.
        keep: bool ``[B, N]``, or no rows for all. unit_row: int32 ``[N]``.
    """
    n_patches, size = slot_unit.shape
    who, n_real = np.empty((n_patches, size), np.int32), np.empty(n_patches, np.uint16)
    by_unit = unit_observed.shape[0] > 0
    for b in range(first.size):
        if b == 0 or keep.shape[0] > 0:
            for p in range(n_patches):
                n_kept = 0
                for k in range(size):
                    unit = slot_unit[p, k]
                    there = unit >= 0 and (keep.shape[0] == 0 or keep[b, unit])
                    who[p, k] = unit_row[unit] if there else -1
                    n_kept += there
                n_real[p] = n_kept
        for t in range(place.shape[1]):
            source, at = (first[b] + t) * n_patches, place[b, t]
            _copy_kept(patch[source : source + n_patches], slot_unit, keep, b, out_patch[at : at + n_patches])
            if by_unit:
                given, taken = unit_observed[source : source + n_patches], out_unit_observed[at : at + n_patches]
                _copy_kept(given, slot_unit, keep, b, taken)
            _copy(who.reshape(-1), out_unit[at : at + n_patches].reshape(-1))
            real, time, space = (
                out_n_real[at : at + n_patches],
                out_time[at : at + n_patches],
                out_space[at : at + n_patches],
            )
            flag = out_observed[at : at + n_patches]
            for p in range(n_patches):
                real[p] = n_real[p]
                time[p] = t
                space[p] = first_space + p
                flag[p] = observed[first[b] + t]


@njit(nogil=True)
def _copy(given, taken):
    for i in range(given.size):  # a loop: assigning a slice to a slice takes many times as long
        taken[i] = given[i]


@njit(nogil=True)
def _copy_kept(given, slot_unit, keep, b, taken):
    """Copy P patches, zero in the slots of units that window b does not keep."""
    if keep.shape[0] == 0:
        _copy(given.reshape(-1), taken.reshape(-1))
        return
    kept = keep[b]
    for p in range(given.shape[0]):
        g, o, unit = given[p], taken[p], slot_unit[p]
        for k in range(g.size):
            o[k] = g[k] if unit[k] >= 0 and kept[unit[k]] else 0


@njit(nogil=True)
def fill_behaviour(
    constraint,
    constraint_valid,
    change,
    returns,
    return_valid,
    covariate,
    covariate_valid,
    first,
    n_patches,
    spaces,
    place,
    out_kind,
    out_time,
    out_space,
    out_observed,
    out_value,
    out_constraint,
    out_patch,
    out_unit,
    out_n_real,
    out_unit_observed,
):
    """Write the tokens before and after each bin's patches, and what these patches say in the columns of behaviour.

    Args:
        constraint: float32 ``[T, C, 3]``; constraint_valid: uint8 ``[T]``; change: uint8 ``[T, C]``.
        returns, covariate: float32 ``[T, R]`` (R 0 or 1) and ``[T, D]``; their flags: uint8 of the same shapes.
        spaces: int64 ``[5]``, the first position of each kind.
        out_constraint, out_unit_observed: no rows where the cut has no such column.
    """
    n_constraints, n_returns, n_covariates = change.shape[1], returns.shape[1], covariate.shape[1]
    for b in range(first.size):
        for t in range(place.shape[1]):
            source, patches = first[b] + t, place[b, t]
            low = patches
            for c in range(n_constraints):
                low -= 1 if t == 0 else np.int64(change[source, c])
            after = patches + n_patches
            high = after + n_returns + n_covariates
            kind, time, value = out_kind[low:high], out_time[low:high], out_value[low:high]
            for i in range(kind.size):
                at = low + i
                if at < patches:
                    kind[i] = CONSTRAINT
                elif at < after:
                    kind[i] = SPIKES
                else:
                    kind[i] = RETURN if at < after + n_returns else COVARIATE
                time[i] = t
                value[i] = 0
            _blank(low, patches, out_patch, out_unit, out_n_real, out_unit_observed)
            _blank(after, high, out_patch, out_unit, out_n_real, out_unit_observed)
            if out_constraint.shape[0] > 0:
                out_constraint[patches:high] = 0
            at = low
            for c in range(n_constraints):
                if t == 0 or change[source, c]:
                    out_space[at] = spaces[CONSTRAINT] + c
                    out_observed[at] = constraint_valid[source]
                    out_constraint[at] = constraint[source, c]
                    at += 1
            for r in range(n_returns):
                out_space[after + r] = spaces[RETURN] + r
                out_observed[after + r] = return_valid[source, r]
                out_value[after + r] = returns[source, r]
            for d in range(n_covariates):
                at = after + n_returns + d
                out_space[at] = spaces[COVARIATE] + d
                out_observed[at] = covariate_valid[source, d]
                out_value[at] = covariate[source, d]


@njit(nogil=True)
def _blank(low, high, out_patch, out_unit, out_n_real, out_unit_observed):
    """Tokens that are no patch hold no counts and no units."""
    out_patch[low:high] = 0
    out_unit[low:high] = -1
    out_n_real[low:high] = 0
    if out_unit_observed.shape[0] > 0:
        out_unit_observed[low:high] = 0
