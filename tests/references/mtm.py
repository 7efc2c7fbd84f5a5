"""Replays the golden vectors of MtM (colehurwitz/IBL_foundation_model, e0c39bd) through spiketok's model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.errors import DataError
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.mtm import Mtm, MtmConfig
from spiketok.models.nn import module_key
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import array

BIN_NS = 20_000_000
TASK = "population"
KEY_BIAS = "without rotary positions it adds the same to all scores of a query: its gradient is rounding"
LEFT_OUT = {"grad/encoder.layers.*.attn.key.bias": KEY_BIAS}
UNREAD = {f"w/decoder.0.{kind}": "nothing reads it where sessions are stitched" for kind in ("weight", "bias")}
NO_EFFECT = UNREAD | {f"w/encoder.layers.{layer}.attn.key.bias": KEY_BIAS for layer in range(2)}
MODE_OF = {"neuron": "unit", "causal": "forward", "inter-region": "inter_region", "intra-region": "intra_region"}
SCHEMES = {"inter-region": "inter_region", "intra-region": "intra_region"}  # others have the same name
# The reference can be configured in these ways too; nothing of that is rebuilt.
FIXED = {
    "context": {"backward": -1, "forward": -1},
    "embedder": {"act": "softsign", "adapt": False, "bias": True, "mode": "linear", "scale": 1},
    "factors": {"active": False},
    "masker": {"expand_prob": 0.0, "zero_ratio": 1.0},
    "norm_and_noise": {"active": False},
    "transformer": {"act": "gelu", "attention_bias": True, "mlp_bias": True, "rope_theta": 10000.0},
}
LAYER = {
    "ln1": "norm_attention",
    "ln2": "norm_hidden",
    "attn.out_proj": "to_out",
    "mlp.up_proj": "to_hidden",
    "mlp.down_proj": "from_hidden",
}
THIRDS = ("query", "key", "value")  # of to_qkv


def replay(golden: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, np.ndarray]:
    """Log rates, sums and numbers of terms of each session, and the gradients, under the golden's keys.

    Raises:
        DataError: the configuration is none that the model has, a weight has no place, or the counts do not fit.
    """
    config = meta["config"]
    names = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    stitched = config["cfg"]["encoder"]["stitching"]
    dead = {key.removeprefix("w/") for key in UNREAD} if stitched else set()
    model = _build(config)
    sessions = [f"reference/s{k}" for k in range(len(config["eids"]))]
    rows = [int(golden[f"in/s{k}_eid_index"]) for k in range(len(sessions))]
    place = {name: _place(model, name, config, sessions, rows) for name in names if name not in dead}
    _copy(golden, model, place)
    model.eval()
    found, total = {}, torch.zeros(())
    for k, session in enumerate(sessions):
        batch = _batch(golden, config, k, session)
        output = model(batch)
        loss = model.loss(batch, output, Progress(0, 1))["total"]
        total = total + loss
        found[f"out/s{k}_lograte"] = array(output[TASK].unflatten(0, golden[f"in/s{k}_spikes"].shape[:2]))
        found[f"loss/s{k}_sum"] = array(loss)
        found[f"loss/s{k}_n_examples"] = array(output["scored"].sum())
    found["loss/total_both_sessions"] = array(total)
    total.backward()
    for name, (parameter, own, theirs) in place.items():
        if parameter.grad is not None and f"grad/{name}" in golden:
            grad = torch.zeros(golden[f"grad/{name}"].shape)
            grad[theirs] = parameter.grad.to_dense()[own]
            found[f"grad/{name}"] = array(grad)
    return found if model.config.position == "rotary" else _without_key_bias(golden, found)


def _without_key_bias(golden: Mapping[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What was found without gradients that are 0.

    Raises:
        DataError: one is not, here or there.
    """
    for name in [name for name in found if name.endswith(".attn.key.bias")]:
        scale = np.abs(golden[name.replace(".key.", ".query.")]).max()
        if max(np.abs(golden[name]).max(), np.abs(found.pop(name)).max()) > 1e-5 * scale:
            message = f"{name} is not 0"
            raise DataError(message)
    return found


def _build(config: Mapping) -> Mtm:
    """The model of a reference configuration, with its sessions."""
    encoder = config["cfg"]["encoder"]
    wrong = [(part, key) for part, keys in FIXED.items() for key, v in keys.items() if encoder[part][key] != v]
    embedder, transformer, rotary = encoder["embedder"], encoder["transformer"], encoder["transformer"]["use_rope"]
    if wrong or embedder["pos"] == rotary or embedder["stack"]["active"]:
        message = f"a reference configuration that is not rebuilt: {wrong or embedder}"
        raise DataError(message)
    prompted = embedder["use_prompt"]
    own = MtmConfig(
        **({} if prompted else {"masks": (SCHEMES.get(config["mode"], config["mode"]),)}),
        stitch=encoder["stitching"],
        channels=embedder["n_channels"],
        channel_factor=embedder["mult"],
        mask_channels=embedder["tokenize_binary_mask"],
        session_token=embedder["use_session"],
        prompt_token=prompted,
        dim=transformer["hidden_size"],
        layers=transformer["n_layers"],
        heads=transformer["n_heads"],
        hidden=transformer["inter_size"],
        norm="scale" if transformer["use_scalenorm"] else "layer",
        position="rotary" if rotary else "learned",
        max_bins=embedder["max_F"],
        dropout=transformer["dropout"],
        dropout_embedding=embedder["dropout"],
        spike_loss="sum",
        fixup_init=transformer["fixup_init"],
        reference_quirks=True,
    )
    window_ns = embedder["max_F"] * BIN_NS
    model = Mtm(own, [Head(TASK, TASK, "counts", input="counts")], Timing(window_ns, BIN_NS))
    units = [np.array([f"u{n}" for n in range(n_units)]) for n_units in config["num_neurons"]]
    model.add_sessions(
        [SessionInfo(f"reference/s{k}", "reference", ids, 0, 0, window_ns) for k, ids in enumerate(units)]
    )
    return model


