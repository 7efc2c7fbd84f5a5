"""A session of FALCON as the arrays of its reference loader, one HDF5 file.

The arrays are made in :mod:`spiketok.pipeline.export.falcon_tensors`, in the reading "reference": with the seconds of
the source file where it is at hand, so that spikes on edges fall as they do there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spiketok.pipeline.export.base import Exporter, origin_attribute, origin_text
from spiketok.recording.nouns import Session
from spiketok.storage.hdf5 import writing_hdf5


def write_tensors(session: Session, digest: str, path: Path, sources: Sequence[Path] = ()) -> list[str]:
    """Write FALCON's arrays of a session.

    Args:
        session: of one of the six sets. digest: of the store, for the file's attributes.
        path: the file. sources: its NWB file, if it is at hand.

    Returns:
        what is in the file, all else of the session is not; and what the source file alone could decide.

    Raises:
        DataError: it is none of FALCON's sessions.
    """

    from spiketok.pipeline.export.falcon_tensors import write_falcon

    made = write_falcon(session, path, source=sources[0] if sources else None)
    with writing_hdf5(path, "r+") as file:
        file.attrs["store_digest"], file.attrs["origin"] = digest, origin_text(session, digest)
    n_bins, n_units = made.neural.shape
    told = [f"{n_bins} bins of {n_units} units with targets of task {made.task} are written"]
    if made.n_near_edge:
        told.append(
            f"{made.n_near_edge} spikes lie within 1 ns of an edge: the source's own seconds may put them beyond"
        )
    return told


EXPORTER = Exporter(
    "falcon",
    ".h5",
    "the arrays of FALCON's reference loader, an HDF5 file",
    write_tensors,
    origin_attribute,
    write_beside=write_tensors,
)
