"""What every command does before it runs: defaults of ``spiketok.toml``, numbers that are numbers, help in groups.

An option's value is that of the line, else of its environment variable, else of the project's ``spiketok.toml``, else
of the user's, else the default. ``--set`` adds up: those of the files stand before those of the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import typer
from typer.core import TyperCommand

from spiketok.cli.completion import complete
from spiketok.cli.guide import EXAMPLES, GROUPS, PANELS, STRESSES, examples
from spiketok.errors import UnknownNameError, UsageError
from spiketok.storage.preferences import Source, placed, sources

ASKED_ONLY = ("help", "yes")  # options that are given on the line alone
OF_OTHER_JOBS = ("fetch",)  # commands whose --jobs are no worker processes
_set_by: dict[str, str] = {}  # of the running command
UNREAD = ("doctor",)  # commands that tell what is wrong with the files, and run without them


class Command(TyperCommand):
    """A command whose numbers are numbers: NaN, infinity and seeds below 0 are refused before it runs."""

    def __init__(self, name: str | None, **given: object) -> None:
        super().__init__(name, **given)
        self.rich_help_panel = self.rich_help_panel or GROUPS.get(name)
        for option in self.params:
            first = option.opts[0]
            if getattr(option, "rich_help_panel", None) is None and first in PANELS:
                option.rich_help_panel = PANELS[first]
            complete(name or "", option)
        if name in EXAMPLES and not self.epilog:
            self.epilog = examples(name)

    def get_help_option(self, ctx: typer.Context) -> object:
        """``--help`` stands with the other options that every command has."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = PANELS["--help"]
        return option

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Take defaults from the files, ``--root`` also from before the command, and ``--stress`` without a kind."""
        args = self._placed(ctx, args)
        if any("--stress" in option.opts for option in self.params):
            args = _with_kinds(args)
        given = ()
        if self.name not in UNREAD and not ctx.resilient_parsing and not {"--help", "-h"} & set(args):
            given = file_defaults(ctx)
            ctx.default_map = {one.name: one.value for one in given}
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:  # typer shows no class of its own copy of click
            _refuse_default(error, given)
            raise
        for one in given:
            if _is_default(ctx, one.name):
                ctx.params[one.name] = _placed_paths(one, ctx.params[one.name])
        self._add_sets(ctx)
        _one_place_of_jobs(ctx)
        return rest

    def _placed(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """``--root`` and ``--store`` that stand before the command put behind it; left out where it asks no place."""
        before = ctx.find_root().params
        for word in ("root", "store"):
            option, value = f"--{word}", before.get(word)
            if not any(option in param.opts for param in self.params):
                if word == "root":
                    args = _without(args, option)
            elif value is not None:
                if _names(args, option):
                    message = f"{option} stands before and behind {self.name}: give it once"
                    raise UsageError(message)
                args = [option, str(value), *args]
        return args

    def _add_sets(self, ctx: typer.Context) -> None:
        """Those ``--set`` of the files before those of the line, which alone would hide them."""
        _set_by.clear()
        for option in self.params:
            if "--set" in option.opts:
                _set_by.update(dict.fromkeys(ctx.params.get(option.name) or [], "--set"))
            if "--set" in option.opts and ctx.default_map and (own := ctx.default_map.get(option.name)):
                line = [] if _is_default(ctx, option.name) else ctx.params[option.name] or []
                ctx.params[option.name] = [*own, *line]
                _set_by.update(dict.fromkeys(own, "spiketok.toml"))

    def invoke(self, ctx: typer.Context) -> object:
        for option in self.params:
            value = ctx.params.get(option.name)
            if isinstance(value, float) and not math.isfinite(value):
                message = f"{option.opts[0]} is {value}, expected a finite number"
                raise UsageError(message)
            if option.name == "seed" and isinstance(value, int) and not 0 <= value < 2**63:
                message = f"{option.opts[0]} is {value}, expected a whole number from 0 to {2**63 - 1}"
                raise UsageError(message)
        return super().invoke(ctx)


def set_by(text: str) -> str:
    """What gave a ``--set`` of the running command: the line, a file, or another option that stands for it."""
    return _set_by.get(text, "another option, as --from")


def _names(args: list[str], option: str) -> bool:
    return any(word == option or word.startswith(f"{option}=") for word in args)


def _without(args: list[str], option: str) -> list[str]:
    """A line without an option and its value: a command that works in no place may be told one all the same."""
    if option in args[:-1]:
        at = args.index(option)
        return args[:at] + args[at + 2 :]
    return [word for word in args if not word.startswith(f"{option}=")]


def _with_kinds(args: list[str]) -> list[str]:
    """``--stress`` without a kind means all of them; typer has no options whose value may be left out.

    A word behind it that is no kind is the run, where one of that name is there and no other word can be it.
    """
    told, root = [], _root_of(args)
    for word, following in pairwise([*args, "-"]):
        bare = following.startswith("-") or (not _is_kinds(following) and _is_run(following, root))
        told.append("--stress=all" if word == "--stress" and bare else word)
    return told


def _is_kinds(word: str) -> bool:
    return all(part.strip() in (*STRESSES, "all") for part in word.split(","))


def _root_of(args: list[str]) -> Path | None:
    """What ``--root`` says in a line, before the line is parsed."""
    for word, following in pairwise([*args, ""]):
        if word == "--root" or word.startswith("--root="):
            return Path(word.partition("=")[2] or following)
    return None


def _is_run(word: str, root: Path | None) -> bool:
    from spiketok.storage.workspace import Workspace

    return Path(word).is_dir() or any(p.name.startswith(word) for p in Workspace.locate(root).runs.glob("*"))


# ---- spiketok.toml --------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """What a file says of one option: its name in the program, as it is typed, the value, and the file."""

    name: str
    option: str
    value: object
    source: Source


def file_defaults(ctx: typer.Context) -> list[Given]:
    """What the files say of the options of this command, each once.

    Raises:
        UnknownNameError: a file names a command or an option that there is none of. UsageError: a value is wrong.
    """
    found: dict[str, Given] = {}
    for source in reversed(sources()):
        for one in _of_file(ctx, source):
            if one.name in ("jobs", "executor"):
                found = {k: v for k, v in found.items() if k not in ("jobs", "executor")}
            found[one.name] = one
    return list(found.values())


def _of_file(ctx: typer.Context, source: Source) -> Iterator[Given]:
    """The options of the running command that one file gives; the shared ones before the command's own."""
    commands = _all_commands(ctx)
    for name in source.commands:
        if name not in commands:
            raise UnknownNameError("command", name, commands, str(source.path))
    options = {opt[2:]: option for option in ctx.command.params for opt in option.opts if opt.startswith("--")}
    for key in ("jobs", "executor"):  # root and store are read by the workspace itself, for all who ask it
        if key in source.shared and key in options and _words(ctx) not in OF_OTHER_JOBS:
            yield Given(options[key].name, key, source.shared[key], source)
    taken = {word: o for word, o in options.items() if word not in ASKED_ONLY and not getattr(o, "hidden", False)}
    for key, value in source.commands.get(_words(ctx), {}).items():
        word = key.replace("_", "-")
        if word not in taken:
            raise UnknownNameError("option", key, taken, f"[{_words(ctx)}] of {source.path}")
        place = f"{source.path}: {key} of [{_words(ctx)}]"
        yield Given(taken[word].name, f"--{word}", _plain(place, taken[word], word, value, source), source)


