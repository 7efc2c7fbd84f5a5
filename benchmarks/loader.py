"""How many one-second windows a second each loader turns into POYO training batches, on the same recordings.

    python benchmarks/loader.py [--size small|S] [--rounds N]

Needs the oracle environment (``make bench`` builds it): torch_brain from PyPI stands beside spiketok.

Recordings are generated: 4 sessions of 200 units with log-normal rates (mean 8 Hz), 1.5 ms refractory, times on a
30 kHz grid, and a 100 Hz velocity. Both sides do the same work: jittered 1 s windows over all sessions, unit dropout
(30/100/300/4), POYO tokens with START and END, normalised targets at the behaviour's own rate, batches of 128 as torch
tensors on the CPU.

- torch_brain: its Dataset over HDF5 files (lazy, its usual path) or over the same data held in memory (a form made
  here, the fastest we could give it), RandomFixedWindowSampler, UnitDropout, ``POYO.tokenize``, its ``collate`` with
  pad8, a DataLoader with 0 or 2 persistent workers. Its latents are part of its tokens and of its time; they are a few
  small arrays a window.
- spiketok: shards and ``Loader``, packed (its default) or padded to the same tensors, in the calling thread or
  prefetched in 2 threads. No worker process.

Candidates take turns in rounds; a sample is one epoch, and the median over rounds is printed. Before any timing the
tokens of a batch are compared value by value.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_brain.batching import collate, pad8, track_mask8
from torch_brain.data import ArrayDict, Data, Interval, IrregularTimeSeries
from torch_brain.datasets import Dataset, DatasetIndex, SpikingDatasetMixin
from torch_brain.models import POYO
from torch_brain.samplers import RandomFixedWindowSampler
from torch_brain.transforms import Compose
from torch_brain.transforms import UnitDropout as TorchBrainUnitDropout

from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import PerSpike
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.loader import Loader
from spiketok.training.sampling import RandomWindows, SessionWindows
from spiketok.training.tasks.decode import Decode, DecodeConfig, TargetSpec
from spiketok.training.unit_dropout import UnitDropout

SECONDS = {"small": 180, "S": 900}
N_SESSIONS, N_UNITS, BATCH = 4, 200, 128
WINDOW_NS = 1_000_000_000
DROPOUT = (30, 100, 300)
TARGET = TargetSpec("vel", ("x", "y"), "mm/s", (0.0, 0.0), (20.0, 20.0))
VEL = Decode("vel", DecodeConfig(), TARGET)


# ---- recordings -----------------------------------------------------------------------------------------------------


def make_session(number: int, seconds: int) -> Session:
    rng = np.random.default_rng(number)
    rates = np.minimum(rng.lognormal(np.log(8) - 0.5, 1.0, N_UNITS), 200.0)
    times = []
    for rate in rates:
        interval = 1.5e-3 + rng.exponential(max(1 / rate - 1.5e-3, 1e-4), int(seconds * rate * 1.2) + 50)
        sample = np.unique(np.rint(np.cumsum(interval) * 30_000).astype(np.int64))
        times.append(np.rint(sample[sample < seconds * 30_000] * (1e9 / 30_000)).astype(np.int64))
    stop = seconds * 1_000_000_000
    time_ns = np.arange(0, stop, 10_000_000)
    value = np.cumsum(rng.normal(size=(len(time_ns), 2)), axis=0).astype(np.float32)
    whole = Intervals([0], [stop])
    return Session(
        id=f"bench/{number}",
        subject="s",
        start_ns=0,
        stop_ns=stop,
        units=UnitTable([f"unit_{n}" for n in range(N_UNITS)]),
        spikes=Spikes.from_units(times),
        observed=whole,
        source=Source("made.nwb", "0" * 64, 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 100.0)},
    )


def write_hdf5(path: Path, session: Session) -> None:
    domain = Interval(0.0, session.stop_ns * 1e-9)
    vel = session.signals["vel"]
    data = Data(
        session=Data(id=session.name),
        units=ArrayDict(id=np.array(session.units.id, dtype=object)),
        spikes=IrregularTimeSeries(
            timestamps=session.spikes.time_ns * 1e-9, unit_index=session.spikes.unit.astype(np.int64), domain=domain
        ),
        cursor=IrregularTimeSeries(timestamps=vel.time_ns * 1e-9, vel=vel.value.astype(np.float64), domain=domain),
        domain=domain,
    )
    with h5py.File(path, "w") as file:
        data.to_hdf5(file)


# ---- torch_brain ----------------------------------------------------------------------------------------------------


class Recordings(SpikingDatasetMixin, Dataset):
    spiking_dataset_mixin_uniquify_unit_ids = True


class RecordingsInMemory(Recordings):
    """All arrays read once and shared, where the peer's own ``get_recording`` would copy them all for every window."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for data in self._data_objects.values():
            data.materialize()
            self.get_recording_hook(data)

    def get_recording(self, recording_id: str, _namespace: str = "") -> Data:
        return copy.copy(self._data_objects[recording_id])


