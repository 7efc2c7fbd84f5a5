"""What is measured of one run, measure by measure; each gives JSON-able facts, or raises why there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from spiketok.errors import DataError
from spiketok.evaluation.generation import generate
from spiketok.evaluation.results import CALIBRATION_OF, FLOOR
from spiketok.evaluation.star.apart import apart, decoded_apart, trained_apart
from spiketok.evaluation.star.entrants import Chosen, Entrant
from spiketok.evaluation.star.jitter import jitter_scores
from spiketok.evaluation.star.scores import METRIC, decoded, mean_r2, share_needed
from spiketok.evaluation.stream import stream
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.models.batch import Generation
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S
from spiketok.storage.records import run_result
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import Run, load_run
from spiketok.training.config import with_transfer
from spiketok.training.loop import train
from spiketok.training.runs import device_of, open_shards, run_path

SHARES = (0.125, 0.25, 0.5)  # of the training time, beside all of it
JITTERS_MS = (1.0, 5.0, 20.0, 50.0)  # standard deviations
CHUNKS_MS = (20.0, 50.0)  # from one live window to the next
LIVE_S, GENERATED_S = 10.0, 30.0  # of test time that is streamed, and drawn


@dataclass(frozen=True)
class How:
    """What the measures share.

    Args:
        chosen: the sessions. calibration_s: that an unseen session gives. protocols: of transfer; None for those that
            the model has and those that begin at a map. adapt: ``transfer.KEY=VALUE``. seed: of jitter, draws and new
            rows.
    """

    workspace: Workspace
    chosen: Chosen
    calibration_s: float = 30.0
    protocols: tuple[str, ...] | None = None
    adapt: tuple[str, ...] = ()
    seed: int = 0


def measure_train(how: How, one: Entrant) -> dict[str, object]:
    """Train it where it is not, in a process of its own: test R2, parameters, time and memory."""
    took = apart(trained_apart, how.workspace.absolute(), one.config, list(one.sessions), one.run_dir.absolute())
    result = run_result(one.run_dir)
    return took | _accuracy(result, one) | {"parameters": one.parameters, "train_s": sum(result["train_s"].values())}


def _accuracy(result: dict, one: Entrant) -> dict[str, object]:
    name = decoded(result["tasks"])
    r2 = mean_r2(result["tasks"], result["test"])
    told = {"task": name, "r2": r2, "r2_by_session": {s: own[name][METRIC] for s, own in result["test"].items()
                                                     if name in own}}  # fmt: skip
    if name is None:
        asked = ", ".join(task["name"] for task in result["tasks"])
        told["r2_reason"] = f"{one.config.model} answers {asked}, no behaviour as numbers"
    elif r2 is None:
        told["r2_reason"] = "a session has no test R2: no test time, or a constant behaviour"
    return told


def _run(one: Entrant) -> Run:
    """The trained run, which must decode."""
    run = load_run(one.run_dir)
    if decoded(run.tasks) is None:
        message = f"{one.config.model} decodes no behaviour in this run"
        raise DataError(message)
    run.model.to(device_of(run.config)).eval()
    return run


def measure_data(how: How, one: Entrant) -> dict[str, object]:
    """Test R2 of the same training with parts of the training time, and the part that 90 % of the full score needs."""
    result = run_result(one.run_dir)
    if decoded(result["tasks"]) is None:
        message = f"{one.config.model} decodes no behaviour in this run"
        raise DataError(message)
    if one.config.start:
        message = "it starts from the weights of another run: what data it needs is not its own to say"
        raise DataError(message)
    if one.config.data.train_share != 1:
        message = f"it was trained with data.train_share={one.config.data.train_share:g}: a curve begins at all of it"
        raise DataError(message)
    scores: dict[float, float | None] = {1.0: mean_r2(result["tasks"], result["test"])}
    reasons, runs = {}, {}
    for share in SHARES:
        config = replace(one.config, data=replace(one.config.data, train_share=share))
        if one.total:  # the same number of steps, also where the recipe counts in epochs
            config = replace(config, optim=replace(config.optim, epochs=None, steps=one.total))
        try:
            opened = open_shards(how.workspace, list(one.sessions), config)
            run_dir = run_path(how.workspace, config, opened)
            if not (run_dir / "result.json").is_file():
                train(config, opened, run_dir)
            part = run_result(run_dir)
        except DataError as error:
            scores[share], reasons[f"{share:g}"] = None, str(error)
        else:
            scores[share], runs[f"{share:g}"] = mean_r2(part["tasks"], part["test"]), run_dir.name
    needed, why = share_needed(scores)
    told = {"shares": {f"{s:g}": scores[s] for s in sorted(scores)}, "needed": needed, "needed_note": why}
    return told | {"reasons": reasons, "runs": runs, "train_s": sum(result["train_s"].values())}


def measure_decode(how: How, one: Entrant) -> dict[str, object]:
    """Time and memory of decoding the test time, in a process of its own."""
    return apart(decoded_apart, how.workspace.absolute(), list(one.sessions), one.run_dir.absolute())


def measure_latency(how: How, one: Entrant) -> dict[str, object]:
    """From a window's last piece to its prediction, live, as fast as spikes can be pushed; and CPU time a window."""
    run, session = _run(one), one.sessions[0]
    run.model.to("cpu")  # where a stream is decoded
    (tokens,) = open_shards(how.workspace, [session], run.config)
    found = {}
    for chunk_ms in CHUNKS_MS:
        marks: list[float] = []
        done = stream(
            run,
            tokens,
            read_session(how.workspace.store_path(session)),
            step_ns=round(chunk_ms * NS_PER_MS),
            duration_ns=round(LIVE_S * NS_PER_S),
            on_window=lambda decoded, total_ns, marks=marks: marks.append(time.process_time()),
        )
        total = done.latency_ms["total"]
        found[f"{chunk_ms:g}"] = {
            "step_ms": done.step_ns / NS_PER_MS,
            "window_ms": done.window_ns / NS_PER_MS,
            "p50_ms": total["p50"],
            "p99_ms": total["p99"],
            "cpu_p50_ms": 1000 * median(np.diff(marks).tolist()) if len(marks) > 1 else None,
            "n_windows": done.n_windows,
            "apart": max(done.apart.values()),
        }
    return {"session": session, "chunks": found}


