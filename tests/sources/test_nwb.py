"""The NWB reader: exact spikes, every repair named, and one clear line for each file that cannot be used."""

from __future__ import annotations

import dataclasses
import os
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import SourceError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import NS_PER_S, Intervals, Ragged, Session, Source, Spikes
from spiketok.sources.formats.nwb import hdf5, read_nwb
from spiketok.sources.formats.nwb.series import rising, short_names
from spiketok.sources.formats.nwb.units import count_unobserved
from spiketok.storage.store import read_session, write_session
from tests import nwb_files
from tests.conftest import real_data

pytestmark = pytest.mark.filterwarnings("ignore:Behavioral.* is deprecated", "ignore:.*Series is deprecated")


def read(path: Path, **options: object) -> Session:
    return read_nwb(path, "set/session", Source(path.name, "0" * 64, 1), **options)


def seconds(*values: float) -> list[int]:
    return [round(value * NS_PER_S) for value in values]


def counts(findings) -> dict[str, int]:
    return {f.id: f.count for f in findings}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return nwb_files.write_plain(tmp_path_factory.mktemp("nwb") / "plain.nwb")


@pytest.fixture(scope="module")
def rich_path(tmp_path_factory) -> Path:
    return nwb_files.write_rich(tmp_path_factory.mktemp("nwb") / "rich.nwb")


@pytest.fixture(scope="module")
def rich(rich_path) -> Session:
    return read(rich_path)


@pytest.fixture
def edit(plain, tmp_path):
    """Make a file from the plain one: ``path = edit(function of the open file)``."""

    def make(change) -> Path:
        path = tmp_path / "edited.nwb"
        with nwb_files.edited(plain, path) as file:
            change(file)
        return path

    return make


def write_spikes(file: h5py.File, spikes: list[list[float]], index_dtype=np.uint32) -> None:
    flat = np.array([time for times in spikes for time in times], np.float64)
    nwb_files.replace_data(file, "units/spike_times", flat)
    stop = np.cumsum([len(times) for times in spikes]).astype(index_dtype)
    nwb_files.replace_data(file, "units/spike_times_index", stop)


def unit_times(session: Session, row: int) -> list[int]:
    return session.spikes.time_ns[session.spikes.unit == row].tolist()


# ---- a good file ----------------------------------------------------------------------------------------------------


def test_spikes_are_all_there_in_order(rich):
    for row, times in enumerate(nwb_files.RICH_SPIKES):
        assert unit_times(rich, row) == sorted(seconds(*times))
    assert rich.units.id.tolist() == ["10", "11", "12", "13"]
    assert rich.repairs == ()
    expected = {"units-silent": 1, "spikes-duplicate": 1, "spikes-negative": 1, "spikes-after-end": 1}
    assert expected.items() <= counts(rich.notes).items()


def test_unit_columns(rich):
    columns = rich.units.columns
    assert columns["quality"].tolist() == ["é µ", "good", "é µ", "good"]
    assert columns["held_out"].dtype == np.bool_
    assert columns["held_out"].tolist() == [False, False, False, True]
    np.testing.assert_array_equal(columns["depth"], [0, np.nan, 21, 31.5])
    assert [columns["tags"][row].tolist() for row in range(4)] == [[], ["a"], ["a"] * 2, ["a"] * 3]
    assert [columns["channel"][row].tolist() for row in range(4)] == [[0], [1], [2], [3, 4]]
    assert columns["group"].tolist() == ["group_PMd"] * 3 + ["group_M1"]
    assert columns["location"][0] == "brain_region: PMd; x: y"
    assert columns["region"].tolist() == ["PMd"] * 3 + ["M1"]
    assert not {"waveform_mean", "heldout", "electrodes", "spike_times"} & set(columns)
    assert any("waveform_mean (30 values a row)" in note.text for note in rich.notes)


def test_declared_clock(rich, rich_path):
    assert rich.clock_hz == 30_000
    assert read(rich_path, clock_hz=24_414.0625).clock_hz == 24_414.0625


@pytest.mark.parametrize(
    ("resolution", "clock_hz"), [(1 / 30_000, 30_000.0), (1 / 24_414.0625, 24_414.0625), (-1, None)]
)
def test_clock_from_resolution(edit, resolution, clock_hz):
    path = edit(lambda file: file["units/spike_times"].attrs.update(resolution=resolution))
    assert read(path).clock_hz == (None if clock_hz is None else pytest.approx(clock_hz, rel=1e-12))


def test_observed_differs_between_units(rich):
    own = [[list(pair) for pair in rich.unit_observed[row].tolist()] for row in range(4)]
    expected = [[[0, 4], [6, 10]], [[0, 10]], [[-1, 5]], [[0.5, 3]]]  # what touches or overlaps is one
    assert own == [[seconds(*pair) for pair in rows] for rows in expected]
    assert (rich.observed.start_ns.tolist(), rich.observed.stop_ns.tolist()) == (seconds(-1), seconds(10))
    assert rich.observed_source == "obs_intervals"
    assert (rich.start_ns, rich.stop_ns) == (-NS_PER_S, 10 * NS_PER_S)


