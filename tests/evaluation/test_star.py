"""The star table: jitter, shares, times and stars by slow twins and formulas; records that are kept; the command."""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.cli.console import show_rows  # noqa: E402
from spiketok.errors import DataError, UnknownNameError, UsageError  # noqa: E402
from spiketok.evaluation import star  # noqa: E402
from spiketok.evaluation.star import compare_models, measuring  # noqa: E402
from spiketok.evaluation.star.apart import apart, peak_bytes, step_times  # noqa: E402
from spiketok.evaluation.star.entrants import Chosen, Entrant, configs, require_same  # noqa: E402
from spiketok.evaluation.star.jitter import jitter_scores, jittered  # noqa: E402
from spiketok.evaluation.star.measuring import How, best  # noqa: E402
from spiketok.evaluation.star.page import write_page, write_picture  # noqa: E402
from spiketok.evaluation.star.results import COLUMNS, COST, WORTH, Measured, StarTable, legend  # noqa: E402
from spiketok.evaluation.star.scores import mean_r2, share_needed  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable  # noqa: E402
from spiketok.storage.store import write_session  # noqa: E402
from spiketok.storage.workspace import Workspace  # noqa: E402
from spiketok.training.checkpoints import Run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import build_model, prepare  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.sampling import SessionTokens  # noqa: E402
from spiketok.training.sessions import Stretches  # noqa: E402
from tests.cli.test_cli import spiketok  # noqa: E402
from tests.decodable import bake, decodable_session  # noqa: E402

MS = 1_000_000


# ---- jitter ---------------------------------------------------------------------------------------------------------


def spread_out(time_ns: np.ndarray, stop_ns: int, observed: Intervals | None = None) -> Session:
    """One unit with these spikes."""
    whole = Intervals([0], [stop_ns])
    spikes = Spikes(time_ns, np.zeros(len(time_ns), np.int32))
    return Session(
        id="made/one", subject="s", start_ns=0, stop_ns=stop_ns, units=UnitTable(["a"]), spikes=spikes,
        observed=observed or whole, source=Source("one.nwb", "0" * 64, 1),
    )  # fmt: skip


def reflected(time: int, start: int, stop: int) -> int:
    """The slow twin: mirrored at the ends until it is inside."""
    while not start <= time < stop:
        time = 2 * start - time - 1 if time < start else 2 * stop - 1 - time
    return time


def test_jitter_moves_by_a_gaussian_of_its_size_and_larger_jitters_move_the_same_way():
    at = (np.arange(20_000) + 1) * 1000 * MS  # too far apart to meet
    session, whole = spread_out(at, 30_000_000 * MS), Intervals([0], [30_000_000 * MS])
    moved = {ms: jittered(session, whole, ms * MS, 7).spikes.time_ns - at for ms in (0, 5, 20)}
    assert not moved[0].any()
    assert moved[20].std() == pytest.approx(20 * MS, rel=0.02)
    assert abs(moved[20].mean()) < 0.5 * MS
    assert np.abs(moved[20] - 4 * moved[5]).max() <= 3  # the rounding of one, four times
    again = jittered(session, whole, 20 * MS, 7).spikes.time_ns - at
    other = jittered(session, whole, 20 * MS, 8).spikes.time_ns - at
    assert np.array_equal(again, moved[20]) and not np.array_equal(other, moved[20])


def test_jitter_stays_within_observed_test_time_and_loses_no_spike():
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 1000 * MS, 3000))
    observed = Intervals([0, 500 * MS], [400 * MS, 1000 * MS])
    at = at[(at < 400 * MS) | (at >= 500 * MS)]
    session = spread_out(at, 1000 * MS, observed)
    found = jittered(session, Intervals([300 * MS, 600 * MS], [550 * MS, 700 * MS]), 400 * MS, 3).spikes.time_ns
    draw = np.random.default_rng([3, zlib.crc32(b"made/one")]).standard_normal(len(at))
    wanted = at.copy()
    for start, stop in ((300, 400), (500, 550), (600, 700)):
        for k in np.flatnonzero((at >= start * MS) & (at < stop * MS)):
            wanted[k] = reflected(int(at[k] + np.rint(draw[k] * 400 * MS)), start * MS, stop * MS)
    assert np.array_equal(found, np.sort(wanted))
    outside = lambda t: t[(t < 300 * MS) | (t >= 700 * MS) | ((t >= 550 * MS) & (t < 600 * MS))]  # noqa: E731
    assert np.array_equal(outside(found), outside(at))


