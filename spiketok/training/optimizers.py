"""Optimizers, parameter groups and learning-rate schedules.

AdamW is torch's. LAMB is written out here, because POYO's recipe needs a variant that no package ships: no bias
correction, weight norm clamped to 10, and *sparse* groups, the tables of units and sessions.

LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), for a parameter p with gradient g::

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    u = m / (sqrt(v) + eps) + wd p
    p = p - lr * (min(|p|, 10) / |u|) * u        the ratio is 1 where either norm is 0

POYO's code (neuro-galaxy/torch_brain, examples/poyo/optim.py and train.py) and this module differ in four points. Its
way is taken with ``optim.reference_quirks`` and reproduces its numbers (tests/references/optimizer.py); the default is:

- rows of a table that are absent from a batch keep their moments. There they are set to 0, so a session that is seen in
  every tenth batch trains without momentum and with a second moment that is almost nothing, hence with larger steps;
- both norms of a table are of the rows that are present. There they are of the whole table, so the step of a session
  depends on how many other sessions the table holds, and shrinks as they become more;
- ``optim.betas`` is what it says. There OneCycleLR replaces the first beta by 0.95, 0.85, 0.95 over the training,
  because it cycles momentum unless told not to (``optim.cycle_beta1`` asks for that alone);
- a schedule of n steps is divided into n equal parts, of which each step has the first moment. There the last step
  stands at the end (``lr / 1e4``) and the rate falls from step n / 2 - 1, not n / 2. The difference is one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spiketok.errors import UnknownNameError
from spiketok.models.base import Model
from spiketok.training.config import OptimConfig

LAMB_EPS = 1e-6
LAMB_MAX_NORM = 10.0
ONECYCLE_FALL = 1e4  # the last learning rate of "onecycle" is the highest through this
CYCLED_BETA1 = (0.95, 0.85)  # while the rate is at its start or end, and where it begins to fall (torch's defaults)


class Lamb(torch.optim.Optimizer):
    """LAMB without bias correction.

    Args:
        params: parameters or groups; a group with ``sparse=True`` updates only rows whose gradient is not all zero,
            and takes both norms over those rows.
        lr, betas, eps, weight_decay: as in the formula above.
        reference_quirks: in sparse groups, set the moments of absent rows to 0 and take both norms over the whole
            table, as POYO's code.
    """

    def __init__(
        self,
        params,
        lr: float,
        betas=(0.9, 0.999),
        eps: float = LAMB_EPS,
        weight_decay: float = 0.0,
        reference_quirks: bool = False,
    ):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "sparse": False}
        super().__init__(params, defaults | {"reference_quirks": reference_quirks})

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
        if group["sparse"] and group["reference_quirks"]:
            absent = ~p.grad.reshape(len(p), -1).any(dim=1)
            _lamb_update(p, p.grad, state["m"], state["v"], group, absent)
        elif group["sparse"]:
            row = p.grad.reshape(len(p), -1).any(dim=1).nonzero().squeeze(1)
            parts = [t.index_select(0, row) for t in (p, p.grad, state["m"], state["v"])]
            _lamb_update(*parts, group)
            for whole, part in zip((p, state["m"], state["v"]), (parts[0], parts[2], parts[3]), strict=True):
                whole.index_copy_(0, row, part)
        else:
            _lamb_update(p, p.grad, state["m"], state["v"], group)


def _lamb_update(p: Tensor, g: Tensor, m: Tensor, v: Tensor, group: dict, absent: Tensor | None = None) -> None:
    """One step of the formula, in place on p, m and v; ``absent`` rows stay where they are and lose their moments."""
    beta1, beta2 = group["betas"]
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if absent is not None:
        m[absent], v[absent] = 0, 0
    u = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
    p_norm, u_norm = p.norm().clamp(max=LAMB_MAX_NORM), u.norm()
    ratio = torch.where((p_norm > 0) & (u_norm > 0), p_norm / u_norm, torch.ones_like(p_norm))
    if absent is not None:
        u[absent] = 0
    p.sub_(group["lr"] * ratio * u)


def table_parameters(model: Model) -> list[nn.Parameter]:
    """The tables (embeddings) and whatever belongs to single sessions: sparse under LAMB, never decayed by AdamW."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)] + list(model.identity_parameters())
    return list({id(p): p for p in found}.values())


