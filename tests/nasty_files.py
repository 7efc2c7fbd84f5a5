"""Files that the world hands to ``spiketok ingest``: each by name, how to make it, and what must become of it.

Either one line refuses the file and says why, or the session is in the store with the spikes that are written here by
hand, and each thing that was mended is counted. The table is data: the tests put every file through the command line.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import h5py
import numpy as np

from spiketok.recording.nouns import NS_PER_S, Session
from tests.nwb_files import PLAIN_SPIKES, edited, replace_data

GB = 10**9
TRIALS, VELOCITY = "intervals/trials", "processing/behavior/hand_vel"
Make = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Nasty:
    """``make(good, path)`` makes the file at ``path`` from a good one.

    ``refused``: words of the line that refuses it; without them the store holds ``spikes`` (seconds a unit), ``trials``
    rows, exactly these ``repairs``, and at least these ``notes``. ``pynwb``: whether pynwb reads it, too.
    ``called``: what the line calls the file, where that is not its name.
    """

    make: Make
    refused: str = ""
    spikes: tuple = PLAIN_SPIKES
    repairs: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trials: int | None = 3
    pynwb: bool = True
    called: str = ""


def judge(session: Session, expected: Nasty) -> None:
    """What the store holds of a nasty file is what stands here by hand.

    Raises:
        AssertionError: spikes, rows of trials or findings are others.
    """
    for row, times in enumerate(expected.spikes):
        stored = session.spikes.time_ns[session.spikes.unit == row].tolist()
        assert stored == sorted(round(t * NS_PER_S) for t in times)
    assert len(session.spikes) == sum(map(len, expected.spikes))
    assert len(session.units) == len(expected.spikes)
    assert {f.id: f.count for f in session.repairs} == dict(expected.repairs)
    assert set(expected.notes) <= {f.id for f in session.notes}
    assert (None if session.trials is None else len(session.trials)) == expected.trials


# ---- how files are made ---------------------------------------------------------------------------------------------


def edit(change: Callable[[h5py.File], None]) -> Make:
    def make(good: Path, path: Path) -> None:
        with edited(good, path) as file:
            change(file)

    return make


def data(**values: object) -> Make:
    """Other values of datasets; ``units__id`` stands for ``units/id``."""

    def change(file: h5py.File) -> None:
        for name, value in values.items():
            replace_data(file, name.replace("__", "/"), value)

    return edit(change)


def content(value: bytes) -> Make:
    return lambda good, path: path.write_bytes(value)


def cut(share: float) -> Make:
    return lambda good, path: path.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])


def spikes(times: list, stop: list, dtype: type = np.uint32) -> Make:
    """Other spike times and ends of the units' rows."""
    return data(units__spike_times=np.array(times, np.float64), units__spike_times_index=np.array(stop, dtype))


def trials(start: list, stop: list) -> Make:
    return data(**{f"{TRIALS}/start_time": np.array(start, float), f"{TRIALS}/stop_time": np.array(stop, float)})


def velocity(**values: object) -> Make:
    return data(**{f"{VELOCITY}/{name}": value for name, value in values.items()})


def remade(file: h5py.File, name: str, **kwargs: object) -> h5py.Dataset:
    """A new dataset with the attributes of the one that stood there."""
    attributes = dict(file[name].attrs)
    del file[name]
    item = file.create_dataset(name, **kwargs)
    item.attrs.update(attributes)
    if f"{name}_index" in file:
        file[f"{name}_index"].attrs["target"] = item.ref
    return item


