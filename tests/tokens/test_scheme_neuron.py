"""What neuron promises besides the laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Ragged, Session, Spikes, UnitTable
from spiketok.tokens.schemes import Binned, Neuron
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from tests.laws import assert_same, token_rows
from tests.made import MS, golden_segments, golden_session, random_session, whole
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-neuron-v2"
BIN = 20 * MS


def session_of(times_ms: list[list[int]], stop_ms: int = 200, **values) -> Session:
    spikes = Spikes.from_units([np.array(t, np.int64) * MS for t in times_ms])
    units = UnitTable([f"u{n}" for n in range(len(times_ms))])
    return Session("a/b", "", 0, stop_ms * MS, units, spikes, Intervals([0], [stop_ms * MS]), SOURCE, **values)


def cut(scheme: Neuron, session: Session, start_ms: int, length_ms: int, segments: Intervals | None = None, **values):
    columns = scheme.bake(session, whole(session) if segments is None else segments).columns
    return scheme.cut(columns, Windows(np.array([0]), np.array([start_ms * MS]), length_ms * MS), **values).columns


# ---- the three views ------------------------------------------------------------------------------------------------


def test_trial_by_hand():
    tokens = cut(Neuron(), session_of([[0, 20, 21, 199], [], [79, 80]]), 20, 80)
    assert tokens["series"].tolist() == [[2, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert tokens["observed"].tolist() == [[1, 1, 1, 1]] * 3
    assert tokens["unit"].tolist() == [0, 1, 2]
    assert tokens["time"].tolist() == [0, 0, 0]


def test_history_by_hand_with_zeros_before_the_segment():
    """Before a segment stand zeros that are not observed; a spike before the segment is not seen."""
    scheme, session = Neuron(view="history", history_bins=3), session_of([[10, 45, 60, 61], [50, 70]])
    segments = Intervals([40 * MS], [110 * MS])  # its last bin reaches over its end
    tokens = cut(scheme, session, 40, 60, segments)
    assert tokens["series"].tolist() == [
        *([0, 0, 1], [0, 0, 1]),
        *([0, 1, 2], [0, 1, 1]),
        *([1, 2, 0], [1, 1, 0]),
    ]
    assert tokens["observed"].tolist() == [*([[0, 0, 1]] * 2), *([[0, 1, 1]] * 2), *([[1, 1, 1]] * 2)]
    assert tokens["unit"].tolist() == [0, 1] * 3
    assert tokens["time"].tolist() == [0, 0, 1, 1, 2, 2]
    baked = scheme.bake(session, segments)
    assert baked.columns["counts"].tolist() == [[0, 0, 1, 2, 0, 0], [0, 0, 1, 1, 0, 0]]
    assert baked.columns["observed"].tolist() == [0, 0, 1, 1, 1, 0]
    assert baked.lost == {"outside_segments": 1, "saturated": 0}


def test_patch_by_hand_leaves_silent_units_out():
    """Silent means silent in this window: unit 1 has a spike before it; unit 2 has one in its second patch only."""
    scheme, session = Neuron(view="patch", patch_bins=2), session_of([[40, 100], [20], [119]])
    tokens = cut(scheme, session, 40, 80)
    assert tokens["series"].tolist() == [[1, 0], [0, 1], [0, 0], [0, 1]]
    assert tokens["unit"].tolist() == [0, 0, 2, 2]
    assert tokens["time"].tolist() == [0, 1, 0, 1]
    tokens = cut(scheme, session, 40, 80, keep=np.array([[False, True, True]]))
    assert tokens["unit"].tolist() == [2, 2]
    tokens = cut(scheme, session, 40, 80, unit_row=np.array([70, 71, 72], np.int32))
    assert tokens["unit"].tolist() == [70, 70, 72, 72]
    assert len(cut(scheme, session, 120, 80)["unit"]) == 0


def test_the_last_of_many_bins_makes_a_unit_heard():
    """The search for spikes goes to the window's very last bin, and not behind it."""
    for at, heard in ((1979, True), (1980, False)):
        scheme = Neuron(view="patch", patch_bins=33)
        tokens = cut(scheme, session_of([[at]], stop_ms=4000), 0, 3 * 33 * 20)
        assert len(tokens["unit"]) == (3 if heard else 0)


def test_history_of_one_bin_is_the_binned_tokens():
    session = random_session("a", 3)
    window = Windows(np.array([0]), np.array([400 * MS]), 1000 * MS)
    mine, bins = Neuron(view="history", history_bins=1), Binned()
    series = mine.cut(mine.bake(session, whole(session)).columns, window).columns["series"]
    counts = bins.cut(bins.bake(session, whole(session)).columns, window).columns["counts"]
    np.testing.assert_array_equal(series.reshape(50, 5), counts)


# ---- parity with the references' formulas ---------------------------------------------------------------------------


