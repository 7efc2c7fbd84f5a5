"""Every nasty file through the command line: one line that refuses it, or a right store that says what was mended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spiketok.errors import SourceError
from spiketok.pipeline.source_check import verify_session
from spiketok.storage.files import WIP
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests import nwb_files
from tests.nasty_files import GB, NASTY, Nasty, judge

pytestmark = [
    pytest.mark.long,  # each of its files is written, and ingested in a process of its own
    pytest.mark.skipif(sys.platform != "linux", reason="what a process may take is bounded on Linux only"),
]


def file_name(name: str) -> str:
    return name.replace("/", "_").replace(" ", "-") + ".nwb"


class Run:
    """One ``spiketok ingest`` of all nasty files and a good one: what it said, and what it took."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.files.mkdir()
        self.workspace = Workspace(folder / "root")
        good = nwb_files.write_plain(self.files / "a good file.nwb")
        for name, nasty in NASTY.items():
            nasty.make(good, self.files / file_name(name))
        words = [sys.executable, "-m", "spiketok", "ingest", str(self.files), "--json", "--root", str(folder / "root")]
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            process = subprocess.Popen(words, stdout=out, stderr=err, env=os.environ | {"COLUMNS": "1000"})
            _, status, used = os.wait4(process.pid, 0)
        self.exit_code, self.peak_bytes = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
        self.said = (folder / "err").read_text()
        self.rows = json.loads((folder / "out").read_text())

    def lines_of(self, name: str) -> list[str]:
        called = NASTY[name].called or file_name(name)
        return [line for line in self.said.splitlines() if f" {called}: " in line]

    def path_of(self, name: str) -> Path:
        return self.workspace.store_path(f"local/{file_name(name).removesuffix('.nwb')}")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return Run(tmp_path_factory.mktemp("nasty"))


def test_there_are_enough():
    assert len(NASTY) >= 40


def test_one_run_takes_them_all(run):
    assert run.exit_code == 1
    assert "Traceback" not in run.said
    assert "internal error" not in run.said
    assert run.peak_bytes < 2 * GB
    n_refused = sum(bool(nasty.refused) for nasty in NASTY.values())
    assert len(run.rows) == len(NASTY) + 1 - n_refused
    assert f"{len(NASTY) + 1} sessions: {len(NASTY) + 1 - n_refused} written, {n_refused} failed" in run.said


def test_nothing_is_left_half_written(run):
    assert not list(run.workspace.root.rglob(f"{WIP}*"))
    names = {file_name(name).removesuffix(".nwb") for name, nasty in NASTY.items() if not nasty.refused}
    assert {path.name for path in (run.workspace.store / "local").iterdir()} == names | {"a_good_file"}


@pytest.mark.parametrize("name", [name for name, nasty in NASTY.items() if nasty.refused])
def test_refused_in_one_line(run, name):
    lines = run.lines_of(name)
    assert len(lines) == 1, run.said
    assert NASTY[name].refused in lines[0]
    assert not run.path_of(name).exists()


@pytest.mark.parametrize("name", [name for name, nasty in NASTY.items() if not nasty.refused])
def test_right_in_the_store(run, name):
    expected: Nasty = NASTY[name]
    session = read_session(run.path_of(name))
    judge(session, expected)
    if expected.pynwb:
        assert verify_session(session, run.files / file_name(name)) == []


@pytest.mark.slow
def test_pynwb_reads_no_more_than_is_said(run):
    """Of the files that the table says pynwb cannot be compared on, it reads none differently without an error."""
    read = []
    for name, nasty in NASTY.items():
        if not nasty.refused and not nasty.pynwb:
            try:
                read.append((name, verify_session(read_session(run.path_of(name)), run.files / file_name(name))))
            except SourceError:
                continue
    assert read == []
