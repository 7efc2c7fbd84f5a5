"""The command ``choose``, and how ``train`` reads what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say, show_json, show_rows
from spiketok.cli.options import Json, Root, Sessions, hold, indexed
from spiketok.errors import ArtefactError, UnfitError, UsageError, require
from spiketok.storage.workspace import Workspace


def choose(
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="GLOB", help="The sessions that are to be helped; without, each by itself."),
    ] = None,
    sessions: Sessions = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="decode:NAME", help="The behaviour.", show_default="by the sessions")
    ] = None,
    calibration_s: Annotated[
        float, typer.Option("--calibration-s", help="Seconds of their training time that are seen.")
    ] = 30.0,
    top: Annotated[
        int | None,
        typer.Option("--top", help="How many to train on.", show_default="half of them; all without --like"),
    ] = None,
    tokenize: Annotated[bool, typer.Option("--tokenize", help="Make the binned shards that are missing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The file.", show_default="ROOT/choices/...json")] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure how much each session helps to decode others; writes a ranking for train --sessions @FILE."""
    require("torch", "train", "choosing")
    from spiketok import __version__
    from spiketok.evaluation.choosing import rank_sessions
    from spiketok.storage.files import fingerprint, write_signed
    from spiketok.storage.records import CHOICE, choice_rows
    from spiketok.training.config import load_config
    from spiketok.training.runs import choose_training, opened_shards

    workspace = indexed(root)
    config = load_config("linear", None, tasks=[task] if task else None)
    targets = workspace.select(like) if like is not None else []
    asked = f"{sessions},{like}" if sessions and like is not None else sessions
    chosen = choose_training(workspace, config, asked, ",".join(targets) or "none")
    for line in chosen.left_out:
        say(f"left out: {line}")
    making = say if tokenize else None
    opened, unfit = opened_shards(workspace, chosen.sessions, config, named=sessions is not None, made=making)
    helped = opened_shards(workspace, targets, config, named=True, made=making)[0] if targets else []
    while True:
        for why in unfit.values():
            say(f"left out: {why}")
        try:
            found = rank_sessions(config, opened, helped, calibration_s=calibration_s, top=top)
            break
        except UnfitError as error:
            if sessions is not None or len(error.sessions) >= len(opened):
                raise
            unfit = error.sessions
            opened = [tokens for tokens in opened if tokens.id not in unfit]
    facts = {"format": CHOICE, "version": 1, "written_by": f"spiketok {__version__}", **found.facts()}
    name = targets[0].split("/")[1] if targets else "own"
    path = out or workspace.choices / f"{name}-{fingerprint(facts)[:10]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold(path, "the choice"):
        facts = write_signed(path, facts)
    if as_json:
        show_json({"file": str(path), **facts})
        return
    rows = choice_rows(facts)
    show_rows("sessions, the best first", list(rows[0]), rows)
    print(f"choice {path}")
    say(f"next: spiketok train --sessions @{path}")


def chosen_in(workspace: Workspace, text: str) -> list[str]:
    """The sessions of a choice, the best first, that ``--sessions @FILE`` names.

    Raises:
        UsageError: there is no such file. ArtefactError: it was changed, or a session was since it was measured.
    """
    from spiketok.storage.records import choice_body

    path = Path(text.removeprefix("@"))
    try:
        facts = choice_body(path)
    except FileNotFoundError:
        message = f"--sessions {text}: there is no file {path}: spiketok choose writes one"
        raise UsageError(message) from None
    digest = {one["session"]: one["store_digest"] for one in facts["sessions"]}
    known = set(workspace.session_ids())
    for session in facts["chosen"]:
        there = workspace.attributes(session)["digest"] if session in known else ""
        if there != digest[session]:
            now = f"has digest {there[:12]}" if there else "is not in the store"
            message = f"{path}: {session} was chosen with digest {digest[session][:12]} and {now}: spiketok choose"
            raise ArtefactError(message)
    return list(facts["chosen"])
