"""The command around splits: show them as a timeline, check what leaks over their borders, store what a rule makes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import complain, say, show, show_json, show_rows
from spiketok.cli.options import Json, Root, Store, indexed, put_index
from spiketok.errors import UsageError

if TYPE_CHECKING:
    from spiketok.pipeline.divide import Division, Examined
    from spiketok.recording.leakage import Reach
    from spiketok.recording.nouns import Session

PIPE_WIDTH = 100
MOST_DRAWN = 40


def splits(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION|DATASET]...", help="Sessions (globs); all without any.")
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="KEY=VALUE", help="Divide by a rule, as kind=trial; instead of what is stored."),
    ] = None,
    store_as: Annotated[
        str | None, typer.Option("--store-as", metavar="SET", help="Write the rule's division into the store.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say for each border whether windows can leak over it; 1 on a leak.")
    ] = False,
    scheme: Annotated[
        str | None, typer.Option("--scheme", help="With --check: the scheme whose windows are cut.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="With --scheme: a field of it.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="SIGNAL", help="With --check: the behaviour that is decoded.")
    ] = None,
    lag_ms: Annotated[
        float, typer.Option("--lag-ms", help="With --check: how much earlier than the behaviour spikes are taken.")
    ] = 0.0,
    segments: Annotated[
        str | None,
        typer.Option("--segments", metavar="RULE", help="With --check: windows cut at trials:ALIGN,PRE_MS,POST_MS."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Show how sessions are divided into train, valid and test, as a timeline with seconds, trials and spikes."""
    from spiketok.pipeline.divide import (
        assigned_days,
        examine,
        leak_rows,
        plot_divisions,
        sessions_named,
        store_divisions,
    )
    from spiketok.pipeline.inspect import check_ending
    from spiketok.recording.splits import parse_rule

    rule = parse_rule(rules) if rules else None
    if store_as is not None and rule is None:
        message = f"--store-as {store_as} stores what a rule makes: give one, as --rule kind=trial"
        raise UsageError(message)
    if not check and (scheme or sets or target or lag_ms or segments):
        message = "--scheme, --set, --target, --lag-ms and --segments say what --check is to check: add --check"
        raise UsageError(message)
    reach_of = _reach_of(scheme, sets or [], target, lag_ms) if check else None
    if plot is not None:
        check_ending(plot)
    workspace = indexed(root, store)
    chosen = sessions_named(workspace, names or [])
    days = assigned_days(workspace, chosen, rule) if rule is not None else {}
    examined, failed = [], 0
    for one in examine(workspace, chosen, rule, days, reach_of=reach_of, segments=segments):
        if not one.error:
            examined.append(one)
        elif one.unfit and not names:  # what nobody named may be left out; what is damaged is an error in any case
            say(f"left out: {one.error}")
        else:
            complain(one.error)
            failed += 1
    failed = failed if examined else len(chosen)
    divisions = [division for one in examined for division in one.divisions]
    stored = []
    if store_as is not None and not failed:
        stored = store_divisions(workspace, [d.session_id for d in divisions], store_as, rule, days)
        put_index(workspace)
        _show_stored(stored, store_as)
    if plot is not None and divisions:
        plot_divisions(divisions[:MOST_DRAWN], plot)
        cut = f", the first {MOST_DRAWN} of {len(divisions)}" if len(divisions) > MOST_DRAWN else ""
        say(f"drawn to {plot}{cut}")
    windows = [row for one in examined for row in one.windows]
    leaks = {d: leak_rows(d, one.reach) for one in examined for d in one.divisions} if check and not segments else {}
    borders = [row for rows in leaks.values() for row in rows]
    if as_json:
        told = {"windows": windows} if segments is not None else {"borders": borders}
        show_json({"divisions": [d.to_dict() for d in divisions], **told, "stored": stored})
    else:
        _show(divisions, quiet=check)
        if windows:
            show_rows("windows cut at trials", list(windows[0]), windows)
        _show_leaks(examined, leaks)
    if failed and store_as is not None:
        say(f"nothing was stored: {failed} of {len(chosen)} sessions cannot be divided so")
    if failed or any(row["leak_ms"] for row in (*borders, *windows)):
        raise typer.Exit(1)


def _reach_of(name: str | None, sets: Sequence[str], target: str | None, lag_ms: float) -> Callable[[Session], Reach]:
    """What says how far the windows of a session reach, from the options of ``--check``."""
    from spiketok.settings import parse_assignment
    from spiketok.tokens.reach import windows_reach
    from spiketok.tokens.schemes import make_scheme

    if name is None and sets:
        message = f"--set {sets[0]} is a field of a scheme: give --scheme"
        raise UsageError(message)
    values: dict[str, object] = {}
    for text in sets:
        values |= parse_assignment(text, "--set")
    scheme = None if name is None else make_scheme(name, **values)
    return partial(windows_reach, scheme=scheme, target=target, lag_ns=round(lag_ms * 1e6))


def _show_stored(rows: Sequence[dict], name: str) -> None:
    for row in rows:
        say(f"{row['session']}: set '{name}' " + ("stood already" if row["state"] == "already" else "stored"))
    if any(row["state"] != "already" for row in rows):
        say(f"shards carry splits, so tokenize again; then train with --set split.kind=stored --set split.set={name}")


def _show(divisions: Sequence[Division], *, quiet: bool) -> None:
    from spiketok.pipeline.divide import timeline

    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    rows, left = [], []
    for division in divisions:
        if not quiet:
            show("\n".join(timeline(division, width, ascii_only=plain)))
            print()
        rows += [{"session": division.session_id, "division": division.name} | row for row in division.rows]
        why = division.left_out_words()
        if why:
            left.append(f"{division.session_id}: {division.name}: left out: {why}")
    if rows and not quiet:
        show_rows("splits", list(rows[0]), rows)
        for line in left:
            say(line)


def _show_leaks(examined: Sequence[Examined], leaks: dict[Division, list[dict]]) -> None:
    from spiketok.pipeline.divide import leak_words

    rows = [row for own in leaks.values() for row in own]
    if rows:
        show_rows("borders", list(rows[0]), rows)
    reaches = {one.session_id: one.reach for one in examined}
    for division, own in leaks.items():
        words = leak_words(division, own, reaches[division.session_id])
        say(f"{division.session_id}: {division.name}: {words}")
