"""What ``score``, ``bench``, ``choose``, ``embed`` and ``eval-xsession --keep`` read and wrote, damaged.

A workspace is made once: three simulated days, a small suite run to its leaderboard, a choice of sessions, a model that
an adaptation kept, vectors of units and a run that reads them. A case does one damage to one file. The laws: a command
ends by itself in lines that a person can read; it names what is damaged, or its result is what it was before.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from spiketok.storage.files import json_text, signed
from tests.evaluation.bench.made_suite import TEXT
from tests.evaluation.scoring.submissions import CHOICE, FORECAST, WHEEL, write_submission
from tests.evaluation.scoring.test_falcon_scorer import made_binned, written
from tests.evaluation.scoring.test_nlb_scorer import SET, made, write
from tests.robustness import Case, Cli, Outcome
from tests.robustness._workspace import SIMULATED, scratch
from tests.robustness.artefacts import BYTES, JSON, Damage, is_changed

SEED, MANY = 15, 120
SMALL = ("optim.steps=2", "data.batch_size=2", "model.dim=16")
ID = (*SMALL, "model.dim_head=8", "model.self_heads=2", "model.latents_per_step=2", "model.identity=vectors")
VECTORS, CHOSEN, SUITE = "v.npz", "choice.json", "tiny.toml"
SUITE_TEXT = (
    TEXT.replace('dataset = "made"', 'dataset = "simulated"')
    .replace('unseen = "day2"', 'unseen = "*day03*"')
    .replace("decode:hand_vel", "decode:cursor_vel")
    .replace("calibration_s = [4, 8]", "calibration_s = [8]")
    .replace("seeds = [3, 5]", "seeds = [3]")
)

_made: dict[Path, Path] = {}
_making = threading.Lock()


def sets(settings: tuple[str, ...]) -> list[str]:
    return [word for one in settings for word in ("--set", one)]


def base(cli: Cli) -> Path:
    """The workspace, made once a checkout."""
    with _making:
        if cli.package not in _made:
            root = scratch()
            (root / SUITE).write_text(SUITE_TEXT)
            nuclr = sets(("size=tiny", *SMALL, "model.dim_head=8", "data.window_ms=2000"))
            poyo = sets(("model.depth=1", "data.window_ms=600", *(one for one in ID if "identity" not in one)))
            adapted = ["--protocols", "identity_only", "--calibration-s", "8", "--keep", "identity_only"]
            few = sets(("transfer.identity_steps=2", "transfer.batch_size=4"))
            for words in (
                ["simulate", *SIMULATED],
                ["bench", SUITE, "--json"],
                ["choose", "--tokenize", "--out", CHOSEN],
                ["train", "-m", "poyo", "--tokenize", "--hold-out", "*day03*", *poyo],
                ["eval-xsession", "poyo", *adapted, *few],
                ["train", "-m", "nuclr", "--tokenize", "--hold-out", "*day03*", *nuclr],
                ["embed", "nuclr", "--tokenize", "--calibration-s", "8", "--out", VECTORS],
                [*TRAIN_ID, "--vectors", VECTORS],
            ):
                done = Cli(cli.package, cli.python)(*words, root=root)
                assert done.code == 0, str(done)
            _made[cli.package] = root
        return _made[cli.package]


TRAIN_ID = ["train", "-m", "poyo_id", "--tokenize", "--hold-out", "*day03*", *sets(ID)]
FILES = {
    "cell": "bench/*/cells/*/*/*/*.json",
    "training": "bench/*/cells/*/*/train.json",
    "costs": "bench/*/costs/*/*.json",
    "leaderboard": "bench/*/leaderboard.json",
    "page": "bench/*/*.html",
    "choice": CHOSEN,
    "kept checkpoint": "runs/*-identity_only-*/checkpoint/checkpoint.json",
    "kept weights": "runs/*-identity_only-*/checkpoint/*.safetensors",
    "kept config": "runs/*-identity_only-*/config.json",
    "vectors": VECTORS,
    "vectors of a run": "vectors/*",
    "suite": SUITE,
}


def commands(kind: str, path: Path, root: Path) -> Iterator[list[str]]:
    """What meets a file of a kind."""
    if kind in ("cell", "training", "costs", "leaderboard", "page", "suite"):
        yield ["bench", SUITE, "--json"]
    if kind in ("leaderboard", "page"):
        yield ["verify", str(path.parent), "--quick"]
        yield ["inspect", str(path.parent)]
        yield ["cite", str(path.parent)]
    if kind == "suite":
        yield ["bench", SUITE, "--show"]
    if kind == "choice":
        yield ["inspect", CHOSEN, "--json"]
        yield ["cite", CHOSEN, "--json"]
        yield ["train", "-m", "linear", "--hold-out", "none", "--sessions", f"@{CHOSEN}", "--json"]
    if kind.startswith("kept"):
        folder = next(parent for parent in path.parents if (root / parent / "checkpoint").is_dir())
        yield ["inspect", str(folder), "--json"]
        yield ["verify", str(folder), "--quick"]
        yield ["stream", "*day03*", "--run", str(folder), "--json"]
    if kind == "vectors":
        yield [*TRAIN_ID, "--set", "seed=9", "--vectors", VECTORS]
        yield ["inspect", VECTORS, "--json"]
    if kind == "vectors of a run":
        yield ["verify", "poyo_id", "--quick"]
        yield ["eval-xsession", "poyo_id", "--protocols", "zero_shot", "--calibration-s", "8"]


def cases(count: int | None = None) -> list[Case]:
    every = [(kind, told) for kind in FILES for told in BYTES | (JSON if "json" in FILES[kind] else {})]
    random.Random(SEED).shuffle(every)
    chosen = sorted(every[: count or MANY], key=lambda one: list(FILES).index(one[0]))
    made = [Case(f"{kind}: {told}", partial(_artefact, n, kind, told)) for n, (kind, told) in enumerate(chosen)]
    made += [Case(f"suite: {name}", partial(_suite, change)) for name, change in SUITES.items()]
    made += [Case(f"vectors: {name}", partial(_vectors, change)) for name, change in NPZ.items()]
    for suite, damages in PREDICTIONS.items():
        made += [Case(f"score {suite}: {name}", partial(_scored, suite, change)) for name, change in damages.items()]
    made += [Case(f"signed anew: {name}", partial(_signed_anew, *how)) for name, how in SIGNED_ANEW.items()]
    made.append(Case("runs delete beside a damaged npz", _delete_beside))
    return made


def _artefact(number: int, kind: str, told: str, cli: Cli, folder: Path) -> None:
    root, rng = base(cli), random.Random(f"{SEED}/{number}")
    found = sorted(p.relative_to(root) for p in root.glob(FILES[kind]) if p.is_file())
    assert found, f"the workspace holds no {kind}"
    path, faults = rng.choice(found), []
    state = rng.getstate()
    for words in list(commands(kind, path, root)):
        copy = folder / "copy"
        shutil.copytree(root, copy, symlinks=True)
        before = (copy / path).read_bytes()
        rng.setstate(state)
        (BYTES | JSON)[told](copy / path, rng)
        changed = is_changed(before, copy / path)
        faults += [f"{path}: {why}" for why in _faults(kind, words, path, changed, cli(*words, root=copy), root, copy)]
        shutil.rmtree(copy)
    assert not faults, "\n".join(faults)


def _faults(kind: str, words: list[str], path: Path, changed: bool, done: Outcome, root: Path, copy: Path) -> list[str]:
    try:
        done.sane()
    except AssertionError as error:
        return [str(error)]
    names = {path.name, path.parent.name, path.parent.parent.name, path.stem}
    if done.code:
        lines = [line for line in done.err.splitlines() if line.startswith("error:")] + done.out.splitlines()
        return [] if any(name in line for name in names for line in lines) else [f"none of {sorted(names)} in: {done}"]
    if words[0] == "bench" and "--show" not in words and kind != "suite":
        told = [json.loads((where / "bench/tiny-2/leaderboard.json").read_text()) for where in (root, copy)]
        same = [{k: v for k, v in facts.items() if k in ("rows", "sessions", "suite", "part")} for facts in told]
        return [] if same[0] == same[1] else [f"another leaderboard: {done}"]
    is_bound = words[0] == "verify" or (words[0] in ("train", "stream") and kind in ("choice", "vectors"))
    return [f"damaged, and not said: {done}"] if changed and is_bound and kind != "page" else []


# ---- signed anew ----------------------------------------------------------------------------------------------------


def _at(facts: dict, place: str, value: object) -> None:
    """Put a value at a place of JSON; ``*`` is the first key or item there."""
    *way, last = place.split("/")
    for key in way:
        facts = facts[next(iter(facts))] if key == "*" and isinstance(facts, dict) else facts[0 if key == "*" else key]
    facts[0 if last == "*" and isinstance(facts, list) else next(iter(facts)) if last == "*" else last] = value


CHOOSING = ["train", "-m", "linear", "--hold-out", "none", "--sessions", f"@{CHOSEN}", "--json"]
SIGNED_ANEW: dict[str, tuple[str, str, object, list[str]]] = {
    "a chosen session that is a number": (CHOSEN, "chosen/*", -1, CHOOSING),
    "a chosen session that is none": (CHOSEN, "chosen/*", "../x", CHOOSING),
    "sessions as a text": (CHOSEN, "sessions", "x\x1b[2J", CHOOSING),
    "a session without a digest": (CHOSEN, "sessions/*/store_digest", None, CHOOSING),
    "a choice, looked at": (CHOSEN, "sessions/*/transfer", [3], ["inspect", CHOSEN]),
    "a cell of a bench without its key": ("bench/*/cells/*/*/train.json", "key", None, ["bench", SUITE, "--json"]),
    "a cell of a bench of text": ("bench/*/cells/*/*/train.json", "facts", "x", ["bench", SUITE, "--json"]),
    "a leaderboard's sessions as a list": ("bench/*/leaderboard.json", "sessions", ["x"], ["cite", "bench/tiny-2"]),
    "calibration of a kept run as text": (
        "runs/*-identity_only-*/checkpoint/checkpoint.json",
        "kept/*/calibration_ns",
        "x",
        ["stream", "*day03*", "--run", "{run}", "--json"],
    ),
}


def _signed_anew(pattern: str, place: str, value: object, words: list[str], cli: Cli, folder: Path) -> None:
    """A file that was edited and whose digest holds all the same: one line, or what it says is made again."""
    shutil.copytree(base(cli), folder / "copy", symlinks=True)
    path = sorted((folder / "copy").glob(pattern))[0]
    facts = json.loads(path.read_text())
    _at(facts, place, value)
    path.write_text(json_text(signed({key: one for key, one in facts.items() if key != "digest"})))
    done = cli(*(word.format(run=path.parent.parent) for word in words), root=folder / "copy").sane()
    if "cells" in path.parts:
        done.succeeds()
        return
    names = (path.name, path.parent.parent.name)
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == 1 and len(lines) == 1 and any(name in lines[0] for name in names), str(done)
    assert "\x1b" not in done.text, str(done)


def _delete_beside(cli: Cli, folder: Path) -> None:
    """A cut npz in a run's folder is nobody's vectors, and no reason that another run cannot be deleted."""
    shutil.copytree(base(cli), folder / "copy", symlinks=True)
    root = folder / "copy"
    one, other, *_ = sorted(path for path in (root / "runs").glob("linear-*"))
    (other / "vectors.npz").write_bytes((root / VECTORS).read_bytes()[:-300])
    done = cli("runs", "delete", one.name, "--yes", root=root).sane()
    assert done.code == 0 or "is needed by" in done.err, str(done)


# ---- suites ---------------------------------------------------------------------------------------------------------

SUITES: dict[str, Callable[[str], str]] = {
    "no models": lambda text: text.partition("[[models]]")[0],
    "a model that is none": lambda text: text.replace('model = "linear"', 'model = "linea"'),
    "a protocol that is none": lambda text: text.replace('["identity_only"]', '["identity_onl"]'),
    "a metric that is none": lambda text: text.replace('"r2_mean"', '"r2_meen"'),
    "a setting that is none": lambda text: text.replace("model.lags", "model.lag"),
    "a setting of infinity": lambda text: text.replace("data.window_ms=600", "data.window_ms=inf"),
    "seeds of text": lambda text: text.replace("[3]", '["3"]'),
    "seeds below zero": lambda text: text.replace("[3]", "[-1]"),
    "seeds twice": lambda text: text.replace("[3]", "[3, 3]"),
    "no seeds": lambda text: text.replace("seeds = [3]", "seeds = []"),
    "calibration of NaN": lambda text: text.replace("calibration_s = [8]", "calibration_s = [nan]"),
    "calibration below zero": lambda text: text.replace("calibration_s = [8]", "calibration_s = [-8]"),
    "calibration of 1e300": lambda text: text.replace("calibration_s = [8]", "calibration_s = [1e300]"),
    "a headline that is not evaluated": lambda text: text.replace("headline_s = 8", "headline_s = 9"),
    "unseen sessions that are not there": lambda text: text.replace("*day03*", "*day09*"),
    "all sessions unseen": lambda text: text.replace("*day03*", "*"),
    "a name that leads out": lambda text: text.replace('name = "tiny"', 'name = "../../tiny"'),
    "a name of a track that leads out": lambda text: text.replace('name = "made"', 'name = "../made"'),
    "a name with an escape": lambda text: text.replace('title = "Tiny"', 'title = "\\u001b[31mTiny"'),
    "a version of text": lambda text: text.replace("version = 2", 'version = "2"', 1),
    "a key of no meaning": lambda text: "colour = 3\n" + text,
    "a table for a text": lambda text: text.replace('about = "Made in a test."', "about = {a = 1}"),
    "deep": lambda text: text + "\nx = " + "[" * 10**4 + "]" * 10**4,
}


def _suite(change: Callable[[str], str], cli: Cli, folder: Path) -> None:
    shutil.copytree(base(cli), folder / "copy", symlinks=True)
    (folder / "copy" / SUITE).write_text(change(SUITE_TEXT))
    before = set(folder.rglob("*"))
    done = cli("bench", SUITE, root=folder / "copy").sane()
    assert "\x1b" not in done.text, str(done)
    if done.code:
        assert "error" in done.text.lower(), str(done)
    outside = [path for path in {*folder.rglob("*")} - before if not path.is_relative_to(folder / "copy")]
    assert not outside, f"written outside of the workspace: {outside}"


# ---- vectors --------------------------------------------------------------------------------------------------------


def _arrays(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def do(path: Path, rng: random.Random) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)

    return do


def _claims(path: Path, rng: random.Random) -> None:
    """An array that says it has 8 TB."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    head = parts["vector.npy"]
    shape = head[head.index(b"'shape': (") :].partition(b")")[0]
    parts["vector.npy"] = head.replace(shape, b"'shape': (1000000000000, 2"[: len(shape)].ljust(len(shape)), 1)
    with zipfile.ZipFile(path, "w") as file:
        for name, body in parts.items():
            file.writestr(name, body)


