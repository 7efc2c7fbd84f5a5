"""Whether two sessions are of one recording: by the files that they were made of, and by what NWB calls them.

    the same bytes                                            one recording
    the same identifier and session id, of one subject        one recording, perhaps another part or probe of it
    the same identifier, no session id, equal in size and extent    one recording that was written again

What is unusual: an identifier alone is not believed. NWB wants it to be unique and files do not care: whole datasets
are called "id". Where a session id stands beside it, both must agree; where none does, the number of spikes and the
extent must be equal as well, which no two recordings have in common.

Parts of one recording may stand in training and in a score where they share no time: the two files of a benchmark. Two
probes of it that were ingested apart share all of it, and behaviour with it. Time is compared on the clock of the wall
where both say when their time zero was, else on the session's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from spiketok.recording.nouns import NS_PER_S, Intervals

SAME_FILE, SAME_RECORDING = "same-file", "same-recording"  # ids of findings


@dataclass(frozen=True)
class Identity:
    """What tells which recording a session is of.

    Args:
        session: its id. files: the sha256 of each file that it was made of.
        identifier, source_session: as NWB states them; empty where the source has none.
        subject: of the session. zero: when its time zero was, ISO 8601; empty where nobody says.
        start_ns, stop_ns, n_spikes: its extent and size.
    """

    session: str
    files: tuple[str, ...] = ()
    identifier: str = ""
    source_session: str = ""
    subject: str = ""
    zero: str = ""
    start_ns: int = 0
    stop_ns: int = 0
    n_spikes: int = 0

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> Identity:
        """From what a store's index says of a session."""
        info = facts["info"]
        return cls(
            session=facts["id"],
            files=tuple(facts["files"]),
            identifier=info.get("identifier", ""),
            source_session=info.get("session_id", ""),
            subject=facts["subject"],
            zero=info.get("timestamps_reference_time", "") or facts["session_start"],
            start_ns=facts["start_ns"],
            stop_ns=facts["stop_ns"],
            n_spikes=facts["n_spikes"],
        )


@dataclass(frozen=True)
class Shared:
    """What two sessions share. ``id``: of the finding; ``words``: for a person, as "the identifier 'a'"."""

    id: str
    words: str
    always: bool  # whether they share all of their time, whatever it says


def shared(one: Identity, other: Identity) -> Shared | None:
    """What makes two sessions one recording; None where nothing does.

    >>> a, b = Identity("made/a", ("f00d" * 16,)), Identity("made/b", ("beef" * 16, "f00d" * 16))
    >>> shared(a, b).words
    'the file with sha256 f00df00df00d'
    >>> shared(Identity("made/a", identifier="id"), Identity("made/b", identifier="id", n_spikes=9)) is None
    True
    """
    common = sorted((set(one.files) & set(other.files)) - {""})
    if common:
        return Shared(SAME_FILE, f"the file with sha256 {common[0][:12]}", always=True)
    if not one.identifier or one.identifier != other.identifier or one.source_session != other.source_session:
        return None
    if one.subject and other.subject and one.subject != other.subject:
        return None
    if one.source_session:
        words = f"the identifier '{one.identifier}' and session id '{one.source_session}'"
        return Shared(SAME_RECORDING, words, always=False)
    size = (one.start_ns, one.stop_ns, one.n_spikes)
    if size != (other.start_ns, other.stop_ns, other.n_spikes):
        return None
    words = f"the identifier '{one.identifier}', {one.n_spikes} spikes and an extent of {_s(size[1] - size[0])}"
    return Shared(SAME_RECORDING, words, always=True)


def _s(ns: int) -> str:
    return f"{ns / NS_PER_S:.3f} s"


def common_ns(one: Identity, other: Identity, one_time: Intervals, other_time: Intervals) -> int:
    """How much of the observed time of two sessions is the same moment, in ns.

    Args:
        one_time, other_time: sorted disjoint intervals on each session's own clock.
    """
    shift = _shift_ns(one.zero, other.zero)
    return one_time.intersect(Intervals(other_time.start_ns + shift, other_time.stop_ns + shift)).total_ns


def _shift_ns(one: str, other: str) -> int:
    """What is added to times from the zero ``other`` to count from ``one``; 0 where either says no moment."""
    try:
        apart = datetime.fromisoformat(other) - datetime.fromisoformat(one)
    except (ValueError, TypeError):  # none stated, not ISO 8601, or only one of them has a time zone
        return 0
    return (apart.days * 86_400 + apart.seconds) * NS_PER_S + apart.microseconds * 1_000


@dataclass
class Recordings:
    """Identities by what they may share, so that a new one is compared with the few that could be the same."""

    by_key: dict[str, dict[str, Identity]] = field(default_factory=dict)
    known: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    def of(cls, identities: Iterable[Identity]) -> Recordings:
        found = cls()
        for identity in identities:
            found.put(identity)
        return found

    def put(self, identity: Identity) -> None:
        """Take a session in, in place of what was known under its id."""
        before = self.known.get(identity.session)
        for key in _keys(before) if before is not None else ():
            del self.by_key[key][identity.session]
        self.known[identity.session] = identity
        for key in _keys(identity):
            self.by_key.setdefault(key, {})[identity.session] = identity

    def like(self, identity: Identity) -> list[tuple[Identity, Shared]]:
        """The other sessions of the same recording, in order of id, each with what it shares."""
        near = {s: one for key in _keys(identity) for s, one in self.by_key.get(key, {}).items()}
        near.pop(identity.session, None)
        found = [(near[s], shared(identity, near[s])) for s in sorted(near)]
        return [(one, what) for one, what in found if what is not None]


def _keys(one: Identity) -> list[str]:
    """What sessions of one recording have in common, at least one of these; few others have."""
    if one.source_session:
        called = f"named {one.identifier!r} {one.source_session!r}"
    else:
        called = f"sized {one.identifier!r} {one.start_ns} {one.stop_ns} {one.n_spikes}"
    return [*dict.fromkeys(f"file {digest}" for digest in one.files if digest), *([called] if one.identifier else [])]
