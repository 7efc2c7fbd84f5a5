"""What models with spikes or fluorescence as tokens share: rows of units and sessions, and POYO's trunk.

Azabou et al. 2023 (NeurIPS, arXiv 2310.16046) and 2025 (ICLR, OpenReview IuU0wcO0mo). Abstract: the models are final.

What is unusual:

- a unit's rows and a session's row are one table each (:class:`WithRows`), whatever the number of sessions;
- the same few latents are repeated at every latent step; their number follows from the window's length;
- the first latents are the same in every window, and so are queries of one kind before they are turned: projected once;
- a model may have several experts in place of each feed-forward layer among the latents, weighed by a session's row.

Shape letters: B windows, L tokens, K latents of a window, Q query times, G kinds of query, D width, H heads, E width of
a head, X experts.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.base import Model, Part, check_range, check_same_units
from spiketok.models.batch import Asked, Batch, Head, Progress
from spiketok.models.dropout import Dropout
from spiketok.models.losses import CLASS_LOSSES, behaviour_losses, total_by_share
from spiketok.models.nn import CrossAttention, GatedFeedForward, RotaryTime, SelfAttention, module_key
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

N_TYPES = 4  # spike, start, end, and one that the reference allocates and never uses
TINY = {  # minutes on two CPU cores
    "depth": 2,
    "dim_head": 32,
    "self_heads": 4,
    "latents_per_step": 8,
    "dropout_ffn": 0.0,
    "dropout_lin": 0.1,
    "dropout_attention": 0.0,
}
TINY_RECIPE = {
    "data": {"window_ms": 1000.0, "batch_size": 32},
    "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 500},
}


def published(batch_size: int, epochs: int, unit_dropout: dict[str, float]) -> dict[str, dict]:
    """The training of torch_brain's examples: LAMB, 3.125e-5 a window, flat for half of the steps, then cosine."""
    return {
        "data": {"window_ms": 1000.0, "batch_size": batch_size, "unit_dropout": unit_dropout},
        "optim": {
            "name": "lamb",
            "lr_per_window": 3.125e-5,
            "weight_decay": 1e-4,
            "schedule": "onecycle",
            "epochs": epochs,
            "clip": None,
            "accelerator": "auto",
        },
    }


