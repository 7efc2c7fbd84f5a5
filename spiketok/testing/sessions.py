"""Sessions that laws are held on: made of a seed, with what goes wrong in them first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes.base import Scheme, Windows

STEP_NS = 10_000_000
HOLE = (2_013_000_000, 2_989_000_000)  # of training time, its edges inside of bins
UNITS = {"a": 6, "b": 9, "new": 7}  # sessions of a model's laws, with the number of their units


def decodable_session(
    name: str, seed: int = 0, *, n_units: int = 12, seconds: float = 40.0, signals: tuple[str, ...] = ("hand_vel",)
) -> Session:
    """Slow smooth velocity in two components at 100 Hz; each unit fires about 20 spikes/s, tuned to a direction."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 100)
    time_ns = np.arange(n) * STEP_NS
    second = time_ns / NS_PER_S
    phase = rng.uniform(0, 2 * np.pi, (2, 4))
    hertz = np.array([0.15, 0.31, 0.47, 0.63])
    velocity = np.sin(2 * np.pi * hertz * second[:, None, None] + phase).sum(axis=2) / 2  # [T, 2]
    preferred = rng.uniform(0, 2 * np.pi, n_units)
    drive = velocity @ np.stack([np.cos(preferred), np.sin(preferred)])  # [T, N]
    rate = np.exp(2.6 + 0.8 * drive)
    times = []
    for k in range(n_units):
        count = rng.poisson(rate[:, k] * STEP_NS / NS_PER_S)
        times.append(np.sort(np.repeat(time_ns, count) + rng.integers(0, STEP_NS, count.sum())))
    stop = n * STEP_NS
    value = (50 * velocity).astype(np.float32)
    return Session(
        id=f"made/{name}",
        subject="s",
        start_ns=0,
        stop_ns=stop,
        units=UnitTable([f"u{k}" for k in range(n_units)]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop]),
        source=Source(f"{name}.nwb", hashlib.sha256(name.encode()).hexdigest(), 1),
        signals={s: Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(n, np.bool_), 100.0) for s in signals},
    )


def recorded(name: str, noise: bool) -> Session:
    """9 s, not all observed; with noise, other spikes and another behaviour in the time that was not.

    Args:
        name: of ``UNITS``.
    """
    session = decodable_session(name, list(UNITS).index(name), n_units=UNITS[name], seconds=9)
    start, stop = HOLE
    times, value = [], {}
    for unit in range(UNITS[name]):
        own = session.spikes.time_ns[session.spikes.unit == unit]
        more = np.arange(start, stop, 7_000_000 + unit) if noise else np.zeros(0, np.int64)
        times.append(np.sort(np.concatenate([own[(own < start) | (own >= stop)], more])))
    for key, signal in session.signals.items():
        inside = (signal.time_ns >= start) & (signal.time_ns < stop)
        value[key] = replace(signal, value=np.where(inside[:, None], 1e4 if noise else 0, signal.value))
    frame_ns = np.arange(16_000_000, session.stop_ns, 33_000_000)
    seen = [t[(t < start) | (t >= stop)] for t in times]  # a frame after the gap glows by no spike in it
    glow = np.stack([np.searchsorted(t, frame_ns) - np.searchsorted(t, frame_ns - 100_000_000) for t in seen], 1)
    inside = (frame_ns >= start) & (frame_ns < stop)
    glow = np.where(inside[:, None], 1e4 if noise else 0, glow).astype(np.float32)
    names = tuple(session.units.id.astype(str).tolist())
    value[FLUORESCENCE] = Signal(frame_ns, glow, names, "", np.ones(len(frame_ns), np.bool_))
    place = np.arange(UNITS[name]) * 2 // UNITS[name]  # the first half of the units, and the second
    onset = np.arange(15) * 600_000_000
    columns = {"group": place, "region": np.array(["M1", "PMd"])[place]}
    side = {"side": np.array(["l", "r"])[np.arange(15) % 2]}
    return replace(
        session,
        units=UnitTable(session.units.id, columns),
        spikes=Spikes.from_units(times),
        signals=value,
        observed=Intervals([0, stop], [start, session.stop_ns]),
        intervals={"trials": Intervals(onset, onset + NS_PER_S // 2, side)},
    )


def nasty_session(seed: int) -> Session:
    """Few units, some silent; spikes on edges of bins and a nanosecond beside, ties, negative times, a full bin."""
    rng = np.random.default_rng(seed)
    low, high, n_units = -5, 45, int(rng.integers(1, 5))
    at = rng.integers(low, high, rng.integers(0, 60)) * STEP_NS + rng.choice([-1, 0, 1, STEP_NS // 2], 1)[0]
    at = np.concatenate([at, rng.integers(low * STEP_NS, high * STEP_NS, rng.integers(0, 60))])
    if seed % 5 == 0 and len(at):
        at = np.concatenate([at, np.repeat(at[:1], 300)])  # more than a uint8 holds, in one bin and at one time
    at = np.clip(at, low * STEP_NS, high * STEP_NS)
    unit = rng.integers(0, n_units, len(at)) if seed % 3 else np.zeros(len(at), np.int64)
    times = [np.sort(at[unit == n]) for n in range(n_units)]
    start_ns, stop_ns = low * STEP_NS, high * STEP_NS + 1
    middle = int(rng.integers(start_ns + 1, stop_ns - 1))
    whole = Intervals([start_ns], [stop_ns])
    return Session(
        id="made/one",
        subject="s",
        start_ns=start_ns,
        stop_ns=stop_ns,
        units=UnitTable([f"u{n}" for n in range(n_units)]),
        spikes=Spikes.from_units(times),
        observed=whole if seed % 2 else Intervals([start_ns, middle + 1], [middle, stop_ns]),
        source=Source(file="made.nwb", sha256="0" * 64, size=1),
    )


def nasty_cases(scheme: Scheme, n: int = 40) -> Iterator[tuple[Session, Intervals, Windows, np.ndarray | None]]:
    """Sessions, segments to bake, windows to cut, and which units each window keeps (bool ``[B, N]``; None for all)."""
    for seed in range(n):
        rng, session = np.random.default_rng([seed, 1]), nasty_session(seed)
        segments = Intervals([session.start_ns], [session.stop_ns])
        if seed % 3 == 1:  # overlapping, out of order, shorter than a bin, empty
            edges = rng.integers(session.start_ns, session.stop_ns, (4, 2))
            segments = Intervals(edges.min(1), edges.max(1))
        window = _windows(rng, scheme, segments)
        keep = None if seed % 2 else rng.random((len(window), len(session.units))) < rng.choice([0.0, 0.5])
        yield session, segments, window, keep


def _windows(rng: np.random.Generator, scheme: Scheme, segments: Intervals) -> Windows:
    """Windows of one length inside the segments, at their very start and end too; none where nothing fits."""
    step = scheme.window_ns or scheme.length_grid_ns
    room = segments.stop_ns - segments.start_ns
    fits = np.flatnonzero(room >= step)
    if not len(fits):
        return Windows(np.zeros(0, np.int64), np.zeros(0, np.int64), step)
    length = step if scheme.window_ns else int(rng.integers(1, room.max() // step + 1)) * step
    segment = rng.choice(np.flatnonzero(room >= length), 5).astype(np.int64)
    last = (room[segment] - length) // scheme.grid_ns
    at = np.where(rng.random(5) < 0.3, 0, np.where(rng.random(5) < 0.4, last, (rng.random(5) * (last + 1)).astype(int)))
    return Windows(segment, segments.start_ns[segment] + at * scheme.grid_ns, length)
