"""The commands ``runs``: the trainings of a workspace as a list, beside each other, as curves; and their end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.guide import examples
from spiketok.cli.options import Command, Json, Root, hold, print_rows
from spiketok.errors import DataError, UnknownNameError, UsageError, the_one
from spiketok.storage.workspace import Workspace

MOST_CURVES = 20  # runs of a picture that nobody chose

runs = typer.Typer(
    no_args_is_help=False,
    help="The trainings of a workspace: list, compare, draw and delete them.",
    name="runs",
    epilog=examples("runs"),
)


@runs.callback(invoke_without_command=True)
def _list(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only those of this model.")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """List the runs, the newest first: how far each is, its score on its own test time, and on unseen sessions."""
    if ctx.invoked_subcommand is not None:
        if root is not None:
            ctx.obj = root
        return
    from spiketok.pipeline.run_table import run_folders, run_row

    workspace = Workspace.locate(root)
    rows = [run_row(path) for path in run_folders(workspace)]
    if model is not None:
        known = {row.model for row in rows}
        if model not in known:
            raise UnknownNameError("model", model, known, str(workspace.runs))
        rows = [row for row in rows if row.model == model]
    rows = sorted(rows, key=lambda row: -row.changed_s)
    if not rows and not as_json:
        say(f"no run in {workspace.runs}: spiketok train makes one")
        return
    if as_json:
        show_json([row.told() | {"bytes": row.nbytes, "total_steps": row.total_steps} for row in rows])
        return
    print_rows("runs, the newest first", [row.told() for row in rows], as_json=False)


@runs.command(cls=Command, epilog=examples("runs compare"))
def compare(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Runs' folders or names, two or more.")],
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Where the configurations of runs differ, and their scores side by side."""
    from spiketok.pipeline.run_table import differences, run_row, scores_beside

    workspace = Workspace.locate(root or ctx.obj)
    paths = _found(workspace, names)
    if len(paths) < 2:
        message = f"{', '.join(names)} is one run: name two or more to compare"
        raise UsageError(message)
    rows = [run_row(path) for path in paths]
    differ, scores = differences(rows), scores_beside(rows)
    if as_json:
        states = {row.path.name: row.state for row in rows}
        show_json({"state": states, "configuration": differ, "scores": scores})
        return
    names = [path.name for path in paths]
    if differ:
        show_rows("where they differ", ["key", *names], [{k: _plain(v) for k, v in row.items()} for row in differ])
    else:
        say("their configurations are the same: their shards differ")
    if scores:
        show_rows("scores, means over sessions", ["task", "of", "metric", *names], scores)
    for row in rows:
        if row.state != "finished":
            say(f"{row.path.name}: {row.state}")


@runs.command(cls=Command, epilog=examples("runs curves"))
def curves(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN...]", help="Runs' folders or names; without, the newest 20.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw them to this .png, .pdf or .svg.")] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="Write one HTML page of them.", show_default="ROOT/curves.html without --plot"),
    ] = None,
    root: Root = None,
) -> None:
    """Draw learning curves: losses, scores of the valid split, learning rates."""
    from spiketok.pipeline.inspect import check_ending
    from spiketok.pipeline.run_curves import plot_curves, write_page
    from spiketok.pipeline.run_table import run_folders, run_row
    from spiketok.storage.records import STEPS

    workspace = Workspace.locate(root or ctx.obj)
    if plot is not None:
        check_ending(plot)
    if names:
        rows = [run_row(path) for path in _found(workspace, names)]
    else:
        known = [run_row(path) for path in run_folders(workspace) if (path / STEPS).exists()]
        rows = sorted(known, key=lambda row: -row.changed_s)[:MOST_CURVES]
        if len(known) > len(rows):
            say(f"the newest {len(rows)} of {len(known)} runs; others by their names")
    if plot is None and page is None:
        page = workspace.root / "curves.html"
    if plot is not None:
        with hold(plot, "the picture"):
            plot_curves([row.path for row in rows], plot)
        print(f"picture {plot}")
    if page is not None:
        with hold(page, "the page"):
            write_page(rows, page)
        print(f"page {page}")


@runs.command(cls=Command, epilog=examples("runs delete"))
def delete(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs' folders or names.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    with_reports: Annotated[
        bool, typer.Option("--with-reports", help="Also what its own folder holds: reports and vectors.")
    ] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Delete runs; refused where a report, another run, vectors, a leaderboard or a choice depends on one."""
    from spiketok.pipeline.run_table import delete_run, dependents, is_held, own_reports, run_row
    from spiketok.storage.files import human_bytes

    workspace = Workspace.locate(root or ctx.obj)
    paths = _found(workspace, names, newest=False)
    for path in paths:
        if path.resolve().parent != workspace.runs.resolve():
            message = f"{path} is no run of {workspace.runs}: --root names its workspace"
            raise UsageError(message)
        if is_held(path):
            message = f"{path.name} is being written: wait for its training, or stop it by Ctrl-C"
            raise DataError(message)
        needing = dependents(workspace, path, but=paths)
        if with_reports:
            own = own_reports(workspace, path)
            needing = [line for line in needing if line not in own]
        if needing:
            shown = "; ".join(needing[:6]) + (f" and {len(needing) - 6} more" if len(needing) > 6 else "")
            mend = (
                "delete those first"
                if with_reports
                else "delete those first, what lies in its own folder by --with-reports"
            )
            message = f"{path.name} is needed by {shown}: {mend}"
            raise DataError(message)
    rows = [run_row(path) for path in paths]
    total = human_bytes(sum(row.nbytes for row in rows))
    if not yes:
        if not sys.stdin.isatty():
            message = (
                f"{', '.join(path.name for path in paths)} ({total}) would be deleted: add --yes, nobody can be asked"
            )
            raise UsageError(message)
        for row in rows:
            say(f"{row.path.name}: {row.model or 'no model'}, {row.state}, {human_bytes(row.nbytes)}")
        if not typer.confirm(f"Delete {len(rows)} {'run' if len(rows) == 1 else 'runs'}, {total}?", err=True):
            say("nothing was deleted")
            raise typer.Exit(1)
    for path in paths:
        delete_run(path)
        say(f"deleted {path.name}")
    if as_json:
        show_json({"deleted": [path.name for path in paths], "bytes": sum(row.nbytes for row in rows)})


def _plain(value: object) -> object:
    """A setting as a cell of a table."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _found(workspace: Workspace, names: list[str], *, newest: bool = True) -> list[Path]:
    """The folders of runs, each once, by path, name or beginning of a name.

    Args:
        newest: whether a model's name means its newest finished run.

    Raises:
        UnknownNameError: there is none of a name. AmbiguousNameError: several begin so.
    """
    from spiketok.storage.finding import find_run, run_names
    from spiketok.storage.records import is_run

    def named(name: str) -> Path:
        if newest or is_run(Path(name)):
            return find_run(workspace, name)
        return workspace.runs / the_one("run", name, run_names(workspace), str(workspace.runs))

    return list(dict.fromkeys(map(named, names)))
