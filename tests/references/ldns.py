"""Replays the golden vectors of LDNS (mackelab/LDNS, 24d4a0c) and of its S4 layer through spiketok's model."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from spiketok.models.batch import Head, Timing
from spiketok.models.ldns import Ldns, LdnsConfig, diffusion_loss, latent_size, reconstruction_loss
from spiketok.models.ldns_layers import S4, Denoiser, NoiseSchedule
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights, grad_norms

LEFT_OUT: dict[str, str] = {}
BIN_NS = 5_000_000
SESSION = "reference/one"
BEFORE = "w/before_first_forward/"
TD_BINS = 5


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """Outputs, losses, norms of gradients and steps of the scheduler, under the golden's keys.

    Raises:
        ValueError: a weight has no place, or a kernel's C does not belong to what it was before the first forward.
    """
    with torch.enable_grad():
        if "in/x" in golden:
            return _replay_s4(golden, meta["config"])
        return _replay_denoiser(golden, meta["config"]) if "in/z" in golden else _replay_autoencoder(golden, meta)


def _layers(golden: Golden, layers: Mapping[str, S4]) -> dict[str, list[Tensor]]:
    """The weights of S4 layers by their names in the file, but for C."""
    parts = {}
    for name, layer in layers.items():
        parts[f"{name}D"] = [layer.D]
        parts |= {f"{name}kernel.{k}": [getattr(layer, k)] for k in ("inv_dt", "B", "A_real", "A_imag", "P", "C")}
    return parts


def _take(golden: Golden, parts: Mapping[str, list[Tensor]], layers: Mapping[str, S4]) -> None:
    """Copy all weights; C of before the first forward must give the C that is there behind it."""
    weights = {k: v for k, v in golden.items() if k.startswith("w/") and not k.startswith(BEFORE)}
    lengths = {k: weights.pop(k) for k in list(weights) if k.endswith("kernel.l_kernel")}
    copy_weights(weights, parts)
    for name, layer in layers.items():
        if int(lengths.pop(f"w/{name}kernel.l_kernel")) != layer.length:
            message = f"w/{name}kernel.l_kernel is not the length {layer.length}"
            raise ValueError(message)
    before = {k.removeprefix(BEFORE): v for k, v in golden.items() if k.startswith(BEFORE)}
    for name, layer in layers.items():
        c = before.pop(f"{name}kernel.C", None)
        if int(before.pop(f"{name}kernel.l_kernel", 0)) != 0:
            message = f"{name}kernel.l_kernel is set before the first forward"
            raise ValueError(message)
        if c is not None:
            with torch.no_grad():
                own = torch.view_as_real(layer.fitted(torch.view_as_complex(torch.from_numpy(c)), layer.length, -1))
            if not torch.allclose(own, layer.C, rtol=0, atol=1e-4 * float(layer.C.detach().abs().max())):
                message = f"w/{name}kernel.C is not what C before the first forward gives"
                raise ValueError(message)
    if lengths or before:
        message = f"not taken: {sorted(lengths)} {sorted(before)}"
        raise ValueError(message)


def _replay_s4(golden: Golden, config: Mapping) -> dict[str, np.ndarray]:
    layer = S4(config["d_model"], config["d_state"], golden["in/x"].shape[-1], len(golden["w/kernel.C"]) == 2)
    _take(golden, _layers(golden, {"": layer}), {"": layer})
    x = _swap(golden["in/x"])
    step, into = layer.discrete()
    for name, own in (("dA", step), ("dB", into)):
        ours = torch.view_as_real(own).detach().numpy()
        for k, part in enumerate(("re", "im")):
            if not np.allclose(golden[f"mid/{name}_{part}"], ours[..., k], rtol=1e-4, atol=1e-5):
                message = f"mid/{name}_{part} is another system"
                raise ValueError(message)
    c = torch.view_as_complex(torch.from_numpy(golden[f"{BEFORE}kernel.C"]))[0]
    c, state, rows = torch.cat([c, c.conj()], -1), torch.zeros_like(into).expand(len(x), -1, -1), []
    for t in range(x.shape[1]):  # the recurrence, bin by bin
        state = torch.einsum("csr,bcr->bcs", step, state) + into * x[:, t, :, None]
        rows.append((c * state).sum(-1).real + layer.D * x[:, t])
    return {"out/y": array(_swap(layer(x))), "out/y_step": array(torch.stack(rows, -1))}


def _swap(value: np.ndarray | Tensor) -> Tensor:
    """``[B, C, L]`` there, ``[B, L, C]`` here."""
    return torch.as_tensor(value).transpose(1, 2)


def _replay_autoencoder(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    config, n_units = meta["config"], meta["config"]["C_in"]
    own = LdnsConfig(
        channels=config["C"],
        latents=config["C_latent"],
        blocks=config["num_blocks"],
        decoder_blocks=config["num_blocks_decoder"],
        linear_layers=config["num_lin_per_mlp"],
        states=config["d_state"],
        bidirectional=config["bidirectional"],
        gelu_latents=config.get("use_act_bottleneck", False),
        denoiser_channels=4,
    )
    model = Ldns(own, [Head("population", "population", "counts")], Timing(config["L"] * BIN_NS, BIN_NS))
    units = np.array([f"u{k}" for k in range(n_units)])
    model.add_sessions([SessionInfo(SESSION, "reference", units, 0, 0, config["L"] * BIN_NS)])
    of_session = next(iter(model.own.values()))
    auto = model.autoencoder
    parts, layers = {}, {}
    for name, module in (
        ("encoder_in", of_session.encoder_in),
        ("bottleneck", auto.bottleneck),
        ("unbottleneck", auto.unbottleneck),
        ("decoder_out", of_session.decoder_out),
    ):
        parts |= {f"ae_net.{name}.{k}": [p] for k, p in module.named_parameters()}
    for side in ("encoder", "decoder"):
        for k, block in enumerate(getattr(auto, side)):
            name = f"ae_net.{side}.{k}."
            layers[f"{name}time_mixer."] = block.time_mixer
            parts[f"{name}ada_ln"] = [block.ada_ln]
            parts |= {f"{name}post_tm_scale.weight": [block.scale], f"{name}post_tm_scale.bias": [block.bias]}
            parts |= _mixer(name, block.channel_mixer)
    parts |= _layers(golden, layers)
    _take(golden, parts, layers)
    signal, found = _swap(golden["in/signal"]), {}

    def give(suffix: str, counts: Tensor) -> tuple[Tensor, Tensor]:
        z, rate = model.autoencode(of_session, counts)
        found[f"out/rates{suffix}"], found[f"out/z{suffix}"] = array(_swap(rate)), array(_swap(z))
        return z, (rate + 1e-8).log().flatten(0, 1)

    _, log_rate = give("", signal)
    for length in re.findall(r"out/rates_short(\d+)", " ".join(golden)):
        give(f"_short{length}", signal[:, : int(length)])
    if "in/mask" in golden:
        every = torch.ones_like(signal, dtype=torch.bool).flatten(0, 1)
        count = signal.flatten(0, 1)
        found["loss/poisson_all"] = array(reconstruction_loss(log_rate, count, every, every))
        found["loss/nll_sum_per_trial"] = found["loss/poisson_all"] * count.numel() / len(signal)
        mask = _swap(golden["in/mask"])
        z, log_rate = give("_masked", signal * mask / (1 - meta["mask_prob"]))
        poisson = reconstruction_loss(log_rate, count, every, (mask == 0).flatten(0, 1))
        size = latent_size(z, meta["latent_beta"], meta["latent_td_beta"], TD_BINS) / count.numel()
        found["loss/poisson_masked"] = array(poisson)
        found["loss/latent_reg_over_numel"] = array(size) / meta["latent_beta"]
        found["loss/total"] = array(poisson + size)
        (poisson + size).backward()
        found |= grad_norms(parts)
    return found


def _mixer(name: str, mixer: torch.nn.Sequential) -> dict[str, list[Tensor]]:
    """A channel mixer's weights; in the file a layer that turns axes stands first."""
    return {
        f"{name}channel_mixer.{int(key.split('.')[0]) + 1}.{key.split('.')[1]}": [p]
        for key, p in mixer.named_parameters()
    }


