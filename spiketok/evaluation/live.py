"""Live decoding: a trained model's predictions of each window the moment that it is complete.

What is unusual:

- each window is predicted once, and only the time that no earlier window answered is given, by the rule of the causal
  stitching (``training.predict.Walk``): the numbers are those of the offline causal prediction;
- a model that is not causal by itself answers the last step of each window alone;
- nothing that is asked needs the truth: a behaviour is asked at the middles of bins, or at the planned sample times.

Shape letters: S spikes of a piece, Q query times, C components.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Facts, Tokens
from spiketok.recording.nouns import NS_PER_S, Intervals, Session
from spiketok.tokens.live import Streamer
from spiketok.tokens.schemes.base import Tokens as Cut
from spiketok.training.checkpoints import Run
from spiketok.training.predict import Walk, used_queries
from spiketok.training.runs import require_inputs
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.decode import Decode


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one window adds.

    Args:
        start_ns: where the window begins. time_ns: by task, int64 ``[Q]``, new times only.
        value: by task, float64 ``[Q, C]``, in the behaviour's own measure. model_ns: what the model took.
    """

    start_ns: int
    time_ns: Mapping[str, np.ndarray]
    value: Mapping[str, np.ndarray]
    model_ns: int


class LiveDecoder:
    """Predictions of one live session by a trained model.

    Args:
        run: from ``load_run``. tokens: the session's shards, for what is cut once a session and for its facts.
        plan: the session as it is known beforehand, as of :class:`~spiketok.tokens.live.Streamer`.
        calibration: the time of which the session's inputs are cut. start_ns: where the stream begins.

    Raises:
        DataError: the model does not know the session. UsageError: the run cannot be decoded live.
    """

    def __init__(
        self, run: Run, tokens: SessionTokens, plan: Session, calibration: Intervals, start_ns: int | None = None
    ) -> None:
        self.model, self.tasks, self._info, self._plan = run.model.eval(), run.tasks, tokens.info, plan
        require_inputs(run.config, [tokens])
        if plan.id not in self.model.sessions():
            message = f"{plan.id} cannot be decoded live: the model does not know it, it was trained on others"
            raise DataError(message)
        for task in self.tasks:
            if not isinstance(task, Decode):
                message = f"task '{task.name}' cannot be decoded live: only decode tasks are asked of a stream"
                raise UsageError(message)
            if why := task.why_not(tokens):
                message = f"{plan.id}: {why}"
                raise DataError(message)
        data = run.config.data
        self.window_ns, grid_ns, self._bin_ns = data.window_ns, tokens.grid_ns, tokens.bin_ns
        self.step_ns = data.window_ns if self.model.carries else max(data.eval_step_ns // grid_ns, 1) * grid_ns
        for name, reader in tokens.windowed.items():
            if reader.scheme.lookback_ns:
                message = (
                    f"{self.model.name} cannot be decoded live yet: its input '{name}' reads "
                    f"{reader.scheme.lookback_ns / 1e6:g} ms before each window, and a stream begins without them"
                )
                raise UsageError(message)
            if reader.scheme.signals_read:
                message = (
                    f"{self.model.name} cannot be decoded live: its input '{name}' reads the behaviour "
                    f"{', '.join(reader.scheme.signals_read)}"
                )
                raise UsageError(message)
        row = np.ascontiguousarray(self.model.unit_row(tokens.info), np.int32)
        self._streamers = {
            name: Streamer(reader.scheme, plan, self.window_ns, step_ns=self.step_ns, start_ns=start_ns, unit_row=row)
            for name, reader in tokens.windowed.items()
        }
        self._waiting: dict[str, deque] = {name: deque() for name in self._streamers}
        self._once = {name: [_once(tokens, name, calibration)] for name in tokens.once}
        self._session = torch.tensor([self.model.session_row(plan.id)])
        self._walk = Walk(self.step_ns, True, self.model.causal)
        self._carry: object = None

    def push(self, time_ns: np.ndarray, unit: np.ndarray, now_ns: int | None = None) -> list[Decoded]:
        """Take the next spikes, as ``Streamer.push``; the predictions of the windows that they complete."""
        for name, streamer in self._streamers.items():
            self._waiting[name] += streamer.push(time_ns, unit, now_ns)
        return self._complete()

    def finish(self, stop_ns: int) -> list[Decoded]:
        """End the stream, as ``Streamer.finish``."""
        for name, streamer in self._streamers.items():
            self._waiting[name] += streamer.finish(stop_ns)
        return self._complete()

    def _complete(self) -> list[Decoded]:
        done = []
        while all(self._waiting.values()):
            came = {name: waiting.popleft() for name, waiting in self._waiting.items()}
            start_ns = next(iter(came.values()))[0]
            done.append(self._decode(start_ns, {name: tokens for name, (_, tokens) in came.items()}))
        return done

    @torch.inference_mode()
    def _decode(self, start_ns: int, came: Mapping[str, Cut]) -> Decoded:
        begun = time.perf_counter_ns()
        batch = Batch(
            inputs={name: _tensors(tokens.columns, tokens.offset) for name, tokens in came.items()},
            session_inputs=self._once,
            window_ns=self.window_ns,
            session_B=self._session,
            sessions=[self._plan.id],
            start_ns=np.array([start_ns], np.int64),
            present=[self._plan.id],
            present_B=torch.zeros(1, dtype=torch.int64),
            facts=Facts({self._plan.id: self._info}),
        )
        for task in self.tasks:
            batch.asked[task.name] = self._asked(task, start_ns)
        fresh = self._walk.step(batch)
        output, self._carry = self.model.predict(batch, None if fresh.begins else self._carry)
        times, values = {}, {}
        for task in self.tasks:
            used = used_queries(output, batch, task.name, fresh.since_ns)
            said = output[task.name].double().numpy()[used]
            times[task.name] = batch.asked[task.name].ns[used]
            values[task.name] = said * np.array(task.target.std) + np.array(task.target.mean)
        return Decoded(start_ns, times, values, time.perf_counter_ns() - begun)

    def _asked(self, task: Decode, start_ns: int) -> Asked:
        """The times of a window at which the task asks, without a truth."""
        stop_ns = start_ns + self.window_ns
        if self._bin_ns > 1:
            ns = np.arange(start_ns, stop_ns, self._bin_ns, dtype=np.int64) + self._bin_ns // 2
        else:
            planned = self._plan.signals[task.target.name].time_ns
            ns = planned[slice(*np.searchsorted(planned, [start_ns, stop_ns]))]
        return Asked(
            time=torch.from_numpy(((ns - start_ns) / NS_PER_S).astype(np.float32)),
            offset=torch.tensor([0, len(ns)]),
            ns=ns,
            target=torch.zeros(len(ns), len(task.target.components)),
            weight=torch.zeros(len(ns)),
        )


def _once(tokens: SessionTokens, name: str, calibration: Intervals) -> Tokens:
    columns, most = tokens.cut_once(name, calibration), tokens.once[name].most
    n = len(next(iter(columns.values()), ()))
    n = n if most is None else min(n, most)
    return _tensors({key: column[:n] for key, column in columns.items()}, np.array([0, n]))


def _tensors(columns: Mapping[str, np.ndarray], offset: np.ndarray) -> Tokens:
    return Tokens({name: torch.from_numpy(c) for name, c in columns.items()}, offset=torch.from_numpy(offset))
