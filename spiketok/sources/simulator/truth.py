"""What a bin of a simulated session expects: the bound of every model of its rates.

The truth file holds the intensity of each unit. What is expected of a bin is less, for each spike takes from the
intensity behind it; at 10 Hz of strong tuning the difference is about a fifth. Of cells with types it is not known:
what they fire depends on bursts; nor of neurons that hear each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spiketok.errors import UsageError
from spiketok.sources.simulator.config import MS_PER_SAMPLE, SimulationConfig
from spiketok.sources.simulator.population import MAX_RATE_HZ


def true_rates(config: SimulationConfig, truth: Mapping[str, np.ndarray], bin_ms: int = 20) -> dict[str, np.ndarray]:
    """Spikes a bin, float64 ``[T, N]``: the ``intensity``, and what is ``expected`` of it after refractoriness.

    Args:
        config: of the simulation. truth: the session's truth file. bin_ms: a multiple of the samples' 10 ms; a last
            bin that is not whole is left out.

    Raises:
        UsageError: the bin is no whole number of samples.
    """
    if bin_ms < MS_PER_SAMPLE or bin_ms % MS_PER_SAMPLE:
        message = f"bin_ms is {bin_ms}, must be a multiple of {MS_PER_SAMPLE}, the truth's sampling"
        raise UsageError(message)
    if "cell_type" in truth:
        message = "what is expected of bins of cells with types is not known: simulate with cell_types=1"
        raise UsageError(message)
    if "synapse" in truth:
        message = "what is expected of bins depends on the spikes that are heard: simulate with synapses=0"
        raise UsageError(message)
    log_rate = truth["baseline"] + truth["latent"].astype(np.float64) @ truth["loading"].T
    intensity = np.minimum(np.exp(log_rate), MAX_RATE_HZ)
    cells = np.where(truth["multi_unit"], 2, 1)  # that share a unit's intensity, each with its own refractory period
    expected = cells * rate_after_refractoriness(intensity / cells, config)
    samples = bin_ms // MS_PER_SAMPLE
    whole = len(intensity) // samples * samples
    return {
        name: rate[:whole].reshape(-1, samples, rate.shape[1]).mean(axis=1) * bin_ms / 1000
        for name, rate in (("intensity", intensity), ("expected", expected))
    }


def rate_after_refractoriness(intensity_hz: np.ndarray, config: SimulationConfig) -> np.ndarray:
    """Spikes a second at a constant intensity: 1 over the mean interval; the intensity moves slowly beside it.

    u seconds after the absolute refractory period the intensity is back to ``1 - exp(-u / recovery)`` of itself.
    """
    dead, recovery = config.refractory_ms / 1000, config.recovery_ms / 1000
    grid = np.geomspace(1e-2, MAX_RATE_HZ, 200)
    made = []
    for hertz in grid:
        u = np.concatenate([np.linspace(0, 0.05, 1001), np.linspace(0.05, 0.05 + 20 / hertz, 2001)[1:]])
        back = recovery * (1 - np.exp(-u / recovery)) if recovery else 0.0
        silent = np.exp(-hertz * (u - back))  # the chance of no spike in u
        made.append(1 / (dead + ((silent[1:] + silent[:-1]) / 2 * np.diff(u)).sum()))
    return np.exp(np.interp(np.log(np.maximum(intensity_hz, grid[0])), np.log(grid), np.log(made)))
