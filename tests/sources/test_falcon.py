"""The six FALCON sets: from the archive to tokens, what is mended on the way, and the reference loader's arrays.

Files are ``layouts/falcon.py``'s, written with pynwb; numbers of the reference stand in ``golden/falcon``, recorded by
``test_oracle_falcon.py``.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError, UsageError
from spiketok.pipeline import tokenize, verify
from spiketok.pipeline.export.falcon_tensors import bin_edges, falcon_tensors, smooth_causal, standardize, write_falcon
from spiketok.pipeline.ingest import ingest
from spiketok.recording.identity import Identity
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import Session, Source
from spiketok.sources.catalogue import DATASETS, RULES, download, plan_fetch, resolve
from spiketok.sources.catalogue.falcon.rules import H1_SETS, adjust, role_of, session_name
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.files import sha256_arrays
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import Binned
from tests.dandi_server import DandiServer
from tests.layouts import falcon as layout

GOLDEN = Path(__file__).parents[1] / "golden" / "falcon"
NAMES = tuple(layout.SETS)
# set -> its sessions with role, split and day, in order of the files written
SESSIONS = {
    "falcon_m1": ("20120924_held_in_calib", "20121004_held_out_calib", "20120924_minival"),
    "falcon_m1b": ("20121206_held_in_calib", "20121213_held_out_calib", "20121206_minival"),
    "falcon_m2": (
        *("2020-10-19-Run1_held_in_calib", "2020-10-19-Run2_held_in_calib"),
        *("2020-10-30-Run1_held_out_calib", "2020-10-19-Run1_minival"),
    ),
    "falcon_h1": ("S0_set_1_held_in_calib", "S0_set_2_held_in_calib", "S6_set_1_held_out_calib", "S0_set_1_minival"),
    "falcon_h2": ("20220518_held_in_calib", "20230417_held_out_calib", "20220518_minival"),
    "falcon_b1": ("20210626_held_in_calib", "20210630_held_out_calib", "20210626_minival"),
}
SUBJECTS = {
    "falcon_m1": "MonkeyL", "falcon_m1b": "MonkeyX", "falcon_m2": "MonkeyN", "falcon_h1": "HumanPitt",
    "falcon_h2": "T5", "falcon_b1": "Finch_z_r12r13_21",
}  # fmt: skip
DAYS = {
    "falcon_m1": ("2012-09-24", (None, None)),
    "falcon_m1b": ("2012-12-06", (None, None)),
    "falcon_m2": ("2020-10-19", ("Run1", None)),
    "falcon_h1": ("1925-01-01", (None, "S0_set_1")),
    "falcon_h2": ("2022-05-18", (None, None)),
    "falcon_b1": ("2021-06-26", (None, None)),
}
SPLITS = {"held_in_calib": "train", "held_out_calib": "calibration", "minival": "minival"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, list[layout.Made]]:
    root = tmp_path_factory.mktemp("falcon")
    return {name: layout.write_set(root / name, name) for name in NAMES}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, made) -> Workspace:
    """All six sets, fetched from one server and ingested by their rules."""
    workspace = Workspace(tmp_path_factory.mktemp("root"))
    with pytest.MonkeyPatch.context() as patch, DandiServer({}) as server:
        patch.setenv("DANDI_NO_ET", "1")
        patch.setenv("DANDI_CACHE", "ignore")
        for name in NAMES:
            dataset = DATASETS[name]
            server.dandiset, server.version = dataset.dandiset, dataset.version or "0.260101.0000"
            server.assets = {one.asset: one.path.read_bytes() for one in made[name]}
            plan = plan_fetch(resolve(name.replace("_", "/", 1)), workspace.raw, api_url=server.api_url)
            results = download(plan, workspace.raw)
            assert [r.message for r in results if r.status != "fetched"] == []
            outcomes = list(ingest(workspace, [r.file for r in results]))
            assert [outcome.error for outcome in outcomes if outcome.error] == []
    return workspace


@functools.cache
def stored(workspace: Workspace, name: str) -> list[Session]:
    return [read_session(workspace.store_path(f"{name}/{session}")) for session in SESSIONS[name]]


def adjusted(one: layout.Made, name: str = "") -> Session:
    """A file by the generic reader and the rules, without a store."""
    source = Source(name or one.asset, "0" * 64, 1)
    return adjust(read_nwb(one.path, "falcon/x", source, mends_clocks=True), one.path)


# ---- from the archive to tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_goes_from_the_archive_to_the_store(workspace, made, name):
    assert sorted(workspace.select(f"{name}/*")) == sorted(f"{name}/{session}" for session in SESSIONS[name])
    for session, one in zip(stored(workspace, name), made[name], strict=True):
        role = session.info["falcon_role"]
        assert session.name.endswith(role) and role in SPLITS
        assert (len(session.units), len(session.spikes)) == (one.n_units, one.n_spikes)
        assert len(session.trials or ()) == one.n_trials
        assert session.subject == SUBJECTS[name]
        assert session.splits.columns["name"].tolist() == [SPLITS[role]]
        assert session.splits.columns["set"].tolist() == ["falcon"]
        assert (session.splits.start_ns[0], session.splits.stop_ns[0]) == (session.start_ns, session.stop_ns)
        assert ("falcon-minival" in {note.id for note in session.notes}) == (role == "minival")
        repaired = {repair.id for repair in session.repairs}
        assert repaired == {"falcon-subject"} | ({"falcon-h1-rate"} if name == "falcon_h1" else set())
    facts = stored(workspace, name)[0].info
    day, run_or_set = DAYS[name]
    assert facts["falcon_day"] == day
    assert (facts.get("falcon_run"), facts.get("falcon_set")) == run_or_set


@pytest.mark.parametrize("name", NAMES)
def test_tokens_hold_every_spike_of_observed_time(workspace, name):
    (outcome,) = tokenize.tokenize(workspace, [f"{name}/{SESSIONS[name][-1]}"], [Binned()])
    (tokens,) = outcome.result
    session = read_session(workspace.store_path(outcome.name))
    inside = int(holds(session.observed, session.spikes.time_ns).sum())
    assert (tokens.state, tokens.n_spikes) == ("new", len(session.spikes))
    assert inside <= tokens.held <= inside + (name == "falcon_m2"), "M2 has a spike in no observed time"


@pytest.mark.long
def test_minival_neither_trains_nor_scores_beside_what_it_is_part_of(workspace):
    """Its trials lie in the held-in file of its run: a decoder would be scored on what it was trained on."""
    pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")
    from types import SimpleNamespace

    from spiketok.training.config import load_config
    from spiketok.training.runs import choose_training, open_transfer_shards
    from spiketok.training.tasks.decode import Decode, DecodeConfig, TargetSpec

    held_in, second, held_out, minival = (f"falcon_m2/{session}" for session in SESSIONS["falcon_m2"])
    assert stored(workspace, "falcon_m2")[-1].info["part_of"] == held_in
    for _ in tokenize.tokenize(workspace, [held_in, second, held_out, minival], [Binned()]):
        pass
    config = load_config("linear")
    chosen = choose_training(workspace, config, "falcon_m2/*", None)
    assert chosen.sessions == sorted([held_in, second, held_out])
    assert chosen.left_out == [f"{minival} is part of {held_in}"]
    assert minival not in choose_training(workspace, config, "falcon_m2/*", held_in).sessions
    chosen = choose_training(workspace, config, minival, None)
    assert (chosen.sessions, chosen.left_out) == ([minival], [])

    task = Decode("finger_vel", DecodeConfig(), TargetSpec("finger_vel", (), ""))
    known = workspace.facts(held_in)
    run = SimpleNamespace(
        trained_on=[SimpleNamespace(id=held_in, identity=Identity.of(known))], config=config, tasks=(task,)
    )
    with pytest.raises(
        UsageError, match=f"{minival} is part of {held_in}, one of the sessions that the run was trained"
    ):
        open_transfer_shards(workspace, run, minival, within=False)
    assert [s.id for s in open_transfer_shards(workspace, run, minival, within=True)[0]] == [minival]
    readers, _, _ = open_transfer_shards(workspace, run, f"{second},{held_out}", within=False)
    assert len(readers) == 2


@pytest.mark.parametrize("name", ["falcon_m2", "falcon_h1"])
def test_streams_what_the_whole_file_gives(workspace, made, tmp_path, name):
    """M2's files have full-band voltage by now; the session needs none of it."""
    pytest.importorskip("remfile", reason="remfile is not installed (pip install 'spiketok[remote]')")
    from spiketok.pipeline.ingest_remote import stream

    one, dataset = made[name][-1], DATASETS[name]
    if name == "falcon_m2":
        one = layout.write_m2(tmp_path, layout.MINIVAL, voltage_samples=40_000)
    with DandiServer({one.asset: one.path.read_bytes()}, dataset.dandiset, "0.260101.0000") as server:
        far = Workspace(tmp_path / "far")
        plan = plan_fetch(resolve(name), far.raw, api_url=server.api_url)
        (outcome,) = stream(far, plan)
    assert outcome.error is None
    ours, theirs = read_session(far.store_path(f"{name}/{SESSIONS[name][-1]}")), stored(workspace, name)[-1]
    assert np.array_equal(ours.spikes.time_ns, theirs.spikes.time_ns)
    assert [r.text for r in ours.repairs] == [r.text for r in theirs.repairs]
    assert digests(falcon_tensors(ours)) == digests(falcon_tensors(theirs))
    if name == "falcon_m2":
        assert outcome.result.read_bytes < outcome.result.total_bytes / 4


