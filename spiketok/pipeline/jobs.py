"""Run independent named jobs, in this process, in several, or on a dask cluster; one job's failure never stops others.

    run_jobs(jobs)                          one after the other in this process: debuggable, nothing to start
    run_jobs(jobs, "processes:4")           four worker processes on this machine
    run_jobs(jobs, "dask:local")            a dask cluster on this machine
    run_jobs(jobs, "dask:tcp://host:8786")  the dask cluster of that scheduler

Results do not depend on where the jobs run. A job whose worker dies is run again: jobs write whole artefacts or none
and do not make again what is finished, so that running one twice does no harm.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Literal, TypeVar

from spiketok import stopping
from spiketok.errors import DataError, SpiketokError, UsageError, require
from spiketok.storage.causes import machine_fault
from spiketok.storage.files import human_bytes

T = TypeVar("T")

FORMS = "use processes:N, dask:local, dask:local:N or dask:SCHEDULER_URL, as dask:tcp://host:8786"
CONNECT_S = 10.0  # a scheduler that does not answer for so long is not there


@dataclass(frozen=True)
class Job:
    """A function of arguments that can be pickled, under the name that a person knows the item by.

    ``nbytes`` is the memory that it plans to take at its peak; 0 where that is not known.
    """

    name: str
    function: Callable
    arguments: tuple
    nbytes: int = 0


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
    """One line for a person: our own errors speak for themselves, others are named by their type.

    Where the machine is the cause, it alone is told: what was met because of it would lead astray.
    """
    fault = machine_fault(error)
    if fault:
        return fault
    if isinstance(error, SpiketokError):
        return str(error)
    if _worker_died(error):
        return "its worker process was killed, and again when tried anew (out of memory?): run it with fewer workers"
    if isinstance(error, CancelledError):
        return "the dask scheduler was lost before it ended: run it again"
    return " ".join(f"internal error, {type(error).__name__}: {error} (--debug shows where)".split())


def _worker_died(error: BaseException | None) -> bool:
    """Whether a job has no result because its worker process ended; dask's error is told without importing dask."""
    return isinstance(error, BrokenProcessPool) or type(error).__name__ == "KilledWorker"


# ---- where jobs run -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where jobs run: ``workers`` 0 means as many as there are cores."""

    kind: Literal["here", "processes", "dask"]
    workers: int = 0
    address: str = ""


HERE = Place("here")


def parse_executor(text: str | int) -> Place:
    """What ``--executor`` means; a number is that many processes, of which 0 and 1 are this one.

    Raises:
        UsageError: it has none of the forms.

    >>> parse_executor("processes:4")
    Place(kind='processes', workers=4, address='')
    """
    if isinstance(text, int):
        return Place("processes", text) if text > 1 else HERE
    if not text:
        return HERE
    if match := re.fullmatch(r"processes:([1-9]\d*)", text):
        return parse_executor(int(match[1]))
    if match := re.fullmatch(r"dask:local(?::([1-9]\d*))?", text):
        return Place("dask", int(match[1] or 0))
    if match := re.fullmatch(r"dask:((?:tcp|tls|ws|wss|ucx)://[^\s/]+)/?", text):
        return Place("dask", address=match[1])
    message = f"executor '{text}' cannot be read: {FORMS}"
    raise UsageError(message)


def _open(place: Place) -> contextlib.AbstractContextManager[Executor]:
    if place.kind == "here":
        return _Here()
    if place.kind == "processes":
        return _Processes(place.workers, mp_context=get_context("spawn"), initializer=stopping.in_worker)
    require("distributed", "dask", "running jobs on dask")
    return _local_cluster(place.workers) if not place.address else _connected(place.address)


class _Here(Executor):
    """This thread, which runs a job when it is submitted: Ctrl-C ends it there, as a thread of its own would go on."""

    def submit(self, function: Callable, /, *arguments: object) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it is the outcome of the job
            future.set_exception(error)
        return future


class _Processes(ProcessPoolExecutor):
    """Processes whose jobs end where this one was asked to."""

    def submit(self, function: Callable, /, *arguments: object) -> Future:
        return super().submit(stopping.job, function, *arguments)

    def __exit__(self, *error: object) -> bool | None:
        if stopping.asked():
            stopping.end_workers()
        return super().__exit__(*error)


