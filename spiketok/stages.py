"""The stages that make data: ingest (NWB file -> store) and tokenize (store -> shards).

Each is plan -> jobs -> finished artefacts. Stages meet only on disk: every artefact is written whole, is not made
again while its inputs and settings are the same, and names what it was made from by digest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from spiketok.errors import (
    ArtefactError,
    DataError,
    NotServedError,
    SourceError,
    SpiketokError,
    UnknownNameError,
    UsageError,
)
from spiketok.files import WIP, clean_leftovers, read_json, sha256_file, write_json
from spiketok.jobs import Job, Outcome, run_jobs
from spiketok.recording import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session, SessionInfo, Source
from spiketok.remote import RemotePath, local_copy, place
from spiketok.schemes import Scheme
from spiketok.store import ATTRIBUTES, read_attributes, read_session, session_info, write_session
from spiketok.workspace import Workspace

READER = {"reader": "nwb", "reader_version": 1}
CONTINUOUS = "continuous"

# What tokenizing takes, measured as the peak of one process: the interpreter with its kernels, each spike while a
# session is read and checked, and a scheme's columns with what it needs to make them.
PROCESS_BYTES, READ_BYTES, BAKE_FACTOR = 300_000_000, 48, 2


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


def find_nwb_files(paths: Sequence[Path | RemotePath | str]) -> list[Path | RemotePath]:
    """The NWB files that the paths and URLs name: files as given, folders searched below.

    The last part of a URL may be a glob, which no shell resolves.

    Raises:
        SourceError: a path does not exist, or a folder holds no NWB file. FetchError: a URL cannot be reached.
    """
    files: list[Path | RemotePath] = []
    for path in map(place, paths):
        if isinstance(path, RemotePath) and path.parents and "*" in path.name:
            found = [p for p in path.parent.iterdir() if fnmatchcase(p.name, path.name)]
            if not found:
                message = f"{path} matches nothing"
                raise SourceError(message)
            files += found
            continue
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


def ingest(
    workspace: Workspace,
    paths: Sequence[Path | RemotePath | str],
    dataset: str = "local",
    executor: str | int = "",
) -> Iterator[Outcome]:
    """Normalize NWB files into the store; yields one outcome a file, its result an :class:`Ingested`.

    Args:
        workspace: where the store is.
        paths: NWB files and folders of them, here or behind URLs.
        dataset: the first half of the session ids, where a file's provenance does not give one.
        executor: see :func:`spiketok.jobs.run_jobs`.
    """
    from spiketok.datasets import dataset_of

    files = find_nwb_files(paths)
    workspace = workspace.absolute()
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
    for outcome in run_jobs(jobs, executor):
        if outcome.error is None:
            _remember_source(workspace, outcome.result)
        yield outcome


def session_name(path: Path | RemotePath) -> str:
    """The session half of an id: the file's name without its ending, without characters that a path cannot hold."""
    return "".join(c if c.isalnum() or c in "-_+." else "_" for c in path.name.removesuffix(".nwb")).lstrip(".") or "_"


def ingest_file(workspace: Workspace, path: Path | RemotePath, session_id: str) -> Ingested:
    """Read one NWB file and write its session, unless the store has it from the same bytes and settings."""
    from spiketok.datasets import load_source
    from spiketok.datasets.nwb import read_nwb

    target = workspace.store_path(session_id)
    with local_copy(path, workspace.root) as file:
        digest = sha256_file(file) if file.is_file() else ""
        state = "new"
        if (target / ATTRIBUTES).exists():
            state = "replaced"
            before = _attributes_or_none(target)
            if before and before["source"]["sha256"] == digest and before["settings"] == READER:
                return _ingested("already", path, before)
        source = load_source(path) or Source(file=path.name, sha256=digest, size=file.stat().st_size)
        if source.sha256 != digest:
            message = f"{path.name} has sha256 {digest[:12]}, was fetched as {source.sha256[:12]}: fetch it again"
            raise SourceError(message)
        write_session(read_nwb(file, session_id, source), target, READER)
    return _ingested(state, path, read_attributes(target))


