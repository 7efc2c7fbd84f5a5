"""One token for each frame and unit: dF/F as CaPOYO reads it (Azabou et al., ICLR 2025, OpenReview IuU0wcO0mo).

A window's tokens are its frames in order of time, each with all its units in order of row: T x N tokens, each with the
value, the frame's time and the unit.

Unusual here:
- Frames keep their own times. A dropped stretch, a jitter or another rate is in the times; nothing is laid on a grid
  or filled up. Frames whose signal is not valid (NaN in the source) leave no tokens.
- The spikes of the session, where it has some, are not in these tokens: ``Baked.lost["not_in_fluorescence"]`` counts
  them, once for each segment that they are in.
- No START and END: a unit that was imaged has a token in every frame.

Differs from the paper's summaries as its code does (torch_brain:torch_brain/models/capoyo.py at the branch of that
paper): its table of token types is allocated and never read, so there is no column ``type`` here, and its tokenizer
writes neither START nor END. Its values are whatever the data set calls dF/F, with no scaling of its own; here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Intervals, Session, SessionInfo, Signal
from spiketok.tokens.bounds import (
    require_columns,
    require_order,
    require_segments,
    require_shape,
    require_within,
)
from spiketok.tokens.schemes.base import (
    ALL_KEPT,
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    freeze,
    segment_columns,
    segment_plan,
    spikes_outside,
    unit_rows,
)

MAX_FRAME_HZ = 100  # what a plan counts with, since a session's summary does not say how many frames it has


@dataclass(frozen=True)
class Fluorescence(Scheme):
    """dF/F of each unit in each frame.

    Columns: ``time_ns`` int64 ``[F]``, ``value`` float32 ``[F, N]``, ``valid`` uint8 ``[F]``, the frames of segment
    after segment; where segments overlap, a frame is in each of them.

    A cut gives, frame by frame and unit by unit, ``value`` float32, ``time`` float32 (seconds from the window's start)
    and ``unit`` int32 (rows of ``unit_row`` where given). Frames that are not valid and units that are dropped leave no
    token; a window without frames has none at all.

    Args:
        signal: the session's signal that holds dF/F. Its components are the units, in the order of the unit table.

    >>> from spiketok.tokens.schemes import Fluorescence
    >>> Fluorescence(signal="RoiResponseSeries")
    Fluorescence(signal='RoiResponseSeries')
    """

    signal: str = FLUORESCENCE

    name: ClassVar[str] = "fluorescence"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("CaPOYO",)
    token: ClassVar[str] = "one unit in one frame"
    keeps: ClassVar[str] = "dF/F of every valid frame, its time to float32 of the window (60 ns at 1 s)"
    loses: ClassVar[str] = "spikes (counted)"

    def __post_init__(self) -> None:
        if type(self.signal) is not str or not self.signal:
            message = f"fluorescence: signal is {self.signal!r}, must be the name of a signal"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return 1

    @property
    def signals_read(self) -> tuple[str, ...]:
        return (self.signal,)

    def _require(self, session_id: str, n_units: int, n_components: Mapping[str, int]) -> None:
        """Raise NotServedError unless the signal is there and has a component a unit."""
        if self.signal not in n_components:
            there = ", ".join(sorted(n_components)) or "none"
            message = f"{session_id} has no signal '{self.signal}' with dF/F of its units: it has {there}"
            raise NotServedError(message)
        if n_components[self.signal] != n_units:
            found = f"{n_components[self.signal]} components for {n_units} units"
            message = f"{session_id} has no dF/F of each unit: signal '{self.signal}' has {found}"
            raise NotServedError(message)

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        self._require(info.id, info.n_units, {name: len(names) for name, (names, _) in info.signals.items()})
        frames = int(_most_frames(segments).sum())
        return {
            "time_ns": ColumnSpec(np.dtype(np.int64), (), frames),
            "value": ColumnSpec(np.dtype(np.float32), (info.n_units,), frames),
            "valid": ColumnSpec(np.dtype(np.uint8), (), frames),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        n_units, spikes = len(session.units), session.spikes
        self._require(session.id, n_units, {name: len(s.components) for name, s in session.signals.items()})
        frames = session.signals[self.signal]
        low = np.searchsorted(frames.time_ns, segments.start_ns)
        high = np.searchsorted(frames.time_ns, segments.stop_ns)
        _check_frames(session.id, self.signal, high - low, segments)
        row = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int64)
        columns = {
            "time_ns": np.empty(row[-1], np.int64),
            "value": np.empty((row[-1], n_units), np.float32),
            "valid": np.empty(row[-1], np.uint8),
        }
        for g in range(len(segments)):
            for name, column in columns.items():
                column[row[g] : row[g + 1]] = getattr(frames, name)[low[g] : high[g]]
        first = np.searchsorted(spikes.time_ns, segments.start_ns)
        stop = np.searchsorted(spikes.time_ns, segments.stop_ns)
        lost = {
            "outside_segments": spikes_outside(spikes, segments),
            "not_in_fluorescence": int((stop - first).sum()),
        }
        return Baked(freeze(columns | segment_columns(segments, row)), lost)

    def check(self, columns: Columns) -> None:
        uint8 = np.dtype(np.uint8)
        wanted = {"time_ns": (np.dtype(np.int64), 1), "value": (np.dtype(np.float32), 2), "valid": (uint8, 1)}
        require_columns(columns, wanted)
        n_frames = len(columns["time_ns"])
        require_shape(columns, (n_frames,), ["value", "valid"])
        require_within(columns, "valid", 0, 2)
        require_segments(columns, n_frames)
        require_order(columns, "time_ns", columns["segment.row"])

    def spikes_held(self, columns: Columns) -> int:
        return 0

    def _rows(self, columns: Columns, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[B]`` twice: the first row of each window's frames, and the one after the last."""
        from spiketok.tokens.schemes.kernels import frames as kernels

        low, high = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
        time_ns, row = columns["time_ns"], columns["segment.row"]
        kernels.frame_rows(time_ns, row, windows.segment, windows.start_ns, windows.length_ns, low, high)
        return low, high

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        from spiketok.tokens.schemes.kernels import frames as kernels

        n_units = columns["value"].shape[1]
        check_cut(self, columns, windows, keep, n_units)
        length = np.empty(len(windows), np.int64)
        kept = ALL_KEPT if keep is None else keep
        kernels.frame_lengths(columns["valid"], *self._rows(columns, windows), kept, n_units, length)
        return length

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        float32, int32 = np.dtype(np.float32), np.dtype(np.int32)
        return {"value": (float32, ()), "time": (float32, ()), "unit": (int32, ())}

    def fill(
        self,
        columns: Columns,
        windows: Windows,
        row: np.ndarray,
        out: Mapping[str, np.ndarray],
        keep: np.ndarray | None = None,
        unit_row: np.ndarray | None = None,
        length: np.ndarray | None = None,
    ) -> None:
        from spiketok.tokens.schemes.kernels import frames as kernels

        n_units = columns["value"].shape[1]
        unit_row = unit_rows(unit_row, n_units)
        kernels.fill_frames(
            columns["time_ns"],
            columns["value"],
            columns["valid"],
            *self._rows(columns, windows),
            windows.start_ns,
            ALL_KEPT if keep is None else keep,
            unit_row,
            row,
            out["value"],
            out["time"],
            out["unit"],
        )

    def empty(self, tokens: Tokens) -> np.ndarray:
        """None: a value reports its unit's activity in every frame."""
        return np.zeros(len(tokens.columns["unit"]), np.bool_)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Signal]:
        """The frames of each window, each at a whole nanosecond that float32 seconds cannot tell from its own.

        A signal has a component for each unit that has tokens, named by the unit's row: a dropped unit is not known.
        """
        signals = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            value, time, unit = (tokens.columns[name][rows] for name in ("value", "time", "unit"))
            n_kept = len(np.unique(unit))
            value, time = value.reshape(-1, max(n_kept, 1))[:, :n_kept], time[:: max(n_kept, 1)]
            time_ns = windows.start_ns[b] + _whole_ns(time, windows.length_ns)
            names = tuple(str(n) for n in unit[:n_kept])
            signals.append(Signal(time_ns, value, names, "", np.ones(len(time), np.bool_)))
        return signals


