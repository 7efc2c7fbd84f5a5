"""The star table: numbers of every model, the stars that stated thresholds make of them, and both as rows and JSON.

What is unusual: stars are read off the numbers by fixed limits, not by rank, so a model's stars do not depend on who
else is in the table; where there is no number there is no star, and a reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spiketok.storage.files import atomic_file, json_text, signed
from spiketok.storage.records import STAR_TABLE

FORMAT, VERSION = STAR_TABLE, 1
JITTER_MS, CHUNK_MS = "20", "20"  # of the curves, what makes stars
BUSY = 2.0  # a latency of so many times its CPU time was waited for


@dataclass(frozen=True, eq=False)
class Measured:
    """One run: by measure its facts; ``reason`` says why a model takes no part."""

    label: str
    seed: int
    reason: str = ""
    facts: dict[str, dict] = field(default_factory=dict)

    def value(self, column: str) -> float | None:
        """The number of a column; None where there is none."""
        found = COLUMNS[column].read(self.facts)
        return None if found is None else float(found)

    def why(self, column: str) -> str:
        """Why a column has no number; empty where it has one, or was not asked for."""
        if self.reason:
            return self.reason
        facts = self.facts.get(COLUMNS[column].measure, {})
        return str(facts.get("reason", facts.get("r2_reason", "") if column == "accuracy" else facts.get("why", "")))


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Args:
        title, short: in the page, and in 80 columns of a terminal. measure: whose facts. read: the number.
        limits: of five, four, three and two stars, from the best; ``rising``: more is better.
        digits: behind the point. scale: from the number to what is shown.
    """

    title: str
    short: str
    measure: str
    read: object
    limits: tuple[float, float, float, float]
    rising: bool = True
    digits: int = 2
    scale: float = 1.0

    def stars(self, value: float | None) -> int | None:
        """One to five."""
        if value is None:
            return None
        met = [value >= limit if self.rising else value <= limit for limit in self.limits]
        return 5 - met.index(True) if any(met) else 1

    def rule(self) -> str:
        """The limits in words."""
        sign = "≥" if self.rising else "≤"
        shown = (f"{limit * self.scale:,.10g}" for limit in self.limits)
        return ", ".join(f"{n}★ {sign} {limit}" for n, limit in zip((5, 4, 3, 2), shown, strict=True))


def at(*path: str):
    def read(facts: Mapping[str, object]) -> float | None:
        value: object = facts
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    return read


def _kept(facts: Mapping[str, dict]) -> float | None:
    """The share of R2 that is left with jittered spikes."""
    r2 = facts.get("jitter", {}).get("r2", {})
    full, moved = r2.get("0"), r2.get(JITTER_MS)
    return None if full is None or moved is None or full <= 0 else max(moved / full, 0.0)


def _over_floor(facts: Mapping[str, dict]) -> float | None:
    """The best row with labels, less the floor."""
    own, floor = at("transfer", "best_labelled", "r2")(facts), at("transfer", "floor")(facts)
    return None if own is None or floor is None else own - floor


def _beyond_poisson(facts: Mapping[str, dict]) -> float | None:
    """The sample's distance as a share of that of a Poisson sample."""
    found = facts.get("generation", {}).get("population_distance")
    return found["sample"] / found["poisson"] if found and found["poisson"] else None


def _memory(facts: Mapping[str, dict]) -> float | None:
    """Bytes beyond those of the process before it read anything, in training or decoding, whichever is more."""
    parts = [facts.get(measure, {}) for measure in ("train", "decode")]
    if any(part.get(key) is None for part in parts for key in ("peak_bytes", "before_bytes")):
        return None
    return max(part["peak_bytes"] - part["before_bytes"] for part in parts)


COLUMNS: dict[str, Column] = {
    "accuracy": Column("test R²", "R2", "train", at("train", "r2"), (0.9, 0.7, 0.5, 0.3)),
    "data": Column(
        "data needed (share of training time for 90 %)",
        "data",
        "data",
        at("data", "needed"),
        (0.125, 0.25, 0.5, 0.75),
        rising=False,
    ),
    "parameters": Column(
        "parameters (thousand)",
        "k par",
        "train",
        at("train", "parameters"),
        (1e4, 1e5, 1e6, 1e7),
        rising=False,
        digits=0,
        scale=1e-3,
    ),
    "training": Column(
        "training (CPU s)",
        "train",
        "train",
        at("train", "cpu_s"),
        (10, 60, 600, 3600),
        rising=False,
        digits=1,
    ),
    "decoding": Column(
        "decoding (CPU ms a second)",
        "dec",
        "decode",
        at("decode", "cpu_ms_per_s"),
        (1, 5, 20, 100),
        rising=False,
        digits=1,
    ),
    "latency": Column(
        "latency, median (ms)",
        "lat",
        "latency",
        at("latency", "chunks", CHUNK_MS, "p50_ms"),
        (1, 5, 20, 50),
        rising=False,
        digits=1,
    ),
    "memory": Column(
        "memory beyond the bare process (MB)",
        "MB",
        "decode",
        _memory,
        (100e6, 200e6, 400e6, 1e9),
        rising=False,
        digits=0,
        scale=1e-6,
    ),
    "jitter": Column(f"R² kept at {JITTER_MS} ms of jitter", "jit", "jitter", _kept, (0.98, 0.9, 0.75, 0.5)),
    "transfer": Column(
        "unseen session, best labelled less the floor", "new", "transfer", _over_floor, (0.05, 0.0, -0.05, -0.2)
    ),
    "generation": Column(
        "drawn spikes: distance, of Poisson's",
        "gen",
        "generation",
        _beyond_poisson,
        (0.25, 0.5, 1.0, 2.0),
        rising=False,
    ),
}
WORTH = ("accuracy", "data", "jitter", "transfer", "generation")  # how well it does, and what it costs
COST = ("parameters", "training", "decoding", "latency", "memory")


