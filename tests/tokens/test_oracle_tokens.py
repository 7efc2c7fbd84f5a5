"""Tokens against the field's own libraries, run by ``make oracle``.

torch_brain: POYO's tokens, with and without unit dropout, and its random window sampler's number of windows. pynapple,
elephant and numpy: binned counts. They work in float64 seconds, so times are kept off bin edges and window borders,
where float seconds put a spike on either side by rounding; on edges, whole nanoseconds are the truth (test_schemes.py).
The peers are imported in the tests: where one is missing, its tests fail.
"""

from __future__ import annotations

import numpy as np
import pytest

from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Binned, PerSpike
from spiketok.tokens.schemes.base import Windows
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.loader import Loader
from spiketok.training.sampling import RandomWindows, SessionWindows

pytestmark = pytest.mark.oracle

N_UNITS, SECONDS = 30, 40
BIN_NS, WINDOW_NS = 20_000_000, 1_000_000_000


@pytest.fixture(scope="module")
def session() -> Session:
    """Log-normal rates, one silent unit; every spike at least 1 us away from any multiple of 1 ms."""
    rng = np.random.default_rng(0)
    times = []
    for n in range(N_UNITS):
        count = 0 if n == 7 else int(rng.lognormal(np.log(20), 1.0) * SECONDS)
        ms = rng.integers(0, SECONDS * 1000, count)
        times.append(ms * 1_000_000 + rng.integers(1_000, 999_000, count))
    stop = SECONDS * 1_000_000_000
    whole = Intervals([0], [stop])
    units = UnitTable([f"unit_{n:02d}" for n in range(N_UNITS)])
    return Session("oracle/one", "s", 0, stop, units, Spikes.from_units(times), whole, Source("m.nwb", "0" * 64, 1))


@pytest.fixture(scope="module")
def starts() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, (SECONDS - 1) * 1000, 40) * 1_000_000


# ---- torch_brain ----------------------------------------------------------------------------------------------------


def as_torch_brain(session: Session):
    import torch_brain.data as torch_brain

    domain = torch_brain.Interval(0.0, session.stop_ns * 1e-9)
    return torch_brain.Data(
        session=torch_brain.Data(id="one"),
        units=torch_brain.ArrayDict(id=session.units.id.astype(object)),
        spikes=torch_brain.IrregularTimeSeries(
            timestamps=session.spikes.time_ns * 1e-9, unit_index=session.spikes.unit.astype(np.int64), domain=domain
        ),
        domain=domain,
    )


def poyo(session: Session):
    from torch_brain.models import POYO

    model = POYO(sequence_length=1.0, latent_step=0.125, num_latents_per_step=4, dim_out=2, dim=16)
    model.unit_emb.initialize_vocab(session.units.id.tolist()[::-1])  # rows that are not the session's own order
    model.session_emb.initialize_vocab(["one"])
    return model


def same_tokens(own: dict[str, np.ndarray], theirs: dict) -> None:
    np.testing.assert_array_equal(own["type"], theirs["input_token_type"].obj)
    np.testing.assert_array_equal(own["unit"], theirs["input_unit_index"].obj)
    # float32 of float64 seconds that were subtracted, against float32 of exact nanoseconds: one step of float32 at 1 s
    np.testing.assert_allclose(own["time"], theirs["input_timestamps"].obj, rtol=0, atol=6e-8)


def test_per_spike_tokens_are_poyos(session, starts):
    data, model, scheme = as_torch_brain(session), poyo(session), PerSpike()
    rows = np.array(model.unit_emb.tokenizer(session.units.id.tolist()), np.int32)
    columns = scheme.bake(session, session.observed).columns
    tokens = scheme.cut(columns, Windows(np.zeros(len(starts), np.int64), starts, WINDOW_NS), None, rows)
    for b, start in enumerate(starts.tolist()):
        own = {name: column[tokens.offset[b] : tokens.offset[b + 1]] for name, column in tokens.columns.items()}
        same_tokens(own, model.tokenize(data.slice(start * 1e-9, start * 1e-9 + 1.0)))


