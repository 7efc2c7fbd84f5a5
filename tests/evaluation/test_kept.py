"""An adapted model that was kept: the same numbers, its calibration as training time, live as offline."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spiketok.errors import UnknownNameError, UsageError
from spiketok.evaluation.kept import write_kept
from spiketok.evaluation.stream import stream
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.pipeline.inspect import describe_path
from spiketok.recording.intervals import grown
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.predict import predict
from spiketok.training.runs import find_run
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session

TASK = "decode:hand_vel"
IDS = ["made/day0", "made/new0"]
HOW = {"protocols": ["identity_only"], "calibration_s": 6, "calibration": "random", "keep": "identity_only"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A small poyo of one day, and what it became on another: run, shards, sessions, result, the kept run's folder."""
    root = tmp_path_factory.mktemp("root")
    made = {i: decodable_session(i.split("/")[1], k, n_units=9 + k) for k, i in enumerate(IDS)}
    tokens = {i: bake_tokens(root / "shards", session) for i, session in made.items()}
    train(load_config("poyo", None, [*SMALL_POYO, "optim.steps=4"]), [tokens[IDS[0]]], root / "runs" / "poyo-a")
    run, paths = load_run(root / "runs" / "poyo-a"), []
    result = evaluate_transfer(
        run, [tokens[IDS[1]]], on_kept=lambda one: paths.append(write_kept(one, root / "runs")), **HOW
    )
    (path,) = paths
    return run, tokens, made, result, path


def test_it_says_of_the_test_time_what_the_row_said(kept):
    run, tokens, _, result, path = kept
    cell, own = result.cell(IDS[1], "identity_only", TASK), load_run(path)
    divided = own.divide(tokens[IDS[1]])
    answers = predict(own.model, divided, "test", own.config)
    np.testing.assert_array_equal(answers[TASK].predicted, cell.answer.predicted)
    assert answers.score(TASK) == cell.score
    assert json.loads((path / "result.json").read_text())["test"][IDS[1]][TASK] == cell.score
    assert own.own == IDS and run.model.sessions() == IDS[:1]
    assert own.config.start == run.digest and own.config.model_overrides == run.config.model_overrides


def test_its_calibration_is_its_training_time_and_no_test_time(kept):
    _, tokens, _, result, path = kept
    own, (facts,) = load_run(path), result.sessions
    assert facts.calibration.start_ns[0] > 0  # not where a rule would put it
    divided = own.divide(tokens[IDS[1]])
    assert divided.calibration.start_ns.tolist() == facts.calibration.start_ns.tolist()
    assert divided.splits["train"].stop_ns.tolist() == facts.calibration.stop_ns.tolist()
    near = grown(divided.splits["train"], own.config.data.window_ns)
    assert divided.splits["test"].total_ns == facts.test.total_ns > 0
    assert divided.splits["test"].intersect(near).total_ns == 0
    other = own.divide(tokens[IDS[0]])
    assert other.splits["train"].total_ns == 28_000_000_000  # a trained session as before: 70 % of 40 s


def test_it_is_no_unseen_session_to_it(kept):
    _, tokens, _, result, path = kept
    own = load_run(path)
    with pytest.raises(UsageError, match="the model was trained on made/new0.*--within"):
        evaluate_transfer(own, [tokens[IDS[1]]], calibration_s=6)
    found = evaluate_transfer(own, [tokens[IDS[1]]], calibration_s=6, within=True)
    before = result.cell(IDS[1], "identity_only", TASK)
    assert found.cell(IDS[1], "within", TASK).score == before.score
    assert found.sessions[0].calibration.start_ns.tolist() == result.sessions[0].calibration.start_ns.tolist()


def test_live_it_says_what_it_says_offline(kept):
    _, tokens, made, result, path = kept
    own = load_run(path)
    found = stream(own, tokens[IDS[1]], made[IDS[1]], step_ns=100_000_000)
    assert found.apart[TASK] < 1e-5 and found.n_windows > 50
    inside = result.sessions[0].test
    times = found.answers[TASK].time_ns
    assert times.min() >= inside.start_ns[0] and times.max() < inside.stop_ns[-1]


def test_a_models_name_means_a_training_and_inspect_tells_what_was_kept(kept):
    run, _, _, _, path = kept
    workspace = Workspace(path.parents[1])
    assert find_run(workspace, "poyo") == find_run(workspace, None) == run.path
    assert find_run(workspace, path.name) == path
    told = describe_path(path).facts
    assert (
        told["adapted to"] == f"made/new0 (identity_only, 6 s of labelled calibration), from poyo-a ({run.digest[:12]})"
    )
    assert told["state"] == "finished"
    assert "kept" not in json.loads((run.path / "checkpoint" / "checkpoint.json").read_text())


def test_the_same_model_is_the_same_run(kept, tmp_path):
    run, tokens, _, _, path = kept
    paths = []
    evaluate_transfer(run, [tokens[IDS[1]]], on_kept=lambda one: paths.append(write_kept(one, tmp_path)), **HOW)
    assert [p.name for p in paths] == [path.name]
    for name in ("checkpoint/model.safetensors", "checkpoint/checkpoint.json", "config.json", "result.json"):
        assert (paths[0] / name).read_bytes() == (path / name).read_bytes()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"keep": "linear"}, UnknownNameError, "unknown row to keep 'linear'"),
        ({"keep": "full"}, UsageError, "'full' is to be kept and is not evaluated: name it among the protocols"),
        ({"repeats": 2}, UsageError, "2 draws of the calibration give as many models a session"),
    ],
)
def test_what_cannot_be_kept_is_refused(kept, changed, error, message):
    run, tokens, *_ = kept
    with pytest.raises(error, match=message):
        evaluate_transfer(run, [tokens[IDS[1]]], **(HOW | changed), on_kept=print)
