"""What an error comes from: a table of the system's numbers and of what libraries say, and what is told of each."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import tomllib

import h5py
import numpy as np
import pytest
from safetensors import SafetensorError

from spiketok.errors import ArtefactError, SourceError, SpiketokError, UnreadableError
from spiketok.pipeline.isolation import isolated
from spiketok.pipeline.jobs import describe
from spiketok.storage import causes
from spiketok.storage.causes import cause_of, content_fault, machine_fault, raise_cause
from spiketok.storage.files import atomic_file, atomic_folder, read_signed, write_signed
from spiketok.storage.locks import inside, locked

NOT_FOR_THESE = ("damaged", "delete", "ingest", "fetch", "train again")  # an error of the machine is none of the file
SYSTEM = {
    "EACCES": "user",
    "EPERM": "user",
    "ENOSPC": "no space left on the disk",
    "EDQUOT": "quota",
    "EFBIG": "longer than",
    "EIO": "EIO",
    "EROFS": "read-only file system",
    "EISDIR": "is a folder, expected a file",
    "ENOTDIR": "is a file, expected a folder",
    "ENAMETOOLONG": "longer than the system takes",
    "ELOOP": "in a circle",
    "EBUSY": "in use by another program",
    "ETXTBSY": "in use by another program",
    "EMFILE": "ulimit -n",
    "ENFILE": "fs.file-max",
    "ENOMEM": "no memory left (ulimit -v",
    "ENOLCK": "does not do this",
    "EOPNOTSUPP": "does not do this",
    "ESTALE": "mount it again",
    "ENOTCONN": "mount it again",
    "ETIMEDOUT": "mount it again",
    "EHOSTDOWN": "mount it again",
    "ENXIO": "the system says 'No such device or address, ENXIO'",
}


@pytest.mark.parametrize("name", SYSTEM)
def test_a_number_of_the_system_is_told_as_its_cause_with_the_place_and_a_remedy(name, tmp_path):
    number, file = getattr(errno, name), tmp_path / "file"
    file.touch()
    named = OSError(number, os.strerror(number), str(file))
    in_text = f"Can't read data (file read failed: time = x, name = '{file}', errno = {number}, error message = 'y')"
    for error in (named, OSError(number, os.strerror(number)), RuntimeError(in_text), OSError(in_text)):
        cause = cause_of(error, file)
        assert cause.place == str(file)
        assert SYSTEM[name] in str(cause)
        assert cause.remedy
        assert not any(word in str(cause) for word in NOT_FOR_THESE), str(cause)
        with pytest.raises(UnreadableError, match=r"^/"):
            raise_cause(error, file)
    assert SYSTEM[name] in describe(pickle.loads(pickle.dumps(named)))  # as a child sends it
    assert ("internal error" in describe(ArtefactError("x"))) is False


def test_what_a_damaged_file_causes_too_is_no_cause_of_the_machine():
    said = "Can't read data (file read failed: errno = 22, error message = 'Invalid argument', offset = 18446744073)"
    for error in (OSError(22, said), OSError("bad object header version number"), ValueError("x"), EOFError("x")):
        assert cause_of(error, "file") is None
        raise_cause(error, "file")
    assert cause_of(ArtefactError("errno = 28"), "file") is None, "what is told already"


def test_only_what_is_always_true_of_the_machine_is_taken_from_behind_another_error():
    def behind(number: int) -> SpiketokError:
        try:
            try:
                raise OSError(number, os.strerror(number), "/a/file")
            except OSError as error:
                raise ArtefactError("told already") from error
        except ArtefactError as error:
            return error

    assert machine_fault(behind(errno.ENOSPC)).startswith("/a/file: no space left")
    assert "ulimit -n" in machine_fault(behind(errno.EMFILE))
    assert machine_fault(behind(errno.EACCES)) == machine_fault(behind(errno.ETIMEDOUT)) == ""
    assert describe(behind(errno.EACCES)) == "told already"
    assert machine_fault(None) == machine_fault(KeyError("x")) == ""


def test_libraries_are_understood_by_their_text(tmp_path):
    full = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "no space left" in machine_fault(full)
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes. Error code 12"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU"),
    ):
        assert "no memory left" in describe(error)
    with pytest.raises(MemoryError) as raised:
        np.ones(10**15)
    assert "Unable to allocate 7.11 PiB for an array with shape (1000000000000000,)" in describe(raised.value)
    assert "ulimit -u" in describe(RuntimeError("can't start new thread"))
    assert "ulimit -u" in describe(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    with pytest.raises(OSError, match="truncated") as raised:
        file = tmp_path / "short.h5"
        with h5py.File(file, "w") as h5:
            h5["a"] = np.arange(1000)
        file.write_bytes(file.read_bytes()[:4000])
        h5py.File(file)
    assert cause_of(raised.value, file) is None


def test_places_are_told_as_they_will_be_named(tmp_path):
    for name in (".wip-12@node.1-session", ".wip-12@node-old-session", ".wip-7-session"):
        assert cause_of(OSError(errno.EIO, "x", str(tmp_path / name / "a"))).place == str(tmp_path / "session" / "a")


def test_links_and_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "file")
    (tmp_path / "folder").symlink_to(tmp_path / "gone")
    for path in (tmp_path / "link", tmp_path / "folder" / "session.json"):
        with pytest.raises(OSError) as raised:
            path.read_bytes()
        with pytest.raises(UnreadableError, match="a link that leads nowhere .to .*: mend the link, or mount"):
            raise_cause(raised.value, path)
    with pytest.raises(OSError) as raised:
        (tmp_path / "none").read_bytes()
    raise_cause(raised.value, tmp_path / "none")  # for the reader to say
    assert f"is not there ({tmp_path} is)" in describe(raised.value)
    with pytest.raises(OSError) as raised:
        (tmp_path / ("x" * 300)).touch()
    assert "a name of 300 bytes" in describe(raised.value)
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        (tmp_path / "file" / "below").touch()
    assert f"{tmp_path / 'file'} is a file, expected a folder" in describe(raised.value)


def test_who_may_not_what(tmp_path, monkeypatch):
    """Root may all: what the system allows is stated here."""
    folder, file = tmp_path / "folder", tmp_path / "folder" / "file"
    folder.mkdir()
    file.touch()
    file.chmod(0o240)
    denied: set[tuple[str, int]] = set()
    monkeypatch.setattr(causes.os, "access", lambda path, bit: (str(path), bit) not in denied)

    def told(path) -> str:
        return describe(PermissionError(errno.EACCES, "Permission denied", str(path)))

    assert "the system forbids it although its mode allows it (--w-r-----" in told(file)
    for path, place, bit, words in (
        (file, folder, os.W_OK, f"nothing may be changed in {folder}"),
        (file, file, os.W_OK, "may not be written (--w-r----- of user"),
        (file, file, os.R_OK, "may not be read (--w-r----- of user"),
        (folder / "new" / "file", folder, os.W_OK, f"nothing may be written in {folder} (drwx"),
        (file, folder, os.X_OK, f"its folder {folder} may not be entered (drwx"),
    ):
        denied.add((str(place), bit))
        assert words in told(path), told(path)
        assert "this process is user " in told(path)


def test_a_limit_is_named_with_its_value(tmp_path):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert f"{soft} at once" in describe(OSError(errno.EMFILE, "Too many open files", "columns.bin"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, before[1]))
    try:
        with pytest.raises(OSError) as raised, atomic_file(tmp_path / "large") as path:
            path.write_bytes(bytes(6_000_000))
        line = describe(raised.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert line.startswith(f"{tmp_path / 'large'}: would be longer than a file may be here (5.0 MB, ulimit -f)")
    assert not list(tmp_path.iterdir())


# ---- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty (0 characters)"),
        (b" \n", "it is empty (2 characters)"),
        (b"\0" * 9, "it holds zeros alone (9 of them)"),
        (b'{"a": [1, 2', "it ends in the middle, after 11 characters"),
        (b'{"a": "long te', "it ends in the middle, after 14 characters"),
        (b'{"a": 1 "b": 2}', "Expecting ',' delimiter: line 1 column 9 (char 8)"),
        ('{"a": 1}'.encode("utf-16"), "it is UTF-16, expected UTF-8"),
        (b'{"a": "\xff"}', "it is not UTF-8 (byte 0xff at 7)"),
        (b"[" * 100_000, "it is nested deeper than Python follows"),
    ],
)
def test_a_text_that_is_none_is_told_for_what_it_is(content, told):
    with pytest.raises((ValueError, RecursionError)) as raised:
        json.loads(content.decode())
    assert content_fault(raised.value) == told


def test_toml_and_others_speak_for_themselves():
    with pytest.raises(tomllib.TOMLDecodeError) as raised:
        tomllib.loads("a = [1,\n\n")
    assert content_fault(raised.value) == "Invalid value (at end of document)"
    assert content_fault(ValueError()) == "ValueError"


# ---- who writes and reads -------------------------------------------------------------------------------------------


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_names_its_target_and_leaves_what_was_there(tmp_path, monkeypatch):
    write_signed(tmp_path / "a.json", {"a": 1})
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(OSError, match="No space left") as raised, atomic_file(tmp_path / "a.json") as path:
        path.write_text("half")
        full()
    assert raised.value.filename == str(tmp_path / "a.json")
    with pytest.raises(OSError, match="No space left") as raised, atomic_folder(tmp_path / "b", 12_000) as path:
        (path / "x").touch()
        try:
            full()
        finally:
            raise ValueError("cannot close what is being written")  # as zipfile does
    assert describe(raised.value).startswith(f"{tmp_path / 'b'}: no space left on the disk (12.0 kB are needed, ")
    assert (tmp_path / "a.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_record_that_the_machine_does_not_give_is_not_called_changed(tmp_path, monkeypatch, number):
    write_signed(tmp_path / "a.json", {"a": 1})

    def refused(path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(UnreadableError) as raised:
        read_signed(tmp_path / "a.json", "checkpoint", "train again")
    assert "train again" not in str(raised.value)


def test_a_lock_that_fails_for_another_reason_is_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
    with pytest.raises(OSError, match="x"), locked(inside(tmp_path), "run"):
        pass


def _fails(kind: str) -> None:
    if kind == "behind":
        try:
            full()
        finally:
            raise ValueError("the last of several")
    if kind == "unsendable":
        raise SourceError(lambda: None)
    os.kill(os.getpid(), 7)  # SIGBUS: a map whose file became shorter


@pytest.mark.parametrize(
    ("kind", "told"),
    [("behind", "no space left"), ("unsendable", "SourceError"), ("sigbus", "f: it became shorter while it was read")],
)
def test_a_child_sends_the_cause(kind, told):
    with pytest.raises(Exception) as raised:
        isolated(_fails, kind, name="f", memory_bytes=10**9, cpu_s=10)
    assert told in describe(raised.value)
    assert "damaged" not in describe(raised.value)
