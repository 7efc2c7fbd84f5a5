"""Imaged units: a file without a units table whose ROIs, or single neurons' series, are its units.

Two layouts: one series ``[T, N]`` over a segmentation (``RoiResponseSeries`` in ``DfOverF`` or ``Fluorescence``), and a
group of series ``[T]``, one a neuron, all on one clock. Of several series dF/F comes before fluorescence, what is named
as neuropil or as deconvolved after both, and more ROIs before fewer; the others stay signals of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import h5py
import numpy as np

from spiketok.recording.nouns import Column, Intervals, Signal
from spiketok.recording.signals import contiguous_blocks
from spiketok.recording.units import column_rows
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.intervals import Reach
from spiketok.sources.formats.nwb.series import Series, read_signal, roi_table, series_seconds
from spiketok.sources.formats.nwb.tables import Findings, is_time, listed, ns_from_seconds, read_columns

# what a group of single series must be called, or be in, to be taken for neurons
NEURON_WORDS = re.compile(r"neuron|cell|roi|calcium|fluor|dff|df_?f|df_over_f|delta_?f|gcamp", re.IGNORECASE)
DERIVED_WORDS = re.compile(r"neuropil|fneu|deconv|spks|background", re.IGNORECASE)
MAX_COLUMN_VALUES = 16  # masks and outlines of ROIs are no columns of units


@dataclass(frozen=True, eq=False)
class Imaged:
    """Units that were imaged: ``signal`` has one component a unit, ``observed`` are the stretches of its frames."""

    unit_id: np.ndarray
    columns: dict[str, Column]
    signal: Signal
    observed: Intervals
    taken: tuple[tuple[str, ...], ...]


def find_imaged(h5: Hdf5, series: Sequence[Series]) -> list[Series]:
    """The series that hold the units' fluorescence: one of all ROIs, or one a neuron; empty where there are none."""
    matrices = [(one, shape) for one in series if one.is_imaged and len(shape := _shape(h5, one)) == 2 and shape[1] > 1]
    if matrices:
        return [max(matrices, key=lambda pair: (_is_dff(h5, pair[0]), not _is_derived(pair[0]), pair[1][1]))[0]]
    groups: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        shape = _shape(h5, one)
        if not one.is_event and (len(shape) == 1 or shape[1:] == (1,)) and shape[0] > 1:
            groups.setdefault(one.parts[:-1], []).append(one)
    named = [
        members
        for parts, members in groups.items()
        if all(m.is_imaged for m in members) or (len(members) > 1 and _are_neurons(h5, parts, members))
    ]
    if not named:
        return []
    best = max(named, key=lambda members: (_is_dff(h5, members[0]), len(members)))
    return sorted(
        best, key=lambda one: [(not w.isdigit(), int(w) if w.isdigit() else w) for w in _words(one.parts[-1])]
    )


def _words(name: str) -> list[str]:
    """A name in digits and the rest, so that neuron 10 comes after neuron 2."""
    return re.findall(r"[0-9]+|[^0-9]+", name)


def _shape(h5: Hdf5, series: Series) -> tuple[int, ...]:
    data = h5.dataset(series.group, "data")
    return h5.shape(data) if data is not None and h5.dtype(data).kind in "iuf" else ()


def _is_dff(h5: Hdf5, series: Series) -> bool:
    parent = h5.group(h5.root, *series.parts[:-1])
    return parent is not None and h5.type_name(parent) == "DfOverF"


def _is_derived(series: Series) -> bool:
    """Whether a series says by its name that it is no fluorescence of ROIs, as suite2p's and CaImAn's files do."""
    return bool(DERIVED_WORDS.search(series.parts[-1]))


def _are_neurons(h5: Hdf5, parts: tuple[str, ...], members: Sequence[Series]) -> bool:
    """Whether a group of single series is one of neurons: by its name or theirs, and because all have one length."""
    called = any(NEURON_WORDS.search(part) for part in parts[1:])
    called = called or all(NEURON_WORDS.search(one.parts[-1]) for one in members)
    return called and len({_shape(h5, one)[0] for one in members}) == 1


def read_imaged(h5: Hdf5, series: Sequence[Series], every: Sequence[Series], found: Findings) -> Imaged:
    """The units of these series.

    Args:
        h5: the file.
        series: from :func:`find_imaged`.
        every: all series of the file, to say which imaging is not taken as units.
        found: takes the notes.

    Raises:
        SourceError: the series cannot be placed in time, or single series are not on one clock.
    """
    again = "its fluorescence cannot be read: ask its authors or fetch it again"
    parts: list[Signal] = []
    reach = _reach(h5, series[0], again)
    for one in series:
        signal = read_signal(h5, one, reach, found)
        if isinstance(signal, str):
            h5.refuse(f"{one.path} has {signal}", again)
        if parts and not np.array_equal(signal.time_ns, parts[0].time_ns):
            fact = f"{series[0].path} and {one.path} have different time stamps"
            h5.refuse(fact, "units that were imaged must stand on one clock: keep those of one plane")
        parts.append(signal)
    first = parts[0]
    if len(series) == 1:
        signal, columns = first, _roi_columns(h5, series[0], len(first.components), found)
    else:
        names = tuple(one.parts[-1] for one in series)
        value = np.concatenate([part.value for part in parts], axis=1)
        valid = np.all([part.valid for part in parts], axis=0)
        signal = Signal(first.time_ns, np.where(valid[:, None], value, 0), names, first.measure, valid, first.rate_hz)
        columns = {}
    n_units = len(signal.components)
    what = series[0].path if len(series) == 1 else f"{len(series)} series of {'/'.join(series[0].parts[:-1])}"
    others = [one.path for one in every if one.is_imaged and one not in series]
    also = f"; other imaging stays signals: {listed(others)}" if others else ""
    text = f"no units table: the units are the {n_units} ROIs of {what}, they have no spikes{also}"
    found.note("units-from-rois", n_units, text)
    return Imaged(
        unit_id=np.array(signal.components, dtype=np.str_),
        columns=columns,
        signal=signal,
        observed=_frames_observed(signal),
        taken=tuple(one.parts for one in series),
    )


def _frames_observed(signal: Signal) -> Intervals:
    """The stretches of frames that are there and valid; where there are none, of all frames."""
    blocks = contiguous_blocks(signal).union()
    if len(blocks):
        return blocks
    return Intervals(signal.time_ns[:1], signal.time_ns[-1:] + max(1, signal.period_ns))


def _reach(h5: Hdf5, series: Series, again: str) -> Reach:
    timing = series_seconds(h5, series, _shape(h5, series)[0])
    if isinstance(timing, str):
        h5.refuse(f"{series.path} has {timing}", again)
    time_ns = ns_from_seconds(timing[0][is_time(timing[0])])
    if not time_ns.size:
        h5.refuse(f"{series.path} has no usable time stamp", again)
    middle = int(np.median(time_ns))  # one stamp that is far off must not stretch it
    return Reach(middle, middle)


def _roi_columns(h5: Hdf5, series: Series, n_units: int, found: Findings) -> dict[str, Column]:
    """The segmentation's own columns of the units' rows: numbers and texts, no masks."""
    table, row = roi_table(h5, series)
    if table is None or row.size != n_units:
        return {}
    ids = h5.dataset(table, "id")
    n_rows = h5.shape(ids)[0] if isinstance(ids, h5py.Dataset) else 0
    columns = read_columns(h5, table, n_rows, found, skip=(), most=MAX_COLUMN_VALUES)
    return {name: column_rows(column, row) for name, column in columns.items()}
