"""How much of a split's time a score is of: what was predicted and has a truth, beside what no window answered.

A row of an answer stands for a bin or for the time until the next sample, where its task has such rows
(:meth:`~spiketok.training.tasks.base.Task.row_spans`); else the windows that were asked are counted whole.
"""

from __future__ import annotations

import numpy as np

from spiketok.models.batch import Batch
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import NS_PER_S, Intervals
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.base import Answer, Task


class WindowTime:
    """The time of the windows that a task was asked in, batch by batch, and of those with something to score."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, batch: Batch, used: np.ndarray | None, since_ns: np.ndarray | None) -> None:
        """Take the windows of a batch.

        Args:
            used: bool ``[Q]``, the queries that count; None for all.
            since_ns: int64 ``[B]``, from when on each window is used; None for all of it.
        """
        start = np.array(batch.start_ns, np.int64)
        stop = start + batch.window_ns
        start = start if since_ns is None else np.maximum(start, since_ns)
        asked = batch.asked[self.task.name]
        if self.task.whole_windows:
            scored = np.ones(len(start), np.bool_)
        else:
            weight = asked.weight.cpu().numpy() > 0
            weight = weight.any(axis=tuple(range(1, weight.ndim)))
            counts = np.ones(len(weight), np.bool_) if used is None else used
            window = np.repeat(np.arange(len(start)), np.diff(asked.offset.cpu().numpy()))
            answered = np.bincount(window[counts], minlength=len(start)) > 0
            scored = np.bincount(window[counts & weight], minlength=len(start)) > 0
            start, stop, scored = start[answered], stop[answered], scored[answered]
        self.parts.append((start, stop, scored))

    def spans(self) -> tuple[Intervals, Intervals]:
        """The windows that were answered, and those that were scored."""
        start, stop, scored = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        return Intervals(start, stop), Intervals(start[scored], stop[scored])


def time_told(
    task: Task, session: SessionTokens, split: Intervals, answer: Answer, windows: WindowTime | None
) -> dict[str, float]:
    """``scored_s``, the seconds of a split that a score is of, and ``unanswered_s``, those without a prediction.

    Args:
        windows: of a task without rows; None where it has them.
    """
    rows = task.row_spans(session, answer.time_ns)
    if rows is None:
        answered, scored = windows.spans()
    else:
        answered, scored = rows, rows.take(answer.scored)
    answered, scored = (part.union().intersect(split.union()) for part in (answered, scored))
    return {"scored_s": seconds(scored), "unanswered_s": (split.union().total_ns - answered.total_ns) / NS_PER_S}
