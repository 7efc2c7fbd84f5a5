"""Windows of a stored session, and single units, without reading the rest of it.

    reader = open_session(path)
    reader.window(start_ns, stop_ns)      equals read_session(path).spikes.window(start_ns, stop_ns)
    reader.unit_times(row)

What is unusual: which chunk a window begins in is found by bisection over the chunks' first ticks, each of which is
decoded alone. Every chunk that is read is held against its CRC-32, so that a window of a damaged chunk is an error; a
session whose arrays are a folder, as they were before, has none, and :meth:`SessionReader.verify` reads it whole.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.nouns import Spikes, UnitTable
from spiketok.storage.arrays import StoredArray
from spiketok.storage.clock import ns_from_ticks
from spiketok.storage.members import FolderMembers, ZipMembers, damaged
from spiketok.storage.remote import RemotePath, place
from spiketok.storage.store import open_stored, read_session, read_units

CACHE_BYTES = 2**26
FEW = 8  # less than this part of a chunk is few


def open_session(path: Path | RemotePath | str, *, cache_bytes: int = CACHE_BYTES) -> SessionReader:
    """Open a stored session, here or behind a URL, for reading parts of it.

    Args:
        path: the session's group.
        cache_bytes: how much of decoded chunks is kept.

    Raises:
        ArtefactError: there is no session, or one of another format or version.
    """
    return SessionReader(place(path), cache_bytes)


class SessionReader:
    """Reads windows and units of one session; safe to share between threads."""

    def __init__(self, path: Path | RemotePath, cache_bytes: int) -> None:
        attributes, self._members = open_stored(path)
        self.path, self.attributes = path, attributes
        try:
            self.id: str = attributes["id"]
            self.n_spikes: int = attributes["n_spikes"]
            self.n_units: int = attributes["n_units"]
            self.start_ns: int = attributes["start_ns"]
            self.stop_ns: int = attributes["stop_ns"]
            self._period_ns = Fraction(*attributes["tick_period_ns"])
        except (
            KeyError,
            TypeError,
            ValueError,
            ArithmeticError,
        ) as error:  # of a folder, whose attributes nothing holds
            raise damaged(path, error) from error
        cache = _Cache(cache_bytes)
        self._tick, self._unit = (_Column(self._members, name, cache) for name in ("time", "unit"))
        for column in (self._tick, self._unit):
            column.expect_rows(self.n_spikes)

    @cached_property
    def units(self) -> UnitTable:
        """The table of units."""
        return read_units(self.path, self.attributes)

    def window(self, start_ns: int, stop_ns: int) -> Spikes:
        """The spikes with ``start_ns <= time < stop_ns``: what ``read_session(path).spikes.window`` gives.

        Raises:
            ArtefactError: a chunk is missing or damaged.
        """
        low, high = self._row_at(start_ns), self._row_at(stop_ns)
        return Spikes(ns_from_ticks(self._tick.rows(low, high), self._period_ns), self._unit.rows(low, max(low, high)))

    def unit_counts(self) -> np.ndarray:
        """int64 ``[N]``: spikes of each unit in the whole session, of which none is read.

        Raises:
            ArtefactError: a chunk is missing or damaged.
        """
        return np.diff(self._offset.rows(0, self.n_units + 1)).astype(np.int64)

    def unit_times(self, row: int) -> np.ndarray:
        """int64 ns of the spikes of one unit, by its row in the table of units.

        Raises:
            UsageError: there is no such row. ArtefactError: a chunk is missing or damaged.
        """
        if not 0 <= row < self.n_units:
            message = f"unit row {row} is not in {self.id}, which has {self.n_units} units"
            raise UsageError(message)
        offset = self._offset.rows(row, row + 2)
        position = self._index.rows(int(offset[0]), int(offset[1]))
        return ns_from_ticks(self._tick.at(position), self._period_ns)

    def verify(self) -> None:
        """Read the session whole and check its digest.

        Raises:
            ArtefactError: it is damaged.
        """
        read_session(self.path)

    @cached_property
    def _offset(self) -> _Column:
        return _Column(self._members, "index_offset", self._tick.cache)

    @cached_property
    def _index(self) -> _Column:
        return _Column(self._members, "index", self._tick.cache)

    def _row_at(self, time_ns: int) -> int:
        """The first spike at or after a time."""
        # the smallest tick k with floor((2 num k + den) / (2 den)) >= time, in whole numbers of any size
        num, den = self._period_ns.numerator, self._period_ns.denominator
        tick = -((den - 2 * den * int(time_ns)) // (2 * num))
        chunk = max(0, bisect_left(range(self._tick.n_chunks), tick, key=self._tick.first) - 1)
        if chunk >= self._tick.n_chunks:
            return 0
        limits = np.iinfo(np.int64)
        inside = np.searchsorted(self._tick.chunk(chunk), min(max(tick, limits.min), limits.max))
        return chunk * self._tick.chunk_rows + int(inside)


class _Cache:
    """Decoded chunks, of which the longest unused go first."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self._held, self._lock = nbytes, 0, threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def get(self, key: tuple[str, int]) -> np.ndarray | None:
        with self._lock:
            if key in self._chunks:
                self._chunks.move_to_end(key)
            return self._chunks.get(key)

    def put(self, key: tuple[str, int], chunk: np.ndarray) -> None:
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self._held += chunk.nbytes
            while self._held > self.nbytes and len(self._chunks) > 1:
                self._held -= self._chunks.popitem(last=False)[1].nbytes


