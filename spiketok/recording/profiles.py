"""Behaviour profiles: a few numbers that say, in closed form, how a unit answers to what was done.

HsinyuanZhang's APST tells units apart by such numbers alone: no weight belongs to a unit. A profile is made of labelled
time of a session; what turns raw responses into a profile (scale of the behaviour, basis, centre, scale) is fitted on
the sessions that are trained on and never again.

    states w [T, K]      what was done in each row of time, as amounts at or above 0
    responses R [N, K]   sum_t w z / (sum_t w + n0): the mean deviation z of a unit while a state lasts, drawn to 0
    profile [N, p]       (R . basis - mean) / scale

A row is a bin, or several together. For one angle a trial there is the fit of a cosine instead (:func:`cosine_tuning`).

Shape letters: T rows of time, N units, C components of a behaviour, K states, p numbers of a profile, M trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.errors import DataError

LEAST_TRIALS = 3


def signed_states(behaviour: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """float64 ``[T, 2 C]``: softplus of each component and of its negative, in its RMS over the trained sessions.

    Args:
        behaviour: ``[T, C]``. rms: ``[C]``.
    """
    x = np.asarray(behaviour, np.float64) / rms
    return np.logaddexp(0.0, np.concatenate([x, -x], 1))


def rectified_states(behaviour: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """float64 ``[T, C]``: what is above 0 of each component, for what has one sign (EMG).

    Args:
        behaviour: ``[T, C]``. rms: ``[C]``.
    """
    return np.maximum(np.asarray(behaviour, np.float64), 0.0) / rms


def deviations(rate_hz: np.ndarray, row_s: float, known: np.ndarray | None = None) -> np.ndarray:
    """float64 ``[T, N]``: rates less their mean, in the SD of Poisson counts, which is that of one count at least.

    Args:
        rate_hz: ``[T, N]``. row_s: length of a row. known: bool ``[T, N]``; other rows are 0 and not in the mean.
    """
    rate = np.asarray(rate_hz, np.float64)
    known = np.ones(rate.shape, np.bool_) if known is None else known
    mean = np.where(known, rate, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return np.where(known, rate - mean, 0.0) / (np.sqrt(np.maximum(row_s * mean, 1.0)) / row_s)


def responses(
    deviation: np.ndarray, states: np.ndarray, prior_rows: float, known: np.ndarray | None = None
) -> np.ndarray:
    """float64 ``[N, K]``: the mean deviation of each unit in each state.

    Args:
        deviation: ``[T, N]``. states: ``[T, K]``. prior_rows: so many rows of no deviation are added.
        known: bool ``[T, N]``, the rows in which a unit was recorded.
    """
    weight = states.sum(0)[None] if known is None else known.T.astype(np.float64) @ states
    return (deviation.T @ states) / (weight + prior_rows)


def cosine_tuning(counts: np.ndarray, n_bins: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """float64 ``[N, 4]``: cosine, sine, depth and height of the cosine that fits a unit's counts a bin best.

    Least squares, without a penalty.

    Args:
        counts: ``[M, N]``, of each trial. n_bins: ``[M]``, that they are of. angle: ``[M]`` radians; a trial without
            one (NaN) is left out.

    Raises:
        DataError: the trials are fewer than three, or their angles do not tell three numbers apart.
    """
    used = np.isfinite(angle)
    design = np.stack([np.ones(used.sum()), np.cos(angle[used]), np.sin(angle[used])], 1)
    if len(design) < LEAST_TRIALS or np.linalg.matrix_rank(design) < LEAST_TRIALS:
        angles = len(np.unique(np.round(angle[used], 6)))
        message = f"{len(design)} trials of {angles} different angles: a cosine needs three angles at least"
        raise DataError(message)
    rate = counts[used] / n_bins[used, None]
    height, cosine, sine = np.linalg.lstsq(design, rate, rcond=None)[0]
    return np.stack([cosine, sine, np.hypot(cosine, sine), height], 1)


@dataclass(frozen=True, eq=False)
class Normaliser:
    """What makes profiles of raw responses, fitted on the trained sessions.

    Args:
        basis: ``[K, p]``. mean, scale: ``[p]``.
    """

    basis: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, raw: np.ndarray) -> np.ndarray:
        """float64 ``[..., p]`` of raw responses ``[..., K]``."""
        return (raw @ self.basis - self.mean) / self.scale


def fit_normaliser(raw: np.ndarray, n: int | None, *, one_scale: bool = False) -> Normaliser:
    """Fit a normaliser on the raw responses of all units of the trained sessions.

    Args:
        raw: ``[N, K]``. n: right singular vectors that are kept, not centred, each turned so that its largest entry is
            positive; None keeps the responses as they are.
        one_scale: one scale for all numbers, so that their relative sizes stay; else each has an SD of 1.
    """
    raw = np.asarray(raw, np.float64)
    basis = np.eye(raw.shape[1])
    if n is not None:
        basis = np.linalg.svd(raw, full_matrices=False)[2][:n].T
        largest = np.abs(basis).argmax(0)
        basis = basis * np.sign(basis[largest, np.arange(basis.shape[1])])
    along = raw @ basis
    sd = along.std(0)
    scale = np.full(len(sd), np.sqrt(np.mean(np.maximum(sd, 1e-6) ** 2))) if one_scale else np.where(sd > 1e-6, sd, 1.0)
    return Normaliser(basis, along.mean(0), scale)
