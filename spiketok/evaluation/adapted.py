"""The rows of the transfer table that begin at a map: ``mapped_unlabelled``, ``mapped``, ``adapted``.

    mapped_unlabelled  unlabelled  a new unit's row is foretold from its spikes (``identity_map``), nothing is trained
    mapped             labelled    the same, from its spikes and its tuning
    adapted            labelled    from there on what blocks of the calibration chose (``adapting``), refit on all of it
    adapted+linear     labelled    ``adapted`` and the ridge, with a weight that the same blocks gave

A model of whose units no map says anything begins ``adapted`` as it is, with what else is a session's own at the mean
of the trained ones. Each of the blocks' copies begins at a map of its own statistics, so no block knows of itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, repeat

import numpy as np
import torch

from spiketok.errors import ArtefactError, SpiketokError
from spiketok.evaluation import adapting
from spiketok.evaluation.adapting import (
    LEAST_WEIGHT,
    PARTIAL,
    SHARES,
    Candidate,
    Choice,
    Point,
    Walker,
    block_errors,
    folds_of,
    mixed,
    mixing_weight,
    narrow_components,
    search,
)
from spiketok.evaluation.floor import floor_answers
from spiketok.evaluation.identity_map import IdentityMap, start
from spiketok.evaluation.maps import infer_rows, knows_units, statistics_of
from spiketok.evaluation.results import ADAPTED, MAPPED, MIXED, OF_MAPS, Cell
from spiketok.evaluation.unseen import Unseen, still
from spiketok.models.base import Model
from spiketok.models.batch import Batch, Progress
from spiketok.recording.intervals import seconds
from spiketok.training.checkpoints import seed_of
from spiketok.training.config import RunConfig
from spiketok.training.describe import built, toy
from spiketok.training.predict import Answers, predict
from spiketok.training.sampling import RandomWindows
from spiketok.training.sessions import CALIBRATION, DividedSession, Stretches
from spiketok.training.tasks.base import Answer, Task, own_sampler


def evaluate_mapped(unseen: Unseen, protocol: str) -> list[Cell]:
    """The cells of one of these rows; of ``adapted`` also those of ``adapted+linear``."""
    session, model = unseen.session, unseen.model()
    rows = (ADAPTED, MIXED) if protocol == ADAPTED else (protocol,)
    reason = why_not(model, protocol, session.id)
    if not reason:
        try:
            return _adapted(unseen) if protocol == ADAPTED else _mapped(unseen, model, protocol)
        except ArtefactError:  # damage is no reason for an empty cell
            raise
        except NoMap as error:
            reason = str(error)
    return [Cell(session.id, row, task.name, None, reason) for row in rows for task in session.tasks]


def why_not(model: Model, protocol: str, session: str) -> str:
    """Why a model has no such row of a session; empty where it has."""
    if protocol == ADAPTED:
        return "" if _kinds_of(model, session) else model.why_not("full", session)
    if not knows_units(model, session):
        return "it has no numbers of each unit, which a map could foretell"
    return ""


def rows_told(config: RunConfig) -> dict[str, str]:
    """By row that begins at a map, why the model of a configuration does not have it; empty where it has.

    Raises:
        SpiketokError: no such model can be built.
    """
    model = built(config)
    return {row: why_not(model, row, toy().id) for row in OF_MAPS}


class NoMap(SpiketokError):
    """There is no map to begin at."""


def begin(unseen: Unseen, model: Model, session: DividedSession, labelled: bool) -> tuple[int, IdentityMap | None]:
    """Let what is the session's own begin at the map; returns how many numbers that set, and the map.

    Args:
        session: the calibration to begin from, which is all that it knows.
        labelled: whether its behaviour may be read.

    Raises:
        SpiketokError: there is no map.
    """
    model.fit_sessions(Stretches([session], CALIBRATION, labelled=False))
    if model.infers:
        infer_rows(model, session, unseen.run.config.data.window_ns, unseen.device)
    if not (model.by_place or model.identity_parameters([session.id])):
        return 0, None
    tasks = _behaviours(session) if labelled else ()
    try:
        found, known = unseen.maps.of(tasks), None
        if knows_units(model, session.id):
            (known,) = statistics_of(unseen.run.config, [session], unseen.stored, tasks)
    except ArtefactError:
        raise
    except SpiketokError as error:
        raise NoMap(str(error)) from error
    return start(model, session.id, found, known), found


def _behaviours(session: DividedSession) -> tuple[str, ...]:
    return tuple(task.name for task in session.tasks if task.labelled and task.head().output == "values")


def _mapped(unseen: Unseen, model: Model, protocol: str) -> list[Cell]:
    set_, found = begin(unseen, model, unseen.session, protocol == MAPPED)
    how = {"start": found.begins()} | found.told()
    unseen.keep(protocol, model)
    unseen.answered(protocol, model, unseen.session.calibration)
    answers = predict(
        model, unseen.session, "test", unseen.run.config, unseen.device, calibration=unseen.session.calibration
    )
    return _cells(unseen.session, protocol, answers, set_, how)


def _cells(session: DividedSession, protocol: str, answers: Answers, trained: int, how: dict) -> list[Cell]:
    return [Cell(session.id, protocol, name, answers.score(name), "", trained, a, how) for name, a in answers.items()]


# ---- chosen inside the calibration ----------------------------------------------------------------------------------


def _kinds_of(model: Model, session: str) -> list[str]:
    """The ways in which a model can move for a session."""
    kinds = ["directions", "rows"] if model.infers else []
    if "identity_only" in model.protocols and model.identity_parameters([session]):
        kinds += ["directions", "rows"] if model.unit_parts(session) else ["rows"]
    return kinds + (["full"] if "full" in model.protocols else [])


def _adapted(unseen: Unseen) -> list[Cell]:
    session, config = unseen.session, unseen.run.config
    model = unseen.model()
    kinds = _kinds_of(model, session.id)
    _, found = begin(unseen, model, session, labelled=True)
    folds = folds_of(session, unseen.adapt.adapt_blocks, config.data.window_ns)
    first = [c for c in adapting.FIRST if c.moves in kinds]
    weights: dict[str, float] = {}
    narrow: tuple[str, ...] = ()
    if folds:
        starts = [unseen.model() for _ in folds]
        for fold, one in zip(folds, starts, strict=True):
            begin(unseen, one, fold, labelled=True)

        def trial(candidate: Candidate) -> _Blocks:
            walks = [
                _Walk(replace(unseen, session=fold), copy.deepcopy(one), candidate, found)
                for fold, one in zip(folds, starts, strict=True)
            ]
            return _Blocks(walks, session.tasks)

        other = [c for c in adapting.OTHER if c.moves in kinds]
        begun = [
            predict(one, fold, "test", config, unseen.device, calibration=fold.calibration)
            for fold, one in zip(folds, starts, strict=True)
        ]
        narrow = narrow_components(begun, session.tasks)
        if len(kinds) > 1 and narrow_components(begun, session.tasks, PARTIAL):
            first, other = ([c for c in some if c.moves != "full"] for some in (first, other))
        candidate, choice, answers = search(first, other, trial, 0 if narrow else unseen.adapt.adapt_steps)
        foretold = found is not None and found.foretold
        weights = _weights(unseen, folds, answers, 0.0 if foretold else LEAST_WEIGHT)
        if narrow and not foretold:  # nothing speaks for the start, and the blocks cannot judge it
            weights = dict.fromkeys(weights, 0.0)
        choice = replace(choice, blocks=len(folds)).written()
    else:
        candidate, choice = first[0], Choice(str(first[0]), 0)
    walk = _Walk(unseen, model, candidate, found, told=choice.steps)
    identity = model.identity_parameters([session.id])
    with still(model, identity, str(candidate)) if candidate.moves != "full" else nullcontext():
        walk.to(choice.steps)
        if choice.steps:
            walk.walker.settle(choice.share)
    unseen.keep(ADAPTED, model)
    unseen.answered(ADAPTED, model, session.calibration)
    answers = walk.answers()
    how = {"start": "as it is" if found is None else found.begins()}
    how |= asdict(choice) | {"narrow": list(narrow)} | ({} if found is None else found.told())
    cells = _cells(session, ADAPTED, answers, walk.walker.numbers() if choice.steps else 0, how)
    return cells + [_mixed(unseen, task, answers, weights, cells[0].trained_parameters, how) for task in session.tasks]


def _mixed(unseen: Unseen, task: Task, answers: Answers, weights: dict[str, float], trained: int, how: dict) -> Cell:
    """``adapted+linear`` of a task."""
    session = unseen.session
    if task.name not in weights:
        why = "a ridge has no answer to it" if task.head().output != "values" else "no blocks gave it a weight"
        return Cell(session.id, MIXED, task.name, None, why)
    try:
        (linear,) = floor_answers(unseen.run.config, [session], task, unseen.stored)
    except ArtefactError:
        raise
    except SpiketokError as error:
        return Cell(session.id, MIXED, task.name, None, str(error))
    weight = weights[task.name]
    answer = mixed(answers[task.name], linear, weight)
    score = answer.score() | dict(answers.times[task.name])
    return Cell(session.id, MIXED, task.name, score, "", trained, answer, how | {"weight": weight})


def _weights(
    unseen: Unseen, folds: Sequence[DividedSession], answers: Sequence[dict[str, Answer]], least: float
) -> dict[str, float]:
    """By task that a ridge can answer in each block, the model's weight."""
    found = {}
    for task in unseen.session.tasks:
        if task.head().output != "values" or not all(task.name in a for a in answers):
            continue
        try:
            linears = floor_answers(unseen.run.config, folds, task, unseen.stored)
        except ArtefactError:
            raise
        except SpiketokError:  # the row of the floor says why
            continue
        if all(len(linear.time_ns) for linear in linears):
            found[task.name] = mixing_weight([a[task.name] for a in answers], linears, task, least)
    return found


