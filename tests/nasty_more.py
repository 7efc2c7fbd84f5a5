"""More files as people report them (pynwb, MatNWB, SpikeInterface, DANDI, phy, ALF, suite2p): what is right of each.

NWB files are rows as in ``nasty_files``. A folder is made in an empty one, ingested by its sorter, and either refused
in one line or read with as many spikes as stand here.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from tests.folders import save, spikes_of, write_alf, write_suite2p
from tests.nasty_files import TRIALS, VELOCITY, Nasty, add_column, attribute, data, edit, remade, velocity
from tests.nwb_files import PLAIN_SPIKES, edited, replace_data

FLAT = np.array([time for unit in PLAIN_SPIKES for time in unit])


def latest(good: Path, path: Path) -> None:
    """The same in HDF5's newest layout: other superblock, other object headers, other chunk indices."""
    with h5py.File(good) as source, h5py.File(path, "w", libver="latest") as target:
        target.attrs.update(dict(source.attrs))
        for name in source:
            source.copy(name, target)


def open_for_writing(good: Path, path: Path) -> None:
    """A copy made while another program wrote: the flag that says so is still set."""
    latest(good, path)
    with h5py.File(path, "r+", libver="latest") as file:
        file.swmr_mode = True
        file.flush()
        content = path.read_bytes()
    path.write_bytes(content)


def one_at(place: int, value: float) -> np.ndarray:
    stamps = np.arange(50) * 0.1
    stamps[place] = value
    return stamps


def rate(value: object, start: float = 0.0) -> Callable[[Path, Path], None]:
    def change(file: h5py.File) -> None:
        del file[f"{VELOCITY}/timestamps"]
        file[f"{VELOCITY}/starting_time"] = start
        file[f"{VELOCITY}/starting_time"].attrs["rate"] = value

    return edit(change)


def both_clocks(file: h5py.File) -> None:
    """Stamps, and a starting time of zero beside them."""
    file[f"{VELOCITY}/starting_time"] = 0.0
    file[f"{VELOCITY}/starting_time"].attrs["rate"] = 1.0


def zero_stamps(good: Path, path: Path) -> None:
    """Rows of zeros after the end, as a recording that was cut leaves them."""
    velocity(timestamps=np.append(np.arange(45) * 0.1, np.zeros(5)))(good, path)


def packed(good: Path, path: Path) -> None:
    """Shuffled, packed, with check sums, in chunks that do not divide the rows."""
    with edited(good, path) as file:
        options = {"chunks": (3,), "compression": "gzip", "shuffle": True, "fletcher32": True}
        remade(file, "units/spike_times", data=FLAT, **options)


