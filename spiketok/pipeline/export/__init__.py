"""Sessions in the formats of others: one function a format.

    exported = export_session(session, digest, "nwb", folder)      # folder/<dataset>/<session>.nwb

What is unusual: a format that cannot hold something gets the rest, and each thing that it could not take as it is
becomes a remark of the result: nothing is left out without a word. A file is written whole or not at all.

A new format is a :class:`Exporter` in its own file and one name in ``EXPORTERS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spiketok.errors import UnknownNameError, UsageError
from spiketok.pipeline.export import binned, falcon, nlb, nwb, torch_brain
from spiketok.pipeline.export.base import Exported, Exporter
from spiketok.recording.nouns import Session
from spiketok.storage.files import atomic_file, clean_leftovers

__all__ = ["EXPORTERS", "Exported", "Exporter", "export_path", "export_session"]

EXPORTERS: dict[str, Exporter] = {
    exporter.name: exporter
    for exporter in (nwb.EXPORTER, torch_brain.EXPORTER, *nlb.EXPORTERS, falcon.EXPORTER, *binned.EXPORTERS)
}


def exporter_of(name: str, settings: Mapping[str, object] | None = None) -> Exporter:
    """The exporter of this name, with settings where they are stated.

    Raises:
        UnknownNameError: there is none. UsageError: it takes no settings, or not these.
    """
    if name not in EXPORTERS:
        raise UnknownNameError("format", name, EXPORTERS)
    exporter = EXPORTERS[name]
    if not settings:
        return exporter
    if exporter.configure is None:
        takes = ", ".join(n for n, e in EXPORTERS.items() if e.configure is not None)
        message = f"--to {name} takes no --set (it is for {takes})"
        raise UsageError(message)
    return exporter.configure(settings)


def export_path(session_id: str, name: str, folder: Path) -> Path:
    """Where a session goes: ``<folder>/<dataset>/<session><ending>``."""
    dataset, session = session_id.split("/")
    return Path(folder) / dataset / f"{session}{exporter_of(name).suffix}"


def export_session(
    session: Session,
    digest: str,
    name: str,
    folder: Path,
    *,
    overwrite: bool = False,
    sources: Sequence[Path] = (),
    settings: Mapping[str, object] | None = None,
) -> Exported:
    """Write a session in another format.

    Args:
        session: as the store gives it. digest: of the store, which the file names as its origin.
        name: of :data:`EXPORTERS`.
        folder: the file is ``<dataset>/<session><ending>`` below it.
        overwrite: replace a file that is there.
        sources: the files that it was made of, where they are at hand.
        settings: of the format, as ``{"bin_ms": 10}``.

    Raises:
        UsageError: a file is there. UnknownNameError: there is no such format. DataError: the format cannot hold
            this session at all.
    """
    target = export_path(session.id, name, folder)
    if target.exists() and not overwrite:
        message = f"{target} is there already: --overwrite replaces it"
        raise UsageError(message)
    clean_leftovers(target.parent)
    exporter = exporter_of(name, settings)
    with atomic_file(target) as path:
        if sources and exporter.write_beside is not None:
            remarks = exporter.write_beside(session, digest, path, sources)
        else:
            remarks = exporter.write(session, digest, path)
    return Exported(session.id, str(target), target.stat().st_size, tuple(remarks))
