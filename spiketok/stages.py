"""The stages that make data: ingest (NWB file -> store) and tokenize (store -> shards).

Each is plan -> jobs -> finished artefacts. Stages meet only on disk: every artefact is written whole, is not made
again while its inputs and settings are the same, and names what it was made from by digest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, DataError, SourceError, UnknownNameError, UsageError
from spiketok.files import WIP, clean_leftovers, read_json, sha256_file, write_json
from spiketok.jobs import Job, Outcome, run_jobs
from spiketok.recording import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session, Source
from spiketok.store import read_attributes, read_session, session_info, write_session
from spiketok.workspace import Workspace

READER = {"reader": "nwb", "reader_version": 1}
CONTINUOUS = "continuous"


# ---- ingest ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ingested:
    """What an ingest job did. ``state``: ``"new"``, ``"already"`` or ``"replaced"``."""

    session_id: str
    state: str
    path: str
    n_units: int
    n_spikes: int
    duration_s: float
    repairs: list[dict]
    notes: list[dict]


def find_nwb_files(paths: Sequence[Path]) -> list[Path]:
    """The NWB files that the paths name: files as given, folders searched below.

    Raises:
        SourceError: a path does not exist, or a folder holds no NWB file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and path.suffix != ".nwb":
            found = sorted(p for p in path.rglob("*.nwb") if not any(_unfinished(part) for part in p.parts))
            if not found:
                message = f"{path} holds no .nwb file"
                raise SourceError(message)
            files += found
        elif path.exists():
            files.append(path)
        else:
            message = f"{path} does not exist"
            raise SourceError(message)
    return list(dict.fromkeys(p.resolve() for p in files))


def _unfinished(part: str) -> bool:
    return part.startswith(WIP) or part.endswith(".dandidownload")


def ingest(workspace: Workspace, paths: Sequence[Path], dataset: str = "local", workers: int = 0) -> Iterator[Outcome]:
    """Normalize NWB files into the store; yields one outcome a file, its result an :class:`Ingested`.

    Args:
        workspace: where the store is.
        paths: NWB files and folders of them.
        dataset: the first half of the session ids, where a file's provenance does not give one.
        workers: processes to use; 0 for none.
    """
    from spiketok.datasets import dataset_of

    files = find_nwb_files(paths)
    clean_leftovers(workspace.root)
    ids = {path: f"{dataset_of(path) or dataset}/{session_name(path)}" for path in files}
    taken = Counter(ids.values())
    for path in files:
        if taken[ids[path]] > 1:
            message = (
                f"{path.name}: {taken[ids[path]]} files would all be session '{ids[path]}': "
                "ingest them one folder at a time with --dataset NAME"
            )
            yield Outcome(path.name, None, SourceError(message))
    unique = [path for path in files if taken[ids[path]] == 1]
    jobs = [Job(path.name, ingest_file, (workspace, path, ids[path])) for path in unique]
    for outcome in run_jobs(jobs, workers):
        if outcome.error is None:
            _remember_source(workspace, outcome.result)
        yield outcome


def session_name(path: Path) -> str:
    """The session half of an id: the file's name without its ending, without characters that a path cannot hold."""
    return "".join(c if c.isalnum() or c in "-_+." else "_" for c in path.name.removesuffix(".nwb")).lstrip(".") or "_"


def ingest_file(workspace: Workspace, path: Path, session_id: str) -> Ingested:
    """Read one NWB file and write its session, unless the store has it from the same bytes and settings."""
    from spiketok.datasets import load_source
    from spiketok.datasets.nwb import read_nwb

    target = workspace.store_path(session_id)
    digest = sha256_file(path) if path.is_file() else ""
    state = "new"
    if target.exists():
        state = "replaced"
        before = _attributes_or_none(target)
        if before and before["source"]["sha256"] == digest and before["settings"] == READER:
            return _ingested("already", path, before)
    source = load_source(path) or Source(file=path.name, sha256=digest, size=path.stat().st_size)
    if source.sha256 != digest:
        message = f"{path.name} has sha256 {digest[:12]}, was fetched as {source.sha256[:12]}: fetch it again"
        raise SourceError(message)
    write_session(read_nwb(path, session_id, source), target, READER)
    return _ingested(state, path, read_attributes(target))