def test_views_are_the_references_formulas():
    """STNDT: the transposed trial. SPINT: W - 1 zero bins before, then every stretch of W. NuCLR: reshape by 50."""
    session = random_session("a", 4, seconds=8.0)
    columns = Binned().bake(session, whole(session)).columns
    counts = columns["counts"]  # [T, N]

    series = cut(Neuron(), session, 1000, 2000)["series"]
    np.testing.assert_array_equal(series, counts[50:150].T)

    padded = np.concatenate([np.zeros((99, 5), np.uint8), counts])
    tokens = cut(Neuron(view="history"), session, 0, 8000)
    stretches = np.lib.stride_tricks.sliding_window_view(padded, 100, axis=0)  # [T, N, W]
    np.testing.assert_array_equal(tokens["series"].reshape(400, 5, 100), stretches)
    observed = np.concatenate([np.zeros(99, np.uint8), columns["observed"]])
    flags = np.lib.stride_tricks.sliding_window_view(observed, 100)
    np.testing.assert_array_equal(tokens["observed"].reshape(400, 5, 100), np.repeat(flags[:, None], 5, axis=1))

    tokens = cut(Neuron(view="patch"), session, 1000, 5000)
    heard = np.flatnonzero(counts[50:300].any(axis=0))
    np.testing.assert_array_equal(tokens["series"].reshape(-1, 5, 50), counts[50:300].T[heard].reshape(-1, 5, 50))
    assert tokens["unit"].tolist() == np.repeat(heard, 5).tolist()


def test_counting_into_unit_rows_equals_binned_at_any_bin():
    session = random_session("a", 5, n_units=17)
    segments = Intervals([0, 1_000_000_007, 500 * MS], [2_500_000_001, 1_900_000_000, 500 * MS])
    for bin_ns in (BIN, 1_000_003):
        scheme = Neuron(bin_ns, "history", history_bins=6)
        mine, theirs = scheme.bake(session, segments), Binned(bin_ns).bake(session, segments)
        row, wanted = mine.columns["segment.row"], theirs.columns["segment.row"]
        for g in range(3):
            own = mine.columns["counts"][:, row[g] : row[g + 1]]
            assert not own[:, :5].any()
            np.testing.assert_array_equal(own[:, 5:].T, theirs.columns["counts"][wanted[g] : wanted[g + 1]])
        assert mine.lost == theirs.lost


# ---- what is not there ----------------------------------------------------------------------------------------------


def test_units_that_were_not_recorded():
    own = Ragged(np.array([[0, 40], [20, 30], [30, 80]]) * MS, [0, 1, 3])
    session = session_of([[1], [70]], 80, unit_observed=own)
    baked = Neuron().bake(session, whole(session))
    assert "observed" not in baked.columns
    assert baked.columns["unit_observed"].tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]
    tokens = cut(Neuron(view="history", history_bins=2), session, 20, 40, keep=np.array([[False, True]]))
    assert tokens["observed"].tolist() == [[0, 1], [1, 1]]


def test_saturates_at_255_and_counts_the_rest():
    session = session_of([[5] * 1000, [6] * 255], 20)
    baked = Neuron().bake(session, whole(session))
    assert baked.columns["counts"].tolist() == [[255], [255]]
    assert baked.lost == {"outside_segments": 0, "saturated": 745}


def test_lookback_and_grids():
    scheme = Neuron(view="history", history_bins=50)
    assert (scheme.grid_ns, scheme.length_grid_ns, scheme.lookback_ns) == (BIN, BIN, 49 * BIN)
    scheme = Neuron(view="patch", patch_bins=50)
    assert (scheme.grid_ns, scheme.length_grid_ns, scheme.lookback_ns) == (BIN, 50 * BIN, 0)
    with pytest.raises(UsageError, match="20000000 ns are no positive multiple of the 1000000000 ns of scheme neuron"):
        cut(scheme, session_of([[1]], 2000), 0, 20)


def test_detokenize_gives_the_history_too():
    scheme, session = Neuron(view="history", history_bins=3), session_of([[10, 45, 60, 61], [50, 119]])
    columns = scheme.bake(session, whole(session)).columns
    window = Windows(np.array([0]), np.array([60 * MS]), 40 * MS)
    (known,) = scheme.detokenize(scheme.cut(columns, window), window)
    assert known.time_ns.tolist() == [50 * MS, 50 * MS, 70 * MS, 70 * MS]  # 10 ms and 119 ms are out of reach
    assert known.unit.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bin_ns": 0}, "bin_ns is 0, must be a whole number of at least 1"),
        ({"history_bins": 2.0}, "history_bins is 2.0"),
        ({"patch_bins": True}, "patch_bins is True"),
        ({"view": "spatial"}, "view is 'spatial', must be one of trial, history, patch"),
    ],
)
def test_fields_that_cannot_be(values, words):
    with pytest.raises(UsageError, match=words):
        Neuron(**values)


# ---- golden: read forever -------------------------------------------------------------------------------------------


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    assert reader.scheme == Neuron(view="history", history_bins=3)
    assert reader.lost == {"outside_segments": 1, "saturated": 0}
    tokens = reader.scheme.cut(reader.columns, Windows(np.array([0, 1]), np.array([10, 110]) * MS, 20 * MS))
    assert token_rows(tokens, 0)["series"].tolist() == [[0, 2, 2], [0, 0, 0], [0, 0, 2]]
    assert token_rows(tokens, 0)["observed"].tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 1]]
    assert token_rows(tokens, 1)["series"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert token_rows(tokens, 1)["observed"].tolist() == [[1, 1, 1]] * 3


def test_golden_columns_are_written_today():
    """Who changes a byte of the columns raises the scheme's version and adds a golden shard."""
    reader = ShardReader(GOLDEN)
    baked = reader.scheme.bake(golden_session(), golden_segments())
    assert_same({name: reader.columns[name] for name in baked.columns}, dict(baked.columns))
