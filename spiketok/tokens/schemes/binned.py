"""Spike counts in equal bins: the tokens of NDT1, LFADS, linear decoders and most of the field.

Unusual here:
- Bins are anchored at each segment's start and found by integer arithmetic, so that a spike on a bin's edge is in the
  bin that begins there, always. With seconds in float64, ``floor(t * rate)`` puts some of them one bin early.
- A last bin that reaches over its segment's end is kept, so that counts sum to the spikes, and is marked unobserved.
- ``observed`` says for each bin whether it was recorded from its first to its last nanosecond. A zero in a bin that is
  not observed is not silence.
- With ``exposure`` a bin that was recorded in part has its share: a rate is a count over it. Each spike in the bin
  counts, whether it lies in observed time or not: ``ingest --drop-outside`` leaves those out that do not.
- Counts are uint8 and stop at 255; the spikes above are counted in ``Baked.lost["saturated"]``.

``compat`` counts as another tool does, to compare with its results and for nothing else. All of these tools work on
float64 seconds, here ``float64(ns) / 1e9``; which bins were observed stays by whole nanoseconds. The bins are the
segment's in every mode, so that a spike only ever moves to a neighbouring bin, or out: ``Baked.lost["compat"]``.

- ``torch_brain``: ``floor((t - start) * (1 / bin))``, ``bin_spikes`` of torch_brain 0.2 (``utils/binning.py``). It
  puts some spikes that are on an edge one bin early. Differs from it in keeping a partial last bin, where it cuts
  off the time before the first or after the last whole bin.
- ``falcon-end`` and ``falcon-start``: ``numpy.histogram`` between time stamps of samples that are at the ends (sets
  H1 and M1) or the starts (M2) of their bins, ``bin_units`` of falcon_challenge (``dataloaders.py``). Stamps are
  ``first + k * bin`` in float64, as H1's are; the two differ in where rounding falls. To have the counts of FALCON's
  sample k in row k, begin the segment one bin before the first stamp (end), or at it (start). Differs from it in
  that a spike exactly at the segment's end stays outside, where ``numpy.histogram`` closes the last bin.
- ``nlb``: first whole milliseconds ``int(round(1000 t, 6))`` from time zero, then sums of them, as ``NWBDataset`` of
  nlb_tools loads and resamples (``nwb_interface.py``). Equal to whole nanoseconds where the segment starts on a whole
  millisecond; else all bins begin up to 1 ms before it. nlb_tools resamples the whole file from time zero: the same
  bins where the segment starts on a multiple of the bin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Spikes
from spiketok.tokens.bounds import require_columns, require_shape
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
    freeze,
    grid_rows,
    require_bins,
    segment_columns,
    segment_plan,
    spikes_outside,
)
from spiketok.tokens.schemes.bins import count_array, count_between, exposed_bins, observed_bins

UINT8, FLOAT32 = np.dtype(np.uint8), np.dtype(np.float32)
SHARES = ("exposure", "unit_exposure")
EDGES = ("left-closed", "right-closed")
COMPAT = ("", "nlb", "falcon-end", "falcon-start", "torch_brain")
MS_NS = 1_000_000


@dataclass(frozen=True)
class Binned(Scheme):
    """Counts of each unit in bins of ``bin_ns``.

    Columns: ``counts`` uint8 ``[T, N]``, ``observed`` uint8 ``[T]``, and ``unit_observed`` uint8 ``[T, N]`` where the
    session's units were not all recorded at the same times. A cut gives the same columns; a dropped unit has zeros in
    ``counts`` and in ``unit_observed``. ``unit_row`` has no effect: a unit is a position, not a token. With
    ``exposure``, ``observed`` says whether any of a bin was recorded, and ``exposure`` float32 ``[T]`` (and
    ``unit_exposure`` float32 ``[T, N]``, zeros for a dropped unit) what share of its length.

    Lost, by name: spikes ``outside_segments`` and ``saturated`` (above 255 in a bin); with right-closed edges also
    those ``at_segment_start``, once for each segment; with ``compat`` also those that its rule drops (``compat``).

    Args:
        bin_ns: the length of a bin.
        edges: ``"left-closed"``, where a spike on an edge belongs to the bin that begins there, or ``"right-closed"``,
            where it belongs to the bin that ends there. Segments stay half-open: a spike at a segment's end is outside.
        compat: ``""``, or a tool whose counts are to be reproduced, see above.
        exposure: bins that were recorded in part count by their share.

    >>> from spiketok.tokens.schemes import Binned
    >>> Binned(bin_ns=5_000_000)
    Binned(bin_ns=5000000, edges='left-closed', compat='', exposure=False)
    """

    bin_ns: int = 20_000_000
    edges: str = "left-closed"
    compat: str = ""
    exposure: bool = field(default=False, metadata=CAME_LATER)

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
        for name, known in (("edges", EDGES), ("compat", COMPAT)):
            if getattr(self, name) not in known:
                message = f"binned: {name} is {getattr(self, name)!r}, must be one of {', '.join(map(repr, known))}"
                raise UsageError(message)
        if type(self.exposure) is not bool or (self.exposure and (self.compat or self.edges != "left-closed")):
            message = (
                f"binned: exposure is {self.exposure!r}, must be true (with left-closed edges, no compat) or false"
            )
            raise UsageError(message)
        if self.edges == "right-closed" and self.bin_ns < 2:
            message = "binned: a right-closed bin of 1 ns ends where the next begins: bin_ns must be at least 2"
            raise UsageError(message)
        if self.compat and (self.edges != "left-closed" or self.bin_ns < MS_NS or self.bin_ns > 1000 * MS_NS):
            fact = f"{self.edges} edges and bins of {self.bin_ns} ns"
            message = f"binned: compat '{self.compat}' with {fact}: must be left-closed bins of 1 to 1000 ms"
            raise UsageError(message)
        if self.compat == "nlb" and self.bin_ns % MS_NS:
            message = f"binned: compat 'nlb' has bins of whole milliseconds, {self.bin_ns} ns are none"
            raise UsageError(message)

    @property
    def grid_ns(self) -> int:
        return self.bin_ns

    @property
    def lookahead_ns(self) -> int:
        return int(self.edges == "right-closed")  # a bin holds the spike at its very end

    @property
    def not_live(self) -> str:
        return f"compat='{self.compat}' rounds times as counted from the recording's start" if self.compat else ""

    def plan(self, info: SessionInfo, segments: Intervals) -> dict[str, ColumnSpec]:
        rows = int(grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)[-1])
        shares = {
            "exposure": ColumnSpec(FLOAT32, (), rows),
            "unit_exposure": ColumnSpec(FLOAT32, (info.n_units,), rows),
        }
        return {
            "counts": ColumnSpec(UINT8, (info.n_units,), rows),
            "observed": ColumnSpec(UINT8, (), rows),
            "unit_observed": ColumnSpec(UINT8, (info.n_units,), rows),
            **(shares if self.exposure else {}),
            **segment_plan(segments),
        }

    def bake(self, session: Session, segments: Intervals) -> Baked:
        counts, row, lost = self.count(session, segments)
        columns = {
            "counts": counts,
            **(exposed_bins if self.exposure else observed_bins)(session, segments, row, self.bin_ns),
            **segment_columns(segments, row),
        }
        return Baked(freeze(columns), {"outside_segments": spikes_outside(session.spikes, segments), **lost})

    def count(
        self, session: Session, segments: Intervals, *, threads: int = 1, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
        """The counts alone.

        Args:
            threads: how many work on it; the result is the same for any number.
            out: uint8 ``[T, N]`` that takes the counts.

        Returns:
            uint8 ``[T, N]``; int64 ``[G + 1]``, each segment's first bin; the spikes inside of segments that are lost.
        """
        row = grid_rows(segments.start_ns, segments.stop_ns, self.bin_ns)
        counts = count_array((int(row[-1]), len(session.units)), out)
        start_ns, stop_ns, time_ns = segments.start_ns, segments.stop_ns, session.spikes.time_ns
        if self.compat:
            return counts, row, self._count_compat(session.spikes, segments, row, counts, threads)
        lost = {}
        if self.edges == "right-closed":  # whole numbers: the bin that ends at t begins one before the next one's first
            start_ns = np.minimum(start_ns + 1, stop_ns)
            held = np.searchsorted(time_ns, start_ns) - np.searchsorted(time_ns, segments.start_ns)
            lost["at_segment_start"] = int(held.sum())
        lost["saturated"] = count_between(
            time_ns, session.spikes.unit, start_ns, stop_ns, row, self.bin_ns, counts, threads
        )
        return counts, row, lost

    def _count_compat(
        self, spikes: Spikes, segments: Intervals, row: np.ndarray, counts: np.ndarray, threads: int
    ) -> dict[str, int]:
        """Count by bin numbers that another tool's rule gives; they rise with the time, so that they count as times."""
        lost = {"saturated": 0, "compat": 0}
        low = np.searchsorted(spikes.time_ns, segments.start_ns)
        high = np.searchsorted(spikes.time_ns, segments.stop_ns)
        zero = np.zeros(1, np.int64)
        for g in range(len(segments)):
            own, n_bins = counts[row[g] : row[g + 1]], row[g + 1 : g + 2] - row[g]
            if n_bins[0] == 0:
                continue
            time_ns, unit = spikes.time_ns[low[g] : high[g]], spikes.unit[low[g] : high[g]]
            number = _compat_bins(self.compat, time_ns, int(segments.start_ns[g]), self.bin_ns, int(n_bins[0]))
            lost["compat"] += int(((number < 0) | (number >= n_bins)).sum())
            lost["saturated"] += count_between(
                number, unit, zero, n_bins, np.concatenate([zero, n_bins]), 1, own, threads
            )
        return lost

    def check(self, columns: Columns) -> None:
        wanted, by_unit = {"counts": (UINT8, 2), "observed": (UINT8, 1)}, {"unit_observed": (UINT8, 2)}
        if self.exposure:
            wanted, by_unit = wanted | {"exposure": (FLOAT32, 1)}, by_unit | {"unit_exposure": (FLOAT32, 2)}
        require_columns(columns, wanted, by_unit)
        n_rows = len(columns["counts"])
        require_shape(columns, (n_rows,), ["observed", "exposure"] if self.exposure else ["observed"])
        require_shape(columns, columns["counts"].shape, ["unit_observed", "unit_exposure"])
        require_bins(columns, self.bin_ns, n_rows)

    def spikes_held(self, columns: Columns) -> int:
        return int(columns["counts"].sum(dtype=np.int64))

    def lengths(self, columns: Columns, windows: Windows, keep: np.ndarray | None = None) -> np.ndarray:
        check_cut(self, columns, windows, keep, columns["counts"].shape[1])
        return np.full(len(windows), windows.length_ns // self.bin_ns, np.int64)

    def outputs(self, columns: Columns, length_ns: int) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        dtypes = {name: FLOAT32 if name in SHARES else UINT8 for name in self._main(columns)}
        return {name: (dtype, columns[name].shape[1:]) for name, dtype in dtypes.items()}

    @staticmethod
    def _main(columns: Columns) -> list[str]:
        return [name for name in ("counts", "observed", "unit_observed", *SHARES) if name in columns]

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
        from spiketok.tokens.schemes.kernels import counts as kernels

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
        middle_ns = (self.bin_ns + (self.edges == "right-closed")) // 2
        for b in range(len(windows)):
            counts = tokens.columns["counts"][tokens.offset[b] : tokens.offset[b + 1]]
            index, unit = np.nonzero(counts)
            first_ns = int(windows.start_ns[b]) + middle_ns
            if self.compat == "nlb":  # the bins begin at the whole millisecond before
                first_ns = max(first_ns - int(windows.start_ns[b]) % MS_NS, int(windows.start_ns[b]))
            times = counts[index, unit]
            spikes.append(
                Spikes(np.repeat(first_ns + index * self.bin_ns, times), np.repeat(unit.astype(np.int32), times))
            )
        return spikes


def _compat_bins(compat: str, time_ns: np.ndarray, start_ns: int, bin_ns: int, n_bins: int) -> np.ndarray:
    """int64 ``[S]``: the bin of each spike of a segment by another tool's rule, non-decreasing; -1 for before all."""
    seconds, start, width = time_ns / 1e9, start_ns / 1e9, bin_ns / 1e9
    if compat == "torch_brain":
        return np.floor((seconds - start) * (1 / width)).astype(np.int64)
    if compat == "nlb":
        return (_nlb_ms(seconds) - _nlb_ms(start)) // (bin_ns // MS_NS)
    if compat == "falcon-end":
        ends = (start + width) + np.arange(n_bins) * width
    else:
        ends = (start + np.arange(n_bins) * width) + width
    edges = np.concatenate([ends[:1] - width, ends])
    number = np.searchsorted(edges, seconds, side="right") - 1
    number[seconds == edges[-1]] = n_bins - 1  # numpy.histogram closes its last bin
    return number


def _nlb_ms(seconds: np.ndarray | float) -> np.ndarray:
    return np.floor(np.round(np.asarray(seconds) * 1000, 6)).astype(np.int64)
