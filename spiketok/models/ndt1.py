"""NDT1: a transformer encoder over bins that fills in hidden counts as Poisson rates, with read-outs for behaviour.

Ye and Pandarinath 2021, "Representation learning for neural population activity with Neural Data Transformers"
(Neurons, Behavior, Data analysis and Theory, arXiv 2108.01210). Reference code: snel-repo/neural-data-transformers
(src/model.py, src/mask.py, src/config/default.py, configs/mc_maze.yaml and its siblings for NLB).

What is unusual:

- a token is one bin of the whole population; in the reference the width of the model *is* the number of units, or a
  multiple of it (``embed = "identity"``: counts times sqrt(D), no input matrix), so such a model holds one session;
- attention sees a band of bins, not the whole window;
- bins are hidden whole, but what stands in their place (0, a random count, the count itself) is drawn for each element;
- held-out units and forward bins are counts like the others that are always hidden and always scored;
- with ``local_ms``, which the original has not, attention has two levels: bins attend to the bins of their block, the
  means of the blocks to each other, and what these gain goes back to the bins.

Differs from the reference:

- ``embed = "linear"`` gives each session a read-in N -> D and a read-out D -> N, so that sessions share the encoder;
  with ``dim = 0`` it is the reference's LINEAR_EMBEDDER, N -> N for one session;
- behaviour: the reference has no decoding output and decodes by ridge regression on its rates. Here a linear layer
  D -> C for each task stands on the encoder's output at each bin, trained in the same run: jointly (``decode_joint``),
  or, as in the ``nlb`` preset, on detached features, so that the encoder learns from the spikes alone as the
  reference's does;
- spans ramp up by training batches, not by epochs; layers start from draws of their own, not as copies of one draw;
- the mask mode ``"unit"`` hides whole units; the reference's ``neuron`` spreads them over the wrong axis;
- a backward context of 0 bins is no bin before itself, and -1 is no limit; the reference takes both as no limit.

Where bins were not observed, counts of 0 go in and no loss is taken.

Shape letters: B windows, T bins of a window, N units, D width, C components, Q query times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range, session_of
from spiketok.models.batch import Batch, Head, Progress, Stretch, Timing, bins_of, observed_counts
from spiketok.models.binned import COUNTS, BinnedModel, begin_at_mean_rates, read_behaviours
from spiketok.models.losses import behaviour_losses, poisson_log_rate, poisson_rate
from spiketok.models.masking import HideMode, draw_span, hide, hide_counts, span_probability
from spiketok.models.nn import EncoderBlock, ScaleNorm, band_mask, module_key, sinusoidal_position

RATE_EPS = 1e-8  # what stands under the logarithm of a rate
READ_OUT_HIDDEN = 16  # width of the hidden layer of a read-out of two layers
INIT_RANGE = 0.1  # of read-outs and of the table of counts


@dataclass(frozen=True)
class Ndt1Config:
    """The defaults are those of the reference's NLB submissions (default.py under configs/mc_maze.yaml).

    Args:
        embed: ``"identity"`` (D is the number of units N), ``"count_table"`` (each count becomes a row of one table for
            all units, D = N * ``embed_dim``) or ``"linear"`` (a read-in for each session). The first two hold one
            session.
        dim: D, for ``"linear"``; 0 for as many as the session has units (one session).
        embed_dim: width of the table's rows. max_spikes: the table has ``max_spikes + 2`` rows; larger counts read the
            last one.
        layers, heads; hidden: width of the feed-forward layers. activation: in them.
        pre_norm: normalise before each branch, else after each sum. final_norm: ``"layer"`` or ``"scale"``, after the
            last layer in both cases.
        dropout: inside the layers. dropout_rates: before the read-outs. dropout_embedding: after the position is added.
        position: ``"learned"`` or ``"sinusoidal"``. position_offset: sinusoidal positions count from 1, else from 0.
            max_bins: longest window, for learned positions.
        context_forward, context_backward: bins that a bin attends to, after and before itself; -1 for no limit.
            ``context_forward = 0`` makes the model causal.
        mask_mode: what training hides at once: ``"timestep"`` whole bins, ``"shared_timestep"`` the same whole bins in
            every window of a batch, ``"element"`` single counts, ``"unit"`` whole units.
        mask_ratio: share that training hides. mask_zero_ratio: of the elements hidden, the share set to 0.
        mask_random_ratio: of the rest, the share replaced by a random count. mask_max_span: widest hidden stretch, for
            whole bins.
        span_ramp_start, span_ramp_end: training batches between which stretches come in.
        read_out_layers: 1, or 2 with a hidden layer of 16 and ReLU. log_rate: the read-out gives log rates; else rates,
            by ReLU. rate_init: the biases of a read-out start from the mean rates of the session's training time, not
            from 0: at sparse counts the way from a rate of one spike a bin is long (sessions that come later start
            from 0).
        loss_top: share of the scored counts, those with the largest loss, that the Poisson loss sums; it divides by
            all of them.
        fixup_init: scale the layers' weights by 0.67 / layers ** 0.25 (T-Fixup, as far as the reference has it: its
            line for the value projection never matches, for torch keeps query, key and value in one matrix).
        decode_weight: of the losses of behaviour beside the Poisson loss. decode_joint: let them train the encoder too.
        local_ms: length of the blocks of attention in two levels, which divides the window; 0 for one level. It stands
            in place of a context in bins, so ``context_forward`` and ``context_backward`` must be -1.
        local_layers: of ``layers``, how many attend inside blocks before those that attend between them, and as many
            behind them.
    """

    embed: Literal["identity", "linear", "count_table"] = "identity"
    dim: int = 128
    embed_dim: int = 2
    max_spikes: int = 20
    layers: int = 4
    heads: int = 2
    hidden: int = 128
    activation: Literal["relu", "gelu"] = "relu"
    pre_norm: bool = True
    final_norm: Literal["layer", "scale"] = "layer"
    dropout: float = 0.1
    dropout_rates: float = 0.2
    dropout_embedding: float = 0.2
    position: Literal["learned", "sinusoidal"] = "learned"
    position_offset: bool = True
    max_bins: int = 512
    context_forward: int = 4
    context_backward: int = 8
    mask_mode: HideMode = "timestep"
    mask_ratio: float = 0.25
    mask_zero_ratio: float = 1.0
    mask_random_ratio: float = 0.5
    mask_max_span: int = 1
    span_ramp_start: int = 8000
    span_ramp_end: int = 12000
    read_out_layers: int = 1
    log_rate: bool = True
    rate_init: bool = False
    loss_top: float = 1.0
    fixup_init: bool = True
    decode_weight: float = 1.0
    decode_joint: bool = False
    local_ms: float = 0.0
    local_layers: int = 1

    def __post_init__(self) -> None:
        check_range(self, "[-1, inf)", "context_forward", "context_backward")
        check_range(self, "[0, inf)", "dim", "decode_weight")
        counted = ("embed_dim", "layers", "heads", "hidden", "max_bins", "mask_max_span", "max_spikes")
        check_range(self, "[1, inf)", *counted)
        check_range(self, "[0, 1)", "dropout", "dropout_rates", "dropout_embedding")
        check_range(self, "[0, 1]", "mask_ratio", "mask_zero_ratio", "mask_random_ratio")
        check_range(self, "(0, 1]", "loss_top")
        if self.read_out_layers not in (1, 2):
            message = f"model.read_out_layers is {self.read_out_layers}, must be 1 or 2"
            raise UsageError(message)
        if self.mask_max_span > 1 and self.mask_mode not in ("timestep", "shared_timestep"):
            message = f"model.mask_max_span is {self.mask_max_span}, but mask_mode {self.mask_mode} hides no whole bins"
            raise UsageError(message)
        if not self.one_session and self.dim % self.heads:
            message = f"model.dim is {self.dim}, which {self.heads} heads do not divide"
            raise UsageError(message)
        self._check_levels()

    def _check_levels(self) -> None:
        check_range(self, "[0, inf)", "local_ms")
        check_range(self, "[1, inf)", "local_layers")
        if not self.local_ms:
            return
        if self.context_forward >= 0 or self.context_backward >= 0:
            context = f"model.context_forward {self.context_forward} and model.context_backward {self.context_backward}"
            message = f"model.local_ms is {self.local_ms:g} beside {context}: set both to -1, or model.local_ms to 0"
            raise UsageError(message)
        if self.layers <= 2 * self.local_layers:
            message = (
                f"model.layers is {self.layers}: with model.local_layers {self.local_layers} before and behind none is "
                "left to attend between blocks: raise model.layers"
            )
            raise UsageError(message)

    @property
    def one_session(self) -> bool:
        """Whether the width follows the session's units, so that the model holds one."""
        return self.embed != "linear" or self.dim == 0

    def width(self, n_units: int) -> int:
        """D."""
        if not self.one_session:
            return self.dim
        return n_units * self.embed_dim if self.embed == "count_table" else n_units


