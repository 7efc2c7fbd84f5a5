"""Units' spike times into one stream in order of time: from one sorted array a unit to (time, unit) of every spike.

All start from the units' times, one unit behind the other. spiketok, numpy's sort of a packed key and the limit write
into the same arrays again and again; torch_brain's and pynapple's own objects allocate theirs. Every result is compared
with the stable order by (time, unit) before the clock starts (torch_brain's and pynapple's by time alone: theirs is
not in order of unit where times are equal). numpy sorts with other instructions on other processors: a ratio to its
sort tells of the machine too.
"""

from __future__ import annotations

import copy

import numpy as np
from harness import Row, compare, measure, read
from recordings import SIZES, recording, unit_times

from spiketok.recording.merging import merge_units

OURS, TWO, LIMIT = "spiketok", "spiketok, 2 threads", "limit: read the input, write the output"
TORCH_BRAIN, PACKED = "torch_brain sort", "numpy sort of a packed key, buffers reused"
WANTED = {TORCH_BRAIN: 5, PACKED: 2}


def rows(size: str, rounds: int) -> list[Row]:
    """Rows for one merge of the whole recording."""
    import pynapple
    from torch_brain.data import Interval, IrregularTimeSeries

    spikes, seconds = recording(size).spikes, SIZES[size][1]
    times = unit_times(size)
    time_ns, offset = np.concatenate(times), np.cumsum([0, *(len(t) for t in times)])
    unit = np.repeat(np.arange(len(times), dtype=np.uint64), np.diff(offset))
    out = np.empty(len(time_ns), np.int64), np.empty(len(time_ns), np.int32)
    key, bits = np.empty(len(time_ns), np.uint64), np.uint64((len(times) - 1).bit_length())

    def packed():
        np.left_shift(time_ns.view(np.uint64), bits, out=key)
        np.bitwise_or(key, unit, out=key)
        key.sort()
        np.right_shift(key, bits, out=out[0].view(np.uint64))
        np.bitwise_and(key, (np.uint64(1) << bits) - np.uint64(1), out=key)
        out[1][:] = key
        return out

    stream = IrregularTimeSeries(
        timestamps=time_ns / 1e9,
        unit_index=unit.astype(np.int64),
        domain=Interval(0.0, float(seconds)),
    )

    def torch_brain():
        own = copy.copy(stream)  # arrays shared: sorting replaces them, in the copy only
        own.__dict__["_sorted"] = None
        own.sort()
        return own.timestamps, own.unit_index

    group = pynapple.TsGroup({n: pynapple.Ts(t / 1e9) for n, t in enumerate(times)})

    def to_tsd():
        merged = group.to_tsd()
        return merged.times(), merged.values

    candidates = {
        OURS: lambda: merge_units(time_ns, offset, out=out),
        TWO: lambda: merge_units(time_ns, offset, threads=2, out=out),
        LIMIT: lambda: _limit(time_ns, out),
        PACKED: packed,
        TORCH_BRAIN: torch_brain,
        "pynapple to_tsd": to_tsd,
    }
    for name in (OURS, TWO, PACKED):
        found = candidates[name]()
        np.testing.assert_array_equal(found[0], spikes.time_ns)
        np.testing.assert_array_equal(found[1], spikes.unit)
    for run in (torch_brain, to_tsd):
        found = run()
        np.testing.assert_array_equal(np.rint(np.asarray(found[0]) * 1e9).astype(np.int64), spikes.time_ns)
        np.testing.assert_array_equal(np.bincount(np.asarray(found[1], np.int64)), np.diff(offset))
    return compare("merge units to a stream", measure(candidates, rounds), OURS, wanted=WANTED)


def _limit(time_ns: np.ndarray, out: tuple[np.ndarray, np.ndarray]) -> int:
    for array in out:
        array.fill(0)
    return read(time_ns)
