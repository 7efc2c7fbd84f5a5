"""What BrainWideBench's models of binned counts share: stitchers, a token a session, an encoder that sees all bins.

A bin of a session's N units goes through a linear layer of its own (the stitcher in), N -> D or further; a learned
position is added, the session's token stands in front, without one; a pre-norm encoder lets every row attend to every
row; another linear layer of the session's own (the stitcher out) gives log rates. Abstract: the models are final, and
say how a bin is embedded, what a training batch hides, and what else stands in front.

What they have beside the original, of which all differ from it in the same way:

- behaviour: a layer D -> C a task on each bin, labels on the mean of a window's bins (one answer a window, for every
  query in it); a run may ask them beside the population, by one pass;
- bins that were not observed are seen by nobody but themselves, and are in no mean;
- what a task hides (held-out units, forward bins) is hidden in every mask, and always scored.

Shape letters: B windows, T bins, N units, D width, P tokens in front, Q query times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Part, check_range, session_of
from spiketok.models.batch import Batch, Head, Progress, Stretch, Timing, bins_of, query_bin, whole_counts
from spiketok.models.binned import COUNTS, BinnedModel, begin_at_mean_rates
from spiketok.models.losses import behaviour_losses, poisson_log_rate, stirling
from spiketok.models.nn import NEVER, EncoderBlock, Visible, module_key, scale_by_depth
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

TABLE_STD = 0.02  # of positions and session tokens


@dataclass(frozen=True)
class StitchedConfig:
    """The defaults are the published 10M size (BrainWideBench).

    Args:
        dim: D. layers, heads; hidden: width of the feed-forward layers.
        max_bins: positions; a longer window is refused.
        dropout: inside the layers. dropout_embedding: of all rows before them. dropout_rates: after them.
        mask_ratio: share that a training batch hides.
        fixup_init: scale the layers' weights by 0.67 / layers ** 0.25, those of values by the root of 2 more.
        rate_init: the biases of a stitcher out start from the mean rates of the session's training time, not by chance.
        decode_weight: of the losses of behaviour beside that of the spikes.
    """

    dim: int = 256
    layers: int = 13
    heads: int = 8
    hidden: int = 1028
    max_bins: int = 50
    dropout: float = 0.2
    dropout_embedding: float = 0.2
    dropout_rates: float = 0.2
    mask_ratio: float = 0.5
    fixup_init: bool = True
    rate_init: bool = False
    decode_weight: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "[1, inf)", "dim", "layers", "heads", "hidden", "max_bins")
        check_range(self, "[0, 1)", "dropout", "dropout_embedding", "dropout_rates")
        check_range(self, "(0, 1]", "mask_ratio")
        check_range(self, "[0, inf)", "decode_weight")
        if self.dim % self.heads:
            message = f"model.dim is {self.dim}, which {self.heads} heads do not divide"
            raise UsageError(message)


# Several sessions, minutes on two CPU cores: what the tiny sizes share.
TINY: dict[str, object] = {
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "hidden": 128,
    "dropout": 0.0,
    "dropout_embedding": 0.0,
    "dropout_rates": 0.0,
    "rate_init": True,
    "decode_weight": 0.2,
}
TINY_RECIPE: dict[str, dict[str, object]] = {
    "data": {"window_ms": 1000.0, "batch_size": 32},
    "optim": {"name": "adamw", "lr": 4e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 2000},
}


def published(**optim: object) -> dict[str, dict[str, object]]:
    """The recipe of the published sizes: windows of 1 s in bins of 20 ms, batches of 16 of one session, 200 epochs.

    The highest rate is 1e-4 times the root of the batch.

    Args:
        optim: what a model has of its own.
    """
    shared = {"name": "adamw", "lr": 4e-4, "weight_decay": 1e-4, "clip": 1.0, "epochs": 200, "accelerator": "auto"}
    return {"data": {"window_ms": 1000.0, "bin_ms": 20.0, "batch_size": 16}, "optim": shared | optim}


class StitchedModel(BinnedModel, ABC):
    """Reads binned counts; gives log rates for each bin, behaviour at the bins of the queries, labels by window.

    Class attributes:
        activation: of the feed-forward layers.
    """

    weighs_exposure = True
    own_tables: ClassVar[tuple[str, ...]] = ("read_in", "read_out")
    read_by: ClassVar[str] = "decoders"
    activation: ClassVar[str]

    def __init__(self, config: StitchedConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.clear_sessions()
        dim = config.dim
        self.position = nn.Embedding(config.max_bins, dim)
        nn.init.normal_(self.position.weight, std=TABLE_STD)
        self.session_table = Vocabulary(dim, TABLE_STD, padding=False)
        self.dropout_embedding = nn.Dropout(config.dropout_embedding)
        self.dropout_rates = nn.Dropout(config.dropout_rates)
        self.layers = nn.ModuleList(
            EncoderBlock(dim, config.heads, config.hidden, config.dropout, activation=self.activation)
            for _ in range(config.layers)
        )
        if config.fixup_init:
            scale_by_depth(self.layers)
        self.norm = nn.LayerNorm(dim)
        self.decoders = nn.ModuleDict({module_key(head.task): nn.Linear(dim, head.size) for head in self.behaviours})

    # ---- what a model says of itself ------------------------------------------------------------------------------

    def read_in_width(self) -> int:
        """What a stitcher in makes of the units; D by default."""
        return self.config.dim

    def embed(self, session: str, counts_BTN: Tensor) -> Tensor:
        """``[B, T, D]``, without a position; by the stitcher alone by default."""
        return self.read_in[module_key(session)](counts_BTN)

    @abstractmethod
    def draw(self, batch: Batch, session: str, counts_BTN: Tensor) -> tuple[str, Tensor, Tensor]:
        """The mask of a training batch by name, what it hides, and what of that is to be predicted.

        Returns:
            the name that :meth:`prompt_of` knows; bool and bool, each of a shape that broadcasts to ``[B, T, N]``.
        """

    def mask_of(self, batch: Batch) -> str:
        """The name of the mask that an evaluation of the population is told."""
        return ""

    def prompt_of(self, mask: str) -> Tensor:
        """``[P, D]``: what stands between the session's token and the bins; nothing by default."""
        return self.position.weight.new_zeros(0, self.config.dim)

    # ---- sessions -------------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """For each new session a stitcher in, for the population a stitcher out, and a token, all drawn."""
        known = len(self.units)
        super().add_sessions(infos)
        new = list(self.units)[known:]
        if new:
            self.session_table.extend({session: ["session"] for session in new})

    def add_own(self, session: str, n_units: int) -> None:
        """A stitcher in and, for the population, a stitcher out, as torch draws a linear layer."""
        key, device = module_key(session), self.position.weight.device
        self.read_in[key] = nn.Linear(n_units, self.read_in_width()).to(device)
        if self.population:
            self.read_out[key] = nn.Linear(self.config.dim, n_units).to(device)

    def fit_sessions(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the mean rate of each unit in the observed time as the bias of its stitcher out."""
        if self.config.rate_init and self.population:
            for session in sessions:
                begin_at_mean_rates(self.read_out[module_key(session)].bias, sessions[session])

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The stitchers and the token of each session."""
        found: list[Part] = []
        for session in self.units if sessions is None else sessions:
            found += super().identity_parameters([session])
            found.append(Part.of(self.session_table, session))
        return found

    def load_extra_state(self, state: dict[str, object]) -> None:
        super().load_extra_state(state)
        self.session_table.load_state([[session, ["session"]] for session in self.units])

    # ---- the computation ------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour and labels ``[Q, C]`` and log rates ``[B * T, N]``; beside these bool ``scored``.

        Scored, ``[B * T, N]``, are observed counts that the batch hides, and in training those that the mask asks for;
        in evaluation, where the batch hides nothing, all that were observed.
        """
        session, counts_BTN, observed_BT = self._counts(batch)
        asked, always = batch.asked.get(self.population), batch.hidden.get(COUNTS)
        hidden = scored = torch.zeros_like(counts_BTN, dtype=torch.bool)
        if always is not None:
            hidden = scored = always.unflatten(0, counts_BTN.shape[:2])
        mask = self.mask_of(batch)
        if self.training and asked is not None:
            mask, drawn, predicted = self.draw(batch, session, counts_BTN)
            hidden, scored = hidden | drawn, scored | predicted
        elif always is None:
            scored = torch.ones_like(hidden)
        x_BTD = self.encode(session, torch.where(hidden, 0.0, counts_BTN), observed_BT, mask)
        output = self._read_behaviours(batch, x_BTD, observed_BT)
        if asked is not None:
            scored = scored.flatten(0, 1) & (asked.weight > 0)
            rate = self.read_out[module_key(session)](x_BTD.flatten(0, 1))
            output |= {self.population: rate, "scored": scored}
        return output

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The negative log likelihood of the population (Poisson), ``decode_weight`` times the losses of behaviour."""
        terms: dict[str, Tensor] = {}
        if "scored" in output:
            asked, scored = batch.asked[self.population], output["scored"]
            poisson = poisson_log_rate(asked.exposed(output[self.population]), asked.target, scored)
            terms[self.population] = poisson + stirling(asked.target, scored)
        decode = behaviour_losses(self.heads, batch, output)
        parts = [*terms.values(), *(self.config.decode_weight * term for term in decode.values())]
        total = torch.stack(parts).sum() if parts else self.position.weight.new_zeros(())
        return terms | decode | {"total": total}

    def encode(self, session: str, seen_BTN: Tensor, observed_BT: Tensor, mask: str) -> Tensor:
        """``[B, T, D]``: what the read-outs read.

        Args:
            seen_BTN: float, the counts with 0 where they are hidden. observed_BT: bool. mask: what the model is told.
        """
        n_windows, n_bins = observed_BT.shape
        x = self.embed(session, seen_BTN)
        x = x + self.position.weight[:n_bins]
        row = torch.from_numpy(self.session_table.rows(session)).to(x.device)
        front = torch.cat([self.session_table(row), self.prompt_of(mask)])
        x = torch.cat([front.expand(n_windows, -1, -1).to(x), x], dim=1)
        length, n_rows = [x.shape[1]] * n_windows, x.shape[1]
        visible = _visible(observed_BT, len(front))
        x = self.dropout_embedding(x).flatten(0, 1)
        for layer in self.layers:
            x = layer(x, length, visible)
        x = self.dropout_rates(self.norm(x))
        return x.unflatten(0, (n_windows, n_rows))[:, len(front) :]

    def _read_behaviours(self, batch: Batch, x_BTD: Tensor, observed_BT: Tensor) -> dict[str, Tensor]:
        """By task: values at the bins of the queries, classes by the mean of their window's observed bins."""
        output, n_bins = {}, x_BTD.shape[1]
        for task, asked in batch.asked.items():
            key = module_key(task)
            if key not in self.decoders:
                continue
            if self.heads[task].output == "classes":
                share = observed_BT.to(x_BTD.dtype)
                mean_BD = (x_BTD * share[..., None]).sum(1) / share.sum(1, keepdim=True).clamp_min(1)
                window = torch.repeat_interleave(torch.arange(len(batch)), asked.offset.diff().cpu())
                output[task] = self.decoders[key](mean_BD)[window.to(x_BTD.device)]
            else:
                output[task] = self.decoders[key](x_BTD.flatten(0, 1))[query_bin(batch, asked, n_bins)]
        return output

    def _counts(self, batch: Batch) -> tuple[str, Tensor, Tensor]:
        """The session, float ``[B, T, N]`` with 0 where nothing was observed, and bool ``[B, T]``, the observed bins.

        Raises:
            DataError: an unknown session, or one with other units; a window of more bins than there are positions.
        """
        columns, length = batch.inputs[COUNTS].packed()
        session, n_bins = session_of(self, batch, self.units, columns["counts"].shape[-1]), bins_of(length)
        if n_bins > self.config.max_bins:
            message = (
                f"a window has {n_bins} bins and model.max_bins is {self.config.max_bins}: shorten data.window_ms, or "
                "raise model.max_bins and train anew"
            )
            raise DataError(message)
        observed = columns["observed"] > 0
        seen = columns["unit_observed"] > 0 if "unit_observed" in columns else observed[:, None]
        counts = torch.where(seen, whole_counts(columns).float(), 0.0)
        return session, *(t.unflatten(0, (len(length), n_bins)) for t in (counts, observed))


def _visible(observed_BT: Tensor, n_front: int) -> Visible | None:
    """Which rows a row attends to: all but bins that were not observed; None for all."""
    if bool(observed_BT.all()):
        return None
    n_windows, n_bins = observed_BT.shape
    order = torch.zeros(n_windows, n_front + n_bins, dtype=torch.int64, device=observed_BT.device)
    key = order.clone()
    key[:, n_front:] = torch.where(observed_BT, 0, NEVER)
    length = [n_front + n_bins] * n_windows
    return Visible.of(order.flatten(), key.flatten(), length, length, itself=True)