@contextlib.contextmanager
def _local_cluster(workers: int) -> Iterator[Executor]:
    """A dask cluster of processes on this machine, one thread and an equal share of the memory each, no dashboard."""
    import dask
    from distributed import Client, LocalCluster

    with (
        _quiet_dask(),
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(
            n_workers=workers or None,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # its HTTP server, which there is even so
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Executor]:
    """The dask cluster of a scheduler that runs already."""
    from distributed import Client

    with _quiet_dask():
        try:
            client = Client(address, timeout=CONNECT_S)
        except (OSError, ValueError) as error:  # ValueError: a kind of address that this dask does not know
            reason = " ".join(str(error).split())
            message = f"no dask scheduler at {address} ({reason}): check that it runs and that this machine reaches it"
            raise SpiketokError(message) from error
        with client:
            yield client.get_executor(pure=False)


@contextlib.contextmanager
def _quiet_dask() -> Iterator[None]:
    """Dask's loggers say in many lines what an outcome says in one."""
    loggers = [logging.getLogger(name) for name in ("distributed", *_dask_loggers())]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _dask_loggers() -> list[str]:
    return [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]


# ---- running --------------------------------------------------------------------------------------------------------


def share_of(items: Sequence[T], part: tuple[int, int] | None) -> list[T]:
    """The items of one of several parts, which together hold each item once; all without a part.

    Args:
        items: in an order that is the same for every part, and does not change when one is done.
        part: I and N, of the I-th of N.

    >>> share_of("abcde", (2, 3))
    ['b', 'e']
    """
    return list(items) if part is None else list(items[part[0] - 1 :: part[1]])


def run_jobs(jobs: Sequence[Job], executor: str | int = "", *, memory_bytes: int | None = None) -> Iterator[Outcome]:
    """Run jobs and yield each one's outcome as it ends.

    A job that was with a worker when it died is run again, at the end and alone, since another job may have been the
    cause; it fails if its worker dies then too.

    Args:
        jobs: what to run.
        executor: where, in the words of ``--executor`` (see :func:`parse_executor`).
        memory_bytes: no more jobs run at once than plan to take this together; one that alone plans to take more fails.
    """
    place = parse_executor(executor)
    if place.kind == "processes":
        workers = min(place.workers, len(jobs))
        place = replace(place, workers=workers) if workers > 1 else HERE
    waiting: deque[Job] = deque()
    for job in jobs:
        if memory_bytes is not None and job.nbytes > memory_bytes:
            need, cap = human_bytes(job.nbytes), human_bytes(memory_bytes)
            message = f"plans to take {need} of memory, --max-memory is {cap}: raise it"
            yield Outcome(job.name, None, DataError(message))
        else:
            waiting.append(job)
    # A process pool that breaks takes with it all that it was given, so it is given no more than it can run at once.
    # Dask is given all: it adapts the number of its workers to what is queued.
    at_once = None if place.kind == "dask" else place.workers or 1
    suspects: list[Job] = []
    while waiting:
        with _open(place) as pool:
            yield from _run_in(pool, waiting, suspects, at_once, memory_bytes)
    for job in suspects:
        with _open(replace(place, workers=1)) as pool:
            yield _outcome(job, pool.submit(job.function, *job.arguments))


def _run_in(
    pool: Executor, waiting: deque[Job], suspects: list[Job], at_once: int | None, memory_bytes: int | None
) -> Iterator[Outcome]:
    """Run the waiting jobs until all are done or the pool broke; those that were with a dead worker become suspects."""
    running: dict[Future, Job] = {}
    broken = False

    def has_room() -> bool:
        if memory_bytes is not None and sum(j.nbytes for j in (*running.values(), waiting[0])) > memory_bytes:
            return False
        return at_once is None or len(running) < at_once

    try:
        while True:
            while waiting and not broken and has_room():
                job = waiting.popleft()
                try:
                    running[pool.submit(job.function, *job.arguments)] = job
                except BrokenProcessPool:
                    waiting.appendleft(job)
                    broken = True
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                outcome = _outcome(job, future)
                if _worker_died(outcome.error):
                    suspects.append(job)
                    broken = isinstance(outcome.error, BrokenProcessPool)
                else:
                    yield outcome
    finally:
        for future in running:
            future.cancel()


def _outcome(job: Job, future: Future) -> Outcome:
    """What became of a job, once it is known."""
    try:
        error = future.exception()
    except CancelledError as cancelled:
        error = cancelled
    return Outcome(job.name, None if error else future.result(), error)
