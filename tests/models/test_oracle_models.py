"""Our models against their reference implementations from PyPI, with the reference's weights copied in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spiketok.models.batch import Asked, Batch, Head, Timing, Tokens
from spiketok.models.poyo import Poyo, PoyoConfig
from spiketok.recording.nouns import SessionInfo

pytestmark = pytest.mark.oracle

TASK = "decode:v"
SHAPES = {
    "tiny": ({**Poyo.sizes["tiny"]}, 1.0),
    "1.3M": ({**Poyo.sizes["1.3M"]}, 1.0),
    "one head, no layer": ({"dim": 16, "depth": 0, "dim_head": 8, "cross_heads": 1, "latents_per_step": 3}, 0.5),
    "window is no multiple of the step": ({"dim": 32, "depth": 1, "dim_head": 16, "self_heads": 2}, 0.7),
}


def info(name: str, n_units: int) -> SessionInfo:
    return SessionInfo(f"toy/{name}", "m", np.array([f"u{i}" for i in range(n_units)]), 0, 0, 10**10)


def reference(config: PoyoConfig, window_s: float, infos: list[SessionInfo], n_components: int):
    models = pytest.importorskip("torch_brain.models", reason="torch_brain is not installed (make oracle)")
    model = models.POYO(
        sequence_length=window_s,
        latent_step=config.latent_step_ms / 1e3,
        num_latents_per_step=config.latents_per_step,
        dim_out=n_components,
        dim=config.dim,
        depth=config.depth,
        dim_head=config.dim_head,
        cross_heads=config.cross_heads,
        self_heads=config.self_heads,
    )
    model.unit_emb.initialize_vocab([key for i in infos for key in i.unit_keys()])
    model.session_emb.initialize_vocab([i.id for i in infos])
    with torch.no_grad():
        model.unit_emb.weight[0] = 0.0  # the row of padding, which the mask hides anyway
        for parameter in model.parameters():  # far from the start, where attention is flat and a mix-up goes unseen
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(2.0)
    return model.eval()


def pairs(theirs, ours: Poyo) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, reference parameter or its gradient holder, our parameter) for all parameters of both."""
    names = dict(theirs.named_parameters())
    found = []

    def pair(their_name: str, our: torch.Tensor) -> None:
        found.append((their_name, names.pop(their_name), our))

    def cross(prefix: str, block) -> None:
        for a, b in (("norm", "norm_query"), ("norm_context", "norm_context"), ("to_out", "to_out")):
            pair(f"{prefix}.{a}.weight", getattr(block, b).weight)
            pair(f"{prefix}.{a}.bias", getattr(block, b).bias)
        pair(f"{prefix}.to_q.weight", block.to_query.weight)
        pair(f"{prefix}.to_kv.weight", block.to_key_value.weight)

    def feed_forward(prefix: str, block) -> None:
        for a, b in (("0", "norm"), ("1.net.0", "to_hidden"), ("1.net.3", "to_out")):
            pair(f"{prefix}.{a}.weight", getattr(block, b).weight)
            pair(f"{prefix}.{a}.bias", getattr(block, b).bias)

    pair("token_type_emb.weight", ours.types.weight)
    pair("latent_emb.weight", ours.latents.weight)
    cross("enc_atn", ours.encoder)
    cross("dec_atn", ours.decoder)
    feed_forward("enc_ffn", ours.encoder_ffn)
    feed_forward("dec_ffn", ours.decoder_ffn)
    for i, (attend, block) in enumerate(ours.layers):
        for name in ("norm", "to_out"):
            pair(f"proc_layers.{i}.0.{name}.weight", getattr(attend, name).weight)
            pair(f"proc_layers.{i}.0.{name}.bias", getattr(attend, name).bias)
        pair(f"proc_layers.{i}.0.to_qkv.weight", attend.to_qkv.weight)
        feed_forward(f"proc_layers.{i}.1", block)
    pair("readout.weight", ours.readout.weight)
    pair("readout.bias", ours.readout.bias)
    assert sorted(names) == ["session_emb.weight", "unit_emb.weight"]
    return found


def tokens(rng, infos, ours: Poyo, window_s: float):
    """Per window the columns that torch_brain's tokenizer makes: start and end of each unit, then spikes in time."""
    windows = []
    for session in (0, 1, 1, 0, 1):
        rows = ours.unit_row(infos[session]).astype(np.int64)
        n_spikes = int(rng.integers(0, 60))
        unit = np.concatenate([np.repeat(rows, 2), rng.choice(rows, n_spikes)])
        kind = np.concatenate([np.tile([1, 2], len(rows)), np.zeros(n_spikes, np.int64)])
        time = np.concatenate([np.tile([0.0, window_s], len(rows)), np.sort(rng.uniform(0, window_s, n_spikes))])
        windows.append(
            (session, unit, kind, time.astype(np.float32), np.sort(rng.uniform(0, window_s, 9)).astype("f4"))
        )
    return windows


