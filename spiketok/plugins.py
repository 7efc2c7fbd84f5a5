"""Models, schemes, datasets, tasks and metrics of other packages, by their entry points.

A package that has this in its pyproject.toml has a model ``rate-mean`` wherever it is installed::

    [project.entry-points."spiketok.models"]
    rate-mean = "spiketok_example.model:RateMean"

The groups are ``spiketok.models``, ``.schemes``, ``.datasets``, ``.tasks`` and ``.metrics``. A class of a module on the
path, as ``rates.py`` in the current folder, is a model without being installed: ``--model rates:RateMean``.

What is unusual:

- names are listed by the packages' metadata; a package is imported when one of its names is asked for, or when a list
  is shown, never at the start of a command;
- an entry that cannot be used (a name that a built-in one or another package has, a module that does not import, a
  class of another kind) is told in one line that names it and its package, and takes no other name with it;
- what was made by one says by which package (:class:`Origin`), so that who lacks it is told what to install.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from spiketok.errors import AbsentPluginError, ArtefactError, PluginError, UsageError
from spiketok.notes import note_once

KINDS = ("model", "scheme", "dataset", "task", "metric")
_WORD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Origin:
    """Where something that is not built in comes from.

    Args:
        kind: one of ``KINDS``. name: as a command or an artefact names it. entry: ``"package.module:object"``.
        package, version: of the distribution that has the entry; empty for a module on the path.
        sha256: of the module's file, where there is no package whose version tells of it.
    """

    kind: str
    name: str
    entry: str
    package: str = ""
    version: str = ""
    sha256: str = ""

    @property
    def distribution(self) -> str:
        """Who gives it: ``"spiketok-example 0.1.0"``, or the module and its file's digest."""
        if self.package:
            return f"{self.package} {self.version}".strip()
        return f"module {self.entry.split(':')[0]}, sha256 {self.sha256[:12]}"

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution}"

    @property
    def remedy(self) -> str:
        """The command that brings it here, or what to do."""
        if self.package:
            return f"pip install '{self.package}{f'=={self.version}' if self.version else ''}'"
        return f"put the file of module {self.entry.split(':')[0]} into this folder or on PYTHONPATH"

    def to_dict(self) -> dict[str, str]:
        """What artefacts hold of it: what is not empty."""
        return {key: value for key, value in asdict(self).items() if value}


def origins_of(recorded: object) -> list[Origin]:
    """The origins that an artefact holds; none where it was made by nothing but spiketok.

    Raises:
        ArtefactError: they are not what :meth:`Origin.to_dict` gives.
    """
    try:
        found = [Origin(**one) for one in recorded or ()]
    except TypeError as error:
        message = f"plug-ins are recorded as {str(recorded)[:80]}, expected kind, name, entry and package"
        raise ArtefactError(message) from error
    if not all(isinstance(value, str) for one in found for value in asdict(one).values()):
        message = f"plug-ins are recorded as {str(recorded)[:80]}, expected words"
        raise ArtefactError(message)
    return found


