"""The nouns and the tools below everything: recording, files, splits, jobs, workspace, errors."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, MissingExtraError, UnknownNameError, UsageError, require
from spiketok.pipeline.jobs import Job, run_jobs
from spiketok.recording.nouns import Intervals, Ragged, Signal, Spikes, UnitTable
from spiketok.recording.splits import SplitRule, check_disjoint, resolve_splits
from spiketok.storage.files import (
    WIP,
    atomic_file,
    atomic_folder,
    canonical_json,
    clean_leftovers,
    fingerprint,
    sha256_arrays,
)
from spiketok.storage.workspace import Workspace, match_sessions

times = st.lists(st.tuples(st.integers(-50, 200), st.integers(0, 40)), max_size=8)


def intervals(pairs) -> Intervals:
    start = np.array([p[0] for p in pairs], np.int64)
    return Intervals(start, start + np.array([p[1] for p in pairs], np.int64))


def ticks(item: Intervals) -> set[int]:
    """The slow twin: every ns that the intervals cover."""
    return {t for a, b in zip(item.start_ns, item.stop_ns, strict=True) for t in range(a, b)}


@given(times, times)
def test_interval_algebra_equals_sets(a, b):
    left, right = intervals(a), intervals(b)
    assert ticks(left.union()) == ticks(left)
    assert ticks(left.intersect(right)) == ticks(left) & ticks(right)
    for result in (left.union(), left.intersect(right)):
        assert (result.start_ns < result.stop_ns).all()
    assert (left.union().start_ns[1:] > left.union().stop_ns[:-1]).all()


@given(st.lists(st.lists(st.integers(-20, 20), max_size=12), max_size=5))
def test_spikes_from_units_are_ordered_with_ties_by_unit(units):
    spikes = Spikes.from_units([np.array(u, np.int64) for u in units])
    expected = sorted((t, k) for k, u in enumerate(units) for t in u)
    assert list(zip(spikes.time_ns.tolist(), spikes.unit.tolist(), strict=True)) == expected


def test_spikes_out_of_order_are_refused():
    with pytest.raises(DataError, match="not in order"):
        Spikes(np.array([2, 1]), np.array([0, 0], np.int32))
    with pytest.raises(DataError, match="not in order"):
        Spikes(np.array([1, 1]), np.array([1, 0], np.int32))
    with pytest.raises(DataError, match="dtype float64"):
        Spikes(np.array([0.5]), np.array([0], np.int32))


def test_arrays_are_frozen_and_checked():
    spikes = Spikes(np.array([1, 2]), np.array([0, 0], np.int32))
    with pytest.raises(ValueError, match="read-only"):
        spikes.time_ns[0] = 5
    with pytest.raises(DataError, match="stops at 1 ns, before its start at 3 ns"):
        Intervals(np.array([3]), np.array([1]))
    with pytest.raises(DataError, match="'a' stands 2 times"):
        UnitTable(np.array(["a", "b", "a"]))
    with pytest.raises(DataError, match="2 rows, expected 1"):
        UnitTable(np.array(["a"]), {"x": np.zeros(2)})
    with pytest.raises(DataError, match="rise from 0 to 3"):
        Ragged(np.zeros(3), np.array([0, 2]))
    with pytest.raises(DataError, match="rise strictly"):
        Signal(np.array([1, 1]), np.zeros((2, 1), np.float32), ("x",), "", np.ones(2, bool))
    with pytest.raises(DataError, match="not finite"):
        Signal(np.array([1, 2]), np.full((2, 1), np.nan, np.float32), ("x",), "", np.ones(2, bool))


# ---- files


def test_atomic_folder_replaces_whole_or_not_at_all(tmp_path):
    target = tmp_path / "x"
    with atomic_folder(target) as wip:
        (wip / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(OSError, match="No space"), atomic_folder(target) as wip:
        (wip / "a").write_text("2")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (target / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def dead_pid() -> str:
    """The id of a process that has ended."""
    code = "import os; print(os.getpid())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    for pid in (dead, "1"):
        (tmp_path / f"{WIP}{pid}-x").mkdir()
    removed = clean_leftovers(tmp_path)
    assert [p.name for p in removed] == [f"{WIP}{dead}-x"]
    assert [p.name for p in tmp_path.iterdir()] == [f"{WIP}1-x"]


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="only /proc tells what has ended and not been waited for"
)
def test_who_has_ended_is_dead_though_nobody_has_waited_for_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    (tmp_path / f"{WIP}{process.pid}-x").mkdir()
    assert len(clean_leftovers(tmp_path)) == 1
    process.wait()


def test_a_folder_that_was_moved_aside_comes_back(tmp_path):
    """Killed between the two renames: the old one is whole and its place is empty."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout
    old, new = (tmp_path / f"{WIP}{dead}-{name}" for name in ("old-x", "x"))
    old.mkdir()
    (old / "a").write_text("1")
    new.mkdir()
    clean_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x" / "a").read_text() == "1"


