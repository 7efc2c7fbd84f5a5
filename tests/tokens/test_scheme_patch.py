"""What patch promises besides the laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Spikes, UnitTable
from spiketok.storage.store import session_info
from spiketok.tokens.schemes import Binned, Patch
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from tests.made import MS, artefact_files, golden_segments, golden_session
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-patch-v2"


def session_of(counts: list[list[int]], **changes: object) -> Session:
    """A session with these counts in its bins of 20 ms: one row a bin, one number a unit."""
    stop, n_units = 20 * MS * len(counts), len(counts[0])
    times = [np.repeat(np.arange(len(counts)) * 20 * MS + 5, [row[n] for row in counts]) for n in range(n_units)]
    whole = Intervals([0], [stop])
    units = UnitTable([f"u{n}" for n in range(n_units)])
    session = Session("a/b", "", 0, stop, units, Spikes.from_units(times), whole, SOURCE)
    return replace(session, **changes)


def whole_window(session: Session) -> Windows:
    return Windows(np.array([0]), np.array([session.start_ns]), session.stop_ns - session.start_ns)


def cut(scheme: Patch, session: Session, keep=None, unit_row=None) -> dict[str, np.ndarray]:
    columns = scheme.bake(session, Intervals([session.start_ns], [session.stop_ns])).columns
    return scheme.cut(columns, whole_window(session), keep, unit_row).columns


def steps(values: list[list[float]], valid: list[bool] | None = None) -> Signal:
    """A behaviour with one sample in the middle of each bin of 20 ms."""
    n = len(values)
    valid = np.ones(n, np.bool_) if valid is None else np.array(valid)
    return Signal(np.arange(n) * 20 * MS + 10 * MS, np.float32(values), tuple("abcdefgh"[: len(values[0])]), "", valid)


def test_tokens_by_hand():
    """Bin by bin, patch by patch; the last patch is padded with zeros that nobody's row stands beside."""
    session = session_of([[1, 2, 3], [0, 25, 5]])
    tokens = cut(Patch(patch_size=2), session)
    assert tokens["patch"].tolist() == [[1, 2], [3, 0], [0, 20], [5, 0]]
    assert tokens["unit"].tolist() == [[0, 1], [2, -1]] * 2
    assert tokens["time"].tolist() == [0, 0, 1, 1]
    assert tokens["space"].tolist() == [0, 1, 0, 1]
    assert tokens["n_real"].tolist() == [2, 1, 2, 1]
    assert tokens["observed"].tolist() == [1, 1, 1, 1]
    baked = Patch(patch_size=2).bake(session, Intervals([0], [40 * MS]))
    assert baked.lost == {"outside_segments": 0, "clipped": 5}


def test_a_dropped_unit_leaves_its_slot_empty():
    session = session_of([[1, 2, 3]])
    rows = np.array([10, 20, 30], np.int32)
    tokens = cut(Patch(patch_size=2), session, np.array([[False, True, False]]), rows)
    assert tokens["patch"].tolist() == [[0, 2], [0, 0]]
    assert tokens["unit"].tolist() == [[-1, 20], [-1, -1]]
    assert tokens["n_real"].tolist() == [1, 0]


def test_groups_are_padded_apart_in_the_order_in_which_they_appear():
    units = UnitTable([f"u{n}" for n in range(5)], {"group": np.array(["M1", "PMd", "M1", "PMd", "M1"])})
    session = session_of([[1, 2, 3, 4, 5]], units=units)
    tokens = cut(Patch(patch_size=2, group_by="group"), session)
    assert tokens["patch"].tolist() == [[1, 3], [5, 0], [2, 4]]
    assert tokens["unit"].tolist() == [[0, 2], [4, -1], [1, 3]]
    assert tokens["n_real"].tolist() == [2, 1, 2]
    numbers = UnitTable(units.id, {"group": np.array([7, 3, 7, 3, 7])})
    again = cut(Patch(patch_size=2, group_by="group"), replace(session, units=numbers))
    np.testing.assert_array_equal(again["patch"], tokens["patch"])


def test_counts_above_255_are_clipped_and_all_counted():
    session = session_of([[1000, 21]])
    assert Patch().bake(session, Intervals([0], [20 * MS])).lost["clipped"] == 980 + 1
    assert Patch(max_count=255).bake(session, Intervals([0], [20 * MS])).lost["clipped"] == 745


