"""``--print-config``: the settings that a command would run with, as TOML that ``--config`` takes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketok.cli.command import set_by
from spiketok.cli.console import show_json

if TYPE_CHECKING:
    from spiketok.training.config import RunConfig

PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all settings as TOML, each with its source, and stop.")
]


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
