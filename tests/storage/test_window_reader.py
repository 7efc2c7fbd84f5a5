"""Windows and units of a stored session equal those of the whole; what is damaged is said, never read as zeros."""

from __future__ import annotations

import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, UsageError
from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable
from spiketok.storage import arrays, window_reader
from spiketok.storage.store import read_session, write_session
from spiketok.storage.window_reader import open_session
from tests.made import as_folder


def session_of(time_ns: np.ndarray, unit: np.ndarray, n_units: int, clock_hz: float | None = None) -> Session:
    order = np.lexsort((unit, time_ns))
    low, high = int(min(time_ns.min(initial=0), 0)), int(time_ns.max(initial=0)) + 1
    return Session(
        id="a/b",
        subject="",
        start_ns=low,
        stop_ns=high,
        units=UnitTable([f"u{n}" for n in range(n_units)], {"depth": np.arange(n_units) * 1.5}),
        spikes=Spikes(time_ns[order], unit[order].astype(np.int32)),
        observed=Intervals([low], [high]),
        source=Source("a.nwb", "0" * 64, 1),
        clock_hz=clock_hz,
    )


def equal(one: Spikes, other: Spikes) -> bool:
    return np.array_equal(one.time_ns, other.time_ns) and np.array_equal(one.unit, other.unit)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 256)  # 32 times a chunk, 64 units


PERIODS_NS = {1: None, 1_000_000: 1_000.0, 100_000: 10_000.0, 33_333: 30_000.0, 40_960: 24_414.0625}
WHOLE_US = (1_000_000, 100_000)  # clocks whose ticks are exact in any measure


