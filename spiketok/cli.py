"""The command line: parse, one library call, print.

Everything heavy is imported inside the command that needs it, so that ``spiketok --help`` answers at once.
Exit codes: 0 all went well, 1 an item failed, 2 the request was wrong.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok import __version__, data_commands, fetch_commands, provenance_commands, split_commands, token_commands
from spiketok.console import complain, progress, say, show_json, show_rows, training_table
from spiketok.errors import SpiketokError, UnknownNameError, UsageError, require
from spiketok.options import Json, Root, Sessions, print_rows
from spiketok.workspace import Workspace

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="spiketok",
    help="From public recordings of spiking neurons to exact tokens, trained decoders and cross-session scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"spiketok {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; ``main`` takes ``--debug`` out of the line before it is parsed."""


# ---- data -----------------------------------------------------------------------------------------------------------

for command in (fetch_commands.fetch, data_commands.datasets, data_commands.ingest):
    app.command()(command)


# ---- simulate -------------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the NWB files.", show_default="ROOT/simulated")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="center_out or random_target.")] = "center_out",
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Number of subjects.")] = 2,
    sessions: Annotated[int, typer.Option("--sessions-per-subject", min=1, help="Days a subject.")] = 4,
    units: Annotated[int, typer.Option("--units", min=1, help="Units a session.")] = 60,
    duration_s: Annotated[float, typer.Option("--duration-s", help="Length of a session in seconds.")] = 300.0,
    turnover: Annotated[float | None, typer.Option("--turnover", help="Share of the units replaced a day.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same bytes.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other field of SimulationConfig.")
    ] = None,
    ingest_too: Annotated[bool, typer.Option("--ingest/--files-only", help="Also normalize into the store.")] = True,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Simulate sessions of one or more subjects as NWB files, with the ground truth beside them."""
    from spiketok.datasets.synthetic import SimulationConfig
    from spiketok.datasets.synthetic import simulate as simulate_files

    config = SimulationConfig(
        task=task, n_subjects=subjects, sessions_per_subject=sessions, n_units=units, duration_s=duration_s, seed=seed
    )
    if turnover is not None:
        config = replace(config, turnover=turnover)
    for text in settings or []:
        config = _with_setting(config, text)
    workspace = Workspace.locate(root)
    folder = out or workspace.simulated
    with progress("simulate", subjects * sessions, "sessions") as advance:
        files = simulate_files(config, folder, progress=lambda done, total, name: advance(1, name))
    say(f"{len(files)} NWB files with their truth in {folder}")
    rows: list[dict] = [{"file": str(path)} for path in files]
    failed = 0
    if ingest_too:
        rows, failed = data_commands.ingest_paths(workspace, files, "simulated")
    print_rows("sessions" if ingest_too else "files", rows, as_json)
    if failed:
        raise typer.Exit(1)


def _with_setting(config, text: str):
    """One ``key=value`` on top of a simulation's settings."""
    import dataclasses

    key, equals, word = text.partition("=")
    known = {f.name: f for f in dataclasses.fields(config)}
    if not equals:
        message = f"--set '{text}': use KEY=VALUE"
        raise UsageError(message)
    if key not in known:
        raise UnknownNameError("setting", key, known, "the simulation settings")
    kind = type(getattr(config, key))
    try:
        value = kind(word)
    except ValueError:
        message = f"--set {key}={word}: expected {kind.__name__}"
        raise UsageError(message) from None
    return replace(config, **{key: value})


# ---- tokenize -------------------------------------------------------------------------------------------------------

for command in (token_commands.tokenize, token_commands.schemes, token_commands.stream, token_commands.compare):
    app.command()(command)

app.command()(split_commands.splits)


# ---- train and evaluate ---------------------------------------------------------------------------------------------


@app.command()
def train(
    model: Annotated[str | None, typer.Option("--model", "-m", help="linear, ndt1 or poyo.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the run.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as optim.steps=500.")
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
    from spiketok.config import load_config
    from spiketok.runs import open_training_shards, run_path
    from spiketok.training import train as run_training

    workspace = Workspace.locate(root)
    resolved = load_config(model, config, sets or [])
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


@app.command("eval-xsession")
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
    from spiketok.checkpoints import load_run
    from spiketok.config import with_transfer
    from spiketok.report import write_report
    from spiketok.runs import device_of, find_run, open_transfer_shards
    from spiketok.transfer import evaluate_transfer

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


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and shorter: shows that all works, not how well.")
    ] = False,
    root: Annotated[Path, typer.Option("--root", help="Workspace folder of the demo.")] = Path("spiketok-demo"),
) -> None:
    """Run the main job on simulated recordings, offline: simulate, ingest, verify, tokenize, train, evaluate."""
    import time

    from spiketok.demo import demo_commands

    begun = time.monotonic()
    for words in demo_commands(root, quick=quick):
        say("")
        say(f"$ spiketok {shlex.join(words)}")
        app(words, standalone_mode=False)
    say("")
    say(f"demo done in {time.monotonic() - begun:.0f} s; open {root}/runs/*/xsession/report.html in a browser")


# ---- look and check -------------------------------------------------------------------------------------------------


@app.command()
def inspect(
    path: Annotated[
        str | None, typer.Argument(help="Anything spiketok writes, an NWB file, or a session's id.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    start_s: Annotated[float | None, typer.Option("--start-s", help="Where the picture begins.")] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", help="How long a raster is.", min=0.001)] = 10.0,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Tell what a path holds, and draw it; the workspace itself without a path."""
    from spiketok.inspection import check_picture, describe_path, locate, plot_path

    workspace = Workspace.locate(root)
    found = locate(path, workspace)
    if plot is not None:
        check_picture(found, plot)
    told = describe_path(found)
    if as_json:
        show_json(asdict(told))
    else:
        for label, value in told.facts.items():
            print(f"{label:<22}{'-' if value is None else value}")
        for title, rows in told.tables.items():
            print()
            print_rows(title, rows, as_json=False)
    if plot is not None:
        plot_path(found, plot, start_s, duration_s)
        say(f"drawn to {plot}")


for command in (provenance_commands.verify, provenance_commands.cite, provenance_commands.export):
    app.command()(command)


@app.command()
def doctor(root: Root = None, as_json: Json = False) -> None:
    """Check this machine: versions, extras, kernels, devices, space."""
    from spiketok.doctor import examine

    findings = examine(Workspace.locate(root))
    if as_json:
        show_json([asdict(f) for f in findings])
    else:
        show_rows("doctor", ["check", "state", "found"], [asdict(f) for f in findings])
    if any(f.state == "broken" for f in findings):
        raise typer.Exit(1)


# ---- the program ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; every error that is not a bug is one line."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # waiting threads that spin cost a shared machine its other work
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except SpiketokError as error:
        if debug:
            raise
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing to say, nobody to say it to
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        from spiketok.jobs import describe

        complain(describe(error))
        sys.exit(1)
