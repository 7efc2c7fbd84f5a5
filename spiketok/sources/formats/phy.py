"""The folder of phy and Kilosort: spikes in samples, the cluster of each, and tables of clusters.

Read by numpy and csv: spikeinterface's extractor drops the spikes of clusters that one of the tables lacks, cannot read
a table with a blank id, and takes a column from whichever table comes last.

What is unusual: the tables are reconciled. A unit is every id that has spikes or stands in a table; where tables name
the same column, ``cluster_<column>`` wins over ``cluster_info``, which phy writes when it saves and which lags behind.

Shape letters: S spikes, N units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError
from spiketok.recording.nouns import Finding
from spiketok.sources.formats.plain import BLANK, read_npy, read_rows, too_long, typed_column

INFO, GROUP = "cluster_info", "cluster_group"
NAMES = {"group": "quality"}  # as spikeinterface calls it
LONGEST_S = 2 * 24 * 3600
FAR_END, FAR_SHARE = 64, 0.1  # the last 64th of an unsigned type, with so few of all values in it
MISTYPED = "the times of spikes are whole numbers of samples there: check what wrote them"


@dataclass(frozen=True, eq=False)
class Clusters:
    """What a folder holds.

    Args:
        unit_id: int64 ``[N]``, rising. frame: int64 ``[S]``, samples, as the file has them. unit: int32 ``[S]``, rows.
        columns: str, int64 or float64 ``[N]`` by name; empty or NaN where no table says it. notes: what was found.
    """

    unit_id: np.ndarray
    frame: np.ndarray
    unit: np.ndarray
    columns: Mapping[str, np.ndarray]
    notes: tuple[Finding, ...]


def read_clusters(folder: Path, clock_hz: float) -> Clusters:
    """Read the spikes and tables of a folder.

    Args:
        folder: with ``spike_times.npy``, ``spike_clusters.npy`` or ``spike_templates.npy``, and tables.
        clock_hz: samples a second.

    Raises:
        SourceError: arrays are missing, of another type or length, or no samples of one recording.
    """
    frame = _whole(folder, "spike_times.npy")
    own = "spike_clusters.npy" if (folder / "spike_clusters.npy").is_file() else "spike_templates.npy"
    cluster = _whole(folder, own)
    if cluster.size != frame.size:
        message = f"{folder.name}: spike_times.npy has {frame.size} spikes, {own} {cluster.size}: copy both again"
        raise SourceError(message)
    if frame.size and (int(frame.max()) - int(frame.min())) / clock_hz > LONGEST_S:
        message = (
            f"{folder.name}: spike_times.npy reaches from sample {frame.min()} to {frame.max()}, over two days at "
            f"{clock_hz:g} Hz: {MISTYPED}"
        )
        raise SourceError(message)
    tables, notes = _tables(folder)
    unit_id = np.unique(np.concatenate([cluster, *(np.array(list(rows), np.int64) for rows in tables.values())]))
    columns, differ, left_out = _reconciled(tables, unit_id.tolist())
    if left_out:
        text = f"columns with texts too long for a column: {', '.join(left_out)}"
        notes.append(Finding("columns-left-out", len(left_out), text))
    if differ:
        text = f"{differ} cells of {INFO} say other than the tables of their column, which are taken"
        notes.append(Finding("sorter-tables-differ", differ, text))
    return Clusters(unit_id, frame, np.searchsorted(unit_id, cluster).astype(np.int32), columns, tuple(notes))


def _whole(folder: Path, name: str) -> np.ndarray:
    """An array of whole numbers as int64 ``[S]``; what went below zero in an unsigned type is negative again."""
    path = folder / name
    if not path.is_file():
        message = f"{folder.name}: holds no {name}, so it is no output of phy or Kilosort"
        raise SourceError(message)
    array = read_npy(path, f"{folder.name}: {name}")
    if array.size != max(array.shape, default=0) or array.dtype.kind not in "iuf":
        message = f"{folder.name}: {name} is {array.dtype} of shape {array.shape}: {MISTYPED}"
        raise SourceError(message)
    array = array.reshape(-1)
    if array.dtype.kind == "f":
        wrong = np.flatnonzero(~((array == np.rint(array)) & (np.abs(array) < 2**53)))
        if wrong.size:
            message = (
                f"{folder.name}: {name} is {array.dtype} and holds {array[wrong[0]]} in row {wrong[0]}: {MISTYPED}"
            )
            raise SourceError(message)
    if array.dtype.kind in "iu" and array.dtype.itemsize < 8:
        array = _unwrapped(array, folder.name, name)
    return array.astype(np.uint64).view(np.int64) if array.dtype.kind == "u" else array.astype(np.int64)


def _unwrapped(array: np.ndarray, folder: str, name: str) -> np.ndarray:
    """Few values at the far end of a narrow unsigned type as the negative ones that they were.

    Raises:
        SourceError: they ran over a signed type, so that what follows is negative.
    """
    info = np.iinfo(array.dtype)
    if not array.size or array.dtype.itemsize < 4:
        return array
    if array.dtype.kind == "i" and int(array.min()) < info.min // 2 and int(array.max()) > info.max // 2:
        message = (
            f"{folder}: {name} is {array.dtype} and reaches from {array.min()} to {array.max()}: the samples ran over "
            "that type: write them as int64"
        )
        raise SourceError(message)
    far = array > info.max - info.max // FAR_END if array.dtype.kind == "u" else np.zeros(array.size, np.bool_)
    if not far.any() or far.mean() > FAR_SHARE or int(array[~far].max()) > info.max // 2:
        return array
    return np.where(far, array.astype(np.int64) - info.max - 1, array.astype(np.int64))


# ---- tables ---------------------------------------------------------------------------------------------------------


def _tables(folder: Path) -> tuple[dict[str, dict[int, dict[str, str]]], list[Finding]]:
    """By table, by cluster id, its cells that are not blank; and notes on rows without an id."""
    tables: dict[str, dict[int, dict[str, str]]] = {}
    lost: list[str] = []
    twice: list[str] = []
    for path in sorted([*folder.glob("cluster_*.tsv"), *folder.glob("cluster_*.csv")]):
        rows: dict[int, dict[str, str]] = {}
        names, lines = read_rows(path, f"{folder.name}/{path.name}")
        key = next((name for name in names if name.strip().lower() in ("cluster_id", "id")), None)
        if key is None:
            lost.append(f"{path.name} (it has no column cluster_id)")
            continue
        for number, row in enumerate(lines, start=2):
            word = row.pop(key, "")
            try:
                cluster = int(word) if word.lstrip("-").isdigit() else int(_whole_number(word))
                np.int64(cluster)
            except (ValueError, OverflowError):
                lost.append(f"{path.name}, line {number} (its id is '{word}')")
                continue
            cells = {name: cell for name, cell in row.items() if cell.lower() not in BLANK}
            known = rows.get(cluster, tables.get(path.stem, {}).get(cluster, {}))
            twice += [
                f"{path.name}, line {number} ('{name}' of {cluster} is '{cell}', before it '{known[name]}')"
                for name, cell in cells.items()
                if known.get(name, cell) != cell
            ]
            rows[cluster] = known | cells
        tables[path.stem] = tables.get(path.stem, {}) | rows
    notes = []
    if twice:
        named = ", ".join(twice[:3]) + (f" and {len(twice) - 3} more" if len(twice) > 3 else "")
        notes.append(
            Finding("sorter-rows-differ", len(twice), f"cells that are stated twice, the last is taken: {named}")
        )
    if lost:
        named = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        notes.append(Finding("sorter-table-rows", len(lost), f"left out of tables of clusters: {named}"))
    return tables, notes


def _whole_number(word: str) -> float:
    """``"3.0"`` as pandas writes ids beside a blank one; ValueError for any other word."""
    number = float(word)
    if number != round(number):
        raise ValueError(word)
    return number


def _reconciled(
    tables: Mapping[str, Mapping[int, Mapping[str, str]]], unit_id: list[int]
) -> tuple[dict[str, np.ndarray], int, list[str]]:
    """The columns of all tables, how many cells of ``cluster_info`` another table contradicts, and what is left out."""
    order = sorted(tables, key=lambda name: (name != INFO, name == GROUP, name))
    cells: dict[str, dict[int, str]] = {}
    differ = 0
    for table in order:
        for cluster, row in tables[table].items():
            for name, cell in row.items():
                own = cells.setdefault(NAMES.get(name, name), {})
                differ += cluster in own and own[cluster] != cell
                own[cluster] = cell
    words = {name: [own.get(unit, "") for unit in unit_id] for name, own in cells.items()}
    left_out = [name for name, column in words.items() if too_long(column)]
    return {name: typed_column(column) for name, column in words.items() if name not in left_out}, differ, left_out
