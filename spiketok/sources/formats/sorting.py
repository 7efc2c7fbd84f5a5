"""Sorter output (phy, Kilosort, ...): a folder or file on disk becomes one :class:`~spiketok.recording.nouns.Session`.

Read by spikeinterface's extractors, but for phy and Kilosort (see ``phy``), ALF (``alf``) and suite2p (``suite2p``),
the last of which finds imaged units without spikes. What is unusual: the ``params.py`` of phy is a program; it is not
run, and anything but plain assignments of numbers and texts is refused.

A spike in sample k is at ``start_s + k / sampling frequency`` seconds, in integers where the frequency is a fraction
with small terms. Sorter output does not say how long the recording was: observed is the time from its start to the last
spike.
"""

from __future__ import annotations

import ast
import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError, UnknownNameError, UsageError, require
from spiketok.recording.intervals import holds, inhabited
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Session, Source, Spikes, UnitTable
from spiketok.recording.outside import filler_note, fillers
from spiketok.sources.formats.alf import SUFFIXES as ALF_SUFFIXES
from spiketok.sources.formats.alf import parts_of, read_alf
from spiketok.sources.formats.nwb import kernels
from spiketok.sources.formats.nwb.clocks import HOUR_NS, LEAST_RATE_HZ, SORTED_AS_ONE, TELLING, units_again
from spiketok.sources.formats.phy import read_clusters
from spiketok.sources.formats.plain import require_whole_npz
from spiketok.sources.formats.suite2p import READ as SUITE2P_FILES
from spiketok.sources.formats.suite2p import read_suite2p
from spiketok.storage.causes import content_fault, raise_cause
from spiketok.storage.clock import ns_from_ticks

READER = {"reader": "sorter", "reader_version": 2}
# the name in spikeinterface and whether the output is a folder or one file; only those that tell their sampling
# frequency themselves
SORTERS: dict[str, str] = {
    "alf": "folder",
    "cellexplorer": "file",
    "combinato": "folder",
    "hdsort": "file",
    "herdingspikes": "file",
    "kilosort": "folder",
    "klusta": "folder",
    "npz": "file",
    "phy": "folder",
    "spykingcircus": "folder",
    "suite2p": "folder",
    "tridesclous": "folder",
    "waveclus": "file",
    "yass": "folder",
}
NEEDED = dict.fromkeys(("phy", "kilosort"), ("params.py", "spike_times.npy"))
# folders that hold far more than what is read: which files a session is made of, and its digest is over
READ_OF: dict[str, Callable[[str], bool]] = {
    "alf": lambda name: name.endswith(ALF_SUFFIXES) and not name.startswith("raw_"),
    "suite2p": lambda name: name.rpartition("/")[2] in SUITE2P_FILES,
}
EVERYTHING = {"keep_good_only": False, "remove_empty_units": False}  # nobody is left out here: --quality does that
DEEP = ("", "*/", "*/*/", "*/*/*/")  # how deep spikes may lie in a folder of ALF files
MAX_UNIT_VALUES = 16
SLOWEST_HZ, FASTEST_HZ = 1e-3, 1e9  # of a clock whose samples are counted
SLOWEST_OF_SPIKES_HZ = 1000.0  # of a recording in which spikes were sorted: what is slower is stated in kHz
MOST_RATE_HZ = 200.0  # of half of the units of a recording
BROKEN = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    SyntaxError,
)


def check_sorter(name: str) -> None:
    """Raise UnknownNameError unless this is a sorter whose output can be read."""
    if name not in SORTERS:
        raise UnknownNameError("sorter", name, SORTERS)


def files_read(settings: Mapping[str, object]) -> Callable[[str], bool] | None:
    """Which files of a folder a session with these settings is made of, by their path in it; None: all."""
    return READ_OF.get(str(settings.get("sorter", "")))


def folder_name(path: Path) -> str:
    """What a session's folder is called: as ONE does, or as the folder that holds ``alf`` or ``suite2p``."""
    named = parts_of(path.as_posix()) if (path / "alf").is_dir() or path.name == "alf" else None
    if named:
        return "_".join(named)
    return path.parent.name if path.name in ("alf", "suite2p") and path.parent.name else path.name


def looks_like(path: Path) -> str:
    """The sorter whose output a folder looks like; empty where it looks like none."""
    if (path / "params.py").is_file() and (path / "spike_times.npy").is_file():
        return "phy"
    if any((path / name).is_file() for name in ("F.npy", "plane0/F.npy", "suite2p/plane0/F.npy")):
        return "suite2p"
    places = (path, path / "alf")
    return "alf" if any(next(place.glob(f"{deep}spikes.times*npy"), None) for place in places for deep in DEEP) else ""


