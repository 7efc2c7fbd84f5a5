"""POYO+: POYO asked several questions of several kinds at once, each at times of its own.

Azabou, Pan, Arora, Knight, Dyer and Richards 2025, "Multi-session, multi-task neural decoding from distinct cell-types
and brain regions" (ICLR, OpenReview IuU0wcO0mo). Reference code: neuro-galaxy/torch_brain at 1e51481,
torch_brain/models/poyo_plus.py and examples/poyo_plus.

What is unusual:

- a query is the sum of its session's row and its task's row; each task has a read-out of its own, MSE for values and
  cross entropy (or the distance of cumulative distributions) for classes;
- sessions with different tasks share batches: a window is asked what its session has, and a task's loss counts by the
  share of windows that have it;
- samples are weighed by the intervals that hold them: ``task.decode.weights``.

Differs from the reference:

- times of tokens, latents and queries are float32, as in ``poyo``; there they stay float64 (1e-3 of its outputs);
- tasks are those of the run, by name; there ids of one registry of all data sets, of which row 0 is never used;
- behaviours are normalised by the training time of the run, there by constants of each recording's configuration;
- read-outs are dense parameters of the optimizer, there they stay where no sample of a batch asks them;
- the start of an unseen session's row: ``add_sessions`` in ``spiketok.models.perceiver`` says how.

Shape letters: D width, Q query times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from spiketok.models.batch import Batch, Head, Input, Timing
from spiketok.models.perceiver import TINY, TINY_RECIPE, ManyTasks, TasksConfig, published


@dataclass(frozen=True)
class PoyoPlusConfig(TasksConfig):
    """The defaults are the reference's single sessions (examples/poyo_plus/configs/model/poyo_single_session.yaml).

    Args:
        first_spikes: read each unit's first spike of a window alone, its latency where windows begin at an onset.
    """

    first_spikes: bool = False


class PoyoPlus(ManyTasks):
    """Reads per-spike tokens; decodes behaviours and classifies, at each task's own times."""

    name: ClassVar[str] = "poyo_plus"
    checked: ClassVar[str] = "1 recorded configuration of its original: outputs, losses, gradients"
    Config: ClassVar[type] = PoyoPlusConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {
        "tiny": TINY,
        "1.3M": {},  # poyo_single_session.yaml
        "11.8M": {"dim": 128, "depth": 24, "cross_heads": 4, "latents_per_step": 32},  # poyo_1.yaml
    }
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "tiny": TINY_RECIPE,
        # examples/poyo_plus/configs: defaults.yaml, train.py; train_poyo_mp.yaml
        "1.3M": published(128, 1000, {"min": 30, "mode": 100, "max": 300, "peak": 4.0}),
        "11.8M": published(1024, 1000, {"min": 60, "mode": 300, "max": 1000, "peak": 4.0}),
    }

    @classmethod
    def inputs(cls, config: PoyoPlusConfig, tasks: Sequence[str], timing: Timing) -> dict[str, Input]:
        return {"spikes": Input("per-spike", {"first_only": True} if config.first_spikes else {})}

    def __init__(self, config: PoyoPlusConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.make_rows(config.dim, config.init_std)
        self.make_trunk(config)
        self.make_tasks(heads, config)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        columns, token_length = batch.inputs["spikes"].packed()
        key_value = self.spike_projections(columns["unit"], columns["type"])
        return self.answer(self.encode(key_value, columns["time"], token_length, batch.window_ns), batch)
