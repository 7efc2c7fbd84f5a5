"""A run's configuration as TOML that says of each key what it is and where its value comes from.

What is unusual: the text is what ``--config`` reads, and gives the same configuration back, fingerprint and all. So
keys of the model and of the tasks that stand at their defaults are comments: a run's fingerprint has only those that
were given. What a key is stands in the docstrings of the classes, and is read from there.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path

from spiketok.settings import MOST_PARTS, parse_assignment, plain, type_text
from spiketok.training.config import RunConfig, _keys, explain, layers_of, model_class, task_class
from spiketok.training.sections import RIVALS, DataConfig, OptimConfig, TransferConfig, UnitDropoutConfig

WIDTH = 100  # letters of a comment's line
OF_ITSELF = {
    "size": "one of the model's presets",
    "seed": "of the weights, the windows, dropout",
    "tasks": "the questions of the run, each a kind of question with what is asked",
    "start": "digest of the checkpoint whose weights the training starts from (--from)",
    "latents": "digest of the checkpoint whose latents are a behaviour (--latents)",
    "model.layers": "blocks of the trunk",
    "model.decoder_layers": "blocks behind the trunk",
    "model.heads": "of each attention",
    "model.max_return": "the highest return that has a token",
    "model.max_bins": "the longest window, in bins",
    "model.generator": "units of the generator",
    "model.factors": "their number",
    "model.td_bins": "of a window",
    "optim.epochs": "times that each session's training time is drawn; in place of steps",
    "optim.steps": "of the optimizer; in place of epochs",
    "optim.precision": "of the computation",
    "optim.accelerator": "on which devices; of optim.devices so many",
    "optim.devices": "how many",
    "data.unit_dropout.min": "the fewest units of a window",
    "data.unit_dropout.mode": "the most frequent number",
    "data.unit_dropout.max": "the most units of a window",
    "data.unit_dropout.peak": "how much more frequent the mode is",
    "data.unit_dropout": "how many units a training window keeps, or off",
}


def config_text(
    config: RunConfig,
    path: Path | None = None,
    sets: Sequence[str] = (),
    tasks: Sequence[str] = (),
    *,
    set_by: Sequence[str] = (),
    sections: Sequence[str] = (),
) -> str:
    """The resolved configuration of a run as commented TOML.

    Args:
        config: what :func:`load_config` made of the others. path, sets, tasks: as there.
        set_by: what gave each of the sets; ``--set`` without.
        sections: only these tables, as ``["transfer"]``; all by default.
    """
    sources = _sources(path, sets, tasks, set_by)
    values = _values(config)
    told = {setting.key: setting for setting in explain(config.model, config.size)}
    about = _about(config)
    lines = [
        f"# {config.model}, size {config.size}: fingerprint {config.fingerprint()}",
        "# A line that begins with '# ' and a key shows a default that --set or this file may change.",
        "",
    ]
    tables: dict[str, list[str]] = {}
    for key, hint in _keys(config.model):
        if key in ("data", "split", "optim", "transfer"):
            continue
        table, _, name = key.rpartition(".")
        found = _value(values, key)
        if _is_table(values, key, found):
            continue  # its keys stand there one by one
        source = sources.get(key) or _inherited(sources, key) or told[key].source
        given = _is_given(config, key, found)
        comment = about.get(key, "")
        line = f"{_key(name)} = {_toml(found)}"
        tables.setdefault(table, []).extend(_commented(line, comment, f"{type_text(hint)}; {source}", given))
    model = ["[model]", f'name = "{config.model}"']
    for table in sorted(tables, key=lambda t: (t != "", t == "model", list(tables).index(t))):
        if sections and table.split(".")[0] not in sections:
            continue
        empty = all(line.startswith("#") for line in tables[table])
        head = model if table == "model" else [f"{'# ' if empty else ''}[{table}]"] if table else []
        lines += [*head, *tables[table], ""]
    if "model" not in tables and not sections:
        lines += [*model, ""]
    return "\n".join(lines).rstrip() + "\n"


def _commented(line: str, about: str, source: str, given: bool) -> list[str]:
    """A key with what it is above it, its type and its source behind it."""
    import textwrap

    text = textwrap.wrap(about, WIDTH - 3, break_long_words=False, break_on_hyphens=False)
    return [*(f"#   {one}" for one in text), f"{'' if given else '# '}{line}  # {source}"]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _toml(value: object) -> str:
    """A value as TOML; the word for no value where there is none."""
    if value is None:
        return '"off"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(k))} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _values(config: RunConfig) -> dict[str, object]:
    """Every value of a run, also of what its classes have at their defaults."""
    values = config.to_dict() | {"model": plain(asdict(config.model_config()))}
    values["task"] = {kind: plain(asdict(config.task_config(kind))) for kind in model_class(config.model).tasks}
    values["tasks"] = list(config.tasks or model_class(config.model).default_tasks)
    return values


def _value(values: Mapping[str, object], key: str) -> object:
    found: object = values
    for part in key.split("."):
        if found is None:  # keys of a table that is off
            return plain(asdict(UnitDropoutConfig()))[part]
        found = found[part]
    return found


def _is_table(values: Mapping[str, object], key: str, found: object) -> bool:
    return key == "data.unit_dropout" and found is not None


def _is_given(config: RunConfig, key: str, found: object) -> bool:
    """Whether a key stands in the text as one, so that the fingerprint comes out again; else as a comment."""
    first, _, rest = key.partition(".")
    if first == "model":
        return _holds(config.model_overrides, rest)
    if first == "task":
        return _holds(config.task, rest)
    if key == "tasks":
        return bool(config.tasks)
    if key in ("start", "latents"):
        return bool(found)
    if key.startswith("data.unit_dropout."):
        return config.data.unit_dropout is not None
    if first == "optim":  # of several ways to say a length the one that counts
        optim = config.optim
        warmed = optim.warmup_steps is not None or optim.warmup_epochs is not None
        rival = any(rest in rivals for rivals in RIVALS)
        return not rival or (found is not None and not (rest == "warmup" and warmed))
    return True


def _holds(values: Mapping[str, object], key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _sources(path: Path | None, sets: Sequence[str], tasks: Sequence[str], by: Sequence[str]) -> dict[str, str]:
    """By key the last layer that gave it: the file, ``spiketok.toml``, ``--set`` or ``--task``."""
    found: dict[str, str] = {}
    layers = [(f"file {path}", layers_of(path))] if path is not None else []
    named = by or ["--set"] * len(sets)
    layers += [(name, parse_assignment(text, "--set")) for name, text in zip(named, sets, strict=True)]
    if tasks:
        layers.append(("--task", {"tasks": list(tasks)}))
    for name, layer in layers:
        found |= dict.fromkeys(_flat(layer), name)
    return found


def _flat(values: Mapping[str, object], prefix: str = "", depth: int = 0) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and depth < MOST_PARTS:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        yield f"{prefix}{key}"


def _inherited(sources: Mapping[str, str], key: str) -> str:
    """The source of a table that was given as a whole, as ``unit_dropout = "off"``."""
    above = key.rpartition(".")[0]
    return sources.get(above, "") if above == "data.unit_dropout" else ""


# ---- what a key is --------------------------------------------------------------------------------------------------


def _about(config: RunConfig) -> dict[str, str]:
    """What each key is, out of the docstrings of the classes that have them."""
    from spiketok.recording.splits import SplitRule

    found: dict[str, str] = {}
    model, kinds = model_class(config.model), model_class(config.model).tasks
    classes = {"data": DataConfig, "data.unit_dropout": UnitDropoutConfig, "split": SplitRule, "optim": OptimConfig}
    classes |= {"transfer": TransferConfig, "model": model.Config}
    classes |= {f"task.{kind}": task_class(kind).Config for kind in kinds}
    for prefix, cls in classes.items():
        found |= {f"{prefix}.{name}": text for name, text in described(cls).items()}
    return OF_ITSELF | found


@cache
def described(cls: type) -> dict[str, str]:
    """What each field of a dataclass is, as the ``Args`` of its docstring, or of its bases', say it."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        names = [f.name for f in fields(base)]
        text = " ".join(inspect.cleandoc(base.__doc__ or "").split())
        _, _, args = text.partition("Args: ")
        either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        if not args or not either:
            continue
        marks = list(re.finditer(rf"(?:^|(?<=[.;] )|(?<=\. ))((?:{either})(?:, (?:{either}))*): ", args))
        for mark, following in zip(marks, [*marks[1:], None], strict=True):
            said = args[mark.end() : following.start() if following else len(args)].strip().rstrip(";.")
            found |= dict.fromkeys(mark[1].split(", "), said.replace("``", ""))
    return found
