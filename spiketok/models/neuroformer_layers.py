"""What Neuroformer is made of: its block, its codes of time and value, its frame encoder, and how a token is drawn.

Shape letters: B windows, L tokens of a stream, K rows of a context, F frames, D width, H heads, C features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.batch import Generation, Tokens
from spiketok.models.nn import sinusoidal_position

SPIKE, SOS, EOS, PAD = 0, 1, 2, 3  # as the scheme event-pair has them
HISTORY, CURRENT = 0, 1


@dataclass(frozen=True, eq=False)
class Stream:
    """The tokens of one stream of B windows, each from its SOS on.

    Args:
        unit: int64 ``[B, L]``, rows of the model's table, 0 where there is no spike. dt: float32 ``[B, L]`` steps.
        type: int64 ``[B, L]``. valid: bool ``[B, L]``; False behind a window's last token.
    """

    unit: Tensor
    dt: Tensor
    type: Tensor
    valid: Tensor

    @classmethod
    def of(cls, tokens: Tokens, stream: int) -> Stream:
        """One stream of tokens by the scheme event-pair."""
        columns, length = tokens.packed()
        device = columns["unit"].device
        of_stream = columns["stream"] == stream
        window = torch.repeat_interleave(torch.tensor(length, device=device))[of_stream]
        count = torch.bincount(window, minlength=len(length))
        valid = torch.arange(int(count.max()) if len(count) else 0, device=device) < count[:, None]

        def laid(column: Tensor) -> Tensor:
            return column.new_zeros(valid.shape).masked_scatter(valid, column)

        kind = columns["type"][of_stream].long()
        unit = torch.where(kind == SPIKE, columns["unit"][of_stream].long(), 0)
        return cls(laid(unit), laid(columns["dt"][of_stream].float()), laid(kind), valid)

    @property
    def asks(self) -> Tensor:
        """bool ``[B, L]``: the tokens that another one follows."""
        return self.valid & (self.type != EOS) & (self.type != PAD)


@dataclass(frozen=True, eq=False)
class Context:
    """What the current window of B windows attends to, besides itself.

    Args:
        history: its stream. history_BKD: its embedding. frames_BKD: of the frame encoder; None without frames.
        behaviours: by name ``[B, K, D]``. known: bool ``[B, K]``, the steps at which behaviours were measured.
    """

    history: Stream
    history_BKD: Tensor
    frames_BKD: Tensor | None
    behaviours: Mapping[str, Tensor] = field(default_factory=dict)
    known: Tensor | None = None


@dataclass(eq=False)
class Past:
    """What generation hands on: the spikes drawn so far, as far as a history reaches, and the draws to come."""

    random: torch.Generator
    stop_ns: int
    unit: list[int]  # the session's own
    step: list[int]  # counted back from stop_ns: the last step is -1


class Block(nn.Module):
    """Queries attend to a context, then a GELU layer four times as wide; both add, and the sum is normalised.

    The queries are normalised before the attention, the context is not, also where it is the queries themselves.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.norm_query, self.norm_hidden, self.norm_out = (nn.LayerNorm(dim) for _ in range(3))
        self.to_query, self.to_key, self.to_value, self.to_out = (nn.Linear(dim, dim) for _ in range(4))
        self.to_hidden, self.from_hidden = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, context_BKD: Tensor, seen: Tensor) -> Tensor:
        """``[B, L, D]``.

        Args:
            seen: bool, of a shape that broadcasts to ``[B, L, K]``; each query sees something.
        """
        query, key = self._query_key(x_BLD, context_BKD)
        value = self._split(self.to_value(context_BKD))
        dropout = self.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None], dropout_p=dropout)
        x_BLD = x_BLD + self.dropout(self.to_out(out.transpose(1, 2).flatten(2)))
        hidden = self.from_hidden(F.gelu(self.to_hidden(self.norm_hidden(x_BLD))))
        return self.norm_out(x_BLD + self.dropout(hidden))

    def weights(self, x_BLD: Tensor, context_BKD: Tensor, seen: Tensor) -> Tensor:
        """The attention of :meth:`forward`, mean over heads, ``[B, L, K]``."""
        query, key = self._query_key(x_BLD, context_BKD)
        score = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        return score.masked_fill(~seen[:, None], -torch.inf).softmax(-1).mean(1)

    def _query_key(self, x_BLD: Tensor, context_BKD: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.to_query(self.norm_query(x_BLD))), self._split(self.to_key(context_BKD))

    def _split(self, x_BLD: Tensor) -> Tensor:
        """``[B, H, L, E]``."""
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class StepCode(nn.Module):
    """A small network of the step, read as a number."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.to_hidden, self.to_out = nn.Linear(1, dim // 2), nn.Linear(dim // 2, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, dt: Tensor) -> Tensor:
        """``[..., D]``, of float32 ``[...]``."""
        return self.dropout(self.to_out(F.gelu(self.to_hidden(dt[..., None]))))


class FrameEncoder(nn.Module):
    """A convolution over time, height and width; a token a place."""

    def __init__(self, dim: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, dim, tuple(kernel), tuple(stride))
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """``[B, K, D]``, of float32 ``[B, F, height, width]``; time is the slowest."""
        return F.relu(self.norm(self.convolution(frames[:, None]).flatten(2).transpose(1, 2)))


class BehaviourEncoder(nn.Module):
    """A token for a behaviour's value and its time.

    Args:
        features: C. normalised: put LayerNorm over the C numbers before, as the reference does: of one number it leaves
            nothing.
    """

    def __init__(self, features: int, dim: int, normalised: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features) if normalised else nn.Identity()
        self.to_hidden = nn.Linear(features, 2 * features, bias=False)
        self.to_out = nn.Linear(2 * features, dim, bias=False)

    def forward(self, value: Tensor, time_s: Tensor) -> Tensor:
        """``[..., D]``, of ``[..., C]`` and float32 seconds ``[...]`` from the window's start."""
        x = self.to_out(F.gelu(self.to_hidden(self.norm(value))))
        even = torch.arange(0, x.shape[-1], 2, device=x.device)
        angle = time_s[..., None] * 10_000.0 ** (-even / x.shape[-1])
        return x + torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., : x.shape[-1]]


