"""The simulated recordings that all benchmarks share: log-normal rates, 1.5 ms refractory, times on a 30 kHz grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Intervals, Session, Signal, Source, Spikes, UnitTable

SIZES = {"small": (100, 600, 8.0), "S": (200, 3600, 8.0), "L": (1000, 3600, 5.0)}  # units, seconds, mean spikes/s
CLOCK_HZ = 30_000


@lru_cache(maxsize=2)
def unit_times(size: str) -> tuple[np.ndarray, ...]:
    """Each unit's spike times: int64 ns, sorted, on ticks of the clock."""
    n_units, seconds, mean_hz = SIZES[size]
    rng = np.random.default_rng(len(size) * 1000 + n_units)
    rates = rng.lognormal(0.0, 1.0, n_units)
    rates = np.minimum(rates * (mean_hz / rates.mean()), 200.0)
    times = []
    for rate in rates:
        drawn = rng.exponential(max(1 / rate - 1.5e-3, 1e-4), int(seconds * rate * 1.1) + 200)
        tick = np.unique(np.rint(np.cumsum(1.5e-3 + drawn) * CLOCK_HZ).astype(np.int64))
        tick = tick[tick < seconds * CLOCK_HZ]
        times.append(np.rint(tick * (NS_PER_S / CLOCK_HZ)).astype(np.int64))
    return tuple(times)


@lru_cache(maxsize=2)
def recording(size: str) -> Session:
    """The session of that size, with a 100 Hz velocity of two components."""
    times = unit_times(size)
    stop_ns = SIZES[size][1] * NS_PER_S
    time_ns = np.arange(0, stop_ns, NS_PER_S // 100)
    value = np.cumsum(np.random.default_rng(0).normal(size=(len(time_ns), 2)), axis=0).astype(np.float32)
    return Session(
        id=f"bench/{size}",
        subject="s",
        start_ns=0,
        stop_ns=stop_ns,
        units=UnitTable([f"unit_{n}" for n in range(len(times))]),
        spikes=Spikes.from_units(list(times)),
        observed=Intervals([0], [stop_ns]),
        source=Source("made.nwb", "0" * 64, 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 100.0)},
    )
