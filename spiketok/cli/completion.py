"""What a shell completes: names of schemes, models, datasets, runs, sessions, and keys of ``--set``.

What is unusual: nothing of what is named is imported, because a shell asks at each press of a key: torch and numba
take seconds. Names of leaves are read out of their source text by ``ast``, those of other packages out of their entry
points; sessions and runs are folders. A test holds both against the registries.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

import typer

PACKAGE = Path(__file__).resolve().parents[1]
# The dataclasses of a run's configuration, by the beginning of their keys.
SECTIONS = {
    "data.": ("training/sections.py", "DataConfig"),
    "data.unit_dropout.": ("training/sections.py", "UnitDropoutConfig"),
    "split.": ("recording/splits.py", "SplitRule"),
    "optim.": ("training/sections.py", "OptimConfig"),
    "transfer.": ("training/sections.py", "TransferConfig"),
}
TOP_KEYS = ("size", "seed")
RUN_ARGUMENTS = ("eval-xsession", "embed", "ensemble", "generate", "coupling", "verify", "cite", "inspect", "export")
SESSION_ARGUMENTS = ("verify", "cite", "inspect", "export", "splits", "compare", "stream")


def complete(command: str, option: object) -> None:
    """Give an option or argument of a command the values that a shell completes; nothing where none are known."""
    from typer.core import _typer_param_setup_autocompletion_compat as attach

    found = _values_of(command, option)
    if found is not None:
        attach(option, autocompletion=found)


def _values_of(command: str, option: object) -> Callable | None:
    opts, name = set(option.opts), option.name
    if not any(word.startswith("-") for word in opts):
        return _argument(command, name)
    if opts & {"--sessions", "--hold-out", "--like", "--test"}:
        return lambda ctx, args, word: _listed(session_names(_root(ctx)), word)
    if opts & {"--run", "--from", "--latents"}:
        return lambda ctx, args, word: [*run_names(_root(ctx)), *model_names()]
    if opts & {"--model", "--models"}:
        return lambda ctx, args, word: _listed(model_names(), word)
    if "--scheme" in opts:
        return lambda ctx, args, word: _listed([*scheme_names(), "all"], word)
    if "--set" in opts:
        return lambda ctx, args, word: [f"{key}=" for key in set_keys(command, ctx)]
    if "--dataset" in opts:
        return lambda ctx, args, word: dataset_names()
    return None


def _argument(command: str, name: str) -> Callable | None:
    if command in ("fetch", "datasets"):
        return lambda ctx, args, word: dataset_names()
    if command == "models":
        return lambda ctx, args, word: model_names()
    if command == "schemes":
        return lambda ctx, args, word: scheme_names()
    if command == "bench":
        return lambda ctx, args, word: sorted(p.stem for p in (PACKAGE / "evaluation/bench/suites").glob("*.toml"))
    if name == "sessions" and command not in ("export", "splits", "compare"):
        return lambda ctx, args, word: _listed(session_names(_root(ctx)), word)
    runs, sessions = command in RUN_ARGUMENTS, command in SESSION_ARGUMENTS or command.startswith("session")
    if not runs and not sessions:
        return None

    def found(ctx: typer.Context, args: list[str], word: str) -> list[str]:
        root = _root(ctx)
        own = [*run_names(root), *({run.rpartition("-")[0] for run in run_names(root)})] if runs else []
        return [*own, *(session_names(root) if sessions else [])]

    return found


def _listed(names: Iterable[str], word: str) -> list[str]:
    """Names for the last of several words with commas between."""
    before, comma, _ = word.rpartition(",")
    return [f"{before}{comma}{name}" for name in names]


# ---- what lies in folders -------------------------------------------------------------------------------------------


def _root(ctx: typer.Context) -> Path:
    from spiketok.storage.workspace import Workspace

    given = ctx.params.get("root") or ctx.find_root().params.get("root")
    return Workspace.locate(given).root


def session_names(root: Path) -> list[str]:
    """The sessions of a store on this machine, by their folders."""
    return sorted(f"{p.parent.name}/{p.name}" for p in (root / "store").glob("[!.]*/[!.]*") if p.is_dir())


def run_names(root: Path) -> list[str]:
    """The runs of a workspace, by their folders."""
    return sorted(p.name for p in (root / "runs").glob("[!.]*") if (p / "config.json").exists())


# ---- what stands in source text -------------------------------------------------------------------------------------


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _files(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def _named(folder: str) -> dict[str, tuple[Path, ast.ClassDef]]:
    """The leaves of a folder by name: its classes that have a ``name`` or, of tasks, a ``kind``."""
    found = {}
    for path in _files(folder):
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef) and (name := _own_name(node)):
                found[name] = (path, node)
    return found


def _own_name(node: ast.ClassDef) -> str:
    for item in node.body:
        target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0] if _assigns(item) else None
        is_name = isinstance(target, ast.Name) and target.id in ("name", "kind")
        if is_name and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str):
            return item.value.value
    return ""


def _assigns(item: ast.stmt) -> bool:
    return isinstance(item, ast.Assign)


def _plugged(kind: str) -> dict[str, str]:
    """What other packages have of a kind, by name: ``"package.module:Class"``. Nothing of it is imported."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=f"spiketok.{kind}s")}