def place_code(n: int, dim: int, device: torch.device) -> Tensor:
    """``[n, D]``: sine and cosine of the place in the first half of the channels; in the others those of place 0."""
    half = -(-dim // 4) * 2
    second = sinusoidal_position(1, dim - half).expand(n, -1)
    return torch.cat([sinusoidal_position(n, half), second], -1).to(device)


def draw(logits: Tensor, how: Generation, random: torch.Generator) -> int:
    """A class of ``[n]`` logits: those that ``how`` leaves, then its temperature; the likeliest where that is 0."""
    if how.top_k is not None:
        logits = logits.masked_fill(logits < logits.topk(min(how.top_k, len(logits))).values[-1], -torch.inf)
    if how.top_p < 1:
        ranked, order = logits.sort(descending=True)
        share = ranked.softmax(0)
        beyond = share.cumsum(0) - share >= how.top_p  # the first that reaches the share stays
        logits = logits.masked_fill(beyond.new_zeros(len(logits)).scatter(0, order, beyond), -torch.inf)
    if how.temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / how.temperature).softmax(0), 1, generator=random))


def steps_of(unit: int, unit_logits: Tensor, step_logits: Tensor, drawn: Sequence[tuple[int, int]]) -> Tensor:
    """Logits ``[S]`` of the step of a spike of a unit, in a sentence that has its spikes in order of step and unit.

    The heads tell unit and step each by itself. A unit below the last one can only fire in a later step; so the others
    take their share of the last one's step as well. This is the joint distribution of the most entropy that has both
    heads' distributions and gives such pairs nothing. Drawn each by itself, steps would run ahead of the heads.

    Args:
        unit_logits: ``[N]``. step_logits: ``[S]``. drawn: (unit, step) of the spikes so far.
    """
    if not drawn:
        return step_logits
    last_unit, last_step = drawn[-1]
    share = step_logits[last_step:].double().softmax(0)
    same = share[0]
    later = share[1:] / share[1:].sum() if len(share) > 1 else share[1:]
    if unit < last_unit:
        same = torch.zeros_like(same)
    elif len(share) > 1:
        same = (same / unit_logits.double().softmax(0)[last_unit:].sum()).clamp(max=1)
    else:
        same = torch.ones_like(same)
    told = torch.cat([same[None], (1 - same) * later]).log()
    return torch.cat([step_logits.new_full((last_step,), -torch.inf), told.to(step_logits)])


def contrast(features: Sequence[Tensor], temperature: float) -> Tensor:
    """Mean over pairs of kinds, in their order, of the cross entropy of finding a window's own in the later kind.

    Args:
        features: ``[B, D]`` of each kind. temperature: of the cosines.
    """
    with torch.autocast(features[0].device.type, enabled=False):
        unit = [F.normalize(x.float(), dim=1) for x in features]
        itself = torch.arange(len(unit[0]), device=unit[0].device)
        terms = [
            F.cross_entropy(first @ second.T / temperature, itself)
            for k, first in enumerate(unit)
            for second in unit[k + 1 :]
        ]
    return torch.stack(terms).mean()


def mean(x_BLD: Tensor, valid_BL: Tensor) -> Tensor:
    """``[B, D]``, over what is valid; 0 where nothing is."""
    weight = valid_BL[..., None].to(x_BLD.dtype)
    return (x_BLD * weight).sum(1) / weight.sum(1).clamp_min(1)


def last_frames(tokens: Tokens, n_windows: int, n: int) -> Tensor:
    """float32 ``[B, n, height, width]``: the last frames of each window; black before a recording's start."""
    columns, length = tokens.packed()
    pixels = columns["pixels"]
    value = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    value = torch.where(columns["shown"][:, None, None] > 0, value, 0.0)
    out = value.new_zeros(n_windows, n, *value.shape[1:])
    for b, own in enumerate(value.split(length)):
        kept = own[-n:]
        if len(kept):
            out[b, n - len(kept) :] = kept
    return out


class PairTotals:
    """Two sums over windows for each pair of units, float64 ``[N, N]``."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.first, self.second = (torch.zeros(n, n, dtype=torch.float64, device=device) for _ in range(2))

    def add(self, place: Tensor, value: Tensor) -> None:
        """Values to the first and their number to the second; ``place``: int64, i * N + j of each."""
        self.first.view(-1).index_add_(0, place, value.double())
        self.second.view(-1).index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