@pytest.mark.long  # it trains and decodes five times
def test_a_run_decodes_unmoved_spikes_as_ever_and_spikes_moved_by_half_a_second_worse(tmp_path):
    session = decodable_session("day0", 0, n_units=24, seconds=24.0)
    config = load_config("linear", None, ["data.window_ms=600", "model.lags=10"])
    tokens = SessionTokens({"counts": bake(tmp_path, session, "binned")})
    divided, tasks = prepare(config, [tokens])
    model = build_model(config, tasks, divided)
    model.fit(Stretches(divided, "train"))
    run = Run(tmp_path, config, model.eval(), tuple(tasks), (), 1, 1, "", {})
    found = jitter_scores(run, [tokens], [500.0], lambda name: session)
    answers = predict(model, divided[0], "test", config)
    assert found[0.0] == mean_r2(tasks, {"s": {name: answers.score(name) for name in answers}})
    assert found[0.0] > 0.5 and found[500.0] < found[0.0] - 0.2, found


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_the_share_that_is_needed_is_where_the_line_crosses():
    scores = {0.125: 0.2, 0.25: 0.5, 0.5: 0.72, 1.0: 0.75}
    needed, why = share_needed(scores)
    assert why == "" and 0.25 < needed < 0.5
    assert np.interp(needed, sorted(scores), [scores[s] for s in sorted(scores)]) == pytest.approx(0.9 * 0.75)
    assert share_needed({1.0: 0.7, 0.5: None}) == (1.0, "the share below has no score")
    assert share_needed({1.0: -0.1, 0.5: 0.3})[0] is None


def test_training_time_is_of_all_steps_also_where_some_were_timed():
    each, fixed = 0.25, 3.0  # CPU seconds a step, and before the first
    marks = [("start", 0, 100.0, 0.0)] + [("step", n, 100 + fixed + each * n, 2 * n) for n in (10, 20, 30)]
    found = step_times(marks, 400, 16)
    assert found["cpu_s"] == pytest.approx(fixed + 400 * each)
    assert found["cpu_ms_per_window"] == pytest.approx(1000 * each / 16)
    assert (found["steps"], found["timed_steps"]) == (400, 30)
    closed = step_times([("start", 0, 1.0, 1.0), ("checkpoint", 1, 3.5, 9.0)], 1, 64)
    assert (closed["cpu_s"], closed["wall_s"], closed["cpu_ms_per_window"]) == (2.5, 8.0, None)


def test_the_best_row_is_of_its_kind_of_calibration_and_never_the_floor():
    scores = {"zero_shot": 0.1, "identity_unlabelled": 0.3, "identity_only": 0.5, "full": None, "linear": 0.9}
    assert best(scores, ("labelled",)) == {"protocol": "identity_only", "r2": 0.5}
    assert best(scores, ("none", "unlabelled")) == {"protocol": "identity_unlabelled", "r2": 0.3}
    assert best({"linear": 0.9, "full": None}, ("labelled",)) is None


def facts(r2: float = 0.8, **others: object) -> dict[str, dict]:
    """What a run may have been measured."""
    return {
        "train": {"r2": r2, "parameters": 123_456, "cpu_s": 1234.5, "peak_bytes": 700_000_000, "before_bytes": 4e8,
                  "threads": 1, "steps": 300, "timed_steps": 300},
        "decode": {"cpu_ms_per_s": 123.4, "peak_bytes": 600_000_000, "before_bytes": 400_000_000},
        "data": {"shares": {"0.125": 0.2, "0.25": 0.5, "0.5": 0.7, "1": r2}, "needed": 0.4567, "needed_note": ""},
        "latency": {"chunks": {"20": {"p50_ms": 12.34, "p99_ms": 45.6, "cpu_p50_ms": 11.0}}},
        "jitter": {"r2": {"0": r2, "1": r2, "5": 0.79, "20": 0.6, "50": 0.2}},
        "transfer": {"scores": {"identity_only": 0.6, "full": None, "linear": 0.71}, "reasons": {"full": "no <row>"},
                     "floor": 0.71, "best_labelled": {"protocol": "identity_only", "r2": 0.6}, "best_unlabelled": None},
        "generation": {"generates": True, "population_distance": {"sample": 0.3, "poisson": 0.6, "training": 0.1}},
        "run": {"run": "poyo-0123456789", "checkpoint_digest": "ab" * 32, "steps": 300, "size": "tiny"},
    } | others  # fmt: skip


