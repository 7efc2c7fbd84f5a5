"""What binned promises besides the laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Ragged, Session, Spikes, UnitTable
from spiketok.tokens.schemes import Binned, PerSpike, scheme_from_config
from spiketok.tokens.schemes.bins import count_bins
from spiketok.tokens.shards import ShardReader
from tests.made import golden_segments, golden_session, random_session
from tests.strategies import SOURCE, all_segments, sessions

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-binned-v2"
MS = 1_000_000


def session_of(*trains: list[int], stop: int = 100 * MS) -> Session:
    units = UnitTable([f"u{n}" for n in range(len(trains))])
    spikes = Spikes.from_units([np.array(t, np.int64) for t in trains])
    return Session("a/b", "", 0, stop, units, spikes, Intervals([0], [stop]), SOURCE)


def test_binned_counts_on_edges_and_at_the_end():
    """Spikes on every edge are in the bin that begins there; the last, partial bin is kept and unobserved."""
    times = np.arange(0, 100, 20) * 1_000_000
    session = Session(
        "a/b", "", 0, 90_000_000, UnitTable(["u"]), Spikes.from_units([times]), Intervals([0], [90_000_000]), SOURCE
    )
    columns = Binned().bake(session, Intervals([0], [90_000_000])).columns
    assert columns["counts"][:, 0].tolist() == [1, 1, 1, 1, 1]
    assert columns["observed"].tolist() == [1, 1, 1, 1, 0]


def test_binned_saturates_at_255_and_counts_the_rest():
    spikes = Spikes.from_units([np.full(1000, 5), np.full(255, 6)])
    whole = Intervals([0], [20_000_000])
    session = Session("a/b", "", 0, 20_000_000, UnitTable(["u", "v"]), spikes, whole, SOURCE)
    baked = Binned().bake(session, whole)
    assert baked.columns["counts"].tolist() == [[255, 255]]
    assert baked.lost == {"outside_segments": 0, "saturated": 745}


def test_binned_marks_units_that_were_not_recorded():
    own = Ragged(np.array([[0, 40_000_000], [20_000_000, 30_000_000], [30_000_000, 80_000_000]]), [0, 1, 3])
    whole = Intervals([0], [80_000_000])
    spikes = Spikes.from_units([np.array([1]), np.array([70_000_000])])
    session = Session("a/b", "", 0, 80_000_000, UnitTable(["u", "v"]), spikes, whole, SOURCE, unit_observed=own)
    columns = Binned().bake(session, whole).columns
    assert columns["unit_observed"].T.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]  # touching intervals are one
    assert columns["observed"].tolist() == [1, 1, 1, 1]


def test_overlapping_segments_hold_a_spike_each():
    spikes = Spikes.from_units([np.array([50_000_000])])
    whole = Intervals([0], [100_000_000])
    session = Session("a/b", "", 0, 100_000_000, UnitTable(["u"]), spikes, whole, SOURCE)
    segments = Intervals([0, 40_000_000, 60_000_000], [80_000_000, 100_000_000, 90_000_000])
    for scheme in (Binned(), PerSpike()):
        baked = scheme.bake(session, segments)
        assert baked.lost["outside_segments"] == 0
        row = baked.columns["segment.row"]
        if scheme.name == "binned":
            assert [int(baked.columns["counts"][row[g] : row[g + 1]].sum()) for g in range(3)] == [1, 1, 0]
        else:
            assert np.diff(row).tolist() == [1, 1, 0]


# ---- edges and compat -----------------------------------------------------------------------------------------------


def test_right_closed_bins_hold_the_spike_at_their_end():
    """At 0 and 40 ms segments start: those spikes have no bin there, and the one at 40 ms none in the first either."""
    session = session_of([0, 1, 20 * MS, 20 * MS + 1, 40 * MS, 60 * MS, 79 * MS])
    baked = Binned(edges="right-closed").bake(session, Intervals([0, 40 * MS], [40 * MS, 80 * MS]))
    assert baked.columns["counts"][:, 0].tolist() == [2, 1, 1, 1]
    assert baked.lost == {"outside_segments": 0, "at_segment_start": 2, "saturated": 0}


def test_torch_brains_rule_moves_a_spike_off_its_edge():
    """0.14 * (1 / 0.02) is 7.000000000000001 and (0.3 - 0.01) * (1 / 0.02) is 14.499...: seconds begin at 10 ms."""
    session = session_of([10 * MS + 20 * MS * k for k in range(50)], stop=1010 * MS)
    segment = Intervals([10 * MS], [1010 * MS])
    exact, float64 = Binned().bake(session, segment), Binned(compat="torch_brain").bake(session, segment)
    assert exact.columns["counts"][:, 0].tolist() == [1] * 50
    wanted = np.bincount([int((0.01 + 0.02 * k - 0.01) * (1 / 0.02) // 1) for k in range(50)], minlength=50)
    found = float64.columns["counts"][:, 0]
    assert float64.lost == {"outside_segments": 0, "saturated": 0, "compat": 0}
    assert found.sum() == 50
    assert (found != 1).any()
    assert (wanted != 1).any()


def test_nlb_bins_begin_at_the_whole_millisecond():
    """A segment that starts at 0.4 ms has its first bin from 0 ms; the spike in its last 0.4 ms has none."""
    session = session_of([400_000, 1_999_999, 2_000_000, 4_100_000, 4_399_999])
    baked = Binned(2 * MS, compat="nlb").bake(session, Intervals([400_000], [4_400_000]))
    assert baked.columns["counts"][:, 0].tolist() == [2, 1]
    assert baked.lost == {"outside_segments": 0, "saturated": 0, "compat": 2}


def test_fields_that_cannot_be_are_refused():
    for fields, word in [
        ({"edges": "left"}, "edges is 'left'"),
        ({"compat": "falcon"}, "compat is 'falcon'"),
        ({"bin_ns": 1, "edges": "right-closed"}, "at least 2"),
        ({"compat": "nlb", "edges": "right-closed"}, "left-closed bins of 1 to 1000 ms"),
        ({"compat": "torch_brain", "bin_ns": 999_999}, "left-closed bins of 1 to 1000 ms"),
        ({"compat": "nlb", "bin_ns": 1_500_000}, "whole milliseconds"),
    ]:
        with pytest.raises(UsageError, match=word):
            Binned(**fields)


# ---- counting -------------------------------------------------------------------------------------------------------


@given(session=sessions(), segments=all_segments(), bin_ns=st.sampled_from([1 * MS, 7_000_001, 2**40]))
def test_any_number_of_threads_gives_the_same_counts(session, segments, bin_ns):
    counts, row, saturated = count_bins(session, segments, bin_ns)
    out = np.full_like(counts, 77)
    again = count_bins(session, segments, bin_ns, threads=3, out=out)
    assert again[0] is out
    np.testing.assert_array_equal(out, counts)
    assert again[2] == saturated
    np.testing.assert_array_equal(again[1], row)


def test_saturation_is_exact_in_one_tile_of_many():
    """300 and 256 spikes of two units in one bin in the middle of a recording of many tiles and threads."""
    n_units, stop = 300, 60_000 * MS
    trains = [list(range(n * 1000, stop, 97 * MS + n)) for n in range(n_units)]
    full = 31_007 * MS
    wanted = sum(full <= t < full + MS for t in trains[5]), sum(full <= t < full + MS for t in trains[299])
    trains[5] = sorted(trains[5] + [full + k for k in range(300)])
    trains[299] = sorted(trains[299] + [full + 999_999] * 256)
    session = session_of(*trains, stop=stop)
    total = sum(map(len, trains))
    for threads in (1, 2):
        counts, _, saturated = count_bins(session, session.observed, MS, threads=threads)
        assert saturated == 300 - 255 + 256 - 255 + sum(wanted)
        assert counts[31_007, [5, 299]].tolist() == [255, 255]
        assert counts.sum(dtype=np.int64) == total - saturated


def test_bins_longer_than_float64_counts_exactly():
    session = session_of([0, 2**60, 2**60 + 1, 2**61 - 1], stop=2**61)
    for bin_ns, wanted in ((2**60, [1, 3]), (2**61, [4]), (2**60 + 1, [2, 2]), (2**49, None)):
        counts, _, _ = count_bins(session, session.observed, bin_ns)
        if wanted:
            assert counts[:, 0].tolist() == wanted
        else:
            assert np.flatnonzero(counts[:, 0]).tolist() == [0, 2048, 4095]


def test_threads_and_out_that_do_not_fit_are_refused():
    session = session_of([1])
    with pytest.raises(UsageError, match="threads is 0"):
        count_bins(session, session.observed, MS, threads=0)
    for out in (np.empty((100, 2), np.uint8), np.empty((100, 1), np.int8), np.empty((1, 100), np.uint8)):
        with pytest.raises(UsageError, match="out is"):
            count_bins(session, session.observed, MS, out=out)


# ---- shards that were written before --------------------------------------------------------------------------------


def test_a_shard_from_before_edges_reads_as_left_closed():
    assert scheme_from_config({"name": "binned", "version": 1, "config": {"bin_ns": 20 * MS}}) == Binned()
    reader = ShardReader(GOLDEN)
    assert reader.scheme == Binned()
    assert reader.verify() == []
    baked = Binned().bake(golden_session(), golden_segments())
    assert reader.lost == baked.lost
    for name, column in baked.columns.items():
        assert column.tobytes() == reader.columns[name].tobytes(), name


def test_counts_sum_to_the_spikes():
    session = random_session("a", 3)
    counts, _, lost = Binned(3_000_007).count(session, session.observed, threads=2)
    inside = sum(
        len(session.spikes.window(a, z))
        for a, z in zip(session.observed.start_ns, session.observed.stop_ns, strict=True)
    )
    assert counts.sum() == inside
    assert lost == {"saturated": 0}
