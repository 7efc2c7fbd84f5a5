"""Which units stay, what metrics they have, and how the units of several files become one session."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, MissingExtraError, UnknownNameError, UsageError
from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.verify import verify
from spiketok.recording.joining import merge_units, short_labels
from spiketok.recording.nouns import Intervals, Ragged, Session, Signal, Spikes, UnitTable
from spiketok.recording.quality import add_metrics, filter_units, parse_quality
from spiketok.recording.units import observed_spikes, take_units
from spiketok.storage.store import read_attributes, read_session, write_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.made import MS, SECOND, golden_session, random_session
from tests.nwb_files import new_file, save, write_plain
from tests.strategies import sessions


def with_columns(session: Session, **columns) -> Session:
    return replace(session, units=UnitTable(session.units.id, columns))


def unit_times(session: Session) -> dict[str, list[int]]:
    return {u: session.spikes.time_ns[session.spikes.unit == k].tolist() for k, u in enumerate(session.units.id)}


# ---- taking units ---------------------------------------------------------------------------------------------------


@given(sessions(), st.data())
def test_taken_units_keep_all_that_is_theirs(session, data):
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(session.units), max_size=len(session.units))))
    done = take_units(session, keep)
    before = unit_times(session)
    assert unit_times(done) == {u: before[u] for u in session.units.id[keep]}
    if session.unit_observed is not None:
        rows = np.flatnonzero(keep)
        assert [p.tolist() for p in done.unit_observed] == [session.unit_observed[r].tolist() for r in rows]
    assert (done.start_ns, done.stop_ns, done.intervals) == (session.start_ns, session.stop_ns, session.intervals)


def test_columns_observed_time_and_fluorescence_follow_their_unit():
    tags = Ragged(np.array(["x", "y", "z"]), np.array([0, 1, 1, 3]))
    session = with_columns(golden_session(), region=np.array(["M1", "PMd", "M1"]), tags=tags)
    imaged = Signal([0, 1], [[1, 2, 3], [4, 5, 6]], ("a", "b", "c"), "", np.ones(2, np.bool_))
    done = take_units(replace(session, signals={"fluorescence": imaged}), np.array([True, False, True]))
    assert done.units.columns["region"].tolist() == ["M1", "M1"]
    assert [t.tolist() for t in done.units.columns["tags"]] == [["x"], ["y", "z"]]
    assert done.signals["fluorescence"].components == ("a", "c")
    assert done.signals["fluorescence"].value.tolist() == [[1, 3], [4, 6]]
    only_second = take_units(session, np.array([False, True, False]))
    assert (only_second.observed.start_ns.tolist(), only_second.observed.stop_ns.tolist()) == ([60 * MS], [250 * MS])


@given(sessions())
def test_rates_count_what_lies_in_observed_time(session):
    count, seconds = observed_spikes(session)
    for row, times in enumerate(unit_times(session).values()):
        own = session.observed if session.unit_observed is None else session.unit_observed[row]
        pairs = np.stack([own.start_ns, own.stop_ns], axis=1) if isinstance(own, Intervals) else own
        inside = [t for t in times if any(a <= t < b for a, b in pairs.tolist())]
        covered = {t for a, b in pairs.tolist() for t in range(a // MS, b // MS)}
        assert count[row] == len(inside)
        assert abs(seconds[row] * 1000 - len(covered)) <= 2 * len(pairs) + 1


# ---- filters --------------------------------------------------------------------------------------------------------


@pytest.fixture
def four() -> Session:
    times = [np.arange(n) * 100 * MS for n in (0, 5, 20, 60)]
    session = random_session("four", 0, n_units=4)
    session = replace(
        session, spikes=Spikes.from_units(times), observed=Intervals([0, 4 * SECOND], [2 * SECOND, 6 * SECOND])
    )
    return with_columns(
        session,
        isi=np.array([0.1, np.nan, 0.5, 0.9]),
        quality=np.array(["good", "good", "", "mua"]),
        good=np.array([True, False, True, True]),
        channel=np.arange(4),
    )


@pytest.mark.parametrize(
    ("rule", "stay"),
    [
        ("isi<0.5", [0]),
        ("isi <= .5", [0, 2]),
        ("isi!=0.1", [2, 3]),  # NaN is no other number
        ("quality==good", [0, 1]),
        ("quality != 'good'", [3]),
        ("good==true and isi>0.2", [2, 3]),
        ("channel>=1 AND channel<3", [1, 2]),
    ],
)
def test_a_quality_rule_keeps_who_passes(four, rule, stay):
    done = filter_units(four, quality=rule)
    assert done.units.columns["channel"].tolist() == stay
    assert sum(f.count for f in done.repairs) == 4 - len(stay)
    assert [str(c) for c in parse_quality(" and ".join(map(str, parse_quality(rule))))] == [
        str(c) for c in parse_quality(rule)
    ]


def entries_of(column: np.ndarray | Ragged) -> list[list]:
    """Each unit's values as a list."""
    return [np.asarray(column[row]).tolist() for row in range(4)]


