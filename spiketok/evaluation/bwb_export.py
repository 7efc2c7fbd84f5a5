"""A run's predictions in the windows of BrainWideBench, as the files that its scorer reads.

    <label>/ts1-<task>/<recording>/seed_<N>.safetensors     behaviours and classes in the test windows of trials
    <label>/ts2-<task>/<recording>/seed_<N>.safetensors     log rates of held-out units, and of the last five bins

Which of the tasks a run answers follows from its questions: ``decode`` of a signal that is called as a task,
``classify`` of a trial column that is, and ``population`` for both of TS2. Regions (TS3) are written by
:mod:`spiketok.evaluation.region_probe`, of vectors of units.

What is unusual: windows and their float64 starts are the benchmark's (``sources.catalogue.bwb.windows``), each is
answered by itself, in bins that begin with it. What a run always hides (its own held-out units, forward bins) stays
hidden. Licks are decoded as counts a bin and written as their log; where fewer than ``LEAST_LICKS`` are said, of that.
A class that the training time did not have gets a logit far below the others. A file names the checkpoint and the
session that it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.nlb_rates import seen_in_training
from spiketok.evaluation.own_windows import batches_at, require_no_calibration
from spiketok.evaluation.scoring.bwb_files import TASKS, About, read_header, write_classes, write_rates, write_series
from spiketok.models.batch import Asked, Batch
from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.sources.catalogue.bwb import windows as bwb
from spiketok.storage.locks import beside, locked
from spiketok.storage.store import read_attributes, read_session
from spiketok.training.checkpoints import Run
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.base import Task
from spiketok.training.tasks.classify import Classify
from spiketok.training.tasks.decode import Decode
from spiketok.training.tasks.population import COUNTS, Population

FILTERING, VERSION = "brainset.unit_filtering", "brainset.derived_version"  # of a session's info
SELECTED = "selected_units"  # the build of TS2 and TS3
WINDOW_MS = 1000.0
LEAST_LICKS = 1e-3  # a bin
BELOW = 20.0  # logits of a class that the training time did not have, under the lowest
AT_ONCE = 2048  # windows that are baked together
RATES = ("ts2-co_smoothing", "ts2-forecasting")
MODES = {"ts2-co_smoothing": "unit", "ts2-forecasting": "forward"}  # what models are told of what is hidden


class Build(NamedTuple):
    """A build of the benchmark's files: by which filter their units were chosen, and its version."""

    unit_filtering: str
    dataset_version: str


@dataclass(frozen=True)
class Written:
    """A file of predictions.

    Args:
        n: trials or windows. state: ``"new"``, ``"replaced"``, or ``"already"``: it was there, of the same session and
            checkpoint. seen: of its windows, how many touch the run's training time.
    """

    task: str
    path: Path
    n: int
    state: str
    seen: int


def build_of(sessions: Sequence[Session]) -> Build:
    """The build that sessions say they are of.

    Raises:
        DataError: a session says of none, or two are of different builds.
    """
    found = {}
    for session in sessions:
        if not {FILTERING, VERSION} <= session.info.keys():
            message = (
                f"{session.id} is no file of BrainWideBench: its info names no {FILTERING} and {VERSION}, which its "
                "prediction files state"
            )
            raise DataError(message)
        found.setdefault(Build(session.info[FILTERING], session.info[VERSION]), session.id)
    if len(found) != 1:
        said = "; ".join(f"{session} is of {' '.join(build)}" for build, session in found.items()) or "no session"
        message = f"predictions are of one build of BrainWideBench: {said}"
        raise DataError(message)
    return next(iter(found))


