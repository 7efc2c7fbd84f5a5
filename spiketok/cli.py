"""The command line: parse, one library call, print.

Everything heavy is imported inside the command that needs it, so that ``spiketok --help`` answers at once.
Exit codes: 0 all went well, 1 an item failed, 2 the request was wrong.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok import __version__
from spiketok.console import complain, progress, say, show_json, show_rows, training_table
from spiketok.errors import FetchError, SpiketokError, UnknownNameError, UsageError, require
from spiketok.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.jobs import Outcome

app = typer.Typer(
    name="spiketok",
    help="From public recordings of spiking neurons to exact tokens, trained decoders and cross-session scores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
Workers = Annotated[int, typer.Option("--jobs", "-J", min=1, help="Worker processes.")]
Executor = Annotated[
    str | None,
    typer.Option(
        "--executor", metavar="WHERE", help="processes:N, dask:local or dask:SCHEDULER_URL; instead of --jobs."
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"spiketok {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; ``main`` takes ``--debug`` out of the line before it is parsed."""


def _collect(
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


def _executor(executor: str | None, jobs: int) -> str:
    """Where jobs run, as :func:`spiketok.jobs.run_jobs` reads it."""
    if executor and jobs > 1:
        message = f"--executor {executor} and --jobs {jobs} both say where jobs run: give one"
        raise UsageError(message)
    return executor or (f"processes:{jobs}" if jobs > 1 else "")


def _print_rows(title: str, rows: list[dict], as_json: bool, hidden: tuple[str, ...] = ()) -> None:
    """Rows as JSON, or as a table without their lists and the hidden columns."""
    if as_json:
        show_json(rows)
    elif rows:
        shown = [k for k, v in rows[0].items() if not isinstance(v, list | dict) and k not in hidden]
        show_rows(title, shown, rows)


# ---- fetch and ingest -----------------------------------------------------------------------------------------------


@app.command()
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
        rows, bad = _ingest(workspace, paths)
    elif download_only:
        rows = [{"file": str(path), "state": "here"} for path in paths]
    if as_json:
        show_json({"sessions": rows, "failed": failed})
    else:
        _print_rows("files" if download_only else "sessions", rows, as_json=False)
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


@app.command()
def ingest(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="NWB files, and folders of them, here or at URLs (s3://...).")
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="First half of the session ids.")] = "local",
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
    rows, failed = _ingest(Workspace.locate(root, store), paths, dataset, _executor(executor, jobs))
    _print_rows("sessions", rows, as_json)
    if failed:
        raise typer.Exit(1)
    if not as_json:
        say("next: spiketok tokenize --scheme per-spike")


def _ingest(workspace: Workspace, paths: list, dataset: str = "local", executor: str = "") -> tuple[list[dict], int]:
    """Ingest, telling repairs and failures as they come; the sessions' rows, and how many files failed."""
    from spiketok import stages

    def row(done: stages.Ingested) -> dict:
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

    files = stages.find_nwb_files(paths)
    outcomes = stages.ingest(workspace, files, dataset, executor)
    rows, failed = _collect("ingest", "files", len(files), outcomes, row)
    noted = [r["session"] for r in rows if r["notes"]]
    if noted:
        say(f"{len(noted)} sessions have notes on what was kept as it is: spiketok inspect {noted[0]}")
    if failed:
        say(f"{failed} of {len(files)} files failed, {len(rows)} are in the store")
    return rows, failed


@app.command()
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


# ---- simulate -------------------------------------------------------------------------------------------------------


