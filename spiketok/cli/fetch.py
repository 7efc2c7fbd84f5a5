"""The command ``fetch``: plan, download, check what is here, read what is elsewhere."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import complain, progress, say, show, show_json, show_rows
from spiketok.cli.data import (
    DropOutside,
    Join,
    Mask,
    MergeAs,
    Metrics,
    MinRate,
    Process,
    Quality,
    Restarts,
    Strict,
    TimeUnits,
    TrialTable,
    UnitsPath,
    ingest_paths,
    join_settings,
    session_row,
    tell_notes,
    wanted_settings,
)
from spiketok.cli.groups import expanded
from spiketok.cli.options import Json, Part, Root, Sessions, counted, part_of, print_rows, put_index
from spiketok.errors import UsageError
from spiketok.storage.files import human_bytes
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.pipeline.fetch import Failure
    from spiketok.sources.catalogue import Checked, Dataset, Plan, Progress, Request, Selection

SHOWN = 20  # lines of what was tried for a file that failed, and of what a limit left out


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Dataset, a group as nlb, dandiset id, dandi://, zenodo:ID, NWB URL, path; none lists the names.",
        ),
    ] = None,
    download_only: Annotated[bool, typer.Option("--download-only", help="Do not normalize into the store.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, bytes, licence and citation; write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check what is here against its recorded digests; no network.")
    ] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Read units, trials and behaviour where they lie; download no file.")
    ] = False,
    version: Annotated[
        str | None, typer.Option("--version", help="latest, draft or a version, in place of the pinned one.")
    ] = None,
    sessions: Sessions = None,
    subjects: Annotated[
        str | None, typer.Option("--subjects", metavar="GLOB", help="Only these subjects (the sub- part of a path).")
    ] = None,
    glob: Annotated[
        str | None, typer.Option("--glob", metavar="GLOB", help="Only these files; comma-separated, on whole paths.")
    ] = None,
    max_sessions: Annotated[
        int | None, typer.Option("--max-sessions", min=1, help="At most so many sessions, in order of path.")
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="SIZE", help="At most so much (2GB), whole sessions only.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-J", min=1, help="Files to download at a time.")] = 4,
    policy: Annotated[
        str, typer.Option("--existing", "-e", help="error, skip, overwrite, overwrite-different or refresh.")
    ] = "skip",
    api_url: Annotated[str | None, typer.Option("--api-url", help="Another API than the public archive's.")] = None,
    process: Process = None,
    min_rate: MinRate = None,
    quality: Quality = None,
    metrics: Metrics = False,
    merge_as: MergeAs = None,
    join: Join = None,
    mask: Mask = None,
    time_unit: TimeUnits = None,
    drop_outside: DropOutside = False,
    units: UnitsPath = None,
    restarts: Restarts = None,
    trials: TrialTable = None,
    strict: Strict = False,
    division: Part = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Download recordings from DANDI or Zenodo (or take local files) and normalize them into the store."""
    if not names:
        _show_choice(as_json)
        return
    from spiketok.pipeline.fetch import Failure, pinned, plan_each, plans_of_part
    from spiketok.sources.archives.plans import check_policy
    from spiketok.sources.catalogue import LocalRequest, Selection, resolve
    from spiketok.storage.files import parse_bytes

    if verify + dry_run + stream + download_only > 1:
        message = "--verify, --dry-run, --stream and --download-only exclude each other"
        raise UsageError(message)
    part = part_of(division)
    joins = join_settings(merge_as, join)
    without = (("--verify", verify), ("--stream", stream), ("--download-only", download_only), ("--part", part))
    if merge_as is not None and (other := next((option for option, given in without if given), "")):
        message = f"--merge-as {merge_as} with {other}: one session is made of whole files that are here; leave one out"
        raise UsageError(message)
    if part is not None and verify:
        message = f"--part {division} with --verify: all that is here is checked at once; leave --part out"
        raise UsageError(message)
    workspace = Workspace.locate(root)
    check_policy(policy)
    limit = None if max_bytes is None else parse_bytes(max_bytes, "--max-bytes")
    selection = Selection(sessions, subjects, glob, max_sessions, limit)
    wanted = wanted_settings(
        process, min_rate, quality, metrics, mask, time_unit, drop_outside, units, restarts, trials
    )
    wanted |= joins
    requests = [resolve(name, version) for name in expanded(names)]
    if verify:
        _verify(workspace, requests, selection, _place_options(root, api_url), as_json)
        return
    paths = [request.path for request in requests if isinstance(request, LocalRequest)]
    if part is not None and paths:
        message = f"--part {division}: {paths[0]} is on this machine: spiketok ingest {paths[0]} --part {division}"
        raise UsageError(message)
    plans: list[Plan] = []
    failures: list[Failure] = []
    known: list[tuple[Dataset, Failure]] = []
    for one in plan_each(requests, workspace.raw, api_url=api_url, selection=selection, policy=policy, jobs=jobs):
        if dry_run and isinstance(one, Failure) and version is None and (entry := pinned(one.name)) is not None:
            known.append((entry, one))
        elif isinstance(one, Failure):
            _tell(one, failures)
        else:
            plans.append(one)
    plans = plans_of_part(plans, part)
    if part is not None and not plans and not dry_run:
        say(f"part {division} has no session of {', '.join(names)}: nothing to do")
        _report([], failures, "sessions", as_json)
        return
    if dry_run:
        _show_plans(plans, paths, known, as_json)
        if failures:
            raise typer.Exit(1)
        return
    if not as_json:
        for plan in plans:
            for line in plan.limits:
                say(f"{plan.name}: {line}")
    if stream:
        _stream(workspace, plans, paths, failures, wanted, strict, as_json)
        return
    for plan in plans:
        paths += _download(workspace, plan, jobs, policy, failures, whole_sessions=not download_only)
    if merge_as is not None and failures:
        for path in paths:
            _tell(Failure(str(path), "ingest", f"not joined as '{merge_as}': another file failed"), failures)
        paths = []
    _finish(workspace, paths, failures, None if download_only else wanted, strict, as_json, merge_as or "")


