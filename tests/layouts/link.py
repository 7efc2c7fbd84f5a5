"""Files in the layout of DANDI 001201 (0.251023.2336), scaled down: counts in 20 ms bins and no units table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pynwb import TimeSeries
from pynwb.file import Subject

from tests.nwb_files import new_file, save

FIRST = "sub-Monkey-N/sub-Monkey-N_ses-20201023_ecephys.nwb"
LATER = "sub-Monkey-N/sub-Monkey-N_ses-20220301_ecephys.nwb"
N_CHANNELS = 96


def write(path: Path, *, seed: int, n_trials: int = 310) -> dict[str, int]:
    """Trials of five bins each, a gap of a second between the two target styles; what the file holds."""
    rng = np.random.default_rng(seed)
    n_bins, half = n_trials * 5, n_trials * 5 // 2
    stamps = 12.0 + np.arange(n_bins) * 0.02
    stamps[half:] += 1.0
    counts = rng.poisson(0.05, (n_bins, N_CHANNELS)).astype(np.int16)
    counts[:, 17] = 0  # a silent channel
    nwb = new_file(session_id=path.stem)
    nwb.subject = Subject(subject_id="Monkey N", species="Macaca mulatta", sex="M", age="P8Y")
    device = nwb.create_device("Utah Arrays", description="two 64-channel Utah arrays")
    group = nwb.create_electrode_group("Utah Array", description="g", location="M1", device=device)
    for name in ("array_name", "bank", "row", "col"):
        nwb.add_electrode_column(name, name)
    for k in range(N_CHANNELS):
        place = {"array_name": "AB"[k // 48], "bank": "ABC"[k % 3], "row": k // 8 % 8, "col": k % 8}
        nwb.add_electrode(id=k, location="Hand area of primary motor cortex", group=group, filtering="", **place)
    power = rng.random((n_bins, N_CHANNELS))
    series = [("ThresholdCrossings", counts, "threshold crossings"), ("SpikingBandPower", power, "microvolts")]
    for name, unit in (("position", "flexion units"), ("velocity", "flexion units per time bin")):
        series += [(f"{finger}_{name}", rng.random((n_bins, 1)), unit) for finger in ("index", "mrs")]
    for name, data, unit in series:
        nwb.add_analysis(TimeSeries(name=name, data=data, unit=unit, timestamps=stamps))
    targets = ("target_style", "index_target_position", "mrs_target_position")
    for name in ("trial_number", "trial_count", "run_id", *targets):
        nwb.add_trial_column(name, name)
    for row in range(n_trials):
        bins = slice(5 * row, 5 * row + 5)
        nwb.add_trial(
            start_time=stamps[bins][0], stop_time=stamps[bins][-1], trial_number=row + 40, trial_count=row, run_id=2,
            target_style="CO" if 5 * row < half else "RD", index_target_position=0.4, mrs_target_position=0.6,
        )  # fmt: skip
    save(nwb, path)
    return {"units": N_CHANNELS, "spikes": int(counts.sum()), "trials": n_trials, "bins": n_bins}
