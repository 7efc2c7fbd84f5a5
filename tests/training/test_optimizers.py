"""Learning rates, betas and parameter groups, against torch's own scheduler and optimizer, and POYO's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spiketok.errors import UnknownNameError
from spiketok.models.base import Part
from spiketok.training.optimizers import Lamb, betas_at, build_optimizer, lr_at, lr_factors, set_rates
from spiketok.training.sections import OptimConfig
from tests.references import optimizer as reference

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "models" / "sparse_lamb_onecycle.npz"


class Net(nn.Module):
    """A table, two linear layers and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.units = nn.Embedding(6, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)
        self.readout = nn.Linear(4, 2)

    def identity_parameters(self) -> list[Part]:
        return [Part(self.units.weight)]


def train(model: nn.Module, optimizer, rates, steps: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        rates(step)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def rates_of(config: OptimConfig, total: int, **arguments) -> list[float]:
    return [lr_at(step, total, config, **arguments) for step in range(total)]


# ---- the reference's schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pct_start", [0.5, 0.3, 0.25])
@pytest.mark.parametrize("total", [3, 7, 8, 100, 1001])
def test_the_quirks_are_torchs_onecycle_at_every_step(total, pct_start):
    config = OptimConfig(
        name="lamb", lr=0.004, schedule="onecycle", steps=total, pct_start=pct_start, reference_quirks=True
    )
    p = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([p], lr=config.lr, betas=config.betas)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=total, pct_start=pct_start, div_factor=1, anneal_strategy="cos"
    )
    for step in range(total):
        assert lr_at(step, total, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        assert betas_at(step, total, config) == pytest.approx(optimizer.param_groups[0]["betas"], rel=1e-12), step
        p.grad = torch.zeros(1)
        optimizer.step()
        if step + 1 < total:
            scheduler.step()
    if total * pct_start > 1:
        assert lr_at(int(total * pct_start) - 1, total, config) == config.lr
    assert lr_at(total - 1, total, config) == pytest.approx(config.lr / 1e4)


def test_the_default_falls_one_step_later_and_leaves_the_betas():
    config = OptimConfig(lr=1.0, schedule="onecycle", steps=100, betas=(0.9, 0.95))
    rates = rates_of(config, 100)
    assert rates[:51] == [1.0] * 51 and rates[51] < 1
    assert lr_at(100, 100, config) == pytest.approx(1e-4)
    assert {betas_at(step, 100, config) for step in range(100)} == {(0.9, 0.95)}
    early = rates_of(OptimConfig(lr=1.0, schedule="onecycle", steps=100, pct_start=0.25), 100)
    assert early[:26] == [1.0] * 26 and early[26] < 1


def test_the_first_beta_is_cycled_alone_where_asked():
    config = OptimConfig(lr=1.0, schedule="onecycle", steps=100, betas=(0.9, 0.95), cycle_beta1=True)
    beta1 = [betas_at(step, 100, config)[0] for step in range(101)]
    assert [beta1[k] for k in (0, 25, 50, 75, 100)] == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95])
    assert all(betas_at(step, 100, config)[1] == 0.95 for step in range(100))
    assert rates_of(config, 100) == rates_of(OptimConfig(lr=1.0, schedule="onecycle", steps=100), 100)
    cosine = OptimConfig(schedule="cosine", steps=100, cycle_beta1=True)
    assert betas_at(30, 100, cosine) == cosine.betas


# ---- warm-up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_warm_up_in_steps_or_epochs_rises_linearly_to_the_full_rate(schedule):
    by_steps = OptimConfig(lr=2.0, schedule=schedule, steps=100, warmup_steps=20)
    rates = rates_of(by_steps, 100)
    assert rates[:21] == pytest.approx([2.0 * (k + 1) / 20 for k in range(20)] + [2.0])
    by_epochs = OptimConfig(lr=2.0, schedule=schedule, steps=100, warmup_epochs=2.5)
    assert rates_of(by_epochs, 100, steps_per_epoch=8) == rates
    with pytest.raises(ValueError, match="number of steps of an epoch"):
        lr_at(0, 100, by_epochs)
    none = rates_of(OptimConfig(lr=2.0, schedule=schedule, steps=100, warmup_steps=0), 100)
    assert none[0] == 2.0


def test_the_share_warms_up_cosine_alone():
    assert rates_of(OptimConfig(lr=1.0, steps=100, warmup=0.1), 100)[:10] == pytest.approx(np.arange(1, 11) / 10)
    for schedule in ("onecycle", "constant"):
        assert lr_at(0, 100, OptimConfig(lr=1.0, schedule=schedule, steps=100, warmup=0.1)) == 1.0


