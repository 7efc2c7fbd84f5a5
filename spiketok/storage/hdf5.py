"""HDF5 files to write, on a disk that may get full.

What is unusual: the HDF5 library cannot give up a file that it could not write. It tries again when the file is closed,
when its last object goes and when the process ends, with lines of its own, and crashes there (seen with HDF5 2.0). So
it writes to memory, and what it made is written by us: the bytes are those that it would have written itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py


@contextlib.contextmanager
def writing_hdf5(path: Path, mode: str = "w", **options: object) -> Iterator[h5py.File]:
    """An HDF5 file that is written when the block has ended well; until then it is in memory, whole.

    Args:
        path: of the file. mode: ``"w"``, or ``"r+"`` to change one that is there.
        options: further arguments of ``h5py.File``.

    Raises:
        OSError: it could not be written.
    """
    import h5py

    with h5py.File(path, mode, driver="core", backing_store=False, **options) as file:
        yield file
        file.flush()
        content = file.id.get_file_image()
    Path(path).write_bytes(content)
