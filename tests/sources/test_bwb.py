"""BrainWideBench: windows and targets of generated files against a slow reading of the same files, and the goldens."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import DataError, SourceError, UnknownNameError
from spiketok.recording.nouns import Session, Source
from spiketok.recording.splits import set_splits
from spiketok.sources.catalogue import DATASETS, RULES
from spiketok.sources.catalogue.bwb import windows as bwb
from tests.layouts import bwb as layout

BESIDE = Path(os.environ.get("SPIKETOK_GOLDEN") or Path(__file__).resolve().parents[3] / "shared" / "golden")
FIXTURE = BESIDE / "bwb" / "fixture"
golden = pytest.mark.skipif(not FIXTURE.is_dir(), reason="the recorded files of BrainWideBench are not here")
WINDOW_OF = {
    "choice": ("movement_onset_time", -1.0), "reward": ("feedback_time", 0.0),
    "stimulus_contrast": ("stim_on_time", -0.9),
    "whisker_motion_energy": ("movement_onset_time", 0.0), "wheel_speed": ("movement_onset_time", 0.0),
    "right_paw_speed": ("movement_onset_time", 0.0), "left_paw_speed": ("movement_onset_time", 0.0),
    "licking_rate": ("feedback_time", 0.0),
}  # fmt: skip


def read(path: Path, dataset: str = "ibl_bwb") -> Session:
    rules = RULES["ibl_bwb"]
    return rules.adjust(rules.read(path, f"{dataset}/one", Source(path.name, "", path.stat().st_size)), path)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict, Session]:
    path = tmp_path_factory.mktemp("bwb") / "one.h5"
    trial = layout.write(path, seed=3)
    return path, trial, read(path)


@pytest.mark.parametrize("task", bwb.TASKS)
def test_the_windows_of_a_task_are_those_of_a_slow_reading(made, task):
    path, trial, session = made
    moment, shift = WINDOW_OF[task]
    n_seen = 0
    with h5py.File(path) as file:
        hull = file["task_aligned_intervals/domain"]
        for split in bwb.SPLITS:
            found, k = bwb.task_windows(session, task, split), 0
            domain = [float(file[f"ts1_{split}_domain/{edge}"][0]) for edge in ("start", "end")]
            for row, at in enumerate(trial[moment].tolist()):
                start, end = at + shift, {-1.0: at, 0.0: at + 1, -0.9: at + 0.1}[shift]
                inside = domain[0] <= start and end <= domain[1] and hull["start"][row] <= start
                if not inside or (task == "right_paw_speed" and trial["trial_index"][row] == 5):
                    continue
                assert (found.start[k], found.end[k]) == (start, end)
                assert found.trial_id[k] == trial["trial_index"][row]
                _compare_values(file, trial, found, task, k, row)
                k += 1
            assert k == len(found)
            n_seen += k
    assert n_seen >= 14


def _compare_values(file: h5py.File, trial: dict, found: bwb.TaskWindows, task: str, k: int, row: int) -> None:
    if task in bwb.N_CLASSES:
        assert found.values[k].tolist() == [trial[task][row]]
        assert found.timestamps is None
        return
    group = next(g for g in ("wheel", "whisker", "paws", "licks") if task in file[g])
    first = file[group]["domain/start"][0]
    at = first + np.arange(file[group][task].shape[0]) / 50
    rows = np.flatnonzero((at >= found.start[k] - 1e-11) & (at < found.end[k] - 1e-11))
    raw = file[group][task][:][rows]
    if task == "licking_rate":
        raw = np.round(raw / 50).astype(np.int32)
    elif f"ts1_normalize/{group}/{task}" in file:
        told = file[f"ts1_normalize/{group}/{task}"].attrs
        raw = ((raw - told["mean"]) / told["std"]).astype(np.float32)
    else:
        raw = raw.astype(np.float32)
    assert found.values.dtype == raw.dtype
    np.testing.assert_array_equal(found.values[k], raw)
    np.testing.assert_allclose(found.timestamps[k], at[rows] - found.start[k], atol=1e-9)
    assert (found.mask is None) == ("paw" not in task)
    if found.mask is not None:
        np.testing.assert_array_equal(found.mask[k], file[group][f"is_{task[:-6]}_confident"][:][rows])


def test_what_the_rules_make_of_a_file(made):
    _, trial, session = made
    rows = session.trials
    of = {word: rows.take(rows.columns["window"] == word) for word in set(rows.columns["window"].tolist())}
    assert set(of) == {
        "choice",
        "reward",
        "stimulus_contrast",
        "movement",
        "licking",
        "outside_movement",
        "outside_licking",
    }
    assert of["choice"].columns["choice"].tolist() == list(map(str, trial["choice"]))
    assert set(of["reward"].columns["choice"].tolist()) == {""}
    assert of["reward"].columns["trial_index"].tolist() == trial["trial_index"].tolist()
    both = of["movement"].intersect(of["outside_movement"])
    assert both.total_ns == 0
    assert of["movement"].union().total_ns + of["outside_movement"].total_ns == session.stop_ns - session.start_ns
    assert len(session.intervals["all_trials"]) == 20
    assert (
        set(set_splits(session.splits, "ts1")) == set(set_splits(session.splits, "ts2")) == {"train", "valid", "test"}
    )
    assert session.units.columns["region"].tolist()[:2] == ["Isocortex", "TH"]
    assert (session.subject, session.info["session_id"]) == ("mouse_3", layout.EID)
    assert not session.repairs
    left = next(note.text for note in session.notes if note.id == "series-left-out")
    assert all(word in left for word in ("spikes.amplitude", "units.wf_template", "probes"))


def test_seconds_that_no_nanosecond_holds_are_kept(made):
    path, trial, session = made
    table = session.intervals["task_aligned_intervals.choice"]
    assert (table.start_ns / 1e9 != trial["movement_onset_time"] - 1).any()
    np.testing.assert_array_equal(table.columns["stop_s"], trial["movement_onset_time"])
    starts = bwb.population_windows(session, "test")
    with h5py.File(path) as file:
        hull, domain = file["task_aligned_intervals/domain"], file["ts2_test_domain"]
        lows = (
            np.maximum(hull["start"][:][:, None], domain["start"][:]),
            np.minimum(hull["end"][:][:, None], domain["end"][:]),
        )
    low, high = (edge[lows[0] < lows[1]] for edge in lows)
    assert set(low.tolist()) <= set(starts.tolist())  # each stretch begins with a window that begins just there
    for a, b in zip(low, high, strict=True):
        own = starts[(starts >= a) & (starts < b)]
        assert own[-1] + 1 == pytest.approx(b, abs=1e-12)
        np.testing.assert_allclose(own[:-1], a + 0.02 * np.arange(len(own) - 1), atol=1e-12)


def test_population_counts_and_what_is_hidden(tmp_path):
    layout.write(tmp_path / "one.h5", seed=5, build="selected_units", n_units=12)
    session = read(tmp_path / "one.h5", "ibl_bwb_selected")
    starts = bwb.population_windows(session, "val")
    held_out = bwb.held_out_units(session, "test")
    assert held_out.sum() == 1
    found = bwb.counts(session, starts)
    with h5py.File(tmp_path / "one.h5") as file:
        seconds, unit = file["spikes/timestamps"][:], file["spikes/unit_index"][:]
    for k in (0, len(starts) // 2, len(starts) - 1):
        for b in (0, 7, 49):
            inside = (seconds >= starts[k] + 0.02 * b) & (seconds < starts[k] + 0.02 * (b + 1))
            assert found[k, b].tolist() == np.bincount(unit[inside], minlength=12).tolist()
    given, scored = bwb.co_smoothing(found, held_out)
    assert given[:, :, held_out].sum() == 0 and scored.shape == (len(starts), 50, 1)
    given, scored = bwb.forecasting(found)
    assert given[:, -5:].sum() == 0 and (given[:, :-5] == found[:, :-5]).all() and scored.shape[1] == 5
    with h5py.File(tmp_path / "one.h5", "r+") as file:
        file["units/ts2_co_smoothing_is_held_out_test"][:] = ~held_out
    with pytest.raises(DataError, match="holds out 11 units for test, the rule 1 others"):
        bwb.held_out_units(read(tmp_path / "one.h5"), "test")


def test_units_whose_region_is_asked(tmp_path):
    for regime, rows in (("eval", [0, 5, 6]), ("pretrain", [0, 2, 5, 6])):  # unit 2 has no PASS, but no FAIL
        layout.write(tmp_path / f"{regime}.h5", regime=regime, build="selected_units")
        session = read(tmp_path / f"{regime}.h5", "ibl_bwb_selected")
        units = bwb.scored_units(session)
        assert units.row.tolist() == rows
        assert units.unit_id[0] == f"{layout.EID}/{session.units.id[0]}"
        assert set(units.region.tolist()) <= set(bwb.REGIONS)
        shares = bwb.isi_histograms(session, units.row)
        own = np.diff(session.spikes.time_ns[session.spikes.unit == units.row[0]]) / 1e9
        edge = np.logspace(-3, np.log10(3), 129)
        inside = own[(own >= edge[0]) & (own <= edge[-1])]
        assert shares[0, 60] == pytest.approx(((inside >= edge[60]) & (inside < edge[61])).mean(), abs=1e-6)
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)


def test_what_is_not_there_is_said(made, tmp_path):
    layout.write(tmp_path / "one.h5", without=("paws",), build="selected_units")
    session = read(tmp_path / "one.h5")
    assert {note.id for note in session.notes} >= {"bwb-behaviours", "bwb-build"}
    with pytest.raises(DataError, match="has no 'left_paw_speed': its quality"):
        bwb.task_windows(session, "left_paw_speed", "test")
    with pytest.raises(UnknownNameError, match="did you mean 'choice'"):
        bwb.task_windows(session, "choise", "test")
    with h5py.File(tmp_path / "one.h5", "r+") as file:
        file["brainset"].attrs["id"] = "other"
    with pytest.raises(SourceError, match="of brainset 'other'.*--rules none"):
        read(tmp_path / "one.h5")
    assert DATASETS["ibl_bwb"].host == DATASETS["ibl_bwb_selected"].host == "s3"


@pytest.mark.long
def test_a_behaviour_is_trained_and_scored_in_its_windows_alone(tmp_path):
    """The commands of docs/bwb.md, from a file to a score: as many samples are scored as the windows of test have."""
    import json

    from typer.testing import CliRunner

    from spiketok.cli import app
    from spiketok.storage.store import read_session

    layout.write(tmp_path / "files" / "one.h5", seed=2)
    root = ("--root", str(tmp_path / "ws"))
    stored = ("--hold-out", "none", "--set", "split.kind=stored", "--set", "split.set=ts1")
    windows = ("--set", 'task.decode.weights={"window=outside_movement"=0}', "--set", "data.window_ms=1000")

    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, *root])
        assert done.exit_code == 0, f"{done.output}{done.exception}"
        return done.stdout

    run("ingest", str(tmp_path / "files"), "--dataset", "ibl_bwb")
    run("tokenize", "--scheme", "per-spike")
    words = ("train", "-m", "poyo_plus", "--task", "decode:wheel_speed", *stored, *windows)
    run(*words, "--set", "size=tiny", "--set", "optim.steps=2")
    (result,) = (tmp_path / "ws/runs").glob("*/result.json")
    (scores,) = json.loads(result.read_text())["test"].values()
    session = read_session(tmp_path / "ws/store/ibl_bwb/one")
    expected = bwb.task_windows(session, "wheel_speed", "test").values.size
    assert scores["decode:wheel_speed"]["n_samples"] == expected


# ---- what the reference gave ----------------------------------------------------------------------------------------


@golden
def test_all_windows_and_targets_of_the_fixture():
    expected = np.load(FIXTURE / "expected.npz")
    whole, selected = (read(next((FIXTURE / build).rglob("eval/*.h5"))) for build in ("all_units", "selected_units"))
    found: dict[str, np.ndarray | None] = {}
    seconds = whole.spikes.time_ns / 1e9
    for task in bwb.TASKS:
        for split in bwb.SPLITS:
            made = bwb.task_windows(whole, task, split)
            own = {name: getattr(made, name) for name in ("start", "end", "trial_id", "values", "timestamps", "mask")}
            own["num_spikes"] = np.searchsorted(seconds, made.end) - np.searchsorted(seconds, made.start)
            found |= {f"ts1/{task}/{split}/{name}": value for name, value in own.items() if value is not None}
    for split in bwb.SPLITS:
        spans = bwb.population_intervals(selected, split)
        found |= {f"ts2/{split}/interval_{name}": edge for name, edge in zip(("start", "end"), spans, strict=True)}
    for split in bwb.STRIDE:
        found |= _population(selected, split, expected[f"ts2/{split}/picked"], f"ts2/{split}")
    for regime in ("eval", "pretrain"):
        session = read(next((FIXTURE / "selected_units").rglob(f"{regime}/*.h5")))
        units = bwb.scored_units(session)
        found |= {f"ts3/{regime}/{name}": getattr(units, name) for name in ("unit_id", "region", "probe_id", "depths")}
        found[f"ts3/{regime}/isi_histogram"] = bwb.isi_histograms(session, units.row)
    assert set(found) | {"meta", "ts2/val/picked", "ts2/test/picked"} == set(expected.files)
    for name, value in found.items():
        assert value.dtype.kind == expected[name].dtype.kind and value.shape == expected[name].shape, name
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def _population(session: Session, split: str, picked: np.ndarray, place: str) -> dict[str, np.ndarray]:
    starts, held_out = bwb.population_windows(session, split), bwb.held_out_units(session, split)
    counts = bwb.counts(session, starts[picked])
    smooth, ahead = bwb.co_smoothing(counts, held_out), bwb.forecasting(counts)
    own = {
        "window_start": starts, "held_out": held_out, "absolute_start": starts[picked], "counts": counts,
        "co_smoothing_input": smooth[0], "co_smoothing_target": smooth[1],
        "forecasting_input": ahead[0], "forecasting_target": ahead[1],
    }  # fmt: skip
    return {f"{place}/{name}": value for name, value in own.items()}


@golden
def test_starts_are_those_of_torch_to_the_last_bit():
    expected = np.load(FIXTURE / "window_starts.npz")
    offset = np.concatenate([[0], np.cumsum(expected["count"])])
    n_naive = 0
    for k, (start, end) in enumerate(expected["interval"].tolist()):
        own = slice(offset[k], offset[k + 1])
        np.testing.assert_array_equal(bwb.arange(start, end, 0.02), expected["avx2"][own])
        np.testing.assert_array_equal(bwb.arange(start, end, 0.02, fused=False), expected["default"][own])
        n_naive += int((start + 0.02 * np.arange(own.stop - own.start) != expected["avx2"][own]).sum())
    assert n_naive > 1000  # the plain sum is another number for one in eight
