"""Alignment baselines: the maps against closed forms, the weights against latents, what they may know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spiketok.evaluation import alignment
from spiketok.evaluation.alignment import Alignments, Latents, aligned_cell, canonical_map, latents_of
from spiketok.evaluation.floor import floor_config
from spiketok.evaluation.transfer import _transfer_session
from spiketok.models.linear import Linear
from spiketok.models.nn import module_key
from spiketok.recording.nouns import Spikes
from spiketok.training.checkpoints import Run, TrainedSession
from spiketok.training.config import load_config
from spiketok.training.loop import build_model, prepare
from tests.decodable import bake_tokens, decodable_session

TASK = "decode:hand_vel"
ROWS = ("aligned_pca", "aligned_cca")
LAGS = 15


def closed_form_map(x, y):
    """Canonical correlations by two QRs and an SVD, as MATLAB's canoncorr."""
    a, b = x - x.mean(0), y - y.mean(0)
    (qx, rx), (qy, ry) = np.linalg.qr(a), np.linalg.qr(b)
    u, _, v = np.linalg.svd(qx.T @ qy, full_matrices=False)
    to_x, to_y = np.linalg.solve(rx, u), np.linalg.solve(ry, v.T)
    matrix = to_x @ np.linalg.pinv(to_y)
    return matrix, y.mean(0) - x.mean(0) @ matrix


def test_the_canonical_map_is_that_of_the_closed_form():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(400, 4)) * [3, 2, 1, 0.5]
    x = source @ rng.normal(size=(4, 4)) + 0.3 * rng.normal(size=(400, 4)) + 2
    y = source @ rng.normal(size=(4, 4)) + 0.3 * rng.normal(size=(400, 4)) - 1
    for own, wanted in zip(canonical_map(x, y), closed_form_map(x, y), strict=True):
        np.testing.assert_allclose(own, wanted, rtol=2e-3, atol=2e-3)
    matrix, shift = canonical_map(x, x @ source[:4] + 5)
    np.testing.assert_allclose(matrix, source[:4], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shift, 5, atol=1e-2)


def test_components_are_found_again_in_another_order_sign_and_scale():
    rng = np.random.default_rng(1)
    drive = rng.normal(size=(4000, 3))
    z = np.column_stack([np.exp(drive[:, 0]), drive[:, 1], np.abs(drive[:, 2])])
    z = (z - z.mean(0)) * [3.0, 2.0, 1.0]
    order, sign, scale = [2, 0, 1], np.array([-1.0, 1.0, -1.0]), 0.5
    of = lambda z: Latents(np.zeros(3), np.eye(3), (z,), (np.ones(len(z), bool),))  # noqa: E731
    here = z[:, order] * sign * scale
    matrix, shift = alignment.align_pca(of(here), of(z))
    back = here @ matrix + shift
    np.testing.assert_allclose(back[:, [0, 2]], z[:, [0, 2]], atol=1e-9)
    np.testing.assert_allclose(np.abs(back[:, 1]), np.abs(z[:, 1]), atol=1e-9)  # a Gaussian one has no sign
    few, _ = alignment.align_pca(replace(of(here[:, :2]), axes=np.eye(3)[:, :2]), of(z))
    assert few.shape == (2, 3) and (few != 0).sum() == 2


# ---- on sessions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    """A session, and another time of the same units that is called another session."""
    first = decodable_session("day0", 0, n_units=16)
    rng = np.random.default_rng(5)
    order = rng.permutation(16).astype(np.int32)
    later = first.spikes.time_ns + rng.integers(0, 4_000_000, len(first.spikes.time_ns))
    unit = order[first.spikes.unit]
    place = np.lexsort((unit, later))
    inside = place[later[place] < first.stop_ns]
    return {first.id: first, "made/new0": replace(first, id="made/new0", spikes=Spikes(later[inside], unit[inside]))}


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """What the rows need of a run: its sessions, split and task; no model answers."""
    folder = tmp_path_factory.mktemp("shards")
    tokens = {i: bake_tokens(folder, session, "binned") for i, session in made.items()}
    config = load_config("ndt1", None, ["model.dim=16", "model.heads=2", "data.window_ms=500"], tasks=["decode"])
    divided, tasks = prepare(config, [tokens["made/day0"]])
    model = build_model(config, tasks, divided)
    trained = (TrainedSession.of(tokens["made/day0"]),)
    return Run(None, config, model, tuple(tasks), trained, 0, 0, "", {}), tokens


def cells(run, tokens, session=None, trained=True, seconds=10.0):
    """The two rows of the unseen session."""
    opened = (lambda ids: [tokens[i] for i in ids]) if trained else None
    found = Alignments(run, opened, None, run.config.transfer, 0)
    one = _transfer_session(run, session or tokens["made/new0"], seconds)
    return {p: aligned_cell(run.config, one, run.tasks[0], p, found, None) for p in ROWS}, found, one


def test_the_same_units_in_another_order_are_decoded_with_labels_and_the_same_spikes_without(run, made, tmp_path):
    found, _, _ = cells(*run)
    assert found["aligned_cca"].score["r2_mean"] > 0.6
    assert found["aligned_cca"].how == {"latents": 10, "trained_sessions": 1}
    first, order = made["made/day0"], np.random.default_rng(6).permutation(16).astype(np.int32)
    unit, time_ns = order[first.spikes.unit], first.spikes.time_ns
    place = np.lexsort((unit, time_ns))
    again = replace(first, id="made/new0", spikes=Spikes(time_ns[place], unit[place]))
    same, _, _ = cells(*run, bake_tokens(tmp_path, again, "binned"), seconds=28.0)
    assert same["aligned_pca"].score["r2_mean"] > 0.8  # the same latents: nothing but order and sign to be found