def answered(run: Run) -> dict[str, Task]:
    """By id of the benchmark's tasks, the question of the run that answers it.

    Raises:
        UsageError: none does, or the run's windows are not those of the benchmark.
    """
    found: dict[str, Task] = {}
    for task in run.tasks:
        if isinstance(task, Population):
            found |= dict.fromkeys(RATES, task)
        named = task.about if isinstance(task, Classify) else task.target.name if isinstance(task, Decode) else ""
        if f"ts1-{named}" in TASKS and isinstance(task, Classify) == (named in bwb.N_CLASSES):
            found[f"ts1-{named}"] = task
    if not found:
        asked = ", ".join(task.name for task in run.tasks)
        message = (
            f"{run.path.name} was asked for {asked}, which is no task of BrainWideBench: population, classify:choice, "
            "reward or stimulus_contrast, or decode of a series, as decode:wheel_speed; regions are written by "
            "spiketok embed RUN --suite bwb --predictions FOLDER"
        )
        raise UsageError(message)
    data = run.config.data
    if data.window_ms != WINDOW_MS or (RATES[0] in found and data.bin_ms != bwb.BIN_S * 1e3):
        message = (
            f"{run.path.name} has windows of {data.window_ms:g} ms in bins of {data.bin_ms:g}, BrainWideBench has "
            f"{WINDOW_MS:g} ms in bins of {bwb.BIN_S * 1e3:g}: train with --set data.window_ms=1000 --set "
            "data.bin_ms=20"
        )
        raise UsageError(message)
    require_no_calibration(run, "the windows of BrainWideBench")
    return found


def export_session(
    run: Run,
    tokens: SessionTokens,
    stored: Path,
    root: Path,
    label: str,
    device: torch.device | str = "cpu",
    *,
    overwrite: bool = False,
    left_out: Callable[[str], None] = lambda _: None,
) -> Iterator[Written]:
    """Write the file of each task that the run answers and that the session has.

    Args:
        tokens: the session's shards, as the run was trained on them. stored: the session in the store.
        root: the folder of predictions. label: the model's name. left_out: told, in a line, of a task that the session
            has not. overwrite: replace files that are there.

    Raises:
        UsageError: another file is there. DataError: the session is none of the benchmark.
    """
    session, digest = read_session(stored), read_attributes(stored)["digest"]
    build, train = build_of([session]), run.divide(tokens, None, run.config.data.train_share).splits["train"]
    made_of = {"run_digest": run.digest, "session_digest": digest, "context_window": "1.0", "bin_size": str(bwb.BIN_S)}
    for name, task in answered(run).items():
        about = About(label, name, run.config.seed, bwb.eid_of(session), *build, made_of)
        if name in RATES and build.unit_filtering != SELECTED:
            left_out(f"{name} is of the build {SELECTED}, the session of {build.unit_filtering}")
            continue
        try:
            if name in RATES:
                start_s = bwb.population_windows(session, "test")
            else:
                windows = bwb.task_windows(session, name.removeprefix("ts1-"), "test")
                start_s = windows.start
        except DataError as error:
            left_out(f"{name}: {error}")
            continue
        path = about.path(root)
        with locked(beside(path), str(path), wait=True):
            state = "replaced" if path.exists() else "new"
            if state == "replaced" and not overwrite:
                said, _ = read_header(path)
                if {key: said.get(key) for key in made_of} != made_of:
                    message = f"{path} is there already, and was made of something else: --overwrite replaces it"
                    raise UsageError(message)
                state = "already"
            elif name in RATES:
                rate, units = _log_rates(run, task, name, session, digest, start_s, device)
                ids = [f"{about.recording}/{unit}" for unit in session.units.id[units].tolist()]
                write_rates(root, about, start_s, rate, ids)
            elif name.removeprefix("ts1-") in bwb.N_CLASSES:
                write_classes(root, about, windows.trial_id, _logits(run, task, session, digest, windows, device))
            else:
                values = _series(run, task, session, digest, windows, device)
                write_series(root, about, windows.trial_id, values, windows.timestamps)
        seen = seen_in_training(_in_ns(start_s), run.config.data.window_ns, train)
        yield Written(name, path, len(start_s), state, seen)


def _in_ns(seconds: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(seconds) * NS_PER_S).astype(np.int64)


def _batches(run: Run, session: Session, digest: str, start_ns: np.ndarray, device) -> Iterator[tuple[slice, Batch]]:
    """Batches of windows, in which the population alone is asked, each with its rows of ``start_ns``."""
    hiding = [task for task in run.tasks if isinstance(task, Population)]
    for first in range(0, len(start_ns), AT_ONCE):
        row = first
        for batch in batches_at(
            run, session, digest, start_ns[first : first + AT_ONCE], hiding, rule="bwb", device=device
        ):
            yield slice(row, row + len(batch)), batch
            row += len(batch)


# ---- TS1 ------------------------------------------------------------------------------------------------------------


