"""A function in a process that may die: what it returns, what it raises, and one line for each way to die."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from spiketok.errors import DataError, SourceError
from spiketok.pipeline.isolation import isolated

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no such process elsewhere")
BOUNDS = {"name": "a.nwb", "memory_bytes": 3 * 10**8, "cpu_s": 30}


def refuse() -> None:
    message = "a.nwb: is no good: throw it away"
    raise DataError(message)


def spin() -> None:
    while True:
        pass


def leave() -> None:
    os._exit(3)


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


def test_results_and_errors_come_back():
    assert isolated(divmod, 7, 2, **BOUNDS) == (3, 1)
    assert isolated(os.getpid, **BOUNDS) != os.getpid()
    with pytest.raises(DataError, match="a.nwb: is no good: throw it away"):
        isolated(refuse, **BOUNDS)
    with pytest.raises(ZeroDivisionError):
        isolated(divmod, 1, 0, **BOUNDS)


def test_a_result_that_cannot_come_back_is_an_error():
    with pytest.raises(pickle.PicklingError, match="pickle"):
        isolated(eval, "lambda: 0", **BOUNDS)


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (kill, (signal.SIGSEGV,), "crashed the HDF5 library (SIGSEGV), the file is damaged"),
        (kill, (signal.SIGABRT,), "crashed the HDF5 library (SIGABRT)"),
        (kill, (signal.SIGKILL,), "killed from outside"),
        (leave, (), "ended the process with code 3"),
        (np.ones, (10**9,), "takes more than 300.0 MB of memory: set SPIKETOK_READ_MEMORY"),
    ],
)
def test_each_death_is_one_line(function, arguments, words, capfd):
    with pytest.raises(SourceError) as error:
        isolated(function, *arguments, **BOUNDS)
    assert str(error.value).startswith("a.nwb: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_hang_ends():
    with pytest.raises(SourceError, match=r"a\.nwb: reading it did not end within 1 s of processor time"):
        isolated(spin, **(BOUNDS | {"cpu_s": 1}))


def test_the_child_of_a_killed_process_dies_with_it():
    code = (
        "import os, time\nfrom spiketok.pipeline.isolation import isolated\n"
        "def work():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "isolated(work, name='a', memory_bytes=10**9, cpu_s=60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        with open(f"/proc/{child}/stat") as stream:
            if stream.read().split()[2] == "Z":
                break
        time.sleep(0.02)
    assert time.monotonic() < deadline
