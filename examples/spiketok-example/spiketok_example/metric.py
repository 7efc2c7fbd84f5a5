"""A metric of behaviour: Pearson's correlation, the mean over components.

Named by ``--set task.decode.metrics=correlation``. Its first two arguments say what it compares: ``target`` and
``prediction`` for behaviour, ``rate`` and ``count`` for spikes. Higher is better; nan where there is no score.
"""

from __future__ import annotations

import numpy as np


def correlation(target, prediction, weight=None, valid=None) -> float:
    """Pearson's correlation of each component over the valid samples, then the mean; nan where one is constant.

    Args:
        target, prediction: ``[T, C]``. weight: ``[T]``, of the samples. valid: bool ``[T]``.
    """
    target, prediction = (np.asarray(values, np.float64).reshape(len(values), -1) for values in (target, prediction))
    weight = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
    weight = weight if valid is None else weight * np.asarray(valid, np.bool_)
    if not weight.sum() > 0:
        return float("nan")
    kept = weight > 0
    target, prediction, weight = target[kept], prediction[kept], weight[kept] / weight[kept].sum()
    a, b = target - weight @ target, prediction - weight @ prediction
    spread = np.sqrt((weight @ np.square(a)) * (weight @ np.square(b)))
    varies = (np.ptp(target, axis=0) > 0) & (np.ptp(prediction, axis=0) > 0)
    each = np.divide(weight @ (a * b), spread, out=np.full(len(spread), np.nan), where=varies & (spread > 0))
    return float(np.mean(each))
