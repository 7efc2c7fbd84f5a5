"""POSSM: the spikes of each 50 ms become one vector, a recurrent network goes over these, queries read the last few.

Ryoo et al. 2025, "Generalizable, real-time neural decoding with hybrid state-space models" (NeurIPS, arXiv 2506.05320).
Reference code: neuro-galaxy/torch_brain, branch possm, torch_brain/models/possm.py, which has the GRU alone; what its
authors have of S4D and Mamba, and for speech, is not public: ``spiketok.models.possm_layers`` has the reference layers.

What is unusual:

- a chunk's spikes meet one latent in cross-attention, with times from the chunk's start; no START and END tokens, and a
  blank token where a chunk is silent;
- a query sees the outputs of its own chunk and of the ``context`` - 1 before: an answer knows its chunk to the end, and
  nothing later;
- the state of the backbone and the last outputs go from window to window in an evaluation, so that a model trained on
  windows of 1 s is scored on whole stretches.

Computed otherwise than in the reference, with the same result:

- key and value of a token depend, before they are turned, on its unit alone: computed once for each unit of the batch;
- a chunk has one query: its softmax is a sum over its tokens, without padding.

Differs from the reference:

- filler of short chunks is never attended; ``reference_quirks`` gives it weight, as the reference does;
- times of queries and keys count from the start of the query's own chunk, where the reference counts from the window's
  start (``absolute_times``): the turn between them is the same, float32 keeps it however long the stretch is, and a
  window that follows another gives what one long window gives;
- several latents a chunk, which cannot run in the reference, are not offered;
- ``dropout_chunk`` and the first steps of S4D and Mamba (``dt_min``, ``dt_max``) can be set: by default off, and the
  reference layers';
- the start of an unseen session's row: ``add_sessions`` in ``spiketok.models.perceiver`` says how.

Shape letters: B windows, T chunks, L tokens, Q queries, K visible chunks, D width, R width of the backbone, H heads, E
width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range
from spiketok.models.batch import Asked, Batch, Head, Input, Progress, Timing, Tokens
from spiketok.models.losses import behaviour_losses, ctc
from spiketok.models.nn import CrossAttention, GatedFeedForward, RotaryTime, SelfAttention, module_key, rotate
from spiketok.models.perceiver import N_TYPES, WithRows, window_of
from spiketok.models.possm_layers import BACKBONES, DT, FrameHead


@dataclass(frozen=True)
class PossmConfig:
    """The defaults are the reference's small model (examples/possm/configs/model/possm_small.yaml).

    Args:
        dim: D. depth: self-attention layers of a chunk's latent. dim_head: E.
        cross_heads: heads of both cross-attentions. self_heads: heads of the latent's layers.
        chunk_ms: length of a chunk. chunk_step_ms: time between chunks; shards hold only chunks without overlap.
        backbone: ``"gru"``, ``"s4d"`` or ``"mamba"``. rnn_dim: R. rnn_layers: its layers.
        state_dim: real states of a channel in S4D and Mamba.
        dt_min, dt_max: in chunks, between which the steps of their channels start. An S4D channel starts with a memory
            of 2 / dt chunks: one that is longer than the training windows meets states in an evaluation, which carries
            them on, that no window has shown it.
        context: K, chunks that a query sees.
        frame_kernel, frame_stride: chunks of a frame, and between frames, of a sequence.
        dropout_ffn: inside feed-forward layers. dropout_lin: of the latent's layers. dropout_attention: of attention
            weights. dropout_rnn: between layers of the backbone. dropout_chunk: of the chunks' vectors before the
            backbone, and of what it gives to the frames of a sequence.
        t_min_s, t_max_s: shortest and longest period of the rotation.
        init_std: of all tables.
        absolute_times: queries and keys count from the window's start. reference_quirks: filler tokens have weight.
    """

    dim: int = 64
    depth: int = 0
    dim_head: int = 64
    cross_heads: int = 1
    self_heads: int = 8
    chunk_ms: float = 50.0
    chunk_step_ms: float = 50.0
    backbone: str = "gru"
    rnn_dim: int = 256
    rnn_layers: int = 1
    state_dim: int = 16
    dt_min: float = DT[0]
    dt_max: float = DT[1]
    context: int = 3
    frame_kernel: int = 4
    frame_stride: int = 2
    dropout_ffn: float = 0.2
    dropout_lin: float = 0.4
    dropout_attention: float = 0.0
    dropout_rnn: float = 0.2
    dropout_chunk: float = 0.0
    t_min_s: float = 1e-4
    t_max_s: float = 10.0
    init_std: float = 0.02
    absolute_times: bool = False
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        counted = ("dim", "dim_head", "cross_heads", "self_heads", "rnn_dim", "rnn_layers", "context")
        check_range(self, "[1, inf)", *counted, "frame_kernel", "frame_stride")
        check_range(self, "(0, inf)", "chunk_ms", "chunk_step_ms", "init_std", "dt_min")
        check_range(self, "[0, 1)", "dropout_ffn", "dropout_lin", "dropout_attention", "dropout_rnn", "dropout_chunk")
        check_range(self, "[0, inf)", "depth")
        check_range(self, "[2, inf)", "state_dim")
        if self.dt_max < self.dt_min:
            message = f"model.dt_max is {self.dt_max:g} and model.dt_min {self.dt_min:g}: it must not be below"
            raise UsageError(message)
        if self.backbone not in BACKBONES:
            message = f"model.backbone is '{self.backbone}', must be one of {', '.join(BACKBONES)}"
            raise UsageError(message)

    @property
    def chunk_ns(self) -> int:
        return round(self.chunk_ms * 1e6)

    @property
    def step_ns(self) -> int:
        return round(self.chunk_step_ms * 1e6)


Carry = tuple[list[Tensor], Tensor]  # the backbone's state; its last outputs, [B, up to K - 1, R]


class Possm(WithRows):
    """Reads spikes in chunks; decodes behaviour and labels at the queries' times, and sequences of labels."""

    name: ClassVar[str] = "possm"
    checked: ClassVar[str] = "4 recorded configurations of its original and its layers: outputs, losses, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("decode", "classify", "sequence")
    causal: ClassVar[bool] = True  # to the end of the query's chunk
    carries: ClassVar[bool] = True
    read_by: ClassVar[str] = "readouts"
    Config: ClassVar[type] = PossmConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {
            **{"dim_head": 32, "rnn_dim": 128, "dropout_attention": 0.2, "dropout_lin": 0.0, "dropout_rnn": 0.1},
            **{"dt_min": 0.1, "dt_max": 1.0},  # memories of 2 to 20 chunks, the window of its recipe
            **{"frame_kernel": 12, "frame_stride": 4},  # 600 ms: a frame holds a symbol of some strokes
        },
        "small": {},  # single sessions
        "8M": {"dim": 256, "rnn_dim": 512, "rnn_layers": 4},  # o-POSSM
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {  # minutes on two CPU cores
            "data": {"window_ms": 1000.0, "batch_size": 32},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 500},
        },
        # The published training (examples/possm of torch_brain, branch possm: configs/defaults.yaml, train.py).
        "*": {
            "data": {
                "window_ms": 1000.0,
                "batch_size": 128,
                "unit_dropout": {"min": 60, "mode": 300, "max": 1000, "peak": 4.0},
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
    def inputs(cls, config: PossmConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        if config.step_ns != config.chunk_ns:
            message = (
                f"model.chunk_step_ms is {config.chunk_step_ms:g} and model.chunk_ms {config.chunk_ms:g}: the scheme "
                "per-spike cuts chunks without overlap, set both to the same"
            )
            raise UsageError(message)
        if timing.window_ns % config.chunk_ns:
            message = (
                f"a window of {timing.window_ns / 1e6:g} ms does not divide into chunks of {config.chunk_ms:g} ms: set "
                "data.window_ms to a multiple of model.chunk_ms"
            )
            raise UsageError(message)
        return {"spikes": Input("per-spike", {"start_end": False, "chunk_ns": config.chunk_ns})}

    def __init__(self, config: PossmConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.make_rows(config.dim, config.init_std)
        dim, dim_head = config.dim, config.dim_head
        self.types = nn.Embedding(N_TYPES, dim)  # as the reference, of whose rows the first alone is read
        # By the tasks' names, so that a run with other tasks can start from them. The reference's table of tasks begins
        # with a row for padding, which nothing reads; it stands here so that sizes are those that were published.
        self.task_padding = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.task_rows = nn.ParameterDict(
            {module_key(head.task): nn.Parameter(torch.randn(1, dim) * config.init_std) for head in heads}
        )
        self.latent = nn.Parameter(torch.empty(1, dim))
        for table in (self.types.weight, self.latent):
            nn.init.normal_(table, std=config.init_std)
        self.rotary = RotaryTime(dim_head, config.t_min_s, config.t_max_s)
        # no buffers, as in RotaryTime: the turn of a latent in its chunk, and of the chunks that a query sees
        self.latent_turn = self.rotary(torch.tensor([config.chunk_ms / 2e3]))
        since_ms = config.chunk_ms - torch.arange(config.context) * config.chunk_step_ms
        self.key_turn = self.rotary(since_ms.float() / 1e3)
        self.encoder = CrossAttention(dim, config.cross_heads, dim_head, config.dropout_attention, rotate_value=True)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    SelfAttention(dim, config.self_heads, dim_head, config.dropout_attention),
                    GatedFeedForward(dim, config.dropout_ffn),
                ]
            )
            for _ in range(config.depth)
        )
        self.encoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        self.dropout = nn.Dropout(config.dropout_lin)
        self.dropout_chunk = nn.Dropout(config.dropout_chunk)
        width = config.rnn_dim
        self.backbone = BACKBONES[config.backbone](
            dim, width, config.rnn_layers, config.state_dim, config.dropout_rnn, (config.dt_min, config.dt_max)
        )
        self.decoder = CrossAttention(
            dim, config.cross_heads, dim_head, config.dropout_attention, rotate_value=True, dim_context=width
        )
        self.decoder_ffn = GatedFeedForward(dim, config.dropout_ffn)
        kernel, stride = config.frame_kernel, config.frame_stride
        self.readouts = nn.ModuleDict(
            {
                module_key(head.task): FrameHead(width, dim, head.size, kernel, stride)
                if head.output == "sequence"
                else nn.Linear(dim, head.size)
                for head in heads
            }
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.predict(batch)[0]

    def predict(self, batch: Batch, carry: Carry | None = None) -> tuple[dict[str, Tensor], Carry]:
        """As in the contract. A sequence's frames lie in one window, whose chunks know of those before it."""
        n_chunks = self._chunks(batch.window_ns)
        state, past = (None, None) if carry is None else carry
        chunks = self.encode(batch.inputs["spikes"], len(batch), n_chunks)
        outputs, state = self.backbone(self.dropout_chunk(chunks), state)
        seen = outputs if past is None else torch.cat([past, outputs], 1)
        answers: dict[str, Tensor] = {}
        for task in self.heads:
            if task not in batch.asked:
                continue
            readout = self.readouts[module_key(task)]
            asked = batch.asked[task]
            if self.heads[task].output == "sequence":
                answers |= self._frames(task, readout, outputs, asked)
            else:
                query = self.session_table(batch.session_B) + self.task_rows[module_key(task)]
                answers[task] = readout(self.decode(seen, query, batch, asked, n_chunks))
        n_past = self.config.context - 1
        return answers, (state, seen[:, max(0, seen.shape[1] - n_past) :])

    def shortest_window_ns(self) -> int:
        """One chunk; the run's windows where an answer depends on the window's other chunks or on its start."""
        whole = self.config.reference_quirks or self.config.absolute_times
        return self.timing.window_ns if whole else self.config.chunk_ns

    def _chunks(self, window_ns: int) -> int:
        """Chunks of a window."""
        chunk_ns, step_ns = self.config.chunk_ns, self.config.step_ns
        if window_ns < chunk_ns or (window_ns - chunk_ns) % step_ns:
            message = f"a window of {window_ns} ns does not divide into chunks of {chunk_ns} ns, {step_ns} ns apart"
            raise DataError(message)
        return (window_ns - chunk_ns) // step_ns + 1

    # ---- chunks -----------------------------------------------------------------------------------------------------

    def encode(self, tokens: Tokens, n_windows: int, n_chunks: int) -> Tensor:
        """A vector for each chunk, ``[B, T, D]``."""
        columns, length = tokens.packed()
        device = self.latent.device
        window = torch.repeat_interleave(torch.tensor(length, device=device), output_size=sum(length))
        chunk = window * n_chunks + columns["chunk"].long()
        unit, time = columns["unit"].long(), columns["time"]
        n = n_windows * n_chunks
        if self.config.reference_quirks:
            held = torch.bincount(chunk, minlength=n).view(n_windows, n_chunks)
            filler = (held.amax(1, keepdim=True) - held).flatten()
            chunk = torch.cat([chunk, torch.repeat_interleave(filler)])
            unit, time = (F.pad(t, (0, len(chunk) - len(t))) for t in (unit, time))
        middle = self.latent_turn.to(device)
        x = self.latent + self._meet(unit, time, chunk, n, middle)
        turn = middle.expand(n, -1)
        for attend, feed_forward in self.layers:
            x = x + self.dropout(attend(x, turn, [1] * n))
            x = x + self.dropout(feed_forward(x))
        x = x + self.encoder_ffn(x)
        return x.view(n_windows, n_chunks, -1)

    def _meet(self, unit: Tensor, time: Tensor, chunk: Tensor, n: int, turn: Tensor) -> Tensor:
        """Cross-attention of each chunk's latent to the chunk's tokens, ``[n, D]``; a chunk without tokens has zeros.

        Args:
            unit, time, chunk: ``[L]``. turn: of the latent's time, ``[1, E / 2]``.
        """
        distinct, index = torch.unique(unit, return_inverse=True)
        key_value = self.encoder.key_value(self.units(distinct) + self.types.weight[0])
        key_value = F.embedding(index, key_value.flatten(1)).unflatten(-1, key_value.shape[1:])
        key, value = rotate(key_value, self.rotary(time)[:, None, None]).unbind(1)
        query = rotate(self.encoder.query(self.latent), turn[:, None])
        score = (query * key).sum(-1).float() * key.shape[-1] ** -0.5  # [L, H]
        place = chunk[:, None].expand_as(score)
        top = score.new_full((n, score.shape[1]), -torch.inf).scatter_reduce(0, place, score.detach(), "amax")
        weight = (score - top[chunk]).exp()
        total = torch.zeros_like(top).index_add(0, chunk, weight)
        weight = F.dropout(weight / total[chunk], self.encoder.dropout, self.training)
        out = weight.new_zeros(n, *value.shape[1:]).index_add(0, chunk, weight[..., None] * value.float())
        return self.encoder.to_out(rotate(out.to(value.dtype), turn[:, None].conj()).flatten(-2))

    # ---- queries ----------------------------------------------------------------------------------------------------

    def decode(self, seen: Tensor, query_BD: Tensor, batch: Batch, asked: Asked, n_chunks: int) -> Tensor:
        """What queries find in the chunks that they see, ``[Q, D]``, before a readout.

        Args:
            seen: ``[B, past + T, R]``, outputs of the chunks before the windows and in them.
        """
        config, device = self.config, seen.device
        n_seen, n_past = seen.shape[1], seen.shape[1] - n_chunks
        window = window_of(asked)
        since_ns = asked.ns - np.repeat(batch.start_ns, asked.offset.diff().cpu().numpy())
        last_host = ((since_ns - config.chunk_ns) // config.step_ns + 1).clip(0, n_chunks - 1)
        last = torch.from_numpy(last_host).to(device)
        back = torch.arange(config.context, device=device)
        chunk = last[:, None] - back  # [Q, K]
        visible = chunk >= -n_past
        if config.absolute_times:
            query_time, key_turn = asked.time, self.rotary((chunk + 1) * (config.chunk_ms / 1e3))
        else:
            own_ns = since_ns - last_host * config.step_ns
            query_time = torch.from_numpy((own_ns / 1e9).astype(np.float32)).to(device)
            key_turn = self.key_turn.to(device)
        row = window[:, None] * n_seen + (chunk + n_past).clamp_min(0)
        key_value = self.decoder.key_value(seen.flatten(0, 1))
        key_value = F.embedding(row, key_value.flatten(1)).unflatten(-1, key_value.shape[1:])  # [Q, K, 2, H, E]
        key, value = rotate(key_value, key_turn[..., None, None, :]).permute(2, 0, 3, 1, 4).unbind(0)
        turn = self.rotary(query_time)[:, None]
        projected = self.decoder.query(query_BD)
        query = rotate(F.embedding(window, projected.flatten(1)).unflatten(-1, projected.shape[1:]), turn)
        dropout = self.decoder.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(
            query[:, :, None], key, value, attn_mask=visible[:, None, None], dropout_p=dropout
        )[:, :, 0]
        y = F.embedding(window, query_BD) + self.decoder.to_out(rotate(out, turn.conj()).flatten(-2))
        return y + self.decoder_ffn(y)

    def _frames(self, task: str, readout: FrameHead, outputs: Tensor, asked: Asked) -> dict[str, Tensor]:
        """Logits of the frames that end inside of each window's span, and where the windows' frames begin."""
        enough = readout.n_frames(outputs.shape[1]) > 0
        logits = readout(self.dropout_chunk(outputs)) if enough else outputs.new_zeros(len(outputs), 0, 1)
        if not logits.shape[1]:
            message = (
                f"{task}: a window has {outputs.shape[1]} chunks, a frame takes {self.config.frame_kernel}: "
                "raise data.window_ms or lower model.frame_kernel"
            )
            raise UsageError(message)
        # a span is float32 seconds: a chunk that ends with it to 1 us is in it
        step, rest = self.config.chunk_step_ms / 1e3, (self.config.chunk_ms - self.config.chunk_step_ms) / 1e3
        held = [int((span - rest + 1e-6) // step) for span in asked.span.tolist()]
        frames = [min(readout.n_frames(n), logits.shape[1]) for n in held]
        offset = torch.tensor([0, *np.cumsum(frames).tolist()], device=logits.device)
        return {
            task: torch.cat([rows[:n] for rows, n in zip(logits, frames, strict=True)]),
            f"{task}.offset": offset,
        }

    # ---- loss -------------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Of each task: weighted MSE, cross entropy or CTC. ``total`` weighs each by its share of the windows."""
        of_queries = {task: head for task, head in self.heads.items() if head.output != "sequence"}
        terms = behaviour_losses(of_queries, batch, output)
        for task in (task for task in self.heads if task not in of_queries and task in batch.asked):
            asked = batch.asked[task]
            terms[task] = ctc(output[task], output[f"{task}.offset"], asked.target, asked.offset)
        share = {task: (batch.asked[task].offset.diff() > 0).float().mean() for task in terms}
        total = sum((share[task] * term for task, term in terms.items()), start=self.latent.sum() * 0.0)
        return terms | {"total": total}
