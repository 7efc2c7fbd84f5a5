"""The commands around token schemes: tokenize, schemes, stream, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import complain, progress, say, show_json, show_rows
from spiketok.cli.options import (
    Executor,
    Json,
    Part,
    Root,
    Sessions,
    Store,
    Workers,
    collect,
    counted,
    executor_of,
    hidden_package,
    indexed,
    package_of,
    part_of,
    print_rows,
    whole_ns,
)
from spiketok.errors import DataError, SpiketokError, UnknownNameError, UsageError, the_one
from spiketok.storage.workspace import Workspace, one_session

if TYPE_CHECKING:
    from spiketok.recording.findings import Told


def tokenize(
    scheme: Annotated[
        str | None,
        typer.Option(
            "--scheme",
            help="binned, patch, quantized, per-spike, event-pair, neuron, calibration, fluorescence, fine-time, "
            "frames; several with commas, or all.",
            show_default="per-spike",
        ),
    ] = None,
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    bin_compat: Annotated[
        str | None,
        typer.Option("--bin-compat", help="Count as nlb, falcon-end, falcon-start or torch_brain: for parity only."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the scheme; SCHEME.FIELD=VALUE among several."),
    ] = None,
    segments: Annotated[
        str,
        typer.Option("--segments", metavar="RULE", help="observed, continuous, or trials:ALIGN,PRE_MS,POST_MS."),
    ] = "observed",
    sessions: Sessions = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the bytes of each shard; write nothing.")] = False,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="All jobs together stay below, as 8GB.")
    ] = None,
    division: Part = None,
    jobs: Workers = 1,
    executor: Executor = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Bake sessions of the store into token shards, all schemes in one pass over each session."""
    from spiketok.pipeline.jobs import share_of
    from spiketok.pipeline.tokenize import plan_session
    from spiketok.pipeline.tokenize import tokenize as bake
    from spiketok.storage.files import parse_bytes

    part = part_of(division)
    workspace = indexed(root, store)
    if scheme is None:
        scheme = "per-spike"
        say(_who_reads())
    tolerant = scheme.strip() == "all" or sessions is None  # what was not named is left out where it does not fit
    if bin_compat is not None:
        settings = [*(settings or []), f"binned.compat={bin_compat}"]
    schemes = _schemes(scheme, bin_ms, settings or [])
    every = workspace.select(sessions)
    chosen = share_of(every, part)
    if not chosen:
        print_rows("shards", [], as_json)
        say(f"part {division} has none of {len(every)} sessions: nothing to do")
        return
    cap = None if max_memory is None else parse_bytes(max_memory, "--max-memory")
    if dry_run:
        plans = []
        for session_id in chosen:
            try:
                plans += plan_session(workspace, session_id, schemes, segments)
            except (DataError, UnknownNameError) as error:
                if sessions is not None:
                    raise
                say(f"left out: {_with_name(session_id, str(error))}")
        _show_plan(plans, as_json)
        return
    told = _findings(workspace, chosen)
    for one in told:
        say(one.line)
    outcomes = bake(workspace, chosen, schemes, segments, executor_of(executor, jobs), cap)
    made, failed = collect(
        "tokenize", "sessions", len(chosen), outcomes, lambda done: {"session": done[0].session_id, "shards": done}
    )
    rows, left_out = [], 0
    for done in (shard for result in made for shard in result["shards"]):
        refused = done.state == "failed" or (done.state == "not served" and not tolerant)
        tell = complain if refused else say
        left_out += done.state == "not served" and not refused
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
                    "findings": [one._asdict() for one in told if done.session_id in one.sessions],
                }
            )
    print_rows("shards", rows, as_json, hidden=("path",))
    say(counted("shards", [row["state"] for row in rows] + ["left out"] * left_out, failed))
    if failed or not rows:
        raise typer.Exit(1)


def _findings(workspace: Workspace, chosen: list[str]) -> list[Told]:
    """What ingesting found in these sessions that matters to their tokens; of one that cannot be read nothing."""
    from spiketok.errors import ArtefactError
    from spiketok.recording.findings import TOKENIZE, Rated, told_again

    found = {}
    for session in chosen:
        try:
            found[session] = [Rated(**one) for one in workspace.facts(session)["findings"]]
        except ArtefactError:  # its own job says so
            continue
    return told_again(TOKENIZE, found)


def _with_name(session_id: str, text: str) -> str:
    return text if text.startswith(session_id) else f"{session_id}: {text}"


def _who_reads() -> str:
    """Which scheme is taken where none is named, and which models read which."""
    from spiketok.errors import MissingExtraError

    chosen = "scheme per-spike (otherwise: --scheme NAME,... or all)"
    try:
        from spiketok.training.config import load_config
        from spiketok.training.plugged import usable_models
        from spiketok.training.runs import run_inputs
    except (MissingExtraError, ModuleNotFoundError):
        return chosen  # without torch there is no model to ask
    each = [
        f"{name} reads {', '.join(dict.fromkeys(i.scheme for i in run_inputs(load_config(name)).values()))}"
        for name in usable_models()
    ]
    return f"{chosen}; {'; '.join(each)}"


