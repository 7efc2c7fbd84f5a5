"""What a path holds: anything that spiketok writes, or an NWB file, told in a few lines and drawn on request."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, ChangedError, UsageError
from spiketok.pipeline.isolation import bounds, isolated
from spiketok.pipeline.kinds import OF_OTHERS as OF_OTHERS
from spiketok.pipeline.kinds import kind_of as kind_of
from spiketok.pipeline.kinds import leaderboard_file as leaderboard_file
from spiketok.pipeline.kinds import report_file as report_file
from spiketok.pipeline.kinds import star_file
from spiketok.plugins import origins_of
from spiketok.recording.codes import code_words, is_code
from spiketok.recording.findings import ERROR, WARNING, Rated, rated
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Ragged, Session, Source
from spiketok.recording.splits import set_splits, stored_sets
from spiketok.recording.steps import step_text
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import human_bytes, sha256_source, source_bytes
from spiketok.storage.finding import locate as locate
from spiketok.storage.index import findings_of
from spiketok.storage.npz import read_npz
from spiketok.storage.records import (
    CHECKPOINT,
    RESULT,
    checkpoint_digest,
    choice_body,
    choice_rows,
    is_run,
    leaderboard_body,
    report_body,
    run_checkpoint,
    run_config,
    run_result,
    star_body,
)
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import CONTEXT, Workspace


@dataclass(frozen=True)
class Description:
    """What was found at a path: facts as label and value, and tables as title and rows.

    ``changed``: a line for each of its files that is not what was written; the facts are what it says now.
    """

    kind: str
    facts: dict[str, object]
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    changed: tuple[str, ...] = ()


def check_ending(out: Path) -> None:
    """Raise UsageError where an image's ending is not known."""
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        message = f"--plot {out}: the ending '{out.suffix}' is not one of .png, .pdf, .svg"
        raise UsageError(message)


def check_picture(path: Path, out: Path) -> None:
    """Raise UsageError where there is no picture of this kind of path, or the image's ending is not known."""
    check_ending(out)
    if kind_of(path) not in ("session", "nwb", "shard", "run"):
        message = f"there is no picture of a {kind_of(path)}: --plot draws sessions, NWB files, shards and runs"
        raise UsageError(message)


def describe_path(path: Path, restarts: Sequence[str] = ()) -> Description:
    """Tell what a path holds; a file that others may have made is read as ingest reads it, within the same bounds.

    Args:
        restarts: of an NWB file, where its clock begins again: ``ingest --restarts``.

    Raises:
        ArtefactError, SourceError: it cannot be read, or is nothing that spiketok knows.
        UsageError: restarts of anything but an NWB file.
    """
    kind = kind_of(path)
    if restarts:
        if kind != "nwb":
            message = f"--restarts is for NWB files, {path} is a {kind}: leave it out"
            raise UsageError(message)
        return isolated(_describe_nwb, path, restarts, name=path.name, **_bounds(path))
    if kind in OF_OTHERS:
        return isolated(_DESCRIBE[kind], path, name=path.name, **_bounds(path))
    try:
        return _DESCRIBE[kind](path)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise_cause(error, path)
        message = f"{path} does not say what a {kind} says ({type(error).__name__}: {error}): spiketok verify {path}"
        raise ArtefactError(message) from error


def _bounds(path: Path) -> dict[str, int]:
    return bounds(source_bytes(path) if path.is_file() or path.is_dir() else 0)


def plot_path(
    path: Path, out: Path, start_s: float | None = None, duration_s: float = 10.0, restarts: Sequence[str] = ()
) -> None:
    """Draw a session, an NWB file (raster and behaviour), a shard (tokens) or a run (its curves) to an image file.

    Args:
        start_s, duration_s: what is drawn. restarts: see :func:`describe_path`.

    Raises:
        UsageError: there is no picture of this kind of path, or the image's ending is not known.
    """
    from spiketok.tokens.session_plots import plot_shard

    check_picture(path, out)
    kind = kind_of(path)
    if kind == "shard":
        from spiketok.tokens.shards import ShardReader

        plot_shard(ShardReader(path), out, start_s)
        return
    if kind == "run":
        from spiketok.pipeline.run_curves import plot_curves

        plot_curves([path], out)
        return
    if kind in OF_OTHERS:  # read and drawn there: a session does not travel between processes
        isolated(_plot, path, kind, out, start_s, duration_s, restarts, name=path.name, **_bounds(path))
    else:
        _plot(path, kind, out, start_s, duration_s)


