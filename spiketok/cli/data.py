"""The commands ``ingest`` and ``datasets``; ``fetch`` has a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.console import say, show_json
from spiketok.cli.options import (
    Executor,
    Json,
    Part,
    Root,
    Store,
    Workers,
    collect,
    counted,
    executor_of,
    hidden_package,
    package_of,
    part_of,
    print_rows,
    put_index,
)
from spiketok.errors import UsageError
from spiketok.storage.files import human_bytes
from spiketok.storage.names import require_name, safe_name
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.pipeline.admission import Ingested
    from spiketok.sources.catalogue.base import Dataset

Process = Annotated[
    list[str] | None,
    typer.Option(
        "--process",
        metavar="NAME=FUNCTION(SIGNAL, ...)",
        help="Make a signal from another, as vel=derivative(pos); may be repeated, done in order.",
    ),
]
MinRate = Annotated[
    float | None,
    typer.Option("--min-rate", metavar="HZ", help="Leave out units with fewer spikes per observed second."),
]
Quality = Annotated[
    str | None,
    typer.Option(
        "--quality",
        metavar="RULE",
        help='Keep units that pass, as "isi_violations<0.5 and quality==\'good\'", "iscell[0]>0.5".',
    ),
]
Metrics = Annotated[
    bool, typer.Option("--metrics", help="Add spikeinterface's quality metrics of spike times as unit columns.")
]

Mask = Annotated[
    list[str] | None,
    typer.Option("--mask", metavar="TABLE", help="Time of this table was not observed, as invalid_times."),
]
TimeUnits = Annotated[
    list[str] | None,
    typer.Option(
        "--time-unit",
        metavar="[WHAT=]UNIT",
        help="What times are that are no seconds: spikes=samples:30000, hand_vel=ms, ms for all; s: they are.",
    ),
]

DropOutside = Annotated[
    bool,
    typer.Option("--drop-outside", help="Leave out spikes and samples outside of the observed time, and fillers."),
]
UnitsPath = Annotated[
    str | None,
    typer.Option("--units", metavar="PATH", help="Where NWB files have their units, as processing/ecephys/units."),
]
TrialTable = Annotated[
    str | None,
    typer.Option(
        "--trials", metavar="TABLE", help="The interval table whose rows are the trials, if none is so called."
    ),
]
MergeAs = Annotated[
    str | None,
    typer.Option(
        "--merge-as", metavar="NAME", help="Join probes, blocks or behaviour of several files into one session."
    ),
]
Join = Annotated[
    str | None,
    typer.Option("--join", metavar="units|time", help="With --merge-as: probes of one time, or blocks in order."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Store no session that has a warning or an error; exit with 1.")]
Restarts = Annotated[
    list[str] | None,
    typer.Option(
        "--restarts",
        metavar="blocks | NAME=K",
        help="Where the clock begins again: lay its blocks out one behind the other; NAME lies in block K alone.",
    ),
]


def wanted_settings(
    process: list[str] | None,
    min_rate: float | None,
    quality: str | None,
    metrics: bool,
    mask: list[str] | None,
    time_unit: list[str] | None,
    drop_outside: bool,
    units: str | None,
    restarts: list[str] | None,
    trials: str | None,
) -> dict[str, object]:
    """What the user wants of normalizing, as it is in a store's settings; only what was asked for.

    Raises:
        UsageError: a step, a rule or a unit cannot be read.
    """
    from spiketok.recording.quality import parse_quality
    from spiketok.recording.steps import parse_step

    wanted: dict[str, object] = {}
    if metrics:
        wanted["metrics"] = True
    if min_rate is not None:
        wanted["min_rate_hz"] = min_rate
    if quality is not None:
        wanted["quality"] = " and ".join(map(str, parse_quality(quality)))
    if process:
        wanted["process"] = [parse_step(text) for text in process]
    if mask:
        wanted["mask"] = sorted(set(mask))
    if time_unit:
        wanted["time_unit"] = _time_units(time_unit)
    if drop_outside:
        wanted["drop_outside"] = True
    if units is not None:
        wanted["units"] = _units_path(units)
    if restarts:
        from spiketok.sources.formats.nwb.blocks import Restarts as Words

        Words(restarts)
        wanted["restarts"] = sorted(set(restarts))
    if trials is not None:
        wanted["trials"] = trials
    return wanted


def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="NWB or torch_brain files, folders of NWB, here or at URLs (s3://...)."),
    ],
    dataset: Annotated[
        str,
        typer.Option("--dataset", help="First half of the session ids; a name of the catalogue also brings its rules."),
    ] = "local",
    rules: Annotated[
        str | None, typer.Option("--rules", help="Rules of this name in place of the dataset's; 'none' for none.")
    ] = None,
    process: Process = None,
    min_rate: MinRate = None,
    quality: Quality = None,
    metrics: Metrics = False,
    merge_as: MergeAs = None,
    join: Join = None,
    sorter: Annotated[
        str | None,
        typer.Option(
            "--sorter", metavar="NAME", help="The paths are output of this sorter: phy, kilosort, alf, suite2p, ..."
        ),
    ] = None,
    start_s: Annotated[
        float, typer.Option("--start-s", help="When a sorted recording began, in seconds of the session.")
    ] = 0.0,
    mask: Mask = None,
    time_unit: TimeUnits = None,
    drop_outside: DropOutside = False,
    units: UnitsPath = None,
    restarts: Restarts = None,
    trials: TrialTable = None,
    frame_rate: Annotated[
        float | None, typer.Option("--frame-rate", metavar="HZ", help="Frames a second, where suite2p's ops lack them.")
    ] = None,
    strict: Strict = False,
    division: Part = None,
    jobs: Workers = 1,
    executor: Executor = None,
    root: Root = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Normalize NWB or torch_brain files, or the output of a spike sorter, into the store."""
    require_name(dataset, "--dataset")
    wanted = wanted_settings(
        process, min_rate, quality, metrics, mask, time_unit, drop_outside, units, restarts, trials
    )
    wanted |= _sorter_settings(sorter, start_s, frame_rate) | join_settings(merge_as, join)
    rows, failed = ingest_paths(
        Workspace.locate(root, store),
        paths,
        dataset,
        executor_of(executor, jobs),
        rules,
        wanted=wanted,
        merge_as=merge_as or "",
        strict=strict,
        part=part_of(division),
    )
    print_rows("sessions", rows, as_json)
    if failed:
        raise typer.Exit(1)
    if not as_json:
        say("next: spiketok tokenize --scheme per-spike")


