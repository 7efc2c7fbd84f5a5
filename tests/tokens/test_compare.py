"""Tokenizations measured: numbers by hand, the pairing of spikes, and what a comparison writes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.compare import ATTENTION, Lengths, attention_flops, compare, match_spikes, plot_comparison
from spiketok.tokens.compare.growth import _with_units
from spiketok.tokens.compare.windows import lay_windows
from spiketok.tokens.schemes import SCHEMES, Binned, Calibration, EventPair, Fluorescence, Patch, PerSpike
from tests.made import MS, SECOND, golden_session, random_session


def tiny_session() -> Session:
    """Two units, two seconds, five spikes: at 0, 5 and 8 ms of their bins of 10 ms, in four of the 200 bins."""
    times = [np.array([0, 15, 1008]) * MS, np.array([10, 1500]) * MS]
    return Session(
        id="made/tiny",
        subject="",
        start_ns=0,
        stop_ns=2 * SECOND,
        units=UnitTable(["a", "b"]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [2 * SECOND]),
        source=Source("made.nwb", "0" * 64, 1),
    )


def facts(scheme, session: Session, **options) -> dict:
    return compare([session], [scheme], rounds=1, **options).results[0].sessions[0].facts


def test_numbers_of_bins_by_hand():
    found = facts(Binned(10 * MS), tiny_session())
    assert found["tokens_per_s"] == 100
    assert found["tokens_per_window"] == 100
    # 200 bins of two counts and one flag, and the segment: start, stop and two rows of 8 bytes; over two seconds
    assert found["bytes_per_s"] == (200 * 3 + 4 * 8) / 2
    assert found["empty_share"] == 196 / 200
    assert found["lost"] == {"outside_segments": 0, "saturated": 0}
    # from the middle of the bins: 5, 0, 3, 5 and 5 ms
    assert found["timing_error_median_ms"] == 5
    assert found["timing_error_p99_ms"] == 5
    assert (found["n_matched"], found["n_unmatched"], found["unmatched_share"]) == (5, 0, 0)
    assert (found["tokens_per_unit"], found["tokens_per_spike"]) == (0, 0)
    assert found["attention_flops_per_s"]["NDT1"] == 4 * 128 * 100**2
    assert found["attention_flops_per_s"]["STNDT"] == 4 * 128 * (100**2 + 2**2)
    assert found["attention_flops_per_s"]["LFADS"] == 0
    assert (found["n_units"], found["n_spikes"], found["spikes_per_s"], found["window_s"]) == (2, 5, 2.5, 1)


def test_numbers_of_spikes_by_hand():
    found = facts(PerSpike(), tiny_session())
    assert found["tokens_per_s"] == (5 + 2 * 2 * 2) / 2  # the spikes, and START and END of two units in two windows
    assert found["empty_share"] == 8 / 13
    assert found["timing_error_p99_ms"] < 60e-6
    assert found["tokens_per_unit"] == pytest.approx(2)
    assert found["tokens_per_spike"] == pytest.approx(1)
    assert found["attention_flops_per_s"]["POYO"] == 4 * 128 * 128 * 6.5
    assert found["attention_flops_per_s"]["POSSM"] == 4 * 128 * 6.5
    assert facts(PerSpike(start_end=False), tiny_session())["tokens_per_unit"] == pytest.approx(0)


def test_growth_with_units_is_by_patches():
    session = random_session("grown", 1, n_units=8, seconds=4.0)
    found = facts(Patch(bin_ns=100 * MS, patch_size=2), session)
    assert found["tokens_per_window"] == 10 * 4
    assert found["tokens_per_unit"] == pytest.approx(10 / 2)  # ten bins, half a patch a unit
    assert found["tokens_per_spike"] == 0


def test_clipped_counts_are_spikes_without_a_partner():
    burst = replace(tiny_session(), spikes=Spikes(np.arange(7) * MS, np.zeros(7, np.int32)))
    found = facts(Patch(bin_ns=10 * MS, max_count=3), burst)
    assert found["lost"]["clipped"] == 4
    assert (found["n_matched"], found["n_unmatched"], found["unmatched_share"]) == (3, 4, 4 / 7)
    assert found["timing_error_median_ms"] == 1  # all at 5 ms: the nearest are at 4, 5 and 6


def test_history_counts_in_the_length_and_not_in_the_error():
    found = facts(EventPair(10 * MS, 50 * MS, 150 * MS, pad=False), tiny_session())
    assert found["window_s"] == 0.05
    assert found["n_matched"] == 5
    assert found["n_unmatched"] == 0
    # SOS and EOS of two streams in each window; each of the 5 spikes once, and again in the three histories after it
    assert found["tokens_per_window"] == (40 * 4 + 5 + 5 * 3) / 40
    assert found["timing_error_median_ms"] == 5


def test_attention_by_hand():
    own = Lengths(np.array([12, 6]), np.array([4, 2]), units=3, bins=10)
    assert attention_flops("NDT2", own) == 512 * (144 + 36) / 2
    assert attention_flops("POYO", own) == 512 * 128 * 9
    assert attention_flops("SPINT", own) == 512 * 2 * 9
    assert attention_flops("STNDT", own) == 512 * (100 + 9)
    assert attention_flops("Neuroformer", own) == 512 * (4 * 4 + 4 * 8 + 2 * 2 + 2 * 4) / 2
    # 4 and 2 patches of three units: each unit over its patches, each patch over the units
    assert attention_flops("NuCLR", own) == 512 * ((3 * 16 + 4 * 9) + (3 * 4 + 2 * 9)) / 2


def test_every_reader_has_a_formula():
    assert {reader for scheme in SCHEMES.values() for reader in scheme.readers} <= set(ATTENTION)


@given(
    st.lists(st.integers(0, 30), max_size=6).map(sorted),
    st.lists(st.integers(0, 30), max_size=6).map(sorted),
    st.booleans(),
)
def test_pairs_in_order_have_the_least_sum_of_errors(a, b, other_unit):
    """Against all ways to pair them."""
    unit = int(other_unit)
    true = Spikes(np.array(a, np.int64), np.full(len(a), unit, np.int32))
    known = Spikes(np.array(b, np.int64), np.full(len(b), unit, np.int32))
    errors, unmatched = match_spikes(true, known)
    few, many = sorted((a, b), key=len)
    least = min(
        sum(abs(x - y) for x, y in zip(few, chosen, strict=True)) for chosen in itertools.combinations(many, len(few))
    )
    if len(a) == len(b):
        least = sum(abs(x - y) for x, y in zip(a, b, strict=True))
    assert (errors.sum(), len(errors), unmatched) == (least, len(few), len(many) - len(few))


def test_spikes_are_paired_with_those_of_their_own_unit():
    true = Spikes(np.array([1, 2, 9]), np.array([0, 1, 0], np.int32))
    known = Spikes(np.array([1, 3, 8]), np.array([1, 0, 2], np.int32))
    errors, unmatched = match_spikes(true, known)
    assert sorted(errors.tolist()) == [1, 2]
    assert unmatched == 2


def test_stretches_are_the_same_for_all_schemes_and_lie_on_their_grids():
    session, stretches = random_session("laid", 2), np.array([SECOND, 4 * SECOND])
    assert lay_windows(Binned(20 * MS), session, stretches, SECOND).start_ns.tolist() == stretches.tolist()
    off = lay_windows(Binned(30 * MS), session, stretches, SECOND)
    assert (off.start_ns.tolist(), off.length_ns) == ([1020 * MS, 4020 * MS], 990 * MS)
    pairs = lay_windows(EventPair(), session, stretches, SECOND)
    assert (len(pairs), pairs.start_ns[0], pairs.start_ns[-1], pairs.length_ns) == (40, SECOND, 4950 * MS, 50 * MS)
    trials = lay_windows(Calibration(), session, stretches, SECOND)
    assert (trials.start_ns.tolist(), trials.length_ns) == ([0], 6 * SECOND)


def test_a_session_of_some_units_is_whole():
    session = golden_session()
    dff = Signal(np.array([0]), np.array([[1, 2, 3]], np.float32), ("a", "b", "c"), "", np.ones(1, bool))
    some = _with_units(replace(session, signals={"dff": dff, "eye": session.signals["eye"]}), np.array([0, 2]))
    assert some.units.id.tolist() == ["a", "c"]
    assert np.bincount(some.spikes.unit).tolist() == [6, 3]
    assert some.unit_observed[1].tolist() == session.unit_observed[2].tolist()
    assert (some.signals["dff"].value.tolist(), some.signals["dff"].components) == ([[1, 3]], ("a", "c"))
    assert some.signals["eye"] is session.signals["eye"]


def test_what_cannot_be_served_is_a_row_with_its_reason():
    short = replace(golden_session(), id="made/short")
    done = compare([tiny_session(), short], [Fluorescence(), Binned(10 * MS)], rounds=1)
    refused, served = done.rows()
    assert (refused["sessions"], refused["tokens/s"], refused["spikes lost"]) == (0, "-", "-")
    assert "made/tiny has no signal 'fluorescence'" in refused["not served"]
    assert served["sessions"] == 1
    assert "made/short has no stretch for a window of 1 s: it lasts 0.260 s" in served["not served"]
    assert done.to_json()["schemes"][1]["sessions"][1]["not_served"].startswith("made/short")


def test_what_is_under_timing_is_all_that_differs_between_runs():
    session = random_session("twice", 5)
    runs = [compare([session], [Binned(), PerSpike(), EventPair()], n_windows=3, seed=7, rounds=1) for _ in range(2)]
    one, two = (json.loads(json.dumps(run.to_json(), allow_nan=False)) for run in runs)
    for found in (one, two):
        for scheme in found["schemes"]:
            timings = [scheme.pop("timing"), *[s.pop("timing") for s in scheme["sessions"]]]
            assert all(t[name] > 0 for t in timings for name in ("bake_spikes_per_s", "cut_windows_per_s"))
    assert one == two
    assert one["schemes"][0]["sessions"][0]["n_windows"] == 3
    other = compare([session], [PerSpike()], n_windows=3, seed=8, rounds=1).to_json()
    assert other["schemes"][0]["mean"]["tokens_per_s"] != one["schemes"][1]["mean"]["tokens_per_s"]


def test_means_are_over_sessions_and_the_lost_are_summed():
    burst = replace(tiny_session(), id="made/burst", spikes=Spikes(np.zeros(9, np.int64), np.zeros(9, np.int32)))
    done = compare([tiny_session(), burst, burst], [Patch(bin_ns=10 * MS, max_count=4)], rounds=1)
    (row,) = done.rows()
    assert done.results[0].lost == {"clipped": 10}
    assert row["spikes lost"] == "10 clipped"
    assert done.results[0].mean("unmatched_share") == pytest.approx((0 + 5 / 9 + 5 / 9) / 3)
    assert row["unmatched %"] == "37"


def test_nothing_to_compare_is_refused():
    for sessions, schemes in (([], [Binned()]), ([tiny_session()], [])):
        with pytest.raises(UsageError, match="nothing to compare"):
            compare(sessions, schemes)
    for name in ("window_ns", "n_windows", "rounds"):
        with pytest.raises(UsageError, match=f"{name} is 0"):
            compare([tiny_session()], [Binned()], **{name: 0})


def test_files(tmp_path: Path):
    done = compare([random_session("drawn", 5)], [Binned(), Binned(5 * MS), Fluorescence(), EventPair()], rounds=1)
    done.write_json(tmp_path / "compare.json")
    assert json.loads((tmp_path / "compare.json").read_text()) == done.to_json()
    plot_comparison(done, tmp_path / "compare.svg")
    text = (tmp_path / "compare.svg").read_text()
    for shown in ("binned (1)", "binned (2)", "event-pair, 0.05 s", "not served: fluorescence", "Neuroformer 205"):
        assert f"<!-- {shown}" in text or shown in text
    with pytest.raises(DataError, match="nothing to draw: made/tiny has no signal"):
        plot_comparison(compare([tiny_session()], [Fluorescence()]), tmp_path / "none.png")