def _plot(
    path: Path, kind: str, out: Path, start_s: float | None, duration_s: float, restarts: Sequence[str] = ()
) -> None:
    from spiketok.tokens.session_plots import plot_session

    plot_session(load_session(path, kind, restarts), out, start_s, duration_s)


def load_session(path: Path, kind: str, restarts: Sequence[str] = ()) -> Session:
    if kind == "session":
        return read_session(path)
    from spiketok.sources.formats.nwb import read_nwb
    from spiketok.sources.formats.torch_brain import read_torch_brain

    digest = sha256_source(path) if path.is_file() or path.is_dir() else ""
    source = Source(path.name, digest, source_bytes(path) if digest else 0)
    if not _is_torch_brain(path):
        return read_nwb(path, f"file/{path.stem}", source, restarts=restarts)
    if restarts:
        message = f"{path.name}: --restarts is for NWB files, this one is torch_brain's: leave it out"
        raise UsageError(message)
    return read_torch_brain(path, f"file/{path.stem}", source)


def _is_torch_brain(path: Path) -> bool:
    from spiketok.sources.formats.torch_brain import SUFFIXES, is_torch_brain

    return path.suffix.lower() in SUFFIXES and is_torch_brain(path)


def _describe_session(path: Path) -> Description:
    return _session_facts(read_session(path), "session", read_attributes(path))


def _describe_nwb(path: Path, restarts: Sequence[str] = ()) -> Description:
    return _session_facts(load_session(path, "nwb", restarts), "torch_brain" if _is_torch_brain(path) else "nwb", None)


def _session_facts(session: Session, kind: str, attributes: dict | None) -> Description:
    seconds = (session.stop_ns - session.start_ns) / NS_PER_S
    observed_s = session.observed.total_ns / NS_PER_S
    counts = np.bincount(session.spikes.unit, minlength=len(session.units))
    rate_hz = counts / observed_s if observed_s else np.full(len(counts), np.nan)
    facts: dict[str, object] = {
        "session": session.id,
        "subject": session.subject or "-",
        "source": f"{session.source.file}, sha256 {session.source.sha256[:12]}, {human_bytes(session.source.size)}",
        "from": session.source.origin or "a local file, never fetched",
        "licence": session.source.license or "not stated",
        "citation": "not stated" if session.source.citation in ("", session.source.origin) else session.source.citation,
        "extent": f"{session.start_ns / NS_PER_S:.3f} .. {session.stop_ns / NS_PER_S:.3f} s ({seconds:.1f} s)",
        "observed": f"{observed_s:.1f} s in {len(session.observed)} stretches ({session.observed_source})",
        "units": len(session.units),
        "unit columns": ", ".join(session.units.columns) or "-",
        "spikes": len(session.spikes),
        "rate": f"median {np.median(rate_hz):.2f} Hz, {rate_hz.min():.2f} to {rate_hz.max():.2f} Hz a unit",
    }
    if attributes is not None:
        num, den = attributes["tick_period_ns"]
        clock = "no common clock, kept in ns" if num == den else f"ticks of {den / num * NS_PER_S:g} Hz"
        facts |= {"spike times": clock, "digest": attributes["digest"][:12], "written by": attributes["written_by"]}
        facts["quirks handled"] = _quirks_met(session)
        rules = attributes["settings"].get("rules_plugin")
        facts |= _plugin_facts([rules] if rules else [])
        steps = {"process": "; ".join(map(step_text, attributes["settings"].get("process", ())))}
        told = attributes["settings"] | (steps if steps["process"] else {})
        facts["settings"] = ", ".join(f"{key} {value}" for key, value in told.items())
    found = rated(session.repairs, session.notes)
    tables = {
        "joined files": [
            {"file": s.file, "sha256": s.sha256[:12], "size": human_bytes(s.size), "from": s.origin or "local"}
            for s in session.source.files
            if session.source.joined
        ],
        "behaviours": [
            {
                "signal": name,
                "components": ", ".join(s.components),
                "measure": s.measure or "-",
                "samples": len(s.time_ns),
                "period ms": s.period_ns / 1e6,
                "valid": f"{100 * s.valid.mean() if len(s.valid) else 0:.1f} %",
                "holds": code_words(s) if name != FLUORESCENCE and is_code(s) else "numbers",
            }
            for name, s in session.signals.items()
        ],
        "stimuli": [
            {
                "stimulus": name,
                "frames": "{} of {} x {} ({})".format(*s.frames.shape, s.frames.dtype),
                "presentations": len(s),
                "of nothing": int((s.frame < 0).sum()),
                "seconds": (s.stop_ns - s.time_ns).sum() / NS_PER_S,
            }
            for name, s in session.stimuli.items()
        ],
        "interval tables": [
            {"table": name, "rows": len(t), "columns": ", ".join(_column_words(t)) or "-"}
            for name, t in session.intervals.items()
        ],
        "splits": [
            {"set": name, "split": split, "stretches": len(part), "seconds": part.total_ns / NS_PER_S}
            for name in stored_sets(session.splits)
            for split, part in set_splits(session.splits, name).items()
        ],
        "repairs": _finding_rows("repair", found),
        "notes": _finding_rows("note", found),
    }
    return Description(kind, facts, {title: rows for title, rows in tables.items() if rows})


