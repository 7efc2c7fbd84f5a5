"""NuCLR's goldens: two views of two recordings, as counts, spikes or frames of dF/F."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from spiketok.models.batch import Asked, Batch, Head, Progress, Timing
from spiketok.models.nuclr import Nuclr, NuclrConfig
from spiketok.models.nuclr_layers import FORMS, Views
from tests.references.harness import Golden, array, copy_weights, grad_norms

LEFT_OUT: dict[str, str] = {}
TASK = "embed"


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our NuCLR gives for its golden file."""
    model = build(meta, any(key.startswith("w/projector") for key in golden))
    parts = parts_of(model)
    copy_weights(golden, parts)
    if "in/df_over_f" in golden:
        patch = torch.from_numpy(golden["in/bins"]).unflatten(0, (-1, model.trunk.n_patches))
        length = golden["in/unit_seqlen"].tolist()
        return {"out/emb": array(model.trunk(Views(torch.arange(len(patch)), length, patch)))}
    found, both = {}, []
    for k, view in enumerate(views_of(golden, model), 1):
        vector = model.trunk(view)
        found |= {f"out/emb_view{k}": array(vector), f"out/proj_view{k}": array(model.project(vector))}
        both.append((vector, view))
    output, batch = paired(both)
    for form in FORMS:
        terms = of_loss(model, output, batch, loss=form)
        found |= {
            f"loss/{form}/{theirs}": array(terms[own])
            for theirs, own in (("total", "total"), ("numer", "pull"), ("denom", "push"))
        }
    projector, model.projector = model.projector, torch.nn.Identity()
    found["loss/vicreg_no_projector/total"] = array(of_loss(model, output, batch, loss="vicreg")["total"])
    model.projector = projector
    of_loss(model, output, batch, loss="dcl_full")["total"].backward()
    return found | grad_norms(parts)


def of_loss(model: Nuclr, output, batch: Batch, **changed) -> dict[str, torch.Tensor]:
    kept, model.config = model.config, replace(model.config, **changed)
    told, kept_terms = model.pull_and_push, {}

    def heard(pairs):
        kept_terms["pull"], kept_terms["push"] = told(pairs)
        return kept_terms["pull"], kept_terms["push"]

    model.pull_and_push = heard
    terms = model.loss(batch, output, Progress(0, 1)) | kept_terms
    model.pull_and_push = told
    model.config = kept
    return terms


def build(meta: Mapping, projector: bool) -> Nuclr:
    """The model of the golden's configuration."""
    config = meta["config"]
    form = {"NuclrV2gaBin": "bin", "NuclrV2gaSpikes": "spikes", "NuclrV2gaCa2": "calcium"}[meta["cls"]]
    step_ms = config.get("latent_step", 1.0) * 1e3
    own = NuclrConfig(
        form=form,
        dim=config["dim"],
        heads=config["self_heads"],
        dim_head=config["dim_head"],
        time_layers=config["t_layers"],
        unit_layers=config["st_layers"],
        patch_ms=step_ms,
        patch_frames=config.get("patch_size", 4),
        dropout=config["lin_dropout"],
        dropout_attention=config["atn_dropout"],
        projector=projector,
        tau=meta.get("tau", 0.2),
    )
    timing = Timing(round(config["ctx_duration"] * 1e9), round(config.get("bin_size", 0.02) * 1e9))
    return Nuclr(own, [Head(TASK, "embed", "vectors")], timing).eval()


def views_of(golden: Golden, model: Nuclr) -> list[Views]:
    """The two views, recording behind recording; a unit of the second has the row of its match in the first."""
    views = []
    length = [golden[f"in/view{k}/unit_seqlen"].tolist() for k in (1, 2)]
    rows = [[torch.arange(n) + (0 if k == 0 else 10_000) for n in own] for k, own in enumerate(length)]
    for r, (i, j) in enumerate(zip(golden["in/match_idx0"], golden["in/match_idx1"], strict=True)):
        rows[1][r][torch.from_numpy(j)] = torch.from_numpy(i)
    for k in (1, 2):
        unit = torch.cat(rows[k - 1])
        if f"in/view{k}/bins" in golden:
            patch = torch.from_numpy(golden[f"in/view{k}/bins"].astype(np.float32))
            views.append(Views(unit, length[k - 1], patch.unflatten(0, (len(unit), model.trunk.n_patches))))
        else:
            time, spikes = (torch.from_numpy(golden[f"in/view{k}/{name}"]) for name in ("spikes", "spike_seqlen"))
            views.append(Views(unit, length[k - 1], None, time, spikes))
    return views


def paired(both) -> tuple[dict[str, torch.Tensor], Batch]:
    """The vectors of two views as a model puts them out: recording by recording, its two views next to each other."""
    vectors = [part for of in zip(*(vector.split(view.length) for vector, view in both), strict=True) for part in of]
    units = [part for of in zip(*(view.unit.split(view.length) for _, view in both), strict=True) for part in of]
    length = [len(part) for part in units]
    offset = torch.tensor([0, *length]).cumsum(0)
    none = torch.zeros(0)
    n = len(length)
    asked = Asked(none, torch.zeros(n + 1, dtype=torch.int64), np.zeros(0, np.int64), none, none)
    output = {TASK: torch.cat(vectors), f"{TASK}.unit": torch.cat(units), f"{TASK}.offset": offset}
    session = torch.zeros(n, dtype=torch.int64)
    return output, Batch({}, 1, session, ["x"] * n, np.zeros(n, np.int64), asked={TASK: asked})


def parts_of(model: Nuclr) -> dict[str, list[torch.Tensor]]:
    """Our parameters by the original's names."""
    trunk = model.trunk
    omega = trunk.rotary.omega
    parts = {"rotary_emb.omega": [omega, torch.zeros_like(omega)]}

    def take(theirs: str, layer: torch.nn.Module) -> None:
        parts[f"{theirs}.weight"] = [layer.weight]
        parts[f"{theirs}.bias"] = [layer.bias]

    def block(prefix: str, own: torch.nn.Module) -> None:
        names = {"norm": "norm", "to_qkv": "to_qkv", "to_q": "to_query", "to_kv": "to_key_value", "to_out": "to_out"}
        if hasattr(own, "to_hidden"):
            names = {"norm": "norm", "in_proj": "to_hidden", "out_proj": "to_out"}
        for theirs, name in names.items():
            layer = getattr(own, name, None)
            if layer is not None and not isinstance(layer, torch.nn.Identity):
                take(f"{prefix}.{theirs}", layer)

    if trunk.of_spikes:
        step = torch.arange(trunk.n_patches, dtype=torch.float32)
        parts["latent_times"] = [(step + 0.5) * trunk.step_s]
        block("cross_attn", trunk.first)
        block("cross_ffn", trunk.first_ffn)
    else:
        take("read_in", trunk.read_in)
    for i, layer in enumerate(trunk.time_layers):
        for k, own in enumerate(layer.values()):
            block(f"t_blocks.{i}.{k}", own)
    for i, layer in enumerate(trunk.unit_layers):
        for k, own in enumerate([*layer["time"].values(), *layer["units"].values()]):
            block(f"st_blocks.{i}.{k}", own)
    for k in (0, 1, 3):
        if not isinstance(model.projector, torch.nn.Identity):
            take(f"projector.{k}", model.projector[k])
    return parts
