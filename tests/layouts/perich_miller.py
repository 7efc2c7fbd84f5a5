"""Files in the layout of DANDI 000688, scaled down: what its metadata and torch_brain's pipeline say they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pynwb import TimeSeries
from pynwb.behavior import BehavioralTimeSeries, Position, SpatialSeries
from pynwb.file import Subject

from tests.nwb_files import new_file, save

CENTER_OUT = "sub-C/sub-C_ses-CO-20160909_behavior+ecephys.nwb"
RANDOM_TARGET = "sub-M/sub-M_ses-RT-20140114_behavior+ecephys.nwb"
RATE_HZ = 100


def write_center_out(path: Path, n_trials: int = 40) -> dict[str, int]:
    """M1 and PMd, 8 units; what the file holds."""
    nwb = _start("C", "Delayed center-out reaching trial.")
    n_spikes = _add_units(nwb, ("M1", "PMd"), 8, 2.0 * n_trials + 12, np.random.default_rng(1))
    result = ["R"] * n_trials
    for row, word in {4: "A", 11: "F", 12: "I", 20: "A", 30: "F"}.items():
        result[row] = word
    for name in ("result", "target_id", "target_dir", "target_on_time", "go_cue_time", "target_corners"):
        nwb.add_trial_column(name, name)
    start = 1.0
    for row, word in enumerate(result):
        length = 8.0 if row == 25 else 1.9  # one trial is too long
        onset, go = start + 0.4, start + 1.0
        unseen = word in "AI"  # aborted before the target or the go cue
        nwb.add_trial(
            start_time=start,
            stop_time=start + length - 0.1,
            result=word,
            target_id=np.nan if unseen or row == 33 else float(row % 8),
            target_dir=np.nan if unseen else np.pi * (row % 8) / 4,
            target_on_time=np.nan if unseen else onset,
            go_cue_time=np.nan if word in "AI" else go,
            target_corners=np.full(4, float(row)),
        )
        start += length
    _add_cursor(nwb, start + 2.0, outliers=True)
    save(nwb, path)
    n_valid = n_trials - 5 - 2  # not rewarded; too long; no target
    return {"units": 8, "spikes": n_spikes, "trials": n_trials, "valid": n_valid}


def write_random_target(path: Path, n_trials: int = 25) -> dict[str, int]:
    """M1 alone, 5 units; what the file holds."""
    nwb = _start("M", "experimental trials.")
    n_spikes = _add_units(nwb, ("M1",), 5, 3.5 * n_trials + 3, np.random.default_rng(2))
    targets = ("num_targets", "target_dir", "target_size", "target_id")
    for name in ("result", "num_attempted", "go_cue_time_array", *targets):
        nwb.add_trial_column(name, name)
    for row in range(n_trials):
        start, n_attempted = 1.0 + 3.5 * row, 2 if row == 7 else 4
        word = "A" if row % 9 == 5 else "R"
        cues = start + 0.3 + 0.7 * np.arange(4.0)
        cues[0 if row == 14 else n_attempted :] = np.nan  # aborted before the first target
        nwb.add_trial(
            start_time=start,
            stop_time=start + (1.2 if row == 3 else 3.2),  # one is too short
            result="A" if row == 14 else word,
            num_attempted=float(n_attempted),
            num_targets=np.uint8(4),
            target_dir=0.5,
            target_size=2.0,
            go_cue_time_array=cues,
            target_id=np.arange(4.0),
        )
    _add_cursor(nwb, 3.5 * n_trials + 3, outliers=False)
    save(nwb, path)
    return {"units": 5, "spikes": n_spikes, "trials": n_trials, "valid": n_trials - 3 - 2}  # 5, 14, 23; 7, 3


def _start(subject: str, trials: str):
    nwb = new_file(session_id=f"sub-{subject}", experiment_description=trials)
    nwb.subject = Subject(subject_id=subject, species="Macaca mulatta", sex="M", age="P6Y")
    return nwb


def _add_units(nwb, arrays: tuple[str, ...], n_units: int, stop_s: float, rng) -> int:
    """Units in order of array, on the recorder's clock of 30 kHz; an electrode may have several."""
    for name in ("bank", "label", "pin"):
        nwb.add_electrode_column(name, name)
    for array in arrays:
        device = nwb.create_device(f"electrode_array_{array}", description=f"96-electrode Utah array in {array}")
        group = nwb.create_electrode_group(
            f"electrode_group_{array}", description=f"array in {array}", location="unknown", device=device
        )
        for pin in range(4):
            nwb.add_electrode(location="unknown", group=group, filtering="unknown", bank="A", label=f"e{pin}", pin=pin)
    n_spikes = 0
    for row in range(n_units):
        ticks = np.sort(rng.choice(int(stop_s * 30000), 20 + 5 * row, replace=False))
        waveforms = np.zeros((ticks.size, 4, 1), np.int16)
        nwb.add_unit(spike_times=ticks / 30000, electrodes=[row * 4 * len(arrays) // n_units], waveforms=waveforms)
        n_spikes += ticks.size
    return n_spikes


def _add_cursor(nwb, stop_s: float, *, outliers: bool) -> None:
    time_s = np.arange(int(stop_s * RATE_HZ)) / RATE_HZ
    position = 4 * np.stack([np.sin(time_s), np.cos(1.3 * time_s)], axis=1)
    if outliers:
        position[2000:2350, 0] = 12.5  # out of the work space for 3.5 s
        position[6000, 1] += 0.5  # a jerk
    velocity = np.gradient(position, time_s, axis=0)
    acceleration = np.gradient(velocity, time_s, axis=0)
    module = nwb.create_processing_module("behavior", "Processed Behavioral data")
    stamps = {"timestamps": time_s}
    cursor = SpatialSeries(name="cursor_pos", data=position, unit="cm", reference_frame="screen", **stamps)
    module.add(Position(name="Position", spatial_series=cursor))
    for name, series, data, unit in (
        ("Velocity", "cursor_vel", velocity, "cm/s"),
        ("Acceleration", "cursor_acc", acceleration, "cm/s^2"),
    ):
        module.add(BehavioralTimeSeries(name=name, time_series=TimeSeries(name=series, data=data, unit=unit, **stamps)))
