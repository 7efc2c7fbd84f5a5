"""The store: one zarr group (on-disk format 2) a session, written whole or not at all.

The format is specified in docs/store-format.md. What is unusual:

- spike times are kept on disk as ticks of the recording's clock if every one of them is exactly on it, else as
  nanoseconds, both delta-filtered integers; the reader gives the same int64 ns either way;
- a digest over the content (values, not compressed bytes) is written last and checked by every full read, because
  zarr reads a missing chunk as zeros without a word;
- no date, no random id, no path: the same session gives the same bytes.

Runs on zarr 2.18 and 3.1; this is the only module that knows the difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from spiketok import __version__
from spiketok.errors import ArtefactError, DataError
from spiketok.recording.nouns import (
    NS_PER_S,
    Column,
    Finding,
    Intervals,
    Ragged,
    Session,
    SessionInfo,
    Signal,
    Source,
    Spikes,
    UnitTable,
)
from spiketok.recording.units import plain_unit_columns
from spiketok.storage.files import PIECE_ROWS, Pieces, atomic_folder, canonical_json, sha256_arrays
from spiketok.storage.remote import RemotePath, local_copy, place

FORMAT = "spiketok-session"
VERSION = 1
ATTRIBUTES = ".zattrs"  # the file that makes a session: behind a URL it is put last
CHUNK_BYTES = 2**20
CLOCK_ROWS = 1 << 15  # looked at together: what is off the clock shows early
WRITE_THREADS = 2
MANY_SPIKES = 10**6  # so many are not copied as a whole
MAX_KEY = 200
CLOCKS_HZ = (Fraction(1_000), Fraction(10_000), Fraction(390_625, 16), Fraction(30_000), Fraction(1_000_000))


# ---- the recording's clock ------------------------------------------------------------------------------------------


def ticks_from_ns(time_ns: np.ndarray, period_ns: Fraction) -> np.ndarray | None:
    """Ticks of a clock, or None if a time is not exactly on one.

    Args:
        time_ns: int64 ``[S]``.
        period_ns: the clock's period; a tick's time is ``tick * period_ns`` rounded to the nearest ns.
    """
    num, den = period_ns.numerator, period_ns.denominator
    if time_ns.size and int(np.abs(time_ns).max()) > 2**61 // (2 * den):
        return None
    tick = (2 * den * time_ns + num) // (2 * num)
    if tick.size and int(np.abs(tick).max()) > 2**61 // (2 * num):
        return None
    return tick if np.array_equal(ns_from_ticks(tick, period_ns), time_ns) else None


def ns_from_ticks(tick: np.ndarray, period_ns: Fraction) -> np.ndarray:
    """int64 ns of ticks, rounded to the nearest (halves up), in integers only."""
    num, den = period_ns.numerator, period_ns.denominator
    return tick if num == den else (2 * num * tick + den) // (2 * den)  # as they are: twice of 146 years overflows


def find_clock(time_ns: np.ndarray, declared_hz: float | None = None) -> tuple[Fraction, np.ndarray]:
    """The coarsest clock that all times are exactly on, and their ticks; period 1 ns if there is none."""
    period_ns = find_period(time_ns, declared_hz)
    tick = ticks_from_ns(time_ns, period_ns)
    return period_ns, time_ns if tick is None else tick


def find_period(time_ns: np.ndarray, declared_hz: float | None = None) -> Fraction:
    """The period in ns of the coarsest clock that all times are exactly on; 1 if there is none."""
    clocks = set(CLOCKS_HZ)
    if declared_hz is not None and np.isfinite(declared_hz) and declared_hz > 0:
        clocks.add(Fraction(declared_hz).limit_denominator(1_000_000))
    for clock_hz in sorted(clocks):
        period_ns = NS_PER_S / clock_hz
        pieces = (time_ns[low : low + CLOCK_ROWS] for low in range(0, time_ns.size, CLOCK_ROWS))
        if all(ticks_from_ns(piece, period_ns) is not None for piece in pieces):
            return period_ns
    return Fraction(1)


# ---- zarr 2 and 3 ---------------------------------------------------------------------------------------------------


def _zarr_major() -> int:
    import zarr

    return int(zarr.__version__.split(".")[0])


def _create_group(path: Path):
    import zarr

    if _zarr_major() >= 3:
        return zarr.open_group(str(path), mode="w", zarr_format=2)
    return zarr.open_group(str(path), mode="w")


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


def _write_array(group, name: str, array: np.ndarray | Pieces, *, delta: bool = False) -> None:
    import numcodecs

    if not isinstance(array, Pieces):
        array = np.ascontiguousarray(array)
    if array.dtype.kind == "U" and array.dtype.itemsize == 0:
        array = array.astype("<U1")
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    rows = min(max(1, CHUNK_BYTES // row_bytes), max(1, array.shape[0]))
    chunks = (rows, *(max(1, n) for n in array.shape[1:]))
    filters = [numcodecs.Delta(dtype=array.dtype.str)] if delta else None  # integers only: lossy on floats
    codec = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    if _zarr_major() >= 3:
        all_chunks = {"write_empty_chunks": True}  # zarr 3 leaves out what is all zeros, zarr 2 does not
        out = group.create_array(
            name,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunks,
            filters=filters,
            compressors=codec,
            config=all_chunks,
        )
    elif isinstance(array, Pieces):
        out = group.create_dataset(
            name, shape=array.shape, dtype=array.dtype, chunks=chunks, filters=filters, compressor=codec
        )
    else:
        group.create_dataset(name, data=array, chunks=chunks, filters=filters, compressor=codec)
        return

    def write(low: int) -> None:
        out[low : low + rows] = array[low : low + rows]

    with ThreadPoolExecutor(WRITE_THREADS) as pool:  # chunk by chunk: no bytes depend on who is first
        list(pool.map(write, range(0, array.shape[0] if array.size else 0, rows)))


# ---- writing --------------------------------------------------------------------------------------------------------


def _key(name: str) -> str:
    """A name as a zarr key: everything but letters, digits, ``_`` and ``-`` percent-encoded.

    A file system takes no name of no or of more than 255 bytes: such a key is cut, and ends in ``~`` and a digest.
    """
    key = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
    return key if 0 < len(key) <= MAX_KEY else f"{key[: MAX_KEY - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _long_names(session: Session) -> dict[str, str]:
    """The names that their keys do not tell, by key."""
    tables = [session.units, session.observed, session.splits, *session.intervals.values()]
    names = [*session.intervals, *session.signals, *(name for table in tables for name in table.columns)]
    return {_key(name): name for name in names if "~" in _key(name)}


def _column_arrays(prefix: str, columns: Mapping[str, Column]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, column in columns.items():
        key = f"{prefix}/{_key(name)}"
        if isinstance(column, Ragged):
            arrays[f"{key}/value"], arrays[f"{key}/offset"] = np.asarray(column.value), column.offset
        else:
            arrays[key] = np.asarray(column)
    return arrays


def _interval_arrays(prefix: str, intervals: Intervals) -> dict[str, np.ndarray]:
    edges = {f"{prefix}/start_ns": intervals.start_ns, f"{prefix}/stop_ns": intervals.stop_ns}
    return edges | _column_arrays(f"{prefix}/columns", intervals.columns)


def _order_by_unit(unit: np.ndarray, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the spikes in order of unit (uint32 or int64 ``[S]``) and each unit's offset (int64 ``[N + 1]``)."""
    count = np.zeros(n_units, np.int64)
    for low in range(0, unit.size, PIECE_ROWS):
        count += np.bincount(unit[low : low + PIECE_ROWS], minlength=n_units)
    offset = np.concatenate([[0], np.cumsum(count)])
    if unit.size < MANY_SPIKES:
        return np.argsort(unit, kind="stable"), offset
    from spiketok.recording.merge_kernels import order_by_unit

    index = np.empty(unit.size, np.uint32 if unit.size < 2**32 else np.int64)
    order_by_unit(unit, offset[:-1].copy(), index)
    return index, offset


