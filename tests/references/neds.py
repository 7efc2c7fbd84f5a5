"""Replays the golden vectors of NEDS (yzhang511/NEDS, 61d2ef6) through spiketok's model.

Trials of one session are a batch; terms of the loss, which are means over all trials, are put together by how many
elements each session has (of a label, by the hidden tokens of all). The original's units that a session does not have
are units of ours with counts of -1 that were not observed. A label of ours is one of K inputs, whose weights are here
the original's times the class.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spiketok.models.base import Part
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.neds import SPIKES, Neds, NedsConfig
from spiketok.models.nn import module_key
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array

LEFT_OUT: dict[str, str] = {}
BIN_NS = 20_000_000
RATES = "population"
TASK = {"choice": "classify:choice", "block": "classify:block", "wheel": "decode:wheel", "whisker": "decode:whisker"}
CLASSES = {"choice": 2, "block": 3}
LAYER = {
    "attn.out_proj": "to_out",
    "ln1": "norm_attention",
    "ln2": "norm_hidden",
    "mlp.up_proj": "to_hidden",
    "mlp.down_proj": "from_hidden",
}
QKV = ("query", "key", "value")
Place = tuple[object, Part, Tensor | None]  # rows of a weight, where they stand, and the factor of a label's classes


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our NEDS gives for a golden file, with the reference's quirks."""
    config = meta["config"]
    model = build(golden, config)
    places = {name: place_of(name, golden, model, config) for name in weights_of(golden, config)}
    copy(golden, places, model)
    model.still_read_outs = False  # the file holds gradients that the original never applies
    order = np.array(config["session_order"])
    found = {key: np.zeros_like(value) for key, value in golden.items() if key.startswith("out/")}
    terms: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for session in dict.fromkeys(config["session_order"]):
        rows = np.flatnonzero(order == session)
        batch = batch_of(golden, config, session, rows)
        drawn = torch.from_numpy(np.stack([mask(golden, name)[rows] for name in config["avail_mod"]], 1))
        model.draw = lambda able_B, drawn=drawn: drawn
        output = model.train()(batch)
        for name in CLASSES:
            if f"{TASK[name]}.tokens" in output:
                output[f"{TASK[name]}.tokens"] = torch.tensor(mask(golden, name).sum())
        losses = model.loss(batch, output, Progress(0, 1))
        for name in outputs_of(golden):
            task = RATES if name == "spike" else TASK[name]
            found[f"out/{name}"][rows] = array(output[task]).reshape(found[f"out/{name}"][rows].shape)
            n = output["scored"].sum() if name == "spike" else drawn[:, config["avail_mod"].index(name)].sum()
            terms.setdefault(name, []).append((losses[task], n))
    total = torch.zeros(())
    for name, parts in terms.items():
        n = sum(size for _, size in parts)
        loss = sum(term if name in CLASSES else term * size / n.clamp_min(1) for term, size in parts)
        found |= {f"loss/{name}": array(loss), f"loss/n_{name}": array(n)}
        total = total + loss
    found["loss/total"] = array(total)
    total.backward()
    grads = {f"grad/{name}": grad_of(golden[f"w/{name}"], rows) for name, rows in places.items()}
    return found | {key: grad for key, grad in grads.items() if key in golden}


def mask(golden: Golden, name: str) -> np.ndarray:
    """bool ``[B, T]``: what is hidden and predicted of a modality."""
    return golden[f"in/loss_mask_{name}"] > 0


def outputs_of(golden: Golden) -> list[str]:
    return [key.removeprefix("out/") for key in golden if key.startswith("out/")]


def build(golden: Golden, config: Mapping) -> Neds:
    """The model of the golden's configuration; sessions have as many units as the largest."""
    layers, embedder = config["cfg"]["encoder"]["transformer"], config["cfg"]["encoder"]["embedder"]
    if layers["use_scalenorm"] or layers["act"] != "gelu" or embedder["act"] != "softsign" or embedder["scale"] != 1:
        message = f"a reference configuration that is not rebuilt: {config['cfg']['encoder']}"
        raise ValueError(message)
    own = NedsConfig(
        form={"mm": "multimodal"}.get(config["mode"], config["mode"]),
        dim=layers["hidden_size"],
        layers=layers["n_layers"],
        heads=layers["n_heads"],
        hidden=layers["inter_size"],
        widen=embedder["mult"],
        dropout=layers["dropout"],
        dropout_embedding=embedder["dropout"],
        rope=layers["use_rope"],
        reference_quirks=True,
    )
    heads = [Head(RATES, "population", "counts", input="counts")] if config["mode"] != "decoding" else []
    for name in config["avail_beh"]:
        classes = CLASSES.get(name, 0)
        heads.append(Head(TASK[name], TASK[name].split(":")[0], "classes" if classes else "values", classes or 1))
    n_bins, n_units = golden["in/spike"].shape[1:]
    model = Neds(own, heads, Timing(n_bins * BIN_NS, BIN_NS))
    units = np.array([f"u{k}" for k in range(n_units)])
    sessions = dict.fromkeys(config["session_order"])
    model.add_sessions([SessionInfo(s, "reference", units, 0, 0, n_bins * BIN_NS) for s in sessions])
    return model


