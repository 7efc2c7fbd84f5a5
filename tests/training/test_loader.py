"""Where windows lie, how they are drawn, and that a batch is exactly its windows, whatever was prefetched."""

from __future__ import annotations

import json
import threading
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Tokens
from spiketok.recording.nouns import Intervals, Session, Spikes, UnitTable
from spiketok.tokens.schemes import Binned, PerSpike
from spiketok.tokens.schemes.base import Windows
from spiketok.training.loader import Loader
from spiketok.training.sampling import (
    Once,
    RandomWindows,
    SequentialWindows,
    SessionTokens,
    SessionWindows,
    TrialWindows,
)
from spiketok.training.tasks.decode import Decode, DecodeConfig, TargetSpec
from spiketok.training.unit_dropout import UnitDropout
from tests import reference
from tests.made import MS, SECOND, random_session, shard, whole
from tests.strategies import SOURCE

TARGET = TargetSpec("vel", ("x", "y"), "mm/s", (0.25, -0.5), (2.0, 0.5))
VEL = Decode("vel", DecodeConfig(), TARGET)
SPLIT = Intervals([100 * MS, 4_500 * MS], [4_000 * MS, 5_900 * MS])


@pytest.fixture(scope="module")
def spike_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spike")
    return [
        shard(folder, random_session(name, seed, n_units=n), PerSpike())
        for name, seed, n in [("a", 1, 5), ("b", 2, 12), ("c", 3, 1)]
    ]


@pytest.fixture(scope="module")
def bin_shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bin")
    return [
        shard(folder, random_session(name, seed, n_units=n), Binned())
        for name, seed, n in [("a", 1, 5), ("b", 2, 12), ("c", 3, 1)]
    ]


def where(readers) -> list[SessionWindows]:
    return [SessionWindows(reader, SPLIT) for reader in readers]


def random_loader(readers, **options) -> Loader:
    sessions = where(readers)
    options = {"batch_size": 4, "tasks": [VEL], "seed": 3} | options
    return Loader(sessions, RandomWindows(sessions, 400 * MS, seed=7), **options)


