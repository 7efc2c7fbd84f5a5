"""Ctrl-C and SIGTERM: one line and exit code 130, at a good moment where there is one; a second one ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from spiketok import stopping
from spiketok.pipeline.jobs import Job, run_jobs
from spiketok.stopping import Stopped, go_on, later, stop

HEAD = """
import signal, sys, time
from spiketok.stopping import asked, later, stop, stoppable
sys.argv = ["spiketok", "train", "--restart", "--set", "a b"]
def me(number=signal.SIGINT):
    signal.raise_signal(number)
with stoppable(program=True):
"""


def ends(body: str, *, after: str = "") -> tuple[int, str, str]:
    """A program whose command does this: its exit code, and what it printed on stdout and stderr."""
    code = HEAD + textwrap.indent(textwrap.dedent(body), "    ") + "\n" + textwrap.dedent(after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout, done.stderr


GO_ON = "to go on: spiketok train --set 'a b'\n"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("me()", f"stopped by Ctrl-C: what was finished is kept; {GO_ON}"),
        ("me(signal.SIGTERM)", f"stopped by SIGTERM: what was finished is kept; {GO_ON}"),
        # a library makes another error of it; typer makes an exit of it
        ("try:\n    me()\nexcept KeyboardInterrupt:\n    raise OSError('of a library')",
         f"stopped by Ctrl-C: what was finished is kept; {GO_ON}"),
        ("with later() as asked:\n    me(); me()\n    assert asked()\n    stop('it is saved')",
         f"stopped by Ctrl-C: it is saved; {GO_ON}"),
        ("with later():\n    me()\n", f"stopped by Ctrl-C: what was finished is kept; {GO_ON}"),
        # in a destructor nothing can be raised: it comes again
        ("class A:\n    def __del__(self): me()\nA()\ntime.sleep(20)",
         f"stopped by Ctrl-C: what was finished is kept; {GO_ON}"),
    ],
)  # fmt: skip
def test_a_signal_is_one_line_and_code_130(body, line):
    assert ends(body) == (130, "", line)


def test_the_second_signal_ends_at_once_also_while_the_first_is_obeyed():
    body = "try:\n    me()\nfinally:\n    time.sleep(0.5); me(); print('still here')"
    assert ends(body) == (130, "", "")


def test_a_signal_after_the_end_changes_nothing():
    assert ends("print('done', flush=True)", after="me()\nprint('not reached')") == (0, "done\n", "")


def test_a_program_of_ones_own_is_stopped_by_an_exception_and_has_its_handlers_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="saved"), later() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        stop("saved")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not stopping.asked()


def test_a_command_in_a_process_that_goes_on_gives_signals_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in range(2):  # the second is stopped as the first
        with pytest.raises(SystemExit) as end, stopping.stoppable(), stopping.stoppable():
            signal.raise_signal(signal.SIGINT)
        assert end.value.code == stopping.INTERRUPTED
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert not stopping.asked()


def test_the_command_that_goes_on_begins_nothing_anew():
    assert go_on(["train", "--debug", "--restart", "--model", "poyo"]) == "spiketok train --model poyo"


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_job_in_this_process_ends_by_the_signal_and_is_no_outcome():
    jobs = [Job("one", str, (1,)), Job("two", interrupted, ()), Job("three", str, (3,))]
    outcomes = run_jobs(jobs)
    assert next(outcomes).result == "1"
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


POOL = """
import os, signal, threading, time
from spiketok.pipeline.jobs import Job, run_jobs
from spiketok.stopping import stoppable
if __name__ == "__main__":
    with stoppable(program=True):
        threading.Timer({after}, os.kill, [os.getpid(), signal.SIGINT]).start()
        begun = time.monotonic()
        try:
            for outcome in run_jobs([Job(str(k), time.sleep, (k * 60,)) for k in range(3)], "processes:2"):
                print(outcome.name, flush=True)
        finally:
            print(time.monotonic() - begun < 30, flush=True)
"""


@pytest.mark.long  # processes that start
def test_the_jobs_of_other_processes_end_too(tmp_path):
    """The job of no length is an outcome; those of a minute are ended in their middle, without a traceback."""
    (tmp_path / "pool.py").write_text(POOL.format(after=6))
    words = [sys.executable, str(tmp_path / "pool.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "0\nTrue\n"), done.stderr
    assert done.stderr.startswith("stopped by Ctrl-C") and done.stderr.count("\n") == 1