def _attributes_or_none(target: Path) -> dict | None:
    """A session's attributes; None where it is of another version or damaged, and so to be made again."""
    try:
        return read_attributes(target)
    except ArtefactError:
        return None


def _ingested(state: str, path: Path, attributes: dict) -> Ingested:
    return Ingested(
        session_id=attributes["id"],
        state=state,
        path=str(path),
        n_units=attributes["n_units"],
        n_spikes=attributes["n_spikes"],
        duration_s=(attributes["stop_ns"] - attributes["start_ns"]) / NS_PER_S,
        repairs=attributes["repairs"],
        notes=attributes["notes"],
    )


def _source_index(workspace: Workspace) -> Path:
    """Where this machine keeps the path of each session's source: beside the store, never inside it."""
    return workspace.root / "sources.json"


def _remember_source(workspace: Workspace, done: Ingested) -> None:
    index = _source_index(workspace)
    known = read_json(index) if index.exists() else {}
    if known.get(done.session_id) != done.path:
        write_json(index, known | {done.session_id: done.path})


def source_path(workspace: Workspace, session_id: str) -> Path:
    """The file that a session was read from, on this machine.

    Raises:
        SourceError: it is not known here, or gone.
    """
    index = _source_index(workspace)
    known = read_json(index) if index.exists() else {}
    if session_id not in known:
        message = f"{session_id}: where its source file lies is not recorded in {index}: ingest it again"
        raise SourceError(message)
    path = Path(known[session_id])
    if not path.exists():
        message = f"{session_id}: its source file {path} is gone"
        raise SourceError(message)
    return path


# ---- segments -------------------------------------------------------------------------------------------------------


def resolve_segments(session: Session, rule: str) -> Intervals:
    """The stretches of a session that are baked.

    Args:
        session: the session.
        rule: ``"continuous"`` (its whole extent as one stretch), or ``"trials:ALIGN,PRE_MS,POST_MS"`` (for each trial
            ``[align - pre, align + post)``, where ALIGN is ``start``, ``stop`` or a time column of the trial table).

    Raises:
        UsageError: the rule cannot be read. DataError: the session has no trials, or no trial has the time.
        UnknownNameError: the trial table has no such column.
    """
    if rule == CONTINUOUS:
        return Intervals(np.array([session.start_ns]), np.array([session.stop_ns]))
    align, pre_ns, post_ns = parse_trial_rule(rule)
    trials = session.trials
    if trials is None or len(trials) == 0:
        tables = ", ".join(session.intervals) or "none"
        message = f"{session.id} has no trials (tables: {tables}): use --segments continuous"
        raise DataError(message)
    if align in ("start", "stop"):
        time_ns = trials.start_ns if align == "start" else trials.stop_ns
    else:
        column = trials.columns.get(align)
        numeric = {
            k for k, c in trials.columns.items() if not isinstance(c, Ragged) and c.dtype.kind == "f" and c.ndim == 1
        }
        if column is None or align not in numeric:
            raise UnknownNameError("trial time", align, {"start", "stop"} | numeric, session.id)
        time_ns = np.rint(column[np.isfinite(column)] * NS_PER_S).astype(np.int64)
    if time_ns.size == 0:
        message = f"{session.id}: no trial has a finite '{align}'"
        raise DataError(message)
    return Intervals(time_ns - pre_ns, time_ns + post_ns)


def parse_trial_rule(rule: str) -> tuple[str, int, int]:
    """``"trials:ALIGN,PRE_MS,POST_MS"`` as (align, pre_ns, post_ns)."""
    kind, _, rest = rule.partition(":")
    parts = [p.strip() for p in rest.split(",")]
    try:
        if kind != "trials" or len(parts) != 3:
            raise ValueError(rule)
        align, pre_ns, post_ns = parts[0], round(float(parts[1]) * NS_PER_MS), round(float(parts[2]) * NS_PER_MS)
    except ValueError:
        message = f"segments '{rule}' cannot be read: use 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"
        raise UsageError(message) from None
    if pre_ns + post_ns <= 0:
        message = f"segments '{rule}' are {(pre_ns + post_ns) / NS_PER_MS:g} ms long, must be longer than 0"
        raise UsageError(message)
    return align, pre_ns, post_ns