def test_patches_are_the_counts_of_binned_padded_and_folded():
    """The layout of the reference: pad the units to a multiple of K with 0, clip, fold."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, (300, 45)) * rng.integers(0, 40, (300, 45)) // 4
    session = session_of(counts.tolist())
    segments = Intervals([0], [session.stop_ns])
    columns = Patch().bake(session, segments).columns
    binned = Binned().bake(session, segments).columns["counts"]
    wanted = np.pad(np.minimum(binned, 20), ((0, 0), (0, 19))).reshape(-1, 32)
    np.testing.assert_array_equal(columns["patch"], wanted)
    assert columns["n_real"].tolist() == [32, 13]


def test_a_unit_that_was_not_recorded_is_flagged_in_its_slot():
    own = Ragged(np.array([[0, 20], [0, 40]]) * MS, [0, 1, 2])
    tokens = cut(Patch(patch_size=3), session_of([[1, 1], [0, 1]], unit_observed=own))
    assert tokens["unit_observed"].tolist() == [[1, 1, 0], [0, 1, 0]]
    dropped = cut(Patch(patch_size=3), session_of([[1, 1], [0, 1]], unit_observed=own), np.array([[True, False]]))
    assert dropped["unit_observed"].tolist() == [[1, 0, 0], [0, 0, 0]]


# ---- NDT3's order ---------------------------------------------------------------------------------------------------


def test_ndt3_sequence_by_hand():
    """Constraints, patches, return, covariates of a bin; each at its kind's positions; constraints only on change."""
    signals = {
        "assist": steps([[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0]]),
        "reward": steps([[0], [1], [2]]),
        "vel": steps([[0.5, -0.5], [1.5, -1.5], [2.5, -2.5]], [True, True, False]),
    }
    scheme = Patch(patch_size=2, order="ndt3", covariates=("vel",), constraints="assist", returns="reward")
    assert (scheme.n_space, scheme.first_space) == (46, (0, 1, 18, 28, 29))
    tokens = cut(scheme, session_of([[1, 2, 3], [4, 5, 6], [7, 8, 9]], signals=signals))
    assert tokens["kind"].tolist() == [1, 1, 2, 2, 3, 4, 4, 2, 2, 3, 4, 4, 1, 2, 2, 3, 4, 4]
    assert tokens["time"].tolist() == [0] * 7 + [1] * 5 + [2] * 6
    assert tokens["space"].tolist() == [1, 2, 18, 19, 28, 29, 30, 18, 19, 28, 29, 30, 2, 18, 19, 28, 29, 30]
    assert tokens["constraint"][[0, 1, 12]].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert tokens["value"][[4, 5, 6, 9, 10, 11, 15]].tolist() == [0, 0.5, -0.5, 1, 1.5, -1.5, 2]
    assert tokens["observed"].tolist() == [1] * 16 + [0, 0]  # the velocity of the last bin is not valid: a flag, no gap
    assert tokens["value"][[16, 17]].tolist() == [0, 0]
    spikes = tokens["kind"] == 2
    assert tokens["patch"][spikes].tolist() == [[1, 2], [3, 0], [4, 5], [6, 0], [7, 8], [9, 0]]
    assert (tokens["unit"][~spikes] == -1).all()
    assert not tokens["patch"][~spikes].any()
    assert not tokens["n_real"][~spikes].any()
    key = tokens["time"] * 48 + tokens["space"]  # the reference's key, with its 48
    assert (np.diff(key) > 0).all()


def test_a_constraint_that_becomes_unknown_is_a_change():
    """A bin without a valid sample says so once, and the bin behind it says what holds again."""
    times = np.arange(8) * 10 * MS + 1
    valid = np.array([True, True, False, False, False, False, True, True])
    assist = Signal(times, np.ones((8, 3), np.float32), tuple("abc"), "", valid)
    scheme = Patch(order="ndt3", constraints="assist")
    tokens = cut(scheme, session_of([[1]] * 4, signals={"assist": assist}))
    held = tokens["kind"] == 1
    assert tokens["time"][held].tolist() == [0, 1, 3]
    assert tokens["observed"][held].tolist() == [1, 0, 1]
    assert tokens["constraint"][held].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


