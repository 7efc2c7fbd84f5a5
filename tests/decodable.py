"""Sessions whose behaviour can be decoded: cosine-tuned units that fire as inhomogeneous Poisson processes."""

from __future__ import annotations

from pathlib import Path

from spiketok.recording.nouns import Intervals, Session
from spiketok.testing.sessions import STEP_NS, decodable_session
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.sampling import SessionTokens

SECOND = 1_000_000_000
BIN_NS = 20_000_000

__all__ = ["BIN_NS", "SECOND", "SMALL_POYO", "STEP_NS", "bake", "bake_tokens", "decodable_session", "tokens_of"]


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
