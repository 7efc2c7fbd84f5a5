"""What every exporter is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok import __version__
from spiketok.recording.nouns import Session, Source

if TYPE_CHECKING:
    import h5py

Write = Callable[[Session, str, Path], list[str]]
"""``write(session, store digest, path)`` writes one file and returns remarks on what it could not take as it is."""


@dataclass(frozen=True)
class Exporter:
    """A format of others.

    Args:
        name: as it is typed after ``--to``.
        suffix: of its files, with the dot.
        title: one line for people.
        write: see :data:`Write`.
        origin: where a file of this format holds its :func:`origin_text`; empty, or a KeyError, in one of others.
        write_beside: the same with the session's source files at hand, where they decide what the session cannot.
        configure: this exporter with settings, from plain values as they are typed; None where it takes none.
    """

    name: str
    suffix: str
    title: str
    write: Write
    origin: Callable[[h5py.File], str]
    write_beside: Callable[[Session, str, Path, Sequence[Path]], list[str]] | None = None
    configure: Callable[[Mapping[str, object]], Exporter] | None = None


@dataclass(frozen=True)
class Exported:
    """A file that stands. ``remarks``: what the format could not take as it is, one sentence each.

    ``state``: ``"new"``, ``"replaced"``, or ``"already"``: it was there, from the same content by the same release.
    """

    session_id: str
    path: str
    nbytes: int
    remarks: tuple[str, ...]
    state: str = "new"


def origin_text(session: Session, digest: str) -> str:
    """Where a session is from, in sentences: for the notes of a file."""
    return " ".join([made_by(session.id, digest), *(_one_origin(source) for source in session.source.files)])


def made_by(session_id: str, digest: str) -> str:
    """The sentence of :func:`origin_text` that is the same where a session's content and the release are."""
    return f"Exported by spiketok {__version__} from its session {session_id}, digest {digest}."


def origin_attribute(file: h5py.File) -> str:
    """The origin in a file that is all attributes and arrays."""
    return str(file.attrs["origin"])


def _one_origin(source: Source) -> str:
    place = f" of DANDI:{source.dandiset}/{source.version}" if source.dandiset else ""
    return (
        f"Made from {source.file}{place}, sha256 {source.sha256}; licence: {source.license or 'not stated'}; "
        f"citation: {source.citation or 'not stated'}."
    )
