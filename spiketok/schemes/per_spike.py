"""One token a spike, as POYO reads them (Azabou et al., NeurIPS 2023, arXiv 2310.16046).

A window's tokens are START and END for each unit, unit by unit, then the spikes in order of time (ties by unit): the
order of torch_brain's ``POYO.tokenize``, which is not sorted by time as a whole. START stands at 0 and END at the
window's length for every unit, silent ones too: they tell the model which units were there to be heard. A unit that
is dropped leaves neither.

Unusual here:
- The shard knows no vocabulary: rows of a model's unit table are put in by the cut.
- Times stay int64 ns until the cut writes ``float32(float64(ns since the window's start) * 1e-9)``. Float32 resolves
  60 ns at the end of a one-second window and 1 us at the end of a ten-second one, which is what a cut loses.
- A table of the row at which each 100 ms begins makes finding a window's spikes one look-up and a search among few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording import Intervals, Session, SessionInfo, Spikes
from spiketok.schemes.base import (
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
)

COARSE_NS = 100_000_000  # the step of the look-up table; part of version 1 of the format
SPIKE, START, END = 0, 1, 2
ALL_KEPT = np.zeros((0, 0), np.bool_)


@dataclass(frozen=True)
class PerSpike(Scheme):
    """Time, unit and type of each spike.

    Columns: ``time_ns`` int64 and ``unit`` int32, segment behind segment, each in order of time and unit; where
    segments overlap, a spike stands in each of them. ``coarse.row`` and ``coarse.first`` are the look-up table,
    ``unit.n_spikes`` int64 ``[N]`` counts the rows of each unit.

    A cut gives ``time`` float32 (seconds from the window's start), ``unit`` int32 (rows of ``unit_row`` where given),
    and ``type`` uint8 (0 spike, 1 START, 2 END).

    Args:
        start_end: whether the cut writes START and END. Without them a window of silence has no tokens at all.

    >>> from spiketok.schemes import PerSpike
    >>> PerSpike().grid_ns
    1
    """

    start_end: bool = True

    name: ClassVar[str] = "per-spike"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("POYO", "POYO+", "POSSM")
    token: ClassVar[str] = "one spike, and START and END of each unit"
    keeps: ClassVar[str] = "every spike, its unit, its time to float32 of the window (60 ns at 1 s)"
    loses: ClassVar[str] = "nothing else"

    def __post_init__(self) -> None:
        if type(self.start_end) is not bool:
            message = f"per-spike: start_end is {self.start_end!r}, must be true or false"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return 1

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = info.n_spikes * _depth(segments)
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

    def _rows(self, columns: Columns, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        """int64 ``[B]`` twice: the first row of each window's spikes, and the one behind the last."""
        from spiketok.schemes.kernels import spikes as kernels

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
        return self._lengths(columns, *self._rows(columns, windows), ALL_KEPT if keep is None else keep)

    def _lengths(self, columns: Columns, low: np.ndarray, high: np.ndarray, keep: np.ndarray) -> np.ndarray:
        from spiketok.schemes.kernels import spikes as kernels

        length, n_units = np.empty(len(low), np.int64), len(columns["unit.n_spikes"])
        kernels.spike_lengths(columns["unit"], low, high, keep, n_units, self.start_end, length)
        return length

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {"time": (np.dtype(np.float32), ()), "unit": (np.dtype(np.int32), ()), "type": (np.dtype(np.uint8), ())}

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
        from spiketok.schemes.kernels import spikes as kernels

        keep = ALL_KEPT if keep is None else keep
        n_units = len(columns["unit.n_spikes"])
        if unit_row is None:
            unit_row = np.arange(n_units, dtype=np.int32)
        elif unit_row.dtype != np.int32 or unit_row.shape != (n_units,):
            message = f"unit_row is {unit_row.dtype} {unit_row.shape}, must be int32 ({n_units},): one for each unit"
            raise UsageError(message)
        low, high = self._rows(columns, windows)
        if length is None:
            length = self._lengths(columns, low, high, keep)
        kernels.fill_spikes(
            columns["time_ns"],
            columns["unit"],
            low,
            high,
            windows.start_ns,
            windows.length_ns,
            length,
            keep,
            unit_row,
            self.start_end,
            row,
            out["time"],
            out["unit"],
            out["type"],
        )

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
            time_ns = _whole_ns(time, unit, windows.length_ns) + windows.start_ns[b]
            spikes.append(Spikes(time_ns, unit))
        return spikes


def _coarse_first(segments: Intervals) -> np.ndarray:
    """int64 ``[G + 1]``: where each segment's part of the look-up table begins.

    One entry for each step that begins inside the segment or at its end, and one behind.
    """
    entries = (segments.stop_ns - segments.start_ns) // COARSE_NS + 2
    return np.concatenate([[0], np.cumsum(entries)]).astype(np.int64)


def _depth(segments: Intervals) -> int:
    """The largest number of segments that hold one moment."""
    time_ns = np.concatenate(
        [segments.stop_ns, segments.start_ns]
    )  # stops first: half-open segments that touch share none
    change = np.repeat([-1, 1], len(segments))
    order = np.argsort(time_ns, kind="stable")
    return int(np.cumsum(change[order]).max(initial=0))


def _seconds(ns: np.ndarray) -> np.ndarray:
    return (ns.astype(np.float64) * 1e-9).astype(np.float32)


def _whole_ns(time: np.ndarray, unit: np.ndarray, length_ns: int) -> np.ndarray:
    """int64: the whole nanosecond below ``length_ns`` that is nearest to each float32 time and keeps the spikes' order.

    Different nanoseconds can share one float32 time. Where the unit falls inside such a run, the spikes were at rising
    nanoseconds, which the order of ties by unit would lose; they are put one nanosecond apart, for which the run's
    float32 cell has room because the original times had it.
    """
    nearest = np.minimum(np.rint(time.astype(np.float64) * 1e9).astype(np.int64), length_ns - 1)
    same = time[1:] == time[:-1]
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
