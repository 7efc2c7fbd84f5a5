"""The laws of ``schemes/base.py`` over all SCHEMES; what a scheme promises besides is in its own file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, Stimulus, UnitTable
from spiketok.storage.store import session_info
from spiketok.tokens import schemes as package
from spiketok.tokens.schemes import SCHEMES, make_scheme, scheme_config, scheme_from_config
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import plan_bytes
from tests import strategies
from tests.laws import assert_same, cut_one, of_all_units, one, token_rows, wanted_tokens
from tests.made import random_session
from tests.reference import TWINS
from tests.strategies import SOURCE, all_segments, keeps, windows

VARIANTS = [variant for twin in TWINS.values() for variant in twin.VARIANTS]
PLAIN = [twin.VARIANTS[0] for twin in TWINS.values()]


def sessions_of(scheme) -> st.SearchStrategy[Session]:
    """Sessions that the scheme can serve."""
    return getattr(TWINS[scheme.name], "sessions", strategies.sessions)()


def test_every_scheme_has_a_twin():
    assert set(TWINS) == set(SCHEMES)
    assert all(v.name == name for name, twin in TWINS.items() for v in twin.VARIANTS)


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_cut_equals_reference_and_no_window_depends_on_another(scheme, data):
    """Laws 1, 2 and 6: exact tokens, with unit dropout and a vocabulary's rows, alone and among others."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    columns = scheme.bake(session, segments).columns
    window = data.draw(windows(segments, scheme))
    keep = data.draw(keeps(len(window), len(session.units)))
    unit_row = data.draw(st.sampled_from([None, np.arange(len(session.units), dtype=np.int32)[::-1] * 3 + 5]))
    tokens = scheme.cut(columns, window, keep, unit_row)
    assert tokens.offset.dtype == np.int64
    assert {len(column) for column in tokens.columns.values()} == {tokens.offset[-1]}
    np.testing.assert_array_equal(np.diff(tokens.offset), scheme.lengths(columns, window, keep))
    assert scheme.empty(tokens).shape == (tokens.offset[-1],)
    for b in range(len(window)):
        wanted = wanted_tokens(scheme, session, segments, window, b, keep, unit_row)
        assert_same(token_rows(tokens, b), wanted)
        assert_same(cut_one(scheme, columns, window, b, keep, unit_row).columns, wanted)


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_fill_writes_only_its_own_rows(scheme, data):
    """Windows may be filled in any order into buffers that hold other things."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    columns = scheme.bake(session, segments).columns
    window = data.draw(windows(segments, scheme))
    keep = data.draw(keeps(len(window), len(session.units)))
    length = scheme.lengths(columns, window, keep)
    row = 3 + np.concatenate([[0], np.cumsum(length + 2)])[:-1].astype(np.int64)
    total = int((length + 2).sum()) + 6
    outputs = scheme.outputs(columns, window.length_ns)
    out = {name: np.full((total, *item), 99, dtype) for name, (dtype, item) in outputs.items()}
    scheme.fill(columns, window, row, out, keep)
    free = np.ones(total, np.bool_)
    for b in range(len(window)):
        own = slice(row[b], row[b] + length[b])
        assert_same({n: c[own] for n, c in out.items()}, wanted_tokens(scheme, session, segments, window, b, keep))
        free[own] = False
    assert all((column[free] == 99).all() for column in out.values())


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_no_spike_is_invented_and_the_lost_are_counted(scheme, data):
    """Law 3, for each segment and for the whole."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    baked = scheme.bake(session, segments)
    times = session.spikes.time_ns.tolist()
    pairs = list(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True))
    reached = sum(any(a <= t < z for a, z in pairs) for t in times)
    assert baked.lost["outside_segments"] == len(times) - reached
    TWINS[scheme.name].check_bake(scheme, session, segments, baked)


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_tokens_survive_detokenize(scheme, data):
    """Law 4: a session made of a window's detokenized spikes gives the same tokens, dropout included."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    window = data.draw(windows(segments, scheme))
    keep = data.draw(keeps(len(window), len(session.units)))
    tokens = scheme.cut(scheme.bake(session, segments).columns, window, keep)
    back = scheme.detokenize(tokens, window)
    assert len(back) == len(window)
    for b, known in enumerate(back):
        start, stop = window.start_ns[b] - scheme.lookback_ns, window.start_ns[b] + window.length_ns
        assert ((known.time_ns >= start) & (known.time_ns < stop)).all()
        if isinstance(known, Signal):
            known = of_all_units(known, len(session.units))
            again = replace(session, signals={**session.signals, scheme.signal: known})
        elif isinstance(known, Stimulus):
            again = replace(session, stimuli=dict.fromkeys(session.stimuli, known))
        else:
            assert isinstance(known, Spikes)
            again = replace(session, spikes=known)
        found = cut_one(scheme, scheme.bake(again, segments).columns, window, b, keep)
        assert_same(found.columns, token_rows(tokens, b))


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_scheme_is_its_json(scheme):
    """Law 5."""
    assert type(scheme)(**json.loads(json.dumps(asdict(scheme)))) == scheme
    assert scheme_from_config(json.loads(json.dumps(scheme_config(scheme)))) == scheme
    assert eval(repr(scheme), vars(package)) == scheme
    assert hash(scheme) == hash(scheme_from_config(scheme_config(scheme)))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_every_scheme_says_what_it_is(scheme):
    assert scheme.readers and all((scheme.token, scheme.keeps, scheme.loses))


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_same_bytes_in_any_thread(scheme, data):
    """Law 7: baking and cutting in threads beside others, and in pieces, gives the same bytes."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    baked = scheme.bake(session, segments)
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda _: scheme.bake(session, segments), range(3)))
        window = data.draw(windows(segments, scheme))
        pieces = list(pool.map(lambda b: scheme.cut(baked.columns, one(window, b)), range(len(window))))
    for other in others:
        assert other.lost == baked.lost
        assert_same(other.columns, baked.columns)
    whole = scheme.cut(baked.columns, window)
    for b, piece in enumerate(pieces):
        assert_same(piece.columns, token_rows(whole, b))


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_plan_bounds_the_bake(scheme, data):
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    info = session_info(session)
    plan, columns = scheme.plan(info, segments), scheme.bake(session, segments).columns
    assert columns.keys() <= plan.keys()
    for name, column in columns.items():
        assert (column.dtype, column.shape[1:]) == (plan[name].dtype, plan[name].item), name
        assert len(column) <= plan[name].rows, name
        assert not column.flags.writeable
    assert plan_bytes(scheme, info, segments) >= sum(c.nbytes for c in columns.values())


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_a_window_outside_its_segment_or_off_the_grid_is_refused(scheme):
    length, grid = scheme.window_ns or scheme.length_grid_ns, scheme.grid_ns
    far = 10 * max(length, 100_000_000)
    whole = Intervals([0, far + grid], [far, 2 * far])
    columns = scheme.bake(small_session(scheme, 2 * far), whole).columns
    last = (far - length) // grid * grid
    wrong = [(0, -grid, length), (0, last + grid, length), (1, 0, length), (2, 0, length), (-1, 0, length), (0, 0, 0)]
    if grid > 1:
        wrong += [(0, 1, length)]
    if scheme.length_grid_ns > 1:
        wrong += [(0, 0, length + 1)]
    if scheme.window_ns:
        wrong += [(0, 0, length + scheme.length_grid_ns)]
    for segment, start, size in wrong:
        with pytest.raises(UsageError, match="window"):
            scheme.cut(columns, Windows(np.array([segment]), np.array([start]), size))


