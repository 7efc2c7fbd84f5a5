"""Bins that were recorded in part: their share in tokens, in what models read, learn and are scored by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spiketok.errors import NotServedError, UnknownNameError, UsageError
from spiketok.models import MODELS
from spiketok.models.batch import Asked, Progress, mean_counts, observed_counts, whole_counts
from spiketok.models.losses import poisson_log_rate, stirling
from spiketok.recording.metrics import bps_of_units, null_rate
from spiketok.recording.nouns import Intervals, Session
from spiketok.settings import typed
from spiketok.tokens.schemes import (
    SCHEMES,
    Binned,
    Calibration,
    Patch,
    Quantized,
    make_scheme,
    scheme_config,
    scheme_from_config,
)
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.config import load_config, model_class
from spiketok.training.loop import build_model, prepare, train_loader
from spiketok.training.predict import predict
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import SessionTokens
from spiketok.training.tasks.population import deviance_explained
from tests.decodable import SECOND, decodable_session
from tests.models.test_models import QUICK

MS = 1_000_000
ON, OF = 13 * MS, 31 * MS  # observed so long of every so long


def shuttered(seconds: float = 20.0) -> Session:
    """A session of which a shutter shows 13 of every 31 ms; spikes behind it are lost."""
    session = decodable_session("a", seconds=seconds, n_units=6)
    starts = np.arange(0, session.stop_ns - OF, OF)
    spikes = session.spikes
    seen = (spikes.time_ns % OF < ON) & (spikes.time_ns < starts[-1] + ON)
    kept = type(spikes)(spikes.time_ns[seen], spikes.unit[seen])
    return replace(session, spikes=kept, observed=Intervals(starts, starts + ON))


def baked(folder: Path, session: Session, scheme: Binned) -> SessionTokens:
    whole = Intervals([session.start_ns], [session.stop_ns])
    write_shard(folder / "shard", scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
    return SessionTokens({"counts": ShardReader(folder / "shard")})


def test_a_scheme_without_it_is_named_as_before():
    assert scheme_config(Binned())["config"] == {"bin_ns": 20 * MS, "edges": "left-closed", "compat": ""}
    for scheme in (Binned(), Binned(exposure=True)):
        assert scheme_from_config(scheme_config(scheme)) == scheme
    assert scheme_config(Binned(exposure=True))["config"]["exposure"] is True
    for wrong in ({"compat": "nlb"}, {"edges": "right-closed"}):
        with pytest.raises(UsageError, match="exposure is True, must be"):
            Binned(exposure=True, **wrong)
    plain, exposed = (load_config("ndt1", sets=[f"data.exposure={word}"]) for word in ("false", "true"))
    assert plain.fingerprint() == load_config("ndt1").fingerprint() != exposed.fingerprint()


def test_counts_over_the_share_are_rates(tmp_path):
    """Of a constant rate, whatever the shutter shows of each bin."""
    session = shuttered(20.0)
    columns = baked(tmp_path, session, Binned(20 * MS, exposure=True)).windowed["counts"].columns
    share = columns["exposure"]
    assert share.dtype == np.float32 and set(np.round(share * 20).astype(int)) <= set(range(14))
    np.testing.assert_allclose(share.sum() * 20 * MS, session.observed.total_ns, rtol=1e-6)
    rate = columns["counts"].sum(0) / share.sum()
    expected = np.bincount(session.spikes.unit) / (session.observed.total_ns / (20 * MS))
    np.testing.assert_allclose(rate, expected, rtol=1e-6)
    tensors = {name: torch.from_numpy(np.array(columns[name])) for name in ("counts", "observed", "exposure")}
    whole = np.divide(
        columns["counts"], share[:, None], out=np.zeros(columns["counts"].shape), where=share[:, None] > 0
    )
    np.testing.assert_allclose(observed_counts(tensors).numpy(), whole, rtol=1e-6)
    np.testing.assert_allclose(whole_counts(dict(columns)), whole, rtol=1e-6)
    stretch = SimpleNamespace(columns={"counts": {name: np.asarray(columns[name]) for name in tensors}})
    np.testing.assert_allclose(mean_counts([stretch], "counts"), expected, rtol=0.02)


def test_the_loss_is_least_at_the_rate_of_whole_bins():
    """Against the likelihood written out; its least over constant rates is spikes over recorded time."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.05, 1, (400, 1))
    count = rng.poisson(2.5 * share * np.ones((400, 3)))
    asked = Asked(None, None, None, torch.from_numpy(count), torch.ones(400, 3, dtype=torch.bool))
    asked.exposure = torch.from_numpy(share.astype(np.float32))
    log_rate = torch.zeros(3, requires_grad=True)
    loss = poisson_log_rate(asked.exposed(log_rate.expand(400, 3)), asked.target, asked.weight)
    assert float(loss.detach()) == pytest.approx((share - count * np.log(share)).mean(), rel=1e-5)
    best = torch.from_numpy(np.log(count.sum(0) / share.sum())).float().requires_grad_()
    poisson_log_rate(asked.exposed(best.expand(400, 3)), asked.target, asked.weight).backward()
    assert best.grad.abs().max() < 1e-6
    asked.exposure = None
    assert asked.exposed(log_rate) is log_rate


