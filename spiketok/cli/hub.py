"""The commands that give and take artefacts: push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import progress, say
from spiketok.cli.options import Json, Root, Store, counted, print_rows, put_index
from spiketok.errors import UsageError
from spiketok.storage.files import human_bytes
from spiketok.storage.workspace import Workspace

WithData = Annotated[
    bool, typer.Option("--with-data", help="With the shards, contexts and sessions that runs and shards were made of.")
]
Shards = Annotated[
    str | None,
    typer.Option(
        "--shards",
        metavar="URL",
        envvar="SPIKETOK_SHARDS",
        help="Read shards from there (s3://bucket/folder/shards), through a cache.",
        show_default="ROOT/shards",
    ),
]
ShardsCap = Annotated[
    str | None,
    typer.Option(
        "--shards-cap",
        metavar="SIZE",
        envvar="SPIKETOK_SHARDS_CAP",
        help="Most bytes of shards from a URL that are kept on this machine.",
        show_default="20GB",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def shards_at(url: str | None, cap: str | None) -> None:
    """Have this command, and the processes that it starts, read shards from behind a URL; says so, with the cap."""
    import os

    from spiketok.storage import cached

    if url:
        os.environ[cached.SHARDS] = url
    if cap:
        os.environ[cached.CAP] = cap
    if (found := cached.cache_of_shards()) is not None:
        say(f"shards from {found}")


def push(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT... TO",
            help="Runs, shards ('binned', 'binned/dataset') and sessions (globs); then a folder, s3://..., "
            "hf://datasets/OWNER/NAME or hf://OWNER/NAME.",
        ),
    ],
    with_data: WithData = False,
    optimizer: Annotated[
        bool, typer.Option("--optimizer", help="With the optimizer's state of runs, to train them on elsewhere.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="A repository that is made anew may be seen by all.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Send every file, also what seems to be there.")] = False,
    dry_run: DryRun = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Put runs, shards and sessions to a folder, a bucket or Hugging Face, with a card and a signed manifest."""
    from spiketok.pipeline.hub.places import HF, place_of
    from spiketok.pipeline.hub.push import push as push_items

    if len(words) < 2:
        message = f"'{words[0]}' alone does not say what goes where: spiketok push WHAT... TO"
        raise UsageError(message)
    *what, to = words
    if public and not to.startswith(HF):
        message = f"--public is of a repository of Hugging Face, {to} is none: leave it out"
        raise UsageError(message)
    workspace = Workspace.locate(root, store)
    place = place_of(to, public=public, root=workspace.root)
    with progress("push", None, "bytes") as advance:
        done = push_items(
            workspace,
            what,
            place,
            optimizer=optimizer,
            with_data=with_data,
            again=again,
            dry_run=dry_run,
            sent=lambda name, nbytes: advance(nbytes, name),
        )
    for one in done:
        for remark in one.remarks:
            say(f"{one.path}: {remark}")
    rows = [
        {"item": one.path, "kind": one.kind, "state": one.state, "bytes": one.nbytes, "sent": one.sent} for one in done
    ]
    print_rows(f"pushed to {to}", rows, as_json)
    sent = human_bytes(sum(one.sent for one in done))
    would = "would be sent" if dry_run else "sent"
    say(f"{counted('items', [_word(one.state, dry_run) for one in done])}; {sent} {would}")
    if not dry_run:
        say(f"to have it elsewhere: spiketok pull {to}")


def pull(
    place: Annotated[str, typer.Argument(metavar="FROM", help="What push wrote to; behind hf://... also @REVISION.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WHAT]...", help="Names or globs of runs, sessions, schemes.", show_default="all"),
    ] = None,
    with_data: WithData = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is here and has other content.")] = False,
    dry_run: DryRun = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Take what was pushed into the workspace, after every byte and the chain of digests were checked."""
    from spiketok.pipeline.hub.places import place_of
    from spiketok.pipeline.hub.pull import pull as pull_items

    workspace = Workspace.locate(root, store)

    def opened(scratch: Path):
        return place_of(place, scratch=scratch)

    with progress("pull", None, "bytes") as advance:
        done = pull_items(
            workspace,
            opened,
            place,
            words or [],
            with_data=with_data,
            overwrite=overwrite,
            dry_run=dry_run,
            came=lambda name, nbytes: advance(nbytes, name),
        )
    for one in done:
        for remark in one.remarks:
            say(f"{one.path}: {remark}")
    if not dry_run and any(one.kind == "session" and one.state != "already" for one in done):
        put_index(workspace)
    rows = [
        {"item": one.path, "kind": one.kind, "state": one.state, "bytes": one.nbytes, "fetched": one.fetched}
        for one in done
    ]
    print_rows(f"pulled from {place}", rows, as_json)
    fetched = human_bytes(sum(one.fetched for one in done))
    say(f"{counted('items', [_word(one.state, dry_run) for one in done])}; {fetched} fetched")
    runs = [one.path.split("/")[1] for one in done if one.kind == "run"]
    if runs and not dry_run:
        say(f"next: spiketok verify {runs[0]} && spiketok eval-xsession {runs[0]}")


def _word(state: str, dry_run: bool) -> str:
    return f"would be {state}" if dry_run and state != "already" else state
