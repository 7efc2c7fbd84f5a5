"""What each scorer of prediction files gives: the rules that files break, and the official table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Broken:
    """One rule that a file breaks.

    Args:
        rule: the rule's name, as the server's (``E012``) or, where it has none, as this scorer's documentation.
        path: the file, relative to the folder of predictions.
        session: the session (recording) that it speaks of; empty where the rule is not about one.
        message: the fact with both values.
    """

    rule: str
    path: Path
    session: str
    message: str


@dataclass(frozen=True)
class ScoreTable:
    """The official table.

    Args:
        columns: names of the columns, in order.
        rows: one mapping a row; a missing cell is None.
        notes: lines that say what was left out of the table, and why.
    """

    columns: Sequence[str]
    rows: Sequence[Mapping[str, str | int | float | None]]
    notes: Sequence[str] = field(default_factory=tuple)


class Scorer(Protocol):
    """A benchmark's rules and table. ``truth`` is the file or folder of targets, None where none is at hand."""

    suite: ClassVar[str]

    def check(self, predictions: Path, truth: Path | None) -> list[Broken]: ...

    def table(self, predictions: Path, truth: Path) -> ScoreTable: ...
