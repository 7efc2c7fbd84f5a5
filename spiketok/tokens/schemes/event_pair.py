"""One token a spike: which unit, and in which step of its window; as Neuroformer reads them (Antoniades et al., ICLR
2024, arXiv 2311.00136; a-antoniades/Neuroformer, ``neuroformer/data_utils.py``).

Spikes are in order of step (10 ms) and, in a step, of unit: not in the order in which they were fired. A unit that
fires twice in a step is there twice. ``dt`` counts steps from the start of the stream's own window, it is not the
time since the spike before. A window has two streams: what came before (150 ms in the configuration V1AL, 50 ms in
Visnav) and the current window (50 ms), each ``SOS, spikes, EOS`` and PAD up to a fixed length (100 and 100 in V1AL,
``id`` 100 and ``prev`` 700 in Visnav). Where there are more spikes than fit, the last ones stay.

What the reference does otherwise:
- Its sequence is one longer and that last token is always PAD; the model's input is all but the last token and its
  target all but the first. Here the tokens are the input; the target is the same moved by one, with a PAD at the end.
- Where spikes do not fit it cuts the ids but not the dts, so that each dt is beside another spike's id and SOS
  loses its dt. Here both are cut.
- Near the start of a recording it counts the dt of the clipped history from the recording's start. Here dt always
  counts from ``history_ns`` before the current window: one dt, one distance to the present.
- Its SOS has the dt of the first step, 0, although its table has a row for SOS: kept here (row ``n_steps + 1`` is never
  used).
- It adds up float seconds to find steps; here they are whole numbers.

Unusual here: the shard holds the spikes in their final order and the row at which each step begins, so that a cut
copies; it loops over no cell without a spike, where the reference visits each unit in each step of each window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import (
    require_columns,
    require_equal,
    require_offsets,
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
    depth,
    freeze,
    grid_rows,
    segment_columns,
    segment_plan,
    spikes_outside,
    unit_rows,
)
from spiketok.tokens.schemes.bins import bin_starts, bins_inside

HISTORY, CURRENT = 0, 1
SPIKE, SOS, EOS, PAD = 0, 1, 2, 3


@dataclass(frozen=True)
class EventPair(Scheme):
    """Unit and step of each spike, in the current window and in its history.

    A window is the current one, ``[start, start + current_ns)``; its history is ``[start - history_ns, start)``, as far
    as the segment reaches back and every step was observed from its first to its last ns: tokens cannot say that a step
    was not, so a history stops at a gap.

    Columns: ``unit`` int32, the spikes segment after segment, each in order of step and unit; where segments overlap,
    a spike is in each of them. ``step.row`` int64 is the row at which each step begins (and, last, the number of
    rows), ``step.first`` int64 ``[G + 1]`` where in it each segment begins; ``step.since`` int64, of each step the one
    from which on all before it were observed (itself behind a gap); ``unit.n_spikes`` int64 ``[N]``.

    A cut gives the history's tokens and then the current window's, ``max_history + max_current`` of them (without
    ``pad``, as many as there are):

    - ``unit`` int32: the unit, or SOS = N, EOS = N + 1, PAD = N + 2. With ``unit_row`` its rows, and the three stand
      after the largest of them. In a vocabulary of several sessions these may be other sessions' rows: tell them apart
      by ``type``.
    - ``dt`` int16: the step in the stream's window; 0 for SOS, ``n_steps + 2`` for EOS and ``n_steps + 3`` for PAD,
      ``n_steps`` being those of the longer window.
    - ``stream`` uint8: 0 history, 1 current. ``type`` uint8: 0 spike, 1 SOS, 2 EOS, 3 PAD.

    ``lost`` names, besides spikes outside of the segments, how many tokens do not fit into windows that are laid end to
    end from each segment's start: ``cut_off_history`` and ``cut_off_current``. The columns still hold those spikes, and
    other windows show them (one spike may be cut off from several histories), so these two do not count when spikes are
    summed. :meth:`cut_off` says it for any windows.

    Args:
        step_ns: a step of dt. current_ns, history_ns: multiples of it.
        max_current, max_history: tokens of each stream at most, SOS and EOS among them.
        pad: whether a cut pads each stream to that.

    >>> from spiketok.tokens.schemes import EventPair
    >>> EventPair().window_ns, EventPair().lookback_ns, EventPair().n_steps
    (50000000, 150000000, 15)
    """

    step_ns: int = 10_000_000
    current_ns: int = 50_000_000
    history_ns: int = 150_000_000
    max_current: int = 100
    max_history: int = 100
    pad: bool = True

    name: ClassVar[str] = "event-pair"
    version: ClassVar[int] = 2  # 1: histories reached over gaps
    readers: ClassVar[tuple[str, ...]] = ("Neuroformer",)
    token: ClassVar[str] = "one spike, and SOS, EOS and PAD"
    keeps: ClassVar[str] = "every spike's unit and step (10 ms)"
    loses: ClassVar[str] = "time within the step; the first spikes of windows that do not fit (counted)"

    def __post_init__(self) -> None:
        for field in fields(self)[:5]:
            value, least = getattr(self, field.name), 3 if field.name.startswith("max_") else 1
            if type(value) is not int or value < least:
                message = f"event-pair: {field.name} is {value!r}, must be a whole number of at least {least}"
                raise UsageError(message)
        if type(self.pad) is not bool:
            message = f"event-pair: pad is {self.pad!r}, must be true or false"
            raise UsageError(message)
        for name in ("current_ns", "history_ns"):
            if getattr(self, name) % self.step_ns:
                message = f"event-pair: {name} is {getattr(self, name)}, no multiple of step_ns {self.step_ns}"
                raise UsageError(message)
        if self.pad_dt > np.iinfo(np.int16).max:
            message = f"event-pair: {self.n_steps} steps in a window, dt (int16) has room for 32764"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.step_ns

    @property
    def lookback_ns(self) -> int:
        return self.history_ns

    @property
    def window_ns(self) -> int:
        return self.current_ns

    @property
    def n_steps(self) -> int:
        """Steps of the longer window."""
        return max(self.current_ns, self.history_ns) // self.step_ns

    @property
    def end_dt(self) -> int:
        """The dt of EOS: after the steps, the end of the last one and a row that the reference keeps for SOS."""
        return self.n_steps + 2

    @property
    def pad_dt(self) -> int:
        return self.n_steps + 3

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        int64, steps = np.dtype(np.int64), int(grid_rows(segments.start_ns, segments.stop_ns, self.step_ns)[-1])
        return {
            "unit": ColumnSpec(np.dtype(np.int32), (), info.n_spikes * depth(segments)),
            "step.row": ColumnSpec(int64, (), steps + 1),
            "step.first": ColumnSpec(int64, (), len(segments) + 1),
            "step.since": ColumnSpec(int64, (), steps),
            "unit.n_spikes": ColumnSpec(int64, (), info.n_units),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        from spiketok.tokens.schemes.kernels import pairs as kernels

        spikes, n_units = session.spikes, len(session.units)
        low = np.searchsorted(spikes.time_ns, segments.start_ns)
        high = np.searchsorted(spikes.time_ns, segments.stop_ns)
        row = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int64)
        step_first = grid_rows(segments.start_ns, segments.stop_ns, self.step_ns)
        unit, step_row = np.empty(row[-1], np.int32), np.empty(step_first[-1] + 1, np.int64)
        step_row[-1] = row[-1]
        for g in range(len(segments)):
            kernels.order_by_step(
                spikes.time_ns[low[g] : high[g]],
                spikes.unit[low[g] : high[g]],
                segments.start_ns[g],
                self.step_ns,
                n_units,
                row[g],
                step_row[step_first[g] : step_first[g + 1]],
                unit[row[g] : row[g + 1]],
            )
        columns = freeze(
            {
                "unit": unit,
                "step.row": step_row,
                "step.first": step_first,
                "step.since": self._observed_since(session, segments, step_first),
                "unit.n_spikes": np.bincount(unit, minlength=n_units).astype(np.int64),
                **segment_columns(segments, row),
            }
        )
        cut_off = self.cut_off(columns, self._end_to_end(segments)).sum(axis=0)
        lost = {
            "outside_segments": spikes_outside(spikes, segments),
            "cut_off_history": int(cut_off[HISTORY]),
            "cut_off_current": int(cut_off[CURRENT]),
        }
        return Baked(columns, lost)

    def _observed_since(self, session: Session, segments: Intervals, step_first: np.ndarray) -> np.ndarray:
        """int64 ``[steps]``: for each step the first of those before it that were observed without a gap, up to it."""
        start_ns = bin_starts(segments, step_first, self.step_ns)
        inside = start_ns + self.step_ns <= np.repeat(segments.stop_ns, np.diff(step_first))
        whole = inside & bins_inside(start_ns, self.step_ns, session.observed)
        index = np.arange(len(start_ns))
        behind = np.concatenate([[False], whole[:-1]])[: len(index)]  # whether the step before it was observed
        behind[step_first[:-1][step_first[:-1] < len(index)]] = False  # none of another segment
        return np.maximum.accumulate(np.where(behind, 0, index))

    def _end_to_end(self, segments: Intervals) -> Windows:
        """Windows without a gap from each segment's start."""
        n = (segments.stop_ns - segments.start_ns) // self.current_ns
        segment = np.repeat(np.arange(len(segments)), n)
        index = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        return Windows(segment, segments.start_ns[segment] + index * self.current_ns, self.current_ns)

    def cut_off(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        """int64 ``[B, 2]``: spikes of kept units that do not fit into each window's history and current stream.

        Raises:
            UsageError: a window leaves its segment or is off the grid.
        """
        check_cut(self, columns, windows, keep, len(columns["unit.n_spikes"]))
        return np.maximum(self._count(columns, *self._steps(columns, windows), keep) - self._room, 0)

    @property
    def _room(self) -> np.ndarray:
        """int64 ``[2]``: spikes that fit into each stream."""
        return np.array([self.max_history - 2, self.max_current - 2])

    def _steps(self, columns: Columns, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[B]`` twice: the steps (of all segments) at which the history and the current window begin."""
        since = (windows.start_ns - columns["segment.start_ns"][windows.segment]) // self.step_ns
        current = columns["step.first"][windows.segment] + since
        first = current - self.history_ns // self.step_ns
        return np.maximum(first, columns["step.since"][current]), current

    def _count(self, columns: Columns, first: np.ndarray, current: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        from spiketok.tokens.schemes.kernels import pairs as kernels

        count, keep = np.empty((len(first), 2), np.int64), ALL_KEPT if keep is None else keep
        n_current = self.current_ns // self.step_ns
        kernels.count_pairs(columns["unit"], columns["step.row"], first, current, n_current, keep, count)
        return count

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, len(columns["unit.n_spikes"]))
        if self.pad:
            return np.full(len(windows), self.max_history + self.max_current, np.int64)
        count = self._count(columns, *self._steps(columns, windows), keep)
        return (np.minimum(count, self._room) + 2).sum(axis=1)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        dtypes = {"unit": np.int32, "dt": np.int16, "stream": np.uint8, "type": np.uint8}
        return {name: (np.dtype(dtype), ()) for name, dtype in dtypes.items()}

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
        from spiketok.tokens.schemes.kernels import pairs as kernels

        n_units = len(columns["unit.n_spikes"])
        unit_row = unit_rows(unit_row, n_units)
        first, current = self._steps(columns, windows)
        kernels.fill_pairs(
            columns["unit"],
            columns["step.row"],
            first,
            current,
            self.history_ns // self.step_ns,
            self.current_ns // self.step_ns,
            self._count(columns, first, current, keep),
            ALL_KEPT if keep is None else keep,
            unit_row,
            int(unit_row.max(initial=-1)) + 1,
            self.end_dt,
            self.max_history,
            self.max_current,
            self.pad,
            row,
            out["unit"],
            out["dt"],
            out["stream"],
            out["type"],
        )

    def check(self, columns: Columns) -> None:
        int64 = np.dtype(np.int64)
        wanted = dict.fromkeys(("step.row", "step.first", "step.since", "unit.n_spikes"), (int64, 1))
        require_columns(columns, wanted | {"unit": (np.dtype(np.int32), 1)})
        n_spikes, n_steps = len(columns["unit"]), len(columns["step.row"]) - 1
        require_within(columns, "unit", 0, len(columns["unit.n_spikes"]))
        require_segments(columns, n_spikes)
        require_offsets(columns, "step.row", n_steps, n_spikes)
        step_first = grid_rows(columns["segment.start_ns"], columns["segment.stop_ns"], self.step_ns)
        require_equal(columns, "step.first", step_first, f"that of the segments in steps of {self.step_ns} ns")
        require_offsets(columns, "step.first", len(columns["segment.start_ns"]), n_steps)
        require_shape(columns, (n_steps,), ["step.since"])
        first = np.repeat(step_first[:-1], np.diff(step_first))
        index = np.arange(n_steps)
        require_equal(columns, "step.since", columns["step.since"].clip(first, index), "steps of the same segment")

    def spikes_held(self, columns: Columns) -> int:
        return len(columns["unit"])

    def empty(self, tokens: Tokens) -> np.ndarray:
        return tokens.columns["type"] != SPIKE

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """The spikes of history and current window that were not cut off, each at the middle of its step."""
        spikes = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            spike = tokens.columns["type"][rows] == SPIKE
            dt, unit = tokens.columns["dt"][rows][spike], tokens.columns["unit"][rows][spike]
            history = tokens.columns["stream"][rows][spike] == HISTORY
            time_ns = dt.astype(np.int64) * self.step_ns + self.step_ns // 2 - history * self.history_ns
            spikes.append(Spikes(time_ns + windows.start_ns[b], unit))
        return spikes
