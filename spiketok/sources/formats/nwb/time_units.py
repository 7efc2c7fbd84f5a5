"""What the times of a file are where they are no seconds: milliseconds, numbers of samples, as the user states it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from spiketok.errors import UsageError

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def seconds_per(unit: str) -> float:
    """Seconds in a unit of time, as ``"ms"`` or ``"samples:30000"``; UsageError where it is none.

    >>> seconds_per("samples:1000")
    0.001
    """
    word, _, rate = unit.partition(":")
    try:
        found = 1 / float(rate) if word == "samples" else UNITS[unit]
    except (KeyError, ValueError, ZeroDivisionError):
        found = 0.0
    if not 0 < found < math.inf:
        message = f"time unit '{unit}' is none: use {', '.join(UNITS)} or samples:HZ"
        raise UsageError(message)
    return found


class TimeUnit:
    """The units of a file's times.

    Args:
        stated: a unit by ``"spikes"``, by the name or path of a table or behaviour, and by ``""`` for all the others.

    Raises:
        UsageError: a unit is none, see :func:`seconds_per`.
    """

    def __init__(self, stated: Mapping[str, str] | None = None) -> None:
        self._seconds_per = {what: seconds_per(unit) for what, unit in (stated or {}).items()}
        self._met: set[str] = set()

    def scale(self, parts: Sequence[str]) -> float | None:
        """Seconds in the unit of what stands at a path; None where nothing is stated of it."""
        for what in ("/".join(parts), parts[-1], ""):
            if what in self._seconds_per:
                self._met.add(what)
                return self._seconds_per[what]
        return None

    def own_scale(self, parts: Sequence[str]) -> float | None:
        """The same of what is stated by name or path alone: of a column, which what is said of all does not reach."""
        return None if {"/".join(parts), parts[-1]}.isdisjoint(self._seconds_per) else self.scale(parts)

    @property
    def unmet(self) -> list[str]:
        """The names of which the file has nothing."""
        return sorted(set(self._seconds_per) - self._met - {""})
