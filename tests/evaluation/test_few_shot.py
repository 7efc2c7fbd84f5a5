"""The few-shot row: a ridge in place of the last layer, its penalty chosen inside the calibration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spiketok.evaluation import few_shot
from spiketok.evaluation.adapted import begin
from spiketok.evaluation.few_shot import ALPHAS, few_shot_cells, fit_ridge, squared_error
from spiketok.evaluation.maps import Maps
from spiketok.evaluation.transfer import _transfer_session, evaluate_transfer
from spiketok.evaluation.unseen import Unseen
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.predict import predict
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session

TASK = "decode:hand_vel"
IDS = ["made/day0", "made/day1", "made/new0"]


@pytest.fixture(scope="module")
def poyo(tmp_path_factory):
    """A small poyo of two days with the sessions and shards of three."""
    folder = tmp_path_factory.mktemp("few")
    made = {i: decodable_session(i.split("/")[1], k, n_units=9 + k) for k, i in enumerate(IDS)}
    tokens = {i: bake_tokens(folder, session) for i, session in made.items()}
    sets = [*SMALL_POYO, "optim.steps=4", "transfer.map_draws=2"]
    train(load_config("poyo", None, sets), [tokens[i] for i in IDS[:2]], folder / "run")
    return load_run(folder / "run"), tokens, made


def unseen(poyo, *, trained=True) -> Unseen:
    run, tokens, made = poyo
    opened = (lambda ids: [tokens[i] for i in ids]) if trained else None
    session = _transfer_session(run, tokens[IDS[2]], 6.0)
    maps = Maps(run, opened, made.get, 6.0, "first", run.config.transfer, 0)
    return Unseen(run, session, run.config.transfer, 3, torch.device("cpu"), lambda event: None, maps, made.get)


def test_the_ridge_is_that_of_the_normal_equations():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(60, 5)) * [1, 9, 0.1, 3, 0] + 2, rng.normal(size=(60, 2)), rng.random(60)
    weight, bias = fit_ridge((x, y, w), 3.0)
    sd = np.where(x.std(0) > 0, x.std(0), 1)
    z, root = (x - x.mean(0)) / sd, np.sqrt(w)[:, None]
    a = root * np.column_stack([z, np.ones(60)])
    solved = np.linalg.solve(a.T @ a + 3.0 * np.diag([1, 1, 1, 1, 1, 0.0]), a.T @ (root * y))
    np.testing.assert_allclose(weight, solved[:-1] / sd[:, None], atol=1e-9)
    np.testing.assert_allclose(x @ weight + bias, z @ solved[:-1] + solved[-1], atol=1e-9)
    loss = sum(w[i] * (x[i] @ weight[:, c] + bias[c] - y[i, c]) ** 2 for i in range(60) for c in range(2))
    assert squared_error((weight, bias), (x, y, w)) == pytest.approx(loss)


def test_it_answers_as_the_model_with_the_ridge_in_place_of_its_last_layer(poyo, monkeypatch):
    fitted, plain = [], few_shot.fit_ridge

    def watching(rows, alpha):
        fitted.append((rows, plain(rows, alpha)))
        return fitted[-1][1]

    monkeypatch.setattr(few_shot, "fit_ridge", watching)
    one = unseen(poyo)
    (cell,) = few_shot_cells(one)
    rows, (weight, bias) = fitted[-1]
    model = one.model()
    begin(one, model, one.session, labelled=True)
    with torch.no_grad():
        model.readout.weight.copy_(torch.from_numpy(weight.T.copy()))
        model.readout.bias.copy_(torch.from_numpy(bias))
    again = predict(model, one.session, "test", one.run.config, calibration=one.session.calibration)[TASK]
    np.testing.assert_allclose(cell.answer.predicted, again.predicted, atol=1e-3 * np.abs(again.predicted).max())
    assert cell.how["start"] == "map" and cell.how["alpha"] in ALPHAS and cell.how["blocks"] == 3
    assert len(fitted) == 3 * len(ALPHAS) + 1
    # windows of half a second that overlap by half: 600 samples, all but the outer ones twice
    assert len(rows[0]) == 2 * 600 - 50
    assert all(len(block[0]) < len(rows[0]) for block, _ in fitted[:-1])


def test_without_a_map_it_begins_at_initial_rows_and_without_blocks_it_is_empty(poyo):
    (cell,) = few_shot_cells(unseen(poyo, trained=False))
    assert cell.score is not None and cell.how["start"] == "initial values"
    assert "not at hand" in cell.how["why"]
    run, tokens, _ = poyo
    found = evaluate_transfer(run, [tokens[IDS[2]]], protocols=["few_shot"], calibration_s=0.6)
    assert "no blocks of the calibration hold a window" in found.cell(IDS[2], "few_shot", TASK).reason
