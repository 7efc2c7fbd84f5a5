"""Blocks that several models share: attention over packed windows, rotary time, layers.

What is unusual:

- windows lie one behind the other, ``[L_total, ...]``, with the number of rows of each; nothing is padded unless a
  backend of :func:`attention` pads for itself;
- :class:`RotaryTime` turns pairs of channels by time in seconds, always in float32 (its shortest period is 0.1 ms:
  half precision would lose the time), and may turn the values too.

Shape letters: B windows, L rows, D width, H heads, E width of a head, F frequencies.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from spiketok.errors import DataError, UsageError
from spiketok.models.dropout import Dropout, dropped_attention

BUCKET = 4  # windows of similar length that are padded to one another
FIRST, NEVER = -1, 2**62  # orders of keys that all queries see, and that none does; others lie between


# ---- attention ------------------------------------------------------------------------------------------------------


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_length: Sequence[int],
    key_length: Sequence[int],
    *,
    dropout: float = 0.0,
    mask: Tensor | Visible | None = None,
    backend: str = "auto",
) -> Tensor:
    """Softmax attention of each window's queries over the same window's keys.

    Args:
        query: ``[Lq, H, E]``. key, value: ``[Lk, H, E]``.
        query_length, key_length: rows of each window; they sum to Lq and Lk. A window without keys gives zeros.
        dropout: probability of dropping an attention weight.
        mask: bool ``[Tq, Tk]``, True where a query may attend, the same for every window; needs equal lengths. Or
            :class:`Visible`, for windows of any lengths. A query that sees no key gets zeros.
        backend: a name in ``ATTENTION``, or ``"auto"``: windows of equal lengths go in one call, without padding; else
            on the CPU self-attention goes window by window and cross-attention in buckets of similar length (measured
            as the fastest: 5 times and 1.2 times as fast as padded), on CUDA through a kernel for packed windows, and
            elsewhere padded.

    Returns:
        ``[Lq, H, E]``.
    """
    query_length, key_length = list(query_length), list(key_length)
    if (sum(query_length), sum(key_length)) != (len(query), len(key)) or len(query_length) != len(key_length):
        message = (
            f"lengths of {len(query_length)} and {len(key_length)} windows sum to {sum(query_length)} and "
            f"{sum(key_length)}, expected {len(query)} queries and {len(key)} keys"
        )
        raise DataError(message)
    live = [q > 0 and k > 0 for q, k in zip(query_length, key_length, strict=True)]
    if not all(live):
        return _without_empty(live, query, key, value, query_length, key_length, dropout, mask, backend)
    if not live:
        return torch.zeros_like(query)
    if isinstance(mask, Visible):
        if mask.shared is None:
            return _ordered(query, key, value, query_length, key_length, dropout, mask)
        mask = mask.shared
    uniform = len(set(query_length)) == 1 and len(set(key_length)) == 1
    if mask is not None and not uniform:
        message = "an attention mask needs windows of equal lengths"
        raise DataError(message)
    if mask is not None or (uniform and backend == "auto"):
        return _uniform(query, key, value, len(live), dropout, mask)
    name = _choose(query, query_length == key_length, dropout) if backend == "auto" else backend
    return ATTENTION[name](query, key, value, query_length, key_length, dropout)


def _choose(query: Tensor, is_self: bool, dropout: float) -> str:
    if query.device.type == "cpu":
        return "loop" if is_self else "bucket"
    if query.device.type != "cuda":
        return "padded"
    half = query.dtype in (torch.float16, torch.bfloat16)
    return "varlen" if half and dropout == 0 and _has_varlen(query.device) else "nested"


def _has_varlen(device: torch.device) -> bool:
    """torch's varlen kernel (FlashAttention: half precision, no dropout, compute capability 8 or later)."""
    there = importlib.util.find_spec("torch.nn.attention.varlen") is not None
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


