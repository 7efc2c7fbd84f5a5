"""FALCON's evaluation on this machine: the pickle that its server takes, checked rule by rule, and its table.

    FalconScorer().check(Path("local_prediction.pkl"), Path("local_gt.pkl"))       # [] where the evaluator takes it
    FalconScorer().table(Path("local_prediction.pkl"), Path("local_gt.pkl"))

The evaluator of falcon-challenge 1.0.2 writes both files, by default under these names, and its server scores the first
against its own second one. Numbers are those of its function ``evaluate`` on the same files.

What is unusual:

- a pickle is a program: the files are read without running any (:mod:`spiketok.evaluation.scoring.falcon_pickle`);
- the evaluator cuts the sets laid end to end where sessions in alphabetical order would end. Sets in another order are
  scored across sessions, without a word there: here they break the rule ``order``;
- sentences that are missing at the end are not counted there: here they break the rule ``sentences``.

Rules by name: docs/falcon.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from spiketok.errors import ArtefactError, DataError, UsageError, require
from spiketok.evaluation.scoring.base import Broken, ScoreTable
from spiketok.evaluation.scoring.falcon_pickle import PickleFault, read_plain_pickle
from spiketok.evaluation.scoring.falcon_rules import (
    B1_FRAMES,
    B1_SCORED_FRAMES,
    BY_BIN,
    COMPONENTS,
    LATENCY,
    PARTS,
    in_order,
    part_of,
    session_of,
    submission_faults,
)
from spiketok.training.tasks.sequence import error_rate

LEAD = ("file", "task", "part")
METRICS = ("R2 Mean", "R2 Std.", "WER", "WER Std.", "CER", "CER Std.", "MSE Mean", "MSE Std.")
LAST = "Normalized Latency"
NAMES = ("*.pkl", "submission.csv")  # how the evaluator names what it writes, here and on the server


class FalconScorer:
    """FALCON's rules and table. Predictions and truth are a pickle each, or a folder of them."""

    suite: ClassVar[str] = "falcon"

    def check(self, predictions: Path, truth: Path | None) -> list[Broken]:
        """The rules that the files break; without truth those that can be told without it.

        Raises:
            UsageError: there is no such file. DataError: the truth is no truth of FALCON's.
        """
        return [broken for one in _read(Path(predictions), truth) for broken in one.broken]

    def table(self, predictions: Path, truth: Path) -> ScoreTable:
        """The evaluator's numbers, a row for each task and part of it that was asked; of files that break no rule.

        Errors as :meth:`check`.
        """
        rows, notes = [], []
        answers = _truth(Path(truth))
        for one in _read(Path(predictions), truth):
            if one.broken:
                rules = ", ".join(dict.fromkeys(broken.rule for broken in one.broken))
                notes.append(f"{one.name} is not scored, it breaks the rules {rules}")
                continue
            for task, said in one.said.items():
                lead, latency = {"file": one.name.as_posix(), "task": task}, float(said[LATENCY])
                for part, metrics in score_task(task, said, answers[task]).items():
                    rows.append({**lead, "part": PARTS[part], **metrics, LAST: latency})
        metrics = [name for name in METRICS if any(name in row for row in rows)]
        columns = (*LEAD, *metrics, LAST)
        return ScoreTable(columns, [{name: row.get(name) for name in columns} for row in rows], notes)


def score_task(task: str, said: Mapping[str, object], true: Mapping[str, Mapping]) -> dict[str, dict[str, float]]:
    """The evaluator's numbers of one task, by part (``held_in``, ``held_out``) and name.

    Args:
        task: ``"h1"``, ``"m1"``, ``"m2"``, ``"h2"`` or ``"b1"``.
        said: by set what was predicted, breaking no rule. true: by set ``data`` (scored samples only) and ``mask``.
    """
    metrics = {"h2": _words, "b1": _spectrograms}.get(task, _regression)
    found = {}
    for part in PARTS:
        sets = [name for name in in_order(task, said) if part_of(task, name) == part]
        if sets:
            found[part] = metrics(sets, said, true)
    return found


def _mean_and_std(name: str, values: list[float], mean: str = "") -> dict[str, float]:
    return {f"{name}{mean}": float(np.mean(values)), f"{name} Std.": float(np.std(values))}


def _regression(sets: list[str], said: Mapping, true: Mapping) -> dict[str, float]:
    """R2 of each session, weighted by variance, over all of its sets; where a session ends is told by sorted names."""
    r2_score = require("sklearn.metrics", "train", "FALCON's R2").r2_score
    masks = [np.asarray(true[name]["mask"], np.bool_) for name in sets]
    predicted = np.concatenate([said[name][: len(mask)][mask] for name, mask in zip(sets, masks, strict=True)])
    target = np.concatenate([true[name]["data"] for name in sets])
    n_bins: dict[str, int] = {}
    for name, mask in zip(sets, masks, strict=True):
        n_bins[session_of(name)] = n_bins.get(session_of(name), 0) + len(mask)
    scored = np.cumsum(np.concatenate([np.zeros(1, np.int64), *masks]))
    edges = scored[np.cumsum([0, *(n_bins[session] for session in sorted(n_bins))])]
    r2 = [r2_score(target[a:b], predicted[a:b], multioutput="variance_weighted") for a, b in pairwise(edges)]
    return _mean_and_std("R2", r2, " Mean")


