"""Why the system or a library failed: the true cause of an error in one line, with the place and what mends it.

What is unusual: an error is asked what it comes from before anything is called damaged. Whoever reads or writes asks
:func:`raise_cause` or :func:`cause_of` first: an error of the machine (its disk, its limits, who may read) says nothing
of what a file holds, and what is behind it must never be removed, fetched or made again for that. HDF5 and safetensors
tell the number of the system's error in their text alone; it is read there.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from spiketok.errors import SpiketokError, UnreadableError
from spiketok.storage.limits import LIMITS, memory_words, process_words

LOCKLESS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # of a lock that was asked for
NETWORK = {
    getattr(errno, name)
    for name in (
        *("ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ECONNRESET"),
        *("ECONNABORTED", "ECONNREFUSED", "EREMOTEIO", "ENOLINK", "ESHUTDOWN"),
    )
    if hasattr(errno, name)
}
# What is true of this machine whatever was at work when it was met; others may be met and passed over on the way.
ALWAYS_TOLD = {*LIMITS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
# Numbers that a damaged HDF5 file causes, too: a place before its start, or beyond what a file can have.
OF_THE_CONTENT = {errno.EINVAL, errno.EOVERFLOW, errno.EFAULT, errno.EBADF}
NEWER = "a newer spiketok wrote it: pip install --upgrade spiketok"
AGAIN = "then run the same command again"

_NUMBER = re.compile(r"errno = (\d+)|os error (\d+)")
_NAME = re.compile(r"name = '([^']*)'")
_UNFINISHED = re.compile(r"\.wip-\d+(?:@[^-/]*)?-(?:old-)?")  # what files.py writes before it is whole


class Cause(NamedTuple):
    """What an error comes from: the path that it is about (or empty), the fact, and what mends it."""

    place: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.fact}: {self.remedy}" if self.place else f"{self.fact}: {self.remedy}"


def number_of(error: BaseException) -> int | None:
    """The system's number of an error, also where a library tells it in its text alone; None where it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, FileNotFoundError):  # of a library that gives no number
        return errno.ENOENT
    found = _NUMBER.search(str(error))
    return int(found[1] or found[2]) if found else None


def cause_of(error: BaseException, path: object = None) -> Cause | None:
    """Why the machine failed; None where what was read is wrong, or where the error is of another kind.

    Args:
        error: what was raised.
        path: what was being read or written, for errors that do not say so.
    """
    if is_of_memory(error):
        return Cause(str(path or ""), *memory_words(asked_for(error)))
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return Cause(str(path or ""), *process_words())
    number = number_of(error)
    if number is None or isinstance(error, SpiketokError):
        return None
    if number in OF_THE_CONTENT and _NUMBER.search(str(error)):
        return None
    where = _place(error, path)
    return Cause(where, *_words(number, where, error))


def raise_cause(error: BaseException, path: object, kind: type[SpiketokError] = UnreadableError) -> None:
    """Raise the cause of an error where the machine is to blame; return where what was read is wrong.

    That a file is not there is for its reader to say; that a link to it leads nowhere is said here.

    Args:
        error, path: see :func:`cause_of`.
        kind: what to raise.
    """
    cause = cause_of(error, path)
    if cause is None or (number_of(error) == errno.ENOENT and not _leads_nowhere(Path(cause.place))):
        return
    raised = kind(str(cause))
    raised.cause = cause  # whatever is raised because of it
    raise raised from error


def _leads_nowhere(path: Path) -> Path | None:
    """The link, at a path or above it, whose target is not there."""
    return next((one for one in (path, *path.parents) if one.is_symlink() and not one.exists()), None)


def root_of(error: BaseException) -> BaseException:
    """The error of the machine that an error was raised because of; the error itself where there is none."""
    for one in _chain(error):
        if not isinstance(one, SpiketokError) and (number := number_of(one)) in ALWAYS_TOLD:
            return one if isinstance(one, OSError) and one.errno else OSError(number, os.strerror(number))
    return error


