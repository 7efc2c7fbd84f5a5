"""Embed: a vector for each unit, such that a unit is found again in another window of its session.

What is unusual:

- there is no truth but the units' own names: nothing is asked at any time;
- windows come in pairs (:mod:`spiketok.training.pairs`), in training and for a score;
- the score is the share of units whose nearest neighbour among the units of the other window, by cosine, is themselves;
  ``match_over_chance`` is that share over that of a blind choice.

Shape letters: P pairs, n units of a view, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Head
from spiketok.recording.nouns import Intervals
from spiketok.training.pairs import PairWindows
from spiketok.training.sampling import Sampler, SessionTokens, SessionWindows
from spiketok.training.tasks.base import Answer, Buffers, Collector, Group, Score, Task


@dataclass(frozen=True)
class EmbedConfig:
    """Which windows make a pair.

    Args:
        distance_s: the largest distance between the starts of the two, in seconds.
    """

    distance_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.distance_s < float("inf"):
            message = f"task.embed.distance_s is {self.distance_s}, must be above 0"
            raise UsageError(message)


class Embed(Task):
    """The units of a session, each to be told from the others."""

    kind: ClassVar[str] = "embed"
    Config: ClassVar[type] = EmbedConfig
    labelled: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("self_match", "match_over_chance")
    whole_windows: ClassVar[bool] = True
    titles: ClassVar[Mapping[str, str]] = {
        "self_match": "units found again in another window",
        "match_over_chance": "units found again, over chance",
    }

    def __init__(self, about: str, config: EmbedConfig) -> None:
        if about:
            message = f"--task embed:{about}: vectors have no name, use --task embed"
            raise UsageError(message)
        super().__init__(about, config)

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: EmbedConfig) -> Embed:
        return cls(about, config)

    def why_not(self, session: SessionTokens) -> str:
        n = session.info.n_units
        return "" if n > 1 else f"it has {n} unit{'s' * (n != 1)}, there is none to tell it from"

    def usable(self, session: SessionTokens) -> Intervals:
        return session.observed

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """There is nothing to set."""

    def head(self) -> Head:
        return Head(self.name, self.kind, "vectors")

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        none = torch.zeros(0)
        offset = torch.zeros(len(batch) + 1, dtype=torch.int64)
        batch.asked[self.name] = Asked(time=none, offset=offset, ns=np.zeros(0, np.int64), target=none, weight=none)

    def sampler(
        self, windows: Sequence[SessionWindows], window_ns: int, *, seed: int, training: bool
    ) -> Sampler | None:
        distance_ns = round(self.config.distance_s * 1e9)
        return PairWindows(windows, window_ns, distance_ns=distance_ns, seed=seed, training=training)

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Found(self.name)

    def to_dict(self) -> dict[str, object]:
        return {}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: EmbedConfig) -> Embed:
        return cls("", config)


def found_again(
    first: np.ndarray, second: np.ndarray, own: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each unit of two views that is in both, whether it is its own nearest neighbour; and what chance has.

    Args:
        first, second: ``[n1, D]`` and ``[n2, D]``. own, other: int64 ``[n1]`` and ``[n2]``, which units they are.

    Returns:
        bool and float64, one a unit and direction: of the first among the second, then of the second among the first.

    >>> found_again(np.eye(2), np.eye(2)[::-1], np.array([3, 5]), np.array([5, 3]))
    (array([ True,  True,  True,  True]), array([0.5, 0.5, 0.5, 0.5]))
    """
    hit, chance = [], []
    for (rows, names), (among, all_names) in (((first, own), (second, other)), ((second, other), (first, own))):
        shared = np.isin(names, all_names)
        if not shared.any():
            continue
        near = (_unit(rows[shared]) @ _unit(among).T).argmax(1)
        hit.append(all_names[near] == names[shared])
        chance.append(np.full(int(shared.sum()), 1 / len(all_names)))
    return np.concatenate([np.zeros(0, bool), *hit]), np.concatenate([np.zeros(0), *chance])


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


class _Found(Collector):
    def __init__(self, task: str) -> None:
        self.task = task
        self.pairs: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        vector, unit = output[self.task].float().cpu().numpy(), output[f"{self.task}.unit"].cpu().numpy()
        if not np.isfinite(vector).all():
            message = f"{batch.sessions[0]}: a vector of {self.task} is not finite: train with a lower optim.lr"
            raise DataError(message)
        edge = output[f"{self.task}.offset"].cpu().numpy()[1:-1]
        views = list(zip(np.split(vector, edge), np.split(unit, edge), strict=True))
        for p, ((first, own), (second, other)) in enumerate(zip(views[::2], views[1::2], strict=True)):
            self.pairs.append((int(batch.start_ns[2 * p]), *found_again(first, second, own, other)))

    def answer(self) -> FoundAgain:
        pairs = sorted(self.pairs, key=lambda pair: pair[0])
        time_ns = np.array([pair[0] for pair in pairs], np.int64)
        n = np.array([len(hit) for _, hit, _ in pairs], np.int64)
        right = np.array([hit.sum() for _, hit, _ in pairs], np.int64)
        chance = np.array([by_chance.sum() for _, _, by_chance in pairs], np.float64)
        return FoundAgain(time_ns, right, chance, n)


@dataclass(frozen=True, eq=False)
class FoundAgain(Answer):
    """How many units of each pair were found again.

    Args:
        time_ns: int64 ``[P]``, starts of the first windows. right: int64 ``[P]``. chance: float64 ``[P]``, how many a
            blind choice finds. n: int64 ``[P]``, how many there were to find.
    """

    time_ns: np.ndarray
    right: np.ndarray
    chance: np.ndarray
    n: np.ndarray

    def score(self) -> Score:
        """None where no unit was in both windows of a pair."""
        n = int(self.n.sum())
        if not n:
            return {"self_match": None, "match_over_chance": None, "chance": None, "n_samples": 0}
        share, chance = float(self.right.sum() / n), float(self.chance.sum() / n)
        return {"self_match": share, "match_over_chance": share / chance, "chance": chance, "n_samples": n}

    def arrays(self) -> dict[str, np.ndarray]:
        """Of each pair the share that was found, beside that of chance; the weight is how many there were."""
        n = np.maximum(self.n, 1)
        return {
            "time_ns": self.time_ns,
            "prediction": (self.right / n)[:, None],
            "target": (self.chance / n)[:, None],
            "weight": self.n.astype(np.float32),
        }
