"""What BrainWideBench's server asks of a submission, rule by rule, told in full: the server shows a code and no more.

Rules ``E...`` are the server's (int-brain-lab/app-brain-wide-bench 0fe50e0, ``validate_submission.py``), in its senses.
It stops at the first rule that a file breaks; here every rule is asked that what is there allows. Rules in words are
this checker's own: the server takes such a file, and the scorer leaves it out or scores other units than are meant.

| rule | broken when |
|---|---|
| E001 | a word of the metadata or a tensor is missing |
| E002 | ``unit_filtering`` is none of all_units, selected_units, custom, mixed |
| E003, E108 | ``dataset_version`` is not x.y.z; it lies outside of the range |
| E004, E005 | a file's name is not seed_<digits>.safetensors; its task is unknown |
| E006, E007, E009 | shapes of TS1; of TS2; of TS3, or ids that are no ASCII |
| E008, E010 | a window stands twice; the regions' order |
| E011, E012 | there is no truth; trials, windows or units are not the truth's (of TS3: do not cover them) |
| E013 | the path is too deep or not deep enough, or says other than the metadata |
| E014 | a file that is no prediction |
| E101, E102, E103 | fewer than 3 seeds; seeds with a gap; other seeds for other recordings (not asked: deterministic) |
| E104 | a recording that has a truth has no prediction |
| E105, E106 | one seed twice; more than one label |
| E107, E109 | NaN or infinity; TS2 or TS3 of another build than selected_units |
| E999 | the file cannot be read |
| bins | the middle axis is not the task's, or the last not as long as the ids |
| order | units stand in another order than the truth's, which alone is scored |
| repeated | a trial or a unit stands twice |
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from spiketok.errors import ArtefactError, DataError, UnreadableError, UsageError
from spiketok.evaluation.scoring.base import Broken
from spiketok.evaluation.scoring.bwb_files import (
    REGIONS,
    TASKS,
    UNIT_FILTERING,
    BwbTask,
    read_header,
    read_tensors,
    truth_path,
    truth_recordings,
    unpack_ids,
)

MIN_SEEDS = 3
IGNORED_FILES, IGNORED_FOLDERS = {".DS_Store", "Thumbs.db", "desktop.ini"}, {"__MACOSX"}
REQUIRED_FILTERING = {"ts2": "selected_units", "ts3": "selected_units"}
WHOLE = Path(".")  # the path of what is said of the submission

_SEED_NAME = re.compile(r"seed_(\d+)\.safetensors", re.ASCII)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)", re.ASCII)
_TENSORS = {
    "classes": ("predictions", "trial_id"),
    "series": ("predictions", "trial_id"),
    "rates": ("predictions", "window_timestamps", "unit_ids"),
    "regions": ("pred_proba", "entity_ids"),
}
Fault = tuple[str, str]  # a rule and the fact


@dataclass(frozen=True)
class Submitted:
    """A prediction file by its path.

    Args:
        path: relative to the folder of predictions. label, task, recording, seed: what it says.
    """

    path: Path
    label: str
    task: BwbTask
    recording: str
    seed: int


def check_submission(
    root: Path,
    files: Sequence[Path],
    truth: Path | None = None,
    deterministic: bool = False,
    versions: tuple[str, str] = ("", ""),
) -> list[Broken]:
    """All rules that a submission breaks; rules that need the truth are asked where it is at hand.

    Args:
        root: the folder that holds the label's folder. files: its files, relative to it.
        truth: the folder of truths. deterministic: the model has no seeds, so E101 to E103 are not asked.
        versions: the least and the greatest ``dataset_version`` that is taken; empty: any.

    Raises:
        UsageError: a bound of ``versions`` is not x.y.z.
    """
    low, high = (_bound(text) for text in versions)
    submitted, broken = _submitted(files)
    broken += _of_the_whole(submitted, truth, deterministic)
    own_truth = _Truth(truth)
    for one in submitted:
        faults = _file_faults(Path(root) / one.path, one, own_truth, low, high)
        broken += [Broken(rule, one.path, one.recording, message) for rule, message in faults]
    return broken


# ---- by paths alone -------------------------------------------------------------------------------------------------


def _submitted(files: Sequence[Path]) -> tuple[list[Submitted], list[Broken]]:
    found: dict[tuple[str, str, str, int], Submitted] = {}
    broken = []
    for path in sorted(files):
        parts = PurePosixPath(path.as_posix()).parts
        if any(part in IGNORED_FOLDERS for part in parts) or parts[-1] in IGNORED_FILES:
            continue
        try:
            one = _parsed(path, parts)
        except _RuleError as error:
            broken.append(Broken(error.rule, path, "", str(error)))
            continue
        key = (one.label, one.task.id, one.recording, one.seed)
        if key in found:
            message = f"seed {one.seed} of {one.task.id} is also in {found[key].path.name}: once a task and recording"
            broken.append(Broken("E105", path, one.recording, message))
            continue
        found[key] = one
    return list(found.values()), broken


class _RuleError(DataError):
    def __init__(self, rule: str, message: str) -> None:
        self.rule = rule
        super().__init__(message)


def _parsed(path: Path, parts: Sequence[str]) -> Submitted:
    name, folders = parts[-1], parts[:-1]
    if not (name.startswith("seed_") and name.endswith(".safetensors")):
        message = f"'{name}' is no prediction: only seed_<digits>.safetensors may be there"
        raise _RuleError("E014", message)
    match = _SEED_NAME.fullmatch(name)
    if match is None:
        message = f"the name is '{name}', must be seed_<digits>.safetensors"
        raise _RuleError("E004", message)
    if len(folders) not in (2, 3):
        message = f"{len(folders)} folders above the file, must be 3 (label, task, recording), of TS3 2 (label, task)"
        raise _RuleError("E013", message)
    label, task, recording = (*folders, "")[:3]
    if task not in TASKS:
        message = f"the task is '{task}', must be one of {', '.join(TASKS)}"
        raise _RuleError("E005", message)
    if TASKS[task].has_recording != bool(recording):
        expected = "label/task/recording/file" if TASKS[task].has_recording else "label/task/file"
        message = f"{len(folders)} folders above a file of {task}, must be {expected}"
        raise _RuleError("E013", message)
    return Submitted(path, label, TASKS[task], recording, int(match[1]))


def _of_the_whole(submitted: Sequence[Submitted], truth: Path | None, deterministic: bool) -> list[Broken]:
    broken = []
    labels = sorted({one.label for one in submitted})
    if len(labels) > 1:
        broken.append(Broken("E106", WHOLE, "", f"labels {', '.join(labels)}: a submission has one"))
    seeds: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for one in submitted:
        seeds[one.task.id][one.recording].add(one.seed)
    for task, of in sorted(seeds.items()):
        if not deterministic:
            broken += [Broken(rule, WHOLE, session, message) for rule, session, message in _seed_faults(task, of)]
        if truth is None or not TASKS[task].has_recording:
            continue
        known = truth_recordings(truth, task)
        for session in sorted(known - set(of)):
            message = f"{task} has no prediction of it: {len(of)} of {len(known)} recordings with a truth are there"
            broken.append(Broken("E104", WHOLE, session, message))
    return broken


def _seed_faults(task: str, of: Mapping[str, set[int]]) -> Iterator[tuple[str, str, str]]:
    """Rule, recording and fact; as the server, the first of three that the task breaks."""
    first, *others = sorted(of)
    other = next((recording for recording in others if of[recording] != of[first]), None)
    seeds = sorted(of[first])
    if other is not None:
        message = (
            f"{task} has seeds {_list(of[other])} of this recording and {_list(seeds)} of {first}: must be the same"
        )
        yield "E103", other, message
    elif len(seeds) < MIN_SEEDS:
        yield "E101", "", f"{task} has {len(seeds)} seeds ({_list(seeds)}), must be {MIN_SEEDS} or more"
    elif seeds[-1] - seeds[0] != len(seeds) - 1:
        gap = next(seed for seed in range(seeds[0], seeds[-1]) if seed not in seeds)
        yield "E102", "", f"{task} has seeds {_list(seeds)}: {gap} is missing, seeds must follow each other"


def _list(numbers: set[int] | Sequence[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


# ---- in a file ------------------------------------------------------------------------------------------------------


class _Truth:
    """Tensors of truths by which files are aligned; the last one is kept, for the seeds of one recording."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._last: tuple[Path | None, dict[str, Tensor]] = (None, {})

    def of(self, one: Submitted) -> dict[str, Tensor] | None:
        """The tensors, None where there is no truth.

        Raises:
            ArtefactError: it cannot be read.
        """
        path = truth_path(self.folder, one.task.id, one.recording)
        if self._last[0] != path:
            if not path.is_file():
                return None
            self._last = (path, read_tensors(path, ("trial_id", "window_timestamps", "unit_ids", "entity_ids")))
        return self._last[1]


