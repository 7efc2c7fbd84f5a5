"""What fine-time promises besides the laws."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, Spikes, UnitTable
from spiketok.tokens.schemes import Binned, FineTime
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.schemes.fine_time import whole_intervals
from spiketok.tokens.shards import ShardReader, write_shard
from tests.laws import assert_same
from tests.made import MS, artefact_files, golden_segments, golden_session, random_session, whole
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-fine-time-v2"


def session_of(*times: list[int], stop: int = 40 * MS) -> Session:
    units = UnitTable([f"u{n}" for n in range(len(times))])
    spikes = Spikes.from_units([np.array(t, np.int64) for t in times])
    return Session("a/b", "", 0, stop, units, spikes, Intervals([0], [stop]), SOURCE)


def cut_whole(session: Session, scheme: FineTime) -> dict[str, np.ndarray]:
    segments = whole(session)
    length = (session.stop_ns - session.start_ns) // scheme.bin_ns * scheme.bin_ns
    columns = scheme.bake(session, segments).columns
    return scheme.cut(columns, Windows(np.array([0]), np.array([session.start_ns]), length)).columns


def test_features_by_hand():
    """None, one, two, three spikes; a spike on an edge begins the next bin; intervals do not cross an edge."""
    session = session_of([], [5 * MS], [1 * MS, 4 * MS], [2 * MS, 3 * MS, 6 * MS, 20 * MS])
    tokens = cut_whole(session, FineTime())
    assert tokens["count"].tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert tokens["first_ns"].tolist() == [[0, 5 * MS, 1 * MS, 2 * MS], [0, 0, 0, 0]]
    assert tokens["last_ns"].tolist() == [[0, 5 * MS, 4 * MS, 6 * MS], [0, 0, 0, 0]]
    assert tokens["mean_isi_ns"].tolist() == [[0, 0, 3 * MS, 2 * MS], [0, 0, 0, 0]]
    assert tokens["cv_isi"].tolist() == [[0, 0, 0, 0.5], [0, 0, 0, 0]]  # of 1 and 3 ms: deviation 1, mean 2
    assert tokens["observed"].tolist() == [1, 1]


def test_features_are_those_of_numpy_and_counts_those_of_binned():
    """Mean and population standard deviation over mean, in float64, to the last bit of float32 but one."""
    session = random_session("a", 3, n_units=4, rate_hz=200.0)
    tokens = cut_whole(session, FineTime(50 * MS))
    spikes, checked = session.spikes, 0
    for k, n in zip(*np.nonzero(tokens["count"] > 1), strict=True):
        own = spikes.time_ns[spikes.unit == n]
        intervals = np.diff(own[(own >= k * 50 * MS) & (own < (k + 1) * 50 * MS)])
        assert tokens["mean_isi_ns"][k, n] == np.float32(intervals.mean())
        np.testing.assert_allclose(tokens["cv_isi"][k, n], intervals.std() / intervals.mean(), rtol=2e-7, atol=1e-9)
        checked += 1
    assert checked > 400
    counts = Binned(50 * MS).bake(session, whole(session)).columns["counts"]
    np.testing.assert_array_equal(tokens["count"], counts)


def test_a_full_cell_has_the_features_of_its_first_255_spikes():
    session = session_of(list(range(0, 300 * 10, 10)), [7] * 255)
    baked = FineTime().bake(session, whole(session))
    assert baked.columns["count"].tolist() == [255, 255]
    assert baked.columns["last_ns"].tolist() == [2540, 7]
    assert baked.columns["cv_isi"].tolist() == [0, 0]
    assert baked.columns["unit.n_spikes"].tolist() == [255, 255]
    assert baked.lost == {"outside_segments": 0, "saturated": 45}


def test_only_cells_with_spikes_are_held():
    """An hour of silence costs its bins, not its units."""
    session = session_of([3_599_999 * MS], *[[] for _ in range(99)], stop=3_600_000 * MS)
    columns = FineTime().bake(session, whole(session)).columns
    assert {name: len(columns[name]) for name in ("unit", "count", "first_ns", "last_ns", "cv_isi")} == dict.fromkeys(
        ("unit", "count", "first_ns", "last_ns", "cv_isi"), 1
    )
    assert columns["cell.row"][-2:].tolist() == [0, 1]
    assert columns["first_ns"].tolist() == [19 * MS]


def variation(intervals: list[int]) -> np.float32:
    total, squares = sum(intervals), sum(d * d for d in intervals)
    return np.float32(np.sqrt(float(len(intervals) * squares - total**2)) / total) if total else np.float32(0)


def parts(total: int, n: int, most: int):
    """All falling lists of n whole numbers with this sum."""
    if n == 0:
        if total == 0:
            yield []
        return
    for number in range(min(total, most), -1, -1):
        for rest in parts(total - number, n - 1, number):
            yield [number, *rest]


@pytest.mark.parametrize(("n", "largest"), [(1, 60), (2, 60), (3, 40), (4, 25), (5, 18), (7, 14)])
def test_every_variation_of_small_intervals_is_found_again(n, largest):
    """Where whole nanoseconds leave hardly a choice."""
    for total in range(largest + 1):
        for intervals in parts(total, n, total):
            found = whole_intervals(n, total, variation(intervals))
            assert (len(found), sum(found), min(found) >= 0) == (n, total, True)
            assert variation(found) == variation(intervals)


@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 3, 4, 5, 8, 20, 254]),
    st.sampled_from([1, 3, 30, 3_000, 33_333, 10**6, 10**8]),
    st.sampled_from([1, 8, 40]),
)
def test_every_variation_is_found_again(seed, n, longest, skew):
    """Ticks of a clock or any nanosecond, equal, bursting, or one long interval among none."""
    rng = random.Random(seed)
    intervals = [int(longest // n * rng.random() ** skew) for _ in range(n)]
    intervals[0] += rng.choice([0, longest // 2])
    found = whole_intervals(n, sum(intervals), variation(intervals))
    assert (len(found), sum(found), min(found) >= 0) == (n, sum(intervals), True)
    assert variation(found) == variation(intervals)


def test_a_variation_that_no_intervals_have_is_refused():
    with pytest.raises(UsageError, match="no 2 intervals of whole ns that sum to 3 ns have the variation 0.5"):
        whole_intervals(2, 3, np.float32(0.5))


def test_law_4_on_bursts_in_bins_of_100_ms():
    """Cells of many spikes, which the strategies of the laws do not reach: all comes back to the bit."""
    rng = np.random.default_rng(0)
    times = [np.sort((rng.random(400) ** skew * 10**9).astype(np.int64)) for skew in (1, 3, 9)]
    session = session_of(*(t.tolist() for t in times), stop=10**9)
    scheme = FineTime(100 * MS)
    window = Windows(np.array([0]), np.array([0]), 10**9)
    tokens = scheme.cut(scheme.bake(session, whole(session)).columns, window)
    assert int(tokens.columns["count"].max()) > 100
    (back,) = scheme.detokenize(tokens, window)
    again = Session("a/b", "", 0, 10**9, session.units, back, session.observed, SOURCE)
    assert_same(scheme.cut(scheme.bake(again, whole(again)).columns, window).columns, tokens.columns)


@pytest.mark.parametrize("bin_ns", [0, -1, 100_000_001, 2.5, True, "20"])
def test_bins_that_cannot_be_are_refused(bin_ns):
    with pytest.raises(UsageError, match="must be a whole number from 1 to 100000000"):
        FineTime(bin_ns)


# ---- golden: read forever -------------------------------------------------------------------------------------------


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    window = Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 60 * MS)
    tokens = reader.scheme.cut(reader.columns, window).columns
    assert tokens["count"].tolist() == [[2, 0, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert tokens["first_ns"][[0, 5]].tolist() == [[10 * MS, 0, 9_999_999], [0, 0, 9_999_999]]
    assert tokens["last_ns"][[0, 5]].tolist() == [[10 * MS, 0, 10 * MS], [0, 0, 9_999_999]]
    assert tokens["mean_isi_ns"][0].tolist() == [0, 0, 1]
    assert not tokens["cv_isi"].any()
    assert tokens["observed"].tolist() == [1, 0, 0, 0, 1, 1]
    assert reader.lost == {"outside_segments": 1, "saturated": 0}


def test_golden_bytes_are_written_today(tmp_path):
    rule = {"segments_rule": "trials:start,0,100", "store_digest": "0" * 64, "context": tmp_path / "context-v1"}
    write_shard(tmp_path / "shard", FineTime(), golden_session(), golden_segments(), **rule)
    assert artefact_files(tmp_path / "shard") == artefact_files(GOLDEN)
