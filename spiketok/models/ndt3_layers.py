"""NDT3's layers: a causal transformer with rotary bins, normalised queries and keys, and a gated feed-forward layer.

It runs over whole sequences, or over a few rows at a time with the keys and values of those before (:class:`Cache`).

Shape letters: L rows, D width, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.models.nn import attention, causal_attention, rotary_steps, rotate_halves

GATED_MULTIPLE = 256  # the gated feed-forward layer of flash-attn rounds its width up to so many

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, and query, key, value [L, H, E]; gives [L, H, E]


class LayersConfig(Protocol):
    """What layers need of the model's Config."""

    dim: int
    layers: int
    heads: int
    ffn_factor: float
    dropout: float
    activation: Literal["swiglu", "gelu"]
    qk_norm: bool
    norm_affine: bool
    reference_quirks: bool


class Cache:
    """Keys and values of the rows that windows of one layout have seen so far; all of them step together.

    Args:
        n_windows: how many. n_rows: of each window in the end.
    """

    def __init__(self, n_windows: int, n_rows: int) -> None:
        self.n_windows, self.n_rows = n_windows, n_rows
        self.first = 0  # of the rows to come
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The next rows of every window see themselves in order, and all rows before; they are kept for the next."""
        query, key, value = (t.unflatten(0, (self.n_windows, -1)) for t in (query, key, value))
        n, stop = query.shape[1], self.first + query.shape[1]
        if layer not in self._held:
            shape = (self.n_windows, self.n_rows, *key.shape[2:])
            self._held[layer] = key.new_empty(shape), value.new_empty(shape)
        for held, fresh in zip(self._held[layer], (key, value), strict=True):
            held[:, self.first : stop] = fresh
        keys, values = (held[:, :stop].flatten(0, 1) for held in self._held[layer])
        place = torch.arange(stop, device=query.device)
        mask = place <= place[self.first :, None] if n > 1 else None
        lengths = [n] * self.n_windows, [stop] * self.n_windows
        return attention(query.flatten(0, 1), keys, values, *lengths, mask=mask)

    def advance(self, n: int) -> None:
        """All layers have seen the next n rows."""
        self.first += n


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised before."""

    def __init__(self, config: LayersConfig) -> None:
        super().__init__()
        dim, self.heads, self.gated = config.dim, config.heads, config.activation == "swiglu"
        hidden, affine = int(dim * config.ffn_factor), config.norm_affine
        if self.gated:
            hidden = -(-hidden // GATED_MULTIPLE) * GATED_MULTIPLE
        self.norm_attention = nn.LayerNorm(dim, elementwise_affine=affine)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        if config.qk_norm:
            self.norm_query, self.norm_key = (nn.LayerNorm(dim // config.heads, bias=affine) for _ in range(2))
        else:
            self.norm_query = self.norm_key = nn.Identity()
        self.to_out = nn.Linear(dim, dim)
        self.norm_hidden = nn.LayerNorm(dim, elementwise_affine=affine)
        self.to_hidden = nn.Linear(dim, 2 * hidden if self.gated else hidden)
        self.from_hidden = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, x_LD: Tensor, turn: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """``[L, D]``; ``turn`` is that of :func:`spiketok.models.nn.rotary_steps`."""
        query, key, value = self.to_qkv(self.norm_attention(x_LD)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        query, key = (
            rotate_halves(norm(t), turn[:, None]).to(value.dtype)
            for norm, t in ((self.norm_query, query), (self.norm_key, key))
        )
        return self.to_out(attend(query, key, value).flatten(-2))

    def feed_forward(self, x_LD: Tensor) -> Tensor:
        hidden = self.to_hidden(self.norm_hidden(x_LD))
        if self.gated:
            hidden, gate = hidden.chunk(2, dim=-1)
            return self.from_hidden(hidden * F.silu(gate))
        return self.from_hidden(F.gelu(hidden))


class Stack(nn.Module):
    """The layers with the table of places."""

    def __init__(self, config: LayersConfig, n_space: int) -> None:
        super().__init__()
        self.attention_dropout, self.quirks = config.dropout, config.reference_quirks
        self.dim_head = config.dim // config.heads
        self.space = nn.Embedding(n_space, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=config.norm_affine)

    def forward(self, x_LD: Tensor, space: Tensor, time: Tensor, attend: Attend) -> Tensor:
        """``[L, D]``; ``space`` int64 ``[L]`` rows of the table, ``time`` int64 ``[L]`` bins.

        Args:
            attend: :meth:`whole` of the windows' lengths, or that of a cache.
        """
        x = self.dropout(x_LD + self.space(space))
        turn = rotary_steps(time, self.dim_head)
        branch = x
        for k, block in enumerate(self.blocks):
            x = x + self.dropout(block.attend(x, turn, lambda q, k_, v, layer=k: attend(layer, q, k_, v)))
            branch = block.feed_forward(x)
            if k + 1 == len(self.blocks) and self.quirks:
                return branch  # differs from every other: there the sum and its norm are left out
            x = x + self.dropout(branch)
        return self.norm(x)

    def whole(self, length: Sequence[int]) -> Attend:
        """Attention of windows of these lengths, one behind the other."""
        dropout = self.attention_dropout if self.training else 0.0
        return lambda _, query, key, value: causal_attention(query, key, value, length, dropout=dropout)
