"""The configuration of a run: frozen dataclasses, filled from the model's recipe, a TOML file and ``--set``.

What is unusual:

- every number that shapes a result is a field here and stands in the resolved copy beside the result;
- defaults depend on the model and its size (``Model.recipes``, in the model's own file), never on the data;
- an unknown key is refused with the nearest name, a wrong type with the value and the type that is expected
  (``spiketok.settings``);
- where a recipe ties the learning rate to the batch size (POYO: 3.125e-5 a window), it follows a changed batch size.

TOML has no null, so optional values have a word: ``unit_dropout = "off"``, ``eval_step_ms = "auto"``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from spiketok.errors import UnknownNameError, UsageError, the_one
from spiketok.models import MODELS
from spiketok.models.batch import Timing
from spiketok.recording.splits import SplitRule
from spiketok.settings import build, keys_of, merge, parse_assignment, plain, read_toml, type_text
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import fingerprint
from spiketok.storage.records import CONFIG, is_run, run_config
from spiketok.training.sections import RIVALS, DataConfig, OptimConfig, TransferConfig, UnitDropoutConfig

LATENTS = "latents"  # the behaviour that the latents of another run are, and what its model calls them
NO_RECIPE = {"optim": {"epochs": 100}}  # of a model whose class has none


@dataclass(frozen=True)
class RunConfig:
    """Everything that shapes a trained model, and how it will adapt.

    Args:
        model: its name in ``MODELS``. size: one of the model's presets.
        seed: of the weights, the windows, dropout.
        tasks: the questions of the run, each a kind of question, with what is asked after a colon
            (``"decode:cursor_vel"``); empty for the model's ``default_tasks``.
        task: settings of the questions, by kind; :meth:`task_config` builds them.
        model_overrides: fields of the model's own Config that differ from the preset; ``[model]`` in TOML.
        start: digest of the checkpoint whose weights the training starts from (``train --from RUN``); empty for fresh
            ones.
        latents: digest of the checkpoint whose latents are the behaviour ``latents`` (``train --latents RUN``); empty
            for none.
    """

    model: str
    size: str
    seed: int = 42
    tasks: tuple[str, ...] = ()
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitRule = field(default_factory=SplitRule)
    task: dict[str, dict[str, object]] = field(default_factory=dict)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(epochs=100))
    transfer: TransferConfig = field(default_factory=TransferConfig)
    model_overrides: dict[str, object] = field(default_factory=dict)
    start: str = ""
    latents: str = ""

    def model_config(self):
        """The model's own Config: the preset of the size, with the overrides.

        Raises:
            UnknownNameError, UsageError: the size or a field is unknown, or a value has the wrong type.
        """
        model = model_class(self.model)
        if self.size not in model.sizes:
            raise UnknownNameError("size", self.size, model.sizes, f"model '{self.model}'")
        return build(model.Config, {**model.sizes[self.size], **self.model_overrides}, "model")

    def task_config(self, kind: str):
        """The settings of a kind of question: its own Config, with what the run gives.

        Raises:
            UnknownNameError, UsageError: there is no such kind or field, or a value has the wrong type.
        """
        return build(task_class(kind).Config, self.task.get(kind, {}), f"task.{kind}")

    def questions(self) -> tuple[tuple[str, str], ...]:
        """The kind of each question of the run, and what it asks (empty where that is left open)."""
        return tuple(split_question(text) for text in self.tasks or model_class(self.model).default_tasks)

    @property
    def timing(self) -> Timing:
        """The windows and bins of the run, as models and tasks take them."""
        return Timing(self.data.window_ns, round(self.data.bin_ms * 1e6))

    def to_dict(self) -> dict[str, object]:
        """JSON-able; :meth:`from_dict` gives the same configuration back."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> RunConfig:
        """A configuration from :meth:`to_dict`, as strictly checked as one from TOML."""
        return build(cls, values)

    def fingerprint(self) -> str:
        """Names all that shapes the checkpoint (everything but ``transfer``).

        What came later than the first runs is left out at its default, so that those keep their names.
        """
        values = {key: value for key, value in self.to_dict().items() if key != "transfer"}
        if self.data.train_share == 1:
            del values["data"]["train_share"]
        if not self.data.exposure:
            del values["data"]["exposure"]
        if self.data.curriculum == "off":
            values["data"] = {k: v for k, v in values["data"].items() if not k.startswith("curriculum")}
        if not self.start:
            del values["start"]
        if not self.latents:
            del values["latents"]
        if not self.optim.hold_steps:
            del values["optim"]["hold_steps"]
        return fingerprint(values)