def small_session(scheme, stop_ns: int) -> Session:
    """Two units without a spike, and a calcium signal of both for the scheme that reads one."""
    whole = Intervals([0], [stop_ns])
    frames = Signal(np.array([5, 10]), np.ones((2, 2), np.float32), ("u", "v"), "", np.ones(2, np.bool_))
    units, none = UnitTable(["u", "v"]), Spikes.from_units([])
    session = Session("a/b", "", 0, stop_ns, units, none, whole, SOURCE, signals={"fluorescence": frames})
    return getattr(TWINS[scheme.name], "dressed", lambda s: s)(session)


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
def test_keep_and_unit_row_that_do_not_fit_are_refused(scheme):
    """A kernel would read behind the end of its arrays."""
    length = scheme.window_ns or scheme.length_grid_ns
    columns = scheme.bake(small_session(scheme, length), Intervals([0], [length])).columns
    window = Windows(np.array([0]), np.array([0]), length)
    for keep in (np.ones((1, 1), bool), np.ones((2, 2), bool), np.ones(2, bool), np.ones((1, 2), np.uint8)):
        with pytest.raises(UsageError, match="keep is"):
            scheme.cut(columns, window, keep)
    if "unit" in scheme.outputs(columns, length):
        for unit_row in (np.zeros(1, np.int32), np.zeros(2, np.int64)):
            with pytest.raises(UsageError, match="unit_row is"):
                scheme.cut(columns, window, None, unit_row)


