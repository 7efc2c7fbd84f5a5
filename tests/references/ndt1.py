"""Replays the golden vectors of NDT1 (snel-repo/neural-data-transformers, 98dd85a) through spiketok's model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.ndt1 import Ndt1, Ndt1Config
from spiketok.models.nn import module_key, sinusoidal_position
from spiketok.recording.nouns import SessionInfo

LEFT_OUT: dict[str, str] = {}
BIN_NS = 20_000_000
SESSION, TASK = "reference/one", "population"
# The reference can be configured in these ways too; nothing of that is rebuilt.
FIXED = {"CONTEXT_WRAP_INITIAL": False, "SPIKE_LOG_INIT": False, "UNMASKED_LOSS_SCALE": 0.0, "REQUIRES_RATES": False}
LAYER_NAMES = {
    "self_attn.in_proj_": "to_qkv.",
    "self_attn.out_proj.": "to_out.",
    "linear1.": "to_hidden.",
    "linear2.": "from_hidden.",
    "norm1.": "norm_attention.",
    "norm2.": "norm_hidden.",
}


def replay(golden: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, np.ndarray]:
    """``out/lograte``, ``loss/total`` and the gradients, under the golden's keys.

    Raises:
        DataError: the configuration is none that the model has, or a weight has no place.
    """
    config = meta["config"]
    model = _build(config)
    parameters = dict(model.named_parameters())
    place = {name: _place(name, config) for name in _weights(golden, model)}
    lacking = set(parameters) - set(place.values())
    if lacking or not set(place.values()) <= set(parameters):
        message = f"weights do not fit: {sorted(lacking)} get none, {sorted(set(place.values()) - set(parameters))}"
        raise DataError(message)
    with torch.no_grad():
        for name, own in place.items():
            value = torch.from_numpy(golden[f"w/{name}"])
            if value.shape != parameters[own].shape:
                message = f"w/{name} has shape {list(value.shape)}, expected {list(parameters[own].shape)}"
                raise DataError(message)
            parameters[own].copy_(value)
    model.eval()
    batch = _batch(golden)
    output = model(batch)
    total = model.loss(batch, output, Progress(0, 1))["total"]
    total.backward()
    found = {
        "out/lograte": output[TASK if config["LOGRATE"] else "rate"].unflatten(0, golden["in/labels"].shape[:2]),
        "loss/total": total[None],
    }
    found |= {f"grad/{name}": parameters[own].grad for name, own in place.items()}
    return {key: value.detach().numpy() for key, value in found.items() if value is not None}


def _build(config: Mapping) -> Ndt1:
    """The model of a reference configuration, with one session of N units."""
    wrong = [key for key, value in FIXED.items() if config[key] != value]
    if wrong or config["LOSS"]["TYPE"] != "poisson":
        message = f"a reference configuration that is not rebuilt: {wrong or config['LOSS']}"
        raise DataError(message)
    n_units, n_bins = config["N"], config["T"]
    table = config["EMBED_DIM"] > 0 and not config["LINEAR_EMBEDDER"]
    whole = config["FULL_CONTEXT"]
    own = Ndt1Config(
        embed="linear" if config["LINEAR_EMBEDDER"] else "count_table" if table else "identity",
        dim=0,
        embed_dim=max(config["EMBED_DIM"], 1),
        max_spikes=config["max_spikes"],
        layers=config["NUM_LAYERS"],
        heads=config["NUM_HEADS"],
        hidden=config["HIDDEN_SIZE"],
        activation=config["ACTIVATION"],
        pre_norm=config["PRE_NORM"],
        final_norm="scale" if config["SCALE_NORM"] else "layer",
        dropout=config["DROPOUT"],
        dropout_rates=config["DROPOUT_RATES"],
        dropout_embedding=config["DROPOUT_EMBEDDING"],
        position="learned" if config["LEARNABLE_POSITION"] else "sinusoidal",
        position_offset=config["POSITION"]["OFFSET"],
        max_bins=n_bins,
        context_forward=-1 if whole or config["CONTEXT_FORWARD"] < 0 else config["CONTEXT_FORWARD"],
        context_backward=-1 if whole or config["CONTEXT_BACKWARD"] <= 0 else config["CONTEXT_BACKWARD"],
        mask_mode={"full": "element"}.get(config["train"]["MASK_MODE"], "timestep"),
        read_out_layers=config["DECODER"]["LAYERS"],
        log_rate=config["LOGRATE"],
        loss_top=config["LOSS"]["TOPK"],
        fixup_init=config["FIXUP_INIT"],
    )
    model = Ndt1(own, [Head(TASK, TASK, "counts", input="counts")], Timing(n_bins * BIN_NS, BIN_NS))
    units = np.array([f"u{k}" for k in range(n_units)])
    model.add_sessions([SessionInfo(SESSION, "reference", units, 0, 0, n_bins * BIN_NS)])
    return model


def _weights(golden: Mapping[str, np.ndarray], model: Ndt1) -> list[str]:
    """Names of the weights; the reference's constant table of positions is compared with ours instead of copied."""
    names = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    if "pos_encoder.pe" in names:
        names.remove("pos_encoder.pe")
        table = golden["w/pos_encoder.pe"]
        learned = model.config.position == "learned"
        first = int(model.config.position_offset)
        own = torch.arange(len(table)) if learned else sinusoidal_position(len(table), model.dim, first)
        if not np.allclose(table.reshape(own.shape), own.numpy(), rtol=0, atol=1e-6):
            message = "w/pos_encoder.pe is not the table of positions that the model computes"
            raise DataError(message)
    return names


