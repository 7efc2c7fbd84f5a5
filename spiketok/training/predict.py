"""Predictions of a model over whole splits: windows one after the other, stitched, one answer a session and task.

What is unusual:

- windows overlap by half and their predictions are averaged at identical times (``data.stitch = "mean"``);
- ``"causal"`` takes each time from one window: the one that ends soonest after it. A model that is not causal by itself
  then answers only the last step of each window, so that no prediction knows more than one step of the future;
- a task that hides bins of its own is scored in passes, each with other bins hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from spiketok.models.base import Model
from spiketok.models.batch import Batch
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import Intervals
from spiketok.training.config import RunConfig
from spiketok.training.loader import Loader
from spiketok.training.sampling import SequentialWindows, SessionWindows
from spiketok.training.sessions import DividedSession, require_window
from spiketok.training.tasks.base import Answer, Score, Task

Answers = dict[str, Answer]  # by task


def predict(
    model: Model,
    session: DividedSession,
    split: str,
    config: RunConfig,
    device: torch.device | str = "cpu",
    *,
    calibration: Intervals | None = None,
) -> Answers:
    """Answers of all tasks that the session can serve, in all windows of a split that fit.

    Args:
        model: knows the session. It is put into eval mode for the time, and back.
        config: window length, evaluation step, stitching and batch size.
        calibration: the time of which the inputs of the session are cut; its own by default.

    Raises:
        DataError: no window fits.
    """
    windows = session.windows(split)
    require_window(windows, "evaluation", config.data.window_ns)
    if calibration is None:
        calibration = session.calibration
    together = [task for task in session.tasks if not task.passes]
    was_training = model.training
    model.eval()
    try:
        answers = _run(model, session, windows, together, session.tasks, None, config, device, calibration)
        for task in session.tasks:
            if task.passes:
                answers |= _run(
                    model, session, windows, [task], [task], range(task.passes), config, device, calibration
                )
    finally:
        model.train(was_training)
    return {task.name: answers[task.name] for task in session.tasks}


def score_split(
    model: Model, sessions: Sequence[DividedSession], split: str, config: RunConfig, device: torch.device | str = "cpu"
) -> tuple[dict[str, dict[str, Score]], dict[str, Answers]]:
    """Scores and answers by session and task, for the sessions that have such a split."""
    answers = {s.id: predict(model, s, split, config, device) for s in sessions if len(s.splits[split])}
    span = {s.id: seconds(s.splits[split]) for s in sessions}
    scores = {
        session: {task: answer.score() | {"seconds": span[session]} for task, answer in by_task.items()}
        for session, by_task in answers.items()
    }
    return scores, answers


def _run(
    model: Model,
    session: DividedSession,
    windows: SessionWindows,
    collected: Sequence[Task],
    asked: Sequence[Task],
    passes: Sequence[int] | None,
    config: RunConfig,
    device: torch.device | str,
    calibration: Intervals,
) -> Answers:
    """Answers of the collected tasks; all those asked hide what is theirs."""
    if not collected:
        return {}
    info, window_ns, grid_ns = session.tokens.info, config.data.window_ns, windows.grid_ns
    step_ns = window_ns if model.carries else max(config.data.eval_step_ns // grid_ns, 1) * grid_ns
    collectors = {task.name: task.collector(session.tokens) for task in collected}
    for hide in [None] if passes is None else passes:
        loader = Loader(
            [windows],
            SequentialWindows([windows], window_ns, step_ns=step_ns),
            batch_size=1 if model.carries else config.data.batch_size,
            tasks=asked,
            calibration={session.id: calibration},
            hide=hide,
            unit_rows={info.id: model.unit_row(info)},
            session_rows={info.id: model.session_row(info.id)},
            one_session=model.one_session_batches,
            seed=0,
        )
        walk = _Walk(step_ns, config.data.stitch == "causal" or model.carries, model.causal)
        with torch.inference_mode():
            for batch in loader:
                fresh = walk.step(batch)
                if model.carries and not fresh.begins and not fresh.follows:
                    continue  # a last window that lies over the one before: its past is not the carried one
                output, walk.carry = model.predict(batch.to(device), None if fresh.begins else walk.carry)
                for name, collector in collectors.items():
                    collector.add(batch, output, _used(output, batch, name, fresh.since_ns))
    return {name: collector.answer() for name, collector in collectors.items()}


def _used(output, batch: Batch, task: str, since_ns: np.ndarray | None) -> np.ndarray | None:
    """bool ``[Q]``: the queries that count; None where all do."""
    used, asked = None, batch.asked[task]
    if since_ns is not None:
        used = asked.ns >= np.repeat(since_ns, np.diff(asked.offset.cpu().numpy()))
    if f"{task}.known" in output:  # NaN where its history is not all there; from any other model NaN is an error
        made = output[f"{task}.known"].cpu().numpy()
        used = made if used is None else used & made
    return used


class _Fresh:
    """What is new in the windows of a batch: from when on each is used, and how its first stands to the one before."""

    def __init__(self, since_ns: np.ndarray | None, begins: bool, follows: bool) -> None:
        self.since_ns, self.begins, self.follows = since_ns, begins, follows


class _Walk:
    """Goes with windows in order of time: how far they have come, and the carry of the model."""

    def __init__(self, step_ns: int, causal_stitch: bool, causal_model: bool) -> None:
        self.step_ns, self.causal_stitch, self.causal_model = step_ns, causal_stitch, causal_model
        self.covered_ns: int | None = None
        self.carry: object = None

    def step(self, batch: Batch) -> _Fresh:
        since = np.empty(len(batch), np.int64)
        begins = follows = False
        for b, start in enumerate(batch.start_ns.tolist()):
            stop = start + batch.window_ns
            new = self.covered_ns is None or start > self.covered_ns or stop < self.covered_ns
            if b == 0:
                begins, follows = new, start == self.covered_ns
            if new:
                since[b] = start if self.causal_model else stop - self.step_ns
            else:
                since[b] = self.covered_ns if self.causal_model else max(self.covered_ns, stop - self.step_ns)
            self.covered_ns = stop
        return _Fresh(since if self.causal_stitch else None, begins, follows)
