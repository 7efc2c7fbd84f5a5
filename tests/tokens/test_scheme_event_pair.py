"""What event-pair promises besides the laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, Spikes, UnitTable
from spiketok.tokens.schemes import EventPair
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from tests.laws import assert_same
from tests.made import golden_segments, golden_session, random_session, whole
from tests.strategies import SOURCE

MS = 1_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "shard-event-pair-v2"
SMALL = EventPair(max_current=5, max_history=6)


def session_of(times_ms: list[list[int]], stop_ms: int = 400) -> Session:
    spikes = Spikes.from_units([np.array(t, np.int64) * MS for t in times_ms])
    units = UnitTable([f"u{n}" for n in range(len(times_ms))])
    return Session("a/b", "", 0, stop_ms * MS, units, spikes, Intervals([0], [stop_ms * MS]), SOURCE)


def windows_at(*start_ms: int) -> Windows:
    return Windows(np.zeros(len(start_ms), np.int64), np.array(start_ms) * MS, 50 * MS)


def test_tokens_by_hand():
    """Step before unit, a unit twice in a step stands twice; steps count from each stream's own start."""
    session = session_of([[205, 209, 249], [201, 100], [199, 50, 249, 250]])
    tokens = SMALL.cut(SMALL.bake(session, session.observed).columns, windows_at(200))
    history, current = slice(0, 6), slice(6, 11)
    assert tokens.columns["unit"][history].tolist() == [3, 2, 1, 2, 4, 5]
    assert tokens.columns["dt"][history].tolist() == [0, 0, 5, 14, 17, 18]
    assert tokens.columns["type"][history].tolist() == [1, 0, 0, 0, 2, 3]
    # five spikes, room for three: the last ones stay, each beside its own dt
    assert tokens.columns["unit"][current].tolist() == [3, 1, 0, 2, 4]
    assert tokens.columns["dt"][current].tolist() == [0, 0, 4, 4, 17]
    assert tokens.columns["stream"].tolist() == [0] * 6 + [1] * 5
    columns = SMALL.bake(session, session.observed).columns
    assert SMALL.cut_off(columns, windows_at(200, 0)).tolist() == [[0, 2], [0, 0]]
    assert SMALL.cut_off(columns, windows_at(200), np.array([[False, True, True]])).tolist() == [[0, 0]]


def test_a_vocabularys_rows_put_the_specials_behind_the_largest():
    session = session_of([[205], [201], []])
    scheme, rows = EventPair(max_current=5, max_history=3), np.array([40, 7, 12], np.int32)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, windows_at(200), None, rows)
    assert tokens.columns["unit"].tolist() == [41, 42, 43, 41, 40, 7, 42, 43]
    assert tokens.columns["type"].tolist() == [1, 2, 3, 1, 0, 0, 2, 3]


def test_history_is_clipped_at_the_segments_start_and_keeps_its_steps():
    """A spike 20 ms before the window has dt 13 wherever the segment begins; one before the segment is not seen."""
    session = session_of([[80, 95]])
    columns = SMALL.bake(session, Intervals([0, 90 * MS], [400 * MS, 400 * MS])).columns
    windows = Windows(np.array([0, 1]), np.array([100, 100]) * MS, 50 * MS)
    tokens = SMALL.cut(columns, windows)
    assert tokens.columns["dt"][:6].tolist() == [0, 13, 14, 17, 18, 18]
    assert tokens.columns["dt"][11:17].tolist() == [0, 14, 17, 18, 18, 18]


def test_a_cut_without_pad_is_the_padded_one_without_its_pads():
    session = random_session("x", 3)
    padded, ragged = EventPair(max_history=20, max_current=9), EventPair(max_history=20, max_current=9, pad=False)
    windows = Windows(np.zeros(40, np.int64), np.arange(40) * 100 * MS, 50 * MS)
    columns = padded.bake(session, whole(session)).columns
    full, short = padded.cut(columns, windows), ragged.cut(columns, windows)
    real = full.columns["type"] != 3
    assert 0 < (~real).sum() < len(real)
    assert_same(short.columns, {name: column[real] for name, column in full.columns.items()})
    np.testing.assert_array_equal(np.diff(short.offset), real.reshape(40, -1).sum(axis=1))


