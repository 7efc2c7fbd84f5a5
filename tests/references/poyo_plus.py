"""Replays the original POYO+: several tasks in one batch, and each window by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spiketok.models.batch import Asked, Batch, Head, Progress, Tokens
from spiketok.models.nn import module_key
from spiketok.models.perceiver import ManyTasks
from spiketok.models.poyo_plus import PoyoPlus, PoyoPlusConfig
from tests.references.harness import Golden, array, copy_weights, grad_norms
from tests.references.poyo import layer_parts, require_latents, trunk_fields, trunk_parts, with_sessions

LEFT_OUT = {"out/float64_timestamps/*": "the original's times in float64; ours are float32 throughout"}
NO_EFFECT = {
    f"w/readout.projections.static_gratings_phase.{name}": "no query of the file asks this task"
    for name in ("weight", "bias")
}
KINDS = {"MSELoss": ("decode", "values"), "CrossEntropyLoss": ("classify", "classes")}


def replay(golden: Golden, meta: Mapping) -> dict[str, np.ndarray]:
    """What our POYO+ gives for its golden file."""
    model, sessions = with_sessions(PoyoPlus, PoyoPlusConfig(**trunk_fields(meta["config"])), heads_of(meta), meta)
    parts = trunk_parts(model) | {"token_type_emb.weight": [model.types.weight]} | task_parts(model)
    columns = {"unit": np.int32, "time": np.float32, "type": np.uint8}
    names = {"unit": "in/input_unit_index", "time": "in/input_timestamps", "type": "in/input_token_type"}
    tokens = Tokens(
        columns={name: torch.from_numpy(golden[names[name]].astype(dtype)) for name, dtype in columns.items()},
        valid_BL=torch.from_numpy(golden["in/input_mask"]),
    )
    return replayed(golden, meta, model, sessions, parts, {"spikes": tokens})


def heads_of(meta: Mapping) -> list[Head]:
    """A head for each task of the original, in the order of their ids, which count from 1."""
    tasks = sorted(meta["task_ids"].items(), key=lambda item: item[1][0])
    if [row for _, (row, _, _) in tasks] != list(range(1, len(tasks) + 1)):
        message = f"the ids of the tasks are {[row for _, (row, _, _) in tasks]}, expected all from 1"
        raise ValueError(message)
    return [Head(f"{KINDS[loss][0]}:{name}", *KINDS[loss], size=size) for name, (_, size, loss) in tasks]


def task_parts(model: ManyTasks) -> dict[str, list[torch.Tensor]]:
    """Rows and read-outs of the tasks; no task has the table's first row."""
    nothing = torch.nn.Parameter(torch.zeros(1, model.config.dim))
    rows = [model.task_rows[module_key(task)] for task in model.heads]
    parts = {"task_emb.weight": [nothing, *rows]}
    for task in model.heads:
        theirs = f"readout.projections.{task.partition(':')[2]}"
        parts |= layer_parts(theirs, model.readouts[module_key(task)])
    return parts


def replayed(
    golden: Golden, meta: Mapping, model: ManyTasks, sessions, parts, inputs: dict[str, Tokens]
) -> dict[str, np.ndarray]:
    """Outputs, losses and gradients of a model of several tasks, and the outputs of each window by itself."""
    copy_weights(golden, parts)
    window_ns = round(meta["config"]["sequence_length"] * 1e9)
    require_latents(golden, model, window_ns)

    def batch_of(rows: Sequence[int]) -> Batch:
        rows = list(rows)
        index = torch.from_numpy(golden["in/output_session_index"][rows].max(1).astype(np.int64)) - 1  # 0 is padding
        taken = {
            name: Tokens({key: column[rows] for key, column in tokens.columns.items()}, valid_BL=tokens.valid_BL[rows])
            for name, tokens in inputs.items()
        }
        names = [sessions[i].id for i in index.tolist()]
        start_ns = np.zeros(len(rows), np.int64)
        return Batch(taken, window_ns, index, names, start_ns, asked_of(golden, model, rows))

    n_windows = len(golden["in/output_decoder_index"])
    batch = batch_of(range(n_windows))
    output = model(batch)
    terms = model.loss(batch, output, Progress(0, 1))
    terms["total"].backward()
    found = {"loss/total": array(terms["total"])} | grad_norms(parts)
    for task, asked in batch.asked.items():
        if len(asked.time):
            found[f"out/{task.partition(':')[2]}"] = array(output[task])
            found[f"loss/task/{task.partition(':')[2]}"] = array(terms[task])
    for row in range(n_windows):
        for task, said in model(batch_of([row])).items():
            if len(said):
                found[f"out/sample{row}/{task.partition(':')[2]}"] = array(said)
    return found


def asked_of(golden: Golden, model: ManyTasks, rows: Sequence[int]) -> dict[str, Asked]:
    """What each task asks in some of the windows; its truth stands in the file in the order of all windows."""
    asked = {}
    for number, (task, head) in enumerate(model.heads.items(), start=1):
        name = task.partition(":")[2]
        mine = golden["in/output_decoder_index"] == number
        kept = np.repeat(np.isin(np.arange(len(mine)), rows), mine.sum(1))
        time = golden["in/output_timestamps"][rows][mine[rows]]
        nothing = np.zeros((0, head.size) if head.output == "values" else 0, np.int64)
        target = torch.from_numpy(golden.get(f"in/target/{name}", nothing)[kept])
        weight = golden.get(f"in/target_weight/{name}", np.ones(len(kept), np.float32))[kept]
        asked[task] = Asked(
            time=torch.from_numpy(time.astype(np.float32)),
            offset=torch.from_numpy(np.concatenate([[0], np.cumsum(mine[rows].sum(1))])),
            ns=(time.astype(np.float64) * 1e9).round().astype(np.int64),
            target=target.long() if head.output == "classes" else target.float(),
            weight=torch.from_numpy(weight),
        )
    return asked