def measure_jitter(how: How, one: Entrant) -> dict[str, object]:
    """Test R2 with test spikes moved in time."""
    run = _run(one)
    run.model.to("cpu")
    opened = open_shards(how.workspace, list(one.sessions), run.config)
    found = jitter_scores(run, opened, JITTERS_MS, lambda s: read_session(how.workspace.store_path(s)), how.seed)
    return {"r2": {f"{ms:g}": r2 for ms, r2 in found.items()}, "seed": how.seed}


def measure_transfer(how: How, one: Entrant) -> dict[str, object]:
    """R2 on unseen sessions by protocol, and the floor's."""
    if not how.chosen.held_out:
        message = "no session is held out: --hold-out GLOB names some"
        raise DataError(message)
    run = _run(one)
    if run.model.one_session:
        message = "it holds one session"
        raise DataError(message)
    name = decoded(run.tasks)
    result = evaluate_transfer(
        run,
        open_shards(how.workspace, how.chosen.held_out, run.config),
        protocols=how.protocols,
        calibration_s=how.calibration_s,
        seed=how.seed,
        adapt=with_transfer(run.config, how.adapt).transfer,
        device=device_of(run.config),
        stored=lambda session: read_session(how.workspace.store_path(session)),
        trained=lambda chosen: open_shards(how.workspace, chosen, run.config),
    )
    rows = {p: result.summary[name][p][METRIC] for p in result.protocols_of(name)}
    scores = {p: row["mean"] for p, row in rows.items()}
    reasons = {c.protocol: c.reason for c in result.cells if c.task == name and c.score is None}
    return {
        "scores": scores,
        "reasons": reasons,
        "floor": scores[FLOOR],
        "best_unlabelled": best(scores, ("none", "unlabelled")),
        "best_labelled": best(scores, ("labelled",)),
        "calibration_s": how.calibration_s,
        "sessions": list(how.chosen.held_out),
        "adapt": list(how.adapt),
    }


def best(scores: dict[str, float | None], kinds: Sequence[str]) -> dict[str, object] | None:
    """The row with the highest score of those that see such calibration, the floor apart; None where none has one."""
    found = {p: r2 for p, r2 in scores.items() if p != FLOOR and CALIBRATION_OF[p] in kinds and r2 is not None}
    return {"protocol": max(found, key=found.get), "r2": max(found.values())} if found else None


def measure_generation(how: How, one: Entrant) -> dict[str, object]:
    """Whether it draws spikes, and how far the sample's population counts are from recorded ones."""
    run = load_run(one.run_dir)
    if not run.model.generates:
        return {"generates": False}
    drawn = generate(
        run,
        open_shards(how.workspace, list(one.sessions), run.config),
        Generation(how.seed),
        seconds=GENERATED_S,
        stored=lambda session: read_session(how.workspace.store_path(session)),
        device=device_of(run.config),
    )
    means = {
        name: sum(d.scores[name]["population_distance"] for d in drawn) / len(drawn)
        for name in ("sample", "poisson", "training")
    }
    return {"generates": True, "population_distance": means, "seconds": GENERATED_S}


MEASURES: dict[str, Callable[[How, Entrant], dict[str, object]]] = {
    "train": measure_train,
    "decode": measure_decode,
    "latency": measure_latency,
    "jitter": measure_jitter,
    "generation": measure_generation,
    "transfer": measure_transfer,
    "data": measure_data,
}