# ---- the registry ---------------------------------------------------------------------------------------------------


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'binned'"):
        make_scheme("bined")
    with pytest.raises(UnknownNameError, match="field 'bin_ms' in binned: did you mean 'bin_ns'"):
        make_scheme("binned", bin_ms=20)
    for value in (2.5, True, "20ms"):
        with pytest.raises(UsageError, match=f"binned.bin_ns is {value!r}, expected int"):
            make_scheme("binned", bin_ns=value)
    with pytest.raises(UsageError, match="whole number"):
        make_scheme("binned", bin_ns=0)
    assert make_scheme("quantized", signals="hand_vel,hand_pos").signals == ("hand_vel", "hand_pos")
    assert make_scheme("quantized", signals=["hand_vel"]) == make_scheme("quantized", signals=("hand_vel",))
    with pytest.raises(UsageError, match="true or false"):
        make_scheme("per-spike", start_end=1)


def test_another_version_of_a_scheme_is_refused():
    with pytest.raises(ArtefactError, match="version 9 there, this spiketok has 1"):
        scheme_from_config({"name": "binned", "version": 9, "config": {"bin_ns": 1}})


LOOKING_BACK = [v for v in [*VARIANTS, *(scheme() for scheme in SCHEMES.values())] if v.lookback_ns]


def test_four_schemes_look_back():
    assert {scheme.name for scheme in LOOKING_BACK} == {"event-pair", "neuron", "frames", "fine-time"}


@pytest.mark.parametrize("scheme", LOOKING_BACK, ids=str)
def test_no_spike_of_a_gap_is_in_a_history(scheme):
    """Behind a gap, and with a window that begins in it: the tokens are those of a session that has no spike there.

    A series that says of each bin whether it was observed may have counts where it was not; and where the history
    would reach over the gap to spikes before it, it must say of the gap that it was one.
    """
    session = random_session("gap", 3, n_units=3, rate_hz=300.0)
    start, stop = int(session.observed.stop_ns[0]), int(session.observed.start_ns[1])
    time_ns = session.spikes.time_ns
    outside = (time_ns < start) | (time_ns >= stop)
    assert (~outside).sum() > 50
    movie = Stimulus(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), [0], [session.stop_ns], np.array([1], np.int32))
    session = replace(session, stimuli={"movie": movie})
    quiet = replace(session, spikes=Spikes(time_ns[outside], session.spikes.unit[outside]))
    segments = Intervals([session.start_ns], [session.stop_ns])
    grid = scheme.grid_ns
    first = -(-stop // grid) * grid
    behind = first + np.arange(0, scheme.lookback_ns + 2 * grid, grid)[:400]
    length = scheme.window_ns or scheme.length_grid_ns
    window = Windows(np.zeros(len(behind), np.int64), behind[behind + length <= session.stop_ns], length)
    window = Windows(window.segment[: len(window.start_ns)], window.start_ns, length)
    tokens = [scheme.cut(scheme.bake(of, segments).columns, window).columns for of in (session, quiet)]
    for told in tokens:
        if "series" in told:
            told["series"] = told["series"] * told["observed"]
        if scheme.name == "fine-time":
            flags = told.pop("unit_observed", told["observed"][:, None])
            told.update({name: column * flags for name, column in told.items() if column.ndim == 2})
    assert_same(*tokens)
    if scheme.name == "event-pair":  # and nothing from before the gap, whose length it cannot say
        bare = replace(quiet, spikes=Spikes(time_ns[time_ns >= stop], session.spikes.unit[time_ns >= stop]))
        assert_same(tokens[0], scheme.cut(scheme.bake(bare, segments).columns, window).columns)
