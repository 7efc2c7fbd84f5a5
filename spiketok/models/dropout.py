"""Dropout whose mask is cheap on a CPU, alone and of attention weights.

What is unusual:

- torch draws a CPU's masks value by value, 7 ns each, which was a third of a training step of POYO; here random words
  are drawn and read as 16-bit numbers, four values a word, so that a rate is met to 1 / 65,536;
- attention with dropout goes window by window, so that a window's weights stay in the cache, and a dropped weight is
  kept as its negative: no mask is stored for the backward pass.

Devices other than a CPU, and evaluation, go by torch's own functions.

Shape letters: L rows, H heads, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

STEPS = 1 << 16  # a rate is a whole number of these


def kept(shape: Sequence[int], rate: float) -> tuple[Tensor, float]:
    """Which values of a shape stay, bool, and the probability with which each does; from torch's global generator.

    Args:
        rate: of dropping, met to half of 1 / 65,536.

    >>> kept((2, 3), 0.0)[0].all().item()
    True
    """
    dropped = round(rate * STEPS)
    n = torch.Size(shape).numel()
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    drawn = words.view(torch.int16)[:n].view(*shape)
    return drawn >= dropped - STEPS // 2, 1 - dropped / STEPS


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
        stays, share = kept(x.shape, self.rate)
        return x * stays.to(x.dtype).mul_(1 / share)


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
        scale = query.shape[-1] ** -0.5
        signed = []
        for rows, q, k, v in _windows(query, key, value, query_length, key_length):
            weight = _scaled(q, k.transpose(1, 2), scale)
            torch.softmax(weight, -1, out=weight)
            stays, share = kept(weight.shape, dropout)
            weight *= stays.to(weight.dtype).mul_(2).sub_(1)  # dropped ones turn negative
            signed.append(weight)
            out[rows] = _scaled(weight.relu(), v, 1 / share).transpose(0, 1)
        ctx.save_for_backward(query, key, value, out, *signed)
        ctx.lengths, ctx.scale, ctx.share = (query_length, key_length), scale, share
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor):
        query, key, value, out, *signed = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (query, key, value)]
        dot = (grad * out).sum(-1)  # [Lq, H]: what the softmax takes off each row
        parts = _windows(query, key, value, *ctx.lengths)
        slots = _windows(*grads, *ctx.lengths)
        for (rows, q, k, v), (_, dq, dk, dv), weight in zip(parts, slots, signed, strict=True):
            above = grad[rows].transpose(0, 1)
            used = weight.relu()
            dv.copy_(_scaled(used.transpose(1, 2), above, 1 / ctx.share))
            # dS = P * (stays * dP / share - dot); |signed| is P, and P * stays is ``used``
            score = _scaled(above, v.transpose(1, 2), 1 / ctx.share)
            score.mul_(used).sub_(weight.abs().mul_(dot[rows].transpose(0, 1)[..., None]))
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
