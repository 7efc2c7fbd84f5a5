"""What a page shows of a run on one of its sessions: predictions over truth, scores, its division."""

from __future__ import annotations

import numpy as np

from spiketok.errors import DataError
from spiketok.storage.workspace import Workspace
from spiketok.tokens.view import Extra, Labels, Trace
from spiketok.training.checkpoints import Run
from spiketok.training.predict import predict
from spiketok.training.runs import open_shards
from spiketok.training.sampling import listing
from spiketok.training.tasks.base import Answer, Task
from spiketok.training.tasks.classify import Classified
from spiketok.training.tasks.decode import Prediction
from spiketok.training.tasks.population import Rates
from spiketok.training.tasks.sequence import Read

NOTHING = "(nothing)"  # read in a trial: a mark without a word would be taken for one that has no room


def session_of(run: Run, asked: str | None) -> str:
    """The session whose page is made: the one that was asked for, else the first that the run was trained on.

    Raises:
        DataError: the run does not know the session, so that nothing can be predicted of it without adaptation.
    """
    if asked is None:
        return run.own[0]
    matches = [s for s in run.own if asked in (s, s.split("/", 1)[1])]
    if not matches:
        message = (
            f"{run.path.name} was not trained on {asked}, but on {listing(run.own)}: 'spiketok eval-xsession' "
            "adapts it to other sessions, and its --keep makes a run that knows them"
        )
        raise DataError(message)
    return matches[0]


def viewed(workspace: Workspace, run: Run, session_id: str, split: str) -> tuple[Extra, list[str]]:
    """Predictions of a run in a split of one of its sessions, the shards that it reads; remarks on what is not shown.

    Raises:
        DataError: a shard is missing, the session has no such split, or no window fits.
    """
    (tokens,) = open_shards(workspace, [session_id], run.config)
    divided = run.divide(tokens)
    if split not in divided.splits or not len(divided.splits[split]):
        has = ", ".join(name for name, time in divided.splits.items() if len(time))
        message = f"{session_id} has no time in the split '{split}' of {run.path.name}, it has {has or 'none'}"
        raise DataError(message)
    answers = predict(run.model, divided, split, run.config)
    traces, facts, remarks = [], {"run": run.path.name, "model": f"{run.config.model} ({run.config.size})"}, []
    for task in divided.tasks:
        score = _words(task, answers.score(task.name))
        facts[f"{task.name}, {split}"] = score
        shown = _shown(task, answers[task.name], score)
        if shown is None:
            remarks.append(f"{task.name} has answers that are no course in time: its score alone is shown")
        else:
            traces.append(shown)
    bands = {f"division of {run.path.name}": divided.splits}
    return Extra(shards=tokens.readers, bands=bands, traces=traces, facts=facts), remarks


def _words(task: Task, score: dict) -> str:
    """The task's own metrics: ``"R² variance-weighted 0.767, R² mean over components 0.764"``."""
    titles = {name: task.titles.get(name, name) for name in task.metrics if score.get(name) is not None}
    return ", ".join(f"{title} {score[name]:z.3f}" for name, title in titles.items()) or "no score"


def _shown(task: Task, answer: Answer, score: str) -> Trace | Labels | None:
    if isinstance(answer, Prediction):
        said, true = answer.predicted.astype(np.float32), answer.true.astype(np.float32)
        true[~answer.valid] = np.nan
        return Trace(task.name, score, answer.measure, answer.components, answer.time_ns, said, true)
    if isinstance(answer, Rates):
        rate, count = answer.pair(answer.headline)
        scored = np.isfinite(count)
        units = int(scored.any(axis=0).sum())
        both = [np.where(scored, part, 0).sum(axis=1)[:, None].astype(np.float32) for part in (rate, count)]
        for part in both:
            part[~scored.any(axis=1)] = np.nan
        return Trace(task.name, score, "spikes a bin", (f"sum over {units} scored units",), answer.time_ns, *both)
    if isinstance(answer, Classified):
        words = np.array(answer.classes)
        used = answer.weight > 0
        said, true = words[answer.log_probability[used].argmax(axis=1)], words[answer.label[used]]
        return Labels(task.name, score, answer.time_ns[used], said.tolist(), true.tolist())
    if isinstance(answer, Read):
        said, true = ([answer.separator.join(one) or NOTHING for one in part] for part in (answer.said, answer.true))
        return Labels(task.name, score, answer.time_ns, said, true)
    return None
