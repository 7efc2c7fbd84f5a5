"""Where things are pushed to: a folder, a place behind a URL, or a repository of Hugging Face. One contract.

What is there already with the right digest is not sent again. How that is known differs: a folder's files are read;
Hugging Face tells the digest of each; of a bucket this machine keeps what it sent, with the stamp (ETag) that each file
got, so that a file which somebody changed there is sent again.

What makes a place whole, its manifest, is put last; on Hugging Face all of a push is one commit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from spiketok.errors import ArtefactError, FetchError, UsageError, require
from spiketok.storage.files import atomic_file, fingerprint, read_signed, sha256_file, write_signed
from spiketok.storage.locks import beside, locked
from spiketok.storage.pushed import CARD, PUSHED
from spiketok.storage.remote import RemotePath, place

HF = "hf://"
BATCH_BYTES = 200_000_000  # so much is sent to a bucket between two notes of what is there
UNKNOWN = ["", ""]  # noted of a file while it is being sent: no file is so
Sent = Callable[[str, int], None]


@dataclass(frozen=True)
class File:
    """A file to send: where it is here, and what it is."""

    path: Path
    sha256: str
    nbytes: int


class Place(ABC):
    """A place that is pushed to and pulled from.

    Attributes:
        name: as it is typed. shown: the same, for people on other machines.
        kind: ``"model"`` or ``"dataset"``, of a card that must be of one; else empty.
    """

    name: str
    kind: str = ""

    @property
    def shown(self) -> str:
        return self.name.partition("@")[0]

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """A small file; None where it is not there."""

    @abstractmethod
    def get(self, path: str, target: Path) -> None:
        """Copy a file to ``target``; FileNotFoundError where it is not there."""

    @abstractmethod
    def there(self, files: Mapping[str, File], manifest: Mapping[str, tuple[str, int]]) -> set[str]:
        """Which of these files are there, with the right digest.

        Args:
            manifest: sha256 and size of each file, as the place's own manifest says.
        """

    @abstractmethod
    def put(self, files: Mapping[str, File], card: bytes, manifest: bytes, sent: Sent) -> None:
        """Send files, then the card, then the manifest."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other pushes of this machine from the place, where it can be kept."""
        yield


def place_of(text: str, *, public: bool = False, root: Path | None = None, scratch: Path | None = None) -> Place:
    """The place that a word names.

    Args:
        public: a repository that is made anew may be seen by all.
        root: of the workspace, where it is noted what was sent to a bucket.
        scratch: a folder for what is on its way from Hugging Face; by default the system's for temporary files.

    Raises:
        UsageError: it is none. MissingExtraError: what reaches it is not installed.
    """
    if text.startswith(HF):
        return HuggingFace(text, public=public, scratch=scratch)
    found = place(text)
    return Folder(found) if isinstance(found, Path) else Bucket(found, root)


# ---- a folder -------------------------------------------------------------------------------------------------------


class Folder(Place):
    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        if path.exists() and not path.is_dir():
            message = f"{path} is a file: give a folder, s3://..., or hf://OWNER/NAME"
            raise UsageError(message)
        if any((path / name).exists() for name in ("store", "runs", "shards")) and not (path / PUSHED).exists():
            message = f"{path} is a workspace, which nothing was pushed to: push to another folder, and pull from that"
            raise UsageError(message)

    @property
    def shown(self) -> str:
        return self.path.resolve().name

    def read(self, path: str) -> bytes | None:
        file = self.path / path
        return file.read_bytes() if file.is_file() else None

    def get(self, path: str, target: Path) -> None:
        shutil.copyfile(self.path / path, target)

    def there(self, files: Mapping[str, File], manifest: Mapping[str, tuple[str, int]]) -> set[str]:
        def same(name: str, file: File) -> bool:
            found = self.path / name
            return found.is_file() and found.stat().st_size == file.nbytes and sha256_file(found) == file.sha256

        return {name for name, file in files.items() if same(name, file)}

    def put(self, files: Mapping[str, File], card: bytes, manifest: bytes, sent: Sent) -> None:
        for name, file in files.items():
            with atomic_file(self.path / name) as wip:
                shutil.copyfile(file.path, wip)
                require_same(wip, file, str(file.path))
            sent(name, file.nbytes)
        for name, data in ((CARD, card), (PUSHED, manifest)):
            with atomic_file(self.path / name) as wip:
                wip.write_bytes(data)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        with locked(beside(self.path.absolute()), str(self.path)):
            yield


