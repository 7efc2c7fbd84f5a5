"""NWB in a folder of zarr arrays (``x.nwb.zarr``, or a folder named ``x.nwb``): exported to HDF5, then read as always.

hdmf-zarr reads it and pynwb writes it, so that there is one reader of values and one set of repairs. What is unusual:

- zarr reads a chunk that is missing as zeros without a word, so the spikes' chunks are counted first;
- hdmf-zarr keeps object references as pickles, which could run any code: here they are unpickled with the few names
  that references need and no other;
- links, references and symbolic links may lead into any folder of this machine: those that leave this one are refused;
- arrays declare their shape in a few bytes: what all of them declare is bounded as what an HDF5 file's values take.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError, require
from spiketok.sources.formats.nwb.hdf5 import HERE, READ_MEMORY, read_memory
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import human_bytes, source_bytes

CONSOLIDATED = ".zmetadata"
MARKS = (".zgroup", "zarr.json", CONSOLIDATED)
SAFE_NAMES = frozenset({
    ("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("hdmf_zarr.utils", "ZarrReference"),
})  # fmt: skip
SPIKES = ("units/spike_times", "units/spike_times_index")


def is_zarr_folder(path: Path) -> bool:
    """Whether a path is a folder with a zarr group in it."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


class _References(pickle.Unpickler):
    """Unpickles arrays of object references; anything else is refused before it is imported."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in SAFE_NAMES:
            message = f"it holds a pickle of {module}.{name}, which could run code"
            raise pickle.UnpicklingError(message)
        return super().find_class(module, name)


@contextlib.contextmanager
def _only_references_unpickled() -> Iterator[None]:
    """In the block, numcodecs decodes pickles through :class:`_References`."""
    from numcodecs.pickles import Pickle
    from numcodecs.registry import codec_registry

    class ReferencePickle(Pickle):
        def decode(self, buf, out=None):
            decoded = _References(io.BytesIO(bytes(buf))).load()
            if out is None:
                return decoded
            out[...] = decoded
            return out

    before = codec_registry.get("pickle")
    codec_registry["pickle"] = ReferencePickle
    try:
        yield
    finally:
        if before is None:
            del codec_registry["pickle"]
        else:
            codec_registry["pickle"] = before


@contextlib.contextmanager
def as_hdf5(path: Path) -> Iterator[Path]:
    """The HDF5 file that a zarr folder makes, in a temporary folder, for as long as the block lasts.

    Raises:
        MissingExtraError: hdmf-zarr is not installed. SourceError: the folder is no NWB, or incomplete.
    """
    backend = require("hdmf_zarr.nwb", "zarr-nwb", f"reading the zarr folder {path.name}")
    from hdmf.build.errors import BuildError, ConstructError
    from pynwb import NWBHDF5IO
    from zarr.errors import MetadataError

    broken = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError)
    with tempfile.TemporaryDirectory(prefix="spiketok-") as scratch:
        file = Path(scratch) / path.name
        try:
            _check_borders(path)
            _check_spikes(path)
            with warnings.catch_warnings(), _only_references_unpickled():
                warnings.simplefilter("ignore")  # what pynwb says of odd files, the reader says better
                with _alone(backend)(str(path), mode="r") as source, NWBHDF5IO(str(file), mode="w") as target:
                    target.export(src_io=source, write_args={"link_data": False}, cache_spec=False)
        except (*broken, ConstructError, BuildError, MetadataError, pickle.UnpicklingError) as error:
            if (path / "zarr.json").is_file():
                message = (
                    f"{path.name}: is a zarr folder of format 3, hdmf-zarr reads format 2: export it to that, or HDF5"
                )
                raise SourceError(message) from error
            raise_cause(error, path, SourceError)
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            message = f"{path.name}: is a zarr folder that hdmf-zarr cannot read ({reason}): download or copy it again"
            raise SourceError(message) from error
        yield file


def _alone(backend):
    """hdmf-zarr's reader, which here follows links and references within its folder only."""

    class AloneIO(backend.NWBZarrIO):
        def resolve_ref(self, zarr_ref):
            source = zarr_ref.get("source")
            place = os.path.join(self.source, str(zarr_ref.get("path") if source is None else source))
            if source != "." and os.path.realpath(place) != os.path.realpath(self.source):
                message = (
                    f"{Path(self.source).name}: a link leads into {source}, which is outside of the folder: {HERE}"
                )
                raise SourceError(message)
            return super().resolve_ref(zarr_ref)

    return AloneIO


def _check_borders(path: Path) -> None:
    """Refuse a folder with links of the disk that leave it, or with arrays that declare more than it may take."""
    home, declared = path.resolve(), 0
    for folder, below, files in os.walk(path):
        for name in (*below, *files):
            item = Path(folder) / name
            if item.is_symlink() and home not in item.resolve().parents:
                message = f"{path.name}: {item.relative_to(path)} is a link out of the folder: {HERE}"
                raise SourceError(message)
        if ".zarray" in files:
            declared += _declared(json.loads((Path(folder) / ".zarray").read_text()))
    if (path / CONSOLIDATED).is_file():  # what stands there is believed before the files beside the chunks
        told = json.loads((path / CONSOLIDATED).read_text())["metadata"]
        declared = max(declared, sum(_declared(facts) for key, facts in told.items() if key.endswith(".zarray")))
    size = source_bytes(path)
    if declared > (most := read_memory(size)):
        message = (
            f"{path.name}: its arrays declare {human_bytes(declared)}, allowed are {human_bytes(most)} for a folder of "
            f"{human_bytes(size)}: set {READ_MEMORY}={human_bytes(2 * declared).replace(' ', '')} if you trust it"
        )
        raise SourceError(message)


def _declared(facts: Mapping) -> int:
    """Bytes that an array's values take, by its metadata."""
    dtype = facts["dtype"]
    each = np.dtype(dtype).itemsize if isinstance(dtype, str) else sum(np.dtype(part[1]).itemsize for part in dtype)
    return math.prod(map(int, facts["shape"])) * each


def _check_spikes(path: Path) -> None:
    """Refuse a folder in which chunks of the spike times are missing."""
    import zarr

    group = zarr.open_group(str(path), mode="r")
    for name in SPIKES:
        if name in group and (there := group[name].nchunks_initialized) != group[name].nchunks:
            message = (
                f"{path.name}: {there} of {group[name].nchunks} chunks of {name} are there: download or copy it again"
            )
            raise SourceError(message)