@pytest.mark.long
def test_verify_finds_nothing(workspace):
    """One session a set, against pynwb's reading and against itself made again."""
    ids = [f"{name}/{SESSIONS[name][-1]}" for name in NAMES]
    assert {o.name: o.error or o.result.differences for o in verify.verify(workspace, ids)} == {i: [] for i in ids}


def test_the_catalogue_knows_the_rules():
    for name in NAMES:
        dataset = DATASETS[name]
        assert dataset.rules == "falcon" and dataset.rules in RULES
        assert {quirk.id for quirk in dataset.quirks} >= {"falcon-subject", "falcon-role", "falcon-minival"}
        for form in (name, name.replace("_", "/", 1), name.replace("_", "-"), name.upper()):
            assert resolve(form).dataset == name


# ---- names ----------------------------------------------------------------------------------------------------------


def test_h1_stamps_name_27_sets():
    assert len(H1_SETS) == len(set(H1_SETS.values())) == 27
    golden = json.loads((GOLDEN / "reference.json").read_text())
    assert golden["h1_sets"] == H1_SETS


def test_names_of_sessions():
    assert session_name("sub-MonkeyL-held-in-minival_ses-20120924_behavior+ecephys.nwb") == "20120924_minival"
    assert session_name("sub-T5-held-out-calib_ses-20230417.nwb") == "20230417_held_out_calib"
    assert session_name("other.nwb") == "other"
    assert role_of("HumanPitt-held_in-calib_01-01-11:17_set1") == "held_in_calib"
    assert role_of("sub-calibration_ses-1") == ""


