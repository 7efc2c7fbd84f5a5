"""Run recipes and keep what they gave: ``python examples/record.py [NAME...]``, with ``spiketok`` in ``PATH``.

A recipe is a folder with ``run.sh``. In an empty workspace its commands are run one by one; what stays beside it:

- ``log.txt``: the commands and what they printed, without paths of the machine.
- ``curve.jsonl``: the loss at each logged step, of each run of the recipe.
- ``score.json``: the seconds of each command, and the mean scores of each run and of its report.

The table of README.md is made of these files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """# Recipes

Each is a folder: `run.sh` is what was typed, `log.txt` what was printed, `curve.jsonl` the loss as it fell,
`score.json` the scores and the seconds.

To run one: `sh examples/NAME/run.sh` in an empty folder. Recordings are simulated, so that nothing is downloaded; for
your own put `spiketok fetch NAME` or `spiketok ingest FILES` in the place of the first line. `python examples/record.py
[NAME...]` runs them anew and writes these files and this table. Seconds are of one core of a small, busy machine.

| recipe | what it shows | last loss | score | seconds |
|---|---|---|---|---|
"""


def commands(recipe: Path) -> list[str]:
    """The lines of a recipe that are commands."""
    lines = (recipe / "run.sh").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def about(recipe: Path) -> str:
    """Its first line."""
    return (recipe / "run.sh").read_text().splitlines()[0].removeprefix("# ")


def recipes() -> list[Path]:
    """Folders of recipes, by name."""
    return sorted(path.parent for path in HERE.glob("*/run.sh"))


def record(recipe: Path) -> None:
    """Run a recipe in an empty folder, and write its three files."""
    seconds, log = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPIKETOK_")}
        for command in commands(recipe):
            begun = time.monotonic()
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            seconds.append(round(time.monotonic() - begun, 1))
            log.append(f"$ {command}\n{done.stdout.replace(folder, '')}")
            if done.returncode:
                sys.exit(f"{recipe.name}: {log[-1]}")
        runs = sorted(Path(folder).glob("spiketok-data/runs/*/result.json"), key=lambda path: path.stat().st_mtime)
        curve, scores = [], {}
        for path in runs:
            name = path.parent.name
            logged = path.parent / "metrics.jsonl"  # a model in closed form takes no step
            steps = [json.loads(line) for line in logged.read_text().splitlines()] if logged.is_file() else []
            curve += [{"run": name, "step": row["step"]} | row["loss"] for row in steps if row["event"] == "step"]
            scores[name] = {"test": json.loads(path.read_text())["test_mean"]}
            report = path.parent / "xsession" / "report.json"
            if report.is_file():
                scores[name]["unseen"] = _means(json.loads(report.read_text()))
    (recipe / "log.txt").write_text("\n".join(log))
    (recipe / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    (recipe / "score.json").write_text(json.dumps({"seconds": seconds, "runs": scores}, indent=1) + "\n")


def _means(report: dict) -> dict[str, dict[str, dict[str, float]]]:
    """Mean over sessions by task, protocol and metric, of a report."""
    return {
        task["name"]: {
            protocol: {name: over[name]["mean"] for name in task["metrics"]}
            for protocol, over in report["summary"][task["name"]].items()
        }
        for task in report["tasks"]
    }


def table() -> str:
    """The page: a row a recipe, of what was recorded."""
    rows = []
    for recipe in recipes():
        said = json.loads((recipe / "score.json").read_text())
        curve = [json.loads(line) for line in (recipe / "curve.jsonl").read_text().splitlines()]
        last = f"{curve[-1]['total']:.3f} at step {curve[-1]['step']}" if curve else "closed form"
        scores = []
        for run in said["runs"].values():
            scores += [f"{task} {name} {value:.3f}" for task, name, value in _first(run["test"])]
            for protocols in run.get("unseen", {}).values():
                heads = {name: next(iter(metrics.values())) for name, metrics in protocols.items()}
                unseen = ", ".join(f"{name} {value:.3f}" for name, value in heads.items() if value is not None)
                scores.append(f"unseen: {unseen}")
        link = f"[{recipe.name}]({recipe.name}/run.sh)"
        rows.append(f"| {link} | {about(recipe)} | {last} | {'; '.join(scores)} | {sum(said['seconds']):.0f} |")
    return HEAD + "\n".join(rows) + "\n"


def _first(of_tasks: dict[str, dict[str, float]]) -> list[tuple[str, str, float]]:
    """The headline of each task: of two R2 the one weighted by variance."""
    kept = {task: {name: s for name, s in scores.items() if name != "r2_mean"} for task, scores in of_tasks.items()}
    return [(task, *next(iter(scores.items()))) for task, scores in kept.items()]


def main(names: list[str]) -> None:
    """Record the recipes of these names, or all; then write the table."""
    chosen = [recipe for recipe in recipes() if not names or recipe.name in names]
    unknown = set(names) - {recipe.name for recipe in chosen}
    if unknown:
        sys.exit(f"no recipe {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in recipes())}")
    for recipe in chosen:
        record(recipe)
        print(recipe.name, flush=True)
    (HERE / "README.md").write_text(table())


if __name__ == "__main__":
    main(sys.argv[1:])
