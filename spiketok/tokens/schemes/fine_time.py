"""Counts that keep their fine structure: for each unit and bin how many spikes, when the first and the last, and how
regular they were between. No published model reads it; here ``ndt2`` and ``spint`` do, with ``model.fine_time``.

A bin of 20 ms says nothing of the 20 ms: a spike at its start and one at its end are the same count. Bins of 1 ms say
it, at twenty times the tokens. Here the tokens stay one a bin and each unit brings five numbers instead of one, so
that latencies and bursts reach a model that reads bins.

Unusual here:
- Baked sparse, because most units are silent in most bins: only the *cells* (one unit in one bin) with a spike are
  held, 17 bytes each; the cut lays them out dense. Dense, 1000 units x 1 h at 20 ms would be 3 GB.
- All but the coefficient of variation are whole nanoseconds, and that one is the float32 of a quotient of whole
  numbers: with n intervals d that sum to S and whose squares sum to Q, ``sqrt(n Q - S^2) / S``. This is the population
  standard deviation over the mean, without rounding before the root. It needs bins of at most 100 ms to stay inside 64
  bits.
- :meth:`FineTime.detokenize` finds whole-ns intervals with that very coefficient, so that nothing the tokens say is
  lost on the way back: only where inside the bin the spikes between the first and the last were.
- Counts are uint8 and stop at 255: all five numbers are those of a unit's first 255 spikes in the bin; the later ones
  are counted in ``Baked.lost["saturated"]``.
- Bins, their anchor, and ``observed`` are those of ``binned``.
- ``history_bins`` above 1 puts so many bins less one before each window, as ``neuron`` has them: before a segment's
  start they are zeros that were not observed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import require_columns, require_offsets, require_shape, require_within
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
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.tokens.schemes.bins import observed_bins

UINT8, INT32, INT64, FLOAT32 = (np.dtype(t) for t in (np.uint8, np.int32, np.int64, np.float32))
MAX_BIN_NS = 100_000_000  # 254 intervals times the square of this is still an int64
CELL = {"unit": INT32, "count": UINT8, "first_ns": INT32, "last_ns": INT32, "cv_isi": FLOAT32}
DENSE = {"count": UINT8, "first_ns": INT32, "last_ns": INT32, "mean_isi_ns": FLOAT32, "cv_isi": FLOAT32}


@dataclass(frozen=True)
class FineTime(Scheme):
    """Count, first and last spike, mean and variation of the intervals of each unit in bins of ``bin_ns``.

    Columns: the C cells with a spike, bin by bin and then by unit: ``unit`` int32, ``count`` uint8, ``first_ns`` and
    ``last_ns`` int32 (since the bin's start), ``cv_isi`` float32, all ``[C]``; ``cell.row`` int64 ``[T + 1]``, each
    bin's first cell; ``unit.n_spikes`` int64 ``[N]``, the spikes held of each unit; ``observed`` uint8 ``[T]``, and
    ``unit_observed`` uint8 ``[T, N]`` where the session's units were not all recorded at the same times.

    Each segment has ``history_bins - 1`` bins without a cell before its first; ``segment.row`` is the first of these.

    A cut gives one token a bin, the ``history_bins - 1`` bins before the window first, with ``count`` uint8,
    ``first_ns`` and ``last_ns`` int32, ``mean_isi_ns`` and ``cv_isi`` float32, all ``[T, N]``, and ``observed`` and
    ``unit_observed`` as above. Nothing is NaN: without a spike all are 0; with one, ``first_ns`` equals ``last_ns`` and
    the mean and the variation of no interval are 0; with two, the variation of the one interval is 0. A dropped unit is
    0 throughout. ``unit_row`` has no effect: a unit is a position, not a token.

    Args:
        history_bins: how many bins up to each bin of a window a reader sees, that bin among them.

    >>> from spiketok.tokens.schemes import FineTime
    >>> FineTime(bin_ns=50_000_000, history_bins=3).lookback_ns
    100000000
    """

    bin_ns: int = 20_000_000
    history_bins: int = field(default=1, metadata=CAME_LATER)

    name: ClassVar[str] = "fine-time"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("any model that reads bins",)
    token: ClassVar[str] = "one bin of the whole population, five numbers a unit"
    keeps: ClassVar[str] = "each unit's count, first and last spike to the ns, mean and variation of its intervals"
    loses: ClassVar[str] = "time of the spikes between the first and the last; counts above 255 (counted)"

    def __post_init__(self) -> None:
        if type(self.bin_ns) is not int or not 1 <= self.bin_ns <= MAX_BIN_NS:
            message = f"fine-time: bin_ns is {self.bin_ns!r}, must be a whole number from 1 to {MAX_BIN_NS} (100 ms)"
            raise UsageError(message)
        if type(self.history_bins) is not int or self.history_bins < 1:
            message = f"fine-time: history_bins is {self.history_bins!r}, must be a whole number of at least 1"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    @property
    def lookback_ns(self) -> int:
        return self.bin_ns * (self.history_bins - 1)

    def _padded(self, segments: Intervals) -> tuple[Intervals, np.ndarray]:
        """The segments with the time before them, and int64 ``[G + 1]``: each one's first bin."""
        padded = Intervals(segments.start_ns - self.lookback_ns, segments.stop_ns)
        return padded, grid_rows(padded.start_ns, padded.stop_ns, self.bin_ns)

    def _n_rows(self, length_ns: int) -> int:
        """Bins that a cut gives of a window."""
        return length_ns // self.bin_ns + self.history_bins - 1

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        bins = int(self._padded(segments)[1][-1])
        cells = min(bins * info.n_units, info.n_spikes * depth(segments))
        return {
            **{name: ColumnSpec(dtype, (), cells) for name, dtype in CELL.items()},
            "cell.row": ColumnSpec(INT64, (), bins + 1),
            "unit.n_spikes": ColumnSpec(INT64, (), info.n_units),
            "observed": ColumnSpec(UINT8, (), bins),
            "unit_observed": ColumnSpec(UINT8, (info.n_units,), bins),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        from spiketok.tokens.schemes.kernels import fine as kernels

        spikes = session.spikes
        padded, row = self._padded(segments)
        low = np.searchsorted(spikes.time_ns, segments.start_ns)
        high = np.searchsorted(spikes.time_ns, segments.stop_ns)
        seen, squares, held = np.zeros((3, len(session.units)), np.int64)
        pieces = [
            (spikes.time_ns[low[g] : high[g]], spikes.unit[low[g] : high[g]], padded.start_ns[g], self.bin_ns)
            for g in range(len(segments))
        ]
        cell_row = np.zeros(int(row[-1]) + 1, np.int64)
        for g, piece in enumerate(pieces):
            kernels.count_cells(*piece, seen, cell_row[row[g] + 1 : row[g + 1] + 1])
        np.cumsum(cell_row, out=cell_row)
        cells = {name: np.zeros(int(cell_row[-1]), dtype) for name, dtype in CELL.items()}
        saturated = 0
        for g, piece in enumerate(pieces):
            first_cell = cell_row[row[g] : row[g + 1]]
            saturated += kernels.fill_cells(*piece, first_cell, seen, squares, held, *cells.values())
        columns = {
            **cells,
            "cell.row": cell_row,
            "unit.n_spikes": held,
            **self._observed(session, padded, row),
            **segment_columns(segments, row),
        }
        lost = {"outside_segments": spikes_outside(spikes, segments), "saturated": int(saturated)}
        return Baked(freeze(columns), lost)

    def _observed(self, session: Session, padded: Intervals, row: np.ndarray) -> dict[str, np.ndarray]:
        """As :func:`observed_bins`; nothing before a segment's start is observed."""
        flags = observed_bins(session, padded, row, self.bin_ns)
        for column in flags.values():
            for first in row[:-1]:
                column[first : first + self.history_bins - 1] = 0
        return flags

    def check(self, columns: Columns) -> None:
        cells = {name: (dtype, 1) for name, dtype in CELL.items()}
        rows = {"cell.row": (INT64, 1), "unit.n_spikes": (INT64, 1), "observed": (UINT8, 1)}
        require_columns(columns, cells | rows, {"unit_observed": (UINT8, 2)})
        n_cells, n_units, n_rows = len(columns["unit"]), len(columns["unit.n_spikes"]), len(columns["observed"])
        require_shape(columns, (n_cells,), CELL)
        require_shape(columns, (n_rows, n_units), ["unit_observed"])
        require_within(columns, "unit", 0, n_units)
        require_offsets(columns, "cell.row", n_rows, n_cells)
        require_bins(columns, self.bin_ns, n_rows, self.lookback_ns)

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["unit.n_spikes"].sum())

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, len(columns["unit.n_spikes"]))
        return np.full(len(windows), self._n_rows(windows.length_ns), np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        item = (len(columns["unit.n_spikes"]),)
        flags = {name: (UINT8, columns[name].shape[1:]) for name in self._flags(columns)}
        return {name: (dtype, item) for name, dtype in DENSE.items()} | flags

    @staticmethod
    def _flags(columns: Columns) -> list[str]:
        return [name for name in ("observed", "unit_observed") if name in columns]

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
        from spiketok.tokens.schemes.kernels import counts as row_kernels
        from spiketok.tokens.schemes.kernels import fine as kernels

        segment = windows.segment
        first = columns["segment.row"][segment]
        first = first + (windows.start_ns - columns["segment.start_ns"][segment]) // self.bin_ns
        n_rows, kept = self._n_rows(windows.length_ns), ALL_KEPT if keep is None else keep
        cells, dense = (columns[name] for name in CELL), (out[name] for name in DENSE)
        kernels.spread_cells(columns["cell.row"], *cells, first, n_rows, kept, row, *dense)
        for name in self._flags(columns):
            source, target = columns[name], out[name]
            if source.ndim == 1:
                row_kernels.copy_rows(source.reshape(-1, 1), first, n_rows, ALL_KEPT, row, target.reshape(-1, 1))
            else:
                row_kernels.copy_rows(source, first, n_rows, kept, row, target)

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["count"].any(axis=1)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """As many spikes as were counted, the first and the last in their place; with a history those before too.

        Those between are put so that the intervals have the variation that the token says, the longest first: which
        interval was the longest is lost.
        """
        return [self._spikes(tokens, windows, b) for b in range(len(windows))]

    def _spikes(self, tokens: Tokens, windows: Windows, b: int) -> Spikes:
        rows = slice(tokens.offset[b], tokens.offset[b + 1])
        count, first, last, cv = (tokens.columns[name][rows] for name in ("count", "first_ns", "last_ns", "cv_isi"))
        index, unit = np.nonzero(count)
        times = []
        for k, n in zip(index.tolist(), unit.tolist(), strict=True):
            start = int(windows.start_ns[b]) - self.lookback_ns + k * self.bin_ns + int(first[k, n])
            intervals = whole_intervals(int(count[k, n]) - 1, int(last[k, n]) - int(first[k, n]), cv[k, n])
            times.append(start + np.cumsum([0, *intervals], dtype=np.int64))
        time_ns = np.concatenate(times) if times else np.zeros(0, np.int64)
        unit = np.repeat(unit.astype(np.int32), count[index, unit])
        order = np.lexsort((unit, time_ns))
        return Spikes(time_ns[order], unit[order])


def whole_intervals(n: int, total: int, cv: np.float32) -> list[int]:
    """n whole numbers of at least 0 with this sum, whose coefficient of variation is this float32; largest first.

    Args:
        n: at least 0. total: their sum. cv: float32 of ``sqrt(n Q - total^2) / total`` for the sum of squares Q of any
            such numbers.

    Raises:
        UsageError: there are none: the numbers are not of a token.

    >>> import numpy as np
    >>> whole_intervals(3, 60, np.float32(0.0))
    [20, 20, 20]
    """
    if n == 0:
        return []
    if total == 0:
        return [0] * n
    # the sums of squares that have this float32 are in a row, because rounding and root keep order
    variances = range((n - 1) * total * total + 1)
    low = bisect.bisect_left(variances, cv, key=lambda v: _variation(v, total))
    high = bisect.bisect_right(variances, cv, key=lambda v: _variation(v, total)) - 1
    found = _parts(n, total, -((-low - total * total) // n), (high + total * total) // n, total)
    if found is None:
        message = (
            f"no {n} intervals of whole ns that sum to {total} ns have the variation {cv}: not tokens of fine-time"
        )
        raise UsageError(message)
    return found


def _variation(variance: int, total: int) -> np.float32:
    """The rule of the kernel: float64 throughout, one rounding to float32 at the end."""
    return np.float32(math.sqrt(variance) / total)


def _parts(n: int, total: int, low: int, high: int, most: int) -> list[int] | None:
    """n whole numbers from 0 to ``most`` with this sum and a sum of squares from low to high; None where none are.

    Takes the largest number first, as large as the squares allow: what is left is then nearly equal parts with a small
    excess of squares, which falls to about its root with each further number. So the search hardly ever turns back.
    """
    most = min(most, total)
    part, larger = divmod(total, n)
    least = n * part * part + larger * (2 * part + 1)  # parts as equal as whole numbers can be
    if least > high or low > most * total or part + (larger > 0) > most:
        return None
    if least >= low:
        return [part + 1] * larger + [part] * (n - larger)
    if n == 1:
        return None
    if n == 2:
        return _two_parts(total, low, high, most)
    top = min(most, (total + math.isqrt((n - 1) * (n * high - total * total))) // n)
    for number in range(top, max(-(-low // total), -(-total // n)) - 1, -1):
        square = number * number
        rest = _parts(n - 1, total - number, low - square, high - square, number)
        if rest is not None:
            return [number, *rest]
    return None


def _two_parts(total: int, low: int, high: int, most: int) -> list[int] | None:
    """:func:`_parts` of two numbers, by their difference: its square is twice the squares less the sum squared."""
    difference = math.isqrt(max(0, 2 * low - total * total - 1)) + (2 * low > total * total)
    difference += (difference - total) % 2
    if difference**2 > 2 * high - total * total or (total + difference) // 2 > most:
        return None
    return [(total + difference) // 2, (total - difference) // 2]
