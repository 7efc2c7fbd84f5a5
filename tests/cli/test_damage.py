"""Damaged workspaces: no command crashes over them, and none gives a result made of damaged bytes without a word.

A small workspace is made once by the command line: two simulated sessions, their shards, a finished run of ``linear``
and one of ``poyo`` with its report, and a run of ``poyo`` that was killed at its first checkpoint. A case is one seeded
damage to one file of it (a flipped bit, a cut, an edited number, two files exchanged ...), done to a copy; then every
command that could meet it runs on a copy of its own, in a child process. The laws:

- a command ends by itself with exit code 0, 1 or 2, without a traceback and without "internal error";
- where it ends with 0, its result is that of the undamaged workspace; else a line of its errors names what is damaged;
- ``verify`` names every damage to what stands under a digest;
- damage to a stamp (``*.checked``: a shard was found whole) alone changes nothing.

Files are found by walking, not by name: the layout of stores and shards is not what is tested here.
``python -m tests.cli.test_damage [CASES]`` prints a table by kind of artefact: refused, equal, LIVED.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

SESSIONS = ["--subjects", "1", "--sessions-per-subject", "2", "--units", "6", "--duration-s", "24"]
POYO = {"dim": 16, "depth": 1, "dim_head": 8, "self_heads": 2, "latents_per_step": 2}
FEW = [f"model.{key}={value}" for key, value in POYO.items()] + ["data.window_ms=500", "data.batch_size=8"]
FEW += ["optim.checkpoint_every=2"]
EVALUATE = ["--protocols", "zero_shot", "--calibration-s", "8", "--json"]
SEED, FAST, MANY = 1, 6, 150
PATIENCE_S = 120  # a command that takes longer hangs
MEMORY = 24 << 30  # damaged sizes must not take the machine down
STAMP = ".checked"


def train_words(model: str, steps: int = 3) -> list[str]:
    sets = [] if model == "linear" else [*FEW, f"optim.steps={steps}"]
    return ["train", "--model", model, *(word for text in sets for word in ("--set", text)), "--json"]


# ---- commands, each in a child of a process that has everything imported ---------------------------------------------


@dataclass(frozen=True)
class Done:
    """What became of a command: its exit code (below zero: the signal that ended it) and what it printed."""

    code: int
    out: str
    err: str


def _command(words: list[str], root: str, stop_at_checkpoint: bool) -> int:
    """In the child: the command line, as the console script runs it; its exit code."""
    from spiketok.cli import main, training

    if stop_at_checkpoint:
        listen = training.training_table

        @contextlib.contextmanager
        def until_checkpoint():
            with listen() as told:
                yield (
                    lambda event: (
                        os.kill(os.getpid(), signal.SIGKILL) if event["event"] == "checkpoint" else told(event)
                    )
                )

        training.training_table = until_checkpoint
    sys.argv = ["spiketok", *words]
    os.environ["SPIKETOK_ROOT"] = root
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _child(words: list[str], root: str, stop_at_checkpoint: bool, out: Path, err: Path) -> None:
    code = 70
    try:
        for stream, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = _command(words, root, stop_at_checkpoint)
    except BaseException:  # noqa: BLE001 - what main lets through is what is looked for
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    """The exit code of a child; one that hangs is killed."""
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGALRM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _here(words: list[str], root: str) -> Done:
    """In the server itself, which then has imported and compiled what the command needs."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _command(words, root, False)
    return Done(code, out.getvalue(), err.getvalue())


