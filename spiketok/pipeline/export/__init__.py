"""Sessions in the formats of others: one function a format.

    exported = export_session(session, digest, "nwb", folder)      # folder/<dataset>/<session>.nwb

What is unusual: a format that cannot hold something gets the rest, and each thing that it could not take as it is
becomes a remark of the result: nothing is left out without a word. A file is written whole or not at all, and one that
says that this release made it from the same content is not made again.

A new format is a :class:`Exporter` in its own file and one name in ``EXPORTERS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from spiketok.errors import UnknownNameError, UsageError
from spiketok.pipeline.export import binned, falcon, nlb, nwb, torch_brain
from spiketok.pipeline.export.base import Exported, Exporter, made_by
from spiketok.recording.nouns import Session
from spiketok.storage.files import atomic_file, clean_leftovers
from spiketok.storage.locks import beside, locked

__all__ = ["EXPORTERS", "Exported", "Exporter", "export_path", "export_session", "find_exported"]

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


def find_exported(
    session_id: str, digest: str, name: str, folder: Path, settings: Mapping[str, object] | None = None
) -> Exported | None:
    """The file of a session that stands already, if it says that this release made it from the same content.

    Args:
        session_id, name, folder: as :func:`export_path`. digest: of the session in the store.
        settings: as :func:`export_session`.
    """
    import h5py

    target = export_path(session_id, name, folder)
    try:
        with h5py.File(target, "r") as file:
            said = exporter_of(name, settings).origin(file)
    except (OSError, KeyError, AttributeError):  # none there, or nothing that we wrote
        return None
    if made_by(session_id, digest) not in said:
        return None
    return Exported(session_id, str(target), target.stat().st_size, (), "already")


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
        UsageError: another file is there. UnknownNameError: there is no such format. DataError: the format cannot hold
            this session at all.
    """
    target, exporter = export_path(session.id, name, folder), exporter_of(name, settings)
    with locked(beside(target), str(target), wait=True):
        there = target.exists()
        if there and not overwrite:
            done = find_exported(session.id, digest, name, folder, settings)
            if done is not None:
                return done
            message = f"{target} is there already, and was made of something else: --overwrite replaces it"
            raise UsageError(message)
        clean_leftovers(target.parent)
        with atomic_file(target) as path:
            if sources and exporter.write_beside is not None:
                remarks = exporter.write_beside(session, digest, path, sources)
            else:
                remarks = exporter.write(session, digest, path)
    state = "replaced" if there else "new"
    return Exported(session.id, str(target), target.stat().st_size, tuple(remarks), state)
