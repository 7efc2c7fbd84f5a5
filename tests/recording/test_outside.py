"""Spikes and samples outside of what was observed: fillers against a slow twin, and what --drop-outside leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import NS_PER_S, Intervals, Ragged, Signal, Spikes
from spiketok.recording.outside import drop_outside, fillers
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.made import random_session
from tests.sources.test_clocks import made, read

STREAMS = st.lists(
    st.lists(st.integers(-2, 9), max_size=9).map(lambda own: sorted(own, key=abs)), min_size=1, max_size=5
)


def slow_fillers(trains: list[list[int]]) -> set[int]:
    """The first and the last time, where what happens there happens twice as often as at any time between."""
    times = sorted({t for own in trains for t in own})
    if len(times) < 3:
        return set()
    most = {t: max(Counter(own)[t] for own in trains) for t in times}
    units = {t: sum(t in own for own in trains) for t in times}
    spiking = sum(bool(own) for own in trains)
    usual_most, usual_units = max(most[t] for t in times[1:-1]), max(units[t] for t in times[1:-1])
    return {
        t
        for t in (times[0], times[-1])
        if (most[t] >= 3 and most[t] > 2 * usual_most)
        or (units[t] >= 3 and 2 * units[t] >= spiking and units[t] > 2 * usual_units)
    }


@given(trains=STREAMS, filler=st.sampled_from([-5, 20]), n=st.lists(st.integers(0, 7), min_size=5, max_size=5))
@settings(max_examples=40)
def test_fillers_are_what_a_slow_reading_finds(trains, filler, n):
    trains = [own + [filler] * k for own, k in zip(trains, n, strict=False)]
    spikes = Spikes.from_units([np.array(own, np.int64) for own in trains])
    kept = spikes.time_ns[fillers(spikes)]
    gone = slow_fillers(trains)
    assert kept.tolist() == sorted(t for own in trains for t in own if t not in gone)


def padded(filler: float, most: int, seed: int = 3):
    """Each unit's times with a number of fillers behind them, as a matrix of unequal rows is padded; one has none."""
    counts = iter([0, *np.random.default_rng(seed).integers(1, most + 1, 4).tolist()])
    return lambda times: np.concatenate([times, np.full(next(counts), filler)])


@pytest.mark.parametrize("filler", [0.0, 1e9])
def test_fillers_are_counted_not_observed_and_left_out_on_request(tmp_path, filler):
    plain = read(made(tmp_path / "plain.nwb", seed=5, lasts_s=20.0))
    path = made(tmp_path / "padded.nwb", seed=5, lasts_s=20.0, spikes=padded(filler, 40))
    session = read(path)
    n_filler = len(session.spikes) - len(plain.spikes)
    assert [note.count for note in session.notes if note.id == "spikes-filler"] == [n_filler]
    assert "--drop-outside" in next(note.text for note in session.notes if note.id == "spikes-filler")
    assert (session.start_ns, session.stop_ns) == (plain.start_ns, plain.stop_ns)
    assert session.observed.start_ns.tolist() == plain.observed.start_ns.tolist()
    assert verify_session(session, path) == []
    done = drop_outside(session)
    assert done.spikes.time_ns.tolist() == plain.spikes.time_ns.tolist()
    assert done.spikes.unit.tolist() == plain.spikes.unit.tolist()
    assert [(r.id, r.count) for r in done.repairs][-1] == ("spikes-outside-dropped", n_filler)
    assert not {note.id for note in done.notes} & {"spikes-filler", "spikes-unobserved"}
    assert drop_outside(plain) is plain


def test_one_filler_a_unit_is_one(tmp_path):
    """A mark at the end of each unit's times, the same for all."""
    session = read(made(tmp_path / "mark.nwb", lasts_s=20.0, spikes=lambda times: np.append(times, 999_999.0)))
    assert len(session.spikes) - len(drop_outside(session).spikes) == 5
    assert session.stop_ns < 61 * NS_PER_S


def test_counts_written_as_times_are_no_fillers(tmp_path):
    """Threshold crossings on a grid of 50 ms: many spikes of a unit at one time, at the edges as between."""
    session = read(made(tmp_path / "grid.nwb", lasts_s=20.0, spikes=lambda times: np.floor(times * 4) / 4))
    assert not [note for note in session.notes if note.id == "spikes-filler"]
    assert drop_outside(session) is session


# ---- by observed time ----------------------------------------------------------------------------------------------


@given(
    observed=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), min_size=1, max_size=4),
    own=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_what_stays_is_what_was_observed(observed, own, seed):
    session = random_session("a", seed, n_units=3)
    rng = np.random.default_rng(seed)
    observed = Intervals([a for a, _ in observed], [a + n for a, n in observed]).union()
    trains = [np.sort(rng.choice(60, 25, replace=False)) - 5 for _ in range(3)]
    rows = [observed.take(slice(row, None) if own else slice(None)) for row in range(3)]
    rows = [one if len(one) else observed for one in rows]
    pairs = [np.stack([one.start_ns, one.stop_ns], 1) for one in rows]
    ragged = Ragged(np.concatenate(pairs), np.cumsum([0, *map(len, pairs)])) if own else None
    time_ns = np.arange(-5, 55, 2)
    signal = Signal(time_ns, np.zeros((time_ns.size, 1)), ("x",), "", np.ones(time_ns.size, np.bool_))
    session = replace(
        session,
        start_ns=-50,
        stop_ns=200,
        spikes=Spikes.from_units(trains),
        observed=observed,
        unit_observed=ragged,
        intervals={},
        signals={"s": signal},
    )

    def stays(row: int, t: int) -> bool:
        return any(a <= t < b for a, b in pairs[row])

    expected = [[t for t in trains[row].tolist() if stays(row, t)] for row in range(3)]
    if not any(expected):
        with pytest.raises(DataError, match="all 75 spikes lie outside"):
            drop_outside(session)
        return
    done = drop_outside(session)
    for row in range(3):
        assert done.spikes.time_ns[done.spikes.unit == row].tolist() == expected[row]
    low, high = observed.start_ns[0], observed.stop_ns[-1]
    assert done.signals["s"].time_ns.tolist() == [t for t in time_ns.tolist() if low <= t < high]
    assert (done.start_ns, done.stop_ns) == (0, high)  # from a whole second on
    found = {repair.id: repair.count for repair in done.repairs}
    assert found["spikes-outside-dropped"] == 75 - sum(map(len, expected))
    assert found["samples-outside-dropped"] == time_ns.size - done.signals["s"].time_ns.size


@pytest.mark.long
def test_it_is_a_setting_that_verify_knows(tmp_path):
    path = made(tmp_path / "one.nwb", spikes=padded(-7.0, 9), invalid=(20.0, 31.0))
    said = spiketok(tmp_path, "ingest", path)
    assert "lie outside of observed time: --drop-outside leaves them out" in said.stderr
    before = read_session(Workspace(tmp_path).store_path("local/one"))
    spiketok(tmp_path, "ingest", path, "--drop-outside", "--mask", "invalid_times")
    session = read_session(Workspace(tmp_path).store_path("local/one"))
    time_ns = before.spikes.time_ns
    inside = (time_ns >= 0) & ((time_ns < 20 * NS_PER_S) | (time_ns >= 31 * NS_PER_S))
    assert session.spikes.time_ns.tolist() == time_ns[inside].tolist()
    assert "equal" in spiketok(tmp_path, "verify").stdout
