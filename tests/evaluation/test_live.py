"""Live decoding: over the registry, any cutting of a stream says what the causal stitching says offline."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, UsageError  # noqa: E402
from spiketok.evaluation.live import LiveDecoder  # noqa: E402
from spiketok.evaluation.stream import stream  # noqa: E402
from spiketok.models import MODELS  # noqa: E402
from spiketok.recording.nouns import FLUORESCENCE, Intervals, Session, Signal, Spikes, UnitTable  # noqa: E402
from spiketok.settings import typed  # noqa: E402
from spiketok.tokens.shards import ShardReader, write_shard  # noqa: E402
from spiketok.training.checkpoints import Run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import build_model, prepare  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.runs import run_inputs, scheme_of  # noqa: E402
from spiketok.training.sampling import Once, SessionTokens  # noqa: E402
from spiketok.training.sessions import DividedSession, Stretches  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.models.test_models import QUICK  # noqa: E402

SECOND = 1_000_000_000
HOLE = (10_013_000_000, 10_989_000_000)  # of test time, its edges inside of bins
SETS = ["data.window_ms=500", "data.bin_ms=20", "data.eval_step_ms=200", "data.batch_size=8", "data.stitch=causal"]
EACH = {  # what a model is set to beside its toy size, once or several times
    "apst": ["model.output_ema=0.3"],
    "ndt1": ["model.context_forward=0", "task.population.held_out=0.3", "model.local_ms=100 model.layers=3"],
    "ndt2": ["model.causal=true", "model.causal=true model.fine_time=true"],
    "neuroformer": ["tasks=['decode','events'] data.window_ms=100", "tasks=['decode'] data.window_ms=100"],
    "poyo_plus": ["tasks=['decode','classify:side']"],
    "possm": ["model.backbone=gru", "model.backbone=s4d", "model.backbone=mamba", "model.absolute_times=true"],
    "spint": [
        *("data.window_ms=20 data.eval_step_ms=20", "data.window_ms=200 data.eval_step_ms=80"),
        "data.window_ms=60 data.eval_step_ms=60 model.fine_time=true",
    ],
    "poyo_id": ["model.identity=spikes"],
}
REFUSED = {  # by model: why its default run is not decoded live
    "capoyo": "reads the behaviour fluorescence",
    "nuclr": "only decode tasks are asked of a stream",
    "onset": "only decode tasks are asked of a stream",
}
CASES = [
    pytest.param(name, sets, marks=[pytest.mark.long] if "fine_time" in sets else [])
    for name in MODELS
    if name not in REFUSED
    for sets in EACH.get(name, [""])
]


@cache
def recorded() -> Session:
    """12 s; within the test time some that was not observed, with spikes that are no spikes."""
    session = decodable_session("day0", 0, n_units=6, seconds=12.0)
    group = np.array([0, 0, 0, 1, 1, 1])
    noise, at = np.arange(*HOLE, 7_000_000), np.arange(0, 12 * SECOND, SECOND // 2)
    trials = Intervals(at, at + SECOND // 4, {"side": np.array(["left", "right"])[np.arange(len(at)) % 2]})
    frame_ns = np.arange(16_000_000, session.stop_ns, 33_000_000)
    names, known = tuple(session.units.id.astype(str).tolist()), np.ones(len(frame_ns), np.bool_)
    glow = Signal(frame_ns, np.zeros((len(frame_ns), 6), np.float32), names, "", known)
    time_ns = np.concatenate([session.spikes.time_ns, noise])
    unit = np.concatenate([session.spikes.unit, (np.arange(len(noise)) % 6).astype(np.int32)])
    order = np.lexsort((unit, time_ns))
    return replace(
        session,
        units=UnitTable(session.units.id, {"group": group, "region": np.array(["M1", "PMd"])[group]}),
        spikes=Spikes(time_ns[order], unit[order]),
        intervals={"trials": trials},
        signals={**session.signals, FLUORESCENCE: glow},
        observed=Intervals([0, HOLE[1]], [HOLE[0], session.stop_ns]),
    )


@pytest.fixture(scope="module")
def bake(tmp_path_factory):
    """The shards of the session by the inputs of a run, each made once."""
    folder, session, made = tmp_path_factory.mktemp("shards"), recorded(), {}

    def tokens_for(config) -> SessionTokens:
        windowed, once = {}, {}
        for name, wanted in run_inputs(config).items():
            scheme = scheme_of(wanted)
            if scheme not in made:
                target = folder / str(len(made)) / session.id
                whole = Intervals([session.start_ns], [session.stop_ns])
                write_shard(target, scheme, session, whole, segments_rule="continuous", store_digest="d" * 64)
                made[scheme] = ShardReader(target)
            if wanted.per == "session":
                once[name] = Once(made[scheme], wanted.most, wanted.choose)
            else:
                windowed[name] = made[scheme]
        return SessionTokens(windowed, once)

    return tokens_for


def run_of(name: str, bake, *sets: str) -> tuple[Run, DividedSession]:
    """A run before its first step, with weights that are no start: what they say differs from time to time."""
    size = ["size=tiny"] if "tiny" in MODELS[name].sizes else []
    config = load_config(name, None, [*size, *(f"model.{k}={typed(v)}" for k, v in QUICK[name].items()), *SETS, *sets])
    (divided,), tasks = prepare(config, [bake(config)])
    model = build_model(config, tasks, [divided])
    model.fit(Stretches([divided], "train"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Run(None, config, model.eval(), tuple(tasks), (), 0, 0, "", {}), divided


def pieces_of(size: int, rng: np.random.Generator) -> list[slice]:
    """A stream cut at random, with empty pieces, and a stretch of it one by one."""
    some, single = rng.integers(0, size + 1, 20), np.arange(min(30, size))
    cuts = np.sort(np.concatenate([some, some[:5], single + rng.integers(size - len(single) + 1)]))
    return [slice(a, b) for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), size], strict=True)]


def streamed(decoder: LiveDecoder, session: Session, seed: int) -> dict[int, np.ndarray]:
    """What a decoder says of a session, by time, for the stream cut at random; time is said to pass now and then."""
    rng, (task,) = np.random.default_rng(seed), decoder.tasks
    rows = slice(*np.searchsorted(session.spikes.time_ns, [decoder.start_ns - SECOND, decoder.stop_ns]))
    time_ns, unit = session.spikes.time_ns[rows], session.spikes.unit[rows]
    found = []
    for piece in pieces_of(len(time_ns), rng):
        until = int(time_ns[piece.stop]) if piece.stop < len(time_ns) else decoder.stop_ns
        found += decoder.push(time_ns[piece], unit[piece], until if rng.random() < 0.3 else None)
    found += decoder.finish(decoder.stop_ns)
    pairs = [(t, v) for d in found for t, v in zip(d.time_ns[task.name].tolist(), d.value[task.name], strict=True)]
    assert len(dict(pairs)) == len(pairs)  # no time is answered twice
    assert [t for t, _ in pairs] == sorted(t for t, _ in pairs)
    return dict(pairs)


def assert_says_the_same(run: Run, live: dict[int, np.ndarray], offline) -> None:
    """At all times of the offline prediction, to 1e-5; a model that carries also says the rest of each stretch."""
    times = offline.time_ns.tolist()
    assert set(times) <= set(live) if run.model.carries else times == sorted(live)
    said = np.array([live[t] for t in times])
    most = np.abs(offline.predicted).max()
    assert np.abs(said - offline.predicted).max() <= 1e-5 * most
    assert (offline.predicted.std(axis=0) > 0.02 * most).all()  # what would not move would be equal to anything
    assert not any(HOLE[0] <= t < HOLE[1] for t in live)  # not observed
    longest = run.config.data.window_ns if run.model.carries else 0
    assert len(live) <= len(times) + 2 * longest // 10_000_000


@pytest.mark.parametrize(("name", "sets"), CASES, ids=lambda value: value.replace(" ", "-") or "default")
def test_live_equals_offline_for_random_pieces(name, sets, bake):
    run, divided = run_of(name, bake, *sets.split())
    task = next(task for task in run.tasks if task.kind == "decode")
    offline = predict(run.model, divided, "test", run.config, modes=False)[task.name]
    session, windows = recorded(), divided.windows("test")
    for seed in (0, 1) if name == "linear" else (0,):
        decoder = LiveDecoder(run, divided.tokens, session, divided.calibration, windows=windows)
        assert_says_the_same(run, streamed(decoder, session, seed), offline)


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_streamed_are_refused(name, bake):
    run, divided = run_of(name, bake)
    with pytest.raises(UsageError, match=REFUSED[name]):
        LiveDecoder(run, divided.tokens, recorded(), divided.calibration)


def test_a_plan_says_where_windows_lie_and_a_gap_where_it_did_not_know(bake):
    """The same predictions as offline behind the gap, whether the plan knows it or the stream tells it."""
    run, divided = run_of("poyo", bake)
    (task,) = run.tasks
    offline = predict(run.model, divided, "test", run.config)[task.name]
    session, spikes = recorded(), recorded().spikes
    start_ns = int(divided.windows("test").start_ns[0])
    with pytest.raises(DataError, match="the plan has no signal 'hand_vel'"):
        LiveDecoder(run, divided.tokens, replace(session, signals={}), divided.calibration)
    planned = LiveDecoder(run, divided.tokens, session, divided.calibration, start_ns)
    assert_says_the_same(run, streamed(planned, session, 0), offline)
    unknown = replace(session, observed=Intervals([0], [session.stop_ns]))
    told = LiveDecoder(run, divided.tokens, unknown, divided.calibration, start_ns)
    rows = np.searchsorted(spikes.time_ns, [start_ns, *HOLE, session.stop_ns]).tolist()
    before, behind = slice(rows[0], rows[1]), slice(rows[2], rows[3])
    found = told.push(spikes.time_ns[before], spikes.unit[before]) + told.gap(*HOLE)
    found += told.push(spikes.time_ns[behind], spikes.unit[behind]) + told.finish(session.stop_ns)
    live = {t: v for d in found for t, v in zip(d.time_ns[task.name].tolist(), d.value[task.name], strict=True)}
    assert_says_the_same(run, live, offline)


def test_each_run_of_a_state_begins_where_the_stream_does(bake):
    """Behind a gap a model that carries knows nothing of what was before it."""
    run, divided = run_of("possm", bake)
    session, spikes, (task,) = recorded(), recorded().spikes, run.tasks
    whole = streamed(LiveDecoder(run, divided.tokens, session, divided.calibration, 9 * SECOND), session, 0)
    late = replace(session, observed=Intervals([HOLE[1]], [session.stop_ns]))
    alone = streamed(LiveDecoder(run, divided.tokens, late, divided.calibration), session, 1)
    assert len(alone) > 90
    for t, value in alone.items():
        np.testing.assert_allclose(whole[t], value, rtol=0, atol=1e-4)
    rows = spikes.time_ns >= HOLE[1]
    decoder = LiveDecoder(run, divided.tokens, late, divided.calibration)
    (first,) = decoder.push(spikes.time_ns[rows], spikes.unit[rows], None)[:1]
    assert first.start_ns == HOLE[1] and len(first.time_ns[task.name]) == 5  # a chunk of 50 ms, samples of 10 ms


@pytest.mark.parametrize(("name", "piece"), [("possm", 7), ("linear", 13)])
def test_a_stored_session_is_streamed_with_the_scores_of_its_offline_prediction(name, piece, bake):
    run, divided = run_of(name, bake)
    (task,), seen = run.tasks, []
    found = stream(
        run, divided.tokens, recorded(), piece_ns=piece * 1_000_000, on_window=lambda one, ns: seen.append((one, ns))
    )
    answers = predict(run.model, divided, "test", run.config)
    offline = answers[task.name]
    live, score = found.live[task.name], offline.score()
    for own in (live, found.offline[task.name]):
        assert {name: own[name] for name in answers.times[task.name]} == pytest.approx(answers.times[task.name])
    assert live["n_samples"] == score["n_samples"] > 50
    for part in ("r2_variance_weighted", "r2_mean"):
        assert live[part] == pytest.approx(found.offline[task.name][part], abs=1e-4)
        assert live[part] == pytest.approx(score[part], abs=1e-4)
    assert found.apart[task.name] <= 1e-5
    answer = found.answers[task.name]
    row = np.searchsorted(answer.time_ns, offline.time_ns)
    np.testing.assert_allclose(answer.true[row], offline.true, atol=1e-3)
    np.testing.assert_array_equal(answer.weight[row] > 0, offline.weight > 0)
    windows = divided.windows("test")
    length_ns = windows.stop_ns - windows.start_ns
    chunks, overlapping = length_ns // 50_000_000, 1 - (500_000_000 - length_ns) // 200_000_000
    assert found.n_windows == len(seen) == (chunks if name == "possm" else overlapping).sum()
    assert sum(len(one.time_ns[task.name]) for one, _ in seen) == len(answer.time_ns)
    for part in ("tokens", "model", "total"):
        times = found.latency_ms[part]
        assert 0 < times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
    assert found.latency_ms["total"]["max"] == pytest.approx(max(ns for _, ns in seen) / 1e6)
    assert found.recording_s == pytest.approx(windows.total_ns / 1e9, abs=0.02)  # gaps are passed over


def test_a_stream_in_real_time_waits_for_its_pieces_and_counts_what_was_late(bake):
    run, divided = run_of("linear", bake)
    sets = {"speed": 4.0, "duration_ns": SECOND, "piece_ns": 20_000_000}
    found = stream(run, divided.tokens, recorded(), **sets)
    assert found.wall_s >= found.recording_s / 4
    assert found.recording_s < 1.0
    assert found.apart["decode:hand_vel"] <= 1e-5
    slow = stream(run, divided.tokens, recorded(), **sets, on_window=lambda one, ns: time.sleep(0.2))
    assert slow.n_behind > found.n_behind
    with pytest.raises(UsageError, match="no split 'tests'"):
        stream(run, divided.tokens, recorded(), split="tests")
    for wrong in ({"speed": 0.0}, {"piece_ns": 0}, {"duration_ns": 0}):
        with pytest.raises(UsageError, match="must be above 0"):
            stream(run, divided.tokens, recorded(), **wrong)


def test_what_a_stream_cannot_take_is_refused(bake):
    run, divided = run_of("linear", bake)
    session, windows = recorded(), divided.windows("test")
    with pytest.raises(DataError, match="does not know it"):
        LiveDecoder(run, divided.tokens, replace(session, id="made/other"), divided.calibration)
    with pytest.raises(DataError, match="no window of 500 ms fits"):
        LiveDecoder(run, divided.tokens, session, divided.calibration, session.stop_ns - SECOND // 4)
    decoder = LiveDecoder(run, divided.tokens, session, divided.calibration, windows=windows)
    start_ns, row = decoder.start_ns, np.zeros(2, np.int32)
    decoder.push(np.array([start_ns + 10, start_ns + 20]), row)
    with pytest.raises(UsageError, match="out of order"):
        decoder.push(np.array([start_ns + 40, start_ns + 30]), row)
    with pytest.raises(UsageError, match="out of order"):
        decoder.push(np.array([start_ns, start_ns + 30]), row)
    with pytest.raises(UsageError, match="time cannot go back"):
        decoder.push(np.zeros(0, np.int64), row[:0], start_ns)
    with pytest.raises(UsageError, match="must begin at or after"):
        decoder.gap(start_ns, start_ns + 5)
    decoder.finish(start_ns + SECOND)
    with pytest.raises(UsageError, match="was finished"):
        decoder.push(np.array([start_ns + SECOND] * 2), row)
