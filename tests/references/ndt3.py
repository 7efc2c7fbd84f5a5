"""Replays the golden vectors of NDT3 (joel99/ndt3, 472466a) through spiketok's model.

Each dimension of the original's behaviour is a task of one component, for its trials have different numbers of them.
The original pads trials; what it makes of its padding is computed here from our layers, at the end of the stream, where
it has no influence on anything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.ndt3 import CONSTRAINT, RETURN, SPIKES, Ndt3, Ndt3Config
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights

LEFT_OUT: dict[str, str] = {}
NO_EFFECT = {f"w/backbone.ln_f.{kind}": "the norm after the layers is never applied" for kind in ("weight", "bias")}
RATES, BIN_NS = "population", 20_000_000
KIND_OF = {0: SPIKES, 1: 0, 2: CONSTRAINT, 3: RETURN}  # the original's index of a modality; behaviour is no input here
SPIKE_TASK = "task_pipelines.spike_infill"
BLOCK = {
    "mixer.Wqkv": "to_qkv",
    "mixer.out_proj": "to_out",
    "mixer.q_norm": "norm_query",
    "mixer.k_norm": "norm_key",
    "mlp.fc1": "to_hidden",
    "mlp.fc2": "from_hidden",
    "norm1": "norm_attention",
    "norm2": "norm_hidden",
}


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our NDT3 gives for a golden file, with the reference's quirks."""
    behaviour, returned = meta["config"]["tasks"][1], meta["config"]["tasks"][3]
    model = build(golden, meta)
    parts = parts_of(golden, model, behaviour, returned)
    check_constants(golden, model, behaviour)
    own = {f"w/{SPIKE_TASK}.loss.poisson_map", f"w/task_pipelines.{behaviour}.zscore_quantize_buckets"}
    copy_weights({key: value for key, value in golden.items() if key not in own}, parts)
    zeroed = golden.get("mid/kin_input_zeroed", np.zeros(golden["mid/time"].shape, np.bool_))
    # a place of the stream is that of the token before: what is zeroed there is what the next row would read
    drawn = torch.from_numpy(np.append(zeroed.any(0)[1:], False))
    model.draw_hidden = lambda n_tokens, device: drawn[:n_tokens]
    rewards = [golden["in/batch_task_reward"][b][:n] - 1 for b, n in enumerate(golden["in/batch_return_length"])]
    model.rewarded = lambda value, row, n_bins: torch.from_numpy(np.concatenate(rewards))
    batch = batch_of(golden, model)
    output = model.train()(batch)
    terms = model.loss(batch, output, Progress(0, 1))
    terms["total"].backward()
    read_out = {0: model.read_rates, 1: model.read_values}
    if "returns" in output:
        read_out[3] = model.read_returns
    said = {0: output["slots"], 1: of_behaviour(batch, output), 3: output.get("returns")}
    made = {kind: with_padding(golden, model, batch, kind, said[kind], layer) for kind, layer in read_out.items()}
    slots = made[0].unflatten(-1, (model.config.patch_size, -1)).transpose(1, 2)
    asked = {task: a for task, a in batch.asked.items() if task != RATES}
    weight = torch.stack([a.weight.sum() for a in asked.values()])
    found = {
        "loss/total": array(terms["total"]),
        "loss/spike_infill_loss": array(terms[RATES]),
        f"loss/{behaviour}_loss": array((torch.stack([terms[t] for t in asked]) * weight).sum() / weight.sum()),
        "out/spike_logits": array(slots),
        "out/kin_raw": array(made[1] if model.config.buckets else made[1][:, 0]),
    }
    if 3 in made:
        found |= {"loss/return_infill_loss": array(terms["returns"]), "out/return_logits": array(made[3])}
    for name, tensors in parts.items():
        if f"grad/{name}" in golden:
            grads = [t.grad if t.grad is not None else torch.zeros(t.shape) for t in tensors]
            found[f"grad/{name}"] = array(torch.cat([g.flatten() for g in grads])).reshape(golden[f"w/{name}"].shape)
    return found


