"""Stress: what a perturbation does to spikes, that rows are asked anew of just that, and that a cheat is told."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.evaluation.report import write_report
from spiketok.evaluation.stress import StressSettings, bake_like, scored_time, stress_settings
from spiketok.evaluation.stress_kinds import JITTER_NS, KINDS, NO_SPIKES, perturb
from spiketok.evaluation.transfer import _transfer_session, evaluate_transfer
from spiketok.recording.intervals import holds, without
from spiketok.recording.nouns import Intervals, Ragged, UnitTable
from spiketok.recording.units import take_units
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from tests.decodable import bake, bake_tokens, decodable_session
from tests.evaluation.test_spint_transfer import tokens_for
from tests.toys import Toy

SECOND = 1_000_000_000
TASK, R2 = "decode:hand_vel", "r2_variance_weighted"
TIME = Intervals([10 * SECOND, 50 * SECOND], [30 * SECOND, 80 * SECOND])
TRIALS = Intervals(np.arange(0, 80, 2) * SECOND, np.arange(2, 82, 2) * SECOND)


@pytest.fixture(scope="module")
def session():
    """80 s of a behaviour that can be decoded, in trials of 2 s."""
    return replace(decodable_session("new0", 2, seconds=80), intervals={"trials": TRIALS})


def apart(session, made):
    """Spikes of each session that lie in ``TIME``, and whether the others are the same."""
    inside = [holds(TIME, s.spikes.time_ns) for s in (session, made)]
    rest = [
        np.column_stack([s.spikes.time_ns, s.spikes.unit])[~i] for s, i in zip((session, made), inside, strict=True)
    ]
    assert np.array_equal(*rest), "what lies outside of the perturbed time has changed"
    return [(s.spikes.time_ns[i], s.spikes.unit[i]) for s, i in zip((session, made), inside, strict=True)]


# ---- spikes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_level_changes_nothing_and_a_seed_gives_one_result(session, kind):
    same = perturb(session, TIME, kind, KINDS[kind].plain, 0)
    assert np.array_equal(same.spikes.time_ns, session.spikes.time_ns)
    assert np.array_equal(same.spikes.unit, session.spikes.unit)
    last = KINDS[kind].levels[-1]
    one, two, other = (perturb(session, TIME, kind, last, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.spikes.time_ns, two.spikes.time_ns)
    assert np.array_equal(one.spikes.unit, two.spikes.unit)
    drawn = not np.array_equal(one.spikes.unit, other.spikes.unit)
    assert drawn == (kind != "time_shift")


def test_lost_units_are_silent_and_the_same_at_a_higher_level(session):
    silent = []
    for level, n in ((10, 1), (25, 3), (50, 6)):
        before, (time_ns, unit) = apart(session, perturb(session, TIME, "units_lost", level, 0))
        gone = set(range(12)) - set(unit.tolist())
        assert len(gone) == n
        kept = ~np.isin(before[1], list(gone))
        assert np.array_equal(time_ns, before[0][kept])
        silent.append(gone)
    assert silent[0] < silent[1] < silent[2]


def test_permuted_channels_carry_whole_trains_of_others(session):
    before, (time_ns, unit) = apart(session, perturb(session, TIME, "permuted", 50, 0))
    old, new = ([t[u == k].tolist() for k in range(12)] for t, u in (before, (time_ns, unit)))
    assert sorted(old) == sorted(new)
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 6
    _, (time_ns, unit) = apart(session, perturb(session, TIME, "permuted", 100, 0))
    assert all(time_ns[unit == k].tolist() != old[k] for k in range(12))


@pytest.mark.parametrize("level", KINDS["gain"].levels)
def test_gain_scales_rates_by_its_level_and_copies_lie_near(session, level):
    before, after = apart(session, perturb(session, TIME, "gain", level, 0))
    n = len(before[0])
    assert abs(len(after[0]) - level * n) < 4 * np.sqrt(n)
    if level == 2:
        assert len(after[0]) == 2 * n
    for k in range(12):
        old, new = before[0][before[1] == k], after[0][after[1] == k]
        if level >= 1:
            assert np.isin(old, new).all()
            row = np.clip(np.searchsorted(old, new), 1, len(old) - 1)
            nearest = np.minimum(abs(new - old[row - 1]), abs(new - old[row]))
            assert nearest.max() <= JITTER_NS
        else:
            assert np.isin(new, old).all()


@pytest.mark.parametrize("level", [-50, 50])
def test_drift_grows_linearly_over_the_session(session, level):
    before, after = apart(session, perturb(session, TIME, "rate_drift", level, 0))
    for low, high in ((10, 30), (50, 65), (65, 80)):
        old, new = (int(((t >= low * SECOND) & (t < high * SECOND)).sum()) for t, _ in (before, after))
        assert new / old == pytest.approx(1 + level / 100 * (low + high) / 160, abs=4 / np.sqrt(old))


def test_a_shift_moves_all_that_lands_in_the_time_and_no_spikes_are_none(session):
    _, (time_ns, unit) = apart(session, perturb(session, TIME, "time_shift", 200, 0))
    moved = session.spikes.time_ns + 200_000_000
    there = holds(TIME, moved)
    assert np.array_equal(time_ns, moved[there])
    assert np.array_equal(np.sort(unit), np.sort(session.spikes.unit[there]))
    assert len(apart(session, perturb(session, TIME, NO_SPIKES, 0, 0))[1][0]) == 0


def test_what_a_session_cannot_take_is_one_clear_line(session):
    few = take_units(session, np.arange(12) < 3)
    with pytest.raises(DataError, match="made/new0 has 3 units, a share of them needs at least 4"):
        perturb(few, TIME, "units_lost", 25, 0)
    spans = np.tile([[0, 80 * SECOND]], (12, 1))
    own = replace(session, unit_observed=Ragged(spans, np.arange(13)))
    with pytest.raises(DataError, match="units were observed at different times"):
        perturb(own, TIME, "permuted", 10, 0)
    assert len(perturb(replace(session, units=UnitTable(session.units.id)), TIME, "gain", 0.5, 0).spikes)


def test_kinds_are_asked_for_by_name():
    assert stress_settings("all") == StressSettings()
    assert stress_settings("gain, units_lost", calibration=True) == StressSettings(("units_lost", "gain"), True)
    with pytest.raises(UnknownNameError, match="did you mean 'gain'"):
        stress_settings("gein")
    with pytest.raises(UsageError, match="names no kind"):
        stress_settings(",")


@pytest.mark.parametrize("scheme", ["per-spike", "binned"])
def test_what_is_baked_again_is_what_the_shard_holds(session, scheme, tmp_path):
    reader = bake(tmp_path, session, scheme)
    again = bake_like(reader, session, tmp_path / "again")
    assert {name: column.tobytes() for name, column in again.columns.items()} == {
        name: column.tobytes() for name, column in reader.columns.items()
    }
    assert again.context.path == reader.context.path


# ---- rows -----------------------------------------------------------------------------------------------------------


class Clock(Toy):
    """Cheats: says what the behaviour was at each window's start, whatever the spikes are."""

    def __init__(self, signal, target) -> None:
        super().__init__()
        self.signal, self.target = signal, target

    def forward(self, batch):
        asked = batch.asked[TASK]
        start = np.repeat(batch.start_ns, np.diff(asked.offset.numpy()))
        said = np.column_stack([np.interp(start, self.signal.time_ns, v) for v in self.signal.value.T])
        return {TASK: torch.from_numpy((said - self.target.mean) / self.target.std).float()}