def _file_faults(path: Path, one: Submitted, truth: _Truth, low: tuple | None, high: tuple | None) -> Iterator[Fault]:
    try:
        said, shapes = read_header(path)
        tensors = read_tensors(path)
    except UnreadableError:
        raise
    except ArtefactError as error:
        yield "E999", f"the file cannot be read: {error}"
        return
    yield from _word_faults(one, said, low, high)
    missing = [name for name in _TENSORS[one.task.kind] if name not in shapes]
    if missing:
        yield "E001", f"tensor {', '.join(missing)} missing, it has {', '.join(sorted(shapes)) or 'none'}"
        return
    shape_faults = list(_shape_faults(one.task, shapes, tensors))
    yield from shape_faults
    if not any(rule.startswith("E") for rule, _ in shape_faults):
        yield from _repeated(one.task, tensors)
    predictions = tensors["pred_proba" if one.task.kind == "regions" else "predictions"]
    wrong = ~torch.isfinite(predictions) if predictions.is_floating_point() else torch.zeros(1, dtype=torch.bool)
    if bool(wrong.any()):
        first = np.argwhere(wrong.numpy())[0].tolist()
        value = float(predictions[tuple(first)])
        yield (
            "E107",
            f"{int(wrong.sum())} of {predictions.numel()} predictions are not finite, first {value} at {first}",
        )
    if truth.folder is None or any(rule.startswith("E") for rule, _ in shape_faults):
        return
    true = truth.of(one)
    if true is None:
        expected = truth_path(truth.folder, one.task.id, one.recording).relative_to(truth.folder)
        yield "E011", f"there is no truth of {one.task.id} and this recording: no {expected} in the folder of truths"
        return
    yield from _truth_faults(one.task, tensors, true)