def _answers(
    run: Run, task: Task, session: Session, digest: str, start_s: np.ndarray, time_s: np.ndarray, device
) -> np.ndarray:
    """float64 ``[n, Q, C]``: what the run says at Q times of each window.

    Args:
        start_s: ``[n]``. time_s: ``[n, Q]``, from a window's start.
    """
    once, first, back = np.unique(_in_ns(start_s), return_index=True, return_inverse=True)
    last_ns = run.config.data.window_ns - 1
    since_ns = np.clip(_in_ns(time_s[first]), 0, last_ns)
    size, n_queries = run.model.heads[task.name].size, time_s.shape[1]
    is_label, said = isinstance(task, Classify), np.empty((len(once), n_queries, size))
    with torch.inference_mode():
        for rows, batch in _batches(run, session, digest, once, device):
            own_ns, n = since_ns[rows], len(batch)
            on = batch.session_B.device
            asked = Asked(
                time=torch.from_numpy((own_ns.reshape(-1) / NS_PER_S).astype(np.float32)).to(on),
                offset=(torch.arange(n + 1) * n_queries).to(on),
                ns=(batch.start_ns[:, None] + own_ns).reshape(-1),
                target=torch.zeros(n * n_queries, *(() if is_label else (size,))).to(on),
                weight=torch.ones(n * n_queries).to(on),
            )
            asked = replace(asked, target=asked.target.long()) if is_label else asked
            output, _ = run.model.predict(replace(batch, asked={task.name: asked}))
            said[rows] = output[task.name].double().cpu().numpy().reshape(n, n_queries, size)
    return said[back]


def _series(run: Run, task: Decode, session: Session, digest: str, windows: bwb.TaskWindows, device) -> np.ndarray:
    """float64 ``[n, 50]``, in the measure of the benchmark's target."""
    said = _answers(run, task, session, digest, windows.start, windows.timestamps, device)
    value = (said * np.array(task.target.std) + np.array(task.target.mean))[..., 0]
    return np.log(np.maximum(value, LEAST_LICKS)) if windows.task == bwb.COUNTS else value


def _logits(run: Run, task: Classify, session: Session, digest: str, windows: bwb.TaskWindows, device) -> np.ndarray:
    """float64 ``[n, K]``, in the order of the benchmark's classes."""
    n_classes = bwb.N_CLASSES[windows.task]
    place = [int(word) for word in task.classes]
    at_s = {"start": 0.0, "middle": 0.5, "stop": 1.0}[task.config.at] + task.config.after_ms / 1e3
    said = _answers(run, task, session, digest, windows.start, np.full((len(windows), 1), at_s), device)[:, 0]
    logits = np.repeat(said.min(1, keepdims=True) - BELOW, n_classes, axis=1)
    logits[:, place] = said
    return logits


# ---- TS2 ------------------------------------------------------------------------------------------------------------


def _log_rates(
    run: Run, task: Population, name: str, session: Session, digest: str, start_s: np.ndarray, device
) -> tuple[np.ndarray, np.ndarray]:
    """float16 ``[w, T, U]``, the log rates that are scored, and rows ``[U]`` of the units."""
    held = bwb.held_out_units(session, "test")
    smoothing = name == RATES[0]
    units = np.flatnonzero(held) if smoothing else np.arange(len(held))
    bins = slice(None) if smoothing else slice(-bwb.N_FORECAST, None)
    once, back = np.unique(_in_ns(start_s), return_inverse=True)
    found = np.empty((len(once), bwb.N_BINS if smoothing else bwb.N_FORECAST, len(units)), np.float16)
    with torch.inference_mode():
        for rows, batch in _batches(run, session, digest, once, device):
            asked = batch.asked[task.name]
            always = batch.hidden.get(COUNTS)
            hidden = torch.zeros_like(asked.target, dtype=torch.bool) if always is None else always.clone()
            shaped = hidden.unflatten(0, (len(batch), bwb.N_BINS))
            if smoothing:
                shaped[:, :, torch.from_numpy(held)] = True
            else:
                shaped[:, bins] = True
            posed = replace(batch, hidden=batch.hidden | {COUNTS: hidden}, mode=MODES[name])
            output, _ = run.model.predict(posed)
            rate = output[task.name].double().cpu().numpy().reshape(len(batch), bwb.N_BINS, len(held))
            found[rows] = rate[:, bins][:, :, units]
    return found[back], units
