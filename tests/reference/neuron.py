"""neuron: each unit's counts in successive bins."""

from __future__ import annotations

import numpy as np

from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.schemes import Neuron
from tests.reference.common import inside

VARIANTS = [
    Neuron(),
    Neuron(view="history", history_bins=4),
    Neuron(view="patch", patch_bins=3),
    Neuron(7_000_001, "history", history_bins=1),
    Neuron(7_000_001, "patch", patch_bins=5),
]


def count(session: Session, unit: int, low: int, high: int) -> int:
    """Spikes of one unit in ``[low, high)``."""
    pairs = zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
    return sum(u == unit and low <= t < high for t, u in pairs)


def series(session: Session, segment: tuple[int, int], unit: int, at: int, n_bins: int, bin_ns: int):
    """Counts (not limited) and observed flags of the bins from ``at`` on; nothing is before or behind the segment."""
    counts, observed = [], []
    for k in range(n_bins):
        low, high = at + k * bin_ns, at + (k + 1) * bin_ns
        counts.append(0 if low < segment[0] else count(session, unit, low, min(high, segment[1])))
        recorded = session.observed
        if session.unit_observed is not None:
            own = session.unit_observed[unit].reshape(-1, 2)
            recorded = Intervals(own[:, 0], own[:, 1]).union()
        observed.append(int(segment[0] <= low and high <= segment[1] and inside(low, high, recorded)))
    return counts, observed


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The tokens of one window, one by one."""
    g, start, bin_ns = windows.segment[b], int(windows.start_ns[b]), scheme.bin_ns
    segment = (int(segments.start_ns[g]), int(segments.stop_ns[g]))
    n_bins = windows.length_ns // bin_ns
    units = [n for n in range(len(session.units)) if keep is None or keep[n]]
    if scheme.view == "trial":
        item, places = n_bins, [(n, 0, start) for n in units]
    elif scheme.view == "history":
        item = scheme.history_bins
        places = [(n, k, start + (k - item + 1) * bin_ns) for k in range(n_bins) for n in units]
    else:
        item = scheme.patch_bins
        heard = [n for n in units if count(session, n, start, start + windows.length_ns)]
        places = [(n, k, start + k * item * bin_ns) for n in heard for k in range(n_bins // item)]
    tokens = [series(session, segment, n, at, item, bin_ns) for n, _, at in places]
    return {
        "series": np.array([[min(c, 255) for c in counts] for counts, _ in tokens], np.uint8).reshape(-1, item),
        "observed": np.array([observed for _, observed in tokens], np.uint8).reshape(-1, item),
        "unit": np.array([n if unit_row is None else unit_row[n] for n, _, _ in places], np.int32),
        "time": np.array([k for _, k, _ in places], np.int32),
    }


def check_bake(scheme, session, segments, baked) -> None:
    """Every segment's counts behind its leading zeros, and how many spikes did not fit."""
    lead = scheme.history_bins - 1 if scheme.view == "history" else 0
    column, saturated = 0, 0
    for g, pair in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        assert baked.columns["segment.row"][g] == column
        n_bins = lead - ((pair[0] - pair[1]) // scheme.bin_ns)
        for n in range(len(session.units)):
            counts, observed = series(session, pair, n, pair[0] - lead * scheme.bin_ns, n_bins, scheme.bin_ns)
            found = baked.columns["counts"][n, column : column + n_bins].tolist()
            assert found == [min(c, 255) for c in counts]
            own = baked.columns["observed"] if session.unit_observed is None else baked.columns["unit_observed"][n]
            assert own[column : column + n_bins].tolist() == observed
            saturated += sum(c - min(c, 255) for c in counts)
            assert sum(counts) == count(session, n, *pair)
        column += n_bins
    assert baked.columns["counts"].shape == (len(session.units), column)
    assert baked.columns["segment.row"][-1] == column
    assert baked.lost["saturated"] == saturated
