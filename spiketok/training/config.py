"""The configuration of a run: strict dataclasses, filled from the model's recipe, a TOML file and ``--set``.

What is unusual:

- every number that shapes a result is a field here and stands in the resolved copy beside the result;
- defaults depend on the model and its size (:data:`RECIPES`), never on the data;
- an unknown key is refused with the nearest name, a wrong type with the value and the type that is expected;
- where a recipe ties the learning rate to the batch size (POYO: 3.125e-5 a window), it follows a changed batch size.

TOML has no null, so optional values have a word: ``unit_dropout = "off"``, ``eval_step_ms = "auto"``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from spiketok.errors import UnknownNameError, UsageError
from spiketok.models import MODELS
from spiketok.recording.splits import SplitRule
from spiketok.storage.files import fingerprint

NO_VALUE = ("off", "auto", "none")  # the words that stand for "no value" in an optional field


@dataclass(frozen=True)
class UnitDropoutConfig:
    """How many units a training window keeps: between ``min`` and ``max``, most often near ``mode`` (as POYO)."""

    min: int = 30
    mode: int = 100
    max: int = 300
    peak: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.min <= self.mode <= self.max:
            message = f"data.unit_dropout needs 0 < min <= mode <= max, got {self.min}, {self.mode}, {self.max}"
            raise UsageError(message)
        _positive("data.unit_dropout", self, "peak")


@dataclass(frozen=True)
class DataConfig:
    """What the model reads and decodes.

    Args:
        target: the behaviour; ``"auto"`` takes the one velocity signal, else the one position signal.
        window_ms: length of a window. eval_step_ms: step between windows whose predictions are averaged; half a
            window by default (``"auto"``).
        batch_size: windows in a batch.
        bin_ms: bin width of the schemes that bin.
        segments: what is baked: ``"continuous"`` (all observed time) or ``"trials:ALIGN,PRE_MS,POST_MS"``.
        unit_dropout: ``"off"``, or its table.
        session_weights: relative number of windows by session id; 1 for those not named.
    """

    target: str = "auto"
    window_ms: float = 1000.0
    eval_step_ms: float | None = None
    batch_size: int = 32
    bin_ms: float = 20.0
    segments: str = "continuous"
    unit_dropout: UnitDropoutConfig | None = None
    session_weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _positive("data", self, "window_ms", "batch_size", "bin_ms")
        if self.eval_step_ms is not None:
            _positive("data", self, "eval_step_ms")
        if self.segments != "continuous" and not re.fullmatch(r"trials:[^,]+,-?[\d.]+,-?[\d.]+", self.segments):
            message = f"data.segments is '{self.segments}', expected 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"
            raise UsageError(message)
        for session, weight in self.session_weights.items():
            if weight < 0:
                message = f"data.session_weights['{session}'] is {weight}, must not be negative"
                raise UsageError(message)

    @property
    def window_ns(self) -> int:
        return round(self.window_ms * 1e6)

    @property
    def eval_step_ns(self) -> int:
        return round(self.eval_step_ms * 1e6) if self.eval_step_ms is not None else self.window_ns // 2


@dataclass(frozen=True)
class OptimConfig:
    """How the model is trained; exactly one of ``epochs`` and ``steps`` is set.

    Args:
        name: ``"adamw"``, or ``"lamb"`` with sparse rows (rows of a table without gradient stay as they are).
        lr: the highest learning rate. betas: of the moments. weight_decay: not on norms, biases and tables (AdamW).
        schedule: ``"cosine"`` (linear warm-up over ``warmup`` of the steps, then cosine to 0), ``"onecycle"``
            (constant for half of the steps, then cosine to ``lr / 1e4``, as POYO), or ``"constant"``.
        clip: largest norm of the gradient; ``"off"`` for none.
        checkpoint_every, validate_every: in steps; 0 for only at the end.
    """

    name: Literal["adamw", "lamb"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = 0.05
    epochs: int | None = None
    steps: int | None = None
    clip: float | None = 1.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "cpu"
    devices: int = 1
    checkpoint_every: int = 200
    validate_every: int = 0

    def __post_init__(self) -> None:
        _positive("optim", self, "lr", "devices")
        if (self.epochs is None) == (self.steps is None):
            message = f"optim.epochs is {self.epochs} and optim.steps is {self.steps}: exactly one must be set"
            raise UsageError(message)
        _positive("optim", self, "epochs" if self.steps is None else "steps")
        if self.clip is not None:
            _positive("optim", self, "clip")
        for name in ("weight_decay", "checkpoint_every", "validate_every"):
            if getattr(self, name) < 0:
                message = f"optim.{name} is {getattr(self, name)}, must not be negative"
                raise UsageError(message)
        if not 0 <= self.warmup < 1 or not all(0 <= beta < 1 for beta in self.betas):
            message = f"optim.warmup is {self.warmup} and optim.betas is {self.betas}: each must be in [0, 1)"
            raise UsageError(message)


@dataclass(frozen=True)
class TransferConfig:
    """How a trained model adapts to the calibration time of an unseen session.

    It shapes no checkpoint, so it is no part of a run's fingerprint.

    Args:
        identity_steps, identity_lr: training of ``identity_parameters()`` alone.
        unfreeze_after: steps of ``full`` that train the identity alone, at ``identity_lr``, before everything is free.
        full_steps, full_lr: the training of everything that follows.
        batch_size: windows in a batch.
        weight_decay: on the weights that training decays, in ``full`` only.
    """

    identity_steps: int = 100
    identity_lr: float = 2e-2
    unfreeze_after: int = 100
    full_steps: int = 60
    full_lr: float = 2e-4
    batch_size: int = 16
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        _positive("transfer", self, "identity_steps", "identity_lr", "full_steps", "full_lr", "batch_size")
        for name in ("unfreeze_after", "weight_decay"):
            if getattr(self, name) < 0:
                message = f"transfer.{name} is {getattr(self, name)}, must not be negative"
                raise UsageError(message)


@dataclass(frozen=True)
class RunConfig:
    """Everything that shapes a trained model, and how it will adapt.

    Args:
        model: its name in ``MODELS``. size: one of the model's presets.
        seed: of the weights, the windows, dropout.
        model_overrides: fields of the model's own Config that differ from the preset; ``[model]`` in TOML.
    """

    model: str
    size: str
    seed: int = 42
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitRule = field(default_factory=SplitRule)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(epochs=100))
    transfer: TransferConfig = field(default_factory=TransferConfig)
    model_overrides: dict[str, object] = field(default_factory=dict)

    def model_config(self):
        """The model's own Config: the preset of the size, with the overrides.

        Raises:
            UnknownNameError, UsageError: the size or a field is unknown, or a value has the wrong type.
        """
        model = model_class(self.model)
        preset = dict(model.sizes[self.size]) if self.size in model.sizes else None
        if preset is None:
            raise UnknownNameError("size", self.size, model.sizes, f"model '{self.model}'")
        return _build(model.Config, preset | self.model_overrides, "model")

    def to_dict(self) -> dict[str, object]:
        """JSON-able; :meth:`from_dict` gives the same configuration back."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> RunConfig:
        """A configuration from :meth:`to_dict`, as strictly checked as one from TOML."""
        return _build(cls, values, "")

    def fingerprint(self) -> str:
        """Names all that shapes the checkpoint (everything but ``transfer``)."""
        return fingerprint({key: value for key, value in self.to_dict().items() if key != "transfer"})


