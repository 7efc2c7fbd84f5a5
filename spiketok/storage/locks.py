"""Two commands at once: who writes a place holds its lock, and a reader whose artefact is replaced reads again.

A lock is ``flock`` on a small file, which says who holds it and is removed at the end. The system frees the lock of a
process that ends in any way, so what a killed one left keeps nobody out. A file system that has no locks is said once,
and the work goes on: artefacts are whole or absent all the same, as each is written under a name of its own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import IO, TypeVar

from spiketok.errors import ArtefactError, BusyError
from spiketok.notes import note_once
from spiketok.storage.causes import LOCKLESS
from spiketok.storage.files import fingerprint
from spiketok.storage.remote import RemotePath

T = TypeVar("T")

LOCK = ".lock"
ABSENT = LOCKLESS | {errno.EINVAL}  # the file system has no locks
LOOK_AGAIN_S = 0.1
QUIET_S = 1.0  # what is waited for no longer is not worth a word
MOST_VANISHED = 100
REPLACED_READS = 5  # as often is an artefact read that is replaced under the reader


def inside(folder: Path) -> Path:
    """The lock of a folder that stays where it is, as a run's."""
    return Path(folder) / LOCK


def beside(target: Path) -> Path:
    """The lock of a file, or of a folder that is replaced as a whole; its name is short whatever the target's is."""
    return Path(target).parent / f"{LOCK}-{fingerprint(Path(target).name)}"


@contextlib.contextmanager
def locked(lock: Path, what: str, *, wait: bool = False, stop: Event | None = None) -> Iterator[bool]:
    """Hold a lock against other processes, and against other holders in this one, for as long as the block lasts.

    Args:
        lock: from :func:`inside` or :func:`beside`.
        what: is written under it, in words, for the message.
        wait: until it is free, and say so where that takes long; else refuse. stop: ends the wait once it is set.

    Yields:
        whether it was free at once: if not, what another holder wrote may be there now.

    Raises:
        BusyError: another process holds it, and ``wait`` is not set, or ``stop`` was.
    """
    stream, free = _acquire(lock, what, wait, stop)
    try:
        yield free
    finally:
        if stream is not None:
            with contextlib.suppress(OSError):
                if _is_at(stream, lock):
                    lock.unlink()
            stream.close()


def session_lock(target: Path | RemotePath) -> contextlib.AbstractContextManager:
    """The lock of a stored session, waited for: who makes it anew and who makes something of it. None behind a URL."""
    if not isinstance(target, Path):
        return contextlib.nullcontext()
    return locked(beside(target), f"session {target.parent.name}/{target.name}", wait=True)


def _acquire(lock: Path, what: str, wait: bool, stop: Event | None) -> tuple[IO[bytes] | None, bool]:
    """The file under its lock, and whether it was free; None where no file can be there."""
    free, vanished, begun = True, 0, time.monotonic()
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stream = open(lock, "ab+", buffering=0)  # noqa: SIM115 - its lock outlives this function
        except FileNotFoundError:
            vanished += 1  # the folder, which another command removed as empty just now
            if vanished == MOST_VANISHED:
                return None, free
            continue
        except OSError:
            return None, free  # nor can what is to be written: its own error says why
        try:
            taken = _take(stream, lock)
        except BaseException:
            stream.close()
            raise
        if taken and _is_at(stream, lock):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
                stream.truncate(0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                stream.write(f"process {os.getpid()} on {platform.node()}, since {since}".encode())
            return stream, free
        holder = "" if taken else _holder(stream)
        stream.close()
        if taken:
            continue  # its holder removed it after we had opened it
        if not wait or (stop is not None and stop.is_set()):
            message = f"another spiketok ({holder}) writes {what}: wait for it or stop it"
            raise BusyError(message)
        free = False
        if time.monotonic() - begun > QUIET_S:
            note_once(f"another spiketok writes {what}: waiting for it ({holder})")
        time.sleep(LOOK_AGAIN_S)


def _take(stream: IO[bytes], lock: Path) -> bool:
    """Whether the lock is ours now; also where there are none."""
    try:
        import fcntl  # here: every command imports this file

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (OSError, ImportError) as error:
        if isinstance(error, OSError) and error.errno not in ABSENT:
            raise
        note_once(f"the file system of {lock.parent} has no locks: let no two commands write there at once")
    return True


def _is_at(stream: IO[bytes], lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _holder(stream: IO[bytes]) -> str:
    with contextlib.suppress(OSError, ValueError):
        stream.seek(0)
        return stream.read(300).decode(errors="replace").strip() or "process not known"
    return "process not known"


# ---- readers --------------------------------------------------------------------------------------------------------


def unless_replaced(mark: Path | RemotePath, read: Callable[[], T]) -> T:
    """What ``read`` gives of an artefact of several files; read again where another took its place meanwhile.

    Args:
        mark: its file that is never the same in two artefacts.
        read: raises ArtefactError where the files do not fit each other.
    """
    for _ in range(REPLACED_READS):
        before = _stamp(mark)
        try:
            return read()
        except ArtefactError:
            if not isinstance(mark, Path) or _stamp(mark) == before:
                raise
            time.sleep(LOOK_AGAIN_S / 2)
    return read()


def _stamp(mark: Path | RemotePath) -> tuple[int, int, int] | None:
    if not isinstance(mark, Path):
        return None
    try:
        found = mark.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
