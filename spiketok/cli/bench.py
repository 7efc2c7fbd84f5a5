"""The command ``bench``: a suite, run and told as a leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import say, show, show_json, show_rows
from spiketok.cli.options import Json, Part, Root, Store, hold, part_of
from spiketok.errors import UsageError, require
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.evaluation.bench.suite import Suite


def bench(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[SUITE]", help="A suite's name, or a TOML file of one's own; without, list them."),
    ] = None,
    show_it: Annotated[bool, typer.Option("--show", help="What the suite runs, and what changed in it.")] = False,
    division: Part = None,
    models: Annotated[str | None, typer.Option("--models", help="Only these, comma-separated; partial.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Only these, comma-separated; partial.")] = None,
    tracks: Annotated[str | None, typer.Option("--tracks", help="Only these, comma-separated; partial.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of scores and page.", show_default="ROOT/bench/NAME-VERSION")
    ] = None,
    markdown_file: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the tables as markdown too.")
    ] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Run a suite of models, data, protocols and seeds; the same command goes on where it was stopped."""
    from spiketok.evaluation.bench.suite import part_of as suite_part
    from spiketok.evaluation.bench.suite import read_suite

    if name is None:
        _list(as_json)
        return
    suite = read_suite(name)
    if show_it:
        _show(suite, as_json)
        return
    seeds_taken = [_seed(word) for word in _words(seeds)] if seeds is not None else None
    part = suite_part(suite, _words(models), seeds_taken, _words(tracks))
    divided = part_of(division)
    require("torch", "train", "a benchmark")
    require("matplotlib", "plots", "drawing the leaderboard")
    from spiketok.evaluation.bench.leaderboard import run_suite, write_leaderboard
    from spiketok.evaluation.bench.page import markdown, ranking_rows, write_page
    from spiketok.storage.files import atomic_file

    workspace = Workspace.locate(root, store)
    folder = out or workspace.root / "bench" / f"{suite.name}-{suite.version}"
    held = folder if divided is None else folder / f"part-{divided[0]}-of-{divided[1]}"
    with hold(held, f"suite {suite.label}"):
        board = run_suite(workspace, suite, part, folder, say, division=divided, refreshed=lambda w: w.indexed(say))
        if board is None or divided is not None:
            say(f"part {division} is done; when all are: spiketok bench {name}")
            return
        stem = "leaderboard-partial" if board.partial else "leaderboard"
        write_leaderboard(board, folder / f"{stem}.json")
        write_page(board, folder / f"{stem}.html")
    if markdown_file is not None:
        with atomic_file(markdown_file) as path:
            path.write_text(markdown(board), encoding="utf-8")
    if as_json:
        show_json(board.to_json() | {"seconds": {kind: board.seconds(kind) for kind in ("train", "evaluate")}})
        return
    for track in part.tracks:
        rows = ranking_rows(board, track)
        show_rows(f"{suite.label}, {track.name}", list(rows[0]), rows)
    for line in board.reasons():
        say(line)
    for line in board.partial:
        say(f"a partial result: {line}")
    print(f"page {folder / f'{stem}.html'}")


def _list(as_json: bool) -> None:
    from spiketok.evaluation.bench.suite import read_suite, suite_names

    suites = [read_suite(name) for name in suite_names()]
    rows = [
        {"suite": s.name, "version": s.version, "tracks": len(s.tracks), "models": len(s.models), "seeds": len(s.seeds),
         "what": s.title, "needs": s.needs or None}
        for s in suites
    ]  # fmt: skip
    if as_json:
        show_json(rows)
        return
    show_rows("suites", list(rows[0]), rows)
    say("what one runs: spiketok bench SUITE --show; a suite of your own: spiketok bench FILE.toml")


def _show(suite: Suite, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        show_json(asdict(suite) | {"digest": suite.digest})
        return
    facts = {
        "suite": f"{suite.label} ({suite.digest[:8]})",
        "title": suite.title,
        "about": suite.about,
        "needs": suite.needs or "nothing: its data are simulated",
        "seeds": ", ".join(map(str, suite.seeds)),
    }
    for label, value in facts.items():
        show(f"{label:<8}{value}")
    tracks = [
        {"track": t.name, "data": t.dataset + (", simulated" if t.simulate is not None else ""), "score": t.score,
         "tasks": ", ".join(t.tasks), "ranked by": t.metrics[0], "protocols": ", ".join(t.protocols) or None,
         "calibration s": ", ".join(f"{s:g}" for s in t.calibration_s) or None, "unseen": t.unseen or None,
         "settings": " ".join(t.sets) or None}
        for t in suite.tracks
    ]  # fmt: skip
    models = [
        {"name": e.name, "model": e.model, "ranked row": e.protocol or None, "settings": " ".join(e.sets) or None,
         "tracks": ", ".join(t.name for t in suite.tracks_of(e))}
        for e in suite.models
    ]  # fmt: skip
    changes = [{"version": c.version, "what can move a number": c.text} for c in suite.changes]
    for title, rows in (("tracks", tracks), ("models", models), ("changes", changes)):
        print()
        show_rows(title, list(rows[0]), rows)


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _seed(word: str) -> int:
    if not word.isascii() or not word.isdigit():
        message = f"--seeds: '{word}' is no whole number"
        raise UsageError(message)
    return int(word)
