"""The benchmark's scores of predicted rates, on the targets of ``nlb_tensors.eval_target``.

Names and definitions are those of nlb_tools 0.0.4 (``evaluation.py``): ``co-bps`` and ``fp-bps`` (metrics.co_bps,
metrics.fp_bps), ``vel R2`` (ridge from rates to velocity), ``psth R2``, ``tp corr`` for dmfc_rsg. Rates are
expected spikes per **bin**. What is unusual: nothing is changed in place (nlb_tools raises zeros of the
caller's rates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.metrics import co_bps, fp_bps, r2_mean

ALPHAS = np.logspace(-4, 0, 9)
FOLDS = 5
TP_CONDITIONS = (0, 1, 2)  # is_eye, theta, is_short: the columns of dmfc_rsg's behaviour that make a condition


def scores(target: Mapping[str, np.ndarray], rates: Mapping[str, np.ndarray]) -> dict[str, float]:
    """All scores that targets and rates allow.

    Args:
        target: what :func:`spiketok.pipeline.export.nlb_tensors.eval_target` gives for one set.
        rates: ``eval_rates_heldin``, ``eval_rates_heldout`` ``[E, T, U]``; for vel R2 also ``train_rates_heldin``,
            ``train_rates_heldout``; for fp-bps ``eval_rates_heldin_forward``, ``eval_rates_heldout_forward``.

    Returns:
        ``co-bps``, and where they can be had ``vel R2`` or ``tp corr``, ``psth R2``, ``fp-bps``.

    Raises:
        DataError: shapes do not fit, or a rate is negative or not finite where it counts.
    """
    both = np.concatenate([rates["eval_rates_heldin"], rates["eval_rates_heldout"]], axis=-1).astype(np.float64)
    out = {"co-bps": co_bps(rates["eval_rates_heldout"], target["eval_spikes_heldout"])}
    if target["eval_behavior"].ndim == 2:
        out["tp corr"] = tp_correlation(target["eval_spikes_heldout"], both, target["eval_behavior"])
    elif "train_rates_heldin" in rates:
        train = np.concatenate([rates["train_rates_heldin"], rates["train_rates_heldout"]], axis=-1)
        masks = target.get("train_decode_mask"), target.get("eval_decode_mask")
        out["vel R2"] = velocity_r2(train, target["train_behavior"], both, target["eval_behavior"], *masks)
    if "psth" in target:
        jitter = target.get("eval_jitter", np.zeros(len(both), np.int64))
        out["psth R2"] = psth_r2(target["psth"], both, target["eval_cond_idx"], jitter)
    if "eval_rates_heldin_forward" in rates:
        ahead = [np.concatenate([t[f"eval_{what}_heldin_forward"], t[f"eval_{what}_heldout_forward"]], axis=-1)
                 for t, what in ((rates, "rates"), (target, "spikes"))]  # fmt: skip
        out["fp-bps"] = fp_bps(*ahead)
    return out


def velocity_r2(
    train_rate: np.ndarray,
    train_behaviour: np.ndarray,
    rate: np.ndarray,
    behaviour: np.ndarray,
    train_group: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> float:
    """R2 of velocity by ridge regression from rates, fitted on the training trials; the mean over decoders.

    Samples without behaviour (nan) are left out. The penalty is chosen among 1e-4 to 1 by five folds of consecutive
    training samples, R2 is the plain mean over components.

    Args:
        train_rate, rate: ``[R, T, U]``. train_behaviour, behaviour: ``[R, T, C]``.
        train_group, group: bool ``[R, G]``: one decoder a column; None: one for all.
    """
    train_group = np.ones((len(train_rate), 1), bool) if train_group is None else np.asarray(train_group, bool)
    group = np.ones((len(rate), 1), bool) if group is None else np.asarray(group, bool)
    found = []
    for k in range(group.shape[1]):
        x, y = _samples(train_rate[train_group[:, k]], train_behaviour[train_group[:, k]])
        u, v = _samples(rate[group[:, k]], behaviour[group[:, k]])
        weight, shift = _ridge(x, y, _best_alpha(x, y))
        found.append(r2_mean(v, u @ weight + shift))
    return float(np.mean(found))


def _samples(rate: np.ndarray, behaviour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples with behaviour, float64 ``[S, U]`` and ``[S, C]``."""
    if rate.shape[:2] != behaviour.shape[:2]:
        message = f"rates have shape {rate.shape} and behaviour {behaviour.shape}: trials and bins must agree"
        raise DataError(message)
    x = np.asarray(rate, np.float64).reshape(-1, rate.shape[-1])
    y = np.asarray(behaviour, np.float64).reshape(-1, behaviour.shape[-1])
    keep = ~np.isnan(y).any(axis=1)
    if not np.isfinite(x[keep]).all():
        message = f"{int((~np.isfinite(x[keep])).any(axis=1).sum())} of {int(keep.sum())} scored samples have no rate"
        raise DataError(message)
    return x[keep], y[keep]