# ---- recipes --------------------------------------------------------------------------------------------------------

# POYO's published training (examples/poyo of torch_brain; models-spike 1.5): LAMB, 3.125e-5 a window, weight decay
# 1e-4, constant for half of the steps then cosine, 1000 epochs, batch 128, unit dropout 30/100/300/4.
_POYO_PUBLISHED = {
    "data": {"window_ms": 1000.0, "batch_size": 128, "unit_dropout": {"min": 30, "mode": 100, "max": 300, "peak": 4.0}},
    "optim": {
        "name": "lamb",
        "lr_per_window": 3.125e-5,
        "weight_decay": 1e-4,
        "schedule": "onecycle",
        "epochs": 1000,
        "clip": None,
        "accelerator": "auto",
    },
}

# Minutes on two CPU cores.
_TINY = {
    "data": {"window_ms": 1000.0, "batch_size": 32},
    "optim": {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "schedule": "cosine", "steps": 500},
}

# A read-in a session learns at a higher rate; about a minute.
_NDT1_TINY = {"data": _TINY["data"], "optim": _TINY["optim"] | {"lr": 5e-3, "steps": 1000}}

# NDT1 (snel-repo/neural-data-transformers, configs of the NLB submissions; models-binned 1): AdamW, 1e-3, cosine.
_NDT1_PUBLISHED = {
    "data": {"window_ms": 1000.0, "batch_size": 64},
    "optim": {
        "name": "adamw",
        "lr": 1e-3,
        "weight_decay": 5e-5,
        "schedule": "cosine",
        "epochs": 500,
        "clip": 200.0,
        "accelerator": "auto",
    },
}

