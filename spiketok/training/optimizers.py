"""Optimizers, parameter groups and learning-rate schedules.

AdamW is torch's. LAMB is written out here, because POYO's recipe needs a variant that no package ships: no bias
correction, weight norm clamped to 10, and *sparse* groups, in which rows of a table that got no gradient keep their
values and their moments, so that the units of sessions absent from a batch do not drift with stale momentum.

LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), for a parameter p with gradient g::

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    u = m / (sqrt(v) + eps) + wd p
    p = p - lr * (min(|p|, 10) / |u|) * u        the ratio is 1 where either norm is 0
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spiketok.models.base import Model
from spiketok.training.config import OptimConfig

LAMB_EPS = 1e-6
LAMB_MAX_NORM = 10.0


class Lamb(torch.optim.Optimizer):
    """LAMB without bias correction.

    Args:
        params: parameters or groups; a group with ``sparse=True`` updates only rows whose gradient is not all zero,
            and takes both norms over those rows.
        lr, betas, eps, weight_decay: as in the formula above.
    """

    def __init__(self, params, lr: float, betas=(0.9, 0.999), eps: float = LAMB_EPS, weight_decay: float = 0.0):
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "sparse": False}
        )

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
        if group["sparse"]:
            row = p.grad.reshape(len(p), -1).any(dim=1).nonzero().squeeze(1)
            parts = [t.index_select(0, row) for t in (p, p.grad, state["m"], state["v"])]
            _lamb_update(*parts, group)
            for whole, part in zip((p, state["m"], state["v"]), (parts[0], parts[2], parts[3]), strict=True):
                whole.index_copy_(0, row, part)
        else:
            _lamb_update(p, p.grad, state["m"], state["v"], group)


def _lamb_update(p: Tensor, g: Tensor, m: Tensor, v: Tensor, group: dict) -> None:
    """One step of the formula, in place on p, m and v."""
    beta1, beta2 = group["betas"]
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    u = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
    p_norm, u_norm = p.norm().clamp(max=LAMB_MAX_NORM), u.norm()
    ratio = torch.where((p_norm > 0) & (u_norm > 0), p_norm / u_norm, torch.ones_like(p_norm))
    p.sub_(group["lr"] * ratio * u)


def table_parameters(model: Model) -> list[nn.Parameter]:
    """The tables (embeddings) and whatever belongs to single sessions: sparse under LAMB, never decayed by AdamW."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)] + list(model.identity_parameters())
    return list({id(p): p for p in found}.values())


def build_optimizer(model: Model, config: OptimConfig, parameters: list[nn.Parameter] | None = None):
    """The optimizer over a model's trainable parameters (or the given ones of them).

    AdamW decays matrices only: no norm, bias or table. LAMB decays everything, as POYO's, with the tables sparse.
    """
    chosen = parameters if parameters is not None else list(model.parameters())
    chosen = [p for p in chosen if p.requires_grad]
    tables = {id(p) for p in table_parameters(model)}
    table = [p for p in chosen if id(p) in tables]
    rest = [p for p in chosen if id(p) not in tables]
    if config.name == "lamb":
        groups = [{"params": rest}, {"params": table, "sparse": True}]
        groups = [group for group in groups if group["params"]]
        return Lamb(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1] + table, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas)


def lr_at(step: int, total: int, config: OptimConfig) -> float:
    """The learning rate of step ``step`` (from 0) out of ``total``: a pure function, so a resume needs no state."""
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "onecycle":
        half = 0.5 * total
        if step < half:
            return config.lr
        low = config.lr / 1e4
        return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * (step - half) / max(total - half, 1)))
    warmup = round(config.warmup * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
