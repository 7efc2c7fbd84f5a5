"""Blocks of one day and behaviour of a second file, joined: against the recording that they were cut from.

A generator writes one recording whole and cut into files; what the joined session holds is what the whole one does.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pynwb import NWBFile, TimeSeries
from pynwb.file import Subject
from pynwb.image import ImageSeries

from spiketok.api.making import fetch as fetch_files
from spiketok.api.making import ingest as ingest_files
from spiketok.errors import DataError, PartError, UsageError
from spiketok.pipeline.fetch import joined_under
from spiketok.recording.joining_time import join_files
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.store import read_attributes, read_session
from spiketok.storage.workspace import Workspace
from tests import nwb_files
from tests.cli.test_cli import spiketok
from tests.dandi_server import DandiServer
from tests.sources.test_clocks import made

START = datetime(2024, 5, 3, 9, 30, tzinfo=UTC)


def save(
    path: Path,
    span_s: tuple[float, float],
    *,
    zero_s: float = 0.0,
    start: datetime = START,
    units: tuple[int, ...] = (0, 1, 2, 3),
    group: str = "",
    subject: str = "A",
    seed: int = 0,
    with_units: bool = True,
    with_behaviour: bool = True,
    shown: bool = False,
    **facts: str,
) -> Path:
    """What a recording of 90 s holds in a span of it, in seconds after ``zero_s`` of it."""
    rng = np.random.default_rng(seed)
    trains = [np.sort(rng.uniform(0, 90, 500 + 40 * unit)) for unit in range(6)]
    facts = {"identifier": path.stem, **facts}
    nwb = NWBFile(session_description="made", session_start_time=start, **facts)
    nwb.subject = Subject(subject_id=subject, species="Macaca mulatta")
    low, high = span_s

    def own(times: np.ndarray) -> np.ndarray:
        return times[(times >= low) & (times < high)] - zero_s

    if with_units:
        nwb.add_unit_column("quality", "a word")
        nwb.add_unit_column("snr", "differs from block to block")
        if group:
            nwb.add_unit_column("location", "where")
        for unit in units:
            placed = {"location": f"{group}{unit % 2}"} if group else {}
            kind = "good" if unit % 2 else "mua"
            nwb.add_unit(id=unit, spike_times=own(trains[unit]), quality=kind, snr=low + unit, **placed)
    if with_behaviour:
        nwb.add_trial_column("go_cue_time", "seconds")
        nwb.add_trial_column("side", "a word")
        for start_s in own(np.arange(0.5, 88, 3.0)):
            side = "left" if round(start_s) % 2 else "right"
            nwb.add_trial(start_time=start_s, stop_time=start_s + 2, go_cue_time=start_s + 0.5, side=side)
        time_s = own(np.arange(0, 90, 0.1))
        value = np.stack([np.sin(time_s + zero_s), np.cos(time_s + zero_s)], axis=1)
        module = nwb.create_processing_module("behavior", "behaviour")
        module.add(TimeSeries(name="hand_vel", data=value, unit="m/s", timestamps=time_s))
    if shown:
        at = own(np.arange(1, 90, 2.0))
        frames = rng.integers(0, 255, (len(at), 4, 5), dtype=np.uint8)
        nwb.add_stimulus(ImageSeries(name="movie", data=frames, unit="n", timestamps=at))
    return nwb_files.save(nwb, path)


def joined(paths: list[Path], how: str = "") -> Session:
    parts = [read_nwb(p, "set/day", Source(p.name, p.stem * 8, 1), is_part=True) for p in paths]
    return join_files(parts, "set/day", how)


def as_whole(session: Session, whole: Session, *, moved_ns: int = 0, from_ns: int = 0) -> None:
    """All that the whole recording holds, later times moved by so much."""

    def at(time_ns: np.ndarray) -> np.ndarray:
        return time_ns + np.where(time_ns >= from_ns, moved_ns, 0)

    assert session.units.id.tolist() == whole.units.id.tolist()
    assert np.abs(session.spikes.time_ns - at(whole.spikes.time_ns)).max() <= 1
    assert np.array_equal(session.spikes.unit, whole.spikes.unit)
    ours, theirs = session.signals["hand_vel"], whole.signals["hand_vel"]
    assert np.abs(ours.time_ns - at(theirs.time_ns)).max() <= 1
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-6)
    for ns in ("start_ns", "stop_ns"):
        assert np.abs(getattr(session.trials, ns) - at(getattr(whole.trials, ns))).max() <= 1
    go_ns = np.rint(session.trials.columns["go_cue_time"] * NS_PER_S) - session.trials.start_ns
    assert np.abs(go_ns - NS_PER_S // 2).max() <= 2


@pytest.mark.parametrize(
    "zones",
    [
        pytest.param((UTC, UTC, UTC), marks=pytest.mark.long, id="one"),
        pytest.param((UTC, timezone(timedelta(hours=2)), timezone(timedelta(hours=-7))), id="three"),
    ],
)
def test_files_lie_where_their_starts_say_in_any_time_zone(tmp_path, zones):
    """Three blocks, each from its own zero; given in another order than they were recorded in."""
    whole = read_nwb(save(tmp_path / "whole.nwb", (0, 90)), "set/day", Source("w", "0" * 64, 1))
    spans, paths = [(0, 25), (31, 60), (64.5, 90)], []
    for k, (low, high) in enumerate(spans):
        start = (START + timedelta(seconds=low)).astimezone(zones[k])
        paths.append(save(tmp_path / f"block{k}.nwb", (low, high), zero_s=low, start=start))
    session = joined([paths[1], paths[0], paths[2]])
    kept = (whole.spikes.time_ns[:, None] >= np.array([s[0] for s in spans]) * NS_PER_S) & (
        whole.spikes.time_ns[:, None] < np.array([s[1] for s in spans]) * NS_PER_S
    )
    assert np.abs(session.spikes.time_ns - whole.spikes.time_ns[kept.any(axis=1)]).max() <= 1
    assert len(session.observed) == 3
    gaps = [(a, b) for (_, a), (b, _) in pairwise(spans)]
    for (low, high), stop, start in zip(gaps, session.observed.stop_ns, session.observed.start_ns[1:], strict=False):
        assert low - 1 < stop / NS_PER_S <= low + 2 and high - 1 <= start / NS_PER_S < high + 1
    assert session.source.file == "block1.nwb"  # as they were given
    assert datetime.fromisoformat(session.source.session_start) == START  # on the clock of the earliest
    assert session.units.columns["snr"].tolist() == [0, 1, 2, 3]
    assert session.units.columns["snr.block2"].tolist() == [64.5, 65.5, 66.5, 67.5]
    go_ns = np.rint(session.trials.columns["go_cue_time"] * NS_PER_S) - session.trials.start_ns
    assert np.abs(go_ns - NS_PER_S // 2).max() <= 2


@pytest.mark.long
def test_files_on_one_clock_follow_one_another_as_they_are(tmp_path):
    whole = read_nwb(save(tmp_path / "whole.nwb", (0, 90)), "set/day", Source("w", "0" * 64, 1))
    paths = [save(tmp_path / f"blk{k}.nwb", span) for k, span in enumerate([(0, 45), (45, 90)])]
    as_whole(joined(paths), whole)
    assert joined(paths).observed.total_ns <= whole.observed.total_ns


def test_files_from_zero_at_one_start_are_laid_out_where_the_user_says_so(tmp_path):
    whole = read_nwb(save(tmp_path / "whole.nwb", (0, 90)), "set/day", Source("w", "0" * 64, 1))
    paths = [save(tmp_path / f"b{k}.nwb", s, zero_s=s[0], shown=True) for k, s in enumerate([(0, 36), (36, 90)])]
    with pytest.raises(
        DataError, match="nothing tells whether they are probes or blocks: add --join units .* --join time"
    ):
        joined(paths)
    session = joined(paths, "time")
    moved = int(session.spikes.time_ns[-1] - whole.spikes.time_ns[-1])
    moved = round(moved / NS_PER_S) * NS_PER_S
    assert 30 * NS_PER_S <= moved <= 32 * NS_PER_S
    as_whole(session, whole, moved_ns=moved, from_ns=36 * NS_PER_S)
    assert len(session.observed) == 2
    assert len(session.stimuli["movie"]) == 45
    backwards = joined(paths[::-1], "time")
    assert backwards.source.file == "b1.nwb"
    assert backwards.signals["hand_vel"].time_ns[0] == 0
    assert backwards.signals["hand_vel"].value[0] == pytest.approx([np.sin(36), np.cos(36)], abs=1e-6)
    assert len(joined(paths, "units").units) == 8  # who says that they are probes gets these


def test_a_unit_of_one_block_was_not_observed_in_the_others(tmp_path):
    paths = [
        save(tmp_path / "blk0.nwb", (0, 30), units=(0, 1, 2)),
        save(tmp_path / "blk1.nwb", (30, 63), units=(5, 2, 1)),
        save(tmp_path / "blk2.nwb", (63, 90), units=(2, 4)),
    ]
    session = joined(paths)
    assert session.units.id.tolist() == ["0", "1", "2", "5", "4"]
    spans = {"0": [0], "1": [0, 1], "2": [0, 1, 2], "5": [1], "4": [2]}
    edges = [(0, 30), (30, 63), (63, 90)]
    for row, unit in enumerate(session.units.id.tolist()):
        own = session.unit_observed[row].reshape(-1, 2) / NS_PER_S
        assert len(own) == len(spans[unit])
        for (low, high), k in zip(own, spans[unit], strict=True):
            assert edges[k][0] - 1 <= low < edges[k][0] + 1 and edges[k][1] - 1 < high <= edges[k][1] + 2
        times = session.spikes.time_ns[session.spikes.unit == row] / NS_PER_S
        assert len(times) > 0 and all(any(a <= t < b for a, b in (edges[k] for k in spans[unit])) for t in times)
    assert session.units.columns["quality"].tolist() == ["mua", "good", "mua", "good", "mua"]
    (note,) = [note for note in session.notes if note.id == "units-unmatched"]
    assert note.count == 4


@pytest.mark.long
@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"subject": "B"}, "different subjects \\('A', 'B'\\)"),
        ({"start": START + timedelta(seconds=10)}, "different session starts"),
        ({"start": START + timedelta(days=3)}, "begins 3.0 days after the file before it ends: no blocks of one day"),
        ({"group": "PMd"}, "unit '0' has location 'M10' in a and 'PMd0' in b: not the same unit"),
    ],
)
def test_what_is_no_block_of_the_same_day_and_units_is_refused_with_both_values(tmp_path, changes, fact):
    first = save(tmp_path / "a.nwb", (0, 40), group="M1")
    other = {"zero_s": 0.0, "group": "M1", **changes}
    span = (20, 60) if "seconds=10" in repr(changes.get("start")) or changes.get("start") else (40, 90)
    second = save(tmp_path / "b.nwb", span, **other)
    with pytest.raises(DataError, match=fact):
        joined([first, second])


def test_behaviour_of_a_second_file_is_joined(tmp_path):
    whole = read_nwb(save(tmp_path / "whole.nwb", (0, 90)), "set/day", Source("w", "0" * 64, 1))
    units = save(tmp_path / "x_ecephys.nwb", (0, 90), with_behaviour=False, session_id="s1")
    other = {"with_units": False, "shown": True, "session_id": "s1"}
    zone = START.astimezone(timezone(timedelta(hours=9)))
    behaviour = save(tmp_path / "x_behavior.nwb", (0, 90), start=zone, **other)
    for paths in ([units, behaviour], [behaviour, units]):
        session = joined(paths)
        as_whole(session, whole)
        assert session.units.id.tolist() == whole.units.id.tolist() and len(session.stimuli) == 1
        assert session.source.file == paths[0].name


@pytest.mark.long
def test_behaviour_of_another_session_is_refused_with_both_values(tmp_path):
    units = save(tmp_path / "x_ecephys.nwb", (0, 90), with_behaviour=False, session_id="s1")
    other = {"with_units": False, "session_id": "s1"}
    behaviour = save(tmp_path / "x_behavior.nwb", (0, 90), **other)
    with pytest.raises(DataError, match="none of its 2 files has units"):
        joined([behaviour, save(tmp_path / "y.nwb", (0, 90), **other)])
    for name, changes, fact in (
        ("subject", {"subject": "B"}, "different subjects \\('A', 'B'\\)"),
        ("session", {"session_id": "s2"}, "different session ids \\('s1', 's2'\\)"),
        ("start", {"start": START + timedelta(hours=1)}, "another session start .*10:30.* than .*09:30"),
        ("late", {"zero_s": -500.0}, "lasts from 500.0 to 5.* s, the spikes from 0.* to 90.0 s: they do not overlap"),
    ):
        wrong = save(tmp_path / f"{name}.nwb", (0, 90), **{**other, **changes})
        with pytest.raises(DataError, match=fact):
            joined([units, wrong])


@pytest.mark.long
def test_each_block_takes_the_behaviour_of_its_own_start(tmp_path):
    """Two blocks, each with units and behaviour in a file of its own."""
    whole, paths = read_nwb(save(tmp_path / "whole.nwb", (0, 90)), "set/day", Source("w", "0" * 64, 1)), []
    for k, (low, high) in enumerate([(0, 45), (45, 90)]):
        own = {"zero_s": low, "start": START + timedelta(seconds=low)}
        paths.append(save(tmp_path / f"b{k}_ecephys.nwb", (low, high), with_behaviour=False, **own))
        paths.append(save(tmp_path / f"b{k}_behavior.nwb", (low, high), with_units=False, **own))
    as_whole(joined(sorted(paths)), whole)


@pytest.mark.long
def test_the_command_joins_and_verify_makes_the_session_again(tmp_path):
    paths = [str(save(tmp_path / f"b{k}.nwb", s, zero_s=s[0])) for k, s in enumerate([(0, 36), (36, 90)])]
    behaviour = str(save(tmp_path / "wheel.nwb", (0, 36), with_units=False, start=START))
    root = tmp_path / "root"
    refused = spiketok(root, "ingest", *paths, "--merge-as", "day", code=1)
    assert "--join time" in refused.stderr
    assert (
        "not known" in spiketok(root, "ingest", *paths, behaviour, "--merge-as", "day", "--join", "time", code=1).stderr
    )
    told = spiketok(root, "ingest", *paths[::-1], "--merge-as", "day", "--join", "time")
    assert "2 files follow one another, matched by unit id: b1 from 0.1 to 54.0 s, b0 from" in told.stderr
    session = read_session(Workspace(root).store_path("local/day"))
    assert [source.file for source in session.source.files] == ["b1.nwb", "b0.nwb"]
    assert "equal" in spiketok(root, "verify", "local/day").stdout
    again = json.loads(spiketok(root, "ingest", *paths[::-1], "--merge-as", "day", "--join", "time", "--json").stdout)
    assert [row["state"] for row in again] == ["already"]
    (made,) = ingest_files(paths[::-1], root=tmp_path / "api", merge_as="day", join="time")
    digests = {read_attributes(Workspace(at).store_path(made.id))["digest"] for at in (root, tmp_path / "api")}
    assert len(digests) == 1
    with pytest.raises(UsageError, match="join='order': must be one of"):
        ingest_files(paths, root=tmp_path / "api", merge_as="day", join="order")
    for words in (("--join", "time"), ("--merge-as", "x", "--join", "order")):
        assert "--join" in spiketok(root, "ingest", *paths, *words, code=2).stderr


@pytest.mark.long
def test_a_fetch_joins_what_it_brings_or_nothing(tmp_path):
    """Units and behaviour of one recording, two files of a dandiset: one session, of that dandiset."""
    made = [save(tmp_path / "sub-A_ecephys.nwb", (0, 90), with_behaviour=False),
            save(tmp_path / "sub-A_behavior.nwb", (0, 90), with_units=False)]  # fmt: skip
    assets, root = {f"sub-A/{path.name}": path.read_bytes() for path in made}, tmp_path / "root"
    with DandiServer(assets, dandiset="000999") as server:
        words = ("fetch", "000999", "--api-url", server.api_url, "--merge-as", "both")
        server.faults.vanished.add("sub-A/sub-A_behavior.nwb")
        half = spiketok(root, *words, code=1)
        assert "sub-A_ecephys.nwb: not joined as 'both': another file failed" in half.stderr
        assert not list(root.glob("store/*/*"))
        server.faults.vanished.clear()
        spiketok(root, *words)
    session = read_session(Workspace(root).store_path("000999/both"))
    assert len(session.units) == 4 and session.signals
    assert {source.file.rpartition("/")[2] for source in session.source.files} == {path.name for path in made}
    assert "equal" in spiketok(root, "verify", "000999/both").stdout
    for more in (("--stream",), ("--part", "1/2"), ("--download-only",), ("--verify",)):
        assert f"--merge-as both with {more[0]}: " in spiketok(root, *words, *more, code=2).stderr
    assert "--join time: must be one of" in spiketok(root, "fetch", "000999", "--join", "time", code=2).stderr


@pytest.mark.long
def test_fetch_of_python_joins_what_it_brings_or_nothing(tmp_path, monkeypatch):
    from spiketok.pipeline import fetch as fetching

    made = [save(tmp_path / "sub-A_ecephys.nwb", (0, 90), with_behaviour=False),
            save(tmp_path / "sub-A_behavior.nwb", (0, 90), with_units=False)]  # fmt: skip
    assets = {f"sub-A/{path.name}": path.read_bytes() for path in made}
    with DandiServer(assets, dandiset="000999") as server:
        plan = fetching.plan_fetch
        monkeypatch.setattr(
            fetching, "plan_fetch", lambda *of, api_url, **more: plan(*of, api_url=server.api_url, **more)
        )
        server.faults.vanished.add("sub-A/sub-A_behavior.nwb")
        with pytest.raises(PartError, match="not joined as 'both': another file failed"):
            fetch_files("000999", root=tmp_path / "root", merge_as="both")
        assert not list((tmp_path / "root").glob("store/*/*"))
        server.faults.vanished.clear()
        (one,) = fetch_files("000999", root=tmp_path / "root", merge_as="both")
    assert one.id == "000999/both" and len(one.units) == 4
    assert len(one.load().source.files) == 2 and one.load().signals


def test_joined_files_are_of_one_dataset(monkeypatch):
    of = {"a.nwb": "000140", "b.nwb": "000128", "own.nwb": None}
    monkeypatch.setattr("spiketok.pipeline.fetch.dataset_of", lambda path: of[path.name])
    assert joined_under([Path("own.nwb"), Path("a.nwb")], "x") == "000140"
    assert joined_under([Path("own.nwb")], "x") == "local"
    with pytest.raises(UsageError, match="--merge-as x: the files are of 000128 and 000140"):
        joined_under([Path("a.nwb"), Path("b.nwb")], "x")


@pytest.mark.parametrize("how", ["time", "units"])
def test_one_recording_twice_is_not_joined(tmp_path, how):
    """Under another name, written again or at another start: as blocks it would be trained on and tested on."""
    paths = [made(tmp_path / f"{name}.nwb") for name in ("first", "copy")]
    with pytest.raises(DataError, match="first and copy hold the same 2400 spikes: leave one of them out"):
        joined(paths, how)