def _words(ctx: typer.Context) -> str:
    """What the running command is called behind the program's name: ``"train"``, ``"session rename"``."""
    words = []
    while ctx.parent is not None:
        words.append(ctx.command.name)
        ctx = ctx.parent
    return " ".join(reversed(words))


def _all_commands(ctx: typer.Context) -> list[str]:
    """Every command, also those of groups, as :func:`_words` calls them."""
    found = []
    for name, command in ctx.find_root().command.commands.items():
        found += [name, *(f"{name} {inner}" for inner in getattr(command, "commands", {}))]
    return found


def _plain(place: str, option: object, word: str, value: object, source: Source) -> object:
    """A file's value in the form in which the command line has one."""
    from spiketok.settings import typed

    if isinstance(value, Mapping) and word == "set":
        value = [f"{name}={typed(item)}" for name, item in _flat(value)]
    flag, many = getattr(option, "is_flag", False), option.multiple
    if many and not isinstance(value, list):
        value = [value]
    if isinstance(value, Mapping) or (isinstance(value, list) and not many) or flag != isinstance(value, bool):
        wanted = "true or false" if flag else "numbers or texts" if many else "a number or text"
        message = f"{place} is {value!r}, expected {wanted}"
        raise UsageError(message)
    if word in ("root", "store"):
        return placed(source.path, str(value))
    return value if flag else [str(item) for item in value] if many else str(value)


def _refuse_default(error: Exception, given: Sequence[Given]) -> None:
    """Say of a value that is refused which file it is from; nothing where it is from the line."""
    name = getattr(getattr(error, "param", None), "name", None)
    for one in given:
        if one.name == name and hasattr(error, "format_message"):
            message = f"{one.source.path}: {one.option} is {one.value!r}: {error.format_message()}"
            raise UsageError(message) from error


def _is_default(ctx: typer.Context, name: str) -> bool:
    return ctx.get_parameter_source(name).name == "DEFAULT_MAP"


def _placed_paths(one: Given, value: object) -> object:
    """Paths of a file are relative to it."""
    if isinstance(value, list):
        return [_placed_paths(one, item) for item in value]
    return Path(placed(one.source.path, str(value))) if isinstance(value, Path) else value


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


RANKS = ("DEFAULT", "DEFAULT_MAP", "ENVIRONMENT", "COMMANDLINE")  # where a value is from, the last one counts


def _one_place_of_jobs(ctx: typer.Context) -> None:
    """Of ``--jobs`` and ``--executor``, which both say where jobs run, the one from nearer by; equal ones are refused.

    A file's executor is not in the way of a --jobs that somebody types.
    """
    rank = {key: RANKS.index(ctx.get_parameter_source(key).name) for key in ("jobs", "executor") if key in ctx.params}
    if len(rank) == 2 and rank["jobs"] != rank["executor"]:
        less = min(rank, key=rank.get)
        ctx.params[less] = 1 if less == "jobs" else None
