"""Run independent named jobs, in this process or in several; one job's failure never stops the others.

Zero workers means in this process, one after the other: debuggable, and without the cost of starting workers.
Results do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from spiketok.errors import SpiketokError


@dataclass(frozen=True)
class Job:
    """A function of arguments that can be pickled, under the name that a person knows the item by."""

    name: str
    function: Callable
    arguments: tuple


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or its error."""

    name: str
    result: object = None
    error: BaseException | None = None

    @property
    def message(self) -> str:
        """The error in one line."""
        return "" if self.error is None else describe(self.error)


def describe(error: BaseException) -> str:
    """One line for a person: our own errors speak for themselves, others are named by their type."""
    if isinstance(error, SpiketokError):
        return str(error)
    if isinstance(error, BrokenProcessPool):
        return "its worker process was killed (out of memory?): run it again, with fewer workers"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(f"internal error, {type(error).__name__}: {error} (--debug shows where)".split())


def run_jobs(jobs: Sequence[Job], workers: int = 0) -> Iterator[Outcome]:
    """Run jobs and yield each one's outcome as it ends.

    Args:
        jobs: what to run.
        workers: processes to run them in; 0 or 1 runs them in this process.
    """
    if workers > 1 and len(jobs) > 1:
        executor: Executor = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    else:
        executor = ThreadPoolExecutor(1)  # one thread of this process: a future already carries any error
    with executor:
        names: dict[Future, str] = {executor.submit(job.function, *job.arguments): job.name for job in jobs}
        try:
            for future in as_completed(names):
                error = future.exception()
                yield Outcome(names[future], None if error else future.result(), error)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
