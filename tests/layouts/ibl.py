"""Files in the two layouts of DANDI 000409, scaled down: early ``processed-only``, published ``desc-processed``.

Both hold two probes in one units table. The early one gives units their regions by name; the published one only the
electrode of the largest amplitude, names trials' columns otherwise and says choices in words.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pynwb import TimeSeries
from pynwb.behavior import SpatialSeries
from pynwb.file import Subject

from tests.nwb_files import new_file, save

EARLY = "sub-NYU-40/sub-NYU-40_ses-71855308-7e54-41d7-a7a4-b042e78e3b4f-processed-only_behavior.nwb"
PUBLISHED = "sub-NYU-37/sub-NYU-37_ses-21d21fc3-4201-4edc-802a-c67b61952548_desc-processed_behavior+ecephys.nwb"
RAW = "sub-NYU-37/sub-NYU-37_ses-21d21fc3-4201-4edc-802a-c67b61952548_desc-raw_ecephys.nwb"
REGIONS = (("VISa", "CA1", "TH"), ("MOs", "root", "CP"))
UNUSABLE = {3: "no choice", 8: "no movement", 13: "too slow", 17: "no stimulus"}


def write(path: Path, *, published: bool, n_trials: int = 40) -> dict[str, int]:
    """Six units on two probes; what the file holds."""
    rng = np.random.default_rng(7)
    nwb = new_file(session_id=path.name.split("_ses-")[1][:36])
    nwb.subject = Subject(subject_id=path.name.split("_ses-")[0][4:], species="Mus musculus", sex="M", age="P100D")
    groups = []
    for probe in range(2):
        device = nwb.create_device(f"NeuropixelsProbe{probe:02d}", description="a probe")
        groups.append(nwb.create_electrode_group(f"Probe{probe:02d}", description="g", location="", device=device))
        for region in REGIONS[probe]:
            nwb.add_electrode(location=region, group=groups[probe], filtering="")
    stop_s = 5.0 * n_trials + 20
    add = _add_published if published else _add_early
    n_spikes = add(nwb, rng, stop_s)
    _add_trials(nwb, n_trials, published)
    _add_behaviour(nwb, rng, stop_s, published)
    save(nwb, path)
    return {"units": 6, "spikes": n_spikes, "trials": n_trials, "usable": n_trials - len(UNUSABLE)}


def _add_early(nwb, rng, stop_s: float) -> int:
    for name in ("probe_name", "allen_location", "beryl_location", "cosmos_location", "label", "firing_rate"):
        nwb.add_unit_column(name, name)
    n_spikes = 0
    for row in range(6):
        probe, region = row // 3, REGIONS[row // 3][row % 3]
        times = np.sort(rng.uniform(0, stop_s, 40 + row))
        nwb.add_unit(
            id=row, spike_times=times, probe_name=f"probe{probe:02d}", allen_location=region + "5",
            beryl_location=region, cosmos_location="Isocortex", label=row / 6, firing_rate=times.size / stop_s,
        )  # fmt: skip
        n_spikes += times.size
    return n_spikes


def _add_published(nwb, rng, stop_s: float) -> int:
    for name in ("unit_name", "probe_name", "cluster_uuid", "ibl_quality_score", "firing_rate", "max_electrode"):
        nwb.add_unit_column(name, name)
    nwb.add_unit_column("spike_amplitudes_uV", "one a spike", index=True)
    n_spikes = 0
    for row in range(6):
        probe, cluster = row // 3, row % 3  # numbered anew on each probe
        times = np.sort(rng.uniform(0, stop_s, 40 + row))
        nwb.add_unit(
            id=row, spike_times=times, unit_name=f"probe{probe:02d}_{cluster}", probe_name=f"Probe{probe:02d}",
            cluster_uuid=f"uuid-{row}", ibl_quality_score=row / 6, firing_rate=times.size / stop_s,
            max_electrode=3 * probe + cluster, spike_amplitudes_uV=np.ones(times.size),
            electrodes=list(range(3 * probe, 3 * probe + 3)),
        )  # fmt: skip
        n_spikes += times.size
    return n_spikes


def _add_trials(nwb, n_trials: int, published: bool) -> None:
    early = ("stim_on_time", "first_movement_time", "feedback_time", "choice", "feedback_type", "probability_left")
    new = (
        "gabor_stimulus_onset_time", "wheel_movement_onset_time", "feedback_time", "mouse_wheel_choice",
        "is_mouse_rewarded", "probability_left",
    )  # fmt: skip
    names = new if published else early
    for name in names:
        nwb.add_trial_column(name, name)
    for row in range(n_trials):
        start, why = 5.0 * row + 3, UNUSABLE.get(row, "")
        side = 0.0 if why == "no choice" else 1.0 if row % 2 else -1.0
        word = {0.0: "none", 1.0: "clockwise", -1.0: "counter_clockwise"}[side]
        onset = np.nan if why == "no stimulus" else start + 0.6
        moved = np.nan if why == "no movement" else start + (12.0 if why == "too slow" else 0.9)
        values = (
            onset, moved, start + 1.5, word if published else side,
            bool(row % 3) if published else float(row % 3) - 0.5,
            (0.5, 0.2, 0.8)[min(row // 10, 2)],
        )  # fmt: skip
        nwb.add_trial(start_time=start, stop_time=start + 4.5, **dict(zip(names, values, strict=True)))
    if published:
        nwb.add_epoch_column("protocol_type", "task or passive")
        nwb.add_epoch(start_time=0.0, stop_time=5.0 * n_trials + 5, protocol_type="task")
        nwb.add_epoch(start_time=5.0 * n_trials + 5, stop_time=5.0 * n_trials + 20, protocol_type="passive")


def _add_behaviour(nwb, rng, stop_s: float, published: bool) -> None:
    module = nwb.create_processing_module("wheel" if published else "behavior", "the wheel")
    stamps = np.sort(rng.uniform(0, stop_s, 500))  # the encoder writes when it turns
    name = "WheelPosition" if published else "SpatialSeriesWheelPosition"
    data = np.cumsum(rng.normal(0, 0.1, 500))
    module.add(SpatialSeries(name=name, data=data, timestamps=stamps, unit="radians", reference_frame="wheel"))
    speed = rng.normal(0, 1, round(stop_s * 50))
    name = "WheelSmoothedVelocity" if published else "TimeSeriesWheelVelocity"
    module.add(TimeSeries(name=name, data=speed, rate=50.0, starting_time=0.0, unit="rad/s"))
    video = nwb.create_processing_module("video", "cameras") if published else module
    frames = np.arange(round(stop_s * 20)) / 20
    energy = TimeSeries(name="LeftCameraMotionEnergy", data=rng.random(frames.size), timestamps=frames, unit="a.u.")
    video.add(energy)
