"""The commands ``train`` and ``eval-xsession``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import progress, say, show_json, show_rows, training_table
from spiketok.cli.options import Json, Root, Sessions
from spiketok.errors import UsageError, require
from spiketok.storage.workspace import Workspace


def train(
    model: Annotated[str | None, typer.Option("--model", "-m", help="linear, ndt1 or poyo.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the run.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as optim.steps=500.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="KIND[:NAME]", help="What is asked, as decode:cursor_vel; several with commas."),
    ] = None,
    sessions: Sessions = None,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", metavar="GLOB", help="Leave these sessions out, for eval-xsession.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Insist on going on with an interrupted run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an earlier run reached.")] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Train a model on the shards of the chosen sessions; the same command goes on with an interrupted run."""
    if resume and restart:
        message = "--resume and --restart exclude each other"
        raise UsageError(message)
    require("torch", "train", "training")
    from spiketok.training.config import load_config
    from spiketok.training.loop import train as run_training
    from spiketok.training.runs import open_training_shards, run_path

    workspace = Workspace.locate(root)
    resolved = load_config(model, config, sets, tasks)
    readers, left_out = open_training_shards(workspace, resolved, sessions, hold_out)
    for line in left_out:
        say(f"left out: {line}")
    run_dir = run_path(workspace, resolved, readers)
    wanted = "must" if resume else "never" if restart else "auto"
    with training_table() as listen:
        result = run_training(resolved, readers, run_dir, resume=wanted, on_event=listen)
    if result.rank != 0:
        return  # one of several devices: the first one speaks
    if result.resumed_from:
        done = result.resumed_from == result.total_steps
        say("nothing was left to train" if done else f"went on from step {result.resumed_from}")
    rows = [{"session": name, **_plain_scores(scores)} for name, scores in result.scores.items()]
    if as_json:
        show_json({"run": str(run_dir), "steps": result.step, "test": rows})
        return
    if rows:
        show_rows(f"{resolved.model}: scores on the test split", list(rows[0]), rows)
    else:
        say("no session has test time under this split rule: nothing was scored")
    print(f"run {run_dir}")
    say(f"next: spiketok eval-xsession {run_dir}")


def _plain_scores(scores: dict) -> dict:
    """The single numbers of a score, R2 first."""
    return {key: value for key, value in scores.items() if isinstance(value, int | float)}


def eval_xsession(
    run: Annotated[str, typer.Argument(help="A run's folder or name, or a model's name for its newest run.")],
    sessions: Sessions = None,
    protocols: Annotated[
        str, typer.Option("--protocols", help="Comma-separated: zero_shot, zero_gradient, identity_only, full.")
    ] = "zero_shot,identity_only,full",
    calibration_s: Annotated[float, typer.Option("--calibration-s", help="Labelled seconds to adapt on.")] = 30.0,
    within: Annotated[bool, typer.Option("--within", help="Allow sessions that the model was trained on.")] = False,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="transfer.KEY=VALUE", help="How the model adapts.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report.", show_default="RUN/xsession")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure transfer to sessions that the model never saw, beside a linear decoder on the same calibration."""
    require("torch", "train", "evaluation")
    from spiketok.evaluation.report import write_report
    from spiketok.evaluation.transfer import evaluate_transfer
    from spiketok.training.checkpoints import load_run
    from spiketok.training.config import with_transfer
    from spiketok.training.runs import device_of, find_run, open_transfer_shards

    workspace = Workspace.locate(root)
    run_dir = find_run(workspace, run)
    loaded = load_run(run_dir)
    readers, remarks, within = open_transfer_shards(workspace, loaded, sessions, within=within)
    for line in remarks:
        say(f"note: {line}")
    names = [p.strip() for p in protocols.split(",") if p.strip()]
    with progress("eval-xsession", None, "cells") as advance:
        result = evaluate_transfer(
            loaded,
            readers,
            protocols=names,
            calibration_s=calibration_s,
            within=within,
            adapt=with_transfer(loaded.config, sets or []).transfer,
            device=device_of(loaded.config),
            on_event=lambda event: advance(1, str(event.get("cell", ""))),
        )
    folder = out or run_dir / "xsession"
    report = write_report(result, folder)
    if as_json:
        show_json(report.summary)
        return
    show_rows(report.title, report.columns, report.rows)
    for line in report.remarks:
        say(line)
    print(f"report {folder / 'report.html'}")