def _without_empty(live, query, key, value, query_length, key_length, dropout, mask, backend) -> Tensor:
    """Attention where some windows have no queries or no keys: those are left out, and give zeros."""

    def rows(length: list[int]) -> Tensor:
        return torch.repeat_interleave(torch.tensor(live), torch.tensor(length)).to(query.device)

    def keep(length: list[int]) -> list[int]:
        return [n for n, is_live in zip(length, live, strict=True) if is_live]

    q, k = rows(query_length), rows(key_length)
    lengths = keep(query_length), keep(key_length)
    if isinstance(mask, Visible):
        mask = Visible.of(mask.query[q], mask.key[k], *lengths, band=mask.band, itself=mask.itself)
    part = attention(query[q], key[k], value[k], *lengths, dropout=dropout, mask=mask, backend=backend)
    return query.new_zeros(query.shape).masked_scatter(q[:, None, None], part)


@dataclass(frozen=True, eq=False)
class Visible:
    """Which keys a query sees: those of its window whose order is not above its own, or lies in a band around it.

    One rule for block-causal attention, bands and context: with its bin as order, a row sees the bins up to its own, or
    those of its band; rows with order :data:`FIRST` are seen by all and see only each other; a key with order
    :data:`NEVER` is seen by none.

    No mask of the whole batch is made: one of a window serves all where their orders are equal, else windows go one by
    one, each with its own.

    Args:
        query, key: int64 ``[Lq]`` and ``[Lk]``. shared: bool ``[Tq, Tk]`` where it is the same for every window.
        band: how far above and below its own order a query sees, both included; -1 for no limit, as
            :func:`band_mask`.
        itself: in self-attention, a row sees itself whatever its order, also one that no other sees.
    """

    query: Tensor
    key: Tensor
    shared: Tensor | None = None
    band: tuple[int, int] = (0, -1)
    itself: bool = False

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        query_length: Sequence[int],
        key_length: Sequence[int],
        *,
        band: tuple[int, int] = (0, -1),
        itself: bool = False,
    ) -> Visible:
        """The rule for windows of these lengths; computed once, it serves every layer."""
        shared = None
        if len(set(query_length)) == 1 and len(set(key_length)) == 1 and min(query_length[0], key_length[0]) > 0:
            q, k = (order.unflatten(0, (len(query_length), -1)) for order in (query, key))
            if bool((q == q[0]).all() & (k == k[0]).all()):
                shared = _sees(q[0], k[0], band, itself)
        return cls(query, key, shared, band, itself)


def _sees(query: Tensor, key: Tensor, band: tuple[int, int], itself: bool) -> Tensor:
    """bool ``[Tq, Tk]``, of the orders of one window."""
    forward, backward = band
    query = query[:, None]
    seen = key <= query + forward if forward >= 0 else (key != NEVER).expand(len(query), -1)
    if forward:
        seen = seen & ((key == FIRST) | (query != FIRST))
    if backward >= 0:
        seen = seen & ((key == FIRST) | (key >= query - backward))
    return seen | torch.eye(len(query), dtype=torch.bool, device=query.device) if itself else seen


def _ordered(query, key, value, query_length, key_length, dropout, visible: Visible) -> Tensor:
    """Window by window, each with the mask of its own rows."""
    queries = (t.split(query_length) for t in (query, visible.query))
    keys = (t.split(key_length) for t in (key, value, visible.key))
    return torch.cat(
        [
            _sdpa(q[None], k[None], v[None], dropout, _sees(q_order, k_order, visible.band, visible.itself))[0]
            for q, q_order, k, v, k_order in zip(*queries, *keys, strict=True)
        ]
    )


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, length: Sequence[int], *, dropout: float = 0.0
) -> Tensor:
    """:func:`attention` in which a row sees itself and the rows of its window before it; no mask is made.

    Args:
        query, key, value: ``[L, H, E]``. length: rows of each window; windows of one length go in one call.

    Returns:
        ``[L, H, E]``.
    """
    length = [n for n in length if n]
    rows = list(zip(*(t.split(length) for t in (query, key, value)), strict=True))
    if rows and len(set(length)) == 1:
        rows = [tuple(t.unflatten(0, (len(length), -1)) for t in (query, key, value))]
    else:
        rows = [tuple(t[None] for t in window) for window in rows]
    out = [_sdpa(*window, dropout, causal=True).flatten(0, 1) for window in rows]
    return torch.cat(out) if out else torch.zeros_like(query)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """``[B, L, H, E]`` in and out; torch wants the heads before the rows."""
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
    return out.transpose(1, 2)


