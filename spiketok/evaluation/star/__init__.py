"""Models measured against each other on the same sessions, where a survey compares them by stars.

How things are measured, each of a run trained by the model's recipe, bounded where that was asked:

- accuracy: R2 of the behaviour on the test split, weighted by variance, the mean over sessions.
- data needed: the same number of steps on 1/8, 1/4, 1/2 and all of each session's training time (its first part); the
  share at which 90 % of the full score is reached, linear between these.
- parameters: the numbers that training sets, those of the sessions included.
- training time: CPU seconds of all steps, with what is fitted before them; of a run that was trained before, of its
  first 30 steps, extrapolated.
- decoding time: CPU time of an evaluation of the test split, a second of it.
- latency: live, from the last piece of a window to its prediction, at steps of 20 and 50 ms (to the model's own grid),
  spikes pushed by the millisecond as fast as they are taken; median and 99th percentile of 10 s.
- memory: the highest resident memory of a process that does nothing but train, or decode; torch's own on a GPU.
- jitter: R2 with the test spikes moved by a Gaussian of 1, 5, 20, 50 ms, within observed test time.
- unseen session: R2 by each protocol of transfer, the best with labels and without (chosen after the fact), the floor
  beside.
- generation: whether it draws spikes, and the distance of the number of spikes in a bin from recorded ones.

Every measure of a run is written as soon as it is there, and read where it is of the same checkpoint and settings: a
comparison that was killed goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.measured import put_measured, read_measured
from spiketok.evaluation.star.apart import apart, step_cpu_s
from spiketok.evaluation.star.entrants import (
    Entrant,
    choose,
    configs,
    digests,
    of_model,
    of_run,
    require_same,
)
from spiketok.evaluation.star.measuring import CHUNKS_MS, GENERATED_S, JITTERS_MS, LIVE_S, MEASURES, SHARES, How
from spiketok.evaluation.star.results import Measured, StarTable
from spiketok.models import MODELS
from spiketok.storage.files import fingerprint
from spiketok.storage.records import checkpoint_digest
from spiketok.storage.workspace import Workspace
from spiketok.training.config import RunConfig

__all__ = ["MEASURES", "StarTable", "compare_models"]
VERSION = 1  # of what the measures mean: a record of another one is measured again
SETTINGS = {
    "train": {},
    "decode": {},
    "latency": {"chunks_ms": CHUNKS_MS, "live_s": LIVE_S},
    "jitter": {"jitters_ms": JITTERS_MS},
    "generation": {"generated_s": GENERATED_S},
    "data": {"shares": SHARES},
    "transfer": {"rows": 3},  # 1: those of maps stayed empty where rows were named; 2: the bare map stood in adapted
}


def compare_models(
    workspace: Workspace,
    names: Sequence[str],
    folder: Path,
    *,
    sessions: str | None = None,
    hold_out: str | None = None,
    task: str | None = None,
    sets: Sequence[str] = (),
    steps: int | None = None,
    seconds: float | None = None,
    seeds: int = 1,
    measures: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    calibration_s: float = 30.0,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> StarTable:
    """Measure models, or runs, against each other.

    Args:
        names: of models, or of runs. folder: where each measure is kept.
        sessions, hold_out: globs, as ``train`` takes them. task: the behaviour, as ``"decode:hand_vel"``.
        sets: ``KEY=VALUE``, ``MODEL.KEY=VALUE``. steps, seconds: a training has no more steps, or takes about no more
            CPU seconds (steps are timed before). seeds: trainings of each model.
        measures: of :data:`MEASURES`; ``train`` is always there. protocols: of transfer.
        calibration_s: of an unseen session. seed: of jitter, drawn spikes and new rows.
        told: takes a line for each thing that is done.

    Raises:
        UsageError: runs of different sessions, or a bound that is not above 0. UnknownNameError: a model, run, measure.
    """
    wanted = _checked(names, measures, steps, seconds, seeds)
    made = {name: configs(name, sets, task, seeds) if name in MODELS else [] for name in names}
    runs = {name: of_run(workspace, name) for name in names if name not in MODELS}
    first = next(made[n][0] if made[n] else runs[n].config for n in names)
    chosen = choose(workspace, first, sessions, hold_out, told)
    adapt = tuple(text for text in sets if text.strip().startswith("transfer."))
    how = How(workspace, chosen, calibration_s, tuple(protocols) if protocols else None, adapt, seed)
    kept = _Kept(folder, how)

    def bound(config: RunConfig, session_ids: Sequence[str], total: int) -> int:
        return min(total, steps or total, _steps_within(kept, config, session_ids, total, seconds))

    entrants = []
    for name in names:
        entrants += [runs[name]] if name in runs else [of_model(workspace, c, chosen, bound, told) for c in made[name]]
    require_same(entrants)
    found = []
    for one in entrants:
        measured = Measured(one.label, one.config.seed, one.reason)
        for measure in ["train", *(m for m in MEASURES if m in wanted and m != "train")] if not one.reason else []:
            facts = kept.get(one, measure)
            if facts is None:
                told(f"{one.label}, seed {one.config.seed}: {measure}")
                facts = kept.put(one, measure)
            measured.facts[measure] = facts
            if measure == "train" and "reason" in facts:
                measured = replace(measured, reason=str(facts["reason"]))
                break
        measured.facts["run"] = _facts_of(one)
        found.append(measured)
    known = digests(workspace, [*chosen.sessions, *chosen.held_out])
    settings = {
        "sessions": chosen.sessions,
        "held_out": chosen.held_out,
        "session_digests": known,
        "task": task,
        "sets": list(sets),
        "most_steps": steps,
        "most_cpu_s": seconds,
        "calibration_s": calibration_s,
        "protocols": list(protocols) if protocols else None,
        "seed": seed,
        "measures": ["train", *(m for m in MEASURES if m in wanted and m != "train")],
    }
    return StarTable(settings, found)


def _checked(names, measures, steps: int | None, seconds: float | None, seeds: int) -> list[str]:
    if not names or len(set(names)) < len(names):
        message = f"--models {','.join(names)}: name at least one, each once"
        raise UsageError(message)
    for option, value in (("--steps", steps), ("--seconds", seconds), ("--seeds", seeds)):
        if value is not None and not value > 0:
            message = f"{option} is {value}, must be above 0"
            raise UsageError(message)
    wanted = list(measures) if measures is not None else list(MEASURES)
    for measure in wanted:
        if measure not in MEASURES:
            raise UnknownNameError("measure", measure, MEASURES)
    return wanted


def _facts_of(one: Entrant) -> dict[str, object]:
    return {
        "run": one.run_dir.name,
        "checkpoint_digest": checkpoint_digest(one.run_dir) if one.run_dir.name else "",
        "model": one.config.model,
        "size": one.config.size,
        "steps": one.total,
        "parameters": one.parameters,
        "sessions": list(one.sessions),
        "config": one.config.to_dict(),
    }


def _steps_within(kept: _Kept, config: RunConfig, session_ids: Sequence[str], total: int, seconds: float | None) -> int:
    """How many steps fit into CPU seconds, timed once and kept: a comparison that goes on trains the same runs."""
    if seconds is None:
        return total
    key = fingerprint([VERSION, config.fingerprint(), list(digests(kept.how.workspace, session_ids).items())])
    path = kept.folder / f"step-{config.model}-{config.seed}.json"
    facts = read_measured(path, key)
    if facts is None:
        facts = put_measured(
            path, key, apart(step_cpu_s, kept.how.workspace.absolute(), config, list(session_ids), total)
        )
    return max(int(seconds / facts["cpu_s_per_step"]), 1)


class _Kept:
    """Measures on disk, each a file, with the fingerprint of what it is of."""

    def __init__(self, folder: Path, how: How) -> None:
        self.folder, self.how = Path(folder) / "measures", how

    def _key(self, one: Entrant, measure: str) -> str:
        how, own = self.how, dict(SETTINGS[measure])
        if measure in ("jitter", "generation", "transfer"):
            own["seed"] = how.seed
        if measure == "transfer":
            own |= {"held_out": digests(how.workspace, how.chosen.held_out), "adapt": how.adapt}
            own |= {"calibration_s": how.calibration_s, "protocols": how.protocols}
        return fingerprint([VERSION, measure, one.run_dir.name, checkpoint_digest(one.run_dir), own])

    def _path(self, one: Entrant, measure: str) -> Path:
        return self.folder / f"{one.run_dir.name}-{measure}.json"

    def get(self, one: Entrant, measure: str) -> dict | None:
        return read_measured(self._path(one, measure), self._key(one, measure))

    def put(self, one: Entrant, measure: str) -> dict:
        """Measure it and write it down; what a model cannot is a fact too, and has a reason."""
        try:
            facts = MEASURES[measure](self.how, one)
        except (DataError, UsageError) as error:
            facts = {"reason": str(error)}
        return put_measured(self._path(one, measure), self._key(one, measure), facts)
