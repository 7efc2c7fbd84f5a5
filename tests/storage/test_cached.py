"""Shards behind a URL: the same bytes, never more of them than the cap, and none let go that is in use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import ArtefactError, TooLargeError, UsageError
from spiketok.storage import cached
from spiketok.storage.cached import Cache
from spiketok.storage.locks import locked
from spiketok.storage.remote import RemotePath
from spiketok.storage.workspace import Workspace
from spiketok.tokens.context import context_fingerprint
from spiketok.tokens.schemes import make_scheme
from spiketok.tokens.shards import ShardReader, write_shard
from tests.made import MS, golden_session, whole
from tests.s3_server import s3_server

SIZE = 1000


@pytest.fixture
def files(tmp_path) -> tuple[Path, list[str]]:
    """Ten files of columns of 1000 bytes, each with a manifest that nobody reads."""
    pytest.importorskip("fsspec")
    there = tmp_path / "there"
    names = [f"binned/d/s{k}/{k:016x}" for k in range(10)]
    for k, name in enumerate(names):
        (there / name).mkdir(parents=True)
        (there / name / "columns.bin").write_bytes(bytes([k]) * SIZE)
        (there / name / "manifest.json").write_text("{}")
    return there, names


def cache_of(there: Path, tmp_path: Path, cap: int) -> Cache:
    cache = Cache(RemotePath(f"file://{there}"), tmp_path / "cache", cap)
    cache.list()
    return cache


def held(cache: Cache) -> int:
    """Bytes of columns, come and coming."""
    total = 0
    for file in cache.folder.rglob("columns.bin*"):
        try:
            total += file.stat().st_size if file.name == "columns.bin" else int(file.name.rpartition("-")[2])
        except FileNotFoundError:
            continue
    return total


def test_the_file_that_was_used_longest_ago_goes(files, tmp_path):
    there, names = files
    cache = cache_of(there, tmp_path, 3 * SIZE)
    arrived = []
    for k in (0, 1, 2, 0, 3):
        handle, came = cache.lease(cache.folder / names[k] / "columns.bin", SIZE)
        assert os.pread(handle, SIZE, 0) == bytes([k]) * SIZE
        arrived.append(came)
        os.close(handle)
        time.sleep(0.02)
    assert arrived == [True, True, True, False, True]
    assert sorted(p.parent.parent.name for p in cache.folder.rglob("columns.bin")) == ["s0", "s2", "s3"]


def test_a_file_in_use_is_never_let_go_and_the_cap_holds(files, tmp_path, monkeypatch):
    there, names = files
    monkeypatch.setattr(cached, "PATIENCE_S", 0.2)
    cache = cache_of(there, tmp_path, 2 * SIZE)
    first = cache.folder / names[0] / "columns.bin"
    handle, _ = cache.lease(first, SIZE)
    for k in range(1, 6):
        os.close(cache.lease(cache.folder / names[k] / "columns.bin", SIZE)[0])
        assert first.exists() and held(cache) <= 2 * SIZE
    other, _ = cache.lease(cache.folder / names[6] / "columns.bin", SIZE)
    with pytest.raises(TooLargeError, match="are in use, its cap is 2.0 kB: --shards-cap"):
        cache.lease(cache.folder / names[7] / "columns.bin", SIZE)
    os.close(handle)
    os.close(cache.lease(cache.folder / names[7] / "columns.bin", SIZE)[0])
    assert not first.exists()
    os.close(other)
    with pytest.raises(ArtefactError, match="is gone, which its manifest names"):
        cache.lease(cache.folder / "binned/d/none/0123456789abcdef/columns.bin", SIZE)


def test_threads_share_a_cache_that_is_smaller_than_what_they_read(files, tmp_path):
    there, names = files
    cache = cache_of(there, tmp_path, 4 * SIZE)
    most, wrong, done = [0], [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            with locked(cache.folder / ".lock", "the cache", wait=True):  # else it counts what goes and what comes
                most[0] = max(most[0], held(cache))
            time.sleep(0.002)

    def read(seed: int) -> None:
        for k in np.random.default_rng(seed).integers(0, 10, 25):
            handle, _ = cache.lease(cache.folder / names[k] / "columns.bin", SIZE)
            if os.pread(handle, SIZE, 0) != bytes([k]) * SIZE or not os.fstat(handle).st_nlink:
                wrong.append(k)
            os.close(handle)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert not wrong and 0 < most[0] <= 4 * SIZE


READER = """
import os, sys
from pathlib import Path
import numpy as np
from spiketok.storage.cached import Cache
from spiketok.storage.remote import RemotePath
url, folder, cap, size, seed, *names = sys.argv[1:]
cache = Cache(RemotePath(url), Path(folder), int(cap))
cache.list()
came = 0
for k in np.random.default_rng(int(seed)).integers(0, len(names), 25):
    handle, new = cache.lease(cache.folder / names[k] / "columns.bin", int(size))
    assert os.pread(handle, int(size), 0) == bytes([k]) * int(size) and os.fstat(handle).st_nlink
    came += new
    os.close(handle)
