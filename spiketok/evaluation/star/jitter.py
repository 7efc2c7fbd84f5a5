"""How much of a score hangs on when exactly spikes came: test spikes moved at random, and decoded by the same run.

What is unusual: every spike of the test time gets one normal number, which is multiplied by each jitter's standard
deviation, so that jitters differ in size alone; a spike that would leave its stretch of observed test time is reflected
at its end, so none is lost and none reaches calibration, training time or a gap.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.evaluation.star.scores import mean_r2
from spiketok.recording.nouns import NS_PER_MS, Intervals, Session, Spikes
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import Run
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import divide


def jittered(session: Session, time: Intervals, sd_ns: float, seed: int = 0) -> Session:
    """The session with the spikes inside of some time moved.

    Args:
        time: sorted and disjoint; a spike stays within its stretch. sd_ns: standard deviation of the moves.
        seed: the same gives the same moves.
    """
    time_ns, unit = session.spikes.time_ns.copy(), session.spikes.unit
    draw = np.random.default_rng([seed, zlib.crc32(session.id.encode())]).standard_normal(len(time_ns))
    inside = time.intersect(session.observed)
    for start, stop in zip(inside.start_ns.tolist(), inside.stop_ns.tolist(), strict=True):
        rows = slice(*np.searchsorted(time_ns, [start, stop]).tolist())
        length = stop - start
        moved = (time_ns[rows] - start + np.rint(draw[rows] * sd_ns).astype(np.int64)) % (2 * length)
        time_ns[rows] = start + np.minimum(moved, 2 * length - 1 - moved)
    order = np.lexsort((unit, time_ns))
    return replace(session, spikes=Spikes(time_ns[order], unit[order]))


def jitter_scores(
    run: Run,
    sessions: Sequence[SessionTokens],
    jitters_ms: Sequence[float],
    stored: Callable[[str], Session],
    seed: int = 0,
) -> dict[float, float | None]:
    """R2 of a run on its own test time by jitter in ms, the mean over sessions; of jitter 0 too.

    Args:
        stored: gives a session as it was recorded.
    """
    scores: dict[float, list[float | None]] = {ms: [] for ms in (0.0, *jitters_ms)}
    for tokens in sessions:
        session = stored(tokens.id)
        test = divide(tokens, run.tasks, run.config.split, run.config.data.train_share).splits["test"]
        for ms in scores:
            with tempfile.TemporaryDirectory() as folder:
                moved = jittered(session, test, ms * NS_PER_MS, seed)
                own = divide(_baked(tokens, moved, Path(folder)), run.tasks, run.config.split,
                             run.config.data.train_share)  # fmt: skip
                answers = predict(run.model, own, "test", run.config, modes=False)
                scores[ms].append(mean_r2(run.tasks, {tokens.id: {name: answers.score(name) for name in answers}}))
    return {ms: None if None in found or not found else float(np.mean(found)) for ms, found in scores.items()}


def _baked(tokens: SessionTokens, session: Session, folder: Path) -> SessionTokens:
    """The windowed shards of a session made of other spikes; what is cut once of training time stays as it is."""
    windowed = {}
    for name, reader in tokens.windowed.items():
        target = folder / name
        rule, digest = reader.manifest["segments_rule"], reader.manifest["store_digest"]
        write_shard(target, reader.scheme, session, reader.segments, segments_rule=rule, store_digest=digest)
        windowed[name] = ShardReader(target)
    return replace(tokens, windowed=windowed)
