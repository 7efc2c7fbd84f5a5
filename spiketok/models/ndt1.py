"""NDT1: a transformer encoder over bins that fills in hidden bins as Poisson rates, with a decoding read-out.

Ye and Pandarinath 2021, "Representation learning for neural population activity with Neural Data Transformers"
(Neurons, Behavior, Data analysis and Theory, arXiv 2108.01210). Reference code: snel-repo/neural-data-transformers
(src/model.py, src/mask.py, src/config/default.py, configs/mc_maze.yaml and its siblings for NLB).

What is unusual:

- a token is one bin of the whole population; in the reference the width of the model *is* the number of units
  (``embed = "identity"``: counts times sqrt(D), no input matrix), so such a model holds one session;
- attention sees a band of bins, not the whole window;
- bins are hidden whole, but what stands in their place (0, a random count, the count itself) is drawn for each element.

Differs from the reference:

- ``embed = "linear"`` gives each session a read-in N -> D and a read-out D -> N, so that sessions share the encoder;
- behaviour: the reference has no decoding output and decodes by ridge regression on its rates. Here a linear layer
  D -> C stands on the encoder's output at each bin, trained in the same run: jointly (``decode_joint``), or, as in the
  ``nlb`` preset, on detached features, so that the encoder learns from the spikes alone as the reference's does;
- spans ramp up by training batches, not by epochs; layers start from draws of their own, not as copies of one draw;
- of its two kinds of hidden targets, held-out units and forward bins are not built here.

Where bins were not observed, counts of 0 go in and no loss is taken.

Shape letters: B windows, T bins of a window, N units, D width, C components, Q query times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Model, check_same_units
from spiketok.models.batch import TargetSpec, TokenBatch, packed_columns, query_bin
from spiketok.models.losses import poisson_log_rate, weighted_mse
from spiketok.models.masking import corrupt, draw_span, hide_timesteps, span_probability
from spiketok.models.nn import EncoderBlock, band_mask, module_key, sinusoidal_position
from spiketok.recording.nouns import SessionInfo


@dataclass(frozen=True)
class Ndt1Config:
    """The defaults are those of the reference's NLB submissions (default.py under configs/mc_maze.yaml).

    Args:
        embed: ``"identity"`` (D is the number of units; one session) or ``"linear"`` (a read-in for each session).
        dim: D, for ``"linear"``. layers, heads; hidden: width of the feed-forward layers.
        dropout: inside the layers. dropout_rates: before the read-outs. dropout_embedding: after the position is added.
        position: ``"learned"`` or ``"sinusoidal"``. max_bins: longest window, for learned positions.
        context_forward, context_backward: bins that a bin attends to, after and before itself.
        mask_ratio: share of the bins that training hides. mask_zero_ratio: of the elements hidden, the share set to 0.
        mask_random_ratio: of the rest, the share replaced by a random count. mask_max_span: widest hidden stretch.
        span_ramp_start, span_ramp_end: training batches between which stretches come in.
        fixup_init: scale the layers' weights by 0.67 / layers ** 0.25 (T-Fixup, as far as the reference has it: its
            line for the value projection never matches, for torch keeps query, key and value in one matrix).
        decode_weight: of the behaviour's loss beside the Poisson loss. decode_joint: let it train the encoder too.
    """

    embed: Literal["identity", "linear"] = "identity"
    dim: int = 128
    layers: int = 4
    heads: int = 2
    hidden: int = 128
    dropout: float = 0.1
    dropout_rates: float = 0.2
    dropout_embedding: float = 0.2
    position: Literal["learned", "sinusoidal"] = "learned"
    max_bins: int = 512
    context_forward: int = 4
    context_backward: int = 8
    mask_ratio: float = 0.25
    mask_zero_ratio: float = 1.0
    mask_random_ratio: float = 0.5
    mask_max_span: int = 1
    span_ramp_start: int = 8000
    span_ramp_end: int = 12000
    fixup_init: bool = True
    decode_weight: float = 1.0
    decode_joint: bool = False

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "hidden", "max_bins", "mask_max_span"):
            if getattr(self, name) < 1:
                message = f"model.{name} is {getattr(self, name)}, must be at least 1"
                raise UsageError(message)
        for name in ("dropout", "dropout_rates", "dropout_embedding"):
            if not 0 <= getattr(self, name) < 1:
                message = f"model.{name} is {getattr(self, name)}, must be in [0, 1)"
                raise UsageError(message)
        for name in ("mask_ratio", "mask_zero_ratio", "mask_random_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                message = f"model.{name} is {getattr(self, name)}, must be in [0, 1]"
                raise UsageError(message)
        for name in ("context_forward", "context_backward", "decode_weight"):
            if getattr(self, name) < 0:
                message = f"model.{name} is {getattr(self, name)}, must not be negative"
                raise UsageError(message)
        if self.embed == "linear" and self.dim % self.heads:
            message = f"model.dim is {self.dim}, which {self.heads} heads do not divide"
            raise UsageError(message)


class Ndt1(Model):
    """Reads binned counts; gives log rates for each bin and behaviour at the bins of the queries."""

    name: ClassVar[str] = "ndt1"
    scheme: ClassVar[str] = "binned"
    one_session_batches: ClassVar[bool] = True
    Config: ClassVar[type] = Ndt1Config
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Several sessions, minutes on two CPU cores. A wide band is slow to learn: on simulated sessions 600 steps gave
        # R2 .90 with bins -12 .. 4 and .81 with bins -20 .. 10.
        "tiny": {
            "embed": "linear",
            "dim": 64,
            "layers": 2,
            "heads": 4,
            "dropout_rates": 0.1,
            "dropout_embedding": 0.1,
            "context_backward": 12,
            "decode_weight": 10.0,
            "decode_joint": True,
        },
        "nlb": {},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        # A read-in a session learns at a higher rate; about a minute.
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 5e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 1000},
        },
        # The reference's NLB submissions (configs/mc_maze.yaml and its siblings): AdamW, 1e-3, cosine.
        "*": {
            "data": {"window_ms": 1000.0, "batch_size": 64},
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 5e-5,
                "schedule": "cosine",
                "epochs": 500,
                "clip": 200.0,
                "accelerator": "auto",
            },
        },
    }

    def __init__(self, config: Ndt1Config, target: TargetSpec) -> None:
        super().__init__(config, target)
        self.units: dict[str, list[str]] = {}
        self.read_in, self.read_out = nn.ModuleDict(), nn.ModuleDict()
        self.layers = nn.ModuleList()
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.dropout_rates = nn.Dropout(config.dropout_rates)
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))  # where the ramp of the spans stands
        if config.embed == "linear":
            self._build_encoder(config.dim)

    def _build_encoder(self, dim: int) -> None:
        config = self.config
        self.dim = dim
        self.layers = nn.ModuleList(
            EncoderBlock(dim, config.heads, config.hidden, config.dropout) for _ in range(config.layers)
        )
        if config.fixup_init:
            with torch.no_grad():
                for layer in self.layers:
                    for part in (layer.to_hidden, layer.from_hidden, layer.to_out):
                        part.weight.mul_(0.67 * config.layers**-0.25)
        self.norm = nn.LayerNorm(dim)
        if config.position == "learned":
            self.position = nn.Embedding(config.max_bins, dim)
        self.decoder = nn.Linear(dim, self.n_components)

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """A read-in (``embed = "linear"``) and a read-out of log rates for each session that is new.

        Raises:
            UsageError: a second session, or a number of units that the heads do not divide, for ``"identity"``.
        """
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units:
                check_same_units(info.id, self.units[info.id], keys)
            else:
                self._add(info.id, keys)

    def _add(self, session: str, keys: list[str]) -> None:
        n_units, device = len(keys), self.batches_seen.device
        if n_units == 0:
            message = f"{session} has no units: it cannot be read in"
            raise DataError(message)
        if self.config.embed == "identity":
            self._check_identity(session, n_units)
            self._build_encoder(n_units)
            self.to(device)
        else:
            self.read_in[module_key(session)] = nn.Linear(n_units, self.dim).to(device)
        read_out = nn.Linear(self.dim, n_units)
        nn.init.uniform_(read_out.weight, -0.1, 0.1)
        nn.init.zeros_(read_out.bias)
        self.read_out[module_key(session)] = read_out.to(device)
        self.units[session] = keys

    def _check_identity(self, session: str, n_units: int) -> None:
        remedy = "use --set model.embed=linear"
        if self.units:
            message = f"model.embed=identity holds one session, {next(iter(self.units))}, not {session} too: {remedy}"
            raise UsageError(message)
        if n_units % self.config.heads:
            message = f"{session} has {n_units} units, which {self.config.heads} heads do not divide: {remedy}"
            raise UsageError(message)

    def sessions(self) -> list[str]:
        return list(self.units)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[nn.Parameter]:
        """The read-in (where there is one) and the read-out of log rates of each session."""
        chosen = self.sessions() if sessions is None else list(sessions)
        found = []
        for session in chosen:
            self.session_row(session)
            key = module_key(session)
            found += self.read_in[key].parameters() if key in self.read_in else []
            found += self.read_out[key].parameters()
        return found

    def extra_state(self) -> dict[str, object]:
        return {"units": [[session, keys] for session, keys in self.units.items()]}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units = {}
        self.read_in, self.read_out = nn.ModuleDict(), nn.ModuleDict()
        for session, keys in state["units"]:
            self._add(session, list(keys))

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: TokenBatch) -> dict[str, Tensor]:
        """``prediction`` ``[Q, C]``, ``log_rate`` ``[B * T, N]``, and ``scored`` bool ``[B * T]``.

        The Poisson loss runs over the scored bins. In training, those are the hidden bins that were observed; in
        evaluation nothing is hidden and every observed bin counts, so that the two losses are not the same quantity.
        """
        columns, length = packed_columns(batch)
        key = module_key(self._session(batch, columns["counts"].shape[-1]))
        n_windows, n_bins = len(length), self._bins(length)
        counts = columns["counts"].float().unflatten(0, (n_windows, n_bins))  # [B, T, N]
        scored = columns["observed"].bool()
        if self.training:
            hidden = self._hide(n_windows, n_bins, counts.device)
            counts = corrupt(counts, hidden[..., None], self.config.mask_zero_ratio, self.config.mask_random_ratio)
            scored = scored & hidden.flatten()
        x = (self.read_in[key](counts) if key in self.read_in else counts) * math.sqrt(self.dim)
        x = self.dropout_embedding(x + self._positions(n_bins, x.device)).flatten(0, 1)  # [B * T, D]
        mask = band_mask(n_bins, self.config.context_forward, self.config.context_backward, x.device)
        for layer in self.layers:
            x = layer(x, length, mask)
        x = self.dropout_rates(self.norm(x))
        decoded = self.decoder(x if self.config.decode_joint else x.detach())
        return {
            "prediction": decoded[query_bin(batch, n_bins)],
            "log_rate": self.read_out[key](x),
            "scored": scored,
        }

    def loss(self, batch: TokenBatch, output: dict[str, Tensor]) -> dict[str, Tensor]:
        """The Poisson loss of the spikes, and ``decode_weight`` times the weighted MSE of the behaviour."""
        columns, _ = packed_columns(batch)
        poisson = poisson_log_rate(output["log_rate"], columns["counts"], output["scored"][:, None])
        mse = weighted_mse(output["prediction"].float(), batch.target, batch.weight)
        return {"poisson": poisson, "mse": mse, "total": poisson + self.config.decode_weight * mse}

    def _session(self, batch: TokenBatch, n_units: int) -> str:
        session = batch.sessions[0]
        if len(set(batch.sessions)) > 1:
            message = f"ndt1 reads batches of one session, this one holds {', '.join(sorted(set(batch.sessions)))}"
            raise DataError(message)
        self.session_row(session)
        if len(self.units[session]) != n_units:
            message = f"{session}: the batch has {n_units} units, the model knows {len(self.units[session])}"
            raise DataError(message)
        return session

    def _bins(self, length: list[int]) -> int:
        if len(set(length)) > 1:
            message = f"the windows of a batch have {min(length)} to {max(length)} bins, expected the same number"
            raise DataError(message)
        if self.config.position == "learned" and length[0] > self.config.max_bins:
            message = (
                f"a window has {length[0]} bins and model.max_bins is {self.config.max_bins}: "
                "shorten data.window_ms, or raise model.max_bins and train anew"
            )
            raise DataError(message)
        return length[0]

    def _positions(self, n_bins: int, device: torch.device) -> Tensor:
        if self.config.position == "learned":
            return self.position.weight[:n_bins]
        return sinusoidal_position(n_bins, self.dim, first=1).to(device)  # the reference counts from 1

    def _hide(self, n_windows: int, n_bins: int, device: torch.device) -> Tensor:
        """Draw the hidden bins of a training batch, bool ``[B, T]``."""
        config, span = self.config, 1
        if config.mask_max_span > 1:
            ramp = span_probability(int(self.batches_seen), config.span_ramp_start, config.span_ramp_end)
            span = draw_span(config.mask_max_span, ramp)
        self.batches_seen += 1
        return hide_timesteps(n_windows, n_bins, config.mask_ratio, span, device=device)
