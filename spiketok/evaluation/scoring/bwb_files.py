"""Prediction files of BrainWideBench: what each task's file holds, written and read.

    <label>/<task>/<recording>/seed_<N>.safetensors    predictions, ts1-* and ts2-*
    <label>/<task>/seed_<N>.safetensors                predictions, ts3-*
    <task>/<recording>/ground_truth.safetensors        truth, ts1-* and ts2-*
    <task>/ground_truth.safetensors                    truth, ts3-*

A file stands whole or not at all, and the same predictions give the same bytes: the library that writes safetensors
puts the metadata in an order of chance, so the header is written here. What a server refuses for what it is (NaN, a
rate beyond float16, a shape) is refused before it is written. Ids of units are rows of ASCII bytes, filled up with
NUL. Sources: ibl-bwb-eval 0.1.0 (``predictions.py``, ``entity_ids.py``), the server's validator (0fe50e0).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from spiketok.errors import ArtefactError, DataError, UnknownNameError
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import atomic_file

TRUTH = "ground_truth.safetensors"
UNIT_FILTERING = ("all_units", "selected_units", "custom", "mixed")
REGIONS = ("CB", "CNU", "CTXsp", "HB", "HPF", "HY", "Isocortex", "MB", "OLF", "TH")
ALL_RECORDINGS = "__all__"  # the recording of a task that has none


@dataclass(frozen=True)
class BwbTask:
    """One of the eleven tasks.

    Args:
        id: as in paths and metadata, ``"ts1-choice"``.
        kind: ``classes`` a logit a class and trial, ``series`` a value a bin and trial, ``rates`` a log rate a unit,
            bin and window, ``regions`` a probability a region and unit.
        width: the last axis of a file's predictions; 0 where the session says it (its units).
        bins: the middle axis; 0 where there is none.
        primary: the metric that ranks.
        masked: only bins that the truth's mask names are scored.
    """

    id: str
    kind: Literal["classes", "series", "rates", "regions"]
    width: int
    bins: int
    primary: str
    masked: bool = False

    @property
    def suite(self) -> str:
        """``ts1``, ``ts2`` or ``ts3``."""
        return self.id.partition("-")[0]

    @property
    def has_recording(self) -> bool:
        """Whether each recording has a file of its own."""
        return self.kind != "regions"


TASKS = {
    task.id: task
    for task in (
        BwbTask("ts1-choice", "classes", 2, 1, "bacc"),
        BwbTask("ts1-reward", "classes", 2, 1, "bacc"),
        BwbTask("ts1-stimulus_contrast", "classes", 5, 1, "bacc"),
        BwbTask("ts1-whisker_motion_energy", "series", 1, 50, "r2"),
        BwbTask("ts1-wheel_speed", "series", 1, 50, "r2"),
        BwbTask("ts1-right_paw_speed", "series", 1, 50, "r2", masked=True),
        BwbTask("ts1-left_paw_speed", "series", 1, 50, "r2", masked=True),
        BwbTask("ts1-licking_rate", "series", 1, 50, "poisson_d2"),
        BwbTask("ts2-co_smoothing", "rates", 0, 50, "poisson_d2"),
        BwbTask("ts2-forecasting", "rates", 0, 5, "poisson_d2"),
        BwbTask("ts3-unit_cosmos", "regions", len(REGIONS), 0, "macro/f1-score"),
    )
}


def task_of(name: str) -> BwbTask:
    """The task of an id.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in TASKS:
        raise UnknownNameError("task of BrainWideBench", name, TASKS)
    return TASKS[name]


@dataclass(frozen=True)
class About:
    """What a prediction file says of itself.

    Args:
        label: the model's name on the leaderboard. task: see ``TASKS``. seed: of the training.
        recording: the session's id; empty for TS3 alone.
        unit_filtering: the build that the units came from, one of ``UNIT_FILTERING``.
        dataset_version: of that build, ``x.y.z``.
        more: any other words, as ``context_window``, ``bin_size``.
    """

    label: str
    task: str
    seed: int
    recording: str
    unit_filtering: str
    dataset_version: str
    more: Mapping[str, str] = field(default_factory=dict)

    def path(self, root: Path) -> Path:
        """Where the file lies below the folder of predictions.

        Raises:
            DataError: label or recording is no name of a folder, or the task has a recording and it is not said, or
                has none and one is.
        """
        task = task_of(self.task)
        if task.has_recording != bool(self.recording):
            message = (
                f"{self.task} has {'one file a' if task.has_recording else 'no'} recording, got '{self.recording}'"
            )
            raise DataError(message)
        parts = [self.label, self.task, *([self.recording] if self.recording else [])]
        for part in parts:
            if part in ("", ".", "..") or "/" in part or "\\" in part:
                message = f"'{part}' cannot be the name of a folder of predictions: it is empty or leads elsewhere"
                raise DataError(message)
        if self.seed < 0:
            message = f"seed {self.seed}: the name of a file is seed_<digits>.safetensors"
            raise DataError(message)
        return Path(root).joinpath(*parts, f"seed_{self.seed}.safetensors")

    def metadata(self) -> dict[str, str]:
        """The words in the file's header."""
        said = {"label": self.label, "task": self.task, "seed": str(self.seed)}
        said |= {"recording_id": self.recording} if self.recording else {"label_names": ",".join(REGIONS)}
        return {**self.more, **said, "unit_filtering": self.unit_filtering, "dataset_version": self.dataset_version}


