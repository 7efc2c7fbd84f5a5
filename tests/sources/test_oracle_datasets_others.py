"""Rules against the reference: torch_brain's own pipelines run on the same generated files, and their results compared.

The pipelines are scripts inside the installed package; their ``process`` writes an HDF5 file of intervals and series in
seconds. Compared to the nearest microsecond: they move times as floats. Where a listed quirk makes a difference, the
test says which.
"""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.recording.draws import draw_sklearn, draw_torch_brain
from spiketok.recording.nouns import NS_PER_S, Intervals, Source
from spiketok.sources.catalogue import RULES
from tests.layouts import churchland, odoherty_sabes, perich_miller

pytestmark = pytest.mark.oracle

PIPELINES = {
    "perich_miller": "perich_miller_population_2018",
    "churchland": "churchland_shenoy_neural_2012",
    "odoherty_sabes": "odoherty_sabes_nonhuman_2017",
}
US_NS = 1000


def run_pipeline(name: str, file: Path, folder: Path) -> h5py.File:
    """What torch_brain makes of a file."""
    package = pytest.importorskip("torch_brain", reason="torch_brain is not installed (make oracle)")
    script = Path(package.__file__).parent / "pipeline/brainsets-pipelines" / PIPELINES[name] / "pipeline.py"
    spec = importlib.util.spec_from_file_location(f"pipeline_{name}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipeline = object.__new__(module.Pipeline)
    pipeline.raw_dir, pipeline.processed_dir, pipeline.args = folder, folder, Namespace(reprocess=True)
    pipeline.update_status = lambda status: None
    pipeline.process(file)
    (made,) = folder.glob("*.h5")
    return h5py.File(made, "r")


def ours(name: str, file: Path):
    rules = RULES[name]
    mends = {"mends_clocks": True} if rules.mends_clocks else {}
    return rules.adjust(rules.read(file, f"{name}/x", Source(file.name, "", 0), **mends), file)


def expect_intervals(found: Intervals, group: h5py.Group) -> None:
    """The same intervals, to the microsecond, as unions: neighbours that touch count as one."""
    start, stop = (np.rint(group[key][:] * NS_PER_S).astype(np.int64) for key in ("start", "end"))
    want, found = Intervals(start, stop).union(), found.union()
    close = Intervals(found.start_ns // US_NS, found.stop_ns // US_NS)
    assert len(found) == len(want), (len(found), len(want), close.start_ns[:5], want.start_ns[:5] // US_NS)
    assert np.abs(found.start_ns - want.start_ns).max(initial=0) < US_NS
    assert np.abs(found.stop_ns - want.stop_ns).max(initial=0) < US_NS


def expect_division(session, made: h5py.File, within: Intervals | None = None) -> None:
    for name in ("train", "valid", "test"):
        part = session.splits.take(session.splits.columns["name"] == name)
        expect_intervals(part if within is None else part.intersect(within), made[f"{name}_domain"])


def phase(session, name: str) -> Intervals:
    phases = session.intervals["phases"]
    return phases.take(phases.columns["name"] == name)


@pytest.mark.parametrize("n", [4, 5, 7, 8, 16, 33, 100, 193, 1588])
def test_draws_equal_the_libraries(n):
    selection = pytest.importorskip(
        "sklearn.model_selection", reason="scikit-learn is not installed (pip install 'spiketok[train]')"
    )
    data = pytest.importorskip("torch_brain.data", reason="torch_brain is not installed (make oracle)")
    rest, test = selection.train_test_split(np.arange(n), test_size=0.2, random_state=42)
    share = 0.1 / (1.0 - 0.2 - 0.1 + 0.1)
    _, valid = selection.train_test_split(rest, test_size=share, random_state=42)
    names = draw_sklearn(n)
    assert np.flatnonzero(names == "test").tolist() == sorted(test.tolist())
    assert np.flatnonzero(names == "valid").tolist() == sorted(valid.tolist())
    whole = data.Interval(start=np.arange(n, dtype=float), end=np.arange(n) + 1.0)
    names = draw_torch_brain(n)
    for name, part in zip(
        ("train", "valid", "test"), whole.split([0.7, 0.1, 0.2], shuffle=True, random_seed=42), strict=True
    ):
        assert np.flatnonzero(names == name).tolist() == part.start.astype(int).tolist()


@pytest.mark.parametrize("n_trials", [40, 43, 57])
def test_perich_miller_center_out(tmp_path, n_trials):
    file = tmp_path / Path(perich_miller.CENTER_OUT).name
    perich_miller.write_center_out(file, n_trials)
    session = ours("perich_miller", file)
    with run_pipeline("perich_miller", file, tmp_path) as made:
        expect_division(session, made)
        grid = session.intervals["target_trials"]
        assert grid.columns["is_valid"].tolist() == made["trials/is_valid"][:].tolist()
        expect_intervals(grid, made["trials"])
        for name in ("hold", "reach", "return", "random"):
            expect_intervals(phase(session, name), made[f"movement_phases/{name}_period"])
        expect_intervals(phase(session, "invalid"), made["movement_phases/invalid"])
        expect_intervals(phase(session, "outlier"), made["cursor_outlier_segments"])
        assert len(made["units/id"]) == len(session.units) and len(made["spikes/timestamps"]) == len(session.spikes)


@pytest.mark.parametrize("n_trials", [25, 31])
def test_perich_miller_random_target(tmp_path, n_trials):
    file = tmp_path / Path(perich_miller.RANDOM_TARGET).name
    perich_miller.write_random_target(file, n_trials)
    session = ours("perich_miller", file)
    with run_pipeline("perich_miller", file, tmp_path) as made:
        expect_division(session, made)
        assert session.trials.columns["is_valid"].tolist() == made["trials/is_valid"][:].tolist()
        for name in ("hold", "random"):
            expect_intervals(phase(session, name), made[f"movement_phases/{name}_period"])


def test_churchland_with_restarts(tmp_path):
    """All but what the reference drops: two overlapping trials with their samples and spikes, two units."""
    file = tmp_path / Path(churchland.RESTARTS).name
    churchland.write_restarts(file)
    session = ours("churchland", file)
    with run_pipeline("churchland", file, tmp_path) as made:
        overlaps = session.trials.columns["overlaps"]
        kept = session.trials.take(~overlaps)
        expect_intervals(kept, made["trials"])
        assert kept.columns["is_valid"].tolist() == made["trials/is_valid"][:].tolist()
        for name in ("hold", "reach", "return"):
            expect_intervals(phase(session, name), made[f"movement_phases/{name}_period"])
        expect_division(session, made)
        cursor, velocity = session.signals["Cursor"], session.signals["cursor_vel"]
        lost = session.trials.take(overlaps).union()
        row = np.searchsorted(lost.start_ns, cursor.time_ns, side="right") - 1
        inside = (row >= 0) & (cursor.time_ns <= lost.stop_ns[np.maximum(row, 0)])
        stamps = made["cursor/timestamps"][:]
        assert stamps.size == (~inside).sum()
        assert np.abs(cursor.time_ns[~inside] / NS_PER_S - stamps).max() < 1e-6
        assert np.abs(velocity.value[~inside] - made["cursor/vel"][:]).max() < 1e-2  # float32 positions
        matched = np.flatnonzero(session.units.columns["clock_matched"])
        assert len(made["units/id"]) == matched.size == len(session.units) - 2
        theirs, unit = made["spikes/timestamps"][:], made["spikes/unit_index"][:]
        for k, own in enumerate(matched):
            time_s = session.spikes.time_ns[session.spikes.unit == own] / NS_PER_S
            dropped = (time_s >= lost.start_ns[0] / NS_PER_S) & (time_s <= lost.stop_ns[0] / NS_PER_S)
            assert np.allclose(np.sort(theirs[unit == k]), time_s[~dropped], rtol=0, atol=1e-6)


def test_churchland_without_restarts(tmp_path):
    """The reference drops the unit whose spikes are out of order."""
    file = tmp_path / Path(churchland.STEADY).name
    churchland.write_steady(file)
    session = ours("churchland", file)
    with run_pipeline("churchland", file, tmp_path) as made:
        expect_division(session, made)
        assert len(made["units/id"]) == session.units.columns["clock_matched"].sum() == len(session.units) - 1


@pytest.mark.parametrize("still", [True, False])
def test_odoherty_sabes(tmp_path, still):
    file = tmp_path / odoherty_sabes.M1_ONLY
    odoherty_sabes.write(file, still=still, n_columns=6)
    session = ours("odoherty_sabes", file)
    folder = tmp_path / "made"
    folder.mkdir()
    with run_pipeline("odoherty_sabes", file, folder) as made:
        expect_intervals(session.intervals["still"], made["no_movement_segments"])
        expect_division(session, made)
        names = [name.decode().replace("/sorted_0", ".").replace("/", ".") for name in made["units/id"][:]]
        assert sorted(names) == sorted(session.units.id.tolist())
        count = dict(zip(names, made["units/count"][:].tolist(), strict=True))
        own = np.bincount(session.spikes.unit, minlength=len(session.units))
        assert [count[name] for name in session.units.id.tolist()] == own.tolist()
        assert np.abs(session.signals["cursor_vel"].value - made["cursor/vel"][:]).max() < 0.02
        assert np.abs(session.signals["finger_vel"].value - made["finger/vel_3d"][:]).max() < 0.02
