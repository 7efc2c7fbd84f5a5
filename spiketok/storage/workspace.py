"""The one folder that every command works in, and where things are in it.

    <root>/raw/      source files as they came (fetch), <root>/simulated/ the simulator's
    <root>/store/    <dataset>/<session>/            two files a session; index.jsonl, what is asked of all of them
    <root>/shards/   <scheme>/<dataset>/<session>/<fingerprint>/, and context/... for what these share of a session
    <root>/runs/     <model>-<fingerprint>/          checkpoints, metrics, transfer reports
    <root>/choices/  <name>-<fingerprint>.json       which sessions to train on
    <root>/vectors/  <sha256>.npz                    vectors of units that runs read

The root is given by ``--root``, else ``SPIKETOK_ROOT``, else ``spiketok.toml``, else ``./spiketok-data``. The store may
be elsewhere, also behind a URL as ``s3://bucket/folder``: ``--store``, else ``SPIKETOK_STORE``, else ``spiketok.toml``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok.errors import AmbiguousNameError, DataError, UnknownNameError
from spiketok.storage.files import below
from spiketok.storage.preferences import preferred
from spiketok.storage.remote import RemotePath, place

if TYPE_CHECKING:
    from spiketok.storage.index import Index

DEFAULT_ROOT = "spiketok-data"
CONTEXT = "context"  # the folder of sessions' contexts among those of the schemes: no scheme may have this name
MANIFEST = "manifest.json"  # the file that makes a folder whole: written last
COLUMNS = "columns.bin"  # what lies beside it


@dataclass(frozen=True)
class Workspace:
    """The folders that commands work in.

    Attributes:
        root: the workspace's folder.
        store_place: where the store is, if not in the root: a folder or a URL.
        shards_place: where the shards behind ``SPIKETOK_SHARDS`` are kept, which are only read; None: in the root.
        index: the store's, as :meth:`indexed` opened it; None: each session is asked by itself.
    """

    root: Path
    store_place: Path | RemotePath | None = None
    shards_place: Path | None = None
    index: Index | None = field(default=None, compare=False, repr=False)

    @classmethod
    def locate(cls, root: Path | None = None, store: str | None = None) -> Workspace:
        """The workspace that the options, else the environment, else ``spiketok.toml``, else the defaults name."""
        root = root or os.environ.get("SPIKETOK_ROOT") or preferred("root") or DEFAULT_ROOT
        store = store or os.environ.get("SPIKETOK_STORE") or preferred("store")
        return cls(Path(root), place(store) if store else None, _shards_behind_a_url())

    @classmethod
    def around(cls, path: Path) -> Workspace | None:
        """The workspace that a run, a report or a shard is in, by the names of its folders; None for others."""
        home = next((p.parent for p in path.resolve().parents if p.name in ("runs", "shards")), None)
        return cls(home) if home is not None and (home / "shards").is_dir() else None

    def absolute(self) -> Workspace:
        """The same for a worker that runs in another folder and has a session of its own: without the index."""
        store = self.store_place.absolute() if self.store_place is not None else None
        return replace(self, root=self.root.absolute(), store_place=store, index=None)

    def indexed(self, told: Callable[[str], None]) -> Workspace:
        """The same with the index of its store, for a command that asks many sessions and writes none.

        What is asked is answered as the store was at this call: after sessions were written, call it again.

        Args:
            told: called with a line where the index is damaged, or should be written behind a URL.

        Raises:
            FetchError: the store's URL cannot be reached.
        """
        from spiketok.storage.index import open_index

        return replace(self, index=open_index(self.store, told))

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def simulated(self) -> Path:
        return self.root / "simulated"

    @property
    def store(self) -> Path | RemotePath:
        return self.store_place or self.root / "store"

    @property
    def shards(self) -> Path:
        return self.shards_place or self.root / "shards"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def choices(self) -> Path:
        return self.root / "choices"

    def vectors_path(self, digest: str) -> Path:
        """Where a file of unit vectors lies, by its sha256."""
        return below(self.root / "vectors", f"{digest}.npz", "a digest of unit vectors")

    def store_path(self, session_id: str) -> Path | RemotePath:
        """Where a session lies; ArtefactError for an id, as an artefact may name it, that would lie elsewhere."""
        return below(self.store, session_id, "a session's id")

    def session_ids(self) -> list[str]:
        """Every session in the store, in order of name."""
        from spiketok.storage.index import session_ids

        return list(self.index.ids) if self.index is not None else session_ids(self.store)

    def facts(self, session_id: str) -> dict[str, object]:
        """What selection asks of a session, see :func:`spiketok.storage.index.facts_of`.

        Raises:
            ArtefactError: there is no session, or one of another format or version.
        """
        if self.index is not None and session_id in self.index.entries:
            return self.index.entries[session_id]["facts"]
        from spiketok.storage.index import facts_of

        return facts_of(self.attributes(session_id))

    def attributes(self, session_id: str) -> dict[str, object]:
        """Everything that stands beside a session's arrays.

        Raises:
            ArtefactError: there is no session, or one of another format or version, or another session in its place.
        """
        from spiketok.storage.store import attributes_of

        return attributes_of(self.store_path(session_id), session_id)

    def sizes(self, session_id: str) -> dict[str, object]:
        """What planning asks of a session beside its facts, see :func:`spiketok.storage.index.sizes_of`.

        Raises:
            ArtefactError: the session is damaged.
        """
        if self.index is not None and session_id in self.index.entries:
            return self.index.entries[session_id]["sizes"]
        from spiketok.storage.index import sizes_of

        return sizes_of(self.store_path(session_id), self.attributes(session_id))

    def baked(self, session_id: str) -> list[Path]:
        """The folders of a session's contexts and shards, also of one that has lost a file."""
        return sorted({p.parent for name in (MANIFEST, COLUMNS) for p in self.shards.glob(f"*/{session_id}/*/{name}")})

    def select(self, patterns: str | None = None) -> list[str]:
        """The sessions whose id or name matches any of the comma-separated glob patterns; all without a pattern.

        Raises:
            DataError: the store is empty. UnknownNameError: a pattern matches nothing. AmbiguousNameError: see there.
        """
        known = self.session_ids()
        if not known:
            message = (
                f"no session in {self.store}: run 'spiketok fetch NAME', 'spiketok ingest PATH' or 'spiketok simulate'"
            )
            raise DataError(message)
        return match_sessions(known, patterns, str(self.store))


