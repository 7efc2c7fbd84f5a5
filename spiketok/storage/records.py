"""The JSON files of runs and reports, each of which holds a digest of its content.

    <run>/config.json                     how it was asked for, and how its model adapts
    <run>/checkpoint/checkpoint.json      what the weights beside it are
    <run>/result.json                     its scores
    <report>/report.json                  the scores of a transfer

Whoever reads one reads it here, so that no command believes a file that was changed.
"""

from __future__ import annotations

from pathlib import Path

from spiketok.storage.files import read_signed

CONFIG, RESULT, REPORT = "config.json", "result.json", "report.json"
CHECKPOINT = Path("checkpoint") / "checkpoint.json"
AGAIN = "run the same 'spiketok train' again"


def run_config(run: Path) -> dict:
    """The configuration that the last ``train`` on a run's folder resolved; earlier releases did not sign it.

    Raises:
        FileNotFoundError: there is none. ArtefactError: it was changed or cannot be read. So for all of these.
    """
    return read_signed(run / CONFIG, "configuration", AGAIN, unsigned=True)


def run_checkpoint(run: Path) -> dict:
    """What stands beside a run's weights."""
    return read_signed(run / CHECKPOINT, "checkpoint", "train again with --restart")


def run_result(run: Path) -> dict:
    """The scores of a finished run."""
    return read_signed(run / RESULT, "result", AGAIN)


def report_body(file: Path) -> dict:
    """A transfer report."""
    return read_signed(file, "report", "spiketok eval-xsession RUN")