@pytest.fixture(scope="module")
def linear(session, tmp_path_factory):
    """A linear decoder of another day, and the shards of the session."""
    folder = tmp_path_factory.mktemp("stress")
    config = load_config("linear", None, ["data.window_ms=500"])
    train(config, [bake_tokens(folder, decodable_session("day0", 1), "binned")], folder / "run")
    return load_run(folder / "run"), bake_tokens(folder, session, "binned")


def stressed(linear, session, settings, **options):
    run, tokens = linear
    cheat = replace(run, model=Clock(session.signals["hand_vel"], run.tasks[0].target))
    stored = {session.id: session}.get
    rows = {"protocols": ["zero_shot"], "calibration_s": 15, "stored": stored, "stress": settings} | options
    return evaluate_transfer(cheat, [tokens], **rows)


@pytest.fixture(scope="module")
def cheated(linear, session):
    """A cheat in the row ``zero_shot``, beside the floor, under one kind of stress."""
    return stressed(linear, session, StressSettings(("permuted",)))


@pytest.fixture(scope="module")
def everything(linear, session):
    """The same under all kinds."""
    return stressed(linear, session, StressSettings())


def level_scores(result, protocol, kind):
    return [r[R2] for r in result.stress.stress if (r["protocol"], r["kind"]) == (protocol, kind)]


def control(result, protocol, name):
    (row,) = [r for r in result.stress.controls if (r["protocol"], r["control"]) == (protocol, name)]
    return row


