"""Arrays of an npz file: whole, or refused before they are allocated or unpacked."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from spiketok.errors import ArtefactError
from spiketok.storage.npz import names_in_npz, read_npz


def written(path, **arrays):
    np.savez(path, **arrays)
    return path


def member(path, name: str, shape: tuple[int, ...], body: bytes, times: int = 1):
    """A file of one array with a header of one's own, packed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _ in range(times):
            file.write(body)
    return path


def test_what_was_saved_is_read(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array("word"), "c": np.array(["x", "yy"])}
    path = written(tmp_path / "a.npz", **arrays)
    assert names_in_npz(path) == set(arrays)
    assert all((found == arrays[name]).all() for name, found in read_npz(path).items())
    assert list(read_npz(path, "b", "d")) == ["b"]


def test_what_asks_for_much_is_refused_unread(tmp_path):
    packed = member(tmp_path / "a.npz", "x.npy", (10**8,), bytes(10**7), times=40)
    assert packed.stat().st_size < 10**6
    with pytest.raises(
        ArtefactError, match=r"its arrays take 400.0 MB of memory, allowed are 20\d.\d MB for a file of"
    ):
        read_npz(packed)
    claims = member(tmp_path / "b.npz", "x.npy", (10**12,), bytes(100))
    with pytest.raises(ArtefactError, match=r"x.npy claims float32 of shape \(1000000000000,\), 4.0 TB, and has 100 B"):
        read_npz(claims)


@pytest.mark.parametrize("size", [0, 1, 30, 60, -1, -40])
def test_a_cut_file_is_named(tmp_path, size):
    path = written(tmp_path / "a.npz", a=np.arange(100))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtefactError, match=r"a.npz is no .npz of arrays \("):
        read_npz(path)
    assert names_in_npz(path) == set()


def test_a_pickle_is_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (print, ("A PICKLE RAN",))

    np.savez(tmp_path / "a.npz", x=np.array([Runs()], object))
    with pytest.raises(ArtefactError, match="holds pickled Python objects"):
        read_npz(tmp_path / "a.npz")