SETTINGS = {
    "sessions": ["made/a"], "held_out": ["made/b"], "session_digests": {"made/a": "0" * 64, "made/b": "1" * 64},
    "most_steps": 300, "most_cpu_s": None, "calibration_s": 30.0,
}  # fmt: skip


def table() -> StarTable:
    silent = facts(generation={"generates": False}, latency={"reason": "cannot be decoded live"})
    runs = [Measured("neuroformer", 42, facts=facts(0.8)), Measured("neuroformer", 43, facts=facts(0.9))]
    return StarTable(SETTINGS, [*runs, Measured("ndt1", 42, facts=silent), Measured("capoyo", 42, "no <signal>")])


def test_numbers_are_those_of_the_facts():
    found = table()
    mean, sd = found.mean("neuroformer", "accuracy")
    assert (mean, sd) == (pytest.approx(0.85), pytest.approx(np.std([0.8, 0.9], ddof=1)))
    assert found.mean("ndt1", "jitter") == (pytest.approx(0.6 / 0.8), None)
    assert found.mean("ndt1", "transfer")[0] == pytest.approx(0.6 - 0.71)
    assert found.mean("ndt1", "memory")[0] == pytest.approx(3e8)
    assert found.mean("neuroformer", "generation")[0] == pytest.approx(0.5)
    row = {row["model"]: row for row in found.rows(list(COLUMNS))}
    assert (row["ndt1"]["gen"], row["ndt1"]["lat"], row["neuroformer"]["lat"]) == ("no", "-", "12.3")
    assert (row["neuroformer"]["R2"], row["ndt1"]["new"], row["ndt1"]["k par"]) == (".85", "-.11", "123")
    assert set(row["capoyo"].values()) == {"capoyo", "-"}


def test_stars_follow_the_stated_limits_alone():
    for column in COLUMNS.values():
        for n, limit in zip((5, 4, 3, 2), column.limits, strict=True):
            step = 1e-9 * max(abs(limit), 1.0) * (1 if column.rising else -1)
            assert column.stars(limit) == n and column.stars(limit + step) == n
            assert column.stars(limit - step) == n - 1
        assert column.stars(None) is None
        assert sorted(column.limits, reverse=column.rising) == list(column.limits)
    assert table().stars("ndt1", "latency") is None
    assert table().stars("ndt1", "accuracy") == 4


def test_what_has_no_number_has_a_reason():
    lines = table().reasons()
    assert "ndt1: lat: cannot be decoded live" in lines
    assert any(line.startswith("capoyo: R2, data, k par") and line.endswith("no <signal>") for line in lines)
    busy = facts(latency={"chunks": {"20": {"p50_ms": 50.0, "p99_ms": 99.0, "cpu_p50_ms": 5.0}}})
    assert "busy" in StarTable(SETTINGS, [Measured("a", 42, facts=busy)]).reasons()[0]


def test_the_tables_fit_into_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for rows in (table().rows(WORTH), table().rows(COST), table().star_rows()):
        show_rows("a title", list(rows[0]), rows)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        assert max(map(len, lines)) <= 80
        for row in rows:  # each on one line, whole
            assert any(line.split() == [*row.values()] for line in lines), (row, lines)
    assert {*WORTH, *COST} == {*COLUMNS} and len(legend()) == len(COLUMNS)


def test_json_holds_the_digests_and_every_number():
    body = json.loads(json.dumps(table().to_json(), allow_nan=False))
    assert body["settings"]["session_digests"]["made/b"] == "1" * 64
    assert body["runs"][0]["run"]["checkpoint_digest"] == "ab" * 32
    assert body["models"][0]["mean"]["accuracy"] == pytest.approx(0.85)


