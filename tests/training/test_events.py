"""The task events: what is asked of shards, and the two models without a history against a slow twin."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from spiketok.models.batch import Batch
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes import EventPair
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.base import Group
from spiketok.training.tasks.events import (
    Events,
    EventsConfig,
    Rates,
    count_spikes,
    poisson_log_probability,
    unigram_log_probability,
)
from tests.decodable import decodable_session

STEPS, RATE = 3, np.array([0.5, 0.2, 0.9])
MS = 1_000_000


def sentence_of(counts: np.ndarray) -> list[tuple[int, int]]:
    """The events of counts ``[S, N]``, and the end."""
    n_steps, n = counts.shape
    return [(u, s) for s in range(n_steps) for u in range(n) for _ in range(counts[s, u])] + [(n, 0)]


def twin() -> dict[tuple, dict[tuple[int, int], float]]:
    """By what came before, the probability of each next event: a sum over all counts up to 4 of each cell."""
    found: dict[tuple, dict[tuple[int, int], float]] = {}
    rate = RATE[:2]
    for flat in itertools.product(range(5), repeat=4):
        counts = np.array(flat).reshape(2, 2)
        p = float(np.prod(poisson.pmf(counts, rate)))
        events = sentence_of(counts)
        for k, event in enumerate(events):
            told = found.setdefault(tuple(events[:k]), {})
            told[event] = told.get(event, 0.0) + p
    return found


def test_each_units_rate_gives_what_a_sum_over_all_counts_gives():
    table = twin()
    for before in [(), ((0, 0),), ((1, 0),), ((0, 0), (0, 0)), ((0, 0), (1, 1)), ((1, 1),), ((0, 1),)]:
        told = table[before]
        whole = sum(told.values())
        unit, step = np.zeros(3), np.zeros(2)
        for (u, s), p in told.items():
            unit[u] += p / whole
            step[s] += p / whole if u < 2 else 0
        for u, s in told:
            target = np.array([*before, (u, s)])
            log_p = poisson_log_probability(target, np.arange(len(target)) == 0, RATE[:2], 2)[-1]
            np.testing.assert_allclose(np.exp(log_p[0]), unit[u], rtol=5e-3)
            assert u == 2 or np.exp(log_p[1]) == pytest.approx(step[s] / step.sum(), rel=5e-3)


def test_the_rates_model_is_the_likelihood_of_poisson_counts_and_beats_unigram_on_them():
    """Of a window that cannot say more than units: the units' product is the probability of the counts."""
    rng = np.random.default_rng(0)
    draws = rng.poisson(RATE, (4000, 1, 3))
    windows = [sentence_of(counts) for counts in draws]
    target = np.array([event for window in windows for event in window])
    begins = np.concatenate([np.arange(len(window)) == 0 for window in windows])
    log_p = poisson_log_probability(target, begins, RATE, 1)
    # an event's unit and "it is no more of this unit" add up to the Poisson probability of a window's counts
    np.testing.assert_allclose(log_p[:, 0].sum(), poisson.logpmf(draws, RATE).sum(), rtol=1e-9)
    np.testing.assert_allclose(log_p[:, 1], 0, atol=1e-12)
    unigram = unigram_log_probability(target, Rates(draws.sum((0, 1)), 4000), 1)
    assert log_p.sum() > unigram.sum()


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> SessionTokens:
    made, target = decodable_session("a", 0, n_units=6, seconds=9), tmp_path_factory.mktemp("shard") / "one"
    whole = Intervals([0], [made.stop_ns])
    write_shard(target, EventPair(pad=False), made, whole, segments_rule="continuous", store_digest="d" * 64)
    tokens = SessionTokens({"spikes": ShardReader(target)})
    tokens.__dict__["recorded"] = made
    return tokens


def test_what_is_asked_is_every_spike_in_order_and_each_end(session):
    made, starts = session.__dict__["recorded"], np.array([1000, 1050, 3210]) * MS
    windows = Windows(np.zeros(3, np.int64), starts, 50 * MS)
    batch = Batch({}, 50 * MS, torch.zeros(3, dtype=torch.int64), [session.id] * 3, starts)
    task = Events.resolve("", [session], EventsConfig())
    task.ask([Group(session, slice(0, 3), windows, None)], batch, None)
    expected, asked = [], batch.asked["events"]
    for start in starts:
        spike = (made.spikes.time_ns >= start) & (made.spikes.time_ns < start + 50 * MS)
        step = (made.spikes.time_ns[spike] - start) // (10 * MS)
        expected += [*sorted(zip(step, made.spikes.unit[spike], strict=True)), (0, 6)]
    np.testing.assert_array_equal(asked.target.numpy(), [(unit, step) for step, unit in expected])
    assert asked.offset[-1] == len(expected) and len(asked.offset) == 4
    assert ((asked.ns - np.repeat(starts, np.diff(asked.offset))) < 50 * MS).all()


def test_rates_are_of_training_time_alone(session):
    made, time = session.__dict__["recorded"], Intervals([1_003 * MS, 5_000 * MS], [2_000 * MS, 5_500 * MS])
    found = count_spikes(session.windowed["spikes"], time)
    at, unit = made.spikes.time_ns, made.spikes.unit
    inside = ((at >= 1_010 * MS) & (at < 2_000 * MS)) | ((at >= 5_000 * MS) & (at < 5_500 * MS))
    np.testing.assert_array_equal(found.spikes, np.bincount(unit[inside], minlength=6))
    assert found.steps == 99 + 50
    task = Events("", EventsConfig())
    task.fit([(session, time)])
    again = Events.from_dict(task.to_dict(), EventsConfig()).rates[session.id]
    np.testing.assert_array_equal(again.spikes, found.spikes)
    assert again.steps == found.steps


def test_behind_a_gap_all_observed_time_is_asked(session, monkeypatch):
    """Histories stop at a gap by themselves (tests/tokens/test_schemes.py)."""
    observed = Intervals([0, 3_000 * MS], [2_000 * MS, 5_000 * MS])
    monkeypatch.setattr(SessionTokens, "observed", observed)
    assert Events("", EventsConfig()).usable(session) is observed
