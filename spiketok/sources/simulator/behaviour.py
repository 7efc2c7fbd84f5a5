"""What a simulated subject does: trials of a task, and the movements of the cursor in them.

Reaches and strokes of a pen are minimum-jerk (Flash and Hogan 1985). A point in the plane is one complex number,
x + iy, in mm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spiketok.sources.simulator.config import MS_PER_SAMPLE, SAMPLE_HZ, SimulationConfig
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.streams import HAND, TASK, stream, white_noise

# Task geometry.
REACH_MM = 100.0
TARGET_RADIUS_MM = 10.0
WORKSPACE_MM = 160.0  # side of the square that random targets are drawn from
STROKE_MM = 30.0  # side of the triangles that symbols are
OCTANTS = (0, 4, 2, 6, 1, 5, 3, 7)  # first directions of the symbols, far ones first, in steps of 45 degrees
HAND_NOISE_MM = 0.6  # standard deviation of slow wandering about the planned path, per component
HAND_NOISE_TAU_S = 0.2


@dataclass(frozen=True)
class _Reach:
    """One minimum-jerk movement; positions are complex, in mm."""

    start_s: float
    length_s: float
    shift: complex  # end minus start
    bend: complex  # how far the middle of the path is off the straight line

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
class Trial:
    start_s: float
    stop_s: float
    target_on_s: float
    go_cue_s: float  # NaN where the subject moved before it came
    move_onset_s: float
    target: complex  # mm
    direction_rad: float  # from where the movement should begin
    result: str  # R rewarded, F target missed, A aborted


@dataclass(frozen=True)
class Writing:
    """A trial in which a text is written."""

    start_s: float
    stop_s: float
    target_on_s: float  # the text appears
    move_onset_s: float
    symbols: str
    direction_rad: float  # of the first stroke


def _polar(rng: np.random.Generator, low_mm: float, high_mm: float) -> complex:
    """An offset of uniform direction and of a length between the two."""
    return rng.uniform(low_mm, high_mm) * np.exp(2j * np.pi * rng.random())


def _bend(rng: np.random.Generator, shift: complex) -> complex:
    return shift * 1j * float(np.clip(rng.normal(0, 0.06), -0.2, 0.2))


def _center_out(config: SimulationConfig, rng: np.random.Generator) -> Iterator[tuple[Trial, list[_Reach]]]:
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
        yield Trial(start, stop, on, go, onset, target, direction, result), [out, back]


def _random_target(config: SimulationConfig, rng: np.random.Generator) -> Iterator[tuple[Trial, list[_Reach]]]:
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
        trial = Trial(now, stop, now, now, onset, target, direction, "F" if fails else "R")
        hand, now = end, stop
        yield trial, [_Reach(onset, length, shift, _bend(rng, shift))]


def _handwriting(config: SimulationConfig, rng: np.random.Generator) -> Iterator[tuple[Writing, list[_Reach]]]:
    """A text appears, and its symbols are written one after the other, with the pen at rest between them.

    A symbol is a triangle of three strokes that ends where it began: its first stroke goes into one of eight
    directions, and it turns left or right. No two that are written are alike: size, turn and pace vary.
    """
    now = 0.3
    while True:
        symbol = rng.integers(config.n_symbols, size=rng.integers(1, config.most_symbols + 1))
        start, strokes = now, []
        pen_s = onset = start + rng.uniform(0.2, 0.3)
        for k in symbol.tolist():
            length = rng.uniform(0.5, 0.8)
            side = STROKE_MM * rng.uniform(0.85, 1.15) * np.exp(1j * (_first_rad(k) + rng.normal(0, 0.1)))
            turn = np.exp((2j if k % 2 == 0 else -2j) * np.pi / 3)
            strokes += [_Reach(pen_s + length * part / 3, length / 3, side * turn**part, 0j) for part in range(3)]
            pen_s += length + rng.uniform(0.1, 0.2)
        now = pen_s + rng.uniform(0.4, 0.6)
        text = "".join(chr(ord("a") + k) for k in symbol.tolist())
        yield Writing(start, pen_s, start, onset, text, _first_rad(int(symbol[0]))), strokes


def _first_rad(symbol: int) -> float:
    """The direction of a symbol's first stroke."""
    return OCTANTS[symbol // 2] * np.pi / 4


@dataclass(frozen=True, eq=False)
class Behaviour:
    """Complex ``[T]`` at ``SAMPLE_HZ``; longer than the session by the neural lead and one sample."""

    position: np.ndarray  # mm
    velocity: np.ndarray  # mm/s
    goal: np.ndarray  # direction of the target, length 1, while the subject waits for its movement
    trials: list[Trial] | list[Writing]  # that end within the session


def behave(config: SimulationConfig, key: tuple[int, int, int]) -> Behaviour:
    n = config.n_samples + config.lag_ms // MS_PER_SAMPLE + 2
    position, goal, trials = np.zeros(n, np.complex128), np.zeros(n, np.complex128), []
    make = {"center_out": _center_out, "random_target": _random_target, "handwriting": _handwriting}[config.task]
    for trial, reaches in make(config, stream(config, TASK, *key)):
        if trial.start_s * SAMPLE_HZ > n:
            break
        for reach in reaches:
            reach.add_to(position)
        waiting = slice(round(trial.target_on_s * SAMPLE_HZ), round(trial.move_onset_s * SAMPLE_HZ))
        goal[waiting] = np.exp(1j * trial.direction_rad)
        if trial.stop_s <= config.duration_s:
            trials.append(trial)
    recur = compiled().recur
    keep = math.exp(-1 / (SAMPLE_HZ * HAND_NOISE_TAU_S))
    wander = recur(keep, recur(keep, white_noise(stream(config, HAND, *key), n)))  # twice filtered: it has a velocity
    # The variance of white noise grows by this factor in passing the same first-order filter twice.
    growth = (1 + keep**2) / (1 - keep**2) ** 3
    position += wander * HAND_NOISE_MM / math.sqrt(growth)
    return Behaviour(position, np.gradient(position) * SAMPLE_HZ, goal, trials)
