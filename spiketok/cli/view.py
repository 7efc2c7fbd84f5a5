"""The command view: a session or a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import progress, say, show
from spiketok.cli.options import Root, hold
from spiketok.errors import UsageError, require
from spiketok.storage.workspace import Workspace


def view(
    name: Annotated[str, typer.Argument(metavar="SESSION|RUN", help="A session, a run, or an NWB file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page.", show_default="view-NAME.html here")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            metavar="NAME,...",
            help="Whose tokens are shown; several with commas, all, or none.",
            show_default="one that is baked; of a run, what it reads",
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="Of a run: which of its sessions.", show_default="its first")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of a run: where it predicts.")] = "test",
    start_s: Annotated[float | None, typer.Option("--start-s", help="Where the page opens.")] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", min=0.001, help="How much it shows at first.")] = 10.0,
    max_mb: Annotated[
        float, typer.Option("--max-mb", min=0.001, help="Size cap; what does not fit is drawn as counts.")
    ] = 20.0,
    root: Root = None,
) -> None:
    """Write one self-contained HTML page: raster, behaviour, trials, splits, tokens; of a run predictions over truth.

    spiketok view my_session --scheme binned

    spiketok view poyo --out poyo.html
    """
    from spiketok.pipeline.inspect import kind_of, locate
    from spiketok.pipeline.view import shards_of, view_path
    from spiketok.tokens.view import Extra

    workspace = Workspace.locate(root)
    try:
        path = locate(name, workspace)
    except UsageError:
        path = None
    kind = None if path is None else kind_of(path)
    if kind not in ("session", "nwb", "run", None):
        message = f"there is no page of a {kind}: spiketok view takes a session, a run or an NWB file"
        raise UsageError(message)
    out = out or Path(f"view-{(name if path is None else path.stem if kind == 'nwb' else path.name)}.html")
    if out.suffix.lower() not in (".html", ".htm"):
        message = f"--out {out}: the ending '{out.suffix}' is not .html"
        raise UsageError(message)
    if kind in ("session", "nwb") and session is not None:
        message = f"--session is of a run, and {name} is a {kind}"
        raise UsageError(message)
    chosen = None if scheme is None else [] if scheme == "none" else [one.strip() for one in scheme.split(",")]
    options = {"start_s": start_s, "duration_s": duration_s, "max_bytes": round(max_mb * 1e6)}
    with hold(out, "the page"), progress("view", 1, "pages") as advance:
        if kind == "nwb":
            if chosen:
                message = f"{name} is a file, of which no tokens are baked: ingest and tokenize it, or --scheme none"
                raise UsageError(message)
            written = view_path(path, out, None, **options)
        elif kind == "session":
            session_id = "/".join(path.parts[-2:])
            written = view_path(path, out, Extra(shards=shards_of(workspace, session_id, chosen)), **options)
        else:
            written = _run_page(workspace, str(path or name), session, split, chosen, out, options)
        advance(1, str(out))
    low, high = written.detail_s
    held = "every spike" if written.whole else f"every spike of {low:.1f} .. {high:.1f} s, counts elsewhere (--max-mb)"
    show(str(out))
    say(f"{written.nbytes / 1e6:.2f} MB: {held}; open it in a browser")


def _run_page(
    workspace: Workspace,
    name: str,
    session: str | None,
    split: str,
    chosen: list[str] | None,
    out: Path,
    options: dict[str, object],
):
    """The page of a run on one of its sessions; opened on the split that is predicted."""
    require("torch", "train", "the predictions of a run")
    from dataclasses import replace

    from spiketok.evaluation.viewed import session_of, viewed
    from spiketok.pipeline.view import shards_of, view_path
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import find_run

    run = load_run(find_run(workspace, name))
    session_id = session_of(run, session)
    extra, remarks = viewed(workspace, run, session_id, split)
    for line in remarks:
        say(line)
    if chosen is not None:
        extra = replace(extra, shards=shards_of(workspace, session_id, chosen))
    if options["start_s"] is None and extra.traces:
        options = options | {"start_s": float(extra.traces[0].time_ns[0] / 1e9)}
    return view_path(workspace.store_path(session_id), out, extra, **options)