@app.command()
def simulate(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the NWB files.", show_default="ROOT/simulated")
    ] = None,
    task: Annotated[str, typer.Option("--task", help="center_out or random_target.")] = "center_out",
    subjects: Annotated[int, typer.Option("--subjects", min=1, help="Number of subjects.")] = 2,
    sessions: Annotated[int, typer.Option("--sessions-per-subject", min=1, help="Days a subject.")] = 4,
    units: Annotated[int, typer.Option("--units", min=1, help="Units a session.")] = 60,
    duration_s: Annotated[float, typer.Option("--duration-s", help="Length of a session in seconds.")] = 300.0,
    turnover: Annotated[float | None, typer.Option("--turnover", help="Share of the units replaced a day.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same bytes.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other field of SimulationConfig.")
    ] = None,
    ingest_too: Annotated[bool, typer.Option("--ingest/--files-only", help="Also normalize into the store.")] = True,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Simulate sessions of one or more subjects as NWB files, with the ground truth beside them."""
    from spiketok.datasets.synthetic import SimulationConfig
    from spiketok.datasets.synthetic import simulate as simulate_files

    config = SimulationConfig(
        task=task, n_subjects=subjects, sessions_per_subject=sessions, n_units=units, duration_s=duration_s, seed=seed
    )
    if turnover is not None:
        config = replace(config, turnover=turnover)
    for text in settings or []:
        config = _with_setting(config, text)
    workspace = Workspace.locate(root)
    folder = out or workspace.simulated
    with progress("simulate", subjects * sessions, "sessions") as advance:
        files = simulate_files(config, folder, progress=lambda done, total, name: advance(1, name))
    say(f"{len(files)} NWB files with their truth in {folder}")
    rows: list[dict] = [{"file": str(path)} for path in files]
    failed = 0
    if ingest_too:
        rows, failed = _ingest(workspace, files, "simulated")
    _print_rows("sessions" if ingest_too else "files", rows, as_json)
    if failed:
        raise typer.Exit(1)


def _with_setting(config, text: str):
    """One ``key=value`` on top of a simulation's settings."""
    import dataclasses

    key, equals, word = text.partition("=")
    known = {f.name: f for f in dataclasses.fields(config)}
    if not equals:
        message = f"--set '{text}': use KEY=VALUE"
        raise UsageError(message)
    if key not in known:
        raise UnknownNameError("setting", key, known, "the simulation settings")
    kind = type(getattr(config, key))
    try:
        value = kind(word)
    except ValueError:
        message = f"--set {key}={word}: expected {kind.__name__}"
        raise UsageError(message) from None
    return replace(config, **{key: value})


# ---- tokenize -------------------------------------------------------------------------------------------------------