# ---- models and their recipes ---------------------------------------------------------------------------------------


def model_class(name: str) -> type:
    """The model of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]


def task_class(kind: str) -> type:
    """The kind of question of this name.

    Raises:
        UnknownNameError: there is none.
    """
    known = tasks_known()
    if kind not in known:
        raise UnknownNameError("task", kind, known)
    return known[kind]


def tasks_known() -> Mapping[str, type]:
    """The kinds of question by name."""
    from spiketok.training.tasks import TASKS  # its modules may import this one

    return TASKS


def serves_kind(model: str, kind: str) -> bool:
    """Whether a model answers a kind of question, or one of a package's that is answered like one of its own."""
    serves = model_class(model).tasks
    return kind in serves or task_class(kind).like in serves


def recipe(model: str, size: str) -> dict[str, dict]:
    """The defaults of a model's size, by section, from its class; ``"*"`` there stands for the other sizes."""
    own = getattr(model_class(model), "recipes", {})
    return own.get(size) or own.get("*") or NO_RECIPE


def default_size(model: str) -> str:
    """``"tiny"`` where the model has it (it runs anywhere), else its first preset."""
    sizes = model_class(model).sizes
    return "tiny" if "tiny" in sizes else next(iter(sizes))


def split_question(text: str) -> tuple[str, str]:
    """A question's kind and what it asks.

    Raises:
        UnknownNameError: there is no such kind. UsageError: nothing stands behind the colon.

    >>> split_question("decode:cursor_vel")
    ('decode', 'cursor_vel')
    """
    kind, colon, name = (part.strip() for part in text.partition(":"))
    task_class(kind)
    if colon and not name:
        message = f"task '{text}' names nothing behind its colon: use {kind} or {kind}:NAME"
        raise UsageError(message)
    return kind, name


def _question(text: str) -> str:
    """A question as it is typed, whose kind may be the beginning of one's name."""
    from spiketok.training.tasks import TASKS

    kind, colon, name = text.partition(":")
    return f"{the_one('task', kind.strip(), TASKS)}{colon}{name}"


# ---- loading --------------------------------------------------------------------------------------------------------


def layers_of(path: Path) -> dict[str, object]:
    """What ``--config`` names as the tables of a TOML file: such a file, or a run's own folder or configuration.

    Raises:
        UsageError: it cannot be read. ArtefactError: a run's configuration was changed.
    """
    run = _run_of(path)
    if run is None:
        return _read(path)
    values = {key: value for key, value in run_config(run).items() if key != "digest"}
    optim = values.get("optim", {})
    values["optim"] = {key: value for key, value in optim.items() if value is not None or key == "clip"}
    if any(key in values["optim"] for key in RIVALS[1][1:]):
        values["optim"].pop("warmup", None)
    return values | {"model": {"name": values["model"], **values.pop("model_overrides", {})}}


def _run_of(path: Path) -> Path | None:
    """The folder of the run whose configuration a path means; None for a file of one's own."""
    folder = path.parent if path.name == CONFIG else path
    return folder if is_run(folder) else None


def _read(path: Path) -> dict[str, object]:
    try:
        return read_toml(path)
    except OSError as error:
        raise_cause(error, path, UsageError)
        raise


