"""Sorter output (phy, Kilosort, ...): a folder or file on disk becomes one :class:`~spiketok.recording.nouns.Session`.

Read by spikeinterface's extractors. What is unusual: ``params.py`` of phy and Kilosort is a program that these run; it
is looked at first, and anything but plain assignments of numbers and texts is refused. Spikes of clusters that no table
lists, which the extractor drops, are counted and told.

A spike in sample k is at ``start_s + k / sampling frequency`` seconds, in integers where the frequency is a fraction
with small terms. Sorter output does not say how long the recording was: observed is the time up to the last spike.
"""

from __future__ import annotations

import ast
import contextlib
import math
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError, UnknownNameError, require
from spiketok.recording.intervals import inhabited
from spiketok.recording.nouns import NS_PER_S, Finding, Session, Source, Spikes, UnitTable
from spiketok.storage.clock import ns_from_ticks

READER = {"reader": "sorter", "reader_version": 1}
# the name in spikeinterface and whether the output is a folder or one file; only those that tell their sampling
# frequency themselves
SORTERS: dict[str, str] = {
    "cellexplorer": "file",
    "combinato": "folder",
    "hdsort": "file",
    "herdingspikes": "file",
    "kilosort": "folder",
    "klusta": "folder",
    "npz": "file",
    "phy": "folder",
    "spykingcircus": "folder",
    "tridesclous": "folder",
    "waveclus": "file",
    "yass": "folder",
}
NEEDED = dict.fromkeys(("phy", "kilosort"), ("params.py", "spike_times.npy"))
EVERYTHING = {"keep_good_only": False, "remove_empty_units": False}  # nobody is left out here: --quality does that
MAX_UNIT_VALUES = 16
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


def read_sorting(path: Path, session_id: str, source: Source, sorter: str, start_s: float = 0.0) -> Session:
    """Read the output of a spike sorter.

    Args:
        path: the folder or file that the sorter wrote.
        session_id: ``"<dataset>/<session>"``.
        source: where it came from.
        sorter: a name of ``SORTERS``.
        start_s: when the recording began, in seconds of the session's time.

    Returns:
        all units with the properties that the sorter or a curator gave them (``quality``, ``KSLabel`` ...), and all
        spikes, in order.

    Raises:
        UnknownNameError: no such sorter. SourceError: this is not its output, or it holds no spikes.
        MissingExtraError: spikeinterface is not installed.
    """
    check_sorter(sorter)
    path = Path(path)
    _check_path(path, sorter)
    extractors = require("spikeinterface.extractors", "sorting", f"reading the output of {sorter}")
    with _broken_as_one_line(path, sorter), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what spikeinterface says of missing tables
        sorting = _extract(extractors.sorting_extractor_full_dict[sorter], path)
        n_segments, unit_ids = sorting.get_num_segments(), sorting.unit_ids
        clock_hz = float(sorting.sampling_frequency)
        trains = [np.asarray(sorting.get_unit_spike_train(u, segment_index=0)).reshape(-1) for u in unit_ids]
        columns, left_out = _unit_columns(sorting)
    if n_segments != 1:
        message = (
            f"{path.name}: has {n_segments} segments, whose times do not follow from each other: sort them one by one"
        )
        raise SourceError(message)
    if not math.isfinite(clock_hz) or clock_hz <= 0:
        message = f"{path.name}: has the sampling frequency {clock_hz} Hz: mend it in params.py"
        raise SourceError(message)
    if not sum(map(len, trains)):
        message = f"{path.name}: has {len(trains)} units and not one spike: check what the sorter wrote"
        raise SourceError(message)
    frame = np.concatenate(trains).astype(np.int64)
    unit = np.repeat(np.arange(len(trains), dtype=np.int32), [len(t) for t in trains])
    time_ns = _frames_to_ns(frame, clock_hz) + round(start_s * NS_PER_S)
    order = np.lexsort((unit, time_ns))
    spikes = Spikes(time_ns[order], unit[order])
    start_ns = min(round(start_s * NS_PER_S), int(spikes.time_ns[0]))
    stop_ns = int(spikes.time_ns[-1]) + 1
    repairs, notes = _findings(path, sorter, spikes, len(trains), left_out)
    return Session(
        id=session_id,
        subject="",
        start_ns=start_ns,
        stop_ns=stop_ns,
        units=UnitTable(np.array([str(u) for u in unit_ids], dtype=np.str_), columns),
        spikes=spikes,
        observed=inhabited(start_ns, stop_ns, [spikes.time_ns]),
        source=source,
        clock_hz=clock_hz,
        info={"sorter": sorter},
        repairs=tuple(repairs),
        notes=tuple(notes),
    )


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
    if sorter in NEEDED:
        _check_params(path / "params.py")


def _check_params(path: Path) -> None:
    """Refuse a ``params.py`` that does more than assign numbers, texts and lists of them to names."""
    try:
        program = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        message = f"{path.parent.name}/{path.name}: is no Python ({error}): mend it"
        raise SourceError(message) from error
    for statement in program.body:
        plain = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a text that stands by itself: a comment
        try:
            plain = plain and (ast.literal_eval(statement.value), True)[1]
        except ValueError:
            plain = False
        if not plain:
            line = ast.unparse(statement).splitlines()[0][:60]
            message = (
                f"{path.parent.name}/{path.name}: line {statement.lineno} is '{line}', which would be run: "
                "write plain assignments only"
            )
            raise SourceError(message)


@contextlib.contextmanager
def _broken_as_one_line(path: Path, sorter: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
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


def _findings(
    path: Path, sorter: str, spikes: Spikes, n_units: int, left_out: list[str]
) -> tuple[list[Finding], list[Finding]]:
    repairs, notes = [], []
    if sorter in NEEDED:
        there = int(np.load(path / "spike_times.npy", mmap_mode="r", allow_pickle=False).size)
        lost = there - len(spikes)
        text = f"left out {lost} of {there} spikes: no table of clusters lists the clusters that they are in"
        repairs += [Finding("sorter-spikes-without-cluster", lost, text)] if lost else []
    silent = int((np.bincount(spikes.unit, minlength=n_units) == 0).sum())
    twice = int(((np.diff(spikes.time_ns) == 0) & (np.diff(spikes.unit) == 0)).sum())
    for name, count, text in (
        ("units-silent", silent, f"{silent} of {n_units} units have no spikes"),
        ("spikes-duplicate", twice, f"{twice} spikes have the time of another spike of their unit; kept"),
        ("columns-left-out", len(left_out), f"properties that are no column: {', '.join(left_out)}"),
    ):
        notes += [Finding(name, count, text)] if count else []
    text = f"{sorter} does not say how long the recording was: all up to the last spike is taken as observed"
    return repairs, [*notes, Finding("observed-assumed", 1, text)]