@app.command()
def tokenize(
    scheme: Annotated[
        str,
        typer.Option(
            "--scheme",
            help="binned, patch, quantized, per-spike, event-pair, neuron, calibration, fluorescence, fine-time; "
            "several with commas, or all.",
        ),
    ],
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the scheme; SCHEME.FIELD=VALUE among several."),
    ] = None,
    segments: Annotated[
        str, typer.Option("--segments", metavar="RULE", help="continuous, or trials:ALIGN,PRE_MS,POST_MS.")
    ] = "continuous",
    sessions: Sessions = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the bytes of each shard; write nothing.")] = False,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="All jobs together stay below, as 8GB.")
    ] = None,
    jobs: Workers = 1,
    executor: Executor = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Bake sessions of the store into token shards, all schemes in one pass over each session."""
    from spiketok import stages
    from spiketok.files import parse_bytes

    workspace = Workspace.locate(root, store)
    every = scheme.strip() == "all"
    schemes = _schemes(scheme, bin_ms, settings or [])
    chosen = workspace.select(sessions)
    cap = None if max_memory is None else parse_bytes(max_memory, "--max-memory")
    if dry_run:
        _show_plan([p for s in chosen for p in stages.plan_session(workspace, s, schemes, segments)], as_json)
        return
    outcomes = stages.tokenize(workspace, chosen, schemes, segments, _executor(executor, jobs), cap)
    made, failed = _collect(
        "tokenize", "sessions", len(chosen), outcomes, lambda done: {"session": done[0].session_id, "shards": done}
    )
    rows = []
    for done in (shard for result in made for shard in result["shards"]):
        refused = done.state == "failed" or (done.state == "not served" and not every)
        tell = complain if refused else say
        for note in done.notes:
            tell(f"{done.session_id}: {done.scheme}: {note.removeprefix(f'{done.session_id} ')}")
        failed += refused
        if done.path:
            rows.append(
                {
                    "session": done.session_id,
                    "scheme": done.scheme,
                    "state": done.state,
                    "spikes": done.n_spikes,
                    "held": done.held,
                    "lost": ", ".join(f"{n} {why}" for why, n in done.lost.items() if n) or "none",
                    "MB": done.nbytes / 1e6,
                    "path": done.path,
                }
            )
    _print_rows("shards", rows, as_json, hidden=("path",))
    if failed:
        say(f"{failed} of {len(chosen) * len(schemes)} shards could not be made, {len(rows)} stand")
        raise typer.Exit(1)


def _schemes(names: str, bin_ms: float | None, settings: list[str]) -> list:
    """The schemes that ``--scheme``, ``--bin-ms`` and ``--set`` ask for."""
    from dataclasses import fields

    from spiketok.schemes import SCHEMES, make_scheme, parse_fields

    chosen = list(SCHEMES) if names.strip() == "all" else [n.strip() for n in names.split(",") if n.strip()]
    for name in chosen:
        if name not in SCHEMES:
            raise UnknownNameError("scheme", name, SCHEMES)
    words: dict[str, dict[str, str]] = {name: {} for name in chosen}
    for text in settings:
        key, equals, word = text.partition("=")
        owner, dot, own_field = key.strip().rpartition(".")
        owner = owner if dot else chosen[0]
        if not equals or owner not in words or (not dot and len(chosen) > 1):
            shown = "FIELD=VALUE" if len(chosen) == 1 else "SCHEME.FIELD=VALUE with one of the chosen schemes"
            message = f"--set '{text}': use {shown}"
            raise UsageError(message)
        words[owner][own_field] = word.strip()
    made = []
    for name in chosen:
        values = parse_fields(name, words[name])
        if bin_ms is not None and "bin_ns" in {f.name for f in fields(SCHEMES[name])}:
            values = {"bin_ns": _whole_ns(bin_ms, "--bin-ms")} | values
        elif bin_ms is not None and len(chosen) == 1:
            message = f"--bin-ms: scheme '{name}' has no bins"
            raise UsageError(message)
        made.append(make_scheme(name, **values))
    return made


def _show_plan(plans: list, as_json: bool) -> None:
    from spiketok.files import human_bytes

    if as_json:
        show_json([asdict(p) for p in plans])
        return
    rows = [
        {
            "session": p.session_id,
            "scheme": p.scheme,
            "state": p.state,
            "at most": human_bytes(p.nbytes) if p.nbytes else "-",
        }
        for p in plans
    ]
    show_rows("plan", ["session", "scheme", "state", "at most"], rows)
    for reason in (p.reason for p in plans if p.reason):
        say(reason)
    new = [p for p in plans if p.state == "new"]
    print(f"to write   at most {human_bytes(sum(p.nbytes for p in new))} in {len(new)} shards")


@app.command()
def schemes(
    name: Annotated[str | None, typer.Argument(help="Show everything about one scheme.")] = None,
    as_json: Json = False,
) -> None:
    """List the token schemes: one token, who reads it, what it keeps and loses, and its fields."""
    import inspect as code
    from dataclasses import fields

    from spiketok.schemes import SCHEMES

    if name is not None and name not in SCHEMES:
        raise UnknownNameError("scheme", name, SCHEMES)
    told = [
        {
            "scheme": scheme.name,
            "one token is": scheme.token,
            "who reads it": ", ".join(scheme.readers),
            "keeps": scheme.keeps,
            "loses": scheme.loses,
            "fields": {f.name: f.default for f in fields(scheme)},
        }
        for scheme in SCHEMES.values()
        if name in (None, scheme.name)
    ]
    if as_json:
        show_json(told)
    elif name is None:
        _print_rows("schemes", told, as_json=False)
        say("fields and the whole description: spiketok schemes NAME")
    else:
        for label, value in told[0].items():
            shown = ", ".join(f"{k}={v!r}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{label:<14}{shown}")
        print()
        print(code.cleandoc(SCHEMES[name].__doc__))


@app.command()
def stream(
    session: Annotated[str, typer.Argument(help="The id of a session of the store.")],
    scheme: Annotated[str, typer.Option("--scheme", help="One scheme: 'spiketok schemes'.")],
    window_ms: Annotated[
        float | None, typer.Option("--window-ms", help="Length of the windows.", show_default="50, or the scheme's own")
    ] = None,
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the scheme.")
    ] = None,
    piece_ms: Annotated[float, typer.Option("--piece-ms", help="Spikes come in pieces of this length.")] = 1.0,
    speed: Annotated[
        float | None, typer.Option("--speed", help="1 for real time.", show_default="as fast as it can")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", help="Only the session's first seconds.", show_default="all of it")
    ] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Replay a recording as a live stream, and tell how soon each window's tokens came after its last spike."""
    from spiketok.recording import NS_PER_S
    from spiketok.store import read_session
    from spiketok.streaming import replay

    workspace = Workspace.locate(root, store)
    (made,) = _schemes(scheme, bin_ms, settings or []) if scheme != "all" and "," not in scheme else (None,)
    if made is None:
        message = f"--scheme {scheme}: a stream has one scheme"
        raise UsageError(message)
    chosen = workspace.select(session)
    if len(chosen) != 1:
        message = f"'{session}' names {len(chosen)} sessions, a stream replays one: {', '.join(chosen[:3])}"
        raise UsageError(message)
    length_ns = made.window_ns or -(-50_000_000 // made.length_grid_ns) * made.length_grid_ns
    result = replay(
        read_session(workspace.store_path(chosen[0])),
        made,
        length_ns=length_ns if window_ms is None else _whole_ns(window_ms, "--window-ms"),
        speed=speed,
        piece_ns=_whole_ns(piece_ms, "--piece-ms"),
        duration_ns=None if duration_s is None else round(duration_s * NS_PER_S),
    )
    if as_json:
        show_json(asdict(result))
        return
    times = result.recording_s / result.wall_s if result.wall_s else float("inf")
    print(
        f"session    {result.session_id}, {result.recording_s:.1f} s in {result.wall_s:.1f} s ({times:,.1f}x real time)"
    )
    print(
        f"windows    {result.n_windows} of {result.length_ns / 1e6:g} ms, {result.n_tokens} tokens of {result.scheme}"
    )
    print(f"spikes     {result.n_spikes}, {result.n_outside} of them in no window")
    for label, measure, values in (("latency", "us", result.latency_us), ("late", "ms", result.late_ms)):
        if values:
            print(f"{label:<11}" + ", ".join(f"{name} {value:,.1f} {measure}" for name, value in values.items()))


@app.command()
def compare(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION]...", help="Sessions; all without any.")
    ] = None,
    scheme: Annotated[str, typer.Option("--scheme", help="Several with commas, or all.")] = "all",
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SCHEME.FIELD=VALUE", help="A field of a scheme.")
    ] = None,
    window_ms: Annotated[float, typer.Option("--window-ms", help="Length of what is cut.")] = 1000.0,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Windows of each session.")] = 256,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of windows.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write everything to this .json.")] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Measure the schemes against each other on the same sessions: tokens, bytes, what is lost, speed, cost."""
    from spiketok.compare import compare as measure
    from spiketok.compare import plot_comparison
    from spiketok.inspection import check_ending
    from spiketok.store import read_session

    if plot is not None:
        check_ending(plot)
    workspace = Workspace.locate(root, store)
    schemes = _schemes(scheme, bin_ms, settings or [])
    chosen = workspace.select(",".join(sessions) if sessions else None)
    with progress("compare", len(chosen), "sessions") as advance:

        def read():
            for session_id in chosen:
                yield read_session(workspace.store_path(session_id))
                advance(1, session_id)

        result = measure(read(), schemes, window_ns=_whole_ns(window_ms, "--window-ms"), n_windows=windows, seed=seed)
    if out is not None:
        result.write_json(out)
    if plot is not None:
        plot_comparison(result, plot)
    if as_json:
        show_json(result.to_json())
        return
    rows = result.rows()
    show_rows(f"{len(chosen)} sessions, windows of {window_ms:g} ms", list(rows[0]), rows)
    for path in filter(None, (out, plot)):
        say(f"written to {path}")


def _whole_ns(milliseconds: float, option: str) -> int:
    ns = round(milliseconds * 1e6)
    if ns <= 0 or abs(ns - milliseconds * 1e6) > 1e-6:
        message = f"{option} {milliseconds}: must be a positive whole number of ns"
        raise UsageError(message)
    return ns


# ---- train and evaluate ---------------------------------------------------------------------------------------------


@app.command()
def train(
    model: Annotated[str | None, typer.Option("--model", "-m", help="linear, ndt1 or poyo.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of the run.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as optim.steps=500.")
    ] = None,
    sessions: Sessions = None,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", metavar="GLOB", help="Leave these sessions out, for eval-xsession.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Insist on going on with an interrupted run.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an earlier run reached.")] = False,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Train a model on the shards of the chosen sessions; the same command goes on with an interrupted run."""
    if resume and restart:
        message = "--resume and --restart exclude each other"
        raise UsageError(message)
    require("torch", "train", "training")
    from spiketok.config import load_config
    from spiketok.runs import open_training_shards, run_path
    from spiketok.training import train as run_training

    workspace = Workspace.locate(root)
    resolved = load_config(model, config, sets or [])
    readers, left_out = open_training_shards(workspace, resolved, sessions, hold_out)
    for line in left_out:
        say(f"left out: {line}")
    run_dir = run_path(workspace, resolved, readers)
    wanted = "must" if resume else "never" if restart else "auto"
    with training_table() as listen:
        result = run_training(resolved, readers, run_dir, resume=wanted, on_event=listen)
    if result.rank != 0:
        return  # one of several devices: the first one speaks
    if result.resumed_from:
        done = result.resumed_from == result.total_steps
        say("nothing was left to train" if done else f"went on from step {result.resumed_from}")
    rows = [{"session": name, **_plain_scores(scores)} for name, scores in result.scores.items()]
    if as_json:
        show_json({"run": str(run_dir), "steps": result.step, "test": rows})
        return
    if rows:
        show_rows(f"{resolved.model}: scores on the test split", list(rows[0]), rows)
    else:
        say("no session has test time under this split rule: nothing was scored")
    print(f"run {run_dir}")
    say(f"next: spiketok eval-xsession {run_dir}")