class WithRows(Model, ABC):
    """A model with a row for each unit and one for each session, in the tables ``units`` and ``session_table``."""

    def make_rows(self, dim: int, std: float, unit_dim: int | None = None) -> None:
        """Make the two tables, empty.

        Args:
            dim: width of the sessions' rows. std: new rows are drawn from N(0, std). unit_dim: width of the units'
                rows; ``dim`` by default.
        """
        self.units = Vocabulary(dim if unit_dim is None else unit_dim, std, padding=True)
        self.session_table = Vocabulary(dim, std, padding=False)

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """A row for each unit and one for each session that the model does not know yet.

        Units start at N(0, init_std), as in the reference. The first sessions do too; a session that comes to a model
        which has sessions starts at the mean of their rows (the reference draws it): the decoder then reads out at once
        what the sessions have in common.
        """
        start = self.session_table.weight.detach().mean(0, keepdim=True) if self.sessions() else None
        fresh: dict[str, list[str]] = {}
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units.words or info.id in fresh:
                check_same_units(info.id, self.units.words.get(info.id, fresh.get(info.id)), keys)
                continue
            fresh[info.id] = keys
        if not fresh:
            return
        places: list[Tensor] = []

        def place() -> None:
            places.append(self.session_table.draw(1) if start is None else start)

        def in_turns() -> Iterator[None]:  # the table draws a session's units, then its row is drawn here
            yield None
            for _ in range(len(fresh) - 1):
                place()
                yield None

        self.units.extend(fresh, in_turns())
        place()
        self.session_table.extend({session: [session] for session in fresh}, places)

    def sessions(self) -> list[str]:
        return list(self.session_table.words)

    def session_row(self, session_id: str) -> int:
        if session_id not in self.session_table.words:
            raise self.unknown(session_id)
        return self.session_table.span(session_id).start

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        """int32 ``[N]``: rows of the unit table; row 0 is no unit."""
        self.session_row(info.id)
        check_same_units(info.id, self.units.words[info.id], info.unit_keys())
        return self.units.rows(info.id)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The unit rows and the session row of each session."""
        chosen = self.sessions() if sessions is None else list(sessions)
        for session in chosen:
            self.session_row(session)
        return [Part.of(table, session) for session in chosen for table in (self.units, self.session_table)]

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        """The unit rows."""
        self.session_row(session)
        return [(Part.of(self.units, session), 0)]

    def extra_state(self) -> dict[str, object]:
        return {"units": self.units.state()}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units.load_state(state["units"])
        self.session_table.load_state([[session, [session]] for session, _ in state["units"]])


@dataclass(frozen=True)
class TrunkConfig:
    """The numbers of POYO's trunk; the defaults are the reference's 1.3M model.

    Args:
        dim: D. depth: self-attention layers among the latents. dim_head: E.
        cross_heads: heads of the encoder's and the decoder's cross-attention. self_heads: heads among the latents.
        latent_step_ms: time between latents. latents_per_step: distinct latents, repeated at each step.
        dropout_ffn: inside feed-forward layers. dropout_lin: of the residual branches among the latents.
        dropout_attention: of attention weights.
        t_min_s, t_max_s: shortest and longest period of the rotation (torch_brain; the paper's code says 4.0 for
            t_max_s on a grid without its end, which is the same grid).
        init_std: of all tables.
    """

    dim: int = 64
    depth: int = 6
    dim_head: int = 64
    cross_heads: int = 2
    self_heads: int = 8
    latent_step_ms: float = 125.0
    latents_per_step: int = 16
    dropout_ffn: float = 0.2
    dropout_lin: float = 0.4
    dropout_attention: float = 0.2
    t_min_s: float = 1e-4
    t_max_s: float = 2.0627
    init_std: float = 0.02

    def __post_init__(self) -> None:
        positive = ("dim", "dim_head", "cross_heads", "self_heads", "latent_step_ms", "latents_per_step")
        check_range(self, "(0, inf)", *positive)
        check_range(self, "[0, 1)", "dropout_ffn", "dropout_lin", "dropout_attention")
        check_range(self, "[0, inf)", "depth")


class ExpertFeedForward(nn.Module):
    """Several :class:`GatedFeedForward` side by side, of whose outputs the weighted mean is taken.

    They share the norm before them and the last bias. The names of its tensors are those of one feed-forward layer and
    their shapes are not, so that no run without experts is taken for the start of one with them.
    """

    def __init__(self, dim: int, experts: int, dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        self.experts = experts
        self.norm = nn.LayerNorm(dim)
        self.to_hidden = nn.Linear(dim, experts * 2 * mult * dim)
        self.dropout = Dropout(dropout)
        self.to_out = nn.Linear(experts * mult * dim, dim)
        with torch.no_grad():  # torch draws for the whole width, each expert is one layer of its own
            self.to_out.weight.mul_(experts**0.5)
            self.to_out.bias.mul_(experts**0.5)

    def forward(self, x_LD: Tensor, weight_LX: Tensor) -> Tensor:
        """``[L, D]``; the weights of a row sum to 1."""
        hidden, gate = self.to_hidden(self.norm(x_LD)).unflatten(-1, (self.experts, 2, -1)).unbind(-2)
        hidden = self.dropout(hidden * F.gelu(gate)) * weight_LX[..., None]
        return self.to_out(hidden.flatten(-2))


class Trunk(Model, ABC):
    """POYO's trunk: tokens into latents, among latents, and out of them at the queries' times.

    Its parts are made by :meth:`make_trunk`, under the names that they have in checkpoints.
    """

    def make_trunk(self, config: TrunkConfig, *, types: bool = True, experts: int = 1) -> None:
        """Make latents, encoder, layers and decoder.

        Args:
            config: any with these fields. types: the tokens have types (spikes, starts and ends of units).
            experts: feed-forward layers that stand side by side in each layer among the latents.
        """
        dim, heads, dim_head = config.dim, config.cross_heads, config.dim_head
        if types:
            self.types = nn.Embedding(N_TYPES, dim)
        self.latents = nn.Embedding(config.latents_per_step, dim)
        if types:
            nn.init.normal_(self.types.weight, std=config.init_std)
        nn.init.normal_(self.latents.weight, std=config.init_std)
        self.rotary = RotaryTime(dim_head, config.t_min_s, config.t_max_s)
        self.encoder = CrossAttention(dim, heads, dim_head, config.dropout_attention, rotate_value=True)
        self.encoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    SelfAttention(dim, config.self_heads, dim_head, config.dropout_attention),
                    GatedFeedForward(dim, config.dropout_ffn)
                    if experts == 1
                    else ExpertFeedForward(dim, experts, config.dropout_ffn),
                ]
            )
            for _ in range(config.depth)
        )
        self.decoder = CrossAttention(dim, heads, dim_head, config.dropout_attention, rotate_value=False)
        self.decoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        self.dropout = Dropout(config.dropout_lin)
        if experts > 1:
            self.gate = nn.Linear(dim, experts)

    def encode(
        self,
        key_value: Tensor,
        time: Tensor,
        token_length: Sequence[int],
        window_ns: int,
        weight_BX: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Latents of all windows, ``[B * K, D]``, after the last layer; their rotation and number in each window.

        Args:
            key_value: ``[L, 2, H, E]``, of the tokens, not yet turned. time: float32 ``[L]``, seconds from the window's
                start. token_length: tokens of each window. weight_BX: of the experts, in a trunk that has them.
        """
        latent_turn, n_steps = self._latent_times(window_ns)
        n_latents, n_windows = len(latent_turn), len(token_length)
        latent_length = [n_latents] * n_windows
        latent_turn = latent_turn.repeat(n_windows, 1)
        latents = self.latents.weight.repeat(n_steps * n_windows, 1)
        query = self.encoder.query(self.latents.weight).repeat(n_steps * n_windows, 1, 1)
        x = latents + self.encoder(query, key_value, latent_turn, self.rotary(time), latent_length, token_length)
        x = x + self.encoder_ffn(x)
        for attend, feed_forward in self.layers:
            x = x + self.dropout(attend(x, latent_turn, latent_length))
            if weight_BX is None:
                x = x + self.dropout(feed_forward(x))
            else:
                x = x + self.dropout(feed_forward(x, weight_BX.repeat_interleave(n_latents, 0)))
        return x, latent_turn, latent_length

    def decode(
        self,
        latents: tuple[Tensor, Tensor, list[int]],
        kinds: Tensor,
        kind: Tensor,
        time: Tensor,
        query_length: Sequence[int],
    ) -> Tensor:
        """What queries find in their window's latents, ``[Q, D]``, before a readout.

        Args:
            latents: of :meth:`encode`. kinds: ``[G, D]``, the different queries. kind: int64 ``[Q]``, which one each
                is. time: float32 ``[Q]``. query_length: queries of each window.
        """
        x, latent_turn, latent_length = latents
        query = F.embedding(kind, self.decoder.query(kinds).flatten(1)).unflatten(-1, (self.config.cross_heads, -1))
        y = F.embedding(kind, kinds)
        key_value = self.decoder.key_value(x)
        y = y + self.decoder(query, key_value, self.rotary(time), latent_turn, query_length, latent_length)
        return y + self.decoder_ffn(y)

    def _latent_times(self, window_ns: int) -> tuple[Tensor, int]:
        """The rotation of a window's latents, ``[K, E / 2]``, and their number of steps."""
        step_s = self.config.latent_step_ms / 1e3
        n_steps = -(-window_ns // round(self.config.latent_step_ms * 1e6))
        time_s = torch.arange(n_steps, device=self.latents.weight.device, dtype=torch.float32) * step_s + step_s / 2
        return self.rotary(time_s).repeat_interleave(self.config.latents_per_step, 0), n_steps

    def projections(self, units: Callable[[Tensor], Tensor], unit: Tensor, kind: Tensor) -> Tensor:
        """Keys and values of spikes, ``[L, 2, H, E]``, not yet turned; computed once for each (unit, type).

        Args:
            units: ``[k, D]`` for rows ``[k]`` of units.
        """
        pair = unit.long() * N_TYPES + kind.long()
        distinct, index = torch.unique(pair, return_inverse=True)
        token = units(distinct // N_TYPES) + self.types(distinct % N_TYPES)
        key_value = self.encoder.key_value(token)
        return F.embedding(index, key_value.flatten(1)).unflatten(-1, key_value.shape[1:])


class Perceiver(WithRows, Trunk, ABC):
    """The trunk of a model with rows of units and sessions."""

    def expert_weights(self, session_B: Tensor) -> Tensor:
        """float32 ``[B, X]``: what each expert counts in each window, by the row of its session, which is normalised.

        So the weights of a new session are those of the mean of the trained rows, where its row begins, and move with
        that row as the session is adapted to.
        """
        row = self.session_table(session_B)
        return self.gate(F.layer_norm(row, row.shape[-1:])).float().softmax(-1)

    def spike_projections(self, unit: Tensor, kind: Tensor) -> Tensor:
        """:meth:`projections` of units by their rows."""
        return self.projections(self.units, unit, kind)


def window_of(asked: Asked) -> Tensor:
    """int64 ``[Q]``: the window of each query."""
    return torch.repeat_interleave(asked.offset.diff(), output_size=len(asked.time))


# ---- several tasks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TasksConfig(TrunkConfig):
    """The numbers of POYO's trunk, and the loss of classes.

    Args:
        class_loss: ``"cross_entropy"``, or ``"mallow"``, for classes that have an order: the mean squared distance of
            the cumulative distributions (classes stand in the order of their words).
    """

    class_loss: Literal["cross_entropy", "mallow"] = "cross_entropy"


class ManyTasks(Perceiver, ABC):
    """A trunk that is asked several questions at once: values and classes, each at times of its own.

    A query is the sum of its session's row and its task's; each task has a read-out. A task that the batch asks in no
    window still passes through its read-out with no query, so that every parameter has a gradient in every process.
    """

    tasks: ClassVar[tuple[str, ...]] = ("decode", "classify")
    read_by: ClassVar[str] = "readouts"

    def make_tasks(self, heads: Sequence[Head], config: TasksConfig) -> None:
        """A row and a read-out for each task, by its name, so that a run with other tasks can start from them."""
        rows = {module_key(head.task): nn.Parameter(torch.randn(1, config.dim) * config.init_std) for head in heads}
        self.task_rows = nn.ParameterDict(rows)
        self.readouts = nn.ModuleDict({module_key(head.task): nn.Linear(config.dim, head.size) for head in heads})

    def answer(self, latents: tuple[Tensor, Tensor, list[int]], batch: Batch) -> dict[str, Tensor]:
        """What each task of the batch is told, ``[Q, size]``.

        Args:
            latents: of :meth:`encode`.
        """
        asked = {task: batch.asked[task] for task in self.heads if task in batch.asked}
        if not asked:
            return {}
        row = torch.cat([self.task_rows[module_key(task)] for task in asked])
        kinds = self.session_table(batch.session_B)[:, None] + row  # [B, tasks, D]
        window = torch.cat([window_of(a) for a in asked.values()])
        n_queries = [len(a.time) for a in asked.values()]
        of_task = torch.arange(len(asked), device=window.device)
        of_task = torch.repeat_interleave(of_task, torch.tensor(n_queries, device=window.device))
        order = torch.argsort(window, stable=True)  # decoded window by window, whatever the task
        time = torch.cat([a.time for a in asked.values()])
        length = torch.stack([a.offset.diff() for a in asked.values()]).sum(0).tolist()
        kind = (window * len(asked) + of_task)[order]
        decoded = self.decode(latents, kinds.flatten(0, 1), kind, time[order], length)
        y = torch.empty_like(decoded).index_copy(0, order, decoded)
        parts = y.split(n_queries)
        return {task: self.readouts[module_key(task)](part) for task, part in zip(asked, parts, strict=True)}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """By task weighted MSE or the loss of classes; the total weighs each by the share of windows that ask it."""
        terms = behaviour_losses(self.heads, batch, output, CLASS_LOSSES[self.config.class_loss])
        return terms | {"total": total_by_share(terms, batch, self.latents.weight)}
