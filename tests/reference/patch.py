"""patch: K units in one bin, and with order ndt3 the behaviour sorted between them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from spiketok.recording.nouns import Intervals, Session, Signal, UnitTable
from spiketok.tokens.schemes import Patch
from tests import strategies
from tests.reference.common import inside, signal_bin

VARIANTS = [
    Patch(),
    Patch(bin_ns=7_000_001, patch_size=2, group_by="group", max_count=1),
    Patch(patch_size=3, order="ndt3"),
    Patch(
        bin_ns=10_000_000,
        patch_size=2,
        order="ndt3",
        covariates=("hand/vel", "reward"),
        constraints="assist",
        returns="reward",
        reserved=(2, 2, 4, 1, 3),
    ),
]
CONSTRAINT, SPIKES, RETURN, COVARIATE = 1, 2, 3, 4


def dressed(session: Session) -> Session:
    """The session with all that the variants ask for, made from what it has."""
    units = UnitTable(session.units.id, {"group": np.array([f"array {n % 2}" for n in range(len(session.units))])})
    time_ns = session.start_ns + np.arange(7) * 30_000_000
    assist = Signal(time_ns, np.eye(7, 6, dtype=np.float32) > 0, tuple("abcdef"), "", time_ns != time_ns[4])
    reward = Signal(time_ns[:4], np.ones((4, 1), np.float32), ("r",), "", np.ones(4, np.bool_))
    moved = session.signals.get("hand/vel", Signal(time_ns, np.ones((7, 2)), ("x", "y"), "", time_ns > 0))
    return replace(session, units=units, signals={"assist": assist, "reward": reward, "hand/vel": moved})


@st.composite
def sessions(draw) -> Session:
    """Sessions with groups that mix or not, and behaviours: constraints that hold for some bins, a return."""
    session = draw(strategies.sessions(with_signal=True))
    names = draw(st.lists(st.sampled_from(["b", "a"]), min_size=len(session.units), max_size=len(session.units)))
    n = draw(st.integers(0, 8))
    time_ns = draw(strategies.times()) + np.arange(n, dtype=np.int64) * draw(st.sampled_from([5_000_000, 20_000_000]))
    size = draw(st.sampled_from([3, 6]))
    value = np.array(draw(st.lists(st.sampled_from([0, 1]), min_size=n * size, max_size=n * size)), np.float32)
    valid = np.array(draw(st.lists(st.sampled_from([True, True, False]), min_size=n, max_size=n)), np.bool_)
    assist = Signal(time_ns, value.reshape(n, size), tuple("abcdef")[:size], "", valid)
    signals = {**session.signals, "assist": assist, "reward": Signal(time_ns, value[:n, None], ("r",), "", valid)}
    return replace(session, units=UnitTable(session.units.id, {"group": np.array(names)}), signals=signals)


def patches(scheme, session: Session) -> list[list[int]]:
    """The units of each patch, in order of slot."""
    groups: dict[str, list[int]] = {}
    for n in range(len(session.units)):
        name = session.units.columns["group"][n] if scheme.group_by else ""
        groups.setdefault(str(name), []).append(n)
    return [own[k : k + scheme.patch_size] for own in groups.values() for k in range(0, len(own), scheme.patch_size)]


def count(session: Session, unit: int, low: int, high: int) -> int:
    pairs = zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
    return sum(low <= t < high and u == unit for t, u in pairs)


def recorded(session: Session, unit: int, low: int, high: int) -> bool:
    own = session.unit_observed[unit].reshape(-1, 2)
    return inside(low, high, Intervals(own[:, 0], own[:, 1]).union())


def blank(scheme, session: Session) -> dict:
    """A token that says nothing yet."""
    size = scheme.patch_size
    token = {"patch": [0] * size, "unit": [-1] * size, "time": 0, "space": 0, "n_real": 0, "observed": 0}
    if session.unit_observed is not None:
        token["unit_observed"] = [0] * size
    if scheme.order == "ndt3":
        token |= {"kind": 0, "value": 0.0}
        if scheme.constraints:
            token["constraint"] = [0.0] * 3
    return token


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """The tokens of one window, sorted by time * n_space + space where the order is ndt3."""
    start, g = int(windows.start_ns[b]), windows.segment[b]
    stop, n_units = int(segments.stop_ns[g]), len(session.units)
    keep = [True] * n_units if keep is None else keep
    unit_row = list(range(n_units)) if unit_row is None else unit_row
    ndt3 = scheme.order == "ndt3"
    before = [sum(scheme.reserved[:k]) for k in range(5)]
    tokens = []
    for time in range(windows.length_ns // scheme.bin_ns):
        low, high = start + time * scheme.bin_ns, start + (time + 1) * scheme.bin_ns
        for p, units in enumerate(patches(scheme, session)):
            token = blank(scheme, session) | {"time": time, "space": p}
            token["observed"] = int(inside(low, high, session.observed))
            for k, n in enumerate(units):
                if keep[n]:
                    token["patch"][k] = min(count(session, n, low, high), scheme.max_count)
                    token["unit"][k] = unit_row[n]
                    token["n_real"] += 1
                    if session.unit_observed is not None:
                        token["unit_observed"][k] = int(recorded(session, n, low, high))
            if ndt3:
                token |= {"kind": SPIKES, "space": before[SPIKES] + p}
            tokens.append(token)
        if not ndt3:
            continue

        def add(kind: int, k: int, ok: bool, time: int = time, **what) -> None:
            where = {"kind": kind, "time": time, "space": before[kind] + k, "observed": int(ok)}
            tokens.append(blank(scheme, session) | where | what)

        if scheme.constraints:
            found, ok = signal_bin(session.signals[scheme.constraints], low, scheme.bin_ns, stop)
            found = np.float32(found)
            if time > 0:
                old, was = signal_bin(session.signals[scheme.constraints], low - scheme.bin_ns, scheme.bin_ns, stop)
                old = np.float32(old)
            for c in range(len(found) // 3):
                own = slice(3 * c, 3 * c + 3)
                if time == 0 or ok != was or found[own].tolist() != old[own].tolist():
                    add(CONSTRAINT, c, ok, constraint=found[own].tolist())
        if scheme.returns:
            (found,), ok = signal_bin(session.signals[scheme.returns], low, scheme.bin_ns, stop)
            add(RETURN, 0, ok, value=found)
        d = 0
        for name in scheme.covariates:
            values, ok = signal_bin(session.signals[name], low, scheme.bin_ns, stop)
            for found in values:
                add(COVARIATE, d, ok, value=found)
                d += 1
    if ndt3:
        tokens.sort(key=lambda token: token["time"] * sum(scheme.reserved) + token["space"])
    dtypes = {"patch": np.uint8, "unit": np.int32, "time": np.int32, "space": np.int32, "n_real": np.uint16}
    dtypes |= {"observed": np.uint8, "unit_observed": np.uint8, "kind": np.uint8}
    dtypes |= {"value": np.float32, "constraint": np.float32}
    shape = {"patch": (-1, scheme.patch_size), "unit": (-1, scheme.patch_size), "constraint": (-1, 3)}
    shape["unit_observed"] = shape["patch"]
    columns = {}
    for name in blank(scheme, session):
        columns[name] = np.array([token[name] for token in tokens], dtypes[name]).reshape(shape.get(name, -1))
    return columns


def check_bake(scheme, session, segments, baked) -> None:
    """Every count of every bin in its slot, nothing in the others, and the clipped ones counted."""
    row, held, clipped = baked.columns["segment.row"].tolist(), baked.columns["patch"], 0
    layout = patches(scheme, session)
    assert baked.columns["n_real"].tolist() == [len(units) for units in layout]
    by_bin = held.reshape(row[-1], len(layout), scheme.patch_size)
    for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        for t in range(row[g + 1] - row[g]):
            low = start + t * scheme.bin_ns
            for p, units in enumerate(layout):
                exact = [count(session, n, low, min(low + scheme.bin_ns, stop)) for n in units]
                found = by_bin[row[g] + t, p].tolist()
                assert found[: len(units)] == [min(c, scheme.max_count) for c in exact]
                assert not any(found[len(units) :])
                clipped += sum(max(c - scheme.max_count, 0) for c in exact)
    assert baked.lost["clipped"] == clipped
    assert scheme.spikes_held(baked.columns) == int(held.sum(dtype=np.int64))
