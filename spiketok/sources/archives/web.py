"""What every download shares: errors in a few words, waits that end, and a trace of what was tried.

A server may hold a connection open for ever: one that brings a byte now and then meets no read timeout. So a thread
watches all downloads, and shuts a connection that brought no piece of its file for ``PROGRESS_S``; to the client that
is a broken connection, from which it goes on where it was. The third time the file is given up.

A request that nobody answers is asked again like one that a busy server refuses, and given up the third time; where
several in a row had no answer, the server is taken for gone, so that a long list of requests ends too.
``SPIKETOK_NETWORK_TIMEOUT`` (seconds) sets how long one waits for an answer.
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
from spiketok.storage.remote import network_timeout_s

_ANSWER_S = network_timeout_s() or 60.0
API_TIMEOUT_S = (min(10.0, _ANSWER_S), _ANSWER_S)  # to connect, between two pieces of an answer
HUNG_ATTEMPTS, HUNG_PAUSE_S = 3, 1.0  # of one request without an answer, and before it is asked again
MOST_HUNG = 6  # requests of one command without an answer, one after the other: then none is asked any more
MAX_RETRY_AFTER_S = 60  # a server may ask for a week
PIECE_BYTES = 256 * 2**10  # what is read at once, and so what a cut connection loses at most
PROGRESS_S = 2 * _ANSWER_S  # a connection that brings no piece in so long (120 s: 2.2 kB/s) is broken off
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
        return f"no answer within {API_TIMEOUT_S[1]:g} s"
    if isinstance(error, requests.JSONDecodeError):
        return "an answer that is not JSON"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke"
    if _timed_out(error):
        return f"an answer that stopped for {API_TIMEOUT_S[1]:g} s"
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
        self._hung = 0
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
            self._hung = 0
            broken = connection.broken
        if broken >= MOST_BROKEN:
            response.close()
            message = f"too slow: less than {PIECE_BYTES // 1024} kB in {PROGRESS_S:g} s, {broken} times"
            raise TooSlowError(message)

    def hung(self) -> int:
        """A request of any thread had no answer; how many by now, one after the other."""
        with self._lock:
            self._hung += 1
            return self._hung

    def is_gone(self) -> bool:
        """Whether so many requests had no answer that the server is taken for gone."""
        with self._lock:
            return self._hung >= MOST_HUNG

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


def _timed_out(error: Exception) -> bool:
    """Whether nobody answered, or an answer stopped in its middle: that one is no Timeout to ``requests``."""
    import requests
    from urllib3.exceptions import TimeoutError as Urllib3Timeout

    return isinstance(error, requests.Timeout) or any(isinstance(cause, Urllib3Timeout) for cause in error.args)


def instrument(session: Any, watch: Watch, trace: Trace, stop: threading.Event | None = None) -> None:
    """Put deadlines, the watch and the trace into a ``requests`` session."""
    import requests

    plain = session.request

    def request(method: str, url: str, **options: Any) -> Any:
        options["timeout"] = API_TIMEOUT_S  # one for all: the client has its own for files
        for attempt in range(1, HUNG_ATTEMPTS + 1):
            if stop is not None and stop.is_set():
                message = "interrupted"
                raise StoppedError(message)
            if watch.is_gone():
                message = f"no answer to {MOST_HUNG} requests in a row"
                raise TooSlowError(message)
            try:
                response = plain(method, url, **options)
            except requests.RequestException as error:
                watch.paused()
                trace.add(f"{method.upper()} {where(url)}: {reason(error)}")
                if not _timed_out(error):
                    raise
                if watch.hung() >= MOST_HUNG or attempt == HUNG_ATTEMPTS:
                    message = f"{reason(error)}, {attempt} times"
                    raise TooSlowError(message) from error
                (stop.wait if stop is not None else time.sleep)(HUNG_PAUSE_S * attempt)
                continue
            if not options.get("stream"):
                watch.done()
            return response

    session.request = request
    session.hooks["response"] += [cap_retry_after, trace.answered, watch.answered]
