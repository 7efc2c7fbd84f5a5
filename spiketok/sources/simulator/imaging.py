"""dF/F of the simulated units, as a two-photon microscope would see them.

One spike raises dF/F by 0.19 at its peak, 45 ms later, and half of that is gone after another 142 ms: GCaMP6f in mouse
visual cortex (Chen et al., Nature 499, 2013). The time constant of the rise is the one that puts the peak of
exp(-t / decay) - exp(-t / rise) there. Spikes add up; the indicator's saturation is left out.
"""

from __future__ import annotations

import math

import numpy as np

from spiketok.sources.simulator.config import CLOCK_HZ, SimulationConfig
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.population import Population
from spiketok.sources.simulator.streams import CALCIUM, FRAMES, stream

CALCIUM_PEAK, CALCIUM_RISE_S, CALCIUM_DECAY_S = 0.19, 0.0164, 0.205
CALCIUM_NOISE = 0.05  # standard deviation of dF/F in one frame
FRAME_JITTER = 0.01  # standard deviation of a frame's time, in periods; at most 0.05
FRAMES_DROPPED_S = (3.0, 3.5)  # no frame was kept here


def image(
    config: SimulationConfig, population: Population, units: list[np.ndarray], key: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Frame times in seconds, float64 ``[F]``, and dF/F, float32 ``[F, N]``; none in the gap or the dropped stretch.

    A spike that the electrodes missed in the gap does not glow either.
    """
    n_frames = math.ceil(config.duration_s * config.calcium_hz)
    jitter = np.clip(stream(config, FRAMES, *key).standard_normal(n_frames) * FRAME_JITTER, -0.05, 0.05)
    frame_s = np.round((np.arange(n_frames) + 0.5 + jitter) / config.calcium_hz, 6)  # stamps are whole microseconds
    kept = frame_s < config.duration_s
    for start, stop in (FRAMES_DROPPED_S, [ms / 1000 for ms in config.gap_ms]):
        kept &= (frame_s < start) | (frame_s >= stop)
    peak_s = math.log(CALCIUM_DECAY_S / CALCIUM_RISE_S) / (1 / CALCIUM_RISE_S - 1 / CALCIUM_DECAY_S)
    scale = CALCIUM_PEAK / (math.exp(-peak_s / CALCIUM_DECAY_S) - math.exp(-peak_s / CALCIUM_RISE_S))
    glow, signal = compiled().glow, np.empty(n_frames)
    value = np.empty((int(kept.sum()), len(units)), np.float32)
    for row, (neuron, ticks) in enumerate(zip(population.neuron, units, strict=True)):
        glow(ticks / CLOCK_HZ, frame_s, CALCIUM_RISE_S, CALCIUM_DECAY_S, signal)
        noise = stream(config, CALCIUM, *key, int(neuron)).standard_normal(n_frames)
        value[:, row] = np.round(scale * signal + CALCIUM_NOISE * noise, 4)[kept]  # as positions are, see _xy
    return frame_s[kept], value
