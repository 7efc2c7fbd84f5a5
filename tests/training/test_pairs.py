"""Pairs of windows: where the second lies, that nothing tears the two apart, and what is found again."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes import PerSpike
from spiketok.training.loader import Loader
from spiketok.training.pairs import PairWindows
from spiketok.training.sampling import SessionWindows
from spiketok.training.tasks.embed import found_again
from tests.made import MS, SECOND, random_session, shard

WINDOW, DISTANCE = 200 * MS, 700 * MS
ALLOWED = Intervals([0, 2_500 * MS], [2_000 * MS, 5_900 * MS])


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [SessionWindows(shard(folder, random_session(f"p{k}", k), PerSpike()), ALLOWED) for k in range(3)]


def sampler_of(sessions, **options) -> PairWindows:
    return PairWindows(sessions, **({"window_ns": WINDOW, "distance_ns": DISTANCE, "seed": 1} | options))


@pytest.mark.parametrize("training", [True, False])
def test_the_second_lies_near_the_first_in_the_same_session(sessions, training):
    sampler = sampler_of(sessions, training=training)
    plan = sampler.plan(2)
    assert len(plan) and len(plan) % 2 == 0
    assert np.array_equal(plan.session[::2], plan.session[1::2])
    apart = np.abs(plan.start_ns[::2] - plan.start_ns[1::2])
    assert apart.max() <= DISTANCE
    assert apart.max() > DISTANCE / 2
    assert training or apart.min() >= WINDOW
    for k, start in zip(plan.session.tolist(), plan.start_ns.tolist(), strict=True):
        own = sessions[k]
        assert ((own.start_ns <= start) & (start + WINDOW <= own.stop_ns)).any()
    again = sampler.plan(2)
    assert np.array_equal(plan.start_ns, again.start_ns)
    assert np.array_equal(plan.start_ns, sampler.plan(3).start_ns) is not training


def test_the_second_is_uniform_over_the_places_there_are(sessions):
    """Far from every edge: as often before as behind, and as often near as far."""
    sampler = sampler_of(sessions[:1])
    first = np.full(4000, 4_000 * MS)
    _, start = sampler._seconds(sessions[0], first, np.random.default_rng(0))
    share = np.histogram((start - 4_000 * MS) / DISTANCE, np.linspace(-1, 1, 6))[0] / 4000
    assert np.abs(share - 0.2).max() < 0.03


@pytest.mark.parametrize("one_session", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_no_pair_is_torn_by_batch_or_rank(sessions, one_session, world, training):
    sampler = sampler_of(sessions, training=training)
    whole = sampler.plan(0)
    pairs = {
        (sessions[k].id, a, b)
        for k, a, b in zip(whole.session[::2].tolist(), whole.start_ns[::2], whole.start_ns[1::2], strict=True)
    }
    met = []
    for rank in range(world):
        loader = Loader(sessions, sampler, batch_size=4, one_session=one_session, rank=rank, world=world, prefetch=0)
        for batch in loader:
            assert len(batch) % 2 == 0
            assert batch.sessions[::2] == batch.sessions[1::2]
            met += zip(batch.sessions[::2], batch.start_ns[::2].tolist(), batch.start_ns[1::2].tolist(), strict=True)
    assert set(met) <= pairs
    if not training:
        assert set(met) == pairs


def test_a_batch_of_half_a_pair_is_refused(sessions):
    with pytest.raises(UsageError, match="batch_size is 5, windows come 2 at a time"):
        Loader(sessions, sampler_of(sessions), batch_size=5)


def test_no_second_window_is_an_error_that_says_so(sessions):
    with pytest.raises(DataError, match="no window of 200 ms has a second one that starts within 0.1 s of it"):
        sampler_of(sessions, training=False, distance_ns=SECOND // 10).plan(0)


def test_found_again_counts_both_ways():
    first = np.array([[1.0, 0], [0, 1], [1, 1]])
    second = np.array([[0.9, 0.1], [0.8, 0.0]])  # of units 0 and 1; the second now looks like unit 0
    hit, chance = found_again(first, second, np.array([0, 1, 2]), np.array([0, 1]))
    assert hit.tolist() == [False, False, True, False]
    assert chance.tolist() == [1 / 2, 1 / 2, 1 / 3, 1 / 3]
