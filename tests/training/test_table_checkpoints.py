"""Checkpoints of tables: a resumed run has the same bytes, and what version 2 held block by block is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spiketok.models.nn import module_key
from spiketok.storage.files import content_digest, sha256_file
from spiketok.training import loop
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.tables import LazyRows
from tests.decodable import SMALL_POYO, bake_tokens, decodable_session

TABLES = ("units", "session_table")


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Six sessions, of which a batch holds one or two."""
    folder = tmp_path_factory.mktemp("shards")
    return [bake_tokens(folder, decodable_session(f"day{k}", k, n_units=4 + k, seconds=20)) for k in range(6)]


def config_of(name: str):
    return load_config("poyo", None, [*SMALL_POYO, "data.batch_size=2", "optim.steps=24", f"optim.name={name}"])


def files_of(run_dir: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run_dir / "checkpoint").iterdir())}


def stop_at(step: int):
    def listen(event):
        if (event["event"], event.get("step")) == ("checkpoint", step):
            raise Stopped

    return listen


@pytest.fixture(scope="module", params=["adamw", pytest.param("lamb", marks=pytest.mark.long)])
def runs(request, shards, tmp_path_factory):
    """A whole run of 24 steps, and one that was stopped after the checkpoint of step 8."""
    folder, config = tmp_path_factory.mktemp(request.param), config_of(request.param)
    train(config, shards, folder / "whole")
    with pytest.raises(Stopped):
        train(config, shards, folder / "cut", on_event=stop_at(8))
    return folder, config


def as_version_2(run_dir: Path) -> None:
    """Write a checkpoint as it was before: every block of a table, and its moments, a tensor of its own."""
    folder = run_dir / "checkpoint"
    facts = json.loads((folder / "checkpoint.json").read_text())
    for name in ("model.safetensors", "train_state.safetensors"):
        tensors, old = load_file(folder / name), {}
        for key, tensor in tensors.items():
            table, _, rest = key.partition(".weight")
            if table not in TABLES:
                old[key] = tensor
                continue
            first = 0
            for session, units in facts["extra_state"]["units"]:
                n = len(units) if table == "units" else 1
                part = tensor[first : first + n] if tensor.ndim else tensor
                old[f"{table}.blocks.{module_key(session)}{rest}"] = part.clone()
                first += n
        save_file(old, folder / name)
        facts["files"][name] = sha256_file(folder / name)
    facts = {key: value for key, value in facts.items() if key != "digest"} | {"version": 2}
    (folder / "checkpoint.json").write_text(json.dumps(facts | {"digest": content_digest(facts)}))


def test_a_resumed_run_of_rows_that_wait_has_the_same_bytes(runs, shards, tmp_path, monkeypatch):
    folder, config = runs
    shutil.copytree(folder / "cut", tmp_path / "run")
    waited = []
    catch_up = LazyRows.catch_up
    monkeypatch.setattr(
        LazyRows, "catch_up", lambda self: (waited.append(len(self.missed.behind())), catch_up(self))[1]
    )
    assert train(config, shards, tmp_path / "run").resumed_from == 8
    assert files_of(tmp_path / "run") == files_of(folder / "whole")
    if config.optim.name == "adamw":
        assert max(waited) > 5  # some rows did wait


def test_version_2_is_read_and_continued(runs, shards, tmp_path):
    folder, config = runs
    whole = load_run(folder / "whole")
    shutil.copytree(folder / "whole", tmp_path / "whole")
    as_version_2(tmp_path / "whole")
    assert not any(name.endswith("units.weight") for name in load_file(tmp_path / "whole/checkpoint/model.safetensors"))
    old = load_run(tmp_path / "whole")
    assert old.facts["version"] == 2
    for (name, a), (_, b) in zip(old.model.named_parameters(), whole.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    again = train(config, shards, tmp_path / "whole")
    assert again.resumed_from == 24
    assert again.scores == json.loads((folder / "whole" / "result.json").read_text())["test"]

    shutil.copytree(folder / "cut", tmp_path / "cut")
    as_version_2(tmp_path / "cut")
    assert train(config, shards, tmp_path / "cut").resumed_from == 8
    assert files_of(tmp_path / "cut") == files_of(folder / "whole")


def test_rows_wait_for_no_validation(shards, tmp_path, monkeypatch):
    """What is scored and what is written is the parameter itself: no row of it waits."""
    seen = []
    score = loop.score_split

    def looking(model, *rest, **modes):
        seen.append(model.units.late is None or model.units.late(torch.arange(len(model.units.weight))) is None)
        return score(model, *rest)

    monkeypatch.setattr(loop, "score_split", looking)
    train(load_config("poyo", None, [*SMALL_POYO, "data.batch_size=2", "optim.validate_every=5"]), shards, tmp_path)
    assert seen == [True] * 3
