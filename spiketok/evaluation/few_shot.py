"""The row ``few_shot``: a ridge from what the trained model reads its answers of to the behaviour, on the calibration.

The model stays as it is but for what is the session's own, which begins where ``mapped`` does: at the map with labels,
or where there is none at initial values. Its features (``Model.features``) are read in the windows in which it is
scored, so that a time that several windows hold has a row in each.

What is unusual: blocks of the calibration choose the penalty, one a task, and in each of them the session's own begins
at a map of the other blocks, so that features of a block know nothing of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import ArtefactError, DataError, SpiketokError, require
from spiketok.evaluation.adapted import NoMap, begin
from spiketok.evaluation.adapting import folds_of
from spiketok.evaluation.results import FEW_SHOT, Cell
from spiketok.evaluation.unseen import Unseen
from spiketok.models.base import Model
from spiketok.models.batch import Batch
from spiketok.training.predict import Answers, predict
from spiketok.training.sessions import CALIBRATION, DividedSession

ALPHAS = tuple(10.0**k for k in range(-1, 7))  # penalties on weights of features whose deviation is 1

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # features [R, D], target [R, C] normalised, weight [R]
Weights = tuple[np.ndarray, np.ndarray]  # [D, C], [C]


def few_shot_cells(unseen: Unseen) -> list[Cell]:
    """A cell a task; empty where the model has no features or the task no values."""
    session = unseen.session
    valued = [task.name for task in session.tasks if task.head().output == "values"]
    cells = [
        Cell(session.id, FEW_SHOT, task.name, None, f"a ridge has no answer to '{task.kind}'")
        for task in session.tasks
        if task.name not in valued
    ]
    if not valued:
        return cells
    try:
        return cells + _few_shot(unseen, valued)
    except ArtefactError:  # damage is no reason for an empty cell
        raise
    except SpiketokError as error:
        return cells + [Cell(session.id, FEW_SHOT, name, None, str(error)) for name in valued]


def _few_shot(unseen: Unseen, tasks: Sequence[str]) -> list[Cell]:
    session, config = unseen.session, unseen.run.config
    folds = folds_of(session, unseen.adapt.adapt_blocks, config.data.window_ns)
    if not folds:
        message = "no blocks of the calibration hold a window each, by which its penalty could be chosen"
        raise DataError(message)
    error = {task: np.zeros(len(ALPHAS)) for task in tasks}
    for fold in folds:
        model, _, _ = _begun(unseen, fold)
        known, asked = (_rows(unseen, model, fold, part, tasks) for part in (CALIBRATION, "test"))
        for task in tasks:
            error[task] += [squared_error(fit_ridge(known[task], alpha), asked[task]) for alpha in ALPHAS]
    model, numbers, how = _begun(unseen, session)
    known = _rows(unseen, model, session, CALIBRATION, tasks)
    alpha = {task: ALPHAS[int(np.argmin(error[task]))] for task in tasks}
    ridges = {task: fit_ridge(known[task], alpha[task]) for task in tasks}
    answers, cells = _answers(unseen, _Read(model, ridges), session, "test"), []
    for task, (weight, bias) in ridges.items():
        told = how | {"features": len(weight), "alpha": alpha[task], "blocks": len(folds)}
        trained = numbers + weight.size + bias.size
        cells.append(Cell(session.id, FEW_SHOT, task, answers.score(task), "", trained, answers[task], told))
    return cells


def _begun(unseen: Unseen, session: DividedSession) -> tuple[Model, int, dict[str, object]]:
    """A copy of the model at its start for a calibration, how many numbers that set, and what it was."""
    model = unseen.model()
    try:
        numbers, found = begin(unseen, model, session, labelled=True)
    except NoMap as error:
        return model, 0, {"start": "initial values", "why": str(error)}
    if found is None:
        return model, numbers, {"start": "as it is"}
    return model, numbers, {"start": found.begins()}


# ---- features -------------------------------------------------------------------------------------------------------


class _Read:
    """A model that answers by ridges on its features; where there is no ridge yet it notes them and says zero."""

    def __init__(self, model: Model, ridges: Mapping[str, Weights | None]) -> None:
        self.model, self.ridges = model, ridges
        self.noted: dict[str, list[Rows]] = defaultdict(list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def predict(self, batch: Batch, carry: object = None) -> tuple[dict[str, Tensor], object]:
        output, carry = self.model.features(batch, carry)
        for task, ridge in self.ridges.items():
            if task not in batch.asked:
                continue
            asked, x = batch.asked[task], output[task].double()
            if ridge is None:
                used = (asked.weight > 0) & x.isfinite().all(1)  # NaN where a model answers nothing
                parts = (part[used].cpu().double().numpy() for part in (x, asked.target, asked.weight))
                self.noted[task].append(tuple(parts))
                output[task] = x.new_zeros(asked.target.shape).float()
            else:
                weight, bias = (torch.from_numpy(part).to(x) for part in ridge)
                output[task] = (x @ weight + bias).float()
        return output, carry


def _rows(unseen: Unseen, model: Model, session: DividedSession, part: str, tasks: Sequence[str]) -> dict[str, Rows]:
    """By task, what the model's features and the behaviour were in all windows of a part of the session's time.

    Raises:
        DataError: no behaviour was measured there.
    """
    reader = _Read(model, dict.fromkeys(tasks))
    _answers(unseen, reader, session, part)
    found = {task: tuple(map(np.concatenate, zip(*noted, strict=True))) for task, noted in reader.noted.items()}
    for task in tasks:
        if task not in found or not len(found[task][0]):
            message = f"no '{task}' was measured in a part of the calibration"
            raise DataError(message)
    return found


def _answers(unseen: Unseen, reader: _Read, session: DividedSession, part: str) -> Answers:
    time, config = session.calibration, unseen.run.config
    return predict(reader, session, part, config, unseen.device, calibration=time, modes=False)


# ---- ridges ---------------------------------------------------------------------------------------------------------


def fit_ridge(rows: Rows, alpha: float) -> Weights:
    """scikit-learn's ridge on features that are scaled to a deviation of 1, as weights of the features as they are."""
    linear = require("sklearn.linear_model", "train", "the few-shot read-out")
    x, y, weight = rows
    mean, sd = x.mean(0), x.std(0)
    sd = np.where(sd > 1e-12, sd, 1.0)
    ridge = linear.Ridge(alpha=alpha).fit((x - mean) / sd, y, sample_weight=weight)
    coefficients = ridge.coef_.reshape(y.shape[1], -1).T / sd[:, None]
    return coefficients, np.atleast_1d(ridge.intercept_) - mean @ coefficients


def squared_error(ridge: Weights, rows: Rows) -> float:
    """The weighted sum of squared residuals."""
    x, y, weight = rows
    return float((weight[:, None] * np.square(x @ ridge[0] + ridge[1] - y)).sum())