def read_sorting(
    path: Path,
    session_id: str,
    source: Source,
    sorter: str,
    start_s: float = 0.0,
    *,
    frame_rate_hz: float | None = None,
    time_unit: Mapping[str, str] | None = None,
) -> Session:
    """Read the output of a spike sorter, or of what finds imaged units.

    Args:
        path: the folder or file that the sorter wrote.
        session_id: ``"<dataset>/<session>"``.
        source: where it came from.
        sorter: a name of ``SORTERS``.
        start_s: when the recording began, in seconds of the session's time.
        frame_rate_hz: frames a second, of suite2p alone. time_unit: what times are that are no seconds, of ALF alone.

    Returns:
        all units with the properties that the sorter or a curator gave them (``quality``, ``KSLabel`` ...), and all
        spikes, in order.

    Raises:
        UnknownNameError: no such sorter. SourceError: this is not its output, or it holds no spikes.
        UsageError: it does not take what is stated. MissingExtraError: spikeinterface or pyarrow is not installed.
    """
    check_sorter(sorter)
    path = Path(path)
    _check_path(path, sorter)
    _check_options(sorter, start_s, frame_rate_hz, time_unit)
    if sorter == "alf":
        return read_alf(path, session_id, source, time_unit)
    if sorter == "suite2p":
        return read_suite2p(path, session_id, source, start_s, frame_rate_hz)
    sorted_ = _read_phy(path) if sorter in NEEDED else _read_extracted(path, sorter)
    unit_ids, frame, unit, columns, clock_hz = (
        sorted_.unit_ids,
        sorted_.frame,
        sorted_.unit,
        sorted_.columns,
        sorted_.clock_hz,
    )
    if not frame.size:
        message = f"{path.name}: has {len(unit_ids)} units and not one spike: check what the sorter wrote"
        raise SourceError(message)
    time_ns = _frames_to_ns(frame, clock_hz) + round(start_s * NS_PER_S)
    again = _again(path.name, time_ns, unit, len(unit_ids))
    order = np.lexsort((unit, time_ns))
    spikes = Spikes(time_ns[order], unit[order])
    recorded = fillers(spikes)
    observed = inhabited([spikes.time_ns[recorded], np.array([round(start_s * NS_PER_S)])])  # sample 0 is recorded
    _require_rate(path.name, spikes.time_ns[recorded], unit, observed, clock_hz)
    notes = [*sorted_.notes, *again, *_findings(sorter, spikes, len(unit_ids), int((frame < 0).sum()))]
    notes += [note for note in (filler_note(spikes, recorded), _unobserved(spikes, observed)) if note is not None]
    return Session(
        id=session_id,
        subject="",
        start_ns=int(observed.start_ns[0]),
        stop_ns=int(observed.stop_ns[-1]),
        units=UnitTable(np.array([str(u) for u in unit_ids], dtype=np.str_), columns),
        spikes=spikes,
        observed=observed,
        source=source,
        clock_hz=clock_hz,
        info={"sorter": sorter},
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _Sorted:
    """What a sorter wrote: ids and columns of N units, and S spikes in samples, each with the row of its unit."""

    unit_ids: Sequence[object]
    frame: np.ndarray
    unit: np.ndarray
    columns: dict[str, np.ndarray]
    clock_hz: float
    notes: tuple[Finding, ...]


def _read_phy(path: Path) -> _Sorted:
    stated = _check_params(path / "params.py").get("sample_rate")
    clock_hz = _clock_hz(path, stated)
    if clock_hz < SLOWEST_OF_SPIKES_HZ:
        message = (
            f"{path.name}: has the sampling frequency {stated} Hz, at which no spike is seen: mend sample_rate in "
        )
        message += f"params.py (is it in kHz: {clock_hz * 1000:g}?)"
        raise SourceError(message)
    found = read_clusters(path, clock_hz)
    return _Sorted(found.unit_id.tolist(), found.frame, found.unit, dict(found.columns), clock_hz, found.notes)


def _read_extracted(path: Path, sorter: str) -> _Sorted:
    """By spikeinterface's extractor."""
    extractors = require("spikeinterface.extractors", "sorting", f"reading the output of {sorter}")
    if sorter == "npz":
        require_whole_npz(path)
    with _broken_as_one_line(path, sorter), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what spikeinterface says of missing tables
        sorting = _extract(extractors.sorting_extractor_full_dict[sorter], path)
        n_segments, unit_ids = sorting.get_num_segments(), sorting.unit_ids
        clock_hz = sorting.sampling_frequency
        trains = [np.asarray(sorting.get_unit_spike_train(u, segment_index=0)).reshape(-1) for u in unit_ids]
        columns, left_out = _unit_columns(sorting)
    if n_segments != 1:
        message = (
            f"{path.name}: has {n_segments} segments, whose times do not follow from each other: sort them one by one"
        )
        raise SourceError(message)
    text = f"properties that are no column: {', '.join(left_out)}"
    notes = (Finding("columns-left-out", len(left_out), text),) if left_out else ()
    frame = np.concatenate([np.zeros(0, np.int64), *trains]).astype(np.int64)
    unit = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    return _Sorted(unit_ids, frame, unit, columns, _clock_hz(path, clock_hz), notes)


def _check_options(sorter: str, start_s: float, frame_rate_hz: float | None, time_unit: object) -> None:
    """Raise UsageError where an option is stated that this reader has no use for."""
    for option, stated, takes in (
        ("--start-s", start_s != 0, sorter != "alf"),
        ("--frame-rate", frame_rate_hz is not None, sorter == "suite2p"),
        ("--time-unit", time_unit is not None, sorter == "alf"),
    ):
        if stated and not takes:
            message = f"{option} says nothing of the output of {sorter}: leave it out"
            raise UsageError(message)


def _clock_hz(path: Path, stated: object) -> float:
    """A sampling frequency; SourceError where it is none."""
    try:
        clock_hz = float(stated)
    except (TypeError, ValueError):
        clock_hz = math.nan
    if not SLOWEST_HZ <= clock_hz <= FASTEST_HZ:
        message = f"{path.name}: has the sampling frequency {stated} Hz: mend it (in params.py it is sample_rate)"
        raise SourceError(message)
    return clock_hz


def _check_path(path: Path, sorter: str) -> None:
    """Whether a path can be the output of this sorter at all, said before anything is imported or run."""
    kind = SORTERS[sorter]
    if not path.exists():
        message = f"{path}: there is no such {kind}: check the path"
        raise SourceError(message)
    if path.is_dir() != (kind == "folder"):
        found = "a folder" if path.is_dir() else "a file"
        message = f"{path.name}: is {found}, the output of {sorter} is a {kind}"
        raise SourceError(message)
    missing = [name for name in NEEDED.get(sorter, ()) if not (path / name).is_file()]
    if missing:
        holds = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        message = f"{path.name}: holds no {' and no '.join(missing)} (it holds {holds}), so it is no output of {sorter}"
        raise SourceError(message)


def _check_params(path: Path) -> dict[str, object]:
    """What a ``params.py`` assigns to names; one that does more than assign numbers, texts and lists is refused."""
    assigned: dict[str, object] = {}
    try:
        program = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:  # deep nesting
        if not isinstance(error, MemoryError):
            raise_cause(error, path, SourceError)
        message = f"{path.parent.name}/{path.name}: is no Python ({content_fault(error)}): mend it"
        raise SourceError(message) from error
    for statement in program.body:
        plain = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a text that stands by itself: a comment
        try:
            value = ast.literal_eval(statement.value) if plain else None
        except (ValueError, TypeError, RecursionError, MemoryError):
            plain = False
        if not plain:
            line = ast.unparse(statement).splitlines()[0][:60]
            message = (
                f"{path.parent.name}/{path.name}: line {statement.lineno} is '{line}', which would be run: "
                "write plain assignments only"
            )
            raise SourceError(message)
        assigned |= {target.id: value for target in statement.targets}
    return assigned


@contextlib.contextmanager
def _broken_as_one_line(path: Path, sorter: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        raise_cause(error, path, SourceError)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        message = f"{path.name}: cannot be read as the output of {sorter} ({type(error).__name__}: {reason})"
        raise SourceError(message) from error


def _extract(extractor, path: Path):
    """The sorting with all units, whatever the sorter or a curator thinks of them."""
    import inspect

    options = {k: v for k, v in EVERYTHING.items() if k in inspect.signature(extractor).parameters}
    return extractor(str(path), **options)


def _frames_to_ns(frame: np.ndarray, clock_hz: float) -> np.ndarray:
    period_ns = NS_PER_S / Fraction(clock_hz).limit_denominator(1_000_000)
    if int(np.abs(frame).max()) * 2 * period_ns.numerator < 2**62:
        return ns_from_ticks(frame, period_ns)
    return np.rint(frame * (NS_PER_S / clock_hz)).astype(np.int64)


def _unit_columns(sorting) -> tuple[dict[str, np.ndarray], list[str]]:
    """The sorting's properties as columns of the unit table, and the names of those that can be none."""
    columns, left_out = {}, []
    for name in sorting.get_property_keys():
        value = np.asarray(sorting.get_property(name))
        if value.dtype.kind == "O":
            value = _texts(value)
        if value.dtype.kind not in "biufU" or value.size > MAX_UNIT_VALUES * len(value):
            left_out.append(name)
            continue
        kinds = {"i": np.int64, "u": np.int64, "f": np.float64}
        value = value.astype(kinds.get(value.dtype.kind, value.dtype))
        columns[name] = np.where(value == "nan", "", value) if value.dtype.kind == "U" else value
    return columns, left_out


def _texts(value: np.ndarray) -> np.ndarray:
    """An array of objects as one of texts, empty where nothing is stated; unchanged where it holds anything else."""
    flat = ["" if v is None or v != v else v for v in value.reshape(-1).tolist()]  # NaN is not itself
    return np.array(flat, dtype=np.str_).reshape(value.shape) if all(isinstance(v, str) for v in flat) else value


def _again(name: str, time_ns: np.ndarray, unit: np.ndarray, n_units: int) -> list[Finding]:
    """What is said of times that step back, as they stand; SourceError where those of most units begin again."""
    by_unit = np.argsort(unit, kind="stable")
    own_ns, offset = time_ns[by_unit], np.searchsorted(unit[by_unit], np.arange(n_units + 1))
    again = units_again(own_ns, offset)
    if again.is_restart:
        message = (
            f"{name}: {again.told}: the recordings that were sorted do not lie one behind the other: write the samples "
            "of one recording, or sort each by itself and join them with --merge-as NAME --join time"
        )
        raise SourceError(message)
    n_back, n_of, most_ns = kernels.steps_back(own_ns, offset)
    some = f"{again.told}, those of the others go on; {SORTED_AS_ONE}"
    text = f"sorted the spikes of {n_of} of {n_units} units: {n_back} steps back in time, the largest by "
    found = [
        Finding("spikes-begin-again", again.n_units, some),
        Finding("spikes-unsorted", n_back, f"{text}{most_ns / NS_PER_S:.1f} s"),
    ]
    return [one for one in found if one.count]


def _require_rate(name: str, spike_ns: np.ndarray, unit: np.ndarray, observed: Intervals, clock_hz: float) -> None:
    """Raise SourceError where units fire as none does: then times are in another unit than samples of that clock.

    Args:
        name: what the message calls it. spike_ns: int64, of all units. unit: int32, the unit of each spike.
        observed: in which they fire. clock_hz: samples a second, as stated.
    """
    count = np.bincount(unit)
    count = count[count >= TELLING]
    if not count.size:
        return
    rate_hz = float(np.median(count)) * NS_PER_S / max(observed.total_ns, 1)
    lasts_ns = int(spike_ns[-1]) - int(spike_ns[0])
    if rate_hz > MOST_RATE_HZ or (rate_hz < LEAST_RATE_HZ and lasts_ns > HOUR_NS):
        message = (
            f"{name}: {spike_ns.size} spikes lie from {spike_ns[0] / NS_PER_S:.3g} to {spike_ns[-1] / NS_PER_S:.3g} s, "
            f"{rate_hz:.3g} Hz a unit: these are no samples at {clock_hz:g} Hz: check what wrote the times of spikes, "
            "and the sampling frequency"
        )
        raise SourceError(message)


def _unobserved(spikes: Spikes, observed: Intervals) -> Finding | None:
    n_out = int((~holds(observed, spikes.time_ns)).sum())
    text = f"{n_out} spikes lie outside of the observed time; kept, --drop-outside leaves them out"
    return Finding("spikes-unobserved", n_out, text) if n_out else None


def _findings(sorter: str, spikes: Spikes, n_units: int, early: int) -> list[Finding]:
    silent = int((np.bincount(spikes.unit, minlength=n_units) == 0).sum())
    twice = int(((np.diff(spikes.time_ns) == 0) & (np.diff(spikes.unit) == 0)).sum())
    in_s = spikes.time_ns[0] / NS_PER_S
    notes = [
        Finding(name, count, text)
        for name, count, text in (
            ("units-silent", silent, f"{silent} of {n_units} units have no spikes"),
            ("spikes-duplicate", twice, f"{twice} spikes have the time of another spike of their unit; kept"),
            ("spikes-negative", early, f"{early} spikes lie before sample 0, the first at {in_s:.3f} s; kept"),
        )
        if count
    ]
    text = f"{sorter} does not say how long the recording was: from its start to the last spike is taken as observed"
    return [*notes, Finding("observed-assumed", 1, text)]
