"""Places behind a URL, as ``s3://bucket/folder``: what raw files and the store need of them, through fsspec.

What is unusual: nothing is read or written there piece by piece. A recording or a session is copied whole to a
temporary folder and read there, so that every byte crosses the network once and the digest is of the very bytes that
are read; a session is made in a temporary folder and copied out, its attributes last.

Credentials and endpoints are the business of fsspec's file systems (for S3: the ``AWS_*`` variables, ``~/.aws``).
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from spiketok.errors import FetchError, UsageError, require
from spiketok.storage.causes import ALWAYS_TOLD
from spiketok.storage.files import human_bytes, scratch_folder, writing


def network_timeout_s() -> float | None:
    """How long a server may take to answer, as ``SPIKETOK_NETWORK_TIMEOUT`` says in seconds; None where it is not set.

    Raises:
        UsageError: it is no such number.
    """
    asked = os.environ.get("SPIKETOK_NETWORK_TIMEOUT", "")
    if not asked:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        message = f"SPIKETOK_NETWORK_TIMEOUT={asked}: must be a number of seconds above 0"
        raise UsageError(message)
    return seconds


def _patience(url: str) -> dict[str, object]:
    """What bounds the wait for S3: botocore's attempts multiply with those of s3fs, 5 times 5 of 15 s."""
    import fsspec

    if not url.startswith(("s3://", "s3a://")):
        return {}
    own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    asked = network_timeout_s()
    waits = {} if asked is None else {"read_timeout": asked, "connect_timeout": min(asked, 10.0)}
    return {"config_kwargs": {"retries": {"max_attempts": 1}} | waits | own}


def place(text: str | Path | RemotePath) -> Path | RemotePath:
    """A path on this machine, or a place behind a URL where the text is one.

    Raises:
        UsageError: a URL with a user, a password or a query: places are written into records and messages.

    >>> place("s3://bucket/raw/").name
    'raw'
    """
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    parts = urlsplit(text)
    if "@" in parts.netloc or (parts.query and parts.scheme in ("http", "https")):
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        message = (
            f"{shown} was given with a user, a password or a query, which would be kept in records: use 'spiketok "
            "fetch' for a signed address, and the variables of its file system for credentials"
        )
        raise UsageError(message)
    return RemotePath(text.rstrip("/"))


@contextlib.contextmanager
def local_copy(path: Path | RemotePath, folder: Path | None = None) -> Iterator[Path]:
    """A path to read from: the path itself, or a copy of what is behind the URL, for as long as the block lasts.

    Args:
        path: a file or folder.
        folder: where the copy is made; by default the system's folder for temporary files.

    Raises:
        FileNotFoundError: there is nothing behind the URL. FetchError: it cannot be read.
    """
    if isinstance(path, Path):
        yield path
        return
    scratch = tempfile.TemporaryDirectory(prefix="spiketok-") if folder is None else scratch_folder(folder, path.name)
    with scratch as parent:
        copy = Path(parent) / path.name
        path.download(copy)
        yield copy


STAMPS = (
    "ETag",
    "etag",
    "blob_id",
    "LastModified",
    "mtime",
    "updated",
    "created",
)  # what a listing may say of a file's content


