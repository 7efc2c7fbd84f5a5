"""NWB files for tests: good ones written with pynwb, and nasty ones made from them with h5py.

Not our simulator: what is read here was written by somebody else's code.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import (
    BehavioralEpochs,
    BehavioralEvents,
    BehavioralTimeSeries,
    EyeTracking,
    IntervalSeries,
    Position,
    SpatialSeries,
)
from pynwb.ecephys import ElectricalSeries
from pynwb.file import Subject

START = datetime(2020, 1, 1, 12, tzinfo=UTC)
PLAIN_SPIKES = ([0.1, 0.25, 3.0], [], [0.05, 0.25, 2.5, 4.0])
RICH_SPIKES = ([0.1, 0.25, 0.25, 3.0, 9.5], [], [-0.5, 0.05, 2.5, 4.0], [1.0, 1.1])
RICH_OBSERVED = ([[0, 2], [2, 4], [6, 10]], [[0, 10]], [[-1, 5]], [[0.5, 2], [1, 3]])


def new_file(**facts: object) -> NWBFile:
    """An NWB file in memory with the least that the schema wants."""
    return NWBFile(session_description="test", identifier="id", session_start_time=START, **facts)


def save(nwb: NWBFile, path: Path) -> Path:
    """Write without the cached schema: 30 kB in place of 250."""
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb, cache_spec=False)
    return path


def write_plain(path: Path, spikes: Sequence[Sequence[float]] = PLAIN_SPIKES) -> Path:
    """Units with spike times, a trials table of 3 rows, one behaviour with time stamps."""
    nwb = new_file()
    for times in spikes:
        nwb.add_unit(spike_times=np.array(times, np.float64))
    nwb.add_trial_column("side", "a text")
    for start, stop, side in ((0.0, 1.0, "left"), (1.5, 2.5, "right"), (3.0, 4.0, "left")):
        nwb.add_trial(start_time=start, stop_time=stop, side=side)
    module = nwb.create_processing_module("behavior", "behaviour")
    time_s = np.arange(50) * 0.1
    value = np.stack([np.sin(time_s), np.cos(time_s)], axis=1)
    module.add(TimeSeries(name="hand_vel", data=value, unit="mm/s", timestamps=time_s, comments="columns=[x,y]"))
    return save(nwb, path)


def write_rich(path: Path) -> Path:
    """Everything that a session is made from, and much that is to be left out."""
    nwb = new_file(timestamps_reference_time=datetime(2020, 1, 1, 11, tzinfo=UTC))
    nwb.subject = Subject(subject_id="rat-7", species="Rattus norvegicus", sex="F", age="P90D", description="a rat")
    nwb.institution, nwb.lab, nwb.experimenter = "An institute", "A lab", ["One, A.", "Two, B."]
    _add_units(nwb)
    _add_tables(nwb)
    _add_behaviour(nwb)
    _add_acquisition(nwb)
    return save(nwb, path)


def _add_units(nwb: NWBFile) -> None:
    device = nwb.create_device("array")
    for name in ("PMd", "M1"):
        group = nwb.create_electrode_group(name, description="g", location=f"brain_region: {name}; x: y", device=device)
        for _ in range(3):
            nwb.add_electrode(location=group.location, group=group, group_name=f"group_{name}")
    nwb.add_unit_column("quality", "sorting quality")
    nwb.add_unit_column("heldout", "held out")
    nwb.add_unit_column("depth", "um")
    nwb.add_unit_column("tags", "words", index=True)
    nwb.add_unit_column("sampling_rate", "Hz")
    for row, (times, observed) in enumerate(zip(RICH_SPIKES, RICH_OBSERVED, strict=True)):
        nwb.add_unit(
            id=10 + row,
            spike_times=np.array(times, np.float64),
            obs_intervals=np.array(observed, np.float64),
            electrodes=[row] if row < 3 else [3, 4],
            waveform_mean=np.ones(30) * row,
            quality="good" if row % 2 else "é µ",
            heldout=row == 3,
            depth=np.nan if row == 1 else 10.5 * row,
            tags=["a"] * row,
            sampling_rate=30000.0,
        )


def _add_tables(nwb: NWBFile) -> None:
    series = TimeSeries(name="ref", data=np.arange(5.0), unit="m", rate=1.0)
    nwb.add_acquisition(series)
    nwb.add_trial_column("split", "split")
    nwb.add_trial_column("go_time", "s")
    nwb.add_trial_column("success", "bool")
    nwb.add_trial_column("target_pos", "n x 2", index=True)
    rows = [(0.0, 1.0, "train"), (1.0, 2.0, "train"), (2.5, 3.5, "val"), (4.0, 5.0, "none"), (5.0, 6.0, "test")]
    for row, (start, stop, split) in enumerate(rows):
        nwb.add_trial(
            start_time=start,
            stop_time=stop,
            split=split,
            go_time=np.nan if row == 1 else start + 0.2,
            success=row != 2,
            target_pos=np.ones((row % 3, 2)) * row,
            timeseries=[series],
        )
    nwb.add_epoch(start_time=0.0, stop_time=6.0, tags=["all", "of it"])
    nwb.add_invalid_time_interval(start_time=7.0, stop_time=7.5, tags=["noise"])
    table = nwb.create_time_intervals("stimuli", "a second table")
    table.add_column("orientation", "deg")
    for row in range(3):
        table.add_interval(start_time=float(row), stop_time=row + 0.5, orientation=30 * row)
    if hasattr(nwb, "create_events_table"):  # pynwb 4.2
        events = nwb.create_events_table(name="rewards", description="valve openings")
        for time, lasts in ((1.0, 0.25), (2.0, np.nan)):
            events.add_event(timestamp=time, duration=lasts, annotation="drop")


def _add_behaviour(nwb: NWBFile) -> None:
    module = nwb.create_processing_module("behavior", "behaviour")
    time_s = np.arange(80) * 0.1
    position = np.stack([time_s, -time_s], axis=1)
    position[5] = np.nan
    module.add(
        Position(
            spatial_series=SpatialSeries(
                name="cursor",
                data=position,
                timestamps=time_s,
                reference_frame="screen",
                unit="m",
                conversion=0.01,
                offset=2.0,
            )
        )
    )
    module.add(
        TimeSeries(name="hand_vel", data=position[:, :1].ravel() * 0 + 3, unit="mm/s", rate=10.0, starting_time=0.5)
    )
    eye = SpatialSeries(name="cursor", data=position[:, 0] * 0 + 1, timestamps=time_s, reference_frame="eye")
    module.add(EyeTracking(spatial_series=eye))
    emg = BehavioralTimeSeries(name="emg")
    for muscle in ("biceps", "triceps"):
        emg.add_timeseries(TimeSeries(name=muscle, data=np.arange(80, dtype=np.int16), unit="mV", timestamps=time_s))
    module.add(emg)
    licks = TimeSeries(name="licks", data=[1, 1, 2], unit="n", timestamps=[0.5, 0.5, 3.25])
    module.add(BehavioralEvents(time_series=licks))
    still = IntervalSeries(name="still", data=np.array([1, -1], np.int8), timestamps=[1.0, 2.0])
    module.add(BehavioralEpochs(interval_series=still))
    module.add(TimeSeries(name="wide", data=np.zeros((80, 65)), unit="a", timestamps=time_s))
    module.add(TimeSeries(name="words", data=["a", "b"], unit="n.a.", timestamps=[0.0, 1.0]))


def _add_acquisition(nwb: NWBFile) -> None:
    region = nwb.create_electrode_table_region([0, 1], "two")
    nwb.add_acquisition(ElectricalSeries(name="raw", data=np.zeros((20, 2)), electrodes=region, rate=10.0))
    nwb.add_acquisition(
        TimeSeries(name="eval_mask", data=np.ones(40, bool), unit="bool", timestamps=np.arange(40) * 0.5)
    )


# ---- nasty files ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def edited(good: Path, path: Path) -> Iterator[h5py.File]:
    """A copy of a good file, open for mischief."""
    shutil.copyfile(good, path)
    with h5py.File(path, "r+") as file:
        yield file


def replace_data(file: h5py.File, name: str, data: object) -> None:
    """Other data under the same name with the same attributes; its index points at it again."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=data).attrs.update(attributes)
    if f"{name}_index" in file:
        file[f"{name}_index"].attrs["target"] = file[name].ref


