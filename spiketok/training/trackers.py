"""Trackers of experiments beside the log of steps: TensorBoard, CSV, Weights & Biases, MLflow, trackio.

What they get is what ``metrics.jsonl`` has, the same numbers at the same steps; the scores of the test split come at
the end, as ``result.json`` has them. They are Lightning's loggers where it has one. A run that goes on, goes on in its
tracker: TensorBoard drops the steps that are done again, the others know the run by its name.

    <run>/trackers/tensorboard/   <run>/trackers/csv/   <run>/trackers/wandb/   <run>/trackers/mlflow.json
    <root>/mlflow.db              where MLFLOW_TRACKING_URI says nothing else
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from spiketok.errors import MissingExtraError, SpiketokError, UnknownNameError
from spiketok.storage.files import read_json, write_json
from spiketok.training.config import RunConfig
from spiketok.training.step_log import Event

PROJECT = "spiketok"
FOLDER = "trackers"  # in a run
# What each needs: any one of the modules of each row, and what pip calls the first of them.
NEEDS = {
    "tensorboard": [(("tensorboard", "tensorboardX"), "tensorboard")],
    "csv": [],
    "wandb": [(("wandb",), "wandb"), (("pytorch_lightning",), "pytorch-lightning")],
    "mlflow": [(("mlflow",), "mlflow"), (("pytorch_lightning",), "pytorch-lightning")],
    "trackio": [(("trackio",), "trackio")],
}

MLFLOW_REFUSES = re.compile(r"[^a-zA-Z0-9_/. -]+")  # in the name of a metric

Log = Callable[[dict[str, float], int], None]


def tracker_names(text: str | None) -> list[str]:
    """The trackers of ``--log``, each of which can be used here.

    Raises:
        UnknownNameError: one is none. MissingExtraError: what it needs is not installed.
    """
    names = list(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))
    for name in names:
        if name not in NEEDS:
            raise UnknownNameError("tracker", name, NEEDS)
        lacking = [package for modules, package in NEEDS[name] if not any(map(find_spec, modules))]
        if lacking:
            verb = "is" if len(lacking) == 1 else "are"
            needs = f"--log {name} needs {' and '.join(lacking)}, which {verb} not installed"
            message = f"{needs}: pip install {' '.join(lacking)}"
            raise MissingExtraError(message)
    return names


@contextlib.contextmanager
def tracking(names: Sequence[str], run_dir: Path, config: RunConfig) -> Iterator[Callable[[Event], None]]:
    """Log a training to trackers; they are told of its end, also where it is stopped.

    Yields:
        the listener for ``training.train(on_event=...)``.
    """
    logs: list[Log] = []
    with contextlib.ExitStack() as open_ones:

        def listen(event: Event) -> None:
            if event["event"] == "start":
                logs.extend(
                    open_ones.enter_context(_opened(name, run_dir, config, int(event["step"]))) for name in names
                )
                return
            values = values_of(event)
            for log in logs if values else ():
                log(values, int(event["step"]))

        yield listen


def values_of(event: Mapping[str, object]) -> dict[str, float]:
    """What a tracker gets of an event; empty of one that no tracker has.

    >>> values_of({"event": "step", "step": 10, "epoch": 0, "lr": 0.5, "windows_per_s": 9.5, "loss": {"total": 2.0}})
    {'loss/total': 2.0, 'lr': 0.5, 'epoch': 0, 'windows_per_s': 9.5}
    """
    if event["event"] == "step":
        losses = {f"loss/{name}": value for name, value in event["loss"].items()}
        return losses | {key: event[key] for key in ("lr", "epoch", "windows_per_s")}
    word = {"valid": "valid", "done": "test"}.get(event["event"])
    return {
        f"{word}/{session}/{task}/{name}": value
        for session, scores in (event["scores"].items() if word else ())
        for task, score in scores.items()
        for name, value in score.items()
        if isinstance(value, int | float)
    }


def _opened(name: str, run_dir: Path, config: RunConfig, step: int) -> contextlib.AbstractContextManager[Log]:
    """A tracker, which may refuse in words of its own: its place, its account.

    Raises:
        SpiketokError: it did.
    """
    tracker = _OPEN[name](run_dir, config, step)
    try:
        log = tracker.__enter__()
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        message = f"--log {name} cannot begin: {said}"
        raise SpiketokError(message) from error
    stack = contextlib.ExitStack()
    stack.push(tracker.__exit__)
    return _entered(log, stack)


@contextlib.contextmanager
def _entered(log: Log, stack: contextlib.ExitStack) -> Iterator[Log]:
    with stack:
        yield log


# ---- one each -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _tensorboard(run_dir: Path, config: RunConfig, step: int) -> Iterator[Log]:
    from lightning_fabric.loggers import TensorBoardLogger

    purge = {"purge_step": step + 1} if step else {}
    logger = TensorBoardLogger(run_dir / FOLDER, name="tensorboard", version="", **purge)
    try:
        yield logger.log_metrics
    finally:
        logger.finalize("success")


@contextlib.contextmanager
def _csv(run_dir: Path, config: RunConfig, step: int) -> Iterator[Log]:
    from lightning_fabric.loggers import CSVLogger

    folder = run_dir / FOLDER
    part = sum(1 for _ in folder.glob("csv/version_*"))  # of a run that goes on: a file a command
    logger = CSVLogger(folder, name="csv", version=part, flush_logs_every_n_steps=1)
    try:
        yield logger.log_metrics
    finally:
        logger.finalize("success")


@contextlib.contextmanager
def _wandb(run_dir: Path, config: RunConfig, step: int) -> Iterator[Log]:
    """``WANDB_MODE=offline`` writes beside the run alone, for ``wandb sync``; ``WANDB_PROJECT`` names the project."""
    from pytorch_lightning.loggers import WandbLogger

    folder = run_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name=run_dir.name,
        id=run_dir.name,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        save_dir=folder,
        config=config.to_dict(),
    )
    try:
        yield logger.log_metrics
    finally:
        logger.experiment.finish(quiet=True)


@contextlib.contextmanager
def _mlflow(run_dir: Path, config: RunConfig, step: int) -> Iterator[Log]:
    """``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` name the place; else a file beside the runs."""
    from pytorch_lightning.loggers import MLFlowLogger

    known = run_dir / FOLDER / "mlflow.json"
    place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir.resolve().parents[1] / 'mlflow.db'}"
    logger = MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=run_dir.name,
        tracking_uri=place,
        run_id=read_json(known)["run_id"] if known.exists() else None,
    )
    write_json(known, {"run_id": logger.run_id})

    def log(values: dict[str, float], at: int) -> None:
        logger.log_metrics({MLFLOW_REFUSES.sub("_", name): value for name, value in values.items()}, at)

    try:
        yield log
    finally:
        logger.finalize("success")


@contextlib.contextmanager
def _trackio(run_dir: Path, config: RunConfig, step: int) -> Iterator[Log]:
    """On this machine (``TRACKIO_DIR``), as trackio does where no Space is named."""
    import trackio

    trackio.init(project=PROJECT, name=run_dir.name, config=config.to_dict(), resume="allow")
    try:
        yield lambda values, at: trackio.log(values, step=at)
    finally:
        trackio.finish()


_OPEN = {"tensorboard": _tensorboard, "csv": _csv, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}
