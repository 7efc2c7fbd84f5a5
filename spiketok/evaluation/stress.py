"""Stress and shortcuts: the rows of a transfer evaluation under perturbed spikes, beside what a cheat would get.

A row keeps the model that it was scored with: nothing is trained anew at any level. The session's spikes are perturbed
(``stress_kinds``) in all observed time that its calibration does not touch, baked anew by the run's own schemes, and
predicted. Rows that are solved in closed form (``linear`` and its kin) are solved again, of the same calibration. With
``calibration`` set its spikes are perturbed too, and each row is made again of that at each level.

Only the first draw of a calibration is stressed. ``adapted+linear`` is a mean of two rows that are, and is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, DataError, SpiketokError, UnknownNameError, UsageError
from spiketok.evaluation import controls as of_controls
from spiketok.evaluation.adapting import folds_of
from spiketok.evaluation.controls import METRIC, NO_SPIKES
from spiketok.evaluation.results import CALIBRATION_OF, MIXED, WITHIN, Cell
from spiketok.evaluation.stress_intervals import interval_rows
from spiketok.evaluation.stress_kinds import KINDS, perturb
from spiketok.evaluation.unseen import Unseen
from spiketok.models.base import Model
from spiketok.recording.intervals import without
from spiketok.recording.nouns import FLUORESCENCE, Intervals, Session
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens, listing
from spiketok.training.sessions import CALIBRATION, DividedSession
from spiketok.training.tasks.base import Task
from spiketok.training.tasks.decode import Decode, Prediction

Row = dict[str, object]
Evaluate = Callable[[Unseen, str], list[Cell]]

FOLDS = 3  # of a labelled calibration the last is kept for the intervals
KEPT_WITHOUT = 0.5  # of a score that stays without a spike, above which it is told
CHANCE = 0.05


@dataclass(frozen=True)
class StressSettings:
    """What is asked for.

    Args:
        kinds: of ``KINDS``. calibration: perturb the calibration too.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    calibration: bool = False


@dataclass(frozen=True, eq=False)
class Stress:
    """What it gave, a dict a row, JSON-able; ``session``, ``protocol`` and ``task`` stand in each.

    Args:
        settings: as asked for.
        stress: ``kind``, ``level``, the task's metrics (None where ``reason`` says why).
        controls: ``control``, ``score``, ``high``, ``p``, ``n``, ``as_it_is`` (None where it has no such), ``reason``.
        intervals: as :func:`.stress_intervals.interval_rows`.
        told: what a reader of the scores must know, a line each.
    """

    settings: StressSettings
    stress: tuple[Row, ...]
    controls: tuple[Row, ...]
    intervals: tuple[Row, ...]
    told: tuple[str, ...]

    @classmethod
    def joined(cls, settings: StressSettings, parts: Sequence[Stress]) -> Stress:
        """Of several sessions one."""
        every = {name: tuple(row for part in parts for row in getattr(part, name)) for name in cls.PARTS}
        return cls(settings, **{**every, "told": tuple(dict.fromkeys(every["told"]))})

    PARTS = ("stress", "controls", "intervals", "told")

    def lines(self) -> list[str]:
        """What a reader of the scores must know, and why parts are empty, each reason once with its rows."""
        reasons: dict[tuple[str, str], list[str]] = {}
        for what, rows in (("stress", self.stress), ("control", self.controls), ("intervals", self.intervals)):
            for row in rows:
                if row["reason"]:
                    of = f"{what} {row['kind']}" if what == "stress" else row.get("control", what)
                    named = reasons.setdefault((of, str(row["reason"])), [])
                    named += [where] if (where := f"{row['protocol']} of {row['session']}") not in named else []
        return [*self.told, *(f"no {of} for {listing(rows)}: {why}" for (of, why), rows in reasons.items())]

    def to_dict(self) -> dict[str, object]:
        """What ``report.json`` holds of it."""
        kinds = {
            name: {"levels": list(KINDS[name].levels), "measure": KINDS[name].measure, "meaning": KINDS[name].meaning}
            for name in self.settings.kinds
        }
        asked = {"kinds": kinds, "calibration": self.settings.calibration, "told": list(self.told)}
        return {"stressed": asked, **{name: list(getattr(self, name)) for name in self.PARTS[:3]}}


