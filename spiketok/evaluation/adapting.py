"""Adaptation that is chosen inside the calibration: what moves, at which rate, for how many steps, and how far of it.

What is unusual:

- contiguous blocks of the calibration choose: each is predicted by a copy that adapted to the others, and windows of
  one never reach into another, since neighbours in time are nearly the same;
- they choose by the geometric mean of the error about each block's own mean and the plain one. In half a minute a
  behaviour stays in one part of its range: by the plain error alone a candidate that learns no more than where it
  stayed would be chosen, by the other alone one that loses its level. Where a component of the behaviour hardly varies
  in all of the calibration, nothing is chosen and the start stands;
- beside each candidate stands the model half-way between its start and it (weights averaged as in WiSE-FT, Wortsman et
  al. 2022, CVPR, sec. 3): under a shift of the behaviour the mean of two that err differently errs less;
- half of the way after few steps along few directions stands, unless another candidate is better by a margin and in
  each block, or by a wide one, or the bare start by a wide one. Of 24 cells of a model on two real pairs it was better
  than the start in 20, mostly where the blocks could not tell;
- among the others what is simpler stands likewise: half-way before all of it, few steps before many, few directions
  before free rows before everything. The least of many noisy errors looks better than it is;
- beside the linear decoder a model whose start no map foretold counts from a fifth of the weight on: one of which the
  blocks want less does not transfer, and only adds its errors;
- the candidates start at one rate each. The best gets another rate, and after that only the best goes on (successive
  halving); one that has stopped to gain is not followed. Beside it everything is trained for some hundred steps, since
  a model that was trained little gains late.

Of the numbers that belong to the session, those along its units move as ``z`` from their start, in full or along
directions; what is no unit's moves at half their rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.evaluation.calibration import blocks_of
from spiketok.evaluation.identity_map import others_of, put_rows, rows_of
from spiketok.models.base import Model, Part
from spiketok.recording.nouns import Intervals
from spiketok.training.sessions import CALIBRATION, DividedSession
from spiketok.training.tables import clip_
from spiketok.training.tasks.base import Answer, Task
from spiketok.training.tasks.decode import Prediction

GRID = (25, 50, 100, 200, 400, 700, 1000)  # steps at which blocks are predicted; the first few mostly lose
FIRST_LOOK = 25  # the best candidate goes on, and gets its other rate beside it; half of the first's way stands
SECOND_LOOK = 50  # one goes on; from the next point of the grid only what is below the start
SHARES = (0.5, 1.0)  # of the way from the start to where a candidate stands
EXPLORE = 200  # steps that everything is trained for in any case: a model that was trained little gains late
PATIENCE, GAIN = 2, 0.02  # points of the grid that gain less than this share, after which a candidate is not followed
MARGIN = 0.05  # so much less error, in share, and less in each block lets the choice leave what stands or is simpler
FAR = 0.25  # so much less lets it whatever a single block says
BACK = 0.2  # so much less lets it go back to the start
NARROW = 0.2  # of a component's variance in training time: with less of it in the calibration blocks cannot judge
PARTIAL = 0.35  # likewise: with less of it what is no session's own stays, which else forgets where nobody was
LEAST_WEIGHT = 0.2  # beside the linear decoder, of a model whose start no map foretold
CLIP = 1.0


@dataclass(frozen=True)
class Candidate:
    """What moves, and how fast.

    Args:
        moves: ``"directions"``: the rows of units along the first principal directions of trained ones; ``"rows"``: the
            rows, pulled back to where they began; ``"full"``: everything.
        lr: of what belongs to the session. trunk_lr: of all else, in ``"full"``. pull: to the start, in ``"rows"``.
    """

    moves: str
    lr: float
    trunk_lr: float = 0.0
    pull: float = 0.0

    def __str__(self) -> str:
        return f"{self.moves}, lr {self.trunk_lr or self.lr:g}"


FIRST = (Candidate("directions", 2e-2), Candidate("rows", 1e-2, pull=0.3), Candidate("full", 5e-3, 1e-3))
OTHER = (Candidate("directions", 5e-3), Candidate("rows", 3e-3, pull=0.1), Candidate("full", 2e-3, 2e-4))


@dataclass(frozen=True)
class Choice:
    """What the blocks chose.

    Args:
        candidate, steps, share: of the refit; the model stands at this share of the way from the start.
        error, start_error: of the blocks, at the choice and at 0 steps (:attr:`Errors.judged`).
        blocks: how many there were; 0 where no block held a window and the start stands unchosen.
        errors: by candidate, ``[steps, share, error]`` where it was tried; None for an error that is none
            (:meth:`written`).
    """

    candidate: str
    steps: int
    share: float = 1.0
    error: float | None = None
    start_error: float | None = None
    blocks: int = 0
    errors: dict[str, list[tuple[int, float, float | None]]] = field(default_factory=dict)

    def written(self) -> Choice:
        """The same with None for errors that are no numbers, as JSON wants it."""

        def known(error: float | None) -> float | None:
            return error if error is not None and np.isfinite(error) else None

        errors = {name: [(n, share, known(e)) for n, share, e in points] for name, points in self.errors.items()}
        return replace(self, error=known(self.error), start_error=known(self.start_error), errors=errors)


class Errors(NamedTuple):
    """Of the blocks, lower is better, infinite where nothing could be scored.

    Args:
        shape: about each block's own mean error. plain: as it is. blocks: what decides, of each block alone.
    """

    shape: float
    plain: float
    blocks: tuple[float, ...] = ()

    @property
    def judged(self) -> float:
        """What decides: their geometric mean."""
        return self.shape if self.shape == self.plain else float(np.sqrt(self.shape * self.plain))

    def beats(self, other: Errors) -> bool:
        """Whether it is less by the margin and less in each block that can be scored, or far less."""
        pairs = zip(self.blocks, other.blocks, strict=True)
        everywhere = all(a < b or a == b == np.inf for a, b in pairs)
        return _less(self.judged, other.judged, MARGIN if everywhere else FAR)


class Point(NamedTuple):
    """A candidate after so many steps, at a share of the way, with its errors and the answers behind them."""

    steps: int
    share: float
    errors: Errors
    answers: object


class Tried(Protocol):
    """A candidate in all blocks."""

    def to(self, steps: int) -> Sequence[Point]:
        """Where it stands after so many steps from the start, which never become fewer: a point a share, least first.

        At 0 steps there is one.
        """


def search(
    first: Sequence[Candidate],
    other: Sequence[Candidate],
    begin: Callable[[Candidate], Tried],
    most_steps: int,
) -> tuple[Candidate, Choice, object]:
    """What the blocks choose, what was tried, and the answers of the choice.

    Args:
        first: one a kind of move, the simplest first. other: each kind's other rate.
        begin: makes a candidate that stands at the start. most_steps: none goes further.
    """
    grid = [g for g in GRID if g < most_steps] + ([most_steps] if most_steps else [])
    tried = {first[0]: begin(first[0])}
    (start,) = tried[first[0]].to(0)
    curve: dict[Candidate, list[Point]] = {}

    def go(candidate: Candidate, steps: int) -> bool:
        """Try it; whether it should go on."""
        if candidate not in tried:
            tried[candidate] = begin(candidate)
        curve.setdefault(candidate, []).append(_simplest(tried[candidate].to(steps)))
        errors = [p.errors.judged for p in curve[candidate]]
        return len(errors) <= PATIENCE or _less(min(errors[-PATIENCE:]), min(errors[:-PATIENCE]), GAIN)

    def least(candidate: Candidate) -> float:
        return min(p.errors.judged for p in curve[candidate])

    def below(candidate: Candidate) -> bool:
        return least(candidate) < start.errors.judged

    def leader(candidates: Sequence[Candidate]) -> Candidate:
        return min(candidates, key=least)

    alive, looked = list(first), False
    explorers = [c for c in first if c.moves == "full"]
    for k, steps in enumerate(grid):
        alive = [c for c in alive if go(c, steps) or (c in explorers and steps < EXPLORE)]
        exploring = [c for c in alive if c in explorers and (steps < EXPLORE or below(c))]
        if not looked and (steps >= FIRST_LOOK or not alive or k == len(grid) - 1):
            looked, leading = True, leader(first)
            alive = [c for c in alive if c == leading]
            for rate in (c for c in other if c.moves == leading.moves):
                alive += [rate] if all(go(rate, g) for g in grid[: k + 1]) else []
        elif steps >= SECOND_LOOK and alive:
            best_of = leader(alive)
            alive = [best_of] if steps == SECOND_LOOK or below(best_of) else []
        alive += [c for c in exploring if c not in alive]
        for c in [c for c in tried if c not in alive]:
            del tried[c]  # it holds a copy of the model for each block
        if not alive:
            break
    candidate, chosen = _chosen(first, start, curve)
    begun = (0, 1.0, start.errors.judged)
    errors = {str(c): [begun, *((p.steps, p.share, p.errors.judged) for p in ps)] for c, ps in curve.items()}
    at = (chosen.steps, chosen.share, chosen.errors.judged)
    return candidate, Choice(str(candidate), *at, start.errors.judged, 0, errors), chosen.answers


def _chosen(first: Sequence[Candidate], start: Point, curve: dict[Candidate, list[Point]]) -> tuple[Candidate, Point]:
    """What stands, or the start where that is far better; or the simplest kind that beats it and no other beats."""
    candidate, chosen = first[0], start
    standing = [p for p in curve.get(candidate, ()) if p.steps <= FIRST_LOOK and np.isfinite(p.errors.judged)]
    if standing and not _less(start.errors.judged, standing[-1].errors.judged, BACK):
        chosen = standing[-1]
    for kind in first:
        points = [(c, p) for c, ps in curve.items() if c.moves == kind.moves for p in ps]
        of = {id(p): c for c, p in points}
        best = _simplest(sorted((p for _, p in points), key=lambda p: p.steps)) if points else None
        if best is not None and best.errors.beats(chosen.errors):
            candidate, chosen = of[id(best)], best
    return candidate, chosen


def _simplest(points: Sequence[Point]) -> Point:
    """The first that no later one beats."""
    found = points[0]
    for point in points[1:]:
        found = point if point.errors.beats(found.errors) else found
    return found


def _less(a: float, b: float, share: float) -> bool:
    """Whether ``a`` lies below ``b`` by more than a share of it."""
    return a < b - share * abs(b) if np.isfinite(b) else a < b


# ---- blocks ---------------------------------------------------------------------------------------------------------


def fold(session: DividedSession, blocks: Sequence[Intervals], k: int) -> DividedSession:
    """The session with one block of its calibration as its test, and the others as its calibration."""
    rest = [block for j, block in enumerate(blocks) if j != k]
    calibration = Intervals(
        np.concatenate([b.start_ns for b in rest]), np.concatenate([b.stop_ns for b in rest])
    ).union()
    return replace(session, splits={CALIBRATION: calibration, "test": blocks[k]})


def folds_of(session: DividedSession, n: int, window_ns: int) -> list[DividedSession]:
    """``n`` folds of the calibration, or the most below that whose every part holds a window; none if not even two."""
    for count in range(n, 1, -1):
        blocks = blocks_of(session.splits[CALIBRATION], count)
        folds = [fold(session, blocks, k) for k in range(count)]
        if all(_holds(f, part, window_ns) for f in folds for part in (CALIBRATION, "test")):
            return folds
    return []


def _holds(session: DividedSession, part: str, window_ns: int) -> bool:
    windows = session.windows(part)
    return bool(((windows.stop_ns - windows.start_ns) >= window_ns).any())


def block_errors(answers: Sequence[dict[str, Answer]], tasks: Sequence[Task]) -> Errors:
    """What the blocks choose by.

    Of tasks of values, the mean squared error in SDs of training time, over all samples of all blocks, about each
    block's mean error and as it is; where a run has none, for both the headline of each task's score with its sign
    turned. A mean over tasks.
    """
    valued = [task for task in tasks if task.head().output == "values"]
    of = _squared_errors if valued else _lost

    def errors(some: Sequence[dict[str, Answer]]) -> Errors:
        each = [of([a[task.name] for a in some if task.name in a], task) for task in valued or tasks]
        return Errors(*np.mean(each, axis=0).tolist())

    return errors(answers)._replace(blocks=tuple(errors([one]).judged for one in answers))


def narrow_components(
    answers: Sequence[dict[str, Answer]], tasks: Sequence[Task], least: float = NARROW
) -> tuple[str, ...]:
    """Components of behaviours that vary too little in the blocks for an adaptation to be judged there.

    What moves along with such a component looks like a gain in every block and is wrong at all other values of it.

    Args:
        least: the share of their variance in training time below which they do.
    """
    found = []
    for task in tasks:
        if task.head().output != "values":
            continue
        known = [a[task.name] for a in answers if task.name in a]
        true = [_in_sd(answer.true, task)[answer.valid] for answer in known]
        if sum(map(len, true)):
            share = np.concatenate(true).var(0)
            found += [f"{task.name} {c}" for c, v in zip(known[0].components, share, strict=True) if v < least]
    return tuple(found)


def _squared_errors(answers: Sequence[Answer], task: Task) -> tuple[float, float]:
    offs = [_in_sd(answer.predicted - answer.true, task)[answer.valid] for answer in answers]
    offs = [off for off in offs if len(off)]
    n, plain = sum(off.size for off in offs), sum(float(np.square(off).sum()) for off in offs)
    shape = sum(float(np.square(off - off.mean(0)).sum()) for off in offs)
    return (shape / n, plain / n) if n and np.isfinite(plain) else (np.inf, np.inf)


def _lost(answers: Sequence[Answer], task: Task) -> tuple[float, float]:
    """The headline of a task's score with its sign turned, twice: such a score has no level to lose."""
    scores = [answer.score().get(task.metrics[0]) for answer in answers]
    return (-float(np.mean(scores)),) * 2 if scores and None not in scores else (np.inf, np.inf)