def _ridge(x: np.ndarray, y: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[U, C]`` and intercept ``[C]``; the intercept is not penalised."""
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    weight = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (y - y_mean))
    return weight, y_mean - x_mean @ weight


def _best_alpha(x: np.ndarray, y: np.ndarray) -> float:
    """The penalty with the best mean R2 over the folds, the smaller one of equals."""
    if len(x) < FOLDS:
        message = f"{len(x)} training samples, must be at least {FOLDS}"
        raise DataError(message)
    edges = np.cumsum([0, *(len(x) // FOLDS + (k < len(x) % FOLDS) for k in range(FOLDS))])
    reached = np.zeros((FOLDS, ALPHAS.size))
    for fold in range(FOLDS):
        inside = np.zeros(len(x), bool)
        inside[edges[fold] : edges[fold + 1]] = True
        for k, alpha in enumerate(ALPHAS):
            weight, shift = _ridge(x[~inside], y[~inside], alpha)
            reached[fold, k] = r2_mean(y[inside], x[inside] @ weight + shift)
    return float(ALPHAS[int(np.argmax(reached.mean(axis=0)))])


def psth_r2(psth: np.ndarray, rate: np.ndarray, condition: Sequence[np.ndarray], jitter: np.ndarray) -> float:
    """R2 of each unit's PSTH by the mean of its rates over the trials of each condition; the mean over units.

    Args:
        psth: ``[K, T, U]``, nan where there is none. rate: ``[E, T, U]``.
        condition: the rows of ``rate`` of each condition; one without rows does not count.
        jitter: int ``[E]``, bins by which each trial's window was moved later.
    """
    true, predicted = [], []
    for k, rows in enumerate(condition):
        if len(rows) == 0:
            continue
        moved = np.full((len(rows), *rate.shape[1:]), np.nan)
        for i, row in enumerate(np.asarray(rows, np.int64)):
            moved[i, jitter[row] :] = rate[row, : rate.shape[1] - jitter[row]]
        known = ~np.isnan(psth[k, :, 0])
        true.append(psth[k, known])
        predicted.append(moved.mean(axis=0)[known])
    if not true:
        message = "no condition of the PSTH has an evaluated trial"
        raise DataError(message)
    return r2_mean(np.concatenate(true), np.concatenate(predicted))


def tp_correlation(spikes: np.ndarray, rate: np.ndarray, behaviour: np.ndarray) -> float:
    """Pearson's r of neural speed and produced interval within each condition; the mean over conditions.

    nan where speed or interval does not vary within a condition.

    Args:
        spikes: ``[E, T, U]``, nan outside of the set-go interval. rate: ``[E, T, V]``.
        behaviour: ``[E, 5]``: is_eye, theta, is_short, ts, tp; rows of nan do not count.

    Raises:
        DataError: a condition has fewer than two trials.
    """
    speed = np.array([
        np.linalg.norm(np.diff(trial[~np.isnan(own[:, 0])], axis=0), axis=1).mean()
        for trial, own in zip(rate, spikes, strict=True)
    ])  # fmt: skip
    known = ~np.isnan(behaviour).any(axis=1)
    of = behaviour[:, TP_CONDITIONS]
    found = []
    for condition in np.unique(of[known], axis=0):
        rows = known & (of == condition).all(axis=1)
        if rows.sum() < 2:
            message = f"condition {condition.tolist()} (is_eye, theta, is_short) has {int(rows.sum())} trial, needs two"
            raise DataError(message)
        found.append(_pearson(speed[rows], behaviour[rows, -1]))
    if not found:
        message = "no trial has a produced interval to correlate with"
        raise DataError(message)
    return float(np.mean(found))


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one - one.mean(), other - other.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")
