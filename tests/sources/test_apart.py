"""What does not lie together: rows with fillers, trials and behaviours on another clock, stated but empty time.

A generator makes each with other numbers; the truth is where the spikes were put.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import SourceError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.storage.workspace import Workspace
from tests.sources.test_clocks import made, read


def found(session: Session) -> dict[str, int]:
    return {one.id: one.count for one in (*session.repairs, *session.notes)}


def observed_s(session: Session) -> list[tuple[float, float]]:
    pairs = zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True)
    return [(round(a / NS_PER_S, 1), round(b / NS_PER_S, 1)) for a, b in pairs]


def with_rows(path: Path, rows: dict[tuple[int, int], float]) -> Path:
    """The file with other starts (0) and stops (1) of some of its trials."""
    with h5py.File(path, "r+") as file:
        for (row, edge), seconds in rows.items():
            file["intervals/trials/start_time" if edge == 0 else "intervals/trials/stop_time"][row] = seconds
    return path


@pytest.mark.parametrize(
    ("starts_s", "rows"),
    [
        (0.0, {(18, 1): 9999.0}),
        (0.0, {(5, 1): 7000.0, (6, 1): 7000.0}),
        (4000.0, {(3, 0): 0.0}),
        (4000.0, {(3, 0): -1.0, (9, 0): -1.0, (12, 1): 80_000.0}),
        (-500.0, {(18, 1): 999.0}),
    ],
)
def test_a_trial_with_a_filler_for_an_edge_is_no_observed_time(tmp_path, starts_s, rows):
    path = with_rows(made(tmp_path / "filled.nwb", starts_s=starts_s), rows)
    session = read(path)
    assert observed_s(session) == [(starts_s, starts_s + 60.0)]
    assert found(session)["intervals-long"] == len(rows)
    assert len(session.trials) == 19
    assert verified(path, tmp_path) == "equal"


def verified(path: Path, folder: Path) -> str:
    workspace = Workspace(folder / "ws")
    assert [one.error for one in ingest(workspace, [path])] == [None]
    (checked,) = verify(workspace, [f"local/{path.stem}"])
    return "; ".join(checked.result.differences) or "equal"


def test_a_long_trial_that_the_next_one_ends_is_what_it_says(tmp_path):
    """The pause before a recording is a trial in some files: rows without a gap between them."""
    path = with_rows(made(tmp_path / "tiled.nwb", starts_s=1000.0), {(0, 0): 200.0, (0, 1): 1003.5})
    session = read(path)
    assert observed_s(session) == [(200.0, 1060.0)]
    assert "spikes-begin-late" in found(session)


@pytest.mark.parametrize("apart", ["trials", "signal"])
def test_what_lies_on_another_clock_is_no_observed_time_and_is_said(tmp_path, apart):
    options = {"trials": lambda t: t - 3000.0} if apart == "trials" else {"stamps": lambda t: t - 3000.0}
    path = made(tmp_path / "apart.nwb", starts_s=3000.0, **options)
    session = read(path)
    assert observed_s(session) == [(3000.0, 3060.0)]
    assert found(session)[f"{apart}-apart"] == (19 if apart == "trials" else 6000)
    assert verified(path, tmp_path) == "equal"


def test_a_behaviour_in_minutes_is_said(tmp_path):
    session = read(made(tmp_path / "minutes.nwb", stamps=lambda t: t / 60))
    assert "samples:0.0166667" in next(note.text for note in session.notes if note.id == "signal-short")
    stated = read(made(tmp_path / "minutes.nwb", stamps=lambda t: t / 60), time_unit={"hand_vel": "samples:0.0166667"})
    assert stated.signals["hand_vel"].time_ns[-1] / NS_PER_S == pytest.approx(59.99, abs=0.01)
    assert "signal-short" not in found(stated)


def with_observed(path: Path, start_s: float, stop_s: float) -> Path:
    """The file with the same observation interval for each of its units."""
    with h5py.File(path, "r+") as file:
        units = file["units"]
        n = units["id"].shape[0]
        data = units.create_dataset("obs_intervals", data=np.tile([[start_s, stop_s]], (n, 1)))
        index = units.create_dataset("obs_intervals_index", data=np.arange(1, n + 1, dtype=np.uint8))
        for item, kind in ((data, "VectorData"), (index, "VectorIndex")):
            item.attrs.update(
                {"neurodata_type": kind, "namespace": "hdmf-common", "description": "x", "object_id": "x"}
            )
        index.attrs["target"] = data.ref
        names = [*units.attrs["colnames"], "obs_intervals"]
        units.attrs["colnames"] = np.array(names, dtype=h5py.string_dtype())
    return path


@pytest.mark.parametrize(("start_s", "stop_s", "unit"), [(0, 60_000, "ms"), (0, 1_800_000, "samples:30000")])
def test_stated_observed_time_in_no_seconds_is_refused_until_its_unit_is_stated(tmp_path, start_s, stop_s, unit):
    path = with_observed(made(tmp_path / "stated.nwb"), start_s, stop_s)
    with pytest.raises(SourceError, match=r"units/obs_intervals last .* these are not seconds: .*obs_intervals=UNIT"):
        read(path)
    assert observed_s(read(path, time_unit={"obs_intervals": unit})) == [(0.0, 60.0)]
    assert observed_s(read(path, time_unit={"obs_intervals": "s"}))[0][1] == stop_s
    in_all = made(tmp_path / "all.nwb", **dict.fromkeys(("spikes", "stamps", "trials"), lambda t: t * 1e3))
    assert observed_s(read(with_observed(in_all, 0, 60_000), time_unit={"": "ms"})) == [(0.0, 60.0)]


def test_stated_observed_time_that_contradicts_the_data_is_said(tmp_path):
    late = read(with_observed(made(tmp_path / "late.nwb", starts_s=5000.0), 0, 5060))
    assert found(late)["observed-empty"] == 1
    assert observed_s(late) == [(0.0, 5060.0)]
    other = read(with_observed(made(tmp_path / "other.nwb"), 900, 960))
    assert found(other)["spikes-all-unobserved"] == len(other.spikes)
    good = found(read(with_observed(made(tmp_path / "good.nwb"), 0, 61)))
    assert not {"observed-empty", "spikes-all-unobserved", "trials-apart", "signal-apart"} & set(good)


@pytest.mark.parametrize(
    "stamps",
    [
        lambda t: t[::-1],
        lambda t: np.random.default_rng(0).permutation(t),
        lambda t: t * 0 + 5.0,
        lambda t: (t + 1.7e9).astype(np.float32).astype(np.float64) - 1.7e9,
    ],
)
def test_a_behaviour_of_which_next_to_nothing_rises_is_none(tmp_path, stamps):
    """A tenth of it would be half lost, and two samples of it no behaviour: it is left out as a whole, and said."""
    path = made(tmp_path / "mixed.nwb", stamps=stamps)
    session = read(path)
    assert "hand_vel" not in session.signals
    assert found(session)["signal-times"] > 5000
    assert "hand_vel" in next(note.text for note in session.notes if note.id == "series-left-out")
    assert verified(path, tmp_path) == "equal"
    coarse = read(made(tmp_path / "coarse.nwb", stamps=lambda t: np.floor(t * 10) / 10))
    assert coarse.signals["hand_vel"].time_ns.size == 600


def test_a_component_that_is_never_finite_is_named(tmp_path):
    path = made(tmp_path / "missing.nwb")
    with h5py.File(path, "r+") as file:
        file["processing/behavior/hand_vel/data"][:, 1] = np.nan
    (note,) = [note for note in read(path).notes if note.id == "signal-component-missing"]
    assert "processing/behavior/hand_vel: c1 of 2 components" in note.text
    with h5py.File(path, "r+") as file:
        file["processing/behavior/hand_vel/data"][7, 1] = 1.0
    assert "signal-component-missing" not in found(read(path))
