"""Blocks of a clock that began again: laid out with all that carries it, or refused by name; made by a generator.

What is expected follows from the recording before its clock was broken: within a block all times moved by one amount,
the same for spikes, stamps, events, stimuli, tables and the times in their columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.image import ImageSeries
from pynwb.misc import AnnotationSeries
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.errors import SourceError, UsageError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.sources.formats.nwb.blocks import Restarts
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests import nwb_files
from tests.cli.test_cli import spiketok


@dataclass
class Broken:
    """A recording whose clock begins again, at ``starts_s``, after each of some lengths, which are multiples of 3 s."""

    blocks_s: tuple[float, ...]
    starts_s: float = 0.0
    n_units: int = 5
    seed: int = 0
    whole: tuple[str, ...] = ()  # what keeps the clock that it had
    observed: bool = False
    shown: bool = False
    lost_stops: bool = False
    sparse: tuple[float, ...] | None = None  # one more unit with these times
    scale: float = 1.0
    edges: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.edges = np.concatenate([[0.0], np.cumsum(self.blocks_s)])

    def block(self, times: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(self.edges, times, side="right") - 1, 0, len(self.blocks_s) - 1)

    def again(self, times: np.ndarray, what: str) -> np.ndarray:
        return times if what in self.whole else times - self.edges[self.block(times)] + self.starts_s

    def save(self, path: Path, *, broken: bool = True) -> Path:
        """The file; or, with ``broken=False``, the same recording on one clock."""
        rng, nwb, lasts = np.random.default_rng(self.seed), nwb_files.new_file(), self.edges[-1]
        moved = self.again if broken else lambda times, what: times
        for _ in range(self.n_units):
            times = np.sort(rng.uniform(0, lasts, int(8 * lasts)))
            stated = {}
            if self.observed:
                spans = np.stack([self.edges[:-1] + 0.25, self.edges[1:] - 0.5], axis=1)
                stated = {"obs_intervals": np.stack([moved(s, "obs") for s in spans.T], axis=1)}
            nwb.add_unit(spike_times=self.scale * moved(times, "spikes"), **stated)
        if self.sparse is not None:
            nwb.add_unit(spike_times=np.array(self.sparse))
        for name in ("go_cue_time", "reaction_time", "move_onset"):
            nwb.add_trial_column(name, "seconds")
        starts = np.arange(0.5, lasts - 2, 3.0)
        for row, start in enumerate(starts):
            first, go, onset, last = moved(start + np.array([0, 0.5, 0.7, 2]), "trials")
            if self.lost_stops and (row + 1) * 3 in self.edges:
                last = np.nan
            nwb.add_trial(
                start_time=first,
                stop_time=last,
                go_cue_time=-1.0 if row == 2 else go,
                reaction_time=0.2 + 0.01 * row,
                move_onset=onset,
            )
        module = nwb.create_processing_module("behavior", "behaviour")
        time_s = np.arange(0, lasts, 0.1) + 0.004
        value = np.stack([np.sin(time_s), np.cos(time_s)], axis=1)
        module.add(TimeSeries(name="hand_vel", data=value, unit="m/s", timestamps=moved(time_s, "hand_vel")))
        at = np.arange(1.0, lasts, 1.5)
        module.add(AnnotationSeries(name="lick", data=["x"] * len(at), timestamps=moved(at, "lick")))
        if self.shown:
            frames = rng.integers(0, 255, (len(at), 4, 5), dtype=np.uint8)
            nwb.add_stimulus(ImageSeries(name="shown", data=frames, unit="n", timestamps=moved(at, "shown")))
        return nwb_files.save(nwb, path)


def read(path: Path, *words: str, **options) -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1), restarts=words, **options)


def moves(found_ns: np.ndarray, true_ns: np.ndarray, made: Broken) -> list[int]:
    """By how much each block's times were moved, to the ns; each block's by one amount."""
    assert found_ns.size == true_ns.size
    number, amounts = made.block(true_ns / NS_PER_S), []
    for k in range(len(made.blocks_s)):
        moved = (found_ns - true_ns)[number == k]
        assert np.ptp(moved) <= 2, "rounding of seconds to ns"
        amounts.append(round(int(np.median(moved)) / 10))
    return amounts


CASES = {
    "one place": Broken((30.0, 21.0)),
    "two places": Broken((21.0, 24.0, 30.0), n_units=3, seed=1, lost_stops=True),
    "three places": Broken((9.0, 21.0, 12.0, 18.0), starts_s=1000.0, n_units=8, seed=2, shown=True),
    "stated observed time": Broken((12.0, 33.0), starts_s=2.0, n_units=4, seed=3, observed=True),
    "many places": Broken((6.0,) * 12, n_units=12, seed=4),
}


DEFAULT = ("two places",)  # the others run in make test-long
SOME = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.long) for name in CASES]


@pytest.mark.parametrize("case", SOME)
def test_blocks_are_laid_out_with_all_that_carries_the_clock(tmp_path, case):
    made = CASES[case]
    path = made.save(tmp_path / "broken.nwb")
    with pytest.raises(SourceError, match="begin again .* with --restarts blocks"):
        read(path)
    true, found = read(made.save(tmp_path / "true.nwb", broken=False)), read(path, "blocks")
    n_blocks = len(made.blocks_s)
    amounts = moves(found.spikes.time_ns, true.spikes.time_ns, made)
    assert np.array_equal(found.spikes.unit, true.spikes.unit)
    assert amounts == moves(found.signals["hand_vel"].time_ns, true.signals["hand_vel"].time_ns, made)
    assert np.array_equal(found.signals["hand_vel"].value, true.signals["hand_vel"].value)
    for name in ("trials", "lick"):
        assert amounts == moves(found.intervals[name].start_ns, true.intervals[name].start_ns, made)
    ours, theirs = found.trials.columns, true.trials.columns
    for name in ("go_cue_time", "move_onset"):
        kept = theirs[name] != -1.0
        ns = [np.rint(c[name][kept] * NS_PER_S).astype(np.int64) for c in (ours, theirs)]
        assert amounts == moves(*ns, made)
    assert ours["go_cue_time"][2] == -1.0
    assert np.array_equal(ours["reaction_time"], theirs["reaction_time"])
    if made.shown:
        assert amounts == moves(found.stimuli["shown"].time_ns, true.stimuli["shown"].time_ns, made)
    stops = found.trials.stop_ns - found.trials.start_ns
    assert (stops <= 3 * NS_PER_S).all(), "no trial reaches over a gap"
    # the first block stays where it is, each other begins after the one before it, and nothing was observed between
    assert amounts[0] == round(made.starts_s * NS_PER_S / 10)
    first = np.array(
        [found.spikes.time_ns[made.block(true.spikes.time_ns / NS_PER_S) == k][0] for k in range(n_blocks)]
    )
    last = np.array(
        [found.spikes.time_ns[made.block(true.spikes.time_ns / NS_PER_S) == k][-1] for k in range(n_blocks)]
    )
    assert (first[1:] - last[:-1] >= 30 * NS_PER_S).all()
    assert len(found.observed) == n_blocks
    assert found.observed.total_ns == pytest.approx(true.observed.total_ns, abs=n_blocks * 1.1 * NS_PER_S)
    (told,) = [repair for repair in found.repairs if repair.id == "clock-restarts"]
    assert told.count == n_blocks - 1
    assert verify_session(found, path, restarts=("blocks",)) == []
    assert verify_session(found, path) != []


@pytest.mark.long
def test_a_file_on_one_clock_is_read_as_ever(tmp_path):
    path = CASES["one place"].save(tmp_path / "true.nwb", broken=False)
    assert read(path, "blocks").repairs == read(path).repairs
    assert np.array_equal(read(path, "blocks").spikes.time_ns, read(path).spikes.time_ns)
    assert verify_session(read(path, "blocks"), path, restarts=("blocks",)) == []


@pytest.mark.parametrize(
    ("made", "fact", "words"),
    [
        (Broken((30.0, 30.0), whole=("trials",)), "intervals/trials has 1 block of time, the spikes have 2", None),
        (
            Broken((30.0, 30.0, 9.0), whole=("lick",)),
            "behavior/lick has 1 block of time, the spikes have 3",
            ("lick=2",),
        ),
        pytest.param(
            Broken((30.0, 30.0), sparse=(3.0, 4.0)),
            "unit '5' of 2 spikes has 1 block of time",
            ("spikes=2",),
            marks=pytest.mark.long,
        ),
        pytest.param(
            Broken((12.0, 9.0), observed=True, whole=("obs",)),
            "obs_intervals has 1 block",
            None,
            marks=pytest.mark.long,
        ),
        (Broken((30.0, 30.0), whole=("spikes",)), "are in 2 blocks, the spikes in 1: where its later blocks lie", None),
    ],
)
def test_what_does_not_agree_is_refused_by_name_and_may_be_stated(tmp_path, made, fact, words):
    path = made.save(tmp_path / "broken.nwb")
    with pytest.raises(SourceError, match=fact):
        read(path, "blocks")
    if words is not None:
        session = read(path, "blocks", *words)
        assert verify_session(session, path, restarts=("blocks", *words)) == []
        number = 2 * NS_PER_S * 60
        last = session.spikes.time_ns[session.spikes.unit == 5] if made.sparse else session.intervals["lick"].start_ns
        assert 50 * NS_PER_S < last[0] < number


@pytest.mark.long
def test_another_number_of_blocks_is_refused_with_both_counts(tmp_path):
    made = Broken((30.0, 15.0, 30.0))
    path = made.save(tmp_path / "broken.nwb")
    import h5py

    with h5py.File(path, "r+") as file:
        stamps = file["processing/behavior/hand_vel/timestamps"]
        time_s = np.arange(0, 75, 0.1) + 0.004
        stamps[...] = np.where(time_s < 30, time_s, time_s - 30)
    with pytest.raises(
        SourceError, match="behavior/hand_vel has 2 blocks of time, the spikes have 3: .* write its times"
    ):
        read(path, "blocks")
    with pytest.raises(SourceError, match="hand_vel has 2 blocks"):
        read(path, "blocks", "hand_vel=1")  # what has several blocks lies in no one of them
    with pytest.raises(SourceError, match="a block is stated of hand_val, which it does not have"):
        read(path, "blocks", "hand_val=1")


@pytest.mark.long
def test_units_of_hardly_a_spike_follow_the_behaviour(tmp_path):
    """No unit has the 20 spikes that tell of clocks; a unit that fits no block is refused."""
    made = Broken((30.0, 30.0), n_units=0, sparse=(28.0, 29.0, 2.0, 3.0))
    session = read(made.save(tmp_path / "few.nwb"), "blocks")
    assert verify_session(session, tmp_path / "few.nwb", restarts=("blocks",)) == []
    assert (session.spikes.time_ns // NS_PER_S).tolist() == [28, 29, 62, 63]
    made.sparse = (28.0, 29.0)
    with pytest.raises(SourceError, match="unit '0' of 2 spikes has 1 block of time"):
        read(made.save(tmp_path / "less.nwb"), "blocks")


@pytest.mark.long
def test_counts_and_frames_that_begin_again_are_laid_out_as_spikes_are(tmp_path):
    """Units without a table: counts of 20 ms bins, and two cells that were imaged; the behaviour begins again, too."""
    made, rng = Broken((24.0, 36.0)), np.random.default_rng(8)
    time_s = np.arange(0, 60, 0.02)
    for name, data in (("binned_spikes", rng.poisson(0.2, (time_s.size, 3))), ("neuron_1", rng.random(time_s.size))):
        sessions = []
        for broken in (True, False):
            nwb = nwb_files.new_file()
            module = nwb.create_processing_module("dff" if name == "neuron_1" else "ecephys", "units")
            stamps = made.again(time_s, name) if broken else time_s
            module.add(TimeSeries(name=name, data=data, unit="n", timestamps=stamps))
            if name == "neuron_1":
                module.add(TimeSeries(name="neuron_2", data=data[::-1].copy(), unit="n", timestamps=stamps))
            behaviour = nwb.create_processing_module("behavior", "behaviour")
            behaviour.add(TimeSeries(name="speed", data=np.sin(time_s), unit="m/s", timestamps=stamps))
            path = nwb_files.save(nwb, tmp_path / f"{name}_{broken}.nwb")
            sessions.append(read(path, "blocks"))
            assert verify_session(sessions[-1], path, restarts=("blocks",)) == []
            if broken:
                with pytest.raises(SourceError, match="--restarts blocks"):
                    read(path)
        found, true = sessions
        assert len(found.observed) == 2
        amounts = moves(found.signals["speed"].time_ns, true.signals["speed"].time_ns, made)
        if name == "binned_spikes":
            assert amounts == moves(found.spikes.time_ns, true.spikes.time_ns, made)


def test_words_that_say_nothing_are_refused():
    for words in (("trials=1",), ("blocks", "trials"), ("blocks", "trials=0"), ("blocks", "a=1", "a=2"), ("block",)):
        with pytest.raises(UsageError, match="--restarts"):
            Restarts(words)


@pytest.mark.long
def test_the_commands_lay_blocks_out_and_verify_makes_them_again(tmp_path):
    made = Broken((30.0, 45.0), seed=5, scale=30_000.0)
    path = made.save(tmp_path / "broken.nwb")

    def spiketok(*words: str):
        return CliRunner().invoke(app, [*words, "--root", str(tmp_path / "root")])

    unit = ("--time-unit", "spikes=samples:30000")
    refused = spiketok("ingest", str(path), *unit)
    assert refused.exit_code == 1 and "--restarts blocks" in refused.output
    done = spiketok("ingest", str(path), *unit, "--restarts", "blocks")
    assert done.exit_code == 0, done.output
    assert "the clock began again 1 time: 2 blocks" in done.output
    assert "equal" in spiketok("verify", "local/broken").output
    again = spiketok("fetch", str(path), *unit, "--restarts", "blocks", "--json")
    assert '"state": "already"' in again.output
    session = read_session(Workspace(tmp_path / "root").store_path("local/broken"))
    assert len(session.observed) == 2
    assert "2 stretches" in spiketok("inspect", "local/broken").output
    assert spiketok("ingest", str(path), "--restarts", "blok").exit_code != 0


@pytest.mark.long
def test_inspect_lays_the_blocks_of_a_file_out_as_ingest_does(tmp_path):
    made = CASES["one place"]
    path = made.save(tmp_path / "x.nwb")
    refused = spiketok(tmp_path, "inspect", path, code=1)
    assert "--restarts blocks" in refused.stderr
    told = json.loads(spiketok(tmp_path, "inspect", path, "--restarts", "blocks", "--json").stdout)
    assert "clock-restarts" in json.dumps(told)
    spiketok(tmp_path, "inspect", path, "--restarts", "blocks", "--plot", tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
    spiketok(tmp_path, "ingest", path, "--restarts", "blocks")
    said = spiketok(tmp_path, "inspect", "local/x", "--restarts", "blocks", code=2)
    assert "--restarts is for NWB files" in said.stderr and "is a session: leave it out" in said.stderr
