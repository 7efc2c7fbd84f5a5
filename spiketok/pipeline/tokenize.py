"""The stage after the store: tokenize (store -> a session's context and its token shards).

It is plan -> jobs -> finished artefacts. Stages meet only on disk: every artefact is written whole, is not made again
while its inputs and settings are the same, and names what it was made from by digest.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np

from spiketok.errors import (
    ArtefactError,
    DataError,
    NotServedError,
    SpiketokError,
    TooLargeError,
    UnknownNameError,
    UnreadableError,
    UsageError,
)
from spiketok.pipeline.jobs import Job, Outcome, run_jobs
from spiketok.recording.nouns import FLUORESCENCE, NS_PER_S, Intervals, Session, SessionInfo
from spiketok.recording.segments import CONTINUOUS, OBSERVED, parse_trial_rule, resolve_segments
from spiketok.recording.splits import has_spikes, refuse_silence
from spiketok.settings import typed
from spiketok.storage.files import human_bytes
from spiketok.storage.limits import available_memory
from spiketok.storage.locks import session_lock
from spiketok.storage.store import read_session, session_info
from spiketok.storage.workspace import CONTEXT, Workspace
from spiketok.tokens.schemes import Scheme

# What tokenizing takes, measured as the peak of one process: the interpreter with its kernels, each spike while a
# session is read and checked, and a scheme's columns with what it needs to make them; a pixel of a stimulus is a float
# at most, read and checked.
PROCESS_BYTES, READ_BYTES, BAKE_FACTOR, FRAME_BYTES = 300_000_000, 48, 2, 8


@dataclass(frozen=True)
class Planned:
    """What one scheme would make of one session. ``state``: ``"new"``, ``"already"``, ``"damaged"``, ``"not served"``.

    ``nbytes`` bounds the size of the columns from above; ``reason`` says why a session is not served, and what is wrong
    with what is there and is damaged. ``scheme`` is ``"context"`` for the session's context, which is written once for
    all schemes.
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
    """Where the shard of a session is for this scheme, segments and the store as it is now."""
    return _shard_place(workspace, session_id, scheme, segments_rule, workspace.facts(session_id)["digest"])


def _shard_place(workspace: Workspace, session_id: str, scheme: Scheme, segments_rule: str, store_digest: str) -> Path:
    from spiketok.tokens.shards import shard_fingerprint

    named = shard_fingerprint(scheme, segments_rule, store_digest)
    return Path(f"{workspace.shards}/{scheme.name}/{session_id}/{named}")  # one path, not four: there are thousands


def context_path(workspace: Workspace, session_id: str) -> Path:
    """Where the context of a session is for the store as it is now."""
    return _context_place(workspace, session_id, workspace.facts(session_id)["digest"])


def _context_place(workspace: Workspace, session_id: str, store_digest: str) -> Path:
    from spiketok.tokens.context import context_fingerprint

    return Path(f"{workspace.shards}/{CONTEXT}/{session_id}/{context_fingerprint(store_digest)}")


def tokenize_words(scheme: Scheme, segments_rule: str = OBSERVED) -> str:
    """The command that makes shards of a scheme, as it is typed in a shell."""
    words = ["spiketok", "tokenize", "--scheme", scheme.name]
    for each in fields(scheme):
        value = getattr(scheme, each.name)
        if value != each.default and each.name == "bin_ns":
            words += ["--bin-ms", repr(value / 1e6).removesuffix(".0")]
        elif value != each.default:
            words += ["--set", f"{each.name}={typed(value)}"]
    return shlex.join([*words, *(["--segments", segments_rule] if segments_rule != OBSERVED else [])])


def plan_session(
    workspace: Workspace, session_id: str, schemes: Sequence[Scheme], segments_rule: str = OBSERVED
) -> list[Planned]:
    """What the context, where any scheme serves the session, and each scheme would write of it, before any work.

    For many sessions give it an indexed workspace.

    Raises:
        ArtefactError: no such session. DataError, UsageError: the segments' rule does not fit it.
    """
    from spiketok.tokens.context import Context
    from spiketok.tokens.shards import ShardReader, plan_bytes

    if segments_rule in (OBSERVED, CONTINUOUS):
        info = _planned_info(workspace, session_id)
        segments = Intervals([info.start_ns], [info.stop_ns])
        if segments_rule == OBSERVED:
            segments = Intervals(*np.array(workspace.sizes(session_id)["stretches"], np.int64).reshape(-1, 2).T)
    else:
        session = read_session(workspace.store_path(session_id))
        info, segments = session_info(session), resolve_segments(session, segments_rule)
    plans = []
    for scheme in schemes:
        state, fault = _state(shard_path(workspace, session_id, scheme, segments_rule), ShardReader)
        try:
            _require_spikes(info, scheme)
            nbytes = plan_bytes(scheme, info, segments)
        except NotServedError as error:
            plans.append(Planned(session_id, scheme.name, "not served", 0, str(error)))
        else:
            plans.append(Planned(session_id, scheme.name, state, nbytes, fault))
    if any(p.state != "not served" for p in plans):
        from spiketok.tokens.columns import ALIGNMENT

        state, fault = _state(context_path(workspace, session_id), Context)
        held = workspace.sizes(session_id)
        nbytes = held["context_bytes"] + held["context_arrays"] * ALIGNMENT
        plans.insert(0, Planned(session_id, CONTEXT, state, nbytes, fault))
    return plans