def _in_sd(value: np.ndarray, task: Task) -> np.ndarray:
    """Differences of a behaviour in the measure of its normalisation."""
    return value / task.target.std


# ---- beside the linear decoder --------------------------------------------------------------------------------------


def mixed(model: Prediction, linear: Prediction, weight: float) -> Prediction:
    """``weight`` of the model's answer and the rest of the linear decoder's, at the model's times."""
    there = _at(linear, model.time_ns)
    return replace(model, predicted=there + weight * (model.predicted - there))


def mixing_weight(models: Sequence[Prediction], linears: Sequence[Prediction], task: Task, least: float = 0.0) -> float:
    """The weight in [0, 1] of the least squared error in the blocks, in the measure of the normalisation.

    0, the linear decoder alone, where that is below ``least``.
    """
    product, square = 0.0, 0.0
    for model, linear in zip(models, linears, strict=True):
        there = _at(linear, model.time_ns)
        step = _in_sd(model.predicted - there, task)[model.valid]
        wanted = _in_sd(model.true - there, task)[model.valid]
        product, square = product + float((step * wanted).sum()), square + float(np.square(step).sum())
    weight = float(np.clip(product / square, 0.0, 1.0)) if square else 1.0
    return weight if weight >= least else 0.0


def _at(answer: Prediction, time_ns: np.ndarray) -> np.ndarray:
    """Its predictions at other times: linear between its own, the nearest beyond them."""
    return np.column_stack([np.interp(time_ns, answer.time_ns, column) for column in answer.predicted.T])


