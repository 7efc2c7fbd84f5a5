"""CaPOYO: POYO+ on calcium imaging, with a token for each unit in each frame.

Azabou, Pan, Arora, Knight, Dyer and Richards 2025, "Multi-session, multi-task neural decoding from distinct cell-types
and brain regions" (ICLR, OpenReview IuU0wcO0mo). Reference code: neuro-galaxy/torch_brain at 1e51481,
torch_brain/models/calcium_poyo_plus.py and examples/poyo_plus.

What is unusual:

- half of a token's numbers are its unit's row, the other half a linear map of dF/F in that frame; nothing is a type,
  a start or an end;
- frames stand at their own times, which turn keys and values: no rate is assumed, and a frame that was lost is none;
- questions, queries and losses are those of ``poyo_plus``.

Differs from the reference:

- it has no table of token types, which is made there and read by nothing (4 D parameters);
- times of frames, latents and queries are float32; there they stay float64 (1e-3 of its outputs);
- tasks, normalisation, read-outs and the rows of unseen sessions are as in ``poyo_plus``.

Shape letters: L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from spiketok.errors import UsageError
from spiketok.models.batch import Batch, Head, Input, Timing
from spiketok.models.perceiver import TINY, TINY_RECIPE, ManyTasks, TasksConfig, published
from spiketok.recording.nouns import FLUORESCENCE


@dataclass(frozen=True)
class CapoyoConfig(TasksConfig):
    """The defaults are the reference's single sessions (calcium_poyo_plus_single_session.yaml).

    Args:
        signal: the signal that holds dF/F of the units.
    """

    signal: str = FLUORESCENCE

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % 2:
            message = f"model.dim is {self.dim}, must be even: half of it is the unit's, half the value's"
            raise UsageError(message)


# of columns of dF/F (train_calcium_poyo_plus.yaml)
UNIT_DROPOUT = {"min": 10, "mode": 50, "max": 300, "peak": 4.0}


class Capoyo(ManyTasks):
    """Reads dF/F frame by frame; decodes behaviours and classifies, at each task's own times."""

    name: ClassVar[str] = "capoyo"
    checked: ClassVar[str] = "1 recorded configuration of its original: outputs, losses, gradients"
    Config: ClassVar[type] = CapoyoConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY,
        "single": {},  # calcium_poyo_plus_single_session.yaml
        "full": {"dim": 128, "depth": 24, "cross_heads": 4, "latents_per_step": 32},  # calcium_poyo_plus.yaml
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        "single": published(64, 100, UNIT_DROPOUT),
        "full": published(512, 2000, UNIT_DROPOUT),
    }

    @classmethod
    def inputs(cls, config: CapoyoConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"frames": Input("fluorescence", {"signal": config.signal})}

    def __init__(self, config: CapoyoConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        half = config.dim // 2
        self.make_rows(config.dim, config.init_std, unit_dim=half)
        self.value_map = nn.Linear(1, half)
        nn.init.trunc_normal_(self.value_map.weight, std=0.02)
        nn.init.zeros_(self.value_map.bias)
        self.make_trunk(config, types=False)
        self.make_tasks(heads, config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        columns, token_length = batch.inputs["frames"].packed()
        token_LD = torch.cat([self.value_map(columns["value"][:, None]), self.units(columns["unit"])], dim=1)
        key_value = self.encoder.key_value(token_LD)
        return self.answer(self.encode(key_value, columns["time"], token_length, batch.window_ns), batch)
