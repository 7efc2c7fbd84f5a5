"""What a ridge reads of behaviour from a run's latents, beside the same ridge from the counts.

What is unusual:

- one ridge (scikit-learn's RidgeCV on standardised columns) is fitted on the training time and scored on the test
  time; its penalty is chosen by folds that are blocks of the training time, never shuffled;
- the counts are those of the bin and of ``AROUND`` bins on both sides inside of the window: latents know more yet;
- a bin that two windows hold is taken once, and behaviour is its mean over the bin.

Shape letters: B windows, T bins of a window, N units, K latents, C components, R rows, bins with behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spiketok.errors import UsageError, require
from spiketok.models.batch import bins_of, observed_counts, query_bin
from spiketok.models.binned import COUNTS
from spiketok.recording.metrics import r2_mean
from spiketok.training.checkpoints import Run
from spiketok.training.config import LATENTS
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens
from spiketok.training.sessions import DividedSession, require_window
from spiketok.training.tasks.base import Task

AROUND = 7
ALPHAS = np.logspace(-1, 5, 7)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Rows:
    """Bins with behaviour, in the order of time.

    Args:
        latents: ``[R, K]``. counts: ``[R, (2 AROUND + 1) N]``. target: ``[R, C]``, as the run normalises it.
    """

    latents: np.ndarray
    counts: np.ndarray
    target: np.ndarray


def read_latents(run: Run, tokens: SessionTokens, device: torch.device | str = "cpu") -> list[dict[str, object]]:
    """A row for each behaviour that the run asks of a session: R2 from ``latents`` and from ``counts``.

    Raises:
        UsageError: the model has no latents. DataError: no window fits into the training or test time.
    """
    if not run.model.has_latents:
        message = f"{run.path.name}: {run.config.model} has no latents to read behaviour from"
        raise UsageError(message)
    session = run.divide(tokens)
    run.model.to(device).eval()
    found = []
    for task in session.tasks:
        if run.model.heads[task.name].output != "values":
            continue
        train, test = (rows_of(run, session, task, split, device) for split in ("train", "test"))
        scores = {
            name: ridge_r2(getattr(train, name), train.target, getattr(test, name), test.target)
            for name in ("latents", "counts")
        }
        found.append(
            {
                "session": tokens.id,
                "task": task.name,
                **scores,
                "n_train": len(train.target),
                "n_test": len(test.target),
            }
        )
    return found


def rows_of(run: Run, session: DividedSession, task: Task, split: str, device: torch.device | str) -> Rows:
    """The bins of a split in which a behaviour was measured."""
    windows, model = session.windows(split), run.model
    require_window(windows, split, run.config.data.window_ns)
    data = run.config.data
    sampler = SequentialWindows([windows], data.window_ns)
    loader = session_loader(model, sampler, data.batch_size, tasks=(task,), calibration=session.calibration)
    parts: list[tuple[np.ndarray, ...]] = []
    with torch.inference_mode():
        for batch in loader:
            batch = batch.to(device)
            columns, length = batch.inputs[COUNTS].packed()
            n_bins, asked = bins_of(length), batch.asked[task.name]
            latents = model.predict(batch)[0][LATENTS].double().cpu().numpy()
            counts = observed_counts(columns).cpu().numpy().reshape(len(batch), n_bins, -1)
            known = (asked.weight > 0).cpu().numpy()
            row = query_bin(batch, asked, n_bins).cpu().numpy()[known]
            total, n = np.zeros((len(latents), asked.target.shape[1])), np.bincount(row, minlength=len(latents))
            np.add.at(total, row, asked.target.cpu().numpy()[known].astype(np.float64))
            start_ns = batch.start_ns[:, None] + np.arange(n_bins) * (batch.window_ns // n_bins)
            some = n > 0
            parts.append((start_ns.ravel()[some], latents[some], around(counts)[some], total[some] / n[some, None]))
    start_ns, latents, counts, target = (np.concatenate(part) for part in zip(*parts, strict=True))
    once = np.unique(start_ns, return_index=True)[1]
    return Rows(latents[once], counts[once], target[once])


def around(counts_BTN: np.ndarray) -> np.ndarray:
    """``[B * T, (2 AROUND + 1) N]``: each bin's counts and those of the bins beside it; 0 outside of the window.

    >>> around(np.ones((1, 3, 1))).sum(1)
    array([3., 3., 3.])
    """
    n_windows, n_bins, n_units = counts_BTN.shape
    wide = np.zeros((n_windows, n_bins + 2 * AROUND, n_units))
    wide[:, AROUND : AROUND + n_bins] = counts_BTN
    return np.concatenate([wide[:, k : k + n_bins] for k in range(2 * AROUND + 1)], -1).reshape(n_windows * n_bins, -1)


def ridge_r2(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    """R2 (mean over components) of a ridge on the test rows, with the penalty that blocks of the training rows chose.

    Args:
        x, y: ``[R, P]`` and ``[R, C]``, training rows in the order of time. test_x, test_y: as many columns.
    """
    linear = require("sklearn.linear_model", "train", "a ridge of behaviour")
    folds = require("sklearn.model_selection", "train", "a ridge of behaviour").KFold(FOLDS)
    mean, std = x.mean(0), x.std(0)
    scaled, test_scaled = ((part - mean) / np.where(std > 0, std, 1) for part in (x, test_x))
    ridge = linear.RidgeCV(alphas=ALPHAS, cv=folds).fit(scaled, y)
    return r2_mean(test_y, ridge.predict(test_scaled).reshape(test_y.shape))