def test_interval_tables(rich):
    trials = rich.trials
    assert trials.start_ns.tolist() == seconds(0, 1, 2.5, 4, 5)
    assert trials.columns["split"].tolist() == ["train", "train", "val", "none", "test"]
    assert trials.columns["success"].dtype == np.bool_
    np.testing.assert_array_equal(trials.columns["go_time"], [0.2, np.nan, 2.7, 4.2, 5.2])
    assert [trials.columns["target_pos"][row].shape for row in range(5)] == [(0, 2), (1, 2), (2, 2), (0, 2), (1, 2)]
    assert "timeseries" not in trials.columns
    assert any("timeseries (references" in note.text for note in rich.notes)
    assert {"trials", "epochs", "invalid_times", "stimuli", "licks", "still"} <= set(rich.intervals)
    assert rich.intervals["epochs"].columns["tags"][0].tolist() == ["all", "of it"]
    assert rich.intervals["stimuli"].columns["orientation"].tolist() == [0, 30, 60]


def test_source_splits(rich):
    assert rich.splits.columns["name"].tolist() == ["train", "valid", "test"]
    assert rich.splits.start_ns.tolist() == seconds(0, 2.5, 5)
    assert rich.splits.stop_ns.tolist() == seconds(2, 3.5, 6)  # the two train trials touch


def test_events_are_intervals_of_no_length(rich):
    licks = rich.intervals["licks"]
    assert licks.start_ns.tolist() == licks.stop_ns.tolist() == seconds(0.5, 0.5, 3.25)
    assert licks.columns["value"].tolist() == [1, 1, 2]
    assert rich.intervals["still"].columns["value"].tolist() == [1, -1]


def test_events_table(rich):
    if "rewards" not in rich.intervals:
        pytest.skip("this pynwb writes no events table (pip install --upgrade pynwb)")
    assert rich.intervals["rewards"].stop_ns.tolist() == seconds(1.25, 2)


def test_signals(rich):
    expected = {"Position.cursor", "EyeTracking.cursor", "biceps", "triceps", "hand_vel", "eval_mask", "ref"}
    assert set(rich.signals) == expected
    cursor = rich.signals["Position.cursor"]
    assert (cursor.components, cursor.measure, cursor.rate_hz) == (("x", "y"), "m", None)
    time_s = np.arange(80) * 0.1
    value = np.stack([time_s, -time_s], axis=1) * 0.01 + 2.0  # conversion and offset
    value[5] = 0
    np.testing.assert_array_equal(cursor.value, value.astype(np.float32))
    assert np.flatnonzero(~cursor.valid).tolist() == [5]
    velocity = rich.signals["hand_vel"]
    assert velocity.rate_hz == 10
    np.testing.assert_array_equal(velocity.time_ns, seconds(0.5)[0] + np.arange(80) * NS_PER_S // 10)
    assert rich.signals["eval_mask"].value.sum() == 40
    left_out = next(note for note in rich.notes if note.id == "series-left-out")
    assert left_out.count == 3
    for word in ("raw (ElectricalSeries)", "wide (65 components)", "words (not numbers)"):
        assert word in left_out.text


def test_acquisition_does_not_stretch_the_extent(rich):
    assert rich.signals["eval_mask"].time_ns[-1] > rich.stop_ns


def test_info_subject_and_source(rich):
    assert rich.subject == "rat-7"
    assert rich.info["species"] == "Rattus norvegicus"
    assert rich.info["experimenter"] == "One, A.; Two, B."
    assert rich.source.session_start == "2020-01-01T12:00:00+00:00"
    assert "time-zero-differs" in counts(rich.notes)
    assert all(isinstance(text, str) and text for text in rich.info.values())


def test_source_start_of_the_caller_is_kept(plain):
    source = Source("a.nwb", "0", 1, session_start="1999-01-01T00:00:00+00:00")
    assert read_nwb(plain, "a/b", source).source == source


def test_components_come_from_comments(plain):
    assert read(plain).signals["hand_vel"].components == ("x", "y")


def test_silence_about_observed_time_is_said(plain):
    session = read(plain)
    assert session.observed_source == "assumed"
    assert session.unit_observed is None
    assert (session.observed.start_ns.tolist(), session.observed.stop_ns.tolist()) == ([0], [4_900_000_001])
    assert "observed-assumed" in counts(session.notes)


def test_same_file_same_session(rich_path, rich):
    again = read(rich_path)
    assert dataclasses.asdict(again.source) == dataclasses.asdict(rich.source)
    assert (again.repairs, again.notes, list(again.intervals)) == (rich.repairs, rich.notes, list(rich.intervals))


# ---- spikes, by property --------------------------------------------------------------------------------------------

odd_seconds = st.one_of(
    st.floats(-10, 4000),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 0.0, -0.0, 0.02, 3600.123456789, 1e-10]),
    st.integers(0, 200_000_000).map(lambda tick: tick / 30_000),
)


