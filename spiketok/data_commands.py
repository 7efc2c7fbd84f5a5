"""The commands that bring recordings in: fetch, ingest, datasets."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from spiketok.console import complain, progress, say, show_json, show_rows
from spiketok.errors import FetchError, UnknownNameError, UsageError
from spiketok.options import Executor, Json, Root, Sessions, Store, Workers, collect, executor_of, print_rows
from spiketok.workspace import Workspace


def fetch(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Dataset, dandiset id, dandi:// or NWB URL, path.")
    ],
    download_only: Annotated[bool, typer.Option("--download-only", help="Do not normalize into the store.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, bytes, licence and citation; write nothing.")
    ] = False,
    sessions: Sessions = None,
    jobs: Annotated[int, typer.Option("--jobs", "-J", min=1, help="Files to download at a time.")] = 4,
    policy: Annotated[
        str, typer.Option("--existing", "-e", help="error, skip, overwrite, overwrite-different or refresh.")
    ] = "skip",
    api_url: Annotated[
        str | None, typer.Option("--api-url", help="Another DANDI API than the public archive's.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Download recordings from DANDI (or take local files) and normalize them into the store."""
    from spiketok.datasets import LocalRequest, download, plan_fetch, resolve
    from spiketok.datasets.base import check_policy

    workspace = Workspace.locate(root)
    check_policy(policy)
    requests = [resolve(name) for name in names]
    paths = [request.path for request in requests if isinstance(request, LocalRequest)]
    plans, failed = [], []
    for request in requests:
        try:
            plan = plan_fetch(request, workspace.raw, api_url=api_url, sessions=sessions, policy=policy, jobs=jobs)
        except FetchError as error:  # one name's trouble does not stop the others
            complain(f"{request.name}: {error}")
            failed.append(request.name)
        else:
            plans += [] if plan is None else [plan]
    if dry_run:
        _show_plans(plans, paths, as_json)
        if failed:
            raise typer.Exit(1)
        return
    for plan in plans:
        with _download_progress(plan) as report:
            for result in download(plan, workspace.raw, jobs=jobs, policy=policy, progress=report):
                if result.file is None:
                    complain(f"{result.path}: {result.message}")
                    failed.append(result.path)
                else:
                    paths.append(result.file)
    rows: list[dict] = []
    bad = 0
    if not download_only and paths:
        rows, bad = ingest_paths(workspace, paths)
    elif download_only:
        rows = [{"file": str(path), "state": "here"} for path in paths]
    if as_json:
        show_json({"sessions": rows, "failed": failed})
    else:
        print_rows("files" if download_only else "sessions", rows, as_json=False)
    if failed or bad:
        say(f"to try the rest again: {_retry_command()}")
        raise typer.Exit(1)
    if not as_json and not download_only:
        say("next: spiketok tokenize --scheme per-spike")


def _retry_command() -> str:
    return shlex.join(["spiketok", *sys.argv[1:]])


def _show_plans(plans: list, local: list[Path], as_json: bool) -> None:
    from spiketok.files import human_bytes

    if as_json:
        told = [
            asdict(replace(p, listing=())) | {"total_bytes": p.total_bytes, "fetch_bytes": p.fetch_bytes} for p in plans
        ]
        show_json({"plans": told, "local": local})
        return
    for plan in plans:
        rows = [
            {"file": a.path, "size": "?" if a.size is None else human_bytes(a.size), "state": a.problem or a.state}
            for a in plan.assets
        ]
        show_rows(f"{plan.name}: {plan.title or plan.dandiset or 'plain addresses'}", ["file", "size", "state"], rows)
        total, missing = plan.total_bytes, plan.fetch_bytes
        print(f"dandiset   {plan.dandiset or '-'} version {plan.version or '-'}")
        print(f"licence    {plan.license or 'not stated'}")
        print(f"citation   {plan.citation or 'not stated'}")
        print(f"files      {len(plan.assets)}, {'? bytes' if total is None else human_bytes(total)}")
        print(f"to fetch   {'? bytes' if missing is None else human_bytes(missing)} into {plan.folder}")
        for line in plan.left_out:
            print(f"left out   {line}")
    for path in local:
        print(f"local      {path}: nothing to download")