# ---- writing --------------------------------------------------------------------------------------------------------


def write_classes(root: Path, about: About, trial_id: np.ndarray, logits: np.ndarray) -> Path:
    """Write the classes of a recording's trials (TS1 choice, reward, stimulus_contrast).

    Args:
        root: the folder of predictions. trial_id: ``[n]``, the rows of the session's trials.
        logits: ``[n, K]``, in the order of the classes.

    Raises:
        DataError: shapes do not fit, a value is not finite, or a trial stands twice.
    """
    task = _of_kind(about.task, "classes")
    _shape(about, "logits", logits, (len(trial_id), task.width))
    tensors = {"predictions": _finite(about, logits[:, None, :], np.float32), "trial_id": _trials(about, trial_id)}
    return _write(about.path(root), tensors, about.metadata())


def write_series(root: Path, about: About, trial_id: np.ndarray, values: np.ndarray, time_s: np.ndarray) -> Path:
    """Write a behaviour in the windows of a recording's trials (the other tasks of TS1).

    Args:
        values: ``[n, 50]``, in the truth's measure; of licks the natural log of the expected licks a bin.
        time_s: ``[n, 50]``, when each bin is within its window; nothing reads it.
        root, trial_id, raises: as :func:`write_classes`.
    """
    task = _of_kind(about.task, "series")
    for name, array in (("values", values), ("time_s", time_s)):
        _shape(about, name, array, (len(trial_id), task.bins))
    tensors = {"predictions": _finite(about, values[:, :, None], np.float32), "trial_id": _trials(about, trial_id)}
    tensors["timestamps"] = np.asarray(time_s, np.float32)
    return _write(about.path(root), tensors, about.metadata())


def write_rates(root: Path, about: About, start_s: np.ndarray, log_rate: np.ndarray, unit_ids: Sequence[str]) -> Path:
    """Write log rates of units in windows (TS2).

    Args:
        start_s: float64 ``[w]``, where each scored second starts: the truth's numbers, to the last bit.
        log_rate: ``[w, T, U]``, natural log of expected spikes a bin: the scored bins alone (50, or the last 5).
        unit_ids: of the last axis, in the order of the session's file, as ``<recording>/<uuid>``.
        root, raises: as :func:`write_classes`.
    """
    task = _of_kind(about.task, "rates")
    _shape(about, "log_rate", log_rate, (len(start_s), task.bins, len(unit_ids)))
    starts = np.asarray(start_s)
    if starts.dtype != np.float64 or np.unique(starts).size != starts.size:
        found = f"{starts.dtype} with {np.unique(starts).size} different of {starts.size}"
        message = f"{_place(about)}: start_s is {found}: must be float64, each window once"
        raise DataError(message)
    tensors = {"predictions": _finite(about, log_rate, np.float16), "window_timestamps": starts}
    tensors["unit_ids"] = pack_ids(unit_ids)
    return _write(about.path(root), tensors, about.metadata())


def write_regions(root: Path, about: About, unit_ids: Sequence[str], probability: np.ndarray) -> Path:
    """Write the region of each unit of all recordings (TS3).

    Args:
        unit_ids: as ``<recording>/<uuid>``. probability: ``[u, 10]``, in the order of ``REGIONS``.
        root, raises: as :func:`write_classes`.
    """
    task = _of_kind(about.task, "regions")
    _shape(about, "probability", probability, (len(unit_ids), task.width))
    tensors = {"pred_proba": _finite(about, probability, np.float32), "entity_ids": pack_ids(unit_ids)}
    return _write(about.path(root), tensors, about.metadata())


def write_trial_truth(
    root: Path, task: str, recording: str, trial_id: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None
) -> Path:
    """Write the truth of a task of TS1, as the scorer reads it.

    Args:
        root: the folder of truths. values: labels ``[n]``, or ``[n, 50]``; licks a bin are whole numbers.
        mask: bool ``[n, 50]`` of a paw: which bins are scored.
    """
    kind = _of_kind(task, "classes", "series")
    if (mask is not None) != kind.masked:
        message = f"the truth of {task} {'needs a mask of its bins' if kind.masked else 'has no mask'}"
        raise DataError(message)
    values = np.asarray(values)
    typed = np.int64 if kind.kind == "classes" else np.int32 if task == "ts1-licking_rate" else np.float32
    tensors = {"trial_id": np.asarray(trial_id, np.int64), "values": values.astype(typed)[..., None]}
    if mask is not None:
        tensors["mask"] = np.asarray(mask, bool)
    return _write(truth_path(root, task, recording), tensors, {"task": task})


