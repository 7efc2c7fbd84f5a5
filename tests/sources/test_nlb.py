"""The seven NLB sets: files in their real layout, joined by the rules, and the tensors against nlb_tools' numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.nlb_scores import psth_r2, scores, tp_correlation, velocity_r2
from spiketok.pipeline.export import export_session, nlb
from spiketok.pipeline.export.nlb_tensors import eval_input, eval_target, train_input
from spiketok.pipeline.ingest import ingest, normalize
from spiketok.pipeline.tokenize import tokenize
from spiketok.recording.metrics import co_bps
from spiketok.recording.nouns import NS_PER_MS, Intervals, Session, Source
from spiketok.recording.segments import resolve_segments
from spiketok.sources.catalogue import DATASETS, download, plan_fetch, resolve
from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS
from spiketok.sources.catalogue.nlb.grid import FILES as FILE_TABLE
from spiketok.sources.catalogue.nlb.grid import Group, count, following_ms, grid_of, group_of
from spiketok.sources.catalogue.nlb.rules import join, session_name
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import Binned
from tests.conftest import real_data
from tests.dandi_server import DandiServer
from tests.layouts.nlb import FILES, parts, write_nlb
from tests.oracles.run_nlb_tools import score_inputs

GOLDEN = Path(__file__).parents[1] / "golden" / "nlb"
FLOAT32 = 2.0**-23  # what storing a behaviour as float32 may change, as a share of its largest value


def made(name: str, files: list[Path]) -> Session:
    files = sorted(files, key=str)
    sources = [Source(file=f.name, sha256="0" * 64, size=f.stat().st_size) for f in files]
    return normalize(files, f"{name}/{session_name(files[0].name)}", sources, {"rules": "nlb"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nlb")


@pytest.fixture(scope="module")
def paths(folder):
    return {name: write_nlb(name, folder / name) for name in FILES}


@pytest.fixture(scope="module")
def sessions(paths):
    return {name: made(name, list(files.values())) for name, files in paths.items()}


# ---- the catalogue and the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_catalogue_knows_the_set_and_its_window(name):
    entry = DATASETS[name]
    assert resolve(f"nlb/{name}").dandiset == resolve(f"nlb_{name}").dandiset == entry.dandiset
    assert entry.rules == "nlb" and entry.files == 2 and entry.doi in entry.citation
    assert any(f"--segments {BENCHMARKS[name].segments} " in note for note in entry.notes)
    assert len({quirk.id for quirk in entry.quirks}) == len(entry.quirks)


@pytest.mark.parametrize("name", FILES)
def test_both_files_become_one_session(name, sessions):
    session, (train, test) = sessions[name], parts(name)
    assert session.id == f"{name}/{session_name(FILES[name][0])}"
    assert session.units.id.tolist() == [str(i) for i in train.unit_id]
    assert session.units.columns["held_out"].tolist() == train.heldout.tolist()
    n_test = sum(map(len, test.spikes))
    assert len(session.spikes) == sum(map(len, train.spikes)) + n_test
    shift = int(session.intervals[FILE_TABLE].start_ns[1])
    last_ms = round(train.observed[-1, 1] * 1000) - 1
    assert shift % (100 * NS_PER_MS) == 0
    assert 50 <= shift // NS_PER_MS - last_ms < 150
    rows = np.flatnonzero(~train.heldout)
    for unit, times in enumerate(train.spikes):
        expected = np.rint(times * 1e9).astype(np.int64)
        if unit in rows:
            late = np.rint(test.spikes[list(rows).index(unit)] * 1e9).astype(np.int64) + shift
            expected = np.sort(np.concatenate([expected, late]))
        np.testing.assert_array_equal(session.spikes.time_ns[session.spikes.unit == unit], np.sort(expected))
    trials = session.trials
    n = len(train.trials["start_time"])
    assert trials.columns["file"].tolist() == ["train"] * n + ["test"] * len(test.trials["start_time"])
    start = np.rint(np.asarray(test.trials["start_time"]) * 1e9).astype(np.int64) + shift
    np.testing.assert_array_equal(trials.start_ns[n:], start)
    align = BENCHMARKS[name].align
    if align != "start_time":
        moved = np.asarray(test.trials[align]) + shift / 1e9
        np.testing.assert_array_equal(trials.columns[align][n:], moved)
        np.testing.assert_array_equal(trials.columns[align][:n], train.trials[align])
    assert [Path(s.file).name for s in session.source.files] == sorted(Path(f).name for f in FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_held_out_units_have_no_observed_time_in_the_test_part(name, sessions):
    session, (train, test) = sessions[name], parts(name)
    shift = int(session.intervals[FILE_TABLE].start_ns[1])
    length = sum(round((b - a) * 1e9) for a, b in test.observed)
    for unit, out in enumerate(train.heldout):
        pairs = session.unit_observed[unit]
        late = pairs[pairs[:, 0] >= shift]
        assert int((late[:, 1] - late[:, 0]).sum()) == (0 if out else length)
    assert next(f for f in session.notes if f.id == "nlb-held-out-unobserved").count == train.heldout.sum()


@pytest.mark.parametrize("name", FILES)
def test_splits_are_the_trials_of_each_name(name, sessions):
    session, whole = sessions[name], parts(name)
    assert set(session.splits.columns["set"].tolist()) == {"nlb"}
    for word, split in (("train", "train"), ("val", "valid"), ("test", "test")):
        length = sum(
            round((stop - start) * 1e9)
            for part in whole
            for start, stop, of in zip(
                part.trials["start_time"], part.trials["stop_time"], part.trials["split"], strict=True
            )
            if of == word
        )
        assert session.splits.take(session.splits.columns["name"] == split).total_ns == length
        n = sum(part.trials["split"].count(word) for part in whole)
        assert np.count_nonzero(session.trials.columns["split"] == word) == n
    assert sum(part.trials["split"].count("none") for part in whole) > 0


def test_columns_that_only_the_train_file_has(sessions):
    session, (train, _) = sessions["mc_maze_small"], parts("mc_maze_small")
    n = len(train.trials["start_time"])
    columns = session.trials.columns
    assert np.isnan(columns["rt"][n:]).all() and columns["rt"][:n].tolist() == train.trials["rt"]
    assert [len(columns["barrier_pos"][row]) for row in range(len(session.trials))] == [
        *(len(p) for p in train.trials["barrier_pos"]), *[0] * 4,
    ]  # fmt: skip
    for row in range(n):
        np.testing.assert_array_equal(columns["target_pos"][row], train.trials["target_pos"][row])
    note = next(f for f in session.notes if f.id == "nlb-columns-missing")
    assert note.count == 4 and "barrier_pos" in note.text
    assert "columns=" not in str(session.signals["hand_vel"].components)
    assert session.signals["hand_vel"].components == ("x", "y")


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("mc_maze")])
def test_electrodes_of_m1_are_mended(name, sessions):
    session, (train, test) = sessions[name], parts(name)
    columns = session.units.columns
    for unit, number in enumerate(train.unit_id.tolist()):
        m1, electrode = number // 1000 == 2, number % 1000 // 10
        assert columns["channel"][unit] == electrode + 96 * m1
        assert columns["group"][unit] == f"electrode_group_{'M1' if m1 else 'PMd'}"
        assert columns["region"][unit] == ("M1" if m1 else "PMd")
    counts = [f.count for f in session.repairs if f.id == "mc_maze-electrodes"]
    assert sorted(counts) == sorted(int((part.unit_id // 1000 == 2).sum()) for part in (train, test))


def test_electrodes_that_are_right_are_left(paths, tmp_path):
    good = tmp_path / paths["mc_maze_small"]["test"].name
    good.write_bytes(paths["mc_maze_small"]["test"].read_bytes())
    with h5py.File(good, "r+") as h5:
        of_m1 = h5["units/id"][()] // 1000 == 2
        h5["units/electrodes"][...] = h5["units/electrodes"][()] + 96 * of_m1
    session = made("mc_maze_small", [good])
    assert not [f for f in session.repairs if f.id == "mc_maze-electrodes"]
    assert session.units.columns["region"].tolist() == np.where(of_m1, "M1", "PMd").tolist()


@pytest.mark.parametrize("kind", ["train", "test"])
def test_one_file_alone(kind, paths):
    session = made("mc_maze_small", [paths["mc_maze_small"][kind]])
    assert set(session.trials.columns["file"].tolist()) == {kind}
    assert session.unit_observed is None and len(session.source.files) == 1
    if kind == "test":
        assert set(eval_input(session, split="test")) == {"eval_spikes_heldin"}
        with pytest.raises(DataError, match="no trials of split 'train'"):
            train_input(session)
    else:
        assert train_input(session)["train_spikes_heldout"].shape == (9, 140, 3)


def test_files_that_are_no_pair_are_refused(paths, sessions):
    train, test = (made("mc_maze_small", [paths["mc_maze_small"][kind]]) for kind in ("train", "test"))
    with pytest.raises(DataError, match="are both test files"):
        join([test, test], "mc_maze_small/x")
    other = replace(test, units=replace(test.units, id=np.array([f"9{i}" for i in test.units.id])))
    with pytest.raises(DataError, match="has 5 units that .* does not have, as '91011'"):
        join([other, train], "mc_maze_small/x")


# ---- the tensors ----------------------------------------------------------------------------------------------------


def all_tensors(session: Session, name: str, bin_ms: int) -> dict[str, np.ndarray]:
    """As ``tests/oracles/run_nlb_tools.py`` names them."""
    found: dict[str, np.ndarray] = {}

    def put(tree: dict, which: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                put(value, which)
            elif value.dtype == object:
                found.update({f"{name}/{bin_ms}/{which}/{key}/{k}": rows for k, rows in enumerate(value)})
            else:
                found[f"{name}/{bin_ms}/{which}/{key}"] = value

    put(train_input(session, name, bin_ms=bin_ms, with_behaviour=True, with_forward=True), "train")
    put(eval_input(session, name, bin_ms=bin_ms), "val")
    put(eval_input(session, name, "test", bin_ms=bin_ms), "test")
    put(eval_target(session, name, bin_ms=bin_ms, psth=True), "target")
    return found


def assert_as_reference(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> None:
    """Counts, rows, masks and jitter exactly; behaviours as far as float32 tells; PSTH to 1e-6 of a spike."""
    for path, expected in reference.items():
        found, key = ours[path], path.split("/")[3]
        if expected.dtype == np.uint8:
            expected = np.where(expected == 255, np.nan, expected.astype(np.float32))
        assert found.shape == expected.shape, path
        if "behavior" in key:
            most = np.nanmax(np.abs(expected))
            np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32 * most, err_msg=path)
        elif key == "psth":
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=path)
        else:
            np.testing.assert_array_equal(found, expected, err_msg=path)


@pytest.mark.parametrize("name", FILES)
def test_tensors_are_those_of_nlb_tools(name, sessions):
    reference = dict(np.load(GOLDEN / f"{name}.npz"))
    ours = {}
    for bin_ms in (5, 20):
        ours |= all_tensors(sessions[name], name, bin_ms)
    assert len(reference) >= 20
    assert_as_reference(ours, reference)


def test_window_past_the_recording_keeps_its_length(paths):
    session = made("mc_rtt", [paths["mc_rtt"]["train"]])
    split = np.array(["train"] * len(session.trials))
    trials = Intervals(session.trials.start_ns, session.trials.stop_ns, {**session.trials.columns, "split": split})
    session = replace(session, intervals={**session.intervals, "trials": trials})
    forward = train_input(session, with_forward=True)["train_spikes_heldin_forward"]
    assert forward.shape == (16, 40, 6)
    assert np.isnan(forward[[6, 15]]).all() and not np.isnan(np.delete(forward, [6, 15], axis=0)).any()


def test_window_ends_where_the_next_one_begins_unless_overlap_is_allowed(sessions):
    session = sessions["mc_maze_small"]
    onset = session.trials.columns["move_onset_time"].copy()
    onset[1] = onset[0] + 0.5  # its window begins 250 ms after the first one's onset: 100 of 140 bins are left
    trials = Intervals(
        session.trials.start_ns, session.trials.stop_ns, {**session.trials.columns, "move_onset_time": onset}
    )
    moved = train_input(replace(session, intervals={**session.intervals, "trials": trials}), with_behaviour=True)
    whole = train_input(session, with_behaviour=True)
    for name in ("train_spikes_heldin", "train_behavior"):
        np.testing.assert_array_equal(moved[name][0, :100], whole[name][0, :100])
        assert np.isnan(moved[name][0, 100:]).all() and not np.isnan(moved[name][1, :80]).any()
    rtt = sessions["mc_rtt"]
    starts = rtt.trials.start_ns.copy()
    starts[1] = starts[0] + 100_000_000
    trials = Intervals(starts, rtt.trials.stop_ns, rtt.trials.columns)
    spikes = train_input(replace(rtt, intervals={**rtt.intervals, "trials": trials}))["train_spikes_heldin"]
    np.testing.assert_array_equal(spikes[0, 20:], spikes[1, :100])  # mc_rtt allows it


def test_each_unit_may_speak_for_itself(sessions):
    session = sessions["mc_maze_small"]
    own = [session.unit_observed[u] for u in range(len(session.units))]
    own[3] = own[3][1:]  # a held-in unit that was not recorded in the first trial
    value, offset = np.concatenate(own), np.cumsum([0, *map(len, own)])
    session = replace(session, unit_observed=type(session.unit_observed)(value, offset))
    first = train_input(session)["train_spikes_heldin"]
    each = train_input(session, observed="all")["train_spikes_heldin"]
    lost = np.isnan(each)
    assert not np.isnan(first).any()
    assert lost[0, :, 2].all() and lost.sum() == each.shape[1]  # unit row 3 is held-in column 2
    np.testing.assert_array_equal(first[~lost], each[~lost])


def test_names_that_do_not_exist(sessions):
    session = sessions["mc_rtt"]
    with pytest.raises(UnknownNameError, match="mc_maze_smal"):
        train_input(session, "mc_maze_smal")
    with pytest.raises(UnknownNameError, match="unknown split 'vali'"):
        eval_input(session, split="vali")
    with pytest.raises(UsageError, match="not public"):
        eval_target(session, split="test")
    with pytest.raises(DataError, match="no column 'move_onset_time'"):
        train_input(session, "mc_maze_small")


@given(
    st.lists(st.integers(-3, 130), max_size=40), st.integers(1, 7),
    st.lists(st.integers(-12, 30), min_size=1, max_size=4), st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 100), st.integers(1, 30)), max_size=3),
)  # fmt: skip
def test_counts_are_those_of_the_dense_axis(spike_ms, bin_ms, first, n_bins, spans):
    """Against the way of the reference: every millisecond, nan where not observed, whole bins summed, windows cut."""
    total, n_units = 100, 2
    spans = Intervals(np.array([a for a, _ in spans], np.int64), np.array([a + n for a, n in spans], np.int64)).union()
    start, stop = np.clip(spans.start_ns, 0, total), np.clip(spans.stop_ns, 0, total)
    seen = np.zeros(total, bool)
    for a, b in zip(start, stop, strict=True):
        seen[a:b] = True
    ms = np.sort(np.array([m for m in spike_ms if 0 <= m < total and seen[m]], np.int64))
    unit = np.arange(ms.size) % n_units
    dense = np.where(seen[:, None], 0.0, np.nan) * np.ones(n_units)
    np.add.at(dense, (ms, unit), 1)
    padded = np.concatenate([dense, np.full((-total % bin_ms, n_units), 0.0)])
    binned = np.nan_to_num(padded).reshape(-1, bin_ms, n_units).sum(axis=1)
    binned[np.isnan(dense[::bin_ms])] = np.nan
    group = Group(np.arange(n_units), ms, unit, ((start, stop),), np.zeros(n_units, np.int64))
    found = count(group, np.array(first), n_bins, bin_ms, total)
    for row, at in enumerate(first):
        for k in range(n_bins):
            inside = 0 <= at + k < len(binned)
            np.testing.assert_array_equal(found[row, k], binned[at + k] if inside else [np.nan] * n_units)


def test_files_lie_as_in_the_reference():
    # of nlb_tools: ceil((last index + 0.05 s) * 10) * 100 ms, the last index being that of millisecond n - 1
    assert [following_ms(n) for n in (1, 50, 51, 52, 150, 151, 152, 79_900)] == [
        100, 100, 100, 200, 200, 200, 300, 80_000,
    ]  # fmt: skip


@pytest.mark.parametrize("name", [e.name for e in nlb.EXPORTERS])
def test_export_has_the_keys_and_types_of_the_benchmark(name, sessions, tmp_path):
    session = sessions["mc_maze_small"]
    bin_ms, suffix = (20, "_20") if name.endswith("_20") else (5, "")
    done = export_session(session, "ab" * 32, name, tmp_path)
    assert done.path == str(tmp_path / "mc_maze_small" / f"sub-Jenkins_ses-small.{name}.h5")
    with h5py.File(done.path, "r") as h5:
        assert h5["train_spikes_heldin"].dtype == h5["train_behavior"].dtype == np.float32
        assert h5.attrs["bin_ms"] == bin_ms and "ab" * 32 in h5.attrs["origin"]
        if "test" in name:
            assert set(h5) == {"eval_spikes_heldin", "train_behavior"} | {
                f"train_spikes_{k}" for k in ("heldin", "heldout", "heldin_forward", "heldout_forward")
            }
            assert h5["train_spikes_heldin"].shape[0] == 12  # train and val
            found = eval_input(session, split="test", bin_ms=bin_ms)["eval_spikes_heldin"]
            np.testing.assert_array_equal(h5["eval_spikes_heldin"][()], found)
        else:
            target = h5[f"mc_maze_small{suffix}"]
            expected = eval_target(session, bin_ms=bin_ms, psth=True)[f"mc_maze_small{suffix}"]
            assert set(target) == set(expected)
            np.testing.assert_array_equal(target["eval_spikes_heldout"][()], expected["eval_spikes_heldout"])
            np.testing.assert_array_equal(target["psth"][()], expected["psth"].astype(np.float32))
            for rows, of in zip(target["train_cond_idx"][()], expected["train_cond_idx"], strict=True):
                np.testing.assert_array_equal(rows, of)
    again = export_session(session, "ab" * 32, name, tmp_path / "again")
    assert Path(again.path).read_bytes() == Path(done.path).read_bytes()


def test_export_refuses_a_session_of_another_dataset(sessions, tmp_path):
    other = replace(sessions["mc_rtt"], id="local/x")
    with pytest.raises(UnknownNameError, match="unknown benchmark set 'local'"):
        export_session(other, "ab" * 32, "nlb", tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# ---- the scores -----------------------------------------------------------------------------------------------------


def our_scores(given: dict[str, np.ndarray]) -> dict[str, float]:
    """As ``tests/oracles/run_nlb_tools.py --metrics`` names them."""
    conditions = [given[f"condition{k}"] for k in range(3)]
    sides = [given[f"{name}_{what}"] for name in ("train", "eval") for what in ("rates", "behavior")]
    return {
        "bits_per_spike": co_bps(given["eval_rates"], given["spikes"]),
        "velocity_r2": velocity_r2(*sides, given["train_mask"], given["eval_mask"]),
        "psth_r2": psth_r2(given["psth"], given["eval_rates"], conditions, given["jitter"]),
        "tp_correlation": tp_correlation(given["tp_spikes"], given["eval_rates"], given["tp_behavior"]),
    }


def test_scores_are_those_of_nlb_tools():
    reference, given = dict(np.load(GOLDEN / "scores.npz")), score_inputs()
    before = {name: value.copy() for name, value in given.items()}
    ours = our_scores(given)
    assert set(reference) == set(ours)
    for name, expected in reference.items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-9, err_msg=name)
    for name, value in before.items():
        np.testing.assert_array_equal(given[name], value)  # nlb_tools changes the caller's rates


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mc_maze_small", {"co-bps", "vel R2", "psth R2", "fp-bps"}),
        ("mc_rtt", {"co-bps", "vel R2", "fp-bps"}),
        ("area2_bump", {"co-bps", "vel R2", "psth R2", "fp-bps"}),
    ],
)
def test_rates_that_are_the_psth_score_it_in_full(name, expected, sessions):
    session, rng = sessions[name], np.random.default_rng(0)
    train = train_input(session, with_forward=True)
    found = eval_input(session)
    target = eval_target(session, psth=True)[name]
    rates = {f"train_rates_{k}": train[f"train_spikes_{k}"] + rng.uniform(0, 1, 1) for k in ("heldin", "heldout")}
    rates |= {f"eval_rates_{k}": np.full_like(found[f"eval_spikes_{k}"], 0.1) for k in ("heldin", "heldout")}
    rates |= {f"eval_rates_{k}_forward": target[f"eval_spikes_{k}_forward"] + 1.0 for k in ("heldin", "heldout")}
    n_in = rates["eval_rates_heldin"].shape[2]
    for k, rows in enumerate(target.get("eval_cond_idx", ())):
        rates["eval_rates_heldin"][rows], rates["eval_rates_heldout"][rows] = np.split(
            target["psth"][k], [n_in], axis=1
        )
    made_of = scores(target, rates)
    assert set(made_of) == expected
    assert np.isfinite(list(made_of.values())).all()
    if "psth R2" in expected:
        assert made_of["psth R2"] == pytest.approx(1, abs=1e-6)


def test_scores_refuse_what_cannot_be_scored(sessions):
    target = eval_target(sessions["dmfc_rsg"])["dmfc_rsg"]
    rates = {f"eval_rates_{k}": np.full((3, 300, n), 0.1) for k, n in (("heldin", 6), ("heldout", 2))}
    assert np.isnan(scores(target, rates)["tp corr"])  # rates that do not move have no speed to correlate
    target["eval_behavior"][:2, 0] = [0, 1]
    with pytest.raises(DataError, match="has 1 trial, needs two"):
        scores(target, rates)
    with pytest.raises(DataError, match="trials and bins must agree"):
        velocity_r2(np.ones((2, 3, 1)), np.ones((2, 4, 1)), np.ones((2, 3, 1)), np.ones((2, 3, 1)))


# ---- from the archive to tokens -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_fetch_ingest_and_tokenize(name, paths, tmp_path):
    entry, whole = DATASETS[name], parts(name)
    assets = {path: paths[name][kind].read_bytes() for kind, path in zip(("train", "test"), FILES[name], strict=True)}
    workspace = Workspace.locate(tmp_path)
    with DandiServer(assets, entry.dandiset, entry.version) as server:
        plan = plan_fetch(resolve(f"nlb/{name}"), workspace.raw, api_url=server.api_url)
        files = [result.file for result in download(plan, workspace.raw)]
    outcomes = list(ingest(workspace, files))
    assert [outcome.error for outcome in outcomes] == [None]
    done = outcomes[0].result
    assert done.session_id == f"{name}/{session_name(FILES[name][0])}"
    assert (done.n_units, done.n_spikes) == (len(whole[0].unit_id), sum(len(t) for part in whole for t in part.spikes))
    assert [o.result.state for o in ingest(workspace, files)] == ["already"]
    session = read_session(workspace.store_path(done.session_id))
    assert len(session.trials) == sum(len(part.trials["start_time"]) for part in whole)
    rule = BENCHMARKS[name].segments
    made_of = list(tokenize(workspace, [done.session_id], [Binned(5 * NS_PER_MS)], rule))
    assert [outcome.error for outcome in made_of] == [None]
    segments, time_ns = resolve_segments(session, rule), session.spikes.time_ns
    held = sum(
        int(np.diff(np.searchsorted(time_ns, [a, b]))[0])
        for a, b in zip(segments.start_ns, segments.stop_ns, strict=True)
    )
    assert made_of[0].result[0].held == held


def test_real_test_file(tmp_path):
    folder = real_data()
    if folder is None:
        pytest.skip("the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)")
    file = folder / "sub-Jenkins_ses-small_desc-test_ecephys.nwb"
    if not file.exists():
        pytest.skip(f"{file.name} is not in the folder that SPIKETOK_REAL_DATA names")
    session = made("mc_maze_small", [file])
    assert (len(session.units), len(session.spikes), len(session.trials)) == (107, 32_897, 100)
    mended = next(f for f in session.repairs if f.id == "mc_maze-electrodes")
    assert mended.count == 55
    number = np.array([int(i) for i in session.units.id])
    np.testing.assert_array_equal(session.units.columns["channel"], number % 1000 // 10 + 96 * (number // 1000 == 2))
    np.testing.assert_array_equal(session.units.columns["region"], np.where(number // 1000 == 2, "M1", "PMd"))
    spikes = eval_input(session, split="test")["eval_spikes_heldin"]
    assert spikes.shape == (100, 140, 107)
    assert np.nansum(spikes) == 32_897 and not np.isnan(spikes).any()
    assert session.splits.columns["name"].tolist() == ["test"] * 100
    assert grid_of(session).total_ms == 79_900
    assert len(group_of(session, grid_of(session), held_out=True).unit) == 0


def test_findings_are_quirks_of_the_catalogue(sessions):
    for name, session in sessions.items():
        own = {f.id for f in (*session.repairs, *session.notes) if f.id.startswith(("nlb", "mc_maze"))}
        assert own <= {quirk.id for quirk in DATASETS[name].quirks}
        assert {"nlb-two-files", "nlb-held-out-unobserved", "nlb-split-none"} <= own
