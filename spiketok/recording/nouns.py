"""The nouns: what a recording is, in memory.

Plain numpy, frozen, checked once at construction. Time is int64 nanoseconds from the session's start (the time zero
of the source); intervals are half-open ``[start, stop)``. Nothing here reads or writes files.

Shape letters: N units, S spikes, I intervals, T samples, C components.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

import numpy as np

from spiketok.errors import DataError

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
CHECK_ROWS = 1 << 16
FLUORESCENCE = "fluorescence"  # the signal that holds dF/F of the units, where a session has it


def _frozen(values, dtype, name: str, ndim: int = 1) -> np.ndarray:
    """A read-only array of exactly this dtype and number of dimensions; integers are never rounded into place."""
    array = np.asarray(values)
    if array.ndim == ndim and array.dtype == dtype:
        array = array.view()
        array.flags.writeable = False
        return array
    if array.size == 0 and array.ndim <= 1 and ndim == 1:
        array = array.reshape(0).astype(dtype)
    if array.ndim != ndim:
        message = f"{name} has {array.ndim} dimensions, expected {ndim}"
        raise DataError(message)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        message = f"{name} has dtype {array.dtype}, expected {np.dtype(dtype)}"
        raise DataError(message)
    array = array.astype(dtype, copy=False).view()
    array.flags.writeable = False
    return array


def _same_length(name: str, expected: int, columns: Mapping[str, object]) -> None:
    for key, column in columns.items():
        if len(column) != expected:
            message = f"{name} column '{key}' has {len(column)} rows, expected {expected}"
            raise DataError(message)


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of unequal length: row i is ``value[offset[i]:offset[i + 1]]``.

    Args:
        value: ``[V, *item]`` all rows, one after the other.
        offset: int64 ``[I + 1]``, from 0 to V, non-decreasing.
    """

    value: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        offset = _frozen(self.offset, np.int64, "Ragged.offset")
        if offset.size == 0 or offset[0] != 0 or offset[-1] != len(self.value) or (np.diff(offset) < 0).any():
            message = f"Ragged.offset must rise from 0 to {len(self.value)}"
            raise DataError(message)
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "value", np.asarray(self.value))

    def __len__(self) -> int:
        return len(self.offset) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.value[self.offset[row] : self.offset[row + 1]]


Column = np.ndarray | Ragged


@dataclass(frozen=True, eq=False)
class Intervals:
    """Half-open intervals ``[start_ns, stop_ns)`` with one value a row in each column, in the source's order.

    Args:
        start_ns, stop_ns: int64 ``[I]``, start <= stop.
        columns: further values, each of length I (float64, int64, bool, str, or :class:`Ragged`).
    """

    start_ns: np.ndarray
    stop_ns: np.ndarray
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start = _frozen(self.start_ns, np.int64, "Intervals.start_ns")
        stop = _frozen(self.stop_ns, np.int64, "Intervals.stop_ns")
        if start.size != stop.size:
            message = f"Intervals has {start.size} starts and {stop.size} stops"
            raise DataError(message)
        wrong = start > stop
        if wrong.any():
            row = int(wrong.argmax())
            message = f"interval {row} stops at {stop[row]} ns, before its start at {start[row]} ns"
            raise DataError(message)
        if self.columns:
            _same_length("Intervals", start.size, self.columns)
        object.__setattr__(self, "start_ns", start)
        object.__setattr__(self, "stop_ns", stop)
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    @classmethod
    def empty(cls) -> Intervals:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __reduce__(self):
        return (type(self), (self.start_ns, self.stop_ns, dict(self.columns)))

    def __repr__(self) -> str:
        ends = f", {self.start_ns.min() / NS_PER_S:g}..{self.stop_ns.max() / NS_PER_S:g} s" if len(self) else ""
        about = f"; {', '.join(self.columns)}" if self.columns else ""
        return f"Intervals({len(self)}{ends}{about})"

    def __len__(self) -> int:
        return self.start_ns.size

    @property
    def total_ns(self) -> int:
        return int((self.stop_ns - self.start_ns).sum())

    def take(self, rows: np.ndarray) -> Intervals:
        """The intervals at ``rows`` (indices or a boolean mask), with their plain columns; ragged ones are left out."""
        plain = {k: c[rows] for k, c in self.columns.items() if not isinstance(c, Ragged)}
        return Intervals(self.start_ns[rows], self.stop_ns[rows], plain)

    def union(self) -> Intervals:
        """Sorted, disjoint, non-touching intervals that cover the same time; columns are left out."""
        start, stop = self.start_ns, self.stop_ns
        if "_is_union" in self.__dict__:
            return self
        keep = stop > start
        if keep.all() and (start[1:] > stop[:-1]).all():
            return self._known_union() if not self.columns else Intervals(start, stop)._known_union()
        start, stop = start[keep], stop[keep]
        if start.size == 0:
            return Intervals.empty()
        order = np.argsort(start, kind="stable")
        start, reach = start[order], np.maximum.accumulate(stop[order])
        first = np.concatenate([[True], start[1:] > reach[:-1]])
        last = np.concatenate([first[1:], [True]])
        return Intervals(start[first], reach[last])._known_union()

    def _known_union(self) -> Intervals:
        """This, of which it is known that :meth:`union` gives it back: asked of thousands of sessions, often."""
        object.__setattr__(self, "_is_union", True)
        return self

    def intersect(self, other: Intervals) -> Intervals:
        """The time that lies in both, as sorted disjoint intervals; columns are left out."""
        a, b = self.union(), other.union()
        a_start, a_stop, b_start, b_stop = (t.tolist() for t in (a.start_ns, a.stop_ns, b.start_ns, b.stop_ns))
        start, stop, i, j = [], [], 0, 0
        while i < len(a_start) and j < len(b_start):
            low, high = max(a_start[i], b_start[j]), min(a_stop[i], b_stop[j])
            if low < high:
                start.append(low)
                stop.append(high)
            if a_stop[i] < b_stop[j]:
                i += 1
            else:
                j += 1
        return Intervals(np.array(start, np.int64), np.array(stop, np.int64))._known_union()


