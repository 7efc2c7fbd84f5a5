"""What per-spike promises besides the laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals, Session, Spikes, UnitTable
from spiketok.tokens.schemes import PerSpike, scheme_config, scheme_from_config
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from tests.laws import assert_same
from tests.made import golden_segments, golden_session
from tests.reference.per_spike import VARIANTS
from tests.strategies import SOURCE

MS = 1_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "shard-per-spike-v2"


def session_of(spikes: Spikes, stop_ns: int, n_units: int) -> Session:
    units = UnitTable([f"u{n}" for n in range(n_units)])
    return Session("a/b", "", 0, stop_ns, units, spikes, Intervals([0], [stop_ns]), SOURCE)


@example(1_000_000_000, [(9, 3), (2, 1), (1, 0)])  # the nearest nanosecond is the window's last, and two must follow
@given(
    st.one_of(st.sampled_from([1, 10**9, 10**10]), st.integers(5 * 10**8, 4 * 10**11)),
    st.lists(
        st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 3_000_000)), st.integers(0, 3)), min_size=1, max_size=60
    ),
)
def test_per_spike_law_4_where_float32_cannot_tell_spikes_apart(length, close):
    """Many spikes within one float32 step, up to the last nanosecond of windows (or chunks) of up to 400 s."""
    pairs = sorted((max(0, length - 1 - back), unit) for back, unit in close)
    spikes = Spikes(np.array([t for t, _ in pairs]), np.array([u for _, u in pairs], np.int32))
    whole = Intervals([0], [length])
    session = Session("made/one", "s", 0, length, UnitTable(np.arange(4)), spikes, whole, SOURCE)
    window = Windows(np.array([0]), np.array([0]), length)
    for scheme in (PerSpike(), PerSpike(order="unit"), PerSpike(start_end=False, chunk_ns=length)):
        tokens = scheme.cut(scheme.bake(session, whole).columns, window)
        (back,) = scheme.detokenize(tokens, window)
        again = scheme.cut(scheme.bake(replace(session, spikes=back), whole).columns, window)
        assert_same(again.columns, tokens.columns)
        step_ns = float(np.spacing(np.float32(length * 1e-9))) * 1e9
        assert np.abs(back.time_ns - spikes.time_ns).max() <= step_ns + 1


def test_first_spikes_alone_by_hand():
    """Of two windows; a unit that fires at one instant with another stands behind it; a dropped one leaves nothing."""
    spikes = Spikes.from_units([np.array([5, 12, 90]) * MS, np.array([12, 13]) * MS, np.zeros(0), np.array([60]) * MS])
    session = session_of(spikes, 100 * MS, 4)
    window = Windows(np.array([0, 0]), np.array([10, 50]) * MS, 50 * MS)
    keep = np.array([[True, True, True, True], [False, True, True, True]])
    bare = PerSpike(start_end=False, first_only=True)
    columns = bare.bake(session, session.observed).columns
    tokens = bare.cut(columns, window, keep, np.array([7, 8, 9, 10], np.int32))
    assert tokens.offset.tolist() == [0, 2, 3]
    assert tokens.columns["unit"].tolist() == [7, 8, 10]
    assert tokens.columns["time"].tolist() == pytest.approx([0.002, 0.002, 0.01])
    by_unit = PerSpike(order="unit", first_only=True).cut(columns, window, keep)
    assert by_unit.columns["type"].tolist() == [1, 0, 2, 1, 0, 2, 1, 2, 1, 2, *[1, 2, 1, 2, 1, 0, 2]]
    assert "first_only" not in scheme_config(PerSpike())["config"]
    assert scheme_from_config(scheme_config(bare)) == bare
    with pytest.raises(UsageError, match="first_only is True, must be true \\(with chunk_ns 0\\) or false"):
        PerSpike(start_end=False, chunk_ns=MS, first_only=True)


def test_law_4_keeps_apart_what_meets_at_the_border_of_two_chunks():
    """The last spike of one chunk and the first of the next, of units that fall, both at float32 time 0 of a chunk."""
    spikes = Spikes(np.array([0, 10 * MS, 20 * MS]), np.array([1, 0, 0], np.int32))
    session = session_of(spikes, 30 * MS, 2)
    scheme, window = PerSpike(start_end=False, chunk_ns=10 * MS), Windows(np.array([0]), np.array([0]), 30 * MS)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, window)
    assert tokens.columns["time"].tolist() == [0, 0, 0]
    assert tokens.columns["chunk"].tolist() == [0, 1, 2]
    (back,) = scheme.detokenize(tokens, window)
    np.testing.assert_array_equal(back.time_ns, spikes.time_ns)


def test_per_spike_tokens_by_hand():
    """POYO's order: START and END unit by unit, silent units too, then the spikes; a dropped unit leaves neither."""
    spikes = Spikes.from_units([np.array([1_000_000_000, 1_500_000_000]), np.zeros(0), np.array([1_250_000_000])])
    whole = Intervals([0], [3_000_000_000])
    session = Session("a/b", "", 0, 3_000_000_000, UnitTable(["u", "v", "w"]), spikes, whole, SOURCE)
    columns = PerSpike().bake(session, whole).columns
    window = Windows(np.array([0, 0]), np.array([1_000_000_000, 0]), 1_000_000_000)
    rows = np.array([10, 20, 30], np.int32)
    tokens = PerSpike().cut(columns, window, np.array([[True, True, True], [False, True, False]]), rows)
    assert tokens.offset.tolist() == [0, 9, 11]
    assert tokens.columns["unit"].tolist() == [10, 10, 20, 20, 30, 30, 10, 30, 10, 20, 20]
    assert tokens.columns["type"].tolist() == [1, 2, 1, 2, 1, 2, 0, 0, 0, 1, 2]
    assert tokens.columns["time"].tolist() == [0, 1, 0, 1, 0, 1, 0, 0.25, 0.5, 0, 1]


