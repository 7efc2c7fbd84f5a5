"""binned: counts of each unit in half-open bins."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.schemes import Binned
from tests.reference.common import inside

VARIANTS = [
    Binned(),
    Binned(7_000_001),
    Binned(10_000_000, edges="right-closed"),
    Binned(compat="torch_brain"),
    Binned(compat="falcon-end"),
    Binned(10_000_000, compat="falcon-start"),
    Binned(10_000_000, compat="nlb"),
    Binned(1_000_000, compat="nlb"),
    Binned(exposure=True),
    Binned(7_000_001, exposure=True),
]


def bin_of(scheme: Binned, t: int, start: int, n_bins: int) -> int | None:
    """The bin of a spike inside a segment that starts at ``start``, one number at a time; None where it has none."""
    bin_ns, second, width = scheme.bin_ns, t / 1e9, scheme.bin_ns / 1e9
    if scheme.compat == "torch_brain":
        k = math.floor((second - start / 1e9) * (1 / width))
    elif scheme.compat == "nlb":
        k = (t // 1_000_000 - start // 1_000_000) // (bin_ns // 1_000_000)
    elif scheme.compat:
        for k in range(n_bins):
            if scheme.compat == "falcon-end":
                first = start / 1e9 + width
                low, high = first + (k - 1) * width if k else first - width, first + k * width
            else:
                low = start / 1e9 + (k - 1) * width + width if k else start / 1e9 + width - width
                high = start / 1e9 + k * width + width
            if low <= second < high or (second == high and k == n_bins - 1):
                return k
        return None
    elif scheme.edges == "right-closed":
        k = -((start - t) // bin_ns) - 1  # start + k * bin < t <= start + (k + 1) * bin
    else:
        k = (t - start) // bin_ns
    return k if 0 <= k < n_bins else None


def share(low: int, high: int, bin_ns: int, intervals: list[tuple[int, int]]) -> np.float32:
    """How much of a bin intervals cover that may overlap, one nanosecond never twice."""
    edges = sorted({low, high, *(min(max(t, low), high) for pair in intervals for t in pair)})
    covered = sum(b - a for a, b in pairwise(edges) if any(s <= a and b <= e for s, e in intervals))
    return np.float32(covered / bin_ns)


def exposed(scheme: Binned, session: Session, start: int, stop: int, n_bins: int) -> dict[str, np.ndarray]:
    """The share of each bin that was recorded, of the population and of each unit where these differ."""
    every = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    spans = [(start + k * scheme.bin_ns, min(start + (k + 1) * scheme.bin_ns, stop)) for k in range(n_bins)]
    exposure = np.array([share(low, high, scheme.bin_ns, every) for low, high in spans], np.float32)
    found = {"observed": (exposure > 0).astype(np.uint8), "exposure": exposure}
    if session.unit_observed is None:
        return found
    own = [
        [tuple(pair) for pair in session.unit_observed[n].reshape(-1, 2).tolist()] for n in range(len(session.units))
    ]
    by_unit = np.array([[share(low, high, scheme.bin_ns, pairs) for pairs in own] for low, high in spans], np.float32)
    by_unit = by_unit.reshape(n_bins, len(own))
    return found | {"unit_observed": (by_unit > 0).astype(np.uint8), "unit_exposure": by_unit}


def segment(scheme: Binned, session: Session, start: int, stop: int) -> dict[str, np.ndarray]:
    """All bins of one segment, the last one perhaps over its end; counts not limited (int64)."""
    bin_ns = scheme.bin_ns
    n_units, n_bins = len(session.units), -((start - stop) // bin_ns)
    counts = np.zeros((n_bins, n_units), np.int64)
    for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if start <= t < stop:
            k = bin_of(scheme, t, start, n_bins)
            if k is not None:
                counts[k, u] += 1
    if scheme.exposure:
        return {"counts": counts, **exposed(scheme, session, start, stop, n_bins)}
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
    columns = segment(scheme, session, start, stop)
    rows = slice((at - start) // scheme.bin_ns, (at - start + windows.length_ns) // scheme.bin_ns)
    tokens = {name: column[rows].copy() for name, column in columns.items()}
    tokens["counts"] = np.minimum(tokens["counts"], 255).astype(np.uint8)
    for n, kept in enumerate(keep or []):
        if not kept:
            tokens["counts"][:, n] = 0
            for name in ("unit_observed", "unit_exposure"):
                if name in tokens:
                    tokens[name][:, n] = 0
    return tokens


def check_bake(scheme, session, segments, baked) -> None:
    """Counts of every segment, and how many did not fit."""
    row, saturated, dropped, spikes = baked.columns["segment.row"], 0, 0, session.spikes.time_ns.tolist()
    for g in range(len(segments)):
        rows = slice(row[g], row[g + 1])
        start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
        wanted = segment(scheme, session, start, stop)
        exact = wanted.pop("counts")
        np.testing.assert_array_equal(baked.columns["counts"][rows], np.minimum(exact, 255))
        for name, column in wanted.items():
            np.testing.assert_array_equal(baked.columns[name][rows], column, err_msg=name)
        saturated += int((exact - np.minimum(exact, 255)).sum())
        inside_segment = [t for t in spikes if start <= t < stop]
        if not scheme.compat:
            assert exact.sum() == len(inside_segment) - (scheme.edges == "right-closed") * inside_segment.count(start)
        dropped += len(inside_segment) - int(exact.sum())
    named = "compat" if scheme.compat else "at_segment_start" if scheme.edges == "right-closed" else None
    wanted_lost = {"saturated": saturated, **({named: dropped} if named else {})}
    assert {k: n for k, n in baked.lost.items() if k != "outside_segments"} == wanted_lost
