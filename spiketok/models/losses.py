"""Losses that models share. Absent data never count: every mean runs over what is valid, and is 0 where nothing is.

Shape letters: Q query times, C components, T bins, N units.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over components per query, then the weighted mean over queries (POYO's loss); 0 where all weights are 0.

    Args:
        prediction, target: ``[Q, C]``.
        weight: ``[Q]``, not negative. What stands at a query of weight 0 has no influence, not even NaN.
    """
    used = weight > 0
    error = torch.where(used[:, None], prediction - target, 0.0).square().mean(dim=-1)
    return (weight * error).sum() / weight.sum().clamp_min(torch.finfo(error.dtype).tiny)


def poisson_log_rate(log_rate: Tensor, count: Tensor, scored: Tensor) -> Tensor:
    """Mean of ``exp(z) - y z`` over the scored elements (the Poisson loss without ``log y!``); 0 where none is scored.

    Args:
        log_rate: z, float ``[T, N]``, ln of expected spikes per bin.
        count: y, ``[T, N]``.
        scored: bool, of a shape that broadcasts to ``[T, N]``; for masked models what is hidden and observed.
    """
    scored = scored.expand_as(log_rate)
    z = torch.where(scored, log_rate.float(), 0.0)
    term = torch.where(scored, z.exp() - count * z, 0.0)
    return term.sum() / scored.sum().clamp_min(1)
