"""An adapted model as a run of its own, to be loaded, checked, cited and used live like any other.

Its checkpoint names the one that it starts from by digest, and says under ``kept`` what it saw of the session that it
adapted to: which time (``Run.divide`` makes that its training time), with labels or without, and which time was scored.
Its sessions are those of the run that it comes from, and the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from spiketok.evaluation.results import CALIBRATION_OF, Cell
from spiketok.models.base import Model
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import Intervals
from spiketok.storage.files import atomic_folder, fingerprint, write_signed
from spiketok.storage.records import CONFIG, RESULT, checkpoint_digest
from spiketok.training.checkpoints import Run, TrainedSession, write_checkpoint
from spiketok.training.loop import mean_scores
from spiketok.training.sections import TransferConfig
from spiketok.training.sessions import CALIBRATION, DividedSession, dropped_by_split, findings_told


@dataclass(frozen=True, eq=False)
class Kept:
    """A model that has adapted to a session.

    Args:
        run: where it comes from. session: with its calibration and test time. protocol: the row.
        cells: its scores. adapt, calibration_s, calibration, seed: as they were asked for.
    """

    run: Run
    session: DividedSession
    model: Model
    protocol: str
    adapt: TransferConfig
    cells: Sequence[Cell]
    calibration_s: float
    calibration: str
    seed: int

    def facts(self) -> dict[str, object]:
        """What it saw of the session, JSON-able; without its scores."""
        session = self.session
        return {
            "session": session.id,
            "protocol": self.protocol,
            "labels": CALIBRATION_OF[self.protocol],
            "parent": {"run": self.run.path.resolve().name, "checkpoint_digest": self.run.digest},
            "calibration_ns": _spans(session.splits[CALIBRATION]),
            "test_ns": _spans(session.splits["test"]),
            "valid_is_test": session.valid_is_test,
            "calibration_s": float(self.calibration_s),
            "calibration_drawn": self.calibration,
            "seed": self.seed,
        }


def write_kept(kept: Kept, runs: Path) -> Path:
    """Write the run into a folder of its own below ``runs``, whole or not at all; the same model has the same name."""
    run, session, facts = kept.run, kept.session, kept.facts()
    config = replace(run.config, start=run.digest, transfer=kept.adapt)
    own = TrainedSession.of(session.tokens)
    shards = sorted(shard["digest"] for shard in own.shards.values())
    name = fingerprint([facts, shards, asdict(kept.adapt)])[:10]
    path = runs / f"{run.path.resolve().name}-{kept.protocol}-{name}"
    sessions = [*run.trained_on, own]
    scores = {session.id: {cell.task: cell.score for cell in kept.cells if cell.score is not None}}
    with atomic_folder(path) as wip:
        write_signed(wip / CONFIG, config.to_dict())
        write_checkpoint(
            wip,
            config=config,
            model=kept.model,
            tasks=run.tasks,
            sessions=sessions,
            train_state={},
            step=run.step,
            total_steps=run.total_steps,
            loader_state={},
            kept=[*run.facts.get("kept", ()), facts],
        )
        result = {
            "model": config.model,
            "size": config.size,
            "config_fingerprint": config.fingerprint(),
            "tasks": [{"name": task.name, "kind": task.kind, "metrics": list(task.metrics)} for task in run.tasks],
            "sessions": [asdict(one) for one in sessions],
            "train_s": {session.id: seconds(session.splits[CALIBRATION])},
            "split_reach": {session.id: str(session.reach)},
            "dropped": dropped_by_split([session]),
            "findings": [told._asdict() for told in findings_told([session.tokens], run.tasks)],
            "step": run.step,
            "checkpoint": "last",
            "checkpoint_digest": checkpoint_digest(wip),
            "test": scores,
            "test_mean": mean_scores(run.tasks, scores),
            "kept": {"protocol": kept.protocol, "how": next((cell.how for cell in kept.cells), None)},
        }
        write_signed(wip / RESULT, result)
    return path


def _spans(intervals: Intervals) -> list[list[int]]:
    return [[int(a), int(b)] for a, b in zip(intervals.start_ns, intervals.stop_ns, strict=True)]