def test_atomic_file_leaves_the_old_one_on_error(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(KeyError), atomic_file(target) as path:
        path.write_text("new")
        raise KeyError
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_fingerprints_do_not_depend_on_order_and_refuse_nan():
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": [2.5, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
    one = sha256_arrays({"x": np.zeros(4, np.int32)})
    assert one != sha256_arrays({"x": np.zeros(2, np.int64)})
    assert one != sha256_arrays({"x": np.zeros((2, 2), np.int32)})


# ---- splits


@given(times, st.sampled_from([(0.7, 0.1, 0.2), (0.8, 0.0, 0.2), (0.5, 0.5, 0.0), (1.0, 0.0, 0.0)]))
def test_blocks_divide_the_domain_exactly_and_in_order(pairs, shares):
    domain = intervals(pairs)
    if len(domain.union()) == 0:
        return
    splits = resolve_splits(Intervals.empty(), domain, SplitRule("block", *shares))
    covered = [ticks(splits[name]) for name in ("train", "valid", "test")]
    assert set().union(*covered) == ticks(domain)
    assert sum(map(len, covered)) == len(ticks(domain))
    filled = [c for c in covered if c]
    assert all(max(a) < min(b) for a, b in itertools.pairwise(filled))
    total = len(ticks(domain))
    for part, share in zip(covered, shares, strict=True):
        assert abs(len(part) - share * total) <= 1


def test_margins_separate_blocks():
    domain = intervals([(0, 1_000_000_000)])
    splits = resolve_splits(Intervals.empty(), domain, SplitRule("block", 0.5, 0.0, 0.5, margin_ms=10))
    assert splits["train"].stop_ns[0] == 490_000_000
    assert splits["test"].start_ns[0] == 510_000_000
    with pytest.raises(DataError, match="no time left"):
        resolve_splits(Intervals.empty(), intervals([(0, 100)]), SplitRule("block", 0.5, 0.0, 0.5, margin_ms=1))


def test_stored_splits_come_first_where_they_serve():
    stored = Intervals(np.array([0, 10, 20]), np.array([10, 20, 30]), {"name": np.array(["train", "valid", "test"])})
    domain = intervals([(0, 25)])
    splits = resolve_splits(stored, domain, SplitRule())
    assert ticks(splits["test"]) == set(range(20, 25))
    only_test = stored.take(stored.columns["name"] == "test")
    assert len(resolve_splits(only_test, domain, SplitRule())["train"]) == 1
    with pytest.raises(DataError, match="no train and test split"):
        resolve_splits(only_test, domain, SplitRule("stored"))


def test_overlapping_splits_and_wrong_rules_are_refused():
    with pytest.raises(DataError, match="'train' and 'test' share"):
        check_disjoint({"train": intervals([(0, 10)]), "test": intervals([(9, 5)])})
    with pytest.raises(UsageError, match="sum to 1"):
        SplitRule("block", 0.5, 0.1, 0.1)
    with pytest.raises(UsageError, match="'blocks' is not one of"):
        SplitRule("blocks")


# ---- jobs


def _square(x: int) -> int:
    if x == 3:
        message = "three"
        raise DataError(message)
    if x == 4:
        os._exit(9)
    return x * x


@pytest.mark.parametrize("workers", [0, 2])
def test_one_failure_does_not_stop_the_others(workers):
    outcomes = {o.name: o for o in run_jobs([Job(str(k), _square, (k,)) for k in (1, 2, 3)], workers)}
    assert (outcomes["1"].result, outcomes["2"].result) == (1, 4)
    assert outcomes["3"].message == "three"


def test_a_killed_worker_is_named():
    outcomes = {o.name: o for o in run_jobs([Job(str(k), _square, (k,)) for k in (1, 4)], 2)}
    assert "worker process was killed" in outcomes["4"].message


# ---- names


def test_unknown_names_offer_the_nearest():
    error = UnknownNameError("scheme", "per_spike", ["binned", "per-spike"])
    assert str(error) == "unknown scheme 'per_spike': did you mean 'per-spike'?"
    assert error.exit_code == 2
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "known: binned, per-spike" in str(UnknownNameError("scheme", "zzz", ["binned", "per-spike"]))


def test_missing_extra_says_the_command():
    with pytest.raises(MissingExtraError, match=r"drawing needs 'no_such_module'.*pip install 'spiketok\[plots\]'"):
        require("no_such_module", "plots", "drawing")


def test_sessions_are_matched_whole_or_by_name(tmp_path):
    known = ["a/one", "a/two", "b/one"]
    assert match_sessions(known, None, "") == known
    assert match_sessions(known, "one", "") == ["a/one", "b/one"]
    assert match_sessions(known, "b/*, two", "") == ["a/two", "b/one"]
    with pytest.raises(UnknownNameError, match="unknown session 'thre' in store"):
        match_sessions(known, "thre", "store")
    with pytest.raises(DataError, match="no session in"):
        Workspace(tmp_path).select(None)
