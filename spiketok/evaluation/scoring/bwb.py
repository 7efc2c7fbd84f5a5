"""The local scorer of IBL BrainWideBench: rules of its server, scores of its scorer, its table and ranks.

Sources: int-brain-lab/app-brain-wide-bench 0fe50e0 (rules), ibl-bwb-eval 0.1.0 (scores, ``scoring/aggregation.py``).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.scoring.base import Broken, ScoreTable
from spiketok.evaluation.scoring.bwb_files import (
    ALL_RECORDINGS,
    TASKS,
    BwbTask,
    read_header,
    task_of,
    truth_path,
    truth_recordings,
)
from spiketok.evaluation.scoring.bwb_metrics import score_file
from spiketok.evaluation.scoring.bwb_rules import check_submission
from spiketok.evaluation.scoring.ranks import Summary, step_down_ranks

CLIPPED = ("r2", "poisson_d2", "bps")  # below 0 is worse than a constant, however much


class Key(NamedTuple):
    """Whose score it is; the recording of TS3 is ``ALL_RECORDINGS``."""

    label: str
    task: str
    recording: str
    seed: int


Scores = Mapping[Key, Mapping[str, float]]


@dataclass(frozen=True)
class BwbScorer:
    """Checks and scores a folder of predictions ``<label>/<task>/...``, or one label's folder.

    Args:
        deterministic: the model has no seeds: one is enough, and rules of seeds are not asked.
        compare: the folder holds several labels: each is a submission of its own, and the table ranks them.
        all_metrics: the table has every metric, not only those that rank.
        versions: the least and greatest ``dataset_version`` that is taken; empty: any.
    """

    suite: ClassVar[str] = "bwb"

    deterministic: bool = False
    compare: bool = False
    all_metrics: bool = False
    versions: tuple[str, str] = ("", "")

    def check(self, predictions: Path, truth: Path | None) -> list[Broken]:
        """The rules that files break; see ``bwb_rules``.

        Raises:
            UsageError: there is no prediction, or no such folder of truths.
        """
        root, files = submission(predictions)
        _require_folder(truth)
        labels = sorted({path.parts[0] for path in files}) if self.compare else [None]
        broken = []
        for label in labels:
            own = [path for path in files if label in (None, path.parts[0])]
            broken += check_submission(root, own, truth, self.deterministic, self.versions)
        return broken

    def table(self, predictions: Path, truth: Path) -> ScoreTable:
        """Mean and standard error over seeds of each task, of several labels with their ranks.

        Files that cannot be scored are left out and named.

        Raises:
            DataError: no file can be scored, a file says too little of itself, or two are of the same seed.
        """
        scores, notes = score_folder(predictions, truth)
        if not scores:
            message = f"none of the predictions in {predictions} could be scored: {notes[0]}"
            raise DataError(message)
        places, incomplete = ranked(aggregate(scores)) if self.compare else ({}, [])
        rows = _rows(scores, places, self.all_metrics)
        columns = ("task", "metric", "mean", "SEM", "seeds")
        columns = ("label", *columns, "rank") if self.compare else columns
        notes = (*notes, *_few(scores, truth), *incomplete)
        return ScoreTable(columns, [{name: row.get(name) for name in columns} for row in rows], notes)


def submission(predictions: Path) -> tuple[Path, list[Path]]:
    """The folder above the labels' and its files; a folder of tasks is one label's.

    Raises:
        UsageError: there is no such folder, or no file in it.
    """
    predictions = Path(predictions).absolute()
    if not predictions.is_dir():
        message = f"{predictions} is no folder of predictions"
        raise UsageError(message)
    files = sorted(path for path in predictions.rglob("*") if path.is_file())
    if not files:
        message = f"there is no file in {predictions}: expected LABEL/TASK/RECORDING/seed_N.safetensors"
        raise UsageError(message)
    of_one_label = any(path.name in TASKS for path in predictions.iterdir() if path.is_dir())
    root = predictions.parent if of_one_label else predictions
    return root, [path.relative_to(root) for path in files]


def _require_folder(truth: Path | None) -> None:
    if truth is not None and not Path(truth).is_dir():
        message = f"there is no folder of truths {truth}: expected TASK/RECORDING/ground_truth.safetensors in it"
        raise UsageError(message)


# ---- scores of many files -------------------------------------------------------------------------------------------


def score_folder(predictions: Path, truth: Path) -> tuple[dict[Key, dict[str, float]], list[str]]:
    """Score every prediction file by what its metadata say.

    Returns:
        scores by key; and a line for each file that is left out, or of which a library remarked something.

    Raises:
        DataError: a file's metadata lack a word, or two files are of the same seed.
    """
    _require_folder(truth)
    root, files = submission(predictions)
    scores: dict[Key, dict[str, float]] = {}
    notes = []
    for path in files:
        if not (path.name.startswith("seed_") and path.name.endswith(".safetensors")):
            continue
        key, task = _key(root / path)
        if key in scores:
            message = f"{path} holds seed {key.seed} of {key.label}, {key.task}, {key.recording}, as another file does"
            raise DataError(message)
        target = truth_path(truth, task.id, key.recording if task.has_recording else "")
        if not target.is_file():
            notes.append(f"{path}: left out: there is no truth {target.relative_to(truth)}")
            continue
        try:
            scores[key], remarks = score_file(task.id, root / path, target)
        except DataError as error:
            notes.append(f"{path}: left out: {str(error).removeprefix(f'{root / path}: ')}")
            continue
        notes += [f"{path}: {remark}" for remark in remarks]
    return scores, notes


def _key(path: Path) -> tuple[Key, BwbTask]:
    said, _ = read_header(path)
    task = TASKS.get(said.get("task", ""))
    needed = ("label", "task", "seed", *(("recording_id",) if task is None or task.has_recording else ()))
    missing = [word for word in needed if word not in said]
    if missing or not said["seed"].isdigit():
        fact = f"lack {', '.join(missing)}" if missing else f"say seed '{said['seed']}'"
        message = f"{path}: its metadata {fact}: it cannot be told what it predicts"
        raise DataError(message)
    task = task_of(said["task"])
    recording = said["recording_id"] if task.has_recording else ALL_RECORDINGS
    return Key(said["label"], task.id, recording, int(said["seed"])), task


def aggregate(scores: Scores) -> dict[tuple[str, str, str], dict[str, Summary]]:
    """Over the seeds of each label, task and recording; what may be clipped is clipped at 0 first. NaN stays."""
    return _summaries(scores, lambda key: (key.label, key.task, key.recording))


def over_seeds(scores: Scores) -> dict[tuple[str, str], dict[str, Summary]]:
    """Over the seeds of each label and task, of a seed the mean over its recordings; clipped as :func:`aggregate`."""
    seeds: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, metrics in scores.items():
        for name, value in metrics.items():
            seeds[key._replace(recording="")][name].append(_clipped(name, value))
    means = {key: {name: float(np.mean(values)) for name, values in of.items()} for key, of in seeds.items()}
    return _summaries(means, lambda key: (key.label, key.task))


def ranked(
    summaries: Mapping[tuple[str, str, str], Mapping[str, Summary]],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """By task and label the mean over recordings of the step-down rank of the primary metric; and what hinders it.

    Args:
        summaries: of :func:`aggregate`.
    """
    sessions: dict[str, dict[str, dict[str, Summary]]] = defaultdict(lambda: defaultdict(dict))
    for (label, task, recording), metrics in summaries.items():
        sessions[task][recording][label] = metrics[TASKS[task].primary]
    places: dict[str, dict[str, float]] = {}
    remarks = []
    for task, of in sessions.items():
        each: dict[str, list[int]] = defaultdict(list)
        for candidates in of.values():
            for label, rank in step_down_ranks(candidates).items():
                each[label].append(rank)
        places[task] = {label: float(np.mean(ranks)) for label, ranks in each.items()}
        alone = [recording for recording, candidates in of.items() if len(candidates) < 2]
        if alone:
            fact = f"{len(alone)} of {len(of)} recordings have one label alone (first {alone[0]})"
            remarks.append(f"{task}: {fact}: its rank there is 1 without a comparison")
    return places, remarks


def _clipped(name: str, value: float) -> float:
    return value if math.isnan(value) or name not in CLIPPED else max(value, 0.0)


def _summaries(scores: Scores, group: Callable[[Key], tuple]) -> dict[tuple, dict[str, Summary]]:
    values: dict[tuple, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, metrics in scores.items():
        for name, value in metrics.items():
            values[group(key)][name].append(_clipped(name, value))
    return {key: {name: Summary.of(own) for name, own in of.items()} for key, of in values.items()}


def _rows(scores: Scores, places: Mapping[str, Mapping[str, float]], all_metrics: bool) -> list[dict]:
    """The table's lines, by label and then by task in the benchmark's order; with ranks, their mean at last."""
    rows = []
    summaries = over_seeds(scores)
    for label in sorted({key.label for key in scores}):
        tasks = [task for task in TASKS if (label, task) in summaries]
        for task in tasks:
            primary = TASKS[task].primary
            for name in _in_order(summaries[label, task], primary, all_metrics):
                own = summaries[label, task][name]
                row = {"label": label, "task": task, "metric": name, "mean": own.mean, "SEM": own.sem, "seeds": own.n}
                rows.append(row | ({"rank": places[task][label]} if places and name == primary else {}))
        if places:
            rows.append({"label": label, "task": "all", "metric": "mean rank"})
            rows[-1]["rank"] = float(np.mean([places[task][label] for task in tasks]))
    return rows


def _few(scores: Scores, truth: Path) -> list[str]:
    """A line for each label and task that is not scored on every recording that has a truth."""
    recordings = defaultdict(set)
    for key in scores:
        recordings[key.label, key.task].add(key.recording)
    lines = []
    for (label, task), own in recordings.items():
        known = len(truth_recordings(truth, task))
        if TASKS[task].has_recording and len(own) < known:
            lines.append(f"{label}: {task} is scored on {len(own)} of {known} recordings that have a truth")
    return lines


def _in_order(names: Iterable[str], primary: str, all_metrics: bool) -> list[str]:
    others = [name for name in names if name != primary] if all_metrics else []
    return [primary, *sorted(others, key=lambda name: not name.startswith("macro/"))]