@pytest.mark.parametrize(
    "step_ns", [pytest.param(p, marks=pytest.mark.long) if p in WHOLE_US else p for p in PERIODS_NS]
)
@given(data=st.data())
def test_any_window_is_that_of_the_whole(tmp_path_factory, step_ns, data):
    seed, n_spikes, n_units = data.draw(st.tuples(st.integers(0, 99), st.integers(0, 300), st.integers(1, 5)))
    rng = np.random.default_rng(seed)
    spread = data.draw(st.sampled_from([3, 50, 5000]))  # few ticks: many spikes at one, over the border of chunks
    tick = rng.integers(-spread // 3, spread, n_spikes)
    clock_hz = PERIODS_NS[step_ns]
    time_ns = tick * step_ns if clock_hz is None else np.rint(tick * (1e9 / clock_hz)).astype(np.int64)
    path = tmp_path_factory.getbasetemp() / "windows.zarr"
    before = arrays.CHUNK_BYTES
    arrays.CHUNK_BYTES = 256
    try:
        write_session(session_of(time_ns, rng.integers(0, n_units, n_spikes), n_units, clock_hz), path)
    finally:
        arrays.CHUNK_BYTES = before
    whole, reader = read_session(path), open_session(path, cache_bytes=1000)
    assert (reader.n_spikes, reader.n_units, reader.id) == (n_spikes, n_units, "a/b")
    near = [int(t) + d for t in time_ns[:5] for d in (-1, 0, 1)] + [0, whole.stop_ns, -(2**70), 2**70]
    for _ in range(8):
        start, stop = sorted(data.draw(st.tuples(st.sampled_from(near), st.sampled_from(near))))
        in_range = [min(max(t, -(2**62)), 2**62) for t in (start, stop)]
        assert equal(reader.window(start, stop), whole.spikes.window(*in_range))
    for row in range(n_units):
        assert np.array_equal(reader.unit_times(row), whole.spikes.time_ns[whole.spikes.unit == row])
    reader.verify()


def test_times_at_the_ends_of_int64(tmp_path):
    time_ns = np.array([-(2**63) + 2, -(2**62), -5, 3, 2**61 + 1, 2**62, 2**63 - 2])
    write_session(session_of(time_ns, np.zeros(7, int), 1), tmp_path / "s")
    whole = read_session(tmp_path / "s")
    assert whole.spikes.time_ns.tolist() == time_ns.tolist()
    reader = open_session(tmp_path / "s")
    for low in time_ns.tolist():
        assert equal(reader.window(low, 2**62 + 1), whole.spikes.window(low, 2**62 + 1))


def test_units_and_rows_that_are_not_there(tmp_path):
    write_session(session_of(np.array([5, 7]), np.array([0, 1]), 2), tmp_path / "s")
    reader = open_session(tmp_path / "s")
    assert reader.units.id.tolist() == ["u0", "u1"]
    assert reader.units.columns["depth"].tolist() == [0, 1.5]
    with pytest.raises(UsageError, match="unit row 2 is not in a/b, which has 2 units"):
        reader.unit_times(2)


def test_window_that_stops_before_it_starts_is_empty(tmp_path):
    write_session(session_of(np.array([5, 7]), np.array([0, 1]), 2), tmp_path / "s")
    assert len(open_session(tmp_path / "s").window(7, 5)) == 0


def test_only_the_chunks_of_the_window_are_decoded(tmp_path, small_chunks):
    write_session(session_of(np.arange(3200) * 1_000_000, np.zeros(3200, int), 1), tmp_path / "s")
    reader = open_session(tmp_path / "s")
    reader.window(1_000_000_000, 1_010_000_000)
    looked_at = (
        4 if reader._tick._array.is_partial else 2 * 8 + 4
    )  # of 100 chunks; each step of the bisection looks at one
    assert len(reader._tick.cache._chunks) <= looked_at
    assert len(reader._tick._first) <= 2 * 8


def test_the_cache_is_bounded(tmp_path, small_chunks):
    write_session(session_of(np.arange(3200), np.zeros(3200, int), 1), tmp_path / "s")
    reader = open_session(tmp_path / "s", cache_bytes=1024)
    for start in range(0, 3200, 100):
        reader.window(start, start + 50)
    assert reader._tick.cache._held <= 1024


@pytest.mark.parametrize("harm", ["missing", "cut", "noise", "other length"])
def test_damage_of_a_session_in_a_folder_is_said(tmp_path, small_chunks, harm):
    write_session(session_of(np.arange(320) * 1000, np.zeros(320, int), 1), tmp_path / "s")
    as_folder(tmp_path / "s")
    chunk = tmp_path / "s/spikes/time/3"
    whole = chunk.read_bytes()
    if harm == "missing":
        chunk.unlink()
    elif harm == "other length":
        chunk.write_bytes((tmp_path / "s/spikes/index_offset/0").read_bytes())
    else:
        chunk.write_bytes(whole[:7] if harm == "cut" else b"\x07" * len(whole))
    with pytest.raises(ArtefactError, match="is damaged"):
        open_session(tmp_path / "s").window(0, 10**9)
    with pytest.raises(ArtefactError):
        open_session(tmp_path / "s").verify()


def test_damage_is_said_by_the_window_that_reads_it(tmp_path, small_chunks):
    """One bit of one chunk: windows of the other chunks are read, this chunk's are refused."""
    session = session_of(np.arange(320) * 1000, np.zeros(320, int), 1)
    write_session(session, tmp_path / "s")
    path = tmp_path / "s" / "arrays.zip"
    with zipfile.ZipFile(path) as held:
        about = held.getinfo("spikes/time/3")
    content = bytearray(path.read_bytes())
    content[about.header_offset + 30 + len(about.filename) + about.file_size - 1] ^= 16
    path.write_bytes(content)
    reader = open_session(tmp_path / "s")
    assert reader.n_spikes == 320
    for start in (0, 30_000, 270_000):
        assert equal(reader.window(start, start + 20_000), session.spikes.window(start, start + 20_000))
    with pytest.raises(ArtefactError, match=r"s is damaged \(spikes/time/3: its bytes are not what was written\)"):
        reader.window(100_000, 110_000)


def test_no_session(tmp_path):
    with pytest.raises(ArtefactError, match="holds no session"):
        open_session(tmp_path)


def test_behind_a_url(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'spiketok[remote]')")
    write_session(session_of(np.arange(50) * 10, np.arange(50) % 3, 3), tmp_path / "s")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "s"), "/store/s", recursive=True)
    reader = window_reader.open_session("memory://store/s")
    assert equal(reader.window(100, 300), read_session(tmp_path / "s").spikes.window(100, 300))
    assert len(reader.units) == 3


def test_the_session_of_another_is_seen(tmp_path):
    session = session_of(np.arange(50) * 10, np.arange(50) % 3, 3)
    write_session(session, tmp_path / "s")
    write_session(replace(session, spikes=session.spikes.window(0, 100)), tmp_path / "t")
    as_folder(tmp_path / "s")
    as_folder(tmp_path / "t")
    (tmp_path / "s/spikes/time/.zarray").write_bytes((tmp_path / "t/spikes/time/.zarray").read_bytes())
    with pytest.raises(ArtefactError, match="10 rows, expected 50"):
        open_session(tmp_path / "s")
