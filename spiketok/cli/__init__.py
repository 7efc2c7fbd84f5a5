"""The command line: parse, one library call, print.

Everything heavy is imported inside the command that needs it, so that ``spiketok --help`` answers at once.
Exit codes: 0 all went well, 1 an item failed, 2 the request was wrong.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from spiketok import __version__
from spiketok.cli import (
    bench,
    choose,
    coupling,
    data,
    demo,
    doctor,
    embed,
    fetch,
    generate,
    hub,
    provenance,
    runs,
    score,
    session,
    splits,
    tokens,
    train,
    upkeep,
    view,
)
from spiketok.cli.console import complain, progress, say, show, show_json, shown
from spiketok.cli.guide import GROUPS
from spiketok.cli.options import Command, Json, Root, print_rows
from spiketok.errors import SpiketokError
from spiketok.stopping import asked, stoppable
from spiketok.storage.causes import machine_fault
from spiketok.storage.files import writing
from spiketok.storage.limits import raise_open_files
from spiketok.storage.workspace import Workspace

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
    root: Annotated[Path | None, typer.Option("--root", help="As of each command, which may also have it.")] = None,
    store: Annotated[str | None, typer.Option("--store", help="As of each command that has it.")] = None,
) -> None:
    """Options of every command; ``main`` takes ``--debug`` out of the line before it is parsed."""


# ---- data -----------------------------------------------------------------------------------------------------------

for command in (fetch.fetch, data.datasets, data.ingest):
    app.command(cls=Command)(command)


app.add_typer(session.app, name="session", rich_help_panel=GROUPS["session"])


# ---- simulate -------------------------------------------------------------------------------------------------------


@app.command(cls=Command)
def simulate(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the NWB files.", show_default="ROOT/simulated")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="center_out, random_target, handwriting or visual.")
    ] = "center_out",
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
    from spiketok.settings import build, parse_assignment
    from spiketok.sources.simulator import SimulationConfig
    from spiketok.sources.simulator import simulate as simulate_files

    values: dict[str, object] = {"task": task, "n_subjects": subjects, "sessions_per_subject": sessions}
    values |= {"n_units": units, "duration_s": duration_s, "seed": seed}
    if turnover is not None:
        values["turnover"] = turnover
    for text in settings or []:
        values |= parse_assignment(text, "--set")
    config = build(SimulationConfig, values, "simulation", "setting")
    workspace = Workspace.locate(root)
    folder = out or workspace.simulated
    with progress("simulate", subjects * sessions, "sessions") as advance:
        files = simulate_files(config, folder, progress=lambda done, total, name: advance(1, name))
    say(f"{len(files)} NWB files with their truth in {folder}")
    rows: list[dict] = [{"file": str(path)} for path in files]
    failed = 0
    if ingest_too:
        rows, failed = data.ingest_paths(workspace, files, "simulated")
    print_rows("sessions" if ingest_too else "files", rows, as_json)
    if failed:
        raise typer.Exit(1)


# ---- tokenize -------------------------------------------------------------------------------------------------------

for command in (tokens.tokenize, tokens.schemes, tokens.stream, tokens.compare):
    app.command(cls=Command)(command)

app.command(cls=Command)(splits.splits)


# ---- train and evaluate ---------------------------------------------------------------------------------------------

app.command(cls=Command)(train.models)
app.command(cls=Command)(train.train)
app.command(cls=Command)(train.ensemble)
app.command("eval-xsession", cls=Command)(train.eval_xsession)
app.command(cls=Command)(embed.embed)
app.command(cls=Command)(demo.demo)
app.command(cls=Command)(generate.generate)
app.command(cls=Command)(coupling.coupling)
app.command(cls=Command)(choose.choose)
app.command(cls=Command)(score.score)
app.command(cls=Command)(bench.bench)
app.add_typer(runs.runs, rich_help_panel=GROUPS["runs"])


# ---- look and check -------------------------------------------------------------------------------------------------


@app.command(cls=Command)
def inspect(
    path: Annotated[
        str | None, typer.Argument(help="Anything spiketok writes, an NWB file, or a session's id.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    start_s: Annotated[float | None, typer.Option("--start-s", help="Where the picture begins.")] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", help="How long a raster is.", min=0.001)] = 10.0,
    restarts: data.Restarts = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Tell what a path holds, and draw it; the workspace itself without a path."""
    from spiketok.pipeline.inspect import check_picture, describe_path, locate, plot_path

    workspace = Workspace.locate(root)
    found = locate(path, workspace)
    if plot is not None:
        check_picture(found, plot)
    told = describe_path(found, restarts or ())
    if as_json:
        show_json(asdict(told))
    else:
        for label, value in told.facts.items():
            show(f"{label:<22}{'-' if value is None else shown(value, keep='')}", indent=22)
        for title, rows in told.tables.items():
            print()
            print_rows(title, rows, as_json=False)
    for line in told.changed:
        complain(line)
    if plot is not None:
        plot_path(found, plot, start_s, duration_s, restarts or ())
        say(f"drawn to {plot}")
    if told.changed:
        raise typer.Exit(1)


app.command(cls=Command)(view.view)
for command in (hub.push, hub.pull):
    app.command(cls=Command)(command)

for command in (provenance.verify, provenance.cite, provenance.export, upkeep.index, upkeep.upgrade, doctor.doctor):
    app.command(cls=Command)(command)


# ---- the program ----------------------------------------------------------------------------------------------------


def _flush_output() -> None:
    """Write what was printed: that a disk is full is met here, and not by Python at its end, which hides it."""
    try:
        with writing("what this command prints (stdout)"):
            sys.stdout.flush()
    except OSError:  # Python would try again at its end, in two lines of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def main() -> None:
    """Run the command line; every error that is not a bug is one line, and so is Ctrl-C."""
    with stoppable():
        _run()


def _run() -> None:
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # waiting threads that spin cost a shared machine its other work
    raise_open_files()
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        try:
            app()
        finally:
            _flush_output()
    except SpiketokError as error:
        if debug or asked():  # what a stop was turned into is no error
            raise
        fault = machine_fault(error)
        complain(fault or str(error))
        sys.exit(1 if fault else error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing to say, nobody to say it to
        sys.exit(1)
    except Exception as error:
        if debug or asked():
            raise
        from spiketok.pipeline.jobs import describe

        complain(describe(error))
        sys.exit(1)
