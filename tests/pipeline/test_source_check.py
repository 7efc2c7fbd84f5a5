"""verify: equal where the store is right, and a sentence for each thing that is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import SourceError
from spiketok.pipeline import source_check
from spiketok.pipeline.source_check import columns, compare_with_source, verify_session
from spiketok.pipeline.source_check.source_file import links_of
from spiketok.recording.nouns import Intervals, Ragged, Session, Source, Spikes, UnitTable
from spiketok.sources.formats.nwb import read_nwb, tables
from spiketok.storage.store import read_session, write_session
from tests import nwb_files
from tests.conftest import real_data

pytestmark = pytest.mark.filterwarnings("ignore:Behavioral.* is deprecated", "ignore:.*Series is deprecated")


def read(path: Path) -> Session:
    return read_nwb(path, "set/session", Source(path.name, "0" * 64, 1))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return nwb_files.write_plain(tmp_path_factory.mktemp("nwb") / "plain.nwb")


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    return nwb_files.write_rich(tmp_path_factory.mktemp("nwb") / "rich.nwb")


def test_equal_and_what_was_compared(rich):
    done = compare_with_source(read(rich), rich)
    assert done.differences == []
    assert (done.n_units, done.n_spikes, done.n_signals) == (4, 11, 7)
    assert done.n_samples == 5 * 80 + 40 + 5
    assert done.n_intervals >= 5 + 1 + 1 + 3 + 3 + 2


def test_equal_after_the_store(rich, tmp_path):
    write_session(read(rich), tmp_path / "session.zarr")
    assert verify_session(read_session(tmp_path / "session.zarr"), rich) == []


# ---- repaired files are equal under the stated rules ----------------------------------------------------------------


def spikes_of(*times: float, index: tuple[int, ...]) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        nwb_files.replace_data(file, "units/spike_times", np.array(times))
        nwb_files.replace_data(file, "units/spike_times_index", np.array(index, np.uint8))

    return change


def data(name: str, value: object) -> Callable[[h5py.File], None]:
    return lambda file: nwb_files.replace_data(file, name, value)


def stamps(rows: slice, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file["processing/behavior/hand_vel/timestamps"][rows] = value

    return change


def turned(file: h5py.File) -> None:
    name = "processing/behavior/hand_vel/data"
    nwb_files.replace_data(file, name, file[name][()].T)


def undeclared(file: h5py.File) -> None:
    file["intervals/trials/late"] = np.arange(3)


REPAIRED = {
    "NaN spikes": (spikes_of(np.nan, 1.0, np.inf, 2.0, index=(2, 3, 4)), "spikes-not-finite"),
    "unsorted spikes": (spikes_of(3.0, 1.0, 2.0, 2.0, index=(3, 3, 4)), "spikes-unsorted"),
    "equal ids": (data("units/id", np.array([1, 1, 2])), "unit-ids-duplicate"),
    "missing stops": (data("intervals/trials/stop_time", np.full(3, np.nan)), "interval-stop-missing"),
    "stops before starts": (data("intervals/trials/stop_time", np.full(3, 0.1)), "interval-stop-before-start"),
    "missing starts": (data("intervals/trials/start_time", np.array([0, np.nan, 3.0])), "interval-start-missing"),
    "stamps far off": (stamps(slice(0, 1), -1.5e9), "signal-times"),
    "stamps that stand still": (stamps(slice(5, 9), 0.5), "signal-times"),
    "stamps that leap": (stamps(slice(20, 22), 4.7), "signal-times"),
    "stamps missing": (stamps(slice(4, 6), np.nan), "signal-times"),
    "fewer stamps": (data("processing/behavior/hand_vel/timestamps", np.arange(30) * 0.1), "signal-length"),
    "fewer samples": (data("processing/behavior/hand_vel/data", np.ones((30, 2))), "signal-length"),
    "components first": (turned, "signal-transposed"),
    "undeclared column": (undeclared, None),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_repairs_are_equal_under_their_rules(plain, tmp_path, name):
    change, repair = REPAIRED[name]
    path = tmp_path / "repaired.nwb"
    with nwb_files.edited(plain, path) as file:
        change(file)
    session = read(path)
    assert {f.id for f in session.repairs} == ({repair} if repair else set())
    assert verify_session(session, path) == []
    if repair and repair not in ("unit-ids-duplicate", "signal-transposed", "spikes-unsorted"):
        assert verify_session(replace(session, repairs=()), path), "a repair that is not stated is a difference"


odd = st.one_of(st.integers(-4, 40).map(lambda k: k / 4), st.sampled_from([np.nan, np.inf, 1e12, -1.5e9, 3e5]))


@pytest.mark.long
@given(
    spikes=st.lists(st.one_of(st.just(1.0), odd), min_size=5, max_size=5),
    cut=st.integers(0, 5),
    starts=st.lists(odd, min_size=3, max_size=3),
    stops=st.lists(odd, min_size=3, max_size=3),
    stamps=st.lists(odd, min_size=1, max_size=9),
)
def test_two_readers_agree_on_any_mess(tmp_path_factory, plain, spikes, cut, starts, stops, stamps):
    """The h5py reader and the rules as verify states them, on unsorted, missing, repeated and absurd times."""
    path = tmp_path_factory.getbasetemp() / "mess.nwb"
    with nwb_files.edited(plain, path) as file:
        nwb_files.replace_data(file, "units/spike_times", np.array([2.0, *spikes]))
        nwb_files.replace_data(file, "units/spike_times_index", np.array([1, 1 + cut, 6], np.uint8))
        nwb_files.replace_data(file, "intervals/trials/start_time", np.array(starts))
        nwb_files.replace_data(file, "intervals/trials/stop_time", np.array(stops))
        nwb_files.replace_data(file, "processing/behavior/hand_vel/timestamps", np.array(stamps))
        nwb_files.replace_data(file, "processing/behavior/hand_vel/data", np.arange(10.0).reshape(-1, 1))
    assert verify_session(read(path), path) == []


# ---- whatever is wrong is found -------------------------------------------------------------------------------------


def with_spikes(session: Session, time_ns: np.ndarray, unit: np.ndarray) -> Session:
    order = np.lexsort((unit, time_ns))
    return replace(session, spikes=Spikes(time_ns[order], unit[order]))


def one_ns_later(s: Session) -> Session:
    time_ns = s.spikes.time_ns.copy()
    time_ns[4] += 1
    return with_spikes(s, time_ns, s.spikes.unit)


def one_spike_less(s: Session) -> Session:
    return with_spikes(s, np.delete(s.spikes.time_ns, 3), np.delete(s.spikes.unit, 3))


def one_spike_of_another_unit(s: Session) -> Session:
    unit = s.spikes.unit.copy()
    unit[0] = 3
    return with_spikes(s, s.spikes.time_ns, unit)


def with_table(s: Session, name: str, **changes: object) -> Session:
    table = s.intervals[name]
    parts = {"start_ns": table.start_ns, "stop_ns": table.stop_ns, "columns": table.columns} | changes
    return replace(s, intervals={**s.intervals, name: Intervals(**parts)})


def stop_moved(s: Session) -> Session:
    return with_table(s, "trials", stop_ns=s.trials.stop_ns + np.array([0, 0, 1, 0, 0]))


def column_changed(s: Session) -> Session:
    split = s.trials.columns["split"].copy()
    split[1] = "val"
    return with_table(s, "trials", columns={**s.trials.columns, "split": split})


def column_lost(s: Session) -> Session:
    return with_table(s, "trials", columns={k: v for k, v in s.trials.columns.items() if k != "success"})


def ragged_changed(s: Session) -> Session:
    target = s.trials.columns["target_pos"]
    moved = Ragged(target.value, np.array([0, 1, 1, 3, 3, 4]))
    return with_table(s, "trials", columns={**s.trials.columns, "target_pos": moved})


def nan_filled(s: Session) -> Session:
    go_time = np.nan_to_num(s.trials.columns["go_time"])
    return with_table(s, "trials", columns={**s.trials.columns, "go_time": go_time})


def table_lost(s: Session) -> Session:
    return replace(s, intervals={k: v for k, v in s.intervals.items() if k != "stimuli"})


def table_invented(s: Session) -> Session:
    return replace(s, intervals={**s.intervals, "more": s.trials})


def event_moved(s: Session) -> Session:
    licks = s.intervals["licks"]
    return with_table(s, "licks", start_ns=licks.start_ns + 1, stop_ns=licks.stop_ns + 1)


def with_signal(s: Session, **changes: object) -> Session:
    return replace(s, signals={**s.signals, "Position.cursor": replace(s.signals["Position.cursor"], **changes)})


def sample_changed(s: Session) -> Session:
    value = s.signals["Position.cursor"].value.copy()
    value[7, 1] = np.nextafter(value[7, 1], np.float32(9))
    return with_signal(s, value=value)


def sample_lost(s: Session) -> Session:
    g = s.signals["Position.cursor"]
    keep = np.arange(80) != 30
    return with_signal(s, time_ns=g.time_ns[keep], value=g.value[keep], valid=g.valid[keep])


def sample_moved(s: Session) -> Session:
    time_ns = s.signals["Position.cursor"].time_ns.copy()
    time_ns[11] += 1
    return with_signal(s, time_ns=time_ns)


def nan_called_valid(s: Session) -> Session:
    return with_signal(s, valid=np.ones(80, np.bool_))


def measure_changed(s: Session) -> Session:
    return with_signal(s, measure="mm")


def signal_lost(s: Session) -> Session:
    return replace(s, signals={k: v for k, v in s.signals.items() if k != "biceps"})


def signals_swapped(s: Session) -> Session:
    swap = {"Position.cursor": "EyeTracking.cursor", "EyeTracking.cursor": "Position.cursor"}
    return replace(s, signals={swap.get(k, k): v for k, v in s.signals.items()})


def observed_changed(s: Session) -> Session:
    value = s.unit_observed.value.copy()
    value[0, 0] += 1
    return replace(s, unit_observed=Ragged(value, s.unit_observed.offset))


def observed_assumed(s: Session) -> Session:
    return replace(s, observed_source="assumed")


def with_column(s: Session, name: str, values: list) -> Session:
    return replace(s, units=UnitTable(s.units.id, {**s.units.columns, name: np.array(values)}))


WRONG: dict[str, tuple[Callable[[Session], Session], str]] = {
    "one ns later": (one_ns_later, "spike times in ns of unit"),
    "one spike less": (one_spike_less, "spikes of unit"),
    "one spike of another unit": (one_spike_of_another_unit, "spikes of unit"),
    "unit id": (lambda s: replace(s, units=UnitTable(["1", "2", "3", "4"], s.units.columns)), "id of unit row 0"),
    "held out": (lambda s: with_column(s, "held_out", [True] * 4), "'held_out'"),
    "region": (lambda s: with_column(s, "region", ["M1"] * 4), "'region'"),
    "unit column invented": (lambda s: with_column(s, "more", [1] * 4), "'more'"),
    "stop moved": (stop_moved, "intervals/trials: stops"),
    "column changed": (column_changed, "'split'"),
    "column lost": (column_lost, "'success'"),
    "ragged column changed": (ragged_changed, "'target_pos'"),
    "NaN filled": (nan_filled, "'go_time'"),
    "table lost": (table_lost, "intervals/stimuli"),
    "table invented": (table_invented, "'more'"),
    "event moved": (event_moved, "licks: times"),
    "sample changed": (sample_changed, "Position/cursor: values"),
    "sample lost": (sample_lost, "usable samples are missing"),
    "sample moved": (sample_moved, "none in the source"),
    "NaN called valid": (nan_called_valid, "cursor: valid"),
    "measure changed": (measure_changed, "cursor: measure"),
    "signal lost": (signal_lost, "biceps: missing"),
    "signals swapped": (signals_swapped, "cursor"),
    "observed changed": (observed_changed, "observed time in ns of unit row 0"),
    "observed assumed": (observed_assumed, "source of the observed time"),
    "splits lost": (lambda s: replace(s, splits=Intervals.empty()), "split 'train'"),
    "subject": (lambda s: replace(s, subject="rat-8"), "subject"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(rich, name):
    change, words = WRONG[name]
    differences = verify_session(change(read(rich)), rich)
    assert any(words in d for d in differences), differences
    assert all("\n" not in d and "source" in d for d in differences)


def test_units_of_another_number(plain, rich):
    differences = verify_session(read(plain), rich)
    assert any(d.startswith("units: 3 in the session, 4 in the source") for d in differences)


def test_source_that_pynwb_cannot_read(plain, tmp_path):
    session = read(plain)
    path = tmp_path / "broken.nwb"
    with nwb_files.edited(plain, path) as file:
        file["units"].attrs["colnames"] = ["spike_times", "ghost"]
    with pytest.raises(SourceError, match=r"broken\.nwb: cannot be read through pynwb") as error:
        verify_session(session, path)
    assert "\n" not in str(error.value)


@pytest.mark.long  # ten recordings
@pytest.mark.skipif(
    real_data() is None, reason="the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)"
)
def test_all_real_recordings_are_equal():
    paths = sorted(real_data().glob("*.nwb"))
    assert len(paths) == 10
    for path in paths:
        session = read(path)
        done = compare_with_source(session, path)
        assert done.differences == []
        assert (done.n_units, done.n_spikes) == (len(session.units), len(session.spikes))
        assert done.n_signals == len(session.signals)


# ---- what pynwb would not come to the end of ------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
def test_a_group_that_lies_in_itself_is_told_by_its_path(soft, plain, tmp_path):
    path = shutil.copy(plain, tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        module = file["processing/behavior"]
        module["other"] = file["intervals"]  # a second path to a group is no circle
        module["nowhere"] = h5py.SoftLink("/gone")
        module["far"] = h5py.ExternalLink("b.h5", "/")
    with h5py.File(path) as file:
        n_links, circle = links_of(file)
        assert circle == "" and n_links > 20
    with h5py.File(path, "a") as file:
        file["processing/behavior/up"] = h5py.SoftLink("/processing") if soft else file["processing"]
    with pytest.raises(SourceError, match=r"pynwb \(/processing/behavior/up is a group that it lies in\): .*--quick"):
        compare_with_source(read(plain), path)


def test_more_objects_than_its_time_allows_are_refused_before_it_begins(plain, tmp_path, monkeypatch):
    path = shutil.copy(plain, tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        for k in range(40):
            file.create_group(f"processing/behavior/g{k}")
    monkeypatch.setattr(source_check, "SECONDS_PER_LINK", 0.5)
    with pytest.raises(SourceError, match=r"a millisecond and more for each of \d\d objects, 30 s are given\)"):
        compare_with_source(read(plain), path)
    monkeypatch.setattr(source_check, "SECONDS_PER_LINK", 0.1)
    assert compare_with_source(read(plain), path).differences == []


def test_a_table_of_too_many_columns(plain, tmp_path, monkeypatch):
    """What it does not declare is left out as one, unread; what it declares is refused with both numbers."""
    monkeypatch.setattr(tables, "MOST_COLUMNS", 4)
    monkeypatch.setattr(columns, "MOST_UNDECLARED", 4)
    path = shutil.copy(plain, tmp_path / "a.nwb")
    with h5py.File(path, "a") as file:
        for k in range(5):
            file[f"intervals/trials/c{k}"] = np.zeros(3)
    session = read(path)
    (note,) = [note for note in session.notes if note.id == "columns-left-out"]
    assert (note.count, note.text) == (5, "/intervals/trials: left out 5 members that it does not declare, over 4")
    assert "side" in session.trials.columns and "c0" not in session.trials.columns
    assert compare_with_source(session, path).differences == []
    with h5py.File(path, "a") as file:
        said = file["intervals/trials"].attrs
        said["colnames"] = [*said["colnames"], "c0", "c1"]
    with pytest.raises(SourceError, match="table /intervals/trials has 5 columns, at most 4 are read of one"):
        read(path)