def _attributes_or_none(target: Path | RemotePath) -> dict | None:
    """A session's attributes; None where it is of another version or damaged, and so to be made again."""
    try:
        return read_attributes(target)
    except ArtefactError:
        return None


def _ingested(state: str, path: Path | RemotePath, attributes: dict) -> Ingested:
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


def source_path(workspace: Workspace, session_id: str) -> Path | RemotePath:
    """The file that a session was read from, on this machine or behind a URL.

    Raises:
        SourceError: it is not known here, or gone. FetchError: its URL cannot be reached.
    """
    index = _source_index(workspace)
    known = read_json(index) if index.exists() else {}
    if session_id not in known:
        message = f"{session_id}: where its source file lies is not recorded in {index}: ingest it again"
        raise SourceError(message)
    path = place(known[session_id])
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
class Planned:
    """What one scheme would make of one session. ``state``: ``"new"``, ``"already"`` or ``"not served"``.

    ``nbytes`` bounds the shard's size from above; ``reason`` says why a session is not served.
    """

    session_id: str
    scheme: str
    state: str
    nbytes: int
    reason: str = ""


@dataclass(frozen=True)
class Tokenized:
    """What a scheme made of a session. ``state``: ``"new"``, ``"already"``, ``"not served"`` or ``"failed"``.

    ``held`` counts the spikes in the columns (once for each segment), ``lost`` those that are not, by reason.
    """

    session_id: str
    scheme: str
    state: str
    path: str = ""
    n_spikes: int = 0
    held: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    nbytes: int = 0
    notes: list[str] = field(default_factory=list)


def shard_path(workspace: Workspace, session_id: str, scheme: Scheme, segments_rule: str) -> Path:
    """Where the shard of a session lies for this scheme, segments and the store as it is now."""
    from spiketok.shards import shard_fingerprint

    store_digest = read_attributes(workspace.store_path(session_id))["digest"]
    return workspace.shards / scheme.name / session_id / shard_fingerprint(scheme, segments_rule, store_digest)


def plan_session(
    workspace: Workspace, session_id: str, schemes: Sequence[Scheme], segments_rule: str = CONTINUOUS
) -> list[Planned]:
    """What each scheme would write of a session, before any work.

    Raises:
        ArtefactError: no such session. DataError, UsageError: the segments' rule does not fit it.
    """
    from spiketok.shards import plan_bytes

    attributes = read_attributes(workspace.store_path(session_id))
    if segments_rule == CONTINUOUS:
        info = _planned_info(attributes)
        segments = Intervals([info.start_ns], [info.stop_ns])
    else:
        session = read_session(workspace.store_path(session_id))
        info, segments = session_info(session), resolve_segments(session, segments_rule)
    plans = []
    for scheme in schemes:
        stands = shard_path(workspace, session_id, scheme, segments_rule).exists()
        try:
            nbytes = plan_bytes(scheme, info, segments)
        except NotServedError as error:
            plans.append(Planned(session_id, scheme.name, "not served", 0, str(error)))
        else:
            plans.append(Planned(session_id, scheme.name, "already" if stands else "new", nbytes))
    return plans


def _planned_info(attributes: dict) -> SessionInfo:
    """A session as far as sizes need it: its units are numbered, not named."""
    return SessionInfo(
        id=attributes["id"],
        subject=attributes["subject"],
        unit_id=np.arange(attributes["n_units"]).astype(np.str_),
        n_spikes=attributes["n_spikes"],
        start_ns=attributes["start_ns"],
        stop_ns=attributes["stop_ns"],
        signals={name: (tuple(s["components"]), s["measure"]) for name, s in attributes["signals"].items()},
    )


def tokenize_bytes(workspace: Workspace, plans: Sequence[Planned]) -> int:
    """The memory that one session's :func:`tokenize_session` may take: the session, and one scheme's bake at a time."""
    n_spikes = read_attributes(workspace.store_path(plans[0].session_id))["n_spikes"]
    largest = max((p.nbytes for p in plans if p.state == "new"), default=0)
    return PROCESS_BYTES + READ_BYTES * n_spikes + BAKE_FACTOR * largest


