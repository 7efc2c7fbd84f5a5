"""NDT-Stitch: BrainWideBench's NDT, which fills in hidden bins of many sessions by one encoder.

International Brain Laboratory and BrainBench 2026, BrainWideBench (arXiv 2609.22064). Reference code:
brainbench-org/ibl-bwb (3c8cee9; src/pretrain/models/ndt_stitch; its masker, initial values and published sizes as in
the twin test-ibl-bwb at f8b0a85). What it changes of NDT1 (Ye and Pandarinath 2021): a session has a stitcher in, a
stitcher out and a token in front of its bins; every bin sees every bin; nothing is scaled by the root of D.

What is unusual:

- half of the training batches hide single bins, half of them blocks of up to ``max_block`` bins; all units of a hidden
  bin are 0;
- seeds of blocks are drawn at ``mask_ratio`` over their width and blocks may overlap: wide ones hide fewer bins (.42 in
  place of .5, over all widths);
- the loss is the whole Poisson likelihood, with Stirling's ``log y!``: its gradient is that of ``ndt1``'s.

Differs from the reference:

- units and sessions are keyed by their ids, and a session that is unknown is refused;
- labels and behaviour may be asked beside the population, and are then read from the masked counts in training; there
  a head is trained after the pretraining, as here by ``train --from RUN --task decode``;
- bins that were not observed are seen by nobody but themselves; there nothing is said of them;
- what a task hides (held-out units, forward bins) is hidden in every mask, and always scored;
- not built: a validation by fixed masks.

Shape letters: B windows, T bins, N units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from spiketok.models.base import check_range
from spiketok.models.batch import Batch
from spiketok.models.masking import hide_timesteps
from spiketok.models.stitched import TINY, TINY_RECIPE, StitchedConfig, StitchedModel, published


@dataclass(frozen=True)
class NdtStitchConfig(StitchedConfig):
    """The defaults are the reference's ndt_stitch_10M.yaml and ndt_stitch_pretrain.yaml.

    Args:
        mask_ratio: share of the bins that is hidden. block_share: of the batches that hide blocks. max_block: bins of
            the widest block; 1 for single bins always.
    """

    block_share: float = 0.5
    max_block: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[0, 1]", "block_share")
        check_range(self, "[1, inf)", "max_block")


class NdtStitch(StitchedModel):
    """Reads binned counts; gives log rates for each bin, behaviour at the bins of the queries, labels by window."""

    name: ClassVar[str] = "ndt_stitch"
    checked: ClassVar[str] = "4 recorded configurations of its original: outputs, layers, losses, gradients"
    activation: ClassVar[str] = "relu"
    Config: ClassVar[type] = NdtStitchConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY,
        "10M": {},  # ndt_stitch_10M.yaml: 10,306,868 parameters beside those of sessions
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        # Its OneCycle stays at its highest for half of the steps, as ours.
        "*": published(schedule="onecycle", pct_start=0.5),
    }

    def draw(self, batch: Batch, session: str, counts_BTN: Tensor) -> tuple[str, Tensor, Tensor]:
        """Whole bins, drawn for each window; the width of blocks is drawn for the batch."""
        config, width = self.config, 1
        if config.max_block > 1 and torch.rand(()).item() < config.block_share:
            width = int(torch.randint(1, config.max_block + 1, ()))
        n_windows, n_bins, _ = counts_BTN.shape
        drawn = hide_timesteps(n_windows, n_bins, config.mask_ratio, width, device=counts_BTN.device)[..., None]
        return "", drawn, drawn
