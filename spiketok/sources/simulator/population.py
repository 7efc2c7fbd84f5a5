"""The simulated brain: a latent state that leads the behaviour, neurons that follow it, and their spikes.

Planes of the latent state turn by themselves (Churchland et al. 2012); each neuron's log intensity is a baseline plus
its loadings on the state (Georgopoulos et al. 1982, Moran and Schwartz 1999); spikes are drawn by time rescaling (Brown
et al. 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from spiketok.sources.simulator.behaviour import Behaviour
from spiketok.sources.simulator.cells import drive_names, typed_train
from spiketok.sources.simulator.config import (
    ELECTRODES_PER_REGION,
    MS_PER_SAMPLE,
    ROTATION_HZ,
    SAMPLE_HZ,
    TICKS_PER_MS,
    SimulationConfig,
)
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.streams import DRIFT, LATENT, NEURON, ORDER, SPIKES, TURNOVER, stream, white_noise
from spiketok.sources.simulator.synapses import heard_log_rate
from spiketok.sources.simulator.visual import LATENT as OF_THE_SCREEN

RATE_BLOCK = 2000  # samples of which intensities are computed at a time
MAX_RATE_HZ = 200.0  # the intensity saturates here

# Scales that bring the parts of the latent state to about unit size.
VELOCITY_SCALE_MM_S = 120.0
POSITION_SCALE_MM = 60.0
ROTATION_DECAY_S = 0.25

# ---- latent state ---------------------------------------------------------------------------------------------------


def latent_names(config: SimulationConfig) -> list[str]:
    """The names of the D dimensions of the latent state: planes as pairs, then speed, then the drives of regions."""
    if config.task == "visual":
        return [*OF_THE_SCREEN, *drive_names(config)]
    planes = ["velocity", "position", "goal", *(f"rotation{k + 1}" for k in range(config.n_rotations))]
    return [f"{plane}_{axis}" for plane in planes for axis in "xy"] + ["speed", *drive_names(config)]


def latent_state(config: SimulationConfig, behaviour: Behaviour, key: tuple[int, int, int]) -> np.ndarray:
    """The latent state, float64 ``[T + 1, D]`` at ``SAMPLE_HZ``: the last sample closes the last step."""
    recur = compiled().recur
    n, lead = config.n_samples + 1, config.lag_ms // MS_PER_SAMPLE
    velocity = behaviour.velocity[lead : lead + n] / VELOCITY_SCALE_MM_S
    position = behaviour.position[lead : lead + n] / POSITION_SCALE_MM
    keep = math.exp(-1 / (SAMPLE_HZ * 0.05))
    planes = [velocity, position, recur(keep, (1 - keep) * behaviour.goal[:n].copy())]
    for k in range(config.n_rotations):
        factor = np.exp((-1 / ROTATION_DECAY_S + 2j * np.pi * ROTATION_HZ[k]) / SAMPLE_HZ)
        noise = white_noise(stream(config, LATENT, *key, k), n) * math.sqrt((1 - abs(factor) ** 2) / 2)
        planes.append(recur(factor, noise + velocity * (3.0 / SAMPLE_HZ)))
    return np.column_stack([part for plane in planes for part in (plane.real, plane.imag)] + [np.abs(velocity)])


# ---- neurons --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Population:
    """The neurons of one subject on one day; N rows, the recorded ones, in the order of the sorter's table."""

    neuron: np.ndarray  # int64 [N] identity: the same number is the same neuron, on any day of the subject
    born_day: np.ndarray  # int64 [N] the first day on which it was there
    region: np.ndarray  # int64 [N] index into REGIONS
    electrode: np.ndarray  # int64 [N] row of the electrode table
    multi_unit: np.ndarray  # bool [N]
    baseline: np.ndarray  # float64 [N] log intensity (Hz) at rest
    loading: np.ndarray  # float64 [N, D]
    turned_rad: np.ndarray  # float64 [N] drift since birth: turn of all preferred directions,
    log_gain: np.ndarray  # change of the log of all loadings,
    log_rate: np.ndarray  # change of the log intensity at rest
    missed: np.ndarray  # int64, identities that were there and are not recorded
    cell_type: np.ndarray | None = None  # int64 [N] row of the types of cells, where there are several
    fires_as: np.ndarray | None = None  # int64 [N] the type whose intervals it has
    synapse: np.ndarray | None = None  # float64 [N, N] what a spike of each column adds to the log intensity of a row


def _residents(config: SimulationConfig, subject: int, day: int) -> tuple[np.ndarray, np.ndarray]:
    """Identity and first day of each neuron that is there on a day (from 0)."""
    neuron = np.arange(config.n_units)
    born = np.zeros(config.n_units, np.int64)
    n_new = round(config.turnover * config.n_units)
    for today in range(1, day + 1):
        gone = stream(config, TURNOVER, subject, today).permutation(config.n_units)[:n_new]
        neuron[gone] = config.n_units + (today - 1) * n_new + np.arange(n_new)  # a number is never used again
        born[gone] = today
    return neuron, born


def populate(config: SimulationConfig, subject: int, day: int) -> Population:
    """The population of a day: who is there, how each is tuned by now, and in which order the sorter lists them."""
    neuron, born = _residents(config, subject, day)
    order = stream(config, ORDER, subject, day).permutation(config.n_units)
    missed, order = np.split(order, [int(config.missed_fraction * config.n_units)])
    rows = [_neuron(config, subject, int(neuron[i]), int(born[i]), day) for i in order]
    return Population(
        neuron=neuron[order],
        born_day=born[order],
        missed=np.sort(neuron[missed]),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
    )


