"""Sessions and shards that several test files use: small, fixed, with every kind of column."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from spiketok.recording.leakage import with_stated_reach
from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.tokens.stamps import STAMP

MS = 1_000_000
SECOND = 1_000_000_000


def as_folder(path: Path) -> Path:
    """Make of a stored session what the store was before: a folder of zarr members and its attributes."""
    with zipfile.ZipFile(path / "arrays.zip") as members:
        members.extractall(path)
    attributes = json.loads((path / "session.json").read_text())
    own = {key: value for key, value in attributes.items() if key not in ("directory_sha256", "attributes_sha256")}
    (path / ".zattrs").write_text(json.dumps(own, indent=4, sort_keys=True))
    for name in ("arrays.zip", "session.json"):
        (path / name).unlink()
    return path


def artefact_files(folder: Path) -> dict[str, bytes]:
    """The files of a shard or a context by name; its stamp, which is no part of it, is left out."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(STAMP)}


def whole(session: Session) -> Intervals:
    return Intervals([session.start_ns], [session.stop_ns])


def golden_session() -> Session:
    """The session of ``tests/golden/shard-*``: never change it, the bytes there are read forever."""
    vel = np.arange(24, dtype=np.float32).reshape(12, 2) / 8
    valid = np.ones(12, np.bool_)
    valid[[3, 7]] = False
    vel[~valid] = np.nan
    return Session(
        id="golden/one",
        subject="g",
        start_ns=-10 * MS,
        stop_ns=250 * MS,
        units=UnitTable(["a", "b", "c"]),
        spikes=Spikes.from_units(
            [np.array([-10, 0, 20, 20, 119, 249]) * MS, np.zeros(0), np.array([20 * MS, 20 * MS - 1, 99_999_999])]
        ),
        observed=Intervals([-10 * MS, 60 * MS], [40 * MS, 250 * MS]),
        unit_observed=Ragged(
            np.array([[-10, 40], [60, 250], [60, 250], [-10, 40], [60, 200]]) * MS, np.array([0, 2, 3, 5])
        ),
        observed_source="obs_intervals",
        source=Source(
            "golden.nwb", "ab" * 32, 123, "000001", "0.1", "CC-BY-4.0", "Nobody, 2020", "2020-01-01T00:00:00"
        ),
        intervals={"trials": Intervals([0, 100 * MS], [90 * MS, 240 * MS])},
        splits=Intervals([0, 100 * MS], [90 * MS, 250 * MS], {"name": np.array(["train", "test"])}),
        signals={
            "hand/vel": Signal(np.arange(12) * 15 * MS, vel, ("x", "y"), "mm/s", valid, 1000 / 15),
            "eye": Signal(np.arange(100) * 2 * MS, np.arange(100.0)[:, None] / 4, ("p",), "", np.ones(100, np.bool_)),
        },
    )


def golden_described() -> Session:
    """The golden session with all that a context can hold beside it: never change it either."""
    session = golden_session()
    per_unit = {
        "region": np.array(["M1", "PMd", "M1"]),
        "channel": np.array([7, 3, 300]),
        "depth_um": np.array([0.5, np.nan, 1500.0]),
        "held_out": np.array([False, True, False]),
        "waveform": np.zeros((3, 4)),
        "electrodes": Ragged(np.arange(4), np.array([0, 1, 1, 4])),
    }
    trials = {
        "side": np.array(["right", "left"]),
        "correct": np.array([True, False]),
        "spans": Ragged(np.arange(3), [0, 2, 3]),
    }
    splits = {"name": np.array(["train", "valid"]), "set": np.array(["source", "mine"])}
    return replace(
        session,
        units=UnitTable(session.units.id, per_unit),
        intervals={"trials": Intervals(session.trials.start_ns, session.trials.stop_ns, trials)},
        splits=Intervals(session.splits.start_ns, session.splits.stop_ns, splits),
        info=with_stated_reach({"species": "none"}, "hand/vel", 30 * MS, 7),
    )


def golden_segments() -> Intervals:
    return Intervals([-10 * MS, 50 * MS], [110 * MS, 150 * MS])


def random_session(name: str, seed: int, *, n_units: int = 5, seconds: float = 6.0, rate_hz: float = 40.0) -> Session:
    """Poisson spikes and a 100 Hz behaviour with an invalid stretch; one gap in the observed time."""
    rng = np.random.default_rng(seed)
    stop = round(seconds * SECOND)
    times = [np.sort(rng.integers(0, stop, rng.poisson(rate_hz * seconds))) for _ in range(n_units)]
    time_ns = np.arange(0, stop, 10 * MS)
    valid = np.ones(len(time_ns), np.bool_)
    valid[50:70] = False
    value = rng.normal(size=(len(time_ns), 2)).astype(np.float32)
    return Session(
        id=f"made/{name}",
        subject="s",
        start_ns=0,
        stop_ns=stop,
        units=UnitTable([f"{name}-{n}" for n in range(n_units)]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0, stop // 2 + 100 * MS], [stop // 2, stop]),
        source=Source(f"{name}.nwb", "0" * 64, 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", valid, 100.0)},
    )


def shard(folder: Path, session: Session, scheme: Scheme, segments: Intervals | None = None) -> ShardReader:
    """Bake a session and open its shard."""
    target = Path(folder) / scheme.name / session.id
    segments = whole(session) if segments is None else segments
    write_shard(target, scheme, session, segments, segments_rule="continuous", store_digest="d" * 64)
    return ShardReader(target)
