"""One window from each of some moments of a session, as the onset of a stimulus: for questions that are asked of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.intervals import holds
from spiketok.training.sampling import Sampler, SessionTokens, SessionWindows, Stream, WindowPlan, generator, listing


def first_steps(session: SessionTokens, time_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segment of each time (-1 for none), and the first step of the session's grid that is not before it.

    Args:
        time_ns: int64 ``[T]``.

    Returns:
        int64 ``[T]`` twice.
    """
    segments, grid_ns = session.segments, session.grid_ns
    segment = np.searchsorted(segments.start_ns, time_ns, side="right") - 1
    origin = segments.start_ns[np.maximum(segment, 0)]
    segment = np.where((segment >= 0) & (time_ns < segments.stop_ns[np.maximum(segment, 0)]), segment, -1)
    return segment, origin + -(-(time_ns - origin) // grid_ns) * grid_ns


class OnsetWindows(Sampler):
    """One window from each onset, where it fits; shuffled anew each epoch in training.

    Args:
        onsets: by session, segments and starts of windows, int64 ``[n]`` each, on the grid.
        seed: of the order. training: shuffled; else in order of time.
        what: the onsets in words, for messages.

    Raises:
        DataError: no onset has room for its window.
    """

    def __init__(
        self,
        sessions: Sequence[SessionWindows],
        window_ns: int,
        onsets: Sequence[tuple[np.ndarray, np.ndarray]],
        *,
        seed: int,
        training: bool,
        what: str,
    ) -> None:
        super().__init__(sessions, window_ns)
        self.shuffled, self.seed, self._no_room = training, int(seed), 0
        own = [self._fitting(session, *of) for session, of in zip(self.sessions, onsets, strict=True)]
        self._windows = WindowPlan(
            np.repeat(np.arange(len(own)), [len(start) for _, start in own]),
            np.concatenate([segment for segment, _ in own]),
            np.concatenate([start for _, start in own]),
        )
        if not len(self._windows):
            message = (
                f"{listing([s.id for s in self.sessions])}: no {what} has its window of {window_ns / 1e6:g} ms in the "
                f"{'training' if training else 'scored'} time ({self._no_room} have no room): use a shorter "
                "data.window_ms, split.kind=block, or other shares by --set split.train=... and so on"
            )
            raise DataError(message)

    def _fitting(
        self, session: SessionWindows, segment: np.ndarray, start_ns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        fits = np.zeros(len(start_ns), np.bool_)
        for g, low, high in zip(session.segment, session.start_ns, session.stop_ns, strict=True):
            fits |= (segment == g) & (start_ns >= low) & (start_ns + self.window_ns <= high)
        self._no_room += int((holds(session.allowed.union(), start_ns) & ~fits).sum())
        return segment[fits], start_ns[fits]

    @property
    def dropped(self) -> dict[str, int]:
        return super().dropped | {"onsets_without_room": self._no_room}

    def describe(self) -> dict[str, object]:
        return super().describe() | {"sampler_seed": self.seed, "windows": len(self._windows)}

    def plan(self, epoch: int = 0) -> WindowPlan:
        """The windows of an epoch: a pure function of (seed, epoch) and of the sessions."""
        if not self.shuffled:
            return self._windows
        order = generator(Stream.SHUFFLE, self.seed, epoch).permutation(len(self._windows))
        return self._windows.take(order)
