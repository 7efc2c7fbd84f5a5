"""How many units a training window keeps.

What is unusual: a window is given as many units as it draws and no more, so that dropping costs nothing later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.errors import UsageError


@dataclass(frozen=True)
class UnitDropout:
    """How many units a training window keeps, as in POYO's augmentation; which ones is uniform.

    The density of the number rises on a straight line from 1 at ``min_units`` to ``peak`` at ``mode_units`` and falls
    to 1 at ``max_units``. A session with fewer units than ``min_units`` keeps all, and a drawn number above the
    session's units keeps all.

    Differs from torch_brain (0.2.1, ``transforms/unit_dropout.py``): its rejection step divides by a fresh random
    number instead of the proposal's density, so that its draws have a peak about twice, not four times, as high as the
    edges; and its generator is copied into every loader worker, which then all draw the same numbers. Here the stated
    density is drawn, by its inverse distribution function, from (seed, epoch, rank, batch).

    >>> UnitDropout(10, 20, 40).n_keep(np.array([0.0, 0.5, 1.0]), np.array([100, 100, 15])).tolist()
    [10, 23, 15]
    """

    min_units: int = 30
    mode_units: int = 100
    max_units: int = 300
    peak: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_units <= self.mode_units <= self.max_units or not self.peak > 0:
            message = (
                f"unit dropout needs 1 <= min <= mode <= max units and a peak above 0, got {self.min_units}, "
                f"{self.mode_units}, {self.max_units} and {self.peak}"
            )
            raise UsageError(message)

    def n_keep(self, uniform: np.ndarray, n_units: np.ndarray) -> np.ndarray:
        """int64 ``[B]``: units to keep.

        Args:
            uniform: float64 ``[B]`` in [0, 1). n_units: int64 ``[B]``, the units there are.
        """
        rise, fall = self.mode_units - self.min_units, self.max_units - self.mode_units
        height = (1 + self.peak) / 2  # the mean density on either side
        area = uniform * (rise + fall) * height
        rest = (rise + fall) * height - area
        up = self.min_units + rise * self._share(np.clip(area / max(rise, 1), 0, height))
        down = self.max_units - fall * self._share(np.clip(rest / max(fall, 1), 0, height))
        drawn = np.floor(np.where(area < rise * height, up, down)).astype(np.int64)
        return np.where(n_units < self.min_units, n_units, np.minimum(drawn, n_units))

    def _share(self, area: np.ndarray) -> np.ndarray:
        """How far along a unit slope from 1 to ``peak`` this much area lies."""
        return np.minimum(2 * area / (1 + np.sqrt(1 + 2 * (self.peak - 1) * area)), 1.0)
