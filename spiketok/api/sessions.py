"""A stored session as a notebook holds it: nothing of it is read before it is asked for, and no more than that.

What is unusual: spikes of a window are read without the rest of the recording, so that a look at an hour costs what the
look holds. What is read in part is held against the CRC of its chunk; :meth:`StoredSession.load` reads all of it and
checks the digest of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

from spiketok.api.tables import columns_of, html_of, interval_table, signal_table
from spiketok.errors import UnknownNameError, UsageError, require
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, Signal, Spikes, UnitTable
from spiketok.storage.store import (
    interval_names,
    read_intervals,
    read_observed,
    read_session,
    read_signal,
    read_units,
)
from spiketok.storage.window_reader import SessionReader, open_session

if TYPE_CHECKING:
    import pandas as pd

    from spiketok.storage.workspace import Workspace


def ns_of(value_s: float, what: str) -> int:
    """Seconds as whole ns, to the nearest.

    Raises:
        UsageError: it is no finite number.

    >>> ns_of(0.1, "start_s")
    100000000
    """
    if not np.isfinite(value_s):
        message = f"{what} is {value_s}, expected a finite number of seconds"
        raise UsageError(message)
    return round(value_s * NS_PER_S)


class Signals(Mapping[str, Signal]):
    """The behaviours of a session by name, each read when it is first asked for."""

    def __init__(self, session: StoredSession) -> None:
        self._session, self._held = session, {}

    def __getitem__(self, name: str) -> Signal:
        if name not in self._held:
            session = self._session
            self._held[name] = read_signal(session.path, session.attributes, name)
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._session.attributes["signals"]))

    def __len__(self) -> int:
        return len(self._session.attributes["signals"])

    def __contains__(self, name: object) -> bool:
        return name in self._session.attributes["signals"]

    def __repr__(self) -> str:
        facts = self._session.attributes["signals"]
        each = [f"{n} ({', '.join(facts[n]['components'])}; {facts[n]['measure'] or 'no measure'})" for n in self]
        return f"Signals({', '.join(each)})"


@dataclass(frozen=True, eq=False)
class SessionWindow:
    """What was recorded in ``[start_ns, stop_ns)`` of a session; times are those of the session.

    Args:
        spikes: those inside. signals: the samples inside, by behaviour. observed: the time with units recorded.
        n_units: of the session.
    """

    session: str
    start_ns: int
    stop_ns: int
    spikes: Spikes
    signals: Mapping[str, Signal]
    observed: Intervals
    n_units: int

    def __repr__(self) -> str:
        start, stop = self.start_ns / NS_PER_S, self.stop_ns / NS_PER_S
        return f"SessionWindow({self.session}, {start:g}..{stop:g} s, {len(self.spikes)} spikes)"

    def counts(self, bin_ms: float = 20.0) -> np.ndarray:
        """int64 ``[T, N]``: spikes of each unit in half-open bins from the window's start; whole bins only.

        Raises:
            UsageError: a bin is no positive whole number of ns.

        >>> from spiketok.recording.nouns import Intervals, Spikes
        >>> spikes = Spikes([0, 19_999_999, 20_000_000], [0, 0, 1])
        >>> SessionWindow("a/b", 0, 40_000_000, spikes, {}, Intervals.empty(), 2).counts(20).tolist()
        [[2, 0], [0, 1]]
        """
        bin_ns = round(bin_ms * NS_PER_MS)
        if bin_ns <= 0 or abs(bin_ns - bin_ms * NS_PER_MS) > 1e-6:
            message = f"bin_ms is {bin_ms}, must be a positive whole number of ns"
            raise UsageError(message)
        n_bins = (self.stop_ns - self.start_ns) // bin_ns
        row = (self.spikes.time_ns - self.start_ns) // bin_ns
        inside = row < n_bins
        flat = row[inside] * self.n_units + self.spikes.unit[inside]
        return np.bincount(flat, minlength=n_bins * self.n_units).reshape(n_bins, self.n_units)


class StoredSession:
    """A session of a store, read as far as it is asked: ``ws["dataset/session"]``.

    Attributes:
        id: ``"<dataset>/<session>"``. facts: what the store's index says of it.
    """

    def __init__(self, workspace: Workspace, session_id: str) -> None:
        self._workspace, self.id = workspace, session_id
        self.facts: Mapping[str, object] = workspace.facts(session_id)

    def __repr__(self) -> str:
        held = f"{self.n_units} units, {self.n_spikes:,} spikes, {self.duration_s:.1f} s"
        return f"StoredSession('{self.id}': {held}; {', '.join(sorted(self.facts['signals'])) or 'no behaviour'})"

    def _repr_html_(self) -> str:
        signals = {n: f"{', '.join(s['components'])} [{s['measure']}]" for n, s in self.facts["signals"].items()}
        facts = {
            "subject": self.subject,
            "units": self.n_units,
            "spikes": f"{self.n_spikes:,}",
            "seconds": f"{self.duration_s:.3f}",
            "trials": self._workspace.sizes(self.id)["n_trials"],
            **{f"signal {name}": about for name, about in signals.items()},
        }
        return html_of(self.id, facts)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, StoredSession) and self.id == other.id
        return same and self.facts["digest"] == other.facts["digest"]

    def __hash__(self) -> int:
        return hash((self.id, self.facts["digest"]))

    @property
    def path(self):
        """Where it lies."""
        return self._workspace.store_path(self.id)

    @property
    def subject(self) -> str:
        return str(self.facts["subject"])

    @property
    def n_units(self) -> int:
        return int(self.facts["n_units"])

    @property
    def n_spikes(self) -> int:
        return int(self.facts["n_spikes"])

    @property
    def start_s(self) -> float:
        return self.facts["start_ns"] / NS_PER_S

    @property
    def stop_s(self) -> float:
        return self.facts["stop_ns"] / NS_PER_S

    @property
    def duration_s(self) -> float:
        return (self.facts["stop_ns"] - self.facts["start_ns"]) / NS_PER_S

    @cached_property
    def attributes(self) -> dict[str, object]:
        """Everything that stands beside its arrays: source, licence, findings, settings of the ingest."""
        return self._workspace.attributes(self.id)

    @cached_property
    def _reader(self) -> SessionReader:
        return open_session(self.path)

    @cached_property
    def unit_table(self) -> UnitTable:
        """The units as the rest of the package has them."""
        return read_units(self.path, self.attributes)

    @cached_property
    def units(self) -> pd.DataFrame:
        """A row a unit, by its id: ``n_spikes``, ``rate_hz`` over the observed time, and the source's columns."""
        import pandas as pd

        table, n_spikes = self.unit_table, self._reader.unit_counts()
        observed_s = self.observed.total_ns / NS_PER_S
        rate_hz = n_spikes / observed_s if observed_s else np.full(len(table), np.nan)
        own = {"n_spikes": n_spikes, "rate_hz": rate_hz}
        columns = own | columns_of({name: c for name, c in table.columns.items() if name not in own})
        return pd.DataFrame(columns, index=pd.Index(table.id, name="unit_id"))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row a trial: ``start_s``, ``stop_s``, ``start_ns``, ``stop_ns``, the source's columns; empty for none."""
        if "trials" not in self.interval_names:
            return interval_table(Intervals.empty())
        return interval_table(self.intervals("trials"))

    @cached_property
    def interval_names(self) -> list[str]:
        """Its tables of intervals: the trials, epochs and what else the source has."""
        return interval_names(self.path, self.attributes)

    def intervals(self, name: str) -> Intervals:
        """One of its tables of intervals, in ns.

        Raises:
            UnknownNameError: it has none of this name.
        """
        return read_intervals(self.path, self.attributes, name)

    @cached_property
    def observed(self) -> Intervals:
        """The time in which at least one unit was recorded, in ns."""
        return read_observed(self.path)

    @cached_property
    def signals(self) -> Signals:
        """Its behaviours by name, in ns; :meth:`frame` gives one as a table."""
        return Signals(self)

    def frame(self, name: str) -> pd.DataFrame:
        """A behaviour as a table over seconds; NaN where it was not measured.

        Raises:
            UnknownNameError: it has none of this name.
        """
        return signal_table(self.signals[name])

    def window(self, start_s: float, stop_s: float, signals: Sequence[str] | None = None) -> SessionWindow:
        """What was recorded from ``start_s`` until before ``stop_s``; spikes elsewhere are not read.

        Args:
            signals: the behaviours that are wanted; all of them by default.

        Raises:
            UsageError: it stops before it starts. UnknownNameError: there is no such behaviour.
        """
        start, stop = ns_of(start_s, "start_s"), ns_of(stop_s, "stop_s")
        if stop < start:
            message = f"{self.id}: a window from {start_s:g} s stops at {stop_s:g} s, before it starts"
            raise UsageError(message)
        chosen = {name: self.signals[name] for name in (self.signals if signals is None else signals)}
        inside = {name: _cut(signal, start, stop) for name, signal in chosen.items()}
        observed = self.observed.intersect(Intervals([start], [stop]))
        return SessionWindow(self.id, start, stop, self._reader.window(start, stop), inside, observed, self.n_units)

    def spikes_of(self, unit: str | int) -> np.ndarray:
        """int64 ns: the spikes of one unit, by its id or its row.

        Raises:
            UnknownNameError, UsageError: there is no such unit.
        """
        if isinstance(unit, str):
            row = np.flatnonzero(self.unit_table.id == unit)
            if not row.size:
                raise UnknownNameError("unit", unit, self.unit_table.id.tolist(), self.id)
            unit = int(row[0])
        return self._reader.unit_times(int(unit))

    def load(self) -> Session:
        """All of it in memory, its digest checked: the noun that the rest of the package works with."""
        return read_session(self.path)

    def to_pynapple(self) -> dict[str, object]:
        """The session as pynapple has it: ``units`` (TsGroup), each signal (TsdFrame), ``trials`` and ``observed``
        (IntervalSet). Times become float seconds.

        Raises:
            MissingExtraError: pynapple is not installed.
        """
        nap = require("pynapple", "pynapple", "a session as pynapple has it")
        session = self.load()
        observed = nap.IntervalSet(session.observed.start_ns / NS_PER_S, session.observed.stop_ns / NS_PER_S)
        span = nap.IntervalSet(session.start_ns / NS_PER_S, session.stop_ns / NS_PER_S)
        order = np.argsort(session.spikes.unit, kind="stable")
        count = np.bincount(session.spikes.unit, minlength=len(session.units))
        each = np.split(session.spikes.time_ns[order], np.cumsum(count)[:-1])
        plain = {name: c for name, c in columns_of(session.units.columns).items() if isinstance(c, np.ndarray)}
        trains = {k: nap.Ts(times / NS_PER_S, time_support=span) for k, times in enumerate(each)}
        metadata = {name: c for name, c in plain.items() if name not in ("rate", "index")}
        metadata["unit_id"] = session.units.id
        found: dict[str, object] = {"units": nap.TsGroup(trains, time_support=span, metadata=metadata)}
        for name, signal in session.behaviours.items():
            value = np.where(signal.valid[:, None], signal.value, np.nan)
            found[name] = nap.TsdFrame(t=signal.time_ns / NS_PER_S, d=value, columns=list(signal.components))
        if session.trials is not None and len(session.trials):
            trials = session.trials
            about = {n: c for n, c in columns_of(trials.columns).items() if isinstance(c, np.ndarray)}
            own = {n: c for n, c in about.items() if n not in ("start", "end")}
            found["trials"] = nap.IntervalSet(trials.start_ns / NS_PER_S, trials.stop_ns / NS_PER_S, metadata=own)
        return found | {"observed": observed}


