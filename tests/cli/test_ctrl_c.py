"""Ctrl-C through the commands: one line, code 130, and the same command again goes on (all of it: tests.robustness)."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.dandi_server import DandiServer
from tests.robustness import Cli
from tests.robustness.ctrl_c import STAGES, cases

BODY = os.urandom(300_000)


@pytest.mark.long
def test_a_download_that_hangs_is_stopped_in_one_line_and_goes_on(tmp_path):
    with DandiServer({"sub-A/sub-A_ses-1_ecephys.nwb": BODY}) as server:
        server.faults.stall = {"sub-A/sub-A_ses-1_ecephys.nwb": 100_000}
        words = ["fetch", "000140", "--download-only", "--api-url", server.api_url]
        process = Cli().start(*words, root=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not any("/blobs/" in path for path, _ in server.requests) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert said.count("\n") == 1 and said.startswith("stopped by Ctrl-C: what was finished is kept; to go on: "), (
            said
        )
        assert said.endswith(f"spiketok {' '.join(words)}\n")
        assert not list(tmp_path.rglob("sub-A_ses-1_ecephys.nwb"))
        server.faults.stall = {}
        server.release.set()
        assert Cli()(*words, root=tmp_path).code == 0
        (file,) = tmp_path.glob("raw/000140/*/sub-A/sub-A_ses-1_ecephys.nwb")
        assert file.read_bytes() == BODY


@pytest.mark.long  # two commands in processes of their own for each
@pytest.mark.parametrize("name", ["tokenize", "train"])
def test_a_stopped_command_ends_in_the_same_bytes(name, tmp_path):
    assert name in STAGES
    (case,) = [case for case in cases(1) if case.name.startswith(f"{name},")]
    case.run(Cli(), tmp_path)
