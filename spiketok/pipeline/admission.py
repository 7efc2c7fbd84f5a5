"""Which of the sessions that were read come into the store: what is told of each, and what ``--strict`` refuses.

    worker: files -> session (under --strict into a scratch folder)    here: findings, twins -> the store, or refused

What is unusual: whether two sessions are of one recording is asked here, of the sessions that the store had and of
those that came before in the same command, because no session alone can know it. So nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from spiketok.errors import DataError
from spiketok.pipeline.jobs import Outcome
from spiketok.recording.findings import TABLE, Rated, grave, rated
from spiketok.recording.identity import Identity, Recordings
from spiketok.recording.nouns import NS_PER_S, Finding
from spiketok.storage.files import scratch_folder
from spiketok.storage.index import facts_of, open_index
from spiketok.storage.locks import session_lock
from spiketok.storage.store import put_session
from spiketok.storage.workspace import Workspace

REFUSED = "refused"


@dataclass(frozen=True)
class Ingested:
    """What an ingest job did.

    Args:
        state: ``"new"``, ``"already"`` or ``"replaced"``; ``"refused"`` by ``--strict``.
        paths: the session's files.
        repairs, notes: as stored. identity: which recording it is of. twins: what is told of others of the same.
        made_in: where it lies until it is admitted; None where it is in the store.
    """

    session_id: str
    state: str
    paths: tuple[str, ...]
    n_units: int
    n_spikes: int
    duration_s: float
    repairs: list[dict]
    notes: list[dict]
    identity: Identity
    twins: tuple[Rated, ...] = ()
    made_in: Path | None = None

    @property
    def findings(self) -> list[Rated]:
        """All that is known against it, the gravest first."""
        own = rated(*([Finding(**found) for found in kind] for kind in (self.repairs, self.notes)))
        return [*self.twins, *own]


def ingested(state: str, paths: tuple[str, ...], attributes: dict, made_in: Path | None = None) -> Ingested:
    """From the attributes of a session that was made or found."""
    return Ingested(
        session_id=attributes["id"],
        state=state,
        paths=paths,
        n_units=attributes["n_units"],
        n_spikes=attributes["n_spikes"],
        duration_s=(attributes["stop_ns"] - attributes["start_ns"]) / NS_PER_S,
        repairs=attributes["repairs"],
        notes=attributes["notes"],
        identity=Identity.of(facts_of(attributes)),
        made_in=made_in,
    )


@dataclass
class Gate:
    """Lets sessions into a store, one after the other.

    Args:
        strict: refuse what has a warning or an error.
        staged: where sessions are written until they are let in; None: they are in the store at once.
    """

    workspace: Workspace
    strict: bool
    staged: Path | None
    known: Recordings

    def place(self, session_id: str) -> Path | None:
        """Where a session is to be written; None for its place in the store."""
        return None if self.staged is None else self.staged / session_id

    def admit(self, done: Ingested) -> tuple[Ingested, DataError | None]:
        """The session with its twins, let in; or, with the reason, as it was refused."""
        done = replace(done, twins=tuple(self._twins(done.identity)))
        against = grave(done.findings)
        if self.strict and against:
            return replace(done, state=REFUSED), DataError(_refusal(done, against))
        if done.made_in is not None:
            target = self.workspace.store_path(done.session_id)
            with session_lock(target):
                put_session(done.made_in, target)
        self.known.put(done.identity)
        return replace(done, made_in=None), None

    def _twins(self, identity: Identity) -> Iterator[Rated]:
        for other, what in self.known.like(identity):
            text = f"it shares {what.words} with {other.session}: one recording, not to be trained on and tested on"
            yield Rated(what.id, TABLE[what.id].severity, "store", 1, text)


@contextmanager
def gate(workspace: Workspace, strict: bool, told: Callable[[str], None]) -> Iterator[Gate]:
    """The gate of a store, for the time of one command.

    Args:
        told: called with a line where the store's index had to be made anew.
    """
    index = open_index(workspace.store, told, put=True)
    known = Recordings.of(Identity.of(entry["facts"]) for entry in index.entries.values())
    if not strict:
        yield Gate(workspace, False, None, known)
        return
    with scratch_folder(workspace.root, "strict") as staged:
        yield Gate(workspace, True, staged, known)


def admitted(outcome: Outcome, through: Gate) -> Outcome:
    """An outcome of a job that gave an :class:`Ingested`, with what the gate said of it."""
    if outcome.error is not None:
        return outcome
    done, refusal = through.admit(outcome.result)
    return replace(outcome, result=done, error=refusal)


def _refusal(done: Ingested, against: list[Rated]) -> str:
    kept = "" if done.state == "new" else "; what the store has of it, from an earlier ingest, stays as it is"
    said = "; ".join(f"{found.id} ({found.severity}, {found.count}): {found.text}" for found in against)
    return f"{done.session_id} is refused by --strict: {said}{kept}"
