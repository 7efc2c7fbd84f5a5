"""Windows from the moments of trials: where they begin, what each is asked; and a model that reads latencies there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spiketok.errors import DataError, UsageError
from spiketok.models import MODELS
from spiketok.recording.nouns import Intervals, Session, Spikes
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.config import load_config
from spiketok.training.loader import Loader
from spiketok.training.loop import train
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import SessionTokens, SessionWindows
from spiketok.training.tasks.base import own_sampler
from spiketok.training.tasks.classify import Classify, ClassifyConfig
from spiketok.training.tasks.decode import Decode, DecodeConfig
from tests.decodable import BIN_NS, SECOND, bake_tokens, decodable_session

MS = 1_000_000
EVERY, FIRST = 300 * MS, 7 * MS  # between the starts of trials, and the first one's
WORDS = ["l", "r", "", "r"]
MOMENT = ClassifyConfig("start", windows="moment")


def trials_of(session: Session, n: int) -> Session:
    start = FIRST + np.arange(n) * EVERY
    return replace(
        session, intervals={"trials": Intervals(start, start + 250 * MS, {"side": np.array(WORDS)[np.arange(n) % 4]})}
    )


def asked_in(tokens: SessionTokens, window_ms: int, allowed: Intervals, *, training: bool = False):
    task = Classify.resolve("side", [tokens], MOMENT)
    task.fit([(tokens, Intervals([0], [40 * SECOND]))])
    windows = [SessionWindows(tokens, allowed)]
    sampler = own_sampler([task], windows, window_ms * MS, seed=3, training=training)
    return sampler, [b.clone() for b in Loader(windows, sampler, batch_size=5, tasks=[task])]


@pytest.mark.parametrize(("scheme", "grid"), [("per-spike", 1), ("binned", BIN_NS)])
def test_a_window_begins_at_its_trial_and_is_asked_nothing_of_another(tmp_path, scheme, grid):
    """Windows of 500 ms hold two trials' starts; a trial without a label has none, nor one without room."""
    tokens = bake_tokens(tmp_path, trials_of(decodable_session("a", seconds=10), 30), scheme)
    sampler, batches = asked_in(tokens, 500, Intervals([0, 5 * SECOND], [3 * SECOND, 8 * SECOND]))
    onset = [-(-(FIRST + k * EVERY) // grid) * grid for k in range(30)]
    wanted = [
        (t, WORDS[k % 4])
        for k, t in enumerate(onset)
        if WORDS[k % 4] and (t + 500 * MS <= 3 * SECOND or 5 * SECOND <= t <= 7500 * MS)
    ]
    found = []
    for batch in batches:
        asked = batch.asked["classify:side"]
        assert asked.offset.diff().tolist() == [1] * len(batch)
        np.testing.assert_array_equal(asked.ns, batch.start_ns)
        assert not asked.time.any()
        found += zip(batch.start_ns.tolist(), [("l", "r")[k] for k in asked.target.tolist()], strict=True)
    assert found == wanted
    inside = [t for k, t in enumerate(onset) if WORDS[k % 4] and (t < 3 * SECOND or 5 * SECOND <= t < 8 * SECOND)]
    assert sampler.dropped["onsets_without_room"] == len(inside) - len(wanted)
    shuffled, _ = asked_in(tokens, 500, Intervals([0], [8 * SECOND]), training=True)
    first, again, next_one = (shuffled.plan(epoch).start_ns.tolist() for epoch in (0, 0, 1))
    assert first == again != next_one and sorted(first) == sorted(next_one)


def test_no_room_and_other_questions_are_refused(tmp_path):
    tokens = bake_tokens(tmp_path, trials_of(decodable_session("a", seconds=10), 30), "binned")
    with pytest.raises(DataError, match="no trial with 'side' has its window of 2000 ms in the scored time"):
        asked_in(tokens, 2000, Intervals([0], [SECOND]))
    tasks = [Classify.resolve("side", [tokens], MOMENT), Decode.resolve("hand_vel", [tokens], DecodeConfig())]
    tasks[0].fit([(tokens, Intervals([0], [8 * SECOND]))])
    with pytest.raises(UsageError, match="classify:side has windows of its own: train it in a run without decode"):
        own_sampler(tasks, [SessionWindows(tokens, Intervals([0], [8 * SECOND]))], 500 * MS, seed=0, training=True)


def told_by_latency() -> Session:
    """Every unit fires once in each trial: those of the first half first in one class, last in the other."""
    n, rng = 120, np.random.default_rng(0)
    start = FIRST + np.arange(n) * EVERY
    late = (np.arange(12) >= 6)[None] != (np.arange(n) % 2 == 0)[:, None]
    times = start[:, None] + 20 * MS + late * 40 * MS + rng.integers(0, 20 * MS, (n, 12))
    spikes = Spikes.from_units([times[:, k] for k in range(12)])
    labels = {"side": np.array(["l", "r"])[np.arange(n) % 2]}
    return replace(
        decodable_session("told"), spikes=spikes, intervals={"trials": Intervals(start, start + 250 * MS, labels)}
    )


def test_latencies_tell_what_counts_of_the_same_window_do_not(tmp_path):
    """From shard to score; chance is one half."""
    session, scores = told_by_latency(), {}
    whole = Intervals([0], [session.stop_ns])
    for reads, window_bin in (("latency", 20), ("counts", 100)):
        sets = [f"model.reads={reads}", f"data.bin_ms={window_bin}", "data.window_ms=100", "optim.steps=60"]
        config = load_config("onset", sets=[*sets, "split.kind=block"], tasks=["classify:side"])
        ((key, wanted),) = run_inputs(config).items()
        write_shard(
            tmp_path / key, scheme_of(wanted), session, whole, segments_rule="continuous", store_digest="d" * 64
        )
        result = train(config, [SessionTokens({key: ShardReader(tmp_path / key)})], tmp_path / f"run-{key}")
        scores[reads] = result.scores["made/told"]["classify:side"]["accuracy"]
    assert scores["latency"] == 1.0
    assert scores["counts"] < 0.75


def test_first_spikes_are_an_input_of_poyo_plus_that_is_off_by_default():
    config = load_config("poyo_plus")
    read = MODELS["poyo_plus"].inputs
    assert read(config.model_config(), ["classify"], config.timing)["spikes"].fields == {}
    first = load_config("poyo_plus", sets=["model.first_spikes=true"])
    assert read(first.model_config(), ["classify"], first.timing)["spikes"].fields == {"first_only": True}
    assert first.fingerprint() != config.fingerprint()
    assert "first_spikes" not in config.to_dict()["model"]
