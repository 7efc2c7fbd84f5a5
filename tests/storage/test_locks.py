"""Locks: whom they keep out, who frees them, file systems that have none, and readers whose artefact is replaced."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from spiketok import notes
from spiketok.errors import ArtefactError, BusyError
from spiketok.storage import locks
from spiketok.storage.locks import beside, inside, locked, session_lock, unless_replaced
from spiketok.storage.remote import RemotePath

HOLD = """
import sys, time
from pathlib import Path
from spiketok.storage.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(notes, "_said", set())


@contextmanager
def another_process(lock, seconds=60.0):
    words = [sys.executable, "-c", HOLD, str(lock), str(seconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_named_and_a_killed_one_keeps_nobody_out(tmp_path):
    lock = inside(tmp_path / "runs" / "one")
    with another_process(lock) as other:
        who = rf"spiketok \(process {other.pid} on .+, since \d{{4}}-.+\) writes run one: wait for it or stop it$"
        with pytest.raises(BusyError, match=who), locked(lock, "run one"):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert lock.exists(), "it had no time to remove it"
    with locked(lock, "run one") as free:
        assert free
        assert f"process {os.getpid()} on" in lock.read_text()
    assert not lock.exists()


def test_who_waits_says_so_once_and_learns_that_another_wrote(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(locks, "QUIET_S", 0.05)
    lock = beside(tmp_path / "session")
    with another_process(lock, 0.3), locked(lock, "session s", wait=True) as free:
        assert not free
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("note: another spiketok writes session s: waiting for it (process ")
    stop = threading.Event()
    stop.set()
    with locked(lock, "it"), pytest.raises(BusyError), locked(lock, "it", wait=True, stop=stop):
        pass


def test_only_one_is_inside_though_each_removes_the_file(tmp_path):
    lock, inside_now, most = beside(tmp_path / "x"), [], []

    def work():
        for _ in range(20):
            with locked(lock, "x", wait=True):
                inside_now.append(1)
                most.append(len(inside_now))
                inside_now.pop()

    before, locks.LOOK_AGAIN_S = locks.LOOK_AGAIN_S, 0.001
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    locks.LOOK_AGAIN_S = before
    assert (max(most), len(most), lock.exists()) == (1, 80, False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, capsys, number):
    def none(stream, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    for _ in range(2):
        with locked(inside(tmp_path), "run"), locked(inside(tmp_path), "run"):
            pass
    assert capsys.readouterr().err.count("has no locks") == 1


def test_where_no_lock_can_be_written_the_work_itself_says_why(tmp_path):
    (tmp_path / "file").touch()
    with locked(tmp_path / "file" / ".lock", "it") as free:
        assert free
    with session_lock(RemotePath("s3://bucket/store/a/b")):  # nothing is asked of the network
        pass


def test_a_reader_reads_again_what_was_replaced_and_nothing_else(tmp_path):
    mark, reads = tmp_path / "mark", []
    mark.write_text("one")

    def read():
        reads.append(mark.read_text())
        if len(reads) < 3:
            mark.write_text(f"more {len(reads)}")
            time.sleep(0.01)
            raise ArtefactError("half of it was another's")
        return "whole"

    assert unless_replaced(mark, read) == "whole"
    assert len(reads) == 3

    def damaged():
        reads.append("again")
        raise ArtefactError("damaged")

    with pytest.raises(ArtefactError, match="damaged"):
        unless_replaced(mark, damaged)
    assert reads.count("again") == 1
