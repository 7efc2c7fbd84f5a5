"""The one folder that every command works in, and where things are in it.

    <root>/raw/      source files as they came (fetch), <root>/simulated/ the simulator's
    <root>/store/    <dataset>/<session>/            two files a session
    <root>/shards/   <scheme>/<dataset>/<session>/<fingerprint>/, and context/... for what these share of a session
    <root>/runs/     <model>-<fingerprint>/          checkpoints, metrics, transfer reports

The root is given by ``--root``, else ``SPIKETOK_ROOT``, else ``./spiketok-data``. The store may be elsewhere, also
behind a URL as ``s3://bucket/folder``: ``--store``, else ``SPIKETOK_STORE``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from spiketok.errors import DataError, UnknownNameError
from spiketok.storage.files import SESSION_MARKS
from spiketok.storage.remote import RemotePath, place

DEFAULT_ROOT = "spiketok-data"
CONTEXT = "context"  # the folder of sessions' contexts among those of the schemes: no scheme may have this name
MANIFEST = "manifest.json"  # the file that makes a folder whole: written last


@dataclass(frozen=True)
class Workspace:
    """The folders that commands work in.

    Attributes:
        root: the workspace's folder.
        store_place: where the store is, if not in the root: a folder or a URL.
    """

    root: Path
    store_place: Path | RemotePath | None = None

    @classmethod
    def locate(cls, root: Path | None = None, store: str | None = None) -> Workspace:
        """The workspace that the options, else the environment, else the defaults name."""
        store = store or os.environ.get("SPIKETOK_STORE")
        return cls(Path(root or os.environ.get("SPIKETOK_ROOT") or DEFAULT_ROOT), place(store) if store else None)

    @classmethod
    def around(cls, path: Path) -> Workspace | None:
        """The workspace that a run, a report or a shard is in, by the names of its folders; None for others."""
        home = next((p.parent for p in path.resolve().parents if p.name in ("runs", "shards")), None)
        return cls(home) if home is not None and (home / "shards").is_dir() else None

    def absolute(self) -> Workspace:
        """The same for a worker that runs in another folder."""
        store = self.store_place.absolute() if self.store_place is not None else None
        return replace(self, root=self.root.absolute(), store_place=store)

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
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def store_path(self, session_id: str) -> Path | RemotePath:
        return self.store / session_id

    def session_ids(self) -> list[str]:
        """Every session in the store, in order of name."""
        if isinstance(self.store, Path):
            found = {p.parent for mark in SESSION_MARKS for p in self.store.glob(f"*/*/{mark}")}
        else:
            below = [p for dataset in self.store.iterdir() for p in dataset.iterdir()]
            found = {p for p in below if any((p / mark).exists() for mark in SESSION_MARKS)}
        return sorted("/".join(p.parts[-2:]) for p in found if not p.name.startswith("."))

    def select(self, patterns: str | None = None) -> list[str]:
        """The sessions whose id or name matches any of the comma-separated glob patterns; all without a pattern.

        Raises:
            DataError: the store is empty. UnknownNameError: a pattern matches nothing.
        """
        known = self.session_ids()
        if not known:
            message = (
                f"no session in {self.store}: run 'spiketok fetch NAME', 'spiketok ingest PATH' or 'spiketok simulate'"
            )
            raise DataError(message)
        return match_sessions(known, patterns, str(self.store))


def match_sessions(known: list[str], patterns: str | None, place: str) -> list[str]:
    """The ids that match any of the comma-separated globs, against the whole id or the part after the slash."""
    if not patterns:
        return list(known)
    chosen: set[str] = set()
    for pattern in filter(None, (p.strip() for p in patterns.split(","))):
        hits = [s for s in known if fnmatchcase(s, pattern) or fnmatchcase(s.split("/", 1)[1], pattern)]
        if not hits:
            raise UnknownNameError("session", pattern, known, place)
        chosen.update(hits)
    return [s for s in known if s in chosen]