def _place(name: str, config: Mapping) -> str:
    """The model's name of a reference weight."""
    key = module_key(SESSION)
    if name.startswith("decoder."):
        return f"read_out.{key}.{name.removeprefix('decoder.' if config['DECODER']['LAYERS'] > 1 else 'decoder.0.')}"
    if name.startswith("embedder."):
        table = name == "embedder.0.weight"
        return "count_table.weight" if table else f"read_in.{key}.{name.removeprefix('embedder.')}"
    if name == "pos_encoder.pos_embedding.weight":
        return "position.weight"
    own = name.removeprefix("transformer_encoder.")
    for theirs, ours in LAYER_NAMES.items():
        own = own.replace(f".{theirs}", f".{ours}")
    return own


def _batch(golden: Mapping[str, np.ndarray]) -> Batch:
    """The trials as windows; what the reference hides, its held-out units and its forward bins are hidden counts."""
    past = np.concatenate([golden["in/heldin"], golden["in/heldout"]], axis=2)
    counts = torch.from_numpy(np.concatenate([past, golden["in/forward"]], axis=1))
    hidden = torch.from_numpy(golden["in/labels"] != -100)
    if not torch.equal(torch.where(hidden, 0, counts), torch.from_numpy(golden["in/model_input"])):
        message = "in/model_input is not the counts with 0 where labels are asked: its masks replace counts"
        raise DataError(message)
    n_windows, n_bins, _ = counts.shape
    window_ns = n_bins * BIN_NS
    offset = torch.arange(n_windows + 1) * n_bins
    time = torch.arange(n_bins).repeat(n_windows) * (BIN_NS / 1e9)
    rows: Tensor = counts.flatten(0, 1)
    asked = Asked(
        time=time.float(),
        offset=offset,
        ns=np.arange(n_windows * n_bins, dtype=np.int64) * BIN_NS,
        target=rows.float(),
        weight=torch.ones(rows.shape),
    )
    observed = torch.ones(len(rows), dtype=torch.uint8)
    return Batch(
        inputs={"counts": Tokens({"counts": rows.to(torch.uint8), "observed": observed}, offset)},
        window_ns=window_ns,
        session_B=torch.zeros(n_windows, dtype=torch.int64),
        sessions=[SESSION] * n_windows,
        start_ns=np.arange(n_windows, dtype=np.int64) * window_ns,
        asked={TASK: asked},
        hidden={"counts": hidden.flatten(0, 1)},
    )