def _plain_scores(scores: dict) -> dict:
    """The single numbers of a score, R2 first."""
    return {key: value for key, value in scores.items() if isinstance(value, int | float)}


@app.command("eval-xsession")
def eval_xsession(
    run: Annotated[str, typer.Argument(help="A run's folder or name, or a model's name for its newest run.")],
    sessions: Sessions = None,
    protocols: Annotated[
        str, typer.Option("--protocols", help="Comma-separated: zero_shot, zero_gradient, identity_only, full.")
    ] = "zero_shot,identity_only,full",
    calibration_s: Annotated[float, typer.Option("--calibration-s", help="Labelled seconds to adapt on.")] = 30.0,
    within: Annotated[bool, typer.Option("--within", help="Allow sessions that the model was trained on.")] = False,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="transfer.KEY=VALUE", help="How the model adapts.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report.", show_default="RUN/xsession")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Measure transfer to sessions that the model never saw, beside a linear decoder on the same calibration."""
    require("torch", "train", "evaluation")
    from spiketok.checkpoints import load_run
    from spiketok.config import with_transfer
    from spiketok.report import write_report
    from spiketok.runs import device_of, find_run, open_transfer_shards
    from spiketok.transfer import evaluate_transfer

    workspace = Workspace.locate(root)
    run_dir = find_run(workspace, run)
    loaded = load_run(run_dir)
    readers, remarks, within = open_transfer_shards(workspace, loaded, sessions, within=within)
    for line in remarks:
        say(f"note: {line}")
    names = [p.strip() for p in protocols.split(",") if p.strip()]
    with progress("eval-xsession", None, "cells") as advance:
        result = evaluate_transfer(
            loaded,
            readers,
            protocols=names,
            calibration_s=calibration_s,
            within=within,
            adapt=with_transfer(loaded.config, sets or []).transfer,
            device=device_of(loaded.config),
            on_event=lambda event: advance(1, str(event.get("cell", ""))),
        )
    folder = out or run_dir / "xsession"
    report = write_report(result, folder)
    if as_json:
        show_json(report.summary)
        return
    show_rows(report.title, report.columns, report.rows)
    for line in report.remarks:
        say(line)
    print(f"report {folder / 'report.html'}")


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and shorter: shows that all works, not how well.")
    ] = False,
    root: Annotated[Path, typer.Option("--root", help="Workspace folder of the demo.")] = Path("spiketok-demo"),
) -> None:
    """Run the main job on simulated recordings, offline: simulate, ingest, verify, tokenize, train, evaluate."""
    import time

    from spiketok.demo import demo_commands

    begun = time.monotonic()
    for words in demo_commands(root, quick=quick):
        say("")
        say(f"$ spiketok {shlex.join(words)}")
        app(words, standalone_mode=False)
    say("")
    say(f"demo done in {time.monotonic() - begun:.0f} s; open {root}/runs/*/xsession/report.html in a browser")


# ---- look and check -------------------------------------------------------------------------------------------------


@app.command()
def inspect(
    path: Annotated[
        str | None, typer.Argument(help="Anything spiketok writes, an NWB file, or a session's id.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    start_s: Annotated[float | None, typer.Option("--start-s", help="Where the picture begins.")] = None,
    duration_s: Annotated[float, typer.Option("--duration-s", help="How long a raster is.", min=0.001)] = 10.0,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Tell what a path holds, and draw it; the workspace itself without a path."""
    from spiketok.inspection import check_picture, describe_path, locate, plot_path

    workspace = Workspace.locate(root)
    found = locate(path, workspace)
    if plot is not None:
        check_picture(found, plot)
    told = describe_path(found)
    if as_json:
        show_json(asdict(told))
    else:
        for label, value in told.facts.items():
            print(f"{label:<22}{'-' if value is None else value}")
        for title, rows in told.tables.items():
            print()
            _print_rows(title, rows, as_json=False)
    if plot is not None:
        plot_path(found, plot, start_s, duration_s)
        say(f"drawn to {plot}")


