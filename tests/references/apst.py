"""APST's goldens: profiles in closed form, the model with two sites of the profile, the smoothing of answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.apst import Apst, ApstConfig, smoothed
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.nn import module_key
from spiketok.recording import profiles
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import Golden, array, copy_weights

LEFT_OUT: dict[str, str] = {}
TASK, BIN_NS = "decode:x", 20_000_000


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our APST gives for one of its golden files."""
    if "in/raw" in golden:
        return {"out/filtered": array(smoothed(torch.from_numpy(golden["in/raw"])[None], 1 / 3)[0]).astype(np.float32)}
    if "in/counts" in golden:
        return forward(golden, meta)
    return profile(golden, meta)


# ---- profiles -------------------------------------------------------------------------------------------------------


def profile(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """Of three sessions, two of which are trained on."""

    def each(name: str) -> list[np.ndarray]:
        return [golden[f"in/{name}_{k}"] for k in range(3)]

    if "in/angle_rad_0" in golden:
        raw = list(map(profiles.cosine_tuning, each("trial_counts"), each("trial_bins"), each("angle_rad")))
        found = profiles.fit_normaliser(np.concatenate(raw[:2]), None)
        out = {"source_mean": found.mean, "source_std": found.scale, "profile_target": found(raw[2])}
        out |= {f"raw_{k}": own for k, own in enumerate(raw)}
        return {f"out/{key}": value.astype(np.float32) for key, value in out.items()}
    muscles = "in/emg_0" in golden
    behaviour = each("emg" if muscles else "velocity")
    source = np.concatenate(behaviour[:2])
    rms = np.sqrt(np.square(np.maximum(source, 0) if muscles else source).mean(0))
    states = profiles.rectified_states if muscles else profiles.signed_states
    row_s = meta["bin_s"] if muscles else meta["block_s"]
    raw = [
        profiles.responses(profiles.deviations(rate, row_s), states(own, rms), meta["n0"])
        for rate, own in zip(each("rate_hz"), behaviour, strict=True)
    ]
    found = profiles.fit_normaliser(np.concatenate(raw[:2]), 4, one_scale=muscles)
    if muscles:
        out = {"emg_rms": rms, "global_rms": found.scale[0]} | {f"raw16_{k}": own for k, own in enumerate(raw)}
        turn = np.ones(4)
    else:
        out = {"behavior_rms": rms, "profile_scale": found.scale} | {f"raw14_{k}": own for k, own in enumerate(raw)}
        turn = np.sign((found.basis * golden["out/basis"]).sum(0))  # ours are turned, the original's are as they come
    out |= {"basis": found.basis * turn, "profile_mean": found.mean * turn, "profile_target": found(raw[2]) * turn}
    return {f"out/{key}": value for key, value in out.items()}


# ---- the model ------------------------------------------------------------------------------------------------------


def build(golden: Golden, meta: Mapping) -> Apst:
    """The model of a golden's configuration, which knows one session with its profile."""
    config = ApstConfig(
        dim=golden["w/slots"].shape[1],
        heads=meta["heads"],
        hidden=len(golden["w/blocks.0.ffn.0.weight"]),
        reach=tuple(meta["windows"]),
        slots=meta["slots"],
        slot_heads=meta["heads"],
        slot_hidden=len(golden["w/slot_ffn.0.weight"]),
        kernel=meta["kernel"],
        read_out=len(golden["w/readout.0.weight"]),
        identity=len(golden["w/pre_pool.0.weight"]),
        film=len(golden["w/film_context.0.weight"]),
        calibration_trials=len(golden["in/activity"]),
        calibration_length=golden["in/activity"].shape[1],
        profile_draws=0,
        half_life_s=tuple((np.log(2) / golden["w/recency_slopes"] * BIN_NS / 1e9).tolist()),
        unit_dropout=0.0,
        output_ema=0.0,
        last_bin=True,
    )
    n_components = golden["in/target"].shape[1]
    model = Apst(config, [Head(TASK, "decode", "values", n_components)], Timing(BIN_NS, BIN_NS)).eval()
    unit_id = np.array([f"u{n}" for n in range(len(golden["in/profile"]))])
    model.add_sessions([SessionInfo("golden/0", "s", unit_id, 0, 0, BIN_NS)])
    return model


def parts_of(model: Apst) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the original's names."""
    slots = model.read_units
    parts = {
        "slots": [slots.slots],
        "slope_log": [block.slope_log for block in model.blocks],
        "recency_slopes": [model.slope_H],
        "e0_proj.weight": [model.from_identity.weight],
    }

    def take(name: str, *layers: torch.nn.Module) -> None:
        for kind in ("weight", "bias"):
            own = [getattr(layer, kind) for layer in layers]
            parts[f"{name}_{kind}" if name.endswith("in_proj") else f"{name}.{kind}"] = own

    take("pre_pool.0", model.encode_trial)
    for i in (0, 2, 4):
        take(f"post_pool.{i}", model.to_identity[i])
    take("film_context.0", model.to_film)
    take("film_modulation", model.film)
    take("conv", model.conv)
    take("token_mlp.0", model.token[0])
    take("token_mlp.2", model.token[2])
    take("slot_norm", slots.norm_slots)
    take("token_norm", slots.norm_units)
    take("mha.in_proj", slots.to_query, slots.to_key_value)
    take("mha.out_proj", slots.to_out)
    take("slot_ffn_norm", slots.norm_hidden)
    take("slot_ffn.0", slots.to_hidden)
    take("slot_ffn.2", slots.from_hidden)
    take("slot_proj", slots.project)
    for i, block in enumerate(model.blocks):
        take(f"blocks.{i}.norm1", block.norm_attention)
        take(f"blocks.{i}.norm2", block.norm_hidden)
        take(f"blocks.{i}.qkv", block.to_qkv)
        take(f"blocks.{i}.out", block.to_out)
        take(f"blocks.{i}.ffn.0", block.to_hidden)
        take(f"blocks.{i}.ffn.2", block.from_hidden)
    take("final_norm", model.read_out[0])
    take("readout.0", model.read_out[1])
    take("readout.2", model.read_out[3])
    return parts


def batch_of(golden: Golden) -> Batch:
    """Windows that are asked about their last bin; what is left-padded or dropped there was not recorded here."""
    counts, kept, valid = golden["in/counts"], golden["in/unit_keep"], golden["in/bin_valid"]
    n_windows, n_bins, n_units = counts.shape
    columns = {
        "counts": counts.astype(np.uint8).reshape(-1, n_units),
        "observed": valid.astype(np.uint8).ravel(),
        "unit_observed": (valid[..., None] & kept[:, None]).astype(np.uint8).reshape(-1, n_units),
    }
    trials = golden["in/activity"]
    row = torch.zeros(n_windows, dtype=torch.int64)
    asked = Asked(
        time=torch.full((n_windows,), (n_bins - 0.5) * BIN_NS / 1e9),
        offset=torch.arange(n_windows + 1),
        ns=np.full(n_windows, n_bins * BIN_NS - BIN_NS // 2),
        target=torch.from_numpy(golden["in/target"]),
        weight=torch.ones(n_windows),
    )
    return Batch(
        inputs={
            "counts": Tokens({k: torch.from_numpy(c) for k, c in columns.items()}, torch.arange(n_windows + 1) * n_bins)
        },
        window_ns=n_bins * BIN_NS,
        session_B=row,
        sessions=["golden/0"] * n_windows,
        start_ns=np.zeros(n_windows, np.int64),
        asked={TASK: asked},
        session_inputs={"calibration": [Tokens({"matrix": torch.from_numpy(trials)}, torch.tensor([0, len(trials)]))]},
        present=["golden/0"],
        present_B=row,
    )


def forward(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    model, batch = build(golden, meta), batch_of(golden)
    parts = parts_of(model)
    copy_weights(golden, parts)
    profile = torch.from_numpy(golden["in/profile"])
    model.profiles[module_key("golden/0")].whole.copy_(profile)

    identity = model.identities(batch.session_inputs["calibration"][0], profile)
    valid, kept = torch.from_numpy(golden["in/bin_valid"]), torch.from_numpy(golden["in/unit_keep"])
    counts = torch.from_numpy(golden["in/counts"]) * valid[..., None]
    frontend = model.bins(counts, kept[:, None].expand_as(counts), identity, profile)  # of padding too
    hidden = model.over_time(frontend, valid)
    output = model(batch)
    loss = model.loss(batch, output, Progress(0, 1))["total"]
    loss.backward()
    gradients = {
        name: np.concatenate([array(part.grad) for part in parts[name]]).reshape(golden[f"out/grad_{name}"].shape)
        for name in ("slope_log", "e0_proj.weight", "conv.weight", "film_context.0.weight")
    }
    return {
        "out/E0": array(identity),
        "out/frontend": array(frontend),
        "out/hidden": array(hidden),
        "out/all_bins": array(model.read_out(hidden)),
        "out/prediction": array(output[TASK]),
        "loss/mse": array(loss),
        **{f"out/grad_{name}": value for name, value in gradients.items()},
    }
