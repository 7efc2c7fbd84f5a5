"""SPINT: units as an unordered set, told apart by what they did in a few calibration trials; no weight is a session's.

Le, Fang, Li, Nguyen, Mi, Orsborn, Sümbül and Shlizerman 2025, "SPINT: Spatial Permutation-Invariant Neural Transformer
for Consistent Intracortical Motor Decoding" (NeurIPS, arXiv 2507.08402). Reference code: shlizee/SPINT,
src/models/components/spint.py; with its weights copied in, this model gives its outputs (tests/references/spint.py).

What is unusual:

- a sample is one bin: each unit's last W bins are one token, and the behaviour at the last bin is decoded. There is no
  position and no name in a token, so the order of the units changes nothing;
- the identity of a unit is computed: a network reads its calibration trials one by one, the mean over the trials goes
  through a second network, and the W numbers that come out are added to the unit's counts. A new session needs
  unlabelled trials and no gradient;
- a component of the behaviour is a query: a learned series of W steps that goes through the same read-in as the units
  and attends to them. The read-out gives W steps; only the last is used.

Computed otherwise than in the reference, with the same result: an identity is computed once a session of a batch, where
the reference repeats calibration trials and their encoding in every sample; sessions of different numbers of units may
share a batch.

Differs from the reference:

- behaviour is normalised by the trunk and ``scale`` is 1; the reference leaves it raw and divides predictions by a
  number of the data set (FALCON M1 1, M2 5, H1 20);
- a unit that was recorded in no bin of its history is no token, and a calibration trial in which it was not recorded
  does not count in its mean; the reference has zeros there;
- a session without calibration trials has the mean over no trials, which is zero, so that its units are told apart by
  their counts alone (``zero_shot``); the reference always has trials;
- the share of units that are dropped is drawn from torch's generator, not from Python's ``random``;
- a window may have several bins, each of which is a sample, and a batch several sessions; the reference's batch is of
  one session.

Shape letters: B windows, T bins of a window, G samples (B * T), N units, L tokens, W bins of a history, M calibration
trials, P points of a calibration trial, C components, Q query times, D width, H heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, Tokens, query_bin
from spiketok.models.fine import FINE, N_FEATURES, fine_features
from spiketok.models.inferred import (
    VECTORS,
    Inferred,
    ReadVectors,
    check_trials,
    check_vectors,
    mean_over_trials,
    stack,
)
from spiketok.models.losses import weighted_mse
from spiketok.models.nn import attention

_DATA = {"window_ms": 20.0, "eval_step_ms": 20.0, "bin_ms": 20.0, "batch_size": 32}

# The paper's training: Adam at a constant rate, 50 epochs, no weight decay (which makes AdamW the same as Adam).
_OPTIM = {
    "name": "adamw",
    "lr": 1e-5,
    "weight_decay": 0.0,
    "schedule": "constant",
    "epochs": 50,
    "clip": None,
    "accelerator": "auto",
}
_PUBLISHED = {"data": _DATA, "optim": _OPTIM, "transfer": {"full_lr": 1e-5, "weight_decay": 0.0}}


@dataclass(frozen=True)
class SpintConfig:
    """The defaults are the reference's for FALCON M1.

    Args:
        dim: D. heads, layers: of cross-attention. hidden: width of its feed-forward layers.
        identity_layers: linear layers of the trial encoder, and of the network behind the mean over trials.
        history_bins: W. calibration_trials: the most trials that are read, M. calibration_length: P.
        calibration_choose: which M trials a training reads: the ``"first"``, or a ``"block"`` of neighbours, drawn anew
            for each batch (an option of the reference, on for H1). Evaluation reads the first.
        dropout: of attention weights, of both branches and inside feed-forward layers.
        unit_dropout_low, unit_dropout_high: bounds of the share of units whose token is zeroed in training, drawn once
            for each batch; the others grow by 1 / (1 - share). Equal bounds give a constant share.
        learned_query: False for the reference's constant queries, (c + 1) / C in all steps.
        scale: what predictions are divided by.
        fine_time: a linear map of each bin's first and last spike and of the intervals between (the scheme
            ``fine-time``) is added to what the first layer of the read-in makes of counts and identity.
        vectors: sha256 of the file of unit vectors that are added to the identities, behind a linear layer; set by
            ``train --vectors``. vector_dim: their width, 0 for none.
    """

    dim: int = 1024
    heads: int = 64
    layers: int = 1
    hidden: int = 2048
    identity_layers: int = 3
    history_bins: int = 100
    calibration_trials: int = 10
    calibration_length: int = 1024
    calibration_choose: str = "first"
    dropout: float = 0.1
    unit_dropout_low: float = 0.0
    unit_dropout_high: float = 1.0
    learned_query: bool = True
    scale: float = 1.0
    fine_time: bool = False
    vectors: str = ""
    vector_dim: int = 0

    def __post_init__(self) -> None:
        counted = ("dim", "heads", "layers", "hidden", "identity_layers", "history_bins", "calibration_trials")
        check_range(self, "[1, inf)", *counted)
        check_range(self, "[2, inf)", "calibration_length")
        check_range(self, "[0, 1)", "dropout")
        check_range(self, "(0, inf)", "scale")
        check_vectors(self)
        if self.dim % self.heads:
            message = f"model.dim is {self.dim}, which {self.heads} heads (model.heads) do not divide"
            raise UsageError(message)
        if self.calibration_choose not in ("first", "block"):
            message = f"model.calibration_choose is '{self.calibration_choose}', must be 'first' or 'block'"
            raise UsageError(message)
        low, high = self.unit_dropout_low, self.unit_dropout_high
        if not 0 <= low <= high <= 1 or low == 1:
            bounds = f"model.unit_dropout_low is {low} and model.unit_dropout_high {high}"
            message = f"{bounds}: need 0 <= low <= high <= 1 and low below 1"
            raise UsageError(message)


class _ReadUnits(nn.Module):
    """Queries attend to unit tokens, then a ReLU feed-forward layer; both add to the queries, the tokens stay.

    Normalised before, queries and tokens by the same LayerNorm; biases everywhere. Starts as torch's
    ``nn.MultiheadAttention`` does, whose three projections are one matrix.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.norm_attention = nn.LayerNorm(dim)
        self.to_query = nn.Linear(dim, dim)
        self.to_key_value = nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_hidden = nn.LayerNorm(dim)
        self.to_hidden = nn.Linear(dim, hidden)
        self.from_hidden = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / (dim + 3 * dim))
        for part in (self.to_query, self.to_key_value):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)
        nn.init.zeros_(self.to_out.bias)

    def forward(
        self, query_LD: Tensor, token_LD: Tensor, query_length: Sequence[int], token_length: Sequence[int]
    ) -> Tensor:
        query = self.to_query(self.norm_attention(query_LD)).unflatten(-1, (self.heads, -1))
        key, value = self.to_key_value(self.norm_attention(token_LD)).unflatten(-1, (2, self.heads, -1)).unbind(1)
        dropout = self.attention_dropout if self.training else 0.0
        out = attention(query, key, value, query_length, token_length, dropout=dropout)
        query_LD = query_LD + self.dropout(self.to_out(out.flatten(-2)))
        hidden = self.dropout(F.relu(self.to_hidden(self.norm_hidden(query_LD))))
        return query_LD + self.dropout(self.from_hidden(hidden))


