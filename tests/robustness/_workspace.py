"""Small workspaces that cases start from, made once a checkout by its own commands."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import threading
from pathlib import Path

from tests.robustness import Cli

LEFT_OUT = ("index.jsonl", ".checked")  # a store's index and the stamps of shards: they name times of files
SIMULATED = ["--subjects", "1", "--sessions-per-subject", "3", "--units", "12", "--duration-s", "40", "--seed", "5"]

_made: dict[tuple[Path, str], Path] = {}
_lock = threading.Lock()


def scratch() -> Path:
    """An empty folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="spiketok-robust-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def built(cli: Cli, name: str, *commands: list[str]) -> Path:
    """A folder in which these commands ran, one after the other; made once, and never written to again."""
    with _lock:
        key = cli.package, name
        if key not in _made:
            folder = scratch()
            maker = Cli(cli.package, cli.python)
            for words in commands:
                done = maker(*words, root=folder)
                assert done.code == 0, str(done)
            _made[key] = folder
        return _made[key]


def files_of_sessions(cli: Cli) -> Path:
    """A workspace with three NWB files of one subject in ``simulated/``, and nothing ingested."""
    return built(cli, "files", ["simulate", *SIMULATED, "--files-only"])


def store(cli: Cli, folder: Path) -> Path:
    """A copy, as ``folder/root``, of a workspace with three sessions."""
    return _copy(built(cli, "store", ["simulate", *SIMULATED]), folder)


def shards(cli: Cli, folder: Path) -> Path:
    """A copy of a workspace with three sessions as binned and as per-spike tokens."""
    commands = ["simulate", *SIMULATED], ["tokenize", "--scheme", "binned,per-spike"]
    return _copy(built(cli, "shards", *commands), folder)


def run(cli: Cli, folder: Path) -> Path:
    """The same with a trained linear decoder."""
    train = ["train", "--model", "linear", "--task", "decode:cursor_vel"]
    commands = ["simulate", *SIMULATED], ["tokenize", "--scheme", "binned,per-spike"], train
    return _copy(built(cli, "run", *commands), folder)


def _copy(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder / "root", symlinks=True)
    return folder / "root"


def tree(root: Path, pattern: str) -> dict[str, str]:
    """The digest of every file below the folders that match; a half-written one would show as one more."""
    found = [f for folder in root.glob(pattern) for f in (folder.rglob("*") if folder.is_dir() else [folder])]
    plain = [f for f in found if f.is_file() and not f.name.startswith(LEFT_OUT)]
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in plain}


# ---- with every artefact --------------------------------------------------------------------------------------------

SMALL = (
    *(f"model.{word}" for word in ("dim=16", "depth=1", "dim_head=8", "self_heads=2", "latents_per_step=2")),
    *("data.window_ms=500", "data.batch_size=8", "optim.checkpoint_every=2", "optim.steps=4"),
)
SIMULATE = ("simulate", "--subjects", "1", "--sessions-per-subject", "2", "--units", "8", "--duration-s", "40")
LINEAR = ("train", "--model", "linear")
POYO = ("train", "--model", "poyo", *(word for one in SMALL for word in ("--set", one)))
EVALUATE = ("--protocols", "zero_shot", "--calibration-s", "8")
EVERY = (
    [*SIMULATE],
    ["tokenize", "--scheme", "per-spike,binned"],
    [*LINEAR],
    [*POYO],
    ["eval-xsession", "linear", *EVALUATE],
)


def workspace(cli: Cli, folder: Path) -> Path:
    """A copy, in ``folder``, of: simulated files, their sessions and shards, runs of linear and poyo, a report."""
    base = built(cli, "every", *EVERY)
    shutil.copytree(base, folder, dirs_exist_ok=True, symlinks=True)
    sources = folder / "sources.json"
    sources.write_text(sources.read_text().replace(str(base), str(folder)))
    return folder


def the_run(root: Path, model: str) -> str:
    (run,) = {path.name for path in (root / "runs").iterdir() if path.name.startswith(model)}
    return run


def the_file(root: Path, pattern: str) -> Path:
    """The first file, in order of name, that a pattern below the root finds."""
    return sorted(root.glob(pattern))[0]
