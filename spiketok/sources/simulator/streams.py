"""The streams of randomness of a simulation, each with its own name, so that no draw changes another's."""

from __future__ import annotations

import numpy as np

from spiketok.sources.simulator.config import SimulationConfig

# What a stream is for; a number here must never change its meaning.
TASK, HAND, LATENT, SPIKES, TURNOVER, ORDER, NEURON, DRIFT, FRAMES, CALCIUM = range(10)
CELL, DRIVE, VISUAL, BURSTS, BURST_GAPS, SYNAPSE = range(20, 26)


def stream(config: SimulationConfig, purpose: int, *name: int) -> np.random.Generator:
    """The stream of randomness with this purpose and name: no draw from one changes what another gives."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(purpose, *name)))


def white_noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """White complex noise ``[n]``, each component of variance 1; a longer one begins the same."""
    return rng.standard_normal((n, 2)).view(np.complex128).reshape(n)