# A parameter of ours, which rows of it, and which of the reference's.
Place = tuple[nn.Parameter, object, object]


def _place(model: Mtm, name: str, config: Mapping, sessions: list[str], rows: list[int]) -> Place:
    """Where a reference weight stands in the model.

    Raises:
        DataError: nowhere.
    """
    of, whole = dict(model.named_parameters()), ...
    key_of = {str(n): module_key(s) for n, s in zip(config["num_neurons"], sessions, strict=True)}
    if name == "encoder.embedder.embed_session.weight":
        return model.session_table.weight, whole, rows
    if name.startswith("encoder.layers."):
        layer, _, part = name.removeprefix("encoder.layers.").partition(".")
        part, _, kind = part.rpartition(".")
        third = part.removeprefix("attn.")
        if third in THIRDS:
            first = THIRDS.index(third) * model.config.dim
            return of[f"layers.{layer}.to_qkv.{kind}"], slice(first, first + model.config.dim), whole
        return of[f"layers.{layer}.{LAYER[part]}.{kind}"], whole, whole
    start, _, kind = name.rpartition(".")
    table, _, number = start.rpartition(".")
    own = {
        "encoder.embedder.embed_spikes": "widen",
        "encoder.embedder.projection": "narrow",
        "encoder.embedder.embed_pos": "position",
        "encoder.embedder.embed_prompt": "prompt",
        "encoder.out_norm": "norm",
        "decoder.0": f"read_out.{module_key(sessions[0])}",
    }.get(start)
    if table == "encoder.stitcher.stitcher_dict":
        own = f"read_in.{key_of[number]}"
    elif table == "stitch_decoder.stitch_decoder_dict":
        own = f"read_out.{key_of[number]}"
    if f"{own}.{kind}" not in of:
        message = f"w/{name} has no place in the model"
        raise DataError(message)
    return of[f"{own}.{kind}"], whole, whole


def _copy(golden: Mapping[str, np.ndarray], model: Mtm, place: Mapping[str, Place]) -> None:
    """Copy the weights in.

    Raises:
        DataError: a parameter gets none, or one of another shape.
    """
    given = {id(parameter) for parameter, _, _ in place.values()}
    lacking = [name for name, parameter in model.named_parameters() if id(parameter) not in given]
    if lacking:
        message = f"weights do not fit: {lacking} get none"
        raise DataError(message)
    with torch.no_grad():
        for name, (parameter, own, theirs) in place.items():
            value: Tensor = torch.from_numpy(golden[f"w/{name}"])[theirs]
            target = parameter[own]
            if value.shape != target.shape:
                message = f"w/{name} has shape {list(value.shape)}, expected {list(target.shape)}"
                raise DataError(message)
            target.copy_(value)


def _batch(golden: Mapping[str, np.ndarray], config: Mapping, k: int, session: str) -> Batch:
    """The trials of one session; what the reference sets to 0 is hidden, what it predicts has a weight."""
    counts, seen, target, real = (
        torch.from_numpy(golden[f"in/s{k}_{name}"])
        for name in ("spikes", "masked_spikes", "targets_mask_from_masker", "time_attn_mask")
    )
    hidden = (counts != seen) | (target > 0)
    if not torch.equal(torch.where(hidden, 0.0, counts), seen):
        message = f"in/s{k}_masked_spikes is not the counts with 0 where they were hidden"
        raise DataError(message)
    n_windows, n_bins, _ = counts.shape
    offset = torch.arange(n_windows + 1) * n_bins
    observed = real.flatten() > 0
    time = torch.arange(n_bins).repeat(n_windows) * (BIN_NS / 1e9)
    ns = np.arange(n_windows * n_bins, dtype=np.int64) * BIN_NS + BIN_NS // 2
    asked = Asked(time, offset, ns, counts.flatten(0, 1), (target.flatten(0, 1) > 0) & observed[:, None])
    columns = {"counts": counts.flatten(0, 1), "observed": observed.to(torch.uint8)}
    return Batch(
        inputs={"counts": Tokens(columns, offset)},
        window_ns=n_bins * BIN_NS,
        session_B=torch.full((n_windows,), k),
        sessions=[session] * n_windows,
        start_ns=np.arange(n_windows, dtype=np.int64) * n_bins * BIN_NS,
        asked={TASK: asked},
        hidden={"counts": hidden.flatten(0, 1)},
        mode=MODE_OF.get(config["mode"], ""),
    )