@pytest.mark.parametrize("shape", SHAPES)
def test_poyo_is_torch_brains(shape):
    values, window_s = SHAPES[shape]
    config, head = PoyoConfig(**values), Head(TASK, "decode", "values", 2, ("x", "y"))
    timing = Timing(round(window_s * 1e9), 20_000_000)
    infos = [info("a", 5), info("b", 9)]
    torch.manual_seed(3)
    theirs, ours = reference(config, window_s, infos, 2), Poyo(config, [head], timing).eval()
    ours.add_sessions(infos)
    parameters = pairs(theirs, ours)
    with torch.no_grad():
        for _, a, b in parameters:
            b.copy_(a)
        for i in infos:
            ours.units.block(i.id).copy_(theirs.unit_emb.weight[torch.from_numpy(ours.unit_row(i)).long()])
            ours.session_table.block(i.id)[0] = theirs.session_emb.weight[theirs.session_emb.tokenizer(i.id)]

    windows = tokens(np.random.default_rng(0), infos, ours, window_s)
    length = max(len(w[1]) for w in windows)

    def padded(column: int, dtype) -> torch.Tensor:
        rows = [np.pad(w[column], (0, length - len(w[column]))) for w in windows]
        return torch.from_numpy(np.stack(rows).astype(dtype))

    from torch_brain.models.poyo import create_linspace_latent_tokens

    step_s, per_step = config.latent_step_ms / 1e3, config.latents_per_step
    index, time = create_linspace_latent_tokens(0, window_s, step=step_s, num_latents_per_step=per_step)
    expected = theirs(
        input_unit_index=padded(1, np.int64),
        input_timestamps=padded(3, np.float32),
        input_token_type=padded(2, np.int64),
        input_mask=torch.tensor([[i < len(w[1]) for i in range(length)] for w in windows]),
        latent_index=torch.from_numpy(index).expand(len(windows), -1),
        latent_timestamps=torch.from_numpy(time).float().expand(len(windows), -1),
        session_index=torch.tensor([theirs.session_emb.tokenizer(infos[w[0]].id) for w in windows]),
        output_timestamps=torch.from_numpy(np.stack([w[4] for w in windows])),
    ).flatten(0, 1)

    n_query = [len(w[4]) for w in windows]
    spikes = Tokens(
        {
            "unit": torch.from_numpy(np.concatenate([w[1] for w in windows]).astype(np.int32)),
            "type": torch.from_numpy(np.concatenate([w[2] for w in windows]).astype(np.uint8)),
            "time": torch.from_numpy(np.concatenate([w[3] for w in windows])),
        },
        offset=torch.tensor(np.cumsum([0] + [len(w[1]) for w in windows])),
    )
    asked = Asked(
        time=torch.from_numpy(np.concatenate([w[4] for w in windows])),
        offset=torch.tensor(np.cumsum([0, *n_query])),
        ns=np.concatenate([(w[4] * 1e9).astype(np.int64) for w in windows]),
        target=torch.zeros(sum(n_query), 2),
        weight=torch.ones(sum(n_query)),
    )
    batch = Batch(
        inputs={"spikes": spikes},
        window_ns=timing.window_ns,
        session_B=torch.tensor([ours.session_row(infos[w[0]].id) for w in windows]),
        sessions=[infos[w[0]].id for w in windows],
        start_ns=np.zeros(len(windows), np.int64),
        asked={TASK: asked},
    )
    got = ours(batch)[TASK]
    assert expected.unflatten(0, (len(windows), -1)).std(1).mean() > 0.05  # it does depend on the query's time
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    direction = torch.randn_like(expected)
    (expected * direction).sum().backward()
    (got * direction).sum().backward()
    for name, a, b in parameters:
        scale = a.grad.abs().max().clamp_min(1.0)
        torch.testing.assert_close(b.grad / scale, a.grad / scale, rtol=1e-4, atol=1e-5, msg=name)
    for i in infos:
        rows = torch.from_numpy(ours.unit_row(i)).long()
        grad = ours.units.weight.grad.to_dense()[ours.units.span(i.id)]
        torch.testing.assert_close(grad, theirs.unit_emb.weight.grad[rows], rtol=1e-3, atol=1e-4)
        grad = ours.session_table.weight.grad.to_dense()[ours.session_table.span(i.id)]
        row = theirs.session_emb.tokenizer(i.id)
        torch.testing.assert_close(grad[0], theirs.session_emb.weight.grad[row], rtol=1e-3, atol=1e-4)
