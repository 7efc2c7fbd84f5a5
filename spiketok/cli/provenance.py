"""The commands that look back: verify, cite, export."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import complain, progress, say, show, show_json, show_rows
from spiketok.cli.options import Json, Root, Sessions, Store, Workers, collect, counted, print_rows
from spiketok.errors import DataError, FetchError, SourceError, SpiketokError, UsageError, require
from spiketok.storage.workspace import Workspace


def verify(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[SESSION|SHARD|RUN|REPORT]",
            help="A path, or a name in the workspace.",
            show_default="all sessions",
        ),
    ] = None,
    sessions: Sessions = None,
    quick: Annotated[bool, typer.Option("--quick", help="Digests only: do not read the sources with pynwb.")] = False,
    jobs: Workers = 1,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Compare sessions with their sources through pynwb, check all digests; walk a run or report back to sources."""
    from spiketok.pipeline.inspect import kind_of, locate

    workspace = Workspace.locate(root, store)
    if what is None:
        _verify_sessions(workspace, workspace.select(sessions), jobs, quick, as_json)
        return
    if sessions is not None:
        message = f"'{what}' and --sessions both say what to verify: give one"
        raise UsageError(message)
    if what in workspace.session_ids():
        _verify_sessions(workspace, [what], jobs, quick, as_json)
        return
    path = locate(what, workspace)
    kind = kind_of(path)
    if kind == "workspace":
        _verify_sessions(workspace, workspace.select(), jobs, quick, as_json)
    elif kind == "session":
        session_id = "/".join(path.resolve().parts[-2:])
        _verify_sessions(workspace, workspace.select(session_id), jobs, quick, as_json)
    else:
        own = None if root else Workspace.around(path)  # a path says where the rest of its chain lies
        _verify_chain(
            replace(own, store_place=workspace.store_place, shards_place=workspace.shards_place) if own else workspace,
            path,
            quick,
            as_json,
        )


def _verify_sessions(workspace: Workspace, chosen: list[str], jobs: int, quick: bool, as_json: bool) -> None:
    from spiketok.pipeline import verify

    def row(done: verify.Verified) -> dict:
        for difference in done.differences:
            complain(f"{done.session_id}: {difference}")
        for line in done.not_here:
            say(f"{done.session_id}: not here: {line}")
        equal = "source not here, digests hold" if done.not_here else "digests hold" if quick else "equal"
        return {
            "session": done.session_id,
            "units": done.n_units,
            "spikes": done.n_spikes,
            "table rows": done.n_rows,
            "samples": done.n_samples,
            "shards": done.n_shards,
            "result": f"{len(done.differences)} differences" if done.differences else equal,
            "differences": done.differences,
        }

    outcomes = verify.verify(workspace, chosen, jobs, quick=quick)
    rows, failed = collect("verify", "sessions", len(chosen), outcomes, row)
    print_rows("verified", rows, as_json)
    if failed or any(r["differences"] for r in rows):
        raise typer.Exit(1)


def _verify_chain(workspace: Workspace, path: Path, quick: bool, as_json: bool) -> None:
    from spiketok.pipeline.provenance import first_broken, walk

    links = []
    with progress("verify", None, "links") as advance:
        for link in walk(path, workspace, quick=quick):
            links.append(link)
            advance(1, link.name)
    broken = first_broken(links)
    if as_json:
        show_json({"chain": [asdict(link) for link in links], "first_broken": asdict(broken) if broken else None})
    else:
        rows = [
            {"link": f"{'  ' * link.depth}{link.kind}", "name": link.name, "state": link.state,
             "digest": link.digest[:12] or None, "what": link.remark or None}
            for link in links
        ]  # fmt: skip
        show_rows("chain", ["link", "name", "state", "digest", "what"], rows)
    if broken is not None:
        complain(f"the first broken link: {broken.kind} {broken.name}: {broken.remark}")
        raise typer.Exit(1)
    absent = sum(link.state == "not here" for link in links)
    unknown = sum(link.state == "not recorded" for link in links)
    limits = [f"{absent} not here"] * bool(absent) + [f"{unknown} not recorded"] * bool(unknown)
    say(f"{len(links) - absent - unknown} of {len(links)} links hold" + (f" ({', '.join(limits)})" if limits else ""))