def test_unit_dropout_leaves_the_tokens_that_torch_brain_leaves(session, starts):
    """torch_brain drops first and tokenizes then; the cut drops while it tokenizes."""
    from torch_brain.transforms import UnitDropout

    dropout = UnitDropout(min_units=5, mode_units=10, max_units=20, peak=4, seed=0)
    data, model, scheme = as_torch_brain(session), poyo(session), PerSpike()
    rows = np.array(model.unit_emb.tokenizer(session.units.id.tolist()), np.int32)
    columns = scheme.bake(session, session.observed).columns
    np.random.seed(0)  # noqa: NPY002 - the peer draws from numpy's global generator
    for start in starts.tolist():
        sample = dropout(data.slice(start * 1e-9, start * 1e-9 + 1.0))
        keep = np.isin(session.units.id, sample.units.id.astype(str))[None]
        assert 5 <= keep.sum() < 20
        tokens = scheme.cut(columns, Windows(np.zeros(1, np.int64), np.array([start]), WINDOW_NS), keep, rows)
        same_tokens(tokens.columns, model.tokenize(sample))


def test_chunks_are_torch_brains_slices(session, starts):
    """POSSM's chunks (not in the released package) are its slices of 50 ms: units, times from the slice's start."""
    data, scheme = as_torch_brain(session), PerSpike(start_end=False, chunk_ns=50_000_000)
    columns = scheme.bake(session, session.observed).columns
    windows = Windows(np.zeros(len(starts), np.int64), starts, WINDOW_NS)
    tokens = scheme.cut(columns, windows)
    offsets = scheme.chunk_offsets(tokens, windows)
    assert offsets.shape == (len(starts), 21)
    blanks = 0
    for b, start in enumerate(starts.tolist()):
        for c in range(20):
            rows = slice(offsets[b, c], offsets[b, c + 1])
            kind, unit, time = (tokens.columns[name][rows] for name in ("type", "unit", "time"))
            low_ns = start + c * 50_000_000
            theirs = data.slice(low_ns * 1e-9, (low_ns + 50_000_000) * 1e-9).spikes
            if len(theirs) == 0:
                assert (kind.tolist(), unit.tolist(), time.tolist()) == ([3], [0], [0.0])
                blanks += 1
            else:
                assert not kind.any()
                np.testing.assert_array_equal(unit, theirs.unit_index)
                np.testing.assert_allclose(time, theirs.timestamps, rtol=0, atol=4e-9)
    assert blanks < len(starts) * 20


def test_order_by_unit_is_torch_brains_spikes_of_each_unit(session, starts):
    data, scheme = as_torch_brain(session), PerSpike(order="unit")
    windows = Windows(np.zeros(len(starts), np.int64), starts, WINDOW_NS)
    tokens = scheme.cut(scheme.bake(session, session.observed).columns, windows)
    offsets = scheme.unit_offsets(tokens, windows, N_UNITS)
    for b, start in enumerate(starts.tolist()):
        theirs = data.slice(start * 1e-9, start * 1e-9 + 1.0).spikes
        for n in range(N_UNITS):
            time = tokens.columns["time"][offsets[b, n] : offsets[b, n + 1]]
            assert (time[0], time[-1]) == (0, 1)
            np.testing.assert_allclose(time[1:-1], theirs.timestamps[theirs.unit_index == n], rtol=0, atol=6e-8)