# ---- steps ----------------------------------------------------------------------------------------------------------


class Walker:
    """Moves a model from where it stands, a step at a time, as a candidate says.

    Args:
        model: is moved in place. session: whose rows move. directions: of each kind of its unit parts, ``[K, D]``.
    """

    def __init__(self, model: Model, session: str, candidate: Candidate, directions: Sequence[Tensor]) -> None:
        self.model = model
        parts, along = model.unit_parts(session), candidate.moves == "directions"
        self.rows: list[tuple[Part, int, Tensor, Tensor | None, nn.Parameter]] = []
        for (part, axis), direction in zip(parts, directions if along else [None] * len(parts), strict=True):
            base = rows_of(part, axis)
            direction = None if direction is None else direction.to(base)
            width = base.shape[1] if direction is None else len(direction)
            self.rows.append((part, axis, base, direction, nn.Parameter(base.new_zeros(len(base), width))))
        self.others = [(p, p.value.clone(), nn.Parameter(p.value.clone())) for p in others_of(model, session)]
        identity = {id(part.parameter): part.parameter for part in model.identity_parameters([session])}
        trunk = [p for p in model.parameters() if id(p) not in identity and p.requires_grad]
        self.trunk = trunk if candidate.moves == "full" else []
        self.trunk_start = [p.detach().clone() for p in self.trunk]
        groups = [
            {"params": [z for *_, z in self.rows], "lr": candidate.lr, "weight_decay": candidate.pull},
            {"params": [leaf for *_, leaf in self.others], "lr": candidate.lr / 2, "weight_decay": 0.0},
            {"params": self.trunk, "lr": candidate.trunk_lr, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
        self.moved = [*identity.values(), *self.trunk]

    def numbers(self) -> int:
        """How many numbers it moves."""
        return sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])

    def step(self, loss: Callable[[], Tensor]) -> float:
        """One step of AdamW down a loss of the model; returns it."""
        flags = [(p, p.requires_grad) for p in self.model.parameters()]
        wanted = {id(p) for p in self.moved}
        for p, _ in flags:
            p.requires_grad_(id(p) in wanted)
            p.grad = None
        value = loss()
        value.backward()
        for part, axis, base, direction, z in self.rows:
            grad = _gradient(part).movedim(axis, 0).reshape(len(base), -1)
            z.grad = grad if direction is None else grad @ direction.T
        for part, _, leaf in self.others:
            leaf.grad = _gradient(part)
        clip_([p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None], CLIP)
        self.optimizer.step()
        self._write(1.0)
        for p, flag in flags:
            p.requires_grad_(flag)
            p.grad = None
        return float(value.detach())

    @torch.no_grad()
    def _write(self, share: float) -> None:
        """What belongs to the session, at a share of its way."""
        for part, axis, base, direction, z in self.rows:
            put_rows(part, axis, base + share * (z if direction is None else z @ direction))
        for part, base, leaf in self.others:
            part.value.copy_(leaf if share == 1 else base + share * (leaf - base))

    @contextmanager
    def at(self, share: float) -> Iterator[None]:
        """The model at a share of the way from its start to where it stands."""
        if share == 1:
            yield
            return
        stood = [p.detach().clone() for p in self.trunk]
        self.settle(share)
        yield
        with torch.no_grad():
            for p, there in zip(self.trunk, stood, strict=True):
                p.copy_(there)
        self._write(1.0)

    @torch.no_grad()
    def settle(self, share: float) -> None:
        """Leave the model at a share of the way."""
        for p, start in zip(self.trunk, self.trunk_start, strict=True):
            p.copy_(start + share * (p - start))
        self._write(share)


def _gradient(part: Part) -> Tensor:
    """Of a part, dense; zeros where the loss does not reach it."""
    grad = part.parameter.grad
    if grad is None:
        return torch.zeros_like(part.value)
    grad = grad.to_dense() if grad.is_sparse else grad
    return (grad if part.rows is None else grad[part.rows]).clone()
