"""One simulated session in memory, and its name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spiketok.sources.simulator.behaviour import Behaviour, behave
from spiketok.sources.simulator.cells import coupled, drives
from spiketok.sources.simulator.config import TASKS, SimulationConfig
from spiketok.sources.simulator.population import Population, latent_state, populate, spike_ticks
from spiketok.sources.simulator.synapses import synapses
from spiketok.sources.simulator.visual import Seen, see, seen_state, tuned


@dataclass(frozen=True, eq=False)
class Simulated:
    """One session in memory."""

    config: SimulationConfig
    subject: int
    day: int
    behaviour: Behaviour | Seen
    latent: np.ndarray
    population: Population
    ticks: list[np.ndarray]


def simulate_session(config: SimulationConfig, subject: int, day: int) -> Simulated:
    key = (subject, day, list(TASKS).index(config.task))
    population = populate(config, subject, day)
    if config.task == "visual":
        behaviour = see(config, key)
        latent, population = seen_state(config, behaviour), tuned(config, population, subject)
    else:
        behaviour = behave(config, key)
        latent = latent_state(config, behaviour, key)
    if config.cell_types > 1:
        latent = np.hstack([latent, drives(config, len(latent), key)])
        population = coupled(config, population, subject)
    if config.synapses:
        population = replace(population, synapse=synapses(config, population, subject))
    ticks = spike_ticks(config, population, latent, key)
    return Simulated(config, subject, day, behaviour, latent, population, ticks)


def session_name(config: SimulationConfig, subject: int, day: int) -> str:
    return f"sub-S{subject + 1:02d}_ses-{TASKS[config.task]}-day{day + 1:02d}"
