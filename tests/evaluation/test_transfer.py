"""Transfer: which sessions, which time, which parameters; and that the floor is the linear model it claims to be."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation import transfer
from spiketok.evaluation.floor import floor_config
from spiketok.evaluation.results import Cell
from spiketok.evaluation.spread import summarize
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.models.batch import Input
from spiketok.models.linear import Linear
from spiketok.models.ndt1 import Ndt1
from spiketok.models.nn import module_key
from spiketok.recording.intervals import first_of, grown, values_in, without
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.optimizers import build_optimizer
from spiketok.training.predict import predict
from spiketok.training.sampling import SessionTokens
from tests.decodable import SMALL_POYO, bake, decodable_session

MS, SECOND = 1_000_000, 1_000_000_000
SMALL_NDT1 = [
    *("model.dim=16", "model.layers=1", "model.heads=2", "model.hidden=16", "data.window_ms=500", "optim.steps=4"),
    *("transfer.identity_steps=3", "transfer.full_steps=3", "transfer.unfreeze_after=1"),
]
IDS = ["made/day0", "made/day1", "made/new0", "made/new1"]
INPUT = {"per-spike": "spikes", "binned": "counts"}  # the input under which a model reads the scheme
DECODE = "decode:hand_vel"
R2 = ("r2_variance_weighted", "r2_mean")


@pytest.fixture(scope="module")
def stored():
    """The four sessions by id, as a store would give them."""
    made = [decodable_session(i.split("/")[1], k, n_units=9 + k) for k, i in enumerate(IDS)]
    return {m.id: m for m in made}


@pytest.fixture(scope="module")
def shards(stored, tmp_path_factory):
    """The sessions' per-spike and binned shards, by scheme and id."""
    folder = tmp_path_factory.mktemp("shards")
    return {s: {m.id: SessionTokens({INPUT[s]: bake(folder, m, s)}) for m in stored.values()} for s in INPUT}


@pytest.fixture(scope="module")
def poyo(shards, tmp_path_factory):
    """A small poyo, trained on two of them."""
    run_dir = tmp_path_factory.mktemp("poyo")
    train(load_config("poyo", None, SMALL_POYO), [shards["per-spike"][i] for i in IDS[:2]], run_dir)
    return load_run(run_dir)


@pytest.fixture(scope="module")
def result(poyo, shards, stored):
    """Its transfer to the two others, on 5 s of calibration."""
    return evaluate_transfer(poyo, [shards["per-spike"][i] for i in IDS[2:]], calibration_s=5, stored=stored.get)


# ---- time -----------------------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(-20, 20), st.integers(0, 12)), max_size=6)


def as_intervals(pairs) -> Intervals:
    start = np.array([a for a, _ in pairs], np.int64)
    return Intervals(start, start + np.array([n for _, n in pairs], np.int64))


def as_set(intervals: Intervals) -> set[int]:
    return {t for a, b in zip(intervals.start_ns, intervals.stop_ns, strict=True) for t in range(a, b)}


@given(spans, spans)
def test_without_is_set_difference(a, b):
    found = without(as_intervals(a), as_intervals(b))
    assert as_set(found) == as_set(as_intervals(a)) - as_set(as_intervals(b))
    assert (found.start_ns[1:] > found.stop_ns[:-1]).all()


@given(spans, st.integers(0, 60))
def test_first_of_is_the_earliest_time(a, length):
    assert as_set(first_of(as_intervals(a), length)) == set(sorted(as_set(as_intervals(a)))[:length])


@given(spans, st.integers(0, 5))
def test_grown_is_every_time_within_the_margin(a, margin):
    whole = as_intervals([p for p in a if p[1] > 0])
    expected = {t + d for t in as_set(whole) for d in range(-margin, margin + 1)}
    assert as_set(grown(whole, margin)) == expected


def test_calibration_and_test_are_a_window_apart(result):
    for facts in result.sessions:
        assert facts.calibration.total_ns == 5 * SECOND
        assert facts.calibration.start_ns[0] == 0
        gap = without(Intervals([0], [40 * SECOND]), grown(facts.calibration, 500 * MS))
        assert facts.test.total_ns == facts.test.intersect(gap).total_ns == 8 * SECOND


