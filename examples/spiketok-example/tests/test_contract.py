"""The laws of spiketok on what this package gives; nothing has to be installed but spiketok itself."""

from __future__ import annotations

import numpy as np
import pytest
from spiketok_example.dataset import EXAMPLE_REACH
from spiketok_example.metric import correlation
from spiketok_example.model import UnitSum
from spiketok_example.scheme import SparseCounts
from spiketok_example.task import Speed

from spiketok.testing import laws


def reference(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """What window b must hold, written to be read: count by hand, bin by bin and unit by unit."""
    start, n_units = int(windows.start_ns[b]), len(session.units)
    stop = int(segments.stop_ns[windows.segment[b]])
    spikes = list(zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True))
    tokens = []
    for k in range(windows.length_ns // scheme.bin_ns):
        low = start + k * scheme.bin_ns
        for unit in range(n_units):
            count = sum(low <= t < min(low + scheme.bin_ns, stop) and u == unit for t, u in spikes)
            if count and (keep is None or keep[b, unit]):
                row = unit if unit_row is None else unit_row[unit]
                tokens.append(((k * scheme.bin_ns + scheme.bin_ns // 2) / 1e9, row, count))
    columns = [np.array(column) for column in zip(*tokens, strict=True)] or [np.zeros(0)] * 3
    dtypes = {"time": np.float32, "unit": np.int32, "count": np.int32}
    return {name: column.astype(dtype) for (name, dtype), column in zip(dtypes.items(), columns, strict=True)}


ALL = [
    *laws(SparseCounts, variants=[SparseCounts(), SparseCounts(bin_ns=7_000_001)], reference=reference),
    *laws(UnitSum, settings={"dim": 8, "past_bins": 3}, beside=[SparseCounts]),
    *laws(Speed),
    *laws(EXAMPLE_REACH),
    *laws(correlation),
]


@pytest.mark.parametrize("law", ALL, ids=str)
def test_law(law, tmp_path):
    law(tmp_path)
