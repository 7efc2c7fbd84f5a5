"""Replays the golden vectors of NDT2 (joel99/context_general_bci, 8b7226c) through spiketok's model.

The original's padding tokens are tokens of ours that were not observed, at the bin and patch that they have there: they
take part in the permutation, and what they compute is compared too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.models.base import Part
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.ndt2 import Ndt2, Ndt2Config
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights

LEFT_OUT: dict[str, str] = {}
RATES, BEHAVIOUR = "population", "decode:vel"
INFILL, KINEMATIC = "task_pipelines.shuffle_infill", "task_pipelines.kinematic_decoding"
CONTEXT = ("session", "subject", "task")
LAYER = {
    "self_attn.in_proj_weight": "to_qkv.weight",
    "self_attn.in_proj_bias": "to_qkv.bias",
    "self_attn.out_proj.weight": "to_out.weight",
    "self_attn.out_proj.bias": "to_out.bias",
    "linear1.weight": "to_hidden.weight",
    "linear1.bias": "to_hidden.bias",
    "linear2.weight": "from_hidden.weight",
    "linear2.bias": "from_hidden.bias",
    "norm1.weight": "norm_attention.weight",
    "norm1.bias": "norm_attention.bias",
    "norm2.weight": "norm_hidden.weight",
    "norm2.bias": "norm_hidden.bias",
}


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our NDT2 gives for a golden file, with the reference's quirks."""
    model, shuffle, n_kept = build(golden, meta), torch.from_numpy(golden["in/shuffle"]), meta["config"]["encoder_frac"]
    parts = parts_of(golden, model)
    own = context_parts(golden, model)
    if "softened" in dict(model.named_buffers()):
        check_softened(golden[f"w/{INFILL}.loss.poisson_map"], model)
    taken = {f"w/{name}" for name in own} | {f"w/{INFILL}.loss.poisson_map"}
    copy_weights({key: value for key, value in golden.items() if key not in taken}, parts)
    for name, rows in own.items():
        table = torch.from_numpy(golden[f"w/{name}"])
        for index, part in rows:
            part.value.copy_(table[index].reshape(part.value.shape))
    kept = torch.zeros(len(shuffle), dtype=torch.bool)
    kept[shuffle[:n_kept]] = True
    model.draw_kept = lambda n_tokens, device: kept
    batch = batch_of(golden, model)
    output = model.train()(batch)
    terms = model.loss(batch, output, Progress(0, 1))
    terms["total"].backward()
    found = {"loss/total": array(terms["total"])}
    if model.population:
        target = shuffle[n_kept:]
        slots = output["slots"].unflatten(0, (len(batch), -1))[:, target]
        found["out/lograte"] = array(slots.permute(0, 3, 1, 2) if slots.ndim == 4 else slots)
        counted = output["count"].unflatten(0, (len(batch), -1))[:, target]
        real = batch.inputs["patches"].columns["unit"].unflatten(0, (len(batch), -1))[:, target] >= 0
        # a slot of nobody has no count in ours; there it holds the value that pads
        padding = torch.from_numpy(golden["in/spikes"][..., 0])[:, target]
        found["out/spike_target"] = array(torch.where(real, counted.to(padding.dtype), padding))
        found["loss/shuffle_infill_loss"] = array(terms[RATES])
    if BEHAVIOUR in output:
        found["out/behavior_pred"] = array(output[BEHAVIOUR].nan_to_num(0.0)).reshape(golden["in/bhvr_vel"].shape)
        found["loss/kinematic_decoding_loss"] = array(terms[BEHAVIOUR])
    for name, tensors in parts.items():
        if f"grad/{name}" in golden:
            grads = [t.grad if t.grad is not None else torch.zeros(t.shape) for t in tensors]
            found[f"grad/{name}"] = array(torch.cat([g.flatten() for g in grads])).reshape(golden[f"w/{name}"].shape)
    for name, rows in own.items():
        if f"grad/{name}" in golden:
            grad = torch.zeros(golden[f"w/{name}"].shape)
            for index, part in rows:
                grad[index] += part.parameter.grad.to_dense()[part.rows].reshape(grad[index].shape)
            found[f"grad/{name}"] = array(grad)
    return found