def _words(sets: list[str], said: Mapping, true: Mapping) -> dict[str, float]:
    """Edits over length, in words and in characters: of each day, then their mean."""
    cer, wer = [], []
    for name in sets:
        (sentences,) = said[name]
        targets = ["".join(chr(c) for c in row if c) for row in true[name]["data"][0]]
        cer.append(error_rate(sentences, targets))
        wer.append(error_rate([_in_words(s) for s in sentences], [_in_words(s) for s in targets]))
    if None in cer:
        message = f"the truth of {sets[cer.index(None)]} has no characters: no error rate"
        raise DataError(message)
    return _mean_and_std("WER", wer) | _mean_and_std("CER", cer)


def _in_words(text: str) -> list[str]:
    """A sentence of H2 (``>`` is its space) in words; punctuation is a word."""
    return re.sub(r"([~,!?])", r" \1", text.replace(">", " ")).split(" ")


def _spectrograms(sets: list[str], said: Mapping, true: Mapping) -> dict[str, float]:
    """The squared error of each motif, both scaled to 0..1; the mean of a day, then of days."""
    errors = []
    for name in sets:
        mask = _frames(true[name]["mask"]).astype(np.bool_)
        predicted, target = _frames(said[name][: len(mask)]), np.asarray(true[name]["data"])
        target = _frames(target)[mask] if target.ndim > 1 else target  # the server keeps what is scored, laid flat
        own = [each.reshape(-1, B1_SCORED_FRAMES, mask.shape[1]) for each in (target, predicted[mask])]
        errors.append(np.mean([np.square(_scaled(t) - _scaled(p)).mean() for t, p in zip(*own, strict=True)]))
    return _mean_and_std("MSE", errors, " Mean")


def _frames(values: np.ndarray) -> np.ndarray:
    """``[frames, 158]`` of ``[frames, 1, 158]``."""
    values = np.asarray(values)
    return values[:, 0] if values.ndim == 3 else values


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not high > low:
        message = f"a motif of {B1_FRAMES} frames is {low:g} throughout: FALCON divides by its range"
        raise DataError(message)
    return (values - low) / (high - low)


# ---- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Submission:
    """One file: what it says by task, and what it breaks."""

    name: Path
    said: Mapping[str, Mapping]
    broken: list[Broken]


def _read(predictions: Path, truth: Path | None) -> list[_Submission]:
    """Every file of predictions with what it breaks; a file of truth among them is none."""
    answers = _truth(Path(truth)) if truth is not None else None
    files, found = _files(predictions), []
    home = predictions if predictions.is_dir() else predictions.parent
    for file in files:
        name = file.relative_to(home)
        try:
            said = read_plain_pickle(file)
        except PickleFault as fault:
            found.append(_Submission(name, {}, [Broken(fault.rule, name, "", str(fault))]))
            continue
        if predictions.is_dir() and _is_truth(said):
            continue
        faults = submission_faults(said, answers)
        found.append(_Submission(name, said, [Broken(rule, name, session, text) for rule, session, text in faults]))
    if not found:
        message = f"{predictions} holds no predictions of FALCON's, only truth: run the evaluator, see docs/falcon.md"
        raise UsageError(message)
    return found


def _files(place: Path) -> list[Path]:
    files = [place] if place.is_file() else sorted({f for name in NAMES for f in place.rglob(name)})
    if not files:
        message = f"{place} is no file, and no folder with {' or '.join(NAMES)}: name what FALCON's evaluator wrote"
        raise UsageError(message)
    return files


def _is_truth(value: object) -> bool:
    """By task and set, ``data`` and ``mask``."""
    tasks = list(value.values()) if isinstance(value, dict) else []
    return bool(tasks) and all(isinstance(sets, dict) and all(map(_is_answer, sets.values())) for sets in tasks)


def _is_answer(value: object) -> bool:
    return isinstance(value, dict) and "data" in value and isinstance(value.get("mask"), np.ndarray)


def _truth(place: Path) -> dict[str, dict]:
    """By task and set, ``data`` and ``mask``: of a file, or of those in a folder that are truth."""
    found: dict[str, dict] = {}
    for file in _files(place):
        try:
            value = read_plain_pickle(file)
        except PickleFault as fault:
            if place.is_dir():
                continue
            message = f"{file}: {fault}: the truth is what FALCON's evaluator writes at GT_PATH (local_gt.pkl)"
            raise ArtefactError(message) from fault
        if not _is_truth(value):
            if place.is_dir():
                continue
            message = (
                f"{file} is no truth of FALCON's (by task and set 'data' and 'mask'): its evaluator writes it at "
                "GT_PATH (local_gt.pkl)"
            )
            raise DataError(message)
        if twice := sorted(found.keys() & value.keys()):
            message = f"{place} has two files with the truth of {twice[0]}: name one file"
            raise DataError(message)
        _require_whole(file, value)
        found |= value
    if not found:
        message = f"{place} holds no truth of FALCON's: its evaluator writes it at GT_PATH (local_gt.pkl)"
        raise DataError(message)
    return found


def _require_whole(file: Path, truth: Mapping[str, Mapping]) -> None:
    """Raise DataError where a truth has other samples than its mask says."""
    for task, name, own in ((t, name, own) for t in BY_BIN for name, own in truth.get(t, {}).items()):
        n_scored = int(np.sum(own["mask"]))
        if np.shape(own["data"]) != (n_scored, COMPONENTS[task]):
            message = (
                f"{file}: the truth of {task}/{name} has shape {np.shape(own['data'])}, its mask says "
                f"({n_scored}, {COMPONENTS[task]}): it is not what FALCON's evaluator writes"
            )
            raise DataError(message)