def test_the_weights_on_counts_are_the_decoder_on_aligned_latents(run, monkeypatch):
    caught = {}
    plain = alignment.predict

    def watching(model, session, *rest):
        caught["ridge"] = model.ridges[module_key(session.id)]
        caught["stretch"] = session.stretches("test")[0]
        return plain(model, session, *rest)

    monkeypatch.setattr(alignment, "predict", watching)
    run, tokens = run
    found, alignments, one = cells(run, tokens)
    (reference,) = alignments.of(run.tasks[0])
    config = floor_config(run.config, one.tokens)
    own = latents_of(config, replace(one, tasks=run.tasks).stretches("calibration"))
    matrix, shift = alignment.align_cca(
        own, alignment._matched(replace(one, tasks=run.tasks).stretches("calibration"), own, TASK), reference
    )
    roots = np.sqrt(caught["stretch"].columns["counts"]["counts"].astype(float))
    there = (roots - own.mean) @ own.axes @ matrix + shift
    said = [
        reference.intercept + sum(reference.weight[:, :, k] @ there[t - LAGS + 1 + k] for k in range(LAGS))
        for t in range(LAGS - 1, len(there))
    ]
    ridge, flat = caught["ridge"], np.lib.stride_tricks.sliding_window_view(roots, LAGS, axis=0)
    weight, intercept = ridge.weight.double().numpy(), ridge.intercept.double().numpy()
    np.testing.assert_allclose(np.einsum("tnl,cnl->tc", flat, weight) + intercept, said, atol=1e-4)
    assert found["aligned_cca"].answer is not None


def test_neither_labels_without_leave_nor_test_time_of_anybody_is_read(run, made, tmp_path):
    run, tokens = run
    plain, _, _ = cells(run, tokens)
    new, old = made["made/new0"], made["made/day0"]
    turned = spoiled(new, 0, new.stop_ns * 3 // 4)
    other, _, _ = cells(run, tokens, bake_tokens(tmp_path, turned, "binned"))
    same = [np.array_equal(other[p].answer.predicted, plain[p].answer.predicted) for p in ROWS]
    assert same == [True, False]
    late = {**tokens, "made/day0": bake_tokens(tmp_path, spoiled(old, old.stop_ns * 81 // 100, old.stop_ns), "binned")}
    run = replace(run, trained_on=(TrainedSession.of(late["made/day0"]),))  # as if it had been trained on these
    other, _, _ = cells(run, late, bake_tokens(tmp_path / "b", spoiled(new, new.stop_ns // 2, new.stop_ns), "binned"))
    assert all(np.array_equal(other[p].answer.predicted, plain[p].answer.predicted) for p in ROWS)


def spoiled(session, start, stop):
    """A session whose behaviour is another one between two moments."""
    signal = session.signals["hand_vel"]
    inside = (signal.time_ns >= start) & (signal.time_ns < stop)
    value = np.where(inside[:, None], -signal.value[:, ::-1], signal.value)
    return replace(session, signals={"hand_vel": replace(signal, value=value)})


def test_where_they_cannot_be_had_they_say_why(run, made):
    run, tokens = run
    for cell in cells(run, tokens, trained=False)[0].values():
        assert cell.score is None
        assert cell.reason == "it is aligned to the trained sessions' shards, which are not at hand"
    few = replace(_transfer_session(run, tokens["made/new0"], 10.0))
    short = few.splits["calibration"].intersect(type(few.splits["test"])([0], [600_000_000]))
    few = replace(few, splits={**few.splits, "calibration": short})
    found = Alignments(run, lambda ids: [tokens[i] for i in ids], None, run.config.transfer, 0)
    cell = aligned_cell(run.config, few, run.tasks[0], "aligned_cca", found, None)
    assert "labelled moments are too few" in cell.reason


def test_the_decoder_of_a_trained_session_is_the_floor_on_its_latents(run):
    """Slow twin: scikit-learn's ridge on the lagged latents of the training time."""
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    run, tokens = run
    _, alignments, _ = cells(run, tokens)
    (reference,) = alignments.of(run.tasks[0])
    divided = replace(run.divide(tokens["made/day0"]), tasks=run.tasks)
    stretches = divided.stretches("train")
    x, y, w = [], [], []
    for s in stretches:
        z = (np.sqrt(s.columns["counts"]["counts"].astype(float)) - reference.latents.mean) @ reference.latents.axes
        x.append(np.stack([z[k : len(z) - LAGS + 1 + k] for k in range(LAGS)], 1).reshape(-1, LAGS * z.shape[1]))
        y.append(s.target[TASK][LAGS - 1 :])
        w.append(s.weight[TASK][LAGS - 1 :])
    fitted = linear_model.Ridge(alpha=reference.alpha).fit(
        np.concatenate(x), np.concatenate(y), sample_weight=np.concatenate(w)
    )
    weight = fitted.coef_.reshape(2, LAGS, -1).transpose(0, 2, 1)
    np.testing.assert_allclose(reference.weight, weight, atol=1e-5)
    np.testing.assert_allclose(reference.intercept, fitted.intercept_, atol=1e-5)
    assert Linear.Config().lags == LAGS
