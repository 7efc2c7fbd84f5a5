"""One token a spike, as POYO reads them (Azabou et al., NeurIPS 2023, arXiv 2310.16046), and POSSM (Ryoo et al.,
NeurIPS 2025, arXiv 2506.05320).

A window's tokens are START and END for each unit, unit by unit, then the spikes in order of time (ties by unit): the
order of torch_brain's ``POYO.tokenize``, which is not sorted by time as a whole. START is at 0 and END at the
window's length for every unit, silent ones too: they tell the model which units were there to be heard. A unit that
is dropped leaves neither.

With ``chunk_ns`` (POSSM: 50 ms) the window is cut into half-open chunks, times count from their chunk's start, there
is no START and END, and a chunk without a spike has one blank token, so that attention over it has a key. In
torch_brain's ``POSSM.tokenize`` the last chunk reaches 1e-6 s past the window's end, because its float seconds may
put a spike there by rounding; whole nanoseconds need no such allowance, and a spike at the very end belongs to the next
window. Its blank has type 0, as a spike has; here it has a type of its own, 3, the row of POYO's table that nothing
else uses.

With ``order="unit"`` the spikes of each unit are together, in order of time: what pooling over a unit's spike times
needs. START is before and END after the unit's own spikes, so that a silent unit has something to pool over, too.

With ``first_only`` the cut leaves each unit's first spike of the window alone: its latency, where a window begins at
the onset of a stimulus. A window then has no more tokens than units, whatever the rates.

Unusual here:
- The shard knows no vocabulary: rows of a model's unit table are put in by the cut.
- One shard serves all of these: the fields change the cut, never the columns.
- Times stay int64 ns until the cut writes ``float32(float64(ns since the window's start) * 1e-9)``. Float32 resolves
  60 ns at the end of a one-second window and 1 us at the end of a ten-second one, which is what a cut loses.
- A table of the row at which each 100 ms begins makes finding a window's spikes one look-up and a search among few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from spiketok.errors import ArtefactError, UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import (
    require_columns,
    require_equal,
    require_offsets,
    require_order,
    require_segments,
    require_shape,
    require_within,
)
from spiketok.tokens.schemes.base import (
    ALL_KEPT,
    CAME_LATER,
    Baked,
    Columns,
    ColumnSpec,
    Scheme,
    Tokens,
    Windows,
    check_cut,
    depth,
    freeze,
    segment_columns,
    segment_plan,
    spikes_outside,
    unit_rows,
)

COARSE_NS = 100_000_000  # the step of the look-up table; part of version 1 of the format
SPIKE, START, END, BLANK = 0, 1, 2, 3
ORDERS = ("time", "unit")


@dataclass(frozen=True)
class PerSpike(Scheme):
    """Time, unit and type of each spike.

    Columns: ``time_ns`` int64 and ``unit`` int32, segment after segment, each in order of time and unit; where
    segments overlap, a spike is in each of them. ``coarse.row`` and ``coarse.first`` are the look-up table,
    ``unit.n_spikes`` int64 ``[N]`` counts the rows of each unit.

    A cut gives ``time`` float32 (seconds from the window's or the chunk's start), ``unit`` int32 (rows of ``unit_row``
    where given), ``type`` uint8 (0 spike, 1 START, 2 END, 3 blank) and, with chunks, ``chunk`` int32 (from 0). A blank
    has time 0 and unit 0 whatever ``unit_row`` is. ``fill`` also writes into wider whole numbers than these.

    Args:
        start_end: whether the cut writes START and END. Without them a window of silence has no tokens at all.
        chunk_ns: the length of chunks, 0 for none; windows are a multiple of it. Needs ``start_end=False``.
        order: ``"time"``, or ``"unit"``: unit by unit, in order of time in each. Chunks have the order of time.
        first_only: of each unit the first spike of the window alone. Without chunks.

    >>> from spiketok.tokens.schemes import PerSpike
    >>> PerSpike().length_grid_ns, PerSpike(start_end=False, chunk_ns=50_000_000).length_grid_ns
    (1, 50000000)
    """

    start_end: bool = True
    chunk_ns: int = 0
    order: str = "time"
    first_only: bool = field(default=False, metadata=CAME_LATER)

    name: ClassVar[str] = "per-spike"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("POYO", "POYO+", "POSSM")
    token: ClassVar[str] = "one spike, and START and END of each unit"
    keeps: ClassVar[str] = "every spike, its unit, its time to float32 of the window (60 ns at 1 s)"
    loses: ClassVar[str] = "nothing else (with first_only all spikes of a unit but the first)"

    def __post_init__(self) -> None:
        if type(self.start_end) is not bool:
            message = f"per-spike: start_end is {self.start_end!r}, must be true or false"
            raise UsageError(message)
        if type(self.chunk_ns) is not int or self.chunk_ns < 0:
            message = f"per-spike: chunk_ns is {self.chunk_ns!r}, must be a whole number, 0 for no chunks"
            raise UsageError(message)
        if self.order not in ORDERS:
            message = f"per-spike: order is {self.order!r}, must be one of {', '.join(ORDERS)}"
            raise UsageError(message)
        if self.chunk_ns and self.start_end:
            message = f"per-spike: chunks of {self.chunk_ns} ns have no START and END: set start_end to false"
            raise UsageError(message)
        if self.chunk_ns and self.order != "time":
            message = f"per-spike: chunks of {self.chunk_ns} ns are in order of time: order cannot be {self.order!r}"
            raise UsageError(message)
        if type(self.first_only) is not bool or (self.first_only and self.chunk_ns):
            message = f"per-spike: first_only is {self.first_only!r}, must be true (with chunk_ns 0) or false"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return 1

    @property
    def length_grid_ns(self) -> int:
        return self.chunk_ns or 1

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = info.n_spikes * depth(segments)
        return {
            "time_ns": ColumnSpec(np.dtype(np.int64), (), rows),
            "unit": ColumnSpec(np.dtype(np.int32), (), rows),
            "coarse.row": ColumnSpec(np.dtype(np.int64), (), int(_coarse_first(segments)[-1])),
            "coarse.first": ColumnSpec(np.dtype(np.int64), (), len(segments) + 1),
            "unit.n_spikes": ColumnSpec(np.dtype(np.int64), (), info.n_units),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        spikes = session.spikes
        low = np.searchsorted(spikes.time_ns, segments.start_ns)
        high = np.searchsorted(spikes.time_ns, segments.stop_ns)
        row = np.concatenate([[0], np.cumsum(high - low)]).astype(np.int64)
        coarse_first = _coarse_first(segments)
        time_ns, unit = np.empty(row[-1], np.int64), np.empty(row[-1], np.int32)
        coarse_row = np.empty(coarse_first[-1], np.int64)
        for g in range(len(segments)):
            own = time_ns[row[g] : row[g + 1]]
            own[:] = spikes.time_ns[low[g] : high[g]]
            unit[row[g] : row[g + 1]] = spikes.unit[low[g] : high[g]]
            step = segments.start_ns[g] + np.arange(coarse_first[g + 1] - coarse_first[g]) * COARSE_NS
            coarse_row[coarse_first[g] : coarse_first[g + 1]] = row[g] + np.searchsorted(own, step)
        columns = {
            "time_ns": time_ns,
            "unit": unit,
            "coarse.row": coarse_row,
            "coarse.first": coarse_first,
            "unit.n_spikes": np.bincount(unit, minlength=len(session.units)).astype(np.int64),
            **segment_columns(segments, row),
        }
        return Baked(freeze(columns), {"outside_segments": spikes_outside(spikes, segments)})

    def check(self, columns: Columns) -> None:
        int64 = np.dtype(np.int64)
        wanted = dict.fromkeys(("time_ns", "coarse.row", "coarse.first", "unit.n_spikes"), (int64, 1))
        require_columns(columns, wanted | {"unit": (np.dtype(np.int32), 1)})
        n_spikes = len(columns["time_ns"])
        require_shape(columns, (n_spikes,), ["unit"])
        require_within(columns, "unit", 0, len(columns["unit.n_spikes"]))
        require_segments(columns, n_spikes)
        start_ns, row = columns["segment.start_ns"], columns["segment.row"]
        require_order(columns, "time_ns", row)
        entries = _coarse_entries(start_ns, columns["segment.stop_ns"])
        require_offsets(columns, "coarse.first", len(entries), len(columns["coarse.row"]))
        first = columns["coarse.first"]
        require_equal(columns, "coarse.first", np.concatenate([[0], np.cumsum(entries)]), "that of the segments")
        for g in range(len(entries)):
            own = columns["time_ns"][row[g] : row[g + 1]]
            if own.size and (own[0] < start_ns[g] or own[-1] >= columns["segment.stop_ns"][g]):
                message = f"column 'time_ns' holds {own[0]} to {own[-1]} in segment {g}, which is not there"
                raise ArtefactError(message)
            step = start_ns[g] + np.arange(entries[g]) * COARSE_NS
            if not np.array_equal(columns["coarse.row"][first[g] : first[g + 1]], row[g] + np.searchsorted(own, step)):
                message = f"column 'coarse.row' does not say where the steps of segment {g} begin in 'time_ns'"
                raise ArtefactError(message)

    def _rows(self, columns: Columns, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[B]`` twice: the first row of each window's spikes, and the one after the last."""
        from spiketok.tokens.schemes.kernels import spikes as kernels

        low, high = np.empty(len(windows), np.int64), np.empty(len(windows), np.int64)
        kernels.spike_rows(
            columns["time_ns"],
            columns["coarse.row"],
            columns["coarse.first"],
            COARSE_NS,
            columns["segment.start_ns"],
            windows.segment,
            windows.start_ns,
            windows.length_ns,
            low,
            high,
        )
        return low, high

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, len(columns["unit.n_spikes"]))
        return self._lengths(columns, windows, *self._rows(columns, windows), ALL_KEPT if keep is None else keep)

    def _lengths(
        self, columns: Columns, windows: Windows, low: np.ndarray, high: np.ndarray, keep: np.ndarray
    ) -> np.ndarray:
        from spiketok.tokens.schemes.kernels import spikes as kernels

        length, n_units = np.empty(len(low), np.int64), len(columns["unit.n_spikes"])
        if self.chunk_ns:
            kernels.chunk_lengths(
                columns["time_ns"],
                columns["unit"],
                low,
                high,
                windows.start_ns,
                windows.length_ns,
                self.chunk_ns,
                keep,
                n_units,
                length,
            )
        else:
            lengths = kernels.first_lengths if self.first_only else kernels.spike_lengths
            lengths(columns["unit"], low, high, keep, n_units, self.start_end, length)
        return length

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        dtypes = {"time": np.float32, "unit": np.int32, "type": np.uint8} | (
            {"chunk": np.int32} if self.chunk_ns else {}
        )
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
        from spiketok.tokens.schemes.kernels import spikes as kernels

        keep = ALL_KEPT if keep is None else keep
        n_units = len(columns["unit.n_spikes"])
        unit_row = unit_rows(unit_row, n_units)
        low, high = self._rows(columns, windows)
        if length is None:
            length = self._lengths(columns, windows, low, high, keep)
        spikes = (columns["time_ns"], columns["unit"], low, high, windows.start_ns, windows.length_ns)
        cut = (length, keep, unit_row)
        if self.chunk_ns:
            kernels.fill_chunks(*spikes, self.chunk_ns, *cut, row, out["time"], out["unit"], out["type"], out["chunk"])
        elif self.first_only:
            by_unit = self.order == "unit"
            kernels.fill_first(*spikes, *cut, self.start_end, by_unit, row, out["time"], out["unit"], out["type"])
        else:
            fill = kernels.fill_spikes if self.order == "time" else kernels.fill_by_unit
            fill(*spikes, *cut, self.start_end, row, out["time"], out["unit"], out["type"])

    def chunk_offsets(self, tokens: Tokens, windows: Windows) -> np.ndarray:
        """int64 ``[B, n_chunks + 1]``: the row in the tokens' columns at which each chunk begins, and the last ends.

        Raises:
            UsageError: the scheme has no chunks.
        """
        if not self.chunk_ns:
            message = "per-spike without chunk_ns has no chunks"
            raise UsageError(message)
        return _offsets(tokens, tokens.columns["chunk"], windows.length_ns // self.chunk_ns)

    def unit_offsets(
        self, tokens: Tokens, windows: Windows, n_units: int, unit_row: np.ndarray | None = None
    ) -> np.ndarray:
        """int64 ``[B, N + 1]``: the row in the tokens' columns at which each unit begins, and the last ends.

        A unit that was dropped, or is silent in a cut without START and END, has no rows.

        Args:
            unit_row: int32 ``[N]``, what was given to the cut; all different.

        Raises:
            UsageError: the tokens are not in order of unit, or rows of ``unit_row`` are shared.
        """
        if self.order != "unit":
            message = f"per-spike in order of {self.order} has no rows of one unit: set order to unit"
            raise UsageError(message)
        unit = tokens.columns["unit"]
        if unit_row is not None:
            order = np.argsort(unit_row)
            if (np.diff(unit_row[order]) == 0).any():
                message = "unit_row gives two units one row: their tokens cannot be told apart"
                raise UsageError(message)
            unit = order[np.searchsorted(unit_row, unit, sorter=order)]
        return _offsets(tokens, unit, n_units)

    def spikes_held(self, columns: Columns) -> int:
        return len(columns["time_ns"])

    def empty(self, tokens: Tokens) -> np.ndarray:
        return tokens.columns["type"] != SPIKE

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """The spikes of the kept units, each at a whole nanosecond that float32 seconds cannot tell from its own."""
        spikes = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            spike = tokens.columns["type"][rows] == SPIKE
            time, unit = tokens.columns["time"][rows][spike], tokens.columns["unit"][rows][spike]
            if self.chunk_ns:
                chunk = tokens.columns["chunk"][rows][spike].astype(np.int64)
                time_ns = chunk * self.chunk_ns + _whole_ns(time, unit, chunk, self.chunk_ns)
            elif self.order == "unit":
                time_ns = _whole_ns(time, unit, unit, windows.length_ns)
                order = np.lexsort((unit, time_ns))
                time_ns, unit = time_ns[order], unit[order]
            else:
                time_ns = _whole_ns(time, unit, np.zeros_like(unit), windows.length_ns)
            spikes.append(Spikes(time_ns + windows.start_ns[b], unit))
        return spikes


def _offsets(tokens: Tokens, group: np.ndarray, n_groups: int) -> np.ndarray:
    """int64 ``[B, n_groups + 1]``: where each window's groups begin, whose tokens are in order of group."""
    n_windows = len(tokens.offset) - 1
    window = np.repeat(np.arange(n_windows) * n_groups, np.diff(tokens.offset))
    size = np.bincount(window + group, minlength=n_windows * n_groups)
    begin = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return begin[np.arange(n_windows)[:, None] * n_groups + np.arange(n_groups + 1)]


def _coarse_first(segments: Intervals) -> np.ndarray:
    """int64 ``[G + 1]``: where each segment's part of the look-up table begins.

    One entry for each step that begins inside the segment or at its end, and one after.
    """
    entries = _coarse_entries(segments.start_ns, segments.stop_ns)
    return np.concatenate([[0], np.cumsum(entries)]).astype(np.int64)


def _coarse_entries(start_ns: np.ndarray, stop_ns: np.ndarray) -> np.ndarray:
    """int64 ``[G]``: how many entries of the look-up table each segment has."""
    return (stop_ns - start_ns) // COARSE_NS + 2


def _seconds(ns: np.ndarray) -> np.ndarray:
    return (ns.astype(np.float64) * 1e-9).astype(np.float32)


def _whole_ns(time: np.ndarray, unit: np.ndarray, part: np.ndarray, length_ns: int) -> np.ndarray:
    """int64: the whole nanosecond below ``length_ns`` that is nearest to each float32 time and keeps the spikes' order.

    Times count from the start of each spike's part (a chunk, a unit's own run, or the whole window). Different
    nanoseconds can share one float32 time. Where the unit falls inside such a run, the spikes were at rising
    nanoseconds, which the order of ties by unit would lose; they are put one nanosecond apart, for which the run's
    float32 cell has room because the original times had it.
    """
    nearest = np.minimum(np.rint(time.astype(np.float64) * 1e9).astype(np.int64), length_ns - 1)
    same = (time[1:] == time[:-1]) & (part[1:] == part[:-1])
    fall = np.concatenate([[False], same & (unit[1:] < unit[:-1])])
    if not fall.any():
        return nearest
    first = np.concatenate([[True], ~same])
    run = np.cumsum(first) - 1
    falls = np.bincount(run, weights=fall).astype(np.int64)
    before = np.cumsum(fall)
    step = before - before[first][run]  # falls since the run's first spike, which is none itself
    return np.minimum(nearest, _last_ns(time, length_ns) - falls[run]) + step


def _last_ns(time: np.ndarray, length_ns: int) -> np.ndarray:
    """int64: the last nanosecond below ``length_ns`` that has this float32 time."""
    above = np.nextafter(time, np.float32(np.inf)).astype(np.float64)
    last = np.floor((time.astype(np.float64) + above) * 0.5e9).astype(np.int64) + 1
    last = np.minimum(last, length_ns - 1)
    while (late := _seconds(last) > time).any():
        last -= late
    return last
