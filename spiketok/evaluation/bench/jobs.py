"""The jobs of a suite: a model with a seed on a track, trained and scored; each score is a file of its own.

    <folder>/cells/<track>/<model>-<seed>/train.json                         the run, its checkpoint, its test scores
    <folder>/cells/<track>/<model>-<seed>/<session>/<seconds>s-<row>.json    one protocol with one calibration
    <folder>/cells/<track>/<model>-<seed>/<session>/<seconds>s-cheats.json   what a decoder without spikes gets
    <folder>/cells/<track>/<model>-<seed>/<session>/nlb.json                 the benchmark's scores
    <folder>/costs/<track>/<model>-<seed>.json                               seconds, and the machine

What is unusual: there is no second way of training or of scoring here. A run is that of ``spiketok train`` with the
suite's settings and is found where one made it before; a cell is that of ``spiketok eval-xsession`` on it. A cell holds
no time and no machine: the same inputs give the same bytes, however often it was stopped. It is keyed by the digests of
the checkpoint and of the session and by how it was scored; one of other inputs is made again. Times lie apart.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from spiketok.errors import ArtefactError, UnfitError, UnknownNameError
from spiketok.evaluation.bench.data import Sessions, Told
from spiketok.evaluation.bench.suite import NLB, TRANSFER, Entry, Part, Suite, Track
from spiketok.evaluation.controls import predictors, without_spikes
from spiketok.evaluation.measured import put_measured, read_measured
from spiketok.evaluation.nlb_rates import score_rates, write_rates
from spiketok.evaluation.results import FLOOR, ROWS, TransferResult
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.recording.splits import SplitRule
from spiketok.settings import plain
from spiketok.storage.files import fingerprint
from spiketok.storage.records import checkpoint_digest, run_result
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import Run, load_run
from spiketok.training.config import RunConfig, load_config
from spiketok.training.loop import train
from spiketok.training.runs import device_of, make_shards, open_shards, run_path
from spiketok.training.sampling import SessionTokens
from spiketok.training.sessions import CALIBRATION
from spiketok.training.tasks.decode import Prediction

VERSION = 1  # of what cells mean: those of another one are made again
CHEATS = "cheats"  # the cell of what decoders without spikes get
EVAL_SEED = 0  # of eval-xsession: new rows, calibration windows


@dataclass(frozen=True)
class Job:
    """A model with a seed on a track."""

    track: Track
    entry: Entry
    seed: int
    config: RunConfig

    @property
    def place(self) -> Path:
        """Of its files, in ``cells`` and in ``costs``."""
        return Path(self.track.name) / f"{self.entry.name}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.track.name}, {self.entry.name}, seed {self.seed}"

    def rows(self) -> list[str]:
        """The rows of the transfer table that are scored, then the floor, then what cheats get."""
        wanted = {*self.track.protocols, self.entry.protocol}
        return [*(row for row in ROWS if row in wanted), FLOOR, CHEATS]


def jobs_of(suite: Suite, part: Part) -> list[Job]:
    """Every job, by track, model and seed.

    Raises:
        UnknownNameError, UsageError: a model, a setting, a task or a protocol is none.
    """
    for name in (*(p for t in part.tracks for p in t.protocols), *(e.protocol for e in part.entries if e.protocol)):
        if name not in (*ROWS, FLOOR):
            raise UnknownNameError("protocol", name, [*ROWS, FLOOR], f"suite '{suite.name}'")
    return [
        Job(track, entry, seed, load_config(entry.model, None, [*track.sets, *entry.sets, f"seed={seed}"], track.tasks))
        for track in part.tracks
        for entry in part.entries
        if track in suite.tracks_of(entry)
        for seed in part.seeds
    ]


class Cells:
    """The files of a suite's scores below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def _path(self, job: Job, session: str, name: str) -> Path:
        return self.folder / "cells" / job.place / session.partition("/")[2] / f"{name}.json"

    def get(self, job: Job, session: str, name: str, key: str) -> dict | None:
        return read_measured(self._path(job, session, name), key)

    def put(self, job: Job, session: str, name: str, key: str, facts: dict) -> None:
        put_measured(self._path(job, session, name), key, facts)

    # ---- costs ------------------------------------------------------------------------------------------------------

    def costs(self, job: Job) -> dict[str, dict]:
        """Seconds by kind of work, of all that was done and written, and on which machine; empty where none was."""
        return read_measured(self.folder / "costs" / f"{job.place}.json", str(job)) or {}

    @contextmanager
    def timed(self, job: Job, kind: str) -> Iterator[None]:
        """Add what the block takes to the job's costs, at its end."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        known = self.costs(job)
        before = known.get(kind, {"wall_s": 0.0, "cpu_s": 0.0})
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        known |= {kind: {name: before[name] + spent[name] for name in spent}, "machine": machine()}
        put_measured(self.folder / "costs" / f"{job.place}.json", str(job), known)


def machine() -> dict[str, object]:
    """On what it ran."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


