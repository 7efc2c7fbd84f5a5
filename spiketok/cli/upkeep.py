"""The commands ``index`` and ``upgrade``, which keep a workspace as this spiketok reads it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import complain, say, show, show_json
from spiketok.cli.options import Json, Root, Store, indexed, put_index
from spiketok.errors import require
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.pipeline.upgrade import Upgraded


def index(root: Root = None, store: Store = None, as_json: Json = False) -> None:
    """Make the index of a store true and write it, also behind a URL: for one that others write."""
    from spiketok.storage.index import INDEX, open_index

    place = Workspace.locate(root, store).store
    made = open_index(place, say, put=True)
    if as_json:
        show_json({"index": str(place / INDEX), "sessions": len(made.ids), "read": made.read})
        return
    unread = len(made.ids) - len(made.entries)
    print(f"index {place / INDEX}: {len(made.ids)} sessions, {made.read} of them read anew")
    if unread:
        say(f"{unread} sessions cannot be read: spiketok verify tells which")


def upgrade(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and write nothing.")] = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Make what an earlier release wrote into what this one reads: each whole or not at all, none lost."""
    from spiketok.storage.locks import beside, locked

    workspace = indexed(root, store)
    with locked(beside(workspace.root / "upgrade"), f"the upgrade of {workspace.root}"):
        _upgrade(workspace, dry_run, as_json)


def _upgrade(workspace: Workspace, dry_run: bool, as_json: bool) -> None:
    from spiketok.pipeline.upgrade import OldShard, remove, upgrade_sessions, upgrade_shards

    done: list[Upgraded] = []
    succeeded: list[OldShard] = []

    def tell(one: Upgraded) -> None:
        done.append(one)
        line = f"{one.kind} {one.name}: {one.state}" + (
            f" ({one.remark})" if one.state != "left" else f": {one.remark}"
        )
        if as_json or one.state == "left":
            (complain if one.state == "left" and one.kind != "report" else say)(line)
        else:
            show(line)

    for one in upgrade_sessions(workspace, dry_run=dry_run):
        tell(one)
    if done and not dry_run:
        put_index(workspace)
    for one in upgrade_shards(workspace, dry_run=dry_run, made=succeeded.append):
        tell(one)
    needed: set[str] = set()
    if any(workspace.runs.glob("*/checkpoint")):
        require("torch", "train", "upgrading runs")
        from spiketok.training.upgrade import shards_to_keep, upgrade_runs

        for one in upgrade_runs(workspace, succeeded, dry_run=dry_run):
            tell(one)
        needed = shards_to_keep(workspace, succeeded)
    if not dry_run:
        for shard in succeeded:
            if shard.digest in needed:  # a run that was left can only be told its shards by them
                say(f"kept beside its successor for a run that was left: {shard.path}")
            else:
                remove(shard)
    left = [one for one in done if one.state == "left" and one.kind != "report"]
    if as_json:
        show_json([asdict(one) for one in done])
    elif not done:
        print(f"nothing in {workspace.root} is of an earlier release")
    else:
        reports = sum(one.kind == "report" for one in done)
        told = f", and {reports} reports to be made again" if reports else ""
        say(f"{len(done) - reports} artefacts of an earlier release, {len(left)} of them left as they are{told}")
    if left:
        raise typer.Exit(1)