_CLOSED_FORM = {"data": {"window_ms": 1000.0, "batch_size": 64}, "optim": {"epochs": 1}}

RECIPES: dict[str, dict[str, dict]] = {
    "linear": {"*": _CLOSED_FORM},
    "ndt1": {"tiny": _NDT1_TINY, "*": _NDT1_PUBLISHED},
    "poyo": {"tiny": _TINY, "*": _POYO_PUBLISHED},
}


def model_class(name: str) -> type:
    """The model of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]


def recipe(model: str, size: str) -> dict[str, dict]:
    """The defaults of a model's size, by section; ``"*"`` in :data:`RECIPES` stands for the other sizes."""
    own = RECIPES.get(model, {})
    return own.get(size) or own.get("*") or (_CLOSED_FORM if model_class(model).closed_form else _TINY)


def default_size(model: str) -> str:
    """``"tiny"`` where the model has it (it runs anywhere), else its first preset."""
    sizes = model_class(model).sizes
    return "tiny" if "tiny" in sizes else next(iter(sizes))


# ---- loading --------------------------------------------------------------------------------------------------------


def load_config(model: str | None, path: Path | None = None, sets: list[str] | None = None) -> RunConfig:
    """The configuration of a run: recipe, then the TOML file, then ``--set``, each over the one before.

    Args:
        model: the name given on the command line; None takes it from the file.
        path: a TOML file with any of the keys of :class:`RunConfig`; the table ``[model]`` holds the model's own.
        sets: ``"section.key=value"``, the value in TOML; a bare word is a string.

    Raises:
        UnknownNameError: a model, size or key is unknown. UsageError: a value is wrong, or no model is named.
    """
    layers = [_read_toml(path)] if path is not None else []
    layers += [_parse_set(text) for text in sets or []]
    given: dict[str, object] = {}
    for layer in layers:
        given = _merge(given, layer)
    for layer in layers:
        _one_length(layer)
    name = _model_name(model, given)
    chosen = model_class(name)
    size = given.pop("size", default_size(name))
    if size not in chosen.sizes:
        raise UnknownNameError("size", str(size), chosen.sizes, f"model '{name}'")
    return _resolve(name, size, given)


def with_transfer(config: RunConfig, sets: list[str]) -> RunConfig:
    """A run's configuration with other settings of the adaptation, which shape no checkpoint.

    Args:
        sets: ``"transfer.key=value"``.

    Raises:
        UsageError: a key is of another section. UnknownNameError: it does not exist.
    """
    values = config.to_dict()
    for text in sets:
        layer = _parse_set(text)
        if set(layer) != {"transfer"}:
            message = f"--set '{text}': only transfer.* can be changed here, the rest shaped the checkpoint"
            raise UsageError(message)
        _refuse_unknown(config.model, layer, {})
        values = _merge(values, layer)
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
    defaults = recipe(name, size)
    optim = given.get("optim", {})
    if "epochs" in optim or "steps" in optim:
        defaults = defaults | {"optim": {k: v for k, v in defaults["optim"].items() if k not in ("epochs", "steps")}}
    values = _merge(defaults, given)
    per_window = values["optim"].pop("lr_per_window", None)
    if per_window is not None:
        batch = _convert(values["data"]["batch_size"], int, "data.batch_size")
        values["optim"].setdefault("lr", per_window * batch)
    config = RunConfig.from_dict(values | {"model": name, "size": size, "model_overrides": overrides})
    config.model_config()  # refuses what does not fit the model before anything runs
    return config


