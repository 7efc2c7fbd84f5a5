"""Files of BrainWideBench that torch_brain itself wrote, and windows as it cuts them, run by ``make oracle``."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.recording.nouns import Source
from spiketok.sources.catalogue import RULES
from spiketok.sources.catalogue.bwb import windows as bwb
from spiketok.storage.store import session_digest
from tests.layouts import bwb as layout

pytestmark = pytest.mark.oracle
SOURCE = Source("one.h5", "0" * 64, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """One that h5py wrote, and the same as torch_brain writes what it read of it."""
    data = pytest.importorskip("torch_brain.data")
    folder = tmp_path_factory.mktemp("bwb")
    layout.write(folder / "ours.h5", seed=9, build="selected_units", n_units=12)
    with h5py.File(folder / "ours.h5", "r") as file, h5py.File(folder / "theirs.h5", "w") as other:
        data.Data.from_hdf5(file, lazy=False).to_hdf5(other)
    return folder / "ours.h5", folder / "theirs.h5"


def read(path: Path):
    rules = RULES["ibl_bwb"]
    return rules.adjust(rules.read(path, "ibl_bwb_selected/one", SOURCE), path)


def test_what_torch_brain_wrote_is_read_as_the_same_session(files):
    one, other = map(read, files)
    assert session_digest(one, {}, "x") == session_digest(other, {}, "x")


@pytest.mark.parametrize("task", ["wheel_speed", "whisker_motion_energy", "left_paw_speed", "licking_rate"])
def test_windows_are_its_slices(files, task):
    from torch_brain.data import Data

    group, name, normalised, sure = {
        "wheel_speed": ("wheel", "wheel_speed", False, ""),
        "whisker_motion_energy": ("whisker", "whisker_motion_energy", True, ""),
        "left_paw_speed": ("paws", "left_paw_speed", True, "is_left_paw_confident"),
        "licking_rate": ("licks", "licking_rate", False, ""),
    }[task]
    with h5py.File(files[1], "r") as file:
        data = Data.from_hdf5(file, lazy=False)
        table = data.task_aligned_intervals.licking_window if task == "licking_rate" else None
        table = data.task_aligned_intervals.movement_window if table is None else table
        for split in bwb.SPLITS:
            found = bwb.task_windows(read(files[1]), task, split)
            spans = table & getattr(data, f"ts1_{split}_domain") & data.task_aligned_intervals.domain
            whole = (spans.end - spans.start) > 0.99
            assert found.start.tolist() == spans.start[whole].tolist()
            assert found.end.tolist() == spans.end[whole].tolist()
            for k, (start, end) in enumerate(zip(found.start, found.end, strict=True)):
                own = getattr(data.slice(start, end), group)
                value = getattr(own, name)
                if normalised:
                    told = getattr(getattr(data.ts1_normalize, group), name)
                    value = (value - told.mean) / told.std
                value = np.rint(value / 50).astype(np.int32) if task == "licking_rate" else value.astype(np.float32)
                np.testing.assert_array_equal(found.values[k], value)
                np.testing.assert_array_equal(found.timestamps[k], own.timestamps)
                if sure:
                    np.testing.assert_array_equal(found.mask[k], getattr(own, sure))


def test_counts_and_starts_are_its_bins_and_torchs(files):
    import torch
    from torch_brain.data import Data
    from torch_brain.utils.binning import bin_spikes

    session = read(files[1])
    starts = bwb.population_windows(session, "test")
    picked = starts[:: max(1, len(starts) // 40)]
    found = bwb.counts(session, picked)
    with h5py.File(files[1], "r") as file:
        data = Data.from_hdf5(file, lazy=False)
        for k, start in enumerate(picked.tolist()):
            theirs = bin_spikes(data.slice(start, start + 1).spikes, len(session.units), 0.02)
            np.testing.assert_array_equal(found[k], theirs)
    fused = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    for start, end in zip(*bwb.population_intervals(session, "test"), strict=True):
        expected = torch.arange(start, end, 0.02, dtype=torch.float64).numpy()
        np.testing.assert_array_equal(bwb.arange(start, end, 0.02, fused=fused), expected)
