"""Two commands at once in one workspace: both end well, or one says who is in its way; and what stands is whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.dandi_server import DandiServer
from tests.robustness import Case, Cli, Outcome
from tests.robustness import _workspace as workspace
from tests.robustness._workspace import tree

LONG_S = 120
POYO = ["train", "--model", "poyo", "--task", "decode:cursor_vel", "--set", "data.batch_size=4",
        "--set", "optim.checkpoint_every=1"]  # fmt: skip
ASSETS = {f"sub-A/sub-A_ses-{k}_ecephys.nwb": bytes([k]) * 400_000 for k in range(4)}


def cases(count: int | None) -> list[Case]:
    return [
        Case("train twice", _train_twice),
        Case("train, and eval-xsession of its run", _train_and_evaluate),
        Case("eval-xsession twice", _evaluate_twice),
        Case("tokenize twice", _tokenize_twice),
        Case("tokenize two schemes", _tokenize_two),
        Case("ingest twice", _ingest_twice),
        Case("ingest of two folders", _ingest_two),
        Case("ingest, and index", _ingest_and_index),
        Case("fetch twice", _fetch_twice),
        Case("fetch of two halves of a dandiset", _fetch_halves),
        Case("export twice", _export_twice),
        Case("upgrade, and train", _train_and_upgrade),
        Case("splits into the store, and tokenize", _splits_and_tokenize),
    ][:count]


# ---- at once --------------------------------------------------------------------------------------------------------


def at_once(
    cli: Cli, root: Path, first: Sequence[object], second: Sequence[object], *, begun: Callable[[], bool] | None = None
) -> tuple[Outcome, Outcome]:
    """Both commands; the second starts with the first, or as soon as that has begun its work."""
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(cli, *first, root=root)
        deadline = time.monotonic() + LONG_S
        while begun is not None and not begun() and not running.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        other = cli(*second, root=root)
        return running.result(), other


def stopped(cli: Cli, root: Path, first: Sequence[object], second: Sequence[object]) -> Outcome:
    """What the second command says while the first, a training, stands still; then that goes on and ends well."""
    process = cli.start(*first, root=root)
    deadline = time.monotonic() + LONG_S
    while not _is_training(root) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        return cli(*second, root=root)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
        out, err = process.communicate(timeout=LONG_S)
        assert process.returncode == 0, out + err


def told_who(outcome: Outcome) -> None:
    """It ended in one line that names the other process."""
    outcome.sane()
    assert outcome.code, f"expected to be refused: {outcome}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "process " in errors[0] and "wait" in errors[0], str(outcome)


def peaceful(cli: Cli, base: Path, *commands: Sequence[object]) -> Path:
    """What the same commands make one after the other."""
    root = base.parent / "peace"
    shutil.copytree(base, root)
    for words in commands:
        cli(*words, root=root).succeeds()
    return root


def is_verified(cli: Cli, root: Path) -> None:
    cli("verify", root=root).succeeds()


# ---- runs -----------------------------------------------------------------------------------------------------------


def _is_training(root: Path) -> bool:
    return any(root.glob("runs/poyo-*/config.json"))


def _train_twice(cli: Cli, folder: Path) -> None:
    root = workspace.shards(cli, folder)
    words = [*POYO, "--set", "optim.steps=6"]
    told_who(stopped(cli, root, words, words))
    cli(*words, root=root).succeeds("nothing was left to train")


def _train_and_evaluate(cli: Cli, folder: Path) -> None:
    root = workspace.shards(cli, folder)
    score = ["eval-xsession", "poyo", "--calibration-s", "5", "--protocols", "zero_shot"]
    first, second = at_once(
        cli,
        root,
        [*POYO, "--set", "optim.steps=20"],
        score,
        begun=lambda: any(root.glob("runs/*/checkpoint/checkpoint.json")),
    )
    first.succeeds()
    second.succeeds("report.html")


def _evaluate_twice(cli: Cli, folder: Path) -> None:
    root = workspace.run(cli, folder)
    words = ["eval-xsession", "linear", "--calibration-s", "5"]
    outcomes = at_once(cli, root, words, words)
    assert any(one.code == 0 for one in outcomes), str(outcomes[0])
    for one in outcomes:
        one.succeeds() if one.code == 0 else told_who(one)
    (report,) = root.glob("runs/*/xsession")
    cli("verify", report, "--quick", root=root).succeeds()


def _train_and_upgrade(cli: Cli, folder: Path) -> None:
    root = workspace.shards(cli, folder)
    stopped(cli, root, [*POYO, "--set", "optim.steps=6"], ["upgrade"]).succeeds()
    cli("verify", next(root.glob("runs/poyo-*")), "--quick", root=root).succeeds()


# ---- stages ---------------------------------------------------------------------------------------------------------


def _tokenize_twice(cli: Cli, folder: Path) -> None:
    root = workspace.store(cli, folder)
    words = ["tokenize", "--scheme", "per-spike,binned"]
    for one in at_once(cli, root, words, words):
        one.succeeds()
    assert tree(root, "shards") == tree(peaceful(cli, root, words), "shards")


def _tokenize_two(cli: Cli, folder: Path) -> None:
    root = workspace.store(cli, folder)
    words = ["tokenize", "--scheme", "per-spike"], ["tokenize", "--scheme", "binned"]
    for one in at_once(cli, root, *words):
        one.succeeds()
    assert tree(root, "shards") == tree(peaceful(cli, root, *words), "shards")


def _halves(source: Path, folder: Path) -> tuple[Path, Path]:
    files = sorted(source.rglob("*.nwb"))
    halves = folder / "a", folder / "b"
    for k, half in enumerate(halves):
        half.mkdir()
        for file in files[k::2]:
            shutil.copy(file, half)
    return halves


def _ingest_twice(cli: Cli, folder: Path) -> None:
    source, root = workspace.files_of_sessions(cli) / "simulated", folder / "root"
    root.mkdir()
    for one in at_once(cli, root, ["ingest", source], ["ingest", source]):
        one.succeeds()
    assert tree(root, "store") == tree(peaceful(cli, root), "store")
    assert len(list(root.glob("store/*/*/session.json"))) == 3
    is_verified(cli, root)


def _ingest_two(cli: Cli, folder: Path) -> None:
    root = folder / "root"
    root.mkdir()
    halves = _halves(workspace.files_of_sessions(cli), folder)
    for one in at_once(cli, root, *(["ingest", half] for half in halves)):
        one.succeeds()
    assert len(json.loads((root / "sources.json").read_text())) == 3, "where a source lies was forgotten"
    is_verified(cli, root)


def _ingest_and_index(cli: Cli, folder: Path) -> None:
    root = folder / "root"
    root.mkdir()
    source = workspace.files_of_sessions(cli) / "simulated"
    for one in at_once(cli, root, ["ingest", source], ["index"], begun=(root / "store").exists):
        one.succeeds()
    cli("index", root=root).succeeds("3 sessions")
    is_verified(cli, root)


def _splits_and_tokenize(cli: Cli, folder: Path) -> None:
    root = workspace.store(cli, folder)
    divide = ["splits", "--rule", "kind=trial", "--store-as", "mine"]
    bake = ["tokenize", "--scheme", "per-spike,binned"]
    for one in at_once(cli, root, bake, divide, begun=lambda: any(root.glob("shards/*/*/*"))):
        one.succeeds()
    cli(*bake, root=root).succeeds()
    is_verified(cli, root)
    names = {f.parent.name for f in root.glob("shards/binned/*/*/*/manifest.json")}
    right = peaceful(cli, workspace.store(cli, folder / "again"), divide, bake)
    theirs = {f.parent.name: f.read_bytes() for f in right.glob("shards/binned/*/*/*/manifest.json")}
    assert theirs.keys() <= names
    for file in root.glob("shards/binned/*/*/*/manifest.json"):
        if file.parent.name in theirs:
            assert file.read_bytes() == theirs[file.parent.name], "a shard of another session under this one's name"


def _export_twice(cli: Cli, folder: Path) -> None:
    root = workspace.store(cli, folder)
    words = ["export", "*", "--to", "nwb", "--out", root / "out"]
    for one in at_once(cli, root, words, words):
        one.succeeds()
    peace = folder / "peace"
    cli("export", "*", "--to", "nwb", "--out", peace / "out", root=root).succeeds()
    assert tree(root, "out") == tree(peace, "out")


# ---- downloads ------------------------------------------------------------------------------------------------------


def _fetch_words(server: DandiServer, *more: str) -> list[str]:
    return ["fetch", "000140", "--download-only", "--api-url", server.api_url, "--version", server.version, *more]


def _fetch_twice(cli: Cli, folder: Path) -> None:
    with DandiServer(ASSETS) as server:
        words = _fetch_words(server)
        for one in at_once(cli, folder, words, words):
            one.succeeds()
        _is_fetched(cli, folder, server)
        assert server.blob_bytes <= sum(map(len, ASSETS.values())), "a file was fetched twice"


def _fetch_halves(cli: Cli, folder: Path) -> None:
    with DandiServer(ASSETS) as server:
        for one in at_once(cli, folder, *(_fetch_words(server, "--glob", f"*ses-[{k}]*") for k in ("01", "23"))):
            one.succeeds()
        _is_fetched(cli, folder, server)


def _is_fetched(cli: Cli, folder: Path, server: DandiServer) -> None:
    raw = folder / "raw"
    found = {p.relative_to(raw).as_posix(): p.read_bytes() for p in raw.rglob("*.nwb")}
    assert found == {f"000140/{server.version}/{path}": body for path, body in ASSETS.items()}
    words = ["fetch", "000140", "--verify", "--api-url", server.api_url, "--version", server.version]
    told = cli(*words, root=folder).succeeds()
    assert told.out.count("good") == len(ASSETS), str(told)
    assert not list(raw.rglob("*.lock*")) and not (raw / ".staging").exists()
