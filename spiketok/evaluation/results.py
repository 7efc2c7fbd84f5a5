"""What a transfer evaluation gives: a cell a session, protocol and task, the facts of each session, the summary."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from spiketok.models.base import PROTOCOLS
from spiketok.recording.findings import Told
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import Run, TrainedSession
from spiketok.training.sections import TransferConfig
from spiketok.training.tasks.base import Answer, Score, Task

if TYPE_CHECKING:
    from spiketok.evaluation.stress import Stress

FLOOR = "linear"  # the row of the ridge that saw the same calibration
WITHIN = "within"  # the row of a session that the model was trained on
# Rows that begin at a map from what calibration tells of each unit.
MAPPED_UNLABELLED, MAPPED, ADAPTED = "mapped_unlabelled", "mapped", "adapted"
MIXED = "adapted+linear"  # of the last of them and the floor; it stands where that one does
OF_MAPS = {MAPPED_UNLABELLED: "unlabelled", MAPPED: "labelled", ADAPTED: "labelled"}
# Baselines that stand where they are asked for by name.
ALIGNED_PCA, ALIGNED_CCA, FEW_SHOT = "aligned_pca", "aligned_cca", "few_shot"
ON_REQUEST = {ALIGNED_PCA: "unlabelled", ALIGNED_CCA: "labelled", FEW_SHOT: "labelled"}
KEPT = ("identity_unlabelled", "identity_only", "full", *OF_MAPS)  # whose outcome is a model that can be kept
# What each row of the table saw of the calibration.
CALIBRATION_OF = {name: kind for name, (kind, _) in PROTOCOLS.items()} | {FLOOR: "labelled", WITHIN: "none"}
CALIBRATION_OF |= OF_MAPS | ON_REQUEST | {MIXED: "labelled"}
CALIBRATION_KINDS = ("none", "unlabelled", "labelled")
# The rows that can be asked for, in the order of the table: what sees no label apart from what does.
ROWS = tuple(
    sorted([*PROTOCOLS, *OF_MAPS, *ON_REQUEST], key=lambda name: CALIBRATION_KINDS.index(CALIBRATION_OF[name]))
)
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
        how: of a row that begins at a map, where it began and what was chosen (:class:`.adapting.Choice`).
        repeat: of which draw of the calibration.
    """

    session: str
    protocol: str
    task: str
    score: Score | None
    reason: str = ""
    trained_parameters: int = 0
    answer: Answer | None = None
    how: dict[str, object] | None = None
    repeat: int = 0


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
        repeat: which draw of the calibration; the session has such facts for each.
    """

    session: TrainedSession
    trained_on: bool
    calibration: Intervals
    test: Intervals
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    reach: str = ""
    valid_is_test: bool = False
    repeat: int = 0


@dataclass(frozen=True, eq=False)
class TransferResult:
    """Scores of a checkpoint on other sessions.

    Args:
        run: the checkpoint. tasks: those that were scored.
        protocols: in the order of the table, the floor and ``within`` included.
        calibration_s: asked for. calibration, repeats: how it lies in the training time, how often it was drawn.
        adapt: the settings of the adaptation. seed: of new rows and calibration windows.
        sessions: facts by session and repeat, in order of id. cells: one a session, repeat, protocol and task.
        summary: by task, protocol and metric, as :func:`spiketok.evaluation.spread.summarize`.
        paired: tests between rows, as :func:`spiketok.evaluation.spread.paired_tests`.
        findings: what ingesting found in these sessions that matters to a score.
        stress: the rows under perturbed spikes, and beside what a cheat would get; None where it was not asked for.
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
    calibration: str = "first"
    repeats: int = 1
    paired: tuple[dict[str, object], ...] = ()
    stress: Stress | None = None

    @property
    def session_ids(self) -> list[str]:
        """Each session once."""
        return list(dict.fromkeys(facts.session.id for facts in self.sessions))

    def cell(self, session: str, protocol: str, task: str, repeat: int = 0) -> Cell | None:
        return next((c for c in self.of(protocol, task) if (c.session, c.repeat) == (session, repeat)), None)

    def of(self, protocol: str, task: str) -> list[Cell]:
        return [c for c in self.cells if c.protocol == protocol and c.task == task]

    def protocols_of(self, task: str) -> tuple[str, ...]:
        """The protocols that have a row for a task."""
        return tuple(p for p in self.protocols if self.of(p, task))


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
        **({"plugins": run.facts["plugins"]} if "plugins" in run.facts else {}),
        "tasks": [
            {"name": t.name, "kind": t.kind, "metrics": list(t.metrics), "state": t.to_dict()} for t in result.tasks
        ],
        "trained_on": [asdict(s) for s in run.trained_on],
        "protocols": list(result.protocols),
        "calibration": {p: CALIBRATION_OF[p] for p in result.protocols},
        "calibration_s": result.calibration_s,
        "calibration_drawn": result.calibration,
        "repeats": result.repeats,
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
                "repeat": f.repeat,
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
                "how": c.how,
                "repeat": c.repeat,
            }
            for c in result.cells
        ],
        "summary": result.summary,
        "paired": list(result.paired),
        "findings": [told._asdict() for told in result.findings],
        **({} if result.stress is None else result.stress.to_dict()),
    }
