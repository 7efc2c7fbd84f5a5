"""Predictions of a model over whole splits: windows one after the other, stitched, one answer a session and task.

What is unusual:

- windows overlap by half and their predictions are averaged at identical times (``data.stitch = "mean"``);
- ``"causal"`` takes each time from one window: the one that ends soonest after it. A model that is not causal by itself
  then answers only the last step of each window, so that no prediction knows more than one step of the future;
- a task that hides something of its own is scored in passes, each with other things hidden: windows are cut once for
  all passes, and the passes follow each other batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spiketok.models.base import Model
from spiketok.models.batch import Batch
from spiketok.recording.nouns import Intervals
from spiketok.training.config import RunConfig
from spiketok.training.loader import Loader
from spiketok.training.sampling import Sampler, SequentialWindows, SessionWindows
from spiketok.training.scored import WindowTime, time_told
from spiketok.training.sections import DataConfig
from spiketok.training.sessions import DividedSession, require_window
from spiketok.training.tasks.base import Answer, Collector, Pass, Score, Task, own_sampler


class Answers(dict[str, Answer]):
    """Answers by task; ``times``: of each how much of the split it is of, see :mod:`spiketok.training.scored`."""

    def __init__(self, answers: Mapping[str, Answer], times: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(answers)
        self.times = dict(times)

    def score(self, task: str) -> Score:
        """The score of a task, with the seconds that it is of."""
        return self[task].score() | dict(self.times[task])


def predict(
    model: Model,
    session: DividedSession,
    split: str,
    config: RunConfig,
    device: torch.device | str = "cpu",
    *,
    calibration: Intervals | None = None,
    modes: bool = True,
) -> Answers:
    """Answers of all tasks that the session can serve, in all windows of a split that fit.

    Args:
        model: knows the session. It is put into eval mode for the time, and back.
        config: window length, evaluation step, stitching and batch size.
        calibration: the time of which the inputs of the session are cut; its own by default.
        modes: make the passes of modes too (``Pass.mode``), which may be as many as the session has units.

    Raises:
        DataError: no window fits.
    """
    windows = session.windows(split)
    require_window(windows, "evaluation", config.data.window_ns)
    if calibration is None:
        calibration = session.calibration
    others = {task.name: [o.name for o in session.tasks if o.labelled and o is not task] for task in session.tasks}
    collectors = {task.name: task.collector(session.tokens, others[task.name]) for task in session.tasks}
    together = list(session.tasks)
    walks: list[_Question] = []
    for task in session.tasks:
        passes = [one for one in task.passes(session.tokens, others[task.name]) if modes or not one.mode]
        if any(not one.mode for one in passes):
            together.remove(task)
        walks += [
            _Question(asked, [task], own)
            for asked, own in (
                ([task], [one for one in passes if not one.given]),
                (session.tasks, [one for one in passes if one.given]),
            )
            if own
        ]
    if together:
        walks.insert(0, _Question(session.tasks, together, [None]))
    was_training = model.training
    model.eval()
    spent = {task.name: WindowTime(task) for task in session.tasks if type(task).row_spans is Task.row_spans}
    try:
        for walk in walks:
            _run(model, session, windows, walk, collectors, spent, config, device, calibration)
    finally:
        model.train(was_training)
    answers = {name: collector.answer() for name, collector in collectors.items()}
    return Answers(
        answers,
        {
            task.name: time_told(task, session.tokens, session.splits[split], answers[task.name], spent.get(task.name))
            for task in session.tasks
        },
    )


def score_split(
    model: Model,
    sessions: Sequence[DividedSession],
    split: str,
    config: RunConfig,
    device: torch.device | str = "cpu",
    *,
    modes: bool = True,
) -> tuple[dict[str, dict[str, Score]], dict[str, Answers]]:
    """Scores, with their seconds, and answers by session and task, for the sessions that have such a split."""
    answers = {s.id: predict(model, s, split, config, device, modes=modes) for s in sessions if len(s.splits[split])}
    return {session: {task: own.score(task) for task in own} for session, own in answers.items()}, answers


def eval_step_ns(model: Model, data: DataConfig) -> int:
    """From one window's start to the next, where predictions are put together: what ``data.eval_step_ms`` says.

    Without it half a window; less where the model leaves more than that of each window's start unanswered, so that the
    answers of one window begin where those of the one before end.
    """
    if data.eval_step_ms is not None:
        return data.eval_step_ns
    return min(data.eval_step_ns, max(data.window_ns - model.unanswered_ns, 1))


def session_loader(
    model: Model,
    sampler: Sampler,
    batch_size: int,
    *,
    tasks: Sequence[Task] = (),
    calibration: Intervals | None = None,
    seed: int = 0,
) -> Loader:
    """Batches of windows of one session, which the model knows.

    Args:
        sampler: which windows, of one session. tasks: what is asked in them.
        calibration: the time of what the model reads once a session; None where it is asked for nothing of that.
    """
    (windows,) = sampler.sessions
    info = windows.tokens.info
    return Loader(
        sampler.sessions,
        sampler,
        batch_size=batch_size,
        tasks=tasks,
        calibration=None if calibration is None else {info.id: calibration},
        unit_rows={info.id: model.unit_row(info)},
        session_rows={info.id: model.session_row(info.id)},
        one_session=model.one_session_batches,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Question:
    """One walk over the windows: what is asked in them, whose predictions are collected, and in which passes.

    ``passes`` are of the one task that is collected; None is the batch as the loader gives it.
    """

    asked: Sequence[Task]
    collected: Sequence[Task]
    passes: Sequence[Pass | None]


def _run(
    model: Model,
    session: DividedSession,
    windows: SessionWindows,
    question: _Question,
    collectors: Mapping[str, Collector],
    spent: Mapping[str, WindowTime],
    config: RunConfig,
    device: torch.device | str,
    calibration: Intervals,
) -> None:
    """Collect the predictions of one walk; all tasks asked hide what is theirs."""
    window_ns, grid_ns = config.data.window_ns, windows.grid_ns
    step_ns = window_ns if model.carries else max(eval_step_ns(model, config.data) // grid_ns, 1) * grid_ns
    own = own_sampler(question.asked, [windows], window_ns, seed=0, training=False)
    sampler = own or SequentialWindows([windows], window_ns, step_ns=step_ns)
    batch_size = 1 if model.carries else config.data.batch_size
    loader = session_loader(model, sampler, batch_size, tasks=question.asked, calibration=calibration)
    walk = Walk(step_ns, config.data.stitch == "causal" or model.carries, model.causal)
    carry: list[object] = [None] * len(question.passes)
    with torch.inference_mode():
        for batch in loader:
            fresh = walk.step(batch) if own is None else _Fresh(None, begins=True, follows=False)
            if model.carries and not fresh.begins and not fresh.follows:
                continue  # a last window that lies over the one before: its past is not the carried one
            moved = batch.to(device)
            for k, of in enumerate(question.passes):
                shown = moved if of is None else question.collected[0].hide(moved, session.tokens, of)
                output, carry[k] = model.predict(shown, None if fresh.begins else carry[k])
                for task in question.collected:
                    used = used_queries(output, shown, task.name, fresh.since_ns)
                    collectors[task.name].add(shown, output, used)
                    if task.name in spent:
                        spent[task.name].add(shown, used, fresh.since_ns)


def used_queries(output, batch: Batch, task: str, since_ns: np.ndarray | None) -> np.ndarray | None:
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


class Walk:
    """Goes with windows in order of time: how far they have come."""

    def __init__(self, step_ns: int, causal_stitch: bool, causal_model: bool) -> None:
        self.step_ns, self.causal_stitch, self.causal_model = step_ns, causal_stitch, causal_model
        self.covered_ns: int | None = None

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