def build_optimizer(model: Model, config: OptimConfig, parameters: list[nn.Parameter] | None = None):
    """The optimizer over a model's trainable parameters (or the given ones of them).

    AdamW decays matrices only: no norm, bias or table. LAMB decays everything, as POYO's, with the tables sparse.
    Parameters of one factor of ``optim.group_lr`` are groups of their own, whose ``lr_factor`` it is.

    Raises:
        UnknownNameError: no parameter's name begins as a key of ``optim.group_lr``.
    """
    chosen = parameters if parameters is not None else list(model.parameters())
    chosen = [p for p in chosen if p.requires_grad]
    tables = {id(p) for p in table_parameters(model)}
    table = [p for p in chosen if id(p) in tables]
    rest = [p for p in chosen if id(p) not in tables]
    if config.name == "lamb":
        groups = [{"params": rest}, {"params": table, "sparse": True}]
    else:
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1] + table, "weight_decay": 0.0},
        ]
    factor = lr_factors(model, config.group_lr)
    groups = [part for group in groups for part in _by_factor(group, factor) if part["params"]]
    if config.name == "lamb":
        quirks = config.reference_quirks
        return Lamb(groups, config.lr, config.betas, weight_decay=config.weight_decay, reference_quirks=quirks)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def lr_factors(model: nn.Module, group_lr: Mapping[str, float]) -> dict[int, float]:
    """The factor on the learning rate of each parameter, by its ``id``: that of the longest beginning of its name.

    Raises:
        UnknownNameError: no parameter's name begins so, in whole parts between dots.
    """
    parts = {id(p): f"{name}." for name, p in model.named_parameters()}
    for prefix in group_lr:
        if not any(name.startswith(f"{prefix}.") for name in parts.values()):
            known = {name[:k] for name in parts.values() for k, letter in enumerate(name) if letter == "."}
            raise UnknownNameError("parameter", prefix, known, "optim.group_lr")
    longest = sorted(group_lr, key=len, reverse=True)
    return {
        p: next((group_lr[prefix] for prefix in longest if name.startswith(f"{prefix}.")), 1.0)
        for p, name in parts.items()
    }


def _by_factor(group: dict, factor: Mapping[int, float]) -> list[dict]:
    """A group, divided by the factor of its parameters, those of factor 1 first."""
    parts: dict[float, list[nn.Parameter]] = {1.0: []}
    for p in group["params"]:
        parts.setdefault(factor.get(id(p), 1.0), []).append(p)
    return [{**group, "params": params, "lr_factor": value} for value, params in parts.items()]


# ---- schedules: pure functions of the step, so a resume needs no state -----------------------------------------------


def set_rates(
    optimizer: torch.optim.Optimizer, step: int, total: int, config: OptimConfig, steps_per_epoch: int | None = None
) -> float:
    """Give each group of an optimizer the learning rate (times its ``lr_factor``) and the betas of a step.

    Returns:
        the learning rate, of groups without a factor. Arguments as :func:`lr_at`.
    """
    lr, betas = lr_at(step, total, config, steps_per_epoch), betas_at(step, total, config)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
        if "betas" in group:
            group["betas"] = betas
    return lr


def lr_at(step: int, total: int, config: OptimConfig, steps_per_epoch: int | None = None) -> float:
    """The learning rate of step ``step`` (from 0) out of ``total``.

    Args:
        steps_per_epoch: what ``optim.warmup_epochs`` is measured in.
    """
    warmup = _warmup_steps(total, config, steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "onecycle":
        falling, done, length = _onecycle_phase(step, total, config)
        return _cosine(config.lr, config.lr / ONECYCLE_FALL, done, length) if falling else config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def betas_at(step: int, total: int, config: OptimConfig) -> tuple[float, float]:
    """The betas of a step: ``optim.betas``, or with the first one cycled in "onecycle"."""
    if config.schedule != "onecycle" or not (config.cycle_beta1 or config.reference_quirks):
        return config.betas
    falling, done, length = _onecycle_phase(step, total, config)
    start, stop = reversed(CYCLED_BETA1) if falling else CYCLED_BETA1
    return _cosine(start, stop, done, length), config.betas[1]


def _warmup_steps(total: int, config: OptimConfig, steps_per_epoch: int | None) -> int:
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_epochs is not None:
        if steps_per_epoch is None:
            message = "optim.warmup_epochs needs the number of steps of an epoch"
            raise ValueError(message)
        return round(config.warmup_epochs * steps_per_epoch)
    return round(config.warmup * total) if config.schedule == "cosine" else 0


def _onecycle_phase(step: int, total: int, config: OptimConfig) -> tuple[bool, float, float]:
    """Whether the rate falls, how many steps of that phase are done, and how long it is."""
    turn = config.pct_start * total
    if config.reference_quirks:  # torch's OneCycleLR: each phase ends on a step, the second one on the last
        turn, length = turn - 1, total - config.pct_start * total
        return (True, step - turn, length) if step > turn else (False, step, turn)
    return (True, step - turn, max(total - turn, 1)) if step >= turn else (False, step, turn)


def _cosine(start: float, stop: float, done: float, length: float) -> float:
    """From start to stop along half a cosine; at the start where it has no length."""
    return stop + (start - stop) * 0.5 * (1 + math.cos(math.pi * done / length)) if length > 0 else start
