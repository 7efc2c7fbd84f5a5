"""The decorator of every compiled loop, and the one place that decides where its machine code is kept.

Numba keeps it beside the source (``__pycache__``), else below the user's home; ``NUMBA_CACHE_DIR`` goes before both.
What is unusual: an installation that nobody may write is no error. Without a folder, or with a full disk, a loop is
compiled in each process, which is said once; what lies in the cache and is cut, of zeros, or of other types (two
processes that write one index at once can exchange their files) is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from functools import cache
from multiprocessing import parent_process
from pathlib import Path

from spiketok.notes import note_once

DIGEST_BYTES = 32
REMEDY = "set NUMBA_CACHE_DIR to a folder that can be written"

_kept_in: set[str] = set()
_not_kept: list[str] = []


def njit(**options: object) -> Callable[[Callable], Callable]:
    """``numba.njit`` with these options, its code kept for the next process where that is possible."""
    import numba
    from numba.core.dispatcher import Dispatcher

    def compiled(function: Callable) -> Callable:
        loop = numba.njit(**options)(function)
        if isinstance(loop, Dispatcher):  # under NUMBA_DISABLE_JIT it is the function itself
            _keep(loop)
        return loop

    return compiled


def cache_places() -> tuple[list[str], str]:
    """The folders in which the loops imported so far are kept, and why some are not; empty where all are."""
    return sorted(_kept_in), _not_kept[0] if _not_kept else ""


def _keep(loop: object) -> None:
    """Give a loop its cache, if a folder can be had."""
    from numba.core import config

    try:
        loop._cache = _sound_cache()(loop.py_func)
    except (RuntimeError, OSError, ValueError) as error:  # no folder can be written, or the setting is no path
        beside = Path(loop.py_func.__code__.co_filename).parent / "__pycache__"
        no_folder = f"neither {beside} nor the cache of this user's home can be written"
        _say_not_kept(no_folder if "no locator" in str(error) else " ".join(str(error).split()))
        return
    place = str(loop._cache.cache_path)
    _kept_in.add(place)
    if config.CACHE_DIR and not place.startswith(str(config.CACHE_DIR)):
        _note(f"NUMBA_CACHE_DIR={config.CACHE_DIR} is no folder that can be written: compiled loops go to {place}")


def _say_not_kept(why: str) -> None:
    _not_kept.append(why)
    _note(f"compiled loops cannot be kept ({_not_kept[0]}), so each command compiles its own: {REMEDY}")


def _note(text: str) -> None:
    if parent_process() is None:  # of many workers none speaks
        note_once(text)


@cache
def _sound_cache() -> type:
    """Numba's cache of a function, that takes nothing for machine code but what was written under the same key."""
    from numba.core.caching import FunctionCache, IndexDataCacheFile

    class SoundFile(IndexDataCacheFile):
        """The file of one overload ends in a digest of it and of its key; to numba itself that is no part of it."""

        def save(self, key, data):
            self._key = key
            super().save(key, data)

        def load(self, key):
            self._key = key
            return super().load(key)

        def _sign(self, data: bytes) -> bytes:
            return hashlib.sha256(data + repr(self._key).encode()).digest()

        def _save_data(self, name, data):
            data = self._dump(data)
            with self._open_for_write(self._data_path(name)) as stream:
                stream.write(data + self._sign(data))

        def _load_data(self, name):
            with open(self._data_path(name), "rb") as stream:
                data = stream.read()
            if self._sign(data[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
                message = f"{name} is not what was written"
                raise ValueError(message)
            return super()._load_data(name)

    class SoundCache(FunctionCache):
        def __init__(self, py_func):
            super().__init__(py_func)
            found = self._cache_file
            self._cache_file = SoundFile(found._cache_path, self._impl.filename_base, found._source_stamp)

        def load_overload(self, sig, target_context):
            try:
                return super().load_overload(sig, target_context)
            except Exception:  # noqa: BLE001 - damaged bytes raise anything, and compiling always serves
                _note(f"compiled loops in {self.cache_path} are damaged: compiled anew")
                with contextlib.suppress(OSError):
                    self._cache_file.flush()
                return None

        def save_overload(self, sig, data):
            try:
                super().save_overload(sig, data)
            except Exception as error:  # noqa: BLE001 - a disk that is full or read-only now, an index that stays damaged
                self.disable()
                _say_not_kept(f"{self.cache_path}: {error}")

    return SoundCache
