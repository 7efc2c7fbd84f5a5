"""The demo: the commands that a user would type, on simulated recordings, in order."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say


def demo_commands(root: Path, *, quick: bool) -> list[list[str]]:
    """Words of each command: two subjects, four days each, the last day of each held out, as the commands do alone.

    Args:
        root: the demo's workspace.
        quick: shorter recordings and fewer steps.
    """
    here = ["--root", str(root)]
    size = ["--duration-s", "90", "--units", "40"] if quick else []
    steps = ["--set", "optim.steps=60", "--set", "transfer.identity_steps=20", "--set", "transfer.full_steps=20",
             "--set", "transfer.unfreeze_after=5", "--set", "transfer.adapt_steps=25"] if quick else []  # fmt: skip
    return [
        ["simulate", *size, *here],
        ["verify", *here],
        ["tokenize", *here],
        ["train", "--model", "linear", "--tokenize", *here],
        ["train", *steps, *here],
        ["eval-xsession", *here],
    ]


def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller and shorter: shows that all works, not how well.")
    ] = False,
    root: Annotated[Path, typer.Option("--root", help="Workspace folder of the demo.")] = Path("spiketok-demo"),
) -> None:
    """Run the main job on simulated recordings, offline: simulate, ingest, verify, tokenize, train, evaluate."""
    from spiketok.cli import app

    begun = time.monotonic()
    for words in demo_commands(root, quick=quick):
        say("")
        say(f"$ spiketok {shlex.join(words)}")
        code = app(words, standalone_mode=False)
        if code:
            raise typer.Exit(code)
    say("")
    say(f"demo done in {time.monotonic() - begun:.0f} s; open {root}/runs/*/xsession/report.html in a browser")