def _word_faults(one: Submitted, said: Mapping[str, str], low: tuple | None, high: tuple | None) -> Iterator[Fault]:
    of_the_task = "recording_id" if one.task.has_recording else "label_names"
    needed = ("label", "task", "seed", "unit_filtering", "dataset_version", of_the_task)
    missing = [word for word in needed if word not in said]
    if missing:
        yield "E001", f"metadata {', '.join(missing)} missing, they have {', '.join(sorted(said)) or 'nothing'}"
    build = said.get("unit_filtering")
    if build is not None and build not in UNIT_FILTERING:
        yield "E002", f"unit_filtering is '{build}', must be one of {', '.join(UNIT_FILTERING)}"
    required = REQUIRED_FILTERING.get(one.task.suite)
    if build is not None and required not in (None, build):
        yield "E109", f"unit_filtering is '{build}', {one.task.id} takes {required} alone"
    yield from _version_faults(said.get("dataset_version"), low, high)
    paths = {"label": one.label, "task": one.task.id, "seed": str(one.seed)}
    paths |= {"recording_id": one.recording} if one.recording else {}
    for word, by_path in paths.items():
        if word in said and not _same(word, said[word], by_path):
            yield "E013", f"the path says {word} '{by_path}', the metadata '{said[word]}'"
    names = said.get("label_names")
    if one.task.kind == "regions" and names is not None and names != ",".join(REGIONS):
        yield "E010", f"label_names are {names}, must be {','.join(REGIONS)}"


def _same(word: str, said: str, by_path: str) -> bool:
    return said.isdigit() and int(said) == int(by_path) if word == "seed" else said == by_path


def _version_faults(text: str | None, low: tuple | None, high: tuple | None) -> Iterator[Fault]:
    if text is None:
        return
    match = _VERSION.fullmatch(text)
    if match is None:
        yield "E003", f"dataset_version is '{text}', must be x.y.z"
        return
    own = tuple(int(part) for part in match.groups())
    if low is not None and own < low:
        yield "E108", f"dataset_version is {text}, taken are {'.'.join(map(str, low))} and later"
    if high is not None and own > high:
        yield "E108", f"dataset_version is {text}, taken are those up to {'.'.join(map(str, high))}"


