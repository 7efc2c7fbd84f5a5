"""Events: the next spike, its unit and its step, given all before it in its window and what else a model reads.

What is unusual:

- the events are the tokens of the scheme ``event-pair`` that the model reads: spikes in order of step and, in a step,
  of unit; behind a window's last one comes its end, an event without a step;
- scores are bits an event: the cross entropy of the unit (or the end) among N + 1, and of a spike's step among the S
  of a window, beside two models that know no history, of the training time alone:

  - *unigram*: how often each unit and the end come, and any step alike;
  - *rates*: each unit fires by itself at its mean rate. It knows the order in which spikes stand in a window: after
    unit 7 in a step comes a higher one, or a later step. What is gained over it was read from spikes or from
    what else the model is given;

- a window's events count once a window: where windows overlap, several times. ``data.eval_step_ms`` of a window's
  length has each once;
- a session that was not trained on has no training time: its two models are of the scored time itself, which makes
  them better.

Shape letters: B windows, Q events, N units, S steps of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Asked, Batch, Head
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes.event_pair import CURRENT, EOS, SPIKE, EventPair
from spiketok.tokens.shards import ShardReader
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.base import Answer, Buffers, Collector, Group, Score, Task, number

LOG2 = float(np.log(2))


@dataclass(frozen=True)
class EventsConfig:
    """Nothing can be set: what an event is follows from the tokens."""


@dataclass(frozen=True, eq=False)
class Rates:
    """What the training time of a session says of its events.

    Args:
        spikes: int64 ``[N]``. steps: how many steps they were counted in.
    """

    spikes: np.ndarray
    steps: int

    @property
    def of_step(self) -> np.ndarray:
        """float64 ``[N]``: spikes a step, above 0: half a spike and one step are added."""
        return (self.spikes + 0.5) / (self.steps + 1)


class Events(Task):
    """The spikes of a session, one after the other."""

    kind: ClassVar[str] = "events"
    Config: ClassVar[type] = EventsConfig
    labelled: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ("over_rates", "over_unigram")
    whole_windows: ClassVar[bool] = True
    titles: ClassVar[Mapping[str, str]] = {
        "over_rates": "bits an event, over each unit's rate",
        "over_unigram": "bits an event, over unigram",
    }

    def __init__(self, about: str, config: EventsConfig, rates: Mapping[str, Rates] | None = None) -> None:
        if about:
            message = f"--task events:{about}: events have no name, use --task events"
            raise UsageError(message)
        super().__init__(about, config)
        self.rates = dict(rates or {})

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: EventsConfig) -> Events:
        return cls(about, config)

    def why_not(self, session: SessionTokens) -> str:
        if _reader(session) is None:
            return "no input of the model holds event-pair tokens"
        return "" if session.info.n_spikes else "it has no spikes"

    def usable(self, session: SessionTokens) -> Intervals:
        """Observed time: histories stop at a gap by themselves."""
        return session.observed

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """Count each unit's spikes in training time."""
        for session, time in sessions:
            if not self.why_not(session):
                self.rates[session.id] = count_spikes(_reader(session), time)

    def head(self) -> Head:
        return Head(self.name, self.kind, "events")

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        """``target`` int64 ``[Q, 2]``: the unit, in the session's own rows, or N for the end; and the step, 0 there.

        ``time`` and ``ns`` are the middle of the step, and for the end the window's last moment.
        """
        count, parts = np.zeros(len(batch), np.int64), [np.zeros((0, 3), np.int64)]
        for group in groups:
            if (reader := _reader(group.session)) is None:
                continue
            tokens = reader.scheme.cut(reader.columns, group.windows, group.keep)
            kind, step_ns = tokens.columns["type"], reader.scheme.step_ns
            told = (tokens.columns["stream"] == CURRENT) & ((kind == SPIKE) | (kind == EOS))
            window = np.repeat(np.arange(len(group.windows)), np.diff(tokens.offset))[told]
            count[group.rows] = np.bincount(window, minlength=len(group.windows))
            ends, step = kind[told] == EOS, tokens.columns["dt"][told].astype(np.int64)
            unit = np.where(ends, group.session.info.n_units, tokens.columns["unit"][told])
            since = np.where(ends, batch.window_ns - 1, step * step_ns + step_ns // 2)
            parts.append(np.stack([unit, np.where(ends, 0, step), since], 1))
        laid, offset = np.concatenate(parts), np.concatenate([[0], np.cumsum(count)])
        since = laid[:, 2]
        batch.asked[self.name] = Asked(
            time=torch.from_numpy((since / 1e9).astype(np.float32)),
            offset=torch.from_numpy(offset),
            ns=since + np.repeat(batch.start_ns, count),
            target=torch.from_numpy(laid[:, :2].copy()),
            weight=torch.ones(len(laid)),
        )

    # ---- scores ---------------------------------------------------------------------------------------------------

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Told(self, session)

    def to_dict(self) -> dict[str, object]:
        return {"rates": {name: [own.steps, own.spikes.tolist()] for name, own in self.rates.items()}}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: EventsConfig) -> Events:
        rates = {name: Rates(np.array(spikes, np.int64), steps) for name, (steps, spikes) in facts["rates"].items()}
        return cls("", config, rates)