class Targets:
    """What torch_brain's own POYO example adds to the tokens: query times, normalised values and their mask."""

    def __init__(self, model: POYO) -> None:
        self.model = model

    def __call__(self, data: Data) -> dict:
        sample = self.model.tokenize(data)
        times = data.cursor.timestamps.astype(np.float32)
        sample["output_timestamps"] = pad8(times)
        sample["output_values"] = pad8((data.cursor.vel / TARGET.std[0]).astype(np.float32))
        sample["output_weights"] = pad8(np.ones(len(times), np.float32))
        sample["output_mask"] = track_mask8(times)
        return sample


def torch_brain_loader(folder: Path, *, in_memory: bool, workers: int) -> tuple[DataLoader, POYO]:
    dataset = RecordingsInMemory(folder) if in_memory else Recordings(folder)
    model = POYO(sequence_length=1.0, latent_step=0.125, num_latents_per_step=16, dim_out=2, dim=64)
    model.init_vocabs(dataset)
    dropout = TorchBrainUnitDropout(min_units=DROPOUT[0], mode_units=DROPOUT[1], max_units=DROPOUT[2], peak=4)
    dataset.transform = Compose([dropout, Targets(model)])
    sampler = RandomFixedWindowSampler(sampling_intervals=dataset.get_sampling_intervals(), window_length=1.0)
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return loader, model


# ---- spiketok -------------------------------------------------------------------------------------------------------


def spiketok_loader(readers: list[ShardReader], rows: dict[str, np.ndarray], **options) -> Loader:
    sessions = [SessionWindows(reader, reader.observed) for reader in readers]
    options = {"unit_dropout": UnitDropout(*DROPOUT, 4.0)} | options
    return Loader(
        sessions, RandomWindows(sessions, WINDOW_NS), batch_size=BATCH, tasks=[VEL], unit_rows=rows, **options
    )


def unit_rows(readers: list[ShardReader], model: POYO) -> dict[str, np.ndarray]:
    """The rows of torch_brain's vocabulary, so that both write the same numbers."""
    return {
        r.info.id: np.array(
            model.unit_emb.tokenizer([f"{r.info.id.split('/')[1]}/{unit}" for unit in r.info.unit_id]), np.int32
        )
        for r in readers
    }


