"""No byte of a shard or a context is believed unchecked: digests, bounds, the stamp that spares it, and the maps."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import ArtefactError, UnreadableError
from spiketok.recording.nouns import Intervals
from spiketok.storage.files import content_digest
from spiketok.storage.workspace import MANIFEST
from spiketok.tokens import maps
from spiketok.tokens.columns import COLUMNS, Columns, write_folder
from spiketok.tokens.context import Context
from spiketok.tokens.schemes import SCHEMES, Binned, PerSpike
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader
from spiketok.tokens.stamps import STAMP, YOUNG_NS
from tests.made import SECOND, artefact_files, golden_segments, golden_session, random_session, shard

GOLDEN = Path(__file__).parents[1] / "golden"
SHARDS = sorted(p.name for p in GOLDEN.glob("shard-*-v2"))
CONTEXTS = sorted(p.name for p in GOLDEN.glob("context-*"))


def copied(name: str, folder: Path) -> Path:
    """A golden shard or context, without a stamp, its context beside it."""
    for golden in (GOLDEN / name, *GOLDEN.glob("context-*")):
        target = folder / golden.name
        target.mkdir(exist_ok=True)
        for file, data in artefact_files(golden).items():
            (target / file).write_bytes(data)
    return folder / name


def opened(path: Path) -> ShardReader | Context:
    return Context(path) if "context" in path.name else ShardReader(path)


def refused(path: Path, *words: str) -> str:
    with pytest.raises(ArtefactError) as caught:
        opened(path)
    text = str(caught.value)
    for word in (str(path), "delete it and run 'spiketok tokenize' again", *words):
        assert word in text
    assert "\n" not in text
    return text


def resigned(path: Path, **changed: np.ndarray) -> None:
    """The artefact with other columns, and a manifest that vouches for them."""
    reader = opened(path)
    facts = {k: v for k, v in reader.manifest.items() if k not in ("columns", "digest")}
    write_folder(path, facts, {name: np.array(column) for name, column in reader.columns.items()} | changed)


def old(path: Path) -> Path:
    """The same, changed long enough ago to be stamped."""
    for file in (COLUMNS, MANIFEST):
        then = time.time_ns() - 10 * YOUNG_NS
        os.utime(path / file, ns=(then, then))
    return path


# ---- digests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHARDS, *CONTEXTS])
def test_a_flipped_bit_in_any_column_is_one_line(tmp_path, name):
    path = copied(name, tmp_path)
    data, entries = (path / COLUMNS).read_bytes(), opened(path).manifest["columns"]
    for column, entry in entries.items():
        if entry["bytes"]:
            place = entry["offset"] + entry["bytes"] // 2
            (path / COLUMNS).write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
            refused(path, f"is damaged (column '{column}' has sha256")
    (path / COLUMNS).write_bytes(bytes(len(data)))
    assert "more)" in refused(path) or len(entries) < 2


@pytest.mark.parametrize("facts", [{"scheme": 7}, {"columns": {"unit": 3}}, {"context": []}, {"lost": None}])
def test_a_manifest_that_makes_no_sense_is_one_line(tmp_path, facts):
    path = copied("shard-per-spike-v2", tmp_path)
    manifest = json.loads((path / MANIFEST).read_text()) | facts
    (path / MANIFEST).write_text(json.dumps(manifest | {"digest": content_digest(manifest)}))
    refused(path, "has a manifest that cannot be understood")


# ---- bounds ---------------------------------------------------------------------------------------------------------


def at(column: np.ndarray, row: int, value: object) -> np.ndarray:
    column = column.copy()
    column.reshape(-1)[row] = value
    return column


FAR = 1 << 40
# by scheme: a column, what it becomes, and a word of the line that refuses it
OUT_OF_BOUNDS: dict[str, list[tuple[str, Callable[[np.ndarray], np.ndarray], str]]] = {
    "binned": [
        ("counts", lambda c: c[:-1], "shape"),
        ("counts", lambda c: c.astype(np.int32), "uint8"),
        ("observed", lambda c: c[:4], "shape"),
        ("unit_observed", lambda c: c[:, :2].copy(), "shape"),
        ("segment.row", lambda c: at(c, 1, 3), "bins of 20000000 ns"),
        ("segment.row", lambda c: at(c, 2, FAR), "must rise"),
        ("segment.stop_ns", lambda c: at(c, 1, FAR), "'segment.row' is not"),
        ("segment.start_ns", lambda c: at(c, 0, -(1 << 62)), "must be from"),
        ("segment.stop_ns", lambda c: at(c, 0, -20_000_000), "before the start"),
    ],
    "per-spike": [
        ("unit", lambda c: at(c, 1, 3), "holds 3 at 1, must be from 0 to below 3"),
        ("unit", lambda c: at(c, -1, -1), "must be from 0 to below 3"),
        ("unit", lambda c: at(c, 0, 1 << 30), "must be from 0"),
        ("unit", lambda c: c[:-1], "shape"),
        ("unit.n_spikes", lambda c: c[:1], "below 1"),
        ("time_ns", lambda c: at(c, 0, FAR), "falls"),
        ("time_ns", lambda c: c + FAR, "which is not there"),
        ("coarse.row", lambda c: at(c, 1, FAR), "where the steps"),
        ("coarse.row", lambda c: at(c, 1, 0), "where the steps"),
        ("coarse.first", lambda c: at(c, 1, 1), "that of the segments"),
        ("segment.row", lambda c: at(c, 1, -1), "must rise"),
        ("segment.stop_ns", lambda c: at(c, 1, FAR * FAR >> 22), "coarse.first"),
    ],
    "event-pair": [
        ("unit", lambda c: at(c, 2, 99), "must be from 0 to below 3"),
        ("step.row", lambda c: at(c, 3, FAR), "must rise"),
        ("step.row", lambda c: at(c, -1, 3), "must rise"),
        ("step.first", lambda c: at(c, 1, 0), "that of the segments"),
        ("step.since", lambda c: c[1:], "shape"),
        ("step.since", lambda c: at(c, 1, 2), "steps of the same segment"),
        ("step.since", lambda c: at(c, -1, 0), "steps of the same segment"),
        ("segment.start_ns", lambda c: c - SECOND, "that of the segments"),
    ],
    "neuron": [
        ("counts", lambda c: c[:, 1:].copy(), "shape"),
        ("unit_observed", lambda c: c[1:], "shape"),
        ("segment.row", lambda c: at(c, 1, 4), "bins of"),
    ],
    "calibration": [
        ("counts.row", lambda c: at(c, 1, FAR), "must rise"),
        ("counts.most", lambda c: at(c, 0, 0), "must be from"),
        ("counts.most", lambda c: at(c, 0, FAR), "must be from"),
        ("matrix", lambda c: c[:, :, :2].copy(), "shape"),
        ("counts.bin", lambda c: c[1:], "shape"),
        ("segment.row", lambda c: at(c, -1, 9), "must rise"),
    ],
    "fluorescence": [
        ("valid", lambda c: at(c, 0, 200), "must be from 0 to below 2"),
        ("time_ns", lambda c: c[::-1].copy(), "falls"),
        ("value", lambda c: c[1:], "shape"),
        ("segment.row", lambda c: at(c, 1, 77), "must rise"),
    ],
    "frames": [
        ("pixels", lambda c: c[:, :, :1].copy(), "shape"),
        ("frame", lambda c: at(c, 0, len(c)), "must be from -1 to below 2"),
        ("frame", lambda c: at(c, 0, -2), "must be from -1 to below 2"),
        ("units", lambda c: at(c, 0, -1), "must be from 0"),
        ("units", lambda c: np.repeat(c, 2), "shape"),
        ("segment.row", lambda c: at(c, 1, 4), "bins of"),
    ],
    "fine-time": [
        ("unit", lambda c: at(c, 0, 4000), "must be from 0 to below 3"),
        ("cell.row", lambda c: at(c, 2, FAR), "must rise"),
        ("count", lambda c: c[1:], "shape"),
        ("observed", lambda c: c[1:], "shape"),
    ],
    "patch": [
        ("unit.slot", lambda c: at(c, 0, 1 << 20), "must be from 0"),
        ("unit.slot", lambda c: at(c, 0, -1), "must be from 0"),
        ("patch", lambda c: c[1:], "shape"),
        ("n_real", lambda c: np.repeat(c, 2), "shape"),
        ("observed", lambda c: c[1:], "shape"),
    ],
    "quantized": [
        ("category", lambda c: at(c, 0, 255), "must be from 0"),
        ("behaviour", lambda c: at(c, 0, 512), "must be from -1 to below 512"),
        ("behaviour", lambda c: at(c, 0, -2), "must be from -1 to below 512"),
        ("behaviour.scale", lambda c: c[1:], "shape"),
    ],
}  # fmt: skip


def test_every_scheme_has_bounds_and_a_golden_shard():
    assert set(OUT_OF_BOUNDS) == set(SCHEMES) == {n.removeprefix("shard-").removesuffix("-v2") for n in SHARDS}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_leaves_its_bounds_is_one_line_whoever_signed_it(tmp_path, scheme):
    path = copied(f"shard-{scheme}-v2", tmp_path)
    good = {name: column.copy() for name, column in opened(path).columns.items()}
    for name, change, word in OUT_OF_BOUNDS[scheme]:
        resigned(path, **{name: change(good[name])})
        refused(path, "cannot be used (column '", word)
        shutil.rmtree(path)
        copied(path.name, tmp_path)
    for name in good:  # each column of a shard is needed
        resigned(path)
        manifest = json.loads((path / MANIFEST).read_text())
        kept = {k: v for k, v in good.items() if k != name}
        write_folder(path, {k: v for k, v in manifest.items() if k not in ("columns", "digest")}, kept)
        if name == "unit_observed" and scheme != "neuron":
            opened(path)  # there only where units differ
        else:
            refused(path, "cannot be used (column '")
        shutil.rmtree(path)
        copied(path.name, tmp_path)


@pytest.mark.parametrize(
    ("column", "change", "word"),
    [
        ("split.name", lambda c: at(c, 0, 2), "must be from 0 to below 2"),
        ("split.name", lambda c: at(c, 0, -1), "must be from 0 to below 2"),
        ("split.set", lambda c: c[:1], "shape"),
        ("trial.column.side", lambda c: at(c, 1, 7), "must be from 0 to below 2"),
        ("trial.stop_ns", lambda c: c[:1], "shape"),
        ("observed.stop_ns", lambda c: at(c, 0, -FAR), "before the start"),
        ("unit.region", lambda c: at(c, 0, 5), "must be from 0"),
        ("unit.channel", lambda c: c[:2], "shape"),
        ("signal.eye.value", lambda c: c[1:], "shape"),
        ("signal.eye.valid", lambda c: at(c, 0, 2), "below 2"),
        ("signal.eye.time_ns", lambda c: c[::-1].copy(), "falls"),
    ],
)
def test_a_context_whose_columns_do_not_fit_is_one_line(tmp_path, column, change, word):
    path = copied("context-described-v1", tmp_path)
    resigned(path, **{column: change(opened(path).columns[column].copy())})
    refused(path, f"cannot be used (column '{column}'", word)


# ---- stamps ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch) -> list[str]:
    """The folders of the artefacts whose bytes were read, in order."""
    seen, verify = [], Columns.verify

    def counted(columns: Columns) -> list[str]:
        seen.append(str(columns._folder))
        return verify(columns)

    monkeypatch.setattr(Columns, "verify", counted)
    return seen


def test_a_second_open_reads_nothing(tmp_path, checks):
    path = old(shard(tmp_path, golden_session(), Binned(), golden_segments()).path)
    checks.clear()
    first = ShardReader(path)
    assert checks == [str(path)]
    assert len({STAMP, *artefact_files(path)}) == len(list(path.iterdir())) == 3
    for reader in (ShardReader(path), ShardReader(path)):
        np.testing.assert_array_equal(reader.columns["counts"], first.columns["counts"])
        assert reader.manifest == first.manifest
    assert checks == [str(path)]
    ShardReader(path, anew=True)
    assert checks == [str(path)] * 2
    assert (first.verify(), len(checks)) == ([], 3)


def test_any_change_of_the_files_is_checked_again(tmp_path, checks):
    path = old(shard(tmp_path, golden_session(), Binned(), golden_segments()).path)
    ShardReader(path)
    for file in (COLUMNS, MANIFEST):
        data = (path / file).read_bytes()
        changes: list[Callable[[Path], object]] = [
            lambda f: os.utime(f, ns=(0, f.stat().st_mtime_ns + 1)),
            lambda f, data=data: (f.unlink(), f.write_bytes(data), old(f.parent)),  # another inode
        ]
        for change in changes:
            checks.clear()
            ShardReader(path)
            assert checks == []
            change(path / file)
            ShardReader(path)
            assert checks == [str(path)]
    (path / COLUMNS).write_bytes(data := bytes([255]) + (path / COLUMNS).read_bytes()[1:])
    old(path)
    refused(path, "is damaged (column 'counts'")
    refused(path, "is damaged (column 'counts'")  # and is not stamped
    (path / COLUMNS).write_bytes(data + b"0")
    refused(path, "damaged columns.bin")


def test_a_copy_is_checked_again_and_a_stamp_of_another_digest_says_nothing(tmp_path, checks):
    path = old(shard(tmp_path, golden_session(), Binned(), golden_segments()).path)
    ShardReader(path)
    shutil.copytree(path, tmp_path / "copy")  # keeps times, has other inodes, and takes the stamp along
    checks.clear()
    ShardReader(tmp_path / "copy")
    assert checks == [str(tmp_path / "copy")]
    stamp = path / STAMP
    for text in ("", "1", stamp.read_text().replace(" ", "  "), "\xff", stamp.read_text() + " "):
        stamp.write_text(text, encoding="latin-1")
        checks.clear()
        ShardReader(path)
        assert checks == [str(path)]


def test_files_that_changed_a_moment_ago_are_not_stamped(tmp_path):
    path = shard(tmp_path, golden_session(), Binned(), golden_segments()).path
    now = time.time_ns()
    for file in (COLUMNS, MANIFEST):
        os.utime(path / file, ns=(now, now + 60 * SECOND))  # as by a clock that is ahead
    ShardReader(path)
    assert not (path / STAMP).exists()


def test_a_folder_that_cannot_be_written_is_checked_each_time(tmp_path, checks, monkeypatch):
    path = old(shard(tmp_path, golden_session(), Binned(), golden_segments()).path)
    checks.clear()

    def read_only(source, target):
        raise OSError(errno.EROFS, "Read-only file system", target)

    monkeypatch.setattr(os, "replace", read_only)
    for _ in range(2):
        ShardReader(path)
    assert checks == [str(path)] * 2
    assert {*artefact_files(path)} == {p.name for p in path.iterdir()}


# ---- maps and descriptors -------------------------------------------------------------------------------------------

OPEN_MANY = """
import os, sys
from spiketok.tokens.shards import ShardReader