def bomb(file: h5py.File, name: str, shape: tuple[int, ...], dtype: str = "f8") -> None:
    """A dataset of zeros of which every chunk is there: a thousand times larger in memory than in the file."""
    chunk = (2**20 // int(np.prod(shape[1:])), *shape[1:])
    item = remade(file, name, shape=shape, dtype=dtype, chunks=chunk, compression="gzip")
    packed = zlib.compress(bytes(int(np.prod(chunk)) * item.dtype.itemsize), 9)
    for row in range(0, shape[0], chunk[0]):
        item.id.write_direct_chunk((row, *[0] * (len(shape) - 1)), packed)


def bombed(name: str, shape: tuple[int, ...], dtype: str = "f8", **index: object) -> Make:
    def change(file: h5py.File) -> None:
        bomb(file, name, shape, dtype)
        for other, value in index.items():
            replace_data(file, other.replace("__", "/"), value)

    return edit(change)


def declared(name: str, shape: tuple[int, ...], dtype: object = "f8") -> Make:
    """A dataset of which nothing was ever written."""
    return edit(lambda file: remade(file, name, shape=shape, dtype=dtype, chunks=(1024, *shape[1:])))


def zeros_packed(n_bytes: int) -> bytes:
    """A deflate stream of so many zeros (in steps of 10 MB), whose check sum is wrong."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(10**7)) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x78\x9c" + block * (n_bytes // 10**7) + b"\x03\x00" + bytes(4)


def overfull_chunk(file: h5py.File) -> None:
    """A chunk declared as 56 bytes that unpacks to 2 GB."""
    item = remade(file, "units/spike_times", shape=(7,), dtype="f8", chunks=(7,), compression="gzip")
    item.id.write_direct_chunk((0,), zeros_packed(2 * GB))


def large_chunk_bomb(file: h5py.File) -> None:
    """A chunk declared as 4 MB that stores as much, and unpacks to 4 GB."""
    name = "units/spike_times"
    item = remade(file, name, shape=(7,), maxshape=(None,), dtype="f8", chunks=(2**19,), compression="gzip")
    item.id.write_direct_chunk((0,), zeros_packed(4 * GB))


def add_counts(file: h5py.File) -> None:
    """Counts of bins in place of units, one of which says two thousand million spikes."""
    del file["units"]
    group = file.create_group("acquisition/binned_spikes")
    group.attrs["neurodata_type"] = "TimeSeries"
    group["data"] = np.array([[0, 1], [2_000_000_000, 0]], np.int64)
    group["timestamps"] = np.array([0.0, 0.02])


def link(name: str, target: object) -> Make:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = target

    return edit(change)


def pipe_link(good: Path, path: Path) -> None:
    os.mkfifo(path.parent / "pipe")
    link("units/spike_times", h5py.ExternalLink("pipe", "/x"))(good, path)


def pipe_storage(good: Path, path: Path) -> None:
    os.mkfifo(path.parent / "raw pipe")
    with edited(good, path) as file:
        remade(file, "units/spike_times", shape=(7,), dtype="f8", external=[("raw pipe", 0, 56)])


def attribute(name: str, key: str, value: object) -> Make:
    return edit(lambda file: file[name].attrs.__setitem__(key, value))


def table(n_units: int) -> Make:
    """A unit has one spike in each of its own seconds."""

    def change(file: h5py.File) -> None:
        replace_data(file, "units/id", np.arange(n_units))
        replace_data(file, "units/spike_times", np.arange(n_units) * 0.001)
        replace_data(file, "units/spike_times_index", np.arange(1, n_units + 1).astype(np.uint32))

    return edit(change)


def as_column(item: h5py.Dataset) -> None:
    """Give a dataset what makes it a column in the eyes of pynwb."""
    facts = {"description": "d", "namespace": "hdmf-common", "neurodata_type": "VectorData", "object_id": str(uuid4())}
    item.attrs.update(facts)


def add_column(name: str, value: object, dtype: object = None) -> Make:
    def change(file: h5py.File) -> None:
        as_column(file.create_dataset(f"units/{name}", data=value, dtype=dtype))
        file["units"].attrs["colnames"] = ["spike_times", name]

    return edit(change)


def add_trial_column(name: str, value: object) -> Make:
    def change(file: h5py.File) -> None:
        as_column(file[TRIALS].create_dataset(name, data=value))
        file[TRIALS].attrs["colnames"] = ["start_time", "stop_time", "side", name]

    return edit(change)


def deep(file: h5py.File) -> None:
    group = file["processing/behavior"]
    for _ in range(3000):
        group = group.create_group("d")
    group["timestamps"] = np.arange(3.0)


def no_trials(file: h5py.File) -> None:
    del file["intervals"]


def named(file: h5py.File, *names: str) -> None:
    for name in names:
        file.copy(file[VELOCITY], file["processing/behavior"], name=name)


def big_endian(file: h5py.File) -> None:
    replace_data(file, "units/spike_times", np.array([t for u in PLAIN_SPIKES for t in u], ">f8"))
    replace_data(file, "units/spike_times_index", np.array([3, 3, 7], ">u2"))


def zarr_folder(good: Path, path: Path) -> None:
    (path / "units").mkdir(parents=True)
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / "units" / ".zgroup").write_text('{"zarr_format": 2}')


def blob(share: float, value: int, n: int) -> Make:
    """``n`` bytes of one value in the middle of the file."""

    def make(good: Path, path: Path) -> None:
        bytes_ = bytearray(good.read_bytes())
        at = int(len(bytes_) * share)
        bytes_[at : at + n] = bytes([value]) * n
        path.write_bytes(bytes_)

    return make


def superblock(good: Path, path: Path) -> None:
    """The signature, and after it nothing of what it promises."""
    path.write_bytes(good.read_bytes()[:8] + bytes(5000))


def user_block(good: Path, path: Path) -> None:
    path.write_bytes(bytes(512) + good.read_bytes())


# ---- the table ------------------------------------------------------------------------------------------------------

NOT_HDF5 = {
    "empty": Nasty(content(b""), "is not HDF5 (0 B"),
    "a text": Nasty(content(b"spikes\n1 2 3\n"), "is not HDF5"),
    "a web page": Nasty(content(b"<!DOCTYPE html><html>404 not found</html>"), "is not HDF5"),
    "half a signature": Nasty(content(b"\x89HDF"), "is not HDF5"),
    "zeros": Nasty(content(bytes(10_000)), "is not HDF5"),
    "a signature and zeros": Nasty(superblock, "cannot be opened"),
    "a MATLAB file": Nasty(content(b"MATLAB 5.0 MAT-file" + bytes(200)), "is not HDF5"),
    "a folder": Nasty(lambda good, path: path.mkdir(), "is a folder"),
    "a zarr folder that holds no NWB": Nasty(zarr_folder, "zarr folder"),
    "a pipe": Nasty(lambda good, path: os.mkfifo(path), "is no regular file"),
    "a device": Nasty(lambda good, path: path.symlink_to("/dev/zero"), "is no regular file", called="zero"),
    "a link to itself": Nasty(lambda good, path: path.symlink_to(path.name), "a link that leads in a circle"),
    "a link to nothing": Nasty(lambda good, path: path.symlink_to("gone"), "a link that leads nowhere (to gone)"),
}
CUT = {
    "cut after the signature": Nasty(cut(0.001), "cannot be opened"),
    "cut at a tenth": Nasty(cut(0.1), "is truncated"),
    "cut at a half": Nasty(cut(0.5), "is truncated"),
    "one byte short": Nasty(lambda good, path: path.write_bytes(good.read_bytes()[:-1]), "is truncated"),
    "behind a block of zeros": Nasty(user_block),
    "more behind its end": Nasty(lambda good, path: path.write_bytes(good.read_bytes() + b"x" * 999)),
}
SCHEMA = {
    "HDF5 but not NWB": Nasty(edit(lambda file: file.attrs.__delitem__("nwb_version")), "HDF5 but not NWB"),
    "NWB 1": Nasty(
        edit(
            lambda file: (file.attrs.__delitem__("nwb_version"), file.create_dataset("nwb_version", data="NWB-1.0.6"))
        ),
        "version 'NWB-1.0.6'",
    ),
    "NWB 3": Nasty(attribute("/", "nwb_version", "3.1"), "version '3.1'"),
    "a version that is a number": Nasty(attribute("/", "nwb_version", 2), "HDF5 but not NWB"),
    "a version that is a list": Nasty(attribute("/", "nwb_version", ["2.8.0", "2.9.0"]), "HDF5 but not NWB"),
    "no start time": Nasty(edit(lambda file: file.__delitem__("session_start_time")), pynwb=False),
    "a start time of words": Nasty(
        edit(lambda file: replace_data(file, "session_start_time", "yesterday")), pynwb=False
    ),
    "column names that are numbers": Nasty(attribute("units", "colnames", np.arange(3)), pynwb=False),
    "columns that are absent": Nasty(
        attribute("units", "colnames", ["spike_times", "ghost"]), notes=("columns-missing",), pynwb=False
    ),
    "no column names": Nasty(edit(lambda file: file["units"].attrs.__delitem__("colnames"))),
    "types that are numbers": Nasty(attribute("units", "neurodata_type", 7), pynwb=False),
    "a group in place of spike times": Nasty(
        edit(lambda file: (file.__delitem__("units/spike_times"), file.create_group("units/spike_times"))),
        "is a group, expected a dataset",
    ),
    "a dataset in place of trials": Nasty(
        edit(lambda file: (file.__delitem__(TRIALS), file.create_dataset(TRIALS, data=1.0))),
        notes=("intervals-left-out",),
        trials=None,
    ),
    "a dataset in place of processing": Nasty(
        edit(lambda file: (file.__delitem__("processing"), file.create_dataset("processing", data=1.0))),
        "is a dataset, expected a group",
    ),
    "3000 groups deep": Nasty(edit(deep), notes=("series-left-out",), pynwb=False),
    "big-endian": Nasty(edit(big_endian)),
}
UNITS = {
    "no units": Nasty(edit(lambda file: file.__delitem__("units")), "no units table"),
    "0 units": Nasty(
        data(units__id=np.zeros(0, int), units__spike_times=np.zeros(0), units__spike_times_index=np.zeros(0, "u1")),
        "zero units",
    ),
    "1 unit": Nasty(
        data(units__id=np.array([5]), units__spike_times=np.array([1.0, 2]), units__spike_times_index=np.array([2])),
        spikes=([1.0, 2.0],),
    ),
    "2000 units": Nasty(table(2000), spikes=tuple([n / 1000] for n in range(2000))),
    "duplicate unit ids": Nasty(data(units__id=np.array([4, 4, 4])), repairs={"unit-ids-duplicate": 3}),
    "negative unit ids": Nasty(data(units__id=np.array([-1, -2, -3]))),
    "ids beyond int64": Nasty(data(units__id=np.array([1, 2, 2**64 - 1], np.uint64)), "expected one id a row"),
    "ids of floats": Nasty(data(units__id=np.array([0.0, 1.0, 2.0])), "expected one id a row"),
    "ids of texts": Nasty(data(units__id=["a", "b/c", "é"]), pynwb=False),
    "fewer ids than rows": Nasty(data(units__id=np.arange(2)), "has 3 rows, expected 2"),
    "object columns": Nasty(
        add_column("things", [np.arange(2), np.arange(1), np.arange(3)], h5py.vlen_dtype(np.int64)),
        notes=("columns-left-out",),
        pynwb=False,
    ),
    "compound columns": Nasty(
        add_column("pairs", np.zeros(3, [("a", "f8"), ("b", "i4")])), notes=("columns-left-out",)
    ),
    "complex columns": Nasty(add_column("z", np.zeros(3, complex)), notes=("columns-left-out",)),
    "long doubles": Nasty(add_column("long", np.ones(3, np.longdouble))),
    "enum columns": Nasty(
        add_column("kind", np.array([0, 1, 1], "i1"), h5py.enum_dtype({"a": 0, "b": 1}, "i1")), pynwb=True
    ),
    "a column with one long text": Nasty(
        add_column("words", ["x" * 300_000, "y", "z"]),  # three rows of it are 3.6 MB: kept
        pynwb=True,
    ),
    "one text of 2 MB in 2000 rows": Nasty(
        edit(
            lambda file: (
                replace_data(file, "units/id", np.arange(2000)),
                replace_data(file, "units/spike_times", np.arange(2000) / 1000),
                replace_data(file, "units/spike_times_index", np.arange(1, 2001)),
                file.create_dataset("units/words", data=["x" * 2_000_000] + ["y"] * 1999),
                file["units"].attrs.__setitem__("colnames", ["spike_times", "words"]),
            )
        ),
        spikes=tuple([n / 1000] for n in range(2000)),
        notes=("columns-left-out",),
        pynwb=False,
    ),
    "texts that are not UTF-8": Nasty(add_column("words", np.array([b"a\xff\xfe", b"b", b"\x80"], "S3")), pynwb=False),
    "texts with zero bytes": Nasty(add_column("words", np.array([b"a\x00b", b"b", b"c"], "S3"))),
    "a column one row short": Nasty(add_column("depth", np.arange(2.0)), "has 2 rows, expected 3"),
    "a scalar column": Nasty(add_column("depth", 3.0), "has 1 rows, expected 3"),
}
SPIKES = {
    "NaN spikes": Nasty(
        spikes([np.nan, 1, np.nan, 2], [2, 2, 4]), spikes=([1.0], [], [2.0]), repairs={"spikes-not-finite": 2}
    ),
    "infinite spikes": Nasty(
        spikes([np.inf, 1, -np.inf, 2], [2, 2, 4]), spikes=([1.0], [], [2.0]), repairs={"spikes-not-finite": 2}
    ),
    "spikes in the year 5000": Nasty(
        spikes([1e300, 1, 9.3e9, 2], [2, 2, 4]), spikes=([1.0], [], [2.0]), repairs={"spikes-not-finite": 2}
    ),
    "spikes in the year 2250": Nasty(
        spikes([9.1e9, 1, -9.1e9, 2], [2, 2, 4]),
        spikes=([1.0, 9.1e9], [], [-9.1e9, 2.0]),
        repairs={"spikes-unsorted": 1},
    ),
    "only NaN spikes": Nasty(data(units__spike_times=np.full(7, np.nan)), "not one spike"),
    "no spikes": Nasty(spikes([], [0, 0, 0]), "not one spike"),
    "unsorted spikes": Nasty(
        spikes([3, 1, 2, 5, 4], [3, 3, 5]), spikes=([1, 2, 3], [], [4, 5]), repairs={"spikes-unsorted": 2}
    ),
    "spikes in falling order": Nasty(
        spikes([5, 4, 3, 2, 1], [5, 5, 5]), spikes=([1, 2, 3, 4, 5], [], []), repairs={"spikes-unsorted": 4}
    ),
    "negative spikes": Nasty(spikes([-5, -1, 2], [2, 2, 3]), spikes=([-5, -1], [], [2]), notes=("spikes-negative",)),
    "duplicate spikes": Nasty(
        spikes([1, 1, 1, 2, 2], [3, 3, 5]), spikes=([1, 1, 1], [], [2, 2]), notes=("spikes-duplicate",)
    ),
    "spikes a picosecond apart": Nasty(
        spikes([1, 1 + 1e-12, 2], [2, 2, 3]), spikes=([1, 1], [], [2]), notes=("spikes-duplicate",)
    ),
    "float32 spikes": Nasty(
        data(units__spike_times=np.array([0.5, 1, 2, 3, 4, 5, 6], np.float32)),
        spikes=([0.5, 1, 2], [], [3, 4, 5, 6]),
        notes=("spikes-low-precision",),
    ),
    "samples in place of seconds": Nasty(data(units__spike_times=np.arange(7)), "expected seconds"),
    "texts in place of seconds": Nasty(data(units__spike_times=["a"] * 7), "expected seconds"),
    "complex seconds": Nasty(data(units__spike_times=np.ones(7, complex)), "expected seconds"),
    "two-dimensional spikes": Nasty(data(units__spike_times=np.ones((7, 2))), "expected one dimension"),
    "an index that falls": Nasty(spikes([1, 2, 3, 4, 5, 6, 7], [5, 3, 7]), "falls from 5 to 3"),
    "an index beyond the data": Nasty(spikes([1, 2, 3], [1, 1, 9]), "ends at 9, but 3 values"),
    "an index before the end": Nasty(spikes([1, 2, 3], [1, 1, 2]), "ends at 2, but 3 values"),
    "an index one row short": Nasty(spikes([1, 2, 3], [1, 3]), "has 2 rows, expected 3"),
    "an index one row long": Nasty(spikes([1, 2, 3], [1, 2, 3, 3]), "has 4 rows, expected 3"),
    "an index of floats": Nasty(spikes([1, 2, 3], [1, 1, 3], float), "expected one whole number"),
    "a negative index": Nasty(spikes([1, 2, 3], [-1, 1, 3], np.int32), "falls from 0 to -1"),
    "an index that overflowed uint8": Nasty(
        spikes(list(range(300)), [200, 200, 300 - 256], np.uint8), "falls from 200 to 44"
    ),
    "an index beyond int64": Nasty(spikes([1, 2, 3], [1, 1, 2**64 - 1], np.uint64), "falls from 1 to -1"),
    "a two-dimensional index": Nasty(
        data(units__spike_times_index=np.array([[3], [3], [7]])), "expected one whole number"
    ),
    "no index": Nasty(edit(lambda file: file.__delitem__("units/spike_times_index")), "have no 'spike_times_index'"),
}
TIMES = {
    "no trials": Nasty(edit(no_trials), trials=None),
    "NaN stops": Nasty(trials([0, 1, 2], [np.nan] * 3), repairs={"interval-stop-missing": 3}),
    "NaN starts": Nasty(trials([0, np.nan, 2], [1, 2, 3]), repairs={"interval-start-missing": 1}, trials=2),
    "only NaN starts": Nasty(trials([np.nan] * 3, [1, 2, 3]), repairs={"interval-start-missing": 3}, trials=0),
    "infinite trials": Nasty(
        trials([0, -np.inf, 2], [np.inf, 2, 3]),
        repairs={"interval-start-missing": 1, "interval-stop-missing": 1},
        trials=2,
    ),
    "stops before starts": Nasty(trials([3, 4, 5], [1, 1, 6]), repairs={"interval-stop-before-start": 2}),
    "overlapping trials": Nasty(trials([0, 0.5, 0.7], [2, 2, 0.8])),
    "trials in falling order": Nasty(trials([3, 2, 1], [4, 3, 2])),
    "twice the same trial": Nasty(trials([1, 1, 1], [2, 2, 2])),
    "negative trials": Nasty(trials([-3, -2, -1], [-2, -1, 0])),
    "trials of no length": Nasty(trials([1, 2, 3], [1, 2, 3])),
    "trials in 1970": Nasty(trials([0, 1, 1.6e9], [1, 2, 1.6e9 + 1]), notes=("intervals-far",)),
    "starts of texts": Nasty(data(**{f"{TRIALS}/start_time": ["a", "b", "c"]}), "expected seconds of 3 rows"),
    "a trial column named by marks": Nasty(add_trial_column("a|b*?<>", np.arange(3))),
    "a trial column one row short": Nasty(add_trial_column("x", np.arange(2)), "has 2 rows, expected 3"),
}
SERIES = {
    "stamps that fall": Nasty(velocity(timestamps=np.arange(50)[::-1] * 0.1), repairs={"signal-times": 49}),
    "stamps of NaN": Nasty(
        velocity(timestamps=np.full(50, np.nan)), repairs={"signal-times": 50}, notes=("series-left-out",)
    ),
    "stamps of texts": Nasty(velocity(timestamps=["a"] * 50), notes=("series-left-out",), pynwb=False),
    "fewer stamps than samples": Nasty(velocity(timestamps=np.arange(30) * 0.1), repairs={"signal-length": 20}),
    "a series of width 0": Nasty(velocity(data=np.zeros((50, 0))), notes=("series-left-out",)),
    "a series without samples": Nasty(
        velocity(data=np.zeros((0, 2)), timestamps=np.zeros(0)), notes=("series-left-out",)
    ),
    "a series of texts": Nasty(velocity(data=["a"] * 50), notes=("series-left-out",)),
    "a negative conversion": Nasty(attribute(f"{VELOCITY}/data", "conversion", -2.0)),
    "a conversion of NaN": Nasty(attribute(f"{VELOCITY}/data", "conversion", np.nan), repairs={"signal-conversion": 1}),
    "a conversion of words": Nasty(attribute(f"{VELOCITY}/data", "conversion", "two"), pynwb=False),
    "values beyond float32": Nasty(velocity(data=np.full((50, 2), 1e300)), notes=("signal-not-finite",)),
    "names of all kinds": Nasty(
        edit(lambda file: named(file, "a b", "%41", "é µ 猫", "x" * 300, "a.b.c", "-", "~", "CON", "*?")),
    ),
}
LINKS = {
    "a soft link to nothing": Nasty(link(f"{VELOCITY}/data", h5py.SoftLink("/nowhere")), "a link to /nowhere"),
    "a link into a missing file": Nasty(
        link("units/spike_times", h5py.ExternalLink("gone.nwb", "/x")), "a link to /x of file gone.nwb"
    ),
    "a link into a pipe": Nasty(pipe_link, "no regular file"),
    "spike times that lie in a pipe": Nasty(pipe_storage, "lie outside of HDF5 in raw pipe"),
    "a link to itself, within": Nasty(link("units", h5py.SoftLink("/units")), "/units is a link to /units"),
    "two links in a circle": Nasty(
        edit(
            lambda file: (
                file.__delitem__("units"),
                file.__setitem__("units", h5py.SoftLink("/other")),
                file.__setitem__("other", h5py.SoftLink("/units")),
            )
        ),
        "is a link to /other",
    ),
    "a group that holds itself": Nasty(
        edit(lambda file: file["processing/behavior"].__setitem__("again", file["processing"])), pynwb=False
    ),
    "acquisition in a missing file": Nasty(
        link("acquisition/raw", h5py.ExternalLink("raw.nwb", "/x")), notes=("series-left-out",)
    ),
}
BOMBS = {
    "800 GB of spikes declared": Nasty(declared("units/spike_times", (10**11,)), "declares 800.0 GB"),
    "10 GB of spikes declared": Nasty(declared("units/spike_times", (5 * 10**8,)), "never written"),
    "10 GB of zeros as spikes": Nasty(
        bombed("units/spike_times", (1280 * 2**20,), units__spike_times_index=np.array([3, 3, 1280 * 2**20])),
        "of memory, allowed are",
    ),
    "10 GB of zeros as an index": Nasty(bombed("units/spike_times_index", (1280 * 2**20,), "u8"), "of memory, allowed"),
    "8 GB of zeros as ids": Nasty(bombed("units/id", (1000 * 2**20,), "i8"), "of memory, allowed"),
    "8 GB of zeros as ids of one byte": Nasty(bombed("units/id", (1000 * 2**20,), "i1"), "of memory, allowed"),
    "10 GB of zeros as trials": Nasty(bombed(f"{TRIALS}/id", (1280 * 2**20,), "i8"), "of memory, allowed"),
    "10 GB of zeros as stamps": Nasty(bombed(f"{VELOCITY}/timestamps", (1280 * 2**20,)), "of memory, allowed"),
    "a signal of 800 MB of zeros": Nasty(bombed(f"{VELOCITY}/data", (50 * 2**20, 2)), notes=("series-left-out",)),
    "a signal of 700 MB of zeros": Nasty(bombed(f"{VELOCITY}/data", (40 * 2**20, 2), "i1"), "of memory, allowed"),
    "10 GB of empty texts": Nasty(bombed(f"{TRIALS}/side", (1280 * 2**20,), "S8"), "has 1342177280 rows, expected 3"),
    "a text of 2 GB": Nasty(
        edit(lambda file: remade(file, "session_description", shape=(), dtype="S2000000000")), "never written"
    ),
    "a chunk that unpacks to 2 GB": Nasty(edit(overfull_chunk), "a chunk of /units/spike_times has"),
    "a large chunk that unpacks to 4 GB": Nasty(edit(large_chunk_bomb), "damaged"),
    "a chunk of 4 GB for 7 spikes": Nasty(
        edit(
            lambda file: remade(
                file,
                "units/spike_times",
                shape=(7,),
                maxshape=(None,),
                chunks=(2**29 - 1,),
                dtype="f8",
                compression="gzip",
            )
        ),
        "never written",
    ),
    "two thousand million spikes in a bin": Nasty(edit(add_counts), "of memory, allowed"),
}
DAMAGED = {
    "zeros in the middle": Nasty(blob(0.5, 0, 600), "damaged"),
    "ones in the middle": Nasty(blob(0.5, 255, 600), "damaged"),
}
NASTY: dict[str, Nasty] = NOT_HDF5 | CUT | SCHEMA | UNITS | SPIKES | TIMES | SERIES | LINKS | BOMBS | DAMAGED
