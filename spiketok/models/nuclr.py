"""NuCLR: a vector a unit, from its spikes among those of its population, by telling it again in another window.

Arora et al. 2025, "Know Thyself by Knowing Others: Learning Neuron Identity from Population Context" (NeurIPS, arXiv
2512.01199). Reference code: nerdslab/nuclr at 0fa409b: src/models/nuclr_v2ga_bin.py, nuclr_v2ga_spikes.py,
nuclr_v2ga_ca2.py, src/losses/sw_contrastive.py and vicreg.py.

What is unusual:

- no unit and no session has a row of its own: a unit is known by its activity and that of the others, so that an unseen
  session needs nothing;
- it is trained on pairs of windows of one session, each with other units left out: the two vectors of a unit shall be
  nearer to each other than to those of other units of the pair;
- three forms (``model.form``): counts in patches of a second, spike times alone, frames of dF/F;
- the negatives of a unit's own view are not divided by the temperature, as in the released code
  (``model.same_view_tau``; the paper's equation has the one temperature for all).

Differs from the reference: units are left out among those that a view holds, not before silent ones are dropped; a
batch holds one session; a frame of dF/F that is lacking moves the later ones up, and a view that is short of a patch
of frames then has no units.

Shape letters: B windows, V views, n units of all views, P patches of a view, K numbers in a patch, T bins, N units, D
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import NamesUnits, check_range
from spiketok.models.batch import Batch, Head, Input, Progress, Timing, bins_of, observed_counts
from spiketok.models.nuclr_layers import FORMS, Trunk, Views, contrast, matched, vicreg


@dataclass(frozen=True)
class NuclrConfig:
    """The defaults are the released ephys model (configs/model/nuclr_v2ga_bin.yaml, configs/loss/sw_dcl.yaml).

    Args:
        form: what is read of a unit: ``"bin"``, counts on the run's bins; ``"spikes"``, its times; ``"calcium"``, dF/F.
        dim: D. heads, dim_head: of every attention.
        time_layers: layers over a unit's own time. unit_layers: layers over units, then time.
        patch_ms: length of a patch of bins, and the time between the patches that read spikes.
        patch_frames: frames in a patch of dF/F. frame_hz: frames a second.
        dropout: of the residual branches. dropout_attention: of attention weights.
        keep: smallest share of a view's units that is kept in training; the share is drawn for each view.
        loss: ``"dcl_full"``, ``"dcl"``, ``"full"``, ``"ntxent"`` or ``"vicreg"``.
        projector: the contrast is of vectors behind another two layers, which are dropped afterwards.
        tau: temperature. same_view_tau: that of a view's own units.
        min_matched: pairs with fewer units in both views are not learned from.
    """

    form: Literal["bin", "spikes", "calcium"] = "bin"
    dim: int = 256
    heads: int = 4
    dim_head: int = 64
    time_layers: int = 2
    unit_layers: int = 2
    patch_ms: float = 1000.0
    patch_frames: int = 4
    frame_hz: float = 4.2837
    dropout: float = 0.2
    dropout_attention: float = 0.0
    keep: float = 0.5
    loss: Literal["dcl_full", "dcl", "full", "ntxent", "vicreg"] = "dcl_full"
    projector: bool = True
    tau: float = 0.2
    same_view_tau: float = 1.0
    min_matched: int = 2

    def __post_init__(self) -> None:
        positive = ("dim", "heads", "dim_head", "patch_ms", "patch_frames", "frame_hz", "tau", "same_view_tau")
        check_range(self, "(0, inf)", *positive)
        check_range(self, "[0, 1)", "dropout", "dropout_attention")
        check_range(self, "[0, inf)", "time_layers", "unit_layers")
        check_range(self, "(0, 1]", "keep")
        check_range(self, "[2, inf)", "min_matched")
        for name, known in (("form", ("bin", "spikes", "calcium")), ("loss", (*FORMS, "vicreg"))):
            if getattr(self, name) not in known:
                message = f"model.{name} is '{getattr(self, name)}', must be one of {', '.join(known)}"
                raise UsageError(message)


class Nuclr(NamesUnits):
    """Reads what units do in pairs of windows, puts out a vector for each."""

    name: ClassVar[str] = "nuclr"
    checked: ClassVar[str] = "3 recorded configurations of its original: vectors, losses, gradients"
    tasks: ClassVar[tuple[str, ...]] = ("embed",)
    default_tasks: ClassVar[tuple[str, ...]] = ("embed",)
    protocols: ClassVar[tuple[str, ...]] = ("zero_shot",)
    one_session_batches: ClassVar[bool] = True
    Config: ClassVar[type] = NuclrConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": {"dim": 64, "heads": 2, "dim_head": 32, "time_layers": 1, "unit_layers": 1, "dropout": 0.0},
        "6.3M": {},
        "spikes": {"form": "spikes"},
        "calcium": {"form": "calcium"},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": {  # minutes on two CPU cores
            "data": {"window_ms": 20_000.0, "bin_ms": 40.0, "batch_size": 4},
            "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01, "schedule": "cosine", "steps": 700},
        },
        # configs/train_ephys.yaml, src/trainers/contrastive.py: batch 128 pairs, cosine after an epoch of warm-up
        "*": {
            "data": {"window_ms": 10_000.0, "bin_ms": 20.0, "batch_size": 256},
            "optim": {
                "name": "adamw",
                "lr": 5e-4,
                "weight_decay": 0.01,
                "schedule": "cosine",
                "epochs": 300,
                "clip": 1.0,
                "accelerator": "auto",
            },
        },
        # configs/train_ca.yaml: batch 16 pairs of 30 s within 240 s
        "calcium": {
            "data": {"window_ms": 30_000.0, "batch_size": 32},
            "task": {"embed": {"distance_s": 240.0}},
            "optim": {
                "name": "adamw",
                "lr": 1.25e-4,
                "weight_decay": 0.01,
                "schedule": "cosine",
                "epochs": 30,
                "clip": 1.0,
                "accelerator": "auto",
            },
        },
    }

    @classmethod
    def inputs(cls, config: NuclrConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        if config.form == "spikes":
            return {"spikes": Input("per-spike", {"order": "unit", "start_end": False})}
        if config.form == "calcium":
            return {"frames": Input("fluorescence")}
        return {"counts": Input("binned", {"bin_ns": timing.bin_ns})}

    def __init__(self, config: NuclrConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task = self.head("vectors").task
        patch_ns = round(config.patch_ms * 1e6)
        if config.form == "calcium":
            read_in = config.patch_frames
            n_patches = int(timing.window_ns / 1e9 * config.frame_hz) // config.patch_frames
            whole, what = n_patches > 0, f"{read_in} frames at {config.frame_hz:g} Hz"
        else:
            read_in = patch_ns // timing.bin_ns if config.form == "bin" else 0
            n_patches = timing.window_ns // patch_ns
            whole = n_patches > 0 and timing.window_ns % patch_ns == 0
            whole = whole and (config.form == "spikes" or patch_ns % timing.bin_ns == 0)
            what = f"{config.patch_ms:g} ms of bins of {timing.bin_ns / 1e6:g} ms"
        if not whole:
            message = (
                f"a window of {timing.window_ns / 1e6:g} ms is no whole number of patches of {what}: change "
                "data.window_ms, data.bin_ms or the model's patch"
            )
            raise UsageError(message)
        self.trunk = Trunk(config, read_in, n_patches, config.patch_ms / 1e3)
        dim = config.dim
        self.projector = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
            if config.projector
            else nn.Identity()
        )
        self.units: dict[str, list[str]] = {}

    # ---- views ------------------------------------------------------------------------------------------------------

    def views(self, batch: Batch) -> Views:
        """What the windows of a batch hold: units with a spike, or with frames of dF/F."""
        read = {"bin": self._bins, "spikes": self._spikes, "calcium": self._frames}[self.config.form]
        return read(batch)

    def _bins(self, batch: Batch) -> Views:
        columns, length = batch.inputs["counts"].packed()
        counts = observed_counts(columns)
        by_unit = counts.unflatten(0, (len(length), bins_of(length))).transpose(1, 2)  # [B, N, T]
        present = (by_unit > 0).any(-1)
        patch = by_unit[present].unflatten(-1, (self.trunk.n_patches, -1)).float()
        return Views(present.nonzero()[:, 1], present.sum(1).tolist(), patch)

    def _spikes(self, batch: Batch) -> Views:
        columns, length = batch.inputs["spikes"].packed()
        window = torch.repeat_interleave(torch.tensor(length)).to(columns["unit"].device)
        n = max((len(keys) for keys in self.units.values()), default=0)
        key, spikes = torch.unique_consecutive(window * n + columns["unit"].long(), return_counts=True)
        held = torch.bincount(key // n, minlength=len(length)).tolist()
        return Views(key % n, held, None, columns["time"].float(), spikes)

    def _frames(self, batch: Batch) -> Views:
        columns, length = batch.inputs["frames"].packed()
        rows = zip(columns["unit"].long().split(length), columns["value"].split(length), strict=True)
        wanted, units, patches, found = self.trunk.n_patches * self.config.patch_frames, [], [], []
        for unit, value in rows:
            own = torch.unique(unit)
            n_frames = len(unit) // max(len(own), 1)
            found.append(n_frames)
            if n_frames < wanted:
                units.append(own[:0])
                patches.append(value.new_zeros(0, wanted))
                continue
            units.append(own)
            patches.append(value.unflatten(0, (n_frames, -1)).T[:, :wanted])
        if max(found) < wanted or max(found) >= wanted + 2 * self.config.patch_frames:
            message = (
                f"{batch.sessions[0]}: a window has {max(found)} frames of dF/F, at model.frame_hz "
                f"{self.config.frame_hz:g} it would have about {wanted}: set model.frame_hz to the recording's rate"
            )
            raise DataError(message)
        patch = torch.cat(patches).unflatten(-1, (self.trunk.n_patches, -1)).float()
        return Views(torch.cat(units), [len(own) for own in units], patch)

    def _drop(self, views: Views) -> Views:
        """The views with a share of their units, drawn for each view from ``keep`` to all of them."""
        kept = []
        for n in views.length:
            low = min(max(int(n * self.config.keep), 1), n)
            wanted = int(torch.randint(low, n + 1, ()))
            own = torch.zeros(n, dtype=torch.bool)
            own[torch.randperm(n)[:wanted]] = True
            kept.append(own)
        return views.take(torch.cat(kept).to(views.unit.device))

    # ---- the computation --------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views = self.views(batch)
        if self.training and self.config.keep < 1:
            views = self._drop(views)
        offset = torch.tensor([0, *views.length], device=views.unit.device).cumsum(0)
        return {self.task: self.trunk(views), f"{self.task}.unit": views.unit, f"{self.task}.offset": offset}

    def project(self, vector: Tensor) -> Tensor:
        """``[n, D]``, which are contrasted: of length 1, but for VICReg; in float32 under any autocast."""
        with torch.autocast(vector.device.type, enabled=False):
            seen = self.projector(vector.float())
            return seen if self.config.loss == "vicreg" else F.normalize(seen, dim=-1)

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """The contrast of each pair of windows, weighted by its matched units; 0 where no pair has enough of them.

        In float32 under any autocast. A unit that is silent in one window of a pair has no row of its own: where it
        has spikes it is one more negative of the others, as in the released code.
        """
        if self.task not in batch.asked:
            return {"total": output[self.task].sum() * 0}
        vector, unit = output[self.task], output[f"{self.task}.unit"]
        length = output[f"{self.task}.offset"].diff().tolist()
        if len(length) % 2:
            message = f"{self.name} learns from pairs of windows, this batch has {len(length)}"
            raise DataError(message)
        seen = self.project(vector)
        views = list(zip(seen.split(length), unit.split(length), strict=True))
        pairs = []
        for (first, own), (second, other) in zip(views[::2], views[1::2], strict=True):
            match = matched(own, other)
            if len(match[0]) >= self.config.min_matched:
                pairs.append((first, second, match))
        with torch.autocast(seen.device.type, enabled=False):  # similarities near 1 need all their digits
            if self.config.loss == "vicreg":
                total = vicreg(*_stacked(pairs)) if pairs else seen.sum() * 0
            else:
                total = sum(self.pull_and_push(pairs)) if pairs else seen.sum() * 0
        return {self.task: total, "total": total}

    def pull_and_push(self, pairs: Sequence[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
        """The two terms of the contrast, of all pairs, weighted by their matched units."""
        seen = pairs[0][0]
        weight = torch.tensor([len(match[0]) for _, _, match in pairs], device=seen.device, dtype=seen.dtype)
        config = self.config
        terms = [contrast(*pair, config.tau, config.loss, config.same_view_tau) for pair in pairs]
        pull, push = ((torch.stack(of) * weight).sum() / weight.sum() for of in zip(*terms, strict=True))
        return pull, push


def _stacked(pairs: Sequence[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor, tuple]:
    """All pairs as one, pair behind pair."""
    first, second, match, passed = [], [], ([], []), [0, 0]
    for own, other, rows in pairs:
        first.append(own)
        second.append(other)
        for k, part in enumerate((own, other)):
            match[k].append(rows[k] + passed[k])
            passed[k] += len(part)
    return torch.cat(first), torch.cat(second), (torch.cat(match[0]), torch.cat(match[1]))
