"""What fills a workspace, as functions: simulate, fetch, ingest, tokenize.

They do what the commands of these names do, without their output: findings go to the log, what was made is returned,
and where some items failed the others are done and :class:`~spiketok.errors.PartError` says which and why.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok.api.sessions import Sessions
from spiketok.api.tokens import SessionShard
from spiketok.api.workspace import Chosen, OpenWorkspace, open_workspace, scheme_named, words_of
from spiketok.errors import DataError, PartError, UsageError

if TYPE_CHECKING:
    from spiketok.tokens.schemes import Scheme

Root = str | Path | OpenWorkspace | None
log = logging.getLogger("spiketok")


def _opened(root: Root) -> OpenWorkspace:
    return root if isinstance(root, OpenWorkspace) else open_workspace(root)


def simulate(*, root: Root = None, out: str | Path | None = None, **settings: object) -> Sessions:
    """Simulated sessions in the store, their NWB files and truth in ``<root>/simulated``.

    Args:
        root: a workspace, or its folder. out: another folder for the files.
        settings: fields of :class:`spiketok.sources.simulator.SimulationConfig`: ``n_subjects``,
            ``sessions_per_subject``, ``n_units``, ``duration_s``, ``seed``, ``task`` ...

    Raises:
        UnknownNameError, UsageError: there is no such setting, or it has a wrong value.
    """
    from spiketok.settings import build
    from spiketok.sources.simulator import SimulationConfig
    from spiketok.sources.simulator import simulate as make

    ws = _opened(root)
    config = build(SimulationConfig, dict(settings), "simulation", "setting")
    return ingest(make(config, ws.place.simulated if out is None else Path(out)), dataset="simulated", root=ws)


def ingest(
    paths: str | Path | Sequence[str | Path],
    *,
    root: Root = None,
    dataset: str = "local",
    rules: str | None = None,
    process: Sequence[str] = (),
    min_rate_hz: float | None = None,
    quality: str | None = None,
    merge_as: str = "",
    join: str = "",
    strict: bool = False,
    jobs: int = 1,
) -> Sessions:
    """NWB files, or folders of them, into the store; what is there of the same bytes and settings is not made again.

    Args:
        paths: here or at URLs. root: a workspace, or its folder.
        dataset: first half of the session ids; a name of the catalogue also brings its rules. rules: others.
        process: behaviours made from others, as ``["vel=derivative(pos)"]``.
        min_rate_hz: leave out units with fewer spikes per observed second. quality: keep units that pass, as
            ``"isi_violations<0.5"``.
        merge_as: join probes, blocks or behaviour of several files into one session of this name.
        join: with it, ``"units"`` (probes of one time) or ``"time"`` (blocks in order), where the files do not tell.
        strict: store no session that has a warning or an error. jobs: processes.

    Returns:
        The sessions of these files.

    Raises:
        PartError: some files failed; the others are in the store.
    """
    from spiketok.pipeline import ingest as ingestion
    from spiketok.recording.joining_time import HOWS
    from spiketok.recording.quality import parse_quality
    from spiketok.recording.steps import parse_step
    from spiketok.sources.catalogue import rules_of
    from spiketok.storage.names import require_name

    ws, wanted = _opened(root), {}
    require_name(dataset, "dataset")
    if merge_as:
        require_name(merge_as, "merge_as")
    if join:
        if join not in HOWS or not merge_as:
            message = f"join='{join}': must be one of {', '.join(HOWS)}, with merge_as"
            raise UsageError(message)
        wanted["join"] = join
    if min_rate_hz is not None:
        wanted["min_rate_hz"] = float(min_rate_hz)
    if quality is not None:
        wanted["quality"] = " and ".join(map(str, parse_quality(quality)))
    if process:
        wanted["process"] = [parse_step(text) for text in process]
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = ingestion.find_files(given, rules_of(dataset).suffixes)
    outcomes = ingestion.ingest(
        ws.place,
        files,
        dataset,
        _executor(jobs),
        rules=rules,
        wanted=wanted,
        merge_as=merge_as,
        strict=strict,
        told=log.info,
    )
    made, failed = [], {}
    for outcome in outcomes:
        if outcome.error is not None:
            failed[outcome.name] = outcome.message
            continue
        made.append(outcome.result.session_id)
        for finding in outcome.result.findings:
            log.info("%s: %s (%d): %s", outcome.result.session_id, finding.id, finding.count, finding.text)
    _put_index(ws)
    if failed:
        raise PartError("files", len(made) + len(failed), failed)
    return Sessions(ws._indexed(), sorted(made))


def fetch(
    name: str,
    *,
    root: Root = None,
    version: str | None = None,
    sessions: str | None = None,
    subjects: str | None = None,
    glob: str | None = None,
    max_sessions: int | None = None,
    max_bytes: str | int | None = None,
    merge_as: str = "",
    join: str = "",
    jobs: int = 4,
    strict: bool = False,
) -> Sessions:
    """Download a dataset of the catalogue, a dandiset or a record, verify it, and put it into the store.

    Args:
        name: as of ``spiketok fetch``. root: a workspace, or its folder. version: in place of the pinned one.
        sessions, subjects, glob: globs of which files. max_sessions, max_bytes: at most so much (``"2GB"``).
        merge_as, join: of :func:`ingest`: one session of all that comes; nothing is stored where a file failed.
        jobs: files to download at a time. strict: store no session that has a warning or an error.

    Raises:
        PartError: some files could not be had or read; the others are in the store.
    """
    from spiketok.pipeline.fetch import Failure, bring, joined_under, plan_each
    from spiketok.sources.catalogue import LocalRequest, Selection, resolve
    from spiketok.storage.files import parse_bytes

    ws = _opened(root)
    limit = parse_bytes(max_bytes, "max_bytes") if isinstance(max_bytes, str) else max_bytes
    request = resolve(name, version)
    if isinstance(request, LocalRequest):
        return ingest(request.path, root=ws, merge_as=merge_as, join=join, strict=strict)
    selection = Selection(sessions, subjects, glob, max_sessions, limit)
    files: list[Path] = []
    failures: list[Failure] = []
    planned = plan_each([request], ws.place.raw, api_url=None, selection=selection, policy="skip", jobs=jobs)
    for plan in planned:
        if isinstance(plan, Failure):
            failures.append(plan)
            continue
        for line in plan.limits:
            log.info("%s: %s", plan.name, line)
        brought = bring(plan, ws.place.raw, jobs=jobs, policy="skip", whole_sessions=True)
        files += brought.files
        failures += brought.failures
    failed, made, total = {one.name: one.error for one in failures}, Sessions(ws.place, []), len(failures)
    if merge_as and failed:
        failed |= {str(path): f"not joined as '{merge_as}': another file failed" for path in files}
        total, files = len(failed), []
    if files:
        dataset = joined_under(files, merge_as) if merge_as else "local"
        try:
            made = ingest(files, root=ws, dataset=dataset, merge_as=merge_as, join=join, strict=strict)
            total += len(made)
        except PartError as error:
            failed |= error.failed
            total += error.total
    if failed:
        raise PartError("files", total, failed)
    return made


def tokenize(
    scheme: str | Scheme | Sequence[str | Scheme],
    sessions: Chosen = None,
    *,
    root: Root = None,
    segments: str = "observed",
    jobs: int = 1,
    max_memory: str | int | None = None,
    **scheme_fields: object,
) -> list[SessionShard]:
    """Token shards of sessions by one or more schemes; what is there is not made again.

    Args:
        scheme: a name with its fields as keywords (``bin_ms=20``), or one that is made; or several.
        sessions: globs, ids or sessions; all by default. root: a workspace, or its folder.
        segments: what is baked. jobs: processes. max_memory: all of them together stay below (``"8GB"``).

    Returns:
        The shards, session by session, those of a session in the order of the schemes.

    Raises:
        PartError: some sessions failed, or a scheme does not serve them; the others are made.
    """
    from spiketok.pipeline.tokenize import tokenize as bake
    from spiketok.storage.files import parse_bytes
    from spiketok.tokens.shards import ShardReader

    ws = _opened(root)
    given = [scheme] if not isinstance(scheme, Sequence) or isinstance(scheme, str) else list(scheme)
    schemes = [scheme_named(one, scheme_fields if isinstance(one, str) else {}) for one in given]
    if not schemes:
        message = "no scheme is named: spiketok schemes lists them"
        raise UsageError(message)
    place = ws._indexed()
    chosen = place.select(None if sessions is None else words_of(sessions))
    limit = parse_bytes(max_memory, "max_memory") if isinstance(max_memory, str) else max_memory
    found, failed = {}, {}
    for outcome in bake(place, chosen, schemes, segments, _executor(jobs), limit):
        if outcome.error is not None:
            failed[outcome.name] = outcome.message
            continue
        for done in outcome.result:
            for note in done.notes:
                log.info("%s: %s: %s", done.session_id, done.scheme, note)
            if done.path:
                found.setdefault(done.session_id, []).append(Path(done.path))
            else:
                failed[f"{done.session_id}: {done.scheme}"] = "; ".join(done.notes)
    if failed:
        if len(chosen) == len(schemes) == 1:
            raise DataError(next(iter(failed.values())))
        raise PartError("shards", len(chosen) * len(schemes), failed)
    return [SessionShard(ShardReader(path)) for session in chosen for path in found[session]]


def _executor(jobs: int) -> str:
    if jobs < 1:
        message = f"jobs is {jobs}, must be at least 1"
        raise UsageError(message)
    return f"processes:{jobs}" if jobs > 1 else ""


def _put_index(ws: OpenWorkspace) -> None:
    from spiketok.storage.index import open_index

    open_index(ws.place.store, log.info, put=True)