def _packed(path: Path, rng: random.Random) -> None:
    """An array of 4 GB of zeros in a few megabytes."""
    head = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1)}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("vector.npy", "w", force_zip64=True) as out,
    ):
        np.lib.format.write_array_header_1_0(out, head)
        for _ in range(400):
            out.write(bytes(10**7))


NPZ: dict[str, Damage] = {
    "4 GB packed": _packed,
    "a session that is one text": _arrays(lambda a: a.update(session=np.array("x"))),
    "times of NaN": _arrays(lambda a: a.update({"time.start_ns": np.full(len(a["time.start_ns"]), np.nan)})),
    "times that end before they begin": _arrays(lambda a: a.update({"time.start_ns": a["time.stop_ns"] + 1})),
    "times of fewer sessions than named": _arrays(lambda a: a.update({"time.session": a["time.session"][:-1]})),
    "pickled objects": _arrays(lambda a: a.update(vector=np.array([{}, []], object))),
    "complex": _arrays(lambda a: a.update(vector=a["vector"] * 1j)),
    "texts": _arrays(lambda a: a.update(vector=a["vector"].astype(str))),
    "infinite": _arrays(lambda a: a["vector"].fill(np.inf)),
    "one dimension": _arrays(lambda a: a.update(vector=a["vector"].ravel())),
    "no vectors": _arrays(lambda a: a.pop("vector")),
    "fewer rows": _arrays(lambda a: a.update(vector=a["vector"][:-1])),
    "no columns": _arrays(lambda a: a.update(vector=a["vector"][:, :0])),
    "8 TB": _claims,
    "an empty zip": lambda path, rng: zipfile.ZipFile(path, "w").close(),
    "a zip of another": lambda path, rng: np.savez(path, x=np.zeros(3)),
}


