"""Neuroformer's goldens: padded sentences of one session, and spikes that the original drew."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from spiketok.models.batch import Asked, Batch, Generation, Head, Progress, Timing, Tokens
from spiketok.models.neuroformer import Neuroformer, NeuroformerConfig
from spiketok.models.neuroformer_layers import CURRENT, HISTORY, Context, Stream, last_frames
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights, grad_norms

BLOCKS = (
    *(f"feature_encoder.{name}" for name in ("neural_state_blocks.0", "neural_state_blocks.1", "frame_state_blocks.0")),
    *(
        f"neural_visual_transformer.neural_state_{name}"
        for name in ("blocks.0", "blocks.1", "history_blocks.0", "stimulus_blocks.0")
    ),
)
KEY_BIAS = "one number for all keys changes no softmax"
NO_EFFECT = {f"w/{name}.attn.key.bias": KEY_BIAS for name in BLOCKS} | {
    f"w/neural_visual_transformer.ln_f.{kind}": "made by the original and applied by nothing"
    for kind in ("weight", "bias")
}
LEFT_OUT = {
    "out/gen/temp/*": "drawn at a temperature and with a filter that the file does not name",
    "mid/grad_norm/*.attn.key.bias": KEY_BIAS,
}
SESSION, EVENTS = "golden/a", "events"


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our Neuroformer gives for a golden file."""
    model = build(golden, meta)
    parts = parts_of(model, golden)
    copy_weights(golden, parts)
    batch = batch_of(golden, model)
    current, context = Stream.of(batch.inputs["spikes"], CURRENT), context_of(golden, model, batch)
    model.context = lambda _: context  # behaviours come with times and values as they are, not as categories
    output = model(batch)
    terms = model.loss(batch, output, Progress(0, 1))
    terms["total"].backward()
    unit, step = model.logits(SESSION, model.encode(current, context)[0])
    units, steps = model.event_losses(batch, output)
    found = {"out/id": array(unit), "out/dt": array(step), "loss/total": array(terms["total"])}
    found |= {"loss/id": array(0.45 * units), "loss/time": array(0.30 * steps)}
    if model.contrast is not None:
        found["loss/clip"] = array(terms["contrast"])
    for head in model.behaviour_heads:
        found |= {f"out/{head.task}": array(output[head.task]), f"loss/{head.task}": array(terms[head.task])}
    norms = grad_norms({name: own for name, own in parts.items() if not name.endswith("attn.key.bias")})
    found |= {key: norm for key, norm in norms.items() if key in golden}
    for way in ("true_past", "pred_past"):
        if f"out/gen/{way}/ID" in golden:
            found |= generated(golden, meta, model, way)
    return found


def build(golden: Golden, meta: Mapping) -> Neuroformer:
    """The model of the golden's configuration, with its one session."""
    config, windows = meta["config"], meta["config"]["window"]
    layers, block = config["layers"], config["block_size"]
    groups = config.get("modalities", {})
    variables = groups.get("behavior", {}).get("variables", {})
    told = [name for name, about in variables.items() if about["predict"]]
    read = tuple(name for name, about in variables.items() if not about["predict"])
    frames, kernel = golden["in/x/frames"], tuple(config["frame_encoder"]["kernel_size"])
    contrast = [v if isinstance(v, str) else next(iter(v.values())) for v in config["contrastive"]["vars"]]
    own = NeuroformerConfig(
        dim=config["n_embd"],
        heads=config["n_head"],
        state_layers=layers["state"],
        history_layers=layers["state_history"],
        frame_layers=layers["stimulus"],
        behaviour_layers=groups.get("behavior", {}).get("n_layers", 0),
        step_ms=config["resolution"]["dt"] * 1e3,
        history_ms=windows["prev"] * 1e3,
        max_current=block["id"],
        max_history=block["prev_id"],
        frames=True,
        frame_ms=windows["frame"] * 1e3,
        frame_hz=1 / config["resolution"]["frames"],
        frame_size=frames.shape[-2:],
        frame_kernel=kernel,
        frame_stride=kernel,
        behaviours=read,
        contrastive=config["contrastive"]["contrastive"],
        contrast=tuple(contrast),
        temperature=config["contrastive"]["clip_temp"],
        dropout=0.0,
        reference_quirks=True,
    )
    heads = [Head(EVENTS, "events", "events"), *(Head(name, "decode", "values", 1) for name in told)]
    model = Neuroformer(own, heads, Timing(round(windows["curr"] * 1e9), 10_000_000)).eval()
    n_units = len(meta["id_vocab"]) - 3
    model.add_sessions([SessionInfo(SESSION, "m", np.array([f"u{k}" for k in range(n_units)]), 0, 0, 10**9)])
    return model


