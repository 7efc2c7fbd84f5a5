"""Seven sources in their real layouts: fetched from a loopback archive, ingested by their rules, divided, tokenized.

The files are scaled down and made by ``layouts``; what they hold is counted there, not by the code under test.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import SourceError
from spiketok.pipeline import ingest
from spiketok.pipeline.tokenize import tokenize_session
from spiketok.pipeline.verify import verify_session_files
from spiketok.recording.draws import draw_sklearn, draw_torch_brain
from spiketok.recording.intervals import grown, marked_segments, without
from spiketok.recording.leakage import stated_reach_ns
from spiketok.recording.nouns import NS_PER_S, Intervals, Source
from spiketok.sources.catalogue import DATASETS, RULES, download, plan_fetch, resolve
from spiketok.sources.catalogue.churchland import Blocks
from spiketok.sources.catalogue.churchland import _moved as move
from spiketok.sources.catalogue.odoherty_sabes import read as read_mat
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes.binned import Binned
from tests.dandi_server import DandiServer
from tests.layouts import allen, churchland, ibl, link, odoherty_sabes, perich_miller, steinmetz
from tests.nwb_files import write_plain, write_rich
from tests.zenodo_server import ZenodoServer

pytest.importorskip("dandi", reason="dandi is not installed (pip install 'spiketok[dandi]')")

# (dataset, asset, what writes it); what is None is served and must not be fetched
FILES = [
    ("perich_miller", perich_miller.CENTER_OUT, perich_miller.write_center_out),
    ("perich_miller", perich_miller.RANDOM_TARGET, perich_miller.write_random_target),
    ("churchland", churchland.RESTARTS, churchland.write_restarts),
    ("churchland", churchland.STEADY, churchland.write_steady),
    ("link", link.FIRST, lambda path: link.write(path, seed=1)),
    ("link", link.LATER, lambda path: link.write(path, seed=2, n_trials=800)),
    ("steinmetz", steinmetz.ASSET, steinmetz.write),
    ("ibl", ibl.EARLY, lambda path: ibl.write(path, published=False)),
    ("ibl", ibl.PUBLISHED, lambda path: ibl.write(path, published=True)),
    ("ibl", ibl.RAW, None),
    ("allen_visual_coding", allen.CODING, lambda path: allen.write_session(path, behavior=False)),
    ("allen_visual_coding", allen.CODING_LFP, None),
    ("allen_visual_behavior", allen.BEHAVIOR, lambda path: allen.write_session(path, behavior=True)),
    ("allen_visual_behavior", allen.BEHAVIOR_LFP, None),
    ("allen_visual_behavior", allen.TRAINING, None),
]
NWB = [asset for _, asset, write in FILES if write is not None]
MAT = [odoherty_sabes.M1_ONLY, odoherty_sabes.M1_AND_S1]


@pytest.fixture(scope="module")
def brought(tmp_path_factory):
    """The workspace after fetch and ingest, each session by the name of its asset, and what each file holds."""
    folder = tmp_path_factory.mktemp("sources")
    workspace, truth, sessions, outcomes = Workspace(folder / "work"), {}, {}, {}
    for name in dict.fromkeys(name for name, _, _ in FILES):
        bodies = {}
        for _, asset, write in (row for row in FILES if row[0] == name):
            path = folder / asset.replace("/", "__")
            if write is not None:
                truth[asset] = write(path)
            bodies[asset] = b"not to be fetched" if write is None else path.read_bytes()
        dataset = DATASETS[name]
        version = "0.220113.0408" if dataset.version == "draft" else dataset.version  # each server has a draft as well
        with DandiServer(bodies, dandiset=dataset.dandiset, version=version) as server:
            plan = plan_fetch(resolve(name), workspace.raw, api_url=server.api_url)
            done = download(plan, workspace.raw)
        assert [result.path for result in done] == sorted(a for n, a, w in FILES if n == name and w is not None)
        outcomes[name] = list(ingest.ingest(workspace, [result.file for result in done]))
    mats = {name: folder / name for name in MAT}
    m1, both = mats.values()
    truth[m1.name] = odoherty_sabes.write(m1, still=True)
    truth[both.name] = odoherty_sabes.write(both, areas=("M1", "S1"), n_rows=3, n_columns=3, still=False)
    with ZenodoServer({name: path.read_bytes() for name, path in mats.items()} | {"refh_results.csv": b"x"}) as server:
        plan = plan_fetch(resolve("odoherty_sabes"), workspace.raw, api_url=server.api_url)
        done = download(plan, workspace.raw)
    assert sorted(result.path for result in done) == sorted(MAT)
    outcomes["odoherty_sabes"] = list(ingest.ingest(workspace, [result.file for result in done]))
    for name, found in outcomes.items():
        for outcome in found:
            assert outcome.error is None, outcome.error
            asset = next(a for a in [*NWB, *MAT] if a.endswith(outcome.result.session_id.split("/")[1] + a[-4:]))
            assert outcome.result.session_id.startswith(f"{name}/")
            sessions[asset] = read_session(workspace.store_path(outcome.result.session_id))
    return SimpleNamespace(workspace=workspace, truth=truth, sessions=sessions, mats=mats, folder=folder)


def part(session, name: str) -> Intervals:
    return session.splits.take(session.splits.columns["name"] == name)


def found(session, finding: str) -> int:
    """The count of a finding; 0 where there is none."""
    return sum(f.count for f in (*session.repairs, *session.notes) if f.id == finding)


def seconds(intervals: Intervals) -> list[tuple[float, float]]:
    pairs = zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True)
    return [(a / NS_PER_S, b / NS_PER_S) for a, b in pairs]


# ---- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asset", [*NWB, *MAT])
def test_a_session_has_the_units_spikes_and_trials_of_its_file(brought, asset):
    session, truth = brought.sessions[asset], brought.truth[asset]
    assert (len(session.units), len(session.spikes)) == (truth["units"], truth["spikes"])
    assert len(session.trials or ()) == truth.get("trials", 0)


@pytest.mark.parametrize("asset", [*NWB, *MAT])
def test_parts_of_a_division_share_no_time(brought, asset):
    splits = brought.sessions[asset].splits
    names = dict.fromkeys(splits.columns.get("name", np.zeros(0, np.str_)).tolist())
    assert set(splits.columns.get("set", np.array([]))) <= {
        "perich_miller",
        "churchland",
        "odoherty_sabes",
        "link",
        "ibl",
    }
    for one in names:
        for other in names:
            if one != other:
                a, b = (splits.take(splits.columns["name"] == name) for name in (one, other))
                assert len(a) and len(b) and not len(a.intersect(b)), (one, other)


@pytest.mark.parametrize("asset", [*NWB, *MAT])
def test_a_session_is_tokenized_whole(brought, asset):
    session = brought.sessions[asset]
    (done,) = tokenize_session(brought.workspace, session.id, (Binned(bin_ns=20_000_000),), "continuous")
    assert (done.state, done.held) == ("new", len(session.spikes)) and not sum(done.lost.values())


@pytest.mark.parametrize("asset", [churchland.RESTARTS, link.FIRST, steinmetz.ASSET, odoherty_sabes.M1_ONLY])
@pytest.mark.long
def test_verify_makes_the_session_again(brought, asset):
    assert verify_session_files(brought.workspace, brought.sessions[asset].id).differences == []


def test_every_entry_is_whole_and_every_quirk_has_a_source():
    for name in [*dict.fromkeys(name for name, _, _ in FILES), "odoherty_sabes"]:
        dataset = DATASETS[name]
        assert dataset.rules in RULES and dataset.title and dataset.citation and dataset.quirks
        assert all(quirk.id and quirk.text and quirk.source for quirk in dataset.quirks)
        assert len({quirk.id for quirk in dataset.quirks}) == len(dataset.quirks)


def test_what_is_not_of_a_dataset_is_not_taken():
    assert not DATASETS["ibl"].takes(ibl.RAW) and DATASETS["ibl"].takes(ibl.EARLY)
    assert not DATASETS["allen_visual_coding"].takes(allen.CODING_LFP)
    assert not any(DATASETS["allen_visual_behavior"].takes(path) for path in (allen.BEHAVIOR_LFP, allen.TRAINING))


# ---- Perich-Miller --------------------------------------------------------------------------------------------------


def test_perich_miller_center_out(brought):
    session, truth = brought.sessions[perich_miller.CENTER_OUT], brought.truth[perich_miller.CENTER_OUT]
    assert session.trials.columns["is_valid"].sum() == truth["valid"] == 33
    assert session.units.columns["region"].tolist() == ["M1"] * 4 + ["PMd"] * 4
    assert found(session, "perich_miller-regions") == 8 and found(session, "perich_miller-outliers") == 2
    # 20 % of 33 rounded up is 7; an eighth of the other 26 rounded up is 4
    assert (len(part(session, "test")), len(part(session, "valid"))) == (7, 4)
    away = grown(session.splits.take(session.splits.columns["name"] != "train"), NS_PER_S)
    assert not len(part(session, "train").intersect(away))
    cursor = session.signals["cursor_pos"].time_ns
    both = part(session, "train").total_ns + away.intersect(Intervals(cursor[:1], cursor[-1:])).total_ns
    assert both == cursor[-1] - cursor[0]  # train is all the time that is left


def test_perich_miller_trials_last_from_target_to_target(brought):
    grid = brought.sessions[perich_miller.CENTER_OUT].intervals["target_trials"]
    assert (grid.start_ns[1:] == grid.stop_ns[:-1]).all()
    # trial 4 was aborted before its target: it begins 1 s after trial 3 has ended, which is not after its own end
    assert seconds(grid)[0] == pytest.approx((1.4, 3.3)) and seconds(grid)[4][0] == pytest.approx(9.5)


def test_perich_miller_phases_carry_poyos_weights(brought):
    session = brought.sessions[perich_miller.CENTER_OUT]
    phases = session.intervals["phases"]
    weight = dict(zip(phases.columns["name"].tolist(), phases.columns["weight"].tolist(), strict=True))
    assert weight == {"hold": 0.1, "reach": 5.0, "return": 1.0, "invalid": 0.1, "random": 1.0, "outlier": 0.0}
    assert (phases.start_ns[1:] >= phases.stop_ns[:-1]).all()  # a moment is in one phase
    reach = phases.take(phases.columns["name"] == "reach")
    assert len(reach) == 33 - 2 + 1 and seconds(reach)[0] == pytest.approx(
        (2.0, 2.8)
    )  # two lie in an outlier, one is cut by one
    # out of bounds for 350 samples, dilated by 400 and eroded by 100, half of each at either side
    outlier = phases.take(phases.columns["name"] == "outlier")
    assert seconds(outlier)[0] == pytest.approx((18.49, 25.0), abs=0.02)


def test_perich_miller_random_target(brought):
    session, truth = brought.sessions[perich_miller.RANDOM_TARGET], brought.truth[perich_miller.RANDOM_TARGET]
    assert session.trials.columns["is_valid"].sum() == truth["valid"] == 20
    phases = session.intervals["phases"]
    hold = phases.take(phases.columns["name"] == "hold")
    assert len(hold) == 24  # of every trial with a first cue, failed ones too
    assert set(phases.columns["name"]) == {"hold", "random"}
    assert (len(part(session, "test")), len(part(session, "valid"))) == (4, 2)


# ---- Churchland -----------------------------------------------------------------------------------------------------


def test_churchland_blocks_follow_each_other(brought):
    session, truth = brought.sessions[churchland.RESTARTS], brought.truth[churchland.RESTARTS]
    assert found(session, "churchland-clock") == truth["blocks"] - 1
    trials = session.trials
    block = trials.columns["clock_block"]
    assert np.bincount(block).tolist() == [churchland.PER_BLOCK] * 3
    first = [trials.start_ns[block == k][0] for k in range(3)]
    last = [trials.stop_ns[block == k][-1] for k in range(3)]
    assert [(b - a) / NS_PER_S for a, b in zip(last[:-1], first[1:], strict=True)] == [60.0, 60.0]
    go_s = trials.columns["go_cue_time"] - trials.start_ns / NS_PER_S
    assert np.allclose(go_s, 0.4) and np.allclose(trials.columns["reaction_time"], 0.3)
    assert {"spikes-unsorted", "signal-times"}.isdisjoint(f.id for f in session.repairs)
    assert (session.observed.intersect(trials).total_ns) == trials.union().total_ns == session.observed.total_ns


def test_churchland_keeps_units_that_do_not_fit_and_says_so(brought):
    session = brought.sessions[churchland.RESTARTS]
    assert session.units.columns["clock_matched"].tolist() == [True, True, False, False, True, True]
    assert found(session, "churchland-units-unmatched") == 2
    inside = session.spikes.window(0, 2**62)
    assert len(inside) == len(session.spikes)
    # all are laid right here: unit 2, whose block 0 is in two runs, and unit 3, which is silent in block 1, as well
    assert not found(session, "spikes-unobserved")
    for unit in (0, 1, 2, 3, 5):
        time_ns = session.spikes.time_ns[session.spikes.unit == unit]
        trial = session.trials.union()
        row = np.searchsorted(trial.start_ns, time_ns, side="right") - 1
        assert (time_ns <= trial.stop_ns[row] + 1).all(), unit


def test_churchland_behaviour_keeps_every_sample(brought):
    session = brought.sessions[churchland.RESTARTS]
    n = {name: signal.time_ns.size for name, signal in session.signals.items()}
    assert set(n) == {"Cursor", "Hand", "Eye", "cursor_vel", "cursor_acc", "hand_vel", "hand_acc"}
    assert len(set(n.values())) == 1 and n["Cursor"] == 63_500
    # the cursor is 50 sin(3 t) of the file's clock, so its velocity tells whether a gap was bridged
    velocity, trial = session.signals["cursor_vel"], session.trials
    begins = velocity.time_ns - trial.start_ns[np.searchsorted(trial.start_ns, velocity.time_ns, side="right") - 1]
    assert velocity.measure == "mm/s" and np.abs(velocity.value).max() <= 150.1 and (begins[1:] != begins[:-1]).all()


def test_churchland_division(brought):
    for asset in (churchland.RESTARTS, churchland.STEADY):
        session, n = brought.sessions[asset], brought.truth[asset]["successful"]
        assert session.trials.columns["is_valid"].sum() == n
        size = {name: part(session, name).total_ns / NS_PER_S for name in ("train", "valid", "test")}
        n_valid, n_test = round(0.1 * n), round(0.2 * n)
        assert (size["valid"], size["test"]) == pytest.approx((1.5 * n_valid, 1.5 * n_test))
        overlaps = session.trials.columns["overlaps"]
        kept = session.trials.take(~overlaps)
        assert sum(size.values()) == pytest.approx(kept.total_ns / NS_PER_S)  # failures join train
    assert np.flatnonzero(brought.sessions[churchland.RESTARTS].trials.columns["overlaps"]).tolist() == [3, 4]


def test_churchland_without_a_restart_marks_the_unsorted_unit(brought):
    session = brought.sessions[churchland.STEADY]
    assert session.units.columns["clock_matched"].tolist() == [True, False, True, True]
    assert not found(session, "churchland-clock") and found(session, "spikes-unsorted") == 1


# ---- O'Doherty-Sabes ------------------------------------------------------------------------------------------------


def test_odoherty_sabes_units(brought):
    for name in MAT:
        session, truth = brought.sessions[name], brought.truth[name]
        assert found(session, "odoherty_sabes-empty") == truth["empty"]
        columns = session.units.columns
        assert set(columns["region"]) == ({"M1", "S1"} if name == odoherty_sabes.M1_AND_S1 else {"M1"})
        assert session.units.id[:3].tolist() == ["M1 001.unsorted", "M1 002.unsorted", "M1 002.1"]
        assert (columns["quality"] == "unsorted").sum() == found(session, "odoherty_sabes-unsorted") > 0
        assert (session.spikes.time_ns < session.signals["cursor_pos"].time_ns[0]).sum() == truth["early"] > 0
    assert brought.sessions[odoherty_sabes.M1_ONLY].subject == "indy"


def test_odoherty_sabes_behaviour(brought):
    six, three = (brought.sessions[name].signals for name in MAT)
    assert six["finger_pos"].components == ("z", "-x", "-y") and six["finger_pos"].measure == "cm"
    assert "finger_angles" in six and "finger_angles" not in three
    time_s = six["cursor_pos"].time_ns / NS_PER_S
    moving = time_s - time_s[0] < 29
    assert np.allclose(six["cursor_vel"].value[moving, 0], 60 * np.cos(time_s[moving]), atol=0.2)
    assert (three["cursor_vel"].measure, three["cursor_acc"].measure) == ("mm/s", "mm/s^2")
    # what the leakage guard must know: a derivative is made of the samples beside it
    info, period_ns = brought.sessions[MAT[0]].info, six["cursor_pos"].period_ns
    back, ahead = stated_reach_ns(info, "cursor_acc")
    assert back == ahead and abs(back - 2 * period_ns) <= 2
    assert stated_reach_ns(info, "cursor_pos") == (0, 0)


def test_odoherty_sabes_division(brought):
    rests, moves = (brought.sessions[name] for name in MAT)
    assert len(moves.intervals["still"]) == 0 and len(rests.intervals["still"]) == 1
    assert [len(part(moves, name)) for name in ("train", "valid", "test")] == [8, 1, 1]
    assert seconds(part(moves, "test"))[0][1] - seconds(part(moves, "test"))[0][0] == pytest.approx(12.0)
    ((start, stop),) = seconds(rests.intervals["still"])
    assert stop - start == pytest.approx(14.0, abs=0.02)
    assert not len(rests.splits.intersect(rests.intervals["still"]))
    # ten blocks of 12 s; of the two in which the cursor rests 6 and 4 s are left, which is too short
    assert [len(part(rests, name)) for name in ("train", "valid", "test")] == [6, 1, 1]
    assert rests.splits.total_ns / NS_PER_S == pytest.approx(8 * 12, abs=0.1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.pop("chan_names"), "lacks chan_names"),
        (lambda f: f["t"].__setitem__((0, 3), 0.0), "do not rise"),
        (lambda f: (f.pop("cursor_pos"), f.__setitem__("cursor_pos", np.zeros((2, 7)))), "expected 2 rows"),
        (lambda f: (f.pop("spikes"), f.__setitem__("spikes", np.zeros((5, 96)))), "expected references"),
        (lambda f: (f.pop("spikes"), f.create_dataset("spikes", (5, 96), h5py.ref_dtype)), "refers to nothing"),
    ],
)
def test_a_mat_file_of_another_make_is_refused(brought, tmp_path, spoil, message):
    path = tmp_path / odoherty_sabes.M1_ONLY
    path.write_bytes(brought.mats[odoherty_sabes.M1_ONLY].read_bytes())
    with h5py.File(path, "r+") as file:
        spoil(file)
    with pytest.raises(SourceError, match=message):
        read_mat(path, "a/b", Source(path.name, "", 0))


def test_a_damaged_mat_file_is_refused_or_read(brought, tmp_path):
    """Cut anywhere and with flipped bytes: never another error, never fewer spikes without a word."""
    body, rng = brought.mats[odoherty_sabes.M1_ONLY].read_bytes(), np.random.default_rng(11)
    path, n_read = tmp_path / odoherty_sabes.M1_ONLY, 0
    for case in range(24):
        damaged = bytearray(body)
        if case % 2:
            damaged = damaged[: rng.integers(1, len(body))]
        else:
            for place in rng.integers(0, min(len(body), 200_000), 40):  # where the file's own tables are
                damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            session = read_mat(path, "a/b", Source(path.name, "", 0))
        except SourceError as error:
            assert path.name in str(error)
        else:
            n_read += 1
            empty = found(session, "odoherty_sabes-empty") + found(session, "spikes-not-finite")
            assert len(session.units) + empty >= 480 or len(session.spikes) == brought.truth[path.name]["spikes"]
    assert n_read < 24


def test_an_old_mat_file_is_refused(tmp_path):
    path = tmp_path / "indy_20160630_01.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(200))
    with pytest.raises(SourceError, match="as MATLAB v7.3"):
        read_mat(path, "a/b", Source(path.name, "", 0))


# ---- LINK, Steinmetz, IBL, Allen ------------------------------------------------------------------------------------


def test_link_counts_become_units(brought):
    session, truth = brought.sessions[link.FIRST], brought.truth[link.FIRST]
    assert session.observed_source == "bins" and len(session.observed) == 2
    assert session.observed.total_ns == truth["bins"] * 20_000_000
    assert found(session, "spikes-binned") == truth["spikes"] and set(session.units.columns["group"]) == {"A", "B"}
    assert set(session.signals) == {"index_position", "index_velocity", "mrs_position", "mrs_velocity"}
    assert "SpikingBandPower" in next(f.text for f in session.notes if f.id == "series-left-out")
    assert set(session.splits.columns["name"]) == {"train"}  # 155 trials of each style are all among the first 300


def test_link_division(brought):
    session = brought.sessions[link.LATER]  # 400 trials of each of two styles
    assert [len(part(session, name)) for name in ("train", "valid")] == [600, 150]
    assert found(session, "link-trials-left") == 50
    style = session.trials.columns["target_style"]
    first = session.trials.start_ns[style == "RD"]
    assert part(session, "valid").start_ns[75] == first[300] and part(session, "train").start_ns[300] == first[0]


def test_steinmetz_series_stand_on_their_true_times(brought):
    session = brought.sessions[steinmetz.ASSET]
    wheel, face = session.signals["wheel_position"], session.signals["face_motion_energy"]
    assert wheel.time_ns[-1] / NS_PER_S == pytest.approx(48, abs=0.001) and wheel.time_ns.size == 120_000
    assert seconds(Intervals(face.time_ns[:1], face.time_ns[-1:])) == [(0.25, 47.75)] and face.time_ns.size == 400
    assert seconds(session.intervals["wheel_moves"]) == [(1.0, 1.5), (6.0, 6.25), (9.0, 9.5)]
    assert session.intervals["wheel_moves"].columns["value"].tolist() == [0, 1, 2]
    assert session.units.columns["region"].tolist() == ["VISp", "VISp", "CA1", "MOs", "MOs"]
    assert session.units.columns["group"].tolist() == ["Probe1"] * 3 + ["Probe2"] * 2
    assert "signal-length" not in {f.id for f in session.repairs} and not len(session.splits)


def test_ibl_ids_regions_and_trials(brought):
    early, published = brought.sessions[ibl.EARLY], brought.sessions[ibl.PUBLISHED]
    assert early.units.id.tolist()[2:4] == ["probe00_2", "probe01_3"]
    assert published.units.id.tolist()[2:4] == ["probe00_2", "probe01_0"]
    assert early.units.columns["region"].tolist()[:2] == ["VISa5", "CA15"]
    assert early.units.columns["region_beryl"].tolist() == published.units.columns["region"].tolist()
    assert "region_beryl" not in published.units.columns
    for session in (early, published):
        bad = np.flatnonzero(~session.trials.columns["is_valid"]).tolist()
        assert bad == sorted(ibl.UNUSABLE) and found(session, "ibl-trials") == 4
        assert [len(part(session, name)) for name in ("train", "valid", "test")] == [25, 4, 7]
        assert np.isclose((session.splits.stop_ns - session.splits.start_ns) / NS_PER_S, 2.0).all()
    assert np.array_equal(early.splits.start_ns, published.splits.start_ns)


def test_allen_regions_quality_and_stimuli(brought):
    for asset in (allen.CODING, allen.BEHAVIOR):
        session, truth = brought.sessions[asset], brought.truth[asset]
        tables = {k: t for k, t in session.intervals.items() if k.endswith("_presentations")}
        assert (len(tables), sum(map(len, tables.values()))) == (truth["tables"], truth["presentations"])
        assert session.units.columns["region"].tolist() == ["VISp", "CA1", "", "LGd", "VISp", "CA1", ""]
        assert session.units.columns["group"].tolist()[:2] == ["probeA", "probeB"]
        assert {"isi_violations", "amplitude_cutoff", "presence_ratio"} <= set(session.units.columns)
        assert found(session, "allen-quality") == 1 and not len(session.splits)
        assert len(session.intervals["invalid_times"]) == 1


# ---- files of another make ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_read(brought):
    """Every NWB file here, and two of no source, as the generic reader gives them."""
    plain, rich = write_plain(brought.folder / "plain.nwb"), write_rich(brought.folder / "rich.nwb")
    files = [plain, rich, *(brought.folder / asset.replace("/", "__") for asset in NWB)]
    return {path: read_nwb(path, "a/b", Source(path.name, "", 0), mends_clocks=True) for path in files}


@pytest.mark.parametrize("name", ["perich_miller", "churchland", "link", "steinmetz", "ibl", "allen"])
def test_rules_leave_a_file_of_another_source_its_spikes(all_read, name):
    for path, session in all_read.items():
        adjusted = RULES[name].adjust(session, path)
        assert len(adjusted.spikes) == len(session.spikes) and len(adjusted.units) == len(session.units)


# ---- draws and arithmetic -------------------------------------------------------------------------------------------


def _digest(draw) -> str:
    return hashlib.sha256(" ".join(" ".join(draw(n).tolist()) for n in range(4, 400)).encode()).hexdigest()[:16]


def test_draws_are_those_of_the_reference_loaders():
    """Compared with the libraries themselves by test_oracle_datasets_others; here with what they gave."""
    assert draw_sklearn(10).tolist() == GOLDEN_SKLEARN
    assert draw_torch_brain(10).tolist() == GOLDEN_TORCH_BRAIN
    assert (_digest(draw_sklearn), _digest(draw_torch_brain)) == GOLDEN_DIGESTS


# from scikit-learn 1.9.1 and torch_brain 0.2.1, the digests over all n from 4 to 399
GOLDEN_SKLEARN = ["valid", "test", "train", "train", "train", "train", "train", "train", "test", "train"]
GOLDEN_TORCH_BRAIN = ["train", "test", "train", "train", "train", "train", "train", "train", "test", "valid"]
GOLDEN_DIGESTS = ("207b118877f51940", "ee7bbe801cb40001")


SOME_INTERVALS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=6).map(
    lambda pairs: Intervals(*np.array(pairs, np.int64).reshape(-1, 2).T)
)


def instants(intervals: Intervals) -> np.ndarray:
    held = np.zeros(80, np.bool_)
    for start, stop in zip(intervals.start_ns, intervals.stop_ns, strict=True):
        held[start:stop] = True
    return held


@given(SOME_INTERVALS, SOME_INTERVALS)
def test_time_without_other_time_agrees_with_counting_instants(time, gone):
    left = without(time, gone)
    assert np.array_equal(instants(left), instants(time) & ~instants(gone))
    assert (left.start_ns < left.stop_ns).all() and (left.start_ns[1:] > left.stop_ns[:-1]).all()


@given(st.lists(st.integers(0, 400), max_size=30))
def test_no_spike_is_lost_on_the_way_to_the_new_time(times):
    """Whatever order a unit's spikes have: each is moved by the shift of one block, never of an earlier one."""
    blocks = Blocks(np.array([100, 0, 250]), np.array([300, 200, 400]), np.array([0, 500, 900]), np.zeros(0, np.int64))
    time_ns = np.array(times, np.int64)
    moved, fits = move(time_ns, blocks)
    assert moved.size == time_ns.size
    block = [blocks.shift_ns.tolist().index(shift) for shift in (moved - time_ns).tolist()]
    assert block == sorted(block)
    runs = np.split(time_ns, np.flatnonzero(np.diff(time_ns) < 0) + 1) if times else []
    inside = [((run >= low) & (run <= high)).all() for run, low, high in zip(runs, *blocks_of(blocks), strict=False)]
    assert fits == (len(runs) <= 3 and all(inside))


def blocks_of(blocks: Blocks) -> tuple[list[int], list[int]]:
    return blocks.first_ns.tolist(), blocks.last_ns.tolist()


def test_marked_segments_begin_a_sample_early_and_end_at_their_last():
    time_ns = np.arange(8) * 10
    marked = np.array([0, 1, 1, 0, 0, 1, 1, 1], bool)
    assert seconds_ns(marked_segments(marked, time_ns)) == [(0, 20), (40, 70)]
    assert seconds_ns(marked_segments(~marked, time_ns)) == [(20, 40)]  # a first sample alone has no length


def seconds_ns(intervals: Intervals) -> list[tuple[int, int]]:
    return list(zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True))
