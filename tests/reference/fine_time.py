"""fine-time: count, first, last, mean interval and its variation of each unit in half-open bins."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.schemes import FineTime
from tests.reference.common import inside

VARIANTS = [FineTime(), FineTime(7_000_001), FineTime(100_000_000), FineTime(7_000_001, history_bins=4)]


def features(times: list[int]) -> tuple[int, int, int, float, float]:
    """The five numbers of one unit's spikes in one bin, at times since the bin's start."""
    times = times[:255]
    if not times:
        return 0, 0, 0, 0.0, 0.0
    intervals = [b - a for a, b in pairwise(times)]
    mean = variation = 0.0
    if intervals:
        mean = sum(intervals) / len(intervals)
    if any(intervals):
        deviation = math.sqrt(len(intervals) * sum(d * d for d in intervals) - sum(intervals) ** 2)
        variation = deviation / sum(intervals)
    return len(times), times[0], times[-1], mean, variation


def segment(session: Session, start: int, stop: int, bin_ns: int, lead: int = 0) -> dict[str, np.ndarray]:
    """All bins of one segment, the last one perhaps over its end; ``lost`` are the spikes above 255.

    ``lead`` bins before its start come first: without spikes, and not observed.
    """
    n_units, n_bins = len(session.units), -((start - stop) // bin_ns)
    times = [[[] for _ in range(n_units)] for _ in range(n_bins)]
    for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if start <= t < stop:
            times[(t - start) // bin_ns][u].append((t - start) % bin_ns)
    dtypes = {
        "count": np.uint8,
        "first_ns": np.int32,
        "last_ns": np.int32,
        "mean_isi_ns": np.float32,
        "cv_isi": np.float32,
    }
    rows = [[features(own) for own in row] for row in times]
    columns = {
        name: np.array([[cell[i] for cell in row] for row in rows], dtype).reshape(n_bins, n_units)
        for i, (name, dtype) in enumerate(dtypes.items())
    }
    columns["lost"] = np.array([[max(len(own) - 255, 0) for own in row] for row in times]).reshape(n_bins, n_units)
    observed = np.zeros(n_bins, np.uint8)
    unit_observed = np.zeros((n_bins, n_units), np.uint8)
    for k in range(n_bins):
        low, high = start + k * bin_ns, start + (k + 1) * bin_ns
        if high > stop:
            continue
        observed[k] = inside(low, high, session.observed)
        for n in range(n_units):
            if session.unit_observed is not None:
                own = session.unit_observed[n].reshape(-1, 2)
                unit_observed[k, n] = inside(low, high, Intervals(own[:, 0], own[:, 1]).union())
    columns["observed"] = observed
    if session.unit_observed is not None:
        columns["unit_observed"] = unit_observed
    return {name: np.concatenate([np.zeros((lead, *c.shape[1:]), c.dtype), c]) for name, c in columns.items()}


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The tokens of one window: its rows of the segment's bins, dropped units zero."""
    g, at = windows.segment[b], int(windows.start_ns[b])
    start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
    lead = scheme.history_bins - 1
    columns = segment(session, start, stop, scheme.bin_ns, lead)
    del columns["lost"]
    rows = slice((at - start) // scheme.bin_ns, (at - start + windows.length_ns) // scheme.bin_ns + lead)
    tokens = {name: column[rows].copy() for name, column in columns.items()}
    for n, kept in enumerate(keep or []):
        if not kept:
            for column in tokens.values():
                if column.ndim == 2:
                    column[:, n] = 0
    return tokens


def check_bake(scheme, session, segments, baked) -> None:
    """Every cell of every segment, and how many spikes did not fit."""
    row, cell_row = baked.columns["segment.row"], baked.columns["cell.row"]
    saturated, held = 0, [0] * len(session.units)
    for g in range(len(segments)):
        start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
        wanted = segment(session, start, stop, scheme.bin_ns, scheme.history_bins - 1)
        assert len(wanted["count"]) == row[g + 1] - row[g]
        for k in range(len(wanted["count"])):
            cells = slice(cell_row[row[g] + k], cell_row[row[g] + k + 1])
            units = [n for n in range(len(session.units)) if wanted["count"][k, n]]
            assert baked.columns["unit"][cells].tolist() == units
            for name in ("count", "first_ns", "last_ns", "cv_isi"):
                np.testing.assert_array_equal(baked.columns[name][cells], wanted[name][k, units], err_msg=name)
            for n in units:
                held[n] += int(wanted["count"][k, n])
        for name in ("observed", "unit_observed"):
            if name in wanted:
                np.testing.assert_array_equal(baked.columns[name][row[g] : row[g + 1]], wanted[name], err_msg=name)
        saturated += int(wanted["lost"].sum())
        n_spikes = sum(start <= t < stop for t in session.spikes.time_ns.tolist())
        assert int(wanted["count"].sum(dtype=int)) + int(wanted["lost"].sum()) == n_spikes
    assert baked.columns["unit.n_spikes"].tolist() == held
    assert baked.lost["saturated"] == saturated
