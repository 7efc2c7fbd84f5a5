"""The simulator: sessions with a known truth, written as real NWB files.

What it makes: one or more subjects, each recorded on several days while they move a cursor, as

    <folder>/sub-S01/sub-S01_ses-CO-day01_behavior+ecephys.nwb      what a laboratory would publish
    <folder>/sub-S01/sub-S01_ses-CO-day01_truth.npz                 what only a simulator knows (:func:`simulate`)
    <folder>/sub-S01/sub-S01_ses-CO-day01_simulation.json           settings, fingerprint and digests, written last

and, with ``calcium_hz``, dF/F of the same units in the same NWB file.

How: kinematics (minimum-jerk reaches, Flash and Hogan 1985) drive a latent state that leads them by ``lag_ms``; the
state has planes that turn by themselves and noise of its own (rotational dynamics, Churchland et al. 2012); each
neuron's log intensity is a baseline plus its loadings on the state (cosine tuning to velocity, Georgopoulos et al.
1982, with speed as in Moran and Schwartz 1999); spikes are drawn in continuous time by time rescaling (Brown et al.
2002) from a process with an absolute and a relative refractory period, and stamped by a 30 kHz clock.

What is unusual:
- A point in the plane is one complex number: x + iy. So turning a preferred direction is one multiplication.
- Each random choice has its own stream, named by subject, day and purpose (numpy ``SeedSequence``). A longer session
  begins with the same behaviour and the same spikes; more days or subjects change no other file.
- The same settings give the same bytes: dates are fixed and the ids of all NWB objects follow from their place in
  the file, where pynwb would draw them at random.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spiketok.errors import SpiketokError, UnknownNameError, UsageError
from spiketok.storage import files

SIMULATOR_VERSION = 1  # part of every fingerprint: raise it when the same settings come to give other data
CLOCK_HZ = 30_000  # the recording's clock; every spike time is a whole number of its ticks
SAMPLE_HZ = 100  # behaviour and latent state
TICKS_PER_MS = CLOCK_HZ // 1000
MS_PER_SAMPLE = 1000 // SAMPLE_HZ
RATE_BLOCK = 2000  # samples of which intensities are computed at a time

TASKS = {"center_out": "CO", "random_target": "RT"}  # task -> its short name in the session's name
REGIONS = ("M1", "PMd")
ELECTRODES_PER_REGION = 48
MAX_RATE_HZ = 200.0  # the intensity saturates here

# Scales that bring the parts of the latent state to about unit size.
VELOCITY_SCALE_MM_S = 120.0
POSITION_SCALE_MM = 60.0
ROTATION_HZ = (1.3, 2.1, 3.0, 0.8)  # how fast each turning plane turns; one row a plane, n_rotations are used
ROTATION_DECAY_S = 0.25

# Imaging. One spike raises dF/F by 0.19 at its peak, 45 ms later, and half of that is gone after another 142 ms:
# GCaMP6f in mouse visual cortex (Chen et al., Nature 499, 2013). The time constant of the rise is the one that puts the
# peak of exp(-t / decay) - exp(-t / rise) there. Spikes add up; the indicator's saturation is left out.
CALCIUM_PEAK, CALCIUM_RISE_S, CALCIUM_DECAY_S = 0.19, 0.0164, 0.205
CALCIUM_NOISE = 0.05  # standard deviation of dF/F in one frame
FRAME_JITTER = 0.01  # standard deviation of a frame's time, in periods; at most 0.05
FRAMES_DROPPED_S = (3.0, 3.5)  # no frame was kept here

# Task geometry.
REACH_MM = 100.0
TARGET_RADIUS_MM = 10.0
WORKSPACE_MM = 160.0  # side of the square that random targets are drawn from
HAND_NOISE_MM = 0.6  # standard deviation of slow wandering about the planned path, per component
HAND_NOISE_TAU_S = 0.2

# The streams of randomness; a number here must never change its meaning.
_TASK, _HAND, _LATENT, _SPIKES, _TURNOVER, _ORDER, _NEURON, _DRIFT, _FRAMES, _CALCIUM = range(10)


def _setting(default: Any, low: float, high: float) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class SimulationConfig:
    """All settings of a simulation; the defaults suit the demo.

    Raises:
        UsageError: a value has the wrong type, is out of range, or does not fit another.

    Example:
        >>> SimulationConfig(task="random_target").n_units
        60
    """

    seed: int = _setting(0, 0, 2**63 - 1)
    task: str = "center_out"  # or "random_target": reach follows reach without a pause
    n_subjects: int = _setting(2, 1, 99)
    sessions_per_subject: int = _setting(4, 1, 99)  # one a day
    duration_s: float = _setting(300.0, 5.0, 14400.0)  # of each session, in steps of 10 ms
    failure_fraction: float = _setting(0.1, 0.0, 0.9)  # of trials: target missed, or moved before the go cue
    gap_s: float = _setting(0.0, 0.0, 3600.0)  # nothing is recorded from the brain this long, about the middle

    n_units: int = _setting(60, 1, 2000)  # neurons at the electrodes of a subject on each day
    missed_fraction: float = _setting(0.05, 0.0, 0.9)  # of them not found by the sorter that day, rounded down
    multi_unit_fraction: float = _setting(0.1, 0.0, 1.0)  # chance that a unit is two neurons taken for one
    rate_median_hz: float = _setting(5.0, 0.01, 100.0)  # intensity at rest: log-normal over neurons, this median
    rate_sigma: float = _setting(0.6, 0.0, 2.0)  # and this standard deviation of the natural logarithm
    tuning_depth: float = _setting(0.55, 0.0, 2.0)  # median over neurons: log intensity per 120 mm/s, best direction
    refractory_ms: float = _setting(1.5, 0.0, 20.0)  # absolute: no second spike; rounded up to the clock's ticks
    recovery_ms: float = _setting(2.0, 0.0, 50.0)  # relative: time constant of the return to full intensity
    lag_ms: int = _setting(100, 0, 500)  # how far the latent state leads the behaviour, in steps of 10 ms
    n_rotations: int = _setting(2, 0, len(ROTATION_HZ))  # turning planes; the latent state has 7 + 2 n dimensions

    turnover: float = _setting(0.25, 0.0, 1.0)  # fraction of neurons that others replace from one day to the next
    drift_deg: float = _setting(20.0, 0.0, 180.0)  # standard deviation of the daily turn of a preferred direction
    drift_gain: float = _setting(0.1, 0.0, 2.0)  # of the daily change of a neuron's log tuning depth
    drift_rate: float = _setting(0.2, 0.0, 2.0)  # of the daily change of its log intensity at rest

    calcium_hz: float = _setting(0.0, 0.0, 90.0)  # frames of dF/F of the same units each second; 0: not imaged

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UnknownNameError("task", str(self.task), TASKS, place="the simulation settings")
        for field in dataclasses.fields(self):
            if field.metadata:
                _check_number(self, field)
        for name, per_sample in (("duration_s", 1 / SAMPLE_HZ), ("gap_s", 1 / SAMPLE_HZ), ("lag_ms", MS_PER_SAMPLE)):
            value = getattr(self, name)
            samples = value / per_sample
            if abs(samples - round(samples)) > 1e-6:
                message = f"simulation setting {name} = {value!r}: must be a multiple of {per_sample:g}"
                raise UsageError(message)
        if 0 < self.calcium_hz < 1:
            message = f"simulation setting calcium_hz = {self.calcium_hz!r}: must be 0 (no imaging) or from 1 to 90"
            raise UsageError(message)
        if self.gap_s > self.duration_s / 2:
            limit = f"must be at most half of duration_s = {self.duration_s!r}"
            message = f"simulation setting gap_s = {self.gap_s!r}: {limit}"
            raise UsageError(message)

    @property
    def n_samples(self) -> int:
        """Behaviour samples in a session."""
        return round(self.duration_s * SAMPLE_HZ)

    @property
    def gap_ms(self) -> tuple[int, int]:
        """Where the gap lies, half-open; empty (equal ends) without one."""
        length = round(self.gap_s * SAMPLE_HZ)
        start = (self.n_samples - length) // 2
        return start * MS_PER_SAMPLE, (start + length) * MS_PER_SAMPLE


def _check_number(config: SimulationConfig, field: dataclasses.Field) -> None:
    value, low, high = getattr(config, field.name), field.metadata["low"], field.metadata["high"]
    whole = isinstance(field.default, int)
    kind = "whole number" if whole else "number"
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (fits and low <= value <= high):  # also refuses NaN
        message = f"simulation setting {field.name} = {value!r}: must be a {kind} from {low:g} to {high:g}"
        raise UsageError(message)
    if not whole:
        object.__setattr__(config, field.name, float(value))  # 300 and 300.0 are the same simulation


# --- streams -----------------------------------------------------------------------------------------------------


def _stream(config: SimulationConfig, purpose: int, *name: int) -> np.random.Generator:
    """The stream of randomness with this purpose and name: no draw from one changes what another gives."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(purpose, *name)))


