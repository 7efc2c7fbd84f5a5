"""POSSM's goldens: the branch's encoder and decoder around each backbone, filler with and without weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from spiketok.models.batch import Asked, Batch, Head, Progress, Tokens
from spiketok.models.nn import module_key
from spiketok.models.possm import Possm, PossmConfig
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights, grad_norms
from tests.references.possm_layers import Parts, mamba_parts, s4d_parts
from tests.references.poyo import with_sessions

LEFT_OUT: dict[str, str] = {}
BLANK = 3  # our type of a blank token


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our POSSM gives for a golden file."""
    model, sessions = build(golden, meta)
    parts = parts_of(model, golden, meta)
    copy_weights(golden, parts)
    n_windows = len(golden["in/spike_timestamps"])
    batch = batch_of(golden, meta, sessions, range(n_windows))
    found: dict[str, np.ndarray] = {}
    for quirks, word in ((False, "intended_mask/"), (True, "")):
        model.config = replace(model.config, reference_quirks=quirks)
        output = model(batch)
        terms = model.loss(batch, output, Progress(0, 1))
        found |= {f"out/{word}{task}": array(output[task]) for task in model.heads}
        found |= {f"loss/{word}task/{task}": array(terms[task]) for task in model.heads}
        found[f"loss/{word}total"] = array(terms["total"])
    terms["total"].backward()
    for b in range(n_windows):
        output = model(batch_of(golden, meta, sessions, [b]))
        found |= {f"out/sample{b}/{task}": array(rows) for task, rows in output.items()}
    return found | grad_norms(parts)


def build(golden: Golden, meta: Mapping) -> tuple[Possm, list[SessionInfo]]:
    """The model of the golden's configuration, and its sessions in the order of the original's vocabulary."""
    config = meta["config"]
    states = next((2 * v.shape[1] for k, v in golden.items() if k.endswith("kernel.log_A_real")), None)
    states = states or next((v.shape[1] for k, v in golden.items() if k.endswith("A_log")), 2)
    own = PossmConfig(
        dim=config["dim"],
        depth=config["depth"],
        dim_head=config["dim_head"],
        cross_heads=config["cross_heads"],
        self_heads=config["self_heads"],
        chunk_ms=config["bin_width"] * 1e3,
        chunk_step_ms=config["bin_step"] * 1e3,
        backbone=meta["backbone"],
        rnn_dim=config["rnn_dim"],
        rnn_layers=config["num_rnn_layers"],
        state_dim=states,
        context=config["output_ca_ctx_lim"],
        dropout_ffn=config["ffn_dropout"],
        dropout_lin=config["lin_dropout"],
        dropout_attention=config["atn_dropout"],
        dropout_rnn=config["rnn_dropout"],
        t_min_s=config["t_min"],
        t_max_s=config["t_max"],
        absolute_times=True,
    )
    tasks = sorted(meta["task_ids"].items(), key=lambda item: item[1][0])
    heads = [
        Head(task, "classify", "classes", size) if "Cross" in loss else Head(task, "decode", "values", size)
        for task, (_, size, loss) in tasks
    ]
    return with_sessions(Possm, own, heads, meta)


