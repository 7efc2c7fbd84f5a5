"""What several twins share: observed time, seconds, behaviour, and where windows may lie."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Signal


def inside(start: int, stop: int, intervals: Intervals) -> bool:
    """Whether ``[start, stop)`` lies wholly inside the time that sorted, disjoint intervals cover."""
    pairs = zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True)
    return any(low <= start and stop <= high for low, high in pairs)


def seconds(ns: int) -> np.float32:
    """The rule for window-relative seconds."""
    return np.float32(np.float64(ns) * 1e-9)


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
        return inside(t, t + 1, intervals)

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