@pytest.mark.parametrize(
    ("rule", "passes"),
    [
        ("iscell[0]>0.5", lambda own: own[0] > 0.5),
        ("iscell [ 1 ] <= .3", lambda own: own[1] <= 0.3),
        ("peaks[0]>=2", lambda own: len(own) > 0 and own[0] >= 2),
        ("peaks[2]!=7", lambda own: len(own) > 2 and own[2] != 7),
        ("labels[1]==ok", lambda own: own[1] == "ok"),
        ("labels[0]!='ok'", lambda own: own[0] not in ("ok", "")),
    ],
)
def test_one_entry_of_a_column_is_compared(four, rule, passes):
    """Each entry against a plain loop over the units; one without such an entry, or with an empty one, leaves."""
    columns = {
        "iscell": np.array([[1.0, 0.9], [0.0, 0.2], [1.0, 0.3], [0.4, np.nan]]),
        "peaks": Ragged(np.array([3, 1, 2, 7, 4, 5, 6]), np.array([0, 1, 1, 4, 7])),
        "labels": np.array([["ok", "no"], ["", "ok"], ["no", "ok"], ["ok", ""]]),
    }
    rows = entries_of(columns[rule.split("[")[0].strip()])
    done = filter_units(with_columns(four, **four.units.columns, **columns), quality=rule)
    assert done.units.columns["channel"].tolist() == [row for row in range(4) if passes(rows[row])]
    assert 0 < len(done.units) < 4
    again = " and ".join(map(str, parse_quality(rule)))
    assert parse_quality(again) == parse_quality(rule)


def test_a_column_may_be_named_like_an_entry(four):
    session = with_columns(four, **four.units.columns, **{"peak[0]": np.array([1.0, 2.0, 3.0, 4.0])})
    assert filter_units(session, quality="peak[0]>2").units.columns["channel"].tolist() == [2, 3]


def test_a_filter_says_what_left(four):
    done = filter_units(four, min_rate_hz=2.0, quality="isi<10")
    # 4 s observed: rates 0, 5/4, 20/4 and 40/4 Hz
    assert done.units.columns["channel"].tolist() == [2, 3]
    assert [(f.id, f.count) for f in done.repairs] == [("units-below-min-rate", 2)]
    assert done.repairs[0].text == "left out 2 of 4 units and 5 of 85 spikes: a rate below 2 Hz"
    text = filter_units(four, quality="isi<10").repairs[0].text
    assert text == "left out 1 of 4 units and 5 of 85 spikes: not isi<10.0, 1 of them without a value"
    assert filter_units(four).repairs == ()


@pytest.mark.parametrize(
    ("rule", "error", "line"),
    [
        ("isi", UsageError, "'isi' cannot be read"),
        ("isi<<1", UsageError, "cannot be read"),
        ("isi<1 or isi>2", UsageError, "cannot be read"),
        ("quality<good", UsageError, "compares a word with '<'"),
        ("quality<1", UsageError, "holds words: use == or !="),
        ("isi=='good'", UsageError, "holds numbers, compared with 'good'"),
        ("isis<1", UnknownNameError, "did you mean 'isi'"),
        ("isi>5", DataError, "all 4 units would leave"),
        ("many<5", UsageError, "several values a unit: name one of them, as many"),
        ("many[2]<5", UsageError, r"at most 2 values a unit: there is no entry \[2\]"),
        ("isi[0]<5", UsageError, r"one value a unit, no entries: leave out '\[0\]'"),
        ("cube[0]<5", UsageError, "a table of values a unit"),
        ("manys[0]<5", UnknownNameError, "did you mean 'many'"),
    ],
)
def test_a_rule_that_cannot_be_is_one_line(four, rule, error, line):
    session = with_columns(four, **four.units.columns, many=np.zeros((4, 2)), cube=np.zeros((4, 2, 2)))
    with pytest.raises(error, match=line) as raised:
        filter_units(session, quality=rule)
    assert "\n" not in str(raised.value)


