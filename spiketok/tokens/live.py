"""Live streams: a window's tokens the moment that the window is complete, equal to those of the baked shard.

A :class:`Streamer` takes spikes in pieces of any size and keeps only the stretch that the next window can still reach.
When a window is complete it bakes that stretch with the scheme's own bake and cuts the window with its own cut, so that
there is one definition of the tokens: law 7 of ``schemes/base.py``.

Known beforehand, because the recording was planned: the units, where the stream begins, the trials, and which time is
observed. Whether a bin is observed is therefore never a question of what arrived: a live window says the same as the
shard. Unknown until :meth:`Streamer.finish` is where the stream ends; windows are wholly inside the stream, so that a
last bin that reaches over its end is in none of them.

Shape letters: S spikes of a piece, T samples of a piece, C components.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session, Signal, Spikes
from spiketok.tokens.schemes.base import Scheme, Tokens, Windows
from spiketok.tokens.schemes.behaviour import REACH_PERIODS, takes_line

FIRST_ROOM = 4096  # rows that a buffer has at first; it doubles when the stretch that must be kept outgrows it

Window = tuple[int, Tokens]


class _Rows:
    """Columns that grow at their end and are forgotten from their start, always contiguous."""

    def __init__(self, columns: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
        self._low = self._high = 0
        self._column = {name: np.empty((FIRST_ROOM, *item), dtype) for name, (dtype, item) in columns.items()}
        self._readable = self._read_only()

    def _read_only(self) -> dict[str, np.ndarray]:
        """Views as a session has them: a kernel that was compiled for read-only arrays serves them too."""
        views = {name: column.view() for name, column in self._column.items()}
        for view in views.values():
            view.flags.writeable = False
        return views

    def __len__(self) -> int:
        return self._high - self._low

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readable[name][self._low : self._high]

    def tail(self, name: str, first: int) -> np.ndarray:
        """The writeable rows from ``first`` on."""
        return self._column[name][self._low + first : self._high]

    def append(self, n_rows: int, **values: np.ndarray) -> None:
        if self._high + n_rows > len(next(iter(self._column.values()))):
            self._make_room(n_rows)
        for name, value in values.items():
            self._column[name][self._high : self._high + n_rows] = value
        self._high += n_rows

    def forget(self, n_rows: int) -> None:
        self._low += n_rows

    def _make_room(self, n_rows: int) -> None:
        """Move the kept rows to the start, into larger arrays where these would be more than half full."""
        kept, room = len(self), len(next(iter(self._column.values())))
        while 2 * (kept + n_rows) > room:
            room *= 2
        for name, column in self._column.items():
            larger = column if room == len(column) else np.empty((room, *column.shape[1:]), column.dtype)
            larger[:kept] = column[self._low : self._high]
            self._column[name] = larger
        self._low, self._high = 0, kept
        self._readable = self._read_only()


class _LiveSignal(Signal):
    """The samples that came so far, with the period of the whole signal, which was known beforehand."""

    @property
    def period_ns(self) -> int:
        return self.__dict__["planned_period_ns"]


class _Stretch(Intervals):
    """One interval that is not empty, and so its own union: making that again would take longer than counting."""

    def union(self) -> Intervals:
        return self


def _trusted(noun: type, **values: object):
    """A noun without the checks of its construction: what is in it was checked as it came."""
    made = object.__new__(noun)
    made.__dict__.update(values)
    return made


class Streamer:
    """Tokens of sequential windows of one live session.

    Windows of ``length_ns`` begin at ``start_ns`` and then every ``step_ns``. One is complete when everything before
    its stop has come: a spike at or after it, or :meth:`advance` or ``now_ns`` that says so; with right-closed bins,
    which hold a spike at their very end, everything up to its stop. Where the scheme lays a behaviour on bins that are
    shorter than two of its samples, the window also waits for the line to its neighbours after the stop: 2.5 sampling
    periods.

    Args:
        scheme: what makes the tokens.
        plan: the session as it is known beforehand: units, observed time, trials. Its spikes are not read. Of its
            ``signals`` only names, components and sampling period are.
        length_ns: the windows' length; a scheme with one window length has it as default.
        step_ns: from one window's start to the next; default: end to end.
        start_ns: where the stream begins; default: ``plan.start_ns``. The shard's segment begins there.
        first_ns: where the first window begins, on the scheme's grid counted from ``start_ns``; default: there. What
            comes before it is what the first windows look back at.
        unit_row: int32 ``[N]``, what tokens hold for each unit; the plan's own rows by default.

    Attributes:
        n_spikes: the spikes that came.
        signals: the behaviours that the scheme reads, which come by :meth:`push_signal`.

    Raises:
        NotServedError: the scheme needs what the session does not have. DataError: a behaviour's sampling period is
            not known. UsageError: the windows do not fit the scheme, or its tokens depend on the whole session.

    Methods give a list of ``(window start in ns, its Tokens)``, oldest first.
    """

    def __init__(
        self,
        scheme: Scheme,
        plan: Session,
        length_ns: int | None = None,
        *,
        step_ns: int | None = None,
        start_ns: int | None = None,
        first_ns: int | None = None,
        unit_row: np.ndarray | None = None,
    ) -> None:
        self.scheme, self.n_units, self.n_spikes = scheme, len(plan.units), 0
        self._unit_row = unit_row
        if scheme.not_live:
            message = f"scheme {scheme.name} cannot be streamed like this: {scheme.not_live}"
            raise UsageError(message)
        self.signals = scheme.signals_read
        self.length_ns = _window_length(scheme, length_ns)
        self.step_ns = self.length_ns if step_ns is None else step_ns
        self.start_ns = int(plan.start_ns if start_ns is None else start_ns)
        self._ahead_ns = scheme.lookahead_ns
        self._back_ns = -(-scheme.lookback_ns // scheme.grid_ns) * scheme.grid_ns
        self.first_ns = self.start_ns if first_ns is None else int(first_ns)
        if self.first_ns < self.start_ns or (self.first_ns - self.start_ns) % scheme.grid_ns:
            message = (
                f"the first window begins at {self.first_ns} ns, must be on the {scheme.grid_ns} ns grid of "
                f"{scheme.name} from the stream's start, {self.start_ns} ns"
            )
            raise UsageError(message)
        self._now_ns = self.start_ns
        self._next_ns = self._given_ns = self.first_ns  # _given_ns: where the last given window stops
        self._n_inside = 0
        self._finished_ns: int | None = None
        self._spikes = _Rows({"time_ns": (np.dtype(np.int64), ()), "unit": (np.dtype(np.int32), ())})
        self._signals = {
            name: _SignalStream(plan, name, scheme.grid_ns) for name in self.signals if name in plan.signals
        }
        self._plan = dict(plan.__dict__)
        self._only = np.zeros(1, np.int64)  # the segment of every window
        self._tokens(self.first_ns)  # refuses what cannot be served, and compiles before the first spike comes
        if self.step_ns <= 0 or self.step_ns % scheme.grid_ns:
            message = f"steps of {self.step_ns} ns are no positive multiple of the {scheme.grid_ns} ns of {scheme.name}"
            raise UsageError(message)

    def push(self, time_ns: np.ndarray, unit: np.ndarray, now_ns: int | None = None) -> list[Window]:
        """Take the next spikes.

        Args:
            time_ns: int64 ``[S]``, non-decreasing, not before any that came; ties in any order of unit.
            unit: int32 ``[S]``, rows of the plan's unit table.
            now_ns: all spikes before it have come.

        Raises:
            UsageError: times go back, or the stream is finished. DataError: a unit that the plan does not have.
        """
        time_ns, unit = np.asarray(time_ns), np.asarray(unit)
        if time_ns.size or unit.size:
            self._check_piece(time_ns, unit)
            self._append(time_ns, unit)
        elif self._finished_ns is not None:
            self._refuse_finished()
        if now_ns is not None:
            self._advance(now_ns)
        return self._complete()

    def advance(self, now_ns: int) -> list[Window]:
        """Say that everything before ``now_ns`` has come, spikes and behaviours.

        Raises:
            UsageError: time goes back, or the stream is finished.
        """
        if self._finished_ns is not None:
            self._refuse_finished()
        self._advance(now_ns)
        for stream in self._signals.values():
            stream.advance(now_ns)
        return self._complete()

    def push_signal(self, name: str, time_ns: np.ndarray, value: np.ndarray, valid: np.ndarray) -> list[Window]:
        """Take the next samples of a behaviour.

        Args:
            time_ns: int64 ``[T]``, strictly rising over the whole stream. value: float32 ``[T, C]``.
            valid: bool ``[T]``.

        Raises:
            UnknownNameError: the stream was not made for this behaviour. UsageError: times go back, or shapes differ.
        """
        if self._finished_ns is not None:
            self._refuse_finished()
        if name not in self._signals:
            raise UnknownNameError("behaviour", name, self._signals, "the stream")
        self._signals[name].push(time_ns, value, valid)
        return self._complete()

    def finish(self, stop_ns: int, *, flush_ns: int | None = None) -> list[Window]:
        """End the stream: nothing more comes, from spikes or behaviours, and it stops at ``stop_ns``.

        Args:
            flush_ns: where the windows leave time over before this moment, one more ends there, as in an evaluation.

        Raises:
            UsageError: a spike has come that is not before ``stop_ns``, or the stream is finished already.
        """
        if self._finished_ns is not None:
            self._refuse_finished()
        last_ns = int(self._spikes["time_ns"][-1]) if len(self._spikes) else self.start_ns - 1
        if stop_ns <= last_ns or stop_ns < self._now_ns:
            message = f"the stream cannot stop at {stop_ns} ns: it is at {max(last_ns, self._now_ns)} ns already"
            raise UsageError(message)
        self._finished_ns = self._now_ns = int(stop_ns)
        done = self._complete()
        if flush_ns is not None and self.first_ns <= self._next_ns - self.step_ns < flush_ns - self.length_ns:
            self._next_ns = flush_ns - self.length_ns
            done.append((self._next_ns, self._tokens(self._next_ns)))
            self._step()
        return done

    @property
    def now_ns(self) -> int:
        """All spikes before this have come."""
        return self._now_ns

    @property
    def n_outside(self) -> int:
        """Spikes that came and are in no window that was given: they wait for one, or are after or between them."""
        return self.n_spikes - self._n_inside

    # ---- what comes -------------------------------------------------------------------------------------------------

    def _refuse_finished(self) -> None:
        message = f"the stream was finished at {self._finished_ns} ns: nothing more can come"
        raise UsageError(message)

    def _check_piece(self, time_ns: np.ndarray, unit: np.ndarray) -> None:
        if self._finished_ns is not None:
            self._refuse_finished()
        if time_ns.ndim != 1 or time_ns.shape != unit.shape or time_ns.dtype.kind != "i" or unit.dtype.kind != "i":
            message = (
                f"a piece has times {time_ns.dtype} {time_ns.shape} and units {unit.dtype} {unit.shape}, "
                "must be whole numbers [S] and [S]"
            )
            raise UsageError(message)
        if time_ns[0] < self._now_ns:
            message = f"a spike at {int(time_ns[0])} ns comes when the stream is at {self._now_ns} ns already"
            raise UsageError(message)
        back = time_ns[1:] < time_ns[:-1]
        if back.any():
            k = int(back.argmax())
            message = f"a spike at {int(time_ns[k + 1])} ns comes after one at {int(time_ns[k])} ns: not in order"
            raise UsageError(message)
        if unit.min() < 0 or unit.max() >= self.n_units:
            wrong = int(unit[(unit < 0) | (unit >= self.n_units)][0])
            message = f"{self._plan['id']}: a spike of unit row {wrong} in a table of {self.n_units} units"
            raise DataError(message)

    def _append(self, time_ns: np.ndarray, unit: np.ndarray) -> None:
        """Behind the rest, ties in order of unit whatever the order in which they came."""
        spikes, before = self._spikes, len(self._spikes)
        spikes.append(time_ns.size, time_ns=time_ns, unit=unit)
        self.n_spikes += time_ns.size
        known = spikes["time_ns"]
        first = before
        if before and known[before - 1] == known[before]:
            first = int(np.searchsorted(known, known[before]))
        tail, units = known[first:], spikes.tail("unit", first)
        if ((tail[1:] == tail[:-1]) & (units[1:] < units[:-1])).any():
            units[:] = units[np.lexsort((units, tail))]
        self._now_ns = int(time_ns[-1])

    def _advance(self, now_ns: int) -> None:
        if now_ns < self._now_ns:
            message = f"time cannot go back to {now_ns} ns: the stream is at {self._now_ns} ns already"
            raise UsageError(message)
        self._now_ns = int(now_ns)

    # ---- what goes --------------------------------------------------------------------------------------------------

    def _complete(self) -> list[Window]:
        reached = self._now_ns - self._ahead_ns
        if self._finished_ns is not None:
            reached = self._finished_ns
        else:
            for stream in self._signals.values():
                reached = min(reached, self.start_ns if stream.now_ns is None else stream.now_ns - stream.reach_ns)
        done = []
        while self._next_ns + self.length_ns <= reached:
            done.append((self._next_ns, self._tokens(self._next_ns)))
            self._step()
        return done

    def _tokens(self, start_ns: int) -> Tokens:
        """Bake the stretch that the window reaches and cut the window out of it."""
        first_ns, stop_ns = start_ns - self._back_ns, start_ns + self.length_ns + self._ahead_ns
        if self._finished_ns is not None:
            stop_ns = min(stop_ns, self._finished_ns)
        ends = np.array([[max(self.start_ns, first_ns)], [stop_ns]])
        ends.flags.writeable = False
        time_ns = self._spikes["time_ns"]
        low, high = time_ns.searchsorted(ends[:, 0]).tolist()
        session = _trusted(Session, **self._plan)
        session.__dict__["spikes"] = _trusted(Spikes, time_ns=time_ns[low:high], unit=self._spikes["unit"][low:high])
        session.__dict__["signals"] = {name: stream.signal() for name, stream in self._signals.items()}
        stretch = _trusted(_Stretch, start_ns=ends[0], stop_ns=ends[1], columns={})
        columns = self.scheme.bake(session, stretch).columns
        return self.scheme.cut(
            columns, Windows(self._only, np.array([start_ns]), self.length_ns), unit_row=self._unit_row
        )

    def _step(self) -> None:
        """Go to the next window, and forget what lies before the one that was given and its look back.

        The given one is kept: a last window that is flush with the stream's end may begin inside of it.
        """
        time_ns, stop_ns = self._spikes["time_ns"], self._next_ns + self.length_ns
        new_ns, oldest_ns = max(self._next_ns, self._given_ns), self._next_ns - self._back_ns
        self._given_ns, self._next_ns = stop_ns, self._next_ns + self.step_ns
        first, stop, oldest = time_ns.searchsorted(np.array([new_ns, stop_ns, oldest_ns])).tolist()
        self._n_inside += stop - first
        self._spikes.forget(oldest)
        for stream in self._signals.values():
            stream.forget(oldest_ns)


class _SignalStream:
    """The samples of one behaviour that windows can still reach."""

    def __init__(self, plan: Session, name: str, grid_ns: int) -> None:
        self.plan, self.name = plan.signals[name], name
        period_ns = _planned_period_ns(plan.id, name, self.plan) if grid_ns > 1 else 0
        on_line = grid_ns > 1 and takes_line(period_ns, grid_ns)
        self.reach_ns = int(np.ceil(REACH_PERIODS * period_ns)) if on_line else 0
        self.now_ns: int | None = None
        self._period_ns = period_ns
        n = len(self.plan.components)
        self._rows = _Rows(
            {
                "time_ns": (np.dtype(np.int64), ()),
                "value": (np.dtype(np.float32), (n,)),
                "valid": (np.dtype(np.bool_), ()),
            }
        )

    def push(self, time_ns: np.ndarray, value: np.ndarray, valid: np.ndarray) -> None:
        piece = Signal(time_ns, value, self.plan.components, self.plan.measure, valid)  # its checks are the piece's
        if len(piece.time_ns) == 0:
            return
        if self.now_ns is not None and piece.time_ns[0] < self.now_ns:
            message = (
                f"a sample of '{self.name}' at {int(piece.time_ns[0])} ns comes when it is at {self.now_ns} ns already"
            )
            raise UsageError(message)
        self._rows.append(len(piece.time_ns), time_ns=piece.time_ns, value=piece.value, valid=piece.valid)
        self.now_ns = int(piece.time_ns[-1]) + 1  # samples rise strictly

    def advance(self, now_ns: int) -> None:
        self.now_ns = now_ns if self.now_ns is None else max(self.now_ns, now_ns)

    def signal(self) -> Signal:
        plan, rows = self.plan, self._rows
        return _trusted(
            _LiveSignal,
            time_ns=rows["time_ns"],
            value=rows["value"],
            valid=rows["valid"],
            components=plan.components,
            measure=plan.measure,
            rate_hz=plan.rate_hz,
            planned_period_ns=self._period_ns,
        )

    def forget(self, oldest_ns: int) -> None:
        self._rows.forget(int(self._rows["time_ns"].searchsorted(oldest_ns - self.reach_ns)))


def _planned_period_ns(session_id: str, name: str, plan: Signal) -> int:
    """The sampling period that the plan's samples have, or that its rate declares."""
    if len(plan.time_ns) > 1:
        return plan.period_ns
    if plan.rate_hz:
        return round(NS_PER_S / plan.rate_hz)
    message = f"{session_id}: the sampling period of '{name}' is not known beforehand: give the plan's signal a rate_hz"
    raise DataError(message)


