"""A session of the Neural Latents Benchmark as the tensors of nlb_tools, one HDF5 file.

The tensors are made in :mod:`spiketok.datasets.nlb.tensors`: bins of 5 ms, the validation split as what is evaluated,
or the test split where the session has no other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiketok.export.base import Exporter, origin_text
from spiketok.recording import Session


def write_tensors(session: Session, digest: str, path: Path) -> list[str]:
    """Write the benchmark's tensors of a session.

    Args:
        session: of one of the benchmark's sets. digest: of the store, for the file's attributes.
        path: the file.

    Returns:
        what is in the file: all else of the session is not.

    Raises:
        UnknownNameError: its dataset is none of the benchmark's. DataError: it lacks what they need.
    """
    import h5py

    from spiketok.datasets.nlb.tensors import BIN_MS, write_nlb

    split = "valid" if "valid" in np.asarray(session.splits.columns.get("name", ())) else "test"
    shapes = write_nlb(session, "", path, split=split)
    with h5py.File(path, "r+") as file:
        file.attrs["store_digest"], file.attrs["origin"] = digest, origin_text(session, digest)
    return [
        f"what is evaluated is the {split} split; of the session there are {len(shapes)} tensors of {BIN_MS} ms bins"
    ]


EXPORTER = Exporter(
    "nlb", ".h5", "the tensors of the Neural Latents Benchmark (nlb_tools), an HDF5 file", write_tensors
)