@dataclass(frozen=True, eq=False)
class UnitTable:
    """The units of one session; a row number means something inside this session only.

    Args:
        id: str ``[N]``, the source's own ids, unique.
        columns: what the source says of each unit (region, group, channel, quality, held_out ...), each of length N.
    """

    id: np.ndarray
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unit_id = np.asarray(self.id, dtype=np.str_).reshape(-1)
        values, count = np.unique(unit_id, return_counts=True)
        if values.size != unit_id.size:
            message = f"unit id '{values[count > 1][0]}' stands {count.max()} times, must be unique"
            raise DataError(message)
        _same_length("UnitTable", unit_id.size, self.columns)
        unit_id.flags.writeable = False
        object.__setattr__(self, "id", unit_id)
        object.__setattr__(self, "columns", MappingProxyType(dict(self.columns)))

    def __reduce__(self):
        return (type(self), (self.id, dict(self.columns)))

    def __repr__(self) -> str:
        return f"UnitTable({len(self)}{'; ' if self.columns else ''}{', '.join(self.columns)})"

    def __len__(self) -> int:
        return self.id.size


@dataclass(frozen=True, eq=False)
class Spikes:
    """All spikes of a session in order of time, ties in order of unit.

    Args:
        time_ns: int64 ``[S]``, non-decreasing.
        unit: int32 ``[S]``, row in the unit table.
    """

    time_ns: np.ndarray
    unit: np.ndarray

    def __post_init__(self) -> None:
        time_ns = _frozen(self.time_ns, np.int64, "Spikes.time_ns")
        unit = _frozen(self.unit, np.int32, "Spikes.unit")
        if time_ns.size != unit.size:
            message = f"Spikes has {time_ns.size} times and {unit.size} units"
            raise DataError(message)
        for low in range(0, time_ns.size, CHECK_ROWS):  # piece by piece: there may be a hundred million of them
            own = slice(low, low + CHECK_ROWS + 1)
            step = np.diff(time_ns[own])
            wrong = np.flatnonzero((step < 0) | ((step == 0) & (np.diff(unit[own]) < 0)))
            if wrong.size:
                row = low + int(wrong[0])
                message = f"spike {row + 1} at {time_ns[row + 1]} ns comes after one at {time_ns[row]} ns: not in order"
                raise DataError(message)
        object.__setattr__(self, "time_ns", time_ns)
        object.__setattr__(self, "unit", unit)

    @classmethod
    def from_units(cls, times_ns: list[np.ndarray]) -> Spikes:
        """Merge one array of times a unit (in any order) into the ordered stream."""
        size = [len(t) for t in times_ns]
        time_ns = np.concatenate(times_ns).astype(np.int64) if times_ns else np.zeros(0, np.int64)
        unit = np.repeat(np.arange(len(times_ns), dtype=np.int32), size)
        order = np.argsort(time_ns, kind="stable")  # units rise in the input, so ties stay in order of unit
        return cls(time_ns[order], unit[order])

    def __repr__(self) -> str:
        ends = f", {self.time_ns[0] / NS_PER_S:g}..{self.time_ns[-1] / NS_PER_S:g} s" if len(self) else ""
        return f"Spikes({len(self)}{ends})"

    def __len__(self) -> int:
        return self.time_ns.size

    def window(self, start_ns: int, stop_ns: int) -> Spikes:
        """The spikes with ``start_ns <= time < stop_ns``, times unchanged."""
        low, high = np.searchsorted(self.time_ns, [start_ns, stop_ns])
        return Spikes(self.time_ns[low:high], self.unit[low:high])


