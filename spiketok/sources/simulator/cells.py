"""Two types of cells and three regions, with ``cell_types=2``: what a probe of unit vectors can be held against.

Excitatory cells fire bursts: after a spike further ones follow at intervals of 3 to 6 ms, on average 0.35. Inhibitory
ones fire regularly: their intervals are those of a gamma process of order 4, in the time that the intensity rescales.
Both have the same rates: a spike of a burst is taken from the rate of the others, so rates do not tell the types apart.

Regions differ in what their cells share: a drive of their own beside the behaviour, slow in M1, fast in PMd and an
oscillation in S1. It is a dimension of the latent state, and a cell's loading on that of its region is its coupling.

With ``atypical_fraction`` some cells have the intervals of the other type, so that intervals alone do not tell it;
with ``inhibitory_coupling`` the types differ in how they follow the drive, which the cells of a region tell together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spiketok.sources.simulator.config import SAMPLE_HZ, TICKS_PER_MS, SimulationConfig
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.streams import BURST_GAPS, BURSTS, CELL, DRIVE, SPIKES, stream, white_noise

if TYPE_CHECKING:
    from spiketok.sources.simulator.population import Population

CELL_TYPES = ("excitatory", "inhibitory")
INHIBITORY = 1  # its row
INHIBITORY_SHARE = 0.35
BURST_MEAN = 0.35  # spikes that follow one of an excitatory cell
BURST_MS = (3.0, 6.0)
GAMMA_ORDER = 4


@dataclass(frozen=True)
class Drive:
    """What the cells of a region share: noise of one time constant, that turns so often a second."""

    decay_s: float
    turns_hz: float
    coupling: float  # of the log intensity, per standard deviation


DRIVES = {"M1": Drive(0.6, 0.0, 0.35), "PMd": Drive(0.03, 0.0, 0.7), "S1": Drive(0.25, 9.0, 0.6)}


def drive_names(config: SimulationConfig) -> list[str]:
    """The names of the latent dimensions that regions have of their own; none with one type of cells."""
    return [f"drive_{region}" for region in config.regions] if config.cell_types > 1 else []


def drives(config: SimulationConfig, n: int, key: tuple[int, int, int]) -> np.ndarray:
    """float64 ``[n, R]``: the shared drive of each region, of standard deviation 1."""
    columns = []
    for k, region in enumerate(config.regions):
        drive = DRIVES[region]
        factor = np.exp((-1 / drive.decay_s + 2j * np.pi * drive.turns_hz) / SAMPLE_HZ)
        noise = white_noise(stream(config, DRIVE, *key, k), n) * math.sqrt(1 - abs(factor) ** 2)
        columns.append(compiled().recur(factor, noise).real)
    return np.column_stack(columns)


def coupled(config: SimulationConfig, population: Population, subject: int) -> Population:
    """The population with its types of cells, single ones, and its loadings on the drives of the regions."""
    n_units = len(population.neuron)
    coupling = np.zeros((n_units, len(config.regions)))
    kind, atypical = np.zeros(n_units, np.int64), np.zeros(n_units, np.bool_)
    for row, (neuron, region) in enumerate(zip(population.neuron, population.region, strict=True)):
        rng = stream(config, CELL, subject, int(neuron))
        kind[row] = int(rng.random() < INHIBITORY_SHARE)
        coupling[row, region] = DRIVES[config.regions[region]].coupling * math.exp(0.2 * rng.standard_normal())
        atypical[row] = rng.random() < config.atypical_fraction
    coupling *= config.coupling * np.where(kind == INHIBITORY, config.inhibitory_coupling, 1.0)[:, None]
    loading = np.hstack([population.loading, coupling])
    fires_as = np.where(atypical, 1 - kind, kind)
    single = np.zeros(n_units, np.bool_)
    return replace(population, loading=loading, cell_type=kind, fires_as=fires_as, multi_unit=single)


def typed_train(
    config: SimulationConfig, kind: int, rate_hz: np.ndarray, refractory: int, name: tuple[int, ...]
) -> np.ndarray:
    """Ticks at which a cell of a type fires, int64, strictly rising.

    Args:
        kind: a row of ``CELL_TYPES``. rate_hz: intensity in each millisecond. refractory: ticks. name: of its streams.
    """
    rng = stream(config, SPIKES, *name)
    inhibitory = kind == INHIBITORY
    rate_hz = rate_hz if inhibitory else rate_hz / (1 + BURST_MEAN)
    expected, order = rate_hz.sum() / 1000 + 1, GAMMA_ORDER if inhibitory else 1
    draw = rng.standard_gamma(order, 16) / order
    while draw.sum() <= expected:
        draw = np.concatenate([draw, rng.standard_gamma(order, draw.size) / order])
    ticks = compiled().spike(rate_hz, draw, refractory, config.recovery_ms * TICKS_PER_MS)
    if inhibitory or not ticks.size:
        return ticks
    # streams of their own, one a kind of draw: a longer session begins with the same bursts
    follow = stream(config, BURSTS, *name).geometric(1 / (1 + BURST_MEAN), ticks.size) - 1
    gap = np.rint(stream(config, BURST_GAPS, *name).uniform(*BURST_MS, int(follow.sum())) * TICKS_PER_MS).astype(
        np.int64
    )
    first = np.cumsum(follow) - follow
    since = np.cumsum(gap) - np.repeat(np.concatenate([[0], np.cumsum(gap)])[first], follow)
    ticks = np.sort(np.concatenate([ticks, np.repeat(ticks, follow) + since]))
    ticks = ticks[ticks < rate_hz.size * TICKS_PER_MS]
    return ticks[np.diff(ticks, prepend=-refractory - 1) > refractory]