def stress_settings(text: str, *, calibration: bool = False) -> StressSettings:
    """Of words with commas between; ``all`` is every kind.

    Raises:
        UnknownNameError: one is no kind. UsageError: none is named.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if "all" in words:
        words = list(KINDS)
    for word in words:
        if word not in KINDS:
            raise UnknownNameError("stress", word, KINDS)
    if not words:
        message = f"--stress names no kind: give some of {', '.join(KINDS)}, or all"
        raise UsageError(message)
    return StressSettings(tuple(kind for kind in KINDS if kind in words), calibration)


class Held:
    """The models of a session's rows, as they answered: by row the model, and the time that its inputs were cut of."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Model, Intervals]] = {}

    def __call__(self, protocol: str, model: Model, known: Intervals) -> None:
        self.rows[protocol] = model, known


# ---- a session ------------------------------------------------------------------------------------------------------


def stress_session(
    unseen: Unseen, held: Held, cells: Sequence[Cell], settings: StressSettings, evaluate: Evaluate
) -> Stress:
    """All of it for one session, whose rows were evaluated.

    Args:
        unseen: the session. held: its rows' models. cells: its rows. evaluate: makes a row's cells of a session.
    """
    work = _Work(unseen, held, settings, evaluate)
    told = [f"{unseen.session.id}, {task.name}: {why}" for task in unseen.session.tasks if (why := _why_not(task))]
    scored = [c for c in cells if c.score is not None and c.protocol != MIXED and not _why_not(work.task(c.task))]
    stressed = [row for kind in settings.kinds for row in work.under(kind, scored)]
    controls, intervals = [], []
    without_spikes = work.answers(NO_SPIKES, 0, scored)
    for cell in scored:
        task = work.task(cell.task)
        if not isinstance(task, Decode):
            controls.append(_control(cell, NO_SPIKES, _spikeless(cell, task, without_spikes)))
            told.append(
                f"{cell.task}: controls by labels and intervals are of decoded behaviours, not of '{task.kind}'"
            )
            continue
        own = work.controls(cell, task, without_spikes)
        controls += own
        told += _caught(cell, own, without_spikes)
        intervals += work.intervals(cell)
    return Stress(settings, tuple(stressed), tuple(controls), tuple(intervals), tuple(told))


def _why_not(task: Task) -> str:
    """Why a task cannot be stressed; empty where it can."""
    if task.labelled:
        return ""
    return f"not stressed: the truth of '{task.kind}' is made of the spikes that would be perturbed"


def _name(cell: Cell) -> Row:
    return {"session": cell.session, "protocol": cell.protocol, "task": cell.task}


def _control(cell: Cell, control: str, found: Mapping[str, object]) -> Row:
    whole = {"score": None, "high": None, "p": None, "n": None, "as_it_is": None, "reason": ""} | dict(found)
    return _name(cell) | {"control": control} | whole