def write_rate_truth(
    root: Path, task: str, recording: str, start_s: np.ndarray, counts: np.ndarray, unit_ids: Sequence[str]
) -> Path:
    """Write the truth of a task of TS2: spikes ``[w, T, U]`` of the scored bins; see :func:`write_rates`."""
    _of_kind(task, "rates")
    tensors = {"targets": np.asarray(counts, np.float32), "window_timestamps": np.asarray(start_s, np.float64)}
    tensors["unit_ids"] = pack_ids(unit_ids)
    return _write(truth_path(root, task, recording), tensors, {"task": task})


def write_region_truth(root: Path, task: str, unit_ids: Sequence[str], region: np.ndarray) -> Path:
    """Write the truth of TS3: for each unit the index of its region in ``REGIONS``."""
    _of_kind(task, "regions")
    tensors = {"targets": np.asarray(region, np.int64), "entity_ids": pack_ids(unit_ids)}
    return _write(truth_path(root, task), tensors, {"task": task, "label_names": ",".join(REGIONS)})


def truth_path(root: Path, task: str, recording: str = "") -> Path:
    """Where the truth of a task and recording lies."""
    return Path(root) / task / recording / TRUTH


def truth_recordings(root: Path, task: str) -> set[str]:
    """The recordings that have a truth of a task."""
    return {path.parent.name for path in (Path(root) / task).glob(f"*/{TRUTH}")}


def pack_ids(ids: Iterable[str]) -> np.ndarray:
    """Ids as uint8 ``[n, width]``, filled up with NUL; width is the longest id's.

    Raises:
        DataError: there is none, or one is empty or not ASCII.

    >>> pack_ids(["u1", "x"]).tolist()
    [[117, 49], [120, 0]]
    """
    ids = [str(one) for one in ids]
    odd = next((one for one in ids if not one or not one.isascii() or "\0" in one), None)
    if not ids or odd is not None:
        message = f"an id of a unit is {odd!r}: ASCII with at least one letter" if ids else "there is no unit to name"
        raise DataError(message)
    width = max(map(len, ids))
    return np.frombuffer("".join(one.ljust(width, "\0") for one in ids).encode("ascii"), np.uint8).reshape(-1, width)


def unpack_ids(rows: np.ndarray) -> list[str]:
    """Ids of what :func:`pack_ids` made.

    Raises:
        DataError: they are not ASCII in uint8.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.dtype != np.uint8:
        message = f"ids are {rows.dtype} {list(rows.shape)}, must be uint8 [n, width]"
        raise DataError(message)
    try:
        return [row.tobytes().rstrip(b"\0").decode("ascii") for row in rows]
    except UnicodeDecodeError as error:
        message = f"an id is no ASCII: byte {error.object[error.start]} in {error.object!r}"
        raise DataError(message) from None


def _of_kind(name: str, *kinds: str) -> BwbTask:
    task = task_of(name)
    if task.kind not in kinds:
        message = f"{name} is a task of {task.kind}, this writes {' and '.join(kinds)}"
        raise DataError(message)
    return task


def _place(about: About) -> str:
    return "/".join(part for part in (about.label, about.task, about.recording, f"seed {about.seed}") if part)


def _shape(about: About, name: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if np.shape(array) != expected:
        message = f"{_place(about)}: {name} has shape {list(np.shape(array))}, must be {list(expected)}"
        raise DataError(message)


def _finite(about: About, array: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):
        stored = np.asarray(array).astype(dtype)
    wrong = ~np.isfinite(stored)
    if wrong.any():
        worst = np.asarray(array)[wrong][0]
        fact = f"{int(wrong.sum())} of {stored.size} predictions are not finite in {stored.dtype}, as {worst}"
        message = f"{_place(about)}: {fact}"
        raise DataError(message)
    return stored


def _trials(about: About, trial_id: np.ndarray) -> np.ndarray:
    ids, times = np.unique(np.asarray(trial_id, np.int64), return_counts=True)
    if (times > 1).any():
        message = f"{_place(about)}: trial {ids[times > 1][0]} stands {times.max()} times, must stand once"
        raise DataError(message)
    return np.asarray(trial_id, np.int64)


def _write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Path:
    with atomic_file(path) as wip:
        wip.write_bytes(_bytes(tensors, metadata))
    return path


def _bytes(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the metadata in order of their names."""
    plain = save({name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())})
    end = 8 + int.from_bytes(plain[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(plain[8:end])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format asks, so that the tensors lie even
    return len(text).to_bytes(8, "little") + text + plain[end:]


# ---- reading --------------------------------------------------------------------------------------------------------


def read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The metadata of a file and the shape of each of its tensors.

    Raises:
        UnreadableError: the machine did not give it. ArtefactError: it is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {}), {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        _unreadable(path, error)


def read_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a file: those named that it has, or all.

    Raises:
        UnreadableError: the machine did not give it. ArtefactError: it is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            there = list(file.keys())
            return {name: file.get_tensor(name) for name in (there if names is None else names) if name in there}
    except (OSError, SafetensorError) as error:
        _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> None:
    raise_cause(error, path)
    message = f"{path} is no whole safetensors file: {error}"
    raise ArtefactError(message) from error
