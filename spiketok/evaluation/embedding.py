"""A vector for each unit of whole sessions, and what can be read from it: cell types and regions.

What is unusual:

- a unit's vector is its mean over windows that follow one another in all of the session's observed time; a unit that
  no window holds has none (NaN), and is not probed;
- a probe (logistic regression, macro-F1) is made in two ways: ``inductive``, from units of the sessions that the run
  was trained on to units of others; and ``transductive``, from one half of all units to the other, halves by the hash
  of the unit's name;
- two baselines are probed in the same way, of the same units: the log of the rate, and the histogram of the intervals
  between spikes.

Shape letters: N units, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError, UsageError, require
from spiketok.recording.nouns import Session, SessionInfo
from spiketok.storage.files import atomic_file
from spiketok.training.checkpoints import Run
from spiketok.training.loader import Loader
from spiketok.training.sampling import SequentialWindows, SessionTokens, SessionWindows
from spiketok.training.tasks.base import MISSING

ISI_EDGES_S = np.logspace(-3, 1, 21)


@dataclass(frozen=True, eq=False)
class UnitVectors:
    """The vectors of a session's units.

    Args:
        vector: float32 ``[N, D]``, NaN where no window held the unit. n_windows: int64 ``[N]``, how many did.
        trained: the run was trained on the session.
    """

    info: SessionInfo
    vector: np.ndarray
    n_windows: np.ndarray
    trained: bool


def unit_vectors(run: Run, tokens: SessionTokens, device: torch.device | str = "cpu") -> UnitVectors:
    """The mean vector of each unit over the windows of a session's observed time.

    Raises:
        UsageError: the run's model puts out no vectors. DataError: no window fits.
    """
    head = next((head for head in run.model.heads.values() if head.output == "vectors"), None)
    if head is None:
        message = f"run {run.path.name} is of {run.model.name}, which has no vector a unit: train with --task embed"
        raise UsageError(message)
    windows = SessionWindows(tokens, tokens.observed)
    model, info = run.model.to(device).eval(), tokens.info
    model.add_sessions([info])
    loader = Loader(
        [windows],
        SequentialWindows([windows], run.config.data.window_ns),
        batch_size=run.config.data.batch_size,
        unit_rows={info.id: model.unit_row(info)},
        session_rows={info.id: model.session_row(info.id)},
        one_session=model.one_session_batches,
    )
    total, n_windows = None, np.zeros(info.n_units, np.int64)
    with torch.inference_mode():
        for batch in loader:
            output, _ = model.predict(batch.to(device))
            vector, unit = output[head.task].double().cpu().numpy(), output[f"{head.task}.unit"].cpu().numpy()
            if total is None:
                total = np.zeros((info.n_units, vector.shape[1]))
            np.add.at(total, unit, vector)
            np.add.at(n_windows, unit, 1)
    seen = n_windows > 0
    mean = np.full(total.shape, np.nan, np.float32)
    mean[seen] = total[seen] / n_windows[seen, None]
    return UnitVectors(info, mean, n_windows, info.id in {s.id for s in run.trained_on})


def write_vectors(path: Path, found: Sequence[UnitVectors], run: Run) -> None:
    """One npz file: ``vector`` and ``n_windows`` of all units, ``unit`` (their full names), ``session``, ``trained``,
    ``unit.<column>`` for each column that a session has (text, empty where a session lacks it), and ``run_digest``.
    """
    columns = sorted({name for of in found for name in of.info.unit_columns})
    arrays = {
        "unit": np.array([key for of in found for key in of.info.unit_keys()]),
        "session": np.array([of.info.id for of in found for _ in range(of.info.n_units)]),
        "trained": np.array([of.trained for of in found for _ in range(of.info.n_units)]),
        "vector": np.concatenate([of.vector for of in found]),
        "n_windows": np.concatenate([of.n_windows for of in found]),
        "run_digest": np.array(run.digest),
    }
    for name in columns:
        arrays[f"unit.{name}"] = np.concatenate([labels_of(of.info, name) for of in found])
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def labels_of(info: SessionInfo, column: str) -> np.ndarray:
    """str ``[N]``: a unit column; empty where the session has none or the unit has no word in it."""
    if column not in info.unit_columns:
        return np.full(info.n_units, "")
    words = np.asarray(info.unit_columns[column]).astype(str)
    return np.where(np.isin(words, MISSING), "", words)


# ---- probes ---------------------------------------------------------------------------------------------------------


def spike_statistics(session: Session) -> dict[str, np.ndarray]:
    """Of each unit, ``rate``: ln of spikes a second of observed time; ``isi``: shares of the intervals by length.

    Intervals across unobserved time are counted as any other; a unit with fewer than two spikes has shares of 0.
    """
    n = len(session.units)
    order = np.lexsort((session.spikes.time_ns, session.spikes.unit))
    time_s, unit = session.spikes.time_ns[order] / 1e9, session.spikes.unit[order]
    edge = np.searchsorted(unit, np.arange(n + 1))
    observed_s = session.observed.total_ns / 1e9
    isi = np.zeros((n, len(ISI_EDGES_S) - 1))
    for k in range(n):
        between = np.diff(time_s[edge[k] : edge[k + 1]]).clip(ISI_EDGES_S[0], ISI_EDGES_S[-1])
        if len(between):
            isi[k] = np.histogram(between, ISI_EDGES_S)[0] / len(between)
    return {"rate": np.log((np.diff(edge) + 0.5) / observed_s)[:, None], "isi": isi}


def probe(x: np.ndarray, word: np.ndarray, train: np.ndarray, test: np.ndarray) -> float | None:
    """Macro-F1 of a logistic regression on standardised features; None where there is nothing to tell apart.

    Args:
        x: ``[N, D]``. word: str ``[N]``. train, test: bool ``[N]``.
    """
    linear = require("sklearn.linear_model", "train", "probing units")
    f1_score = require("sklearn.metrics", "train", "probing units").f1_score
    if len(set(word[train])) < 2 or not test.any():
        return None
    mean, std = x[train].mean(0), x[train].std(0)
    scaled = (x - mean) / np.where(std > 0, std, 1)
    fitted = linear.LogisticRegression(max_iter=2000).fit(scaled[train], word[train])
    return float(f1_score(word[test], fitted.predict(scaled[test]), average="macro", zero_division=0))


def probes(
    found: Sequence[UnitVectors], statistics: Mapping[str, Mapping[str, np.ndarray]], column: str
) -> list[dict[str, object]]:
    """A row for each way: macro-F1 from the vectors, from the rate and from the intervals, and numbers of units.

    Args:
        statistics: by session id, of :func:`spike_statistics`. column: of the units.

    Raises:
        DataError: no unit has a word in the column.
    """
    word = np.concatenate([labels_of(of.info, column) for of in found])
    vector = np.concatenate([of.vector for of in found])
    usable = (word != "") & np.isfinite(vector).all(1)
    if not usable.any():
        known = sorted({name for of in found for name in of.info.unit_columns})
        message = f"no unit has a word in the unit column '{column}' (there are {', '.join(known) or 'none'})"
        raise DataError(message)
    trained = np.concatenate([np.full(of.info.n_units, of.trained) for of in found])
    keys = [key for of in found for key in of.info.unit_keys()]
    half = np.array([hashlib.sha256(key.encode()).digest()[0] % 2 == 0 for key in keys])
    features = {"vector": vector} | {
        name: np.concatenate([statistics[of.info.id][name] for of in found]) for name in ("rate", "isi")
    }
    rows = []
    for way, train, test in (("inductive", trained, ~trained), ("transductive", half, ~half)):
        train, test = train & usable, test & usable
        scores = {name: probe(x, word, train, test) for name, x in features.items()}
        rows.append({"column": column, "probe": way, **scores, "n_train": int(train.sum()), "n_test": int(test.sum())})
    return rows
