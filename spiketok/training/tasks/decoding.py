"""What training and transfer share about decoding: which behaviour, in which time, predicted how, scored how.

What is unusual:

- the target is normalised by training time only, pooled over the training sessions;
- predictions of overlapping windows are averaged at identical times (stitched) before any score;
- every score names its R2: ``r2_variance_weighted`` (FALCON) or ``r2_mean`` over components (NLB, POYO).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from spiketok.errors import DataError
from spiketok.models.base import Model
from spiketok.models.batch import TargetSpec
from spiketok.recording.intervals import values_in
from spiketok.recording.metrics import r2_mean, r2_per_component, r2_variance_weighted
from spiketok.tokens.shards import ShardReader
from spiketok.training.config import RunConfig
from spiketok.training.loader import Loader
from spiketok.training.sampling import SequentialWindows, SessionWindows
from spiketok.training.sessions import LabelledSession, _listing, require_window

KINDS = ("vel", "pos")  # what "auto" looks for in a signal's name, in this order


# ---- the behaviour --------------------------------------------------------------------------------------------------


def choose_target(readers: Sequence[ShardReader], name: str = "auto") -> str:
    """The name of the signal to decode.

    Args:
        readers: the sessions, all of which must have it.
        name: a signal's name, or ``"auto"``: the one velocity signal, else the one position signal, else the only one;
            masks (signals whose measure is ``"bool"``, as FALCON's ``eval_mask``) are no choice.

    Raises:
        DataError: a session lacks it, its components or measure differ, or ``"auto"`` has more than one choice.
    """
    having = {r.info.id: dict(r.info.signals) for r in readers}
    if name == "auto":
        kept = {s: {n: own for n, own in signals.items() if own[1] != "bool"} for s, signals in having.items()}
        name = _only_choice(sorted(set.intersection(*(set(signals) for signals in kept.values()))), kept)
    lacking = [session for session, signals in having.items() if name not in signals]
    if lacking:
        holders = [session for session, signals in having.items() if name in signals]
        message = (
            f"signal '{name}' is missing in {_listing(lacking)}; "
            + (f"{_listing(holders)} have it" if holders else f"there are {_listing(_signal_names(having)) or 'none'}")
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


def _only_choice(shared: list[str], having: Mapping[str, Mapping]) -> str:
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
    elif not any(having.values()):
        message = f"{_listing(list(having))} hold no behaviour to decode: train on sessions with a signal"
    else:
        each = "; ".join(f"{s} has {', '.join(sorted(signals)) or 'none'}" for s, signals in list(having.items())[:6])
        message = f"no signal is in every session ({each}): choose sessions by --sessions GLOB"
    raise DataError(message)


def _signal_names(having: Mapping[str, Mapping]) -> list[str]:
    return sorted({name for signals in having.values() for name in signals})


def _describe(signal: tuple[tuple[str, ...], str]) -> str:
    components, measure = signal
    return f"({', '.join(components)}) in '{measure or 'no stated measure'}'"


def fit_target(sessions: Sequence[LabelledSession], name: str) -> TargetSpec:
    """Mean and standard deviation of the behaviour over the valid samples in all sessions' training time.

    Raises:
        DataError: a component is constant there.
    """
    values = [values_in(s.signal, s.guarded["train"])[1] for s in sessions]
    value = np.concatenate(values).astype(np.float64)
    signal = sessions[0].signal
    if len(value) == 0:
        message = f"'{name}' has no valid sample in the training time of {_listing([s.id for s in sessions])}"
        raise DataError(message)
    mean, std = value.mean(axis=0), value.std(axis=0)
    for component, spread in zip(signal.components, std, strict=True):
        if not spread > 0:
            message = (
                f"component '{component}' of '{name}' is constant in the training time: there is nothing to decode"
            )
            raise DataError(message)
    return TargetSpec(name, signal.components, signal.measure, tuple(mean.tolist()), tuple(std.tolist()))


# ---- prediction -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prediction:
    """Stitched predictions of one session, in the behaviour's own measure.

    Args:
        time_ns: int64 ``[T]``, strictly rising. predicted, true: float64 ``[T, C]``.
        valid: bool ``[T]``; False where the behaviour was not measured (``true`` means nothing there).
        components, measure: of the behaviour.
        windows: how many windows were averaged at each time, int64 ``[T]``.
    """

    time_ns: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    valid: np.ndarray
    components: tuple[str, ...]
    measure: str
    windows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def score(self) -> dict[str, object]:
        """R2 by its named variants over the valid times; None where it does not exist (a constant behaviour)."""
        each = r2_per_component(self.true, self.predicted, valid=self.valid)
        return {
            "r2_variance_weighted": _or_none(r2_variance_weighted(self.true, self.predicted, valid=self.valid)),
            "r2_mean": _or_none(r2_mean(self.true, self.predicted, valid=self.valid)),
            "r2_per_component": {name: _or_none(r2) for name, r2 in zip(self.components, each, strict=True)},
            "n_samples": int(self.valid.sum()),
        }


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def predict(
    model: Model,
    sessions: Sequence[SessionWindows],
    target: TargetSpec,
    config: RunConfig,
    device: torch.device | str = "cpu",
) -> dict[str, Prediction]:
    """Predict the behaviour in all windows that fit, one behind the other with overlap, and stitch.

    Args:
        model: knows the sessions. It is put into eval mode for the time, and back.
        sessions: where windows may lie.
        target: what is predicted, with its normalisation.
        config: window length, evaluation step and batch size.

    Returns:
        by session id; a session in which no window fits is a DataError.
    """
    was_training = model.training
    model.eval()
    try:
        return {s.id: _predict_session(model, s, target, config, device) for s in sessions}
    finally:
        model.train(was_training)


def _predict_session(
    model: Model, session: SessionWindows, target: TargetSpec, config: RunConfig, device: torch.device | str
) -> Prediction:
    info = session.reader.info
    require_window(session, "evaluation", config.data.window_ns)
    grid_ns = session.reader.scheme.grid_ns
    step_ns = max(config.data.eval_step_ns // grid_ns, 1) * grid_ns
    sampler = SequentialWindows([session], config.data.window_ns, step_ns=step_ns)
    loader = Loader(
        [session],
        sampler,
        batch_size=config.data.batch_size,
        target=target,
        unit_rows={info.id: model.unit_row(info)},
        session_rows={info.id: model.session_row(info.id)},
        one_session=model.one_session_batches,
        seed=0,
    )
    times, predicted, true, weight = [], [], [], []
    with torch.inference_mode():
        for batch in loader:
            output = model(batch.to(device))["prediction"].cpu().double().numpy()
            # a model with a history says NaN where the history is not all there; from any other NaN is an error
            made = np.isfinite(output).all(axis=1) if model.history_bins else slice(None)
            times.append(np.array(batch.query_ns)[made])
            predicted.append(output[made])
            true.append(batch.target.cpu().double().numpy()[made])
            weight.append(np.array(batch.weight.cpu().numpy())[made])
    return _stitch(np.concatenate(times), *map(np.concatenate, (predicted, true, weight)), target)


def _stitch(
    time_ns: np.ndarray, predicted: np.ndarray, true: np.ndarray, weight: np.ndarray, target: TargetSpec
) -> Prediction:
    """The mean of all predictions at each time; the behaviour itself is the same in every window."""
    unique_ns, first, inverse, count = np.unique(time_ns, return_index=True, return_inverse=True, return_counts=True)
    total = np.zeros((len(unique_ns), predicted.shape[1]))
    np.add.at(total, inverse, predicted)
    mean, std = np.array(target.mean), np.array(target.std)
    return Prediction(
        time_ns=unique_ns,
        predicted=total / count[:, None] * std + mean,
        true=true[first] * std + mean,
        valid=weight[first] > 0,
        components=target.components,
        measure=target.measure,
        windows=count,
    )
