"""FALCON's decoder answers each bin with the number of the offline causal prediction on the same counts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import DataError, MissingExtraError, UsageError  # noqa: E402
from spiketok.evaluation.falcon_decoder import FalconDecoder, falcon_decoder  # noqa: E402
from spiketok.pipeline.export.falcon_tensors import TARGETS  # noqa: E402
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, UnitTable  # noqa: E402
from spiketok.training.checkpoints import Run, load_run  # noqa: E402
from spiketok.training.config import load_config  # noqa: E402
from spiketok.training.loop import train  # noqa: E402
from spiketok.training.predict import predict  # noqa: E402
from spiketok.training.sampling import SessionTokens  # noqa: E402
from spiketok.training.sessions import DividedSession  # noqa: E402
from spiketok.training.tasks.decode import Prediction  # noqa: E402
from tests.decodable import decodable_session  # noqa: E402
from tests.evaluation.test_spint_transfer import tokens_for  # noqa: E402

BIN_NS, SECONDS, N_BINS = 20_000_000, 2.4, 120
AT_NS = {"m1": BIN_NS - 1, "h1": BIN_NS - 1, "m2": 0}  # where in its bin a sample stands, as the evaluator reads it
SHORT = ["data.window_ms=100", "data.batch_size=8"]
TRAINED = ["optim.steps=2", *SHORT]
CHUNKS = ["model.dim_head=8", "model.rnn_dim=16", "model.chunk_ms=20", "model.chunk_step_ms=20", *TRAINED]
MODELS = {
    "linear": ["model.lags=4", "data.bin_ms=20", *SHORT],
    "ndt1": ["model.dim=16", "model.hidden=24", "model.context_forward=0", "data.bin_ms=20", *TRAINED],
    "ndt2": ["model.dim=16", "model.patch_size=4", "model.causal=true", "data.bin_ms=20", *TRAINED],
    "poyo": ["model.dim=16", "model.dim_head=8", "model.latents_per_step=2", *TRAINED],
    "possm": CHUNKS,
    "spint": ["model.history_bins=5", "data.bin_ms=20", "optim.steps=2", "data.batch_size=8"],
}


def recording(name: str, seed: int, target: str = "preprocessed_emg", at_ns: int = BIN_NS) -> Session:
    """Spikes at their own times; the target stands at the end of each bin (M1), or ``at_ns`` after its start."""
    session = decodable_session(name, seed, n_units=8, seconds=SECONDS)
    made = session.signals["hand_vel"]
    signal = Signal(np.arange(N_BINS) * BIN_NS + at_ns, made.value[::2], ("x", "y"), "mV", made.valid[::2])
    units = UnitTable(session.units.id, {"group": np.full(len(session.units), "M1")})
    return replace(session, units=units, signals={target: signal}, stop_ns=session.stop_ns + 1)


def counts_of(session: Session) -> np.ndarray:
    """``[T, N]``, as the evaluator gives them."""
    edges = np.arange(N_BINS + 1) * BIN_NS
    times = (session.spikes.time_ns[session.spikes.unit == unit] for unit in range(len(session.units)))
    return np.stack([np.histogram(own, edges)[0] for own in times], axis=1).astype(np.uint8)


def counted(session: Session, counts: np.ndarray, at_ns: int = BIN_NS - 1) -> Session:
    """The recording as counts ``[T, N]`` tell of it: spikes at the middles of bins, samples inside of their bins."""
    bins, unit = np.nonzero(counts)
    n, time_ns = counts[bins, unit], np.arange(len(counts)) * BIN_NS
    spikes = Spikes(np.repeat(bins * BIN_NS + BIN_NS // 2, n), np.repeat(unit, n).astype(np.int32))
    signals = {
        name: replace(signal, time_ns=time_ns + at_ns)
        for name, signal in session.signals.items()
        if len(signal.time_ns) == len(counts)
    }
    stop_ns, observed = len(counts) * BIN_NS, Intervals([0], [len(counts) * BIN_NS])
    return replace(session, start_ns=0, stop_ns=stop_ns, spikes=spikes, signals=signals, observed=observed)


def trained(folder: Path, name: str, settings: list[str], sessions: list[Session], task: str) -> Run:
    config = load_config(name, None, settings, tasks=[task])
    train(config, [tokens_for(folder / "shards", session, config) for session in sessions], folder / "run")
    return load_run(folder / "run")


def offline(folder: Path, run: Run, session: Session) -> Prediction:
    """The causal prediction of a whole session by windows that go on by a bin."""
    tokens = tokens_for(folder, session, run.config)
    data = replace(run.config.data, eval_step_ms=20.0, stitch="causal")
    tasks = run.tasks[:1]
    divided = DividedSession(tokens, tasks, session.observed, {"train": Intervals.empty(), "test": session.observed})
    return predict(run.model, divided, "test", replace(run.config, data=data))[tasks[0].name]


def distance(run: Run, said: np.ndarray, expected: Prediction) -> float:
    """The largest difference to the offline prediction, by its largest number, from the first whole window on."""
    bins = expected.time_ns // BIN_NS
    first = 0 if run.model.carries else run.config.data.window_ns // BIN_NS - 1
    kept = (bins >= first) & (bins < len(said))
    assert kept.sum() >= 0.7 * (bins.max() - first)
    return float(np.abs(said[bins[kept]] - expected.predicted[kept]).max() / max(np.abs(expected.predicted).max(), 1))


def shards(folder: Path, run: Run, session: Session) -> SessionTokens:
    return tokens_for(folder / "shards", session, run.config)


def answers(decoder: FalconDecoder, counts: list[np.ndarray]) -> np.ndarray:
    """``[B, T, C]``."""
    return np.stack([decoder.predict(row) for row in np.stack(counts, axis=1)], axis=1)


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> tuple[Run, dict[str, SessionTokens], list[Session]]:
    """A trained linear decoder of two sessions of M1."""
    folder, two = tmp_path_factory.mktemp("linear"), [recording("day0", 0), recording("day1", 1)]
    run = trained(folder, "linear", MODELS["linear"], two, "decode:preprocessed_emg")
    return run, {s.name: shards(folder, run, s) for s in two}, two


OTHERS = [pytest.param(name, "m1", marks=pytest.mark.slow) for name in ("ndt2", "poyo", "spint")]


@pytest.mark.parametrize(("name", "task"), [("linear", "m1"), ("ndt1", "h1"), ("poyo", "m2"), ("possm", "m1"), *OTHERS])
def test_every_bin_has_the_number_of_the_offline_prediction(name, task, tmp_path):
    at_ns = AT_NS[task]
    two = [recording(f"day{seed}", seed, TARGETS[task], 0 if task == "m2" else BIN_NS) for seed in range(2)]
    run = trained(tmp_path, name, MODELS[name], two, f"decode:{TARGETS[task]}")
    decoder = FalconDecoder(run, {s.name: shards(tmp_path, run, s) for s in two}, task, batch_size=2)
    decoder.reset(["day1", "day0"])
    said = answers(decoder, [counts_of(two[1]), counts_of(two[0])])
    assert said.shape == (2, N_BINS, 2)
    assert np.isfinite(said).all()
    for own, session in zip(said, reversed(two), strict=True):
        expected = offline(tmp_path / "counted", run, counted(session, counts_of(session), at_ns))
        assert distance(run, own, expected) <= 1e-5
    assert np.abs(said[0] - said[1]).max() > 1e-3, "two sessions have two answers"


def test_a_stream_that_is_done_begins_anew_and_the_other_goes_on(line):
    run, sessions, (day0, day1) = line
    counts = [counts_of(day0)[:60], counts_of(day1)[:60]]
    decoder = FalconDecoder(run, sessions, "m1", batch_size=2)
    decoder.reset(["day0", "day1"])
    whole = answers(decoder, counts)
    decoder.reset(["day0", "day1"])
    first = answers(decoder, [one[:30] for one in counts])
    decoder.on_done(np.array([0, 1]))
    rest = answers(decoder, [counts[0][30:], counts[1][:30]])
    assert np.array_equal(np.concatenate([first[0], rest[0]]), whole[0])
    assert np.array_equal(rest[1], whole[1, :30])
    decoder.set_batch_size(1)
    assert decoder.batch_size == 1
    decoder.reset(["day1"])
    decoder.observe(counts[1][None, 0])
    assert np.array_equal(answers(decoder, [counts[1][1:]])[0], whole[1, 1:])


def test_bins_without_a_past_have_the_mean_where_the_model_needs_it(line):
    run, sessions, (day0, _) = line
    decoder = FalconDecoder(run, sessions, "m1")
    decoder.reset(["day0"])
    (said,) = answers(decoder, [counts_of(day0)[:12]])
    same = (said == np.array(run.tasks[0].target.mean)).all(axis=1)
    lags = run.config.model_config().lags
    assert same[: lags - 1].all()
    assert not same[lags - 1 :].any()


def test_what_does_not_fit_is_told_in_one_line(line):
    run, sessions, (day0, _) = line
    decoder = FalconDecoder(run, sessions, "m1", tag_of=lambda file: Path(file).stem.split("_")[-1])
    assert decoder.require([Path("sub-M_day0.nwb"), Path("day1.nwb")]) == ["day0", "day1"]
    with pytest.raises(
        DataError, match=r"sub-M_day7.nwb has the tag 'day7', of which run knows no session .*day0, day1"
    ):
        decoder.reset([Path("day0.nwb"), Path("sub-M_day7.nwb")])
    decoder.reset(["day0"])
    counts = counts_of(day0)
    with pytest.raises(DataError, match=r"counts have shape \(2, 8\), expected \[1, units\]"):
        decoder.predict(counts[:2])
    for wrong in (counts[:1, :5], counts[:1].astype(np.float32), counts[:1].astype(np.int64) - 9):
        with pytest.raises(DataError, match="bin 0 of made/day0 is .*expected counts of its 8 units"):
            decoder.predict(wrong)
    with pytest.raises(DataError, match="2 streams are said to be done or not, reset.. began 1"):
        decoder.on_done(np.array([0, 0]))
    with pytest.raises(UsageError, match="FALCON's task 'h2' is not decoded bin by bin: h1, m1, m2 are"):
        FalconDecoder(run, sessions, "h2")
    with pytest.raises(DataError, match="run was trained on no file of FALCON's m1"):
        FalconDecoder(run, {}, "m1")
    with pytest.raises(UsageError, match="FALCON asks 'finger_vel': train with --task decode:finger_vel"):
        FalconDecoder(run, sessions, "m2")


def test_bins_that_cannot_be_answered_are_refused(line, tmp_path):
    run, _, (day0, _) = line
    config = load_config("linear", None, ["data.bin_ms=10", *SHORT], tasks=["decode:preprocessed_emg"])
    finer = {"day0": tokens_for(tmp_path / "finer", day0, config)}
    with pytest.raises(
        UsageError, match="reads bins of 10 ms, FALCON gives counts of 20 ms: train with --set data.bin_ms"
    ):
        FalconDecoder(replace(run, config=config), finer, "m1")
    config = load_config("possm", None, SHORT, tasks=["decode:preprocessed_emg"])
    chunks = {"day0": tokens_for(tmp_path / "chunks", day0, config)}
    with pytest.raises(
        UsageError, match="chunk to chunk of 50 ms.*--set model.chunk_ms=20 --set model.chunk_step_ms=20"
    ):
        FalconDecoder(replace(run, config=config, model=SimpleNamespace(name="possm", carries=True)), chunks, "m1")
    sets = [*SHORT, "model.fine_time=true", 'model.group_by=""']
    config = load_config("ndt2", None, sets, tasks=["decode:preprocessed_emg"])
    fine = {"day0": tokens_for(tmp_path / "fine", day0, config)}
    with pytest.raises(UsageError, match="FALCON gives counts alone: train with --set model.fine_time=false"):
        FalconDecoder(replace(run, config=config, model=SimpleNamespace(name="ndt2", carries=False)), fine, "m1")


def test_files_are_told_apart_by_a_package_that_may_be_missing(line, monkeypatch):
    monkeypatch.setitem(sys.modules, "falcon_challenge.config", None)
    monkeypatch.setitem(sys.modules, "falcon_challenge", None)
    with pytest.raises(MissingExtraError, match="pip install falcon-challenge"):
        falcon_decoder(line[0].path, "m1")