def _serve(pipe, folder: str) -> None:
    """Fork for each command. Here itself nothing is trained: after that torch lets no child do so."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda figure, stream, **_: stream.write(b"no picture")  # to draw costs more than all the rest
    out, err = Path(folder) / "out", Path(folder) / "err"
    while (asked := pipe.recv()) is not None:
        words, root, how = asked
        if how == "here":
            pipe.send(_here(words, root))
            gc.collect()
            gc.freeze()  # a child then touches, and so copies, less of what it shares with this process
            continue
        if not (pid := os.fork()):
            _child(words, root, how == "until checkpoint", out, err)
        code = _wait(pid)
        pipe.send(Done(code, out.read_text(errors="replace"), err.read_text(errors="replace")))


class Spiketok:
    """Runs commands; ``with`` starts and ends the process that does."""

    def __enter__(self) -> Spiketok:
        self.folder = tempfile.TemporaryDirectory(prefix="spiketok-damage-")
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, self.folder.name), daemon=True)
        self.process.start()
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
        other.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.send(None)
        self.process.join(10)
        self.folder.cleanup()

    def __call__(self, root: Path, *words: str, how: str = "child") -> Done:
        self.pipe.send(([str(word) for word in words], str(root), how))
        return self.pipe.recv()


# ---- the workspace --------------------------------------------------------------------------------------------------

HALF_STEPS = 4  # of the run that was killed at step 2


@dataclass(frozen=True)
class Made:
    """The undamaged workspace: where it is, the runs by their part in it, and its files by kind, relative paths."""

    root: Path
    runs: Mapping[str, str]
    files: Mapping[str, list[str]]


def make_workspace(spiketok: Spiketok, root: Path) -> Made:
    def must(*words: str, how: str = "here", code: int = 0) -> str:
        done = spiketok(root, *words, how=how)
        assert done.code == code, f"{words}: exit {done.code}\n{done.out}\n{done.err}"
        return done.out

    must("simulate", *SESSIONS)
    must("tokenize", "--scheme", "per-spike,binned")
    runs = {"linear": run_of(must(*train_words("linear"))), "poyo": run_of(must(*train_words("poyo"), how="child"))}
    must(*train_words("poyo", HALF_STEPS), how="until checkpoint", code=-signal.SIGKILL)
    (runs["half"],) = {p.name for p in (root / "runs").iterdir()} - set(runs.values())
    must("eval-xsession", runs["poyo"], *EVALUATE)
    must("verify")
    files: dict[str, list[str]] = {}
    for path in sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()):
        kind = kind_of(path)
        if kind:
            files.setdefault(kind, []).append(path.as_posix())
    return Made(root, runs, files)


def run_of(told: str) -> str:
    return Path(json.loads(told)["run"]).name


def kind_of(path: Path) -> str:
    """The kind of artefact that a file of a workspace belongs to; empty for what is no artefact of spiketok's."""
    top, *below = path.parts
    if path.name.endswith(STAMP):
        return "stamp"
    if top == "simulated" or path.name.endswith("lock"):
        return ""
    if top == "store" and len(below) > 2:
        return "store"
    if top == "shards" and len(below) > 4:
        return "context" if below[0] == "context" else "shard"
    if top == "runs" and len(below) > 1:
        part = below[1]
        return {"checkpoint": "checkpoint", "config.json": "config", "result.json": "result", "xsession": "report"}.get(
            part, "log"
        )
    return "record" if path.name == "sources.json" else "index"


def artefact_of(path: str) -> str:
    """The folder that inspect and verify are given for a damaged file; empty where there is none."""
    parts = Path(path).parts
    depth = {"store": 3, "shards": 5, "runs": 3 if "xsession" in parts else 2}.get(parts[0], 0)
    return "/".join(parts[:depth]) if len(parts) > depth else ""  # the store's index lies in no session


# ---- damages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One damage: to which file, and what its bytes (None: it is gone) become; a swap changes two files.

    Args:
        told: what was done, in words.
    """

    number: int
    kind: str
    path: str
    told: str
    change: Mapping[str, bytes | None] = field(repr=False)
    resume: bool = False

    def __str__(self) -> str:
        return f"{self.number:03d} {self.kind} {self.path}: {self.told}"

    @property
    def names(self) -> set[str]:
        """Any of these in a line tells a person which artefact is damaged."""
        found = set()
        for path in self.change:
            parts = Path(path).parts
            found |= {parts[-1], *(part for part in (Path(artefact_of(path)).name,) if part)}
            found |= (
                {parts[3]} if parts[0] == "shards" else {parts[2]} if parts[0] == "store" and len(parts) > 3 else set()
            )
            found |= {parts[1], "report"} if "xsession" in parts else set()
            found |= {parts[1]} if parts[0] == "runs" else set()
        return found


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def garbage(data: bytes, rng: random.Random) -> bytes:
    low = rng.randrange(len(data))
    return data[:low] + rng.randbytes(min(64, len(data) - low)) + data[low + 64 :]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    low = len(data) // 2 * rng.randrange(2)
    return data[:low] + bytes(len(data) // 2) + data[low + len(data) // 2 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))] if len(data) > 1 else b""


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 200))


def gone(data: bytes, rng: random.Random) -> None:
    return None


def _places(value: object, way: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value, by the keys that lead to it."""
    if way:
        yield way
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        yield from _places(item, (*way, key))