@given(spikes=st.lists(st.lists(odd_seconds, max_size=12), min_size=3, max_size=3), data=st.data())
def test_no_spike_is_lost_or_invented(tmp_path_factory, plain, spikes, data):
    path = tmp_path_factory.getbasetemp() / "spikes.nwb"
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64, np.int32, np.int64]))
    with nwb_files.edited(plain, path) as file:
        write_spikes(file, spikes, dtype)
    good = [[t for t in times if abs(t) < 9e9] for times in spikes]
    n_good, n_all = sum(map(len, good)), sum(map(len, spikes))
    if not n_good:
        with pytest.raises(SourceError, match="not one spike"):
            read(path)
        return
    session = read(path, time_unit={"spikes": "s"})  # a dozen spikes of an hour are no neuron's, and stay
    assert counts(session.repairs).get("spikes-not-finite", 0) == n_all - n_good
    back = sum(b < a for times in good for a, b in pairwise(seconds(*times)))
    assert counts(session.repairs).get("spikes-unsorted", 0) == back
    for row, times in enumerate(good):
        stored = unit_times(session, row)
        assert len(stored) == len(times)
        for time_ns, time_s in zip(stored, sorted(times), strict=True):
            exact = Fraction(time_s) * NS_PER_S
            assert abs(time_ns - exact) <= Fraction(1, 2) + Fraction(1, 1000)  # float64 at 4000 s: 0.0005 ns
    twice = sum(len(times) - len(set(seconds(*times))) for times in good)
    assert counts(session.notes).get("spikes-duplicate", 0) == twice


spans = st.tuples(st.integers(-3, 12), st.integers(0, 5)).map(lambda pair: [pair[0], pair[0] + pair[1]])


@given(rows=st.lists(st.lists(spans, max_size=4), min_size=3, max_size=3))
def test_observed_time_by_property(tmp_path_factory, plain, rows):
    path = tmp_path_factory.getbasetemp() / "observed.nwb"
    with nwb_files.edited(plain, path) as file:
        flat = np.array([pair for row in rows for pair in row], np.float64).reshape(-1, 2)
        file["units/obs_intervals"] = flat
        file["units/obs_intervals_index"] = np.cumsum([len(row) for row in rows]).astype(np.uint8)
        file["units"].attrs["colnames"] = ["spike_times", "obs_intervals"]
    session = read(path)
    if all(a == b for row in rows for a, b in row):
        assert session.observed_source == "assumed"
        return
    assert session.observed_source == "obs_intervals"
    everywhere = [pair for row in rows for pair in row]
    n_outside = 0
    for row, own in enumerate(rows):
        stated = own or everywhere  # a unit that states nothing is taken as observed where any other is
        pairs = session.unit_observed[row] if session.unit_observed is not None else None
        if pairs is None:
            pairs = np.stack([session.observed.start_ns, session.observed.stop_ns], axis=1)
        assert (pairs[1:, 0] > pairs[:-1, 1]).all()
        for half in range(-8, 40):
            time_s = half / 2 + 0.25
            inside = ((pairs[:, 0] <= time_s * NS_PER_S) & (time_s * NS_PER_S < pairs[:, 1])).any()
            assert inside == any(a <= time_s < b for a, b in stated)
        times = nwb_files.PLAIN_SPIKES[row]
        n_outside += sum(not any(a <= t < b for a, b in stated) for t in times)
    assert counts(session.notes).get("spikes-unobserved", 0) == n_outside
    assert session.observed.total_ns == sum(any(a <= t < b for a, b in everywhere) for t in range(-3, 18)) * NS_PER_S


@pytest.mark.parametrize("own", [False, True])
def test_a_spike_at_the_stop_of_observed_time_lies_outside_one_at_its_start_inside(own):
    """Stated once for all units, or for each alike."""
    spikes = Spikes.from_units([np.array([9, 10, 19, 20, 29, 30, 39, 40]), np.array([10, 20])])
    pairs = np.array([[10, 20], [30, 40]])
    stated = Ragged(np.concatenate([pairs, pairs]), np.array([0, 2, 4])) if own else None
    assert count_unobserved(spikes, Intervals(pairs[:, 0], pairs[:, 1]), stated) == 5  # 9, 20, 29, 40 and again 20


def test_observed_intervals_that_are_no_intervals(edit):
    def change(file):
        file["units/obs_intervals"] = np.array([[0, 5], [np.nan, 9], [4, 2], [1, 2], [3, 4.0]])
        file["units/obs_intervals_index"] = np.array([3, 4, 5], np.uint8)

    session = read(edit(change))
    assert counts(session.repairs) == {"obs-intervals-invalid": 2}
    assert session.unit_observed[0].tolist() == [seconds(0, 5)]


def test_duplicate_unit_ids_are_told_apart(edit):
    session = read(edit(lambda file: nwb_files.replace_data(file, "units/id", np.array([4, 7, 4]))))
    assert session.units.id.tolist() == ["4.row0", "7", "4.row2"]
    assert counts(session.repairs) == {"unit-ids-duplicate": 2}