@dataclass(frozen=True, eq=False)
class Signal:
    """A behaviour (or any sampled series).

    Args:
        time_ns: int64 ``[T]``, strictly rising.
        value: float32 ``[T, C]``.
        components: C names, as ``("x", "y")``.
        measure: the unit of measure, as ``"mm/s"``; empty where the source does not say.
        valid: bool ``[T]``; False where nothing was measured (NaN in the source).
        rate_hz: the declared sampling rate, or None where the source gives time stamps.
    """

    time_ns: np.ndarray
    value: np.ndarray
    components: tuple[str, ...]
    measure: str
    valid: np.ndarray
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        time_ns = _frozen(self.time_ns, np.int64, "Signal.time_ns")
        value = _frozen(self.value, np.float32, "Signal.value", ndim=2)
        valid = _frozen(self.valid, np.bool_, "Signal.valid")
        components = tuple(str(c) for c in self.components)
        if not time_ns.size == value.shape[0] == valid.size:
            message = f"Signal has {time_ns.size} times, {value.shape[0]} values and {valid.size} valid flags"
            raise DataError(message)
        if value.shape[1] != len(components):
            message = f"Signal has {value.shape[1]} components and {len(components)} names for them"
            raise DataError(message)
        if (np.diff(time_ns) <= 0).any():
            message = "Signal.time_ns must rise strictly"
            raise DataError(message)
        if not np.isfinite(value[valid]).all():
            message = "Signal.value is not finite in a sample that is marked valid"
            raise DataError(message)
        for name, array in (("time_ns", time_ns), ("value", value), ("valid", valid), ("components", components)):
            object.__setattr__(self, name, array)

    def __repr__(self) -> str:
        rate = "" if self.rate_hz is None else f", {self.rate_hz:g} Hz"
        about = f"{', '.join(self.components)}{f' in {self.measure}' if self.measure else ''}{rate}"
        return f"Signal({self.time_ns.size} samples of {about}, {int(self.valid.sum())} valid)"

    @property
    def period_ns(self) -> int:
        """The median step between samples; 0 with fewer than two samples."""
        step = np.diff(self.time_ns)
        if step.size == 0:
            return 0
        return int(step[0]) if (step == step[0]).all() else int(np.median(step))


