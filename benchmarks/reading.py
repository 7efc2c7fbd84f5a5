"""One random second out of a long recording: from a shard, from zarr, from HDF5, and by torch_brain's lazy slicing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import zarr
from harness import Row, compare, measure
from recordings import recording
from torch_brain.data import Data, Interval, IrregularTimeSeries

from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.storage.store import read_session, write_session
from spiketok.tokens.schemes import PerSpike
from spiketok.tokens.shards import ShardReader, write_shard

N_WINDOWS = 64


def rows(size: str, rounds: int) -> list[Row]:
    """Rows for the window and for the whole session."""
    session = recording(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_session(session, folder / "store")
        write_shard(
            folder / "shard", PerSpike(), session, session.observed, segments_rule="continuous", store_digest="-"
        )
        _write_contiguous(folder / "plain.h5", session)
        _write_torch_brain(folder / "peer.h5", session)
        return _windows(folder, session, rounds) + _whole(folder, session, rounds)


def _write_contiguous(path: Path, session: Session) -> None:
    with h5py.File(path, "w") as file:
        file["time_ns"], file["unit"] = session.spikes.time_ns, session.spikes.unit


def _write_torch_brain(path: Path, session: Session) -> None:
    domain = Interval(0.0, session.stop_ns * 1e-9)
    spikes = IrregularTimeSeries(
        timestamps=session.spikes.time_ns * 1e-9, unit_index=session.spikes.unit.astype(np.int64), domain=domain
    )
    with h5py.File(path, "w") as file:
        Data(spikes=spikes, domain=domain).to_hdf5(file)


def _windows(folder: Path, session: Session, rounds: int) -> list[Row]:
    """Where a window's rows begin is known to the first three, which only read; torch_brain finds it itself."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, session.stop_ns - NS_PER_S, N_WINDOWS)
    low = np.searchsorted(session.spikes.time_ns, starts).tolist()
    high = np.searchsorted(session.spikes.time_ns, starts + NS_PER_S).tolist()
    pairs = list(zip(low, high, strict=True))
    columns = ShardReader(folder / "shard").columns
    group = zarr.open_group(str(folder / "store"), mode="r")
    plain, peer_file = h5py.File(folder / "plain.h5"), h5py.File(folder / "peer.h5")
    peer = Data.from_hdf5(peer_file, lazy=True)

    def from_two(time_ns, unit):
        return [(time_ns[a:z], unit[a:z]) for a, z in pairs]

    def from_peer():
        spikes = [peer.slice(s * 1e-9, s * 1e-9 + 1.0).spikes for s in starts.tolist()]
        return [(s.timestamps, s.unit_index) for s in spikes]

    def from_shard():  # a column is looked up once a window, as a loader does
        return [(columns["time_ns"][a:z], columns["unit"][a:z]) for a, z in pairs]

    candidates = {
        "spiketok shard (memory map)": from_shard,
        "h5py, contiguous": lambda: from_two(plain["time_ns"], plain["unit"]),
        "zarr, spiketok's own store": lambda: from_two(group["spikes/time"], group["spikes/unit"]),
        "torch_brain, lazy HDF5": from_peer,
    }
    for (time_ns, unit), (seconds, index) in zip(from_shard(), from_peer(), strict=True):
        assert abs(len(time_ns) - len(seconds)) <= 1 and len(unit) == len(time_ns) and len(index) == len(seconds)
    timing = measure(candidates, rounds)
    plain.close()
    peer_file.close()
    return compare("read a random 1 s window", timing, "spiketok shard (memory map)", calls=N_WINDOWS)


def _whole(folder: Path, session: Session, rounds: int) -> list[Row]:
    def from_contiguous():
        with h5py.File(folder / "plain.h5") as file:
            return file["time_ns"][...], file["unit"][...]

    def from_peer():
        with h5py.File(folder / "peer.h5") as file:
            spikes = Data.from_hdf5(file, lazy=False).spikes
            return spikes.timestamps, spikes.unit_index

    ours = "spiketok store (zarr, compressed, digest checked)"
    candidates = {
        ours: lambda: read_session(folder / "store"),
        "h5py, contiguous, nothing checked": from_contiguous,
        "torch_brain HDF5, nothing checked": from_peer,
    }
    np.testing.assert_array_equal(read_session(folder / "store").spikes.time_ns, session.spikes.time_ns)
    return compare("read all spikes", measure(candidates, min(rounds, 3)), ours)
