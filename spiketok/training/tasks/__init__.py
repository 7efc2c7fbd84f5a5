"""Kinds of question that a model is trained and scored on, one file each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spiketok.errors import UsageError


@dataclass(frozen=True)
class DecodeConfig:
    """Decoding has no settings."""


@dataclass(frozen=True)
class ClassifyConfig:
    """Classification has no settings."""


@dataclass(frozen=True)
class PopulationConfig:
    """held_out: share of the units that are predicted and never seen."""

    held_out: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            message = f"task.population.held_out is {self.held_out}, must be in [0, 1)"
            raise UsageError(message)


class Decode:
    kind: ClassVar[str] = "decode"
    Config: ClassVar[type] = DecodeConfig


class Classify:
    kind: ClassVar[str] = "classify"
    Config: ClassVar[type] = ClassifyConfig


class Population:
    kind: ClassVar[str] = "population"
    Config: ClassVar[type] = PopulationConfig


TASKS = {task.kind: task for task in (Decode, Classify, Population)}
