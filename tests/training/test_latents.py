"""Latents of a run as a behaviour that another model learns: against a slow twin, guarded between splits, recorded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from spiketok.errors import ArtefactError, UsageError  # noqa: E402
from spiketok.recording.nouns import Signal  # noqa: E402
from spiketok.training.checkpoints import load_run  # noqa: E402
from spiketok.training.config import LATENTS, load_config  # noqa: E402
from spiketok.training.latents import latents_of, with_latents  # noqa: E402
from spiketok.training.loop import prepare, train  # noqa: E402
from tests.decodable import bake_tokens, decodable_session  # noqa: E402
from tests.models.test_models import QUICK  # noqa: E402

WINDOW_NS, BIN_NS = 500_000_000, 20_000_000
FINGERPRINT = "c0e445f635c765e3"  # of ndt1 as it is, before there were latents
SHORT = ["data.window_ms=500", "data.batch_size=4", "optim.steps=2"]


def of_model(name: str, tasks: list[str], *more: str):
    """A toy configuration."""
    return load_config(name, sets=[*(f"model.{k}={v}" for k, v in QUICK[name].items()), *SHORT, *more], tasks=tasks)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A run of ldns, the tokens of its session, and those of another session."""
    folder = tmp_path_factory.mktemp("runs")
    tokens, other = (bake_tokens(folder, decodable_session(name, 0, n_units=6), "binned") for name in ("day", "next"))
    train(of_model("ldns", ["population"], "task.population.held_out=0.34"), [tokens], folder / "ldns")
    return load_run(folder / "ldns"), tokens, other