def _most_frames(segments: Intervals) -> np.ndarray:
    """int64 ``[G]``: as many frames as a segment may have."""
    return (segments.stop_ns - segments.start_ns) // (NS_PER_S // MAX_FRAME_HZ) + 2


def _check_frames(session_id: str, signal: str, n_frames: np.ndarray, segments: Intervals) -> None:
    """Raise NotServedError where a segment has more frames than the plan of it says."""
    wrong = np.flatnonzero(n_frames > _most_frames(segments))
    if wrong.size:
        g = int(wrong[0])
        span = f"{int(n_frames[g])} frames between {int(segments.start_ns[g])} and {int(segments.stop_ns[g])} ns"
        message = f"{session_id} has no frames of imaging: signal '{signal}' has {span}, over {MAX_FRAME_HZ} a second"
        raise NotServedError(message)


def _seconds(ns: int) -> np.float32:
    return np.float32(np.float64(ns) * 1e-9)


def _whole_ns(time: np.ndarray, length_ns: int) -> np.ndarray:
    """int64: rising whole nanoseconds below ``length_ns`` with these float32 seconds.

    Each is the nearest to its time; frames that share one float32 are put one nanosecond apart, for which there is room
    because the original times had it.
    """
    nearest = np.minimum(np.rint(time.astype(np.float64) * 1e9).astype(np.int64), length_ns - 1)
    first = np.flatnonzero(np.concatenate([[True], time[1:] != time[:-1]])) if len(time) else np.zeros(0, np.int64)
    size = np.diff(np.append(first, len(time)))
    for low, n in zip(first[size > 1].tolist(), size[size > 1].tolist(), strict=True):
        start = int(nearest[low])
        while start > 0 and _seconds(start - 1) == time[low]:
            start -= 1
        nearest[low : low + n] = start + np.arange(n)
    return nearest