class Registry(MutableMapping):
    """Things of one kind by name: the built-in ones first, then those of other packages.

    Walking over it imports what packages have and leaves out, with a note, what cannot be used; asking for a name
    imports no other. Setting a name adds a built-in one.

    Args:
        kind: one of ``KINDS``. builtin: by name.
        check: called with what an entry led to and the module that it stands in; why that is none of this kind, empty
            if it is.
        by_module: whether ``"package.module:Class"`` names one too.
        aliases: other names of a thing, which must be free as well.
    """

    def __init__(
        self,
        kind: str,
        builtin: Mapping[str, object],
        check: Callable[[object, ModuleType], str],
        *,
        by_module: bool = False,
        aliases: Callable[[object], Iterable[str]] = lambda thing: (),
        name_of: Callable[[object], str] = lambda thing: str(getattr(thing, "name", "")),
    ) -> None:
        self.kind, self.builtin, self.by_module = kind, dict(builtin), by_module
        self._check, self._aliases, self._name_of = check, aliases, name_of
        self._found: dict[str, list] | None = None
        self._loaded: dict[str, object] = {}
        self._origins: dict[str, Origin] = {}
        _REGISTRIES[kind] = self

    # ---- as a mapping -----------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> object:
        """One of this kind.

        Raises:
            KeyError: no such name. PluginError: an entry has it and cannot be used. UsageError: a word names no class.
        """
        if name in self.builtin:
            self._note_clash(name)
            return self.builtin[name]
        if name not in self:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = self._from_module(name) if _is_word(name) else self._from_entry(name)
        return self._loaded[name]

    def __setitem__(self, name: str, thing: object) -> None:
        self.builtin[name] = thing

    def __delitem__(self, name: str) -> None:
        del self.builtin[name]

    def __contains__(self, name: object) -> bool:
        if name in self.builtin:
            return True
        return isinstance(name, str) and ((self.by_module and _is_word(name)) or name in self._entries())

    def __iter__(self) -> Iterator[str]:
        yield from list(self.builtin)
        for name in sorted(self._entries()):
            if name in self.builtin:
                self._note_clash(name)
                continue
            try:
                self[name]
            except PluginError as error:
                note_once(str(error))
                continue
            yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # ---- where things come from -------------------------------------------------------------------------------------

    def origin(self, name: str) -> Origin | None:
        """Where a thing that can be used comes from; None for what is built in."""
        if name in self.builtin:
            return None
        _ = self[name]
        if name not in self._origins:  # asked for once a session, of thousands
            if _is_word(name):
                file = Path(sys.modules[name.split(":")[0]].__file__ or "")
                self._origins[name] = Origin(self.kind, name, name, sha256=_sha256(file))
            else:
                self._origins[name] = self._origin_of(name, self._entries()[name][0])
        return self._origins[name]

    def plugins(self) -> Iterator[tuple[Origin, str]]:
        """All entries of other packages, and why one cannot be used; empty where it can. Imports them."""
        for name, entries in sorted(self._entries().items()):
            fault = self._clash(name) if name in self.builtin else ""
            if not fault:
                try:
                    self[name]
                except PluginError as error:
                    fault = str(error)
            for entry in entries:
                yield self._origin_of(name, entry), fault

    def module_of(self, name: str) -> ModuleType:
        """The module that a plug-in's entry names."""
        return sys.modules[self._entries()[name][0].module]

    def _origin_of(self, name: str, entry) -> Origin:
        return Origin(self.kind, name, entry.value, *_distribution(entry))

    def _entries(self) -> dict[str, list]:
        """The entry points of other packages by name; listed once, imported by nobody."""
        if self._found is None:
            from importlib.metadata import entry_points

            self._found = {}
            for entry in entry_points(group=f"spiketok.{self.kind}s"):
                self._found.setdefault(entry.name, []).append(entry)
        return self._found

    def look_again(self) -> None:
        """Forget which packages there are: for a process that installs some."""
        self._found, self._loaded, self._origins = None, {}, {}
        _installed.cache_clear()

    def _clash(self, name: str) -> str:
        """That packages have the name of a built-in one; empty where none has."""
        rivals = " and ".join(_shown(entry) for entry in self._entries().get(name, ()))
        return f"{self.kind} '{name}' is built into spiketok, that of {rivals} is not used: rename it" if rivals else ""

    def _note_clash(self, name: str) -> None:
        if text := self._clash(name):
            note_once(text)

    def _from_entry(self, name: str) -> object:
        entries = self._entries()[name]
        if len(entries) > 1:
            message = (
                f"{self.kind} '{name}' is of {' and of '.join(_shown(entry) for entry in entries)}: "
                "uninstall one, neither is used"
            )
            raise PluginError(message)
        (entry,) = entries
        try:
            thing = entry.load()
        except Exception as error:  # whatever another package's code does, it is told as its fault
            fault = f"cannot be imported ({_line(error)})"
            message = f"{self.kind} '{name}' of {_shown(entry)} {fault}: mend or uninstall it"
            raise PluginError(message) from error
        fault = _checked(self._check, thing, sys.modules[entry.module])
        if not fault and self._name_of(thing) != name:
            fault = f"calls itself '{self._name_of(thing)}', not '{name}'"
        fault = fault or self._taken(thing)
        if fault:
            message = f"{self.kind} '{name}' of {_shown(entry)} {fault}: mend or uninstall it"
            raise PluginError(message)
        return thing

    def _taken(self, thing: object) -> str:
        """That another name of a thing is a built-in one's, whose names come first."""
        taken = {alias: name for name, other in self.builtin.items() for alias in (name, *self._aliases(other))}
        return next((f"has the alias '{a}', which {taken[a]} has" for a in self._aliases(thing) if a in taken), "")

    def _from_module(self, word: str) -> object:
        """The class that a word names, of a module on the path or in the current folder."""
        module_name, _, name = word.partition(":")
        here = os.getcwd()
        if here not in sys.path and "" not in sys.path:
            sys.path.append(here)  # behind all else: no file here stands for an installed module
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
            if missing:
                message = f"--{self.kind} {word}: there is no module '{error.name}' on the path or in {here}"
                raise UsageError(message) from error
            message = f"{self.kind} '{word}': {_place(module_name)} cannot be imported ({_line(error)})"
            raise PluginError(message) from error
        if not hasattr(module, name):
            known = _offered(module)
            message = f"--{self.kind} {word}: {_file_of(module)} has no '{name}'"
            raise UsageError(f"{message} (it has {', '.join(known)})" if known else message)
        fault = _checked(self._check, getattr(module, name), module)
        if fault:
            message = f"{self.kind} '{word}' of {_file_of(module)} {fault}"
            raise PluginError(message)
        return getattr(module, name)