before = len(os.listdir("/proc/self/fd"))
readers = [ShardReader(sys.argv[1]) for _ in range(2000)]
total = sum(int(r.columns["segment.stop_ns"][-1]) + int(r.observed.stop_ns[-1]) for r in readers)
print(len(os.listdir("/proc/self/fd")) - before, total)
"""


@pytest.mark.long  # two thousand readers, as of new shards in test_shards.py
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_two_thousand_readers_leave_no_descriptor(tmp_path):
    reader = shard(tmp_path, golden_session(), PerSpike(), golden_segments())
    command = [sys.executable, "-c", OPEN_MANY, str(old(reader.path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    total = 2000 * (int(reader.segments.stop_ns[-1]) + int(reader.observed.stop_ns[-1]))
    assert done.stdout.split() == ["0", str(total)]


def mapped(name: str) -> int:
    """How many maps of files below a folder of this name the process has."""
    return sum(name in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="maps are counted in /proc")
def test_few_maps_at_once_give_the_same_windows(tmp_path, monkeypatch):
    """Ten shards and their contexts in a process that may hold three maps: each gives what it gave, and lets go."""
    sessions = [random_session(f"s{k}", k, seconds=2.0) for k in range(10)]
    readers = [shard(tmp_path, session, PerSpike()) for session in sessions]
    window = Windows(np.array([0]), np.array([SECOND // 2]), SECOND)

    def cut(reader: ShardReader):
        tokens = reader.scheme.cut(reader.columns, window)
        signal = reader.signal("vel")
        kept = reader.segments, reader.observed, reader.trials, reader.splits, reader.info
        return kept, [tokens.columns[k].copy() for k in ("time", "unit")] + [signal.value.copy(), signal.time_ns.copy()]

    whole = [cut(reader)[1] for reader in readers]
    assert mapped(str(tmp_path)) == 20
    monkeypatch.setattr(maps, "MOST_MAPS", 3)
    again = [ShardReader(reader.path) for reader in readers]
    del readers
    kept = []
    for k in np.random.default_rng(0).integers(0, 10, 60).tolist():
        facts, found = cut(again[k])
        kept.append(facts)  # what is kept pins no map
        assert mapped(str(tmp_path)) <= 3
        for one, other in zip(found, whole[k], strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_is_used_stays_and_what_is_not_goes(monkeypatch):
    class Holder:
        used, gone = True, 0

        def let_go(self):
            self.gone += 1

    monkeypatch.setattr(maps, "MOST_MAPS", 3)
    monkeypatch.setattr(maps, "_held", type(maps._held)())
    hot, cold = Holder(), [Holder() for _ in range(20)]
    maps.hold(hot)
    for holder in cold:
        maps.hold(holder)
        hot.used = True
        for other in cold:
            other.used = False
    assert (hot.gone, [h.gone for h in cold]) == (0, [1] * 18 + [0, 0])
    del hot, holder, other
    cold.clear()
    assert not maps._held


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_a_shard_without_a_map_left_is_not_called_damaged(tmp_path, monkeypatch):
    reader = shard(tmp_path, golden_session(), Binned(), golden_segments())

    def none_left(file, size):
        raise OSError(errno.ENOMEM, "Cannot allocate memory", file)

    monkeypatch.setattr("spiketok.tokens.columns.map_file", none_left)
    reader.columns.let_go()
    with pytest.raises(UnreadableError, match=f"{COLUMNS}: no memory left"):
        _ = reader.columns["counts"]


def test_the_command_line_raises_the_soft_limit(tmp_path):
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
sys.argv = ["spiketok", "--version"]
from spiketok.cli import main
try:
    main()
except SystemExit:
    pass
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{hard} {hard}"


def test_the_command_line_tells_the_limit_and_not_what_it_led_to(monkeypatch, capsys):
    from spiketok import cli

    def reached():
        try:
            raise OSError(errno.EMFILE, "Too many open files", "x/manifest.json")
        except OSError as cause:
            message = "x is damaged: delete it"
            raise ArtefactError(message) from cause

    monkeypatch.setattr(cli, "app", reached)
    monkeypatch.setattr(cli, "raise_open_files", lambda: None)
    monkeypatch.setattr(sys, "argv", ["spiketok", "train"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    told = capsys.readouterr().err
    assert stopped.value.code == 1
    assert "x/manifest.json: too many open files: this process may have" in told
    assert "delete" not in told


def test_an_empty_session_reads_back(tmp_path):
    """No segments at all: every scheme's columns may be empty and are sound."""
    reader = shard(tmp_path, golden_session(), PerSpike(), Intervals.empty())
    assert len(ShardReader(reader.path, anew=True).segments) == 0
