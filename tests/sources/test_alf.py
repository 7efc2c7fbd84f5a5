"""Folders of ALF files: units, tables and signals are what numpy reads of them; what does not fit is one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import MissingExtraError, SourceError, UsageError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.verify import verify
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.alf import parts_of
from spiketok.sources.formats.sorting import folder_name, looks_like, read_sorting
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.folders import save, spikes_of, write_alf, write_probe

ALF = {"reader": "sorter", "reader_version": 2, "sorter": "alf", "start_s": 0.0}


def read(folder: Path, **options: object) -> Session:
    return read_sorting(folder, "set/one", Source(folder.name, "0" * 64, 10**6), "alf", **options)


def notes(session: Session) -> dict[str, int]:
    return {note.id: note.count for note in session.notes}


def ns(seconds: np.ndarray) -> list[int]:
    return np.rint(seconds * NS_PER_S).astype(np.int64).tolist()


def test_a_session_is_what_its_arrays_say(tmp_path):
    session = read(write_alf(tmp_path))
    seconds, cluster = spikes_of(0)
    assert session.subject == "M-7"
    assert session.source.session_start == "2023-05-06"
    assert session.units.id.tolist() == ["0", "1", "2", "3", "4"]
    for unit in range(5):
        assert session.spikes.time_ns[session.spikes.unit == unit].tolist() == ns(seconds[cluster == unit])
    columns = session.units.columns
    assert columns["depths"].tolist() == [0.0, 20.0, 40.0, 60.0, 80.0]
    assert columns["brainLocationIds_ccf_2017"].tolist() == [108, 106, 104, 102, 100]
    assert np.array_equal(columns["label"], [0, 0.25, 0.5, 0.75, np.nan], equal_nan=True)
    assert columns["ks2_label"].tolist() == ["", "good", "", "good", ""]
    assert columns["probe"].tolist() == ["probe00"] * 5
    assert "waveforms" not in columns
    start = 3.0 + 4.0 * np.arange(14)
    assert session.trials.start_ns.tolist() == ns(start)
    assert session.trials.stop_ns.tolist() == ns(start + 3)
    assert session.trials.columns["goCue_times"].tolist() == (start + 0.5).tolist()
    assert session.trials.columns["choice"].tolist() == np.where(np.arange(14) % 3, -1, 1).tolist()
    assert session.intervals["licks"].start_ns.tolist() == ns(start + 1.25)
    wheel = session.signals["wheel_position"]
    assert wheel.time_ns.tolist() == ns(1.5 + np.arange(3000) / 50)
    assert np.array_equal(wheel.value[:, 0], np.cumsum(np.random.default_rng(1).normal(size=3000)).astype(np.float32))
    assert set(session.signals) == {"wheel_position", "leftCamera_ROIMotionEnergy"}
    assert session.observed.start_ns.tolist() == [NS_PER_S]  # the whole second before the wheel begins
    assert notes(session) == {"files-left-out": 2, "observed-assumed": 1, "units-silent": 1}
    assert session.repairs == ()


def test_several_probes_sortings_and_revisions(tmp_path):
    folder = write_alf(tmp_path, {"probe01": spikes_of(3), "probe01/pykilosort": spikes_of(1), "probe00": spikes_of(2)})
    save(folder / "alf/probe00/#2024-01-05#/spikes.times.npy", spikes_of(2)[0] + 0.25)
    save(folder / "alf/probe00/#2023-09-05#/spikes.times.npy", spikes_of(2)[0] + 9)
    session = read(folder)
    assert session.units.id.tolist() == [f"probe0{p}:{k}" for p in (0, 1) for k in range(5)]
    own = session.spikes.unit >= 5
    assert session.spikes.time_ns[~own].tolist() == ns(spikes_of(2)[0] + 0.25)
    assert session.spikes.time_ns[own].tolist() == ns(spikes_of(1)[0])
    assert (notes(session)["files-revised"], notes(session)["sortings-other"]) == (1, 1)


def test_no_cluster_is_left_out_because_no_row_is_of_it(tmp_path):
    folder = write_alf(tmp_path)
    seconds, cluster = spikes_of(0)
    save(folder / "alf/probe00/pykilosort/spikes.clusters.npy", np.where(np.arange(cluster.size) < 7, 40, cluster))
    session = read(folder)
    assert session.units.id.tolist() == ["0", "1", "2", "3", "4", "40"]
    assert session.spikes.time_ns[session.spikes.unit == 5].tolist() == ns(seconds[:7])
    assert np.isnan(session.units.columns["depths"][5])
    assert notes(session)["clusters-undescribed"] == 1
    for file in folder.rglob("cl*"):
        file.unlink()
    assert read(folder).units.id.tolist() == ["0", "1", "2", "3", "40"]


def test_tables_and_odd_stamps(tmp_path):
    """A table in place of arrays, stamps as (sample, seconds), names with a uuid, a column that cannot be held."""
    folder = write_alf(tmp_path)
    alf = folder / "alf"
    for file in alf.glob("_ibl_trials.*"):
        file.unlink()
    (alf / "_ibl_trials.table.csv").write_text(
        "intervals_0,intervals_1,side,correct,id\n5,7,left,True,9\n8,,right,False,3\n12,13.5,,True,1\n"
    )
    save(alf / "lick_unknown.npy", np.zeros(3))
    save(alf / "lickPiezo.raw.npy", np.arange(401.0))
    save(alf / "lickPiezo.timestamps.1b2c3d4e-0000-1111-2222-333344445555.npy", [[0, 4.0], [400, 12.0]])
    session = read(folder)
    trials = session.trials
    assert trials.start_ns.tolist() == [5 * NS_PER_S, 8 * NS_PER_S, 12 * NS_PER_S]
    assert trials.stop_ns.tolist() == [7 * NS_PER_S, 12 * NS_PER_S, 13_500_000_000]
    assert trials.columns["side"].tolist() == ["left", "right", ""]
    assert trials.columns["correct"].tolist() == [True, False, True]
    assert [repair.id for repair in session.repairs] == ["interval-stop-missing"]
    assert session.signals["lickPiezo_raw"].time_ns.tolist() == ns(4 + np.arange(401) / 50)
    assert "trials.id" in {note.id: note.text for note in session.notes}["files-left-out"]


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    folder = write_alf(tmp_path)
    table = folder / "alf/_ibl_leftCamera.dlc.pqt"
    table.write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"dlc.pqt \(a parquet table\) needs 'pyarrow.*spiketok\[alf\]"):
        read(folder)


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (pip install 'spiketok[alf]')")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (pip install 'spiketok[alf]')")
    folder = write_alf(tmp_path)
    for file in (folder / "alf").glob("_ibl_trials.*"):
        file.unlink()
    start = 3.0 + np.arange(9)
    columns = {"intervals_0": start, "intervals_1": start + 0.5, "side": ["l", None, "r"] * 3, "rewarded": [True] * 9}
    parquet.write_table(arrow.table(columns), folder / "alf/_ibl_trials.table.pqt")
    dlc = folder / "alf/_ibl_leftCamera.dlc.pqt"
    parquet.write_table(arrow.table({"x": np.arange(1500.0), "y": np.ones(1500)}), dlc)
    session = read(folder)
    assert session.trials.start_ns.tolist() == ns(start)
    assert session.trials.columns["side"].tolist() == ["l", "", "r"] * 3
    assert session.trials.columns["rewarded"].tolist() == [True] * 9
    assert session.signals["leftCamera_dlc"].components == ("x", "y")
    assert session.signals["leftCamera_dlc"].value[:, 0].tolist() == np.arange(1500.0).tolist()
    dlc.write_bytes(b"PAR1 and no more of it PAR1")
    with pytest.raises(SourceError, match=r"001: _ibl_leftCamera.dlc.pqt cannot be read as a parquet table"):
        read(folder)


PROBE = "alf/probe00/pykilosort"


def _claim(path: Path, shape: tuple[int, ...]) -> None:
    """A header that claims far more values than are there."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
        stream.write(bytes(80))


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda f: (f / PROBE / "spikes.times.npy").unlink(), "holds no spikes.times; it has spikes.amps, spikes.cl"),
        (lambda f: save(f / PROBE / "spikes.times.npy", np.arange(900)), "spikes.times.npy is int64 .* seconds"),
        (lambda f: save(f / PROBE / "spikes.times.npy", np.arange(8.0)), "has 8 spikes.times and 900 spikes.clusters"),
        (lambda f: save(f / PROBE / "spikes.clusters.npy", np.full(900, 0.5)), "holds what is no number of a cluster"),
        (lambda f: save(f / PROBE / "clusters.depths.npy", np.arange(6.0)), "different numbers of rows"),
        (lambda f: save(f / "alf/_ibl_trials.choice.npy", np.ones(3)), "trials.choice has 3 rows, its times have 14"),
        (lambda f: _claim(f / PROBE / "spikes.times.npy", (10**12, 7)), "claims float64 .* 56.0 TB, and has 80 B"),
        (lambda f: save(f / PROBE / "spikes.times.npy", np.array([{}]), allow_pickle=True), "pickled Python obj"),
        (lambda f: (f / PROBE / "spikes.times.npy").write_bytes(b"version https://git-lfs"), "begins with b'versio'"),
        (lambda f: (f / "alf/_ibl_trials.table.csv").write_bytes(b"\xff\xfe\x00"), "trials.table.csv: cannot be read"),
        (lambda f: save(f / PROBE / "spikes.times.npy", spikes_of(0)[0] * 1e3), "these are not seconds"),
        (lambda f: save(f / "alf/_ibl_wheel.timestamps.npy", np.arange(3000) * 20.0), "wheel_position lasts .*not sec"),
        (lambda f: save(f / PROBE / "spikes.times.npy", np.tile(spikes_of(0)[0][:450], 2)), "begin again"),
        (lambda f: write_probe(f / "alf/probe00/other", spikes_of(1)) and (f / PROBE).rename(f / "alf/probe00/ks4"),
         "probe00 has 2 sortings"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_one_line(tmp_path, break_it, line):
    folder = write_alf(tmp_path)
    break_it(folder)
    with pytest.raises(SourceError, match=line) as raised:
        read(folder)
    assert "\n" not in str(raised.value)


def test_times_in_another_unit_may_be_stated(tmp_path):
    folder = write_alf(tmp_path)
    save(folder / PROBE / "spikes.times.npy", spikes_of(0)[0] * 1e3)
    session = read(folder, time_unit={"spikes": "ms"})
    assert abs(session.spikes.time_ns - np.array(ns(spikes_of(0)[0]))).max() <= 1
    with pytest.raises(UsageError, match="--start-s says nothing of the output of alf"):
        read(folder, start_s=2.0)
    with pytest.raises(SourceError, match=r"M-7: holds 1 sessions \(2023-05-06/001\): give the folder of each"):
        read(folder.parents[1])


def test_ingest_and_verify(tmp_path):
    folder = write_alf(tmp_path)
    refused = spiketok(tmp_path / "root", "ingest", folder, code=1).stderr
    assert "001 holds no .nwb file, but what looks like alf: add --sorter alf" in refused
    done = spiketok(tmp_path / "root", "ingest", "--sorter", "alf", "--json", folder)
    (row,) = json.loads(done.stdout)
    assert (row["session"], row["units"], row["spikes"]) == ("local/M-7_2023-05-06_001", 5, 900)
    workspace = Workspace(tmp_path / "root")
    save(folder / "raw_behavior_data" / "_iblrig_taskData.raw.npy", np.ones(7))  # what is not read may change
    (folder / "alf/video.mp4").write_bytes(bytes(100))
    (again,) = ingest(workspace, [folder], wanted=ALF)
    assert again.result.state == "already"
    (checked,) = verify(workspace, [row["session"]])
    assert checked.result.differences == []
    save(folder / "alf/_ibl_trials.choice.npy", np.ones(14))
    (checked,) = verify(workspace, [row["session"]])
    assert "ingest it again" in checked.result.differences[0]
    assert read_session(workspace.store_path(row["session"])).info["session_id"] == "001"


def test_what_a_folder_looks_like(tmp_path):
    assert looks_like(write_alf(tmp_path)) == "alf"
    assert looks_like(write_probe(tmp_path / "probe", spikes_of(0))) == "alf"
    (tmp_path / "empty").mkdir()
    assert looks_like(tmp_path / "empty") == ""
    names = {"M-7/2023-05-06/001": "M-7_2023-05-06_001", "M-7/2023-05-06/001/alf": "M-7_2023-05-06_001"}
    for path, name in names.items():
        assert folder_name(tmp_path / path) == name
    assert folder_name(tmp_path / "empty") == "empty"
    assert [folder_name(Path(place)) for place in ("mouse/suite2p", "exp 5/alf", "x/001")] == ["mouse", "exp 5", "001"]
    assert parts_of("/a/NYU-1/2020-01-02/003/alf/") == ("NYU-1", "2020-01-02", "003")
    assert parts_of("/a/NYU-1/2020-01-02/003/alf/probe00") is None


def test_nothing_of_the_layout_is_left(tmp_path, monkeypatch):
    """The scratch file is gone after the reading, also after one that failed."""
    import tempfile

    folder, scratch = write_alf(tmp_path / "session"), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))  # the machine's own is shared with whatever else runs
    seen = []
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *args, make=tempfile.mkdtemp: seen.append(make(*args)) or seen[-1])
    read(folder)
    save(folder / "alf/_ibl_trials.choice.npy", np.ones(3))
    with pytest.raises(SourceError):
        read(folder)
    assert seen and all(Path(made).parent == scratch for made in seen)
    assert not list(scratch.iterdir())