def tokenize(
    workspace: Workspace,
    session_ids: Sequence[str],
    schemes: Sequence[Scheme],
    segments_rule: str = CONTINUOUS,
    executor: str = "",
    max_memory: int | None = None,
) -> Iterator[Outcome]:
    """Bake sessions into shards, all schemes in one pass over a session.

    Yields one outcome a session, its result a list of one :class:`Tokenized` a scheme.

    Args:
        executor: see :func:`spiketok.jobs.run_jobs`.
        max_memory: bytes that all running jobs together may plan to take.
    """
    if segments_rule != CONTINUOUS:
        parse_trial_rule(segments_rule)
    workspace = workspace.absolute()
    jobs = []
    for session_id in session_ids:
        nbytes = 0
        if max_memory is not None:
            try:
                nbytes = tokenize_bytes(workspace, plan_session(workspace, session_id, schemes, segments_rule))
            except SpiketokError as error:
                yield Outcome(session_id, None, error)
                continue
        jobs.append(Job(session_id, tokenize_session, (workspace, session_id, tuple(schemes), segments_rule), nbytes))
    yield from run_jobs(jobs, executor, memory_bytes=max_memory)


def tokenize_session(
    workspace: Workspace, session_id: str, schemes: Sequence[Scheme], segments_rule: str
) -> list[Tokenized]:
    """Bake one session by each scheme whose shard does not stand already; the session is read at most once."""
    store = workspace.store_path(session_id)
    session, done = None, []
    for scheme in schemes:
        target, state, notes = shard_path(workspace, session_id, scheme, segments_rule), "already", []
        if not target.exists():
            state = "new"
            session = session or read_session(store)
            try:
                notes = _bake_to(target, session, scheme, segments_rule, read_attributes(store)["digest"])
            except NotServedError as error:
                done.append(Tokenized(session_id, scheme.name, "not served", notes=[str(error)]))
                continue
            except DataError as error:  # one scheme's trouble does not stop the others
                done.append(Tokenized(session_id, scheme.name, "failed", notes=[str(error)]))
                continue
        done.append(_tokenized(target, state, notes))
    return done


def _bake_to(target: Path, session: Session, scheme: Scheme, segments_rule: str, store_digest: str) -> list[str]:
    """Write a shard; what should be said about it."""
    from spiketok.shards import write_shard

    segments = resolve_segments(session, segments_rule)
    write_shard(target, scheme, session, segments, segments_rule=segments_rule, store_digest=store_digest)
    if segments_rule == CONTINUOUS or len(segments) == len(session.trials):
        return []
    left_out = len(session.trials) - len(segments)
    return [f"{left_out} of {len(session.trials)} trials have no finite time to align to: left out"]


def _tokenized(target: Path, state: str, notes: list[str]) -> Tokenized:
    from spiketok.shards import ShardReader

    reader = ShardReader(target)
    return Tokenized(
        session_id=reader.info.id,
        scheme=reader.scheme.name,
        state=state,
        path=str(target),
        n_spikes=reader.info.n_spikes,
        held=reader.scheme.spikes_held(reader.columns),
        lost=reader.lost,
        nbytes=sum(c["bytes"] for c in reader.manifest["columns"].values()),
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
    workspace = workspace.absolute()
    yield from run_jobs([Job(s, verify_session_files, (workspace, s)) for s in session_ids], workers)


def verify_session_files(workspace: Workspace, session_id: str) -> Verified:
    """Source file against store through pynwb, and the digests source -> store -> shards."""
    from spiketok.shards import ShardReader
    from spiketok.verify import verify_session

    session = read_session(workspace.store_path(session_id))
    attributes = read_attributes(workspace.store_path(session_id))
    differences = []
    with local_copy(source_path(workspace, session_id), workspace.root) as path:
        found, ingested = sha256_file(path), session.source.sha256
        if found != ingested:
            differences.append(
                f"source {path.name} has sha256 {found[:12]}, was ingested as {ingested[:12]}: ingest it again"
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
