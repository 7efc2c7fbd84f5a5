"""A component of a behaviour that is constant in training time: left out by name, in scores, streams and files."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import r2_score

from spiketok.errors import DataError
from spiketok.evaluation.falcon_decoder import _planned
from spiketok.evaluation.stream import _with_truth
from spiketok.recording.intervals import ns_of
from spiketok.recording.nouns import Intervals, Session, Signal
from spiketok.storage.store import write_session
from spiketok.storage.workspace import Workspace
from spiketok.training.predictions import read_predictions
from spiketok.training.tasks.decode import Decode, DecodeConfig, Prediction, TargetSpec
from tests.cli.test_cli import spiketok
from tests.decodable import SECOND, bake_tokens, decodable_session

TRAIN = Intervals([0], [20 * SECOND])


def with_constants(session: Session, constants: dict[int, float], until_s: float | None = None) -> Session:
    """The session's velocity with components put in that are constant, up to a time or always."""
    vel = session.signals["hand_vel"]
    value, names = vel.value.astype(np.float64), list(vel.components)
    for place, constant in constants.items():
        column = np.full(len(value), constant)
        if until_s is not None:
            late = vel.time_ns >= ns_of(until_s)
            column[late] += np.arange(late.sum())
        value = np.insert(value, place, column, axis=1)
        names.insert(place, f"k{place}")
    return replace(
        session, signals={"hand_vel": Signal(vel.time_ns, value, names, vel.measure, vel.valid, vel.rate_hz)}
    )


@pytest.mark.parametrize("constants", [{0: 0.1}, {0: 7.0, 3: 0.3}, {1: 1e-7, 2: 0.0}])
@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
def test_the_others_are_decoded_as_if_they_stood_alone(tmp_path, constants, scheme):
    session = decodable_session("a", seconds=30)
    plain, more = (
        bake_tokens(tmp_path / n, s, scheme) for n, s in (("a", session), ("b", with_constants(session, constants)))
    )
    alone, task = (Decode.resolve("", [tokens], DecodeConfig()) for tokens in (plain, more))
    alone.fit([(plain, TRAIN)]), task.fit([(more, TRAIN)])
    assert task.target.components == ("x", "y") and task.head().size == 2
    assert (task.target.mean, task.target.std) == (alone.target.mean, alone.target.std)
    every = more.info.signals["hand_vel"][0]
    assert task.target.every == tuple(every) and task.why_not(more) == ""
    assert "the model decodes (" in task.why_not(plain)
    np.testing.assert_array_equal(task.truth(more).value, alone.truth(plain).value)
    names = [name for _, name, _ in task.target.constant]
    assert names == [f"k{place}" for place in constants]
    again = Decode.from_dict(json.loads(json.dumps(task.to_dict())), DecodeConfig())
    assert again.target == task.target and "constant" not in alone.to_dict()
    whole = task.target.filled(np.array([[10.0, 20.0], [30.0, 40.0]]))
    expected = {"x": [10, 30], "y": [20, 40]} | {f"k{p}": np.float32([c, c]).tolist() for p, c in constants.items()}
    assert whole.T.tolist() == [expected[name] for name in every]


def test_nothing_to_decode_is_refused(tmp_path):
    flat = replace(decodable_session("a").signals["hand_vel"], value=np.full((4000, 2), 0.1, np.float32))
    tokens = bake_tokens(tmp_path, replace(decodable_session("a"), signals={"hand_vel": flat}))
    with pytest.raises(DataError, match="x, y of 'hand_vel' are constant in the training time: there is nothing"):
        Decode.resolve("", [tokens], DecodeConfig()).fit([(tokens, TRAIN)])


def test_training_sessions_decide_together(tmp_path):
    """What is constant in one of them, or on different values in each, varies over all."""
    one, two = (with_constants(decodable_session(n, seconds=30), {1: v}) for n, v in (("a", 2.0), ("b", 5.0)))
    tokens = [bake_tokens(tmp_path, session) for session in (one, two)]
    task = Decode.resolve("", tokens, DecodeConfig())
    task.fit([(t, TRAIN) for t in tokens])
    assert task.target.components == ("x", "k1", "y") and task.target.constant == ()
    assert task.target.mean[1] == pytest.approx(3.5)