@dataclass(frozen=True, eq=False)
class Stimulus:
    """Pictures that were shown, and when: still images, or the frames of a movie.

    Args:
        frames: uint8 or finite float32 ``[F, height, width]``: grey, each picture once.
        time_ns, stop_ns: int64 ``[P]``: each presentation lasts over ``[time_ns, stop_ns)``; one follows the other.
        frame: int32 ``[P]``: which frame each shows; -1: nothing.
    """

    frames: np.ndarray
    time_ns: np.ndarray
    stop_ns: np.ndarray
    frame: np.ndarray

    def __post_init__(self) -> None:
        kind = np.uint8 if np.asarray(self.frames).dtype == np.uint8 else np.float32
        frames = _frozen(self.frames, kind, "Stimulus.frames", ndim=3)
        time_ns = _frozen(self.time_ns, np.int64, "Stimulus.time_ns")
        stop_ns = _frozen(self.stop_ns, np.int64, "Stimulus.stop_ns")
        frame = _frozen(self.frame, np.int32, "Stimulus.frame")
        if not time_ns.size == stop_ns.size == frame.size:
            message = f"Stimulus has {time_ns.size} times, {stop_ns.size} stops and {frame.size} frames shown"
            raise DataError(message)
        if 0 in frames.shape[1:]:
            message = f"Stimulus.frames has shape {frames.shape}: a frame has at least one pixel"
            raise DataError(message)
        if kind is np.float32 and not np.isfinite(frames).all():
            message = "Stimulus.frames is not finite"
            raise DataError(message)
        if frame.size and not (frame.min() >= -1 and frame.max() < len(frames)):
            message = f"Stimulus.frame goes from {frame.min()} to {frame.max()}, there are {len(frames)} frames"
            raise DataError(message)
        wrong = np.flatnonzero((time_ns > stop_ns) | np.append(stop_ns[:-1] > time_ns[1:], False)[: time_ns.size])
        if wrong.size:
            row = int(wrong[0])
            message = (
                f"presentation {row} over {time_ns[row]}..{stop_ns[row]} ns stops before it starts, or after the next "
                "one starts: presentations must follow one another"
            )
            raise DataError(message)
        for name, array in (("frames", frames), ("time_ns", time_ns), ("stop_ns", stop_ns), ("frame", frame)):
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return self.time_ns.size


@dataclass(frozen=True)
class Finding:
    """Something that was found in a source: a repair that was made, or a note on what was left as it is.

    Args:
        id: a short stable name, as ``"spikes-unsorted"``.
        count: how many items it concerns.
        text: one sentence for a person.
    """

    id: str
    count: int
    text: str


