"""What frames promises besides the laws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import DataError, NotServedError, UsageError
from spiketok.recording.nouns import Session, Stimulus
from spiketok.storage.store import session_info
from spiketok.tokens.schemes import Frames
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.schemes.frames import pooled
from spiketok.tokens.shards import ShardReader, write_shard
from tests.made import MS, artefact_files, golden_segments, golden_session, whole

GOLDEN = Path(__file__).parents[1] / "golden" / "shard-frames-v2"


def golden_shown() -> Session:
    """The golden session, which sees a picture before it begins, nothing, and another picture: never change it."""
    frames = np.array([[[0, 2, 4, 6], [8, 10, 12, 14]], [[255, 255, 0, 0], [255, 254, 0, 1]]], np.uint8)
    at = np.array([-40, 30, 70, 90]) * MS
    movie = Stimulus(frames, at, at + np.array([60, 40, 20, 100]) * MS, np.array([0, 1, -1, 0], np.int32))
    return replace(golden_session(), stimuli={"movie": movie})


def test_tokens_by_hand():
    session = golden_shown()
    scheme = Frames(rate_hz=50.0, height=1, width=2, history_ms=20.0)
    columns = scheme.bake(session, whole(session)).columns
    tokens = scheme.cut(columns, Windows(np.array([0]), np.array([10 * MS]), 100 * MS))
    assert tokens.offset.tolist() == [0, 6]
    # middles of the bins from -10 ms: 0 20 40 60 80 100; half of 5 and 9 pixels goes up
    assert tokens.columns["shown"].tolist() == [1, 0, 1, 1, 0, 1]
    assert tokens.columns["pixels"].tolist() == [[[5, 9]], [[0, 0]], [[255, 0]], [[255, 0]], [[0, 0]], [[5, 9]]]
    assert scheme.empty(tokens).tolist() == [False, True, False, False, True, False]
    assert scheme.lookback_ns == 20 * MS


def test_pictures_are_pooled_by_area_and_numbers_become_greys():
    three = np.array([[[0, 90, 255]]], np.uint8)
    assert pooled(three, 1, 2).tolist() == [[[30, 200]]]  # (0 + 45) / 1.5; (45 + 255) / 1.5
    assert pooled(three, 1, 3).tolist() == three.tolist()
    assert pooled(three, 2, 6).tolist() == [[[0, 0, 90, 90, 255, 255]] * 2]
    numbers = np.array([[[-2.0, 0.0]], [[2.0, 1.0]]], np.float32)
    assert pooled(numbers, 1, 2).tolist() == [[[0, 128]], [[255, 191]]]
    assert pooled(np.full((1, 2, 2), 7.5, np.float32), 1, 1).tolist() == [[[0]]]
    rng = np.random.default_rng(0)
    many = rng.integers(0, 256, (50, 64, 96)).astype(np.uint8)
    wanted = many.reshape(50, 32, 2, 32, 3).mean(axis=(2, 4))
    assert np.abs(pooled(many, 32, 32) - wanted).max() <= 0.5


def test_each_picture_is_held_once():
    stimulus = Stimulus(
        np.zeros((2, 4, 4), np.uint8), np.arange(400) * 10 * MS, np.arange(1, 401) * 10 * MS, np.arange(400) % 2
    )
    session = replace(golden_session(), stop_ns=5000 * MS, stimuli={"movie": stimulus})
    columns = Frames().bake(session, whole(session)).columns
    assert columns["pixels"].shape == (2, 32, 32)
    assert len(columns["frame"]) == 101


def test_a_session_without_the_stimulus_is_not_served():
    session = golden_shown()
    two = replace(session, stimuli={"b": session.stimuli["movie"], "a": session.stimuli["movie"]})
    for served, scheme, said in [
        (replace(session, stimuli={}), Frames(), "golden/one has 0 stimuli (none), scheme frames reads one"),
        (two, Frames(), "has 2 stimuli (a, b), scheme frames reads one: name one, --set frames.stimulus=NAME"),
        (two, Frames("movie"), "golden/one has no stimulus 'movie': it has a, b"),
    ]:
        for call in (
            lambda scheme, s: scheme.plan(session_info(s), whole(s)),
            lambda scheme, s: scheme.bake(s, whole(s)),
        ):
            with pytest.raises(NotServedError) as caught:
                call(scheme, served)
            assert said in str(caught.value)
    assert len(Frames("a").bake(two, whole(two)).columns["pixels"]) == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stimulus": None}, "stimulus is None"),
        ({"rate_hz": 0}, "rate_hz is 0.0, must be above 0"),
        ({"rate_hz": float("nan")}, "rate_hz is nan, must be a number"),
        ({"rate_hz": 1001}, "at most 1000"),
        ({"height": 0}, "height is 0, must be a whole number from 1 to 1024"),
        ({"width": 3.0}, "width is 3.0, must be a whole number"),
        ({"history_ms": 70}, "history_ms is 70.0, must be a multiple of the bin of 50 ms"),
        ({"history_ms": -50}, "history_ms is -50.0"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Frames(**fields)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"frames": np.zeros((2, 0, 3), np.uint8)}, "at least one pixel"),
        ({"frames": np.full((2, 1, 1), np.nan, np.float32)}, "not finite"),
        ({"frames": np.zeros((2, 3), np.uint8)}, "has 2 dimensions, expected 3"),
        ({"frame": np.array([0, 2], np.int32)}, "goes from 0 to 2, there are 2 frames"),
        ({"frame": np.array([-2, 0], np.int32)}, "goes from -2"),
        ({"frame": np.zeros(1, np.int32)}, "2 times, 2 stops and 1 frames"),
        ({"stop_ns": np.array([11, 20])}, "presentation 0 over 0..11 ns"),
        ({"stop_ns": np.array([10, 9])}, "presentation 1 over 10..9 ns"),
    ],
)
def test_a_stimulus_that_cannot_be_is_refused(changed, said):
    good = {"frames": np.zeros((2, 1, 1), np.uint8), "time_ns": [0, 10], "stop_ns": [10, 20], "frame": np.zeros(2, int)}
    assert len(Stimulus(**good)) == 2
    with pytest.raises(DataError, match=said):
        Stimulus(**(good | changed))


# ---- golden: read forever -------------------------------------------------------------------------------------------


def test_golden_shard_reads_forever():
    reader = ShardReader(GOLDEN)
    assert reader.verify() == []
    tokens = reader.scheme.cut(reader.columns, Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 80 * MS))
    assert tokens.offset.tolist() == [0, 5, 10]
    assert tokens.columns["shown"].tolist() == [1, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    first, last = [[5, 9], [0, 0], [255, 0], [255, 0], [0, 0]], [[255, 0], [255, 0], [0, 0], [5, 9], [5, 9]]
    assert tokens.columns["pixels"][:, 0].tolist() == first + last
    assert reader.lost == {"not_in_frames": 9, "outside_segments": 1}


def test_golden_bytes_are_written_today(tmp_path):
    """Its context is that of the golden session: no context holds a frame."""
    rule = {"segments_rule": "trials:start,0,100", "store_digest": "0" * 64, "context": tmp_path / "context-v1"}
    scheme = Frames(rate_hz=50.0, height=1, width=2, history_ms=20.0)
    write_shard(tmp_path / "shard", scheme, golden_shown(), golden_segments(), **rule)
    assert artefact_files(tmp_path / "shard") == artefact_files(GOLDEN)
    assert artefact_files(tmp_path / "context-v1") == artefact_files(GOLDEN.parent / "context-v1")
