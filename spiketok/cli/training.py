"""One training of the command ``train``, or several in turn; and how they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import typer

from spiketok.cli.console import complain, say, show_json, show_rows, training_table
from spiketok.cli.sweep import Variant, summary
from spiketok.errors import SpiketokError, UnfitError, UsageError
from spiketok.settings import typed
from spiketok.storage.records import checkpoint_digest, run_result, seal_predictions
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.training.checkpoints import Run
    from spiketok.training.config import RunConfig
    from spiketok.training.loop import TrainResult

T = TypeVar("T")


@dataclass(frozen=True)
class How:
    """What holds for every run of a command."""

    sessions: str | None
    hold_out: str | None
    tokenize: bool
    save_predictions: bool
    resume: Literal["auto", "must", "never"]
    base: Run | None
    latents: Run | None
    trackers: list[str]


@dataclass(frozen=True)
class Done:
    """A run that was trained and scored."""

    config: RunConfig
    run_dir: Path
    result: TrainResult
    held_out: list[str]

    @property
    def rows(self) -> list[dict]:
        return [
            {"session": session, "task": task, **plain_scores(score)}
            for session, scores in self.result.scores.items()
            for task, score in scores.items()
        ]


def train_one(workspace: Workspace, config: RunConfig, how: How) -> Done | None:
    """Train one run, or go on with it; None in a process that only helps the first one."""
    from spiketok.training.latents import with_latents
    from spiketok.training.loop import train as run_training
    from spiketok.training.predictions import write_predictions
    from spiketok.training.runs import choose_training, open_shards, opened_shards, run_path
    from spiketok.training.trackers import tracking

    chosen = choose_training(workspace, config, how.sessions, how.hold_out)
    for line in chosen.left_out:
        say(f"left out: {line}")
    if chosen.held_out and how.hold_out is None:
        last = "the last session of each subject that has several; otherwise: --hold-out GLOB or none"
        say(f"held out for eval-xsession: {', '.join(chosen.held_out)} ({last})")
    named = how.sessions is not None
    making = say if how.tokenize else None
    opened, unfit = opened_shards(workspace, chosen.sessions, config, named=named, made=making)
    if how.tokenize and chosen.held_out:
        unfit |= opened_shards(workspace, chosen.held_out, config, named=named, made=making)[1]
    taught = how.latents
    if taught is not None:
        read = open_shards(workspace, [tokens.id for tokens in opened if tokens.id in taught.own], taught.config)
        opened = with_latents(opened, taught, read)
        say(f"latents of {len(opened)} sessions by {taught.path.name}")

    def run_on(opened: list) -> TrainResult:
        nonlocal run_dir
        run_dir = run_path(workspace, config, opened)
        with tracking(how.trackers, run_dir, config) as log, training_table() as draw:

            def listen(event: dict) -> None:
                log(event)
                draw(event)

            return run_training(
                config, opened, run_dir, resume=how.resume, on_event=listen, base=how.base, latents=taught
            )

    run_dir = Path()
    result = without_unfit(run_on, opened, unfit, named=named)
    if result.rank != 0:
        return None  # one of several devices: the first one speaks
    if result.resumed_from == result.total_steps:
        say("nothing was left to train")
    if how.save_predictions:
        written = [write_predictions(run_dir / "predictions", s, answers) for s, answers in result.answers.items()]
        seal_predictions(run_dir / "predictions", checkpoint_digest(run_dir))
        say(f"{sum(map(len, written))} files of predictions in {run_dir / 'predictions'}")
    return Done(config, run_dir, result, chosen.held_out)


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


def without_unfit(work: Callable[[list], T], opened: list, unfit: dict[str, str], *, named: bool) -> T:
    """What ``work`` makes of the sessions that can serve; each of the others is said to be left out.

    Args:
        opened: shards of sessions. unfit: why others were left out before. named: somebody chose these very sessions.

    Raises:
        UnfitError: one that was named cannot serve, or none can.
    """
    while True:
        for why in unfit.values():
            say(f"left out: {why}")
        try:
            return work(opened)
        except UnfitError as error:
            if named or len(error.sessions) >= len(opened):
                raise
            unfit = error.sessions
            opened = [tokens for tokens in opened if tokens.id not in unfit]


def plain_scores(scores: dict) -> dict:
    """The single numbers of a score, its headline first; None where one does not exist."""
    return {key: value for key, value in scores.items() if value is None or isinstance(value, int | float)}
