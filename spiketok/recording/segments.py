"""Which stretches of a session are baked: its segments, by a rule.

What is unusual: the usual rule goes by what was observed, not by the extent. One spike that lies days behind a
recording of seconds would else make a shard of days.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.recording.intervals import touching
from spiketok.recording.nouns import NS_PER_MS, NS_PER_S, Intervals, Ragged, Session

OBSERVED = "observed"  # each stretch of observed time
CONTINUOUS = "continuous"  # the whole extent of a session as one stretch
MOST_S = 2.0**63 / NS_PER_S  # int64 ns end there
TIME_UNITS = {"s": 1.0, "ms": 1e-3}  # in which a column may count
JOINED_GAP_NS = 10 * NS_PER_S  # stretches of observed time with a shorter gap are baked as one: trials, short pauses


def resolve_segments(session: Session, rule: str) -> Intervals:
    """The stretches of a session that are baked.

    Args:
        session: the session.
        rule: ``"observed"`` (:func:`observed_stretches`), ``"continuous"`` (its whole extent as one stretch), or
            ``"trials:ALIGN,PRE_MS,POST_MS"`` (for each trial ``[align - pre, align + post)``, where ALIGN is ``start``,
            ``stop``, a time column of the trial table, or ``COLUMN+start`` or ``COLUMN+stop`` where that counts from
            the trial's start or stop). Trials whose time is no number or lies outside of them are left out, and so are
            those whose stretch holds no observed time.

    Raises:
        UsageError: the rule cannot be read. DataError: the session has no trials, no trial has the time, most times
            lie outside of their trials, or all lie where nothing was observed. UnknownNameError: the trial table has
            no such column.
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
    found = trial_times(trials, align, session.id)
    time_ns = found.time_ns[found.inside]
    seen = touching(Intervals(time_ns - pre_ns, time_ns + post_ns), session.observed)
    if not seen.any():
        first_s, since_s = time_ns[0] / NS_PER_S, session.observed.start_ns[0] / NS_PER_S
        place = f"the first is at {first_s:.6g} s, observed is from {since_s:.6g} s"
        message = (
            f"{session.id}: none of {time_ns.size} stretches around '{align}' of trials holds observed time ({place}): "
            f"trials and spikes are on other clocks: see spiketok inspect {session.id}"
        )
        raise DataError(message)
    return Intervals(time_ns[seen] - pre_ns, time_ns[seen] + post_ns)


@dataclass(frozen=True, eq=False)
class TrialTimes:
    """Times that a column of trials states.

    Args:
        time_ns: int64 ``[K]``, one a trial; 0 where there is none. inside: bool ``[K]``, the trials that have one.
        n_outside: how many were stated and lie outside of their trial, as fillers do.
    """

    time_ns: np.ndarray
    inside: np.ndarray
    n_outside: int


def trial_times(trials: Intervals, align: str, place: str) -> TrialTimes:
    """The times to align to.

    Args:
        trials: the table. align: as in :func:`resolve_segments`. place: what an error names first.

    Raises:
        UnknownNameError: the table has no such column. DataError: see :func:`held_in_trials`.
    """
    edges = {"start": trials.start_ns, "stop": trials.stop_ns}
    if align in edges:
        return TrialTimes(edges[align], np.ones(len(trials), np.bool_), 0)
    name, _, base = align.rpartition("+") if align.rpartition("+")[2] in edges else (align, "", "")
    plain = {k: c.dtype.kind for k, c in trials.columns.items() if not isinstance(c, Ragged) and c.ndim == 1}
    if plain.get(name, "") not in ("f", "i"):  # whole numbers may be times, but most columns of them are none
        known = {k for k, kind in plain.items() if kind == "f" or (kind == "i" and "time" in k.lower())}
        raise UnknownNameError("trial time", name, set(edges) | known, place)
    return held_in_trials(trials, trials.columns[name].astype(np.float64), name, place, base)


def held_in_trials(
    trials: Intervals, seconds: np.ndarray, name: str, place: str, base: str = "", *, slack_ns: int = 0, cure: str = ""
) -> TrialTimes:
    """Times of trials, each against its own trial: whatever reads a column of trials as times asks here.

    Args:
        trials: the table. seconds: float64 ``[K]``, not finite where there is none. name, place: for errors.
        base: ``"start"`` or ``"stop"`` where they count from the trial's.
        slack_ns: how far outside of its trial an event may still be. cure: what to do where most lie outside; empty:
            to align otherwise.

    Raises:
        DataError: no time is finite, or most lie outside of their trial.
    """
    edges = {"start": trials.start_ns, "stop": trials.stop_ns}
    stated = np.isfinite(seconds)
    if not stated.any():
        message = f"{place}: no trial has a finite '{name}'"
        raise DataError(message)

    def inside(base: str, unit_s: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The times in ns, in floating point, and which lie in their trial; a filler beyond int64 lies in none."""
        time_ns = np.rint(np.clip(np.where(stated, seconds * unit_s, 0), -MOST_S, MOST_S) * NS_PER_S)
        time_ns = time_ns + (edges[base] if base else 0)
        return time_ns, stated & (time_ns >= trials.start_ns - slack_ns) & (time_ns <= trials.stop_ns + slack_ns)

    time_ns, good = inside(base)
    if 2 * good.sum() < stated.sum():
        first = int(np.flatnonzero(stated & ~good)[0])
        message = (
            f"{place}: {int(stated.sum() - good.sum())} of {int(stated.sum())} times '{name}{'+' * bool(base)}{base}' "
            f"lie outside of their trial (the first is {time_ns[first] / NS_PER_S:.6g} s, its trial "
            f"{trials.start_ns[first] / NS_PER_S:.6g} to {trials.stop_ns[first] / NS_PER_S:.6g} s)"
        )
        differ = 2 * np.unique(seconds[stated & (seconds != 0)]).size >= stated.sum()  # one filler is no time in ms
        fits = [  # a filler of 0 lies at the edge of each trial: it tells of nothing
            (unit, other)
            for unit, unit_s in TIME_UNITS.items()
            for other in ("", *edges)
            if (unit, other) != ("s", base)
            and (differ or unit == "s")
            and 2 * (inside(other, unit_s)[1] & (seconds != 0)).sum() >= stated.sum()
        ]
        if fits:
            unit, other = fits[0]
            message += f": they fit as {'' if unit == 's' else f'{unit} '}"
            message += f"counted from the trial's {other}" if other else "of the recording's clock"
            again = "" if unit == "s" else f"ingest it again with --time-unit {name}={unit}, and "
            cure = cure or f"{again}align to '{name}{'+' * bool(other)}{other}'"
        message += f": {cure or 'align to another column, or to start or stop'}"
        raise DataError(message)
    found = np.zeros(len(trials), np.int64)
    found[good] = np.rint(seconds[good] * NS_PER_S).astype(np.int64)
    if base:
        found[good] += edges[base][good]
    return TrialTimes(found, good, int(stated.sum() - good.sum()))


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
