"""What every download shares: errors in a few words, waits that end, and a trace of what was tried.

A server may hold a connection open for ever: one that brings a byte now and then meets no read timeout. So a thread
watches all downloads, and shuts a connection that brought no piece of its file for ``PROGRESS_S``; to the client that
is a broken connection, from which it goes on where it was. The third time the file is given up.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from spiketok.errors import FetchError

API_TIMEOUT_S = (10.0, 60.0)  # to connect, between two pieces of an answer
MAX_RETRY_AFTER_S = 60  # a server may ask for a week
PIECE_BYTES = 256 * 2**10  # what is read at once, and so what a cut connection loses at most
PROGRESS_S = 120.0  # a connection that brings no piece in so long (2.2 kB/s) is broken off
MOST_BROKEN = 3
TRACE_LINES = 60  # of one file; the last ones are kept


class TooSlowError(FetchError):
    """A server that brings next to nothing, connection after connection."""


class StoppedError(Exception):
    """The user interrupted; a thread that meets it ends."""


# ---- words ----------------------------------------------------------------------------------------------------------


def reason(error: Exception) -> str:
    """What went wrong in a request, in a few words; no address, no header, no body."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return f"HTTP {status} {printable(error.response.reason or '')}".strip()
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {API_TIMEOUT_S[0]:g} s"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.JSONDecodeError):
        return "an answer that is not JSON"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return one_line(error)


def one_line(error: object) -> str:
    """A message as one printable line, without the queries of addresses (they carry signatures)."""
    text = re.sub(r"[?][^\s'\")]+", "", printable(str(error)))
    return text if len(text) <= 300 else text[:297] + "..."


def printable(text: object) -> str:
    """Text from a server on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


# ---- waits ----------------------------------------------------------------------------------------------------------


def cap_retry_after(response: Any, **_: object) -> None:
    """Make what a server asks for, seconds or a date, a number of seconds that ends."""
    wait = response.headers.get("Retry-After")
    if wait is not None:
        response.headers["Retry-After"] = str(wait_s(wait))


def wait_s(retry_after: str) -> int:
    """The seconds that ``Retry-After`` asks for, from 0 to ``MAX_RETRY_AFTER_S``; the most where it is unreadable."""
    if retry_after.isdigit():
        return min(int(retry_after), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(retry_after)
    except (ValueError, TypeError):
        return MAX_RETRY_AFTER_S
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return round(min(max((until - datetime.now(UTC)).total_seconds(), 0), MAX_RETRY_AFTER_S))


@dataclass
class _Connection:
    """What a thread is reading from, since when it waits, and how often it was broken off."""

    response: Any = None
    since: float = field(default_factory=time.monotonic)
    broken: int = 0


class Watch:
    """A deadline on progress for every thread that downloads; use as a context manager."""

    def __init__(self) -> None:
        self._open: dict[int, _Connection] = {}
        self._lock, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._look, name="spiketok-watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def answered(self, response: Any, **_: object) -> None:
        """This thread begins to read an answer.

        Raises:
            TooSlowError: its connections brought next to nothing ``MOST_BROKEN`` times.
        """
        with self._lock:
            connection = self._open.setdefault(threading.get_ident(), _Connection())
            connection.response, connection.since = response, time.monotonic()
            broken = connection.broken
        if broken >= MOST_BROKEN:
            response.close()
            message = f"too slow: less than {PIECE_BYTES // 1024} kB in {PROGRESS_S:g} s, {broken} times"
            raise TooSlowError(message)

    def moved(self) -> None:
        """A piece came to this thread."""
        with self._lock:
            connection = self._open.get(threading.get_ident())
            if connection is not None:
                connection.since, connection.broken = time.monotonic(), 0

    def done(self) -> None:
        """This thread has read its answer, or starts anew."""
        with self._lock:
            self._open.pop(threading.get_ident(), None)

    def paused(self) -> None:
        """This thread waits for nothing now, and its count goes on."""
        with self._lock:
            connection = self._open.get(threading.get_ident())
            if connection is not None:
                connection.response = None

    def _look(self) -> None:
        while not self._end.wait(min(PROGRESS_S / 4, 1.0)):
            with self._lock:
                now = time.monotonic()
                late = [c for c in self._open.values() if c.response is not None and now - c.since > PROGRESS_S]
                for connection in late:
                    connection.broken += 1
                    _break_off(connection.response)
                    connection.response = None


def _break_off(response: Any) -> None:
    """Shut the connection under a thread that reads from it: that thread sees it end."""
    with (
        suppress(OSError, ValueError, AttributeError),  # it has just ended by itself
        socket.socket(fileno=os.dup(response.raw.fileno())) as connection,
    ):
        connection.shutdown(socket.SHUT_RDWR)


# ---- what was tried -------------------------------------------------------------------------------------------------


class Trace:
    """What was tried for the file that a thread is at, in order and with times; no query, no header, no token."""

    def __init__(self) -> None:
        self._here = threading.local()

    @contextmanager
    def of_one(self) -> Iterator[list[str]]:
        """Collect the lines of this thread for as long as the block lasts."""
        self._here.lines = lines = []
        try:
            yield lines
        finally:
            self._here.lines = None

    def add(self, text: object) -> None:
        lines = getattr(self._here, "lines", None)
        if lines is not None:
            lines.append(f"{datetime.now():%H:%M:%S} {one_line(text)}")
            del lines[:-TRACE_LINES]

    def answered(self, response: Any, **_: object) -> None:
        """A hook for ``requests``: one line an answer."""
        asked, wanted = response.request, response.request.headers.get("Range")
        again = response.headers.get("Retry-After") if response.status_code >= 400 else None
        self.add(
            f"{asked.method} {where(asked.url)}{f' {wanted}' if wanted else ''} -> {response.status_code}"
            f"{f', to be asked again after {again} s' if again else ''}"
        )


def where(url: str) -> str:
    """Host and path of an address."""
    parts = urlsplit(url)
    return printable(parts.netloc.rpartition("@")[2] + parts.path)


def instrument(session: Any, watch: Watch, trace: Trace, stop: threading.Event | None = None) -> None:
    """Put deadlines, the watch and the trace into a ``requests`` session."""
    import requests

    plain = session.request

    def request(method: str, url: str, **options: Any) -> Any:
        if stop is not None and stop.is_set():
            message = "interrupted"
            raise StoppedError(message)
        options.setdefault("timeout", API_TIMEOUT_S)
        try:
            response = plain(method, url, **options)
        except requests.RequestException as error:
            watch.paused()
            trace.add(f"{method.upper()} {where(url)}: {reason(error)}")
            raise
        if not options.get("stream"):
            watch.done()
        return response

    session.request = request
    session.hooks["response"] += [cap_retry_after, trace.answered, watch.answered]