def test_contradicting_roles_are_refused(made):
    one = made["falcon_h2"][0]
    with pytest.raises(
        DataError, match=r"role is not clear \(subject id 'T5_held_in_calib', file name 'sub-T5-minival"
    ):
        adjusted(one, "sub-T5-minival_ses-20220518.nwb")


def test_without_a_role_there_is_no_split(made, tmp_path):
    one = made["falcon_h2"][0]
    session = read_nwb(one.path, "falcon/x", Source("a.nwb", "0" * 64, 1))
    session = replace(session, subject="T5", info={})
    session = adjust(session, one.path)
    assert len(session.splits) == 0
    assert "falcon-role" in {note.id for note in session.notes}


def test_a_file_of_something_else_is_refused(tmp_path):
    from tests.nwb_files import write_plain

    path = write_plain(tmp_path / "plain.nwb")
    session = read_nwb(path, "falcon/x", Source("plain.nwb", "0" * 64, 1))
    with pytest.raises(DataError, match="no file of FALCON: ingest it with --rules none"):
        adjust(session, path)


# ---- what is mended and noted ---------------------------------------------------------------------------------------


def test_h1_times_are_made_anew(made):
    """``rate`` holds seconds: the reader has 2500 times too long a session, the rules the true one."""
    one = made["falcon_h1"][0]
    plain = read_nwb(one.path, "falcon/x", Source(one.asset, "0" * 64, 1), mends_clocks=True)
    assert plain.signals["eval_mask"].time_ns[1] == 50_000_000_000
    session = adjusted(one)
    for name in ("OpenLoopKinematics", "OpenLoopKinematicsVelocity", "TrialNum", "eval_mask"):
        assert np.array_equal(session.signals[name].time_ns, np.arange(one.n_samples) * 20_000_000)
        assert session.signals[name].rate_hz == 50
    assert session.signals["OpenLoopKinematicsVelocity"].components == layout.DEGREES
    (repair,) = [r for r in session.repairs if r.id == "falcon-h1-rate"]
    assert repair.count == 4 * one.n_samples
    assert session.stop_ns < 20_000_000_000
    assert plain.start_ns > -20_000_000
    assert session.start_ns == session.observed.start_ns[0] == -20_000_000  # bins end at the stamps


