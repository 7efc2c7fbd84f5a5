"""The laws of ``schemes/base.py`` over all SCHEMES, and what each scheme promises besides."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
import reference
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import SOURCE, all_segments, keeps, sessions, windows

from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.recording import Intervals, Ragged, Session, Spikes, UnitTable
from spiketok.schemes import SCHEMES, Binned, PerSpike, make_scheme, scheme_config, scheme_from_config
from spiketok.schemes.base import Tokens, Windows
from spiketok.shards import plan_bytes
from spiketok.store import session_info

VARIANTS = [Binned(), Binned(7_000_001), PerSpike(), PerSpike(start_end=False)]
PLAIN = [Binned(), PerSpike()]


def expected(scheme, session: Session, segments: Intervals, window: Windows, b: int, keep=None, unit_row=None):
    """What the reference tokenizer says of window b."""
    start, own = int(window.start_ns[b]), None if keep is None else keep[b].tolist()
    rows = None if unit_row is None else unit_row.tolist()
    if scheme.name == "binned":
        g = window.segment[b]
        segment = (int(segments.start_ns[g]), int(segments.stop_ns[g]))
        return reference.binned_window(session, segment, start, window.length_ns, scheme.bin_ns, own)
    return reference.per_spike_window(session, start, window.length_ns, scheme.start_end, own, rows)


def token_rows(tokens: Tokens, b: int) -> dict[str, np.ndarray]:
    return {name: column[tokens.offset[b] : tokens.offset[b + 1]] for name, column in tokens.columns.items()}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def one(windows: Windows, b: int) -> Windows:
    return Windows(windows.segment[b : b + 1], windows.start_ns[b : b + 1], windows.length_ns)


def test_variants_cover_every_scheme():
    assert {scheme.name for scheme in VARIANTS} == set(SCHEMES)


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_cut_equals_reference_and_no_window_depends_on_another(scheme, data):
    """Laws 1, 2 and 6: exact tokens, with unit dropout and a vocabulary's rows, alone and among others."""
    session, segments = data.draw(sessions()), data.draw(all_segments())
    columns = scheme.bake(session, segments).columns
    window = data.draw(windows(segments, scheme.grid_ns))
    keep = data.draw(keeps(len(window), len(session.units)))
    unit_row = data.draw(st.sampled_from([None, np.arange(len(session.units), dtype=np.int32)[::-1] * 3 + 5]))
    tokens = scheme.cut(columns, window, keep, unit_row)
    assert tokens.offset.dtype == np.int64
    assert tokens.offset[-1] == len(next(iter(tokens.columns.values())))
    np.testing.assert_array_equal(np.diff(tokens.offset), scheme.lengths(columns, window, keep))
    for b in range(len(window)):
        wanted = expected(scheme, session, segments, window, b, keep, unit_row)
        assert_same(token_rows(tokens, b), wanted)
        alone = scheme.cut(columns, one(window, b), None if keep is None else keep[b : b + 1], unit_row)
        assert_same(alone.columns, wanted)


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_fill_writes_only_its_own_rows(scheme, data):
    """Windows may be filled in any order into buffers that hold other things."""
    session, segments = data.draw(sessions()), data.draw(all_segments())
    columns = scheme.bake(session, segments).columns
    window = data.draw(windows(segments, scheme.grid_ns))
    keep = data.draw(keeps(len(window), len(session.units)))
    length = scheme.lengths(columns, window, keep)
    row = 3 + np.concatenate([[0], np.cumsum(length + 2)])[:-1].astype(np.int64)
    total = int((length + 2).sum()) + 6
    out = {name: np.full((total, *item), 99, dtype) for name, (dtype, item) in scheme.outputs(columns).items()}
    scheme.fill(columns, window, row, out, keep)
    free = np.ones(total, np.bool_)
    for b in range(len(window)):
        own = slice(row[b], row[b] + length[b])
        assert_same({n: c[own] for n, c in out.items()}, expected(scheme, session, segments, window, b, keep))
        free[own] = False
    assert all((column[free] == 99).all() for column in out.values())


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(session=sessions(), segments=all_segments())
def test_no_spike_is_invented_and_the_lost_are_counted(scheme, session, segments):
    """Law 3, for each segment and for the whole."""
    baked = scheme.bake(session, segments)
    inside = [
        [
            (t, u)
            for t, u in zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
            if a <= t < z
        ]
        for a, z in zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)
    ]
    reached = {k for k, t in enumerate(session.spikes.time_ns.tolist()) if _in_any(t, segments)}
    assert baked.lost["outside_segments"] == len(session.spikes) - len(reached)
    row, saturated = baked.columns["segment.row"], 0
    for g, spikes in enumerate(inside):
        rows = slice(row[g], row[g + 1])
        if scheme.name == "binned":
            start, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
            wanted = reference.binned_segment(session, start, stop, scheme.bin_ns)
            exact = wanted.pop("counts")
            np.testing.assert_array_equal(baked.columns["counts"][rows], np.minimum(exact, 255))
            assert_same({name: baked.columns[name][rows] for name in wanted}, wanted)
            saturated += int((exact - np.minimum(exact, 255)).sum())
            assert exact.sum() == len(spikes)
        else:
            found = zip(baked.columns["time_ns"][rows].tolist(), baked.columns["unit"][rows].tolist(), strict=True)
            assert list(found) == spikes
    assert baked.lost.get("saturated", 0) == saturated


