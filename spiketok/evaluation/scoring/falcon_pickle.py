"""Pickles of numbers and text, as FALCON's evaluator writes them, read without running anything that they name.

What is unusual: a pickle is a program. Here it can call nothing but a few stand-ins, for what numpy's own pickles call,
and each makes an array or a number of given bytes or refuses. What comes of it are dicts with names, lists, text,
numbers and arrays of these; anything else is told by its name. The stand-ins are made anew for each file, and nothing
in a file can change them.

Source: the formats of numpy 1 and 2 (``ndarray.__reduce__``, protocols 0 to 5); falcon-challenge 1.0.2, which dumps
both files (``evaluator.py``).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

DTYPE = re.compile(r"b1|[iu][1248]|f[248]|U\d{1,6}")
MOST_PARTS = 200_000  # of a tree: a pickle of a few bytes can name one part millions of times
DEEPEST = 8
PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
DAMAGE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError, KeyError),
    *(OverflowError, MemoryError),
)


class PickleFault(Exception):
    """A file is no pickle of numbers and text.

    Args:
        rule: ``"pickle"``: it cannot be read at all; ``"pickle-object"``: it holds something else. message: what.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def read_plain_pickle(path: Path) -> object:
    """What a pickle holds: dicts, lists, text, numbers and arrays of them (which cannot be written to).

    Raises:
        PickleFault: it is damaged, or holds anything else. OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    _require_small_memo(content)
    try:
        found = _Reader(io.BytesIO(content)).load()
    except DAMAGE as error:
        message = f"it is no whole pickle ({type(error).__name__}: {error})"
        raise PickleFault("pickle", message) from error
    return _Tree().plain(found, 0)


def _require_small_memo(content: bytes) -> None:
    """Raise PickleFault where a pickle's words are damaged, or where its memo would take memory of no use to it."""
    highest = n = 0
    try:
        for code, arg, _ in pickletools.genops(content):
            n += 1
            if code.name in PUTS:
                highest = max(highest, int(arg))
    except DAMAGE as error:
        message = f"it is no whole pickle ({type(error).__name__}: {error})"
        raise PickleFault("pickle", message) from error
    if highest > n:
        message = f"it is no whole pickle: it numbers {highest} parts in {n} words"
        raise PickleFault("pickle", message)


class _StandIn:
    """What a pickle may call; without attributes, so that no pickle changes it."""

    __slots__ = ("_made",)

    def __init__(self, made: Callable[..., object]) -> None:
        self._made = made

    def __call__(self, *args: object) -> object:
        return self._made(*args)

    def __setstate__(self, state: object) -> None:
        raise TypeError("a function is given a state")


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        names = {
            ("numpy", "ndarray"): _not_called,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _encode,
            ("__builtin__", "bytes"): _no_bytes,
        }
        for core in ("numpy.core", "numpy._core"):
            names |= {
                (f"{core}.multiarray", "_reconstruct"): _Array,
                (f"{core}.multiarray", "scalar"): _scalar,
                (f"{core}.numeric", "_frombuffer"): _from_buffer,
            }
        self._known = {name: _StandIn(made) for name, made in names.items()}

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._known:
            message = f"it holds '{module}.{name}', only dicts, lists, text, numbers and numpy arrays of them are read"
            raise PickleFault("pickle-object", message)
        return self._known[module, name]


class _Dtype:
    """A type of numbers or text; its state says the order of the bytes."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not DTYPE.fullmatch(name):
            message = f"it holds an array of type '{name}', only real numbers, truth values and text are read"
            raise PickleFault("pickle-object", message)
        self.name, self.order = name, "|"

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            message = f"bytes in the order '{order}'"
            raise ValueError(message)
        self.order = order

    def made(self) -> np.dtype:
        return np.dtype(self.name if self.order == "|" else self.order + self.name)


class _Array:
    """An array that gets its content later, by its state."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self.value = _filled(raw, dtype, shape, "F" if fortran is True else "C")


def _filled(raw: object, dtype: object, shape: object, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
        message = f"an array of {type(dtype).__name__}, {type(raw).__name__}, {type(shape).__name__}"
        raise TypeError(message)
    if not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > DEEPEST:
        message = f"an array of shape {shape}"
        raise ValueError(message)
    value = np.frombuffer(bytes(raw), dtype.made()) if len(raw) else np.zeros(0, dtype.made())
    return value.reshape(shape, order=order)


def _from_buffer(raw: object, dtype: object, shape: object, order: str) -> _Array:
    made = _Array()
    made.value = _filled(raw, dtype, shape, "F" if order == "F" else "C")
    return made


def _scalar(dtype: object, raw: object) -> bool | int | float | str:
    return _filled(raw, dtype, (1,), "C")[0].item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        message = f"bytes in '{encoding}'"
        raise ValueError(message)
    return text.encode(encoding)


def _no_bytes() -> bytes:
    return b""


def _not_called(*_: object) -> object:
    raise TypeError("an array is made in another way than numpy's")


class _Tree:
    """Makes plain what a pickle gave, part for part."""

    def __init__(self) -> None:
        self._left = MOST_PARTS

    def plain(self, value: object, depth: int) -> object:
        self._left -= 1
        if self._left < 0 or depth > DEEPEST:
            message = f"it has over {MOST_PARTS:,} parts, or parts in parts more than {DEEPEST} deep"
            raise PickleFault("pickle-object", message)
        kind = type(value)
        if kind is dict:
            if not all(type(key) is str for key in value):
                message = "it has a dict whose keys are not all text"
                raise PickleFault("pickle-object", message)
            return {key: self.plain(part, depth + 1) for key, part in value.items()}
        if kind in (list, tuple):
            return [self.plain(part, depth + 1) for part in value]
        if kind is _Array and value.value is not None:
            return value.value
        if kind in (str, bool, float) or (kind is int and -(2**63) <= value < 2**64):
            return value
        what = "a number beyond 64 bits" if kind is int else f"a part of type '{kind.__name__.strip('_')}'"
        message = f"it holds {what}, only dicts, lists, text, numbers and numpy arrays of them are read"
        raise PickleFault("pickle-object", message)
