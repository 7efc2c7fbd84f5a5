"""Several trainings by one command: ``train --seeds 1,2,3 --sweep key=a,b``; each is a run of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from spiketok.errors import UsageError
from spiketok.settings import read_value, split_assignment, typed


@dataclass(frozen=True)
class Variant:
    """One of several trainings: its seed (None where none is asked for), and what it sets, by key."""

    seed: int | None
    settings: tuple[tuple[str, object], ...]

    @property
    def sets(self) -> list[str]:
        """In the form of ``--set``."""
        seed = [] if self.seed is None else [f"seed={self.seed}"]
        return [f"{key}={typed(value)}" for key, value in self.settings] + seed

    def __str__(self) -> str:
        return ", ".join(self.sets)


def variants(seeds: str | None, sweeps: Sequence[str], sets: Sequence[str]) -> list[Variant]:
    """Every seed of every combination of swept values; seeds of one combination follow each other.

    Args:
        seeds: whole numbers with commas. sweeps: ``"key=a,b,c"``. sets: what ``--set`` says beside.

    Raises:
        UsageError: a seed is none, a key is swept or set twice, or has fewer than two values, or one twice.

    >>> [str(one) for one in variants("1,2", ["optim.lr=0.1,0.2"], [])]
    ['optim.lr=0.1, seed=1', 'optim.lr=0.1, seed=2', 'optim.lr=0.2, seed=1', 'optim.lr=0.2, seed=2']
    """
    swept: dict[str, list[object]] = {}
    for text in sweeps:
        key, word = split_assignment(text, "--sweep", "KEY=A,B,C")
        if key in swept:
            message = f"--sweep {key} is given twice: name all its values at once"
            raise UsageError(message)
        swept[key] = _values(key, word)
    numbers = [None] if seeds is None else _seeds(seeds)
    taken = {*swept, *(["seed"] if seeds is not None else [])}
    for text in sets:
        key = split_assignment(text, "--set")[0]
        if key in taken:
            message = f"{key} is set by --set and by {'--sweep' if key in swept else '--seeds'}: give one"
            raise UsageError(message)
    if seeds is not None and "seed" in swept:
        message = "seed is given by --sweep and by --seeds: give one"
        raise UsageError(message)
    each = [tuple(zip(swept, values, strict=True)) for values in itertools.product(*swept.values())]
    return [Variant(seed, settings) for settings in each for seed in numbers]


def _values(key: str, word: str) -> list[object]:
    """The values of a swept key: words with commas, or a list in TOML where values hold commas themselves."""
    whole = read_value(word, f"--sweep {key}") if word.startswith("[") else None
    parts = [part.strip() for part in word.split(",")]
    found = whole if isinstance(whole, list) else [read_value(part, f"--sweep {key}") for part in parts if part]
    if len(found) < 2:
        message = f"--sweep {key}={word} has one value: give two or more, as {key}=A,B; one alone by --set"
        raise UsageError(message)
    twice = next((value for k, value in enumerate(found) if value in found[:k]), None)
    if twice is not None:
        message = f"--sweep {key}={word} says {typed(twice)} twice"
        raise UsageError(message)
    return found


def _seeds(text: str) -> list[int]:
    found = []
    for word in (part.strip() for part in text.split(",")):
        if not (word.isascii() and word.isdigit() and int(word) < 2**63):
            message = f"--seeds {text}: '{word}' must be a whole number from 0, as in 1,2,3"
            raise UsageError(message)
        if int(word) in found:
            message = f"--seeds {text} says {word} twice"
            raise UsageError(message)
        found.append(int(word))
    return found


def summary(done: Sequence[tuple[Variant, dict[str, dict[str, float]]]]) -> list[dict[str, object]]:
    """For each combination, task and metric: seeds, mean and its standard error over them.

    Args:
        done: of each run its variant, and by task the means of its metrics over sessions.

    Returns:
        rows; ``SEM`` (n - 1 in the variance) is None with one seed.

    >>> rows = summary([(Variant(k, ()), {"decode": {"r2": value}}) for k, value in enumerate([0.5, 0.7])])
    >>> [(row["seeds"], row["mean"], round(row["SEM"], 3)) for row in rows]
    [(2, 0.6, 0.1)]
    """
    groups: dict[tuple[tuple, str, str], list[float]] = {}
    for variant, means in done:
        for task, own in means.items():
            for metric, value in own.items():
                groups.setdefault((variant.settings, task, metric), []).append(value)
    rows = []
    for (settings, task, metric), values in groups.items():
        n = len(values)
        mean = math.fsum(values) / n
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n) if n > 1 else None
        told = {key: typed(value) for key, value in settings}
        rows.append(told | {"task": task, "metric": metric, "seeds": n, "mean": mean, "SEM": spread})
    return rows