def check_tokens(readers: list[ShardReader], rows: dict[str, np.ndarray], folder: Path, model: POYO) -> int:
    """Compare the tokens of 64 windows value by value; returns how many tokens were compared.

    Windows start half a sample off the 30 kHz grid, where seconds in float64 and whole nanoseconds agree about which
    spikes lie inside.
    """
    dataset = Recordings(folder)
    compared = 0
    rng = np.random.default_rng(0)
    for number, reader in enumerate(readers):
        stop = int(reader.segments.stop_ns[0]) - 2 * WINDOW_NS
        starts = np.rint((rng.integers(0, stop // 33_333, 16) + 0.5) * (1e9 / 30_000)).astype(np.int64)
        windows = Windows(np.zeros(16, np.int64), starts, WINDOW_NS)
        tokens = reader.scheme.cut(reader.columns, windows, None, rows[reader.info.id])
        for b, start in enumerate(starts.tolist()):
            index = DatasetIndex(str(number), start * 1e-9, (start + WINDOW_NS) * 1e-9)
            theirs = model.tokenize(dataset[index])
            own = {name: column[tokens.offset[b] : tokens.offset[b + 1]] for name, column in tokens.columns.items()}
            np.testing.assert_array_equal(own["type"], theirs["input_token_type"].obj)
            np.testing.assert_array_equal(own["unit"], theirs["input_unit_index"].obj)
            np.testing.assert_allclose(own["time"], theirs["input_timestamps"].obj, rtol=0, atol=6e-8)
            compared += len(own["time"])
    return compared


# ---- timing ---------------------------------------------------------------------------------------------------------


def epoch_of(loader: DataLoader) -> Callable[[], tuple[int, int]]:
    def run() -> tuple[int, int]:
        windows = tokens = 0
        for batch in loader:
            windows += len(batch["input_mask"])
            tokens += int(batch["input_mask"].sum())
        return windows, tokens

    return run


def epochs_of(loader: Loader, repeats: int) -> Callable[[], tuple[int, int]]:
    def run() -> tuple[int, int]:
        windows = tokens = 0
        for _ in range(repeats):
            for batch in loader:
                windows += len(batch)
                cut = batch.tokens()
                tokens += int(cut.offset[-1]) if cut.offset is not None else int(cut.valid_BL.sum())
        return windows, tokens

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SECONDS, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare(folder, SECONDS[arguments.size], arguments.rounds)


def compare(folder: Path, seconds: int, rounds: int) -> None:
    (folder / "h5").mkdir()
    readers, n_spikes = [], 0
    for number in range(N_SESSIONS):
        session = make_session(number, seconds)
        n_spikes += len(session.spikes)
        write_hdf5(folder / "h5" / f"{number}.h5", session)
        target = folder / "shards" / str(number)
        write_shard(target, PerSpike(), session, session.observed, segments_rule="continuous", store_digest="-")
        readers.append(ShardReader(target))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{N_SESSIONS} sessions x {N_UNITS} units x {seconds} s, {n_spikes:,} spikes; batches of {BATCH} x 1 s")
    print(f"{cores} cores ({platform.processor() or platform.machine()}), Python {platform.python_version()}")

    candidates: dict[str, Callable[[], tuple[int, int]]] = {}
    for in_memory in (False, True):
        for workers in (0, 2):
            loader, model = torch_brain_loader(folder / "h5", in_memory=in_memory, workers=workers)
            place = "in memory" if in_memory else "HDF5"
            candidates[f"torch_brain, {place}, workers={workers}"] = epoch_of(loader)
    rows = unit_rows(readers, model)
    compared = check_tokens(readers, rows, folder / "h5", model)
    print(f"{compared:,} tokens of 64 windows compared with torch_brain's: equal (times to 60 ns, one float32 step)\n")
    for layout, prefetch in (("padded", 0), ("packed", 0), ("packed", 2)):
        how = "in the calling thread" if prefetch == 0 else f"{prefetch} threads"
        loader = spiketok_loader(readers, rows, layout=layout, prefetch=prefetch)
        candidates[f"spiketok, {layout}, {how}"] = epochs_of(loader, 10)

    for run in candidates.values():
        run()  # files into the page cache, kernels compiled, worker processes started
    rate: dict[str, list[float]] = {name: [] for name in candidates}
    token_rate: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            windows, tokens = run()
            took = time.perf_counter() - start
            rate[name].append(windows / took)
            token_rate[name].append(tokens / took)

    first = "torch_brain, HDF5, workers=0"
    peers = [name for name in candidates if name.startswith("torch_brain")]
    best = max(peers, key=lambda name: statistics.median(rate[name]))
    print(f"{'loader':<44}{'samples/s':>11}{'Mtokens/s':>11}{'x workers=0':>13}{'x its best':>12}")
    for name in candidates:
        against = [statistics.median(a / b for a, b in zip(rate[name], rate[p], strict=True)) for p in (first, best)]
        print(
            f"{name:<44}{statistics.median(rate[name]):>11,.0f}{statistics.median(token_rate[name]) / 1e6:>11.2f}"
            f"{against[0]:>13.1f}{against[1]:>12.1f}"
        )
    print(f"\nits best: {best}; medians over {rounds} rounds, ratios within a round")


if __name__ == "__main__":
    main()
