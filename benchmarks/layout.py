"""Layout: values into quantile buckets, and counts into patches of 32 units.

Every candidate gets the same input and allocates its output anew where the row says "fresh". A fresh array of tens of
megabytes costs as much as filling it (the system clears its pages), which all candidates pay alike.
"""

from __future__ import annotations

import numpy as np
from harness import Row, measure
from recordings import recording

from spiketok.recording.nouns import Intervals
from spiketok.tokens.schemes.bins import count_bins
from spiketok.tokens.schemes.kernels import patches as kernels
from spiketok.tokens.schemes.quantized import bucketize

N_VALUES, N_BUCKETS = 10_000_000, 256
PATCH_SIZE, MAX_COUNT, BIN_NS = 32, 20, 20_000_000


def rows(size: str, rounds: int) -> list[Row]:
    return [*bucket_rows(rounds), *patch_rows(size, rounds)]


def bucket_rows(rounds: int) -> list[Row]:
    """10 M normal float32 values into 256 buckets of equal size, one thread each."""
    import torch

    value = np.random.default_rng(0).normal(size=N_VALUES).astype(np.float32)
    edges = np.quantile(value, np.arange(1, N_BUCKETS) / N_BUCKETS).astype(np.float32)
    value_torch, edges_torch = torch.from_numpy(value), torch.from_numpy(edges)
    candidates = {
        "spiketok bucketize": lambda: bucketize(value, edges),
        "torch.bucketize, int32": lambda: torch.bucketize(value_torch, edges_torch, out_int32=True),
        "numpy.searchsorted": lambda: np.searchsorted(edges, value),
        "numpy.digitize": lambda: np.digitize(value, edges, right=True),
    }
    wanted = {"torch.bucketize, int32": 40.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: np.asarray(run()) for name, run in candidates.items()}
        for name, buckets in found.items():
            assert np.array_equal(buckets, found["spiketok bucketize"]), name
        return table(f"{N_VALUES / 1e6:g} M float32 to {N_BUCKETS} quantile buckets", candidates, wanted, rounds)
    finally:
        torch.set_num_threads(threads)


def patch_rows(size: str, rounds: int) -> list[Row]:
    """Counts ``[T, N]`` to clipped, padded patches ``[T, P, 32]``: fresh outputs, then given ones."""
    session = recording(size)
    counts, _, _ = count_bins(session, Intervals([session.start_ns], [session.stop_ns]), BIN_NS)
    n_bins, n_units = counts.shape
    n_patches = -(-n_units // PATCH_SIZE)
    width = n_patches * PATCH_SIZE
    run = tuple(np.array([k]) for k in (0, 0, n_units))  # all units side by side

    def spiketok(out: np.ndarray) -> np.ndarray:
        kernels.lay_patches(counts, *run, np.uint8(MAX_COUNT), out)
        return out.reshape(n_bins, n_patches, PATCH_SIZE)

    def pad() -> np.ndarray:
        clipped = np.minimum(counts, MAX_COUNT)
        return np.pad(clipped, ((0, 0), (0, width - n_units))).reshape(n_bins, n_patches, PATCH_SIZE)

    def into(out: np.ndarray) -> np.ndarray:
        np.minimum(counts, MAX_COUNT, out=out[:, :n_units])
        return out.reshape(n_bins, n_patches, PATCH_SIZE)

    fresh = {
        "spiketok": lambda: spiketok(np.empty((n_bins, width), np.uint8)),
        "numpy.pad of numpy.minimum": pad,
        "numpy.minimum into numpy.zeros": lambda: into(np.zeros((n_bins, width), np.uint8)),
    }
    own, other = np.zeros((n_bins, width), np.uint8), np.zeros((n_bins, width), np.uint8)
    reused = {"spiketok": lambda: spiketok(own), "numpy.minimum": lambda: into(other)}
    for name, lay in (fresh | {"numpy, reused": reused["numpy.minimum"]}).items():
        assert np.array_equal(lay(), spiketok(own)), name
    task = f"counts {n_bins:,} x {n_units} to patches of {PATCH_SIZE}"
    return [
        *table(f"{task}, fresh output", fresh, {"numpy.pad of numpy.minimum": 4.0}, rounds),
        *table(f"{task}, given output", reused, {}, rounds),
    ]


def table(task: str, candidates: dict, wanted: dict[str, float], rounds: int) -> list[Row]:
    """The first candidate is spiketok."""
    timing = measure(candidates, rounds)
    ours, *peers = candidates
    own = Row(task, ours, timing.median(ours))
    return [own, *[Row(task, p, timing.median(p), timing.ratio(p, ours), wanted.get(p)) for p in peers]]