def _leaves(kind: str, folder: str) -> dict[str, tuple[Path, ast.ClassDef]]:
    """The classes of a kind by name: those of a folder, and those of other packages whose source text is there."""
    found = {}
    for name, entry in _plugged(kind).items():
        module, _, wanted = entry.partition(":")
        file = _source_of(module)
        if file is not None and (node := _class(file, wanted)) is not None:
            found[name] = (file, node)
    return found | _named(folder)


def _source_of(module: str) -> Path | None:
    """The source text of a module, found as an import would find it; none of its packages is imported."""
    path = None
    for part in module.split("."):
        found = PathFinder.find_spec(part, path)
        if found is None:
            return None
        path = found.submodule_search_locations
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def model_names() -> list[str]:
    """The models of the package and of others."""
    return sorted({*_named("models"), *_plugged("model")})


def scheme_names() -> list[str]:
    """The token schemes of the package and of others."""
    return sorted({*_named("tokens/schemes"), *_plugged("scheme")})


def dataset_names() -> list[str]:
    """The datasets of the catalogue and of other packages, and the names of groups of them."""
    from spiketok.cli.groups import DATASETS, GROUPS

    return sorted({*DATASETS, *GROUPS, *_plugged("dataset")})


# ---- keys of --set --------------------------------------------------------------------------------------------------


def set_keys(command: str, ctx: typer.Context) -> list[str]:
    """What ``--set`` takes in a command: keys of a run, of a model where one is named, or fields of schemes."""
    if command in ("tokenize", "stream", "compare", "splits"):
        given = ctx.params.get("scheme") or "all"
        names = scheme_names() if given == "all" else [name.strip() for name in given.split(",")]
        known = _leaves("scheme", "tokens/schemes")
        found = {name: _fields(*known[name]) for name in names if name in known}
        alone = [key for keys in found.values() for key in keys] if len(found) == 1 else []
        return sorted([*alone, *(f"{name}.{key}" for name, keys in found.items() for key in keys)])
    if command == "eval-xsession":
        return sorted(f"transfer.{key}" for key in _section("transfer."))
    if command != "train":
        return []
    keys = [*TOP_KEYS, *(f"{prefix}{key}" for prefix in SECTIONS for key in _section(prefix))]
    for name, (path, node) in _leaves("task", "training/tasks").items():
        keys += [f"task.{name}.{key}" for key in _config_fields(path, node)]
    models = _leaves("model", "models")
    if (model := ctx.params.get("model")) in models:
        keys += [f"model.{key}" for key in _config_fields(*models[model])]
    return sorted(keys)


def _section(prefix: str) -> list[str]:
    file, name = SECTIONS[prefix]
    return _fields(PACKAGE / file, _class(PACKAGE / file, name))


def _config_fields(path: Path, leaf: ast.ClassDef) -> list[str]:
    """The fields of the ``Config`` that a model or a task names in its body."""
    for item in leaf.body:
        target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0] if _assigns(item) else None
        if isinstance(target, ast.Name) and target.id == "Config" and isinstance(item.value, ast.Name):
            return _fields(*_defined(path, item.value.id))
    return []


def _fields(path: Path, node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass, those of its bases first."""
    found = []
    for base in node.bases:
        if isinstance(base, ast.Name) and (where := _defined(path, base.id))[1] is not None:
            found += _fields(*where)
    own = [
        item for item in node.body if isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.dump(item.annotation)
    ]
    return [*found, *(item.target.id for item in own if item.target.id not in found)]


def _class(path: Path, name: str) -> ast.ClassDef | None:
    return next((n for n in _tree(path).body if isinstance(n, ast.ClassDef) and n.name == name), None)


def _defined(path: Path, name: str) -> tuple[Path, ast.ClassDef | None]:
    """Where a class that a file uses is written: there, or in the module of the package that it is imported from."""
    if (node := _class(path, name)) is not None:
        return path, node
    for item in _tree(path).body:
        imports = isinstance(item, ast.ImportFrom) and (item.module or "").startswith(f"{PACKAGE.name}.")
        if imports and any((alias.asname or alias.name) == name for alias in item.names):
            module = PACKAGE.joinpath(*item.module.split(".")[1:])
            file = module.with_suffix(".py") if module.with_suffix(".py").exists() else module / "__init__.py"
            return _defined(file, name) if file != path else (path, None)
    return path, None
