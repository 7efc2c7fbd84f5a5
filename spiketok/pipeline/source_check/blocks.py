"""Where the blocks of a source lie whose clock began again, found once more from pynwb's reading of it.

The rule: block k begins at one place for all that carries the clock; it follows, on a whole second, at least 30 s after
the end of the block before it, which is the latest time of anything in that block within a day of its spikes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from spiketok.pipeline.source_check.source_file import DAY_NS, Found, is_time, series_seconds, to_ns
from spiketok.pipeline.source_check.units_of_series import COUNTS
from spiketok.recording.nouns import Column, Ragged

SECOND = 10**9
APART = 30 * SECOND
OBSERVED = "obs_intervals"


@dataclass
class Layout:
    """What is added to the times of each thing, as whole seconds; without blocks nothing is.

    Args:
        rows: seconds by path, one a row. units: seconds by unit row, one a spike that is a time.
        gaps: (start, stop) in ns between blocks. ends: where blocks end.
    """

    rows: dict[str, np.ndarray] = field(default_factory=dict)
    units: dict[int, np.ndarray] = field(default_factory=dict)
    observed: dict[int, np.ndarray] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def of(self, path: str, n_rows: int) -> np.ndarray:
        return self.rows.get(path, np.zeros(n_rows))[:n_rows]


def find_layout(nwb, units, tables: Sequence[Found], series: Sequence[Found], words: Sequence[str]) -> Layout:
    """The layout of a file by the words of its setting; one without blocks where the clock does not begin again."""
    if not words:
        return Layout()
    stated = {name: int(k) - 1 for name, _, k in (word.rpartition("=") for word in words) if name}
    n_units = 0 if units is None else len(units.id)
    trains = [np.atleast_1d(np.asarray(units["spike_times"][row], np.float64)) for row in range(n_units)]
    trains = [to_ns(train[is_time(train)]) for train in trains]
    timed = {found.path: _series_times(found) for found in series}
    for name, item in nwb.stimulus.items():
        path = f"stimulus/presentation/{name}"
        timed.setdefault(path, _series_times(Found(tuple(path.split("/")), item)))
    timed = {path: (seconds, seconds) for path, seconds in timed.items() if is_time(seconds).any()}
    if n_units:
        every = np.concatenate(trains)
        least = max(int(0.02 * (int(every.max()) - int(every.min()))), 1)
        told = Counter(len(_drops(train, least)) for train in trains if train.size >= 20)
    else:
        bases = [path for path in timed if path.split("/")[-1] in COUNTS] or list(timed)
        told = Counter(len(_drops(to_ns(s[is_time(s)]))) for s, _ in (timed[path] for path in bases))
    if n_units and not told:
        told = Counter([max((len(_drops(to_ns(s[is_time(s)]))) for s, _ in timed.values()), default=0)])
    n_blocks = 1 + (told.most_common(1)[0][0] if told else 0)
    if n_blocks == 1:
        return Layout()
    for found in tables:
        item = found.item
        start = "start_time" if "start_time" in item.colnames else "timestamp"
        starts = np.asarray(item[start].data[:], np.float64)
        stops = np.asarray(item["stop_time"].data[:], np.float64) if "stop_time" in item.colnames else starts
        if start == "timestamp" and "duration" in item.colnames:
            lasts = np.asarray(item["duration"].data[:], np.float64)
            stops = np.where(np.isfinite(lasts) & (lasts > 0), starts + lasts, starts)
        if is_time(starts).any():
            timed[found.path] = starts, stops
    of_table = {found.path for found in tables}
    number = {path: _numbers(s, n_blocks, stated, path, ties=path in of_table) for path, (s, _) in timed.items()}
    of_unit = [_numbers(train / SECOND, n_blocks, stated, "spikes", train) for train in trains]
    watched = {}
    if n_units and OBSERVED in units.colnames:
        for row in range(n_units):
            pairs = np.asarray(units[OBSERVED][row], np.float64).reshape(-1, 2)
            watched[row] = pairs, _numbers(pairs[:, 0], n_blocks, stated, OBSERVED, ties=True)
    shifts, spans = [], []
    for k in range(n_blocks):
        own = [train[n == k] for train, n in zip(trains, of_unit, strict=True)]
        moments = np.concatenate([np.zeros(0, np.int64), *own, *(t + 1 for t in own)])
        for path, (starts, stops) in timed.items():
            here = (number[path] == k) & is_time(starts)
            begin, end = starts[here], np.where(is_time(stops), np.fmax(starts, stops), starts)[here]
            times = np.concatenate([to_ns(begin), np.maximum(to_ns(end), to_ns(begin) + 1)])
            moments = _with_near(moments, times)
        for pairs, n in watched.values():
            moments = _with_near(moments, to_ns(pairs[(n == k) & is_time(pairs).all(axis=1)].reshape(-1)))
        low, high = int(moments.min()), int(moments.max())
        before = -(-spans[-1][1] // SECOND) * SECOND + APART if spans else low // SECOND * SECOND
        shifts.append(before - low // SECOND * SECOND)
        spans.append((low + shifts[-1], high + shifts[-1]))
    shift_s = np.array(shifts) / SECOND
    return Layout(
        rows={path: shift_s[n] for path, n in number.items()},
        units={row: shift_s[n] for row, n in enumerate(of_unit)},
        observed={row: shift_s[n] for row, (_, n) in watched.items()},
        gaps=[(a[1], b[0]) for a, b in pairwise(spans)],
        ends=[stop for _, stop in spans],
    )


def moved(column: Column, starts: np.ndarray, stops: np.ndarray, shift_s: np.ndarray, name: str) -> Column:
    """A column of a table with those of its values moved that are times inside of their row, if most are."""
    values = column.value if isinstance(column, Ragged) else column
    if values.dtype.kind != "f" or values.ndim != 1 or not np.any(shift_s):
        return column
    sizes = np.diff(column.offset) if isinstance(column, Ragged) else np.ones(len(starts), np.int64)
    rows = [row for row, size in enumerate(sizes.tolist()) for _ in range(size)]
    inside = np.array(
        [starts[r] - 1e-9 <= v and not v > stops[r] + 1e-9 for r, v in zip(rows, values, strict=True)], bool
    )
    of = np.array([shift_s[r] for r in rows])[inside]
    steps = np.diff(values[inside])[of[1:] == of[:-1]]
    rising = (steps > 0).sum() >= 5 and (steps > 0).sum() > 0.8 * steps.size
    if not inside.any() or inside.sum() < np.isfinite(values).sum() / 2 or not (rising or "time" in name.lower()):
        return column
    new = np.array([v + shift_s[r] if i else v for r, v, i in zip(rows, values, inside, strict=True)])
    return Ragged(new, column.offset) if isinstance(column, Ragged) else new


def _series_times(found: Found) -> np.ndarray:
    data = getattr(found.item, "data", None)
    seconds = series_seconds(found.item, 0 if data is None else len(data))
    return np.zeros(0) if seconds is None else seconds


def _drops(time_ns: np.ndarray, least_ns: int = 0, *, ties: bool = False) -> np.ndarray:
    """Before which rows times fall, by at least so much; 0: by a fiftieth of the time that they span, or not rise."""
    if time_ns.size < 2:
        return np.zeros(0, np.int64)
    if ties:
        return np.flatnonzero(time_ns[1:] <= time_ns[:-1]) + 1
    least_ns = least_ns or max(int(0.02 * (int(time_ns.max()) - int(time_ns.min()))), 1)
    return np.flatnonzero(time_ns[1:] <= time_ns[:-1] - least_ns) + 1


def _numbers(
    seconds: np.ndarray,
    n_blocks: int,
    stated: dict[str, int],
    path: str,
    time_ns: np.ndarray | None = None,
    *,
    ties: bool = False,
) -> np.ndarray:
    """int ``[rows]``: the block of each row; a row without a time is where the one before it is."""
    known = is_time(seconds)
    time_ns = to_ns(seconds[known]) if time_ns is None else time_ns
    falls = _drops(time_ns, 1)
    if falls.size != n_blocks - 1 and ties:
        falls = _drops(time_ns, 0, ties=True)
    if falls.size != n_blocks - 1:
        falls = _drops(time_ns)
    first = stated.get(path.split("/")[-1], stated.get(path, 0)) if not falls.size else 0
    of_known = np.full(time_ns.size, first)
    for fall in falls:
        of_known[fall:] += 1
    numbers, last = np.zeros(seconds.size, np.int64), 0
    place = iter(of_known.tolist())
    if known.all():
        return of_known
    last = of_known[0] if of_known.size else 0
    for row, has in enumerate(known.tolist()):
        last = next(place) if has else last
        numbers[row] = last
    return numbers


def _with_near(moments: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The moments with those times that are not over a day from them."""
    if not moments.size:
        return times
    near = (times >= moments.min() - DAY_NS) & (times <= moments.max() + DAY_NS)
    return np.concatenate([moments, times[near]])