def _shards_behind_a_url() -> Path | None:
    """The folder of this machine in which the shards behind ``SPIKETOK_SHARDS`` are kept; None where it is not set."""
    if not os.environ.get("SPIKETOK_SHARDS"):
        return None
    from spiketok.storage.cached import cache_of_shards

    cache = cache_of_shards()
    if cache is None:
        return None
    cache.list()
    return cache.folder


def match_sessions(known: list[str], patterns: str | None, place: str) -> list[str]:
    """The ids that match any of the comma-separated globs, against the whole id or the part after the slash.

    A word without a glob's signs also means the one session whose id or name begins with it.

    Raises:
        UnknownNameError: a pattern matches nothing. AmbiguousNameError: several sessions begin with a word.
    """
    if not patterns:
        return list(known)
    chosen: set[str] = set()
    for pattern in filter(None, (p.strip() for p in patterns.split(","))):
        hits = [s for s in known if fnmatchcase(s, pattern) or fnmatchcase(s.split("/", 1)[1], pattern)]
        if not hits and not set(pattern) & set("*?["):
            hits = beginning_with(known, pattern)
            if len(hits) > 1:
                raise AmbiguousNameError("session", pattern, hits, f"write '{pattern}*' for all of them")
        if not hits:
            raise UnknownNameError("session", pattern, known, place)
        chosen.update(hits)
    return [s for s in known if s in chosen]


def beginning_with(known: Iterable[str], word: str) -> list[str]:
    """The ids that begin with a word, as a whole or behind their slash."""
    return [s for s in known if s.startswith(word) or s.split("/", 1)[1].startswith(word)]


def one_session(workspace: Workspace, word: str, does: str) -> str:
    """The session of the store that a word means: its id, its name, the beginning of either, or a glob.

    Args:
        does: what is done with one, for the message, as ``"a stream replays one"``.

    Raises:
        AmbiguousNameError: it means several. UnknownNameError: none. DataError: the store is empty.
    """
    chosen = workspace.select(word)
    if len(chosen) != 1:
        raise AmbiguousNameError("session", word, chosen, does)
    return chosen[0]
