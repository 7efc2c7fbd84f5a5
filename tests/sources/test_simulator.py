"""The simulator: same settings, same bytes; what it says of itself is true; what it makes can be decoded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest

from spiketok.errors import UnknownNameError, UsageError
from spiketok.recording.nouns import Source
from spiketok.sources import simulator
from spiketok.sources.formats.nwb import read_nwb
from spiketok.sources.simulator import CLOCK_HZ, TASKS, SimulationConfig, latent_names, simulate
from spiketok.sources.simulator.imaging import (
    CALCIUM_DECAY_S,
    CALCIUM_NOISE,
    CALCIUM_PEAK,
    CALCIUM_RISE_S,
    FRAMES_DROPPED_S,
)
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.population import MAX_RATE_HZ, VELOCITY_SCALE_MM_S
from spiketok.storage import files

SMALL = SimulationConfig(n_subjects=1, sessions_per_subject=1, duration_s=20, n_units=8)
TICKS_PER_MS = CLOCK_HZ // 1000
REACHING = ("center_out", "random_target")


def truth_of(nwb_path):
    stem = nwb_path.name.split("_behavior")[0]
    with np.load(nwb_path.with_name(f"{stem}_truth.npz"), allow_pickle=False) as archive:
        return dict(archive)


def read(nwb_path):
    """Ticks of each unit, and the open file's main tables as plain values."""
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(nwb_path, "r") as io:
        nwb = io.read()
        units, trials = nwb.units, nwb.trials
        seconds = [np.asarray(units["spike_times"][i]) for i in range(len(units))]
        ticks = [np.round(s * CLOCK_HZ).astype(np.int64) for s in seconds]
        assert all(np.array_equal(t / CLOCK_HZ, s) for t, s in zip(ticks, seconds, strict=True))
        behaviour = nwb.processing["behavior"].data_interfaces
        return {
            "ticks": ticks,
            "observed": [np.asarray(units["obs_intervals"][i]) for i in range(len(units))],
            "quality": list(units["quality"][:]),
            "isi_violation_fraction": np.asarray(units["isi_violation_fraction"][:]),
            "location": [units["electrodes"][i]["location"].iloc[0] for i in range(len(units))],
            "electrode": [units["electrodes"][i].index[0] for i in range(len(units))],
            "unit_id": list(units.id[:]),
            "resolution": units.resolution,
            "trials": {name: np.asarray(trials[name][:]) for name in trials.colnames},
            "signals": {k: (np.asarray(v.data[:]), v.unit, v.rate, v.starting_time) for k, v in behaviour.items()},
            "subject": nwb.subject.subject_id,
            "session_id": nwb.session_id,
        }


