"""Files that spiketok wrote and that were edited, cut or replaced: every command that meets one, on a copy of its own.

A workspace is made once by the commands of the checkout: two simulated sessions and one file with a record of its
download, shards of two schemes, finished runs of ``linear`` and ``poyo`` with their predictions, a report. A case does
one damage to one of its files. The laws:

- a command ends by itself with exit code 0, 1 or 2, without a traceback, in lines that a person can read;
- where it ends with 0, its result is that of the undamaged workspace; else a line of its errors names what is damaged,
  or it ended in the same words before the damage;
- ``verify`` names every damage to what stands under a digest;
- a command that only reads changes no file.

``tests/cli/test_damage.py`` asks the same of flipped bits, exchanged files and the stamps, in forked processes.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.robustness import Case, Cli, Outcome

SEED, MANY = 13, 200
POYO = ("dim=16", "depth=1", "dim_head=8", "self_heads=2", "latents_per_step=2")
FEW = [*(f"model.{text}" for text in POYO), "data.window_ms=500", "data.batch_size=8", "optim.steps=3"]
TRAIN = {
    "linear": ["train", "--model", "linear", "--hold-out", "*day02*", "--json"],
    "poyo": [*["train", "--model", "poyo", "--hold-out", "*day02*", "--json"], *(w for s in FEW for w in ("--set", s))],
}
READING = ("inspect", "verify", "cite", "splits", "upgrade", "doctor")  # and these write nothing but index and stamps
# keys that speak of the disk and not of data
NOT_RESULTS = ("MB", "bytes", "size", "path", "state", "read", "space", "found", "index")
LONGEST_LINE = 800


# ---- the workspace --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """The undamaged workspace: its root, its runs by model, and what its commands give on it."""

    root: Path
    runs: dict[str, str]
    results: dict[tuple[str, ...], tuple[Outcome, object]] = field(default_factory=dict)

    def file(self, kind: str, rng: random.Random) -> Path:
        """One of the files of a kind, relative."""
        found = sorted(p.relative_to(self.root) for p in self.root.glob(FILES[kind]))
        assert found, f"the workspace holds no {kind}"
        return rng.choice(found)


_making = threading.Lock()
_folders: list[tempfile.TemporaryDirectory] = []  # removed when this process ends


def made(cli: Cli) -> Made:
    with _making:
        return _made(cli.package, cli.python, type(cli))


@cache
def _made(package: Path, python: str, kind: type[Cli]) -> Made:
    cli = kind(package, python)  # the time of making is none of the first case's
    _folders.append(tempfile.TemporaryDirectory(prefix="spiketok-artefacts-"))
    root = Path(_folders[-1].name) / "ws"
    root.mkdir()

    def must(*words: object) -> str:
        outcome = cli(*words, root=root)
        assert outcome.code == 0, f"the workspace cannot be made: {outcome}"
        return outcome.out

    must("simulate", "--subjects", 1, "--sessions-per-subject", 2, "--units", 6, "--duration-s", 24)
    must("ingest", fetched_file(root))
    must("tokenize", "--scheme", "per-spike,binned", "--sessions", "simulated/*")
    words = ["--sessions", "simulated/*", "--save-predictions"]
    runs = {model: Path(json.loads(must(*train, *words))["run"]).name for model, train in TRAIN.items()}
    must(*evaluate(runs["poyo"]), "--save-predictions")
    must("verify")  # stamps, and that all is well
    return Made(root, runs)


def fetched_file(root: Path) -> Path:
    """A file as ``spiketok fetch`` leaves it: beside it the record of its download."""
    target = root / "raw" / "urls" / "fetched.nwb"
    target.parent.mkdir(parents=True)
    shutil.copy(next(root.glob("simulated/*/*day01*.nwb")), target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    entry = {"url": "https://example.org/fetched.nwb", "size": target.stat().st_size, "sha256": digest}
    (target.parent / "urls.json").write_text(json.dumps({"files": {target.name: entry}}, indent=2))
    return target


def evaluate(run: str) -> list[str]:
    return ["eval-xsession", run, "--sessions", "*day02*", "--protocols", "zero_shot", "--calibration-s", "8", "--json"]


FILES = {
    "config": "runs/*/config.json",
    "checkpoint": "runs/*/checkpoint/checkpoint.json",
    "weights": "runs/*/checkpoint/*.safetensors",
    "result": "runs/*/result.json",
    "log": "runs/*/metrics.jsonl",
    "predictions": "runs/*/predictions/*/*.safetensors",
    "report": "runs/*/xsession/report.json",
    "page": "runs/*/xsession/report.html",
    "session": "store/simulated/*/session.json",
    "arrays": "store/simulated/*/arrays.zip",
    "index": "store/index.jsonl",
    "shard": "shards/[bp]*/*/*/*/manifest.json",
    "columns": "shards/*/*/*/*/columns.bin",
    "context": "shards/context/*/*/*/manifest.json",
    "stamp": "shards/*/*/*/*/.checked",
    "sources": "sources.json",
    "record": "raw/urls/urls.json",
    "simulation": "simulated/*/*_simulation.json",
}
UNDER_A_DIGEST = {"config", "checkpoint", "weights", "result", "predictions", "report", "page"}
UNDER_A_DIGEST |= {"session", "arrays", "shard", "columns", "context"}
OF_A_RUN = {"config", "checkpoint", "weights", "result", "log", "predictions"}


def artefact_of(kind: str, path: Path) -> Path:
    """The folder that a person names to a command."""
    depth = {"session": 3, "arrays": 3, "shard": 5, "columns": 5, "context": 5, "stamp": 5, "report": 3, "page": 3}
    return Path(*path.parts[: 2 if kind in OF_A_RUN else depth.get(kind, 0)])


def commands(kind: str, path: Path, of: Made, rng: random.Random) -> Iterator[list[str]]:
    """Commands that meet a file: those that look, and some of those that work with it."""
    artefact = str(artefact_of(kind, path))
    yield ["inspect", "--json"]
    if artefact != ".":
        yield ["inspect", artefact, "--json"]
        yield ["cite", artefact, "--json"]
        yield ["verify", artefact, "--quick", "--json"]
    else:
        yield ["verify", "--quick", "--json"]
        yield ["cite", "--json"]
    model = next((model for model, name in of.runs.items() if name in path.parts), "linear")
    run = of.runs[model]
    resumed = [*TRAIN[model], "--sessions", "simulated/*"]
    resumed += ["--restart"] if model == "linear" and kind not in OF_A_RUN else []
    tokenize = ["tokenize", "--scheme", "per-spike,binned", "--sessions", "simulated/*", "--json"]
    session = "simulated/*day01*"
    nwb = ["export", session, "--to", "nwb", "--out", "x", "--json"]
    simulate = ["simulate", "--subjects", "1", "--sessions-per-subject", "2", "--units", "6", "--duration-s", "24"]
    of_a_session = [tokenize, resumed, ["splits", "--json"], ["index"], nwb]
    some = {
        "session": of_a_session,
        "arrays": [*of_a_session, ["compare", session, "--scheme", "binned"], ["stream", session]],
        "sources": [["verify", "--json"], nwb, ["ingest", "raw", "--json"]],
        "record": [["verify", "--json"], ["ingest", "raw/urls/fetched.nwb", "--json"]],
        "simulation": [[*simulate, "--json"]],
        "index": [tokenize, resumed, ["index"], ["doctor", "--json"], ["upgrade", "--dry-run"]],
    }
    for one in ("shard", "columns", "context", "stamp"):
        some[one] = [tokenize, resumed, evaluate(run), ["upgrade", "--dry-run"]]
    for one in ("report", "page"):
        some[one] = [evaluate(run), ["verify", f"{artefact}/report.json", "--quick", "--json"]]
    others = [[command, run] for command in ("generate", "coupling", "embed")]
    others += [["ensemble", run, "--json"], ["export", run, "--to", "nlb", "--out", "x"], ["upgrade", "--dry-run"]]
    others += [["stream", session, "--run", run], ["eval-xsession", model, *evaluate(run)[2:]]]
    if kind in OF_A_RUN:
        yield resumed
        some[kind] = [evaluate(run), *rng.sample(others, 2)]
    yield from rng.sample(some[kind], min(3, len(some[kind])))


# ---- damages --------------------------------------------------------------------------------------------------------

Damage = Callable[[Path, random.Random], None]
NESTED = 10**5


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    def do(path: Path, rng: random.Random) -> None:
        data = path.read_bytes()
        path.write_bytes(change(data, rng))

    return do


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(target: str) -> Damage:
    def do(path: Path, rng: random.Random) -> None:
        path.unlink()
        path.symlink_to(target or path.name)

    return do


BYTES: dict[str, Damage] = {
    "empty": _bytes(lambda data, rng: b""),
    "blank": _bytes(lambda data, rng: b" \n\t \n"),
    "half of it": _bytes(lambda data, rng: data[: len(data) // 2]),
    "garbage": _bytes(lambda data, rng: rng.randbytes(len(data))),
    "UTF-16": _bytes(lambda data, rng: data.decode("latin-1").encode("utf-16")),
    "UTF-8 with a mark": _bytes(lambda data, rng: b"\xef\xbb\xbf" + data),
    "CRLF": _bytes(lambda data, rng: data.replace(b"\n", b"\r\n")),
    "brackets": _bytes(lambda data, rng: b"[" * NESTED + b"]" * NESTED),
    "a folder": _folder,
    "a link to nothing": _link("gone"),
    "a link to itself": _link(""),
    "gone": lambda path, rng: path.unlink(),
}


def _facts(change: Callable[[object, random.Random], object]) -> Damage:
    """A damage to what a JSON file says; of one with a line each, to what its last line says."""

    def do(path: Path, rng: random.Random) -> None:
        *before, last = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        facts = change(json.loads(last), rng)
        text = facts if isinstance(facts, str) else json.dumps(facts)
        path.write_text("".join(f"{line}\n" for line in [*before, text]))

    return do


def _places(value: object) -> Iterator[tuple]:
    """Every (holder, key) in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield value, key
        yield from _places(item)


