"""A vector for each unit of whole sessions, and what can be read from it: cell types, regions, who it is on other days.

What is unusual:

- a unit's vector is its mean over windows that follow one another in all of the session's observed time; a unit that
  no window holds has none (NaN), and is not probed;
- a probe (logistic regression, macro-F1) is made in two ways: ``inductive``, from units of the sessions that the run
  was trained on to units of others; and ``transductive``, from one half of all units to the other, halves by the hash
  of the unit's name;
- a unit is looked for on another day of its subject: its nearest neighbour among all units of the earlier day, by the
  cosine of features that are standardised within each day; a unit column says who is who;
- of a model that keeps rows or read-ins of units, and puts out no vectors, a unit's vector is what it keeps of it:
  sessions that the run was trained on have such alone;
- beside the vectors stand, for the same units and of the same time, those of the same model without training, the log
  of the rate and the histogram of the intervals between spikes, and chance.

Shape letters: N units, D width.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from spiketok.errors import DataError, UsageError, require
from spiketok.evaluation.calibration import calibration_of
from spiketok.models.batch import Head
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import Intervals, Session, SessionInfo
from spiketok.recording.splits import SplitRule
from spiketok.storage.files import atomic_file
from spiketok.training.checkpoints import Run, seed_of
from spiketok.training.config import model_class
from spiketok.training.predict import session_loader
from spiketok.training.sampling import SequentialWindows, SessionTokens, SessionWindows, listing
from spiketok.training.sessions import divide
from spiketok.training.tasks.base import MISSING

ISI_EDGES_S = np.logspace(-3, 1, 21)


@dataclass(frozen=True, eq=False)
class UnitVectors:
    """The vectors of a session's units.

    Args:
        vector: float32 ``[N, D]``, NaN where no window held the unit. n_windows: int64 ``[N]``, how many did.
        trained: the run was trained on the session. time: what they were computed from.
    """

    info: SessionInfo
    vector: np.ndarray
    n_windows: np.ndarray
    trained: bool
    time: Intervals


def head_of_vectors(run: Run) -> Head:
    """The head that puts out a vector a unit.

    Raises:
        UsageError: the run's model has none.
    """
    head = next((head for head in run.model.heads.values() if head.output == "vectors"), None)
    if head is None:
        message = f"run {run.path.name} is of {run.model.name}, which has no vector a unit: train with --task embed"
        raise UsageError(message)
    return head


def keeps_units(run: Run) -> bool:
    """Whether a unit's vector is what the model keeps of it.

    Raises:
        UsageError: the model neither puts out a vector a unit nor keeps anything of single units.
    """
    puts_out = any(head.output == "vectors" for head in run.model.heads.values())
    if not puts_out and any(run.model.unit_parts(session) for session in run.model.sessions()[:1]):
        return True
    head_of_vectors(run)
    return False


def untrained(run: Run) -> Run:
    """The run with its model as it is drawn by the run's seed, without a step of training."""
    torch.manual_seed(seed_of(run.config.seed))
    model = model_class(run.config.model)(run.config.model_config(), list(run.model.heads.values()), run.config.timing)
    return replace(run, model=model)


def first_training_time(run: Run, tokens: SessionTokens, length_s: float) -> Intervals:
    """The calibration of a session as ``eval-xsession`` takes it: so many seconds, the first of its training time.

    Raises:
        DataError: the training time is shorter.
    """
    rule = run.config.split  # days divide sessions; inside one, calibration comes first
    divided = divide(tokens, run.tasks, SplitRule("block") if rule.kind == "day" else rule)
    return calibration_of(divided.splits["train"], tokens.id, length_s)


def kept_vectors(run: Run, info: SessionInfo, time: Intervals) -> UnitVectors:
    """What a run's model keeps of each unit of a session: rows, columns of a read-in and rows of a read-out.

    Biases are left out. No window is read: ``n_windows`` is 0.

    Args:
        time: that the run may have seen of the session.

    Raises:
        DataError: the run was not trained on the session.
    """
    if info.id not in run.model.sessions():
        message = (
            f"{info.id}: {run.model.name} keeps nothing of its units, the run was not trained on it: "
            "spiketok train --from RUN --sessions GLOB, or eval-xsession --keep PROTOCOL"
        )
        raise DataError(message)
    parts = [part.value.movedim(axis, 0) for part, axis in run.model.unit_parts(info.id) if part.value.ndim > 1]
    vector = torch.cat([value.flatten(1) for value in parts], 1).float().cpu().numpy()
    return UnitVectors(info, vector, np.zeros(info.n_units, np.int64), True, time)


