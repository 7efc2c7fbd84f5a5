"""Which part of an unseen session's training time an adaptation sees.

What is unusual: one stretch measures luck as much as it measures a model, so a stretch can be drawn again (``repeat``),
and time may be spread over the session. A draw follows from (seed, session, length, repeat) alone, not from the model,
so all models see the same.
"""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from spiketok.errors import DataError, UsageError
from spiketok.recording.intervals import seconds
from spiketok.recording.nouns import NS_PER_S, Intervals

How = Literal["first", "spread", "random"]
PIECES, PIECE_S = 6, 5.0  # of a spread calibration: at most so many, of at least so long each


def check_draws(how: str, repeats: int) -> None:
    """Raise UsageError where there is no such way, or it cannot be drawn so often."""
    if how not in get_args(How):
        message = f"--calibration {how}: must be one of {', '.join(get_args(How))}"
        raise UsageError(message)
    if repeats < 1:
        message = f"--repeats {repeats}: must be at least 1"
        raise UsageError(message)
    if how == "first" and repeats > 1:
        message = f"--repeats {repeats} with --calibration first: there is one first stretch, use random or spread"
        raise UsageError(message)


def calibration_of(
    time: Intervals, session: str, length_s: float, how: How = "first", repeat: int = 0, seed: int = 0
) -> Intervals:
    """So many seconds of a session's training time, sorted and disjoint.

    Args:
        time: the training time, sorted and disjoint. session: its id.
        how: ``"first"``; ``"random"``: one stretch, which begins at a place drawn for each repeat; ``"spread"``: up to
            six pieces, evenly over the time, shifted by a draw.
        repeat: which draw.

    Raises:
        DataError: the time is shorter.
    """
    length_ns, total_ns = round(length_s * NS_PER_S), time.total_ns
    if total_ns < length_ns:
        message = (
            f"{session}: {length_s:g} s of calibration are asked for and its training time has "
            f"{seconds(time):.1f} s: use --calibration-s {max(int(seconds(time)), 1)}"
        )
        raise DataError(message)
    if how == "first":
        return taken(time, 0, length_ns)
    rng = np.random.default_rng([seed, zlib.crc32(session.encode()), length_ns // 1000, repeat])
    if how == "random":
        return taken(time, int(rng.integers(0, total_ns - length_ns + 1)), length_ns)
    n = int(np.clip(length_s // PIECE_S, 1, PIECES))
    border = [length_ns * k // n for k in range(n + 1)]  # within the calibration, laid end to end
    room = (total_ns - length_ns) // n  # behind each piece
    shift = int(rng.integers(0, room + 1))
    pieces = [taken(time, border[k] + k * room + shift, border[k + 1] - border[k]) for k in range(n)]
    return Intervals(np.concatenate([p.start_ns for p in pieces]), np.concatenate([p.stop_ns for p in pieces])).union()


def taken(time: Intervals, offset_ns: int, length_ns: int) -> Intervals:
    """``length_ns`` of the time, from ``offset_ns`` of it on; gaps count nothing.

    >>> found = taken(Intervals([0, 100], [10, 200]), 5, 20)
    >>> found.start_ns.tolist(), found.stop_ns.tolist()
    ([5, 100], [10, 115])
    """
    length = time.stop_ns - time.start_ns
    before = np.cumsum(length) - length
    start = time.start_ns + np.clip(offset_ns - before, 0, length)
    stop = time.start_ns + np.clip(offset_ns + length_ns - before, 0, length)
    keep = stop > start
    return Intervals(start[keep], stop[keep])


def blocks_of(time: Intervals, n: int) -> list[Intervals]:
    """The time in ``n`` contiguous blocks of equal length, to a nanosecond."""
    total = time.total_ns
    border = [total * k // n for k in range(n + 1)]
    return [taken(time, low, high - low) for low, high in pairwise(border)]
