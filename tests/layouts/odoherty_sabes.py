"""MATLAB v7.3 files in the layout of Zenodo 3854034, scaled down, written with h5py as MATLAB writes them.

Cells are object references into ``#refs#``. A cell array of n channels and u units stands transposed, ``[u, n]``; row 0
holds what is left of a channel after sorting. An empty cell refers to a dataset that holds its dimensions, marked
``MATLAB_empty``: two numbers, or in some files two by two.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

M1_ONLY = "indy_20160630_01.mat"
M1_AND_S1 = "indy_20160407_02.mat"
RATE_HZ = 250
SECONDS = 120
FIRST_S = 148.984  # of the behaviour: spikes begin earlier


def write(path: Path, *, areas: tuple[str, ...] = ("M1",), n_rows: int = 5, n_columns: int = 6, still: bool) -> dict:
    """A session of 120 s; what the file holds.

    Args:
        path: the file.
        areas: 96 channels of each.
        n_rows: units a channel, the unsorted one first.
        n_columns: of the fingertip: 3, or 6 with its orientation.
        still: whether the cursor rests for 14 s.
    """
    rng = np.random.default_rng(5)
    names = [f"{area} {k:03d}" for area in areas for k in range(1, 97)]
    n_units = n_spikes = n_early = n_empty = 0
    with h5py.File(path, "w") as file:
        refs = file.create_group("#refs#")
        spikes = np.empty((n_rows, len(names)), h5py.ref_dtype)
        waves = np.empty_like(spikes)
        for row in range(n_rows):
            for k in range(len(names)):
                label, kind = f"s{row}_{k}", (7 * k + 3 * row) % 10
                present = kind < (8 if row == 0 else 4 - row)
                if present:
                    times = np.sort(rng.uniform(FIRST_S - 3, FIRST_S + SECONDS + 3, 3 + kind))
                    cell = refs.create_dataset(label, data=times[None])
                    wave = refs.create_dataset("w" + label, data=np.zeros((48, times.size)))
                    n_units, n_spikes = n_units + 1, n_spikes + times.size
                    n_early += int((times < FIRST_S).sum())
                else:
                    shape = (2, 2) if len(areas) > 1 and k % 50 == 49 else (2,)
                    cell, wave = (refs.create_dataset(x + label, data=np.zeros(shape, np.uint64)) for x in ("", "w"))
                    for item in (cell, wave):
                        item.attrs["MATLAB_empty"] = np.uint8(1)
                    n_empty += 1
                cell.attrs["MATLAB_class"] = np.bytes_("double")
                spikes[row, k], waves[row, k] = cell.ref, wave.ref
        texts = np.empty((1, len(names)), h5py.ref_dtype)
        for k, name in enumerate(names):
            codes = np.frombuffer(name.encode("ascii"), np.uint8).astype(np.uint16)
            texts[0, k] = refs.create_dataset(f"c{k}", data=codes[:, None]).ref
        for name, data in (("spikes", spikes), ("wf", waves), ("chan_names", texts)):
            file.create_dataset(name, data=data, dtype=h5py.ref_dtype).attrs["MATLAB_class"] = np.bytes_("cell")
        time_s = FIRST_S + np.arange(SECONDS * RATE_HZ) / RATE_HZ
        file["t"] = time_s[None]
        cursor = 60 * np.stack([np.sin(time_s), np.cos(1.7 * time_s)])
        if still:
            cursor[:, 30 * RATE_HZ : 44 * RATE_HZ] = cursor[:, [30 * RATE_HZ]]
        file["cursor_pos"] = cursor
        file["target_pos"] = np.repeat(np.arange(SECONDS / 5), 5 * RATE_HZ)[None] * np.array([[1.0], [-1.0]])
        file["finger_pos"] = np.stack([np.sin(time_s + c) for c in range(n_columns)])
    return {
        "units": n_units, "spikes": n_spikes, "early": n_early, "channels": len(names), "empty": n_empty,
        "samples": time_s.size,
    }  # fmt: skip