def build(golden: Golden, meta: Mapping) -> Ndt3:
    """The model of the golden's configuration; each trial is a session."""
    config = meta["config"]
    classified = config["tasks"][1] == "kinematic_infill"
    weight = dict(zip(config["tasks"], config["weights"], strict=True))
    own = Ndt3Config(
        patch_size=config["K"],
        max_count=config["max_neuron_count"] - 1,
        dim=config["hidden"],
        layers=config["layers"],
        heads=config["heads"],
        ffn_factor=config["ffn_factor"],
        dropout=0.0,
        activation=config["activation"],
        qk_norm=config["qk_norm"],
        norm_affine=config["learnable_norm"],
        max_behaviours=config["behavior_dim"],
        max_patches=config["max_spatial_tokens_neural"],
        max_places=config["max_spatial_position"] + 1,  # with that of padding, which is zeros
        constraints="constraint",
        returns="return",
        return_weight=weight.get("return_infill", 0.0),
        hide_behaviour=config["kinematic_token_maskout"],
        buckets=config["quantize_classes"] if classified else 0,
        bucket_range=1.001,
        spike_weight=weight["spike_infill"],
        decode_weight=weight[config["tasks"][1]],
        reference_quirks=True,
    )
    n_dims = 1 + int(golden["in/batch_covariate_space"].max())
    heads = [Head(RATES, "population", "counts", input="counts")]
    heads += [Head(f"decode:{d}", "decode", "values", 1) for d in range(n_dims)]
    model = Ndt3(own, heads, Timing(n_bins_of(golden) * BIN_NS, BIN_NS))
    model.add_sessions(
        [
            SessionInfo(name, "m", np.array([f"u{k}" for k in range(n)]), 0, 0, n_bins_of(golden) * BIN_NS)
            for name, n in zip(names(golden), n_units(golden), strict=True)
        ]
    )
    return model


def names(golden: Golden) -> list[str]:
    return [f"made/trial{i}" for i in range(len(golden["in/batch_length"]))]


def n_units(golden: Golden) -> list[int]:
    return [golden[f"in/raw_trial{i}_spikes"].shape[1] for i in range(len(golden["in/batch_length"]))]


def n_bins_of(golden: Golden) -> int:
    return max(len(golden[f"in/raw_trial{i}_spikes"]) for i in range(len(golden["in/batch_length"])))


def check_constants(golden: Golden, model: Ndt3, behaviour: str) -> None:
    """Raise ValueError unless the softened counts and the edges of buckets are the original's, in single precision."""
    pairs = [(golden[f"w/{SPIKE_TASK}.loss.poisson_map"], model.softened)]
    if model.config.buckets:
        pairs.append((golden[f"w/task_pipelines.{behaviour}.zscore_quantize_buckets"], model.edges))
    for theirs, ours in pairs:
        if not np.allclose(theirs, ours.numpy(), rtol=1e-5, atol=1e-7):
            message = "a table of the file is not that of the model"
            raise ValueError(message)


def parts_of(golden: Golden, model: Ndt3, behaviour: str, returned: str) -> dict[str, list[Tensor]]:
    """Our parameters by the original's names; rows of padding are constants in ours."""
    nothing = torch.zeros(1, model.config.dim)
    kinematic, returns = f"task_pipelines.{behaviour}", f"task_pipelines.{returned}"
    parts = {
        "start_of_sentence": [model.start],
        "backbone.space_encoder.weight": [model.stack.space.weight],
        f"{SPIKE_TASK}.readin.weight": [model.count_table.weight],
        "task_pipelines.constraints.constraint_dims": [model.constraint_rows],
        f"{returns}.return_enc.weight": [nothing, model.return_table.weight],
        f"{returns}.reward_enc.weight": [nothing, model.reward_table.weight],
    }
    parts |= {f"{SPIKE_TASK}.out.0.{n}": [p] for n, p in model.read_rates.named_parameters()}
    if model.config.return_weight:
        parts |= {f"{returns}.out.{n}": [p] for n, p in model.read_returns.named_parameters()}
    if model.config.buckets:
        beyond = torch.from_numpy(golden[f"w/{kinematic}.inp.weight"][-1:].copy())  # a row of no bucket
        parts[f"{kinematic}.inp.weight"] = [model.value_in.weight, beyond]
        parts |= {f"{kinematic}.out.{n}": [p] for n, p in model.read_values.named_parameters()}
    else:
        parts |= {f"{kinematic}.inp.{n}": [p] for n, p in model.value_in.named_parameters()}
        parts |= {f"{kinematic}.out.0.{n}": [p] for n, p in model.read_values.named_parameters()}
    parts |= {f"backbone.ln_f.{n}": [p] for n, p in model.stack.norm.named_parameters()}
    for k, block in enumerate(model.stack.blocks):
        for theirs, ours in BLOCK.items():
            own = getattr(block, ours).named_parameters()
            parts |= {f"backbone.layers.{k}.{theirs}.{n}": [p] for n, p in own}
    return parts