@app.command()
def verify(
    sessions: Sessions = None,
    jobs: Workers = 1,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Read the source files again with pynwb and compare every spike, trial and sample; check all digests."""
    from spiketok import stages

    workspace = Workspace.locate(root, store)
    chosen = workspace.select(sessions)

    def row(done: stages.Verified) -> dict:
        for difference in done.differences:
            complain(f"{done.session_id}: {difference}")
        return {
            "session": done.session_id,
            "units": done.n_units,
            "spikes": done.n_spikes,
            "table rows": done.n_rows,
            "samples": done.n_samples,
            "shards": done.n_shards,
            "result": f"{len(done.differences)} differences" if done.differences else "equal",
            "differences": done.differences,
        }

    rows, failed = _collect("verify", "sessions", len(chosen), stages.verify(workspace, chosen, jobs), row)
    _print_rows("verified", rows, as_json)
    if failed or any(r["differences"] for r in rows):
        raise typer.Exit(1)


@app.command()
def doctor(root: Root = None, as_json: Json = False) -> None:
    """Check this machine: versions, extras, kernels, devices, space."""
    from spiketok.doctor import examine

    findings = examine(Workspace.locate(root))
    if as_json:
        show_json([asdict(f) for f in findings])
    else:
        show_rows("doctor", ["check", "state", "found"], [asdict(f) for f in findings])
    if any(f.state == "broken" for f in findings):
        raise typer.Exit(1)


# ---- the program ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; every error that is not a bug is one line."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # waiting threads that spin cost a shared machine its other work
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        app()
    except SpiketokError as error:
        if debug:
            raise
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nothing to say, nobody to say it to
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        from spiketok.jobs import describe

        complain(describe(error))
        sys.exit(1)
