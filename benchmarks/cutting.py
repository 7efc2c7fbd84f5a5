"""128 random one-second windows of one session as POYO's tokens: cut and put together as a batch.

torch_brain goes its own way: its Dataset over an HDF5 file in the calling thread, lazy slicing, ``POYO.tokenize`` and
its ``collate`` with pad8. No dropout and no targets on either side. Its latents and session index are part of its
tokens and of its time; they are a few small arrays a window. spiketok writes into buffers that are used again, as its
``Loader`` does:

- padded: the same four tensors, of its shapes and dtypes, the padding zeroed and the mask written;
- packed: offsets and the tokens of all windows behind one another, float32, int32 and uint8.

With unit dropout (alone, on the recording ``small``: 800 spikes a window) the draw of the kept units is timed, too.
Window access is the slices of a shard's two columns for a random second, found by time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch
from harness import Row, compare, measure
from recordings import CLOCK_HZ, recording
from torch_brain.batching import collate
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
from torch_brain.datasets import Dataset, DatasetIndex, SpikingDatasetMixin
from torch_brain.models import POYO

from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.tokens.schemes import PerSpike
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.schemes.kernels import batches as kernels
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.unit_dropout import UnitDropout

BATCH, N_BATCHES, PAD_TO = 128, 4, 8
AT_LEAST = {"small": (None, None), "S": (100, 150), "L": (40, 80)}  # padded, packed
PACKED = {"time": np.dtype(np.float32), "unit": np.dtype(np.int32), "type": np.dtype(np.uint8)}
THEIRS = {"time": "input_timestamps", "unit": "input_unit_index", "type": "input_token_type"}


class Recordings(SpikingDatasetMixin, Dataset):
    spiking_dataset_mixin_uniquify_unit_ids = True


def rows(size: str, rounds: int) -> list[Row]:
    """Rows for padded and packed batches, unit dropout and window access."""
    session = recording(size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "peer").mkdir()
        _write_torch_brain(folder / "peer" / "one.h5", session)
        found = _batches(folder, size, rounds, _shard(folder / "shard", session))
        small = _shard(folder / "small", recording("small"))
        return found + _dropout(small, rounds) + _access(folder / "shard", size, rounds)


def _write_torch_brain(path: Path, session: Session) -> None:
    domain = Interval(0.0, session.stop_ns * 1e-9)
    spikes = IrregularTimeSeries(
        timestamps=session.spikes.time_ns * 1e-9, unit_index=session.spikes.unit.astype(np.int64), domain=domain
    )
    units = ArrayDict(id=np.array(session.units.id, dtype=object))
    with h5py.File(path, "w") as file:
        Data(session=Data(id="one"), units=units, spikes=spikes, domain=domain).to_hdf5(file)


def _shard(path: Path, session: Session) -> ShardReader:
    write_shard(path, PerSpike(), session, session.observed, segments_rule="continuous", store_digest="-")
    return ShardReader(path)


def _random_windows(reader: ShardReader) -> list[Windows]:
    """Starts half a tick off the recording's clock, where float seconds and whole ns agree which spikes are inside."""
    tick = np.random.default_rng(0).integers(0, (reader.info.stop_ns // NS_PER_S - 2) * CLOCK_HZ, (N_BATCHES, BATCH))
    starts = np.rint((tick + 0.5) * (NS_PER_S / CLOCK_HZ)).astype(np.int64)
    return [Windows(np.zeros(BATCH, np.int64), start, NS_PER_S) for start in starts]


class Cutter:
    """Batches of one shard into buffers that are used again."""

    def __init__(self, reader: ShardReader, unit_row: np.ndarray, dtypes: dict[str, np.dtype]) -> None:
        self.scheme, self.columns, self.unit_row, self.dtypes = reader.scheme, reader.columns, unit_row, dtypes
        self.buffers: dict[str, np.ndarray] = {}

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape))
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = np.zeros(size + size // 4, dtype)
        return self.buffers[name][:size].reshape(shape)

    def packed(self, windows: Windows, keep: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        length = self.scheme.lengths(self.columns, windows, keep)
        offset = self._array("offset", (len(windows) + 1,), np.int64)
        offset[0] = 0
        np.cumsum(length, out=offset[1:])
        out = {name: self._array(name, (int(offset[-1]),), dtype) for name, dtype in self.dtypes.items()}
        self.scheme.fill(self.columns, windows, offset[:-1], out, keep, self.unit_row, length)
        return offset, out

    def padded(self, windows: Windows) -> dict[str, np.ndarray]:
        length = self.scheme.lengths(self.columns, windows)
        width = -(-int(length.max()) // PAD_TO) * PAD_TO
        shape = (len(windows), width)
        out = {name: self._array(name, (len(windows) * width,), dtype) for name, dtype in self.dtypes.items()}
        self.scheme.fill(self.columns, windows, np.arange(len(windows)) * width, out, None, self.unit_row, length)
        for column in out.values():
            kernels.clear_tails(column.view(np.uint8).reshape(shape[0], -1), length * column.itemsize)
        mask = self._array("mask", shape, np.bool_)
        np.less(np.arange(width), length[:, None], out=mask)
        return {name: column.reshape(shape) for name, column in out.items()} | {"mask": mask}


def _in_turn(run, batches: list):
    """A call that takes the next batch each time."""
    turn = [0]

    def call():
        turn[0] += 1
        return run(batches[turn[0] % len(batches)])

    return call


def _batches(folder: Path, size: str, rounds: int, reader: ShardReader) -> list[Row]:
    dataset = Recordings(folder / "peer")
    model = POYO(sequence_length=1.0, latent_step=0.125, num_latents_per_step=16, dim_out=2, dim=64)
    model.init_vocabs(dataset)
    dataset.transform = model.tokenize
    unit_row = np.array(model.unit_emb.tokenizer([f"one/{unit}" for unit in reader.info.unit_id]), np.int32)
    batches = _random_windows(reader)

    def theirs(windows: Windows) -> dict[str, torch.Tensor]:
        starts = windows.start_ns.tolist()
        return collate([dataset[DatasetIndex("one", s * 1e-9, (s + NS_PER_S) * 1e-9)] for s in starts])

    wanted = theirs(batches[0])
    same = Cutter(reader, unit_row, {name: wanted[key].numpy().dtype for name, key in THEIRS.items()})
    small = Cutter(reader, unit_row, PACKED)
    for windows in batches:
        wanted, padded, (offset, packed) = theirs(windows), same.padded(windows), small.packed(windows)
        mask = wanted["input_mask"].numpy()
        assert mask.dtype == padded["mask"].dtype
        np.testing.assert_array_equal(padded["mask"], mask)
        np.testing.assert_array_equal(np.diff(offset), mask.sum(axis=1))
        for name, key in THEIRS.items():
            tensor = wanted[key].numpy()
            assert (tensor.dtype, tensor.shape) == (padded[name].dtype, padded[name].shape)
            near = 6e-8 if name == "time" else 0  # one step of float32 at the end of a second
            np.testing.assert_allclose(padded[name], tensor, rtol=0, atol=near)
            np.testing.assert_allclose(packed[name], tensor[mask], rtol=0, atol=near)

    peer, task = "torch_brain, HDF5, workers=0", f"cut 128 random 1 s windows, {size}"
    found = []
    for layout, cutter, goal in zip(("padded", "packed"), (same.padded, small.packed), AT_LEAST[size], strict=True):
        who = f"spiketok, {layout}"
        timing = measure({who: _in_turn(cutter, batches), peer: _in_turn(theirs, batches)}, rounds)
        found += compare(f"{task}, {layout}", timing, who, wanted={} if goal is None else {peer: goal})
    return found


def _dropout(reader: ShardReader, rounds: int) -> list[Row]:
    dropout, n_units = UnitDropout(30, 100, 300, 4.0), reader.info.n_units
    cutter = Cutter(reader, np.arange(n_units, dtype=np.int32), PACKED)
    random, keep = np.random.default_rng(0), np.empty((BATCH, n_units), np.bool_)

    def run(windows: Windows):
        n_keep = dropout.n_keep(random.random(BATCH), np.full(BATCH, n_units))
        draws = random.integers(0, 2**32, int(np.minimum(n_keep, n_units - n_keep).sum()), np.uint32)
        kernels.choose_units(n_keep, draws, keep)
        return cutter.packed(windows, keep)

    who = "spiketok, packed"
    timing = measure({who: _in_turn(run, _random_windows(reader))}, rounds)
    return compare("cut one window of 800 spikes with unit dropout (goal: 5 us)", timing, who, calls=BATCH)


def _access(path: Path, size: str, rounds: int) -> list[Row]:
    reader = ShardReader(path)
    columns = reader.columns
    starts = np.random.default_rng(1).integers(0, reader.info.stop_ns - NS_PER_S, 1000)

    def run() -> None:
        time_ns, unit = columns["time_ns"], columns["unit"]
        for bounds in np.stack([starts, starts + NS_PER_S], axis=1):
            low, high = time_ns.searchsorted(bounds)
            time_ns[low:high], unit[low:high]

    who = "spiketok shard (memory map)"
    return compare(
        f"find a random second in a shard, {size} (goal: 3 us)", measure({who: run}, rounds), who, calls=1000
    )
