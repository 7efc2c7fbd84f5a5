"""A training, what it predicts, and its transfer to other sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok.api.sessions import StoredSession
from spiketok.api.tables import html_of
from spiketok.errors import DataError, UsageError, require
from spiketok.recording.nouns import NS_PER_S
from spiketok.storage.records import run_result
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd

    from spiketok.evaluation.results import TransferResult
    from spiketok.training.checkpoints import Run
    from spiketok.training.config import RunConfig
    from spiketok.training.tasks.base import Answer, Score


def load_run(path: str | Path) -> TrainedRun:
    """A run by its folder, wherever it lies.

    Args:
        path: the folder, as ``spiketok train`` prints it.

    Raises:
        ArtefactError: it holds no checkpoint, or a damaged one.
    """
    require("torch", "train", "a trained model")
    path = Path(path).absolute()
    run = TrainedRun(path, Workspace.around(path))
    _ = run.loaded
    return run


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run predicts of one session and task, beside what is true.

    Args:
        session, task, split: which. score: the task's metrics over it.
        time_ns, prediction, target, weight: as ``spiketok train --save-predictions`` writes them, in the behaviour's
            own measure; weight 0 where nothing is scored.
        components: names of the columns, where they have some.
    """

    session: str
    task: str
    split: str
    score: Score
    time_ns: np.ndarray
    prediction: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    components: tuple[str, ...] = ()
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        numbers = {name: v for name, v in self.score.items() if isinstance(v, float)}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        return f"Predictions({self.session}, {self.task}, {self.split}, {len(self.time_ns)} times: {shown})"

    def table(self) -> pd.DataFrame:
        """Prediction and target over seconds, NaN in the target where nothing is scored.

        Raises:
            UsageError: it is a sequence, whose rows have different lengths.
        """
        import numpy as np
        import pandas as pd

        if self.prediction.ndim != 2 or self.target.shape != self.prediction.shape:
            message = f"predictions of {self.task} are no columns over time: use .prediction and .target"
            raise UsageError(message)
        names = self.components or tuple(map(str, range(self.prediction.shape[1])))
        weight = self.weight if self.weight.ndim == 2 else self.weight[:, None]
        true = np.where(weight > 0, self.target, np.nan)
        columns = [("prediction", name) for name in names] + [("target", name) for name in names]
        index = pd.Index(self.time_ns / NS_PER_S, name="time_s")
        return pd.DataFrame(
            np.concatenate([self.prediction, true], axis=1), index=index, columns=pd.MultiIndex.from_tuples(columns)
        )