def parts_of(model: Neuroformer, golden: Golden) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the original's names; those that it makes and never reads stand for themselves."""
    parts: dict[str, list[torch.Tensor]] = {
        "tok_emb.weight": [model.units.weight, model.special],
        "head_id.weight": [model.unit_heads.weight, model.special_heads],
        "pos_emb": [model.place[CURRENT]],  # copied row by row: the original has one more axis
        "pos_emb_prev": [model.place[HISTORY]],
    }

    def take(theirs: str, layer: nn.Module) -> None:
        parts[f"{theirs}.weight"] = [layer.weight]
        if layer.bias is not None:
            parts[f"{theirs}.bias"] = [layer.bias]

    def blocks(theirs: str, own: nn.ModuleList) -> None:
        names = {"query": "to_query", "key": "to_key", "value": "to_value", "proj": "to_out"}
        for k, block in enumerate(own):
            for name, norm in (("ln1", block.norm_query), ("ln2", block.norm_hidden), ("ln_f", block.norm_out)):
                take(f"{theirs}.{k}.{name}", norm)
            for name, layer in names.items():
                take(f"{theirs}.{k}.attn.{name}", getattr(block, layer))
            take(f"{theirs}.{k}.mlp.0", block.to_hidden)
            take(f"{theirs}.{k}.mlp.2", block.from_hidden)

    for theirs, code in (("temp_emb", model.step_code[CURRENT]), ("temp_emb_prev", model.step_code[HISTORY])):
        take(f"{theirs}.temp_emb.0", code.to_hidden)
        take(f"{theirs}.temp_emb.2", code.to_out)
    take("head_dt", model.step_head)
    take("video_encoder.conv_block.0", model.frame_encoder.convolution)
    take("video_encoder.conv_block.2", model.frame_encoder.norm)
    blocks("feature_encoder.neural_state_blocks", model.first)
    blocks("feature_encoder.frame_state_blocks", model.among_frames)
    last = "neural_visual_transformer"
    blocks(f"{last}.neural_state_history_blocks", model.to_history)
    blocks(f"{last}.neural_state_stimulus_blocks", model.to_frames)
    blocks(f"{last}.modalities_blocks.behavior", model.to_behaviour)
    blocks(f"{last}.neural_state_blocks", model.last)
    if model.contrast is not None:
        take("clip.proj", model.contrast)
    for name, encoder in model.behaviour_encoder.items():
        take(f"modality_embeddings.behavior.{name}.mlp.ln", encoder.norm)
        take(f"modality_embeddings.behavior.{name}.mlp.mlp.0", encoder.to_hidden)
        take(f"modality_embeddings.behavior.{name}.mlp.mlp.2", encoder.to_out)
    for head in model.behaviour_heads:
        take(f"modality_projection_heads.behavior.{head.task}", model.read_out[head.task])
    parts |= constants(golden)
    for head in model.behaviour_heads:  # a behaviour that is told has an embedding that nothing reads
        prefix = f"w/modality_embeddings.behavior.{head.task}.mlp."
        parts |= {key[2:]: [nn.Parameter(torch.zeros(golden[key].shape))] for key in golden if key.startswith(prefix)}
    for kind in ("weight", "bias"):
        parts[f"{last}.ln_f.{kind}"] = [nn.Parameter(torch.zeros(model.config.dim))]
    return parts