def edited(facts: object, rng: random.Random) -> tuple[object, str]:
    """A JSON value with one place changed, and the place: times 3, another word, null, a key or the last item less."""
    facts = json.loads(json.dumps(facts))
    way = rng.choice(list(_places(facts)))
    holder = facts
    for key in way[:-1]:
        holder = holder[key]
    value, last = holder[way[-1]], way[-1]
    where = ".".join(map(str, way))
    if isinstance(value, list) and value and rng.random() < 0.7:
        del value[-1]
        return facts, f"{where} shortened"
    if rng.random() < 0.25:
        del holder[last]
        return facts, f"{where} removed"
    if rng.random() < 0.2 and value is not None:
        holder[last] = None
        return facts, f"{where} null"
    if isinstance(value, bool):
        holder[last] = not value
    elif isinstance(value, int | float):
        holder[last] = value * 3 or 1
    elif isinstance(value, str):
        holder[last] = rng.choice([value + "x", value[:-1], "other"])
    else:
        holder[last] = 7
    return facts, f"{where} is {json.dumps(holder[last])[:30]}"


BYTES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "one bit flipped": flip,
    "64 bytes of garbage": garbage,
    "half of it zero": zeroed,
    "cut": cut,
    "empty": empty,
    "bytes appended": append,
    "gone": gone,
}
KINDS = (
    "store",
    "context",
    "shard",
    "checkpoint",
    "shard",
    "config",
    "result",
    "report",
    "store",
    "checkpoint",
    "context",
)


def draw_case(made: Made, number: int) -> Case:
    """The case of a number: the same for the same workspace; every kind of artefact in turn."""
    rng = random.Random(f"{SEED}/{number}")
    rare = [kind for kind in ("stamp", "index", "record") if kind in made.files]
    kinds = [*KINDS, *rare]
    kind = kinds[number % len(kinds)]
    while True:
        path = rng.choice(made.files[kind])
        data = (made.root / path).read_bytes()
        how = rng.choice([*BYTES, "swapped", *(["edited"] * 6 if _facts(data) is not None else [])])
        if how == "edited":
            facts, told = edited(_facts(data), rng)
            change = {path: json.dumps(facts, indent=1).encode()}
        elif how == "swapped":
            alike = [p for p in made.files[kind] if p != path and Path(p).name == Path(path).name]
            other = rng.choice(alike or [p for p in made.files[kind] if p != path] or [path])
            told, change = f"exchanged with {other}", {path: (made.root / other).read_bytes(), other: data}
        elif data:
            told, change = how, {path: BYTES[how](data, rng)}
        else:
            told, change = "bytes appended", {path: append(data, rng)}
        if kind == "result" and change[path] is None:
            continue  # a run without it is one that was not scored yet
        if change[path] != data and not (how == "edited" and facts == _facts(data)):
            return Case(number, kind, path, told, change, resume=rng.random() < 0.5)


def _facts(data: bytes | None) -> object:
    """What a JSON file says; None where it is no JSON object or list."""
    try:
        facts = json.loads(data) if data is not None else None
    except ValueError:
        return None
    return facts if isinstance(facts, dict | list) and facts else None


def damaged_copy(made: Made, case: Case | None, root: Path) -> None:
    """A copy of the workspace with the damage in it; the source files are read in the first one.

    Stores and shards are linked: nothing is ever written into a file of theirs, as :func:`bench` checks at its end.
    """
    root.mkdir()
    for top in made.root.iterdir():
        if top.is_dir() and top.name != "simulated":
            copy = shutil.copy2 if top.name == "runs" else os.link
            shutil.copytree(top, root / top.name, copy_function=copy)
        elif top.is_file():
            shutil.copy2(top, root / top.name)
    for path, data in (case.change if case else {}).items():
        (root / path).unlink()
        if data is not None:
            (root / path).write_bytes(data)


# ---- what a command gives, and the laws -----------------------------------------------------------------------------

SIZES = ("MB", "bytes", "size")


