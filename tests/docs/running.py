"""Runs what the pages say as a reader would type it: in an empty folder, by an installed ``spiketok``, with a shell.

``SPIKETOK_BIN`` is the ``bin`` of the environment whose spiketok is tried (``make wheel``: a wheel in a clean one);
without it, that of this Python. Recordings, trainings and benchmarks are shortened by a script that stands before the
program in ``PATH`` and adds options (:data:`SHORTER`); archives are servers on 127.0.0.1 that hold made files.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

STEPS = " ".join(
    f"--set transfer.{key}" for key in ("identity_steps=3", "full_steps=3", "unfreeze_after=1", "adapt_steps=3")
)
# What is added behind the words of a command, so that it takes seconds and not minutes; the last word counts.
SHORTER = {
    "simulate": "--duration-s 60 --units 20 --sessions-per-subject 2",
    "train @easy.json": "--set optim.steps=40 --set data.batch_size=8",  # the curriculum's last session must be met
    "train": "--set optim.steps=4 --set data.batch_size=8",
    "eval-xsession --keep": f"--protocols adapted {STEPS}",
    "eval-xsession": f"--protocols zero_shot,identity_only,full {STEPS}",
    "compare --models": "--steps 4",
    "stream --speed": "--speed max",
}


@dataclass
class Place:
    """A folder to type in. ``archives`` says which address serves the names of which beginning."""

    folder: Path
    archives: dict[str, str] = field(default_factory=dict)
    root: str = "spiketok-data"
    more: dict[str, str] = field(default_factory=dict)  # of the environment

    @property
    def installed(self) -> Path:
        return Path(os.environ.get("SPIKETOK_BIN") or Path(sys.executable).parent)

    def _shim(self) -> Path:
        """The folder with the script that shortens."""
        folder = self.folder / ".shorter"
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["#!/bin/sh", 'case "$1 $*" in']
        for words, more in SHORTER.items():
            command, _, option = words.partition(" ")
            lines.append(f'  "{command} "*{option}*) set -- "$@" {more} ;;')
        lines += [f'  "fetch fetch {name}"*) set -- "$@" --api-url {url} ;;' for name, url in self.archives.items()]
        lines += ["esac", f'exec "{self.installed / "spiketok"}" "$@"']
        script = folder / "spiketok"
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        return folder

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPIKETOK_", "PYTEST_"))}
        if "SPIKETOK_BIN" in os.environ:
            kept.pop("PYTHONPATH", None)  # the wheel alone, nothing of this checkout
        path = f"{self._shim()}:{self.installed}:{kept['PATH']}"
        return kept | {"PATH": path, "SPIKETOK_ROOT": self.root, "COLUMNS": "100", "MPLBACKEND": "Agg"} | self.more

    def _run(self, words: list[str], text: str | None, code: int) -> str:
        done = subprocess.run(
            words, input=text, cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=1800
        )
        said = f"$ {text or words[-1]}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, f"exit code {done.returncode}\n{said[-6000:]}"
        assert "Traceback" not in done.stderr, said
        return done.stdout

    def shell(self, text: str, code: int = 0) -> str:
        """Run lines as bash does; the first that fails ends them."""
        return self._run(["bash", "-e", "-o", "pipefail", "-c", text], None, code)

    def has(self, module: str) -> bool:
        """Whether the environment has a module."""
        asked = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        return subprocess.run([str(self.installed / "python"), "-c", asked], env=self._environment()).returncode == 0

    def python(self, text: str) -> str:
        """Run a program with the Python of the environment."""
        return self._run([str(self.installed / "python"), "-W", "error::SyntaxWarning", "-"], text, 0)