def test_each_window_begins_with_its_constraints():
    """The cut knows what held before: no window has to look back."""
    scheme = Patch(order="ndt3", constraints="assist")
    session = session_of([[1]] * 4, signals={"assist": steps([[0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]])})
    columns = scheme.bake(session, Intervals([0], [80 * MS])).columns
    tokens = scheme.cut(columns, Windows(np.zeros(3, np.int64), np.array([0, 20, 40]) * MS, 40 * MS))
    assert np.diff(tokens.offset).tolist() == [4, 3, 3]
    first = tokens.columns["constraint"][tokens.offset[:-1]]
    assert first.tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0]]


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bin_ns": 0}, "bin_ns is 0, must be a whole number from 1"),
        ({"patch_size": 70_000}, "patch_size is 70000, must be a whole number from 1 to 65535"),
        ({"max_count": 256}, "max_count is 256"),
        ({"max_count": True}, "max_count is True"),
        ({"group_by": 3}, "group_by is 3, must be a name"),
        ({"order": "space-major"}, "must be one of time-major, ndt3"),
        ({"covariates": "vel"}, "must be a list of names"),
        ({"order": "ndt3", "covariates": ["v", "v"]}, "names that differ"),
        ({"covariates": ["vel"]}, "needs order='ndt3'"),
        ({"returns": "reward"}, "needs order='ndt3'"),
        ({"reserved": [1, 2, 3]}, "must be 5 whole numbers"),
        ({"reserved": [1, 2, 3, 4, -1]}, "must be 5 whole numbers"),
    ],
)
def test_wrong_fields_are_refused(values, words):
    with pytest.raises(UsageError, match=words):
        Patch(**values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"group_by": "group"},
            "a/b has no plain unit column 'group' to group by: it has none; --set group_by= "
            "takes all units as one group (of a model: --set model.group_by=)",
        ),
        ({"order": "ndt3", "covariates": ("v",)}, "a/b has no behaviour 'v': it has assist, reward, vel"),
        ({"order": "ndt3", "returns": "vel"}, "a/b has no return in 'vel': 2 components, must be 1"),
        ({"order": "ndt3", "constraints": "vel"}, "a/b has no constraints in 'vel': 2 components, must be 3 each"),
        ({"order": "ndt3", "patch_size": 1}, "a/b has no room for 11 patches: 'reserved' has 10 positions"),
        (
            {"order": "ndt3", "covariates": ("vel",), "reserved": (1, 1, 9, 1, 1)},
            "a/b has no room for 2 covariates: 'reserved' has 1 positions",
        ),
        (
            {"order": "ndt3", "constraints": "assist", "reserved": (1, 1, 9, 1, 1)},
            "a/b has no room for 2 constraints: 'reserved' has 1 positions",
        ),
        (
            {"order": "ndt3", "returns": "reward", "reserved": (1, 1, 9, 0, 1)},
            "a/b has no room for 1 returns: 'reserved' has 0 positions",
        ),
    ],
)
def test_a_session_that_cannot_be_served_is_refused(values, words):
    signals = {"assist": steps([[0] * 6]), "reward": steps([[0]]), "vel": steps([[0, 0]])}
    session, segments = session_of([[1] * 11], signals=signals), Intervals([0], [20 * MS])
    with pytest.raises(NotServedError) as caught:
        Patch(**values).bake(session, segments)
    assert str(caught.value) == words
    if "group_by" not in values:  # the summary of a session has no unit columns
        with pytest.raises(NotServedError) as caught:
            Patch(**values).plan(session_info(session), segments)
        assert str(caught.value) == words


def test_groups_that_need_too_many_patches_are_refused():
    units = UnitTable([f"u{n}" for n in range(11)], {"group": np.arange(11)})
    session = session_of([[1] * 11], units=units)
    with pytest.raises(NotServedError, match="no room for 11 patches: 'reserved' has 10"):
        Patch(order="ndt3", group_by="group").bake(session, Intervals([0], [20 * MS]))


def test_a_ragged_unit_column_is_no_group():
    units = UnitTable(["u"], {"electrodes": Ragged(np.arange(2), [0, 2]), "depth": np.array([1.0])})
    with pytest.raises(NotServedError, match="no plain unit column 'electrodes' to group by: it has depth"):
        Patch(group_by="electrodes").bake(session_of([[1]], units=units), Intervals([0], [20 * MS]))


# ---- golden: read forever -------------------------------------------------------------------------------------------


def write_golden(target: Path) -> None:
    """NDT3's order over groups that mix, with covariates; see ``golden_session``."""
    session = golden_session()
    units = UnitTable(session.units.id, {"group": np.array(["x", "y", "x"])})
    scheme = Patch(patch_size=2, group_by="group", max_count=1, order="ndt3", covariates=("hand/vel", "eye"))
    write_shard(
        target,
        scheme,
        replace(session, units=units),
        golden_segments(),
        segments_rule="trials:start,0,100",
        store_digest="0" * 64,
        context=target.parent / "context-grouped-v1",
    )


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    window = Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 40 * MS)
    tokens = reader.scheme.cut(reader.columns, window)
    assert tokens.offset.tolist() == [0, 10, 20]
    assert tokens.columns["kind"].tolist() == [2, 2, 4, 4, 4] * 4
    assert tokens.columns["space"].tolist() == [18, 19, 29, 30, 31] * 4
    assert tokens.columns["patch"][[0, 1, 5, 6]].tolist() == [[1, 1], [0, 0], [0, 0], [0, 0]]
    assert tokens.columns["unit"][[0, 1]].tolist() == [[0, 2], [1, -1]]
    assert tokens.columns["unit_observed"][[0, 1]].tolist() == [[1, 1], [0, 0]]
    assert tokens.columns["observed"].tolist() == [1] * 5 + [0, 0] + [1] * 3 + [0, 0, 1, 1, 1] + [1] * 5
    assert tokens.columns["value"][[4, 9]].tolist() == [2.375, 4.875]
    assert reader.lost == {"outside_segments": 1, "clipped": 3}  # two spikes in each of three cells


def test_golden_bytes_are_written_today(tmp_path):
    write_golden(tmp_path / "shard")
    written = artefact_files(tmp_path / "shard")
    assert written == artefact_files(GOLDEN)
