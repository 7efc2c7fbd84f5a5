"""Files in the layout of DANDI 000017, scaled down, with its oddities: periods in ``rate``, two stamps for a video."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from pynwb import TimeSeries
from pynwb.behavior import (
    BehavioralEpochs,
    BehavioralEvents,
    BehavioralTimeSeries,
    IntervalSeries,
    PupilTracking,
)
from pynwb.file import Subject

from tests.nwb_files import new_file, save

ASSET = "sub-Cori/sub-Cori_ses-20161214T120000.nwb"
N_SITES = 6  # of each probe
VIDEO = ("BehavioralTimeSeries/face_motion_energy", "PupilTracking/eye_area", "PupilTracking/eye_xy_positions")


def write(path: Path, n_trials: int = 12) -> dict[str, int]:
    """Two probes, 5 units; what the file holds."""
    rng = np.random.default_rng(6)
    nwb = new_file(session_id="Cori_2016-12-14")
    nwb.subject = Subject(subject_id="Cori", species="Mus musculus", sex="F", age="P77D")
    nwb.add_electrode_column("ccf_ap", "AP")
    for probe, regions in (("Probe1", ("VISp", "CA1")), ("Probe2", ("MOs", "root"))):
        group = nwb.create_electrode_group(
            probe, description="Neuropixels Phase3A opt3", location="", device=nwb.create_device(probe)
        )
        for site in range(N_SITES):
            nwb.add_electrode(location=regions[2 * site // N_SITES], group=group, filtering="", ccf_ap=float(site))
    n_spikes = _add_units(nwb, rng, 5, 4.0 * n_trials)
    _add_trials(nwb, n_trials)
    ends = _add_behaviour(nwb, rng, 4.0 * n_trials)
    save(nwb, path)
    with h5py.File(path, "r+") as file:  # what today's pynwb does not write any more
        behavior = file["processing/behavior"]
        for name in VIDEO:
            _replace(behavior[name], "timestamps", ends)
        _replace(behavior["BehavioralEpochs/wheel_moves"], "data", np.array([0, 1, 2], np.int8))
    return {"units": 5, "spikes": n_spikes, "trials": n_trials}


def _add_units(nwb, rng, n_units: int, stop_s: float) -> int:
    for name in ("phy_annotations", "peak_channel", "cluster_depths", "waveform_duration", "sampling_rate"):
        nwb.add_unit_column(name, name)
    nwb.add_unit_column("spike_amps", "one a spike", index=True)
    n_spikes = 0
    for row in range(n_units):
        times = np.sort(rng.uniform(0, stop_s, 15 + row))
        first = 2 * row  # the closest channel stands first in the unit's list
        nwb.add_unit(
            spike_times=times, electrodes=[first, *range(max(0, first - 2), first)],
            phy_annotations=[1, 2, 3, 3, 2][row],
            peak_channel=np.array([first + 1]), cluster_depths=np.array([20.0 * row]), sampling_rate=30000.0,
            waveform_duration=np.array([12 + row]), spike_amps=np.ones((times.size, 1)),
            electrode_group=nwb.electrodes["group"][first],
        )  # fmt: skip
        n_spikes += times.size
    return n_spikes


def _add_trials(nwb, n_trials: int) -> None:
    names = ("included", "go_cue", "visual_stimulus_time", "visual_stimulus_left_contrast", "rep_num", "response_time",
             "visual_stimulus_right_contrast", "response_choice", "feedback_time", "feedback_type")  # fmt: skip
    for name in names:
        nwb.add_trial_column(name, name)
    for row in range(n_trials):
        start = 4.0 * row + 0.5
        nwb.add_trial(
            start_time=start, stop_time=start + 3.0, included=row % 5 != 4, go_cue=start + 1.0, rep_num=1.0,
            visual_stimulus_time=start + 0.5, visual_stimulus_left_contrast=0.5, visual_stimulus_right_contrast=0.0,
            response_time=start + 1.6, response_choice=float(row % 3 - 1), feedback_time=start + 1.7,
            feedback_type=1 if row % 2 else -1,
        )  # fmt: skip
    table = nwb.create_time_intervals("spontaneous", "nothing else is going on")
    table.add_interval(start_time=0.0, stop_time=0.4)


def _replace(series, name: str, values: np.ndarray) -> None:
    attributes = dict(series[name].attrs)
    del series[name]
    series.create_dataset(name, data=values).attrs.update(attributes)


def _add_behaviour(nwb, rng, stop_s: float) -> np.ndarray:
    """``rate`` holds seconds a sample; the videos have the times of their first and last frame only, which is returned.

    Moves of the wheel have a start and a stop each, and one value for both.
    """
    wheel = np.cumsum(rng.normal(0, 1, round(stop_s * 2500)))
    nwb.add_acquisition(TimeSeries(name="wheel_position", data=wheel, unit="mm", rate=0.0004, starting_time=0.0))
    piezo = rng.normal(0, 1, round(stop_s * 2500))
    nwb.add_acquisition(TimeSeries(name="lickPiezo", data=piezo, unit="V", rate=0.0004, starting_time=0.0))
    module, ends = nwb.create_processing_module("behavior", "behavior module"), np.array([0.25, stop_s - 0.25])
    moves = IntervalSeries(name="wheel_moves", data=np.zeros(6, np.int8), timestamps=[1.0, 1.5, 6.0, 6.25, 9.0, 9.5])
    module.add(BehavioralEpochs(name="BehavioralEpochs", interval_series=moves))
    licks = TimeSeries(name="lick_times", data=np.ones(4), unit="", timestamps=[2.0, 2.5, 8.0, 8.25])
    module.add(BehavioralEvents(name="BehavioralEvents", time_series=licks))
    face = TimeSeries(name="face_motion_energy", data=rng.random(400), unit="arb. unit", timestamps=np.arange(400.0))
    module.add(BehavioralTimeSeries(name="BehavioralTimeSeries", time_series=face))
    area = TimeSeries(name="eye_area", data=rng.random(300), unit="arb. unit", timestamps=np.arange(300.0))
    frames = np.arange(300.0)
    place = TimeSeries(name="eye_xy_positions", data=rng.random((300, 2)), unit="arb. unit", timestamps=frames)
    module.add(PupilTracking(name="PupilTracking", time_series=[area, place]))
    return ends
