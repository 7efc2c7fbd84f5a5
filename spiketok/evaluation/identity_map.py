"""From what calibration tells of a unit to the row that training would have given it: a ridge on the trained sessions.

What is unusual:

- the statistics of a trained unit are taken from stretches of its training time as long as the calibration: the ridge
  learns how far numbers that are so noisy can be trusted;
- its penalty is chosen by leaving out whole sessions, or of few sessions whole units;
- where a ridge has nothing to foretell, a unit begins as the trained one that it is like (``likeness``);
- what is no unit's own (a session's row) starts at the mean of the trained ones, where all are of one shape.

Shape letters: N units, F statistics, D numbers of a row, K directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from spiketok.evaluation.likeness import Likeness, fit_likeness, places_beside
from spiketok.models.base import Model, Part

ALPHAS = np.logspace(-1, 5, 13)
FOLDS = 5
SESSIONS = 4  # from so many on whole sessions are left out, else units
SPREAD = 0.9  # of the variance of trained rows, which the first directions hold


@dataclass(frozen=True, eq=False)
class Ridge:
    """Linear, from statistics to rows.

    Args:
        centre, scale: float64 ``[F]``, of the statistics. weight: float64 ``[F, D]``. bias: float64 ``[D]``.
        alpha: the penalty that was chosen. explained: R2 in the parts that were left out, weighted by variance.
    """

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    alpha: float
    explained: float

    def foretell(self, statistics: np.ndarray) -> np.ndarray:
        """float64 ``[N, D]`` of ``[N, F]``."""
        return (statistics - self.centre) / self.scale @ self.weight + self.bias


@dataclass(frozen=True, eq=False)
class IdentityMap:
    """How what belongs to a new session begins.

    Args:
        ridges: of each kind of unit parts; none where units begin as trained ones that they are like.
        directions: of each kind, the first principal directions of the trained rows, float32 ``[K, D]``.
        mean: of each parameter that is a session's own and no unit's; None where those of the sessions differ in shape,
            and none at all where they have not as many.
        sessions: of how many trained ones.
        likeness: where units begin as trained ones that they are like. rows: of each kind, float64 ``[M, D]``, of all
            trained units, where there are rows. places: of each session, int64 ``[M]``, where it knows them by place.
        own: of each session, what is its own and no unit's, where places mean another thing in each.
    """

    ridges: tuple[Ridge, ...]
    directions: tuple[Tensor, ...]
    mean: tuple[Tensor | None, ...]
    sessions: int
    likeness: Likeness | None = None
    rows: tuple[np.ndarray, ...] = ()
    places: tuple[np.ndarray, ...] = ()
    own: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def foretold(self) -> bool:
        """Whether it says something of units."""
        return bool(self.ridges) or self.likeness is not None

    def told(self) -> dict[str, object]:
        """How it was learned, JSON-able; nothing where it says nothing of units."""
        if not self.foretold:
            return {}
        explained = {"explained": [round(ridge.explained, 4) for ridge in self.ridges]} if self.ridges else {}
        return explained | {"map_sessions": self.sessions}

    def begins(self) -> str:
        """What a session begins at, in words."""
        if self.likeness is not None:
            return "trained units that are alike"
        return "map" if self.ridges else "mean of the trained sessions"


def rows_of(part: Part, axis: int) -> Tensor:
    """A copy, as ``[N, D]``, of what lies along an axis of units."""
    return part.value.movedim(axis, 0).reshape(part.value.shape[axis], -1).clone()


def put_rows(part: Part, axis: int, rows: Tensor) -> None:
    """Write ``[N, D]`` back along the axis of units."""
    moved = part.value.movedim(axis, 0)
    moved.copy_(rows.reshape(moved.shape))


def others_of(model: Model, session: str) -> list[Part]:
    """What is a session's own and no unit's."""
    units = {(id(part.parameter), str(part.rows)) for part, _ in model.unit_parts(session)}
    return [p for p in model.identity_parameters([session]) if (id(p.parameter), str(p.rows)) not in units]


def fit_map(
    model: Model,
    sessions: Sequence[str],
    draws: Mapping[str, Sequence[np.ndarray]],
    places: Mapping[str, np.ndarray] | None = None,
    alike: bool = False,
) -> IdentityMap:
    """Fit the ridges on trained sessions, or learn which of their units a unit is like.

    Args:
        model: as it was trained; one that infers units with rows of these sessions.
        sessions: ids of trained ones, at least one.
        draws: by session, statistics ``[N, F]`` of several stretches; not read of a model that knows no units.
        places: by session, of a model that knows units by place.
        alike: learn which trained units one is like, of a model that has rows of units too.
    """
    kinds = range(len(model.unit_parts(sessions[0])))
    rows = [[rows_of(*model.unit_parts(s)[kind]).double().cpu().numpy() for s in sessions] for kind in kinds]
    directions = tuple(principal(np.concatenate(own)) for own in rows)
    others = [others_of(model, session) for session in sessions]
    mean = []
    for parts in zip(*others, strict=True) if len({len(parts) for parts in others}) == 1 else ():
        one_shape = len({p.value.shape for p in parts}) == 1
        mean.append(torch.stack([p.value for p in parts]).mean(0) if one_shape else None)
    known = directions, tuple(mean), len(sessions)
    if not (model.infers or model.by_place or (alike and rows)):
        return IdentityMap(_ridges(sessions, rows, draws), *known)
    likeness = fit_likeness({session: draws[session] for session in sessions})
    if not model.by_place:
        return IdentityMap((), *known, likeness, rows=tuple(np.concatenate(own) for own in rows))
    own = tuple(tuple(part.value.clone() for part in parts) for parts in others)
    return IdentityMap((), *known, likeness, places=tuple(places[session] for session in sessions), own=own)


def _ridges(
    sessions: Sequence[str], rows: Sequence[Sequence[np.ndarray]], draws: Mapping[str, Sequence[np.ndarray]]
) -> tuple[Ridge, ...]:
    """One a kind of unit parts, whose rows ``[N, D]`` are given by session."""
    if not rows:
        return ()
    x = np.concatenate([draw for session in sessions for draw in draws[session]])
    groups = _groups([(len(draws[s][0]), len(draws[s])) for s in sessions])
    found = []
    for of_kind in rows:
        y = np.concatenate([own for own, session in zip(of_kind, sessions, strict=True) for _ in draws[session]])
        found.append(fit_ridge(x, y, groups))
    return tuple(found)


def _groups(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """What is left out together: of each session (units, draws) the session, or of few sessions each unit."""
    found, first = [], 0
    for k, (units, draws) in enumerate(sizes):
        own = np.full(units, k) if len(sizes) >= SESSIONS else np.arange(first, first + units)
        found += [own] * draws
        first += units
    return np.concatenate(found)


def fit_ridge(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Ridge:
    """A ridge whose penalty is chosen by leaving out groups, those of each fifth together.

    Args:
        x: ``[M, F]``. y: ``[M, D]``. groups: int ``[M]``; group ``g`` is in fold ``g % 5`` of those that there are.
    """
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    z = (x - centre) / scale
    fold = np.unique(groups, return_inverse=True)[1] % FOLDS
    error, spread = np.zeros(len(ALPHAS)), 0.0
    for k in range(fold.max() + 1):
        left, kept = fold == k, fold != k
        if not kept.any():
            continue
        weights, bias, middle = _solve(z[kept], y[kept], ALPHAS)
        truth = y[left] - bias
        error += [float(np.square((z[left] - middle) @ weight - truth).sum()) for weight in weights]
        spread += float(np.square(truth).sum())
    best = int(np.argmin(error)) if spread else len(ALPHAS) - 1
    (weight,), bias, middle = _solve(z, y, ALPHAS[best : best + 1])
    explained = 1.0 - float(error[best]) / spread if spread else 0.0
    return Ridge(centre + middle * scale, scale, weight, bias, float(ALPHAS[best]), explained)


def _solve(z: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The weights at each penalty, the mean of y and the mean of z."""
    middle, bias = z.mean(0), y.mean(0)
    u, s, v = np.linalg.svd(z - middle, full_matrices=False)
    projected = u.T @ (y - bias)
    return [v.T @ ((s / (s**2 + alpha))[:, None] * projected) for alpha in alphas], bias, middle