class _Kernels(NamedTuple):
    recur: Callable
    refine: Callable
    spike: Callable
    glow: Callable


@cache
def _kernels() -> _Kernels:
    """The compiled loops. Numba is imported here, by the first simulation and not with the package."""
    from numba import njit

    @njit(cache=True, nogil=True)
    def recur(factor, drive):
        """``state[k + 1] = factor * state[k] + drive[k]`` from zero; complex128 ``[T]``, returns complex128 ``[T]``."""
        state = np.empty_like(drive)
        now = 0j
        for k in range(drive.size):
            state[k] = now
            now = factor * now + drive[k]
        return state

    @njit(cache=True, nogil=True)
    def refine(log_rate, fine):
        """Linear between samples, float64 ``[T + 1]``, at each of ``MS_PER_SAMPLE`` steps; at most 20."""
        for k in range(log_rate.size - 1):
            step = log_rate[k + 1] - log_rate[k]
            for j in range(MS_PER_SAMPLE):
                fine[k * MS_PER_SAMPLE + j] = min(log_rate[k] + step * (j / MS_PER_SAMPLE), 20.0)

    @njit(cache=True, nogil=True)
    def spike(rate_hz, draw, refractory, recovery):
        """Ticks at which one neuron fires.

        The intensity, u ticks after the end of the absolute refractory period, is rate * (1 - exp(-u / recovery)).
        Its integral has a closed form where the rate is constant, so spikes lie in continuous time, not on the grid.

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

    @njit(cache=True, nogil=True)
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

    return _Kernels(recur, refine, spike, glow)


# --- behaviour ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reach:
    """One minimum-jerk movement; positions are complex, in mm."""

    start_s: float
    length_s: float
    shift: complex  # end minus start
    bend: complex  # how far the middle of the path lies off the straight line

    def add_to(self, position: np.ndarray) -> None:
        """Add the movement to positions sampled at ``SAMPLE_HZ`` from time zero; after its end the shift stays."""
        first = min(max(math.ceil(self.start_s * SAMPLE_HZ), 0), position.size)
        last = min(math.ceil((self.start_s + self.length_s) * SAMPLE_HZ), position.size)
        x = (np.arange(first, last) / SAMPLE_HZ - self.start_s) / self.length_s
        position[first:last] += self.shift * _progress(x) + self.bend * 64 * (x * (1 - x)) ** 3
        position[last:] += self.shift


def _progress(x):
    """The minimum-jerk profile: 0 to 1 with no velocity and no acceleration at both ends."""
    return x * x * x * (10 - 15 * x + 6 * x * x)


@dataclass(frozen=True)
class _Trial:
    start_s: float
    stop_s: float
    target_on_s: float
    go_cue_s: float  # NaN where the subject moved before it came
    move_onset_s: float
    target: complex  # mm
    direction_rad: float  # from where the movement should begin
    result: str  # R rewarded, F target missed, A aborted


def _polar(rng: np.random.Generator, low_mm: float, high_mm: float) -> complex:
    """An offset of uniform direction and of a length between the two."""
    return rng.uniform(low_mm, high_mm) * np.exp(2j * np.pi * rng.random())


def _bend(rng: np.random.Generator, shift: complex) -> complex:
    return shift * 1j * float(np.clip(rng.normal(0, 0.06), -0.2, 0.2))


def _center_out(config: SimulationConfig, rng: np.random.Generator) -> Iterator[tuple[_Trial, list[_Reach]]]:
    """Hold, target on, delay, go cue, reach, hold, return; eight targets in shuffled blocks."""
    now, hand, block = 0.2, 0j, []
    while True:
        if not block:
            block = list(rng.permutation(8))
        direction = float(block.pop() * np.pi / 4)
        target = REACH_MM * np.exp(1j * direction)
        start, fails = now, rng.random() < config.failure_fraction
        on = start + rng.uniform(0.2, 0.4)
        delay = rng.uniform(0.2, 0.7)
        aborts = fails and rng.random() < 0.5
        if aborts:
            go, onset, length = math.nan, on + rng.uniform(0.3, 0.9) * delay, 0.3
            end = rng.uniform(0.2, 0.3) * target
        else:
            go = on + delay
            onset = go + float(np.clip(rng.normal(0.27, 0.04), 0.18, 0.4))
            length = float(np.clip(rng.normal(0.5, 0.05), 0.35, 0.65))
            end = target + (_polar(rng, 15, 30) if fails else _polar(rng, 0, 7))
        out = _Reach(onset, length, end - hand, _bend(rng, end - hand))
        stop = onset + length + rng.uniform(0.2, 0.35)
        home = _polar(rng, 0, 3)
        back = _Reach(stop + rng.uniform(0.1, 0.25), rng.uniform(0.5, 0.65), home - end, _bend(rng, home - end))
        hand, now = home, back.start_s + back.length_s + rng.uniform(0.1, 0.3)
        result = "A" if aborts else "F" if fails else "R"
        yield _Trial(start, stop, on, go, onset, target, direction, result), [out, back]


def _random_target(config: SimulationConfig, rng: np.random.Generator) -> Iterator[tuple[_Trial, list[_Reach]]]:
    """The next target appears as the cursor enters the last, and the hand turns to it before it has come to rest."""
    now, hand = 0.2, 0j
    x = np.linspace(0, 1, 1001)
    while True:
        target = hand
        while not 40 <= abs(target - hand) <= 130:
            target = complex(*rng.uniform(-WORKSPACE_MM / 2, WORKSPACE_MM / 2, 2))
        fails = rng.random() < config.failure_fraction
        error = _polar(rng, 15, 25) if fails else _polar(rng, 0, 4)
        end = target + error
        shift = end - hand
        onset = now + rng.uniform(0.08, 0.14)
        length = (0.35 + abs(shift) / 250) * rng.uniform(0.9, 1.1)
        if fails:
            stop = onset + length + 0.1  # never entered: time runs out
        else:
            inside = 1 - (TARGET_RADIUS_MM - abs(error)) / abs(shift)
            stop = onset + length * float(np.interp(inside, _progress(x), x))
        direction = float(np.angle(target - hand))
        trial = _Trial(now, stop, now, now, onset, target, direction, "F" if fails else "R")
        hand, now = end, stop
        yield trial, [_Reach(onset, length, shift, _bend(rng, shift))]


@dataclass(frozen=True, eq=False)
class _Behaviour:
    """Complex ``[T]`` at ``SAMPLE_HZ``; longer than the session by the neural lead and one sample."""

    position: np.ndarray  # mm
    velocity: np.ndarray  # mm/s
    goal: np.ndarray  # direction of the target, length 1, while the subject waits for its movement
    trials: list[_Trial]  # that end within the session


def _behave(config: SimulationConfig, key: tuple[int, int, int]) -> _Behaviour:
    n = config.n_samples + config.lag_ms // MS_PER_SAMPLE + 2
    position, goal, trials = np.zeros(n, np.complex128), np.zeros(n, np.complex128), []
    make = {"center_out": _center_out, "random_target": _random_target}[config.task]
    for trial, reaches in make(config, _stream(config, _TASK, *key)):
        if trial.start_s * SAMPLE_HZ > n:
            break
        for reach in reaches:
            reach.add_to(position)
        waiting = slice(round(trial.target_on_s * SAMPLE_HZ), round(trial.move_onset_s * SAMPLE_HZ))
        goal[waiting] = np.exp(1j * trial.direction_rad)
        if trial.stop_s <= config.duration_s:
            trials.append(trial)
    recur = _kernels().recur
    keep = math.exp(-1 / (SAMPLE_HZ * HAND_NOISE_TAU_S))
    wander = recur(keep, recur(keep, _noise(_stream(config, _HAND, *key), n)))  # twice filtered: it has a velocity
    # The variance of white noise grows by this factor in passing the same first-order filter twice.
    growth = (1 + keep**2) / (1 - keep**2) ** 3
    position += wander * HAND_NOISE_MM / math.sqrt(growth)
    return _Behaviour(position, np.gradient(position) * SAMPLE_HZ, goal, trials)


def _noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """White complex noise ``[n]``, each component of variance 1; a longer one begins the same."""
    return rng.standard_normal((n, 2)).view(np.complex128).reshape(n)


# --- latent state ------------------------------------------------------------------------------------------------


def latent_names(config: SimulationConfig) -> list[str]:
    """The names of the D dimensions of the latent state: planes as pairs, speed last."""
    planes = ["velocity", "position", "goal", *(f"rotation{k + 1}" for k in range(config.n_rotations))]
    return [f"{plane}_{axis}" for plane in planes for axis in "xy"] + ["speed"]


def _latent_state(config: SimulationConfig, behaviour: _Behaviour, key: tuple[int, int, int]) -> np.ndarray:
    """The latent state, float64 ``[T + 1, D]`` at ``SAMPLE_HZ``: the last sample closes the last step."""
    recur = _kernels().recur
    n, lead = config.n_samples + 1, config.lag_ms // MS_PER_SAMPLE
    velocity = behaviour.velocity[lead : lead + n] / VELOCITY_SCALE_MM_S
    position = behaviour.position[lead : lead + n] / POSITION_SCALE_MM
    keep = math.exp(-1 / (SAMPLE_HZ * 0.05))
    planes = [velocity, position, recur(keep, (1 - keep) * behaviour.goal[:n].copy())]
    for k in range(config.n_rotations):
        factor = np.exp((-1 / ROTATION_DECAY_S + 2j * np.pi * ROTATION_HZ[k]) / SAMPLE_HZ)
        noise = _noise(_stream(config, _LATENT, *key, k), n) * math.sqrt((1 - abs(factor) ** 2) / 2)
        planes.append(recur(factor, noise + velocity * (3.0 / SAMPLE_HZ)))
    return np.column_stack([part for plane in planes for part in (plane.real, plane.imag)] + [np.abs(velocity)])


# --- neurons -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Population:
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


def _residents(config: SimulationConfig, subject: int, day: int) -> tuple[np.ndarray, np.ndarray]:
    """Identity and first day of each neuron that is there on a day (from 0)."""
    neuron = np.arange(config.n_units)
    born = np.zeros(config.n_units, np.int64)
    n_new = round(config.turnover * config.n_units)
    for today in range(1, day + 1):
        gone = _stream(config, _TURNOVER, subject, today).permutation(config.n_units)[:n_new]
        neuron[gone] = config.n_units + (today - 1) * n_new + np.arange(n_new)  # a number is never used again
        born[gone] = today
    return neuron, born


def _populate(config: SimulationConfig, subject: int, day: int) -> _Population:
    """The population of a day: who is there, how each is tuned by now, and in which order the sorter lists them."""
    neuron, born = _residents(config, subject, day)
    order = _stream(config, _ORDER, subject, day).permutation(config.n_units)
    missed, order = np.split(order, [int(config.missed_fraction * config.n_units)])
    rows = [_neuron(config, subject, int(neuron[i]), int(born[i]), day) for i in order]
    return _Population(
        neuron=neuron[order],
        born_day=born[order],
        missed=np.sort(neuron[missed]),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
    )


def _neuron(config: SimulationConfig, subject: int, neuron: int, born: int, day: int) -> dict[str, Any]:
    """One neuron as it is on a day: as it was born, and what the drift of each day since then has made of it."""
    rng = _stream(config, _NEURON, subject, neuron)
    region = int(rng.integers(len(REGIONS)))
    electrode = region * ELECTRODES_PER_REGION + int(rng.integers(ELECTRODES_PER_REGION))
    multi_unit = bool(rng.random() < config.multi_unit_fraction)
    baseline = math.log(config.rate_median_hz) + config.rate_sigma * rng.standard_normal()
    depth = config.tuning_depth * math.exp(0.25 * rng.standard_normal())
    preferred = 2 * np.pi * rng.random()
    goal = preferred + 0.5 * rng.standard_normal()
    position = 2 * np.pi * rng.random()
    speed = 0.2 + 0.15 * rng.standard_normal()
    on_velocity, on_goal = ((1.1, 0.4), (0.8, 1.0))[region]  # PMd plans more
    planes = [on_velocity * np.exp(1j * preferred), 0.4 * np.exp(1j * position), on_goal * np.exp(1j * goal)]
    planes += [0.3 * np.exp(2j * np.pi * rng.random()) for _ in range(config.n_rotations)]

    drift = np.zeros(3)
    for today in range(born + 1, day + 1):
        drift += _stream(config, _DRIFT, subject, neuron, today).standard_normal(3)
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


def _spike_ticks(
    config: SimulationConfig, population: _Population, latent: np.ndarray, key: tuple[int, int, int]
) -> list[np.ndarray]:
    """Spike times of each unit, int32 ticks of the clock, strictly rising, none in the gap."""
    spike = _kernels().spike
    refractory = math.ceil(config.refractory_ms * TICKS_PER_MS - 1e-9)
    gap_start, gap_stop = (ms * TICKS_PER_MS for ms in config.gap_ms)
    rate_hz = np.empty(config.n_samples * MS_PER_SAMPLE)  # one for all units: it is as long as the session
    units = []
    for row, neuron in enumerate(population.neuron):
        cells = 2 if population.multi_unit[row] else 1
        _fill_rate(population.baseline[row] + latent @ population.loading[row], rate_hz)
        expected = rate_hz.sum() / (1000 * cells) + 1  # 1: rounding
        if cells > 1:
            rate_hz /= cells
        trains = []
        for cell in range(cells):
            rng = _stream(config, _SPIKES, *key, int(neuron), cell)
            # Refractoriness only takes intensity away: draws that outlast the full integral are enough.
            draw = rng.standard_exponential(16)
            while draw.sum() <= expected:
                draw = np.concatenate([draw, rng.standard_exponential(draw.size)])
            trains.append(spike(rate_hz, draw, refractory, config.recovery_ms * TICKS_PER_MS))
        ticks = np.sort(np.concatenate(trains)) if cells > 1 else trains[0]
        recorded = np.diff(ticks, prepend=-1) > 0  # two spikes at the same tick are seen as one
        recorded &= (ticks < gap_start) | (ticks >= gap_stop)
        units.append(ticks[recorded].astype(np.int32))
    return units


def _fill_rate(log_rate: np.ndarray, rate_hz: np.ndarray) -> None:
    """Intensity in each millisecond: its logarithm is linear between samples and constant within a millisecond.

    In blocks that stay in the processor's cache: hours of milliseconds are long arrays.
    """
    kernels = _kernels()
    for low in range(0, log_rate.size - 1, RATE_BLOCK):
        samples = log_rate[low : low + RATE_BLOCK + 1]
        fine = rate_hz[low * MS_PER_SAMPLE :][: (samples.size - 1) * MS_PER_SAMPLE]
        kernels.refine(samples, fine)
        np.exp(fine, out=fine)  # numpy's: it takes eight at a time
        np.minimum(fine, MAX_RATE_HZ, out=fine)


# --- imaging -----------------------------------------------------------------------------------------------------


def _image(
    config: SimulationConfig, population: _Population, units: list[np.ndarray], key: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Frame times in seconds, float64 ``[F]``, and dF/F, float32 ``[F, N]``; none in the gap or the dropped stretch.

    A spike that the electrodes missed in the gap does not glow either.
    """
    n_frames = math.ceil(config.duration_s * config.calcium_hz)
    jitter = np.clip(_stream(config, _FRAMES, *key).standard_normal(n_frames) * FRAME_JITTER, -0.05, 0.05)
    frame_s = np.round((np.arange(n_frames) + 0.5 + jitter) / config.calcium_hz, 6)  # stamps are whole microseconds
    kept = frame_s < config.duration_s
    for start, stop in (FRAMES_DROPPED_S, [ms / 1000 for ms in config.gap_ms]):
        kept &= (frame_s < start) | (frame_s >= stop)
    peak_s = math.log(CALCIUM_DECAY_S / CALCIUM_RISE_S) / (1 / CALCIUM_RISE_S - 1 / CALCIUM_DECAY_S)
    scale = CALCIUM_PEAK / (math.exp(-peak_s / CALCIUM_DECAY_S) - math.exp(-peak_s / CALCIUM_RISE_S))
    glow, signal = _kernels().glow, np.empty(n_frames)
    value = np.empty((int(kept.sum()), len(units)), np.float32)
    for row, (neuron, ticks) in enumerate(zip(population.neuron, units, strict=True)):
        glow(ticks / CLOCK_HZ, frame_s, CALCIUM_RISE_S, CALCIUM_DECAY_S, signal)
        noise = _stream(config, _CALCIUM, *key, int(neuron)).standard_normal(n_frames)
        value[:, row] = np.round(scale * signal + CALCIUM_NOISE * noise, 4)[kept]  # as of :func:`_xy`
    return frame_s[kept], value


