"""Replays the losses of torch_brain, with weights and without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.losses import mallow_distance, weighted_cross_entropy, weighted_mse
from tests.references.harness import Golden, array

LEFT_OUT: dict[str, str] = {}


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our losses give for the file's numbers."""
    x, y, label, weight = (torch.from_numpy(golden[f"in/{name}"]) for name in ("x", "y", "cls", "w"))
    alike = torch.ones_like(weight)
    return {
        "loss/mse": array(weighted_mse(x, y, alike)),
        "loss/mse_w": array(weighted_mse(x, y, weight)),
        "loss/ce": array(weighted_cross_entropy(x, label, alike)),
        "loss/ce_w": array(weighted_cross_entropy(x, label, weight)),
        "loss/mallow_w": array(mallow_distance(x, label, weight)),
    }
