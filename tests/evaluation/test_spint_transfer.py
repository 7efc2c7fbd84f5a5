"""SPINT on sessions that it never saw: a forward pass over unlabelled trials tells it the units, and nothing else does.

The slow test is the demonstration. Its simulated recordings are steadier than the simulator's defaults: identities are
found again by what a unit does in a trial, so the unit has to be there, and to do the same, on the days of training.
It gave, by 60 s of calibration on the two unseen days: spint zero_gradient .29 and .36, zero_shot -1.37 and -.75, full
.72 and .70; poyo zero_shot .00 and -.01; the linear floor .87 and .87. On days that were trained on: spint .87, poyo
.95.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.evaluation.results import TransferResult  # noqa: E402
from spiketok.evaluation.transfer import evaluate_transfer  # noqa: E402
from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable  # noqa: E402
from spiketok.sources.formats.nwb import read_nwb  # noqa: E402
from spiketok.sources.simulator import SimulationConfig, simulate  # noqa: E402
from spiketok.storage.files import sha256_file  # noqa: E402
from spiketok.tokens.shards import ShardReader, write_shard  # noqa: E402
from spiketok.training.checkpoints import Run, load_run  # noqa: E402
from spiketok.training.config import RunConfig, load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.runs import run_inputs, scheme_of  # noqa: E402
from spiketok.training.sampling import Once, SessionTokens  # noqa: E402
from tests.decodable import SMALL_POYO, decodable_session  # noqa: E402

SECOND = 1_000_000_000
R2 = "r2_variance_weighted"
TASK = "decode:hand_vel"


# ---- sessions, and what is done to them -----------------------------------------------------------------------------


def tokens_for(folder: Path, session: Session, config: RunConfig) -> SessionTokens:
    """The shards that a run reads of a session, as ``spiketok tokenize`` makes them."""
    windowed, once = {}, {}
    for name, wanted in run_inputs(config).items():
        target = folder / name / session.id
        whole = Intervals([session.start_ns], [session.stop_ns])
        write_shard(target, scheme_of(wanted), session, whole, segments_rule="continuous", store_digest="d" * 64)
        if wanted.per == "session":
            once[name] = Once(ShardReader(target), wanted.most, wanted.choose)
        else:
            windowed[name] = ShardReader(target)
    return SessionTokens(windowed, once)


def permuted(session: Session) -> Session:
    """The same recording, its units in another order and under other names."""
    assert session.unit_observed is None
    order = np.random.default_rng(0).permutation(len(session.units))
    times = [session.spikes.time_ns[session.spikes.unit == row] for row in order]
    names = [f"other{row}" for row in range(len(order))]
    return replace(session, units=UnitTable(names), spikes=Spikes.from_units(times))


def labels_destroyed(session: Session, name: str, before_ns: int) -> Session:
    """The same recording with noise for a behaviour until some time; where it was measured stays as it was."""
    signal = session.signals[name]
    value = signal.value.copy()
    rows = signal.time_ns < before_ns
    value[rows] = np.random.default_rng(0).normal(0, 1000, value[rows].shape)
    return replace(session, signals={**session.signals, name: replace(signal, value=value)})


def transfer(
    run: Run, tokens: Sequence[SessionTokens], calibration_s: float, *protocols: str, stored=None
) -> TransferResult:
    return evaluate_transfer(run, tokens, protocols=protocols, calibration_s=calibration_s, device="cpu", stored=stored)


def predictions(found: TransferResult, protocol: str) -> dict[str, np.ndarray]:
    (task,) = found.tasks
    return {cell.session: cell.answer.predicted for cell in found.of(protocol, task.name)}


def check_what_identities_depend_on(
    folder: Path, run: Run, sessions: Sequence[Session], found: TransferResult, calibration_s: float
) -> None:
    """Not on the order of units and not on labels, but on the calibration."""
    (task,) = found.tasks
    signal = task.name.split(":")[1]
    zero_shot, zero_gradient = predictions(found, "zero_shot"), predictions(found, "zero_gradient")
    turned = [tokens_for(folder / "turned", permuted(s), run.config) for s in sessions]
    turned = predictions(transfer(run, turned, calibration_s, "zero_gradient"), "zero_gradient")
    test_ns = {facts.session.id: int(facts.test.start_ns[0]) for facts in found.sessions}
    blind = [labels_destroyed(s, signal, test_ns[s.id] - SECOND) for s in sessions]
    for session in blind:
        calibration = next(facts.calibration for facts in found.sessions if facts.session.id == session.id)
        assert calibration.stop_ns[-1] <= test_ns[session.id] - SECOND  # so that every label of it is destroyed
    result = transfer(run, [tokens_for(folder / "blind", s, run.config) for s in blind], calibration_s, "zero_gradient")
    assert [(f.calibration.stop_ns.tolist(), f.test.start_ns.tolist()) for f in result.sessions] == [
        (f.calibration.stop_ns.tolist(), f.test.start_ns.tolist()) for f in found.sessions
    ]
    blind = predictions(result, "zero_gradient")
    for name, expected in zero_gradient.items():
        assert np.isfinite(expected).all() and expected.std() > 0
        scale = np.abs(expected).max()
        assert np.abs(turned[name] - expected).max() <= 1e-4 * scale
        assert np.array_equal(blind[name], expected)
        assert np.abs(zero_shot[name] - expected).max() > 1e-2 * scale


# ---- in seconds: a model that has hardly learned --------------------------------------------------------------------

BRIEF = [
    *("model.dim=16", "model.heads=2", "model.hidden=16", "model.history_bins=8", "model.calibration_trials=3"),
    *("model.calibration_length=20", "data.batch_size=16", "optim.steps=60", "optim.lr=0.005"),
]


def test_identities_depend_on_spikes_alone(tmp_path):
    """Sessions without trials: calibration trials are stretches of two seconds."""
    config = load_config("spint", None, BRIEF)
    sessions = [decodable_session(f"day{k}", k, n_units=9 + k) for k in range(3)]
    tokens = [tokens_for(tmp_path / "as-is", s, config) for s in sessions]
    train(config, tokens[:2], tmp_path / "run")
    run = load_run(tmp_path / "run")
    found = transfer(run, tokens[2:], 10, "zero_shot", "zero_gradient")
    check_what_identities_depend_on(tmp_path, run, sessions[2:], found, 10)


SMALL_NDT2 = [
    *("model.dim=32", "model.layers=1", "model.decoder_layers=1", "model.patch_size=4", "model.group_by="),
    *("data.window_ms=500", "data.batch_size=16", "optim.steps=250", "optim.lr=0.005"),
]

SMALL_NDT3 = [
    *("model.dim=32", "model.layers=1", "model.heads=2", "model.patch_size=4", "model.group_by="),
    *("data.window_ms=500", "data.batch_size=16", "optim.steps=250", "optim.lr=0.005"),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "sets"),
    [
        ("spint", BRIEF),
        ("ndt2", SMALL_NDT2),
        ("ndt3", SMALL_NDT3),
        ("poyo", [*SMALL_POYO, "optim.steps=150", "optim.lr=0.01", "transfer.new_units=alike"]),
    ],
)
def test_units_begin_as_trained_ones_that_are_alike(model, sets, tmp_path):
    """A trained day again, its units in another order: they are found again, and all is said as of the day itself."""
    config = load_config(model, None, [*sets, f"tasks={TASK}", "transfer.adapt_steps=4"])
    sessions = [decodable_session(f"day{k}", k, n_units=9 + k) for k in range(2)]
    again = replace(permuted(sessions[0]), id="made/again", source=Source("again.nwb", "9" * 64, 1))
    tokens = {s.id: tokens_for(tmp_path / "as-is", s, config) for s in (*sessions, again)}
    train(config, [tokens[s.id] for s in sessions], tmp_path / "run")
    run, stored = load_run(tmp_path / "run"), {s.id: s for s in (*sessions, again)}.get

    def found(trained, protocols, within=False, ids=(again.id,)):
        return evaluate_transfer(
            run, [tokens[i] for i in ids], protocols=protocols, calibration_s=20, device="cpu", stored=stored,
            trained=trained, within=within,
        )  # fmt: skip

    here = found(lambda ids: [tokens[i] for i in ids], ["zero_shot", "mapped", "adapted"])
    known = (
        found(None, ["zero_shot"], within=True, ids=(sessions[0].id,)).cell(sessions[0].id, "within", TASK).score[R2]
    )
    begun = here.cell(again.id, "mapped", TASK)
    assert begun.how == {"start": "trained units that are alike", "map_sessions": 2}
    assert begun.score[R2] > known - 0.05
    assert here.cell(again.id, "adapted", TASK).how["start"] == begun.how["start"]
    if model != "spint":
        assert begun.score[R2] > here.cell(again.id, "zero_shot", TASK).score[R2] + 0.2
    alone = found(None, ["mapped"])
    assert "trained sessions' shards, which are not at hand" in (alone.cell(again.id, "mapped", TASK).reason)


@pytest.mark.long
def test_an_adaptation_without_labels_puts_units_beside_their_like_too(tmp_path):
    short = [*SMALL_NDT2, "optim.steps=2", "transfer.identity_steps=1"]
    config = load_config("ndt2", None, short, tasks=[TASK, "population"])
    sessions = [decodable_session(f"day{k}", k, n_units=9 + k) for k in range(3)]
    tokens = {s.id: tokens_for(tmp_path / "as-is", s, config) for s in sessions}
    train(config, [tokens[s.id] for s in sessions[:2]], tmp_path / "run")
    begun = {}
    for trained in (None, lambda ids: [tokens[i] for i in ids]):
        found = evaluate_transfer(
            load_run(tmp_path / "run"), [tokens[sessions[2].id]], protocols=["identity_unlabelled"], calibration_s=20,
            device="cpu", stored={s.id: s for s in sessions}.get, trained=trained,
        )  # fmt: skip
        begun[trained is None] = found.cell(sessions[2].id, "identity_unlabelled", TASK).how
    assert begun == {True: None, False: {"start": "trained units that are alike"}}


# ---- in minutes: the demonstration ----------------------------------------------------------------------------------

STEADY = SimulationConfig(turnover=0.05, drift_deg=5.0, drift_gain=0.05, drift_rate=0.05, rate_sigma=1.0)
CALIBRATION_S = 60


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> list[Session]:
    """Two subjects on four days each, in order of subject and day."""
    paths = simulate(STEADY, tmp_path_factory.mktemp("simulated"))
    return [read_nwb(p, f"sim/{p.name.split('_behavior')[0]}", Source(p.name, sha256_file(p), 1)) for p in paths]


def trained(folder: Path, model: str, recordings: Sequence[Session]) -> tuple[Run, list[Session], list[SessionTokens]]:
    """A run on the first three days; the recordings of the fourth, and their shards."""
    config = load_config(model, None)
    last = [s for s in recordings if s.id.endswith("day04")]
    assert len(last) == 2 and len(recordings) == 8
    seen = [tokens_for(folder, s, config) for s in recordings if s not in last]
    train(config, seen, folder / "run")
    print(model, "seen days", json.loads((folder / "run" / "result.json").read_text())["test_mean"])
    return load_run(folder / "run"), last, [tokens_for(folder, s, config) for s in last]


def scores(found: TransferResult, protocol: str) -> dict[str, float]:
    (task,) = found.tasks
    return {cell.session: cell.score[R2] for cell in found.of(protocol, task.name)}  # no cell may be empty


@pytest.mark.slow
def test_an_unseen_day_is_decoded_without_a_gradient(recordings, tmp_path):
    """The figures are printed: ``pytest -m slow -s``."""
    run, last, tokens = trained(tmp_path / "spint", "spint", recordings)
    stored = {s.id: s for s in last}.get  # of which the linear floor counts its bins
    found = transfer(run, tokens, CALIBRATION_S, "zero_shot", "zero_gradient", "full", stored=stored)
    for protocol in found.protocols:
        print("spint", protocol, scores(found, protocol))
    other, _, other_tokens = trained(tmp_path / "poyo", "poyo", recordings)
    poyo = transfer(other, other_tokens, CALIBRATION_S, "zero_shot")
    print("poyo zero_shot", scores(poyo, "zero_shot"))
    for session, score in scores(found, "zero_gradient").items():
        assert score > max(scores(poyo, "zero_shot")[session], 0) + 0.2
        assert score > scores(found, "zero_shot")[session] + 0.2
    check_what_identities_depend_on(tmp_path, run, last, found, CALIBRATION_S)
