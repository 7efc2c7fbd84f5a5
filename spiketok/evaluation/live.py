"""Live decoding: a trained model's predictions of each window the moment that it is complete.

What is unusual:

- each window is predicted once, and only the time that no earlier window answered is given, by the rule of the causal
  stitching (``training.predict.Walk``): the numbers are those of the offline causal prediction;
- a model that is not causal by itself answers the last step of each window alone; one that carries a state reads the
  shortest windows that it can (``Model.shortest_window_ns``), each once;
- windows lie where those of an evaluation would: inside stretches of observed time, with a last one flush with the end
  of each. Spikes before a stretch are what its first windows look back at, as far as its segment reaches;
- what a model computes of the session's calibration it computes once, at the start (``Model.calibrate``);
- nothing that is asked needs the truth: a behaviour is asked at the middles of bins, or at the planned sample times.
  Other tasks of a run are not asked; of a population task stays what it hides.

Shape letters: S spikes of a piece, Q query times, C components.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Facts, Tokens
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.recording.segments import CONTINUOUS, OBSERVED, resolve_segments
from spiketok.tokens.live import Streamer, Window
from spiketok.tokens.schemes.base import Tokens as Cut
from spiketok.tokens.schemes.base import Windows
from spiketok.training.checkpoints import Run
from spiketok.training.predict import Walk, eval_step_ns, used_queries
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import SessionTokens, SessionWindows, listing
from spiketok.training.tasks.base import Group
from spiketok.training.tasks.decode import Decode
from spiketok.training.tasks.population import Population

NEVER_NS = -(2**62)  # before any recording


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one window adds.

    Args:
        start_ns: where the window begins. time_ns: by task, int64 ``[Q]``, new times only.
        value: by task, float64 ``[Q, C]``, in the behaviour's own measure.
        model_ns: what the model took. tokens_ns: what the tokens took, of all windows that one call completed.
    """

    start_ns: int
    time_ns: Mapping[str, np.ndarray]
    value: Mapping[str, np.ndarray]
    model_ns: int
    tokens_ns: int


@dataclass(frozen=True)
class _Stretch:
    """Time in which windows lie: the first begins at ``first_ns``, none ends after ``stop_ns``.

    Spikes from ``origin_ns`` on are looked back at; those up to ``end_ns`` are looked ahead at.
    """

    origin_ns: int
    first_ns: int
    stop_ns: int
    end_ns: int


class _Open:
    """A stretch that the stream has reached, with a streamer for each input."""

    def __init__(self, stretch: _Stretch, streamers: Mapping[str, Streamer]) -> None:
        self.stretch, self.streamers = stretch, streamers
        self.waiting: dict[str, deque[Window]] = {name: deque() for name in streamers}

    def push(self, time_ns: np.ndarray, unit: np.ndarray, now_ns: int | None) -> None:
        for name, streamer in self.streamers.items():
            self.waiting[name] += streamer.push(time_ns, unit, now_ns)

    def finish(self, stop_ns: int, flush_ns: int | None) -> None:
        for name, streamer in self.streamers.items():
            self.waiting[name] += streamer.finish(stop_ns, flush_ns=flush_ns)