def test_a_decoder_that_reads_the_clock_is_caught_and_one_that_reads_spikes_is_not(cheated, session):
    score = cheated.cell(session.id, "zero_shot", TASK).score[R2]
    assert score > 0.5, "the cheat must look good, or nothing is shown"
    assert set(level_scores(cheated, "zero_shot", "permuted")) == {score}, "no stress of spikes moves it"
    assert control(cheated, "zero_shot", NO_SPIKES)["score"] == score
    lines = [line for line in cheated.stress.told if line.startswith("shortcut?")]
    assert [line for line in lines if "zero_shot of made/new0" in line and "reads no spikes" in line]
    assert not [line for line in lines if "linear" in line]
    honest = cheated.cell(session.id, "linear", TASK).score[R2]
    assert honest > 0.5 > 0.1 > control(cheated, "linear", NO_SPIKES)["score"]
    assert control(cheated, "linear", "labels_shifted")["p"] < 0.01
    assert level_scores(cheated, "linear", "permuted")[-1] < 0.3


@pytest.mark.long
def test_spikes_are_what_a_decoder_of_them_lives_of(everything, session):
    score = everything.cell(session.id, "linear", TASK).score[R2]
    cheat = everything.cell(session.id, "zero_shot", TASK).score[R2]
    for kind, facts in KINDS.items():
        found = level_scores(everything, "linear", kind)
        assert found[facts.levels.index(facts.plain)] == score
        assert len(set(found)) == len(facts.levels)
        assert set(level_scores(everything, "zero_shot", kind)) == {cheat}
    assert level_scores(everything, "linear", "permuted")[-1] < 0.3 < score
    assert level_scores(everything, "linear", "units_lost")[-1] < score


def test_a_row_of_unchanged_spikes_is_the_row(linear, session):
    """Through perturbation, bake and prediction: the level is one that changes nothing and is not told as plain."""
    plain, KINDS["gain"] = KINDS["gain"], replace(KINDS["gain"], levels=(1, 2), plain=2)
    try:
        found = stressed(linear, session, StressSettings(("gain",)))
    finally:
        KINDS["gain"] = plain
    assert level_scores(found, "linear", "gain")[0] == found.cell(session.id, "linear", TASK).score[R2]


@pytest.mark.long
def test_a_perturbed_calibration_is_learned_from(linear, session, cheated):
    found = stressed(linear, session, StressSettings(("permuted",), calibration=True))
    assert level_scores(found, "linear", "permuted")[0] == level_scores(cheated, "linear", "permuted")[0]
    assert level_scores(found, "linear", "permuted")[-1] > 0.5 > level_scores(cheated, "linear", "permuted")[-1]
    assert control(found, "linear", NO_SPIKES) == control(cheated, "linear", NO_SPIKES)


def test_calibration_is_left_alone_with_all_that_its_windows_touch(linear, session):
    run, tokens = linear
    divided = _transfer_session(run, tokens, 15)
    time = scored_time(divided, session)
    assert time.intersect(divided.splits["calibration"]).total_ns == 0
    assert without(divided.splits["test"], time).total_ns == 0
    assert time.total_ns >= 80 * SECOND - 15 * SECOND - 2 * (divided.reach.back_ns + divided.reach.ahead_ns)


def test_a_session_that_is_not_in_the_store_says_so(linear, session):
    found = stressed(linear, session, StressSettings(("gain",)), stored=None)
    assert level_scores(found, "linear", "gain")[0] is None
    (line,) = [line for line in found.stress.lines() if line.startswith("no stress gain")]
    assert "zero_shot of made/new0, linear of made/new0: made/new0 is not in the store" in line


def test_without_stress_nothing_is_added_and_with_it_nothing_else_changes(linear, session, cheated):
    plain = stressed(linear, session, None)
    assert plain.stress is None
    assert [c.score for c in plain.cells] == [c.score for c in cheated.cells]


@pytest.mark.long
def test_the_report_holds_it_all(everything, tmp_path):
    report = write_report(everything, tmp_path / "with")
    page, body = (
        (tmp_path / "with" / "report.html").read_text(),
        json.loads((tmp_path / "with/report.json").read_text()),
    )
    assert [len(body[name]) for name in ("stress", "controls", "intervals")] == [2 * 23, 2 * 7, 2 * 2 * 6]
    assert body["stressed"]["kinds"].keys() == KINDS.keys()
    assert page.count("<img") == 1 + 1 + 3  # bars and traces; levels, controls and coverage
    for word in ("units lost", "time shift", "labels_shuffled", "What a cheat would get", "reads no spikes"):
        assert word in page
    titles = [title for title, _, _ in report.tables]
    for title, what in zip(titles[1:], ("stress of", "what a cheat would get of", "share of"), strict=True):
        assert title.startswith(f"{what} {TASK}")
    assert [line for line in report.remarks if line.startswith("shortcut? zero_shot")]
    write_report(replace(everything, stress=None), tmp_path / "without")
    bare = json.loads((tmp_path / "without" / "report.json").read_text())
    assert not bare.keys() & {"stress", "stressed", "controls", "intervals"}


