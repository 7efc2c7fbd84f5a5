"""Files that name other files: what leaves the folder is refused, what stays in it is read, digested and said."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import SourceError
from spiketok.pipeline.source_check import compare_with_source
from spiketok.recording.nouns import Source
from spiketok.sources.catalogue.base import open_source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.files import sha256_file
from tests import nwb_files

TIMES = "units/spike_times"
N = 7  # spikes of the plain file


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return nwb_files.write_plain(tmp_path_factory.mktemp("plain") / "plain.nwb")


def read(path: Path):
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, path.stat().st_size))


def linked(plain: Path, folder: Path, target: object, name: str = TIMES) -> Path:
    folder.mkdir(exist_ok=True)
    with nwb_files.edited(plain, folder / "a.nwb") as file:
        if name in file:
            del file[name]
        file[name] = target
    return folder / "a.nwb"


def secret(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["times"] = np.arange(1, N + 1) / 4
    return path


def remade(plain: Path, path: Path, make) -> Path:
    """The plain file with spike times that ``make(file)`` puts there anew."""
    with nwb_files.edited(plain, path) as file:
        before = dict(file[TIMES].attrs)
        del file[TIMES]
        make(file)
        file[TIMES].attrs.update(before)
    return path


@pytest.mark.parametrize("how", ["absolute", "climbing", "symlink", "chain", "soft"])
def test_a_link_out_of_the_folder_is_refused(plain, tmp_path, how):
    outside, home = secret(tmp_path / "out.h5"), tmp_path / "home"
    home.mkdir()
    target = h5py.ExternalLink("../out.h5", "/times")
    if how == "absolute":
        target = h5py.ExternalLink(str(outside), "/times")
    elif how == "symlink":
        (home / "near.h5").symlink_to(outside)
        target = h5py.ExternalLink("near.h5", "/times")
    elif how == "chain":
        with h5py.File(home / "near.h5", "w") as near:
            near["times"] = h5py.ExternalLink("../out.h5", "/times")
        target = h5py.ExternalLink("near.h5", "/times")
    path = linked(plain, home, target)
    if how == "soft":
        with h5py.File(path, "a") as file:
            del file[TIMES]
            file["scratch_space"] = h5py.ExternalLink("../out.h5", "/")
            file[TIMES] = h5py.SoftLink("/scratch_space/times")
    with pytest.raises(SourceError, match=r"outside of the file's folder"):
        read(path)


def test_links_within_the_folder_are_followed_over_folders_and_circles_and_digested(plain, tmp_path):
    """a.nwb -> parts/b.h5 -> c.h5 beside b, which names nothing else; the working folder holds a decoy."""
    other = secret(tmp_path / "home" / "parts" / "c.h5")
    with h5py.File(tmp_path / "home" / "parts" / "b.h5", "w") as middle:
        middle["here"] = h5py.SoftLink("/there")
        middle["there"] = h5py.ExternalLink("c.h5", "/times")
    session = read(linked(plain, tmp_path / "home", h5py.ExternalLink("parts/b.h5", "/here")))
    assert session.spikes.time_ns.tolist() == [k * 250_000_000 for k in range(1, N + 1)]
    (source,) = session.source.linked  # values came from this one alone
    assert (source.file, source.sha256) == ("parts/c.h5", sha256_file(other))
    assert Source.from_dict(session.source.to_dict()) == session.source
    assert "values come from parts/c.h5" in next(n.text for n in session.notes if n.id == "external-links")
    loop = linked(plain, tmp_path / "loop", h5py.ExternalLink("b.h5", "/x"))
    with h5py.File(tmp_path / "loop" / "b.h5", "w") as back:
        back["x"] = h5py.ExternalLink("a.nwb", TIMES)
    with pytest.raises(SourceError, match=r"is a link to /x of file b.h5, which cannot be opened"):
        read(loop)


def test_acquisition_outside_of_the_folder_is_left_out_by_both_readers(plain, tmp_path):
    raw = nwb_files.write_rich(tmp_path / "raw.nwb")
    path = linked(plain, tmp_path / "home", h5py.ExternalLink("../raw.nwb", "/acquisition/ref"), "acquisition/ref")
    session = read(path)
    assert list(session.signals) == ["hand_vel"]
    assert any("acquisition/ref (a link that leads out of its folder)" in n.text for n in session.notes)
    assert compare_with_source(session, path).differences == []
    assert raw.exists()


@pytest.mark.parametrize("kind", ["external", "virtual", "missing"])
@pytest.mark.parametrize("prefix", [None, "HDF5_EXTFILE_PREFIX", "HDF5_VDS_PREFIX"])
def test_values_in_other_files_are_refused(plain, tmp_path, monkeypatch, kind, prefix):
    other = secret(tmp_path / "out.h5")
    (tmp_path / "raw").write_bytes((np.arange(N) / 4).tobytes())
    if prefix:
        monkeypatch.setenv(prefix, str(tmp_path))

    def make(file: h5py.File) -> None:
        if kind == "external":
            file.create_dataset(TIMES, (N,), "f8", external=[("raw", 0, 8 * N)])
            return
        layout = h5py.VirtualLayout((N,), "f8")
        layout[:] = h5py.VirtualSource(str(other) if kind == "virtual" else "gone.h5", "times", (N,))
        file.create_virtual_dataset(TIMES, layout)

    path = remade(plain, tmp_path / "a.nwb", make)
    where = "outside of HDF5 in raw" if kind == "external" else "in other datasets"
    with pytest.raises(SourceError, match=where):
        read(path)
    with pytest.raises(SourceError, match=where):  # as the rules of datasets open it
        open_source(path)


def test_rules_open_no_file_with_links_into_others(plain, tmp_path):
    secret(tmp_path / "home" / "b.h5")
    with pytest.raises(SourceError, match="is a link into another file"):
        open_source(linked(plain, tmp_path / "home", h5py.ExternalLink("b.h5", "/times")))
    open_source(plain).close()


def test_a_link_of_another_kind_is_refused(plain, tmp_path):
    """HDF5 keeps kinds 65 to 255 for programs of their own: the byte of an external link's kind is changed."""
    path = linked(plain, tmp_path, h5py.ExternalLink("gone.h5", "/x"))
    message = b"\x01\x08\x40\x0bspike_times"  # a link message: version, flags, kind, length of the name, name
    content = path.read_bytes()
    assert content.count(message) == 1
    path.write_bytes(content.replace(message, message.replace(b"\x40", b"\x46")))
    with pytest.raises(SourceError, match="is a link of kind 70, which only what wrote it can follow"):
        read(path)


def test_a_zarr_folder_with_links_out_of_it_is_refused(tmp_path):
    zarr_folder = pytest.importorskip("spiketok.sources.formats.nwb.zarr_folder")
    folder = tmp_path / "a.nwb.zarr"
    (folder / "units").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "chunk").write_bytes(b"12345678")
    (folder / "units" / "0").symlink_to(tmp_path / "chunk")
    with pytest.raises(SourceError, match="units/0 is a link out of the folder"):
        zarr_folder._check_borders(folder)
    os.remove(folder / "units" / "0")
    (folder / "units" / ".zarray").write_text(json.dumps({"shape": [10**10], "dtype": "<f8"}))
    with pytest.raises(SourceError, match=r"declare 80.0 GB, allowed are 200.0 MB"):
        zarr_folder._check_borders(folder)
    (folder / "units" / ".zarray").unlink()
    told = {"metadata": {"units/.zarray": {"shape": [10**9, 2], "dtype": [["a", "<f8"], ["b", "<i4"]]}, ".zattrs": {}}}
    (folder / ".zmetadata").write_text(json.dumps(told))
    with pytest.raises(SourceError, match=r"declare 24.0 GB, allowed are 200.0 MB"):
        zarr_folder._check_borders(folder)
