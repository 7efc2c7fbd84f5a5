"""The nouns of a fetch: what is wanted, what that means in files and bytes, what became of each.

A request names what the user wants, a plan says what that is in files and bytes before anything is written, a result
says what became of each file. The names of files come from a server and end as paths on this machine, so each one is
judged (:func:`judge_paths`) before the first byte is written.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from spiketok.errors import FetchError, UnknownNameError, UsageError

POLICIES = ("error", "skip", "overwrite", "overwrite-different", "refresh")
"""What to do where a file is there already (the words of the official DANDI client).

In all of them a file counts as fetched only after its digest agrees with the announced one. ``error``: the file fails.
``skip``: kept; one with other bytes fails. ``overwrite``: fetched anew. ``overwrite-different``: fetched anew if its
bytes differ. ``refresh``: the same, and the server is asked again for its list where a kept one would do.
"""

JOBS = 6  # files at a time, as the official DANDI client
MAX_NAME_BYTES = 255  # of one part of a path, on all common file systems

Progress = Callable[[str, int, int], None]
"""``progress(asset path, bytes done, bytes in all)``: called by one thread at a time, from any thread; 0 in all where
the size is not known. Bytes that an earlier run left count as done."""


@dataclass(frozen=True)
class Request:
    """What is wanted of one archive; each archive has its own kind.

    Args:
        name: as the user wrote it, for messages and the command to run again.
        include, exclude: globs on paths of files.
        path: one file, or a folder with a final ``/``; goes before the globs.
        dataset: the catalogue's name for it, empty where it has none.
    """

    host: ClassVar[str]
    """The archive's name in ``ARCHIVES``."""

    name: str
    include: tuple[str, ...] = field(default=("*.nwb",), kw_only=True)
    exclude: tuple[str, ...] = field(default=(), kw_only=True)
    path: str | None = field(default=None, kw_only=True)
    dataset: str = field(default="", kw_only=True)

    @property
    def number(self) -> str:
        """What the catalogue knows it by: the number of a dandiset or record; empty where there is none."""
        return ""


State = Literal["missing", "partial", "here", "differs"]


@dataclass(frozen=True)
class Asset:
    """One file of a plan.

    Args:
        path: below the plan's folder; judged.
        size: bytes; None where nobody says before the download.
        sha256: 64 hex digits, empty where not announced. etag: the DANDI digest (MD5 of the parts' MD5s), or empty.
        md5: 32 hex digits, as Zenodo announces; or empty.
        state: ``here``: there, and its digest agrees. ``differs``: a file with other bytes (or with bytes that nothing
            vouches for) is there. ``partial``: ``partial_bytes`` of it wait for the rest.
        problem: why it cannot be fetched (its metadata are refused, say); empty if it can.
        asset_id, modified: the archive's. url: of a plain address, or of a record's file.
    """

    path: str
    size: int | None
    sha256: str = ""
    etag: str = ""
    state: State = "missing"
    partial_bytes: int = 0
    problem: str = ""
    asset_id: str = ""
    modified: str = ""
    url: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Plan:
    """What a request means, before anything is written.

    Args:
        host: the archive's name in ``ARCHIVES``.
        name: the request as the user wrote it.
        folder: where the assets' paths begin.
        assets: in order of path.
        left_out: assets that are NWB and cannot be fetched or read, with the reason.
        kept_list: the list of assets came from an earlier run; no server was asked.
        archive, api_url, needs_token: how to reach the same server again.
        beyond: assets that were chosen and that a limit left out; limits: which limit, how many, how much.
        record: the number of a Zenodo record. doi: of the version, where the archive says it by itself.
    """

    host: str
    name: str
    folder: Path
    assets: tuple[Asset, ...] = ()
    dandiset: str = ""
    record: str = ""
    version: str = ""
    title: str = ""
    license: str = ""
    citation: str = ""
    doi: str = ""
    left_out: tuple[str, ...] = ()
    beyond: tuple[Asset, ...] = ()
    limits: tuple[str, ...] = ()
    kept_list: bool = False
    archive: str = ""
    api_url: str = ""
    needs_token: bool = False
    listing: tuple[Asset, ...] = ()  # every asset, chosen or not: what is kept for the next run

    @property
    def number(self) -> str:
        """As of a request."""
        return self.dandiset or self.record

    @property
    def total_bytes(self) -> int | None:
        """Bytes of all assets; None where a size is not known before the download."""
        sizes = [asset.size for asset in self.assets]
        return None if None in sizes else sum(sizes)

    @property
    def fetch_bytes(self) -> int | None:
        """Bytes that are not here yet under the default policy; None where a size is not known."""
        wanted = [asset for asset in self.assets if asset.state in ("missing", "partial") and not asset.problem]
        if any(asset.size is None for asset in wanted):
            return None
        return sum(max(asset.size - asset.partial_bytes, 0) for asset in wanted)

    @property
    def complete(self) -> bool:
        return all(asset.state == "here" for asset in self.assets)


