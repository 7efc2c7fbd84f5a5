"""Bytes of a file that has an address, over as many connections as it takes, each from where the one before ended.

Where a digest is announced it tells whether the pieces are of one file. Where none is, a part is only continued if the
server gave it a validator (a strong ETag, or the time of the last change) and still does: ``If-Range`` asks for it,
and it is compared again in the answer.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiketok.errors import require
from spiketok.sources.archives.base import Bring, Job
from spiketok.sources.archives.plans import Asset
from spiketok.sources.archives.web import PIECE_BYTES, StoppedError, Trace, Watch, instrument, reason, wait_s
from spiketok.storage.files import atomic_file, writing

ATTEMPTS = 6  # connections for one file without a byte more
PAUSE_S = 2.0  # before the second one, twice as long before each further one
RETRIED = (429, 500, 502, 503, 504)


@contextmanager
def open_session(trace: Trace, stop: threading.Event | None = None) -> Iterator[tuple[Any, Watch]]:
    """A ``requests`` session with deadlines, and the watch that sets them."""
    requests = require("requests", "dandi", "downloading")
    with requests.Session() as session, Watch() as watch:
        instrument(session, watch, trace, stop)
        session.headers["Accept-Encoding"] = "identity"  # a part's size must count the file's bytes
        yield session, watch


@contextmanager
def by_ranges(trace: Trace, stop: threading.Event) -> Iterator[Bring]:
    """Brings any asset that has a ``url``."""
    with open_session(trace, stop) as (session, watch):

        def bring(job: Job) -> None:
            watch.done()
            try:
                _bring(session, watch, job)
            except BaseException:
                if not _goes_on(job.asset, job.part):
                    discard(job.part)
                raise

        yield bring


def discard(part: Path) -> None:
    """Remove a part and what is known of it."""
    part.unlink(missing_ok=True)
    _validator_of(part).unlink(missing_ok=True)


def pause(response: Any, attempt: int, wait: Callable[[float], object] = time.sleep) -> None:
    """Wait as long as the server asks, else longer and longer."""
    asked = response.headers.get("Retry-After") if response is not None else None
    wait(wait_s(asked) if asked is not None else PAUSE_S * 2 ** (attempt - 1))


def _bring(session: Any, watch: Watch, job: Job) -> None:
    """Bring the missing end of a file to its part.

    Raises:
        requests.RequestException: ``ATTEMPTS`` connections in turn brought nothing; the part stays.
    """
    import requests

    if not _goes_on(job.asset, job.part):
        discard(job.part)
    fruitless, size = 0, job.asset.size
    while size is None or _size(job.part) < size:
        have = _size(job.part)
        try:
            if _read_on(session, watch, job, have):
                return
            error = requests.exceptions.ChunkedEncodingError("the connection broke")
        except requests.RequestException as failure:
            error = failure
            status = error.response.status_code if error.response is not None else None
            if status is not None and status not in RETRIED:
                raise
            if isinstance(error, ValueError) and not isinstance(error, requests.ConnectionError):
                raise  # an address that cannot be asked
        finally:
            watch.paused()
        fruitless = 0 if _size(job.part) > have else fruitless + 1
        job.trace.add(f"{reason(error)}; {_size(job.part)} of {'?' if size is None else size} bytes are here")
        if fruitless == ATTEMPTS:
            raise error
        pause(error.response, max(fruitless, 1), job.stop.wait)


def _read_on(session: Any, watch: Watch, job: Job, have: int) -> bool:
    """Read from byte ``have`` on, as far as one connection brings it; whether that is all that the server has."""
    have = have if _goes_on(job.asset, job.part) else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and not _vouched(job.asset):
        headers["If-Range"] = _validator_of(job.part).read_text()
    with session.get(job.asset.url, headers=headers, stream=True) as answer:
        if answer.status_code == 416:  # no more than is here: the digest, or the server's size, will tell
            return _vouched(job.asset) or _ends_at(answer, job.part, have)
        answer.raise_for_status()
        resumed = have and answer.status_code == 206 and _begins_at(answer, have)
        if not _vouched(job.asset):
            if resumed and _validator(answer) != headers["If-Range"]:
                discard(job.part)  # another file stands there now
                return False
            if not resumed:
                _note_validator(job.part, _validator(answer))
        done = have if resumed else 0
        length = answer.headers.get("Content-Length", "")
        total = job.asset.size or (done + int(length) if length.isdigit() else 0)
        with writing(job.part, total or None), open(job.part, "ab" if resumed else "wb") as part:
            for piece in answer.iter_content(PIECE_BYTES):
                part.write(piece)
                done += len(piece)
                watch.moved()
                job.tell(done, total)
                if job.stop.is_set():
                    message = "interrupted"
                    raise StoppedError(message)
                if job.asset.size is not None and done > job.asset.size:
                    return True  # more came than announced: the digest will tell
    return done >= total


def _begins_at(answer: Any, have: int) -> bool:
    return bool(re.match(rf"bytes {have}-", answer.headers.get("Content-Range", "")))


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


# ---- files without an announced digest ------------------------------------------------------------------------------


def _vouched(asset: Asset) -> bool:
    return bool(asset.size is not None and (asset.sha256 or asset.md5))


def _goes_on(asset: Asset, part: Path) -> bool:
    """Whether a part can be continued: its digest, or the server, would tell if the file were another one."""
    return _vouched(asset) or _validator_of(part).is_file()


def _validator_of(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _validator(answer: Any) -> str:
    """What the server calls this very file: a strong ETag or the time of its last change; empty if it says neither."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")


def _note_validator(part: Path, validator: str) -> None:
    """Before the first byte of a file: a part never stands beside the validator of another."""
    discard(part)
    if validator:
        with atomic_file(_validator_of(part)) as path:
            path.write_text(validator)


def _ends_at(answer: Any, part: Path, have: int) -> bool:
    """Whether the server's file has just the bytes that are here; else they are of another one, and go."""
    if answer.headers.get("Content-Range") == f"bytes */{have}":
        return True
    discard(part)
    return False
