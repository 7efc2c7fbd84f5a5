"""Replays the golden vectors of LFADS (arsedler9/lfads-torch, 007a555) through spiketok's model.

The original's second biases of the GRUs (``bias_hh``) are constants beside the first; ours holds the sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.lfads import Lfads, LfadsConfig
from spiketok.models.nn import module_key
from spiketok.recording.metrics import co_bps
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import array

BIN_NS = 20_000_000
POPULATION, EXTERNAL = "population", "decode:external"
LEFT_OUT = {
    "out/cell_next_torch_grucell_for_contrast": "torch's own cell, which is another",
    "grad/decoder.con_h0": "of no element where there is no controller",
}
# ours by the original's, for the GRUs
GRUS = {
    "encoder.ic_enc.fwd_gru.cell": "encoder.of_initial.ahead",
    "encoder.ic_enc.bwd_gru.cell": "encoder.of_initial.back",
    "encoder.ci_enc.fwd_gru.cell": "encoder.of_inputs.ahead",
    "encoder.ci_enc.bwd_gru.cell": "encoder.of_inputs.back",
    "decoder.rnn.cell.gen_cell": "decoder.generator",
    "decoder.rnn.cell.con_cell": "decoder.controller",
}
OTHERS = {
    "encoder.ic_enc_h0": "encoder.of_initial.start",
    "encoder.ci_enc_h0": "encoder.of_inputs.start",
    "encoder.ic_linear": "encoder.to_initial",
    "decoder.ic_to_g0": "decoder.to_start",
    "decoder.con_h0": "decoder.start",
    "decoder.rnn.cell.fac_linear": "decoder.to_factors",
    "decoder.rnn.cell.co_linear": "decoder.to_inputs",
    "ic_prior": "initial_prior",
    "co_prior": "input_prior",
}
PRIORS = {"mean": "mean", "logvar": "log_var", "logtaus": "log_tau", "lognvars": "log_var"}
SETTINGS = {  # ours by the original's
    "ic_enc_dim": "encoder",
    "ci_enc_dim": "input_encoder",
    "ic_dim": "initial",
    "gen_dim": "generator",
    "fac_dim": "factors",
    "con_dim": "controller",
    "co_dim": "inputs",
    "ic_enc_seq_len": "initial_bins",
    "ci_lag": "lag",
    "cell_clip": "clip",
    "dropout_rate": "dropout",
    "ic_post_var_min": "initial_min_var",
    "loss_scale": "loss_scale",
    "kl_ic_scale": "kl_initial",
    "kl_co_scale": "kl_inputs",
    "l2_ic_enc_scale": "l2_encoder",
    "l2_ci_enc_scale": "l2_input_encoder",
    "l2_gen_scale": "l2_generator",
    "l2_con_scale": "l2_controller",
}


def replay(golden: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, np.ndarray]:
    """Outputs of posterior means and of draws, the terms of the loss and the gradients, under the golden's keys.

    Raises:
        DataError: the configuration is none that the model has, or a weight has no place.
    """
    config = meta["config"]
    model = _build(config)
    places = _copy(golden, model)
    sessions = range(len(config["sessions"]))
    noise, found, terms = _Noise(golden, len(sessions)), _cell(golden, model), []
    for s in sessions:
        batch = _batch(golden, config, s)
        seen = model.eval()._see(batch)
        posterior = model.encode(seen)
        rollout = model.roll_out(seen, posterior)
        found |= _outputs(f"out/mean_s{s}_", seen, rollout)
        found |= {f"out/mean_s{s}_ic_{name}": array(getattr(posterior, name)) for name in ("mean", "std")}
        terms.append(_trained(golden, model, batch, s, noise, config["hp"]["encod_data_dim"], found))
    total = torch.stack([term["total"] for term in terms]).mean()
    total.backward()
    mean = {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}
    ramp = config["kl_ramp"]
    found |= {
        "loss/total": array(total),
        "loss/train_loss": array(total),
        "loss/train_recon": array(mean[POPULATION]),
        "loss/train_wt_kl_ic": array(model.config.kl_initial * mean["kl_initial"]),
        "loss/train_wt_kl_co": array(model.config.kl_inputs * mean["kl_inputs"]),
        "loss/train_wt_l2": array(mean["l2"]),
        "loss/train_wt_kl_ramp": np.float32(ramp),
        "loss/train_wt_l2_ramp": np.float32(ramp),
    }
    for name in ("bps", "co_bps", "fp_bps"):  # -1 stands for what is worse
        bits = np.mean([found.pop(f"s{s}_{name}") for s in sessions])
        found[f"loss/train_{name}"] = np.float32(max(bits, -1.0))
    found["loss/train_wt_kl"] = found["loss/train_wt_kl_ic"] + found["loss/train_wt_kl_co"]
    parameters = dict(model.named_parameters())
    for name, own in places.items():
        if f"grad/{name}" in golden and own in parameters and parameters[own].grad is not None:
            grad, shape = parameters[own].grad, golden[f"grad/{name}"].shape
            if len(shape) > 1 and own.endswith(("ahead.weight", "back.weight", "read_in.weight")):
                grad = grad[:, : shape[1]]  # of the channels that the original has
            found[f"grad/{name}"] = array(grad).reshape(shape)
    return found


def _trained(golden, model: Lfads, batch: Batch, s: int, noise: _Noise, channels: int, found: dict) -> dict:
    """The terms of a training pass with the original's draws; its outputs go into ``found``."""
    own = model.own[module_key(batch.sessions[0])]
    counts = torch.from_numpy(golden[f"in/train_s{s}_encod_after_cd"])
    seen = model.train()._see(batch)
    held = seen.counts.shape[-1] - counts.shape[-1]
    dropped = torch.nn.functional.pad(counts, (0, held))
    learned = None
    if f"in/train_s{s}_cd_grad_mask" in golden:
        ahead = seen.n_bins - counts.shape[1]
        mask = torch.from_numpy(golden[f"in/train_s{s}_cd_grad_mask"])
        learned = torch.nn.functional.pad(mask, (0, held, 0, ahead), value=1.0).bool().flatten(0, 1)
    seen = replace(seen, counts=dropped, learned=learned)
    posterior = model.encode(seen)
    rows = slice(s * len(batch), (s + 1) * len(batch))
    rollout = model.roll_out(seen, posterior, noise.initial[rows], noise.inputs[:, rows] if noise.drawn else None)
    found |= _outputs(f"out/train_s{s}_", seen, rollout)
    output = {POPULATION: own.read_out(rollout.factors.flatten(0, 1))}
    output |= model.divergences(posterior, rollout, noise.for_kl[rows] if noise.drawn else None)
    if learned is not None:
        output["learned"] = learned
    found |= {f"s{s}_{name}": value for name, value in _bits(golden, s, output[POPULATION], channels).items()}
    population = replace(batch, asked={POPULATION: batch.asked[POPULATION]})
    return model.loss(population, output, Progress(40, 81))


