"""SparseLamb under OneCycleLR (POYO, POYO+, POSSM): the optimizer and the schedule of training, step by step.

The tensors are a table (an embedding, hence a sparse group) and the weight and bias of a linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from spiketok.training.optimizers import LAMB_EPS, LAMB_MAX_NORM, build_optimizer, set_rates
from spiketok.training.sections import OptimConfig

LEFT_OUT: dict[str, str] = {}  # every out/ key is returned


class _Tensors(nn.Module):
    """Parameters in the roles that the reference gave them."""

    def __init__(self, golden: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        table, weight = golden["in/init/table"], golden["in/init/W"]
        self.table = nn.Embedding(*table.shape)
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        self.named = {"table": self.table.weight, "W": self.linear.weight, "b": self.linear.bias}
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(torch.from_numpy(golden[f"in/init/{name}"]))

    def identity_parameters(self) -> list[nn.Parameter]:
        return []


def replay(golden: Mapping[str, np.ndarray], meta: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The tensors after each step, the rates of each step, and the moments after the last one."""
    given = meta["config"]
    if (given["eps"], given["clamp_value"]) != (LAMB_EPS, LAMB_MAX_NORM):
        message = f"LAMB here has eps {LAMB_EPS} and clamps at {LAMB_MAX_NORM}, the golden {given}"
        raise ValueError(message)
    config = OptimConfig(
        name="lamb",
        lr=given["lr"],
        weight_decay=given["weight_decay"],
        betas=tuple(given["betas"]),
        schedule="onecycle",
        steps=given["total_steps"],
        reference_quirks=True,
    )
    model = _Tensors(golden)
    optimizer = build_optimizer(model, config)
    found: dict[str, np.ndarray] = {}
    lr, beta1 = [], []
    for step in range(len(golden["out/lr"])):
        for name, p in model.named.items():
            p.grad = torch.from_numpy(golden[f"in/grad{step}/{name}"].copy())
        lr.append(set_rates(optimizer, step, config.steps, config))
        beta1.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        found |= {f"out/step{step}/{name}": p.detach().numpy().copy() for name, p in model.named.items()}
    for name, p in model.named.items():
        state = optimizer.state[p]
        found[f"mid/state/{name}/exp_avg"], found[f"mid/state/{name}/exp_avg_sq"] = (
            state["m"].numpy(),
            state["v"].numpy(),
        )
    return found | {"out/lr": np.array(lr), "out/beta1": np.array(beta1)}