def _state(path: Path, reader: Callable[[Path], object]) -> tuple[str, str]:
    """``"new"`` where nothing is, ``"already"`` or ``"damaged"``; and what is wrong, as its reader says."""
    if not path.exists():
        return "new", ""
    try:
        reader(path)
    except UnreadableError:
        raise
    except ArtefactError as error:
        return "damaged", str(error)
    return "already", ""


def _planned_info(workspace: Workspace, session_id: str) -> SessionInfo:
    """A session as far as sizes need it: its units are counted, not named."""
    facts = workspace.facts(session_id)
    return SessionInfo(
        id=facts["id"],
        subject=facts["subject"],
        unit_id=np.zeros(facts["n_units"], "U1"),
        n_spikes=facts["n_spikes"],
        start_ns=facts["start_ns"],
        stop_ns=facts["stop_ns"],
        signals={name: (tuple(s["components"]), s["measure"]) for name, s in facts["signals"].items()},
        n_trials=workspace.sizes(session_id)["n_trials"],
        stimuli={name: tuple(shape) for name, shape in facts.get("stimuli", {}).items()},
    )


def _require_spikes(info: SessionInfo, scheme: Scheme) -> None:
    """Raise NotServedError where units were imaged and a scheme would take them for silent."""
    imaged = not info.n_spikes and FLUORESCENCE in info.signals
    if imaged and scheme.reads_units and FLUORESCENCE not in scheme.signals_read:
        message = f"{info.id} has no spikes, its units were imaged: use --scheme fluorescence"
        raise NotServedError(message)


def _require_calibration(session: Session, scheme: Scheme) -> None:
    """Raise DataError where all the trials that tell units apart are silent."""
    from spiketok.tokens.schemes.calibration import Calibration

    if isinstance(scheme, Calibration):
        chosen = {Calibration.name: scheme.chosen_time(session)}
        remedy = "choose others by --set choose=random, or mask what was not recorded by --mask of ingest"
        refuse_silence(session.id, chosen, partial(has_spikes, session.spikes), remedy)


def tokenize_bytes(workspace: Workspace, plans: Sequence[Planned]) -> int:
    """The memory that one session's :func:`tokenize_session` may take: the session, and one scheme's bake at a time."""
    facts = workspace.facts(plans[0].session_id)
    frames = sum(FRAME_BYTES * math.prod(shape) for shape in facts.get("stimuli", {}).values())
    context = sum(p.nbytes for p in plans if p.scheme == CONTEXT)
    largest = max((p.nbytes for p in plans if p.state == "new" and p.scheme != CONTEXT), default=0)
    return PROCESS_BYTES + READ_BYTES * facts["n_spikes"] + frames + context + BAKE_FACTOR * largest


def tokenize(
    workspace: Workspace,
    session_ids: Sequence[str],
    schemes: Sequence[Scheme],
    segments_rule: str = OBSERVED,
    executor: str = "",
    max_memory: int | None = None,
) -> Iterator[Outcome]:
    """Bake sessions into shards, all schemes in one pass over a session.

    Yields one outcome a session, its result a list of one :class:`Tokenized` a scheme.

    Args:
        executor: see :func:`spiketok.pipeline.jobs.run_jobs`.
        max_memory: bytes that all running jobs together may plan to take.
    """
    if workspace.shards_place is not None:
        message = (
            "shards are read from behind a URL (SPIKETOK_SHARDS), where none are made: unset it, or push them there"
        )
        raise UsageError(message)
    if segments_rule not in (OBSERVED, CONTINUOUS):
        parse_trial_rule(segments_rule)
    alone = workspace.absolute()
    jobs = []
    for session_id in session_ids:
        nbytes = 0
        if max_memory is not None:
            try:
                nbytes = tokenize_bytes(workspace, plan_session(workspace, session_id, schemes, segments_rule))
            except SpiketokError as error:
                yield Outcome(session_id, None, error)
                continue
        jobs.append(Job(session_id, tokenize_session, (alone, session_id, tuple(schemes), segments_rule), nbytes))
    yield from run_jobs(jobs, executor, memory_bytes=max_memory)


