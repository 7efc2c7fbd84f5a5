"""Scores, each under the one name of its definition. Pure functions in float64; nothing is changed in place.

Three numbers are called R2 in this field and three are called bits per spike; they differ on the same prediction:

    r2_variance_weighted   components weighted by their variance (FALCON)
    r2_mean                plain mean over components (NLB, POYO; scikit-learn's default)
    co_bps, fp_bps         bits per spike over all bins and units at once, against each unit's mean rate (NLB):
                           on held-out units, on forward bins
    bps_per_unit           the same for each unit, then the mean over units (MtM, NEDS)

Where a score does not exist (a constant target, no spike) it is nan, never 0 and never 1.

Shape letters: T samples or bins, C components, N units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.plugins import Registry

MIN_RATE = 1e-9  # expected spikes per bin; nlb_tools raises rates of zero to it


def _scored(target, prediction, weight, valid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The samples that count, as float64 ``[T, C]``, ``[T, C]`` and weights ``[T]``."""
    target, prediction = np.asarray(target, np.float64), np.asarray(prediction, np.float64)
    if target.shape != prediction.shape or target.ndim not in (1, 2):
        message = f"target has shape {target.shape} and prediction {prediction.shape}, expected the same [T] or [T, C]"
        raise DataError(message)
    n = target.shape[0]
    target, prediction = target.reshape(n, -1), prediction.reshape(n, -1)
    weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    keep = np.ones(n, bool) if valid is None else np.asarray(valid, bool)
    if weight.shape != (n,) or keep.shape != (n,):
        message = f"{n} samples with weights of shape {weight.shape} and valid of shape {keep.shape}, expected ({n},)"
        raise DataError(message)
    if not (weight[keep] >= 0).all():
        message = f"a weight is {np.min(weight[keep])}, must not be negative or nan"
        raise DataError(message)
    keep = keep & (weight > 0)
    target, prediction, weight = target[keep], prediction[keep], weight[keep]
    for name, array in (("target", target), ("prediction", prediction)):
        if not np.isfinite(array).all():
            message = (
                f"{(~np.isfinite(array)).any(axis=1).sum()} of {len(array)} scored samples of the {name} are not finite"
            )
            raise DataError(message)
    return target, prediction, weight