def test_padded_batches_are_torch_brains_collate(session, tmp_path):
    """The padded layout against pad8 and track_mask8, on the same windows."""
    from torch_brain.batching import collate

    data, model = as_torch_brain(session), poyo(session)
    rows = np.array(model.unit_emb.tokenizer(session.units.id.tolist()), np.int32)
    write_shard(tmp_path / "s", PerSpike(), session, session.observed, segments_rule="continuous", store_digest="-")
    windows = [SessionWindows(ShardReader(tmp_path / "s"), session.observed)]
    loader = Loader(
        windows, RandomWindows(windows, WINDOW_NS), batch_size=8, layout="padded", unit_rows={session.id: rows}
    )
    for batch in loader:
        starts = batch.start_ns * 1e-9
        theirs = collate([model.tokenize(data.slice(start, start + 1.0)) for start in starts])
        tokens = batch.tokens()
        assert tokens.valid_BL.shape == theirs["input_mask"].shape
        np.testing.assert_array_equal(tokens.valid_BL, theirs["input_mask"])
        np.testing.assert_array_equal(tokens.columns["unit"], theirs["input_unit_index"])
        np.testing.assert_array_equal(tokens.columns["type"], theirs["input_token_type"])
        np.testing.assert_allclose(tokens.columns["time"], theirs["input_timestamps"], rtol=0, atol=6e-8)


def test_as_many_random_windows_as_torch_brains_sampler():
    """Also for intervals shorter than a window, of exactly one, and of a window and a bit."""
    from torch_brain.data import Interval
    from torch_brain.samplers import RandomFixedWindowSampler

    lengths_ms = np.array([400, 1000, 1001, 1999, 2000, 7300, 12_345])
    start_ms = np.cumsum(np.concatenate([[0], lengths_ms[:-1] + 500]))
    intervals = Intervals(start_ms * 1_000_000, (start_ms + lengths_ms) * 1_000_000)
    theirs = RandomFixedWindowSampler(
        sampling_intervals={"one": Interval(start_ms * 1e-3, (start_ms + lengths_ms) * 1e-3)}, window_length=1.0
    )

    class Reader:
        segments, observed, scheme = Intervals([0], [60_000_000_000]), intervals, PerSpike()
        info, columns = type("Info", (), {"id": "oracle/one"})(), {}

    own = RandomWindows([SessionWindows(Reader(), intervals)], WINDOW_NS)
    for epoch in range(20):
        assert len(own.plan(epoch)) == len(theirs) == len(list(theirs)) == (lengths_ms // 1000).sum()


# ---- binned ---------------------------------------------------------------------------------------------------------


def counts_of(session: Session) -> np.ndarray:
    baked = Binned(BIN_NS).bake(session, session.observed)
    assert baked.lost == {"outside_segments": 0, "saturated": 0}
    return baked.columns["counts"].astype(np.int64)


def test_counts_are_numpys_histogram(session):
    edges = np.arange(SECONDS * 50 + 1) * BIN_NS
    wanted = [np.histogram(session.spikes.time_ns[session.spikes.unit == n], bins=edges)[0] for n in range(N_UNITS)]
    np.testing.assert_array_equal(counts_of(session), np.stack(wanted, axis=1))


def test_counts_are_pynapples(session):
    import pynapple as nap

    support = nap.IntervalSet(0, SECONDS)
    groups = {n: nap.Ts(session.spikes.time_ns[session.spikes.unit == n] * 1e-9) for n in range(N_UNITS)}
    counted = nap.TsGroup(groups, time_support=support).count(BIN_NS * 1e-9, ep=support)
    np.testing.assert_array_equal(counts_of(session), np.asarray(counted.values, np.int64))


def test_counts_are_elephants(session):
    import neo
    import quantities
    from elephant.conversion import BinnedSpikeTrain

    trains = [
        neo.SpikeTrain(session.spikes.time_ns[session.spikes.unit == n] * 1e-9, units="s", t_stop=SECONDS)
        for n in range(N_UNITS)
    ]
    binned = BinnedSpikeTrain(trains, bin_size=BIN_NS * 1e-9 * quantities.s, t_start=0 * quantities.s)
    np.testing.assert_array_equal(counts_of(session), binned.to_array().T)
