"""Time taken out of what was observed, against a slow twin; and seen by rates, splits and shards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketok.errors import DataError, UnknownNameError
from spiketok.recording.masking import mask_time
from spiketok.recording.nouns import Intervals, Ragged, Session
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from tests.cli.test_cli import spiketok
from tests.made import random_session
from tests.sources.test_clocks import made

SPANS = st.lists(st.tuples(st.integers(-5, 60), st.integers(0, 20)), min_size=1, max_size=6)


def of(spans: list[tuple[int, int]]) -> Intervals:
    return Intervals([a for a, _ in spans], [a + n for a, n in spans])


def masked(observed: Intervals, own: list[Intervals] | None, gone: Intervals) -> Session:
    ragged = None
    if own is not None:
        rows = [np.stack([one.start_ns, one.stop_ns], 1) for one in own]
        ragged = Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
    session = random_session("a", 1)
    units = len(session.units)
    assert own is None or len(own) == units
    session = replace(
        session, start_ns=-10, stop_ns=200, observed=observed, unit_observed=ragged, intervals={"bad": gone}
    )
    return mask_time(session, ["bad"])


def instants(intervals: Intervals) -> set[int]:
    return {
        t for a, b in zip(intervals.start_ns.tolist(), intervals.stop_ns.tolist(), strict=True) for t in range(a, b)
    }


@given(observed=SPANS, gone=SPANS)
def test_each_instant_is_observed_that_was_and_is_in_no_row(observed, gone):
    observed, gone = of([(a, n + 1) for a, n in observed]).union(), of(gone)
    left = instants(observed) - instants(gone)
    if not left:
        with pytest.raises(DataError, match="nothing is left of"):
            masked(observed, None, gone)
        return
    n_units = len(random_session("a", 1).units)
    session = masked(observed, [observed] * n_units, gone)
    assert instants(session.observed) == left
    for row in range(n_units):
        own = session.unit_observed[row]
        assert instants(Intervals(own[:, 0], own[:, 1])) == left
    assert [note.id for note in session.notes][-1] == "time-masked"


def test_a_table_that_is_not_there_is_named():
    with pytest.raises(UnknownNameError, match="interval table 'invalid'"):
        mask_time(random_session("a", 1), ["invalid"])


def test_masked_time_is_in_no_rate_and_in_no_shard(tmp_path):
    """By the command: 20 of 60 s are masked, the rate counts 40, and no segment of a shard reaches in."""
    path = made(tmp_path / "bad.nwb", invalid=(20.0, 40.0))
    root = tmp_path / "root"
    spiketok(root, "ingest", path, "--mask", "invalid_times")
    session = read_session(Workspace(root).store_path("local/bad"))
    assert session.observed.total_ns == pytest.approx(40e9, rel=0.01)
    assert "time-masked" in {note.id for note in session.notes}
    told = json.loads(spiketok(root, "inspect", "local/bad", "--json").stdout)
    assert "40.0 s in 2 stretches" in json.dumps(told)
    assert "equal" in spiketok(root, "verify", "local/bad").stdout
    assert "invalid_time" in spiketok(root, "ingest", path, "--mask", "invalid_time", code=1).stderr
