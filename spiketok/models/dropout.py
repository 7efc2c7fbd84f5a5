"""Dropout whose mask is cheap on a CPU, alone and of attention weights.

What is unusual:

- torch draws a CPU's masks value by value, 7 ns each, which was a third of a training step of POYO; here random words
  are drawn by numpy and read as 16-bit numbers, four values a word, so that a rate is met to 1 / 65,536; no mask of
  bools is made of them (torch compares and converts slowly), but numbers whose sign says what stays;
- attention with dropout goes window by window, so that a window's weights stay in the cache, and a dropped weight is
  kept as its negative: no mask is stored for the backward pass.

Devices other than a CPU, and evaluation, go by torch's own functions.

Shape letters: L rows, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

STEPS = 1 << 16  # a rate is a whole number of these


def words() -> np.random.SFC64:
    """A source of random words, two to three times as fast as torch's; its seed is drawn from torch's generator."""
    return np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))


def share_kept(rate: float) -> float:
    """The probability with which a value stays: 1 - rate, to half of 1 / 65,536."""
    return 1 - round(rate * STEPS) / STEPS


def margin(shape: Sequence[int], rate: float, source: np.random.SFC64) -> Tensor:
    """float32 of a shape: 0.5 or more where a value stays, -0.5 or less where it is dropped.

    >>> (margin((2, 3), 0.0, words()) >= 0.5).all().item()
    True
    """
    n = torch.Size(shape).numel()
    drawn = torch.from_numpy(source.random_raw(-(-n // 4)).view(np.int16))[:n]
    return drawn.to(torch.float32).add_(STEPS // 2 - round(rate * STEPS) + 0.5).view(*shape)


class Dropout(nn.Module):
    """``nn.Dropout``, with the cheap mask in training on a CPU.

    Args:
        rate: probability of a zero; others are scaled by its inverse.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def extra_repr(self) -> str:
        return f"{self.rate}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        # 0 where dropped, else half: doubled, and divided by the share that stays
        factor = margin(x.shape, self.rate, words()).clamp_(0, 0.5).mul_(2 / share_kept(self.rate))
        return x * factor.to(x.dtype)


def dropped_attention(
    query: Tensor, key: Tensor, value: Tensor, query_length: Sequence[int], key_length: Sequence[int], dropout: float
) -> Tensor:
    """Softmax attention of packed windows on a CPU, weights dropped with probability ``dropout``.

    Args:
        query: ``[Lq, H, E]``. key, value: ``[Lk, H, E]``. query_length, key_length: rows of each window, above 0.

    Returns:
        ``[Lq, H, E]``.
    """
    return _DroppedAttention.apply(query, key, value, tuple(query_length), tuple(key_length), dropout)


class _DroppedAttention(torch.autograd.Function):
    """Saves the weights, negative where they were dropped."""

    @staticmethod
    def forward(ctx: FunctionCtx, query, key, value, query_length, key_length, dropout) -> Tensor:
        out = torch.empty_like(query)
        scale, share, source = query.shape[-1] ** -0.5, share_kept(dropout), words()
        signed = []
        for rows, q, k, v in _windows(query, key, value, query_length, key_length):
            weight = _scaled(q, k.transpose(1, 2), scale)
            torch.softmax(weight, -1, out=weight)
            torch.copysign(weight, margin(weight.shape, dropout, source), out=weight)  # dropped ones turn negative
            signed.append(weight)
            out[rows] = _scaled(weight.relu(), v, 1 / share).transpose(0, 1)
        ctx.save_for_backward(query, key, value, *signed)
        ctx.lengths, ctx.scale, ctx.share = (query_length, key_length), scale, share
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor):
        query, key, value, *signed = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (query, key, value)]
        parts = _windows(query, key, value, *ctx.lengths)
        slots = _windows(*grads, *ctx.lengths)
        for (rows, q, k, v), (_, dq, dk, dv), weight in zip(parts, slots, signed, strict=True):
            above = grad[rows].transpose(0, 1)
            dv.copy_(_scaled(weight.relu().transpose(1, 2), above, 1 / ctx.share))
            score = _scaled(above, v.transpose(1, 2), 1 / ctx.share)
            torch.ops.aten.threshold_backward.grad_input(score, weight, 0, grad_input=score)  # 0 where dropped
            score = torch.ops.aten._softmax_backward_data(score, weight.abs(), -1, score.dtype)
            dq.copy_(_scaled(score, k, ctx.scale))
            dk.copy_(_scaled(score.transpose(1, 2), q, ctx.scale))
        return *grads, None, None, None


def _scaled(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """``factor * a @ b``, window weights touched once."""
    return torch.baddbmm(a.new_empty(1, 1, 1), a, b, beta=0, alpha=factor)


def _windows(query: Tensor, key: Tensor, value: Tensor, query_length: Sequence[int], key_length: Sequence[int]):
    """For each window its rows among the queries, and its queries, keys and values as ``[H, L, E]`` views."""
    first_q = first_k = 0
    for n_q, n_k in zip(query_length, key_length, strict=True):
        rows = slice(first_q, first_q + n_q)
        keys = slice(first_k, first_k + n_k)
        yield rows, query[rows].transpose(0, 1), key[keys].transpose(0, 1), value[keys].transpose(0, 1)
        first_q, first_k = first_q + n_q, first_k + n_k