# --- files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Simulated:
    """One session in memory."""

    config: SimulationConfig
    subject: int
    day: int
    behaviour: _Behaviour
    latent: np.ndarray
    population: _Population
    ticks: list[np.ndarray]


def _simulate_session(config: SimulationConfig, subject: int, day: int) -> _Simulated:
    key = (subject, day, list(TASKS).index(config.task))
    behaviour = _behave(config, key)
    latent = _latent_state(config, behaviour, key)
    population = _populate(config, subject, day)
    ticks = _spike_ticks(config, population, latent, key)
    return _Simulated(config, subject, day, behaviour, latent, population, ticks)


def _session_name(config: SimulationConfig, subject: int, day: int) -> str:
    return f"sub-S{subject + 1:02d}_ses-{TASKS[config.task]}-day{day + 1:02d}"


def _session_settings(config: SimulationConfig) -> dict[str, Any]:
    """The settings that a session follows from; how many other sessions there are is none of them.

    Without imaging its rate is none either: such files were made before there was imaging, and stay as they are.
    """
    others = {"n_subjects", "sessions_per_subject"} | (set() if config.calcium_hz else {"calcium_hz"})
    return {k: v for k, v in asdict(config).items() if k not in others}


def simulate(
    config: SimulationConfig, folder: Path, progress: Callable[[int, int, str], None] | None = None
) -> list[Path]:
    """Write the sessions of a simulation; those that are there already, whole and from the same settings, stay.

    Beside each NWB file stands ``<session>_truth.npz`` (``numpy.load``, no pickle) with, for N units in the order of
    the units table, T samples at 100 Hz and D latent dimensions:

    - ``latent`` float32 ``[T, D]``, ``latent_name`` ``[D]``, ``baseline`` ``[N]``, ``loading`` ``[N, D]``: unit n has
      the intensity ``exp(baseline[n] + latent @ loading[n])`` Hz, at most 200, before ``refractory_ms`` and
      ``recovery_ms`` take from it after each spike; between samples the exponent is linear
    - ``neuron`` int64 ``[N]``: who a unit is. The same number is the same neuron on all days of the subject
    - ``born_day`` ``[N]``, and the drift since then: ``turned_rad``, ``log_gain``, ``log_rate`` (all ``[N]``), which
      ``baseline`` and ``loading`` contain already
    - ``multi_unit`` bool ``[N]``; ``missed``: neurons that were there and were not recorded

    Args:
        config: the settings.
        folder: where the files go; made where it does not exist.
        progress: called as ``progress(done, total, session)`` after each session.

    Returns:
        The NWB files, by subject and day.

    Raises:
        UsageError: ``folder`` is a file.

    Example:
        >>> from tempfile import mkdtemp
        >>> paths = simulate(SimulationConfig(n_subjects=1, sessions_per_subject=1, duration_s=5, n_units=3), mkdtemp())
        >>> paths[0].name
        'sub-S01_ses-CO-day01_behavior+ecephys.nwb'
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        message = f"cannot write a simulation into '{folder}': it is a file, not a folder"
        raise UsageError(message)
    total = config.n_subjects * config.sessions_per_subject
    written = []
    for subject in range(config.n_subjects):
        for day in range(config.sessions_per_subject):
            written.append(_write_session(config, subject, day, folder))
            if progress is not None:
                progress(len(written), total, _session_name(config, subject, day))
    return written


def _write_session(config: SimulationConfig, subject: int, day: int, folder: Path) -> Path:
    name = _session_name(config, subject, day)
    settings = _session_settings(config)
    fingerprint = files.fingerprint([SIMULATOR_VERSION, settings, subject, day])
    home = folder / f"sub-S{subject + 1:02d}"
    nwb, truth = home / f"{name}_behavior+ecephys.nwb", home / f"{name}_truth.npz"
    record = home / f"{name}_simulation.json"
    if _is_whole(record, fingerprint, nwb, truth):
        return nwb
    files.clean_leftovers(home)  # of a killed run: a folder is ingested as a whole
    session = _simulate_session(config, subject, day)
    with files.atomic_file(nwb) as path:
        _write_nwb(session, path, fingerprint)
    with files.atomic_file(truth) as path, open(path, "wb") as stream:
        np.savez(stream, **_truth(session))
    facts = {
        "session": name,
        "fingerprint": fingerprint,
        "config": settings,
        "files": {path.name: files.sha256_file(path) for path in (nwb, truth)},
        "n_units": len(session.ticks),
        "n_spikes": sum(ticks.size for ticks in session.ticks),
        "n_trials": len(session.behaviour.trials),
    }
    files.write_json(record, facts)
    return nwb


def _is_whole(record: Path, fingerprint: str, *paths: Path) -> bool:
    """Whether a record of this fingerprint stands there and the files have the digests that it names."""
    if not record.is_file() or not all(path.is_file() for path in paths):
        return False
    try:
        facts = files.read_json(record)
    except ValueError:  # not what was written: somebody's edit, or a damaged disk
        return False
    digests = {path.name: files.sha256_file(path) for path in paths}
    return (facts.get("fingerprint"), facts.get("files")) == (fingerprint, digests)


def _truth(session: _Simulated) -> dict[str, np.ndarray]:
    config, population = session.config, session.population
    names = [field.name for field in dataclasses.fields(population) if field.name not in ("region", "electrode")]
    return {
        "latent": session.latent[: config.n_samples].astype(np.float32),
        "latent_name": np.array(latent_names(config)),
        **{name: getattr(population, name) for name in names},
    }


def _write_nwb(session: _Simulated, path: Path, fingerprint: str) -> None:
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    config = session.config
    name = _session_name(config, session.subject, session.day)
    hour = 10 + 4 * list(TASKS).index(config.task)
    start = datetime.datetime(2020, 1, 1, hour, tzinfo=datetime.UTC) + datetime.timedelta(days=session.day)
    subject_id = f"S{session.subject + 1:02d}"
    nwb = NWBFile(
        session_description=f"Simulated by spiketok: {config.task.replace('_', ' ')} reaching; not data of an animal",
        identifier=f"spiketok-simulation-{fingerprint}",
        session_start_time=start,
        file_create_date=start,  # fixed: the same settings give the same bytes
        session_id=name.split("_ses-")[1],
        subject=Subject(subject_id=subject_id, description="simulated subject"),
        keywords=["simulation", config.task],
    )
    _add_behaviour(nwb, session)
    _add_trials(nwb, session.behaviour.trials)
    _add_units(nwb, session)
    if config.calcium_hz:
        _add_imaging(nwb, session)
    fix_object_ids(nwb, fingerprint)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def _xy(values: np.ndarray) -> np.ndarray:
    """Complex ``[T]`` as float64 ``[T, 2]``, rounded to 0.001: the last bit of a processor's sine never shows."""
    return np.round(np.column_stack([values.real, values.imag]), 3) + 0.0  # -0.0 becomes 0.0