@dataclass(frozen=True)
class Source:
    """Where a session came from, for citation and for the digest chain.

    ``joined`` are the further files of a session that was made of several, in the order in which they were joined;
    ``linked`` those whose values this one's links lead to, by their paths from its folder.
    """

    file: str  # file name, or path inside the dandiset; never a path of this machine
    sha256: str
    size: int
    dandiset: str = ""
    version: str = ""
    license: str = ""
    citation: str = ""
    session_start: str = ""  # ISO 8601, as the source has it
    joined: tuple[Source, ...] = ()
    linked: tuple[Source, ...] = ()

    @classmethod
    def from_dict(cls, facts: Mapping[str, object]) -> Source:
        """The inverse of :meth:`to_dict`."""
        parts = {name: tuple(cls.from_dict(part) for part in facts.get(name, ())) for name in ("joined", "linked")}
        return cls(**{**facts, **parts})

    def to_dict(self) -> dict[str, object]:
        """As stores and shards hold it; ``joined`` and ``linked`` only where there is something."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("joined", "linked")}
        parts = {name: [part.to_dict() for part in getattr(self, name)] for name in ("joined", "linked")}
        return facts | {name: listed for name, listed in parts.items() if listed}

    @property
    def files(self) -> tuple[Source, ...]:
        """Every file by itself, this one first."""
        return (replace(self, joined=()), *self.joined)

    @property
    def origin(self) -> str:
        """Where it was fetched from, as ``spiketok fetch`` takes it; empty for a local file."""
        if self.dandiset:
            return f"DANDI:{self.dandiset}/{self.version}"
        record = re.search(r"10\.5281/zenodo\.(\d+)", self.citation)
        if record:
            return f"zenodo:{record[1]}"
        return self.citation if re.fullmatch(r"(https?|s3)://\S+", self.citation) else ""


@dataclass(frozen=True, eq=False)
class Session:
    """One continuous recording of one subject with one unit table.

    Args:
        id: ``"<dataset>/<session>"``.
        subject: the source's subject id, empty where it has none.
        start_ns, stop_ns: an extent that holds every observed interval; spikes that lie alone may be outside of it.
        units, spikes: see there.
        observed: sorted disjoint intervals in which at least one unit was recorded.
        unit_observed: where units differ: per unit its own intervals, as Ragged int64 ``[V, 2]`` of (start, stop).
        observed_source: ``"obs_intervals"`` (the source says so), ``"bins"`` (it has counts of bins, and these are the
            bins that are there), ``"frames"`` (its units were imaged in these) or ``"assumed"`` (it is silent).
        intervals: trial tables, epochs ... by name; the main one is ``"trials"``.
        splits: stored divisions: a column ``name`` (train, valid, test, calibration ...) and, where there is more than
            the source's own, a column ``set`` that says which division a row belongs to. Empty where there is none.
        signals: behaviours by name.
        clock_hz: the recording's clock where the source declares one.
        info: further facts of the source for people (species, description ...). One of them is for the toolkit as well:
            ``part_of`` names the session that holds all of this one's recording, too.
        repairs: what had to be mended; notes: what was found and left.
        stimuli: pictures that were shown, by name.
    """

    id: str
    subject: str
    start_ns: int
    stop_ns: int
    units: UnitTable
    spikes: Spikes
    observed: Intervals
    source: Source
    unit_observed: Ragged | None = None
    observed_source: str = "assumed"
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    splits: Intervals = field(default_factory=Intervals.empty)
    signals: Mapping[str, Signal] = field(default_factory=dict)
    clock_hz: float | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    repairs: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    stimuli: Mapping[str, Stimulus] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.id.count("/") != 1 or not all(self.id.split("/")):
            message = f"session id '{self.id}' must read '<dataset>/<session>'"
            raise DataError(message)
        n_units, spikes = len(self.units), self.spikes
        if len(spikes) and not (spikes.unit.min() >= 0 and spikes.unit.max() < n_units):
            message = f"{self.id}: a spike of unit row {spikes.unit.max()} in a table of {n_units} units"
            raise DataError(message)
        if self.unit_observed is not None and len(self.unit_observed) != n_units:
            message = f"{self.id}: unit_observed has {len(self.unit_observed)} rows for {n_units} units"
            raise DataError(message)
        first, last = self.observed.start_ns[:1], self.observed.stop_ns[-1:]
        if first.size and not (self.start_ns <= first[0] and last[0] <= self.stop_ns):
            message = f"{self.id}: extent {self.start_ns}..{self.stop_ns} ns does not hold {first[0]}..{last[0]} ns"
            raise DataError(message)
        if (self.observed.start_ns[1:] <= self.observed.stop_ns[:-1]).any():
            message = f"{self.id}: observed intervals must be sorted and disjoint"
            raise DataError(message)
        if len(self.splits) and "name" not in self.splits.columns:
            message = f"{self.id}: splits need a column 'name'"
            raise DataError(message)

    @property
    def dataset(self) -> str:
        return self.id.split("/")[0]

    @property
    def name(self) -> str:
        return self.id.split("/")[1]

    @property
    def behaviours(self) -> dict[str, Signal]:
        """The signals without the imaging of the units themselves, which is nothing to decode."""
        return {name: signal for name, signal in self.signals.items() if name != FLUORESCENCE}

    @property
    def trials(self) -> Intervals | None:
        return self.intervals.get("trials")


@dataclass(frozen=True, eq=False)
class SessionInfo:
    """What planning, vocabularies and reports need of a session, without its spikes.

    Args:
        id: ``"<dataset>/<session>"``.
        subject: the source's subject id.
        unit_id: str ``[N]``.
        n_spikes: spikes in the whole session.
        start_ns, stop_ns: the session's extent.
        signals: components and measure of each behaviour by name.
        unit_columns: what the source says of each unit, str or numeric ``[N]``: region, group, channel, held_out ...
        n_trials: rows of the main trial table, 0 where there is none; None where nobody counted.
        stimuli: frames, height and width of each stimulus by name; empty where it is read from a context, which has no
            frames.
    """

    id: str
    subject: str
    unit_id: np.ndarray
    n_spikes: int
    start_ns: int
    stop_ns: int
    signals: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    unit_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    n_trials: int | None = None
    stimuli: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def n_units(self) -> int:
        return len(self.unit_id)

    def unit_keys(self) -> list[str]:
        """The stable names of the units: ``"<dataset>/<session>/<unit id>"``; made once, so do not change them."""
        found = self.__dict__.get("_unit_keys")
        if found is None:
            prefix = f"{self.id}/"
            found = [prefix + unit for unit in np.asarray(self.unit_id).tolist()]
            object.__setattr__(self, "_unit_keys", found)
        return found
