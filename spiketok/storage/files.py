"""Files that are whole or not there: atomic writes, digests, fingerprints.

What is written becomes visible only when whole: it is written under a temporary name in the same folder, synced, and
renamed. A temporary name is ``.wip-<process id>@<machine>-<name>``, so that a later run can tell what a killed process
left behind from what a living one is writing, also where several machines share the folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from spiketok.errors import ArtefactError, ChangedError, UsageError
from spiketok.storage.causes import content_fault, raise_cause, root_of

if TYPE_CHECKING:
    import numpy as np

SESSION_MARKS = ("session.json", ".zattrs")  # the files that make a session: packed, and an older folder
WIP = ".wip-"
OLD = "old-"  # before the name: what stood at the target, while its successor takes the place
PIECE_ROWS = 1 << 17
SYNC_THREADS = 8
MOST_DIGITS = 40  # of a whole number in JSON: all that are written lie within 64 bits
STALE_S = 24 * 3600  # another machine's processes cannot be asked: what did not change for so long is left behind

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_being_written: set[str] = set()  # by this process; its threads must not take each other's for a namesake's leftovers


def fingerprint(value: object) -> str:
    """16 hex digits that name a JSON-able value: same value, same name, in any process on any machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def content_digest(facts: Mapping[str, object]) -> str:
    """The sha256 of all that a JSON-able mapping says, but for its own key ``digest``, where this will be written.

    >>> content_digest({"a": 1, "digest": "anything"}) == content_digest({"a": 1})
    True
    """
    said = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, as 64 hex digits; an OSError names the file, also one of reading it."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sha256_source(path: Path, read: Callable[[str], bool] | None = None) -> str:
    """The sha256 of a file; of a folder, that of the names and digests of its files, in order of name.

    Args:
        path: the file or folder. read: of a folder, which files count, by their path in it; all without it.
    """
    if path.is_file():
        return sha256_file(path)
    lines = [f"{name} {sha256_file(file)}\n" for name, file in _files_below(path, read)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source_bytes(path: Path, read: Callable[[str], bool] | None = None) -> int:
    """The size of a file, or of the files of a folder, see :func:`sha256_source`."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for _, file in _files_below(path, read))


def _files_below(folder: Path, read: Callable[[str], bool] | None) -> list[tuple[str, Path]]:
    files = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    return files if read is None else [(name, file) for name, file in files if read(name)]


@dataclass(frozen=True)
class Pieces:
    """An array that is never there as a whole: ``piece(low, high)`` makes its rows from ``low`` to ``high``."""

    shape: tuple[int, ...]
    dtype: np.dtype
    piece: Callable[[int, int], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.piece(rows.start, min(rows.stop, self.shape[0]))


def sha256_arrays(arrays: Mapping[str, np.ndarray | Pieces]) -> str:
    """One digest over named arrays: names, dtypes, shapes and values, in order of name."""
    import numpy as np  # here: every command imports this file, and --help needs no arrays

    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name] if isinstance(arrays[name], Pieces) else np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        if isinstance(array, Pieces):
            for low in range(0, array.shape[0], PIECE_ROWS):
                digest.update(np.ascontiguousarray(array[low : low + PIECE_ROWS]).view(np.uint8).reshape(-1).data)
        else:
            digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits to be asked for by its parent; that cannot be told without /proc."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:1]
    except OSError:
        return False
    return state == ["Z"]


def _machine() -> str:
    """This machine's name, in letters that a temporary name may have."""
    return "".join(c if c.isalnum() else "." for c in platform.node())[:40]


def _wip_path(target: Path) -> Path:
    return target.parent / f"{WIP}{os.getpid()}@{_machine()}-{target.name}"


@contextlib.contextmanager
def _in_progress(path: Path) -> Iterator[None]:
    """For as long as the block lasts, this process is writing ``path``."""
    key = os.path.abspath(path)
    _being_written.add(key)
    try:
        yield
    finally:
        _being_written.discard(key)


def _is_left_behind(path: Path, writer: str) -> bool:
    """Whether nobody is writing a temporary path; a writer without a machine (an older name) is of this one."""
    pid, _, machine = writer.partition("@")
    if not pid.isdigit():
        return True
    if machine not in ("", _machine()):
        return _last_change_s(path) < time.time() - STALE_S
    if int(pid) == os.getpid():  # an earlier process may have had our id
        return os.path.abspath(path) not in _being_written
    return not _alive(int(pid))


def _last_change_s(path: Path) -> float:
    """When anything in a file or folder last changed; now, where it is vanishing."""
    try:
        return max(p.stat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()


def clean_leftovers(folder: Path) -> list[Path]:
    """Mend what killed writers left in ``folder`` (not below it); returns what was removed.

    A folder that was moved aside, and whose successor never came, goes back to its place; all else is removed. Several
    processes may clean the same folder at the same time.
    """
    removed = []
    if not folder.is_dir():
        return removed
    for path in sorted(folder.glob(f"{WIP}*")):
        writer, _, name = path.name[len(WIP) :].partition("-")
        if not _is_left_behind(path, writer):
            continue
        if name.startswith(OLD) and not (folder / name[len(OLD) :]).exists():
            with _passing_over(errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):  # another process was here first
                os.rename(path, folder / name[len(OLD) :])
                continue
        _remove(path)
        removed.append(path)
    return removed


@contextlib.contextmanager
def _passing_over(*numbers: int) -> Iterator[None]:
    """Ends the block without a word at an OSError with one of these numbers."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def _remove(path: Path) -> None:
    """Remove a file or folder that another process may be removing too."""
    while path.exists() or path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextlib.contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder in ``folder`` that vanishes with the block; a killed process's is a leftover."""
    path = _wip_path(Path(folder) / name)
    with _in_progress(path):
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with writing(path):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path, nbytes: int | None = None) -> Iterator[None]:
    """A failed write says where: an OSError that the block ends with names ``path`` where it names nothing.

    A writer that cannot close its file because the disk is full may raise something else at last: then the OSError that
    it comes from is raised.

    Args:
        nbytes: what is written takes, where that is known: told where the disk is full.
    """
    try:
        yield
    except Exception as error:
        root = root_of(error)
        if not isinstance(root, OSError) or root.errno is None:
            raise
        root.filename = root.filename or str(path)
        if nbytes is not None and not hasattr(root, "needed_bytes"):
            root.needed_bytes = nbytes
        if root is error:
            raise
        raise root from None


def _sync_below(folder: Path) -> None:
    """Flush a folder and all below it, several files at once: each waits for the disk."""
    from concurrent.futures import ThreadPoolExecutor

    found = [(Path(root), names) for root, _, names in os.walk(folder)]
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync, [root / name for root, names in found for name in names]))
    for root, _ in found:
        sync(root)