def _replay_denoiser(golden: Golden, config: Mapping) -> dict[str, np.ndarray]:
    condition_dim = config["condition_dim"] or 0
    model = Denoiser(
        config["C_in"],
        config["C"],
        config["L"],
        n_states=config["d_state"],
        blocks=config["num_blocks"],
        bidirectional=config["bidirectional"],
        condition=condition_dim,
    )
    parts, layers = {}, {}
    for name, module in (("conv_in", model.conv_in), ("conv_out", model.conv_out), ("t_emb.mlp", model.of_time)):
        parts |= {f"{name}.{k}": [p] for k, p in module.named_parameters()}
    if condition_dim:
        parts |= {f"c_emb.{k}": [p] for k, p in model.of_condition.named_parameters()}
    for k, block in enumerate(model.blocks):
        name = f"blocks.{k}."
        layers[f"{name}time_mixer."] = block.time_mixer
        parts |= {f"{name}ada_ln.1.{key}": [p] for key, p in block.ada_ln.named_parameters()}
        parts |= _mixer(name, block.channel_mixer)
    parts |= _layers(golden, layers)
    _take(golden, parts, layers)
    z, noise, step = _swap(golden["in/z"]), _swap(golden["in/noise"]), torch.from_numpy(golden["in/t"])
    schedule = NoiseSchedule(1000)
    condition = torch.from_numpy(golden["in/cond"])[:, None] if condition_dim else None
    known = torch.ones(len(z), 1, 1, dtype=torch.bool)
    noisy = schedule.noisy(z, noise, step)
    told = model(noisy, step, condition, known)
    found = {"out/noisy": array(_swap(noisy)), "out/pred": array(_swap(told))}
    if "out/pred_unconditional" in golden:
        found["out/pred_unconditional"] = array(_swap(model(noisy, step)))
    loss = diffusion_loss(noise.flatten(0, 1), told.flatten(0, 1), torch.ones(*z.shape[:2], 1, dtype=torch.bool), 0.04)
    loss.backward()
    found |= {"loss/smooth_l1": array(loss)} | grad_norms(parts)
    for t in map(int, re.findall(r"out/ddpm_step_t(\d+)", " ".join(golden))):
        clean, step_noise = schedule.clean(noisy, told, t), _swap(golden[f"in/step_noise_t{t}"])
        found[f"out/ddpm_step_t{t}"] = array(_swap(schedule.back(noisy, clean, t, step_noise)))
    return found