def build(golden: Golden, meta: Mapping) -> Ndt2:
    """The model of the golden's configuration; each trial is a session, for there one session has two subjects."""
    config = meta["config"]
    bin_ns = round(config["bin_ms"] * 1e6)
    decodes, fills = ("kinematic_decoding" in config["tasks"], "shuffle_infill" in config["tasks"])
    weight = dict(zip(config["tasks"], config["task_weights"], strict=False))
    table = config["spike_embed_style"] == "token"
    linear = config["decode_strategy"] == "project"
    integration = {"in_context": "in_context", "cross_attn": "cross_attention"}[config["decoder_context_integration"]]
    own = Ndt2Config(
        patch_size=config["K"],
        max_count=config["max_neuron_count"] - 1 if table else 255,  # a line through the count takes it as it is
        embed="count_table" if table else "project",
        dim=config["hidden"],
        layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        heads=config["heads"],
        ffn_factor=config["ffn"] / config["hidden"],
        dropout=0.0,
        pre_norm=config["pre_norm"],
        causal=config["causal"],
        mask_ratio=config["mask_ratio"],
        max_bins=config["max_trial_length"],
        max_patches=len(golden["w/backbone.space_encoder.weight"]),
        session_tokens=config["session_tokens"],
        subject_token="w/subject_flag" in golden,
        dataset_token="w/task_flag" in golden,
        spike_loss="poisson" if config["spike_loss"] == "poisson" else "soft_ce",
        read_out="linear" if linear else integration,
        pool=linear or config["decode_time_pool"] == "mean",
        lag_ms=config["behavior_lag_ms"],
        decode_weight=weight.get("kinematic_decoding", 1.0) / weight.get("shuffle_infill", 1.0) if fills else 1.0,
        reference_quirks=True,
    )
    n_bins = golden["in/bhvr_vel"].shape[1]
    heads = [Head(RATES, "population", "counts", input="counts")] if fills else []
    heads += [Head(BEHAVIOUR, "decode", "values", golden["in/bhvr_vel"].shape[2])] if decodes else []
    model = Ndt2(own, heads, Timing(n_bins * bin_ns, bin_ns))
    units = np.array([f"u{k}" for k in range(own.patch_size * (1 + int(golden["in/position"].max())))])
    sessions = [
        SessionInfo(name, f"subject{golden['in/subject'][i]}", units, 0, 0, n_bins * bin_ns)
        for i, name in enumerate(names(golden))
    ]
    model.add_sessions(sessions)
    return model


def check_softened(table: np.ndarray, model: Ndt2) -> None:
    """Raise ValueError unless the softened counts are the original's, which it computes in single precision."""
    if not np.allclose(table, model.softened.numpy(), rtol=1e-5, atol=0):
        message = "the softened counts of the file are not those of the model"
        raise ValueError(message)


def names(golden: Golden) -> list[str]:
    """The session of each trial; the original's task is our dataset."""
    return [f"task{task}/trial{i}" for i, task in enumerate(golden["in/task"])]


def context_parts(golden: Golden, model: Ndt2) -> dict[str, list[tuple[int, Part]]]:
    """By the original's name of a table of context tokens, which of its rows each block of our tables is."""
    several = "w/session_embed" in golden  # tokens a session; the row of a session is a matrix then
    found = {
        "session_embed" if several else "session_embed.weight": [
            (golden["in/session"][i], Part.of(model.session_table, name)) for i, name in enumerate(names(golden))
        ]
    }
    for word, kind in (("subject", "subject"), ("task", "dataset")):
        if f"w/{word}_embed.weight" in golden:  # the row is the number at the end of our word
            table = getattr(model, f"{kind}_table")
            rows = [(int(block.rsplit(word)[-1]), Part.of(table, block)) for block in table.words]
            found[f"{word}_embed.weight"] = rows
    return found


def parts_of(golden: Golden, model: Ndt2) -> dict[str, list[Tensor]]:
    """Our parameters by the original's names; rows of padding are constants in ours."""
    dim = model.config.dim
    parts: dict[str, list[Tensor]] = {}
    if model.config.embed == "count_table":
        parts["readin.weight"] = [model.count_table.weight]
    else:
        parts |= {"readin.weight": [model.project.weight], "readin.bias": [model.project.bias]}
    for theirs, ours in zip(CONTEXT, ("session", "subject", "dataset"), strict=True):
        if hasattr(model, f"{ours}_flag"):
            parts[f"{theirs}_flag"] = [getattr(model, f"{ours}_flag")]
    parts |= stack_parts("backbone", model.encoder)
    if model.population:
        parts |= stack_parts(f"{INFILL}.decoder", model.infill)
        parts[f"{INFILL}.mask_token"] = [model.mask_token]
        parts |= {f"{INFILL}.out.0.{n}": [p] for n, p in model.read_rates.named_parameters()}
    for decoder in model.decoders.values():
        parts |= {f"{KINEMATIC}.out.{n}": [p] for n, p in decoder.named_parameters()}
    if hasattr(model, "behaviour"):
        padding = torch.zeros(1, dim)
        parts[f"{KINEMATIC}.injector.cls_token"] = [model.query_token]
        parts |= stack_parts(f"{KINEMATIC}.decoder", model.behaviour)
        parts[f"{KINEMATIC}.decoder.time_encoder.weight"].append(padding)
        if model.config.read_out == "in_context":
            parts[f"{KINEMATIC}.decoder.space_encoder.weight"] = [padding]
    return parts


