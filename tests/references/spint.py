"""SPINT's goldens: the model at toy and at published size, and the data preparation by the schemes that serve it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.spint import Spint, SpintConfig
from spiketok.recording.nouns import Intervals, Session, SessionInfo, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Calibration, Neuron
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.schemes.kernels import resample
from tests.references.harness import Golden, array, copy_weights, grad_norms

LEFT_OUT: dict[str, str] = {}
TASK = "decode:x"
BIN_NS = 20_000_000


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our SPINT gives for one of its golden files."""
    if "max_trial_length" in meta["config"]:
        return data_preparation(golden, meta["config"])
    if "sizes" in meta:
        return published_size(golden, meta)
    return toy_size(golden, meta)


# ---- the model ------------------------------------------------------------------------------------------------------


def build(config: Mapping, calibration: np.ndarray, scale: float, dropout: float | None = None) -> Spint:
    """The model of a golden's configuration, which knows a session for each row of ``calibration`` [S, M, P, N]."""
    fixed = config.get("dropout_rate", 0.0)
    low, high = (0.0, 1.0) if config["dynamic_dropout"] else (fixed, fixed)
    own = SpintConfig(
        dim=config["model_dim"],
        heads=config["num_heads"],
        layers=config["num_layers"],
        identity_layers=config["num_id_layers"],
        history_bins=config["window_size"],
        calibration_trials=calibration.shape[1],
        calibration_length=calibration.shape[2],
        dropout=config["tf_drop_rate"] if dropout is None else dropout,
        unit_dropout_low=low,
        unit_dropout_high=high,
        learned_query=config.get("learnable_rep", True),
        scale=scale,
    )
    n_components = config["num_covariates"]
    model = Spint(own, [Head(TASK, "decode", "values", size=n_components)], Timing(BIN_NS, BIN_NS)).eval()
    unit_id = np.array([f"u{n}" for n in range(calibration.shape[3])])
    model.add_sessions([SessionInfo(f"golden/{i}", "s", unit_id, 0, 0, BIN_NS) for i in range(len(calibration))])
    return model


def parts_of(model: Spint) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the original's names."""
    parts = {"rep": [model.query_CW]} if model.config.learned_query else {}

    def take(name: str, *layers: torch.nn.Module) -> None:
        for kind in ("weight", "bias"):
            own = [getattr(layer, kind) for layer in layers]
            parts[f"{name}_{kind}" if name.endswith("in_proj") else f"{name}.{kind}"] = own

    for name, stack in (("fc_in", model.read_in), ("fc_id_in", model.encode_trial), ("fc_id_out", model.to_identity)):
        for i in range(0, len(stack), 2):
            take(f"{name}.{i}", stack[i])
    take("fc_out", model.read_out)
    for i, layer in enumerate(model.layers):
        prefix = f"transformer.layers.{i}"
        take(f"{prefix}.cross_attn.in_proj", layer.to_query, layer.to_key_value)
        take(f"{prefix}.cross_attn.out_proj", layer.to_out)
        take(f"{prefix}.norm1", layer.norm_attention)
        take(f"{prefix}.norm2", layer.norm_hidden)
        take(f"{prefix}.ffn.0", layer.to_hidden)
        take(f"{prefix}.ffn.3", layer.from_hidden)
    return parts


