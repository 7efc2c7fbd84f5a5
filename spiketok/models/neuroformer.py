"""Neuroformer: spikes as sentences; what is the next spike, and in which step, given all before it.

Antoniades, Yu, Canzano, Wang and Smith 2024, "Neuroformer: Multimodal and Multitask Generative Pretraining for Brain
Data" (ICLR, arXiv 2311.00136). Reference code: a-antoniades/Neuroformer (36ed940; neuroformer/model_neuroformer.py,
modules.py, data_utils.py, simulation.py, configs).

What is unusual:

- a window of 50 ms is a sentence of (unit, step) pairs; it attends to the sentence of its history, to the frames that
  were shown and to behaviours, one after the other, and every block's result is normalised;
- the next unit and the next step are told from the same place, each by itself;
- spikes are drawn from it: its own past is its history (:meth:`Neuroformer.generate`);
- the history gets no encoder of its own: what unit i pays to unit j there is one product (:meth:`coupling`).

Differs from the reference:

- sessions have rows of their own, in the table of units and in the head of units; SOS, EOS and PAD have a table of
  their own and can meet no unit. There the vocabulary is that of one recording;
- what pads a batch is not attended to and is in no mean; there PAD is a token like others;
- a behaviour's value reaches the model. There LayerNorm over its one number leaves nothing of it. Behaviours come on
  steps, with the category of their value;
- losses are weighted 3/5 and 2/5; there also 3/4 of that without the contrastive term;
- what is drawn is a sentence: no SOS or PAD, and no spike before the one drawn before it. There such spikes stay.
  A step is drawn given the unit, so that both have the distributions of their heads; there each by itself;
- generation feeds back what was drawn; there, the recording, in another order;
- positions learn from N(0, .02); there from 0.

``reference_quirks`` brings back: PAD tokens, LayerNorm of behaviours, and the weights of the losses.

Shape letters: B windows, L tokens of a stream, K rows of a context, D width, N units, S steps of a window, Q tokens
that another one follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Model, Part, check_same_units
from spiketok.models.batch import Batch, Generation, Head, Input, Progress, Timing, Tokens
from spiketok.models.losses import weighted_cross_entropy, weighted_mse
from spiketok.models.neuroformer_config import FRAMES, NeuroformerConfig
from spiketok.models.neuroformer_layers import (
    CURRENT,
    HISTORY,
    SPIKE,
    BehaviourEncoder,
    Block,
    Context,
    FrameEncoder,
    PairTotals,
    Past,
    StepCode,
    Stream,
    contrast,
    draw,
    last_frames,
    mean,
    place_code,
    steps_of,
)
from spiketok.models.nn import module_key
from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import SessionInfo

SPIKES, BEHAVIOUR = "spikes", "behaviour"  # names of inputs, beside FRAMES
UNIT_SHARE, STEP_SHARE, CONTRAST_SHARE = 3 / 5, 2 / 5, 1 / 4
CATEGORIES = 512  # of a behaviour's value, over twice its scale


_TINY = {
    "dim": 64,
    "heads": 4,
    "state_layers": 1,
    "history_layers": 1,
    "frame_layers": 1,
    "behaviour_layers": 1,
    "dropout": 0.0,
}
_PUBLISHED = {
    # neuroformer_train.py, trainer.py: cosine to a tenth (here to 0) after a rise of 8e7 tokens, which are 100 a
    # window, PADs among them; a batch is 32 * 5, whatever is asked
    "data": {"window_ms": 50.0, "eval_step_ms": 50.0, "batch_size": 160},
    "optim": {
        "name": "adamw",
        "lr": 1e-4,
        "betas": (0.9, 0.95),
        "weight_decay": 1.0,
        "schedule": "cosine",
        "warmup_steps": 5000,
        "clip": 1.0,
        "epochs": 250,
        "accelerator": "auto",
    },
}


class Neuroformer(Model):
    """Reads event pairs; says the next unit and step, behaviour of a window, and draws spikes."""

    name: ClassVar[str] = "neuroformer"
    checked: ClassVar[str] = "3 recorded configurations of its original: outputs, losses, gradients, generation"
    tasks: ClassVar[tuple[str, ...]] = ("events", "decode")
    default_tasks: ClassVar[tuple[str, ...]] = ("events",)
    protocols: ClassVar[tuple[str, ...]] = ("identity_unlabelled", "identity_only", "full")
    one_session_batches: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    couplings: ClassVar[tuple[str, ...]] = ("removal", "attention")
    Config: ClassVar[type] = NeuroformerConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": _TINY,  # minutes on a CPU core
        # the published ones; they need a session with a stimulus (model.frames=false: none)
        "v1al": {"frames": True},  # configs/V1AL/mconf.yaml
        "visnav": {  # configs/Visnav/lateral/mconf_pretrain.yaml
            "frames": True,
            "contrastive": True,
            "history_ms": 50.0,
            "max_history": 700,
            "frame_ms": 150.0,
            "frame_kernel": (3, 5, 5),
            "frame_stride": (3, 5, 5),
        },
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            "data": {"window_ms": 50.0, "eval_step_ms": 50.0, "batch_size": 64},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 1500},
        },
        "*": _PUBLISHED,
    }

    @classmethod
    def inputs(cls, config: NeuroformerConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        step_ns = round(config.step_ms * 1e6)
        found = {
            SPIKES: Input(
                "event-pair",
                {
                    "step_ns": step_ns,
                    "current_ns": timing.window_ns,
                    "history_ns": round(config.history_ms * 1e6),
                    "max_current": config.max_current,
                    "max_history": config.max_history,
                    "pad": config.reference_quirks,
                },
            )
        }
        if config.frames:
            height, width = config.frame_size
            past_ms = max(config.frame_ms - timing.window_ns / 1e6, 0.0)
            fields = {"rate_hz": config.frame_hz, "height": height, "width": width, "history_ms": past_ms}
            found[FRAMES] = Input("frames", fields)
        if config.behaviours:
            found[BEHAVIOUR] = Input("quantized", {"bin_ns": step_ns, "signals": config.behaviours})
        return found

    def __init__(self, config: NeuroformerConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        dim, dropout = config.dim, config.dropout
        self.step_ns = round(config.step_ms * 1e6)
        self.window_steps = timing.window_ns // self.step_ns
        self.history_steps = round(config.history_ms * 1e6) // self.step_ns
        self.n_steps = max(self.window_steps, self.history_steps)
        self.end_dt = self.n_steps + 2
        self.events = self.head("events").task if any(h.output == "events" for h in heads) else ""
        self.behaviour_heads = [head for head in heads if head.output == "values"]
        asked = [head.task for head in self.behaviour_heads if head.task.partition(":")[2] in config.behaviours]
        if asked:
            message = f"the run asks {asked[0]} and model.behaviours reads it: take it out of one of them"
            raise UsageError(message)
        self.units = Vocabulary(dim, config.init_std, padding=True)
        self.unit_heads = Vocabulary(dim, config.init_std, padding=False)  # rows of the head, one a unit
        self.special = nn.Parameter(torch.empty(3, dim))  # SOS, EOS, PAD
        self.special_heads = nn.Parameter(torch.empty(3, dim))
        self.step_head = nn.Linear(dim, self.n_steps + 4, bias=False)
        self.place = nn.ParameterList(torch.empty(n, dim) for n in (config.max_history, config.max_current))
        self.step_code = nn.ModuleList(StepCode(dim, dropout) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

        def blocks(n: int) -> nn.ModuleList:
            return nn.ModuleList(Block(dim, config.heads, dropout) for _ in range(n))

        self.first, self.last = blocks(config.state_layers), blocks(config.state_layers)
        self.to_history = blocks(config.history_layers)
        if config.frames:
            self.n_frames = max(round(config.frame_ms / 1e3 * config.frame_hz), 1)
            self.frame_encoder = FrameEncoder(dim, config.frame_kernel, config.frame_stride)
            self.among_frames, self.to_frames = blocks(config.frame_layers), blocks(config.frame_layers)
        self.behaviour_encoder = nn.ModuleDict(
            {module_key(name): BehaviourEncoder(1, dim, config.reference_quirks) for name in config.behaviours}
        )
        self.to_behaviour = blocks(config.behaviour_layers if config.behaviours else 0)
        self.contrast = nn.Linear(dim, dim, bias=False) if config.contrastive else None
        self.read_out = nn.ModuleDict(
            {module_key(head.task): nn.Linear(dim, head.size) for head in self.behaviour_heads}
        )
        self._draw_weights()

    def _draw_weights(self) -> None:
        std = self.config.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.in_features > 1:  # of one number torch's start says more
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for table in (self.special, self.special_heads, *self.place):
            nn.init.normal_(table, std=std)

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """A row for each unit, and one in the head of units, both from N(0, init_std)."""
        fresh: dict[str, list[str]] = {}
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units.words or info.id in fresh:
                check_same_units(info.id, self.units.words.get(info.id, fresh.get(info.id)), keys)
                continue
            fresh[info.id] = keys
        if fresh:
            self.units.extend(fresh)
            self.unit_heads.extend(fresh)

    def sessions(self) -> list[str]:
        return list(self.units.words)

    def unit_row(self, info: SessionInfo) -> np.ndarray:
        """int32 ``[N]``: rows of the unit table; row 0 is no unit."""
        self.session_row(info.id)
        check_same_units(info.id, self.units.words[info.id], info.unit_keys())
        return self.units.rows(info.id)

    def identity_parameters(self, sessions: Sequence[str] | None = None) -> list[Part]:
        """The unit rows of each session, in the table and in the head; of a run without events in the table alone."""
        chosen = self.sessions() if sessions is None else list(sessions)
        self.session_rows(chosen)
        tables = (self.units, self.unit_heads) if self.events else (self.units,)
        return [Part.of(table, session) for session in chosen for table in tables]

    def unit_parts(self, session: str) -> list[tuple[Part, int]]:
        """The same: all of it is rows of units."""
        return [(part, 0) for part in self.identity_parameters([session])]

    def extra_state(self) -> dict[str, object]:
        return {"units": self.units.state()}

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units.load_state(state["units"])
        self.unit_heads.load_state(state["units"])

    # ---- the computation ----------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, logits ``[Q, N + 1 + S]`` of the next unit (the last is the end) and step, and values ``[Q, C]``.

        Beside them what a loss is taken of: all logits of the two heads, and features that are contrasted.
        """
        session = batch.one_session(self.name)
        self.session_row(session)
        current, context = Stream.of(batch.inputs[SPIKES], CURRENT), self.context(batch)
        x_BLD, frames_BKD = self.encode(current, context)
        output: dict[str, Tensor] = {}
        if self.events in batch.asked:
            unit, step = self.logits(session, x_BLD[current.asks])
            n = unit.shape[-1] - 3
            output[self.events] = torch.cat([unit[:, :n], unit[:, n + 1 : n + 2], step[:, : self.window_steps]], -1)
            output |= {f"{self.events}.unit": unit, f"{self.events}.step": step}
        mean_BD = mean(x_BLD, current.valid)
        for head in self.behaviour_heads:
            if head.task in batch.asked:
                value = self.read_out[module_key(head.task)](mean_BD)
                output[head.task] = value.repeat_interleave(batch.asked[head.task].offset.diff(), 0)
        if self.contrast is not None:
            found = {"id": mean_BD} | {name: mean(x, context.known) for name, x in context.behaviours.items()}
            if frames_BKD is not None:
                found[FRAMES] = frames_BKD.mean(1)
            output |= {f"contrast.{name}": self.contrast(found[name]) for name in self.config.contrast}
        return output

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Cross entropies of unit and step, MSE of behaviours, the contrastive term, and their sum."""
        config, terms = self.config, {}
        rest = 1 - CONTRAST_SHARE if config.contrastive or config.reference_quirks else 1.0
        if self.events in batch.asked:
            unit, step = self.event_losses(batch, output)
            terms[self.events] = rest * (UNIT_SHARE * unit + STEP_SHARE * step)
        for head in self.behaviour_heads:
            if head.task in batch.asked:
                asked = batch.asked[head.task]
                terms[head.task] = weighted_mse(output[head.task].float(), asked.target, asked.weight)
        if self.contrast is not None:
            compared = [output[f"contrast.{name}"].float() for name in config.contrast]
            terms["contrast"] = CONTRAST_SHARE * contrast(compared, config.temperature)
        zero = self.special.new_zeros((), dtype=torch.float32)
        return terms | {"total": torch.stack(list(terms.values())).sum() if terms else zero}

    def event_losses(self, batch: Batch, output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the next unit and of the next step, the end of a window being one of each."""
        asked, unit, step = batch.asked[self.events], output[f"{self.events}.unit"], output[f"{self.events}.step"]
        if len(asked.target) != len(unit):
            message = f"{len(asked.target)} events are asked and the tokens of the batch have {len(unit)}"
            raise DataError(message)
        n = unit.shape[-1] - 3
        ends = asked.target[:, 0] == n
        target = asked.target[:, 0] + ends, torch.where(ends, self.end_dt, asked.target[:, 1])
        return tuple(
            weighted_cross_entropy(logits, told, asked.weight)
            for logits, told in zip((unit, step), target, strict=True)
        )

    def context(self, batch: Batch) -> Context:
        """What the windows of a batch attend to."""
        history, n = Stream.of(batch.inputs[SPIKES], HISTORY), len(batch)
        frames = self.frame_encoder(last_frames(batch.inputs[FRAMES], n, self.n_frames)) if self.config.frames else None
        behaviours, known = self._behaviours(batch.inputs[BEHAVIOUR], n) if self.config.behaviours else ({}, None)
        return Context(history, self._embed(history, HISTORY), frames, behaviours, known)

    def encode(self, current: Stream, context: Context, unseen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The tokens of the current window ``[B, L, D]``, and its frames; a token sees those before it.

        Args:
            unseen: a row of the unit table; its spikes are seen by themselves alone.
        """
        before, seen = self._before(current), context.history.valid[:, None]
        if unseen is not None:
            itself = torch.eye(before.shape[1], dtype=torch.bool, device=before.device)
            before = before & ((current.unit != unseen)[:, None] | itself)
            seen = seen & (context.history.unit != unseen)[:, None]
        x_BLD = self._embed(current, CURRENT)
        start = x_BLD[:, :1]
        for block in self.first:
            x_BLD = block(x_BLD, x_BLD, before)
        for block in self.to_history:
            x_BLD = block(x_BLD, context.history_BKD, seen)
        frames = context.frames_BKD
        if frames is not None:
            frames = torch.cat([start, frames], 1)
            all_seen = torch.ones((), dtype=torch.bool, device=frames.device).expand(len(frames), 1, frames.shape[1])
            for block in self.among_frames:
                frames = block(frames, frames, all_seen)
            for block in self.to_frames:
                x_BLD = block(x_BLD, frames, all_seen)
        if context.behaviours:
            x_BLD = self._attend_behaviours(x_BLD, context)
        for block in self.last:
            x_BLD = block(x_BLD, x_BLD, before)
        return x_BLD, frames

    def logits(self, session: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``[..., D]``: ``[..., N + 3]`` of the units, SOS, EOS and PAD, and ``[..., n_steps + 4]`` of the step."""
        rows = torch.from_numpy(self.unit_heads.rows(session)).to(x.device)
        return F.linear(x, torch.cat([self.unit_heads(rows), self.special_heads])), self.step_head(x)

    def _before(self, current: Stream) -> Tensor:
        n = current.valid.shape[1]
        return torch.ones(n, n, dtype=torch.bool, device=current.valid.device).tril().expand(len(current.valid), -1, -1)

    def _embed(self, stream: Stream, which: int) -> Tensor:
        """``[B, L, D]``."""
        spike = stream.type == SPIKE
        kind = self.special[torch.where(spike, 0, stream.type - 1)]
        token = torch.where(spike[..., None], self.units(stream.unit), kind)
        place = self.place[which][: stream.unit.shape[1]]
        return self.dropout(token + place + self.step_code[which](stream.dt))

    def _behaviours(self, tokens: Tokens, n_windows: int) -> tuple[dict[str, Tensor], Tensor]:
        """By name ``[B, K, D]``, and bool ``[B, K]``: the steps at which all of them were measured."""
        columns, _ = tokens.packed()
        category = columns["behaviour"].unflatten(0, (n_windows, -1))
        known = (columns["behaviour_valid"] > 0).all(1).unflatten(0, (n_windows, -1))
        if category.shape[-1] != len(self.config.behaviours):
            message = (
                f"model.behaviours names {len(self.config.behaviours)} signals, with {category.shape[-1]} components"
            )
            raise DataError(message + ": signals of one component each can be read")
        value = torch.where(known[..., None], (category.float() + 0.5) * (2 / CATEGORIES) - 1, 0.0)
        time_s = torch.arange(value.shape[1], device=value.device) * (self.step_ns / 1e9)
        return self.encode_behaviours(value, time_s.expand(n_windows, -1)), known

    def encode_behaviours(self, value: Tensor, time_s: Tensor) -> dict[str, Tensor]:
        """By name ``[B, K, D]``, of ``[B, K, behaviours]`` at seconds ``[B, K]`` from the window's start."""
        names = self.config.behaviours
        return {
            name: self.behaviour_encoder[module_key(name)](value[..., k : k + 1], time_s)
            for k, name in enumerate(names)
        }

    def _attend_behaviours(self, x_BLD: Tensor, context: Context) -> Tensor:
        group = torch.cat(list(context.behaviours.values()), 1)
        group = group + place_code(group.shape[1], group.shape[2], group.device)
        seen = context.known.repeat(1, len(context.behaviours))
        some = seen.any(1)  # a window without a behaviour goes on as it is
        seen = (seen | ~some[:, None])[:, None]
        for block in self.to_behaviour:
            x_BLD = torch.where(some[:, None, None], block(x_BLD, group, seen), x_BLD)
        return x_BLD

    # ---- what is read from its attention ------------------------------------------------------------------------

    def history_attention(self, batch: Batch) -> tuple[Stream, Stream, Tensor]:
        """The current stream, the history, and ``[B, L, K]``: what each token pays to each of its history.

        Mean over heads and over the blocks of cross-attention to the history.
        """
        current, context = Stream.of(batch.inputs[SPIKES], CURRENT), self.context(batch)
        x_BLD, seen, paid = self._embed(current, CURRENT), context.history.valid[:, None], []
        before = self._before(current)
        for block in self.first:
            x_BLD = block(x_BLD, x_BLD, before)
        for block in self.to_history:
            paid.append(block.weights(x_BLD, context.history_BKD, seen))
            x_BLD = block(x_BLD, context.history_BKD, seen)
        return current, context.history, torch.stack(paid).mean(0)

    @torch.no_grad()
    def coupling(self, batches: Iterable[Batch], how: str) -> Tensor:
        """float64 ``[N, N]`` on the CPU: how much unit i depends on unit j; NaN for pairs that never met.

        - ``"attention"``: the mean attention that a spike of i pays to one of j in its history, over what spikes of i
          pay and spikes of j are paid on average: the ln of that.
        - ``"removal"``: the ln of the spikes of i that are expected as the next ones, over those expected where the
          spikes of j can be seen by no token, summed over all tokens behind a spike of j that are none of j.
        """
        totals = None
        for batch in batches:
            rows = torch.from_numpy(self.units.rows(batch.one_session(self.name))).to(self.special.device)
            totals = PairTotals(len(rows), rows.device) if totals is None else totals
            (self._paid if how == "attention" else self._expected)(batch, rows, totals)
        ratio = totals.first / totals.second
        if how == "attention":
            pays, is_paid, all_pay = (
                totals.first.sum(of, keepdim=True) / totals.second.sum(of, keepdim=True) for of in (1, 0, (0, 1))
            )
            ratio = ratio * all_pay / (pays * is_paid)
        return ratio.log().cpu()

    def _paid(self, batch: Batch, rows: Tensor, totals: PairTotals) -> None:
        """Adds attention, and how often it could be paid."""
        current, history, paid = self.history_attention(batch)
        own, their = (s.valid & (s.type == SPIKE) for s in (current, history))
        pair = own[:, :, None] & their[:, None]
        i, j = current.unit[:, :, None] - rows[0], history.unit[:, None] - rows[0]
        totals.add((i * len(rows) + j)[pair], paid[pair])

    def _expected(self, batch: Batch, rows: Tensor, totals: PairTotals) -> None:
        """Adds probabilities of each next unit, with and without each other unit's spikes."""
        session = batch.one_session(self.name)
        current, context = Stream.of(batch.inputs[SPIKES], CURRENT), self.context(batch)

        def told(unseen: Tensor | None) -> Tensor:
            unit, _ = self.logits(session, self.encode(current, context, unseen)[0])
            return unit.double().softmax(-1)[..., : len(rows)]

        known = told(None)
        for j, row in enumerate(rows):
            its_own = (current.unit == row) & current.valid
            behind = its_own.cumsum(1).bool() | (context.history.unit == row).any(1, keepdim=True)
            counted = current.asks & behind & ~its_own
            if counted.any():
                totals.first[:, j] += known[counted].sum(0)
                totals.second[:, j] += told(row)[counted].sum(0)

    # ---- spikes drawn from it -----------------------------------------------------------------------------------

    def generated_bin_ns(self) -> int:
        """A step."""
        return self.step_ns

    @torch.no_grad()
    def generate(self, batch: Batch, how: Generation, carry: object = None) -> tuple[Tensor, object]:
        """Spikes for the windows of a batch in their order, each after what was drawn before it.

        The first window of a stretch is given the spikes of its history; frames and behaviours are given throughout.
        A window that does not begin where the one before ended begins a stretch.
        """
        session = batch.one_session(self.name)
        n_units, given = len(self.units.words[session]), self.context(batch)
        past = carry if isinstance(carry, Past) else Past(torch.Generator().manual_seed(how.seed), -1, [], [])
        counts = torch.zeros(len(batch), self.window_steps, n_units, dtype=torch.uint8)
        for b, start_ns in enumerate(batch.start_ns.tolist()):
            if past.stop_ns != start_ns:
                past = self._given_past(session, given.history, b, past.random)
            context = Context(
                *self._history(session, past),
                None if given.frames_BKD is None else given.frames_BKD[b : b + 1],
                {name: x[b : b + 1] for name, x in given.behaviours.items()},
                None if given.known is None else given.known[b : b + 1],
            )
            spikes = self.draw_sentence(session, context, how, past.random)
            for unit, step in spikes:
                counts[b, step, unit] += 1
            steps = [step - self.window_steps for step in past.step] + [step - self.window_steps for _, step in spikes]
            kept = [k for k, step in enumerate(steps) if step >= -self.history_steps]
            units = past.unit + [unit for unit, _ in spikes]
            past = Past(past.random, start_ns + batch.window_ns, [units[k] for k in kept], [steps[k] for k in kept])
        return counts.flatten(0, 1), past

    def draw_sentence(
        self, session: str, context: Context, how: Generation, random: torch.Generator
    ) -> list[tuple[int, int]]:
        """(unit, step) of each spike that is drawn for one window, in order, as the heads number them.

        With ``reference_quirks`` also SOS, and steps that are none or lie before the last one's.
        """
        quirks, n_units = self.config.reference_quirks, len(self.units.words[session])
        drawn: list[tuple[int, int]] = []
        for _ in range(self.config.max_current - (1 if quirks else 2)):
            x_BLD, _ = self.encode(self._stream(session, [(n_units, 0), *drawn]), context)
            unit_logits, step_logits = (logits.cpu() for logits in self.logits(session, x_BLD[0, -1]))
            last_unit, last_step = drawn[-1] if drawn else (-1, 0)
            if not quirks:  # no SOS, no PAD, and no unit for which no step is left
                unit_logits[[n_units, n_units + 2]] = -torch.inf
                if last_step == self.window_steps - 1:
                    unit_logits[: max(last_unit, 0)] = -torch.inf
            unit = draw(unit_logits, how, random)
            if not quirks:
                if unit > n_units:
                    break
                step_logits = steps_of(unit, unit_logits[:n_units], step_logits[: self.window_steps], drawn)
            step = draw(step_logits, how, random)
            if unit > n_units:
                break
            drawn.append((unit, step))
        return drawn

    def _given_past(self, session: str, history: Stream, b: int, random: torch.Generator) -> Past:
        spike = (history.type[b] == SPIKE) & history.valid[b]
        unit = history.unit[b][spike] - int(self.units.rows(session)[0])
        step = history.dt[b][spike].long() - self.history_steps
        return Past(random, -1, unit.tolist(), step.tolist())

    def _history(self, session: str, past: Past) -> tuple[Stream, Tensor]:
        """The stream of what was drawn, and its embedding."""
        spikes = sorted((step + self.history_steps, unit) for unit, step in zip(past.unit, past.step, strict=True))
        n_units = len(self.units.words[session])
        kept = [(unit, step) for step, unit in spikes[-(self.config.max_history - 2) :]]
        stream = self._stream(session, [(n_units, 0), *kept, (n_units + 1, self.end_dt)])
        return stream, self._embed(stream, HISTORY)

    def _stream(self, session: str, tokens: Sequence[tuple[int, int]]) -> Stream:
        """Tokens of one window, as the heads number them."""
        device, rows = self.special.device, self.units.rows(session)
        kind = [max(unit - len(rows) + 1, SPIKE) for unit, _ in tokens]
        unit = [int(rows[unit]) if unit < len(rows) else 0 for unit, _ in tokens]
        dt = torch.tensor([[step for _, step in tokens]], dtype=torch.float32, device=device)
        valid = torch.ones(1, len(tokens), dtype=torch.bool, device=device)
        return Stream(torch.tensor([unit], device=device), dt, torch.tensor([kind], device=device), valid)
