"""What of a run comes from other packages: told in its checkpoint, and asked for when it is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from spiketok.errors import SpiketokError, UsageError
from spiketok.models import MODELS
from spiketok.notes import note_once
from spiketok.plugins import Origin, Registry, origins_of, require_origins
from spiketok.recording.metrics import METRICS
from spiketok.tokens.schemes import SCHEMES
from spiketok.training.config import RunConfig, load_config, model_class
from spiketok.training.tasks import TASKS

_REGISTRIES: dict[str, Registry] = {"model": MODELS, "scheme": SCHEMES, "task": TASKS, "metric": METRICS}


def plugins_of(config: RunConfig) -> list[Origin]:
    """The model, schemes, kinds of question and metrics of a run that are not built in, each once."""
    kinds = list(dict.fromkeys(kind for kind, _ in config.questions()))
    inputs = list(model_class(config.model).inputs(config.model_config(), kinds, config.timing).values())
    inputs += [wanted for kind in kinds for wanted in TASKS[kind].inputs(config.timing).values()]
    metrics = [name for kind in kinds for name in getattr(config.task_config(kind), "metrics", ())]
    found = [MODELS.origin(config.model)]
    found += [SCHEMES.origin(name) for name in dict.fromkeys(wanted.scheme for wanted in inputs)]
    found += [TASKS.origin(kind) for kind in kinds]
    found += [METRICS.origin(name) for name in dict.fromkeys(metrics)]
    return [origin for origin in found if origin is not None]


def require_plugins(recorded: object, what: str) -> None:
    """Raise where what a run was made with is not here, or is another package's now.

    Raises:
        AbsentPluginError: it is not installed; says which package. UsageError: another package has the name.
    """
    require_origins(recorded, what)
    for origin in origins_of(recorded):
        registry = _REGISTRIES.get(origin.kind, {})
        here = registry.origin(origin.name) if origin.name in registry else None
        if here is None or here.package != origin.package:
            now = f"here it is of {here.distribution}" if here else "here it is not of that package"
            message = f"{what} was made with {origin}, {now}: {origin.remedy} where nothing else has the name"
            raise UsageError(message)


def usable_models() -> Iterator[str]:
    """The models by name; of other packages' those whose defaults can be used, a note on each of the others."""
    for name in MODELS:
        try:
            load_config(name)
        except SpiketokError as error:
            if MODELS.origin(name) is None:
                raise
            note_once(f"{MODELS.origin(name)} cannot be used by its own defaults ({error})")
            continue
        yield name


def kinds_served(model: type) -> list[str]:
    """The kinds of question that a model answers, with those of other packages that are answered like one of them."""
    return [*model.tasks, *(kind for kind, task in TASKS.items() if task.like in model.tasks)]
