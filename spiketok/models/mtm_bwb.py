"""MtM as BrainWideBench has it: masks of four kinds over stitched sessions, without any mask in attention.

International Brain Laboratory and BrainBench 2026, BrainWideBench (arXiv 2609.22064), after Zhang et al. 2024 (MtM).
Reference code: brainbench-org/ibl-bwb (3c8cee9; src/pretrain/models/mtm; its masker, initial values and published sizes
as in the twin test-ibl-bwb at f8b0a85).

What is unusual:

- a session's units are stitched to C channels, which one shared layer makes twice as many and another one D;
- each training batch is hidden by one mask of ``masks``, of which a token tells between the session's token and the
  bins; ``causal`` hides the last bins, and only so knows the encoder nothing of them: each row attends to every row;
- an evaluation that hides in one of these ways is told its mask; a run that asks no population has no such token, as
  the reference's fine-tuning;
- the loss is the whole Poisson likelihood, as in ``ndt_stitch``.

Differs from the reference:

- units and sessions are keyed by their ids, and a session that is unknown is refused;
- a session of one region knows no ``inter_region`` (all would be hidden), as in ``mtm``; its ``intra_region`` hides
  single units;
- labels and behaviour may be asked beside the population, and are then read from the masked counts in training; there
  a head is trained after the pretraining, as here by ``train --from RUN --task decode``;
- bins that were not observed are seen by nobody but themselves; there nothing is said of them;
- what a task hides (held-out units, forward bins) is hidden in every mask, and always scored;
- its rate of learning rises from a tenth of the highest, here from 0;
- not built: a validation by fixed masks.

Shape letters: B windows, T bins, N units, C channels, D width, P tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError
from spiketok.models.base import check_range
from spiketok.models.batch import Batch, Head, Timing
from spiketok.models.binned import region_index
from spiketok.models.masking import draw_mask, hide_last
from spiketok.models.stitched import TINY, TINY_RECIPE, StitchedConfig, StitchedModel, published
from spiketok.recording.nouns import SessionInfo

Masks = Literal["neuron", "causal", "inter_region", "intra_region"]
MASK_OF_MODE = {"unit": "neuron", "forward": "causal", "inter_region": "inter_region", "intra_region": "intra_region"}


@dataclass(frozen=True)
class MtmBwbConfig(StitchedConfig):
    """The defaults are the reference's mtm_10M.yaml and mtm_pretrain.yaml.

    Args:
        masks: the masks of training, each batch one of them: ``neuron`` (whole units), ``causal`` (the last bins),
            ``inter_region`` (a region from the others), ``intra_region`` (units of a region from the rest of it). An
            evaluation is told the mask that it is like, if it is one of these; else ``neuron``, if it is; else the
            first.
        mask_ratio: share of the units that is hidden, in ``neuron`` and ``intra_region``. causal_ratio: of the bins, in
            ``causal``.
        region_column: the unit column of regions; a session without it has one region.
        channels: C. channel_factor: channels become so many times as many, through softsign, before they become D.
    """

    layers: int = 12
    mask_ratio: float = 0.3
    masks: tuple[Masks, ...] = ("neuron", "causal", "inter_region", "intra_region")
    causal_ratio: float = 0.1
    region_column: str = "region"
    channels: int = 668
    channel_factor: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "[1, inf)", "channels", "channel_factor")
        check_range(self, "(0, 1]", "causal_ratio")
        known = get_args(Masks)
        if not self.masks or set(self.masks) - set(known) or len(set(self.masks)) < len(self.masks):
            message = f"model.masks is {list(self.masks)}, must be some of {', '.join(known)}, each once"
            raise UsageError(message)


class MtmBwb(StitchedModel):
    """Reads binned counts; gives log rates for each bin, behaviour at the bins of the queries, labels by window."""

    name: ClassVar[str] = "mtm_bwb"
    checked: ClassVar[str] = "6 recorded configurations of its original: outputs, layers, losses, gradients"
    activation: ClassVar[str] = "gelu"
    Config: ClassVar[type] = MtmBwbConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY | {"channels": 64},
        # mtm_10M.yaml: 10,752,136 parameters beside those of sessions; regions as its files name them
        "10M": {"region_column": "region_cosmos"},
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        "*": published(schedule="cosine", warmup=0.15),
    }

    def __init__(self, config: MtmBwbConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        wide = config.channels * config.channel_factor
        self.widen, self.narrow = nn.Linear(config.channels, wide), nn.Linear(wide, config.dim)
        if self.population:
            self.prompt = nn.Embedding(len(config.masks), config.dim)

    def read_in_width(self) -> int:
        return self.config.channels

    def embed(self, session: str, counts_BTN: Tensor) -> Tensor:
        return self.narrow(F.softsign(self.widen(super().embed(session, counts_BTN))))

    def add_sessions(self, infos: list[SessionInfo]) -> None:
        """As all stitched models.

        Raises:
            DataError: a session has one region, and no other mask than ``inter_region`` trains.
        """
        column = self.config.region_column
        for info in infos:
            if self.population and self.config.masks == ("inter_region",) and not region_index(info, column).any():
                message = (
                    f"{info.id} has one region by its unit column '{column}', and model.masks is inter_region alone: "
                    "nothing would be left to see, name another mask in model.masks"
                )
                raise DataError(message)
        super().add_sessions(infos)

    def mask_of(self, batch: Batch) -> str:
        """Its own way of hiding if that was trained, else ``neuron``, else the first."""
        trained = self.config.masks
        named = MASK_OF_MODE.get(batch.mode, "neuron")
        return next((mask for mask in (named, "neuron") if mask in trained), trained[0])

    def prompt_of(self, mask: str) -> Tensor:
        """``[1, D]``, the token of the mask; none where no population is asked."""
        if not self.population:
            return super().prompt_of(mask)
        return self.prompt.weight[self.config.masks.index(mask)][None]

    def draw(self, batch: Batch, session: str, counts_BTN: Tensor) -> tuple[str, Tensor, Tensor]:
        """One of the masks, each as likely."""
        config, device = self.config, counts_BTN.device
        region = region_index(batch.facts[session], config.region_column)
        able = [mask for mask in config.masks if mask != "inter_region" or bool(region.any())]
        mask = able[int(torch.randint(len(able), ()))]
        if mask == "causal":
            hidden = hide_last(counts_BTN.shape[1], config.causal_ratio, device=device)
            return mask, hidden, hidden
        return mask, *draw_mask(mask, counts_BTN.shape, region, config.mask_ratio, device=device)
