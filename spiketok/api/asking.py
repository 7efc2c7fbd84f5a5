"""What windows are asked, and how the time of sessions is divided for it, where no model of the package is in play.

A run does the same from its configuration (``training.loop.prepare``); here the schemes and questions are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spiketok.errors import UsageError
from spiketok.models.batch import Timing
from spiketok.recording.splits import SplitRule, resolve_splits, valid_is_test
from spiketok.settings import build
from spiketok.tokens.schemes import Scheme
from spiketok.training.config import split_question, task_class
from spiketok.training.runs import scheme_of
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import DividedSession, divide, divide_each
from spiketok.training.tasks import TASKS
from spiketok.training.tasks.base import Task


@dataclass(frozen=True)
class Question:
    """One question: its kind, what it is about, and the settings of its kind."""

    kind: str
    about: str
    settings: Mapping[str, object]


def questions_of(target: str | Sequence[str] | None, settings: Mapping[str, Mapping] | None) -> list[Question]:
    """The questions that a target names: ``"decode:hand_vel"``, or the name of a behaviour alone.

    Raises:
        UnknownNameError: settings are of a kind that does not exist. UsageError: settings are of a kind that is not
            asked.
    """
    texts = [] if target is None else [target] if isinstance(target, str) else list(target)
    settings, found = dict(settings or {}), []
    for text in texts:
        kind, about = split_question(text) if text.partition(":")[0] in TASKS else ("decode", text)
        found.append(Question(kind, about, settings.get(kind, {})))
    for kind in settings:
        task_class(kind)
        if kind not in [question.kind for question in found]:
            message = f"there are settings for '{kind}', which is not asked (target is {target!r})"
            raise UsageError(message)
    return found


def inputs_for(schemes: Mapping[str, Scheme], questions: Sequence[Question], timing: Timing) -> dict[str, Scheme]:
    """The schemes by the names under which a batch holds them, with those that the truth of a question is made of.

    A scheme that was named and that a question needs has the question's name for it.
    """
    found = dict(schemes)
    for question in questions:
        for name, wanted in TASKS[question.kind].inputs(timing).items():
            scheme = scheme_of(wanted)
            same = next((own for own, other in found.items() if other == scheme), None)
            if same is not None:
                found.pop(same)
            found[name] = scheme
    return found


def divided_for(
    sessions: Sequence[SessionTokens], questions: Sequence[Question], rule: SplitRule, window_ns: int
) -> tuple[list[DividedSession], tuple[Task, ...]]:
    """Sessions with their time divided for some questions, in order of id, and the questions fitted on training time.

    Raises:
        UnfitError: some sessions cannot serve. DataError, UsageError: none together can.
    """
    ordered = sorted(sessions, key=lambda tokens: tokens.id)
    tasks = []
    for question in questions:
        config = build(task_class(question.kind).Config, question.settings, f"task.{question.kind}")
        tasks.append(TASKS[question.kind].resolve(question.about, ordered, config))
    divided = divide_each(
        ordered,
        tasks,
        lambda tokens: divide(tokens, tasks, rule) if tasks else _unasked(tokens, rule),
        lambda session: ["train"] if len(session.splits["train"]) else [],
        window_ns,
    )
    return divided, tuple(tasks)


def _unasked(tokens: SessionTokens, rule: SplitRule) -> DividedSession:
    """A session of which nothing is asked: all of its observed time is of use."""
    domain = tokens.observed.intersect(tokens.segments)
    splits = resolve_splits(tokens.splits, domain, rule, tokens.trials, tokens.id)
    return DividedSession(tokens, (), domain, splits, valid_is_test(tokens.splits, splits, rule))