def parts_of(model: Possm, golden: Golden, meta: Mapping) -> Parts:
    """Our parameters by the original's names; the row of padding is a constant in ours."""
    padding, omega = torch.zeros(1, model.config.dim), model.rotary.omega
    rows = [model.task_rows[module_key(task)] for task in model.heads]
    parts: Parts = {
        "unit_emb.weight": [padding, model.units.weight],
        "session_emb.weight": [padding, model.session_table.weight],
        "token_type_emb.weight": [model.types.weight],
        "task_emb.weight": [model.task_padding, *rows],
        "latent_emb.weight": [model.latent],
        "rotary_emb.omega": [omega, torch.zeros_like(omega)],
    }

    def take(theirs: str, layer: nn.Module) -> None:
        parts[f"{theirs}.weight"] = [layer.weight]
        if layer.bias is not None:
            parts[f"{theirs}.bias"] = [layer.bias]

    def feed_forward(theirs: str, block: nn.Module) -> None:
        take(f"{theirs}.0", block.norm)
        take(f"{theirs}.1.net.0", block.to_hidden)
        take(f"{theirs}.1.net.3", block.to_out)

    for theirs, block in (("enc_atn", model.encoder), ("dec_atn", model.decoder)):
        take(f"{theirs}.norm", block.norm_query)
        take(f"{theirs}.norm_context", block.norm_context)
        take(f"{theirs}.to_q", block.to_query)
        take(f"{theirs}.to_kv", block.to_key_value)
        take(f"{theirs}.to_out", block.to_out)
    for i, (attend, block) in enumerate(model.layers):
        for name in ("norm", "to_qkv", "to_out"):
            take(f"proc_layers.{i}.0.{name}", getattr(attend, name))
        feed_forward(f"proc_layers.{i}.1", block)
    feed_forward("enc_ffn", model.encoder_ffn)
    feed_forward("dec_ffn", model.decoder_ffn)
    for task in model.heads:
        take(f"readout.projections.{task}", model.readouts[module_key(task)])
    backbone = model.backbone
    if meta["backbone"] == "gru":
        return parts | {f"backbone.net.{name}": [p] for name, p in backbone.net.named_parameters()}
    take("backbone.encoder", backbone.encoder)
    layers, of = ("s4_layers", s4d_parts) if meta["backbone"] == "s4d" else ("mamba_layers", mamba_parts)
    for i, (layer, norm) in enumerate(zip(backbone.layers, backbone.norms, strict=True)):
        parts |= {f"backbone.{layers}.{i}.{name}": own for name, own in of(layer).items()}
        take(f"backbone.norms.{i}", norm)
    if meta["backbone"] == "mamba":
        take("backbone.norm_f", backbone.norm)
    return parts


def batch_of(golden: Golden, meta: Mapping, sessions: list[SessionInfo], rows) -> Batch:
    """Some windows of the golden: real tokens and blanks, and the queries that are there."""
    rows = list(rows)
    real = golden["in/input_mask_intended"][rows]
    window, chunk, _ = np.nonzero(real)
    unit = golden["in/spike_unit_index"][rows][real]
    tokens = Tokens(
        columns={
            "unit": torch.from_numpy(unit.astype(np.int32)),
            "type": torch.from_numpy(np.where(unit == 0, BLANK, 0).astype(np.uint8)),
            "time": torch.from_numpy(golden["in/spike_timestamps"][rows][real]),
            "chunk": torch.from_numpy(chunk.astype(np.int32)),
        },
        offset=_offset(np.bincount(window, minlength=len(rows))),
    )
    row = golden["in/output_session_index"].max(1)[rows] - 1
    all_of = golden["in/output_decoder_index"]
    asked = {}
    for task, (number, *_) in meta["task_ids"].items():
        wanted = all_of[rows] == number
        time = golden["in/output_timestamps"][rows][wanted]
        if not len(time):
            continue
        own = np.isin(np.nonzero(all_of == number)[0], rows)  # targets stand in the order of all windows
        asked[task] = Asked(
            time=torch.from_numpy(time),
            offset=_offset(wanted.sum(1)),
            ns=(time.astype(np.float64) * 1e9).round().astype(np.int64),
            target=torch.from_numpy(golden[f"in/target/{task}"][own]),
            weight=torch.from_numpy(golden[f"in/target_weight/{task}"][own]),
        )
    return Batch(
        inputs={"spikes": tokens},
        window_ns=round(meta["config"]["sequence_length"] * 1e9),
        session_B=torch.from_numpy(row),
        sessions=[sessions[i].id for i in row.tolist()],
        start_ns=np.zeros(len(rows), np.int64),
        asked=asked,
    )


def _offset(n: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(n)]))
