"""A training as it is asked for, by the command or from Python: which model, which sessions, which shards.

What is chosen without being asked is told, a line each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from spiketok.errors import UnfitError, UsageError
from spiketok.models import MODELS
from spiketok.settings import typed
from spiketok.storage.workspace import Workspace
from spiketok.training import loop
from spiketok.training.checkpoints import Run, load_run
from spiketok.training.config import RunConfig, load_config
from spiketok.training.latents import with_latents
from spiketok.training.loop import TrainResult
from spiketok.training.runs import (
    choose_training,
    default_model,
    find_run,
    open_shards,
    opened_shards,
    run_path,
    sets_from,
)
from spiketok.training.sampling import SessionTokens
from spiketok.training.step_log import Event
from spiketok.training.vectors import keep_vectors, vector_sets

T = TypeVar("T")
Told = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class TrainingRequest:
    """A training, resolved: nothing of it is open any more.

    Args:
        config: its configuration. sessions: the shards of those that serve it.
        unfit: why others do not. held_out: left out for an evaluation. named: somebody chose these very sessions.
        base: the run that it starts from. latents: the run whose latents it learns.
    """

    config: RunConfig
    sessions: list[SessionTokens]
    unfit: dict[str, str] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)
    named: bool = False
    base: Run | None = None
    latents: Run | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What several trainings of one command share: the runs that they begin at are opened, the model is named.

    Args:
        model: its name; None where ``path`` or ``sets`` say it. path: a TOML file, or a run's folder.
        sets: ``"key=value"``. tasks: questions, as ``"decode:hand_vel"``. sessions: globs.
        listed: ids in the order of a choice. hold_out: a glob, or ``"none"``.
        base: the run that they start from. latents: the run whose latents they learn.
    """

    model: str | None
    path: Path | None
    sets: list[str]
    tasks: list[str]
    sessions: str | None
    listed: list[str]
    hold_out: str | None
    base: Run | None
    latents: Run | None

    def configured(self, *sets: str) -> RunConfig:
        """The configuration of one of them, with what it sets by itself."""
        own = [*self.sets, *sets]
        config = load_config(self.model, self.path, own, tasks=self.tasks)
        if self.listed and config.data.curriculum == "listed" and not config.data.curriculum_order:
            own.append(f"data.curriculum_order={typed(self.listed)}")
            config = load_config(self.model, self.path, own, tasks=self.tasks)
        return config


def asked_training(
    workspace: Workspace,
    model: str | None = None,
    *,
    path: Path | None = None,
    sets: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sessions: str | None = None,
    listed: Sequence[str] = (),
    hold_out: str | None = None,
    base: str | None = None,
    latents: str | None = None,
    vectors: Path | None = None,
    swept: Sequence[str] = (),
    told: Told,
) -> Asked:
    """Open what a training begins at, and name its model.

    Args:
        model: its name; by default the one that the shards of the workspace serve.
        base, latents: names of runs. vectors: a file of unit vectors. swept: what one of several sets by itself.
        told: called with a line for each choice that was not asked for. Others: see :class:`Asked`.

    Raises:
        UsageError, UnknownNameError: what is asked for does not exist or does not go together.
    """
    sets = list(sets)
    sessions = ",".join(listed) if listed else sessions
    begun = load_run(run_named(workspace, "--from", base)) if base is not None else None
    taught = load_run(run_named(workspace, "--latents", latents)) if latents is not None else None
    named = path is not None or any(text.replace(" ", "").startswith("model.name=") for text in (*sets, *swept))
    if begun is not None:
        sets, model = [*sets_from(begun, model), *sets], begun.config.model
    elif model is None and not named:
        model = served_model(workspace, sessions, hold_out, told)
    if taught is not None:
        sets = [f"latents={taught.digest}", *sets]
    if vectors is not None:
        sets = [*sets, *vector_sets(keep_vectors(workspace, vectors))]
    return Asked(model, path, sets, list(tasks), sessions, list(listed), hold_out, begun, taught)


