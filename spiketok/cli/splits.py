"""The command around splits: show them as a timeline, check what leaks over their borders, store what a rule makes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import complain, say, show_json, show_rows
from spiketok.cli.options import Json, Root, Store
from spiketok.errors import SpiketokError, UnknownNameError, UsageError
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.pipeline.divide import Division
    from spiketok.recording.leakage import Reach
    from spiketok.recording.nouns import Session
    from spiketok.tokens.schemes import Scheme

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
    from spiketok.pipeline.divide import assigned_days, divisions_of, plot_divisions
    from spiketok.pipeline.inspect import check_ending
    from spiketok.recording.splits import parse_rule
    from spiketok.storage.store import read_session

    rule = parse_rule(rules) if rules else None
    if store_as is not None and rule is None:
        message = f"--store-as {store_as} stores what a rule makes: give one, as --rule kind=trial"
        raise UsageError(message)
    if not check and (scheme or sets or target or lag_ms or segments):
        message = "--scheme, --set, --target, --lag-ms and --segments say what --check is to check: add --check"
        raise UsageError(message)
    made = _scheme(scheme, sets or [])
    if plot is not None:
        check_ending(plot)
    workspace = Workspace.locate(root, store)
    chosen = _select(workspace, names or [])
    days = assigned_days(workspace, chosen, rule) if rule is not None else {}
    divisions: list[Division] = []
    windows: list[dict] = []
    reaches: dict[str, Reach] = {}
    failed = 0
    for session_id in chosen:
        try:
            session = read_session(workspace.store_path(session_id))
            if check:
                reaches[session_id] = _reach(session, made, target, round(lag_ms * 1e6))
            own = divisions_of(session, rule, days.get(session_id))
            if segments is not None:
                windows += [row for d in own for row in _trial_windows(session, d, segments, reaches[session_id])]
            divisions += own
        except SpiketokError as error:  # one session's trouble does not stop the others
            text = str(error)
            complain(text if text.startswith(session_id) else f"{session_id}: {text}")
            failed += 1
    stored = []
    if store_as is not None and not failed:
        stored = _store(workspace, [d.session_id for d in divisions], store_as, rule, days)
    if plot is not None and divisions:
        plot_divisions(divisions[:MOST_DRAWN], plot)
        cut = f", the first {MOST_DRAWN} of {len(divisions)}" if len(divisions) > MOST_DRAWN else ""
        say(f"drawn to {plot}{cut}")
    leaks = _leaks(divisions, reaches) if check and segments is None else windows
    if as_json:
        named = {"windows" if segments is not None else "borders": leaks}
        show_json({"divisions": [_told(d) for d in divisions], **named, "stored": stored})
    else:
        _show(divisions, quiet=check)
        if segments is not None and windows:
            show_rows("windows cut at trials", list(windows[0]), windows)
        elif check:
            _show_leaks(divisions, reaches, leaks)
    if failed and store_as is not None:
        say(f"nothing was stored: {failed} of {len(chosen)} sessions cannot be divided so")
    if failed or any(row["leak_ms"] for row in leaks):
        raise typer.Exit(1)


def _select(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """The sessions of a dataset where a name is one, else those that match it; all without a name."""
    known = workspace.session_ids()
    of_dataset = {name: [s for s in known if s.split("/")[0] == name] for name in names}
    wanted = set()
    for name in names:
        wanted |= set(of_dataset[name] or workspace.select(name))
    return [s for s in known if s in wanted] if names else workspace.select()


def _scheme(name: str | None, sets: Sequence[str]) -> Scheme | None:
    from spiketok.settings import parse_assignment
    from spiketok.tokens.schemes import make_scheme

    if name is None:
        if sets:
            message = f"--set {sets[0]} is a field of a scheme: give --scheme"
            raise UsageError(message)
        return None
    values: dict[str, object] = {}
    for text in sets:
        values |= parse_assignment(text, "--set")
    return make_scheme(name, **values)


def _reach(session: Session, scheme: Scheme | None, target: str | None, lag_ns: int) -> Reach:
    """How far windows of this session reach beyond their ends."""
    from spiketok.recording.leakage import FAR_NS, Reach, stated_reach_ns
    from spiketok.training.sampling import scheme_reach, signal_reach

    reach = Reach.of("lag", lag_ns, -lag_ns) if scheme is None else scheme_reach(scheme, lag_ns)
    if scheme is not None and scheme.whole_session:
        reach |= Reach.of(f"{scheme.name} tokens of the whole session", FAR_NS, FAR_NS)
    if target is not None and target not in session.behaviours:
        raise UnknownNameError("behaviour", target, session.behaviours, session.id)
    read = scheme.signals_read if scheme is not None else ()
    bin_ns = scheme.grid_ns if scheme is not None else 1
    for name in dict.fromkeys([*([] if target is None else [target]), *read]):
        if name in session.behaviours:
            period_ns = session.behaviours[name].period_ns
            reach |= signal_reach(name, stated_reach_ns(session.info, name), period_ns, bin_ns)
    return reach


def _trial_windows(session: Session, division: Division, segments: str, reach: Reach) -> list[dict]:
    """Rows for windows around the trials; each belongs to the split that holds the time to which it is aligned."""
    from spiketok.pipeline.divide import trial_window_rows
    from spiketok.recording.splits import parse_trial_rule, resolve_segments

    _, pre_ns, _ = parse_trial_rule(segments)
    cut = resolve_segments(session, segments)
    return trial_window_rows(division, cut, cut.start_ns + pre_ns, reach)


def _store(workspace: Workspace, session_ids: Sequence[str], name: str, rule, days: dict[str, str]) -> list[dict]:
    from spiketok.pipeline.divide import store_division

    rows = [
        {"session": s, "set": name, "state": store_division(workspace, s, name, rule, days.get(s))} for s in session_ids
    ]
    for row in rows:
        say(f"{row['session']}: set '{name}' " + ("stood already" if row["state"] == "already" else "stored"))
    if any(row["state"] != "already" for row in rows):
        say(f"shards carry splits, so tokenize again; then train with --set split.kind=stored --set split.set={name}")
    return rows


def _show(divisions: Sequence[Division], *, quiet: bool) -> None:
    from spiketok.pipeline.divide import timeline

    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    rows, left = [], []
    for division in divisions:
        if not quiet:
            print("\n".join(timeline(division, width, ascii_only=plain)))
            print()
        rows += [{"session": division.session_id, "division": division.name} | row for row in division.rows]
        why = [f"{seconds:.3f} s {reason}" for reason, seconds in division.left_out.items()]
        why += [f"{division.trials_cut} trials cut by a border"] if division.trials_cut else []
        if why:
            left.append(f"{division.session_id}: {division.name}: left out: {', '.join(why)}")
    if rows and not quiet:
        show_rows("splits", list(rows[0]), rows)
        for line in left:
            say(line)


def _leaks(divisions: Sequence[Division], reaches: dict[str, Reach]) -> list[dict]:
    from spiketok.pipeline.divide import leak_rows

    return [row for division in divisions for row in leak_rows(division, reaches[division.session_id])]


def _show_leaks(divisions: Sequence[Division], reaches: dict[str, Reach], rows: list[dict]) -> None:
    from spiketok.recording.leakage import FAR_NS

    if rows:
        show_rows("borders", list(rows[0]), rows)
    for division in divisions:
        own = [r for r in rows if (r["session"], r["division"]) == (division.session_id, division.name)]
        leaking = [r for r in own if r["leak_ms"]]
        where = f"{division.session_id}: {division.name}"
        reach = reaches[division.session_id]
        if not own:
            say(f"{where}: no border between two splits, nothing can leak")
        elif not leaking:
            say(f"{where}: nothing can leak over its {len(own)} borders; windows reach {reach}")
        elif reach.back_ns >= FAR_NS:
            say(f"{where}: the scheme's tokens depend on the whole session: what is in one split is seen in the others")
        else:
            most = max(r["leak_ms"] for r in leaking)
            margin_ms = (reach.back_ns + reach.ahead_ns) / 2e6  # on both sides: the gap then holds the reach of both
            say(
                f"{where}: windows reach {reach} and can leak over {len(leaking)} of {len(own)} borders, by up to "
                f"{most:g} ms: the guard of training keeps them away (--rule margin_ms={margin_ms:g} would, too)"
            )


def _told(division: Division) -> dict[str, object]:
    return {
        "session": division.session_id,
        "division": division.name,
        "splits": [
            row
            | {"start_ns": division.splits[row["split"]].start_ns.tolist()}
            | {"stop_ns": division.splits[row["split"]].stop_ns.tolist()}
            for row in division.rows
        ],
        "left_out_s": division.left_out,
        "trials_cut": division.trials_cut,
    }
