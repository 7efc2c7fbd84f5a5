"""``eval-xsession --stress`` as a user meets it: what it prints and writes, and what ``verify`` and ``inspect`` say."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch", reason="torch is not installed (pip install 'spiketok[train]')")

from typer.testing import CliRunner

from spiketok.cli import app
from tests.cli.test_cli import spiketok


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stress", "gein"], "unknown stress 'gein'"),
        (["--stress=gain,rate"], "unknown stress 'rate'"),
        (["--stress-calibration"], "--stress-calibration says how --stress perturbs: add --stress"),
        (["--stress", "--calibration", "last"], "--calibration last: must be one of"),  # all kinds: no value is lost
        (["--calibration", "last", "--stress"], "--calibration last: must be one of"),
    ],
)
def test_what_cannot_be_asked_is_one_line(words, message, tmp_path):
    done = CliRunner().invoke(app, ["eval-xsession", "poyo", "--root", str(tmp_path), *words])
    assert message in str(done.exception)


def test_the_command_alone_takes_the_newest_run(tmp_path):
    done = CliRunner().invoke(app, ["eval-xsession"], env={"SPIKETOK_ROOT": str(tmp_path)})
    assert "run" in str(done.exception) and str(tmp_path) in str(done.exception)


@pytest.mark.long
def test_from_a_run_to_a_report_that_verify_believes(tmp_path):
    size = ("--subjects", 1, "--sessions-per-subject", 2, "--units", 12, "--duration-s", 60)
    spiketok(tmp_path, "simulate", *map(str, size))
    spiketok(tmp_path, "train", "-m", "linear", "--tokenize")
    done = spiketok(tmp_path, "eval-xsession", "linear", "--calibration-s", "15", "--stress", "gain,time_shift")
    assert "0.5 0.75 1 1.33 2 x" in done.stdout and "no_spikes" in done.stdout.replace(" ", "_")
    (report,) = (tmp_path / "runs").glob("linear-*/xsession/report.json")
    body = json.loads(report.read_text())
    assert {row["kind"] for row in body["stress"]} == {"gain", "time_shift"}
    told = spiketok(tmp_path, "inspect", report.parent).stdout
    assert "labels_shifted" in told and "time_shift" in told and "half_width" in told
    spiketok(tmp_path, "verify", report.parent, "--quick")
    body["stress"][0]["r2_mean"] = 0.99
    report.write_text(json.dumps(body))
    assert "report" in spiketok(tmp_path, "verify", report.parent, "--quick", code=1).stdout