def check_sum_wrong(good: Path, path: Path) -> None:
    packed(good, path)
    with h5py.File(path) as file:
        info = file["units/spike_times"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[info.byte_offset + info.size - 1] ^= 255
    path.write_bytes(content)


def padded_texts(file: h5py.File) -> None:
    remade(file, f"{TRIALS}/side", data=np.array([b"left\x00\x00", b"right\x00", b"left  "], "S6"))


MORE: dict[str, Nasty] = {
    "an index of uint64 with silent units at both ends": Nasty(
        data(units__id=np.arange(5), units__spike_times_index=np.array([0, 3, 3, 7, 7], np.uint64)),
        spikes=([], *PLAIN_SPIKES, []),
        notes=("units-silent",),
    ),
    "the newest layout of HDF5": Nasty(latest, pynwb=False),  # copied groups lose what pynwb's links are
    "left open by another program": Nasty(open_for_writing, "already open for"),
    "float16 spikes": Nasty(
        data(units__spike_times=np.array([0.5, 1, 2, 3, 4, 5, 6], np.float16)),
        spikes=([0.5, 1, 2], [], [3, 4, 5, 6]),
        notes=("spikes-low-precision",),
        pynwb=False,
    ),
    "packed with check sums": Nasty(packed),
    "a check sum that does not hold": Nasty(check_sum_wrong, "damaged"),
    "an index among the column names": Nasty(
        attribute("units", "colnames", ["spike_times", "spike_times_index"]), pynwb=False
    ),
    "a column named twice": Nasty(attribute("units", "colnames", ["spike_times", "spike_times"]), pynwb=False),
    "one stamp of NaN": Nasty(velocity(timestamps=one_at(20, np.nan)), repairs={"signal-times": 1}),
    "one stamp a year away": Nasty(velocity(timestamps=one_at(49, 3e7)), repairs={"signal-times": 1}),
    "stamps of zero after the end": Nasty(zero_stamps, repairs={"signal-times": 5}),
    "no stamps for 50 samples": Nasty(
        velocity(timestamps=np.zeros(0)), repairs={"signal-length": 50}, notes=("series-left-out",)
    ),
    "a rate of 0 Hz": Nasty(rate(0.0), notes=("series-left-out",), pynwb=False),
    "a rate of NaN": Nasty(rate(np.nan), notes=("series-left-out",), pynwb=False),
    "a rate that is a word": Nasty(rate("10 Hz"), notes=("series-left-out",), pynwb=False),
    "a start of NaN": Nasty(rate(10.0, np.nan), notes=("series-left-out",), pynwb=False),
    "stamps, and a starting time as well": Nasty(edit(both_clocks), pynwb=False),
    "samples in three dimensions": Nasty(velocity(data=np.zeros((50, 2, 2))), notes=("series-left-out",)),
    "a unit of measure that is a number": Nasty(attribute(f"{VELOCITY}/data", "unit", 3), pynwb=False),
    "a conversion of zero": Nasty(attribute(f"{VELOCITY}/data", "conversion", 0.0), repairs={"signal-conversion": 1}),
    "texts padded with zeros and blanks": Nasty(edit(padded_texts)),
    "a column of NaN alone": Nasty(add_column("depth", np.full(3, np.nan))),
    "a resolution that is negative": Nasty(attribute("units/spike_times", "resolution", -1.0)),
    "a start of the session without a zone": Nasty(
        edit(lambda file: replace_data(file, "session_start_time", "2020-01-01T12:00:00")), pynwb=False
    ),
}  # fmt: skip


# ---- folders --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NastyFolder:
    """``make(folder)`` gives the path that is ingested by ``sorter`` and ``options``.

    ``refused``: words of the line that refuses it; without them the store holds ``units`` and ``spikes``, so many, and
    at least these ``notes``.
    """

    make: Callable[[Path], Path]
    sorter: str
    refused: str = ""
    units: int = 0
    spikes: int = 0
    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def phy(folder: Path) -> Path:
    """200 spikes of 3 clusters at 20 kHz."""
    rng = np.random.default_rng(5)
    save(folder / "spike_times.npy", np.sort(rng.integers(0, 10**6, 200)).astype(np.uint64))
    save(folder / "spike_clusters.npy", rng.integers(0, 3, 200).astype(np.int32))
    (folder / "params.py").write_text("sample_rate = 20000.\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tgood\n1\tmua\n2\tnoise\n")
    return folder


def changed(make: Callable[[Path], Path], change: Callable[[Path], object], below: str = "") -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = make(folder / "made")
        change(path / below)
        return path

    return made


def claim(name: str, shape: str, descr: str = "<f8", n_bytes: int = 80) -> Callable[[Path], object]:
    """A header of these words, before so many bytes."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return lambda f: (f / name).write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(n_bytes)
    )


class _Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def objects(name: str) -> Callable[[Path], object]:
    return lambda f: save(f / name, np.array([_Runs()] * 4, object), allow_pickle=True)


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda f: (f / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def pipe(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def zeros_zipped(folder: Path) -> None:
    """An npz in place of an npy: 8 GB of zeros in 8 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        for _ in range(100):
            member.write(bytes(10**7))
    (folder / "spike_times.npy").write_bytes(stream.getvalue())


PROBE = "alf/probe00/pykilosort"
ONE = {"units": 5, "spikes": 900}
TWO_PLANES = {"units": 7, "notes": ("units-from-rois",)}


def planes(folder: Path) -> Path:
    return write_suite2p(folder, (3, 4))


FOLDERS: dict[str, NastyFolder] = {
    "phy": NastyFolder(phy, "phy", units=3, spikes=200),
    "phy: spikes of 8 TB": NastyFolder(
        changed(phy, claim("spike_times.npy", "(1000000000000,)")), "phy", "claims float64 of shape (1000000000000,)"
    ),
    "phy: a negative shape": NastyFolder(changed(phy, claim("spike_times.npy", "(-3,)")), "phy", "claims float64"),
    "phy: a header that is a program": NastyFolder(
        changed(phy, claim("spike_times.npy", "__import__('os').getcwd()")), "phy", "spike_times.npy cannot be read"
    ),
    "phy: a header of structures": NastyFolder(
        changed(phy, lambda f: save(f / "spike_times.npy", np.zeros(200, [("a", "f8")]))), "phy", "spike_times.npy is ["
    ),
    "phy: spikes that are objects": NastyFolder(changed(phy, objects("spike_times.npy")), "phy", "pickled Python"),
    "phy: clusters that are objects": NastyFolder(changed(phy, objects("spike_clusters.npy")), "phy", "pickled Python"),
    "phy: an npz called npy": NastyFolder(changed(phy, zeros_zipped), "phy", "is no npy file"),
    "phy: a pointer of Git LFS": NastyFolder(
        changed(phy, text("spike_times.npy", "version https://git-lfs.github.com/spec/v1\n")), "phy", "is no npy file"
    ),
    "phy: spikes in a pipe": NastyFolder(changed(phy, pipe("spike_times.npy")), "phy", "holds no spike_times.npy"),
    "phy: an empty file": NastyFolder(changed(phy, text("spike_clusters.npy", b"")), "phy", "is no npy file"),
    "phy: no spikes": NastyFolder(
        changed(phy, lambda f: [save(f / f"spike_{n}.npy", np.zeros(0, np.int64)) for n in ("times", "clusters")]),
        "phy",
        "not one spike",
    ),
    "phy: seconds in place of samples": NastyFolder(
        changed(phy, lambda f: save(f / "spike_times.npy", np.arange(200) * 0.3)), "phy", "whole numbers of samples"
    ),
    "phy: NaN among samples": NastyFolder(
        changed(phy, lambda f: save(f / "spike_times.npy", np.where(np.arange(200) == 7, np.nan, np.arange(200)))),
        "phy",
        "holds nan in row 7",
    ),
    "phy: samples in two columns": NastyFolder(
        changed(phy, lambda f: save(f / "spike_times.npy", np.zeros((200, 2), int))), "phy", "of shape (200, 2)"
    ),
    "phy: samples beyond int64": NastyFolder(
        changed(phy, lambda f: save(f / "spike_times.npy", np.full(200, 1e300))), "phy", "holds 1e+300"
    ),
    "phy: parameters that run": NastyFolder(
        changed(phy, text("params.py", "import os; os.system('touch ran')\n")), "phy", "which would be run"
    ),
    "phy: parameters 100,000 brackets deep": NastyFolder(
        changed(phy, text("params.py", "sample_rate = " + "[" * 10**5)), "phy", "params.py: is no Python"
    ),
    "phy: parameters 100,000 signs deep": NastyFolder(
        changed(phy, text("params.py", "sample_rate = " + "-" * 10**5 + "1")), "phy", "params.py: is no Python"
    ),
    "phy: a rate of 1e300": NastyFolder(
        changed(phy, text("params.py", "sample_rate = 1e300\n")), "phy", "sampling frequency 1e+300"
    ),
    "phy: a csv that is divided by tabs": NastyFolder(
        changed(phy, text("cluster_info.csv", "cluster_id\tch\n0\t3\n1\t4\n2\t5\n")), "phy", units=3, spikes=200
    ),
    "phy: an id beyond int64": NastyFolder(
        changed(phy, text("cluster_info.tsv", f"cluster_id\tch\n{10**30}\t3\n")),
        "phy", units=3, spikes=200, notes=("sorter-table-rows",),
    ),
    "phy: a number beyond int64": NastyFolder(
        changed(phy, text("cluster_x.tsv", f"cluster_id\tx\n0\t{10**30}\n1\t1\n2\t2\n")), "phy", units=3, spikes=200
    ),
    "phy: a cell of 900,000 letters": NastyFolder(
        changed(phy, text("cluster_note.tsv", "cluster_id\tnote\n0\t" + "x" * 900_000 + "\n")),
        "phy", units=3, spikes=200,
    ),
    "phy: a cell of 3 million letters": NastyFolder(
        changed(phy, text("cluster_note.tsv", "cluster_id\tnote\n0\t" + "x" * 3_000_000 + "\n")),
        "phy", "cluster_note.tsv, line 2: cannot be read",
    ),
    "phy: one long text in 5,000 rows": NastyFolder(
        changed(phy, text("cluster_n.tsv", "cluster_id\tn\n" + "".join(f"{k}\t{'x' * (k == 0) * 500_000}\n" for k in
                                                                       range(5000)))),
        "phy", units=5000, spikes=200, notes=("columns-left-out", "units-silent"),
    ),
    "phy: 100,000 columns and rows that lack them": NastyFolder(
        changed(phy, text("cluster_w.tsv", "cluster_id\t" + "\t".join(map(str, range(10**5))) + "\n0\t" * 10**5)),
        "phy", "lack most of the cells",
    ),
    "phy: a table in UTF-16": NastyFolder(
        changed(phy, text("cluster_info.tsv", "cluster_id\tch\n0\t3\n".encode("utf-16"))), "phy", "again as UTF-8"
    ),
    "phy: a table of zero bytes in rows": NastyFolder(
        changed(phy, text("cluster_info.tsv", b"cluster_id\tch\n0\t\x00\n")), "phy", units=3, spikes=200
    ),
    "ALF": NastyFolder(write_alf, "alf", **ONE),
    "ALF: spikes of 10 TB": NastyFolder(
        changed(write_alf, claim("spikes.times.npy", "(1250000000000,)"), PROBE), "alf", "10.0 TB, and has 80 B"
    ),
    "ALF: a table of 10 TB": NastyFolder(
        changed(write_alf, claim("_ibl_trials.choice.npy", "(14, 90000000000)")  , "alf"), "alf", "claims float64"
    ),
    "ALF: rows without width": NastyFolder(
        changed(write_alf, claim("clusters.depths.npy", "(10000000000, 0)", n_bytes=0), PROBE), "alf", **ONE
    ),
    "ALF: spikes that are objects": NastyFolder(
        changed(write_alf, objects("spikes.times.npy"), PROBE), "alf", "pickled Python"
    ),
    "ALF: a behaviour of objects": NastyFolder(
        changed(write_alf, objects("_ibl_wheel.position.npy"), "alf"), "alf", "pickled Python"
    ),
    "ALF: a cluster far beyond all rows": NastyFolder(
        changed(write_alf, lambda f: save(f / "spikes.clusters.npy", np.where(np.arange(900) == 3, 2**60, 1)), PROBE),
        "alf", units=6, spikes=900, notes=("clusters-undescribed",),
    ),
    "ALF: spikes of a probe's own clock": NastyFolder(
        changed(write_alf, lambda f: (f / "spikes.times.npy").rename(f / "spikes.samples.npy"), PROBE),
        "alf", "holds no spikes.times; it has spikes.amps, spikes.clusters, spikes.samples",
    ),
    "ALF: spikes in samples": NastyFolder(
        changed(write_alf, lambda f: save(f / "spikes.times.npy", np.rint(spikes_of(0)[0] * 30_000)), PROBE),
        "alf", "these are not seconds",
    ),
    "ALF: trials that state no end": NastyFolder(
        changed(write_alf, lambda f: save(f / "_ibl_trials.intervals.npy", np.stack([np.arange(14) * 4.0 + 2,
                                                                                     np.full(14, np.nan)], 1)), "alf"),
        "alf", **ONE,
    ),
    "ALF: a table named by marks": NastyFolder(
        changed(write_alf, text("passive.table.csv", "intervals_0,intervals_1,a/b,..,id\n1,2,3,4,5\n"), "alf"),
        "alf",
        **ONE, notes=("files-left-out",),
    ),
    "ALF: a parquet table that is none": NastyFolder(
        changed(write_alf, text("_ibl_trials.table.pqt", b"PAR1" + bytes(50)), "alf"), "alf", "_ibl_trials.table.pqt"
    ),
    "ALF: two sessions in one folder": NastyFolder(
        changed(lambda f: write_alf(f).parents[1], lambda f: write_alf(f / "other")), "alf", "holds 2 sessions"
    ),
    "ALF: behaviour alone": NastyFolder(
        changed(write_alf, lambda f: [file.unlink() for file in f.glob("spikes.*")], PROBE),
        "alf", "holds no spikes.times",
    ),
    "suite2p": NastyFolder(planes, "suite2p", **TWO_PLANES),
    "suite2p: fluorescence of 10 TB": NastyFolder(
        changed(planes, claim("F.npy", "(3, 1000000000000)"), "plane0"), "suite2p", "suite2p/plane0/F.npy claims"
    ),
    "suite2p: fluorescence that is objects": NastyFolder(
        changed(planes, objects("F.npy"), "plane1"), "suite2p", "pickled Python"
    ),
    "suite2p: labels that are objects": NastyFolder(
        changed(planes, objects("iscell.npy"), "plane1"), "suite2p", "pickled Python"
    ),
    "suite2p: options and masks that run": NastyFolder(
        changed(planes, lambda f: [objects(n)(p) for p in f.iterdir() for n in ("ops.npy", "stat.npy")]), "suite2p",
        "state frames a second with --frame-rate HZ",
    ),
    "suite2p: options that run, with a rate": NastyFolder(
        changed(planes, lambda f: [objects("ops.npy")(p) for p in f.iterdir()]), "suite2p",
        **TWO_PLANES, options=("--frame-rate", "10"),
    ),
    "suite2p: options that are cut": NastyFolder(
        changed(planes, lambda f: [os.truncate(p / "ops.npy", 140) for p in f.iterdir()]), "suite2p", "--frame-rate HZ"
    ),
    "suite2p: planes of two recordings": NastyFolder(
        lambda f: write_suite2p(f, (3, 4), (600, 300)), "suite2p", "its planes have 300 to 600 frames"
    ),
    "suite2p: a plane that is cut": NastyFolder(
        changed(planes, lambda f: os.truncate(f / "F.npy", 3000), "plane1"), "suite2p", "suite2p/plane1/F.npy claims"
    ),
    "suite2p: no ROI in a plane": NastyFolder(
        lambda f: write_suite2p(f, (3, 0)), "suite2p", "F.npy is float32 of shape (0, 600)"
    ),
    "npz: spikes of 8 TB": NastyFolder(
        lambda f: _npz(f, "(1000000000000,)"), "npz", "spike_indexes_seg0.npy claims int64 of shape (1000000000000,)"
    ),
}  # fmt: skip


def _npz(folder: Path, shape: str) -> Path:
    """What spikeinterface calls npz, of which one member claims far more than it has."""
    folder.mkdir(parents=True, exist_ok=True)
    claim("x.npy", shape, "<i8")(folder)
    path = folder / "sorted.npz"
    arrays = {"unit_ids": np.arange(3), "num_segment": np.array([1]), "sampling_frequency": np.array([3e4])}
    np.savez(path, **arrays, spike_labels_seg0=np.zeros(10, np.int64))
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(folder / "x.npy", "spike_indexes_seg0.npy")
    return path
