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
JOINED_GAP_NS = 10 * NS_PER_S  # stretches of observed time with a shorter gap are baked as one: trials, short pauses


def resolve_segments(session: Session, rule: str) -> Intervals:
    """The stretches of a session that are baked.

    Args:
        session: the session.
        rule: ``"observed"`` (:func:`observed_stretches`), ``"continuous"`` (its whole extent as one stretch), or
            ``"trials:ALIGN,PRE_MS,POST_MS"`` (for each trial ``[align - pre, align + post)``, where ALIGN is ``start``,
            ``stop`` or a time column of the trial table).

    Raises:
        UsageError: the rule cannot be read. DataError: the session has no trials, or no trial has the time.
        UnknownNameError: the trial table has no such column.
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
    if align in ("start", "stop"):
        time_ns = trials.start_ns if align == "start" else trials.stop_ns
    else:
        column = trials.columns.get(align)
        numeric = {
            k for k, c in trials.columns.items() if not isinstance(c, Ragged) and c.dtype.kind == "f" and c.ndim == 1
        }
        if column is None or align not in numeric:
            raise UnknownNameError("trial time", align, {"start", "stop"} | numeric, session.id)
        time_ns = np.rint(column[np.isfinite(column)] * NS_PER_S).astype(np.int64)
    if time_ns.size == 0:
        message = f"{session.id}: no trial has a finite '{align}'"
        raise DataError(message)
    return Intervals(time_ns - pre_ns, time_ns + post_ns)


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
