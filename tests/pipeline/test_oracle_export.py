"""What export writes for others, opened by the others, run by ``make oracle``.

torch_brain is imported in the tests: where it is missing, they fail.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.pipeline.export import export_session
from spiketok.recording.nouns import Intervals, Ragged, Session, UnitTable
from tests.made import MS, SECOND, random_session

pytestmark = pytest.mark.oracle

WINDOWS_S = ((0.0, 1.0), (0.25, 1.25), (2.5, 3.75), (5.0, 6.0), (-1.0, 0.5), (5.5, 7.0))


@pytest.fixture(scope="module")
def session() -> Session:
    """Spikes before time zero and behind all behaviour, trials with time columns and texts, splits, ragged columns."""
    made = random_session("one", 3, n_units=6)
    n = len(made.units)
    columns = {
        "region": np.array(["M1", "PMd"] * 3),
        "rate": np.arange(n) / 8,
        "c": Ragged(np.arange(n), np.arange(n + 1)),
    }
    trials = Intervals(
        np.array([0, 1500, 3000, 4500]) * MS,
        np.array([1000, 2500, 4000, 5500]) * MS,
        {
            "go_cue_time": np.array([0.2, 1.7, np.nan, 4.7]),
            "result": np.array(["R", "F", "R", "A"]),
            "id": np.arange(4),
        },
    )
    splits = Intervals(
        [0, 3 * SECOND, 4 * SECOND],
        [3 * SECOND, 4 * SECOND, 6 * SECOND],
        {"name": np.array(["train", "valid", "test"])},
    )
    return replace(
        made, units=UnitTable(made.units.id, columns), intervals={"trials": trials}, splits=splits,
        info={"species": "rat", "session_start_time": "2020-01-02T03:04:05+00:00"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(session, tmp_path_factory) -> Path:
    done = export_session(session, "ab" * 32, "torch_brain", tmp_path_factory.mktemp("out"))
    assert len(done.remarks) == 1  # the ragged column
    return Path(done.path)


def test_torch_brain_reads_what_was_written(session, file):
    import h5py
    from torch_brain.data import Data

    for lazy in (True, False):
        with h5py.File(file, "r") as opened:
            data = Data.from_hdf5(opened, lazy=lazy)
            np.testing.assert_array_equal(np.rint(data.spikes.timestamps * 1e9), session.spikes.time_ns)
            np.testing.assert_array_equal(data.spikes.unit_index, session.spikes.unit)
            assert data.units.id.tolist() == session.units.id.tolist()
            assert data.units.region.tolist() == session.units.columns["region"].tolist()
            np.testing.assert_array_equal(data.units.rate, session.units.columns["rate"])
            assert (data.session.id, data.subject.id, data.subject.species) == ("one", "s", "rat")
            assert data.session.recording_date == "2020-01-02 03:04:05+00:00"
            assert data.brainset.id == "made"
            np.testing.assert_array_equal(np.rint(data.domain.start * 1e9), session.observed.start_ns)
            np.testing.assert_array_equal(np.rint(data.domain.end * 1e9), session.observed.stop_ns)
            np.testing.assert_array_equal(data.trials.result, session.trials.columns["result"])
            assert {*data.trials.timekeys()} == {"start", "end", "go_cue_time"}
            vel = session.signals["vel"]
            np.testing.assert_array_equal(np.isnan(data.vel.value).any(axis=1), ~vel.valid)
            np.testing.assert_array_equal(data.vel.value[vel.valid], vel.value[vel.valid])
            assert data.train_domain.end.tolist() == [3.0]


@pytest.mark.parametrize("window", WINDOWS_S)
def test_its_windows_are_ours(session, file, window):
    """Through torch_brain's Dataset, lazily: the spikes of a window, their units, its behaviour and its trials."""
    from torch_brain.datasets import Dataset
    from torch_brain.datasets.dataset import DatasetIndex

    dataset = Dataset(file.parent)
    assert dataset.recording_ids == ["one"]
    start, stop = window
    sample = dataset[DatasetIndex("one", start, stop)]
    ours = session.spikes.window(round(start * 1e9), round(stop * 1e9))
    np.testing.assert_array_equal(np.rint((sample.spikes.timestamps + start) * 1e9), ours.time_ns)
    np.testing.assert_array_equal(sample.spikes.unit_index, ours.unit)
    vel = session.signals["vel"]
    inside = slice(*np.searchsorted(vel.time_ns, [round(start * 1e9), round(stop * 1e9)]))
    np.testing.assert_array_equal(sample.vel.value, np.where(vel.valid[:, None], vel.value, np.nan)[inside])
    trials = session.trials
    rows = np.flatnonzero((trials.stop_ns > start * 1e9) & (trials.start_ns < stop * 1e9))
    np.testing.assert_array_equal(sample.trials.id, rows)
    np.testing.assert_allclose(sample.trials.go_cue_time + start, trials.columns["go_cue_time"][rows])


def test_its_sampler_draws_from_what_was_observed(session, file):
    from torch_brain.datasets import Dataset
    from torch_brain.samplers import SequentialFixedWindowSampler

    intervals = Dataset(file.parent).get_sampling_intervals()
    drawn = list(SequentialFixedWindowSampler(sampling_intervals=intervals, window_length=0.5))
    assert drawn
    for index in drawn:
        start, stop = round(index.start * 1e9), round(index.end * 1e9)
        own = session.observed.intersect(Intervals([start], [stop]))
        assert own.total_ns == stop - start


# ---- NWB ------------------------------------------------------------------------------------------------------------


def test_pynapple_reads_our_nwb(session, tmp_path):
    """Spikes by unit id, trials, behaviour; without a unit column ``rate``, a word that pynapple keeps for itself."""
    import pynapple

    ids = [str(7 + n) for n in range(len(session.units))]
    numbered = replace(session, units=UnitTable(ids, {"region": session.units.columns["region"]}))
    done = export_session(numbered, "ab" * 32, "nwb", tmp_path)
    read = pynapple.load_file(done.path)
    units = read["units"]
    assert list(units.keys()) == [7 + n for n in range(len(session.units))]
    for row, unit in enumerate(units.keys()):
        own = session.spikes.time_ns[session.spikes.unit == row]
        np.testing.assert_array_equal(np.rint(units[unit].t * 1e9), own)
    assert units["region"].tolist() == session.units.columns["region"].tolist()
    trials = read["trials"]
    np.testing.assert_array_equal(np.rint(np.asarray(trials.start) * 1e9), session.trials.start_ns)
    np.testing.assert_array_equal(np.rint(np.asarray(trials.end) * 1e9), session.trials.stop_ns)
    vel = session.signals["vel"]
    np.testing.assert_array_equal(np.rint(read["vel"].t * 1e9), vel.time_ns)
    np.testing.assert_array_equal(np.asarray(read["vel"].values)[vel.valid], vel.value[vel.valid])
