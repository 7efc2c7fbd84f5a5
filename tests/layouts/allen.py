"""Files in the layouts of DANDI 000021, 000022 and 000713, scaled down: many stimulus tables, quality columns.

A session has a file of units and stimuli, and one of LFP a probe; 000713 has files of training sessions besides.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from pynwb import TimeSeries
from pynwb.ecephys import LFP, ElectricalSeries
from pynwb.file import Subject

from tests.nwb_files import new_file, save

CODING = "sub-699733573/sub-699733573_ses-715093703.nwb"
CODING_LFP = "sub-699733573/sub-699733573_ses-715093703_probe-810755797_ecephys.nwb"
CONNECTIVITY = "sub-766640955/sub-766640955_ses-787025148.nwb"
BEHAVIOR = "sub-506940/sub-506940_ses-20200817T222149_ecephys+image.nwb"
BEHAVIOR_LFP = "sub-506940/sub-506940_ses-None_probe-1158270876_ecephys.nwb"
TRAINING = "sub-506940/sub-506940_ses-20200228T111117_image.nwb"

QUALITY = ("isi_violations", "amplitude_cutoff", "presence_ratio", "snr", "d_prime", "firing_rate")
UNPLACED = "none"
STIMULI = {"flashes": 10, "gabors": 30, "drifting_gratings": 20, "natural_movie_one": 40, "spontaneous": 2}


def write_session(path: Path, *, behavior: bool, n_units: int = 7) -> dict[str, int]:
    """Units of two probes and the stimuli (with the change-detection task where ``behavior``); what the file holds."""
    rng = np.random.default_rng(8)
    nwb = new_file(session_id=path.stem.rpartition("-")[2])
    nwb.subject = Subject(subject_id=path.name.split("_")[0][4:], species="Mus musculus", sex="M", age="P118D")
    stop_s = 120.0
    n_spikes = _add_units(nwb, rng, n_units, stop_s)
    start = 5.0
    for name, count in STIMULI.items():
        start = _add_stimulus(nwb, name, start, count)
    module = nwb.create_processing_module("running", "running speed data")
    stamps = np.arange(round(stop_s * 60)) / 60
    speed = TimeSeries(name="speed" if behavior else "running_speed", data=rng.random(stamps.size), unit="cm/s",
                       timestamps=stamps)  # fmt: skip
    module.add(speed)
    nwb.add_invalid_time_interval(start_time=50.0, stop_time=52.0, tags=["invalid", "ProbeA"])
    n_trials = _add_task(nwb, stop_s) if behavior else 0
    save(nwb, path)
    with h5py.File(path, "r+") as file:  # electrodes outside of any structure have an empty location
        places = file["general/extracellular_ephys/electrodes/location"]
        places[...] = ["" if place == UNPLACED else place for place in places.asstr()[:]]
    return {
        "units": n_units, "spikes": n_spikes, "trials": n_trials,
        "presentations": sum(STIMULI.values()), "tables": len(STIMULI),
    }  # fmt: skip


def write_lfp(path: Path) -> None:
    """A probe's LFP: no units."""
    nwb = new_file(session_id="lfp")
    device = nwb.create_device("probeA")
    group = nwb.create_electrode_group("probeA", description="g", location="", device=device)
    nwb.add_electrode(location="VISp", group=group, filtering="")
    region = nwb.create_electrode_table_region(region=[0], description="lfp channels")
    data = np.zeros((50, 1), np.float32)
    series = ElectricalSeries(name="probe_1_lfp_data", data=data, electrodes=region, rate=1250.0)
    nwb.add_acquisition(LFP(name="probe_1_lfp", electrical_series=series))
    save(nwb, path)


def _add_units(nwb, rng, n_units: int, stop_s: float) -> int:
    for name in ("local_index", "probe_vertical_position", "probe_horizontal_position", "probe_id", "valid_data"):
        nwb.add_electrode_column(name, name)
    for k, letter in enumerate("AB"):
        device = nwb.create_device(f"probe{letter}")
        group = nwb.create_electrode_group(f"probe{letter}", description="g", location="", device=device)
        for site, place in enumerate(("VISp", "CA1", UNPLACED, "LGd")):
            nwb.add_electrode(
                id=850120000 + 10 * k + site, location=place, group=group, filtering="", local_index=site,
                probe_vertical_position=20 * site, probe_horizontal_position=43, probe_id=810755797 + k,
                valid_data=True,
            )  # fmt: skip
    for name in (*QUALITY, "quality", "cluster_id", "local_index", "peak_channel_id"):
        nwb.add_unit_column(name, name)
    nwb.add_unit_column("spike_amplitudes", "one a spike", index=True)
    n_spikes = 0
    for row in range(n_units):
        times = np.sort(rng.uniform(0.5, stop_s, 30 + row))
        quality = dict(zip(QUALITY, rng.random(len(QUALITY)), strict=True))
        if row == 2:
            quality["amplitude_cutoff"] = np.nan
        nwb.add_unit(
            id=950910000 + 3 * row, spike_times=times, quality="noise" if row == 5 else "good", cluster_id=row,
            local_index=row, peak_channel_id=850120000 + 10 * (row % 2) + row % 4, spike_amplitudes=np.ones(times.size),
            **quality,
        )  # fmt: skip
        n_spikes += times.size
    return n_spikes


def _add_stimulus(nwb, name: str, start: float, count: int) -> float:
    """A table of presentations that follow each other; where it ends."""
    table = nwb.create_time_intervals(f"{name}_presentations", f"Presentation times and details for '{name}' stimuli")
    for column in ("stimulus_name", "stimulus_block", "stimulus_index", "orientation", "contrast", "size", "color"):
        table.add_column(column, column)
    for row in range(count):
        table.add_interval(
            start_time=start + 0.25 * row, stop_time=start + 0.25 * row + 0.2, tags=["stimulus_time_interval"],
            stimulus_name=name, stimulus_block=1.0, stimulus_index=float(row),
            orientation=np.nan if row % 5 == 4 else 45.0 * (row % 8), contrast=0.8, size="[250.0, 250.0]",
            color="[1, 1]",
        )  # fmt: skip
    return start + 0.25 * count + 1.0


def _add_task(nwb, stop_s: float, n_trials: int = 15) -> int:
    times = ("change_time", "change_image_name", "response_latency", "reward_time")
    for name in ("go", "catch", "aborted", "hit", *times):
        nwb.add_trial_column(name, name)
    nwb.add_trial_column("lick_times", "lick_times", index=True)
    for row in range(n_trials):
        start, aborted = 70.0 + 3.0 * row, row % 4 == 3
        nwb.add_trial(
            start_time=start, stop_time=start + 2.5, go=not aborted, catch=False, aborted=aborted, hit=row % 2 == 0,
            change_time=np.nan if aborted else start + 1.0, change_image_name="im012_r",
            response_latency=np.inf if aborted else 0.4, reward_time=np.nan if row % 2 else start + 1.5,
            lick_times=start + 0.5 * np.arange(row % 3),
        )  # fmt: skip
    licks = TimeSeries(name="licks", data=np.arange(5), timestamps=80.0 + np.arange(5), unit="frame")
    nwb.create_processing_module("licking", "Licking behavior processing module").add(licks)
    drops = TimeSeries(name="volume", data=np.full(4, 0.007), timestamps=81.0 + np.arange(4), unit="mL")
    nwb.create_processing_module("rewards", "Rewards").add(drops)
    return n_trials
