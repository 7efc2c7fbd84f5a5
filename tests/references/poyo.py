"""POYO's golden: tokens of two sessions, padded as the original had them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.perceiver import Perceiver
from spiketok.models.poyo import Poyo, PoyoConfig
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights, grad_norms

LEFT_OUT = {
    "out/pred_reference_dtypes": "the original's times of tokens and latents in float64; ours are float32 throughout"
}
TASK = "decode:x"


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our POYO gives for its golden file."""
    model, sessions = build(meta)
    parts = parts_of(model)
    copy_weights(golden, parts)
    batch = batch_of(golden, meta, model, sessions)
    output = model(batch)
    loss = model.loss(batch, output, Progress(0, 1))["total"]
    loss.backward()
    n_windows, n_queries = golden["in/output_timestamps"].shape
    return {
        "out/pred": array(output[TASK]).reshape(n_windows, n_queries, -1),
        "loss/weighted_mse": array(loss),
        **grad_norms(parts),
    }


def build(meta: Mapping) -> tuple[Poyo, list[SessionInfo]]:
    """The model of the golden's configuration, and its sessions in the order of the original's vocabulary."""
    own = PoyoConfig(**trunk_fields(meta["config"]))
    return with_sessions(Poyo, own, [Head(TASK, "decode", "values", size=meta["config"]["dim_out"])], meta)


def trunk_fields(config: Mapping) -> dict[str, object]:
    """The original's numbers of the trunk by our names."""
    return {
        "dim": config["dim"],
        "depth": config["depth"],
        "dim_head": config["dim_head"],
        "cross_heads": config["cross_heads"],
        "self_heads": config["self_heads"],
        "latent_step_ms": config["latent_step"] * 1e3,
        "latents_per_step": config["num_latents_per_step"],
        "dropout_ffn": config["ffn_dropout"],
        "dropout_lin": config["lin_dropout"],
        "dropout_attention": config["atn_dropout"],
        "t_min_s": config["t_min"],
        "t_max_s": config["t_max"],
    }


def with_sessions(cls, own, heads: list[Head], meta: Mapping):
    """A model of a configuration that holds the golden's sessions, and these."""
    window_ns = round(meta["config"]["sequence_length"] * 1e9)
    model = cls(own, heads, Timing(window_ns, 20_000_000)).eval()
    sessions = []
    for name in _words(meta["session_vocab"]):
        units = [word.removeprefix(f"{name}/") for word in _words(meta["unit_vocab"]) if word.startswith(f"{name}/")]
        sessions.append(SessionInfo(name, "s", np.array(units), 0, 0, window_ns))
    model.add_sessions(sessions)
    return model, sessions


def _words(vocabulary: Mapping[str, int]) -> list[str]:
    """The words in the order of their rows, without the one of padding."""
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[word] for word in words] != list(range(len(words))) or words[0] != "NA":
        message = f"the rows of a vocabulary are {sorted(vocabulary.values())}, expected all from 0, 'NA' first"
        raise ValueError(message)
    return words[1:]


def parts_of(model: Poyo) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the original's names."""
    types = {"token_type_emb.weight": [model.types.weight]}
    return trunk_parts(model) | types | layer_parts("readout", model.readout)


def layer_parts(theirs: str, layer: torch.nn.Module) -> dict[str, list[torch.Tensor]]:
    bias = {} if layer.bias is None else {f"{theirs}.bias": [layer.bias]}
    return {f"{theirs}.weight": [layer.weight]} | bias


def trunk_parts(model: Perceiver) -> dict[str, list[torch.Tensor]]:
    """The parameters of tables and trunk by the original's names; the row of padding is a constant in ours."""
    omega = model.rotary.omega
    parts = {
        "unit_emb.weight": [torch.zeros(1, model.units.dim), model.units.weight],
        "session_emb.weight": [torch.zeros(1, model.session_table.dim), model.session_table.weight],
        "latent_emb.weight": [model.latents.weight],
        "rotary_emb.omega": [omega, torch.zeros_like(omega)],
    }

    def take(theirs: str, layer: torch.nn.Module) -> None:
        parts.update(layer_parts(theirs, layer))

    def cross(prefix: str, block: torch.nn.Module) -> None:
        take(f"{prefix}.norm", block.norm_query)
        take(f"{prefix}.norm_context", block.norm_context)
        take(f"{prefix}.to_q", block.to_query)
        take(f"{prefix}.to_kv", block.to_key_value)
        take(f"{prefix}.to_out", block.to_out)

    def feed_forward(prefix: str, block: torch.nn.Module) -> None:
        take(f"{prefix}.0", block.norm)
        take(f"{prefix}.1.net.0", block.to_hidden)
        take(f"{prefix}.1.net.3", block.to_out)

    cross("enc_atn", model.encoder)
    feed_forward("enc_ffn", model.encoder_ffn)
    for i, (attend, block) in enumerate(model.layers):
        for theirs, own in (("norm", "norm"), ("to_qkv", "to_qkv"), ("to_out", "to_out")):
            take(f"proc_layers.{i}.0.{theirs}", getattr(attend, own))
        feed_forward(f"proc_layers.{i}.1", block)
    cross("dec_atn", model.decoder)
    feed_forward("dec_ffn", model.decoder_ffn)
    return parts


def batch_of(golden: Golden, meta: Mapping, model: Poyo, sessions: list[SessionInfo]) -> Batch:
    """The golden's tokens without their padding; all of its queries, those of padding with weight 0."""
    config, rows = meta["config"], torch.from_numpy(golden["in/session_index"]) - 1  # row 0 is padding
    window_ns = round(config["sequence_length"] * 1e9)
    require_latents(golden, model, window_ns)
    tokens = Tokens(
        columns={
            "unit": torch.from_numpy(golden["in/input_unit_index"].astype(np.int32)),
            "type": torch.from_numpy(golden["in/input_token_type"].astype(np.uint8)),
            "time": torch.from_numpy(golden["in/input_timestamps"]),
        },
        valid_BL=torch.from_numpy(golden["in/input_mask"]),
    )
    time = golden["in/output_timestamps"]
    n_windows, n_queries = time.shape
    asked = Asked(
        time=torch.from_numpy(time).flatten(),
        offset=torch.arange(n_windows + 1) * n_queries,
        ns=(time.astype(np.float64) * 1e9).round().astype(np.int64).ravel(),
        target=torch.from_numpy(golden["in/target"]).flatten(0, 1),
        weight=torch.from_numpy(golden["in/weight"] * golden["in/output_mask"]).flatten(),
    )
    present, inverse = torch.unique(rows, return_inverse=True)
    return Batch(
        inputs={"spikes": tokens},
        window_ns=window_ns,
        session_B=rows,
        sessions=[sessions[i].id for i in rows.tolist()],
        start_ns=np.zeros(n_windows, np.int64),
        asked={TASK: asked},
        present=[sessions[i].id for i in present.tolist()],
        present_B=inverse,
    )


def require_latents(golden: Golden, model: Perceiver, window_ns: int) -> None:
    """Raise ValueError where the original's latents stand at other times than ours."""
    step_ns = round(model.config.latent_step_ms * 1e6)
    start_s = torch.arange(0, window_ns, step_ns, dtype=torch.float64) / 1e9
    ours = (start_s + step_ns / 2e9).float().repeat_interleave(model.config.latents_per_step)
    for theirs in torch.from_numpy(golden["in/latent_timestamps"]):
        if not torch.allclose(theirs, ours, rtol=1e-6):
            message = f"the golden's latents stand at {theirs.tolist()} s, ours elsewhere"
            raise ValueError(message)
