"""Optimizers, parameter groups and learning-rate schedules.

AdamW is torch's, with the rows of tables moved when they are needed (:class:`AdamW`). LAMB is written out here, because
POYO's recipe needs a variant that no package ships: no bias correction, weight norm clamped to 10, and *sparse* groups,
the tables of units and sessions. Of a table, a step of either costs what the rows of its batch cost; in LAMB each
session's rows are a parameter of their own, whatever table they lie in.

LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), for a parameter p with gradient g::

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    u = m / (sqrt(v) + eps) + wd p
    p = p - lr * (min(|p|, 10) / |u|) * u        the ratio is 1 where either norm is 0

POYO's code (neuro-galaxy/torch_brain, examples/poyo/optim.py and train.py) and this module differ in four points. Its
way is taken with ``optim.reference_quirks`` and reproduces its numbers (tests/references/optimizer.py); the default is:

- rows of a table that are absent from a batch keep their moments. There they are set to 0, so a session that is seen in
  every tenth batch trains without momentum and with a second moment that is almost nothing, hence with larger steps;
- both norms are of the rows that are present, by session. There they are of the whole table, so the step of a session
  depends on how many other sessions the table holds, and shrinks as they become more (with the quirks they are of all
  rows of a session: one session's training is the reference's);
- ``optim.betas`` is what it says. There OneCycleLR replaces the first beta by 0.95, 0.85, 0.95 over the training,
  because it cycles momentum unless told not to (``optim.cycle_beta1`` asks for that alone);
- a schedule of n steps is divided into n equal parts, of which each step has the first moment. There the last step
  stands at the end (``lr / 1e4``) and the rate falls from step n / 2 - 1, not n / 2. The difference is one step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spiketok.errors import UnknownNameError, UsageError
from spiketok.models.base import Model
from spiketok.models.vocabulary import Vocabulary
from spiketok.training.sections import OptimConfig
from spiketok.training.tables import LazyRows, rows_of, tables_of

LAMB_EPS = 1e-6
LAMB_MAX_NORM = 10.0
ONECYCLE_FALL = 1e4  # the last learning rate of "onecycle" is the highest through this
CYCLED_BETA1 = (0.95, 0.85)  # while the rate is at its start or end, and where it begins to fall (torch's defaults)


class AdamW(torch.optim.AdamW):
    """torch's AdamW; the rows of tables that a batch does not hold are moved when they are needed (:class:`LazyRows`).

    Args:
        params: as torch's; groups of tables have no weight decay.
        tables: those whose weights are among them.
    """

    def __init__(self, params, lr: float, betas=(0.9, 0.999), *, tables: Sequence[Vocabulary] = ()) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas))
        of = {id(table.weight): table for table in tables}
        self._lazy: dict[nn.Parameter, LazyRows] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if id(p) in of:
                    if group["weight_decay"]:
                        message = f"a table has weight decay {group['weight_decay']}: its absent rows know none"
                        raise ValueError(message)
                    self._lazy[p] = LazyRows(of[id(p)], self.state[p], group["eps"])

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = {p: p.grad for p in self._lazy if p.grad is not None}
        for p in grads:
            p.grad = None  # so that torch's step leaves it alone
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                if p in grads:
                    self._lazy[p].step(grads[p], group["lr"], group["betas"])
                    p.grad = grads[p]
        return loss

    def catch_up(self) -> None:
        """Bring all rows of tables up to date: before they are written, copied or scored."""
        for rows in self._lazy.values():
            rows.catch_up()

    def waiting(self) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Of each table whose rows wait, what :meth:`LazyRows.waiting` has."""
        return {p: held for p, rows in self._lazy.items() if (held := rows.waiting())}

    def put_back(self, p: nn.Parameter, held: dict[str, Tensor]) -> None:
        """Of a table what :meth:`waiting` gave."""
        self._lazy[p].put_back(held)


