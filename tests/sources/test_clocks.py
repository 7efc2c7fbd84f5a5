"""Times that are not seconds of one clock: made by a generator with other numbers each, refused or read as stated.

A recording of five units at about 8 Hz, with trials and a behaviour at 100 Hz; each test moves its times.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from typer.testing import CliRunner

from spiketok.cli import app
from spiketok.errors import SourceError, UsageError
from spiketok.recording.nouns import NS_PER_S, Session, Source
from spiketok.sources.formats.nwb import kernels, read_nwb
from spiketok.sources.formats.nwb.time_units import seconds_per
from tests import nwb_files

RATE_HZ = 8.0


def made(
    path: Path,
    *,
    seed: int = 0,
    lasts_s: float = 60.0,
    starts_s: float = 0.0,
    spikes=lambda times: times,
    stamps=lambda times: times,
    trials=lambda times: times,
    rate_hz: float | None = None,
    invalid: tuple[float, float] | None = None,
) -> Path:
    """A file whose spikes, stamps of behaviour and trials are moved by the given functions."""
    rng, nwb = np.random.default_rng(seed), nwb_files.new_file()
    for _ in range(5):
        own = np.sort(rng.uniform(0, lasts_s, int(RATE_HZ * lasts_s))) + starts_s
        nwb.add_unit(spike_times=spikes(own))
    for start in np.arange(0.5, lasts_s - 3, 3.0):
        first, last = trials(np.array([start, start + 2]) + starts_s)
        nwb.add_trial(start_time=first, stop_time=last)
    if invalid is not None:
        nwb.add_invalid_time_interval(start_time=invalid[0], stop_time=invalid[1])
    time_s = stamps(np.arange(0, lasts_s, 0.01) + starts_s)
    value = np.stack([np.sin(time_s), np.cos(time_s)], axis=1)
    timing = {"timestamps": time_s} if rate_hz is None else {"rate": rate_hz, "starting_time": starts_s}
    module = nwb.create_processing_module("behavior", "behaviour")
    module.add(TimeSeries(name="hand_vel", data=value, unit="m/s", **timing))
    return nwb_files.save(nwb, path)


def read(path: Path, **options) -> Session:
    return read_nwb(path, "set/one", Source(path.name, "0" * 64, 1), **options)


def again(*blocks_s: float):
    """Times whose clock begins at zero again after each of these lengths."""
    edges = np.concatenate([[0.0], np.cumsum(blocks_s)])
    return lambda times: times - edges[np.searchsorted(edges, times, side="right") - 1]


@pytest.mark.parametrize("starts_s", [20.0, 1000.0, 18_079.0, 1.7e9])
def test_a_recording_begins_where_its_data_do(tmp_path, starts_s):
    session = read(made(tmp_path / "late.nwb", starts_s=starts_s))
    assert session.start_ns == round(starts_s) * NS_PER_S
    assert session.observed.total_ns == pytest.approx(60 * NS_PER_S, rel=0.01)
    assert session.stop_ns - session.start_ns == session.observed.total_ns
    assert ("clock-unix" in {note.id for note in session.notes}) == (starts_s > 1e9)


@pytest.mark.parametrize("blocks_s", [(30,), (20, 25), (10, 20, 5), (3,) * 19])
def test_spikes_that_begin_again_are_refused(tmp_path, blocks_s):
    """One restart, several of different lengths, and times that each trial counts from its own zero."""
    path = made(tmp_path / "restart.nwb", spikes=again(*blocks_s))
    with pytest.raises(SourceError, match=r"spike times of 5 of 5 units begin again \(after .* s comes .* s\)"):
        read(path)


def test_behaviour_that_begins_again_is_refused(tmp_path):
    for name, blocks_s in (("one", (30,)), ("three", (10, 20, 5))):
        path = made(tmp_path / f"{name}.nwb", stamps=again(*blocks_s))
        with pytest.raises(SourceError, match="hand_vel: its time stamps begin again"):
            read(path)


def test_disorder_is_no_restart(tmp_path):
    """Shuffled spikes, a few late ones in front, and a few wrong stamps are mended as ever."""
    order = np.random.default_rng(7)
    shuffled = read(made(tmp_path / "shuffled.nwb", spikes=order.permutation))
    plain = read(made(tmp_path / "plain.nwb"))
    assert [r.id for r in shuffled.repairs] == ["spikes-unsorted"]
    assert shuffled.spikes.time_ns.tolist() == plain.spikes.time_ns.tolist()

    def moved(times):
        return np.concatenate([times[-2:], times[:-2]])

    assert [r.id for r in read(made(tmp_path / "moved.nwb", spikes=moved)).repairs] == ["spikes-unsorted"]

    def wrong(times):
        times[[100, 2000, 3000]] = (50.0, 1.0, 59.0)
        return times

    assert [(r.id, r.count) for r in read(made(tmp_path / "wrong.nwb", stamps=wrong)).repairs] == [("signal-times", 3)]


def test_a_restart_is_found_as_a_slow_reading_finds_it():
    rng = np.random.default_rng(1)
    for _ in range(200):
        blocks = [np.sort(rng.choice(1000, rng.integers(8, 40), replace=False)) for _ in range(rng.integers(1, 5))]
        times = np.concatenate(blocks).astype(np.int64)
        stands = np.repeat(times, rng.integers(1, 3, times.size))  # times that stand twice, and fillers, tell nothing
        stands = np.insert(stands, rng.integers(0, stands.size, 3), (-5000, 10**12, 10**12))
        expected = 0
        for k in range(3, times.size - 2):
            before, after = times[k - 3 : k].tolist(), times[k : k + 3].tolist()
            falls = before[-1] - after[0] >= 20
            rises = sorted(set(before)) == before and sorted(set(after)) == after
            expected += falls and rises and before[0] > after[0] and after[-1] < before[-1]
        assert kernels.begins_again(stands, 20, 3, -100, 2000)[0] == expected


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({"spikes": lambda t: np.round(t * 30_000)}, "spikes=samples:30000"),
        ({"spikes": lambda t: np.round(t * 24_414.0625)}, "spikes=samples:24414.0625"),
        ({"spikes": lambda t: t * 1e3, "lasts_s": 600.0}, "spikes=ms"),
        ({"stamps": lambda t: t * 1e3}, "hand_vel=ms"),
        ({"stamps": lambda t: t * 1e6}, "processing/behavior/hand_vel=us"),
        ({"rate_hz": 0.01}, "hand_vel=ms"),
        ({"trials": lambda t: t * 1e3, "lasts_s": 600.0}, "trials=ms"),
    ],
)
def test_what_is_no_seconds_is_refused_until_its_unit_is_stated(tmp_path, options, unit):
    path = made(tmp_path / "other.nwb", **options)
    with pytest.raises(SourceError, match=r"these are not seconds: say what they are with --time-unit \w+=UNIT"):
        read(path)
    if "rate_hz" in options:
        return
    what, _, word = unit.partition("=")
    stated, plain = (
        read(path, time_unit={what: word}),
        read(made(tmp_path / "plain.nwb", lasts_s=options.get("lasts_s", 60.0))),
    )
    half_sample_ns = 0.5 / 24_000 * NS_PER_S
    assert np.abs(stated.spikes.time_ns - plain.spikes.time_ns).max() <= half_sample_ns
    assert stated.signals["hand_vel"].time_ns == pytest.approx(plain.signals["hand_vel"].time_ns, abs=10)
    assert stated.trials.stop_ns == pytest.approx(plain.trials.stop_ns, abs=10)


def test_seconds_that_look_odd_are_read_where_the_user_says_so(tmp_path):
    path = made(tmp_path / "slow.nwb", spikes=lambda t: np.round(t * 3000))
    assert read(path, time_unit={"": "s"}).spikes.time_ns[-1] > 170_000 * NS_PER_S
    with pytest.raises(SourceError, match="a time unit is stated of spike, which it does not have"):
        read(made(tmp_path / "plain.nwb"), time_unit={"spike": "ms"})
    for wrong in ("minutes", "samples", "samples:0", "samples:-1", "samples:inf", ""):
        with pytest.raises(UsageError, match="use s, ms, us, ns or samples:HZ"):
            seconds_per(wrong)


def test_the_command_takes_a_unit_and_verify_makes_the_session_again(tmp_path):
    path = made(tmp_path / "other.nwb", stamps=lambda t: t * 1e3)

    def spiketok(*words: str):
        return CliRunner().invoke(app, [*words, "--root", str(tmp_path / "root")], catch_exceptions=True)

    done = spiketok("ingest", str(path))
    assert done.exit_code == 1
    assert "these are not seconds" in done.output
    assert spiketok("ingest", str(path), "--time-unit", "hand_vel=ms").exit_code == 0
    assert "equal" in spiketok("verify", "local/other").output
    assert (
        spiketok("fetch", str(path), "--time-unit", "hand_vel=ms").exit_code == 0
    )  # the same options, the same session
    for words in (("hand_vel=min",), ("ms", "--time-unit", "s")):
        assert spiketok("ingest", str(path), "--time-unit", *words).exit_code != 0


def many(times):
    """The spikes of a unit that fires three times as often."""
    return np.sort(np.concatenate([times, times + 0.003, times + 0.007]))


@pytest.mark.parametrize(
    "options",
    [
        {"spikes": lambda t: np.append(again(25.0, 35.0)(t), 1e6)},
        {"spikes": lambda t: np.concatenate([[-1.0, -1.0], again(25.0, 35.0)(t), [9999.0] * 3])},
        {"spikes": lambda t: np.round(again(25.0, 35.0)(many(t)), 2)},
        {"stamps": lambda t: np.append(again(41.0, 19.0)(t)[:-1], 9999.0)},
        {"stamps": lambda t: np.insert(again(41.0, 19.0)(t)[:-2], [50, 900], (1e9, -7.0))},
        {"stamps": lambda t: np.floor(again(41.0, 19.0)(t) * 10) / 10},
    ],
)
def test_neither_fillers_nor_coarse_times_hide_a_restart(tmp_path, options):
    with pytest.raises(SourceError, match="begin again"):
        read(made(tmp_path / "hidden.nwb", **options))


def test_fillers_do_not_undo_the_layout_of_blocks(tmp_path):
    blocks = again(25.0, 35.0)
    path = made(tmp_path / "filled.nwb", spikes=lambda t: np.append(blocks(t), 9999.0), stamps=blocks)
    with pytest.raises(SourceError, match="intervals/trials has 1 block of time, the spikes have 2"):
        read(path, restarts=("blocks",))
    session, plain = read(path, restarts=("blocks", "trials=1")), read(made(tmp_path / "plain.nwb"))
    recorded = np.sort(session.spikes.time_ns)[:-5]
    own = np.sort(plain.spikes.time_ns)
    second = own >= 25 * NS_PER_S
    assert recorded[: int((~second).sum())].tolist() == own[~second].tolist()
    moved = recorded[int((~second).sum()) :] - own[second]
    assert moved.max() - moved.min() <= 1  # one shift for all of the second block
    assert moved.min() >= 30 * NS_PER_S


def test_trials_that_begin_again_are_refused_and_other_orders_are_not(tmp_path):
    def restarted(at_s):
        return lambda t: t - (at_s if t[0] >= at_s else 0)

    for trials in (restarted(30.5), restarted(45.0), lambda t: t - (t[0] // 20) * 20):
        with pytest.raises(SourceError, match=r"intervals/trials: its rows begin again \d times? .* lie over one from"):
            read(made(tmp_path / "again.nwb", trials=trials))
    zero = made(tmp_path / "zero.nwb", trials=lambda t: t - t[0])
    with pytest.raises(SourceError, match=r"all 19 rows begin at 0.0 s: each trial has a zero of its own"):
        read(zero)
    assert len(read(zero, time_unit={"trials": "s"}).trials) == 19
    by_condition = made(tmp_path / "sorted.nwb", trials=lambda t: t + 3 * (t[0] // 3 * 2 % 19 - t[0] // 3))
    assert len(read(by_condition).trials) == 19


def test_some_units_that_begin_again_are_a_finding_of_their_own(tmp_path):
    counter = iter(range(5))
    path = made(tmp_path / "some.nwb", spikes=lambda t: again(20.0, 40.0)(t) if next(counter) < 2 else t)
    session = read(path)
    assert [note.count for note in session.notes if note.id == "spikes-begin-again"] == [2]


@pytest.mark.parametrize(
    ("options", "fact", "unit"),
    [
        ({"spikes": lambda t: many(t) * 1e3}, "0.024 Hz a unit, all trials and behaviours", {"spikes": "ms"}),
        ({"spikes": lambda t: t * 1e3 + 1.7e12}, "beyond 292 years", {"spikes": "ms"}),
        (
            {"stamps": lambda t: np.arange(t.size) * 1.0, "lasts_s": 30.0},
            "in steps of 1 s",
            {"hand_vel": "samples:100"},
        ),
        ({"stamps": lambda t: t * 1e3, "lasts_s": 3.4}, "in steps of 10 s", {"hand_vel": "ms"}),
        ({"trials": lambda t: t * 1e3}, "intervals/trials lasts", {"trials": "ms"}),
    ],
)
def test_less_plain_times_in_no_seconds_are_refused_until_stated(tmp_path, options, fact, unit):
    path = made(tmp_path / "other.nwb", **options)
    with pytest.raises(SourceError, match=rf"{fact}.*these are not seconds: say what they are with --time-unit"):
        read(path)
    assert len(read(path, time_unit=unit).spikes)


def test_columns_of_trials_in_another_unit_are_read_as_stated(tmp_path):
    """Times of their rows follow the unit of their table; what counts from the trial is stated by its own name."""
    seconds, path = made(tmp_path / "s.nwb"), made(tmp_path / "ms.nwb", trials=lambda t: t * 1e3)
    rng = np.random.default_rng(4)
    after_s = np.round(rng.uniform(0.2, 1.5, 19), 3)
    for file, scale in ((seconds, 1.0), (path, 1e3)):
        with h5py.File(file, "r+") as h5:
            start = h5["intervals/trials/start_time"][()]
            for name, value in (("cue_time", start + after_s * scale), ("react", np.rint(after_s * 1e3).astype(int))):
                item = h5["intervals/trials"].create_dataset(name, data=value)
                item.attrs.update({"neurodata_type": "VectorData", "namespace": "hdmf-common", "description": "x"})
                item.attrs["object_id"] = name
            names = [*h5["intervals/trials"].attrs["colnames"], "cue_time", "react"]
            h5["intervals/trials"].attrs["colnames"] = np.array(names, dtype=h5py.string_dtype())
    plain = read(seconds, time_unit={"react": "ms"}).trials.columns
    stated = read(path, time_unit={"trials": "ms", "react": "ms"})
    assert plain["react"] == pytest.approx(after_s)
    assert stated.trials.columns["react"] == pytest.approx(after_s)
    assert stated.trials.columns["cue_time"] == pytest.approx(plain["cue_time"])
    unstated = read(path, time_unit={"trials": "ms"}).trials.columns["react"]
    assert unstated.tolist() == np.rint(after_s * 1e3).tolist()