class _Column:
    """One array of the group ``spikes``, chunk by chunk."""

    def __init__(self, members: FolderMembers | ZipMembers, name: str, cache: _Cache) -> None:
        self._array, self.name, self.cache = StoredArray(members, f"spikes/{name}"), name, cache
        if len(self._array.shape) != 1:
            raise damaged(members.session, f"spikes/{name} has {len(self._array.shape)} dimensions, expected 1")
        self.n_rows, self.chunk_rows, self.n_chunks = self._array.n_rows, self._array.chunk_rows, self._array.n_chunks
        self._first: dict[int, int] = {}

    def expect_rows(self, n_rows: int) -> None:
        if self.n_rows != n_rows:
            raise damaged(self._array.members.session, f"spikes/{self.name}: {self.n_rows} rows, expected {n_rows}")

    def first(self, chunk: int) -> int:
        """The first value of a chunk: a delta filter leaves it as it is."""
        if chunk not in self._first:
            is_partial = self._array.is_partial
            self._first[chunk] = int(self._array.packed_rows(chunk, 0, 1)[0] if is_partial else self.chunk(chunk)[0])
        return self._first[chunk]

    def chunk(self, number: int) -> np.ndarray:
        """The values of a chunk, without what fills up the last one."""
        key = (self.name, number)
        values = self.cache.get(key)
        if values is None:
            values = self._array.chunk(number)
            self.cache.put(key, values)
        return values

    def rows(self, low: int, high: int) -> np.ndarray:
        """The values of the rows from ``low`` to ``high``."""
        pieces = [self._part(n, a, b) for n, a, b in self._spans(low, high)]
        return np.concatenate(pieces) if pieces else np.zeros(0, self._array.dtype)

    def _part(self, number: int, low: int, high: int) -> np.ndarray:
        """Some values of a chunk; few of them are decoded alone where the chunk is not at hand and has no filter."""
        array = self._array
        few = array.is_partial and not array.is_filtered and (high - low) * FEW <= self.chunk_rows
        if not few or self.cache.get((self.name, number)) is not None:
            return self.chunk(number)[low:high]
        return array.packed_rows(number, low, high)

    def at(self, position: np.ndarray) -> np.ndarray:
        """The values at rising positions."""
        edges = np.searchsorted(position, np.arange(self.n_chunks + 1) * self.chunk_rows)
        parts = [
            self.chunk(n)[position[edges[n] : edges[n + 1]] - n * self.chunk_rows]
            for n in np.flatnonzero(np.diff(edges)).tolist()
        ]
        return np.concatenate(parts) if parts else np.zeros(0, self._array.dtype)

    def _spans(self, low: int, high: int) -> Iterator[tuple[int, int, int]]:
        while low < high:
            number = low // self.chunk_rows
            begin = number * self.chunk_rows
            yield number, low - begin, min(high - begin, self.chunk_rows)
            low = begin + self.chunk_rows