def content(batch: Batch) -> list:
    """All that a batch holds, to compare by equality."""

    def held(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.tolist()
        if isinstance(value, dict):
            return {name: held(item) for name, item in value.items()}
        if isinstance(value, list):
            return [held(item) for item in value]
        return {name: held(item) for name, item in vars(value).items()} if isinstance(value, Tokens | Asked) else value

    return [(f.name, held(getattr(batch, f.name))) for f in fields(batch) if f.name != "facts"]


def met(loader: Loader) -> list[tuple[str, int]]:
    return [pair for batch in loader for pair in zip(batch.sessions, batch.start_ns.tolist(), strict=True)]


# ---- where windows may lie ------------------------------------------------------------------------------------------

small = st.integers(-6, 30)
small_intervals = st.lists(st.tuples(small, small), max_size=4).map(
    lambda pairs: Intervals(np.array([min(p) for p in pairs], np.int64), np.array([max(p) for p in pairs], np.int64))
)


class TinyReader:
    """As much of a ShardReader as SessionWindows looks at."""

    def __init__(self, segments: Intervals, observed: Intervals, grid_ns: int, name: str = "made/tiny") -> None:
        self.segments, self.observed = segments, observed
        self.scheme, self.columns = Binned(grid_ns), {}
        self.info = type("Info", (), {"id": name})()


@settings(max_examples=150)
@given(small_intervals, small_intervals, small_intervals, st.integers(1, 4))
def test_usable_intervals_equal_reference(segments, observed, allowed, grid):
    """Only allowed, observed time inside one segment, on that segment's grid; the rest is counted."""
    session = SessionWindows(TinyReader(segments, observed.union(), grid), allowed)
    found = sorted(zip(session.segment.tolist(), session.start_ns.tolist(), session.stop_ns.tolist(), strict=True))
    wanted = []
    for g, pair in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        wanted += [(g, *stretch) for stretch in reference.usable(allowed.union(), observed.union(), pair, grid)]
    assert found == wanted
    usable = allowed.intersect(observed)
    assert session.dropped["unobserved_ns"] == allowed.union().total_ns - usable.total_ns
    assert session.dropped["outside_segments_ns"] == usable.total_ns - usable.intersect(segments).total_ns
    exact = SessionWindows(TinyReader(segments, observed.union(), 1), allowed)
    assert session.dropped["off_grid_ns"] == exact.total_ns - session.total_ns
    assert exact.dropped["off_grid_ns"] == 0


@settings(max_examples=100)
@given(small_intervals, small_intervals, st.integers(1, 3), st.integers(1, 4), st.integers(0, 9), st.integers(0, 3))
def test_random_windows_stay_inside_and_keep_their_number(observed, allowed, grid, length, seed, epoch):
    tiny = TinyReader(Intervals([-6], [30]), observed.union(), grid)
    session, window = SessionWindows(tiny, allowed), length * grid
    plan = RandomWindows([session], window, seed=seed).plan(epoch)
    each = ((session.stop_ns - session.start_ns) // window).tolist()
    assert len(plan) == sum(each)
    assert ((plan.start_ns + 6) % grid == 0).all()
    for low, high, n in zip(session.start_ns.tolist(), session.stop_ns.tolist(), each, strict=True):
        own = np.sort(plan.start_ns[(plan.start_ns >= low) & (plan.start_ns < high)])
        assert len(own) == n
        assert (own + window <= high).all()
        steps = np.diff(own)
        assert (steps > 0).all() or n < 2
        assert (steps < window).sum() <= 1  # at most the one that stands flush overlaps its neighbour


@settings(max_examples=100)
@given(small_intervals, st.integers(1, 3), st.integers(1, 4), st.integers(1, 6))
def test_sequential_windows_cover_each_interval_to_its_end(allowed, grid, length, step):
    tiny = TinyReader(Intervals([-6], [30]), Intervals([-6], [30]), grid)
    session, window, step = SessionWindows(tiny, allowed), length * grid, step * grid
    plan = SequentialWindows([session], window, step_ns=step).plan()
    wanted = []
    for low, high in zip(session.start_ns.tolist(), session.stop_ns.tolist(), strict=True):
        starts = list(range(low, high - window + 1, step))
        if starts and starts[-1] != high - window:
            starts.append(high - window)
        wanted += starts
    assert plan.start_ns.tolist() == wanted


def test_random_windows_are_new_each_epoch_and_the_same_each_time(spike_shards):
    sessions = where(spike_shards)
    first, again = (RandomWindows(sessions, 400 * MS, seed=1) for _ in range(2))
    for epoch in range(3):
        a, b = first.plan(epoch), again.plan(epoch)
        assert a.start_ns.tolist() == b.start_ns.tolist()
        assert a.session.tolist() == b.session.tolist()
    plans = [first.plan(0), first.plan(1), RandomWindows(sessions, 400 * MS, seed=2).plan(0)]
    starts = [sorted(p.start_ns.tolist()) for p in plans]
    assert starts[0] != starts[1]
    assert starts[0] != starts[2]
    assert plans[0].session.tolist() != sorted(plans[0].session.tolist())  # shuffled over sessions


def test_random_offsets_are_uniform(spike_shards):
    """The first window's offset takes every place in one window length, about equally often."""
    sessions = [SessionWindows(spike_shards[0], Intervals([0], [2_999 * MS]))]
    sampler = RandomWindows(sessions, 1000 * MS, seed=0)
    first = np.array([sampler.plan(epoch).start_ns.min() for epoch in range(600)])
    # offsets up to 999 ms leave 2 windows in their chain; above, a window stands flush at the start
    chained = first[first > 0]
    counts = np.histogram(chained, bins=5, range=(0, 999 * MS))[0]
    assert counts.min() > 0.6 * counts.mean()


@pytest.mark.parametrize(
    ("length", "flush"),
    [
        (25, {(6, 15), (7, 15), (0, 8), (0, 9)}),
        (24, {(5, 14), (6, 14), (0, 7), (0, 8), (0, 9)}),  # at 7 there is as much room on either side: at the start
    ],
)
def test_a_window_without_room_behind_the_others_stands_flush_where_there_is_more(length, flush):
    """Windows of 10 in an interval: from offsets up to ``length - 20`` two follow each other, from the others one."""
    whole_time = Intervals([0], [length])
    session = SessionWindows(TinyReader(whole_time, whole_time, 1), whole_time)
    plans = (RandomWindows([session], 10, seed=seed).plan(0).start_ns.tolist() for seed in range(300))
    assert {tuple(sorted(starts)) for starts in plans} == {(k, k + 10) for k in range(length - 19)} | flush


def test_session_weights(spike_shards):
    """2 gives two passes with different jitter, 0.5 a half, 0 none; an unknown session is refused."""
    sessions = where(spike_shards)
    one_pass = np.bincount(RandomWindows(sessions, 400 * MS).plan(0).session, minlength=3)
    weights = {"made/a": 2.0, "made/b": 0.5, "made/c": 0.0}
    plan = RandomWindows(sessions, 400 * MS, weights=weights).plan(0)
    assert np.bincount(plan.session, minlength=3).tolist() == [2 * one_pass[0], round(one_pass[1] / 2), 0]
    assert len(set(plan.start_ns[plan.session == 0].tolist())) > 1.5 * one_pass[0]
    with pytest.raises(UsageError, match="made/z"):
        RandomWindows(sessions, 400 * MS, weights={"made/z": 1.0})


def test_windows_off_the_grid_are_refused(bin_shards):
    with pytest.raises(UsageError, match="multiple of the 20000000 ns grid of made/a"):
        RandomWindows(where(bin_shards), 410 * MS)
    with pytest.raises(UsageError, match="step_ns"):
        SequentialWindows(where(bin_shards), 400 * MS, step_ns=10 * MS)


def test_trial_windows(tmp_path):
    """One window a trial; one that reaches out of the split or of observed time is dropped and counted."""
    session = random_session("t", 4)
    trials = Intervals(np.array([0, 1000, 2000, 2800, 4000]) * MS, np.array([500, 1500, 2500, 3300, 4500]) * MS)
    reader = shard(tmp_path, session, Binned(), trials)
    allowed = Intervals([0], [4_400 * MS])  # observed is [0, 3000) and [3100, 6000) ms
    sampler = TrialWindows([SessionWindows(reader, allowed)])
    assert sampler.window_ns == 500 * MS
    assert sampler.plan().start_ns.tolist() == [0, 1000 * MS, 2000 * MS]
    assert sampler.plan().segment.tolist() == [0, 1, 2]
    assert sampler.dropped["trials"] == 2
    short = TrialWindows([SessionWindows(reader, allowed)], 200 * MS)
    assert short.plan().start_ns.tolist() == [0, 1000 * MS, 2000 * MS, 2800 * MS, 4000 * MS]
    shuffled = TrialWindows([SessionWindows(reader, allowed)], 200 * MS, shuffle=True)
    assert sorted(shuffled.plan(1).start_ns) == short.plan().start_ns.tolist()
    assert len({tuple(shuffled.plan(e).start_ns) for e in range(5)}) > 1
    uneven = shard(tmp_path / "u", session, Binned(), Intervals([0, 1000 * MS], [500 * MS, 1700 * MS]))
    with pytest.raises(DataError, match="500000000 to 700000000 ns"):
        TrialWindows([SessionWindows(uneven, allowed)])


# ---- unit dropout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(30, 100, 300, 4.0), (10, 10, 20, 4.0), (10, 20, 20, 0.5), (5, 9, 14, 1.0)])
def test_unit_dropout_has_the_stated_density(sizes):
    low, mode, high, peak = sizes
    uniform = (np.arange(400_000) + 0.5) / 400_000
    found = np.bincount(UnitDropout(*sizes).n_keep(uniform, np.full(400_000, 10**6)), minlength=high + 1)
    x = np.arange(low, high) + 0.5
    slope = np.where(x < mode, (x - low) / max(mode - low, 1), (high - x) / max(high - mode, 1))
    density = 1 + (peak - 1) * slope
    assert found[:low].sum() == 0
    assert found[high] <= 1  # only the very end of the distribution
    np.testing.assert_allclose(found[low:high] / 400_000, density / density.sum(), rtol=0.03)


def test_unit_dropout_keeps_all_of_a_small_population():
    dropout = UnitDropout(30, 100, 300, 4.0)
    uniform = np.linspace(0, 0.999, 50)
    assert (dropout.n_keep(uniform, np.full(50, 29)) == 29).all()
    assert dropout.n_keep(uniform, np.full(50, 30)).max() == 30
    assert dropout.n_keep(uniform, np.full(50, 30)).min() == 30
    with pytest.raises(UsageError, match="min <= mode <= max"):
        UnitDropout(10, 5, 20)


@pytest.mark.parametrize("n_keep", [3, 6, 9])
def test_kept_units_are_uniform_and_as_many_as_drawn(spike_shards, n_keep):
    """Every subset alike: over many windows each of 12 units, and each pair of them, is kept equally often."""
    sessions = where(spike_shards[1:2])
    dropout = UnitDropout(n_keep, n_keep, n_keep + 1)
    loader = Loader(sessions, RandomWindows(sessions, 50 * MS), batch_size=64, unit_dropout=dropout, prefetch=0)
    pairs, n_windows = np.zeros((12, 12)), 0
    for _ in range(30):
        for batch in loader:
            tokens = batch.tokens()
            start = tokens.columns["type"] == 1
            for low, high in zip(tokens.offset[:-1], tokens.offset[1:], strict=True):
                units = tokens.columns["unit"][low:high][start[low:high]].numpy()
                assert len(units) == n_keep
                pairs[np.ix_(units, units)] += 1
                n_windows += 1
    alone = n_windows * n_keep / 12
    together = alone * (n_keep - 1) / 11
    assert np.abs(np.diag(pairs) - alone).max() < 5 * np.sqrt(alone)
    assert np.abs(pairs[~np.eye(12, dtype=bool)] - together).max() < 5 * np.sqrt(together)


# ---- a batch is exactly its windows ---------------------------------------------------------------------------------


def check_batch(batch: Batch, readers, unit_rows, keep_seen: bool, skip: str = "") -> None:
    """Each window's tokens and queries, from the scheme's cut and the reference."""
    by_id = {reader.info.id: reader for reader in readers}
    tokens, asked = batch.tokens(), batch.asked["decode:vel"]
    for b, (name, start) in enumerate(zip(batch.sessions, batch.start_ns.tolist(), strict=True)):
        if name == skip:
            continue
        reader = by_id[name]
        window = Windows(np.array([0]), np.array([start]), batch.window_ns)
        rows = slice(tokens.offset[b], tokens.offset[b + 1])
        own = {k: c[rows].numpy() for k, c in tokens.columns.items()}
        keep = None
        if keep_seen:  # which units were kept can be read off the START tokens
            keep = np.isin(unit_rows[name], own["unit"][own["type"] == 1])[None]
        wanted = reader.scheme.cut(reader.columns, window, keep, unit_rows[name])
        for k, column in wanted.columns.items():
            np.testing.assert_array_equal(own[k], column)
        queries = slice(asked.offset[b], asked.offset[b + 1])
        found = list(
            zip(
                asked.ns[queries].tolist(),
                asked.time[queries].tolist(),
                asked.target[queries].tolist(),
                asked.weight[queries].tolist(),
                strict=True,
            )
        )
        if reader.scheme.name == "per-spike":
            expected = reference.queries(reader.signal("vel"), start, batch.window_ns, TARGET.mean, TARGET.std)
        else:
            expected = bin_queries(reader, start, batch.window_ns)
        assert found == [(ns, float(t), [float(v) for v in values], w) for ns, t, values, w in expected]


def bin_queries(reader, start: int, length: int) -> list[tuple]:
    """One query a bin, at its middle."""
    bin_ns, signal, found = reader.scheme.bin_ns, reader.signal("vel"), []
    for k in range(length // bin_ns):
        value, ok = reference.signal_bin(signal, start + k * bin_ns, bin_ns, int(reader.segments.stop_ns[0]))
        value = np.array(value, np.float32).tolist()
        middle = k * bin_ns + bin_ns // 2
        normal = [np.float32((v - m) / s) if ok else 0 for v, m, s in zip(value, TARGET.mean, TARGET.std, strict=True)]
        found.append((start + middle, reference.seconds(middle), normal, float(ok)))
    return found


@pytest.mark.parametrize("dropout", [None, UnitDropout(1, 2, 4)])
def test_per_spike_batches_hold_their_windows(spike_shards, dropout):
    rows = {r.info.id: np.arange(r.info.n_units, dtype=np.int32) * 10 + k for k, r in enumerate(spike_shards)}
    session_rows = {"made/a": 7, "made/b": 8, "made/c": 9}
    loader = random_loader(spike_shards, unit_rows=rows, session_rows=session_rows, unit_dropout=dropout)
    n_windows = weight = 0
    for batch in loader:
        check_batch(batch, spike_shards, rows, dropout is not None)
        assert batch.sessions == sorted(batch.sessions)  # session by session, so that each is cut in one go
        assert batch.session_B.tolist() == [session_rows[name] for name in batch.sessions]
        assert [batch.present[k] for k in batch.present_B.tolist()] == batch.sessions
        assert batch.present == sorted(set(batch.sessions))
        n_windows += len(batch)
        weight += float(batch.asked["decode:vel"].weight.sum())
    assert n_windows == sum(((s.stop_ns - s.start_ns) // (400 * MS)).sum() for s in where(spike_shards))
    assert 0 < weight < n_windows * 40  # some samples were not valid, and none of these weighs anything


def test_binned_batches_hold_their_windows(bin_shards):
    rows = {r.info.id: np.arange(r.info.n_units, dtype=np.int32) for r in bin_shards}
    for batch in random_loader(bin_shards, one_session=True):
        assert len(set(batch.sessions)) == 1
        check_batch(batch, bin_shards, rows, False)


def test_dtypes_and_shapes(spike_shards):
    batch = next(iter(random_loader(spike_shards)))
    tokens, asked = batch.tokens(), batch.asked["decode:vel"]
    total, queries = int(tokens.offset[-1]), int(asked.offset[-1])
    shapes = {"time": torch.float32, "unit": torch.int32, "type": torch.uint8}
    assert {k: (c.dtype, c.shape) for k, c in tokens.columns.items()} == {
        k: (dtype, torch.Size([total])) for k, dtype in shapes.items()
    }
    assert (tokens.offset.dtype, batch.session_B.dtype, asked.offset.dtype) == (torch.int64,) * 3
    assert (asked.time.dtype, asked.target.dtype, asked.weight.dtype) == (torch.float32,) * 3
    assert asked.target.shape == (queries, 2)
    assert tokens.valid_BL is None
    assert asked.ns.dtype == np.int64
    assert (batch.hidden, batch.session_inputs) == ({}, {})
    assert set(batch.facts) == {"made/a", "made/b", "made/c"}


def test_without_a_task_there_are_no_queries(spike_shards):
    batch = next(iter(random_loader(spike_shards, tasks=())))
    assert batch.asked == {}


def test_a_session_without_the_truth_has_no_query_in_a_batch(spike_shards, tmp_path):
    """Nor has it tokens less; the sessions beside it are asked as ever."""
    mute = replace(random_session("m", 9), signals={})
    readers = [spike_shards[0], shard(tmp_path, mute, PerSpike())]
    asked = dict.fromkeys(("made/a", "made/m"), 0)
    for batch in random_loader(readers):
        check_batch(batch, readers[:1], {"made/a": np.arange(5, dtype=np.int32)}, False, skip="made/m")
        for name, n in zip(batch.sessions, torch.diff(batch.asked["decode:vel"].offset).tolist(), strict=True):
            asked[name] += n
    assert asked == {"made/a": 12 * 40, "made/m": 0}


def test_inputs_of_the_session_are_cut_once_from_calibration_time(spike_shards, bin_shards):
    """Whole bins inside it, the first ``most`` of them; each session has its own, in order of ``present``."""
    most, calibration = 30, Intervals([210 * MS, 1_000 * MS], [590 * MS, 2_000 * MS])
    tokens = [
        SessionTokens({"spikes": spikes}, {"trials": Once(bins, most)})
        for spikes, bins in zip(spike_shards, bin_shards, strict=True)
    ]
    sessions = [SessionWindows(t, SPLIT) for t in tokens]
    options = {"batch_size": 4, "calibration": {"made/a": calibration, "made/b": calibration}, "prefetch": 0}
    seen = set()
    for batch in Loader(sessions, RandomWindows(sessions, 400 * MS), **options):
        assert list(batch.inputs) == ["spikes"]
        for name, held in zip(batch.present, batch.session_inputs["trials"], strict=True):
            reader = bin_shards[["made/a", "made/b", "made/c"].index(name)]
            rows = [*range(11, 29), *range(50, 100)][:most] if name != "made/c" else []
            np.testing.assert_array_equal(held.columns["counts"].numpy(), reader.columns["counts"][rows])
            assert held.offset.tolist() == [0, len(rows)]
            seen.add(name)
    assert seen == {"made/a", "made/b", "made/c"}


def trial_loader(spike_shards, bin_shards, choose: str, most: int = 30, sampler=RandomWindows, **options) -> Loader:
    """Batches of two sessions with a session input of 40 rows each (the first sessions' bins from 0.2 to 1.0 s)."""
    tokens = [
        SessionTokens({"spikes": spikes}, {"trials": Once(bins, most, choose)})
        for spikes, bins in zip(spike_shards[:2], bin_shards[:2], strict=True)
    ]
    sessions = [SessionWindows(t, SPLIT) for t in tokens]
    calibration = {s.id: Intervals([200 * MS], [1_000 * MS]) for s in sessions}
    return Loader(sessions, sampler(sessions, 400 * MS), batch_size=4, calibration=calibration, **options)


def first_rows(batch, bin_shards, most: int = 30) -> dict[str, int]:
    """By session, the first row of its 40 that a batch holds; they must be so many neighbours."""
    found = {}
    for name, held in zip(batch.present, batch.session_inputs["trials"], strict=True):
        reader = bin_shards[["made/a", "made/b"].index(name)]
        rows, whole = held.columns["counts"].numpy(), reader.columns["counts"][10:50]
        assert held.offset.tolist() == [0, most] and len(rows) == most
        (found[name],) = [k for k in range(41 - most) if np.array_equal(whole[k : k + most], rows)]
    return found


def test_a_block_of_calibration_is_drawn_for_each_batch(spike_shards, bin_shards):
    def met(**options):
        loader, found = trial_loader(spike_shards, bin_shards, "block", **options), []
        for _ in range(6):
            found += [first_rows(batch, bin_shards) for batch in loader]
        return found

    drawn = met()
    for name in ("made/a", "made/b"):
        own = [batch[name] for batch in drawn if name in batch]
        assert min(own) >= 0 and max(own) <= 10 and len(set(own)) > 4, name
    assert any(len(set(batch.values())) > 1 for batch in drawn if len(batch) > 1)  # each session its own
    assert met(prefetch=0) == drawn and met(prefetch=3) == drawn
    assert met(seed=1) != drawn
    loader = trial_loader(spike_shards, bin_shards, "block")
    taken = [first_rows(batch, bin_shards) for batch, _ in zip(loader, range(3), strict=False)]
    fresh = trial_loader(spike_shards, bin_shards, "block")
    fresh.load_state_dict({**loader.state_dict(), "batch": 3})
    assert taken == drawn[:3]
    assert first_rows(next(iter(fresh)), bin_shards) == drawn[3]


def test_evaluation_and_choose_first_take_the_first_of_the_calibration(spike_shards, bin_shards):
    for choose, sampler in (("block", SequentialWindows), ("first", RandomWindows)):
        for batch in trial_loader(spike_shards, bin_shards, choose, sampler=sampler):
            assert set(first_rows(batch, bin_shards).values()) == {0}
    for batch in trial_loader(spike_shards, bin_shards, "block", most=40):
        assert set(first_rows(batch, bin_shards, 40).values()) == {0}


def test_shards_of_other_segments_are_no_one_session(spike_shards, bin_shards, tmp_path):
    other = shard(tmp_path, random_session("a", 1), Binned(), Intervals([0], [3 * SECOND]))
    for windowed, once in ({"x": bin_shards[1]}, {}), ({"x": other}, {}), ({}, {"x": Once(other)}):
        with pytest.raises(UsageError, match="different sessions or segments"):
            SessionTokens({"spikes": spike_shards[0], **windowed}, once)
    with pytest.raises(UsageError, match="at least one input"):
        SessionTokens({}, {"x": Once(other)})


@pytest.mark.parametrize("kind", ["spike", "bin"])
def test_padded_layout_is_the_packed_one_in_rows(request, kind):
    """Rounded up to a multiple of 8, zero behind the tokens, whatever the buffer held before."""
    readers = request.getfixturevalue(f"{kind}_shards")
    options = {"one_session": kind == "bin", "unit_dropout": UnitDropout(1, 2, 4)}
    packed, padded = random_loader(readers, **options), random_loader(readers, layout="padded", **options)
    for batch, other in zip(packed, padded, strict=True):
        a, b = batch.tokens(), other.tokens()
        length = torch.diff(a.offset)
        assert b.offset is None
        assert b.valid_BL.shape == (len(batch), -(-int(length.max()) // 8) * 8)
        assert b.valid_BL.sum(dim=1).tolist() == length.tolist()
        for name, column in b.columns.items():
            assert torch.equal(column[b.valid_BL], a.columns[name])
            assert not column[~b.valid_BL].any()
        again, lengths = b.packed()
        assert lengths == length.tolist()
        assert all(torch.equal(again[name], column) for name, column in a.columns.items())
        assert torch.equal(batch.asked["decode:vel"].target, other.asked["decode:vel"].target)


# ---- the same batches, whatever happens -----------------------------------------------------------------------------


@pytest.mark.parametrize("one_session", [False, True])
def test_prefetch_and_threads_change_nothing(spike_shards, one_session):
    """Law 7 for batches: in the calling thread, in 1, 2 and 5 threads, over two epochs."""
    wanted = None
    for prefetch in (0, 1, 2, 5):
        loader = random_loader(
            spike_shards, prefetch=prefetch, one_session=one_session, unit_dropout=UnitDropout(1, 3, 9)
        )
        found = [content(batch) for _ in range(2) for batch in loader]
        wanted = wanted or found
        assert found == wanted
        assert loader.epoch == 2
    assert wanted[: len(wanted) // 2] != wanted[len(wanted) // 2 :]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 5, None])
def test_resume_to_the_exact_next_batch(spike_shards, prefetch, taken):
    """Also in the middle of an epoch, at its very end, and with batches cut ahead that were never handed out."""
    whole_run = random_loader(spike_shards, prefetch=0, unit_dropout=UnitDropout(1, 3, 9))
    wanted = [content(batch) for _ in range(2) for batch in whole_run]
    first = random_loader(spike_shards, prefetch=prefetch, unit_dropout=UnitDropout(1, 3, 9))
    taken = len(first) if taken is None else taken
    iterator = iter(first)
    found = [content(next(iterator)) for _ in range(taken)]
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["batch"]) == (0, taken)
    second = random_loader(spike_shards, prefetch=prefetch, unit_dropout=UnitDropout(1, 3, 9))
    second.load_state_dict(state)
    found += [content(batch) for batch in second]
    assert (second.epoch, second.batch) == (1, 0)
    found += [content(batch) for batch in second]
    assert found == wanted


def test_a_loader_that_was_left_goes_on_where_it_stood(spike_shards):
    wanted = [content(batch) for batch in random_loader(spike_shards, prefetch=0)]
    loader, found = random_loader(spike_shards, prefetch=3), []
    start = loader.state_dict()
    for batch in loader:
        found.append(content(batch))
        if len(found) == 2:
            break
    found += [content(batch) for batch in loader]
    assert found == wanted
    loader.load_state_dict(start)
    assert [content(batch) for batch in loader] == wanted


def test_a_state_of_another_epoch_starts_it_from_its_first_batch(spike_shards):
    straight = random_loader(spike_shards, prefetch=0)
    wanted = [content(batch) for _ in range(2) for batch in straight]
    loader = random_loader(spike_shards, prefetch=2)
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict() | {"epoch": 1, "batch": 0})
    assert (loader.epoch, loader.batch) == (1, 0)
    assert [content(batch) for batch in loader] == wanted[len(loader) :]


def test_units_are_dropped_anew_in_each_batch_epoch_and_rank(spike_shards):
    def kept(epoch: int, rank: int) -> list[list[int]]:
        """The units that each batch's first window keeps."""
        sessions = where(spike_shards[1:2])
        loader = Loader(
            sessions,
            SequentialWindows(sessions, 100 * MS),
            batch_size=8,
            unit_dropout=UnitDropout(6, 6, 7),
            rank=rank,
            world=2,
            prefetch=0,
        )
        loader.load_state_dict(loader.state_dict() | {"epoch": epoch})
        return [b.tokens().columns["unit"][: 2 * 6 : 2].tolist() for b in loader]

    batches = [tuple(units) for epoch in range(2) for rank in range(2) for units in kept(epoch, rank)]
    assert len(batches) == 4 * 4
    assert len(set(batches)) >= 14  # of 924 subsets, 16 drawn: twice the same is rare


def test_a_state_of_another_loader_is_refused(spike_shards):
    state = random_loader(spike_shards).state_dict()
    with pytest.raises(UsageError, match="batch_size was 4 and is 5"):
        random_loader(spike_shards, batch_size=5).load_state_dict(state | {"loader": state["loader"] | {"batches": 6}})
    with pytest.raises(UsageError, match="cannot resume: batches"):
        random_loader(spike_shards[:2]).load_state_dict(state)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_the_last_two_batches_stay_valid(spike_shards, prefetch):
    """And no others are promised: their buffers are the ring's."""
    loader = random_loader(spike_shards, prefetch=prefetch)
    before, seen, addresses = None, None, set()
    for _ in range(2):
        for batch in loader:
            addresses.add(batch.tokens().columns["type"].data_ptr())
            if before is not None:
                assert content(before) == seen
            before, seen = batch, content(batch)
    iterator = iter(loader)
    batch = next(iterator)
    seen = content(batch)
    iterator.close()  # batches that were cut ahead are thrown away, not written over those in hand
    next(iter(loader))
    assert content(batch) == seen


def test_clone_and_to_keep_their_content(spike_shards):
    wanted = [content(batch) for batch in random_loader(spike_shards)]
    clones = [batch.clone() for batch in random_loader(spike_shards)]
    assert [content(batch) for batch in clones] == wanted
    assert [content(batch.to("cpu")) for batch in clones] == wanted


def test_no_thread_outlives_its_iteration(spike_shards):
    def running() -> int:
        return sum(t.name.startswith("spiketok-loader") for t in threading.enumerate())

    loader = random_loader(spike_shards, prefetch=3)
    for _ in loader:
        assert running() > 0
        break
    assert running() == 0
    for _ in loader:
        pass
    assert running() == 0


# ---- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_session", [False, True])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_a_shuffled_epoch(spike_shards, one_session, world):
    """Equally many batches each, no window twice, and those that are left out are counted."""
    alone = random_loader(spike_shards, one_session=one_session, tasks=())
    options = {"one_session": one_session, "tasks": (), "world": world}
    ranks = [random_loader(spike_shards, rank=r, **options) for r in range(world)]
    assert len({len(loader) for loader in ranks}) == 1
    dropped = [loader.dropped["windows_rank"] for loader in ranks]
    assert len(set(dropped)) == 1
    windows = [w for loader in ranks for w in met(loader)]
    everything = met(alone)
    assert len(windows) == len(everything) - dropped[0]
    assert len(set(windows)) == len(set(everything)) - dropped[0]
    assert set(windows) <= set(everything)


@pytest.mark.parametrize("one_session", [False, True])
def test_ranks_together_meet_every_window_of_an_unshuffled_epoch(spike_shards, one_session):
    """Nothing is left out of a test: some windows come twice instead, and are counted."""
    sessions = where(spike_shards)
    sampler = SequentialWindows(sessions, 400 * MS, step_ns=170 * MS)
    plan = sampler.plan()
    everything = {(sessions[k].id, t) for k, t in zip(plan.session.tolist(), plan.start_ns.tolist(), strict=True)}
    repeated = []
    for world in (2, 3, 5, 7):
        options = {"batch_size": 4, "one_session": one_session, "world": world, "prefetch": 0}
        loaders = [Loader(sessions, sampler, rank=r, **options) for r in range(world)]
        windows = [w for loader in loaders for w in met(loader)]
        assert set(windows) == everything
        assert len({len(loader) for loader in loaders}) == 1
        repeated.append(loaders[0].dropped["windows_repeated"])
        assert len(windows) == len(everything) + repeated[-1]
    assert max(repeated) > 0


@pytest.mark.parametrize("one_session", [False, True])
def test_drop_last(spike_shards, one_session):
    options = {"one_session": one_session, "tasks": ()}
    everything = len(met(random_loader(spike_shards, **options)))
    loader = random_loader(spike_shards, drop_last=True, **options)
    assert {len(batch) for batch in loader} == {4}
    assert len(loader) * 4 == everything - loader.dropped["windows_last_batch"]


# ---- refused --------------------------------------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused(spike_shards, bin_shards, tmp_path):
    with pytest.raises(UsageError, match=r"5 units and made/b 12.*one_session=True"):
        random_loader(bin_shards)
    with pytest.raises(UsageError, match="unit_rows lacks session made/b"):
        random_loader(spike_shards, unit_rows={"made/a": np.arange(5)})
    with pytest.raises(UsageError, match=r"shape \(4,\), the session has 5 units"):
        random_loader(spike_shards[:1], unit_rows={"made/a": np.arange(4)})
    with pytest.raises(UsageError, match="rank 2 of world 2"):
        random_loader(spike_shards, rank=2, world=2)
    with pytest.raises(UsageError, match="layout is 'jagged'"):
        random_loader(spike_shards, layout="jagged")
    with pytest.raises(UsageError, match="another order"):
        Loader(where(spike_shards), RandomWindows(where(spike_shards)[::-1], 400 * MS), batch_size=4)
    with pytest.raises(UsageError, match="made/a is given twice"):
        RandomWindows(where(spike_shards[:1]) * 2, 400 * MS)
    with pytest.raises(UsageError, match="at least one session"):
        RandomWindows([], 400 * MS)
    with pytest.raises(DataError, match="leave no whole batch"):
        random_loader(spike_shards, batch_size=10_000, drop_last=True)
    other = shard(tmp_path, random_session("d", 5), Binned(10 * MS))
    with pytest.raises(UsageError, match="baked by"):
        random_loader([bin_shards[0], other], one_session=True)


def test_no_window_fits(spike_shards):
    sessions = where(spike_shards)
    with pytest.raises(DataError, match=r"no window of 4000 ms.*longest stretch is 2900 ms"):
        Loader(sessions, RandomWindows(sessions, 4 * SECOND), batch_size=4)
    assert RandomWindows(sessions, 4 * SECOND).dropped["short_intervals"] == 9


@pytest.mark.parametrize("options", [{}, {"unit_dropout": UnitDropout(1, 1, 2)}, {"layout": "padded"}], ids=str)
@pytest.mark.parametrize("scheme", [PerSpike(), PerSpike(start_end=False), Binned()], ids=str)
def test_a_session_without_spikes_and_one_without_units(tmp_path, scheme, options):
    """Silence is START and END alone, or nothing, or zeros; a session of no units has empty windows."""
    readers = []
    for name, n_units in (("silent", 2), ("empty", 0)):
        base = random_session(name, 0)
        units, spikes = UnitTable([f"{n}" for n in range(n_units)]), Spikes.from_units([])
        session = Session(base.id, "s", 0, base.stop_ns, units, spikes, whole(base), SOURCE, signals=base.signals)
        readers.append(shard(tmp_path, session, scheme))
    seen = set()
    for batch in random_loader(readers, one_session=True, **options):
        (name,) = set(batch.sessions)
        seen.add(name)
        tokens = batch.tokens()
        count = torch.diff(tokens.offset) if tokens.offset is not None else tokens.valid_BL.sum(dim=1)
        if scheme.name == "binned":
            assert set(count.tolist()) == {20}
            assert tokens.columns["counts"].shape[-1] == (2 if name == "made/silent" else 0)
            assert not tokens.columns["counts"].any()
        else:
            kept = 1 if "unit_dropout" in options else 2
            n_tokens = 2 * kept if name == "made/silent" and scheme.start_end else 0
            assert set(count.tolist()) == {n_tokens}
    assert seen == {"made/silent", "made/empty"}
