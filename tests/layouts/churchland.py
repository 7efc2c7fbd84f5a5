"""Files in the layout of DANDI 000070, scaled down: clocks that restart inside a file, 1 kHz behaviour within trials.

Block 0 of the Nitschke file holds two overlapping trials; its units hold each way in which spikes can fail to fit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pynwb import NWBFile
from pynwb.behavior import Position, SpatialSeries
from pynwb.ecephys import ElectricalSeries, FilteredEphys
from pynwb.file import Subject

from tests.nwb_files import save

RESTARTS = "sub-Nitschke/sub-Nitschke_ses-20090910_behavior+ecephys.nwb"
STEADY = "sub-Jenkins/sub-Jenkins_ses-20090912_behavior+ecephys.nwb"
FIRST_S = (1000.0, 200.25, 50.5)  # where each block's clock begins
PER_BLOCK = 14
OVERLAPPING = (3, 4)  # rows of the trials that overlap


def write_restarts(path: Path) -> dict[str, int]:
    """Three blocks of trials, each on a clock of its own; what the file holds."""
    from datetime import UTC, datetime

    trials = [(first + 2.0 * k, first + 2.0 * k + 1.5) for first in FIRST_S for k in range(PER_BLOCK)]
    a, b = OVERLAPPING
    trials[b] = (trials[a][1] - 0.4, trials[b][1])
    blocks = [trials[k * PER_BLOCK : (k + 1) * PER_BLOCK] for k in range(len(FIRST_S))]
    rng = np.random.default_rng(3)
    units = []
    for unit in range(6):
        parts = []
        for k, block in enumerate(blocks):
            inside = np.concatenate([rng.uniform(*trial, 3) for trial in block])
            parts.append(np.sort(inside)[: 0 if unit == 4 or (unit == 3 and k == 1) else None])
        if unit == 2:  # a step back inside a block: more runs than there are blocks
            parts[0] = np.roll(parts[0], 5)
        units.append(np.concatenate(parts))
    # unit 3 is silent in block 1: two runs for three blocks
    start = datetime(2009, 9, 10, tzinfo=UTC)
    _write(path, "Nitschke", start, trials, _merged(blocks), units)
    return {
        "units": 6, "spikes": sum(map(len, units)), "trials": len(trials), "blocks": 3,
        "successful": sum(_succeeds(row) for row in range(len(trials)) if row not in OVERLAPPING),
    }  # fmt: skip


def write_steady(path: Path) -> dict[str, int]:
    """One block; one unit whose spikes are out of order; what the file holds."""
    from datetime import UTC, datetime

    trials = [(10.0 + 2.0 * k, 11.5 + 2.0 * k) for k in range(20)]
    rng = np.random.default_rng(4)
    units = [np.sort(np.concatenate([rng.uniform(*trial, 2 + unit) for trial in trials])) for unit in range(4)]
    units[1] = np.roll(units[1], 7)
    _write(path, "Jenkins", datetime(2009, 9, 12, tzinfo=UTC), trials, trials, units)
    return {
        "units": 4, "spikes": sum(map(len, units)), "trials": len(trials), "blocks": 1,
        "successful": sum(map(_succeeds, range(len(trials)))),
    }  # fmt: skip


def _succeeds(row: int) -> bool:
    return row % 10 not in (2, 9)  # 2: failed, 9: to be discarded


def _merged(blocks: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Stretches with behaviour: the trials, two that overlap as one."""
    stretches = []
    for block in blocks:
        for k, (start, stop) in enumerate(block):
            if k and start < block[k - 1][1]:
                stretches[-1] = (stretches[-1][0], stop)
            else:
                stretches.append((start, stop))
    return stretches


def _write(path: Path, subject: str, start, trials, stretches, units) -> None:
    nwb = NWBFile(session_description="", identifier=subject, session_start_time=start, institution="Stanford")
    nwb.subject = Subject(subject_id=subject, species="Rhesus monkey", sex="M", age="P8Y")
    _add_units(nwb, trials, units)
    _add_trials(nwb, trials)
    stamps = np.concatenate([a + np.arange(round((b - a) * 1000)) / 1000 for a, b in stretches])
    module = nwb.create_processing_module("behavior", "contains monkey movement data")
    position = Position(name="Position")
    for k, name in enumerate(("Cursor", "Eye", "Hand")):
        data = np.stack([np.sin(3 * stamps + k), np.cos(2 * stamps)], axis=1) * 50
        position.add_spatial_series(
            SpatialSeries(name=name, data=data, timestamps=stamps, unit="mm", reference_frame="screen")
        )
    module.add(position)
    region = nwb.create_electrode_table_region(region=[0], description="electrode_table_region")
    lfp = ElectricalSeries(name="A001", data=np.zeros((10, 1), np.int16), electrodes=region, rate=1000.0)
    filtered = FilteredEphys(name="Processed", electrical_series=lfp)
    nwb.create_processing_module("ecephys", "LFP").add(filtered)
    save(nwb, path)


def _add_units(nwb, trials, units) -> None:
    """An electrode and a unit each, half of them in either array; every unit is observed in every trial."""
    for name, array in (("1", "PMd"), ("2", "M1")):
        device = nwb.create_device(f"Utah Array({array})", description="96 channel utah array")
        group = nwb.create_electrode_group(name, description=f"at {array}", location=array, device=device)
        for _ in range(len(units) // 2):
            nwb.add_electrode(location=array, group=group, filtering="1000Hz", imp=np.nan, x=0.0, y=0.0, z=0.0)
    for row, times in enumerate(units):
        nwb.add_unit(
            id=row, spike_times=times, obs_intervals=np.array(trials), electrodes=[row],
            electrode_group=nwb.electrodes["group"][row],
        )  # fmt: skip


def _add_trials(nwb, trials) -> None:
    plain = ("go_cue_time", "target_presentation_time", "move_begins_time", "move_ends_time", "reaction_time",
             "discard_trial", "task_success", "maze_condition", "hit_target_position")  # fmt: skip
    for name in plain:
        nwb.add_trial_column(name, name)
    nwb.add_trial_column("target_positions", "x, y", index=True)
    nwb.add_trial_column("barrier_info", "x, y, half width, half height", index=True)
    for row, (start, stop) in enumerate(trials):
        nwb.add_trial(
            start_time=start, stop_time=stop, target_presentation_time=start + 0.1, go_cue_time=start + 0.4,
            move_begins_time=start + 0.7, move_ends_time=start + 1.2, reaction_time=0.3,
            discard_trial=np.uint8(row % 10 == 9), task_success=np.uint8(row % 10 != 2),
            maze_condition=np.uint8(row % 108),
            hit_target_position=np.array([row, -row], np.int16), target_positions=np.ones((1 + row % 3, 2)),
            barrier_info=np.ones((1 + row % 2, 4)),
        )  # fmt: skip