# ---- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_are_the_formulas():
    """Against direct formulas, with gaps in the observed time and units that were observed at different times."""
    pytest.importorskip("spikeinterface", reason="spikeinterface is not installed (pip install 'spiketok[sorting]')")
    rng = np.random.default_rng(0)
    stop = 400 * SECOND
    times = [np.sort(rng.integers(0, stop, n)) for n in (4000, 900, 0)] + [np.sort(rng.integers(0, stop // 3, 500))]
    pairs = [[[0, 100], [150, 400]]] * 2 + [[[0, 400]]] + [[[0, 400]]]
    rows = np.array([p for own in pairs for p in own]) * SECOND
    session = replace(
        random_session("m", 0, n_units=4),
        stop_ns=stop,
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop]),
        unit_observed=Ragged(rows, np.array([0, 2, 4, 5, 6])),
    )
    done = add_metrics(session)
    columns = done.units.columns
    for row, (t, own) in enumerate(zip(times, pairs, strict=True)):
        inside = [t[(t >= a * SECOND) & (t < b * SECOND)] for a, b in own]
        n, lasts = sum(map(len, inside)), sum(b - a for a, b in own)
        assert columns["metric_num_spikes"][row] == n
        if not n:
            assert all(np.isnan(columns[c][row]) for c in columns if c not in ("metric_num_spikes",))
            continue
        assert columns["metric_firing_rate"][row] == pytest.approx(n / lasts)
        close = sum(int((np.diff(part) < 1.5 * MS).sum()) for part in inside)
        assert columns["metric_isi_violations_count"][row] == close
        assert columns["metric_isi_violations_ratio"][row] == pytest.approx(close * lasts / (2 * n * n * 0.0015))
        ahead = sum(int((part[None] - part[:, None] <= MS).sum()) - _before(part) for part in inside)
        assert columns["metric_rp_violations"][row] == ahead
        joined = np.concatenate(
            [p - a * SECOND + o for p, (a, _), o in zip(inside, own, [0, 100 * SECOND], strict=False)]
        )
        minutes = np.histogram(joined, np.arange(lasts // 60 + 1) * 60 * SECOND)[0]
        assert columns["metric_presence_ratio"][row] == pytest.approx((minutes > 0).mean())
    assert [(f.id, f.count) for f in done.notes] == [("metrics-computed", 7)]


def _before(part: np.ndarray) -> int:
    """Pairs with the other not later: all that the count of later ones within 1 ms has too many."""
    return int((part[None] <= part[:, None]).sum())


def test_metrics_without_spikeinterface(monkeypatch):
    monkeypatch.setitem(sys.modules, "spikeinterface", None)
    monkeypatch.setitem(sys.modules, "spikeinterface.metrics.quality", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'spiketok\[sorting\]'"):
        add_metrics(random_session("m", 0))


# ---- joining files --------------------------------------------------------------------------------------------------


def test_labels_are_what_differs():
    assert short_labels(["sub-A_probe-0_ecephys", "sub-A_probe-1_ecephys"]) == ["probe-0", "probe-1"]
    assert short_labels(["a", "b"]) == ["a", "b"]
    assert short_labels(["x_a_c", "x_b_b_c"]) == ["a", "b_b"]
    assert short_labels(["x_a", "x_a_b"]) == ["x_a", "x_a_b"]  # the first would be called nothing


@given(st.integers(0, 1000), st.integers(1, 3))
def test_merged_units_are_those_of_the_files(seed, n_files):
    parts = [random_session(f"f_{k}", seed + k, n_units=k + 1) for k in range(n_files + 1)]
    done = merge_units(parts, "made/all", [f"p{k}" for k in range(len(parts))])
    expected = {f"p{k}:{u}": t for k, part in enumerate(parts) for u, t in unit_times(part).items()}
    assert unit_times(done) == expected
    assert done.units.columns["probe"].tolist() == [f"p{k}" for k, part in enumerate(parts) for _ in part.units.id]
    assert done.unit_observed is None
    assert [s.file for s in done.source.files] == [p.source.file for p in parts]


def test_merging_keeps_what_differs():
    one, two = (random_session(f"x_{k}", k, n_units=2) for k in range(2))
    one = with_columns(one, region=np.array(["M1", "S1"]), depth=np.array([1, 2]), tags=np.array([[1, 2], [3, 4]]))
    two = with_columns(two, region=np.array(["V1", ""]), tags=Ragged(np.array([5.0]), np.array([0, 0, 1])))
    own = Ragged(np.array([[0, SECOND], [0, 2 * SECOND]]), np.array([0, 1, 2]))
    two = replace(two, unit_observed=own, observed=Intervals([0], [2 * SECOND]), spikes=two.spikes.window(0, SECOND))
    trials = Intervals([0, SECOND], [SECOND, 2 * SECOND], {"side": np.array(["l", "r"])})
    one = replace(one, intervals={"trials": trials}, clock_hz=30_000.0)
    two = replace(two, intervals={"trials": trials, "more": trials}, clock_hz=30_000.0)
    done = merge_units([one, two], "made/all", ["a", "b"])
    assert done.units.columns["region"].tolist() == ["M1", "S1", "V1", ""]
    np.testing.assert_array_equal(done.units.columns["depth"], [1, 2, np.nan, np.nan])
    assert [t.tolist() for t in done.units.columns["tags"]] == [[1, 2], [3, 4], [], [5]]
    assert [len(p) for p in done.unit_observed] == [2, 2, 1, 1]
    assert set(done.intervals) == {"trials", "more"}
    assert set(done.signals) == {"vel", "vel.b"}  # the two differ
    assert done.clock_hz == 30_000
    assert {f.id: f.count for f in done.notes} == {"merge-columns": 2, "merge-differs": 1}


def test_files_of_different_recordings_are_refused():
    one, two = random_session("a", 0), random_session("b", 1)
    late = replace(two, spikes=Spikes(two.spikes.time_ns + 100 * SECOND, two.spikes.unit), stop_ns=200 * SECOND)
    for other, line in (
        (replace(two, subject="t"), "different subjects"),
        (replace(two, source=replace(two.source, session_start="2021")), "different session starts"),
        (late, "do not overlap in time"),
        (replace(two, splits=Intervals([0], [5], {"name": np.array(["train"])})), None),
    ):
        if line is None:
            assert len(merge_units([one, other], "made/all").splits) == 1
            continue
        with pytest.raises(DataError, match=line):
            merge_units([one, other], "made/all")


# ---- through the store ----------------------------------------------------------------------------------------------


def test_settings_stand_in_the_store_and_come_out_again(tmp_path):
    path = write_plain(tmp_path / "plain.nwb")
    done = spiketok(
        tmp_path / "root",
        *("ingest", str(path), "--min-rate", "0.1", "--process", "acc=derivative(hand_vel)"),
        *("--process", "acc=resample(acc, 5hz)", "--json"),
    )
    (row,) = json.loads(done.stdout)
    assert (row["units"], row["spikes"]) == (2, 7)
    assert "units-below-min-rate (1)" in done.stderr
    workspace = Workspace(tmp_path / "root")
    settings = read_attributes(workspace.store_path("local/plain"))["settings"]
    assert settings["min_rate_hz"] == 0.1
    assert [s["function"] for s in settings["process"]] == ["derivative", "resample"]
    assert read_session(workspace.store_path("local/plain")).signals["acc"].measure == "mm/s^2"
    (checked,) = verify(workspace, ["local/plain"])
    assert checked.error is None
    assert checked.result.differences == []
    wanted = {k: v for k, v in settings.items() if k in ("min_rate_hz", "process")}
    (again,) = ingest(workspace, [path], wanted=wanted)
    assert again.result.state == "already"
    (other,) = ingest(workspace, [path])
    assert (other.result.state, other.result.n_units) == ("replaced", 3)


def test_a_wrong_option_is_one_line(tmp_path):
    path = write_plain(tmp_path / "plain.nwb")
    for words, line in (
        (["--process", "acc=derive(hand_vel)"], "unknown function 'derive'"),
        (["--quality", "isi"], "cannot be read"),
    ):
        done = spiketok(tmp_path / "root", "ingest", str(path), *words, code=2)
        assert line in done.stderr
        assert "Traceback" not in done.stderr
    (failed,) = ingest(Workspace(tmp_path / "root"), [path], wanted={"quality": "isi<0.5"})
    assert isinstance(failed.error, UnknownNameError)


def test_files_merged_into_one_session(tmp_path):
    for probe, spikes in (("0", [[0.1, 0.5], [0.2]]), ("1", [[0.1], [0.3, 0.4], []])):
        nwb = new_file()
        nwb.add_unit_column("beryl_location", "region")
        for times in spikes:
            nwb.add_unit(spike_times=np.array(times), beryl_location=f"VIS{probe}")
        save(nwb, tmp_path / f"rec_probe-{probe}.nwb")
    workspace = Workspace(tmp_path / "root")
    (outcome,) = ingest(workspace, [tmp_path], "two", merge_as="rec")
    assert outcome.error is None, outcome.message
    session = read_session(workspace.store_path("two/rec"))
    assert session.units.id.tolist() == ["probe-0:0", "probe-0:1", "probe-1:0", "probe-1:1", "probe-1:2"]
    assert session.spikes.unit.tolist() == [0, 2, 1, 3, 3, 0]
    assert session.units.columns["region"].tolist() == ["VIS0"] * 2 + ["VIS1"] * 3
    assert {f.id for f in session.repairs} == {"files-merged"}
    (checked,) = verify(workspace, ["two/rec"])
    assert checked.result.differences == []
    write_session(session, tmp_path / "copy")