def _neuron(config: SimulationConfig, subject: int, neuron: int, born: int, day: int) -> dict[str, Any]:
    """One neuron as it is on a day: as it was born, and what the drift of each day since then has made of it."""
    rng = stream(config, NEURON, subject, neuron)
    region = int(rng.integers(len(config.regions)))
    electrode = region * ELECTRODES_PER_REGION + int(rng.integers(ELECTRODES_PER_REGION))
    multi_unit = bool(rng.random() < config.multi_unit_fraction)
    baseline = math.log(config.rate_median_hz) + config.rate_sigma * rng.standard_normal()
    depth = config.tuning_depth * math.exp(0.25 * rng.standard_normal())
    preferred = 2 * np.pi * rng.random()
    goal = preferred + 0.5 * rng.standard_normal()
    position = 2 * np.pi * rng.random()
    speed = 0.2 + 0.15 * rng.standard_normal()
    on_velocity, on_goal = ((1.1, 0.4), (0.8, 1.0), (1.1, 0.0))[region]  # PMd plans more, S1 does not
    planes = [on_velocity * np.exp(1j * preferred), 0.4 * np.exp(1j * position), on_goal * np.exp(1j * goal)]
    planes += [0.3 * np.exp(2j * np.pi * rng.random()) for _ in range(config.n_rotations)]

    drift = np.zeros(3)
    for today in range(born + 1, day + 1):
        drift += stream(config, DRIFT, subject, neuron, today).standard_normal(3)
    turned = math.radians(config.drift_deg) * drift[0]
    log_gain, log_rate = config.drift_gain * drift[1], config.drift_rate * drift[2]
    turned_planes = np.array(planes) * np.exp(1j * turned)
    loading = depth * math.exp(log_gain) * np.append(turned_planes.view(np.float64), speed)
    return {
        "region": region,
        "electrode": electrode,
        "multi_unit": multi_unit,
        "baseline": baseline + log_rate,
        "loading": loading,
        "turned_rad": turned,
        "log_gain": log_gain,
        "log_rate": log_rate,
    }


# ---- spikes ---------------------------------------------------------------------------------------------------------


def spike_ticks(
    config: SimulationConfig, population: Population, latent: np.ndarray, key: tuple[int, int, int]
) -> list[np.ndarray]:
    """Spike times of each unit, int32 ticks of the clock, strictly rising, none in the gap."""
    spike = compiled().spike
    refractory = math.ceil(config.refractory_ms * TICKS_PER_MS - 1e-9)
    gap_start, gap_stop = (ms * TICKS_PER_MS for ms in config.gap_ms)
    rate_hz = np.empty(config.n_samples * MS_PER_SAMPLE)  # one for all units: it is as long as the session
    units: list[np.ndarray | None] = [None] * len(population.neuron)
    fired: list[np.ndarray | None] = [None] * len(population.neuron)  # also in the gap
    for row in np.argsort(population.neuron).tolist():  # of those that it hears each has fired
        neuron = population.neuron[row]
        cells = 2 if population.multi_unit[row] else 1
        _fill_rate(population.baseline[row] + latent @ population.loading[row], rate_hz)
        if population.synapse is not None:
            rate_hz *= np.exp(heard_log_rate(fired, population.synapse[row], rate_hz.size))
            np.minimum(rate_hz, MAX_RATE_HZ, out=rate_hz)
        expected = rate_hz.sum() / (1000 * cells) + 1  # 1: rounding
        if cells > 1:
            rate_hz /= cells
        trains = []
        for cell in range(cells):
            name = *key, int(neuron), cell
            if population.fires_as is not None:
                trains.append(typed_train(config, int(population.fires_as[row]), rate_hz, refractory, name))
                continue
            rng = stream(config, SPIKES, *name)
            # Refractoriness only takes intensity away: draws that outlast the full integral are enough.
            draw = rng.standard_exponential(16)
            while draw.sum() <= expected:
                draw = np.concatenate([draw, rng.standard_exponential(draw.size)])
            trains.append(spike(rate_hz, draw, refractory, config.recovery_ms * TICKS_PER_MS))
        ticks = np.sort(np.concatenate(trains)) if cells > 1 else trains[0]
        fired[row] = ticks
        recorded = np.diff(ticks, prepend=-1) > 0  # two spikes at the same tick are seen as one
        recorded &= (ticks < gap_start) | (ticks >= gap_stop)
        units[row] = ticks[recorded].astype(np.int32)
    return units


def _fill_rate(log_rate: np.ndarray, rate_hz: np.ndarray) -> None:
    """Intensity in each millisecond: its logarithm is linear between samples and constant within a millisecond.

    In blocks that stay in the processor's cache: hours of milliseconds are long arrays.
    """
    kernels = compiled()
    for low in range(0, log_rate.size - 1, RATE_BLOCK):
        samples = log_rate[low : low + RATE_BLOCK + 1]
        fine = rate_hz[low * MS_PER_SAMPLE :][: (samples.size - 1) * MS_PER_SAMPLE]
        kernels.refine(samples, fine)
        np.exp(fine, out=fine)  # numpy's: it takes eight at a time
        np.minimum(fine, MAX_RATE_HZ, out=fine)