def _sums_of_squares(target, prediction, weight, valid) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residual and total sums of squares of each component; the total is exactly 0 for a constant target."""
    target, prediction, weight = _scored(target, prediction, weight, valid)
    if len(target) == 0:
        return np.full(target.shape[1], np.nan), np.zeros(target.shape[1])
    residual = weight @ np.square(target - prediction)
    mean = np.average(target, axis=0, weights=weight)
    total = weight @ np.square(target - mean)
    return residual, np.where(np.ptp(target, axis=0) > 0, total, 0.0)  # the mean of equal numbers may be off by a bit


def r2_per_component(target, prediction, weight=None, valid=None) -> np.ndarray:
    """Coefficient of determination of each component: 1 minus residual over total (weighted) sum of squares.

    Args:
        target, prediction: ``[T, C]`` (or ``[T]`` for one component).
        weight: ``[T]``, not negative; also in the mean that the total is taken around.
        valid: bool ``[T]``; other samples do not count.

    Returns:
        float64 ``[C]``; nan where the scored target is constant or nothing is scored.

    Raises:
        DataError: shapes differ, or a scored value is not finite.

    >>> r2_per_component([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
    array([0.5])
    """
    residual, total = _sums_of_squares(target, prediction, weight, valid)
    return 1.0 - np.divide(residual, total, out=np.full_like(residual, np.nan), where=total > 0)


def r2_variance_weighted(target, prediction, weight=None, valid=None) -> float:
    """R2 over all components at once: each component counts by its variance, a constant one not at all.

    Arguments and errors as :func:`r2_per_component`. nan where every component is constant or nothing is scored.
    """
    residual, total = _sums_of_squares(target, prediction, weight, valid)
    varies = total > 0
    return float(1.0 - residual[varies].sum() / total[varies].sum()) if varies.any() else float("nan")


def r2_mean(target, prediction, weight=None, valid=None) -> float:
    """The plain mean of :func:`r2_per_component`; nan where any component is nan, for a part is not the whole."""
    return float(np.mean(r2_per_component(target, prediction, weight, valid)))


def _rates_and_counts(rate, count) -> tuple[np.ndarray, np.ndarray]:
    """float64 ``[T, N]`` each; rates are raised to MIN_RATE; both nan where the count is."""
    rate, count = np.asarray(rate, np.float64), np.asarray(count, np.float64)
    if rate.shape != count.shape or rate.ndim < 2:
        message = f"rates have shape {rate.shape} and counts {count.shape}, expected the same [..., T, N]"
        raise DataError(message)
    rate, count = rate.reshape(-1, rate.shape[-1]), count.reshape(-1, count.shape[-1])
    observed = ~np.isnan(count)
    whole = count[observed]
    if (whole < 0).any() or (whole != np.floor(whole)).any() or np.isinf(whole).any():
        message = "counts must be whole numbers of at least 0, or nan where nothing was observed"
        raise DataError(message)
    if not np.isfinite(rate[observed]).all() or (rate[observed] < 0).any():
        message = f"{(~(rate[observed] >= 0) | np.isinf(rate[observed])).sum()} rates are negative or not finite"
        raise DataError(message)
    return np.where(observed, np.maximum(rate, MIN_RATE), np.nan), count


def _log_factorial(count: np.ndarray) -> np.ndarray:
    top = int(np.nanmax(count, initial=0))
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, top + 1)))])
    return np.where(np.isnan(count), np.nan, table[np.nan_to_num(count).astype(np.int64)])


def _nll_per_unit(rate: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Nats of each unit, summed over its observed bins, with ``log y!``."""
    return np.nansum(rate - count * np.log(rate) + _log_factorial(count), axis=0)


def null_rate(count: np.ndarray, exposure=None) -> np.ndarray:
    """Each unit's mean count over the evaluation data itself, which is NLB's null model; nan where the count is.

    Args:
        count: float64 ``[T, N]``, nan where nothing was observed.
        exposure: ``[..., T, N]``, the share of each bin that was recorded: the mean is then spikes over recorded time,
            and a bin expects its share of it. None: all of each bin.
    """
    missing = np.isnan(count)
    if exposure is None:
        mean = np.nansum(count, axis=0) / np.maximum((~missing).sum(axis=0), 1)
        return np.where(missing, np.nan, np.maximum(mean, MIN_RATE))
    share = np.where(missing, 0.0, np.asarray(exposure, np.float64).reshape(count.shape))
    recorded = share.sum(axis=0)
    mean = np.divide(np.nansum(count, axis=0), recorded, out=np.zeros_like(recorded), where=recorded > 0)
    return np.where(missing, np.nan, np.maximum(mean * share, MIN_RATE))


def poisson_nll(rate, count) -> float:
    """Mean negative log-likelihood in nats per observed bin and unit, with ``log y!``; nan where nothing is observed.

    Args:
        rate: expected spikes per **bin** (neither a log nor in Hz), ``[..., T, N]``.
        count: whole numbers, nan where nothing was observed, ``[..., T, N]``.

    Raises:
        DataError: shapes differ, a rate is negative or not finite, a count is no whole number.
    """
    rate, count = _rates_and_counts(rate, count)
    observed = (~np.isnan(count)).sum()
    return float(_nll_per_unit(rate, count).sum() / observed) if observed else float("nan")


def _bits_per_spike(rate, count, exposure) -> float:
    rate, count = _rates_and_counts(rate, count)
    spikes = np.nansum(count)
    if spikes == 0:
        return float("nan")
    gain = _nll_per_unit(null_rate(count, exposure), count).sum() - _nll_per_unit(rate, count).sum()
    return float(gain / spikes / np.log(2))


def co_bps(rate, count, exposure=None) -> float:
    """NLB's co-bps: bits per spike on the held-out units, over all their bins and trials at once.

    ``(NLL of the null - NLL of the model) / (spikes * ln 2)``, the null being each unit's mean rate over the same
    evaluation data (:func:`null_rate`, of ``exposure``). Arguments and errors as :func:`poisson_nll`, for the held-out
    units; nan where there is no spike.
    """
    return _bits_per_spike(rate, count, exposure)


def fp_bps(rate, count, exposure=None) -> float:
    """NLB's fp-bps: the formula of :func:`co_bps` on the forward bins of held-in and held-out units."""
    return _bits_per_spike(rate, count, exposure)


def bps_of_units(rate, count, exposure=None) -> np.ndarray:
    """Bits per spike of each unit over its own bins, float64 ``[N]``; nan where it has no spike.

    The null is each unit's mean rate over its scored bins (:func:`null_rate`, of ``exposure``). Arguments and errors as
    :func:`poisson_nll`.
    """
    rate, count = _rates_and_counts(rate, count)
    spikes = np.nansum(count, axis=0)
    gain = _nll_per_unit(null_rate(count, exposure), count) - _nll_per_unit(rate, count)
    return np.divide(gain, spikes, out=np.full_like(gain, np.nan), where=spikes > 0) / np.log(2)


def bps_per_unit(rate, count, exposure=None) -> float:
    """Bits per spike of each unit, then the mean over the units that have a spike (MtM, NEDS); nan where none has."""
    each = bps_of_units(rate, count, exposure)
    heard = np.isfinite(each)
    return float(np.mean(each[heard])) if heard.any() else float("nan")


_BUILT_IN = {
    "r2_variance_weighted": r2_variance_weighted,
    "r2_mean": r2_mean,
    "co_bps": co_bps,
    "fp_bps": fp_bps,
    "bps_per_unit": bps_per_unit,
    "poisson_nll": poisson_nll,
}

# Of what, by the names of the first two arguments: the rest of both have defaults.
OF = {("target", "prediction"): "behaviour", ("rate", "count"): "spikes"}


def measures(metric: Callable) -> str:
    """``"behaviour"`` or ``"spikes"``, what a metric compares; empty where its arguments are neither's."""
    return OF.get(tuple(signature(metric).parameters)[:2], "")


def why_no_metric(thing: object, module: object = None) -> str:
    """Why something is no metric; empty where it is one."""
    if not callable(thing):
        return f"is a {type(thing).__name__}, expected a function"
    words = " or ".join(f"({', '.join(names)})" for names in OF)
    return "" if measures(thing) else f"has the arguments ({', '.join(signature(thing).parameters)}), expected {words}"


# Of behaviour: (target, prediction, weight, valid). Of spikes: (rate per bin, count, exposure). Those of other packages
# are entry points of the group ``spiketok.metrics``.
METRICS = Registry("metric", _BUILT_IN, why_no_metric, name_of=lambda metric: metric.__name__)


def require_metrics(names: Sequence[str], of: str, own: Sequence[str], key: str) -> None:
    """Raise where a task cannot report a metric beside its own.

    Args:
        of: ``"behaviour"`` or ``"spikes"``. own: metrics that it reports anyway. key: the setting that named them.

    Raises:
        UnknownNameError: there is no such metric. UsageError: it is of something else, or named twice.
    """
    for k, name in enumerate(names):
        if name not in METRICS:
            raise UnknownNameError("metric", name, METRICS, key)
        if measures(METRICS[name]) != of:
            message = f"{key} names '{name}', which compares {measures(METRICS[name])}: this task has {of}"
            raise UsageError(message)
        if name in own or name in names[:k]:
            message = f"{key} names '{name}', which is reported already: leave it out"
            raise UsageError(message)
