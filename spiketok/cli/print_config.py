"""``--print-config``: the settings that a command would run with, as TOML that ``--config`` takes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.command import set_by
from spiketok.cli.console import show_json
from spiketok.storage.finding import find_run
from spiketok.storage.workspace import Workspace

if TYPE_CHECKING:
    from spiketok.training.config import RunConfig

PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all settings as TOML, each with its source, and stop.")
]


def config_place(workspace: Workspace, given: Path | None) -> Path | None:
    """What ``--config`` names: a file or folder as it is, else a run of the workspace.

    Raises:
        UnknownNameError, AmbiguousNameError: it is a bare word, and no run or several are meant by it.
    """
    if given is None or given.exists() or given.suffix or len(given.parts) != 1:
        return given
    return find_run(workspace, str(given))


def show_config(config: RunConfig, path: Path | None, sets: list[str], tasks: list[str], as_json: bool) -> None:
    """A run's configuration; ``path``, ``sets``, ``tasks``: what it was made of."""
    from spiketok.training.config_text import config_text

    if as_json:
        show_json({"fingerprint": config.fingerprint(), **config.to_dict()})
    else:
        print(config_text(config, path, sets, tasks, set_by=[set_by(text) for text in sets]), end="")


def show_transfer(config: RunConfig, path: Path | None, sets: list[str], as_json: bool) -> None:
    """How a run's model adapts."""
    from spiketok.training.config_text import config_text

    if as_json:
        show_json(config.to_dict()["transfer"])
    else:
        print(config_text(config, path, sets, set_by=[set_by(text) for text in sets], sections=["transfer"]), end="")
