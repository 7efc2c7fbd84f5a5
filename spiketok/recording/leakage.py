"""What keeps windows, and all that they reach, inside their own split.

A window of a split depends on more time than it spans: a scheme's history lies before it, a smoothed target was made of
samples around it. The rule here: *no moment is touched by windows of two splits*. Each split owns a territory: its own
time, and of the gap to the next split the share that it needs; a window must lie in the territory with its whole reach.
Where two splits touch, nothing reaches over the border; where the gap between them has room for the reach of both,
nothing is lost; time beyond the first and the last split, and gaps inside one split, are no border.

All is integer arithmetic on ns, numpy only; the slow twin is ``tests/reference/leakage.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spiketok.recording.nouns import Intervals

FAR_NS = 2**61  # further than any recording: where the territory of the first and the last split ends


@dataclass(frozen=True)
class Reach:
    """How far a window's content reaches over its two ends.

    Args:
        parts: (reason, back_ns, ahead_ns), each from 0; they do not add up, so the largest counts.
    """

    parts: tuple[tuple[str, int, int], ...] = ()

    @classmethod
    def of(cls, reason: str, back_ns: int, ahead_ns: int = 0) -> Reach:
        """One part; none where it reaches nowhere."""
        back_ns, ahead_ns = max(int(back_ns), 0), max(int(ahead_ns), 0)
        return cls(((reason, back_ns, ahead_ns),) if back_ns or ahead_ns else ())

    def __or__(self, other: Reach) -> Reach:
        return Reach(self.parts + other.parts)

    @property
    def back_ns(self) -> int:
        return max((back for _, back, _ in self.parts), default=0)

    @property
    def ahead_ns(self) -> int:
        return max((ahead for _, _, ahead in self.parts), default=0)

    def __str__(self) -> str:
        each = [
            f"{reason} {' and '.join(f'{ns / 1e6:g} ms {way}' for ns, way in ((back, 'back'), (ahead, 'ahead')) if ns)}"
            for reason, back, ahead in self.parts
        ]
        return ", ".join(each) or "nothing beyond the window"


REACH_INFO = "reach_ns:"  # in a session's info: how far away a signal's samples depend on others, as "BACK AHEAD"


def with_stated_reach(info: Mapping[str, str], name: str, back_ns: int, ahead_ns: int) -> dict[str, str]:
    """A session's info that also says how far the samples of a signal reach."""
    stated = {f"{REACH_INFO}{name}": f"{int(back_ns)} {int(ahead_ns)}"} if back_ns or ahead_ns else {}
    return {key: text for key, text in info.items() if key != f"{REACH_INFO}{name}"} | stated


def stated_reach_ns(info: Mapping[str, str], name: str) -> tuple[int, int]:
    """How far back and ahead the samples of a signal reach, as its info says; (0, 0) without a word."""
    back, _, ahead = info.get(f"{REACH_INFO}{name}", "0 0").partition(" ")
    return int(back), int(ahead)


@dataclass(frozen=True)
class Border:
    """Where one split ends and another begins.

    Args:
        before, after: the two splits. stop_ns: the end of the first; start_ns: the start of the second.
        leak_ns: by how much their windows would touch the same time if each could lie anywhere in its split; the guard
            takes as much usable time away.
    """

    before: str
    after: str
    stop_ns: int
    start_ns: int
    leak_ns: int

    @property
    def gap_ns(self) -> int:
        return self.start_ns - self.stop_ns


def check_leakage(splits: Mapping[str, Intervals], reach: Reach) -> list[Border]:
    """Every border between two splits, in order of time, with what leaks over it.

    Args:
        splits: disjoint. reach: of the windows of each of them.
    """
    stretches = _in_order(splits)
    borders = []
    for (name, _, stop), (other, start, _) in itertools.pairwise(stretches):
        if name != other:
            leak = max(0, reach.back_ns + reach.ahead_ns - (start - stop))
            borders.append(Border(name, other, stop, start, leak))
    return borders


def territories(splits: Mapping[str, Intervals], reach: Reach) -> dict[str, Intervals]:
    """For each split the time that its windows may touch: disjoint, and together everything.

    The gap between two splits is divided as their windows reach into it: the earlier's ahead, the later's back.
    """
    stretches = _in_order(splits)
    if not stretches:
        return {name: Intervals.empty() for name in splits}
    total = reach.back_ns + reach.ahead_ns
    edges, owners = [-FAR_NS], [stretches[0][0]]
    for (name, _, stop), (other, start, _) in itertools.pairwise(stretches):
        if name != other:
            gap = start - stop
            edges.append(stop + (gap * reach.ahead_ns // total if total else gap // 2))
            owners.append(other)
    edges.append(FAR_NS)
    start, stop, owner = np.array(edges[:-1], np.int64), np.array(edges[1:], np.int64), np.array(owners)
    return {name: Intervals(start[owner == name], stop[owner == name]) for name in splits}


def inner(territory: Intervals, reach: Reach) -> Intervals:
    """Where windows may lie so that their whole reach stays inside the territory."""
    start, stop = territory.start_ns + reach.back_ns, territory.stop_ns - reach.ahead_ns
    keep = stop > start
    return Intervals(start[keep], stop[keep])


def outside_ns(windows: Intervals, territory: Intervals, reach: Reach) -> np.ndarray:
    """int64 ``[W]``: how much windows that others cut (around trials, jittered) touch beyond a territory."""
    start, stop = windows.start_ns - reach.back_ns, windows.stop_ns + reach.ahead_ns
    return stop - start - (_time_before(territory, stop) - _time_before(territory, start))


def _time_before(part: Intervals, time_ns: np.ndarray) -> np.ndarray:
    """int64: how much of sorted disjoint intervals lies before each time."""
    if len(part) == 0:
        return np.zeros(len(time_ns), np.int64)
    passed = np.concatenate([[0], np.cumsum(part.stop_ns - part.start_ns)])
    row = np.searchsorted(part.start_ns, time_ns, side="right")
    last_stop = part.stop_ns[np.maximum(row, 1) - 1]
    return passed[row] - np.where(row > 0, np.maximum(last_stop - time_ns, 0), 0)


def guarded(splits: Mapping[str, Intervals], reach: Reach) -> dict[str, Intervals]:
    """The splits without the time in which a window would touch what windows of another split may touch."""
    territory = territories(splits, reach)
    return {name: part.intersect(inner(territory[name], reach)) for name, part in splits.items()}


def _in_order(splits: Mapping[str, Intervals]) -> list[tuple[str, int, int]]:
    """Every stretch of every split as (name, start_ns, stop_ns), in order of time."""
    stretches = []
    for name, part in splits.items():
        whole = part.union()
        stretches += zip([name] * len(whole), whole.start_ns.tolist(), whole.stop_ns.tolist(), strict=True)
    return sorted(stretches, key=lambda s: s[1:])
