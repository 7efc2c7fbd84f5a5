"""The JSON files of runs and reports, each of which holds a digest of its content.

    <run>/config.json                     how it was asked for, and how its model adapts
    <run>/checkpoint/checkpoint.json      what the weights beside it are
    <run>/result.json                     its scores
    <report>/report.json                  the scores of a transfer
    <root>/choices/<name>.json            which sessions are to be trained on, and why
    <bench>/leaderboard.json              the scores of a suite
    <folder>/star.json                    models beside each other, in ten columns
    <folder>/predictions.json             of which checkpoint the predictions below it are, and the digest of each file

Whoever reads one reads it here, so that no command believes a file that was changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from spiketok.errors import ArtefactError, ChangedError
from spiketok.storage.causes import content_fault
from spiketok.storage.files import below, read_signed, sha256_file, write_signed
from spiketok.storage.forms import Each, Maybe, require_form

CONFIG, RESULT, PREDICTIONS = "config.json", "result.json", "predictions.json"
STEPS = "metrics.jsonl"  # the log of a training's steps
CHOICE = "spiketok-choice"  # the format of a choice of sessions
STAR_TABLE = "spiketok-star-table"  # the format of models beside each other
LEADERBOARDS = ("leaderboard", "leaderboard-partial")  # of all of a suite, and of some of its models, seeds or tracks
CHECKPOINT = Path("checkpoint") / "checkpoint.json"
_CHECKPOINTS = (2, 3)  # versions of it whose form is known here
SIGNED_VERSION = 3  # of the checkpoint: from it on the configuration beside it is signed
AGAIN = "run the same 'spiketok train' again"

# What each must say (``forms``); what only some releases wrote may be missing.
_SESSION = {
    "id": str,
    "subject?": str,
    "n_units?": int,
    "n_spikes?": int,
    "shards?": Each({"digest": str, "shard?": str}),
    "store_digest?": str,
    "source_sha256?": str,
    "source?": Each(object),
    "earlier?": bool,
    "recording?": Each(object),
}
_TASK = {"kind": str, "name?": str, "about?": str, "metrics?": [str]}
_KEPT = {
    "session": str,
    "protocol": str,
    "labels": str,
    "parent": {"run": str, "checkpoint_digest": str},
    "calibration_ns": [[int]],
    "test_ns": [[int]],
    "valid_is_test": bool,
}
_CONFIG = {"model": str, "data": Each(object), "model_overrides": Each(object)}
_FORMS: dict[str, object] = {
    "checkpoint": {
        "config": _CONFIG,
        "tasks": [_TASK],
        "sessions": [_SESSION],
        "step": int,
        "total_steps": int,
        "files": Each(str),
        "kept?": [_KEPT],
    },
    "result": {
        "model": str,
        "checkpoint_digest?": str,
        "tasks": [_TASK],
        "test": Each(Each(Each(object))),
        "test_mean": Each(Each(Maybe(float))),
        "train_s?": Each(float),
        "findings?": [object],
    },
    "report": {
        "run?": str,
        "checkpoint_digest?": str,
        "model?": str,
        "config?": _CONFIG,
        "trained_on?": [_SESSION],
        "sessions?": [_SESSION],
        "summary?": Each(Each(Each(Each(object)))),
    },
    "choice": {
        "task": str,
        "targets": Each(str),
        "calibration_s": float,
        "sessions": [
            {"session": str, "store_digest": str, "rate_hz": float, "own": float, "transfer": Each(float)},
        ],
        "chosen": [str],
        "written_by?": str,
    },
    "leaderboard": {
        "suite": {"name": str, "version": int, "models": [{"name": str, "model": str}]},
        "suite_digest": str,
        "models": [str],
        "seeds": [int],
        "sessions": Each(str),
        "runs": [{"run": str, "checkpoint_digest": str}],
        "versions": Each(str),
        "partial": [str],
    },
    "star table": {
        "columns": Each({"title": str, "stars": str}),
        "models": [{"label": str, "mean": Each(Maybe(float)), "stars": Each(Maybe(int))}],
        "settings": {"sessions": [str], "seed": int},
    },
    "predictions": {"files": Each(str), "checkpoint_digest": str},
}


def _formed(kind: str, file: Path, remedy: str) -> dict:
    """What a signed artefact of a kind says, after its form was looked at."""
    facts = read_signed(file, kind, remedy)
    require_form(facts, _FORMS[kind], kind, file, remedy)
    return facts


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, also one that has lost a file."""
    return (folder / CONFIG).exists() or (folder / CHECKPOINT).exists()


def run_config(run: Path, checkpoint: Mapping | None = None) -> dict:
    """The configuration that the last ``train`` on a run's folder resolved.

    Args:
        checkpoint: what :func:`run_checkpoint` gave, if there is one: both must be of the same run.

    Raises:
        ArtefactError: it is gone, was changed or is another run's.
    """
    try:
        earlier = checkpoint is None or checkpoint["version"] < SIGNED_VERSION
        found = read_signed(run / CONFIG, "configuration", AGAIN, unsigned=earlier)
    except FileNotFoundError:
        message = f"configuration {run / CONFIG} is gone: {AGAIN}"
        raise ArtefactError(message) from None
    if checkpoint is not None and not _agree(found | {"transfer": None}, checkpoint["config"] | {"transfer": None}):
        message = f"configuration {run / CONFIG} is of another run than the checkpoint beside it: {AGAIN}"
        raise ChangedError(message, found)
    return found