@dataclass(frozen=True, eq=False)
class StarTable:
    """All models, in the order in which they were named.

    Args:
        settings: of the comparison. runs: one a model and seed.
    """

    settings: dict[str, object]
    runs: list[Measured]

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(one.label for one in self.runs))

    def of(self, label: str) -> list[Measured]:
        return [one for one in self.runs if one.label == label]

    def mean(self, label: str, column: str) -> tuple[float | None, float | None]:
        """Mean and SD over seeds; None where a seed has no number, SD where there is one seed."""
        values = [one.value(column) for one in self.of(label)]
        if None in values:
            return None, None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None

    def curve(self, label: str, read) -> float | None:
        """The mean over seeds of any number in the facts; None where a seed has none."""
        values = [read(one.facts) for one in self.of(label)]
        return None if None in values else statistics.fmean(values)

    def shown(self, label: str, column: str) -> str:
        """A cell: the mean, ``-`` where there is none."""
        of, (mean, _) = COLUMNS[column], self.mean(label, column)
        if mean is None:
            refused = column == "generation" and self.of(label)[0].facts.get("generation") == {"generates": False}
            return "no" if refused else "-"
        text = f"{mean * of.scale:,.{of.digits}f}"
        return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) and of.digits > 1 else text

    def stars(self, label: str, column: str) -> int | None:
        return COLUMNS[column].stars(self.mean(label, column)[0])

    def rows(self, columns: Sequence[str]) -> list[dict[str, str]]:
        """One row a model, of some columns."""
        return [
            {"model": label, **{COLUMNS[name].short: self.shown(label, name) for name in columns}}
            for label in self.labels
        ]

    def star_rows(self) -> list[dict[str, str]]:
        """The stars of all columns, as numbers: ten columns of asterisks would not fit into 80 of a terminal."""
        return [
            {"model": label, **{of.short: str(self.stars(label, name) or "-") for name, of in COLUMNS.items()}}
            for label in self.labels
        ]

    def reasons(self) -> list[str]:
        """A line for each cell without a number, one for several columns of one reason."""
        lines: dict[tuple[str, str], list[str]] = {}
        for label in self.labels:
            for name, of in COLUMNS.items():
                if self.mean(label, name)[0] is None:
                    why = next((one.why(name) for one in self.of(label) if one.why(name)), "")
                    if why:
                        lines.setdefault((label, why), []).append(of.short)
        told = [f"{label}: {', '.join(columns)}: {why}" for (label, why), columns in lines.items()]
        return told + [line for label in self.labels if (line := self._busy(label))]

    def _busy(self, label: str) -> str:
        """Says where live windows waited for other programs longer than they were worked on."""
        wall, cpu = (self.curve(label, at("latency", "chunks", CHUNK_MS, name)) for name in ("p50_ms", "cpu_p50_ms"))
        if wall is None or not cpu or wall < BUSY * cpu:
            return ""
        return f"{label}: {COLUMNS['latency'].short}: the machine was busy, a window took {cpu:.2g} ms of CPU time"

    def to_json(self) -> dict[str, object]:
        """Everything, with the digests of runs and sessions."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "columns": {
                name: {"title": of.title, "stars": of.rule(), "measure": of.measure} for name, of in COLUMNS.items()
            },
            "models": [
                {
                    "label": label,
                    "mean": {name: self.mean(label, name)[0] for name in COLUMNS},
                    "sd": {name: self.mean(label, name)[1] for name in COLUMNS},
                    "stars": {name: self.stars(label, name) for name in COLUMNS},
                }
                for label in self.labels
            ],
            "runs": [{"label": m.label, "seed": m.seed, "reason": m.reason, **m.facts} for m in self.runs],
        }

    def write_json(self, out: Path) -> None:
        with atomic_file(out) as path:
            path.write_text(json_text(signed(self.to_json())))


def legend(columns: Sequence[str] = tuple(COLUMNS)) -> list[str]:
    """What the short heads of the table mean."""
    return [f"{COLUMNS[name].short}: {COLUMNS[name].title}; {COLUMNS[name].rule()}" for name in columns]
