"""Stamps: that every byte of an artefact was found right, so that it need not be read whole a second time.

The file ``.checked`` in an artefact's folder names the size, the time of the last change and the inode of its two files
and the digest of its manifest, as they were when a reader checked them. A copy has other inodes, a changed file another
time: then the stamp says nothing and the check is made again. The stamp is no part of the artefact.

What is unusual: files that changed a moment ago are not stamped. The clock of a file system stands still between two
ticks, and a byte that changes in the same tick as the check would keep its time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

STAMP = ".checked"
RULES = 1  # raised whenever a check finds what it did not find before: older stamps then say nothing
YOUNG_NS = 100_000_000  # ten ticks of the slowest kernel clock (100 Hz)


State = tuple[tuple[int, int, int], ...]


def state_of(*files: str) -> State:
    """Size, time of the last change in ns, and inode of each file; empty where one is not there."""
    try:
        return tuple((s.st_size, s.st_mtime_ns, s.st_ino) for s in map(os.stat, files))
    except OSError:  # who opens them says why
        return ()


def read_whole(file: str) -> bytes:
    """The bytes of a small file, as ``Path.read_bytes``, in a fifth of its time: thousands are opened at a start."""
    handle = os.open(file, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(handle, 1 << 20):
            parts.append(part)
    finally:
        os.close(handle)
    return b"".join(parts)


def is_stamped(folder: str, state: State, digest: str) -> bool:
    """Whether the stamp in a folder says that files in this state, with this digest, were checked."""
    try:
        return read_whole(f"{folder}/{STAMP}") == _line(state, digest)
    except OSError:  # none, or one that cannot be read: the check is made again
        return False


def write_stamp(folder: str, state: State, digest: str) -> None:
    """Stamp a folder whose files were in this state before and after all of them were found right."""
    if time.time_ns() - max(changed for _, changed, _ in state) < YOUNG_NS:
        return
    mine = f"{folder}/{STAMP}-{os.getpid()}-{threading.get_ident()}"
    try:
        with open(mine, "wb") as stream:
            stream.write(_line(state, digest))
        os.replace(mine, f"{folder}/{STAMP}")
    except OSError:  # a folder that cannot be written to: the check will be made again
        with contextlib.suppress(OSError):
            os.unlink(mine)


def _line(state: State, digest: str) -> bytes:
    return f"{RULES} {digest} {' '.join([str(number) for file in state for number in file])}\n".encode()