def _schemes(names: str, bin_ms: float | None, settings: list[str]) -> list:
    """The schemes that ``--scheme``, ``--bin-ms`` and ``--set`` ask for."""
    from dataclasses import fields

    from spiketok.settings import parse_assignment
    from spiketok.tokens.schemes import SCHEMES, make_scheme

    chosen = list(SCHEMES)
    if names.strip() != "all":
        chosen = [the_one("scheme", word.strip(), SCHEMES) for word in names.split(",") if word.strip()]
    given: dict[str, dict[str, object]] = {name: {} for name in chosen}
    for text in settings:
        values = parse_assignment(text, "--set")
        ((owner, inner),) = values.items()
        if owner in given and isinstance(inner, dict):
            given[owner] |= inner
        elif len(chosen) == 1 and not isinstance(inner, dict):
            given[chosen[0]] |= values
        else:
            shown = "FIELD=VALUE" if len(chosen) == 1 else "SCHEME.FIELD=VALUE with one of the chosen schemes"
            message = f"--set '{text}': use {shown}"
            raise UsageError(message)
    made = []
    for name in chosen:
        values = given[name]
        if bin_ms is not None and "bin_ns" in {f.name for f in fields(SCHEMES[name])}:
            values = {"bin_ns": whole_ns(bin_ms, "--bin-ms")} | values
        elif bin_ms is not None and len(chosen) == 1:
            message = f"--bin-ms: scheme '{name}' has no bins"
            raise UsageError(message)
        made.append(make_scheme(name, **values))
    return made


def _show_plan(plans: list, as_json: bool) -> None:
    from spiketok.storage.files import human_bytes

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
    contexts = sum(p.scheme == "context" for p in new)
    size = human_bytes(sum(p.nbytes for p in new))
    print(f"to write   at most {size} in {len(new) - contexts} shards and {contexts} contexts")


def schemes(
    name: Annotated[str | None, typer.Argument(help="Show everything about one scheme.")] = None,
    as_json: Json = False,
) -> None:
    """List the token schemes: one token, who reads it, what it keeps and loses, and its fields."""
    import inspect as code
    from dataclasses import fields

    from spiketok.tokens.schemes import SCHEMES

    name = None if name is None else the_one("scheme", name, SCHEMES)
    told = [
        {
            "scheme": scheme.name,
            "one token is": scheme.token,
            "who reads it": ", ".join(scheme.readers),
            "keeps": scheme.keeps,
            "loses": scheme.loses,
            "package": package_of(SCHEMES, scheme.name),
            "fields": {f.name: f.default for f in fields(scheme)},
        }
        for scheme in (SCHEMES.values() if name is None else [SCHEMES[name]])
    ]
    if as_json:
        show_json(told)
    elif name is None:
        print_rows("schemes", told, as_json=False, hidden=hidden_package(told))
        say("fields and the whole description: spiketok schemes NAME")
    else:
        for label, value in told[0].items():
            shown = ", ".join(f"{k}={v!r}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{label:<14}{shown}")
        print()
        print(code.cleandoc(SCHEMES[name].__doc__))