# ---- tokenize -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokenized:
    """What a tokenize job did. ``state``: ``"new"`` or ``"already"``."""

    session_id: str
    state: str
    path: str
    n_spikes: int
    lost: dict[str, int]
    nbytes: int
    notes: list[str]


def shard_path(workspace: Workspace, session_id: str, scheme, segments_rule: str) -> Path:
    """Where the shard of a session lies for this scheme, segments and the store as it is now."""
    from spiketok.shards import shard_fingerprint

    store_digest = read_attributes(workspace.store_path(session_id))["digest"]
    return workspace.shards / scheme.name / session_id / shard_fingerprint(scheme, segments_rule, store_digest)


def tokenize(
    workspace: Workspace, session_ids: Sequence[str], scheme, segments_rule: str = CONTINUOUS, workers: int = 0
) -> Iterator[Outcome]:
    """Bake sessions into shards; yields one outcome a session, its result a :class:`Tokenized`."""
    if segments_rule != CONTINUOUS:
        parse_trial_rule(segments_rule)
    jobs = [Job(s, tokenize_session, (workspace, s, scheme, segments_rule)) for s in session_ids]
    yield from run_jobs(jobs, workers)


def tokenize_session(workspace: Workspace, session_id: str, scheme, segments_rule: str) -> Tokenized:
    """Bake one session, unless its shard stands already."""
    from spiketok.shards import ShardReader, write_shard

    target = shard_path(workspace, session_id, scheme, segments_rule)
    state, notes = "already", []
    if not target.exists():
        state = "new"
        session = read_session(workspace.store_path(session_id))
        segments = resolve_segments(session, segments_rule)
        digest = read_attributes(workspace.store_path(session_id))["digest"]
        write_shard(target, scheme, session, segments, segments_rule=segments_rule, store_digest=digest)
        if segments_rule != CONTINUOUS and len(segments) < len(session.trials):
            left_out = len(session.trials) - len(segments)
            notes.append(f"{left_out} of {len(session.trials)} trials have no finite time to align to: left out")
    manifest = ShardReader(target).manifest
    return Tokenized(
        session_id=session_id,
        state=state,
        path=str(target),
        n_spikes=manifest["n_spikes"],
        lost=manifest["lost"],
        nbytes=sum(c["bytes"] for c in manifest["columns"].values()),
        notes=notes,
    )


# ---- verify ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verified:
    """What a verify job compared, and what it found to differ."""

    session_id: str
    n_units: int
    n_spikes: int
    n_rows: int
    n_samples: int
    n_shards: int
    differences: list[str]


def verify(workspace: Workspace, session_ids: Sequence[str], workers: int = 0) -> Iterator[Outcome]:
    """Compare sessions with their sources and check all digests; one outcome a session, its result a Verified."""
    yield from run_jobs([Job(s, verify_session_files, (workspace, s)) for s in session_ids], workers)


def verify_session_files(workspace: Workspace, session_id: str) -> Verified:
    """Source file against store through pynwb, and the digests source -> store -> shards."""
    from spiketok.shards import ShardReader
    from spiketok.verify import verify_session

    session = read_session(workspace.store_path(session_id))
    attributes = read_attributes(workspace.store_path(session_id))
    path = source_path(workspace, session_id)
    differences = []
    found = sha256_file(path)
    if found != session.source.sha256:
        differences.append(
            f"source {path.name} has sha256 {found[:12]}, was ingested as {session.source.sha256[:12]}: ingest it again"
        )
    differences += verify_session(session, path)
    shards = sorted(p.parent for p in workspace.shards.glob(f"*/{session_id}/*/manifest.json"))
    for shard in shards:
        manifest = json.loads((shard / "manifest.json").read_text())
        name = "/".join(shard.relative_to(workspace.shards).parts)
        if manifest.get("store_digest") != attributes["digest"]:
            continue  # of an earlier state of the store: never read again, not an error
        reader = ShardReader(shard)
        differences += [f"shard {name}: {d}" for d in reader.verify()]
    info = session_info(session)
    return Verified(
        session_id=session_id,
        n_units=info.n_units,
        n_spikes=info.n_spikes,
        n_rows=sum(len(t) for t in session.intervals.values()),
        n_samples=sum(len(s.time_ns) for s in session.signals.values()),
        n_shards=len(shards),
        differences=differences,
    )
