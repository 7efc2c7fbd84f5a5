"""Units that stand outside of a units table: counts of bins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynwb import TimeSeries

from spiketok.errors import SourceError
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import Session, Source
from spiketok.sources.formats.nwb import read_nwb, sources
from tests.nwb_files import edited, new_file, replace_data, save


def write(path: Path, count: np.ndarray, time_s: np.ndarray, name: str = "binned_spikes", n_units: int = 0) -> Path:
    nwb = new_file()
    for _ in range(n_units):
        nwb.add_unit(spike_times=np.array([1.0]))
    nwb.add_acquisition(TimeSeries(name=name, data=count, unit="int", timestamps=time_s))
    return save(nwb, path)


def read(path: Path) -> Session:
    return read_nwb(path, "set/session", Source(path.name, "0" * 64, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("counts")


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["u1", "i4", "f4", "f8"]),
    lengths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
)
@settings(max_examples=8)
def test_counts_become_spikes_and_bins_observed_time(folder, seed, dtype, lengths):
    """Every count is there at its stamp, and observed are the stretches of bins and nothing between them."""
    rng = np.random.default_rng(seed)
    lengths = [*lengths, 50]  # most steps are one bin
    first = np.cumsum([0, *(n + 500 for n in lengths[:-1])])
    tick = np.concatenate([f + np.arange(n) for f, n in zip(first, lengths, strict=True)])
    count = rng.poisson(0.7, (tick.size, 5)).astype(dtype)
    count[0, 3] = 200
    session = read(write(folder / "counts.nwb", count, tick * 0.02))
    at = np.searchsorted(tick * 20_000_000, session.spikes.time_ns)
    back = np.zeros(count.shape, np.int64)
    np.add.at(back, (at, session.spikes.unit), 1)
    assert np.array_equal(session.spikes.time_ns, tick[at] * 20_000_000)
    assert np.array_equal(back, count)
    assert session.observed.start_ns.tolist() == (first * 20_000_000).tolist()
    assert session.observed.stop_ns.tolist() == [(f + n) * 20_000_000 for f, n in zip(first, lengths, strict=True)]
    assert (session.observed_source, session.clock_hz) == ("bins", 50.0)
    notes = {n.id: n.count for n in session.notes}
    assert notes["spikes-binned"] == count.sum()
    assert "binned_spikes" not in session.signals
    assert verify_session(session, folder / "counts.nwb") == []


def test_counts_of_samples_keep_their_clock(folder, monkeypatch):
    """30 kHz, as FALCON B1: read in blocks, and the clock found from the stamps."""
    monkeypatch.setattr(sources, "BLOCK_BYTES", 10_000)
    count = (np.random.default_rng(1).random((9000, 20)) < 0.002).astype(float)
    session = read(write(folder / "tx.nwb", count, np.arange(9000) / 30000, "tx"))
    row, unit = np.nonzero(count)
    assert np.array_equal(session.spikes.time_ns, np.rint(row / 30000 * 1e9).astype(np.int64))
    assert np.array_equal(session.spikes.unit, unit)
    assert session.clock_hz == 30_000
    assert verify_session(session, folder / "tx.nwb") == []


def test_a_units_table_goes_before_counts(folder):
    path = write(folder / "both.nwb", np.ones((10, 4)), np.arange(10) * 0.02, n_units=2)
    session = read(path)
    assert (len(session.units), len(session.spikes)) == (2, 2)
    assert session.signals["binned_spikes"].value.shape == (10, 4)
    assert verify_session(session, path) == []


def _count(value: float) -> np.ndarray:
    count = np.ones((10, 4))
    count[7, 2] = value
    return count


STAMPS = np.arange(10) * 0.02
BACK = np.array([0, 1, 2, 3, 2, 5, 6, 7, 8, 9]) * 0.02
REFUSED = {
    "negative": (_count(-1), STAMPS, r"holds -1.0 in bin 7 of channel 2"),
    "a fraction": (_count(0.5), STAMPS, r"holds 0.5 in bin 7 of channel 2"),
    "NaN": (_count(np.nan), STAMPS, r"holds nan in bin 7 of channel 2"),
    "endless": (_count(np.inf), STAMPS, r"holds inf in bin 7 of channel 2"),
    "no spike": (np.zeros((10, 4)), STAMPS, r"4 channels and not one spike"),
    "one dimension": (np.ones(10), STAMPS, r"of shape \(10,\), expected counts"),
    "words": (np.full((10, 4), "a"), STAMPS, r"expected counts"),
    "too few stamps": (_count(1), STAMPS[:9], r"10 bins and 9 time stamps"),
    "stamps that step back": (_count(1), BACK, r"the time stamp 0.04 s in row 4, after 0.06 s"),
    "a stamp that is NaN": (_count(1), np.where(STAMPS > 0.1, np.nan, STAMPS), r"the time stamp nan in row 6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_is_no_count(folder, name):
    count, time_s, message = REFUSED[name]
    good = write(folder / "good.nwb", count, np.arange(len(count)) * 0.02)
    with edited(good, folder / "refused.nwb") as file:  # pynwb itself writes no odd stamps
        replace_data(file, "acquisition/binned_spikes/timestamps", time_s)
    with pytest.raises(SourceError, match=message):
        read(folder / "refused.nwb")


def test_refuses_to_choose_between_two_series_of_counts(folder):
    nwb = new_file()
    for name in ("binned_spikes", "tx"):
        nwb.add_acquisition(TimeSeries(name=name, data=np.ones((10, 4)), unit="int", timestamps=STAMPS))
    with pytest.raises(SourceError, match=r"2 series of counts \(acquisition/binned_spikes, acquisition/tx\)"):
        read(save(nwb, folder / "two.nwb"))


@pytest.mark.parametrize("move", [lambda t: t + 20_000_000, lambda t: t // 2])
def test_verify_sees_counts_that_moved(folder, move):
    from dataclasses import replace

    path = write(folder / "moved.nwb", np.ones((10, 4)), STAMPS)
    session = read(path)
    spikes = type(session.spikes)(move(session.spikes.time_ns), session.spikes.unit)
    assert any("spike times in ns" in d for d in verify_session(replace(session, spikes=spikes, stop_ns=10**9), path))