class _Work:
    """One session under perturbation.

    Args: as :func:`stress_session`.
    """

    def __init__(self, unseen: Unseen, held: Held, settings: StressSettings, evaluate: Evaluate) -> None:
        quiet = {"keep": lambda protocol, model: None, "answered": lambda protocol, model, known: None}
        self.unseen = replace(unseen, emit=lambda event: None, **quiet)
        self.emit, self.held, self.settings, self.evaluate = unseen.emit, held.rows, settings, evaluate
        self.predictors: dict[str, dict] = {}  # by task
        self.folds: dict[str, list[Cell]] = {}  # by row
        self.stored = None if unseen.stored is None else unseen.stored(unseen.session.id)

    def task(self, name: str) -> Task:
        return next(task for task in self.unseen.session.tasks if task.name == name)

    # ---- scores under perturbed spikes

    def under(self, kind: str, cells: Sequence[Cell]) -> Iterator[Row]:
        """A row a cell and level; the level that changes nothing is the cell itself."""
        for level in KINDS[kind].levels:
            plain = level == KINDS[kind].plain
            found = {} if plain else self.answers(kind, level, cells)
            for cell in cells:
                at = cell if plain else found[cell.protocol, cell.task]
                own = {m: None if at.score is None else at.score[m] for m in self.task(cell.task).metrics}
                yield _name(cell) | {"kind": kind, "level": level} | own | {"reason": at.reason}

    def answers(self, kind: str, level: float, cells: Sequence[Cell]) -> dict[tuple[str, str], Cell]:
        """By row and task the cell under perturbed spikes; one without a score says why."""
        rows, found = list(dict.fromkeys(cell.protocol for cell in cells)), {}
        name = self.unseen.session.id
        try:
            with self._perturbed(kind, level) as under:
                for row in rows:
                    self.emit({"event": "stress", "cell": f"{name} {row} {kind} {level:g}"})
                    try:
                        own = self._cells(under, row, self._of_calibration(kind))
                    except ArtefactError:
                        raise
                    except SpiketokError as error:
                        own = [Cell(name, row, c.task, None, str(error)) for c in cells if c.protocol == row]
                    found |= {(row, cell.task): cell for cell in own if cell.protocol == row}
        except ArtefactError:
            raise
        except SpiketokError as error:
            return {(c.protocol, c.task): Cell(name, c.protocol, c.task, None, str(error)) for c in cells}
        return found

    def _of_calibration(self, kind: str) -> bool:
        """Whether the calibration is perturbed too; it keeps its spikes where the scored time has none at all."""
        return self.settings.calibration and kind != NO_SPIKES

    def _cells(self, under: Unseen, row: str, again: bool) -> list[Cell]:
        """A row's cells on a perturbed session: by the model that it was scored with, or made again."""
        if again or row not in self.held:
            return self.evaluate(under, row)
        model, known = self.held[row]
        answers = predict(model, under.session, "test", under.run.config, under.device, calibration=known)
        return [Cell(under.session.id, row, task, answers.score(task), answer=a) for task, a in answers.items()]

    @contextmanager
    def _perturbed(self, kind: str, level: float) -> Iterator[Unseen]:
        """The session with perturbed spikes, baked by the run's schemes into a folder that is gone afterwards.

        Raises:
            DataError: the session cannot take it, or is not at hand.
        """
        session, tokens, both = self.unseen.session, self.unseen.session.tokens, self._of_calibration(kind)
        if self.stored is None:
            message = f"{session.id} is not in the store, of which its spikes are perturbed"
            raise DataError(message)
        readers = [*tokens.windowed.values(), *(o.reader for o in tokens.once.values() if both)]
        readers = list({id(reader): reader for reader in readers if _reads_spikes(reader.scheme)}.values())
        if not readers:
            message = f"{session.id}: no input of the model is made of spikes"
            raise DataError(message)
        time = self.stored.observed if both else scored_time(session, self.stored)
        made = perturb(self.stored, time, kind, level, self.unseen.seed)
        with tempfile.TemporaryDirectory() as folder:
            baked = {id(r): bake_like(r, made, Path(folder) / str(k)) for k, r in enumerate(readers)}
            own = replace(session, tokens=_with_readers(tokens, baked))
            yield replace(self.unseen, session=own, stored=lambda _: made)

    # ---- controls

    def controls(self, cell: Cell, task: Decode, without_spikes: Mapping[tuple[str, str], Cell]) -> list[Row]:
        """A row a control."""
        session, answer = self.unseen.session, cell.answer
        trials, seed = session.tokens.trials, self.unseen.seed
        null = {
            of_controls.LABELS_SHIFTED: lambda: of_controls.against_shifted(answer),
            of_controls.LABELS_SHUFFLED: lambda: of_controls.against_shuffled(answer, trials, seed),
        }
        found = {NO_SPIKES: _spikeless(cell, task, without_spikes)}
        for name, score in null.items():
            try:
                found[name] = score()
            except DataError as error:
                found[name] = {"reason": str(error)}
        if task.name not in self.predictors:
            window_ns = self.unseen.run.config.data.window_ns
            self.predictors[task.name] = of_controls.predictors(session, task, window_ns)
        found |= {name: of_controls.without_spikes(answer, by) for name, by in self.predictors[task.name].items()}
        return [_control(cell, name, found[name]) for name in of_controls.CONTROLS]

    # ---- intervals

    def intervals(self, cell: Cell) -> list[Row]:
        """Rows of :func:`interval_rows`, or one that says why there are none."""
        try:
            known = self._unlearned(cell)
        except ArtefactError:
            raise
        except SpiketokError as error:
            empty = dict.fromkeys(("component", "level", "blocks", "half_width", "coverage"))
            return [_name(cell) | empty | {"reason": str(error)}]
        return [_name(cell) | row for row in interval_rows(known, cell.answer)]

    def _unlearned(self, cell: Cell) -> Prediction:
        """What a row says in calibration time whose labels it did not learn from.

        Raises:
            DataError: there is no such time.
        """
        session, row = self.unseen.session, cell.protocol
        if row == WITHIN:
            message = "the model was trained on the calibration's labels, so that its errors there are too small"
            raise DataError(message)
        if CALIBRATION_OF[row] != "labelled" and row in self.held:
            model, known = self.held[row]
            config, device = self.unseen.run.config, self.unseen.device
            return predict(model, session, CALIBRATION, config, device, calibration=known)[cell.task]
        folds = folds_of(session, FOLDS, self.unseen.run.config.data.window_ns)
        if len(folds) < FOLDS:
            message = (
                f"thirds of the calibration hold no window each, so that none can be kept for the intervals of {row}"
            )
            raise DataError(message)
        self.emit({"event": "stress", "cell": f"{session.id} {row} intervals"})
        (made,) = [c for c in self._fold(folds[-1], row) if (c.protocol, c.task) == (row, cell.task)]
        if made.answer is None:
            raise DataError(made.reason)
        return made.answer

    def _fold(self, fold: DividedSession, row: str) -> list[Cell]:
        """A row's cells on the last part of a calibration, made of the rest; several tasks share them."""
        if row not in self.folds:
            self.folds[row] = self.evaluate(replace(self.unseen, session=fold), row)
        return self.folds[row]


