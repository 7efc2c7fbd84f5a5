"""Files in the layout of IBL BrainWideBench, scaled down, written with h5py: no torch_brain, no reader of ours.

Times are random float64 seconds that are no whole nanoseconds, as those of recordings are. The tree is torch_brain's:
each group says its class in ``object``.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

EID = "11111111-2222-4333-8444-555555555555"
RATE_HZ = 50
CLASSES = {"movement": "movement_window", "licking": "licking_window"}


def data(parent: h5py.Group, name: str, /, **attributes: object) -> h5py.Group:
    group = parent if not name else parent.create_group(name)
    group.attrs.update({"object": "Data", "absolute_start": 0.0, **attributes})
    return group


def _fill(group: h5py.Group, kind: str, columns: dict, times: tuple[str, ...] = ()) -> h5py.Group:
    group.attrs["object"] = kind
    texts = []
    for name, column in columns.items():
        values = np.asarray(column)
        if values.dtype.kind == "U":
            texts.append(name)
            values = values.astype("S")
        group[name] = values
    if kind != "RegularTimeSeries":
        group.attrs["_unicode_keys"] = np.array(texts, "S")
    if times:
        group.attrs["timekeys"] = np.array(times, "S")
    return group


def interval(parent: h5py.Group, name: str, start, end, /, **columns: object) -> h5py.Group:
    rows = {"start": np.atleast_1d(np.float64(start)), "end": np.atleast_1d(np.float64(end)), **columns}
    return _fill(parent.create_group(name), "Interval", rows, ("start", "end"))


def array_dict(parent: h5py.Group, name: str, /, **columns: object) -> h5py.Group:
    return _fill(parent.create_group(name), "ArrayDict", columns)


def irregular(
    parent: h5py.Group, name: str, timestamps, domain: tuple[float, float], /, **columns: object
) -> h5py.Group:
    grid = np.searchsorted(timestamps, np.arange(domain[0], domain[1] + 1))
    group = _fill(parent.create_group(name), "IrregularTimeSeries",
                  {"timestamps": timestamps, "timestamp_indices_1s": grid, **columns}, ("timestamps",))  # fmt: skip
    interval(group, "domain", *domain)
    return group


def regular(parent: h5py.Group, name: str, start: float, rate_hz: float, /, **columns: object) -> h5py.Group:
    group = _fill(parent.create_group(name), "RegularTimeSeries", columns)
    group.attrs["sampling_rate"] = rate_hz
    n = len(next(iter(columns.values())))
    interval(group, "domain", start, start + n / rate_hz)
    return group


def events(seed: int, n_trials: int) -> dict[str, np.ndarray]:
    """Moments and labels of trials, about five seconds each, all usable."""
    rng = np.random.default_rng(seed)
    start = 4 + 5 * np.arange(n_trials) + rng.uniform(0, 0.4, n_trials)
    stim_on = start + 0.9 + rng.uniform(0, 0.1, n_trials)
    moved = stim_on + rng.uniform(0.15, 0.6, n_trials)
    feedback = moved + rng.uniform(0.2, 0.9, n_trials)
    return {
        "start": start, "end": feedback + 1.1, "stim_on_time": stim_on, "movement_onset_time": moved,
        "feedback_time": feedback, "choice": rng.integers(0, 2, n_trials), "reward": rng.integers(0, 2, n_trials),
        "stimulus_contrast": rng.integers(0, 5, n_trials), "trial_index": np.arange(n_trials) + 3,
    }  # fmt: skip


def write(
    path: Path,
    *,
    seed: int = 0,
    eid: str = EID,
    regime: str = "eval",
    build: str = "all_units",
    n_units: int = 8,
    n_trials: int = 20,
    without: tuple[str, ...] = (),
) -> dict[str, np.ndarray]:
    """A session's file; what happened in its trials.

    Args:
        regime: ``"eval"`` or ``"pretrain"``. without: groups of behaviours that it lacks.
    """
    rng = np.random.default_rng(seed + 1)
    trial = events(seed, n_trials)
    first, last = trial["start"][0] - 1.3, trial["end"][-1] + 1.7
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data(file, "", lab="a lab")
        data(file, "brainset", id="ibl_brain_wide_bench_2026", derived_version="0.1.0", unit_filtering=build)
        data(file, "subject", id=f"mouse_{seed}", species="MUS_MUSCULUS")
        data(file, "session", id=eid, recording_date="2020-01-01T00:00:00")
        interval(file, "domain", first, last)
        _put_tables(file, trial)
        _put_splits(file, trial, first, last, regime)
        signals = _put_behaviours(file, trial, rng, first + 0.271, last, without, regime)
        _put_units(file, rng, signals, n_units, first, last, regime, build)
    return trial


def _put_tables(file: h5py.File, trial: dict[str, np.ndarray]) -> None:
    columns = {name: column for name, column in trial.items() if name not in ("start", "end")}
    rows = interval(file, "trials", trial["start"], trial["end"], is_valid=trial["start"] > 0, **columns)
    times = ("start", "end", *(name for name in columns if name.endswith("_time")))
    rows.attrs["timekeys"] = np.array(times, "S")
    aligned = data(file, "task_aligned_intervals")
    index, moved, fed = trial["trial_index"], trial["movement_onset_time"], trial["feedback_time"]
    stim_on = trial["stim_on_time"]
    interval(aligned, "domain", stim_on - 0.9, fed + 1)
    sure = {"num_left_paw_confident": np.full(len(index), 50), "num_right_paw_confident": np.where(index == 5, 0, 50)}
    interval(aligned, "movement_window", moved, moved + 1, trial_index=index, **sure)
    interval(aligned, "licking_window", fed, fed + 1, trial_index=index)
    interval(aligned, "choice", moved - 1, moved, trial_index=index, choice=trial["choice"])
    interval(aligned, "reward", fed, fed + 1, trial_index=index, reward=trial["reward"])
    contrast = trial["stimulus_contrast"]
    interval(aligned, "stimulus_contrast", stim_on - 0.9, stim_on + 0.1, trial_index=index, stimulus_contrast=contrast)


def _put_splits(file: h5py.File, trial: dict, first: float, last: float, regime: str) -> None:
    start, n = trial["start"], len(trial["start"])
    low, high = round(0.4 * n), round(0.6 * n)
    if regime == "pretrain":
        cut = round(0.9 * n)
        interval(file, "pretrain_train_domain", first, start[cut] - 0.01)
        interval(file, "pretrain_val_domain", start[cut] - 0.005, last)
        return
    interval(file, "ts1_train_domain", first, trial["end"][low - 2])
    interval(file, "ts1_val_domain", start[low], trial["end"][high - 2])
    interval(file, "ts1_test_domain", start[high], last)
    chunks = {"train": [(0, 3), (8, 11)], "test": [(4, 7), (16, n - 1)], "val": [(12, 15)]}
    for split, rows in chunks.items():
        spans = np.array([(start[a] - 0.05, trial["end"][b]) for a, b in rows])
        interval(file, f"ts2_{split}_domain", spans[:, 0], spans[:, 1])


def _put_behaviours(
    file: h5py.File, trial: dict, rng: np.random.Generator, start: float, last: float, without: tuple, regime: str
) -> dict[str, np.ndarray]:
    n = int((last - start) * RATE_HZ)
    at = start + np.arange(n) / RATE_HZ
    speed = np.zeros(n)
    for moved in trial["movement_onset_time"]:
        speed += np.exp(-(((at - moved - 0.4) / 0.2) ** 2)) * rng.uniform(1, 3)
    licks = rng.poisson(0.3, n) * (rng.random(n) < 0.5)
    sure = rng.random(n) < 0.9
    groups = {
        "wheel": {"wheel_pos": np.cumsum(speed), "wheel_vel": -speed, "wheel_speed": speed},
        "whisker": {"whisker_motion_energy": 5 * speed + rng.normal(3, 1, n)},
        "paws": {
            "left_paw_speed": 20 * speed + rng.normal(5, 1, n), "right_paw_speed": 9 * speed + rng.normal(5, 1, n),
            "is_left_paw_confident": sure, "is_right_paw_confident": np.roll(sure, 7),
        },
        "licks": {"licking_rate": licks * float(RATE_HZ)},
    }  # fmt: skip
    normalised = {"whisker": ("whisker_motion_energy",), "paws": ("left_paw_speed", "right_paw_speed")}
    told = data(file, f"{'ts1' if regime == 'eval' else 'pretrain'}_normalize")
    for group, columns in groups.items():
        if group in without:
            continue
        regular(file, group, start, RATE_HZ, **columns)
        for name in normalised.get(group, ()):
            data(told.require_group(group), "")
            data(told[group], name, mean=float(columns[name][: n // 2].mean()), std=float(columns[name].std()))
    return {"speed": speed, "at": at}


def _put_units(
    file: h5py.File,
    rng: np.random.Generator,
    signals: dict,
    n_units: int,
    first: float,
    last: float,
    regime: str,
    build: str,
) -> None:
    ids = [f"{seed:08x}-0000-4000-8000-{k:012d}" for k, seed in enumerate(rng.integers(0, 2**31, n_units).tolist())]
    regions = np.array(["Isocortex", "TH", "HPF", "root"])[np.arange(n_units) % 4]
    columns = {
        "id": np.array(ids), "probe_id": np.array([f"probe-{k % 2}" for k in range(n_units)]),
        "depths": rng.uniform(0, 3000, n_units), "label": np.where(np.arange(n_units) == 1, 0.66, 1.0),
        "firing_rate": np.full(n_units, 6.0), "region_cosmos": regions, "region_beryl": regions,
        "qc_neural": np.where(np.arange(n_units) == 2, "WARNING", "PASS"),
        "qc_neural_alignment": np.where(np.arange(n_units) == 4, "FAIL", "PASS"),
        "location": rng.normal(size=(n_units, 3)), "wf_template": np.zeros((n_units, 8, 3), np.float32),
    }  # fmt: skip
    if build == "selected_units" and regime == "eval":
        columns |= _held_out(ids)
    array_dict(file, "units", **columns)
    array_dict(file, "probes", id=np.array(["probe-0", "probe-1"]), name=np.array(["probe00", "probe01"]))
    times, unit = [], []
    for k in range(n_units):
        rate_hz = 6 * (1 + np.interp(np.arange(first, last, 0.005), signals["at"], signals["speed"]) * (k % 3))
        fired = np.flatnonzero(rng.random(rate_hz.size) < rate_hz * 0.005)
        own = first + 0.005 * fired + rng.uniform(0, 0.005, fired.size)
        times.append(own[(own >= first) & (own < last)])
        unit.append(np.full(times[-1].size, k))
    at, of = np.concatenate(times), np.concatenate(unit)
    order = np.argsort(at)
    spread = rng.random(at.size)
    irregular(file, "spikes", at[order], (first, last), unit_index=of[order], amplitude=spread, depth=spread)


def _held_out(ids: list[str]) -> dict[str, np.ndarray]:
    from hashlib import sha256

    out = {}
    for split in ("test", "val"):
        ranked = sorted(ids, key=lambda one: sha256(f"ts2_co_smoothing_{split}:{one}".encode()).hexdigest())
        chosen = set(ranked[: max(1, round(len(ids) / 10))])
        out[f"ts2_co_smoothing_is_held_out_{split}"] = np.array([one in chosen for one in ids])
    return out
