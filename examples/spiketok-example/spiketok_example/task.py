"""Speed: how fast, of a velocity; one number at each of its samples, or on bins.

``like = "decode"`` says that a model which decodes behaviours can answer it: its head asks for values at query times,
as that of ``decode`` does, so that no model has to know it. Of a task of values the rest of spiketok expects its
normalisation as ``target`` (a ``TargetSpec``), and answers that are a ``Prediction``.

Shape letters: Q query times, C components, T samples or bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Batch, Head
from spiketok.recording.intervals import labelled_intervals, values_in
from spiketok.recording.leakage import Reach
from spiketok.recording.nouns import Intervals
from spiketok.tokens.reach import signal_reach
from spiketok.training.sampling import SessionTokens, listing
from spiketok.training.tasks.base import (
    Buffers,
    Collector,
    Group,
    Score,
    Stitch,
    Task,
    Truth,
    ask_values,
    bin_spans,
    sample_spans,
)
from spiketok.training.tasks.decode import Prediction, TargetSpec


@dataclass(frozen=True)
class SpeedConfig:
    """How the speed is asked: ``root`` of it, so that fast moments count less (0.5 for the square root)."""

    root: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.root <= 1:
            message = f"task.speed.root is {self.root}, must be above 0 and at most 1"
            raise UsageError(message)


class Speed(Task):
    """The length of a velocity's vector."""

    kind: ClassVar[str] = "speed"
    like: ClassVar[str] = "decode"
    Config: ClassVar[type] = SpeedConfig
    metrics: ClassVar[tuple[str, ...]] = ("speed_r2",)
    titles: ClassVar[Mapping[str, str]] = {"speed_r2": "R² of the speed"}

    def __init__(self, about: str, config: SpeedConfig, target: TargetSpec) -> None:
        super().__init__(about, config)
        self.target = target

    # ---- what it is in these sessions -----------------------------------------------------------------------------

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: SpeedConfig) -> Speed:
        known = sorted({name for session in sessions for name in session.info.signals if name.endswith("vel")})
        if not about and len(known) != 1:
            message = f"--task speed: say of which velocity, as speed:NAME; there are {', '.join(known) or 'none'}"
            raise DataError(message)
        name = about or known[0]
        measure = next(session.info.signals[name][1] for session in sessions if name in session.info.signals)
        return cls(name, config, TargetSpec(name, ("speed",), measure))

    @classmethod
    def has(cls, about: str, session: SessionTokens) -> bool:
        return about in session.info.signals if about else any(name.endswith("vel") for name in session.info.signals)

    def why_not(self, session: SessionTokens) -> str:
        return "" if self.about in session.info.signals else f"it has no signal '{self.about}' to take the speed of"

    def usable(self, session: SessionTokens) -> Intervals:
        return labelled_intervals(session.signal(self.about))

    def reach(self, session: SessionTokens) -> Reach:
        period_ns = session.signal(self.about).period_ns
        return signal_reach(self.about, session.signal_reach_ns(self.about), period_ns, session.bin_ns)

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        values = [self._speed(values_in(session.signal(self.about), time)[1]) for session, time in sessions]
        value = np.concatenate(values) if values else np.zeros((0, 1))
        if len(value) == 0 or np.ptp(value) == 0:
            ids = listing([session.id for session, _ in sessions])
            message = f"the speed of '{self.about}' is never measured, or constant, in the training time of {ids}"
            raise DataError(message)
        self.target = replace(self.target, mean=(float(value.mean()),), std=(float(value.std()),))

    def _speed(self, value: np.ndarray) -> np.ndarray:
        """``[T, 1]`` of ``[T, C]``."""
        return np.linalg.norm(value.astype(np.float64), axis=1, keepdims=True) ** self.config.root

    def head(self) -> Head:
        return Head(self.name, self.kind, "values", 1, self.target.components)

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def truth(self, session: SessionTokens) -> Truth | None:
        if self.about not in session.info.signals:
            return None
        if session.bin_ns > 1:
            value, valid = session.bin_signal(self.about)
            none = np.zeros(0, np.int64)
            return Truth(none, self._asked(value, valid), valid.astype(np.float32), session.bin_ns, session.bin_row)
        signal = session.signal(self.about)
        return Truth(signal.time_ns, self._asked(signal.value, signal.valid), signal.valid.astype(np.float32))

    def _asked(self, value: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(valid, np.bool_)[:, None], self._speed(value), 0).astype(np.float32)

    def normalised(self, value: np.ndarray) -> np.ndarray:
        return ((value - np.array(self.target.mean)) / np.array(self.target.std)).astype(np.float32)

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        ask_values(self.name, groups, batch, buffers, np.array(self.target.mean), np.array(self.target.std))

    # ---- scores and state -----------------------------------------------------------------------------------------

    def row_spans(self, session: SessionTokens, time_ns: np.ndarray) -> Intervals:
        if session.bin_ns > 1:
            return bin_spans(time_ns, session.bin_ns)
        return sample_spans(session.signal(self.about).time_ns, time_ns)

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Speeds(self)

    def to_dict(self) -> dict[str, object]:
        return {"name": self.about, "measure": self.target.measure, "mean": self.target.mean, "std": self.target.std}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: SpeedConfig) -> Speed:
        spec = TargetSpec(facts["name"], ("speed",), facts["measure"], tuple(facts["mean"]), tuple(facts["std"]))
        return cls(spec.name, config, spec)


class _Speeds(Stitch):
    def __init__(self, task: Speed) -> None:
        super().__init__(task.name)
        self.target = task.target

    def answer(self) -> SpeedAnswer:
        time_ns, said, true, weight, count = self.stitched()
        mean, std = np.array(self.target.mean), np.array(self.target.std)
        return SpeedAnswer(
            time_ns=time_ns,
            predicted=said * std + mean,
            true=true * std + mean,
            weight=weight,
            components=self.target.components,
            measure=self.target.measure,
            windows=count,
        )


@dataclass(frozen=True, eq=False)
class SpeedAnswer(Prediction):
    """Stitched speeds of one session, scored under the name of this task's own metric."""

    def score(self) -> Score:
        """As of any prediction, but for the two R2 over components, which are one number of one component."""
        score = super().score()
        del score["r2_variance_weighted"]
        return {"speed_r2": score.pop("r2_mean"), **score}
