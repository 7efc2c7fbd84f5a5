"""The demo: the commands that a user would type, on simulated recordings, in order."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from spiketok.cli.console import say

HELD_OUT = "*day04*"


def demo_commands(root: Path, *, quick: bool) -> list[list[str]]:
    """Words of each command: two subjects, four days each, the last day of each held out.

    Args:
        root: the demo's workspace.
        quick: shorter recordings and fewer steps.
    """
    here = ["--root", str(root)]
    size = ["--duration-s", "90", "--units", "40"] if quick else []
    steps = ["--set", "optim.steps=60", "--set", "transfer.identity_steps=20", "--set", "transfer.full_steps=20",
             "--set", "transfer.unfreeze_after=5"] if quick else []  # fmt: skip
    hold_out = ["--hold-out", HELD_OUT]
    return [
        ["simulate", "--subjects", "2", "--sessions-per-subject", "4", *size, *here],
        ["verify", *here],
        ["tokenize", "--scheme", "binned", *here],
        ["tokenize", "--scheme", "per-spike", *here],
        ["train", "--model", "linear", *hold_out, *here],
        ["train", "--model", "poyo", *hold_out, *steps, *here],
        ["eval-xsession", "poyo", *here],
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
        app(words, standalone_mode=False)
    say("")
    say(f"demo done in {time.monotonic() - begun:.0f} s; open {root}/runs/*/xsession/report.html in a browser")
