"""Sources, stored sessions, shards and checkpoints that the machine does not give: told for that, and never remade."""

from __future__ import annotations

import builtins
import errno
import os

import h5py
import pytest

from spiketok.errors import SourceError, UnreadableError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.tokenize import _state
from spiketok.sources.archives.base import Asset
from spiketok.sources.archives.offline import _check
from spiketok.sources.formats.nwb.hdf5 import Hdf5, open_hdf5
from spiketok.storage.files import sha256_file
from spiketok.storage.store import read_session, write_session
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import Binned
from spiketok.tokens.shards import ShardReader, write_shard
from tests.made import golden_segments, golden_session
from tests.nwb_files import write_plain

WRONG = ("damaged", "again", "delete", "remove")


def failing(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def message(file, tmp_path) -> str:
    (outcome,) = list(ingest(Workspace(tmp_path / "ws"), [file]))
    assert not list((tmp_path / "ws").rglob("session.json"))
    return outcome.message


@pytest.fixture
def file(tmp_path):
    return write_plain(tmp_path / "a.nwb")


def test_values_that_the_disk_does_not_give_are_not_damaged(file, tmp_path, monkeypatch):
    said = f"Can't read data (file read failed: filename = '{file}', errno = 5, error message = 'Input/output error')"

    def fail(*_, **__):
        raise OSError(5, said)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    line = message(file, tmp_path)
    assert f"{file}: the disk or the mount that it lies on failed" in line
    assert "damaged" not in line
    assert "copy it" not in line


def test_a_file_that_changes_while_it_is_read_is_refused(file, tmp_path, monkeypatch):
    size = file.stat().st_size

    def grown(self, *rest):
        with open(file, "ab") as stream:
            stream.write(b"more")
        return entered(self, *rest)

    entered = Hdf5.__enter__
    monkeypatch.setattr(Hdf5, "__enter__", grown)
    assert message(file, tmp_path).startswith(f"a.nwb: changed while it was read ({size} bytes before, {size + 4} now)")


def test_what_is_newer_is_said_to_be_newer(file, tmp_path):
    with h5py.File(file, "r+") as h5:
        h5.attrs["nwb_version"] = "3.0.1"
    assert "is NWB of version '3.0.1', expected version 2: pip install --upgrade" in message(file, tmp_path)
    content = bytearray(file.read_bytes())
    content[8] = 9
    file.write_bytes(content)
    line = message(file, tmp_path)
    assert "superblock version 9" in line
    assert "reads up to 3: pip install --upgrade h5py" in line


@pytest.mark.parametrize(("number", "opens"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EAGAIN, False)])
def test_hdf5_is_read_where_there_are_no_locks(file, monkeypatch, number, opens):
    class Lockless(h5py.File):
        def __init__(self, *rest, locking=None, **named):
            if locking is not False:
                raise OSError(
                    number, f"Unable to open file (unable to lock file, errno = {number}, error message = 'x')"
                )
            super().__init__(*rest, locking=False, **named)

    monkeypatch.setattr(h5py, "File", Lockless)
    if opens:
        with open_hdf5(file) as h5:
            assert "units" in h5
        return
    with pytest.raises(SourceError, match="is locked by another program"), Hdf5(file):
        pass


# ---- artefacts ------------------------------------------------------------------------------------------------------


def unread(reader, *words: str) -> None:
    with pytest.raises(UnreadableError) as raised:
        reader()
    line = str(raised.value)
    assert all(word in line for word in words), line
    assert not any(word in line for word in WRONG if word != "again"), line


def test_a_stored_session(tmp_path, monkeypatch):
    path = tmp_path / "store" / "golden" / "one"
    write_session(golden_session(), path)
    with monkeypatch.context() as m:
        m.setattr(os, "pread", failing(errno.ESTALE))
        unread(lambda: read_session(path), str(path / "arrays.zip"), "mount it again")
    with monkeypatch.context() as m:
        m.setattr("pathlib.Path.read_bytes", failing(errno.EIO))
        unread(lambda: read_session(path), str(path / "session.json"), "EIO")
    os.rename(path / "arrays.zip", tmp_path / "elsewhere")
    (path / "arrays.zip").symlink_to(tmp_path / "unmounted" / "arrays.zip")
    unread(lambda: read_session(path), "leads nowhere")


def test_a_shard_is_not_called_damaged_nor_made_again(tmp_path, monkeypatch):
    path = tmp_path / "shard"
    write_shard(path, Binned(), golden_session(), golden_segments(), segments_rule="x", store_digest="0" * 64)
    opened = builtins.open

    def no_columns(name, *rest, **named):
        return failing(errno.EIO)() if str(name).endswith("columns.bin") else opened(name, *rest, **named)

    with monkeypatch.context() as m:
        m.setattr(builtins, "open", no_columns)
        unread(lambda: ShardReader(path, anew=True), str(path / "columns.bin"), "EIO")
        with pytest.raises(UnreadableError):
            _state(path, lambda p: ShardReader(p, anew=True))
    assert _state(path, ShardReader) == ("already", "")
    (path / "columns.bin").write_bytes(b"x")
    assert _state(path, ShardReader)[0] == "damaged"


def test_a_fetched_file_that_cannot_be_read_is_not_said_to_differ(file, monkeypatch):
    asset = Asset("a.nwb", file.stat().st_size, sha256=sha256_file(file))
    assert _check(file, asset, "x").state == "good"
    monkeypatch.setattr("spiketok.sources.archives.offline.sha256_file", failing(errno.EIO))
    found = _check(file, asset, "x")
    assert (found.state, found.repair) == ("unread", ())
    assert f"{file}: the disk or the mount" in found.detail
