"""Settings that are none: in TOML files, ``--set``, ``--task``, ``--rule`` and the numbers of options.

Each is refused before anything runs, with exit code 2 (or 1, where only the data can tell), in one line that names the
key and the value, or the file and the fault; and a setting that is right beside it is taken.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.robustness import Case, Cli

LONGEST_LINE = 500
TRAIN = ("train", "--model", "linear", "--json")
MLP = ("train", "--model", "poyo")
NESTED = 10**5

_making = threading.Lock()
_folders: list[tempfile.TemporaryDirectory] = []


@cache
def _workspace(package: Path, python: str, kind: type[Cli]) -> Path:
    """Two small sessions with the shards that ``linear`` and ``poyo`` read; no case writes into it."""
    cli = kind(package, python)
    _folders.append(tempfile.TemporaryDirectory(prefix="spiketok-settings-"))
    root = Path(_folders[-1].name)
    simulate = ("simulate", "--subjects", 1, "--sessions-per-subject", 1, "--units", 5, "--duration-s", 24)
    for words in (simulate, ("tokenize", "--scheme", "binned,per-spike")):
        outcome = cli(*words, root=root)
        assert outcome.code == 0, str(outcome)
    return root


def refused(cli: Cli, words: tuple[str, ...], named: tuple[str, ...]) -> None:
    """The command says one line with each of the words, in a whole workspace, and soon."""
    with _making:
        root = _workspace(cli.package, cli.python, type(cli))
    outcome = cli(*words, root=root).sane()
    assert outcome.code in (1, 2), f"expected code 2: {outcome}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, f"{len(errors)} lines of errors: {outcome}"
    assert len(errors[0]) <= LONGEST_LINE, f"a line of {len(errors[0])} signs: {outcome}"
    missing = [word for word in named if word not in errors[0]]
    assert not missing, f"not named: {missing}: {outcome}"


def _set(text: str, *named: str, of: tuple[str, ...] = MLP) -> tuple[str, Callable[[Cli, Path], None]]:
    key, _, value = text.partition("=")
    shown = text if len(text) < 60 else f"{text[:40]}... ({len(text)} letters)"
    words = named or (key, value)
    return f"--set {shown}", lambda cli, folder: refused(cli, (*of, "--set", text), words)


def _words(*words: str, named: tuple[str, ...]) -> tuple[str, Callable[[Cli, Path], None]]:
    return " ".join(words), lambda cli, folder: refused(cli, words, named)


def _toml(name: str, content: str | bytes, *named: str) -> tuple[str, Callable[[Cli, Path], None]]:
    def run(cli: Cli, folder: Path) -> None:
        file = folder / "run.toml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        refused(cli, (*MLP, "--config", str(file)), named or ("run.toml",))

    return f"TOML: {name}", run


def _path(name: str, make: Callable[[Path], None]) -> tuple[str, Callable[[Cli, Path], None]]:
    def run(cli: Cli, folder: Path) -> None:
        make(folder / "run.toml")
        refused(cli, (*MLP, "--config", str(folder / "run.toml")), ("run.toml",))

    return f"TOML: {name}", run


def _taken(name: str, content: bytes) -> tuple[str, Callable[[Cli, Path], None]]:
    """A file that is right is read, whatever mark and line ends an editor gave it."""

    def run(cli: Cli, folder: Path) -> None:
        (folder / "run.toml").write_bytes(content)
        with _making:
            root = _workspace(cli.package, cli.python, type(cli))
        words = ("train", "--model", "linear", "--config", folder / "run.toml", "--json")
        told = json.loads(cli(*words, root=root).succeeds().out)
        assert told["test"], "nothing was scored"

    return f"TOML: {name}", run


GOOD = 'seed = 7\n[split]\nkind = "block"\n'

CASES = [
    _set("optim.lr=inf"),
    _set("optim.lr=nan"),
    _set("optim.lr=1e999", "optim.lr", "inf"),
    _set("optim.lr=-1e-3", "optim.lr", "-0.001"),
    _set("optim.lr=0"),
    _set("optim.lr=fast"),
    _set("optim.lr=[1e-3]", "optim.lr", "0.001"),
    _set("optim.steps=-5"),
    _set("optim.steps=0"),
    _set("optim.steps=1.5"),
    _set("optim.steps=100000000000000000000000000000000", "optim.steps", "1000000000"),
    _set("optim.weight_decay=inf"),
    _set("optim.betas=[0.9]", "optim.betas"),
    _set("optim.betas=[0.9,nan]", "optim.betas", "nan"),
    _set("optim.clip=-inf", "optim.clip", "-inf"),
    _set("optim.group_lr.units=inf", "optim.group_lr", "inf"),
    _set("optim.devices=1000000000000", "optim.devices", "1000000000000"),
    _set("seed=-1"),
    _set("seed=1e3", "seed", "1000.0"),
    _set("seed=true", "seed", "True"),
    _set("seed=99999999999999999999999", "seed", "99999999999999"),
    _set("data.batch_size=1000000000000", "data.batch_size", "1000000000000"),
    _set("data.batch_size=-1"),
    _set("data.window_ms=1e300", "data.window_ms", "1e+300"),
    _set("data.window_ms=inf"),
    _set("data.window_ms=1e-9", "data.window_ms", "1e-09"),
    _set("data.bin_ms=0"),
    _set("data.bin_ms=1e-9", "data.bin_ms", "1e-09", of=TRAIN),
    _set("data.segments=trials", "data.segments", "trials"),
    _set("data.session_weights.x=-inf", "data.session_weights", "-inf"),
    _set("data.unit_dropout.min=0", "data.unit_dropout"),
    _set("model.dim=-16", "model.dim", "-16"),
    _set("model.dim=1000000000000", "model.dim", "1000000000000"),
    _set("model.no_such_key=1", "no_such_key"),
    _set("optim=3"),
    _set("optim.lr.deep=3", "optim.lr"),
    _set("model..dim=3", "model..dim"),
    _set("nothing=1", "nothing"),
    _set("optim.warmup_epochs=1e308", "optim.warmup_epochs", "1e+308"),
    _set("optim.epochs=9223372036854775807", "optim.epochs", "9223372036854775807"),
    _set("optim.lr=1e308", "optim.lr", "1e+308"),
    _set("data.eval_step_ms=1e-6", "data.eval_step_ms", "1e-06"),
    _set("model.experts=nan", "model.experts", "nan"),
    _set("transfer.map_draws=1000000000000", "transfer.map_draws", "1000000000000"),
    _set("transfer.adapt_blocks=1000000", "transfer.adapt_blocks", "1000000"),
    _set("transfer.full_lr=1e300", "transfer.full_lr", "1e+300"),
    _set("transfer.new_units=Map", "transfer.new_units", "Map"),
    _set("data.curriculum=listed", "data.curriculum_order", "lacks"),
    _set("data.batch_size=2000-01-01", "data.batch_size", "2000-01-01"),
    _set("split.kind=[1]", "split.kind", "[1]"),
    _set(f"optim.lr={'[' * NESTED}", "optim.lr"),
    _set(f"optim.lr={'9' * 5000}", "optim.lr"),
    _set(f"{'a.' * (NESTED // 2)}b=1", "--set"),
    _set(f"{'a' * 5000}=1", "aaaa"),
    _words("train", "--model", "poyo", "--task", "decode:", named=("decode:",)),
    _words("train", "--model", "poyo", "--task", "nothing", named=("task", "nothing")),
    _words("train", "--model", "poyo", "--task", "decode:no_such_signal", named=("no_such_signal",)),
    _words("train", "--model", "x" * 3000, named=("model", "xxx")),
    _words("eval-xsession", "--calibration-s", "nan", named=("--calibration-s", "nan")),
    _words("splits", "--rule", "kind=trial", "--rule", "seed=-1", named=("seed", "-1")),
    _words("splits", "--rule", "kind=block", "--rule", "train=inf", named=("train", "inf")),
    _words("tokenize", "--scheme", "binned", "--bin-ms", "nan", named=("--bin-ms", "nan")),
    _words("tokenize", "--scheme", "binned", "--bin-ms", "1e300", named=("--bin-ms", "1e+300")),
    _words("tokenize", "--scheme", "binned", "--set", "bin_ns=-1", named=("bin_ns", "-1")),
    _words("simulate", "--seed", "-1", named=("--seed", "-1")),
    _words("simulate", "--duration-s", "inf", named=("--duration-s", "inf")),
    _words("simulate", "--set", "rate_hz=nan", named=("rate_hz",)),
    _words("compare", "--seed", "-3", named=("--seed", "-3")),
    _words("compare", "--window-ms", "inf", named=("--window-ms", "inf")),
    _words("ingest", "simulated", "--min-rate", "nan", named=("--min-rate", "nan")),
    _toml("empty list for a table", "optim = []\n", "optim"),
    _toml("a table for a number", "[optim.lr]\nx = 1\n", "optim.lr"),
    _toml("an array of tables", "[[optim]]\nlr = 1e-3\n", "optim"),
    _toml("a date", "[optim]\nlr = 2024-05-06\n", "optim.lr", "2024-05-06"),
    _toml("a date in a list", "[data]\nsession_weights = { a = 2024-05-06 }\n", "data.session_weights", "2024-05-06"),
    _toml("nested lists", "[optim]\nbetas = [[[0.9]], 0.9]\n", "optim.betas"),
    _toml("inf", "[optim]\nlr = inf\n", "optim.lr", "inf"),
    _toml("nan", "[transfer]\nfull_lr = nan\n", "transfer.full_lr", "nan"),
    _toml("size as a list", 'size = ["tiny"]\n', "size", "tiny"),
    _toml("size as a number", "size = 3\n", "size", "3"),
    _toml("model as a number", "model = 3\n", "model", "3"),
    _toml("tasks as a number", "tasks = 5\n", "tasks", "5"),
    _toml("tasks as nested lists", 'tasks = [["decode"]]\n', "tasks"),
    _toml("task as a text", 'task = "decode"\n', "task", "decode"),
    _toml("a key twice", "seed = 1\nseed = 2\n", "run.toml"),
    _toml("cut in the middle", '[optim]\nlr = 1e-3\nname = "ada', "run.toml"),
    _toml("brackets", "x = " + "[" * NESTED, "run.toml"),
    _toml("5000 digits", f"seed = {'9' * 5000}\n", "run.toml"),
    _toml("UTF-16", GOOD.encode("utf-16"), "run.toml", "UTF-8"),
    _toml("garbage", bytes(range(256)), "run.toml"),
    _path("a folder", lambda path: path.mkdir()),
    _path("a link to nothing", lambda path: path.symlink_to("gone")),
    _path("a link to itself", lambda path: path.symlink_to(path.name)),
    _path("not there", lambda path: None),
    _taken("with a mark of UTF-8", b"\xef\xbb\xbf" + GOOD.encode()),
    _taken("with CRLF", GOOD.replace("\n", "\r\n").encode()),
    _taken("empty", b""),
]


def cases(count: int | None = None) -> list[Case]:
    return [Case(name, run) for name, run in CASES[:count]]
