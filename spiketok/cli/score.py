"""The command ``score``."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import say, show, show_rows
from spiketok.errors import UsageError, require

if TYPE_CHECKING:
    from spiketok.evaluation.scoring.base import Broken, ScoreTable

BROKEN_COLUMNS = ("rule", "file", "session", "fact")
MOST_PLACES = 5  # of one fact on a terminal


def score(
    predictions: Annotated[Path, typer.Argument(help="The folder, file or zip that would be submitted.")],
    suite: Annotated[str, typer.Option("--suite", help="falcon, nlb21 or bwb.")],
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="Folder or file of targets: for the table, and for the rules about them."),
    ] = None,
    check_only: Annotated[bool, typer.Option("--check-only", help="Ask the rules alone, also with --truth.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write rules and table to this file.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="bwb: the model has no seeds; rules of seeds are not asked.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="bwb: PREDICTIONS holds several labels, each a submission; rank them.")
    ] = False,
    all_metrics: Annotated[
        bool, typer.Option("--all-metrics", help="bwb: every metric, not only those that rank.")
    ] = False,
    versions: Annotated[
        str,
        typer.Option("--versions", metavar="MIN:MAX", help="bwb: dataset versions that are taken.", show_default="any"),
    ] = "",
) -> None:
    """Check prediction files as a benchmark's server does, rule by rule, and print its official table."""
    require("torch", "train", "scoring predictions")
    from spiketok.evaluation.scoring import scorer_class
    from spiketok.evaluation.scoring.unpacked import unpacked

    kind = scorer_class(suite)
    own = {"deterministic": deterministic, "compare": compare, "all_metrics": all_metrics}
    asked = {name: value for name, value in own.items() if value}
    asked |= {"versions": _versions(versions)} if versions else {}
    if asked and suite != "bwb":
        message = f"--{next(iter(asked)).replace('_', '-')} is of --suite bwb alone, this is --suite {suite}"
        raise UsageError(message)
    scorer = kind(**asked)
    with unpacked(predictions) as folder:
        broken = scorer.check(folder, truth)
        table = None if broken or check_only or truth is None else scorer.table(folder, truth)
    if json_file is not None:
        _write(json_file, suite, broken, table)
    if broken:
        _show_broken(broken)
        rules = Counter(one.rule for one in broken)
        told = ", ".join(f"{rule} ({n})" for rule, n in sorted(rules.items()))
        say(f"rules are broken: {told}: {suite} would not take this")
        raise typer.Exit(1)
    if truth is None:
        say("no rule is broken of those that need no targets: --truth asks the others and gives the table")
    else:
        say("no rule is broken")
    if table is not None:
        _show_table(f"{suite}: {predictions.name}", table)


def _versions(text: str) -> tuple[str, str]:
    low, sign, high = text.partition(":")
    if not sign:
        message = f"--versions {text}: expected MIN:MAX, as 0.1.0:0.2.0; one side may be empty"
        raise UsageError(message)
    return low, high


def _show_broken(broken: list[Broken]) -> None:
    """On a terminal each fact with the places that it is true of; else a line a place, with all that is known."""
    if not sys.stdout.isatty():
        show_rows("rules that are broken", BROKEN_COLUMNS, [_row(one) for one in broken])
        return
    places: dict[tuple[str, str], list[str]] = {}
    for one in broken:
        place = str(one.path) if one.path != Path(".") else f"session {one.session}" if one.session else "as a whole"
        places.setdefault((one.rule, one.message), []).append(place)
    for (rule, fact), where in places.items():
        show(f"{rule:<6}{fact}")
        for place in where[:MOST_PLACES]:
            show(f"      {place}")
        if len(where) > MOST_PLACES:
            show(f"      and {len(where) - MOST_PLACES} more, all of which --json FILE names")


def _show_table(title: str, table: ScoreTable) -> None:
    """On a terminal a table a label, which leaves room for the names; else one, with all columns."""
    if "label" in table.columns and sys.stdout.isatty():
        columns = [name for name in table.columns if name != "label"]
        for label in dict.fromkeys(row["label"] for row in table.rows):
            show_rows(f"{title}: {label}", columns, [row for row in table.rows if row["label"] == label])
    else:
        show_rows(title, table.columns, table.rows)
    for note in table.notes:
        show(note)


def _row(one: Broken) -> dict[str, str]:
    return {"rule": one.rule, "file": str(one.path), "session": one.session or None, "fact": one.message}


def _write(path: Path, suite: str, broken: list[Broken], table: ScoreTable | None) -> None:
    from spiketok.storage.files import write_json

    facts: dict[str, object] = {"suite": suite, "broken": [_row(one) for one in broken], "table": None}
    if table is not None:
        rows = [{name: _plain(value) for name, value in row.items()} for row in table.rows]
        facts["table"] = asdict(table) | {"rows": rows}
    write_json(path, facts)


def _plain(value: object) -> object:
    """A cell as JSON has it, which has no NaN and no infinity: they are words there."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
