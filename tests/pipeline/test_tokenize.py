"""Tokenize: which stretches become shards, that no window is lost by it, and what is said of damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spiketok.errors import ArtefactError
from spiketok.pipeline.tokenize import (
    context_path,
    plan_session,
    shard_path,
    tokenize,
    tokenize_bytes,
    tokenize_session,
)
from spiketok.pipeline.verify import verify_session_files
from spiketok.recording.nouns import FLUORESCENCE, Intervals, Session, Signal, Spikes
from spiketok.recording.segments import CONTINUOUS, OBSERVED, resolve_segments
from spiketok.storage.store import write_session
from spiketok.storage.workspace import CONTEXT, MANIFEST, Workspace
from spiketok.tokens.columns import COLUMNS
from spiketok.tokens.schemes import SCHEMES, Binned, EventPair, FineTime, Neuron, PerSpike, Quantized, make_scheme
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, shard_fingerprint
from spiketok.training.config import load_config
from spiketok.training.loop import prepare, train
from spiketok.training.runs import make_shards, open_shards, run_inputs, scheme_of, tokenize_command
from spiketok.training.sampling import RandomWindows, SequentialWindows, SessionTokens, SessionWindows
from tests.decodable import decodable_session
from tests.made import MS, SECOND, random_session, shard


def stored(root: Path, *sessions: Session) -> Workspace:
    workspace = Workspace(root)
    for session in sessions:
        write_session(session, workspace.store_path(session.id))
    return workspace


def imaged(session: Session) -> Session:
    """The same with dF/F of its units, so that every scheme serves it."""
    n_units, time_ns = len(session.units), np.arange(0, session.stop_ns, 40 * MS)
    value = np.random.default_rng(3).normal(size=(len(time_ns), n_units)).astype(np.float32)
    names = tuple(f"u{n}" for n in range(n_units))
    frames = Signal(time_ns, value, names, "dF/F", np.ones(len(time_ns), np.bool_), 25.0)
    return replace(session, signals={**session.signals, FLUORESCENCE: frames})


GAPS = Intervals(
    [SECOND // 3, 12 * SECOND, 40 * SECOND + 7 * MS, 71 * SECOND + 1],
    [9 * SECOND, 20 * SECOND + 11 * MS, 60 * SECOND, 80 * SECOND - 3],
)


def gapped(session: Session) -> Session:
    """Nothing observed for 20 s and 11 s, and for 3 s, which do not divide; it begins a third of a second late."""
    return replace(session, observed=GAPS)


# ---- the same time, in other stretches ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "frames"])  # the session has no stimulus
def test_a_session_without_gaps_has_the_same_columns_by_either_rule(tmp_path, scheme):
    session = imaged(replace(random_session("a", 1), observed=Intervals([0], [6 * SECOND])))
    workspace, made = stored(tmp_path, session), make_scheme(scheme)
    files = []
    for rule in (OBSERVED, CONTINUOUS):
        (done,) = tokenize_session(workspace, session.id, [made], rule)
        assert (done.state, done.notes) == ("new", [])
        files.append((Path(done.path) / COLUMNS).read_bytes())
    assert files[0] == files[1]
    assert len(files[0]) > 100


ON_SECONDS = [PerSpike(), Binned(), Binned(40 * MS), Neuron(view="history"), EventPair(), FineTime(), Quantized()]


def placed(tokens: SessionTokens | ShardReader, rule: Intervals) -> tuple[set[tuple[int, int]], SessionWindows]:
    windows = SessionWindows(tokens, rule)
    return set(zip(windows.start_ns.tolist(), windows.stop_ns.tolist(), strict=True)), windows


@pytest.mark.parametrize("scheme", ON_SECONDS, ids=str)
def test_no_window_is_lost_by_observed_stretches(tmp_path, scheme):
    """Where windows lie, which windows are met, and what is in them: as of the session baked as one stretch.

    But for a history, which ends where its stretch begins: before it nothing was observed.
    """
    session = gapped(random_session("a", 1, seconds=80.0, rate_hz=8.0))
    one, many = (shard(tmp_path / r, session, scheme, resolve_segments(session, r)) for r in (CONTINUOUS, OBSERVED))
    assert (len(one.segments), len(many.segments)) == (1, 3)
    assert many.segments.start_ns.tolist() == [0, 40 * SECOND, 71 * SECOND]
    (where, whole), (same, parts) = (placed(reader, session.observed) for reader in (one, many))
    assert where == same and len(where) == 4
    assert whole.dropped == parts.dropped
    length = scheme.window_ns or SECOND
    for sampler in (SequentialWindows, RandomWindows):
        first, second = (sampler([w], length).plan(3) for w in (whole, parts))
        assert sorted(first.start_ns.tolist()) == sorted(second.start_ns.tolist())
    plan = SequentialWindows([parts], length).plan()
    a = one.scheme.cut(one.columns, Windows(np.zeros(len(plan), np.int64), plan.start_ns, length))
    b = many.scheme.cut(many.columns, Windows(plan.segment, plan.start_ns, length))
    if not scheme.lookback_ns:
        assert a.offset.tolist() == b.offset.tolist()
        for name, column in a.columns.items():
            np.testing.assert_array_equal(column, b.columns[name], err_msg=name)
    else:
        assert len(plan) > 20 and a.offset.tolist() == b.offset.tolist()


def test_grids_that_do_not_divide_a_second_begin_with_their_stretch(tmp_path):
    """Bins of 30 ms: all inputs of a session stand on one grid, and each observed interval loses less than two bins."""
    session = gapped(random_session("a", 1, seconds=80.0, rate_hz=8.0))
    segments = resolve_segments(session, OBSERVED)
    readers = {str(s): shard(tmp_path / str(s), session, s, segments) for s in (Binned(30 * MS), Binned(20 * MS))}
    tokens = SessionTokens(readers)
    windows = SessionWindows(tokens, session.observed)
    assert tokens.grid_ns == 60 * MS
    origin = segments.start_ns[windows.segment]
    assert not ((windows.start_ns - origin) % (60 * MS)).any()
    assert len(windows.start_ns) == len(session.observed)
    assert 0 <= session.observed.total_ns - windows.total_ns < len(session.observed) * 2 * 60 * MS
    assert windows.dropped["outside_segments_ns"] == 0


def test_training_and_scores_are_those_of_one_stretch(tmp_path):
    """The linear decoder on a recording with gaps: the same predictions, to the last digit, by either rule."""
    session = gapped(decodable_session("day0", seconds=80.0))
    workspace, results = stored(tmp_path, session), {}
    for rule in (CONTINUOUS, OBSERVED):
        config = load_config("linear", None, [f"data.segments={rule}"])
        make_shards(workspace, [session.id], config, lambda _: None)
        (tokens,) = open_shards(workspace, [session.id], config)
        (divided,), _ = prepare(config, [tokens])
        results[rule] = train(config, [tokens], tmp_path / rule).scores, divided
    (one, whole), (many, parts) = results[CONTINUOUS], results[OBSERVED]
    assert one == many
    assert one[session.id]["decode:hand_vel"]["r2_mean"] > 0.5
    assert len(parts.tokens.segments) == 3
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(whole.splits[split].start_ns, parts.splits[split].start_ns)


# ---- old configurations and shards ----------------------------------------------------------------------------------


def test_shards_of_the_rule_continuous_keep_their_names():
    """As spiketok named them before there was another rule: a checkpoint finds what it was trained on."""
    assert shard_fingerprint(PerSpike(), "continuous", "d" * 64) == "bb38e7b11d194a41"
    assert shard_fingerprint(Binned(), "continuous", "d" * 64) == "6de2afb0ef3a1d7f"
    assert shard_fingerprint(PerSpike(), "trials:go,0,100", "d" * 64) == "bf56ad2c50416866"


def test_observed_is_the_default_and_continuous_is_asked_for():
    config = load_config("linear")
    assert config.data.segments == OBSERVED
    old = type(config).from_dict(config.to_dict() | {"data": config.to_dict()["data"] | {"segments": "continuous"}})
    (scheme,) = {scheme_of(wanted) for wanted in run_inputs(config).values()}
    assert tokenize_command(config, scheme) == "spiketok tokenize --scheme binned"
    assert tokenize_command(old, scheme) == "spiketok tokenize --scheme binned --segments continuous"


# ---- absurd extents -------------------------------------------------------------------------------------------------


def test_a_spike_days_behind_costs_next_to_nothing(tmp_path):
    """24 s of 5 units and one spike on day 23: megabytes by its extent times a thousand, kilobytes by what was seen."""
    base = random_session("a", 1, seconds=24.0)
    late = 23 * 86_400 * SECOND
    spikes = Spikes(np.append(base.spikes.time_ns, late), np.append(base.spikes.unit, np.int32(2)))
    observed = Intervals([0, late], [24 * SECOND, late + 1])
    session = replace(base, spikes=spikes, stop_ns=late + 1, observed=observed)
    workspace, schemes = stored(tmp_path, session), [Binned(), PerSpike(), FineTime()]
    planned = {p.scheme: p.nbytes for p in plan_session(workspace, session.id, schemes)}
    extent = {p.scheme: p.nbytes for p in plan_session(workspace, session.id, schemes, CONTINUOUS)}
    assert extent["binned"] > 500e6 and max(planned.values()) < 200e3
    assert tokenize_bytes(workspace, plan_session(workspace, session.id, schemes)) < 400e6
    (outcome,) = tokenize(workspace, [session.id], schemes)
    assert outcome.error is None
    for done in outcome.result:
        size = (Path(done.path) / COLUMNS).stat().st_size
        assert 0 < size <= planned[done.scheme]
        assert done.held + sum(done.lost.values()) == len(spikes)
        assert ShardReader(Path(done.path)).segments.start_ns.tolist() == [0, late]


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    made = stored(tmp_path, random_session("a", 1))
    assert [d.state for d in tokenize_session(made, "made/a", [Binned(), PerSpike()], OBSERVED)] == ["new", "new"]
    return made


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def test_a_damaged_shard_is_no_already(workspace):
    """It is said, nothing is replaced, and the other schemes go on."""
    path = shard_path(workspace, "made/a", Binned(), OBSERVED)
    flip(path / COLUMNS, 40)
    before = (path / COLUMNS).read_bytes()
    bad, good = tokenize_session(workspace, "made/a", [Binned(), PerSpike()], OBSERVED)
    assert (bad.state, good.state) == ("failed", "already")
    (line,) = bad.notes
    for word in (str(path), "is damaged (column 'counts' has sha256", "delete it and run 'spiketok tokenize' again"):
        assert word in line
    assert (path / COLUMNS).read_bytes() == before
    context, bad, good = plan_session(workspace, "made/a", [Binned(), PerSpike()])
    assert [p.state for p in (context, bad, good)] == ["already", "damaged", "already"]
    assert bad.reason == line


@pytest.mark.parametrize("harm", ["column", "manifest", "no JSON", "not a table", "context"])
def test_verify_tells_each_damage_in_one_line(workspace, harm):
    path = shard_path(workspace, "made/a", Binned(), OBSERVED)
    assert verify_tokens(workspace, "made/a") == []
    if harm == "column":
        flip(path / COLUMNS, 40)
    elif harm == "context":
        flip(context_path(workspace, "made/a") / COLUMNS, 0)
    elif harm == "manifest":
        flip(path / MANIFEST, (path / MANIFEST).read_bytes().index(b"made/a"))
    else:
        (path / MANIFEST).write_bytes(b"\xff{" if harm == "no JSON" else b"[1]")
    lines = verify_tokens(workspace, "made/a")
    assert len(lines) == 1  # a damaged context is said once, and not with each shard that was made with it
    assert all("delete it and run 'spiketok tokenize' again" in line and "\n" not in line for line in lines)


def verify_tokens(workspace: Workspace, session_id: str) -> list[str]:
    """What verify finds wrong with a session's shards and context; its source is not there."""
    return verify_session_files(workspace, session_id, quick=True).differences


