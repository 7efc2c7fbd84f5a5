"""The store: what is written is what is read, on zarr 2 and 3, and damage is never read as silence."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, DataError
from spiketok.recording.nouns import (
    NS_PER_S,
    Finding,
    Intervals,
    Ragged,
    Session,
    Signal,
    Source,
    Spikes,
    Stimulus,
    UnitTable,
)
from spiketok.storage import files, members
from spiketok.storage.clock import CLOCKS_HZ, find_period, ns_from_ticks, ticks_from_ns
from spiketok.storage.remote import RemotePath
from spiketok.storage.store import (
    array_shapes,
    holds_session,
    is_packed,
    read_attributes,
    read_session,
    read_units,
    repack,
    session_digest,
    write_session,
)
from spiketok.storage.window_reader import open_session
from tests.made import as_folder

GOLDEN = Path(__file__).parents[1] / "golden"


def make_session(seed: int = 0, n_units: int = 5, clock_hz: float = 30_000) -> Session:
    """A session that uses every field of the store."""
    rng = np.random.default_rng(seed)
    seconds = [np.round(rng.uniform(-0.5, 60, rng.integers(0, 300)) * clock_hz) / clock_hz for _ in range(n_units)]
    times = [np.rint(s * NS_PER_S).astype(np.int64) for s in seconds]
    spikes = Spikes.from_units(times)
    valid = rng.random(600) > 0.1
    value = np.where(valid[:, None], rng.normal(size=(600, 2)), 0).astype(np.float32)
    return Session(
        id="test/one.two",
        subject="M",
        start_ns=-NS_PER_S,
        stop_ns=61 * NS_PER_S,
        units=UnitTable(
            np.array([f"u{k}" for k in range(n_units)]),
            {"region": np.array(["PMd", "M1", "", "ü", "x"] * n_units)[:n_units], "held_out": np.arange(n_units) > 2,
             "snr.db": rng.normal(size=n_units),
             "electrodes": Ragged(np.arange(2 * n_units), np.arange(n_units + 1) * 2)},
        ),
        spikes=spikes,
        observed=Intervals(np.array([-NS_PER_S, 31 * NS_PER_S]), np.array([30 * NS_PER_S, 61 * NS_PER_S])),
        source=Source("a.nwb", "00" * 32, 17, "000140", "0.1", "CC-BY-4.0", "Someone (2026)", "2026-01-01T00:00:00"),
        unit_observed=Ragged(np.array([[0, 5]] * n_units), np.arange(n_units + 1)),
        observed_source="obs_intervals",
        intervals={
            "trials": Intervals(
                np.array([0, 5]), np.array([4, 5]),
                {"result": np.array(["R", ""]), "go_cue_time": np.array([0.5, np.nan]), "n": np.array([1, 2]),
                 "target/pos": Ragged(np.ones((3, 2)), np.array([0, 3, 3]))},
            ),
            "epochs": Intervals.empty(),
        },
        splits=Intervals(np.array([0, 9]), np.array([9, 12]), {"name": np.array(["train", "test"])}),
        signals={
            "cursor_vel": Signal(np.arange(600) * 100_000_000, value, ("x", "y"), "mm/s", valid, 10.0),
            "empty": Signal(np.zeros(0, np.int64), np.zeros((0, 1), np.float32), ("a",), "", np.zeros(0, bool)),
        },
        clock_hz=clock_hz,
        info={"species": "Macaca mulatta"},
        repairs=(Finding("spikes-unsorted", 3, "sorted"),),
        notes=(Finding("late", 1, "after the end"),),
    )  # fmt: skip


def assert_equal(a: object, b: object, where: str = "session") -> None:
    """Every field, to the bit and the dtype."""
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    elif hasattr(a, "__dataclass_fields__"):
        for name in a.__dataclass_fields__:
            assert_equal(getattr(a, name), getattr(b, name), f"{where}.{name}")
    elif hasattr(a, "keys"):
        assert set(a) == set(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}[{key}]")
    else:
        assert a == b, where


def tree_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)}".encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("clock_hz", [1_000, 10_000, 390_625 / 16, 30_000, 1_000_000, 25_000, 12_345.678])
def test_round_trip_of_every_field(tmp_path, clock_hz):
    session = make_session(clock_hz=clock_hz)
    write_session(session, tmp_path / "s", {"reader": "nwb"})
    assert_equal(read_session(tmp_path / "s"), session)


def test_stimuli_are_kept_and_their_shapes_told(tmp_path):
    frames = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    stimuli = {
        "a/movie": Stimulus(frames, [-5, 10], [5, 20], np.array([1, -1], np.int32)),
        "x" * 300: Stimulus(frames / np.float32(7), [], [], []),
    }
    session = replace(make_session(), stimuli=stimuli)
    write_session(session, tmp_path / "s")
    assert_equal(read_session(tmp_path / "s"), session)
    told = read_attributes(tmp_path / "s")
    assert told["stimuli"] == {"a/movie": [2, 3, 4], "x" * 300: [2, 3, 4]}
    write_session(make_session(), tmp_path / "none")
    assert "stimuli" not in read_attributes(tmp_path / "none")
    assert session_digest(session, {}, told["written_by"]) == told["digest"]
    darker = replace(session, stimuli=stimuli | {"a/movie": replace(stimuli["a/movie"], frames=frames // 2)})
    assert session_digest(darker, {}, told["written_by"]) != told["digest"]


def test_same_session_gives_same_bytes_and_replaces_what_stood_there(tmp_path):
    write_session(make_session(1), tmp_path / "a")
    write_session(make_session(0), tmp_path / "a")
    write_session(make_session(0), tmp_path / "b")
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_ticks_cost_a_third_of_nanoseconds(tmp_path):
    rng = np.random.default_rng(0)
    tick = np.sort(rng.integers(0, 60 * 30_000, 300_000))
    on_clock = ns_from_ticks(tick, Fraction(NS_PER_S, 30_000))
    size = {}
    for name, time_ns in (("on", on_clock), ("off", on_clock + rng.integers(0, 33_000, tick.size))):
        spikes = Spikes(np.sort(time_ns), np.zeros(tick.size, np.int32))
        session = Session(
            "a/b", "", 0, 61 * NS_PER_S, UnitTable(np.array(["0"])), spikes, Intervals.empty(), Source("x", "", 0)
        )
        write_session(session, tmp_path / name)
        np.testing.assert_array_equal(read_session(tmp_path / name).spikes.time_ns, spikes.time_ns)
        with zipfile.ZipFile(tmp_path / name / "arrays.zip") as held:
            own = [one for one in held.infolist() if one.filename.startswith("spikes/time/")]
        size[name] = 8 * sum(one.file_size for one in own) / tick.size
    assert size["on"] < 5.5
    assert size["off"] > 2.5 * size["on"]


def test_unit_ordered_index(tmp_path):
    session = make_session()
    write_session(session, tmp_path / "s")
    for row in range(len(session.units)):
        expected = session.spikes.time_ns[session.spikes.unit == row]
        np.testing.assert_array_equal(open_session(tmp_path / "s").unit_times(row), expected)


@given(
    st.lists(st.integers(-(10**12), 10**14), max_size=30),
    st.sampled_from([*CLOCKS_HZ, Fraction(25_000), Fraction(30_000_185, 1000)]),
)
def test_ticks_are_exact(ticks, clock_hz):
    period_ns = NS_PER_S / clock_hz
    limit = 2**61 // (2 * period_ns.numerator)  # beyond it the store keeps ns
    tick = np.array([k for k in ticks if abs(k) < limit], np.int64)
    time_ns = ns_from_ticks(tick, period_ns)
    exact = [(2 * period_ns.numerator * int(k) + period_ns.denominator) // (2 * period_ns.denominator) for k in tick]
    np.testing.assert_array_equal(time_ns, np.array(exact, np.int64))
    found = ticks_from_ns(time_ns, period_ns)
    assert found is not None
    np.testing.assert_array_equal(ns_from_ticks(found, period_ns), time_ns)


def test_clock_is_refused_when_one_spike_is_off_it():
    time_ns = np.arange(100, dtype=np.int64) * 1_000_000
    assert find_period(time_ns) == 1_000_000
    time_ns[50] += 1
    assert find_period(time_ns) == 1
    huge = np.array([0, 2**62], np.int64)
    assert find_period(huge) == 1


def test_a_session_is_two_files(tmp_path):
    write_session(make_session(), tmp_path / "s")
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["arrays.zip", "session.json"]


def test_zarr_reads_the_arrays(tmp_path):
    """zarr 2 and zarr 3 (make oracle), from the zip as it is."""
    import zarr

    session = make_session()
    write_session(session, tmp_path / "s")
    storage = getattr(zarr, "storage", zarr)
    store = storage.ZipStore(str(tmp_path / "s" / "arrays.zip"), mode="r")
    group = zarr.open_group(store=store, mode="r")
    num, den = read_attributes(tmp_path / "s")["tick_period_ns"]
    np.testing.assert_array_equal(ns_from_ticks(group["spikes/time"][...], Fraction(num, den)), session.spikes.time_ns)
    np.testing.assert_array_equal(group["spikes/unit"][...], session.spikes.unit)
    np.testing.assert_array_equal(group["units/id"][...], session.units.id)
    np.testing.assert_array_equal(group["units/columns/region"][...], session.units.columns["region"])
    np.testing.assert_array_equal(group["signals/cursor_vel/value"][...], session.signals["cursor_vel"].value)
    np.testing.assert_array_equal(group["signals/cursor_vel/valid"][...], session.signals["cursor_vel"].valid)
    np.testing.assert_array_equal(group["signals/cursor_vel/time_ns"][...], session.signals["cursor_vel"].time_ns)
    assert group["signals/empty/value"].shape == (0, 1)
    trials = group["intervals/trials/columns"]
    np.testing.assert_array_equal(trials["target%2Fpos/value"][...], np.ones((3, 2)))
    assert sorted(name for name, _ in trials.arrays()) == ["go_cue_time", "n", "result"]
    store.close()


def test_the_digest_is_that_of_version_1(tmp_path):
    """A session that was written before has the same digest when it is written now: its shards stay valid."""
    before = json.loads((GOLDEN / "store-v1" / ".zattrs").read_text())
    assert session_digest(make_session(), before["settings"], before["written_by"]) == before["digest"]
    digest = write_session(make_session(), tmp_path / "s", before["settings"])
    attributes = read_attributes(tmp_path / "s")
    assert (
        attributes["digest"] == digest == session_digest(make_session(), before["settings"], attributes["written_by"])
    )
    assert set(attributes) == set(before)


def test_no_thread_and_no_descriptor_is_left(tmp_path):
    descriptors, threads = Path("/proc/self/fd"), threading.active_count()
    write_session(make_session(), tmp_path / "s")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    readers = [open_session(tmp_path / "s") for _ in range(20)]
    for reader in readers:
        reader.window(0, NS_PER_S)
        reader.unit_times(1)
        assert len(reader.units) == 5
    read_session(tmp_path / "s")
    after = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    assert after == before
    assert threading.active_count() == threads


def reads(path: Path) -> list:
    """What every reader gives of a session: each the value, or the one line that says why not."""
    calls = [
        lambda: read_session(path),
        lambda: read_attributes(path),
        lambda: read_units(path, read_attributes(path)),
        lambda: {part: array_shapes(path, part) for part in ("signals", "intervals/trials", "spikes")},
        lambda: open_session(path).window(5 * NS_PER_S, 30 * NS_PER_S),
        lambda: open_session(path).unit_times(3),
        lambda: open_session(path).units,
    ]
    found = []
    for call in calls:
        try:
            found.append(call())
        except ArtefactError as error:
            assert "\n" not in str(error)
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", ["arrays.zip", "session.json"])
def test_no_damaged_byte_is_believed(tmp_path, name):
    target = tmp_path / "s"
    write_session(make_session(), target)
    good, content = reads(target), (target / name).read_bytes()
    assert not any(isinstance(one, str) for one in good)
    rng = np.random.default_rng(0)
    told = 0
    first = content.find(b"intervals/epochs/start_ns/.zarray") - 30 if name == "arrays.zip" else 0
    assert b".zarray" not in content[: max(first, 0)]
    for turn in range(120):
        changed = bytearray(content)
        place = int(rng.integers(first, len(content)))  # before it: that groups are groups, which only zarr reads
        if turn % 4 == 3:
            changed = changed[:place] if turn % 8 == 3 else changed[:place] + bytes(len(content) - place)
        else:
            changed[place] ^= 1 << int(rng.integers(8))
        (target / name).write_bytes(changed)
        found = reads(target)
        for one, expected in zip(found, good, strict=True):
            if not isinstance(one, str):
                assert_equal(one, expected)
        if bytes(changed) != content:
            whole, attributes = found[:2]
            assert isinstance(whole, str), "a full read checks every byte of both files"
            assert isinstance(attributes, str) == (name == "session.json"), (
                "the attributes are held by their own digest"
            )
            told += 1
    assert told > 100
    (target / name).unlink()
    words = "arrays.zip is missing" if name == "arrays.zip" else "it has lost its session.json"
    assert words in reads(target)[0]


def test_the_arrays_of_another_session_are_refused(tmp_path):
    write_session(make_session(0), tmp_path / "a")
    write_session(make_session(1), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "arrays.zip", tmp_path / "a" / "arrays.zip")
    for call in (read_session, open_session, lambda path: array_shapes(path, "spikes")):
        with pytest.raises(ArtefactError, match=r"a is damaged \(arrays.zip: .*not the one that was written"):
            call(tmp_path / "a")


def test_a_session_that_is_replaced_under_a_reader(tmp_path):
    write_session(make_session(0), tmp_path / "s")
    reader = open_session(tmp_path / "s")
    write_session(make_session(1), tmp_path / "s")
    with pytest.raises(ArtefactError, match="was replaced while it was read: run the same command again"):
        reader.window(0, 60 * NS_PER_S)


@pytest.mark.parametrize("limit", [None, 700], ids=["small", "as of more than 2 GiB"])
def test_the_directory_is_read_as_zipfile_reads_it(tmp_path, monkeypatch, limit):
    if limit:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    held = {f"group/{k}": bytes([k]) * (97 * k % 600) for k in range(40)}
    digest = members.write_zip(tmp_path / "arrays.zip", held.items())
    with zipfile.ZipFile(tmp_path / "arrays.zip") as theirs:
        assert {name: theirs.read(name) for name in theirs.namelist()} == held
        assert {one.compress_type for one in theirs.infolist()} == {zipfile.ZIP_STORED}
    monkeypatch.setattr(members, "_TAIL", 128)  # the directory does not fit into the first look
    ours = members.ZipMembers(tmp_path / "arrays.zip", digest, tmp_path)
    assert {name: ours.read(name) for name in held} == held
    assert (b"PK\6\6" in (tmp_path / "arrays.zip").read_bytes()) == bool(limit)


def test_damage_of_a_session_in_a_folder_is_named(tmp_path):
    target = tmp_path / "s"
    write_session(make_session(), target)
    as_folder(target)
    chunk = target / "spikes" / "unit" / "0"
    whole = chunk.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        chunk.write_bytes(damage)
        with pytest.raises(ArtefactError, match="damaged"):
            read_session(target)
        with pytest.raises(ArtefactError, match="damaged"):
            repack(target)
        assert not is_packed(target)
    chunk.unlink()  # zarr itself would read zeros
    with pytest.raises(ArtefactError, match=r"damaged \(spikes/unit/0 is missing\)"):
        read_session(target)


def test_a_folder_is_read_by_every_reader_and_repacked(tmp_path):
    """Every reader gives the same of both layouts; repacked it has the bytes of one that is written now."""
    write_session(make_session(), tmp_path / "new", {"reader": "nwb"})
    write_session(make_session(), tmp_path / "old", {"reader": "nwb"})
    as_folder(tmp_path / "old")
    assert holds_session(tmp_path / "old")
    assert not is_packed(tmp_path / "old")
    for old, new in zip(reads(tmp_path / "old"), reads(tmp_path / "new"), strict=True):
        assert_equal(old, new)
    repack(tmp_path / "old")
    assert tree_digest(tmp_path / "old") == tree_digest(tmp_path / "new")
    repack(tmp_path / "old")
    assert tree_digest(tmp_path / "old") == tree_digest(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "old"]
    with pytest.raises(ArtefactError, match="holds no session"):
        repack(tmp_path / "nothing")


def test_the_golden_store_repacked_keeps_its_digest(tmp_path):
    shutil.copytree(GOLDEN / "store-v1", tmp_path / "s")
    before = read_attributes(tmp_path / "s")
    repack(tmp_path / "s")
    assert is_packed(tmp_path / "s")
    assert read_attributes(tmp_path / "s") == before
    assert_equal(read_session(tmp_path / "s"), make_session())


def test_repacking_that_fails_leaves_the_folder(tmp_path, monkeypatch):
    shutil.copytree(GOLDEN / "store-v1", tmp_path / "s")
    before = tree_digest(tmp_path / "s")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError):
        repack(tmp_path / "s")
    assert tree_digest(tmp_path / "s") == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_repacking_behind_a_url(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'spiketok[remote]')")
    shutil.copytree(GOLDEN / "store-v1", tmp_path / "s")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "s"), "/repacked/s", recursive=True)
    url = RemotePath("memory://repacked/s")
    assert holds_session(url)
    repack(url)
    assert sorted(name.rsplit("/", 1)[1] for name in memory.find("/repacked/s")) == ["arrays.zip", "session.json"]
    assert_equal(read_session(url), make_session())
    reader = open_session("memory://repacked/s")
    assert reader.window(0, NS_PER_S).time_ns.tolist() == make_session().spikes.window(0, NS_PER_S).time_ns.tolist()


def test_other_versions_and_strangers_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match="holds no session"):
        read_attributes(tmp_path / "nothing")
    for name in ("session.json", ".zattrs"):
        target = tmp_path / name.strip(".")
        write_session(make_session(), target)
        if name == ".zattrs":
            as_folder(target)
        good = json.loads((target / name).read_text())
        for change, words in (({"version": 99}, "store version 99"), ({"format": "anndata"}, "has format 'anndata'")):
            (target / name).write_text(json.dumps(good | change))
            with pytest.raises(ArtefactError, match=words):
                read_session(target)
        (target / name).write_text("{")
        with pytest.raises(ArtefactError, match="cannot be read"):
            read_session(target)
        (target / name).write_text("[]")
        with pytest.raises(ArtefactError, match="holds no JSON object"):
            read_session(target)
    (tmp_path / "session.json" / "session.json").write_text(json.dumps(good | {"n_units": 6}))
    with pytest.raises(ArtefactError, match=r"is damaged \(session.json has sha256 \w{12}, written was"):
        read_attributes(tmp_path / "session.json")


def test_object_columns_are_refused_and_nothing_is_left(tmp_path):
    session = make_session()
    bad = UnitTable(session.units.id, {"x": np.array([{}] * len(session.units), dtype=object)})
    broken = Session(**{**{f: getattr(session, f) for f in session.__dataclass_fields__}, "units": bad})
    with pytest.raises(DataError, match="dtype object"):
        write_session(broken, tmp_path / "s")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["store-v1", "store-v1-packed"])
def test_golden_stores_of_version_1_are_read_forever(tmp_path, name):
    shutil.copytree(GOLDEN / name, tmp_path / "s")
    session = read_session(tmp_path / "s")
    assert session.id == "test/one.two"
    assert_equal(session, make_session())


def test_what_is_written_has_the_golden_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("spiketok.storage.store.__version__", "0.1.0")  # who wrote it is part of a session's bytes
    write_session(make_session(), tmp_path / "s", {"reader": "nwb"})
    assert tree_digest(tmp_path / "s") == tree_digest(GOLDEN / "store-v1-packed")


@pytest.mark.parametrize("name", ["", "x" * 300, "猫" * 60, "a/b", "~", "..", "%41"])
def test_names_that_no_folder_can_have(tmp_path, name):
    session = make_session()
    session = replace(
        session,
        signals=session.signals | {name: next(iter(session.signals.values()))},
        intervals=session.intervals | {name: Intervals([0], [1], {name: np.array([2.5])})},
        units=UnitTable(session.units.id, session.units.columns | {name: np.arange(len(session.units))}),
    )
    write_session(session, tmp_path / "s")
    again = read_session(tmp_path / "s")
    assert name in again.signals
    assert again.intervals[name].columns[name].tolist() == [2.5]
    assert again.units.columns[name].tolist() == list(range(len(session.units)))
