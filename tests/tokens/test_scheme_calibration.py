"""What calibration promises besides the laws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Ragged, Session, Spikes, UnitTable
from spiketok.storage.store import session_info
from spiketok.tokens.schemes import Calibration
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from tests.laws import assert_same, token_rows
from tests.made import MS, SECOND, golden_session, random_session, whole
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-calibration-v2"


def ms(*pairs: tuple[int, int]) -> Intervals:
    return Intervals([a * MS for a, _ in pairs], [z * MS for _, z in pairs])


def session_of(times_ms: list[list[int]], trials: Intervals | None, stop_ms: int = 1000, **values) -> Session:
    """Spikes at whole ms; one stretch of observed time unless said otherwise."""
    spikes = Spikes.from_units([np.array(t, np.int64) * MS for t in times_ms])
    units = UnitTable([f"u{n}" for n in range(len(times_ms))])
    intervals = {} if trials is None else {"trials": trials}
    known = {"observed": ms((0, stop_ms)), "intervals": intervals} | values
    return Session("a/b", "", 0, stop_ms * MS, units, spikes, source=SOURCE, **known)


def with_trials(session: Session, n_trials: int, length_ns: int, step_ns: int) -> Session:
    start_ns = np.arange(n_trials) * step_ns
    return replace(session, intervals={"trials": Intervals(start_ns, start_ns + length_ns)})


def all_of(session: Session) -> Windows:
    return Windows(np.array([0]), np.array([session.start_ns]), int(session.stop_ns - session.start_ns))


def bake(scheme: Calibration, session: Session):
    return scheme.bake(session, whole(session))


def small(**values) -> Calibration:
    return Calibration(**({"bin_ns": 10 * MS, "length": 5, "resample": "linear"} | values))


# ---- resampling -----------------------------------------------------------------------------------------------------

# one trial of five bins: unit 0 has 0 2 4 4 0, unit 1 has 1 in each
FIVE = session_of([[10, 11, 20, 21, 22, 23, 30, 31, 32, 33], [0, 10, 20, 30, 40]], ms((0, 50)))


def test_linear_by_hand():
    """Nine points on five bins: every second one is a bin, the others lie half way."""
    matrix = bake(small(length=9), FIVE).columns["matrix"]
    assert matrix.dtype == np.float32
    assert matrix[0, :, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 2, 0]
    assert matrix[0, :, 1].tolist() == [1] * 9
    assert bake(small(length=3), FIVE).columns["matrix"][0, :, 0].tolist() == [0, 4, 0]


def test_linear_is_rounded_once():
    """The largest counts on an odd number of points: each is the float32 nearest to the exact quotient."""
    session = session_of([[5] * 300, [15] * 254, [5] * 251 + [15] * 253], ms((0, 20)))
    for length in (1000, 65_536):
        matrix = bake(small(length=length), session).columns["matrix"][0]
        t = np.arange(length)
        for n, (left, right) in enumerate([(255, 0), (0, 254), (251, 253)]):
            exact = (left * (length - 1 - t) + right * t) / (length - 1)
            np.testing.assert_array_equal(matrix[:, n], exact.astype(np.float32))


def test_area_keeps_the_sum():
    """Ten shares of five bins: half a bin each. Two shares: two bins and a half."""
    matrix = bake(small(resample="area", length=10), FIVE).columns["matrix"]
    assert matrix[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 0, 0]
    assert bake(small(resample="area", length=2), FIVE).columns["matrix"][0].T.tolist() == [[4, 6], [2.5, 2.5]]
    for length in (3, 7, 100):
        matrix = bake(small(resample="area", length=length), FIVE).columns["matrix"]
        np.testing.assert_allclose(matrix[0].sum(axis=0, dtype=np.float64), [10, 5], rtol=1e-6)


def test_cubic_by_hand():
    """A cubic through counts of a cubic is that cubic: k^3 - 6 k^2 + 11 k = 0 6 6 6 12, between the bins too."""
    times = [k * 10 + i for k, count in enumerate((0, 6, 6, 6, 12)) for i in range(count % 10)]
    times += [40 + i for i in range(10)]
    session = session_of([sorted(times)], ms((0, 50)))
    k = np.arange(9) / 2
    columns = bake(small(resample="cubic", length=9), session).columns
    assert columns["counts"][:, 0].tolist() == [0, 6, 6, 6, 12]
    np.testing.assert_allclose(columns["matrix"][0, :, 0], k**3 - 6 * k**2 + 11 * k, atol=1e-6)


@pytest.mark.parametrize("kind", ["cubic", "linear"])
def test_equals_scipy_and_numpy(kind):
    """At every number of bins from the least on, fewer and more points than bins."""
    from scipy.interpolate import interp1d

    session = random_session("a", 9, n_units=6, rate_hz=100.0)
    session = replace(session, observed=whole(session))
    for n_bins, length in [(4, 2), (4, 9), (5, 64), (6, 33), (7, 7), (9, 100), (120, 100), (250, 1024)]:
        session = with_trials(session, 1, n_bins * 20 * MS, 1)
        columns = bake(Calibration(length=length, resample=kind), session).columns
        counts, found = columns["counts"].astype(np.float64), columns["matrix"][0]
        assert counts.shape == (n_bins, 6)
        assert counts.max() >= 3
        wanted = interp1d(np.linspace(0, 1, n_bins), counts, kind=kind, axis=0)(np.linspace(0, 1, length))
        assert np.abs(found - wanted).max() < 1e-5
        if kind == "linear":
            for n in range(6):
                points = np.interp(np.linspace(0, n_bins - 1, length), np.arange(n_bins), counts[:, n])
                np.testing.assert_allclose(found[:, n], points, rtol=1e-6, atol=1e-6)


def test_smoothing_is_causal_and_starts_from_zero():
    """One spike in bin 1: nothing before it, then an exponential of the given time constant that sums to almost one."""
    session = session_of([[10]], ms((0, 1000)))
    matrix = bake(small(length=100, smooth_ns=40 * MS), session).columns["matrix"][0, :, 0]
    assert matrix[0] == 0
    np.testing.assert_allclose(matrix[2:30] / matrix[1:29], math.exp(-10 / 40), rtol=1e-6)
    np.testing.assert_allclose(matrix.sum(dtype=np.float64), 1.0, rtol=1e-5)


# ---- which trials, which bins ---------------------------------------------------------------------------------------


def test_unscored_time_is_removed():
    """Bins 1 and 4 are not wholly inside: 0 2 3 become neighbours, and the spikes of the others are counted as lost."""
    scored = ms((0, 15), (20, 40), (41, 60))
    session = session_of([[5, 12, 20, 21, 30, 42, 59]], ms((0, 50)), 100)
    session = replace(session, intervals={**session.intervals, "eval": scored})
    baked = bake(small(scored="eval", length=3), session)
    assert baked.columns["counts.bin"].tolist() == [0, 2, 3]
    assert baked.columns["counts"][:, 0].tolist() == [1, 2, 1]
    assert baked.columns["matrix"][0, :, 0].tolist() == [1, 2, 1]
    assert baked.lost == {"outside_segments": 0, "outside_trials": 1, "unscored": 2, "saturated": 0}
    # a bin that was scored and not observed does not count either
    baked = bake(small(scored="eval", length=3), replace(session, observed=ms((0, 39), (45, 100))))
    assert baked.columns["counts.bin"].tolist() == [0, 2]


def test_a_trial_ends_where_the_next_begins():
    """Out of order and overlapping in the source: no spike is in two trials."""
    session = session_of([[5, 35, 45, 75]], ms((40, 80), (0, 60), (30, 50)), 100)
    columns = bake(small(), session).columns
    assert (columns["start_ns"] // MS).tolist() == [0, 40]
    assert (columns["stop_ns"] // MS).tolist() == [30, 80]  # the one from 30 to 40 has one bin: too short for a line
    assert (columns["trials.found"].tolist(), columns["trials.short"].tolist()) == ([3], [1])
    assert columns["counts"].sum() == 3


def test_a_last_part_of_a_bin_is_unscored():
    baked = bake(small(length=2), session_of([[15, 24, 25, 29]], ms((5, 29)), 100))
    assert baked.columns["counts"][:, 0].tolist() == [0, 2]  # bins begin with the trial: 5..15, 15..25
    assert baked.lost["unscored"] == 1
    assert baked.lost["outside_trials"] == 1


@pytest.mark.parametrize(("kind", "least"), [("cubic", 4), ("linear", 2), ("area", 1)])
def test_trials_that_are_too_short_are_skipped_and_counted(kind, least):
    session = session_of([[0]], ms(*((100 * k, 100 * k + 10 * k) for k in range(8))))
    columns = bake(small(resample=kind), session).columns
    assert (columns["start_ns"] // (100 * MS)).tolist() == list(range(least, 8))
    assert (columns["trials.found"].tolist(), columns["trials.short"].tolist()) == ([8], [least])


def chosen(n_trials: int, n_there: int = 30, **values) -> list[int]:
    session = with_trials(session_of([[0]], None), n_there, 20 * MS, 30 * MS)
    return (bake(small(n_trials=n_trials, **values), session).columns["start_ns"] // (30 * MS)).tolist()


def test_choice_of_trials():
    assert chosen(4) == [0, 1, 2, 3]
    block = chosen(4, choose="block", seed=3)
    assert block == list(range(block[0], block[0] + 4))
    some = chosen(4, choose="random", seed=3)
    assert some == sorted(set(some))
    assert len(some) == 4
    blocks = {chosen(4, choose="block", seed=s)[0] for s in range(400)}
    assert blocks == set(range(27))  # every place that a block can have
    assert {k for s in range(60) for k in chosen(4, choose="random", seed=s)} == set(range(30))
    # the words of PCG64 are fixed: these trials for ever
    assert (block, some) == ([2, 3, 4, 5], [0, 4, 20, 28])


def test_all_trials_that_have_enough_bins_and_m_of_them_at_the_cut():
    """The same rows as of a shard of the first M, whatever M is; those of a calibration time are its window's."""
    assert chosen(1, choose="all") == chosen(30, choose="all") == list(range(30))
    session = with_trials(random_session("a", 2), 12, 200 * MS, 400 * MS)
    session = replace(session, observed=whole(session))
    every = bake(small(choose="all"), session).columns
    for m in (1, 5, 12):
        some = bake(small(n_trials=m), session).columns
        np.testing.assert_array_equal(every["matrix"][:m], some["matrix"])
    scheme = small(choose="all")
    tokens = scheme.cut(every, Windows(np.array([0]), np.array([500 * MS]), 2_000 * MS))
    assert (tokens.columns["start_ns"] // MS + 500).tolist() == [800, 1200, 1600, 2000]


def test_a_plan_of_all_trials_is_bounded_by_what_there_is():
    session = with_trials(random_session("a", 2), 12, 200 * MS, 400 * MS)
    scheme, segments = small(choose="all", bin_ns=20 * MS), Intervals([0, 0], [6 * SECOND, 6 * SECOND])
    assert scheme.plan(session_info(session), segments)["matrix"].rows == 24  # each in both segments
    assert scheme.plan(session_info(session), ms((0, 90)))["matrix"].rows == 2  # two bins each at least
    bare = replace(session, intervals={})
    assert scheme.plan(session_info(bare), whole(bare))["matrix"].rows == 3  # of two seconds each
    uncounted = replace(session_info(session), n_trials=None)
    assert scheme.plan(uncounted, whole(session))["matrix"].rows == 150


@pytest.mark.parametrize("choose", ["first", "block", "random", "all"])
def test_fewer_trials_than_asked_for_are_not_repeated(choose):
    assert chosen(10, 7, choose=choose, seed=2) == list(range(7))


def test_a_session_without_trials_gets_some():
    """Laid over each observed stretch from its start; an empty table of trials is none."""
    for trials in (None, Intervals.empty()):
        session = session_of([[5]], trials, observed=ms((0, 70), (100, 130), (200, 219)))
        columns = bake(small(pseudo_ns=20 * MS), session).columns
        assert (columns["start_ns"] // MS).tolist() == [0, 20, 40, 100]
        assert (columns["stop_ns"] // MS).tolist() == [20, 40, 60, 120]
        assert columns["trials.found"].tolist() == [4]


def test_segments_decide_what_is_held_and_never_what_is_chosen():
    """Law 7: a live stream bakes one stretch at a time, and must find the same trials."""
    session = with_trials(random_session("a", 2), 12, 200 * MS, 400 * MS)
    session = replace(session, observed=whole(session))
    scheme = small(choose="random", n_trials=5, seed=1)
    baked = bake(scheme, session).columns
    found = []
    for low in range(0, 6000, 400):
        part = scheme.bake(session, ms((low, low + 400)))
        found += part.columns["start_ns"].tolist()
        assert part.columns["counts.most"].tolist() == [20]
    assert found == baked["start_ns"].tolist()
    # a trial that a segment cuts is in none; overlapping segments both have the one between them
    part = scheme.bake(session, ms((0, 1000), (int(found[0] // MS) - 1, int(found[0] // MS) + 200), (0, 100)))
    held = [k for k in found if k + 200 * MS <= 1000 * MS]
    assert part.columns["start_ns"].tolist() == [*held, found[0]]


def test_a_part_of_the_session_is_named_by_scored():
    """The first two trials of the stretch that calibration may see, not of the session."""
    session = with_trials(session_of([[0]], None), 30, 20 * MS, 30 * MS)
    session = replace(session, intervals={**session.intervals, "seen": ms((500, 900))})
    columns = bake(small(n_trials=2, scored="seen"), session).columns
    assert (columns["start_ns"] // MS).tolist() == [510, 540]


# ---- cuts -----------------------------------------------------------------------------------------------------------


def test_the_whole_session_is_one_tensor():
    session = with_trials(random_session("a", 2), 12, 200 * MS, 400 * MS)
    session = replace(session, observed=whole(session))
    scheme = Calibration(n_trials=8, length=64)
    columns = bake(scheme, session).columns
    tokens = scheme.cut(columns, all_of(session)).columns
    np.testing.assert_array_equal(tokens["matrix"], columns["matrix"])
    by_unit = scheme.by_unit(tokens["matrix"])
    assert by_unit.shape == (8, 5, 64)
    np.testing.assert_array_equal(by_unit[3, 2], columns["matrix"][3, :, 2])
    assert np.shares_memory(by_unit, tokens["matrix"])


def test_a_cut_has_the_trials_that_lie_wholly_inside():
    session = session_of([[105, 115, 205, 305]], ms((100, 120), (200, 240), (300, 320)), 400)
    scheme = small(length=2)
    columns = bake(scheme, session).columns
    windows = Windows(np.zeros(3, np.int64), np.array([100, 101, 80]) * MS, 220 * MS)
    tokens = scheme.cut(columns, windows)
    assert tokens.offset.tolist() == [0, 3, 5, 7]
    assert tokens.columns["start_ns"].tolist() == [t * MS for t in (0, 100, 200, 99, 199, 20, 120)]
    assert tokens.columns["stop_ns"].tolist() == [t * MS for t in (20, 140, 220, 139, 219, 40, 160)]
    assert token_rows(tokens, 2)["bin"].tolist() == [[0, 1, -1, -1], [0, 1, 2, 3]]
    assert token_rows(tokens, 2)["counts"][:, :, 0].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]


def test_dropped_units_are_zero():
    scheme = small(length=9)
    tokens = scheme.cut(bake(scheme, FIVE).columns, all_of(FIVE), np.array([[False, True]])).columns
    assert tokens["matrix"][0].T.tolist() == [[0] * 9, [1] * 9]
    assert tokens["counts"][0].T.tolist() == [[0] * 5, [1] * 5]


def test_units_that_were_not_recorded_in_the_whole_trial():
    own = Ragged(np.array([[0, 1000], [0, 35], [30, 1000]]) * MS, [0, 1, 2, 3])
    session = session_of([[5], [5], [45]], ms((0, 30), (40, 60), (32, 40)), unit_observed=own)
    columns = bake(small(resample="area"), session).columns
    assert columns["unit_observed"].tolist() == [[1, 1, 0], [1, 0, 1]]


def test_detokenize_puts_spikes_into_the_middle_of_scored_bins():
    scored = ms((0, 15), (20, 50))
    session = session_of([[5, 12, 20, 21], [49]], ms((0, 50)), 100)
    session = replace(session, intervals={**session.intervals, "eval": scored})
    scheme, window = small(scored="eval"), all_of(session)
    (known,) = scheme.detokenize(scheme.cut(bake(scheme, session).columns, window), window)
    assert known.time_ns.tolist() == [5 * MS, 25 * MS, 25 * MS, 45 * MS]
    assert known.unit.tolist() == [0, 0, 0, 1]


def test_counts_above_255_are_lost_by_name():
    session = session_of([[5] * 300, [25]], ms((0, 20)), 100)
    baked = bake(small(), session)
    assert baked.columns["counts"].tolist() == [[255, 0], [0, 0]]
    assert baked.lost == {"outside_segments": 0, "outside_trials": 1, "unscored": 0, "saturated": 45}


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_a_table_that_is_not_there():
    session = session_of([[5]], ms((0, 50)))
    with pytest.raises(NotServedError, match="a/b has no intervals 'eval' for calibration to score by: it has trials"):
        bake(small(scored="eval"), session)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bin_ns": 0}, "bin_ns is 0, must be a whole number of at least 1"),
        ({"n_trials": 0}, "n_trials is 0"),
        ({"length": 1}, "length is 1, must be a whole number of at least 2"),
        ({"length": 65_537}, "length is 65537, must be at most 65536"),
        ({"seed": -1}, "seed is -1"),
        ({"smooth_ns": 0.5}, "smooth_ns is 0.5"),
        ({"pseudo_ns": True}, "pseudo_ns is True"),
        ({"resample": "quintic"}, "resample is 'quintic', must be one of cubic, linear, area"),
        ({"choose": "last"}, "choose is 'last', must be one of first, block, random, all"),
        ({"scored": None}, "scored is None, must be the name of a table"),
    ],
)
def test_fields_that_cannot_be(values, words):
    with pytest.raises(UsageError, match=words):
        Calibration(**values)


# ---- golden: read forever -------------------------------------------------------------------------------------------


def write_golden(target: Path) -> None:
    scheme, session = Calibration(10 * MS, length=8), golden_session()
    rule = {"segments_rule": "continuous", "store_digest": "0" * 64, "context": target.parent / "context-v1"}
    write_shard(target, scheme, session, whole(session), **rule)


def test_golden_shard_reads_forever():
    """Two trials; the first has a gap of 20 ms that was not observed."""
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    assert reader.scheme == Calibration(10 * MS, length=8)
    assert reader.lost == {"outside_segments": 0, "outside_trials": 3, "unscored": 0, "saturated": 0}
    window = Windows(np.array([0]), np.array([-10 * MS]), 260 * MS)
    tokens = reader.scheme.cut(reader.columns, window).columns
    assert tokens["start_ns"].tolist() == [10 * MS, 110 * MS]
    assert tokens["stop_ns"].tolist() == [100 * MS, 250 * MS]
    assert tokens["bin"].tolist() == [[0, 1, 2, 3, 6, 7, 8, *[-1] * 7], list(range(14))]
    assert tokens["counts"][0, :4].tolist() == [[1, 0, 0], [0, 0, 1], [2, 0, 1], [0, 0, 0]]
    assert tokens["counts"][1].T.tolist() == [[0, 1, *[0] * 12], [0] * 14, [0] * 14]
    assert tokens["unit_observed"].tolist() == [[1, 0, 1], [1, 1, 0]]
    assert tokens["matrix"].shape == (2, 8, 3)
    assert tokens["matrix"][0, 0].tolist() == [1, 0, 0]
    assert (tokens["matrix"][0, :, 0].min() < -0.1, tokens["matrix"][0, :, 1].any()) == (True, False)


def test_golden_bytes_are_written_today(tmp_path):
    """Who changes a byte of the columns raises the scheme's version and adds a golden shard."""
    write_golden(tmp_path / "shard")
    reader, today = ShardReader(GOLDEN), ShardReader(tmp_path / "shard")
    assert_same({name: today.columns[name] for name in today.columns}, {n: reader.columns[n] for n in reader.columns})


def test_real_size_stays_small():
    """What a plan says of an hour of 1000 units: the matrix, and not more counts than the segments have bins."""
    info = type("Info", (), {"n_units": 1000})
    plan = Calibration().plan(info, Intervals([0], [3600 * SECOND]))
    assert plan["matrix"].nbytes == 10 * 1024 * 1000 * 4
    assert plan["counts"].rows == 180_000
