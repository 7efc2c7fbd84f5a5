"""The store: two files a session, its attributes and a zip of its arrays (a zarr group, on-disk format 2).

The format is specified in docs/store-format.md. What is unusual:

- spike times are kept on disk as ticks of the recording's clock if every one of them is exactly on it, else as
  nanoseconds, both delta-filtered integers; the reader gives the same int64 ns either way;
- a digest over the content (values, not compressed bytes) is written last and checked by every full read; what reads
  parts is held by a chain: the attributes by their own sha256, which covers that of the zip's directory, which holds a
  CRC-32 of every member;
- no date, no random id, no path: the same session gives the same bytes.

Sessions of before, whose arrays are a folder of many files, are read by the same code; :func:`repack` makes them two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np

from spiketok import __version__
from spiketok.errors import ArtefactError, DataError, UnknownNameError
from spiketok.recording.nouns import (
    Column,
    Finding,
    Intervals,
    Ragged,
    Session,
    SessionInfo,
    Signal,
    Source,
    Spikes,
    Stimulus,
    UnitTable,
)
from spiketok.recording.units import plain_unit_columns
from spiketok.storage.arrays import StoredArray, delta_dtype, encoded_arrays
from spiketok.storage.causes import NEWER, content_fault, raise_cause
from spiketok.storage.clock import find_period, nearest_ticks, ns_from_ticks
from spiketok.storage.files import (
    PIECE_ROWS,
    SESSION_MARKS,
    Pieces,
    atomic_folder,
    canonical_json,
    parse_json,
    sha256_arrays,
)
from spiketok.storage.locks import unless_replaced
from spiketok.storage.members import ARRAYS, FolderMembers, ZipMembers, damaged, open_members, write_zip
from spiketok.storage.remote import RemotePath, local_copy, place

FORMAT = "spiketok-session"
VERSION = 1
PACKED, _ = SESSION_MARKS
MANY_SPIKES = 10**6  # so many are not copied as a whole
MAX_KEY = 200
STIMULUS_ARRAYS = ("frames", "time_ns", "stop_ns", "frame")


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
    names = [
        *session.intervals,
        *session.signals,
        *session.stimuli,
        *(name for table in tables for name in table.columns),
    ]
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
    for name, stimulus in session.stimuli.items():
        for part in STIMULUS_ARRAYS:
            arrays[f"stimuli/{_key(name)}/{part}"] = getattr(stimulus, part)
    for key, array in arrays.items():
        if array.dtype.kind not in "biufU":
            message = f"{session.id}: '{key}' has dtype {array.dtype}, which the store does not hold"
            raise DataError(message)
    return arrays


def _session_attributes(session: Session, settings: Mapping[str, object]) -> dict[str, object]:
    long_names = _long_names(session)
    stimuli = {name: list(shape) for name, shape in _stimulus_shapes(session).items()}
    return (
        ({"long_names": long_names} if long_names else {})
        | ({"stimuli": stimuli} if stimuli else {})
        | {
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
    )


def _stimulus_shapes(session: Session) -> dict[str, tuple[int, int, int]]:
    return {name: tuple(map(int, stimulus.frames.shape)) for name, stimulus in session.stimuli.items()}


def _digest(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, object]) -> str:
    return _sha256(f"{sha256_arrays(arrays)}|{canonical_json(attributes)}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
        target.upload(Path(folder) / target.name, last=PACKED, marks=SESSION_MARKS)


def put_session(made: Path, target: Path | RemotePath) -> None:
    """Put a session that was written elsewhere on this machine in its place; one that is there is replaced."""
    with session_place(target) as folder, atomic_folder(folder) as wip:
        for file in made.iterdir():
            shutil.move(file, wip / file.name)


def write_session(session: Session, target: Path | RemotePath, settings: Mapping[str, object] | None = None) -> str:
    """Write a session as two files in a folder, replacing one that is there.

    Args:
        session: what to write.
        target: the session's folder, here or behind a URL.
        settings: the settings of the ingest that shaped the session; recorded, and part of the digest.

    Returns:
        the content's digest.
    """
    with session_place(target) as folder:
        return _write(session, _session_attributes(session, settings or {}), folder)


def _write(session: Session, attributes: Mapping[str, object], target: Path, expected: str | None = None) -> str:
    """Write a session whose digest must be the expected one, if any; what is compressed is digested beside it."""
    arrays = _session_arrays(session)
    with ThreadPoolExecutor(1) as beside, atomic_folder(target) as wip:
        digesting = beside.submit(_digest, arrays, attributes)
        period_ns = find_period(session.spikes.time_ns, session.clock_hz)
        kept = arrays
        if period_ns != 1:
            ticks = _as_pieces(session.spikes.time_ns, lambda piece: nearest_ticks(piece, period_ns))
            kept = arrays | {"spikes/time": ticks}
        directory_sha256 = write_zip(wip / ARRAYS, encoded_arrays(kept, _deltas(kept)))
        digest = digesting.result()
        if expected not in (None, digest):
            message = f"{session.id} would be written with digest {digest[:12]}, it was read with {expected[:12]}"
            raise ArtefactError(message)
        told = dict(attributes) | {
            "tick_period_ns": [period_ns.numerator, period_ns.denominator],
            "digest": digest,
            "directory_sha256": directory_sha256,
        }
        told["attributes_sha256"] = _sha256(canonical_json(told))
        (wip / PACKED).write_text(json.dumps(told, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return digest


def _deltas(arrays: Mapping[str, np.ndarray | Pieces]) -> dict[str, str]:
    """Which arrays are kept as differences, and of which dtype: integers only, floats would lose bits."""
    found = {}
    for key, array in arrays.items():
        rising = key in ("spikes/time", "spikes/index", "spikes/index_offset")
        if array.size and (rising or (key.endswith("_ns") and array.dtype == np.int64)):
            if key == "spikes/index":
                low, high = 0, array.size
            elif rising:
                low, high = int(array[:1][0]), int(array[array.size - 1 : array.size][0])
            else:
                low, high = int(array.min()), int(array.max())
            found[key] = delta_dtype(low, high)
    return found


def is_packed(path: Path | RemotePath) -> bool:
    """Whether a session is two files; else it is a folder of many, as it was before, or not there."""
    return (place(path) / PACKED).exists()


def repack(path: Path | RemotePath) -> None:
    """Write a session that is a folder of many files as two, whole or not at all; its digest stays as it is.

    A session of two files stays as it is.

    Raises:
        ArtefactError: there is no session, or it is damaged.
    """
    path = place(path)
    if is_packed(path):
        return
    attributes, session = read_attributes(path), read_session(path)
    own = {key: value for key, value in attributes.items() if key not in ("digest", "tick_period_ns")}
    with session_place(path) as folder:
        _write(session, own, folder, attributes["digest"])


# ---- reading --------------------------------------------------------------------------------------------------------


def holds_session(path: Path | RemotePath) -> bool:
    """Whether there is a session, of either layout, whole or damaged."""
    return any((path / mark).exists() for mark in SESSION_MARKS)


def read_attributes(path: Path | RemotePath) -> dict[str, object]:
    """The attributes of a session: one small JSON file.

    Raises:
        ArtefactError: there is no session, one of another format or version, or its attributes are damaged.
    """
    path = place(path)
    return unless_replaced(path / PACKED, lambda: _read_marked(path)[0])


def attributes_of(path: Path | RemotePath, session_id: str) -> dict[str, object]:
    """:func:`read_attributes` of this session; ArtefactError also where another lies in its place."""
    attributes = read_attributes(path)
    if attributes["id"] != session_id:
        raise damaged(place(path), f"it holds session '{attributes['id']}'")
    return attributes


def open_stored(path: Path | RemotePath) -> tuple[dict[str, object], FolderMembers | ZipMembers]:
    """The attributes of a session, and what its arrays are read from.

    Raises:
        ArtefactError: there is no session, one of another format or version, or it is damaged.
    """
    attributes, directory_sha256 = _read_marked(path)
    return attributes, open_members(path, directory_sha256, path)


def _read_marked(path: Path | RemotePath) -> tuple[dict[str, object], str | None]:
    """A session's attributes, and the sha256 of its zip's directory; None where its arrays are a folder of files."""
    mark, text = _marked_text(path)
    try:
        attributes = parse_json(text)
    except ValueError as error:
        message = f"{path} cannot be read ({mark}: {content_fault(error)}): ingest its source again"
        raise ArtefactError(message) from error
    if not isinstance(attributes, dict):
        raise damaged(path, f"{mark} holds no JSON object")
    if attributes.get("format") != FORMAT:
        message = f"{path} has format '{attributes.get('format')}', expected '{FORMAT}'"
        raise ArtefactError(message)
    version = attributes.get("version")
    if version != VERSION:
        is_newer = isinstance(version, int) and version > VERSION
        remedy = NEWER if is_newer else "ingest its source again"
        message = f"{path} has store version {version}, this spiketok reads version {VERSION}: {remedy}"
        raise ArtefactError(message)
    if mark != PACKED:
        return attributes, None
    written, found = attributes.pop("attributes_sha256", None), _sha256(canonical_json(attributes))
    if written != found:
        raise damaged(path, f"{mark} has sha256 {found[:12]}, written was {str(written)[:12]}")
    return attributes, str(attributes.pop("directory_sha256", None))


def _marked_text(path: Path | RemotePath) -> tuple[str, bytes]:
    """The name and the text of the file that makes a session."""
    for mark in SESSION_MARKS:
        try:
            return mark, (path / mark).read_bytes()
        except FileNotFoundError as error:
            raise_cause(error, path / mark)
        except OSError as error:
            raise_cause(error, path / mark)
            message = f"{path} cannot be read ({mark}: {content_fault(error)}): ingest its source again"
            raise ArtefactError(message) from error
    if isinstance(path, Path) and (path / ARRAYS).exists():
        raise damaged(path, f"it has lost its {PACKED}")
    message = f"{path} holds no session: 'spiketok ingest PATH' makes one"
    raise ArtefactError(message)


def _read_arrays(members: FolderMembers | ZipMembers, part: str = "") -> dict[str, np.ndarray]:
    """Every array below a part of the group, by its key there."""
    start = len(part) + 1 if part else 0
    return {key[start:]: StoredArray(members, key).read() for key in members.arrays(part)}


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
    path = place(path)
    return unless_replaced(path / PACKED, lambda: _read_session(path))


def _read_session(path: Path | RemotePath) -> Session:
    attributes, directory_sha256 = _read_marked(path)
    try:
        expected = attributes.pop("digest")
        num, den = attributes.pop("tick_period_ns")
        with local_copy(path) as folder:
            arrays = _read_arrays(open_members(folder, directory_sha256, path))
        arrays["spikes/time"] = ns_from_ticks(arrays["spikes/time"], Fraction(num, den))
        found = _digest(arrays, attributes)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, ArithmeticError, MemoryError) as error:
        if directory_sha256 is not None or not isinstance(error, MemoryError):
            raise_cause(error, path)
        raise damaged(path, error) from error
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
        stimuli={
            named(key): Stimulus(**{part: arrays[f"stimuli/{key}/{part}"] for part in STIMULUS_ARRAYS})
            for key in _children(arrays, "stimuli/")
        },
    )


def read_units(path: Path | RemotePath, attributes: Mapping[str, object]) -> UnitTable:
    """The table of units alone, whose values no digest vouches for.

    Args:
        path: the session's group.
        attributes: of :func:`read_attributes`.

    Raises:
        ArtefactError: it is damaged.
    """
    try:
        arrays = _read_arrays(open_stored(place(path))[1], "units")
        return UnitTable(arrays["id"], _columns(_below(arrays, "columns/"), _naming(attributes)))
    except (ValueError, KeyError, MemoryError, DataError) as error:
        raise damaged(path, error) from error


def read_observed(path: Path | RemotePath) -> Intervals:
    """The observed time of a session alone, for plans; no digest vouches for its values.

    Raises:
        ArtefactError: it is damaged.
    """
    try:
        arrays = _read_arrays(open_stored(place(path))[1], "observed")
        return Intervals(arrays["start_ns"], arrays["stop_ns"])
    except (ValueError, KeyError, MemoryError, DataError) as error:
        raise damaged(path, error) from error


def read_intervals(path: Path | RemotePath, attributes: Mapping[str, object], name: str) -> Intervals:
    """One table of intervals alone (``"trials"``), with its columns; no digest vouches for its values.

    Args:
        path: the session's group. attributes: of :func:`read_attributes`.

    Raises:
        UnknownNameError: the session has no such table. ArtefactError: it is damaged.
    """
    members, named, folder = _one_folder(path, attributes, "intervals", name, "table of intervals")
    try:
        return _intervals(_read_arrays(members, folder), named)
    except (ValueError, KeyError, MemoryError, DataError) as error:
        raise damaged(path, error) from error


def read_signal(path: Path | RemotePath, attributes: Mapping[str, object], name: str) -> Signal:
    """One behaviour alone; no digest vouches for its values.

    Args:
        path: the session's group. attributes: of :func:`read_attributes`.

    Raises:
        UnknownNameError: the session has no such behaviour. ArtefactError: it is damaged.
    """
    members, _, folder = _one_folder(path, attributes, "signals", name, "signal")
    try:
        own, facts = _read_arrays(members, folder), attributes["signals"][name]
        components, rate_hz = tuple(facts["components"]), facts["rate_hz"]
        return Signal(own["time_ns"], own["value"], components, facts["measure"], own["valid"], rate_hz)
    except (ValueError, KeyError, MemoryError, DataError) as error:
        raise damaged(path, error) from error


def _one_folder(
    path: Path | RemotePath, attributes: Mapping[str, object], part: str, name: str, noun: str
) -> tuple[FolderMembers | ZipMembers, Callable[[str], str], str]:
    """What a session's arrays are read from, what names its keys, and where below ``part`` the one of a name lies."""
    members, named = open_stored(place(path))[1], _naming(attributes)
    keys = {named(key): key for key in _children(dict.fromkeys(members.arrays(part)), f"{part}/")}
    if name not in keys:
        raise UnknownNameError(noun, name, keys, attributes["id"])
    return members, named, f"{part}/{keys[name]}"


def interval_names(path: Path | RemotePath, attributes: Mapping[str, object]) -> list[str]:
    """The tables of intervals that a session has, by name."""
    arrays = dict.fromkeys(open_stored(place(path))[1].arrays("intervals"))
    return sorted(map(_naming(attributes), _children(arrays, "intervals/")))


def array_shapes(path: Path | RemotePath, part: str) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array below a part of a session's group (``"signals"``, ``"intervals/trials"`` ...).

    Read from what describes the arrays, so that sizes are known before any array is read.

    Raises:
        ArtefactError: there is no session, or it is damaged.
    """
    _, members = open_stored(place(path))
    found = [StoredArray(members, key) for key in members.arrays(part)]
    return {array.key[len(part) + 1 :]: (array.shape, array.dtype) for array in found}


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
        stimuli=_stimulus_shapes(session),
    )
