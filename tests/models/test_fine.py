"""Models that read when in a bin the units fired: whose numbers they read, and what these must not tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import UsageError  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.models.fine import FINE, fine_features  # noqa: E402
from spiketok.recording.nouns import Intervals, Session, Spikes, UnitTable  # noqa: E402
from spiketok.tokens.schemes import make_scheme  # noqa: E402
from spiketok.tokens.schemes.base import Windows  # noqa: E402
from tests.models.test_models import (  # noqa: E402
    BIN_NS,
    HALF,
    N_BINS,
    TASK,
    TIMING,
    WINDOW_NS,
    A,
    B,
    config_of,
    heads_of,
    inputs_of,
    make_batch,
    toy,
    window_tokens,
)
from tests.strategies import SOURCE  # noqa: E402

WITH_FINE = pytest.mark.parametrize("name", ["ndt2", "spint"])
D = toy("d", 3, 3)
FIELDS = ("first_ns", "last_ns", "mean_isi_ns", "cv_isi")


def build(name: str, fine: bool = True):
    torch.manual_seed(0)
    model = MODELS[name](dataclasses.replace(config_of(name), fine_time=fine), heads_of(name), TIMING)
    model.add_sessions([A.info, B.info, D.info])
    return model.eval()


def answers(model, batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        said = model(batch)
    return {task: said[task] for task in batch.asked}


def other_times(batch, where: torch.Tensor):
    """The same batch with other times of the spikes at those places of the fine input, ``[L, N]``."""
    changed = batch.clone()
    columns = changed.inputs[FINE].columns
    for name in FIELDS:
        columns[name] = torch.where(where, torch.full_like(columns[name], 3 if name == "cv_isi" else 7), columns[name])
    return changed


def everywhere(batch) -> torch.Tensor:
    return torch.ones_like(batch.inputs[FINE].columns["count"], dtype=torch.bool)


# ---- the features ---------------------------------------------------------------------------------------------------


def test_features_of_spikes_by_hand():
    """Bins of 20 ms: none; one in the middle; three at 5, 10 and 20 ms less 1 ns, in units of the bin."""
    first, last = torch.tensor([[0, 10, 5]]) * 10**6, torch.tensor([[0, 10_000_000, 19_999_999]])
    columns = {"count": torch.tensor([[0, 1, 3]]), "first_ns": first, "last_ns": last, "observed": torch.ones(1)}
    columns |= {"mean_isi_ns": torch.tensor([[0, 0, 7.5e6]]), "cv_isi": torch.tensor([[0, 0, 0.33]])}
    features = fine_features(columns, 20_000_000)
    expected = [[[0, 0, 0, 0], [0, 0, 0, 0], [-0.5, 1, 0.375, 0.33]]]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-6)
    columns["unit_observed"] = torch.tensor([[1, 1, 0]])
    assert not fine_features(columns, 20_000_000).any()


@WITH_FINE
def test_the_tokens_of_these_tests_are_those_of_the_scheme(name):
    """Made by hand for the toys, cut by the scheme from the same spikes."""
    model = build(name)
    wanted = inputs_of(model)[FINE]
    scheme, stop_ns = make_scheme(wanted.scheme, **wanted.fields), 1500 * BIN_NS
    units = UnitTable([f"u{n}" for n in range(B.info.n_units)])
    session = Session("a/b", "", 0, stop_ns, units, Spikes(B.time_ns, B.unit), Intervals([0], [stop_ns]), SOURCE)
    window = Windows(np.zeros(1, np.int64), np.array([40 * BIN_NS]), WINDOW_NS)
    cut = scheme.cut(scheme.bake(session, Intervals([0], [stop_ns])).columns, window).columns
    made = window_tokens(model, wanted, B, 40)
    assert made.keys() == cut.keys()
    assert made["count"].sum() > 50
    for key, column in made.items():
        np.testing.assert_allclose(column, cut[key], rtol=1e-6, err_msg=key)


# ---- what reads them ------------------------------------------------------------------------------------------------


@WITH_FINE
def test_without_it_nothing_is_read_and_nothing_is_there(name):
    model = build(name, fine=False)
    assert FINE not in inputs_of(model)
    assert not any("fine" in key for key in model.state_dict())
    assert model.one_session_batches == MODELS[name].one_session_batches


@WITH_FINE
def test_a_map_of_zeros_is_the_model_without(name):
    plain, model = build(name, fine=False), build(name)
    model.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.zeros_(model.read_fine.weight)
    batch = make_batch(model, [(B, 43), (B, 90)])
    without = batch.clone()
    del without.inputs[FINE]
    for task, value in answers(plain, without).items():
        assert torch.equal(answers(model, batch)[task], value), task


@WITH_FINE
def test_times_in_the_bin_count(name):
    """And those of a unit without a spike are none."""
    model = build(name)
    batch = make_batch(model, [(B, 43), (B, 90)])
    said, silent = answers(model, batch), batch.inputs[FINE].columns["count"] == 0
    assert all(torch.equal(value, said[task]) for task, value in answers(model, other_times(batch, silent)).items())
    changed = answers(model, other_times(batch, everywhere(batch)))
    assert all(not torch.equal(changed[task], value) for task, value in said.items())


@WITH_FINE
def test_times_that_were_not_observed_are_not_read(name):
    model = build(name)
    batch = make_batch(model, [(B, 43), (B, 90)])
    columns = batch.inputs[FINE].columns
    columns["observed"][::3] = 0
    gone = (columns["observed"] == 0)[:, None].expand_as(columns["count"])
    said = answers(model, batch)
    assert all(torch.equal(value, said[task]) for task, value in answers(model, other_times(batch, gone)).items())


@WITH_FINE
def test_the_map_is_learned(name):
    model = build(name).train()
    batch = make_batch(model, [(B, 43), (B, 90)])
    model.loss(batch, model(batch), HALF)["total"].backward()
    assert model.read_fine.weight.grad.abs().sum() > 0


# ---- ndt2 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_times_of_hidden_counts_reach_no_output(training):
    model = build("ndt2")
    batch = make_batch(model, [(B, 43), (B, 90)])
    hidden = torch.zeros_like(everywhere(batch))
    hidden[:, -2:] = True
    hidden.unflatten(0, (2, N_BINS))[:, -3:] = True
    batch.hidden["counts"] = hidden
    model.train(training)
    said = []
    for one in (batch, other_times(batch, hidden)):
        torch.manual_seed(1)
        with torch.no_grad():
            said.append(model(one))
    assert all(torch.equal(said[0][task], said[1][task]) for task in batch.asked)


def test_in_evaluation_no_rate_is_said_of_a_count_whose_times_were_seen():
    """Its token is left out of the pass, and its times with it."""
    model = build("ndt2")
    batch = make_batch(model, [(B, 43)])
    said = answers(model, batch)["population"]
    size = model.config.patch_size
    for row, unit in ((4, 0), (11, 5)):
        one = torch.zeros_like(everywhere(batch))
        one[row, unit // size * size :][:size] = True
        assert torch.equal(answers(model, other_times(batch, one))["population"][row, unit], said[row, unit])


# ---- spint ----------------------------------------------------------------------------------------------------------


def test_each_token_reads_the_bins_of_its_history():
    """Against a walk through windows, bins and units, of the spikes themselves."""
    model, windows = build("spint"), [(B, 43), (B, 91)]
    seen = []
    model.read_fine.register_forward_hook(lambda layer, given, out: seen.append(given[0]))
    answers(model, make_batch(model, windows))
    length, expected = model.config.history_bins, []
    for session, start in windows:
        for t in range(start, start + N_BINS):
            for unit in range(session.info.n_units):
                expected.append([])
                for k in range(t - length + 1, t + 1):
                    own = session.time_ns[(session.unit == unit) & (session.time_ns // BIN_NS == k)] / BIN_NS - k
                    first, last = (2 * own[[0, -1]] - 1).tolist() if len(own) else (0, 0)
                    mean = np.diff(own).mean() if len(own) > 1 else 0
                    expected[-1] += [first, last, mean, np.diff(own).std() / mean if mean else 0]
    np.testing.assert_allclose(seen[0].numpy(), np.array(expected), atol=1e-4)


def test_the_order_of_units_is_nothing():
    model = build("spint")
    batch = make_batch(model, [(B, 43), (B, 90)])
    turned, order = batch.clone(), torch.randperm(B.info.n_units)
    rows = (torch.arange(2 * N_BINS)[:, None] * len(order) + order).flatten()
    series = turned.inputs["units"].columns
    turned.inputs["units"].columns = {k: c if k in ("unit", "time") else c[rows] for k, c in series.items()}
    fine = turned.inputs[FINE].columns
    turned.inputs[FINE].columns = {k: c[:, order] if c.ndim == 2 else c for k, c in fine.items()}
    for trials in turned.session_inputs["calibration"]:
        trials.columns["matrix"] = trials.columns["matrix"][..., order]
    torch.testing.assert_close(answers(model, turned)[TASK], answers(model, batch)[TASK], rtol=1e-4, atol=1e-5)


def test_batches_hold_one_session():
    assert build("spint").one_session_batches
    assert not MODELS["spint"].one_session_batches


def test_bins_that_the_scheme_has_not_are_refused():
    wanted = MODELS["ndt2"].inputs(
        dataclasses.replace(config_of("ndt2"), fine_time=True),
        ["decode"],
        dataclasses.replace(TIMING, bin_ns=200_000_000),
    )[FINE]
    with pytest.raises(UsageError, match="from 1 to 100000000"):
        make_scheme(wanted.scheme, **wanted.fields)
