"""Fixed vectors of units as an input of a session: read from the file that ``spiketok embed`` writes.

What is unusual:

- a run names its file by its sha256 (``model.vectors``), and a copy of it lies under that name in the workspace
  (``<root>/vectors``), where every command that opens the shards of a run finds it;
- the file says of which time a session's vectors are. They are given only where that time lies inside the session's
  calibration: in training inside its training time. Where no calibration is known (``zero_shot``) there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketok.errors import ArtefactError, DataError, SpiketokError, UsageError
from spiketok.recording.intervals import without
from spiketok.recording.nouns import Intervals, SessionInfo
from spiketok.storage.causes import raise_cause
from spiketok.storage.files import atomic_file, sha256_file, writing
from spiketok.storage.npz import read_npz
from spiketok.storage.workspace import Workspace

VECTORS = "vectors"  # the name of the input
AGAIN = "spiketok embed RUN --calibration-s SECONDS, and name its file by --vectors"


@dataclass(frozen=True, eq=False)
class SessionVectors:
    """The vectors of one session's units.

    Args:
        session: its id. vector: float32 ``[N, V]``, NaN where a unit has none. time: what they were computed from.
    """

    session: str
    vector: np.ndarray
    time: Intervals

    def columns(self, calibration: Intervals) -> dict[str, np.ndarray]:
        """``vector`` ``[N, V]`` where the calibration holds all their time; ``[0, V]`` where there is no calibration.

        Raises:
            DataError: they know of other time.
        """
        if not len(calibration):
            return {"vector": self.vector[:0]}
        if other := without(self.time, calibration).total_ns:
            message = (
                f"{self.session}: its unit vectors are of {self.time.total_ns / 1e9:g} s, {other / 1e9:g} s of which "
                f"are not in the {calibration.total_ns / 1e9:g} s that may be known of it: {AGAIN}"
            )
            raise DataError(message)
        return {"vector": self.vector}


@dataclass(frozen=True, eq=False)
class VectorFile:
    """A file of unit vectors.

    Args:
        digest: sha256 of the file. run_digest: of the checkpoint of the run that embedded. dim: V.
        sessions: by id, names of the units and their vectors.
    """

    path: Path
    digest: str
    run_digest: str
    dim: int
    sessions: Mapping[str, tuple[list[str], SessionVectors]]

    def of(self, infos: Sequence[SessionInfo]) -> list[SessionVectors]:
        """The vectors of these sessions.

        Raises:
            DataError: sessions have none, or other units.
        """
        absent = [info.id for info in infos if info.id not in self.sessions]
        if absent:
            shown = f"{absent[0]}{f' and {len(absent) - 1} more' if absent[1:] else ''}"
            message = f"{self.path.name[:16]} holds no unit vectors of {shown} ({len(self.sessions)} sessions): {AGAIN}"
            raise DataError(message)
        found = []
        for info in infos:
            names, vectors = self.sessions[info.id]
            if names != info.unit_keys():
                message = f"{info.id} has {info.n_units} units, its {len(names)} unit vectors are of others: {AGAIN}"
                raise DataError(message)
            found.append(vectors)
        return found


def read_vectors(path: Path) -> VectorFile:
    """Read what ``spiketok embed`` wrote.

    Raises:
        ArtefactError: there is no such file, or it is no such file, or one that does not say of which time it is.
    """
    try:
        arrays = read_npz(path)
        session, vector = arrays["session"], arrays["vector"]
        if vector.dtype.kind != "f" or np.isinf(vector).any():
            message = f"vectors of {vector.dtype}" + (", some infinite" if vector.dtype.kind == "f" else "")
            raise ValueError(message)
        vector = vector.astype(np.float32)
        if vector.ndim != 2 or not vector.shape[1] or not len(session) == len(vector) == len(arrays["unit"]):
            message = f"{len(session)} rows of units and vectors of shape {vector.shape}"
            raise ValueError(message)
        if not (session.dtype.kind == "U" and session.ndim == arrays["unit"].ndim == 1):
            raise ValueError("sessions and units that are no lists of names")
        of_time, start_ns, stop_ns = (arrays[f"time.{name}"] for name in ("session", "start_ns", "stop_ns"))
        found = {}
        for name in dict.fromkeys(session.tolist()):
            own, spans = session == name, of_time == name
            time = Intervals(start_ns[spans], stop_ns[spans])
            if not len(time):
                message = f"vectors of '{name}' of no time"
                raise ValueError(message)
            found[name] = arrays["unit"][own].tolist(), SessionVectors(name, vector[own], time)
        return VectorFile(path, sha256_file(path), str(arrays["run_digest"]), vector.shape[1], found)
    except FileNotFoundError:
        message = f"there is no file of unit vectors {path}: {AGAIN}"
        raise ArtefactError(message) from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, SpiketokError) as error:
        raise_cause(error, path)
        fact = f"no array {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        message = f"{path} is no file of unit vectors ({fact}): {AGAIN}"
        raise ArtefactError(message) from error


def keep_vectors(workspace: Workspace, path: Path) -> VectorFile:
    """Read a file of vectors and put a copy of it where the runs of the workspace find it."""
    found = read_vectors(path)
    target = workspace.vectors_path(found.digest)
    if not (target.is_file() and sha256_file(target) == found.digest):
        body = path.read_bytes()
        with writing(target, len(body)), atomic_file(target) as wip:
            wip.write_bytes(body)
    return found


def vector_sets(file: VectorFile) -> list[str]:
    """What a run that reads a file sets, in the form of ``--set``."""
    return [f"model.vectors={file.digest}", f"model.vector_dim={file.dim}"]


def kept_vectors(workspace: Workspace, digest: str) -> VectorFile:
    """The file that a run names.

    Raises:
        ArtefactError: it is gone, or it was changed.
    """
    path = workspace.vectors_path(digest)
    found = read_vectors(path)
    if found.digest != digest:
        message = f"{path} is damaged: its sha256 is {found.digest[:12]}; name the file again by --vectors"
        raise ArtefactError(message)
    return found


def require_same_embedding(workspace: Workspace, digest: str, other: VectorFile) -> None:
    """Raise UsageError where a run that reads one file shall read another, which another run embedded.

    Args:
        digest: of the run's own file; empty for none.
    """
    if not digest:
        message = f"the run reads no unit vectors: leave out --vectors {other.path}"
        raise UsageError(message)
    own = kept_vectors(workspace, digest)
    if own.run_digest != other.run_digest:
        message = (
            f"{other.path} was embedded by run {other.run_digest[:12]}, the model was trained on vectors by "
            f"{own.run_digest[:12]}: embed with that run"
        )
        raise UsageError(message)
