"""An ensemble's rates are the mean of its members', and the valid time alone chooses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.evaluation.ensemble import ensemble  # noqa: E402
from spiketok.recording.metrics import co_bps  # noqa: E402
from spiketok.training.checkpoints import Run, TrainedSession  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import prepare  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from tests.decodable import BIN_NS, bake_tokens  # noqa: E402
from tests.training.test_tasks import Knowing, poisson_session  # noqa: E402

SETS = ["data.window_ms=500", "task.population.held_out=0.25"]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    session, rate = poisson_session()
    return bake_tokens(tmp_path_factory.mktemp("known"), session, "binned"), rate


def run_of(name: str, rate: np.ndarray, tokens, *sets: str, tasks=("population",)) -> Run:
    """A run whose model says these rates."""
    config = load_config("ndt1", sets=[*SETS, *sets], tasks=list(tasks))
    _, found = prepare(config, [tokens])
    return Run(Path(name), config, Knowing(rate), tuple(found), (TrainedSession.of(tokens),), 1, 1, name, {})


def noisy(rate: np.ndarray, seed: int, sigma: float = 0.7) -> np.ndarray:
    return rate * np.exp(np.random.default_rng(seed).normal(0, sigma, rate.shape))


def at(answer, rate: np.ndarray, part: str = "held_out") -> float:
    """co-bps of rates of the whole session where an answer is scored."""
    known, count = answer.pair(part)
    return co_bps(np.where(np.isfinite(known), rate[answer.time_ns // BIN_NS], np.nan), count)


def test_the_mean_of_the_best_by_valid_is_scored_on_the_test(known):
    """By hand: errors that are independent average out, a run that knows nothing is left out."""
    tokens, rate = known
    rates = {"a": noisy(rate, 1), "b": noisy(rate, 2), "c": noisy(rate, 3), "none": noisy(np.ones_like(rate), 4, 1.5)}
    runs = [run_of(name, own, tokens) for name, own in rates.items()]
    found = ensemble(runs, [tokens])
    (divided,), _ = prepare(runs[0].config, [tokens])
    own = {split: predict(runs[0].model, divided, split, runs[0].config)["population"] for split in ("valid", "test")}
    single = {name: {split: at(answer, r) for split, answer in own.items()} for name, r in rates.items()}
    assert [m.run for m in found.members] == sorted(rates, key=lambda name: -single[name]["valid"])
    for member in found.members:
        assert member.valid == pytest.approx(single[member.run]["valid"], abs=1e-5)
        assert member.test == pytest.approx(single[member.run]["test"], abs=1e-5)
        assert member.taken == (member.run != "none")
    mean = np.mean([rates[name] for name in "abc"], axis=0)
    assert found.metric == "co_bps"
    assert found.valid == pytest.approx(at(own["valid"], mean), abs=1e-5)
    assert found.test[tokens.id]["co_bps"] == pytest.approx(at(own["test"], mean), abs=1e-5)
    assert found.test[tokens.id]["co_bps"] > max(member.test for member in found.members)
    told = predict(runs[0].model, divided, "test", runs[0].config).times["population"]
    assert told["scored_s"] > 5 and {name: found.test[tokens.id][name] for name in told} == told


def test_the_test_time_decides_nothing(known):
    """The run that is best on the test alone stays out."""
    tokens, rate = known
    config = load_config("ndt1", sets=SETS, tasks=["population"])
    (divided,), _ = prepare(config, [tokens])
    bins = np.arange(len(rate))[:, None] * BIN_NS
    test = (bins >= divided.splits["test"].start_ns[0]) & (bins < divided.splits["test"].stop_ns[-1])
    valid = (bins >= divided.splits["valid"].start_ns[0]) & (bins < divided.splits["valid"].stop_ns[-1])
    flat = np.full_like(rate, rate.mean())
    knows_valid, knows_test = (np.where(part, rate, noisy(flat, 5, 1.5)) for part in (valid, test))
    found = ensemble([run_of("test", knows_test, tokens), run_of("valid", knows_valid, tokens)], [tokens])
    assert [(member.run, member.taken) for member in found.members] == [("valid", True), ("test", False)]
    assert found.members[1].test > found.members[0].test


def test_what_is_no_ensemble_is_refused(known, monkeypatch):
    tokens, rate = known
    one = run_of("one", rate, tokens)
    with pytest.raises(UsageError, match="at least two different runs, given are one, one"):
        ensemble([one, one], [tokens])
    for sets, said in (
        (["data.window_ms=600"], r"data.window_ns \(600000000 and 500000000\)"),
        (["task.population.seed=3"], "task.population"),
        (["split.train=0.6", "split.test=0.3"], "split"),
    ):
        with pytest.raises(UsageError, match=f"two and one differ in {said}"):
            ensemble([one, run_of("two", rate, tokens, *sets)], [tokens])
    bare = [run_of(name, rate, tokens, tasks=("decode",)) for name in ("x", "y")]
    with pytest.raises(UsageError, match="x was not asked for the population: its tasks are"):
        ensemble(bare, [tokens])
    plain = Run.divide
    monkeypatch.setattr(Run, "divide", lambda *args: replace(plain(*args), valid_is_test=True))
    with pytest.raises(DataError, match="made/p: its valid time is scored as its test time"):
        ensemble([one, run_of("two", rate, tokens)], [tokens])
