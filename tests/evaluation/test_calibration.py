"""Which time a calibration is: against sets of nanoseconds, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.calibration import PIECES, blocks_of, calibration_of, check_draws, taken
from spiketok.recording.nouns import Intervals

SECOND = 1_000_000_000
TIME = Intervals([3 * SECOND, 60 * SECOND, 200 * SECOND], [50 * SECOND, 150 * SECOND, 400 * SECOND])
some_time = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9)), min_size=1, max_size=5)


def intervals(pairs) -> Intervals:
    """Sorted and apart: (gap before, length) each; gaps grow by one, so that no two touch."""
    start, stop, at = [], [], 0
    for gap, length in pairs:
        start.append(at + gap + 1)
        at = start[-1] + length
        stop.append(at)
    return Intervals(start, stop)


def moments(time: Intervals) -> list[int]:
    return [t for a, b in zip(time.start_ns, time.stop_ns, strict=True) for t in range(a, b)]


@given(some_time, st.integers(0, 40), st.integers(0, 40))
def test_taken_is_a_slice_of_the_moments(pairs, offset, length):
    time = intervals(pairs)
    assert moments(taken(time, offset, length)) == moments(time)[offset : offset + length]


@given(some_time, st.integers(2, 4))
def test_blocks_are_contiguous_disjoint_and_all(pairs, n):
    time = intervals(pairs)
    blocks = [moments(block) for block in blocks_of(time, n)]
    assert [t for block in blocks for t in block] == moments(time)
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1


@pytest.mark.parametrize("how", ["first", "random", "spread"])
@pytest.mark.parametrize("length_s", [7.5, 30, 240])
def test_a_calibration_is_so_long_and_inside_the_time(how, length_s):
    found = calibration_of(TIME, "a", length_s, how, 2, 5)
    assert found.total_ns == round(length_s * SECOND) == found.intersect(TIME).total_ns
    again = calibration_of(TIME, "a", length_s, how, 2, 5)
    assert again.start_ns.tolist() == found.start_ns.tolist()
    if how == "first":
        assert found.start_ns[0] == TIME.start_ns[0]
        return
    for other in [("b", 2, 5), ("a", 1, 5), ("a", 2, 6)]:
        drawn = calibration_of(TIME, other[0], length_s, how, *other[1:])
        assert drawn.start_ns.tolist() != found.start_ns.tolist()


def test_a_spread_calibration_lies_in_pieces_all_over_the_time():
    whole = Intervals([0], [1000 * SECOND])
    found = calibration_of(whole, "a", 30, "spread", 0, 0)
    assert len(found) == PIECES
    assert (found.stop_ns - found.start_ns == 5 * SECOND).all()
    np.testing.assert_array_equal(np.diff(found.start_ns), np.diff(found.start_ns)[0])
    assert found.stop_ns[-1] - found.start_ns[0] > 800 * SECOND
    assert len(calibration_of(whole, "a", 10, "spread")) == 2  # a piece shorter than five seconds holds few windows


@pytest.mark.parametrize(
    ("how", "repeats", "message"),
    [("last", 1, "must be one of first, spread, random"), ("random", 0, "at least 1"), ("first", 2, "use random or")],
)
def test_draws_that_cannot_be_are_refused(how, repeats, message):
    with pytest.raises(UsageError, match=message):
        check_draws(how, repeats)
    check_draws("spread", 3)


def test_more_than_there_is_is_refused():
    with pytest.raises(DataError, match="a: 400 s of calibration are asked for .* 337.0 s: use --calibration-s 337"):
        calibration_of(TIME, "a", 400, "random")
