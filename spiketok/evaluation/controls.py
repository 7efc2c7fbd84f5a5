"""What a cheat would get: controls that stand beside the score of a decoded behaviour, on the very same samples.

    no_spikes        the row itself, with every spike of the scored time taken out (``stress``)
    labels_shifted   the row's predictions against the behaviour moved along the scored time: a null distribution
    labels_shuffled  the row's predictions in trials against the behaviour of other trials: the same
    constant         the mean of the calibration
    session_time     a ridge on the time in the session, fitted on the calibration: a decoder that reads the clock
    trial_time       the calibration's mean behaviour at the same time since the trial's start
    own_past         a ridge on the behaviour itself, one to two windows ago, fitted on the calibration

What is unusual: the scored samples are laid end to end in a circle, and all shifts of it by at least 5 s are scored at
once, by a Fourier transform. Shifts that lie near each other are not independent: the p value says which share of them
scores as well, not how many independent ones do.

Shape letters: T samples, C components, K trials, L samples of the longest trial, S shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from spiketok.errors import DataError
from spiketok.evaluation.calibration import blocks_of
from spiketok.evaluation.few_shot import ALPHAS
from spiketok.evaluation.stress_kinds import NO_SPIKES
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals
from spiketok.training.sessions import CALIBRATION, DividedSession
from spiketok.training.tasks.decode import Decode, Prediction

LEAST_SHIFT_NS = 5 * NS_PER_S
SHUFFLES = 500
LEAST_TRIALS = 4
STEP_NS = 50 * NS_PER_MS  # of the time since a trial's start
PERIODS = 8  # between a second and the length of the calibration
FOLDS = 3  # blocks of the calibration that choose a penalty
TIE = 1e-9  # scores that are nearer than this are one: a transform rounds
METRIC = "r2_variance_weighted"

LABELS_SHIFTED, LABELS_SHUFFLED = "labels_shifted", "labels_shuffled"
CONSTANT, SESSION_TIME, TRIAL_TIME, OWN_PAST = "constant", "session_time", "trial_time", "own_past"
CONTROLS = (NO_SPIKES, LABELS_SHIFTED, LABELS_SHUFFLED, CONSTANT, SESSION_TIME, TRIAL_TIME, OWN_PAST)
CLOCKS = (CONSTANT, SESSION_TIME, TRIAL_TIME)  # what a decoder may have read in place of spikes
WITHOUT_SPIKES = (*CLOCKS, OWN_PAST)

Predictor = Callable[[np.ndarray], np.ndarray]  # of int64 [T] times, [T, C]


# ---- the row's predictions against labels that are not theirs -------------------------------------------------------


def against_shifted(answer: Prediction) -> dict[str, object]:
    """The score of all shifts of the labels along the scored time, laid end to end in a circle, by 5 s or more.

    Returns:
        ``score`` (the mean of the shifts), ``high`` (their 95th percentile), ``p``, ``n`` (shifts).

    Raises:
        DataError: less than 10 s are scored.
    """
    shifts = shifted_scores(answer)
    return _null(answer.score()[METRIC], shifts)


def shifted_scores(answer: Prediction) -> np.ndarray:
    """float64 ``[S]``: the score where each sample's label is that of the sample so many places behind it."""
    said, true = _scored(answer)
    n, step_ns = len(true), _usual_step_ns(answer.time_ns[answer.valid])
    least = -(-LEAST_SHIFT_NS // max(step_ns, 1))
    if n < 2 * least:
        message = f"{n * step_ns / NS_PER_S:.1f} s are scored, labels that are shifted by 5 s need 10 s"
        raise DataError(message)
    true, said = true - true.mean(0), said - true.mean(0)
    total = np.square(true).sum()
    across = fft.irfft(np.conj(fft.rfft(said, axis=0)) * fft.rfft(true, axis=0), n, axis=0).sum(1)
    left = total + np.square(said).sum() - 2 * across  # of each shift, the sum of squared errors
    return (1 - left / total)[least : n - least + 1]


def _scored(answer: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the valid samples; components that are constant there count in no score."""
    said, true = answer.predicted[answer.valid], answer.true[answer.valid]
    varies = np.ptp(true, axis=0) > 0 if len(true) else np.zeros(true.shape[1], np.bool_)
    if not varies.any():
        message = "the behaviour is constant in the scored time"
        raise DataError(message)
    return said[:, varies], true[:, varies]


def _usual_step_ns(time_ns: np.ndarray) -> int:
    return int(np.median(np.diff(time_ns))) if len(time_ns) > 1 else 0


def against_shuffled(answer: Prediction, trials: Intervals, seed: int) -> dict[str, object]:
    """The score in trials, where each has the labels of another; both from their starts, as long as the shorter.

    Returns:
        as :func:`against_shifted`; also ``as_it_is``, the score in the trials with their own labels.

    Raises:
        DataError: fewer than four trials are scored.
    """
    said, true, length = _by_trial(answer, trials)
    n, place = len(length), np.arange(said.shape[1])
    if n < LEAST_TRIALS:
        message = f"{n} trials are scored, labels are shuffled among at least {LEAST_TRIALS}"
        raise DataError(message)

    def score(other: np.ndarray) -> float:
        used = place < np.minimum(length, length[other])[:, None]
        label = true[other][used]
        total = np.square(label - label.mean(0)).sum()
        return float(1 - np.square(said[used] - label).sum() / total) if total > 0 else -np.inf

    rng = np.random.default_rng(seed)
    as_it_is = score(np.arange(n))
    null = np.array([score(rng.permutation(n)) for _ in range(SHUFFLES)])
    if not np.isfinite(null).all():
        message = "the behaviour is constant in the scored trials"
        raise DataError(message)
    return _null(as_it_is, null) | {"as_it_is": as_it_is}


def _by_trial(answer: Prediction, trials: Intervals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``[K, L, C]`` twice, predictions and labels of the trials that are scored, and how long each is, ``[K]``."""
    (said, true), time_ns = _scored(answer), answer.time_ns[answer.valid]
    low, high = np.searchsorted(time_ns, trials.start_ns), np.searchsorted(time_ns, trials.stop_ns)
    low, high = low[high - low > 1], high[high - low > 1]
    longest = int((high - low).max(initial=0))
    row = np.minimum(low[:, None] + np.arange(longest), max(len(time_ns) - 1, 0))
    return said[row], true[row], high - low


def _null(score: float | None, null: np.ndarray) -> dict[str, object]:
    """What a score is beside those of a null distribution; the score itself counts as one of them."""
    if score is None:
        message = "the row has no score here"
        raise DataError(message)
    p = (1 + int((null >= score - TIE).sum())) / (1 + len(null))
    return {"score": float(null.mean()), "high": float(np.quantile(null, 0.95)), "p": p, "n": len(null)}


# ---- predictors that see no spike -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labels:
    """A behaviour of a session: int64 ``[T]`` times, rising; float64 ``[T, C]``; whether the calibration holds each."""

    time_ns: np.ndarray
    value: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, session: DividedSession, task: Decode) -> Labels:
        """The valid samples, in order.

        Raises:
            DataError: the calibration has none.
        """
        tokens, truth = session.tokens, task.truth(session.tokens)
        time_ns = truth.time_ns if truth.bin_row is None else tokens.bin_middle_ns
        valid = np.flatnonzero(truth.weight > 0)
        time_ns, row = np.unique(time_ns[valid], return_index=True)
        known = holds(session.splits[CALIBRATION], time_ns)
        if not known.any():
            message = f"the calibration has no label of {task.name}"
            raise DataError(message)
        return cls(time_ns, truth.value[valid][row].astype(np.float64), known)

    @property
    def mean(self) -> np.ndarray:
        """``[C]``: of the calibration."""
        return self.value[self.known].mean(0)


def predictors(session: DividedSession, task: Decode, window_ns: int) -> dict[str, Predictor | str]:
    """By control of ``WITHOUT_SPIKES`` what predicts the behaviour of a session, or why there is none.

    Args:
        session: with its calibration. window_ns: of the run.
    """
    calibration = session.splits[CALIBRATION]
    try:
        labels = Labels.of(session, task)
    except DataError as error:
        return dict.fromkeys(WITHOUT_SPIKES, str(error))
    found: dict[str, Predictor | str] = {
        CONSTANT: lambda time_ns: np.tile(labels.mean, (len(time_ns), 1)),
        SESSION_TIME: by_session_time(labels, calibration),
        OWN_PAST: by_own_past(labels, calibration, window_ns),
    }
    try:
        found[TRIAL_TIME] = by_trial_time(labels, session.tokens.trials)
    except DataError as error:
        found[TRIAL_TIME] = str(error)
    return found


def without_spikes(answer: Prediction, by: Predictor | str) -> dict[str, object]:
    """The score of a predictor on the samples of a row: ``score``, or ``reason`` where there is no predictor."""
    if isinstance(by, str):
        return {"reason": by}
    return {"score": replace(answer, predicted=by(answer.time_ns)).score()[METRIC]}


def by_session_time(labels: Labels, calibration: Intervals) -> Predictor:
    """A ridge on the time in the session, and on sines of it with periods from a second to the calibration's length."""
    begin_ns, length_ns = int(calibration.start_ns[0]), max(calibration.total_ns, NS_PER_S)
    period_s = np.geomspace(1.0, length_ns / NS_PER_S, PERIODS)

    def features(time_ns: np.ndarray) -> np.ndarray:
        second = ((time_ns - begin_ns) / NS_PER_S)[:, None]
        angle = 2 * np.pi * second / period_s
        return np.hstack([second, np.sin(angle), np.cos(angle)])

    return _ridge(labels, calibration, features)


def by_own_past(labels: Labels, calibration: Intervals, window_ns: int) -> Predictor:
    """A ridge on the behaviour from one to two windows ago, which no decoder was given."""
    ago_ns = [window_ns + window_ns * k // 4 for k in range(5)]

    def features(time_ns: np.ndarray) -> np.ndarray:
        found = []
        for back_ns in ago_ns:  # the last sample by then; the calibration's mean where there was none yet
            row = np.searchsorted(labels.time_ns, time_ns - back_ns, side="right") - 1
            found.append(np.where(row[:, None] >= 0, labels.value[np.maximum(row, 0)], labels.mean))
        return np.hstack(found)

    return _ridge(labels, calibration, features)


def _ridge(labels: Labels, calibration: Intervals, features: Predictor) -> Predictor:
    """On features of the time, fitted on the calibration; blocks of it choose the penalty."""
    time_ns, value = labels.time_ns[labels.known], labels.value[labels.known]
    x, error = features(time_ns), np.zeros(len(ALPHAS))
    for block in blocks_of(calibration, FOLDS):
        out = holds(block, time_ns)
        if out.any() and not out.all():
            for k, fitted in enumerate(ridges(x[~out], value[~out])):
                error[k] += np.square(fitted(x[out]) - value[out]).sum()
    best = ridges(x, value)[int(np.argmin(error))]
    return lambda time_ns: best(features(time_ns))


def ridges(x: np.ndarray, y: np.ndarray) -> list[Predictor]:
    """Of features ``[T, D]``, scaled to a deviation of 1, and values ``[T, C]``, the ridge of each of ``ALPHAS``.

    As scikit-learn's, which need not be imported for these few features.
    """
    mean, sd, level = x.mean(0), x.std(0), y.mean(0)
    scaled = (x - mean) / (sd := np.where(sd > 1e-12, sd, 1.0))
    square, product = scaled.T @ scaled, scaled.T @ (y - level)
    weights = [np.linalg.solve(square + alpha * np.eye(len(square)), product) for alpha in ALPHAS]
    return [lambda new, weight=weight: (new - mean) / sd @ weight + level for weight in weights]


def by_trial_time(labels: Labels, trials: Intervals) -> Predictor:
    """The mean of the calibration's trials at the same time since their start; elsewhere the calibration's mean.

    Raises:
        DataError: the calibration has fewer than two trials.
    """
    order = np.argsort(trials.start_ns, kind="stable")
    start, stop = trials.start_ns[order], trials.stop_ns[order]

    def place(time_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The trial that began last before each time, and the step since its start; -1 outside of trials."""
        row = np.searchsorted(start, time_ns, side="right") - 1
        inside = row >= 0
        inside[inside] = time_ns[inside] < stop[row[inside]]
        step = np.full(len(time_ns), -1)
        step[inside] = (time_ns[inside] - start[row[inside]]) // STEP_NS
        return np.where(inside, row, -1), step

    if not len(trials):
        message = "the session has no trials"
        raise DataError(message)
    trial, step = place(labels.time_ns[labels.known])
    used = step >= 0
    n = len(np.unique(trial[used]))
    if n < 2:
        message = f"the calibration has {n} trials, a mean trial needs 2"
        raise DataError(message)
    value, n_steps = labels.value[labels.known][used], int(step.max()) + 1
    count = np.bincount(step[used], minlength=n_steps)
    total = np.column_stack([np.bincount(step[used], column, n_steps) for column in value.T])
    mean = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], labels.mean)

    def predict(time_ns: np.ndarray) -> np.ndarray:
        _, step = place(time_ns)
        known = (step >= 0) & (step < n_steps)
        return np.where(known[:, None], mean[np.where(known, step, 0)], labels.mean)

    return predict
