"""The members of a stored session's group by name: those of a zip file, or files of a folder (as it was before).

What is unusual: the zip's members are not compressed and have no extra fields, so that each lies in the file as it is,
at a place that the zip's directory tells. It is read there by one look into the file, which is closed again, and held
against its CRC-32: nothing damaged is taken for a value, and no descriptor is kept. The directory's own sha256 stands
in the session's attributes, so that no other session's zip is taken for this one's.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from spiketok.errors import ArtefactError
from spiketok.storage.causes import raise_cause
from spiketok.storage.remote import RemotePath

ARRAYS = "arrays.zip"
ARRAY = ".zarray"  # the member that describes an array

_LOCAL = b"PK\3\4\x14\0"  # begins a member's header, 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # of the directory: PKWARE's APPNOTE, 4.3.12
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_END64, _LOCATOR = struct.Struct("<4sQ2H2L4Q"), 20  # 4.3.14 and 4.3.15, of a zip of more than 2 GiB
_EXTRA64 = struct.Struct("<2HQ")
_FULL = 0xFFFFFFFF  # "see the extra field"
_TAIL = 1 << 16


def damaged(path: Path | RemotePath, reason: object) -> ArtefactError:
    """The one line on what cannot be what was written."""
    told = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
    return ArtefactError(f"{path} is damaged ({told}): ingest its source again")


def open_members(
    path: Path | RemotePath, directory_sha256: str | None, session: Path | RemotePath
) -> FolderMembers | ZipMembers:
    """The members of a session's group.

    Args:
        path: the session's folder, or a copy of it.
        directory_sha256: of the zip's directory, as the session's attributes have it; None for a folder of files.
        session: what messages call it.

    Raises:
        ArtefactError: the zip is damaged, missing, or another session's.
    """
    if directory_sha256 is None:
        return FolderMembers(path, session)
    return ZipMembers(path / ARRAYS, directory_sha256, session)


class FolderMembers:
    """The files of a folder."""

    is_vouched = False  # what they hold may ask for any memory

    def __init__(self, path: Path | RemotePath, session: Path | RemotePath) -> None:
        self.path, self.session = path, session

    def arrays(self, part: str = "") -> list[str]:
        """The keys of the arrays below a part of the group, in order."""
        folder = self.path
        for name in filter(None, part.split("/")):
            folder = folder / name
        found = [file.parent.relative_to(self.path) for file in folder.rglob(ARRAY)]
        return sorted(key.as_posix() for key in found)

    def read(self, name: str) -> bytes:
        """The bytes of a member, which nothing vouches for.

        Raises:
            ArtefactError: it is missing or cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise_cause(error, self.path / name)
            raise damaged(self.session, f"{name} is missing") from error


class ZipMembers:
    """The members of a zip file; safe to share between threads, holds no descriptor."""

    is_vouched = True

    def __init__(self, path: Path | RemotePath, directory_sha256: str, session: Path | RemotePath) -> None:
        self.path, self.session = path, session
        try:
            directory, length, self._stamp = _read_directory(path)
            if hashlib.sha256(directory).hexdigest() != directory_sha256:
                raise ValueError("its directory is not the one that was written")
            self._entries = dict(_entries(directory, length))
        except (OSError, ValueError, struct.error) as error:
            raise_cause(error, path)
            missing = isinstance(error, FileNotFoundError)
            told = f"{ARRAYS} is missing" if missing else f"{ARRAYS}: {type(error).__name__}: {error}"
            raise damaged(session, told) from error

    def arrays(self, part: str = "") -> list[str]:
        """The keys of the arrays below a part of the group, in order."""
        below = f"{part}/" if part else ""
        tail = f"/{ARRAY}"
        return sorted(n.removesuffix(tail) for n in self._entries if n.startswith(below) and n.endswith(tail))

    def read(self, name: str) -> memoryview:
        """The bytes of a member, as they were written.

        Raises:
            ArtefactError: it is missing or damaged, or the zip was replaced since it was opened.
        """
        if name not in self._entries:
            raise damaged(self.session, f"{name} is missing in {ARRAYS}")
        start, header, size, crc = self._entries[name]
        try:
            whole = _read_range(self.path, start, start + len(header) + size)
        except OSError as error:
            raise_cause(error, self.path)
            raise damaged(self.session, f"{ARRAYS} is missing") from error
        data = memoryview(whole)[len(header) :]
        if len(data) != size or zlib.crc32(data) != crc or not whole.startswith(header):
            if isinstance(self.path, Path) and _stamp(self.path.stat()) != self._stamp:
                message = f"{self.session} was replaced while it was read: run the same command again"
                raise ArtefactError(message)
            raise damaged(self.session, f"{name}: its bytes are not what was written")
        return data


def _read_range(path: Path | RemotePath, start: int, stop: int) -> bytes:
    if not isinstance(path, Path):
        return path.read_range(start, stop)
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, stop - start, start)
    finally:
        os.close(handle)


def _stamp(stat: os.stat_result) -> tuple[int, ...]:
    return (stat.st_size, getattr(stat, "st_mtime_ns", 0), getattr(stat, "st_ino", 0))


def _read_directory(path: Path | RemotePath) -> tuple[bytes, int, tuple[int, ...]]:
    """A zip's directory and what is behind it up to the end of the file, and the bytes of the directory alone."""
    stat = path.stat()
    size = stat.st_size
    tail = _read_range(path, max(0, size - _TAIL), size)
    mark, _, _, _, _, length, start, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\5\6" or comment:
        raise ValueError("does not end as a zip")
    behind = _END.size
    if start + length + behind != size:  # as where the zip has more than 2 GiB
        mark, *_, length, start = _END64.unpack(tail[-behind - _LOCATOR - _END64.size : -behind - _LOCATOR])
        behind += _LOCATOR + _END64.size
        if mark != b"PK\6\6":
            raise ValueError("is not as long as its directory says")
    if start + length + behind != size:
        message = f"{size} bytes, expected {start + length + behind}"
        raise ValueError(message)
    whole = tail if size - start <= len(tail) else _read_range(path, start, size)
    return whole[len(whole) - (size - start) :], length, _stamp(stat)


def _entries(directory: bytes, length: int) -> Iterator[tuple[str, tuple[int, bytes, int, int]]]:
    """Name, and (where its header begins, the header, the number of bytes behind it, their CRC-32), of every member."""
    at = 0
    while at < length:
        fields = _ENTRY.unpack_from(directory, at)
        crc, _, size, n_name, n_extra, n_comment = fields[7:13]
        offset = fields[-1]
        name = directory[at + _ENTRY.size : at + _ENTRY.size + n_name]
        if offset == _FULL:
            _, _, offset = _EXTRA64.unpack_from(directory, at + _ENTRY.size + n_name)
        header = _LOCAL + directory[at + 8 : at + 30] + b"\0\0" + name  # it says the same as the entry
        yield name.decode("ascii"), (offset, header, size, crc)
        at += _ENTRY.size + n_name + n_extra + n_comment


def write_zip(path: Path, members: Iterable[tuple[str, bytes]]) -> str:
    """Write a zip file of members as they come, each stored as it is; the sha256 of its directory and all behind it.

    No date and no machine is in it: the same members give the same bytes.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for name, data in members:
            about = zipfile.ZipInfo(name)  # of 1980-01-01, as far back as a zip goes
            about.create_system, about.external_attr = 3, 0o644 << 16
            out.writestr(about, data)
    directory, _, _ = _read_directory(path)
    return hashlib.sha256(directory).hexdigest()
