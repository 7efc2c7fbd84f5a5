"""The stages behind the store: tokenize (store -> shards) and verify (sources, store and shards against each other).

Each is plan -> jobs -> finished artefacts. Stages meet only on disk: every artefact is written whole, is not made
again while its inputs and settings are the same, and names what it was made from by digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spiketok.errors import DataError, NotServedError, SpiketokError, UnknownNameError, UsageError
from spiketok.files import sha256_source
from spiketok.ingestion import READER, normalize, recorded_paths, source_paths
from spiketok.jobs import Job, Outcome, run_jobs
from spiketok.recording import FLUORESCENCE, NS_PER_MS, NS_PER_S, Intervals, Ragged, Session, SessionInfo
from spiketok.remote import local_copy
from spiketok.schemes import Scheme
from spiketok.store import read_attributes, read_session, session_digest, session_info
from spiketok.workspace import Workspace

CONTINUOUS = "continuous"

# What tokenizing takes, measured as the peak of one process: the interpreter with its kernels, each spike while a
# session is read and checked, and a scheme's columns with what it needs to make them.
PROCESS_BYTES, READ_BYTES, BAKE_FACTOR = 300_000_000, 48, 2


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
            _require_spikes(info, scheme)
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


def _require_spikes(info: SessionInfo, scheme: Scheme) -> None:
    """Raise NotServedError where units were imaged and a scheme would take them for silent."""
    if not info.n_spikes and FLUORESCENCE in info.signals and FLUORESCENCE not in scheme.signals_read:
        message = f"{info.id} has no spikes, its units were imaged: use --scheme fluorescence"
        raise NotServedError(message)


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
                _require_spikes(session_info(session), scheme)
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
    """What a verify job compared, and what it found to differ; ``not_here``: source files that it could not look at."""

    session_id: str
    n_units: int
    n_spikes: int
    n_rows: int
    n_samples: int
    n_shards: int
    differences: list[str]
    not_here: list[str] = field(default_factory=list)


def verify(
    workspace: Workspace, session_ids: Sequence[str], workers: int = 0, *, quick: bool = False
) -> Iterator[Outcome]:
    """Compare sessions with their sources and check all digests; one outcome a session, its result a Verified.

    Args:
        quick: digests only; a source file that is not here is then no failure.
    """
    workspace = workspace.absolute()
    yield from run_jobs([Job(s, verify_session_files, (workspace, s, quick)) for s in session_ids], workers)


def verify_session_files(workspace: Workspace, session_id: str, quick: bool = False) -> Verified:
    """The source files against the store, and the digests source -> store -> shards.

    What the generic reader gave is compared with pynwb's reading of the same file; the session must come out once more,
    digest for digest, when it is made again from its files by its recorded settings.
    """
    from spiketok.shards import ShardReader

    session = read_session(workspace.store_path(session_id))
    attributes = read_attributes(workspace.store_path(session_id))
    not_here: list[str] = []
    if attributes["settings"].get("streamed"):
        not_here = [f"{part.file}, read from afar and never verified as a whole" for part in session.source.files]
    elif quick:
        paths = recorded_paths(workspace, session_id)
        not_here = [str(path) for path in paths if not path.exists()]
        not_here += [] if paths else [part.file for part in session.source.files]
    with ExitStack() as stack:
        paths = [] if not_here else source_paths(workspace, session_id)
        files = [stack.enter_context(local_copy(path, workspace.root)) for path in paths]
        differences = [] if not_here else _compare_sources(session, files)
        if not quick and not differences and not not_here:
            differences = compare_made(session, attributes, files)
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
        not_here=not_here,
    )


def _compare_sources(session: Session, files: Sequence[Path]) -> list[str]:
    """Whether the files are the ones that the session was made of."""
    sources = session.source.files
    if len(files) != len(sources):
        return [f"{len(files)} source files are recorded, the session was made of {len(sources)}: ingest it again"]
    return [
        f"source {file.name} has sha256 {found[:12]}, was ingested as {source.sha256[:12]}: ingest it again"
        for file, source in zip(files, sources, strict=True)
        if (found := sha256_source(file)) != source.sha256
    ]


def compare_made(session: Session, attributes: dict, files: Sequence[Path]) -> list[str]:
    """What differs between a session and pynwb's reading of its files, and between it and itself made again.

    Args:
        session, attributes: as the store gives them. files: the ones it was made of, on this machine.
    """
    from spiketok.datasets import RULES
    from spiketok.datasets.base import read_nwb_file
    from spiketok.verify import verify_session

    settings, sources = attributes["settings"], session.source.files
    rules = RULES.get(settings.get("rules", ""))
    if rules is None or rules.version != settings.get("rules_version", 0):
        ours = "none" if rules is None else rules.version
        return [
            f"made by the rules '{settings['rules']}' of version {settings['rules_version']}, this spiketok has "
            f"{ours}: ingest it again"
        ]
    differences = []
    if rules.read is read_nwb_file and settings["reader"] == READER["reader"]:
        for file, source in zip(files, sources, strict=True):
            plain = session if settings == READER else read_nwb_file(file, session.id, source)
            differences += verify_session(plain, file)
    if not differences:
        made = session_digest(normalize(files, session.id, sources, settings), settings, attributes["written_by"])
        if made != attributes["digest"]:
            differences.append(
                f"made again from its files it has digest {made[:12]}, in the store stands "
                f"{attributes['digest'][:12]}: ingest it again"
            )
    return differences
