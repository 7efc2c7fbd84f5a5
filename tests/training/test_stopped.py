"""A training that is stopped by a signal is written as it is, and goes on to the bytes of one that never was."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from spiketok.stopping import Stopped
from spiketok.training import loop
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session

KINDS = {
    "adamw": ["optim.name=adamw"],
    "lamb": ["optim.name=lamb", "optim.validate_every=3", "data.unit_dropout={min=3,mode=5,max=9}"],
    "accumulated": ["optim.name=adamw", "optim.accumulate=3", "optim.checkpoint_every=0"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four sessions, of which a batch holds one or two: rows of the others wait."""
    folder = tmp_path_factory.mktemp("shards")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=4 + k, seconds=20)) for k in range(4)]


def files_of(run_dir) -> dict[str, bytes]:
    files = [*(run_dir / "checkpoint").iterdir(), run_dir / "result.json"]
    return {p.name: p.read_bytes() for p in files}


@pytest.mark.parametrize("kind", ["adamw", *(pytest.param(k, marks=pytest.mark.long) for k in ("lamb", "accumulated"))])
def test_a_stopped_training_goes_on_to_the_same_bytes(shards, tmp_path, monkeypatch, kind):
    config = load_config("poyo", None, [*SMALL_POYO, "data.batch_size=2", "optim.steps=16", *KINDS[kind]])
    train(config, shards, tmp_path / "whole")
    rates, moments = loop.set_rates, {4, 10}

    def signalled(optimizer, step, *rest):
        if step in moments:
            moments.remove(step)
            signal.raise_signal(signal.SIGINT if step == 4 else signal.SIGTERM)
        return rates(optimizer, step, *rest)

    monkeypatch.setattr(loop, "set_rates", signalled)
    cut, told = tmp_path / "cut", []
    for reached in (5, 11):
        with pytest.raises(Stopped, match=rf"cut is saved at step {reached} of 16"):
            train(config, shards, cut, on_event=told.append)
        assert load_run(cut).step == reached and not (cut / "result.json").exists()
    waits = [key for key in load_file(cut / "checkpoint" / "train_state.safetensors") if "/waiting/" in key]
    assert bool(waits) == (kind == "adamw")
    assert train(config, shards, cut, on_event=told.append).resumed_from == 11
    assert [one["step"] for one in told if one["event"] == "start"] == [0, 5, 11]
    assert files_of(cut) == files_of(tmp_path / "whole")
    lines = [
        [json.loads(line) | {"windows_per_s": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (cut, tmp_path / "whole")
    ]
    assert lines[0] == lines[1]  # as if nothing had been: also the means of a line that a stop divided


def test_what_a_stopped_training_wrote_is_what_its_model_was(shards, tmp_path, monkeypatch):
    """Readers of the checkpoint have all rows up to date; those that wait are beside them, for the training alone."""
    config = load_config("poyo", None, [*SMALL_POYO, "data.batch_size=2", "optim.steps=6", "optim.checkpoint_every=0"])
    rates, seen = loop.set_rates, {}

    def at_fifth(optimizer, step, *rest):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return rates(optimizer, step, *rest)

    write = loop.write_checkpoint

    def looking(run_dir, *, model, **rest):
        table = model.units
        seen["late"] = table.late is None or table.late(torch.arange(len(table.weight)))
        write(run_dir, model=model, **rest)

    monkeypatch.setattr(loop, "set_rates", at_fifth)
    monkeypatch.setattr(loop, "write_checkpoint", looking)
    with pytest.raises(Stopped):
        train(config, shards, tmp_path / "cut")
    assert seen["late"] in (None, True)
    assert any("/waiting/" in key for key in load_file(tmp_path / "cut/checkpoint/train_state.safetensors"))
