"""Wiener filter: ridge regression of the behaviour on the binned counts of the last few hundred milliseconds.

The classic linear decoder, the floor that every other model is to beat. One ridge for each session, for units are not
shared; solved in closed form, the penalty chosen by cross-validation on the training time alone.

What is unusual:

- folds are blocks of time, never shuffled, and a fold's border is treated like the end of a recording: no row of one
  fold sees a bin of another;
- lags never reach over the start of a window or stretch, and nothing is padded: the first ``lags - 1`` bins of a window
  get no prediction (NaN), nor does a bin whose history holds an unobserved bin. Windows overlap by that much at least,
  unless ``data.eval_step_ms`` says otherwise, and so cover all but the very beginning;
- everything is computed from sums over rows (normal equations in float64, in blocks), so that memory does not grow with
  the recording and cross-validation costs one pass; scikit-learn's Ridge gives the same weights
  (tests/models/test_models.py).

Shape letters: B windows, T bins, N units, C components, P = lags * N predictors, Q query times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiketok.errors import DataError, UsageError, require
from spiketok.models.batch import (
    Batch,
    Head,
    Progress,
    Stretch,
    Timing,
    bins_of,
    observed_counts,
    query_bin,
    whole_counts,
)
from spiketok.models.binned import BinnedModel
from spiketok.models.losses import weighted_mse
from spiketok.models.nn import module_key

BLOCK_BYTES = 64 << 20  # of lagged counts held at once

Piece = tuple[np.ndarray, np.ndarray, np.ndarray]  # counts [T, N], target [T, C] normalised, weight [T]


@dataclass(frozen=True)
class LinearConfig:
    """How the ridge is set up.

    Args:
        lags: bins that a prediction sees: its own and those before it (15 of 20 ms are 300 ms).
        sqrt: take the square root of the counts, which evens out their variance.
        folds: blocks of cross-validation.
        alphas: penalties on the sum of squared weights to choose from (scikit-learn's alpha).
    """

    lags: int = 15
    sqrt: bool = True
    folds: int = 5
    alphas: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)

    def __post_init__(self) -> None:
        if self.lags < 1 or self.folds < 2:
            message = f"model.lags is {self.lags} and model.folds {self.folds}: need at least 1 and 2"
            raise UsageError(message)
        if not self.alphas or min(self.alphas) <= 0:
            message = f"model.alphas is {self.alphas}, need at least one and all above 0"
            raise UsageError(message)


class _Ridge(nn.Module):
    """The solution for one session, as buffers: nothing here is trained by gradient."""

    weight: Tensor  # [C, N, lags], oldest bin first
    intercept: Tensor  # [C]
    alpha: Tensor  # the penalty that was chosen; 0 while nothing is fitted

    def __init__(self, n_units: int, lags: int, n_components: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_components, n_units, lags))
        self.register_buffer("intercept", torch.zeros(n_components))
        self.register_buffer("alpha", torch.zeros((), dtype=torch.float64))


class Linear(BinnedModel):
    """Reads binned counts; :meth:`fit` instead of training."""

    name: ClassVar[str] = "linear"
    weighs_exposure = True
    checked: ClassVar[str] = "scikit-learn's ridge regression"
    tasks: ClassVar[tuple[str, ...]] = ("decode",)
    default_tasks: ClassVar[tuple[str, ...]] = ("decode",)
    protocols: ClassVar[tuple[str, ...]] = ()
    own_tables: ClassVar[tuple[str, ...]] = ("ridges",)
    Config: ClassVar[type] = LinearConfig
    sizes: ClassVar[dict[str, dict[str, object]]] = {"default": {}}
    recipes: ClassVar[dict[str, dict[str, dict]]] = {
        "*": {"data": {"window_ms": 1000.0, "batch_size": 64}, "optim": {"epochs": 1}}
    }

    def __init__(self, config: LinearConfig, heads: Sequence[Head], timing: Timing) -> None:
        super().__init__(config, heads, timing)
        self.task, self.n_components = self.head("values").task, self.head("values").size
        self.clear_sessions()

    def add_own(self, session: str, n_units: int) -> None:
        """Room for its weights; :meth:`fit` fills it."""
        self.ridges[module_key(session)] = _Ridge(n_units, self.config.lags, self.n_components)

    @property
    def causal(self) -> bool:
        return True

    @property
    def unanswered_ns(self) -> int:
        return (self.config.lags - 1) * self.timing.bin_ns

    def why_not(self, protocol: str, session_id: str) -> str:
        return "closed form: it has no weights for an unseen session; its refit is the row 'linear'"

    def n_fitted(self) -> int:
        """The solution stands in buffers: nothing of it is a parameter."""
        return sum(t.numel() for t in self.buffers())

    def alpha(self, session: str) -> float:
        """The penalty that cross-validation chose for a session.

        Raises:
            DataError: the session is unknown or was not fitted.
        """
        return float(self._ridge(session).alpha)

    # ---- prediction ---------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """By task ``[Q, C]``: of the bin that holds the query; NaN where its history is not all there."""
        columns, length = batch.inputs["counts"].packed()
        ridge, lags = self._ridge(batch.one_session("linear")), self.config.lags
        n_windows, n_bins = len(length), bins_of(length)
        if n_bins < lags:
            message = f"a window of {n_bins} bins is shorter than model.lags, {lags}: use a longer data.window_ms"
            raise DataError(message)
        counts = observed_counts(columns).to(ridge.weight.dtype)
        counts = counts.unflatten(0, (n_windows, n_bins)).transpose(1, 2)  # [B, N, T]
        if counts.shape[1] != ridge.weight.shape[1]:
            message = f"{batch.sessions[0]}: the batch has {counts.shape[1]} units, the model {ridge.weight.shape[1]}"
            raise DataError(message)
        if self.config.sqrt:
            counts = counts.sqrt()
        said = F.conv1d(counts, ridge.weight, ridge.intercept).transpose(1, 2)  # [B, T - lags + 1, C]
        unobserved = (columns["observed"] == 0).float().unflatten(0, (n_windows, n_bins))
        gap = F.max_pool1d(unobserved[:, None], lags, stride=1)[:, 0] > 0
        known = F.pad(~gap, (lags - 1, 0), value=False).flatten()
        bins = F.pad(said, (0, 0, lags - 1, 0)).flatten(0, 1).masked_fill(~known[:, None], torch.nan)
        query = query_bin(batch, batch.asked[self.task], n_bins)
        return {self.task: bins[query], f"{self.task}.known": known[query]}

    def loss(self, batch: Batch, output: dict[str, Tensor], progress: Progress) -> dict[str, Tensor]:
        """Weighted MSE where there is a prediction."""
        said, asked = output[self.task], batch.asked[self.task]
        mse = weighted_mse(said, asked.target, torch.where(output[f"{self.task}.known"], asked.weight, 0.0))
        return {self.task: mse, "total": mse}

    def _ridge(self, session: str) -> _Ridge:
        if session not in self.units:
            raise self.unknown(session)
        ridge = self.ridges[module_key(session)]
        if ridge.alpha == 0:
            message = f"linear has no weights for session '{session}': fit it on labelled time of that session first"
            raise DataError(message)
        return ridge

    # ---- fit ----------------------------------------------------------------------------------------------------

    def fit(self, sessions: Mapping[str, Sequence[Stretch]]) -> None:
        """Solve for the weights of each session.

        Args:
            sessions: by id, contiguous stretches; bins of weight 0 are predictors and no targets (their target may be
                NaN).

        Raises:
            DataError: a session is unknown, has other numbers of units or components, or too few labelled bins.
        """
        for session, stretches in sessions.items():
            if session not in self.units:
                raise self.unknown(session)
            ridge = self.ridges[module_key(session)]
            columns = [s.columns["counts"] for s in stretches]
            counts = [whole_counts(c) * c.get("unit_observed", 1) for c in columns]
            pieces = [(c, s.target[self.task], s.weight[self.task]) for c, s in zip(counts, stretches, strict=True)]
            weight, intercept, alpha = self._solve(session, self._checked(session, pieces))
            n_units = len(self.units[session])
            shaped = weight.reshape(self.config.lags, n_units, self.n_components).transpose(2, 1, 0)
            ridge.weight.copy_(torch.from_numpy(shaped.copy()))
            ridge.intercept.copy_(torch.from_numpy(intercept))
            ridge.alpha.fill_(alpha)

    def _checked(self, session: str, stretches: Sequence[Piece]) -> list[Piece]:
        n_units, checked = len(self.units[session]), []
        for counts, target, weight in stretches:
            counts, target, weight = (np.asarray(a, np.float64) for a in (counts, target, weight))
            given = (counts.shape, target.shape)
            expected = ((len(weight), n_units), (len(weight), self.n_components))
            if given != expected:
                message = f"{session}: counts and target have shapes {given}, expected {expected}"
                raise DataError(message)
            target = np.where(weight[:, None] > 0, target, 0.0)
            if not np.isfinite(target).all() or not (weight >= 0).all():
                message = f"{session}: a target is not finite where it has weight, or a weight is negative"
                raise DataError(message)
            checked.append((np.sqrt(counts) if self.config.sqrt else counts, target, weight))
        return checked

    def _solve(self, session: str, stretches: list[Piece]) -> tuple[np.ndarray, np.ndarray, float]:
        """Weights ``[P, C]``, intercept ``[C]``, and the penalty with the least squared error over the blocks."""
        folds = [self._moments(pieces) for pieces in _blocks(stretches, self.config.folds)]
        folds = [fold for fold in folds if fold.rows]
        if len(folds) < 2:
            bins, rows = sum(len(w) for _, _, w in stretches), sum(fold.rows for fold in folds)
            message = (
                f"{session}: {rows} labelled bins with a history of {self.config.lags} bins in {bins} bins are too few "
                f"for cross-validation over {self.config.folds} blocks: give more time, or fewer model.lags"
            )
            raise DataError(message)
        total = sum(folds[1:], folds[0])
        error = np.zeros(len(self.config.alphas))
        for fold in folds:
            rest = total - fold
            for i, alpha in enumerate(self.config.alphas):
                error[i] += fold.squared_error(*rest.ridge(alpha))
        alpha = self.config.alphas[int(np.argmin(error))]
        return *self._moments(stretches).ridge(alpha), alpha

    def _moments(self, stretches: Sequence[Piece]) -> _Moments:
        lags, n_components = self.config.lags, self.n_components
        n_predictors = lags * stretches[0][0].shape[1] if stretches else 0
        moments = _Moments.zeros(n_predictors, n_components)
        for counts, target, weight in stretches:
            for x, rows in _lagged(counts, lags):
                moments = moments + _Moments.of(x, target[rows], weight[rows])
        return moments


def _blocks(stretches: Sequence[Piece], folds: int) -> list[list[Piece]]:
    """The bins in order, divided into blocks of equal number; a border cuts the stretch that it falls into."""
    end = np.cumsum([len(weight) for _, _, weight in stretches])
    border = np.linspace(0, end[-1] if len(end) else 0, folds + 1).round().astype(int)
    blocks: list[list[Piece]] = []
    for low, high in pairwise(border):
        pieces = []
        for stretch, stop in zip(stretches, end, strict=True):
            start = stop - len(stretch[2])
            part = slice(max(low - start, 0), max(min(high, stop) - start, 0))
            if part.start < part.stop:
                pieces.append(tuple(array[part] for array in stretch))
        blocks.append(pieces)
    return blocks


def _lagged(counts: np.ndarray, lags: int) -> Iterator[tuple[np.ndarray, slice]]:
    """Blocks of predictors ``[rows, lags * N]`` (oldest bin first) with the bins that they predict."""
    if len(counts) < lags:
        return
    view = np.lib.stride_tricks.sliding_window_view(counts, lags, axis=0).transpose(0, 2, 1)  # [T - lags + 1, lags, N]
    size = max(1, BLOCK_BYTES // max(1, 8 * lags * counts.shape[1]))
    for first in range(0, len(view), size):
        x = view[first : first + size]
        yield x.reshape(len(x), -1), slice(first + lags - 1, first + lags - 1 + len(x))


@dataclass(frozen=True, eq=False)
class _Moments:
    """Weighted sums over rows, all that a ridge regression and its error need; they add and subtract."""

    rows: int  # with weight above 0
    w: float
    x: np.ndarray  # [P]
    y: np.ndarray  # [C]
    xx: np.ndarray  # [P, P]
    xy: np.ndarray  # [P, C]
    yy: np.ndarray  # [C]

    @classmethod
    def zeros(cls, p: int, c: int) -> _Moments:
        return cls(0, 0.0, np.zeros(p), np.zeros(c), np.zeros((p, p)), np.zeros((p, c)), np.zeros(c))

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> _Moments:
        used = weight > 0
        x, y, weight = x[used], y[used], weight[used]
        wx, wy = x * weight[:, None], y * weight[:, None]
        return cls(len(weight), float(weight.sum()), wx.sum(0), wy.sum(0), wx.T @ x, wx.T @ y, (wy * y).sum(0))

    def _fields(self) -> tuple:
        return self.rows, self.w, self.x, self.y, self.xx, self.xy, self.yy

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(*(a + b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(*(a - b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def ridge(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights ``[P, C]`` and intercept ``[C]``; the intercept is not penalised."""
        linalg = require("scipy.linalg", "train", "the linear model")
        mean_x, mean_y = self.x / self.w, self.y / self.w
        gram = self.xx - self.w * np.outer(mean_x, mean_x)
        gram[np.diag_indices_from(gram)] += alpha
        weight = linalg.solve(gram, self.xy - self.w * np.outer(mean_x, mean_y), assume_a="pos")
        return weight, mean_y - mean_x @ weight

    def squared_error(self, weight: np.ndarray, intercept: np.ndarray) -> float:
        """The weighted sum of squared residuals of these rows, over all components."""
        quadratic = self.yy + (weight * (self.xx @ weight)).sum(0) - 2 * (weight * self.xy).sum(0)
        return float((quadratic + self.w * intercept**2 + 2 * intercept * (self.x @ weight - self.y)).sum())
