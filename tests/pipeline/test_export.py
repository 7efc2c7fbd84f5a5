"""export: what comes back of a session from NWB, and what is told of the rest; files whole or not there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.pipeline.export import EXPORTERS, export_session
from spiketok.pipeline.export.nwb import write_nwb
from spiketok.pipeline.ingest import normalize
from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Source, Spikes, UnitTable
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.files import sha256_file
from tests import nwb_files
from tests.conftest import real_data
from tests.layouts.falcon import HELD_IN, write_m2
from tests.layouts.nlb import write_nlb as write_files
from tests.made import golden_session, random_session
from tests.strategies import sessions

pytestmark = pytest.mark.filterwarnings("ignore:Behavioral.* is deprecated", "ignore:.*Series is deprecated")
DIGEST = "ab" * 32


def back_of(session: Session, path: Path) -> tuple[Session, list[str]]:
    """A session written as NWB and read again, and the remarks."""
    remarks = write_nwb(session, DIGEST, path)
    return read_nwb(path, session.id, Source(path.name, "", 0)), remarks


def same(ours, theirs) -> None:
    """Columns, arrays or ragged rows of the same type and values; NaN equals NaN."""
    assert isinstance(ours, Ragged) == isinstance(theirs, Ragged)
    if isinstance(ours, Ragged):
        same(ours.offset, theirs.offset)
        ours, theirs = ours.value, theirs.value
    assert np.asarray(ours).dtype.kind == np.asarray(theirs).dtype.kind
    np.testing.assert_array_equal(ours, theirs)


def same_table(ours: Intervals, theirs: Intervals) -> None:
    same(ours.start_ns, theirs.start_ns)
    same(ours.stop_ns, theirs.stop_ns)
    assert set(ours.columns) | {"id"} == set(theirs.columns)
    for name in ours.columns:
        same(ours.columns[name], theirs.columns[name])


def same_signal(ours: Signal, theirs: Signal) -> None:
    same(ours.time_ns, theirs.time_ns)
    same(ours.valid, theirs.valid)
    same(ours.value[ours.valid], theirs.value[theirs.valid])
    assert (ours.components, ours.measure) == (theirs.components, theirs.measure)


def same_session(ours: Session, theirs: Session) -> None:
    """All that NWB keeps, whatever the session is."""
    same(ours.spikes.time_ns, theirs.spikes.time_ns)
    same(ours.spikes.unit, theirs.spikes.unit)
    same_times = [(ours.observed.start_ns, theirs.observed.start_ns), (ours.observed.stop_ns, theirs.observed.stop_ns)]
    for one, other in same_times:
        same(one, other)
    assert (ours.unit_observed is None) == (theirs.unit_observed is None)
    if ours.unit_observed is not None:
        same(ours.unit_observed, theirs.unit_observed)
    assert (ours.subject, ours.clock_hz) == (theirs.subject, theirs.clock_hz)


# ---- NWB ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Session:
    path = nwb_files.write_rich(tmp_path_factory.mktemp("nwb") / "rich.nwb")
    return read_nwb(path, "set/rich", Source("rich.nwb", "0" * 64, 1, "000001", "0.1", "CC-BY-4.0", "Somebody (2020)"))


def test_a_session_of_everything_comes_back(rich, tmp_path):
    back, remarks = back_of(rich, tmp_path / "back.nwb")
    same_session(rich, back)
    assert back.units.id.tolist() == rich.units.id.tolist()
    assert set(back.units.columns) == set(rich.units.columns)
    for name, column in rich.units.columns.items():
        same(column, back.units.columns[name])
    assert set(back.intervals) == {*rich.intervals, "splits"}
    for name, table in rich.intervals.items():
        same_table(table, back.intervals[name])
    same_table(rich.splits, back.intervals["splits"])
    same_table(rich.splits, replace_columns(back.splits, {"id": np.zeros(len(back.splits), np.int64)}))
    assert set(back.signals) == set(rich.signals)
    for name, signal in rich.signals.items():
        same_signal(signal, back.signals[name])
    assert back.observed_source == rich.observed_source
    # a behaviour that the source has among what was acquired does not stretch its extent; exported, it is a behaviour
    assert remarks == ["the extent in ns is (-1000000000, 10000000000), comes back as (-1000000000, 19500000001)"]
    for key in ("experimenter", "institution", "lab", "species", "sex", "age", "subject_description"):
        assert back.info[key] == rich.info[key]
    assert "Somebody (2020)" in back.info["related_publications"]
    assert "licence: CC-BY-4.0" in back.info["notes"]
    assert DIGEST in back.info["notes"]


def replace_columns(table: Intervals, more: dict) -> Intervals:
    return Intervals(table.start_ns, table.stop_ns, dict(table.columns) | more)


@st.composite
def exportable(draw) -> Session:
    """A session with what its strategy lacks: observed time that is stated, whole-number ids, columns, a table."""
    session = draw(sessions(with_signal=True))
    assume(len(session.spikes))
    n = len(session.units)
    own = session.unit_observed
    if own is not None:  # a unit that states no observed time cannot be told from one that was observed by default
        rows = [Intervals(r[:, 0], r[:, 1]).union() for r in (own[i] for i in range(n))]
        rows = [r if len(r) else Intervals([0], [1 + k]) for k, r in enumerate(rows)]
        pairs = [np.stack([r.start_ns, r.stop_ns], axis=1) for r in rows]
        every = np.concatenate(pairs)
        observed = Intervals(every[:, 0], every[:, 1]).union()
        own = (
            None if all(np.array_equal(p, pairs[0]) for p in pairs) else Ragged(every, np.cumsum([0, *map(len, pairs)]))
        )
    else:
        observed = session.observed if len(session.observed) else Intervals([0], [1])
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=5)
    number = st.floats(allow_infinity=False, width=64)
    sizes = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    columns = {
        "rate": np.array(draw(st.lists(number, min_size=n, max_size=n))),
        "name": np.array(draw(st.lists(text, min_size=n, max_size=n)), np.str_),
        "good": np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        "channels": Ragged(np.arange(sum(sizes)), np.cumsum([0, *sizes])),
        "place": np.arange(2.0 * n).reshape(n, 2),
    }
    first = draw(st.integers(-3, 100))
    return replace(
        session,
        units=UnitTable([str(first + i) for i in range(n)], columns),
        observed=observed,
        unit_observed=own,
        observed_source="obs_intervals",
        clock_hz=draw(st.sampled_from([None, 30000.0, 24414.0625, 1000.0])),
        intervals={"trials": Intervals([5, 0], [5, 9], {"side": np.array(["l", "r"]), "t": np.array([np.nan, 1.5])})},
        signals={"hand_vel": session.signals["hand/vel"]},
    )


@pytest.mark.long  # eight files through pynwb; one with everything comes back above
@settings(max_examples=8)
@given(session=exportable())
def test_any_session_comes_back_to_the_nanosecond(tmp_path_factory, session):
    back, remarks = back_of(session, tmp_path_factory.getbasetemp() / "any.nwb")
    same_session(session, back)
    assert back.units.id.tolist() == session.units.id.tolist()
    for name, column in session.units.columns.items():
        same(column, back.units.columns[name])
    same_table(session.intervals["trials"], back.intervals["trials"])
    signal = session.signals["hand_vel"]
    if len(signal.time_ns):
        same_signal(signal, back.signals["hand_vel"])
    told = [r for r in remarks if "session start" not in r and "no sample" not in r and "extent" not in r]
    assert told == []


def imaged(session: Session, n: int) -> Session:
    """With the fluorescence of n ROIs, more than a behaviour may have components."""
    value = np.random.default_rng(0).normal(size=(40, n)).astype(np.float32)
    valid = np.arange(40) % 7 > 0
    names = tuple(str(3 + k) for k in range(n))
    made = Signal(np.arange(40) * 33_333_333, value, names, "dF/F", valid)
    return replace(session, signals={**session.signals, "fluorescence": made})


def test_imaged_units_come_back(tmp_path):
    """With spikes beside them, and without: then the ROIs are the units, with their columns."""
    import pynwb

    session = imaged(random_session("one", 0), 80)
    back, remarks = back_of(session, tmp_path / "both.nwb")
    same_session(session, back)
    same_signal(session.signals["fluorescence"], back.signals["fluorescence"])
    same_signal(session.signals["vel"], back.signals["vel"])
    alone = imaged(random_session("two", 0), 80)
    ids = list(alone.signals["fluorescence"].components)
    columns = {"depth": np.arange(80.0), "kind": np.array(["a", "b"] * 40)}
    alone = replace(alone, units=UnitTable(ids, columns), spikes=Spikes.from_units([]), observed=Intervals([0], [1]))
    back, remarks = back_of(alone, tmp_path / "alone.nwb")
    assert back.units.id.tolist() == ids
    assert not len(back.spikes)
    for name, column in columns.items():
        same(column, back.units.columns[name])
    same_signal(alone.signals["fluorescence"], back.signals["fluorescence"])
    assert any("microscope" in r for r in remarks)
    for name in ("both", "alone"):
        assert pynwb.validate(path=str(tmp_path / f"{name}.nwb")) == []


def test_what_nwb_cannot_hold_is_told(tmp_path):
    session = golden_session()
    odd = replace(
        session,
        units=UnitTable(session.units.id, {"electrodes": np.arange(3), "heart:rate": np.arange(3.0)}),
        intervals={**session.intervals, "a/b": Intervals([0], [1], {"timeseries": np.array([1])})},
        info={"date_of_birth": "spring"},
    )
    back, remarks = back_of(odd, tmp_path / "odd.nwb")
    told = "\n".join(remarks)
    for words in (
        "unit ids are no whole numbers (as 'a')",
        "column 'electrodes' has a meaning of its own in NWB and is written as 'source_electrodes'",
        "'heart:rate' is written as 'heart_rate'",
        "'a/b' is written as 'a_b'",
        "'hand/vel' is written as 'hand_vel'",
        "'timeseries' has a meaning",
        "date of birth 'spring'",
    ):
        assert words in told, told
    assert back.units.columns["unit_name"].tolist() == ["a", "b", "c"]
    assert back.units.columns["source_electrodes"].tolist() == [0, 1, 2]
    same_session(odd, back)


def test_times_beyond_float64_seconds_are_refused(tmp_path):
    session = golden_session()
    far = 2**53 + 1
    spikes = Spikes(np.append(session.spikes.time_ns, far), np.append(session.spikes.unit, np.int32(0)))
    with pytest.raises(DataError, match="too far from zero"):
        write_nwb(replace(session, spikes=spikes, stop_ns=far + 1), DIGEST, tmp_path / "far.nwb")


def clean() -> Session:
    """What the inspector holds for critical is stated: sex and age; and no spike of a unit stands twice."""
    return replace(random_session("one", 0), info={"sex": "F", "age": "P90D", "species": "Rattus norvegicus"})


@pytest.mark.parametrize("of", ["rich", pytest.param("clean", marks=pytest.mark.long)])
def test_pynwb_finds_nothing_wrong(rich, tmp_path, of):
    import pynwb

    path = tmp_path / "out.nwb"
    write_nwb(rich if of == "rich" else clean(), DIGEST, path)
    assert pynwb.validate(path=str(path)) == []


@pytest.mark.slow
def test_nwbinspector_finds_nothing_critical(tmp_path):
    inspector = pytest.importorskip("nwbinspector", reason="nwbinspector is not installed (pip install nwbinspector)")
    write_nwb(clean(), DIGEST, tmp_path / "one.nwb")
    worst = inspector.Importance.CRITICAL
    assert list(inspector.inspect_nwbfile(nwbfile_path=tmp_path / "one.nwb", importance_threshold=worst)) == []


@pytest.mark.skipif(
    real_data() is None, reason="the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)"
)
def test_a_real_recording_comes_back(tmp_path):
    path = real_data() / "sub-Jenkins_ses-small_desc-test_ecephys.nwb"
    session = read_nwb(path, "mc_maze_small/test", Source(path.name, "0" * 64, 1))
    back, remarks = back_of(session, tmp_path / "back.nwb")
    same_session(session, back)
    assert remarks == []
    assert back.units.columns["held_out"].sum() == session.units.columns["held_out"].sum()


# ---- the benchmark's own ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Session:
    """A session of mc_maze_small, joined of files in their real layout."""
    files = sorted(write_files("mc_maze_small", tmp_path_factory.mktemp("nlb")).values(), key=str)
    sources = [Source(f.name, sha256_file(f), f.stat().st_size) for f in files]
    return normalize(files, "mc_maze_small/sub-Jenkins_ses-small", sources, {"rules": "nlb"})


def test_a_session_that_rules_made_comes_back(benchmark, tmp_path):
    back, remarks = back_of(benchmark, tmp_path / "back.nwb")
    same_session(benchmark, back)
    same_table(benchmark.trials, back.trials)
    same_table(benchmark.splits, back.intervals["splits"])
    for name in ("hand_vel", "cursor_pos"):
        same_signal(benchmark.signals[name], back.signals[name])
    assert [r for r in remarks if "extent" not in r] == []
    assert len(benchmark.source.files) == 2
    assert all(source.sha256 in back.info["notes"] for source in benchmark.source.files)


def test_nlbs_tensors_are_exported_as_they_are_made(benchmark, tmp_path):
    from spiketok.pipeline.export.nlb_tensors import eval_input, eval_target

    done = [export_session(benchmark, DIGEST, "nlb", tmp_path / folder) for folder in "ab"]
    assert "the valid split" in done[0].remarks[0]
    assert Path(done[0].path).read_bytes() == Path(done[1].path).read_bytes()
    with h5py.File(done[0].path) as file:
        assert file.attrs["store_digest"] == DIGEST
        made = eval_input(benchmark, "", "valid")
        np.testing.assert_array_equal(file["eval_spikes_heldin"][:], made["eval_spikes_heldin"])
        target = eval_target(benchmark, "", "valid")["mc_maze_small"]
        np.testing.assert_array_equal(
            file["mc_maze_small/eval_behavior"][:], target["eval_behavior"].astype(np.float32)
        )
    with pytest.raises(UnknownNameError, match="benchmark set"):
        export_session(golden_session(), DIGEST, "nlb", tmp_path)
    assert not (tmp_path / "golden").exists() or not list((tmp_path / "golden").iterdir())


def test_falcons_arrays_are_exported_as_they_are_made(tmp_path):
    from spiketok.pipeline.export.falcon_tensors import falcon_tensors

    made = write_m2(tmp_path, HELD_IN)
    source = Source(made.asset, sha256_file(made.path), 1)
    session = normalize([made.path], "falcon_m2/one", [source], {"rules": "falcon"})
    done = [export_session(session, DIGEST, "falcon", tmp_path / folder) for folder in "ab"]
    assert Path(done[0].path).read_bytes() == Path(done[1].path).read_bytes()
    ours = falcon_tensors(session)
    assert len(done[0].remarks) == 1 + bool(ours.n_near_edge)
    with h5py.File(done[0].path) as file:
        np.testing.assert_array_equal(file["neural_data"][:], ours.neural)
        np.testing.assert_array_equal(file["targets"][:], ours.target)
        assert made.asset in file.attrs["origin"]
    with pytest.raises(DataError, match="no target of FALCON"):
        export_session(golden_session(), DIGEST, "falcon", tmp_path)


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nwb", "torch_brain"])
def test_the_same_session_gives_the_same_bytes_in_its_place(name, tmp_path):
    made = [export_session(golden_session(), DIGEST, name, tmp_path / folder) for folder in ("a", "b")]
    paths = [Path(one.path) for one in made]
    assert paths[0] == tmp_path / "a" / "golden" / f"one{EXPORTERS[name].suffix}"
    assert made[0].nbytes == paths[0].stat().st_size
    assert len({hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}) == 1


@pytest.mark.parametrize("name", ["nwb", "torch_brain"])
def test_a_file_is_never_half_there_nor_replaced_unasked(name, tmp_path, monkeypatch):
    first = Path(export_session(golden_session(), DIGEST, name, tmp_path).path)
    before, written = first.read_bytes(), first.stat().st_mtime_ns
    again = export_session(golden_session(), DIGEST, name, tmp_path)
    assert (again.state, again.nbytes, first.stat().st_mtime_ns) == ("already", len(before), written)
    with pytest.raises(UsageError, match="is there already, and was made of something else: --overwrite replaces it"):
        export_session(golden_session(), DIGEST[::-1], name, tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spiketok.pipeline.export.base.__version__", "9")
    with monkeypatch.context() as broken:
        broken.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(Exception, match="No space"):  # hdmf makes a plain Exception of it
            export_session(golden_session(), DIGEST, name, tmp_path, overwrite=True)
    assert first.read_bytes() == before
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    with pytest.raises(UsageError, match="made of something else"):
        export_session(golden_session(), DIGEST, name, tmp_path)  # by another release
    assert export_session(golden_session(), DIGEST, name, tmp_path, overwrite=True).state == "replaced"
    assert first.read_bytes() != before


def test_an_unknown_format_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'torch_brain'"):
        export_session(golden_session(), DIGEST, "torchbrain", Path("nowhere"))


# ---- torch_brain's layout, as far as h5py shows it; test_oracle_export.py opens it ---------------------


def test_the_layout_of_torch_brain(tmp_path):
    session = golden_session()
    session = replace(session, units=UnitTable(session.units.id, {"region": np.array(["M1", "PMd", "é"])}))
    done = export_session(session, DIGEST, "torch_brain", tmp_path)
    assert any("1 texts of column 'region' are not ASCII" in r for r in done.remarks)
    with h5py.File(done.path) as file:
        assert file.attrs["object"] == "Data"
        np.testing.assert_array_equal(np.rint(file["spikes/timestamps"][:] * 1e9), session.spikes.time_ns)
        np.testing.assert_array_equal(file["spikes/unit_index"][:], session.spikes.unit)
        assert file["units/id"][:].tolist() == [b"a", b"b", b"c"]
        assert {*file["units"].attrs["_unicode_keys"]} == {b"id", b"region"}
        assert file["train_domain"].attrs["object"] == "Interval"
        assert np.isnan(file["hand_vel/value"][:]).any(axis=1).tolist() == (~session.signals["hand/vel"].valid).tolist()
        assert file["brainset"].attrs["origin_version"] == "dandi/000001/0.1"
        assert "CC-BY-4.0" in file["brainset"].attrs["description"]
        grid = file["spikes/timestamp_indices_1s"][:]
        assert grid.tolist() == [0, len(session.spikes)]


def test_every_division_of_time_has_its_own_domains(tmp_path):
    """The source's under their plain names, every other under its own before them."""
    second = 10**9
    rows = [(0, 2, "train", "source"), (2, 3, "test", "source"), (0, 1, "valid", "kfold-5"), (1, 3, "train", "kfold-5")]
    columns = {"name": np.array([r[2] for r in rows]), "set": np.array([r[3] for r in rows])}
    splits = Intervals([r[0] * second for r in rows], [r[1] * second for r in rows], columns)
    done = export_session(replace(random_session("one", 0), splits=splits), DIGEST, "torch_brain", tmp_path)
    with h5py.File(done.path) as file:
        found = {name: (file[name]["start"][0], file[name]["end"][0]) for name in file if name.endswith("_domain")}
    assert found == {
        "train_domain": (0, 2),
        "test_domain": (2, 3),
        "kfold_5_valid_domain": (0, 1),
        "kfold_5_train_domain": (1, 3),
    }


def test_samples_far_outside_of_the_session_cost_no_torch_brain_file(tmp_path):
    """Its layout has a row for each second: one sample in 1e9 s would be 8 GB of them."""
    session = random_session("one", 0)
    signal = Signal([0, 5, 10**18], np.ones((3, 1), np.float32), ("a",), "", np.ones(3, np.bool_))
    done = export_session(replace(session, signals={"far": signal}), DIGEST, "torch_brain", tmp_path)
    assert "signal 'far': 1 of 3 samples lie over a day outside of the session: left out" in done.remarks
    assert done.nbytes < 10**6
    with pytest.raises(DataError, match="at most 10000000 s"):
        export_session(replace(session, stop_ns=10**17), DIGEST, "torch_brain", tmp_path / "b")