def load_config(
    model: str | None,
    path: Path | None = None,
    sets: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
) -> RunConfig:
    """The configuration of a run: recipe, TOML file, ``--set``, ``--task``, each over the one before.

    Args:
        model: the name given on the command line; None takes it from the file.
        path: a TOML file with any of the keys of :class:`RunConfig`; the table ``[model]`` holds the model's own; or a
            run, whose whole configuration it is.
        sets: ``"section.key=value"``, the value in TOML; a bare word is a string.
        tasks: the questions, as ``["decode:cursor_vel", "population"]``; one text may hold several with commas.

    Raises:
        UnknownNameError: a model, size, key or task is unknown. UsageError: a value is wrong, no model is named, or the
            model cannot answer a question.
    """
    layers = [layers_of(path)] if path is not None else []
    layers += [parse_assignment(text, "--set") for text in sets or []]
    if tasks:
        words = [word.strip() for text in tasks for word in text.split(",") if word.strip()]
        layers.append({"tasks": [_question(word) for word in words]})
    given: dict[str, object] = {}
    for layer in layers:
        _refuse_rivals(layer)
        given = _over(given, layer)
    name = _model_name(model, given)
    chosen = model_class(name)
    size = given.pop("size", default_size(name))
    size = the_one("size", str(size), chosen.sizes, f"model '{name}'")
    return _resolve(name, size, given)


def with_transfer(config: RunConfig, sets: Sequence[str], path: Path | None = None) -> RunConfig:
    """A run's configuration with other settings of the adaptation, which shape no checkpoint.

    Args:
        sets: ``"transfer.key=value"``. path: a file or a run whose ``[transfer]`` stands before them.

    Raises:
        UsageError: a key is of another section. UnknownNameError: it does not exist.
    """
    values = config.to_dict()
    if path is not None:
        layer = {"transfer": layers_of(path).get("transfer", {})}
        _refuse_unknown(config.model, layer, {})
        values = merge(values, layer)
    for text in sets:
        layer = parse_assignment(text, "--set")
        if set(layer) != {"transfer"}:
            message = f"--set '{text}': only transfer.* can be changed here, the rest shaped the checkpoint"
            raise UsageError(message)
        _refuse_unknown(config.model, layer, {})
        values = merge(values, layer)
    return RunConfig.from_dict(values)


def _model_name(model: str | None, given: dict[str, object]) -> str:
    """The model's name, from the command line or as ``model.name`` (or ``model = "..."``), which is taken out."""
    table = given.get("model", {})
    if isinstance(table, str):
        named, given["model"] = table, {}
    else:
        named = table.pop("name", None) if isinstance(table, dict) else None
    if named is not None and not isinstance(named, str):
        message = f"model.name is {named!r}, expected str"
        raise UsageError(message)
    model = None if model is None else the_one("model", model, MODELS)
    named = None if named is None else the_one("model", named, MODELS)
    if model is not None and named is not None and named != model:
        message = f"the configuration is for model '{named}', asked for is '{model}'"
        raise UsageError(message)
    if model is None and named is None:
        message = f"no model is named: give --model ({', '.join(MODELS)})"
        raise UsageError(message)
    return model or named


def _resolve(name: str, size: str, given: dict[str, object]) -> RunConfig:
    overrides = given.pop("model", {})
    _refuse_unknown(name, given, overrides)
    values = _over(recipe(name, size), given)
    optim = values.get("optim")
    if isinstance(optim, dict) and "lr_per_window" in optim:
        per_window = optim.pop("lr_per_window")
        optim.setdefault("lr", per_window * _batch_size(values))
    build(dict[str, object], overrides, "model")  # what no setting may be is named as it was typed
    config = RunConfig.from_dict(values | {"model": name, "size": size, "model_overrides": overrides})
    _check(config)
    return config


def _batch_size(values: Mapping[str, object]) -> int:
    data = values.get("data", {})
    given = data.get("batch_size", DataConfig.batch_size) if isinstance(data, Mapping) else DataConfig.batch_size
    return build(int, given, "data.batch_size")


def _check(config: RunConfig) -> None:
    """Refuse what does not fit the model or the tasks before anything runs."""
    config.model_config()
    serves = model_class(config.model).tasks
    if len(set(config.tasks)) < len(config.tasks):
        message = f"tasks is {', '.join(config.tasks)}: each question once"
        raise UsageError(message)
    for kind, _ in config.questions():
        if not serves_kind(config.model, kind):
            shown = f"model '{config.model}' answers {', '.join(serves)}, not {kind}"
            message = f"{shown}: choose another --task or --model"
            raise UsageError(message)
    for kind in config.task:
        config.task_config(kind)