class TrainedRun:
    """A run of a workspace, read as far as it is asked.

    Attributes:
        path: its folder. workspace: the one that it lies in; None for a run that stands alone.
    """

    def __init__(self, path: Path, workspace: Workspace | None = None) -> None:
        self.path, self.workspace = Path(path), workspace

    def __repr__(self) -> str:
        return f"TrainedRun('{self.name}')"

    def _repr_html_(self) -> str:
        config = self.config
        facts = {"model": f"{config.model} {config.size}", "sessions": ", ".join(self.sessions)}
        means = self.result.get("test_mean", {})
        scores = {task: ", ".join(f"{k} {v:.3f}" for k, v in own.items()) for task, own in means.items()}
        return html_of(self.name, facts | scores)

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def loaded(self) -> Run:
        """The checkpoint as the rest of the package has it, its digests checked."""
        from spiketok.training.checkpoints import load_run

        return load_run(self.path)

    @property
    def config(self) -> RunConfig:
        """Its resolved configuration."""
        return self.loaded.config

    @property
    def model(self):
        """The trained model, a ``torch.nn.Module`` on the CPU in eval mode."""
        return self.loaded.model

    @property
    def sessions(self) -> list[str]:
        """Ids of the sessions that it was trained on."""
        return self.loaded.own

    @property
    def result(self) -> Mapping[str, object]:
        """``result.json``: scores, sessions, dropped time.

        Raises:
            DataError: the training is not finished.
        """
        try:
            return run_result(self.path)
        except FileNotFoundError:
            message = f"{self.name} has no result yet: train() again goes on with it"
            raise DataError(message) from None

    @property
    def scores(self) -> pd.DataFrame:
        """A row a session and task: the scores of the test split."""
        test = self.result["test"]
        return _table(
            [{"session": s, "task": t, **_numbers(score)} for s, own in test.items() for t, score in own.items()],
            ["session", "task"],
        )

    @property
    def curve(self) -> pd.DataFrame:
        """The learning curve, a row a logged step: losses and learning rate as ``metrics.jsonl`` has them."""
        import pandas as pd

        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        steps = [json.loads(line) for line in lines]
        return pd.json_normalize([line for line in steps if line.get("event") == "step"])

    def predict(
        self,
        session: str | StoredSession,
        *,
        split: str = "test",
        task: str | None = None,
        protocol: str | None = None,
        calibration_s: float = 30.0,
        tokenize: bool = False,
    ) -> Predictions:
        """What the run predicts of a split of a session, stitched from overlapping windows, and its score.

        Args:
            session: one that it was trained on; of an unseen one name a ``protocol``.
            task: which of its questions; its only one, or the first, by default.
            protocol: of an unseen session, the row of the transfer table: how the model meets it (``"zero_shot"``,
                ``"identity_only"`` ...); then the test split is predicted, after calibration.
            calibration_s: seconds that the protocol sees. tokenize: make the shard if there is none.

        Raises:
            UsageError: the session is unseen and no protocol is named, or the other way round.
            UnknownNameError: there is no such session, task or split. DataError: nothing can be predicted.
        """
        from spiketok.errors import UnknownNameError
        from spiketok.training.predict import predict
        from spiketok.training.runs import device_of, opened_shards

        run, place = self.loaded, self._place(session)
        session_id = session.id if isinstance(session, StoredSession) else _one(place, session)
        names = [one.name for one in run.tasks]
        if task is not None and task not in names:
            raise UnknownNameError("task", task, names, self.name)
        wanted = task or names[0]
        opened, _ = opened_shards(place, [session_id], run.config, named=True, made=_quiet if tokenize else None)
        known = session_id in run.model.sessions()
        if protocol is not None:
            if split != "test":
                message = (
                    f"split is '{split}': of a session that meets the model by a protocol the test time is predicted"
                )
                raise UsageError(message)
            answer, score = self._met(opened, session_id, wanted, protocol, calibration_s, known)
            return _predictions(session_id, wanted, split, answer, score)
        if not known:
            rows = ", ".join(("zero_shot", *run.model.protocols))
            message = (
                f"{self.name} was not trained on {session_id}: say how it meets it, by protocol= ({rows}), or measure "
                "all rows by ws.evaluate(run)"
            )
            raise UsageError(message)
        divided = run.divide(opened[0])
        if split not in divided.splits:
            raise UnknownNameError("split", split, divided.splits)
        if wanted not in [one.name for one in divided.tasks]:
            why = next(one.why_not(opened[0]) for one in run.tasks if one.name == wanted)
            message = f"{session_id}: {why}"
            raise DataError(message)
        device = device_of(run.config)
        answers = predict(run.model.to(device), divided, split, run.config, device)
        return _predictions(session_id, wanted, split, answers[wanted], answers.score(wanted))

    def _met(self, opened, session_id, task, protocol, calibration_s, within) -> tuple[Answer, Score]:
        """Answer and score of one row of the transfer table."""
        from spiketok.evaluation.transfer import evaluate_transfer
        from spiketok.storage.store import read_session
        from spiketok.training.runs import open_shards

        place = self.workspace
        if within:
            message = f"{session_id} is one of the sessions that {self.name} was trained on: leave out protocol="
            raise UsageError(message)
        result = evaluate_transfer(
            self.loaded,
            opened,
            protocols=[protocol],
            calibration_s=calibration_s,
            stored=lambda one: read_session(place.store_path(one)),
            trained=lambda chosen: open_shards(place, chosen, self.config),
        )
        cell = result.cell(session_id, protocol, task)
        if cell is None or cell.answer is None:
            message = f"{session_id}: {protocol} gives no prediction{f': {cell.reason}' if cell else ''}"
            raise DataError(message)
        return cell.answer, cell.score

    def _place(self, session: str | StoredSession) -> Workspace:
        if isinstance(session, StoredSession):
            return session._workspace
        if self.workspace is None:
            message = f"{self.path} lies in no workspace: give a session of one, as spiketok.open(ROOT)['{session}']"
            raise UsageError(message)
        return self.workspace