def test_knowing_the_share_is_no_score():
    """The null expects its share of each bin: a model that says no more has 0 bits and explains nothing."""
    rng = np.random.default_rng(1)
    share = rng.uniform(0, 1, (500, 2)) * (rng.random((500, 2)) > 0.1)
    count = rng.poisson(3 * share).astype(float)
    count[::7] = np.nan
    said = np.nansum(count, 0) / np.where(np.isnan(count), 0, share).sum(0) * share
    np.testing.assert_allclose(bps_of_units(said, count, share), 0, atol=1e-9)
    assert deviance_explained(np.where(np.isnan(count), np.nan, said), count, share) == pytest.approx(0, abs=1e-9)
    assert (bps_of_units(said, count) > 0.1).all()
    np.testing.assert_array_equal(null_rate(count, np.ones_like(count)), null_rate(count))


def test_a_result_of_nothing_is_refused(tmp_path):
    session, all_of_it = shuttered(), Intervals([0], [20 * SECOND])
    rule = {"segments_rule": "continuous", "store_digest": "d" * 64}
    for scheme in (Binned(), Patch(), Quantized()):
        with pytest.raises(
            NotServedError, match=r"1000 bins of 20 ms, none of them recorded whole: 8.385 s were .* 13 ms"
        ):
            write_shard(tmp_path / "no", scheme, session, all_of_it, refuse_nothing=True, **rule)
    with pytest.raises(NotServedError, match="no trials, and no observed stretch as long as one \\(2000 ms\\)"):
        write_shard(tmp_path / "no", Calibration(length=8), session, all_of_it, refuse_nothing=True, **rule)
    trials = replace(session, intervals={"trials": Intervals([0, 3 * SECOND], [SECOND, 5 * SECOND])})
    with pytest.raises(NotServedError, match="no trial to hold: 2 of 2 have too few scored bins of 20 ms"):
        write_shard(tmp_path / "no", Calibration(length=8), trials, all_of_it, refuse_nothing=True, **rule)
    assert not (tmp_path / "no").exists()
    write_shard(tmp_path / "yes", Binned(10 * MS), session, all_of_it, refuse_nothing=True, **rule)


WEIGHING = [
    pytest.param(name, marks=() if name == "ndt1" else pytest.mark.long)
    for name in MODELS
    if MODELS[name].weighs_exposure and name != "linear"
]


@pytest.mark.parametrize("model", WEIGHING)
def test_models_learn_and_are_scored_by_share(tmp_path, model):
    """What a model puts out is of whole bins; the loss of it is of what was recorded of each."""
    quick = [f"model.{key}={typed(value)}" for key, value in QUICK[model].items() if key != "decode_weight"]
    sets = ["data.exposure=true", "data.window_ms=400", "data.batch_size=4", "optim.steps=1", *quick]
    config = load_config(model, sets=sets, tasks=["population"])
    (scheme,) = {scheme_of(one) for one in run_inputs(config).values()}
    tokens = baked(tmp_path, shuttered(), scheme)
    divided, tasks = prepare(config, [tokens])
    assert divided[0].splits["train"].stop_ns[0] - divided[0].splits["train"].start_ns[0] > 10 * SECOND
    made = build_model(config, tasks, divided)
    batch = next(iter(train_loader(config, divided, made, tasks))).clone()
    asked = batch.asked["population"]
    output = made(batch)
    share = batch.inputs["counts"].columns["exposure"][:, None]
    assert torch.equal(asked.exposure, share)
    spikes = poisson_log_rate(output["population"] + share.log(), asked.target, output["scored"] & (share > 0))
    if model in ("ndt_stitch", "mtm_bwb"):  # their loss has the term that is of the counts alone
        spikes = spikes + stirling(asked.target, output["scored"] & (share > 0))
    terms = made.loss(batch, output, Progress(0, 1))
    torch.testing.assert_close(terms["population"], spikes, rtol=1e-4, atol=1e-5)
    found = predict(made.eval(), divided[0], "test", config)["population"]
    rate, count = found.pair("hidden")
    assert found.exposure.shape == rate.shape and np.isfinite(rate).any()
    np.testing.assert_array_equal(np.isnan(rate), np.isnan(count))
    assert np.isfinite(found.score()["d2"])


def test_models_that_do_not_weigh_it_refuse():
    others = [name for name in MODELS if not model_class(name).weighs_exposure]
    assert {"lfads", "ldns", "ndt2", "ndt3"} <= set(others)
    for name in others:
        with pytest.raises(UsageError, match=f"{name} does not weigh bins by the share that was recorded: .*ndt1.* do"):
            run_inputs(load_config(name, sets=["data.exposure=true"]))
    for scheme in set(SCHEMES) - {"binned"}:
        with pytest.raises(UnknownNameError, match=f"unknown field 'exposure' in {scheme}"):
            make_scheme(scheme, exposure=True)
