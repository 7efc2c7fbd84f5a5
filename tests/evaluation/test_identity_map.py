"""The ridge of the identity map, held against scikit-learn; directions against the covariance."""

from __future__ import annotations

import numpy as np
import torch

from spiketok.evaluation.identity_map import ALPHAS, SPREAD, _groups, fit_ridge, principal, put_rows, rows_of
from spiketok.models.base import Part


def made(noise: float, n: int = 90, seed: int = 0):
    """Statistics, rows that follow from them, and the units that are left out together."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, rng.uniform(0.1, 30, 6), (n, 6))
    y = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(6, 4)) + 3 + noise * rng.normal(size=(n, 4))
    return x, y, np.repeat(np.arange(n // 3), 3)


def test_the_penalty_and_the_weights_are_scikit_learns():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    for noise in (0.1, 3.0, 30.0):
        x, y, groups = made(noise)
        z = (x - x.mean(0)) / x.std(0)
        folds = PredefinedSplit(groups % 5)
        error = [np.square(cross_val_predict(Ridge(alpha=a), z, y, cv=folds) - y).sum() for a in ALPHAS]
        found = fit_ridge(x, y, groups)
        assert found.alpha == ALPHAS[int(np.argmin(error))]
        new = made(0.0, seed=9)[0]
        expected = Ridge(alpha=found.alpha).fit(z, y).predict((new - x.mean(0)) / x.std(0))
        np.testing.assert_allclose(found.foretell(new), expected, rtol=1e-8, atol=1e-8)


def test_what_explains_nothing_foretells_the_mean():
    x, y, groups = made(0.0)
    shuffled = y[np.random.default_rng(1).permutation(len(y))]
    assert fit_ridge(x, y, groups).explained > 0.99
    none = fit_ridge(x, shuffled, groups)
    assert none.explained < 0.1
    assert (none.foretell(x) - shuffled.mean(0)).std() < 0.1 * y.std()


def test_a_statistic_that_never_changes_and_a_single_group_are_no_error():
    x, y, _ = made(0.1)
    x[:, 2] = 7.0
    found = fit_ridge(x, y, np.zeros(len(x), int))
    assert found.alpha == ALPHAS[-1] and np.isfinite(found.foretell(x + 1)).all()


def test_of_few_sessions_units_are_left_out_and_of_more_whole_sessions():
    assert _groups([(2, 3), (1, 2)]).tolist() == [0, 1, 0, 1, 0, 1, 2, 2]
    assert _groups([(2, 2)] * 4).tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_directions_hold_the_variance_of_the_rows():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 8)) + 5 + 1e-3 * rng.normal(size=(40, 8))
    found = principal(rows).double().numpy()
    assert len(found) <= 3
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-6)
    centred = rows - rows.mean(0)
    assert np.square(centred @ found.T).sum() >= SPREAD * np.square(centred).sum()


def test_rows_go_out_and_back_along_either_axis():
    for axis in (0, 1):
        parameter = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
        part = Part(parameter)
        rows = rows_of(part, axis)
        assert rows.shape == ((3, 4) if axis == 0 else (4, 3))
        with torch.no_grad():
            put_rows(part, axis, rows * 2)
        assert torch.equal(parameter.detach(), torch.arange(12.0).reshape(3, 4) * 2)
    table = torch.nn.Parameter(torch.zeros(5, 2))
    with torch.no_grad():
        put_rows(Part(table, slice(1, 3)), 0, torch.ones(2, 2))
    assert table.detach().sum(1).tolist() == [0, 2, 2, 0, 0]