@dataclass(frozen=True)
class AssetResult:
    """What became of one asset.

    Args:
        file: where it is, its digest checked; None if it failed.
        message: why it failed, one line; empty otherwise.
        tried: what was tried before it failed, in order and with times.
    """

    path: str
    status: Literal["fetched", "skipped", "failed"]
    file: Path | None
    message: str = ""
    tried: tuple[str, ...] = ()


def check_policy(policy: str) -> str:
    """Raises UnknownNameError for a policy that does not exist."""
    if policy not in POLICIES:
        raise UnknownNameError("policy", policy, POLICIES)
    return policy


def check_jobs(jobs: int) -> int:
    """Raises UsageError for fewer than one."""
    if jobs < 1:
        message = f"{jobs} files at a time: must be at least 1"
        raise UsageError(message)
    return jobs


def decide(asset: Asset, policy: str) -> tuple[bool, str]:
    """Whether to fetch an asset, and if not, why it fails (empty: it is here and good)."""
    if asset.problem:
        return False, asset.problem
    if asset.state in ("missing", "partial") or policy == "overwrite":
        return True, ""
    if policy == "error":
        return False, "is there already: -e skip keeps it, -e overwrite fetches it anew"
    if asset.state == "here":
        return False, ""
    if policy == "skip":
        return False, "a file with other bytes than announced stands there: -e overwrite-different replaces it"
    return True, ""


def judge_paths(paths: Iterable[str], place: str) -> None:
    """Refuse names that would write anywhere but to their own file below the target folder.

    Args:
        paths: with ``/`` between the parts, as a server gave them.
        place: who gave them, for the message.

    Raises:
        FetchError: a path is absolute, climbs (``..``), has an empty part, a control character or a part of more than
            255 bytes; or two paths are one file on a file system that ignores case, or one is a folder of the other.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        fault = path_fault(path)
        if fault:
            message = f"{place} names a file {path!r}, which {fault}: nothing was written"
            raise FetchError(message)
        key = unicodedata.normalize("NFC", path).casefold()
        above = [str(parent) for parent in PurePosixPath(key).parents][:-1]
        clash = files.get(key) or folders.get(key) or next((files[p] for p in above if p in files), None)
        if clash is not None:
            message = f"{place} names the files {clash!r} and {path!r}, which cannot both exist: nothing was written"
            raise FetchError(message)
        files[key] = path
        folders.update(dict.fromkeys(above, path))


def path_fault(path: str) -> str:
    """What is wrong with one path from a server or a record; empty if nothing is."""
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in path):
        return "has a control character"
    if path.startswith("/") or "\\" in path or (len(path) > 1 and path[1] == ":"):
        return "is not a relative path with '/' between its parts"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return f"has the part {part!r}"
        if len(part.encode()) > MAX_NAME_BYTES:
            return f"has a part of {len(part.encode())} bytes, more than {MAX_NAME_BYTES}"
    return ""