def commands_of(made: Made, case: Case) -> list[list[str]]:
    """The commands that could meet a damage."""
    artefact = artefact_of(case.path)
    chosen = [["tokenize", "--scheme", "per-spike,binned", "--json"]]
    own = next((part for part, name in made.runs.items() if case.path.startswith(f"runs/{name}/")), None)
    resumed = ["--resume"] if case.resume else []
    if own in (None, "linear"):
        chosen.append([*train_words("linear"), *(resumed if own else ["--restart"])])
    if own in (None, "poyo"):
        chosen.append([*train_words("poyo"), *resumed])
    if own == "half":
        chosen.append([*train_words("poyo", HALF_STEPS), *resumed])
    chosen.append(["eval-xsession", made.runs["half"] if own == "half" else "poyo", *EVALUATE])
    chosen += [["inspect", "--json"], ["verify", "--json", *([] if case.kind == "store" else ["--quick"])]]
    if artefact:
        chosen += [["inspect", f"@{artefact}", "--json"], ["verify", f"@{artefact}", "--quick", "--json"]]
    if case.kind in ("shard", "context", "checkpoint", "report"):
        chosen.append(["verify", f"@runs/{made.runs['poyo']}/xsession", "--quick", "--json"])
    return chosen


def run_on_copy(spiketok: Spiketok, made: Made, case: Case | None, words: list[str], root: Path) -> tuple[Done, object]:
    """A command on a copy of its own, ``@`` in its words standing for the root; what it said, and its result."""
    damaged_copy(made, case, root)
    try:
        done = spiketok(root, *(str(root / word[1:]) if word.startswith("@") else word for word in words))
        return done, result_of(words[0], done, root) if done.code == 0 else None
    finally:
        shutil.rmtree(root)


def result_of(command: str, done: Done, root: Path) -> object:
    """What a person takes from a command: its table without sizes and states, and the tokens where it makes them."""
    try:
        told = json.loads(done.out.replace(str(root), "ROOT"))
    except ValueError:
        return f"no JSON: {done.out[:300]}"
    plain = _without(told, {"path", "state"} if command == "tokenize" else set())
    return (plain, digests_below(root / "shards")) if command == "tokenize" else plain


def digests_below(folder: Path) -> dict[str, str]:
    """The digest of every file but stamps: what is said of a check is no content."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(STAMP))
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _without(value: object, keys: set[str]) -> object:
    if isinstance(value, dict):
        return {k: _without(v, keys) for k, v in value.items() if k not in keys and not any(s in k for s in SIZES)}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Verdict:
    """What a command made of a damage: ``"equal"``, ``"refused"`` or ``"LIVED"``, and why or in which words."""

    command: str
    word: str
    why: str


def judge(case: Case, words: list[str], done: Done, result: object, expected: object) -> Verdict:
    command = " ".join(
        [words[0], *(word for word in words[1:] if word.startswith("@") or word in ("--resume", "--restart"))]
    )
    command = command.replace(f"@{artefact_of(case.path)}", "IT") if artefact_of(case.path) else command
    text = done.out + done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    if done.code < 0:
        return Verdict(command, "LIVED", f"ended by {signal.Signals(-done.code).name}")
    if done.code not in (0, 1, 2) or "Traceback" in text:
        return Verdict(command, "LIVED", f"exit {done.code}, traceback: {text.strip().splitlines()[-1][:200]}")
    if "internal error" in text:
        return Verdict(command, "LIVED", next(line for line in text.splitlines() if "internal error" in line)[:200])
    if done.code == 0:
        if result == expected or case.kind == "record":  # of a source that is not where it says verify tells just that
            return Verdict(command, "equal", "")
        told = any(name in line for line in text.splitlines() if "damaged" in line for name in case.names)
        fact = "exit 0 with another result" + ", but a line names the damage" * told
        return Verdict(command, "LIVED", f"{fact}: {difference(result, expected)}")
    if case.kind == "stamp":
        return Verdict(command, "LIVED", f"a stamp is no reason to refuse: {errors[:1]}")
    naming = [line for line in errors if any(name in line for name in case.names)]
    if not naming:
        return Verdict(command, "LIVED", f"exit {done.code}, no line names it: {(errors or [text[-150:]])[0][:200]}")
    return Verdict(command, "refused", naming[0])


def difference(found: object, expected: object, where: str = "") -> str:
    """The first place in which two results differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys(), key=lambda k: ("digest" in k or "sha256" in k, k)):
            if found.get(key) != expected.get(key):
                return difference(found.get(key), expected.get(key), f"{where}.{key}")
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple) and len(found) == len(expected):
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            if one != other:
                return difference(one, other, f"{where}[{k}]")
    return f"{where} is {str(found)[:60]}, was {str(expected)[:60]}"


UNDER_A_DIGEST = ("store", "context", "shard", "checkpoint", "result", "report")