def batch_of(model: Spint, x: np.ndarray, calibration: np.ndarray, target: np.ndarray) -> Batch:
    """Samples of one bin each.

    Args:
        x: counts ``[B, W, N]``. calibration: ``[S, M, P, N]``, one session for all samples or one for each.
        target: ``[B, C]``, the behaviour at the last bin.
    """
    n_samples, n_units = len(x), x.shape[2]
    rows = torch.arange(n_samples) if len(calibration) > 1 else torch.zeros(n_samples, dtype=torch.int64)
    series = torch.from_numpy(np.ascontiguousarray(x.swapaxes(1, 2)).astype(np.uint8)).flatten(0, 1)
    trials = torch.from_numpy(np.ascontiguousarray(calibration, np.float32))
    columns = {
        "series": series,
        "observed": torch.ones_like(series),
        "unit": torch.arange(n_units, dtype=torch.int32).repeat(n_samples),
        "time": torch.zeros(n_samples * n_units, dtype=torch.int32),
    }
    asked = Asked(
        time=torch.full((n_samples,), BIN_NS / 2e9),
        offset=torch.arange(n_samples + 1),
        ns=np.full(n_samples, BIN_NS // 2),
        target=torch.from_numpy(target),
        weight=torch.ones(n_samples),
    )
    return Batch(
        inputs={"units": Tokens(columns, torch.arange(n_samples + 1) * n_units)},
        window_ns=BIN_NS,
        session_B=rows,
        sessions=[f"golden/{i}" for i in rows.tolist()],
        start_ns=np.zeros(n_samples, np.int64),
        asked={TASK: asked},
        session_inputs={"calibration": [Tokens({"matrix": m}, torch.tensor([0, len(m)])) for m in trials]},
        present=model.sessions(),
        present_B=rows,
    )


def toy_size(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    config, scale = meta["config"], meta["scale"]
    x, calibration, target = golden["in/x"], golden["in/calib"], golden["in/target"][:, -1]
    model = build(config, calibration, scale)
    parts = parts_of(model)
    copy_weights(golden, parts)
    if "in/rep" in golden and not np.allclose(golden["in/rep"][0], array(model.query_CW)):
        message = "in/rep is not the constant query of the model"
        raise ValueError(message)
    batch = batch_of(model, x, calibration, target)
    output = model(batch)
    loss = model.loss(batch, output, Progress(0, 1))["total"]
    loss.backward()
    identity = torch.stack(model.identities(batch.session_inputs["calibration"], [x.shape[2]] * len(calibration)))
    found = {
        "mid/E": array(identity),
        "out/pred": array(output["steps"]),
        "out/pred_last_scaled": array(output[TASK])[:, None],
        "loss/mse": array(loss),
        **grad_norms(parts),
    }
    if "in/perm" in golden:
        order = golden["in/perm"]
        permuted = batch_of(model, x[:, :, order], calibration[..., order], target)
        found["out/pred_permuted"] = array(model(permuted)["steps"])
    if "in/dropout_mask" in golden:
        training = build(config, calibration, scale, dropout=0.0)
        copy_weights(golden, parts_of(training))
        factor = torch.from_numpy(golden["in/dropout_mask"]).flatten()
        training.draw_units = lambda n_tokens, device: factor
        found["out/pred_dropout"] = array(training.train()(batch)["steps"])
    return found


def published_size(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """Weights and inputs follow from a formula in ``meta``."""
    size, shapes = meta["sizes"], {}
    draw = np.random.RandomState(1000)
    x = draw.poisson(0.3, (2, size["W"], size["N"])).astype(np.float32)
    calibration = draw.poisson(0.3, (1, size["M"], size["T"], size["N"])).astype(np.float32)
    target = draw.standard_normal((2, size["W"], size["C"])).astype(np.float32)[:, -1]
    if not np.array_equal(target, golden["in/target_last"]):
        message = f"the inputs drawn are not those of the file: {meta['inputs']}"
        raise ValueError(message)

    model = build(meta["config"], calibration, size["scale"])
    parts = parts_of(model)
    weights = {}
    for name, own in parts.items():
        shape = (sum(len(part) for part in own), *own[0].shape[1:])
        shapes[name] = int(np.prod(shape))
        value = np.random.RandomState((zlib.crc32(name.encode()) ^ 202) & 0x7FFFFFFF).standard_normal(shape)
        value = value.astype(np.float32)
        if len(shape) == 1:
            value = (1 + np.float32(0.1) * value) if name.endswith(".weight") else np.float32(0.1) * value
        elif name != "rep":
            value = value / np.sqrt(np.float32(shape[1]))
        weights[f"w/{name}"] = value
    if shapes != meta["params"]:
        message = f"parameters and their numbers are {json.dumps(shapes)}, expected {json.dumps(meta['params'])}"
        raise ValueError(message)
    copy_weights(weights, parts)
    with torch.no_grad():
        batch = batch_of(model, x, calibration, target)
        output = model(batch)
        loss = model.loss(batch, output, Progress(0, 1))["total"]
        identity = model.identities(batch.session_inputs["calibration"], [size["N"]])[0]
    return {
        "mid/E_first8": array(identity[:8]),
        "out/pred_last": array(output["steps"][:, -1]),
        "out/pred_first": array(output["steps"][:, 0]),
        "loss/mse_last": array(loss),
    }


# ---- the data preparation -------------------------------------------------------------------------------------------


def data_preparation(golden: Golden, config: Mapping) -> dict[str, np.ndarray]:
    """Histories by the scheme ``neuron``, trials by ``calibration``, the exponential by its kernel.

    The original cuts the exponential off after 12 bins (its time constant); ours goes on for ever, and
    ``y[t] - d**12 y[t - 12]``, scaled to a sum of 1, is what is left of it before that.
    """
    counts, scored = golden["in/neural"].astype(np.int64), golden["in/eval_mask"]
    bin_ns = round(config["bin_ms"] * 1e6)
    session = _session(counts, scored, golden["in/trial_change"], bin_ns)
    whole = Intervals([0], [len(counts) * bin_ns])

    target_bin = np.flatnonzero(scored)
    histories = Neuron(bin_ns=bin_ns, view="history", history_bins=config["window"])
    windows = Windows(np.zeros(len(target_bin), np.int64), target_bin * bin_ns, bin_ns)
    series = histories.cut(histories.bake(session, whole).columns, windows).columns["series"]
    series = series.reshape(len(target_bin), counts.shape[1], config["window"])

    n_trials = len(session.trials)
    trials = Calibration(bin_ns=bin_ns, n_trials=n_trials, length=config["max_trial_length"], scored="scored")
    cut = trials.cut(
        trials.bake(session, whole).columns, Windows(np.zeros(1, np.int64), np.zeros(1, np.int64), bin_ns * len(counts))
    )
    return {
        "out/window_starts": target_bin,
        "out/windows": series.swapaxes(1, 2).astype(np.float32),
        "out/target_bin": target_bin,
        "out/calib_trials": cut.columns["matrix"],
        "out/smoothed": _exponential(counts, config),
        "out/kernel": _exponential(np.eye(config["tau_ms"] // config["bin_ms"], 1, dtype=np.int64), config)[:, 0],
    }


def _session(counts: np.ndarray, scored: np.ndarray, trial_change: np.ndarray, bin_ns: int) -> Session:
    """A session with these counts: each spike in the middle of its bin."""
    stop_ns = len(counts) * bin_ns
    times = [np.repeat(np.arange(len(counts)) * bin_ns + bin_ns // 2, own) for own in counts.T]
    edge = np.flatnonzero(np.diff(np.concatenate([[0], scored.astype(np.int8), [0]]))) * bin_ns
    start_ns = np.flatnonzero(trial_change) * bin_ns
    return Session(
        id="golden/falcon",
        subject="s",
        start_ns=0,
        stop_ns=stop_ns,
        units=UnitTable([f"u{n}" for n in range(counts.shape[1])]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop_ns]),
        source=Source("falcon.nwb", "0" * 64, 1),
        intervals={
            "trials": Intervals(start_ns, np.append(start_ns[1:], stop_ns)),
            "scored": Intervals(edge[::2], edge[1::2]),
        },
    )


def _exponential(counts: np.ndarray, config: Mapping) -> np.ndarray:
    reach = config["tau_ms"] // config["bin_ms"]
    decay = np.exp(-config["bin_ms"] / config["tau_ms"])
    value = np.empty(counts.shape)
    resample.smooth(counts.astype(np.uint8), decay, value)
    tail = np.concatenate([np.zeros((reach, counts.shape[1])), value])[: len(value)]
    return (value - decay**reach * tail) / (1 - decay**reach)
