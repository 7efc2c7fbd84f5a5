"""One training of the command ``train``, or several in turn; and how they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from spiketok.cli.console import complain, say, show_json, show_rows, training_table
from spiketok.cli.sweep import Variant, summary
from spiketok.errors import SpiketokError, UsageError
from spiketok.settings import typed
from spiketok.storage.records import checkpoint_digest, run_result, seal_predictions
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.training.config import RunConfig
    from spiketok.training.loop import TrainResult
    from spiketok.training.requests import Asked


@dataclass(frozen=True)
class How:
    """What holds for every run of a command."""

    asked: Asked
    tokenize: bool
    save_predictions: bool
    resume: Literal["auto", "must", "never"]
    trackers: list[str]


@dataclass(frozen=True)
class Done:
    """A run that was trained and scored."""

    config: RunConfig
    result: TrainResult
    held_out: list[str]

    @property
    def run_dir(self) -> Path:
        return self.result.run_dir

    @property
    def rows(self) -> list[dict]:
        return [
            {"session": session, "task": task, **plain_scores(score)}
            for session, scores in self.result.scores.items()
            for task, score in scores.items()
        ]


def train_one(workspace: Workspace, config: RunConfig, how: How) -> Done | None:
    """Train one run, or go on with it; None in a process that only helps the first one."""
    from spiketok.training.predictions import write_predictions
    from spiketok.training.requests import fulfil, training_request
    from spiketok.training.trackers import tracking

    @contextmanager
    def listening(run_dir: Path) -> Iterator[Callable[[dict], None]]:
        with tracking(how.trackers, run_dir, config) as log, training_table() as draw:

            def listen(event: dict) -> None:
                log(event)
                draw(event)

            yield listen

    request = training_request(workspace, how.asked, config, tokenize=how.tokenize, told=say)
    result = fulfil(workspace, request, resume=how.resume, told=say, listening=listening)
    if result.rank != 0:
        return None  # one of several devices: the first one speaks
    if result.resumed_from == result.total_steps:
        say("nothing was left to train")
    run_dir = result.run_dir
    if how.save_predictions:
        written = [write_predictions(run_dir / "predictions", s, answers) for s, answers in result.answers.items()]
        seal_predictions(run_dir / "predictions", checkpoint_digest(run_dir))
        say(f"{sum(map(len, written))} files of predictions in {run_dir / 'predictions'}")
    return Done(config, result, request.held_out)


def tell_one(done: Done, as_json: bool) -> None:
    from spiketok.sources.catalogue.nlb.benchmark import BENCHMARKS
    from spiketok.training.tasks.base import reason_lines

    rows, run_dir, result = done.rows, done.run_dir, done.result
    if as_json:
        findings = run_result(run_dir).get("findings", [])  # a run of before it was recorded has none
        told = {"run": str(run_dir), "steps": result.step, "held_out": done.held_out, "test": rows}
        show_json(told | {"findings": findings})
        return
    if not rows:
        say("no session has test time under this split rule: nothing was scored")
    for task in dict.fromkeys(row["task"] for row in rows):
        told = [row for row in rows if row["task"] == task]
        show_rows(f"{done.config.model}: scores on the test split", list(told[0]), told)
        for line in reason_lines({session: of[task] for session, of in result.scores.items() if task in of}):
            say(line)
    print(f"run {run_dir}")
    if any(row["task"] == "population" and row["session"].split("/")[0] in BENCHMARKS for row in rows):
        say(f"scored as the Neural Latents Benchmark does: spiketok export {run_dir.name} --to nlb --out FOLDER")
    say(f"next: spiketok eval-xsession {run_dir}")


# ---- several runs ---------------------------------------------------------------------------------------------------


def require_apart(several: list[Variant], resolved: list[RunConfig]) -> None:
    """Raise UsageError where two of several runs would be one and the same, or each would start processes."""
    known: dict[str, Variant] = {}
    for variant, config in zip(several, resolved, strict=True):
        other = known.setdefault(config.fingerprint(), variant)
        if other is not variant:
            message = f"'{other}' and '{variant}' make the same run: what they set shapes no checkpoint"
            raise UsageError(message)
        if len(several) > 1 and config.optim.devices > 1:
            message = (
                f"optim.devices is {config.optim.devices}: one run at a time, by --set in place of --seeds or --sweep"
            )
            raise UsageError(message)


def train_several(
    workspace: Workspace, chosen: list[tuple[Variant, RunConfig]], how: How, part: str | None, as_json: bool
) -> None:
    """Train each in turn, and tell mean and SEM over seeds; one that fails does not keep the others from theirs.

    Raises:
        typer.Exit: with 1, where one failed.
    """
    from spiketok.pipeline.run_table import means_of

    done: list[tuple[Variant, dict[str, dict[str, float]]]] = []
    rows, failed, held_out = [], 0, []
    for k, (variant, config) in enumerate(chosen):
        say(f"run {k + 1} of {len(chosen)}: {variant}")
        try:
            one = train_one(workspace, config, how)
        except UsageError:
            raise
        except SpiketokError as error:
            complain(f"{variant}: {error}")
            failed += 1
            continue
        means = means_of(run_result(one.run_dir))
        done.append((variant, means))
        held_out = one.held_out
        seed = {} if variant.seed is None else {"seed": variant.seed}
        settings = {key: typed(value) for key, value in variant.settings}
        rows.append({"run": one.run_dir.name, **settings, **seed, "steps": one.result.step, "test": means})
    found = summary(done)
    if as_json:
        show_json({"runs": rows, "summary": found, "held_out": held_out, "failed": failed})
    else:
        columns = list(dict.fromkeys(key for row in rows for key in row if key != "test"))
        for row in rows:
            heads = [(task, *next(iter(own.items()))) for task, own in row["test"].items() if own]
            row |= {f"{task} {metric}": value for task, metric, value in heads}
            columns += [key for key in row if key not in (*columns, "test")]
        if rows:
            show_rows("runs, means over sessions of the test split", columns, rows)
        if found:
            show_rows("over seeds", list(found[0]), found)
        if part is not None:
            say(f"part {part} is done; when all are, the same command without --part tells of all of them")
    if failed:
        raise typer.Exit(1)


def plain_scores(scores: dict) -> dict:
    """The single numbers of a score, its headline first; None where one does not exist."""
    return {key: value for key, value in scores.items() if value is None or isinstance(value, int | float)}