def _one_length(layer: Mapping[str, object]) -> None:
    optim = layer.get("optim", {})
    if isinstance(optim, Mapping) and "epochs" in optim and "steps" in optim:
        message = f"optim.epochs is {optim['epochs']} and optim.steps is {optim['steps']}: give one of the two"
        raise UsageError(message)


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with open(path, "rb") as stream:
            values = tomllib.load(stream)
    except FileNotFoundError:
        message = f"no configuration file at {path}"
        raise UsageError(message) from None
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise UsageError(message) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path} is not TOML: {error}"
        raise UsageError(message) from error
    return values


def _parse_set(text: str) -> dict[str, object]:
    key, equals, word = text.partition("=")
    key = key.strip()
    if not equals or not key:
        message = f"--set '{text}' must read section.key=value"
        raise UsageError(message)
    value = _parse_value(word.strip(), text)
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _parse_value(word: str, text: str) -> object:
    try:
        value = tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        if not re.fullmatch(r"[\w./:,*@+-]+", word):
            message = f"--set '{text}': '{word}' is neither a TOML value nor a bare word"
            raise UsageError(message) from None
        return word
    return value if isinstance(value, bool | int | float | str | list | dict) else word  # a date is a name here


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    if {"epochs", "steps"} <= set(over) | set(merged) and ("epochs" in over) != ("steps" in over):
        merged.pop("steps" if "epochs" in over else "epochs", None)  # the later layer says how long
    return merged


def _key_names(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        nested = next((t for t in _alternatives(hint) if is_dataclass(t)), None)
        yield f"{prefix}{name}"
        if nested is not None:
            yield from _key_names(nested, f"{prefix}{name}.")


def config_keys(model: str) -> list[str]:
    """Every key that a run of this model has, as ``--set`` takes it."""
    own = [k for k in _key_names(RunConfig) if k.split(".")[0] not in ("model", "model_overrides")]
    return sorted(own + [f"model.{f.name}" for f in fields(model_class(model).Config)])


def _refuse_unknown(model: str, given: Mapping[str, object], overrides: object) -> None:
    known = config_keys(model)

    def walk(values: Mapping[str, object], prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name not in known:
                raise UnknownNameError("config key", name, known)
            if isinstance(value, Mapping) and name != "data.session_weights":
                walk(value, f"{name}.")

    walk(given, "")
    if not isinstance(overrides, Mapping):
        message = f"model is {overrides!r}, expected a table of the model's fields"
        raise UsageError(message)
    walk(overrides, "model.")


# ---- strict construction --------------------------------------------------------------------------------------------


def _positive(section: str, config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            message = f"{section}.{name} is {getattr(config, name)}, must be above 0"
            raise UsageError(message)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _alternatives(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _build(cls: type, values: object, place: str):
    if not isinstance(values, Mapping):
        message = f"{place} is {values!r}, expected a table"
        raise UsageError(message)
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UnknownNameError("config key", f"{place}.{key}".lstrip("."), hints)
    dot = f"{place}." if place else ""
    return cls(**{key: _convert(value, hints[key], f"{dot}{key}") for key, value in values.items()})


def _convert(value: object, hint: object, place: str) -> object:
    """The value as the field's type, or a UsageError that says both."""
    kinds = _alternatives(hint)
    if NoneType in kinds:
        if value is None or value in NO_VALUE:
            return None
        kinds = tuple(kind for kind in kinds if kind is not NoneType)
    kind = kinds[0]
    if is_dataclass(kind):
        return _build(kind, value, place)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UnknownNameError("value", str(value), [str(v) for v in get_args(kind)], place)
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and isinstance(value, int):
        return value
    if kind in (str, bool) and isinstance(value, kind):
        return value
    items = get_args(kind)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        item = items[1]
        return {str(k): v if item is object else _convert(v, item, f"{place}['{k}']") for k, v in value.items()}
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        each = [items[0]] * len(value) if len(items) == 2 and items[1] is Ellipsis else list(items)
        if len(each) == len(value):
            return tuple(_convert(v, t, f"{place}[{i}]") for i, (v, t) in enumerate(zip(value, each, strict=True)))
    expected = getattr(hint, "__name__", None) if not isinstance(hint, UnionType) and not items else str(hint)
    message = f"{place} is {value!r}, expected {expected or hint}"
    raise UsageError(message)