def training_request(
    workspace: Workspace, asked: Asked, config: RunConfig, *, tokenize: bool = False, told: Told
) -> TrainingRequest:
    """Choose the sessions of one training and open their shards.

    Args:
        config: as ``asked.configured`` gives it. tokenize: make the shards that are missing.
        told: called with a line for each choice that was not asked for.

    Raises:
        DataError: no session is left, or a shard is missing.
    """
    chosen = choose_training(workspace, config, asked.sessions, asked.hold_out)
    for line in chosen.left_out:
        told(f"left out: {line}")
    if chosen.held_out and asked.hold_out is None:
        last = "the last session of each subject that has several; otherwise: --hold-out GLOB or none"
        told(f"held out for eval-xsession: {', '.join(chosen.held_out)} ({last})")
    named, making = asked.sessions is not None, told if tokenize else None
    opened, unfit = opened_shards(workspace, chosen.sessions, config, named=named, made=making)
    if tokenize and chosen.held_out:
        unfit |= opened_shards(workspace, chosen.held_out, config, named=named, made=making)[1]
    if asked.latents is not None:
        own = [tokens.id for tokens in opened if tokens.id in asked.latents.own]
        opened = with_latents(opened, asked.latents, open_shards(workspace, own, asked.latents.config))
        told(f"latents of {len(opened)} sessions by {asked.latents.path.name}")
    return TrainingRequest(config, opened, unfit, chosen.held_out, named, asked.base, asked.latents)


def fulfil(
    workspace: Workspace,
    request: TrainingRequest,
    *,
    resume: Literal["auto", "must", "never"] = "auto",
    told: Told,
    listening: Callable[[Path], AbstractContextManager[Callable[[Event], None] | None]] = lambda run_dir: nullcontext(),
) -> TrainResult:
    """Train what was asked for, in the workspace; sessions that turn out not to serve are left out and told.

    Args:
        listening: opened with the run's folder; gives who is called with each event.

    Raises:
        as :func:`spiketok.training.loop.train`.
    """
    rest = {"resume": resume, "base": request.base, "latents": request.latents}

    def on(opened: list[SessionTokens]) -> TrainResult:
        run_dir = run_path(workspace, request.config, opened)
        with listening(run_dir) as listen:
            return loop.train(request.config, opened, run_dir, on_event=listen, **rest)

    return without_unfit(on, request.sessions, request.unfit, named=request.named, told=told)


def without_unfit(
    work: Callable[[list[SessionTokens]], T],
    opened: list[SessionTokens],
    unfit: dict[str, str],
    *,
    named: bool,
    told: Told,
) -> T:
    """What ``work`` makes of the sessions that can serve; each of the others is told to be left out.

    Args:
        opened: shards of sessions. unfit: why others were left out before. named: somebody chose these very sessions.

    Raises:
        UnfitError: one that was named cannot serve, or none can.
    """
    while True:
        for why in unfit.values():
            told(f"left out: {why}")
        try:
            return work(opened)
        except UnfitError as error:
            if named or len(error.sessions) >= len(opened):
                raise
            unfit = error.sessions
            opened = [tokens for tokens in opened if tokens.id not in unfit]


def run_named(workspace: Workspace, option: str, base: str) -> Path:
    """A run's folder by its name; a model's name is refused: its newest run would be another one after this training.

    Args:
        option: what it was given by.
    """
    if base in MODELS and not Path(base).exists():
        newest = find_run(workspace, base).name
        message = f"{option} {base} names a model, whose newest run changes: {option} {newest}"
        raise UsageError(message)
    return find_run(workspace, base)


def served_model(workspace: Workspace, sessions: str | None, hold_out: str | None, told: Told) -> str:
    """The model that the shards of the workspace serve; tells which it is.

    Raises:
        UsageError: there is none.
    """
    chosen = choose_training(workspace, None, sessions, hold_out)
    name = default_model(workspace, chosen.sessions)
    if name is None:
        message = (
            "no model can be trained on the shards that are there: spiketok tokenize --scheme per-spike, or name one "
            f"by --model ({', '.join(MODELS)}) with --tokenize"
        )
        raise UsageError(message)
    told(f"model {name}, which reads the shards that are there (otherwise: --model {'|'.join(MODELS)})")
    return name