@contextlib.contextmanager
def atomic_folder(target: Path, nbytes: int | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block ends well, and vanishes when it does not.

    A folder that is already at ``target`` is replaced. ``nbytes``: what it will take, where that is known.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(target.parent)
    wip = _wip_path(target)
    with _in_progress(wip), writing(target, nbytes):
        wip.mkdir()
        try:
            yield wip
            _sync_below(wip)
            _take_place(wip, target)
            sync(target.parent)
        except BaseException:
            shutil.rmtree(wip, ignore_errors=True)
            raise


def _take_place(wip: Path, target: Path) -> None:
    """Rename a finished folder to its target, moving aside what is there, however many writers do so at once."""
    old = _wip_path(target.parent / f"{OLD}{target.name}")
    with _in_progress(old):
        while True:
            if target.exists():
                with contextlib.suppress(FileNotFoundError):  # another writer has just moved it
                    os.rename(target, old)
            with _passing_over(errno.ENOTEMPTY, errno.EEXIST):  # another writer's has just come
                os.rename(wip, target)
                break
            _remove(old)
        _remove(old)


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` when the block ends well."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    wip = _wip_path(target)
    with _in_progress(wip), writing(target):
        try:
            yield wip
            sync(wip)
            os.replace(wip, target)
            sync(target.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # what was met first is told
                wip.unlink(missing_ok=True)
            raise


def write_json(target: Path, value: object) -> None:
    """Write a JSON file for people (indented), whole or not at all."""
    with atomic_file(target) as path:
        path.write_text(json_text(value))


def json_text(value: object) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def parse_json(text: bytes | str) -> object:
    """What JSON says, read strictly: whoever reads an artefact reads it here.

    Raises:
        ValueError: it is empty, no JSON, nested too deeply, says a key twice, or holds NaN, 1e999 or endless digits.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(
            text, object_pairs_hook=_each_key_once, parse_int=_whole, parse_float=_finite, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        message = f"it is no text in UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(message) from None
    except json.JSONDecodeError as error:
        message = f"it is no JSON: {error}"
        raise ValueError(message) from None


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        message = f"it says '{next(key for key in found if keys.count(key) > 1)[:80]}' twice"
        raise ValueError(message)
    return found


def _whole(word: str) -> int:
    if len(word) > MOST_DIGITS:
        message = f"it holds a whole number of {len(word)} digits"
        raise ValueError(message)
    return int(word)


def _finite(word: str) -> float:
    number = float(word)
    return number if math.isfinite(number) else _no_number(word)


def _no_number(word: str) -> NoReturn:
    message = f"it holds {word[:40]}, which is no number in JSON"
    raise ValueError(message)


def read_json(path: Path) -> dict:
    """The JSON object that a file holds.

    Raises:
        OSError: it is not there or cannot be read. ValueError: it holds none, see :func:`parse_json`.
    """
    facts = parse_json(path.read_bytes())
    if not isinstance(facts, dict):
        raise ValueError("it holds no JSON object")
    return facts


def below(folder: Path, name: object, says: str) -> Path:
    """Where the file or folder lies that an artefact names by its place in a folder.

    Args:
        name: with ``/`` between its parts. says: who names it, for the message.

    Raises:
        ArtefactError: it would lie outside of the folder.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) and "\0" not in name else ()
    if not parts or ".." in parts or parts[0] == "/" or "\\" in name:
        message = f"{says} names '{str(name)[:80]}', which does not lie in {folder}: it was changed"
        raise ArtefactError(message)
    return folder / name


def write_signed(target: Path, facts: Mapping[str, object]) -> dict:
    """Write JSON facts with their :func:`content_digest` as ``digest``, whole or not at all; returns what was written.

    Raises:
        OSError: the disk. ValueError: a value that JSON has not.
    """
    whole = signed(facts)
    write_json(target, whole)
    return whole


def signed(facts: Mapping[str, object]) -> dict:
    """JSON facts as they will be read, with their :func:`content_digest` as ``digest``."""
    plain = json.loads(json.dumps(facts, allow_nan=False))
    return plain | {"digest": content_digest(plain)}


def read_signed(path: Path, word: str, remedy: str, *, unsigned: bool = False) -> dict:
    """What :func:`write_signed` wrote, after its digest was compared.

    Args:
        path: of the file. word: what it is, for messages. remedy: the command that makes it anew.
        unsigned: take one without a digest, as earlier releases wrote it.

    Raises:
        FileNotFoundError: there is no such file. ArtefactError: it is no JSON object. ChangedError: it was changed.
    """
    try:
        facts = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise_cause(error, path)
        message = f"{word} {path} cannot be read ({content_fault(error)}): {remedy}"
        raise ArtefactError(message) from error
    if unsigned and "digest" not in facts:
        return facts
    found = content_digest(facts)
    if facts.get("digest") != found:
        written = f"written was {str(facts['digest'])[:12]}" if "digest" in facts else "and it names none"
        message = (
            f"{word} {path} was changed since it was written: its content has digest {found[:12]}, {written}: {remedy}"
        )
        raise ChangedError(message, facts)
    return facts


def human_bytes(size: float) -> str:
    """A size for people: ``22.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def parse_bytes(text: str, option: str) -> int:
    """A size as people write it: ``"8GB"``, ``"500 MB"``, ``"1000000"``.

    Raises:
        UsageError: it does not read as a positive size.

    >>> parse_bytes("1.5GB", "--max-memory")
    1500000000
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kKMGT]?)B?\s*", text)
    try:
        size = int(float(found[1]) * {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[found[2]])
    except (TypeError, ValueError):
        size = 0
    if size <= 0:
        message = f"{option} {text}: must be a size, as 8GB or 500MB"
        raise UsageError(message)
    return size