def _one(wanted: Callable[[object], bool], new: Callable[[object], object]) -> Damage:
    """One place with a value of a sort gets another value; any place where there is none of that sort."""

    def change(facts: object, rng: random.Random) -> object:
        places = list(_places(facts))
        holder, key = rng.choice([(h, k) for h, k in places if wanted(h[k])] or places)
        word = "here-a-new-value"
        value = new(holder[key])
        holder[key] = word if isinstance(value, bytes) else value
        text = json.dumps(facts, indent=2)
        return text.replace(f'"{word}"', value.decode()) if isinstance(value, bytes) else text

    return _facts(change)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _twice(facts: object, rng: random.Random) -> str:
    """The first key of the file, said again at its end with another value."""
    key = next(iter(facts)) if isinstance(facts, dict) else "x"
    return json.dumps(facts).rstrip()[:-1] + f', {json.dumps(key)}: "other"' + ("}" if isinstance(facts, dict) else "]")


JSON: dict[str, Damage] = {
    "null": _facts(lambda facts, rng: "null"),
    "a list": _facts(lambda facts, rng: [facts]),
    "a number": _facts(lambda facts, rng: "7"),
    "a key twice": _facts(_twice),
    "a value null": _one(lambda value: value is not None, lambda value: None),
    "a list for an object": _one(lambda value: isinstance(value, dict), lambda value: list(value)),
    "an object for a list": _one(lambda value: isinstance(value, list), lambda value: {"0": value}),
    "a text for a number": _one(_is_number, lambda value: str(value)),
    "a number for a text": _one(lambda value: isinstance(value, str), lambda value: 3),
    "NaN": _one(_is_number, lambda value: b"NaN"),
    "Infinity": _one(_is_number, lambda value: b"-Infinity"),
    "1e999": _one(_is_number, lambda value: b"1e999"),
    "a huge number": _one(_is_number, lambda value: 10**400),
    "a number of 5000 digits": _one(_is_number, lambda value: b"9" * 5000),
    "a negative number": _one(_is_number, lambda value: -1 - abs(value) if _is_number(value) else -1),
    "a number three times as large": _one(_is_number, lambda value: 3 * value + 1 if _is_number(value) else 3),
    "another word": _one(lambda value: isinstance(value, str), lambda value: f"{value}x"),
    "a way out": _one(lambda value: isinstance(value, str), lambda value: "../" * 9 + "etc/passwd"),
    "brackets within": _one(lambda value: True, lambda value: b"[" * NESTED + b"]" * NESTED),
}
OF_JSON = [kind for kind, glob in FILES.items() if glob.endswith((".json", ".jsonl"))]


