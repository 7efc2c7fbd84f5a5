"""What kind of thing lies at a path, by its place and by what it says; and whose part a file is that is none itself."""

from __future__ import annotations

from pathlib import Path

from spiketok.errors import ArtefactError, UsageError
from spiketok.storage.causes import content_fault, raise_cause
from spiketok.storage.files import read_json
from spiketok.storage.npz import names_in_npz
from spiketok.storage.pushed import PUSHED
from spiketok.storage.records import CHOICE, CONFIG, PREDICTIONS, RESULT, STAR_TABLE, is_leaderboard, is_run
from spiketok.storage.store import holds_session
from spiketok.storage.workspace import MANIFEST

OF_OTHERS = ("nwb", "truth")  # kinds of files that spiketok reads and others make
STAR_FILE = "star.json"  # of compare --models
_BY_FORMAT = {CHOICE: "choice", STAR_TABLE: "star table"}
# a file that is a part of something: how many folders up that lies, and what it is called
_PARTS = {
    CONFIG: (1, "run"),
    RESULT: (1, "run"),
    "checkpoint.json": (2, "run"),
    PREDICTIONS: (2, "run or report"),
    "session.json": (1, "session"),
    MANIFEST: (1, "shard"),
    PUSHED: (1, "folder that was pushed to"),
    "curve.json": (1, "curve of reports"),
}


def kind_of(path: Path) -> str:
    """``"nwb"``, ``"session"``, ``"shard"``, ``"context"``, ``"run"``, ``"report"``, ``"truth"``, ``"vectors"``,
    ``"choice"``, ``"leaderboard"``, ``"star table"`` or ``"workspace"``.

    Raises:
        ArtefactError: it is nothing that spiketok writes. UsageError: it is a part of something, which is named.
    """
    if path.is_file() and path.suffix == ".npz":
        return "vectors" if {"vector", "run_digest"} <= names_in_npz(path) else "truth"
    if path.is_file() and path.name in ("report.json", "report.html"):
        return "report"
    if path.is_file() and path.suffix == ".json" and path.parent.name == "choices":
        return "choice"
    if (path.is_file() and is_leaderboard(path)) or (path / "leaderboard.json").exists():
        return "leaderboard"
    if path.is_file() and path.suffix in (".json", ".jsonl"):
        return _kind_of_json(path)
    if path.is_file() or path.name.lower().endswith((".nwb", ".nwb.zarr")):
        return "nwb"
    if holds_session(path):
        return "session"
    if (path / MANIFEST).exists():
        return _kind_of_manifest(path / MANIFEST)
    if (path / "report.json").exists():
        return "report"
    if (path / STAR_FILE).exists():
        return "star table"
    if (path / "curve.json").exists():
        lengths = ", ".join(
            sorted((p.parent.name for p in path.glob("*/report.json")), key=lambda name: (len(name), name))
        )
        message = f"{path} holds a report for each length of calibration: name one of {lengths}"
        raise UsageError(message)
    if is_run(path):
        return "run"
    if any((path / name).exists() for name in ("store", "shards", PUSHED)):
        return "workspace"
    message = f"{path} is nothing that spiketok writes, and no NWB file"
    raise ArtefactError(message)


def _kind_of_json(file: Path) -> str:
    """By what it says that it is. One that is a part of something is not looked at by itself.

    Raises:
        UsageError: it is such a part. ArtefactError: it cannot be read, or is nothing that is known here.
    """
    up, whole = _PARTS.get(file.name, (0, ""))
    if whole:
        message = f"{file} is a part of the {whole} {file.resolve().parents[up - 1]}: name that"
        raise UsageError(message)
    try:
        said = read_json(file).get("format") if file.suffix == ".json" else None
    except (OSError, ValueError) as error:
        raise_cause(error, file)
        message = f"{file} cannot be read ({content_fault(error)}): check the path, or make it again"
        raise ArtefactError(message) from error
    if isinstance(said, str) and said in _BY_FORMAT:
        return _BY_FORMAT[said]
    message = f"{file} is JSON, and nothing that can be looked at by itself: name what it belongs to"
    raise ArtefactError(message)


def star_file(path: Path) -> Path:
    """The file of a star table, which is named by its folder or by that file."""
    return path / STAR_FILE if path.is_dir() else path


def _kind_of_manifest(file: Path) -> str:
    """``"shard"`` or ``"context"``; a manifest that cannot be read is taken for a shard's, whose reader says so."""
    from spiketok.tokens.context import FORMAT

    try:
        return "context" if read_json(file).get("format") == FORMAT else "shard"
    except (OSError, ValueError):
        return "shard"


def report_file(path: Path) -> Path:
    """The ``report.json`` of a report, which is named by its folder, by that file, or by its page."""
    return path / "report.json" if path.is_dir() else path.with_name("report.json")


def leaderboard_file(path: Path) -> Path:
    """The file of a leaderboard's scores, which is named by its folder, by that file, or by its page."""
    return path / "leaderboard.json" if path.is_dir() else path.with_suffix(".json")