def _reads_spikes(scheme: Scheme) -> bool:
    return scheme.reads_units and FLUORESCENCE not in scheme.signals_read


def scored_time(session: DividedSession, stored: Session) -> Intervals:
    """Observed time that no window of the calibration touches; those of the scored time touch nothing else."""
    reach, calibration = session.reach, session.splits[CALIBRATION]
    touched = Intervals(calibration.start_ns - reach.back_ns, calibration.stop_ns + reach.ahead_ns).union()
    return without(stored.observed, touched)


def bake_like(reader: ShardReader, session: Session, target: Path) -> ShardReader:
    """A shard of a session by the scheme and segments of another of it, whose context it shares."""
    manifest = reader.manifest
    rule, digest = manifest["segments_rule"], manifest["store_digest"]
    where = {"segments_rule": rule, "store_digest": digest, "context": reader.context.path}
    write_shard(target, reader.scheme, session, reader.segments, **where)
    return ShardReader(target)


def _with_readers(tokens: SessionTokens, baked: Mapping[int, ShardReader]) -> SessionTokens:
    """The session's shards, some replaced by others, by their ``id``."""
    windowed = {name: baked.get(id(reader), reader) for name, reader in tokens.windowed.items()}
    once = {name: replace(o, reader=baked.get(id(o.reader), o.reader)) for name, o in tokens.once.items()}
    return replace(tokens, windowed=windowed, once=once)


# ---- what it says ---------------------------------------------------------------------------------------------------


def _spikeless(cell: Cell, task: Task, without_spikes: Mapping[tuple[str, str], Cell]) -> Row:
    bare = without_spikes[cell.protocol, cell.task]
    return {"score": None if bare.score is None else bare.score[task.metrics[0]], "reason": bare.reason}


def _caught(cell: Cell, controls: Sequence[Row], without_spikes: Mapping[tuple[str, str], Cell]) -> Iterator[str]:
    """What speaks against a score above 0, a line each; that a behaviour's own past tells more of it is no cheat."""
    score, by = cell.score[METRIC], {row["control"]: row for row in controls}
    if score is None or not score > 0:
        return
    where = f"shortcut? {cell.protocol} of {cell.session}, {cell.task}"
    bare, spikeless = without_spikes[cell.protocol, cell.task], by[NO_SPIKES]["score"]
    if isinstance(bare.answer, Prediction) and np.array_equal(bare.answer.predicted, cell.answer.predicted):
        yield f"{where}: it reads no spikes, its predictions are the same to the bit without any"
    elif spikeless is not None and spikeless > KEPT_WITHOUT * score:
        yield f"{where}: without a spike it still has {spikeless:.3f} of its {score:.3f}"
    for name in of_controls.CLOCKS:
        other = by[name]["score"]
        if other is not None and other >= score:
            yield f"{where}: {name} has {other:.3f} without a spike, the row has {score:.3f}"
    for name in (of_controls.LABELS_SHIFTED, of_controls.LABELS_SHUFFLED):
        if by[name]["p"] is not None and by[name]["p"] > CHANCE:
            yield f"{where}: labels that are not theirs ({name}) score as well, p = {by[name]['p']:.2g}"