def test_one_spike_a_unit_needs_no_index(edit):
    def change(file):
        nwb_files.replace_data(file, "units/spike_times", np.array([3.0, 1.0, 2.0]))
        del file["units/spike_times_index"]

    assert [unit_times(read(edit(change)), row) for row in range(3)] == [seconds(3), seconds(1), seconds(2)]


def test_float32_spike_times_are_said_to_be_coarse(edit):
    times = np.array([0.1, 0.25, 3000, 0.05, 0.25, 2.5, 4], np.float32)
    session = read(edit(lambda file: nwb_files.replace_data(file, "units/spike_times", times)))
    note = next(n for n in session.notes if n.id == "spikes-low-precision")
    assert "float32" in note.text
    assert "0.0002 s" in note.text
    assert unit_times(session, 0) == [round(float(t) * NS_PER_S) for t in times[:3]]


def test_units_column_kinds(edit):
    """Columns that a table does not declare are kept where they fit; unusable ones are left out with a note."""

    def change(file):
        file["units/depth"] = np.arange(3, dtype=np.float32)
        file["units/odd"] = np.zeros(5)
        file["units/refs"] = np.array([file["units"].ref] * 3, dtype=h5py.ref_dtype)
        file["units/huge"] = np.array([1, 2, 2**63 + 1], np.uint64)
        file["units/location"] = ["a", "b", "c"]
        file["units"].attrs["colnames"] = ["spike_times", "ghost", "refs", "huge", "location"]

    session = read(edit(change))
    assert session.units.columns["depth"].dtype == np.float64
    assert session.units.columns["region"].tolist() == ["a", "b", "c"]
    assert set(session.units.columns) == {"depth", "location", "region"}
    texts = " ".join(note.text for note in session.notes)
    for word in ("ghost", "refs (references", "huge (values beyond int64)", "odd (no column of it)", "depth"):
        assert word in texts


def test_electrodes_out_of_range_are_left_out_with_a_note(rich_path, tmp_path):
    path = tmp_path / "electrodes.nwb"
    with nwb_files.edited(rich_path, path) as file:
        file["units/electrodes"][1] = 96
    session = read(path)
    assert counts(session.notes)["electrodes-out-of-range"] == 1
    assert "channel" not in session.units.columns
    assert len(session.spikes) == 11


def test_electrode_group_references_become_names(edit):
    def change(file):
        groups = [file.create_group(f"general/extracellular_ephys/shank{i}") for i in range(3)]
        file["units/electrode_group"] = np.array([g.ref for g in groups], dtype=h5py.ref_dtype)
        file["units"].attrs["colnames"] = ["spike_times", "electrode_group"]

    assert read(edit(change)).units.columns["group"].tolist() == ["shank0", "shank1", "shank2"]


# ---- interval tables ------------------------------------------------------------------------------------------------


def set_times(start, stop):
    def change(file):
        nwb_files.replace_data(file, "intervals/trials/start_time", np.array(start, np.float64))
        nwb_files.replace_data(file, "intervals/trials/stop_time", np.array(stop, np.float64))

    return change


def test_missing_stops_become_the_next_start(edit):
    session = read(edit(set_times([3.0, 0.5, 2.0], [np.nan, np.nan, 2.5])))
    assert session.trials.start_ns.tolist() == seconds(3, 0.5, 2)  # the source's order
    assert session.trials.stop_ns.tolist() == [session.stop_ns, *seconds(2, 2.5)]
    assert session.trials.columns["stop_repaired"].tolist() == [True, True, False]
    assert counts(session.repairs) == {"interval-stop-missing": 2}


def test_stops_before_starts_are_repaired(edit):
    session = read(edit(set_times([0.0, 1.0, 2.0], [1.0, 0.5, np.inf])))
    assert session.trials.stop_ns.tolist() == [*seconds(1, 2), session.stop_ns]
    assert counts(session.repairs) == {"interval-stop-missing": 1, "interval-stop-before-start": 1}


def test_rows_without_start_are_left_out(edit):
    session = read(edit(set_times([0.0, np.nan, 2.0], [1.0, 2.0, 3.0])))
    assert session.trials.start_ns.tolist() == seconds(0, 2)
    assert session.trials.columns["side"].tolist() == ["left", "left"]
    assert counts(session.repairs) == {"interval-start-missing": 1}


def test_rows_without_start_in_ragged_columns(rich_path, tmp_path):
    path = tmp_path / "ragged.nwb"
    with nwb_files.edited(rich_path, path) as file:
        file["intervals/trials/start_time"][1] = np.nan
    target = read(path).trials.columns["target_pos"]
    assert isinstance(target, Ragged)
    assert [target[row].tolist() for row in range(4)] == [[], [[2, 2], [2, 2]], [], [[4, 4]]]


