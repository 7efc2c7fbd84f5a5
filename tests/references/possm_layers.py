"""The layers of POSSM's backbones and its head of frames, each by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.losses import ctc
from spiketok.models.possm_layers import FrameHead, MambaLayer, S4dLayer
from tests.references.harness import Golden, array, copy_weights

LEFT_OUT: dict[str, str] = {}

Parts = dict[str, list[torch.Tensor]]


def s4d_parts(layer: S4dLayer) -> Parts:
    """By the original's names."""
    return {
        "D": [layer.d],
        "kernel.C": [layer.c],
        "kernel.log_dt": [layer.log_dt],
        "kernel.log_A_real": [layer.log_a_real],
        "kernel.A_imag": [layer.a_imag],
        "output_linear.0.weight": [layer.to_out.weight],
        "output_linear.0.bias": [layer.to_out.bias],
    }


def mamba_parts(layer: MambaLayer) -> Parts:
    """By the original's names."""
    return {
        "A_log": [layer.a_log],
        "D": [layer.d],
        "in_proj.weight": [layer.in_proj.weight],
        "conv1d.weight": [layer.conv.weight],
        "conv1d.bias": [layer.conv.bias],
        "x_proj.weight": [layer.x_proj.weight],
        "dt_proj.weight": [layer.dt_proj.weight],
        "dt_proj.bias": [layer.dt_proj.bias],
        "out_proj.weight": [layer.out_proj.weight],
    }


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our layers give for their golden files."""
    config = meta["config"]
    if "w/conv.weight" in golden:
        return _frames(golden, config)
    u = torch.from_numpy(golden["in/u"])
    if "w/A_log" in golden:
        layer = MambaLayer(config["d_model"], config["d_state"], config["d_conv"], config["expand"])
        copy_weights(golden, mamba_parts(layer))
        return {"out/y": array(layer(u)[0])}
    layer = S4dLayer(config["d_model"], config["d_state"])
    copy_weights(golden, s4d_parts(layer))
    return {"out/y": array(layer(u.transpose(1, 2))[0].transpose(1, 2))}


def _frames(golden: Golden, config: Mapping) -> dict[str, np.ndarray]:
    hidden, width, kernel = golden["w/conv.weight"].shape
    head = FrameHead(width, hidden, len(golden["w/out.weight"]), kernel, config["stride"])
    copy_weights(
        golden, {f"{n}.{p}": [getattr(getattr(head, n), p)] for n in ("conv", "out") for p in ("weight", "bias")}
    )
    logits = head(torch.from_numpy(golden["in/h"]))
    frames, labels = golden["in/input_lengths"], golden["in/target_lengths"]
    losses = []
    for row, n, target, m in zip(logits, frames, golden["in/target"], labels, strict=True):
        own = torch.tensor([0, n]), torch.from_numpy(target[:m]), torch.tensor([0, m])
        losses.append(ctc(row[:n], *own) * float(m))
    packed = torch.cat([row[:n] for row, n in zip(logits, frames, strict=True)])
    target = torch.from_numpy(np.concatenate([row[:m] for row, m in zip(golden["in/target"], labels, strict=True)]))
    offsets = [torch.from_numpy(np.concatenate([[0], np.cumsum(n)])) for n in (frames, labels)]
    return {
        "out/logits": array(logits),
        "out/log_probs": array(logits.log_softmax(-1)),
        "loss/none": array(torch.stack(losses)),
        "loss/sum": array(torch.stack(losses).sum()),
        "loss/mean": array(ctc(packed, offsets[0], target, offsets[1])),
    }
