"""An HDF5 file that others wrote, open for reading: every touch of h5py is in this class.

h5py raises OSError, RuntimeError, KeyError, ValueError or TypeError in odd places on a damaged file, says that a member
whose link is broken is not there, waits for ever on a pipe, and asks for as much memory as a dataset declares. Here all
of that becomes a SourceError of one line.

What all datasets of a file may take in memory is bounded by the file's size: a dataset of constant values is a thousand
times larger in memory than in the file, recordings are not.

What is unusual: links are followed here and not by the library, which looks for other files where the environment and
the working folder say, too. One that leaves the folder of the file is refused; so are values that lie elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import h5py
import numpy as np

from spiketok.errors import FetchError, SourceError
from spiketok.recording.nouns import Source
from spiketok.sources.formats.nwb.time_units import TimeUnit
from spiketok.storage.causes import LOCKLESS, Cause, cause_of, number_of, raise_cause
from spiketok.storage.files import human_bytes, parse_bytes, sha256_file

if TYPE_CHECKING:
    from spiketok.sources.formats.nwb.blocks import Blocks

AGAIN = "download or copy it again"
WHOLE = "fetch it without --stream"
HERE = "copy what it names into the file itself"
MAX_HOPS = 16  # links after links: as many as the library follows
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAP_SIGNATURE = b"GCOL\x01\x00\x00\x00"
SCAN_BYTES = 2**30  # larger files are opened without the look at their heaps, which reads them whole
MAX_FILL_BYTES = 2**24  # a constant column may be in the file as its fill value alone, but not a large one
MAX_COMPRESSION = 2000  # deflate cannot reach a factor of 1100: beyond this, chunks were never written
READ_MEMORY = "SPIKETOK_READ_MEMORY"  # the environment's word on how much the values of one file may take
FREE_BYTES = 2 * 10**8  # what any file may take
MAX_EXPANSION = 20  # and so many times its size: spike times compress by 1.5 to 5, whole files seldom by 10
VALUE_BYTES, TEXT_BYTES = 8, 80  # what one value takes at least once it is read: int64 or float64, an object of str
NEWEST_SUPERBLOCK = 3  # of HDF5 1.10 to 2.0
CHUNK_SLACK = 2**12  # a filter that would enlarge a chunk is left out: it is never much longer in the file


def physical_memory() -> int:
    """Bytes of memory in this machine; without limit where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return 2**63
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def read_memory(file_bytes: int) -> int:
    """Bytes that the values of a file of this size may take: ``SPIKETOK_READ_MEMORY``, or what suits its size."""
    stated = os.environ.get(READ_MEMORY)
    return parse_bytes(stated, READ_MEMORY) if stated else FREE_BYTES + MAX_EXPANSION * file_bytes