@pytest.mark.long
def test_the_page_holds_all_that_it_shows_and_is_the_same_again(tmp_path):
    for name in ("a", "b"):
        write_page(table(), tmp_path / f"{name}.html")
    write_picture(table(), tmp_path / "a.svg")
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert (tmp_path / "a.svg").stat().st_size > 10_000
    assert "http" not in page.split("<body>")[1]
    assert 'src="data:image/png;base64,' in page and "no &lt;signal&gt;" in page and "no <" not in page
    assert "★★★★☆" in page


# ---- who takes part -------------------------------------------------------------------------------------------------


def test_a_model_takes_part_as_train_would_make_its_run():
    (found,) = configs("poyo", ["data.window_ms=500", "poyo.model.latent_step_ms=250", "ndt1.seed=3"], None, 1)
    made = load_config("poyo", None, ["data.window_ms=500", "model.latent_step_ms=250"])
    assert found.fingerprint() == made.fingerprint()
    assert [config.seed for config in configs("ndt1", [], None, 3)] == [42, 43, 44]
    assert configs("ndt1", [], "decode:hand_vel", 1)[0].tasks == ("population", "decode:hand_vel")
    assert configs("neuroformer", [], None, 1)[0].tasks == ("events", "decode")
    assert all(configs(name, [], None, 1) for name in MODELS)


def test_runs_of_other_sessions_are_refused():
    config = load_config("linear")
    one, other = (Entrant(n, config, sessions) for n, sessions in (("a", ("x", "y")), ("b", ("x", "z"))))
    require_same([one, replace(other, sessions=("y", "x"))])
    with pytest.raises(UsageError, match="b is trained on x, z, a on x, y"):
        require_same([one, other])
    require_same([one, Entrant("c", load_config("stndt"), ("x",))])


def test_what_is_asked_wrongly_is_refused_in_a_line(tmp_path):
    asked = spiketok(tmp_path, "compare", "--models", "linear", "--scheme", "binned", code=2).stderr
    assert "--scheme goes with schemes, not with --models" in asked
    assert "--steps goes with --models" in spiketok(tmp_path, "compare", "--steps", 3, code=2).stderr
    workspace = Workspace(tmp_path)
    with pytest.raises(UsageError, match="each once"):
        compare_models(workspace, ["poyo", "poyo"], tmp_path)
    with pytest.raises(UnknownNameError, match="measure 'lateness'"):
        compare_models(workspace, ["poyo"], tmp_path, measures=["lateness"])
    with pytest.raises(UsageError, match="--seconds is 0"):
        compare_models(workspace, ["poyo"], tmp_path, seconds=0.0)


# ---- what is kept ---------------------------------------------------------------------------------------------------


def test_a_measure_is_made_once_for_a_checkpoint_and_its_reason_is_kept(tmp_path, monkeypatch):
    made: list[str] = []
    monkeypatch.setitem(star.MEASURES, "decode", lambda how, one: {"n": made.append("decode") or len(made)})
    kept = star._Kept(tmp_path, How(Workspace(tmp_path), Chosen([], [])))
    one = Entrant("linear", load_config("linear"), run_dir=tmp_path / "linear-0")
    assert kept.get(one, "decode") is None
    assert kept.put(one, "decode") == {"n": 1} == kept.get(one, "decode")
    (one.run_dir / "checkpoint").mkdir(parents=True)
    (one.run_dir / "checkpoint" / "checkpoint.json").write_text("{}")
    assert kept.get(one, "decode") is None  # of another checkpoint
    kept.put(one, "decode")
    file = next((tmp_path / "measures").glob("*decode.json"))
    file.write_text(file.read_text().replace('"n": 2', '"n": 3'))
    assert kept.get(one, "decode") is None  # somebody wrote into it

    def refuses(how, one):
        raise DataError("it holds one session")

    def breaks(how, one):
        raise OSError("the disk is full")

    monkeypatch.setitem(star.MEASURES, "decode", refuses)
    assert kept.put(one, "decode") == kept.get(one, "decode") == {"reason": "it holds one session"}
    monkeypatch.setitem(star.MEASURES, "jitter", breaks)
    with pytest.raises(OSError, match="full"):
        kept.put(one, "jitter")
    assert kept.get(one, "jitter") is None