def _in_any(t: int, segments: Intervals) -> bool:
    return any(a <= t < z for a, z in zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True))


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
@given(data=st.data())
def test_tokens_survive_detokenize(scheme, data):
    """Law 4: a session made of a window's detokenized spikes gives the same tokens, dropout included."""
    session, segments = data.draw(sessions()), data.draw(all_segments())
    window = data.draw(windows(segments, scheme.grid_ns))
    keep = data.draw(keeps(len(window), len(session.units)))
    tokens = scheme.cut(scheme.bake(session, segments).columns, window, keep)
    back = scheme.detokenize(tokens, window)
    assert len(back) == len(window)
    for b, spikes in enumerate(back):
        stop = window.start_ns[b] + window.length_ns
        assert ((spikes.time_ns >= window.start_ns[b]) & (spikes.time_ns < stop)).all()
        again = scheme.bake(replace(session, spikes=spikes), segments)
        own = None if keep is None else keep[b : b + 1]
        assert_same(scheme.cut(again.columns, one(window, b), own).columns, token_rows(tokens, b))


@example(1_000_000_000, [(9, 3), (2, 1), (1, 0)])  # the nearest nanosecond is the window's last, and two must follow
@given(
    st.one_of(st.sampled_from([1, 10**9, 10**10]), st.integers(5 * 10**8, 4 * 10**11)),
    st.lists(
        st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 3_000_000)), st.integers(0, 3)), min_size=1, max_size=60
    ),
)
def test_per_spike_law_4_where_float32_cannot_tell_spikes_apart(length, close):
    """Many spikes within one float32 step, up to the last nanosecond of windows of up to 400 s."""
    pairs = sorted((max(0, length - 1 - back), unit) for back, unit in close)
    spikes = Spikes(np.array([t for t, _ in pairs]), np.array([u for _, u in pairs], np.int32))
    whole = Intervals([0], [length])
    session = Session("made/one", "s", 0, length, UnitTable(np.arange(4)), spikes, whole, SOURCE)
    window, scheme = Windows(np.array([0]), np.array([0]), length), PerSpike()
    tokens = scheme.cut(scheme.bake(session, whole).columns, window)
    (back,) = scheme.detokenize(tokens, window)
    again = scheme.cut(scheme.bake(replace(session, spikes=back), whole).columns, window)
    assert_same(again.columns, tokens.columns)
    step_ns = float(np.spacing(np.float32(length * 1e-9))) * 1e9
    assert np.abs(back.time_ns - spikes.time_ns).max() <= step_ns + 1


@pytest.mark.parametrize("scheme", VARIANTS, ids=str)
def test_scheme_is_its_json(scheme):
    """Law 5."""
    assert type(scheme)(**json.loads(json.dumps(asdict(scheme)))) == scheme
    assert scheme_from_config(json.loads(json.dumps(scheme_config(scheme)))) == scheme
    assert eval(repr(scheme), {"Binned": Binned, "PerSpike": PerSpike}) == scheme


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(data=st.data())
def test_same_bytes_in_any_thread(scheme, data):
    """Law 7: baking and cutting in threads beside others, and in pieces, gives the same bytes."""
    session, segments = data.draw(sessions()), data.draw(all_segments())
    baked = scheme.bake(session, segments)
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda _: scheme.bake(session, segments), range(3)))
        window = data.draw(windows(segments, scheme.grid_ns))
        pieces = list(pool.map(lambda b: scheme.cut(baked.columns, one(window, b)), range(len(window))))
    for other in others:
        assert other.lost == baked.lost
        assert_same(other.columns, baked.columns)
    whole = scheme.cut(baked.columns, window)
    for b, piece in enumerate(pieces):
        assert_same(piece.columns, token_rows(whole, b))


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@given(session=sessions(), segments=all_segments())
def test_plan_bounds_the_bake(scheme, session, segments):
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
    whole = Intervals([0, 300_000_000], [200_000_000, 400_000_000])
    session = Session("a/b", "", 0, 400_000_000, UnitTable(["u"]), Spikes.from_units([np.array([5])]), whole, SOURCE)
    columns, grid = scheme.bake(session, whole).columns, scheme.grid_ns
    wrong = [(0, -grid, grid), (0, 200_000_000, grid), (1, 0, grid), (2, 0, grid), (-1, 0, grid), (0, 0, 0)]
    if grid > 1:
        wrong += [(0, 1, grid), (0, 0, grid + 1)]
    for segment, start, length in wrong:
        with pytest.raises(UsageError, match="window"):
            scheme.cut(columns, Windows(np.array([segment]), np.array([start]), length))


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
def test_keep_and_unit_row_that_do_not_fit_are_refused(scheme):
    """A kernel would read behind the end of its arrays."""
    whole = Intervals([0], [200_000_000])
    session = Session("a/b", "", 0, 200_000_000, UnitTable(["u", "v"]), Spikes.from_units([]), whole, SOURCE)
    columns, window = scheme.bake(session, whole).columns, Windows(np.array([0]), np.array([0]), 20_000_000)
    for keep in (np.ones((1, 1), bool), np.ones((2, 2), bool), np.ones(2, bool), np.ones((1, 2), np.uint8)):
        with pytest.raises(UsageError, match="keep is"):
            scheme.cut(columns, window, keep)
    if scheme.name == "per-spike":
        for unit_row in (np.zeros(1, np.int32), np.zeros(2, np.int64)):
            with pytest.raises(UsageError, match="unit_row is"):
                scheme.cut(columns, window, None, unit_row)