def _show_choice(as_json: bool) -> None:
    """What can be fetched by name, smallest first, each with the command to type."""
    from spiketok.pipeline.fetch import by_size

    rows = [
        {
            "type": f"spiketok fetch {d.name}",
            "size": "not stated" if d.bytes is None else human_bytes(d.bytes),
            "files": d.files,
            "what": d.title,
        }
        for d in by_size()
    ]
    print_rows("what can be fetched, smallest first", rows, as_json)
    if not as_json:
        say("any other dandiset by its number; about one: spiketok datasets NAME; without data: spiketok simulate")


def _download(
    workspace: Workspace, plan: Plan, jobs: int, policy: str, failures: list[Failure], *, whole_sessions: bool
) -> tuple[Path, ...]:
    """The files of a plan that are here and good; what failed is told with what was tried."""
    from spiketok.pipeline.fetch import bring

    with _download_progress(plan) as report:
        brought = bring(plan, workspace.raw, jobs=jobs, policy=policy, progress=report, whole_sessions=whole_sessions)
    for failure in brought.failures:
        _tell(failure, failures)
    say(f"{plan.name}: {counted('files', brought.states, sum(f.stage == 'download' for f in brought.failures))}")
    return brought.files


def _tell(failure: Failure, failures: list[Failure]) -> None:
    """Tell a failure at once, with what was tried, and keep it for the end."""
    complain(f"{failure.name}: {failure.error}")
    for line in failure.tried[-SHOWN:]:
        say(f"    {line}")
    failures.append(failure)


def _finish(
    workspace: Workspace,
    paths: list[Path],
    failures: list[Failure],
    wanted: dict[str, object] | None,
    strict: bool,
    as_json: bool,
    merge_as: str = "",
) -> None:
    """Ingest what came (None is wanted: do not), and tell what is where and what failed."""
    from spiketok.pipeline.fetch import Failure, joined_under

    if wanted is None:
        _report([{"file": str(path), "state": "here"} for path in paths], failures, "files", as_json)
        return
    rows: list[dict] = []
    if paths:
        bad: list[dict] = []
        dataset = joined_under(paths, merge_as) if merge_as else "local"
        how = {"wanted": wanted, "merge_as": merge_as, "strict": strict, "failures": bad}
        rows, _ = ingest_paths(workspace, paths, dataset, **how)
        failures += [Failure(one["file"], "ingest", one["error"]) for one in bad]
    _report(rows, failures, "sessions", as_json)
    if not as_json:
        say("next: spiketok tokenize --scheme per-spike")


def _report(rows: list[dict], failures: list[Failure], title: str, as_json: bool) -> None:
    """The result, and where something failed the command that tries the rest again.

    Raises:
        typer.Exit: with code 1, where something failed.
    """
    from spiketok.sources.archives.urls import public_url

    words = [public_url(word) if "://" in word else word for word in sys.argv[1:]]
    again = shlex.join(["spiketok", *words])
    again += "" if words == sys.argv[1:] else " (with the whole address)"  # what it holds is for nobody's log
    if as_json:
        told = {title: rows, "failed": [one.name for one in failures], "failures": [asdict(one) for one in failures]}
        show_json(told | ({"again": again} if failures else {}))
    else:
        print_rows(title, rows, as_json=False)
    if failures:
        say(f"to try the rest again: {again}")
        raise typer.Exit(1)


# ---- read where it is -----------------------------------------------------------------------------------------------


