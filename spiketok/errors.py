"""Every error that spiketok raises on purpose.

    SpiketokError                 one clear line for the user; exit code 1
    +-- SourceError               a source file is not what it should be (not HDF5, truncated, no units)
    +-- ArtefactError             something that spiketok wrote cannot be read: other version, damaged, missing
    |   +-- UnreadableError       the machine did not give its bytes: nothing is known of what it holds
    |   +-- AbsentPluginError     it was made with another package, which is not installed
    |   +-- ChangedError          it can be read and is not what was written: its digest does not hold
    +-- DataError                 the data are readable and cannot serve the request (no behaviour, no window fits)
    |   +-- NotServedError        a scheme needs what this session does not have
    |   +-- UnfitError            some of several sessions cannot serve; it says which, and why each
    +-- PartError                 some of several items failed, the others are done; it says which, and why each
    +-- TooLargeError             what is asked for takes more memory than is free
    +-- FetchError                a download failed, or what came is not what was announced
    +-- BusyError                 another process writes the same place
    +-- PluginError               what another package gives cannot be used
    +-- UsageError                the request itself is wrong; exit code 2
        +-- UnknownNameError      a name that is not in its list; offers the nearest
        |   +-- NotFoundError     nor is it a path
        +-- AmbiguousNameError    the beginning of several names, where one is meant
        +-- MissingExtraError     an optional dependency is not installed; says the pip command

A message states the fact with both values, the place, and the next command.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from importlib import import_module
from types import ModuleType

LONGEST = 120  # letters of a name or value that a message repeats
SHOWN = 12  # names that a message lists


class SpiketokError(Exception):
    """Base of all errors that a user can cause or mend. ``cause``: what the machine did, where that is behind it."""

    exit_code = 1
    cause: tuple[str, ...] | None = None


class SourceError(SpiketokError):
    """A source file is not what it should be."""


class ArtefactError(SpiketokError):
    """A store, shard, checkpoint or report cannot be read."""


class UnreadableError(ArtefactError):
    """The machine did not give the bytes: permission, disk, memory, limits. Nothing is known of what is there."""


class AbsentPluginError(ArtefactError):
    """An artefact was made with a package or module that is not here."""


class ChangedError(ArtefactError):
    """An artefact can be read and is not what was written.

    Args:
        message: which, and both digests. facts: what it says now, of which nothing may be believed.
    """

    def __init__(self, message: str, facts: dict) -> None:
        self.facts = facts
        super().__init__(message)

    def __reduce__(self):
        return (type(self), (str(self), self.facts))


class DataError(SpiketokError):
    """The data are readable but cannot serve the request."""


class NotServedError(DataError):
    """A scheme needs what this session does not have."""


class UnfitError(DataError):
    """Some of several sessions cannot serve.

    Args:
        sessions: why each of them cannot, by id.
    """

    def __init__(self, sessions: Mapping[str, str]) -> None:
        self.sessions = dict(sessions)
        first, *others = self.sessions.values()
        super().__init__(f"{first} (and {len(others)} more sessions)" if others else first)

    def __reduce__(self):
        return (type(self), (self.sessions,))


class PartError(SpiketokError):
    """Some of several items failed; what went well is done and stays.

    Args:
        what: the items, as ``"files"``. total: how many there were. failed: why, by the name of each that failed.
    """

    def __init__(self, what: str, total: int, failed: Mapping[str, str]) -> None:
        self.what, self.total, self.failed = what, total, dict(failed)
        each = "; ".join(why if why.startswith(name) else f"{name}: {why}" for name, why in self.failed.items())
        super().__init__(f"{len(self.failed)} of {total} {what} failed: {each}")

    def __reduce__(self):
        return (type(self), (self.what, self.total, self.failed))


class TooLargeError(SpiketokError):
    """What is asked for takes more memory than this machine has free."""


class FetchError(SpiketokError):
    """A download failed or brought other bytes than announced."""


class BusyError(SpiketokError):
    """Another process writes the same place."""


class PluginError(SpiketokError):
    """A model, scheme, dataset, task or metric of another package cannot be used."""


class UsageError(SpiketokError):
    """The request itself is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in its list.

    Args:
        kind: what the name should name, for example ``"scheme"``.
        name: the name that was given.
        known: the names that exist.
        place: where it was looked up, if that helps the user.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], place: str = "") -> None:
        name = name if len(name) <= LONGEST else f"{name[:LONGEST]}..."
        self.kind, self.name, self.known = kind, name, sorted(known)
        where = f" in {place}" if place else ""
        super().__init__(f"unknown {kind} '{name}'{where}: {self._hint()}")

    def _hint(self) -> str:
        """The nearest known name, else all."""
        near = nearest(self.name, self.known)
        if near:
            return f"did you mean '{near}'?"
        if self.known:
            return "known: " + ", ".join(self.known[:SHOWN]) + (", ..." if len(self.known) > SHOWN else "")
        return f"there is no {self.kind} yet"

    def __reduce__(self):
        return (type(self), (self.kind, self.name, self.known))