def _finding_rows(kind: str, found: list[Rated]) -> list[dict[str, object]]:
    return [
        {kind: one.id, "severity": one.severity, "count": one.count, "what": one.text}
        for one in found
        if one.kind == kind
    ]


def _quirks_met(session: Session) -> str:
    """The quirks that the catalogue knows of the session's dataset, and that were met in its files."""
    from spiketok.sources.catalogue import DATASETS

    dataset = DATASETS.get(session.dataset)
    if dataset is None:
        return "none known: the catalogue has no such dataset"
    met = {finding.id for finding in (*session.repairs, *session.notes)}
    return f"{', '.join(q.id for q in dataset.quirks if q.id in met) or 'none'} (of {len(dataset.quirks)} known)"


def _column_words(table) -> list[str]:
    return [f"{k} (ragged)" if isinstance(c, Ragged) else k for k, c in table.columns.items()]


def _describe_shard(path: Path) -> Description:
    from spiketok.tokens.shards import ShardReader

    reader = ShardReader(path, anew=True)
    manifest = reader.manifest
    facts = {
        "scheme": manifest["scheme"]["name"],
        "configuration": json.dumps(manifest["scheme"]["config"]),
        "session": reader.info.id,
        "segments": f"{len(reader.segments)} ({manifest['segments_rule']})",
        "baked": f"{reader.segments.total_ns / NS_PER_S:.1f} s",
        "units": reader.info.n_units,
        "spikes in the session": manifest["n_spikes"],
        **_held(reader),
        "spikes not held": ", ".join(f"{n} {why}" for why, n in manifest["lost"].items() if n) or "none",
        **_artefact_facts(manifest),
        **_plugin_facts([manifest["plugin"]] if "plugin" in manifest else []),
        "context": f"{manifest['context']['digest'][:12]} at {manifest['context']['path']}",
    }
    return Description("shard", facts, {"columns": _column_rows(manifest)})


def _plugin_facts(recorded: object) -> dict[str, str]:
    """What other packages gave for an artefact; no line where none did."""
    origins = origins_of(recorded)
    return {"plug-ins": "; ".join(map(str, origins))} if origins else {}


def _describe_context(path: Path) -> Description:
    from spiketok.tokens.context import Context

    context = Context(path, anew=True)
    info = context.info
    facts = {
        "session": info.id,
        "subject": info.subject or "-",
        "units": info.n_units,
        "unit columns": ", ".join(info.unit_columns) or "-",
        "spikes in the session": info.n_spikes,
        "extent": f"{info.start_ns / NS_PER_S:.3f} .. {info.stop_ns / NS_PER_S:.3f} s",
        "observed": f"{context.observed.total_ns / NS_PER_S:.1f} s in {len(context.observed)} stretches",
        "trials": f"{info.n_trials}, with columns {', '.join(context.trials.columns) or '-'}",
        "splits": ", ".join(stored_sets(context.splits)) or "-",
        "behaviours": ", ".join(info.signals) or "-",
        **_artefact_facts(context.manifest),
    }
    return Description("context", facts, {"columns": _column_rows(context.manifest)})


def _artefact_facts(manifest: dict) -> dict[str, object]:
    return {
        "size": human_bytes(sum(c["bytes"] for c in manifest["columns"].values())),
        "made from store": manifest["store_digest"][:12],
        "digest": manifest["digest"][:12],
    }


def _column_rows(manifest: dict) -> list[dict[str, object]]:
    return [
        {
            "column": name,
            "dtype": c["dtype"],
            "shape": " x ".join(map(str, c["shape"])),
            "size": human_bytes(c["bytes"]),
        }
        for name, c in manifest["columns"].items()
    ]