def require_same(path: Path, file: File, shown: str) -> None:
    """Raise ArtefactError where a copy is not what was read before: somebody wrote the file meanwhile."""
    found = sha256_file(path)
    if found != file.sha256:
        message = f"{shown} changed while it was sent ({found[:12]}, was {file.sha256[:12]}): push again"
        raise ArtefactError(message)


# ---- behind a URL ---------------------------------------------------------------------------------------------------


class Bucket(Place):
    """Files behind a URL that fsspec reaches. There are no locks: let no two machines push to one place at once."""

    def __init__(self, url: RemotePath, root: Path | None) -> None:
        self.url, self.name = url, str(url)
        self.notes = root / ".pushed" / f"{fingerprint(str(url))}.json" if root is not None else None

    def read(self, path: str) -> bytes | None:
        try:
            return (self.url / path).read_bytes()
        except FileNotFoundError:
            return None

    def get(self, path: str, target: Path) -> None:
        (self.url / path).download(target)

    def there(self, files: Mapping[str, File], manifest: Mapping[str, tuple[str, int]]) -> set[str]:
        listed, noted = self.url.files(), self._noted()

        def same(name: str, file: File) -> bool:
            stat = listed.get(name)
            if stat is None or stat.st_size != file.nbytes:
                return False
            if name in noted:
                return noted[name] == [file.sha256, stat.stamp]
            return manifest.get(name) == (file.sha256, file.nbytes)

        return {name for name, file in files.items() if same(name, file)}

    def put(self, files: Mapping[str, File], card: bytes, manifest: bytes, sent: Sent) -> None:
        self._write_notes(dict.fromkeys(files, UNKNOWN))  # whatever a kill leaves there is sent again
        batch: dict[str, File] = {}
        try:
            for name, file in files.items():
                (self.url / name).upload_file(file.path)
                require_same(file.path, file, str(file.path))
                batch[name] = file
                sent(name, file.nbytes)
                if sum(one.nbytes for one in batch.values()) > BATCH_BYTES:
                    self._note(batch)
                    batch = {}
        finally:
            with contextlib.suppress(FetchError):  # without the note they are sent once more
                self._note(batch)
        (self.url / CARD).write_bytes(card)
        (self.url / PUSHED).write_bytes(manifest)

    def _noted(self) -> dict[str, list[str]]:
        """Digest and stamp of what this machine sent; nothing where it has no notes, or none that can be believed."""
        if self.notes is None:
            return {}
        try:
            return read_signed(self.notes, "note", "push again")["files"]
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ArtefactError:
            self.notes.unlink(missing_ok=True)
            return {}

    def _note(self, batch: Mapping[str, File]) -> None:
        if self.notes is None or not batch:
            return
        listed = self.url.files()
        self._write_notes({n: [file.sha256, listed[n].stamp] for n, file in batch.items() if n in listed})

    def _write_notes(self, new: Mapping[str, list[str]]) -> None:
        if self.notes is None or not new:
            return
        self.notes.parent.mkdir(parents=True, exist_ok=True)
        write_signed(self.notes, {"place": self.name, "files": self._noted() | new})


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


