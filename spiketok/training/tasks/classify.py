"""Classify: a label of each trial, asked once at a moment of the trial.

What is unusual:

- the moment (``task.classify.at``) must lie in a window for the window to be asked; what windows say of one trial is
  averaged as log-probabilities;
- with ``task.classify.windows = "moment"`` windows are the task's own, one from each trial's moment, and each is asked
  its own trial alone: what a window holds then has one place in all trials, as latencies after an onset need;
- classes are the words that the trial column has in training time; a trial with another word, or with none, is not
  asked;
- ``balanced_accuracy`` is the headline: the mean over classes of the share that was found, chance is 1 / classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch

from spiketok.errors import DataError, UsageError, require
from spiketok.models.batch import Batch, Head
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import NS_PER_MS, Intervals
from spiketok.recording.splits import strata
from spiketok.tokens.schemes.base import Windows
from spiketok.training.onsets import OnsetWindows, first_steps
from spiketok.training.sampling import Sampler, SessionTokens, SessionWindows, listing
from spiketok.training.tasks.base import (
    MISSING,
    Answer,
    Buffers,
    Collector,
    Group,
    Score,
    Stitch,
    Task,
    Truth,
    ask_values,
)

MOST_CLASSES = 1000


@dataclass(frozen=True)
class ClassifyConfig:
    """How a label is asked.

    Args:
        at: the moment of the trial: ``"start"``, ``"middle"`` or ``"stop"`` (its last instant).
        after_ms: so much later, or earlier below 0. A trial in which that moment does not lie is not asked.
        windows: ``"any"`` (wherever those of a run lie), or ``"moment"`` (one a trial, from its moment; where tokens
            have bins, from the first bin that begins at it or later).
    """

    at: Literal["start", "middle", "stop"] = "stop"
    after_ms: float = 0.0
    windows: Literal["any", "moment"] = "any"

    def __post_init__(self) -> None:
        if not math.isfinite(self.after_ms):
            message = f"after_ms of a classification is {self.after_ms}, must be a number of milliseconds"
            raise UsageError(message)


class Classify(Task):
    """One column of the trials."""

    kind: ClassVar[str] = "classify"
    Config: ClassVar[type] = ClassifyConfig
    metrics: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "accuracy")
    titles: ClassVar[Mapping[str, str]] = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}

    def __init__(self, about: str, config: ClassifyConfig, classes: tuple[str, ...] = ()) -> None:
        super().__init__(about, config)
        self.classes = classes

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: ClassifyConfig) -> Classify:
        """``about`` is the column's name; it may be left out where the trials have but one."""
        columns = {s.id: set(strata(s.trials)) for s in sessions}
        if not about:
            shared = sorted(set.intersection(*columns.values()))
            if len(shared) != 1:
                message = (
                    f"{'no' if not shared else 'more than one'} trial column can be classified"
                    f"{' (' + ', '.join(shared) + ')' if shared else ''}: choose by --task classify:COLUMN"
                )
                raise DataError(message)
            about = shared[0]
        lacking = [s for s, names in columns.items() if about not in names]
        if lacking:
            known = sorted(set().union(*columns.values()))
            message = (
                f"{listing(lacking)} has no trial column '{about}' of few values (there are "
                f"{', '.join(known) or 'none'}): choose by --task classify:COLUMN, or sessions by --sessions GLOB"
            )
            raise DataError(message)
        return cls(about, config)

    @classmethod
    def has(cls, about: str, session: SessionTokens) -> bool:
        columns = session.trials.columns
        return about in columns if about else bool(columns)

    def why_not(self, session: SessionTokens) -> str:
        if self.about in session.trials.columns:
            return ""
        return f"it has no trial column '{self.about}' (it has {', '.join(session.trials.columns) or 'none'})"

    def usable(self, session: SessionTokens) -> Intervals:
        """From the first labelled trial to the last, trials and what lies between them."""
        trials, labelled = session.trials, self._labelled(session)
        if not labelled.any():
            return Intervals.empty()
        return Intervals([int(trials.start_ns[labelled].min())], [int(trials.stop_ns[labelled].max())])

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """The classes are the words of the trials whose moment lies in training time, sorted."""
        words: set[str] = set()
        for session, allowed in sessions:
            order, at_ns = self._moments(session)
            inside = holds(allowed, at_ns)
            words |= set(np.asarray(session.trials.columns[self.about]).astype(str)[order][inside].tolist())
        if len(words) < 2:
            held = ", ".join(sorted(words)) or "none"
            message = f"'{self.about}' has fewer than two classes in the training time ({held}): nothing to classify"
            raise DataError(message)
        if len(words) > MOST_CLASSES:
            message = f"'{self.about}' has {len(words)} classes in the training time, at most {MOST_CLASSES} are served"
            raise DataError(message)
        self.classes = tuple(sorted(words))

    def head(self) -> Head:
        return Head(self.name, self.kind, "classes", len(self.classes), self.classes)

    def _labelled(self, session: SessionTokens) -> np.ndarray:
        """bool, one a trial."""
        words = np.asarray(session.trials.columns[self.about]).astype(str)
        return ~np.isin(words, MISSING)

    def _moments(self, session: SessionTokens) -> tuple[np.ndarray, np.ndarray]:
        """The labelled trials in order of their moment, and the moments in ns; one trial a moment."""
        trials, row = session.trials, np.flatnonzero(self._labelled(session))
        start, stop = trials.start_ns[row], trials.stop_ns[row]
        at = {"start": start, "middle": (start + stop) // 2, "stop": np.maximum(stop - 1, start)}[self.config.at]
        if self.config.after_ms:
            at = at + round(self.config.after_ms * NS_PER_MS)
            inside = (at >= start) & (at < stop)
            if 2 * inside.sum() < inside.size:
                message = (
                    f"{session.id}: {int((~inside).sum())} of {inside.size} moments, {self.config.after_ms:g} ms after "
                    f"the {self.config.at} of their trial, lie outside of it: choose less for task.classify.after_ms"
                )
                raise DataError(message)
            row, at = row[inside], at[inside]
        if self.config.windows == "moment":
            segment, at = first_steps(session, at)
            row, at = row[segment >= 0], at[segment >= 0]
        _, first = np.unique(at, return_index=True)
        return row[first], at[first]

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def truth(self, session: SessionTokens) -> Truth | None:
        if self.why_not(session):
            return None
        row, at_ns = self._moments(session)
        words = np.asarray(session.trials.columns[self.about]).astype(str)[row]
        known = np.isin(words, self.classes)
        label = np.searchsorted(self.classes, words[known]).astype(np.float32)  # below 2**24: exact in float32
        kind = _AtStart if self.config.windows == "moment" else Truth
        return kind(at_ns[known], label[:, None], np.ones(int(known.sum()), np.float32))

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        ask_values(self.name, groups, batch, buffers, np.zeros(1), np.ones(1), as_label=True)

    def sampler(
        self, windows: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool
    ) -> Sampler | None:
        """One window a labelled trial of one of the classes, with ``windows = "moment"``."""
        if self.config.windows == "any":
            return None
        onsets = []
        for session in windows:
            row, at_ns = self._moments(session.tokens)
            words = np.asarray(session.tokens.trials.columns[self.about]).astype(str)[row]
            at_ns = at_ns[np.isin(words, self.classes)]
            onsets.append(first_steps(session.tokens, at_ns))
        what = f"trial with '{self.about}'"
        return OnsetWindows(windows, window_ns, onsets, seed=seed, training=training, what=what)

    # ---- scores ---------------------------------------------------------------------------------------------------

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Stitch(self)

    def to_dict(self) -> dict[str, object]:
        return {"column": self.about, "classes": list(self.classes)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: ClassifyConfig) -> Classify:
        return cls(str(facts["column"]), config, tuple(facts["classes"]))


class _AtStart(Truth):
    """Asked of the window that begins there, and of no other that holds it."""

    def rows(self, windows: Windows, segments: Intervals) -> tuple[np.ndarray, np.ndarray]:
        low = np.searchsorted(self.time_ns, windows.start_ns, side="left")
        return low, np.searchsorted(self.time_ns, windows.start_ns, side="right")


class _Stitch(Stitch):
    def __init__(self, task: Classify) -> None:
        super().__init__(task.name)
        self.classes = task.classes

    def say(self, output: torch.Tensor) -> torch.Tensor:
        return output.float().log_softmax(-1)

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        asked = batch.asked[self.task]
        column = replace(asked, target=asked.target[:, None].float())
        super().add(replace(batch, asked={self.task: column}), output, used)

    def answer(self) -> Classified:
        time_ns, said, true, weight, _ = self.stitched()
        return Classified(time_ns, said, true[:, 0].astype(np.int64), weight, self.classes)


@dataclass(frozen=True, eq=False)
class Classified(Answer):
    """Stitched log-probabilities of one session's trials.

    Args:
        time_ns: int64 ``[T]``, the trials' moments. log_probability: float64 ``[T, K]``. label: int64 ``[T]``.
        weight: float32 ``[T]``. classes: K words.
    """

    time_ns: np.ndarray
    log_probability: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    classes: tuple[str, ...]

    def score(self) -> Score:
        """Accuracy and balanced accuracy over the trials (scikit-learn's definitions); None without a trial."""
        scores = require("sklearn.metrics", "train", "scoring a classification")
        used = self.weight > 0
        label, found = self.label[used], self.log_probability[used].argmax(1)
        if not used.any():
            return {"balanced_accuracy": None, "accuracy": None, "recall": {}, "n_samples": 0}
        recall = {
            word: float((found[label == k] == k).mean()) for k, word in enumerate(self.classes) if (label == k).any()
        }
        return {
            "balanced_accuracy": float(np.mean(list(recall.values()))),
            "accuracy": float(scores.accuracy_score(label, found)),
            "recall": recall,
            "n_samples": int(used.sum()),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "time_ns": self.time_ns,
            "prediction": self.log_probability,
            "target": self.label,
            "weight": (self.weight > 0).astype(np.float32),
        }
