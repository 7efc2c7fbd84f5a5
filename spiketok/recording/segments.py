"""Which stretches of a session are baked: its segments, by a rule.

What is unusual: the usual rule goes by what was observed, not by the extent. One spike that lies days behind a
recording of seconds would else make a shard of days.
"""

from __future__ import annotations

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session

OBSERVED = "observed"  # each stretch of observed time
CONTINUOUS = "continuous"  # the whole extent of a session as one stretch
MOST_S = 2.0**63 / NS_PER_S  # int64 ns end there
JOINED_GAP_NS = 10 * NS_PER_S  # stretches of observed time with a shorter gap are baked as one: trials, short pauses


def resolve_segments(session: Session, rule: str) -> Intervals:
    """The stretches of a session that are baked.

    Args:
        session: the session.
        rule: ``"observed"`` (:func:`observed_stretches`), ``"continuous"`` (its whole extent as one stretch), or
            ``"trials:ALIGN,PRE_MS,POST_MS"`` (for each trial ``[align - pre, align + post)``, where ALIGN is ``start``,
            ``stop``, a time column of the trial table, or ``COLUMN+start`` or ``COLUMN+stop`` where that counts from
            the trial's start or stop). Trials whose time is no number or lies outside of them are left out.

    Raises:
        UsageError: the rule cannot be read. DataError: the session has no trials, no trial has the time, or most times
            lie outside of their trials. UnknownNameError: the trial table has no such column.
    """
    if rule == CONTINUOUS:
        return Intervals(np.array([session.start_ns]), np.array([session.stop_ns]))
    if rule == OBSERVED:
        return observed_stretches(session.observed, session.start_ns, session.stop_ns)
    align, pre_ns, post_ns = parse_trial_rule(rule)
    trials = session.trials
    if trials is None or len(trials) == 0:
        tables = ", ".join(session.intervals) or "none"
        message = f"{session.id} has no trials (tables: {tables}): use --segments observed"
        raise DataError(message)
    time_ns = _trial_times(trials, align, session.id)
    return Intervals(time_ns - pre_ns, time_ns + post_ns)


def _trial_times(trials: Intervals, align: str, session_id: str) -> np.ndarray:
    """The times to align to, int64 ``[K]``, of the trials that have one."""
    edges = {"start": trials.start_ns, "stop": trials.stop_ns}
    if align in edges:
        return edges[align]
    name, _, base = align.rpartition("+") if align.rpartition("+")[2] in edges else (align, "", "")
    numeric = {
        k for k, c in trials.columns.items() if not isinstance(c, Ragged) and c.dtype.kind == "f" and c.ndim == 1
    }
    if name not in numeric:
        raise UnknownNameError("trial time", name, set(edges) | numeric, session_id)
    seconds = trials.columns[name]
    stated = np.isfinite(seconds)
    if not stated.any():
        message = f"{session_id}: no trial has a finite '{name}'"
        raise DataError(message)

    def inside(base: str) -> tuple[np.ndarray, np.ndarray]:
        """The times in ns, in floating point, and which lie in their trial; a filler beyond int64 lies in none."""
        time_ns = np.rint(np.clip(np.where(stated, seconds, 0), -MOST_S, MOST_S) * NS_PER_S)
        time_ns = time_ns + (edges[base] if base else 0)
        return time_ns, stated & (time_ns >= trials.start_ns) & (time_ns <= trials.stop_ns)

    time_ns, good = inside(base)
    if 2 * good.sum() < stated.sum():
        first = int(np.flatnonzero(stated & ~good)[0])
        message = (
            f"{session_id}: {int(stated.sum() - good.sum())} of {int(stated.sum())} times '{align}' lie outside of "
            f"their trial (the first is {time_ns[first] / NS_PER_S:.6g} s, its trial "
            f"{trials.start_ns[first] / NS_PER_S:.6g} to {trials.stop_ns[first] / NS_PER_S:.6g} s)"
        )
        relative = [other for other in edges if 2 * inside(other)[1].sum() >= stated.sum()]
        cure = (
            f"they fit as counted from the trial's {relative[0]}: align to '{name}+{relative[0]}'" if relative else ""
        )
        message += f": {cure or 'align to another column, or to start or stop'}"
        raise DataError(message)
    found = np.rint(seconds[good] * NS_PER_S).astype(np.int64)
    return found + edges[base][good] if base else found


def observed_stretches(observed: Intervals, start_ns: int, stop_ns: int) -> Intervals:
    """The stretches of a session that are baked where its observed time is: what lies in no gap, and no more.

    Gaps below ``JOINED_GAP_NS`` do not divide. A stretch begins on a whole second counted from the session's start, the
    last one before its first observed instant: bins that divide a second are those of the session as one stretch. Other
    bins begin with their stretch. A session that was observed throughout is one stretch from its start to its stop.

    Args:
        observed: int64 ns, in any order. start_ns, stop_ns: the session's extent, which no stretch leaves.

    >>> second = 1_000_000_000
    >>> found = observed_stretches(Intervals([0, 2 * second + 1], [second, 3 * second]), 0, 100 * second)
    >>> found.start_ns.tolist(), found.stop_ns.tolist()
    ([0], [3000000000])
    """
    inside = observed.intersect(Intervals([start_ns], [stop_ns]))
    if not len(inside):
        return inside
    divides = inside.start_ns[1:] - inside.stop_ns[:-1] >= JOINED_GAP_NS
    first = inside.start_ns[np.concatenate([[True], divides])]
    return Intervals(first - (first - start_ns) % NS_PER_S, inside.stop_ns[np.concatenate([divides, [True]])])


def parse_trial_rule(rule: str) -> tuple[str, int, int]:
    """``"trials:ALIGN,PRE_MS,POST_MS"`` as (align, pre_ns, post_ns); UsageError for what is no rule of segments."""
    kind, _, rest = rule.partition(":")
    parts = [p.strip() for p in rest.split(",")]
    try:
        if kind != "trials" or len(parts) != 3:
            raise ValueError(rule)
        align, pre_ns, post_ns = parts[0], round(float(parts[1]) * NS_PER_MS), round(float(parts[2]) * NS_PER_MS)
    except ValueError:
        message = f"segments '{rule}' cannot be read: use 'observed', 'continuous' or 'trials:ALIGN,PRE_MS,POST_MS'"
        raise UsageError(message) from None
    if pre_ns + post_ns <= 0:
        message = f"segments '{rule}' are {(pre_ns + post_ns) / NS_PER_MS:g} ms long, must be longer than 0"
        raise UsageError(message)
    return align, pre_ns, post_ns
