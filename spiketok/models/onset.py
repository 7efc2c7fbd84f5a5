"""A label from the first moments after an onset: each unit's counts in bins, or the latency of its first spike.

The linear floor of classification (multinomial logistic regression) and, with a hidden layer, the smallest network
beside it. First-spike latencies as a code: Thorpe, Fize and Marlot 1996 (Nature 381), Gollisch and Meister 2008
(Science 319). Reference code: scikit-learn, LogisticRegression with lbfgs, for the size ``logistic``.

What is unusual:

- a window is one vector, whose place in a trial must be the same in all windows: the recipe has one window from each
  trial's start (``task.classify.windows = "moment"``), and every query in a window gets the window's one answer;
- a latency is two numbers a unit, ``(1, 1 - t / W)`` for a first spike at t of a window of length W and ``(0, 0)`` for
  a unit that is silent in it: silence is near a very late spike, and a weight of its own tells them apart;
- counts stand as square roots, as in ``linear``; what was not observed is 0;
- the read-in is a session's own, so that with no hidden layer all but the classes' bias is; ``penalty`` is the
  reference's with ``C = 1 / (penalty * trials)``, on the read-in alone.

Differs from the reference: it is solved by gradient steps on batches, as every model here, and not to the optimum.

Shape letters: B windows, T bins of a window, N units, F numbers a unit, K classes, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError
from spiketok.models.base import Part, check_range, session_of
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, Tokens, bins_of, observed_counts
from spiketok.models.binned import COUNTS, BinnedModel
from spiketok.models.losses import behaviour_losses
from spiketok.models.nn import module_key

SPIKES, SPIKE = "spikes", 0  # the input of latencies, and the type of its tokens that are spikes


@dataclass(frozen=True)
class OnsetConfig:
    """How a window becomes a vector, and what reads it.

    Args:
        reads: ``"counts"`` (of each bin), ``"latency"`` (of each unit's first spike in the window), or ``"both"``.
        hidden: width of the hidden layer; 0 for none, which is logistic regression.
        dropout: of the hidden layer.
        penalty: half of it times the sum of squared weights of the read-in is added to the loss.
    """

    reads: Literal["counts", "latency", "both"] = "counts"
    hidden: int = 0
    dropout: float = 0.0
    penalty: float = 0.01

    def __post_init__(self) -> None:
        check_range(self, "[0, inf)", "hidden", "penalty")
        check_range(self, "[0, 1)", "dropout")


class _ReadIn(nn.Module):
    """A session's own: ``[N, F] -> width``, linear."""

    def __init__(self, n_units: int, n_features: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_units, n_features, width) / math.sqrt(n_units * n_features))

    def forward(self, x_BNF: Tensor) -> Tensor:
        return x_BNF.flatten(1) @ self.weight.flatten(0, 1)


class Onset(BinnedModel):
    """Reads windows that begin with a trial; one answer a window."""

    name: ClassVar[str] = "onset"
    checked: ClassVar[str] = "scikit-learn's logistic regression"
    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    default_tasks: ClassVar[tuple[str, ...]] = ("classify",)
    protocols: ClassVar[tuple[str, ...]] = ("identity_only", "full")
    own_tables: ClassVar[tuple[str, ...]] = ("read_in",)
    Config: ClassVar[type] = OnsetConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {"logistic": {}, "mlp": {"hidden": 64, "dropout": 0.2}}
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "*": {
            "data": {"window_ms": 200.0, "bin_ms": 20.0, "batch_size": 32},
            "task": {"classify": {"at": "start", "windows": "moment"}},
            "optim": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.0, "schedule": "cosine", "steps": 300},
        }
    }

    @classmethod
    def inputs(cls, config: OnsetConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        counts = {COUNTS: Input("binned", {"bin_ns": timing.bin_ns})}
        first = {SPIKES: Input("per-spike", {"start_end": False, "first_only": True})}
        return {"counts": counts, "latency": first, "both": counts | first}[config.reads]

    def __init__(self, config: OnsetConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.asked, n_classes = self.head("classes").task, self.head("classes").size
        self.n_bins = timing.window_ns // timing.bin_ns if config.reads != "latency" else 0
        self.n_features = self.n_bins + (2 if config.reads != "counts" else 0)
        self.width = config.hidden or n_classes
        self.clear_sessions()
        self.bias = nn.Parameter(torch.zeros(self.width))
        self.dropout = nn.Dropout(config.dropout)
        if config.hidden:
            self.read_out = nn.Linear(config.hidden, n_classes)

    def add_own(self, session: str, n_units: int) -> None:
        """A read-in."""
        own = _ReadIn(n_units, self.n_features, self.width)
        self.read_in[module_key(session)] = own.to(self.bias.device)

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        """The weights of the read-in."""
        if session not in self.units:
            raise self.unknown(session)
        return [(Part(self.read_in[module_key(session)].weight), 0)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Logits ``[Q, K]``."""
        session = batch.one_session(self.name)
        if session not in self.units:
            raise self.unknown(session)
        parts = []
        if COUNTS in batch.inputs:
            parts.append(self._counts(batch))
        if SPIKES in batch.inputs:
            parts.append(self._latencies(batch.inputs[SPIKES], len(self.units[session]), batch.window_ns))
        said = self.read_in[module_key(session)](torch.cat(parts, -1)) + self.bias
        if self.config.hidden:
            said = self.read_out(self.dropout(F.gelu(said)))
        asked = batch.asked.get(self.asked)
        if asked is None:
            return {}
        window = torch.arange(len(batch), device=said.device)
        return {self.asked: said[torch.repeat_interleave(window, asked.offset.diff())]}

    def loss(self, batch: Batch, output: Mapping[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The cross entropy, and the penalty on the session's read-in."""
        weight = self.read_in[module_key(batch.one_session(self.name))].weight
        penalty = 0.5 * self.config.penalty * weight.float().square().sum()
        terms = behaviour_losses(self.heads, batch, output)
        return terms | {"penalty": penalty, "total": sum(terms.values(), penalty)}

    def _counts(self, batch: Batch) -> Tensor:
        """``[B, N, T]``: square roots of the counts of each bin."""
        columns, length = batch.inputs[COUNTS].packed()
        session_of(self, batch, self.units, columns["counts"].shape[-1])
        if bins_of(length) != self.n_bins:
            message = f"windows of {bins_of(length)} bins, onset was made for {self.n_bins}: all must be of one length"
            raise DataError(message)
        return observed_counts(columns).float().sqrt().unflatten(0, (len(length), self.n_bins)).transpose(1, 2)

    def _latencies(self, tokens: Tokens, n_units: int, window_ns: int) -> Tensor:
        """``[B, N, 2]``: whether each unit was heard, and how much of the window was left at its first spike."""
        columns, length = tokens.packed()
        device = columns["time"].device
        window = torch.repeat_interleave(
            torch.arange(len(length), device=device), torch.tensor(length, device=device), output_size=sum(length)
        )
        spike = columns["type"] == SPIKE
        place = (window * n_units + columns["unit"].long())[spike]
        left = 1 - columns["time"][spike] / (window_ns / 1e9)
        heard = torch.zeros(len(length) * n_units, 2, device=device)
        heard[place] = torch.stack([torch.ones_like(left), left], -1)
        return heard.unflatten(0, (len(length), n_units))
