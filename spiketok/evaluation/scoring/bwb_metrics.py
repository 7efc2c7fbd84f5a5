"""The scores of BrainWideBench, of one prediction file against its truth; equal to ibl-bwb-eval 0.1.0.

Accuracy, F1, average precision, R2, MAE and Pearson's r are torchmetrics', precision, recall and F1 of regions
scikit-learn's, called as the benchmark calls them. D2 and bits per spike are written here: no library has them. All
sums are in float32, as the benchmark's, because its numbers show it. Its quirks, which are kept:

- macro accuracy divides by the classes that are in the truth or predicted (sklearn's by those in the truth); average
  precision takes logits that all lie in [0, 1] for probabilities, and skips absent classes;
- R2 is 1 where the sum of squared errors is below 1e-4, else 0 where the truth's is: small measures look perfect;
- D2 leaves out units without a spike; a unit that never changes keeps a residue of float32 and can reach -1e6; bits per
  spike keeps it. The null rate is the mean of the scored counts themselves;
- trials and windows that only one side has are left out; of a trial that stands twice the first counts, of a unit the
  last; starts of windows are equal to the bit or strangers; ids of units are read in TS3 alone;
- NaN gives NaN, but for licks, which are refused, and for regions, where NaN is the maximum.

What is not kept: arrays of another shape with as many numbers are refused where the benchmark folds them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import DataError, require
from spiketok.evaluation.scoring.bwb_files import BwbTask, read_header, read_tensors, task_of, unpack_ids

LEAST = 1e-9  # a rate and a difference of losses below it count as none
LICKS = "ts1-licking_rate"


class FileScore(NamedTuple):
    """The scores of a file, and what the libraries remarked while they were computed."""

    scores: dict[str, float]
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PoissonSums:
    """Sums over samples of which D2 and bits per spike are made; sums of parts add.

    Args:
        n: samples. count, exp_rate, interaction, count_log_count: sums of y, e^z, z y and y log y, of each unit ``[U]``
            (or one number, of samples without units).
    """

    n: int
    count: Tensor
    exp_rate: Tensor
    interaction: Tensor
    count_log_count: Tensor

    @classmethod
    def of(cls, log_rate: Tensor, count: Tensor, finite: bool = True) -> PoissonSums:
        """The sums of a part.

        Args:
            log_rate: z, natural log of expected events a bin, ``[T]`` or ``[T, U]``. count: y, of the same shape.
            finite: whether a log rate that is not finite is refused.

        Raises:
            DataError: shapes do not fit, a count is negative, or a log rate is not finite.
        """
        if log_rate.ndim not in (1, 2) or log_rate.shape != count.shape:
            fact = f"log rates have shape {list(log_rate.shape)} and counts {list(count.shape)}"
            message = f"{fact}: must be equal, [T] or [T, U]"
            raise DataError(message)
        if bool((count < 0).any()):
            message = f"a count is {float(count.min())}, must not be negative"
            raise DataError(message)
        if finite and not bool(torch.isfinite(log_rate).all()):
            message = f"{int((~torch.isfinite(log_rate)).sum())} of {log_rate.numel()} log rates are NaN or infinite"
            raise DataError(message)
        y = count.float()
        sums = (y, torch.exp(log_rate), log_rate * y, torch.xlogy(y, y))
        return cls(len(y), *(part.sum(dim=0).float() for part in sums))

    def __add__(self, other: PoissonSums) -> PoissonSums:
        if self.count.shape != other.count.shape:
            message = f"parts have {list(self.count.shape)} and {list(other.count.shape)} units: must be the same"
            raise DataError(message)
        names = ("count", "exp_rate", "interaction", "count_log_count")
        return PoissonSums(self.n + other.n, *(getattr(self, name) + getattr(other, name) for name in names))

    def d2(self) -> float:
        """Share of the deviance of a constant rate that the prediction explains; the mean over units with a spike."""
        count, log_count = self.count.reshape(-1), self.count_log_count.reshape(-1)
        null = log_count - count * torch.log((count / self.n).clamp(min=LEAST))
        lost = (self.exp_rate - self.interaction).reshape(-1) - (count - log_count)
        counts = (count > 0) & (null.abs() >= LEAST)
        return float((1 - lost[counts] / null[counts]).mean()) if bool(counts.any()) else math.nan

    def bits_per_spike(self) -> float:
        """Bits that the prediction tells of a spike beyond a constant rate; of all units together.

        Raises:
            DataError: the samples have no units.
        """
        if self.count.ndim == 0:
            message = "bits per spike need rates of units [T, U], got [T]"
            raise DataError(message)
        counts = self.count / self.n >= LEAST
        if not bool(counts.any()):
            return math.nan
        count = self.count[counts]
        null = (count * (1 - torch.log(count / self.n))).sum()
        own = (self.exp_rate - self.interaction)[counts].sum()
        return float((null - own) / (count.sum() * torch.log(torch.tensor(2.0))))


def class_scores(logits: Tensor, label: Tensor, n_classes: int) -> dict[str, float]:
    """Macro accuracy, macro F1 and average precision.

    Args:
        logits: ``[n, K]``, or probabilities. label: int ``[n]``.

    Raises:
        DataError: shapes do not fit, or a label is no class.
    """
    metrics = require("torchmetrics.functional.classification", "train", "scoring classes")
    if logits.shape != (len(label), n_classes) or label.ndim != 1:
        message = f"logits have shape {list(logits.shape)}, must be {[len(label), n_classes]} (trials, classes)"
        raise DataError(message)
    if len(label) == 0 or not 0 <= int(label.min()) <= int(label.max()) < n_classes:
        found = f"labels {int(label.min())} to {int(label.max())}" if len(label) else "no label"
        message = f"the truth has {found}, must be 0 to {n_classes - 1}"
        raise DataError(message)
    how = {"num_classes": n_classes, "average": "macro"}
    return {
        "bacc": float(metrics.multiclass_accuracy(logits, label, **how)),
        "f1": float(metrics.multiclass_f1_score(logits, label, **how)),
        "ap": float(metrics.multiclass_average_precision(logits, label, **how)),
    }


def series_scores(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """R2, mean absolute error and Pearson's r of all samples together.

    Args:
        prediction, truth: ``[S]``.

    Raises:
        DataError: shapes do not fit, or there are fewer than two samples.
    """
    metrics = require("torchmetrics", "train", "scoring a series")
    if prediction.shape != truth.shape or prediction.ndim != 1 or len(truth) < 2:
        fact = f"the prediction has shape {list(prediction.shape)} and the truth {list(truth.shape)}"
        message = f"{fact}: must be equal, two samples or more"
        raise DataError(message)
    # the classes, whose sums are float32 also where predictions are float16
    ways = {"r2": metrics.R2Score(), "mae": metrics.MeanAbsoluteError(), "pearson": metrics.PearsonCorrCoef()}
    return {name: float(score(prediction, truth)) for name, score in ways.items()}


def region_scores(predicted: list[str], truth: list[str], names: list[str]) -> dict[str, float]:
    """Precision, recall and F1 of each region and their plain means; a region that nobody names counts as 0.

    Args:
        predicted, truth: a region of each unit. names: all regions.
    """
    metrics = require("sklearn.metrics", "train", "scoring regions")
    ways = (("precision", metrics.precision_score), ("recall", metrics.recall_score), ("f1-score", metrics.f1_score))
    found = {}
    for way, score in ways:
        how = {"labels": names, "zero_division": 0}
        each = score(truth, predicted, average=None, **how)
        found |= {f"{name}/{way}": float(value) for name, value in zip(names, each, strict=True)}
        found[f"macro/{way}"] = float(score(truth, predicted, average="macro", **how))
    return found


# ---- files ----------------------------------------------------------------------------------------------------------


def score_file(task: str, prediction: Path, truth: Path) -> FileScore:
    """Score one prediction file.

    Args:
        task: see ``TASKS``. prediction, truth: the files.

    Raises:
        DataError: the file cannot be scored: the benchmark leaves it out.
        ArtefactError: one of the files is not whole.
    """
    asked = task_of(task)
    score = {"classes": _score_classes, "series": _score_series, "rates": _score_rates, "regions": _score_regions}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = score[asked.kind](asked, prediction, truth)
    remarks = dict.fromkeys(str(one.message).partition(". ")[0].rstrip(".") for one in caught)
    return FileScore(scores, tuple(remarks))


def _score_classes(task: BwbTask, prediction: Path, truth: Path) -> dict[str, float]:
    own, true = _needed(prediction, "trial_id", "predictions"), _needed(truth, "trial_id", "values")
    rows, true_rows = _common(prediction, own["trial_id"], own["predictions"], true["trial_id"])
    logits, label = own["predictions"][rows], true["values"][true_rows]
    logits = logits.squeeze(1) if logits.ndim == 3 else logits
    return class_scores(logits, label.reshape(len(label)).long(), task.width)


def _score_series(task: BwbTask, prediction: Path, truth: Path) -> dict[str, float]:
    own, true = _needed(prediction, "trial_id", "predictions"), _needed(truth, "trial_id", "values")
    rows, true_rows = _common(prediction, own["trial_id"], own["predictions"], true["trial_id"])
    values = true["values"][true_rows]
    values = values if values.ndim == 3 else values[..., None]
    predicted = own["predictions"][rows]
    if predicted.shape != values.shape:
        fact = f"{prediction}: predictions of the common trials have shape {list(predicted.shape)}"
        message = f"{fact}, the truth {list(values.shape)}"
        raise DataError(message)
    predicted, values = predicted.reshape(-1), values.reshape(-1)
    if task.masked:
        mask = _needed(truth, "mask")["mask"][true_rows].reshape(-1)
        if not bool(mask.any()):
            message = f"{truth}: the mask of {task.id} leaves no sample of {mask.numel()} to score"
            raise DataError(message)
        predicted, values = predicted[mask], values[mask]
    if task.id != LICKS:
        return series_scores(predicted, values)
    metrics = require("torchmetrics.functional", "train", "scoring a series")
    d2 = PoissonSums.of(predicted[:, None], values[:, None]).d2()
    return {"poisson_d2": d2, "mae": float(metrics.mean_absolute_error(predicted, values))}


def _score_rates(task: BwbTask, prediction: Path, truth: Path) -> dict[str, float]:
    own, true = _needed(prediction, "window_timestamps", "predictions"), _needed(truth, "window_timestamps", "targets")
    rows, true_rows = _common(prediction, own["window_timestamps"], own["predictions"], true["window_timestamps"])
    log_rate, count = own["predictions"][rows], true["targets"][true_rows]
    if log_rate.shape != count.shape:
        fact = f"{prediction}: predictions of the common windows have shape {list(log_rate.shape)}"
        message = f"{fact}, the truth {list(count.shape)}"
        raise DataError(message)
    units = log_rate.shape[-1]
    sums = PoissonSums.of(log_rate.reshape(-1, units).float(), count.reshape(-1, units).float(), finite=False)
    return {"poisson_d2": sums.d2(), "bps": sums.bits_per_spike()}


def _score_regions(task: BwbTask, prediction: Path, truth: Path) -> dict[str, float]:
    own_names, names = (_label_names(path) for path in (prediction, truth))
    if own_names != names:
        message = f"{prediction}: label_names are {','.join(own_names)}, the truth's {','.join(names)}"
        raise DataError(message)
    own, true = _needed(prediction, "entity_ids", "pred_proba"), _needed(truth, "entity_ids", "targets")
    ids, probability = unpack_ids(own["entity_ids"].numpy()), own["pred_proba"]
    if probability.ndim != 2 or len(probability) != len(ids) or probability.shape[1] > len(names):
        message = f"{prediction}: pred_proba has shape {list(probability.shape)}, must be {[len(ids), len(names)]}"
        raise DataError(message)
    row = {unit: k for k, unit in enumerate(ids)}
    units = unpack_ids(true["entity_ids"].numpy())
    missing = [unit for unit in units if unit not in row]
    if missing:
        message = f"{prediction}: {len(missing)} of the truth's {len(units)} units are missing, first {missing[0]}"
        raise DataError(message)
    best = np.argmax(probability[[row[unit] for unit in units]].numpy(), axis=1)
    return region_scores([names[k] for k in best], [names[k] for k in true["targets"].tolist()], names)


def _label_names(path: Path) -> list[str]:
    metadata, _ = read_header(path)
    if "label_names" not in metadata:
        message = f"{path}: the metadata have no label_names, only {', '.join(sorted(metadata)) or 'nothing'}"
        raise DataError(message)
    return metadata["label_names"].split(",")


def _needed(path: Path, *names: str) -> Mapping[str, Tensor]:
    found = read_tensors(path)
    missing = [name for name in names if name not in found]
    if missing:
        message = f"{path}: there is no tensor '{missing[0]}', only {', '.join(sorted(found)) or 'none'}"
        raise DataError(message)
    return found


def _common(path: Path, own: Tensor, rows: Tensor, true: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides with the same id, in its order; of a repeated id the first."""
    if own.ndim != 1 or len(rows) != len(own):
        message = f"{path}: {list(own.shape)} ids for predictions of shape {list(rows.shape)}: must be one a row"
        raise DataError(message)
    both, at, true_at = np.intersect1d(own.numpy(), true.numpy(), return_indices=True)
    if both.size == 0:
        message = f"{path}: none of its {len(own)} trials or windows is one of the truth's {len(true)}"
        raise DataError(message)
    return at, true_at
