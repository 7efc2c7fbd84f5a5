"""Divisions: disjoint, covering, the same everywhere; and the guard that keeps windows inside them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.leakage import (
    Reach,
    check_leakage,
    guarded,
    inner,
    outside_ns,
    stated_reach_ns,
    territories,
    with_stated_reach,
)
from spiketok.recording.nouns import Intervals, Spikes
from spiketok.recording.splits import (
    NAMES,
    SplitRule,
    allot,
    assign_days,
    divide_session,
    has_spikes,
    recorded_rule,
    recording_day,
    refuse_silence,
    resolve_splits,
    set_splits,
    stored_sets,
    valid_is_test,
    with_stored_sets,
    without_sets,
)
from spiketok.recording.steps import apply_steps, parse_step, reach_ns
from spiketok.tokens.reach import scheme_reach
from spiketok.tokens.schemes import SCHEMES, Binned, EventPair, Neuron, PerSpike
from spiketok.tokens.shards import ShardReader
from spiketok.training.config import load_config
from spiketok.training.sampling import RandomWindows, SequentialWindows, SessionTokens, SessionWindows
from spiketok.training.tasks.decode import Decode, DecodeConfig, TargetSpec
from tests.made import MS, SECOND, random_session, shard
from tests.reference import leakage as twin

NONE = Intervals.empty()
LOW, HIGH = -8, 40


def intervals(pairs: list[tuple[int, int]]) -> Intervals:
    return Intervals(np.array([a for a, _ in pairs], np.int64), np.array([b for _, b in pairs], np.int64))


def trials_of(pairs: list[tuple[int, int]], **columns: list) -> Intervals:
    made = intervals(pairs)
    return Intervals(made.start_ns, made.stop_ns, {name: np.array(values) for name, values in columns.items()})


# touching, overlapping, empty, one ns long, one as long as everything
pairs = st.lists(
    st.one_of(
        st.tuples(st.integers(LOW, HIGH), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1])),
        st.sampled_from([(LOW, HIGH), (0, 1), (1, 2), (5, 5), (10, 20), (20, 30)]),
    ),
    max_size=12,
)
chosen_rules = st.builds(
    SplitRule,
    kind=st.sampled_from(["block", "trial", "kfold", "all"]),
    seed=st.integers(0, 3),
    k=st.integers(3, 4),
    fold=st.integers(0, 2),
    between=st.sampled_from(["drop", "before", "train"]),
    margin_ms=st.sampled_from([0.0, 1e-6, 3e-6]),
)


# ---- every rule -----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(pairs, pairs, chosen_rules)
def test_any_division_is_disjoint_inside_the_domain_and_the_same_again(domain, trials, rule):
    domain, trials = intervals(domain), intervals(trials)
    try:
        splits = resolve_splits(NONE, domain, rule, trials, "made/one")
    except DataError as error:  # nothing usable is left for a split; never that a rule made splits that overlap
        assert "usable time" in str(error) or "no time left" in str(error) or "has none" in str(error)
        return
    again = resolve_splits(NONE, domain, rule, trials, "made/one")
    seen: set[int] = set()
    for name in NAMES:
        own = twin.moments(splits[name])
        assert own == twin.moments(again[name])
        assert not own & seen
        seen |= own
    assert seen <= twin.moments(domain)
    margin = rule.margin_ns
    for border in check_leakage(splits, Reach.of("margin", margin, margin)):
        assert border.leak_ns == 0
    if margin:
        return
    wanted = twin.moments(domain)
    if rule.kind in ("trial", "kfold"):
        inside = twin.moments(trials)
        first = min(inside, default=HIGH)
        wanted &= {"drop": inside, "before": {t for t in wanted if t >= first}, "train": wanted}[rule.between]
        for start, stop in zip(trials.start_ns.tolist(), trials.stop_ns.tolist(), strict=True):
            holders = [n for n in NAMES if twin.moments(splits[n]) & set(range(start, stop))]
            assert len(holders) <= 1  # a trial is never divided
    assert seen == wanted


# ---- trials ---------------------------------------------------------------------------------------------------------


def many_trials(n: int, **columns: list) -> Intervals:
    return trials_of([(10 * k, 10 * k + 7) for k in range(n)], **columns)


def names_of(splits: dict[str, Intervals], trials: Intervals) -> list[str]:
    found = []
    for start, stop in zip(trials.start_ns, trials.stop_ns, strict=True):
        own = [n for n in NAMES if len(splits[n].intersect(Intervals(np.array([start]), np.array([stop]))))]
        assert len(own) == 1
        found += own
    return found


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from("abcd"), min_size=3, max_size=60),
    st.sampled_from([(0.7, 0.1, 0.2), (0.5, 0.0, 0.5), (0.8, 0.1, 0.1), (1.0, 0.0, 0.0)]),
    st.integers(0, 5),
)
def test_strata_are_divided_by_the_same_shares(labels, shares, seed):
    """Each stratum and the whole are within one trial of their shares, or two for a stratum that evens out others."""
    trials = many_trials(len(labels), direction=labels)
    rule = SplitRule("trial", *shares, seed=seed, stratify="direction")
    names = np.array(names_of(resolve_splits(NONE, intervals([(0, 10_000)]), rule, trials, "made/one"), trials))
    for name, share in zip(NAMES, shares, strict=True):
        assert abs((names == name).sum() - share * len(labels)) < 1
        for label in set(labels):
            own = names[np.array(labels) == label]
            assert abs((own == name).sum() - share * len(own)) < 2
            assert share > 0 or not (own == name).any()


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30))
def test_allotting_owes_less_than_one(sizes):
    shares, owed, total = (0.7, 0.1, 0.2), np.zeros(3), np.zeros(3)
    for n in sizes:
        given_now, owed = allot(n, shares, owed)
        assert given_now.sum() == n
        assert (given_now >= 0).all()
        assert (np.abs(owed) < 1 + 1e-6).all()
        total += given_now
    np.testing.assert_allclose(total + owed, np.array(shares) * sum(sizes), atol=1e-6)


def test_large_strata_are_within_a_trial_of_their_shares():
    labels = np.random.default_rng(0).choice(list("abcd"), 400)
    trials = many_trials(400, direction=labels)
    rule = SplitRule("trial", stratify="direction", seed=1)
    names = np.array(names_of(resolve_splits(NONE, intervals([(0, 10_000)]), rule, trials, "made/one"), trials))
    for label in "abcd":
        own = names[labels == label]
        for name, share in zip(NAMES, rule.shares, strict=True):
            assert abs((own == name).sum() - share * len(own)) < 2


def test_a_seed_gives_another_division():
    trials, domain = many_trials(50), intervals([(0, 10_000)])
    one, same, other = (
        names_of(resolve_splits(NONE, domain, SplitRule("trial", seed=seed), trials, "made/one"), trials)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_time_between_trials_is_left_out_or_goes_with_the_trial_before():
    trials, domain = trials_of([(0, 10), (20, 30), (25, 40), (60, 70)]), intervals([(-5, 100)])
    rule = SplitRule("trial", 1.0, 0.0, 0.0)
    assert twin.moments(resolve_splits(NONE, domain, rule, trials)["train"]) == twin.moments(trials)
    rule = replace(rule, between="before")
    assert twin.moments(resolve_splits(NONE, domain, rule, trials)["train"]) == set(range(100))
    rule = replace(rule, between="train", train=0.0, test=1.0)
    split = resolve_splits(NONE, domain, rule, trials)
    assert twin.moments(split["test"]) == twin.moments(trials)
    assert twin.moments(split["train"]) == set(range(-5, 100)) - twin.moments(trials)


def test_what_a_rule_lacks_is_said():
    domain, trials = intervals([(0, 100)]), trials_of([(0, 10), (20, 30)], when=np.arange(2.0))
    with pytest.raises(DataError, match=r"the session has none.*split.block_s=10"):
        resolve_splits(NONE, domain, SplitRule("kfold"), NONE)
    with pytest.raises(UnknownNameError, match="unknown trial column 'whem'.*did you mean 'when'"):
        resolve_splits(NONE, domain, SplitRule("trial", stratify="whem"), trials)
    many = trials_of([(k, k + 1) for k in range(65)], when=np.arange(65.0))
    with pytest.raises(DataError, match="'when' has 65 values, strata may be 64 at most"):
        resolve_splits(NONE, domain, SplitRule("trial", stratify="when"), many)
    with pytest.raises(DataError, match="has no usable time: 0 of 2 trials"):
        resolve_splits(NONE, intervals([(10, 20)]), SplitRule("trial", 0.0, 0.0, 1.0), trials)
    with pytest.raises(UsageError, match="divides sessions"):
        resolve_splits(NONE, domain, SplitRule("day"), trials)
    for wrong in ({"k": 2}, {"fold": 5}, {"fold": -1}, {"block_s": 0.0}, {"between": "after"}):
        with pytest.raises(UsageError):
            SplitRule("kfold", **wrong)


# ---- folds ----------------------------------------------------------------------------------------------------------


# the first 16 hex digits of `printf a/b/trial/0 | sha256sum`, modulo 3, and so on: who changes a digit here changes
# everybody's folds
GOLDEN_FOLDS = [2, 0, 2, 0, 2, 0, 1, 0, 2, 0, 1, 2]
GOLDEN_BLOCKS = [2, 6, 7]  # of `a/b/block-1000000000/0`, those that are 0


def test_folds_are_the_same_on_every_machine():
    trials, domain = many_trials(12), intervals([(0, 1000)])
    found = [
        names_of(resolve_splits(NONE, domain, SplitRule("kfold", k=3, fold=f), trials, "a/b"), trials) for f in range(3)
    ]
    fold = [[names[t] for names in found].index("test") for t in range(12)]
    assert fold == GOLDEN_FOLDS
    blocks = resolve_splits(NONE, intervals([(0, 10 * SECOND)]), SplitRule("kfold", k=3, block_s=1.0), NONE, "a/b")
    each = [Intervals([k * SECOND], [(k + 1) * SECOND]) for k in range(10)]
    assert [k for k in range(10) if len(blocks["test"].intersect(each[k]))] == GOLDEN_BLOCKS


@given(st.lists(st.integers(0, 200), min_size=4, max_size=30, unique=True), st.data())
def test_a_trial_keeps_its_fold_when_others_come(starts, data):
    kept = data.draw(st.lists(st.sampled_from(starts), unique=True, min_size=1))
    domain = intervals([(0, 10_000)])

    def folds(of: list[int]) -> dict[int, int]:
        trials, found = trials_of([(10 * k, 10 * k + 9) for k in of]), {}
        for fold in range(3):
            try:
                splits = resolve_splits(NONE, domain, SplitRule("kfold", k=3, fold=fold), trials, "a/b")
            except DataError:  # the fold, or all beside it, is empty
                continue
            found |= {int(s) // 10: fold for s in splits["test"].start_ns}
        return found

    many, few = folds(starts), folds(kept)
    assert all(many.get(k, fold) == fold for k, fold in few.items())


def test_each_trial_is_the_test_once():
    trials, domain = many_trials(40), intervals([(0, 1000)])
    names = [
        names_of(resolve_splits(NONE, domain, SplitRule("kfold", fold=f), trials, "a/b"), trials) for f in range(5)
    ]
    for t in range(40):
        own = [of_fold[t] for of_fold in names]
        assert (own.count("test"), own.count("valid"), own.count("train")) == (1, 1, 3)
        assert own[own.index("test") - 1] == "valid"  # fold k is the test where fold k + 1 is valid


# ---- days -----------------------------------------------------------------------------------------------------------


def test_the_last_days_of_each_subject_are_the_test():
    days = {f"a/{k}": ("m", f"2020-01-{k // 2 + 1:02d}") for k in range(20)} | {"a/x": ("n", "2019-01-01")}
    found = assign_days(days, SplitRule("day"))
    assert list(found) == list(days)
    assert [found[f"a/{k}"] for k in range(20)] == ["train"] * 14 + ["valid"] * 2 + ["test"] * 4
    assert found["a/x"] == "train"
    two = assign_days({"a/1": ("m", "2020-01-02"), "a/0": ("m", "2020-01-01")}, SplitRule("day"))
    assert two == {"a/1": "test", "a/0": "train"}


def test_the_day_comes_from_the_source_or_its_info():
    assert recording_day("a/b", "2017-05-08T23:59:59-04:00") == "2017-05-08"
    assert recording_day("a/b", "", {"session_start": "2017-05-08"}) == "2017-05-08"
    with pytest.raises(DataError, match="a/b: .*its source states no start"):
        recording_day("a/b", "")
    with pytest.raises(DataError, match="its start is 'monday'"):
        recording_day("a/b", "monday")


# ---- stored sets ----------------------------------------------------------------------------------------------------


def stored(rows: list[tuple[int, int, str, str]]) -> Intervals:
    made = intervals([(a, b) for a, b, _, _ in rows])
    columns = {"name": np.array([r[2] for r in rows]), "set": np.array([r[3] for r in rows])}
    return Intervals(made.start_ns, made.stop_ns, columns)


def test_a_stored_set_is_chosen_by_name():
    two = stored([(0, 10, "train", ""), (10, 20, "test", ""), (0, 5, "train", "nlb"), (5, 20, "test", "nlb")])
    domain = intervals([(0, 20)])
    assert stored_sets(two) == ["source", "nlb"]
    assert resolve_splits(two, domain, SplitRule())["test"].total_ns == 10  # auto: the first that serves
    assert resolve_splits(two, domain, SplitRule("stored", set="nlb"))["test"].total_ns == 15
    assert resolve_splits(two, domain, SplitRule(set="nlb"))["test"].total_ns == 15
    with pytest.raises(DataError, match=r"2 stored split sets \(source, nlb\): choose by split.set=NAME"):
        resolve_splits(two, domain, SplitRule("stored"))
    with pytest.raises(UnknownNameError, match=r"unknown split set 'nlb2' in the stored splits \(source, nlb\)"):
        resolve_splits(two, domain, SplitRule("stored", set="nlb2"))
    only_test = stored([(0, 10, "test", "falcon"), (10, 20, "minival", "falcon")])
    with pytest.raises(DataError, match="set 'falcon' has test, minival"):
        resolve_splits(only_test, domain, SplitRule("stored"))
    other = stored([(0, 10, "calibration", "falcon"), (10, 20, "minival", "falcon")])
    found = resolve_splits(other, domain, SplitRule())
    assert [found[name].total_ns for name in NAMES] == [10, 0, 10]
    day = stored([(0, 20, "train", "falcon")])  # one file of the archive: all of it is of one kind
    assert resolve_splits(day, domain, SplitRule())["test"].total_ns == 4  # nothing could be scored: blocks
    assert resolve_splits(day, domain, SplitRule("stored", set="falcon"))["train"].total_ns == 20


def test_stored_divisions_are_made_again_from_what_is_recorded():
    session = replace(
        random_session("a", 1), intervals={"trials": many_trials(30)}, splits=stored([(0, 9, "train", "nlb")])
    )
    session = replace(
        session, intervals={"trials": trials_of([(k * SECOND // 5, (k + 1) * SECOND // 5) for k in range(30)])}
    )
    recorded = {"mine": recorded_rule(SplitRule("kfold", k=3)), "days": recorded_rule(SplitRule("day"), "test")}
    made = with_stored_sets(session, recorded)
    assert stored_sets(made.splits) == ["nlb", "days", "mine"]
    wanted = divide_session(session, SplitRule("kfold", k=3))
    for name, part in set_splits(made.splits, "mine").items():
        assert twin_equal(part, wanted[name])
    assert twin_equal(set_splits(made.splits, "days")["test"], session.observed)
    left = without_sets(made.splits, recorded)
    again = with_stored_sets(replace(made, splits=left), recorded)
    for name in ("name", "set"):
        np.testing.assert_array_equal(again.splits.columns[name], made.splits.columns[name])
        assert again.splits.columns[name].dtype == made.splits.columns[name].dtype
    assert "set" not in without_sets(with_stored_sets(replace(session, splits=NONE), recorded).splits, recorded).columns
    with pytest.raises(UsageError, match="'nlb' is the source's own"):
        with_stored_sets(session, {"nlb": recorded["mine"]})
    with pytest.raises(UsageError, match="makes no division"):
        with_stored_sets(session, {"x": {"kind": "auto"}})


def twin_equal(a: Intervals, b: Intervals) -> bool:
    a, b = a.union(), b.union()
    return a.start_ns.tolist() == b.start_ns.tolist() and a.stop_ns.tolist() == b.stop_ns.tolist()


def test_a_rule_is_recorded_by_what_differs_and_read_back():
    rule = SplitRule("trial", 0.5, 0.25, 0.25, seed=3, stratify="direction")
    assert rule.to_dict() == {
        "kind": "trial", "train": 0.5, "valid": 0.25, "test": 0.25, "seed": 3, "stratify": "direction"
    }  # fmt: skip
    assert SplitRule(**rule.to_dict()) == rule


def test_the_rule_is_a_part_of_the_configuration():
    sets = ["split.kind=trial", "split.stratify=direction", "split.seed=3"]
    rule = load_config("poyo", sets=sets).split
    assert (rule.kind, rule.stratify, rule.seed, rule.block_s) == ("trial", "direction", 3, None)
    with pytest.raises(UnknownNameError, match=r"split.folds'.*did you mean 'split.fold'"):
        load_config("poyo", sets=["split.folds=3"])
    with pytest.raises(UsageError, match=r"split.k is 'five', expected int"):
        load_config("poyo", sets=["split.k=five"])


def test_a_shard_carries_sets_and_the_strata_of_trials(tmp_path):
    trials = trials_of([(0, SECOND), (SECOND, 2 * SECOND)], direction=[0.5, np.nan], name=["a", "b"], at=[1, 1])
    own = stored([(0, 9, "train", "nlb"), (9, 20, "test", "mine")])
    session = replace(random_session("a", 1), intervals={"trials": trials}, splits=own)
    reader = shard(tmp_path, session, PerSpike())
    assert reader.splits.columns["set"].tolist() == ["nlb", "mine"]
    assert reader.splits.columns["name"].tolist() == ["train", "test"]
    assert {k: c.tolist() for k, c in reader.trials.columns.items()} == {
        "direction": ["0.5", "nan"], "name": ["a", "b"], "at": ["1", "1"]
    }  # fmt: skip
    rule = SplitRule("trial", 0.5, 0.0, 0.5, stratify="direction")
    here = resolve_splits(NONE, session.observed, rule, trials, session.id)
    there = resolve_splits(NONE, session.observed, rule, reader.trials, session.id)
    assert all(twin_equal(here[n], there[n]) for n in NAMES)


# ---- the guard ------------------------------------------------------------------------------------------------------


@st.composite
def divisions(draw) -> dict[str, Intervals]:
    """Disjoint splits over a few dozen ns: touching, with gaps, of one ns, empty, in any order."""
    edges = sorted(draw(st.lists(st.integers(LOW, HIGH), min_size=2, max_size=9, unique=True)))
    owner = [draw(st.sampled_from(["train", "valid", "test", None])) for _ in edges[1:]]
    stretches = list(zip(edges[:-1], edges[1:], owner, strict=True))
    return {name: intervals([(a, b) for a, b, whose in stretches if whose == name]) for name in NAMES}


class TinyReader:
    """What SessionWindows needs of a shard."""

    def __init__(self, grid_ns: int) -> None:
        self.segments = self.observed = Intervals([LOW], [HIGH])
        self.scheme, self.columns = Binned(grid_ns), {}
        self.info = type("Info", (), {"id": "made/tiny"})()


reaches = st.tuples(st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=80)
@given(divisions(), reaches, st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_no_two_splits_touch_the_same_moment(splits, reach, grid, length, seed):
    """Of all windows that the samplers place, grid and jitter included."""
    reach = Reach.of("tokens", *reach)
    own, touched = territories(splits, reach), {}
    for name, part in splits.items():
        session = SessionWindows(TinyReader(grid), part, reach=reach, within=own[name])
        placed = []
        for sampler in (
            RandomWindows([session], length * grid, seed=seed),
            SequentialWindows([session], length * grid),
        ):
            placed += [(int(t), int(t) + length * grid) for t in sampler.plan(0).start_ns]
        inside = twin.moments(part)
        assert all(set(range(*window)) <= inside for window in placed)
        touched[name] = twin.touched(placed, reach.back_ns, reach.ahead_ns)
    for i, a in enumerate(NAMES):
        assert not any(touched[a] & touched[b] for b in NAMES[i + 1 :])


@settings(max_examples=80)
@given(divisions(), reaches, st.integers(1, 4))
def test_the_report_says_what_leaks_and_the_guard_takes_no_more(splits, reach, length):
    reach = Reach.of("tokens", *reach)
    borders = check_leakage(splits, reach)
    for border in borders:
        assert border.leak_ns == twin.overlap_at_border(border.stop_ns, border.start_ns, reach.back_ns, reach.ahead_ns)
    safe = guarded(splits, reach)
    assert twin.clashes(safe, length, reach.back_ns, reach.ahead_ns) == []
    if not any(border.leak_ns for border in borders):
        assert twin.clashes(splits, length, reach.back_ns, reach.ahead_ns) == []
    lost = sum(len(twin.moments(part)) for part in splits.values()) - sum(
        len(twin.moments(part)) for part in safe.values()
    )
    assert lost <= sum(border.leak_ns for border in borders)
    if not borders or reach == Reach():
        assert lost == 0


@pytest.mark.parametrize(
    ("reach", "train_stop", "test_start"),
    [((5, 0), 20, 25), ((0, 5), 19, 24), ((4, 4), 18, 26), ((3, 1), 20, 24), ((6, 2), 19, 27), ((0, 0), 20, 24)],
)
def test_the_gap_is_divided_as_windows_reach_into_it(reach, train_stop, test_start):
    splits = {"train": intervals([(0, 20)]), "test": intervals([(24, 44)])}
    safe = guarded(splits, Reach.of("tokens", *reach))
    assert (safe["train"].stop_ns.tolist(), safe["test"].start_ns.tolist()) == ([train_stop], [test_start])


@settings(max_examples=40)
@given(divisions(), pairs, reaches)
def test_windows_that_others_cut_are_measured_against_the_territory(splits, cut, reach):
    reach, windows = Reach.of("tokens", *reach), intervals(cut)
    for own in territories(splits, reach).values():
        inside = twin.moments(own.intersect(Intervals([-200], [200])))
        found = outside_ns(windows, own, reach).tolist()
        for far, window in zip(
            found, zip(windows.start_ns.tolist(), windows.stop_ns.tolist(), strict=True), strict=True
        ):
            assert far == len(twin.touched([window], reach.back_ns, reach.ahead_ns) - inside)


@given(divisions(), reaches)
def test_territories_divide_everything(splits, reach):
    own = territories(splits, Reach.of("tokens", *reach))
    far = Intervals([-100], [100])
    held = [name for name in splits if len(splits[name].union())]
    if not held:
        return
    parts = [twin.moments(own[name].intersect(far)) for name in splits]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 200
    for name in held:
        assert twin.moments(splits[name]) <= twin.moments(own[name].intersect(far))


def test_a_scheme_with_a_history_holds_it_inside_what_is_allowed(tmp_path):
    """Without a territory the whole reach stays in the allowed time; what that costs is counted."""
    for scheme, back in ((EventPair(), 150 * MS), (Neuron(view="history", history_bins=11), 200 * MS)):
        reader = shard(tmp_path, random_session("a", 1), scheme)
        allowed = Intervals([0, SECOND], [SECOND // 2, 2 * SECOND])
        session = SessionWindows(reader, allowed)
        assert session.start_ns.tolist() == [back, SECOND + back]
        assert session.stop_ns.tolist() == [SECOND // 2, 2 * SECOND]
        assert session.dropped["split_border_ns"] == 2 * back
        assert sum(session.dropped.values()) == allowed.total_ns - session.total_ns


def test_schemes_state_their_reach():
    assert str(scheme_reach(EventPair())) == "event-pair tokens 150 ms back"
    assert scheme_reach(Binned(edges="right-closed")).ahead_ns == 1
    for name, scheme in SCHEMES.items():
        reach = scheme_reach(scheme())
        assert (reach.back_ns, reach.ahead_ns) == (scheme().lookback_ns, scheme().lookahead_ns), name


def window_reach(reader: ShardReader) -> Reach:
    """How far windows of a run that decodes 'vel' reach: their tokens, and what is asked."""
    tokens = SessionTokens({"tokens": reader})
    return tokens.reach | Decode("vel", DecodeConfig(), TargetSpec("vel", (), "")).reach(tokens)


def test_a_processed_target_reaches_by_its_kernel(tmp_path):
    session = random_session("a", 1)  # 100 Hz
    assert window_reach(shard(tmp_path, session, PerSpike())) == Reach()
    smooth = replace(session, id="made/b", info=with_stated_reach({}, "vel", 80 * MS, 40 * MS))
    reader = shard(tmp_path, smooth, PerSpike())
    assert str(window_reach(reader)) == "'vel' 80 ms back and 40 ms ahead"
    assert SessionTokens({"tokens": reader}).reach == Reach()  # nothing is decoded
    # 5 ms bins take their values from lines between 10 ms samples, at most 25 ms apart
    fine = shard(tmp_path, smooth, Binned(5 * MS))
    reach = window_reach(fine)
    assert (reach.back_ns, reach.ahead_ns) == (80 * MS + 25 * MS - 2_500_000, 40 * MS + 25 * MS - 2_500_000)
    assert window_reach(shard(tmp_path, replace(session, id="made/c"), Binned(20 * MS))) == Reach()


def test_processing_states_the_reach_of_all_its_steps():
    session = random_session("a", 1)  # 100 Hz
    texts = [
        "vel=resample(vel, 50hz)",
        "vel=smooth_gaussian(vel, 20ms)",
        "acc=derivative(vel)",
        "out=mask_outliers(acc, 1)",
    ]
    steps = [parse_step(text) for text in texts]
    made = apply_steps(session, steps)
    for name in ("vel", "acc", "out"):
        assert stated_reach_ns(made.info, name) == reach_ns(steps, name, 10 * MS)
    assert stated_reach_ns(made.info, "acc")[0] > stated_reach_ns(made.info, "vel")[0] > 80 * MS
    assert stated_reach_ns(session.info, "vel") == (0, 0)


def test_inner_leaves_nothing_of_what_is_too_short():
    assert len(inner(Intervals([0, 20], [10, 21]), Reach.of("x", 5, 5))) == 0


def test_valid_time_stands_for_test_time_that_cannot_be_used():
    """NLB's test trials have no behaviour: what can be scored is the valid time, which then validates nothing."""
    second = 10**9
    stored = Intervals(
        np.array([0, 10, 20]) * second,
        np.array([10, 20, 30]) * second,
        {"name": np.array(["train", "valid", "test"]), "set": np.full(3, "nlb")},
    )
    domain = Intervals(np.array([0]), np.array([20 * second]))
    for rule in (SplitRule(), SplitRule("stored"), SplitRule("stored", set="nlb")):
        splits = resolve_splits(stored, domain, rule)
        assert {name: part.total_ns // second for name, part in splits.items()} == {"train": 10, "valid": 0, "test": 10}
        assert valid_is_test(stored, splits, rule)
        whole = resolve_splits(stored, Intervals(np.array([0]), np.array([30 * second])), rule)
        assert {part.total_ns // second for part in whole.values()} == {10}
        assert not valid_is_test(stored, whole, rule)
    blocks = resolve_splits(stored, domain, SplitRule("block", train=0.5, valid=0.5, test=0.0))
    assert len(blocks["test"]) == 0 and not valid_is_test(stored, blocks, SplitRule("block"))


@given(
    parts=st.lists(st.tuples(st.integers(0, 90), st.integers(1, 20)), min_size=1, max_size=4),
    times=st.lists(st.integers(-5, 120), max_size=6),
)
def test_time_without_a_spike_is_refused_as_a_slow_reading_finds_it(parts, times):
    time = Intervals([a for a, _ in parts], [a + n for a, n in parts]).union()
    spikes = Spikes.from_units([np.array(sorted(times), np.int64)])
    heard = any(a <= t < b for t in times for a, b in zip(time.start_ns.tolist(), time.stop_ns.tolist(), strict=True))
    assert has_spikes(spikes, time) == heard
    for name in ("train", "calibration", "valid", "test"):
        splits = {name: time, "other": Intervals.empty()}
        refused = not heard and name in ("train", "calibration")
        with pytest.raises(DataError, match=f"not one spike in its {name} time") if refused else nullcontext():
            refuse_silence("a/b", splits, partial(has_spikes, spikes), "do that")
