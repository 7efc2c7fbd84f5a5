"""A small workspace of every artefact, made by the commands once a process and copied for each case."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from pathlib import Path

from tests.robustness import Cli

SIMULATE = ("simulate", "--subjects", "1", "--sessions-per-subject", "2", "--units", "8", "--duration-s", "40")
SCHEMES = ("tokenize", "--scheme", "per-spike,binned")
LINEAR = ("train", "--model", "linear")
SMALL = (
    *(f"model.{word}" for word in ("dim=16", "depth=1", "dim_head=8", "self_heads=2", "latents_per_step=2")),
    *("data.window_ms=500", "data.batch_size=8", "optim.checkpoint_every=2", "optim.steps=4"),
)
POYO = ("train", "--model", "poyo", *(word for one in SMALL for word in ("--set", one)))
EVALUATE = ("--protocols", "zero_shot", "--calibration-s", "8")

_made: dict[Path, Path] = {}
_one_at_a_time = threading.Lock()


def workspace(cli: Cli, folder: Path) -> Path:
    """A copy, in ``folder``, of: simulated files, their sessions and shards, runs of linear and poyo, a report."""
    with _one_at_a_time:
        if cli.package not in _made:
            _made[cli.package] = _make(cli)
    shutil.copytree(_made[cli.package], folder, dirs_exist_ok=True, symlinks=True)
    sources = folder / "sources.json"
    sources.write_text(sources.read_text().replace(str(_made[cli.package]), str(folder)))
    return folder


def _make(cli: Cli) -> Path:
    root = Path(tempfile.mkdtemp(prefix="spiketok-made-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    maker = Cli(cli.package, cli.python)
    for words in (SIMULATE, SCHEMES, LINEAR, POYO, ("eval-xsession", "linear", *EVALUATE)):
        done = maker(*words, root=root)
        assert done.code == 0, str(done)  # how long the first compilation of the kernels takes is no case
    return root


def the_run(root: Path, model: str) -> str:
    (run,) = {path.name for path in (root / "runs").iterdir() if path.name.startswith(model)}
    return run


def the_file(root: Path, pattern: str) -> Path:
    """The first file, in order of name, that a pattern below the root finds."""
    return sorted(root.glob(pattern))[0]