def _as_pieces(array: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | Pieces:
    """An array under a change of its values; a large one is changed only as it is written."""
    if array.size < MANY_SPIKES:
        return change(array)
    return Pieces(array.shape, change(array[:0]).dtype, lambda low, high: change(array[low:high]))


def _session_arrays(session: Session) -> dict[str, np.ndarray]:
    """Every array of a session by its key in the store; spikes as ns (the writer may put ticks in their place)."""
    spikes = session.spikes
    index, offset = _order_by_unit(spikes.unit, len(session.units))
    arrays = {
        "spikes/time": spikes.time_ns,
        "spikes/unit": spikes.unit,
        "spikes/index": _as_pieces(index, lambda piece: piece.astype(np.int64)),
        "spikes/index_offset": offset,
        "units/id": session.units.id,
    }
    arrays |= _column_arrays("units/columns", session.units.columns)
    arrays |= _interval_arrays("observed", session.observed)
    if session.unit_observed is not None:
        arrays["unit_observed/value"] = session.unit_observed.value
        arrays["unit_observed/offset"] = session.unit_observed.offset
    arrays |= _interval_arrays("splits", session.splits)
    for name, intervals in session.intervals.items():
        arrays |= _interval_arrays(f"intervals/{_key(name)}", intervals)
    for name, signal in session.signals.items():
        key = f"signals/{_key(name)}"
        arrays |= {f"{key}/time_ns": signal.time_ns, f"{key}/value": signal.value, f"{key}/valid": signal.valid}
    for key, array in arrays.items():
        if array.dtype.kind not in "biufU":
            message = f"{session.id}: '{key}' has dtype {array.dtype}, which the store does not hold"
            raise DataError(message)
    return arrays


def _session_attributes(session: Session, settings: Mapping[str, object]) -> dict[str, object]:
    long_names = _long_names(session)
    return ({"long_names": long_names} if long_names else {}) | {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"spiketok {__version__}",
        "id": session.id,
        "subject": session.subject,
        "start_ns": int(session.start_ns),
        "stop_ns": int(session.stop_ns),
        "observed_source": session.observed_source,
        "clock_hz": session.clock_hz,
        "source": session.source.to_dict(),
        "info": dict(session.info),
        "signals": {
            name: {"components": list(s.components), "measure": s.measure, "rate_hz": s.rate_hz}
            for name, s in session.signals.items()
        },
        "repairs": [asdict(f) for f in session.repairs],
        "notes": [asdict(f) for f in session.notes],
        "settings": dict(settings),
        "n_units": len(session.units),
        "n_spikes": len(session.spikes),
    }


def _digest(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> str:
    return hashlib.sha256(f"{sha256_arrays(arrays)}|{canonical_json(attributes)}".encode()).hexdigest()


def session_digest(session: Session, settings: Mapping[str, object], written_by: str) -> str:
    """The digest that :func:`write_session` of spiketok ``written_by`` gave this session, without writing it."""
    attributes = _session_attributes(session, settings) | {"written_by": written_by}
    return _digest(_session_arrays(session), attributes)


@contextlib.contextmanager
def session_place(target: Path | RemotePath) -> Iterator[Path]:
    """A folder of this machine to write a session to: the target, or one that is put behind its URL at the end."""
    if isinstance(target, Path):
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="spiketok-") as folder:
        yield Path(folder) / target.name
        target.upload(Path(folder) / target.name, last=ATTRIBUTES)


def write_session(session: Session, target: Path | RemotePath, settings: Mapping[str, object] | None = None) -> str:
    """Write a session as a store group, replacing one that is there.

    Args:
        session: what to write.
        target: the group's folder, here or behind a URL.
        settings: the settings of the ingest that shaped the session; recorded, and part of the digest.

    Returns:
        the content's digest.
    """
    if isinstance(target, RemotePath):
        with session_place(target) as folder:
            return write_session(session, folder, settings)
    arrays = _session_arrays(session)
    attributes = _session_attributes(session, settings or {})
    period_ns = find_period(session.spikes.time_ns, session.clock_hz)
    tick = session.spikes.time_ns
    if period_ns != 1:
        tick = _as_pieces(tick, lambda piece: ticks_from_ns(piece, period_ns))
    digest = _digest(arrays, attributes)
    rising = {"spikes/time", "spikes/index", "spikes/index_offset"}
    with atomic_folder(target) as wip, _one_blosc_thread():
        root = _create_group(wip)
        for key in sorted(arrays):
            array = tick if key == "spikes/time" else arrays[key]
            delta = key in rising or (key.endswith("_ns") and array.dtype == np.int64)
            _write_array(root, key, array, delta=delta and array.size > 0)
        root.attrs.put(attributes | {"tick_period_ns": [period_ns.numerator, period_ns.denominator], "digest": digest})
    return digest


# ---- reading --------------------------------------------------------------------------------------------------------


def read_attributes(path: Path | RemotePath) -> dict[str, object]:
    """The attributes of a session's group: one small JSON file, read without zarr.

    Raises:
        ArtefactError: there is no session, or one of another format or version.
    """
    path = place(path)
    try:
        attributes = json.loads((path / ATTRIBUTES).read_text())
    except FileNotFoundError:
        message = f"{path} holds no session: 'spiketok ingest PATH' makes one"
        raise ArtefactError(message) from None
    except (ValueError, OSError) as error:
        message = f"{path} cannot be read ({error}): remove it and ingest its source again"
        raise ArtefactError(message) from error
    if attributes.get("format") != FORMAT:
        message = f"{path} has format '{attributes.get('format')}', expected '{FORMAT}'"
        raise ArtefactError(message)
    if attributes.get("version") != VERSION:
        message = (
            f"{path} has store version {attributes.get('version')}, this spiketok reads version {VERSION}: "
            "ingest its source again"
        )
        raise ArtefactError(message)
    return attributes


def _read_arrays(group, prefix: str = "") -> dict[str, np.ndarray]:
    arrays = {f"{prefix}{name}": array[...] for name, array in group.arrays()}
    for name, child in group.groups():
        arrays |= _read_arrays(child, f"{prefix}{name}/")
    return arrays


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}


