"""A small submission to BrainWideBench that breaks no rule, with its truth; and how one file of it is changed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from spiketok.evaluation.scoring import bwb_files as files
from spiketok.evaluation.scoring.bwb_files import TASKS, About

SESSIONS = ("0802ced5-33a3-405e-8336-b65ebc5cb07c", "09394481-8dd2-4d5c-9327-f2753ede92d7")
SEEDS = (43, 44, 45)
CHOICE, WHEEL, FORECAST, REGION = "ts1-choice", "ts1-wheel_speed", "ts2-forecasting", "ts3-unit_cosmos"
STARTS = 300.0 + 0.02 * np.arange(8)
TRIALS = 320 + np.arange(12)
N_UNITS = 6


def write_submission(
    root: Path,
    label: str = "model",
    skill: float = 0.8,
    seeds: Collection[int] = SEEDS,
    tasks: Collection[str] = (CHOICE, WHEEL, FORECAST, REGION),
) -> Path:
    """Write ``root/predictions/<label>`` of two recordings and ``root/truth``; returns ``root/predictions``.

    Args:
        skill: how much of the truth is in the predictions, 0 to 1. tasks: any of all eleven.
    """
    predictions, truth = root / "predictions", root / "truth"
    for task in tasks:
        kind = TASKS[task].kind
        build = "all_units" if kind in ("classes", "series") else "selected_units"
        for k, session in enumerate(SESSIONS if TASKS[task].has_recording else ("",)):
            rng = np.random.default_rng((sorted(TASKS).index(task), k))
            abouts = {seed: About(label, task, seed, session, build, "0.1.0") for seed in seeds}
            noises = {seed: np.random.default_rng((k, seed)) for seed in seeds}
            _WRITE[kind](predictions, truth, abouts, rng, noises, skill)
    return predictions


def _classes(predictions, truth, abouts, rng, noises, skill):
    task, session = _of(abouts)
    label = rng.integers(TASKS[task].width, size=len(TRIALS))
    files.write_trial_truth(truth, task, session, TRIALS, label)
    for seed, about in abouts.items():
        noise = noises[seed].normal(size=(len(TRIALS), TASKS[task].width))
        files.write_classes(predictions, about, TRIALS, skill * np.eye(TASKS[task].width)[label] + (1 - skill) * noise)


def _series(predictions, truth, abouts, rng, noises, skill):
    task, session = _of(abouts)
    licks = task == "ts1-licking_rate"
    values = rng.poisson(0.4, (len(TRIALS), 50)) if licks else rng.normal(size=(len(TRIALS), 50))
    mask = rng.random(values.shape) < 0.8 if TASKS[task].masked else None
    files.write_trial_truth(truth, task, session, TRIALS, values, mask)
    times = np.broadcast_to(np.arange(50) / 50, values.shape)
    for seed, about in abouts.items():
        guess = skill * values + (1 - skill) * noises[seed].normal(size=values.shape)
        files.write_series(predictions, about, TRIALS, guess - 1 if licks else guess, times)


def _rates(predictions, truth, abouts, rng, noises, skill):
    task, session = _of(abouts)
    counts = rng.poisson(0.5, (len(STARTS), TASKS[task].bins, N_UNITS))
    counts[..., 2] *= rng.random() < 0.5  # a unit may be silent
    files.write_rate_truth(truth, task, session, STARTS, counts, unit_ids(session))
    for seed, about in abouts.items():
        log_rate = np.log(0.5) + skill * (counts - 0.5) + 0.1 * noises[seed].normal(size=counts.shape)
        files.write_rates(predictions, about, STARTS, log_rate, unit_ids(session))


def _regions(predictions, truth, abouts, rng, noises, skill):
    task, _ = _of(abouts)
    units = [unit for session in SESSIONS for unit in unit_ids(session)]
    region = np.arange(len(units)) % 9  # the last one is no unit's
    files.write_region_truth(truth, task, units, region)
    for seed, about in abouts.items():
        probability = skill * np.eye(10)[region] + (1 - skill) * noises[seed].random((len(units), 10))
        files.write_regions(predictions, about, units, probability)


_WRITE = {"classes": _classes, "series": _series, "rates": _rates, "regions": _regions}


def _of(abouts: dict[int, About]) -> tuple[str, str]:
    one = next(iter(abouts.values()))
    return one.task, one.recording


def unit_ids(session: str) -> list[str]:
    return [f"{session}/unit-{k}" for k in range(N_UNITS)]


def file_of(predictions: Path, task: str, seed: int = 43, session: str = SESSIONS[0]) -> Path:
    recording = session if TASKS[task].has_recording else ""
    return predictions / "model" / task / recording / f"seed_{seed}.safetensors"


def change(path: Path, tensors: Callable[[dict], object] | None = None, words: dict | None = None) -> None:
    """Write a file again with other tensors (changed in place) or words (None: without it), by the library itself."""
    held = load_file(path)
    with safe_open(path, "np") as file:
        said = dict(file.metadata())
    if tensors is not None:
        tensors(held)
    said = {word: value for word, value in (said | (words or {})).items() if value is not None}
    path.unlink()
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, path, metadata=said)