_REGISTRIES: dict[str, Registry] = {}


# ---- what an artefact was made with ---------------------------------------------------------------------------------


def present(origin: Origin) -> tuple[str, str]:
    """Whether what made an artefact is here: ``"holds"``, ``"not here"`` or ``"broken"``, and a remark.

    Nothing is imported. Another version of a package is told and no fault: what was made holds.
    """
    if origin.package:
        found = _installed(origin.package)
        if not found:
            return "not here", f"{origin.package} is not installed: {origin.remedy}"
        return "holds", "" if found == origin.version else f"made with {origin.version}, here is {found}"
    module = origin.entry.split(":")[0]
    file = find_module(module)
    if file is None:
        return "not here", f"there is no module {module}: {origin.remedy}"
    found = _sha256(file)
    if found != origin.sha256:
        return "broken", f"{file} has sha256 {found[:12]}, was {origin.sha256[:12]} when it was used: put that back"
    return "holds", ""


@lru_cache(maxsize=256)  # a package has metadata of many lines, and there may be thousands of shards
def _installed(package: str) -> str:
    """The version of a package that is here; empty where there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def require_origins(recorded: object, what: str) -> None:
    """Raise AbsentPluginError where a package or module that something was made with is not here: what to install.

    A module that was changed since, or another version of a package, is noted once.

    Args:
        recorded: as :func:`origins_of` takes it. what: the artefact, as ``"run poyo-1234"``.
    """
    for origin in origins_of(recorded):
        state, remark = present(origin)
        if state == "not here":
            message = f"{what} was made with {origin}: {remark}"
            raise AbsentPluginError(message)
        if remark:
            note_once(f"{what} was made with {origin}: {remark}")


def find_module(name: str) -> Path | None:
    """The file of a module on the path or in the current folder, which is not imported; None where there is none."""
    path: list[str] | None = [*sys.path, os.getcwd()]
    spec = None
    for end in range(1, len(parts := name.split(".")) + 1):
        spec = PathFinder.find_spec(".".join(parts[:end]), path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def said_of(package: str) -> str:
    """What an installed package says of itself: its summary and first address; empty where it is not here."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        said = metadata(package)
    except PackageNotFoundError:
        return ""
    addresses = [said.get("Home-page"), *(line.split(",")[-1].strip() for line in said.get_all("Project-URL", []))]
    return ", ".join(filter(None, [said.get("Summary"), next(filter(None, addresses), None)]))


def all_plugins() -> Iterator[tuple[Origin, str]]:
    """Every entry of another package in the registries that are imported, and why one cannot be used."""
    for kind in KINDS:
        if kind in _REGISTRIES:
            yield from _REGISTRIES[kind].plugins()


def _checked(check: Callable[[object, ModuleType], str], thing: object, module: ModuleType) -> str:
    """What a check finds; where asking the thing itself goes wrong, that."""
    try:
        return check(thing, module)
    except Exception as error:  # noqa: BLE001 - whatever another package's code does, it is told as its fault
        return f"cannot be asked what it is ({_line(error)})"


# ---- checks that several registries share ---------------------------------------------------------------------------


def why_no_class(thing: object, base: type, members: Iterable[str]) -> str:
    """Why something is no class that can be used for another: not one, of another base, or with members missing."""
    if not inspect.isclass(thing):
        return f"is {_described(thing)}, expected a class"
    if not issubclass(thing, base):
        return f"is a class that is no {base.__module__}.{base.__qualname__}"
    if abstract := sorted(getattr(thing, "__abstractmethods__", ())):
        return f"lacks {', '.join(abstract)}"
    if missing := [name for name in members if not hasattr(thing, name)]:
        return f"lacks {', '.join(missing)}"
    return ""


def _described(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _is_word(name: str) -> bool:
    return _WORD.fullmatch(name) is not None


def _shown(entry) -> str:
    package, version = _distribution(entry)
    return f"{package} {version} ({entry.value})"


def _distribution(entry) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist is not None else ("", "")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def _file_of(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)


def _place(module_name: str) -> str:
    return str(find_module(module_name) or f"module {module_name}")


def _offered(module: ModuleType) -> list[str]:
    """The classes that a module itself defines."""
    return [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__][:6]
