"""``spiketok.toml``: defaults that a person or a project writes down once.

    <folder>/spiketok.toml                 the project's: the nearest from the working folder upward
    ~/.config/spiketok/spiketok.toml       the user's (``XDG_CONFIG_HOME`` in place of ``~/.config``)

    root = "data"                          # the four that many commands share: root, store, jobs, executor
    jobs = 4
    [train]                                # options of one command, as they are called there
    set = ["optim.steps=500"]

An option on the command line goes before its environment variable, that before the project's file, that before the
user's. Relative paths are relative to the file that holds them. What is read here are the files and the four shared
keys; what the commands' own options are is known in the command line, which reads the rest (``spiketok.cli.command``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from spiketok.errors import UnknownNameError, UsageError
from spiketok.settings import read_toml
from spiketok.storage.causes import raise_cause

FILE = "spiketok.toml"
SHARED: dict[str, type] = {"root": str, "store": str, "jobs": int, "executor": str}


@dataclass(frozen=True)
class Source:
    """One file of preferences.

    Args:
        kind: ``"project"`` or ``"user"``. path: where it is. shared: its shared keys. commands: its tables by command.
    """

    kind: str
    path: Path
    shared: Mapping[str, object] = field(default_factory=dict)
    commands: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What a message calls it."""
        return f"{self.kind} file {self.path}"


def sources(folder: Path | None = None) -> tuple[Source, ...]:
    """The files that there are, the project's before the user's.

    Args:
        folder: where the search for the project's begins; the working folder by default.

    Raises:
        UsageError: one is no TOML, or a value has the wrong type. UnknownNameError: a shared key is unknown.
    """
    return _read(Path.cwd() if folder is None else Path(folder).absolute(), _user_file())


@lru_cache(maxsize=8)
def _read(folder: Path, user: Path) -> tuple[Source, ...]:
    near = next((place / FILE for place in (folder, *folder.parents) if (place / FILE).is_file()), None)
    found = [("project", near)] if near is not None and near != user else []
    return tuple(_source(kind, path) for kind, path in [*found, *([("user", user)] if user.is_file() else [])])


def forget() -> None:
    """Read the files again at the next question: for tests, and for a process whose files change."""
    _read.cache_clear()


def _user_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "spiketok" / FILE


def _source(kind: str, path: Path) -> Source:
    try:
        values = read_toml(path)
    except OSError as error:
        raise_cause(error, path, UsageError)
        raise
    shared = {key: _checked(path, key, value) for key, value in values.items() if not isinstance(value, Mapping)}
    return Source(kind, path, shared, {key: value for key, value in values.items() if isinstance(value, Mapping)})


def _checked(path: Path, key: str, value: object) -> object:
    """A shared key's value, a path made absolute."""
    if key not in SHARED:
        raise UnknownNameError("key", key, [*SHARED, "a table of a command, as [train]"], str(path))
    if type(value) is not SHARED[key] or value in ("", 0) or (key == "jobs" and value < 1):
        wanted = "a whole number from 1" if key == "jobs" else "text"
        message = f"{path}: {key} is {value!r}, expected {wanted}"
        raise UsageError(message)
    return placed(path, value) if key in ("root", "store") else value


def placed(file: Path, text: str) -> str:
    """A path that a file holds, relative to it; a URL stays as it is."""
    return text if "://" in text else str(file.parent / Path(text).expanduser())


def preferred(key: str) -> str | int | None:
    """The value of a shared key by the files, the project's before the user's; None where none says it.

    ``jobs`` and ``executor`` both say where jobs run: a file that says one of them hides the other of the user's.
    """
    rivals = {"jobs": "executor", "executor": "jobs"}
    for source in sources():
        if key in source.shared:
            return source.shared[key]
        if rivals.get(key) in source.shared:
            return None
    return None
