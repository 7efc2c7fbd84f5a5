"""Lines that a process says once, on stderr, where the room that knows of them has nobody who listens."""

from __future__ import annotations

import sys

_said: set[str] = set()


def note_once(text: str) -> None:
    """Say a line on stderr, the first time that this process has it."""
    if text not in _said:
        _said.add(text)
        print(f"note: {text}", file=sys.stderr, flush=True)
