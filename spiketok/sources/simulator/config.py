"""The settings of a simulation, its clocks, and the names of its tasks and regions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from spiketok.errors import UnknownNameError, UsageError

CLOCK_HZ = 30_000  # the recording's clock; every spike time is a whole number of its ticks
SAMPLE_HZ = 100  # behaviour and latent state
TICKS_PER_MS = CLOCK_HZ // 1000
MS_PER_SAMPLE = 1000 // SAMPLE_HZ

# task -> its short name in the session's name
TASKS = {"center_out": "CO", "random_target": "RT", "handwriting": "HW", "visual": "VIS"}
REGIONS = ("M1", "PMd")
MORE_REGIONS = (*REGIONS, "S1")  # with two types of cells
ELECTRODES_PER_REGION = 48
ROTATION_HZ = (1.3, 2.1, 3.0, 0.8)  # how fast each turning plane turns; one row a plane, n_rotations are used


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
    # "random_target": reach follows reach without a pause; "handwriting": symbols in trials; "visual": a screen
    task: str = "center_out"
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

    cell_types: int = _setting(1, 1, 2)  # 2: bursting and regular cells, in three regions with drives of their own
    atypical_fraction: float = _setting(0.0, 0.0, 1.0)  # chance that a cell of two types has the other's intervals
    coupling: float = _setting(1.0, 0.0, 4.0)  # of cells of two types to the drives of their regions: a factor,
    inhibitory_coupling: float = _setting(1.0, 0.0, 4.0)  # and another one of the inhibitory ones

    tracked: int = _setting(0, 0, 1)  # 1: units have a column "neuron", the same for the same neuron on all days

    calcium_hz: float = _setting(0.0, 0.0, 90.0)  # frames of dF/F of the same units each second; 0: not imaged

    n_symbols: int = _setting(8, 2, 16)  # of handwriting: letters of the alphabet
    most_symbols: int = _setting(3, 1, 20)  # that are written in a trial; at least one, each number as often

    synapses: float = _setting(0.0, 0.0, 20.0)  # how many other neurons one hears, on average
    synapse_gain: float = _setting(1.2, -4.0, 4.0)  # what each of their spikes adds to its log intensity, for 20 ms

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
    def regions(self) -> tuple[str, ...]:
        """Where the electrodes are."""
        return REGIONS if self.cell_types == 1 else MORE_REGIONS

    @property
    def gap_ms(self) -> tuple[int, int]:
        """Where the gap is, half-open; empty (equal ends) without one."""
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