@pytest.mark.parametrize("n_units", [3, 400])
def test_tokens_are_those_of_a_matrix_of_counts(n_units):
    """The published way round: a dense matrix, steps and then units, each unit as often as it fired.

    With few units steps are ordered by counting, with many by insertion.
    """
    rng = np.random.default_rng(n_units)
    session = session_of([np.sort(rng.integers(0, 1000, 1200 // n_units)).tolist() for _ in range(n_units)], 1000)
    scheme = EventPair(max_history=400, max_current=200)
    columns = scheme.bake(session, session.observed).columns
    count = np.zeros((n_units, 100), np.int64)
    np.add.at(count, (session.spikes.unit, session.spikes.time_ns // scheme.step_ns), 1)
    assert count.max() > 1
    starts = [0, 10, 150, 730, 950]
    tokens = scheme.cut(columns, windows_at(*starts))
    for b, start_ms in enumerate(starts):
        now, low = start_ms // 10, start_ms // 10 - 15
        spikes = slice(tokens.offset[b], tokens.offset[b + 1])
        rows = {name: column[spikes] for name, column in tokens.columns.items()}
        for s, (first, stop, origin) in enumerate([(max(low, 0), now, low), (now, now + 5, now)]):
            step, unit = np.nonzero(count[:, first:stop].T)
            times = count[unit, step + first]
            own = (rows["stream"] == s) & (rows["type"] == 0)
            np.testing.assert_array_equal(rows["unit"][own], np.repeat(unit, times))
            np.testing.assert_array_equal(rows["dt"][own], np.repeat(step + first - origin, times))


def test_lost_counts_what_windows_end_to_end_cut_off():
    """Histories overlap, so a spike can be cut off more than once; the columns hold it all the same."""
    session = session_of([[0] * 7 + [60] * 2], 250)
    baked = SMALL.bake(session, session.observed)
    # current: 7 in the first window, room for 3; history (room for 4): 7, 9 and 9 before the second, third and fourth
    assert baked.lost == {"outside_segments": 0, "cut_off_history": 3 + 5 + 5, "cut_off_current": 4}
    assert SMALL.spikes_held(baked.columns) == 9
    assert EventPair().bake(session, session.observed).lost == {
        "outside_segments": 0,
        "cut_off_history": 0,
        "cut_off_current": 0,
    }


def test_fields_that_cannot_be_are_refused():
    for values, words in [
        ({"step_ns": 0}, "step_ns is 0, must be a whole number of at least 1"),
        ({"history_ns": 1.5e8}, "history_ns is 150000000.0, must be a whole number"),
        ({"max_current": 2}, "max_current is 2, must be a whole number of at least 3"),
        ({"max_history": True}, "max_history is True, must be a whole number"),
        ({"pad": 1}, "pad is 1, must be true or false"),
        ({"current_ns": 55 * MS}, "current_ns is 55000000, no multiple of step_ns 10000000"),
        ({"step_ns": 1, "history_ns": 32_765}, "32765 steps in a window, dt .int16. has room for 32764"),
    ]:
        values = {"current_ns": 1, "history_ns": 1} | values if values.get("step_ns") == 1 else values
        with pytest.raises(UsageError, match=words):
            EventPair(**values)


def test_the_longest_window_that_dt_has_room_for():
    scheme = EventPair(step_ns=1, current_ns=1, history_ns=32_764)
    session = session_of([[0]], 1)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, Windows(np.array([0]), np.array([40_000]), 1))
    assert tokens.columns["dt"].max() == 32_767
    assert (tokens.columns["dt"] >= 0).all()


# ---- golden: read forever -------------------------------------------------------------------------------------------


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    assert reader.scheme == EventPair()
    assert reader.lost == {"outside_segments": 1, "cut_off_history": 0, "cut_off_current": 0}
    window = Windows(np.array([0, 1]), np.array([10, 90]) * MS, 50 * MS)
    tokens = reader.scheme.cut(reader.columns, window)
    spike = tokens.columns["type"] == 0
    assert tokens.columns["unit"][spike].tolist() == [0, 0, 2, 0, 0, 2, 2, 0]
    assert tokens.columns["dt"][spike].tolist() == [13, 14, 0, 1, 1, 1, 0, 2]
    assert tokens.columns["stream"][spike].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_golden_columns_are_written_today():
    """Who changes a byte of the columns raises the scheme's version and adds a golden shard."""
    baked, reader = EventPair().bake(golden_session(), golden_segments()), ShardReader(GOLDEN)
    assert_same({name: reader.columns[name] for name in baked.columns}, dict(baked.columns))
