"""Arrays in chunks of rows, as zarr 2 has them on disk: described by a JSON member, each chunk a member of its own.

What is unusual: they are encoded and decoded here with zarr's codecs and not by zarr, which takes more time than the
codecs do, looks at its descriptions anew for every window, and gives zeros for a chunk that is missing. Chunks span all
columns, so that rows are enough to find one.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from spiketok.errors import ArtefactError
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import Pieces, parse_json
from spiketok.storage.members import ARRAY, FolderMembers, ZipMembers, damaged

CHUNK_BYTES = 2**20
ENCODE_THREADS = 2
AHEAD = 4  # chunks in work at a time: what is encoded waits for its turn in the file
SMALL = 2**30  # rising values below it, and their differences, fit in four bytes
BLOCK_BYTES = 2**17  # blosc's own choice at this level, a quarter of it, takes 1.6 times as long both ways
CODEC = {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": BLOCK_BYTES}


# ---- writing --------------------------------------------------------------------------------------------------------


def encoded_arrays(arrays: Mapping[str, np.ndarray | Pieces], deltas: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The members of a group of arrays, in order of key: its groups, each array's description and its chunks.

    Args:
        arrays: by key (``"spikes/time"``).
        deltas: the dtype of the differences, of each array that is kept as those.
    """
    parts = [key.split("/")[:-1] for key in arrays]
    groups = sorted({"/".join(part[:depth]) for part in parts for depth in range(len(part) + 1)})
    yield from ((f"{group}/.zgroup".lstrip("/"), _json({"zarr_format": 2})) for group in groups)
    with _one_blosc_thread(), ThreadPoolExecutor(ENCODE_THREADS) as pool:
        for key in sorted(arrays):
            about = _describe(arrays[key], deltas.get(key))
            yield f"{key}/{ARRAY}", _json(about)
            yield from _in_order(pool, partial(_encode, key, arrays[key], about), _chunk_rows(about))


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[int], tuple[str, bytes]], items: Iterable[int]
) -> Iterator[tuple[str, bytes]]:
    """What ``work`` makes of each item, in order, a few of them at a time."""
    waiting = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) == AHEAD:
            yield waiting.popleft().result()
    yield from (one.result() for one in waiting)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _describe(array: np.ndarray | Pieces, delta: str | None) -> dict[str, object]:
    dtype = np.dtype("<U1") if array.dtype == np.dtype("U0") else array.dtype
    row_bytes = max(1, dtype.itemsize * math.prod(array.shape[1:]))
    rows = min(max(1, CHUNK_BYTES // row_bytes), max(1, array.shape[0]))
    return {
        "zarr_format": 2,
        "shape": list(array.shape),
        "chunks": [rows, *(max(1, n) for n in array.shape[1:])],
        "dtype": dtype.str,
        "fill_value": {"U": "", "b": False}.get(dtype.kind, 0),
        "order": "C",
        "dimension_separator": ".",
        "filters": [{"id": "delta", "dtype": dtype.str, "astype": delta}] if delta else None,
        "compressor": CODEC,
    }


def _chunk_rows(about: Mapping) -> range:
    return range(0, about["shape"][0] if math.prod(about["shape"]) else 0, about["chunks"][0])


def _encode(key: str, array: np.ndarray | Pieces, about: Mapping, low: int) -> tuple[str, bytes]:
    """A chunk's member; the last chunk is filled up with zeros."""
    from numcodecs import get_codec

    rows, *columns = about["chunks"]
    values = np.ascontiguousarray(array[low : low + rows], np.dtype(about["dtype"]))
    if len(values) < rows:
        values = np.concatenate([values, np.zeros((rows - len(values), *columns), values.dtype)])
    for codec in about["filters"] or ():
        values = get_codec(codec).encode(values)
    packed = get_codec(about["compressor"]).encode(values)
    return f"{key}/{'.'.join(map(str, [low // rows] + [0] * len(columns)))}", bytes(packed)


@contextlib.contextmanager
def _one_blosc_thread() -> Iterator[None]:
    """Blosc with threads orders its blocks by who finishes first; one thread makes the bytes repeatable."""
    from numcodecs import blosc

    before = blosc.use_threads
    blosc.use_threads = False
    try:
        yield
    finally:
        blosc.use_threads = before


def delta_dtype(low: int, high: int) -> str:
    """The dtype of the differences of rising int64 from ``low`` to ``high`` that may begin anew on the way."""
    return "<i4" if low >= -SMALL and high < SMALL else "<i8"


# ---- reading --------------------------------------------------------------------------------------------------------


class StoredArray:
    """One array of a group, chunk by chunk; safe to share between threads.

    Attributes:
        shape, dtype: of the array. chunk_rows, n_chunks: how its rows are divided.
        is_filtered, packed_dtype: whether a chunk has filters to undo, and the dtype of its values before.
        is_partial: some rows of a chunk can be decoded alone.
    """

    def __init__(self, members: FolderMembers | ZipMembers, key: str) -> None:
        from numcodecs import get_codec

        self.members, self.key = members, key
        try:
            about = parse_json(bytes(members.read(f"{key}/{ARRAY}")))
            self.shape, self.dtype = tuple(int(n) for n in about["shape"]), np.dtype(about["dtype"])
            rows, *columns = about["chunks"]
            if "pickle" in [one["id"] for one in (about["compressor"], *(about["filters"] or ()))]:
                raise ValueError("it is said to be a pickle, which is never read")
            self._codec = get_codec(about["compressor"])
            self._filters = [get_codec(one) for one in about["filters"] or ()]
        except ArtefactError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error
        wrong = about.get("zarr_format") != 2 or about.get("order") != "C" or self.dtype.hasobject
        if wrong or not self.shape or min(self.shape) < 0 or not isinstance(rows, int) or rows < 1:
            raise self._damaged("its description is none of an array in chunks of rows")
        if columns != [max(1, n) for n in self.shape[1:]]:
            reason = f"its chunks have columns {columns}, expected {list(self.shape[1:])}"
            raise self._damaged(reason)
        self.chunk_rows, self.n_rows = rows, self.shape[0]
        self.is_filtered = bool(self._filters)
        self.packed_dtype = np.dtype(getattr(self._filters[-1], "astype", self.dtype)) if self._filters else self.dtype
        # numcodecs 0.16 no longer takes a part out of a chunk: there the whole is decoded
        self.is_partial = "decode_partial" in dir(self._codec)
        self.n_chunks = -(-self.n_rows // rows) if math.prod(self.shape) else 0

    def read(self) -> np.ndarray:
        """All values."""
        last = (
            self.chunk(self.n_chunks - 1) if self.n_chunks else None
        )  # a size that is not true is met before its memory
        out = np.empty(self.shape, self.dtype)
        for number in range(self.n_chunks):
            low = number * self.chunk_rows
            out[low : low + self.chunk_rows] = last if number == self.n_chunks - 1 else self.chunk(number)
        return out

    def chunk(self, number: int) -> np.ndarray:
        """The values of a chunk, without what fills up the last one.

        Raises:
            ArtefactError: it is missing or damaged.
        """
        with self._decoding(number) as packed:
            values = self._codec.decode(packed)
            for codec in reversed(self._filters):
                values = codec.decode(values)
            values = np.frombuffer(values, self.dtype)
        expected = self.chunk_rows * math.prod(self.shape[1:])
        if values.size != expected:
            reason = f"{values.size} values in chunk {number}, expected {expected}"
            raise self._damaged(reason)
        return values.reshape(self.chunk_rows, *self.shape[1:])[: self.n_rows - number * self.chunk_rows]

    def packed_rows(self, number: int, low: int, high: int) -> np.ndarray:
        """Some rows of a chunk of one column before its filters are undone, where the codec takes them out alone.

        Raises:
            ArtefactError: the chunk is missing or damaged.
        """
        with self._decoding(number) as packed:
            values = np.frombuffer(self._codec.decode_partial(packed, low, high - low), self.packed_dtype)
        if values.size != high - low:
            reason = f"{values.size} values in chunk {number}, expected {high - low}"
            raise self._damaged(reason)
        return values

    @contextlib.contextmanager
    def _decoding(self, number: int) -> Iterator[bytes | memoryview]:
        """The bytes of a chunk; that they cannot be decoded is one line for the user."""
        name = ".".join(map(str, [number] + [0] * (len(self.shape) - 1)))
        packed = self.members.read(f"{self.key}/{name}")
        try:
            yield packed
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            if self.members.is_vouched:
                raise_cause(error, self.members.session)
            reason = f"chunk {number}: {type(error).__name__}: {error}"
            raise self._damaged(reason) from error

    def _damaged(self, reason: object) -> ArtefactError:
        told = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
        return damaged(self.members.session, f"{self.key}: {told}")
