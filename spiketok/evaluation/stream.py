"""A stored session replayed as a live stream through a trained run: predictions, scores beside the offline ones, times.

What is unusual:

- the offline prediction of the same time is made too (causal stitching, the same step), and its score stands beside the
  live one, both of the times that both answer: they are the same numbers, or something is wrong;
- time that no window can reach (gaps, other splits) is passed over, also in real time;
- in real time a latency counts from the moment at which a window's last piece was due, so that waiting behind other
  windows is in it; at full speed from the call that brought the piece.

Shape letters: Q query times, C components.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.evaluation.live import Decoded, LiveDecoder, live_step_ns
from spiketok.recording.intervals import first_of
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Session
from spiketok.tokens.live import wait_until
from spiketok.training.checkpoints import Run
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens
from spiketok.training.scored import time_told
from spiketok.training.sessions import DividedSession, require_window
from spiketok.training.tasks.base import Score
from spiketok.training.tasks.decode import Decode, Prediction


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a replay said, and how long it took.

    Args:
        answers: by task, with the truth beside. live, offline: by task, the score of the times that both answer,
            with ``scored_s`` and ``unanswered_s``.
        apart: by task, the largest difference of the two predictions, as a share of the largest offline one.
        n_windows, n_spikes: that were predicted, and that came. window_ns, step_ns: of the windows.
        recording_s: how much time of the recording was streamed. wall_s: how long it took. speed: None for full speed.
        latency_ms: from a window's last piece to its predictions, of them ``tokens`` and ``model``, and ``total``:
            ``p50``, ``p95``, ``p99`` and ``max`` of each.
        n_behind: windows whose predictions came when the next window was complete already; of a replay at full speed,
            those that would have in real time.
    """

    session: str
    split: str
    answers: Mapping[str, Prediction]
    live: Mapping[str, Score]
    offline: Mapping[str, Score]
    apart: Mapping[str, float]
    n_windows: int
    n_spikes: int
    window_ns: int
    step_ns: int
    recording_s: float
    wall_s: float
    speed: float | None
    latency_ms: Mapping[str, Mapping[str, float]]
    n_behind: int


def stream(
    run: Run,
    tokens: SessionTokens,
    session: Session,
    *,
    split: str = "test",
    step_ns: int | None = None,
    duration_ns: int | None = None,
    piece_ns: int = NS_PER_MS,
    speed: float | None = None,
    on_window: Callable[[Decoded, int], None] = lambda decoded, total_ns: None,
) -> Streamed:
    """Play the time of a split as a live stream, in pieces of ``piece_ns`` as an acquisition system sends them.

    Args:
        session: as it is stored. step_ns: from one window to the next, for a model that carries nothing; the run's by
            default. duration_ns: only so much of the split, from its start.
        speed: 1.0 for real time, 2.0 for twice as fast; None for as fast as it can.
        on_window: called with each window's predictions and its latency in ns, which does not hold what it takes.

    Raises:
        UsageError: a speed, piece or duration that is not above 0, an unknown split, or a run that cannot be decoded
            live. DataError: the model does not know the session, or no window fits.
    """
    if piece_ns <= 0 or (speed is not None and not speed > 0) or (duration_ns is not None and duration_ns <= 0):
        message = f"pieces of {piece_ns} ns, speed {speed}, duration {duration_ns} ns: each must be above 0"
        raise UsageError(message)
    step_ns = live_step_ns(run, tokens, step_ns)
    divided = run.divide(tokens)
    if split not in divided.splits:
        message = f"{tokens.id} has no split '{split}', it has {', '.join(divided.splits)}"
        raise UsageError(message)
    calibration = divided.calibration
    if duration_ns is not None:
        first = first_of(divided.splits[split], duration_ns)
        divided = replace(divided, splits={**divided.splits, split: first})
    windows = divided.windows(split)
    require_window(windows, split, run.config.data.window_ns)
    decoder = LiveDecoder(run, tokens, session, calibration, windows=windows, step_ns=step_ns)
    played = _play(decoder, session, piece_ns, speed, on_window)
    offline = _offline(run, divided, split, step_ns, calibration)
    answers = {task.name: _with_truth(task, tokens, played.decoded) for task in decoder.tasks}
    live, scores, apart = {}, {}, {}
    for task in decoder.tasks:
        name = task.name
        both, other = _shared(answers[name], offline[name])
        told = time_told(task, tokens, divided.splits[split], both, None)
        live[name], scores[name] = both.score() | told, other.score() | told
        apart[name] = float(np.abs(both.predicted - other.predicted).max() / np.abs(other.predicted).max())
    latency_ns = {
        "tokens": [decoded.tokens_ns for decoded in played.decoded],
        "model": [decoded.model_ns for decoded in played.decoded],
        "total": played.total_ns,
    }
    return Streamed(
        session=session.id,
        split=split,
        answers=answers,
        live=live,
        offline=scores,
        apart=apart,
        n_windows=len(played.decoded),
        n_spikes=played.n_spikes,
        window_ns=decoder.window_ns,
        step_ns=decoder.step_ns,
        recording_s=played.recording_s,
        wall_s=played.wall_s,
        speed=speed,
        latency_ms={name: percentiles_ms(values) for name, values in latency_ns.items()},
        n_behind=sum(total > decoder.step_ns / (speed or 1) for total in played.total_ns),
    )


