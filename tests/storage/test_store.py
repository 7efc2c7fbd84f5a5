"""The store: what is written is what is read, on zarr 2 and 3, and damage is never read as silence."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import ArtefactError, DataError
from spiketok.recording.nouns import NS_PER_S, Finding, Intervals, Ragged, Session, Signal, Source, Spikes, UnitTable
from spiketok.storage.store import (
    CLOCKS_HZ,
    find_clock,
    ns_from_ticks,
    read_attributes,
    read_session,
    ticks_from_ns,
    unit_spike_times,
    write_session,
)


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
        size[name] = 8 * sum(p.stat().st_size for p in (tmp_path / name / "spikes" / "time").iterdir()) / tick.size
    assert size["on"] < 5.5
    assert size["off"] > 2.5 * size["on"]


def test_unit_ordered_index(tmp_path):
    session = make_session()
    write_session(session, tmp_path / "s")
    for row in range(len(session.units)):
        expected = session.spikes.time_ns[session.spikes.unit == row]
        np.testing.assert_array_equal(unit_spike_times(tmp_path / "s", row), expected)


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
    assert find_clock(time_ns)[0] == 1_000_000
    time_ns[50] += 1
    assert find_clock(time_ns)[0] == 1
    huge = np.array([0, 2**62], np.int64)
    assert find_clock(huge)[0] == 1


def test_damage_is_named_never_read(tmp_path):
    target = tmp_path / "s"
    write_session(make_session(), target)
    chunk = target / "spikes" / "unit" / "0"
    whole = chunk.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        chunk.write_bytes(damage)
        with pytest.raises(ArtefactError, match="damaged"):
            read_session(target)
    chunk.unlink()  # zarr itself would read zeros
    with pytest.raises(ArtefactError, match="damaged"):
        read_session(target)


def test_other_versions_and_strangers_are_refused(tmp_path):
    with pytest.raises(ArtefactError, match="holds no session"):
        read_attributes(tmp_path / "nothing")
    target = tmp_path / "s"
    write_session(make_session(), target)
    good = json.loads((target / ".zattrs").read_text())
    for change, words in (({"version": 99}, "store version 99"), ({"format": "anndata"}, "has format 'anndata'")):
        (target / ".zattrs").write_text(json.dumps(good | change))
        with pytest.raises(ArtefactError, match=words):
            read_session(target)
    (target / ".zattrs").write_text("{")
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_session(target)


def test_object_columns_are_refused_and_nothing_is_left(tmp_path):
    session = make_session()
    bad = UnitTable(session.units.id, {"x": np.array([{}] * len(session.units), dtype=object)})
    broken = Session(**{**{f: getattr(session, f) for f in session.__dataclass_fields__}, "units": bad})
    with pytest.raises(DataError, match="dtype object"):
        write_session(broken, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_golden_store_of_version_1_is_read_forever(tmp_path):
    golden = Path(__file__).parents[1] / "golden" / "store-v1"
    shutil.copytree(golden, tmp_path / "s")
    session = read_session(tmp_path / "s")
    assert session.id == "test/one.two"
    assert_equal(session, make_session())


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
