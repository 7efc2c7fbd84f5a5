"""Files that are whole or not there: atomic writes, digests, fingerprints.

What is written becomes visible only when whole: it is written under a temporary name in the same folder, synced, and
renamed. A temporary name starts with ``.wip-`` and carries the writer's process id, so that a later run can tell what
a killed process left behind from what a living one is writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

WIP = ".wip-"
OLD = "old-"  # behind the process id: what stood at the target, while its successor takes the place


def fingerprint(value: object) -> str:
    """16 hex digits that name a JSON-able value: same value, same name, in any process on any machine."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def canonical_json(value: object) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_file(path: Path | str) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """One digest over named arrays: names, dtypes, shapes and values, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wip_path(target: Path) -> Path:
    return target.parent / f"{WIP}{os.getpid()}-{target.name}"


def clean_leftovers(folder: Path) -> list[Path]:
    """Mend what killed writers left in ``folder`` (not below it); returns what was removed.

    A folder that was moved aside, and whose successor never came, goes back to its place; all else is removed.
    """
    removed = []
    if not folder.is_dir():
        return removed
    for path in sorted(folder.glob(f"{WIP}*")):
        pid, _, name = path.name[len(WIP) :].partition("-")
        if pid.isdigit() and int(pid) != os.getpid() and _alive(int(pid)):
            continue
        if name.startswith(OLD) and not (folder / name[len(OLD) :]).exists():
            os.rename(path, folder / name[len(OLD) :])
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path)
    return removed


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` when the block ends well, and vanishes when it does not.

    A folder that already stands at ``target`` is replaced.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    clean_leftovers(target.parent)
    wip = _wip_path(target)
    wip.mkdir()
    try:
        yield wip
        for root, _, names in os.walk(wip):
            for name in names:
                sync(Path(root) / name)
            sync(Path(root))
        if target.exists():
            old = target.parent / f"{WIP}{os.getpid()}-{OLD}{target.name}"
            os.rename(target, old)
            os.rename(wip, target)
            shutil.rmtree(old)
        else:
            os.rename(wip, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(wip, ignore_errors=True)
        raise


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` when the block ends well."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    wip = _wip_path(target)
    try:
        yield wip
        sync(wip)
        os.replace(wip, target)
        sync(target.parent)
    except BaseException:
        wip.unlink(missing_ok=True)
        raise


def write_json(target: Path, value: object) -> None:
    """Write a JSON file for people (indented), whole or not at all."""
    with atomic_file(target) as path:
        path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    return json.loads(Path(path).read_text())


def human_bytes(size: float) -> str:
    """A size for people: ``22.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
