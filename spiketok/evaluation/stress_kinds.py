"""How the spikes of a session are perturbed for a stress: the kinds, their levels, and what each does.

What is unusual:

- spikes are perturbed and baked anew, never tokens: every scheme and every model obeys the same definition exactly;
- the draws of a kind do not depend on the level: units that are lost at 10 % are lost at 25 % too, and so with spikes;
- nothing is added, lost or moved outside of the time that is to be perturbed.

Shape letters: N units, S spikes.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.intervals import holds
from spiketok.recording.nouns import NS_PER_MS, Intervals, Session, Spikes

JITTER_NS = 5 * NS_PER_MS  # an added spike lies at most this far from the one that it is a copy of
LEAST_UNITS = 4
NO_SPIKES = "no_spikes"

Perturbed = tuple[np.ndarray, np.ndarray]  # int64 [S] times, int32 [S] rows of units; in no order


@dataclass(frozen=True)
class Kind:
    """One way to perturb spikes.

    Args:
        levels: in order; ``plain`` is the one that changes nothing. measure: of a level. title: for a picture.
        meaning: what is done, in one line.
    """

    levels: tuple[float, ...]
    plain: float
    measure: str
    title: str
    meaning: str


KINDS = {
    "units_lost": Kind((0, 10, 25, 50), 0, "%", "units lost", "so many of the units are silent"),
    "permuted": Kind((0, 10, 50, 100), 0, "%", "channels permuted", "so many of the channels carry another's spikes"),
    "gain": Kind(
        (0.5, 0.75, 1, 1.33, 2), 1, "x", "gain", "rates times the level: spikes left out, or copied within 5 ms"
    ),
    "rate_drift": Kind(
        (-50, -25, 0, 25, 50), 0, "%", "rate drift", "rates change linearly over the session, by the level at its end"
    ),
    "time_shift": Kind((0, 20, 50, 100, 200), 0, "ms", "time shift", "spikes come so much later than they were"),
}


def perturb(session: Session, time: Intervals, kind: str, level: float, seed: int) -> Session:
    """The session with the spikes of some time perturbed.

    Args:
        time: observed time in which spikes are perturbed; all others stay as they are.
        kind: of ``KINDS``, or ``NO_SPIKES``, which has no level. level: one of the kind's, or any between them.
        seed: of the draws, which follow from it, the session and the kind.

    Raises:
        DataError: the session cannot take it; the message says why.
    """
    spikes = session.spikes
    inside = holds(time, spikes.time_ns)
    rng = np.random.default_rng([seed, zlib.crc32(session.id.encode()), zlib.crc32(kind.encode())])
    if kind == NO_SPIKES:
        new_ns, unit = spikes.time_ns[:0], spikes.unit[:0]
    elif kind == "time_shift":  # also what comes in from before the time
        new_ns = spikes.time_ns + round(level * NS_PER_MS)
        there = holds(time, new_ns)
        new_ns, unit = new_ns[there], spikes.unit[there]
    else:
        new_ns, unit = _MADE[kind](session, time, level, rng, (spikes.time_ns[inside], spikes.unit[inside]))
    time_ns = np.concatenate([spikes.time_ns[~inside], new_ns])
    row = np.concatenate([spikes.unit[~inside], unit]).astype(np.int32)
    order = np.lexsort((row, time_ns))
    return replace(session, spikes=Spikes(time_ns[order], row[order]))


def _order(session: Session, rng: np.random.Generator) -> np.ndarray:
    """The units in the order in which a stress takes them."""
    n = len(session.units)
    if n < LEAST_UNITS:
        message = f"{session.id} has {n} units, a share of them needs at least {LEAST_UNITS}"
        raise DataError(message)
    return rng.permutation(n)


def _units_lost(
    session: Session, time: Intervals, level: float, rng: np.random.Generator, spikes: Perturbed
) -> Perturbed:
    order, (time_ns, unit) = _order(session, rng), spikes
    lost = np.zeros(len(order), np.bool_)
    lost[order[: _number(level, len(order), 1)]] = True
    return time_ns[~lost[unit]], unit[~lost[unit]]


def _permuted(
    session: Session, time: Intervals, level: float, rng: np.random.Generator, spikes: Perturbed
) -> Perturbed:
    order, (time_ns, unit) = _order(session, rng), spikes
    if session.unit_observed is not None:
        message = f"{session.id}: its units were observed at different times, so that none stands for another"
        raise DataError(message)
    chosen = order[: _number(level, len(order), 2)]
    carries = np.arange(len(order), dtype=np.int32)
    carries[chosen] = np.roll(chosen, 1)  # one cycle: none of them stays
    return time_ns, carries[unit]


def _number(level: float, n: int, least: int) -> int:
    """How many of ``n`` units a share in percent is; none at 0, at least so many else."""
    return max(round(level / 100 * n), least) if level else 0


def _gain(session: Session, time: Intervals, level: float, rng: np.random.Generator, spikes: Perturbed) -> Perturbed:
    return _scaled(np.full(len(spikes[0]), float(level)), time, rng, spikes)


def _rate_drift(
    session: Session, time: Intervals, level: float, rng: np.random.Generator, spikes: Perturbed
) -> Perturbed:
    through = (spikes[0] - session.start_ns) / max(session.stop_ns - session.start_ns, 1)
    return _scaled(1 + level / 100 * np.clip(through, 0, 1), time, rng, spikes)


def _scaled(factor: np.ndarray, time: Intervals, rng: np.random.Generator, spikes: Perturbed) -> Perturbed:
    """Spikes of whose rate there is a multiple: below 1 some are left out, above it some have a copy near them.

    Args:
        factor: ``[S]``, from 0 to 2.
    """
    time_ns, unit = spikes
    drawn = rng.random(len(time_ns))
    away = rng.integers(-JITTER_NS, JITTER_NS, len(time_ns), endpoint=True)
    kept, copied = drawn < factor, drawn < factor - 1
    whole = time.union()
    row = np.searchsorted(whole.start_ns, time_ns[copied], side="right") - 1  # a copy stays in the stretch of its spike
    copies = np.clip(time_ns[copied] + away[copied], whole.start_ns[row], whole.stop_ns[row] - 1)
    return np.concatenate([time_ns[kept], copies]), np.concatenate([unit[kept], unit[copied]])


_MADE: dict[str, Callable[..., Perturbed]] = {
    "units_lost": _units_lost,
    "permuted": _permuted,
    "gain": _gain,
    "rate_drift": _rate_drift,
}