def _add_behaviour(nwb, session: _Simulated) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import SpatialSeries

    module = nwb.create_processing_module("behavior", "cursor kinematics")
    n = session.config.n_samples
    common = {"rate": float(SAMPLE_HZ), "starting_time": 0.0, "comments": "columns=[x,y]"}
    position = SpatialSeries(
        name="cursor_pos",
        data=_xy(session.behaviour.position[:n]),
        unit="mm",
        reference_frame="centre of the workspace",
        description="cursor position",
        **common,
    )
    velocity = TimeSeries(
        name="cursor_vel",
        data=_xy(session.behaviour.velocity[:n]),
        unit="mm/s",
        description="cursor velocity, the central difference of the position",
        **common,
    )
    module.add(position)
    module.add(velocity)


def _add_trials(nwb, trials: list[_Trial]) -> None:
    columns = {
        "target_on_time": "target appears (s)",
        "go_cue_time": "go cue (s); NaN where the subject moved before it",
        "move_onset_time": "movement begins (s)",
        "target_dir": "direction of the target from the start of the reach (rad)",
        "target_pos": "target position x, y (mm)",
        "result": "R rewarded, F target missed, A aborted",
    }
    for name, description in columns.items():
        nwb.add_trial_column(name, description)
    for trial in trials:
        times = (trial.start_s, trial.stop_s, trial.target_on_s, trial.go_cue_s, trial.move_onset_s)
        start, stop, on, go, onset = (round(time, 4) for time in times)
        nwb.add_trial(
            start_time=start,
            stop_time=stop,
            target_on_time=on,
            go_cue_time=go,
            move_onset_time=onset,
            target_dir=round(trial.direction_rad, 6),
            target_pos=_xy(np.array([trial.target]))[0],
            result=trial.result,
        )