def test_cosine_is_torchs_after_a_warm_up():
    config = OptimConfig(lr=0.3, steps=50, warmup_steps=10)
    p = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([p], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for step in range(10, 50):
        assert lr_at(step, 50, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


# ---- groups ---------------------------------------------------------------------------------------------------------


def test_factors_by_the_longest_beginning_of_a_name():
    model = Net()
    factor = lr_factors(model, {"layers": 0.5, "layers.1": 2.0, "units.weight": 10.0})
    named = {name: factor[id(p)] for name, p in model.named_parameters()}
    assert named["layers.0.weight"] == 0.5 and named["layers.1.bias"] == 2.0
    assert named["units.weight"] == 10.0 and named["readout.weight"] == named["norm.bias"] == 1.0
    for prefix, near in (("layer", "layers"), ("layers.2", "layers"), ("readout.wight", "readout.weight")):
        with pytest.raises(UnknownNameError, match=f"unknown parameter '{prefix}' in optim.group_lr.*{near}"):
            lr_factors(model, {prefix: 2.0})


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_every_parameter_is_in_one_group_with_its_factor_and_its_kind(name):
    model = Net()
    config = OptimConfig(name=name, steps=10, warmup_steps=0, group_lr={"units": 10.0, "readout": 0.1})
    optimizer = build_optimizer(model, config)
    lr = set_rates(optimizer, 0, 10, config)
    assert lr == config.lr
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    plain = build_optimizer(model, OptimConfig(name=name, steps=10))
    kind = {id(p): (g["weight_decay"], g.get("sparse")) for g in plain.param_groups for p in g["params"]}
    factor = lr_factors(model, config.group_lr)
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["lr"] == config.lr * factor[id(p)]
            assert (group["weight_decay"], group.get("sparse")) == kind[id(p)]
    assert [group["lr_factor"] for group in plain.param_groups] == [1.0, 1.0]


@pytest.mark.parametrize("cycle", [False, True])
def test_a_training_by_set_rates_is_torchs_adamw_under_torchs_schedule(cycle):
    """Factors, schedule and cycled betas together."""
    steps = 12
    config = OptimConfig(
        lr=0.05, schedule="onecycle", steps=steps, group_lr={"units": 4.0}, betas=(0.8, 0.9), weight_decay=0.1,
        reference_quirks=cycle,
    )  # fmt: skip
    ours, theirs = Net(), Net()
    optimizer = build_optimizer(ours, config)
    found = train(ours, optimizer, lambda step: set_rates(optimizer, step, steps, config), steps)

    matrices = [p for name, p in theirs.named_parameters() if p.ndim > 1 and name != "units.weight"]
    others = [p for name, p in theirs.named_parameters() if p.ndim <= 1]
    torchs = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1, "lr": 0.05},
            {"params": others, "weight_decay": 0.0, "lr": 0.05},
            {"params": [theirs.units.weight], "weight_decay": 0.0, "lr": 0.2},
        ],
        betas=config.betas,
    )
    if cycle:
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            torchs, [0.05, 0.05, 0.2], total_steps=steps, pct_start=0.5, div_factor=1
        )
        expected = train(theirs, torchs, lambda step: scheduler.step() if step else None, steps)
    else:

        def rates(step: int) -> None:
            for group, factor in zip(torchs.param_groups, (1, 1, 4), strict=True):
                group["lr"] = factor * lr_at(step, steps, config)

        expected = train(theirs, torchs, rates, steps)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


# ---- LAMB's sparse rows ---------------------------------------------------------------------------------------------


def test_absent_rows_keep_their_moments_unless_as_in_the_reference():
    for quirks in (False, True):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(4, 3))
        optimizer = Lamb([{"params": [p], "sparse": True}], lr=0.1, reference_quirks=quirks)
        p.grad = torch.randn(4, 3)
        optimizer.step()
        before, m = p.detach().clone(), optimizer.state[p]["m"].clone()
        p.grad = torch.randn(4, 3)
        p.grad[1] = 0
        optimizer.step()
        assert torch.equal(p[1], before[1]) and not torch.equal(p[0], before[0])
        kept = torch.zeros(3) if quirks else m[1]
        assert torch.equal(optimizer.state[p]["m"][1], kept)


def test_a_table_of_which_all_rows_are_present_is_like_any_matrix():
    found = []
    for options in ({"sparse": True}, {"sparse": True, "reference_quirks": True}, {"sparse": False}):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(4, 3))
        optimizer = Lamb([{"params": [p], **options}], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            p.grad = torch.randn(4, 3)
            optimizer.step()
        found.append(p.detach())
    torch.testing.assert_close(found[0], found[2])
    assert torch.equal(found[1], found[2])


def test_the_default_step_of_a_row_does_not_depend_on_the_absent_ones_and_the_references_does():
    def step(rows: int, quirks: bool) -> torch.Tensor:
        torch.manual_seed(0)
        p = nn.Parameter(torch.cat([torch.randn(2, 3), torch.randn(rows, 3)]))
        before = p.detach().clone()
        optimizer = Lamb([{"params": [p], "sparse": True}], lr=0.1, reference_quirks=quirks)
        p.grad = torch.zeros_like(p)
        p.grad[:2] = 1.0
        optimizer.step()
        return (p - before).detach()[:2]

    assert torch.equal(step(2, quirks=False), step(50, quirks=False))
    assert not torch.allclose(step(2, quirks=True), step(50, quirks=True), rtol=0.1)


def load_golden() -> tuple[dict, dict]:
    with np.load(GOLDEN) as file:
        golden = {name: file[name] for name in file.files}
    return golden, json.loads(str(golden["meta"]))


def test_poyos_optimizer_and_schedule_give_poyos_numbers():
    golden, meta = load_golden()
    found = reference.replay(golden, meta)
    assert {name for name in golden if name.startswith("out/")} - set(reference.LEFT_OUT) <= set(found)
    for name, value in found.items():
        np.testing.assert_allclose(value, golden[name], rtol=0, atol=1e-6 * np.abs(golden[name]).max(), err_msg=name)


def test_without_the_quirks_the_numbers_are_others(monkeypatch):
    """The comparison above can fail: rate, first beta, moments and what comes of them differ."""
    golden, meta = load_golden()
    config = reference.OptimConfig

    def plain(**values):
        return config(**values | {"reference_quirks": False, "cycle_beta1": True})

    monkeypatch.setattr(reference, "OptimConfig", plain)
    found = reference.replay(golden, meta)
    assert not np.allclose(found["out/lr"], golden["out/lr"])
    assert not np.allclose(found["out/beta1"], golden["out/beta1"])
    assert not np.allclose(found["out/step6/table"], golden["out/step6/table"], rtol=1e-5)
    assert not np.allclose(found["mid/state/table/exp_avg"], golden["mid/state/table/exp_avg"], rtol=1e-3)