def unit_vectors(
    run: Run, tokens: SessionTokens, device: torch.device | str = "cpu", time: Intervals | None = None
) -> UnitVectors:
    """The mean vector of each unit over the windows of some time of a session.

    Args:
        time: all that was observed, by default.

    Raises:
        UsageError: the run's model puts out no vectors. DataError: no window fits.
    """
    head = head_of_vectors(run)
    time = tokens.observed if time is None else time
    windows = SessionWindows(tokens, time)
    model, info = run.model.to(device).eval(), tokens.info
    model.add_sessions([info])
    data = run.config.data
    loader = session_loader(model, SequentialWindows([windows], data.window_ns), data.batch_size)
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
    return UnitVectors(info, mean, n_windows, info.id in {s.id for s in run.trained_on}, time)


def write_vectors(path: Path, found: Sequence[UnitVectors], run: Run) -> None:
    """One npz file: ``vector`` and ``n_windows`` of all units, ``unit`` (their full names), ``session``, ``trained``,
    ``unit.<column>`` for each column that a session has (text, empty where a session lacks it), ``run_digest``, and
    ``time.session``, ``time.start_ns`` and ``time.stop_ns``: what time the vectors of each session are of.
    """
    columns = sorted({name for of in found for name in of.info.unit_columns})
    arrays = {
        "unit": np.array([key for of in found for key in of.info.unit_keys()]),
        "session": np.array([of.info.id for of in found for _ in range(of.info.n_units)]),
        "trained": np.array([of.trained for of in found for _ in range(of.info.n_units)]),
        "vector": np.concatenate([of.vector for of in found]),
        "n_windows": np.concatenate([of.n_windows for of in found]),
        "run_digest": np.array(run.digest),
        "time.session": np.array([of.info.id for of in found for _ in range(len(of.time))]),
        "time.start_ns": np.concatenate([of.time.start_ns for of in found]),
        "time.stop_ns": np.concatenate([of.time.stop_ns for of in found]),
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


def require_column(infos: Sequence[SessionInfo], column: str) -> None:
    """Raise DataError where a session's units have no such column, or no unit has a word in it."""
    for info in infos:
        if column not in info.unit_columns:
            known = ", ".join(sorted(info.unit_columns)) or "none"
            message = (
                f"{info.id}: its units have no column '{column}' (there are {known}): name the sessions that have it, "
                "as spiketok embed RUN GLOB"
            )
            raise DataError(message)
    if not any((labels_of(info, column) != "").any() for info in infos):
        message = f"no unit of {listing([info.id for info in infos])} has a word in the unit column '{column}'"
        raise DataError(message)


# ---- what is known of units beside their vectors --------------------------------------------------------------------


def spike_statistics(session: Session, time: Intervals) -> dict[str, np.ndarray]:
    """Of each unit, ``rate``: ln of spikes a second of that time; ``isi``: shares of the intervals by length.

    Intervals across time that is left out are counted as any other; a unit with fewer than two spikes has shares of 0.
    """
    n, time = len(session.units), session.observed.intersect(time)
    inside = holds(time, session.spikes.time_ns)
    time_s, unit = session.spikes.time_ns[inside] / 1e9, session.spikes.unit[inside]
    order = np.lexsort((time_s, unit))
    time_s, unit = time_s[order], unit[order]
    edge = np.searchsorted(unit, np.arange(n + 1))
    observed_s = time.total_ns / 1e9
    isi = np.zeros((n, len(ISI_EDGES_S) - 1))
    for k in range(n):
        between = np.diff(time_s[edge[k] : edge[k + 1]]).clip(ISI_EDGES_S[0], ISI_EDGES_S[-1])
        if len(between):
            isi[k] = np.histogram(between, ISI_EDGES_S)[0] / len(between)
    return {"rate": np.log((np.diff(edge) + 0.5) / observed_s)[:, None], "isi": isi}


@dataclass(frozen=True, eq=False)
class Compared:
    """A session's units by their vectors and by what stands beside them.

    Args:
        features: float ``[N, D]`` by name: ``vector``, ``untrained``, ``rate``, ``isi``.
    """

    info: SessionInfo
    trained: bool
    features: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, found: UnitVectors, drawn: UnitVectors, session: Session) -> Compared:
        """Args: found, drawn: by the run, and by it untrained. session: the same, from the store."""
        vectors = {"vector": found.vector, "untrained": drawn.vector}
        return cls(found.info, found.trained, vectors | spike_statistics(session, found.time))

    @property
    def seen(self) -> np.ndarray:
        """bool ``[N]``: units that have a vector."""
        return np.isfinite(self.features["vector"]).all(1)


