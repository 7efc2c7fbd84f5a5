"""Which trained unit a unit of a new session is most like: the start where no row of a unit can be foretold.

``transfer.new_units`` asks for it where one can. Two kinds of models have no row that a ridge could foretell. One knows
a unit by its place alone (NDT2): a new unit goes where the trained one stood that it is like. One infers who a unit is
(SPINT): what it infers of trained units it has learned to read, a mean of several of them it has not, so a new unit
begins as the trained one that it is like.

What is unusual:

- like is measured in the noise of the statistics, and a little in what units differ by: several stretches of a
  trained unit's time, as long as the calibration, tell how far each number varies for one and the same unit;
- all units are assigned at once, at the least sum of squared distances, each to a trained one of its own.

Shape letters: N units, F statistics, M trained units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

BETWEEN = 0.1  # of what units differ by: numbers that noise hardly touches may still differ between sessions


@dataclass(frozen=True, eq=False)
class Likeness:
    """The units of trained sessions, and how their likeness is measured.

    Args:
        sessions: ids. statistics: of each, float64 ``[M, F]``, in the measure. centre: float64 ``[F]``. scale: float64
            ``[F, F]``: what brings statistics to the measure.
    """

    sessions: tuple[str, ...]
    statistics: tuple[np.ndarray, ...]
    centre: np.ndarray
    scale: np.ndarray

    def within(self, statistics: np.ndarray) -> tuple[int, np.ndarray]:
        """The trained session whose units fit best, and int64 ``[N]``, the unit there that each is like; -1 for none.

        Args:
            statistics: float64 ``[N, F]``.
        """
        tried = [_assigned(self._measured(statistics), known) for known in self.statistics]
        best = int(np.argmin([distance for _, distance in tried]))
        return best, tried[best][0]

    def among(self, statistics: np.ndarray) -> np.ndarray:
        """int64 ``[N]``: the unit that each is like, among those of all trained sessions, one behind the other.

        Units for which none is left are like the nearest.
        """
        own, known = self._measured(statistics), np.concatenate(self.statistics)
        found, _ = _assigned(own, known)
        nearest = _distances(own, known).argmin(1)
        return np.where(found < 0, nearest, found)

    def _measured(self, statistics: np.ndarray) -> np.ndarray:
        return (statistics - self.centre) @ self.scale


def fit_likeness(draws: Mapping[str, Sequence[np.ndarray]]) -> Likeness:
    """Learn the measure.

    Args:
        draws: by trained session, statistics ``[M, F]`` of several stretches.
    """
    mean = {session: np.mean(own, 0) for session, own in draws.items()}
    each = np.concatenate(list(mean.values()))
    centre = each.mean(0)
    off = np.concatenate([draw - mean[session] for session, own in draws.items() for draw in own])
    noise = off.T @ off / max(len(off) - len(each), 1)
    spread = (each - centre).T @ (each - centre) / len(each)
    level, axis = np.linalg.eigh(noise + BETWEEN * spread)
    kept = level > 1e-9 * max(level.max(), 1e-30)
    scale = axis[:, kept] / np.sqrt(level[kept])
    return Likeness(tuple(mean), tuple((own - centre) @ scale for own in mean.values()), centre, scale)


def _assigned(own: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float]:
    """int64 ``[N]``, -1 for none, and the mean squared distance of those that found one."""
    distance = _distances(own, known)
    row, column = linear_sum_assignment(distance)
    found = np.full(len(own), -1, np.int64)
    found[row] = column
    return found, float(distance[row, column].mean())


def _distances(own: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.square(own[:, None] - known).sum(-1)


def places_beside(like: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int64 ``[N]``: the places of the units that these are like; those that are like none go where nobody stood.

    Args:
        like: int64 ``[N]``, -1 for none. places: int64 ``[M]``, of the trained session's units.
    """
    free = np.setdiff1d(np.arange(len(like) + len(places)), places)
    found = np.where(like < 0, -1, places[like])
    found[like < 0] = free[: int((like < 0).sum())]
    return found
