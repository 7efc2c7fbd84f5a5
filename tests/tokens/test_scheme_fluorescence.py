"""What fluorescence promises besides the laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import NotServedError, UsageError
from spiketok.recording.nouns import Intervals, Session, Signal, Spikes, UnitTable
from spiketok.storage.store import session_info
from spiketok.tokens.schemes import Fluorescence
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from tests.laws import assert_same, of_all_units
from tests.made import MS, SECOND, artefact_files, golden_segments, golden_session, whole
from tests.strategies import SOURCE

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-fluorescence-v2"


def imaged(time_ns, value, valid=None, stop: int = 3 * SECOND, spikes: Spikes | None = None) -> Session:
    """A session of as many units as the values have columns."""
    value = np.asarray(value, np.float32)
    valid = np.ones(len(value), np.bool_) if valid is None else np.array(valid, np.bool_)
    names = tuple(f"roi{n}" for n in range(value.shape[1]))
    signal = Signal(np.asarray(time_ns, np.int64), value, names, "dF/F", valid)
    spikes = Spikes.from_units([np.zeros(0)] * len(names)) if spikes is None else spikes
    units = UnitTable(names)
    whole_time = Intervals([0], [stop])
    return Session("a/b", "", 0, stop, units, spikes, whole_time, SOURCE, signals={"fluorescence": signal})


def golden_imaged() -> Session:
    """The golden session, imaged at about 30 Hz with a frame that is not valid and a gap: never change it."""
    time_ns = np.array([-5, 28, 61, 95, 161, 194]) * MS + np.array([0, 17, -3, 1, 0, 250])
    value = (np.arange(18, dtype=np.float32).reshape(6, 3) - 4) / 8
    valid = np.array([True, True, False, True, True, True])
    value[2, 1] = np.nan
    signal = Signal(time_ns, value, ("a", "b", "c"), "dF/F", valid)
    return replace(golden_session(), signals={"fluorescence": signal})


def test_tokens_by_hand():
    """Frame by frame, unit by unit; an invalid frame and a dropped unit leave nothing; times are the frames' own."""
    frames = np.array([500, 1000, 1250, 1500, 1600, 2000]) * MS
    session = imaged(frames, np.arange(18).reshape(6, 3) / 4, [1, 1, 1, 0, 1, 1])
    scheme = Fluorescence()
    columns = scheme.bake(session, whole(session)).columns
    window = Windows(np.array([0, 0, 0]), np.array([SECOND, 0, 1]), SECOND)
    keep = np.array([[True, True, True], [False, False, False], [True, False, True]])
    tokens = scheme.cut(columns, window, keep, np.array([7, 8, 9], np.int32))
    assert tokens.offset.tolist() == [0, 9, 9, 13]
    assert tokens.columns["value"].tolist() == [0.75, 1, 1.25, 1.5, 1.75, 2, 3, 3.25, 3.5, 0, 0.5, 0.75, 1.25]
    assert tokens.columns["unit"].tolist() == [7, 8, 9] * 3 + [7, 9] * 2
    own = [0] * 3 + [250 * MS] * 3 + [600 * MS] * 3 + [500 * MS - 1] * 2 + [SECOND - 1] * 2
    assert tokens.columns["time"].tolist() == [np.float32(ns * 1e-9) for ns in own]
    assert not scheme.empty(tokens).any()


def test_spikes_are_named_as_lost_once_for_each_segment():
    spikes = Spikes.from_units([np.array([100, 500, 900]) * MS, np.array([2500]) * MS])
    session = imaged([5, 10], np.ones((2, 2)), spikes=spikes)
    baked = Fluorescence().bake(session, Intervals([0, 400 * MS], [600 * MS, SECOND]))
    assert baked.lost == {"outside_segments": 1, "not_in_fluorescence": 4}
    assert Fluorescence().spikes_held(baked.columns) == 0


def test_a_session_without_it_is_not_served():
    session = imaged([5], np.ones((1, 2)))
    segments = whole(session)
    other = replace(session, signals={"vel": session.signals["fluorescence"], "eye": session.signals["fluorescence"]})
    wide = replace(session, units=UnitTable(["a", "b", "c"]))
    for served, said in [
        (other, "a/b has no signal 'fluorescence' with dF/F of its units: it has eye, vel"),
        (replace(session, signals={}), "a/b has no signal 'fluorescence' with dF/F of its units: it has none"),
        (wide, "a/b has no dF/F of each unit: signal 'fluorescence' has 2 components for 3 units"),
    ]:
        for call in (
            lambda s: Fluorescence().plan(session_info(s), segments),
            lambda s: Fluorescence().bake(s, segments),
        ):
            with pytest.raises(NotServedError) as caught:
                call(served)
            assert str(caught.value) == said
    assert len(Fluorescence("vel").bake(other, segments).columns["value"]) == 1


def test_a_signal_that_is_too_fast_for_frames_is_not_served():
    session = imaged(np.arange(1000) * MS, np.ones((1000, 1)))
    with pytest.raises(NotServedError, match="has 1000 frames between 0 and 3000000000 ns, over 100 a second"):
        Fluorescence().bake(session, whole(session))


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(UsageError, match="signal is .*, must be the name of a signal"):
        Fluorescence(name)


@given(
    st.sampled_from([10**9, 10**10, 4 * 10**11]),
    st.lists(st.one_of(st.integers(0, 40), st.integers(0, 60_000)), min_size=1, max_size=40, unique=True),
    st.booleans(),
)
def test_law_4_where_float32_cannot_tell_frames_apart(length, back, two):
    """Many frames within one float32 step, up to the last nanosecond of windows of up to 400 s."""
    time_ns = np.sort(length - 1 - np.array(back))
    value = np.random.default_rng(len(back)).normal(size=(len(back), 2))
    session = imaged(time_ns, value, stop=length)
    window, scheme = Windows(np.array([0]), np.array([0]), length), Fluorescence()
    keep = np.array([[True, two]])
    tokens = scheme.cut(scheme.bake(session, whole(session)).columns, window, keep)
    (known,) = scheme.detokenize(tokens, window)
    again = replace(session, signals={"fluorescence": of_all_units(known, 2)})
    assert_same(scheme.cut(scheme.bake(again, whole(session)).columns, window, keep).columns, tokens.columns)
    assert np.abs(known.time_ns - time_ns).max() <= np.spacing(np.float32(length * 1e-9)) * 1e9 + 1


# ---- golden: read forever -------------------------------------------------------------------------------------------


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    window = Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 90 * MS)
    tokens = reader.scheme.cut(reader.columns, window)
    assert tokens.offset.tolist() == [0, 6, 9]
    assert tokens.columns["value"].tolist() == [-0.125, 0, 0.125, 0.625, 0.75, 0.875, 0.625, 0.75, 0.875]
    assert tokens.columns["unit"].tolist() == [0, 1, 2] * 3
    own = [18_000_017] * 3 + [85_000_001] * 3 + [45_000_001] * 3
    assert tokens.columns["time"].tolist() == [np.float32(ns * 1e-9) for ns in own]
    assert reader.columns["valid"].tolist() == [1, 1, 0, 1, 0, 1]
    assert reader.lost == {"not_in_fluorescence": 9, "outside_segments": 1}


def test_golden_bytes_are_written_today(tmp_path):
    rule = {"segments_rule": "trials:start,0,100", "store_digest": "0" * 64, "context": tmp_path / "context-imaged-v1"}
    write_shard(tmp_path / "shard", Fluorescence(), golden_imaged(), golden_segments(), **rule)
    assert artefact_files(tmp_path / "shard") == artefact_files(GOLDEN)
