"""The recipes of examples/: their commands are commands, their scores what their logs say, their table is theirs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from examples.record import commands, recipes, table
from spiketok.cli import app

RECIPES = pytest.mark.parametrize("recipe", recipes(), ids=lambda path: path.name)


def printed(recipe: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Rows of the tables of a log, of each run: "test" of ``train``, "unseen" of ``eval-xsession``."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    rows: dict[str, list[dict[str, str]]] = {}
    head: list[str] = []
    for line in (recipe / "log.txt").read_text().splitlines():
        cells = line.split("\t")
        if cells[0] in ("session", "protocol"):
            head = cells if "task" in cells or cells[0] == "protocol" else []
            kind = "unseen" if cells[0] == "protocol" else "test"
        elif head and len(cells) == len(head):
            rows.setdefault(kind, []).append(dict(zip(head, cells, strict=True)))
        elif match := re.match(r"(?:run|report) \S*runs/([\w-]+)", line):
            found.setdefault(match[1], {}).update(rows)
            rows, head = {}, []
    return found


@RECIPES
def test_the_commands_are_what_the_app_takes(recipe):
    root = typer.main.get_command(app)
    assert commands(recipe)
    for line in commands(recipe):
        program, name, *words = shlex.split(line)
        assert program == "spiketok"
        root.commands[name].make_context(name, words)


def test_a_wrong_option_would_be_seen():
    command = typer.main.get_command(app).commands["train"]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("train", ["--modle", "poyo"])


@RECIPES
def test_the_log_is_of_the_commands(recipe):
    log = (recipe / "log.txt").read_text()
    assert re.findall(r"^\$ (.+)$", log, flags=re.M) == commands(recipe)
    assert len(json.loads((recipe / "score.json").read_text())["seconds"]) == len(commands(recipe))
    assert "error:" not in log and "Traceback" not in log


@RECIPES
def test_the_scores_are_what_was_printed(recipe):
    said, log = json.loads((recipe / "score.json").read_text())["runs"], printed(recipe)
    assert set(said) == set(log) and said
    for name, scores in said.items():
        for task, metrics in scores["test"].items():
            for metric, value in metrics.items():
                rows = [float(row[metric]) for row in log[name]["test"] if row["task"] == task]
                assert value == pytest.approx(sum(rows) / len(rows), abs=6e-4), metric
        for protocols in scores.get("unseen", {}).values():
            means = {row["protocol"]: row for row in log[name]["unseen"] if row["session"] == "mean over sessions"}
            for protocol, metrics in protocols.items():
                for metric, value in metrics.items():
                    shown = means[protocol][metric]
                    assert (shown in ("", "-")) if value is None else value == pytest.approx(float(shown), abs=6e-4)


@RECIPES
def test_the_curve_is_what_was_printed(recipe):
    curve = [json.loads(line) for line in (recipe / "curve.jsonl").read_text().splitlines()]
    text = (recipe / "log.txt").read_text()
    shown = {(int(step), total) for step, total in re.findall(r"^step (\d+)/.* total (-?[\d.]+)", text, flags=re.M)}
    assert shown <= {(row["step"], f"{row['total']:.4f}") for row in curve}
    assert bool(shown) == bool(curve)


def test_the_front_page_shows_what_a_recipe_printed():
    recipe = next(path for path in recipes() if path.name == "poyo-transfer")
    means = {r["protocol"]: r for of in printed(recipe).values() for r in of["unseen"] if "mean" in r["session"]}
    text = (recipe.parents[1] / "README.md").read_text()
    rows = re.findall(r"^(\w+) +mean over sessions +(\S+) +(\S+)", text, flags=re.M)
    assert len(rows) == len(means) == 4
    for protocol, *values in rows:
        assert values == [means[protocol][metric] for metric in ("r2_variance_weighted", "r2_mean")]


def test_the_table_is_of_what_was_recorded():
    assert (Path(__file__).parents[2] / "examples" / "README.md").read_text() == table()