def _add_units(nwb, session: _Simulated) -> None:
    from hdmf.common import DynamicTableRegion, VectorData, VectorIndex
    from pynwb.misc import Units

    config, population = session.config, session.population
    device = nwb.create_device("array", description="simulated electrode arrays")
    groups = [
        nwb.create_electrode_group(name=f"array_{region}", description=region, location=region, device=device)
        for region in REGIONS
    ]
    for group in groups:
        for _ in range(ELECTRODES_PER_REGION):
            nwb.add_electrode(group=group, location=group.location)

    n_units, rows = len(session.ticks), np.arange(len(session.ticks)) + 1
    gap = [ms / 1000 for ms in config.gap_ms]
    observed = [[0.0, gap[0]], [gap[1], config.duration_s]] if config.gap_s else [[0.0, config.duration_s]]
    columns = [
        ("quality", "good: one neuron; mua: two neurons taken for one"),
        ("isi_violation_fraction", "intervals below the refractory period / intervals; NaN without any"),
    ]
    values = [
        ["mua" if multi else "good" for multi in population.multi_unit],
        [_isi_violation_fraction(ticks, config.refractory_ms) for ticks in session.ticks],
    ]
    plain = [VectorData(name=n, description=d, data=v) for (n, d), v in zip(columns, values, strict=True)]
    # Whole columns, since a row at a time would make a Python object of each spike.
    stop = np.cumsum([ticks.size for ticks in session.ticks])
    seconds = np.empty(stop[-1])
    for low, high, ticks in zip(stop - [t.size for t in session.ticks], stop, session.ticks, strict=True):
        np.divide(ticks, CLOCK_HZ, out=seconds[low:high])
    spike_times = VectorData(name="spike_times", description="the spike times for each unit in seconds", data=seconds)
    obs_intervals = VectorData(
        name="obs_intervals", description="the observation intervals for each unit", data=np.array(observed * n_units)
    )
    electrodes = DynamicTableRegion(
        name="electrodes",
        description="the electrodes that each spike unit came from",
        data=population.electrode.tolist(),
        table=nwb.electrodes,
    )
    electrode_group = VectorData(
        name="electrode_group",
        description="the electrode group that each spike unit came from",
        data=[groups[region] for region in population.region],
    )
    ragged = [(spike_times, stop), (obs_intervals, rows * len(observed)), (electrodes, rows)]
    indexed = []
    for column, ends in ragged:
        index = ends.astype(np.min_scalar_type(int(ends[-1])))
        indexed += [VectorIndex(name=f"{column.name}_index", target=column, data=index), column]
    # resolution: what the standard has to declare the clock of spike times.
    nwb.units = Units(
        name="units",
        description="simulated units",
        resolution=1 / CLOCK_HZ,
        id=list(range(n_units)),
        columns=[*plain, *indexed, electrode_group],
        colnames=[*(c.name for c in plain), *(column.name for column, _ in ragged), electrode_group.name],
    )


