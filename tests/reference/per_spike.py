"""per-spike: a token a spike, with START and END of each kept unit, in chunks, or unit by unit; or first spikes."""

from __future__ import annotations

import numpy as np

from spiketok.tokens.schemes import PerSpike
from tests.reference.common import seconds

VARIANTS = [
    PerSpike(),
    PerSpike(start_end=False),
    PerSpike(start_end=False, chunk_ns=20_000_000),
    PerSpike(order="unit"),
    PerSpike(start_end=False, order="unit"),
    PerSpike(first_only=True),
    PerSpike(start_end=False, order="unit", first_only=True),
]


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """Tokens as (ns in the window or chunk, row, type, chunk), in their order."""
    start, length, n_units = int(windows.start_ns[b]), windows.length_ns, len(session.units)
    keep = [True] * n_units if keep is None else keep
    unit_row = list(range(n_units)) if unit_row is None else unit_row
    pairs = zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
    spikes = [(t - start, u) for t, u in sorted(pairs) if start <= t < start + length and keep[u]]
    if scheme.first_only:
        spikes = [(t, u) for k, (t, u) in enumerate(spikes) if u not in [of for _, of in spikes[:k]]]
    if scheme.chunk_ns:
        tokens = []
        for c in range(length // scheme.chunk_ns):
            low, high = c * scheme.chunk_ns, (c + 1) * scheme.chunk_ns
            inside = [(t - low, unit_row[u], 0, c) for t, u in spikes if low <= t < high]
            tokens += inside or [(0, 0, 3, c)]
    elif scheme.order == "unit":
        tokens = []
        for n in range(n_units):
            own = [(t, unit_row[n], 0, None) for t, u in spikes if u == n]
            if scheme.start_end and keep[n]:
                own = [(0, unit_row[n], 1, None), *own, (length, unit_row[n], 2, None)]
            tokens += own
    else:
        tokens = []
        if scheme.start_end:
            for n in range(n_units):
                if keep[n]:
                    tokens += [(0, unit_row[n], 1, None), (length, unit_row[n], 2, None)]
        tokens += [(t, unit_row[u], 0, None) for t, u in spikes]
    columns = {
        "time": np.array([seconds(t) for t, *_ in tokens], np.float32),
        "unit": np.array([u for _, u, _, _ in tokens], np.int32),
        "type": np.array([k for _, _, k, _ in tokens], np.uint8),
    }
    if scheme.chunk_ns:
        columns["chunk"] = np.array([c for *_, c in tokens], np.int32)
    return columns


def check_bake(scheme, session, segments, baked) -> None:
    """Each segment's rows are its spikes, in their order."""
    row = baked.columns["segment.row"]
    spikes = list(zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True))
    for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        rows = slice(row[g], row[g + 1])
        found = zip(baked.columns["time_ns"][rows].tolist(), baked.columns["unit"][rows].tolist(), strict=True)
        assert list(found) == [(t, u) for t, u in spikes if start <= t < stop]
