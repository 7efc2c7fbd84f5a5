"""Random 1 s windows over all units: from the store, and from the NWB file by pynwb.

pynwb in three forms, each with the file open before the clock starts: ``get_unit_spike_times`` of each unit with an
interval, as its documentation has it; a bisection of our own in each unit's stretch of the file's dataset, as little of
pynwb as can be; and all spike times read at once and cut by numpy. spiketok with no chunk decoded before (a reader that
keeps one chunk), with what 64 MB keep, and with all chunks kept. Counts of spikes are compared first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Row, compare, measure
from pynwb import NWBHDF5IO
from recordings import recording
from sources import LAYOUTS, write_source

from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.store import write_session
from spiketok.storage.window_reader import open_session

COLD, WARM, KEPT = "spiketok, nothing kept", "spiketok, 64 MB kept", "spiketok, all kept"
WANTED = 100.0
N_STARTS = 1009


def rows(size: str, rounds: int) -> list[Row]:
    session, found = recording(size), []
    starts = np.random.default_rng(1).integers(0, session.stop_ns - NS_PER_S, N_STARTS).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_session(session, folder / "store")
        for layout in LAYOUTS:
            write_source(folder / "one.nwb", size, layout, electrodes=False)
            with NWBHDF5IO(str(folder / "one.nwb"), "r") as io:
                ours, peers = _ours(folder / "store"), _peers(io.read().units)
                for start in starts[:2]:
                    expected = len(session.spikes.window(start, start + NS_PER_S))
                    counts = {who: read(start) for who, read in (ours | peers).items()}
                    assert all(abs(n - expected) <= 2 for n in counts.values()), (expected, counts)
                timing = measure({who: _in_turn(read, starts) for who, read in (ours | peers).items()}, rounds)
            task = f"a random 1 s window, {layout}"
            found += [Row(r.task, r.who, r.seconds, r.ratio, WANTED if r.who in peers else None)
                      for r in compare(task, timing, COLD)]  # fmt: skip
    return found


def _in_turn(read: Callable[[int], int], starts: list[int]) -> Callable[[], int]:
    turn = [0]

    def call() -> int:
        turn[0] += 1
        return read(starts[turn[0] % len(starts)])

    return call


def _ours(path: Path) -> dict[str, Callable[[int], int]]:
    readers = {
        COLD: open_session(path, cache_bytes=0),
        WARM: open_session(path),
        KEPT: open_session(path, cache_bytes=2**32),
    }

    def read(who: str) -> Callable[[int], int]:
        return lambda start: len(readers[who].window(start, start + NS_PER_S))

    return {who: read(who) for who in readers}


def _peers(units) -> dict[str, Callable[[int], int]]:
    n_units, data = len(units.id), units["spike_times"].target.data
    stop = np.asarray(units["spike_times"].data[:]).astype(np.int64)
    edges = np.concatenate([[0], stop]).tolist()

    def documented(start: int) -> int:
        span = (start / 1e9, start / 1e9 + 1.0)
        return sum(len(units.get_unit_spike_times(n, in_interval=span)) for n in range(n_units))

    def bisected(start: int) -> int:
        total = 0
        for n in range(n_units):
            rows = [_first(data, edges[n], edges[n + 1], second) for second in (start / 1e9, start / 1e9 + 1.0)]
            total += len(data[rows[0] : rows[1]])
        return total

    def at_once(start: int) -> int:
        seconds = data[:]
        inside = (seconds >= start / 1e9) & (seconds < start / 1e9 + 1.0)
        return len(seconds[inside])

    return {"pynwb get_unit_spike_times": documented, "h5py, bisected by unit": bisected, "h5py, all at once": at_once}


def _first(data, low: int, high: int, second: float) -> int:
    while low < high:
        middle = (low + high) // 2
        if data[middle] < second:
            low = middle + 1
        else:
            high = middle
    return low