def machine_fault(error: BaseException | None) -> str:
    """The line on what the machine did, if an error is of that or was raised because of it; empty for others."""
    told = next((one.cause for one in _chain(error) if isinstance(one, SpiketokError) and one.cause), None)
    if told is None and error is not None:
        told = cause_of(root_of(error))
    return "" if told is None else str(told)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised because of."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def content_fault(error: BaseException) -> str:
    """Why a text is not what it should be: empty, cut off, of another encoding, nested too deep; else what was said."""
    if isinstance(error, json.JSONDecodeError):
        text = error.doc
        if not text.strip():
            return f"it is empty ({len(text)} characters)"
        if not text.strip("\0"):
            return f"it holds zeros alone ({len(text)} of them)"
        if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            return f"it ends in the middle, after {len(text)} characters"
    if isinstance(error, UnicodeDecodeError):
        if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "it is UTF-16, expected UTF-8"
        return f"it is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start})"
    if isinstance(error, RecursionError):
        return "it is nested deeper than Python follows"
    return " ".join(str(error).split()) or type(error).__name__


# ---- memory ---------------------------------------------------------------------------------------------------------


def is_of_memory(error: BaseException) -> bool:
    """Of Python, of numpy, or of torch on any device."""
    if isinstance(error, MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in said or "out of memory" in said)


def asked_for(error: BaseException) -> str:
    """What was asked for, as the library says it."""
    said = " ".join(str(error).split())
    found = re.search(
        r"tried to allocate [\d.]+ ?\w+|Unable to allocate [\d.]+ \w+( for an array with shape [^)]*\))?", said
    )
    return found[0] if found else ""


# ---- the system -----------------------------------------------------------------------------------------------------


def _place(error: BaseException, path: object) -> str:
    """The path that an error is about, as it will be named once it is whole."""
    told = getattr(error, "filename", None)
    if isinstance(told, bytes):
        told = os.fsdecode(told)
    if not isinstance(told, str) or not told:
        found = _NAME.search(str(error))
        told = found[1] if found else str(path or "")
    return _UNFINISHED.sub("", told)


def _words(number: int, where: str, error: BaseException) -> tuple[str, str]:
    if number in LIMITS:
        return LIMITS[number]()
    if number in NETWORK:
        return f"the file system behind the network does not answer ({_said(number)})", f"mount it again, {AGAIN}"
    told = _TOLD.get(number)
    if told is not None:
        return told(Path(where) if where and "://" not in where else None, error)
    return f"the system says '{_said(number)}'", f"look at the disk or mount that it lies on, {AGAIN}"


def _said(number: int) -> str:
    return f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"


def _standing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if os.path.lexists(one))


def _no_permission(path: Path | None, error: BaseException) -> tuple[str, str]:
    me = f"this process is user {_user(os.geteuid())}" if hasattr(os, "geteuid") else "this process"
    if path is None:
        return f"permission denied ({me})", "let its owner allow it, or run as that user"
    for folder in reversed(path.absolute().parents):
        if os.path.lexists(folder) and not os.access(folder, os.X_OK):
            return (
                f"its folder {folder} may not be entered ({_mode(folder)}; {me})",
                f"chmod u+x {folder}, as its owner",
            )
    if not os.path.lexists(path):
        above = _standing(path)
        return (
            f"nothing may be written in {above} ({_mode(above)}; {me})",
            f"chmod u+w {above}, or choose another folder",
        )
    for bit, word, letter in ((os.R_OK, "read", "r"), (os.W_OK, "written", "w")):
        if not os.access(path, bit):
            return f"may not be {word} ({_mode(path)}; {me})", f"chmod u+{letter} {path}, as its owner"
    if not os.access(path.absolute().parent, os.W_OK):
        above = path.absolute().parent
        return (
            f"nothing may be changed in {above} ({_mode(above)}; {me})",
            f"chmod u+w {above}, or choose another folder",
        )
    remedy = "look for access lists, flags (lsattr) and bounds of the container"
    return f"the system forbids it although its mode allows it ({_mode(path)}; {me})", remedy


