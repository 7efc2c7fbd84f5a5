"""Sessions whose behaviour can be decoded: cosine-tuned units that fire as inhomogeneous Poisson processes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.sampling import SessionTokens

SECOND = 1_000_000_000
BIN_NS = 20_000_000
STEP_NS = 10_000_000


def decodable_session(
    name: str, seed: int = 0, *, n_units: int = 12, seconds: float = 40.0, signals: tuple[str, ...] = ("hand_vel",)
) -> Session:
    """Slow smooth velocity in two components at 100 Hz; each unit fires about 20 spikes/s, tuned to a direction."""
    rng = np.random.default_rng(seed)
    n = round(seconds * 100)
    time_ns = np.arange(n) * STEP_NS
    second = time_ns / SECOND
    phase = rng.uniform(0, 2 * np.pi, (2, 4))
    hertz = np.array([0.15, 0.31, 0.47, 0.63])
    velocity = np.sin(2 * np.pi * hertz * second[:, None, None] + phase).sum(axis=2) / 2  # [T, 2]
    preferred = rng.uniform(0, 2 * np.pi, n_units)
    drive = velocity @ np.stack([np.cos(preferred), np.sin(preferred)])  # [T, N]
    rate = np.exp(2.6 + 0.8 * drive)
    times = []
    for k in range(n_units):
        count = rng.poisson(rate[:, k] * STEP_NS / SECOND)
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


def bake(folder: Path, session: Session, scheme: str = "per-spike", segments: Intervals | None = None) -> ShardReader:
    """Bake a session whole (or the given segments of it) and open its shard."""
    made = make_scheme(scheme, bin_ns=BIN_NS) if scheme == "binned" else make_scheme(scheme)
    segments = segments or Intervals([session.start_ns], [session.stop_ns])
    target = Path(folder) / scheme / session.id
    write_shard(target, made, session, segments, segments_rule="continuous", store_digest="d" * 64)
    return ShardReader(target)


INPUTS = {"per-spike": "spikes", "binned": "counts"}  # under which name the models read a scheme


def tokens_of(*readers: ShardReader) -> SessionTokens:
    """The shards of one session as a training takes them."""
    return SessionTokens({INPUTS[reader.scheme.name]: reader for reader in readers})


def bake_tokens(
    folder: Path, session: Session, scheme: str = "per-spike", segments: Intervals | None = None
) -> SessionTokens:
    """Bake a session by one scheme, as a training takes it."""
    return tokens_of(bake(folder, session, scheme, segments))


# A poyo that trains in seconds, for tests of everything but its quality.
SMALL_POYO = [
    "model.dim=16",
    "model.depth=1",
    "model.dim_head=8",
    "model.self_heads=2",
    "model.latents_per_step=2",
    "data.window_ms=500",
    "data.batch_size=8",
    "optim.steps=12",
    "optim.checkpoint_every=4",
    "optim.lr=0.004",
    "transfer.identity_steps=6",
    "transfer.full_steps=6",
    "transfer.unfreeze_after=2",
    "transfer.batch_size=4",
]