def test_the_look_up_table_is_right_over_long_silence_and_bursts():
    """Windows on, before and behind steps of the table, in a session with 1 s of silence between bursts."""
    rng = np.random.default_rng(0)
    bursts = [k * 1_000_000_000 + np.sort(rng.integers(0, 2_000_000, 50)) for k in range(5)]
    spikes = Spikes.from_units([np.concatenate(bursts)])
    whole = Intervals([-1], [5_000_000_001])
    session = Session("a/b", "", -1, 5_000_000_001, UnitTable(["u"]), spikes, whole, SOURCE)
    scheme = PerSpike()
    columns = scheme.bake(session, whole).columns
    starts = (np.arange(0, 45)[:, None] * 100_000_000 + np.array([-1, 0, 1])).ravel()
    for length in (1, 99_999_999, 100_000_000, 300_000_001):
        window = Windows(np.zeros(len(starts), np.int64), starts, length)
        found = scheme.lengths(columns, window) - 2
        low, high = np.searchsorted(spikes.time_ns, starts), np.searchsorted(spikes.time_ns, starts + length)
        np.testing.assert_array_equal(found, high - low)


# ---- chunks: POSSM --------------------------------------------------------------------------------------------------


def test_chunks_by_hand():
    """50 ms chunks of 150 ms: an edge belongs to the chunk that begins there, an empty chunk has one blank."""
    spikes = Spikes.from_units([np.array([100, 149, 150, 249]) * MS, np.array([99 * MS, 150 * MS - 1, 250 * MS])])
    session = session_of(spikes, 400 * MS, 2)
    scheme = PerSpike(start_end=False, chunk_ns=50 * MS)
    windows = Windows(np.zeros(2, np.int64), np.array([100, 240]) * MS, 150 * MS)
    keep, rows = np.array([[True, True], [True, False]]), np.array([7, 5], np.int32)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, windows, keep, rows)
    assert tokens.offset.tolist() == [0, 5, 8]
    assert tokens.columns["chunk"].tolist() == [0, 0, 0, 1, 2, 0, 1, 2]
    assert tokens.columns["type"].tolist() == [0, 0, 0, 0, 0, 0, 3, 3]
    assert tokens.columns["unit"].tolist() == [7, 7, 5, 7, 7, 7, 0, 0]
    wanted = np.float32([0, 0.049, 0.049999999, 0, 0.049, 0.009, 0, 0])
    np.testing.assert_array_equal(tokens.columns["time"], wanted)
    assert scheme.chunk_offsets(tokens, windows).tolist() == [[0, 3, 4, 5], [5, 6, 7, 8]]
    assert scheme.empty(tokens).tolist() == [False] * 6 + [True] * 2


def test_chunks_are_those_of_possms_rule():
    """Its rule in float seconds: searchsorted over rounded ends, the last one 1e-6 s later; 20 chunks of 50 ms.

    Half the spikes stand on edges, where the rule's rounded ends are right, too.
    """
    rng = np.random.default_rng(0)
    edges = np.arange(20) * 50 * MS
    spikes = Spikes.from_units([rng.integers(0, 1000 * MS, 60), rng.choice(edges, 20)])
    session = session_of(spikes, 1000 * MS, 2)
    scheme, windows = PerSpike(start_end=False, chunk_ns=50 * MS), Windows(np.array([0]), np.array([0]), 1000 * MS)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, windows)
    ends = np.round(np.arange(0.05, 1.0 + 1e-6, 0.05), 5)
    starts = np.round(ends - 0.05, 5)
    ends[-1] = 1.0 + 1e-6
    spike = tokens.columns["type"] == 0
    chunk = np.searchsorted(ends, spikes.time_ns * 1e-9, side="right")
    np.testing.assert_array_equal(tokens.columns["chunk"][spike], chunk)
    np.testing.assert_array_equal(tokens.columns["unit"][spike], spikes.unit)
    relative = (spikes.time_ns * 1e-9 - starts[chunk]).astype(np.float32)
    np.testing.assert_allclose(tokens.columns["time"][spike], relative, rtol=0, atol=4e-9)
    assert (~spike).sum() == 20 - len(np.unique(chunk))


