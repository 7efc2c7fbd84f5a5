"""Sparse counts: one token for each unit that fired in a bin.

What is unusual: a silent unit costs nothing, so that a window has as many tokens as there were (bin, unit) pairs with a
spike; no loop is compiled, numpy alone does it.

Shape letters: B windows, N units, G segments, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import NS_PER_S, Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import require_columns, require_order, require_shape, require_within
from spiketok.tokens.schemes.base import (
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

INT64, INT32 = np.dtype(np.int64), np.dtype(np.int32)


@dataclass(frozen=True)
class SparseCounts(Scheme):
    """Bin, unit and count of each unit that fired in a bin, in order of bin and unit.

    Columns: ``bin`` int64 (counted through all segments, as bins follow one after the other), ``unit`` and ``count``
    int32, ``n_units`` int64 ``[1]``; a spike is in each of the segments that overlap there.

    A cut gives ``time`` float32 (the middle of the bin, seconds from the window's start), ``unit`` int32 (rows of
    ``unit_row`` where given) and ``count`` int32.

    Args:
        bin_ns: the length of a bin.
    """

    bin_ns: int = 20_000_000

    name: ClassVar[str] = "sparse-counts"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("unit-sum",)
    token: ClassVar[str] = "one unit that fired in a bin"
    keeps: ClassVar[str] = "the count of each unit in each bin"
    loses: ClassVar[str] = "where in its bin a spike lies"

    def __post_init__(self) -> None:
        if type(self.bin_ns) is not int or self.bin_ns < 1:
            message = f"sparse-counts: bin_ns is {self.bin_ns!r}, must be a whole number from 1"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = info.n_spikes * depth(segments)  # as if each spike were alone in its bin
        return {
            "bin": ColumnSpec(INT64, (), rows),
            "unit": ColumnSpec(INT32, (), rows),
            "count": ColumnSpec(INT32, (), rows),
            "n_units": ColumnSpec(INT64, (), 1),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        spikes, n_units = session.spikes, len(session.units)
        first = grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)
        keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for start, stop, row in zip(segments.start_ns, segments.stop_ns, first[:-1], strict=True):
            own = spikes.window(int(start), int(stop))
            place = row + (own.time_ns - start) // self.bin_ns
            key, count = np.unique(place * n_units + own.unit, return_counts=True)
            keys.append(key)
            counts.append(count)
        row = np.concatenate([[0], np.cumsum([len(key) for key in keys[1:]])]).astype(np.int64)
        key = np.concatenate(keys)
        columns = {
            "bin": key // n_units,
            "unit": (key % n_units).astype(np.int32),
            "count": np.concatenate(counts).astype(np.int32),
            "n_units": np.array([n_units], np.int64),
            **segment_columns(segments, row),
        }
        return Baked(freeze(columns), {"outside_segments": spikes_outside(spikes, segments)})

    def check(self, columns: Columns) -> None:
        require_columns(columns, {"bin": (INT64, 1), "unit": (INT32, 1), "count": (INT32, 1), "n_units": (INT64, 1)})
        require_columns(
            columns, {"segment.start_ns": (INT64, 1), "segment.stop_ns": (INT64, 1), "segment.row": (INT64, 1)}
        )
        n_tokens = len(columns["bin"])
        require_shape(columns, (1,), ["n_units"])
        require_shape(columns, (n_tokens,), ["unit", "count"])
        bins = int(grid_rows(columns["segment.start_ns"], columns["segment.stop_ns"], self.bin_ns)[-1])
        require_within(columns, "bin", 0, bins)
        require_order(columns, "bin", np.zeros(0, np.int64))
        require_within(columns, "unit", 0, int(columns["n_units"][0]))
        require_within(columns, "count", 1, 2**31 - 1)

    def _rows(self, columns: Columns, windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 ``[B]`` each: the first bin of each window, its first token and the one after its last."""
        start_ns = columns["segment.start_ns"]
        first = grid_rows(start_ns, columns["segment.stop_ns"], self.bin_ns)[windows.segment]
        first = first + (windows.start_ns - start_ns[windows.segment]) // self.bin_ns
        low = np.searchsorted(columns["bin"], first)
        return first, low, np.searchsorted(columns["bin"], first + windows.length_ns // self.bin_ns)

    def _kept(self, columns: Columns, b: int, low: int, high: int, keep: np.ndarray | None) -> np.ndarray:
        rows = np.arange(low, high)
        return rows if keep is None else rows[keep[b, columns["unit"][low:high]]]

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, int(columns["n_units"][0]))
        _, low, high = self._rows(columns, windows)
        if keep is None:
            return (high - low).astype(np.int64)
        held = [len(self._kept(columns, b, *ends, keep)) for b, ends in enumerate(zip(low, high, strict=True))]
        return np.array(held, np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {"time": (np.dtype(np.float32), ()), "unit": (INT32, ()), "count": (INT32, ())}

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
        written = unit_rows(unit_row, int(columns["n_units"][0]))
        first, low, high = self._rows(columns, windows)
        for b in range(len(windows)):
            tokens = self._kept(columns, b, low[b], high[b], keep)
            own = slice(row[b], row[b] + len(tokens))
            middle_ns = (columns["bin"][tokens] - first[b]) * self.bin_ns + self.bin_ns // 2
            out["time"][own] = middle_ns / NS_PER_S
            out["unit"][own] = written[columns["unit"][tokens]]
            out["count"][own] = columns["count"][tokens]

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["count"].sum(dtype=np.int64))

    def empty(self, tokens: Tokens) -> np.ndarray:
        return tokens.columns["count"] == 0

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """Each spike at the start of its bin."""
        found = []
        for b, start_ns in enumerate(windows.start_ns):
            own = {name: c[tokens.offset[b] : tokens.offset[b + 1]] for name, c in tokens.columns.items()}
            place = np.floor(own["time"].astype(np.float64) * NS_PER_S / self.bin_ns).astype(np.int64)
            found.append(
                Spikes(np.repeat(start_ns + place * self.bin_ns, own["count"]), np.repeat(own["unit"], own["count"]))
            )
        return found