def join_settings(merge_as: str | None, join: str | None) -> dict[str, object]:
    """What ``--join`` is in a store's settings; UsageError where it is none, or a name is none of a session."""
    if merge_as is not None:
        require_name(merge_as, "--merge-as")
    if join is None:
        return {}
    from spiketok.recording.joining_time import HOWS

    if join not in HOWS or merge_as is None:
        message = f"--join {join}: must be one of {', '.join(HOWS)}, with --merge-as NAME"
        raise UsageError(message)
    return {"join": join}


def _units_path(text: str) -> str:
    """A path inside a file as it is in a store's settings; UsageError where it is none."""
    parts = [part for part in text.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        message = f"--units '{text}': must be a path inside of the files, as processing/ecephys/units"
        raise UsageError(message)
    return "/".join(parts)


def _time_units(texts: list[str]) -> dict[str, str]:
    """What ``--time-unit`` is in a store's settings; UsageError where a unit is none or one is stated twice."""
    from spiketok.sources.formats.nwb.time_units import seconds_per

    found: dict[str, str] = {}
    for text in texts:
        what, _, unit = text.rpartition("=")
        seconds_per(unit)
        if what in found:
            message = f"--time-unit {text}: the unit of {f'{what!r}' if what else 'all times'} is stated twice"
            raise UsageError(message)
        found[what] = unit
    return found


def _sorter_settings(sorter: str | None, start_s: float, frame_rate: float | None = None) -> dict[str, object]:
    """What ``--sorter``, ``--start-s`` and ``--frame-rate`` are in a store's settings.

    Raises:
        UsageError: there is no such sorter, or a start without one, or a frame rate that is none.
    """
    import math

    if frame_rate is not None and (sorter != "suite2p" or not 0 < frame_rate <= 10_000):
        message = f"--frame-rate {frame_rate:g} is for --sorter suite2p, from above 0 to 10,000 frames a second"
        raise UsageError(message)
    if sorter is None:
        if start_s:
            message = f"--start-s {start_s:g} is for sorter output: add --sorter NAME"
            raise UsageError(message)
        return {}
    from spiketok.sources.formats.sorting import READER, check_sorter

    check_sorter(sorter)
    if not math.isfinite(start_s):
        message = f"--start-s {start_s}: must be a finite number of seconds"
        raise UsageError(message)
    stated = {} if frame_rate is None else {"frame_rate_hz": frame_rate}
    return {**READER, "sorter": sorter, "start_s": start_s} | stated


def session_row(done: Ingested) -> dict[str, object]:
    """What is told of a session that was made; its warnings, errors and repairs at once.

    Of one that ``--strict`` refused its error says them, in one line.
    """
    from spiketok.recording.findings import ERROR, GRAVE, WARNING
    from spiketok.sources.catalogue.base import stem_of

    file = done.paths[0].replace("\\", "/").rpartition("/")[2]
    name = done.session_id.partition("/")[2]
    if name == safe_name(stem_of(file)) != stem_of(file):
        say(f"{file} is session '{done.session_id}': a name that every file system takes")
    findings = done.findings
    for found in findings if done.state != "refused" else ():
        if found.severity in GRAVE or found.kind == "repair":
            grave = f"{found.severity}: " if found.severity in GRAVE else ""
            mended = "repaired " if found.kind == "repair" else ""
            say(f"{done.session_id}: {grave}{mended}{found.id} ({found.count}): {found.text}")
    return {
        "session": done.session_id,
        "state": done.state,
        "units": done.n_units,
        "spikes": done.n_spikes,
        "seconds": done.duration_s,
        "repairs": len(done.repairs),
        "notes": len(done.notes),
        "warnings": sum(found.severity == WARNING for found in findings),
        "errors": sum(found.severity == ERROR for found in findings),
        "findings": [found._asdict() for found in findings],
    }


def ingest_paths(
    workspace: Workspace,
    paths: list,
    dataset: str = "local",
    executor: str = "",
    rules: str | None = None,
    *,
    wanted: dict[str, object] | None = None,
    merge_as: str = "",
    strict: bool = False,
    part: tuple[int, int] | None = None,
    failures: list[dict] | None = None,
) -> tuple[list[dict], int]:
    """Ingest, telling findings and failures as they come; the sessions' rows, and how many failed.

    Each failure is added to ``failures`` with its ``file`` and ``error``. A session that ``strict`` refused has a row
    and is a failure.
    """
    from spiketok.pipeline import ingest as ingestion
    from spiketok.sources.catalogue import rules_of

    refused: list[dict] = []

    def kept(outcomes: Iterable) -> Iterator:
        for outcome in outcomes:
            if outcome.error is not None and outcome.result is not None:
                refused.append(session_row(outcome.result))
            if outcome.error is not None and failures is not None:
                failures.append({"file": outcome.name, "error": outcome.message})
            yield outcome

    as_given = (wanted or {}).get("reader") == ingestion.SORTED
    files = ingestion.find_files(paths, rules_of(dataset).suffixes, as_given=as_given)
    how = {"rules": rules, "wanted": wanted, "merge_as": merge_as, "strict": strict, "part": part}
    outcomes = ingestion.ingest(workspace, files, dataset, executor, **how, told=say)
    total = -(-len(files) // part[1]) if part else len(files)
    rows, failed = collect("ingest", "files", total, kept(outcomes), session_row)
    put_index(workspace)
    tell_notes(rows)
    say(counted("sessions", [row["state"] for row in rows], failed))
    return sorted(rows + refused, key=lambda row: row["session"]), failed


def tell_notes(rows: list[dict]) -> None:
    """How many sessions have findings of which severity, and the command that shows them."""
    for severity, word in (("errors", "errors: decide before you train on them"), ("warnings", "warnings")):
        held = [row["session"] for row in rows if row[severity]]
        if held:
            say(f"{_have(held)} {word}: spiketok inspect {held[0]}")
    noted = [row["session"] for row in rows if row["notes"]]
    if noted:
        say(f"{_have(noted)} notes on what was kept as it is: spiketok inspect {noted[0]}")
    outside = [found["count"] for row in rows for found in row["findings"] if found["id"] == "spikes-unobserved"]
    if outside:
        say(f"{sum(outside)} spikes lie outside of observed time: --drop-outside leaves them out")


def _have(sessions: list[str]) -> str:
    return "1 session has" if len(sessions) == 1 else f"{len(sessions)} sessions have"


def datasets(
    name: Annotated[str | None, typer.Argument(help="Show everything about one, or a group as nlb.")] = None,
    species: Annotated[
        str | None, typer.Option("--species", metavar="WORD", help="Only of this species, as macaque, human, mouse.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="WORD", help="Only with this region of the brain, as M1.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="WORD", help="Only with this behaviour or task, as hand_vel, decode:hand_vel."),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Only up to this size, as 2GB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what can be fetched: size, licence, recording, behaviours; with a NAME also splits, quirks and rules."""
    from spiketok.cli.groups import GROUPS
    from spiketok.sources.catalogue import DATASETS, catalogued
    from spiketok.storage.files import parse_bytes

    limit = None if max_size is None else parse_bytes(max_size, "--max-size")
    one = name is not None and name not in GROUPS
    if one and any(word is not None for word in (species, region, task, max_size)):
        message = f"'{name}' names one dataset, --species, --region, --task and --max-size choose among all: give one"
        raise UsageError(message)
    chosen = [catalogued(name)] if one else [DATASETS[n] for n in (GROUPS[name] if name else DATASETS)]
    if not one:
        chosen = [d for d in chosen if _fits(d, species, region, task)]
        unsized = [d.name for d in chosen if limit is not None and d.bytes is None]
        chosen = [d for d in chosen if limit is None or (d.bytes is not None and d.bytes <= limit)]
        if unsized:
            say(f"left out, of no stated size: {', '.join(unsized)}")
    if as_json:
        show_json([asdict(d) | {"package": package_of(DATASETS, d.name)} for d in chosen])
    elif one:
        _show_dataset(chosen[0])
    else:
        rows = [
            {
                "name": d.name,
                "size": None if d.bytes is None else human_bytes(d.bytes),
                "files": d.files,
                "recording": d.recording,
                "behaviours": ", ".join(d.behaviours) or None,
                "licence": d.license,
                "where": _where(d),
                "package": package_of(DATASETS, d.name),
            }
            for d in chosen
        ]
        if not rows:
            say("no dataset of the catalogue fits all of that: spiketok datasets lists them")
            return
        print_rows("datasets", rows, as_json=False, hidden=hidden_package(rows))
        say("any other dandiset: spiketok fetch 000123; all about one: spiketok datasets NAME")


SPECIES = {  # what people call them, and what their sources write
    "macaque": ("macaca", "macaque", "rhesus"),
    "monkey": ("macaca", "macaque", "rhesus"),
    "human": ("homo",),
    "finch": ("taeniopygia", "finch"),
    "bird": ("taeniopygia", "finch"),
}


def _fits(dataset: Dataset, species: str | None, region: str | None, task: str | None) -> bool:
    """Whether a dataset has what is asked of it; letters may be large or small."""
    kind = (dataset.species or "").lower()
    if species is not None and not any(word in kind for word in SPECIES.get(species.lower(), (species.lower(),))):
        return False
    regions = " ".join(dataset.regions).lower().split()
    if region is not None and region.lower() not in regions and region.lower() not in " ".join(regions):
        return False
    about = " ".join((dataset.title, *dataset.behaviours, *dataset.notes, dataset.splits or "")).lower()
    return task is None or task.rpartition(":")[2].lower() in about


def _where(dataset: Dataset) -> str:
    if dataset.record:
        return f"{dataset.host.capitalize()} {dataset.record}"
    return f"DANDI {dataset.dandiset}/{dataset.version or 'latest'}"


def _show_dataset(dataset: Dataset) -> None:
    """Everything that the catalogue knows of a dataset; what no source states is a dash."""
    from spiketok.sources.catalogue import DATASETS

    size = None if dataset.bytes is None else human_bytes(dataset.bytes)
    facts = {
        "name": ", ".join((dataset.name, *dataset.aliases)),
        "title": dataset.title,
        "where": _where(dataset),
        "files": " ".join(filter(None, (None if dataset.files is None else f"{dataset.files:,} files", size))),
        "takes": ", ".join(dataset.include) + (f", not {', '.join(dataset.exclude)}" if dataset.exclude else ""),
        "licence": dataset.license,
        "citation": dataset.citation,
        "doi": dataset.doi,
        "species": dataset.species,
        "subjects": ", ".join(dataset.subjects),
        "regions": ", ".join(dataset.regions),
        "recording": dataset.recording,
        "units": dataset.units,
        "behaviours": ", ".join(dataset.behaviours),
        "splits": dataset.splits,
        "rules": dataset.rules,
        "reference": dataset.reference,
        "package": package_of(DATASETS, dataset.name),
    }
    for key, value in facts.items():
        print(f"{key:<11}{value or '-'}")
    for note in dataset.notes:
        print(f"{'note':<11}{note}")
    for quirk in dataset.quirks:
        print(f"{'quirk':<11}{quirk.id}: {quirk.text} [known from: {quirk.source}]")
