"""Files in the layouts of the six FALCON sets, written with pynwb: scaled down in length, not in facts.

Groups, columns, types and names as the archive's files have them (summaries of dandisets 000941, 000950, 000953,
000954, 001046 and 001209), times by the arithmetic of the writers in falcon-challenge's ``preproc``, because FALCON's
bins hang on the last bits of float64 seconds. Minival files hold the first two trials of a held-in file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pynwb import NWBHDF5IO, H5DataIO, NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.file import Subject

HELD_IN, HELD_OUT, MINIVAL = "held-in-calib", "held-out-calib", "held-in-minival"
MUSCLES = (
    *("APL", "BCPs", "DLTa", "DLTp", "ECRB", "ECU", "EDC", "FCR", "FCU", "FDI"),
    *("FDPr", "FDPu", "Hypoth", "PECmaj", "TCPlat", "Thenar"),
)
OBJECTS = ("Coaxial", "Perpendicular", "Sphere", "Button")
DEGREES = ("tx", "ty", "tz", "rx", "g1", "g2", "g3")


@dataclass(frozen=True)
class Made:
    """A file that was written, and what was put into it."""

    asset: str  # its path in the dandiset
    path: Path
    n_units: int
    n_spikes: int
    n_trials: int
    n_samples: int


def _new(subject: str, species: str, start: datetime, identifier: str) -> NWBFile:
    nwb = NWBFile(session_description="FALCON", identifier=identifier, session_start_time=start)
    nwb.subject = Subject(subject_id=subject, species=species, sex="M", age="P7Y")
    return nwb


def _save(nwb: NWBFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb, cache_spec=False)


def _part(subject: str, role: str) -> str:
    return f"sub-{subject}-{role}"


# ---- M1 and M1-B ----------------------------------------------------------------------------------------------------


def write_m1(
    root: Path, role: str, day: str = "20120924", monkey: str = "L", groups: str = "HIJK", seed: int = 0
) -> Made:
    """EMG of 16 muscles at 50 Hz, 64 channels with and without spikes, times on a grid of 0.1 ms."""
    rng = np.random.default_rng([seed, *day.encode()])
    n_trials = {HELD_IN: 5, HELD_OUT: 3, MINIVAL: 2}[role]
    word = role.replace("-", "_")
    part = _part(f"Monkey{monkey}", role)
    asset = f"{part}/{part}_ses-{day}_behavior+ecephys.nwb"
    nwb = _new(
        f"Monkey{monkey}_{word}", "Rhesus macaque", datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC),
        f"{monkey}_{day}_{word}",
    )  # fmt: skip
    cue_s = (np.cumsum(rng.uniform(3, 4, 5)) + 1).round(4)  # drawn for five trials, whatever the part
    event_s = np.stack([cue_s, cue_s + 0.2871, cue_s + 0.6123, cue_s + 1.1117], axis=1)[:n_trials].round(4)
    event_ns = np.rint(np.concatenate([event_s[:, :1] - 1, event_s, event_s[:, -1:] + 1], axis=1) * 50).astype(int)
    event_ns *= 20_000_000  # the writer rounds to 20 ms, and multiplies whole ns by 1e-9
    stop_s = event_ns[-1, -1] * 1e-9
    stamp_s = np.arange(0.0, stop_s, 1 / 50).round(4)
    _add_trials_m1(nwb, event_ns * 1e-9, rng)
    emg = np.abs(rng.normal(size=(stamp_s.size, 16))).cumsum(axis=0) % 1.7
    container = BehavioralTimeSeries(name="preprocessed_emg")
    for k, muscle in enumerate(MUSCLES):
        comments = f"columns=[{muscle}]"
        container.create_timeseries(name=muscle, data=emg[:, k], unit="mV", timestamps=stamp_s, comments=comments)
    nwb.add_acquisition(container)
    scored = np.zeros(stamp_s.size, bool)
    for start, *_, stop in event_ns * 1e-9:
        scored[np.searchsorted(stamp_s, start) : np.searchsorted(stamp_s, stop)] = True
    _add_mask(nwb, "eval_mask", stamp_s, scored, "Timesteps to KEEP covariates (for training, eval).")
    times_s = []
    for channel in range(64):
        n = 0 if channel % 16 == 5 else int(rng.poisson(stop_s * (2 + channel % 7)))
        tick = np.unique(rng.integers(1, round(stop_s * 10_000), n))
        if channel % 16 == 2:  # spikes that stand exactly on the bins' edges
            tick = np.unique(np.concatenate([tick, np.arange(200, round(stop_s * 10_000), 600)]))
        times_s.append((tick / 10_000).round(4))
    _add_arrays(nwb, times_s, [(f"{g}_electrode_group", f"array {g}", "Motor Cortex") for g in groups], stop_s)
    _save(nwb, root / asset)
    return Made(asset, root / asset, 64, sum(map(len, times_s)), n_trials, stamp_s.size)


def _add_trials_m1(nwb: NWBFile, event_s: np.ndarray, rng: np.random.Generator) -> None:
    times = ("gocue_time", "move_onset_time", "contact_time", "reward_time")
    for name in (*times, "result", "number", "tgt_loc", "tgt_obj", "obj_id", "condition_id"):
        nwb.add_trial_column(name=name, description=name)
    for row, (start, *inside, stop) in enumerate(event_s):
        which = int(rng.integers(4))
        nwb.add_trial(
            start_time=start, stop_time=stop, **dict(zip(times, inside, strict=True)), result="R",
            number=np.uint16(10 + row), tgt_loc=22.5 * row, tgt_obj=OBJECTS[which], obj_id=which + 1, condition_id=row,
        )  # fmt: skip


def _add_arrays(nwb: NWBFile, times_s: list[np.ndarray], groups: list[tuple[str, str, str]], stop_s: float) -> None:
    device = nwb.create_device("arrays")
    made = [nwb.create_electrode_group(n, description=d, location=p, device=device) for n, d, p in groups]
    each = -(-len(times_s) // len(made))
    for channel, times in enumerate(times_s):
        group = made[channel // each]
        nwb.add_electrode(
            id=channel, x=np.nan, y=np.nan, z=np.nan, imp=np.nan, location="M1", group=group, filtering="unknown"
        )
        nwb.add_unit(id=channel, spike_times=times, electrodes=[channel], obs_intervals=[[0.0, stop_s]])


def _add_mask(nwb: NWBFile, name: str, stamp_s: np.ndarray, scored: np.ndarray, description: str) -> None:
    nwb.add_acquisition(TimeSeries(name=name, description=description, timestamps=stamp_s, data=scored, unit="bool"))


# ---- M2 -------------------------------------------------------------------------------------------------------------


def write_m2(
    root: Path, role: str, day: str = "2020-10-19", run: int = 1, seed: int = 0, voltage_samples: int = 0
) -> Made:
    """Two finger groups at 50 Hz, stamps on the last ms of each bin, spikes on a grid of 1 ms minus an odd start.

    Later drafts of the dandiset hold full-band voltage as well.
    """
    rng = np.random.default_rng([seed, run, *day.encode()])
    n_trials = {HELD_IN: 12, HELD_OUT: 4, MINIVAL: 2}[role]
    part = _part("MonkeyN", role)
    asset = f"{part}/{part}_ses-{day}-Run{run}_behavior+ecephys.nwb"
    split = role.rsplit("-", 1)[0].replace("-", "_")
    start = datetime.strptime(day, "%Y-%m-%d").replace(hour=12 + run, tzinfo=UTC)
    nwb = _new(
        f"MonkeyN-{split}-{role.rsplit('-', 1)[1]}", "Rhesus macaque", start, f"MonkeyN_{start:%m-%d-%H:%M}_{split}"
    )
    nwb.add_trial_column(name="tgt_loc", description="location of target (0-1 AU)")
    nwb.add_trial_column(name="trial_num", description="trial number as in experiment")
    first_ms, length_ms = 7_321, rng.integers(700, 1400, 12)  # drawn for twelve trials, whatever the part
    start_s, at_ms, ends = first_ms / 1000, first_ms, []
    for row in range(n_trials):
        time_s = np.arange(at_ms, at_ms + length_ms[row]).astype(float) / 1000 - start_s
        target = rng.random(2).astype(np.float32)
        nwb.add_trial(start_time=time_s[0], stop_time=time_s[-1], tgt_loc=target, trial_num=row + 1)
        ends.append((time_s[0], time_s[-1]))
        at_ms += int(length_ms[row]) + 2  # 2 ms are missing between trials
    grid_s = np.arange(0.0, np.round(ends[-1][1], 3), 0.001)
    inside = np.zeros(grid_s.size, bool)
    for low, high in ends:
        inside[(grid_s >= low) & (grid_s <= high)] = True
    whole = grid_s.size // 20 * 20
    stamp_s = grid_s[:whole].reshape(-1, 20)[:, -1]
    position = 0.5 + 0.4 * np.sin(stamp_s[:, None] * [1.3, 2.1]).astype(np.float32)
    for name, data in (("finger_pos", position), ("finger_vel", np.gradient(position, axis=0))):
        container = BehavioralTimeSeries(name=name)
        for k, finger in enumerate(("index", "mrs")):
            comments = f"columns=[{finger}]"
            container.create_timeseries(name=finger, data=data[:, k], unit="AU", timestamps=stamp_s, comments=comments)
        nwb.add_acquisition(container)
    scored = inside[:whole].reshape(-1, 20).mean(axis=1).round().astype(bool)
    scored[5:9] = False
    _add_mask(nwb, "eval_mask", stamp_s, scored, "Timesteps to keep covariates (for training, eval).")
    times_s = []
    for channel in range(96):
        n = 0 if channel == 95 else int(rng.poisson((at_ms - first_ms) / 1000 * (1 + channel % 9)))
        times_s.append(np.unique(rng.integers(first_ms, at_ms, n)) / 1000 - start_s)
    _add_arrays(nwb, times_s, [("M1_array", "Hand area 2x64-channel array", "M1")], ends[-1][1])
    if voltage_samples:
        region = nwb.create_electrode_table_region(list(range(96)), "all electrodes")
        raw, at_s = rng.integers(-999, 999, (voltage_samples, 96), np.int16), np.arange(voltage_samples) / 30_000
        nwb.add_acquisition(
            ElectricalSeries(name="fullband", data=raw, electrodes=region, timestamps=at_s, conversion=1 / 4e6)
        )
    _save(nwb, root / asset)
    return Made(asset, root / asset, 96, sum(map(len, times_s)), n_trials, stamp_s.size)


# ---- H1 -------------------------------------------------------------------------------------------------------------


def write_h1(root: Path, role: str, stamp: str = "19250101T111740", offset_s: float = 0.0, seed: int = 0) -> Made:
    """7 degrees of freedom whose 'rate' holds seconds a sample; 176 channels, some silent; epochs, no trials."""
    rng = np.random.default_rng([seed, *stamp.encode()])
    n_samples = {HELD_IN: 900, HELD_OUT: 300, MINIVAL: 240}[role]
    split, part_word = role.rsplit("-", 1)[0].replace("-", "_"), role.rsplit("-", 1)[1]
    part = _part("HumanPitt", role)
    asset = f"{part}/{part}_ses-{stamp}.nwb"
    start = datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    identifier = f"HumanPitt-{split}-{part_word}_{start:%m-%d-%H:%M}_set1"
    nwb = _new(f"HumanPitt-{split}-{part_word}", "Homo sapiens", start, identifier)
    place = np.cumsum(rng.normal(size=(900, 7)), axis=0)[:n_samples] / 30
    trial = 1 + np.arange(900)[:n_samples] // 120
    scored = (np.arange(900)[:n_samples] % 120) >= 30
    description = ",".join(DEGREES)
    timing = {"rate": 0.02, "starting_time": 0.0, "offset": offset_s}
    series = TimeSeries(name="OpenLoopKinematics", description=description, data=place, unit="arbitrary", **timing)
    nwb.add_acquisition(series)
    for name, data, unit, words in (
        ("OpenLoopKinematicsVelocity", np.gradient(place, axis=0), "arbitrary", description),
        ("TrialNum", trial.astype(float), "arbitrary", "Trial number"),
        ("eval_mask", scored, "bool", "Timesteps to ignore covariates (for training, eval). Neural data is kept."),
    ):
        nwb.add_acquisition(TimeSeries(name=name, description=words, data=data, unit=unit, **timing))
    stop_s = offset_s + n_samples * 0.02
    for k, low in enumerate(np.arange(offset_s, stop_s, 0.8)):
        tag = ["Intertrial", "Reach", "Grasp"][k % 3]
        nwb.add_epoch(start_time=low, stop_time=min(low + 0.8, stop_s), tags=[tag], timeseries=[series])
    n_spikes = 0
    for channel in range(176):
        n = 0 if channel % 44 == 9 else int(rng.poisson(n_samples * 0.02 * (1 + channel % 11)))
        times_s = offset_s + np.sort(rng.uniform(-0.02, n_samples * 0.02 - 0.03, n))
        nwb.add_unit(spike_times=times_s)
        n_spikes += n
    _save(nwb, root / asset)
    return Made(asset, root / asset, 176, n_spikes, 0, n_samples)


# ---- H2 -------------------------------------------------------------------------------------------------------------


def write_h2(root: Path, role: str, day: str = "20220518", seed: int = 0) -> Made:
    """Sentences: counts of 192 channels in 20 ms, 10 s between trials, no units."""
    rng = np.random.default_rng([seed, *day.encode()])
    n_trials = {HELD_IN: 5, HELD_OUT: 3, MINIVAL: 2}[role]
    word = role.replace("-", "_")
    part = _part("T5", role)
    asset = f"{part}/{part}_ses-{day}.nwb"
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    nwb = _new(f"T5_{word}", "Homo sapiens", start, f"T5_{start:%Y.%m.%d}_{word}")
    nwb.add_trial_column(name="cue", description="sentence participant was prompted to write")
    nwb.add_trial_column(name="block_num", description="experimental block trial belonged to")
    lengths, at, times, counts = rng.integers(60, 140, 5), 0.0, [], []
    for row in range(n_trials):
        time_s = np.arange(at, at + lengths[row]) * 0.02
        count = rng.poisson(0.4, (lengths[row], 192))
        count[:, 17] = 0
        at += lengths[row] + 10 / 0.02
        cue = ["the>quick>brown>fox", "jumps", "over>the>lazy>dog", "a~b", "who,>me?"][row]
        nwb.add_trial(start_time=time_s[0], stop_time=time_s[-1], cue=cue, block_num=3 + row // 2)
        times.append(time_s)
        counts.append(count)
    stamp_s, count = np.concatenate(times), np.vstack(counts).astype(np.uint8)
    words = "Threshold crossings aggregated in 20ms bins"
    nwb.add_acquisition(TimeSeries(name="binned_spikes", description=words, timestamps=stamp_s, data=count, unit="int"))
    _add_mask(nwb, "eval_mask", stamp_s, np.full(stamp_s.size, True), "Timesteps to KEEP covariates.")
    _save(nwb, root / asset)
    return Made(asset, root / asset, 192, int(count.sum()), n_trials, stamp_s.size)


# ---- B1 -------------------------------------------------------------------------------------------------------------


def write_b1(
    root: Path, role: str, day: str = "20210626", seed: int = 0, trial_s: float = 0.2, n_trials: int = 0
) -> Made:
    """Song motifs: 85 channels as 0 or 1 at 30 kHz, audio at 25 kHz, spectrograms in the trials; no units.

    A motif of the archive lasts 0.9 s and has 880 frames; here it is 0.2 s and 180.
    """
    rng = np.random.default_rng([seed, *day.encode()])
    n_trials = n_trials or {HELD_IN: 3, HELD_OUT: 3, MINIVAL: 2}[role]
    word = role.replace("-", "_")
    part = _part("Finch-z-r12r13-21", role)
    asset = f"{part}/{part}_ses-{day}.nwb"
    start = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    nwb = _new(f"Finch_z_r12r13_21_{word}", "Taeniopygia guttata", start, f"z_r12r13_21_{start:%Y.%m.%d}_{word}")
    for name in ("spectrogram_times", "spectrogram_frequencies", "spectrogram_values", "spectrogram_eval_mask"):
        nwb.add_trial_column(name=name, description=name)
    n_neural, n_audio = round(trial_s * 30_000), round(trial_s * 25_000)
    frame_s = (256 + 25 * np.arange((n_audio - 512) // 25 + 1)) / 25_000
    frequency_hz = np.arange(6, 164) * 25_000 / 512
    spikes, audio, neural_s, audio_s = [], [], [], []
    for row in range(n_trials):
        spikes.append((rng.random((n_neural, 85)) < 0.002).astype(float))
        spikes[-1][:, 40] = 0
        audio.append(rng.normal(size=n_audio))
        neural_s.append(np.arange(row * n_neural, (row + 1) * n_neural) * 1 / 30_000)
        audio_s.append(np.arange(row * n_audio, (row + 1) * n_audio) * 1 / 25_000)
        value = rng.random((158, frame_s.size)) ** 8
        value[value < 1e-4] = 1
        nwb.add_trial(
            start_time=neural_s[-1][0], stop_time=neural_s[-1][-1], spectrogram_times=frame_s,
            spectrogram_frequencies=frequency_hz, spectrogram_values=value,
            spectrogram_eval_mask=np.tile((frame_s >= 0.1) & (frame_s < 0.8), (158, 1)),
        )  # fmt: skip
    stacked, heard_s = np.vstack(spikes), np.concatenate(audio_s)
    packed = H5DataIO(stacked, compression="gzip", compression_opts=1)
    nwb.add_acquisition(TimeSeries(name="tx", timestamps=np.concatenate(neural_s), data=packed, unit="int"))
    nwb.add_acquisition(TimeSeries(name="vocalizations", timestamps=heard_s, data=np.concatenate(audio), unit="int"))
    scored = np.tile((audio_s[0] >= 0.1) & (audio_s[0] < 0.8), n_trials)
    _add_mask(nwb, "eval_mask_audio", heard_s, scored, "Mask of audio timestamps considered during evaluation.")
    _save(nwb, root / asset)
    return Made(asset, root / asset, 85, int(stacked.sum()), n_trials, n_trials * frame_s.size)


# ---- whole dandisets ------------------------------------------------------------------------------------------------

SETS: dict[str, tuple[Callable[[Path], Made], ...]] = {
    "falcon_m1": (
        lambda root: write_m1(root, HELD_IN),
        lambda root: write_m1(root, HELD_OUT, "20121004"),
        lambda root: write_m1(root, MINIVAL),
    ),
    "falcon_m1b": (
        lambda root: write_m1(root, HELD_IN, "20121206", "X", "EFGHIJ"),
        lambda root: write_m1(root, HELD_OUT, "20121213", "X", "EFGHIJ"),
        lambda root: write_m1(root, MINIVAL, "20121206", "X", "EFGHIJ"),
    ),
    "falcon_m2": (
        lambda root: write_m2(root, HELD_IN),
        lambda root: write_m2(root, HELD_IN, run=2),
        lambda root: write_m2(root, HELD_OUT, "2020-10-30"),
        lambda root: write_m2(root, MINIVAL),
    ),
    "falcon_h1": (
        lambda root: write_h1(root, HELD_IN),
        lambda root: write_h1(root, HELD_IN, "19250101T112404"),
        lambda root: write_h1(root, HELD_OUT, "19250126T113454"),
        lambda root: write_h1(root, MINIVAL),
    ),
    "falcon_h2": (
        lambda root: write_h2(root, HELD_IN),
        lambda root: write_h2(root, HELD_OUT, "20230417"),
        lambda root: write_h2(root, MINIVAL),
    ),
    "falcon_b1": (
        lambda root: write_b1(root, HELD_IN),
        lambda root: write_b1(root, HELD_OUT, "20210630"),
        lambda root: write_b1(root, MINIVAL),
    ),
}


def write_set(root: Path, name: str) -> list[Made]:
    """All files of one set, in the folders of its dandiset."""
    return [write(root) for write in SETS[name]]