class _Blocks:
    """A candidate in all blocks (:class:`spiketok.evaluation.adapting.Tried`)."""

    def __init__(self, walks: Sequence[_Walk], tasks: Sequence[Task]) -> None:
        self.walks, self.tasks = walks, tasks

    def to(self, steps: int) -> list[Point]:
        for walk in self.walks:
            walk.to(steps)
        points = []
        for share in SHARES if steps else (1.0,):
            answers = [walk.answers(share) for walk in self.walks]
            points.append(Point(steps, share, block_errors(answers, self.tasks), answers))
        return points


class _Walk:
    """A copy of the model that walks on one calibration, and is asked about its test time.

    Args:
        model: at its start; it is moved. of: the map, for its directions. told: steps of which events are told, 0 for
            none.
    """

    def __init__(
        self, unseen: Unseen, model: Model, candidate: Candidate, of: IdentityMap | None, told: int = 0
    ) -> None:
        self.unseen, self.model, self.told, self.done = unseen, model, told, 0
        session, config = unseen.session, unseen.run.config
        self.walker = Walker(model, session.id, candidate, () if of is None else of.directions)
        windows, window_ns = session.windows(CALIBRATION), config.data.window_ns
        sampler = own_sampler(session.tasks, [windows], window_ns, seed=unseen.seed, training=True)
        if sampler is None:
            sampler = RandomWindows([windows], window_ns, seed=unseen.seed)
        batch = batch_size(seconds(session.splits[CALIBRATION]), window_ns / 1e9, unseen.adapt.batch_size)
        loader = unseen.loader(model, session.tasks, sampler, batch)
        self.batches = chain.from_iterable(repeat(loader))

    def to(self, steps: int) -> None:
        unseen = self.unseen
        self.model.train()
        while self.done < steps:
            torch.manual_seed(seed_of(unseen.seed, self.done))
            batch = next(self.batches).to(unseen.device)
            progress = Progress(self.done, max(steps, unseen.adapt.adapt_steps))
            self.model.begin_step(progress)
            loss = self.walker.step(partial(_loss, self.model, batch, progress))
            self.done += 1
            if self.told and (self.done % 20 == 0 or self.done == self.told):
                unseen.tell(ADAPTED, self.done, self.told, loss)
        self.model.eval()

    def answers(self, share: float = 1.0) -> Answers:
        unseen = self.unseen
        time = unseen.session.calibration
        with self.walker.at(share):
            return predict(self.model, unseen.session, "test", unseen.run.config, unseen.device, calibration=time)


def _loss(model: Model, batch: Batch, progress: Progress) -> torch.Tensor:
    return model.loss(batch, model(batch), progress)["total"]


def batch_size(calibration_s: float, window_s: float, most: int) -> int:
    """Windows in a batch: as many as cover a third of the calibration, at least two.

    >>> batch_size(20, 4, 16), batch_size(300, 4, 16), batch_size(5, 4, 1)
    (2, 16, 1)
    """
    return min(most, max(2, int(np.ceil(calibration_s / window_s / 3))))