def _held(reader) -> dict[str, object]:
    """What the scheme's own columns hold, counted from them."""
    columns = reader.columns
    facts: dict[str, object] = {"spikes in the tokens": reader.scheme.spikes_held(columns)}
    if "observed" in columns:
        observed = columns["observed"]
        facts["bins"] = f"{len(observed)}, {int((observed == 0).sum())} of them not wholly observed"
    return facts


def _describe_run(path: Path) -> Description:
    changed: list[ChangedError] = []
    state = _as_it_is(lambda: run_checkpoint(path), changed) if (path / CHECKPOINT).exists() else None
    config = _as_it_is(lambda: run_config(path, None if changed else state), changed)
    with _told_first(changed):
        return _run_facts(path, config, state, changed)


def _as_it_is(read: Callable[[], dict], changed: list[ChangedError]) -> dict:
    """What an artefact says, also where that is not what was written, which is noted."""
    try:
        return read()
    except ChangedError as error:
        changed.append(error)
        return error.facts


@contextlib.contextmanager
def _told_first(changed: Sequence[ChangedError]) -> Iterator[None]:
    """Where what was changed cannot even be shown, that it was changed is what is said."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError):
        if changed:
            raise changed[0] from None
        raise


def _run_facts(path: Path, config: dict, state: dict | None, changed: list[ChangedError]) -> Description:
    facts: dict[str, object] = {"model": config["model"], "size": config.get("size"), "seed": config.get("seed")}
    tables = {}
    if state is not None:
        facts |= _plugin_facts(state.get("plugins"))
        facts |= {
            "step": state.get("step"),
            "tasks": ", ".join(":".join(filter(None, (t["kind"], t["about"]))) for t in state["tasks"]),
            "trained on": ", ".join(session["id"] for session in state["sessions"]),
            "written by": state.get("written_by"),
            "checkpoint": checkpoint_digest(path)[:12],
        }
        if state.get("kept"):
            facts["adapted to"] = "; ".join(map(_adaptation, state["kept"]))
        tables["trained on"] = [
            {
                "session": session["id"],
                "shards": " ".join(shard["digest"][:12] for shard in session["shards"].values()),
                "store": session["store_digest"][:12],
                "source": session["source_sha256"][:12],
                "licence": session.get("source", {}).get("license") or "not stated",
            }
            for session in state["sessions"]
        ]
    result = path / RESULT
    at_end = state is not None and state.get("step") == state.get("total_steps")
    unfinished = f"trained, and its {RESULT} is gone" if at_end else "not finished"
    facts["state"] = "finished" if os.path.lexists(result) else f"{unfinished}: run the same 'spiketok train' again"
    if os.path.lexists(result):  # a link to nothing is a result that is gone
        scores = _as_it_is(lambda: run_result(path), changed)["test"]
        rows = [
            {"session": name, "task": task, **_numbers(score)}
            for name, by_task in scores.items()
            for task, score in by_task.items()
        ]
        tables |= {"scores on the test split": rows} if rows else {}
    return Description("run", facts, tables, tuple(map(str, changed)))


def _adaptation(kept: dict) -> str:
    """What a model that was kept saw of a session."""
    told = sum(stop - start for start, stop in kept["calibration_ns"]) / 1e9
    digest = kept["parent"]["checkpoint_digest"][:12]
    how = f"{kept['protocol']}, {told:g} s of {kept['labels']} calibration"
    return f"{kept['session']} ({how}), from {kept['parent']['run']} ({digest})"


def _numbers(values: dict) -> dict:
    return {key: value for key, value in values.items() if isinstance(value, int | float)}


def _describe_report(path: Path) -> Description:
    changed: list[ChangedError] = []
    report = _as_it_is(lambda: report_body(report_file(path)), changed)
    facts = {k: v for k, v in report.items() if isinstance(v, str | int | float)}
    tables = {k: v for k, v in report.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    return Description("report", facts, tables, tuple(map(str, changed)))


def _describe_truth(path: Path) -> Description:
    """From the headers of its arrays alone: their values may be many, or a pickle."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    rows = []
    try:
        with zipfile.ZipFile(path) as members:
            for name in members.namelist():
                with members.open(name) as member:
                    shape, _, dtype = readers[np.lib.format.read_magic(member)](member)
                shown = " x ".join(map(str, shape))
                rows.append({"array": name.removesuffix(".npy"), "dtype": str(dtype), "shape": shown})
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        message = f"{path.name} is no .npz of arrays ({reason}): check the path, or simulate again"
        raise ArtefactError(message) from error
    return Description("truth", {"file": path.name}, {"arrays": rows})