def endless_heap(path: Path) -> int | None:
    """The place of a heap of strings on which the HDF5 library would never return; None where all are sound.

    HDF5 (seen with 2.0) walks such a heap object by object and adds each one's size. Free space of size zero,
    as a hole of zeros in a partly written file has it, keeps it at one place for ever, and no signal reaches it there.
    """
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        heap = file.find(HEAP_SIGNATURE)
        while heap >= 0:
            (size,) = struct.unpack_from("<Q", file, heap + 8) if heap + 16 <= len(file) else (0,)
            here, stop = heap + 16, min(heap + size, len(file))
            while here + 16 <= stop:
                index, used = struct.unpack_from("<H6xQ", file, here)
                if index == 0 and used == 0:
                    return here
                here += used if index == 0 else 16 + -(-used // 8) * 8
            heap = file.find(HEAP_SIGNATURE, heap + 8)
    return None


def text_bytes(values: np.ndarray) -> int:
    """What texts take as an array of str, in which each is as long as the longest."""
    return 4 * values.size * max((len(value) for value in values.reshape(-1).tolist()), default=0)


def decoded(value: bytes | str) -> str:
    """Text of any make; bytes that are not UTF-8 stay visible as escapes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


class OutsideError(SourceError):
    """A link leaves the folder of its file."""


def open_hdf5(file: Path | BinaryIO) -> h5py.File:
    """A file open for reading, also where its file system has no locks, of which a reader alone needs none.

    Raises:
        OSError: as h5py.
    """
    try:
        return h5py.File(file, "r")
    except OSError as error:
        if "to lock file" not in str(error) or number_of(error) not in LOCKLESS:
            raise
    return h5py.File(file, "r", locking=False)


class Hdf5:
    """A file open for reading; use as a context manager.

    Args:
        path: the file, or one that is open for reading: with a ``name``, a ``size`` in bytes, and a ``failure`` that is
            an error once its bytes could not be had. Such a file is read alone: links into other files are refused.
        time_unit: what its times are, where they are no seconds.
        mends_clocks: its times may be no seconds of one clock: the rules of its dataset mend that.
        laid: where its blocks lie, where its clock begins again.

    Raises:
        SourceError: on entering, no such file, no regular file, not HDF5 or truncated; later, whatever is damaged.
    """

    def __init__(
        self,
        path: Path | str | BinaryIO,
        time_unit: TimeUnit | None = None,
        *,
        mends_clocks: bool = False,
        laid: Blocks | None = None,
    ) -> None:
        self.time_unit, self.mends_clocks, self.laid = time_unit or TimeUnit(), mends_clocks, laid
        self.stream = None if isinstance(path, Path | str) else path
        self.path = Path(path) if self.stream is None else Path(self.stream.name)
        self.name = self.path.name
        self.n_external = 0  # links into other files that were followed
        self._linked: dict[Path, Hdf5] = {}  # those files
        self._read_from: set[Path] = set()  # those of them that values came from
        self._hops = 0  # links that were followed from one name
        self._cause: Cause | None = None  # why the machine could not open it
        self._planned = 0  # bytes that all values read so far take
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Hdf5:
        self._check_start() if self.stream is not None else self._check_path()
        fault = self._open()
        if fault:
            self._refuse_to_open(fault)
        return self

    def _open(self) -> str:
        """Open the file; what h5py says if it cannot.

        The error itself ends here: its traceback keeps h5py's access list of an open file alive, and a process that
        ends with one crashes (seen with h5py 3.16).
        """
        try:
            self.root = self._stack.enter_context(open_hdf5(self.stream or self.path))
        except (*HDF5_ERRORS, FetchError) as error:
            self._cause = cause_of(error, self.path)
            return str(error) or type(error).__name__
        return ""

    def __exit__(self, *_: object) -> None:
        with self._guard("closing"):
            self._stack.close()

    def refuse(self, fact: str, remedy: str) -> NoReturn:
        """Raise SourceError: file name, fact, next step; or what the network did to an open file."""
        if self.stream is not None and self.stream.failure is not None:
            raise self.stream.failure
        message = f"{self.name}: {fact}: {remedy}"
        raise SourceError(message)

    @contextlib.contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """The one place where what h5py raises becomes a line for the user: what the machine did, or damage."""
        try:
            yield
        except HDF5_ERRORS as error:
            self._raise_cause(error)
            self.refuse(f"{doing} failed, the file is damaged ({_reason(error)})", AGAIN)

    def _raise_cause(self, error: Exception) -> None:
        """Raise what the machine did, if it did; what the network did to an open file is told by that."""
        if self.stream is None and not isinstance(error, MemoryError):  # a damaged file asks for any memory
            raise_cause(error, self.path, SourceError)

    @contextlib.contextmanager
    def _unpacking(self, dataset: h5py.Dataset) -> Iterator[None]:
        """Values are read here. A filter that is not installed is no damage; hdf5plugin brings some by its import."""
        if _missing_filters(dataset) and importlib.util.find_spec("hdf5plugin") is not None:
            importlib.import_module("hdf5plugin")
        try:
            yield
        except HDF5_ERRORS as error:
            if missing := _missing_filters(dataset):
                fact = (
                    f"{dataset.name} is packed by the HDF5 filter {' and '.join(missing)}, which is not installed here"
                )
                self.refuse(fact, "pip install hdf5plugin")
            self._raise_cause(error)
            self.refuse(f"reading {dataset.name} failed, the file is damaged ({_reason(error)})", AGAIN)

    @property
    def file_bytes(self) -> int:
        return self.path.stat().st_size if self.stream is None else self.stream.size

    def _check_start(self) -> None:
        """An open file must begin as HDF5 does; its string heaps are not looked at, that would read it whole."""
        with self._guard("reading its first bytes"):
            self.stream.seek(0)
            start = self.stream.read(len(SIGNATURE))
        if start != SIGNATURE:
            self.refuse(f"is not HDF5 (it begins with {start!r}), so it is no NWB file", "check what was fetched")

    def _check_path(self) -> None:
        try:
            status = self.path.stat()
        except (OSError, ValueError) as error:
            raise_cause(error, self.path, SourceError)
            told = "there is no such file" if isinstance(error, OSError) else f"cannot be opened ({_reason(error)})"
            message = f"{self.path}: {told}: check the path"
            raise SourceError(message) from None
        if stat.S_ISDIR(status.st_mode):
            message = f"{self.path} is a folder, expected one NWB file: 'spiketok ingest' takes folders"
            raise SourceError(message)
        if not stat.S_ISREG(status.st_mode):
            message = f"{self.path} is no regular file: copy its content into one"
            raise SourceError(message)
        try:
            with open(self.path, "rb") as stream:  # h5py takes what cannot be read for another format
                stream.read(len(SIGNATURE))
        except OSError as error:
            raise_cause(error, self.path, SourceError)
            raise
        if not h5py.is_hdf5(self.path):
            size = human_bytes(status.st_size)
            self.refuse(f"is not HDF5 ({size}, no HDF5 signature), so it is no NWB file", "check what was fetched")
        if 0 < status.st_size <= SCAN_BYTES:
            place = endless_heap(self.path)
            if place is not None:
                self.refuse(f"is damaged at byte {place} (a string heap is overwritten with zeros)", AGAIN)

    def _refuse_to_open(self, fault: str) -> NoReturn:
        short = re.search(r"truncated file: eof = (\d+), .*stored_eof = (\d+)", fault)
        if short:
            self.refuse(f"is truncated: {short[1]} bytes of {short[2]} are there", AGAIN)
        if "to lock file" in fault:
            self.refuse(f"is locked by another program ({_line(fault)})", "wait until it has been written")
        if self._cause is not None and self.stream is None:
            raise SourceError(str(self._cause))
        version = _superblock_version(self.path) if "superblock version" in fault and self.stream is None else 0
        if version > NEWEST_SUPERBLOCK:
            fact = f"has HDF5's superblock version {version}, the library here (HDF5 {h5py.version.hdf5_version}) reads"
            self.refuse(f"{fact} up to {NEWEST_SUPERBLOCK}", "pip install --upgrade h5py, or have it written as before")
        self.refuse(f"cannot be opened ({_line(fault)})", AGAIN)

    # ---- members ----

    def names(self, group: h5py.Group) -> list[str]:
        """The names of a group's members, broken links included."""
        with self._guard(f"listing {group.name}"):
            names = list(group.keys())
        odd = [name for name in names if not isinstance(name, str)]
        if odd:
            self.refuse(f"{group.name} has a member whose name is no text ({odd[0]!r}), the file is damaged", AGAIN)
        return names

    def child(self, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
        """A member, or None where there is none; a link that leads nowhere is an error, never an absence.

        Raises:
            OutsideError: a link leaves the folder of the file. SourceError: one leads nowhere, or the file is damaged.
        """
        found = where, kind, target = self._looked_up(group, name)
        self._hops = 0
        item = self._followed(group, name, *found)
        if item is None and kind is not None:
            places = reversed(target) if isinstance(target, tuple) else [target]  # an external link names its file
            to = " of file ".join(decoded(place) for place in places)
            fact = f"{where} is a link to {to}, which cannot be opened"
            self.refuse(fact, "put the linked file beside this one, or get the whole file")
        if item is not None and not isinstance(item, h5py.Group | h5py.Dataset):
            self.refuse(f"{where} is neither group nor dataset, the file is damaged", AGAIN)
        return item

    def _looked_up(self, group: h5py.Group, name: str) -> tuple[str, int | None, object]:
        """The path of a member, the kind of its link (None: there is none) and what a link says."""
        where, key = f"{(group.name or '').rstrip('/')}/{name}", name.encode("utf-8", "surrogateescape")
        with self._guard(f"looking up {where}"):
            if not group.id.links.exists(key):
                return where, None, None
            kind = group.id.links.get_info(key).type
            if kind not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT, h5py.h5l.TYPE_EXTERNAL):
                self.refuse(f"{where} is a link of kind {kind}, which only what wrote it can follow", HERE)
            return where, kind, None if kind == h5py.h5l.TYPE_HARD else group.id.links.get_val(key)

    def _followed(self, group: h5py.Group, name: str, where: str, kind: int | None, target: object) -> object:
        """What a name that was looked up leads to, over however many links; None where that is nothing."""
        if kind is None:
            return None
        if kind == h5py.h5l.TYPE_HARD:
            with self._guard(f"opening {where}"):
                return group[name]
        self._hops += 1
        if self._hops > MAX_HOPS:
            return None
        path = decoded(target if kind == h5py.h5l.TYPE_SOFT else target[1])
        if kind == h5py.h5l.TYPE_EXTERNAL:
            item = self._root_of(where, group, decoded(target[0]))
        else:
            with self._guard(f"following {where}"):
                item = group.file["/"] if path.startswith("/") else group
        for part in path.split("/"):
            if part not in ("", "."):
                item = (
                    self._followed(item, part, *self._looked_up(item, part)) if isinstance(item, h5py.Group) else None
                )
        return item

    def _root_of(self, where: str, group: h5py.Group, name: str) -> h5py.Group | None:
        """The root of another file of the folder, which a link names; None where there is none."""
        if self.stream is not None:
            self.refuse(f"{where} is a link into another file, which is not at hand", WHOLE)
        with self._guard(f"following {where}"):
            near = Path(group.file.filename).parent
        try:
            folder, place = self.path.resolve().parent, (near / name).resolve()
            is_there = place.exists()
        except (OSError, RuntimeError, ValueError):  # a name that no file can have, or links of the disk in a circle
            return None
        if folder not in place.parents:
            message = f"{self.name}: {where} is a link into {name}, which is outside of the file's folder: {HERE}"
            raise OutsideError(message)
        if not is_there:
            return None
        if not place.is_file():
            self.refuse(f"{where} is a link into {name}, which is no regular file", AGAIN)
        self.n_external += 1
        if place == self.path.resolve():
            return self.root["/"]
        if place not in self._linked:
            self._linked[place] = self._stack.enter_context(Hdf5(place))
        return self._linked[place].root["/"]

    def linked_sources(self) -> tuple[Source, ...]:
        """The other files that values were read from: their paths from the folder of this one, and digests."""
        folder = self.path.resolve().parent
        found = ((place.relative_to(folder).as_posix(), place) for place in self._read_from)
        return tuple(Source(name, sha256_file(place), place.stat().st_size) for name, place in sorted(found))

    def group(self, group: h5py.Group, *names: str) -> h5py.Group | None:
        """A group one or more levels below, or None."""
        for name in names:
            item = self.child(group, name)
            if item is None:
                return None
            if not isinstance(item, h5py.Group):
                self.refuse(f"{item.name} is a dataset, expected a group, the file is damaged", AGAIN)
            group = item
        return group

    def dataset(self, group: h5py.Group, name: str) -> h5py.Dataset | None:
        """A member that is a dataset, or None."""
        item = self.child(group, name)
        if item is not None and not isinstance(item, h5py.Dataset):
            self.refuse(f"{item.name} is a group, expected a dataset, the file is damaged", AGAIN)
        return item

    def identity(self, group: h5py.Group) -> tuple[int, int]:
        """What tells one group from another, whatever links lead to it."""
        with self._guard(f"looking at {group.name}"):
            info = h5py.h5o.get_info(group.id)
            return info.fileno, info.addr

    # ---- attributes ----

    def attr(self, item: h5py.Group | h5py.Dataset, name: str) -> object:
        """An attribute, or None where there is none."""
        with self._guard(f"reading attribute '{name}' of {item.name}"):
            return item.attrs.get(name)

    def text_attr(self, item: h5py.Group | h5py.Dataset, name: str) -> str:
        """An attribute that is a text; empty where it is absent or something else."""
        value = self.attr(item, name)
        return decoded(value) if isinstance(value, bytes | str) else ""

    def number_attr(self, item: h5py.Group | h5py.Dataset, name: str) -> float | None:
        """An attribute that is one number; None where it is absent or something else."""
        value = self.attr(item, name)
        if value is None or isinstance(value, h5py.Empty):
            return None
        number = np.asarray(value).reshape(-1)
        return float(number[0]) if number.size == 1 and number.dtype.kind in "iuf" else None

    def type_name(self, item: h5py.Group | h5py.Dataset) -> str:
        """The neurodata type, as ``"TimeSeries"``."""
        return self.text_attr(item, "neurodata_type")

    def follow(self, item: h5py.Group | h5py.Dataset, attribute: str) -> h5py.Group | h5py.Dataset | None:
        """What an attribute that is an object reference points at, or None."""
        reference = self.attr(item, attribute)
        if not isinstance(reference, h5py.Reference) or not reference:
            return None
        with self._guard(f"following '{attribute}' of {item.name}"):
            target = item.file[reference]
            named = isinstance(target.name, str)
        if not named:
            self.refuse(f"'{attribute}' of {item.name} points at nothing that has a name, the file is damaged", AGAIN)
        return target

    # ---- values ----

    def shape(self, dataset: h5py.Dataset) -> tuple[int, ...]:
        """The declared shape; ``(0,)`` for a dataset without any."""
        with self._guard(f"reading the shape of {dataset.name}"):
            return (0,) if dataset.shape is None else tuple(dataset.shape)

    def dtype(self, dataset: h5py.Dataset) -> np.dtype:
        """The type of the values."""
        with self._guard(f"reading the type of {dataset.name}"):
            return dataset.dtype

    def array(self, dataset: h5py.Dataset, *, stored: bool = False, narrow: bool = True) -> np.ndarray:
        """All values of a dataset.

        Args:
            dataset: what to read.
            stored: the values must be in the file: fill values in place of what was never written are an error.
                Without it they are one only in masses.
            narrow: texts are to become an array of str, in which each takes as much as the longest.
        """
        shape, dtype = self.shape(dataset), self.dtype(dataset)
        size = math.prod(shape)
        if size == 0:
            return np.zeros(shape, dtype)
        self._check_stored(dataset, size * dtype.itemsize, stored=stored)
        is_text = h5py.check_string_dtype(dtype) is not None
        each = TEXT_BYTES + 5 * dtype.itemsize if is_text else max(VALUE_BYTES, dtype.itemsize)
        self.plan(dataset, max(size * each, self._chunk_bytes(dataset)))
        with self._unpacking(dataset):
            values = np.asarray(dataset[()])
        if is_text and narrow:
            self.plan(dataset, text_bytes(values))
        return values

    def blocks(self, dataset: h5py.Dataset, nbytes: int) -> Iterator[tuple[int, np.ndarray]]:
        """All values of a dataset in turn, as (first row, rows of at most ``nbytes`` together); at least one row each.

        Nothing of it may be in the file as a fill value alone.
        """
        shape, dtype = self.shape(dataset), self.dtype(dataset)
        if not math.prod(shape):
            return
        self._check_stored(dataset, math.prod(shape) * dtype.itemsize, stored=True)
        n_rows = max(1, nbytes // max(1, dtype.itemsize * math.prod(shape[1:])))
        row_bytes = math.prod(shape[1:]) * max(VALUE_BYTES, dtype.itemsize)
        self.plan(dataset, max(min(n_rows, shape[0]) * row_bytes, self._chunk_bytes(dataset)))
        for start in range(0, shape[0], n_rows):
            with self._unpacking(dataset):
                rows = np.asarray(dataset[start : start + n_rows])
            yield start, rows

    def _check_stored(self, dataset: h5py.Dataset, declared: int, *, stored: bool) -> None:
        """Refuse a dataset that declares more than this machine can hold, or values that were never written."""
        memory = physical_memory()
        if declared > memory:
            own = human_bytes(self.file_bytes)
            fact = f"{dataset.name} declares {human_bytes(declared)}, the file has {own}, this machine's memory"
            self.refuse(f"{fact} {human_bytes(memory)}", "get a whole file, or use a machine with more memory")
        with self._guard(f"reading {dataset.name}"):
            plist = dataset.id.get_create_plist()
            place = values_elsewhere(plist)
            on_disk = dataset.id.get_storage_size()
            if self._linked and (file := Path(dataset.file.filename)) in self._linked:
                self._read_from.add(file)
        if place:
            self.refuse(f"the values of {dataset.name} lie {place}, where no digest covers them", HERE)
        if declared > max(MAX_COMPRESSION * on_disk, 0 if stored else MAX_FILL_BYTES):
            fact = f"{dataset.name} declares {human_bytes(declared)} and stores {human_bytes(on_disk)}"
            self.refuse(f"{fact}, the rest was never written", AGAIN)

    def _chunk_bytes(self, dataset: h5py.Dataset) -> int:
        """What the library takes to unpack one chunk; 0 where the values are not packed."""
        with self._guard(f"reading the layout of {dataset.name}"):
            if dataset.chunks is None or not dataset.id.get_create_plist().get_nfilters():
                return 0
            whole, longest = math.prod(dataset.chunks) * dataset.dtype.itemsize, [0]
            dataset.id.chunk_iter(lambda chunk: longest.append(max(longest.pop(), chunk.size)))
        if longest[0] > whole + max(CHUNK_SLACK, whole // 8):
            fact = f"a chunk of {dataset.name} has {human_bytes(longest[0])} in the file, declared {human_bytes(whole)}"
            self.refuse(f"{fact}, the file is damaged", AGAIN)
        return whole

    def plan(self, dataset: h5py.Dataset, nbytes: int) -> None:
        """Count what values take in memory, before they are there; refuse where that is more than the file may."""
        self._planned += nbytes
        size = self.file_bytes + sum(linked.file_bytes for linked in self._linked.values())
        most = read_memory(size)
        if self._planned > most:
            fact = (
                f"with {dataset.name} of shape {self.shape(dataset)} its values take {human_bytes(self._planned)} of "
                f"memory, allowed are {human_bytes(most)} for a file of {human_bytes(size)}"
            )
            self.refuse(fact, f"set {READ_MEMORY}={human_bytes(2 * self._planned).replace(' ', '')} if you trust it")

    def reference_names(self, dataset: h5py.Dataset) -> list[str]:
        """The last part of the name of each object that a dataset of object references points at."""
        references = self.array(dataset).reshape(-1)
        with self._guard(f"following {dataset.name}"):
            file = dataset.file
            return [file[r].name.split("/")[-1] if r else "" for r in references]


def values_elsewhere(made: h5py.h5p.PropDCID) -> str:
    """Where the values of a dataset lie, by its creation properties, if not in its own file; else empty.

    The library looks for such files in the folder of the file, in the working folder, and where
    HDF5_EXTFILE_PREFIX and HDF5_VDS_PREFIX say; for virtual ones that it does not find it gives fill values.
    """
    if n_files := made.get_external_count():
        return f"outside of HDF5 in {_shown(decoded(made.get_external(0)[0]), n_files)}"
    if made.get_layout() == h5py.h5d.VIRTUAL:
        n_files = made.get_virtual_count()
        return f"in other datasets, of {_shown(made.get_virtual_filename(0), n_files)}" if n_files else "nowhere"
    return ""


def _shown(first: str, n_files: int) -> str:
    return f"{first} and {n_files - 1} more" if n_files > 1 else first


def require_alone(file: h5py.File, name: str) -> None:
    """Refuse a file, open for whoever reads it without this class, that names any other file.

    Raises:
        SourceError: a link leads into another file, or values lie there.
    """
    found: list[str] = []

    def of_link(path: bytes, info: object) -> bool | None:
        if info.type not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
            found.append(f"/{decoded(path)} is a link into another file")
        return True if found else None

    def of_object(path: bytes) -> bool | None:
        item = h5py.h5o.open(file.id, path)
        if isinstance(item, h5py.h5d.DatasetID) and (place := values_elsewhere(item.get_create_plist())):
            found.append(f"the values of /{decoded(path)} lie {place}")
        return True if found else None

    try:
        file.id.links.visit(of_link, info=True)
        h5py.h5o.visit(file.id, of_object)
    except HDF5_ERRORS as error:
        message = f"{name}: listing it failed, the file is damaged ({_reason(error)}): {AGAIN}"
        raise SourceError(message) from error
    if found:
        message = f"{name}: {found[0]}, which the rules of its dataset do not follow: {HERE}"
        raise SourceError(message)


def _missing_filters(dataset: h5py.Dataset) -> list[str]:
    """The filters of a dataset that HDF5 does not find here, as ``"32026 (blosc2)"``; none of a damaged one."""
    try:
        made = dataset.id.get_create_plist()
        filters = [made.get_filter(k) for k in range(made.get_nfilters())]
        return [f"{number} ({decoded(name)})" for number, _, _, name in filters if not h5py.h5z.filter_avail(number)]
    except HDF5_ERRORS:
        return []


def _superblock_version(path: Path) -> int:
    """The version of the superblock, which is at the file's start or behind a block of the user's; 0 without."""
    with open(path, "rb") as stream:
        for place in (0, *(512 << k for k in range(20))):
            stream.seek(place)
            found = stream.read(len(SIGNATURE) + 1)
            if found[:-1] == SIGNATURE:
                return found[-1]
    return 0


def _reason(error: Exception) -> str:
    """What a library says, on one line."""
    return _line(str(error)) or type(error).__name__


def _line(text: str) -> str:
    return " ".join(text.strip("'\"").split())[:160]
