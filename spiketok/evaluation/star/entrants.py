"""Who takes part in a comparison of models: a run for each model and seed, trained already or still to be trained.

What is unusual: a model takes part with its recipe. Where a bound cuts it, its configuration is that of
``train --model NAME --set optim.steps=N``, so that a run of that command is found and not trained again, and the other
way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spiketok.errors import SpiketokError, UsageError
from spiketok.models import MODELS
from spiketok.storage.records import run_result
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from spiketok.training.config import RunConfig, load_config, model_class
from spiketok.training.loop import build_model, prepare, steps_in_epoch, train_loader
from spiketok.training.runs import choose_training, find_run, make_shards, open_shards, run_path
from spiketok.training.sampling import SessionTokens, listing

FIRST_SEED = 42  # RunConfig's own, so that runs of ``train`` are found


@dataclass(frozen=True)
class Entrant:
    """One run of a model in the comparison.

    Args:
        label: the model's name, or the run's where a run was named. config: resolved, with its bound.
        sessions: that it is trained on. run_dir: where it lies, or will.
        total: steps of its training; 0 for a model without parameters. parameters: numbers that training sets.
        reason: why the model cannot take part; empty where it can.
    """

    label: str
    config: RunConfig
    sessions: tuple[str, ...] = ()
    run_dir: Path = Path()
    total: int = 0
    parameters: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Chosen:
    """The sessions of a comparison: those that all are trained on, those that all transfer to."""

    sessions: list[str]
    held_out: list[str]


def configs(name: str, sets: Sequence[str], task: str | None, seeds: int) -> list[RunConfig]:
    """The configuration of a model for each seed, by its recipe.

    Args:
        sets: ``KEY=VALUE`` for every model, ``MODEL.KEY=VALUE`` for one. task: the behaviour, as ``"decode:hand_vel"``.
    """
    own = []
    for text in sets:
        first, _, rest = text.strip().partition(".")
        if first == name:
            own.append(rest)
        elif first not in MODELS:
            own.append(text)
    known = model_class(name)
    asked = list(known.default_tasks)
    words = None
    if "decode" in known.tasks and (task is not None or "decode" not in asked):
        words = [*(kind for kind in asked if kind != "decode"), task or "decode"]
    return [load_config(name, None, [*own, f"seed={FIRST_SEED + k}"], words) for k in range(seeds)]


def choose(
    workspace: Workspace, config: RunConfig, sessions: str | None, hold_out: str | None, told: Callable[[str], None]
) -> Chosen:
    """The sessions to train on, and those left out for transfer, as ``train`` chooses them."""
    found = choose_training(workspace, config, sessions, hold_out)
    for line in found.left_out:
        told(f"left out: {line}")
    return Chosen(found.sessions, found.held_out)


def of_model(
    workspace: Workspace,
    config: RunConfig,
    chosen: Chosen,
    bound: Callable[[RunConfig, Sequence[str], int], int],
    told: Callable[[str], None],
) -> Entrant:
    """A model with its recipe, bounded; its shards are made where they lack.

    Args:
        bound: gives the steps of a configuration on sessions, of so many by its recipe.
    """
    sessions = chosen.sessions
    if model_class(config.model).one_session is True:
        sessions = sessions[:1]
    try:
        make_shards(workspace, [*sessions, *chosen.held_out], config, told)
        opened = open_shards(workspace, sessions, config)
        total, parameters = _size(config, opened)
    except SpiketokError as error:
        return Entrant(config.model, config, tuple(sessions), reason=str(error))
    if total:
        steps = bound(config, sessions, total)
        if steps < total:
            config, total = replace(config, optim=replace(config.optim, epochs=None, steps=steps)), steps
    return Entrant(config.model, config, tuple(sessions), run_path(workspace, config, opened), total, parameters)


def _size(config: RunConfig, opened: Sequence[SessionTokens]) -> tuple[int, int]:
    """Steps of a training, 0 for a model without parameters; and the numbers that it sets."""
    divided, tasks = prepare(config, opened)
    model = build_model(config, tasks, divided)
    if not any(True for _ in model.parameters()):
        return 0, model.n_fitted()
    if config.optim.steps:
        return config.optim.steps, model.n_fitted()
    loader = train_loader(config, divided, model, tasks)
    return config.optim.epochs * steps_in_epoch(loader, config), model.n_fitted()


def of_run(workspace: Workspace, name: str) -> Entrant:
    """A finished run, by its folder or name.

    Raises:
        UsageError: it is not finished.
    """
    path = find_run(workspace, name)
    run_result(path)
    run = load_run(path)
    if not run.finished:
        message = f"{path.name} has done {run.step} of {run.total_steps} steps: run the same 'spiketok train' again"
        raise UsageError(message)
    by_steps = any(True for _ in run.model.parameters())
    return Entrant(
        path.name, run.config, tuple(run.own), path, run.total_steps if by_steps else 0, run.model.n_fitted()
    )


def require_same(entrants: Sequence[Entrant]) -> None:
    """Raise UsageError where runs were trained on other sessions than the others; a model of one session has one."""
    several = [e for e in entrants if not e.reason and model_class(e.config.model).one_session is not True]
    for entrant in several[1:]:
        if set(entrant.sessions) != set(several[0].sessions):
            message = (
                f"{entrant.label} is trained on {listing(list(entrant.sessions), 3)}, {several[0].label} on "
                f"{listing(list(several[0].sessions), 3)}: a table is of the same sessions, name them before --models"
            )
            raise UsageError(message)


def digests(workspace: Workspace, session_ids: Sequence[str]) -> Mapping[str, str]:
    """The store digest of each session."""
    return {session: workspace.facts(session)["digest"] for session in session_ids}
