"""binned: counts of each unit in half-open bins."""

from __future__ import annotations

import numpy as np

from reference.common import inside
from spiketok.recording import Intervals, Session
from spiketok.schemes import Binned

VARIANTS = [Binned(), Binned(7_000_001)]


def segment(session: Session, start: int, stop: int, bin_ns: int) -> dict[str, np.ndarray]:
    """All bins of one segment, the last one perhaps over its end; counts not limited (int64)."""
    n_units, n_bins = len(session.units), -((start - stop) // bin_ns)
    counts = np.zeros((n_bins, n_units), np.int64)
    for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if start <= t < stop:
            counts[(t - start) // bin_ns, u] += 1
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
    columns = {"counts": counts, "observed": observed}
    return columns if session.unit_observed is None else columns | {"unit_observed": unit_observed}


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The tokens of one window: its rows of the segment's bins, counts limited to 255, dropped units zero."""
    g, at = windows.segment[b], int(windows.start_ns[b])
    start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
    columns = segment(session, start, stop, scheme.bin_ns)
    rows = slice((at - start) // scheme.bin_ns, (at - start + windows.length_ns) // scheme.bin_ns)
    tokens = {name: column[rows].copy() for name, column in columns.items()}
    tokens["counts"] = np.minimum(tokens["counts"], 255).astype(np.uint8)
    for n, kept in enumerate(keep or []):
        if not kept:
            tokens["counts"][:, n] = 0
            if "unit_observed" in tokens:
                tokens["unit_observed"][:, n] = 0
    return tokens


def check_bake(scheme, session, segments, baked) -> None:
    """Counts of every segment, and how many did not fit."""
    row, saturated, spikes = baked.columns["segment.row"], 0, session.spikes.time_ns
    for g in range(len(segments)):
        rows = slice(row[g], row[g + 1])
        start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
        wanted = segment(session, start, stop, scheme.bin_ns)
        exact = wanted.pop("counts")
        np.testing.assert_array_equal(baked.columns["counts"][rows], np.minimum(exact, 255))
        for name, column in wanted.items():
            np.testing.assert_array_equal(baked.columns[name][rows], column, err_msg=name)
        saturated += int((exact - np.minimum(exact, 255)).sum())
        assert exact.sum() == sum(start <= t < stop for t in spikes.tolist())
    assert baked.lost["saturated"] == saturated