def stack_parts(prefix: str, stack: nn.Module) -> dict[str, list[Tensor]]:
    """The parameters of one stack of layers with its tables."""
    parts = {f"{prefix}.time_encoder.weight": [stack.time.weight]}
    if getattr(stack, "space", None) is not None:
        parts[f"{prefix}.space_encoder.weight"] = [stack.space.weight]
    if isinstance(stack.norm, nn.LayerNorm):
        parts |= {f"{prefix}.final_norm.{n}": [p] for n, p in stack.norm.named_parameters()}
    for i, layer in enumerate(stack.layers):
        theirs = f"{prefix}.transformer_encoder.layers.{i}"
        inner = getattr(layer, "rest", layer)
        own = dict(inner.named_parameters())
        # of the layers that read others, the norms are numbered by another order
        number = {"norm2.": "norm3."} if inner is not layer else {}
        for name, key in LAYER.items():
            there = next((new + name.removeprefix(old) for old, new in number.items() if name.startswith(old)), name)
            parts[f"{theirs}.{there}"] = [own[key]]
        if inner is not layer:
            for kind in ("weight", "bias"):
                query, both = getattr(layer.to_query, kind), getattr(layer.to_key_value, kind)
                parts[f"{theirs}.multihead_attn.in_proj_{kind}"] = [query, both]
                parts[f"{theirs}.multihead_attn.out_proj.{kind}"] = [getattr(layer.to_out, kind)]
                parts[f"{theirs}.norm2.{kind}"] = [getattr(layer.norm, kind)]
    return parts


def batch_of(golden: Golden, model: Ndt2) -> Batch:
    """The trials as windows of one length."""
    spikes, length = torch.from_numpy(golden["in/spikes"][..., 0]).long(), torch.from_numpy(golden["in/length"])
    n_windows, n_tokens, n_slots = spikes.shape
    n_bins, bin_ns = golden["in/bhvr_vel"].shape[1], model.timing.bin_ns
    window_ns = n_bins * bin_ns
    observed = torch.arange(n_tokens) < length[:, None]
    n_real = torch.where(observed, torch.from_numpy(golden["in/channel_counts"]), 0)
    time, space = torch.from_numpy(golden["in/time"]), torch.from_numpy(golden["in/position"])
    slot = torch.arange(n_slots)
    unit = torch.where(slot < n_real[..., None], space[..., None] * n_slots + slot, -1)
    target = torch.zeros(n_windows, n_bins, n_slots * (1 + int(space.max())))
    window = torch.arange(n_windows)[:, None, None].expand(unit.shape)
    real = unit >= 0
    target[window[real], time[..., None].expand(unit.shape)[real], unit[real]] = spikes[real].float()
    weight = torch.zeros(target.shape, dtype=torch.bool)
    weight[window[real], time[..., None].expand(unit.shape)[real], unit[real]] = True
    columns = {
        "patch": spikes.clamp_max(model.config.max_count).to(torch.uint8),
        "unit": unit.int(),
        "time": time.int(),
        "space": space.int(),
        "n_real": n_real.to(torch.uint16),
        "observed": observed.to(torch.uint8),
    }
    offset, ns = torch.arange(n_windows + 1) * n_bins, np.arange(n_windows * n_bins, dtype=np.int64) * bin_ns
    seconds = torch.arange(n_bins).repeat(n_windows) * (bin_ns / 1e9)
    asked = {}
    if model.population:
        asked[RATES] = Asked(seconds.float(), offset, ns, target.flatten(0, 1), weight.flatten(0, 1))
    if model.decoders:
        valid = torch.arange(n_bins) < torch.from_numpy(golden["in/covariate_length"])[:, None]
        vel = torch.from_numpy(golden["in/bhvr_vel"]).flatten(0, 1)
        asked[BEHAVIOUR] = Asked(seconds.float(), offset, ns, vel, valid.flatten().float())
    return Batch(
        inputs={
            "patches": Tokens({n: c.flatten(0, 1) for n, c in columns.items()}, torch.arange(n_windows + 1) * n_tokens)
        },
        window_ns=window_ns,
        session_B=torch.tensor([model.session_row(name) for name in names(golden)]),
        sessions=names(golden),
        start_ns=np.arange(n_windows, dtype=np.int64) * window_ns,
        asked=asked,
    )
