"""per-spike: START and END of each kept unit, then the kept units' spikes in order of time and unit."""

from __future__ import annotations

import numpy as np

from reference.common import seconds
from spiketok.schemes import PerSpike

VARIANTS = [PerSpike(), PerSpike(start_end=False)]


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """Tokens as (ns in the window, row, type), in their order."""
    start, length, n_units = int(windows.start_ns[b]), windows.length_ns, len(session.units)
    keep = [True] * n_units if keep is None else keep
    unit_row = list(range(n_units)) if unit_row is None else unit_row
    tokens = []
    if scheme.start_end:
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


def check_bake(scheme, session, segments, baked) -> None:
    """Each segment's rows are its spikes, in their order."""
    row = baked.columns["segment.row"]
    spikes = list(zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True))
    for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        rows = slice(row[g], row[g + 1])
        found = zip(baked.columns["time_ns"][rows].tolist(), baked.columns["unit"][rows].tolist(), strict=True)
        assert list(found) == [(t, u) for t, u in spikes if start <= t < stop]