def _no_units(file: h5py.File) -> None:
    del file["units"]


def _zero_units(file: h5py.File) -> None:
    for name, empty in (("id", np.int64), ("spike_times", np.float64), ("spike_times_index", np.uint8)):
        replace_data(file, f"units/{name}", np.zeros(0, empty))


def _no_spikes(file: h5py.File) -> None:
    replace_data(file, "units/spike_times", np.zeros(0))
    replace_data(file, "units/spike_times_index", np.zeros(3, np.uint8))


def _external(file: h5py.File) -> None:
    del file["units/spike_times"]
    file["units/spike_times"] = h5py.ExternalLink("gone.nwb", "/units/spike_times")


def _soft(file: h5py.File) -> None:
    del file["processing/behavior/hand_vel/data"]
    file["processing/behavior/hand_vel/data"] = h5py.SoftLink("/nowhere")


def _circle(file: h5py.File) -> None:
    del file["units"]
    file["units"] = h5py.SoftLink("/units")


def _sparse(file: h5py.File) -> None:
    attributes = dict(file["units/spike_times"].attrs)
    del file["units/spike_times"]
    data = file.create_dataset("units/spike_times", shape=(10**11,), dtype=np.float64, chunks=(1024,))
    data.attrs.update(attributes)
    replace_data(file, "units/spike_times_index", np.array([10**10, 10**10, 10**11], np.uint64))


