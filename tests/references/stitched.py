"""Replays the golden vectors of BrainWideBench's NDT-Stitch and MtM (brainbench-org/ibl-bwb, 3c8cee9) through ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from spiketok.errors import DataError
from spiketok.models.batch import Asked, Batch, Head, Progress, Timing, Tokens
from spiketok.models.mtm_bwb import MtmBwb, MtmBwbConfig
from spiketok.models.ndt_stitch import NdtStitch, NdtStitchConfig
from spiketok.models.nn import module_key
from spiketok.models.stitched import StitchedModel
from spiketok.recording.nouns import SessionInfo
from tests.references.harness import array

BIN_NS = 20_000_000
POPULATION, SERIES, LABEL = "population", "decode:series", "classify:label"
LEFT_OUT: dict[str, str] = {}
MODE_OF = {"neuron": "unit", "causal": "forward", "inter_region": "inter_region", "intra_region": "intra_region"}
LAYER = {
    "self_attn.in_proj_": "to_qkv.",
    "self_attn.out_proj.": "to_out.",
    "linear1.": "to_hidden.",
    "linear2.": "from_hidden.",
    "norm1.": "norm_attention.",
    "norm2.": "norm_hidden.",
}
ALONE = {
    "shared_proj.0": "widen",
    "shared_proj.2": "narrow",
    "mask_emb": "prompt",
    "position_emb": "position",
    "encoder.norm": "norm",
}


def replay(golden: Mapping[str, np.ndarray], meta: Mapping) -> dict[str, np.ndarray]:
    """Outputs, what layers put out, losses of each session, and the gradients, under the golden's keys.

    Raises:
        DataError: a weight has no place, or the counts do not fit.
    """
    model, sessions = _build(golden, meta)
    # what fine-tuning does not read: the stitchers out, and in MtM the tokens of masks
    unread = ("out_stitcher.", "mask_emb.") if meta["readout"] else ()
    names = [key.removeprefix("w/") for key in golden if key.startswith("w/")]
    tokens = [int(golden[f"in/s{k}_session_tokens"][0]) for k in range(len(sessions))]
    place = {n: _place(model, n, meta, sessions, tokens) for n in names if not n.startswith(unread)}
    _copy(golden, model, place)
    model.eval()
    found, total = {}, torch.zeros(())
    for k, session in enumerate(sessions):
        batch = _batch(golden, meta, k, session)
        with _watched(model, len(batch)) as seen:
            output = model(batch)
        found |= {f"mid/s{k}_{name}": array(value) for name, value in seen.items()}
        if meta["readout"]:
            pred = output[_head(meta).task].unflatten(0, (len(batch), -1))
            loss = (pred * torch.linspace(-1, 1, pred.numel()).reshape(pred.shape)).sum()
            found |= {f"out/s{k}_pred": array(pred), f"loss/s{k}_probe": array(loss)}
        else:
            loss = model.loss(batch, output, Progress(0, 1))["total"]
            rate = output[POPULATION].unflatten(0, (len(batch), -1))
            found |= {f"out/s{k}_lograte": array(rate), f"loss/s{k}_poisson": array(loss)}
        total = total + loss
    found["loss/total"] = array(total)
    total.backward()
    for name, (parameter, theirs) in place.items():
        grad = torch.zeros(golden[f"w/{name}"].shape)
        grad[theirs] = parameter.grad.to_dense()
        found[f"grad/{name}"] = array(grad)
    return found


def _build(golden: Mapping[str, np.ndarray], meta: Mapping) -> tuple[StitchedModel, list[str]]:
    """The model of a reference configuration with its sessions, and their ids."""
    theirs, n_bins = meta["config"], golden["in/s0_spikes"].shape[1]
    kind, config = (MtmBwb, MtmBwbConfig) if meta["cls"] == "MtM" else (NdtStitch, NdtStitchConfig)
    own = config(
        dim=theirs["hidden_dim"],
        layers=theirs["encoder_num_layers"],
        heads=theirs["encoder_num_heads"],
        hidden=theirs["encoder_dim_feedforward"],
        max_bins=len(golden["w/position_emb.weight"]),
        dropout=theirs["encoder_dropout"],
        dropout_embedding=theirs["pre_encoder_dropout"],
        dropout_rates=theirs["post_encoder_dropout"],
        **({"channels": theirs["shared_proj_input_dim"]} if kind is MtmBwb else {}),
    )
    if theirs["encoder_activation"] != kind.activation:
        message = f"the reference's layers have {theirs['encoder_activation']}, ours {kind.activation}"
        raise DataError(message)
    window_ns = n_bins * BIN_NS
    model = kind(own, [_head(meta)], Timing(window_ns, BIN_NS))
    infos = [
        SessionInfo(f"reference/{name}", "m", np.array([f"u{n}" for n in range(units)]), 0, 0, window_ns)
        for name, units in meta["sessions"]
    ]
    model.add_sessions(infos)
    return model, [info.id for info in infos]


def _head(meta: Mapping) -> Head:
    """What the reference is asked."""
    if not meta["readout"]:
        return Head(POPULATION, POPULATION, "counts", input="counts")
    if meta["readout"]["res"] == "SEQUENCE":
        return Head(LABEL, "classify", "classes", meta["readout"]["dim"])
    return Head(SERIES, "decode", "values", meta["readout"]["dim"])


def _place(
    model: StitchedModel, name: str, meta: Mapping, sessions: list[str], tokens: list[int]
) -> tuple[nn.Parameter, object]:
    """The parameter that a weight of the reference is, and which rows of the weight it is.

    Raises:
        DataError: there is none.
    """
    of = dict(model.named_parameters())
    stem, _, kind = name.rpartition(".")
    theirs: object = ...
    if name == "session_emb.weight":  # row 0 is of no session
        own, theirs = "session_table.weight", tokens
    elif name.startswith(("in_stitcher.", "out_stitcher.")):
        table, _, session = stem.partition(".")
        key = module_key(sessions[[eid for eid, _ in meta["sessions"]].index(session)])
        own = f"{'read_in' if table == 'in_stitcher' else 'read_out'}.{key}.{kind}"
    elif name.startswith("encoder.layers."):
        layer, _, part = name.removeprefix("encoder.layers.").partition(".")
        old = next(start for start in LAYER if part.startswith(start))
        own = f"layers.{layer}.{LAYER[old]}{part.removeprefix(old)}"
    elif stem == "readout":
        own = f"decoders.{next(iter(model.decoders))}.{kind}"
    else:
        own = f"{ALONE.get(stem)}.{kind}"
    if own not in of:
        message = f"w/{name} has no place in the model"
        raise DataError(message)
    return of[own], theirs


def _copy(
    golden: Mapping[str, np.ndarray], model: StitchedModel, place: Mapping[str, tuple[nn.Parameter, object]]
) -> None:
    """Copy the weights in.

    Raises:
        DataError: a parameter gets none, or one of another shape.
    """
    given = {id(parameter) for parameter, _ in place.values()}
    lacking = [name for name, parameter in model.named_parameters() if id(parameter) not in given]
    if lacking:
        message = f"weights do not fit: {lacking} get none"
        raise DataError(message)
    with torch.no_grad():
        for name, (parameter, theirs) in place.items():
            value = torch.from_numpy(golden[f"w/{name}"])[theirs]
            if value.shape != parameter.shape:
                message = f"w/{name} has shape {list(value.shape)}, expected {list(parameter.shape)}"
                raise DataError(message)
            parameter.copy_(value)


def _batch(golden: Mapping[str, np.ndarray], meta: Mapping, k: int, session: str) -> Batch:
    """The trials of one session; what the reference sets to 0 is hidden, what it predicts has a weight.

    Raises:
        DataError: what it sees is not the counts with some of them 0.
    """
    counts, seen = (torch.from_numpy(golden[f"in/s{k}_{name}"]) for name in ("spikes_raw", "spikes"))
    n_windows, n_bins, _ = counts.shape
    offset = torch.arange(n_windows + 1) * n_bins
    ns = np.arange(n_windows * n_bins, dtype=np.int64) * BIN_NS + BIN_NS // 2
    start_ns = np.arange(n_windows, dtype=np.int64) * n_bins * BIN_NS
    hidden = {}
    if not meta["readout"]:
        target = torch.from_numpy(golden[f"mask/s{k}_target"]) > 0
        away = (counts != seen) | target
        if not torch.equal(torch.where(away, 0.0, counts), seen):
            message = f"in/s{k}_spikes is not the counts with 0 where they were hidden"
            raise DataError(message)
        asked = Asked(torch.zeros(len(ns)), offset, ns, counts.flatten(0, 1), target.flatten(0, 1))
        hidden = {"counts": away.flatten(0, 1)}
    elif meta["readout"]["res"] == "SEQUENCE":
        one, zero = torch.arange(n_windows + 1), torch.zeros(n_windows)
        asked = Asked(zero, one, start_ns + n_bins * BIN_NS // 2, zero.long(), torch.ones(n_windows))
    else:
        asked = Asked(torch.zeros(len(ns)), offset, ns, torch.zeros(len(ns), 1), torch.ones(len(ns)))
    observed = torch.ones(n_windows * n_bins, dtype=torch.uint8)
    return Batch(
        inputs={"counts": Tokens({"counts": counts.flatten(0, 1), "observed": observed}, offset)},
        window_ns=n_bins * BIN_NS,
        session_B=torch.full((n_windows,), k),
        sessions=[session] * n_windows,
        start_ns=start_ns,
        asked={_head(meta).task: asked},
        hidden=hidden,
        mode=MODE_OF.get(meta["mask_mode"], ""),
    )


@contextmanager
def _watched(model: StitchedModel, n_windows: int) -> Iterator[dict[str, Tensor]]:
    """What layers put out, under the golden's names."""
    seen: dict[str, Tensor] = {}
    watched = {"sequence": model.dropout_embedding, "encoder_out": model.norm}
    watched |= {f"layer{k}_out": layer for k, layer in enumerate(model.layers)}
    if isinstance(model, MtmBwb):
        watched |= {"shared_in": model.widen, "shared_out": model.narrow}

    def keep(name: str):
        def hook(_, given, out):
            value = given[0] if name == "shared_in" else out
            seen[name] = value if value.ndim == 3 else value.unflatten(0, (n_windows, -1))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