def _bits(golden: Mapping[str, np.ndarray], s: int, log_rate: Tensor, channels: int) -> dict[str, float]:
    """Bits per spike of what the encoder is given, of held-out units and of forward bins.

    The original takes the units from the number of channels on as held out, read-in or not.
    """
    count, ahead, held = golden[f"in/s{s}_recon"].astype(np.float64), golden[f"in/s{s}_encod"].shape[1], channels
    rate = array(log_rate.exp()).reshape(count.shape).astype(np.float64)
    parts = {"bps": np.s_[:, :ahead, :held], "co_bps": np.s_[:, :ahead, held:], "fp_bps": np.s_[:, ahead:]}
    flat = {name: [a[part].reshape(-1, a[part].shape[-1]) for a in (rate, count)] for name, part in parts.items()}
    return {name: co_bps(*pair) for name, pair in flat.items()}


class _Noise:
    """The original's draws, in the order of their use; all sessions of a batch are drawn together."""

    def __init__(self, golden: Mapping[str, np.ndarray], n_sessions: int) -> None:
        draws = [torch.from_numpy(golden[key]) for key in sorted(k for k in golden if k.startswith("in/noise_"))]
        self.initial, self.drawn = draws[0], len(draws) > 1
        if self.drawn:
            self.inputs, self.for_kl = torch.stack(draws[1:-1]), draws[-1]


def _outputs(start: str, seen, rollout) -> dict[str, np.ndarray]:
    parts = {
        "co_means": rollout.mean,
        "co_stds": rollout.std,
        "con_states": rollout.controller,
        "factors": rollout.factors,
        "gen_init": rollout.start,
        "gen_inputs": rollout.inputs,
        "gen_states": rollout.states,
        "output_params": seen.own.read_out(rollout.factors)[..., None],
    }
    return {f"{start}{name}": array(part) for name, part in parts.items()}


def _cell(golden: Mapping[str, np.ndarray], model: Lfads) -> dict[str, np.ndarray]:
    x, h = (torch.from_numpy(golden[f"in/cell_{name}"]) for name in "xh")
    return {"out/cell_next": array(model.decoder.generator(x, h))}


def _build(config: Mapping) -> Lfads:
    hp, sessions = config["hp"], config["sessions"]
    if not (hp["recon_reduce_mean"] and hp["variational"]) or hp["kl_start_epoch"] or hp["l2_start_epoch"]:
        message = f"a reference configuration that is not rebuilt: {hp}"
        raise DataError(message)
    if config["current_epoch"] + 1 != 40 or {hp["kl_increase_epoch"], hp["l2_increase_epoch"]} != {80}:
        message = f"epoch {config['current_epoch']} of a ramp of {hp['kl_increase_epoch']}: replayed is 39 of 80"
        raise DataError(message)
    own = LfadsConfig(
        **{ours: hp[theirs] for theirs, ours in SETTINGS.items()},
        read_in=hp["encod_data_dim"] if len(sessions) > 1 else 0,
        external=(EXTERNAL,) if hp["ext_input_dim"] else (),
        drop=0.0,
        kl_ramp=1.0,
        l2_ramp=1.0,
        kl_draws=True,
    )
    heads = [Head(POPULATION, POPULATION, "counts", input="counts")]
    if hp["ext_input_dim"]:
        heads.append(Head(EXTERNAL, "decode", "values", hp["ext_input_dim"]))
    model = Lfads(own, heads, Timing(hp["recon_seq_len"] * BIN_NS, BIN_NS))
    model.add_sessions(
        [
            SessionInfo(_session(s), "reference", np.array([f"u{k}" for k in range(n_out)]), 0, 0, 10**12)
            for s, (_, n_out) in enumerate(sessions)
        ]
    )
    return model