def _vectors(change: Damage, cli: Cli, folder: Path) -> None:
    shutil.copytree(base(cli), folder / "copy", symlinks=True)
    change(folder / "copy" / VECTORS, random.Random(SEED))
    done = cli(*TRAIN_ID, "--set", "seed=9", "--vectors", VECTORS, root=folder / "copy")
    done.refuses(VECTORS)


# ---- predictions ----------------------------------------------------------------------------------------------------


def _falcon(change: Callable[[Path], object], folder: Path) -> list[object]:
    paths = written(folder, *made_binned("m1"))
    change(paths[0])
    return [paths[0], "--suite", "falcon", "--truth", paths[1]]


def _nlb(change: Callable[[Path], object], folder: Path) -> list[object]:
    rates, target = made()
    said, true = write(folder / "rates.h5", {SET: rates}), write(folder / "truth.h5", {SET: target})
    change(said)
    return [said, "--suite", "nlb21", "--truth", true]


def _bwb(change: Callable[[Path], object], folder: Path) -> list[object]:
    write_submission(folder, tasks=(CHOICE, WHEEL, FORECAST))
    change(sorted((folder / "predictions").rglob("*.safetensors"))[0])
    return [folder / "predictions", "--suite", "bwb", "--truth", folder / "truth"]


class _Runs:
    """What a pickle would do where it is loaded as pickles are."""

    def __reduce__(self):
        return (print, ("A PICKLE RAN",))