def stream(
    session: Annotated[str, typer.Argument(help="The id of a session of the store.")],
    scheme: Annotated[str | None, typer.Option("--scheme", help="Tokens alone, of one scheme.")] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="Decode: a run's folder or name, or a model's name for its newest."),
    ] = None,
    window_ms: Annotated[
        float | None, typer.Option("--window-ms", help="Length of the windows.", show_default="50, or the scheme's own")
    ] = None,
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the scheme.")
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Whose time a run decodes.", show_default="test")] = None,
    step_ms: Annotated[
        float | None,
        typer.Option("--step-ms", help="From one window of a run to the next.", show_default="the run's eval_step_ms"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the predictions of a run.")] = None,
    piece_ms: Annotated[float, typer.Option("--piece-ms", help="Spikes come in pieces of this length.")] = 1.0,
    speed: Annotated[str, typer.Option("--speed", help="1 for real time; 0 or max: as fast as it can.")] = "max",
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", help="Only the first seconds.", show_default="all of it")
    ] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Replay a recording live: predictions of a run as they come, or how soon each window's tokens came."""
    from spiketok.recording.nouns import NS_PER_S
    from spiketok.storage.store import read_session
    from spiketok.tokens.live import replay

    of_scheme = {"--window-ms": window_ms, "--bin-ms": bin_ms, "--set": settings}
    of_run = {"--split": split, "--step-ms": step_ms, "--out": out}
    if (scheme is None) == (run is None):
        message = "a stream is of one scheme's tokens or of a run's predictions: give --scheme NAME or --run RUN"
        raise UsageError(message)
    other = [name for name, value in (of_scheme if run is not None else of_run).items() if value is not None]
    if other:
        message = f"{other[0]} does not go with --{'run' if run is not None else 'scheme'}"
        raise UsageError(message)
    workspace = Workspace.locate(root, store)
    chosen = [one_session(workspace, session, "a stream replays one")]
    pace = _pace(speed)
    duration_ns = None if duration_s is None else round(duration_s * NS_PER_S)
    if run is not None:
        from spiketok.cli.live import stream_run

        stream_run(
            workspace,
            chosen[0],
            run,
            split=split or "test",
            step_ns=None if step_ms is None else whole_ns(step_ms, "--step-ms"),
            piece_ns=whole_ns(piece_ms, "--piece-ms"),
            speed=pace,
            duration_ns=duration_ns,
            out=out,
            as_json=as_json,
        )
        return
    (made,) = _schemes(scheme, bin_ms, settings or []) if scheme != "all" and "," not in scheme else (None,)
    if made is None:
        message = f"--scheme {scheme}: a stream has one scheme"
        raise UsageError(message)
    length_ns = made.window_ns or -(-50_000_000 // made.length_grid_ns) * made.length_grid_ns
    result = replay(
        read_session(workspace.store_path(chosen[0])),
        made,
        length_ns=length_ns if window_ms is None else whole_ns(window_ms, "--window-ms"),
        speed=pace,
        piece_ns=whole_ns(piece_ms, "--piece-ms"),
        duration_ns=duration_ns,
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


def _pace(speed: str) -> float | None:
    """How many times real time; None for as fast as it can."""
    if speed == "max":
        return None
    try:
        times = float(speed)
    except ValueError:
        times = -1.0
    if not 0 <= times < float("inf"):
        message = f"--speed {speed}: must be a number from 0, or max"
        raise UsageError(message)
    return times or None


def compare(
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSION]...", help="Sessions; all without any.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", help="Several with commas, or all.", show_default="all")
    ] = None,
    bin_ms: Annotated[
        float | None, typer.Option("--bin-ms", help="Bin width of schemes with bins.", show_default="20")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME.FIELD=VALUE", help="A field of a scheme; of models KEY=VALUE or MODEL.KEY=VALUE."
        ),
    ] = None,
    window_ms: Annotated[
        float | None, typer.Option("--window-ms", help="Length of what is cut.", show_default="1000")
    ] = None,
    windows: Annotated[
        int | None, typer.Option("--windows", min=1, help="Windows of each session.", show_default="256")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option("--models", metavar="NAME[,NAME...]", help="Measure models, or runs, in place of schemes."),
    ] = None,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", metavar="GLOB", help="Sessions that models transfer to, as of train.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="decode:NAME", help="The behaviour that models decode.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="A training has no more steps.", show_default="its recipe's")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="A training takes about no more CPU seconds.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Trainings of each model.", show_default="1")
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            "--measures", help="Of models: decode, latency, jitter, generation, data, transfer.", show_default="all"
        ),
    ] = None,
    protocols: Annotated[str | None, typer.Option("--protocols", help="Rows of transfer, as of eval-xsession.")] = None,
    calibration_s: Annotated[
        float | None, typer.Option("--calibration-s", help="Of an unseen session.", show_default="30")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of windows; of models of jitter and draws.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw it to this .png, .pdf or .svg.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write everything to this .json; of models into this folder (ROOT/star)."),
    ] = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Measure schemes against each other on the same sessions, or models: one table of tokens, or of ten measures."""
    from spiketok.pipeline.inspect import check_ending
    from spiketok.storage.store import read_session
    from spiketok.tokens.compare import compare as measure
    from spiketok.tokens.compare import plot_comparison

    if plot is not None:
        check_ending(plot)
    of_schemes = {"--scheme": scheme, "--bin-ms": bin_ms, "--window-ms": window_ms, "--windows": windows}
    of_models = {"--hold-out": hold_out, "--task": task, "--steps": steps, "--seconds": seconds, "--seeds": seeds}
    of_models |= {"--measures": measures, "--protocols": protocols, "--calibration-s": calibration_s}
    given = [name for name, value in (of_schemes if models is not None else of_models).items() if value is not None]
    if given:
        message = f"{given[0]} goes {'with schemes, not with' if models is not None else 'with'} --models"
        raise UsageError(message)
    named = ",".join(sessions) if sessions else None
    if models is not None:
        from spiketok.cli.star import compare_models

        compare_models(
            root,
            store,
            models,
            sessions=named,
            hold_out=hold_out,
            task=task,
            sets=settings or [],
            steps=steps,
            seconds=seconds,
            seeds=1 if seeds is None else seeds,
            measures=measures,
            protocols=protocols,
            calibration_s=30.0 if calibration_s is None else calibration_s,
            seed=seed,
            plot=plot,
            out=out,
            as_json=as_json,
        )
        return
    window_ms = 1000.0 if window_ms is None else window_ms
    workspace = Workspace.locate(root, store)
    schemes = _schemes(scheme or "all", bin_ms, settings or [])
    chosen = workspace.select(named)
    with progress("compare", len(chosen), "sessions") as advance:

        def read():
            for session_id in chosen:
                advance(1, session_id)
                try:
                    session = read_session(workspace.store_path(session_id))
                except SpiketokError as error:
                    if sessions:
                        raise
                    complain(f"left out: {session_id}: {error}")
                else:
                    yield session

        result = measure(
            read(), schemes, window_ns=whole_ns(window_ms, "--window-ms"), n_windows=windows or 256, seed=seed
        )
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