def is_changed(before: bytes, path: Path) -> bool:
    """Whether a file says something else than it did: of JSON other facts, else other bytes."""
    try:
        after = path.read_bytes()
    except OSError:
        return True
    try:
        return json.loads(before) != json.loads(after)
    except (ValueError, RecursionError):
        return before != after


# ---- the laws -------------------------------------------------------------------------------------------------------


def run_case(cli: Cli, folder: Path, number: int, kind: str, told: str) -> None:
    of, rng = made(cli), random.Random(f"{SEED}/{number}")
    path = of.file(kind, rng)
    state = rng.getstate()
    faults = []
    for words in list(commands(kind, path, of, rng)):
        root = folder / "copy"
        shutil.copytree(of.root, root, symlinks=True)
        before = (root / path).read_bytes()
        rng.setstate(state)  # the same damage for every command
        (BYTES | JSON)[told](root / path, rng)
        is_named = kind in UNDER_A_DIGEST and is_changed(before, root / path)
        files = digests(root)
        outcome = cli(*words, root=root)
        fault = fault_of(outcome, root, of, cli, names_of(kind, path))
        is_artefact = words[:2] == ["verify", str(artefact_of(kind, path))]
        if not fault and is_named and is_artefact and outcome.code == 0:
            fault = "verify does not name the damage"
        if not fault and words[0] in READING and digests(root) != files:
            fault = "a command that only reads changed a file"
        faults += [f"{path}: {fault}: {outcome}"] * bool(fault)
        shutil.rmtree(root)
    assert not faults, "\n".join(faults)