def _naming(attributes: Mapping[str, object]) -> Callable[[str], str]:
    """What gives the name that a key stands for."""
    long_names = attributes.get("long_names", {})
    return lambda key: long_names[key] if key in long_names else unquote(key)


def _columns(arrays: Mapping[str, np.ndarray], named: Callable[[str], str]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for key in arrays:
        name, _, part = key.partition("/")
        if not part:
            columns[named(name)] = arrays[key]
        elif part == "value":
            columns[named(name)] = Ragged(arrays[key], arrays[f"{name}/offset"])
    return columns


def _intervals(arrays: Mapping[str, np.ndarray], named: Callable[[str], str]) -> Intervals:
    return Intervals(arrays["start_ns"], arrays["stop_ns"], _columns(_below(arrays, "columns/"), named))


def _children(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    return sorted({key[len(prefix) :].split("/")[0] for key in arrays if key.startswith(prefix)})


def read_session(path: Path | RemotePath) -> Session:
    """Read a whole session, here or behind a URL, and check its digest.

    Raises:
        ArtefactError: other format or version, damaged, or the content is not what was written.
    """
    import zarr

    path = place(path)
    attributes = read_attributes(path)
    try:
        expected = attributes.pop("digest")
        num, den = attributes.pop("tick_period_ns")
        with local_copy(path) as folder:
            arrays = _read_arrays(zarr.open_group(str(folder), mode="r"))
        arrays["spikes/time"] = ns_from_ticks(arrays["spikes/time"], Fraction(num, den))
        found = _digest(arrays, attributes)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        message = f"{path} is damaged ({type(error).__name__}: {error}): ingest its source again"
        raise ArtefactError(message) from error
    if found != expected:
        message = f"{path} is damaged: its content has digest {found[:12]}, written was {expected[:12]}; ingest again"
        raise ArtefactError(message)
    named = _naming(attributes)
    signals = {}
    for key in _children(arrays, "signals/"):
        own, facts = _below(arrays, f"signals/{key}/"), attributes["signals"][named(key)]
        signals[named(key)] = Signal(
            own["time_ns"], own["value"], tuple(facts["components"]), facts["measure"], own["valid"], facts["rate_hz"]
        )
    unit_observed = None
    if "unit_observed/value" in arrays:
        unit_observed = Ragged(arrays["unit_observed/value"], arrays["unit_observed/offset"])
    return Session(
        id=attributes["id"],
        subject=attributes["subject"],
        start_ns=attributes["start_ns"],
        stop_ns=attributes["stop_ns"],
        units=UnitTable(arrays["units/id"], _columns(_below(arrays, "units/columns/"), named)),
        spikes=Spikes(arrays["spikes/time"], arrays["spikes/unit"]),
        observed=_intervals(_below(arrays, "observed/"), named),
        source=Source.from_dict(attributes["source"]),
        unit_observed=unit_observed,
        observed_source=attributes["observed_source"],
        intervals={
            named(key): _intervals(_below(arrays, f"intervals/{key}/"), named)
            for key in _children(arrays, "intervals/")
        },
        splits=_intervals(_below(arrays, "splits/"), named),
        signals=signals,
        clock_hz=attributes["clock_hz"],
        info=attributes["info"],
        repairs=tuple(Finding(**f) for f in attributes["repairs"]),
        notes=tuple(Finding(**f) for f in attributes["notes"]),
    )


def read_units(path: Path | RemotePath, attributes: Mapping[str, object]) -> UnitTable:
    """The table of units alone, whose values no digest vouches for.

    Args:
        path: the session's group.
        attributes: of :func:`read_attributes`.

    Raises:
        ArtefactError: it is damaged.
    """
    import zarr

    try:
        with local_copy(place(path) / "units") as folder:
            arrays = _read_arrays(zarr.open_group(str(folder), mode="r"))
        return UnitTable(arrays["id"], _columns(_below(arrays, "columns/"), _naming(attributes)))
    except (OSError, RuntimeError, ValueError, KeyError, DataError) as error:
        message = f"{path} is damaged ({type(error).__name__}: {error}): ingest its source again"
        raise ArtefactError(message) from error


def array_shapes(path: Path | RemotePath, part: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array below a part of a session's group (``"signals"``, ``"intervals/trials"`` ...).

    Read from the small files that describe the arrays, so that sizes are known before any array is read.
    """
    folder = place(path)
    for name in part.split("/"):
        folder = folder / name
    return dict(_array_shapes(folder, "")) if folder.is_dir() else {}


def _array_shapes(folder: Path | RemotePath, key: str) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
    below = {child.name: child for child in folder.iterdir()}
    if ".zarray" in below:
        try:
            about = json.loads(below[".zarray"].read_text())
            yield key, (tuple(int(n) for n in about["shape"]), np.dtype(about["dtype"]))
        except (ValueError, KeyError, TypeError) as error:
            message = f"{folder} is damaged ({type(error).__name__}: {error}): ingest its source again"
            raise ArtefactError(message) from error
        return
    for name in sorted(below):
        if not name.startswith("."):
            yield from _array_shapes(below[name], f"{key}/{name}".lstrip("/"))


def unit_spike_times(path: Path | RemotePath, row: int) -> np.ndarray:
    """int64 ns of one unit's spikes, through the unit-ordered index, without reading the other units' rows."""
    import zarr

    with local_copy(place(path)) as folder:
        group = zarr.open_group(str(folder), mode="r")
        start, stop = group["spikes/index_offset"][row : row + 2]
        num, den = read_attributes(folder)["tick_period_ns"]
        return ns_from_ticks(group["spikes/time"][...][group["spikes/index"][start:stop]], Fraction(num, den))


def session_info(session: Session) -> SessionInfo:
    """The summary of a session that plans and vocabularies work with."""
    return SessionInfo(
        id=session.id,
        subject=session.subject,
        unit_id=session.units.id,
        n_spikes=len(session.spikes),
        start_ns=session.start_ns,
        stop_ns=session.stop_ns,
        signals={name: (s.components, s.measure) for name, s in session.signals.items()},
        unit_columns=plain_unit_columns(session.units),
        n_trials=len(session.trials or ()),
    )