class HuggingFace(Place):
    """A repository: ``hf://datasets/OWNER/NAME`` or ``hf://OWNER/NAME``, and ``@REVISION`` behind it to pull.

    The server is that of ``HF_ENDPOINT``, the token that of ``HF_TOKEN`` or of ``hf auth login``.
    """

    def __init__(self, text: str, *, public: bool, scratch: Path | None) -> None:
        require("huggingface_hub", "hub", f"reaching {text}")
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import disable_progress_bars, logging

        words, _, revision = text.removeprefix(HF).strip("/").partition("@")
        parts = words.split("/")
        self.kind = "dataset" if parts[0] == "datasets" else "model"
        parts = parts[1:] if parts[0] == "datasets" else parts
        if len(parts) != 2 or not all(parts) or "?" in text:
            message = f"{text}: a place on Hugging Face is hf://datasets/OWNER/NAME or hf://OWNER/NAME"
            raise UsageError(message)
        self.name, self.id, self.public = text, "/".join(parts), public
        self.revision: str | None = revision or None
        self.endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        self.api = HfApi(endpoint=self.endpoint, library_name="spiketok")
        self._temporary = tempfile.TemporaryDirectory(prefix="spiketok-") if scratch is None else None
        self.scratch = scratch or self._temporary.name
        self._of = {"repo_id": self.id, "repo_type": self.kind}
        self._head: str | None = None
        disable_progress_bars()
        logging.set_verbosity_error()

    def _commit(self) -> str | None:
        """The commit that is read, the same for as long as this object lives; None where there is no repository."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        if self._head is None:
            with self._reaching():
                try:
                    self._head = self.api.repo_info(**self._of, revision=self.revision).sha
                except RevisionNotFoundError as error:
                    message = f"{self.name}: there is no revision '{self.revision}'"
                    raise FetchError(message) from error
                except RepositoryNotFoundError:  # or one that this token may not see
                    return None
        return self._head

    def read(self, path: str) -> bytes | None:
        from huggingface_hub.errors import EntryNotFoundError

        if self._commit() is None:
            return None
        with self._reaching():
            try:
                return Path(self._download(path)).read_bytes()
            except EntryNotFoundError:
                return None

    def get(self, path: str, target: Path) -> None:
        from huggingface_hub.errors import EntryNotFoundError

        with self._reaching():
            try:
                shutil.move(self._download(path), target)
            except EntryNotFoundError as error:
                raise FileNotFoundError(2, "there is no such file", f"{self.name}/{path}") from error

    def _download(self, path: str) -> str:
        return self.api.hf_hub_download(**self._of, filename=path, revision=self._head, local_dir=self.scratch)

    def there(self, files: Mapping[str, File], manifest: Mapping[str, tuple[str, int]]) -> set[str]:
        if self._commit() is None:
            return set()
        with self._reaching():
            tree = self.api.list_repo_tree(**self._of, revision=self._head, recursive=True)
            known = {one.path: one for one in tree if hasattr(one, "blob_id")}

        def same(name: str, file: File) -> bool:
            found = known.get(name)
            if found is None or found.size != file.nbytes:
                return False
            if found.lfs is not None:
                return found.lfs.sha256 == file.sha256
            return found.blob_id == _blob_id(file)

        return {name for name, file in files.items() if same(name, file)}

    def put(self, files: Mapping[str, File], card: bytes, manifest: bytes, sent: Sent) -> None:
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        parent = self._commit()
        with self._reaching():
            if parent is None:
                self.api.create_repo(**self._of, private=not self.public, exist_ok=True)
                parent = self.api.repo_info(**self._of).sha
            sources = {name: str(file.path) for name, file in files.items()} | {CARD: card, PUSHED: manifest}
            operations = [CommitOperationAdd(name, source) for name, source in sources.items()]
            try:
                self.api.create_commit(
                    **self._of, operations=operations, commit_message="spiketok push", parent_commit=parent,
                    revision=self.revision,
                )  # fmt: skip
            except (RuntimeError, ValueError) as error:  # a large file that was not taken
                if isinstance(error, HfHubHTTPError):
                    raise
                why = (
                    f"{_first_line(error)} ({_first_line(error.__cause__)})" if error.__cause__ else _first_line(error)
                )
                message = f"{self.name}: {self._host()} did not take it: {why}; push again: what is there stays there"
                raise FetchError(message) from error
            except HfHubHTTPError as error:
                if getattr(error.response, "status_code", 0) == 412:
                    message = f"{self.name} was changed by somebody else meanwhile: push again"
                    raise FetchError(message) from error
                raise
        for name, file in files.items():
            sent(name, file.nbytes)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Whatever goes wrong with the server becomes one line."""
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            HTTPError,  # of the library that it speaks HTTP by
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

        try:
            yield
        except HFValidationError as error:
            message = f"{self.name}: {_first_line(error)}"
            raise UsageError(message) from error
        except GatedRepoError as error:
            message = f"{self.name} is gated: ask for access on its page at {self._host()}, then 'hf auth login'"
            raise FetchError(message) from error
        except HfHubHTTPError as error:
            code = getattr(error.response, "status_code", None)
            if isinstance(error, EntryNotFoundError):
                raise
            hint = "check the name and the network"
            if code in (401, 403):
                hint = "log in by 'hf auth login' or set HF_TOKEN to a token that may write"
            message = f"{self.name}: {self._host()} answered {code} ({_first_line(error)}): {hint}"
            raise FetchError(message) from error
        except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
            message = (
                f"{self.name}: {self._host()} cannot be reached ({_first_line(error)}): check HF_ENDPOINT and network"
            )
            raise FetchError(message) from error

    def _host(self) -> str:
        return urlsplit(self.endpoint).netloc or self.endpoint


def _blob_id(file: File) -> str:
    """What git calls a file of this content."""
    digest = hashlib.sha1(f"blob {file.nbytes}\0".encode(), usedforsecurity=False)
    with open(file.path, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