def names_of(kind: str, path: Path) -> set[str]:
    """Words of which one tells a person what is damaged."""
    found = {path.name, path.parent.name, artefact_of(kind, path).name} - {""}
    found |= {path.parts[3]} if path.parts[0] == "shards" else set()
    return found | ({path.parts[1], "report"} if "xsession" in path.parts else set())


def fault_of(outcome: Outcome, root: Path, of: Made, cli: Cli, names: set[str]) -> str:
    """What is wrong with the end of a command; empty if nothing is."""
    try:
        outcome.sane()
    except AssertionError as error:
        return str(error).splitlines()[0]
    long = max((len(line) for line in outcome.err.splitlines()), default=0)
    if long > LONGEST_LINE:
        return f"a line of {long} signs"
    expected, result = undamaged(cli, of, outcome.words)
    if outcome.code == 0:
        if result_of(outcome, root) == result or ": not here: " in outcome.err:  # who lost the way to a source says so
            return ""
        return f"another result, was {str(result)[:300]}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    if any(name in line for line in errors for name in names):
        return ""
    same = (expected.code, told_of(expected, of.root)) == (outcome.code, told_of(outcome, root))
    return "" if same else f"no line of its errors names {sorted(names)}"


def undamaged(cli: Cli, of: Made, words: tuple[str, ...]) -> tuple[Outcome, object]:
    """How a command ends on the undamaged workspace, and its result; run once."""
    with _making:
        if words not in of.results:
            with tempfile.TemporaryDirectory(prefix="spiketok-artefacts-") as folder:
                root = Path(folder) / "ws"
                shutil.copytree(of.root, root)
                outcome = type(cli)(cli.package, cli.python)(*words, root=root)
                of.results[words] = outcome, result_of(outcome, root)
        return of.results[words]


def told_of(outcome: Outcome, root: Path) -> list[str]:
    return [line.replace(str(root), "ROOT") for line in outcome.err.splitlines() if line.startswith("error:")]


def result_of(outcome: Outcome, root: Path) -> object:
    """What a person takes from a command: what its JSON says of the data; of others that they ended well."""
    try:
        return _plain(json.loads(outcome.out.replace(str(root), "ROOT")))
    except ValueError:
        return None


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if not any(word in k for word in NOT_RESULTS)}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def digests(root: Path) -> dict[str, str]:
    """Of every file but what only spares time: stamps, the index, locks."""
    spare = re.compile(r"\.checked|index\.jsonl|\.lock")
    kept = (p for p in sorted(root.rglob("*")) if p.is_file() and not spare.match(p.name))
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in kept}


# ---- the cases ------------------------------------------------------------------------------------------------------


def cases(count: int | None = None) -> list[Case]:
    every = [(kind, told) for kind in FILES for told in (BYTES | JSON if kind in OF_JSON else BYTES)]
    random.Random(SEED).shuffle(every)
    chosen = sorted(every[: count or MANY], key=lambda one: list(FILES).index(one[0]))
    numbered = enumerate(chosen)
    return [
        Case(f"{kind}: {told}", lambda cli, folder, a=(n, kind, told): run_case(cli, folder, *a))
        for n, (kind, told) in numbered
    ]
