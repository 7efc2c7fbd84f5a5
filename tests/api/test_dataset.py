"""Windows for torch: every one once, whoever takes them; the same bytes as the commands' own loader."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.models.batch import Batch

OF_AB = {"sessions": "a,b", "target": "hand_vel", "window_s": 0.5}


def met(items) -> list[tuple[str, int]]:
    """Session and start of each window, of single windows, default batches of one, or batches."""
    found = []
    for item in items:
        if isinstance(item, Batch):
            found += zip(item.sessions, item.start_ns.tolist(), strict=True)
        else:
            session = item["session"]
            found.append((session if isinstance(session, str) else session[0], int(item["start_ns"])))
    return found


def equal(one: Batch, other: Batch) -> bool:
    if one.sessions != other.sessions or not np.array_equal(one.start_ns, other.start_ns):
        return False
    pairs = [(one.session_B, other.session_B)]
    for name, tokens in one.inputs.items():
        pairs += [(column, other.inputs[name].columns[key]) for key, column in tokens.columns.items()]
        pairs.append((tokens.offset, other.inputs[name].offset))
    for name, asked in one.asked.items():
        pairs += [
            (getattr(asked, key), getattr(other.asked[name], key)) for key in ("time", "target", "weight", "offset")
        ]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("split", ["train", "test"])
def test_ranks_and_workers_divide_an_epoch_and_meet_every_window_once(ws, split, batch_size):
    whole = Counter(met(ws.dataset("per-spike", split=split, batch_size=batch_size, **OF_AB)))
    assert sum(whole.values()) > 20
    divided = Counter()
    for rank in range(2):
        own = ws.dataset("per-spike", split=split, batch_size=batch_size, rank=rank, world=2, **OF_AB)
        loader = DataLoader(own, batch_size=None if batch_size else 1, num_workers=2)
        part = met(loader)
        assert len(part) == (len(own) if batch_size is None else sum(own._loader().sizes(0)[rank::2]))
        divided += Counter(part)
    assert divided == whole


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_workers_give_the_batches_of_one_process_in_its_order(ws, context):
    own = ws.dataset("binned", batch_size=7, **OF_AB)
    loader = DataLoader(own, batch_size=None, num_workers=2, multiprocessing_context=context, persistent_workers=True)
    for epoch in (0, 3):
        own.set_epoch(epoch)
        alone, worked = list(own), list(loader)
        assert len(alone) == len(worked) == len(own) == len(loader)
        assert all(map(equal, alone, worked))
    assert met(alone) != met(ws.dataset("binned", batch_size=7, **OF_AB))


def test_an_epoch_is_the_same_until_another_is_set(ws):
    own = ws.dataset("per-spike", **OF_AB)
    first = met(own)
    assert met(own) == first
    own.set_epoch(1)
    second = met(own)
    assert len(second) == len(first)
    assert second != first
    looping = ws.dataset("per-spike", **OF_AB).loader(batch_size=4)
    assert [met(looping), met(looping)] == [met(map_of(first, own, 0)), met(map_of(second, own, 1))]
    assert met(ws.dataset("per-spike", seed=1, **OF_AB)) != first


def map_of(windows, dataset, epoch) -> list[Batch]:
    """The batches that the dataset's own collate makes of an epoch, four windows each."""
    dataset.set_epoch(epoch)
    items = list(dataset)
    assert met(items) == windows
    return [dataset.collate(items[k : k + 4]) for k in range(0, len(items), 4)]


def test_a_pickled_dataset_gives_the_same_windows_and_knows_its_rank(ws):
    own = ws.dataset("per-spike", batch_size=5, rank=1, world=3, **OF_AB)
    again = pickle.loads(pickle.dumps(own))
    assert again.place == (1, 3)
    assert all(map(equal, own, again))


def test_the_rank_is_that_of_the_process_group_also_in_workers_that_know_of_none(ws, monkeypatch):
    whole = Counter(met(ws.dataset("binned", **OF_AB)))
    own = ws.dataset("binned", **OF_AB)
    untouched = pickle.dumps(own)
    divided, distributed = Counter(), torch.distributed
    for rank in range(3):
        with monkeypatch.context() as group:
            group.setattr(distributed, "is_initialized", lambda: True)
            group.setattr(distributed, "get_rank", lambda rank=rank: rank)
            group.setattr(distributed, "get_world_size", lambda: 3)
            assert own.place == (rank, 3)
            travelled = pickle.dumps(own)
            divided += Counter(met(own))
        assert pickle.loads(travelled).place == (rank, 3)
    assert divided == whole
    assert pickle.loads(untouched).place == (0, 1)  # made before there was a group: it asks again where it arrives


def test_single_windows_collate_to_the_batches_that_are_cut_at_once(ws):
    for scheme in ("per-spike", "binned"):
        single = ws.dataset(scheme, split="test", **OF_AB)
        (alone,) = ws.dataset(scheme, split="test", batch_size=1000, **OF_AB)
        assert equal(single.collate(list(single)), alone)


def test_torch_stacks_windows_of_equal_shape(ws):
    own = ws.dataset("binned", **OF_AB)
    batch = next(iter(DataLoader(own, batch_size=4)))
    assert batch["tokens"]["counts"].shape == (4, 25, 12)
    assert batch["target"].shape == (4, 25, 2)
    assert batch["session"][0].startswith("made/")


