"""A stored session under another id, or gone: with its shards, and with all that was made of it told first.

What is unusual: the id is part of a session's digest, and every artefact made of it names that digest. So a rename
writes the session anew under its new id, bakes its shards anew (the same schemes, the same segments), and only then
takes the old ones away: the chain from the new shards to the source file holds as after an ingest. What was learned or
scored of the old id cannot follow: a run's checkpoint names it and its digest. So the command refuses, or with force
leaves the run as it is; ``verify RUN`` then names the first link that is gone, the shard. Killed anywhere, the same
command goes on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from spiketok import __version__
from spiketok.errors import ArtefactError, DataError, UsageError
from spiketok.pipeline.ingest import move_sources
from spiketok.pipeline.tokenize import tokenize_session
from spiketok.recording.nouns import Session
from spiketok.storage.files import WIP, clean_leftovers, read_json
from spiketok.storage.locks import session_lock
from spiketok.storage.names import require_name
from spiketok.storage.records import CHECKPOINT, is_run
from spiketok.storage.store import holds_session, read_attributes, read_session, session_digest, write_session
from spiketok.storage.workspace import CONTEXT, MANIFEST, Workspace
from spiketok.tokens.schemes import Scheme, scheme_from_config


@dataclass(frozen=True)
class Dependents:
    """What was made of a session.

    Args:
        shards: folders of its shards and contexts, which go and come with it.
        runs: names of runs that were trained on it. reports: folders of reports and leaderboards that score it.
        choices: names of choices of sessions that name it. parts: ids of sessions that say that they are part of it.
    """

    shards: tuple[Path, ...] = ()
    runs: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """A line for each kind of thing that cannot follow, with what it is called."""
        kinds = {"run": self.runs, "report": self.reports, "choice": self.choices, "session as a part": self.parts}
        return [
            f"{len(names)} {kind}{'s' if len(names) > 1 and kind != 'session as a part' else ''}: {', '.join(names)}"
            for kind, names in kinds.items()
            if names
        ]


@dataclass(frozen=True)
class Renamed:
    """What a rename left: the new digest, how many shards were baked anew, and what could not be."""

    digest: str
    shards: int
    notes: tuple[str, ...]


def dependents(workspace: Workspace, session_id: str) -> Dependents:
    """What of a workspace was made of a session; what cannot be read is nobody's.

    Raises:
        ArtefactError: there is no such session.
    """
    runs, reports = [], []
    for folder in sorted(workspace.runs.glob("*")):
        if is_run(folder) and session_id in _ids(_read(folder / CHECKPOINT).get("sessions")):
            runs.append(folder.name)
    homes = (workspace.runs.rglob("report.json"), (workspace.root / "bench").rglob("leaderboard*.json"))
    for file in sorted(path for found in homes for path in found):
        if session_id in _ids(_read(file).get("sessions")):
            reports.append(str(file.parent.relative_to(workspace.root)))
    choices = [
        p.name
        for p in sorted(workspace.choices.glob("*.json"))
        if session_id in {*_ids(_read(p).get("sessions")), *_ids(_read(p).get("targets"))}
    ]
    parts = [s for s in workspace.session_ids() if s != session_id and _part_of(workspace, s) == session_id]
    shards = tuple(workspace.baked(session_id))
    return Dependents(shards, tuple(runs), tuple(dict.fromkeys(reports)), tuple(choices), tuple(parts))


def _read(file: Path) -> dict:
    try:
        return read_json(file)
    except (OSError, ValueError):
        return {}


def _ids(entries: object) -> set[str]:
    """The ids of sessions, as artefacts list them: by name, as tables with an id, or as keys."""
    if isinstance(entries, Mapping):
        return set(entries)
    found = entries if isinstance(entries, list) else []
    named = (e.get("id", e.get("session")) if isinstance(e, Mapping) else e for e in found)
    return {one for one in named if isinstance(one, str)}


def _part_of(workspace: Workspace, session_id: str) -> str:
    try:
        return str(workspace.facts(session_id)["info"].get("part_of", ""))
    except ArtefactError:  # damaged: verify says so
        return ""


def new_id(old: str, word: str) -> str:
    """The id that a session is to have: ``DATASET/SESSION``, or a name alone for another in the same dataset.

    Raises:
        UsageError: it is no id that every file system takes, or the old one.
    """
    found = word if "/" in word else f"{old.split('/')[0]}/{word}"
    for part in found.split("/", 1):
        require_name(part, "the new id")
    if found == old:
        message = f"{old} is called so already: give another id"
        raise UsageError(message)
    return found


def rename(workspace: Workspace, old: str, new: str) -> Renamed:
    """Give a session another id, and its shards with it.

    Raises:
        UsageError: the store lies behind a URL. DataError: another session has that id. ArtefactError: it is damaged.
    """
    source, target = _here(workspace, old), _here(workspace, new)
    with ExitStack() as held:
        for place in sorted((source, target)):  # in one order, so that two renames never wait for each other
            held.enter_context(session_lock(place))
        attributes = workspace.attributes(old)
        moved = replace(read_session(source), id=new)
        digest = _put(moved, target, attributes["settings"], new)
    baked, notes = 0, []
    for rule, schemes in _baked_by(workspace, old, attributes["digest"]).items():
        for done in tokenize_session(workspace, new, schemes, rule):
            baked += bool(done.path)
            notes += [f"{done.scheme}: {note}" for note in done.notes if not done.path]
    move_sources(workspace, old, new)
    _take_away(workspace, old)
    return Renamed(digest, baked, tuple(notes))


def _put(moved: Session, target: Path, settings: Mapping[str, object], new: str) -> str:
    """Write the session under its new id; what an interrupted rename has written there is taken as it is."""
    digest = session_digest(moved, settings, f"spiketok {__version__}")
    if not holds_session(target):
        return write_session(moved, target, settings)
    found = read_attributes(target)["digest"]
    if found != digest:
        message = f"there is another session {new} (digest {found[:12]}): give another id, or remove that one first"
        raise DataError(message)
    return found


def _baked_by(workspace: Workspace, session_id: str, digest: str) -> dict[str, list[Scheme]]:
    """The schemes of a session's whole shards of its present state, by their rule of segments."""
    found: dict[str, list[Scheme]] = {}
    for folder in workspace.baked(session_id):
        facts = _read(folder / MANIFEST)
        if folder.parts[-4] != CONTEXT and facts.get("store_digest") == digest:
            found.setdefault(facts["segments_rule"], []).append(scheme_from_config(facts["scheme"]))
    return found


def remove(workspace: Workspace, session_id: str) -> None:
    """Take a session away, with its shards and with what is known of its source files; those stay where they are.

    Raises:
        UsageError: the store lies behind a URL.
    """
    _here(workspace, session_id)
    move_sources(workspace, session_id, None)
    _take_away(workspace, session_id)


def _take_away(workspace: Workspace, session_id: str) -> None:
    """Remove a session's shards, then itself: out of sight first, then from the disk."""
    path = _here(workspace, session_id)
    with session_lock(path):
        for folder in [*workspace.baked(session_id), path]:
            if folder.exists():
                os.rename(folder, folder.with_name(f"{WIP}{os.getpid()}-{folder.name}"))
                clean_leftovers(folder.parent)
    for folder in [*workspace.shards.glob(f"*/{session_id}"), *workspace.shards.glob(f"*/{session_id.split('/')[0]}")]:
        _remove_empty(folder)
    _remove_empty(path.parent)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # others are in it
        return


def _here(workspace: Workspace, session_id: str) -> Path:
    path = workspace.store_path(session_id)
    if not isinstance(path, Path):
        message = f"{workspace.store} lies behind a URL, where sessions are neither renamed nor removed: do it there"
        raise UsageError(message)
    return path