def test_times_of_another_age_do_not_stretch_the_extent(edit):
    session = read(edit(set_times([0.0, 1.0, 1.5e9], [1.0, 1.4, 1.5e9 + 1])))
    assert session.stop_ns < 10 * NS_PER_S
    assert session.trials.stop_ns[2] == (1.5e9 + 1) * NS_PER_S
    assert counts(session.notes)["intervals-far"] == 2


def test_spikes_that_begin_late_are_noted(edit):
    def change(file):
        write_spikes(file, [[1498.9, 3700.0], [], [1500.0]])

    assert "spikes-begin-late" in counts(read(edit(change)).notes)


def test_spikes_that_end_early_are_noted(edit):
    assert "spikes-end-early" in counts(read(edit(set_times([0.0, 1.0, 900.0], [1.0, 2.0, 901.0]))).notes)


def test_root_tables_of_early_files(edit):
    def change(file):
        file.move("intervals/trials", "trials")
        del file["intervals"]

    assert len(read(edit(change)).trials) == 3


def test_other_split_names_are_noted(edit):
    def change(file):
        nwb_files.replace_data(file, "intervals/trials/side", ["train", "holdout", "none"])
        file.move("intervals/trials/side", "intervals/trials/split")
        file["intervals/trials"].attrs["colnames"] = ["start_time", "stop_time", "split"]

    session = read(edit(change))
    assert session.splits.columns["name"].tolist() == ["train"]
    assert counts(session.notes)["splits-other"] == 1


# ---- series ---------------------------------------------------------------------------------------------------------

VELOCITY = "processing/behavior/hand_vel"


@given(st.lists(st.integers(0, 6), max_size=9))
def test_rising_loses_the_fewest(times):
    time_ns = np.array(times, np.int64)
    keep = rising(time_ns)
    assert (np.diff(time_ns[keep]) > 0).all()
    subsets = (rows for n in range(len(times) + 1) for rows in combinations(times, n))
    best = max(len(rows) for rows in subsets if all(a < b for a, b in pairwise(rows)))
    assert keep.sum() == best


def test_rising_keeps_the_first_of_equals():
    assert rising(np.array([0, 5, 5, 7])).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("change", "dropped"),
    [
        (lambda t: t.__setitem__(0, -1.5e9), [0]),  # as in DANDI 000207
        (lambda t: t.__setitem__(7, np.nan), [7]),
        (lambda t: t.__setitem__(slice(10, 12), t[9]), [10, 11]),
        (lambda t: t.__setitem__(20, 4.5), [20]),  # a leap ahead costs one sample, not all that follow
        (lambda t: t.__setitem__(49, 1e12), [49]),
    ],
)
def test_samples_without_a_usable_stamp_are_dropped(edit, change, dropped):
    def edit_stamps(file):
        stamps = file[f"{VELOCITY}/timestamps"][()]
        change(stamps)
        file[f"{VELOCITY}/timestamps"][...] = stamps

    session = read(edit(edit_stamps))
    signal = session.signals["hand_vel"]
    kept = np.delete(np.arange(50), dropped)
    np.testing.assert_array_equal(signal.time_ns, np.rint(kept * 0.1 * 1e9).astype(np.int64))
    np.testing.assert_array_equal(signal.value[:, 0], np.sin(kept * 0.1).astype(np.float32))
    assert counts(session.repairs) == {"signal-times": len(dropped)}
    assert session.stop_ns < 10 * NS_PER_S


@pytest.mark.parametrize(("part", "n"), [("data", 40), ("timestamps", 45)])
def test_series_and_stamps_of_unequal_length_are_cut(edit, part, n):
    session = read(
        edit(lambda file: nwb_files.replace_data(file, f"{VELOCITY}/{part}", file[f"{VELOCITY}/{part}"][:n]))
    )
    assert session.signals["hand_vel"].time_ns.size == n
    repair = next(r for r in session.repairs if r.id == "signal-length")
    assert repair.count == 50 - n
    assert "50" in repair.text
    assert str(n) in repair.text


def test_series_that_stands_components_first_is_turned(edit):
    session = read(edit(lambda file: nwb_files.replace_data(file, f"{VELOCITY}/data", file[f"{VELOCITY}/data"][()].T)))
    assert session.signals["hand_vel"].value.shape == (50, 2)
    assert counts(session.repairs) == {"signal-transposed": 1}


def test_conversion_for_each_channel(edit):
    def change(file):
        file[f"{VELOCITY}/data"].attrs["conversion"] = 0.5
        file[f"{VELOCITY}/channel_conversion"] = np.array([1.0, 10.0])

    value = read(edit(change)).signals["hand_vel"].value
    np.testing.assert_array_equal(value[:, 1], (np.cos(np.arange(50) * 0.1) * 5.0).astype(np.float32))


def test_conversion_that_is_none_is_taken_as_one(edit):
    session = read(edit(lambda file: file[f"{VELOCITY}/data"].attrs.update(conversion=np.nan)))
    assert counts(session.repairs) == {"signal-conversion": 1}
    assert session.signals["hand_vel"].valid.all()