@dataclass(frozen=True)
class RemoteStat:
    """What is asked of a remote file's status.

    Args:
        st_size: in bytes. stamp: another one where the content is another; empty where the place tells nothing of it.
    """

    st_size: int
    stamp: str = ""


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or folder behind a URL; as far as it goes, with the methods of :class:`pathlib.Path`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.url.split("/"))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def parents(self) -> list[RemotePath]:
        """The folders above, innermost first, up to the bucket or host."""
        return [RemotePath("/".join(self.parts[:k])) for k in range(len(self.parts) - 1, 2, -1)]

    @property
    def parent(self) -> RemotePath:
        return self.parents[0] if self.parents else self

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        return PurePosixPath(self.url).relative_to(folder.url)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def absolute(self) -> RemotePath:
        return self

    resolve = absolute

    def exists(self) -> bool:
        """Whether there is a file, or a folder with anything in it."""
        return self._kind() != ""

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def is_file(self) -> bool:
        return self._kind() == "file"

    def _kind(self) -> str:
        with self._reaching() as (system, path):
            try:
                return system.info(path)["type"]
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                return ""

    def iterdir(self) -> list[RemotePath]:
        """What is directly in a folder; nothing if there is none."""
        with self._reaching() as (system, path):
            try:
                found = system.ls(path, detail=False)
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                return []
            names = {PurePosixPath(one).name for one in found if one.rstrip("/") != path.rstrip("/")}
        return [self / name for name in sorted(names)]

    def rglob(self, pattern: str) -> list[RemotePath]:
        """The files below a folder whose names match."""
        return [self / key for key in sorted(self.files()) if fnmatchcase(PurePosixPath(key).name, pattern)]

    def files(self) -> dict[str, RemoteStat]:
        """Each file below a folder, by its path in the folder: one listing, however deep it is."""
        with self._reaching() as (system, path):
            try:
                found = system.find(path, detail=True)
            except FileNotFoundError as error:
                self._refuse_missing_bucket(error)
                return {}
            start = len(path.rstrip("/")) + 1
            return {name[start:]: _stat(entry) for name, entry in found.items() if len(name) > start}

    def stat(self) -> RemoteStat:
        """Raises FileNotFoundError where there is nothing."""
        with self._reaching() as (system, path):
            return _stat(system.info(path))

    def read_text(self) -> str:
        with self._reaching() as (system, path):
            return system.cat_file(path).decode()

    def read_bytes(self) -> bytes:
        with self._reaching() as (system, path):
            return system.cat_file(path)

    def read_range(self, start: int, stop: int) -> bytes:
        """The bytes of a file from ``start`` to ``stop``."""
        with self._reaching() as (system, path):
            return system.cat_file(path, start=start, end=stop)

    def write_bytes(self, data: bytes) -> None:
        """Put a file here, whole, in place of what is here."""
        with self._reaching() as (system, path):
            system.pipe_file(path, data)

    def upload_file(self, file: Path) -> None:
        """Put a file of this machine here, whole, in place of what is here."""
        with self._reaching() as (system, path):
            system.put_file(str(file), path)

    def download(self, target: Path) -> None:
        """Copy the file, or all files of the folder, to ``target``."""
        kind = self._kind()
        if not kind:
            raise FileNotFoundError(2, "there is nothing behind this URL", self.url)
        with writing(target), self._reaching() as (system, path):
            if kind == "file":
                expected = {target: system.info(path)["size"]}
                system.get_file(path, str(target))
            else:
                files = self.files()
                expected = {target / key: stat.st_size for key, stat in files.items()}
                for file in expected:
                    file.parent.mkdir(parents=True, exist_ok=True)
                system.get([f"{path}/{key}" for key in files], [str(file) for file in expected])
        for file, size in expected.items():
            if file.stat().st_size != size:
                came, there = human_bytes(file.stat().st_size), human_bytes(size)
                message = f"{self.url}: {came} of {there} came ({file.name}): run it again"
                raise FetchError(message)

    def upload(self, folder: Path, last: str, marks: Collection[str] = ()) -> None:
        """Put a folder's files here in place of what is here.

        The file ``last`` makes the folder whole and is put when all others are there; it and other files that would
        (``marks``) are taken away first.
        """
        names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        names.remove(last)
        with self._reaching() as (system, path):
            there = system.find(path)
            first = [f"{path}/{name}" for name in (last, *marks) if f"{path}/{name}" in there]
            for mark in dict.fromkeys(first):
                system.rm_file(mark)
            for stale in set(there) - set(first) - {f"{path}/{name}" for name in names}:
                system.rm_file(stale)
            system.put([str(folder / name) for name in names], [f"{path}/{name}" for name in names])
            system.put_file(str(folder / last), f"{path}/{last}")

    # ---- fsspec ----

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[tuple]:
        """The file system and the path in it; whatever goes wrong with them becomes one line."""
        fsspec = require("fsspec", "remote", f"reaching {self.url}")
        try:  # without a cache of listings: other machines write there too
            system, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **_patience(self.url))
        except ImportError as error:
            message = f"reaching {self.url} needs what is not installed ({error}): pip install 'spiketok[remote]'"
            raise UsageError(message) from error
        except ValueError as error:
            message = f"{self.url}: {error}: use a URL that fsspec knows, as s3://bucket/folder"
            raise UsageError(message) from error
        try:
            yield system, path
        except FileNotFoundError as error:
            self._refuse_missing_bucket(error)
            raise
        except PermissionError as error:
            message = f"{self.url}: access denied ({_reason(error)}): check the credentials and what they may do"
            raise FetchError(message) from error
        except _failures() as error:
            if getattr(error, "errno", None) in ALWAYS_TOLD:  # of this machine
                raise
            message = f"{self.url} cannot be reached ({_reason(error)}): check the address, credentials and network"
            raise FetchError(message) from error

    def _refuse_missing_bucket(self, error: FileNotFoundError) -> None:
        """A bucket that is not there must not pass for a folder with nothing in it."""
        if "bucket does not exist" in str(error):
            message = f"{self.url}: there is no such bucket: check its name, or create it"
            raise FetchError(message) from error


def _stat(entry: Mapping[str, object]) -> RemoteStat:
    """What a file system says of a file, whatever it calls it."""
    return RemoteStat(entry["size"], next((str(entry[key]) for key in STAMPS if entry.get(key)), ""))


def _failures() -> tuple[type[Exception], ...]:
    """What fsspec's file systems raise when they cannot reach a place; not all of it is OSError."""
    known = {"botocore.exceptions": ("BotoCoreError", "ClientError"), "aiohttp": ("ClientError",)}
    loaded = [(sys.modules[module], names) for module, names in known.items() if module in sys.modules]
    return (OSError, *(getattr(module, name) for module, names in loaded for name in names))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
