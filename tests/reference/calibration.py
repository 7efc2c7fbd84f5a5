"""calibration: trials of a session, each resampled to T points."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.schemes import Calibration
from tests import strategies
from tests.reference.common import inside

VARIANTS = [
    Calibration(),
    Calibration(5_000_000, 2, 7, "linear", "random", seed=3, scored="scored", pseudo_ns=40_000_000),
    Calibration(5_000_000, 2, 21, "linear", smooth_ns=7_000_000),
    Calibration(7_000_001, 2, 16, "area", "block", seed=1, smooth_ns=30_000_000, pseudo_ns=50_000_000),
    Calibration(5_000_000, 1, 9, "linear", "all", pseudo_ns=30_000_000),
    Calibration(5_000_000, 3, 33, "cubic", "block", seed=5, smooth_ns=10_000_000, pseudo_ns=60_000_000),
]


@st.composite
def sessions(draw) -> Session:
    """Trials, perhaps overlapping, out of order or empty, or none; and a table of scored time."""
    session = draw(strategies.sessions())
    tables = {"scored": draw(strategies.intervals())}
    if draw(st.booleans()):
        tables["trials"] = draw(strategies.intervals(max_size=5))
    return replace(session, intervals=tables)


def dressed(session: Session) -> Session:
    return replace(session, intervals={"scored": session.observed})


def all_trials(scheme: Calibration, session: Session) -> list[tuple[int, int]]:
    """Every trial of the session, in order of time, none reaching into the next."""
    if session.trials is None or len(session.trials) == 0:
        found = []
        for start, stop in zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True):
            while start + scheme.pseudo_ns <= stop:
                found.append((start, start + scheme.pseudo_ns))
                start += scheme.pseudo_ns
        return found
    ends = sorted(zip(session.trials.start_ns.tolist(), session.trials.stop_ns.tolist(), strict=True))
    nexts = [start for start, _ in ends[1:]] + [math.inf]
    return [(start, min(stop, after)) for (start, stop), after in zip(ends, nexts, strict=True)]


def scored_bins(scheme: Calibration, session: Session, trial: tuple[int, int]) -> list[int]:
    """Which bins of the trial count."""
    found, k = [], 0
    while trial[0] + (k + 1) * scheme.bin_ns <= trial[1]:
        low = trial[0] + k * scheme.bin_ns
        high = low + scheme.bin_ns
        named = not scheme.scored or inside(low, high, session.intervals[scheme.scored].union())
        if named and inside(low, high, session.observed):
            found.append(k)
        k += 1
    return found


def chosen_trials(scheme: Calibration, session: Session) -> list[tuple[tuple[int, int], list[int]]]:
    """The trials that the scheme takes of the session, with their scored bins."""
    least = {"cubic": 4, "linear": 2, "area": 1}[scheme.resample]
    found = [(trial, scored_bins(scheme, session, trial)) for trial in all_trials(scheme, session)]
    found = [(trial, bins) for trial, bins in found if len(bins) >= least]
    if scheme.choose == "all":
        return found
    if scheme.choose == "first" or len(found) <= scheme.n_trials:
        return found[: scheme.n_trials]
    words = np.random.PCG64(scheme.seed)
    if scheme.choose == "block":
        first = int(words.random_raw()) * (len(found) - scheme.n_trials + 1) // 2**64
        return found[first : first + scheme.n_trials]
    word = [int(words.random_raw()) for _ in found]
    taken = sorted(range(len(found)), key=lambda i: word[i])[: scheme.n_trials]
    return [found[i] for i in sorted(taken)]


def exact_counts(session: Session, start: int, bins: list[int], bin_ns: int) -> list[list[int]]:
    """Counts of each scored bin and unit, not limited."""
    counts = [[0] * len(session.units) for _ in bins]
    for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if (t - start) // bin_ns in bins:
            counts[bins.index((t - start) // bin_ns)][u] += 1
    return counts


# ---- one unit's counts on T points ----------------------------------------------------------------------------------


def resampled(scheme: Calibration, counts: list[int]) -> list[float]:
    """One unit's counts of one trial on ``scheme.length`` points."""
    decay = math.exp(-scheme.bin_ns / scheme.smooth_ns) if scheme.smooth_ns else 0.0
    value: list[float] = []
    for count in counts:
        value.append((decay * value[-1] if value else 0.0) + (1.0 - decay) * count)
    if scheme.resample == "area":
        return [share(value, t, scheme.length) for t in range(scheme.length)]
    bent = bends(value) if scheme.resample == "cubic" else None
    points, steps, last = [], scheme.length - 1, len(value) - 1
    for t in range(scheme.length):
        k = min(t * last // steps, last - 1)
        rise = t * last - k * steps
        u = rise / steps
        if bent is None and not scheme.smooth_ns:  # counts: one rounding of the exact quotient
            points.append(float(np.float32(counts[k] * (steps - rise) + counts[k + 1] * rise) / np.float32(steps)))
        elif bent is None:
            points.append(value[k] + (value[k + 1] - value[k]) * u)
        else:
            r = 1.0 - u
            line = r * value[k] + u * value[k + 1]
            points.append(line + ((r * r * r - r) / 6.0 * bent[k] + (u * u * u - u) / 6.0 * bent[k + 1]))
    return points


def bends(value: list[float]) -> list[float]:
    """Second derivatives of the spline at its knots.

    Inside, ``m[k - 1] + 4 m[k] + m[k + 1] = 6 (v[k - 1] - 2 v[k] + v[k + 1])``. That the third derivative does not
    jump at the second knot means that ``m[0], m[1], m[2]`` lie on a line, so that ``m[1]`` is the second difference
    itself; at the other end alike.
    """
    n = len(value)
    difference = [0.0] + [(value[k - 1] - 2.0 * value[k]) + value[k + 1] for k in range(1, n - 1)] + [0.0]
    bend, pivot = difference.copy(), [0.0] * n
    for k in range(2, n - 2):
        pivot[k] = 1.0 / (4.0 - pivot[k - 1])
        bend[k] = (6.0 * difference[k] - bend[k - 1]) * pivot[k]
    for k in range(n - 3, 1, -1):
        bend[k] -= bend[k + 1] * pivot[k]
    bend[0] = 2.0 * bend[1] - bend[2]
    bend[-1] = 2.0 * bend[-2] - bend[-3]
    return bend


def share(value: list[float], t: int, points: int) -> float:
    """What falls into the t-th of so many equal shares of the whole length."""
    low, high, total = t * len(value), (t + 1) * len(value), 0.0
    for k in range(len(value)):
        overlap = min(high, (k + 1) * points) - max(low, k * points)
        if overlap > 0:
            total += overlap * value[k]
    return total / points


def matrix(scheme: Calibration, counts: list[list[int]]) -> np.ndarray:
    columns = [resampled(scheme, [min(row[n], 255) for row in counts]) for n in range(len(counts[0]))]
    return np.array(columns, np.float64).T.astype(np.float32)


# ---- what the laws ask ----------------------------------------------------------------------------------------------


def unit_flags(scheme, session, trial, bins) -> list[int]:
    flags = []
    for n in range(len(session.units)):
        own = session.unit_observed[n].reshape(-1, 2)
        recorded = Intervals(own[:, 0], own[:, 1]).union()
        lows = [trial[0] + k * scheme.bin_ns for k in bins]
        flags.append(int(all(inside(low, low + scheme.bin_ns, recorded) for low in lows)))
    return flags


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The chosen trials that lie wholly inside the window, one a token."""
    start, n_units = int(windows.start_ns[b]), len(session.units)
    chosen = chosen_trials(scheme, session)
    most = max((len(bins) for _, bins in chosen), default=0)
    held = [(t, bins) for t, bins in chosen if start <= t[0] and t[1] <= start + windows.length_ns]
    tokens = {
        "matrix": np.zeros((len(held), scheme.length, n_units), np.float32),
        "counts": np.zeros((len(held), most, n_units), np.uint8),
        "bin": np.full((len(held), most), -1, np.int32),
        "start_ns": np.array([trial[0] - start for trial, _ in held], np.int64),
        "stop_ns": np.array([trial[1] - start for trial, _ in held], np.int64),
    }
    if session.unit_observed is not None:
        flags = [unit_flags(scheme, session, trial, bins) for trial, bins in held]
        tokens["unit_observed"] = np.array(flags, np.uint8).reshape(len(held), n_units)
    for m, (trial, bins) in enumerate(held):
        counts = exact_counts(session, trial[0], bins, scheme.bin_ns)
        tokens["matrix"][m] = matrix(scheme, counts)
        tokens["counts"][m, : len(bins)] = np.minimum(counts, 255)
        tokens["bin"][m, : len(bins)] = bins
    for n in range(n_units):
        if keep is not None and not keep[n]:
            for name in {"matrix", "counts", "unit_observed"} & tokens.keys():
                tokens[name][..., n] = 0
    return tokens


def check_bake(scheme, session, segments, baked) -> None:
    """Every row's counts and points, and where each spike that is in none of them was lost."""
    columns, chosen = baked.columns, chosen_trials(scheme, session)
    pairs = list(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True))
    rows = [(g, *found) for g, (a, z) in enumerate(pairs) for found in chosen if a <= found[0][0] and found[0][1] <= z]
    assert columns["segment.row"].tolist() == [sum(g < k for g, _, _ in rows) for k in range(len(pairs) + 1)]
    assert columns["start_ns"].tolist() == [trial[0] for _, trial, _ in rows]
    assert columns["stop_ns"].tolist() == [trial[1] for _, trial, _ in rows]
    assert np.diff(columns["counts.row"]).tolist() == [len(bins) for _, _, bins in rows]
    assert columns["counts.bin"].tolist() == [k for _, _, bins in rows for k in bins]
    assert columns["counts.most"].tolist() == [max((len(bins) for _, bins in chosen), default=0)]
    least = {"cubic": 4, "linear": 2, "area": 1}[scheme.resample]
    sizes = [len(scored_bins(scheme, session, trial)) for trial in all_trials(scheme, session)]
    assert columns["trials.found"].tolist() == [len(sizes)]
    assert columns["trials.short"].tolist() == [sum(size < least for size in sizes)]
    saturated = 0
    for r, (_, trial, bins) in enumerate(rows):
        counts = exact_counts(session, trial[0], bins, scheme.bin_ns)
        own = slice(columns["counts.row"][r], columns["counts.row"][r + 1])
        np.testing.assert_array_equal(columns["counts"][own], np.minimum(counts, 255))
        np.testing.assert_array_equal(columns["matrix"][r], matrix(scheme, counts))
        saturated += int(np.maximum(np.array(counts) - 255, 0).sum())
        if session.unit_observed is not None:
            assert columns["unit_observed"][r].tolist() == unit_flags(scheme, session, trial, bins)
    where = {"outside_segments": 0, "outside_trials": 0, "unscored": 0, "counted": 0}
    for t in session.spikes.time_ns.tolist():
        own = [(trial, bins) for _, trial, bins in rows if trial[0] <= t < trial[1]]
        if not any(a <= t < z for a, z in pairs):
            where["outside_segments"] += 1
        elif not own:
            where["outside_trials"] += 1
        elif (t - own[0][0][0]) // scheme.bin_ns not in own[0][1]:
            where["unscored"] += 1
        else:
            where["counted"] += len(own)
    assert baked.lost == {
        "outside_segments": where["outside_segments"],
        "outside_trials": where["outside_trials"],
        "unscored": where["unscored"],
        "saturated": saturated,
    }
    assert scheme.spikes_held(columns) + saturated == where["counted"]