# ---- binned ---------------------------------------------------------------------------------------------------------


def test_binned_counts_on_edges_and_at_the_end():
    """Spikes on every edge are in the bin that begins there; the last, partial bin is kept and unobserved."""
    times = np.arange(0, 100, 20) * 1_000_000
    session = Session(
        "a/b", "", 0, 90_000_000, UnitTable(["u"]), Spikes.from_units([times]), Intervals([0], [90_000_000]), SOURCE
    )
    columns = Binned().bake(session, Intervals([0], [90_000_000])).columns
    assert columns["counts"][:, 0].tolist() == [1, 1, 1, 1, 1]
    assert columns["observed"].tolist() == [1, 1, 1, 1, 0]


def test_binned_saturates_at_255_and_counts_the_rest():
    spikes = Spikes.from_units([np.full(1000, 5), np.full(255, 6)])
    whole = Intervals([0], [20_000_000])
    session = Session("a/b", "", 0, 20_000_000, UnitTable(["u", "v"]), spikes, whole, SOURCE)
    baked = Binned().bake(session, whole)
    assert baked.columns["counts"].tolist() == [[255, 255]]
    assert baked.lost == {"outside_segments": 0, "saturated": 745}


def test_binned_marks_units_that_were_not_recorded():
    own = Ragged(np.array([[0, 40_000_000], [20_000_000, 30_000_000], [30_000_000, 80_000_000]]), [0, 1, 3])
    whole = Intervals([0], [80_000_000])
    spikes = Spikes.from_units([np.array([1]), np.array([70_000_000])])
    session = Session("a/b", "", 0, 80_000_000, UnitTable(["u", "v"]), spikes, whole, SOURCE, unit_observed=own)
    columns = Binned().bake(session, whole).columns
    assert columns["unit_observed"].T.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1]]  # touching intervals are one
    assert columns["observed"].tolist() == [1, 1, 1, 1]


def test_overlapping_segments_hold_a_spike_each():
    spikes = Spikes.from_units([np.array([50_000_000])])
    whole = Intervals([0], [100_000_000])
    session = Session("a/b", "", 0, 100_000_000, UnitTable(["u"]), spikes, whole, SOURCE)
    segments = Intervals([0, 40_000_000, 60_000_000], [80_000_000, 100_000_000, 90_000_000])
    for scheme in (Binned(), PerSpike()):
        baked = scheme.bake(session, segments)
        assert baked.lost["outside_segments"] == 0
        row = baked.columns["segment.row"]
        if scheme.name == "binned":
            assert [int(baked.columns["counts"][row[g] : row[g + 1]].sum()) for g in range(3)] == [1, 1, 0]
        else:
            assert np.diff(row).tolist() == [1, 1, 0]


# ---- per-spike ------------------------------------------------------------------------------------------------------


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


# ---- the registry ---------------------------------------------------------------------------------------------------


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'binned'"):
        make_scheme("bined")
    with pytest.raises(UnknownNameError, match="scheme 'binned': did you mean 'bin_ns'"):
        make_scheme("binned", bin_ms=20)
    for values in ({"bin_ns": 0}, {"bin_ns": 2.5}, {"bin_ns": True}):
        with pytest.raises(UsageError, match="whole number"):
            make_scheme("binned", **values)
    with pytest.raises(UsageError, match="true or false"):
        make_scheme("per-spike", start_end=1)


def test_another_version_of_a_scheme_is_refused():
    with pytest.raises(ArtefactError, match="version 9 there, this spiketok has 1"):
        scheme_from_config({"name": "binned", "version": 9, "config": {"bin_ns": 1}})
