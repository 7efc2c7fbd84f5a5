"""Replays the golden vectors of STNDT (trungle93/STNDT, 92ffe21) through spiketok's model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError
from spiketok.models.batch import Head, Progress, Timing
from spiketok.models.nn import sinusoidal_position
from spiketok.models.stndt import Stndt, StndtConfig
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import array
from tests.references.ndt1 import BIN_NS, SESSION, TASK, _batch

LEFT_OUT: dict[str, str] = {}
# The reference can be configured in these ways too; nothing of that is rebuilt.
FIXED = {
    "CONTEXT_WRAP_INITIAL": False,
    "LOGRATE": True,
    "REQUIRES_RATES": False,
    "SCALE_NORM": False,
    "SPIKE_LOG_INIT": False,
    "UNMASKED_LOSS_SCALE": 0.0,
    "USE_CONTRAST_PROJECTOR": False,
}
LAYER = {  # ours by the reference's, in one layer
    "self_attn.in_proj_weight": "bins.to_qkv.weight",
    "self_attn.in_proj_bias": "bins.to_qkv.bias",
    "spatial_self_attn.in_proj_weight": "to_query_key.weight",
    "spatial_self_attn.in_proj_bias": "to_query_key.bias",
} | {
    f"{theirs}.{kind}": f"{ours}.{kind}"
    for theirs, ours in {
        "self_attn.out_proj": "bins.to_out",
        "linear1": "bins.to_hidden",
        "linear2": "bins.from_hidden",
        "norm1": "bins.norm_attention",
        "norm2": "bins.norm_hidden",
        "spatial_norm1": "norm_units",
        "ts_norm1": "norm_mixed",
        "ts_norm2": "norm_hidden",
        "ts_linear1": "to_hidden",
        "ts_linear2": "from_hidden",
    }.items()
    for kind in ("weight", "bias")
}
OTHERS = {
    "embedder.0": "embed_bins",
    "spatial_embedder.0": "embed_units",
    "src_decoder.0": "read_out",
    "transformer_encoder.norm": "norm",
    "src_pos_encoder.pos_embedding": "position_bins",
    "spatial_pos_encoder.pos_embedding": "position_units",
}
NO_EFFECT = {
    f"w/transformer_encoder.layers.{layer}.spatial_self_attn.out_proj.{kind}": "nothing reads what it puts out"
    for layer in range(2)
    for kind in ("weight", "bias")
}


def replay(golden: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, np.ndarray]:
    """``out/lograte``, the terms of the loss and the gradients, under the golden's keys.

    Raises:
        DataError: the configuration is none that the model has, or a weight has no place.
    """
    config = meta["config"]
    model, dead = _build(config), set(config["params_without_gradient"])
    parameters = dict(model.named_parameters())
    names = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    place = {name: _place(name) for name in names if name not in dead and not name.endswith(".pe")}
    if set(place.values()) != set(parameters):
        message = f"weights do not fit: {sorted(set(place.values()) ^ set(parameters))} of one side alone"
        raise DataError(message)
    _check_positions(golden, model)
    for name, own in place.items():
        _copy(name, torch.from_numpy(golden[f"w/{name}"]), parameters[own])
    model.eval()
    batch = _batch(golden)
    output = model(batch)
    if "in/contrast_view1" in golden:
        output["contrast"] = model.contrast(*(torch.from_numpy(golden[f"in/contrast_view{k}"]).float() for k in (1, 2)))
    terms = model.loss(batch, output, Progress(0, 1))
    terms["total"].backward()
    weighted = config["LAMBDA"] * output.get("contrast", torch.zeros(()))
    found = {
        "out/lograte": array(output[TASK].unflatten(0, golden["in/labels"].shape[:2])),
        "loss/poisson": array(terms[TASK]),
        "loss/contrast_weighted": array(weighted),
        "loss/total": array(terms["total"]),
    }
    found = {key: value.reshape(golden[key].shape) for key, value in found.items()}
    for name, own in place.items():
        grad = parameters[own].grad
        if grad is not None and f"grad/{name}" in golden:
            rows = len(golden[f"grad/{name}"]) - len(grad)  # of the values, which nothing reads
            found[f"grad/{name}"] = array(torch.cat([grad, grad.new_zeros(rows, *grad.shape[1:])]))
    return found


def _build(config: Mapping) -> Stndt:
    """The model of a reference configuration."""
    wrong = [key for key, value in FIXED.items() if config[key] != value]
    loss = config["LOSS"] != {"TYPE": "poisson", "TOPK": 1.0} or config["POSITION"]["OFFSET"]
    if wrong or loss or config["DECODER"]["LAYERS"] != 1 or (config["EMBED_DIM"] and not config["LINEAR_EMBEDDER"]):
        message = f"a reference configuration that is not rebuilt: {wrong or config}"
        raise DataError(message)
    n_units, n_bins, whole = config["N"], config["T"], config["FULL_CONTEXT"]
    linear = config["LINEAR_EMBEDDER"]
    own = StndtConfig(
        embed="linear" if linear else "identity",
        layers=config["NUM_LAYERS"],
        heads=config["NUM_HEADS"],
        hidden=config["HIDDEN_SIZE"],
        activation=config["ACTIVATION"],
        pre_norm=config["PRE_NORM"],
        dropout=config["DROPOUT"],
        dropout_rates=config["DROPOUT_RATES"],
        dropout_embedding=config["DROPOUT_EMBEDDING"],
        position="learned" if config["LEARNABLE_POSITION"] else "sinusoidal",
        context_forward=-1 if whole or config["CONTEXT_FORWARD"] < 0 else config["CONTEXT_FORWARD"],
        context_backward=-1 if whole or config["CONTEXT_BACKWARD"] <= 0 else config["CONTEXT_BACKWARD"],
        contrast_weight=config["LAMBDA"] if linear else 0.0,  # of identity embedders a contrast would be a constant
        contrast_layer=config["CONTRAST_LAYER"],
        contrast_temperature=config["TEMPERATURE"],
        fixup_init=config["FIXUP_INIT"],
    )
    model = Stndt(own, [Head(TASK, TASK, "counts", input="counts")], Timing(n_bins * BIN_NS, BIN_NS))
    units = np.array([f"u{k}" for k in range(n_units)])
    model.add_sessions([SessionInfo(SESSION, "reference", units, 0, 0, n_bins * BIN_NS)])
    return model


def _place(name: str) -> str:
    """The model's name of a reference weight."""
    start = "transformer_encoder.layers."
    if name.startswith(start):
        layer, _, part = name.removeprefix(start).partition(".")
        return f"layers.{layer}.{LAYER[part]}"
    whole, _, kind = name.rpartition(".")
    return f"{OTHERS[whole]}.{kind}"


def _copy(name: str, value: Tensor, own: torch.nn.Parameter) -> None:
    """The weights, without the last third of the units' projection: it gives values, which nothing reads."""
    used = value[: len(own)] if ".spatial_self_attn.in_proj_" in name else value
    if used.shape != own.shape:
        message = f"w/{name} has shape {list(value.shape)}, expected {list(own.shape)}"
        raise DataError(message)
    with torch.no_grad():
        own.copy_(used)


def _check_positions(golden: Mapping[str, np.ndarray], model: Stndt) -> None:
    """The reference's tables of positions are constants: ours are computed, and must be the same."""
    learned, n_units = model.config.position == "learned", len(model.units[SESSION])
    sizes = {"src_pos_encoder.pe": (model.n_bins, n_units), "spatial_pos_encoder.pe": (n_units, model.n_bins)}
    for name, (n, dim) in sizes.items():
        own = torch.arange(n) if learned else sinusoidal_position(n, dim)
        if not np.allclose(golden[f"w/{name}"].reshape(own.shape), own.numpy(), rtol=0, atol=1e-6):
            message = f"w/{name} is not the table of positions that the model computes"
            raise DataError(message)