def digests(folder):
    return {p.relative_to(folder).as_posix(): files.sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Three days of one subject with enough neurons to measure drift on."""
    config = SimulationConfig(n_subjects=1, sessions_per_subject=3, duration_s=30, n_units=200, missed_fraction=0.1)
    return config, simulate(config, tmp_path_factory.mktemp("days"))


# --- same settings, same bytes -----------------------------------------------------------------------------------


@pytest.mark.long
def test_two_processes_write_the_same_bytes(tmp_path):
    config = replace(SMALL, n_subjects=2, duration_s=10)
    simulate(config, tmp_path / "here")
    script = (
        "import json, sys; from pathlib import Path;"
        "from spiketok.sources.simulator import SimulationConfig, simulate;"
        "simulate(SimulationConfig(**json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", script, json.dumps(asdict(config)), str(tmp_path / "there")]
    subprocess.run(arguments, check=True, env={"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"})
    here, there = digests(tmp_path / "here"), digests(tmp_path / "there")
    assert len(here) == 6
    assert here == there


def test_every_object_id_follows_from_its_place(tmp_path):
    import h5py

    [path] = simulate(SMALL, tmp_path)
    ids = {}
    with h5py.File(path) as stream:
        stream.visititems(
            lambda name, item: ids.update({name: item.attrs["object_id"]} if "object_id" in item.attrs else {})
        )
        ids["/"] = stream.attrs["object_id"]
    assert len(ids) > 30
    assert len(set(ids.values())) == len(ids)
    assert all(text[14] == "5" for text in ids.values())  # uuid version 5: made from a name; version 4 is random


def test_another_seed_gives_another_session(tmp_path):
    first, second = (read(simulate(replace(SMALL, seed=s), tmp_path / str(s))[0]) for s in (0, 1))
    assert not np.array_equal(first["signals"]["cursor_pos"][0], second["signals"]["cursor_pos"][0])
    assert [t.size for t in first["ticks"]] != [t.size for t in second["ticks"]]


def test_more_days_and_subjects_change_no_other_session(tmp_path):
    simulate(SMALL, tmp_path / "few")
    simulate(replace(SMALL, n_subjects=2, sessions_per_subject=2), tmp_path / "many")
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    assert len(many) == 4 * len(few)
    assert few.items() <= many.items()


@pytest.mark.parametrize("task", REACHING)
def test_a_longer_session_begins_with_the_shorter(tmp_path, task):
    config = replace(SMALL, task=task)
    short = read(simulate(config, tmp_path / "short")[0])
    long = read(simulate(replace(config, duration_s=33.5), tmp_path / "long")[0])
    stop = 20 * CLOCK_HZ
    assert sum(t.size for t in short["ticks"]) > 300
    for a, b in zip(short["ticks"], long["ticks"], strict=True):
        assert np.array_equal(a, b[b < stop])
    for name, (value, *_) in short["signals"].items():
        assert value.shape == (2000, 2)
        assert np.array_equal(value, long["signals"][name][0][:2000])


# --- files -------------------------------------------------------------------------------------------------------


def test_what_is_whole_stays_and_what_is_not_is_made_again(tmp_path):
    [path] = simulate(SMALL, tmp_path)
    before = digests(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert simulate(SMALL, tmp_path) == [path]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps

    record, truth = (
        path.with_name("sub-S01_ses-CO-day01_simulation.json"),
        path.with_name("sub-S01_ses-CO-day01_truth.npz"),
    )
    damages = [
        lambda: path.write_bytes(path.read_bytes()[:-100]),
        lambda: truth.unlink(),
        lambda: record.unlink(),  # what a killed process leaves: files without their record
        lambda: record.write_text("{"),
    ]
    for damage in damages:
        damage()
        simulate(SMALL, tmp_path)
        assert digests(tmp_path) == before

    simulate(replace(SMALL, seed=5), tmp_path)
    assert digests(tmp_path)[path.relative_to(tmp_path).as_posix()] != before[path.relative_to(tmp_path).as_posix()]
    assert not list(tmp_path.rglob(f"{files.WIP}*"))


def test_an_interrupted_simulation_leaves_nothing_half_written(tmp_path, monkeypatch):
    def cut_off(session):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulator, "_truth", cut_off)
    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, tmp_path / "a")
    assert [p.name for p in (tmp_path / "a").rglob("*") if p.is_file()] == ["sub-S01_ses-CO-day01_behavior+ecephys.nwb"]
    monkeypatch.undo()
    killed = tmp_path / "a" / "sub-S01" / f"{files.WIP}99999999-sub-S01_ses-CO-day01_behavior+ecephys.nwb"
    killed.write_bytes(b"half")  # what kill -9 leaves; no process has this number
    simulate(SMALL, tmp_path / "a")
    simulate(SMALL, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_progress_names_each_session(tmp_path):
    seen = []
    simulate(replace(SMALL, n_subjects=2, duration_s=5), tmp_path, lambda *call: seen.append(call))
    assert seen == [(1, 2, "sub-S01_ses-CO-day01"), (2, 2, "sub-S02_ses-CO-day01")]


def test_record_gives_the_settings_and_the_counts(tmp_path):
    [path] = simulate(SMALL, tmp_path)
    record = files.read_json(path.with_name("sub-S01_ses-CO-day01_simulation.json"))
    assert replace(SimulationConfig(**record["config"]), n_subjects=1, sessions_per_subject=1) == SMALL
    data = read(path)
    assert record["n_spikes"] == sum(t.size for t in data["ticks"])
    assert (record["n_units"], record["n_trials"]) == (8, len(data["trials"]["start_time"]))


@pytest.mark.parametrize("task", REACHING)
def test_nwb_tables(tmp_path, task):
    config = replace(SMALL, task=task, duration_s=60, failure_fraction=0.4)
    data = read(simulate(config, tmp_path)[0])
    assert (data["subject"], data["session_id"]) == ("S01", f"{TASKS[task]}-day01")
    assert data["unit_id"] == list(range(8))
    assert data["resolution"] == 1 / CLOCK_HZ
    assert set(data["location"]) == {"M1", "PMd"}
    for electrode, location in zip(data["electrode"], data["location"], strict=True):
        assert location == ("M1" if electrode < 48 else "PMd")
    for row in data["observed"]:
        assert row.tolist() == [[0.0, 60.0]]

    position, unit, rate, start = data["signals"]["cursor_pos"]
    assert (position.shape, unit, rate, start) == ((6000, 2), "mm", 100.0, 0.0)
    velocity, unit, rate, start = data["signals"]["cursor_vel"]
    assert (velocity.shape, unit, rate, start) == ((6000, 2), "mm/s", 100.0, 0.0)
    assert np.abs(velocity[1:-1] - (position[2:] - position[:-2]) * 50).max() < 0.06  # positions are rounded to 1 um

    trials = data["trials"]
    aborted = trials["result"] == "A"
    order = [
        trials[k][~aborted] for k in ("start_time", "target_on_time", "go_cue_time", "move_onset_time", "stop_time")
    ]
    assert all((a <= b).all() for a, b in pairwise(order))
    assert (trials["start_time"][1:] >= trials["stop_time"][:-1]).all()
    assert trials["stop_time"][-1] <= 60
    assert np.array_equal(np.isnan(trials["go_cue_time"]), aborted)
    assert aborted.any() == (task == "center_out")
    # The result is what the cursor did: at the stop of a rewarded trial it is inside the target, of others not.
    stop = np.floor(trials["stop_time"] * 100).astype(int)
    distance = np.linalg.norm(position[stop] - trials["target_pos"], axis=1)
    rewarded = trials["result"] == "R"
    assert distance[rewarded].max() < 14
    assert distance[~rewarded].min() > 12
    assert 0.3 < rewarded.mean() < 0.9
    moving = np.linalg.norm(velocity, axis=1)
    still = moving < 20
    assert (still.mean() > 0.4) if task == "center_out" else (still.mean() < 0.25)
    if task == "center_out":
        assert len(np.unique(trials["target_dir"][:8])) == 8
        assert np.allclose(trials["target_pos"][:, 0], 100 * np.cos(trials["target_dir"]), atol=1e-3)


def test_what_is_written_stands_in_the_table(tmp_path):
    """The text of a trial, against the path of the pen: side and turn of each symbol that stands alone."""
    config = replace(SMALL, task="handwriting", duration_s=120, n_symbols=16, most_symbols=2)
    [path] = simulate(config, tmp_path)
    data, record = read(path), files.read_json(path.with_name("sub-S01_ses-HW-day01_simulation.json"))
    trials, (position, measure, rate, _) = data["trials"], data["signals"]["pen_pos"]
    assert (data["session_id"], sorted(data["signals"]), measure, rate) == (
        "HW-day01",
        ["pen_pos", "pen_vel"],
        "mm",
        100,
    )
    texts = trials["symbols"].astype(str)
    assert (record["n_trials"], record["config"]["most_symbols"]) == (len(texts), 2)
    assert {len(text) for text in texts} == {1, 2}
    assert len(set("".join(texts))) > 12
    assert [text[0] for text in texts] == trials["first_symbol"].astype(str).tolist()
    assert (trials["move_onset_time"] - trials["start_time"] >= 0.2).all()
    assert (trials["start_time"][1:] - trials["stop_time"][:-1] >= 0.4 - 1e-3).all()
    written_s = (trials["stop_time"] - trials["move_onset_time"]) / np.char.str_len(texts)
    assert (written_s.min() >= 0.6) and (written_s.max() <= 1.0)
    directions = {0: 0, 1: 180, 2: 90, 3: 270, 4: 45, 5: 225, 6: 135, 7: 315}
    alone = np.flatnonzero(np.char.str_len(texts) == 1)
    assert len(alone) > 10
    for row in alone:
        low, high = (int(100 * trials[edge][row]) for edge in ("move_onset_time", "stop_time"))
        pen = (position[low:high] - position[low]) @ [1, 1j]
        left = np.sum(np.imag(np.conj(pen[:-1]) * pen[1:])) > 0
        letter = ord(texts[row]) - ord("a")
        assert left == (letter % 2 == 0)
        middle = np.radians(directions[letter // 2] + (30 if left else -30))  # of a triangle from its first corner
        assert abs(np.angle(pen.mean() / np.exp(1j * middle))) < 0.4


# --- spikes ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_no_neuron_fires_within_its_refractory_period(days):
    config, paths = days
    for path in paths:
        data = read(path)
        shortest = {"good": [], "mua": []}
        for ticks, quality, stated in zip(data["ticks"], data["quality"], data["isi_violation_fraction"], strict=True):
            gaps = np.diff(ticks)
            assert ticks.min() >= 0
            assert ticks.max() < config.duration_s * CLOCK_HZ
            assert stated == np.mean(gaps < 1.5 * TICKS_PER_MS)
            shortest[quality].append(gaps.min())
        assert min(shortest["good"]) >= 1.5 * TICKS_PER_MS
        assert 0 < min(shortest["mua"]) < 1.5 * TICKS_PER_MS  # two neurons keep no common refractory period
        assert 0.04 < len(shortest["mua"]) / 180 < 0.18


@pytest.mark.parametrize(("refractory_ms", "recovery_ms"), [(0.0, 0.0), (2.0, 0.0), (1.5, 4.0), (2.01, 3.0)])
def test_intervals_follow_the_stated_process(refractory_ms, recovery_ms):
    """At a constant rate: after time rescaling with the stated recovery, intervals are exponential with mean 1."""
    spike = compiled().spike
    rate_hz, refractory = 80.0, int(np.ceil(refractory_ms * TICKS_PER_MS))
    rng = np.random.default_rng(3)
    ticks = spike(np.full(200_000, rate_hz), rng.standard_exponential(20_000), refractory, recovery_ms * TICKS_PER_MS)
    gaps = np.diff(ticks)
    assert gaps.min() >= refractory
    u = (gaps - refractory + 0.5) / CLOCK_HZ  # half a tick: times are rounded down
    tau = recovery_ms / 1000
    area = rate_hz * (u - tau * (1 - np.exp(-u / tau))) if tau else rate_hz * u
    n = gaps.size
    distance = np.abs(np.sort(1 - np.exp(-area)) - (np.arange(n) + 0.5) / n).max()
    assert n > 5000
    assert distance < 1.63 / np.sqrt(n)  # Kolmogorov-Smirnov, 1 %


def counts_and_expectation(config, folder):
    """Spikes in each second ``[200, N]``, and what the intensity in the truth file, free of refractoriness, expects."""
    [path] = simulate(config, folder)
    truth, data = truth_of(path), read(path)
    assert truth["latent"].shape == (20_000, len(truth["latent_name"]))
    assert list(truth["latent_name"]) == latent_names(config)
    intensity = np.minimum(np.exp(truth["baseline"] + truth["latent"] @ truth["loading"].T), MAX_RATE_HZ)
    counts = np.array([np.bincount(t // CLOCK_HZ, minlength=200) for t in data["ticks"]]).T
    return counts, intensity.reshape(200, 100, -1).mean(1)


def test_counts_follow_the_true_intensity(tmp_path):
    config = replace(SMALL, duration_s=200, n_units=20, missed_fraction=0.0, multi_unit_fraction=0.5)
    counts, expected = counts_and_expectation(replace(config, refractory_ms=0, recovery_ms=0), tmp_path / "free")
    assert counts.sum() == pytest.approx(expected.sum(), abs=4 * np.sqrt(expected.sum()))
    pearson = (counts - expected) / np.sqrt(expected)
    assert np.var(pearson) == pytest.approx(1, abs=0.12)  # Poisson, so nothing but the intensity explains the counts
    for unit in range(20):
        assert abs(pearson[:, unit].mean()) < 4.5 / np.sqrt(200)

    held, expected = counts_and_expectation(config, tmp_path / "refractory")
    assert 0.85 < held.sum() / expected.sum() < 0.98
    assert held.sum() < counts.sum()


def test_latent_state_leads_the_cursor(tmp_path):
    [path] = simulate(replace(SMALL, lag_ms=150), tmp_path)
    latent = truth_of(path)["latent"]
    velocity = read(path)["signals"]["cursor_vel"][0] / VELOCITY_SCALE_MM_S
    assert np.abs(latent[:-15, :2] - velocity[15:]).max() < 1e-4


def test_resting_rates_are_log_normal_with_the_stated_median(tmp_path):
    config = replace(SMALL, duration_s=5, n_units=500, rate_median_hz=5, rate_sigma=0.6, missed_fraction=0)
    log_rate = truth_of(simulate(config, tmp_path)[0])["baseline"]
    assert np.exp(np.median(log_rate)) == pytest.approx(5, rel=0.1)
    assert log_rate.std() == pytest.approx(0.6, rel=0.1)
    assert abs(np.mean(((log_rate - log_rate.mean()) / log_rate.std()) ** 3)) < 0.35  # no skew in the logarithm


def test_nothing_is_recorded_in_the_gap(tmp_path):
    plain = read(simulate(SMALL, tmp_path / "plain")[0])
    gapped = read(simulate(replace(SMALL, gap_s=4), tmp_path / "gap")[0])
    for before, after, observed in zip(plain["ticks"], gapped["ticks"], gapped["observed"], strict=True):
        assert observed.tolist() == [[0.0, 8.0], [12.0, 20.0]]
        inside = (before >= 8 * CLOCK_HZ) & (before < 12 * CLOCK_HZ)
        assert np.array_equal(after, before[~inside])
    assert sum(t.size for t in gapped["ticks"]) < sum(t.size for t in plain["ticks"])
    assert np.array_equal(plain["signals"]["cursor_vel"][0], gapped["signals"]["cursor_vel"][0])


# --- imaging -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imaged(tmp_path_factory):
    """One session without and with frames: the spikes, and the frames' times and dF/F as the reader gives them."""
    folder = tmp_path_factory.mktemp("imaged")
    config = replace(SMALL, duration_s=40, gap_s=4, missed_fraction=0)
    [plain] = simulate(config, folder / "plain")
    [path] = simulate(replace(config, calcium_hz=30), folder / "imaged")
    return read(plain), read(path), read_nwb(path, "a/b", Source(path.name, "0" * 64, 1))


def test_imaging_changes_no_spike(imaged):
    plain, with_frames, session = imaged
    assert all(np.array_equal(a, b) for a, b in zip(plain["ticks"], with_frames["ticks"], strict=True))
    assert np.array_equal(plain["signals"]["cursor_vel"][0], with_frames["signals"]["cursor_vel"][0])
    assert sorted(session.signals) == ["cursor_pos", "cursor_vel", "fluorescence"]


def test_frames_jitter_and_leave_out_the_gap_and_the_dropped_stretch(imaged):
    signal = imaged[2].signals["fluorescence"]
    assert (signal.components, signal.measure, signal.rate_hz) == (tuple(imaged[2].units.id), "dF/F", None)
    seconds = signal.time_ns / 1e9
    for start, stop in (FRAMES_DROPPED_S, (18, 22)):
        assert not ((seconds >= start) & (seconds < stop)).any()
    steps = np.diff(seconds)
    steady = steps[steps < 0.1]
    assert len(steps) - len(steady) == 2
    assert len(seconds) == pytest.approx(30 * (40 - 0.5 - 4), abs=3)
    assert steady.mean() == pytest.approx(1 / 30, rel=1e-3)
    assert steady.std() == pytest.approx(2**0.5 * 0.01 / 30, rel=0.1)
    assert signal.valid.all()


def test_frames_are_the_spikes_through_the_stated_kernel_and_noise(imaged):
    """What is left of dF/F without the sum over the spikes, written out here, is white noise of the stated size."""
    ticks, signal = imaged[1]["ticks"], imaged[2].signals["fluorescence"]
    decay, rise = CALCIUM_DECAY_S, CALCIUM_RISE_S
    fine = np.arange(0, 1, 1e-5)
    kernel = np.exp(-fine / decay) - np.exp(-fine / rise)
    assert fine[kernel.argmax()] == pytest.approx(0.045, abs=0.001)
    past = signal.time_ns[:, None] / 1e9
    for unit, own in enumerate(ticks):
        since = past - own[None, :] / CLOCK_HZ
        since = np.where(since >= 0, since, np.inf)
        clean = (np.exp(-since / decay) - np.exp(-since / rise)).sum(axis=1) * CALCIUM_PEAK / kernel.max()
        noise = signal.value[:, unit] - clean
        assert noise.std() == pytest.approx(CALCIUM_NOISE, rel=0.1)
        assert abs(noise.mean()) < 4 * CALCIUM_NOISE / np.sqrt(len(noise))
        assert clean.max() > 0.15


def test_a_longer_imaging_begins_with_the_shorter(tmp_path):
    sessions = []
    for duration_s in (6, 11):
        config = replace(SMALL, duration_s=duration_s, calcium_hz=20)
        [path] = simulate(config, tmp_path / str(duration_s))
        sessions.append(read_nwb(path, "a/b", Source(path.name, "0" * 64, 1)).signals["fluorescence"])
    n = len(sessions[0].time_ns)
    assert n > 100
    assert np.array_equal(sessions[0].time_ns, sessions[1].time_ns[:n])
    assert np.array_equal(sessions[0].value, sessions[1].value[:n])


def test_the_bytes_of_version_1_without_imaging(tmp_path):
    """Who changes them raises ``SIMULATOR_VERSION``; the id in the file names the settings, ``calcium_hz`` not yet."""
    [path] = simulate(replace(SMALL, duration_s=5), tmp_path)
    record = files.read_json(path.with_name("sub-S01_ses-CO-day01_simulation.json"))
    assert record["fingerprint"] == "e9686214a15fa7ae"
    assert record["n_spikes"] == 353
    assert not {"calcium_hz", "n_symbols", "most_symbols"} & record["config"].keys()


# --- days --------------------------------------------------------------------------------------------------------


def test_turnover_and_missed_units_are_the_stated_amounts(days):
    _, paths = days
    truths = [truth_of(path) for path in paths]
    there = [set(t["neuron"]) | set(t["missed"]) for t in truths]
    for truth, present in zip(truths, there, strict=True):
        assert (truth["neuron"].size, truth["missed"].size, len(present)) == (180, 20, 200)
    for before, after in pairwise(there):
        assert len(after - before) == len(before - after) == 50
    assert not (there[0] - there[1]) & there[2]  # who was replaced never comes back
    for day, truth in enumerate(truths):
        born = dict(zip(truth["neuron"], truth["born_day"], strict=True))
        assert all((n in there[b]) and (b == 0 or n not in there[b - 1]) for n, b in born.items())
        assert max(born.values()) == day


def test_drift_is_the_stated_amount(days):
    config, paths = days
    truths = [truth_of(path) for path in paths]
    for before, after in pairwise(truths):
        _, a, b = np.intersect1d(before["neuron"], after["neuron"], return_indices=True)
        assert a.size > 100
        velocity = [t["loading"][rows, 0] + 1j * t["loading"][rows, 1] for t, rows in ((before, a), (after, b))]
        turn, gain = np.angle(velocity[1] / velocity[0]), np.log(np.abs(velocity[1] / velocity[0]))
        rate = after["baseline"][b] - before["baseline"][a]
        assert np.degrees(turn.std()) == pytest.approx(config.drift_deg, rel=0.25)
        assert gain.std() == pytest.approx(config.drift_gain, rel=0.25)
        assert rate.std() == pytest.approx(config.drift_rate, rel=0.25)
        assert np.allclose(np.exp(1j * turn), np.exp(1j * (after["turned_rad"][b] - before["turned_rad"][a])))
        assert np.allclose(gain, after["log_gain"][b] - before["log_gain"][a])
        assert np.allclose(rate, after["log_rate"][b] - before["log_rate"][a])
        assert (a != b).mean() > 0.9  # the sorter lists them in another order


def test_without_drift_and_turnover_only_the_order_changes(tmp_path):
    still = {"turnover": 0, "drift_deg": 0, "drift_gain": 0, "drift_rate": 0}
    config = replace(SMALL, sessions_per_subject=2, duration_s=5, n_units=40, missed_fraction=0, **still)
    one, two = (truth_of(path) for path in simulate(config, tmp_path))
    a, b = np.argsort(one["neuron"]), np.argsort(two["neuron"])
    assert not np.array_equal(a, b)
    for name in ("neuron", "baseline", "loading", "multi_unit"):
        assert np.array_equal(one[name][a], two[name][b])


def test_subjects_have_their_own_neurons(tmp_path):
    one, two = (truth_of(p) for p in simulate(replace(SMALL, n_subjects=2, duration_s=5, n_units=50), tmp_path))
    shared = np.intersect1d(one["baseline"].round(9), two["baseline"].round(9))
    assert shared.size == 0


# --- decoding ----------------------------------------------------------------------------------------------------


def lagged_counts(data, duration_s, bin_ms=50, n_lags=10):
    """Square-rooted counts of the current and the earlier bins ``[T, N * n_lags]``, and velocity ``[T, 2]``."""
    n_bins = round(duration_s * 1000) // bin_ms
    bins = [np.bincount(t // (bin_ms * TICKS_PER_MS), minlength=n_bins) for t in data["ticks"]]
    counts = np.sqrt(np.array(bins).T)
    padded = np.vstack([np.zeros((n_lags - 1, counts.shape[1])), counts])
    lagged = np.hstack([padded[lag : lag + n_bins] for lag in range(n_lags)])
    step = bin_ms // 10
    return lagged, data["signals"]["cursor_vel"][0][step - 1 :: step]


def r2(true, predicted):
    """Variance-weighted over components."""
    return 1 - ((true - predicted) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()


@pytest.mark.parametrize("task", [REACHING[0], *(pytest.param(t, marks=pytest.mark.long) for t in REACHING[1:])])
def test_velocity_decodes_within_a_day_and_not_across(tmp_path, task):
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    config = SimulationConfig(task=task, n_subjects=1, sessions_per_subject=2, duration_s=240, missed_fraction=0)
    (counts, velocity), (other_counts, other_velocity) = (
        lagged_counts(read(path), config.duration_s) for path in simulate(config, tmp_path)
    )
    split = int(0.8 * len(counts))
    decoder = linear_model.Ridge(300).fit(counts[:split], velocity[:split])
    assert r2(velocity[split:], decoder.predict(counts[split:])) > 0.82
    assert r2(other_velocity, decoder.predict(other_counts)) < 0.3


# --- bad settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("n_units", 0, "n_units = 0: must be a whole number from 1 to 2000"),
        ("n_units", 10.0, "n_units = 10.0: must be a whole number from 1 to 2000"),
        ("n_units", True, "n_units = True: must be a whole number"),
        ("seed", -1, "seed = -1"),
        ("turnover", 1.5, "turnover = 1.5: must be a number from 0 to 1"),
        ("duration_s", float("nan"), "duration_s = nan: must be a number from 5 to 14400"),
        ("duration_s", "300", "duration_s = '300': must be a number"),
        ("duration_s", 10.005, "duration_s = 10.005: must be a multiple of 0.01"),
        ("lag_ms", 95, "lag_ms = 95: must be a multiple of 10"),
        ("gap_s", 200, "gap_s = 200.0: must be at most half of duration_s = 300.0"),
        ("calcium_hz", 0.5, "calcium_hz = 0.5: must be 0 (no imaging) or from 1 to 90"),
        ("calcium_hz", 100, "calcium_hz = 100: must be a number from 0 to 90"),
        ("n_symbols", 1, "n_symbols = 1: must be a whole number from 2 to 16"),
        ("most_symbols", 0, "most_symbols = 0: must be a whole number from 1 to 20"),
        ("n_rotations", 5, "n_rotations = 5: must be a whole number from 0 to 4"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(name, value, said):
    with pytest.raises(UsageError) as caught:
        SimulationConfig(**{name: value})
    assert said in str(caught.value)


def test_an_unknown_task_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'center_out'"):
        SimulationConfig(task="centre_out")


def test_a_whole_number_is_the_same_simulation_as_its_float():
    assert asdict(SimulationConfig(duration_s=60)) == asdict(SimulationConfig(duration_s=60.0))
    assert isinstance(SimulationConfig(duration_s=60).duration_s, float)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        simulate(SMALL, tmp_path / "taken")


@pytest.mark.parametrize(
    "extreme", [{"n_units": 1, "missed_fraction": 0.9}, {"rate_median_hz": 100, "tuning_depth": 2}]
)
def test_extreme_settings_still_give_a_readable_file(tmp_path, extreme):
    config = replace(SMALL, duration_s=5, multi_unit_fraction=1.0, turnover=1.0, sessions_per_subject=2, **extreme)
    for path in simulate(config, tmp_path):
        data = read(path)
        assert len(data["ticks"]) == config.n_units
        assert all(np.diff(t).min(initial=1) > 0 for t in data["ticks"])
