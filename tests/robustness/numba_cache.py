"""Where compiled loops are kept: no folder to write, nonsense for one, damaged files, many processes at once.

Each time the tokens are those of a machine where all is well, and ``doctor`` lives and says where the cache is. A
folder that nobody may write, root neither, is a file of its name.
"""

from __future__ import annotations

import pickle
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.robustness import Case, Cli
from tests.robustness import _workspace as workspace
from tests.robustness._workspace import tree

TOKENIZE = ["tokenize", "--scheme", "binned"]
AT_ONCE = 4
Env = dict[str, str]


def cases(count: int | None) -> list[Case]:
    places = {
        "read-only install and home": (_blocked_install, {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache"}),
        "read-only install, a home": (_blocked_install, {"HOME": "HERE"}),
        "read-only install, no HOME": (_blocked_install, {"HOME": ""}),
        "NUMBA_CACHE_DIR is a file": (_blocked_install, {"HOME": "/dev/null", "NUMBA_CACHE_DIR": "HERE/a file"}),
        "NUMBA_CACHE_DIR below a file": (_own_install, {"NUMBA_CACHE_DIR": "HERE/a file/cache"}),
        "NUMBA_CACHE_DIR in /proc": (_blocked_install, {"HOME": "/dev/null", "NUMBA_CACHE_DIR": "/proc/1/cache"}),
        "NUMBA_CACHE_DIR of a name too long": (_own_install, {"NUMBA_CACHE_DIR": "/" + "n" * 300}),
        "NUMBA_CACHE_LOCATOR_CLASSES of nothing": (_own_install, {"NUMBA_CACHE_LOCATOR_CLASSES": "NoSuchLocator"}),
    }
    found = [Case(name, partial(_placed, *how)) for name, how in places.items()]
    found += [Case(f"index files {how}", partial(_damaged, "*.nbi", harm)) for how, harm in HARMS.items()]
    found += [Case(f"code files {how}", partial(_damaged, "*.nbc", harm)) for how, harm in HARMS.items()]
    found += [
        Case("index of another numba", partial(_damaged, "*.nbi", _other_version)),
        Case("code files of one another", _exchanged),
        Case(f"{AT_ONCE} processes at once, no cache yet", _at_once),
        Case(f"{AT_ONCE} processes at once, no folder", partial(_at_once, env={"NUMBA_CACHE_DIR": "/dev/null/x"})),
    ]
    return found[:count]


# ---- installations --------------------------------------------------------------------------------------------------


def _own_install(cli: Cli, folder: Path) -> Cli:
    """The same commands from a copy of the package without any cache."""
    target = folder / "install"
    shutil.copytree(cli.package / "spiketok", target / "spiketok", ignore=shutil.ignore_patterns("__pycache__"))
    installed = Cli(target, cli.python)
    installed.ran = cli.ran
    return installed


def _blocked_install(cli: Cli, folder: Path) -> Cli:
    installed = _own_install(cli, folder)
    for place in [p for p in installed.package.rglob("*") if p.is_dir()]:
        (place / "__pycache__").touch()
    return installed


# ---- cases ----------------------------------------------------------------------------------------------------------


def _placed(install: Callable[[Cli, Path], Cli], env: Env, cli: Cli, folder: Path) -> None:
    (folder / "a file").touch()
    placed = {key: value.replace("HERE", str(folder)) for key, value in env.items()}
    installed, root = install(cli, folder), workspace.store(cli, folder)
    done = installed(*TOKENIZE, root=root, env=placed).succeeds()
    assert done.err.count("cannot be kept") <= 1, f"said more than once: {done}"
    _is_right(cli, root)
    told = installed("doctor", root=root, env=placed).succeeds("kernels")
    assert "Traceback" not in told.err


_compiled: dict[Path, tuple[Path, Path]] = {}
_lock = threading.Lock()


def _cached(cli: Cli, folder: Path) -> tuple[Cli, Path, Env]:
    """An installation that has compiled once (it is shared), with a copy of what it compiled."""
    with _lock:
        if cli.package not in _compiled:
            home = workspace.scratch()
            installed = _own_install(Cli(cli.package, cli.python), home)
            root = workspace.store(cli, home)
            done = installed(*TOKENIZE, root=root, env={"NUMBA_CACHE_DIR": str(home / "cache")})
            assert done.code == 0 and list((home / "cache").rglob("*.nbc")), str(done)
            _compiled[cli.package] = installed.package, home / "cache"
    package, cache = _compiled[cli.package]
    shutil.copytree(cache, folder / "cache")
    installed = Cli(package, cli.python)
    installed.ran = cli.ran
    return installed, workspace.store(cli, folder), {"NUMBA_CACHE_DIR": str(folder / "cache")}


def _damaged(pattern: str, harm: Callable[[bytes, random.Random], bytes], cli: Cli, folder: Path) -> None:
    installed, root, env = _cached(cli, folder)
    for k, file in enumerate(sorted((folder / "cache").rglob(pattern))):
        file.write_bytes(harm(file.read_bytes(), random.Random(k)))
    _is_well(cli, installed, root, env)


def _exchanged(cli: Cli, folder: Path) -> None:
    installed, root, env = _cached(cli, folder)
    files = sorted((folder / "cache").rglob("*.nbc"))
    bodies = [file.read_bytes() for file in files]
    for file, body in zip(files, [*bodies[1:], bodies[0]], strict=True):
        file.write_bytes(body)
    _is_well(cli, installed, root, env)


def _at_once(cli: Cli, folder: Path, env: Env | None = None) -> None:
    installed = _own_install(cli, folder)
    env = env or {"NUMBA_CACHE_DIR": str(folder / "cache")}
    roots = [workspace.store(cli, folder / str(k)) for k in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in pool.map(lambda root: installed(*TOKENIZE, root=root, env=env), roots):
            done.succeeds()
    for root in roots:
        _is_right(cli, root)


def _is_well(cli: Cli, installed: Cli, root: Path, env: Env) -> None:
    """The tokens are right, and doctor lives with what is there then."""
    installed(*TOKENIZE, root=root, env=env).succeeds()
    _is_right(cli, root)
    installed("doctor", root=root, env=env).succeeds("kernels")


def _is_right(cli: Cli, root: Path) -> None:
    right = workspace.built(
        cli, "shards", ["simulate", *workspace.SIMULATED], ["tokenize", "--scheme", "binned,per-spike"]
    )
    theirs = {name: digest for name, digest in tree(right, "shards").items() if name.startswith("shards/binned")}
    assert {n: d for n, d in tree(root, "shards").items() if n.startswith("shards/binned")} == theirs


# ---- harm -----------------------------------------------------------------------------------------------------------


def _cut(data: bytes, at: random.Random) -> bytes:
    return data[: at.randrange(1, len(data))]


def _zero_end(data: bytes, at: random.Random) -> bytes:
    """A file whose last blocks the disk never got."""
    keep = at.randrange(len(data) // 4, len(data))
    return data[:keep] + bytes(len(data) - keep)


def _flip(data: bytes, at: random.Random) -> bytes:
    k = at.randrange(len(data))
    return data[:k] + bytes([data[k] ^ 1 << at.randrange(8)]) + data[k + 1 :]


def _other_version(data: bytes, at: random.Random) -> bytes:
    return pickle.dumps("0.1") + data


HARMS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda data, at: b"",
    "cut": _cut,
    "of zeros": lambda data, at: bytes(len(data)),
    "with zeros at the end": _zero_end,
    "with a bit flipped": _flip,
    "of noise": lambda data, at: at.randbytes(len(data)),
}
