"""What jobs in several processes and on several machines leave in a folder that they share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spiketok.pipeline.jobs import Job, run_jobs
from spiketok.storage.files import STALE_S, WIP, atomic_file, atomic_folder, clean_leftovers, scratch_folder


def dead_pid() -> str:
    """The id of a process that has ended."""
    code = "import os; print(os.getpid())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_what_another_machine_writes_is_kept_for_a_day(tmp_path):
    """Its process ids mean nothing here: one that is dead here may be alive there."""
    pid = dead_pid()
    ours, fresh, stale = (tmp_path / f"{WIP}{pid}{name}" for name in ("-x", "@node.17-x", "@node.18-y"))
    for path in (ours, fresh, stale):
        path.mkdir()
        (path / "a").touch()
        old = time.time() - STALE_S - 60
        os.utime(path, (old, old))
    os.utime(stale / "a", (old, old))  # in the fresh one a file has changed since
    assert sorted(clean_leftovers(tmp_path)) == sorted([ours, stale])
    assert list(tmp_path.iterdir()) == [fresh]


def test_threads_do_not_take_each_others_work_for_leftovers(tmp_path):
    with atomic_folder(tmp_path / "a") as a, atomic_file(tmp_path / "b") as b, scratch_folder(tmp_path, "c") as c:
        (a / "x").write_text("a")
        b.write_text("b")
        mine = f"{WIP}{a.name[len(WIP) :].partition('-')[0]}"
        (tmp_path / f"{mine}-of-a-namesake").mkdir()  # an earlier process that had this one's id
        assert [p.name for p in clean_leftovers(tmp_path)] == [f"{mine}-of-a-namesake"]
        assert c.is_dir()
        with atomic_folder(tmp_path / "d") as d:
            (d / "x").write_text("d")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "d"]
    assert ((tmp_path / "a" / "x").read_text(), (tmp_path / "b").read_text()) == ("a", "b")


def test_a_folder_that_was_taken_away_is_an_error_not_a_wait(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a") as wip:
        wip.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a") as wip:
        (wip / "x").touch()
        wip.rename(tmp_path / "elsewhere-too")
    assert not (tmp_path / "a").exists()


def _write_often(target: Path, writer: int, times: int) -> int:
    for _ in range(times):
        with atomic_folder(target) as wip:
            for k in range(3):
                (wip / str(k)).write_text(str(writer))
    return writer


def test_writers_of_the_same_folder_at_once_leave_one_of_theirs_whole(tmp_path):
    """As when a worker is thought lost, and its job is run elsewhere, while it still writes."""
    pid = dead_pid()
    for k in range(200):
        (tmp_path / f"{WIP}{pid}-{k}").mkdir()
        (tmp_path / f"{WIP}{pid}-{k}" / "a").touch()
    jobs = [Job(str(k), _write_often, (tmp_path / "target", k, 60)) for k in range(2)]
    assert sorted(o.message or o.result for o in run_jobs(jobs, "processes:2")) == [0, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert [p.name for p in sorted((tmp_path / "target").iterdir())] == ["0", "1", "2"]
    assert len({p.read_text() for p in (tmp_path / "target").iterdir()}) == 1