def _session(s: int) -> str:
    return f"reference/{s}"


def _batch(golden: Mapping[str, np.ndarray], config: Mapping, s: int) -> Batch:
    """Windows of all units and bins, in which those that the original's encoder does not have are hidden."""
    recon, encod = golden[f"in/s{s}_recon"], golden[f"in/s{s}_encod"]
    n_windows, n_bins, n_units = recon.shape
    hidden = np.ones(recon.shape, np.bool_)
    hidden[:, : encod.shape[1], : encod.shape[2]] = False
    if not np.array_equal(recon[:, : encod.shape[1], : encod.shape[2]], encod):
        message = "the encoder's counts are not those that are reconstructed"
        raise DataError(message)
    rows = n_windows * n_bins
    counts = torch.from_numpy(recon).reshape(rows, n_units)
    columns = {"counts": counts, "observed": torch.ones(rows)}
    offset, start = torch.arange(n_windows + 1) * n_bins, np.arange(n_windows) * n_bins * BIN_NS
    ns = np.arange(rows) * BIN_NS
    asked = {POPULATION: Asked(torch.zeros(rows), offset, ns, counts, torch.ones_like(counts, dtype=torch.bool))}
    external = golden[f"in/s{s}_ext"]
    if external.shape[2]:
        wide = torch.nn.functional.pad(torch.from_numpy(external), (0, 0, 0, n_bins - external.shape[1]))
        asked[EXTERNAL] = Asked(torch.zeros(rows), offset, ns, wide.flatten(0, 1), torch.ones(rows))
    return Batch(
        inputs={"counts": Tokens(columns, offset)},
        window_ns=n_bins * BIN_NS,
        session_B=torch.full((n_windows,), s),
        sessions=[_session(s)] * n_windows,
        start_ns=start,
        asked=asked,
        hidden={"counts": torch.from_numpy(hidden).reshape(rows, n_units)},
        given=(EXTERNAL,),
    )


# ---- weights --------------------------------------------------------------------------------------------------------


def _copy(golden: Mapping[str, np.ndarray], model: Lfads) -> dict[str, str]:
    """Copy all weights; returns the model's name of each of the original's.

    Raises:
        DataError: a weight has no place, or one of the model's gets none.
    """
    own = dict(model.state_dict(keep_vars=True))
    places = {key.removeprefix("w/"): _place(key.removeprefix("w/"), model) for key in golden if key.startswith("w/")}
    places = {name: place for name, place in places.items() if place}
    lacking = {name for name in own if not name.endswith(".mean") or "prior" in name} - set(places.values())
    lacking = {name for name in lacking if not name.startswith("read_outs.")}
    unknown = set(places.values()) - set(own)
    if lacking or unknown:
        message = f"weights do not fit: {sorted(lacking)} get none, {sorted(unknown)} are none"
        raise DataError(message)
    with torch.no_grad():
        for name, place in places.items():
            value = torch.from_numpy(golden[f"w/{name}"])
            if name.endswith("bias_ih"):
                value = value + torch.from_numpy(golden[f"w/{name.removesuffix('ih')}hh"])
            _fill(name, own[place], value)
    return places


def _fill(name: str, own: Tensor, value: Tensor) -> None:
    """Copy a weight; columns of units that the original's encoder does not have stay 0."""
    wide = value.ndim == 2 and own.shape[0] == value.shape[0] and own.shape[1] >= value.shape[1]
    if not wide and own.shape != value.shape:
        message = f"w/{name} has shape {list(value.shape)}, expected {list(own.shape)}"
        raise DataError(message)
    if wide:
        own.zero_()
        own[:, : value.shape[1]] = value
    else:
        own.copy_(value)


def _place(name: str, model: Lfads) -> str:
    """The model's name of a reference weight; empty for what it does not hold."""
    whole, _, kind = name.rpartition(".")
    if whole in GRUS:
        kinds = {"weight_ih": "weight", "weight_hh": "kernel", "bias_ih": "bias", "bias_hh": ""}
        return f"{GRUS[whole]}.{kinds[kind]}" if kinds[kind] else ""
    if name == "decoder.con_h0" and not model.config.infers_inputs:
        return ""
    if name in OTHERS:
        return OTHERS[name]
    part, _, number = whole.partition(".")
    if part in ("readin", "readout"):
        return f"own.{module_key(_session(int(number)))}.{part.replace('read', 'read_')}.{kind}"
    return f"{OTHERS[whole]}.{PRIORS.get(kind, kind)}"
