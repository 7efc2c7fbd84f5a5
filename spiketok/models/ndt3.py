"""NDT3: one causal transformer over spikes and behaviour as one stream of tokens, each predicted from those before.

Ye, Rizzoglio, Smoulder, ..., Gaunt 2025, "A Generalist Intracortical Motor Decoder" (bioRxiv 2025.02.02.634313).
Reference code: joel99/ndt3 (472466a; context_general_bci/model.py, components.py, task_io.py, dataset.py,
config/exp/v5), layers of Dao-AILab/flash-attention 2.3.6.

What is unusual:

- a token is K neighbouring units of one array in one bin, or one number of behaviour in one bin. In a bin stand
  constraints, then spikes, a return, behaviour; each kind has places of its own, a learned row each. Of time there is
  only a turn of queries and keys by the bin (RoPE), the same for all tokens of a bin;
- the sequence is shifted by one: the row that predicts a token holds the token before, at the place and bin of its own.
  So no count or behaviour is ever seen by the row that says it, and evaluation needs no hiding of its own;
- counts are classes: the target of a count y is the Poisson distribution of mean y. A rate is the expected count;
- no parameter belongs to a session or a unit: a new session is read as it is, or with its units in the slots of trained
  ones that they are like.

Behaviour that is an input in training is copied by the model and not decoded: the reference hides all of it
(``hide_behaviour`` 1: its v5 configuration comes to that). In evaluation the truth of a behaviour is read only where
the batch gives it; else nothing stands in its place, or with ``rollout`` what the model itself said of it, by a cache
of keys and values: as many rows are computed as without.

Differs from the reference:

- the layers end with the sum of both branches and its normalisation. There the last feed-forward branch alone goes out;
- a slot without a unit, a count that is hidden or was not observed, and behaviour that was not measured embed to zeros.
  There an empty slot reads as a silent one, and what was not measured as the number in its place;
- the top class of counts is softened as the others; there it has no loss. The lowest bucket of behaviour, and returns,
  need no row for padding;
- behaviour is normalised by mean and standard deviation, there by the 99.9 % quantile; values beyond
  ``bucket_range`` standard deviations are in the outer buckets;
- a reward is where the return fell since the bin before; there the files name rewards;
- held-out units and forward bins (``batch.hidden``) are never seen and always scored;
- not built: blocks of behaviour shown at the start of a window, other losses of buckets (HL-Gauss), phase tokens,
  stochastic depth.

``reference_quirks`` brings back: the last branch alone, silent empty slots, numbers that were not measured, the top
class, and the lowest bucket that embeds to zeros.

Shape letters: B windows, T bins of a window, L tokens, K units of a patch, N units, D width, C components, Q queries,
P bins that are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import Model, check_range, check_same_units, n_patches
from spiketok.models.batch import Asked, Batch, Head, Input, Progress, Stretch, Timing, mean_counts, query_bin
from spiketok.models.losses import softened_counts, softened_cross_entropy, weighted_cross_entropy, weighted_mse
from spiketok.models.masking import drop_inputs
from spiketok.models.ndt3_layers import Cache, Stack
from spiketok.models.places import SPIKES, ByPlace
from spiketok.recording.nouns import SessionInfo

PATCHES = "patches"  # the name of the input
COUNTS = "counts"  # the name under which a population task hides counts
CONSTRAINT, RETURN = 1, 3  # beside ``SPIKES``, the column ``kind`` of the scheme
MIN_RATE = 1e-9  # of rates that are sums over classes


@dataclass(frozen=True)
class Ndt3Config:
    """The defaults are those of the published 45M model (config/exp/v5/_default.yaml and _45m.yaml).

    Args:
        patch_size: K. group_by: a unit column whose groups (arrays) are cut into patches apart; empty for none.
        max_count: larger counts read the table's last row; as targets there is a class more, of all that are larger.
        dim: D. layers, heads; ffn_factor: width of the feed-forward layers over D. dropout: of weights of attention, of
            what goes in, and of both branches.
        activation: ``"swiglu"`` (gated, its width rounded up to a multiple of 256) or ``"gelu"``.
        qk_norm: normalise queries and keys. norm_affine: norms have weights and biases.
        max_behaviours, max_patches: places in a bin for numbers of behaviour (and constraints), and for patches.
            max_places: rows of the table of places.
        constraints: a signal of three numbers a dimension (active and passive assistance, brain control). returns: a
            signal of returns to go, whole numbers below ``max_return``. Empty for none. return_weight: of predicting
            the returns; 0 for not.
        hide_behaviour: share of the numbers of behaviour that training does not show as inputs; 1 for none, in
            evaluation too. hide_random: the share is drawn for each batch, from 0 to that.
        rollout: in evaluation what was said of a behaviour is read in its place.
        buckets: 0 for behaviour as numbers with MSE; else classes of equal width. bucket_range: they go from minus this
            many standard deviations to plus.
        spike_weight, decode_weight: of the losses of spikes and of behaviour.
        rate_init: the read-out of counts starts from the mean count of the training time.
        reference_quirks: compute as the reference where it differs (see above).
    """

    patch_size: int = 32
    group_by: str = "group"
    max_count: int = 20
    dim: int = 1024
    layers: int = 6
    heads: int = 8
    ffn_factor: float = 1.0
    dropout: float = 0.1
    activation: Literal["swiglu", "gelu"] = "swiglu"
    qk_norm: bool = True
    norm_affine: bool = False
    max_behaviours: int = 17
    max_patches: int = 10
    max_places: int = 48
    constraints: str = ""
    returns: str = ""
    max_return: int = 50
    return_weight: float = 0.0
    hide_behaviour: float = 1.0
    hide_random: bool = False
    rollout: bool = False
    buckets: int = 0
    bucket_range: float = 4.0
    spike_weight: float = 1.0
    decode_weight: float = 1.0
    rate_init: bool = False
    reference_quirks: bool = False

    def __post_init__(self) -> None:
        counted = ("patch_size", "max_count", "dim", "layers", "heads", "max_behaviours", "max_patches", "max_return")
        check_range(self, "[1, inf)", *counted)
        check_range(self, "[0, inf)", "return_weight", "spike_weight", "decode_weight", "buckets")
        check_range(self, "[0, 1)", "dropout")
        check_range(self, "[0, 1]", "hide_behaviour")
        check_range(self, "(0, inf)", "ffn_factor", "bucket_range")
        for name in ("patch_size", "heads"):
            if self.dim % getattr(self, name):
                message = f"model.dim is {self.dim}, which model.{name} {getattr(self, name)} does not divide"
                raise UsageError(message)
        if self.dim // self.heads % 2:
            message = f"model.dim {self.dim} over model.heads {self.heads} is odd: rotary time turns pairs of channels"
            raise UsageError(message)
        if self.max_places < sum(self.places):
            message = (
                f"model.max_places is {self.max_places} and a bin needs {sum(self.places)}: 1 + max_behaviours, "
                "max_patches, and 1 + max_behaviours"
            )
            raise UsageError(message)
        if self.rollout and not self.reads_behaviour:
            message = (
                "model.rollout reads behaviour and model.hide_behaviour 1 never shows any in training: use "
                "model.hide_random=true, or a smaller share"
            )
            raise UsageError(message)
        if self.return_weight and not self.returns:
            message = f"model.return_weight is {self.return_weight} and model.returns names no signal"
            raise UsageError(message)

    @property
    def places(self) -> tuple[int, ...]:
        """Places of a bin: for what begins a window, constraints, patches, the return, behaviour."""
        return 1, self.max_behaviours, self.max_patches, 1, self.max_behaviours

    @property
    def reads_behaviour(self) -> bool:
        """Whether training ever shows behaviour as an input."""
        return self.hide_behaviour < 1 or self.hide_random


@dataclass(frozen=True, eq=False)
class _Behaviour:
    """One task's tokens, one a bin and component, bin by bin.

    Args:
        row: int64 ``[P]``, the packed bins that are asked. index: int64 ``[Q]``, which of them each query reads.
        place: the first component's. value: float ``[P, C]``; shown: bool ``[P]``, where it may be read.
        said: what the model said may be read in its place.
    """

    task: str
    row: Tensor
    index: Tensor
    place: int
    value: Tensor
    shown: Tensor
    said: bool


@dataclass(frozen=True, eq=False)
class _Sequence:
    """The tokens of windows, packed, in the order of the stream.

    Args:
        content: ``[L, D]``, zeros where nothing is shown. window, time, space: int64 ``[L]``. length: of each window.
        place: int64 ``[L]``, where each token of the input went, and then each of the behaviours.
        rolled: bool ``[L]``, behaviour that stands here as the model will say it.
    """

    content: Tensor
    window: Tensor
    time: Tensor
    space: Tensor
    length: list[int]
    place: Tensor
    rolled: Tensor


_PUBLISHED = {
    # v5/_default.yaml and _45m.yaml: rise of 50 epochs, 400 epochs of a cosine of 500; 2 s; batches of 16,384 windows
    "data": {"window_ms": 2000.0, "batch_size": 64},
    "optim": {
        **{"name": "adamw", "lr": 4e-4, "weight_decay": 0.01, "schedule": "cosine", "clip": 1.0, "accelerator": "auto"},
        **{"epochs": 400, "warmup_epochs": 50, "accumulate": 256},
    },
}


class Ndt3(ByPlace, Model):
    """Reads patches and behaviour; gives log rates of every count from what came before, and behaviour likewise."""

    name: ClassVar[str] = "ndt3"
    checked: ClassVar[str] = "4 recorded configurations of its original: outputs, losses, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("decode", "population")
    default_tasks: ClassVar[tuple[str, ...]] = ("decode", "population")
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot", "full")
    one_session_batches: ClassVar[bool] = True  # what a population is asked is one table for a batch
    causal: ClassVar[bool] = True
    Config: ClassVar[type] = Ndt3Config
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {
            **{"dim": 64, "layers": 2, "heads": 4, "activation": "gelu", "ffn_factor": 2.0, "dropout": 0.0},
            "rate_init": True,
        },
        "scratch": {"dim": 512},  # v5/_scratch.yaml: what its baselines without pretraining are
        "45M": {},
        "350M": {"dim": 2048, "layers": 12, "heads": 16},
        "700M": {"dim": 2048, "layers": 24, "heads": 16},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {
            # each time from the window with the longest past: no row sees ahead
            "data": {"window_ms": 500.0, "batch_size": 16, "stitch": "causal"},
            "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 1000},
        },
        "*": _PUBLISHED,
    }

    @classmethod
    def inputs(cls, config: Ndt3Config, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        fields = {"bin_ns": timing.bin_ns, "patch_size": config.patch_size, "max_count": config.max_count}
        fields |= {"group_by": config.group_by}
        if config.constraints or config.returns:  # else the tokens of ndt2
            fields |= {"order": "ndt3", "constraints": config.constraints, "returns": config.returns}
            fields |= {"reserved": config.places}
        return {PATCHES: Input("patch", fields)}

    def __init__(self, config: Ndt3Config, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.population = self.head("counts").task if any(head.output == "counts" for head in heads) else ""
        self.behaviours = {head.task: head.size for head in heads if head.output == "values"}
        if sum(self.behaviours.values()) > config.max_behaviours:
            message = (
                f"the run decodes {sum(self.behaviours.values())} numbers a bin and model.max_behaviours is "
                f"{config.max_behaviours}: raise it (and model.max_places), or decode fewer"
            )
            raise UsageError(message)
        dim = config.dim
        self.start = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.count_table = nn.Embedding(config.max_count + 1, dim // config.patch_size)
        self.stack = Stack(config, config.max_places)
        if config.constraints:
            self.constraint_rows = nn.Parameter(torch.randn(3, dim))
        if config.returns:
            self.return_table, self.reward_table = nn.Embedding(config.max_return, dim), nn.Embedding(2, dim)
            if config.return_weight:
                self.read_returns = nn.Linear(dim, config.max_return + 1)  # the first class is none's: its padding
        if self.behaviours:
            self.value_in = nn.Embedding(config.buckets, dim) if config.buckets else nn.Linear(1, dim)
            self.read_values = nn.Linear(dim, config.buckets or 1)
            edges = torch.linspace(-config.bucket_range, config.bucket_range, config.buckets + 1)
            self.register_buffer("edges", edges, persistent=False)
        if self.population:
            self.read_rates = nn.Linear(dim, config.patch_size * (config.max_count + 2))
            table = softened_counts(config.max_count + 1, top_row=not config.reference_quirks)
            self.register_buffer("softened", table, persistent=False)
        self.units: dict[str, list[str]] = {}
        self.put: dict[str, list[int]] = {}

    # ---- sessions -----------------------------------------------------------------------------------------------

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """Nothing of the model is a session's own: what is kept is which it has seen, and their units.

        Raises:
            DataError: a session has more patches than a bin has places for.
        """
        fresh: dict[str, list[str]] = {}
        for info in infos:
            keys = info.unit_keys()
            if info.id in self.units or info.id in fresh:
                check_same_units(info.id, self.units.get(info.id, fresh.get(info.id)), keys)
                continue
            n = n_patches(info, self.config.patch_size, self.config.group_by)
            if n > self.config.max_patches:
                message = (
                    f"{info.id} has {n} patches of {self.config.patch_size} units and model.max_patches is "
                    f"{self.config.max_patches}: raise it (and model.max_places), or model.patch_size"
                )
                raise DataError(message)
            fresh[info.id] = keys
        self.units |= fresh

    def extra_state(self) -> dict[str, object]:
        return {"sessions": [[session, keys] for session, keys in self.units.items()]} | self.put_state()

    def load_extra_state(self, state: dict[str, object]) -> None:
        self.units = {session: list(keys) for session, keys in state["sessions"]}
        self.load_put(state)

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """With ``rate_init``, the Poisson distribution of the mean count of the training time as the bias of counts."""
        if not (self.config.rate_init and self.population):
            return
        mean = np.concatenate([mean_counts(sessions[session], COUNTS) for session in self.sessions()]).mean()
        count = torch.arange(self.config.max_count + 2)
        log_pmf = (count * math.log(mean) - mean - torch.lgamma(count + 1.0)).log_softmax(0)
        with torch.no_grad():
            self.read_rates.bias.copy_(log_pmf.repeat(self.config.patch_size))

    # ---- the stream ---------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task, behaviour ``[Q, C]`` and log rates ``[B * T, N]``.

        Beside the rates, by slot ``[L, K]``: logits of counts (``slots``), the true ``count`` and whether it is
        ``scored``: all that was observed; in evaluation what the batch hides, where it hides something. Beside a
        behaviour in buckets its ``logits``, and beside returns theirs with their targets.
        """
        n_bins = batch.window_ns // self.timing.bin_ns
        columns, length = self.patches(batch, PATCHES, sum(self.config.places[:2]))
        behaviours = self._behaviours(batch, n_bins)
        sequence = self._sequence(batch, columns, length, behaviours, n_bins)
        rolled = not self.training and bool(sequence.rolled.any())
        features = (self._roll_out(sequence) if rolled else self._whole(sequence))[sequence.place]
        output, first = {}, len(columns["time"])
        for own in behaviours:
            n_tokens = own.value.numel()
            raw = self.read_values(features[first : first + n_tokens]).unflatten(0, own.value.shape)[own.index]
            output[own.task] = self._values(raw)
            if self.config.buckets:
                output[f"{own.task}.logits"] = raw
            first += n_tokens
        spikes, returned = self._of_kind(columns, SPIKES), self._of_kind(columns, RETURN)
        asked = batch.asked.get(self.population)
        if asked is not None:
            output |= self._population(batch, asked, columns, length, n_bins, spikes, features)
        if self.config.return_weight:
            output["returns"] = self.read_returns(features[returned])
            output["returns.target"] = self._return_rows(columns["value"][returned]) + 1
            output["returns.weight"] = (columns["observed"][returned] > 0).float()
        return output

    @staticmethod
    def _of_kind(columns: Mapping[str, Tensor], kind: int) -> Tensor:
        """int64, the tokens of the input that are of a kind; without the column all are spikes."""
        time = columns["time"]
        if "kind" in columns:
            return (columns["kind"] == kind).nonzero()[:, 0]
        return torch.arange(len(time) if kind == SPIKES else 0, device=time.device)

    def _behaviours(self, batch: Batch, n_bins: int) -> list[_Behaviour]:
        """The behaviours that are asked; of one that may not be read no truth is looked at."""
        found, place = [], sum(self.config.places[:-1])
        for task, size in self.behaviours.items():
            if task in batch.asked:
                asked = batch.asked[task]
                row, index = torch.unique(query_bin(batch, asked, n_bins), return_inverse=True)
                value, n = self.start.new_zeros(len(row), size), self.start.new_zeros(len(row))
                given = self.training or task in batch.given
                if given and self.config.reads_behaviour:
                    valid = (asked.weight > 0) | self.config.reference_quirks
                    n = n.index_add(0, index, valid.to(n.dtype))
                    value = value.index_add(0, index, torch.where(valid[:, None], asked.target, 0.0).to(value.dtype))
                    value = value / n.clamp_min(1)[:, None]
                said = self.config.rollout and not given
                found.append(_Behaviour(task, row, index, place, value, n > 0, said))
            place += size
        return found

    def _sequence(
        self, batch: Batch, columns: Mapping[str, Tensor], length: list[int], behaviours: list[_Behaviour], n_bins: int
    ) -> _Sequence:
        device = columns["time"].device
        time, space = columns["time"].long(), columns["space"].long()
        if "kind" not in columns:
            space = space + sum(self.config.places[:2])
        window = torch.repeat_interleave(torch.tensor(length, device=device), output_size=len(time))
        content = [self._content(batch, columns, window * n_bins + time)]
        rows, spaces = [window * n_bins + time], [space]
        hidden, rolled = ([torch.zeros_like(space, dtype=torch.bool)] for _ in range(2))
        for own in behaviours:
            size = own.value.shape[1]
            rows.append(own.row.repeat_interleave(size))
            spaces.append((own.place + torch.arange(size, device=device)).repeat(len(own.row)))
            content.append(torch.where(own.shown[:, None, None], self._embed_values(own.value), 0.0).flatten(0, 1))
            hidden.append(torch.ones_like(rows[-1], dtype=torch.bool))
            rolled.append(torch.full_like(rows[-1], own.said, dtype=torch.bool))
        row, space = torch.cat(rows), torch.cat(spaces)
        order = torch.argsort(row * self.config.max_places + space, stable=True)
        row, space, x = row[order], space[order], torch.cat(content)[order]
        window = row // n_bins
        n_tokens = torch.bincount(window, minlength=len(batch))
        if self.training and behaviours and self.config.reads_behaviour:
            first = torch.cat([n_tokens.new_zeros(1), n_tokens.cumsum(0)[:-1]])
            drawn = self.draw_hidden(int(n_tokens.max()), device)[torch.arange(len(row), device=device) - first[window]]
            x = torch.where((drawn & torch.cat(hidden)[order])[:, None], 0.0, x)
        place = torch.argsort(order)
        return _Sequence(x, window, row % n_bins, space, n_tokens.tolist(), place, torch.cat(rolled)[order])

    def draw_hidden(self, n_tokens: int, device: torch.device) -> Tensor:
        """bool ``[L]``: where in a window training shows no behaviour, the same in every window, as the reference."""
        return drop_inputs(n_tokens, self.config.hide_behaviour, random_ratio=self.config.hide_random, device=device)

    def _content(self, batch: Batch, columns: Mapping[str, Tensor], row: Tensor) -> Tensor:
        """``[L, D]`` of the tokens of the input."""
        observed, spikes = columns["observed"] > 0, self._of_kind(columns, SPIKES)
        shown = observed[spikes, None] & (columns["unit"][spikes] >= 0)
        if "unit_observed" in columns:
            shown = shown & (columns["unit_observed"][spikes] > 0)
        if COUNTS in batch.hidden:
            shown = shown & ~batch.hidden[COUNTS][row[spikes, None], columns["unit"][spikes].long().clamp_min(0)]
        x = self.count_table(torch.where(shown, columns["patch"][spikes].long().clamp_max(self.config.max_count), 0))
        if not self.config.reference_quirks:
            x = torch.where(shown[..., None], x, 0.0)
        if "kind" not in columns:
            return x.flatten(1)
        parts = [(spikes, x.flatten(1))]
        if self.config.constraints:
            own = self._of_kind(columns, CONSTRAINT)
            parts.append((own, columns["constraint"][own] @ self.constraint_rows))
        if self.config.returns:
            own = self._of_kind(columns, RETURN)
            value = columns["value"][own]
            rewarded = self.rewarded(value, row[own], batch.window_ns // self.timing.bin_ns)
            parts.append((own, self.return_table(self._return_rows(value)) + self.reward_table(rewarded.long())))
        content = self.start.new_zeros(len(row), self.config.dim)
        for own, value in parts:
            content = content.index_put((own,), value.to(content.dtype))
        return content if self.config.reference_quirks else torch.where(observed[:, None], content, 0.0)

    def _return_rows(self, value: Tensor) -> Tensor:
        return value.round().long().clamp(0, self.config.max_return - 1)

    def rewarded(self, value: Tensor, row: Tensor, n_bins: int) -> Tensor:
        """bool: in which bins of returns to go, in order of time, the return is less than in the bin before."""
        fell = torch.zeros_like(value, dtype=torch.bool)
        fell[1:] = (value[1:] < value[:-1]) & (row[1:] // n_bins == row[:-1] // n_bins)
        return fell

    def _whole(self, sequence: _Sequence) -> Tensor:
        """``[L, D]``, what each row makes of all before it, in one pass."""
        window = sequence.window
        begins = torch.ones_like(window, dtype=torch.bool)
        begins[1:] = window[1:] != window[:-1]
        x = torch.where(begins[:, None], self.start, sequence.content.roll(1, 0))
        return self.stack(x, sequence.space, sequence.time, self.stack.whole(sequence.length))

    @torch.no_grad()
    def _roll_out(self, sequence: _Sequence) -> Tensor:
        """The same where behaviour is read as it was said; windows of one layout go together."""
        features = torch.empty_like(sequence.content)
        layouts: dict[bytes, list[Tensor]] = {}
        for rows in torch.arange(len(features), device=features.device).split(sequence.length):
            layout = torch.stack([sequence.time[rows], sequence.space[rows], sequence.rolled[rows].long()])
            layouts.setdefault(layout.cpu().numpy().tobytes(), []).append(rows)
        for alike in layouts.values():
            rows = torch.stack(alike)
            if rows.numel():
                features[rows] = self._roll(sequence, rows).to(features.dtype)
        return features

    def _roll(self, sequence: _Sequence, rows: Tensor) -> Tensor:
        """``[b, L, D]`` for the rows ``[b, L]`` of windows; a step ends where the next thing to be said stands."""
        content, rolled = sequence.content[rows], sequence.rolled[rows[0]].tolist()
        n_windows, n_rows = rows.shape
        before = torch.cat([self.start.expand(n_windows, 1, -1), content[:, :-1]], dim=1)
        cache, made, first = Cache(n_windows, n_rows), [], 0
        for stop in range(1, n_rows + 1):
            if not rolled[stop - 1] and stop < n_rows:
                continue
            own = rows[:, first:stop].flatten()
            x = before[:, first:stop].flatten(0, 1)
            x = self.stack(x, sequence.space[own], sequence.time[own], cache.attend).unflatten(0, (n_windows, -1))
            cache.advance(stop - first)
            made.append(x)
            if rolled[stop - 1] and stop < n_rows:
                before[:, stop] = self._embed_values(self._values(self.read_values(x[:, -1:])))[:, 0]
            first = stop
        return torch.cat(made, dim=1)

    # ---- behaviour ----------------------------------------------------------------------------------------------

    def _embed_values(self, value: Tensor) -> Tensor:
        """``[..., D]`` of normalised numbers ``[...]``."""
        if not self.config.buckets:
            return self.value_in(value[..., None]).to(self.start.dtype)
        bucket = self._bucket(value)
        x = self.value_in(bucket)
        return torch.where(bucket[..., None] > 0, x, 0.0) if self.config.reference_quirks else x

    def _bucket(self, value: Tensor) -> Tensor:
        return (torch.bucketize(value, self.edges) - 1).clamp(0, self.config.buckets - 1)

    def _values(self, raw: Tensor) -> Tensor:
        """Normalised numbers ``[...]`` of what the read-out says, ``[..., 1]`` or logits of buckets."""
        if not self.config.buckets:
            return raw[..., 0]
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        return (raw.float().softmax(-1) * middle).sum(-1)

    # ---- the spikes ---------------------------------------------------------------------------------------------

    def _population(
        self,
        batch: Batch,
        asked: Asked,
        columns: Mapping[str, Tensor],
        length: list[int],
        n_bins: int,
        spikes: Tensor,
        features: Tensor,
    ) -> dict[str, Tensor]:
        window = torch.repeat_interleave(torch.tensor(length, device=spikes.device), output_size=sum(length))
        unit = columns["unit"][spikes].long()
        place = (window * n_bins + columns["time"])[spikes, None].expand_as(unit), unit.clamp_min(0)
        real = unit >= 0
        slots = self.read_rates(features[spikes]).unflatten(1, (self.config.patch_size, -1))
        count = torch.arange(slots.shape[-1], device=slots.device)
        rate = (slots.float().softmax(-1) * count).sum(-1).clamp_min(MIN_RATE).log()
        dense = rate.new_zeros(asked.target.shape).index_put(tuple(p[real] for p in place), rate[real])
        scored = real & (asked.weight[place] > 0)
        if not self.training and COUNTS in batch.hidden:
            scored = scored & batch.hidden[COUNTS][place]
        return {self.population: dense, "slots": slots, "count": asked.target[place], "scored": scored}

    # ---- losses -------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The loss of the spikes, of each behaviour, and perhaps of returns.

        In the total every number of behaviour counts alike, whichever task asked it.
        """
        config, terms, total = self.config, {}, self.start.new_zeros(())
        if "slots" in output:
            terms[self.population] = softened_cross_entropy(
                output["slots"], output["count"], output["scored"], self.softened
            )
            total = total + config.spike_weight * terms[self.population]
        weighted, n = [], []
        for task, size in self.behaviours.items():
            if task in batch.asked:
                asked = batch.asked[task]
                terms[task] = self._behaviour_loss(output, task, asked)
                n.append(asked.weight.sum() * size)
                weighted.append(n[-1] * terms[task])
        if n:
            total = total + config.decode_weight * torch.stack(weighted).sum() / torch.stack(n).sum().clamp_min(1e-9)
        if "returns" in output:
            terms["returns"] = weighted_cross_entropy(
                output["returns"], output["returns.target"], output["returns.weight"]
            )
            total = total + config.return_weight * terms["returns"]
        return terms | {"total": total}

    def _behaviour_loss(self, output: dict[str, Tensor], task: str, asked: Asked) -> Tensor:
        if not self.config.buckets:
            return weighted_mse(output[task].float(), asked.target, asked.weight)
        weight = asked.weight[:, None].expand(asked.target.shape).flatten()
        label = self._bucket(asked.target).flatten()
        return weighted_cross_entropy(output[f"{task}.logits"].flatten(0, 1), label, weight)