def test_intervals_are_of_what_a_row_did_not_learn_from(cheated):
    """The cheat learns nothing and has all 30 half seconds of the calibration; the ridge keeps the last 10 of them."""
    rows = {(r["protocol"], r["component"], r["level"]): r for r in cheated.stress.intervals}
    assert {r["blocks"] for r in cheated.stress.intervals if r["protocol"] == "zero_shot"} == {30}
    ridge = [r for r in cheated.stress.intervals if r["protocol"] == "linear"]
    assert {r["blocks"] for r in ridge} == {10}
    assert rows["linear", "x", 0.9]["coverage"] is not None
    too_few = rows["linear", "x", 0.95]
    assert (too_few["coverage"], too_few["half_width"]) == (None, None)
    assert too_few["reason"] == "95% needs 19 blocks of 500 ms, the calibration gives 10"


# ---- every model that decodes ---------------------------------------------------------------------------------------

TINY = {
    "poyo": ["model.dim_head=8", "model.self_heads=2", "model.latents_per_step=2", "data.window_ms=500"],
    "possm": ["model.dim_head=8", "model.rnn_dim=16", "data.window_ms=500"],
    "ndt1": ["model.heads=2", "model.hidden=16", "model.layers=1", "data.window_ms=500"],
    "spint": [
        *("model.heads=2", "model.hidden=16", "model.history_bins=8", "model.calibration_trials=3"),
        *("model.calibration_length=20", "data.batch_size=64"),
    ],
}
ROW = {"spint": "zero_gradient", "ndt1": "identity_only"}  # ndt1 has no zero_shot: its read-in is a session's own


@pytest.mark.long
@pytest.mark.parametrize("name", TINY)
def test_a_model_is_asked_anew_with_the_spikes_that_it_reads(name, tmp_path, monkeypatch):
    """Unchanged spikes give the row's score again, to the bit; with none of them it still answers, and otherwise."""
    sets = ["model.dim=16", "optim.steps=3", "data.batch_size=8", "transfer.identity_steps=2", *TINY[name]]
    config, session = load_config(name, None, sets, [TASK]), decodable_session("new0", 2)
    day, new = (tokens_for(tmp_path, s, config) for s in (decodable_session("day0", 1), session))
    train(config, [day], tmp_path / "run")
    monkeypatch.setitem(KINDS, "gain", replace(KINDS["gain"], levels=(1, 2), plain=2))
    row = ROW.get(name, "zero_shot")
    asked = {"calibration_s": 10, "stored": {session.id: session}.get, "stress": StressSettings(("gain",))}
    found = evaluate_transfer(load_run(tmp_path / "run"), [new], protocols=[row], **asked)
    cell = found.cell(session.id, row, TASK)
    assert level_scores(found, row, "gain")[0] == cell.score[R2]
    bare = control(found, row, NO_SPIKES)
    assert bare["reason"] == "" and bare["score"] != cell.score[R2]
    assert [r["coverage"] for r in found.stress.intervals if r["protocol"] == row and r["level"] == 0.8]


@pytest.mark.long
def test_counts_of_the_same_spikes_are_not_stressed_and_say_so(session, tmp_path):
    sets = ["model.dim=16", "model.heads=2", "model.hidden=16", "model.layers=1", "optim.steps=2", "data.window_ms=500"]
    sets += ["transfer.identity_steps=2"]
    config = load_config("ndt1", None, sets, ["population", TASK])
    day, new = (tokens_for(tmp_path, s, config) for s in (decodable_session("day0", 1), session))
    train(config, [day], tmp_path / "run")
    asked = {"calibration_s": 15, "stored": {session.id: session}.get, "stress": StressSettings(("units_lost",))}
    found = evaluate_transfer(load_run(tmp_path / "run"), [new], protocols=["identity_only"], **asked)
    assert {r["task"] for r in found.stress.stress} == {TASK}
    (line,) = [line for line in found.stress.told if "population" in line]
    assert "not stressed: the truth of 'population' is made of the spikes" in line