def _mode(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "of a mode that cannot be seen"
    return f"{stat.filemode(status.st_mode)} of user {_user(status.st_uid)}"


def _user(uid: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):  # Windows, or a user of another machine
        return str(uid)


def _no_space(path: Path | None, error: BaseException) -> tuple[str, str]:
    from spiketok.storage.files import human_bytes  # here: that file imports this one

    if path is None:  # which disk is not known
        return "no space left on the disk", f"free some, {AGAIN}"
    above = _standing(path)
    needed = getattr(error, "needed_bytes", None)
    wants = f"{human_bytes(needed)} are needed, " if needed else ""
    room = shutil.disk_usage(above)
    disk = f"{wants}{human_bytes(room.free)} of {human_bytes(room.total)} are free"
    if hasattr(os, "statvfs") and (now := os.statvfs(above)).f_files and not now.f_favail:
        disk = f"all {now.f_files} inodes are used: it takes no further file"
    return f"no space left on the disk ({disk})", f"free some, {AGAIN}"


def _no_quota(path: Path | None, error: BaseException) -> tuple[str, str]:
    from spiketok.storage.files import human_bytes  # here: that file imports this one

    needed = getattr(error, "needed_bytes", None)
    wants = f" ({human_bytes(needed)} are needed)" if needed else ""
    return f"your quota on this disk is used up{wants}", f"remove files of yours or ask for more (quota -s), {AGAIN}"


def _too_large(path: Path | None, error: BaseException) -> tuple[str, str]:
    import resource

    from spiketok.storage.files import human_bytes

    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY:
        return (
            f"would be longer than a file may be here ({human_bytes(most)}, ulimit -f)",
            f"ulimit -f unlimited, {AGAIN}",
        )
    return "is longer than its file system takes", "choose a folder on another one (FAT takes 4 GB)"


def _bad_disk(path: Path | None, error: BaseException) -> tuple[str, str]:
    remedy = f"look at the system's log (dmesg) and at the disk, {AGAIN}; what the file holds is not in question"
    return "the disk or the mount that it lies on failed (Input/output error, EIO)", remedy


def _read_only(path: Path | None, error: BaseException) -> tuple[str, str]:
    return "lies on a read-only file system", "choose a folder on another one (--root, --out), or mount it writable"


def _no_folder(path: Path | None, error: BaseException) -> tuple[str, str]:
    for one in reversed(path.absolute().parents) if path is not None else ():
        if os.path.lexists(one) and not one.is_dir():
            return f"{one} is a file, expected a folder", "move it away, or choose another path"
    return "is a file, expected a folder", "move it away, or choose another path"


def _not_there(path: Path | None, error: BaseException) -> tuple[str, str]:
    if path is None:
        return "a file is not there", "check the paths"
    link = _leads_nowhere(path)
    if link is not None:
        which = "is" if link == path else f"{link} is"
        return f"{which} a link that leads nowhere (to {os.readlink(link)})", "mend the link, or mount what it leads to"
    if path.exists():
        return "was not there a moment ago and is now", "run the same command again"
    return f"is not there ({_standing(path)} is)", "check the path"


def _too_long(path: Path | None, error: BaseException) -> tuple[str, str]:
    longest = max((path.parts if path is not None else ()), key=lambda part: len(os.fsencode(part)), default="")
    size = len(os.fsencode(longest))
    if size > 255:
        return f"a name of {size} bytes is longer than its file system takes (mostly 255)", "choose a shorter one"
    if path is None:
        return "a name or a path is longer than the system takes", "choose shorter names, or a shorter --root"
    return f"a path of {len(os.fsencode(str(path)))} bytes is longer than the system takes", "choose a shorter --root"


def _in_circles(path: Path | None, error: BaseException) -> tuple[str, str]:
    return "is a link that leads in a circle, or through too many others", "mend or remove the link"


def _is_folder(path: Path | None, error: BaseException) -> tuple[str, str]:
    return "is a folder, expected a file", "move it away, or choose another path"


def _in_use(path: Path | None, error: BaseException) -> tuple[str, str]:
    return "is in use by another program", f"wait until it has ended, {AGAIN}"


def _no_locks(path: Path | None, error: BaseException) -> tuple[str, str]:
    return f"its file system does not do this ({_said(number_of(error))})", "choose a folder on another one"


def _not_now(path: Path | None, error: BaseException) -> tuple[str, str]:
    return process_words() if path is None else _in_use(path, error)


_TOLD = {
    errno.EACCES: _no_permission,
    errno.EPERM: _no_permission,
    errno.ENOSPC: _no_space,
    errno.EDQUOT: _no_quota,
    errno.EFBIG: _too_large,
    errno.EIO: _bad_disk,
    errno.EROFS: _read_only,
    errno.EISDIR: _is_folder,
    errno.ENOTDIR: _no_folder,
    errno.ENOENT: _not_there,
    errno.ENAMETOOLONG: _too_long,
    errno.ELOOP: _in_circles,
    errno.EBUSY: _in_use,
    errno.ETXTBSY: _in_use,
    errno.EAGAIN: _not_now,
    **dict.fromkeys(LOCKLESS, _no_locks),
}