@dataclass(frozen=True, eq=False)
class _Played:
    decoded: list[Decoded]
    total_ns: list[int]
    n_spikes: int
    recording_s: float
    wall_s: float


def _play(
    decoder: LiveDecoder,
    session: Session,
    piece_ns: int,
    speed: float | None,
    on_window: Callable[[Decoded, int], None],
) -> _Played:
    """Push what the windows can reach, piece by piece, each at its moment."""
    time_ns, unit, needed = session.spikes.time_ns, session.spikes.unit, decoder.needed
    decoded: list[Decoded] = []
    total_ns: list[int] = []
    n_spikes = played_ns = 0
    begun = time.perf_counter_ns()
    for start, stop in zip(needed.start_ns.tolist(), needed.stop_ns.tolist(), strict=True):
        edges = np.append(np.arange(start + piece_ns, stop, piece_ns), stop)
        row = time_ns.searchsorted(np.concatenate([[start], edges])).tolist()
        n_spikes += row[-1] - row[0]
        for k, edge in enumerate(edges.tolist()):
            asked = begun
            if speed is not None:
                asked += round((played_ns + edge - start) / speed)
                wait_until(asked)
            else:
                asked = time.perf_counter_ns()
            rows = slice(row[k], row[k + 1])
            done = decoder.push(time_ns[rows], unit[rows], edge)
            took = time.perf_counter_ns() - asked
            for one in done:
                decoded.append(one)
                total_ns.append(took)
                on_window(one, took)
        played_ns += stop - start
    if not decoded:
        message = f"{session.id}: no window was complete in the {played_ns / NS_PER_S:g} s that were streamed"
        raise DataError(message)
    wall_s = (time.perf_counter_ns() - begun) / NS_PER_S
    return _Played(decoded, total_ns, n_spikes, played_ns / NS_PER_S, wall_s)


def _offline(
    run: Run, divided: DividedSession, split: str, step_ns: int, calibration: Intervals
) -> Mapping[str, Prediction]:
    """The causal prediction of the same windows."""
    data = replace(run.config.data, stitch="causal", eval_step_ms=step_ns / NS_PER_MS)
    config = replace(run.config, data=data)
    return predict(run.model, divided, split, config, calibration=calibration, modes=False)


def _with_truth(task: Decode, tokens: SessionTokens, decoded: list[Decoded]) -> Prediction:
    """A task's predictions, in order of time, with what was measured at the same times."""
    time_ns = np.concatenate([d.time_ns[task.name] for d in decoded])
    value = np.concatenate([d.value[task.name] for d in decoded])
    truth, spec = task.truth(tokens), task.target
    at_ns = truth.time_ns if truth.bin_row is None else tokens.bin_middle_ns
    order = np.argsort(at_ns, kind="stable")
    row = order[np.searchsorted(at_ns[order], time_ns)]
    weight = truth.weight[row]
    true = np.where(weight[:, None] > 0, truth.value[row].astype(np.float64), 0.0)
    return Prediction(
        time_ns,
        value,
        true,
        weight,
        spec.components,
        spec.measure,
        windows=np.ones(len(time_ns), np.int64),
        constant={name: constant for _, name, constant in spec.constant},
    )


def _shared(live: Prediction, offline: Prediction) -> tuple[Prediction, Prediction]:
    """Both at the times that both have."""
    shared = np.intersect1d(live.time_ns, offline.time_ns)

    def at(answer: Prediction) -> Prediction:
        row = np.searchsorted(answer.time_ns, shared)
        parts = {name: getattr(answer, name)[row] for name in ("predicted", "true", "weight", "windows")}
        return replace(answer, time_ns=shared, **parts)

    return at(live), at(offline)


def percentiles_ms(values_ns: list[int]) -> dict[str, float]:
    """``p50``, ``p95``, ``p99`` and ``max`` in ms."""
    found = np.percentile(values_ns, [50, 95, 99, 100]) / NS_PER_MS
    return dict(zip(("p50", "p95", "p99", "max"), found.tolist(), strict=True))
