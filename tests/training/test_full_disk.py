"""What is written beside a checkpoint, on a disk that gets full: whole lines and pictures, a report with its page."""

from __future__ import annotations

import errno
import json
import resource

import pytest

from spiketok.storage.files import atomic_file
from spiketok.storage.records import step_lines
from spiketok.training.step_log import StepLog


def test_a_line_of_the_log_is_whole_or_not_there(tmp_path):
    metrics, before = StepLog(tmp_path / "metrics.jsonl", 0), resource.getrlimit(resource.RLIMIT_FSIZE)
    row = {"event": "step", "step": 1, "text": "x" * 100}
    resource.setrlimit(resource.RLIMIT_FSIZE, (450, before[1]))
    try:
        with pytest.raises(OSError) as raised:
            for _ in range(9):
                metrics._append(row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(tmp_path / "metrics.jsonl"))
    assert (tmp_path / "metrics.jsonl").read_text() == 3 * (json.dumps(row) + "\n")
    assert step_lines(tmp_path / "metrics.jsonl") == 3 * [row]
    metrics._append(row)
    assert len(step_lines(tmp_path / "metrics.jsonl")) == 4


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    pyplot = pytest.importorskip(
        "matplotlib.pyplot", reason="matplotlib is not installed (pip install 'spiketok[plots]')"
    )
    from spiketok.tokens.session_plots import _save

    out = tmp_path / "a.svg"
    _save(pyplot.figure(), out)
    assert out.read_text().startswith("<?xml")
    before = out.read_bytes()

    def full(self, path, **_):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError) as raised:
        _save(pyplot.figure(), out)
    assert raised.value.filename == str(out)
    assert [p.name for p in tmp_path.iterdir()] == ["a.svg"]
    assert out.read_bytes() == before


def test_two_files_come_together_or_not_at_all(tmp_path):
    """As a report and its page, of which the one holds the digest of the other."""
    for name in ("page", "report"):
        (tmp_path / name).write_text("before")
    page, report = atomic_file(tmp_path / "page"), atomic_file(tmp_path / "report")
    with pytest.raises(OSError, match="No space"), page as now, report as half:
        now.write_text("now")
        half.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"page": "before", "report": "before"}
