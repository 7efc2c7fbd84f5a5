"""Sessions from assets that stay where they are: units, trials and behaviour cross the network, raw recordings do not.

    plan -> groups (the assets of one session) -> normalize on remote files, in a process of its own -> store

What is unusual: the digest in the session's source is the one that the archive announces, and nobody read the bytes
that it covers. A note of the session says so, the setting ``streamed`` keeps it apart from one that was made of a
verified file, and ``verify`` compares no source. Fetching the same asset without ``--stream`` makes the session anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from spiketok.errors import DataError, FetchError, UsageError
from spiketok.pipeline.admission import gate, ingested
from spiketok.pipeline.ingest import (
    Group,
    Ingested,
    named,
    normalize,
    settings_of,
    stored_from,
    twin_words,
    with_stored_splits,
)
from spiketok.pipeline.isolation import bounds, isolated
from spiketok.pipeline.jobs import Job, Outcome, run_jobs
from spiketok.recording.nouns import Finding, Source
from spiketok.storage.files import clean_leftovers
from spiketok.storage.locks import session_lock
from spiketok.storage.names import folded, safe_name, twin_of
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import read_attributes, session_place, write_session
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.sources.archives.plans import Asset, Plan

STREAMED = {"streamed": True}  # what a store's settings say of such a session
NOTE = "streamed"


@dataclass(frozen=True)
class Streamed:
    """What became of a session: as an ingest says it, and how much of how much crossed the network."""

    ingested: Ingested
    read_bytes: int
    total_bytes: int


def stream(
    workspace: Workspace,
    plan: Plan,
    wanted: Mapping[str, object] | None = None,
    *,
    strict: bool = False,
    told: Callable[[str], None] = print,
) -> Iterator[Outcome]:
    """Make sessions of a plan's assets without downloading them; one outcome a session, its result a :class:`Streamed`.

    Args:
        workspace: where the store is.
        plan: of a dandiset.
        wanted: further settings, see :func:`spiketok.pipeline.ingest.settings_of`.
        strict: store no session that has a warning or an error.
        told: called with a line where the store's index had to be made anew.

    Raises:
        UsageError: the plan is not of a DANDI archive.
    """
    if not plan.dandiset:
        message = f"{plan.name}: --stream needs the sha256 that only DANDI announces: fetch it without --stream"
        raise UsageError(message)
    workspace, known = workspace.absolute(), folded(workspace.session_ids())
    with gate(workspace, strict, told) as through:
        jobs = []
        for session_id, (rules, assets) in _sessions(plan).items():
            group = Group(session_id, tuple(PurePosixPath(asset.path) for asset in assets), rules)
            if twin := twin_of(session_id, known):
                yield Outcome(group.label, None, DataError(f"{group.label}: {twin_words(session_id, twin)}"))
                continue
            known |= folded([session_id])
            arguments = (workspace, plan, group, assets, dict(wanted or {}), through.place(session_id))
            jobs.append(Job(group.label, _stream_group, arguments))
        for outcome in run_jobs(jobs):
            if outcome.error is None:
                done, refusal = through.admit(outcome.result.ingested)
                outcome = replace(outcome, result=replace(outcome.result, ingested=done), error=refusal)
            yield outcome


def _sessions(plan: Plan) -> dict[str, tuple[str, tuple[Asset, ...]]]:
    """The rules and assets of each session, as an ingest of the same files would group them."""
    from spiketok.sources.catalogue import DATASETS, rules_of

    found: dict[str, tuple[str, tuple[Asset, ...]]] = {}
    for asset in plan.assets:
        names = [d.name for d in DATASETS.values() if d.holds(plan.host, plan.number, asset.path)]
        of = names[0] if names else plan.dandiset
        rules = rules_of(of)
        session_id = f"{of}/{safe_name(rules.session_name(PurePosixPath(asset.path).name))}"
        found[session_id] = (rules.name, (*found.get(session_id, ("", ()))[1], asset))
    return found


def _stream_group(
    workspace: Workspace,
    plan: Plan,
    group: Group,
    assets: tuple[Asset, ...],
    wanted: dict[str, object],
    into: Path | None,
) -> Streamed:
    """Read the assets of one session and write it, unless the store has it from the same digests and settings."""
    from spiketok.sources.catalogue import RULES

    if len(assets) > 1 and RULES[group.rules].join is None:
        message = f"{len(assets)} assets would all be session '{group.session_id}': choose one with --glob"
        raise DataError(message)
    for asset in assets:
        fault = asset.problem or ("" if asset.sha256 else "the archive announces no sha2-256 of it")
        if fault:
            message = f"{asset.path}: {fault}: fetch it without --stream"
            raise FetchError(message)
    target = workspace.store_path(group.session_id)
    with session_lock(target):
        return _stream_to(target, plan, group, assets, wanted, into)


def _stream_to(
    target: Path | RemotePath,
    plan: Plan,
    group: Group,
    assets: tuple[Asset, ...],
    wanted: dict[str, object],
    into: Path | None,
) -> Streamed:
    from spiketok.sources.archives.dandi.stream import warm_up

    digests = [asset.sha256 for asset in assets]
    settings = with_stored_splits(target, settings_of(group, wanted) | STREAMED)
    total = sum(asset.size for asset in assets)
    plain = {key: value for key, value in settings.items() if key not in STREAMED}
    for recorded in (settings, plain):  # one that was made of verified files is not made worse
        done = stored_from(target, group, digests, recorded)
        if done is not None:
            return Streamed(done, 0, total)
    state = "replaced" if target.exists() else "new"
    sources = [
        Source(asset.path, asset.sha256, asset.size, plan.dandiset, plan.version, plan.license, plan.citation)
        for asset in assets
    ]
    warm_up()
    most = bounds(total)
    with session_place(into or target) as folder:
        try:
            read = isolated(_make, plan, assets, group, sources, settings, folder, name=group.label, **most)
        finally:
            clean_leftovers(folder.parent)  # of a child that died
    return Streamed(ingested(state, named(group), read_attributes(into or target), into), read, total)


def _make(
    plan: Plan,
    assets: tuple[Asset, ...],
    group: Group,
    sources: list[Source],
    settings: dict[str, object],
    folder: Path,
) -> int:
    """Make a session of remote files and write it to a folder; the bytes that it took."""
    from spiketok.sources.archives.dandi.stream import open_remote

    with open_remote(plan) as open_asset:
        files = [open_asset(asset) for asset in assets]
        session = normalize(files, group.session_id, sources, settings)
        read = sum(file.read_bytes for file in files)
    write_session(replace(session, notes=(*session.notes, _note(assets))), folder, settings)
    return read


def _note(assets: tuple[Asset, ...]) -> Finding:
    text = (
        f"read from afar in parts: the bytes of {len(assets)} files were not verified as a whole, "
        f"the recorded sha256 is the one that the archive announces ({assets[0].sha256[:12]}...)"
    )
    return Finding(NOTE, len(assets), text)