def test_h1_offset_is_time_and_no_value(tmp_path):
    one = layout.write_h1(tmp_path, layout.HELD_OUT, offset_s=3.5)
    session = adjusted(one)
    with h5py.File(one.path) as file:
        stands = file["acquisition/OpenLoopKinematics/data"][()]
    kinematics = session.signals["OpenLoopKinematics"]
    assert kinematics.time_ns[0] == 3_500_000_000
    assert np.allclose(kinematics.value, stands, atol=1e-5)
    assert np.array_equal(session.signals["TrialNum"].value[:, 0], 1 + np.arange(one.n_samples) // 120)


def test_series_of_other_times_are_not_one_signal(made, tmp_path):
    path = tmp_path / "odd.nwb"
    path.write_bytes(made["falcon_m2"][3].path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["acquisition/finger_vel/mrs/timestamps"][3] += 0.001
    with pytest.raises(DataError, match=r"'finger_vel' differ in time: 'finger_vel.mrs' and 'finger_vel.index'"):
        adjust(read_nwb(path, "falcon/x", Source(made["falcon_m2"][3].asset, "0" * 64, 1)), path)


@pytest.mark.parametrize(
    ("name", "target", "mask"),
    [
        ("falcon_m1", "preprocessed_emg", "eval_mask"),
        ("falcon_m2", "finger_vel", "eval_mask"),
        ("falcon_h1", "OpenLoopKinematicsVelocity", "eval_mask"),
        ("falcon_b1", "vocalizations", "eval_mask_audio"),
        ("falcon_b1", "spectrogram", "spectrogram_eval_mask"),
    ],
)
def test_only_scored_samples_are_valid(workspace, name, target, mask):
    session = stored(workspace, name)[0]
    scored = session.signals[mask].value[:, 0] != 0
    assert np.array_equal(session.signals[target].valid, scored)
    assert session.signals[mask].valid.all()
    assert 0 < scored.sum() < scored.size
    hidden = [
        n.count for n in session.notes if n.id == "falcon-eval-mask" and target in n.text.split(":")[0].split(", ")
    ]
    assert hidden == [(~scored).sum()]
    assert np.abs(session.signals[target].value[~scored]).sum() > 0  # marked, not lost


def test_h2_gaps_are_no_observed_time(workspace, made):
    session = stored(workspace, "falcon_h2")[0]
    trials = session.trials
    assert np.array_equal(session.observed.start_ns, trials.start_ns)
    assert np.array_equal(session.observed.stop_ns, trials.stop_ns + 20_000_000)  # a stop is the last bin's start
    assert (session.observed.start_ns[1:] - session.observed.stop_ns[:-1] == 10_000_000_000).all()
    assert {n.id: n.count for n in session.notes}["falcon-h2-gaps"] == len(trials) - 1


def test_b1_spectrogram_counts_from_each_trial(workspace, made):
    session, one = stored(workspace, "falcon_b1")[0], made["falcon_b1"][0]
    with h5py.File(one.path) as file:
        table = file["intervals/trials"]
        time_s = table["start_time"][()][:, None] + table["spectrogram_times"][()]
        value = np.moveaxis(table["spectrogram_values"][()], 1, 2).reshape(-1, 158)
    signal = session.signals["spectrogram"]
    assert np.abs(signal.time_ns - time_s.reshape(-1) * 1e9).max() <= 1
    assert np.array_equal(signal.value, value.astype(np.float32))
    assert (signal.components[0], signal.components[-1]) == ("292.97 Hz", "7958.98 Hz")
    assert set(session.trials.columns) == {"id", "spectrogram_frequencies"}


def test_b1_refuses_times_of_another_clock(made, tmp_path):
    path = tmp_path / "late.nwb"
    path.write_bytes(made["falcon_b1"][2].path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["intervals/trials/spectrogram_times"][...] += 100
    with pytest.raises(DataError, match="do not count from their trials' starts"):
        adjust(read_nwb(path, "falcon/x", Source("a.nwb", "0" * 64, 1)), path)


# ---- the reference's arrays -----------------------------------------------------------------------------------------


def digests(tensors) -> dict[str, str]:
    """One digest an array, counts as int32 and targets as float32, in the words of golden/falcon."""
    target = tensors.target if isinstance(tensors.target, tuple) else (tensors.target,)
    return {
        "neural_data": sha256_arrays({"a": np.asarray(tensors.neural, np.int32)}),
        "targets": sha256_arrays({str(k): np.asarray(part) for k, part in enumerate(target)}),
        "trial_change": sha256_arrays({"a": np.asarray(tensors.trial_change, bool)}),
        "eval_mask": sha256_arrays({"a": np.asarray(tensors.eval_mask, bool)}),
    }


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_the_references(workspace, made, name):
    """Every array of every file, by the digest of what load_nwb of falcon-challenge 1.0.2 gave."""
    golden = json.loads((GOLDEN / "reference.json").read_text())["files"]
    for session, one in zip(stored(workspace, name), made[name], strict=True):
        assert digests(falcon_tensors(session, one.path)) == golden[one.asset], one.asset


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_references(workspace, made, name):
    """Count by count, for the smallest file: where a digest only says that something differs."""
    with np.load(GOLDEN / "minival_counts.npz") as file:
        reference = file[name]
    session = stored(workspace, name)[-1]
    ours = falcon_tensors(session, made[name][-1].path).neural
    assert np.array_equal(ours, reference)
    alone = falcon_tensors(session)
    differ = np.abs(alone.neural - reference.astype(np.int32)).sum()
    assert differ <= 2 * alone.n_near_edge, "only a spike within 1 ns of an edge may fall elsewhere"
    if name != "falcon_m2":
        assert differ == 0


def test_m2_without_its_file_differs_on_edges_only(workspace, made):
    """Spikes on a grid of 1 ms hit edges, and the last bits of the file's seconds are not in the store."""
    session, one = stored(workspace, "falcon_m2")[0], made["falcon_m2"][0]
    alone, beside = falcon_tensors(session), falcon_tensors(session, one.path)
    assert 0 < np.abs(alone.neural - beside.neural).sum() <= 2 * alone.n_near_edge
    assert beside.n_near_edge == 0


def test_m2_exact_bins_end_with_their_stamps(workspace):
    """A spike of millisecond k is in bin k // 20: the loader's bins begin 19 ms later."""
    session = stored(workspace, "falcon_m2")[0]
    exact = falcon_tensors(session, reading="exact")
    bins = session.spikes.time_ns // 20_000_000
    expected = np.zeros(exact.neural.shape, np.int32)
    inside = (bins >= 0) & (bins < len(expected))
    np.add.at(expected, (bins[inside], session.spikes.unit[inside]), 1)
    assert np.array_equal(exact.neural, expected)
    assert not np.array_equal(exact.neural, falcon_tensors(session).neural)


def test_m2_of_other_stamps_has_no_exact_reading(workspace):
    session = stored(workspace, "falcon_m2")[0]
    signals = {n: replace(s, time_ns=s.time_ns - 19_000_000) for n, s in session.signals.items()}
    with pytest.raises(DataError, match=r"first stamp is at 0 s, not on the last ms .* use reading='reference'"):
        falcon_tensors(replace(session, signals=signals), reading="exact")


def test_counts_do_not_wrap(workspace):
    """uint8 would give 44."""
    session = stored(workspace, "falcon_h1")[-1]
    time_ns = np.sort(np.append(session.spikes.time_ns, np.full(300, 1_010_000_001)))
    spikes = type(session.spikes)(time_ns, np.zeros(time_ns.size, np.int32))
    neural = falcon_tensors(replace(session, spikes=spikes)).neural
    assert neural.max() >= 300
    assert neural.dtype == np.int32


@given(
    gaps=st.lists(st.sampled_from([20, 20, 20, 12, 22, 40, 10_020]), min_size=1, max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30)
def test_a_bin_after_a_gap_holds_its_last_20_ms(gaps, seed):
    """Whole ns and seconds against a plain loop over the bins."""
    end_ms = np.cumsum([100, *gaps])
    spike_ms = np.sort(np.random.default_rng(seed).integers(0, end_ms[-1], 200)) + 0.37  # off the edges
    previous = np.concatenate([[80], end_ms[:-1]])
    expected = [
        int(((spike_ms >= max(low, high - 20)) & (spike_ms < high)).sum())
        for low, high in zip(previous, end_ms, strict=True)
    ]
    for end, width, scale in ((end_ms * 1_000_000, 20_000_000, 1_000_000), (end_ms / 1000, 0.02, 0.001)):
        edges, counts = bin_edges(end, width)
        assert counts.sum() == end_ms.size
        assert np.histogram(spike_ms * scale, edges)[0][counts].tolist() == expected


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("name", ["falcon_m2", "falcon_h2"])
def test_files_hold_the_tensors(workspace, made, tmp_path, name, suffix):
    session, one = stored(workspace, name)[-1], made[name][-1]
    made_of = write_falcon(session, tmp_path / f"a{suffix}", source=one.path)
    write_falcon(session, tmp_path / f"b{suffix}", source=one.path)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with np.load(tmp_path / "a.npz") if suffix == ".npz" else h5py.File(tmp_path / "a.h5") as file:
        arrays = {key: file[key][()] for key in ("neural_data", "targets", "trial_change", "eval_mask")}
        offset = file["targets_offset"][()] if name == "falcon_h2" else None
        facts = {k: str(file[k]) for k in ("task", "role")} if suffix == ".npz" else dict(file.attrs)
    assert (facts["task"], facts["role"]) == (name[-2:], "minival")
    assert np.array_equal(arrays["neural_data"], made_of.neural)
    assert np.array_equal(arrays["trial_change"], made_of.trial_change)
    if offset is None:
        assert np.array_equal(arrays["targets"], made_of.target)
    else:
        text = "".join(map(chr, arrays["targets"][offset[0] : offset[1]]))
        assert text == session.trials.columns["cue"][0]


def test_export_takes_the_seconds_of_the_file_where_it_is_at_hand(workspace, made, tmp_path):
    """So that spikes on edges fall as in the reference; without the file the command tells how many may not."""
    from typer.testing import CliRunner

    from spiketok.cli import app

    session = f"falcon_m2/{SESSIONS['falcon_m2'][-1]}"
    words = ["export", session, "--to", "falcon", "--root", str(workspace.root), "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "here")])
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "here" / f"{session}.h5") as file, np.load(GOLDEN / "minival_counts.npz") as golden:
        assert np.array_equal(file["neural_data"][()], golden["falcon_m2"])
    assert "of an edge" not in done.output
    index = workspace.root / "sources.json"
    kept = index.read_text()
    index.write_text("{}")
    try:
        done = CliRunner().invoke(app, [*words, str(tmp_path / "alone")])
    finally:
        index.write_text(kept)
    assert done.exit_code == 0 and "spikes lie within 1 ns of an edge" in done.output


def test_tensors_say_what_is_wrong(workspace, made, tmp_path):
    session = stored(workspace, "falcon_m1")[-1]
    with pytest.raises(UsageError, match="reading is 'parity'"):
        falcon_tensors(session, reading="parity")
    with pytest.raises(DataError, match="has other times than falcon_m1/20120924_minival: name the file"):
        falcon_tensors(session, made["falcon_m1"][0].path)
    with pytest.raises(UsageError, match=r"a.csv: FALCON's tensors are written as .npz or .h5"):
        write_falcon(session, tmp_path / "a.csv")
    with pytest.raises(DataError, match="has no target of FALCON"):
        falcon_tensors(replace(session, signals={}))
    with pytest.raises(DataError, match="has no signal 'eval_mask'"):
        bare = {"preprocessed_emg": session.signals["preprocessed_emg"]}
        falcon_tensors(replace(session, signals=bare))


# ---- what baselines do ----------------------------------------------------------------------------------------------


def test_smoothing_is_causal_and_keeps_the_sum():
    """An impulse becomes exp(-20 k / 240) over 12 bins, normalised; nothing comes before it."""
    counts = np.zeros((60, 2))
    counts[10, 0] = 3
    out = smooth_causal(counts)
    weight = np.exp(-np.arange(12) / 12)
    assert np.allclose(out[10:22, 0], 3 * weight / weight.sum(), rtol=1e-14)
    assert not out[:10].any() and not out[22:].any() and not out[:, 1].any()
    assert np.isclose(smooth_causal(counts, extent=3).sum(), 3)
    assert smooth_causal(counts[:4]).shape == (4, 2)
    with pytest.raises(DataError, match="1 dimensions"):
        smooth_causal(counts[:, 0])


def test_standardizing_by_the_training_part():
    values = np.random.default_rng(0).normal(3, 2, (50, 3))
    values[:, 2] = 7
    out = standardize(values, values[:30])
    assert np.allclose(out[:30].mean(axis=0), 0) and np.allclose(out[:30, :2].std(axis=0), 1)
    assert not out[:, 2].any()
    assert np.allclose(standardize(values)[:, :2].std(axis=0), 1)
