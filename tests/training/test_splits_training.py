"""Splits and the guard where they are used: training, its result, transfer and the report."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from spiketok.cli.console import training_table
from spiketok.errors import DataError
from spiketok.evaluation.floor import binned_tokens
from spiketok.evaluation.report import remarks
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.recording.leakage import with_stated_reach
from spiketok.recording.nouns import Intervals
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import prepare, train
from spiketok.training.sampling import RandomWindows, SequentialWindows
from spiketok.training.sessions import dropped_by_split
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session
from tests.reference.leakage import touched

MS, SECOND = 1_000_000, 1_000_000_000
BACK, AHEAD = 80 * MS, 40 * MS


def on_day(name: str, day: str, seed: int = 0, **changes: object):
    made = decodable_session(name, seed, n_units=6)
    return replace(made, source=replace(made.source, session_start=day), **changes)


def smoothed(name: str, seed: int = 0):
    """A session whose behaviour its processing smoothed."""
    return on_day(name, "2020-01-01", seed, info=with_stated_reach({}, "hand_vel", BACK, AHEAD))


@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
def test_windows_of_a_smoothed_target_keep_their_kernel_inside_their_split(tmp_path, scheme):
    model = {"per-spike": "poyo", "binned": "linear"}[scheme]
    config = load_config(model, sets=["data.window_ms=200", "split.valid=0.2", "split.train=0.6"])
    sessions, _ = prepare(config, [bake_tokens(tmp_path, smoothed("a"), scheme)])
    (session,) = sessions
    reached = {}
    for split in session.splits:
        windows, seen = session.windows(split), set()
        for sampler in (RandomWindows([windows], 200 * MS), SequentialWindows([windows], 200 * MS, step_ns=100 * MS)):
            starts = sampler.plan(0).start_ns // MS
            seen |= touched([(t, t + 200) for t in starts.tolist()], BACK // MS, AHEAD // MS)
        reached[split] = seen
    assert not reached["train"] & reached["valid"]
    assert not reached["valid"] & reached["test"]
    lost = {split: reasons.get("split_border_ns", 0) for split, reasons in dropped_by_split(sessions).items()}
    assert lost == {"train": AHEAD, "valid": AHEAD + BACK, "test": BACK}


def test_what_the_floor_reads_has_the_kernel_too(tmp_path):
    with binned_tokens(bake_tokens(tmp_path, smoothed("a")), load_config("linear"), lambda _: smoothed("a")) as floor:
        assert floor.signal_reach_ns("hand_vel") == (BACK, AHEAD)
        assert floor.reader.scheme.name == "binned"
    config = load_config("linear", sets=["data.window_ms=200"])
    plain, guarded = (
        prepare(config, [bake_tokens(tmp_path, s, "binned")])[0] for s in (on_day("b", "2020-01-01"), smoothed("c"))
    )
    name = "decode:hand_vel"
    bins = [sum(len(part.weight[name]) for part in sessions[0].stretches("train")) for sessions in (plain, guarded)]
    assert bins[0] - bins[1] == AHEAD // (20 * MS)
    assert plain[0].guarded["train"].total_ns == plain[0].splits["train"].total_ns
    assert dropped_by_split(plain) == {"train": {}, "valid": {}, "test": {}}


def test_what_is_cut_once_a_session_keeps_the_guard_too(tmp_path):
    """Calibration tokens are of time that no window of another split touches, in training and in transfer."""
    (session,), _ = prepare(load_config("linear"), [bake_tokens(tmp_path, smoothed("a"), "binned")])
    assert session.splits["train"].stop_ns.tolist() == [28 * SECOND]
    assert session.calibration.stop_ns.tolist() == [28 * SECOND - AHEAD]
    parts = {"test": Intervals([0], [30 * SECOND]), "calibration": Intervals([30 * SECOND], [40 * SECOND])}
    unseen = replace(session, splits=parts)
    assert unseen.calibration.start_ns.tolist() == [30 * SECOND + BACK]
    assert unseen.calibration.stop_ns.tolist() == [40 * SECOND]


def test_later_days_are_left_for_transfer(tmp_path, capsys):
    readers = [bake_tokens(tmp_path, on_day(f"day{k}", f"2020-01-0{k + 1}", k), "binned") for k in range(3)]
    config = load_config("linear", sets=["split.kind=day"])
    with training_table() as listen:
        done = train(config, readers, tmp_path / "run", on_event=listen)
    assert "of later days, not trained on (for eval-xsession): made/day2" in capsys.readouterr().err
    assert done.scores == {}  # whole days of train: nothing to score inside
    run = load_run(tmp_path / "run")
    assert [s.id for s in run.trained_on] == ["made/day0", "made/day1"]
    result = evaluate_transfer(run, readers[2:], calibration_s=5)
    (facts,) = result.sessions
    assert facts.test.start_ns[0] > facts.calibration.stop_ns[-1] + SECOND
    assert result.cell("made/day2", "linear", "decode:hand_vel").score["r2_mean"] > 0
    undated = bake_tokens(tmp_path, on_day("none", ""), "binned")
    with pytest.raises(DataError, match="made/none: .*its source states no start"):
        prepare(config, [undated])
    with pytest.raises(DataError, match="leaves no session of 3"):
        prepare(load_config("linear", sets=["split.kind=day", "split.train=0.0", "split.test=0.9"]), readers)


def test_a_long_history_leaves_nothing_unanswered_but_the_beginning(tmp_path):
    """15 lags of 20 ms are more than half of a window of 400 ms: windows overlap by as much as the model needs."""
    tokens, scores = bake_tokens(tmp_path, smoothed("a"), "binned"), {}
    for name, step in (("auto", []), ("short", ["data.eval_step_ms=20"]), ("half", ["data.eval_step_ms=200"])):
        sets = ["data.window_ms=400", "data.bin_ms=20", *step]
        train(load_config("linear", sets=sets), [tokens], tmp_path / name)
        scores[name] = json.loads((tmp_path / name / "result.json").read_text())["test"]["made/a"]["decode:hand_vel"]
    assert scores["auto"] == scores["short"]
    assert scores["auto"]["unanswered_s"] == pytest.approx(14 * 0.02 + BACK / SECOND)  # the smoothing reaches back
    assert scores["half"]["unanswered_s"] > 0.3 * scores["half"]["scored_s"]  # what is asked for is done


def test_trials_divide_training_and_what_is_dropped_is_written(tmp_path):
    start = np.arange(20) * 2 * SECOND
    trials = Intervals(start, start + 1500 * MS, {"side": np.array(["l", "r"] * 10)})
    session = replace(smoothed("a"), intervals={"trials": trials})
    sets = ["split.kind=trial", "split.stratify=side", "split.between=train", "data.window_ms=500"]
    train(load_config("linear", sets=sets), [bake_tokens(tmp_path, session, "binned")], tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["train_s"]["made/a"] == pytest.approx(40 - 0.3 * 20 * 1.5)  # 6 of 20 trials are valid or test
    score = result["test"]["made/a"]["decode:hand_vel"]
    assert score["scored_s"] + score["unanswered_s"] == pytest.approx(4 * 1.5)
    assert score["scored_s"] == pytest.approx(score["n_samples"] * 0.02)  # its bins are of 20 ms
    assert result["split_reach"] == {"made/a": "'hand_vel' 80 ms back and 40 ms ahead"}
    assert result["dropped"]["test"]["split_border_ns"] == 4 * (BACK + AHEAD)
    unseen = replace(smoothed("b", 1), intervals={"trials": trials})
    told = evaluate_transfer(load_run(tmp_path / "run"), [bake_tokens(tmp_path, unseen, "binned")], calibration_s=5)
    (facts,) = told.sessions
    assert "split_border_ns" not in facts.dropped["test"]  # a whole window lies between it and the calibration
    short = replace(told, sessions=(replace(facts, dropped={"test": {"split_border_ns": 300 * MS}}),))
    reach = "(windows reach 'hand_vel' 80 ms back and 40 ms ahead)"
    assert f"made/b: no window uses 0.3 s split border of test {reach}" in remarks(short)


def silent_until(made, start_s: float):
    """The session without its spikes before a time."""
    return replace(made, spikes=made.spikes.window(int(start_s * SECOND), made.stop_ns))


@pytest.mark.parametrize("scheme", [pytest.param("per-spike", marks=pytest.mark.long), "binned"])
def test_training_and_calibration_time_without_a_spike_is_refused(tmp_path, scheme):
    """40 s with spikes from a time on: the train split is 0 to 28 s, calibration its first 10 s."""
    model = {"per-spike": "poyo", "binned": "linear"}[scheme]
    config = load_config(model, sets=[*(SMALL_POYO if model == "poyo" else ["data.window_ms=500"]), "optim.steps=2"])
    late = bake_tokens(tmp_path, silent_until(decodable_session("late", 1), 28), scheme)
    silent = r"made/late: not one spike in its train time \(28\.0 s, from 0\.0 s to 28\.0 s\)"
    with pytest.raises(DataError, match=silent):
        prepare(config, [late])
    near = bake_tokens(tmp_path, silent_until(decodable_session("near", 2), 27.8), scheme)
    prepare(config, [near])  # the last window tells
    run = tmp_path / "run"
    train(config, [bake_tokens(tmp_path, decodable_session("day", 0), scheme)], run)
    with pytest.raises(DataError, match=r"made/near: not one spike in its calibration time \(10\.0 s"):
        evaluate_transfer(load_run(run), [near], calibration_s=10, protocols=["zero_shot"])
    with pytest.raises(DataError, match="made/late: not one spike in its calibration time"):
        evaluate_transfer(load_run(run), [late], calibration_s=10, protocols=["zero_shot"])