def _quiet(line: str) -> None:
    import logging

    logging.getLogger("spiketok").info(line)


def _one(place: Workspace, session: str) -> str:
    from spiketok.api.workspace import OpenWorkspace

    return OpenWorkspace(place)._one(session)


def _predictions(session: str, task: str, split: str, answer: Answer, score: Score) -> Predictions:
    arrays = answer.arrays()
    components = tuple(getattr(answer, "components", ()))
    own = {name: arrays[name] for name in ("time_ns", "prediction", "target", "weight")}
    return Predictions(session, task, split, score, components=components, arrays=arrays, **own)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The transfer of a run to other sessions.

    Args:
        result: all of it. report: the page and its JSON. notes: what was left out, and why.
    """

    result: TransferResult
    report: Path
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        of = self.result
        return (
            f"Evaluation({of.run.path.name}, {len(of.session_ids)} sessions, {', '.join(of.protocols)}: {self.report})"
        )

    def _repr_html_(self) -> str:
        return self.scores._repr_html_()

    @property
    def scores(self) -> pd.DataFrame:
        """A row a session, protocol and task: what the calibration showed, and the scores."""
        from spiketok.evaluation.results import CALIBRATION_OF

        rows = [
            {
                "session": cell.session,
                "protocol": cell.protocol,
                "task": cell.task,
                "repeat": cell.repeat,
                "calibration": CALIBRATION_OF[cell.protocol],
                **_numbers(cell.score or {}),
                "reason": cell.reason,
            }
            for cell in self.result.cells
        ]
        return _table(rows, ["session", "protocol", "task", "repeat"])


def evaluate(
    workspace: Workspace,
    run: TrainedRun,
    sessions: str | None,
    *,
    protocols: Sequence[str] | None,
    calibration_s: float,
    calibration: str,
    repeats: int,
    within: bool,
    sets: Sequence[str],
    tokenize: bool,
    out: Path | None,
    told: Callable[[str], None],
) -> Evaluation:
    """What ``spiketok eval-xsession`` does for one length of calibration, and its report."""
    from spiketok.evaluation.calibration import check_draws
    from spiketok.evaluation.report import write_report
    from spiketok.evaluation.transfer import evaluate_transfer
    from spiketok.storage.locks import beside, locked
    from spiketok.storage.store import read_session
    from spiketok.training.config import with_transfer
    from spiketok.training.requests import without_unfit
    from spiketok.training.runs import device_of, open_shards, open_transfer_shards

    check_draws(calibration, repeats)
    folder, notes = out or run.path / "xsession", []

    def note(line: str) -> None:
        notes.append(line)
        told(line)

    with locked(beside(folder), f"the report {folder}"):
        loaded = run.loaded
        opened, remarks, within = open_transfer_shards(
            workspace, loaded, sessions, within=within, told=note if tokenize else None
        )
        for line in remarks:
            note(line)

        def measure(opened: list) -> TransferResult:
            return evaluate_transfer(
                loaded,
                opened,
                protocols=protocols,
                calibration_s=calibration_s,
                calibration=calibration,
                repeats=repeats,
                within=within,
                adapt=with_transfer(loaded.config, sets).transfer,
                device=device_of(loaded.config),
                stored=lambda session: read_session(workspace.store_path(session)),
                trained=lambda chosen: open_shards(workspace, chosen, loaded.config),
            )

        result = without_unfit(measure, opened, {}, named=sessions is not None, told=note)
        report = write_report(result, folder)
    return Evaluation(result, folder / "report.html", (*notes, *report.remarks))


def _numbers(score: Mapping[str, object]) -> dict[str, object]:
    """The single numbers of a score."""
    return {key: value for key, value in score.items() if value is None or isinstance(value, int | float)}


def _table(rows: list[dict], index: list[str]) -> pd.DataFrame:
    import pandas as pd

    found = pd.DataFrame(rows) if rows else pd.DataFrame(columns=index)
    return found.set_index(index)