# ---- probes ---------------------------------------------------------------------------------------------------------


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


def probes(compared: Sequence[Compared], column: str, tested: Sequence[str] | None = None) -> list[dict[str, object]]:
    """A row for each way: macro-F1 from each of the features and by chance, and numbers of units.

    Args:
        column: of the units. tested: ids of the sessions whose units the inductive probe is tested on, fitted on those
            of the others; by default the sessions that the run was not trained on.

    Raises:
        DataError: a session's units have no such column, or no unit has a word in it.
    """
    require_column([of.info for of in compared], column)
    word = np.concatenate([labels_of(of.info, column) for of in compared])
    usable = (word != "") & np.concatenate([of.seen for of in compared])
    fitted = [of.trained if tested is None else of.info.id not in tested for of in compared]
    trained = np.concatenate([np.full(of.info.n_units, fits) for of, fits in zip(compared, fitted, strict=True)])
    keys = [key for of in compared for key in of.info.unit_keys()]
    half = np.array([hashlib.sha256(key.encode()).digest()[0] % 2 == 0 for key in keys])
    features = {name: np.concatenate([of.features[name] for of in compared]) for name in compared[0].features}
    rows = []
    for way, train, test in (("inductive", trained, ~trained), ("transductive", half, ~half)):
        train, test = train & usable, test & usable
        scores = {name: probe(x, word, train, test) for name, x in features.items()}
        scores["chance"] = f1_by_chance(word[train], word[test])
        rows.append({"column": column, "probe": way, **scores, "n_train": int(train.sum()), "n_test": int(test.sum())})
    return rows


def f1_by_chance(train: np.ndarray, test: np.ndarray) -> float | None:
    """Macro-F1 of guesses that are drawn by the words' shares of the training units, in the limit of many units.

    Precision is then a word's share of the tested units, recall its share of the training units.

    >>> f1_by_chance(np.array(["a", "b"]), np.array(["a", "b", "b", "b"]))
    0.4666666666666667
    """
    if len(set(train)) < 2 or not len(test):
        return None
    shares = [((test == word).mean(), (train == word).mean()) for word in sorted({*train, *test})]
    return float(np.mean([2 * precision * recall / (precision + recall) for precision, recall in shares]))


# ---- the same units on two days -------------------------------------------------------------------------------------


def matches(compared: Sequence[Compared], column: str) -> list[dict[str, object]]:
    """A row for each two sessions of a subject: the share of units that are found again by each of the features.

    Args:
        column: of the units: the same word is the same unit.

    Raises:
        DataError: a session's units have no such column; a word is that of two units of a session; no two sessions of
            a subject share a unit.
    """
    require_column([of.info for of in compared], column)
    word = {of.info.id: labels_of(of.info, column) for of in compared}
    for name, own in word.items():
        seen = own[own != ""]
        if len(set(seen)) < len(seen):
            twice = next(w for w in sorted(set(seen)) if (seen == w).sum() > 1)
            message = f"{name}: the column '{column}' has '{twice}' for {int((seen == twice).sum())} units, not for one"
            raise DataError(message)
    rows = []
    for first, second in itertools.combinations(sorted(compared, key=lambda of: of.info.id), 2):
        if first.info.subject != second.info.subject:
            continue
        own, other = word[first.info.id][first.seen], word[second.info.id][second.seen]
        shared = (other != "") & np.isin(other, own)
        if not shared.any():
            continue
        scores = {}
        for name in first.features:
            among, rows_of = (_standard(of.features[name][of.seen]) for of in (first, second))
            scores[name] = float((own[_nearest(rows_of, among)] == other)[shared].mean())
        trained = sum(of.trained for of in (first, second))
        rows.append(
            {"session": second.info.id, "among": first.info.id, **scores, "chance": 1 / len(own)}
            | {"n": int(shared.sum()), "trained_on": trained}
        )
    if not rows:
        message = f"no two of {len(compared)} sessions are of one subject and share a unit by the column '{column}'"
        raise DataError(message)
    return rows


def _standard(x: np.ndarray) -> np.ndarray:
    std = x.std(0)
    return (x - x.mean(0)) / np.where(std > 0, std, 1)


def _nearest(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Of each row the nearest one; by distance in one dimension, where a cosine is a sign, else by cosine."""
    if rows.shape[1] == 1:
        return np.abs(rows - among.T).argmin(1)
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (rows, among)]
    return (unit[0] @ unit[1].T).argmax(1)
