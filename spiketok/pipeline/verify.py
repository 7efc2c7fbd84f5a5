"""The stage verify: sources, store, context and shards of a session against each other.

The walk back from runs and reports is ``spiketok.pipeline.provenance``, the independent reading of a source is
``spiketok.pipeline.source_check``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from spiketok.errors import ArtefactError
from spiketok.pipeline.ingest import linked_differences, normalize, recorded_paths, source_paths
from spiketok.pipeline.isolation import bounds, isolated
from spiketok.pipeline.jobs import Job, Outcome, run_jobs
from spiketok.pipeline.readers import READER, digest_of
from spiketok.recording.nouns import Session
from spiketok.storage.files import read_signed, source_bytes
from spiketok.storage.pushed import Pulled
from spiketok.storage.remote import local_copy
from spiketok.storage.store import read_session, session_digest, session_info
from spiketok.storage.workspace import CONTEXT, MANIFEST, Workspace


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
    """The source files against the store, and the digests source -> store -> context -> shards.

    What the generic reader gave is compared with pynwb's reading of the same file; the session must come out once more,
    digest for digest, when it is made again from its files by its recorded settings.
    """
    session = read_session(workspace.store_path(session_id))
    attributes = workspace.attributes(session_id)
    not_here: list[str] = []
    if attributes["settings"].get("streamed"):
        not_here = [f"{part.file}, read from afar and never verified as a whole" for part in session.source.files]
    elif not recorded_paths(workspace, session_id) and was_pulled(workspace, session_id):
        not_here = [f"{part.file}, of which the session was made before it was pulled" for part in session.source.files]
    elif quick:
        paths = recorded_paths(workspace, session_id)
        not_here = [str(path) for path in paths if not path.exists()]
        not_here += [] if paths else [part.file for part in session.source.files]
    with ExitStack() as stack:
        paths = [] if not_here else source_paths(workspace, session_id)
        files = [stack.enter_context(local_copy(path, workspace.root)) for path in paths]
        differences = [] if not_here else _compare_sources(session, files, attributes["settings"])
        if not quick and not differences and not not_here:
            differences = compare_made(session, attributes, files)
    folders = workspace.baked(session_id)
    for folder in folders:
        if _store_digest(folder) in ("", attributes["digest"]):
            differences += _compare_tokens(folder)  # else of an earlier state of the store: never read again
    info = session_info(session)
    return Verified(
        session_id=session_id,
        n_units=info.n_units,
        n_spikes=info.n_spikes,
        n_rows=sum(len(t) for t in session.intervals.values()),
        n_samples=sum(len(s.time_ns) for s in session.signals.values()),
        n_shards=sum(folder.parts[-4] != CONTEXT for folder in folders),
        differences=list(dict.fromkeys(differences)),  # a context that several shards share is told once
        not_here=not_here,
    )


def was_pulled(workspace: Workspace, session_id: str) -> bool:
    """Whether a stored session is as it was pulled, so that nobody here ever had its source."""
    item = f"store/{session_id}"
    if workspace.store_place is None:
        return Pulled.of(workspace.root).at(workspace.root, item) is not None
    digest = workspace.attributes(session_id)["digest"]
    return any(one["about"].get("digest") == digest for one in Pulled.of(workspace.root).items.get(item, ()))


def _store_digest(folder: Path) -> str:
    """Of which state of the store a shard or a context says it is; empty where its manifest is not what was written."""
    try:
        return str(read_signed(folder / MANIFEST, "manifest", "")["store_digest"])
    except (OSError, KeyError, ArtefactError):
        return ""


def _compare_tokens(folder: Path) -> list[str]:
    """What is wrong with a shard, also with what it says of its context, or with a context."""
    from spiketok.tokens.context import Context
    from spiketok.tokens.shards import ShardReader

    try:
        if folder.parts[-4] == CONTEXT:
            Context(folder, anew=True)
        else:
            ShardReader(folder, anew=True).require_context()
    except ArtefactError as error:
        return [str(error)]
    return []


def _compare_sources(session: Session, files: Sequence[Path], settings: dict) -> list[str]:
    """Whether the files are the ones that the session was made of."""
    sources = session.source.files
    if len(files) != len(sources):
        return [f"{len(files)} source files are recorded, the session was made of {len(sources)}: ingest it again"]
    differences = [
        f"source {file.name} has sha256 {found[:12]}, was ingested as {source.sha256[:12]}: ingest it again"
        for file, source in zip(files, sources, strict=True)
        if (found := digest_of(file, settings)) != source.sha256
    ]
    linked = (linked_differences(source, file) for file, source in zip(files, sources, strict=True))
    return differences + [difference for each in linked for difference in each]


def compare_made(session: Session, attributes: dict, files: Sequence[Path]) -> list[str]:
    """What differs between a session and pynwb's reading of its files, and between it and itself made again.

    The files are read in a process that may die of what is in them, within the bounds that ingest has.

    Args:
        session, attributes: as the store gives them. files: the ones it was made of, on this machine.

    Raises:
        SourceError: a file cannot be read, or takes more than the bounds to read.
    """
    _warm_up()
    name = " + ".join(file.name for file in files)
    most = bounds(sum(source_bytes(file) for file in files))
    return isolated(_compare_made, session, attributes, files, name=name, **most)


@lru_cache(maxsize=1)
def _warm_up() -> None:
    """Import here what each child would import anew."""
    import pynwb  # noqa: F401

    from spiketok.sources.formats.nwb.units import warm_up

    warm_up()


def _compare_made(session: Session, attributes: dict, files: Sequence[Path]) -> list[str]:
    from spiketok.pipeline.source_check import verify_session
    from spiketok.sources.catalogue import RULES, require_rules
    from spiketok.sources.catalogue.base import read_nwb_file

    settings, sources = attributes["settings"], session.source.files
    require_rules(settings, session.id)
    rules = RULES.get(settings.get("rules", ""))
    if rules is None or rules.version != settings.get("rules_version", 0):
        ours = "none" if rules is None else rules.version
        return [
            f"made by the rules '{settings['rules']}' of version {settings['rules_version']}, this spiketok has "
            f"{ours}: ingest it again"
        ]
    differences = []
    if rules.read is read_nwb_file and settings["reader"] == READER["reader"]:
        units_path, restarts = settings.get("units", ""), settings.get("restarts", ())
        for file, source in zip(files, sources, strict=True):
            as_it_stands = {"": "s"} if "time_unit" in settings else None
            plain = (
                session
                if settings == READER
                else read_nwb_file(
                    file,
                    session.id,
                    source,
                    as_it_stands,
                    mends_clocks=rules.mends_clocks,
                    units_path=units_path,
                    restarts=restarts,
                    is_part=bool(settings.get("merge")),
                )
            )
            differences += verify_session(plain, file, units_path, restarts)
    if not differences:
        made = session_digest(normalize(files, session.id, sources, settings), settings, attributes["written_by"])
        if made != attributes["digest"]:
            differences.append(
                f"made again from its files it has digest {made[:12]}, in the store stands "
                f"{attributes['digest'][:12]}: ingest it again"
            )
    return differences
