"""Run a function on a file that others wrote so that nothing in the file can end this process.

A damaged file can make a library in C crash, spin for ever or ask for all memory of the machine; no Python code can
catch that. Here the function runs in a forked child with bounds on its memory and its processor time; what it returns
or raises comes back, and a child that dies becomes a SourceError of one line. A fork costs some milliseconds and
imports nothing again. Elsewhere than on Linux the function runs in this process, unbounded: Windows cannot fork, and
Apple's own libraries do not outlive one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import parent_process
from typing import NoReturn

from spiketok.errors import SourceError
from spiketok.storage.causes import root_of
from spiketok.storage.files import human_bytes

# What reading files may take: several times what their values take, and far more time than any needs.
MEMORY_FACTOR, CPU_S, CPU_S_PER_BYTE = 4, 30, 5e-7
PR_SET_PDEATHSIG = 1  # of Linux's prctl
CAN_FORK = sys.platform == "linux"
RAISE = "set SPIKETOK_READ_MEMORY=8GB, say, if you trust it"
REPORT = "copy it again, and tell us of the file if that does not help"
AGAIN = "the file is damaged: download or copy it again"


def bounds(size: int) -> dict[str, int]:
    """What :func:`isolated` lets a function take that reads files of so many bytes: ``memory_bytes`` and ``cpu_s``."""
    from spiketok.sources.formats.nwb.hdf5 import read_memory

    return {"memory_bytes": MEMORY_FACTOR * read_memory(size), "cpu_s": CPU_S + round(CPU_S_PER_BYTE * size)}


def isolated(function: Callable, *arguments: object, name: str, memory_bytes: int, cpu_s: int) -> object:
    """What ``function(*arguments)`` returns, or its error, from a child process.

    Args:
        function, arguments: what to run; its result and its errors must be such as can be pickled.
        name: the file's name, for the line about a child that died.
        memory_bytes: what the child may take beyond what this process has.
        cpu_s: seconds of processor time that the child may use.

    Raises:
        SourceError: the child crashed, or used more than it may.
    """
    in_worker = parent_process() is not None and threading.current_thread() is not threading.main_thread()
    if not CAN_FORK or in_worker:  # of dask: it may die itself, its pool runs the job again, alone
        return function(*arguments)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on threads: the child uses none of theirs
        child = os.fork()
    if child == 0:
        os.close(reading)
        _work(function, arguments, writing, memory_bytes, cpu_s)
    os.close(writing)
    try:
        with open(reading, "rb") as stream:
            answer = stream.read()
        _, status = os.waitpid(child, 0)
    except BaseException:  # interrupted: the child must not work on alone
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status) or not answer:
        message = f"{name}: {_how_it_died(status, cpu_s)}"
        raise SourceError(message)
    result, error = pickle.loads(answer)
    if isinstance(error, MemoryError):
        message = f"{name}: reading it takes more than {human_bytes(memory_bytes)} of memory: {RAISE}"
        raise SourceError(message) from error
    if error is not None:
        raise error
    return result


def _work(function: Callable, arguments: tuple, writing: int, memory_bytes: int, cpu_s: int) -> NoReturn:
    """The child's whole life; nothing of what this process has open is flushed or closed twice."""
    code = 1
    try:
        _bound(memory_bytes, cpu_s)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(lambda: pickle.dumps((function(*arguments), None)))
            error = future.exception()  # whatever it is: it is raised again in the parent
        with open(writing, "wb") as stream:
            stream.write(_as_bytes(error) if error else future.result())
        code = 0
    finally:
        os._exit(code)


def _as_bytes(error: BaseException) -> bytes:
    """An error as the parent gets it: what the machine did where that is behind it, for the chain stays here."""
    root = root_of(error)
    try:
        return pickle.dumps((None, root))
    except Exception:  # noqa: BLE001 - of a library whose errors cannot be sent
        return pickle.dumps((None, RuntimeError(f"{type(root).__name__}: {root}")))


def _bound(memory_bytes: int, cpu_s: int) -> None:
    import ctypes
    import faulthandler
    import resource

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed parent's child must not write on
    faulthandler.disable()  # a crash is reported by the parent in one line
    with contextlib.suppress(OSError, ValueError):  # a lower limit is set already
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory_bytes,) * 2)


def _address_space() -> int:
    """Bytes of this process's address space now."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _how_it_died(status: int, cpu_s: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"reading it ended the process with code {os.WEXITSTATUS(status)}, as no file should: {REPORT}"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        fact = f"reading it did not end within {cpu_s} s of processor time"
        return f"{fact}: it is damaged, or holds far more objects than a recording has: look inside, or {REPORT}"
    if number == signal.SIGKILL:
        return "reading it was killed from outside (out of memory?): ingest fewer files at once"
    if number == signal.SIGBUS:
        return (
            "it became shorter while it was read, or the disk that it lies on failed (SIGBUS): wait until it is "
            "written, or look at the system's log (dmesg)"
        )
    return f"reading it crashed the HDF5 library ({signal.Signals(number).name}), {AGAIN}"
