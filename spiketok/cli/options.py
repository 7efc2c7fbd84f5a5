"""What commands share: options that mean the same everywhere, and how outcomes and rows are told."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.command import Command as Command
from spiketok.cli.console import complain, progress, say, show_json, show_rows
from spiketok.errors import UsageError
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.pipeline.jobs import Outcome
    from spiketok.plugins import Registry

Root = Annotated[
    Path | None,
    typer.Option("--root", envvar="SPIKETOK_ROOT", help="Workspace folder.", show_default="./spiketok-data"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Store = Annotated[
    str | None,
    typer.Option(
        "--store", help="Folder or URL (s3://...) of the store.", envvar="SPIKETOK_STORE", show_default="ROOT/store"
    ),
]
Sessions = Annotated[
    str | None,
    typer.Option("--sessions", "-s", metavar="GLOB", help="Only these sessions; comma-separated globs on their ids."),
]
Workers = Annotated[int, typer.Option("--jobs", "-J", min=1, envvar="SPIKETOK_JOBS", help="Worker processes.")]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="WHERE",
        envvar="SPIKETOK_EXECUTOR",
        help="processes:N, dask:local or dask:SCHEDULER_URL; instead of --jobs.",
    ),
]

Part = Annotated[
    str | None,
    typer.Option("--part", metavar="I/N", help="Do the I-th of N parts alone, as one job of an array."),
]


def part_of(text: str | None) -> tuple[int, int] | None:
    """Which of how many parts, of ``I/N``.

    Raises:
        UsageError: it is not of this form, or there is no such part.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        message = f"--part {text}: must read I/N, with I from 1 to N, as 3/8"
        raise UsageError(message)
    return int(found[1]), int(found[2])


def hold(target: Path, what: str) -> contextlib.AbstractContextManager:
    """Keep other commands from writing the same file or folder.

    Raises:
        BusyError: one does.
    """
    from spiketok.storage.locks import beside, locked

    return locked(beside(target), f"{what} {target}")


def indexed(root: Path | None, store: str | None = None) -> Workspace:
    """The workspace with the index of its store, for a command that asks many sessions before it writes any."""
    return Workspace.locate(root, store).indexed(say)


def put_index(workspace: Workspace) -> None:
    """Bring the index of a store up to date, at the end of a command that wrote sessions; behind a URL too."""
    from spiketok.storage.index import open_index

    open_index(workspace.store, say, put=True)


def collect(
    title: str, measure: str, total: int, outcomes: Iterable[Outcome], row: Callable[[object], dict]
) -> tuple[list[dict], int]:
    """Go through outcomes with a progress bar, telling failures as they come.

    Returns:
        ``row(result)`` of each job that went well, in order of session; and how many did not.
    """
    rows, failed = [], 0
    with progress(title, total, measure) as advance:
        for outcome in outcomes:
            advance(1, outcome.name)
            if outcome.error is None:
                rows.append(row(outcome.result))
            else:
                named = outcome.message.startswith(outcome.name)
                complain(outcome.message if named else f"{outcome.name}: {outcome.message}")
                failed += 1
    return sorted(rows, key=lambda r: r["session"]), failed


WRITTEN = {"new": "written", "fetched": "written", "skipped": "already", "here": "already"}  # a state, in a summary


def counted(what: str, states: Iterable[str], failed: int = 0) -> str:
    """A command's summary, of one kind in all that make artefacts: ``"3 sessions: 1 written, 2 already"``."""
    counts = Counter(WRITTEN.get(state, state) for state in states) + Counter({"failed": failed})
    each = ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda item: _order(item[0])))
    total = counts.total()
    return f"{total} {what.removesuffix('s') if total == 1 else what}{f': {each}' if each else ''}"


def _order(word: str) -> tuple[int, str]:
    known = ("written", "replaced", "already", "not served", "failed")
    return known.index(word) if word in known else len(known), word


def executor_of(executor: str | None, jobs: int) -> str:
    """Where jobs run, as :func:`spiketok.pipeline.jobs.run_jobs` reads it."""
    if executor and jobs > 1:
        message = f"--executor {executor} and --jobs {jobs} both say where jobs run: give one"
        raise UsageError(message)
    return executor or (f"processes:{jobs}" if jobs > 1 else "")


def print_rows(title: str, rows: list[dict], as_json: bool, hidden: tuple[str, ...] = ()) -> None:
    """Rows as JSON, or as a table without their lists and the hidden columns."""
    if as_json:
        show_json(rows)
    elif rows:
        shown = [k for k, v in rows[0].items() if not isinstance(v, list | dict) and k not in hidden]
        show_rows(title, shown, rows)


def package_of(registry: Registry, name: str) -> str:
    """Which package gives something, with its version; ``"spiketok"`` for what is built in."""
    origin = registry.origin(name)
    return "spiketok" if origin is None else origin.distribution


def hidden_package(rows: list[dict]) -> tuple[str, ...]:
    """That the packages need no column, where all is built in."""
    return () if any(row["package"] != "spiketok" for row in rows) else ("package",)


def whole_ns(milliseconds: float, option: str) -> int:
    ns = round(milliseconds * 1e6)
    if not 0 < ns < 2**62 or abs(ns - milliseconds * 1e6) > 1e-6:
        message = f"{option} {milliseconds}: must be a positive whole number of ns"
        raise UsageError(message)
    return ns