def test_a_component_that_is_constant_where_it_is_scored_is_in_no_mean():
    rng = np.random.default_rng(1)
    true, said = rng.normal(size=(2, 50, 3))
    true[:, 1] = 0.3
    weight = np.ones(50, np.float32)
    weight[7] = 0
    answer = Prediction(np.arange(50), said, true, weight, ("x", "k", "y"), "", constant={"z": -2.0})
    kept, score = weight > 0, answer.score()
    each = [r2_score(true[kept, k], said[kept, k]) for k in (0, 2)]
    assert score["r2_mean"] == pytest.approx(np.mean(each))
    assert score["r2_per_component"] == pytest.approx({"x": each[0], "k": None, "y": each[1]})
    assert score["reasons"] == {
        "R2 of 'z'": "it is -2 in all training time, so left out",
        "R2 of 'k'": "it is 0.3 in all time that is scored, so in no mean",
    }
    nothing = replace(answer, weight=np.zeros(50, np.float32), constant={}).score()
    assert nothing["r2_mean"] is None and "reasons" not in nothing


def test_what_is_streamed_keeps_its_names(tmp_path):
    """The live answer has what is decoded; FALCON's evaluator gets all components of its target."""
    tokens = bake_tokens(tmp_path, with_constants(decodable_session("a", seconds=30), {1: 4.0}), "binned")
    task = Decode.resolve("", [tokens], DecodeConfig())
    task.fit([(tokens, TRAIN)])

    decoded = SimpleNamespace(time_ns={task.name: tokens.bin_middle_ns[10:20]}, value={task.name: np.zeros((10, 2))})
    found = _with_truth(task, tokens, [decoded])
    assert found.components == ("x", "y") and found.constant == {"k1": 4.0}
    np.testing.assert_array_equal(found.true, task.truth(tokens).value[10:20])

    assert _planned(SimpleNamespace(tasks=(task,)), 0).components == ("x", "k1", "y")
    assert task.target.filled(np.array([1.0, 2.0])).tolist() == [1.0, 4.0, 2.0]


def test_a_target_without_constants_is_as_it_was():
    spec = TargetSpec("v", ("x", "y"), "m", (0.0, 1.0), (1.0, 2.0))
    assert spec.every == ("x", "y") and spec.taken == slice(None)
    assert spec.filled(np.array([3.0, 4.0])).tolist() == [3.0, 4.0]


@pytest.mark.long
def test_it_is_said_from_training_to_report(tmp_path):
    workspace = Workspace(tmp_path)
    for k, name in enumerate(["day0", "day1", "day2"]):
        constants = {1: 0.25 if name != "day2" else 0.5}
        session = with_constants(decodable_session(name, k, seconds=45), constants, None if name != "day1" else 1e6)
        write_session(replace(session, subject="s"), workspace.store_path(session.id))
    said = spiketok(
        tmp_path,
        "train",
        "--model",
        "linear",
        "--task",
        "decode:hand_vel",
        "--tokenize",
        "--save-predictions",
        "--hold-out",
        "made/day2",
    )
    assert "no R2 of 'k1' of made/day0, made/day1: it is 0.25 in all training time, so left out" in said.stderr
    saved = read_predictions(next(tmp_path.glob("runs/*/predictions/*/*.safetensors")))
    assert saved["prediction"].shape[1] == saved["target"].shape[1] == 2
    report = spiketok(tmp_path, "eval-xsession")
    assert "no R2 of 'k1' of made/day2" in report.stderr
    page = next(tmp_path.glob("runs/*/xsession/report.html")).read_text()
    assert "R2 of &#x27;k1&#x27;: it is 0.25 in all training time" in page
