"""The spike family beside the linear decoder, on simulated and real recordings: a table of docs/models.md.

    python benchmarks/spike_family.py FOLDER [--data FOLDER] [--only reaches,animal1,m1,tasks,calibration]
        [--models linear,poyo,possm-gru] [--set KEY=VALUE]

``--data`` holds ``placecells-animal1.nwb``, ``placecells-animal2.nwb`` and ``sub-Stevenson_ses-m1xy.nwb``;
without it the parts of simulated sessions alone are run. Each line says the score on test time (the last fifth), the
CPU seconds of the whole command, with imports and scores, and the command. A run that stands is not trained again, and
its seconds are then those of its scores.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from models import spiketok

REACHES = [
    *("--subjects", "1", "--sessions-per-subject", "3", "--units", "60", "--duration-s", "200", "--turnover", "0.1"),
    *("--set", "calcium_hz=30", "--set", "rate_median_hz=10", "--set", "tuning_depth=1"),
    *("--set", "missed_fraction=0", "--set", "drift_deg=10"),
]
DAYS = [
    *("--subjects", "1", "--sessions-per-subject", "4", "--units", "40", "--duration-s", "450", "--turnover", "0.05"),
    *("--set", "drift_deg=5", "--set", "drift_gain=0.05", "--set", "drift_rate=0.05", "--set", "rate_sigma=1.0"),
]
FILES = {
    "animal1": "placecells-animal1.nwb",
    "animal2": "placecells-animal2.nwb",
    "m1": "sub-Stevenson_ses-m1xy.nwb",
}
# Windows of 4 s for places, of which latents every 500 ms are enough; the M1 file holds counts of 50 ms.
PLACES, LATENTS, STEPS = ["data.window_ms=4000"], ["model.latent_step_ms=500"], ["optim.steps=300"]
SETS = {  # by model, then by part; a step so short that every bin has a window with the past that ``linear`` needs
    "linear": {
        "animal1": [*PLACES, "data.bin_ms=200", "data.eval_step_ms=1000"],
        "animal2": [*PLACES, "data.bin_ms=200", "data.eval_step_ms=1000"],
        "m1": ["data.bin_ms=50", "data.eval_step_ms=250"],
    },
    "poyo": {
        "animal1": [*PLACES, *LATENTS, *STEPS],
        "animal2": [*PLACES, *LATENTS, *STEPS],
        "m1": ["data.window_ms=500", "data.batch_size=16"],  # 3,000 tokens a second
        "calibration": ["optim.steps=200"],
    },
    "possm": {"animal1": [*PLACES, *STEPS], "animal2": [*PLACES, *STEPS]},
}
READERS = {
    "reaches": ("linear", "poyo", "capoyo", "possm-gru", "possm-s4d", "possm-mamba"),
    **dict.fromkeys(FILES, ("linear", "poyo", "possm-gru", "possm-s4d", "possm-mamba")),
}
TASKS = ("decode:cursor_vel", "decode:cursor_pos", "classify:target_dir")
CALIBRATION_S = (30, 60, 300)


def trained(root: Path, model: str, words: list[str], sets: list[str]) -> tuple[dict, float, str]:
    """What a training prints as JSON, its CPU seconds, and the command."""
    name, _, backbone = model.partition("-")
    chosen = [*([f"model.backbone={backbone}"] if backbone else []), *sets]
    command = ["train", "--model", name, *words, *(word for text in chosen for word in ("--set", text))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(spiketok(root, *command, "--tokenize", "--json"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said, spent, "spiketok " + " ".join(command)


def scores(said: dict) -> Iterator[str]:
    """By task, the headline's mean over sessions."""
    for task in dict.fromkeys(row["task"] for row in said["test"]):
        rows = [row for row in said["test"] if row["task"] == task]
        metric = next(name for name in ("r2_variance_weighted", "balanced_accuracy") if name in rows[0])
        yield f"{task} {np.mean([row[metric] for row in rows]):.3f}"


def line(part: str, model: str, told: Iterator[str], spent: float, command: str) -> None:
    print(f"| {part} | {model} | {', '.join(told)} | {spent:.0f} | `{command}` |", flush=True)


def part_of_sessions(root: Path, part: str, models: list[str], sets: list[str]) -> None:
    """Each model on the simulated reaches or on one recording."""
    words = ["--hold-out", "none", "--task", "decode:cursor_vel" if part == "reaches" else "decode"]
    if part in FILES:
        words += ["--sessions", f"local/{Path(FILES[part]).stem}"]
    for model in (model for model in READERS[part] if not models or model in models):
        own = SETS.get(model.partition("-")[0], {}).get(part, [])
        said, spent, command = trained(root, model, words, [*own, *sets])
        line(part, model, scores(said), spent, command)


def part_of_tasks(root: Path, sets: list[str]) -> None:
    """Three questions in one run, and each in a run of its own, by the same number of steps."""
    for asked in (",".join(TASKS), *TASKS):
        said, spent, command = trained(root, "poyo_plus", ["--hold-out", "none", "--task", asked], sets)
        line("tasks", "poyo_plus", scores(said), spent, command)


def part_of_calibration(root: Path, models: list[str], sets: list[str]) -> None:
    """The last day, which no model saw, after more and more calibration; the linear floor beside it."""
    for model in (model for model in ("spint", "poyo") if not models or model in models):
        own = SETS.get(model, {}).get("calibration", [])
        said, spent, command = trained(root, model, ["--task", "decode:cursor_vel"], [*own, *sets])
        line("calibration", model, scores(said), spent, command)
        for seconds in CALIBRATION_S:
            words = ["eval-xsession", said["run"], "--calibration-s", str(seconds)]
            report = json.loads(spiketok(root, *words, "--tokenize", "--json"))
            (rows,) = report["summary"].values()
            means = {name: cell["r2_variance_weighted"]["mean"] for name, cell in rows.items()}
            told = (f"{name} {mean:.3f}" for name, mean in means.items() if mean is not None)
            print(f"| calibration | {model}, {seconds} s | {', '.join(told)} | | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the recordings")
    parser.add_argument("--only", default="", help="parts, with commas; by default all that can be run")
    parser.add_argument("--models", default="", help="with commas; by default all of a part")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every training")
    arguments = parser.parse_args()
    roots = {name: arguments.folder.absolute() / name for name in ("reaches", "recordings", "days")}
    models = [name for name in arguments.models.split(",") if name]
    wanted = ["reaches", "tasks", "calibration", *(FILES if arguments.data else ())]
    if arguments.only:
        wanted = arguments.only.split(",")
    if arguments.data is None and set(FILES) & set(wanted):
        parser.error("recordings are asked for: say their folder by --data")
    print("| part | model | test | CPU s | command |\n|---|---|---|---|---|")
    if {"reaches", "tasks"} & set(wanted):
        spiketok(roots["reaches"], "simulate", *REACHES)
    for part in wanted:
        if part == "tasks":
            part_of_tasks(roots["reaches"], arguments.set)
        elif part == "calibration":
            spiketok(roots["days"], "simulate", *DAYS)
            part_of_calibration(roots["days"], models, arguments.set)
        elif part == "reaches":
            part_of_sessions(roots["reaches"], part, models, arguments.set)
        else:
            spiketok(roots["recordings"], "ingest", str(arguments.data / FILES[part]))
            part_of_sessions(roots["recordings"], part, models, arguments.set)


if __name__ == "__main__":
    main()