# ---- one job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What is known of a job.

    Args:
        run: facts of its training: ``run``, ``checkpoint_digest``, ``steps``, ``parameters``, ``test`` (scores of the
            trained sessions by session and task).
        cells: scores by session, seconds of calibration (0 where there is none) and row: ``score`` by task, ``reason``.
    """

    run: dict[str, object]
    cells: dict[tuple[str, float, str], dict]


def run_job(
    workspace: Workspace, job: Job, sessions: Sessions, cells: Cells, told: Told, *, only_look: bool = False
) -> Scored | None:
    """Train and score what is not there yet.

    Args:
        only_look: do nothing; None where something is missing.

    Raises:
        SpiketokError: as ``train`` and ``eval-xsession``.
    """
    run_dir, trained = _trained(workspace, job, sessions, cells, told, only_look)
    if trained is None:
        return None
    scored: dict[tuple[str, float, str], dict] = {}
    if job.track.score == TRANSFER:
        work = _Transfer(workspace, job, cells, run_dir, trained["checkpoint_digest"])
        for length_s in job.track.calibration_s:
            for session in sessions.unseen:
                if (lacking := work.lacking(session, length_s)) and only_look:
                    return None
                if lacking:
                    told(f"{job}: {session.partition('/')[2]}, {length_s:g} s")
                    with cells.timed(job, "evaluate"):
                        work.score(session, length_s, lacking)
                scored |= {(session, length_s, row): work.get(session, length_s, row) for row in job.rows()}
    elif job.track.score == NLB:
        for session in sessions.trained:
            key = fingerprint([VERSION, NLB, trained["checkpoint_digest"], _digest(workspace, session)])
            found = cells.get(job, session, NLB, key)
            if found is None and only_look:
                return None
            if found is None:
                told(f"{job}: {session.partition('/')[2]}, rates of the valid split")
                with cells.timed(job, "evaluate"):
                    cells.put(job, session, NLB, key, {"score": {NLB: _nlb(workspace, run_dir, session)}, "reason": ""})
                found = cells.get(job, session, NLB, key)
            scored[session, 0.0, NLB] = found
    return Scored(trained, scored)


def _digest(workspace: Workspace, session: str) -> str:
    return str(workspace.facts(session)["digest"])


def _trained(
    workspace: Workspace, job: Job, sessions: Sessions, cells: Cells, told: Told, only_look: bool
) -> tuple[Path, dict | None]:
    """The run's folder, and the facts of its training."""
    key = fingerprint(
        [VERSION, job.config.fingerprint(), [[s, _digest(workspace, s)] for s in (*sessions.trained, *sessions.unseen)]]
    )
    found = cells.get(job, "", "train", key)
    if found is not None and checkpoint_digest(workspace.runs / found["run"]) == found["checkpoint_digest"]:
        return workspace.runs / found["run"], found
    if only_look:
        return Path(), None
    make_shards(workspace, [*sessions.trained, *sessions.unseen], job.config, told)
    opened = open_shards(workspace, sessions.trained, job.config)
    run_dir = run_path(workspace, job.config, opened)
    if not _is_finished(run_dir):
        told(f"{job}: training {run_dir.name}")
        with cells.timed(job, "train"):
            train(job.config, opened, run_dir, resume="auto")
    result, run = run_result(run_dir), load_run(run_dir)
    facts = {
        "run": run_dir.name,
        "checkpoint_digest": run.digest,
        "steps": run.total_steps if any(True for _ in run.model.parameters()) else 0,
        "parameters": run.model.n_fitted(),
        "test": result["test"],
    }
    cells.put(job, "", "train", key, facts)
    return run_dir, cells.get(job, "", "train", key)


def _is_finished(run_dir: Path) -> bool:
    with suppress(FileNotFoundError, ArtefactError):  # a training that goes on writes it anew
        run_result(run_dir)
        return True
    return False


