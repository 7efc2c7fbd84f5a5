"""Tables in training: a step handles the rows of its batch, so it costs the same with any number of sessions.

The gradient of a table (:class:`spiketok.models.vocabulary.Vocabulary`) is a sparse tensor of the batch's rows. Here is
what such gradients need: one norm over them and all others (:func:`clip_`), their mean over processes
(:func:`average_rows`), a fence around the rows that may be trained (:func:`only`), and AdamW (:class:`LazyRows`).

:class:`MissedSteps` is what makes AdamW lazy. Under AdamW a row that is absent from a batch still moves: its moments
decay and it goes on along them. For a row that was last seen at step s, with moments m and v, the steps s + 1 .. t
without a gradient move it by ::

    - m sum_j w_j / (sqrt(v) + e_j)       w_j = lr_j c_j / (1 - b1^j) * (b1 / sqrt(b2))^(j - s)
                                          e_j = eps c_j / b2^((j - s) / 2),   c_j = sqrt(1 - b2^j)

(rates and betas may change from step to step; powers are then products). The sum over e_j is replaced by two terms that
have the same first four moments of w over 1 / e (Gauss quadrature): exact for v far above and far below eps^2, and
between them within 1e-4 of the move (1e-3 in the first ten steps, when c_j changes most) for betas .9 and .999. The
moments are sums that grow by one term a step: a row that was missed a thousand times costs what one costs that was
missed once.

Shape letters: K rows of a batch, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spiketok.models.base import Part
from spiketok.models.vocabulary import Vocabulary

NEGLIGIBLE = math.log(1e-20)  # of a missed step's weight: later ones change nothing
ALIKE = 1e-5  # spread of e_j below which one term stands for all
CATCH_UP_ROWS = 1 << 16  # at a time
LEAST_BETA = 1e-300  # stands for a beta of 0 under the logarithm


def tables_of(model: nn.Module) -> list[Vocabulary]:
    """The tables of a model."""
    return [module for module in model.modules() if isinstance(module, Vocabulary)]


# ---- gradients ------------------------------------------------------------------------------------------------------


def rows_of(grad: Tensor) -> tuple[Tensor, Tensor]:
    """int64 ``[K]`` rising, and ``[K, D]``: the rows that a gradient holds, each once; all of a dense one."""
    if not grad.is_sparse:
        return torch.arange(len(grad), device=grad.device), grad
    grad = grad.coalesce()
    return grad.indices()[0], grad.values()


def clip_(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients in place so that their norm is at most ``max_norm``; returns the norm that they had.

    As ``torch.nn.utils.clip_grad_norm_``, which does not take sparse gradients.
    """
    grads = []
    for p in parameters:
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.coalesce()
            grads.append(p.grad.values())
        elif p.grad is not None:
            grads.append(p.grad)
    if not grads:
        return torch.zeros(())
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(scale)
    return norm


@contextmanager
def only(model: nn.Module, parts: Sequence[Part]) -> Iterator[None]:
    """Inside, nothing but these parts of a model gets a gradient."""
    chosen: dict[int, list[Part]] = {}
    for part in parts:
        chosen.setdefault(id(part.parameter), []).append(part)
    before = [(p, p.requires_grad) for p in model.parameters()]
    fences = []
    for p, _ in before:
        own = chosen.get(id(p), [])
        p.requires_grad_(bool(own))
        if own and all(part.rows is not None for part in own):
            fences.append(p.register_hook(_Fence([part.rows for part in own], len(p))))
    try:
        yield
    finally:
        for fence in fences:
            fence.remove()
        for p, flag in before:
            p.requires_grad_(flag)


class _Fence:
    """Lets the gradient of some rows pass and leaves that of all others out."""

    def __init__(self, rows: Sequence[slice], n: int) -> None:
        self.rows, self.n = rows, n

    def __call__(self, grad: Tensor) -> Tensor:
        row, value = rows_of(grad)
        inside = torch.zeros_like(row, dtype=torch.bool)
        for own in self.rows:
            inside |= (row >= own.start) & (row < own.stop)
        if not grad.is_sparse:
            return grad * inside.reshape(-1, *[1] * (grad.ndim - 1))
        return _sparse(row[inside], value[inside], grad.shape)


