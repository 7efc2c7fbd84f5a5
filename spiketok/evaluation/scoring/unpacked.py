"""A submission as a folder, also where it is a zip."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from spiketok.errors import ArtefactError, TooLargeError, UsageError
from spiketok.storage.causes import raise_cause


@contextlib.contextmanager
def unpacked(predictions: Path) -> Iterator[Path]:
    """What is at a path; a zip is unpacked for as long as the block lasts.

    Raises:
        UsageError: nothing is there. ArtefactError: it is a zip that is not whole, or whose names lead out of it.
        TooLargeError: it takes more than the disk has free.
    """
    predictions = Path(predictions)
    if not predictions.exists():
        message = f"there is nothing at {predictions}: expected a folder, a file or a zip of predictions"
        raise UsageError(message)
    if predictions.suffix.lower() != ".zip" or predictions.is_dir():
        yield predictions
        return
    with tempfile.TemporaryDirectory(prefix="spiketok-") as folder:
        target = Path(folder) / predictions.stem  # a zip's name stands for the folder's
        target.mkdir()
        _unpack(predictions, target)
        yield target


def _unpack(path: Path, target: Path) -> None:
    try:
        with zipfile.ZipFile(path) as members:
            for name in members.namelist():
                parts = PurePosixPath(name.replace("\\", "/")).parts
                if ".." in parts or name.startswith(("/", "\\")):
                    message = f"{path} holds '{name}', which leads out of it"
                    raise ArtefactError(message)
            needed, free = sum(one.file_size for one in members.infolist()), shutil.disk_usage(target).free
            if needed > free:
                message = f"{path} takes {needed / 1e9:.1f} GB unpacked, {target.parent.parent} has {free / 1e9:.1f} GB"
                raise TooLargeError(message)
            members.extractall(target)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise_cause(error, path)
        message = f"{path} is no whole zip: {error}"
        raise ArtefactError(message) from error