def _nlb(workspace: Workspace, run_dir: Path, session: str) -> dict[str, float]:
    """The Neural Latents Benchmark's scores of a run on one of its sessions."""
    run, path = load_run(run_dir), workspace.store_path(session)
    stored = read_session(path)
    with tempfile.TemporaryDirectory(prefix="spiketok-bench-") as folder:
        rates = Path(folder) / "rates.h5"
        write_rates(run, stored, _digest(workspace, session), "valid", rates, device_of(run.config))
        return score_rates(stored, rates, round(run.config.data.bin_ms))


class _Transfer:
    """The transfer cells of one job."""

    def __init__(self, workspace: Workspace, job: Job, cells: Cells, run_dir: Path, checkpoint: str) -> None:
        self.workspace, self.job, self.cells, self.run_dir, self.checkpoint = workspace, job, cells, run_dir, checkpoint
        self.loaded: Run | None = None

    def _key(self, session: str, length_s: float, row: str) -> str:
        adapt = plain(asdict(self.job.config.transfer))
        of = [self.checkpoint, session, _digest(self.workspace, session), length_s, row, adapt, EVAL_SEED]
        return fingerprint([VERSION, TRANSFER, *of])

    def get(self, session: str, length_s: float, row: str) -> dict | None:
        return self.cells.get(self.job, session, f"{length_s:g}s-{row}", self._key(session, length_s, row))

    def lacking(self, session: str, length_s: float) -> list[str]:
        return [row for row in self.job.rows() if self.get(session, length_s, row) is None]

    def score(self, session: str, length_s: float, lacking: Sequence[str]) -> None:
        """Score the rows that are not there, each written as soon as all its tasks are scored."""
        if self.loaded is None:
            self.loaded = load_run(self.run_dir)
        run, workspace, config = self.loaded, self.workspace, self.job.config
        found: dict[str, dict[str, dict]] = {}

        def note(event: dict) -> None:
            row = event.get("protocol")
            if event["event"] != "score" or row not in lacking:
                return
            own = found.setdefault(row, {})
            own[event["task"]] = event
            if len(own) == len(run.tasks):
                self._put(session, length_s, row, own)

        # the floor alone is no request: the cheapest row is scored again beside it
        protocols = [row for row in lacking if row in ROWS] or [self.job.rows()[0]]
        (tokens,) = open_shards(workspace, [session], config)
        try:
            result = evaluate_transfer(
                run,
                [tokens],
                protocols=protocols,
                calibration_s=length_s,
                seed=EVAL_SEED,
                adapt=config.transfer,
                device=device_of(config),
                stored=lambda s: read_session(workspace.store_path(s)),
                trained=lambda chosen: open_shards(workspace, chosen, config),
                on_event=note,
            )
        except UnfitError as error:  # too little calibration, no test time: a fact of the session
            for row in lacking:
                reasons = {task.name: {"score": None, "reason": str(error)} for task in run.tasks}
                self._put(session, length_s, row, reasons)
        else:
            if CHEATS in lacking:
                self._put(session, length_s, CHEATS, _cheats(result, tokens))

    def _put(self, session: str, length_s: float, row: str, of: dict[str, dict]) -> None:
        facts = {
            "score": {task: event["score"] for task, event in of.items()},
            "reason": next((event["reason"] for event in of.values() if event["reason"]), ""),
        }
        self.cells.put(self.job, session, f"{length_s:g}s-{row}", self._key(session, length_s, row), facts)


def _cheats(result: TransferResult, tokens: SessionTokens) -> dict[str, dict]:
    """By decoded task, what controls without spikes get on the floor's samples, by their names."""
    run, (facts,) = result.run, result.sessions
    rule = run.config.split
    session = run.divide(tokens, SplitRule("block") if rule.kind == "day" else rule)
    session = replace(session, splits={CALIBRATION: facts.calibration, "test": facts.test})
    tasks, window_ns = {task.name: task for task in session.tasks}, run.config.data.window_ns
    floors = [c for c in result.cells if c.protocol == FLOOR and isinstance(c.answer, Prediction)]
    found: dict[str, dict] = {}
    for cell in floors:
        by = predictors(session, tasks[cell.task], window_ns)
        own = {name: without_spikes(cell.answer, one) for name, one in by.items()}
        found[cell.task] = {"score": own, "reason": ""}
    return found


def share(jobs: Sequence[Job], k: int, n: int) -> list[Job]:
    """Part ``k`` of ``n`` of the jobs: each n-th; a model's jobs stand side by side, so each part has some of each.

    >>> share(["a", "b", "c", "d", "e"], 2, 2)
    ['b', 'd']
    """
    return list(jobs[k - 1 :: n])
