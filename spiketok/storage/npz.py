"""Arrays of an ``.npz`` file, bounded before any is read: what its headers claim, and what it unpacks to.

What is unusual: numpy allocates what a header claims and unpacks what a zip holds, so both are held against the file
first. Pickled objects are never loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from spiketok.errors import ArtefactError, SourceError
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import human_bytes

MAGIC = b"\x93NUMPY"
COPY = "copy it again"
LEAST_BYTES, TIMES = 200_000_000, 20  # what all arrays of a file may take, and as a multiple of the file
_FAULTS = (ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, SourceError)


def array_header(stream: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype that an npy file of so many bytes begins with.

    Raises:
        SourceError: it is no npy file, holds Python objects, or claims more than it has. ValueError: it has no header.
    """
    start = stream.read(len(MAGIC))
    if start != MAGIC:
        message = f"{name} is no npy file (it begins with {start!r}): {COPY}"
        raise SourceError(message)
    stream.seek(0)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    there = size - stream.tell()
    if dtype.hasobject:
        message = f"{name} holds pickled Python objects, which could run code and are never loaded: save it as numbers"
        raise SourceError(message)
    claimed = prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > there:
        message = (
            f"{name} claims {dtype} of shape {shape}, {human_bytes(claimed)}, and has {human_bytes(there)}: it is cut "
            f"short or damaged, {COPY}"
        )
        raise SourceError(message)
    return shape, dtype


def read_npz(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name.

    Args:
        names: of those that are wanted, as far as they are there; all without any.

    Raises:
        OSError: it cannot be read. ArtefactError: it is no such file, is damaged, or asks for too much.
    """
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            held = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            wanted = {name: member for name, member in held.items() if not names or name in names}
            total, allowed = sum(member.file_size for member in wanted.values()), LEAST_BYTES + TIMES * size
            if total > allowed:
                most = f"allowed are {human_bytes(allowed)} for a file of {human_bytes(size)}"
                message = f"its arrays take {human_bytes(total)} of memory, {most}"
                raise ValueError(message)
            found = {}
            for name, member in wanted.items():
                with archive.open(member) as stream:
                    array_header(stream, member.file_size, member.filename)
                with archive.open(member) as stream:
                    found[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return found
    except _FAULTS as error:
        raise_cause(error, path)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        message = f"{path} is no .npz of arrays ({reason})"
        raise ArtefactError(message) from error


def names_in_npz(path: Path) -> set[str]:
    """The names of the arrays in an npz file; none where it is no such file, which its reader says."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, *_FAULTS):
        return set()