@pytest.mark.long
def test_a_process_of_its_own_answers_refuses_or_dies():
    assert apart(os.path.basename, "a/b") == "b"
    assert apart(peak_bytes) > 10_000_000
    with pytest.raises(DataError, match="decode:cursor_vel"):
        apart(load_refused, "x")
    with pytest.raises(DataError, match="ended with code 3"):
        apart(os._exit, 3)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        apart(divmod, 1, 0)


def test_maps_are_learned_also_where_rows_are_named(tmp_path, monkeypatch):
    """The trained sessions are at hand, whichever rows are asked for."""

    class Asked(BaseException):
        pass

    def evaluated(run, opened, **given):
        raise Asked(given["trained"]("of these"), given["protocols"])

    run = SimpleNamespace(model=SimpleNamespace(one_session=False), tasks=(), config=load_config("poyo"))
    monkeypatch.setattr(measuring, "_run", lambda one: run)
    monkeypatch.setattr(measuring, "open_shards", lambda workspace, chosen, config: ("opened", chosen))
    monkeypatch.setattr(measuring, "evaluate_transfer", evaluated)
    for rows in (None, ("mapped",)):
        with pytest.raises(Asked) as said:
            measuring.measure_transfer(How(Workspace(tmp_path), Chosen([], ["made/day2"]), protocols=rows), None)
        assert said.value.args == (("opened", "of these"), rows)


def load_refused(name: str) -> None:
    message = f"{name}: decode:cursor_vel"
    raise UsageError(message)


@pytest.mark.slow  # half a minute of CPU
def test_two_models_are_measured_and_nothing_is_measured_twice(tmp_path):
    workspace = Workspace(tmp_path)
    for day in range(3):
        made = decodable_session(f"day{day}", day, n_units=6, seconds=20.0)
        write_session(made, workspace.store_path(made.id))
    sets = ["data.window_ms=500", "data.batch_size=4", "transfer.identity_steps=2", "transfer.full_steps=2",
            "transfer.unfreeze_after=1", "linear.model.lags=5"]  # fmt: skip
    said: list[str] = []
    words = {"hold_out": "*day2", "sets": sets, "steps": 12, "calibration_s": 5.0, "protocols": ["full", "mapped"]}

    def measure() -> StarTable:
        said.clear()
        return compare_models(workspace, ["linear", "poyo"], tmp_path / "star", told=said.append, **words)

    first = measure()
    assert sum(", seed 42: " in line for line in said) == 2 * len(star.MEASURES)
    for label in ("linear", "poyo"):
        facts = first.of(label)[0].facts
        result = json.loads((workspace.runs / facts["run"]["run"] / "result.json").read_text())
        r2 = [own["decode:hand_vel"]["r2_variance_weighted"] for own in result["test"].values()]
        assert facts["train"]["r2"] == pytest.approx(np.mean(r2)) == pytest.approx(facts["jitter"]["r2"]["0"])
        assert facts["data"]["shares"]["1"] == facts["train"]["r2"]
        assert facts["latency"]["chunks"]["20"]["apart"] < 1e-4
        assert facts["decode"]["peak_bytes"] > facts["decode"]["before_bytes"] > 1e8
        assert facts["decode"]["recording_s"] == pytest.approx(2 * 0.2 * 20, rel=0.1)
    assert first.of("poyo")[0].facts["train"]["steps"] == 12
    assert first.mean("linear", "transfer")[0] is None and first.mean("poyo", "transfer")[0] is not None
    assert first.of("poyo")[0].facts["transfer"]["scores"]["mapped"] is not None  # the map is learned here too
    body = first.to_json()
    assert set(body["settings"]["session_digests"]) == {"made/day0", "made/day1", "made/day2"}
    again = measure()
    assert not [line for line in said if ", seed 42: " in line]
    assert again.to_json() == body
    next(Path(tmp_path / "star" / "measures").glob("poyo*jitter.json")).unlink()
    measure()
    assert [line for line in said if ", seed 42: " in line] == ["poyo, seed 42: jitter"]
    fresh = compare_models(workspace, [first.of("poyo")[0].facts["run"]["run"]], tmp_path / "star", **words)
    assert fresh.of(fresh.labels[0])[0].facts == first.of("poyo")[0].facts