def _uniform(query, key, value, n_windows: int, dropout: float, mask: Tensor | None) -> Tensor:
    q, k, v = (t.unflatten(0, (n_windows, -1)) for t in (query, key, value))
    return _sdpa(q, k, v, dropout, mask).flatten(0, 1)


def _loop(query, key, value, query_length, key_length, dropout) -> Tensor:
    """Window by window: no padding at all, one small call for each."""
    parts = zip(query.split(query_length), key.split(key_length), value.split(key_length), strict=True)
    return torch.cat([_sdpa(q[None], k[None], v[None], dropout)[0] for q, k, v in parts])


def _in_groups(query, key, value, query_length, key_length, dropout, size: int) -> Tensor:
    """Windows in order of their number of keys, ``size`` at a time, padded to the longest among them."""
    queries, keys, values = query.split(query_length), key.split(key_length), value.split(key_length)
    order = sorted(range(len(queries)), key=lambda b: key_length[b])
    out: list[Tensor] = [query] * len(queries)
    for first in range(0, len(order), size):
        group = order[first : first + size]
        q, k, v = (pad_sequence([rows[b] for b in group], batch_first=True) for rows in (queries, keys, values))
        mask = None
        if len({key_length[b] for b in group}) > 1:
            length = torch.tensor([key_length[b] for b in group], device=query.device)
            mask = (torch.arange(k.shape[1], device=query.device) < length[:, None])[:, None, None, :]
        attended = _sdpa(q, k, v, dropout, mask).unbind()
        for b, rows in zip(group, attended, strict=True):
            out[b] = rows[: query_length[b]]
    return torch.cat(out)


def _bucket(query, key, value, query_length, key_length, dropout) -> Tensor:
    return _in_groups(query, key, value, query_length, key_length, dropout, BUCKET)


def _padded(query, key, value, query_length, key_length, dropout) -> Tensor:
    """Every window padded to the longest of the batch, with a boolean mask, as most code of the field has it."""
    return _in_groups(query, key, value, query_length, key_length, dropout, len(query_length))