def _reader(session: SessionTokens) -> ShardReader | None:
    """The shard of events among the session's."""
    return next((r for r in session.windowed.values() if isinstance(r.scheme, EventPair)), None)


def count_spikes(reader: ShardReader, time: Intervals) -> Rates:
    """The spikes of each unit in the whole steps that lie in some time."""
    scheme, columns, segments = reader.scheme, reader.columns, reader.segments
    spikes, steps = np.zeros(reader.info.n_units, np.int64), 0
    for g in range(len(segments)):
        origin, stop = int(segments.start_ns[g]), int(segments.stop_ns[g])
        inside = time.intersect(Intervals([origin], [stop])).intersect(reader.observed)
        for low, high in zip(inside.start_ns.tolist(), inside.stop_ns.tolist(), strict=True):
            first = -((origin - low) // scheme.step_ns)
            last = (high - origin) // scheme.step_ns
            if last > first:
                row = columns["step.row"][columns["step.first"][g] + np.array([first, last])]
                spikes += np.bincount(columns["unit"][row[0] : row[1]], minlength=len(spikes))
                steps += last - first
    return Rates(spikes, int(steps))


class _Told(Collector):
    """What a model gave to each event that came, and the events themselves."""

    def __init__(self, task: Events, session: SessionTokens) -> None:
        self.task, self.session = task.name, session
        self.rates = task.rates.get(session.id)
        self.parts: list[tuple[np.ndarray, ...]] = []

    def add(self, batch: Batch, output: Mapping[str, torch.Tensor], used: np.ndarray | None) -> None:
        asked, n = batch.asked[self.task], self.session.info.n_units
        logits, target = output[self.task].double().cpu(), asked.target.cpu()
        unit, step = logits[:, : n + 1].log_softmax(-1), logits[:, n + 1 :].log_softmax(-1)
        said = torch.stack([unit.gather(1, target[:, :1])[:, 0], step.gather(1, target[:, 1:])[:, 0]], 1)
        ends = target[:, 0] == n
        said[ends, 1] = 0.0  # the end has no step
        counts = np.ones(len(target), np.bool_) if used is None else used
        counts = counts & (asked.weight.cpu().numpy() > 0)
        begins = np.zeros(len(target), np.bool_)
        begins[asked.offset[:-1].cpu().numpy()] = True  # a window has its end, and so an event
        self.parts.append((np.array(asked.ns), said.numpy(), target.numpy(), begins, counts))

    def answer(self) -> Told:
        if not self.parts:
            message = f"no prediction of {self.task} was made: no event lies in the evaluated windows"
            raise DataError(message)
        time_ns, said, target, begins, counts = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        scheme = _reader(self.session).scheme
        steps = scheme.current_ns // scheme.step_ns
        n_units, rates = self.session.info.n_units, self.rates
        if rates is None:
            spikes = np.bincount(target[:, 0], minlength=n_units + 1)
            rates = Rates(spikes[:n_units], int(spikes[n_units]) * steps)
        unigram = unigram_log_probability(target, rates, steps)
        poisson = poisson_log_probability(target, begins, rates.of_step, steps)
        order = np.argsort(time_ns, kind="stable")
        return Told(*(a[order] for a in (time_ns, said, unigram, poisson, target, counts)), n_units)


@dataclass(frozen=True, eq=False)
class Told(Answer):
    """The events of one session and what was said of them, in order of time.

    Args:
        time_ns: int64 ``[T]``. said, unigram, rates: float64 ``[T, 2]``, ln of the probability that the model and the
            two others gave to the unit (or the end) and to the step; 0 for the step of an end.
        target: int64 ``[T, 2]``. counts: bool ``[T]``, those that are scored. n_units: N, which stands for the end.
    """

    time_ns: np.ndarray
    said: np.ndarray
    unigram: np.ndarray
    rates: np.ndarray
    target: np.ndarray
    counts: np.ndarray
    n_units: int

    def score(self) -> Score:
        """Bits an event gained over the two others, and the bits themselves: by event of units, by spike of steps."""
        counts = self.counts
        spikes = counts & (self.target[:, 0] < self.n_units)
        if not counts.any():
            return {"over_rates": None, "over_unigram": None, "bits": {}, "n_samples": 0}
        models = {"model": self.said, "unigram": self.unigram, "rates": self.rates}
        bits = {name: -log_p[counts].sum() / LOG2 / counts.sum() for name, log_p in models.items()}
        parts: dict[str, float | None] = {}
        for name, log_p in models.items():
            parts[f"id, {name}"] = number(-log_p[counts, 0].mean() / LOG2)
            parts[f"dt, {name}"] = number(-log_p[spikes, 1].mean() / LOG2) if spikes.any() else None
        return {
            "over_rates": number(bits["rates"] - bits["model"]),
            "over_unigram": number(bits["unigram"] - bits["model"]),
            "bits": parts,
            "n_samples": int(counts.sum()),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "time_ns": self.time_ns,
            "prediction": self.said,
            "target": self.target,
            "weight": self.counts.astype(np.float32),
            "unigram": self.unigram,
            "rates": self.rates,
        }


# ---- models without a history ---------------------------------------------------------------------------------------


def unigram_log_probability(target: np.ndarray, rates: Rates, steps: int) -> np.ndarray:
    """float64 ``[T, 2]``: ln of how often each unit, or the end, is an event; any step of a window alike.

    Args:
        target: int64 ``[T, 2]``. steps: S.
    """
    n = len(rates.spikes)
    often = np.append(rates.of_step, 1 / steps)  # an end a window
    log_p = np.log(often / often.sum())
    return np.stack([log_p[target[:, 0]], np.where(target[:, 0] == n, 0.0, -np.log(steps))], 1)


def poisson_log_probability(target: np.ndarray, begins: np.ndarray, rate: np.ndarray, steps: int) -> np.ndarray:
    """float64 ``[T, 2]``: ln of the probability of each event's unit, or the end, and step, after those before it.

    Each unit fires by itself, Poisson spikes a step. The events of a window stand in order of step, then unit; a unit
    with several spikes in a step stands there as often.

    Args:
        target: int64 ``[T, 2]``, the windows' events behind one another. begins: bool ``[T]``, a window's first.
        rate: float64 ``[N]``, spikes a step. steps: S.
    """
    n, total = len(rate), rate.sum()
    below = np.append(0.0, np.cumsum(rate))  # of the units before each
    before = np.roll(target, 1, axis=0)
    unit, step = np.where(begins, n - 1, before[:, 0]), np.where(begins, -1, before[:, 1])
    again = _repeats(target, begins)
    # that the unit of the event before fires once more in its step, having fired ``again`` times
    reached, more = (_at_least(np.maximum(k, 1.0), rate[unit]) for k in (again, again + 1))
    once_more = np.where(begins, 0.0, more / reached)
    rest, later = 1 - once_more, np.exp(-(total - below[unit + 1]))  # no other unit fires in its step
    left = steps - 1 - step  # steps behind it
    said = target[:, 0]
    ends = said == n
    safe = np.where(ends, 0, said)
    fires, quiet = 1 - np.exp(-rate[safe]), np.exp(-below[safe])
    same_step = np.where(safe > unit, rest * np.exp(-(below[safe] - below[unit + 1])) * fires, 0.0)
    same_step = np.where((safe == unit) & ~begins, once_more, np.where(begins, 0.0, same_step))
    in_later = rest * later * quiet * fires * (1 - np.exp(-total * left)) / (1 - np.exp(-total))
    end = rest * later * np.exp(-total * left)
    ahead = target[:, 1] - step
    in_step = np.where(
        ahead == 0,
        once_more + rest * (1 - later),
        rest * later * np.exp(-total * (ahead - 1)) * (1 - np.exp(-total)),
    )
    with np.errstate(divide="ignore"):
        log_unit = np.log(np.where(ends, end, same_step + in_later))
        log_step = np.where(ends, 0.0, np.log(in_step) - np.log1p(-end))
    return np.stack([log_unit, log_step], 1)


def _at_least(k: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The probability that a Poisson count of this mean is k or more."""
    return torch.special.gammainc(torch.from_numpy(k), torch.from_numpy(rate)).numpy()


def _repeats(target: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """float64 ``[T]``: how often the event before each was there in its step already, itself among them."""
    index = np.arange(len(target))
    new = begins | (target != np.roll(target, 1, axis=0)).any(1)
    run = index - np.maximum.accumulate(np.where(new, index, 0)) + 1
    return np.roll(run, 1).astype(np.float64)
