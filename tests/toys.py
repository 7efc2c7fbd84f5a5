"""Models that answer by a rule and learn nothing, for tests of what stands around a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from spiketok.models.base import Model
from spiketok.models.batch import Timing


@dataclass(frozen=True)
class ToyConfig:
    """Nothing can be set."""


class Toy(Model):
    """Knows every session; a test writes :meth:`forward` or :meth:`predict`."""

    name: ClassVar[str] = "toy"
    tasks: ClassVar[tuple[str, ...]] = ("population", "decode", "classify")
    Config: ClassVar[type] = ToyConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {"only": {}}
    recipes: ClassVar[dict[str, dict[str, dict]]] = {"*": {"optim": {"epochs": 1}}}

    @classmethod
    def inputs(cls, config, tasks, timing):
        return {}

    def __init__(self) -> None:
        super().__init__(ToyConfig(), (), Timing(1, 1))

    def add_sessions(self, infos) -> None:
        pass

    def sessions(self) -> list[str]:
        return []

    def session_rows(self, session_ids) -> dict[str, int]:
        return dict.fromkeys(session_ids, 0)

    def forward(self, batch) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def loss(self, batch, output, progress) -> dict[str, torch.Tensor]:
        raise NotImplementedError
