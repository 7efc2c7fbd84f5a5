"""HDF5 files to write: the bytes are those that the library writes itself, and a full disk is an OSError, no crash."""

from __future__ import annotations

import errno
import subprocess
import sys

import h5py
import numpy as np
import pytest

from spiketok.storage.files import atomic_file
from spiketok.storage.hdf5 import writing_hdf5


def fill(file: h5py.File, rng: np.random.Generator) -> None:
    file.attrs["a"] = "text"
    for k in range(4):
        values = rng.integers(0, 50, (5000, 3))
        file.create_dataset(f"g{k}/x", data=values, compression="gzip" if k % 2 else None, track_times=False)


def test_the_bytes_are_the_librarys_own(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        fill(file, np.random.default_rng(0))
    with writing_hdf5(tmp_path / "b.h5") as file:
        fill(file, np.random.default_rng(0))
        assert not (tmp_path / "b.h5").exists()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    for change in (h5py.File, writing_hdf5):
        with change(tmp_path / ("a.h5" if change is h5py.File else "b.h5"), "r+") as file:
            file.attrs["later"] = np.arange(10)
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        assert list(a.attrs["later"]) == list(b.attrs["later"]) == list(range(10))


def test_a_failure_in_the_block_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="mine"), writing_hdf5(tmp_path / "a.h5") as file:
        file["a"] = 1
        raise ValueError("mine")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_and_the_process_lives(tmp_path):
    code = f"""
import resource
import numpy as np
from spiketok.pipeline.jobs import describe
from spiketok.storage.files import atomic_file
from spiketok.storage.hdf5 import writing_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    with atomic_file({str(tmp_path / "a.h5")!r}) as path, writing_hdf5(path) as file:
        file["a"] = np.arange(5000)
except OSError as error:
    print(error.errno, describe(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{errno.EFBIG} {tmp_path / 'a.h5'}: would be longer than a file may be here")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"), atomic_file(tmp_path / "a.h5") as path, writing_hdf5(path) as file:
        file["a"] = 1
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == b"before"
