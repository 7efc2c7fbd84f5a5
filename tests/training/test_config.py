"""Configuration: defaults by model, TOML and --set on top, nothing unknown or of a wrong type gets through."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

import pytest

from spiketok.errors import UnknownNameError, UsageError
from spiketok.models import MODELS
from spiketok.settings import plain
from spiketok.training.config import (
    OptimConfig,
    RunConfig,
    default_size,
    explain,
    load_config,
    recipe,
    with_transfer,
)

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
        'seed = 7\ntasks = ["decode:cursor_vel"]\n[data]\nwindow_ms = 750\n[optim]\nlr = 5e-4\n[model]\ndepth = 3\n'
        '[data.session_weights]\n"a/b" = 2\n'
    )
    config = load_config("poyo", path, ["data.window_ms=600", "model.dim=32"])
    assert config.seed == 7
    assert config.data.window_ms == 600.0
    assert config.tasks == ("decode:cursor_vel",)
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
        ("dta.window_ms=5", "config key 'dta'", "data"),
        ("model.dpth=1", "config key 'model.dpth'", "model.depth"),
        ("model_overrides.depth=1", "config key 'model_overrides'", ""),
        ("size=tinny", "size 'tinny'", "tiny"),
        ("optim.name=adam", "value 'adam' in optim.name", "adamw"),
        ("data.unit_dropout.mod=3", "config key 'data.unit_dropout.mod'", "mode"),
        ("data.stitch=median", "value 'median' in data.stitch", "mean"),
        ("task.deccode.x=1", "config key 'task.deccode'", "task.decode"),
        ("tasks=decod:x", "task 'decod'", "decode"),
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
        ("data.segments=3", 'data.segments is 3, expected str (in quotes: "3")'),
        ("optim.betas=[0.9]", "optim.betas is [0.9], expected tuple[float, float]"),
        ("optim.betas=[0.9, 1.5]", "must be in [0, 1)"),
        ("data=3", "data is 3, expected a table"),
        ("seed=1.5", "seed is 1.5, expected int"),
        ("model.depth=deep", "model.depth is 'deep', expected int"),
        ("data.segments=trials", "expected 'observed', 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"),
        ("data.session_weights={a=-1}", "must not be negative"),
        ("split.train=0.9", "must sum to 1"),
        ("data.unit_dropout={min=5,mode=3,max=9}", "0 < min <= mode <= max"),
        ("transfer.full_lr=1e300", "transfer.full_lr is 1e+300, must be at most 1e+15"),
        ("optim.lr=1e38", "optim.lr is 1e+38, must be at most 1e+15"),
        ("optim.group_lr.units=1e16", "optim.group_lr['units'] is 1e+16, must be at most 1e+15"),
        ("model.dim=inf", "model.dim is inf, expected a finite number"),
        ("optim.steps=1000000001", "optim.steps is 1000000001, must be at most 1000000000"),
        ("optim.epochs=9223372036854775807", "optim.epochs is 9223372036854775807, must be at most 1000000000"),
        ("transfer.adapt_steps=10000000000", "transfer.adapt_steps is 10000000000, must be at most 1000000000"),
        ("optim.warmup_epochs=1e308", "optim.warmup_epochs is 1e+308, must be at most 1000000000"),
        ("data.eval_step_ms=1e-6", "data.eval_step_ms is 1e-06 and data.window_ms is 1000: every moment would lie in"),
        ("transfer.map_draws=1000000000000", "transfer.map_draws is 1000000000000, must be at most 1000"),
        ("transfer.adapt_blocks=1001", "transfer.adapt_blocks is 1001, must be at most 1000"),
        ("transfer.unfreeze_after=-1", "transfer.unfreeze_after is -1, must not be negative"),
        ("optim.epochs=-1", "optim.epochs is -1, must be above 0"),
        ("optim.accumulate=0", "optim.accumulate is 0, must be above 0"),
        ("optim.group_lr={readout=-1}", "optim.group_lr['readout'] is -1.0, must not be negative"),
        ("optim.pct_start=1", "optim.pct_start 1.0 and"),
        ("optim.warmup_steps=-1", "optim.warmup_steps is -1, must not be negative"),
        ("optim={warmup_steps=5,warmup_epochs=1}", "optim.warmup_steps is 5 and optim.warmup_epochs is 1: give one of"),
        ("optim={warmup=0.1,warmup_epochs=1}", "optim.warmup is 0.1 and optim.warmup_epochs is 1: give one of"),
        ("data.target=hand_vel", "use --task decode:hand_vel"),
        ("data.target=auto", "use --task decode"),
        ("task.decode=3", "task['decode'] is 3, expected a table"),
        ("tasks=decode:", "task 'decode:' names nothing behind its colon"),
        ("tasks=decode,decode", "each question once"),
        ("noequals", "--set 'noequals' must read KEY=VALUE"),
        ("data.segments=a b", "neither a TOML value nor a bare word"),
    ],
)
def test_a_wrong_value_is_refused_with_both_sides(text, message):
    with pytest.raises(UsageError) as caught:
        load_config("poyo", None, [text])
    assert message in str(caught.value)


def test_bare_words_and_toml_values():
    sets = ["tasks=decode:hand_vel", "data.segments=trials:go_cue,-200,800", "data.unit_dropout={min=2,mode=3,max=4}"]
    config = load_config("poyo", None, [*sets, "size=1.3M", "optim.clip=0.5", "optim.betas=[0.9,0.95]"])
    assert config.tasks == ("decode:hand_vel",)
    assert config.data.segments == "trials:go_cue,-200,800"
    assert (config.data.unit_dropout.mode, config.data.unit_dropout.peak) == (3, 4.0)
    assert config.optim.betas == (0.9, 0.95)
    assert load_config("poyo", None, ["split.set=2024-01-01"]).split.set == "2024-01-01"  # a date to TOML
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
    changed = [
        "tasks=decode:x",
        "data.stitch=causal",
        "optim.accumulate=2",
        "seed=1",
        "data.window_ms=500",
        "model.depth=1",
        "split.kind=block",
        "optim.lr=1e-4",
        "size=1.3M",
    ]
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
    keys = {row.key for row in explain("poyo", "1.3M")}
    assert {f"model.{f.name}" for f in fields(MODELS["poyo"].Config)} <= set(keys)
    assert "data.unit_dropout.mode" in keys
    assert not any(key.startswith("model_overrides") for key in keys)


# ---- tasks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GuessConfig:
    tries: int = 3
    share: float = 0.5


class Guess:
    like = ""
    kind = "guess"
    Config = GuessConfig


@pytest.fixture
def guesses(monkeypatch):
    """A kind of question that the model can answer and that has settings."""
    from spiketok.training import tasks

    monkeypatch.setitem(tasks.TASKS, "guess", Guess)
    monkeypatch.setattr(MODELS["poyo"], "tasks", ("decode", "guess"))


def test_the_questions_of_a_run(guesses, tmp_path):
    assert load_config("poyo").tasks == ()
    assert load_config("poyo").questions() == (("decode", ""),)
    asked = load_config("poyo", tasks=["decode:hand_vel, guess", "decode:eye_vel"])
    assert asked.tasks == ("decode:hand_vel", "guess", "decode:eye_vel")
    assert asked.questions() == (("decode", "hand_vel"), ("guess", ""), ("decode", "eye_vel"))
    path = tmp_path / "run.toml"
    path.write_text('tasks = ["guess"]\n[task.guess]\ntries = 5\n')
    config = load_config("poyo", path, ["task.guess.share=1"])
    assert config.tasks == ("guess",)
    assert config.task_config("guess") == GuessConfig(5, 1.0)
    assert load_config("poyo", path, ["tasks=decode"], ["decode:x"]).tasks == ("decode:x",)  # --task over --set
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert load_config("poyo").task_config("guess") == GuessConfig()
    assert {"task.guess.tries", "task.guess.share", "tasks"} <= {row.key for row in explain("poyo", "1.3M")}
    for text, message in (
        ("task.guess.tries=1.5", "task.guess.tries is 1.5, expected int"),
        ("task.guess.trys=1", "unknown config key 'task.guess.trys': did you mean 'task.guess.tries'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_config("poyo", None, [text])


def test_a_model_says_which_questions_it_does_not_answer(guesses):
    with pytest.raises(UsageError, match="model 'linear' answers decode, not guess: choose another --task or --model"):
        load_config("linear", tasks=["guess"])
    with pytest.raises(UnknownNameError, match="unknown config key 'task.guess'"):
        load_config("linear", None, ["task.guess.tries=1"])
    with pytest.raises(UnknownNameError, match="unknown task 'gess': did you mean 'guess'"):
        load_config("poyo", tasks=["gess"])


# ---- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), EVERY_SIZE)
def test_the_recipe_of_a_model_stands_in_its_class(name, size):
    own = recipe(name, size)
    assert own is (MODELS[name].recipes.get(size) or MODELS[name].recipes["*"])
    assert set(own) <= {"data", "optim", "task", "transfer"}
    before = json.dumps(own)
    load_config(name, None, [f"size={size}", "optim.lr=0.5", "data.batch_size=3"])
    assert json.dumps(own) == before  # nothing that a run asks for stays in the class


def test_a_model_without_a_recipe_trains_for_some_epochs(monkeypatch):
    monkeypatch.setattr(MODELS["poyo"], "recipes", {})
    assert load_config("poyo").optim == OptimConfig(epochs=100)
    assert load_config("poyo", None, ["optim.steps=3"]).optim == OptimConfig(steps=3)


def test_a_later_layer_says_how_long_the_warm_up_is(monkeypatch):
    monkeypatch.setattr(MODELS["poyo"], "recipes", {"*": {"optim": {"epochs": 5, "warmup_epochs": 1}}})
    assert load_config("poyo").optim.warmup_epochs == 1.0
    by_share = load_config("poyo", None, ["optim.warmup=0.2"]).optim
    assert (by_share.warmup, by_share.warmup_steps, by_share.warmup_epochs) == (0.2, None, None)
    by_steps = load_config("poyo", None, ["optim.warmup=0.2", "optim.warmup_steps=7"]).optim
    assert (by_steps.warmup, by_steps.warmup_steps, by_steps.warmup_epochs) == (0.05, 7, None)


@pytest.mark.parametrize(("name", "size"), EVERY_SIZE)
def test_every_key_is_explained(name, size):
    rows = explain(name, size)
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    config = load_config(name, None, [f"size={size}"])
    told = {row.key: row.default for row in rows}
    for f in fields(config.optim):
        assert told[f"optim.{f.name}"] == plain(getattr(config.optim, f.name))
    for f in fields(MODELS[name].Config):
        assert told[f"model.{f.name}"] == plain(getattr(config.model_config(), f.name))
    assert told["size"] == size and told["tasks"] == list(MODELS[name].default_tasks)
    assert {row.source.split(" of ")[0] for row in rows} <= {"default", "recipe", "model preset"}


def test_where_a_default_comes_from():
    rows = {row.key: row for row in explain("poyo", "1.3M")}
    assert rows["optim.lr"][1:] == ("float", pytest.approx(4e-3), "recipe of size 1.3M, 3.125e-05 a window")
    assert rows["optim.name"][1:] == ("adamw or lamb", "lamb", "recipe of size 1.3M")
    assert rows["optim.clip"][1:] == ("float or off", None, "recipe of size 1.3M")
    assert rows["optim.steps"][1:] == ("int or off", None, "default")
    assert rows["data.unit_dropout.mode"][1:] == ("int", 100, "recipe of size 1.3M")
    tiny = {row.key: row for row in explain("poyo", "tiny")}
    assert tiny["data.unit_dropout"][2:] == (None, "default")
    assert tiny["data.unit_dropout.mode"][2:] == (100, "default")
    assert (tiny["model.depth"].source, tiny["model.dim"].source) == ("model preset", "default")
    with pytest.raises(UnknownNameError, match="unknown size 'tinny'"):
        explain("poyo", "tinny")


# ---- adaptation -----------------------------------------------------------------------------------------------------


def test_only_the_adaptation_can_change_afterwards():
    config = load_config("poyo")
    assert with_transfer(config, ["transfer.full_steps=3"]).transfer.full_steps == 3
    with pytest.raises(UsageError, match=r"only transfer.\* can be changed here"):
        with_transfer(config, ["optim.lr=1"])
    with pytest.raises(UnknownNameError, match="did you mean 'transfer.full_steps'"):
        with_transfer(config, ["transfer.ful_steps=1"])


def test_a_run_of_before_is_refused_in_one_line():
    values = load_config("poyo").to_dict()
    values["data"]["target"] = "x"
    with pytest.raises(UnknownNameError, match="unknown config key 'target' in data"):
        RunConfig.from_dict(values)
