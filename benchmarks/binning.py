"""Spikes into bins: the whole recording as counts, at 20, 5 and 1 ms, against the field's own functions.

Every candidate has the spikes in the form that it takes: the peers each unit's times in float64 seconds (or their own
object of them), made before the clock starts. spiketok and the limit write into the same array again and again; the
peers have no such argument, but for numpy's histogram, whose rows are copied into one. What they count is compared
with whole nanoseconds first: these recordings stand on a clock whose ticks often are edges, where the peers may put a
spike into the bin next door; as many as that are allowed to differ, and no spike more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from harness import Row, compare, measure, read
from recordings import SIZES, recording, unit_times

from spiketok.recording.nouns import Session
from spiketok.tokens.schemes.bins import count_bins

OURS, TWO, LIMIT = "spiketok", "spiketok, 2 threads", "limit: read the input, write the output"
MOST_PEER_CELLS = {"torch_brain": 200e6, "elephant": 200e6, "pynapple": 1e9, "numpy histogram": 1e9}
WANTED = {
    20: {"torch_brain": 70, "pynapple": 50, "elephant": 40, "numpy histogram": 15, LIMIT: 1 / 6},
    1: {"pynapple": 150, "numpy histogram": 150, LIMIT: 1 / 4},
}


def rows(size: str, rounds: int) -> list[Row]:
    """Rows for each bin width; ``limit`` has the reciprocal of how many times longer spiketok takes."""
    return [row for width_ms in (20, 5, 1) for row in _at(size, width_ms, rounds)]


def _at(size: str, width_ms: int, rounds: int) -> list[Row]:
    session, width_ns = recording(size), width_ms * 1_000_000
    n_bins = session.stop_ns // width_ns
    cells = n_bins * len(session.units)
    out = np.empty((n_bins, len(session.units)), np.uint8)

    def ours(threads: int) -> Callable[[], np.ndarray]:
        return lambda: count_bins(session, session.observed, width_ns, threads=threads, out=out)[0]

    truth = np.zeros_like(out)
    np.add.at(truth, (session.spikes.time_ns // width_ns, session.spikes.unit), 1)
    for threads in (1, 2):
        np.testing.assert_array_equal(ours(threads)(), truth)
    on_edge = int((session.spikes.time_ns % width_ns == 0).sum())
    peers = {k: run for k, run in _peers(size, width_ms).items() if cells <= MOST_PEER_CELLS[k]}
    for name, run in peers.items():
        differ = int(np.count_nonzero(run() != truth))
        assert differ <= 2 * on_edge, f"{name}: {differ} cells differ, {on_edge} spikes stand on an edge"
    del truth
    candidates = {OURS: ours(1), TWO: ours(2), LIMIT: lambda: _limit(session, out), **peers}
    timing = measure(candidates, rounds)
    return compare(f"bin {width_ms} ms", timing, OURS, wanted=WANTED.get(width_ms))


def _peers(size: str, width_ms: int) -> dict[str, Callable[[], np.ndarray]]:
    import elephant.utils
    import neo
    import pynapple
    import quantities
    from elephant.conversion import BinnedSpikeTrain
    from torch_brain.data import Interval, IrregularTimeSeries
    from torch_brain.utils.binning import bin_spikes

    logging.getLogger(elephant.utils.__file__).setLevel(logging.ERROR)  # it prints a line a unit on rounding
    session, seconds, width = recording(size), SIZES[size][1], width_ms / 1000
    times, n_units, n_bins = [t / 1e9 for t in unit_times(size)], len(session.units), seconds * 1000 // width_ms
    stream = IrregularTimeSeries(
        timestamps=session.spikes.time_ns / 1e9,
        unit_index=session.spikes.unit.astype(np.int64),
        domain=Interval(0.0, float(seconds)),
    )
    support = pynapple.IntervalSet(0, seconds)
    group = pynapple.TsGroup({n: pynapple.Ts(t) for n, t in enumerate(times)}, time_support=support)
    trains = [neo.SpikeTrain(t, units="s", t_stop=seconds) for t in times]
    by_unit = np.empty((n_units, n_bins), np.uint8)

    def histogram() -> np.ndarray:
        for n, t in enumerate(times):  # its quickest form: equal bins by range, one unit a row
            by_unit[n] = np.histogram(t, n_bins, (0, seconds))[0]
        return by_unit.T

    return {
        "torch_brain": lambda: bin_spikes(stream, n_units, width),
        "pynapple": lambda: np.asarray(group.count(width, ep=support).values),
        "elephant": lambda: (
            BinnedSpikeTrain(trains, bin_size=width * quantities.s, t_start=0 * quantities.s).to_array().T
        ),
        "numpy histogram": histogram,
    }


def _limit(session: Session, out: np.ndarray) -> int:
    total = read(session.spikes.time_ns) + read(session.spikes.unit)
    out.fill(0)
    return total