def _bound(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    match = _VERSION.fullmatch(text)
    if match is None:
        message = f"'{text}' is no version of a dataset: expected x.y.z, as 0.1.0"
        raise UsageError(message)
    return tuple(int(part) for part in match.groups())


def _shape_faults(task: BwbTask, shapes: Mapping[str, tuple], tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    names = _TENSORS[task.kind]
    own, ids = shapes[names[0]], shapes[names[1]]
    rule = {"ts1": "E006", "ts2": "E007", "ts3": "E009"}[task.suite]
    axes = 2 if task.kind == "regions" else 3
    if len(own) != axes:
        yield rule, f"{names[0]} have shape {list(own)}, must have {axes} axes"
        return
    if task.width and own[-1] != task.width:
        yield rule, f"the last axis of {names[0]} is {own[-1]}, of {task.id} it is {task.width}"
    if len(ids) != (2 if task.kind == "regions" else 1) or ids[0] != own[0]:
        yield rule, f"{names[1]} have shape {list(ids)} for {own[0]} rows of {names[0]}"
    if task.bins and own[1] != task.bins:
        yield "bins", f"the middle axis of {names[0]} is {own[1]}, of {task.id} it is {task.bins}: it is not scored"
    packed = {"rates": "unit_ids", "regions": "entity_ids"}.get(task.kind)
    if packed is None:
        return
    try:
        units = unpack_ids(tensors[packed].numpy())
    except DataError as error:
        yield rule, f"{packed}: {error}"
        return
    if task.kind == "rates" and own[-1] != len(units):
        yield "bins", f"{len(units)} unit_ids for a last axis of {own[-1]}: it is not scored"


def _truth_faults(task: BwbTask, tensors: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Iterator[Fault]:
    if task.suite == "ts1":
        yield from _set_faults("trial", tensors["trial_id"].tolist(), true["trial_id"].tolist())
        return
    if task.suite == "ts2":
        yield from _set_faults("window", tensors["window_timestamps"].tolist(), true["window_timestamps"].tolist())
        if "unit_ids" not in true:
            return
        own, expected = (unpack_ids(side["unit_ids"].numpy()) for side in (tensors, true))
        faults = list(_set_faults("unit", own, expected))
        yield from faults
        at = next((k for k, pair in enumerate(zip(own, expected, strict=False)) if pair[0] != pair[1]), None)
        if not faults and at is not None:
            yield "order", f"unit {at} is {own[at]}, the truth's {expected[at]}: the scorer does not read unit_ids"
        return
    own, expected = (unpack_ids(side["entity_ids"].numpy()) for side in (tensors, true))
    yield from _set_faults("unit", own, expected, exact=False)


def _set_faults(what: str, own: Sequence, expected: Sequence, exact: bool = True) -> Iterator[Fault]:
    missing = sorted(set(expected) - set(own))
    unknown = sorted(set(own) - set(expected)) if exact else []
    if not missing and not unknown:
        return
    facts = [f"{len(missing)} of the truth's {len(set(expected))} {what}s missing"]
    facts[0] += f" (first {missing[0]!r})" if missing else ""
    if exact:
        facts.append(f"{len(unknown)} unknown" + (f" (first {unknown[0]!r})" if unknown else ""))
    if what == "window" and missing and unknown and min(abs(missing[0] - one) for one in unknown) < 1e-6:
        facts.append("starts must be equal to the last bit")
    yield "E012", ", ".join(facts)


def _repeated(task: BwbTask, tensors: Mapping[str, Tensor]) -> Iterator[Fault]:
    ids = tensors[_TENSORS[task.kind][1]]
    own = unpack_ids(ids.numpy()) if task.kind == "regions" else ids.tolist()
    rule, what = {"rates": ("E008", "window"), "regions": ("repeated", "unit")}.get(task.kind, ("repeated", "trial"))
    seen: set = set()
    first = next((one for one in own if one in seen or seen.add(one)), None)
    if first is not None:
        yield rule, f"{what} {first!r} stands {own.count(first)} times, {len(set(own))} of {len(own)} are different"
