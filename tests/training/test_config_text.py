"""A configuration as TOML: every key with what it is and its source, and the same fingerprint when it is read back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from spiketok.errors import ChangedError, UsageError
from spiketok.models import MODELS
from spiketok.storage.files import write_json, write_signed
from spiketok.training.config import _keys, layers_of, load_config, model_class, with_transfer
from spiketok.training.config_text import _about, config_text


def read_back(text: str, folder: Path):
    file = folder / "printed.toml"
    file.write_text(text)
    return load_config(None, file)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_printed_is_read_back_to_the_same_fingerprint(model, tmp_path):
    for size in model_class(model).sizes:
        config = load_config(model, sets=[f'size="{size}"'])
        text = config_text(config, None, [f'size="{size}"'])
        again = read_back(text, tmp_path)
        assert again == config and again.fingerprint() == config.fingerprint()
        assert f"fingerprint {config.fingerprint()}" in text


GIVEN = [
    ["optim.steps=7", "optim.warmup_steps=3", "data.unit_dropout.mode=80", "model.dim=32", "seed=5"],
    ["optim.epochs=2", "optim.warmup_epochs=0.5", "optim.clip=off", "data.eval_step_ms=100", "transfer.full_steps=3"],
    ['optim.group_lr={"units"=10}', 'data.session_weights={"a/b c"=2.5}', 'data.unit_dropout="off"', "optim.lr=1e-05"],
    ['task.decode.weights={"phase=reach"=5}', "split.kind=block", "data.batch_size=16", "start=abc"],
]


@pytest.mark.parametrize("sets", GIVEN)
def test_given_settings_are_read_back_too_and_name_their_source(sets, tmp_path):
    config = load_config("poyo", sets=sets, tasks=["decode:hand_vel"])
    text = config_text(config, None, sets, ["decode:hand_vel"], set_by=["spiketok.toml", *["--set"] * (len(sets) - 1)])
    assert read_back(text, tmp_path) == config
    assert text.count("; spiketok.toml") >= 1 and text.count("; --set") >= 2
    assert 'tasks = ["decode:hand_vel"]  # ' in text and "--task" in text


def test_a_file_a_recipe_and_a_default_are_told_apart(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[optim]\nweight_decay = 0.5\n[model]\ndepth = 3\n")
    config = load_config("poyo", file, ["optim.steps=4"])
    lines = config_text(config, file, ["optim.steps=4"]).splitlines()
    (decay,) = [x for x in lines if x.startswith("weight_decay = 0.5")]
    assert decay.endswith(f"# float; file {file}")
    assert [x for x in lines if x.startswith("steps = 4 ") and x.endswith("int or off; --set")]
    assert [x for x in lines if x.startswith("depth = 3 ") and f"file {file}" in x]
    assert [x for x in lines if x.startswith("# dim_head = ") and "model preset" in x]
    assert [x for x in lines if x.startswith("betas = ") and ("default" in x or "recipe" in x)]


def test_a_run_is_a_configuration(tmp_path):
    sets = ["optim.steps=7", "optim.warmup_steps=3", "model.dim=32", 'data.unit_dropout="off"', "optim.clip=off"]
    config = load_config("ndt1", sets=sets, tasks=["population"])
    run = tmp_path / "ndt1-abc"
    write_signed(run / "config.json", config.to_dict())
    for path in (run, run / "config.json"):
        assert load_config(None, path) == config
        assert load_config("ndt1", path).fingerprint() == config.fingerprint()
    other = load_config(None, run, ["optim.epochs=2", "seed=3"])
    assert (other.optim.epochs, other.optim.steps, other.seed, other.model_overrides) == (2, None, 3, {"dim": 32})
    with pytest.raises(UsageError, match="the configuration is for model 'ndt1', asked for is 'poyo'"):
        load_config("poyo", run)
    write_json(run / "config.json", layers_of(run) | {"digest": "0" * 64})
    with pytest.raises(ChangedError):
        load_config(None, run)


def test_the_transfer_of_a_file_stands_before_the_sets(tmp_path):
    config = load_config("poyo")
    file = tmp_path / "t.toml"
    file.write_text("[transfer]\nfull_steps = 9\nidentity_steps = 8\n[optim]\nsteps = 1\n")
    found = with_transfer(config, ["transfer.full_steps=5"], file)
    assert (found.transfer.full_steps, found.transfer.identity_steps) == (5, 8)
    assert found.fingerprint() == config.fingerprint()
    text = config_text(found, file, ["transfer.full_steps=5"], sections=["transfer"])
    assert set(tomllib.loads(text)) == {"transfer"}
    (tmp_path / "again.toml").write_text(text)
    assert with_transfer(config, [], tmp_path / "again.toml") == found
    file.write_text("[transfer]\nfull_stepz = 9\n")
    with pytest.raises(UsageError, match="did you mean 'transfer.full_steps'"):
        with_transfer(config, [], file)


def test_all_keys_say_what_they_are():
    silent = {}
    for model in MODELS:
        said = _about(load_config(model))
        tables = ("data", "split", "optim", "transfer")
        silent[model] = [key for key, _ in _keys(model) if key not in said and key not in tables]
    assert not {model: keys for model, keys in silent.items() if keys}