class Spint(Inferred):
    """Reads each unit's history of counts and its session's calibration trials; decodes behaviour at the queries' bins.

    A window is one bin or several (``data.window_ms`` is a multiple of ``data.bin_ms``). Several decoded behaviours may
    stand in one run: each component of each is a query.
    """

    name: ClassVar[str] = "spint"
    checked: ClassVar[str] = "6 recorded configurations of its original: outputs, losses, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("decode",)
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "zero_gradient", "full")
    causal: ClassVar[bool] = True
    Config: ClassVar[type] = SpintConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Two minutes on a CPU core; dropout on attention weights has no fast CPU kernel. No units are dropped: on six
        # simulated sessions R2 was .84 on those after 2000 steps, and .46 after 1800 with a share of up to .3 (and a
        # weight decay of .1). An unseen day then has .2 to .4: tests/evaluation/test_spint_transfer.py.
        "tiny": {
            "dim": 64,
            "heads": 4,
            "hidden": 128,
            "history_bins": 25,
            "calibration_trials": 24,
            "calibration_length": 64,
            "calibration_choose": "block",
            "dropout": 0.0,
            "unit_dropout_high": 0.0,
        },
        "M1": {},  # FALCON M1: 64 channels, 16 muscles
        "M2": {"dim": 512, "history_bins": 50, "calibration_trials": 33, "calibration_length": 100},  # 96, 2 fingers
        # 176 channels, 7 degrees of freedom
        "H1": {"history_bins": 700, "calibration_trials": 2, "calibration_choose": "block"},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": _DATA | {"batch_size": 64},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.0, "schedule": "cosine", "steps": 2000},
        },
        "M1": _PUBLISHED,
        "M2": _PUBLISHED | {"optim": _OPTIM | {"lr": 5e-5}, "transfer": {"full_lr": 5e-5, "weight_decay": 0.0}},
        "*": _PUBLISHED,
    }

    @classmethod
    def inputs(cls, config: SpintConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        """Histories of each bin of a window, and the calibration trials of a session.

        ``choose = "all"``: the shard holds every trial; how many of them a batch takes, and which, is the loader's.
        """
        history = {"view": "history", "history_bins": config.history_bins, "bin_ns": timing.bin_ns}
        trials = {
            "bin_ns": timing.bin_ns,
            "length": config.calibration_length,
            "choose": "all",
            "resample": "cubic",
        }
        fine = {"history_bins": config.history_bins, "bin_ns": timing.bin_ns}
        return {
            "units": Input("neuron", history),
            "calibration": Input(
                "calibration",
                trials,
                per="session",
                most=config.calibration_trials,
                choose=config.calibration_choose,
            ),
            **({FINE: Input("fine-time", fine)} if config.fine_time else {}),
        }

    def __init__(self, config: SpintConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        other = [head.task for head in heads if head.output != "values"]
        if other or not heads:
            asked = ", ".join(other) or "nothing"
            message = f"spint decodes behaviour, one value a component and query: it cannot answer {asked}"
            raise UsageError(message)
        first = [0, *accumulate(head.size for head in heads)]
        self.components = {head.task: slice(*ends) for head, ends in zip(heads, pairwise(first), strict=True)}
        n_components, n_bins, dim = first[-1], config.history_bins, config.dim

        self.encode_trial = stack(config.calibration_length, dim, dim, config.identity_layers)
        self.to_identity = stack(dim, dim, n_bins, config.identity_layers)
        self.read_in = stack(n_bins, dim, dim, 2)
        self.one_session_batches = config.fine_time
        if config.fine_time:
            self.read_fine = nn.Linear(n_bins * N_FEATURES, dim, bias=False)
        if config.learned_query:
            self.query_CW = nn.Parameter(torch.randn(n_components, n_bins))
        else:
            constant = torch.arange(1, n_components + 1)[:, None] / n_components
            self.register_buffer("query_CW", constant.repeat(1, n_bins), persistent=False)
        self.layers = nn.ModuleList(
            _ReadUnits(dim, config.heads, config.hidden, config.dropout) for _ in range(config.layers)
        )
        self.read_out = nn.Linear(dim, n_bins)

        self.make_inferred(("calibration", VECTORS) if config.vector_dim else ("calibration",))
        if config.vector_dim:  # drawn last: a model without vectors starts from the same numbers as ever
            self.read_vectors = ReadVectors(config.vector_dim, n_bins)

    # ---- identities -------------------------------------------------------------------------------------------------

    def identities(self, calibration: Sequence[Tokens], n_units: Sequence[int]) -> list[Tensor]:
        """The identity of each unit of each session, ``[N, W]``.

        Args:
            calibration: a session's trials each, ``matrix`` ``[M, P, N]``; M may be 0.
            n_units: the number of its units each.
        """
        return list(self.to_identity(mean_over_trials(self.encode_trial, calibration, n_units)).split(list(n_units)))

    def identify(self, given: Sequence[Mapping[str, Tokens]], n_units: Sequence[int]) -> list[Tensor]:
        """:meth:`identities`, and what the file of vectors says of the units added to them."""
        found = self.identities([tokens["calibration"] for tokens in given], n_units)
        if not self.config.vector_dim:
            return found
        of_vectors = self.read_vectors([tokens[VECTORS] for tokens in given], n_units)
        return [own + other for own, other in zip(found, of_vectors, strict=True)]

    def check_given(self, session: str, given: Mapping[str, Tokens]) -> None:
        check_trials(session, given["calibration"], self.config.calibration_length, len(self.units[session]))

    # ---- the computation --------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task ``[Q, C]``, and ``steps`` ``[G, W, C]``: all steps of all components, not divided by ``scale``."""
        y, n_bins, n_samples = self._read(batch)
        steps = self.read_out(y).unflatten(0, (n_samples, -1)).transpose(1, 2)
        last = steps[:, -1] / self.config.scale
        output = {"steps": steps}
        for task, components in self.components.items():
            if task in batch.asked:
                output[task] = last[query_bin(batch, batch.asked[task], n_bins), components]
        return output

    def features(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        """What the queries of a task's components found, side by side."""
        y, n_bins, n_samples = self._read(batch)
        y = y.unflatten(0, (n_samples, -1))
        asked = {task: batch.asked[task] for task in self.components if task in batch.asked}
        found = {task: y[query_bin(batch, a, n_bins), self.components[task]].flatten(1) for task, a in asked.items()}
        return found, None

    def _read(self, batch: Batch) -> tuple[Tensor, int, int]:
        """``[G * C, D]``, what each component's query found in each of G samples; bins of a window; G."""
        identities = self.session_identities(batch)
        series, fine, row, n_bins, length = self._samples(batch, [len(identity) for identity in identities])
        x = series.float() + F.embedding(row, torch.cat(identities))  # [L, W]
        if self.training:
            drawn = self.draw_units(len(x), x.device)[:, None]
            x, fine = x * drawn, None if fine is None else fine * drawn
        tokens = self.read_in(x) if fine is None else self._read_with_fine(x, fine)
        y = self.read_in(self.query_CW).repeat(len(length), 1)  # [G * C, D]
        for layer in self.layers:
            y = layer(y, tokens, [len(self.query_CW)] * len(length), length)
        return y, n_bins, len(length)

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The weighted MSE of each normalised behaviour at the last bin, under its task's name."""
        terms = {}
        for task, asked in batch.asked.items():
            if task in self.components:
                terms[task] = weighted_mse(output[task].float(), asked.target, asked.weight)
        return {**terms, "total": sum(terms.values(), output["steps"].new_zeros((), dtype=torch.float32))}

    def draw_units(self, n_tokens: int, device: torch.device) -> Tensor:
        """float32 ``[L]``: what each token is multiplied by in training; 0 where it is dropped.

        One share for all, each token by itself: a unit is dropped from one sample and stays in the next.
        """
        low, high = self.config.unit_dropout_low, self.config.unit_dropout_high
        share = low + (high - low) * torch.rand((), device=device)
        return (torch.rand(n_tokens, device=device) >= share) / (1 - share)

    def _read_with_fine(self, x_LW: Tensor, fine_LF: Tensor) -> Tensor:
        """``[L, D]``: the read-in, with what the fine structure adds before its first ReLU."""
        first, *others = self.read_in
        hidden = first(x_LW) + self.read_fine(fine_LF)
        for layer in others:
            hidden = layer(hidden)
        return hidden

    def _fine(self, batch: Batch, window: Tensor, time: Tensor, unit: Tensor, n_bins: int) -> Tensor:
        """``[L, W * 4]``: the fine structure of each token's history; int64 ``[L]`` say whose and up to which bin."""
        n_history = self.config.history_bins
        columns, _ = batch.inputs[FINE].packed()
        features = fine_features(columns, self.timing.bin_ns)
        first = window * (n_bins + n_history - 1) + time
        rows = first[:, None] + torch.arange(n_history, device=first.device)
        return features[rows, unit[:, None]].flatten(1)

    def _samples(self, batch: Batch, n_units: Sequence[int]) -> tuple[Tensor, Tensor | None, Tensor, int, list[int]]:
        """The tokens of all samples, window by window and bin by bin.

        Args:
            n_units: of each session of ``batch.present``.

        Returns:
            Their counts ``[L, W]``; with ``fine_time`` their fine structure ``[L, W * 4]``, else None; int64 ``[L]``,
            each one's row in the identities of all sessions, one behind the other; bins of a window; tokens of each
            sample.
        """
        n_bins, rest = divmod(batch.window_ns, self.timing.bin_ns)
        if rest or n_bins < 1:
            message = f"windows of {batch.window_ns} ns are no whole number of bins of {self.timing.bin_ns} ns"
            raise DataError(message)
        columns, in_window = batch.inputs["units"].packed()
        uneven = next((n for n in in_window if n % n_bins), None)
        if uneven is not None:
            message = f"a window has {uneven} tokens, which are no whole number in each of its {n_bins} bins"
            raise DataError(message)
        series = columns["series"]
        if series.shape[1] != self.config.history_bins:
            message = f"a history has {series.shape[1]} bins, model.history_bins is {self.config.history_bins}"
            raise DataError(message)
        series = series * (columns["observed"] > 0)  # a bin that was recorded in part has counts
        first = torch.tensor([0, *accumulate(n_units)], device=series.device)[batch.present_B]
        repeats = torch.tensor(in_window, device=series.device)
        row = torch.repeat_interleave(first, repeats, output_size=len(series)) + columns["unit"]
        fine = None
        if self.config.fine_time:
            window = torch.repeat_interleave(repeats, output_size=len(series))
            fine = self._fine(batch, window, columns["time"].long(), columns["unit"].long(), n_bins)
        length = [n // n_bins for n in in_window for _ in range(n_bins)]
        recorded = columns["observed"].any(1).bool()
        if not recorded.all():
            repeats = torch.tensor(length, device=series.device)
            sample = torch.repeat_interleave(torch.arange(len(length), device=series.device), repeats)
            length = torch.bincount(sample[recorded], minlength=len(length)).tolist()
            series, row = series[recorded], row[recorded]
            fine = None if fine is None else fine[recorded]
        return series, fine, row, n_bins, length
