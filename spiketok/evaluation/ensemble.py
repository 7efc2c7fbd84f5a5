"""The mean of the rates of several runs; how many of the best take part is chosen on the valid time.

The runs stand in the order of their score on the valid time; of the first k of them together the k with the best score
there is taken, and that ensemble is scored on the test time, which decides nothing. So STNDT's published ensemble was
made, of the runs of a search (trungle93/STNDT, src/nlb_ensemble.py); runs of several seeds serve as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.training.checkpoints import Run
from spiketok.training.predict import predict
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import DividedSession
from spiketok.training.tasks.base import Score
from spiketok.training.tasks.population import Population, Rates


@dataclass(frozen=True)
class Member:
    """One run: its headline score on valid and test time, the mean over sessions; and whether it takes part."""

    run: str
    valid: float
    test: float
    taken: bool


@dataclass(frozen=True)
class Ensemble:
    """What the mean rates reached.

    Args:
        metric: the headline that all single numbers here are. members: best on the valid time first.
        valid: of the ensemble, the mean over sessions. test: by session, all its scores, with ``scored_s`` and
            ``unanswered_s`` (see :mod:`spiketok.training.scored`), which are the same of all runs but where one answers
            less: then they are of that one.
    """

    metric: str
    members: tuple[Member, ...]
    valid: float
    test: dict[str, Score]


def ensemble(runs: Sequence[Run], sessions: Sequence[SessionTokens], device: torch.device | str = "cpu") -> Ensemble:
    """Choose and score an ensemble of runs that were asked for the same population in the same sessions.

    Args:
        runs: at least two; they may be of different models. sessions: those that the runs were trained on.

    Raises:
        UsageError: fewer than two runs, or they were not asked the same.
        DataError: a session's valid time stands for its test time, or a score does not exist.
    """
    _check_same_question(runs, sessions)
    asked = [{split: _answers(run, sessions, split, device) for split in ("valid", "test")} for run in runs]
    answers = [{split: [answer for answer, _ in given[split]] for split in given} for given in asked]
    valid, test = ([_headline(given[split]) for given in answers] for split in ("valid", "test"))
    order = sorted(range(len(runs)), key=lambda k: -valid[k])
    together = [_headline(_mean([answers[i]["valid"] for i in order[:k]])) for k in range(1, len(runs) + 1)]
    taken = int(np.argmax(together)) + 1
    found = _mean([answers[i]["test"] for i in order[:taken]])
    members = tuple(Member(runs[i].path.name, valid[i], test[i], place < taken) for place, i in enumerate(order))
    times = [
        min((asked[i]["test"][k][1] for i in order[:taken]), key=lambda told: told["scored_s"])
        for k in range(len(found))
    ]
    scores = {answer.session.id: answer.score() | told for answer, told in zip(found, times, strict=True)}
    return Ensemble(found[0].task.metrics[0], members, together[taken - 1], scores)


def _check_same_question(runs: Sequence[Run], sessions: Sequence[SessionTokens]) -> None:
    if len(runs) < 2 or len({run.digest for run in runs}) < len(runs):
        message = f"an ensemble is of at least two different runs, given are {', '.join(run.path.name for run in runs)}"
        raise UsageError(message)
    first = runs[0]
    for run in runs:
        require_inputs(run.config, sessions)
        here, there = _question(run), _question(first)
        wrong = next((name for name in here if here[name] != there[name]), None)
        if wrong is not None:
            message = (
                f"{run.path.name} and {first.path.name} differ in {wrong} ({here[wrong]} and {there[wrong]}): an "
                "ensemble is of runs that were asked the same"
            )
            raise UsageError(message)


def _question(run: Run) -> dict[str, object]:
    """All on which two runs must agree for their rates to be of the same bins and units, hidden alike."""
    data, trained = run.config.data, run.own
    kept = {
        f"data.{name}": getattr(data, name) for name in ("window_ns", "eval_step_ns", "bin_ms", "segments", "stitch")
    }
    population = [task.config for task in run.tasks if isinstance(task, Population)]
    return {"sessions": trained, "split": run.config.split, "task.population": population} | kept


def _answers(
    run: Run, sessions: Sequence[SessionTokens], split: str, device
) -> list[tuple[Rates, Mapping[str, float]]]:
    """The rates of one run and how much of the split they are of, a session each."""
    tasks = [task for task in run.tasks if isinstance(task, Population)]
    if not tasks:
        message = f"{run.path.name} was not asked for the population: its tasks are {[t.name for t in run.tasks]}"
        raise UsageError(message)
    model = run.model.to(device)
    found = []
    for tokens in sessions:
        divided: DividedSession = run.divide(tokens)
        if divided.valid_is_test:
            message = f"{tokens.id}: its valid time is scored as its test time, which may not choose an ensemble"
            raise DataError(message)
        answers = predict(model, divided, split, run.config, device)
        found.append((answers[tasks[0].name], answers.times[tasks[0].name]))
    return found


def _headline(answers: Sequence[Rates]) -> float:
    """The mean over sessions of the first score."""
    scores = {answer.session.id: answer.score()[answer.task.metrics[0]] for answer in answers}
    absent = [session for session, score in scores.items() if score is None]
    if absent:
        message = (
            f"{', '.join(absent)}: no {answers[0].task.metrics[0]} in the valid or test time, nothing to choose by"
        )
        raise DataError(message)
    return float(np.mean(list(scores.values())))


def _mean(members: Sequence[Sequence[Rates]]) -> list[Rates]:
    """The mean of the rates of several runs, session by session."""
    return [
        replace(own[0], rate={part: np.mean([answer.rate[part] for answer in own], axis=0) for part in own[0].rate})
        for own in zip(*members, strict=True)
    ]
