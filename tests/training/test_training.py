"""Training: the optimizer's formula, what is decoded where, checkpoints; a killed run ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spiketok.errors import ArtefactError, BusyError, DataError, TooLargeError, UsageError
from spiketok.recording.intervals import labelled_intervals, values_in
from spiketok.recording.nouns import Intervals, Session, Signal
from spiketok.recording.splits import SplitRule
from spiketok.storage.files import content_digest, write_signed
from spiketok.training.checkpoints import load_run, read_facts, seed_of
from spiketok.training.config import load_config
from spiketok.training.loop import build_model, prepare, train
from spiketok.training.optimizers import Lamb, build_optimizer, lr_at
from spiketok.training.predict import predict, score_split
from spiketok.training.sampling import SessionTokens
from spiketok.training.sections import OptimConfig
from spiketok.training.sessions import divide
from spiketok.training.tasks.decode import Decode, DecodeConfig, choose_target
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session
from tests.toys import Toy

MS = 1_000_000


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    """Two sessions, each a per-spike shard."""
    folder = tmp_path_factory.mktemp("shards")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=10 + k)) for k in range(2)]


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    """The same two sessions, binned."""
    folder = tmp_path_factory.mktemp("shards")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=10 + k), "binned") for k in range(2)]


def small(*sets: str):
    return load_config("poyo", None, [*SMALL_POYO, *sets])


def bytes_of(run_dir: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run_dir / "checkpoint").iterdir())}


# ---- the optimizer --------------------------------------------------------------------------------------------------


def lamb_by_hand(p, grads, lr, betas, eps, decay):
    """The formula of the paper without bias correction, one numpy line at a time."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    for g in grads:
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = m / (np.sqrt(v) + eps) + decay * p
        norm_p, norm_u = min(np.sqrt((p * p).sum()), 10.0), np.sqrt((u * u).sum())
        p = p - lr * (norm_p / norm_u if norm_p > 0 and norm_u > 0 else 1.0) * u
    return p


@pytest.mark.parametrize("scale", [0.0, 0.1, 100.0])  # no norm, a small one, one that is clamped
def test_lamb_is_the_formula(scale):
    rng = np.random.default_rng(0)
    start, grads = scale * rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    p = nn.Parameter(torch.tensor(start))
    optimizer = Lamb([p], lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    expected = lamb_by_hand(start, grads, 0.02, (0.9, 0.99), 1e-6, 0.1)
    np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_sparse_lamb_leaves_rows_without_gradient_and_their_moments_alone():
    rng = np.random.default_rng(1)
    start, grads = rng.normal(size=(5, 3)), rng.normal(size=(4, 5, 3))
    grads[:, [1, 4]] = 0
    p = nn.Parameter(torch.tensor(start))
    optimizer = Lamb([{"params": [p], "sparse": True}], lr=0.05, weight_decay=0.1)
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    touched = [0, 2, 3]
    expected = lamb_by_hand(start[touched], grads[:, touched], 0.05, (0.9, 0.999), 1e-6, 0.1)
    np.testing.assert_allclose(p.detach().numpy()[touched], expected, rtol=1e-12)
    np.testing.assert_array_equal(p.detach().numpy()[[1, 4]], start[[1, 4]])
    assert not optimizer.state[p]["m"][[1, 4]].any()


def test_adamw_decays_matrices_only(spikes):
    config = small()
    sessions, tasks = prepare(config, spikes)
    model = build_model(config, tasks, sessions)
    optimizer = build_optimizer(model, config.optim)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert set(decay) == {id(p) for p in model.parameters()}
    tables = {id(part.parameter) for part in model.identity_parameters()}
    tables |= {id(model.latents.weight), id(model.types.weight)}
    for name, p in model.named_parameters():
        expected = 0.0 if p.ndim < 2 or id(p) in tables else config.optim.weight_decay
        assert decay[id(p)] == expected, name


def test_schedules():
    cosine = OptimConfig(steps=100, lr=1.0, schedule="cosine", warmup=0.1)
    rates = [lr_at(k, 100, cosine) for k in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3
    assert sorted(rates[10:], reverse=True) == rates[10:]
    onecycle = OptimConfig(steps=100, lr=1.0, schedule="onecycle")
    rates = [lr_at(k, 100, onecycle) for k in range(101)]
    assert rates[:51] == [1.0] * 51
    assert rates[75] == pytest.approx(0.5, abs=1e-3)
    assert rates[100] == pytest.approx(1e-4)
    assert lr_at(7, 100, OptimConfig(steps=100, lr=0.3, schedule="constant")) == 0.3


# ---- what is decoded, and where -------------------------------------------------------------------------------------


class Named:
    """What choose_target needs of a session."""

    def __init__(self, session: str, **signals):
        self.id = session
        self.info = type("Info", (), {"id": session, "signals": signals})()

    def signal(self, name: str) -> Signal:
        """Codes where the name says so, else numbers."""
        components, measure = self.info.signals[name]
        value = np.arange(40.0)[:, None] % 3 + (0.0 if "code" in name else 0.25)
        return Signal(np.arange(40), np.tile(value, len(components)), components, measure, np.ones(40, np.bool_))


XY = (("x", "y"), "mm/s")


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (["cursor_vel", "cursor_pos"], "cursor_vel"),
        (["position", "pupil"], "position"),
        (["pupil"], "pupil"),
        (["Hand Velocity", "eye_pos", "hand_pos"], "Hand Velocity"),
    ],
)
def test_auto_prefers_velocity_then_position_then_the_only_one(signals, expected):
    readers = [Named("a/1", **dict.fromkeys(signals, XY)), Named("a/2", extra=XY, **dict.fromkeys(signals, XY))]
    assert choose_target(readers) == expected


