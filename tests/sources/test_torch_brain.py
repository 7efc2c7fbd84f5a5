"""Files of torch_brain as a source: what export wrote comes back whole, others by their classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from spiketok.errors import SourceError
from spiketok.pipeline.export import export_session
from spiketok.recording.nouns import FLUORESCENCE, Finding, Intervals, Session, Source, Spikes, UnitTable
from spiketok.sources.formats.torch_brain import read_torch_brain
from spiketok.storage.store import read_attributes, read_session, session_digest
from tests.layouts import bwb as layout
from tests.made import MS, SECOND, golden_described, golden_session, random_session

TIMES = (
    *("domain/start", "domain/end", "spikes/timestamps", "spikes/domain/start", "spikes/domain/end"),
    *("cursor/timestamps", "cursor/domain/start", "cursor/domain/end", "rewards/timestamps"),
    *("rewards/domain/start", "rewards/domain/end", "task/phase/start", "task/phase/end", "trials/start", "trials/end"),
    *("train_domain/start", "train_domain/end", "valid_domain/start", "valid_domain/end"),
    *("movement_domain/start", "movement_domain/end"),
)
NOWHERE = Source("x.h5", "0" * 64, 1)


def read(path: Path, source: Source = NOWHERE) -> Session:
    return read_torch_brain(path, "made/one", source)


# ---- back from what was exported ------------------------------------------------------------------------------------


def _plain(session: Session) -> Session:
    """Without columns whose rows differ in length: the exporter says that it leaves them out."""
    keep = {name: column for name, column in session.units.columns.items() if isinstance(column, np.ndarray)}
    tables = {name: table.take(np.arange(len(table))) for name, table in session.intervals.items()}
    return replace(session, units=UnitTable(session.units.id, keep), intervals=tables)


def _odd() -> Session:
    """Texts wider than they need be, components with commas, names that are no keys, values under what is not valid."""
    made = random_session("odd", 4)
    value = made.signals["vel"].value.copy()
    value[50] = (np.nan, -0.0)
    vel = replace(made.signals["vel"], value=value, components=("x,1", ""))
    table = Intervals(
        [5, SECOND], [5, 2 * SECOND], {"word": np.array(["a", ""], "U9"), "flag": np.array([True, False])}
    )
    splits = {"name": np.array(["train", "test"]), "set": np.array(["", "folds-10"]), "k": np.array([1, 2], np.int8)}
    return replace(
        made,
        id="made/odd",
        clock_hz=30000.0,
        signals={"vel": vel, "1": made.signals["vel"]},
        intervals={"trials": table, "a.b": table, "spiketok": table},
        splits=Intervals([7, 0], [9, 5], splits),
        info={"part_of": "made/other", "lab": "é"},
        repairs=(Finding("spikes-unsorted", 2, "two"),),
        notes=(Finding("units-silent", 1, "one"),),
        source=replace(made.source, session_start=""),
    )


@pytest.mark.parametrize(
    "made", [golden_session, lambda: _plain(golden_described()), lambda: random_session("r", 2), _odd]
)
def test_what_was_exported_comes_back_as_the_same_session(made, tmp_path):
    session = made()
    done = export_session(session, "ab" * 32, "torch_brain", tmp_path)
    assert not any("left out" in remark or "too far" in remark for remark in done.remarks)
    back = read_torch_brain(Path(done.path), session.id, session.source)
    assert session_digest(back, {}, "x") == session_digest(session, {}, "x")


def test_what_does_not_come_back_is_said(tmp_path):
    session = random_session("far", 1)
    shift = 10**16 + 7
    far = replace(
        session, start_ns=shift, stop_ns=shift + 6 * SECOND, signals={},
        spikes=Spikes(session.spikes.time_ns + shift, session.spikes.unit),
        observed=Intervals(session.observed.start_ns + shift, session.observed.stop_ns + shift),
    )  # fmt: skip
    done = export_session(far, "ab" * 32, "torch_brain", tmp_path)
    assert any("series 'spikes': " in r and "too far from zero to be float64 seconds" in r for r in done.remarks)


def test_who_changes_an_exported_file_gets_what_is_in_it(tmp_path):
    session = replace(random_session("one", 1), intervals={"trials": Intervals([0], [SECOND])})
    file = Path(export_session(session, "ab" * 32, "torch_brain", tmp_path).path)
    with h5py.File(file, "r+") as h5:
        del h5["vel"]
        layout.regular(h5, "wheel", 0.5, 50, speed=np.arange(100.0))
    back = read(file)
    assert list(back.signals) == ["wheel.speed"]
    assert set(back.intervals) == {"trials", "wheel.domain"}
    with h5py.File(file, "r+") as h5:
        text = json.loads(h5["spiketok/session"][:].tobytes())
        del h5["spiketok/session"]
        h5["spiketok/session"] = np.frombuffer(json.dumps(text | {"format": 9}).encode(), np.uint8)
    with pytest.raises(SourceError, match="has format 9, this spiketok reads 1: pip install --upgrade"):
        read(file)
    with h5py.File(file, "r+") as h5:
        h5["spiketok/session"][:3] = 0
    with pytest.raises(SourceError, match="does not say what an export says"):
        read(file)


# ---- any file -------------------------------------------------------------------------------------------------------


def _file(path: Path) -> h5py.File:
    """Two units, a cursor, events, splits, trials and groups in groups, of somebody else."""
    file = h5py.File(path, "w")
    layout.data(file, "", lab="theirs", part_of="made/other")
    layout.data(file, "subject", id="m", species="MACACA_MULATTA", age=3.5)
    layout.data(file, "session", id="s1", recording_date="2020-01-02 03:04:05")
    layout.interval(file, "domain", [1.0, 5.0], [4.0, 9.0])
    layout.array_dict(file, "units", id=np.array(["a", "b"]), area=np.array(["M1", "PMd"]), wave=np.zeros((2, 40)))
    layout.irregular(file, "spikes", [1.5, 1.5, 2.25, 9.0], (1.0, 9.0), unit_index=[1, 0, 1, 0])
    stamps = np.array([1.0, 1.1, 1.3])
    layout.irregular(file, "cursor", stamps, (1.0, 1.3), pos=np.ones((3, 2)), vel=np.array([1.0, np.nan, 3.0]))
    layout.irregular(file, "rewards", [2.0, 3.0], (2.0, 3.0), kind=np.array(["juice", "none"]))
    below = layout.data(file, "task")
    layout.interval(below, "phase", [1.0, 2.0], [2.0, 3.0], name=np.array(["hold", "reach"]))
    layout.interval(file, "trials", [1.0, 2.5], [2.0, 3.0], go_time=[1.2, np.nan], result=np.array(["R", "F"]))
    layout.interval(file, "train_domain", 1.0, 2.0)
    layout.interval(file, "valid_domain", 2.0, 3.0)
    layout.interval(file, "movement_domain", 2.0, 3.0)
    return file


def test_a_file_of_somebody_else_is_read_by_its_classes(tmp_path):
    _file(tmp_path / "x.h5").close()
    session = read(tmp_path / "x.h5")
    assert session.units.id.tolist() == ["a", "b"]
    assert session.units.columns["area"].tolist() == ["M1", "PMd"]
    assert session.spikes.time_ns.tolist() == [1_500 * MS, 1_500 * MS, 2_250 * MS, 9 * SECOND]
    assert session.spikes.unit.tolist() == [0, 1, 1, 0]
    assert session.observed.start_ns.tolist() == [SECOND, 5 * SECOND]
    assert session.observed.stop_ns.tolist() == [4 * SECOND, 9 * SECOND + 1]  # the last spike is in it
    assert (session.subject, session.observed_source) == ("m", "obs_intervals")
    assert session.info["species"] == "MACACA_MULATTA" and session.info["age"] == "3.5"
    assert "part_of" not in session.info
    assert session.source.session_start == "2020-01-02T03:04:05"
    assert set(session.signals) == {"cursor.pos", "cursor.vel"}
    assert session.signals["cursor.vel"].valid.tolist() == [True, False, True]
    assert set(session.intervals) == {"rewards", "task.phase", "trials", "movement_domain"}
    assert session.intervals["rewards"].columns["kind"].tolist() == ["juice", "none"]
    assert np.isnan(session.trials.columns["go_time"][1])
    assert session.splits.columns["name"].tolist() == ["train", "valid"] and "set" not in session.splits.columns
    assert {n.id for n in session.notes} == {"series-left-out", "signal-not-finite"}


def test_a_regular_series_with_a_gap_and_imaged_units(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        layout.data(file, "")
        layout.array_dict(file, "units", id=np.array(["a", "b", "c"]))
        group = layout.regular(file, "calcium", 2.0, 10.0, df_over_f=np.arange(60.0).reshape(20, 3))
        del group["domain"]
        layout.interval(group, "domain", [2.0, 3.5], [2.5, 4.0])
        layout.regular(file, "wide", 2.0, 10.0, raw=np.zeros((20, 100)))
    session = read(tmp_path / "x.h5")
    assert list(session.signals) == [FLUORESCENCE]
    signal = session.signals[FLUORESCENCE]
    assert signal.valid.tolist() == [True] * 5 + [False] * 10 + [True] * 5
    assert signal.time_ns[:2].tolist() == [2 * SECOND, 2_100 * MS] and signal.rate_hz == 10
    assert "wide.raw (100 components)" in session.notes[-1].text


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: f.attrs.__delitem__("object"), "neither NWB nor torch_brain's"),
        (lambda f: f["spikes/unit_index"].__setitem__(0, 2), "goes from 0 to 2, units has 2 rows"),
        (lambda f: f["spikes/unit_index"].__setitem__(0, -1), "goes from -1 to 1"),
        (lambda f: f["spikes"].__delitem__("unit_index"), "/spikes has no 'unit_index'"),
        (lambda f: f["units/id"].__setitem__(0, b"b"), "2 rows and 1 different ids"),
        (lambda f: f.__setitem__("ext", h5py.ExternalLink("other.h5", "/x")), "link into another file"),
        (lambda f: f["task"].__setitem__("again", f["/"]), "lies inside itself"),
        (lambda f: f["domain/start"].__setitem__(0, np.nan), "or one that is no time"),
        (lambda f: f["cursor"].__setitem__("acc", np.zeros(7)), "have different lengths"),
        (lambda f: f["trials"].__setitem__("x", np.zeros(7)), "has shape .7,., its group 2 rows"),
        (lambda f: f["cursor/domain"].__delitem__("end"), "has no 'end'"),
        (lambda f: f["spikes"].attrs.__setitem__("object", "RegularTimeSeries"), "expected an IrregularTimeSeries"),
        (lambda f: f.create_dataset("trials/huge", (2, 10**9), "f8", chunks=(1, 10**6)), None),
    ],
)
def test_a_bad_file_is_refused_in_one_line(harm, said, tmp_path):
    with _file(tmp_path / "x.h5") as file:
        harm(file)
    if said is None:  # too wide to be a column: left out, never read
        assert "huge" not in read(tmp_path / "x.h5").trials.columns
        return
    with pytest.raises(SourceError, match=said) as caught:
        read(tmp_path / "x.h5")
    assert "\n" not in str(caught.value)


def test_a_soft_link_inside_and_spikes_out_of_order(tmp_path):
    with _file(tmp_path / "x.h5") as file:
        file["same"] = h5py.SoftLink("/task/phase")
        file["spikes/timestamps"][:] = [2.25, 1.5, 1.5, np.nan]
    session = read(tmp_path / "x.h5")
    assert session.intervals["same"].columns["name"].tolist() == ["hold", "reach"]
    assert session.spikes.time_ns.tolist() == [1_500 * MS, 1_500 * MS, 2_250 * MS]
    assert {r.id for r in session.repairs} == {"spikes-unsorted", "spikes-not-finite"}


def test_units_without_a_table_are_called_by_their_numbers(tmp_path):
    with _file(tmp_path / "x.h5") as file:
        del file["units"]
    session = read(tmp_path / "x.h5")
    assert session.units.id.tolist() == ["0", "1"]
    assert "units-undescribed" in {n.id for n in session.notes}


@pytest.mark.long
def test_ingest_knows_it_by_its_content(tmp_path):
    """The command takes FILE.h5, verify makes it again, inspect tells it, and a folder says how to name it."""
    from typer.testing import CliRunner

    from spiketok.cli import app

    _file(tmp_path / "one.h5").close()

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == code, done.output
        return f"{done.output}{done.exception or ''}"

    root = ("--root", tmp_path / "ws")
    run("ingest", tmp_path / "one.h5", *root)
    settings = read_attributes(tmp_path / "ws/store/local/one")["settings"]
    assert settings == {"reader": "torch_brain", "reader_version": 1}
    assert "already" in run("ingest", tmp_path / "one.h5", *root)
    assert "equal" in run("verify", *root)
    assert "cursor.pos" in run("inspect", tmp_path / "one.h5", "--json", *root)
    assert "HDF5 files: name them" in run("ingest", tmp_path, *root, code=1)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    assert "is HDF5 but not NWB" in run("ingest", tmp_path / "other.h5", *root, code=1)
    assert "--time-unit is for NWB files" in run("ingest", tmp_path / "one.h5", *root, "--time-unit", "ms", code=1)


@pytest.mark.long
def test_files_of_one_session_are_merged(tmp_path):
    """Blocks in time, and two probes of one time, by ``--merge-as``; verify makes the sessions again."""
    from typer.testing import CliRunner

    from spiketok.cli import app

    root = ("--root", tmp_path / "ws")

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*map(str, words), *map(str, root)])
        assert done.exit_code == code, done.output
        return f"{done.output}{done.exception or ''}"

    _file(tmp_path / "one.h5").close()
    with _file(tmp_path / "two.h5") as file:  # the same units, an hour later
        times = [name for name in TIMES if name in file]
        for name in times:
            file[name][...] += 3600
        assert len(times) == len(TIMES)
    run("ingest", tmp_path / "one.h5", tmp_path / "two.h5", "--merge-as", "blocks")
    session = read_session(tmp_path / "ws/store/local/blocks")
    assert session.units.id.tolist() == ["a", "b"] and len(session.spikes) == 8
    assert session.spikes.time_ns[-1] == 3609 * SECOND and session.observed.total_ns < 20 * SECOND
    assert session.signals["cursor.pos"].time_ns.size == 6 and len(session.trials) == 4
    with _file(tmp_path / "probe.h5") as file:  # other units, the same time
        file["units/id"][:] = [b"c", b"d"]
    run("ingest", tmp_path / "one.h5", tmp_path / "probe.h5", "--merge-as", "probes", "--join", "units")
    session = read_session(tmp_path / "ws/store/local/probes")
    assert len(session.units) == 4 and len(session.spikes) == 8
    assert run("verify").count("equal") >= 2
