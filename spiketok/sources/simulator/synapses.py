"""Neurons that hear each other, with ``synapses`` above 0: the truth that a functional coupling can be held against.

A neuron hears ``synapses`` others on average, of those with lower numbers, so that spikes can be drawn neuron after
neuron. Each spike of one that is heard adds ``synapse_gain`` to the log intensity of the hearer ``DELAY_MS`` later,
and what it added fades with ``DECAY_MS``. Who hears whom is the same on all days of the subject; of neurons that the
sorter missed nothing is heard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spiketok.sources.simulator.config import TICKS_PER_MS, SimulationConfig
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.streams import SYNAPSE, stream

if TYPE_CHECKING:
    from spiketok.sources.simulator.population import Population

DELAY_MS, DECAY_MS = 2, 20.0


def synapses(config: SimulationConfig, population: Population, subject: int) -> np.ndarray:
    """float64 ``[N, N]``: what a spike of unit j adds to the log intensity of unit i; 0 where i does not hear j."""
    neuron = population.neuron
    gain = np.zeros((len(neuron), len(neuron)))
    # over all pairs of n_units neurons, the lower of which may be heard: each hears so many on average
    share = min(2 * config.synapses / max(config.n_units - 1, 1), 1.0)
    for row, number in enumerate(neuron.tolist()):
        heard = stream(config, SYNAPSE, subject, number).random(number) < share
        lower = neuron < number
        gain[row, lower] = config.synapse_gain * heard[neuron[lower]]
    return gain


def heard_log_rate(ticks: list[np.ndarray | None], gain: np.ndarray, n_ms: int) -> np.ndarray:
    """float64 ``[n_ms]``: what all that a unit hears adds to its log intensity in each millisecond.

    Args:
        ticks: of each unit, rising; of those that are not heard None will do. gain: ``[N]``.
    """
    jump = np.zeros(n_ms)
    for source in np.flatnonzero(gain):
        at = ticks[source] // TICKS_PER_MS + DELAY_MS - 1  # a jump is felt in the millisecond behind it
        np.add.at(jump, at[at < n_ms], gain[source])
    return compiled().recur(complex(np.exp(-1 / DECAY_MS)), jump.astype(np.complex128)).real