def test_values_beyond_float32_are_not_valid(edit):
    def change(file):
        file[f"{VELOCITY}/data"][3] = [1e300, 2.0]

    signal = read(edit(change)).signals["hand_vel"]
    assert np.flatnonzero(~signal.valid).tolist() == [3]
    assert signal.value[3].tolist() == [0, 2]


@pytest.mark.parametrize("rate", [0.0, -1.0, np.nan])
def test_series_with_an_impossible_rate_is_left_out_with_a_note(rich_path, tmp_path, rate):
    path = tmp_path / "rate.nwb"
    with nwb_files.edited(rich_path, path) as file:
        file[f"{VELOCITY}/starting_time"].attrs["rate"] = rate
    session = read(path)
    assert "hand_vel" not in session.signals
    assert any("hand_vel (the rate" in note.text for note in session.notes)


def test_rate_that_is_a_period_does_not_stretch_the_extent(rich_path, tmp_path):
    """FALCON H1 writes 0.02 s where the rate in Hz belongs."""
    path = tmp_path / "rate.nwb"
    with nwb_files.edited(rich_path, path) as file:
        file["acquisition/ref/starting_time"].attrs["rate"] = 1e-5
    session = read(path)  # of five samples, which tell too little of clocks to refuse the file
    assert session.stop_ns == 10 * NS_PER_S
    assert session.signals["ref"].rate_hz == 1e-5
    assert counts(session.notes)["signal-beyond"] == 4


def test_link_that_leads_back_is_walked_once(edit):
    def change(file):
        file["processing/behavior/again"] = h5py.SoftLink("/processing")
        file["processing/behavior/twin"] = h5py.SoftLink("/processing/behavior/hand_vel")

    assert list(read(edit(change)).signals) == ["hand_vel"]


def test_acquisition_in_a_missing_file_is_noted(edit):
    def change(file):
        file["acquisition/raw"] = h5py.ExternalLink("raw.nwb", "/acquisition/raw")

    session = read(edit(change))
    assert any("acquisition/raw (a link that leads nowhere)" in note.text for note in session.notes)


def test_link_into_another_file_is_followed_and_noted(edit, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["times"] = np.array([1.0, 2, 3, 4, 5, 6, 7])

    def change(file):
        del file["units/spike_times"]
        file["units/spike_times"] = h5py.ExternalLink("other.h5", "/times")

    session = read(edit(change))
    assert unit_times(session, 0) == seconds(1, 2, 3)
    assert "external-links" in counts(session.notes)


def test_short_names():
    parts = [("b", "P", "x"), ("b", "Q", "x"), ("c", "Q", "x"), ("b", "y"), ("b", "trials")]
    assert short_names(parts, ("trials",)) == ["P.x", "b.Q.x", "c.Q.x", "y", "b.trials"]


# ---- imaging --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imaged_path(tmp_path_factory) -> Path:
    """70 ROIs named by their ids, of which dF/F shows all in another order, and raw fluorescence two."""
    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    nwb = nwb_files.new_file()
    nwb.add_unit(spike_times=[0.5, 1.5])
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=OpticalChannel(name="green", description="d", emission_lambda=510.0),
        description="d",
        device=nwb.create_device("microscope"),
        excitation_lambda=920.0,
        indicator="GCaMP6f",
        location="V1",
    )
    module = nwb.create_processing_module("ophys", "imaging")
    places = {"segmentation": ImageSegmentation(), "dff": DfOverF(), "raw": Fluorescence()}
    for place in places.values():
        module.add(place)
    rois = places["segmentation"].create_plane_segmentation("d", plane, "rois")
    for row in range(70):
        rois.add_roi(pixel_mask=[(row, 0, 1.0)], id=100 + row)
    value = np.arange(210, dtype=np.float32).reshape(3, 70)
    value[1, 4] = np.nan
    frames = RoiResponseSeries(
        name="traces",
        data=value,
        unit="dF/F",
        rois=rois.create_roi_table_region("all", region=list(range(69, -1, -1))),
        timestamps=[0.1, 0.2, 0.9],
    )
    places["dff"].add_roi_response_series(frames)
    raw = RoiResponseSeries(
        name="raw",
        data=np.ones((4, 2), np.int16),
        unit="a.u.",
        rois=rois.create_roi_table_region("two", region=[3, 8]),
        rate=4.0,
        conversion=0.5,
    )
    places["raw"].add_roi_response_series(raw)
    return nwb_files.save(nwb, tmp_path_factory.mktemp("nwb") / "imaged.nwb")


def test_imaged_rois_are_signals(imaged_path):
    session = read(imaged_path)
    assert sorted(session.signals) == ["raw", "traces"]
    traces, raw = session.signals["traces"], session.signals["raw"]
    assert traces.components == tuple(str(n) for n in range(169, 99, -1))
    assert (traces.measure, traces.rate_hz, traces.time_ns.tolist()) == ("dF/F", None, seconds(0.1, 0.2, 0.9))
    assert traces.valid.tolist() == [True, False, True]
    expected = np.arange(210, dtype=np.float32).reshape(3, 70)
    expected[1, 4] = 0
    np.testing.assert_array_equal(traces.value, expected)
    assert (raw.components, raw.measure, raw.rate_hz) == (("103", "108"), "a.u.", 4.0)
    np.testing.assert_array_equal(raw.value, np.full((4, 2), 0.5, np.float32))
    left_out = next(note for note in session.notes if note.id == "series-left-out")
    assert left_out.count == 1
    assert "ImageSegmentation" in left_out.text


