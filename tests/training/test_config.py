"""Configuration: defaults by model, TOML and --set on top, nothing unknown or of a wrong type gets through."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from spiketok.errors import UnknownNameError, UsageError
from spiketok.models import MODELS
from spiketok.training.config import RunConfig, config_keys, default_size, load_config

EVERY_SIZE = [(name, size) for name, model in MODELS.items() for size in model.sizes]


@pytest.mark.parametrize(("name", "size"), EVERY_SIZE)
def test_every_size_of_every_model_has_defaults_and_survives_json(name, size):
    config = load_config(name, None, [f"size={size}"])
    assert (config.model, config.size) == (name, size)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(config.model_config(), MODELS[name].Config)


def test_without_anything_the_size_that_runs_anywhere_is_taken():
    assert load_config("poyo").size == default_size("poyo") == "tiny"
    assert load_config("poyo").optim.accelerator == "cpu"


def test_the_published_recipe_of_poyo():
    config = load_config("poyo", None, ["size=1.3M"])
    assert (config.optim.name, config.optim.schedule, config.optim.epochs) == ("lamb", "onecycle", 1000)
    assert config.optim.weight_decay == 1e-4
    assert config.optim.lr == pytest.approx(3.125e-5 * 128)
    assert (config.data.unit_dropout.min, config.data.unit_dropout.max) == (30, 300)
    larger = load_config("poyo", None, ["size=1.3M", "data.batch_size=1024"])
    assert larger.optim.lr == pytest.approx(3.2e-2)
    assert load_config("poyo", None, ["size=1.3M", "data.batch_size=1024", "optim.lr=0.5"]).optim.lr == 0.5


def test_sets_go_over_the_file_and_the_file_over_the_recipe(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'seed = 7\n[data]\nwindow_ms = 750\ntarget = "cursor_vel"\n[optim]\nlr = 5e-4\n[model]\ndepth = 3\n'
        '[data.session_weights]\n"a/b" = 2\n'
    )
    config = load_config("poyo", path, ["data.window_ms=600", "model.dim=32"])
    assert config.seed == 7
    assert config.data.window_ms == 600.0
    assert config.data.target == "cursor_vel"
    assert config.data.session_weights == {"a/b": 2.0}
    assert config.optim.lr == 5e-4
    assert (config.model_config().depth, config.model_config().dim) == (3, 32)


def test_a_file_can_name_the_model(tmp_path):
    named, tabled = tmp_path / "named.toml", tmp_path / "tabled.toml"
    named.write_text('model = "linear"\n')
    tabled.write_text('[model]\nname = "linear"\nlags = 4\n')
    assert load_config(None, named).model == "linear"
    assert load_config(None, tabled).model_config().lags == 4
    with pytest.raises(UsageError, match="is for model 'linear', asked for is 'poyo'"):
        load_config("poyo", named)
    with pytest.raises(UsageError, match="no model is named"):
        load_config(None)


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("data.windw_ms=1", "config key 'data.windw_ms'", "data.window_ms"),
        ("optim.learning_rate=1", "config key 'optim.learning_rate'", ""),
        ("dta.target=x", "config key 'dta'", "data"),
        ("model.dpth=1", "config key 'model.dpth'", "model.depth"),
        ("model_overrides.depth=1", "config key 'model_overrides'", ""),
        ("size=tinny", "size 'tinny'", "tiny"),
        ("optim.name=adam", "value 'adam' in optim.name", "adamw"),
        ("data.unit_dropout.mod=3", "config key 'data.unit_dropout.mod'", "mode"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text, kind, hint):
    with pytest.raises(UnknownNameError) as caught:
        load_config("poyo", None, [text])
    assert f"unknown {kind}" in str(caught.value)
    assert hint in str(caught.value).split(":", 1)[1]


def test_an_unknown_model_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown model 'poio': did you mean 'poyo'"):
        load_config("poio")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data.batch_size=many", "data.batch_size is 'many', expected int"),
        ("data.batch_size=1.5", "data.batch_size is 1.5, expected int"),
        ("data.batch_size=true", "data.batch_size is True, expected int"),
        ("data.window_ms=[1]", "data.window_ms is [1], expected float"),
        ("data.window_ms=0", "data.window_ms is 0.0, must be above 0"),
        ("data.target=3", "data.target is 3, expected str"),
        ("optim.betas=[0.9]", "optim.betas is [0.9], expected tuple[float, float]"),
        ("optim.betas=[0.9, 1.5]", "must be in [0, 1)"),
        ("data=3", "data is 3, expected a table"),
        ("seed=1.5", "seed is 1.5, expected int"),
        ("model.depth=deep", "model.depth is 'deep', expected int"),
        ("data.segments=trials", "expected 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"),
        ("data.session_weights={a=-1}", "must not be negative"),
        ("split.train=0.9", "must sum to 1"),
        ("data.unit_dropout={min=5,mode=3,max=9}", "0 < min <= mode <= max"),
        ("transfer.unfreeze_after=-1", "transfer.unfreeze_after is -1, must not be negative"),
        ("optim.epochs=-1", "optim.epochs is -1, must be above 0"),
        ("noequals", "must read section.key=value"),
        ("data.target=a b", "neither a TOML value nor a bare word"),
    ],
)
def test_a_wrong_value_is_refused_with_both_sides(text, message):
    with pytest.raises(UsageError) as caught:
        load_config("poyo", None, [text])
    assert message in str(caught.value)


def test_bare_words_and_toml_values():
    sets = ["data.target=hand_vel", "data.segments=trials:go_cue,-200,800", "data.unit_dropout={min=2,mode=3,max=4}"]
    config = load_config("poyo", None, [*sets, "size=1.3M", "optim.clip=0.5", "optim.betas=[0.9,0.95]"])
    assert config.data.target == "hand_vel"
    assert config.data.segments == "trials:go_cue,-200,800"
    assert (config.data.unit_dropout.mode, config.data.unit_dropout.peak) == (3, 4.0)
    assert config.optim.betas == (0.9, 0.95)
    assert load_config("poyo", None, ["data.target=2024-01-01"]).data.target == "2024-01-01"  # a date to TOML
    assert load_config("poyo", None, ["size=1.3M", "data.unit_dropout=off"]).data.unit_dropout is None
    assert load_config("poyo", None, ["optim.clip=off"]).optim.clip is None


def test_length_is_epochs_or_steps_and_the_later_layer_decides(tmp_path):
    assert load_config("poyo").optim.epochs is None
    by_epochs = load_config("poyo", None, ["optim.epochs=3"]).optim
    assert (by_epochs.epochs, by_epochs.steps) == (3, None)
    path = tmp_path / "run.toml"
    path.write_text("[optim]\nepochs = 5\n")
    over = load_config("poyo", path, ["optim.steps=9"]).optim
    assert (over.epochs, over.steps) == (None, 9)
    path.write_text("[optim]\nepochs = 5\nsteps = 5\n")
    with pytest.raises(UsageError, match="give one of the two"):
        load_config("poyo", path)


def test_evaluation_steps_half_a_window_unless_told():
    assert load_config("poyo", None, ["data.window_ms=600"]).data.eval_step_ns == 300_000_000
    assert load_config("poyo", None, ["data.eval_step_ms=100"]).data.eval_step_ns == 100_000_000
    assert load_config("poyo", None, ["data.eval_step_ms=100", "data.eval_step_ms=auto"]).data.eval_step_ms is None


def test_the_fingerprint_follows_what_shapes_the_checkpoint_and_nothing_else():
    base = load_config("poyo").fingerprint()
    assert load_config("poyo").fingerprint() == base
    assert load_config("poyo", None, ["transfer.full_steps=77"]).fingerprint() == base
    changed = ["seed=1", "data.window_ms=500", "model.depth=1", "split.kind=block", "optim.lr=1e-4", "size=1.3M"]
    assert len({load_config("poyo", None, [s]).fingerprint() for s in changed} | {base}) == len(changed) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[data\n", "is not TOML"), (b"\xff\xfe", "is not TOML"), (b"model = 3\n", "model is 3, expected a table")],
)
def test_a_bad_file_is_one_clear_line(tmp_path, content, message):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_config("poyo", path)
    with pytest.raises(UsageError, match="no configuration file"):
        load_config("poyo", tmp_path / "absent.toml")


def test_the_listed_keys_are_the_keys_that_are_taken():
    keys = config_keys("poyo")
    assert {f"model.{f.name}" for f in fields(MODELS["poyo"].Config)} <= set(keys)
    assert "data.unit_dropout.mode" in keys
    assert not any(key.startswith("model_overrides") for key in keys)
