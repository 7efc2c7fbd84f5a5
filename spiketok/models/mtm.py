"""MtM: a transformer over bins that fills in what masks of several kinds hide, and is told by a token of which.

Zhang, Wang, Jimenez-Beneto, Wang, Azabou, Richards, Winter, International Brain Laboratory, Dyer, Paninski and Hurwitz
2024, "Towards a universal translator for neural dynamics at single-cell, single-spike resolution" (NeurIPS, arXiv
2407.14668). Reference code: colehurwitz/IBL_foundation_model (e0c39bd; src/models/ndt1.py, src/models/masker.py,
src/trainer/base.py, src/configs/ndt1_stitching_prompting.yaml).

What is unusual:

- each training batch is hidden by one mask of ``masks``: single units (``neuron``), bins that are predicted from the
  past alone (``causal``), a region from all others (``inter_region``), units of a region from the rest of that region
  (``intra_region``). A learned token says which; an evaluation that hides in one of these ways says its name too;
- a session's units are stitched to C channels by a matrix of its own, and read out by another; a token is its own too;
- in front of the bins stand the tokens of session and mask, without a position.

Differs from the reference:

- read-ins and read-outs are keyed by session; there by the number of units, so that two sessions of as many units share
  them, and an unknown session has none;
- with ``causal`` the tokens in front see only each other. There they see all bins, and all bins see them: from the
  second layer on a bin knows its future;
- rotary positions have no table, which there is two rows too short for a whole window;
- the loss is the mean over the counts that are predicted, not their sum: a rate of learning holds for any size. The sum
  is ``spike_loss = "sum"``;
- a session of one region knows no ``inter_region`` (all would be hidden); its ``intra_region`` hides single units;
- held-out units and forward bins (``batch.hidden``) are hidden in every mask, and always scored;
- behaviour: a linear layer at each bin, trained in the same run; the reference trains a decoder on its frozen output;
- dropout is one number in a layer and acts on its hidden units too; each layer starts from torch's draw of an encoder;
- not built: patches of units, factors, stacked bins, spans of hidden bins, random counts in place of hidden ones (which
  no configuration of the reference uses).

``reference_quirks`` opens the tokens in front again. Bins that were not observed are seen by nobody but themselves.

Shape letters: B windows, T bins, N units, C channels, D width, P tokens in front, Q query times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Part, check_range, session_of
from spiketok.models.batch import Batch, Head, Progress, Stretch, Timing, bins_of, whole_counts
from spiketok.models.binned import COUNTS, BinnedModel, begin_at_mean_rates, read_behaviours, region_index
from spiketok.models.losses import behaviour_losses, poisson_log_rate
from spiketok.models.masking import Mask, draw_mask
from spiketok.models.nn import FIRST, NEVER, EncoderBlock, ScaleNorm, Visible, module_key, rotary_steps, scale_by_depth
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

INIT_RANGE = 0.1  # of read-outs
MASK_OF_MODE = {"unit": "neuron", "forward": "causal", "inter_region": "inter_region", "intra_region": "intra_region"}


@dataclass(frozen=True)
class MtmConfig:
    """The defaults are those of the reference's ndt1_stitching_prompting.yaml.

    Args:
        masks: the masks of training, each batch one of them: ``neuron``, ``causal``, ``inter_region``,
            ``intra_region``, ``temporal`` (whole bins), ``random_token`` (single counts). An evaluation is told the
            mask that it is like, if it is one of these; else ``neuron``, if it is; else the first.
        mask_ratio: share that is hidden. causal_ratio: of the bins, in ``causal``.
        region_column: the unit column of regions; a session without it has one region.
        stitch: a matrix N -> ``channels`` for each session; else the counts go in as they are, of one session.
        channels: C. channel_factor: channels become so many times as many, through softsign, before they become D.
        mask_channels: what is hidden goes in beside the counts (0 or 1), without ``stitch``.
        session_token, prompt_token: whether there are these tokens.
        dim: D. layers, heads; hidden: width of the feed-forward layers.
        norm: ``"layer"`` or ``"scale"``, of all layers and after the last. position: ``"learned"`` for up to
            ``max_bins`` bins, or ``"rotary"`` (the paper's better one).
        dropout: inside the layers. dropout_embedding: of the embedded bins.
        spike_loss: the Poisson loss is the ``"mean"`` over the predicted counts, or their ``"sum"``.
        rate_init: the biases of a read-out start from the mean rates of the session's training time, not from 0.
        fixup_init: scale the layers' weights by 0.67 / layers ** 0.25, those of values by the root of 2 more.
        decode_weight: of the losses of behaviour beside that of the spikes. decode_joint: let them train the encoder.
        reference_quirks: in ``causal`` the tokens in front see all bins (see above).
    """

    masks: tuple[Mask, ...] = ("neuron", "causal", "inter_region", "intra_region")
    mask_ratio: float = 0.3
    causal_ratio: float = 0.6
    region_column: str = "region"
    stitch: bool = True
    channels: int = 668
    channel_factor: int = 2
    mask_channels: bool = False
    session_token: bool = True
    prompt_token: bool = True
    dim: int = 512
    layers: int = 5
    heads: int = 8
    hidden: int = 1024
    norm: Literal["layer", "scale"] = "layer"
    position: Literal["learned", "rotary"] = "learned"
    max_bins: int = 100
    dropout: float = 0.4
    dropout_embedding: float = 0.2
    spike_loss: Literal["mean", "sum"] = "mean"
    rate_init: bool = False
    fixup_init: bool = True
    decode_weight: float = 1.0
    decode_joint: bool = False
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "channels", "channel_factor", "dim", "layers", "heads", "hidden", "max_bins")
        check_range(self, "[0, inf)", "decode_weight")
        check_range(self, "[0, 1)", "dropout", "dropout_embedding")
        check_range(self, "(0, 1]", "mask_ratio", "causal_ratio")
        wrong = [mask for mask in self.masks if mask not in get_args(Mask)]
        if wrong or not self.masks or len(set(self.masks)) < len(self.masks):
            message = f"model.masks is {list(self.masks)}, must be some of {', '.join(get_args(Mask))}, each once"
            raise UsageError(message)
        if self.dim % self.heads or (self.position == "rotary" and self.dim // self.heads % 2):
            even = " into an even number of channels" if self.position == "rotary" else ""
            message = f"model.dim is {self.dim}, which {self.heads} heads do not divide{even}"
            raise UsageError(message)
        if self.mask_channels and self.stitch:
            message = "model.mask_channels needs model.stitch=false: what is hidden is told of units, not of channels"
            raise UsageError(message)


_PUBLISHED = {
    "name": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 0.15,
    "accelerator": "auto",
}


class Mtm(BinnedModel):
    """Reads binned counts; gives log rates for each bin, and behaviour and labels at the bins of the queries."""

    name: ClassVar[str] = "mtm"
    weighs_exposure = True
    checked: ClassVar[str] = "7 recorded configurations of its original: outputs, losses, gradients"
    own_tables: ClassVar[tuple[str, ...]] = ("read_in", "read_out")
    read_by: ClassVar[str] = "decoders"
    Config: ClassVar[type] = MtmConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Under two minutes of a CPU core. What behaviour weighs it takes from the rates (docs/models.md).
        "tiny": {
            "channels": 64,
            "dim": 64,
            "layers": 2,
            "heads": 4,
            "hidden": 128,
            "position": "rotary",
            "dropout": 0.0,
            "dropout_embedding": 0.0,
            "rate_init": True,
            "decode_weight": 0.2,
            "decode_joint": True,
        },
        "stitch": {},  # ndt1_stitching_prompting.yaml: many sessions
        "single": {"stitch": False, "session_token": False},  # ndt1_prompting.yaml
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 4e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 4000},
        },
        # Trials of 2 s in bins of 20 ms, batches of 16 of one session, 1000 epochs (ssl_sessions_trainer.yaml). Its
        # OneCycle rises over .15 of the steps and falls; here from 0, there from a tenth.
        "*": {
            "data": {"window_ms": 2000.0, "bin_ms": 20.0, "batch_size": 16},
            "optim": _PUBLISHED | {"lr": 1e-4, "epochs": 1000},
        },
    }

    def __init__(self, config: MtmConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.one_session = not config.stitch
        self.causal = config.masks == ("causal",) and not config.reference_quirks
        self.clear_sessions()
        dim, make_norm = config.dim, ScaleNorm if config.norm == "scale" else nn.LayerNorm
        if config.stitch:
            self._build_embedder(config.channels)
        if config.position == "learned":
            self.position = nn.Embedding(config.max_bins, dim)
        if config.session_token:
            self.session_table = Vocabulary(dim, 1.0, padding=False)
        if config.prompt_token:
            self.prompt = nn.Embedding(len(config.masks), dim)
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.layers = nn.ModuleList(
            EncoderBlock(dim, config.heads, config.hidden, config.dropout, activation="gelu", norm=make_norm)
            for _ in range(config.layers)
        )
        if config.fixup_init:
            scale_by_depth(self.layers)
        self.norm = make_norm(dim)
        self.decoders = nn.ModuleDict({module_key(head.task): nn.Linear(dim, head.size) for head in self.behaviours})

    def _build_embedder(self, channels: int) -> None:
        config = self.config
        wide = channels * (2 if config.mask_channels else 1)
        self.widen = nn.Linear(wide, wide * config.channel_factor)
        self.narrow = nn.Linear(wide * config.channel_factor, config.dim)

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """For each new session a read-in, for the population a read-out, and a token.

        The first tokens come from N(0, 1), as in the reference; later ones start at the mean of those that are there.

        Raises:
            UsageError: a second session without ``stitch``.
            DataError: a session has one region, and no other mask than ``inter_region`` trains.
        """
        fresh = {}
        for info in self.fresh(infos):
            n_regions = len(region_index(info, self.config.region_column).unique())
            if self.population and self.config.masks == ("inter_region",) and n_regions < 2:
                message = (
                    f"{info.id} has one region by its unit column '{self.config.region_column}', and model.masks is "
                    "inter_region alone: nothing would be left to see, name another mask in model.masks"
                )
                raise DataError(message)
            self.keep(info.id, info.unit_keys())
            fresh[info.id] = ["session"]
        if fresh and self.config.session_token:
            table = self.session_table
            mean = table.weight.detach().mean(0, keepdim=True) if len(table) else None
            table.extend(fresh, [mean] * len(fresh))

    def add_own(self, session: str, n_units: int) -> None:
        """A read-in and, for the population, a read-out."""
        config, key, device = self.config, module_key(session), self.layers[0].to_out.weight.device
        if not config.stitch:
            if self.units:
                message = (
                    f"model.stitch=false holds one session, {next(iter(self.units))}, not {session} too: use --set "
                    "model.stitch=true"
                )
                raise UsageError(message)
            self._build_embedder(n_units)
            self.to(device)
        else:
            self.read_in[key] = nn.Linear(n_units, config.channels).to(device)
        if self.population:
            read_out = nn.Linear(config.dim, n_units)
            nn.init.uniform_(read_out.weight, -INIT_RANGE, INIT_RANGE)
            nn.init.zeros_(read_out.bias)
            self.read_out[key] = read_out.to(device)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed time as the bias of its read-out."""
        if self.config.rate_init and self.population:
            for session in sessions:
                begin_at_mean_rates(self.read_out[module_key(session)].bias, sessions[session])

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The read-in, the read-out and the token of each session, as far as there are such."""
        found: list[Part] = []
        for session in self.units if sessions is None else sessions:
            found += super().identity_parameters([session])
            if self.config.session_token:
                found.append(Part.of(self.session_table, session))
        return found

    def load_extra_state(self, state: dict[str, object]) -> None:
        super().load_extra_state(state)
        if self.config.session_token:
            self.session_table.load_state([[session, ["session"]] for session in self.units])

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``; beside the rates bool ``scored`` ``[B * T, N]``.

        Scored are observed counts that the batch hides, and in training those that the mask asks for; in evaluation,
        where the batch hides nothing, all that were observed.
        """
        session, counts_BTN, observed_BT = self._counts(batch)
        asked, always = batch.asked.get(self.population), batch.hidden.get(COUNTS)
        hidden = scored = torch.zeros_like(counts_BTN, dtype=torch.bool)
        if always is not None:
            hidden = scored = always.unflatten(0, counts_BTN.shape[:2])
        mask = self.mask(batch)
        if self.training and asked is not None:
            mask, drawn, predicted = self._draw(batch, session, counts_BTN)
            hidden, scored = hidden | drawn, scored | predicted
        elif always is None:
            scored = torch.ones_like(hidden)
        x_LD = self.encode(session, counts_BTN, hidden, observed_BT, mask).flatten(0, 1)
        read = x_LD if self.config.decode_joint else x_LD.detach()
        output = read_behaviours(self.decoders, batch, read, counts_BTN.shape[1])
        if asked is not None:
            scored = scored.flatten(0, 1) & (asked.weight > 0)
            output |= {self.population: self.read_out[module_key(session)](x_LD), "scored": scored}
        return output

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The Poisson loss of the population, ``decode_weight`` times the losses of behaviour, and their sum."""
        terms: dict[str, Tensor] = {}
        if "scored" in output:
            scored = output["scored"]
            asked = batch.asked[self.population]
            poisson = poisson_log_rate(asked.exposed(output[self.population]), asked.target, scored)
            terms[self.population] = poisson * scored.sum() if self.config.spike_loss == "sum" else poisson
        decode = behaviour_losses(self.heads, batch, output)
        parts = [*terms.values(), *(self.config.decode_weight * term for term in decode.values())]
        total = torch.stack(parts).sum() if parts else self.layers[0].to_out.weight.new_zeros(())
        return terms | decode | {"total": total}

    def mask(self, batch: Batch) -> Mask:
        """What an evaluation is told: its own way of hiding if that was trained, else ``neuron``, else the first."""
        trained = self.config.masks
        named = MASK_OF_MODE.get(batch.mode, "neuron")
        return next((mask for mask in (named, "neuron") if mask in trained), trained[0])

    def encode(self, session: str, counts_BTN: Tensor, hidden_BTN: Tensor, observed_BT: Tensor, mask: Mask) -> Tensor:
        """``[B, T, D]``: what the read-outs read.

        Args:
            counts_BTN: float. hidden_BTN: bool, what of them is 0 on the way in. observed_BT: bool.
            mask: of ``masks``; with ``"causal"`` no bin depends on a later one.
        """
        n_windows, n_bins = observed_BT.shape
        x = torch.where(hidden_BTN, 0.0, counts_BTN)
        if self.config.stitch:
            x = self.read_in[module_key(session)](x)
        elif self.config.mask_channels:
            x = torch.cat([x, (hidden_BTN & observed_BT[..., None]).to(x)], dim=-1)
        x = self.narrow(F.softsign(self.widen(x)))
        if self.config.position == "learned":
            x = x + self.position.weight[:n_bins]
        front = self._front(session, mask)
        x = torch.cat([front.expand(n_windows, -1, -1).to(x), self.dropout_embedding(x)], dim=1)
        n_front, n_rows = len(front), len(front) + n_bins
        turn = None
        if self.config.position == "rotary":
            step = torch.arange(n_rows, device=x.device).repeat(n_windows)
            turn = rotary_steps(step, self.config.dim // self.config.heads)
        length, x = [n_rows] * n_windows, x.flatten(0, 1)
        visible = self._visible(observed_BT, n_front, mask)
        for layer in self.layers:
            x = layer(x, length, visible, turn)
        return self.norm(x.unflatten(0, (n_windows, n_rows))[:, n_front:])

    def _front(self, session: str, mask: Mask) -> Tensor:
        """``[P, D]``: the tokens of the session and of the mask."""
        tokens = [self.layers[0].to_out.weight.new_zeros(0, self.config.dim)]
        if self.config.session_token:
            row = torch.from_numpy(self.session_table.rows(session)).to(tokens[0].device)
            tokens.append(self.session_table(row))
        if self.config.prompt_token:
            tokens.append(self.prompt.weight[self.config.masks.index(mask)][None])
        return torch.cat(tokens)

    def _visible(self, observed_BT: Tensor, n_front: int, mask: Mask) -> Visible | None:
        """Which rows a row attends to; None for all."""
        n_windows, n_bins = observed_BT.shape
        causal = mask == "causal"
        if not causal and bool(observed_BT.all()):
            return None
        bins = torch.arange(n_bins, device=observed_BT.device) * int(causal)
        order = bins.repeat(n_windows, 1)
        front = order.new_full((n_windows, n_front), FIRST if causal else 0)
        sees = torch.full_like(front, n_bins) if causal and self.config.reference_quirks else front
        query = torch.cat([sees, order], dim=1).flatten()
        key = torch.cat([front, torch.where(observed_BT, order, NEVER)], dim=1).flatten()
        length = [n_front + n_bins] * n_windows
        return Visible.of(query, key, length, length, itself=True)

    def _counts(self, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """The session, float ``[B, T, N]`` with 0 where nothing was observed, and bool ``[B, T]``, the observed bins.

        Raises:
            DataError: an unknown session, or one with other units; a window of more bins than there are positions.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session, n_bins = session_of(self, batch, self.units, columns["counts"].shape[-1]), bins_of(length)
        if self.config.position == "learned" and n_bins > self.config.max_bins:
            message = (
                f"a window has {n_bins} bins and model.max_bins is {self.config.max_bins}: shorten data.window_ms, or "
                "raise model.max_bins or take model.position=rotary, and train anew"
            )
            raise DataError(message)
        observed = columns["observed"] > 0
        seen = columns["unit_observed"] > 0 if "unit_observed" in columns else observed[:, None]
        counts = torch.where(seen, whole_counts(columns).float(), 0.0)
        return session, *(t.unflatten(0, (len(length), n_bins)) for t in (counts, observed))

    def _draw(self, batch: Batch, session: str, counts_BTN: Tensor) -> tuple[Mask, Tensor, Tensor]:
        """The mask of a training batch, what it hides, and what of that is to be predicted."""
        region = region_index(batch.facts[session], self.config.region_column)
        several = bool((region > 0).any())
        able = [mask for mask in self.config.masks if several or mask != "inter_region"]
        mask = able[int(torch.randint(len(able), ()))]
        ratio = self.config.causal_ratio if mask == "causal" else self.config.mask_ratio
        return mask, *draw_mask(mask, counts_BTN.shape, region, ratio, device=counts_BTN.device)
