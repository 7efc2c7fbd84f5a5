"""The fourteen files of the Neural Latents Benchmark '21, small: DANDI 000127 to 000130 and 000138 to 000140.

What is kept: folders and file names; the columns of trials, units and electrodes and their types; one file with all
units and the behaviour, one with held-in units only and no behaviour; ``obs_intervals`` that are the trials (maze, all
test files) or a few long segments (the others' train files); the electrode indices of M1 that are 96 too low; units
without electrodes (DMFC); 1 kHz behaviour within trials (maze), within segments (RTT) or by a rate (Area2). What is
small: trials, units, columns of muscles and joints. Runs under pynwb 2.5 too, which nlb_tools needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import SpatialSeries
from pynwb.file import Subject

FILES = {
    name: (f"sub-{stem}_desc-train_{kind}.nwb", f"sub-{stem}_desc-test_ecephys.nwb")
    for name, stem, kind in (
        ("mc_maze", "Jenkins/sub-Jenkins_ses-full", "behavior+ecephys"),
        ("mc_maze_large", "Jenkins/sub-Jenkins_ses-large", "behavior+ecephys"),
        ("mc_maze_medium", "Jenkins/sub-Jenkins_ses-medium", "behavior+ecephys"),
        ("mc_maze_small", "Jenkins/sub-Jenkins_ses-small", "behavior+ecephys"),
        ("mc_rtt", "Indy/sub-Indy", "behavior+ecephys"),
        ("area2_bump", "Han/sub-Han", "behavior+ecephys"),
        ("dmfc_rsg", "Haydn/sub-Haydn", "ecephys"),
    )
}
SEEDS = {name: 100 + k for k, name in enumerate(FILES)}


@dataclass
class Part:
    """What one file holds.

    Args:
        trials: columns; ``start_time`` and ``stop_time`` first.
        spikes: seconds of each unit. unit_id, heldout, electrode: of each unit.
        observed: seconds, ``[I, 2]``, of every unit.
        series: name -> (values ``[T, C]``, time stamps or None for a rate of 1 kHz from 0, measure, column names).
    """

    trials: dict[str, Sequence]
    spikes: list[np.ndarray]
    unit_id: np.ndarray
    heldout: np.ndarray
    electrode: np.ndarray
    observed: np.ndarray
    series: dict[str, tuple] = field(default_factory=dict)


def write_nlb(name: str, folder: Path, twist: int = 0) -> dict[str, Path]:
    """Write both files of a set below ``folder``; the paths of "train" and "test". ``twist``: see :func:`parts`."""
    made = {}
    for kind, part, path in zip(("train", "test"), parts(name, twist), FILES[name], strict=True):
        made[kind] = Path(folder) / path
        made[kind].parent.mkdir(parents=True, exist_ok=True)
        _write(name, kind, part, made[kind])
    return made


def parts(name: str, twist: int = 0) -> tuple[Part, Part]:
    """The train and the test file of a set, as values.

    A ``twist`` (a seed) puts events off the millisecond grid, ends of observed time too, and adds spikes outside of
    observed time, on its edges, and twice the same.
    """
    rng = np.random.default_rng(SEEDS[name] + 1000 * twist)
    make = {"mc_rtt": _rtt, "area2_bump": _area2, "dmfc_rsg": _dmfc}.get(name, _maze)
    train, test = make(rng)
    if twist:
        _twist(rng, name, train)
        _twist(rng, name, test)
    return train, test


def _twist(rng: np.random.Generator, name: str, part: Part) -> None:
    for column in {"move_onset_time", "go_time"} & set(part.trials):
        part.trials[column] = [t + int(rng.integers(0, 1000)) * 1e-6 for t in part.trials[column]]
    starts, gaps = part.observed[:, 0], part.observed[:-1, 1] + 0.0123
    gaps = gaps[gaps < part.observed[1:, 0]]
    for unit, times in enumerate(part.spikes):
        edges = starts[:3] + rng.integers(0, 50, len(starts[:3])) / 1000
        part.spikes[unit] = np.sort(np.concatenate([times, edges, times[:2], gaps[:2]]))
    if name == "area2_bump" and part.series:  # windows of two splits that overlap: the PSTH of both cuts the first
        part.trials["split"][14] = "train"
        part.trials["move_onset_time"][14] = part.trials["move_onset_time"][13] + 0.5
        for column in ("cond_dir", "ctr_hold_bump"):
            part.trials[column][14] = part.trials[column][13]
    if name.startswith("mc_maze") and part.series:
        part.observed = part.observed + np.array([[0.0, 0.0004]])


# ---- values ---------------------------------------------------------------------------------------------------------


def _spikes(rng: np.random.Generator, observed: np.ndarray, n_units: int) -> list[np.ndarray]:
    """10 to 40 Hz on the 30 kHz clock inside observed time; some on the edge of a millisecond, one at the start."""
    out = []
    for unit in range(n_units):
        times = []
        for start, stop in observed:
            n = rng.poisson((10 + 30 * unit / n_units) * (stop - start))
            ticks = np.unique(rng.integers(np.ceil(start * 30_000), np.floor(stop * 30_000), n))
            ticks[: len(ticks) // 5] -= ticks[: len(ticks) // 5] % 30  # on a whole millisecond
            ticks = ticks[ticks >= np.ceil(start * 30_000)]
            times.append(np.unique(ticks) / 30_000)
        out.append(np.concatenate(times).round(6))
    out[0] = np.unique(np.append(out[0], observed[0, 0]))
    return out


def _grid(start: float, stop: float) -> np.ndarray:
    """The whole milliseconds in ``[start, stop)``, in seconds."""
    return np.arange(np.ceil(round(start * 1000, 6)), np.ceil(round(stop * 1000, 6))) / 1000


def _smooth(rng: np.random.Generator, n: int, n_columns: int, scale: float) -> np.ndarray:
    """A slow random movement."""
    phase, speed = rng.uniform(0, 2 * np.pi, (5, n_columns)), rng.uniform(0.3, 4, (5, n_columns))
    time = np.arange(n)[:, None] / 1000
    return scale * sum(np.sin(2 * np.pi * speed[k] * time + phase[k]) for k in range(5)) / 3


def _words(values: Sequence[str]) -> list[str]:
    return [str(v) for v in values]


def _maze(rng: np.random.Generator) -> tuple[Part, Part]:
    unit_id = np.array([1011, 1022, 1031, 1451, 2011, 2012, 2131, 2861])
    electrode = unit_id % 1000 // 10 - 1  # rows of the electrodes table: for M1 the source forgets to add 96
    heldout = np.array([0, 0, 1, 0, 0, 1, 0, 1], bool)
    n, clock, columns = 13, 0.0, {}
    rows = []
    for _ in range(n):
        delay, rt = int(rng.integers(300, 500)), int(rng.integers(220, 320))
        target_on = round(clock + 0.1, 3)
        go = round(target_on + delay / 1000, 3)
        onset = round(go + rt / 1000, 3)
        stop = round(onset + 0.8 + int(rng.integers(0, 150)) / 1000, 3)
        rows.append((clock, stop, target_on, go, onset, rt, delay))
        clock = np.ceil(round(stop * 10, 6)) / 10
    names = ("start_time", "stop_time", "target_on_time", "go_cue_time", "move_onset_time")
    columns = {name: [r[k] for r in rows] for k, name in enumerate(names)}
    kind = np.arange(n) % 3
    columns["split"] = _words(np.where(np.arange(n) % 4 == 3, "val", "train"))
    columns["split"][n - 1] = "none"
    columns |= {"trial_type": (kind % 2 + 1).tolist(), "trial_version": (kind // 2).tolist()}
    columns |= {"maze_id": (kind + 20).tolist(), "success": [True] * n}
    columns |= {"rt": [r[5] for r in rows], "delay": [r[6] for r in rows]}
    n_targets, n_barriers = np.where(kind == 2, 3, 1), np.where(kind == 1, 0, 2)
    columns["num_targets"] = n_targets.tolist()
    columns["target_pos"] = [rng.integers(-120, 120, (k, 2)).astype(np.int16) for k in n_targets]
    columns["num_barriers"] = n_barriers.tolist()
    columns["barrier_pos"] = [rng.integers(-90, 90, (k, 4)) for k in n_barriers]  # no barrier, no row
    columns["active_target"] = [0] * n
    observed = np.array([r[:2] for r in rows])
    time = np.concatenate([_grid(*span) for span in observed])
    series = {}
    at = np.rint(time * 1000).astype(int)
    for name, scale in (("cursor_pos", 80.0), ("eye_pos", 60.0), ("hand_pos", 80.0), ("hand_vel", 300.0)):
        value = _smooth(rng, at[-1] + 1, 2, scale)[at].round(4)
        series[name] = (value, time, "mm/s" if name == "hand_vel" else "mm", "x,y")
    train = Part(columns, _spikes(rng, observed, len(unit_id)), unit_id, heldout, electrode, observed, series)
    start = np.round(np.arange(4) * 0.8, 3)
    test = {"start_time": start, "stop_time": (start + 0.7).round(3), "move_onset_time": (start + 0.25).round(3)}
    return train, _test_part(rng, train, test)


def _test_part(rng: np.random.Generator, train: Part, trials: dict[str, Sequence]) -> Part:
    trials = {name: np.asarray(values).tolist() for name, values in trials.items()}
    trials["split"] = ["test"] * len(trials["start_time"])
    observed = np.array([trials["start_time"], trials["stop_time"]]).T
    keep = ~train.heldout
    spikes = _spikes(rng, observed, int(keep.sum()))
    return Part(trials, spikes, train.unit_id[keep], train.heldout[keep], train.electrode[keep], observed)


def _rtt(rng: np.random.Generator) -> tuple[Part, Part]:
    unit_id, at = np.arange(1, 9), np.arange(16)
    start = np.round(at * 0.6 + (at >= 7) * 1.3, 3)  # two segments with unobserved time between them
    split = np.where(at % 4 == 3, "val", "train")
    split[[5, 6, 14, 15]] = "none"
    columns = {"start_time": start.tolist(), "stop_time": (start + 0.6).round(3).tolist(), "split": _words(split)}
    observed = np.array([[0.0, 4.2], [round(4.2 + 1.3, 3), columns["stop_time"][-1]]])
    time = np.concatenate([_grid(*span) for span in observed])
    ms, series = np.rint(time * 1000).astype(int), {}
    for name, names, scale in (
        ("cursor_pos", "x,y", 90.0),
        ("finger_pos", "x,y,z", 90.0),
        ("finger_vel", "x,y", 250.0),
    ):
        unit = "mm/s" if name == "finger_vel" else "mm"
        series[name] = (_smooth(rng, ms[-1] + 1, len(names.split(",")), scale)[ms].round(4), time, unit, names)
    steps = np.repeat(rng.integers(-60, 60, (ms[-1] // 900 + 1, 2)), 900, axis=0)[ms].astype(float)
    series["target_pos"] = (steps, time, "mm", "x,y")
    heldout = np.array([0, 0, 0, 1, 0, 0, 1, 0], bool)
    train = Part(columns, _spikes(rng, observed, 8), unit_id, heldout, np.arange(8) * 3, observed, series)
    start = np.round(np.arange(4) * 0.7, 3)
    return train, _test_part(rng, train, {"start_time": start, "stop_time": (start + 0.6).round(3)})


def _area2(rng: np.random.Generator) -> tuple[Part, Part]:
    n, unit_id = 16, np.arange(8)
    passive = np.arange(n) % 2 == 1
    clock, rows = 0.0, []
    for row in range(n):
        bump = clock + 0.35 + int(rng.integers(0, 1500)) / 10_000  # off the millisecond grid
        onset = bump + 0.0001 if passive[row] else bump + 0.3
        stop = round(onset + 0.75 + int(rng.integers(0, 100)) / 1000, 3)
        rows.append((clock, stop, round(bump, 4), round(bump, 4), round(bump + 0.1, 4), round(onset, 4)))
        clock = np.ceil(round(stop * 10, 6)) / 10
    value = np.array(rows)
    value[passive, 3:5] = np.nan
    value[~passive, 2] = np.nan
    value[6, 5] = np.nan  # no movement was found in this one
    names = ("start_time", "stop_time", "bump_time", "target_on_time", "go_cue_time", "move_onset_time")
    columns = {name: value[:, k].tolist() for k, name in enumerate(names)}
    split = np.where(np.arange(n) % 5 >= 3, "val", "train")
    split[[6, 8, n - 1]] = "none"
    direction = (np.arange(n) // 2 % 2) * 90.0
    columns |= {"split": _words(split), "result": _words(np.where(split == "none", "F", "R"))}
    columns |= {"ctr_hold": np.full(n, 0.5).tolist(), "ctr_hold_bump": passive.tolist()}
    columns |= {"bump_dir": np.where(passive, direction, np.nan).tolist()}
    columns |= {"target_dir": np.where(passive, np.nan, direction).tolist(), "cond_dir": direction.tolist()}
    observed = np.array([[0.0, value[8, 0]], [value[9, 0], value[-1, 1]]])  # trial 8 lies in unobserved time
    n_samples = round(observed[-1, 1] * 1000)
    series = {}
    for name, n_columns, unit, scale in (
        ("force", 6, "N", 3.0), ("hand_pos", 2, "cm", 8.0), ("hand_vel", 2, "cm/s", 20.0),
        ("joint_ang", 3, "deg", 60.0), ("joint_vel", 3, "deg/s", 90.0),
        ("muscle_len", 4, "m", 0.2), ("muscle_vel", 4, "m/s", 0.1),
    ):  # fmt: skip
        labels = {"force": "fx,fy,fz,mx,my,mz", "hand_pos": "x,y", "hand_vel": "x,y"}
        columns_of = labels.get(name) or ",".join(f"{name}{k}" for k in range(n_columns))
        series[name] = (_smooth(rng, n_samples, n_columns, scale).round(5), None, unit, columns_of)
    heldout = np.array([0, 1, 0, 0, 0, 1, 0, 0], bool)
    train = Part(columns, _spikes(rng, observed, 8), unit_id, heldout, np.arange(8) * 5, observed, series)
    start = np.round(np.arange(5) * 0.7, 3)
    onset = (start + 0.1).round(3)
    return train, _test_part(
        rng, train, {"start_time": start, "stop_time": (start + 0.6).round(3), "move_onset_time": onset}
    )


def _dmfc(rng: np.random.Generator) -> tuple[Part, Part]:
    n, unit_id, clock, rows = 15, np.arange(8), 0.0, []
    ts = np.where(np.arange(n) // 2 % 2 == 0, 640.0, 800.0)
    for row in range(n):
        tp = float(np.round(ts[row] * rng.uniform(0.85, 1.2), 1))
        fix = clock + 0.25
        target = fix + 0.3
        ready = target + 0.4
        go_set = ready + ts[row] / 1000
        go = go_set + tp / 1000  # on tenths of a millisecond
        stop = round(go + 0.65, 3)
        rows.append((clock, stop, clock + 0.05, fix, target, ready, go_set, go, go + 0.03, go + 0.2, tp))
        clock = stop + (1.7 if row == 8 else 0.0)
    value = np.array(rows).round(6)
    names = ("start", "stop", "fix_on", "fix", "target_on", "ready", "set", "go")
    names = [f"{name}_time" for name in names]
    columns = {name: value[:, k].tolist() for k, name in enumerate(names)}
    columns |= {"target_acq_time": value[:, 8].tolist(), "reward_time": value[:, 9].tolist()}
    columns["bad_time"] = np.full(n, np.nan).tolist()
    split = np.where(np.arange(n) % 4 == 3, "val", "train")
    split[[0, 8, 9, n - 1]] = "none"
    columns |= {"split": _words(split), "is_eye": (np.arange(n) % 2 == 1).tolist(), "theta": np.zeros(n).tolist()}
    columns |= {"is_short": (ts < 700).tolist(), "ts": ts.tolist(), "tp": value[:, 10].tolist()}
    columns |= {"iti": np.where(ts < 700, 500.0, 1220.0).tolist(), "is_outlier": [row in (5, 7) for row in range(n)]}
    columns |= {"fix_time_dur": np.full(n, 300.0).tolist(), "target_time_dur": np.full(n, 400.0).tolist()}
    columns["reward_dur"] = np.full(n, 120.0).tolist()
    observed = np.array([[0.0, value[8, 1]], [value[9, 0], value[-1, 1]]])
    heldout = np.array([0, 0, 1, 0, 0, 0, 1, 0], bool)
    train = Part(columns, _spikes(rng, observed, 8), unit_id, heldout, np.arange(8) * 2, observed)
    start = np.round(np.arange(4) * 1.6, 3)
    test = {"start_time": start, "stop_time": (start + 1.5).round(3), "go_time": (start + 1.5).round(3)}
    return train, _test_part(rng, train, test)


# ---- the files ------------------------------------------------------------------------------------------------------

ARRAYS = {  # electrode groups, their devices, electrodes of each, location
    "mc_maze": tuple((f"electrode_group_{a}", f"electrode_array_{a}", 96, a) for a in ("PMd", "M1")),
    "mc_rtt": (("electrode_group", "electrode_array", 96, "M1"),),
    "area2_bump": (("electrode_group", "electrode_array", 96, "area 2"),),
    "dmfc_rsg": tuple((f"electrode_group_{k}", f"electrode_probe_{k}", 24, "DMFC") for k in (1, 2, 3)),
}
SUBJECTS = {"mc_maze": "Jenkins", "mc_rtt": "Indy", "area2_bump": "Han", "dmfc_rsg": "Haydn"}
SESSION_ID = {"mc_maze": "full", "mc_rtt": "20170202_02", "area2_bump": "20171207", "dmfc_rsg": "20161211"}


def _write(name: str, kind: str, part: Part, path: Path) -> None:
    family = "mc_maze" if name.startswith("mc_maze") else name
    start = datetime(2009, 9, 28, tzinfo=timezone(timedelta(hours=-7)))
    session_id = SESSION_ID.get(name) or name.rpartition("_")[2]
    nwb = NWBFile(
        session_description=f"{name}, {kind}",
        identifier=f"{name}-{kind}",
        session_start_time=start,
        session_id=session_id,
    )
    nwb.subject = Subject(subject_id=SUBJECTS[family], sex="M", species="Macaca mulatta", age="P6Y")
    for label, array, n_electrodes, location in ARRAYS[family]:
        device = nwb.create_device(name=array, description="an array")
        group = nwb.create_electrode_group(name=label, description="an implant", location=location, device=device)
        for _ in range(n_electrodes):
            at, nan = len(nwb.electrodes) if nwb.electrodes is not None else 0, float("nan")
            nwb.add_electrode(
                id=at + 1, x=nan, y=nan, z=nan, imp=nan, location=location, filtering="1000 Hz", group=group
            )
    nwb.add_unit_column("heldout", "whether the unit is held out in the test file")
    for row, times in enumerate(part.spikes):
        nwb.add_unit(
            id=int(part.unit_id[row]), spike_times=times, obs_intervals=part.observed, heldout=bool(part.heldout[row]),
            **({} if family == "dmfc_rsg" else {"electrodes": [int(part.electrode[row])]}),
        )  # fmt: skip
    for column in part.trials:
        if column not in ("start_time", "stop_time"):
            nwb.add_trial_column(column, f"the trial's {column}", index=column in ("target_pos", "barrier_pos"))
    for row in range(len(part.trials["start_time"])):
        nwb.add_trial(**{column: values[row] for column, values in part.trials.items()})
    if part.series:
        module = nwb.create_processing_module(name="behavior", description="processed behavioral data")
        for label, (value, time, unit, columns) in part.series.items():
            clock = {"rate": 1000.0, "starting_time": 0.0} if time is None else {"timestamps": time}
            comments = f"columns=[{columns}]"
            facts = {"name": label, "data": value, "unit": unit, "comments": comments, "description": label, **clock}
            module.add(SpatialSeries(reference_frame="lab", **facts) if label.endswith("_pos") else TimeSeries(**facts))
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb, cache_spec=False)