def test_a_mask_is_no_target():
    """FALCON M1 has its EMG and the mask of what is scored; H2 has the mask alone."""
    mask = (("c0",), "bool")
    assert choose_target([Named("m1/1", eval_mask=mask, preprocessed_emg=XY)]) == "preprocessed_emg"
    with pytest.raises(DataError, match="h2/1 hold no behaviour to decode"):
        choose_target([Named("h2/1", eval_mask=mask)])
    assert choose_target([Named("h2/1", eval_mask=mask)], "eval_mask") == "eval_mask"


def test_event_codes_are_offered_nowhere_and_decoded_where_they_are_named(capsys):
    code = (("word",), "")
    session = Named("a/1", code_vel=code, pupil=XY)
    assert choose_target([session]) == "pupil", "a velocity by its name, codes by its values"
    with pytest.raises(DataError, match=r"there are pupil: choose"):
        choose_target([session], "vel")
    with pytest.raises(DataError, match=r"but event codes \('code_vel' holds codes: 0, 1, 2\): --task classify:COLUMN"):
        choose_target([Named("a/1", code_vel=code)])
    assert not Decode.has("", Named("a/1", code_vel=code)) and Decode.has("", session)
    assert Decode.resolve("code_vel", [session], DecodeConfig()).target.name == "code_vel"
    assert "decoded as a number because it is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("readers", "name", "message"),
    [
        ([Named("a/1", hand_vel=XY, eye_vel=XY)], "auto", r"\(eye_vel, hand_vel\): choose by --task decode:NAME"),
        ([Named("a/1", force=XY, pupil=XY)], "auto", r"\(force, pupil\)"),
        ([Named("a/1")], "auto", "a/1 hold no behaviour"),
        ([Named("a/1", vel=XY), Named("a/2", pos=XY)], "auto", "a/1 has vel; a/2 has pos"),
        ([Named("a/1", vel=XY), Named("a/2")], "vel", "'vel' is missing in a/2; a/1 have it"),
        ([Named("a/1", vel=XY)], "vell", "there are vel"),
        ([Named("a/1", vel=XY), Named("a/2", vel=(("x",), "mm/s"))], "vel", r"\(x\) in 'mm/s' in a/2"),
        ([Named("a/1", vel=XY), Named("a/2", vel=(("x", "y"), "m/s"))], "vel", "in 'm/s' in a/2"),
    ],
)
def test_a_target_that_cannot_be_chosen_says_what_there_is(readers, name, message):
    with pytest.raises(DataError, match=message):
        choose_target(readers, name)


@given(st.lists(st.booleans(), min_size=2, max_size=60))
def test_labelled_time_holds_valid_samples_and_bridges_gaps_of_at_most_two(valid):
    period = 10 * MS
    value = np.zeros((len(valid), 1), np.float32)
    signal = Signal(np.arange(len(valid)) * period, value, ("x",), "", np.array(valid))
    found = labelled_intervals(signal)
    inside = np.zeros(len(valid), bool)
    for start, stop in zip(found.start_ns, found.stop_ns, strict=True):
        inside |= (signal.time_ns >= start) & (signal.time_ns < stop)
    expected = np.array(valid)
    for low, high in ((a, b) for a in range(len(valid)) for b in (a + 1, a + 2)):  # gaps of one and of two samples
        if low > 0 and high < len(valid) and valid[low - 1] and valid[high] and not any(valid[low:high]):
            expected[low:high] = True
    assert inside.tolist() == expected.tolist()


