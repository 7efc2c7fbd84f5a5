"""The laws of ``schemes/base.py`` over all SCHEMES; what a scheme promises besides is in its own file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, Stimulus, UnitTable
from spiketok.testing import schemes as laws
from spiketok.tokens import schemes as package
from spiketok.tokens.schemes import SCHEMES, make_scheme, scheme_from_config
from spiketok.tokens.schemes.base import Windows
from tests import strategies
from tests.laws import assert_same, cut_one, token_rows, wanted_tokens
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
    window = data.draw(windows(segments, scheme))
    keep = data.draw(keeps(len(window), len(session.units)))
    unit_row = data.draw(st.sampled_from([None, laws.other_rows(session)]))
    laws.windows_are_alone(scheme, session, segments, window, keep, unit_row)
    columns = scheme.bake(session, segments).columns
    tokens = scheme.cut(columns, window, keep, unit_row)
    for b in range(len(window)):
        wanted = wanted_tokens(scheme, session, segments, window, b, keep, unit_row)
        assert_same(token_rows(tokens, b), wanted)
        assert_same(cut_one(scheme, columns, window, b, keep, unit_row).columns, wanted)


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_fill_writes_only_its_own_rows(scheme, data):
    """Windows may be filled in any order into buffers that hold other things."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    window = data.draw(windows(segments, scheme))
    keep = data.draw(keeps(len(window), len(session.units)))

    def wanted(b: int) -> dict[str, np.ndarray]:
        return wanted_tokens(scheme, session, segments, window, b, keep)

    laws.fill_writes_its_own_rows(scheme, session, segments, window, keep, wanted)


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_no_spike_is_invented_and_the_lost_are_counted(scheme, data):
    """Law 3, for each segment and for the whole."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    laws.spikes_are_counted(scheme, session, segments)
    TWINS[scheme.name].check_bake(scheme, session, segments, scheme.bake(session, segments))


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_tokens_survive_detokenize(scheme, data):
    """Law 4: a session made of a window's detokenized spikes gives the same tokens, dropout included."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    window = data.draw(windows(segments, scheme))
    laws.tokens_survive_detokenize(scheme, session, segments, window, data.draw(keeps(len(window), len(session.units))))


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_scheme_is_its_json(scheme):
    """Law 5."""
    laws.is_its_json(scheme)
    assert eval(repr(scheme), vars(package)) == scheme


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_every_scheme_says_what_it_is(scheme):
    laws.says_what_it_is(scheme)


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_same_bytes_in_any_thread(scheme, data):
    """Law 7: baking and cutting in threads beside others, and in pieces, gives the same bytes."""
    session, segments = data.draw(sessions_of(scheme)), data.draw(all_segments())
    laws.threads_change_nothing(scheme, session, segments, data.draw(windows(segments, scheme)))


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_plan_bounds_the_bake(scheme, data):
    laws.plan_bounds_the_bake(scheme, data.draw(sessions_of(scheme)), data.draw(all_segments()))


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_a_window_outside_its_segment_or_off_the_grid_is_refused(scheme):
    laws.misplaced_windows_are_refused(scheme, lambda stop_ns: small_session(scheme, stop_ns))


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
    laws.misfit_units_are_refused(scheme, lambda stop_ns: small_session(scheme, stop_ns))


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