def _sparse(row: Tensor, value: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.sparse_coo_tensor(row[None], value, shape, check_invariants=False)


# ---- several processes ----------------------------------------------------------------------------------------------


def keep_from_ddp(model: nn.Module) -> None:
    """Before the model is wrapped: its tables' gradients are :func:`average_rows`'s, DDP takes dense ones only."""
    tables = {id(table.weight) for table in tables_of(model)}
    names = [name for name, p in model.named_parameters() if id(p) in tables]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def average_rows(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all processes' gradients of tables, added up in the order of ranks."""
    world = torch.distributed.get_world_size()
    for p in parameters:
        if p.grad is None:  # this process's batches held none of its rows
            row, value = torch.zeros(0, dtype=torch.int64, device=p.device), p.detach()[:0]
        else:
            row, value = rows_of(p.grad)
        counts = [torch.empty(1, dtype=torch.int64, device=p.device) for _ in range(world)]
        torch.distributed.all_gather(counts, torch.tensor([len(row)], device=p.device))
        counts = [int(n) for n in counts]
        rows, values = (_gathered(t, max(counts), world) for t in (row, value / world))
        held = [torch.cat([t[:n] for t, n in zip(every, counts, strict=True)]) for every in (rows, values)]
        p.grad = _sparse(*held, p.shape).coalesce()


def _gathered(own: Tensor, longest: int, world: int) -> list[Tensor]:
    """Each process's tensor, filled up to the longest."""
    padded = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
    every = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(every, padded)
    return every


# ---- steps that rows have missed ------------------------------------------------------------------------------------


class MissedSteps:
    """Which steps of AdamW the rows of a table have missed since all were last brought up to date.

    All of it is kept on the host: the last step of each row, and what a row gets that was last seen at each step.

    Args:
        n_rows: of the table. eps: AdamW's.
    """

    def __init__(self, n_rows: int, eps: float) -> None:
        self.eps, self.n = eps, 0
        self._last = np.zeros(n_rows, np.int64)  # after how many of the n steps a row was up to date
        self._moment = np.zeros((4, 1))  # sums of w z^i, i = 0 .. 3, z = eps / e, by the step after which a row was
        self._decay = np.zeros((2, 1))  # logarithms of the products of the betas, up to each step
        self._first = 0  # rows that are further behind get no more terms

    def passed(self, rows: np.ndarray, step: int, lr: float, betas: tuple[float, float]) -> None:
        """Note a step.

        Args:
            rows: int64 ``[K]``, which it moved. step: its number in the training, from 1. lr, betas: as it had them.
        """
        self.n += 1
        if self.n == self._moment.shape[1]:
            self._moment, self._decay = (np.concatenate([a, np.zeros_like(a)], 1) for a in (self._moment, self._decay))
        logs = [math.log(max(beta, LEAST_BETA)) for beta in betas]
        self._decay[:, self.n] = self._decay[:, self.n - 1] + logs
        while self._weight(self._first) < NEGLIGIBLE:
            self._first += 1
        since, rest = slice(self._first, self.n), math.sqrt(1 - betas[1] ** step)
        z = np.exp((self._decay[1, self.n] - self._decay[1, since]) / 2) / rest
        term = lr * rest / (1 - betas[0] ** step) * np.exp(self._weight(since))
        for moment in self._moment:
            moment[since] += term
            term = term * z
        self._moment[:, self.n] = 0
        self._last[rows] = self.n

    def _weight(self, since: slice | int) -> np.ndarray:
        """Logarithm of (b1 / sqrt(b2))^gap, for rows that were last seen then."""
        log1, log2 = self._decay[:, self.n, None] - self._decay[:, since].reshape(2, -1)
        return log1 - log2 / 2

    def behind(self) -> np.ndarray:
        """int64, rising: the rows that have missed a step."""
        return np.flatnonzero(self._last < self.n) if self.n else np.zeros(0, np.int64)

    def forget(self) -> None:
        """All rows are up to date."""
        self.__init__(len(self._last), self.eps)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it; :meth:`put_back` takes it."""
        moment, decay = (a[:, : self.n + 1].copy() for a in (self._moment, self._decay))
        return {"last": self._last.copy(), "moment": moment, "decay": decay, "first": np.array(self._first)}

    def put_back(self, last: np.ndarray, moment: np.ndarray, decay: np.ndarray, first: np.ndarray) -> None:
        """What :meth:`arrays` gave, of another process."""
        self._last, self._moment, self._decay = last.copy(), moment.copy(), decay.copy()
        self._first, self.n = int(first), moment.shape[1] - 1

    def of(self, rows: np.ndarray) -> np.ndarray | None:
        """What the steps that some rows have missed do to them; None where they missed none.

        Returns:
            float64 ``[K, 6]``: twice a factor f and a term e, where m f / (sqrt(v) + e) is to be subtracted, then what
            m and v are to be multiplied by.
        """
        last = self._last[rows]
        if not self.n or (len(last) and last.min() == self.n) or not len(last):
            return None
        last, inverse = np.unique(last, return_inverse=True)
        total, *moments = self._moment[:, last]
        mean, square, cube = np.divide(moments, total, out=np.zeros((3, len(last))), where=total > 0)
        mean = np.where(total > 0, mean, 1.0)
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        several = spread > ALIKE * mean
        spread = np.where(several, spread, 1.0)
        skew = np.where(several, (cube - 3 * mean * spread**2 - mean**3) / spread**3, 0)
        root = np.sqrt(skew**2 + 4)
        up, down = spread * (root + skew) / 2, spread * (root - skew) / 2
        share = np.where(several, down / (up + down), 1.0)
        high, low = (np.where(several, mean + move, mean) for move in (up, -down))
        low = np.maximum(low, np.finfo(np.float64).tiny)  # a node lies between the smallest z and the largest
        decay = np.exp(self._decay[:, self.n, None] - self._decay[:, last])
        found = np.stack([total * share, self.eps / high, total * (1 - share), self.eps / low, *decay], 1)
        return found[inverse]


class LazyRows:
    """A table under AdamW, without weight decay: a step moves the rows of its gradient, others when they are needed.

    What a row is *now* is what a forward reads (``Vocabulary.late``). What the parameter holds is what the row was when
    it was last in a gradient, until :meth:`catch_up`: so it depends on gradients and on the steps of :meth:`catch_up`
    alone, whatever was read, and is the same in all processes.

    Args:
        table: whose rows. state: the optimizer's of its weight: ``step``, ``exp_avg``, ``exp_avg_sq``, as torch's.
    """

    def __init__(self, table: Vocabulary, state: dict[str, Tensor], eps: float) -> None:
        self.weight, self.state, self.eps = table.weight, state, eps
        self.missed = MissedSteps(len(self.weight), eps)
        table.late = self.late

    @torch.no_grad()
    def step(self, grad: Tensor, lr: float, betas: tuple[float, float]) -> None:
        """A step of the rows of a gradient, as torch's."""
        if not self.state:
            self.state["step"] = torch.tensor(0.0)
            self.state["exp_avg"], self.state["exp_avg_sq"] = (torch.zeros_like(self.weight) for _ in range(2))
        row, g = rows_of(grad)
        value, m, v = self._now(row)
        self.state["step"] += 1
        step, (beta1, beta2) = int(self.state["step"]), betas
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        scale = (v.sqrt() / (1 - beta2**step) ** 0.5).add_(self.eps)
        value.addcdiv_(m, scale, value=-lr / (1 - beta1**step))
        self._put(row, value, m, v)
        self.missed.passed(row.cpu().numpy(), step, lr, betas)

    @torch.no_grad()
    def late(self, row: Tensor) -> Tensor | None:
        """What rows still have to be moved by, ``[K, D]``; None where all are what they should be."""
        found = self._missed(row)
        if found is None:
            return None
        return _drift(*(self.state[name].index_select(0, row) for name in ("exp_avg", "exp_avg_sq")), found)

    @torch.no_grad()
    def catch_up(self) -> None:
        """Bring all rows up to date."""
        behind = self.missed.behind()
        for first in range(0, len(behind), CATCH_UP_ROWS):
            row = torch.from_numpy(behind[first : first + CATCH_UP_ROWS]).to(self.weight.device)
            self._put(row, *self._now(row))
        self.missed.forget()

    @torch.no_grad()
    def waiting(self) -> dict[str, Tensor]:
        """Copies of the rows, of their moments and of what they missed; empty where none missed a step.

        A training that stops where rows wait, and writes what they are now, goes on from these to the same bytes.
        """
        if not len(self.missed.behind()):
            return {}
        held = {"weight": self.weight.detach(), **{name: self.state[name] for name in ("exp_avg", "exp_avg_sq")}}
        missed = {name: torch.from_numpy(array) for name, array in self.missed.arrays().items()}
        return {name: tensor.clone() for name, tensor in held.items()} | missed

    @torch.no_grad()
    def put_back(self, held: dict[str, Tensor]) -> None:
        """What :meth:`waiting` gave, after the rest of the optimizer was put back."""
        self.weight.copy_(held["weight"])
        for name in ("exp_avg", "exp_avg_sq"):
            self.state[name].copy_(held[name])
        self.missed.put_back(**{name: held[name].numpy() for name in ("last", "moment", "decay", "first")})

    def _missed(self, row: Tensor) -> Tensor | None:
        found = self.missed.of(row.cpu().numpy()) if self.missed.n else None
        return None if found is None else torch.from_numpy(found).to(self.weight.dtype).to(self.weight.device)

    def _now(self, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copies of rows and of their moments, with the steps that they have missed."""
        held = self.weight.detach(), self.state["exp_avg"], self.state["exp_avg_sq"]
        value, m, v = (whole.index_select(0, row) for whole in held)
        found = self._missed(row)
        if found is not None:
            value += _drift(m, v, found)
            m *= found[:, 4, None]
            v *= found[:, 5, None]
        return value, m, v

    def _put(self, row: Tensor, *parts: Tensor) -> None:
        held = self.weight.detach(), self.state["exp_avg"], self.state["exp_avg_sq"]
        for whole, part in zip(held, parts, strict=True):
            whole.index_copy_(0, row, part)


def _drift(m: Tensor, v: Tensor, found: Tensor) -> Tensor:
    """The move of rows by the steps that they have missed; ``found`` is ``MissedSteps.of``'s."""
    scale = v.sqrt()
    one, two = (found[:, k, None] / (scale + found[:, k + 1, None]) for k in (0, 2))
    return (one + two) * -m
