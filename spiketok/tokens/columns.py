"""Named columns in one file beside a manifest: how shards and contexts are kept on disk.

An artefact is a folder of two files. ``columns.bin`` holds every column, raw little-endian values in order of name,
each at a multiple of 64 bytes; ``manifest.json`` says where each is and what it must be, and is written last. The
format is specified in ``docs/shard-format.md``.

What is unusual: no byte is believed unchecked. Whoever opens an artefact first reads all of it against its digests and
holds what indexes memory to its bounds; a stamp beside the files spares the next one that (``spiketok.tokens.stamps``).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from spiketok.errors import AbsentPluginError, ArtefactError, SpiketokError
from spiketok.storage.cached import in_use
from spiketok.storage.causes import NEWER, content_fault, raise_cause
from spiketok.storage.files import atomic_folder, content_digest, parse_json
from spiketok.storage.workspace import COLUMNS, MANIFEST
from spiketok.tokens.maps import hold, map_file
from spiketok.tokens.stamps import is_stamped, read_whole, state_of, write_stamp

ALIGNMENT = 64
PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Kind:
    """A kind of artefact: the word for it in messages, the name of its format, and the version that is read here."""

    word: str
    format: str
    version: int

    def refuse(self, folder: Path, fact: str) -> NoReturn:
        message = f"{self.word} {folder} {fact}: delete it and run 'spiketok tokenize' again"
        raise ArtefactError(message)

    def open(self, folder: Path, sound: Callable[[dict, Columns], None], *, anew: bool = False) -> tuple[dict, Columns]:
        """The manifest and the columns of an artefact, of which every byte was found right: now, or as its stamp says.

        Args:
            sound: raises a SpiketokError where the columns would lead a kernel outside of them; called with the
                manifest and the columns when the artefact is checked.
            anew: read every byte, whatever the stamp says.

        Raises:
            ArtefactError: nothing there, another format or version, or damaged, in one line.
        """
        try:
            return self._open(folder, sound, anew)
        except OSError as error:
            raise_cause(error, folder)
            raise

    def _open(self, folder: Path, sound: Callable[[dict, Columns], None], anew: bool) -> tuple[dict, Columns]:
        manifest = self._read_manifest(folder)
        with in_use(f"{folder}/{COLUMNS}", _said_bytes(manifest)):
            return self._checked(folder, manifest, sound, anew)

    def _checked(
        self, folder: Path, manifest: dict, sound: Callable[[dict, Columns], None], anew: bool
    ) -> tuple[dict, Columns]:
        files = f"{folder}/{COLUMNS}", f"{folder}/{MANIFEST}"
        state = state_of(*files)
        digest, entries = manifest.get("digest"), manifest.get("columns")
        if state and not anew and is_stamped(str(folder), state, str(digest)):
            return manifest, Columns(folder, entries, self)
        try:
            if digest != content_digest(manifest):
                self.refuse(folder, "has a damaged manifest (it does not match its own digest)")
            self._check_sizes(folder, entries)
            columns = Columns(folder, entries, self)
            wrong = columns.verify()
            if wrong:
                more = f"; {len(wrong) - 1} more" if len(wrong) > 1 else ""
                self.refuse(folder, f"is damaged ({wrong[0]}{more})")
            fault = _fault(sound, manifest, columns)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            self.refuse(folder, f"has a manifest that cannot be understood ({type(error).__name__}: {error})")
        except OSError as error:
            raise_cause(error, f"{folder}/{COLUMNS}")
            self.refuse(folder, f"has a {COLUMNS} that cannot be read ({content_fault(error)})")
        if fault:
            self.refuse(folder, f"cannot be used ({fault})")
        columns.let_go()  # mapped when something is asked of them, as those of a stamped artefact are
        if state and state == state_of(*files):
            write_stamp(str(folder), state, digest)
        return manifest, columns

    def _read_manifest(self, folder: Path) -> dict:
        """The manifest of an artefact of this kind and version; nothing else of it is checked."""
        try:
            text = read_whole(f"{folder}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if isinstance(error, FileNotFoundError):
                raise_cause(error, f"{folder}/{MANIFEST}")
            if os.path.exists(f"{folder}/{COLUMNS}"):
                self.refuse(folder, f"has lost its {MANIFEST}")
            message = f"no {self.word} at {folder} (it has no {MANIFEST}): run 'spiketok tokenize'"
            raise ArtefactError(message) from None
        except OSError as error:
            raise_cause(error, f"{folder}/{MANIFEST}")
            self.refuse(folder, f"has a {MANIFEST} that cannot be read ({content_fault(error)})")
        try:
            manifest = parse_json(text)
        except ValueError as error:
            self.refuse(folder, f"has a damaged manifest ({content_fault(error)})")
        if not isinstance(manifest, dict) or manifest.get("format") != self.format:
            self.refuse(folder, f"has a manifest that is not of a {self.word} (no format '{self.format}')")
        if manifest.get("format_version") != self.version:
            found = manifest.get("format_version")
            fact = f"has format version {found}, this spiketok reads version {self.version}"
            if isinstance(found, int):
                message = f"{self.word} {folder} {fact}: {NEWER if found > self.version else 'spiketok upgrade'}"
                raise ArtefactError(message)
            self.refuse(folder, fact)
        return manifest

    def _check_sizes(self, folder: Path, entries: Mapping[str, dict]) -> None:
        for name, entry in entries.items():
            nbytes = np.dtype(entry["dtype"]).itemsize * math.prod(entry["shape"])
            if nbytes != entry["bytes"] or entry["offset"] < 0 or min(entry["shape"], default=0) < 0:
                fact = f"says that column '{name}' has {entry['bytes']} bytes at {entry['offset']}, must be {nbytes}"
                self.refuse(folder, fact)
        try:
            size = (folder / COLUMNS).stat().st_size
        except FileNotFoundError as error:
            raise_cause(error, folder / COLUMNS)
            self.refuse(folder, f"lacks its columns (no file {COLUMNS})")
        if size != file_bytes(entries):
            self.refuse(folder, f"has a damaged {COLUMNS} ({size} bytes, must be {file_bytes(entries)})")


def _fault(sound: Callable[[dict, Columns], None], manifest: dict, columns: Columns) -> str:
    try:
        sound(manifest, columns)
    except AbsentPluginError:  # nothing is wrong with it
        raise
    except SpiketokError as error:
        return str(error)
    return ""


def _said_bytes(manifest: Mapping[str, object]) -> int:
    """The size of the columns that a manifest names, of which nothing was checked; 0 where it does not say."""
    try:
        return file_bytes(manifest["columns"])
    except (KeyError, TypeError, AttributeError):
        return 0


def file_bytes(entries: Mapping[str, dict]) -> int:
    """The size of the file that holds the columns of a manifest."""
    return max((entry["offset"] + entry["bytes"] for entry in entries.values()), default=0)


# ---- writing --------------------------------------------------------------------------------------------------------


def write_folder(target: Path, facts: Mapping[str, object], columns: Mapping[str, np.ndarray]) -> dict:
    """Write an artefact, whole or not at all; one that is there is replaced.

    Returns:
        The manifest: the facts with ``columns`` and ``digest``.
    """
    plain = _plain(columns)
    with atomic_folder(Path(target), sum(array.nbytes for array in plain.values())) as folder:
        with ThreadPoolExecutor(1) as pool:  # neither holds the interpreter: it is hashed while it is written
            entries = pool.submit(_entries, plain)
            _write(folder / COLUMNS, plain)
            manifest = _signed(facts, entries.result())
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return manifest


def manifest_of(facts: Mapping[str, object], columns: Mapping[str, np.ndarray]) -> dict:
    """The manifest that :func:`write_folder` would give, without writing anything."""
    return _signed(facts, _entries(_plain(columns)))


def _signed(facts: Mapping[str, object], entries: Mapping[str, dict]) -> dict:
    manifest = {**facts, "columns": entries}
    return manifest | {"digest": content_digest(manifest)}


def _plain(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns as they are on disk, in order of name: little-endian, in C order, bools as uint8."""
    plain = {}
    for name in sorted(columns):
        array = columns[name]
        array = array.view(np.uint8) if array.dtype == np.bool_ else array
        plain[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def _entries(plain: Mapping[str, np.ndarray]) -> dict[str, dict]:
    entries, end = {}, 0
    for name, array in plain.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        entries[name] = {
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "offset": offset,
            "bytes": array.nbytes,
            "sha256": hashlib.sha256(_bytes(array)).hexdigest(),
        }
        end = offset + array.nbytes
    return entries


def _write(file: Path, plain: Mapping[str, np.ndarray]) -> None:
    with open(file, "wb") as stream:  # tofile hides why a write failed
        for array in plain.values():
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            stream.write(_bytes(array).data)


# ---- reading --------------------------------------------------------------------------------------------------------


class Columns(Mapping[str, np.ndarray]):
    """The columns of an artefact: read-only arrays on one map, which is made when the first of them is asked for.

    Where a process has many, those that were not used for longest give up their map and make it again when they are
    asked: an array that is kept keeps the map, so what is kept for long should be a copy.

    Args:
        folder: the artefact's. entries: ``columns`` of its manifest. kind: of the artefact.

    Attributes:
        made: what was made of the columns without a copy, by name: kept for as long as the map, and gone with it.
    """

    def __init__(self, folder: Path, entries: Mapping[str, dict], kind: Kind) -> None:
        self._folder, self._entries, self._kind = folder, entries, kind
        self.made: dict[str, object] = {}
        self._open: dict[str, np.ndarray] = {}
        self._data: np.ndarray | None = None
        self.used = False

    def __getitem__(self, name: str) -> np.ndarray:
        self.used = True
        array = self._open.get(name)
        if array is None:
            array = self._open[name] = self._array(self._entries[name])
        return array

    def let_go(self) -> None:
        """Drop the map; the next column that is asked for makes it again."""
        self._open, self._data, self.made = {}, None, {}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _array(self, entry: dict) -> np.ndarray:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if entry["bytes"] == 0:  # perhaps of an empty file, which cannot be mapped
            array = np.empty(shape, dtype)
            array.flags.writeable = False
            return array
        data = self._data
        if data is None:
            try:
                data = self._data = self._mapped()
            except (EOFError, OSError) as error:
                raise_cause(error, self._folder / COLUMNS)
                self._kind.refuse(self._folder, f"cannot be mapped ({error})")
            hold(self)
        return data[entry["offset"] : entry["offset"] + entry["bytes"]].view(dtype).reshape(shape)

    def _mapped(self) -> np.ndarray:
        """The file in memory; where it was let go and came again from afar, after every byte of it was checked."""
        file, size = f"{self._folder}/{COLUMNS}", file_bytes(self._entries)
        with in_use(file, size) as came:
            if came and (wrong := self._differences()):
                os.unlink(file)
                self._kind.refuse(self._folder, f"came damaged ({wrong[0]})")
            return map_file(file, size)

    def verify(self) -> list[str]:
        """Read every byte again; what differs from the manifest, one line a column, none if all is well."""
        try:
            with in_use(f"{self._folder}/{COLUMNS}", file_bytes(self._entries)):
                return self._differences()
        except OSError as error:
            raise_cause(error, self._folder / COLUMNS)
            raise

    def _differences(self) -> list[str]:
        differences, end = [], 0
        with open(self._folder / COLUMNS, "rb") as stream:
            for name, entry in sorted(self._entries.items(), key=lambda item: (item[1]["offset"], item[1]["bytes"])):
                if any(stream.read(max(entry["offset"] - end, 0))):
                    differences.append(f"the room before column '{name}' is not empty")
                stream.seek(entry["offset"])
                found = _digest_of(stream, entry["bytes"])
                if found != entry["sha256"]:
                    differences.append(f"column '{name}' has sha256 {found[:12]}, must be {entry['sha256'][:12]}")
                end = entry["offset"] + entry["bytes"]
        return differences


def _digest_of(stream, nbytes: int) -> str:
    digest = hashlib.sha256()
    while nbytes > 0 and (piece := stream.read(min(nbytes, PIECE_BYTES))):
        digest.update(piece)
        nbytes -= len(piece)
    return digest.hexdigest()
