"""Behaviours, trials and events wherever NWB allows them: each is found, in its measure and on its clock."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.behavior import (
    BehavioralEpochs,
    BehavioralEvents,
    BehavioralTimeSeries,
    CompassDirection,
    EyeTracking,
    IntervalSeries,
    Position,
    PupilTracking,
    SpatialSeries,
)
from pynwb.image import ImageSeries
from pynwb.misc import AnnotationSeries

from spiketok.pipeline.source_check import compare_with_source
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import read_nwb
from tests.nwb_files import edited, new_file, save

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated")

N = 40
STAMPS = np.arange(N) * 0.05 + 0.5
DATA = np.random.default_rng(0).integers(-100, 100, (N, 2)).astype(np.int16)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """One series in each place, as far as they differ; all times and values are known here."""
    nwb = new_file()
    for row in range(2):
        nwb.add_unit(spike_times=np.arange(1, 5) * 0.5 + row * 0.01)
    behavior = nwb.create_processing_module("behavior", "b")
    hand = SpatialSeries(
        name="hand", data=DATA, timestamps=STAMPS, reference_frame="r", unit="meters", conversion=0.01, offset=-3.0
    )
    behavior.add(Position(spatial_series=hand))
    head = SpatialSeries(name="head", data=DATA[:, 0], timestamps=hand, reference_frame="r", unit="radians")
    behavior.add(CompassDirection(spatial_series=head))
    pupil = TimeSeries(name="diameter", data=DATA[:, 0] * 0.5, timestamps=hand, unit="mm")
    behavior.add(PupilTracking(time_series=pupil))
    eye = SpatialSeries(name="eye", data=DATA, rate=20.0, starting_time=0.25, reference_frame="r", unit="deg")
    behavior.add(EyeTracking(spatial_series=eye))
    wheel = TimeSeries(name="wheel", data=DATA[:, 1].astype(np.float64), rate=30.0, starting_time=1 / 3, unit="rad/s")
    behavior.add(BehavioralTimeSeries(time_series=wheel))
    behavior.add(TimeSeries(name="bare", data=DATA[:, 1], timestamps=STAMPS, unit="V", conversion=1e-3, offset=0.5))
    behavior.add(
        BehavioralEvents(time_series=TimeSeries(name="reward", data=[2.0, 3.0], timestamps=[1.0, 1.5], unit="ml"))
    )
    run = IntervalSeries(name="run", data=np.array([1, -1], np.int8), timestamps=[1.0, 2.0])
    behavior.add(BehavioralEpochs(interval_series=run))
    other = nwb.create_processing_module("second", "another module")
    other.add(TimeSeries(name="bare", data=DATA[:, 0], timestamps=STAMPS, unit="V"))
    nwb.add_acquisition(TimeSeries(name="force", data=DATA, rate=100.0, unit="N"))
    nwb.add_acquisition(AnnotationSeries(name="remarks", data=["a", "b"], timestamps=[0.5, 0.75]))
    nwb.add_analysis(TimeSeries(name="derived", data=DATA[:, 0], rate=50.0, unit="a"))
    nwb.add_stimulus(TimeSeries(name="contrast", data=DATA[:, 0], rate=60.0, starting_time=0.1, unit="1"))
    movie = ImageSeries(name="movie", data=np.zeros((3, 2, 2), np.uint8), timestamps=[0.0, 1.0, 2.0], unit="n.a.")
    nwb.add_stimulus(movie)
    nwb.add_trial_column("side", "s")
    nwb.add_trial(start_time=0.5, stop_time=1.0, side="l")
    nwb.add_trial(start_time=1.0, stop_time=2.0, side="r")
    for name in ("blocks", "gratings"):
        table = nwb.create_time_intervals(name, "another table")
        table.add_interval(start_time=0.1, stop_time=0.2)
    nwb.add_epoch(start_time=0.0, stop_time=2.0, tags=["x"])
    return save(nwb, tmp_path_factory.mktemp("places") / "places.nwb")


@pytest.fixture(scope="module")
def session(path) -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1))


def at_rate(rate_hz: float, start_s: float) -> np.ndarray:
    return np.arange(N) / rate_hz + start_s


@pytest.mark.parametrize(
    ("name", "seconds", "value", "components", "measure", "rate_hz"),
    [
        ("hand", STAMPS, DATA * 0.01 - 3.0, ("x", "y"), "meters", None),
        ("head", STAMPS, DATA[:, :1], ("x",), "radians", None),
        ("diameter", STAMPS, DATA[:, :1] * 0.5, ("c0",), "mm", None),
        ("eye", at_rate(20, 0.25), DATA, ("x", "y"), "deg", 20.0),
        ("wheel", at_rate(30, 1 / 3), DATA[:, 1:], ("c0",), "rad/s", 30.0),
        ("behavior.bare", STAMPS, DATA[:, 1:] * 1e-3 + 0.5, ("c0",), "V", None),
        ("second.bare", STAMPS, DATA[:, :1], ("c0",), "V", None),
        ("force", at_rate(100, 0), DATA, ("c0", "c1"), "N", 100.0),
        ("derived", at_rate(50, 0), DATA[:, :1], ("c0",), "a", 50.0),
        ("contrast", at_rate(60, 0.1), DATA[:, :1], ("c0",), "1", 60.0),
    ],
)
def test_a_series_is_found_with_its_clock_and_measure(session, name, seconds, value, components, measure, rate_hz):
    signal = session.signals[name]
    np.testing.assert_array_equal(signal.time_ns, np.rint(seconds * NS_PER_S))
    np.testing.assert_allclose(signal.value, value, rtol=1e-6)
    assert (signal.components, signal.measure, signal.rate_hz) == (components, measure, rate_hz)
    assert signal.valid.all()


def test_nothing_else_is_a_signal(session):
    assert len(session.signals) == 10
    assert session.stimuli["movie"].frames.shape == (3, 2, 2)


def test_tables_and_events(session):
    assert set(session.intervals) == {"trials", "epochs", "blocks", "gratings", "reward", "run", "remarks"}
    assert session.trials.columns["side"].tolist() == ["l", "r"]
    assert session.intervals["reward"].columns["value"].tolist() == [2.0, 3.0]
    assert session.intervals["remarks"].start_ns.tolist() == [NS_PER_S // 2, 3 * NS_PER_S // 4]


def test_the_other_reader_agrees(path, session):
    result = compare_with_source(session, path)
    assert result.differences == []
    assert (result.n_signals, result.n_tables) == (10, 7)


def test_a_linked_series_is_read_once(path, tmp_path):
    """A link to a whole series, as some files have it in a second module, gives no second signal."""
    with edited(path, tmp_path / "linked.nwb") as file:
        file["processing/second/again"] = h5py.SoftLink("/processing/behavior/Position/hand")
        del file["acquisition/force"]
        file["stimulus/presentation/far"] = h5py.ExternalLink("gone.nwb", "/stimulus/far")
    session = read_nwb(tmp_path / "linked.nwb", "set/one", Source("x", "0" * 64, 1))
    assert len(session.signals) == 9
    assert "stimulus/presentation/far (a link that leads nowhere)" in next(
        f.text for f in session.notes if f.id == "series-left-out"
    )


@pytest.mark.parametrize(
    ("unit_columns", "region"),
    [
        ({"cosmos_location": "Isocortex", "beryl_location": "VISp"}, "VISp"),
        ({"ecephys_structure_acronym": "CA1"}, "CA1"),
        ({"brain_area": "MOs", "location": "left MOs"}, "left MOs"),
        ({"region": "given", "beryl_location": "VISp"}, "given"),
        ({"beryl_location": 7}, None),
    ],
)
def test_the_region_where_files_keep_it(tmp_path, unit_columns, region):
    nwb = new_file()
    for name in unit_columns:
        nwb.add_unit_column(name, "where")
    for row in range(2):
        nwb.add_unit(spike_times=[1.0 + row], **unit_columns)
    path = save(nwb, tmp_path / "region.nwb")
    session = read_nwb(path, "set/one", Source(path.name, "0" * 64, 1))
    found = session.units.columns.get("region")
    assert (None if found is None else found.tolist()) == (None if region is None else [region] * 2)
    assert compare_with_source(session, path).differences == []


def test_the_region_of_electrodes_that_have_acronyms_only(tmp_path):
    nwb = new_file()
    group = nwb.create_electrode_group("probe", description="g", location="unknown", device=nwb.create_device("d"))
    nwb.add_electrode_column("beryl_location", "acronym")
    for place in ("VISp", "CA1"):
        nwb.add_electrode(location="x", group=group, group_name="probe00", beryl_location=place)
    for row in range(2):
        nwb.add_unit(spike_times=[1.0 + row], electrodes=[row])
    with edited(save(nwb, tmp_path / "one.nwb"), tmp_path / "two.nwb") as file:
        table = file["general/extracellular_ephys/electrodes"]
        del table["location"]
        table.attrs["colnames"] = [name for name in table.attrs["colnames"] if name != "location"]
    session = read_nwb(tmp_path / "two.nwb", "set/one", Source("x", "0" * 64, 1))
    assert session.units.columns["region"].tolist() == session.units.columns["location"].tolist() == ["VISp", "CA1"]
    assert session.units.columns["group"].tolist() == ["probe00"] * 2
