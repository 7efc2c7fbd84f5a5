"""The compiled loops of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from spiketok.sources.simulator.config import CLOCK_HZ, MS_PER_SAMPLE, TICKS_PER_MS


class Kernels(NamedTuple):
    recur: Callable
    refine: Callable
    spike: Callable
    glow: Callable


@cache
def compiled() -> Kernels:
    """The compiled loops. They are made here, by the first simulation and not with the package: numba is heavy."""
    from spiketok.compiled import njit

    @njit(nogil=True)
    def recur(factor, drive):
        """``state[k + 1] = factor * state[k] + drive[k]`` from zero; complex128 ``[T]``, returns complex128 ``[T]``."""
        state = np.empty_like(drive)
        now = 0j
        for k in range(drive.size):
            state[k] = now
            now = factor * now + drive[k]
        return state

    @njit(nogil=True)
    def refine(log_rate, fine):
        """Linear between samples, float64 ``[T + 1]``, at each of ``MS_PER_SAMPLE`` steps; at most 20."""
        for k in range(log_rate.size - 1):
            step = log_rate[k + 1] - log_rate[k]
            for j in range(MS_PER_SAMPLE):
                fine[k * MS_PER_SAMPLE + j] = min(log_rate[k] + step * (j / MS_PER_SAMPLE), 20.0)

    @njit(nogil=True)
    def spike(rate_hz, draw, refractory, recovery):
        """Ticks at which one neuron fires.

        The intensity, u ticks after the end of the absolute refractory period, is rate * (1 - exp(-u / recovery)).
        Its integral has a closed form while the rate is constant, so spikes are in continuous time, not on the grid.

        Args:
            rate_hz: float64 ``[M]`` intensity without refractoriness in each millisecond.
            draw: float64, exponential with mean 1, at least as many as there will be spikes, and one.
            refractory: int, ticks. recovery: float, ticks.
        """
        ticks = np.empty(draw.size, np.int64)
        n, left = 0, draw[0]
        free = np.int64(-1_000_000_000)  # when the absolute refractory period ended: long ago
        known_u, known = -1.0, 0.0  # exp(-u / recovery) of the end of the last step is that of this one's start
        for m in range(rate_hz.size):
            rate = rate_hz[m] / CLOCK_HZ
            stop = (m + 1) * TICKS_PER_MS
            now = float(m * TICKS_PER_MS)
            while free < stop:
                a, b = max(now - free, 0.0), float(stop - free)
                curved = recovery > 0.0 and a < 30.0 * recovery
                area = rate * (b - a)
                decay = 0.0
                if curved:
                    decay = known if a == known_u else np.exp(-a / recovery)
                    known_u, known = b, np.exp(-b / recovery)
                    area -= rate * recovery * (decay - known)
                if area < left:
                    left -= area
                    break
                if curved:  # the area rises with u: halve the interval until both ends lie in one tick
                    low, high = a, b
                    for _ in range(40):
                        u = 0.5 * (low + high)
                        part = rate * (u - a - recovery * (decay - np.exp(-u / recovery)))
                        if part < left:
                            low = u
                        else:
                            high = u
                        if np.floor(free + low) == np.floor(free + high):
                            break
                    u = low
                else:
                    u = a + left / rate
                ticks[n] = min(np.int64(np.floor(free + u)), stop - 1)
                now = float(ticks[n])
                free = ticks[n] + refractory
                known_u = -1.0
                n += 1
                left = draw[n]
        return ticks[:n]

    @njit(nogil=True)
    def glow(spike_s, frame_s, rise_s, decay_s, out):
        """``out[f]`` becomes the sum over the spikes before frame f of exp(-t / decay) - exp(-t / rise)."""
        slow, fast, now, i = 0.0, 0.0, 0.0, 0
        for f in range(frame_s.size):
            while i < spike_s.size and spike_s[i] <= frame_s[f]:
                past = spike_s[i] - now
                slow = slow * np.exp(-past / decay_s) + 1.0
                fast = fast * np.exp(-past / rise_s) + 1.0
                now = spike_s[i]
                i += 1
            past = frame_s[f] - now
            out[f] = slow * np.exp(-past / decay_s) - fast * np.exp(-past / rise_s)

    return Kernels(recur, refine, spike, glow)
