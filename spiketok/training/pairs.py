"""Pairs of windows of one session, for what is learned by telling units again in another window.

What is unusual:

- the first of a pair lies as any window does; the second begins within some distance of it, uniformly over all the
  places where a window of the session may lie;
- the two stand next to each other in the plan, and the loader does not tear them apart;
- in an evaluation the two never overlap: shared time would tell a unit again by itself.

Shape letters: P pairs, I intervals.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from spiketok.errors import DataError
from spiketok.training.sampling import (
    RandomWindows,
    Sampler,
    SequentialWindows,
    SessionWindows,
    Stream,
    WindowPlan,
    generator,
)


class PairWindows(Sampler):
    """Pairs of windows; each window of a plan at an even place is the first of one.

    Args:
        distance_ns: the largest distance between the two starts.
        seed: of all draws.
        training: first windows at random places, new ones each epoch, and second ones that may overlap them; else
            first ones one behind the other, always the same, and second ones that do not.

    Raises:
        DataError: by :meth:`plan`, where no window has a second.
    """

    together = 2

    def __init__(
        self,
        sessions: Sequence[SessionWindows],
        window_ns: int,
        *,
        distance_ns: int,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        super().__init__(sessions, window_ns)
        self.shuffled, self.distance_ns, self.seed = training, int(distance_ns), int(seed)
        self.first: Sampler = SequentialWindows(sessions, window_ns)
        if training:
            self.first = RandomWindows(sessions, window_ns, seed=seed)

    def describe(self) -> dict[str, object]:
        return super().describe() | {"distance_ns": self.distance_ns, "sampler_seed": self.seed}

    @property
    def dropped(self) -> dict[str, int]:
        """Windows without a second are counted too, as ``windows_unpaired`` of an epoch."""
        first = self.first.plan(0)
        return super().dropped | {"windows_unpaired": len(first) - len(self._paired(first, 0)[0])}

    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch, pair behind pair."""
        first = self.first.plan(epoch)
        kept, segment, start = self._paired(first, epoch)
        if len(first) and not len(kept):
            apart = "" if self.shuffled else ", without overlap"
            message = (
                f"no window of {self.window_ns / 1e6:g} ms has a second one that starts within "
                f"{self.distance_ns / 1e9:g} s of it{apart}: use a shorter data.window_ms"
            )
            raise DataError(message)
        first = first.take(kept)
        return WindowPlan(
            np.repeat(first.session, 2),
            np.stack([first.segment, segment], 1).ravel(),
            np.stack([first.start_ns, start], 1).ravel(),
        )

    def _paired(self, first: WindowPlan, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which first windows have a second, int64 ``[P]``, and segments and starts of those."""
        segment, start = np.full(len(first), -1), np.zeros(len(first), np.int64)
        by_session = np.argsort(first.session, kind="stable")
        size = np.bincount(first.session, minlength=len(self.sessions))
        for session, rows in zip(self.sessions, np.split(by_session, np.cumsum(size)[:-1]), strict=True):
            random = generator(Stream.PAIR, self.seed, epoch if self.shuffled else 0, zlib.crc32(session.id.encode()))
            segment[rows], start[rows] = self._seconds(session, first.start_ns[rows], random)
        kept = np.flatnonzero(segment >= 0)
        return kept, segment[kept], start[kept]

    def _seconds(
        self, session: SessionWindows, first_ns: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Segment (-1 for none) and start of a second window for each first one."""
        grid_ns, low, high = session.grid_ns, session.start_ns, session.stop_ns - self.window_ns
        segment, start = np.full(len(first_ns), -1), np.zeros(len(first_ns), np.int64)
        apart_ns = 0 if self.shuffled else self.window_ns
        for p, at in enumerate(first_ns.tolist()):
            before = (np.maximum(low, at - self.distance_ns), np.minimum(high, at - apart_ns))
            after = (np.maximum(low, at + max(apart_ns, 1)), np.minimum(high, at + self.distance_ns))
            lowest = np.concatenate([before[0], after[0]])
            highest = np.concatenate([before[1], after[1]])
            origin = np.concatenate([low, low])
            lowest = origin + -(-(lowest - origin) // grid_ns) * grid_ns  # up to the grid of its segment
            places = np.maximum((highest - lowest) // grid_ns + 1, 0)
            behind = np.cumsum(places)
            drawn = random.random()  # drawn for every window: what one can have moves no other's
            if len(behind) == 0 or behind[-1] == 0:
                continue
            place = min(int(drawn * behind[-1]), int(behind[-1]) - 1)
            row = int(np.searchsorted(behind, place, side="right"))
            segment[p] = session.segment[row % len(low)]
            start[p] = lowest[row] + (place - (behind[row] - places[row])) * grid_ns
        return segment, start