# ---- order by unit --------------------------------------------------------------------------------------------------


def test_order_by_unit_by_hand():
    """START, the unit's spikes in order of time, END; silent units have both, dropped units nothing."""
    spikes = Spikes.from_units([np.array([10, 30]) * MS, np.zeros(0), np.array([5, 10, 99]) * MS])
    session = session_of(spikes, 100 * MS, 3)
    windows = Windows(np.zeros(2, np.int64), np.zeros(2, np.int64), 100 * MS)
    keep, rows = np.array([[True, True, True], [False, True, True]]), np.array([8, 3, 5], np.int32)
    scheme = PerSpike(order="unit")
    columns = scheme.bake(session, session.observed).columns
    tokens = scheme.cut(columns, windows, keep, rows)
    assert tokens.columns["unit"].tolist() == [8] * 4 + [3] * 2 + [5] * 5 + [3] * 2 + [5] * 5
    assert tokens.columns["type"].tolist() == [1, 0, 0, 2, 1, 2, 1, 0, 0, 0, 2, 1, 2, 1, 0, 0, 0, 2]
    silent, last = [0, 0.1], [0, 0.005, 0.01, 0.099, 0.1]
    wanted = np.float32([0, 0.01, 0.03, 0.1, *silent, *last, *silent, *last])
    np.testing.assert_array_equal(tokens.columns["time"], wanted)
    assert scheme.unit_offsets(tokens, windows, 3, rows).tolist() == [[0, 4, 6, 11], [11, 11, 13, 18]]
    own = scheme.cut(columns, windows, keep)
    assert scheme.unit_offsets(own, windows, 3).tolist() == [[0, 4, 6, 11], [11, 11, 13, 18]]
    bare = PerSpike(start_end=False, order="unit")
    tokens = bare.cut(columns, windows, keep)
    assert tokens.columns["unit"].tolist() == [0, 0, 2, 2, 2, 2, 2, 2]
    assert bare.unit_offsets(tokens, windows, 3).tolist() == [[0, 2, 2, 5], [5, 5, 5, 8]]
    with pytest.raises(UsageError, match="gives two units one row"):
        scheme.unit_offsets(own, windows, 3, np.array([1, 0, 1], np.int32))


# ---- fields, columns ------------------------------------------------------------------------------------------------


def test_fields_that_do_not_go_together_are_refused():
    for values, words in [
        ({"chunk_ns": 50 * MS}, "set start_end to false"),
        ({"chunk_ns": 50 * MS, "start_end": False, "order": "unit"}, "order cannot be 'unit'"),
        ({"chunk_ns": -1}, "chunk_ns is -1, must be a whole number"),
        ({"chunk_ns": 5e7, "start_end": False}, "chunk_ns is 50000000.0, must be a whole number"),
        ({"order": "rate"}, "order is 'rate', must be one of time, unit"),
    ]:
        with pytest.raises(UsageError, match=words):
            PerSpike(**values)
    tokens = PerSpike().cut(*one_window())
    with pytest.raises(UsageError, match="without chunk_ns has no chunks"):
        PerSpike().chunk_offsets(tokens, one_window()[1])
    with pytest.raises(UsageError, match="set order to unit"):
        PerSpike().unit_offsets(tokens, one_window()[1], 3)


def one_window() -> tuple[dict, Windows]:
    columns = PerSpike().bake(golden_session(), golden_segments()).columns
    return columns, Windows(np.array([0]), np.array([0]), 10 * MS)


def test_fields_that_older_manifests_lack_mean_what_they_meant():
    for start_end in (True, False):
        old = {"name": "per-spike", "version": 1, "config": {"start_end": start_end}}
        assert scheme_from_config(old) == PerSpike(start_end=start_end, chunk_ns=0, order="time")


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_the_golden_shard_serves_every_setting(scheme):
    """Fields change the cut, never the columns: today's are those that the golden shard has held since version 1."""
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    baked = scheme.bake(golden_session(), golden_segments())
    assert reader.lost == baked.lost
    assert_same({name: reader.columns[name] for name in baked.columns}, dict(baked.columns))
    first, second = [-10 * MS, 0, 20 * MS - 1, 20 * MS, 20 * MS, 20 * MS, 99_999_999], [99_999_999, 119 * MS]
    assert reader.columns["time_ns"].tolist() == first + second  # the two segments overlap


def test_a_cut_writes_into_wider_whole_numbers():
    """Buffers of the dtypes that torch's embeddings want spare a conversion."""
    columns, window = one_window()
    tokens = PerSpike().cut(columns, window)
    out = {"time": np.empty(8, np.float32), "unit": np.full(8, -1, np.int64), "type": np.full(8, -1, np.int64)}
    PerSpike().fill(columns, window, np.array([1]), out)
    for name, column in out.items():
        np.testing.assert_array_equal(column[1 : 1 + len(tokens.columns[name])], tokens.columns[name])
