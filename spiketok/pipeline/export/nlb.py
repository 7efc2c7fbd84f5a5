"""A session of the Neural Latents Benchmark as the tensors of nlb_tools, one HDF5 file.

The tensors are made in :mod:`spiketok.pipeline.export.nlb_tensors`. ``nlb`` is for development: the validation split is
what is evaluated, its targets with it (the test split where the session has no other). ``nlb_test`` is for a
submission: the test split's input, and training tensors over train and valid. ``_20`` has bins of 20 ms in place of 5.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from spiketok.pipeline.export.base import Exporter, origin_attribute, origin_text
from spiketok.recording.nouns import Session
from spiketok.storage.hdf5 import writing_hdf5


def write_tensors(session: Session, digest: str, path: Path, *, bin_ms: int = 5, split: str = "") -> list[str]:
    """Write the benchmark's tensors of a session.

    Args:
        session: of one of the benchmark's sets. digest: of the store, for the file's attributes.
        path: the file.
        bin_ms: 5 or 20. split: ``"valid"`` or ``"test"``; empty: valid where the session has it.

    Returns:
        what is in the file: all else of the session is not.

    Raises:
        UnknownNameError: its dataset is none of the benchmark's. DataError: it lacks what they need.
    """

    from spiketok.pipeline.export.nlb_tensors import fill_nlb

    split = split or ("valid" if "valid" in np.asarray(session.splits.columns.get("name", ())) else "test")
    shapes = fill_nlb(session, "", path, bin_ms, split, psth=True)
    with writing_hdf5(path, "r+") as file:
        file.attrs["store_digest"], file.attrs["origin"] = digest, origin_text(session, digest)
    return [
        f"what is evaluated is the {split} split; of the session there are {len(shapes)} tensors of {bin_ms} ms bins"
    ]


TITLE = "the tensors of the Neural Latents Benchmark (nlb_tools), an HDF5 file"
EXPORTERS = (
    Exporter("nlb", ".nlb.h5", TITLE, write_tensors, origin_attribute),
    Exporter("nlb_20", ".nlb_20.h5", f"{TITLE}, bins of 20 ms", partial(write_tensors, bin_ms=20), origin_attribute),
    Exporter(
        "nlb_test",
        ".nlb_test.h5",
        f"{TITLE}, for a submission",
        partial(write_tensors, split="test"),
        origin_attribute,
    ),
    Exporter(
        "nlb_test_20",
        ".nlb_test_20.h5",
        f"{TITLE}, for a submission, bins of 20 ms",
        partial(write_tensors, bin_ms=20, split="test"),
        origin_attribute,
    ),
)
