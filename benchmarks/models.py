"""Every model on the same simulated sessions, by the commands that a user types: what docs/models.md reports.

    python benchmarks/models.py FOLDER [--models ndt1,lfads] [--kind continuous|trials] [--calibration-s 60]

Two subjects of four days each; the last day of both is held out. 25 % of the units are held out by name. For each
model: the test scores of the trained days, beside the true rates' co-bps on exactly the same bins; the CPU seconds of
the whole command (imports and scoring too), the seconds and the speed of the training steps as the run's own log has
them; and the rows of its transfer table. A run that stands is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from spiketok.models import MODELS
from spiketok.recording.metrics import co_bps, r2_mean
from spiketok.sources.simulator import SimulationConfig
from spiketok.sources.simulator.truth import true_rates
from spiketok.training.predictions import read_predictions

BIN_MS = 20
SIMULATION = {"rate_median_hz": 10.0, "tuning_depth": 1.0, "missed_fraction": 0.0, "turnover": 0.1, "drift_deg": 10.0}
SEGMENTS = {"continuous": [], "trials": ["data.segments=trials:start_time,0,1200", "data.window_ms=1200"]}
BEHAVIOUR = "decode:cursor_vel"
COLUMNS = ("model", "co-bps", "share of the true rates", "rate R2", "behaviour R2", "CPU s", "steps s", "windows/s")


def spiketok(root: Path, *words: str) -> str:
    """What a command prints to its output."""
    run = subprocess.run(
        [sys.executable, "-m", "spiketok", *words, "--root", str(root)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    return run.stdout


def simulated(root: Path, units: int, seconds: float) -> SimulationConfig:
    """The sessions, in the store of ``root``."""
    settings = [word for name, value in SIMULATION.items() for word in ("--set", f"{name}={value}")]
    spiketok(root, "simulate", "--units", str(units), "--duration-s", str(seconds), *settings)
    return SimulationConfig(n_units=units, duration_s=seconds, **SIMULATION)


def trained(root: Path, model: str, kind: str, sets: list[str]) -> dict:
    """The run's folder, and what its training came to."""
    tasks = [BEHAVIOUR] if "population" not in MODELS[model].tasks else ["population", BEHAVIOUR]
    words = ["train", "--model", model, "--tokenize", "--save-predictions", "--json"]
    words += [word for task in tasks for word in ("--task", task)]
    chosen = [*SEGMENTS[kind], *sets] + (["task.population.held_out=0.25"] if len(tasks) > 1 else [])
    words += [word for text in chosen for word in ("--set", text)]
    if MODELS[model].one_session:
        words += ["--sessions", "*S01*day01*"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said = json.loads(spiketok(root, *words))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return said | {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def speed(run: Path) -> tuple[float, float]:
    """Seconds of the training steps, windows a second over them."""
    path = run / "metrics.jsonl"
    config = json.loads((run / "config.json").read_text())
    if not path.exists():
        return 0.0, 0.0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    size = _find(config, "batch_size")
    spent, before = 0.0, 0
    for line in steps:
        spent += (line["step"] - before) * size / max(line["windows_per_s"], 1e-9)
        before = line["step"]
    return spent, before * size / max(spent, 1e-9)


def _find(value, key: str):
    """The first value of a key in nested JSON."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        value = list(value.values())
    found = (_find(item, key) for item in value) if isinstance(value, list) else ()
    return next((item for item in found if item is not None), None)


def against_truth(root: Path, run: Path, config: SimulationConfig) -> Iterator[tuple[float, float, float]]:
    """For each session, co-bps of the run's rates and of the expected ones, and R2 of the one against the other."""
    for path in sorted((run / "predictions").rglob("population.safetensors")):
        said = read_predictions(path)
        name = unquote(path.parent.name).rsplit("/", 1)[-1].removesuffix("_behavior+ecephys")
        (file,) = (root / "simulated").rglob(f"{name}_truth.npz")
        with np.load(file) as held:
            rate = true_rates(config, held, BIN_MS)["expected"]
        row = (said["time_ns"] - BIN_MS * 500_000) // (BIN_MS * 1_000_000)
        expected, scored = rate[row], said["weight"] > 0
        units = scored.any(axis=0)
        whole = scored[:, units].all(axis=1)
        said_rate, count, best = (a[whole][:, units] for a in (said["prediction"], said["target"], expected))
        yield co_bps(said_rate, count), co_bps(best, count), r2_mean(best, said_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--kind", choices=SEGMENTS, default="continuous")
    parser.add_argument("--units", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each session")
    parser.add_argument("--calibration-s", type=float, default=60.0, help="of the unseen days; 0 leaves them out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    root = arguments.folder.absolute()
    config = simulated(root, arguments.units, arguments.seconds)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    transfers = {}
    for model in arguments.models.split(","):
        done = trained(root, model, arguments.kind, arguments.set)
        run = Path(done["run"])
        rates = np.array(list(against_truth(root, run, config))).reshape(-1, 3)
        behaviour = [row["r2_variance_weighted"] for row in done["test"] if row["task"] == BEHAVIOUR]
        spent, per_s = speed(run)
        co, best, r2 = rates.mean(axis=0) if len(rates) else (np.nan, np.nan, np.nan)
        cells = [f"{value:.3f}" for value in (co, co / best, r2, np.mean(behaviour))]
        cells += [f"{value:.0f}" for value in (done["cpu_s"], spent, per_s)]
        print(f"| {model} | " + " | ".join("" if cell == "nan" else cell for cell in cells) + " |", flush=True)
        if arguments.calibration_s and MODELS[model].protocols:
            words = ["eval-xsession", str(run), "--tokenize", "--json", "--calibration-s", str(arguments.calibration_s)]
            transfers[model] = json.loads(spiketok(root, *words))
    for model, report in transfers.items():
        for task in report["tasks"]:
            headline = task["metrics"][0]
            rows = {name: cell[headline]["mean"] for name, cell in report["summary"][task["name"]].items()}
            told = ", ".join(f"{name} {mean:.3f}" for name, mean in rows.items() if mean is not None)
            print(f"{model}, {task['name']} of unseen days, {headline}: {told}")


if __name__ == "__main__":
    main()