def cite(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN|REPORT|SESSION|DATASET]...", help="What was used.", show_default="all sessions"),
    ] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="Print BibTeX entries.")] = False,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Print the citations, DOIs, versions and licences of all that a run, report or session is made of."""
    from spiketok.pipeline import citations

    if bibtex and as_json:
        message = "--bibtex and --json exclude each other"
        raise UsageError(message)
    found = citations.cite(names or [], Workspace.locate(root, store))
    if as_json:
        show_json([asdict(one) for one in found])
        return
    for line in (citations.to_bibtex if bibtex else citations.to_lines)(found):
        show(line)
    silent = [one.name for one in found if one.kind == "data" and not one.license]
    if silent:
        say(f"no licence is stated for {', '.join(silent)}: ask its authors before you share anything made of it")


def _sources_here(workspace: Workspace, session_id: str) -> list[Path]:
    """A session's source files, if all are on this machine; else none, and the format tells what that leaves open."""
    from spiketok.pipeline.ingest import source_paths

    try:
        paths = source_paths(workspace, session_id)
    except (SourceError, FetchError):  # not recorded here, gone, or behind a URL that does not answer
        return []
    return paths if all(isinstance(path, Path) for path in paths) else []


def export(
    sessions: Annotated[
        list[str],
        typer.Argument(metavar="SESSION... | RUN", help="Ids or globs of stored sessions; or a run's folder or name."),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="nwb, torch_brain, nlb (_20, _test, _test_20), falcon, ndt_h5 or lfads_h5; windows of shards for "
            "loaders: mds, litdata, webdataset or hf; a run: nlb, nlb_test, bwb, falcon_container.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder; a session goes to DATASET/SESSION in it.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that stand there.")] = False,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Of a run, --to bwb: the model's name.", show_default="the run's name"),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of ndt_h5, lfads_h5, loaders: window_ms=500 ..."),
    ] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Write stored sessions in another format; what it cannot hold is told. Of a run: what benchmarks' servers take."""
    from spiketok.pipeline.export import export_session, exporter_of, find_exported
    from spiketok.pipeline.jobs import describe
    from spiketok.pipeline.samples.writers import WRITERS
    from spiketok.settings import merge, parse_assignment
    from spiketok.storage.records import is_run
    from spiketok.storage.store import read_attributes, read_session

    workspace = Workspace.locate(root, store)
    runs = [path for name in sessions for path in (Path(name), workspace.runs / name) if is_run(path)]
    if runs:
        if len(sessions) > 1:
            message = f"{runs[0].name} is a run: export it alone"
            raise UsageError(message)
        if label is not None and to != "bwb":
            message = f"--label is of a run that is exported --to bwb, not --to {to}: leave it out"
            raise UsageError(message)
        if to == "bwb":
            _export_bwb(workspace, runs[0], out, label, overwrite, as_json)
        else:
            write = _export_container if to == "falcon_container" else _export_rates
            write(workspace, runs[0], to, out, overwrite, as_json)
        return
    if to == "falcon_container":
        message = "--to falcon_container packs a run, not sessions: name a run's folder"
        raise UsageError(message)
    if label is not None:
        message = "--label is of a run that is exported --to bwb: leave it out"
        raise UsageError(message)
    settings: dict[str, object] = {}
    for text in assignments or ():
        settings = merge(settings, parse_assignment(text, "--set"))
    chosen = list(dict.fromkeys(s for pattern in sessions for s in workspace.select(pattern)))
    if to in WRITERS:
        _export_samples(workspace, chosen, to, out, settings, overwrite, as_json)
        return
    exporter = exporter_of(to, settings)
    rows, failed = [], 0
    with progress("export", len(chosen), "sessions") as advance:
        for session_id in chosen:
            path = workspace.store_path(session_id)
            try:
                digest = read_attributes(path)["digest"]
                done = None if overwrite else find_exported(session_id, digest, to, out, settings)
                if done is None:
                    sources = _sources_here(workspace, session_id) if exporter.write_beside is not None else []
                    session, more = read_session(path), {"sources": sources, "settings": settings}
                    done = export_session(session, digest, to, out, overwrite=overwrite, **more)
            except (SpiketokError, OSError) as error:  # one session's trouble does not stop the others
                complain(f"{session_id}: {describe(error)}")
                failed += 1
            else:
                for remark in done.remarks:
                    say(f"{session_id}: {remark}")
                rows.append({"session": session_id, "state": done.state, "file": done.path, "bytes": done.nbytes,
                             "not as it is": None if done.state == "already" else len(done.remarks),
                             "remarks": list(done.remarks)})  # fmt: skip
            advance(1, session_id)
    print_rows("exported", rows, as_json)
    say(counted("sessions", [row["state"] for row in rows], failed))
    if failed:
        raise typer.Exit(1)


