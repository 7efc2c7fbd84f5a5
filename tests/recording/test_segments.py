"""Which stretches are baked: those of observed time, on one grid with the session as a whole, against a slow twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.intervals import EMPTY_NS, inhabited
from spiketok.recording.nouns import NS_PER_S, Intervals
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


# ---- where something lies -------------------------------------------------------------------------------------------


def inhabited_twin(start: int, stop: int, points: list[int], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every second of the extent is asked on its own; all times are whole seconds."""
    there = sorted({p for p in points if start <= p < stop})
    covered = [(p, p + 1) for p in there]
    covered += [(max(a, start), max(min(b, stop), max(a, start) + 1)) for a, b in spans if b >= start and a < stop]
    if not covered:
        return [(start, stop)]
    found, reach, first = [], start, start
    for low, high in sorted(covered):
        if low - reach > EMPTY_NS:
            found.append((first, reach))
            first = low
        reach = max(reach, high)
    found.append((first, stop if stop - reach <= EMPTY_NS else reach))
    return [(a, b) for a, b in found if a < b]


MINUTES = st.integers(-30, 130).map(lambda m: m * 60 * SECOND)
LISTS = st.lists(MINUTES, max_size=8)


@given(extent=st.tuples(MINUTES, MINUTES), one=LISTS, other=LISTS, spans=st.lists(st.tuples(MINUTES, MINUTES)))
def test_emptiness_is_cut_out_as_the_twin_says(extent, one, other, spans):
    start, stop = min(extent), max(extent) + SECOND
    spans = [(min(s), max(s)) for s in spans]
    found = inhabited(start, stop, [np.array(sorted(one), np.int64), np.array(sorted(other), np.int64)], [of(*spans)])
    assert pairs(found) == inhabited_twin(start, stop, one + other, spans)


def test_time_without_a_long_emptiness_is_whole():
    """Gaps up to ten minutes, at the ends too, leave the extent as it is."""
    moments = np.arange(EMPTY_NS, 7200 * SECOND, EMPTY_NS)
    assert pairs(inhabited(0, 7200 * SECOND, [moments])) == [(0, 7200 * SECOND)]
    assert pairs(inhabited(-1, 7200 * SECOND, [moments])) == [(EMPTY_NS, 7200 * SECOND)]
    trial = of((0, 7000 * SECOND))  # a long trial is no emptiness
    assert pairs(inhabited(0, 7200 * SECOND, [moments[:1]], [trial])) == [(0, 7200 * SECOND)]