def _replaced(size: int, old: bytes, new: bytes) -> Callable[[Path], object]:
    """Bytes of the first so many of a file, replaced by others."""

    def do(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:size].replace(old, new) + data[size:])

    return do


def _h5(change: Callable[[h5py.File], object]) -> Callable[[Path], object]:
    def do(path: Path) -> None:
        with h5py.File(path, "a") as file:
            change(file)

    return do


def _swap(name: str, **how: object) -> Callable[[Path], object]:
    def change(file: h5py.File) -> None:
        del file[f"{SET}/{name}"]
        file.create_dataset(f"{SET}/{name}", **how)

    return _h5(change)


BYTE_DAMAGES = {name: (lambda path, do=do: do(path, random.Random(SEED))) for name, do in BYTES.items()}
PREDICTIONS: dict[str, dict[str, Callable[[Path], object]]] = {
    "falcon": BYTE_DAMAGES
    | {
        "a pickle that runs": lambda path: path.write_bytes(pickle.dumps({"m1": _Runs()})),
        "a pickle of a million lists": lambda path: path.write_bytes(b"\x80\x04" + b"]" * 10**6 + b"."),
        "a pickle that doubles": lambda path: path.write_bytes(b"\x80\x04]q\x00" + b"(h\x00h\x00lq\x00" * 60 + b"."),
        "a pickle that claims 8 TB": _replaced(10**9, b"numpy", b"numpx"),
        "a list": lambda path: path.write_bytes(pickle.dumps([1, 2])),
    },
    "nlb21": BYTE_DAMAGES
    | {
        "an external link": _h5(lambda file: file.__setitem__("out", h5py.ExternalLink("/etc/x.h5", "/"))),
        "a group in itself": _h5(lambda file: file[SET].__setitem__("up", file["/"])),
        "rates declared": _swap("eval_rates_heldout", shape=(10**6, 10**6, 100), dtype="f4", chunks=(1, 10, 100)),
        "rates of texts": _swap("eval_rates_heldout", data=np.array([b"a", b"b"])),
        "rates as one number": _swap("eval_rates_heldout", data=3.0),
        "rates elsewhere": _swap("eval_rates_heldout", shape=(4,), dtype="f4", external=[("/etc/passwd", 0, 16)]),
        "the set as a dataset": _h5(lambda file: [file.__delitem__(SET), file.__setitem__(SET, np.zeros(3))]),
    },
    "bwb": {name: do for name, do in BYTE_DAMAGES.items() if name != "CRLF"}  # these bytes have no line to end
    | {
        "a header of 2^60 bytes": lambda path: path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:]),
        "a header of brackets": lambda path: path.write_bytes(
            (10**5).to_bytes(8, "little") + b"[" * (5 * 10**4) + b"]" * (5 * 10**4)
        ),
        "a shape of 2^60": _replaced(4000, b'"shape":[12', b'"shape":[9'),
        "another dtype": _replaced(4000, b'"F32"', b'"I32"'),
    },
}
MADE = {"falcon": _falcon, "nlb21": _nlb, "bwb": _bwb}


def _scored(suite: str, change: Callable[[Path], object], cli: Cli, folder: Path) -> None:
    words = MADE[suite](change, folder)
    done = cli("score", *words, root=folder).sane()
    assert "A PICKLE RAN" not in done.text, str(done)
    named = any(part in done.text for part in ("said.pkl", "rates.h5", "seed_43.safetensors", "ts1-choice has"))
    left_out = "is not read by nlb_tools" in done.text  # what stands beside the arrays, and says nothing
    assert named and (done.code or left_out), f"damaged, and not named: {done}"