def _export_samples(
    workspace: Workspace, chosen: list[str], to: str, out: Path, settings: dict, overwrite: bool, as_json: bool
) -> None:
    """Windows of the shards of all sessions as one dataset of another library."""
    from spiketok.pipeline.samples import export_samples

    with progress("export", None, "samples") as advance:
        done = export_samples(workspace, chosen, to, out, settings, overwrite=overwrite, told=lambda: advance(1, to))
    rows = [{"split": name, "samples": n, "folder": str(out / name)} for name, n in done.samples.items()]
    print_rows(f"{to}: windows of {done.sessions} sessions", rows, as_json)
    say(f"{done.state}: {sum(done.samples.values())} samples of {done.sessions} sessions, {done.nbytes} bytes in {out}")


def _export_container(workspace: Workspace, folder: Path, to: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """A folder from which docker builds a submission to FALCON's server."""
    require("torch", "train", "a decoder of a run")
    from spiketok.evaluation.falcon_container import write_container

    done = write_container(folder, out, overwrite=overwrite, root=workspace.root)
    for line in done.remarks:
        say(f"{folder.name}: {line}")
    row = {"run": folder.name, "task": done.task, "state": done.state, "folder": done.path, "bytes": done.nbytes}
    print_rows("packed for FALCON", [row], as_json)


def _export_rates(workspace: Workspace, folder: Path, to: str, out: Path, overwrite: bool, as_json: bool) -> None:
    """The rates of a population run as the benchmark's evaluation reads them; of the valid split its scores too."""
    require("torch", "train", "the rates of a run")
    from spiketok.evaluation.nlb_rates import export_rates
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, open_shards

    splits = {"nlb": "valid", "nlb_test": "test"}
    if to not in splits:
        given = f"{' or '.join(splits)} (its bins are those of the run), bwb or falcon_container"
        message = f"a run is exported --to {given}; not --to {to}"
        raise UsageError(message)
    run = load_run(folder)
    rows = []
    for tokens in open_shards(workspace, run.own, run.config):
        path = workspace.store_path(tokens.id)
        done = export_rates(run, tokens, path, splits[to], out, device_of(run.config), overwrite=overwrite)
        for line in done.remarks:
            say(f"{tokens.id}: {line}")
        rows.append({"session": tokens.id, "state": done.state, "file": done.path, "bytes": done.nbytes, **done.scores})
    print_rows(f"rates of {run.path.name}, scored as the benchmark does" if to == "nlb" else "rates", rows, as_json)
    say(counted("sessions", [row["state"] for row in rows]))


def _export_bwb(
    workspace: Workspace, folder: Path, out: Path, label: str | None, overwrite: bool, as_json: bool
) -> None:
    """The predictions of a run in the test windows of BrainWideBench, of each task that it answers."""
    require("torch", "train", "the predictions of a run")
    from spiketok.evaluation.bwb_export import export_session
    from spiketok.training.checkpoints import load_run
    from spiketok.training.runs import device_of, open_shards

    run = load_run(folder)
    rows, told = [], []
    for tokens in open_shards(workspace, run.own, run.config):
        before = len(told)
        for done in export_session(
            run,
            tokens,
            workspace.store_path(tokens.id),
            out,
            label or run.path.name,
            device_of(run.config),
            overwrite=overwrite,
            left_out=told.append,
        ):
            if done.seen:
                fact = f"{done.seen} of {done.n} windows of {done.task} lie in the run's training time"
                say(f"{tokens.id}: {fact}, so its score is no test: train with --set split.kind=stored")
            rows.append({"session": tokens.id, "task": done.task, "state": done.state, "windows": done.n,
                         "file": str(done.path)})  # fmt: skip
        for line in told[before:]:
            say(f"{tokens.id}: left out: {line}")
    print_rows(f"predictions of {run.path.name} for BrainWideBench", rows, as_json)
    say(counted("files", [row["state"] for row in rows]))
    if not rows:
        message = f"no session of {run.path.name} has test windows of a task that it answers: the lines above say why"
        raise DataError(message)