_POPULATION: dict[str, object] = {  # what the presets for held-out units share
    "embed": "linear",
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "context_forward": 12,
    "context_backward": 12,
    "mask_mode": "element",
    "rate_init": True,
}


class Ndt1(BinnedModel):
    """Reads binned counts; gives log rates for each bin, and behaviour and labels at the bins of the queries."""

    name: ClassVar[str] = "ndt1"
    weighs_exposure = True
    checked: ClassVar[str] = "7 recorded configurations of its original: outputs, losses, gradients"
    own_tables: ClassVar[tuple[str, ...]] = ("read_in", "read_out")
    read_by: ClassVar[str] = "decoders"
    Config: ClassVar[type] = Ndt1Config
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Several sessions, minutes on two CPU cores. Whole units are hidden, which is what held-out units ask; whole
        # bins, a band -12 .. 4 and behaviour of weight 10 gave .55 of the true rates' co-bps in place of .85.
        "tiny": {
            "embed": "linear",
            "dim": 64,
            "layers": 2,
            "heads": 4,
            "dropout": 0.0,
            "dropout_rates": 0.0,
            "dropout_embedding": 0.0,
            "context_forward": -1,
            "context_backward": -1,
            "mask_mode": "unit",
            "rate_init": True,
            "decode_weight": 0.2,
            "decode_joint": True,
        },
        # Held-out units alone (--task population), many units and minutes of recording. Dropout costs most here: on a
        # simulated session of 300 units it took .08 of the true rates' co-bps.
        "population": _POPULATION | {"dropout": 0.0, "dropout_rates": 0.0, "dropout_embedding": 0.0},
        # The same with about a minute of recording, where everything else is learned by heart.
        "population-small": _POPULATION | {"dropout": 0.4, "dropout_rates": 0.6, "dropout_embedding": 0.6},
        "nlb": {},
        "area2_bump": {"embed": "count_table", "embed_dim": 2},
        "dmfc_rsg": {"layers": 6},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        # Two or three minutes on a CPU core.
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 4e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 3500},
        },
        "population": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 5e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 1000},
        },
        "population-small": {
            "data": {"window_ms": 700.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.1, "schedule": "cosine", "steps": 800},
        },
        # The reference's configs of its NLB submissions: bins of 5 ms, AdamW, 1e-3, cosine after 5,000 of 50,501 passes
        # over the data (area2_bump 40,001), of which early stopping took few; here 500 passes and the same share.
        "*": {
            "data": {"window_ms": 1000.0, "bin_ms": 5.0, "batch_size": 64},
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 5e-5,
                "schedule": "cosine",
                "warmup": 0.1,
                "epochs": 500,
                "clip": 200.0,
                "accelerator": "auto",
            },
        },
    }

    def __init__(self, config: Ndt1Config, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.causal, self.one_session = config.context_forward == 0, config.one_session
        self.block_bins = self._bins_of_a_block()
        self.clear_sessions()
        self.layers = nn.ModuleList()
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.dropout_rates = nn.Dropout(config.dropout_rates)
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))  # where the ramp of the spans stands
        if not config.one_session:
            self._build_encoder(config.dim)

    def _bins_of_a_block(self) -> int:
        """Bins of ``local_ms``; 0 without.

        Raises:
            UsageError: they are no whole number, or the blocks do not divide the window of the run.
        """
        local_ns, bin_ns, window_ns = round(self.config.local_ms * 1e6), self.timing.bin_ns, self.timing.window_ns
        if local_ns and (local_ns % bin_ns or window_ns % local_ns):
            message = (
                f"model.local_ms is {self.config.local_ms:g}, data.bin_ms {bin_ns / 1e6:g} and data.window_ms "
                f"{window_ns / 1e6:g}: blocks must be whole bins, and windows whole blocks"
            )
            raise UsageError(message)
        return local_ns // bin_ns

    def _build_encoder(self, dim: int) -> None:
        config = self.config
        self.dim = dim
        self.layers = nn.ModuleList(
            EncoderBlock(
                dim,
                config.heads,
                config.hidden,
                config.dropout,
                pre_norm=config.pre_norm,
                activation=config.activation,
            )
            for _ in range(config.layers)
        )
        if config.fixup_init:
            with torch.no_grad():
                for layer in self.layers:
                    for part in (layer.to_hidden, layer.from_hidden, layer.to_out):
                        part.weight.mul_(0.67 * config.layers**-0.25)
        self.norm = ScaleNorm(dim) if config.final_norm == "scale" else nn.LayerNorm(dim)
        if config.position == "learned":
            self.position = nn.Embedding(config.max_bins, dim)
        if config.embed == "count_table":
            self.count_table = nn.Embedding(config.max_spikes + 2, config.embed_dim)
            nn.init.uniform_(self.count_table.weight, -INIT_RANGE, INIT_RANGE)
        self.decoders = nn.ModuleDict({module_key(head.task): nn.Linear(dim, head.size) for head in self.behaviours})

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_own(self, session: str, n_units: int) -> None:
        """A read-in (``embed = "linear"``) and, for the population, a read-out.

        Raises:
            UsageError: a second session, or a width that the heads do not divide, where the width follows the units.
        """
        device, key = self.batches_seen.device, module_key(session)
        if self.config.one_session:
            self._check_one_session(session, n_units)
            self._build_encoder(self.config.width(n_units))
            self.to(device)
        if self.config.embed == "linear":
            self.read_in[key] = nn.Linear(n_units, self.dim).to(device)
        if self.population:
            self.read_out[key] = self._new_read_out(n_units).to(device)

    def _new_read_out(self, n_units: int) -> nn.Module:
        width = [self.dim, n_units] if self.config.read_out_layers == 1 else [self.dim, READ_OUT_HIDDEN, n_units]
        parts: list[nn.Module] = []
        for before, after in pairwise(width):
            linear = nn.Linear(before, after)
            nn.init.uniform_(linear.weight, -INIT_RANGE, INIT_RANGE)
            nn.init.zeros_(linear.bias)
            parts += [nn.ReLU(), linear] if parts else [linear]
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed time as the bias of its read-out."""
        if not (self.config.rate_init and self.population):
            return
        for session in sessions:
            read_out = self.read_out[module_key(session)]
            last = read_out if isinstance(read_out, nn.Linear) else read_out[-1]
            begin_at_mean_rates(last.bias, sessions[session], log=self.config.log_rate)

    def _check_one_session(self, session: str, n_units: int) -> None:
        config, remedy = self.config, "use --set model.embed=linear"
        if self.units:
            given = f"model.embed={config.embed}" + (" with model.dim=0" if config.embed == "linear" else "")
            remedy = "set model.dim to the model's width" if config.embed == "linear" else remedy
            message = f"{given} holds one session, {next(iter(self.units))}, not {session} too: {remedy}"
            raise UsageError(message)
        if config.width(n_units) % config.heads:
            remedy = "set model.dim to a multiple" if config.embed == "linear" else remedy
            message = f"{session} has {n_units} units, which {config.heads} heads do not divide: {remedy}"
            raise UsageError(message)

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; beside the rates bool ``scored`` ``[B * T, N]``.

        The Poisson loss runs over the scored counts: those that the batch or the model itself hides and that were
        observed; in evaluation, where the model hides nothing itself, without hidden counts all that were observed. The
        losses of training and evaluation are therefore not the same quantity.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session = session_of(self, batch, self.units, columns["counts"].shape[-1])
        n_bins = self._bins(length)
        counts = observed_counts(columns).float().unflatten(0, (len(length), n_bins))  # [B, T, N]
        counts, scored = self._hide(batch, counts)
        x = self._embed(session, counts) * math.sqrt(self.dim)
        x = self.dropout_embedding(x + self._positions(n_bins, x.device)).flatten(0, 1)  # [B * T, D]
        x = self.dropout_rates(
            self.norm(self._in_two_levels(x, n_bins) if self.block_bins else self._attend(x, length))
        )
        read = x if self.config.decode_joint else x.detach()
        output = read_behaviours(self.decoders, batch, read, n_bins)
        if scored is not None:
            output |= self._rates(session, x) | {"scored": scored}
        return output

    def _attend(self, x_LD: Tensor, length: list[int]) -> Tensor:
        mask = band_mask(length[0], self.config.context_forward, self.config.context_backward, x_LD.device)
        for layer in self.layers:
            x_LD = layer(x_LD, length, mask)
        return x_LD

    def _in_two_levels(self, x_LD: Tensor, n_bins: int) -> Tensor:
        """Bins inside their block, the blocks of a window among each other, and bins inside their block again.

        A block is the mean of its bins; what attention adds to it is added to each of them.
        """
        n, n_blocks = self.config.local_layers, n_bins // self.block_bins
        inside = [self.block_bins] * (len(x_LD) // self.block_bins)
        between = [n_blocks] * (len(x_LD) // n_bins)
        for layer in self.layers[:n]:
            x_LD = layer(x_LD, inside)
        x_LBD = x_LD.unflatten(0, (-1, self.block_bins))
        mean = x_LBD.mean(1)
        block = mean
        for layer in self.layers[n:-n]:
            block = layer(block, between)
        x_LD = (x_LBD + (block - mean)[:, None]).flatten(0, 1)
        for layer in self.layers[-n:]:
            x_LD = layer(x_LD, inside)
        return x_LD

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of the population, ``decode_weight`` times the losses of behaviour, and their sum."""
        terms: dict[str, Tensor] = {}
        if "scored" in output:
            asked, scored, top = batch.asked[self.population], output["scored"], self.config.loss_top
            if self.config.log_rate:
                poisson = poisson_log_rate(asked.exposed(output[self.population]), asked.target, scored, top=top)
            else:
                rate = output["rate"] if asked.exposure is None else output["rate"] * asked.exposure
                poisson = poisson_rate(rate, asked.target, scored, top=top, eps=RATE_EPS)
            terms[self.population] = poisson
        decode = behaviour_losses(self.heads, batch, output)
        parts = list(terms.values())
        if decode:
            parts.append(self.config.decode_weight * torch.stack(list(decode.values())).sum())
        total = torch.stack(parts).sum() if parts else self.batches_seen.new_zeros((), dtype=torch.float32)
        return terms | decode | {"total": total}

    def _bins(self, length: list[int]) -> int:
        n_bins = bins_of(length)
        if self.config.position == "learned" and n_bins > self.config.max_bins:
            message = (
                f"a window has {n_bins} bins and model.max_bins is {self.config.max_bins}: "
                "shorten data.window_ms, or raise model.max_bins and train anew"
            )
            raise DataError(message)
        if self.block_bins and n_bins % self.block_bins:
            message = (
                f"a window has {n_bins} bins, which are no whole number of blocks of {self.block_bins} bins "
                f"(model.local_ms {self.config.local_ms:g}): change data.window_ms or model.local_ms"
            )
            raise DataError(message)
        return n_bins

    def _hide(self, batch: Batch, counts_BTN: Tensor) -> tuple[Tensor, Tensor | None]:
        """The counts as the encoder sees them, and which of them are scored, ``[B * T, N]``; None if not asked."""
        asked = batch.asked.get(self.population)
        hidden = batch.hidden.get(COUNTS)
        if hidden is not None:
            hidden = hidden.unflatten(0, counts_BTN.shape[:2])
        drawn = self._draw(counts_BTN) if self.training and asked is not None else None
        ratios = self.config.mask_zero_ratio, self.config.mask_random_ratio
        counts_BTN, hidden = hide_counts(counts_BTN, hidden, drawn, *ratios)
        if asked is None:
            return counts_BTN, None
        observed = asked.weight > 0
        return counts_BTN, observed if hidden is None else observed & hidden.expand_as(counts_BTN).flatten(0, 1)

    def _draw(self, counts_BTN: Tensor) -> Tensor:
        """What a training batch hides beside what is always hidden; bool, broadcasts to ``[B, T, N]``."""
        config, span = self.config, 1
        if config.mask_max_span > 1:
            ramp = span_probability(int(self.batches_seen), config.span_ramp_start, config.span_ramp_end)
            span = draw_span(config.mask_max_span, ramp)
        self.batches_seen += 1
        return hide(config.mask_mode, counts_BTN.shape, config.mask_ratio, span, device=counts_BTN.device)

    def _embed(self, session: str, counts_BTN: Tensor) -> Tensor:
        """``[B, T, D]``, neither scaled nor placed."""
        if self.config.embed == "linear":
            return self.read_in[module_key(session)](counts_BTN)
        if self.config.embed == "identity":
            return counts_BTN
        return self.count_table(counts_BTN.long().clamp_max(self.config.max_spikes + 1)).flatten(-2)

    def _positions(self, n_bins: int, device: torch.device) -> Tensor:
        if self.config.position == "learned":
            return self.position.weight[:n_bins]
        return sinusoidal_position(n_bins, self.dim, first=int(self.config.position_offset)).to(device)

    def _rates(self, session: str, x_LD: Tensor) -> dict[str, Tensor]:
        """The population's log rates; beside them the rates themselves, where the read-out gives those."""
        out = self.read_out[module_key(session)](x_LD)
        if self.config.log_rate:
            return {self.population: out}
        rate = F.relu(out.float())
        return {self.population: (rate + RATE_EPS).log(), "rate": rate}