def must_be_named(made: Made, case: Case, root: Path) -> bool:
    """Whether it changes what stands under a digest: bytes of columns, facts of JSON, the content of a store."""
    if case.kind not in UNDER_A_DIGEST:
        return False
    if case.kind == "store":  # its digest is over the content, in whatever files that lies
        return any(_content(made.root / artefact_of(p)) != _content(root / artefact_of(p)) for p in case.change)
    for path, data in case.change.items():
        before = (made.root / path).read_bytes()
        if data != before and (_facts(before) is None or _facts(before) != _facts(data)):
            return True
    return False


def _content(path: Path) -> object:
    """What the arrays and attributes of a stored session say; None where it cannot be read."""
    from spiketok.storage.store import read_session, session_digest

    try:
        return session_digest(read_session(path), {}, "any")
    except Exception:  # noqa: BLE001 - whether that is told in one line, the commands show
        return None


def try_case(spiketok: Spiketok, made: Made, case: Case, folder: Path, expected: Callable) -> list[Verdict]:
    """Every command that could meet the damage, judged; and whether one of the kind verify named it."""
    verdicts = []
    for words in commands_of(made, case):
        done, result = run_on_copy(spiketok, made, case, words, folder / "copy")
        verdicts.append(judge(case, words, done, result, expected(tuple(words))))
    damaged_copy(made, case, folder / "copy")
    needed = must_be_named(made, case, folder / "copy")
    shutil.rmtree(folder / "copy")
    if needed and not any(v.word == "refused" and v.command.startswith("verify") for v in verdicts):
        verdicts.append(Verdict("verify", "LIVED", "no verify named the damage"))
    return verdicts


def undamaged(spiketok: Spiketok, made: Made, folder: Path) -> Callable[[tuple[str, ...]], object]:
    """What a command gives on the undamaged workspace, tried once."""

    @cache
    def expected(words: tuple[str, ...]) -> object:
        words = tuple(word for word in words if word != "--resume")
        done, result = run_on_copy(spiketok, made, None, list(words), folder / "copy")
        assert done.code == 0, f"{words}: exit {done.code}\n{done.err}"
        return result

    return expected


@contextlib.contextmanager
def bench(folder: Path) -> Iterator[Callable[[int], tuple[Case, list[Verdict]]]]:
    """Makes the workspace; a function from a case's number to the case and its verdicts."""
    with Spiketok() as spiketok:
        made = make_workspace(spiketok, folder / "made")
        before = digests_below(made.root)
        expected = undamaged(spiketok, made, folder)

        def tried(number: int) -> tuple[Case, list[Verdict]]:
            case = draw_case(made, number)
            return case, try_case(spiketok, made, case, folder, expected)

        yield tried
        assert digests_below(made.root) == before, "a command wrote into a file that stood there"


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    with bench(tmp_path_factory.mktemp("damage")) as run:
        yield run


NUMBERS = [pytest.param(k, marks=pytest.mark.long if k < FAST else pytest.mark.slow) for k in range(MANY)]


@pytest.mark.parametrize("number", NUMBERS)
def test_damage_is_refused_or_changes_nothing(tried, number):
    case, verdicts = tried(number)
    lived = [f"{v.command}: {v.why}" for v in verdicts if v.word == "LIVED"]
    assert not lived, "\n".join([str(case), *lived])


# ---- the table ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print what every damage led to, a table by kind of artefact, and what lived."""
    numbers = range(int(sys.argv[1])) if len(sys.argv) > 1 else range(MANY)
    counts: dict[str, Counter] = {}
    lived: list[str] = []
    with tempfile.TemporaryDirectory(prefix="spiketok-damage-") as folder, bench(Path(folder)) as run:
        for number in numbers:
            case, verdicts = run(number)
            own = counts.setdefault(case.kind, Counter())
            own["cases"] += 1
            own.update(v.word for v in verdicts)
            own["cases with LIVED"] += any(v.word == "LIVED" for v in verdicts)
            print(f"{case}\n" + "\n".join(f"    {v.command}\t{v.word}\t{v.why}" for v in verdicts), flush=True)
            lived += [f"{case.kind}\t{v.command}\t{v.why}\t[{case}]" for v in verdicts if v.word == "LIVED"]
    columns = ("cases", "refused", "equal", "LIVED", "cases with LIVED")
    print("\n" + "\t".join(["artefact", *columns]))
    for kind, own in sorted(counts.items()):
        print("\t".join([kind, *(str(own[column]) for column in columns)]))
    print("\n".join(["", *sorted(lived)]))


if __name__ == "__main__":
    main()
