"""What is measured once: a file each, with the key of what it is of, so that what was stopped goes on.

A record is written whole or not at all. One of another key (other inputs, other settings), one that was changed and one
that is damaged are as good as none: what they say is measured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spiketok.errors import ArtefactError
from spiketok.storage.files import read_signed, write_signed


def read_measured(path: Path, key: str) -> dict | None:
    """The facts of a record of this key; None where there is none, or one of something else."""
    try:
        record = read_signed(path, "measure", "it is measured again")
    except (FileNotFoundError, ArtefactError):
        return None
    facts = record.get("facts")
    return facts if record.get("key") == key and isinstance(facts, dict) else None


def put_measured(path: Path, key: str, facts: Mapping[str, object]) -> dict:
    """Write a record down; its facts as they will be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_signed(path, {"key": key, "facts": facts})["facts"]
