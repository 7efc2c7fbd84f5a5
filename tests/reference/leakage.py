"""The slow twin of ``spiketok.recording.leakage``: moment by moment, for times of a few dozen ns."""

from __future__ import annotations

from collections.abc import Mapping

from spiketok.recording.nouns import Intervals


def moments(part: Intervals) -> set[int]:
    """Every whole ns of the intervals."""
    pairs = zip(part.start_ns.tolist(), part.stop_ns.tolist(), strict=True)
    return {t for start, stop in pairs for t in range(start, stop)}


def touched(windows: list[tuple[int, int]], back_ns: int, ahead_ns: int) -> set[int]:
    """Every moment that the windows tell of."""
    return {t for start, stop in windows for t in range(start - back_ns, stop + ahead_ns)}


def windows_in(part: Intervals, length: int) -> list[tuple[int, int]]:
    """Every window of this length all of whose moments are in ``part``."""
    own = moments(part)
    return [(t, t + length) for t in sorted(own) if all(t + k in own for k in range(length))]


def clashes(splits: Mapping[str, Intervals], length: int, back_ns: int, ahead_ns: int) -> list[tuple[str, str]]:
    """Pairs of splits some of whose windows tell of the same moment."""
    touch = {name: touched(windows_in(part, length), back_ns, ahead_ns) for name, part in splits.items()}
    names = list(splits)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if touch[a] & touch[b]]


def overlap_at_border(stop_ns: int, start_ns: int, back_ns: int, ahead_ns: int) -> int:
    """How many moments the last window before a border and the first one after it both tell of, the border's own
    windows taken as long as need be."""
    long = back_ns + ahead_ns + start_ns - stop_ns + 1
    before = touched([(stop_ns - long, stop_ns)], back_ns, ahead_ns)
    after = touched([(start_ns, start_ns + long)], back_ns, ahead_ns)
    return len(before & after)
