"""Shards behind a URL: kept in a folder of this machine, of which the columns take no more bytes than its cap.

    <cache>/<digest of the URL>/<scheme>/<dataset>/<session>/<fingerprint>/manifest.json, columns.bin

Laid out as ``shards/`` of a workspace, so that readers find what they look for. Manifests are all there, from one
listing; ``columns.bin`` comes when it is first asked for, and goes when room is needed, that of longest ago first.

What is unusual: a file is in use for as long as anything holds a lease on it, a shared ``flock`` on the file itself,
which a map in memory keeps until it is unmapped: the disk's room would not come back before. So any number of threads
and processes, which know nothing of each other, share one cache; the lock of a killed one is freed by the system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spiketok.errors import ArtefactError, TooLargeError, UsageError
from spiketok.storage.files import WIP, fingerprint, human_bytes, parse_bytes
from spiketok.storage.locks import beside, locked
from spiketok.storage.names import fault_of
from spiketok.storage.remote import RemotePath, place

COLUMNS, MANIFEST = "columns.bin", "manifest.json"  # as spiketok.storage.workspace has them, which reads this file


SHARDS, CAP, HOME = "SPIKETOK_SHARDS", "SPIKETOK_SHARDS_CAP", "SPIKETOK_CACHE"
DEFAULT_CAP = "20GB"
PART = ".part-"  # behind it the bytes that are coming
PATIENCE_S = 60.0  # how long room is waited for that others have in use
LOOK_AGAIN_S = 0.05


def let_go() -> bool:
    """Give back the map in memory that was used longest ago, if there is one: put here by who maps files."""
    return False


@dataclass(frozen=True)
class Cache:
    """A cache of the shards behind one URL.

    Args:
        url: the folder that holds the folders of the schemes. folder: of this machine. cap: of columns, in bytes.
    """

    url: RemotePath
    folder: Path
    cap: int

    def __str__(self) -> str:
        return f"{self.url}, of which at most {human_bytes(self.cap)} of columns are kept in {self.folder}"

    def list(self) -> None:
        """Bring every manifest that is not here yet, from one listing.

        Raises:
            UsageError: there is no shard behind the URL. FetchError: it cannot be reached.
        """
        listed = self.url.files()
        there = [name for name in listed if name.endswith(f"/{MANIFEST}") and name.count("/") == 4 and _is_safe(name)]
        if not there:
            below = f": there are some in {self.url}/shards" if any(n.startswith("shards/") for n in listed) else ""
            message = f"{self.url} holds no shards (SCHEME/DATASET/SESSION/FINGERPRINT){below}"
            raise UsageError(message)
        for name in there:
            target = self.folder / name
            if target.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            wip = target.with_name(f"{WIP}{os.getpid()}-{MANIFEST}")
            wip.write_bytes((self.url / name).read_bytes())
            os.replace(wip, target)
        with locked(self.folder / ".lock", f"the cache {self.folder}", wait=True):
            self._make_room(0)  # its cap may be smaller than it was

    def lease(self, file: Path, size: int) -> tuple[int, bool]:
        """A descriptor of a file of columns, under a lock that keeps it from being let go; and whether it came now.

        Args:
            size: of the file, as its manifest says.

        Raises:
            ArtefactError: it is not behind the URL. TooLargeError: its bytes and those in use exceed the cap.
        """
        handle = self._lease_here(file)
        if handle is not None:
            return handle, False
        with locked(beside(file), str(file), wait=True):
            handle = self._lease_here(file)
            if handle is not None:
                return handle, False
            return self._bring(file, size), True

    def _lease_here(self, file: Path) -> int | None:
        while True:
            try:
                handle = os.open(file, os.O_RDONLY)
            except FileNotFoundError:
                return None
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(handle).st_nlink:
                    changed = os.fstat(handle).st_mtime_ns
                    with contextlib.suppress(OSError):
                        os.utime(file, ns=(time.time_ns(), changed))
                    return handle
            os.close(handle)  # it is being let go this moment
            time.sleep(LOOK_AGAIN_S / 10)

    def _bring(self, file: Path, size: int) -> int:
        part = file.with_name(f"{file.name}{PART}{size}")
        part.parent.mkdir(parents=True, exist_ok=True)
        held = self._reserve(part, size)
        try:
            name = file.relative_to(self.folder).as_posix()
            try:
                (self.url / name).download(part)
            except FileNotFoundError as error:
                message = f"{self.url}/{name} is gone, which its manifest names: put the shard there again"
                raise ArtefactError(message) from error
            found = part.stat().st_size
            if found != size:
                message = f"{self.url}/{name} has {found} bytes, its manifest says {size}: put the shard there again"
                raise ArtefactError(message)
            with locked(self.folder / ".lock", f"the cache {self.folder}", wait=True):  # nobody makes room meanwhile
                fcntl.flock(held, fcntl.LOCK_SH)
                os.replace(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            os.close(held)
            raise
        return held

    def _reserve(self, part: Path, size: int) -> int:
        """Make room for a file that is to come and put its mark there; gives its descriptor, under its lock."""
        until = time.monotonic() + PATIENCE_S
        while True:
            with locked(self.folder / ".lock", f"the cache {self.folder}", wait=True):
                used = self._make_room(size)
                if used + size <= self.cap:
                    handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
                    fcntl.flock(handle, fcntl.LOCK_EX)
                    return handle
            if let_go():
                continue
            if size > self.cap or time.monotonic() > until:
                message = (
                    f"a shard of {human_bytes(size)} does not fit: {human_bytes(used)} of {self.folder} are in use, "
                    f"its cap is {human_bytes(self.cap)}: --shards-cap SIZE"
                )
                raise TooLargeError(message)
            time.sleep(LOOK_AGAIN_S)

    def _make_room(self, size: int) -> int:
        """Let files go that nobody uses, those used longest ago first; gives the bytes that are left."""
        files, coming = [], 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                if name == COLUMNS:
                    with contextlib.suppress(FileNotFoundError):
                        found = os.stat(path)
                        files.append((found.st_atime_ns, path, found.st_size))
                elif name.startswith(f"{COLUMNS}{PART}"):
                    coming += 0 if _removed(path) else int(name.rpartition("-")[2])
        used = coming + sum(nbytes for _, _, nbytes in files)
        for _, path, nbytes in sorted(files):
            if used + size <= self.cap:
                break
            used -= nbytes if _removed(path) else 0
        return used


def _is_safe(name: str) -> bool:
    return not any(fault_of(part) for part in name.split("/"))


def _removed(path: str) -> bool:
    """Whether a file is gone now, because nobody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def cache_of_shards() -> Cache | None:
    """The cache of the URL that ``SPIKETOK_SHARDS`` names; None where it names none.

    The environment says so, that every process of a command has the same one.
    """
    asked = os.environ.get(SHARDS, "")
    if "://" not in asked:
        if asked:
            message = f"{SHARDS}={asked} is no URL: shards of this machine lie in the workspace, use --root"
            raise UsageError(message)
        return None
    return _cache(asked, os.environ.get(CAP) or DEFAULT_CAP, os.environ.get(HOME, ""))


@lru_cache(maxsize=4)
def _cache(url: str, cap: str, home: str) -> Cache:
    folder = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spiketok"
    found = place(url)
    return Cache(found, folder.absolute() / "shards" / fingerprint(str(found)), parse_bytes(cap, "--shards-cap"))


def leased(file: str, size: int) -> tuple[int, bool] | None:
    """A lease of a file, see :meth:`Cache.lease`; None for one that lies in no cache."""
    cache = cache_of_shards() if SHARDS in os.environ else None
    if cache is None or not file.startswith(f"{cache.folder}/"):
        return None
    return cache.lease(Path(file), size)


@contextlib.contextmanager
def in_use(file: str, size: int) -> Iterator[bool]:
    """Keep a file of columns here for as long as the block lasts; whether it came now. Of other files: nothing."""
    found = leased(file, size)
    try:
        yield found is not None and found[1]
    finally:
        if found is not None:
            os.close(found[0])
