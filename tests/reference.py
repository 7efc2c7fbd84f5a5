"""The slow, readable twins: what the kernels must give, exactly. These functions are the specification.

Plain Python loops over whole numbers, no kernel, no search, no shared code with the package beyond its nouns. What they
return has the dtype that the package must have.
"""

from __future__ import annotations

import numpy as np

from spiketok.recording import Intervals, Session, Signal


def _inside(start: int, stop: int, intervals: Intervals) -> bool:
    """Whether ``[start, stop)`` lies wholly inside the time that sorted, disjoint intervals cover."""
    pairs = zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True)
    return any(low <= start and stop <= high for low, high in pairs)


def seconds(ns: int) -> np.float32:
    """The rule for window-relative seconds."""
    return np.float32(np.float64(ns) * 1e-9)


# ---- binned ---------------------------------------------------------------------------------------------------------


def binned_segment(session: Session, start: int, stop: int, bin_ns: int) -> dict[str, np.ndarray]:
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
        observed[k] = _inside(low, high, session.observed)
        for n in range(n_units):
            if session.unit_observed is not None:
                own = session.unit_observed[n].reshape(-1, 2)
                unit_observed[k, n] = _inside(low, high, Intervals(own[:, 0], own[:, 1]).union())
    columns = {"counts": counts, "observed": observed}
    return columns if session.unit_observed is None else columns | {"unit_observed": unit_observed}


def binned_window(
    session: Session, segment: tuple[int, int], start: int, length: int, bin_ns: int, keep: list[bool] | None
) -> dict[str, np.ndarray]:
    """The tokens of one window: its rows of the segment's bins, counts limited to 255, dropped units zero."""
    columns = binned_segment(session, *segment, bin_ns)
    rows = slice((start - segment[0]) // bin_ns, (start - segment[0] + length) // bin_ns)
    window = {name: column[rows].copy() for name, column in columns.items()}
    window["counts"] = np.minimum(window["counts"], 255).astype(np.uint8)
    for n, kept in enumerate(keep or []):
        if not kept:
            window["counts"][:, n] = 0
            if "unit_observed" in window:
                window["unit_observed"][:, n] = 0
    return window


# ---- per spike ------------------------------------------------------------------------------------------------------


def per_spike_window(
    session: Session,
    start: int,
    length: int,
    start_end: bool,
    keep: list[bool] | None,
    unit_row: list[int] | None,
) -> dict[str, np.ndarray]:
    """START and END of each kept unit, then the kept units' spikes in order of time and unit."""
    n_units = len(session.units)
    keep = [True] * n_units if keep is None else keep
    unit_row = list(range(n_units)) if unit_row is None else unit_row
    tokens = []
    if start_end:
        for n in range(n_units):
            if keep[n]:
                tokens += [(0, unit_row[n], 1), (length, unit_row[n], 2)]
    spikes = zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
    tokens += [(t - start, unit_row[u], 0) for t, u in sorted(spikes) if start <= t < start + length and keep[u]]
    return {
        "time": np.array([seconds(t) for t, _, _ in tokens], np.float32),
        "unit": np.array([u for _, u, _ in tokens], np.int32),
        "type": np.array([k for _, _, k in tokens], np.uint8),
    }


# ---- behaviour ------------------------------------------------------------------------------------------------------


def signal_bin(signal: Signal, low: int, bin_ns: int, stop: int) -> tuple[list[float], bool]:
    """A behaviour in the bin that begins at ``low`` in a segment that ends at ``stop``."""
    samples = [
        (t, v) for t, v, ok in zip(signal.time_ns.tolist(), signal.value.tolist(), signal.valid, strict=True) if ok
    ]
    nothing = [0.0] * len(signal.components)
    steps = sorted(b - a for a, b in zip(signal.time_ns.tolist(), signal.time_ns.tolist()[1:], strict=False))
    if not steps:
        period = 0
    else:
        period = int((steps[(len(steps) - 1) // 2] + steps[len(steps) // 2]) / 2)
    if 2 * period <= bin_ns:
        inside = [v for t, v in samples if low <= t < min(low + bin_ns, stop)]
        if not inside:
            return nothing, False
        return [sum(component) / len(inside) for component in zip(*inside, strict=True)], True
    middle = low + bin_ns // 2
    before = [(t, v) for t, v in samples if t <= middle]
    after = [(t, v) for t, v in samples if t >= middle]
    if not before or not after or middle >= stop:
        return nothing, False
    (t0, v0), (t1, v1) = before[-1], after[0]
    if 2 * (t1 - t0) > 5 * period:
        return nothing, False
    share = (middle - t0) / max(t1 - t0, 1)
    return [a + (b - a) * share for a, b in zip(v0, v1, strict=True)], True


def queries(signal: Signal, start: int, length: int, mean: list[float], std: list[float]) -> list[tuple]:
    """(ns, seconds, normalised values, weight) of each sample in a window."""
    found = []
    for t, value, ok in zip(signal.time_ns.tolist(), signal.value.tolist(), signal.valid.tolist(), strict=True):
        if start <= t < start + length:
            normal = [
                np.float32((v - m) / s) if ok else np.float32(0) for v, m, s in zip(value, mean, std, strict=True)
            ]
            found.append((t, seconds(t - start), normal, float(ok)))
    return found


# ---- windows --------------------------------------------------------------------------------------------------------


def usable(allowed: Intervals, observed: Intervals, segment: tuple[int, int], grid: int) -> list[tuple[int, int]]:
    """The stretches of one segment in which windows may lie, for times small enough to walk one by one."""

    def holds(intervals: Intervals, t: int) -> bool:
        return _inside(t, t + 1, intervals)

    good = [t for t in range(*segment) if holds(allowed, t) and holds(observed, t)]
    stretches: list[list[int]] = []
    for t in good:
        if stretches and stretches[-1][1] == t:
            stretches[-1][1] = t + 1
        else:
            stretches.append([t, t + 1])
    aligned = []
    for low, high in stretches:
        points = [p for p in range(low, high + 1) if (p - segment[0]) % grid == 0]
        if len(points) > 1:
            aligned.append((points[0], points[-1]))
    return aligned
