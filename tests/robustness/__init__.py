"""What a hostile world hands to the commands: cases by kind, each met or not, each seen through the command line alone.

``python -m tests.robustness`` runs them and prints how many are met; ``--package`` runs the commands of another
checkout, so that a table tells before from after. A kind is a file here with ``cases(count)``: a list of
:class:`Case`. A case makes its files in an empty folder and runs commands; it is met unless it raises AssertionError.
Nothing here runs in the default suite: what must hold on every change is a test beside the code that it holds.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LONGEST_S, MOST_BYTES = 60, 2 * 10**9  # no command may take more, whatever it is given
PATIENCE_S = 3 * LONGEST_S  # then it hangs
LOCKING = "HDF5_USE_FILE_LOCKING"
GIVEN = os.environ.get(LOCKING)  # to commands; not what the process that runs the cases sets for itself


@dataclass(frozen=True)
class Outcome:
    """How a command ended, with what it printed, the seconds it took and the most memory that it held."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int

    @property
    def text(self) -> str:
        return self.out + self.err

    def __str__(self) -> str:
        tail = "\n".join((self.out[-600:] + self.err[-600:]).splitlines()[-8:])
        return f"spiketok {' '.join(self.words)}: code {self.code}, {self.seconds:.1f} s\n{tail}"

    def sane(self) -> Outcome:
        """It ended by itself, without a traceback, within the bounds of memory and time."""
        assert self.code in (0, 1, 2), f"ended with code {self.code}: {self}"
        assert "Traceback" not in self.text and "internal error" not in self.text, str(self)
        assert self.seconds <= LONGEST_S, f"took {self.seconds:.0f} s: {self}"
        assert self.peak_bytes <= MOST_BYTES, f"held {self.peak_bytes / 1e9:.1f} GB: {self}"
        return self

    def succeeds(self, *words: str) -> Outcome:
        """It ended with 0 and printed each of the words."""
        self.sane()
        assert self.code == 0, str(self)
        return self._said(words)

    def refuses(self, *words: str, code: int = 1) -> Outcome:
        """It ended with the code and printed each of the words."""
        self.sane()
        assert self.code == code, f"expected code {code}: {self}"
        return self._said(words)

    def _said(self, words: tuple[str, ...]) -> Outcome:
        flat = " ".join(self.text.split())  # lines of a terminal may break anywhere
        missing = [word for word in words if word not in flat]
        assert not missing, f"not said: {missing}: {self}"
        return self


@dataclass
class Cli:
    """The commands of one checkout, run as processes of their own. Every outcome is kept in ``ran``."""

    package: Path = REPOSITORY
    python: str = sys.executable
    ran: list[Outcome] = field(default_factory=list)

    def start(self, *words: object, root: Path, env: Mapping[str, str] | None = None, **popen: object):
        """A command that runs on: a :class:`subprocess.Popen` with its own process group and piped streams."""
        environment = os.environ | {"SPIKETOK_ROOT": str(root), "PYTHONPATH": str(self.package), "COLUMNS": "200"}
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = "1"
        environment.pop(LOCKING, None)
        environment |= {} if GIVEN is None else {LOCKING: GIVEN}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True} | popen
        command = [self.python, "-m", "spiketok", *map(str, words)]
        return subprocess.Popen(command, env=environment | (env or {}), text=True, cwd=root, **pipes)

    def __call__(self, *words: object, root: Path, env: Mapping[str, str] | None = None, **popen: object) -> Outcome:
        """Run a command to its end, or kill it after PATIENCE_S.

        Args:
            words: what follows ``spiketok``.
            root: the workspace, and the folder in which it runs.
            env: further variables of its environment.
            popen: further arguments of :class:`subprocess.Popen`.
        """
        before = time.monotonic()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(*words, root=root, env=env, stdout=out, stderr=err, **popen)
            usage = _wait(process)
            out.seek(0), err.seek(0)
            seconds = time.monotonic() - before
            words = tuple(map(str, words))
            outcome = Outcome(words, process.returncode, out.read(), err.read(), seconds, usage.ru_maxrss * 1024)
        self.ran.append(outcome)
        return outcome


def _wait(process: subprocess.Popen) -> resource.struct_rusage:
    """The end of a process, and what it and its children used: of the largest one, in kB."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        child, status, usage = os.wait4(process.pid, os.WNOHANG)
        if child:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.01)


@dataclass(frozen=True)
class Case:
    """One thing that may happen. ``run(cli, folder)`` gets an empty folder; AssertionError: it is not met."""

    name: str
    run: Callable[[Cli, Path], None]
