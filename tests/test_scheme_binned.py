"""What binned promises besides the laws."""

from __future__ import annotations

import numpy as np
from strategies import SOURCE

from spiketok.recording import Intervals, Ragged, Session, Spikes, UnitTable
from spiketok.schemes import Binned, PerSpike


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