def slow_latents(run, tokens, counts: np.ndarray) -> dict[int, np.ndarray]:
    """By the middle of a bin, the mean of its latents over the windows that begin every half a window."""
    (held,) = (task.held_out(tokens) for task in run.tasks)
    assert held.any()
    seen = torch.from_numpy(np.where(held, 0, counts).astype(np.float32))
    (own,), length, found = run.model.own.values(), WINDOW_NS // BIN_NS, {}
    first = [*range(0, len(seen) - length, length // 2), len(seen) - length]
    with torch.no_grad():
        latents, _ = run.model.autoencode(own, torch.stack([seen[k : k + length] for k in first]))
    for k, z in zip(first, latents.double().numpy(), strict=True):
        for j in range(length):
            middle = int(tokens.segments.start_ns[0]) + (k + j) * BIN_NS + BIN_NS // 2
            found.setdefault(middle, []).append(z[j])
    return {time: np.mean(values, 0) for time, values in found.items()}


def inside(time_ns: np.ndarray, of) -> np.ndarray:
    return ((time_ns[:, None] >= of.start_ns) & (time_ns[:, None] < of.stop_ns)).any(1)


def counts_of(tokens) -> np.ndarray:
    return np.asarray(tokens.reader.columns["counts"])


def test_latents_are_those_of_a_slow_twin(taught):
    run, tokens, _ = taught
    found = latents_of(run, tokens)
    twin = slow_latents(run, tokens, counts_of(tokens))
    assert found.time_ns.tolist() == sorted(twin) and found.valid.all()
    np.testing.assert_allclose(found.value, [twin[time] for time in sorted(twin)], atol=1e-5)
    assert found.value.std(0).min() > 0


def test_no_training_window_asks_for_a_latent_that_knows_another_split(taught):
    run, tokens, _ = taught
    (one,) = with_latents([tokens], run, [tokens])
    (session,), (task,) = prepare(replace(of_model("ndt1", [f"decode:{LATENTS}"]), latents=run.digest), [one])
    assert task.name == "decode:latents" and session.reach.back_ns >= WINDOW_NS
    bins = one.bin_middle_ns
    foreign = ~inside(bins, session.splits["train"])
    counts = counts_of(tokens).copy()
    counts[foreign] = 7 - counts[foreign]
    before, after = slow_latents(run, tokens, counts_of(tokens)), slow_latents(run, tokens, counts)
    windows = session.windows("train")
    asked = [t for t in before for lo, hi in zip(windows.start_ns, windows.stop_ns, strict=True) if lo <= t < hi]
    assert len(asked) > 500
    assert all(np.array_equal(before[time], after[time]) for time in asked)
    changed = [time for time in before if not np.array_equal(before[time], after[time])]
    assert np.isin(changed, bins[~foreign]).any()  # without the guard some would be asked


def test_a_model_learns_them_and_the_run_says_of_which_checkpoint(taught, tmp_path):
    run, tokens, _ = taught
    config = replace(of_model("mtm", ["population", f"decode:{LATENTS}"]), latents=run.digest)
    told = []
    result = train(config, with_latents([tokens], run, [tokens]), tmp_path / "run", latents=run, on_event=told.append)
    assert set(result.scores["made/day"]) == {"population", "decode:latents"}
    (step,) = [event for event in told if event["event"] == "step"]
    assert step["loss"]["decode:latents"] > 0
    child = load_run(tmp_path / "run")
    assert child.config.latents == run.digest and child.model.heads["decode:latents"].size == 4
    assert config.fingerprint() != replace(config, latents="").fingerprint()


@pytest.mark.long
def test_what_the_teacher_saw_counts_as_seen(tmp_path):
    both = [bake_tokens(tmp_path, decodable_session(name, 0, n_units=6), "binned") for name in ("day", "next")]
    train(of_model("ldns", ["population"]), both, tmp_path / "ldns")
    run = load_run(tmp_path / "ldns")
    config = replace(of_model("ndt1", [f"decode:{LATENTS}"]), latents=run.digest)
    train(config, with_latents(both[:1], run, both[:1]), tmp_path / "run", latents=run)
    child = load_run(tmp_path / "run")
    assert child.own == ["made/day"] and [s.id for s in child.trained_on] == ["made/day", "made/next"]
    moved = replace(config, split=replace(config.split, train=0.5, test=0.4))
    with pytest.raises(UsageError, match=r"divided by another split\.\*"):
        train(moved, with_latents(both[:1], run, both[:1]), tmp_path / "moved", latents=run)


def test_what_cannot_be_learned_is_refused(taught, tmp_path):
    run, tokens, other = taught
    config = of_model("ndt1", [f"decode:{LATENTS}"])
    with pytest.raises(UsageError, match="it is set by 'spiketok train --latents RUN'"):
        train(replace(config, latents="abc"), [tokens], tmp_path / "run", latents=run)
    with pytest.raises(UsageError, match="are given and not asked: add --task decode:latents"):
        unasked = replace(of_model("ndt1", ["population"]), latents=run.digest)
        train(unasked, with_latents([tokens], run, [tokens]), tmp_path / "run", latents=run)
    with pytest.raises(UsageError, match="it was not trained on made/next, so it has no latents there"):
        with_latents([tokens, other], run, [tokens])
    again = bake_tokens(tmp_path, decodable_session("day", 1, n_units=6), "binned")
    with pytest.raises(ArtefactError, match="made/day was tokenized anew since ldns was trained on it"):
        with_latents([again], run, [again])
    signal = Signal(np.arange(3), np.zeros((3, 1), np.float32), ("x",), "", np.ones(3, np.bool_))
    with pytest.raises(UsageError, match="made/day has a signal 'latents' of its own"):
        with_latents([replace(tokens, made={LATENTS: (signal, (0, 0))})], run, [tokens])
    train(of_model("ndt1", ["population"]), [tokens], tmp_path / "ndt1")
    with pytest.raises(UsageError, match="ndt1 has no latents, use a run of one that has"):
        with_latents([tokens], load_run(tmp_path / "ndt1"), [tokens])


def test_names_of_runs_without_latents_stay():
    config = load_config("ndt1")
    assert "latents" in config.to_dict() and "hold_steps" in config.to_dict()["optim"]
    old = config.to_dict()
    del old["latents"], old["optim"]["hold_steps"]
    assert type(config).from_dict(old).fingerprint() == config.fingerprint() == FINGERPRINT
