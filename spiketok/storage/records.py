"""The JSON files of runs and reports, each of which holds a digest of its content.

    <run>/config.json                     how it was asked for, and how its model adapts
    <run>/checkpoint/checkpoint.json      what the weights beside it are
    <run>/result.json                     its scores
    <report>/report.json                  the scores of a transfer
    <root>/choices/<name>.json            which sessions are to be trained on, and why
    <bench>/leaderboard.json              the scores of a suite
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

CONFIG, RESULT, PREDICTIONS = "config.json", "result.json", "predictions.json"
STEPS = "metrics.jsonl"  # the log of a training's steps
CHOICE = "spiketok-choice"  # the format of a choice of sessions
LEADERBOARDS = ("leaderboard", "leaderboard-partial")  # of all of a suite, and of some of its models, seeds or tracks
CHECKPOINT = Path("checkpoint") / "checkpoint.json"
SIGNED_VERSION = 3  # of the checkpoint: from it on the configuration beside it is signed
AGAIN = "run the same 'spiketok train' again"


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
    return read_signed(run / CHECKPOINT, "checkpoint", "train again with --restart")


def run_result(run: Path) -> dict:
    """The scores of a finished run; ArtefactError also where they are of another checkpoint than the one beside."""
    facts = read_signed(run / RESULT, "result", AGAIN)
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
    return read_signed(file, "report", "spiketok eval-xsession RUN")


def choice_body(file: Path) -> dict:
    """Which sessions ``spiketok choose`` chose; FileNotFoundError where there is no such file.

    Raises:
        ArtefactError: it is no choice, or was changed.
    """
    facts = read_signed(file, "choice", "spiketok choose")
    if facts.get("format") != CHOICE:
        message = f"{file} has format '{facts.get('format')}', expected '{CHOICE}': spiketok choose"
        raise ArtefactError(message)
    return facts


def is_leaderboard(file: Path) -> bool:
    """Whether a file is named as a leaderboard or its page, a partial one too."""
    return file.stem in LEADERBOARDS and file.suffix in (".json", ".html")


def leaderboard_body(file: Path) -> dict:
    """The scores of a suite, by the file of them or of their page."""
    return read_signed(file.with_suffix(".json"), "leaderboard", "spiketok bench SUITE")


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
        sealed = read_signed(folder / PREDICTIONS, "predictions", remedy)
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