@pytest.mark.parametrize("rows", [np.arange(70) + 1, np.arange(69), np.zeros(70, int)])
def test_rois_that_name_no_segmentation_rows_are_numbered(imaged_path, tmp_path, rows):
    """Out of range, of another number, or one row twice: the traces are kept."""
    path = tmp_path / "edited.nwb"
    with nwb_files.edited(imaged_path, path) as file:
        nwb_files.replace_data(file, "processing/ophys/DfOverF/traces/rois", rows)
    assert read(path).signals["traces"].components == tuple(f"c{i}" for i in range(70))


# ---- files that cannot be used --------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo, path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith((path.name, str(path)))
    assert text.count(": ") >= 1  # the fact, and behind it the next step
    return text


@pytest.mark.parametrize("name", nwb_files.REFUSED)
def test_refused(edit, name):
    change, words = nwb_files.REFUSED[name]
    path = edit(change)
    with pytest.raises(SourceError) as error:
        read(path)
    assert words in one_line(error, path)


@pytest.mark.parametrize("share", [k / 12 for k in range(12)])
def test_truncated(plain, tmp_path, share):
    path = tmp_path / "short.nwb"
    whole = plain.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError) as error:
        read(path)
    text = one_line(error, path)
    assert "is not HDF5" in text if share == 0 else f"truncated: {path.stat().st_size} bytes of {len(whole)}" in text


def test_hole_of_zeros_in_the_strings_does_not_hang(plain, tmp_path):
    path = tmp_path / "hole.nwb"
    content = bytearray(plain.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 80] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="string heap is overwritten") as error:
        read(path)
    one_line(error, path)


def test_other_kinds_of_path(tmp_path):
    text = tmp_path / "text.nwb"
    text.write_text("<html>not found</html>")
    with pytest.raises(SourceError, match="is not HDF5") as error:
        read(text)
    one_line(error, text)
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "no.nwb", "no such file"),
        (text / "x", "is a file, expected a folder"),
    ):
        with pytest.raises(SourceError, match=words) as error:
            read(path)
        one_line(error, path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes")
def test_pipe_does_not_hang(tmp_path):
    path = tmp_path / "pipe.nwb"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="no regular file"):
        read(path)


def test_more_than_the_memory_is_refused(plain, monkeypatch):
    monkeypatch.setattr(hdf5, "physical_memory", lambda: 40)
    with pytest.raises(SourceError, match="declares 56 B, the file has .* memory 40 B"):
        read(plain)


def test_bad_bytes_in_texts_stay_visible(edit):
    def change(file):
        del file["general"]
        file["general/subject/subject_id"] = np.bytes_(b"rat \xff")

    assert read(edit(change)).subject == "rat \\xff"


# ---- real recordings ------------------------------------------------------------------------------------------------

REAL = {
    "placecells-animal1.nwb": (49, 97_000),
    "placecells-animal2.nwb": (37, 65_261),
    "sub-Jenkins_ses-small_desc-test_ecephys.nwb": (107, 32_897),
    "sub-4_ses-4_ecephys+image.nwb": (35, 214_278),
    "sub-anm372793_ses-20170508.nwb": (1, 2_434),
    "sub-anm369963_ses-20170228.nwb": (1, 1_679),
    "sub_anm00239123_ses_20170627T093549_ecephys_and_ogen.nwb": (4, 34_057),
}
needs_real_data = pytest.mark.skipif(
    real_data() is None, reason="the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)"
)


@needs_real_data
@pytest.mark.parametrize("name", REAL)
def test_real_counts(name):
    session = read(real_data() / name)
    assert (len(session.units), len(session.spikes)) == REAL[name]


@needs_real_data
def test_real_repairs_are_these_and_no_others(tmp_path):
    """From the store; those of the two files of DANDI 000006 are the counts of the recordings' own README."""
    expected = {name: {} for name in REAL} | {
        "sub-4_ses-4_ecephys+image.nwb": {"signal-times": 19},  # 1 in another age, 18 that stand still
        "sub-anm372793_ses-20170508.nwb": {"spikes-unsorted": 20, "interval-stop-missing": 340},
        "sub-anm369963_ses-20170228.nwb": {"spikes-unsorted": 21, "interval-stop-missing": 178},
    }
    for name, repairs in expected.items():
        write_session(read(real_data() / name), tmp_path / "session")
        stored = read_session(tmp_path / "session")
        assert counts(stored.repairs) == repairs
        assert (len(stored.units), len(stored.spikes)) == REAL[name]


