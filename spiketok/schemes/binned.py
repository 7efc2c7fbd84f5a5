"""Spike counts in equal bins: the tokens of NDT1, LFADS, linear decoders and most of the field.

Unusual here:
- Bins are anchored at each segment's start and found by integer arithmetic, so that a spike on a bin's edge is in the
  bin that begins there, always. With seconds in float64, ``floor(t * rate)`` puts some of them one bin early.
- A last bin that reaches over its segment's end is kept, so that counts sum to the spikes, and is marked unobserved.
- ``observed`` says for each bin whether it was recorded from its first to its last nanosecond. A zero in a bin that is
  not observed is not silence.
- Counts are uint8 and stop at 255; the spikes above are counted in ``Baked.lost["saturated"]``.
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
    grid_rows,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.schemes.bins import count_bins, observed_bins

UINT8 = np.dtype(np.uint8)
ALL_KEPT = np.zeros((0, 0), np.bool_)


@dataclass(frozen=True)
class Binned(Scheme):
    """Counts of each unit in bins of ``bin_ns``.

    Columns: ``counts`` uint8 ``[T, N]``, ``observed`` uint8 ``[T]``, and ``unit_observed`` uint8 ``[T, N]`` where the
    session's units were not all recorded at the same times. A cut gives the same columns; a dropped unit has zeros in
    ``counts`` and in ``unit_observed``. ``unit_row`` has no effect: a unit is a position, not a token.

    >>> from spiketok.schemes import Binned
    >>> Binned(bin_ns=5_000_000)
    Binned(bin_ns=5000000)
    """

    bin_ns: int = 20_000_000

    name: ClassVar[str] = "binned"
    version: ClassVar[int] = 1
    readers: ClassVar[tuple[str, ...]] = ("NDT1", "STNDT", "MtM", "NEDS", "LFADS", "linear")
    token: ClassVar[str] = "one bin of the whole population"
    keeps: ClassVar[str] = "every spike's bin and unit"
    loses: ClassVar[str] = "time within the bin; counts above 255 (counted)"

    def __post_init__(self) -> None:
        if type(self.bin_ns) is not int or self.bin_ns < 1:
            message = f"binned: bin_ns is {self.bin_ns!r}, must be a whole number of at least 1"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = int(grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)[-1])
        return {
            "counts": ColumnSpec(UINT8, (info.n_units,), rows),
            "observed": ColumnSpec(UINT8, (), rows),
            "unit_observed": ColumnSpec(UINT8, (info.n_units,), rows),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        counts, row, saturated = count_bins(session, segments, self.bin_ns)
        columns = {
            "counts": counts,
            **observed_bins(session, segments, row, self.bin_ns),
            **segment_columns(segments, row),
        }
        lost = {"outside_segments": spikes_outside(session.spikes, segments), "saturated": saturated}
        return Baked(freeze(columns), lost)

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["counts"].sum(dtype=np.int64))

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, columns["counts"].shape[1])
        return np.full(len(windows), windows.length_ns // self.bin_ns, np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        return {name: (UINT8, columns[name].shape[1:]) for name in self._main(columns)}

    @staticmethod
    def _main(columns: Columns) -> list[str]:
        return [name for name in ("counts", "observed", "unit_observed") if name in columns]

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
        from spiketok.schemes.kernels import counts as kernels

        segment = windows.segment
        first = columns["segment.row"][segment]
        first = first + (windows.start_ns - columns["segment.start_ns"][segment]) // self.bin_ns
        n_rows = windows.length_ns // self.bin_ns
        for name in self._main(columns):
            by_unit = columns[name].ndim == 2
            kept = keep if by_unit and keep is not None else ALL_KEPT
            source, target = columns[name], out[name]
            if not by_unit:
                source, target = source.reshape(-1, 1), target.reshape(-1, 1)
            kernels.copy_rows(source, first, n_rows, kept, row, target)

    def empty(self, tokens: Tokens) -> np.ndarray:
        return ~tokens.columns["counts"].any(axis=1)

    def detokenize(self, tokens: Tokens, windows: Windows) -> list[Spikes]:
        """As many spikes as were counted, all at their bin's middle: where in the bin they were is lost."""
        spikes = []
        for b in range(len(windows)):
            counts = tokens.columns["counts"][tokens.offset[b] : tokens.offset[b + 1]]
            index, unit = np.nonzero(counts)
            time_ns = windows.start_ns[b] + index * self.bin_ns + self.bin_ns // 2
            times = counts[index, unit]
            spikes.append(Spikes(np.repeat(time_ns, times), np.repeat(unit.astype(np.int32), times)))
        return spikes
