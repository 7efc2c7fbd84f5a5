"""A folder of plain arrays laid out as NWB in a scratch file, and read as that: one reader of clocks and findings.

What is unusual: the scratch file is no NWB for others. It holds what :func:`spiketok.sources.formats.nwb.read_nwb`
looks at, and lives as long as the reading.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from spiketok.recording.nouns import Session, Source
from spiketok.sources.formats.nwb import read_nwb

BLOCK_VALUES = 2**22  # of a matrix at a time


def read_as_nwb(
    name: str,
    session_id: str,
    source: Source,
    fill: Callable[[h5py.File], None],
    time_unit: Mapping[str, str] | None = None,
) -> Session:
    """The session that ``fill(file)`` makes of an empty NWB file.

    Args:
        name: what messages call it. session_id, source, time_unit: as of ``read_nwb``.
        fill: lays out units, tables and series.
    """
    with tempfile.TemporaryDirectory(prefix="spiketok-") as scratch:
        path = Path(scratch) / name
        with h5py.File(path, "w") as file:
            file.attrs.update({"nwb_version": "2.8.0", "neurodata_type": "NWBFile"})
            fill(file)
        return read_nwb(path, session_id, source, time_unit=time_unit)


def put_texts(file: h5py.File, texts: Mapping[str, str]) -> None:
    """Facts by path, as ``general/subject/subject_id``; empty ones are left out."""
    for path, text in texts.items():
        if text:
            file[path] = text


def put_table(group: h5py.Group, ids: np.ndarray, columns: Mapping[str, np.ndarray]) -> None:
    """Rows with their ids, and columns ``[rows, ...]`` of numbers, truths or texts."""
    group["id"] = ids
    group.attrs["colnames"] = list(columns)
    _put_columns(group, columns)


def _put_columns(group: h5py.Group, columns: Mapping[str, np.ndarray]) -> None:
    for name, column in columns.items():
        if column.dtype.kind == "U":
            group.create_dataset(name, data=column.astype(object), dtype=h5py.string_dtype())
        else:
            group[name] = column


def put_units(file: h5py.File, ids: np.ndarray, spikes: tuple[np.ndarray, np.ndarray], columns: Mapping) -> None:
    """The units table.

    Args:
        ids: str ``[N]``. spikes: seconds ``[S]`` and the row of each one's unit, ``[S]``. columns: as of a table.
    """
    seconds, row = spikes
    units = file.create_group("units")
    units["id"] = ids.astype(object)
    units.attrs["colnames"] = ["spike_times", *columns]
    order = np.argsort(row, kind="stable")
    units["spike_times"] = seconds[order]
    units["spike_times_index"] = np.cumsum(np.bincount(row, minlength=ids.size))
    _put_columns(units, columns)


def put_series(
    group: h5py.Group,
    data: np.ndarray,
    *,
    seconds: np.ndarray | None = None,
    rate: tuple[float, float] = (0.0, 0.0),
    components: Sequence[str] = (),
    measure: str = "",
) -> None:
    """A series with stamps in seconds, or with (start in seconds, rate in Hz)."""
    group.attrs["neurodata_type"] = "TimeSeries"
    if components:
        group.attrs["comments"] = f"columns=[{','.join(components)}]"
    group["data"] = data
    group["data"].attrs["unit"] = measure
    if seconds is not None:
        group["timestamps"] = seconds
    else:
        _put_rate(group, rate)


def _put_rate(group: h5py.Group, rate: tuple[float, float]) -> None:
    group["starting_time"] = rate[0]
    group["starting_time"].attrs["rate"] = rate[1]


def put_rois(group: h5py.Group, parts: Sequence[np.ndarray], rois: h5py.Group, rate: tuple[float, float]) -> None:
    """A series of imaged ROIs.

    Args:
        group: an empty one. parts: arrays ``[ROIs, T]`` of as many frames, laid one beside the other.
        rois: the table whose rows the ROIs are. rate: start in seconds, and rate in Hz.
    """
    n_rois, n_frames = sum(len(part) for part in parts), parts[0].shape[1]
    group.attrs["neurodata_type"] = "RoiResponseSeries"
    data = group.create_dataset("data", (n_frames, n_rois), np.result_type(*parts, np.float32))
    step = max(1, BLOCK_VALUES // n_rois)
    for low in range(0, n_frames, step):  # turned piece by piece: there may be gigabytes
        data[low : low + step] = np.concatenate([part[:, low : low + step] for part in parts]).T
    group["rois"] = np.arange(n_rois)
    group["rois"].attrs["table"] = rois.ref
    _put_rate(group, rate)