def _agree(a: object, b: object) -> bool:
    """Whether two settings are equal in what both have: an earlier release knew fewer."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(_agree(a[key], b[key]) for key in a.keys() & b.keys())
    return a == b


def run_checkpoint(run: Path) -> dict:
    """What stands beside a run's weights; FileNotFoundError where there is none, also for those below."""
    remedy = "train again with --restart"
    facts = read_signed(run / CHECKPOINT, "checkpoint", remedy)
    if facts.get("version") in _CHECKPOINTS:  # of another one its reader says which
        require_form(facts, _FORMS["checkpoint"], "checkpoint", run / CHECKPOINT, remedy)
    return facts


def run_result(run: Path) -> dict:
    """The scores of a finished run; ArtefactError also where they are of another checkpoint than the one beside."""
    facts = _formed("result", run / RESULT, AGAIN)
    said, found = str(facts.get("checkpoint_digest", "")), checkpoint_digest(run)
    if said != found:
        message = f"result {run / RESULT} is of checkpoint {said[:12]}, beside it lies {found[:12] or 'none'}: {AGAIN}"
        raise ChangedError(message, facts)
    return facts


def checkpoint_digest(run: Path) -> str:
    """The digest of the checkpoint that stands there: the sha256 of its JSON, which has its files'; empty without."""
    return sha256_file(run / CHECKPOINT) if (run / CHECKPOINT).is_file() else ""


def step_lines(path: Path) -> list[dict]:
    """The whole lines of a log of steps; a last one that was cut off by a kill is left out. None without the file.

    Raises:
        ArtefactError: one is damaged.
    """
    if not path.exists():
        return []
    try:
        found = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        if any(not isinstance(line["step"], int) for line in found):
            raise ValueError("a line whose step is no whole number")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path} is damaged ({content_fault(error)}): move it away, which loses its curves alone"
        raise ArtefactError(message) from error
    return found


def report_body(file: Path) -> dict:
    """A transfer report."""
    return _formed("report", file, "spiketok eval-xsession RUN")


def choice_body(file: Path) -> dict:
    """Which sessions ``spiketok choose`` chose; FileNotFoundError where there is no such file.

    Raises:
        ArtefactError: it is no choice, or was changed.
    """
    facts = read_signed(file, "choice", "spiketok choose")
    if facts.get("format") != CHOICE:
        message = f"{file} has format '{facts.get('format')}', expected '{CHOICE}': spiketok choose"
        raise ArtefactError(message)
    require_form(facts, _FORMS["choice"], "choice", file, "spiketok choose")
    missing = sorted(set(facts["chosen"]) - {one["session"] for one in facts["sessions"]})
    if missing:
        message = f"choice {file} chooses '{missing[0][:120]}', which is none of its sessions: spiketok choose"
        raise ArtefactError(message)
    return facts


def is_leaderboard(file: Path) -> bool:
    """Whether a file is named as a leaderboard or its page, a partial one too."""
    return file.stem in LEADERBOARDS and file.suffix in (".json", ".html")


def leaderboard_body(file: Path) -> dict:
    """The scores of a suite, by the file of them or of their page."""
    return _formed("leaderboard", file.with_suffix(".json"), "spiketok bench SUITE")


def star_body(file: Path) -> dict:
    """Models beside each other, as ``spiketok compare --models`` measured them."""
    return _formed("star table", file, "spiketok compare --models NAME,...")


def choice_rows(facts: Mapping) -> list[dict[str, object]]:
    """The sessions of a choice, for a table: the measured R2 of each, and whether it is chosen."""
    return [
        {
            "session": one["session"],
            "rate Hz": one["rate_hz"],
            "own R2": one["own"],
            **{f"R2 in {target}": value for target, value in one["transfer"].items()},
            "chosen": "yes" if one["session"] in facts["chosen"] else "no",
        }
        for one in facts["sessions"]
    ]


def seal_predictions(folder: Path, checkpoint: str) -> None:
    """Write down the digests of all files of predictions below a folder, and of the checkpoint that they are of."""
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*.safetensors"))}
    write_signed(folder / PREDICTIONS, {"checkpoint_digest": checkpoint, "files": files})


def predictions_fault(folder: Path, checkpoint: str, remedy: str) -> str:
    """What is wrong with the predictions in a folder, as :func:`seal_predictions` left them; empty if nothing is.

    Raises:
        FileNotFoundError: nothing was written down of them, as by an earlier release.
    """
    try:
        sealed = _formed("predictions", folder / PREDICTIONS, remedy)
        for name, digest in sealed["files"].items():
            file = below(folder, name, PREDICTIONS)
            found = sha256_file(file) if file.is_file() else ""
            if found != digest:
                fact = f"has sha256 {found[:12]}, written was {digest[:12]}" if found else "is gone"
                return f"{file} {fact}: {remedy}"
    except ArtefactError as error:
        return str(error)
    if sealed["checkpoint_digest"] != checkpoint:
        said = sealed["checkpoint_digest"][:12]
        return f"predictions in {folder} are of checkpoint {said}, beside them lies {checkpoint[:12]}: {remedy}"
    return ""
