"""Folders of arrays as others write them, made from seeds: ALF as ONE keeps a session, suite2p with its pickles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

SUBJECT, DATE, NUMBER = "M-7", "2023-05-06", "001"
Spikes = tuple[np.ndarray, np.ndarray]


def spikes_of(seed: int, n_units: int = 5, n_spikes: int = 900, start_s: float = 2.0, stop_s: float = 60.0) -> Spikes:
    """Seconds, rising, and the cluster of each; the last cluster has none."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.uniform(start_s, stop_s, n_spikes)), rng.integers(0, n_units - 1, n_spikes)


def save(path: Path, array: object, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, **options)
    return path


def write_probe(folder: Path, spikes: Spikes, n_units: int = 5) -> Path:
    """One sorting of a probe: spikes, clusters, metrics of all clusters but the last, channels."""
    save(folder / "spikes.times.npy", spikes[0])
    save(folder / "spikes.clusters.npy", spikes[1].astype(np.uint16))
    save(folder / "spikes.amps.npy", spikes[0] * 1e-6)
    save(folder / "clusters.channels.npy", np.arange(n_units)[::-1] * 2)
    save(folder / "clusters.depths.npy", np.arange(n_units) * 20.0)
    save(folder / "clusters.waveforms.npy", np.zeros((n_units, 8, 4), np.float32))
    rows = "".join(f"{k},{k / 4},{'good' if k % 2 else ''}\n" for k in range(n_units - 1))
    (folder / "clusters.metrics.csv").write_text("cluster_id,label,ks2_label\n" + rows)
    save(folder / "channels.brainLocationIds_ccf_2017.npy", np.arange(2 * n_units) + 100)
    return folder


def write_alf(root: Path, probes: Mapping[str, Spikes] | None = None) -> Path:
    """A session's folder, with trials, wheel, camera and licks; its path is as ONE has it.

    Args:
        root: what the subject's folder lies in. probes: spikes by the folder of each sorting below ``alf``.
    """
    session = root / SUBJECT / DATE / NUMBER
    alf = session / "alf"
    for place, spikes in (probes or {"probe00/pykilosort": spikes_of(0)}).items():
        write_probe(alf / place, spikes)
    start = 3.0 + 4.0 * np.arange(14)
    save(alf / "_ibl_trials.intervals.npy", np.stack([start, start + 3], axis=1))
    save(alf / "_ibl_trials.goCue_times.npy", start + 0.5)
    save(alf / "_ibl_trials.choice.npy", np.where(np.arange(14) % 3, -1, 1).astype(np.int8))
    save(alf / "_ibl_wheel.position.npy", np.cumsum(np.random.default_rng(1).normal(size=3000)))
    save(alf / "_ibl_wheel.timestamps.npy", 1.5 + np.arange(3000) / 50)
    save(alf / "_ibl_leftCamera.times.npy", 2.0 + np.arange(1500) / 30)
    save(alf / "leftCamera.ROIMotionEnergy.npy", np.random.default_rng(2).normal(size=1500))
    save(alf / "licks.times.npy", start + 1.25)
    save(session / "raw_behavior_data" / "_iblrig_taskData.raw.npy", np.zeros(7))
    return session


def write_suite2p(
    root: Path, planes: tuple[int, ...] = (4,), n_frames: int | tuple[int, ...] = 600, rate_hz: object = 7.5
) -> Path:
    """The folder ``suite2p`` with so many ROIs in each plane, and pickles as suite2p writes them."""
    folder = root / "suite2p"
    frames = n_frames if isinstance(n_frames, tuple) else (n_frames,) * len(planes)
    for number, (n_rois, n) in enumerate(zip(planes, frames, strict=True)):
        plane, rng = folder / f"plane{number}", np.random.default_rng(number)
        for name in ("F", "Fneu", "spks"):
            save(plane / f"{name}.npy", rng.normal(size=(n_rois, n)).astype(np.float32))
        save(plane / "iscell.npy", np.stack([np.arange(n_rois) % 2, rng.random(n_rois)], axis=1))
        ops = {
            "nplanes": len(planes),
            "tau": 1.0,
            "meanImg": np.ones((3, 3)),
            "fs": rate_hz,
            "fsx": 3,
            "nonrigid": True,
        }
        save(plane / "ops.npy", ops, allow_pickle=True)
        save(plane / "stat.npy", np.array([{"ypix": np.arange(3)}] * n_rois, object), allow_pickle=True)
        (plane / "data.bin").write_bytes(bytes(1000))
    return folder
