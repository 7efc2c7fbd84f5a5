"""Plain arrays and tables of a folder that others wrote (npy, csv, tsv, parquet), bounded before they are read.

What is unusual: numpy allocates what the header of an npy file claims, so the header is held against the file's size
first. Pickled objects are never loaded. A table in a ``.csv`` may be divided by tabs: its first line says which.
"""

from __future__ import annotations

import csv
import os
import zipfile
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError, require
from spiketok.storage.causes import content_fault, raise_cause
from spiketok.storage.files import human_bytes
from spiketok.storage.npz import COPY, array_header

MAX_TEXT_BYTES = 2**26
BLANK = frozenset({"", "nan", "none", "null"})  # cells that state nothing
MOST_ABSENT = 10**6  # cells that rows may lack, besides as many as there are characters
LONGEST_CELL = 2**20  # characters; csv's own bound of 2**17 is met by lists of numbers in a cell


def npy_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of an npy file, of which all values are in the file.

    Args:
        path: the file. name: what a message calls it.

    Raises:
        SourceError: it cannot be read, is no npy file, holds Python objects, or claims more than it has.
    """
    try:
        with open(path, "rb") as stream:
            return array_header(stream, os.fstat(stream.fileno()).st_size, name)
    except (OSError, ValueError, EOFError) as error:
        raise_cause(error, path, SourceError)
        message = f"{name} cannot be read ({_short(error)}): {COPY}"
        raise SourceError(message) from error


def require_whole_npz(path: Path) -> None:
    """Raise SourceError where a member of an npz file claims more than it has, or is no npy file."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    array_header(stream, member.file_size, f"{path.name}: {member.filename}")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise_cause(error, path, SourceError)
        message = f"{path.name} cannot be read ({_short(error)}): {COPY}"
        raise SourceError(message) from error


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array of an npy file; see :func:`npy_header`."""
    npy_header(path, name)
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise_cause(error, path, SourceError)
        message = f"{name} cannot be read ({_short(error)}): {COPY}"
        raise SourceError(message) from error


def map_npy(path: Path, name: str) -> np.ndarray:
    """The array of an npy file as a map of it, for what is read piece by piece."""
    shape, dtype = npy_header(path, name)
    return np.load(path, allow_pickle=False, mmap_mode="r") if prod(shape) else np.zeros(shape, dtype)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


# ---- tables ---------------------------------------------------------------------------------------------------------


def read_rows(path: Path, name: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The column names and the rows of a csv or tsv file, each row a mapping of texts; a cell that lacks is absent.

    Raises:
        SourceError: it is no UTF-8, or no table.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = text.splitlines()
        csv.field_size_limit(LONGEST_CELL)
        first = lines[0] if lines else ""
        rows = csv.DictReader(lines, delimiter=next((sign for sign in "\t,;" if sign in first), ","))
        names = list(rows.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise_cause(error, path, SourceError)
        message = f"{name}: cannot be read ({content_fault(error)}): write it again as UTF-8"
        raise SourceError(message) from error
    if len(names) * len(lines) > 2 * len(text) + MOST_ABSENT:
        message = (
            f"{name}: has {len(names)} columns and {len(lines)} lines, which lack most of the cells: write it again"
        )
        raise SourceError(message)

    def each() -> Iterator[dict[str, str]]:
        try:
            for row in rows:
                yield {key: (cell or "").strip() for key, cell in row.items() if key and not isinstance(cell, list)}
        except csv.Error as error:
            message = f"{name}, line {rows.line_num + 1}: cannot be read ({_short(error)}): write it again"
            raise SourceError(message) from error

    return names, each()


def too_long(words: list[str]) -> bool:
    """Whether texts would take far more as a column, in which each is as long as the longest, than by themselves."""
    longest = max(map(len, words), default=0)
    return 4 * len(words) * longest > max(MAX_TEXT_BYTES, 16 * sum(map(len, words)))


def typed_column(words: list[str]) -> np.ndarray:
    """Texts as whole numbers, numbers (NaN where there is none) or texts."""
    stated = [word for word in words if word]
    try:
        numbers = [float(word) for word in stated]
        whole = len(stated) == len(words) and all(word.lstrip("+-").isdigit() for word in words)
        return np.array([int(word) for word in words], dtype=np.int64) if whole else _spread(words, numbers)
    except (ValueError, OverflowError):  # a text; a number beyond int64
        return np.array(words, dtype=np.str_)


def _spread(words: list[str], numbers: list[float]) -> np.ndarray:
    given = iter(numbers)
    return np.array([next(given) if word else np.nan for word in words], dtype=np.float64)


def read_table(path: Path, name: str, memory_bytes: int) -> dict[str, np.ndarray]:
    """A table by column: int64, float64, bool or str; what is none of these is left out.

    Args:
        path: csv, tsv or parquet (``.pqt``, which needs pyarrow). name: what a message calls it.
        memory_bytes: what the values of a parquet file may take.

    Raises:
        SourceError: it cannot be read. MissingExtraError: pyarrow is needed and not installed.
    """
    if path.suffix == ".pqt":
        return _read_parquet(path, name, memory_bytes)
    names, rows = read_rows(path, name)
    cells: dict[str, list[str]] = {key: [] for key in names if key}
    for row in rows:
        for key, own in cells.items():
            word = row.get(key, "")
            own.append("" if word.lower() in BLANK else word)
    return {key: _column(own) for key, own in cells.items() if not too_long(own)}


def _column(words: list[str]) -> np.ndarray:
    """As :func:`typed_column`, and truths where all are ``True`` or ``False``."""
    if words and set(words) <= {"True", "False"}:
        return np.array([word == "True" for word in words])
    return typed_column(words)


def _read_parquet(path: Path, name: str, memory_bytes: int) -> dict[str, np.ndarray]:
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # the others reserve more than a child may have
    parquet = require("pyarrow.parquet", "alf", f"reading {name} (a parquet table)")
    from pyarrow.lib import ArrowException

    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            facts = file.metadata
            claimed = sum(facts.row_group(k).total_byte_size for k in range(facts.num_row_groups))
            claimed = max(claimed, 8 * facts.num_rows * facts.num_columns)  # a repeated value is packed as one
            if claimed > memory_bytes:
                message = (
                    f"{name} unpacks to {human_bytes(claimed)}, allowed are {human_bytes(memory_bytes)}: "
                    "set SPIKETOK_READ_MEMORY=8GB, say, if you trust it"
                )
                raise SourceError(message)
            table = file.read(use_threads=False)
            names = [key for key in table.column_names if table.column_names.count(key) == 1]
            found = {key: table.column(key).to_numpy() for key in names}
    except (ArrowException, OSError, ValueError, KeyError) as error:
        raise_cause(error, path, SourceError)
        message = f"{name} cannot be read as a parquet table ({_short(error)}): {COPY}"
        raise SourceError(message) from error
    plain = {key: _as_plain(value) for key, value in found.items()}
    return {key: value for key, value in plain.items() if value is not None}


def _as_plain(value: np.ndarray) -> np.ndarray | None:
    """A column of objects as texts, or as numbers or truths where all that is stated is one; None for other objects."""
    if value.dtype.kind != "O":
        return value
    stated = [one for one in value.tolist() if one is not None and one == one]  # NaN is not itself
    if all(isinstance(one, str) for one in stated):
        if too_long(stated):
            return None
        return np.array([one if isinstance(one, str) else "" for one in value.tolist()], dtype=np.str_)
    if all(isinstance(one, int | float | bool) for one in stated):
        return np.array([np.nan if one is None else float(one) for one in value.tolist()])
    return None
