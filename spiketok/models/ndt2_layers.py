"""The layers of NDT2: rows of windows that see by their order, stacks of them, and queries that read others.

Rows lie packed, one window behind the other. Context (what belongs to a whole window) stands behind a window's rows; it
is seen by all of them and sees itself alone.

Shape letters: B windows, L rows, D width, C context rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from spiketok.models.nn import FIRST, EncoderBlock, Visible, attention, sinusoidal_position


class LayersConfig(Protocol):
    """What layers need of the model's Config."""

    dim: int
    heads: int
    ffn_factor: float
    dropout: float
    pre_norm: bool
    decoder_layers: int
    max_bins: int
    local_start: bool


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of windows, packed one window behind the other.

    Args:
        window, time: int64 ``[L]``; time is the bin. space: the patch, or None.
        query, key: int64 ``[L]``, orders of :class:`Visible`. length: rows of each window.
    """

    window: Tensor
    time: Tensor
    space: Tensor | None
    query: Tensor
    key: Tensor
    length: list[int]

    def take(self, chosen: Tensor) -> Rows:
        """Those that are True in a bool ``[L]``."""
        space = None if self.space is None else self.space[chosen]
        length = torch.bincount(self.window[chosen], minlength=len(self.length)).tolist()
        return Rows(self.window[chosen], self.time[chosen], space, self.query[chosen], self.key[chosen], length)


def together(parts: Sequence[Rows]) -> tuple[Rows, Tensor, Tensor]:
    """All rows window by window; which of the parts' rows in line each is, int64 ``[L]``; and where each of them went.

    ``cat(parts)[row]`` are the rows of windows, ``rows[place]`` the parts in line again.
    """
    window = torch.cat([part.window for part in parts])
    row = torch.argsort(window, stable=True)
    time, query, key = (torch.cat([getattr(p, n) for p in parts])[row] for n in ("time", "query", "key"))
    length = [sum(own) for own in zip(*(part.length for part in parts), strict=True)]
    return Rows(window[row], time, None, query, key, length), row, torch.argsort(row)


def _context_rows(context_BCD: Tensor) -> Rows:
    """Rows that all see and that see each other alone."""
    n_windows, n_rows, _ = context_BCD.shape
    window = torch.arange(n_windows, device=context_BCD.device).repeat_interleave(n_rows)
    first = torch.full_like(window, FIRST)
    return Rows(window, torch.zeros_like(window), None, first, first, [n_rows] * n_windows)


def _table_of_bins(config: LayersConfig) -> nn.Embedding:
    """A learned row a bin: drawn from N(0, 1), or sines and cosines, of which neighbours are alike from the start."""
    table = nn.Embedding(config.max_bins, config.dim)
    if config.local_start:
        with torch.no_grad():
            table.weight.copy_(sinusoidal_position(config.max_bins, config.dim))
    return table


def _attend_to_what_stands_alike(layers: nn.ModuleList) -> None:
    """Keys start with the weights of queries: what has a near bin and the same patch is seen first."""
    with torch.no_grad():
        for layer in layers:
            query, key, _ = layer.to_qkv.weight.chunk(3)
            key.copy_(query)


class Stack(nn.Module):
    """Encoder layers over rows and the context of their windows, with tables of bins and patches of its own."""

    def __init__(self, config: LayersConfig, n_layers: int, n_space: int) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.ffn_factor)
        self.time = _table_of_bins(config)
        self.space = nn.Embedding(n_space, dim) if n_space else None
        self.layers = nn.ModuleList(
            EncoderBlock(dim, config.heads, hidden, config.dropout, pre_norm=config.pre_norm, activation="gelu")
            for _ in range(n_layers)
        )
        if config.local_start:
            _attend_to_what_stands_alike(self.layers)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(dim) if config.pre_norm else nn.Identity()

    def forward(self, x_LD: Tensor, rows: Rows, context_BCD: Tensor) -> Tensor:
        """``[L, D]``; the context is left out of what comes back."""
        x = self.dropout(x_LD) + self.time(rows.time)
        if self.space is not None:
            x = x + self.space(rows.space)
        every, row, place = together([rows, _context_rows(context_BCD)])
        visible = Visible.of(every.query, every.key, every.length, every.length)
        x = torch.cat([x, context_BCD.flatten(0, 1)])[row]
        for layer in self.layers:
            x = layer(x, every.length, visible)
        return self.norm(self.dropout(x[place[: len(x_LD)]]))


class _Read(nn.Module):
    """Queries attend to other rows, then to each other, then a feed-forward layer: the reference's flipped decoder."""

    def __init__(self, config: LayersConfig) -> None:
        super().__init__()
        dim, self.heads, self.pre_norm, self.attention_dropout = (
            config.dim, config.heads, config.pre_norm, config.dropout,
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)
        self.to_query, self.to_key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        hidden = int(dim * config.ffn_factor)
        self.rest = EncoderBlock(dim, config.heads, hidden, config.dropout, pre_norm=config.pre_norm, activation="gelu")
        bound = math.sqrt(6 / (dim + 3 * dim))  # as torch's attention, which keeps the three in one matrix
        for part in (self.to_query, self.to_key_value):
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.zeros_(part.bias)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x_LD: Tensor, memory: Tensor, length, memory_length, seen: Visible, among: Visible) -> Tensor:
        query = self.to_query(self.norm(x_LD) if self.pre_norm else x_LD).unflatten(-1, (self.heads, -1))
        key, value = self.to_key_value(memory).unflatten(-1, (2, self.heads, -1)).unbind(1)
        dropout = self.attention_dropout if self.training else 0.0
        out = attention(query, key, value, length, memory_length, dropout=dropout, mask=seen)
        x_LD = x_LD + self.dropout(self.to_out(out.flatten(-2)))
        return self.rest(x_LD if self.pre_norm else self.norm(x_LD), length, among)


class Reader(nn.Module):
    """Queries, placed by their bin, that read features and context; what they read is causal in any case."""

    def __init__(self, config: LayersConfig) -> None:
        super().__init__()
        self.time = _table_of_bins(config)
        self.layers = nn.ModuleList(_Read(config) for _ in range(config.decoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.dim) if config.pre_norm else nn.Identity()

    def forward(self, x_LD: Tensor, queries: Rows, features: Tensor, rows: Rows, context_BCD: Tensor) -> Tensor:
        memory, row, _ = together([rows, _context_rows(context_BCD)])
        by_bin = torch.where(memory.key == FIRST, FIRST, memory.time)
        features = torch.cat([features, context_BCD.flatten(0, 1)])[row]
        seen = Visible.of(queries.time, by_bin, queries.length, memory.length)
        among = Visible.of(queries.query, queries.key, queries.length, queries.length)
        x = self.dropout(x_LD) + self.time(queries.time)
        for layer in self.layers:
            x = layer(x, features, queries.length, memory.length, seen, among)
        return self.norm(self.dropout(x))
