"""Each unit's binned series as a token: the tokens of models in which neurons attend to neurons.

Three views of the same unit-major counts:

- ``trial``: the whole window is one series, one token a unit. STNDT's spatial stream (Le and Shlizerman, NeurIPS 2022,
  arXiv 2206.04727; trungle93/STNDT), which reads 5 ms bins of whole trials.
- ``history``: for every bin of the window, each unit's ``history_bins`` bins that end with it, one token a unit and
  bin. A window of one bin is one sample of SPINT (Le et al., NeurIPS 2025, arXiv 2507.08402): 20 ms bins, histories of
  100 (FALCON M1), 50 (M2) and 700 (H1) bins. There are zeros before a segment's start.
- ``patch``: each unit's consecutive patches of ``patch_bins`` bins, one token a patch; units without a spike in the
  window have none. NuCLR (Arora et al., NeurIPS 2025, arXiv 2512.01199): 20 ms bins, patches of 50, windows of 10 s.

Unusual here:
- Counts are kept unit by unit with the leading zeros in place, so that every token is one contiguous copy, and spikes
  are counted into that layout directly: nothing is turned over.
- ``observed`` goes with every series. The leading zeros, the gaps of a recording and a unit that was not recorded
  are zeros that are not silence.

Differs from the references: SPINT's data module only has histories that end with an evaluated bin, which here is the
choice of windows. NuCLR has int16 counts; here they are uint8, and the spikes above 255 are counted in
``Baked.lost["saturated"]``. None of them says which zeros were not recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import require_columns, require_shape
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
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
    unit_rows,
)
from spiketok.tokens.schemes.bins import bin_starts, bins_inside

UINT8, INT32 = np.dtype(np.uint8), np.dtype(np.int32)
VIEWS = ("trial", "history", "patch")


@dataclass(frozen=True)
class Neuron(Scheme):
    """Counts of one unit in successive bins of ``bin_ns``.

    Columns: ``counts`` uint8 ``[N, T]``, and ``observed`` uint8 ``[T]``, or ``unit_observed`` uint8 ``[N, T]`` where
    the session's units were not all recorded at the same times. Segments follow one after the other, each with
    ``history_bins - 1`` columns of zeros before it in the view ``history``; ``segment.row`` is the first of each.

    A cut gives ``series`` uint8 ``[item]`` and ``observed`` uint8 ``[item]`` (1 where the bin was recorded from its
    first to its last nanosecond), ``unit`` int32 (rows of ``unit_row`` where given) and ``time`` int32:

    - ``trial``: item = the window's bins; ``time`` is 0. N tokens, by unit.
    - ``history``: item = ``history_bins``; ``time`` is the bin in the window that the series ends with. N tokens a bin,
      by bin and then unit, so that they reshape to ``[T, N, history_bins]``.
    - ``patch``: item = ``patch_bins``; ``time`` is the patch in the window. By unit and then patch, as in NuCLR.

    A dropped unit leaves no token. Lost: time within the bin, and spikes above 255 in one bin.

    Args:
        view: ``"trial"``, ``"history"`` or ``"patch"``.
        history_bins: bins of a series in the view ``history``. patch_bins: the same in the view ``patch``.

    >>> from spiketok.tokens.schemes import Neuron
    >>> Neuron(view="history", history_bins=50).lookback_ns
    980000000
    """

    bin_ns: int = 20_000_000
    view: str = "trial"
    history_bins: int = 100
    patch_bins: int = 50

    name: ClassVar[str] = "neuron"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("STNDT", "SPINT", "NuCLR")
    token: ClassVar[str] = "one unit's counts in successive bins"
    keeps: ClassVar[str] = "every spike's bin and unit"
    loses: ClassVar[str] = "time within the bin; counts above 255 (counted)"

    def __post_init__(self) -> None:
        for field in ("bin_ns", "history_bins", "patch_bins"):
            value = getattr(self, field)
            if type(value) is not int or value < 1:
                message = f"neuron: {field} is {value!r}, must be a whole number of at least 1"
                raise UsageError(message)
        if self.view not in VIEWS:
            message = f"neuron: view is {self.view!r}, must be one of {', '.join(VIEWS)}"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    @property
    def length_grid_ns(self) -> int:
        return self.bin_ns * (self.patch_bins if self.view == "patch" else 1)

    @property
    def lookback_ns(self) -> int:
        return self.bin_ns * (self.history_bins - 1) if self.view == "history" else 0

    def _padded(self, segments: Intervals) -> tuple[Intervals, np.ndarray]:
        """The segments with the time of their leading zeros, and int64 ``[G + 1]``: each one's first column."""
        padded = Intervals(segments.start_ns - self.lookback_ns, segments.stop_ns)
        return padded, grid_rows(padded.start_ns, padded.stop_ns, self.bin_ns)

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        _, row = self._padded(segments)
        n_columns = int(row[-1])
        return {
            "counts": ColumnSpec(UINT8, (n_columns,), info.n_units),
            "observed": ColumnSpec(UINT8, (), n_columns),
            "unit_observed": ColumnSpec(UINT8, (n_columns,), info.n_units),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        from spiketok.tokens.schemes.kernels import series as kernels

        spikes = session.spikes
        padded, row = self._padded(segments)
        counts = np.zeros((len(session.units), int(row[-1])), UINT8)
        low = np.searchsorted(spikes.time_ns, segments.start_ns)
        high = np.searchsorted(spikes.time_ns, segments.stop_ns)
        saturated = 0
        for g in range(len(segments)):
            time_ns, unit = spikes.time_ns[low[g] : high[g]], spikes.unit[low[g] : high[g]]
            saturated += int(kernels.count_series(time_ns, unit, padded.start_ns[g], self.bin_ns, row[g], counts))
        columns = {
            "counts": counts,
            **self._observed(session, segments, padded, row),
            **segment_columns(segments, row),
        }
        return Baked(freeze(columns), {"outside_segments": spikes_outside(spikes, segments), "saturated": saturated})

    def _observed(
        self, session: Session, segments: Intervals, padded: Intervals, row: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Which bins were recorded from their first to their last nanosecond, in the layout of ``counts``."""
        start_ns, size = bin_starts(padded, row, self.bin_ns), np.diff(row)
        whole = start_ns >= np.repeat(segments.start_ns, size)
        whole &= start_ns + self.bin_ns <= np.repeat(segments.stop_ns, size)
        if session.unit_observed is None:
            return {"observed": (whole & bins_inside(start_ns, self.bin_ns, session.observed)).astype(UINT8)}
        flags = np.empty((len(session.units), len(start_ns)), UINT8)
        for n in range(len(session.units)):
            own = session.unit_observed[n].reshape(-1, 2)
            flags[n] = whole & bins_inside(start_ns, self.bin_ns, Intervals(own[:, 0], own[:, 1]).union())
        return {"unit_observed": flags}

    def check(self, columns: Columns) -> None:
        by_unit = "unit_observed" in columns
        flags = {"unit_observed": (UINT8, 2)} if by_unit else {"observed": (UINT8, 1)}
        require_columns(columns, {"counts": (UINT8, 2)} | flags)
        shape = columns["counts"].shape
        require_shape(columns, shape if by_unit else shape[1:], flags)
        require_bins(columns, self.bin_ns, shape[1], self.lookback_ns)

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["counts"].sum(dtype=np.int64))

    def _first(self, columns: Columns, windows: Windows) -> np.ndarray:
        """int64 ``[B]``: the column at which the first series of each window begins."""
        since = windows.start_ns - columns["segment.start_ns"][windows.segment]
        return columns["segment.row"][windows.segment] + since // self.bin_ns

    def _steps(self, length_ns: int) -> tuple[int, int, int]:
        """Series of one unit in a window, columns from one to the next, and columns of each."""
        n_bins = length_ns // self.bin_ns
        if self.view == "history":
            return n_bins, 1, self.history_bins
        if self.view == "patch":
            return n_bins // self.patch_bins, self.patch_bins, self.patch_bins
        return 1, 0, n_bins

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        from spiketok.tokens.schemes.kernels import series as kernels

        check_cut(self, columns, windows, keep, len(columns["counts"]))
        n_steps, _, _ = self._steps(windows.length_ns)
        length = np.empty(len(windows), np.int64)
        kernels.series_lengths(
            columns["counts"],
            self._first(columns, windows),
            windows.length_ns // self.bin_ns,
            n_steps,
            ALL_KEPT if keep is None else keep,
            self.view == "patch",
            length,
        )
        return length

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        _, _, item = self._steps(length_ns)
        return {"series": (UINT8, (item,)), "observed": (UINT8, (item,)), "unit": (INT32, ()), "time": (INT32, ())}

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
        from spiketok.tokens.schemes.kernels import series as kernels

        n_units = len(columns["counts"])
        unit_row = unit_rows(unit_row, n_units)
        n_steps, step, _ = self._steps(windows.length_ns)
        kernels.fill_series(
            columns["counts"],
            columns["unit_observed"] if "unit_observed" in columns else columns["observed"].reshape(1, -1),
            self._first(columns, windows),
            windows.length_ns // self.bin_ns,
            n_steps,
            step,
            self.view == "history",
            ALL_KEPT if keep is None else keep,
            self.view == "patch",
            unit_row,
            row,
            out["series"],
            out["observed"],
            out["unit"],
            out["time"],
        )

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["series"].any(axis=1)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """As many spikes as were counted, all at their bin's middle; with histories, those before the window too."""
        _, step, _ = self._steps(windows.length_ns)
        spikes = []
        for b in range(len(windows)):
            rows = slice(tokens.offset[b], tokens.offset[b + 1])
            series, unit, time = (tokens.columns[name][rows] for name in ("series", "unit", "time"))
            if self.view == "history":  # all bins of the first history, and of each later one the bin that it adds
                series = np.where(time[:, None] == 0, series, 0)
                series[:, -1] = tokens.columns["series"][rows][:, -1]
            token, column = np.nonzero(series)
            index = time[token].astype(np.int64) * step + column
            time_ns = windows.start_ns[b] - self.lookback_ns + index * self.bin_ns + self.bin_ns // 2
            times = series[token, column]
            time_ns, unit = np.repeat(time_ns, times), np.repeat(unit[token], times)
            order = np.lexsort((unit, time_ns))
            spikes.append(Spikes(time_ns[order], unit[order]))
        return spikes