def principal(rows: np.ndarray) -> Tensor:
    """float32 ``[K, D]``: orthonormal directions that hold :data:`SPREAD` of the variance of rows."""
    _, s, v = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    share = np.cumsum(s**2) / max(float((s**2).sum()), 1e-30)
    n = min(int(np.searchsorted(share, SPREAD)) + 1, len(v))
    return torch.from_numpy(v[:n].copy()).float()


@torch.no_grad()
def start(model: Model, session: str, of: IdentityMap, statistics: np.ndarray | None) -> int:
    """Let what belongs to a new session begin where the map says; returns how many numbers it set.

    Args:
        statistics: float64 ``[N, F]`` of its units; None for a model that knows no units.
    """
    n, others = 0, of.mean
    rows = [ridge.foretell(statistics) for ridge in of.ridges]
    if of.rows:
        alike = of.likeness.among(statistics)
        rows = [own[alike] for own in of.rows]
    elif of.places:
        best, alike = of.likeness.within(statistics)
        model.put_units(session, places_beside(alike, of.places[best]))
        n, others = len(alike), of.own[best]
    for (part, axis), own in zip(model.unit_parts(session), rows, strict=True):
        put_rows(part, axis, torch.from_numpy(own).to(part.value))
        n += part.value.numel()
    parts = others_of(model, session)
    for part, value in zip(parts, others, strict=True) if len(parts) == len(others) else ():
        if value is not None:
            part.value.copy_(value)
            n += part.value.numel()
    return n