def _cut(signal: Signal, start_ns: int, stop_ns: int) -> Signal:
    low, high = np.searchsorted(signal.time_ns, [start_ns, stop_ns])
    rows = slice(low, high)
    return Signal(
        signal.time_ns[rows], signal.value[rows], signal.components, signal.measure, signal.valid[rows], signal.rate_hz
    )


class Sessions(Sequence[StoredSession]):
    """Sessions that were chosen, in order of id; a notebook shows them as a table."""

    def __init__(self, workspace: Workspace, ids: Sequence[str]) -> None:
        self._workspace, self.ids = workspace, list(ids)

    @overload
    def __getitem__(self, index: int) -> StoredSession: ...
    @overload
    def __getitem__(self, index: slice) -> Sessions: ...
    def __getitem__(self, index: int | slice) -> StoredSession | Sessions:
        if isinstance(index, slice):
            return Sessions(self._workspace, self.ids[index])
        return StoredSession(self._workspace, self.ids[index])

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        shown = ", ".join(self.ids[:3]) + (f" and {len(self.ids) - 3} more" if len(self.ids) > 3 else "")
        return f"Sessions({len(self.ids)}: {shown})"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> pd.DataFrame:
        """A row a session, by id: subject, units, spikes, seconds, trials, behaviours, day."""
        import pandas as pd

        rows = []
        for session in self:
            facts = session.facts
            rows.append(
                {
                    "subject": session.subject,
                    "units": session.n_units,
                    "spikes": session.n_spikes,
                    "seconds": session.duration_s,
                    "trials": self._workspace.sizes(session.id)["n_trials"],
                    "behaviours": ", ".join(sorted(facts["signals"])),
                    "day": str(facts["session_start"])[:10],
                }
            )
        columns = ["subject", "units", "spikes", "seconds", "trials", "behaviours", "day"]
        return pd.DataFrame(rows, index=pd.Index(self.ids, name="session"), columns=columns)
