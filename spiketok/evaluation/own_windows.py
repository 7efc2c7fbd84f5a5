"""A run's batches of windows that lie where a benchmark has them, and not on the axis of the run's own segments.

The session is baked again, each window being a segment of its own, so that bins begin with the window. Each window is
answered by itself: a model that carries a state begins anew in each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import UsageError
from spiketok.models.batch import Batch
from spiketok.recording.nouns import Intervals, Session
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.checkpoints import Run
from spiketok.training.predict import session_loader
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import SessionTokens, SessionWindows, TrialWindows, WindowPlan
from spiketok.training.tasks.base import Task


def require_no_calibration(run: Run, what: str) -> None:
    """Raise UsageError where a run's model reads something once a session, which a benchmark's windows have not."""
    if any(wanted.per == "session" for wanted in run_inputs(run.config).values()):
        message = f"{run.config.model} reads calibration once a session, which {what} have not"
        raise UsageError(message)


class _EachSegment(TrialWindows):
    """One window a segment, observed or not: what lies behind a trial is predicted without having been seen."""

    def plan(self, epoch: int = 0) -> WindowPlan:
        segments = self.sessions[0].segments
        n = len(segments)
        return WindowPlan(np.zeros(n, np.int64), np.arange(n), segments.start_ns)


def batches_at(
    run: Run,
    session: Session,
    digest: str,
    start_ns: np.ndarray,
    tasks: Sequence[Task],
    *,
    rule: str,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Batches of the run's windows that begin at these times, in their order; the model stands on the device.

    Args:
        session: one that the run was trained on. digest: of its store. start_ns: int64, each once, rising.
        tasks: what is asked in them, and hides what it hides. rule: of the segments, by name.
    """
    config, model = run.config, run.model.to(device).eval()
    segments = Intervals(start_ns, start_ns + config.data.window_ns)
    with tempfile.TemporaryDirectory(prefix=f"spiketok-{rule}-") as folder:
        readers = {}
        for name, wanted in run_inputs(config).items():
            shard, scheme = Path(folder) / name / session.id, scheme_of(wanted)
            write_shard(shard, scheme, session, segments, segments_rule=rule, store_digest=digest)
            readers[name] = ShardReader(shard)
        windows = SessionWindows(SessionTokens(readers), segments.union())
        batch_size = 1 if model.carries else config.data.batch_size
        loader = session_loader(model, _EachSegment([windows], config.data.window_ns), batch_size, tasks=tasks)
        for batch in loader:
            yield batch.to(device)
