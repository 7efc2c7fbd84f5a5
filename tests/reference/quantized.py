"""quantized: the category of each count, and of each behaviour."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Intervals, Session, Signal
from spiketok.tokens.schemes import Quantized
from tests import strategies
from tests.reference.common import inside, signal_bin

VARIANTS = [
    Quantized(),
    Quantized(bin_ns=7_000_001, max_count=1, signals=("hand/vel",)),
    Quantized(rule="edges", edges=(1, 2.5, 4), signals=("hand/vel", "eye")),
    Quantized(rule="edges", edges=(0, 1, 3), edge_rule="left"),
]


def sessions() -> st.SearchStrategy[Session]:
    return strategies.sessions(with_signal=True).map(dressed)


def dressed(session: Session) -> Session:
    """The session with the behaviours that the variants name."""
    time_ns = session.start_ns + np.arange(20) * 5_000_000
    eye = Signal(time_ns, np.arange(20, dtype=np.float32)[:, None] - 7, ("p",), "", time_ns % 3 != 0)
    moved = session.signals.get("hand/vel", Signal(time_ns, np.zeros((20, 2)), ("x", "y"), "", time_ns > 0))
    return replace(session, signals={"hand/vel": moved, "eye": eye})


def category(scheme, count: int) -> int:
    count = min(count, 255)
    if scheme.rule == "clip":
        return min(count, scheme.max_count)
    return sum(edge <= count if scheme.edge_rule == "right" else edge < count for edge in scheme.edges)


def lowest(scheme, wanted: int) -> int:
    return next(count for count in range(256) if category(scheme, count) == wanted)


def scale(signal: Signal, c: int) -> np.float32:
    """The 99.9 % quantile of |x| on the line between the two samples next to it."""
    size = sorted(abs(float(v)) for v, ok in zip(signal.value[:, c], signal.valid, strict=True) if ok)
    if not size:
        return np.float32(1)
    at = np.float64(0.999) * (len(size) - 1)
    low = int(at)
    high = min(low + 1, len(size) - 1)
    share = float(Fraction(float(at)) - low)
    step = size[high] - size[low]
    # numpy's line counts from the nearer end, so that it never leaves the two samples
    found = size[high] - step * (1 - share) if share >= 0.5 else size[low] + step * share
    return np.float32(found) or np.float32(1)


def behaviour(signal: Signal, low: int, bin_ns: int, stop: int) -> tuple[list[int], bool]:
    values, ok = signal_bin(signal, low, bin_ns, stop)
    found = []
    for c, value in enumerate(values):
        normal = max(np.float32(-1), min(np.float32(1), np.float32(value) / scale(signal, c)))
        found.append(sum(edge < normal for edge in EDGES) - 1 if ok else -1)
    return found, ok


def _edges() -> list[np.float32]:
    """linspace(-1.001, 1.001, 513) in float32, each half from its end, the step rounded."""
    step = float(np.float32(np.float32(2.002) / np.float32(512)))
    end = float(np.float32(1.001))
    return [np.float32(-end + step * k) if k < 256 else np.float32(end - step * (512 - k)) for k in range(513)]


EDGES = _edges()


def segment(scheme, session: Session, start: int, stop: int) -> dict[str, np.ndarray]:
    """All bins of one segment, with counts of any size (int64) in place of categories."""
    n_units, n_bins = len(session.units), -((start - stop) // scheme.bin_ns)
    counts = np.zeros((n_bins, n_units), np.int64)
    for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True):
        if start <= t < stop:
            counts[(t - start) // scheme.bin_ns, u] += 1
    dims = sum(len(session.signals[name].components) for name in scheme.signals)
    columns = {"category": counts, "observed": np.zeros(n_bins, np.uint8)}
    columns["unit_observed"] = np.zeros((n_bins, n_units), np.uint8)
    columns["behaviour"] = np.zeros((n_bins, dims), np.int16)
    columns["behaviour_valid"] = np.zeros((n_bins, dims), np.uint8)
    for k in range(n_bins):
        low, high = start + k * scheme.bin_ns, start + (k + 1) * scheme.bin_ns
        columns["observed"][k] = high <= stop and inside(low, high, session.observed)
        for n in range(n_units):
            if session.unit_observed is not None and high <= stop:
                own = session.unit_observed[n].reshape(-1, 2)
                columns["unit_observed"][k, n] = inside(low, high, Intervals(own[:, 0], own[:, 1]).union())
        laid = [behaviour(session.signals[name], low, scheme.bin_ns, stop) for name in scheme.signals]
        columns["behaviour"][k] = [c for found, _ in laid for c in found]
        columns["behaviour_valid"][k] = [ok for found, ok in laid for _ in found]
    if session.unit_observed is None:
        del columns["unit_observed"]
    if not scheme.signals:
        del columns["behaviour"], columns["behaviour_valid"]
    return columns


def categories(scheme, counts: np.ndarray) -> np.ndarray:
    return np.array([[category(scheme, c) for c in row] for row in counts.tolist()], np.uint8).reshape(counts.shape)


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The rows of one window, dropped units zero."""
    g, at = windows.segment[b], int(windows.start_ns[b])
    start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
    columns = segment(scheme, session, start, stop)
    rows = slice((at - start) // scheme.bin_ns, (at - start + windows.length_ns) // scheme.bin_ns)
    tokens = {name: column[rows].copy() for name, column in columns.items()}
    tokens["category"] = categories(scheme, tokens["category"])
    for n, kept in enumerate(keep or []):
        if not kept:
            for name in tokens.keys() & {"category", "unit_observed"}:
                tokens[name][:, n] = 0
    return tokens


def check_bake(scheme, session, segments, baked) -> None:
    """Categories of every segment, and the spikes that they forget."""
    row, held, exact = baked.columns["segment.row"], 0, 0
    for g in range(len(segments)):
        wanted = segment(scheme, session, int(segments.start_ns[g]), int(segments.stop_ns[g]))
        exact += int(wanted["category"].sum())
        wanted["category"] = categories(scheme, wanted["category"])
        held += sum(lowest(scheme, c) for c in wanted["category"].ravel().tolist())
        for name, column in wanted.items():
            np.testing.assert_array_equal(baked.columns[name][row[g] : row[g + 1]], column, err_msg=name)
    assert baked.lost["clipped" if scheme.rule == "clip" else "merged"] == exact - held
    assert scheme.spikes_held(baked.columns) == held
    if scheme.signals:
        own = [
            (session.signals[name], c) for name in scheme.signals for c in range(len(session.signals[name].components))
        ]
        assert baked.columns["behaviour.scale"].tolist() == [scale(signal, c) for signal, c in own]