def _download_progress(plan):
    """A context manager that gives ``progress(path, done, total)`` for one plan, drawn as one bar of bytes."""
    import contextlib

    @contextlib.contextmanager
    def manager():
        seen: dict[str, int] = {}
        with progress(f"fetch {plan.name}", plan.total_bytes, "bytes") as advance:

            def report(path: str, done: int, total: int) -> None:
                advance(done - seen.get(path, 0), path)
                seen[path] = done

            yield report

    return manager()


def ingest(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="NWB files, and folders of them, here or at URLs (s3://...).")
    ],
    dataset: Annotated[
        str,
        typer.Option("--dataset", help="First half of the session ids; a name of the catalogue also brings its rules."),
    ] = "local",
    rules: Annotated[
        str | None, typer.Option("--rules", help="Rules of this name in place of the dataset's; 'none' for none.")
    ] = None,
    jobs: Workers = 1,
    executor: Executor = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Normalize NWB files into the store."""
    if "/" in dataset or dataset.startswith(".") or not dataset:
        message = f"--dataset '{dataset}': must be a name without '/' that does not begin with '.'"
        raise UsageError(message)
    rows, failed = ingest_paths(Workspace.locate(root, store), paths, dataset, executor_of(executor, jobs), rules)
    print_rows("sessions", rows, as_json)
    if failed:
        raise typer.Exit(1)
    if not as_json:
        say("next: spiketok tokenize --scheme per-spike")


def ingest_paths(
    workspace: Workspace, paths: list, dataset: str = "local", executor: str = "", rules: str | None = None
) -> tuple[list[dict], int]:
    """Ingest, telling repairs and failures as they come; the sessions' rows, and how many files failed."""
    from spiketok import ingestion
    from spiketok.datasets import rules_of

    def row(done: ingestion.Ingested) -> dict:
        for finding in done.repairs:
            say(f"{done.session_id}: repaired {finding['id']} ({finding['count']}): {finding['text']}")
        return {
            "session": done.session_id,
            "state": done.state,
            "units": done.n_units,
            "spikes": done.n_spikes,
            "seconds": done.duration_s,
            "repairs": len(done.repairs),
            "notes": len(done.notes),
            "findings": {"repairs": done.repairs, "notes": done.notes},
        }

    files = ingestion.find_files(paths, rules_of(dataset).suffixes)
    outcomes = ingestion.ingest(workspace, files, dataset, executor, rules=rules)
    rows, failed = collect("ingest", "files", len(files), outcomes, row)
    noted = [r["session"] for r in rows if r["notes"]]
    if noted:
        say(f"{len(noted)} sessions have notes on what was kept as it is: spiketok inspect {noted[0]}")
    if failed:
        say(f"{failed} of {len(files)} files failed, {len(rows)} are in the store")
    return rows, failed


def datasets(
    name: Annotated[str | None, typer.Argument(help="Show everything about one dataset.")] = None,
    as_json: Json = False,
) -> None:
    """List what can be fetched, with size, licence, units and behaviours."""
    from spiketok.datasets import DATASETS, DandiRequest, resolve
    from spiketok.files import human_bytes

    chosen = list(DATASETS.values())
    if name is not None:
        request = resolve(name) if name not in DATASETS else DandiRequest(name, "", dataset=name)
        if not isinstance(request, DandiRequest) or request.dataset not in DATASETS:
            raise UnknownNameError("dataset", name, DATASETS, "the catalogue")
        chosen = [DATASETS[request.dataset]]
    if as_json:
        show_json([asdict(d) for d in chosen])
        return
    if name is None:
        rows = [
            {
                "name": d.name,
                "dandiset": f"{d.dandiset}/{d.version or 'latest'}",
                "files": d.files,
                "size": None if d.bytes is None else human_bytes(d.bytes),
                "licence": d.license,
                "units": d.units,
                "behaviours": ", ".join(d.behaviours),
            }
            for d in chosen
        ]
        show_rows("datasets", list(rows[0]), rows)
        say("any other dandiset: spiketok fetch 000123; details: spiketok datasets NAME")
        return
    for key, value in asdict(chosen[0]).items():
        words = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{key:<11}{'-' if words in (None, '') else words}")
