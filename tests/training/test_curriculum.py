"""In which order sessions enter a training, and that a killed one goes on with the same windows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from spiketok.errors import UsageError
from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes import Binned
from spiketok.training.config import load_config
from spiketok.training.curriculum import Curriculum, divided, order_of, require_all_met, training_sampler
from spiketok.training.loader import Loader
from spiketok.training.loop import train
from spiketok.training.sampling import RandomWindows, SessionWindows
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session
from tests.made import MS, random_session, shard

SPLIT = Intervals([100 * MS, 4_500 * MS], [4_000 * MS, 5_900 * MS])


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """Four sessions; the third has half of the time of the others, the last no room for a window."""
    folder, found = tmp_path_factory.mktemp("bin"), []
    for k, name in enumerate("abcd"):
        time = [SPLIT, SPLIT, Intervals([100 * MS], [2_100 * MS]), Intervals([100 * MS], [200 * MS])][k]
        found.append(SessionWindows(shard(folder, random_session(name, k, n_units=3 + 4 * k), Binned()), time))
    return found


def curriculum(windows, **changes) -> Curriculum:
    options = {"order": [2, 0, 3, 1], "first": 0.3, "epochs": 3, "seed": 5} | changes
    return Curriculum(windows, 400 * MS, **options)


def test_sessions_enter_in_order_and_epochs_stay_as_long(windows):
    sampler, plain = curriculum(windows), RandomWindows(windows, 400 * MS, seed=5)
    whole = np.bincount(plain.plan(0).session, minlength=4)
    assert whole.tolist() == [12, 12, 5, 0]
    expected = {0: [0, 0, 29, 0], 1: [20, 0, 9, 0], 2: [12, 12, 5, 0], 3: [12, 12, 5, 0]}
    for epoch, counts in expected.items():
        plan = sampler.plan(epoch)
        assert np.bincount(plan.session, minlength=4).tolist() == counts
        n = max(math.ceil((0.3 + 0.7 * min(epoch / 3, 1)) * 3 - 1e-9), 1)  # of the three that have a window
        assert sorted(set(plan.session.tolist())) == sorted([2, 0, 1][:n])
    for epoch in (3, 7):  # from then on what it would be without a curriculum, to the window
        ours, theirs = sampler.plan(epoch), plain.plan(epoch)
        assert ours.session.tolist() == theirs.session.tolist()
        assert ours.start_ns.tolist() == theirs.start_ns.tolist()


def test_passes_of_an_epoch_are_at_other_places_and_inside_what_is_allowed(windows):
    plan = curriculum(windows).plan(0)
    assert len(set(plan.start_ns.tolist())) > 20
    assert plan.start_ns.min() >= 100 * MS
    assert plan.start_ns.max() + 400 * MS <= 2_100 * MS
    again = curriculum(windows).plan(0)
    assert again.start_ns.tolist() == plan.start_ns.tolist()
    assert curriculum(windows, seed=6).plan(0).start_ns.tolist() != plan.start_ns.tolist()


def test_batches_of_one_session_are_as_many_in_every_epoch(windows):
    """Sessions of 12, 12 and 5 windows in batches of 4 are 3, 3 and 2 batches."""
    loader = Loader(windows, curriculum(windows, block=4), batch_size=4, one_session=True, prefetch=0)
    met = {}
    for epoch in range(4):
        met[epoch] = [batch.sessions[0] for batch in loader]
        assert len(met[epoch]) == len(loader) == 8
        assert loader.epoch == epoch + 1
    assert set(met[0]) == {"made/c"}
    assert sorted(met[1]) == ["made/a"] * 5 + ["made/c"] * 3
    assert set(met[3]) == {"made/a", "made/b", "made/c"}


def test_weights_count_within_the_order(windows):
    sampler = curriculum(windows, weights={"made/a": 0.0, "made/b": 0.5}, first=0.9)
    assert sampler.present(0) == [2, 1]
    assert sampler.wanted(0) == sampler.wanted(9) == [0, 6, 5, 0]


@pytest.mark.parametrize(("total", "parts"), [(7, [1, 2, 3]), (1, [5, 5]), (0, [1]), (100, [33, 33, 34])])
def test_a_division_adds_up_and_is_nowhere_off_by_one(total, parts):
    found = divided(total, np.array(parts))
    assert found.sum() == total
    assert (np.abs(found - total * np.array(parts) / sum(parts)) < 1).all()


def test_the_orders(windows):
    def config(*sets: str):
        return load_config("ndt1", None, [f"data.{text}" for text in sets])

    rate = [w.tokens.info.n_spikes / w.tokens.info.n_units for w in windows]
    assert order_of(config("curriculum=rate"), windows) == np.argsort([-r for r in rate]).tolist()
    ids = ["made/c", "made/a", "made/d", "made/b"]
    assert order_of(config("curriculum=listed", f"curriculum_order={ids}"), windows) == [2, 0, 3, 1]
    drawn = {
        tuple(order_of(load_config("ndt1", None, ["data.curriculum=drawn", f"seed={k}"]), windows)) for k in range(9)
    }
    assert len(drawn) > 4 and all(sorted(order) == [0, 1, 2, 3] for order in drawn)
    sampler = training_sampler(config("curriculum=rate", "window_ms=400"), windows, [], one_session=True)
    assert isinstance(sampler, Curriculum) and sampler.block == 32
    assert type(training_sampler(config("window_ms=400"), windows, [], one_session=True)) is RandomWindows


def test_no_run_without_a_curriculum_has_another_name():
    plain = load_config("poyo")
    assert plain.fingerprint() == load_config("poyo", None, ["data.curriculum=off"]).fingerprint()
    others = {load_config("poyo", None, [f"data.curriculum={c}"]).fingerprint() for c in ("drawn", "rate")}
    others.add(load_config("poyo", None, ["data.curriculum=rate", "data.curriculum_epochs=2"]).fingerprint())
    assert len(others | {plain.fingerprint()}) == 4
    assert plain.fingerprint() == PLAIN_POYO


PLAIN_POYO = "2f72acee17ce6c58"  # before there were curricula and experts


@pytest.fixture(scope="module")
def spikes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=10 + k)) for k in range(3)]


def test_a_run_that_was_stopped_ends_in_the_same_bytes(spikes, tmp_path):
    steps = ["data.batch_size=32", "optim.steps=14", "optim.checkpoint_every=8"]
    sets = [*SMALL_POYO, "data.curriculum=drawn", "data.curriculum_epochs=2", *steps]
    config = load_config("poyo", None, sets)
    stopped = tmp_path / "stopped"

    class Stop(Exception):
        pass

    def stop(event):
        if event["event"] == "checkpoint" and event["step"] == 8:
            raise Stop

    train(config, spikes, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, spikes, stopped, on_event=stop)
    assert train(config, spikes, stopped, resume="must").resumed_from == 8
    for name in ("model.safetensors", "train_state.safetensors", "checkpoint.json"):
        assert (stopped / "checkpoint" / name).read_bytes() == (tmp_path / "whole" / "checkpoint" / name).read_bytes()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["curriculum=rate", "curriculum_epochs=50"], "the last sessions would never be met"),
        (["curriculum=listed"], "data.curriculum_order lacks made/day0"),
        (["curriculum=listed", "curriculum_order=['made/x']"], "names made/x, which is not trained on"),
        (["curriculum_order=['made/day0']"], "data.curriculum is 'off': set it to listed"),
        (["curriculum=rate", "curriculum_first=0"], "curriculum_first is 0"),
        (["curriculum=rate", "curriculum_epochs=0"], "curriculum_epochs is 0, must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(spikes, tmp_path, sets, message):
    with pytest.raises(UsageError, match=message):
        train(load_config("poyo", None, [*SMALL_POYO, *(f"data.{text}" for text in sets)]), spikes, tmp_path / "run")


def test_a_model_in_closed_form_has_no_order():
    with pytest.raises(UsageError, match="linear is fitted in closed form"):
        require_all_met(load_config("linear", None, ["data.curriculum=rate"]), 0)
