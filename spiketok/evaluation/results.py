"""What a transfer evaluation gives: a cell a session and protocol, the facts of each session, the summary over them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from spiketok.models.base import Model
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import Run, TrainedSession
from spiketok.training.config import TransferConfig
from spiketok.training.loop import R2
from spiketok.training.sessions import LabelledSession
from spiketok.training.tasks.decoding import Prediction, predict

BOOTSTRAP_DRAWS = 2000
Event = dict[str, object]


@dataclass(frozen=True, eq=False)
class Cell:
    """One protocol on one session.

    Args:
        session, protocol: which.
        score: from :meth:`Prediction.score`; None where the protocol does not apply.
        reason: why there is no score; empty where there is one.
        trained_parameters: how many numbers were trained on the calibration.
        prediction: the stitched test predictions behind the score.
    """

    session: str
    protocol: str
    score: dict[str, object] | None
    reason: str = ""
    trained_parameters: int = 0
    prediction: Prediction | None = None


@dataclass(frozen=True, eq=False)
class SessionFacts:
    """What a session was used for.

    Args:
        session: with its digests.
        trained_on: whether the checkpoint saw it.
        calibration: the labelled time that adaptation saw; test: the time that was scored; both disjoint.
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
        run: the checkpoint.
        protocols: in the order of the table, the floor and ``within`` included.
        calibration_s: asked for; labelled: always True for the protocols here that train.
        adapt: the settings of the adaptation. seed: of new rows and calibration windows.
        sessions: facts by session, in order of id. cells: one a session and protocol.
        summary: by protocol and R2: ``n``, ``mean``, ``sd`` (from two sessions), ``ci95`` (from three, bootstrap over
            sessions).
    """

    run: Run
    protocols: tuple[str, ...]
    calibration_s: float
    labelled: bool
    adapt: TransferConfig
    seed: int
    sessions: tuple[SessionFacts, ...]
    cells: tuple[Cell, ...]
    summary: dict[str, dict[str, dict[str, object]]]

    def cell(self, session: str, protocol: str) -> Cell | None:
        return next((c for c in self.of(protocol) if c.session == session), None)

    def of(self, protocol: str) -> list[Cell]:
        return [c for c in self.cells if c.protocol == protocol]


@dataclass(frozen=True, eq=False)
class _Task:
    """One session for which protocols are evaluated."""

    run: Run
    session: LabelledSession
    adapt: TransferConfig
    seed: int
    device: torch.device
    emit: Callable[[Event], None]

    def model(self) -> Model:
        """A copy of the trained model that knows the session; its new rows are the same in every protocol."""
        model = copy.deepcopy(self.run.model)
        torch.manual_seed(self.seed)
        model.add_sessions([self.session.reader.info])
        return model.to(self.device)

    def test(self, model: Model) -> Prediction:
        windows = self.session.windows("test")
        return predict(model, [windows], self.run.target, self.run.config, self.device)[self.session.id]


def summarize(cells: Sequence[Cell], seed: int = 0) -> dict[str, dict[str, object]]:
    """Mean and spread over sessions of each R2, over the cells that have a score.

    Returns:
        by R2: ``n``; ``mean``, None without a score; ``sd`` (n - 1 in the denominator), None with fewer than two;
        ``ci95``, the 2.5 and 97.5 percentiles of the mean over sessions drawn again, None with fewer than three.
    """
    summary = {}
    for name in R2:
        values = np.array([c.score[name] for c in cells if c.score is not None and c.score[name] is not None])
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
        "target": asdict(run.target),
        "trained_on": [asdict(s) for s in run.trained_on],
        "protocols": list(result.protocols),
        "calibration_s": result.calibration_s,
        "calibration_labelled": result.labelled,
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
                "score": c.score,
                "reason": c.reason,
                "trained_parameters": c.trained_parameters,
            }
            for c in result.cells
        ],
        "summary": result.summary,
    }
