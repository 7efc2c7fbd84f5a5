"""A machine that fails: on PYTHONPATH, it lets calls on paths that hold some letters end in an error of the system.

``SPIKETOK_SHIM`` is a JSON list of [what, letters, name of the errno]. ``what``: ``open`` (any way), ``write`` (opening
to write), ``read`` (bytes of what was opened), ``lock``, ``hdf5 read`` (values), ``fork``; and ``grow``: the file is
longer once it was opened.
"""

import builtins
import errno
import fcntl
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys

FAULTS = json.loads(os.environ.get("SPIKETOK_SHIM", "[]"))


def _fault(what, path):
    for kind, letters, name in FAULTS:
        if kind == what and letters in os.fsdecode(path):
            number = getattr(errno, name, 0)
            return OSError(number, os.strerror(number))
    return None


def _raise(what, path, *, named=True):
    fault = _fault(what, path)
    if fault is not None:
        if named:
            fault.filename = os.fsdecode(path)
        raise fault


def _path_of(handle):
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


class _Unreadable:
    """A file whose bytes do not come."""

    def __init__(self, stream, fault):
        self._stream, self._fault = stream, fault

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def _fail(self, *_):
        raise self._fault

    read = readinto = readline = readlines = read1 = __iter__ = __next__ = _fail


_open, _os_open, _read, _pread, _flock, _lockf, _fork = (
    io.open,
    os.open,
    os.read,
    os.pread,
    fcntl.flock,
    fcntl.lockf,
    os.fork,
)


def open_(file, mode="r", *rest, **named):
    if isinstance(file, str | bytes | os.PathLike):
        _raise("open", file)
        if set(mode) & set("wax+"):
            _raise("write", file)
        elif _fault("read", file) is not None:
            return _Unreadable(_open(file, mode, *rest, **named), _fault("read", file))
    return _open(file, mode, *rest, **named)


def os_open(path, flags, *rest, **named):
    if isinstance(path, str | bytes | os.PathLike):
        _raise("open", path)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _raise("write", path)
    return _os_open(path, flags, *rest, **named)


def read(handle, *rest):
    _raise("read", _path_of(handle), named=False)
    return _read(handle, *rest)


def pread(handle, *rest):
    _raise("read", _path_of(handle), named=False)
    return _pread(handle, *rest)


def flock(stream, operation):
    _raise("lock", _path_of(stream if isinstance(stream, int) else stream.fileno()), named=False)
    return _flock(stream, operation)


def lockf(stream, operation, *rest):
    _raise("lock", _path_of(stream if isinstance(stream, int) else stream.fileno()), named=False)
    return _lockf(stream, operation, *rest)


def fork():
    _raise("fork", "", named=False)
    return _fork()


class _Patched(importlib.abc.Loader):
    """Lets a module load as ever, then changes what is in it."""

    def __init__(self, loader, change):
        self._loader, self._change = loader, change

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._change(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "h5py":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Patched(spec.loader, _change_h5py)
        return spec


def _change_h5py(h5py):
    class File(h5py.File):
        def __init__(self, name, *rest, **named):
            path = name if isinstance(name, str | bytes | os.PathLike) else ""
            for what in ("open", "lock"):
                fault = _fault(what, path) if path else None
                if fault is not None and not (what == "lock" and named.get("locking") is False):
                    does = f"unable to {what} file"
                    text = f"Unable to synchronously open file ({does}, errno = {fault.errno}, error message = 'x')"
                    raise OSError(fault.errno, text)
            super().__init__(name, *rest, **named)
            if path and any(kind == "grow" and letters in os.fsdecode(path) for kind, letters, _ in FAULTS):
                with _open(path, "ab") as stream:
                    stream.write(b"more")

    values = h5py.Dataset.__getitem__

    def getitem(self, *rest, **named):
        fault = _fault("hdf5 read", self.file.filename)
        if fault is not None:
            text = f"Can't synchronously read data (file read failed: filename = '{self.file.filename}', "
            raise OSError(fault.errno, f"{text}errno = {fault.errno}, error message = 'x', buf = 0x0)")
        return values(self, *rest, **named)

    h5py.File = File
    h5py.Dataset.__getitem__ = getitem


if FAULTS:
    builtins.open = io.open = open_
    os.open, os.read, os.pread, os.fork = os_open, read, pread, fork
    fcntl.flock, fcntl.lockf = flock, lockf
    sys.meta_path.insert(0, _Finder())
