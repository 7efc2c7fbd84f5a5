"""Which stretches are baked: those of observed time, on one grid with the session as a whole, against a slow twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.intervals import EMPTY_NS, EMPTY_TIMES, from_whole_second, inhabited
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.recording.segments import (
    CONTINUOUS,
    JOINED_GAP_NS,
    OBSERVED,
    observed_stretches,
    parse_trial_rule,
    resolve_segments,
)
from tests.made import MS, random_session, whole

SECOND = NS_PER_S


def pairs(intervals: Intervals) -> list[tuple[int, int]]:
    return list(zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True))


def of(*found: tuple[int, int]) -> Intervals:
    return Intervals([a for a, _ in found], [b for _, b in found])


# ---- observed stretches ---------------------------------------------------------------------------------------------


def stretches_twin(observed: list[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """One observed interval after the other, in order: joined to the one before, or a stretch of its own."""
    found: list[list[int]] = []
    for low, high in sorted((max(a, start), min(b, stop)) for a, b in observed):
        if low >= high:
            continue
        if found and low - found[-1][1] < JOINED_GAP_NS:
            found[-1][1] = max(found[-1][1], high)
        else:
            found.append([low, high])
    return [(start + (low - start) // SECOND * SECOND, high) for low, high in found]


EDGES = st.integers(-120, 120).flatmap(lambda s: st.sampled_from([s * SECOND, s * SECOND + 1, s * SECOND - 7 * MS]))
SPANS = st.lists(st.tuples(EDGES, EDGES).map(lambda t: (min(t), max(t))), max_size=6)


@given(observed=SPANS, extent=st.tuples(EDGES, EDGES))
def test_stretches_equal_the_twin_and_hold_what_was_observed(observed, extent):
    start, stop = min(extent), max(extent)
    found = observed_stretches(of(*observed), start, stop)
    assert pairs(found) == stretches_twin(observed, start, stop)
    inside = of(*observed).intersect(of((start, stop)))
    assert pairs(inside.intersect(found)) == pairs(inside.union())  # nothing that was observed is lost
    assert ((found.start_ns - start) % SECOND == 0).all()
    assert ((found.start_ns >= start) & (found.stop_ns <= stop)).all()
    assert pairs(found.union()) == pairs(found)  # in order, and apart


def test_gaps_of_ten_seconds_divide_and_shorter_ones_do_not():
    gap = JOINED_GAP_NS
    assert pairs(observed_stretches(of((0, 5), (4 + gap, 90 * SECOND)), 0, 100 * SECOND)) == [(0, 90 * SECOND)]
    divided = observed_stretches(of((0, 5), (5 + gap, 90 * SECOND)), 0, 100 * SECOND)
    assert pairs(divided) == [(0, 5), (10 * SECOND, 90 * SECOND)]
    assert len(observed_stretches(Intervals.empty(), 0, SECOND)) == 0


def test_a_session_without_gaps_is_one_stretch_by_either_rule():
    session = random_session("a", 1)
    session = replace(session, start_ns=-7 * MS, observed=Intervals([-7 * MS], [session.stop_ns]))
    assert pairs(resolve_segments(session, OBSERVED)) == pairs(resolve_segments(session, CONTINUOUS))
    assert pairs(resolve_segments(session, OBSERVED)) == pairs(whole(session))


def test_what_is_no_rule_is_said():
    with pytest.raises(UsageError, match="use 'observed', 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"):
        parse_trial_rule("whole")


CUE_S = np.array([0.5, 0.7, 0.6, 0.2])


def with_cues(cue_s: np.ndarray) -> Session:
    """Four trials of 2 s, every 5 s from 10 s on, with a cue."""
    start = np.arange(4) * 5 * SECOND + 10 * SECOND
    trials = Intervals(start, start + 2 * SECOND, {"cue": cue_s, "go": np.full(4, np.nan)})
    session = random_session("a", 1)
    low_ns, high_ns = min(session.start_ns, 0), max(session.stop_ns, 30 * SECOND)
    observed = Intervals([low_ns], [high_ns])
    return replace(session, intervals={"trials": trials}, start_ns=low_ns, stop_ns=high_ns, observed=observed)


def test_times_of_trials_are_held_against_their_trial():
    start = np.arange(4) * 5.0 + 10
    cut = resolve_segments(with_cues(start + CUE_S), "trials:cue,200,600")
    expected = np.rint((start + CUE_S) * 1e9).astype(np.int64)
    assert pairs(cut) == [(t - 200 * MS, t + 600 * MS) for t in expected.tolist()]
    for filler in (0.0, 1e12, -1e300, np.inf, np.nan, 9.99):
        times = np.where(np.arange(4) == 1, filler, start + CUE_S)
        assert pairs(resolve_segments(with_cues(times), "trials:cue,200,600")) == [pairs(cut)[k] for k in (0, 2, 3)]
    with pytest.raises(
        DataError, match=r"4 of 4 times 'cue' lie outside of their trial \(the first is 0.5 s, its trial 10 "
    ):
        resolve_segments(with_cues(CUE_S), "trials:cue,200,600")
    with pytest.raises(DataError, match=r"counted from the trial's start: align to 'cue\+start'"):
        resolve_segments(with_cues(CUE_S), "trials:cue,200,600")
    assert pairs(resolve_segments(with_cues(CUE_S), "trials:cue+start,200,600")) == pairs(cut)
    before_stop = CUE_S - 2
    with pytest.raises(DataError, match=r"counted from the trial's stop: align to 'cue\+stop'"):
        resolve_segments(with_cues(before_stop), "trials:cue,200,600")
    assert pairs(resolve_segments(with_cues(before_stop), "trials:cue+stop,200,600")) == pairs(cut)
    with pytest.raises(DataError, match="align to another column, or to start or stop"):
        resolve_segments(with_cues(CUE_S + 1e6), "trials:cue,200,600")
    with pytest.raises(DataError, match="no trial has a finite 'go'"):
        resolve_segments(with_cues(CUE_S), "trials:go,200,600")
    with pytest.raises(UnknownNameError, match="cue_"):
        resolve_segments(with_cues(CUE_S), "trials:cue_+start,200,600")


def test_times_of_trials_in_another_unit_are_offered_as_what_they_are():
    start = np.arange(4) * 5.0 + 10
    again = r"ingest it again with --time-unit cue=ms, and align to 'cue"
    for cue, rule in ((CUE_S * 1e3, "cue"), (CUE_S * 1e3, "cue+start"), ((CUE_S - 2) * 1e3, "cue+stop")):
        base = "stop" if cue[0] < 0 else "start"
        with pytest.raises(DataError, match=rf"they fit as ms counted from the trial's {base}: {again}\+{base}'"):
            resolve_segments(with_cues(np.rint(cue).astype(np.int64)), f"trials:{rule},200,600")
    with pytest.raises(DataError, match=rf"they fit as ms of the recording's clock: {again}'"):
        resolve_segments(with_cues((start + CUE_S) * 1e3), "trials:cue,200,600")
    whole = resolve_segments(with_cues((start + 1).astype(np.int64)), "trials:cue,200,600")
    assert whole.start_ns.tolist() == ((start + 1) * 1e9 - 200 * MS).astype(np.int64).tolist()
    lowest = np.array([11, np.iinfo(np.int64).min, 21, 26])
    assert len(resolve_segments(with_cues(lowest), "trials:cue,200,600")) == 3
    with pytest.raises(DataError, match="align to another column"):  # zeros lie at the edge of every trial
        resolve_segments(with_cues(np.array([10.5, 0.0, 0.0, 0.0])), "trials:cue,200,600")


def test_stretches_where_nothing_was_observed_are_left_out():
    session = with_cues(CUE_S)
    part = replace(session, observed=Intervals([0], [16 * SECOND]))
    assert len(resolve_segments(part, "trials:start,200,600")) == 2
    with pytest.raises(DataError, match="none of 4 stretches around 'start' of trials holds observed time"):
        resolve_segments(replace(session, observed=Intervals([0], [5 * SECOND])), "trials:start,200,600")


# ---- where something lies -------------------------------------------------------------------------------------------


def inhabited_twin(points: list[int], others: list[int], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """In words of lists; all times are whole seconds."""
    low, high = len(points) // 4, 3 * len(points) // 4
    usual = (sorted(points)[high] - sorted(points)[low]) // (high - low) if high > low else 0
    most = max(EMPTY_NS, EMPTY_TIMES * usual)
    covered = sorted([(p, p + 1) for p in points + others] + [(a, max(b, a + 1)) for a, b in spans])
    found: list[tuple[int, int]] = []
    for first, last in covered:
        if found and first - found[-1][1] <= most:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    found = [(a, b) for a, b in found if b - a >= SECOND] or found
    return [(a, b) for a, b in found if any(a <= p < b for p in points)] or found


MINUTES = st.integers(-30, 130).map(lambda m: m * 60 * SECOND)
LISTS = st.lists(MINUTES, max_size=8)


@given(one=LISTS, other=LISTS, spans=st.lists(st.tuples(MINUTES, MINUTES)))
def test_emptiness_is_cut_out_as_the_twin_says(one, other, spans):
    spans = [(min(s), max(s)) for s in spans]
    found = inhabited([np.array(sorted(one), np.int64), np.array(sorted(other), np.int64)], [of(*spans)])
    assert pairs(found) == inhabited_twin(one, other, spans)


def test_observed_is_where_data_lie():
    """The extent reaches neither to zero nor to a lone late time; a long trial is no emptiness; slow units are none."""
    spikes = np.arange(1000 * SECOND, 1060 * SECOND, SECOND // 8)
    lone = np.array([9000 * SECOND])
    assert pairs(inhabited([np.append(spikes, lone)])) == [(1000 * SECOND, int(spikes[-1]) + 1)]
    assert pairs(inhabited([spikes, lone])) == pairs(inhabited([spikes]))
    assert pairs(inhabited([spikes], [of((0, 1100 * SECOND))])) == [(0, 1100 * SECOND)]
    assert len(inhabited([np.concatenate([spikes, spikes + 121 * SECOND])])) == 2
    slow = np.arange(0, 7200 * SECOND, 100 * SECOND)
    assert pairs(inhabited([slow])) == [(0, 7100 * SECOND + 1)]
    assert pairs(inhabited([lone])) == [(9000 * SECOND, 9000 * SECOND + 1)]
    assert len(inhabited([np.zeros(0, np.int64)])) == 0
    assert pairs(from_whole_second(of((2 * SECOND + 7, 3 * SECOND), (4 * SECOND + 7, 5 * SECOND)))) == [
        (2 * SECOND, 3 * SECOND),
        (4 * SECOND + 7, 5 * SECOND),
    ]
