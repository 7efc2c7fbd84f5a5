"""The context of a session: what goes in comes out, the same bytes each time, once for all schemes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from spiketok.errors import ArtefactError, UnknownNameError
from spiketok.recording.nouns import UnitTable
from spiketok.recording.units import MOST_UNIT_WORDS
from spiketok.storage.store import session_info
from spiketok.storage.workspace import CONTEXT, MANIFEST
from spiketok.tokens.columns import COLUMNS
from spiketok.tokens.context import Context, context_fingerprint, ensure_context, write_context
from spiketok.tokens.schemes import SCHEMES, Binned
from spiketok.tokens.shards import ShardReader
from tests.made import MS, artefact_files, golden_described, golden_session, random_session, shard
from tests.strategies import sessions

GOLDEN = Path(__file__).parents[1] / "golden"
DIGEST = "0" * 64


def written(folder: Path, session, digest: str = DIGEST) -> Context:
    write_context(folder / "context", session, store_digest=digest)
    return Context(folder / "context")


def assert_equal_intervals(found, wanted) -> None:
    np.testing.assert_array_equal(found.start_ns, wanted.start_ns)
    np.testing.assert_array_equal(found.stop_ns, wanted.stop_ns)


def test_round_trip(tmp_path):
    session = golden_described()
    context = written(tmp_path, session)
    info, wanted = context.info, session_info(session)
    assert (info.id, info.subject, info.n_spikes, info.n_trials) == ("golden/one", "g", 9, 2)
    assert (info.start_ns, info.stop_ns, info.signals) == (wanted.start_ns, wanted.stop_ns, wanted.signals)
    assert info.unit_keys() == wanted.unit_keys()
    assert set(info.unit_columns) == {"region", "channel", "depth_um", "held_out"}  # one value a unit
    for name, column in wanted.unit_columns.items():
        assert info.unit_columns[name].dtype.kind == column.dtype.kind
        np.testing.assert_array_equal(info.unit_columns[name], column)
    assert_equal_intervals(context.observed, session.observed)
    assert_equal_intervals(context.splits, session.splits)
    assert context.splits.columns["name"].tolist() == ["train", "valid"]
    assert context.splits.columns["set"].tolist() == ["source", "mine"]
    assert_equal_intervals(context.trials, session.trials)
    assert {k: c.tolist() for k, c in context.trials.columns.items()} == {
        "side": ["right", "left"],
        "correct": ["True", "False"],
    }
    assert context.signal_reach_ns("hand/vel") == (30 * MS, 7)
    assert context.signal_reach_ns("eye") == (0, 0)
    for name, signal in session.signals.items():
        found = context.signal(name)
        assert (found.components, found.measure, found.rate_hz) == (signal.components, signal.measure, signal.rate_hz)
        for part in ("time_ns", "value", "valid"):
            np.testing.assert_array_equal(getattr(found, part), getattr(signal, part))
    assert context.manifest["source"] == session.source.to_dict()
    assert context.manifest["store_digest"] == DIGEST
    assert context.verify() == []
    with pytest.raises(UnknownNameError, match="unknown behaviour 'vel' in golden/one"):
        context.signal("vel")


def test_words_that_differ_from_unit_to_unit_are_no_groups(tmp_path):
    n_units = MOST_UNIT_WORDS + 1
    base = random_session("a", 1, n_units=n_units, seconds=1.0)
    columns = {"few": np.arange(n_units) % 3, "many": np.array([f"free text {n}" for n in range(n_units)])}
    context = written(tmp_path, replace(base, units=UnitTable(base.units.id, columns)))
    assert set(context.info.unit_columns) == {"few"}
    assert context.info.unit_columns["few"].tolist() == columns["few"].tolist()


@settings(max_examples=15)
@given(session=sessions(with_signal=True))
def test_any_session_reads_back(tmp_path_factory, session):
    context = written(tmp_path_factory.mktemp("context"), session)
    assert context.verify() == []
    assert context.info.unit_id.tolist() == session.units.id.tolist()
    assert_equal_intervals(context.observed, session.observed)
    for name, signal in session.behaviours.items():
        np.testing.assert_array_equal(context.signal(name).value, signal.value)


def test_the_imaging_of_the_units_is_no_behaviour():
    context = Context(GOLDEN / "context-imaged-v1")
    assert (context.info.signals, [n for n in context.columns if n.startswith("signal.")]) == ({}, [])


def test_one_context_serves_every_scheme(tmp_path):
    session = golden_session()
    first = ensure_context(tmp_path / "context", session, store_digest=DIGEST)
    assert first == Context(tmp_path / "context").manifest
    files = tmp_path / "context" / MANIFEST, tmp_path / "context" / COLUMNS
    times = [p.stat().st_mtime_ns for p in files]
    again = ensure_context(tmp_path / "context", session, store_digest=DIGEST)
    assert [p.stat().st_mtime_ns for p in files] == times
    assert again == first
    assert context_fingerprint("d") != context_fingerprint("e")


def test_two_files_and_no_path(tmp_path):
    context = written(tmp_path, golden_described())
    files = artefact_files(context.path)
    assert set(files) == {"manifest.json", COLUMNS}
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert artefact_files(written(tmp_path / "again", golden_described()).path) == files
    copy = pickle.loads(pickle.dumps(context))
    assert copy.info.unit_columns["region"].tolist() == ["M1", "PMd", "M1"]


def test_a_shard_holds_no_column_of_the_context(tmp_path):
    reader = shard(tmp_path, golden_described(), Binned())
    kinds = {name.split(".")[0] for name in reader.columns}
    assert kinds == {"counts", "observed", "unit_observed", "segment"}
    assert "observed" in reader.columns  # the scheme's own: of each bin
    assert CONTEXT not in SCHEMES  # it has a folder among theirs
    assert reader.info.unit_columns["held_out"].tolist() == [False, True, False]


def test_golden_context_reads_forever():
    context = Context(GOLDEN / "context-described-v1")
    assert context.verify() == []
    assert context.info.unit_columns["region"].tolist() == ["M1", "PMd", "M1"]
    assert context.info.unit_columns["held_out"].tolist() == [False, True, False]
    assert context.info.unit_columns["channel"].tolist() == [7, 3, 300]
    assert context.splits.columns["set"].tolist() == ["source", "mine"]
    assert context.trials.columns["correct"].tolist() == ["True", "False"]
    assert context.signal_reach_ns("hand/vel") == (30 * MS, 7)
    assert context.signal("eye").value[:3, 0].tolist() == [0, 0.25, 0.5]
    assert [ShardReader(p).context.path.name for p in sorted(GOLDEN.glob("shard-*-v2"))] == [
        *["context-v1"] * 4,
        "context-imaged-v1",
        *["context-v1"] * 2,
        "context-grouped-v1",
        *["context-v1"] * 2,
    ]


@pytest.mark.parametrize(("name", "session"), [("described", golden_described()), ("", golden_session())])
def test_golden_bytes_are_written_today(tmp_path, name, session):
    """Who changes a byte of the format raises its version and adds a golden context."""
    golden = GOLDEN / ("context-described-v1" if name else "context-v1")
    assert artefact_files(written(tmp_path, session).path) == artefact_files(golden)


def test_a_damaged_context_is_refused_in_one_line(tmp_path):
    context = written(tmp_path, golden_session())
    file, data = context.path / COLUMNS, (context.path / COLUMNS).read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(ArtefactError, match=r"context .* has a damaged columns.bin .*'spiketok tokenize' again"):
        Context(context.path)
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(
        ArtefactError, match=r"damaged \(column 'observed.start_ns' has sha256.*'spiketok tokenize' again"
    ):
        Context(context.path)
    with pytest.raises(ArtefactError, match=r"no context at .*run 'spiketok tokenize'"):
        Context(tmp_path)
    with pytest.raises(ArtefactError, match=r"shard .* not of a shard"):
        ShardReader(context.path)