def test_windows_hold_what_the_scheme_cuts_and_the_behaviour_says(ws):
    own = ws.dataset("per-spike", split="test", **OF_AB)
    target = own.tasks[0].target
    for window in list(own)[:5]:
        start_s = window["start_ns"] / 1e9
        cut = ws.tokens(window["session"], "per-spike").window(start_s, start_s + 0.5)
        assert np.array_equal(window["tokens"]["time"].numpy(), cut["time"])
        row = window["tokens"]["unit"].numpy()
        spikes = cut["type"] == 0
        names = [own.units[k].rsplit("/", 1) for k in row[spikes]]
        table = ws[window["session"]].unit_table.id
        assert names == [[window["session"], table[k]] for k in cut["unit"][spikes]]
        seen = ws[window["session"]].window(start_s, start_s + 0.5).signals["hand_vel"]
        true = window["target"].numpy() * np.array(target.std) + np.array(target.mean)
        assert true == pytest.approx(seen.value, abs=1e-3)
        assert np.array_equal(window["time_ns"].numpy(), seen.time_ns)


def test_even_ranks_have_equally_many_batches_and_say_what_is_left_out(ws):
    parts = [ws.dataset("binned", batch_size=8, rank=r, world=4, even=True, **OF_AB) for r in range(4)]
    assert len({len(list(part)) for part in parts}) == 1
    whole = len(ws.dataset("binned", batch_size=8, **OF_AB))
    assert sum(map(len, parts)) + parts[0].dropped["batches_rank"] == whole


def test_sessions_of_other_widths_come_in_batches_of_their_own(ws):
    own = ws.dataset("binned", batch_size=6, target="hand_vel", window_s=0.5)
    assert {len(set(batch.sessions)) for batch in own} == {1}
    single = list(ws.dataset("binned", target="hand_vel", window_s=0.5))
    mixed = [next(w for w in single if w["session"] == f"made/{name}") for name in "ac"]
    with pytest.raises(UsageError, match="made/a and .* made/c, which cannot share a batch"):
        ws.dataset("binned", target="hand_vel", window_s=0.5).collate(mixed)


def test_tokens_alone_padded_and_several_questions(ws):
    bare = ws.dataset("per-spike", "a", batch_size=4, layout="padded", window_s=0.5)
    batch = next(iter(bare))
    assert batch.asked == {}
    assert batch.inputs["per-spike"].valid_BL.shape == (4, batch.inputs["per-spike"].columns["time"].shape[1])
    both = ws.dataset("binned", "a", target=["hand_vel", "population"], window_s=0.5)
    window = next(iter(both))
    assert set(window["target"]) == {"decode:hand_vel", "population"}
    batch = both.collate([window])
    assert batch.asked["population"].target.shape == (25, 12)
    assert list(batch.inputs) == ["counts"]


def test_any_model_is_scored_as_the_commands_score(ws):
    own = ws.dataset("binned", batch_size=16, **OF_AB)
    truth = own.score(lambda batch: batch.asked["decode:hand_vel"].target)
    mean = own.score(lambda batch: torch.zeros_like(batch.asked["decode:hand_vel"].target), "valid")
    assert [score["decode:hand_vel"]["r2_variance_weighted"] for score in truth.values()] == pytest.approx([1, 1])
    assert all(score["decode:hand_vel"]["r2_variance_weighted"] <= 0 for score in mean.values())
    assert set(truth) == {"made/a", "made/b"}


def test_the_batches_of_a_prepared_model_are_those_of_the_command(ws):
    from spiketok.training.loop import train_loader

    settings = {"optim.steps": 5, "data.window_ms": 500, "data.batch_size": 8, "data.unit_dropout.min": 4}
    settings |= {"data.unit_dropout.mode": 6, "data.unit_dropout.max": 12}
    ready = ws.prepare("poyo", "a,b", settings=settings)
    own = train_loader(ready.config, ready.divided, ready.model, ready.tasks)
    dataset = ready.dataset()
    for epoch in range(2):
        dataset.set_epoch(epoch)
        theirs = [batch.clone() for batch in own]
        assert all(map(equal, theirs, dataset))
        assert len(theirs) == len(dataset)
    assert ready.steps == 5


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"split": "later"}, UnknownNameError, "unknown split 'later'"),
        ({"window_s": 0.015}, UsageError, "no multiple of the 20 ms bins"),
        ({"window_s": 100}, DataError, "no window"),
        ({"target": "gaze"}, DataError, "gaze"),
        ({"target": None, "task_settings": {"decode": {}}}, UsageError, "which is not asked"),
        ({"layout": "padded"}, UsageError, "give batch_size too"),
        ({"rank": 2, "world": 2}, UsageError, "rank is 2"),
        ({"bin_ms": 5}, DataError, "spiketok tokenize --scheme binned --bin-ms 5 (or tokenize=True)"),
        ({"split_rule": {"kind": "day"}}, UsageError, "divides sessions"),
        ({"split_rule": {"kind": "all"}, "split": "test"}, DataError, "no session has test time"),
    ],
)
def test_wrong_windows_are_refused_in_one_line(ws, asked, error, said):
    with pytest.raises(error) as caught:
        ws.dataset("binned", **(OF_AB | asked))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
