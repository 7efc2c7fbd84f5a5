"""What a transfer evaluation gives: a cell a session, protocol and task, the facts of each session, the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from spiketok.models.base import PROTOCOLS
from spiketok.recording.findings import Told
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import Run, TrainedSession
from spiketok.training.config import TransferConfig
from spiketok.training.tasks.base import Answer, Score, Task

FLOOR = "linear"  # the row of the ridge that saw the same calibration
WITHIN = "within"  # the row of a session that the model was trained on
# What each row of the table saw of the calibration.
CALIBRATION_OF = {name: kind for name, (kind, _) in PROTOCOLS.items()} | {FLOOR: "labelled", WITHIN: "none"}
BOOTSTRAP_DRAWS = 2000
Event = dict[str, object]


@dataclass(frozen=True, eq=False)
class Cell:
    """One protocol and task on one session.

    Args:
        session, protocol, task: which.
        score: of the task's answer; None where the protocol does not apply.
        reason: why there is no score; empty where there is one.
        trained_parameters: how many numbers were trained on the calibration.
        answer: the stitched test predictions behind the score.
    """

    session: str
    protocol: str
    task: str
    score: Score | None
    reason: str = ""
    trained_parameters: int = 0
    answer: Answer | None = None


@dataclass(frozen=True, eq=False)
class SessionFacts:
    """What a session was used for.

    Args:
        session: with its digests.
        trained_on: whether the checkpoint saw it.
        calibration: the time that adaptation saw; test: the time that was to be scored, of which a score's own
            ``scored_s`` says how much was; both disjoint.
        dropped: time of either that no window can use, in ns by reason. reach: how far windows reach beyond their ends.
        valid_is_test: stored valid time was scored in place of test time that cannot be used.
    """

    session: TrainedSession
    trained_on: bool
    calibration: Intervals
    test: Intervals
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    reach: str = ""
    valid_is_test: bool = False


@dataclass(frozen=True, eq=False)
class TransferResult:
    """Scores of a checkpoint on other sessions.

    Args:
        run: the checkpoint. tasks: those that were scored.
        protocols: in the order of the table, the floor and ``within`` included.
        calibration_s: asked for.
        adapt: the settings of the adaptation. seed: of new rows and calibration windows.
        sessions: facts by session, in order of id. cells: one a session, protocol and task.
        summary: by task, protocol and metric: ``n``, ``mean``, ``sd`` (from two sessions), ``ci95`` (from three,
            bootstrap over sessions).
        findings: what ingesting found in these sessions that matters to a score.
    """

    run: Run
    tasks: tuple[Task, ...]
    protocols: tuple[str, ...]
    calibration_s: float
    adapt: TransferConfig
    seed: int
    sessions: tuple[SessionFacts, ...]
    cells: tuple[Cell, ...]
    summary: dict[str, dict[str, dict[str, dict[str, object]]]]
    findings: tuple[Told, ...] = ()

    def cell(self, session: str, protocol: str, task: str) -> Cell | None:
        return next((c for c in self.of(protocol, task) if c.session == session), None)

    def of(self, protocol: str, task: str) -> list[Cell]:
        return [c for c in self.cells if c.protocol == protocol and c.task == task]

    def protocols_of(self, task: str) -> tuple[str, ...]:
        """The protocols that have a row for a task."""
        return tuple(p for p in self.protocols if self.of(p, task))


def summarize(cells: Sequence[Cell], metrics: Sequence[str], seed: int = 0) -> dict[str, dict[str, object]]:
    """Mean and spread over sessions of each metric, over the cells that have a score.

    Returns:
        by metric: ``n``; ``mean``, None without a score; ``sd`` (n - 1 in the denominator), None with fewer than two;
        ``ci95``, the 2.5 and 97.5 percentiles of the mean over sessions drawn again, None with fewer than three.
    """
    summary = {}
    for name in metrics:
        values = np.array([c.score[name] for c in cells if c.score is not None and c.score.get(name) is not None])
        draws = None
        if values.size >= 3:
            drawn = np.random.default_rng(seed).integers(values.size, size=(BOOTSTRAP_DRAWS, values.size))
            draws = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5]).tolist()
        summary[name] = {
            "n": int(values.size),
            "mean": float(values.mean()) if values.size else None,
            "sd": float(values.std(ddof=1)) if values.size >= 2 else None,
            "ci95": draws,
        }
    return summary


def to_dict(result: TransferResult) -> dict[str, object]:
    """Everything but the traces, JSON-able: the body of ``report.json``."""
    run = result.run

    def spans(intervals: Intervals) -> list[list[int]]:
        return [[int(a), int(b)] for a, b in zip(intervals.start_ns, intervals.stop_ns, strict=True)]

    return {
        "model": run.config.model,
        "size": run.config.size,
        "config": run.config.to_dict(),
        "run": run.path.resolve().name,
        "checkpoint_digest": run.digest,
        "checkpoint_step": run.step,
        "tasks": [
            {"name": t.name, "kind": t.kind, "metrics": list(t.metrics), "state": t.to_dict()} for t in result.tasks
        ],
        "trained_on": [asdict(s) for s in run.trained_on],
        "protocols": list(result.protocols),
        "calibration": {p: CALIBRATION_OF[p] for p in result.protocols},
        "calibration_s": result.calibration_s,
        "adapt": asdict(result.adapt),
        "seed": result.seed,
        "sessions": [
            asdict(f.session)
            | {
                "trained_on": f.trained_on,
                "calibration_ns": spans(f.calibration),
                "calibration_s": seconds(f.calibration),
                "test_ns": spans(f.test),
                "test_s": seconds(f.test),
                "dropped": f.dropped,
                "split_reach": f.reach,
            }
            for f in result.sessions
        ],
        "scores": [
            {
                "session": c.session,
                "protocol": c.protocol,
                "task": c.task,
                "score": c.score,
                "reason": c.reason,
                "trained_parameters": c.trained_parameters,
            }
            for c in result.cells
        ],
        "summary": result.summary,
        "findings": [told._asdict() for told in result.findings],
    }