def _offset(length: list[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor([0, *np.cumsum(length).tolist()], device=device, dtype=dtype)


def _nested(query, key, value, query_length, key_length, dropout) -> Tensor:
    """Jagged nested tensors: torch picks a packed kernel on a GPU (any precision, dropout); right but slow on a CPU."""
    offsets = (_offset(length, query.device, torch.int64) for length in (query_length, key_length))
    q_offset, k_offset = offsets
    nested = [
        torch.nested.nested_tensor_from_jagged(t, o, min_seqlen=min(n), max_seqlen=max(n)).transpose(1, 2)
        for t, o, n in ((query, q_offset, query_length), (key, k_offset, key_length), (value, k_offset, key_length))
    ]
    return F.scaled_dot_product_attention(*nested, dropout_p=dropout).transpose(1, 2).values()


def _varlen(query, key, value, query_length, key_length, dropout) -> Tensor:
    """torch's FlashAttention over packed windows: half precision on a GPU."""
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        message = f"attention backend 'varlen' has no dropout, asked for is {dropout}: use backend 'nested'"
        raise UsageError(message)
    offsets = [_offset(length, query.device, torch.int32) for length in (query_length, key_length)]
    return varlen_attn(query, key, value, *offsets, max(query_length), max(key_length))


ATTENTION = {"loop": _loop, "bucket": _bucket, "padded": _padded, "nested": _nested, "varlen": _varlen}


# ---- time -----------------------------------------------------------------------------------------------------------


def in_float32(device: str) -> AbstractContextManager:
    """Without autocast; costs nothing where there is none, which a window that is decoded live would feel."""
    if device == "meta" or not torch.is_autocast_enabled(device):  # meta, where models are counted, has no autocast
        return nullcontext()
    return torch.autocast(device, enabled=False)


class RotaryTime(nn.Module):
    """Angles by which pairs of channels are turned, from times in seconds (RoPE over continuous time, as in POYO).

    Half of a head's pairs turn, with periods spaced evenly in log from ``t_min_s`` to ``t_max_s``, both included; the
    other pairs stand still. Pairs are adjacent channels.

    Args:
        dim_head: E, a multiple of 4.
    """

    def __init__(self, dim_head: int, t_min_s: float = 1e-4, t_max_s: float = 2.0627) -> None:
        super().__init__()
        if dim_head % 4 or dim_head <= 0 or not 0 < t_min_s < t_max_s:
            given = f"dim_head is {dim_head}, t_min_s {t_min_s}, t_max_s {t_max_s}"
            message = f"{given}: dim_head must be a multiple of 4, and 0 < t_min_s < t_max_s"
            raise UsageError(message)
        self.n_still = dim_head // 4
        # in float32, step by step as torch_brain, so that both compute the same phases (up to 2 pi * 10,000)
        share = torch.linspace(0, 1, dim_head // 4)
        low, high = torch.tensor(t_min_s).log(), torch.tensor(t_max_s).log()
        # no buffer: a model that is cast to half precision would round it
        self.omega = 2 * torch.pi / torch.lerp(low, high, share).exp()

    @torch.no_grad()
    def forward(self, time_s: Tensor) -> Tensor:
        """complex64 ``[L, E / 2]``: what :func:`rotate` multiplies by, for float32 seconds ``[L]``."""
        with in_float32(time_s.device.type):
            angle = time_s.float()[..., None] * self.omega.to(time_s.device)
            turn = torch.polar(torch.ones_like(angle), angle)
            return F.pad(turn, (0, self.n_still), value=1.0)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of ``x``, ``[..., E]``, by ``turn``, complex ``[..., E / 2]``, in float32.

    ``turn.conj()`` turns back.
    """
    with in_float32(x.device.type):
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def rotary_steps(step: Tensor, dim_head: int, base: float = 10_000.0) -> Tensor:
    """complex64 ``[L, E / 2]``: what :func:`rotate_halves` multiplies by, for whole steps ``[L]``.

    RoPE (Su et al. 2021): pair i turns by ``step * base ** (-2 i / E)``.
    """
    omega = base ** (-torch.arange(0, dim_head, 2, dtype=torch.float32, device=step.device) / dim_head)
    angle = step.float()[..., None] * omega
    return torch.polar(torch.ones_like(angle), angle)


def rotate_halves(x: Tensor, turn: Tensor) -> Tensor:
    """Turn channel i of ``x``, ``[..., E]``, with channel ``i + E / 2``, by ``turn``, complex ``[..., E / 2]``.

    In float32. The usual code of language models pairs channels so; :func:`rotate` pairs neighbours.
    """
    with in_float32(x.device.type):
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.complex(first, second) * turn
        return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


def sinusoidal_position(n: int, dim: int, first: int = 0) -> Tensor:
    """float32 ``[n, dim]``: sine and cosine in turn, wavelengths of 2 pi to 20,000 pi steps (Vaswani et al. 2017).

    Args:
        dim: an odd one has a cosine fewer. first: the first step, usually 0 or 1.
    """
    step = torch.arange(first, first + n, dtype=torch.float32)[:, None]
    angle = step * torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[:, :dim]


# ---- layers ---------------------------------------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """Rotary cross-attention, queries and context normalised before (LayerNorm), no biases but in the last projection.

    The projections are methods of their own, for a model that knows that many rows are equal before they are turned.

    Args:
        rotate_value: turn the values by the key's time, and the result back by the query's.
        dim_context: width of the context; ``dim`` by default.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dim_head: int,
        dropout: float = 0.0,
        *,
        rotate_value: bool,
        dim_context: int | None = None,
    ) -> None:
        super().__init__()
        dim_context = dim if dim_context is None else dim_context
        self.heads, self.dropout, self.rotate_value = heads, dropout, rotate_value
        self.norm_query = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim_context)
        self.to_query = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_key_value = nn.Linear(dim_context, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def query(self, x_LD: Tensor) -> Tensor:
        """``[L, H, E]``, not yet turned."""
        return self.to_query(self.norm_query(x_LD)).unflatten(-1, (self.heads, -1))

    def key_value(self, x_LD: Tensor) -> Tensor:
        """``[L, 2, H, E]``, not yet turned."""
        return self.to_key_value(self.norm_context(x_LD)).unflatten(-1, (2, self.heads, -1))

    def forward(
        self,
        query_LHE: Tensor,
        key_value_L2HE: Tensor,
        query_turn: Tensor,
        key_turn: Tensor,
        query_length: Sequence[int],
        key_length: Sequence[int],
    ) -> Tensor:
        """``[Lq, D]``, from projections; ``*_turn`` are :class:`RotaryTime`'s, ``[L, E / 2]``."""
        query = rotate(query_LHE, query_turn[:, None])
        if self.rotate_value:
            key, value = rotate(key_value_L2HE, key_turn[:, None, None]).unbind(1)
        else:
            key, value = key_value_L2HE.unbind(1)
            key = rotate(key, key_turn[:, None])
        out = _attended(self, query, key, value, query_length, key_length)
        if self.rotate_value:
            out = rotate(out, query_turn[:, None].conj())
        return self.to_out(out.flatten(-2))


class SelfAttention(nn.Module):
    """Rotary self-attention with turned values, normalised before, no biases but in the last projection."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def forward(self, x_LD: Tensor, turn: Tensor, length: Sequence[int]) -> Tensor:
        """``[L, D]``; ``turn`` is ``[L, E / 2]``, ``length`` the rows of each window."""
        qkv = self.to_qkv(self.norm(x_LD)).unflatten(-1, (3, self.heads, -1))
        query, key, value = rotate(qkv, turn[:, None, None]).unbind(1)
        out = _attended(self, query, key, value, length, length)
        return self.to_out(rotate(out, turn[:, None].conj()).flatten(-2))


def _attended(layer: CrossAttention | SelfAttention, query, key, value, query_length, key_length) -> Tensor:
    """Attention with the layer's dropout in training; on a CPU in float32 by :func:`dropped_attention`."""
    dropout = layer.dropout if layer.training else 0.0
    if dropout and query.device.type == "cpu" and query.dtype == torch.float32:
        return dropped_attention(query, key, value, query_length, key_length, dropout)
    return attention(query, key, value, query_length, key_length, dropout=dropout)


class GatedFeedForward(nn.Module):
    """LayerNorm, then a feed-forward layer with GEGLU (Shazeer 2020): ``x * gelu(gate)``, ``mult`` times as wide."""

    def __init__(self, dim: int, dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_hidden = nn.Linear(dim, 2 * mult * dim)
        self.dropout = Dropout(dropout)
        self.to_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.to_hidden(self.norm(x)).chunk(2, dim=-1)
        return self.to_out(self.dropout(hidden * F.gelu(gate)))


class ScaleNorm(nn.Module):
    """``g * x / |x|`` with one g for all channels (Nguyen and Salazar 2019); it starts at the root of ``dim``."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.tensor(math.sqrt(dim)))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale / x.norm(dim=-1, keepdim=True).clamp_min(self.eps))


ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class EncoderBlock(nn.Module):
    """The usual transformer encoder layer: attention, then a feed-forward layer, biases everywhere.

    Computes what ``nn.TransformerEncoderLayer`` does, on packed windows, and starts as it does.

    Args:
        hidden: width of the feed-forward layer.
        dropout: of attention weights, of the hidden layer and of both residual branches.
        pre_norm: normalise what goes into a branch; else the sum after it. activation: a name in ``ACTIVATIONS``.
        norm: makes a normalisation of a width.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float = 0.0,
        *,
        pre_norm: bool = True,
        activation: str = "relu",
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.heads, self.attention_dropout, self.pre_norm = heads, dropout, pre_norm
        self.activation = ACTIVATIONS[activation]
        self.norm_attention = norm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm_hidden = norm(dim)
        self.to_hidden = nn.Linear(dim, hidden)
        self.from_hidden = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.to_qkv.weight)
        nn.init.zeros_(self.to_qkv.bias)
        nn.init.zeros_(self.to_out.bias)

    def forward(
        self, x_LD: Tensor, length: Sequence[int], mask: Tensor | Visible | None = None, turn: Tensor | None = None
    ) -> Tensor:
        """``[L, D]``; ``mask`` as :func:`attention` takes it; ``turn`` of :func:`rotary_steps` for queries and keys."""
        if self.pre_norm:
            x_LD = x_LD + self._attend(self.norm_attention(x_LD), length, mask, turn)
            return x_LD + self._feed_forward(self.norm_hidden(x_LD))
        x_LD = self.norm_attention(x_LD + self._attend(x_LD, length, mask, turn))
        return self.norm_hidden(x_LD + self._feed_forward(x_LD))

    def _attend(
        self, x_LD: Tensor, length: Sequence[int], mask: Tensor | Visible | None, turn: Tensor | None
    ) -> Tensor:
        query, key, value = self.to_qkv(x_LD).unflatten(-1, (3, self.heads, -1)).unbind(1)
        if turn is not None:
            query, key = (rotate_halves(t, turn[:, None]) for t in (query, key))
        dropout = self.attention_dropout if self.training else 0.0
        out = attention(query, key, value, length, length, dropout=dropout, mask=mask)
        return self.dropout(self.to_out(out.flatten(-2)))

    def _feed_forward(self, x_LD: Tensor) -> Tensor:
        return self.dropout(self.from_hidden(self.dropout(self.activation(self.to_hidden(x_LD)))))


def scale_by_depth(layers: Sequence[EncoderBlock]) -> None:
    """Scale the weights of layers by 0.67 / n ** 0.25, those of values by the root of 2 more (T-Fixup, as MtM has it).

    Biases and normalisations stay.
    """
    scale = 0.67 * len(layers) ** -0.25
    with torch.no_grad():
        for layer in layers:
            for part in (layer.to_hidden, layer.from_hidden, layer.to_out):
                part.weight.mul_(scale)
            layer.to_qkv.weight[2 * layer.to_out.in_features :].mul_(scale * 2**0.5)


def band_mask(n_bins: int, forward: int, backward: int, device: torch.device | str = "cpu") -> Tensor | None:
    """bool ``[T, T]``: bin i attends to bins ``i - backward .. i + forward``, both included.

    Args:
        forward, backward: bins; -1 for no limit. Without any limit there is no mask: None.
    """
    if forward < 0 and backward < 0:
        return None
    step = torch.arange(n_bins, device=device)
    ahead = step[None, :] - step[:, None]
    if forward < 0:
        return ahead >= -backward
    return (ahead <= forward) & (ahead >= -backward) if backward >= 0 else ahead <= forward


# ---- names ----------------------------------------------------------------------------------------------------------


def module_key(name: str) -> str:
    """A name as torch takes it for a submodule or parameter: no dots, nothing else lost."""
    return quote(name, safe="/ ").replace(".", "%2E")
