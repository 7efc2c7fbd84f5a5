"""POYO: one token a spike, compressed by cross-attention into latents, decoded at any time by queries.

Azabou et al. 2023, "A Unified, Scalable Framework for Neural Population Decoding" (NeurIPS, arXiv 2310.16046).
Reference code: neuro-galaxy/torch_brain 0.2.1, torch_brain/models/poyo.py and examples/poyo; with its weights copied
in, this model gives its outputs (tests/models/test_oracle_models.py).

What is unusual:

- a token is the sum of its unit's row and its type's row; its time enters only by rotation
  (:class:`spiketok.models.nn.RotaryTime`), and in the encoder and among the latents the *values* are turned too, and
  the result is turned back by the query's time;
- the same few latents are repeated at every latent step; their number follows from the window's length;
- a query is its session's row at a time; there is no other information on the session.

Computed otherwise than in the reference, with the same result:

- key and value of a token depend, before they are turned, on its unit and type alone: they are computed once for each
  pair that the batch holds and looked up for the tokens (600 rows instead of 20,000 for 32 windows of four sessions);
- the first latents are the same in every window, and a window's queries before they are turned: projected once.

Differs from the reference in the start of an unseen session's row: see :meth:`Poyo.add_sessions`.

Shape letters: B windows, L tokens, K latents of a window, Q query times, C components, D width, H heads, E width of
a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.base import Model, Part, check_range, check_same_units
from spiketok.models.batch import Batch, Head, Input, Progress, Timing
from spiketok.models.losses import weighted_mse
from spiketok.models.nn import CrossAttention, GatedFeedForward, RotaryTime, SelfAttention
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

N_TYPES = 4  # spike, start, end, and one that the reference allocates and never uses


@dataclass(frozen=True)
class PoyoConfig:
    """The defaults are the reference's 1.3M model (examples/poyo/configs/model/poyo_1.3M.yaml).

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