@needs_real_data
def test_real_maze_observed_time():
    session = read(real_data() / "sub-Jenkins_ses-small_desc-test_ecephys.nwb")
    assert (session.observed.total_ns, session.stop_ns) == (70 * NS_PER_S, 79_900_000_000)
    assert len(session.observed) == 100
    # as the file has it: its electrode rows of M1 units are 96 too low, so all stand in PMd (the NLB site says so)
    assert set(session.units.columns["region"].tolist()) == {"PMd"}
    assert not session.units.columns["held_out"].any()
    assert set(session.splits.columns["name"].tolist()) == {"test"}


@needs_real_data
@pytest.mark.parametrize(
    ("name", "back", "n_trials"), [("372793_ses-20170508", 20, 340), ("369963_ses-20170228", 21, 178)]
)
def test_real_unsorted_spikes_and_missing_stops(name, back, n_trials):
    session = read(real_data() / f"sub-anm{name}.nwb")
    assert counts(session.repairs) == {"spikes-unsorted": back, "interval-stop-missing": n_trials}
    assert session.units.columns["region"].tolist() == ["ALM"]
    assert {"lick_left_times", "lick_right_times"} <= set(session.intervals)


@needs_real_data
def test_real_placecells_spikes_after_the_last_position():
    for name, late in (("animal1", 1), ("animal2", 58)):
        session = read(real_data() / f"placecells-{name}.nwb")
        assert counts(session.notes)["spikes-after-end"] == late
        assert session.signals["position"].components == ("x", "y")


@needs_real_data
def test_real_stamp_of_another_age():
    session = read(real_data() / "sub-4_ses-4_ecephys+image.nwb")
    assert session.signals["events"].time_ns[0] == 0
    assert "1 with one far outside the recording" in session.repairs[0].text
    assert len(session.intervals["recognition_table"].columns["response_time"]) == 180  # not declared, kept


@needs_real_data
def test_real_spikes_that_begin_late():
    session = read(real_data() / "sub_anm00239123_ses_20170627T093549_ecephys_and_ogen.nwb")
    assert "spikes-begin-late" in counts(session.notes)
    assert session.clock_hz == 25_000
    assert session.units.columns["region"].tolist() == ["Thalamus"] * 4


# ---- emptiness ------------------------------------------------------------------------------------------------------

DAY = 86_400 * NS_PER_S


def test_a_stray_spike_over_emptiness_is_no_observed_time(tmp_path):
    """One spike on day 23: what lies between was not observed, in the words of a note, and pynwb's reading agrees."""
    spikes = [[*nwb_files.PLAIN_SPIKES[0], 23 * 86_400.0], *nwb_files.PLAIN_SPIKES[1:]]
    path = nwb_files.write_plain(tmp_path / "stray.nwb", spikes)
    plain, stray = (
        read_nwb(p, "a/b", Source(p.name, "0" * 64, 1)) for p in (nwb_files.write_plain(tmp_path / "plain.nwb"), path)
    )
    end = last = int(plain.stop_ns)
    assert (stray.start_ns, stray.stop_ns) == (0, last)
    assert (stray.observed.start_ns.tolist(), stray.observed.stop_ns.tolist()) == ([0], [last])
    assert stray.spikes.time_ns[-1] == 23 * DAY  # it stays, and is told
    assert [note.count for note in stray.notes if note.id == "spikes-unobserved"] == [1]
    assert verify_session(stray, path) == []
    assert (plain.observed.start_ns.tolist(), plain.observed.stop_ns.tolist()) == ([0], [end])
    (text,) = [note.text for note in plain.notes if note.id == "observed-assumed"]
    assert text.endswith(f"0.0 s to {end / NS_PER_S:.1f} s is taken as observed throughout")
    less = dataclasses.replace(stray, observed=Intervals([0], [stray.stop_ns - NS_PER_S]))
    assert any("assumed observed time" in line for line in verify_session(less, path))


def test_a_filter_that_is_not_installed_is_named_and_is_no_damage(tmp_path, monkeypatch):
    """Spike times whose one chunk was packed by filter 32999, which nobody has."""
    path = nwb_files.write_plain(tmp_path / "packed.nwb")
    with h5py.File(path, "r+") as file:
        times = file["units/spike_times"][()]
        del file["units/spike_times"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk(times.shape)
        made.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple(times.shape)
        dataset = h5py.h5d.create(file["units"].id, b"spike_times", h5py.h5t.NATIVE_DOUBLE, space, made)
        dataset.write_direct_chunk((0,), b"packed by somebody else", 0)
    with pytest.raises(
        SourceError, match=r"packed by the HDF5 filter 32999 .*not installed here: pip install hdf5plugin"
    ):
        read_nwb(path, "a/b", Source(path.name, "0" * 64, 1))
    asked = []
    monkeypatch.setattr(hdf5.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(hdf5.importlib, "import_module", asked.append)
    with pytest.raises(SourceError, match="32999"):
        read_nwb(path, "a/b", Source(path.name, "0" * 64, 1))
    assert set(asked) == {"hdf5plugin"}
