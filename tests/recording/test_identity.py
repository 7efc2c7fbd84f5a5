"""Sessions of one recording: by their files, by what NWB calls them, and by their time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spiketok.recording.identity import Identity, Recordings, common_ns, shared
from spiketok.recording.nouns import NS_PER_S, Intervals

ONE = Identity("a/one", ("1" * 64,), "uuid-1", "s1", "M", "2024-03-01T10:00:00+00:00", 0, 60 * NS_PER_S, 900)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "identifier 'uuid-1' and session id 's1'"),
        ({"n_spikes": 3, "stop_ns": 5}, "identifier 'uuid-1' and session id 's1'"),  # another probe, or a part
        ({"files": ("1" * 64,), "identifier": "", "subject": "N"}, "the file with sha256 111111111111"),
        ({"files": ("7" * 64, "1" * 64), "identifier": "other"}, "the file with sha256"),
        ({"source_session": "s2"}, ""),
        ({"source_session": ""}, ""),
        ({"subject": "N"}, ""),
        ({"identifier": "uuid-2"}, ""),
    ],
)
def test_what_makes_two_sessions_one_recording(changes, said):
    other = replace(ONE, **{"session": "b/two", "files": ("2" * 64,), **changes})
    for first, second in ((ONE, other), (other, ONE)):
        found = shared(first, second)
        assert (said in found.words) if said else found is None


@pytest.mark.parametrize(
    ("changes", "same"), [({}, True), ({"n_spikes": 901}, False), ({"stop_ns": 60 * NS_PER_S + 1}, False)]
)
def test_an_identifier_alone_is_believed_where_size_and_extent_agree(changes, same):
    one = replace(ONE, identifier="id", source_session="")
    other = replace(one, session="b/two", files=("2" * 64,), **changes)
    assert (shared(one, other) is not None) is same


def test_nothing_stated_is_nothing_shared():
    one = Identity("a/one", ("",))
    assert shared(one, Identity("b/two", ("",))) is None


@pytest.mark.parametrize(
    ("zero", "common_s"),
    [
        ("2024-03-01T10:00:00+00:00", 30),  # one clock: 30..60 of both
        ("2024-03-01T12:00:00+02:00", 30),  # the same moment, said elsewhere
        ("2024-03-01T10:00:10+00:00", 20),  # its 30..90 are 40..100 of the first
        ("2024-03-01T09:59:30+00:00", 60),  # 0..60 of the first
        ("2024-03-02T10:00:00+00:00", 0),
        ("", 30),  # nobody says: as they stand
        ("yesterday", 30),
    ],
)
def test_common_time_is_on_the_clock_of_the_wall(zero, common_s):
    other = replace(ONE, session="b/two", zero=zero)
    mine, theirs = (Intervals(np.array([a]) * NS_PER_S, np.array([b]) * NS_PER_S) for a, b in ((0, 60), (30, 90)))
    assert common_ns(ONE, other, mine, theirs) == common_s * NS_PER_S


def test_the_two_files_of_a_benchmark_share_no_time():
    train = Intervals(np.arange(0, 100, 10) * NS_PER_S, np.arange(4, 104, 10) * NS_PER_S)
    test = Intervals(np.arange(5, 105, 10) * NS_PER_S, np.arange(9, 109, 10) * NS_PER_S)
    assert common_ns(ONE, replace(ONE, session="b/two"), train, test) == 0


def test_recordings_find_what_comparing_all_pairs_finds():
    rng = np.random.default_rng(3)
    drawn = [
        Identity(
            f"d/{k}",
            tuple(str(f) for f in rng.integers(0, 30, int(rng.integers(1, 3)))),
            ["", "a", "b", "c"][rng.integers(4)],
            ["", "s", "t"][rng.integers(3)],
            ["", "M"][rng.integers(2)],
            n_spikes=int(rng.integers(2)),
        )
        for k in range(40)
    ]
    known = Recordings.of(drawn)
    for again in drawn[::3]:  # one that is ingested anew from another file
        moved = replace(again, files=(f"new {again.session}",))
        known.put(moved)
        drawn[drawn.index(again)] = moved
    for one in drawn:
        slow = sorted(o.session for o in drawn if o.session != one.session and shared(one, o) is not None)
        assert sorted(other.session for other, _ in known.like(one)) == slow