class Poyo(Model):
    """Reads per-spike tokens, decodes behaviour at the queries' times."""

    name: ClassVar[str] = "poyo"
    checked: ClassVar[str] = "1 recorded configuration of its original: outputs, losses; torch_brain in 'make oracle'"
    Config: ClassVar[type] = PoyoConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        # Minutes on two CPU cores; dropout on attention weights has no fast CPU kernel.
        "tiny": {
            "depth": 2,
            "dim_head": 32,
            "self_heads": 4,
            "latents_per_step": 8,
            "dropout_ffn": 0.0,
            "dropout_lin": 0.1,
            "dropout_attention": 0.0,
        },
        "1.3M": {},  # single sessions, NLB
        "11.8M": {"dim": 128, "depth": 24, "cross_heads": 4, "latents_per_step": 32},  # POYO-mp, POYO-1
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {  # minutes on two CPU cores
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 500},
        },
        # The published training (examples/poyo of torch_brain: configs/defaults.yaml, train.py): LAMB, 3.125e-5 a
        # window, weight decay 1e-4, constant for half of the steps then cosine, 1000 epochs, batch 128.
        "*": {
            "data": {
                "window_ms": 1000.0,
                "batch_size": 128,
                "unit_dropout": {"min": 30, "mode": 100, "max": 300, "peak": 4.0},
            },
            "optim": {
                "name": "lamb",
                "lr_per_window": 3.125e-5,
                "weight_decay": 1e-4,
                "schedule": "onecycle",
                "epochs": 1000,
                "clip": None,
                "accelerator": "auto",
            },
        },
    }

    @classmethod
    def inputs(cls, config: PoyoConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"spikes": Input("per-spike")}

    def __init__(self, config: PoyoConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task = self.head("values").task
        dim, heads, dim_head = config.dim, config.cross_heads, config.dim_head
        self.units = Vocabulary(dim, config.init_std, padding=True)
        self.session_table = Vocabulary(dim, config.init_std, padding=False)
        self.types = nn.Embedding(N_TYPES, dim)
        self.latents = nn.Embedding(config.latents_per_step, dim)
        nn.init.normal_(self.types.weight, std=config.init_std)
        nn.init.normal_(self.latents.weight, std=config.init_std)
        self.rotary = RotaryTime(dim_head, config.t_min_s, config.t_max_s)
        self.encoder = CrossAttention(dim, heads, dim_head, config.dropout_attention, rotate_value=True)
        self.encoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    SelfAttention(dim, config.self_heads, dim_head, config.dropout_attention),
                    GatedFeedForward(dim, config.dropout_ffn),
                ]
            )
            for _ in range(config.depth)
        )
        self.decoder = CrossAttention(dim, heads, dim_head, config.dropout_attention, rotate_value=False)
        self.decoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        self.dropout = nn.Dropout(config.dropout_lin)
        self.readout = nn.Linear(dim, self.head("values").size)

    # ---- sessions and units -------------------------------------------------------------------------------------

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

    def extra_state(self) -> dict[str, object]:
        return {"units": self.units.state()}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units.load_state(state["units"])
        self.session_table.load_state([[session, [session]] for session, _ in state["units"]])

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        asked = batch.asked[self.task]
        columns, token_length = batch.inputs["spikes"].packed()
        query_length = asked.offset.diff().tolist()
        latent_turn, n_steps = self._latent_times(batch)
        n_latents, n_windows = len(latent_turn), len(token_length)
        latent_length = [n_latents] * n_windows
        latent_turn = latent_turn.repeat(n_windows, 1)

        # encode: latents [B * K, D] attend to tokens [L]
        latents = self.latents.weight.repeat(n_steps * n_windows, 1)
        query = self.encoder.query(self.latents.weight).repeat(n_steps * n_windows, 1, 1)
        key_value = self._token_projections(columns["unit"], columns["type"])
        token_turn = self.rotary(columns["time"])
        x = latents + self.encoder(query, key_value, latent_turn, token_turn, latent_length, token_length)
        x = x + self.encoder_ffn(x)

        # process: among a window's latents
        for attend, feed_forward in self.layers:
            x = x + self.dropout(attend(x, latent_turn, latent_length))
            x = x + self.dropout(feed_forward(x))

        # decode: queries [Q] attend to latents
        session = self.session_table(batch.session_B)  # [B, D]
        window = torch.repeat_interleave(asked.offset.diff(), output_size=len(asked.time))  # of each query
        query = F.embedding(window, self.decoder.query(session).flatten(1)).unflatten(-1, (self.config.cross_heads, -1))
        y = F.embedding(window, session)
        query_turn = self.rotary(asked.time)
        y = y + self.decoder(query, self.decoder.key_value(x), query_turn, latent_turn, query_length, latent_length)
        y = y + self.decoder_ffn(y)
        return {self.task: self.readout(y)}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Weighted MSE of the normalised behaviour."""
        asked = batch.asked[self.task]
        mse = weighted_mse(output[self.task].float(), asked.target, asked.weight)
        return {self.task: mse, "total": mse}

    def _latent_times(self, batch: Batch) -> tuple[Tensor, int]:
        """The rotation of a window's latents, ``[K, E / 2]``, and their number of steps."""
        step_s = self.config.latent_step_ms / 1e3
        n_steps = -(-batch.window_ns // round(self.config.latent_step_ms * 1e6))
        time_s = torch.arange(n_steps, device=self.latents.weight.device, dtype=torch.float32) * step_s + step_s / 2
        return self.rotary(time_s).repeat_interleave(self.config.latents_per_step, 0), n_steps

    def _token_projections(self, unit: Tensor, kind: Tensor) -> Tensor:
        """Keys and values of the tokens, ``[L, 2, H, E]``, not yet turned; computed once for each (unit, type)."""
        pair = unit.long() * N_TYPES + kind.long()
        distinct, index = torch.unique(pair, return_inverse=True)
        token = self.units(distinct // N_TYPES) + self.types(distinct % N_TYPES)
        key_value = self.encoder.key_value(token)
        return F.embedding(index, key_value.flatten(1)).unflatten(-1, key_value.shape[1:])