def test_test_time_that_lies_near_calibration_is_given_up(poyo, shards, monkeypatch):
    """Stored splits may put test time anywhere: here right behind and inside the first seconds of training time."""
    divided = {
        "train": Intervals([0, 4 * SECOND], [2 * SECOND, 20 * SECOND]),
        "valid": Intervals.empty(),
        "test": Intervals([2 * SECOND, 20 * SECOND], [4 * SECOND, 30 * SECOND]),
    }
    monkeypatch.setattr("spiketok.training.sessions.resolve_splits", lambda *_: divided)
    found = evaluate_transfer(poyo, [shards["per-spike"][IDS[2]]], protocols=["zero_shot"], calibration_s=5)
    (facts,) = found.sessions
    assert facts.calibration.start_ns.tolist() == [0, 4 * SECOND]
    assert facts.calibration.stop_ns.tolist() == [2 * SECOND, 7 * SECOND]
    # 2..4 s lies within a window of calibration at both its ends; what is left of it still is a second
    assert facts.test.start_ns.tolist() == [2 * SECOND + 500 * MS, 20 * SECOND]
    assert facts.test.stop_ns.tolist() == [4 * SECOND - 500 * MS, 30 * SECOND]


def test_what_needs_no_label_is_known_before_an_adaptation(shards, tmp_path):
    """The rates of a new session start from its calibration's means, whatever else is then learned."""
    sets = ["model.dim=16", "model.layers=1", "model.rate_init=true", "optim.steps=2", "data.window_ms=500"]
    sets += [f"transfer.{key}=1" for key in ("identity_steps", "full_steps", "unfreeze_after")]
    config = load_config("ndt1", sets=[*sets, "task.population.held_out=0.25"], tasks=["population", "decode"])
    train(config, [shards["binned"][IDS[0]]], tmp_path)
    seen, plain = [], Ndt1.fit_sessions

    def watching(self, sessions):
        plain(self, sessions)
        ((session, stretches),) = sessions.items()
        bias = self.read_out[module_key(session)].bias.detach().clone()
        seen.append((session, bias, stretches))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ndt1, "fit_sessions", watching)
        evaluate_transfer(load_run(tmp_path), [shards["binned"][IDS[2]]], calibration_s=5)
    assert [session for session, *_ in seen] == [IDS[2]] * 3  # identity_unlabelled, identity_only, full
    for _, bias, stretches in seen:
        counts = np.concatenate([s.columns["counts"]["counts"] for s in stretches])
        assert len(counts) == 5 * 50 and all(not s.target and not s.trial_columns for s in stretches)
        np.testing.assert_allclose(bias.exp(), (counts.sum(0) + 0.5) / (len(counts) + 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"calibration_s": 29}, DataError, "made/new0: 29 s of calibration are asked for and its training time has 28"),
        ({"calibration_s": 0.3}, DataError, "made/new0: no window of 500 ms fits into its calibration time"),
        ({"calibration_s": 0}, UsageError, "calibration is 0 s"),
        ({"protocols": ["zero_short"]}, UnknownNameError, "did you mean 'zero_shot'"),
        ({"protocols": []}, UsageError, "no protocol is named"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_clear_line(poyo, shards, arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate_transfer(poyo, [shards["per-spike"][IDS[2]]], **({"calibration_s": 5} | arguments))


def test_each_row_of_the_table_can_be_named(poyo, shards):
    one = [shards["per-spike"][IDS[2]]]
    floor = evaluate_transfer(poyo, one, protocols=["linear"], calibration_s=5)
    assert floor.protocols == ("linear",) and [c.protocol for c in floor.cells] == ["linear"]
    adapt = replace(poyo.config.transfer, adapt_steps=0)
    found = evaluate_transfer(poyo, one, protocols=["adapted+linear"], calibration_s=5, adapt=adapt)
    assert found.protocols == ("linear", "adapted", "adapted+linear")


def test_sessions_that_do_not_fit_the_model_are_refused(poyo, shards, tmp_path):
    with pytest.raises(UsageError, match="made/new0: input 'spikes' has no shard, model 'poyo' reads 'per-spike'"):
        evaluate_transfer(poyo, [shards["binned"][IDS[2]]], calibration_s=5)
    swapped = SessionTokens({"spikes": shards["binned"][IDS[2]].reader})
    with pytest.raises(UsageError, match="a shard of scheme 'binned', model 'poyo' reads 'per-spike'"):
        evaluate_transfer(poyo, [swapped], calibration_s=5)
    other = SessionTokens({"spikes": bake(tmp_path, decodable_session("other", 9, signals=("eye",)))})
    with pytest.raises(DataError, match=r"made/other: it has no signal 'hand_vel'.*it has eye"):
        evaluate_transfer(poyo, [other], calibration_s=5)
    with pytest.raises(UsageError, match="no session to evaluate"):
        evaluate_transfer(poyo, [], calibration_s=5)


# ---- which sessions -------------------------------------------------------------------------------------------------


def test_trained_sessions_are_refused_or_scored_as_within(poyo, shards):
    both = [shards["per-spike"][i] for i in (IDS[0], IDS[2])]
    with pytest.raises(UsageError, match="the model was trained on made/day0: .* or add --within"):
        evaluate_transfer(poyo, both, calibration_s=5)
    found = evaluate_transfer(poyo, both, protocols=["zero_shot"], calibration_s=5, within=True)
    assert {(c.session, c.protocol) for c in found.cells} == {
        ("made/day0", "within"),
        ("made/day0", "linear"),
        ("made/new0", "zero_shot"),
        ("made/new0", "linear"),
    }
    assert [f.trained_on for f in found.sessions] == [True, False]
    alone = evaluate_transfer(poyo, both[:1], calibration_s=5, within=True)
    assert alone.protocols == ("within", "linear")
    scores = json.loads((poyo.path / "result.json").read_text())["test"]
    said = alone.cell("made/day0", "within", DECODE).score["r2_mean"]
    assert said == pytest.approx(scores["made/day0"][DECODE]["r2_mean"])


def test_a_trained_recording_under_another_name_is_refused(poyo, shards, tmp_path):
    session = decodable_session("day0", 0, n_units=9)
    renamed = SessionTokens({"spikes": bake(tmp_path, replace(session, id="other/name"))})
    for within in (False, True):
        with pytest.raises(UsageError, match="other/name is the recording of made/day0.*the file with sha256"):
            evaluate_transfer(poyo, [renamed], calibration_s=5, within=within)


def test_no_result_depends_on_the_other_sessions_or_on_what_ran_before(poyo, shards, stored, result):
    torch.rand(11)
    alone = evaluate_transfer(poyo, [shards["per-spike"][IDS[3]]], calibration_s=5, stored=stored.get)
    for protocol in result.protocols:
        assert alone.cell(IDS[3], protocol, DECODE).score == result.cell(IDS[3], protocol, DECODE).score
    other = evaluate_transfer(poyo, [shards["per-spike"][IDS[3]]], calibration_s=5, seed=1)
    assert other.cell(IDS[3], "identity_only", DECODE).score != result.cell(IDS[3], "identity_only", DECODE).score


def test_the_run_itself_is_not_changed(poyo, shards):
    before = {k: v.clone() for k, v in poyo.model.state_dict().items()}
    evaluate_transfer(poyo, [shards["per-spike"][IDS[2]]], calibration_s=5)
    after = poyo.model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert poyo.model.sessions() == IDS[:2]


# ---- which parameters -----------------------------------------------------------------------------------------------


def unseen(run, tokens):
    """One session as transfer adapts to it."""
    session = transfer._transfer_session(run, tokens, 5)
    return transfer.Unseen(run, session, run.config.transfer, 3, torch.device("cpu"), lambda event: None, None)


def adapted(poyo, shards, protocol):
    """The state before and after a protocol, and the identity's size."""
    one = unseen(poyo, shards["per-spike"][IDS[2]])
    before, model = one.model(), one.model()
    trained = transfer._adapt(one, model, protocol, one.session.tasks)
    changed = {
        (k, row)
        for k, v in model.state_dict().items()
        for row in (v != before.state_dict()[k]).reshape(len(v), -1).any(1).nonzero().flatten().tolist()
    }
    assert all(p.requires_grad for p in model.parameters())
    return changed, rows_of(model, IDS[2:3]), trained, model


def rows_of(model, sessions) -> set[tuple[str, int]]:
    """The rows of tables that are the sessions' own."""
    names = {id(p): n for n, p in model.named_parameters()}
    parts = model.identity_parameters(sessions)
    return {(names[id(part.parameter)], row) for part in parts for row in range(part.rows.start, part.rows.stop)}


def test_identity_only_trains_exactly_the_identity(poyo, shards):
    changed, identity, trained, _ = adapted(poyo, shards, "identity_only")
    assert changed == identity
    assert trained == (11 + 1) * 16  # a row a unit, and one of the session


def test_full_trains_everything_but_other_sessions_rows(poyo, shards):
    changed, identity, trained, model = adapted(poyo, shards, "full")
    assert identity < changed
    assert not changed & rows_of(model, IDS[:2])
    assert {n for n, p in model.named_parameters() if p.ndim > 1} <= {name for name, _ in changed} | {"types.weight"}
    assert trained == sum(p.numel() for p in model.parameters())


def test_a_model_whose_identity_leaks_is_caught(poyo, shards, monkeypatch):
    monkeypatch.setattr(transfer, "only", lambda model, parts: nullcontext())
    monkeypatch.setattr(transfer, "build_optimizer", lambda m, c, p: build_optimizer(m, c))
    with pytest.raises(AssertionError, match="which are not identity parameters"):
        evaluate_transfer(poyo, [shards["per-spike"][IDS[2]]], protocols=["identity_only"], calibration_s=5)


def test_every_protocol_starts_from_the_same_new_rows(poyo, shards):
    one = unseen(poyo, shards["per-spike"][IDS[2]])
    a, b = one.model(), one.model()
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_cells_that_cannot_be_filled_say_why(poyo, shards, tmp_path):
    zero = evaluate_transfer(poyo, [shards["per-spike"][IDS[2]]], protocols=["zero_gradient"], calibration_s=5)
    cell = zero.cell(IDS[2], "zero_gradient", DECODE)
    assert cell.score is None
    assert "parameters of its own" in cell.reason
    assert zero.summary[DECODE]["zero_gradient"]["r2_mean"] == {
        "n": 0,
        "mean": None,
        "sd": None,
        "sd_repeats": None,
        "ci95": None,
    }

    train(load_config("linear"), [shards["binned"][i] for i in IDS[:2]], tmp_path)
    every = ["zero_shot", "identity_only", "full"]
    linear = evaluate_transfer(load_run(tmp_path), [shards["binned"][IDS[2]]], protocols=every, calibration_s=10)
    for protocol in every:
        assert linear.cell(IDS[2], protocol, DECODE).score is None
        assert "closed form" in linear.cell(IDS[2], protocol, DECODE).reason
    assert linear.cell(IDS[2], "linear", DECODE).score["r2_variance_weighted"] > 0.4


def test_a_read_in_that_nothing_trained_has_no_zero_shot(shards, tmp_path):
    train(load_config("ndt1", None, SMALL_NDT1), [shards["binned"][i] for i in IDS[:2]], tmp_path)
    found = evaluate_transfer(load_run(tmp_path), [shards["binned"][IDS[2]]], calibration_s=5)
    assert {c.task for c in found.cells} == {DECODE, "population"}
    for task in (DECODE, "population"):
        assert "read-in" in found.cell(IDS[2], "zero_shot", task).reason
        for protocol in ("identity_unlabelled", "identity_only", "full"):
            assert found.cell(IDS[2], protocol, task).score is not None, (protocol, task)
    assert "a ridge has no answer to 'population'" in found.cell(IDS[2], "linear", "population").reason
    assert found.cell(IDS[2], "linear", DECODE).score is not None


def test_a_model_of_one_session_is_scored_on_it_and_refuses_another(shards, tmp_path):
    sets = ["model.layers=1", "model.hidden=16", "data.window_ms=500", "optim.steps=4"]
    train(load_config("stndt", None, sets), [shards["binned"][IDS[0]]], tmp_path)
    run = load_run(tmp_path)
    found = evaluate_transfer(run, [shards["binned"][IDS[0]]], within=True, calibration_s=5)
    assert all(found.cell(IDS[0], "within", task).score is not None for task in (DECODE, "population"))
    with pytest.raises(UsageError, match=f"stndt holds one session, {IDS[0]}, not {IDS[2]} too: .*--sessions {IDS[2]}"):
        evaluate_transfer(run, [shards["binned"][IDS[2]]], calibration_s=5)


def test_unlabelled_calibration_cuts_no_label(shards, tmp_path, monkeypatch):
    """What ``identity_unlabelled`` trains on asks the population alone; ``identity_only`` asks the behaviour too."""
    train(load_config("ndt1", None, SMALL_NDT1), [shards["binned"][i] for i in IDS[:2]], tmp_path)
    run, asked = load_run(tmp_path), {}

    def noting(one, model, parameters, protocol, tasks, *rest):
        asked.setdefault(protocol, []).append({task.name for task in tasks})
        return plain(one, model, parameters, protocol, tasks, *rest)

    plain = transfer._train
    monkeypatch.setattr(transfer, "_train", noting)
    evaluate_transfer(run, [shards["binned"][IDS[2]]], calibration_s=5)
    both = {"population", DECODE}
    assert asked == {"identity_unlabelled": [{"population"}], "identity_only": [both], "full": [both, both]}


# ---- the floor ------------------------------------------------------------------------------------------------------


def test_the_floor_is_the_linear_model_on_the_binned_shard(poyo, shards, result):
    """The counts are made of the stored session; a binned shard of the same session must give the same score."""
    spikes = transfer._transfer_session(poyo, shards["per-spike"][IDS[2]], 5)
    config = floor_config(poyo.config, spikes.tokens)
    assert Linear.inputs(None, [], config.timing) == {"counts": Input("binned", {"bin_ns": 20 * MS})}
    binned = replace(spikes, tokens=shards["binned"][IDS[2]])
    model = Linear(config.model_config(), [task.head() for task in poyo.tasks], config.timing)
    model.add_sessions([binned.tokens.info])
    model.fit({IDS[2]: binned.stretches("calibration")})
    expected = predict(model, binned, "test", config)[DECODE]
    found = result.cell(IDS[2], "linear", DECODE)
    np.testing.assert_array_equal(found.answer.predicted, expected.predicted)
    seconds = {key: found.score[key] for key in ("scored_s", "unanswered_s")}
    assert found.score == expected.score() | seconds
    assert seconds["scored_s"] == pytest.approx(found.score["n_samples"] * 0.02)
    assert sum(seconds.values()) == pytest.approx(binned.splits["test"].total_ns / SECOND)
    assert found.score["r2_variance_weighted"] > 0.3


def test_the_floor_reaches_further_back_under_longer_windows(shards):
    tokens = shards["per-spike"][IDS[2]]
    for window_ms, bin_ms in ((500, 20), (1000, 20), (4000, 80), (1999, 39)):
        config = floor_config(load_config("poyo", None, [f"data.window_ms={window_ms}"]), tokens)
        assert config.data.bin_ms == bin_ms
        assert config.data.window_ms % bin_ms == 0
        assert window_ms - bin_ms < config.data.window_ms <= window_ms
    config = floor_config(load_config("ndt1", None, ["data.window_ms=4000"]), shards["binned"][IDS[2]])
    assert config.data.bin_ms == 20


def test_without_the_store_the_floor_says_what_it_lacks(poyo, shards):
    one = [shards["per-spike"][IDS[2]]]
    for stored in (None, lambda session: None):
        cells = evaluate_transfer(poyo, one, protocols=["zero_shot"], calibration_s=5, stored=stored).cells
        (floor,) = [c for c in cells if c.protocol == "linear"]
        assert floor.score is None
        assert floor.reason == "made/new0 is not in the store, of which the floor counts its bins"


def test_scored_truth_is_the_behaviour_in_its_own_measure(poyo, shards, result):
    cell = result.cell(IDS[2], "zero_shot", DECODE)
    signal = shards["per-spike"][IDS[2]].signal("hand_vel")
    time_ns, value = values_in(signal, result.sessions[0].test)
    np.testing.assert_array_equal(cell.answer.time_ns, time_ns)
    np.testing.assert_allclose(cell.answer.true, value, rtol=1e-5, atol=1e-3)
    assert cell.answer.measure == "mm/s"


# ---- over sessions --------------------------------------------------------------------------------------------------


def cells(*values):
    made = [Cell(f"a/{k}", "full", DECODE, {"r2_variance_weighted": v, "r2_mean": v}) for k, v in enumerate(values)]
    none = Cell("a/none", "full", DECODE, None, "no score")
    return [*made, none, Cell("a/c", "full", DECODE, dict.fromkeys(R2))]


def test_the_summary_counts_scores_only():
    over = summarize(cells(0.2, 0.4), R2)["r2_mean"]
    assert over == {
        "n": 2,
        "mean": pytest.approx(0.3),
        "sd": pytest.approx(np.sqrt(0.02)),
        "sd_repeats": None,
        "ci95": None,
    }
    assert summarize(cells(0.5), R2)["r2_mean"] == {"n": 1, "mean": 0.5, "sd": None, "sd_repeats": None, "ci95": None}
    assert summarize(cells(), R2)["r2_mean"] == {"n": 0, "mean": None, "sd": None, "sd_repeats": None, "ci95": None}


def test_the_interval_is_of_the_mean_over_sessions():
    values = np.random.default_rng(5).normal(0.5, 0.1, 30)
    low, high = summarize(cells(*values), R2)["r2_mean"]["ci95"]
    standard_error = values.std(ddof=1) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.3 * standard_error)
    assert high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.3 * standard_error)
    assert summarize(cells(*values), R2)["r2_mean"]["ci95"] == [low, high]
