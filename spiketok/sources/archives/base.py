"""The contract of an archive: a place that files come from. What all archives share is done once, beside it.

``planning`` makes a plan of a request, ``download`` brings what a plan lacks, ``kept`` holds what an archive said and
what came of it on this machine, ``offline`` checks files without a server. An archive says only what is its own: which
words name it, what it lists, how bytes are brought, and what it writes beside them. ``ranged`` brings the bytes of any
file that has an address.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from spiketok.errors import UsageError
from spiketok.recording.nouns import Source
from spiketok.sources.archives import kept
from spiketok.sources.archives.plans import Asset, Plan, Request
from spiketok.sources.archives.web import Trace, where
from spiketok.storage.files import fingerprint
from spiketok.storage.remote import RemotePath


class DamagedError(Exception):
    """What came is not what was announced: it is removed and fetched once more."""


@dataclass(frozen=True)
class Job:
    """One file on its way.

    Args:
        part: where its bytes gather until they are verified.
        tell: ``tell(bytes done, bytes in all)``; 0 in all where nobody knows.
        stop: set when the user interrupts. trace: what is tried.
    """

    asset: Asset
    part: Path
    tell: Callable[[int, int], None]
    stop: threading.Event
    trace: Trace


Bring = Callable[[Job], None]
"""Brings what a part lacks, as much as it takes; asks nothing where the part is whole.

Raises DamagedError (wrong bytes), ``requests.RequestException``, FetchError or StoppedError (what came stays), OSError
(this machine's disk).
"""


@dataclass(frozen=True)
class Found:
    """A file of the raw tree that a record vouches for: the record, and the file's path and entry in it."""

    record: Mapping
    path: str
    entry: Mapping


class Archive(ABC):
    """A place that files come from.

    Attributes:
        host: its name, as in requests, plans and ``Dataset.host``.
        shape: of the file beside its files that records what they are.
        announces: digests are known before the download. Where they are not, the record is all that vouches for a
            file, so it is written after each, and who replaces a file takes what the server has now.
    """

    host: ClassVar[str]
    shape: ClassVar[kept.Shape]
    announces: ClassVar[bool] = True

    # ---- names ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def request(self, name: str) -> Request | None:
        """What a word on the command line means here; None if it names nothing of this archive.

        ``<host>:<number>`` is one of the words of an archive that has numbers: the catalogue writes it.

        Raises:
            FetchError, UsageError: it does, and cannot be.
        """

    def with_version(self, request: Request, version: str, *, pinned: bool) -> Request:
        """The request for another version than its name means.

        Args:
            version: ``latest`` or as the archive writes one. pinned: the request's own comes from the catalogue.

        Raises:
            UsageError: there is none.
        """
        message = f"{request.name} has no versions: leave out --version"
        raise UsageError(message)

    @abstractmethod
    def place(self, plan: Plan) -> str:
        """What a plan's files are of, for messages."""

    # ---- lists ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def ask(self, request: Request, raw: Path, api_url: str | None) -> Plan:
        """What is there: a plan without assets whose ``listing`` has every file.

        Raises:
            FetchError: the server cannot be reached, refuses, or has nothing.
        """

    def lasting(self, request: Request, raw: Path, api_url: str | None) -> Plan | None:
        """Where a request's list can never change: a plan that says whose it is, without list; else None."""
        return None

    def keeps(self, plan: Plan) -> bool:
        """Whether the list that was asked for is kept for the next run."""
        return self.announces

    def announced(self, plan: Plan, assets: Sequence[Asset], jobs: int) -> dict[str, Asset]:
        """By path, what the list leaves out of these assets (digests, or the ``problem``)."""
        return {}

    def remembered(self, asset: Asset, file: Path, entry: Mapping) -> Asset:
        """The asset with what an earlier run recorded of its file.

        Raises:
            FetchError: the file here is another one of that name.
        """
        return asset

    # ---- bytes ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, plan: Plan, trace: Trace, stop: threading.Event) -> AbstractContextManager[Bring]:
        """What brings the files of a plan, one a thread.

        Raises:
            FetchError: the server cannot be reached.
        """

    def part(self, staging: Path, asset: Asset) -> Path:
        """Where the bytes of a file gather: of this file, and no other with its name."""
        return staging / fingerprint([asset.path, asset.md5 or where(asset.url)]) / "part"

    def part_bytes(self, part: Path) -> int:
        """How much of a file is here that need not come again."""
        return part.stat().st_size if part.is_file() else 0

    def discard(self, part: Path) -> None:
        """Remove a part and all that belongs to it."""
        part.unlink(missing_ok=True)

    def verify(self, file: Path, asset: Asset) -> tuple[str, str]:
        """The file's sha256, and what is wrong with it (empty if it is the announced one)."""
        return kept.verify(file, asset)

    # ---- records ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def entry(self, asset: Asset) -> dict[str, str]:
        """What is recorded of a file besides its size and sha256."""

    @abstractmethod
    def owns(self, folder: Path | RemotePath) -> bool:
        """Whether a folder is, by its name, one of those where this archive's paths begin."""

    @abstractmethod
    def folders(self, request: Request, raw: Path) -> list[Plan]:
        """Where files of a request may be on this machine: plans that say whose they are, without list."""

    def recorded(self, request: Request, folder: Path) -> dict[str, dict]:
        """What a folder's record says of the files of a request, by path; nothing where it has none.

        Raises:
            ArtefactError: the record is damaged.
        """
        return kept.entries(folder, self.shape)

    def find(self, file: Path | RemotePath) -> Found | None:
        """The record that a file of the raw tree was fetched under, here or behind a URL; None for any other file.

        Raises:
            ArtefactError: the record is damaged.
        """
        file = file.absolute()
        for folder in file.parents:
            record = kept.read_record(folder, self.shape) if self.owns(folder) else None
            if record is not None:
                path = file.relative_to(folder).as_posix()
                entry = record[self.shape.files].get(path)
                return None if entry is None else Found(record, path, entry)
        return None

    def source(self, found: Found) -> Source:
        """What a session says of the file that it was made from."""
        said = {key: found.record.get(key, "") for key in ("dandiset", "version", "license", "citation")}
        return Source(file=found.path, sha256=found.entry["sha256"], size=found.entry["size"], **said)

    @abstractmethod
    def word(self, found: Found) -> str:
        """What to type after ``spiketok fetch`` to mean the place that a file came from."""

    def number(self, found: Found) -> str:
        """What the catalogue knows the place by; empty where there is none."""
        return ""

    def plain_name(self, number: str) -> str | None:
        """What sessions of a place outside the catalogue are called; None: by their own names."""
        return None
