"""The commands ``session rename`` and ``session remove``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from spiketok.cli.command import Command
from spiketok.cli.console import complain, say, show, show_json
from spiketok.cli.guide import examples
from spiketok.cli.options import Json, Root, Store, put_index
from spiketok.errors import DataError, SpiketokError, UsageError
from spiketok.storage.workspace import Workspace, one_session

app = typer.Typer(
    help="Rename stored sessions, or take them away, with their shards.",
    no_args_is_help=True,
    epilog=examples("session"),
)
Force = Annotated[
    bool, typer.Option("--force", help="Also where runs or reports were made of it: verify then calls them broken.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and write nothing.")]


@app.command(cls=Command, epilog=examples("session rename"))
def rename(
    old: Annotated[str, typer.Argument(help="The session: its id, its name, or the beginning of either.")],
    new: Annotated[str, typer.Argument(help="DATASET/SESSION, or a name alone for the same dataset.")],
    force: Force = False,
    dry_run: DryRun = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Give a session another id; its shards are baked anew, since the id is part of every digest."""
    from spiketok.pipeline.renaming import dependents, new_id
    from spiketok.pipeline.renaming import rename as rename_session

    workspace = Workspace.locate(root, store)
    session_id = one_session(workspace, old, "one is renamed at a time")
    target = new_id(session_id, new)
    found = dependents(workspace, session_id)
    _refuse(session_id, found.lines(), force, f"spiketok session rename {session_id} {target} --force")
    if dry_run:
        _show_plan("would be renamed", {session_id: found}, as_json)
        return
    done = rename_session(workspace, session_id, target)
    put_index(workspace)
    for note in done.notes:
        say(f"{target}: not baked anew: {note}")
    if as_json:
        show_json({"old": session_id, "new": target, "digest": done.digest, "shards": done.shards})
        return
    show(f"renamed {session_id} to {target}, {done.shards} shards baked anew")
    say("ingesting the same source again would make the old id once more: rename that, or leave it out")


@app.command(cls=Command, epilog=examples("session remove"))
def remove(
    globs: Annotated[list[str], typer.Argument(metavar="GLOB...", help="Ids or globs of stored sessions.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Force = False,
    dry_run: DryRun = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Take sessions out of the store, with their shards; their source files stay where they are."""
    from spiketok.pipeline.renaming import dependents
    from spiketok.pipeline.renaming import remove as remove_session

    workspace = Workspace.locate(root, store)
    chosen = list(dict.fromkeys(s for glob in globs for s in workspace.select(glob)))
    found = {session_id: dependents(workspace, session_id) for session_id in chosen}
    for session_id, one in found.items():
        _refuse(session_id, one.lines(), force, "spiketok session remove ... --force")
    if dry_run:
        _show_plan("would be removed", found, as_json)
        return
    if not yes:
        _ask(found)
    failed = 0
    for session_id in chosen:
        try:
            remove_session(workspace, session_id)
        except (SpiketokError, OSError) as error:  # one session's trouble does not stop the others
            complain(f"{session_id}: {error}")
            failed += 1
        else:
            if not as_json:
                show(f"removed {session_id} and {_shards(found[session_id])}")
    put_index(workspace)
    if as_json:
        show_json([{"session": s, "shards": len(one.shards)} for s, one in found.items()])
    if failed:
        raise typer.Exit(1)


def _shards(one: object) -> str:
    from spiketok.storage.workspace import CONTEXT

    baked = sum(folder.parts[-4] != CONTEXT for folder in one.shards)
    return f"{baked} shard{'s' if baked != 1 else ''}"


def _refuse(session_id: str, lines: list[str], force: bool, again: str) -> None:
    """Refuse what would break runs and reports; with force say what ``verify`` will tell of them.

    Raises:
        DataError: something was made of the session, and nobody insists.
    """
    if lines and not force:
        message = f"{session_id} is what {'; '.join(lines)} were made of: --force leaves them unverifiable ({again})"
        raise DataError(message)
    for line in lines:
        say(f"{session_id}: left as they are, 'spiketok verify' will name the shard that is gone: {line}")


def _show_plan(title: str, found: dict, as_json: bool) -> None:
    if as_json:
        told = [
            {"session": s, "shards": [str(p) for p in one.shards], "runs": one.runs, "reports": one.reports,
             "choices": one.choices, "parts": one.parts}
            for s, one in found.items()
        ]  # fmt: skip
        show_json(told)
        return
    for session_id, one in found.items():
        show(f"{session_id} and {_shards(one)} {title}")


def _ask(found: dict) -> None:
    """Ask on a terminal whether to go on; elsewhere nobody could answer.

    Raises:
        UsageError: there is no terminal to ask on. typer.Exit: the answer is no.
    """
    for session_id, one in found.items():
        say(f"{session_id} and {_shards(one)}")
    if not sys.stdin.isatty():
        count = "1 session" if len(found) == 1 else f"{len(found)} sessions"
        message = f"{count} would be removed: --yes does it without asking"
        raise UsageError(message)
    if not typer.confirm(f"remove {len(found)} sessions?", err=True):
        raise typer.Exit(1)