def test_a_damaged_context_is_no_already(workspace):
    path = context_path(workspace, "made/a")
    flip(path / COLUMNS, 3)
    with pytest.raises(ArtefactError, match=r"context .* is damaged \(column 'observed.start_ns'.*delete it and run"):
        tokenize_session(workspace, "made/a", [Binned()], OBSERVED)
    assert plan_session(workspace, "made/a", [Binned()])[0].state == "damaged"
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    (done,) = tokenize_session(workspace, "made/a", [Binned()], OBSERVED)
    assert done.state == "already"
    assert plan_session(workspace, "made/a", [Binned()])[0] == plan_session(workspace, "made/a", [PerSpike()])[0]
    assert json.loads((path / "manifest.json").read_text())["format"] == f"spiketok-{CONTEXT}"


def test_a_bake_beyond_the_free_memory_is_refused_with_both_figures_before_it_is_taken(tmp_path, monkeypatch):
    """1 us bins of 80 s: two columns of a byte a unit and one of a byte, twice; the bound is stated by hand."""
    session = random_session("a", 1)
    workspace = stored(tmp_path, session)
    n_units, seconds = len(session.units), session.observed.total_ns / SECOND
    need = 2 * seconds * 10**6 * (2 * n_units + 1)
    monkeypatch.setattr("spiketok.pipeline.tokenize.available_memory", lambda: int(need) - 1)
    (done,) = tokenize_session(workspace, session.id, [Binned(bin_ns=1000)], OBSERVED)
    assert done.state == "failed"
    assert f"scheme 'binned' of {n_units} units over {seconds:.0f} s takes up to" in done.notes[0]
    assert "are free here: choose coarser settings" in done.notes[0]
    assert not list(workspace.shards.rglob("*.bin"))
    (done,) = tokenize_session(workspace, session.id, [Binned(bin_ns=20 * MS)], OBSERVED)
    assert done.state == "new"
