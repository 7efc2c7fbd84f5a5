"""Small files that unpack to gigabytes, and sessions of absurd shape: no command takes over 2 GB or 60 s on any.

The values are numbers and places of no other test here: packed zeros in every place that a reader looks at, declared
shapes without values, a million units, trial columns and groups without end, texts of a gigabyte.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from tests.nwb_files import write_plain
from tests.robustness import Case, Cli

Change = Callable[[h5py.File], None]
CHUNK = 2**17
VELOCITY, TRIALS = "processing/behavior/hand_vel", "intervals/trials"
HUGE = 10**9


def _new(file: h5py.File, name: str, **how: object) -> h5py.Dataset:
    """A dataset in the place of another, with its attributes."""
    attributes = dict(file[name].attrs) if name in file else {}
    if name in file:
        del file[name]
    item = file.create_dataset(name, **how)
    item.attrs.update(attributes)
    return item


def packed(name: str, shape: tuple[int, ...], dtype: str = "f8") -> Change:
    """Zeros, each chunk written, packed a thousand times."""

    def change(file: h5py.File) -> None:
        chunk, room = [1] * len(shape), CHUNK
        for axis in reversed(range(len(shape))):
            chunk[axis] = max(1, min(shape[axis], room))
            room //= chunk[axis]
        item = _new(file, name, shape=shape, dtype=dtype, chunks=tuple(chunk), compression="gzip")
        block = zlib.compress(bytes(math.prod(chunk) * item.dtype.itemsize), 9)
        for start in product(*(range(0, n, each) for n, each in zip(shape, chunk, strict=True))):
            item.id.write_direct_chunk(start, block)

    return change


def declared(name: str, shape: tuple[int, ...], dtype: object = "f8", chunk: int = 4096) -> Change:
    """A shape, and no value."""
    return lambda file: _new(file, name, shape=shape, dtype=dtype, chunks=(min(chunk, shape[0]), *shape[1:]))


def column(change: Change, table: str, name: str) -> Change:
    """The same as a column of a table that tells of it, as pynwb wants it."""

    def both(file: h5py.File) -> None:
        change(file)
        file[table].attrs["colnames"] = [*file[table].attrs["colnames"], name]
        facts = {"neurodata_type": "VectorData", "namespace": "hdmf-common", "object_id": "0", "description": "d"}
        file[f"{table}/{name}"].attrs.update(facts)

    return both


def many_units(n: int) -> Change:
    def change(file: h5py.File) -> None:
        stop = np.full(n, 7, np.int64)
        stop[0] = 7
        _new(file, "units/id", data=np.arange(n), compression="gzip")
        _new(file, "units/spike_times_index", data=stop, compression="gzip")

    return change


def many_columns(n: int) -> Change:
    def change(file: h5py.File) -> None:
        table = file[TRIALS]
        names = [f"c{k}" for k in range(n)]
        like = dict(table["start_time"].attrs)
        for name in names:
            table.create_dataset(name, data=np.zeros(3)).attrs.update(like)

    return change


def many_groups(n: int) -> Change:
    def change(file: h5py.File) -> None:
        for k in range(n):
            file[f"processing/behavior/g{k}"] = file["processing/behavior"] if k % 2 else h5py.SoftLink("/nowhere")
            if k % 2 == 0:
                del file[f"processing/behavior/g{k}"]
                file.create_group(f"processing/behavior/g{k}")

    return change


def empty_groups(n: int) -> Change:
    return lambda file: [file.create_group(f"processing/behavior/g{k}") for k in range(n)]


def deep(n: int) -> Change:
    def change(file: h5py.File) -> None:
        group = file["processing/behavior"]
        for _ in range(n):
            group = group.create_group("g")

    return change


def long_text(file: h5py.File) -> None:
    _new(file, "session_description", data="x" * 10**6)
    item = _new(file, f"{TRIALS}/side", shape=(3,), dtype=f"S{3 * 10**8}", chunks=(1,), compression="gzip")
    block = zlib.compress(b"y" * (3 * 10**8), 9)
    for k in range(3):
        item.id.write_direct_chunk((k,), block)


def many_sources(n: int) -> Change:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((n, 2), "f8")
        for k in range(n):
            layout[k] = h5py.VirtualSource(f"{k}.h5", "x", (2,))
        attributes = dict(file[f"{VELOCITY}/data"].attrs)
        del file[f"{VELOCITY}/data"]
        file.create_virtual_dataset(f"{VELOCITY}/data", layout).attrs.update(attributes)

    return change


def long_recording(seconds: float) -> Change:
    """One trial more, so that what is observed is long."""
    return lambda file: (
        _new(file, "units/obs_intervals", data=[[0.0, seconds]] * 3)
        and _new(file, "units/obs_intervals_index", data=[1, 2, 3])
    )


FILES: dict[str, Change] = {
    "spike times of zeros": packed("units/spike_times", (HUGE,)),
    "spike times declared": declared("units/spike_times", (10**10,)),
    "an index of zeros": packed("units/spike_times_index", (HUGE,), "u8"),
    "unit ids of zeros": packed("units/id", (HUGE,), "i8"),
    "a unit column of zeros": column(packed("units/wide", (3, 2**27)), "units", "wide"),
    "a unit column of bytes": column(packed("units/wide", (3, 2**28), "i1"), "units", "wide"),
    "waveforms of zeros": column(packed("units/waveform_mean", (3, 2**13, 2**13), "f4"), "units", "waveform_mean"),
    "a unit column declared": column(declared("units/wide", (3, 10**8)), "units", "wide"),
    "a unit column of other length": column(packed("units/odd", (HUGE,)), "units", "odd"),
    "an undeclared unit column of zeros": packed("units/odd", (HUGE,)),
    "samples of zeros": packed(f"{VELOCITY}/data", (HUGE // 2, 2)),
    "samples of bytes": packed(f"{VELOCITY}/data", (HUGE, 2), "i1"),
    "samples declared": declared(f"{VELOCITY}/data", (10**10, 2)),
    "stamps of zeros": packed(f"{VELOCITY}/timestamps", (HUGE,)),
    "samples and stamps of zeros": lambda file: [
        packed(f"{VELOCITY}/{name}", (3 * 10**7,))(file) for name in ("data", "timestamps")
    ],
    "trial starts of zeros": packed(f"{TRIALS}/start_time", (HUGE,)),
    "a trial column of zeros": packed(f"{TRIALS}/side", (HUGE,), "f8"),
    "a trial column of texts": packed(f"{TRIALS}/side", (HUGE,), "S8"),
    "a trial column, three wide rows": column(packed(f"{TRIALS}/wide", (3, 2**27)), TRIALS, "wide"),
    "a trial column, three wide rows declared": column(declared(f"{TRIALS}/wide", (3, 10**9)), TRIALS, "wide"),
    "trial texts of 300 MB": long_text,
    "acquired samples of zeros": lambda file: (
        file.copy(VELOCITY, file["acquisition"], "far"),
        packed("acquisition/far/data", (HUGE, 2))(file),
        packed("acquisition/far/timestamps", (HUGE,))(file),
    ),
    "pictures of zeros": lambda file: (
        file.copy(VELOCITY, file["stimulus/presentation"], "shown"),
        file["stimulus/presentation/shown"].attrs.modify("neurodata_type", "ImageSeries"),
        packed("stimulus/presentation/shown/data", (50, 2**12, 2**13), "u1")(file),
    ),
    "a million units": many_units(10**6),
    "50 thousand trial columns": many_columns(5 * 10**4),
    "100 thousand groups": many_groups(10**5),
    "100 thousand empty groups": empty_groups(10**5),
    "3 thousand groups deep": deep(3000),
    "chunks of one value": lambda file: _new(
        file, f"{VELOCITY}/data", data=np.zeros((2 * 10**5, 2)), chunks=(1, 2), compression="gzip"
    ),
    "20 thousand virtual sources": many_sources(2 * 10**4),
    "observed for ten years": long_recording(3e8),
}


def cases(count: int | None) -> list[Case]:
    made = [Case(name, partial(_read, change)) for name, change in FILES.items()]
    made += [Case("a million units: tokens, splits, export", partial(_use, many_units(10**6)))]
    made += [Case("observed for ten years: tokens, splits, export", partial(_use, long_recording(3e8)))]
    made.append(Case("bins of a microsecond", _tiny_bins))
    return made[:count]


def _made(change: Change, folder: Path) -> Path:
    path = write_plain(folder / "bomb.nwb")
    with h5py.File(path, "a") as file:
        change(file)
    return path


def _read(change: Change, cli: Cli, folder: Path) -> None:
    """Each command that reads the file stays within the bounds; what came into the store is equal to the file."""
    path = _made(change, folder)
    told = cli("ingest", path, root=folder).sane()
    assert told.code == 0 or path.name in told.text, f"the file is not named: {told}"
    looked = cli("inspect", path, root=folder).sane()
    assert looked.code == told.code, f"ingest ended with {told.code}: {looked}"
    if told.code == 0:
        verified = cli("verify", root=folder).sane()
        refused = ("cannot be read through pynwb", "did not end within", "of memory")
        assert verified.code == 0 or any(words in verified.text for words in refused), str(verified)


def _use(change: Change, cli: Cli, folder: Path) -> None:
    cli("ingest", _made(change, folder), root=folder).sane()
    cli("tokenize", "--scheme", "per-spike", root=folder).sane()
    for scheme in ("binned", "patch", "neuron"):
        cli("tokenize", "--scheme", scheme, root=folder).sane()
    cli("splits", "--json", root=folder).sane()
    cli("inspect", "local/bomb", root=folder).sane()
    cli("export", "local/bomb", "--to", "nwb", "--out", folder / "out", root=folder).sane()
    cli("cite", "local/bomb", root=folder).sane()


def _tiny_bins(cli: Cli, folder: Path) -> None:
    """1 us bins over an hour of 40 units would take 144 GB: refused with both figures before any is taken."""
    path = write_plain(folder / "long.nwb", [np.arange(k, 3600, 50) + 0.5 for k in range(40)])
    cli("ingest", path, root=folder).succeeds()
    told = cli("tokenize", "--scheme", "binned", "--bin-ms", 0.001, root=folder)
    told.refuses("GB", "memory")
