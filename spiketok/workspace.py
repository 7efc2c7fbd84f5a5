"""The one folder that every command works in, and where things lie in it.

    <root>/raw/      source files as they came (fetch), <root>/simulated/ the simulator's
    <root>/store/    <dataset>/<session>/            one zarr group a session
    <root>/shards/   <scheme>/<dataset>/<session>/<fingerprint>/
    <root>/runs/     <model>-<fingerprint>/          checkpoints, metrics, transfer reports

The root is given by ``--root``, else ``SPIKETOK_ROOT``, else ``./spiketok-data``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from spiketok.errors import DataError, UnknownNameError

DEFAULT_ROOT = "spiketok-data"
MANIFEST = "manifest.json"  # the file that makes a folder whole: written last


@dataclass(frozen=True)
class Workspace:
    root: Path

    @classmethod
    def locate(cls, root: Path | None = None) -> Workspace:
        return cls(Path(root or os.environ.get("SPIKETOK_ROOT") or DEFAULT_ROOT))

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def simulated(self) -> Path:
        return self.root / "simulated"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def store_path(self, session_id: str) -> Path:
        return self.store / session_id

    def session_ids(self) -> list[str]:
        """Every session in the store, in order of name."""
        found = self.store.glob("*/*/.zattrs")
        return sorted("/".join(p.parts[-3:-1]) for p in found if not p.parts[-2].startswith("."))

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
