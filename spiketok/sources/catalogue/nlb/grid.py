"""The benchmark's time axis: what nlb_tools makes of one or two files before it cuts trials.

Facts read in nlb_tools 0.0.4 (``nwb_interface.py``): whole milliseconds from zero to the last observed one; a spike at
t is in millisecond ``int(round(t * 1000, 6))``; an unobserved millisecond is nan, and which ones are, the first unit of
the held-in (of the held-out) units decides for all of them; files are laid one after the other in order of their
names, so the test file comes first; a larger bin is the sum of its milliseconds, nan where its first one is.

What is unusual: the axis is never made. Counts come from the sorted spikes, window by window, in integers; a whole
MC_Maze at 1 ms would be 2 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import NS_PER_MS, Intervals, Ragged, Session, Signal

FILES = "files"  # the interval table in which the rules keep what each file became
GAP_MS = 50  # at least so much is between two files ...
STEP_MS = 100  # ... and the later one begins on such a multiple


def following_ms(n_ms: int) -> int:
    """Where the next file begins after one of ``n_ms`` milliseconds, the last of which is ``n_ms - 1``.

    >>> following_ms(79_900)
    80000
    """
    return -(-(n_ms - 1 + GAP_MS) // STEP_MS) * STEP_MS


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the files of a session are on the benchmark's axis.

    Args:
        start_ns: int64 ``[P]``, the session time of each file's zero, in the order of the session.
        first_ms: int64 ``[P]``, the millisecond of the axis on which it begins.
        n_ms: int64 ``[P]``, the file's length.
    """

    start_ns: np.ndarray
    first_ms: np.ndarray
    n_ms: np.ndarray

    @property
    def total_ms(self) -> int:
        return int((self.first_ms + self.n_ms).max())

    def part(self, time_ns: np.ndarray) -> np.ndarray:
        """The file in which session times lie, int64 as ``time_ns``."""
        return np.maximum(np.searchsorted(self.start_ns, time_ns, side="right") - 1, 0)

    def place(self, time_ns: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Session times of these files as ns of the axis."""
        return time_ns - self.start_ns[part] + self.first_ms[part] * NS_PER_MS


def grid_of(session: Session) -> Grid:
    """The axis of a session of one file, or of two that the rules joined.

    Raises:
        DataError: the session does not know when it was observed.
    """
    if session.observed_source != "obs_intervals":
        message = f"{session.id} states no obs_intervals: the benchmark's tensors need them"
        raise DataError(message)
    files = session.intervals.get(FILES)
    start_ns = np.zeros(1, np.int64) if files is None else files.start_ns
    names = np.array([session.source.file]) if files is None else files.columns["file"]
    row = np.maximum(np.searchsorted(start_ns, session.observed.start_ns, side="right") - 1, 0)
    n_ms = np.zeros(start_ns.size, np.int64)
    for part in range(start_ns.size):
        stops = session.observed.stop_ns[row == part]
        n_ms[part] = length_ms(int(stops.max(initial=start_ns[part])) - int(start_ns[part]))
    first_ms, at = np.zeros(start_ns.size, np.int64), 0
    for part in np.argsort(names, kind="stable"):
        first_ms[part] = at
        at = following_ms(at + int(n_ms[part]))
    return Grid(start_ns, first_ms, n_ms)


def length_ms(stop_ns: int) -> int:
    """The whole milliseconds up to the last observed time: rounded, half to even as Python does."""
    return round(stop_ns / NS_PER_MS)


# ---- spikes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Group:
    """The held-in or the held-out units on the axis.

    Args:
        unit: int64 ``[U]``, rows of the unit table.
        spike_ms: int64 ``[S]``, rising. spike_unit: int64 ``[S]``, position in ``unit``.
        observed: one ``(start_ms, stop_ms)`` pair of int64 arrays, sorted and disjoint, a set of units with the same.
        observed_row: int64 ``[U]``, which of them each unit has.
    """

    unit: np.ndarray
    spike_ms: np.ndarray
    spike_unit: np.ndarray
    observed: tuple[tuple[np.ndarray, np.ndarray], ...]
    observed_row: np.ndarray


def group_of(session: Session, grid: Grid, *, held_out: bool, observed: str = "first") -> Group:
    """The held-in or held-out units of a session on its axis.

    Args:
        observed: ``"first"``: the first of these units says what was observed, for all (the reference);
            ``"all"``: each unit for itself.

    Raises:
        DataError: the unit table has no column ``held_out``.
    """
    column = session.units.columns.get("held_out")
    if not isinstance(column, np.ndarray):
        message = f"{session.id} has no unit column 'held_out': it is no session of the benchmark"
        raise DataError(message)
    unit = np.flatnonzero(column == held_out)
    position = np.full(len(session.units), -1, np.int64)
    position[unit] = np.arange(unit.size)
    keep = position[session.spikes.unit] >= 0
    time_ns, of = session.spikes.time_ns[keep], position[session.spikes.unit[keep]]
    part = grid.part(time_ns)
    spike_ms = (time_ns - grid.start_ns[part]) // NS_PER_MS
    inside = (spike_ms >= 0) & (spike_ms < grid.n_ms[part])
    spike_ms, of = (spike_ms + grid.first_ms[part])[inside], of[inside]
    spans, row = _observed(session, grid, unit, observed)
    for k, (start, stop) in enumerate(spans):
        outside = (row[of] == k) & ~_inside(spike_ms, start, stop)
        spike_ms, of = spike_ms[~outside], of[~outside]
    order = np.argsort(spike_ms, kind="stable")  # the order of the files on the axis is not the session's
    return Group(unit, spike_ms[order], of[order], spans, row)


def _observed(
    session: Session, grid: Grid, unit: np.ndarray, observed: str
) -> tuple[tuple[tuple[np.ndarray, np.ndarray], ...], np.ndarray]:
    """The observed milliseconds, each set once, and which set each unit has."""
    if not unit.size:
        return (), np.zeros(0, np.int64)
    own = session.unit_observed
    if not isinstance(own, Ragged):
        return (_observed_ms(session.observed, grid),), np.zeros(unit.size, np.int64)
    deciding = unit if observed == "all" else unit[:1]
    found: dict[bytes, int] = {}
    spans, rows = [], []
    for u in deciding:
        pairs = own[int(u)]
        key = pairs.tobytes()
        if key not in found:
            found[key] = len(spans)
            spans.append(_observed_ms(Intervals(pairs[:, 0], pairs[:, 1]), grid))
        rows.append(found[key])
    row = np.array(rows, np.int64)
    return tuple(spans), row if observed == "all" else np.zeros(unit.size, np.int64)


def _observed_ms(intervals: Intervals, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Whole observed milliseconds of the axis: the first after the start, the last before the stop."""
    part = grid.part(intervals.start_ns)
    shift, most = grid.start_ns[part], grid.n_ms[part]
    start = np.clip(-(-(intervals.start_ns - shift) // NS_PER_MS), 0, most) + grid.first_ms[part]
    stop = np.clip((intervals.stop_ns - shift) // NS_PER_MS, 0, most) + grid.first_ms[part]
    merged = Intervals(start, np.maximum(start, stop)).union()
    return merged.start_ns, merged.stop_ns


def _inside(ms: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Where milliseconds lie in sorted disjoint stretches."""
    if not start.size:
        return np.zeros(ms.shape, np.bool_)
    row = np.searchsorted(start, ms, side="right") - 1
    return (row >= 0) & (ms < stop[np.maximum(row, 0)])


def count(group: Group, first: np.ndarray, n_bins: int, bin_ms: int, total_ms: int) -> np.ndarray:
    """Spikes in bins: float32 ``[R, n_bins, U]``, nan where the bin's first millisecond was not observed.

    Args:
        first: int64 ``[R]``, the first bin of each row on the axis; rows may overlap and reach past its ends (nan).
    """
    out = np.zeros((first.size, n_bins, group.unit.size), np.float32)
    low = np.searchsorted(group.spike_ms, first * bin_ms)
    high = np.searchsorted(group.spike_ms, (first + n_bins) * bin_ms)
    for row in range(first.size):
        s = slice(low[row], high[row])
        np.add.at(out[row], (group.spike_ms[s] // bin_ms - first[row], group.spike_unit[s]), 1)
    hide_unobserved(out, group, first, bin_ms, total_ms)
    return out


def hide_unobserved(out: np.ndarray, group: Group, first: np.ndarray, bin_ms: int, total_ms: int) -> None:
    """Put nan into ``out`` ``[R, T, U]`` where a bin's first millisecond was not observed, or lies off the axis."""
    ms = (first[:, None] + np.arange(out.shape[1])) * bin_ms
    off = (ms < 0) | (ms >= total_ms)
    for k, (start, stop) in enumerate(group.observed):
        hidden = off | ~_inside(ms, start, stop)
        columns = np.flatnonzero(group.observed_row == k)
        if columns.size == out.shape[2]:
            out[hidden] = np.nan
        else:
            row, at = np.nonzero(hidden)
            out[row[:, None], at[:, None], columns] = np.nan


def smooth(group: Group, first: np.ndarray, n_bins: np.ndarray, bin_ms: int, sd_ms: int, total_ms: int) -> np.ndarray:
    """Gaussian-smoothed spikes, summed into bins: float64 ``[R, max(n_bins), U]``; nan as in :func:`count`.

    Each observed stretch is smoothed for itself, zeros beyond its ends, by ``int(6 * sd_ms)`` taps that sum to 1.

    Args:
        first, n_bins: int64 ``[R]``, the rows; bins from ``n_bins`` on are nan.
    """
    from scipy.signal.windows import gaussian

    kernel = gaussian(int(6 * sd_ms), sd_ms, sym=True)
    below = np.concatenate([[0.0], np.cumsum(kernel / kernel.sum())])  # what of the kernel lies before each tap
    size, back = kernel.size, (kernel.size - 1) // 2
    out = np.full((first.size, int(n_bins.max(initial=0)), group.unit.size), np.nan)
    for row in range(first.size):
        start, stop = int(first[row]) * bin_ms, int(first[row] + n_bins[row]) * bin_ms
        out[row, : n_bins[row]] = 0
        for k, (low, high) in enumerate(group.observed):
            columns = np.flatnonzero(group.observed_row == k)
            for stretch in np.flatnonzero((low < stop) & (high > start)):
                edge = np.clip(np.arange(start, stop + 1, bin_ms), low[stretch], high[stretch])
                at = np.arange(max(low[stretch], edge[0] - size), min(high[stretch], edge[-1] + size))
                weight = np.diff(below[np.clip(edge[:, None] - at + back, 0, size)], axis=0)
                counts = _counts_ms(group, int(at[0]), int(at[-1]) + 1)
                out[row, : n_bins[row], columns] += (weight @ counts[:, columns]).T
    hide_unobserved(out, group, first, bin_ms, total_ms)
    return out


def _counts_ms(group: Group, start: int, stop: int) -> np.ndarray:
    dense = np.zeros((stop - start, group.unit.size))
    low, high = np.searchsorted(group.spike_ms, [start, stop])
    np.add.at(dense, (group.spike_ms[low:high] - start, group.spike_unit[low:high]), 1)
    return dense


# ---- behaviour ------------------------------------------------------------------------------------------------------


def behaviour(session: Session, grid: Grid, name: str, bin_ms: int) -> np.ndarray:
    """A behaviour at the bins of the axis: float64 ``[B, C]``, nan where it was not measured at the bin's start.

    Holes are filled by straight lines (by the nearest value at the ends), then an FIR filter of 501 taps and no delay
    takes out what the larger bins cannot hold; ``target_pos`` is a step and is only picked.

    Raises:
        DataError: no such signal, or its samples do not lie on whole milliseconds of the recording.
    """
    signal = session.signals.get(name)
    if signal is None:
        message = f"{session.id} has no signal '{name}' (it has: {', '.join(session.signals) or 'none'})"
        raise DataError(message)
    dense = _on_axis(session, grid, name, signal)
    missing = np.isnan(dense)
    hidden = missing[::bin_ms]
    if bin_ms == 1:
        return dense
    if name == "target_pos":
        return dense[::bin_ms]
    at = np.arange(len(dense))
    for column in range(dense.shape[1]):
        gap = missing[:, column]
        if gap.any() and not gap.all():
            dense[gap, column] = np.interp(at[gap], at[~gap], dense[~gap, column])
    from scipy.signal import decimate

    binned = decimate(dense, bin_ms, axis=0, n=500, ftype="fir")
    binned[hidden] = np.nan
    return binned


def _on_axis(session: Session, grid: Grid, name: str, signal: Signal) -> np.ndarray:
    part = grid.part(signal.time_ns)
    us = np.rint((signal.time_ns - grid.start_ns[part]) / 1000).astype(np.int64)
    ms, rest = np.divmod(us, 1000)
    wrong = (rest != 0) | (ms < 0) | (ms >= grid.n_ms[part])
    if wrong.any():
        at = signal.time_ns[np.flatnonzero(wrong)[0]]
        message = (
            f"{session.id}: {int(wrong.sum())} of {ms.size} samples of '{name}' do not lie on a whole millisecond of "
            f"the observed recording, the first at {at} ns: the benchmark's tensors need a 1 kHz grid"
        )
        raise DataError(message)
    dense = np.full((grid.total_ms, signal.value.shape[1]), np.nan)
    dense[ms + grid.first_ms[part]] = np.where(signal.valid[:, None], signal.value, np.nan)
    return dense
