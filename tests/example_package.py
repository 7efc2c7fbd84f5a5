"""The example package and broken ones, as packages that are installed, for the time of a test."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from spiketok.models import MODELS
from spiketok.recording.metrics import METRICS
from spiketok.sources.catalogue import DATASETS
from spiketok.tokens.schemes import SCHEMES
from spiketok.training.tasks import TASKS

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "spiketok-example"
REGISTRIES = (MODELS, SCHEMES, DATASETS, TASKS, METRICS)


def write_package(
    site: Path, name: str, version: str, entries: dict[str, dict[str, str]], files: dict[str, str]
) -> None:
    """A package as an installer leaves it: its files and the metadata that names its entry points.

    Args:
        entries: by group, as ``{"spiketok.models": {"name": "module:Class"}}``. files: by path.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: Of the tests\n"
    (info / "METADATA").write_text(about)
    told = "\n".join(f"[{group}]\n" + "\n".join(f"{n} = {e}" for n, e in own.items()) for group, own in entries.items())
    (info / "entry_points.txt").write_text(f"{told}\n")
    for path, text in files.items():
        (site / path).write_text(text)


def write_example(site: Path, version: str = "") -> None:
    """The example package, with the entry points of its pyproject.toml and the version there or another."""
    about = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    files = {path.name: path.read_text() for path in (EXAMPLE / "spiketok_example").glob("*.py")}
    (site / "spiketok_example").mkdir(parents=True)
    for name, text in files.items():
        (site / "spiketok_example" / name).write_text(text)
    write_package(site, about["name"], version or about["version"], about["entry-points"], {})


@contextlib.contextmanager
def installed(*sites: Path) -> Iterator[None]:
    """What lies in these folders is installed; afterwards it is as if it had never been."""
    path, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = map(str, sites)
    _look_again()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if any(str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)) for site in sites):
                del sys.modules[name]
        _look_again()


def _look_again() -> None:
    importlib.invalidate_caches()
    for registry in REGISTRIES:
        registry.look_again()
    from spiketok.tokens.shards import _scheme_from

    _scheme_from.cache_clear()