def of_behaviour(batch: Batch, output: Mapping[str, Tensor]) -> Tensor:
    """What is said of behaviour, ``[tokens, classes or 1]``, in the order of the stream."""
    asked = {task: a for task, a in batch.asked.items() if task != RATES}
    raw = [output.get(f"{task}.logits", output[task][..., None])[:, 0] for task in asked]
    ns = np.concatenate([a.ns for a in asked.values()])
    dim = np.repeat(range(len(asked)), [len(a.ns) for a in asked.values()])
    return torch.cat(raw)[np.lexsort([dim, ns])]


def batch_of(golden: Golden, model: Ndt3) -> Batch:
    """The trials as windows of one length, of which only real tokens are there."""
    n_bins, n_slots = n_bins_of(golden), model.config.patch_size
    n_windows = len(golden["in/batch_length"])
    rows: list[tuple] = []  # of tokens: window, time, space, kind, where in the arrays of its kind
    places = sum(model.config.places[:1]), sum(model.config.places[:2]), sum(model.config.places[:3])
    for kind, length, time, space, place in (
        (CONSTRAINT, "constraint_length", "constraint_time", "constraint_space", places[0]),
        (SPIKES, "length", "time", "position", places[1]),
        (RETURN, "return_length", "task_return_time", None, places[2]),
    ):
        for b in range(n_windows):
            for i in range(golden[f"in/batch_{length}"][b]):
                where = golden[f"in/batch_{space}"][b, i] if space else 0
                rows.append((b, golden[f"in/batch_{time}"][b, i], place + where, kind, i))
    rows.sort()
    columns = {
        "patch": np.zeros((len(rows), n_slots), np.uint8),
        "unit": np.full((len(rows), n_slots), -1, np.int32),
        "time": np.array([r[1] for r in rows], np.int32),
        "space": np.array([r[2] for r in rows], np.int32),
        "n_real": np.zeros(len(rows), np.uint16),
        "observed": np.ones(len(rows), np.uint8),
        "kind": np.array([r[3] for r in rows], np.uint8),
        "value": np.zeros(len(rows), np.float32),
        "constraint": np.zeros((len(rows), 3), np.float32),
    }
    target = np.zeros((n_windows * n_bins, max(n_units(golden))))
    weight = np.zeros(target.shape, np.bool_)
    for row, (b, time, space, kind, i) in enumerate(rows):
        if kind == CONSTRAINT:
            columns["constraint"][row] = golden["in/batch_constraint"][b, i]
        elif kind == RETURN:
            columns["value"][row] = golden["in/batch_task_return"][b, i] - 1
        else:
            n, counts = golden["in/batch_channel_counts"][b, i], golden["in/batch_spikes"][b, i, :, 0]
            unit = (space - places[1]) * n_slots + np.arange(n)
            columns["patch"][row], columns["n_real"][row] = np.minimum(counts, model.config.max_count), n
            columns["unit"][row, :n] = unit
            target[b * n_bins + time, unit], weight[b * n_bins + time, unit] = counts[:n], True
    length = np.bincount([r[0] for r in rows], minlength=n_windows)
    window_ns = n_bins * BIN_NS
    start_ns = np.arange(n_windows, dtype=np.int64) * window_ns
    every = np.arange(n_windows * n_bins, dtype=np.int64) * BIN_NS
    asked = {RATES: Asked(*_times(every, start_ns, window_ns), torch.from_numpy(target), torch.from_numpy(weight))}
    for d, task in enumerate(model.behaviours):
        where = golden["in/batch_covariate_space"] == d
        where &= np.arange(where.shape[1]) < golden["in/batch_covariate_length"][:, None]
        window, _ = np.nonzero(where)
        ns = start_ns[window] + golden["in/batch_covariate_time"][where] * BIN_NS
        value, valid = golden["in/batch_bhvr_vel"][where], golden["in/batch_bhvr_mask"][where]
        times = _times(ns, start_ns, window_ns)
        asked[task] = Asked(*times, torch.from_numpy(value), torch.from_numpy(valid.astype(np.float32)))
    packed = {n: torch.from_numpy(c) for n, c in columns.items()}
    return Batch(
        inputs={"patches": Tokens(packed, torch.from_numpy(np.cumsum([0, *length])))},
        window_ns=window_ns,
        session_B=torch.tensor([model.session_row(name) for name in names(golden)]),
        sessions=names(golden),
        start_ns=start_ns,
        asked=asked,
    )