def _stream(
    workspace: Workspace,
    plans: Sequence[Plan],
    local: Sequence[Path],
    failures: list[Failure],
    wanted: dict[str, object],
    strict: bool,
    as_json: bool,
) -> None:
    """Make the sessions of all plans from remote files."""
    from spiketok.pipeline.fetch import Failure
    from spiketok.pipeline.ingest_remote import stream

    if local:
        message = f"{local[0]} is on this machine: leave out --stream"
        raise UsageError(message)
    rows = []
    for plan in plans:
        with progress(f"stream {plan.name}", len(plan.assets), "files") as advance:
            for outcome in stream(workspace, plan, wanted, strict=strict, told=say):
                advance(1, outcome.name)
                if outcome.error is not None:
                    _tell(Failure(outcome.name, "stream", outcome.message), failures)
                    if outcome.result is None:
                        continue
                row = session_row(outcome.result.ingested)
                read = f"{human_bytes(outcome.result.read_bytes)} of {human_bytes(outcome.result.total_bytes)}"
                rows.append({**row, "read": read})
    put_index(workspace)
    kept = [row for row in rows if row["state"] != "refused"]
    tell_notes(kept)
    say(counted("sessions", [row["state"] for row in kept], sum(f.stage == "stream" for f in failures)))
    _report(rows, failures, "sessions", as_json)
    if not as_json:
        say("the files were not verified as a whole: their digests are the ones that the archive announces")
        say("next: spiketok tokenize --scheme per-spike")


# ---- plans ----------------------------------------------------------------------------------------------------------


def _show_plans(plans: list[Plan], local: list[Path], known: list[tuple[Dataset, Failure]], as_json: bool) -> None:
    """What a fetch would bring; of a pinned dataset whose archive does not answer, what the catalogue knows of it."""
    from spiketok.pipeline.fetch import plan_facts

    if as_json:
        told = {"plans": [plan_facts(plan) for plan in plans], "local": local}
        offline = [asdict(entry) | {"error": failure.error} for entry, failure in known]
        show_json(told | ({"offline": offline} if offline else {}))
        return
    for plan in plans:
        rows = [
            {"file": a.path, "size": "?" if a.size is None else human_bytes(a.size), "state": a.problem or a.state}
            for a in plan.assets
        ]
        where = f"dandiset {plan.dandiset}" if plan.dandiset else "plain addresses"
        where = f"{plan.host.capitalize()} record {plan.record}" if plan.record else where
        show_rows(f"{plan.name}: {plan.title or where}", ["file", "size", "state"], rows)
        total, missing = plan.total_bytes, plan.fetch_bytes
        show(
            f"{'record' if plan.record else 'dandiset':<11}{plan.dandiset or plan.record or '-'} "
            f"version {plan.version or '-'}"
        )
        show(f"licence    {plan.license or 'not stated'}")
        show(f"citation   {plan.citation or 'not stated'}")
        show(f"files      {len(plan.assets)}, {'? bytes' if total is None else human_bytes(total)}")
        show(f"to fetch   {'? bytes' if missing is None else human_bytes(missing)} into {plan.folder}")
        for line in (*plan.left_out, *plan.limits):
            show(f"left out   {line}")
    for entry, failure in known:
        size = "? bytes" if entry.bytes is None else human_bytes(entry.bytes)
        show(f"{entry.name}: {entry.title}")
        show(f"dandiset   {entry.dandiset or entry.record} version {entry.version}", indent=11)
        show(f"licence    {entry.license or 'not stated'}", indent=11)
        show(f"citation   {entry.citation or 'not stated'}", indent=11)
        show(f"files      {'?' if entry.files is None else entry.files}, {size} (as the catalogue has it)", indent=11)
        say(f"from the catalogue alone, its archive does not answer: {failure.error}")
    for path in local:
        show(f"local      {path}: nothing to download")


@contextlib.contextmanager
def _download_progress(plan: Plan) -> Iterator[Progress]:
    """Give ``progress(path, done, total)`` for one plan, drawn as one bar of bytes."""
    seen: dict[str, int] = {}
    with progress(f"fetch {plan.name}", plan.total_bytes, "bytes") as advance:

        def report(path: str, done: int, total: int) -> None:
            advance(done - seen.get(path, 0), path)
            seen[path] = done

        yield report


# ---- what is here ---------------------------------------------------------------------------------------------------


def _verify(
    workspace: Workspace, requests: Sequence[Request], selection: Selection, options: list[str], as_json: bool
) -> None:
    """Check what is here of each name; name what is bad, with the command that mends it.

    Raises:
        typer.Exit: with code 1, where a file is bad or a name is not here.
    """
    from spiketok.pipeline.fetch import Failure, check_each

    rows, bad = [], 0
    for found in check_each(requests, workspace.raw, selection):
        if isinstance(found, Failure):
            complain(found.error)
            bad += 1
        else:
            rows += [_checked_row(one, options) for one in found]
    for row in rows:
        if row["state"] != "good":
            complain(": ".join(filter(None, (row["file"], row["detail"], row["repair"]))))
            bad += 1
    if as_json:
        show_json({"files": rows, "bad": bad})
    else:
        show_rows("checked", ["file", "state"], rows)
    if bad:
        raise typer.Exit(1)


def _checked_row(one: Checked, options: list[str]) -> dict[str, str]:
    repair = shlex.join([*one.repair, *options]) if one.repair else ""
    return {"file": one.path, "state": one.state, "detail": one.detail, "repair": repair}


def _place_options(root: Path | None, api_url: str | None) -> list[str]:
    """The options that a command needs to mean the same workspace and server."""
    given = (("--root", root), ("--api-url", api_url))
    return [word for option, value in given if value is not None for word in (option, str(value))]
