"""Where a file keeps its units: this module decides, and gives them in one form.

A file has its units in one of these places, looked for in this order:

    units table      the table that the user names, ``/units`` with at least one row, or the one other with spike times
    binned counts    a series ``[T, N]`` of counts, one column a channel, named as in ``COUNT_NAMES``: FALCON H2 has
                     ``binned_spikes`` of 20 ms, FALCON B1 ``tx`` of 1/30,000 s, LINK ``ThresholdCrossings`` of 20 ms

    imaged ROIs      a ``RoiResponseSeries`` over all of them, or a group of series, one a neuron (see ``imaging``)

A count of n becomes n spikes at the start of its bin, which is what its time stamp is taken for. Bins that are there
are observed time, and where they are missing nothing was observed; the same holds for frames. Units that were imaged
have no spikes: what they did is the signal ``fluorescence``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np

from spiketok.recording.nouns import NS_PER_S, Column, Intervals, Ragged, Signal, Spikes
from spiketok.recording.outside import fillers
from spiketok.sources.formats.nwb.clocks import refuse_observed_in_no_seconds, refuse_restarted_samples
from spiketok.sources.formats.nwb.hdf5 import VALUE_BYTES, Hdf5
from spiketok.sources.formats.nwb.imaging import Imaged, find_imaged, read_imaged
from spiketok.sources.formats.nwb.intervals import Reach, Table
from spiketok.sources.formats.nwb.series import Series, series_seconds
from spiketok.sources.formats.nwb.tables import Findings, is_time, listed, ns_from_seconds
from spiketok.sources.formats.nwb.units import (
    declared_clock_hz,
    find_units,
    read_observed,
    read_spikes,
    read_unit_columns,
    read_unit_ids,
)

COUNT_NAMES = ("binned_spikes", "tx", "ThresholdCrossings")
BLOCK_BYTES = 2**26  # so much of a matrix of counts is in memory at a time
GAP = 1.5  # stamps further apart than so many bins have time between them that was not observed


@dataclass(frozen=True, eq=False)
class UnitData:
    """The units of a file, wherever it keeps them.

    Args:
        unit_id: str ``[N]``.
        spikes: all of them, to the nearest ns and in order; there may be none where units were imaged.
        reach: from the first to the last moment of which the place of the units speaks.
        columns: of the unit table. clock_hz: the recording's clock, None where it is not stated.
        observed, unit_observed: see :class:`~spiketok.recording.nouns.Session`; None where the file is silent.
        observed_source: who says so.
        recorded: the spikes that are no fillers, as a slice of them; None for all.
        taken: the series and tables that were read as units, so that they are nothing else as well.
        fluorescence: of units that were imaged, a component for each.
    """

    unit_id: np.ndarray
    spikes: Spikes
    reach: Reach
    columns: Mapping[str, Column] = field(default_factory=dict)
    clock_hz: float | None = None
    observed: Intervals | None = None
    unit_observed: Ragged | None = None
    observed_source: str = "assumed"
    taken: tuple[tuple[str, ...], ...] = ()
    fluorescence: Signal | None = None
    recorded: slice | None = None

    @property
    def recorded_ns(self) -> np.ndarray:
        """The times of the spikes that are no fillers, in order."""
        return self.spikes.time_ns if self.recorded is None else self.spikes.time_ns[self.recorded]


def read_units_table(h5: Hdf5, found: Findings, path: str = "") -> UnitData | None:
    """The units of the units table, wherever ``find_units`` finds it; None where there is none, or one without rows."""
    at = find_units(h5, path, found)
    if at is None:
        return None
    table, where = at
    unit_id = read_unit_ids(h5, table, found)
    spikes = read_spikes(h5, table, unit_id.size, found)
    columns = read_unit_columns(h5, table, unit_id.size, found)
    clock_hz = declared_clock_hz(h5, table, columns)
    observed, unit_observed = read_observed(h5, table, unit_id.size, found) or (None, None)
    recorded = fillers(spikes)
    first_ns, last_ns = spikes.time_ns[recorded][[0, -1]]
    if observed is not None:
        refuse_observed_in_no_seconds(h5, observed, Reach(int(first_ns), int(last_ns) + 1))
    return UnitData(
        unit_id=unit_id,
        spikes=spikes,
        recorded=recorded,
        taken=(tuple(where.split("/")),),
        reach=Reach(int(first_ns), int(last_ns) + 1),
        columns=columns,
        clock_hz=clock_hz,
        observed=observed,
        unit_observed=unit_observed,
        observed_source="assumed" if observed is None else "obs_intervals",
    )


def read_units_elsewhere(
    h5: Hdf5, series: Sequence[Series], found: Findings, *, needed: bool = True
) -> UnitData | None:
    """The units of a file whose units table is missing or empty; None where it has none and needs none.

    Args:
        h5: the file.
        series: all that the file has, see ``series.PLACES``.
        found: takes the notes.
        needed: it must have some.

    Raises:
        SourceError: there are none, their counts are no counts, or their frames have no time.
    """
    counts = [one for one in series if one.parts[-1] in COUNT_NAMES]
    if len(counts) > 1:
        paths = listed([one.path for one in counts])
        h5.refuse(f"has no units table and {len(counts)} series of counts ({paths})", "keep one of them in the file")
    if counts:
        return _read_counts(h5, counts[0], found)
    imaged = find_imaged(h5, series)
    if imaged:
        return _imaged_units(read_imaged(h5, imaged, series, found))
    if not needed:
        return None
    rows = "a units table with no rows (zero units)" if h5.child(h5.root, "units") is not None else "no units table"
    names = " or ".join(f"'{name}'" for name in COUNT_NAMES)
    fact = f"holds {rows}, no series of counts ({names}) and no imaged ROIs"
    h5.refuse(fact, "take the file of this dataset that has units, or join the two by --merge-as NAME")


def no_units(h5: Hdf5, series: Sequence[Series], tables: Sequence[Table]) -> UnitData:
    """No units, and where the rest of the file lies: about the middle of the middles of all that has times."""
    middles = [np.median(table.start_s[is_time(table.start_s)]) for table in tables if is_time(table.start_s).any()]
    for one in series:
        data = h5.dataset(one.group, "data")
        shape = () if data is None else h5.shape(data)
        timing = series_seconds(h5, one, shape[0] if shape else 0)
        seconds = np.zeros(0) if isinstance(timing, str) else timing[0][is_time(timing[0])]
        middles += [np.median(seconds)] if seconds.size else []
    if not middles:
        h5.refuse("has no units, and nothing else that has times", "leave it out")
    middle_ns = int(ns_from_seconds(np.median(middles)))
    return UnitData(np.zeros(0, np.str_), Spikes.from_units([]), Reach(middle_ns, middle_ns))


def _imaged_units(imaged: Imaged) -> UnitData:
    observed = imaged.observed
    return UnitData(
        unit_id=imaged.unit_id,
        spikes=Spikes.from_units([]),
        reach=Reach(int(observed.start_ns[0]), int(observed.stop_ns[-1])),
        columns=imaged.columns,
        observed=observed,
        observed_source="frames",
        taken=imaged.taken,
        fluorescence=imaged.signal,
    )


# ---- binned counts --------------------------------------------------------------------------------------------------


def _read_counts(h5: Hdf5, series: Series, found: Findings) -> UnitData:
    """A matrix of counts as units, their spikes at the starts of the bins."""
    data = h5.dataset(series.group, "data")
    shape = () if data is None else h5.shape(data)
    if len(shape) != 2 or 0 in shape or h5.dtype(data).kind not in "biuf":
        kind = "nothing" if data is None else f"{h5.dtype(data)} of shape {shape}"
        h5.refuse(f"{series.path} is {kind}, expected counts of bins x channels", "write them so, or as a units table")
    time_ns = _bin_starts(h5, series, shape[0])
    step_ns = np.diff(time_ns)
    period_ns = float(np.median(step_ns))
    row, channel, count = _nonzero_counts(h5, series, data)
    h5.plan(data, 2 * VALUE_BYTES * int(count.sum(dtype=object)))
    spikes = Spikes(np.repeat(time_ns[row], count), np.repeat(channel, count))
    if not len(spikes):
        h5.refuse(f"{series.path} has {shape[1]} channels and not one spike", "take the file that has spikes")
    text = (
        f"{series.path}: {len(spikes)} spikes of {shape[1]} channels are known as counts of {shape[0]} bins of "
        f"{period_ns / NS_PER_S:.6g} s only; each stands at the start of its bin"
    )
    found.note("spikes-binned", len(spikes), text)
    first = np.concatenate([[True], step_ns > GAP * period_ns])
    last = np.append(first[1:], True)
    width_ns = round(period_ns)
    return UnitData(
        unit_id=np.arange(shape[1]).astype(np.str_),
        spikes=spikes,
        reach=Reach(int(time_ns[0]), int(time_ns[-1]) + width_ns),
        clock_hz=_bin_rate_hz(time_ns[first], time_ns[last], shape[0]),
        observed=Intervals(time_ns[first], time_ns[last] + width_ns).union(),
        observed_source="bins",
        taken=(series.parts,),
    )


def _bin_starts(h5: Hdf5, series: Series, n_bins: int) -> np.ndarray:
    """The starts of the bins as int64 ns ``[T]``, strictly rising."""
    timing = series_seconds(h5, series, n_bins)
    again = "its counts cannot be placed in time: ask its authors or fetch it again"
    if isinstance(timing, str):
        h5.refuse(f"{series.path} has {timing}", again)
    seconds = timing[0]
    if seconds.size != n_bins or n_bins < 2:
        h5.refuse(f"{series.path} has {n_bins} bins and {seconds.size} time stamps, expected as many and two", again)
    if not is_time(seconds).all():
        row = int(np.flatnonzero(~is_time(seconds))[0])
        h5.refuse(f"{series.path} has the time stamp {seconds[row]} in row {row}", again)
    time_ns = ns_from_seconds(seconds)
    refuse_restarted_samples(h5, series.path, time_ns)
    back = np.flatnonzero(np.diff(time_ns) <= 0)
    if back.size:
        row = int(back[0])
        fact = f"{series.path} has the time stamp {seconds[row + 1]} s in row {row + 1}, after {seconds[row]} s"
        h5.refuse(fact, again)
    return time_ns


def _nonzero_counts(h5: Hdf5, series: Series, data: h5py.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin, channel (int32) and count of every entry that is not zero, in order of bin and then of channel."""
    rows, channels, counts = [], [], []
    for start, block in h5.blocks(data, BLOCK_BYTES):
        row, channel = np.nonzero(block)  # NaN is not zero, and so is seen
        value = block[row, channel]
        if value.dtype.kind == "f":
            wrong = np.flatnonzero(~((value >= 0) & (value == np.floor(value)) & (value < 2**31)))
        else:
            wrong = np.flatnonzero((value < 0) | (value >= 2**31))
        if wrong.size:
            k = int(wrong[0])
            fact = f"{series.path} holds {value[k]} in bin {start + row[k]} of channel {channel[k]}, which is no count"
            h5.refuse(fact, "write whole numbers that are not negative")
        rows.append(row + start)
        channels.append(channel.astype(np.int32))
        counts.append(value.astype(np.int64))
    return np.concatenate(rows), np.concatenate(channels), np.concatenate(counts)


def _bin_rate_hz(start_ns: np.ndarray, last_ns: np.ndarray, n_bins: int) -> float | None:
    """Bins a second, from all the stretches of bins together; a whole number where it is one to 1 in 10**6."""
    steps = n_bins - start_ns.size
    if not steps:
        return None
    rate_hz = steps * NS_PER_S / float((last_ns - start_ns).sum())
    return float(round(rate_hz)) if abs(rate_hz - round(rate_hz)) < 1e-6 * rate_hz else rate_hz
