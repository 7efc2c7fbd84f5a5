"""event-pair: the spikes of the history and of the current window by step and unit, between SOS, EOS and PADs."""

from __future__ import annotations

import numpy as np

from spiketok.tokens.schemes import EventPair

VARIANTS = [
    EventPair(),
    EventPair(10_000_000, 20_000_000, 30_000_000, max_current=4, max_history=5),
    EventPair(7_000_001, 14_000_002, 7_000_001, pad=False),
    EventPair(10_000_000, 10_000_000, 250_000_000, max_current=3, max_history=4, pad=False),
]


def stream(scheme, session, low: int, start: int, stop: int, keep) -> list[tuple[int, int]]:
    """(step since ``low``, unit) of the kept spikes from ``start`` to ``stop``, a whole number of steps on."""
    pairs = zip(session.spikes.time_ns.tolist(), session.spikes.unit.tolist(), strict=True)
    return sorted(((t - low) // scheme.step_ns, u) for t, u in pairs if start <= t < stop and keep[u])


def observed_since(scheme, session, low: int, at: int) -> int:
    """From where on every step before ``at`` was observed; not before ``low``."""
    stretches = list(zip(session.observed.start_ns.tolist(), session.observed.stop_ns.tolist(), strict=True))
    since = at
    while since > low and any(a <= since - scheme.step_ns and since <= b for a, b in stretches):
        since -= scheme.step_ns
    return since


def streams(scheme, session, segment_start: int, at: int, keep) -> list[tuple[list[tuple[int, int]], int]]:
    """Both streams of the window at ``at``, and the number of tokens that each has room for."""
    low = at - scheme.history_ns
    history = stream(scheme, session, low, observed_since(scheme, session, max(low, segment_start), at), at, keep)
    current = stream(scheme, session, at, at, at + scheme.current_ns, keep)
    return [(history, scheme.max_history), (current, scheme.max_current)]


def window(scheme, session, segments, windows, b, keep, unit_row) -> dict[str, np.ndarray]:
    """Tokens as (unit, dt, stream, type), in their order."""
    n_units = len(session.units)
    keep = [True] * n_units if keep is None else keep
    unit_row = list(range(n_units)) if unit_row is None else unit_row
    special = max(unit_row) + 1
    n_steps = max(scheme.current_ns, scheme.history_ns) // scheme.step_ns
    begin = int(segments.start_ns[windows.segment[b]])
    tokens = []
    for s, (pairs, room) in enumerate(streams(scheme, session, begin, int(windows.start_ns[b]), keep)):
        while len(pairs) > room - 2:
            pairs = pairs[1:]
        own = [(special, 0, s, 1), *[(unit_row[u], k, s, 0) for k, u in pairs], (special + 1, n_steps + 2, s, 2)]
        while scheme.pad and len(own) < room:
            own.append((special + 2, n_steps + 3, s, 3))
        tokens += own
    dtypes = {"unit": np.int32, "dt": np.int16, "stream": np.uint8, "type": np.uint8}
    return {name: np.array([t[i] for t in tokens], dtype) for i, (name, dtype) in enumerate(dtypes.items())}


def check_bake(scheme, session, segments, baked) -> None:
    """Each segment's rows are its spikes by step and unit, and windows end to end cut off what is said."""
    row, step_first, step_row = (baked.columns[name] for name in ("segment.row", "step.first", "step.row"))
    everyone, cut_off = [True] * len(session.units), [0, 0]
    for g, (start, stop) in enumerate(zip(segments.start_ns.tolist(), segments.stop_ns.tolist(), strict=True)):
        pairs = stream(scheme, session, start, start, stop, everyone)
        assert baked.columns["unit"][row[g] : row[g + 1]].tolist() == [u for _, u in pairs]
        for k in range(-((start - stop) // scheme.step_ns)):
            assert step_row[step_first[g] + k] == row[g] + sum(step < k for step, _ in pairs)
        for at in range(start, stop - scheme.current_ns + 1, scheme.current_ns):
            for s, (own, room) in enumerate(streams(scheme, session, start, at, everyone)):
                cut_off[s] += max(0, len(own) - (room - 2))
        for k in range(-((start - stop) // scheme.step_ns)):
            at = start + k * scheme.step_ns
            steps_back = (at - observed_since(scheme, session, start, at)) // scheme.step_ns
            assert baked.columns["step.since"][step_first[g] + k] == step_first[g] + k - steps_back
    assert step_row[-1] == row[-1] == len(baked.columns["unit"])
    assert [baked.lost["cut_off_history"], baked.lost["cut_off_current"]] == cut_off
