"""Ctrl-C, and SIGTERM as a scheduler sends it: the first one ends a command in one line, a second one at once.

What is written is whole or not there, so a command may end anywhere; a training alone takes its next good moment
(:func:`later`), saves there, and says what it saved. Python's KeyboardInterrupt is what is raised (:class:`Stopped` is
one), since libraries let it through. It can be lost all the same, in a destructor or in a callback of C: then it is
sent again; and an error that it was turned into is no error, since somebody asked for the end.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

INTERRUPTED = 130  # the exit code, as a shell has it for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_S = 0.3  # within it a second signal is the first one, sent to this process by its parent as well
QUIET_S = 1.5  # a good moment that comes sooner is waited for without a word
AGAIN_S = 0.05


class Stopped(KeyboardInterrupt):
    """Somebody asked this process to end. Its text, if any, is what was saved."""


class _State:
    """Of this process: ``asked`` is the signal's name, ``at`` when it came; ``depth`` of blocks that take it later."""

    asked, at, depth = "", 0.0, 0
    saved = ""  # what a block left, for the one line
    told = over = False
    code = 0  # of a command that is over
    working = True  # of a worker process: whether it has a job


def asked() -> bool:
    """Whether this process was asked to end."""
    return bool(_State.asked)


@contextlib.contextmanager
def stoppable(*, program: bool = False) -> Iterator[None]:
    """The whole of a command: a signal ends the block, says one line, and the exit code is :data:`INTERRUPTED`.

    Args:
        program: the process ends with the block. Of one that goes on, as a test or a notebook that calls the command,
            signals are given back to who had them.
    """
    before = _listen()
    if program:
        atexit.register(_ignore)
    try:
        yield
    except BaseException as end:
        _State.code = INTERRUPTED if _State.asked else end.code if isinstance(end, SystemExit) else 1
        if not _State.asked:
            raise
        _tell()
        raise SystemExit(INTERRUPTED) from None
    finally:
        if program:
            _State.over = True  # what is left is Python's own end, which a signal may cut off
        elif _on_signal not in before.values():
            _give_back(before)
            _State.told, _State.saved = False, ""


def _give_back(before: Mapping[signal.Signals, object]) -> None:
    """Signals to who had them; that one came is forgotten."""
    for number, handler in before.items():
        signal.signal(number, handler)
    _State.asked = ""


def _ignore() -> None:
    """At the very end Python gives signals back to the system, which would end the process by them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def later() -> Iterator[Callable[[], bool]]:
    """In this block a signal raises nothing: the block looks for it, and ends by :func:`stop` at a good moment.

    Where nobody listens (in a program or a notebook), this does for as long as the block lasts.

    Yields:
        :func:`asked`.

    Raises:
        Stopped: at the end of the block, where somebody asked and the block had no such moment.
    """
    own = threading.current_thread() is threading.main_thread() and _is_default()
    before = _listen() if own else {}
    _State.depth += 1
    try:
        yield asked
        if _State.asked:
            raise Stopped
    finally:
        _State.depth -= 1
        if own:
            _give_back(before)


def stop(saved: str = "") -> None:
    """End here, as was asked.

    Args:
        saved: what stands on the disk, as ``"linear-1f00 is saved at step 3 of 10"``; said in the one line.

    Raises:
        Stopped: always.
    """
    _State.saved = saved
    raise Stopped(saved)


def in_worker() -> None:
    """Of a process that works for another one: Ctrl-C is that one's, which ends this one's job by SIGTERM."""
    _listen()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _State.working = False


def job(function: Callable[..., T], *arguments: object) -> T:
    """A job in a worker process, which SIGTERM ends; without one the process waits for the word of its parent."""
    _State.working = True
    try:
        return function(*arguments)
    finally:
        _State.working = False


def end_workers() -> None:
    """End the jobs of all processes that this one started by multiprocessing."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing is not None else ():
        child.terminate()


# ---- signals --------------------------------------------------------------------------------------------------------


def _is_default() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _listen() -> dict[signal.Signals, object]:
    """Take the signals from now on; returns who had them. Not where somebody has them ignored, as ``nohup`` does."""
    before = {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _on_signal)
    if sys.unraisablehook is not _lost:
        _State.hook, sys.unraisablehook = sys.unraisablehook, _lost
    return before


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _State.over or (_State.asked and time.monotonic() > _State.at + SAME_S):
        _at_once()
    if _State.asked or not _State.working:
        return
    _State.asked, _State.at = signal.Signals(number).name, time.monotonic()
    if not _State.depth:
        raise Stopped
    waiting = threading.Timer(QUIET_S, _say_waiting)
    waiting.daemon = True
    waiting.start()


def _at_once() -> None:
    """The end of this process and of those that work for it; what was whole stays whole."""
    multiprocessing = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing is not None else ():
        child.kill()
    over = _State.over and isinstance(_State.code, int | None)
    os._exit((_State.code or 0) if over else INTERRUPTED)


def _lost(unraisable: object) -> None:
    """A signal that came in a destructor or a callback, where nothing can be raised, comes again."""
    if not isinstance(unraisable.exc_value, Stopped):
        _State.hook(unraisable)
        return
    number, _State.asked = getattr(signal, _State.asked), ""
    again = threading.Timer(AGAIN_S, _send, [number])
    again.daemon = True
    again.start()


def _send(number: int) -> None:
    """A signal to this process's first thread, which wakes where it waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, number)
    else:
        signal.raise_signal(number)


# ---- what is said ---------------------------------------------------------------------------------------------------


def _say_waiting() -> None:
    if _State.depth and _State.asked:
        _say("stopping at the end of this step; once more stops at once")


def _tell() -> None:
    """The one line of a command that was stopped; none of a process that only helps another one."""
    if not _State.told and os.environ.get("LOCAL_RANK", "0") == "0":
        how = "by Ctrl-C" if _State.asked == "SIGINT" else f"by {_State.asked}"
        kept = _State.saved or "what was finished is kept"
        _say(f"stopped {how}: {kept}; to go on: {go_on(sys.argv[1:])}")
    _State.told = True


def go_on(words: list[str]) -> str:
    """The command that goes on where one with these words was stopped: one that began anew would do so again.

    >>> go_on(["train", "--restart", "--set", "optim.steps=100"])
    'spiketok train --set optim.steps=100'
    """
    return shlex.join(["spiketok", *(word for word in words if word not in ("--restart", "--debug"))])


def _say(line: str) -> None:
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
        print(shown, file=sys.stderr, flush=True)