def constants(golden: Golden) -> dict[str, list[torch.Tensor]]:
    """Masks and wavelengths, which the original keeps among its weights."""
    found = {}
    for key, value in golden.items():
        shape = value.shape
        if key.endswith(".mask"):
            found[key[2:]] = [torch.ones(shape).tril()]
        elif key.endswith((".inv_freq", ".div_term")):
            found[key[2:]] = [10_000.0 ** (-torch.arange(shape[0]) / shape[0])]
        elif key.startswith("w/") and key.endswith(".pe"):
            found[key[2:]] = [nn.Parameter(torch.zeros(shape))]
    return found


def batch_of(golden: Golden, model: Neuroformer) -> Batch:
    """The golden's windows; the next token of each is asked, but of PAD and what comes before it."""
    n_units, n_windows = len(model.units.words[SESSION]), len(golden["in/x/id"])
    tokens = tokens_of(model, [golden["in/x/id_prev"], golden["in/x/id"]], [golden["in/x/dt_prev"], golden["in/x/dt"]])
    told = golden["in/y/id"] <= n_units + 1
    unit, step = golden["in/y/id"][told], golden["in/y/dt"][told]
    unit = np.where(unit == n_units + 1, n_units, unit)
    offset = torch.from_numpy(np.concatenate([[0], np.cumsum(told.sum(1))]))

    def asked(target: np.ndarray, offset: torch.Tensor) -> Asked:
        n = len(target)
        return Asked(torch.zeros(n), offset, np.zeros(n, np.int64), torch.from_numpy(target), torch.ones(n))

    questions = {EVENTS: asked(np.stack([unit, step], 1), offset)}
    for head in model.behaviour_heads:
        value = golden[f"in/y/modalities/behavior/{head.task}/value"]
        questions[head.task] = asked(value, torch.arange(n_windows + 1))
    return Batch(
        inputs={"spikes": tokens},
        window_ns=model.timing.window_ns,
        session_B=torch.zeros(n_windows, dtype=torch.int64),
        sessions=[SESSION] * n_windows,
        start_ns=np.zeros(n_windows, np.int64),
        asked=questions,
    )


def tokens_of(model: Neuroformer, ids: list[np.ndarray], dts: list[np.ndarray]) -> Tokens:
    """Tokens of the streams' vocabularies, int64 ``[B, L]`` each; history, then current."""
    n_units, width = len(model.units.words[SESSION]), [part.shape[1] for part in ids]
    code, dt = (torch.from_numpy(np.concatenate(part, 1)).flatten() for part in (ids, dts))
    unit = torch.where(code < n_units, code + int(model.units.rows(SESSION)[0]), 0)
    stream = torch.repeat_interleave(torch.tensor([HISTORY, CURRENT][: len(width)]), torch.tensor(width))
    columns = {
        "unit": unit.int(),
        "dt": dt.to(torch.int16),
        "type": (code - n_units + 1).clamp_min(0).to(torch.uint8),
        "stream": stream.repeat(len(ids[0])).to(torch.uint8),
    }
    return Tokens(columns, torch.arange(len(ids[0]) + 1) * sum(width))


