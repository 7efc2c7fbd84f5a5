"""Live streams: law 7 over all SCHEMES, what a stream refuses, and the replay of a recording."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.nouns import Intervals, Session, Spikes
from spiketok.tokens.live import Streamer, replay
from spiketok.tokens.schemes import SCHEMES, Binned, PerSpike, Scheme, make_scheme
from spiketok.tokens.schemes.base import Windows
from tests import strategies
from tests.laws import assert_same, token_rows
from tests.made import MS, random_session
from tests.reference import TWINS

VARIANTS = [variant for twin in TWINS.values() for variant in twin.VARIANTS]


def needs_whole_session(scheme: Scheme) -> bool:
    return bool(getattr(scheme, "compat", "") or (scheme.name == "quantized" and scheme.signals))


NOT_LIVE = [scheme for scheme in VARIANTS if needs_whole_session(scheme) or scheme.not_live]
LIVE = [scheme for scheme in VARIANTS if scheme not in NOT_LIVE]
FIRST = list({scheme.name: scheme for scheme in reversed(LIVE)}.values())  # one setting of each scheme


def sessions_of(scheme) -> st.SearchStrategy[Session]:
    return getattr(TWINS[scheme.name], "sessions", strategies.sessions)()


def baked_windows(scheme: Scheme, session: Session, length_ns: int, step_ns: int):
    """What the stream must give: cuts of the whole session's bake, as (start, columns)."""
    whole = Intervals([session.start_ns], [session.stop_ns])
    start = np.arange(session.start_ns, session.stop_ns - length_ns + 1, step_ns)
    windows = Windows(np.zeros(len(start), np.int64), start, length_ns)
    tokens = scheme.cut(scheme.bake(session, whole).columns, windows)
    return [(int(s), token_rows(tokens, b)) for b, s in enumerate(start)]


@st.composite
def pieces(draw, size: int) -> list[slice]:
    """0..size in any number of pieces, empty ones among them."""
    if draw(st.integers(0, 3)) == 0:
        cuts = list(range(size + 1))  # one by one
    else:
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=8)))
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, size], strict=True)]


def drawn_units(draw, spikes: Spikes) -> np.ndarray:
    """The units with ties in another order: a stream need not sort them."""
    shuffled = np.random.default_rng(draw(st.integers(0, 3))).random(len(spikes))
    return spikes.unit[np.lexsort((shuffled, spikes.time_ns))]


def stream(draw, streamer: Streamer, session: Session, names: tuple[str, ...]) -> list:
    """Push a session in drawn pieces: spikes and behaviours interleaved at will, time said to pass where it may."""
    spikes, unit, found = session.spikes, drawn_units(draw, session.spikes), []
    left = {None: draw(pieces(len(spikes))), **{n: draw(pieces(len(session.signals[n].time_ns))) for n in names}}
    time_of = {None: spikes.time_ns, **{n: session.signals[n].time_ns for n in names}}
    while any(left.values()):
        name = draw(st.sampled_from([n for n in left if left[n]]))
        rows = left[name].pop(0)
        if name is None:
            found += streamer.push(spikes.time_ns[rows], unit[rows])
        else:
            signal = session.signals[name]
            found += streamer.push_signal(name, signal.time_ns[rows], signal.value[rows], signal.valid[rows])
        pending = [int(time_of[n][left[n][0].start]) for n in left if left[n] and left[n][0].start < len(time_of[n])]
        latest = min([*pending, session.stop_ns])
        if latest >= streamer.now_ns and draw(st.booleans()):
            found += streamer.advance(draw(st.sampled_from([streamer.now_ns, latest])))
    return found + streamer.finish(session.stop_ns)


def test_every_scheme_can_be_streamed_with_its_default_fields():
    assert {scheme.name for scheme in LIVE} == set(SCHEMES) - {"frames"}  # pictures are planned, not streamed


@pytest.mark.parametrize("scheme", NOT_LIVE, ids=str)
def test_tokens_that_depend_on_the_whole_session_are_refused(scheme):
    with pytest.raises(UsageError, match=f"scheme {scheme.name} cannot be streamed like this"):
        Streamer(scheme, plan(), scheme.length_grid_ns)


