"""Neurons that hear each other: the truth file says who, and the spikes show it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spiketok.errors import UsageError
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.sources.simulator.config import TICKS_PER_MS
from spiketok.sources.simulator.session import Simulated, simulate_session
from spiketok.sources.simulator.synapses import DECAY_MS, DELAY_MS
from spiketok.sources.simulator.truth import true_rates

SETTINGS = {"duration_s": 120.0, "n_units": 16, "synapses": 2.0, "tuning_depth": 0.0, "missed_fraction": 0.0}
SETTINGS |= {"refractory_ms": 0.0, "recovery_ms": 0.0}  # which take from the rate, the more the higher it is


@pytest.fixture(scope="module")
def heard() -> Simulated:
    return simulate_session(SimulationConfig(**SETTINGS), 0, 0)


def rate_after(session: Simulated, target: int, source: int, low_ms: float, high_ms: float) -> float:
    """Spikes of one unit a second, so long after the spikes of another."""
    edges = session.ticks[source][:, None] + np.array([low_ms, high_ms]) * TICKS_PER_MS
    inside = np.diff(np.searchsorted(session.ticks[target], edges), axis=1).sum()
    return inside / len(edges) / (high_ms - low_ms) * 1000


def test_spikes_follow_those_that_are_heard_as_much_as_the_truth_says(heard):
    gain, n = heard.population.synapse, len(heard.ticks)
    pairs = np.argwhere(gain > 0)
    assert 20 <= len(pairs) <= 44  # 32 expected
    t_ms = np.arange(20) + 0.5
    wanted = np.exp(gain.max() * np.exp(-t_ms / DECAY_MS)).mean()
    ratios = [
        rate_after(heard, i, j, DELAY_MS, DELAY_MS + 20) / rate_after(heard, i, j, -60, 0) for i, j in pairs.tolist()
    ]
    assert np.median(ratios) == pytest.approx(wanted, rel=0.05)
    apart = [(i, j) for i in range(n) for j in range(n) if i != j and not gain[i, j] and not gain[j, i]]
    ratios = [rate_after(heard, i, j, DELAY_MS, DELAY_MS + 20) / rate_after(heard, i, j, -60, 0) for i, j in apart]
    assert np.median(ratios) == pytest.approx(1, abs=0.12)  # what both hear, or by way of a third, is left


def test_lower_numbers_are_heard_on_all_days(heard):
    later = simulate_session(SimulationConfig(**SETTINGS | {"duration_s": 5.0, "turnover": 0.25}), 0, 1)
    for session in (heard, later):
        number = session.population.neuron
        target, source = np.nonzero(session.population.synapse)
        assert (number[source] < number[target]).all()

    def pairs(session):
        number = session.population.neuron
        return {(int(number[i]), int(number[j])) for i, j in np.argwhere(session.population.synapse)}

    common = set(heard.population.neuron) & set(later.population.neuron)
    assert {p for p in pairs(heard) if set(p) <= common} == {p for p in pairs(later) if set(p) <= common} != set()


def test_a_longer_session_begins_the_same_and_a_gap_takes_spikes_only_from_itself(heard):
    short = simulate_session(SimulationConfig(**SETTINGS | {"duration_s": 20.0}), 0, 0)
    gap = simulate_session(SimulationConfig(**SETTINGS | {"gap_s": 10.0}), 0, 0)
    stop = 20_000 * TICKS_PER_MS
    start_gap, stop_gap = (ms * TICKS_PER_MS for ms in gap.config.gap_ms)
    for whole, begun, torn in zip(heard.ticks, short.ticks, gap.ticks, strict=True):
        np.testing.assert_array_equal(whole[whole < stop], begun)
        np.testing.assert_array_equal(whole[(whole < start_gap) | (whole >= stop_gap)], torn)


def test_files_say_it_and_rates_are_not_promised(tmp_path):
    settings = {"n_subjects": 1, "sessions_per_subject": 1, "duration_s": 5.0, "n_units": 6}
    simulate(SimulationConfig(**settings, synapses=1.0), tmp_path / "with")
    simulate(SimulationConfig(**settings, synapse_gain=2.0), tmp_path / "without")
    (with_path,), (without_path,) = (tmp_path.glob(f"{name}/*/*_truth.npz") for name in ("with", "without"))
    truth, other = dict(np.load(with_path)), dict(np.load(without_path))
    assert truth["synapse"].shape == (6, 6) and "synapse" not in other
    facts = json.loads(next(tmp_path.glob("without/*/*_simulation.json")).read_text())
    assert not {"synapses", "synapse_gain"} & set(facts["config"])
    with pytest.raises(UsageError, match="simulate with synapses=0"):
        true_rates(SimulationConfig(), truth)
