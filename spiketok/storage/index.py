"""The index of a store: what selection and planning ask of every session, in one file beside the sessions.

    <store>/index.jsonl    a line with format, version and the digest of all that follows; then a line a session

What is unusual: it is never believed stale. Each entry holds a stamp of the file that makes its session (size, time of
change and inode; behind a URL size and etag, of one listing of the whole store). Where the stamps differ the session is
read anew. So a store that others write, that lost sessions, or whose index is gone is told as it is; the index only
spares the reading. Its digest is over bytes and not over what they say: that is checked in milliseconds, however many
sessions there are. The format is specified in docs/store-format.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError
from spiketok.recording.findings import Rated, rated, worth_keeping
from spiketok.recording.nouns import FLUORESCENCE, Finding, Source
from spiketok.recording.segments import observed_stretches
from spiketok.storage.causes import cause_of, content_fault
from spiketok.storage.files import SESSION_MARKS, atomic_file, canonical_json, parse_json
from spiketok.storage.members import ARRAYS
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import array_shapes, attributes_of, read_observed

INDEX = "index.jsonl"
FORMAT = "spiketok-index"
VERSION = 2
FACTS = ("digest", "id", "subject", "start_ns", "stop_ns", "n_units", "n_spikes")  # attributes taken as they are
OF_INFO = (
    "part_of",
    "session_start",
    "identifier",
    "session_id",
    "timestamps_reference_time",
)  # of what the source says of itself
CONTEXT_PARTS = ("observed", "splits", "intervals/trials", "units/columns", "signals")
SESSION_BODIES = (ARRAYS, ".zgroup")  # what lies beside the marks
UNKNOWN = [0, ""]
READ_THREADS = 8  # sessions behind a URL that are read at once
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EISDIR)

Stamp = list  # JSON-able: [size, mtime_ns, inode], or behind a URL [size, etag]


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of a store's sessions, as the store was when it was opened.

    Args:
        ids: all sessions in order, also those that cannot be read and so have no entry.
        entries: by id, ``facts`` (see :func:`facts_of`), ``sizes`` (see :func:`sizes_of`) and ``stamp``.
        read: how many sessions had to be read, because the file did not know them as they are.
    """

    ids: tuple[str, ...]
    entries: Mapping[str, dict]
    read: int


def facts_of(attributes: Mapping[str, object]) -> dict[str, object]:
    """What selection asks of a session, out of its attributes.

    Returns:
        :data:`FACTS`; ``signals``: components and measure by name; ``stimuli``, where there are any: shapes by name;
        ``session_start`` of the source, empty where it states none; ``info``: :data:`OF_INFO`, where the source has
        them; ``files``: the sha256 of each file that it was made of; ``findings``: those that some command says again;
        ``made_of``: for each step of processing the behaviour that it made and the one that it made it of, in order.
    """
    signals = {n: {"components": s["components"], "measure": s["measure"]} for n, s in attributes["signals"].items()}
    stimuli = {"stimuli": attributes["stimuli"]} if "stimuli" in attributes else {}
    return (
        {key: attributes[key] for key in FACTS}
        | stimuli
        | {
            "signals": signals,
            "session_start": attributes["source"].get("session_start", ""),
            "info": {key: attributes["info"][key] for key in OF_INFO if key in attributes["info"]},
            "files": [part.sha256 for part in Source.from_dict(attributes["source"]).files],
            "findings": [found._asdict() for found in worth_keeping(findings_of(attributes))],
            "made_of": [[step["name"], step["signal"]] for step in attributes["settings"].get("process", ())],
        }
    )


def findings_of(attributes: Mapping[str, object]) -> list[Rated]:
    """The findings of a session, out of its attributes, with their severities."""
    return rated(*([Finding(**found) for found in attributes[kind]] for kind in ("repairs", "notes")))


def sizes_of(path: Path | RemotePath, attributes: Mapping[str, object]) -> dict[str, object]:
    """What planning asks beside that.

    Returns:
        ``n_trials``; ``stretches``, start and stop in ns of each that the rule "observed" bakes; and of the session's
        context ``context_arrays`` and ``context_bytes``, an upper bound (words as int32 at least).

    Raises:
        ArtefactError: the session is damaged.
    """
    shapes = {part: array_shapes(path, part) for part in CONTEXT_PARTS}
    arrays = nbytes = 0
    for part, held in shapes.items():
        least = 1 if part == "signals" else 4
        for key, (shape, dtype) in held.items():
            if not (part == "signals" and key.startswith(f"{FLUORESCENCE}/")):
                arrays, nbytes = arrays + 1, nbytes + math.prod(shape) * max(dtype.itemsize, least)
    n_trials = shapes["intervals/trials"].get("start_ns", ((0,), None))[0][0]
    baked = observed_stretches(read_observed(path), attributes["start_ns"], attributes["stop_ns"])
    stretches = np.stack([baked.start_ns, baked.stop_ns], axis=1).tolist()
    return {"n_trials": n_trials, "stretches": stretches, "context_arrays": arrays, "context_bytes": nbytes}


