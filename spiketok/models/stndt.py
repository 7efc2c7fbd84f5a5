"""STNDT: a transformer over bins whose units attend to one another, with contrastive views of each window.

Le and Shlizerman 2022, "STNDT: Modeling Neural Population Activity with Spatiotemporal Transformers" (NeurIPS, arXiv
2206.04727). Reference code: trungle93/STNDT (src/model.py, src/mask.py, src/config/default.py, configs/).

What is unusual:

- a window is read twice: as T bins of width N, and as N units of width T. N and T are widths of matrices, so a model
  holds one session and windows of one length, and no parameter can be shared with another session;
- in each layer the units' attention gives weights alone, ``[N, N]``, the mean over heads; what they weight is the bins'
  stream. The reference also has the values and the output projection of that attention, which nothing uses and nothing
  trains: they are not built here;
- a second loss, NT-Xent, pulls together two views of a window, each with other counts hidden, and pushes apart the
  windows of a batch. By default it acts on the embedded counts, before the encoder: it trains the embedders alone;
- hidden counts, held-out units and forward bins are those of ``ndt1``.

Differs from the reference:

- views for a contrast on the embedder do not go through the encoder (the reference runs it and drops the result);
- behaviour: a linear read-out N -> C for each task at each bin, on detached features unless ``decode_joint``; the
  reference decodes by ridge regression on its rates;
- layers start from draws of their own, not as copies of one draw; a backward context of 0 bins is no bin before itself,
  and -1 is no limit (there 0 is no limit too).

Not built: the table of counts of one column, a contrast on a layer's output or behind a projector, spans (which in its
mask mode only lower the share), ScaleNorm, read-outs of two layers.

Shape letters: B windows, T bins of a window, N units, C components, Q query times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range, session_of
from spiketok.models.batch import Batch, Head, Progress, Stretch, Timing, bins_of, observed_counts
from spiketok.models.binned import COUNTS, BinnedModel, begin_at_mean_rates, read_behaviours
from spiketok.models.losses import behaviour_losses, nt_xent, poisson_log_rate
from spiketok.models.masking import HideMode, hide, hide_counts
from spiketok.models.nn import ACTIVATIONS, EncoderBlock, band_mask, module_key, sinusoidal_position

INIT_RANGE = 0.1  # of the read-out of rates


@dataclass(frozen=True)
class StndtConfig:
    """The defaults are those of the reference's NLB submissions (default.py under configs/mc_maze.yaml, mc_rtt.yaml).

    Args:
        embed: ``"linear"`` (a matrix N -> N for the bins and one T -> T for the units) or ``"identity"``. Both times
            the root of their width.
        layers; heads: of both attentions; they divide N and T. hidden: width of both feed-forward layers of a layer.
        activation: in them. pre_norm: normalise before each branch, else after each sum.
        dropout: inside the layers (not on the units' weights). dropout_rates: before the read-outs.
            dropout_embedding: after the positions are added.
        position: ``"sinusoidal"`` (counted from 0) or ``"learned"``, of bins and of units.
        context_forward, context_backward: bins that a bin attends to, after and before itself; -1 for no limit. The
            units' attention sees the whole window whatever stands here: the model is never causal.
        mask_mode: what training hides at once: ``"element"`` single counts, ``"timestep"`` whole bins,
            ``"shared_timestep"`` the same whole bins in every window of a batch, ``"unit"`` whole units.
        mask_ratio: share that training hides. mask_zero_ratio: of the elements hidden, the share set to 0.
        mask_random_ratio: of the rest, the share replaced by a random count.
        contrast_weight: of the NT-Xent loss; 0 draws no views. contrast_layer: ``"embedder"``: on the embedded counts
            of both streams, the two terms summed; ``"decoder"``: on the log rates. contrast_temperature: its cosines
            are divided by it. contrast_mask_mode, contrast_mask_ratio, contrast_zero_ratio, contrast_random_ratio: of
            the views, as those of the mask.
        rate_init: the biases of the read-out start from the mean rates of the session's training time, not from 0.
        fixup_init: scale weights of the bins' part of a layer by 0.67 / layers ** 0.25 (T-Fixup), as ``ndt1``.
        decode_weight: of the losses of behaviour beside the Poisson loss. decode_joint: let them train the encoder too.
    """

    embed: Literal["linear", "identity"] = "linear"
    layers: int = 4
    heads: int = 2
    hidden: int = 128
    activation: Literal["relu", "gelu"] = "relu"
    pre_norm: bool = True
    dropout: float = 0.1
    dropout_rates: float = 0.2
    dropout_embedding: float = 0.2
    position: Literal["sinusoidal", "learned"] = "sinusoidal"
    context_forward: int = 4
    context_backward: int = 8
    mask_mode: HideMode = "element"
    mask_ratio: float = 0.25
    mask_zero_ratio: float = 1.0
    mask_random_ratio: float = 0.5
    contrast_weight: float = 0.1
    contrast_layer: Literal["embedder", "decoder"] = "embedder"
    contrast_temperature: float = 0.07
    contrast_mask_mode: HideMode = "element"
    contrast_mask_ratio: float = 0.05
    contrast_zero_ratio: float = 0.5
    contrast_random_ratio: float = 0.5
    rate_init: bool = False
    fixup_init: bool = True
    decode_weight: float = 1.0
    decode_joint: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[-1, inf)", "context_forward", "context_backward")
        check_range(self, "[0, inf)", "contrast_weight", "decode_weight")
        check_range(self, "[1, inf)", "layers", "heads", "hidden")
        check_range(self, "[0, 1)", "dropout", "dropout_rates", "dropout_embedding")
        check_range(self, "[0, 1]", "mask_ratio", "mask_zero_ratio", "mask_random_ratio")
        check_range(self, "[0, 1]", "contrast_mask_ratio", "contrast_zero_ratio", "contrast_random_ratio")
        check_range(self, "(0, inf)", "contrast_temperature")
        if self.contrast_weight and (self.embed, self.contrast_layer) == ("identity", "embedder"):
            message = (
                "model.contrast_layer=embedder with model.embed=identity trains nothing: use model.contrast_weight=0 "
                "or model.contrast_layer=decoder"
            )
            raise UsageError(message)


class _Layer(nn.Module):
    """Bins attend to bins; then each unit becomes a mixture of the units, by weights of the units' stream."""

    def __init__(self, config: StndtConfig, n_units: int, n_bins: int) -> None:
        super().__init__()
        self.heads, self.pre_norm = config.heads, config.pre_norm
        self.activation = ACTIVATIONS[config.activation]
        self.bins = EncoderBlock(
            n_units,
            config.heads,
            config.hidden,
            config.dropout,
            pre_norm=config.pre_norm,
            activation=config.activation,
        )
        if config.pre_norm:
            self.norm_units = nn.LayerNorm(n_bins)
        self.to_query_key = nn.Linear(n_bins, 2 * n_bins)
        bound = math.sqrt(6 / (n_bins + 3 * n_bins))  # as if the values stood in the same matrix
        nn.init.uniform_(self.to_query_key.weight, -bound, bound)
        nn.init.zeros_(self.to_query_key.bias)
        self.norm_mixed = nn.LayerNorm(n_units)
        self.norm_hidden = nn.LayerNorm(n_units)
        self.to_hidden = nn.Linear(n_units, config.hidden)
        self.from_hidden = nn.Linear(config.hidden, n_units)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTN: Tensor, units_BNT: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, T, N]``; ``mask`` is bool ``[T, T]``, for the bins."""
        n_windows, n_bins, _ = x_BTN.shape
        x_BTN = self.bins(x_BTN.flatten(0, 1), [n_bins] * n_windows, mask).unflatten(0, (n_windows, n_bins))
        weights_BNN = self.weights(units_BNT)
        if self.pre_norm:
            x_BTN = x_BTN + self._mix(self.norm_mixed(x_BTN), weights_BNN)
            return x_BTN + self._feed_forward(self.norm_hidden(x_BTN))
        x_BTN = self.norm_mixed(x_BTN + self._mix(x_BTN, weights_BNN))
        return self.norm_hidden(x_BTN + self._feed_forward(x_BTN))

    def weights(self, units_BNT: Tensor) -> Tensor:
        """``[B, N, N]``: how much of each unit each unit takes, the mean over heads."""
        if self.pre_norm:
            units_BNT = self.norm_units(units_BNT)
        query, key = self.to_query_key(units_BNT).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1).mean(1)

    def _mix(self, x_BTN: Tensor, weights_BNN: Tensor) -> Tensor:
        return self.dropout(x_BTN @ weights_BNN.transpose(1, 2))

    def _feed_forward(self, x_BTN: Tensor) -> Tensor:
        return self.dropout(self.from_hidden(self.dropout(self.activation(self.to_hidden(x_BTN)))))


_OPTIM = {
    "name": "adamw",
    "lr": 1e-3,
    "weight_decay": 5e-5,
    "schedule": "cosine",
    "warmup": 0.1,
    "epochs": 500,
    "clip": 200.0,
    "accelerator": "auto",
}


def _published(window_ms: float) -> dict[str, dict]:
    """The reference's configs: a window is an NLB trial with its 200 ms ahead, in bins of 5 ms.

    AdamW, 1e-3, cosine after 5,000 of 50,501 passes over the data (area2_bump 40,001), of which early stopping took
    few; here 500 passes and the same share.
    """
    return {
        "data": {"window_ms": window_ms, "bin_ms": 5.0, "batch_size": 64},
        "task": {"population": {"forward_ms": 200.0}},
        "optim": _OPTIM,
    }


class Stndt(BinnedModel):
    """Reads binned counts of one session; gives log rates for each bin, behaviour and labels at the queries' bins."""

    name: ClassVar[str] = "stndt"
    weighs_exposure = True
    checked: ClassVar[str] = "4 recorded configurations of its original: outputs, losses, gradients"
    protocols: ClassVar[tuple[str, ...]] = ()
    one_session: ClassVar[bool] = True
    read_by: ClassVar[str] = "decoders"
    Config: ClassVar[type] = StndtConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Minutes on a CPU core. A large weight of behaviour pulls the encoder away from the rates (docs/models.md).
        "tiny": {
            "layers": 2,
            "heads": 1,  # which divides any number of units and bins
            "dropout": 0.1,
            "dropout_rates": 0.0,
            "dropout_embedding": 0.1,
            "context_forward": 12,
            "context_backward": 12,
            "rate_init": True,
            "decode_weight": 0.1,
            "decode_joint": True,
        },
        "mc_maze": {},
        "mc_rtt": {},
        "area2_bump": {"heads": 1},
        "dmfc_rsg": {"layers": 6},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 800},
        },
        "mc_maze": _published(900.0),
        "dmfc_rsg": _published(1700.0),
        "*": _published(800.0),
    }

    def __init__(self, config: StndtConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.n_bins = timing.window_ns // timing.bin_ns
        if self.n_bins % config.heads:
            message = (
                f"a window has {self.n_bins} bins, which {config.heads} heads do not divide: use --set model.heads=1, "
                "or another data.window_ms"
            )
            raise UsageError(message)
        self.clear_sessions()
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.dropout_rates = nn.Dropout(config.dropout_rates)

    # ---- its session ------------------------------------------------------------------------------------------------

    def add_own(self, session: str, n_units: int) -> None:
        """Build the model for its session.

        Raises:
            UsageError: a second session, or units that the heads do not divide.
        """
        config, n_bins = self.config, self.n_bins
        if self.units:
            message = (
                f"stndt holds one session, {next(iter(self.units))}, not {session} too: its widths are that session's "
                f"units and bins; train a model for each (spiketok train --model stndt --sessions {session})"
            )
            raise UsageError(message)
        if n_units % config.heads:
            message = f"{session} has {n_units} units, which {config.heads} heads do not divide: use model.heads=1"
            raise UsageError(message)
        if config.embed == "linear":
            self.embed_bins, self.embed_units = nn.Linear(n_units, n_units), nn.Linear(n_bins, n_bins)
        if config.position == "learned":
            self.position_bins, self.position_units = nn.Embedding(n_bins, n_units), nn.Embedding(n_units, n_bins)
        else:
            self.register_buffer("waves_bins", sinusoidal_position(n_bins, n_units), persistent=False)
            self.register_buffer("waves_units", sinusoidal_position(n_units, n_bins), persistent=False)
        self.layers = nn.ModuleList(_Layer(config, n_units, n_bins) for _ in range(config.layers))
        if config.fixup_init:
            with torch.no_grad():
                for layer in self.layers:
                    for part in (layer.bins.to_hidden, layer.bins.from_hidden, layer.bins.to_out):
                        part.weight.mul_(0.67 * config.layers**-0.25)
        self.norm = nn.LayerNorm(n_units)
        if self.population:
            self.read_out = nn.Linear(n_units, n_units)
            nn.init.uniform_(self.read_out.weight, -INIT_RANGE, INIT_RANGE)
            nn.init.zeros_(self.read_out.bias)
        self.decoders = nn.ModuleDict({module_key(h.task): nn.Linear(n_units, h.size) for h in self.behaviours})

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed training time as the bias of the read-out."""
        if self.config.rate_init and self.population:
            for session in self.sessions():
                begin_at_mean_rates(self.read_out.bias, sessions[session])

    def why_not(self, protocol: str, session_id: str) -> str:
        return "its widths are the units and bins of the one session that it was trained on"

    # ---- the computation --------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; beside the rates bool ``scored`` ``[B * T, N]``.

        What is scored is as in ``ndt1``. In training ``contrast`` is the NT-Xent of two views of the windows.
        """
        counts_BTN = self._counts(batch)
        asked, always = batch.asked.get(self.population), batch.hidden.get(COUNTS)
        if always is not None:
            always = always.unflatten(0, counts_BTN.shape[:2])
        own = self.training and asked is not None
        seen_BTN, hidden = hide_counts(counts_BTN, always, self._draw(counts_BTN) if own else None, *self._ratios())
        x = self.encode(seen_BTN).flatten(0, 1)
        read = x if self.config.decode_joint else x.detach()
        output = read_behaviours(self.decoders, batch, read, self.n_bins)
        if asked is not None:
            observed = asked.weight > 0
            scored = observed if hidden is None else observed & hidden.expand_as(counts_BTN).flatten(0, 1)
            output |= {self.population: self.read_out(x), "scored": scored}
        if own and self.config.contrast_weight:
            output["contrast"] = self.contrast(*(self._view(counts_BTN, always) for _ in range(2)))
        return output

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of the population, the losses of behaviour, the contrast, and their weighted sum."""
        terms: dict[str, Tensor] = {}
        if "scored" in output:
            asked = batch.asked[self.population]
            log_rate = asked.exposed(output[self.population])
            terms[self.population] = poisson_log_rate(log_rate, asked.target, output["scored"])
        decode = behaviour_losses(self.heads, batch, output)
        parts = [*terms.values(), *(self.config.decode_weight * term for term in decode.values())]
        if "contrast" in output:
            terms["contrast"] = output["contrast"]
            parts.append(self.config.contrast_weight * output["contrast"])
        total = torch.stack(parts).sum() if parts else self.norm.weight.new_zeros((), dtype=torch.float32)
        return terms | decode | {"total": total}

    def encode(self, counts_BTN: Tensor) -> Tensor:
        """``[B, T, N]``: what the read-outs read, for counts as the model sees them."""
        x_BTN, units_BNT = self.embed(counts_BTN)
        if self.config.position == "learned":
            place_TN, place_NT = self.position_bins.weight, self.position_units.weight
        else:
            place_TN, place_NT = self.waves_bins, self.waves_units
        x_BTN = self.dropout_embedding(x_BTN + place_TN)
        units_BNT = self.dropout_embedding(units_BNT + place_NT)
        mask = band_mask(self.n_bins, self.config.context_forward, self.config.context_backward, x_BTN.device)
        for layer in self.layers:
            x_BTN = layer(x_BTN, units_BNT, mask)
            units_BNT = x_BTN.transpose(1, 2)
        return self.dropout_rates(self.norm(x_BTN))

    def embed(self, counts_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, T, N]`` and ``[B, N, T]``: both streams, scaled and not yet placed."""
        bins, units = counts_BTN, counts_BTN.transpose(1, 2)
        if self.config.embed == "linear":
            bins, units = self.embed_bins(bins), self.embed_units(units)
        return bins * math.sqrt(counts_BTN.shape[2]), units * math.sqrt(self.n_bins)

    def contrast(self, first_BTN: Tensor, second_BTN: Tensor) -> Tensor:
        """NT-Xent of two views of the same windows, not weighted; summed over both streams for the embedder."""
        if self.config.contrast_layer == "embedder":
            views = zip(self.embed(first_BTN), self.embed(second_BTN), strict=True)
        else:
            views = [[self.read_out(self.encode(view)) for view in (first_BTN, second_BTN)]]
        temperature = self.config.contrast_temperature
        return torch.stack([nt_xent(a.flatten(1), b.flatten(1), temperature) for a, b in views]).sum()

    def _counts(self, batch: Batch) -> Tensor:
        """``[B, T, N]``.

        Raises:
            DataError: another session, or windows of another length.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session_of(self, batch, self.units, columns["counts"].shape[-1])
        n_bins = bins_of(length)
        if n_bins != self.n_bins:
            message = f"a window has {n_bins} bins and stndt was built for {self.n_bins}: it reads one length"
            raise DataError(message)
        return observed_counts(columns).float().unflatten(0, (len(length), n_bins))

    def _draw(self, counts_BTN: Tensor) -> Tensor:
        return hide(self.config.mask_mode, counts_BTN.shape, self.config.mask_ratio, device=counts_BTN.device)

    def _ratios(self) -> tuple[float, float]:
        return self.config.mask_zero_ratio, self.config.mask_random_ratio

    def _view(self, counts_BTN: Tensor, always: Tensor | None) -> Tensor:
        """The counts with a share of them hidden for a contrast."""
        config, device = self.config, counts_BTN.device
        drawn = hide(config.contrast_mask_mode, counts_BTN.shape, config.contrast_mask_ratio, device=device)
        return hide_counts(counts_BTN, always, drawn, config.contrast_zero_ratio, config.contrast_random_ratio)[0]