def batch_of(golden: Golden, config: Mapping, session: str, rows: np.ndarray) -> Batch:
    """The trials of one session."""
    counts = torch.from_numpy(golden["in/spike"][rows])
    n_windows, n_bins, _ = counts.shape
    bins = torch.arange(n_windows + 1) * n_bins
    time = torch.arange(n_bins).repeat(n_windows) * (BIN_NS / 1e9)
    ns = np.arange(n_windows * n_bins, dtype=np.int64) * BIN_NS
    counts = counts.flatten(0, 1)
    asked = {RATES: Asked(time, bins, ns, counts, counts != -1)} if config["mode"] != "decoding" else {}
    for name in config["avail_beh"]:
        value = torch.from_numpy(golden[f"in/{name}"][rows])
        if name in CLASSES:  # asked in the last bin
            last = slice(n_bins - 1, None, n_bins)
            offset = torch.arange(n_windows + 1)
            asked[TASK[name]] = Asked(time[last], offset, ns[last], value[:, 0].long(), torch.ones(n_windows))
        else:
            asked[TASK[name]] = Asked(time, bins, ns, value.reshape(-1, 1), torch.ones(len(ns)))
    columns = {"counts": counts, "observed": torch.ones(len(counts), dtype=torch.uint8)}
    return Batch(
        inputs={"counts": Tokens(columns, bins)},
        window_ns=n_bins * BIN_NS,
        session_B=torch.zeros(n_windows, dtype=torch.int64),
        sessions=[session] * n_windows,
        start_ns=np.arange(n_windows, dtype=np.int64) * n_bins * BIN_NS,
        asked=asked,
    )


# ---- weights --------------------------------------------------------------------------------------------------------


def weights_of(golden: Golden, config: Mapping) -> list[str]:
    """Names of the weights; the forms for one direction do not use the read-outs of the other."""
    names = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    unused = (".mod_stitcher_proj_dict.", ".mod_static_weight_dict.") if config["mode"] != "mm" else ()
    return [name for name in names if not any(part in name for part in unused)]


def place_of(name: str, golden: Golden, model: Neds, config: Mapping) -> list[Place]:
    """Where a weight of the original stands in ours."""
    whole = slice(None)
    if name == "mask_token":
        return [((0, 0), Part(model.mask_token), None)]
    if name.startswith("encoder_norm"):
        return [(whole, Part(model.get_parameter(name.replace("encoder_norm", "norm"))), None)]
    if name.startswith("encoder."):
        _, layer, part = name.split(".", 2)
        part, _, kind = part.rpartition(".")
        if part.removeprefix("attn.") in QKV:
            k, dim = QKV.index(part.removeprefix("attn.")), model.config.dim
            both = model.get_parameter(f"layers.{layer}.to_qkv.{kind}")
            return [(whole, Part(both, slice(k * dim, (k + 1) * dim)), None)]
        return [(whole, Part(model.get_parameter(f"layers.{layer}.{LAYER[part]}.{kind}")), None)]
    if "[" in name:  # of the forms for one direction
        modality, rest = name.split("[")[1].split("]")
        group = f"{name.split('[')[0]}{rest}"
    else:
        _, modality, group = name.split(".", 2)
    own = SPIKES if modality == "spike" else TASK[modality]
    key = module_key(own)
    if group == "embedder.mod_emb.weight":
        return [(config["avail_mod"].index(modality), Part(model.modality[key], slice(0, 1)), None)]
    if group == "embedder.pos_embed.weight":
        return [(whole, Part(model.position[key]), None)]
    if group == "embedder.session_emb.weight":
        index = dict(zip(config["session_order"], golden["in/session_index"].tolist(), strict=True))
        return [(i, Part.of(model.session_tables[key], s), None) for s, i in index.items()]
    group, session = group.removeprefix("embedder."), next(s for s in model.units if s in group)
    read_in, read_out = model.read_in[module_key(session)], model.read_out[module_key(session)]
    kind = group.rpartition(".")[2]
    if "static_weight" in group:
        return [(whole, Part(read_out[key].bins), None)]
    if "stitch_decoder" in group:
        return [(whole, Part(getattr(getattr(read_out[key], "out", read_out[key]), kind)), None)]
    if "project_dict" in group:
        return [(whole, Part(getattr(read_in[key].to_token, kind)), None)]
    classes = torch.arange(CLASSES[modality]).float() if modality in CLASSES and kind == "weight" else None
    return [(whole, Part(getattr(read_in[key].to_hidden, kind)), classes)]


def copy(golden: Golden, places: Mapping[str, list[Place]], model: Neds) -> None:
    """Every weight in its place.

    Raises:
        ValueError: a parameter of ours has none.
    """
    taken: dict[int, int] = {}
    for name, rows in places.items():
        for index, part, factor in rows:
            value = torch.from_numpy(golden[f"w/{name}"])[index]
            part.value.copy_((value if factor is None else value * factor).reshape(part.value.shape))
            taken[id(part.parameter)] = taken.get(id(part.parameter), 0) + part.value.numel()
    left = [name for name, p in model.named_parameters() if taken.get(id(p), 0) != p.numel()]
    if left:
        message = f"not in the file: {left}"
        raise ValueError(message)


def grad_of(weight: np.ndarray, rows: list[Place]) -> np.ndarray:
    """The gradient of a weight of the original."""
    found = torch.zeros(weight.shape)
    for index, part, factor in rows:
        if part.parameter.grad is None:
            continue
        grad = part.parameter.grad.to_dense()[part.rows or slice(None)]
        grad = grad if factor is None else (grad * factor).sum(1)
        found[index] = grad.reshape(found[index].shape)
    return array(found)
