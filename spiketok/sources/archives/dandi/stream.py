"""An asset that is read where it is: byte ranges through remfile, only of what the reader touches.

remfile decides which ranges (it reads ahead where reads are in order, and keeps what came); every request goes through
:class:`_Ranges`, which has what remfile lacks: deadlines, ``Retry-After``, one renewal of a signed address that has
expired, a refusal of servers that ignore ranges, and a reason for the user when it gives up.

The bytes of such a file are never verified as a whole: its digest is the one that the archive announces.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from spiketok.errors import FetchError, require
from spiketok.sources.archives.dandi.api import Instance, client_modules, connect, instance_of
from spiketok.sources.archives.plans import Asset, Plan
from spiketok.sources.archives.web import TooSlowError, Trace, Watch, instrument, reason, wait_s, where

ATTEMPTS = 5  # for one range
PAUSE_S = 0.5  # before the second one, twice as long before each further one
RETRIED = (429, 500, 502, 503, 504)
EXPIRED = (401, 403)  # what a store answers to a signed address that was valid once
CACHE_BYTES = 256 * 2**20


class RemoteFile(io.RawIOBase):
    """A file behind an address, for h5py: reads, seeks, and knows why it failed.

    Attributes:
        name: its last part. size: bytes, as announced.
        failure: what the network did, as an error for the user; None while all is well.
    """

    def __init__(self, name: str, size: int, ranges: _Ranges) -> None:
        remfile = require("remfile", "remote", "reading a remote file")
        super().__init__()
        self.name, self.size, self._ranges, self._at = PurePosixPath(name).name, size, ranges, 0
        self._remote = remfile.File("", _size=size, _max_cache_size=CACHE_BYTES)
        self._remote.session.close()
        self._remote.session = ranges

    @property
    def failure(self) -> FetchError | None:
        return FetchError(self._ranges.fault) if self._ranges.fault else None

    @property
    def read_bytes(self) -> int:
        """Bytes that came over the network."""
        return self._ranges.read_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self.size - self._at))
        if count:
            self._remote.seek(self._at)
            with self._ranges:
                buffer[:count] = self._remote.read(count)
            self._at += count
        return count


@dataclass(frozen=True)
class _Refused:
    """Stands for an answer that remfile does not ask for again."""

    status_code: int = 410
    reason: str = "given up"
    content: bytes = b""


class _Ranges:
    """What remfile takes for a ``requests`` session; use around each read, so that a failure tells its own reason."""

    def __init__(self, session: Any, watch: Watch, size: int, renew: Callable[[], str]) -> None:
        self._session, self._watch, self._size, self._renew = session, watch, size, renew
        self._address = ""
        self.fault = ""
        self.read_bytes = 0

    def __enter__(self) -> None:
        """Begin a read."""

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self.fault:
            raise FetchError(self.fault) from error  # whatever remfile makes of it

    def get(self, _: str, headers: dict[str, str]) -> Any:
        """One range of the file; an answer that ends the read where it cannot be had."""
        try:
            return self._range(headers["Range"])
        except FetchError as error:
            self.fault = str(error)
            return _Refused()

    def _range(self, wanted: str) -> Any:
        import requests

        renewed, fault = False, ""
        for attempt in range(1, ATTEMPTS + 1):
            if not self._address:
                self._address = self._renew()
            host = urlsplit(self._address).netloc.rpartition("@")[2]
            asked = None
            try:
                with self._session.get(self._address, headers={"Range": wanted}, stream=True) as answer:
                    if answer.status_code in EXPIRED and not renewed:
                        self._address, renewed = "", True
                        continue
                    asked = answer.headers.get("Retry-After")
                    answer.raise_for_status()
                    self._check(answer, wanted, host)
                    self.read_bytes += len(answer.content)
                    return answer
            except TooSlowError as error:
                fault = f"{host}: {error}"
                break
            except requests.RequestException as error:
                status = error.response.status_code if error.response is not None else None
                fault = f"{host}: {reason(error)}"
                if status is not None and status not in RETRIED:
                    break
            finally:
                self._watch.paused()
            if attempt < ATTEMPTS:
                time.sleep(wait_s(asked) if asked is not None else PAUSE_S * 2 ** (attempt - 1))
        message = f"{fault} while it was read from afar: run the command again, or fetch it without --stream"
        raise FetchError(message)

    def _check(self, answer: Any, wanted: str, host: str) -> None:
        """Refuse an answer that is not the range of the announced file, before its body is read."""
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        if answer.status_code == 200 and (first, last) == (0, self._size - 1):
            return
        told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or told is None:
            message = f"{host} does not serve parts of files: fetch it without --stream"
            raise FetchError(message)
        if int(told[3]) != self._size:
            message = f"{host} has {told[3]} bytes of it, {self._size} were announced: fetch it without --stream"
            raise FetchError(message)
        if (int(told[1]), int(told[2])) != (first, last):
            message = f"{host} gives the bytes {told[1]} to {told[2]} for {first} to {last}: fetch it without --stream"
            raise FetchError(message)


def warm_up() -> None:
    """Import here what each child process would import anew."""
    client_modules()
    require("remfile", "remote", "reading a remote file")


@contextmanager
def open_remote(plan: Plan) -> Iterator[Callable[[Asset], RemoteFile]]:
    """Yield a function that opens assets of a plan where they are.

    Raises:
        FetchError: the archive cannot be reached; from the function, or from reading: an asset cannot be had.
    """
    requests = require("requests", "dandi", "reading a remote file")
    instance, trace = instance_of(plan), Trace()
    with (
        connect(instance, token=plan.needs_token, trace=trace) as (client, _),
        requests.Session() as session,
        Watch() as watch,
    ):
        instrument(session, watch, trace)
        session.headers["Accept-Encoding"] = "identity"

        def open_asset(asset: Asset) -> RemoteFile:
            watch.done()
            return RemoteFile(
                asset.path,
                asset.size,
                _Ranges(session, watch, asset.size, lambda: _address_of(client, instance, asset)),
            )

        yield open_asset


def _address_of(client: Any, instance: Instance, asset: Asset) -> str:
    """Where the archive says that an asset is now; its token goes to the archive alone."""
    import requests

    url = client.get_url(f"/assets/{asset.asset_id}/download/")
    try:
        answer = client.session.get(url, allow_redirects=False)
        answer.raise_for_status()
    except (requests.RequestException, TooSlowError) as error:
        message = f"{instance.host}: {reason(error)}"
        raise FetchError(message) from error
    target = urljoin(url, answer.headers.get("Location", ""))
    if not answer.is_redirect or urlsplit(target).scheme not in ("http", "https"):
        message = f"{where(url)} does not say where the file lies (HTTP {answer.status_code})"
        raise FetchError(message)
    return target