def _window_length(scheme: Scheme, length_ns: int | None) -> int:
    if length_ns is None:
        length_ns = scheme.window_ns
    if length_ns is None:
        message = f"scheme {scheme.name} has windows of any length: say how long (length_ns)"
        raise UsageError(message)
    return length_ns


# ---- replay ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplayResult:
    """What a replay did, and how long each window's tokens took.

    Args:
        n_spikes: all that were pushed; ``n_outside`` of them are in no window (after the last one, or between them).
        wall_s: how long the replay took. recording_s: how much time of the recording it went through.
        latency_us: from the call that brought a window's last piece to its tokens: ``p50``, ``p90``, ``p99``, ``max``.
        late_ms: in real time, by how much the calls came after their moment, same keys; empty at full speed.
    """

    session_id: str
    scheme: str
    length_ns: int
    step_ns: int
    n_windows: int
    n_tokens: int
    n_spikes: int
    n_outside: int
    wall_s: float
    recording_s: float
    latency_us: Mapping[str, float]
    late_ms: Mapping[str, float]


def replay(
    session: Session,
    scheme: Scheme,
    *,
    length_ns: int | None = None,
    step_ns: int | None = None,
    speed: float | None = None,
    piece_ns: int = NS_PER_MS,
    duration_ns: int | None = None,
    on_window: Callable[[int, Tokens], None] | None = None,
) -> ReplayResult:
    """Play a recorded session as a live stream, in pieces of ``piece_ns`` as an acquisition system sends them.

    Args:
        length_ns, step_ns: as of :class:`Streamer`.
        speed: 1.0 for real time, 2.0 for twice as fast; None for as fast as it can.
        duration_ns: play only so much of the session, from its start.
        on_window: called with each window's start and tokens; what it takes is not in the latency.

    Raises:
        UsageError: a speed or piece that is not above 0, or windows that do not fit the scheme.
        NotServedError: the scheme needs what the session does not have.
    """
    if piece_ns <= 0 or (speed is not None and not speed > 0):
        message = f"pieces of {piece_ns} ns at speed {speed}: both must be above 0"
        raise UsageError(message)
    streamer = Streamer(scheme, session, length_ns, step_ns=step_ns)
    spikes, latency_ns, late_ns, n_tokens = session.spikes, [], [], 0
    stop_ns = int(session.stop_ns)
    if duration_ns is not None:
        stop_ns = min(stop_ns, int(session.start_ns) + max(duration_ns, 1))
    edges = np.append(np.arange(session.start_ns + piece_ns, stop_ns, piece_ns), stop_ns)
    row = np.searchsorted(spikes.time_ns, np.append(session.start_ns, edges)).tolist()  # one may lie alone before
    samples = {name: _Samples(session.signals[name], edges, session.stop_ns) for name in streamer.signals}
    begun = time.perf_counter_ns()
    for k, edge in enumerate(edges.tolist()):
        if speed is not None:
            late_ns.append(wait_until(begun + round((edge - session.start_ns) / speed)))
        asked = time.perf_counter_ns()
        done = streamer.push(spikes.time_ns[row[k] : row[k + 1]], spikes.unit[row[k] : row[k + 1]], edge)
        for name, own in samples.items():
            done += streamer.push_signal(name, *own.piece(k))
        if samples:
            done += streamer.advance(edge)
        if k == len(edges) - 1:
            done += streamer.finish(stop_ns)
        took = time.perf_counter_ns() - asked
        for start_ns, tokens in done:
            latency_ns.append(took)
            n_tokens += int(tokens.offset[-1])
            if on_window is not None:
                on_window(start_ns, tokens)
    return ReplayResult(
        session_id=session.id,
        scheme=scheme.name,
        length_ns=streamer.length_ns,
        step_ns=streamer.step_ns,
        n_windows=len(latency_ns),
        n_tokens=n_tokens,
        n_spikes=streamer.n_spikes,
        n_outside=streamer.n_outside,
        wall_s=(time.perf_counter_ns() - begun) / NS_PER_S,
        recording_s=(stop_ns - session.start_ns) / NS_PER_S,
        latency_us=_percentiles(latency_ns, 1e3),
        late_ms=_percentiles(late_ns, 1e6),
    )


class _Samples:
    """A behaviour in the pieces of a replay."""

    def __init__(self, signal: Signal, edges: np.ndarray, session_stop_ns: int) -> None:
        self._signal = signal
        self._row = np.concatenate([[0], np.searchsorted(signal.time_ns, edges)]).tolist()
        if edges[-1] >= session_stop_ns:  # samples may outlast the session's extent: they come with the last piece
            self._row[-1] = len(signal.time_ns)

    def piece(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = slice(self._row[k], self._row[k + 1])
        return self._signal.time_ns[rows], self._signal.value[rows], self._signal.valid[rows]


def wait_until(moment_ns: int) -> int:
    """Sleep until the clock of ``perf_counter_ns`` shows the moment; by how much it was missed."""
    left_ns = moment_ns - time.perf_counter_ns()
    if left_ns > 0:
        time.sleep(left_ns / NS_PER_S)
    return time.perf_counter_ns() - moment_ns


def _percentiles(values_ns: list[int], unit_ns: float) -> dict[str, float]:
    if not values_ns:
        return {}
    p50, p90, p99, most = np.percentile(values_ns, [50, 90, 99, 100]) / unit_ns
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(most)}
