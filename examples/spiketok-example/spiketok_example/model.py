"""Unit sum: behaviour from the sum of the units' rows in each bin, smoothed over the past.

It reads the scheme of this package. A unit's row is a session's own, so that ``identity_only`` trains the rows of a new
session and nothing else; what comes behind the sum is common to all sessions.

Reference code: none. It is here to be copied; a linear read-out of counts is nearly as good.

Shape letters: B windows, L tokens, T bins, Q query times, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.models.base import Model, Part, check_range, check_same_units
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, query_bin
from spiketok.models.losses import weighted_mse
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo


@dataclass(frozen=True)
class UnitSumConfig:
    """Its width, and how much of the past it reads.

    Args:
        dim: D. past_bins: bins before a bin that its answer reads, within the window. init_std: of new rows.
    """

    dim: int = 16
    past_bins: int = 10
    init_std: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "dim")
        check_range(self, "[0, inf)", "past_bins", "init_std")


class UnitSum(Model):
    """The sum over units of count times row, a causal filter, a layer, the answer."""

    name: ClassVar[str] = "unit-sum"
    causal: ClassVar[bool] = True
    Config: ClassVar[type] = UnitSumConfig
    sizes: ClassVar[dict] = {"tiny": {}, "wide": {"dim": 64}}
    recipes: ClassVar[dict] = {
        "*": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 5e-3, "schedule": "cosine", "steps": 400},
        }
    }

    @classmethod
    def inputs(cls, config: UnitSumConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"counts": Input("sparse-counts", {"bin_ns": timing.bin_ns})}

    def __init__(self, config: UnitSumConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        head = self.head("values")
        self.task, dim = head.task, config.dim
        self.units = Vocabulary(dim, config.init_std, padding=False)
        self.filter = nn.Conv1d(dim, dim, config.past_bins + 1)
        self.read_out = nn.Sequential(nn.ReLU(), nn.Linear(dim, head.size))

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        fresh = {}
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units.words:
                check_same_units(info.id, self.units.words[info.id], keys)
            else:
                fresh[info.id] = keys
        if fresh:
            self.units.extend(fresh)

    def sessions(self) -> list[str]:
        return list(self.units.words)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        return self.units.rows(info.id)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        for session in sessions or ():
            self.session_row(session)
        return [Part.of(self.units, session) for session in (self.sessions() if sessions is None else sessions)]

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        return [(part, 0) for part in self.identity_parameters([session])]

    def extra_state(self) -> dict[str, object]:
        return {"units": self.units.state()}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units.load_state(state["units"])

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        columns, length = batch.inputs["counts"].packed()
        n_bins = batch.window_ns // self.timing.bin_ns
        bin_s = self.timing.bin_ns / 1e9
        window = torch.repeat_interleave(torch.arange(len(length)), torch.tensor(length)).to(columns["time"].device)
        row = window * n_bins + (columns["time"].double() / bin_s).long().clamp_max(n_bins - 1)
        x = self.units(columns["unit"]) * columns["count"].float().log1p()[:, None]
        x_BTD = x.new_zeros(len(length) * n_bins, x.shape[1]).index_add(0, row, x).unflatten(0, (-1, n_bins))
        past = nn.functional.pad(x_BTD.transpose(1, 2), (self.config.past_bins, 0))
        y = self.filter(past).transpose(1, 2).flatten(0, 1)
        return {self.task: self.read_out(y[query_bin(batch, batch.asked[self.task], n_bins)])}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        asked = batch.asked[self.task]
        mse = weighted_mse(output[self.task], asked.target, asked.weight)
        return {self.task: mse, "total": mse}