def _describe_vectors(path: Path) -> Description:
    """Of the vectors of units that ``spiketok embed`` wrote: whose they are, of which time, by which run."""
    arrays = read_npz(path, "session", "vector", "run_digest", "time.session", "time.start_ns", "time.stop_ns")
    took_ns = arrays["time.stop_ns"] - arrays["time.start_ns"]
    rows = [
        {
            "session": name,
            "units": int((arrays["session"] == name).sum()),
            "seconds": int(took_ns[arrays["time.session"] == name].sum()) / NS_PER_S,
        }
        for name in dict.fromkeys(arrays["session"].tolist())
    ]
    told = {"file": path.name, "numbers of a unit": arrays["vector"].shape[1]}
    told |= {"by the run of checkpoint": str(arrays["run_digest"])[:12]}
    return Description("vectors", told, {"sessions": rows})


def _describe_workspace(path: Path) -> Description:
    workspace = Workspace.locate(path)
    rows = []
    for session_id in workspace.session_ids():
        attributes = workspace.attributes(session_id)
        severities = [found.severity for found in findings_of(attributes)]
        rows.append(
            {
                "session": session_id,
                "subject": attributes["subject"] or "-",
                "units": attributes["n_units"],
                "spikes": attributes["n_spikes"],
                "seconds": (attributes["stop_ns"] - attributes["start_ns"]) / NS_PER_S,
                "behaviours": ", ".join(attributes["signals"]) or "-",
                "warnings": severities.count(WARNING),
                "errors": severities.count(ERROR),
                "shards": ", ".join(_baked_by(workspace, session_id)) or "-",
            }
        )
    runs = sorted(p.name for p in workspace.runs.glob("*") if is_run(p))
    facts = {"workspace": str(path), "sessions": len(rows), "runs": ", ".join(runs) or "-"}
    return Description("workspace", facts, {"sessions": rows} if rows else {})


def _baked_by(workspace: Workspace, session_id: str) -> list[str]:
    """The schemes that have a shard of a session."""
    return sorted({folder.parts[-4] for folder in workspace.baked(session_id)} - {CONTEXT})


def _describe_choice(path: Path) -> Description:
    facts = choice_body(path)
    told = {
        "decoded": facts["task"],
        "to help": ", ".join(facts["targets"]) or "-",
        "calibration": f"{facts['calibration_s']:g} s of each" if facts["targets"] else "-",
        "chosen": f"{len(facts['chosen'])} of {len(facts['sessions'])} sessions",
        "written by": facts["written_by"],
        "digest": facts["digest"][:12],
    }
    return Description("choice", told, {"sessions, the best first": choice_rows(facts)})


def _describe_leaderboard(path: Path) -> Description:
    facts = leaderboard_body(leaderboard_file(path))
    told = {
        "suite": f"{facts['suite']['name']} {facts['suite']['version']} ({facts['suite_digest'][:8]})",
        "partial": "; ".join(facts["partial"]) or "no",
        "models": ", ".join(facts["models"]),
        "seeds": ", ".join(map(str, facts["seeds"])),
        "made with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "digest": facts["digest"][:12],
    }
    tables = {
        f"ranking of {track['name']}": [
            {"rank": row["rank"], "model": row["model"], "row": row["protocol"]}
            | {name: own["mean"] for name, own in row["metrics"].items()}
            for row in track["ranking"]
        ]
        for track in facts["tracks"]
    }
    return Description("leaderboard", told, tables)


def _describe_star_table(path: Path) -> Description:
    facts = star_body(star_file(path))
    told = {"models": len(facts["models"]), "sessions": ", ".join(facts["settings"]["sessions"])}
    told |= {"seed": facts["settings"]["seed"], "digest": facts["digest"][:12]}
    titles = {name: of["title"] for name, of in facts["columns"].items()}
    tables = {
        "stars": [{"model": one["label"]} | _titled(titles, one["stars"]) for one in facts["models"]],
        "means": [{"model": one["label"]} | _titled(titles, one["mean"]) for one in facts["models"]],
    }
    return Description("star table", told, tables)


def _titled(titles: dict[str, str], values: dict[str, float | None]) -> dict[str, object]:
    return {titles.get(name, name): "-" if value is None else value for name, value in values.items()}


_DESCRIBE = {
    "nwb": _describe_nwb,
    "session": _describe_session,
    "shard": _describe_shard,
    "context": _describe_context,
    "run": _describe_run,
    "report": _describe_report,
    "truth": _describe_truth,
    "vectors": _describe_vectors,
    "star table": _describe_star_table,
    "workspace": _describe_workspace,
    "choice": _describe_choice,
    "leaderboard": _describe_leaderboard,
}
