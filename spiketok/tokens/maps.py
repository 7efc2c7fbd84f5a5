"""Files in memory: mapped without a descriptor, and not more of them at once than a process may have.

What is unusual: the file is mapped by the C library's own ``mmap``. What Python maps (``mmap``, ``np.memmap``) keeps a
copy of the file's descriptor for as long as the map lives, and a process may have few: a map made here keeps none.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np

from spiketok.storage import cached
from spiketok.storage.cached import leased

# A quarter of what Linux lets one process have (vm.max_map_count, 65,530): libraries, the stacks of threads, and arrays
# that outlive the columns which they were taken from, need maps too.
MOST_MAPS = 16_384

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class _Map:
    """A file in memory, read-only and without a descriptor, for as long as an array on it lives."""

    def __init__(self, file: str, size: int) -> None:
        self._address: int | None = None
        lease = leased(file, size)  # of a file that may be let go: kept for as long as the map
        self._lease = lease[0] if lease is not None else None
        handle = os.open(file, os.O_RDONLY) if lease is None else os.dup(lease[0])
        try:
            if os.fstat(handle).st_size < size:  # reading a map past the end of its file kills the process
                message = f"fewer than {size} bytes"
                raise EOFError(message)
            address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
            if address == _FAILED:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), file)
        finally:
            os.close(handle)
        self._address, self._size = address, size
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (address, True)}

    def __del__(self, _unmap: Callable = _LIBC.munmap, _close: Callable = os.close) -> None:
        if self._address is not None:  # defaults: at exit the module's names are gone
            _unmap(self._address, self._size)
        if self._lease is not None:
            _close(self._lease)


def map_file(file: str, size: int) -> np.ndarray:
    """The first ``size`` bytes of a file, uint8, read-only: mapped for as long as the array or any view of it lives.

    Raises:
        EOFError: the file is shorter. OSError: it cannot be opened, or the process may have no more maps.
    """
    return np.asarray(_Map(file, size))


class Holder(Protocol):
    """What holds one map and can make it again. ``used`` is set whenever the map is used."""

    used: bool

    def let_go(self) -> None:
        """Drop every reference to the map."""


_held: OrderedDict[int, weakref.ref[Holder]] = OrderedDict()  # by id, in the order in which they got their maps


def hold(holder: Holder) -> None:
    """Say that ``holder`` has a map now. Beyond ``MOST_MAPS``, those that were not used for longest let go of theirs.

    One that was used since it was last looked at is passed over once: nearly the order of last use, at the price of one
    flag for each use.
    """
    key = id(holder)
    _held[key] = weakref.ref(holder, lambda _: _held.pop(key, None))
    while len(_held) > MOST_MAPS:
        oldest, reference = _held.popitem(last=False)
        other = reference()
        if other is None:
            continue
        if other.used and other is not holder:
            other.used, _held[oldest] = False, reference
        elif other is holder:
            _held[oldest] = reference
        else:
            other.let_go()


def let_go_oldest() -> bool:
    """Give back the map that was used longest ago; whether there was one."""
    while _held:
        try:
            _, reference = _held.popitem(last=False)
        except KeyError:  # another thread took the last
            return False
        if (holder := reference()) is not None:
            holder.let_go()
            return True
    return False


cached.let_go = let_go_oldest
