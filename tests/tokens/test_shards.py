"""Shards: what goes in comes out, exactly; the same bytes each time; what is damaged is refused in one line."""

from __future__ import annotations

import gc
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from spiketok.errors import ArtefactError, UnknownNameError, UsageError
from spiketok.recording.nouns import Intervals, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.files import WIP, content_digest
from spiketok.storage.workspace import MANIFEST
from spiketok.tokens import columns
from spiketok.tokens.columns import ALIGNMENT, COLUMNS
from spiketok.tokens.context import write_context
from spiketok.tokens.schemes import Binned, PerSpike
from spiketok.tokens.schemes.base import Windows, grid_rows
from spiketok.tokens.schemes.behaviour import signal_on_bins
from spiketok.tokens.shards import ShardReader, shard_fingerprint, write_shard
from tests import reference
from tests.conftest import real_data
from tests.made import MS, artefact_files, golden_segments, golden_session, random_session, shard, whole
from tests.strategies import all_segments, sessions

GOLDEN = Path(__file__).parents[1] / "golden"
PLAIN = [Binned(), PerSpike()]


def edit_manifest(path: Path, **changes: object) -> None:
    """Change the manifest and let it match its own digest again."""
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    manifest["digest"] = content_digest(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


# ---- what goes in comes out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
def test_round_trip(tmp_path, scheme):
    session, segments = golden_session(), golden_segments()
    reader = shard(tmp_path, session, scheme, segments)
    assert reader.scheme == scheme
    assert (reader.info.id, reader.info.subject, reader.info.n_spikes) == (session.id, session.subject, 9)
    assert (reader.info.start_ns, reader.info.stop_ns) == (session.start_ns, session.stop_ns)
    assert reader.info.unit_id.tolist() == ["a", "b", "c"]
    assert reader.info.signals == {"hand/vel": (("x", "y"), "mm/s"), "eye": (("p",), "")}
    for found, wanted in [
        (reader.segments, segments),
        (reader.observed, session.observed),
        (reader.trials, session.trials),
        (reader.splits, session.splits),
    ]:
        np.testing.assert_array_equal(found.start_ns, wanted.start_ns)
        np.testing.assert_array_equal(found.stop_ns, wanted.stop_ns)
    assert reader.splits.columns["name"].tolist() == ["train", "test"]
    for name, wanted in session.signals.items():
        found = reader.signal(name)
        assert (found.components, found.measure, found.rate_hz) == (wanted.components, wanted.measure, wanted.rate_hz)
        np.testing.assert_array_equal(found.time_ns, wanted.time_ns)
        np.testing.assert_array_equal(found.value, wanted.value)  # NaN where not valid, as it came
        np.testing.assert_array_equal(found.valid, wanted.valid)
    baked = scheme.bake(session, segments)
    assert reader.lost == baked.lost
    for name, wanted in baked.columns.items():
        assert reader.columns[name].dtype == wanted.dtype
        np.testing.assert_array_equal(reader.columns[name], wanted)
    assert reader.verify() == []


def test_columns_are_mapped_and_read_only(tmp_path):
    reader = shard(tmp_path, random_session("a", 1), PerSpike())
    column = reader.columns["time_ns"]
    assert type(column) is np.ndarray
    assert column.ctypes.data % ALIGNMENT == 0
    assert reader.columns["time_ns"] is column
    assert np.shares_memory(column.base, reader.columns["unit"].base)  # one map for all
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
@settings(max_examples=15)
@given(session=sessions(with_signal=True), segments=all_segments())
def test_any_session_makes_a_shard_that_reads_back(tmp_path_factory, scheme, session, segments):
    """Zero spikes, no segments, empty columns: everything reads back and cuts as it did before."""
    reader = shard(tmp_path_factory.mktemp("shard"), session, scheme, segments)
    baked = scheme.bake(session, segments)
    assert reader.verify() == []
    for name, wanted in baked.columns.items():
        np.testing.assert_array_equal(reader.columns[name], wanted)
        assert reader.columns[name].dtype == wanted.dtype
    fits = np.flatnonzero(reader.segments.stop_ns - reader.segments.start_ns >= scheme.grid_ns)
    window = Windows(fits, reader.segments.start_ns[fits], scheme.grid_ns)
    here, there = scheme.cut(baked.columns, window), reader.scheme.cut(reader.columns, window)
    np.testing.assert_array_equal(here.offset, there.offset)
    for name in here.columns:
        np.testing.assert_array_equal(here.columns[name], there.columns[name])


def test_a_shard_without_trials_splits_and_behaviour(tmp_path):
    session = random_session("a", 1)
    plain = type(session)(**{k: getattr(session, k) for k in session.__dataclass_fields__} | {"signals": {}})
    reader = shard(tmp_path, plain, Binned())
    assert (len(reader.trials), len(reader.splits), dict(reader.info.signals)) == (0, 0, {})
    with pytest.raises(UnknownNameError, match="unknown behaviour 'vel' in made/a"):
        reader.signal("vel")


COUNT_FILES = """
import os, resource, sys
from spiketok.tokens.shards import ShardReader

soft = 256
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
before = len(os.listdir("/dev/fd"))
readers = [ShardReader(path) for path in sys.argv[1:] for _ in range(1000)]
total = sum(int(column[-1]) for r in readers for column in (r.columns["segment.stop_ns"], r.signal("vel").time_ns))
print(len(readers), total, len(os.listdir("/dev/fd")) - before)
"""


@pytest.mark.long
def test_thousands_of_open_shards_hold_no_file(tmp_path):
    """Two thousand readers, each with its columns and its context in use, in a process that may open 256 files."""
    paths = [shard(tmp_path, random_session("a", 1), scheme).path for scheme in PLAIN]
    done = subprocess.run(
        [sys.executable, "-c", COUNT_FILES, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["2000", str(2000 * (6_000 + 5_990) * MS), "0"]


def test_an_array_outlives_its_reader(tmp_path):
    """The map is there for as long as any slice of it, and no longer."""
    session = random_session("a", 1)
    reader = shard(tmp_path, session, PerSpike())
    path = str(reader.path / COLUMNS)
    times = reader.columns["time_ns"][10:20]
    del reader
    gc.collect()
    np.testing.assert_array_equal(times, session.spikes.time_ns[10:20])
    if Path("/proc/self/maps").exists():
        assert path in Path("/proc/self/maps").read_text()
        del times
        gc.collect()
        assert path not in Path("/proc/self/maps").read_text()


def test_reader_can_be_pickled(tmp_path):
    reader = shard(tmp_path, random_session("a", 1), Binned())
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.columns["counts"], reader.columns["counts"])


# ---- behaviour on bins ----------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(session=sessions(max_spikes=0, with_signal=True), segments=all_segments())
def test_behaviour_on_bins_equals_reference(session, segments):
    signal = session.signals["hand/vel"]
    for bin_ns in (20_000_000, 7_000_001):
        value, valid = signal_on_bins(signal, segments, bin_ns)
        row = grid_rows(segments.start_ns, segments.stop_ns, bin_ns)
        assert (value.shape, value.dtype, valid.shape, valid.dtype) == ((row[-1], 2), np.float32, (row[-1],), np.uint8)
        for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
            for k in range(row[g], row[g + 1]):
                low = start + int(k - row[g]) * bin_ns
                wanted, ok = reference.signal_bin(signal, low, bin_ns, stop)
                assert valid[k] == ok
                np.testing.assert_array_equal(value[k], np.array(wanted, np.float32))


def test_a_reader_lays_behaviour_on_its_bins_once(tmp_path):
    session, segments = golden_session(), golden_segments()
    reader = shard(tmp_path, session, Binned(), segments)
    for name, signal in session.signals.items():
        for found, wanted in zip(reader.bin_signal(name), signal_on_bins(signal, segments, 20 * MS), strict=True):
            assert (found.dtype, found.tobytes()) == (wanted.dtype, wanted.tobytes())
            assert not found.flags.writeable
        assert reader.bin_signal(name) is reader.bin_signal(name)
        assert len(reader.bin_signal(name)[1]) == reader.bin_row[-1]
    with pytest.raises(UnknownNameError, match="unknown behaviour 'vel' in golden/one"):
        reader.bin_signal("vel")
    with pytest.raises(UsageError, match="scheme 'per-spike' has no bins to lay 'eye' on"):
        shard(tmp_path, session, PerSpike(), segments).bin_signal("eye")


def test_behaviour_on_bins_by_hand():
    """Fast samples: the mean of the valid ones. Slow samples: the line at the middle, not across a long gap."""
    session = golden_session()
    eye, vel = session.signals["eye"], session.signals["hand/vel"]
    value, valid = signal_on_bins(eye, Intervals([0], [40 * MS]), 20 * MS)
    assert value[:, 0].tolist() == [4.5 / 4, 14.5 / 4]
    assert valid.tolist() == [1, 1]
    # vel has samples every 15 ms, without those at 45 and 105 ms; middles at 10, 30, 50, 70 ... ms
    value, valid = signal_on_bins(vel, Intervals([0], [200 * MS]), 20 * MS)
    assert valid.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    np.testing.assert_allclose(value[:4, 0] * 4 * 15, [10, 30, 50, 70], rtol=1e-6)
    # three periods between valid neighbours are too far
    two_missing = type(vel)(vel.time_ns, vel.value, vel.components, "", vel.valid & (np.arange(12) != 2))
    _, valid = signal_on_bins(two_missing, Intervals([0], [200 * MS]), 20 * MS)
    assert valid.tolist() == [1, 0, 0, 1, 1, 1, 1, 1, 0, 0]


# ---- the same bytes -------------------------------------------------------------------------------------------------


def _write(target: Path) -> list[str]:
    session, segments = golden_session(), golden_segments()
    made = [write_shard(target / s.name, s, session, segments, segments_rule="trials", store_digest="d") for s in PLAIN]
    return [manifest["digest"] for manifest in made]


@pytest.mark.long
def test_the_same_bytes_in_other_processes(tmp_path):
    """Law 7 on disk: nothing in a shard depends on when, where or by which process it was written."""
    targets = [tmp_path / f"{k}" for k in range(3)]
    digests = [_write(targets[0])]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests += pool.map(_write, targets[1:])
    assert digests[0] == digests[1] == digests[2]
    for scheme in PLAIN:
        first, *others = [artefact_files(target / scheme.name) for target in targets]
        assert all(other == first for other in others)
        assert str(tmp_path).encode() not in b"".join(first.values())


def test_a_shard_is_replaced_whole(tmp_path):
    session = random_session("a", 1)
    first = shard(tmp_path, session, Binned())
    second = shard(tmp_path, session, Binned(), Intervals([0], [3_000_000_000]))
    assert first.path == second.path
    assert len(second.columns["counts"]) == 150
    assert second.verify() == []
    assert {p.name for p in second.path.parent.iterdir()} == {second.path.name, second.context.path.name}


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """The disk fills up in the middle: no shard, no leftover, and an older shard still stands."""
    session = random_session("a", 1)

    def full(array):
        if len(array) == len(session.spikes):
            raise OSError(28, "No space left on device")
        return array.reshape(-1).view(np.uint8)

    monkeypatch.setattr(columns, "_bytes", full)
    target = tmp_path / "made" / "shard"
    with pytest.raises(OSError, match="No space"):
        write_shard(target, PerSpike(), session, whole(session), segments_rule="continuous", store_digest="d")
    assert not any(tmp_path.rglob(f"{WIP}*"))
    assert not target.exists()
    monkeypatch.undo()
    older = shard(tmp_path, session, PerSpike())
    before = artefact_files(older.path)
    monkeypatch.setattr(columns, "_bytes", full)
    with pytest.raises(OSError, match="No space"):
        shard(tmp_path, session, PerSpike())
    assert artefact_files(older.path) == before
    assert not any(tmp_path.rglob(f"{WIP}*"))


def test_fingerprint_names_the_inputs():
    name = shard_fingerprint(Binned(), "continuous", "d")
    assert name == shard_fingerprint(Binned(20_000_000), "continuous", "d")
    others = [
        shard_fingerprint(Binned(5_000_000), "continuous", "d"),
        shard_fingerprint(PerSpike(), "continuous", "d"),
        shard_fingerprint(Binned(), "trials:go,0,100", "d"),
        shard_fingerprint(Binned(), "continuous", "e"),
    ]
    assert len({name, *others}) == 5


# ---- golden: read forever -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binned", "per-spike"])  # the other schemes' own tests read theirs
def test_golden_shard_reads_forever(name):
    """A shard that version 2 wrote: reads, verifies, and holds what it held then."""
    reader = ShardReader(GOLDEN / f"shard-{name}-v2")
    assert reader.verify() == []
    assert (reader.info.id, reader.info.n_spikes, reader.info.unit_id.tolist()) == ("golden/one", 9, ["a", "b", "c"])
    window = Windows(np.array([0, 1]), np.array([10 * MS, 50 * MS]), 60 * MS)
    tokens = reader.scheme.cut(reader.columns, window)
    if name == "binned":
        assert tokens.columns["counts"].tolist() == [
            *([2, 0, 2], [0, 0, 0], [0, 0, 0]),
            *([0, 0, 0], [0, 0, 0], [0, 0, 1]),
        ]
        assert tokens.columns["observed"].tolist() == [1, 0, 0, 0, 1, 1]
        assert tokens.columns["unit_observed"].tolist() == [
            *([1, 0, 1], [0, 0, 0], [0, 0, 0]),
            *([0, 0, 0], [1, 1, 1], [1, 1, 1]),
        ]
        assert reader.lost == {"outside_segments": 1, "saturated": 0}
        np.testing.assert_array_equal(reader.bin_signal("eye")[0][:3, 0], np.float32([0.5, 2.375, 4.875]))
        value, valid = reader.bin_signal("hand/vel")
        assert valid.tolist() == [1] * 11
        assert value[3].tolist() == [1.0, 1.125]  # a sample at the very middle, 60 ms
    else:
        spikes = tokens.columns["type"] == 0
        assert tokens.columns["unit"][spikes].tolist() == [2, 0, 0, 2, 2]
        assert (
            tokens.columns["time"][spikes].tolist() == np.float32([0.009999999, 0.01, 0.01, 0.01, 0.049999999]).tolist()
        )
        assert tokens.offset.tolist() == [0, 10, 17]
        assert reader.lost == {"outside_segments": 1}


@pytest.mark.parametrize("scheme", PLAIN, ids=str)
def test_golden_bytes_are_written_today(tmp_path, scheme):
    """Who changes a byte of the format raises its version, or the scheme's, and adds a golden shard."""
    write_shard(
        tmp_path / "shard",
        scheme,
        golden_session(),
        golden_segments(),
        segments_rule="trials:start,0,100",
        store_digest="0" * 64,
        context=tmp_path / "context-v1",
    )
    found, golden = artefact_files(tmp_path / "shard"), artefact_files(GOLDEN / f"shard-{scheme.name}-v2")
    today, then = json.loads(found.pop(MANIFEST)), json.loads(golden.pop(MANIFEST))
    assert found == golden
    fields = today["scheme"].pop(
        "config"
    )  # a scheme may have fields that it had not then, at a default that changes nothing
    assert then["scheme"].pop("config").items() <= fields.items()
    assert today.pop("digest") != "" and then.pop("digest") != ""
    assert today == then


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path) -> Path:
    return shard(tmp_path, golden_session(), Binned(), golden_segments()).path


def refused(path: Path, *words: str, command: str = "spiketok tokenize") -> None:
    with pytest.raises(ArtefactError) as caught:
        ShardReader(path)
    text = str(caught.value)
    assert "\n" not in text
    assert command in text
    assert str(path) in text
    for word in words:
        assert word in text


def test_no_shard_there(tmp_path):
    refused(tmp_path / "nothing", "no shard")
    refused(tmp_path, "it has no manifest.json")


def test_another_format_version(damaged):
    for version, command in ((1, "spiketok upgrade"), (3, "pip install --upgrade spiketok")):
        edit_manifest(damaged, format_version=version)
        refused(damaged, f"format version {version}", "reads version 2", command=command)


def test_another_scheme_version_or_an_unknown_scheme(damaged):
    edit_manifest(damaged, scheme={"name": "binned", "version": 7, "config": {"bin_ns": 20_000_000}})
    refused(damaged, "version 7", "has 1")
    edit_manifest(damaged, scheme={"name": "patchy", "version": 1, "config": {}})
    refused(damaged, "unknown scheme 'patchy'")


def test_damaged_manifest(damaged):
    text = (damaged / MANIFEST).read_text()
    (damaged / MANIFEST).write_text(text[: len(text) // 2])
    refused(damaged, "damaged manifest")
    (damaged / MANIFEST).write_bytes(b"\xff\xfe\x00")
    refused(damaged, "damaged manifest")
    (damaged / MANIFEST).write_text("[]")
    refused(damaged, "not of a shard")
    (damaged / MANIFEST).write_text(text.replace('"n_spikes": 9', '"n_spikes": 8'))
    refused(damaged, "does not match its own digest")


def test_a_missing_and_a_truncated_file(damaged):
    file = damaged / COLUMNS
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    refused(damaged, "damaged columns.bin", f"{len(data) - 1} bytes, must be {len(data)}")
    file.write_bytes(data + b"0")
    refused(damaged, "damaged columns.bin")
    file.unlink()
    refused(damaged, "lacks its columns", "no file columns.bin")


def test_a_file_that_shrinks_under_a_reader_is_refused_when_it_is_mapped(damaged):
    reader = ShardReader(damaged)
    (damaged / COLUMNS).write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"cannot be mapped .*fewer than \d+ bytes.*spiketok tokenize"):
        _ = reader.columns["counts"]


@pytest.mark.parametrize("change", [{"offset": -64}, {"bytes": 7}, {"shape": [10**9, 3]}, {"dtype": "<f8"}])
def test_a_manifest_that_points_outside_of_the_file(damaged, change):
    """Nothing behind the map is ever read, whoever signed the manifest."""
    entries = json.loads((damaged / MANIFEST).read_text())["columns"]
    edit_manifest(damaged, columns=entries | {"counts": entries["counts"] | change})
    refused(damaged, "column 'counts'")


def test_a_flipped_bit_is_found_by_verify(damaged):
    """Each byte of the file belongs to a column or to the empty room between two."""
    file, entries = damaged / COLUMNS, json.loads((damaged / MANIFEST).read_text())["columns"]
    data, reader = file.read_bytes(), ShardReader(damaged)
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        (line,) = reader.verify()
        own = [n for n, e in entries.items() if e["offset"] <= place < e["offset"] + e["bytes"]]
        assert line.startswith(f"column '{own[0]}' has sha256" if own else "the room before column"), place


# ---- the context of a shard -----------------------------------------------------------------------------------------


def test_a_context_that_is_gone_or_another_is_said_when_it_is_needed(damaged):
    """Tokens can be read without it."""
    reader, place = ShardReader(damaged), ShardReader(damaged).context.path
    write_context(place, random_session("b", 2), store_digest="e")
    assert reader.columns["counts"].shape == (11, 3)
    with pytest.raises(ArtefactError, match=r"was made with context \w{12}, at .* lies \w{12}.*spiketok tokenize"):
        _ = reader.info
    (place / MANIFEST).unlink()
    with pytest.raises(ArtefactError, match=r"has lost its manifest.json: delete it .*spiketok tokenize"):
        _ = reader.observed
    shutil.rmtree(place)
    with pytest.raises(ArtefactError, match=r"no context at .*spiketok tokenize"):
        _ = reader.observed


def test_shards_can_be_moved_as_a_whole(tmp_path):
    session, rule = golden_session(), {"segments_rule": "continuous", "store_digest": "d" * 64}
    home = tmp_path / "shards"
    target, place = home / "binned" / "golden" / "one" / "f", home / "context" / "golden" / "one" / "c"
    manifest = write_shard(target, Binned(), session, golden_segments(), **rule, context=place)
    assert manifest["context"]["path"] == "../../../../context/golden/one/c"
    home.rename(tmp_path / "elsewhere")
    reader = ShardReader(tmp_path / "elsewhere" / "binned" / "golden" / "one" / "f")
    assert reader.info.id == "golden/one"
    assert reader.context.path == (tmp_path / "elsewhere" / "context" / "golden" / "one" / "c").resolve()


def test_the_context_of_another_session_is_not_taken(tmp_path):
    rule = {"segments_rule": "continuous", "store_digest": "d" * 64, "context": tmp_path / "c"}
    write_shard(tmp_path / "a", Binned(), golden_session(), golden_segments(), **rule)
    other = random_session("b", 2)
    with pytest.raises(UsageError, match="is the context of golden/one, store dddddddddddd, not of made/b"):
        write_shard(tmp_path / "b", Binned(), other, whole(other), **rule)


# ---- a real recording -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    real_data() is None, reason="the real recordings are not here (set SPIKETOK_REAL_DATA to their folder)"
)
@pytest.mark.parametrize("bin_ns", [20 * MS, 5 * MS])
def test_a_real_recording_with_gaps(tmp_path, bin_ns):
    """NLB MC_Maze_Small, test half: all spikes are in the counts, and 70.0 of 79.9 s are marked observed."""
    name = "sub-Jenkins_ses-small_desc-test_ecephys.nwb"
    session = read_nwb(real_data() / name, "nlb/small-test", Source(name, "0" * 64, 1))
    reader = shard(tmp_path, session, Binned(bin_ns))
    assert int(reader.columns["counts"].sum(dtype=np.int64)) == 32_897
    assert reader.lost == {"outside_segments": 0, "saturated": 0}
    assert int(reader.columns["observed"].sum(dtype=np.int64)) * bin_ns == 70_000 * MS
    assert len(reader.columns["observed"]) * bin_ns >= 79_900 * MS