@pytest.mark.parametrize(
    "scheme", [s if s in FIRST else pytest.param(s, marks=pytest.mark.long) for s in LIVE], ids=str
)
@settings(max_examples=20)
@given(data=st.data())
def test_any_cutting_of_the_stream_gives_the_bytes_of_the_shard(scheme, data):
    """Law 7."""
    session = data.draw(sessions_of(scheme))
    grid, most = scheme.length_grid_ns, session.stop_ns - session.start_ns
    least, longest = max(1, 12_000_000 // grid), max(1, most // grid)
    length = scheme.window_ns or grid * data.draw(st.integers(least, max(least, longest)))
    step = data.draw(st.sampled_from([length, scheme.grid_ns * max(1, 7_000_000 // scheme.grid_ns), 2 * length]))
    names = scheme.signals_read
    assume(scheme.grid_ns == 1 or all(len(session.signals[n].time_ns) > 1 for n in names))  # else no period is known
    streamer = Streamer(scheme, session, length, step_ns=step)
    found = stream(data.draw, streamer, session, names)
    wanted = baked_windows(scheme, session, length, step)
    assert [start for start, _ in found] == [start for start, _ in wanted]
    for (_, tokens), (_, columns) in zip(found, wanted, strict=True):
        assert_same(tokens.columns, columns)
        assert tokens.offset.tolist() == [0, len(next(iter(columns.values())))]
    covered = Intervals([start for start, _ in wanted], [start + length for start, _ in wanted]).union()
    inside = sum(len(session.spikes.window(a, b)) for a, b in zip(covered.start_ns, covered.stop_ns, strict=True))
    assert streamer.n_spikes == len(session.spikes)
    assert streamer.n_outside == len(session.spikes) - inside


def plan(n_units: int = 3, start_ns: int = 0, stop_ns: int = 1000 * MS) -> Session:
    session = random_session("live", 1, n_units=n_units, seconds=1.0)
    return replace(session, start_ns=start_ns, stop_ns=stop_ns, observed=Intervals([start_ns], [stop_ns]))


def test_a_window_comes_when_nothing_before_its_stop_can_come_any_more():
    streamer = Streamer(PerSpike(start_end=False), plan(), 50 * MS)
    assert streamer.push(np.array([10 * MS, 50 * MS - 1]), np.array([0, 1], np.int32)) == []
    assert streamer.advance(50 * MS - 1) == []
    (first,) = streamer.push(np.array([50 * MS]), np.array([2], np.int32))  # on the border: it ends the first window
    assert first[0] == 0
    np.testing.assert_array_equal(first[1].columns["unit"], [0, 1])
    np.testing.assert_array_equal(first[1].columns["time"], np.array([0.01, 0.049999999], np.float32))
    (second,) = streamer.advance(100 * MS)
    assert second[0] == 50 * MS
    np.testing.assert_array_equal(second[1].columns["unit"], [2])
    empty = streamer.push(np.zeros(0, np.int64), np.zeros(0, np.int32), 219 * MS)
    assert [start // MS for start, _ in empty] == [100, 150]
    assert all(tokens.offset[-1] == 0 for _, tokens in empty)
    assert [start // MS for start, _ in streamer.finish(250 * MS)] == [200]
    assert (streamer.n_spikes, streamer.n_outside) == (3, 0)


def test_spikes_behind_the_last_window_and_between_windows_are_counted():
    streamer = Streamer(Binned(10 * MS), plan(), 20 * MS, step_ns=50 * MS)
    time_ns = np.array([5, 25, 30, 55, 69, 70, 105]) * MS
    done = streamer.push(time_ns, np.zeros(7, np.int32)) + streamer.finish(110 * MS)
    assert [int(tokens.columns["counts"].sum()) for _, tokens in done] == [1, 2]
    assert streamer.n_outside == 4


def test_ties_split_between_pieces_stand_in_order_of_unit():
    streamer = Streamer(PerSpike(start_end=False), plan(), 10 * MS)
    for unit in (2, 0, 1, 0):
        streamer.push(np.array([MS]), np.array([unit], np.int32))
    ((_, tokens),) = streamer.finish(10 * MS)
    np.testing.assert_array_equal(tokens.columns["unit"], [0, 0, 1, 2])


def test_what_is_kept_does_not_grow_with_the_stream():
    streamer = Streamer(PerSpike(), plan(), 10 * MS)
    for k in range(300):
        streamer.push(np.arange(1000) * 10_000 + k * 10 * MS, np.zeros(1000, np.int32))
        assert len(streamer._spikes["time_ns"]) <= 2000
        assert len(streamer._spikes["time_ns"].base) <= 8192


def test_what_a_stream_cannot_take_is_refused():
    one, row = np.array([30 * MS]), np.array([0], np.int32)
    streamer = Streamer(PerSpike(), plan(start_ns=-10 * MS), 50 * MS)
    with pytest.raises(UsageError, match="-10000001 ns comes when the stream is at -10000000 ns"):
        streamer.push(np.array([-10 * MS - 1]), row)
    streamer.push(one, row)
    with pytest.raises(UsageError, match="29999999 ns comes when the stream is at 30000000 ns"):
        streamer.push(one - 1, row)
    with pytest.raises(UsageError, match="32000000 ns comes after one at 33000000 ns"):
        streamer.push(np.array([31, 33, 32]) * MS, np.zeros(3, np.int32))
    with pytest.raises(UsageError, match="cannot go back to 29999999 ns"):
        streamer.advance(30 * MS - 1)
    for unit in (-1, 3):
        with pytest.raises(DataError, match=f"unit row {unit} in a table of 3"):
            streamer.push(one, np.array([unit], np.int32))
    for time_ns, unit in ((one * 1.0, row), (one, row * 1.0), (one, row[:0]), (one[None], row[None])):
        with pytest.raises(UsageError, match="must be whole numbers"):
            streamer.push(time_ns, unit)
    with pytest.raises(UnknownNameError, match="behaviour 'vel'"):
        streamer.push_signal("vel", one, np.zeros((1, 2), np.float32), np.ones(1, bool))
    with pytest.raises(UsageError, match="cannot stop at 30000000 ns"):
        streamer.finish(30 * MS)
    assert streamer.n_spikes == 1
    (window,) = streamer.finish(40 * MS)
    assert window[1].columns["unit"].tolist() == [0, 0, 1, 1, 2, 2, 0]
    for call in (lambda: streamer.push(one, row), lambda: streamer.advance(50 * MS), lambda: streamer.finish(50 * MS)):
        with pytest.raises(UsageError, match="was finished at 40000000 ns"):
            call()


@pytest.mark.parametrize(
    ("scheme", "length", "step", "reason"),
    [
        (Binned(20 * MS), 50 * MS, None, "positive multiple of the 20000000 ns of scheme binned"),
        (Binned(20 * MS), 40 * MS, 30 * MS, "steps of 30000000 ns"),
        (Binned(20 * MS), 40 * MS, 0, "steps of 0 ns"),
        (Binned(20 * MS), None, None, "say how long"),
        (PerSpike(), 0, MS, "windows of 0 ns"),
    ],
)
def test_windows_that_do_not_fit_the_scheme_are_refused_before_the_first_spike(scheme, length, step, reason):
    with pytest.raises(UsageError, match=reason):
        Streamer(scheme, plan(), length, step_ns=step)


def test_replay_plays_every_spike_and_measures_every_window():
    session, seen = random_session("replayed", 3, seconds=1.0), []
    done = replay(session, Binned(10 * MS), length_ns=40 * MS, on_window=lambda *window: seen.append(window))
    wanted = baked_windows(Binned(10 * MS), session, 40 * MS, 40 * MS)
    assert (done.n_windows, done.n_tokens, done.n_spikes) == (25, 100, len(session.spikes))
    assert (done.length_ns, done.step_ns, done.n_outside, done.recording_s) == (40 * MS, 40 * MS, 0, 1.0)
    for (start, tokens), (wanted_start, columns) in zip(seen, wanted, strict=True):
        assert start == wanted_start
        assert_same(tokens.columns, columns)
    p = done.latency_us
    assert 0 < p["p50"] <= p["p90"] <= p["p99"] <= p["max"]
    assert done.late_ms == {}


def test_replay_in_real_time_is_not_faster_than_the_recording():
    session = random_session("replayed", 3, seconds=0.4)
    done = replay(session, PerSpike(), length_ns=40 * MS, speed=2.0, piece_ns=5 * MS)
    assert done.wall_s >= 0.2
    assert done.n_windows == 10
    assert done.late_ms["max"] >= done.late_ms["p50"] > 0
    for values in ({"speed": 0.0}, {"speed": -1.0}, {"piece_ns": 0}):
        with pytest.raises(UsageError, match="above 0"):
            replay(session, PerSpike(), length_ns=40 * MS, **values)


LOOKING_BACK = [
    Binned(10 * MS),
    PerSpike(start_end=False),
    make_scheme("neuron", bin_ns=10 * MS, view="history", history_bins=7),
    make_scheme("event-pair", current_ns=40 * MS, history_ns=120 * MS),
]


@pytest.mark.parametrize("scheme", LOOKING_BACK, ids=str)
@pytest.mark.parametrize("begins", [0, 90, 300], ids="{} ms before".format)
def test_a_first_window_looks_back_at_what_came_before_it_and_a_last_one_is_flush(scheme, begins):
    """The bytes of a shard whose segment reaches as far back, or farther than any window looks."""
    session, length, step, first = random_session("live", 2, n_units=4, seconds=1.0), 40 * MS, 30 * MS, 400 * MS
    streamer = Streamer(scheme, session, length, step_ns=step, start_ns=first - begins * MS, first_ns=first)
    rows = slice(*np.searchsorted(session.spikes.time_ns, [first - begins * MS, 780 * MS]))
    time_ns, unit = session.spikes.time_ns[rows], session.spikes.unit[rows]
    found = streamer.push(time_ns[:40], unit[:40]) + streamer.push(time_ns[40:], unit[40:])
    found += streamer.finish(780 * MS, flush_ns=780 * MS)
    start = [*range(first, 780 * MS - length, step), 780 * MS - length]
    assert [at for at, _ in found] == start
    segment = Intervals([0 if begins == 300 else first - begins * MS], [780 * MS])
    windows = Windows(np.zeros(len(start), np.int64), np.array(start), length)
    wanted = scheme.cut(scheme.bake(session, segment).columns, windows)
    for b, (_, tokens) in enumerate(found):
        assert_same(tokens.columns, token_rows(wanted, b))
    held = int((time_ns >= first).sum())
    assert (streamer.n_spikes, streamer.n_outside) == (len(time_ns), len(time_ns) - held)


def test_a_first_window_is_on_the_grid_and_a_flush_one_comes_only_where_time_is_over():
    with pytest.raises(UsageError, match="must be on the 10000000 ns grid"):
        Streamer(Binned(10 * MS), plan(), 20 * MS, start_ns=0, first_ns=5 * MS)
    with pytest.raises(UsageError, match="first window begins at -10000000 ns"):
        Streamer(Binned(10 * MS), plan(), 20 * MS, start_ns=0, first_ns=-10 * MS)
    for stop, starts in ((40, [0, 20]), (50, [0, 20, 30]), (10, [])):
        done = Streamer(Binned(10 * MS), plan(), 20 * MS).finish(stop * MS, flush_ns=stop * MS)
        assert [start // MS for start, _ in done] == starts


def test_a_replay_leaves_out_what_lies_alone_before_the_session():
    """A spike before the extent, as a filler far before the recording: the stream begins where the session does."""
    session = random_session("a", 3)
    early = replace(
        session,
        spikes=Spikes(
            np.concatenate([[session.start_ns - 10**12], session.spikes.time_ns]),
            np.concatenate([[0], session.spikes.unit]).astype(np.int32),
        ),
    )
    plain, found = (replay(one, Binned(bin_ns=10 * MS), length_ns=100 * MS) for one in (session, early))
    assert (found.n_spikes, found.n_windows, found.n_tokens) == (plain.n_spikes, plain.n_windows, plain.n_tokens)