def frames_of(model: Neuroformer, frames: np.ndarray) -> torch.Tensor:
    """What the frame encoder gives for ``[B, F, height, width]``, by way of tokens of the scheme ``frames``."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).float()
    n, length = pixels.shape[:2]
    shown = torch.ones(n * length, dtype=torch.uint8)
    tokens = Tokens({"pixels": pixels.flatten(0, 1), "shown": shown}, torch.arange(n + 1) * length)
    return model.frame_encoder(last_frames(tokens, n, model.n_frames))


def context_of(golden: Golden, model: Neuroformer, batch: Batch) -> Context:
    history = Stream.of(batch.inputs["spikes"], HISTORY)
    behaviours, known = {}, None
    if model.config.behaviours:
        given = [f"in/x/modalities/behavior/{name}" for name in model.config.behaviours]
        value = torch.from_numpy(np.concatenate([golden[f"{key}/value"] for key in given], 2))
        behaviours = model.encode_behaviours(value, torch.from_numpy(golden[f"{given[0]}/dt"]))
        known = torch.ones(value.shape[:2], dtype=torch.bool)
    frames = frames_of(model, golden["in/x/frames"][:, 0])
    return Context(history, model._embed(history, HISTORY), frames, behaviours, known)


# ---- generation -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def generated(golden: Golden, meta: Mapping, model: Neuroformer, way: str) -> dict[str, np.ndarray]:
    """The likeliest spikes of each interval, after the recorded history; ``pred_past`` has it in another order."""
    n_units, block = len(model.units.words[SESSION]), model.config.max_current
    names = {code: word for word, code in meta["dt_vocab"].items()}
    marks = {"SOS": -1.0, "EOS": -2.0, "PAD": -3.0}
    id_prev, dt_prev = histories(golden, meta, model, way)
    frames = interval_frames(golden, meta)
    said: dict[str, list] = {"ID": [], "dt": [], "Interval": [], "final_id": [], "final_dt": []}
    for k, stop in enumerate(golden["in/intervals"]):
        tokens = tokens_of(model, [id_prev[k : k + 1]], [dt_prev[k : k + 1]])
        history = Stream.of(tokens, HISTORY)
        context = Context(history, model._embed(history, HISTORY), frames_of(model, frames[k : k + 1]))
        drawn = model.draw_sentence(SESSION, context, Generation(temperature=0), torch.Generator())
        final = [(n_units, 0), *drawn[: block - 2]]  # what is drawn last is told, and not written down
        final += [(n_units + 2, model.n_steps + 3)] * (block - len(final))
        said["final_id"].append([unit for unit, _ in final])
        said["final_dt"].append([step for _, step in final])
        for unit, step in drawn:
            said["ID"].append(unit if unit < n_units else said["ID"][-1])  # SOS names no unit: the one before it again
            said["dt"].append(marks[names[step]] if names[step] in marks else float(names[step]))
            said["Interval"].append(stop)
    kinds = {"final_id": np.int64, "final_dt": np.float32}
    found = {key: np.array(value, kinds.get(key, np.float64)) for key, value in said.items()}
    found |= {"id_prev_used": id_prev, "dt_prev_used": dt_prev.astype(np.float32)}
    return {f"out/gen/{way}/{key}": value for key, value in found.items()}


def histories(golden: Golden, meta: Mapping, model: Neuroformer, way: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 ``[intervals, max_history]`` twice: unit and step of the spikes before each interval, cell by cell."""
    counts, block, n_units = golden["in/spikes"], model.config.max_history, len(golden["in/spikes"])
    ids, dts = [], []
    for k, stop in enumerate(golden["in/intervals"]):
        current = round(stop / meta["config"]["resolution"]["dt"]) - model.window_steps
        first = max(current - model.history_steps, 0)
        spikes = [
            (unit, step - first)
            for step in range(first, current)
            for unit in range(n_units)
            for _ in range(int(counts[unit, step]))
        ]
        tokens = [(n_units, 0), *spikes[-(block - 2) :], (n_units + 1, model.end_dt)]
        tokens += [(n_units + 2, model.n_steps + 3)] * (block - len(tokens))
        if way == "pred_past" and k > model.history_steps // model.window_steps:
            tokens = [tokens[i] for i in np.argsort([-step for _, step in tokens], kind="stable")]
        ids.append([unit for unit, _ in tokens])
        dts.append([step for _, step in tokens])
    return np.array(ids), np.array(dts)


def interval_frames(golden: Golden, meta: Mapping) -> np.ndarray:
    """float32 ``[intervals, F, height, width]``: the frames up to the one that begins as an interval ends."""
    frames, n = golden["in/frames_all"], golden["in/x/frames"].shape[2]
    last = [round(stop / meta["config"]["resolution"]["frames"]) for stop in golden["in/intervals"]]
    return np.stack([frames[k - n + 1 : k + 1] for k in last])