def _add_imaging(nwb, session: _Simulated) -> None:
    """dF/F of the units as ``processing/ophys/DfOverF/fluorescence``, an ROI a unit with its id."""
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

    config = session.config
    key = (session.subject, session.day, list(TASKS).index(config.task))
    frame_s, value = _image(config, session.population, session.ticks, key)
    green = OpticalChannel(name="green", description="simulated", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=green,
        description="simulated field of view",
        device=nwb.create_device("microscope", description="simulated two-photon microscope"),
        excitation_lambda=920.0,
        imaging_rate=config.calcium_hz,
        indicator="GCaMP6f",
        location="M1, PMd",
    )
    module = nwb.create_processing_module("ophys", "dF/F of the units")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    rois = segmentation.create_plane_segmentation(name="units", description="one ROI a unit", imaging_plane=plane)
    for row in range(len(session.ticks)):
        rois.add_roi(pixel_mask=[(row, 0, 1.0)])
    series = RoiResponseSeries(
        name="fluorescence",
        data=value,
        unit="dF/F",
        rois=rois.create_roi_table_region("the units, in the order of the units table", region=slice(None)),
        timestamps=frame_s,
        description="dF/F of each unit: its spikes through the kernel of GCaMP6f, and noise",
    )
    responses = DfOverF()
    module.add(responses)
    responses.add_roi_response_series(series)


def _isi_violation_fraction(ticks: np.ndarray, refractory_ms: float) -> float:
    if ticks.size < 2:
        return math.nan
    return float(np.mean(np.diff(ticks) < refractory_ms * TICKS_PER_MS))


def fix_object_ids(nwb, fingerprint: str) -> None:
    """Give each NWB object an id that follows from its place in the file, instead of the random one that it has.

    hdmf has no public way to say an id at construction: the name is that of its private attribute.
    """
    attribute = "_AbstractContainer__object_id"
    stack = [(nwb, "root")]
    while stack:
        item, place = stack.pop()
        if not hasattr(item, attribute):
            fact = f"{type(item).__name__} of the installed hdmf has no '{attribute}', so object ids would be random"
            message = f"{fact}: install the hdmf that constraints.txt names"
            raise SpiketokError(message)
        setattr(item, attribute, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{fingerprint}/{place}")))
        stack += [(child, f"{place}/{type(child).__name__}:{child.name}") for child in item.children]
