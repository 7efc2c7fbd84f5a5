"""Counts against the field's own binning, on clock ticks and on edges, run by ``make oracle``.

test_oracle_tokens.py compares off the edges; here spikes stand on every edge too, where whole nanoseconds are the
truth, and ``compat`` must give what each tool gives. The peers are imported in the tests: where one is missing, its
tests fail.
"""

from __future__ import annotations

import numpy as np
import pytest

from spiketok.recording.nouns import Intervals, Session, Source, Spikes, UnitTable
from spiketok.tokens.schemes import Binned

pytestmark = pytest.mark.oracle

N_UNITS, SECONDS, START_S = 8, 300, 100
BIN_NS, NS = 20_000_000, 1_000_000_000
START_NS, STOP_NS = START_S * NS, (START_S + SECONDS) * NS


@pytest.fixture(scope="module")
def session() -> Session:
    """Units on a clock of 1 ms (every 20th tick is an edge), of 30 kHz, and one with a spike on every edge."""
    rng = np.random.default_rng(0)
    times = [START_NS + np.arange(SECONDS * 50, dtype=np.int64) * BIN_NS]
    for n in range(1, N_UNITS):
        clock_hz = 1000 if n % 2 else 30_000
        tick = np.unique(rng.integers(START_S * clock_hz, (START_S + SECONDS) * clock_hz, 6000))
        times.append(np.rint(tick * (NS / clock_hz)).astype(np.int64))
    whole = Intervals([START_NS], [STOP_NS])
    units = UnitTable([f"u{n}" for n in range(N_UNITS)])
    source = Source("m.nwb", "0" * 64, 1)
    return Session("oracle/edges", "s", START_NS, STOP_NS, units, Spikes.from_units(times), whole, source)


def trains_s(session: Session) -> list[np.ndarray]:
    return [session.spikes.time_ns[session.spikes.unit == n] / 1e9 for n in range(N_UNITS)]


def counts_of(session: Session, scheme: Binned) -> np.ndarray:
    """The counts of a scheme that loses no spike of this session."""
    baked = scheme.bake(session, session.observed)
    assert set(baked.lost.values()) == {0}
    return baked.columns["counts"].astype(np.int64)


@pytest.fixture(scope="module")
def truth(session) -> np.ndarray:
    counts = np.zeros((SECONDS * 50, N_UNITS), np.int64)
    np.add.at(counts, ((session.spikes.time_ns - START_NS) // BIN_NS, session.spikes.unit), 1)
    np.testing.assert_array_equal(counts_of(session, Binned()), counts)
    assert (counts[:, 0] == 1).all()
    return counts


def assert_differs_on_edges_only(session: Session, theirs: np.ndarray, truth: np.ndarray) -> int:
    """Each unit's counts are those of the spikes off the edges, and on the edges as many; returns how many differ."""
    since = (session.spikes.time_ns - START_NS) % BIN_NS
    off = np.zeros_like(truth)
    clear = (since > 1000) & (since < BIN_NS - 1000)
    np.add.at(off, ((session.spikes.time_ns[clear] - START_NS) // BIN_NS, session.spikes.unit[clear]), 1)
    assert ((theirs - off) >= 0).all()
    return int((theirs != truth).sum())


def test_pynapple_agrees_off_the_edges(session, truth):
    import pynapple as nap

    support = nap.IntervalSet(START_S, START_S + SECONDS)
    group = nap.TsGroup({n: nap.Ts(t) for n, t in enumerate(trains_s(session))}, time_support=support)
    theirs = np.asarray(group.count(BIN_NS * 1e-9, ep=support).values, np.int64)
    assert_differs_on_edges_only(session, theirs, truth)


def test_elephant_agrees_off_the_edges(session, truth):
    import neo
    import quantities
    from elephant.conversion import BinnedSpikeTrain

    trains = [neo.SpikeTrain(t, units="s", t_start=START_S, t_stop=START_S + SECONDS) for t in trains_s(session)]
    theirs = BinnedSpikeTrain(trains, bin_size=BIN_NS * 1e-9 * quantities.s).to_array().T
    assert_differs_on_edges_only(session, theirs, truth)


@pytest.mark.parametrize("bin_ns", [20_000_000, 5_000_000, 1_000_000])
def test_compat_torch_brain_is_bin_spikes(session, bin_ns):
    """Under its domain from the segment's start, as its Dataset slices it; its times on edges are often wrong."""
    from torch_brain.data import Interval, IrregularTimeSeries
    from torch_brain.utils.binning import bin_spikes

    seconds, unit = session.spikes.time_ns / 1e9, session.spikes.unit.astype(np.int64)
    # of a domain of its own each spike is at `timestamps - domain.start`
    domain = Interval(float(START_S), float(START_S + SECONDS))
    spikes = IrregularTimeSeries(timestamps=seconds, unit_index=unit, domain=domain)
    theirs = bin_spikes(spikes, N_UNITS, bin_ns / 1e9)
    np.testing.assert_array_equal(counts_of(session, Binned(bin_ns, compat="torch_brain")), theirs)
    exact = counts_of(session, Binned(bin_ns))
    assert (exact != theirs).any()
    assert exact.sum() == theirs.sum()


@pytest.mark.parametrize("compat", ["falcon-end", "falcon-start"])
def test_compat_falcon_is_bin_units(session, compat):
    """From time stamps as H1's (``offset + k * 0.02``) at the ends of bins, and as M2's at their starts."""
    import pandas
    from falcon_challenge.dataloaders import bin_units

    first = float(START_S) + (0.02 if compat == "falcon-end" else 0.0)
    stamps = first + np.arange(SECONDS * 50) * 0.02
    units = pandas.DataFrame({"spike_times": trains_s(session)})
    theirs = bin_units(units, 0.02, stamps, is_timestamp_bin_start=compat == "falcon-start")
    baked = Binned(compat=compat).bake(session, session.observed)
    np.testing.assert_array_equal(baked.columns["counts"], theirs)
    assert baked.lost["compat"] == len(session.spikes) - int(theirs.sum(dtype=np.int64))
    assert (theirs != counts_of(session, Binned())).any()


@pytest.mark.parametrize("bin_ms", [1, 5, 20])
def test_compat_nlb_is_its_formula(session, bin_ms, truth):
    """``int(round(1000 t, 6))`` in a 1 ms grid from time zero, then sums of ``bin_ms`` rows."""
    grid = np.zeros(((START_S + SECONDS) * 1000, N_UNITS), np.int64)
    for n, train in enumerate(trains_s(session)):
        np.add.at(grid[:, n], [int(round(1000 * t, 6)) for t in train.tolist()], 1)
    theirs = grid.reshape(-1, bin_ms, N_UNITS).sum(axis=1)[START_S * 1000 // bin_ms :]
    found = counts_of(session, Binned(bin_ms * 1_000_000, compat="nlb"))
    np.testing.assert_array_equal(found, theirs)
    if bin_ms == 20:
        np.testing.assert_array_equal(found, truth)  # no spike is misplaced on this grid