class LiveDecoder:
    """Predictions of one live session by a trained model.

    Args:
        run: from ``load_run``. tokens: the session's shards, for what is cut once a session and for its facts.
        plan: the session as it is known beforehand, as of :class:`~spiketok.tokens.live.Streamer`: its observed time
            is where windows lie.
        calibration: the time of which the session's inputs are cut.
        start_ns: where the stream begins; ``plan.start_ns`` by default.
        windows: where windows lie instead, for a replay: those of a split of the stored session. The spikes that they
            look back at come before: the stream begins at :attr:`start_ns`.
        step_ns: from one window's start to the next, for a model that carries nothing; the run's by default.

    Attributes:
        start_ns, stop_ns: where the stream begins and ends. needed: the time of which spikes can be reached.

    Raises:
        DataError: the model does not know the session, or no time is observed. UsageError: the run cannot be decoded
            live.
    """

    def __init__(
        self,
        run: Run,
        tokens: SessionTokens,
        plan: Session,
        calibration: Intervals,
        start_ns: int | None = None,
        *,
        windows: SessionWindows | None = None,
        step_ns: int | None = None,
    ) -> None:
        self.model, self._tokens, self._plan = run.model.eval(), tokens, plan
        _require_live(run, tokens, plan)
        self.tasks = [task for task in run.tasks if isinstance(task, Decode) and not task.why_not(tokens)]
        self._hiding = [task for task in run.tasks if isinstance(task, Population) and not task.why_not(tokens)]
        data, self._bin_ns = run.config.data, tokens.bin_ns
        if self.model.carries:
            self.window_ns = self.step_ns = self.model.shortest_window_ns()
        else:
            self.window_ns, self.step_ns = data.window_ns, live_step_ns(run, tokens, step_ns)
        schemes = [reader.scheme for reader in tokens.windowed.values()]
        self._back_ns = -(-max(s.lookback_ns for s in schemes) // tokens.grid_ns) * tokens.grid_ns
        self._ahead_ns = max(s.lookahead_ns for s in schemes)
        found = self._planned(data.segments, start_ns) if windows is None else self._of(windows)
        self._coming = deque(s for s in found if s.stop_ns - s.first_ns >= self.window_ns)
        if not self._coming:
            message = f"{plan.id}: no window of {self.window_ns / 1e6:g} ms fits into the time that is to be streamed"
            raise DataError(message)
        origin, end = ([getattr(s, edge) for s in self._coming] for edge in ("origin_ns", "end_ns"))
        self.start_ns, self.stop_ns, self.needed = origin[0], end[-1], Intervals(origin, end).union()
        self._now_ns = NEVER_NS
        self._ended = False
        self._unit_row = np.ascontiguousarray(self.model.unit_row(tokens.info), np.int32)
        self._open: list[_Open] = [self._opened(self._coming.popleft())]
        self._walk = Walk(self.step_ns, True, self.model.causal)
        self._carry: object = None
        self._batch = self._empty_batch(calibration)
        if tokens.once_names and "zero_gradient" in self.model.protocols:
            self.model = copy.deepcopy(self.model)  # what it keeps of this calibration is this stream's alone
            self.model.calibrate([self._batch])
        self._posed = {task.name: self._pose(task) for task in self.tasks}

    # ---- where windows lie ------------------------------------------------------------------------------------------

    def _planned(self, rule: str, start_ns: int | None) -> list[_Stretch]:
        """The plan's observed time from the stream's start on; a stream knows of no trials to be cut around."""
        plan, grid_ns = self._plan, self._tokens.grid_ns
        begins = int(plan.start_ns if start_ns is None else start_ns)
        segments = resolve_segments(plan, CONTINUOUS if rule == CONTINUOUS else OBSERVED)
        found = []
        for low, high in zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True):
            low = max(low, begins)
            if low >= high:
                continue
            inside = plan.observed.intersect(Intervals([low], [high]))
            for start, stop in zip(inside.start_ns.tolist(), inside.stop_ns.tolist(), strict=True):
                first, last = low - (low - start) // grid_ns * grid_ns, low + (stop - low) // grid_ns * grid_ns
                found.append(self._stretch(low, first, last, high))
        return found

    def _of(self, windows: SessionWindows) -> list[_Stretch]:
        segments = windows.segments
        found = [
            self._stretch(int(segments.start_ns[g]), start, stop, int(segments.stop_ns[g]))
            for g, start, stop in zip(windows.segment, windows.start_ns.tolist(), windows.stop_ns.tolist(), strict=True)
        ]
        for k in range(1, len(found)):
            if found[k].first_ns < found[k - 1].stop_ns:
                message = (
                    f"{windows.id}: segments overlap at {found[k].first_ns} ns, and a stream passes a moment once: "
                    "tokenize and train without --segments trials"
                )
                raise UsageError(message)
        return found

    def _stretch(self, low_ns: int, first_ns: int, stop_ns: int, high_ns: int) -> _Stretch:
        """Windows between two moments of a segment, which begins and ends at ``low_ns`` and ``high_ns``."""
        origin = max(low_ns, first_ns - self._back_ns)
        return _Stretch(origin, first_ns, stop_ns, min(high_ns, stop_ns + self._ahead_ns))

    def _opened(self, stretch: _Stretch) -> _Open:
        return _Open(
            stretch,
            {
                name: Streamer(
                    reader.scheme,
                    self._plan,
                    self.window_ns,
                    step_ns=self.step_ns,
                    start_ns=stretch.origin_ns,
                    first_ns=stretch.first_ns,
                    unit_row=self._unit_row,
                )
                for name, reader in self._tokens.windowed.items()
            },
        )

    # ---- the stream -------------------------------------------------------------------------------------------------

    def push(self, time_ns: np.ndarray, unit: np.ndarray, now_ns: int | None = None) -> list[Decoded]:
        """Take the next spikes; the predictions of the windows that they complete.

        Args:
            time_ns: int64 ``[S]``, non-decreasing, not before any that came; ties in any order of unit. Spikes that no
                window can reach are passed over.
            unit: int32 ``[S]``, rows of the plan's unit table. now_ns: all spikes before it have come.

        Raises:
            UsageError: times go back, or the stream is finished. DataError: a unit that the plan does not have.
        """
        begun = time.perf_counter_ns()
        time_ns, unit = np.asarray(time_ns), np.asarray(unit)
        self._go_on(time_ns, now_ns)
        done: list[Decoded] = []
        for part in list(self._open):
            own = part.stretch
            rows = slice(None)
            if time_ns.size and (time_ns[0] < own.origin_ns or time_ns[-1] >= own.end_ns):
                rows = slice(*np.searchsorted(time_ns, [own.origin_ns, own.end_ns]).tolist())
            ended = self._now_ns >= own.end_ns
            told = now_ns is not None and not ended and now_ns >= own.origin_ns
            part.push(time_ns[rows], unit[rows], now_ns if told else None)
            if ended:
                self._finish(part, own.end_ns)
                self._open.remove(part)
            done += self._complete(part, begun)
        return done

    def gap(self, stop_ns: int, start_ns: int) -> list[Decoded]:
        """Say that nothing was recorded from ``stop_ns`` to ``start_ns``, where the plan did not know it.

        Windows end before it and begin anew behind it, with nothing to look back at.

        Raises:
            UsageError: times go back, or the stream is finished.
        """
        begun = time.perf_counter_ns()
        if stop_ns < self._now_ns or start_ns < stop_ns:
            message = f"a gap from {stop_ns} to {start_ns} ns: must begin at or after {self._now_ns} ns and not go back"
            raise UsageError(message)
        self._go_on(np.zeros(0, np.int64), stop_ns)
        done, grid_ns = self._end(stop_ns, begun), self._tokens.grid_ns
        coming = []
        for own in (*(part.stretch for part in self._open), *self._coming):
            if own.stop_ns - start_ns < self.window_ns:
                continue
            first = max(own.first_ns, start_ns)
            origin = max(own.origin_ns, first - (first - start_ns) // grid_ns * grid_ns)
            coming.append(_Stretch(origin, first, first + (own.stop_ns - first) // grid_ns * grid_ns, own.end_ns))
        self._open, self._coming, self._now_ns = [], deque(coming), int(start_ns)
        return done

    def finish(self, stop_ns: int) -> list[Decoded]:
        """End the stream, as ``Streamer.finish``; with a last window flush with its end.

        Raises:
            UsageError: a spike has come that is not before ``stop_ns``, or the stream is finished already.
        """
        begun = time.perf_counter_ns()
        if stop_ns < self._now_ns:
            message = f"the stream cannot stop at {stop_ns} ns: it is at {self._now_ns} ns already"
            raise UsageError(message)
        self._go_on(np.zeros(0, np.int64), stop_ns)
        done, self._ended = self._end(stop_ns, begun), True
        return done

    def _go_on(self, time_ns: np.ndarray, now_ns: int | None) -> None:
        """Be where spikes or a word say that the stream is, and open what it has reached."""
        if self._ended:
            message = f"the stream was finished at {self._now_ns} ns: nothing more can come"
            raise UsageError(message)
        reached = self._now_ns if now_ns is None else int(now_ns)
        if time_ns.size:
            if time_ns[0] < self._now_ns or (time_ns[1:] < time_ns[:-1]).any():
                message = f"spikes from {int(time_ns[0])} ns come out of order when the stream is at {self._now_ns} ns"
                raise UsageError(message)
            reached = max(reached, int(time_ns[-1]))
        if reached < self._now_ns:
            message = f"time cannot go back to {reached} ns: the stream is at {self._now_ns} ns already"
            raise UsageError(message)
        self._now_ns = reached
        while self._coming and self._coming[0].origin_ns <= reached:
            self._open.append(self._opened(self._coming.popleft()))

    def _end(self, stop_ns: int, begun: int) -> list[Decoded]:
        """Finish what is open at a moment."""
        done: list[Decoded] = []
        for part in self._open:
            if part.stretch.origin_ns <= stop_ns:
                self._finish(part, min(part.stretch.end_ns, stop_ns))
                done += self._complete(part, begun)
        return done

    def _finish(self, part: _Open, end_ns: int) -> None:
        """End a stretch; a model that carries meets no window that lies over the one before."""
        own, grid_ns = part.stretch, self._tokens.grid_ns
        flush_ns = min(own.stop_ns, own.first_ns + (end_ns - own.first_ns) // grid_ns * grid_ns)
        part.finish(end_ns, None if self.model.carries else flush_ns)

    # ---- predictions ------------------------------------------------------------------------------------------------

    def _complete(self, part: _Open, begun: int) -> list[Decoded]:
        done, tokens_ns = [], time.perf_counter_ns() - begun
        while all(part.waiting.values()):
            came = {name: waiting.popleft() for name, waiting in part.waiting.items()}
            start_ns = next(iter(came.values()))[0]
            done.append(self._decode(start_ns, {name: tokens for name, (_, tokens) in came.items()}, tokens_ns))
        return done

    @torch.inference_mode()
    def _decode(self, start_ns: int, came: Mapping[str, Cut], tokens_ns: int) -> Decoded:
        begun = time.perf_counter_ns()
        batch = self._batch
        batch.inputs = {name: _tensors(tokens.columns, tokens.offset) for name, tokens in came.items()}
        batch.start_ns = np.array([start_ns], np.int64)
        batch.asked, batch.hidden = {name: self._asked(name, start_ns) for name in self._posed}, {}
        for task in self._hiding:
            window = Windows(np.zeros(1, np.int64), batch.start_ns, self.window_ns)
            task.ask([Group(self._tokens, slice(0, 1), window, None)], batch, _FreshBuffers())
        fresh = self._walk.step(batch)
        output, self._carry = self.model.predict(batch, None if fresh.begins else self._carry)
        times, values = {}, {}
        for task in self.tasks:
            used = used_queries(output, batch, task.name, fresh.since_ns)
            said = output[task.name].double().numpy()[used]
            times[task.name] = batch.asked[task.name].ns[used]
            values[task.name] = said * np.array(task.target.std) + np.array(task.target.mean)
        return Decoded(start_ns, times, values, time.perf_counter_ns() - begun, tokens_ns)

    def _empty_batch(self, calibration: Intervals) -> Batch:
        """The one batch, of which tokens and questions are exchanged from window to window."""
        return Batch(
            inputs={},
            session_inputs={name: [_once(self._tokens, name, calibration)] for name in self._tokens.once_names},
            window_ns=self.window_ns,
            session_B=torch.tensor([self.model.session_row(self._plan.id)]),
            sessions=[self._plan.id],
            start_ns=np.zeros(1, np.int64),
            present=[self._plan.id],
            present_B=torch.zeros(1, dtype=torch.int64),
            facts=Facts({self._plan.id: self._tokens.info}),
        )

    def _pose(self, task: Decode) -> tuple[np.ndarray | None, Asked | None, int]:
        """What is asked of a task: its planned sample times, or the same bins in each window; and its components."""
        n_components = len(task.target.components)
        if self._bin_ns == 1:
            if task.target.name not in self._plan.signals:
                message = f"{self._plan.id}: the plan has no signal '{task.target.name}', whose times are to be decoded"
                raise DataError(message)
            return self._plan.signals[task.target.name].time_ns, None, n_components
        since_ns = np.arange(0, self.window_ns, self._bin_ns, dtype=np.int64) + self._bin_ns // 2
        return None, _question(since_ns, since_ns, n_components), n_components

    def _asked(self, name: str, start_ns: int) -> Asked:
        """The times of a window at which the task asks, without a truth."""
        planned, bins, n_components = self._posed[name]
        if bins is not None:
            return Asked(bins.time, bins.offset, bins.ns + start_ns, bins.target, bins.weight)
        low, high = planned.searchsorted(np.array([start_ns, start_ns + self.window_ns])).tolist()
        return _question(planned[low:high], planned[low:high] - start_ns, n_components)


def live_step_ns(run: Run, tokens: SessionTokens, step_ns: int | None = None) -> int:
    """From one window's start to the next in an evaluation of a run, down to the grid of its inputs.

    Args:
        step_ns: another one than the run's.
    """
    step_ns = eval_step_ns(run.model, run.config.data) if step_ns is None else step_ns
    return max(step_ns // tokens.grid_ns, 1) * tokens.grid_ns


def _require_live(run: Run, tokens: SessionTokens, plan: Session) -> None:
    """Raise where a run or a session cannot be decoded live."""
    model = run.model
    require_inputs(run.config, [tokens])
    if plan.id not in model.sessions():
        known = listing(model.sessions(), 3) or "none"
        message = f"{plan.id} cannot be decoded live: the model does not know it, it knows {known}"
        raise DataError(message)
    decoded = [task for task in run.tasks if isinstance(task, Decode)]
    if not decoded:
        asked = ", ".join(task.name for task in run.tasks)
        message = f"{model.name} answers {asked} in this run: only decode tasks are asked of a stream"
        raise UsageError(message)
    reasons = [task.why_not(tokens) for task in decoded]
    if all(reasons):
        message = f"{plan.id}: {reasons[0]}"
        raise DataError(message)
    for name, reader in tokens.windowed.items():
        if reader.scheme.signals_read:
            message = (
                f"{model.name} cannot be decoded live: its input '{name}' reads the behaviour "
                f"{', '.join(reader.scheme.signals_read)}"
            )
            raise UsageError(message)


class _FreshBuffers:
    """Memory for what a task fills in, new each time: a window's is small."""

    def array(self, name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
        return np.empty(shape, dtype)


def _question(ns: np.ndarray, since_ns: np.ndarray, n_components: int) -> Asked:
    return Asked(
        time=torch.from_numpy((since_ns / NS_PER_S).astype(np.float32)),
        offset=torch.tensor([0, len(ns)]),
        ns=ns,
        target=torch.zeros(len(ns), n_components),
        weight=torch.zeros(len(ns)),
    )


def _once(tokens: SessionTokens, name: str, calibration: Intervals) -> Tokens:
    columns, most = tokens.cut_once(name, calibration), tokens.once[name].most if name in tokens.once else None
    n = len(next(iter(columns.values()), ()))
    n = n if most is None else min(n, most)
    return _tensors({key: column[:n] for key, column in columns.items()}, np.array([0, n]))


def _tensors(columns: Mapping[str, np.ndarray], offset: np.ndarray) -> Tokens:
    return Tokens({name: torch.from_numpy(c) for name, c in columns.items()}, offset=torch.from_numpy(offset))
