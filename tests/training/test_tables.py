"""Tables in training: lazy rows against torch's dense AdamW and the old rule of LAMB, clipping, fences, processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spiketok.errors import UsageError
from spiketok.models.base import Part
from spiketok.models.vocabulary import Vocabulary
from spiketok.training.optimizers import LAMB_EPS, LAMB_MAX_NORM, build_optimizer, set_rates
from spiketok.training.sections import OptimConfig
from spiketok.training.tables import MissedSteps, clip_, only

DIM = 4
SIZES = {"a": 5, "b": 1, "none": 0, "c": 7}  # rows of each session
N = sum(SIZES.values())


class Tables(nn.Module):
    """A table and a matrix."""

    def __init__(self, sizes=SIZES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.units, self.layer = Vocabulary(DIM, 0.5, padding=True), nn.Linear(DIM, 3)
        self.units.extend({block: [str(k) for k in range(n)] for block, n in sizes.items()})

    def identity_parameters(self, sessions=None) -> list[Part]:
        return [Part.of(self.units, block) for block in self.units.words if sessions is None or block in sessions]


def sparse(row: np.ndarray, value: np.ndarray, n: int = N) -> Tensor:
    index = torch.from_numpy(np.asarray(row, np.int64))[None]
    value = torch.from_numpy(np.asarray(value, np.float32))
    return torch.sparse_coo_tensor(index, value, (n, DIM), check_invariants=True)


def gradients(steps: int, seed: int = 0, n: int = N, scale=(-8, 1)):
    """For each step the rows of a batch, at gaps of 1 to 120 steps by row, and a gradient of any size."""
    rng = np.random.default_rng(seed)
    gap = rng.integers(1, 120, n)
    size = 10.0 ** rng.uniform(*scale, n)
    for _ in range(steps):
        row = np.flatnonzero(rng.random(n) < 1 / gap)
        yield row, rng.normal(size=(len(row), DIM)) * size[row, None]


# ---- AdamW ----------------------------------------------------------------------------------------------------------

SCHEDULES = {
    "cosine with warm-up": {"schedule": "cosine", "warmup": 0.1},
    "onecycle": {"schedule": "onecycle"},
    "onecycle with the first beta cycled": {"schedule": "onecycle", "cycle_beta1": True},
    "constant": {"schedule": "constant"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("read", [False, pytest.param(True, marks=pytest.mark.long)])
def test_lazy_rows_are_torchs_dense_adamw(schedule, read):
    """400 steps of a changing rate; rows at random gaps, gradients from far below AdamW's eps to far above.

    The closed form is coarsest for gradients near eps in the first ten steps, which here have no warm-up but in cosine.
    """
    allowed = 1e-5 if schedule == "cosine with warm-up" else 2e-5
    steps, config = 400, OptimConfig(steps=400, lr=2e-3, **SCHEDULES[schedule])
    model = Tables({"a": 60, "b": 40})
    dense, start = nn.Parameter(model.units.weight.detach().clone()), model.units.weight.detach().clone()
    ours = build_optimizer(model, config)
    theirs = torch.optim.AdamW([dense], weight_decay=0.0)
    for step, (row, g) in enumerate(gradients(steps, n=100)):
        if read:  # what a forward reads at any step is the dense table, and reading changes nothing
            torch.testing.assert_close(model.units.table()[1:], dense, rtol=0, atol=allowed)
        lr = set_rates(ours, step, steps, config)
        theirs.param_groups[0] |= {"lr": lr, "betas": ours.param_groups[0]["betas"]}
        model.units.weight.grad = sparse(row, g, 100)
        dense.grad = model.units.weight.grad.to_dense()
        ours.step()
        theirs.step()
    late = (model.units.weight - dense).detach().abs().max()
    ours.catch_up()
    assert (model.units.weight - dense).detach().abs().max() < allowed < 1e-4 < late
    assert (dense - start).detach().abs().max() > 0.05
    state = ours.state[model.units.weight]
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(state[name], theirs.state[dense][name], rtol=1e-4, atol=1e-12)
    assert state["step"] == theirs.state[dense]["step"] == steps


def test_the_rest_of_a_model_is_torchs_adamw_bit_for_bit():
    models, config = (Tables(), Tables()), OptimConfig(steps=20, lr=1e-2, weight_decay=0.1)
    ours = build_optimizer(models[0], config)
    layer = models[1].layer
    groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups)
    for step, (row, g) in enumerate(gradients(20)):
        generator = torch.Generator().manual_seed(step)
        grads = [torch.randn(p.shape, generator=generator) for p in layer.parameters()]
        for model in models:
            for p, grad in zip(model.layer.parameters(), grads, strict=True):
                p.grad = grad.clone()
        models[0].units.weight.grad = sparse(row, g)
        lr = set_rates(ours, step, 20, config)
        for group in theirs.param_groups:
            group["lr"] = lr
        ours.step()
        theirs.step()
    for p, q in zip(models[0].layer.parameters(), layer.parameters(), strict=True):
        assert torch.equal(p, q)


def test_rows_that_nothing_trained_stay_bit_for_bit():
    model, config = Tables(), OptimConfig(steps=50, lr=1e-2)
    before = model.units.weight.detach().clone()
    before[3] = -0.0
    with torch.no_grad():
        model.units.weight.copy_(before)
    optimizer = build_optimizer(model, config)
    for step in range(50):
        set_rates(optimizer, step, 50, config)
        model.units.weight.grad = sparse([0, 7], np.ones((2, DIM)))
        optimizer.step()
    optimizer.catch_up()
    changed = model.units.weight.detach().view(torch.int32) != before.view(torch.int32)
    assert changed.any(1).nonzero().flatten().tolist() == [0, 7]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.99), (0.95, 0.95)])
@pytest.mark.parametrize("root", [0.0, 1e-10, 1e-8, 1e-5, 1.0])
def test_the_closed_form_is_the_sum_over_missed_steps(betas, root):
    """For one row, seen at step 3 with moments 1 and root^2, by a loop over the steps that it misses."""
    missed, eps = MissedSteps(1, 1e-8), 1e-8
    rng = np.random.default_rng(0)
    rates = rng.uniform(0, 1e-3, 600)
    missed.passed(np.array([0]), 3, 1.0, betas)
    assert missed.of(np.array([0])) is None
    slow, m, v = 0.0, 1.0, root**2
    for step, lr in enumerate(rates, start=4):
        missed.passed(np.zeros(0, np.int64), step, lr, betas)
        m, v = m * betas[0], v * betas[1]
        slow += lr * m / (1 - betas[0] ** step) / (np.sqrt(v / (1 - betas[1] ** step)) + eps)
        if step in (4, 9, 40, 603):
            f, e, g, h, decay_m, decay_v = missed.of(np.array([0]))[0]
            assert f / (root + e) + g / (root + h) == pytest.approx(slow, rel=2e-2 if betas[1] < 0.99 else 2e-3), step
            assert decay_m == pytest.approx(m, rel=1e-9, abs=1e-250)
            assert decay_v * root**2 == pytest.approx(v, rel=1e-9)


def test_a_rate_of_zero_moves_nothing():
    model = Tables()
    optimizer = build_optimizer(model, OptimConfig(steps=9, group_lr={"units": 0.0}))
    before = model.units.weight.detach().clone()
    for row, g in gradients(9):
        set_rates(optimizer, 3, 9, OptimConfig(steps=9))
        model.units.weight.grad = sparse(row, g)
        optimizer.step()
    optimizer.catch_up()
    assert torch.equal(model.units.weight, before)


def test_betas_without_an_end_are_refused():
    for config in (
        OptimConfig(steps=9, betas=(0.95, 0.9)),
        OptimConfig(steps=9, betas=(0.5, 0.9), schedule="onecycle", cycle_beta1=True),
    ):
        with pytest.raises(UsageError, match="optim.betas are 0.95 and 0.9: .* 0.9025, below the second"):
            build_optimizer(Tables(), config)
    build_optimizer(nn_only(), OptimConfig(steps=9, betas=(0.95, 0.9)))


def nn_only() -> nn.Module:
    model = Tables()
    del model.units
    model.identity_parameters = list
    return model


# ---- LAMB: the rule as it was when each session's rows were a parameter of their own --------------------------------


class LambOfBlocks:
    """One parameter a block, dense gradients: the slow twin, in numpy and float64."""

    def __init__(self, blocks: list[np.ndarray], lr: float, betas, decay: float, quirks: bool) -> None:
        self.p = [b.astype(np.float64) for b in blocks]
        self.m, self.v = [np.zeros_like(b) for b in self.p], [np.zeros_like(b) for b in self.p]
        self.lr, self.betas, self.decay, self.quirks = lr, betas, decay, quirks

    def step(self, grads: list[np.ndarray]) -> None:
        for p, g, m, v in zip(self.p, grads, self.m, self.v, strict=True):
            present = g.any(axis=1)
            rows = np.ones(len(p), bool) if self.quirks else present
            m[rows] = self.betas[0] * m[rows] + (1 - self.betas[0]) * g[rows]
            v[rows] = self.betas[1] * v[rows] + (1 - self.betas[1]) * g[rows] ** 2
            if self.quirks:
                m[~present], v[~present] = 0, 0
            u = m[rows] / (np.sqrt(v[rows]) + LAMB_EPS) + self.decay * p[rows]
            p_norm, u_norm = min(np.linalg.norm(p[rows]), LAMB_MAX_NORM), np.linalg.norm(u)
            u[~present[rows]] = 0
            p[rows] -= self.lr * (p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0) * u


@pytest.mark.parametrize("quirks", [False, True])
def test_lamb_of_a_table_is_lamb_of_its_blocks(quirks):
    config = OptimConfig(name="lamb", steps=60, lr=0.01, weight_decay=0.1, schedule="constant", betas=(0.8, 0.95))
    model = Tables()
    optimizer = build_optimizer(model, config)
    optimizer.param_groups[-1]["reference_quirks"] = quirks
    assert [g["sparse"] for g in optimizer.param_groups] == [False, True]
    start = [model.units.block(block).numpy().copy() for block in SIZES]
    slow = LambOfBlocks(start, 0.01, config.betas, 0.1, quirks)
    for k, (row, g) in enumerate(gradients(60, scale=(-2, 1))):
        row = row[row >= 6] if k % 3 == 0 else row  # now and then whole sessions are absent
        g = g[-len(row) or len(g) :]
        model.units.weight.grad = sparse(row, g)
        whole = model.units.weight.grad.to_dense().double().numpy()
        slow.step([whole[model.units.span(block)] for block in SIZES])
        optimizer.step()
        if k == 30:  # as a resumed run, which knows no step before
            optimizer._before.clear()
    for block, expected, before in zip(SIZES, slow.p, start, strict=True):
        np.testing.assert_allclose(model.units.block(block).numpy(), expected, rtol=1e-4, atol=1e-6)
        assert len(before) == 0 or np.abs(expected - before).max() > 0.005
    for name, own in (("m", slow.m), ("v", slow.v)):
        found = optimizer.state[model.units.weight][name].numpy()
        np.testing.assert_allclose(found, np.concatenate(own), rtol=1e-3, atol=1e-7)


# ---- clipping and fences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_is_torchs_of_the_dense_gradients(max_norm):
    model, generator = Tables(), torch.Generator().manual_seed(1)
    # rows twice, as from a forward that reads the table in two places
    model.units.weight.grad = sparse([2, 2, 7, 0], np.random.default_rng(0).normal(size=(4, DIM)))
    model.layer.weight.grad = torch.randn(3, DIM, generator=generator)  # the bias has none
    dense = [nn.Parameter(torch.zeros_like(p)) for p in model.parameters()]
    for p, q in zip(model.parameters(), dense, strict=True):
        q.grad = None if p.grad is None else p.grad.to_dense().clone()
    expected = torch.nn.utils.clip_grad_norm_(dense, max_norm)
    torch.testing.assert_close(clip_(model.parameters(), max_norm), expected)
    for p, q in zip(model.parameters(), dense, strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad.to_dense(), q.grad)
    assert model.layer.bias.grad is None
    assert clip_([nn.Parameter(torch.ones(2))], 1.0) == 0


def test_a_fence_keeps_the_gradient_of_other_rows_out():
    """Even of a model that reads the rows of other sessions."""
    model = Tables()
    own = model.identity_parameters(["b", "c"])
    with only(model, own):
        model.layer(model.units(torch.arange(N + 1))).sum().backward()
        assert model.layer.weight.grad is None
        assert model.units.weight.grad.coalesce().indices()[0].tolist() == list(range(5, 13))
    assert all(p.requires_grad for p in model.parameters())
    model.zero_grad()
    model.layer(model.units(torch.arange(N + 1))).sum().backward()
    assert len(model.units.weight.grad.coalesce().indices()[0]) == N
    with only(model, [Part(model.layer.weight)]):
        model.zero_grad()
        model.layer(model.units(torch.arange(N + 1))).sum().backward()
        assert model.units.weight.grad is None and model.layer.weight.grad is not None


# ---- several processes ----------------------------------------------------------------------------------------------

TWO = textwrap.dedent("""
    import sys, torch
    sys.path.insert(0, {tests!r})
    from tests.training.test_tables import Tables, sparse
    from spiketok.training.tables import average_rows, keep_from_ddp
    rank = int(sys.argv[1])
    torch.distributed.init_process_group("gloo", init_method="file://{meet}", rank=rank, world_size=2)
    model = Tables()
    keep_from_ddp(model)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    batches = [[[1, 2, 9], [4]], [[2], [2, 13]]][rank]
    for k, rows in enumerate(batches):
        with wrapped.no_sync() if k == 0 else torch.enable_grad():
            wrapped.module.forward = lambda row: model.layer(model.units(row))
            wrapped(torch.tensor(rows)).square().sum().backward()
    average_rows([model.units.weight])
    out = dict(zip(("units", "weight", "bias"), (p.grad.to_dense() for p in model.parameters())))
    if rank == 1:  # nothing of the table here
        model.units.weight.grad = None
    average_rows([model.units.weight])
    torch.save(out | {{"again": model.units.weight.grad.to_dense()}}, sys.argv[2])
""")


@pytest.mark.slow  # ten seconds of two processes that import torch
def test_two_processes_have_the_mean_gradient_of_all_their_batches(tmp_path):
    code = TWO.format(tests=str(Path(__file__).parents[2]), meet=tmp_path / "meet")
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(k), str(tmp_path / str(k))], stderr=subprocess.PIPE)
        for k in range(2)
    ]
    for process in running:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()[-800:]
    found = [torch.load(tmp_path / str(k)) for k in range(2)]
    model = Tables()
    for rows in ([1, 2, 9], [4], [2], [2, 13]):
        (model.layer(model.units(torch.tensor(rows))).square().sum() / 2).backward()
    for name, p in zip(("units", "weight", "bias"), model.parameters(), strict=True):
        torch.testing.assert_close(found[0][name], p.grad.to_dense())
        assert torch.equal(found[0][name], found[1][name])
    for one in found:
        torch.testing.assert_close(one["again"], found[0]["units"] / 2)