def _optim(layer: Mapping[str, object]) -> Mapping[str, object]:
    optim = layer.get("optim", {})
    return optim if isinstance(optim, Mapping) else {}


def _refuse_rivals(layer: Mapping[str, object]) -> None:
    optim = _optim(layer)
    for rivals in RIVALS:
        found = [key for key in rivals if key in optim]
        if len(found) > 1:
            shown = " and ".join(f"optim.{key} is {optim[key]}" for key in found)
            message = f"{shown}: give one of {'the two' if len(rivals) == 2 else ', '.join(rivals)}"
            raise UsageError(message)


def _over(base: Mapping[str, object], layer: Mapping[str, object]) -> dict[str, object]:
    """A layer over what the layers before it said; what it says of a length replaces the other ways to say it."""
    optim = _optim(layer)
    gone = {key for rivals in RIVALS if any(key in optim for key in rivals) for key in rivals}
    if gone and _optim(base):
        base = {**base, "optim": {key: value for key, value in _optim(base).items() if key not in gone}}
    return merge(base, layer)


# ---- keys -----------------------------------------------------------------------------------------------------------


def _keys(model: str) -> Iterator[tuple[str, object]]:
    """Every key of a run of this model with its type, in order; the model's own last."""
    for key, hint in keys_of(RunConfig):
        if key == "task":
            for kind in model_class(model).tasks:
                yield from keys_of(task_class(kind).Config, f"task.{kind}.")
        elif key not in ("model", "model_overrides"):
            yield key, hint
    yield from keys_of(model_class(model).Config, "model.")


class Setting(NamedTuple):
    """One key of a run: its type in words, its default as JSON has it, and where that comes from."""

    key: str
    type: str
    default: object
    source: str


def explain(model: str, size: str) -> list[Setting]:
    """Every key that can be set in a run of a model's size, with its default there.

    Raises:
        UnknownNameError: there is no such model or size.
    """
    config = load_config(model, sets=[f'size="{size}"'])
    own, preset = recipe(model, size), model_class(model).sizes[size]
    values = config.to_dict() | {"model": plain(asdict(config.model_config()))}
    values["task"] = {kind: plain(asdict(config.task_config(kind))) for kind in model_class(model).tasks}
    values["tasks"] = list(config.tasks or model_class(model).default_tasks)
    absent = plain(asdict(UnitDropoutConfig()))  # what its keys start from where the whole table is off
    found = []
    for key, hint in _keys(model):
        value, source = values, "default"
        for part in key.split("."):
            value = absent[part] if value is None else value[part]
        if key.startswith("model."):
            source = "model preset" if key.removeprefix("model.") in preset else "default"
        elif key == "optim.lr" and "lr_per_window" in own.get("optim", {}):
            source = f"recipe of size {size}, {own['optim']['lr_per_window']:g} a window"
        elif _holds(own, key.split(".")):
            source = f"recipe of size {size}"
        found.append(Setting(key, type_text(hint), value, source))
    return found


def _holds(values: object, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _refuse_unknown(model: str, given: Mapping[str, object], overrides: object) -> None:
    known = dict(_keys(model))
    tables = {"task", *(f"task.{kind}" for kind in model_class(model).tasks)}
    own = given.get("task")
    for kind in own if isinstance(own, Mapping) else ():
        if f"task.{kind}" not in tables and kind in tasks_known() and serves_kind(model, kind):
            known |= dict(keys_of(task_class(kind).Config, f"task.{kind}."))
            tables.add(f"task.{kind}")
    data = given.get("data")
    if isinstance(data, Mapping) and "target" in data:
        word = "" if data["target"] == "auto" else f":{data['target']}"
        message = f"data.target is no key: what is decoded is a task of the run, use --task decode{word}"
        raise UsageError(message)

    def walk(values: Mapping[str, object], prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name not in known and name not in tables:
                raise UnknownNameError("config key", name, [*known, *tables])
            below = name in tables or any(k.startswith(f"{name}.") for k in known)
            if isinstance(value, Mapping) and below:
                walk(value, f"{name}.")

    walk(given, "")
    if not isinstance(overrides, Mapping):
        message = f"model is {overrides!r}, expected a table of the model's fields"
        raise UsageError(message)
    walk(overrides, "model.")