def test_splits_lie_inside_time_that_is_observed_and_measured(tmp_path):
    session = decodable_session("gaps", seconds=30)
    vel = session.signals["hand_vel"]
    valid = vel.valid.copy()
    valid[500:700] = False
    gappy = Session(
        **{
            **{k: getattr(session, k) for k in ("id", "subject", "start_ns", "stop_ns", "units", "spikes", "source")},
            "observed": Intervals([2_000 * MS, 12_000 * MS], [10_000 * MS, 29_000 * MS]),
            "signals": {"hand_vel": Signal(vel.time_ns, vel.value, vel.components, "mm/s", valid, 100.0)},
        }
    )
    tokens = bake_tokens(tmp_path, gappy)
    labelled = divide(tokens, [Decode.resolve("hand_vel", [tokens], DecodeConfig())], SplitRule(kind="block"))
    expected = Intervals([2_000 * MS, 7_000 * MS, 12_000 * MS], [5_000 * MS, 10_000 * MS, 29_000 * MS])
    assert labelled.domain.start_ns.tolist() == expected.start_ns.tolist()
    assert labelled.domain.stop_ns.tolist() == expected.stop_ns.tolist()
    assert sum(s.total_ns for s in labelled.splits.values()) == expected.total_ns


def test_the_target_is_normalised_by_training_time_of_all_sessions(spikes):
    sessions, (task,) = prepare(small(), spikes)
    target = task.target
    signals = [s.tokens.signal("hand_vel") for s in sessions]
    value = [values_in(v, s.splits["train"])[1] for v, s in zip(signals, sessions, strict=True)]
    value = np.concatenate(value).astype(np.float64)
    assert len(value) == sum(round(s.splits["train"].total_ns / 1e7) for s in sessions)
    np.testing.assert_allclose(target.mean, value.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(target.std, value.std(axis=0), rtol=1e-12)
    assert (target.name, target.measure) == ("hand_vel", "mm/s")


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        (["data.window_ms=60000"], DataError, "made/day0: no window of 60000 ms fits into its train time, whose"),
        (["data.window_ms=5000"], DataError, "fits into its valid time, whose longest stretch is 4000 ms"),
        (["tasks=decode:eye"], DataError, "'eye' is missing in made/day0, made/day1; there are hand_vel"),
        (["data.session_weights={'made/day7'=2}"], UsageError, "'made/day7', which is not trained on"),
    ],
)
def test_data_that_cannot_serve_is_one_clear_line(spikes, tmp_path, sets, error, message):
    with pytest.raises(error, match=message):
        train(small(*sets), spikes, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_model_beyond_memory_names_the_setting(spikes):
    config = small("model.dim=1000000000000")
    sessions, tasks = prepare(config, spikes)
    with pytest.raises(TooLargeError, match=r"model\.dim=1000000000000.*does not fit into memory"):
        build_model(config, tasks, sessions)


def test_the_wrong_shards_are_refused(spikes, bins, tmp_path):
    with pytest.raises(
        UsageError, match="made/day0: input 'spikes' has no shard, model 'poyo' reads 'per-spike': spiketok tokenize"
    ):
        train(small(), bins, tmp_path)
    named = [SessionTokens({"spikes": s.reader}) for s in bins]
    with pytest.raises(UsageError, match="input 'spikes' has a shard of scheme 'binned', model 'poyo' reads"):
        train(small(), named, tmp_path)
    with pytest.raises(UsageError, match="no session to train on"):
        train(small(), [], tmp_path)
    with pytest.raises(UsageError, match="data.window_ms is 510, no multiple of the 20 ms bins"):
        train(load_config("linear", None, ["data.window_ms=510"]), bins, tmp_path)


# ---- training -------------------------------------------------------------------------------------------------------


def test_linear_decodes_and_writes_a_whole_run(bins, tmp_path):
    events = []
    result = train(load_config("linear"), bins, tmp_path / "run", on_event=events.append)
    assert set(result.scores) == {"made/day0", "made/day1"}
    for by_task in result.scores.values():
        score = by_task["decode:hand_vel"]
        assert score["r2_variance_weighted"] > 0.7
        assert score["r2_mean"] > 0.7
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["test"] == result.scores
    assert [e["event"] for e in events] == ["start", "checkpoint", "done"]
    facts = read_facts(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == facts["config"] | {"digest": content_digest(config)}
    assert facts["config"] == load_config("linear").to_dict()
    assert [s["id"] for s in facts["sessions"]] == ["made/day0", "made/day1"]
    assert facts["sessions"][0]["shards"]["counts"]["digest"] == bins[0].reader.digest
    assert facts["sessions"][0]["source_sha256"] == bins[0].reader.manifest["source"]["sha256"]
    assert str(tmp_path) not in json.dumps(facts)


def test_stretches_are_the_bins_of_the_split(bins):
    sessions, (task,) = prepare(load_config("linear"), bins)
    stretch, *more = sessions[0].stretches("test")
    assert not more
    counts, target = stretch.columns["counts"]["counts"], task.target
    normal, weight = stretch.target[task.name], stretch.weight[task.name]
    first = int(sessions[0].splits["test"].start_ns[0]) // (20 * MS)
    np.testing.assert_array_equal(counts, bins[0].reader.columns["counts"][first : first + len(counts)])
    signal = decodable_session("day0", 0, n_units=10).signals["hand_vel"]  # two samples in each bin
    value = signal.value.reshape(-1, 2, 2).mean(axis=1)[first : first + len(counts)]
    np.testing.assert_allclose(normal * target.std + target.mean, value, rtol=1e-4, atol=1e-3)
    assert (weight == 1).all()
    assert len(counts) * 20 * MS == sessions[0].splits["test"].total_ns


def test_what_is_fitted_has_neither_weight_nor_value_where_nothing_was_measured(tmp_path):
    """A hole of two samples is no border of labelled time: its bin stands in a stretch, and is marked."""
    session = decodable_session("hole", n_units=6)
    vel = session.signals["hand_vel"]
    valid = np.ones(4000, np.bool_)
    valid[[500, 501, 705]] = False  # all of bin 250, half of bin 352
    signals = {"hand_vel": Signal(vel.time_ns, vel.value, vel.components, "mm/s", valid, 100.0)}
    tokens = bake_tokens(tmp_path, replace(session, signals=signals), "binned")
    (divided,), (task,) = prepare(load_config("linear"), [tokens])
    (stretch,) = divided.stretches("train")
    weight, target = stretch.weight[task.name], stretch.target[task.name]
    assert np.flatnonzero(weight == 0).tolist() == [250]
    assert (target[250] == 0).all()
    normal = (vel.value[704] - np.array(task.target.mean)) / np.array(task.target.std)  # of a bin what was measured
    np.testing.assert_allclose(target[352], normal, rtol=1e-5)


@pytest.fixture(scope="module")
def whole_run(spikes, tmp_path_factory):
    """An uninterrupted run."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    result = train(small(), spikes, run_dir)
    return run_dir, result


def test_the_loss_falls(spikes, tmp_path):
    train(small("optim.steps=80", "optim.checkpoint_every=0", "optim.lr=0.01"), spikes, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 81, 10))
    assert lines[-1]["loss"]["decode:hand_vel"] < 0.7 * lines[0]["loss"]["decode:hand_vel"]


def test_the_same_run_gives_the_same_bytes(spikes, whole_run, tmp_path):
    torch.rand(7)  # whatever drew from the global generator before
    again = train(small(), list(reversed(spikes)), tmp_path / "again")
    assert bytes_of(tmp_path / "again") == bytes_of(whole_run[0])
    assert again.scores == whole_run[1].scores
    other = train(small("seed=43"), spikes, tmp_path / "other")
    assert other.scores != whole_run[1].scores


def test_mixed_precision_trains_and_keeps_weights_in_full(spikes, whole_run, tmp_path):
    result = train(small("optim.precision=bf16-mixed"), spikes, tmp_path)
    run = load_run(tmp_path)
    assert all(p.dtype == torch.float32 for p in run.model.parameters())
    for session, scores in result.scores.items():
        score, whole = scores["decode:hand_vel"], whole_run[1].scores[session]["decode:hand_vel"]
        assert score["r2_mean"] == pytest.approx(whole["r2_mean"], abs=0.2)
        assert score != whole


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("event", "step"), [("step", 4), ("checkpoint", 4), ("checkpoint", 8), ("step", 12)])
def test_a_run_that_stops_anywhere_goes_on_to_the_same_bytes(spikes, whole_run, tmp_path, event, step):
    def stop(told):
        if (told["event"], told.get("step")) == (event, step):
            raise Stopped

    with pytest.raises(Stopped):
        train(small(), spikes, tmp_path, on_event=stop)
    result = train(small(), spikes, tmp_path)
    assert result.resumed_from == (step // 4 - (event == "step")) * 4
    assert bytes_of(tmp_path) == bytes_of(whole_run[0])
    assert result.scores == whole_run[1].scores
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 10, 12]


def test_lamb_with_validation_resumes_to_the_same_bytes(spikes, tmp_path):
    config = small("optim.name=lamb", "optim.validate_every=3", "data.unit_dropout={min=3,mode=5,max=9}")
    train(config, spikes, tmp_path / "whole")

    def stop(told):
        if told["event"] == "step" and told["step"] == 10:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, spikes, tmp_path / "cut", on_event=stop)
    train(config, spikes, tmp_path / "cut")
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "valid"] == [3, 6, 9, 12]


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from tests.decodable import SMALL_POYO, tokens_of
    import torch
    from spiketok.training.config import load_config
    from spiketok.tokens.shards import ShardReader
    from spiketok.training.loop import train
    torch.set_num_threads({threads})
    def listen(event):
        if event["event"] == "step" and event["step"] == 10:
            os.kill(os.getpid(), signal.SIGKILL)
    sessions = [tokens_of(ShardReader(Path(p))) for p in {paths!r}]
    train(load_config("poyo", None, SMALL_POYO), sessions, Path({run!r}), on_event=listen)
""")


@pytest.mark.long  # processes of their own
def test_a_killed_process_goes_on_to_the_same_bytes(spikes, whole_run, tmp_path):
    code = KILLED.format(
        tests=str(Path(__file__).parents[2]),
        threads=torch.get_num_threads(),
        paths=[str(s.reader.path) for s in spikes],
        run=str(tmp_path),
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
    assert read_facts(tmp_path)["step"] == 8
    # what a kill in the middle of a checkpoint's change of place leaves: the old one moved aside, a half-written one
    os.rename(tmp_path / "checkpoint", tmp_path / ".wip-999999999-old-checkpoint")
    (tmp_path / ".wip-999999999-checkpoint").mkdir()
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"event": "step", "st')
    result = train(small(), spikes, tmp_path, resume="must")
    assert result.resumed_from == 8
    assert bytes_of(tmp_path) == bytes_of(whole_run[0])
    assert not list(tmp_path.glob(".wip-*"))


def test_a_finished_run_is_not_trained_again(spikes, whole_run):
    before = bytes_of(whole_run[0])
    events = []
    result = train(small(), spikes, whole_run[0], on_event=events.append)
    assert result.resumed_from == result.total_steps == 12
    assert [e["event"] for e in events] == ["start", "done"]
    assert result.scores == whole_run[1].scores
    assert bytes_of(whole_run[0]) == before


def test_resume_must_never_and_of_something_else(spikes, bins, whole_run, tmp_path):
    with pytest.raises(ArtefactError, match="holds no checkpoint"):
        train(small(), spikes, tmp_path / "new", resume="must")
    train(small("optim.steps=4"), spikes, tmp_path / "run")
    with pytest.raises(UsageError, match="optim.steps is 4 there and 12 here"):
        train(small(), spikes, tmp_path / "run")
    with pytest.raises(UsageError, match=r"was trained on other data \(made/day1 differ\)"):
        train(small("optim.steps=4"), spikes[:1], tmp_path / "run")
    train(small(), spikes, tmp_path / "run", resume="never")
    assert bytes_of(tmp_path / "run") == bytes_of(whole_run[0])


def test_a_loaded_run_predicts_what_was_scored(spikes, whole_run):
    run = load_run(whole_run[0])
    assert run.finished
    assert [s.id for s in run.trained_on] == ["made/day0", "made/day1"]
    sessions, (task,) = prepare(run.config, spikes)
    assert [t.target for t in run.tasks] == [task.target]
    assert score_split(run.model, sessions, "test", run.config)[0] == whole_run[1].scores
    assert load_run(whole_run[0] / "checkpoint").digest == run.digest


def test_how_to_adapt_may_change_after_training(spikes, tmp_path):
    train(small(), spikes, tmp_path)
    before = bytes_of(tmp_path)
    result = train(small("transfer.full_steps=9"), spikes, tmp_path)
    assert result.resumed_from == 12
    assert bytes_of(tmp_path) == before
    assert load_run(tmp_path).config.transfer.full_steps == 9


@pytest.mark.parametrize("name", ["model.safetensors", "train_state.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "edit"])
def test_a_damaged_checkpoint_is_refused(spikes, tmp_path, name, harm):
    config = small("optim.steps=6")

    def stop(told):
        if told["event"] == "checkpoint":
            raise Stopped

    with pytest.raises(Stopped):
        train(config, spikes, tmp_path, on_event=stop)
    path = tmp_path / "checkpoint" / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "edit":
        path.write_bytes(data.replace(b"1", b"2"))
    else:
        data[len(data) // 2 if name != "checkpoint.json" else 0] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"damaged|cannot be read|holds no checkpoint|was changed"):
        train(config, spikes, tmp_path, resume="must")


def test_another_version_is_refused(spikes, whole_run, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    facts = json.loads((whole_run[0] / "checkpoint" / "checkpoint.json").read_text())
    write_signed(tmp_path / "checkpoint" / "checkpoint.json", facts | {"version": 99})
    with pytest.raises(ArtefactError, match="version 99, this spiketok reads 'spiketok-checkpoint' versions 2 and 3"):
        load_run(tmp_path)


def test_a_run_is_trained_by_one_process_at_a_time(bins, tmp_path):
    code = """
        import sys
        from pathlib import Path
        from spiketok.storage.locks import inside, locked
        with locked(inside(Path(sys.argv[1])), "run"):
            print("held", flush=True)
            sys.stdin.readline()
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            BusyError, match=rf"spiketok \(process {other.pid} on .*, since .*\) writes run .*: wait for it or"
        ):
            train(load_config("linear"), bins, tmp_path)
        assert not (tmp_path / "config.json").exists()
        other.kill()  # which frees the lock
    train(load_config("linear"), bins, tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_damaged_curves_are_told_when_a_run_goes_on(spikes, tmp_path):
    def stop(told):
        if told["event"] == "checkpoint":
            raise Stopped

    with pytest.raises(Stopped):
        train(small("optim.checkpoint_every=6"), spikes, tmp_path, on_event=stop)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n{"step": \n')
    with pytest.raises(ArtefactError, match=r"metrics.jsonl is damaged \(it ends in the middle"):
        train(small("optim.checkpoint_every=6"), spikes, tmp_path)


# ---- prediction -----------------------------------------------------------------------------------------------------


class Recorder(Toy):
    """Predicts, at each query, the number of the window that asks (counted from 1)."""

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task, self.windows = task, []

    def forward(self, batch):
        number, asked = len(self.windows) + 1 + torch.arange(len(batch)), batch.asked[self.task]
        for b in range(len(batch)):
            low, high = asked.offset[b : b + 2].tolist()
            self.windows.append((int(batch.start_ns[b]), asked.ns[low:high].copy()))
        return {self.task: number.repeat_interleave(asked.offset.diff())[:, None].repeat(1, 2).float()}


def test_stitching_is_the_mean_over_all_windows_that_hold_a_time(spikes):
    config = small("data.window_ms=700", "data.eval_step_ms=300", "data.batch_size=5")
    sessions, (task,) = prepare(config, spikes)
    target, recorder = task.target, Recorder(task.name).train()
    found = predict(recorder, sessions[0], "test", config)[task.name]
    assert recorder.training
    told: dict[int, list[int]] = {}
    for k, (start, query_ns) in enumerate(recorder.windows):
        assert (query_ns >= start).all()
        assert (query_ns < start + 700 * MS).all()
        for t in query_ns.tolist():
            told.setdefault(t, []).append(k + 1)
    expected_ns, true = values_in(sessions[0].tokens.signal("hand_vel"), sessions[0].splits["test"])
    np.testing.assert_array_equal(found.time_ns, expected_ns)  # every sample of the split, once
    np.testing.assert_allclose(found.true, true, rtol=1e-5, atol=1e-4)
    normal = np.array([np.mean(told[t]) for t in found.time_ns.tolist()])
    np.testing.assert_allclose((found.predicted[:, 0] - target.mean[0]) / target.std[0], normal, rtol=1e-9)
    np.testing.assert_array_equal(found.windows, [len(told[t]) for t in found.time_ns.tolist()])
    assert found.valid.all()


def test_seeds_of_neighbouring_steps_are_unrelated():
    seeds = {seed_of(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**63 for s in seeds)
