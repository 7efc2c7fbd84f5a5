"""Which reader the files of a session go through, by the session's settings; and which files it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from spiketok.pipeline.isolation import bounds, isolated
from spiketok.recording.nouns import Session, Source
from spiketok.storage.files import sha256_source, source_bytes
from spiketok.storage.remote import RemotePath

READER = {"reader": "nwb", "reader_version": 2}
SORTED = "sorter"  # the reader of sorter output, see spiketok.sources.formats.sorting
TORCH_BRAIN = "torch_brain"  # the reader of its files, see spiketok.sources.formats.torch_brain


def reader_of(settings: Mapping[str, object]) -> Callable[[Path, str, Source], Session] | None:
    """What reads the files by their settings; None where that is for the rules to say."""
    if settings.get("reader") == TORCH_BRAIN:
        from spiketok.sources.formats.torch_brain import read_torch_brain

        return read_torch_brain
    if settings.get("reader") != SORTED:
        return None
    from spiketok.sources.formats.sorting import read_sorting

    return partial(
        read_sorting,
        sorter=str(settings["sorter"]),
        start_s=float(settings["start_s"]),
        frame_rate_hz=settings.get("frame_rate_hz"),
        time_unit=settings.get("time_unit"),
    )


def as_found(
    paths: Sequence[Path | RemotePath], files: Sequence[Path], settings: Mapping[str, object]
) -> Mapping[str, object]:
    """The settings with torch_brain's reader, where no other is stated and all files are torch_brain's.

    Args:
        paths: as they were given. files: the same on this machine; those called .h5 are looked into, isolated.
    """
    from spiketok.sources.formats.torch_brain import READER as OF_TORCH_BRAIN
    from spiketok.sources.formats.torch_brain import SUFFIXES, is_torch_brain

    if settings.get("reader") != READER["reader"] or not all(p.name.lower().endswith(SUFFIXES) for p in paths):
        return settings
    asked = (isolated(is_torch_brain, file, name=file.name, **bounds(source_bytes(file))) for file in files)
    return {**settings, **OF_TORCH_BRAIN} if all(asked) else settings


def digest_of(file: Path, settings: Mapping[str, object]) -> str:
    """The sha256 of a source: of a folder, over the files that a session with these settings is made of."""
    return sha256_source(file, files_read(settings))


def files_read(settings: Mapping[str, object]) -> Callable[[str], bool] | None:
    """Which files of a folder are read, by their names; None: all."""
    if settings.get("reader") != SORTED:
        return None
    from spiketok.sources.formats import sorting

    return sorting.files_read(settings)
