"""Decode: a behaviour, as numbers at the times of its samples or on bins.

What is unusual:

- the behaviour is normalised by training time only, pooled over the training sessions;
- a sample's weight may depend on where it lies (``task.decode.weights``): POYO weighs reaches 5 times, for example, and
  torch_brain multiplies the weights of all intervals that hold a sample, as here;
- a component that is constant in all training time is left out by name: nobody could decode it, and the others train;
- both R2 of the field are reported under their own names: ``r2_variance_weighted`` (FALCON), ``r2_mean`` (NLB, POYO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.models.batch import Batch, Head
from spiketok.notes import note_once
from spiketok.recording.codes import code_words, is_code
from spiketok.recording.intervals import labelled_intervals, values_in
from spiketok.recording.leakage import Reach
from spiketok.recording.metrics import METRICS, r2_mean, r2_per_component, r2_variance_weighted, require_metrics
from spiketok.recording.nouns import FLUORESCENCE, Intervals
from spiketok.tokens.reach import signal_reach
from spiketok.training.sampling import SessionTokens, listing
from spiketok.training.tasks.base import (
    Answer,
    Buffers,
    Collector,
    Group,
    Score,
    Stitch,
    Task,
    Truth,
    ask_values,
    bin_spans,
    number,
    sample_spans,
)

KINDS = ("vel", "pos")  # what "auto" looks for in a signal's name, in this order


@dataclass(frozen=True)
class DecodeConfig:
    """How a behaviour is decoded.

    Args:
        weights: weight of the samples inside the intervals of a trial column's value, as ``"phase=reach"`` (the word
            before ``=`` is a column of the trial table);
            weights of several that hold a sample are multiplied, outside all of them a sample has weight 1.
        metrics: further ones to report, of behaviour (``spiketok.recording.metrics``, or of another package).
    """

    weights: dict[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_metrics(self.metrics, "behaviour", Decode.metrics, "task.decode.metrics")
        for name, weight in self.weights.items():
            if not 0 <= weight < np.inf or "=" not in name:
                message = f"task.decode.weights['{name}'] is {weight}: use COLUMN=VALUE and a number of at least 0"
                raise UsageError(message)


@dataclass(frozen=True)
class TargetSpec:
    """The behaviour that is decoded, and how it is normalised: ``(value - mean) / std``, from training windows only.

    Args:
        name: the signal's name in the store. components: C names. measure: the unit of measure.
        mean, std: C numbers each; empty before the task was fitted.
        constant: of components of the signal that are left out: place in the signal, name, value in training time.
    """

    name: str
    components: tuple[str, ...]
    measure: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    constant: tuple[tuple[int, str, float], ...] = ()

    @property
    def every(self) -> tuple[str, ...]:
        """The names of all components of the signal, in its order."""
        names = list(self.components)
        for place, name, _ in self.constant:
            names.insert(place, name)
        return tuple(names)

    @property
    def taken(self) -> slice | list[int]:
        """Which columns of the signal are decoded."""
        gone = {place for place, _, _ in self.constant}
        return [k for k in range(len(self.every)) if k not in gone] if gone else slice(None)

    def filled(self, value: np.ndarray) -> np.ndarray:
        """Values ``[..., C]`` as the whole signal has them: what was left out has its constant value."""
        for place, _, constant in self.constant:
            value = np.insert(value, place, constant, axis=-1)
        return value


class Decode(Task):
    """One behaviour."""

    kind: ClassVar[str] = "decode"
    Config: ClassVar[type] = DecodeConfig
    metrics: ClassVar[tuple[str, ...]] = ("r2_variance_weighted", "r2_mean")
    titles: ClassVar[Mapping[str, str]] = {
        "r2_variance_weighted": "R² variance-weighted",
        "r2_mean": "R² mean over components",
    }

    def __init__(self, about: str, config: DecodeConfig, target: TargetSpec) -> None:
        super().__init__(about, config)
        self.target = target
        self.metrics = (*Decode.metrics, *config.metrics)
        self.titles = Decode.titles | {name: name for name in config.metrics}

    @classmethod
    def resolve(cls, about: str, sessions: Sequence[SessionTokens], config: DecodeConfig) -> Decode:
        """``about`` is the signal's name, or empty for :func:`choose_target`'s choice."""
        name = choose_target(sessions, about or "auto")
        if about and (held := _codes_in(sessions, name)):
            note_once(
                f"'{name}' holds {held}, which is decoded as a number because it is named: numbers in between mean "
                "nothing of a code (--task classify:COLUMN asks for a label of the trials)"
            )
        components, measure = next(s for s in sessions if name in s.info.signals).info.signals[name]
        return cls(name, config, TargetSpec(name, tuple(components), measure))

    @classmethod
    def has(cls, about: str, session: SessionTokens) -> bool:
        if about:
            return about in session.info.signals
        return any(not _codes_in([session], name) for name in session.info.signals.keys() - {FLUORESCENCE})

    def why_not(self, session: SessionTokens) -> str:
        target, signals = self.target, session.info.signals
        if target.name not in signals:
            return (
                f"it has no signal '{target.name}', which the model decodes "
                f"(it has {', '.join(offered_signals(session)) or 'none'})"
            )
        components, measure = signals[target.name]
        if (tuple(components), measure) != (target.every, target.measure):
            return (
                f"'{target.name}' is ({', '.join(components)}) in '{measure}', the model decodes "
                f"({', '.join(target.every)}) in '{target.measure}'"
            )
        return ""

    def usable(self, session: SessionTokens) -> Intervals:
        return labelled_intervals(session.signal(self.target.name))

    def reach(self, session: SessionTokens) -> Reach:
        name = self.target.name
        period_ns = session.signal(name).period_ns
        return signal_reach(name, session.signal_reach_ns(name), period_ns, session.bin_ns)

    def fit(self, sessions: Sequence[tuple[SessionTokens, Intervals]]) -> None:
        """Mean and deviation of the valid samples in all sessions' training time, and what is constant there.

        Raises:
            DataError: there is no valid sample, or all components are constant.
        """
        name, names, measure = self.target.name, self.target.every, self.target.measure
        values = [values_in(session.signal(name), allowed)[1] for session, allowed in sessions]
        value = np.concatenate(values).astype(np.float64) if values else np.zeros((0, len(names)))
        if len(value) == 0:
            ids = [session.id for session, _ in sessions]
            message = f"'{name}' has no valid sample in the training time of {listing(ids)}"
            raise DataError(message)
        varies = np.ptp(value, axis=0) > 0  # the deviation of equal numbers may be off by a bit
        if not varies.any():
            message = (
                f"{listing(list(names))} of '{name}' are constant in the training time: there is nothing to decode"
            )
            raise DataError(message)
        gone = [(int(k), names[k], float(value[0, k])) for k in np.flatnonzero(~varies)]
        mean, std = value.mean(axis=0)[varies], value.std(axis=0)[varies]
        kept = tuple(names[k] for k in np.flatnonzero(varies))
        self.target = TargetSpec(name, kept, measure, tuple(mean.tolist()), tuple(std.tolist()), tuple(gone))

    def head(self) -> Head:
        return Head(self.name, self.kind, "values", len(self.target.components), self.target.components)

    # ---- in a batch -----------------------------------------------------------------------------------------------

    def truth(self, session: SessionTokens) -> Truth | None:
        name = self.target.name
        if name not in session.info.signals:
            return None
        signal = session.signal(name)
        if session.bin_ns > 1:
            value, valid = session.bin_signal(name)
            value = value[:, self.target.taken]
            weight = valid.astype(np.float32)
            if self.config.weights:
                weight *= self._weights(session, session.bin_middle_ns)
            return Truth(np.zeros(0, np.int64), value, weight, session.bin_ns, session.bin_row)
        weight = signal.valid.astype(np.float32)
        if self.config.weights:
            weight *= self._weights(session, signal.time_ns)
        return Truth(signal.time_ns, signal.value[:, self.target.taken], weight)

    def _weights(self, session: SessionTokens, time_ns: np.ndarray) -> np.ndarray:
        """float32 ``[T]``: the product of the weights of the trials that hold each time."""
        total, trials = np.ones(len(time_ns), np.float32), session.trials
        order = np.argsort(time_ns, kind="stable")  # bins of segments that overlap are in no order
        ordered = time_ns[order]
        for name, weight in self.config.weights.items():
            column, _, word = name.partition("=")
            if column not in trials.columns:
                message = (
                    f"{session.id} has no trial column '{column}' to weigh by: it has "
                    f"{', '.join(trials.columns) or 'none'}"
                )
                raise DataError(message)
            chosen = np.flatnonzero(np.asarray(trials.columns[column]).astype(str) == word)
            for start, stop in zip(trials.start_ns[chosen], trials.stop_ns[chosen], strict=True):
                total[order[np.searchsorted(ordered, start) : np.searchsorted(ordered, stop)]] *= weight
        return total

    def normalised(self, value: np.ndarray) -> np.ndarray:
        return ((value - np.array(self.target.mean)) / np.array(self.target.std)).astype(np.float32)

    def ask(self, groups: Sequence[Group], batch: Batch, buffers: Buffers) -> None:
        mean, std = np.array(self.target.mean, np.float64), np.array(self.target.std, np.float64)
        ask_values(self.name, groups, batch, buffers, mean, std)

    # ---- scores ---------------------------------------------------------------------------------------------------

    def row_spans(self, session: SessionTokens, time_ns: np.ndarray) -> Intervals:
        if session.bin_ns > 1:
            return bin_spans(time_ns, session.bin_ns)
        return sample_spans(session.signal(self.target.name).time_ns, time_ns)

    def collector(self, session: SessionTokens, others: Sequence[str] = ()) -> Collector:
        return _Stitch(self)

    def to_dict(self) -> dict[str, object]:
        facts = asdict(self.target)
        return facts if self.target.constant else {key: value for key, value in facts.items() if key != "constant"}

    @classmethod
    def from_dict(cls, facts: Mapping[str, object], config: DecodeConfig) -> Decode:
        spec = TargetSpec(**{key: tuple(v) if isinstance(v, list | tuple) else v for key, v in facts.items()})
        return cls(spec.name, config, replace(spec, constant=tuple(map(tuple, spec.constant))))


class _Stitch(Stitch):
    def __init__(self, task: Decode) -> None:
        super().__init__(task.name)
        self.target, self.more = task.target, task.config.metrics

    def answer(self) -> Prediction:
        time_ns, said, true, weight, count = self.stitched()
        mean, std = np.array(self.target.mean), np.array(self.target.std)
        return Prediction(
            time_ns=time_ns,
            predicted=said * std + mean,
            true=true * std + mean,
            weight=weight,
            components=self.target.components,
            measure=self.target.measure,
            windows=count,
            constant={name: value for _, name, value in self.target.constant},
            more=self.more,
        )


@dataclass(frozen=True, eq=False)
class Prediction(Answer):
    """Stitched predictions of one session, in the behaviour's own measure.

    Args:
        time_ns: int64 ``[T]``, strictly rising. predicted, true: float64 ``[T, C]``.
        weight: float32 ``[T]``; 0 where the behaviour was not measured (``true`` means nothing there).
        components, measure: of the behaviour.
        windows: how many windows were averaged at each time, int64 ``[T]``.
        constant: the value of components of the behaviour that were constant in training time, and so left out.
        more: metrics to score by beside both R2.
    """

    time_ns: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    weight: np.ndarray
    components: tuple[str, ...]
    measure: str
    windows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    constant: Mapping[str, float] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    @property
    def valid(self) -> np.ndarray:
        """bool ``[T]``: the samples that are scored, each alike; the weights of training play no part in a score."""
        return self.weight > 0

    def score(self) -> Score:
        """R2 by its named variants over the valid times; None where it does not exist (a constant behaviour).

        A component that is constant there has none, is in no mean, and is named among the reasons.
        """
        each = r2_per_component(self.true, self.predicted, valid=self.valid)
        has_one = np.isfinite(each) if np.isfinite(each).any() else np.ones(each.size, np.bool_)
        score = {
            "r2_variance_weighted": number(r2_variance_weighted(self.true, self.predicted, valid=self.valid)),
            "r2_mean": number(r2_mean(self.true[:, has_one], self.predicted[:, has_one], valid=self.valid)),
            **{name: number(METRICS[name](self.true, self.predicted, valid=self.valid)) for name in self.more},
            "r2_per_component": {name: number(r2) for name, r2 in zip(self.components, each, strict=True)},
            "n_samples": int(self.valid.sum()),
        }
        reasons = {f"R2 of '{c}'": f"it is {v:g} in all training time, so left out" for c, v in self.constant.items()}
        for k in np.flatnonzero(np.isnan(each)) if self.valid.any() else ():
            value = self.true[np.argmax(self.valid), k]
            reasons[f"R2 of '{self.components[k]}'"] = f"it is {value:.4g} in all time that is scored, so in no mean"
        return score | ({"reasons": reasons} if reasons else {})

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "time_ns": self.time_ns,
            "prediction": self.predicted,
            "target": self.true,
            "weight": self.valid.astype(np.float32),
        }


# ---- which behaviour ------------------------------------------------------------------------------------------------


def choose_target(sessions: Sequence[SessionTokens], name: str = "auto") -> str:
    """The name of the signal to decode.

    Args:
        sessions: all of which must have it.
        name: a signal's name, or ``"auto"``: the one velocity signal, else the one position signal, else the only one;
            event codes and masks (:func:`spiketok.recording.codes.is_code`, as FALCON's ``eval_mask``) and dF/F of the
            units are no choice. One of them is decoded where its name is given.

    Raises:
        DataError: a session lacks it, its components or measure differ, or ``"auto"`` has more than one choice.
    """
    having = {s.id: dict(s.info.signals) for s in sessions}
    names = sorted({n for signals in having.values() for n in signals} - {FLUORESCENCE})
    codes = {n: held for n in names if (held := _codes_in(sessions, n))} if name not in names else {}
    if name == "auto":
        kept = {
            s: {n: about for n, about in signals.items() if n not in codes and n != FLUORESCENCE}
            for s, signals in having.items()
        }
        shared = sorted(set.intersection(*(set(signals) for signals in kept.values())))
        name = _only_choice(shared, kept, codes)
    lacking = [session for session, signals in having.items() if name not in signals]
    if lacking:
        holders = [session for session, signals in having.items() if name in signals]
        message = (
            f"signal '{name}' is missing in {listing(lacking)}; "
            + (
                f"{listing(holders)} have it"
                if holders
                else f"there are {listing([n for n in _signal_names(having) if n not in codes]) or 'none'}"
            )
            + ": choose by --task decode:NAME, or leave sessions out by --sessions GLOB"
        )
        raise DataError(message)
    first = next(iter(having))
    for session, signals in having.items():
        if tuple(signals[name][0]) != tuple(having[first][name][0]) or signals[name][1] != having[first][name][1]:
            message = (
                f"signal '{name}' has components {_describe(signals[name])} in {session} and "
                f"{_describe(having[first][name])} in {first}: decode them in separate runs (--sessions GLOB)"
            )
            raise DataError(message)
    return name


def offered_signals(session: SessionTokens) -> list[str]:
    """The behaviours of a session that are offered as something to decode: no event codes, no dF/F of the units."""
    return sorted(n for n in session.info.signals.keys() - {FLUORESCENCE} if not _codes_in([session], n))


def _codes_in(sessions: Sequence[SessionTokens], name: str) -> str:
    """Which codes a signal holds, for people; empty where it holds numbers. The first session that has it says so."""
    for session in sessions:
        if name in session.info.signals:
            signal = session.signal(name)
            if signal.valid.any():
                return code_words(signal) if is_code(signal) else ""
    return ""


def _only_choice(shared: list[str], having: Mapping[str, Mapping], codes: Mapping[str, str]) -> str:
    for kind in KINDS:
        choices = [s for s in shared if kind in s.lower()]
        if len(choices) == 1:
            return choices[0]
        if choices:
            break
    else:
        choices = shared
    if len(choices) == 1:
        return choices[0]
    if choices:
        message = f"more than one signal can be decoded ({', '.join(choices)}): choose by --task decode:NAME"
    elif not any(having.values()) and codes:
        held = "; ".join(f"'{name}' holds {words}" for name, words in codes.items())
        message = (
            f"{listing(list(having))} hold no behaviour to decode but event codes ({held}): "
            "--task classify:COLUMN asks for a label of the trials, --task population for the spikes; "
            "--task decode:NAME takes a code as a number"
        )
    elif not any(having.values()):
        message = f"{listing(list(having))} hold no behaviour to decode: train on sessions with a signal"
    else:
        each = "; ".join(f"{s} has {', '.join(sorted(signals)) or 'none'}" for s, signals in list(having.items())[:6])
        message = f"no signal is in every session ({each}): choose sessions by --sessions GLOB"
    raise DataError(message)


def _signal_names(having: Mapping[str, Mapping]) -> list[str]:
    return sorted({name for signals in having.values() for name in signals})


def _describe(signal: tuple[tuple[str, ...], str]) -> str:
    components, measure = signal
    return f"({', '.join(components)}) in '{measure or 'no stated measure'}'"