def _times(ns: np.ndarray, start_ns: np.ndarray, window_ns: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Times, offsets and ns of queries, which lie in order."""
    window = ns // window_ns
    offset = np.searchsorted(window, np.arange(len(start_ns) + 1))
    return torch.from_numpy((ns - start_ns[window]) / 1e9).float(), torch.from_numpy(offset), ns


def with_padding(golden: Golden, model: Ndt3, batch: Batch, kind: int, said: Tensor, layer: torch.nn.Module) -> Tensor:
    """What is said of all tokens of a modality, window by window, and in each what the original says of its padding."""
    said = said.flatten(1) if kind == 0 else said
    modality, padding = golden["mid/modality_index"], golden["mid/padding"]
    n_real = [int(((m == kind) & ~p).sum()) for m, p in zip(modality, padding, strict=True)]
    out = []
    for b, own in enumerate(said.split(n_real)):
        rest = torch.zeros(0, own.shape[1])
        if padding[b].any():
            features = of_padding(golden, model, batch, b)
            rest = layer(features[torch.from_numpy(modality[b][padding[b]] == kind)])
        out += [own, rest]
    return torch.cat(out)


@torch.no_grad()
def of_padding(golden: Golden, model: Ndt3, batch: Batch, b: int) -> Tensor:
    """``[tokens, D]``, the features of the padding behind a window."""
    padding = golden["mid/padding"][b]
    columns, length = batch.inputs["patches"].packed()
    n_bins = n_bins_of(golden)
    sequence = model._sequence(batch, columns, length, model._behaviours(batch, n_bins), n_bins)
    real = sequence.window == b
    silent = model.count_table.weight[0].repeat(model.config.patch_size)
    zero = model._embed_values(torch.zeros(1))[0]
    nothing = torch.zeros(model.config.dim)
    of = {0: silent, 1: zero, 2: nothing, 3: nothing}
    behind = torch.stack([of[kind] for kind in golden["mid/modality_index"][b][padding]])
    content = torch.cat([sequence.content[real], behind])
    if "mid/kin_input_zeroed" in golden:
        gone = torch.from_numpy(golden["mid/kin_input_zeroed"][b][1:])
        content[:-1] = torch.where(gone[:, None], 0.0, content[:-1])
    x = torch.cat([model.start[None], content[:-1]])
    space = torch.from_numpy(golden["mid/space"][b])
    time = torch.where(torch.from_numpy(padding), 0, torch.from_numpy(golden["mid/time"][b]))
    return model.stack(x, space, time, model.stack.whole([len(x)]))[torch.from_numpy(padding)]