class NotFoundError(UnknownNameError):
    """A name that is neither a path nor anything of a workspace; ``known``: what there is, ``place``: the workspace."""

    def __init__(self, name: str, known: Iterable[str], place: str) -> None:
        super().__init__("session or run", name, known)
        self.place = place
        self.args = (f"'{self.name}' is neither a path nor a session or run in {place}: {self._hint()}",)

    def __reduce__(self):
        return (type(self), (self.name, self.known, self.place))


class AmbiguousNameError(UsageError):
    """A word that several names begin with, where one is meant.

    Args:
        kind: what each is, for example ``"session"``. name: the word. found: the names that begin so.
        hint: what to type in its place, if that is more than one of the names.
    """

    def __init__(self, kind: str, name: str, found: Iterable[str], hint: str = "") -> None:
        self.kind, self.name, self.found, self.hint = kind, name, sorted(found), hint
        more = ", ..." if len(self.found) > SHOWN else ""
        listed = ", ".join(self.found[:SHOWN]) + more
        super().__init__(f"'{name}' names {len(self.found)} {kind}s: {listed}{f'; {hint}' if hint else ''}")

    def __reduce__(self):
        return (type(self), (self.kind, self.name, self.found, self.hint))


def nearest(word: str, known: Iterable[str]) -> str:
    """The known name that is most like a word, as a whole, at its beginning, or because it holds the word; or none."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near or len(word) < 3:
        return near[0] if near else ""
    begins = {form[: len(word) + 1]: one for one in reversed(known) for form in (one, one.rpartition("/")[2])}
    near = difflib.get_close_matches(word, list(begins), n=1, cutoff=0.7)
    return begins[near[0]] if near else next((one for one in known if word in one), "")


def the_one(kind: str, name: str, known: Iterable[str], place: str = "") -> str:
    """The known name that a word means: the word itself, or the only name that begins with it.

    Args:
        kind: what the name should name, for example ``"scheme"``. place: where it was looked up.

    Raises:
        AmbiguousNameError: several begin so. UnknownNameError: none does; offers the nearest.

    >>> the_one("scheme", "per", ["binned", "per-spike"])
    'per-spike'
    """
    known = known if isinstance(known, Collection) else list(known)
    if name in known:  # a registry of plug-ins knows more than it lists, and imports none to say so
        return name
    found = [one for one in known if name and one.startswith(name)]
    if len(found) > 1:
        raise AmbiguousNameError(kind, name, found)
    if not found:
        raise UnknownNameError(kind, name, known, place)
    return found[0]


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say in one line how to get it.

    Args:
        module: the module's import name.
        extra: the extra of this package that brings it.
        purpose: what it is needed for, as in "reading NWB files".

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        message = f"{purpose} needs '{error.name}', which is not installed: pip install 'spiketok[{extra}]'"
        raise MissingExtraError(message) from error