def _unwritten(file: h5py.File) -> None:
    attributes = dict(file["units/spike_times"].attrs)
    del file["units/spike_times"]
    data = file.create_dataset("units/spike_times", shape=(100_000,), dtype=np.float64, chunks=(1024,))
    data.attrs.update(attributes)
    replace_data(file, "units/spike_times_index", np.array([100, 100, 100_000], np.uint32))


def _index(*stop: int) -> Callable[[h5py.File], None]:
    return lambda file: replace_data(file, "units/spike_times_index", np.array(stop, np.uint16))


def _data(name: str, data: object) -> Callable[[h5py.File], None]:
    return lambda file: replace_data(file, name, data)


def _not_nwb(file: h5py.File) -> None:
    del file.attrs["nwb_version"]


def _version_one(file: h5py.File) -> None:
    del file.attrs["nwb_version"]
    file["nwb_version"] = "NWB-1.0.6"


def _version_three(file: h5py.File) -> None:
    file.attrs["nwb_version"] = "3.0.0"


def _remove(name: str) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        del file[name]

    return edit


def _group_for_data(file: h5py.File) -> None:
    del file["units/spike_times"]
    file.create_group("units/spike_times")


# name -> how to make it from the plain file, and what the one line of the error must say
REFUSED: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no units": (_no_units, "no units table"),
    "zero units": (_zero_units, "zero units"),
    "not one spike": (_no_spikes, "3 units and not one spike"),
    "only NaN spikes": (_data("units/spike_times", np.full(7, np.nan)), "not one spike"),
    "no spike times": (_remove("units/spike_times"), "without 'spike_times'"),
    "no unit ids": (_remove("units/id"), "has no 'id'"),
    "no index": (_remove("units/spike_times_index"), "7 spike times of 3 units have no 'spike_times_index'"),
    "samples for seconds": (_data("units/spike_times", np.arange(7)), "int64, expected seconds"),
    "texts for seconds": (_data("units/spike_times", ["a"] * 7), "expected seconds"),
    "two-dimensional spikes": (_data("units/spike_times", np.ones((7, 2))), "expected one dimension"),
    "index falls": (_index(5, 3, 7), "falls from 5 to 3 at row 1"),
    "index beyond the data": (_index(3, 3, 9), "ends at 9, but 7 values"),
    "index before the data's end": (_index(3, 3, 6), "ends at 6, but 7 values"),
    "index too short": (_index(3, 7), "has 2 rows, expected 3"),
    "index of floats": (_data("units/spike_times_index", np.array([3.0, 3, 7])), "expected one whole number"),
    "column too short": (_data("intervals/trials/side", ["a", "b"]), "has 2 rows, expected 3"),
    "starts too short": (_data("intervals/trials/start_time", np.zeros(2)), "expected seconds of 3 rows"),
    "external link": (_external, "a link to /units/spike_times of file gone.nwb"),
    "soft link": (_soft, "a link to /nowhere"),
    "link in a circle": (_circle, "/units is a link to /units"),
    "800 GB declared": (_sparse, "declares 800.0 GB"),
    "never written": (_unwritten, "never written"),
    "not NWB": (_not_nwb, "HDF5 but not NWB"),
    "NWB 1": (_version_one, "version 'NWB-1.0.6'"),
    "NWB 3": (_version_three, "version '3.0.0'"),
    "group for a dataset": (_group_for_data, "is a group, expected a dataset"),
}