def open_index(store: Path | RemotePath, told: Callable[[str], None], *, put: bool = False) -> Index:
    """The index of a store, made true: sessions that it does not know as they are now are read.

    A store on this machine gets the index written where it changed and the folder can be written. Behind a URL a
    command that reads writes nothing, but for ``put``.

    Args:
        told: called with a line where the file is damaged, or where others should know of it.
        put: write it behind a URL too.

    Raises:
        FetchError: the store's URL cannot be reached.
    """
    stamps, names = _stamps(store)
    held = _read(store, told) if INDEX in names else {}
    entries = {s: held[s] for s, stamp in stamps.items() if s in held and held[s]["stamp"] == stamp and stamp[-1] != ""}
    absent = [s for s in stamps if s not in entries]
    entries |= _read_sessions(store, absent, stamps)
    if entries != held or (INDEX not in names and entries):
        if isinstance(store, Path):
            _write_here(store, entries)
        elif put:
            (store / INDEX).write_bytes(_content(entries))
    if absent and isinstance(store, RemotePath) and not put:
        told(f"{len(absent)} of {len(stamps)} sessions were read from {store}: 'spiketok index' spares this")
    return Index(tuple(sorted(stamps)), entries, len(absent))


def session_ids(store: Path | RemotePath) -> list[str]:
    """Every session in a store, in order of id."""
    return sorted(_stamps(store)[0])


# ---- what is there --------------------------------------------------------------------------------------------------


def _stamps(store: Path | RemotePath) -> tuple[dict[str, Stamp], set[str]]:
    """The stamp of each session, and the names of the files directly in the store."""
    return _stamps_here(store) if isinstance(store, Path) else _stamps_there(store)


def _stamps_here(store: Path) -> tuple[dict[str, Stamp], set[str]]:
    stamps: dict[str, Stamp] = {}
    names, folders = _listed(store)
    for dataset in folders:
        for session in _listed(store / dataset)[1]:
            for mark in SESSION_MARKS:
                try:
                    found = os.stat(f"{store}/{dataset}/{session}/{mark}")
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError:  # it may not be looked at: whoever wants it says so
                    stamps[f"{dataset}/{session}"] = UNKNOWN
                    break
                stamps[f"{dataset}/{session}"] = [found.st_size, found.st_mtime_ns, found.st_ino]
                break
            else:  # here a session is written whole or not at all: one that lost its mark is damaged, not absent
                if any(os.path.exists(f"{store}/{dataset}/{session}/{body}") for body in SESSION_BODIES):
                    stamps[f"{dataset}/{session}"] = UNKNOWN
    return stamps, names


def _listed(folder: Path) -> tuple[set[str], list[str]]:
    """The files and the folders in a folder; temporary and hidden ones are none."""
    try:
        with os.scandir(folder) as entries:
            seen = [(e.name, os.path.isdir(e.path)) for e in entries if not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return set(), []
    return {name for name, is_dir in seen if not is_dir}, [name for name, is_dir in seen if is_dir]


def _stamps_there(store: RemotePath) -> tuple[dict[str, Stamp], set[str]]:
    stamps: dict[str, Stamp] = {}
    files = store.files()
    for mark in reversed(SESSION_MARKS):  # the first counts where a session has both
        for key, stat in files.items():
            parts = key.split("/")
            if len(parts) == 3 and parts[2] == mark and not key.startswith(".") and not parts[1].startswith("."):
                stamps["/".join(parts[:2])] = [stat.st_size, stat.stamp]
    return stamps, {key for key in files if "/" not in key}


def _read_sessions(store: Path | RemotePath, ids: Iterable[str], stamps: Mapping[str, Stamp]) -> dict[str, dict]:
    """Entries of sessions; none for one that cannot be read, which is for the command to say that wants it."""

    def read(session_id: str) -> tuple[str, dict] | None:
        path = store / session_id
        try:
            attributes = attributes_of(path, session_id)
            known = {"facts": facts_of(attributes), "sizes": sizes_of(path, attributes)}
        except (ArtefactError, KeyError, TypeError, AttributeError):
            return None
        return session_id, known | {"stamp": stamps[session_id]}

    if isinstance(store, Path):
        return dict(filter(None, map(read, ids)))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return dict(filter(None, pool.map(read, ids)))


# ---- the file -------------------------------------------------------------------------------------------------------


def _read(store: Path | RemotePath, told: Callable[[str], None]) -> dict[str, dict]:
    """The entries of the file; none, with a line, where it is damaged or of another version."""
    path = store / INDEX
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        said = parse_json(head)
        if (said["format"], said["version"]) != (FORMAT, VERSION):
            told(f"{path} has format '{said['format']}' version {said['version']}: made anew from the sessions")
            return {}
        if said["digest"] != hashlib.sha256(body).hexdigest():
            told(f"{path} is damaged (it does not match its own digest): made anew from the sessions")
            return {}
        return dict(json.loads(b"[" + b",".join(body.splitlines()) + b"]"))  # its bytes are those that were written
    except FileNotFoundError:  # taken away since it was listed
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = cause_of(error, path)
        fact = f"{cause.place}: {cause.fact}" if cause else f"{path} is damaged ({content_fault(error)})"
        told(f"{fact}: made anew from the sessions")
        return {}


def _content(entries: Mapping[str, dict]) -> bytes:
    body = "".join(f"{canonical_json([s, entries[s]])}\n" for s in sorted(entries)).encode()
    head = {"format": FORMAT, "version": VERSION, "digest": hashlib.sha256(body).hexdigest()}
    return f"{canonical_json(head)}\n".encode() + body


def _write_here(store: Path, entries: Mapping[str, dict]) -> None:
    """Write the file where that is possible: it spares time and holds nothing that the sessions do not."""
    try:
        with atomic_file(store / INDEX) as path:
            path.write_bytes(_content(entries))
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