def tokenize_session(
    workspace: Workspace, session_id: str, schemes: Sequence[Scheme], segments_rule: str
) -> list[Tokenized]:
    """Bake one session by each scheme whose shard is not there already; the session is read at most once.

    Its context is written before the first of its shards, and again where it is gone and a shard needs it. What is
    there is never replaced: a damaged shard is ``"failed"``, and its note says what to do.

    The session is held while something is made of it: no other command makes it anew meanwhile, or bakes the same.

    Raises:
        ArtefactError: the session's context is damaged.
    """
    digest = workspace.attributes(session_id)["digest"]
    places = [_shard_place(workspace, session_id, scheme, segments_rule, digest) for scheme in schemes]
    if all(place.exists() for place in (*places, _context_place(workspace, session_id, digest))):
        return _tokenize_held(workspace, session_id, schemes, segments_rule)
    with session_lock(workspace.store_path(session_id)):
        return _tokenize_held(workspace, session_id, schemes, segments_rule)


def _tokenize_held(
    workspace: Workspace, session_id: str, schemes: Sequence[Scheme], segments_rule: str
) -> list[Tokenized]:
    from spiketok.tokens.context import Context, write_context

    store = workspace.store_path(session_id)
    digest = workspace.attributes(session_id)["digest"]
    context = _context_place(workspace, session_id, digest)
    if context.exists():
        Context(context)
    session, done = None, []
    for scheme in schemes:
        target = _shard_place(workspace, session_id, scheme, segments_rule, digest)
        if not target.exists() or not context.exists():
            session = session or read_session(store)
        if target.exists() and not context.exists():
            write_context(context, session, store_digest=digest)
        try:
            if target.exists():
                done.append(_found(target))
            else:
                _require_spikes(session_info(session), scheme)
                _require_calibration(session, scheme)
                done.append(_baked(target, session, scheme, segments_rule, digest, context))
        except (DataError, UnknownNameError) as error:  # the scheme, or the segments, need what it does not have
            done.append(Tokenized(session_id, scheme.name, "not served", notes=[str(error)]))
        except (ArtefactError, TooLargeError) as error:  # one scheme's trouble does not stop the others
            done.append(Tokenized(session_id, scheme.name, "failed", notes=[str(error)]))
    return done


def _baked(
    target: Path, session: Session, scheme: Scheme, segments_rule: str, store_digest: str, context: Path
) -> Tokenized:
    """Write a shard, and say what it holds; that it can be read as it was written is for its first reader to check."""
    from spiketok.tokens.columns import Columns
    from spiketok.tokens.shards import KIND, write_shard

    segments = resolve_segments(session, segments_rule)
    _require_room(session, scheme, segments)
    rule = {"segments_rule": segments_rule, "store_digest": store_digest}
    manifest = write_shard(target, scheme, session, segments, **rule, context=context, refuse_nothing=True)
    notes = []
    if segments_rule not in (OBSERVED, CONTINUOUS) and len(segments) < len(session.trials):
        left_out = len(session.trials) - len(segments)
        why = "have no time inside of them to align to, or lie where nothing was observed"
        notes.append(f"{left_out} of {len(session.trials)} trials {why}: left out")
    held = scheme.spikes_held(Columns(target, manifest["columns"], KIND))
    return _tokenized(target, "new", manifest, held, notes)


def _require_room(session: Session, scheme: Scheme, segments: Intervals) -> None:
    """Raise TooLargeError where a bake would take more memory than there is, before any is taken."""
    from spiketok.tokens.shards import plan_bytes

    need, room = BAKE_FACTOR * plan_bytes(scheme, session_info(session), segments), available_memory()
    if need > room:
        about = f"{len(session.units)} units over {segments.total_ns / NS_PER_S:.0f} s"
        message = (
            f"scheme '{scheme.name}' of {about} takes up to {human_bytes(need)} of memory, {human_bytes(room)} are "
            "free here: choose coarser settings (--set, --bin-ms), fewer units (ingest --min-rate) or shorter segments"
        )
        raise TooLargeError(message)


def _found(target: Path) -> Tokenized:
    """What a shard holds that was there already.

    Raises:
        ArtefactError: it is damaged, or its context is another.
    """
    from spiketok.tokens.shards import ShardReader

    reader = ShardReader(target)
    reader.require_context()
    return _tokenized(target, "already", reader.manifest, reader.scheme.spikes_held(reader.columns), [])


def _tokenized(target: Path, state: str, manifest: dict, held: int, notes: list[str]) -> Tokenized:
    return Tokenized(
        session_id=manifest["session"]["id"],
        scheme=manifest["scheme"]["name"],
        state=state,
        path=str(target),
        n_spikes=manifest["n_spikes"],
        held=held,
        lost=dict(manifest["lost"]),
        nbytes=sum(c["bytes"] for c in manifest["columns"].values()),
        notes=notes,
    )