print(came)
"""


@pytest.mark.long
def test_processes_share_a_cache_of_a_bucket_that_is_smaller_than_what_they_read(files, tmp_path):
    """Three at once, one more that is killed while it reads: none gets other bytes, and the cap holds."""
    there, names = files
    cap, most = 4 * SIZE, 0
    with s3_server() as (s3, _):
        s3.put(str(there), "given/shards", recursive=True)
        cache = Cache(RemotePath("s3://given/shards"), tmp_path / "cache", cap)
        words = [sys.executable, "-c", READER, str(cache.url), cache.folder, cap, SIZE]
        readers = [
            subprocess.Popen([*map(str, words), str(seed), *names], stdout=subprocess.PIPE, text=True)
            for seed in range(4)
        ]
        while any(reader.poll() is None for reader in readers[:3]):
            if cache.folder.exists():
                with locked(cache.folder / ".lock", "the cache", wait=True):
                    most = max(most, held(cache))
                    if most == cap:
                        readers[3].kill()
            time.sleep(0.01)
        came = [int(reader.communicate()[0] or 0) for reader in readers]
    assert [reader.returncode for reader in readers[:3]] == [0, 0, 0]
    assert 0 < most <= cap and sum(came) > len(names)  # what had gone came again


def test_what_a_killed_process_was_bringing_makes_room_again(files, tmp_path):
    there, names = files
    cache = cache_of(there, tmp_path, SIZE)
    stale = cache.folder / names[0] / f"columns.bin{cached.PART}{SIZE}"
    stale.write_bytes(b"half")
    os.close(cache.lease(cache.folder / names[1] / "columns.bin", SIZE)[0])
    assert not stale.exists()


# ---- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path, monkeypatch) -> list[Path]:
    """Four shards of one session behind a URL that the environment names."""
    pytest.importorskip("fsspec")
    there, made = tmp_path / "given" / "shards", []
    session = golden_session()
    for k, bin_ms in enumerate((10, 20, 5, 2)):
        target = there / "binned" / session.id / f"{k:016x}"
        context = there / "context" / session.id / context_fingerprint("d" * 64)
        write_shard(target, make_scheme("binned", bin_ns=bin_ms * MS), session, whole(session),
                    segments_rule="continuous", store_digest="d" * 64, context=context)  # fmt: skip
        made.append(target)
    monkeypatch.setenv(cached.SHARDS, f"file://{there}")
    monkeypatch.setenv(cached.HOME, str(tmp_path / "cache"))
    return made


def test_readers_give_the_same_while_their_files_come_and_go(shards, tmp_path, monkeypatch):
    sizes = [(target / "columns.bin").stat().st_size for target in shards]
    context = next(tmp_path.glob("given/shards/context/*/*/*/columns.bin")).stat().st_size
    cap = context + max(sizes) + min(sizes)
    assert cap < context + sum(sizes)
    monkeypatch.setenv(cached.CAP, str(cap))
    workspace = Workspace.locate(tmp_path / "root")
    readers = [ShardReader(workspace.shards / "binned" / golden_session().id / target.name)
               for target in shards]  # fmt: skip
    cache = cached.cache_of_shards()
    rng = np.random.default_rng(0)
    for k in rng.integers(0, 4, 30):
        local = ShardReader(shards[k])
        for name in local.columns:
            np.testing.assert_array_equal(readers[k].columns[name], local.columns[name])
        assert readers[k].signal("hand/vel").value.tobytes() == local.signal("hand/vel").value.tobytes()
        assert held(cache) <= cap
    kept = readers[0].columns["segment.start_ns"]  # an array that lives keeps its file
    for k in (1, 2, 3, 1, 2, 3):
        readers[k].columns["segment.start_ns"].sum()
        assert (readers[0].path / "columns.bin").exists() and held(cache) <= cap
    assert kept.tolist() == ShardReader(shards[0]).columns["segment.start_ns"].tolist()


def test_what_comes_damaged_is_refused_also_the_second_time(shards, tmp_path):
    workspace = Workspace.locate(tmp_path / "root")
    place = workspace.shards / "binned" / golden_session().id / shards[0].name
    reader = ShardReader(place)
    file, here = shards[0] / "columns.bin", place / "columns.bin"
    data = file.read_bytes()
    here.unlink()  # as if it had been let go
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ArtefactError, match="came damaged"):
        reader.columns["segment.start_ns"]
    assert not here.exists()
    file.write_bytes(data)
    assert reader.columns["segment.start_ns"].size


def test_a_place_without_shards_and_a_folder_are_refused(shards, tmp_path, monkeypatch):
    monkeypatch.setenv(cached.SHARDS, f"file://{tmp_path / 'given'}")
    with pytest.raises(UsageError, match="holds no shards .*there are some in .*/given/shards"):
        Workspace.locate(tmp_path / "root")
    monkeypatch.setenv(cached.SHARDS, str(tmp_path))
    with pytest.raises(UsageError, match="is no URL"):
        Workspace.locate(tmp_path / "root")