class Lamb(torch.optim.Optimizer):
    """LAMB without bias correction.

    Args:
        params: parameters or groups; a group with ``sparse=True`` updates only rows whose gradient is not all zero,
            and takes both norms over those rows.
        lr, betas, eps, weight_decay: as in the formula above.
        reference_quirks: in sparse groups, set the moments of absent rows to 0 and take both norms over the whole
            parameter (of a table: over all rows of each session that is present), as POYO's code.
        tables: those whose weights are among them, in sparse groups. Each of their blocks has norms of its own.
    """

    def __init__(
        self,
        params,
        lr: float,
        betas=(0.9, 0.999),
        eps: float = LAMB_EPS,
        weight_decay: float = 0.0,
        reference_quirks: bool = False,
        tables: Sequence[Vocabulary] = (),
    ):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "sparse": False}
        super().__init__(params, defaults | {"reference_quirks": reference_quirks})
        self._starts = {table.weight: torch.tensor([*table.starts(), len(table.weight)]) for table in tables}
        self._before: dict[nn.Parameter, Tensor] = {}  # the rows of the step before, where the quirks forget others

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

    def catch_up(self) -> None:
        """Nothing: a row that is absent stays as it is."""

    def waiting(self) -> dict[nn.Parameter, dict[str, Tensor]]:
        """Nothing: no row waits."""
        return {}

    def _update(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
        if not group["sparse"]:
            _lamb_update(p, p.grad, state["m"], state["v"], group)
            return
        row, g = rows_of(p.grad)
        present = g.flatten(1).any(dim=1).nonzero().squeeze(1) if g.ndim > 1 else g.nonzero().squeeze(1)
        row, g = row[present], g[present]
        starts = self._starts.get(p)  # None: all rows share norms
        if starts is not None:
            starts = self._starts[p] = starts.to(row.device)
        block = None if starts is None else torch.bucketize(row, starts, right=True) - 1
        absent = None
        if group["reference_quirks"]:
            self._forget_absent(p, row)
            row, g, block, absent = _whole_blocks(p, row, g, block, starts)
        parts = [t.index_select(0, row) for t in (p, state["m"], state["v"])]
        _lamb_update(parts[0], g, *parts[1:], group, absent, block)
        for whole, part in zip((p, state["m"], state["v"]), parts, strict=True):
            whole.index_copy_(0, row, part)

    def _forget_absent(self, p: Tensor, row: Tensor) -> None:
        """Set to 0 the moments of rows that are not present; only those of the step before can have any."""
        m, v = self.state[p]["m"], self.state[p]["v"]
        before = self._before.get(p)
        if before is None:  # at the start, or of a checkpoint
            before = m.reshape(len(p), -1).any(dim=1).nonzero().squeeze(1)
        gone = before[~torch.isin(before, row)]
        m[gone], v[gone] = 0, 0
        self._before[p] = row


def _whole_blocks(
    p: Tensor, row: Tensor, g: Tensor, block: Tensor | None, starts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Row, gradient and block of all rows of the blocks that are present, and which of them are absent."""
    if block is None:
        rows, of = torch.arange(len(p), device=p.device), None
    else:
        present = block.unique()
        bounds = zip(starts[present].tolist(), starts[present + 1].tolist(), strict=True)
        whole = [row[:0], *(torch.arange(*ends, device=p.device) for ends in bounds)]
        rows, of = torch.cat(whole), torch.repeat_interleave(present, starts[present + 1] - starts[present])
    absent = ~torch.isin(rows, row)
    every = g.new_zeros(len(rows), *g.shape[1:])
    every[~absent] = g
    return rows, every, of, absent


def _lamb_update(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    group: dict,
    absent: Tensor | None = None,
    block: Tensor | None = None,
) -> None:
    """One step of the formula, in place on p, m and v.

    Args:
        absent: bool ``[K]``, rows that stay where they are and lose their moments. block: int64 ``[K]`` rising, the
            rows that share norms; all by default.
    """
    beta1, beta2 = group["betas"]
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    if absent is not None:
        m[absent], v[absent] = 0, 0
    u = m / (v.sqrt() + group["eps"]) + group["weight_decay"] * p
    p_norm, u_norm = _norms(p, block).clamp(max=LAMB_MAX_NORM), _norms(u, block)
    ratio = torch.where((p_norm > 0) & (u_norm > 0), p_norm / u_norm, torch.ones_like(p_norm))
    if absent is not None:
        u[absent] = 0
    p.sub_(group["lr"] * ratio * u)


def _norms(x: Tensor, block: Tensor | None) -> Tensor:
    """The norm of a tensor; or for each row, as a column, that of all rows of its block."""
    if block is None:
        return x.norm()
    block = torch.unique_consecutive(block, return_inverse=True)[1]
    total = x.new_zeros(len(x)).index_add_(0, block, x.square().sum(1))
    return total.sqrt()[block][:, None]


def table_parameters(model: Model) -> list[nn.Parameter]:
    """The tables (embeddings) and whatever belongs to single sessions: sparse under LAMB, never decayed by AdamW."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Embedding | Vocabulary)]
    found += [part.parameter for part in model.identity_parameters()]
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
    tables = tables_of(model)
    if config.name == "lamb":
        quirks = config.reference_quirks
        decay = config.weight_decay
        return Lamb(groups, config.lr, config.betas, weight_decay=decay, reference_quirks=quirks, tables=tables)
    if tables:
        _check_betas(config)
    return AdamW(groups, config.lr, config.betas, tables=tables)


def _check_betas(config: OptimConfig) -> None:
    """Raise UsageError where absent rows would move ever faster, of which the closed form knows no end."""
    first = max(CYCLED_BETA1) if _cycles(config) else config.betas[0]
    if first**2 >= config.betas[1]:
        message = (
            f"optim.betas are {first:g} and {config.betas[1]:g}: AdamW on a model with tables needs the square of the "
            f"first, {first**2:g}, below the second"
        )
        raise UsageError(message)


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
    if not _cycles(config):
        return config.betas
    falling, done, length = _onecycle_phase(step, total, config)
    start, stop = reversed(CYCLED_BETA1) if falling else CYCLED_BETA1
    return _cosine(start, stop, done, length), config.betas[1]


def _cycles(config: OptimConfig) -> bool:
    """Whether the first beta is cycled."""
    return config.schedule == "onecycle" and (config.cycle_beta1 or config.reference_quirks)


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
