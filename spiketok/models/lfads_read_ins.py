"""What the read-ins of ``lfads`` start from: principal components of smoothed counts, or a regression to shared ones.

Principal component regression (Pandarinath et al. 2018): the means over the trials of each condition are taken in every
session, laid beside each other along the units, and reduced to a few components; a session's read-in is the regression
from its own means to them. Sessions whose units differ then give the encoder the same channels.

Shape letters: T bins, N units, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from spiketok.errors import DataError
from spiketok.models.batch import Stretch


@torch.no_grad()
def start_from(
    read_in: nn.Linear,
    read_out: nn.Linear | None,
    counts: Sequence[np.ndarray],
    mean: np.ndarray,
    sd_bins: float,
    weight: np.ndarray | None,
) -> None:
    """Start a read-in by directions of the counts; and the read-out with it, where it reads as many numbers.

    A channel of the counts of single bins has mean 0 and variance 1. More channels than there are units stay as they
    are drawn. The read-out is the regression from the smoothed channels to small changes of the log rates.

    Args:
        counts: ``[T, N]`` of each stretch. mean: ``[N]``, of a bin. sd_bins: of the Gaussian that smooths them.
        weight: ``[N, D]``; None for the principal components.
    """
    rate = np.concatenate([smoothed(c, sd_bins) for c in counts])
    if weight is None:
        weight = principal(rate, read_in.out_features)
    spread = (np.concatenate(counts) @ weight).std(axis=0)
    weight = weight / np.where(spread > 0, spread, 1.0)
    n = weight.shape[1]
    read_in.weight[:n] = torch.from_numpy(weight.T).to(read_in.weight)
    read_in.bias[:n] = torch.from_numpy(-mean @ weight).to(read_in.bias)
    if read_out is not None and read_out.in_features == read_in.out_features:
        back = regression(rate @ weight, rate / mean)
        read_out.weight[:, :n] = torch.from_numpy(back.T).to(read_out.weight)


def aligned(
    sessions: Mapping[str, Sequence[Stretch]], name: str, column: str, n_bins: int, sd_bins: float, n: int
) -> dict[str, np.ndarray]:
    """By session ``[N, D]``: the regression to the components that the means over trials of all sessions have.

    Args:
        sessions: by id, stretches of training time. name: of the input with the counts. column: of the trials, whose
            words are the conditions. n_bins: of a mean, from each trial's start. sd_bins: of the Gaussian. n: D.

    Raises:
        DataError: a session lacks the column, or no word has a trial in every session.
    """
    means = {session: _trial_means(session, own, name, column, n_bins, sd_bins) for session, own in sessions.items()}
    words = sorted(set.intersection(*(set(own) for own in means.values())))
    if not words:
        message = f"model.align={column}: no word of this trial column has a whole trial in every session"
        raise DataError(message)
    rates = {session: np.concatenate([own[word] for word in words]) for session, own in means.items()}
    whole = np.concatenate(list(rates.values()), axis=1)
    components = whole @ principal(whole, n)
    return {session: regression(rate, components) for session, rate in rates.items()}


def _trial_means(
    session: str, stretches: Sequence[Stretch], name: str, column: str, n_bins: int, sd_bins: float
) -> dict[str, np.ndarray]:
    """By word ``[T, N]``: the mean of smoothed counts from each trial's start."""
    found: dict[str, list[np.ndarray]] = {}
    for stretch in stretches:
        if column not in stretch.trial_columns:
            message = (
                f"{session} has no trial column '{column}' to align by (model.align): it has "
                f"{', '.join(stretch.trial_columns) or 'none'}"
            )
            raise DataError(message)
        rate = smoothed(stretch.columns[name]["counts"], sd_bins)
        words = np.asarray(stretch.trial_columns[column]).astype(str).tolist()
        for word, first in zip(words, stretch.trial_bin.tolist(), strict=True):
            if first + n_bins <= len(rate):
                found.setdefault(word, []).append(rate[first : first + n_bins])
    return {word: np.mean(rates, axis=0) for word, rates in found.items()}


def smoothed(counts_TN: np.ndarray, sd_bins: float) -> np.ndarray:
    """Under a Gaussian; at the ends the mean of what is there."""
    reach = np.arange(-math.ceil(3 * sd_bins), math.ceil(3 * sd_bins) + 1)
    kernel = np.exp(-0.5 * (reach / sd_bins) ** 2)
    n = len(counts_TN)

    def blur(column: np.ndarray) -> np.ndarray:
        return np.convolve(column, kernel)[len(reach) // 2 : len(reach) // 2 + n]

    blurred = np.stack([blur(column) for column in counts_TN.T.astype(np.float64)], axis=1)
    return blurred / blur(np.ones(n))[:, None]


def principal(rate_TN: np.ndarray, n: int) -> np.ndarray:
    """``[N, n]``: the directions of largest variance, each with a positive sum; fewer where there are fewer units."""
    _, directions = np.linalg.eigh(np.cov(rate_TN, rowvar=False, bias=True).reshape(rate_TN.shape[1], -1))
    chosen = directions[:, ::-1][:, :n]
    return chosen * np.where(chosen.sum(axis=0) < 0, -1.0, 1.0)


def regression(x_TN: np.ndarray, y_TD: np.ndarray, ridge: float = 1e-2) -> np.ndarray:
    """``[N, D]``: what predicts ``y`` from ``x``, both without their means; the penalty is a share of x's variance."""
    x, y = x_TN - x_TN.mean(axis=0), y_TD - y_TD.mean(axis=0)
    gram = x.T @ x
    return np.linalg.solve(gram + (ridge * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram)), x.T @ y)
