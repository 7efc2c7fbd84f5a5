"""Replays the original CaPOYO: frames of dF/F as tokens, several tasks in one batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from spiketok.models.batch import Tokens
from spiketok.models.capoyo import Capoyo, CapoyoConfig
from tests.references.harness import Golden
from tests.references.poyo import layer_parts, trunk_fields, trunk_parts, with_sessions
from tests.references.poyo_plus import LEFT_OUT, heads_of, replayed, task_parts

__all__ = ["LEFT_OUT", "NO_EFFECT", "replay"]

NO_EFFECT = {
    "w/token_type_emb.weight": "a table that the original never reads",
    **{
        f"w/readout.projections.cursor_velocity_2d.{name}": "no query of the file asks this task"
        for name in ("weight", "bias")
    },
}


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our CaPOYO gives for its golden file."""
    model, sessions = with_sessions(Capoyo, CapoyoConfig(**trunk_fields(meta["config"])), heads_of(meta), meta)
    unread = torch.nn.Parameter(torch.zeros(golden["w/token_type_emb.weight"].shape))
    parts = trunk_parts(model) | {"token_type_emb.weight": [unread]} | task_parts(model)
    parts |= layer_parts("input_value_map", model.value_map)
    tokens = Tokens(
        columns={
            "unit": torch.from_numpy(golden["in/input_unit_index"].astype(np.int32)),
            "value": torch.from_numpy(golden["in/input_values"])[..., 0],
            "time": torch.from_numpy(golden["in/input_timestamps"]),
        },
        valid_BL=torch.from_numpy(golden["in/input_mask"]),
    )
    return replayed(golden, meta, model, sessions, parts, {"frames": tokens})
