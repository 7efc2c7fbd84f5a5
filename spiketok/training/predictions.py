"""Predictions as files: what a score was computed of, so that anyone can compute it again.

One safetensors file a session and task. Its tensors: ``time_ns`` int64 ``[T]``; ``prediction``, ``target`` ``[T, C]``
(log-probabilities ``[T, K]`` and labels ``[T]`` of a classification; rates and counts ``[T, N]`` of a population; of a
sequence the labels of all trials, trial behind trial, and ``prediction_offset``, ``target_offset`` ``[T + 1]``);
``weight`` float32, 0 where nothing is scored. Its metadata: ``session``, ``task`` and ``score`` (JSON). Scores are over
what has weight, each alike; they equal scikit-learn's on the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from spiketok.storage.files import atomic_file
from spiketok.storage.names import file_stem
from spiketok.training.tasks.base import Answer


def write_predictions(folder: Path, session: str, answers: Mapping[str, Answer]) -> list[Path]:
    """Write the answers of one session; returns the files."""
    written = []
    for task, answer in answers.items():
        path = Path(folder) / file_stem(session) / f"{file_stem(task)}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(array) for name, array in answer.arrays().items()}
        about = {"session": session, "task": task, "score": json.dumps(answer.score())}
        with atomic_file(path) as wip:
            save_file(arrays, wip, metadata=about)
        written.append(path)
    return written


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file."""
    return load_file(path)
