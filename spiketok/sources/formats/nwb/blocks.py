"""A file whose clock began again: its blocks found and laid out one behind the other, where the user says so.

    spikes        0 .. 60 | 0 .. 45             ->  0 .. 60 | 90 .. 135
    hand_vel      0 .. 58 | 0.1 .. 45
    trials        0.5 .. 55 | 1 .. 44

What is unusual: all that carries the clock is looked at before anything is read. Block k begins at one place for all of
it; what has another number of blocks than the spikes is refused by name, because nothing tells where it belongs. A
table, behaviour or unit that lies in one block alone may be stated (``trials=1``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from spiketok.errors import UsageError
from spiketok.recording.moving import gaps, laid_out, moved_columns
from spiketok.recording.nouns import NS_PER_S, Intervals
from spiketok.sources.formats.nwb import kernels
from spiketok.sources.formats.nwb.clocks import (
    OWN_CLOCK,
    SPIKES_AROUND,
    STATE,
    TELLING,
    least_fall_ns,
    samples_again,
    telling_span,
)
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.imaging import find_imaged
from spiketok.sources.formats.nwb.intervals import Reach, Table, read_tables
from spiketok.sources.formats.nwb.series import Series, find_series, series_seconds
from spiketok.sources.formats.nwb.sources import COUNT_NAMES
from spiketok.sources.formats.nwb.tables import MAX_SECONDS, Findings, in_seconds, is_time, listed, ns_from_seconds
from spiketok.sources.formats.nwb.time_units import TimeUnit
from spiketok.sources.formats.nwb.units import find_units, observed_seconds, read_unit_ids, spike_ns

BLOCKS = "blocks"
SPIKES, OBSERVED = "spikes", "obs_intervals"
MOST_BLOCKS = 10_000
LONGEST_S = MAX_SECONDS / 4  # laid out they are int64 ns still


@dataclass(frozen=True, eq=False)
class Blocks:
    """Where each block of a file's clock lies, and in which block each row of each thing is.

    Args:
        start_ns, stop_ns: int64 ``[B]``, from where to where each reaches by its own clock.
        block: int16 ``[rows]`` by path: of tables, series and ``obs_intervals`` (flat, unit after unit).
        spike: int64 ``[N, B + 1]``: where each unit's spikes of each block begin and end in the flat array.
    """

    start_ns: np.ndarray
    stop_ns: np.ndarray
    block: Mapping[str, np.ndarray] = field(default_factory=dict)
    spike: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def shift_ns(self) -> np.ndarray:
        """int64 ``[B]``: what is added to a block's times."""
        return laid_out(self.start_ns, self.stop_ns)

    @property
    def ends_ns(self) -> np.ndarray:
        """int64 ``[B]``: where each block ends once it is laid out."""
        return self.stop_ns + self.shift_ns

    @property
    def gaps(self) -> Intervals:
        """The time between the blocks."""
        return gaps(self.start_ns + self.shift_ns, self.ends_ns)

    def shift_s(self, path: str, n_rows: int) -> np.ndarray:
        """float64 ``[n_rows]``: what is added to each row's times."""
        if path not in self.block:
            return np.zeros(n_rows)
        return (self.shift_ns / NS_PER_S)[self.block[path][:n_rows]]

    def lay_spikes(self, time_ns: np.ndarray) -> None:
        """Move the spikes, int64 ``[S]``, unit after unit, in place."""
        for row in self.spike.tolist():
            for first, stop, shift in zip(row[:-1], row[1:], self.shift_ns.tolist(), strict=True):
                time_ns[first:stop] += shift

    def lay_table(self, table: Table) -> Table:
        """The table with its rows, and the columns that hold times, at their place."""
        shift_s = self.shift_s(table.path, len(table.start_s))
        columns = moved_columns(table.columns, table.start_s, table.stop_s, shift_s)
        return Table(table.parts, table.start_s + shift_s, table.stop_s + shift_s, columns)

    def told(self) -> str:
        """Where the blocks lie, for people."""
        rows = zip(self.start_ns, self.stop_ns, self.shift_ns, strict=True)
        spans = [
            f"{in_seconds(a)} to {in_seconds(b)} at {in_seconds(a + s)}" if s else f"{in_seconds(a)} to {in_seconds(b)}"
            for a, b, s in rows
        ]
        n = len(self) - 1
        return (
            f"the clock began again {n} {'time' if n == 1 else 'times'}: {n + 1} blocks lie one behind the other "
            f"({listed(spans)}), the time between them was not observed"
        )


class Restarts:
    """What the user says of clocks that begin again.

    Args:
        words: ``"blocks"``, and ``"NAME=K"`` for what lies in block K (from 1) alone: a table or behaviour by name or
            path, ``spikes`` (of the units that do not begin again) or ``obs_intervals``.

    Raises:
        UsageError: a word is none of these, or ``"blocks"`` is missing.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.stated: dict[str, int] = {}
        for word in words:
            name, _, number = word.rpartition("=")
            if word == BLOCKS:
                continue
            if not name or not number.isdecimal() or not 1 <= int(number) <= MOST_BLOCKS or name in self.stated:
                message = f"--restarts {word}: use 'blocks', and NAME=K, once a name, for what lies in block K alone"
                raise UsageError(message)
            self.stated[name] = int(number)
        if BLOCKS not in words:
            message = f"--restarts {' '.join(words)}: add --restarts blocks"
            raise UsageError(message)

    def of(self, *names: str) -> int | None:
        """The block, from 1, that is stated of something by one of its names."""
        return next((self.stated[name] for name in names if name in self.stated), None)


@dataclass
class _Thing:
    """What carries the clock: its times in the file's order (NaN: none), where each row ends; ``ties``: see _falls."""

    path: str
    name: str
    seconds: np.ndarray
    stop_s: np.ndarray
    ties: bool = False


def find_blocks(
    path: Path | BinaryIO, time_unit: TimeUnit, words: Sequence[str], units_path: str = ""
) -> Blocks | None:
    """The blocks of a file whose clock begins again; None where it does not.

    Args:
        path: see ``Hdf5``. time_unit: what its times are. words: of :class:`Restarts`. units_path: see ``read_nwb``.

    Raises:
        SourceError: something has another number of blocks than the spikes, and nothing says where it belongs.
    """
    stated = Restarts(words)
    with Hdf5(path, time_unit) as h5:
        return _Search(h5, stated, units_path).blocks()


class _Search:
    def __init__(self, h5: Hdf5, stated: Restarts, units_path: str) -> None:
        self.h5, self.stated, self.units_path, self.found = h5, stated, units_path, Findings()

    def blocks(self) -> Blocks | None:
        h5, at = self.h5, find_units(self.h5, self.units_path, self.found)
        table, where = at or (None, "")
        below = find_series(h5, self.found, (tuple(where.split("/")),))
        tables = read_tables(h5, self.found) + below.tables
        things = [self._series(one) for one in (*below.series, *below.stimuli)]
        things = [one for one in things if one is not None and is_time(one.seconds).any()]
        if table is not None:
            ids = read_unit_ids(h5, table, self.found)
            time_ns, offset = spike_ns(h5, table, ids.size, self.found)
            n_again = _restarts_of_units(time_ns, offset)
            if n_again is None:  # hardly a spike: what the rest says must fit to them
                n_again = max((_restarts(one) for one in things), default=0)
            n_blocks = n_again + 1
        else:
            counts = [one for one in below.series if one.parts[-1] in COUNT_NAMES]
            units = [one.path for one in counts or find_imaged(h5, below.series)]
            things.sort(key=lambda one: one.path not in units)  # what stands for the spikes comes first
            n_blocks = max((_restarts(one) + 1 for one in things if one.path in units), default=1)
        if n_blocks == 1:
            self._refuse_others([one for one in things if _restarts(one)])
            return None
        if n_blocks > MOST_BLOCKS:
            h5.refuse(f"its clock begins again {n_blocks - 1} times", "each trial has its own zero: write one clock")
        things += [
            _Thing(t.path, t.parts[-1], t.start_s, t.stop_s, ties=True) for t in tables if is_time(t.start_s).any()
        ]
        known = {SPIKES, OBSERVED, *(one.path for one in things), *(one.name for one in things)}
        if unmet := sorted(set(self.stated.stated) - known):
            h5.refuse(f"a block is stated of {listed(unmet)}, which it does not have", "see 'spiketok inspect'")
        block = {one.path: self._rows(one, n_blocks) for one in things}
        spike = self._spikes(time_ns, offset, ids, n_blocks) if table is not None else None
        ends = [] if spike is None else [(time_ns, _numbers(spike, n_blocks), time_ns + 1)]
        if table is not None:
            seconds, counts = observed_seconds(h5, table, len(offset) - 1)
            if len(seconds):
                block[OBSERVED] = self._observed(seconds, counts, n_blocks)
                things.append(_Thing(OBSERVED, OBSERVED, seconds[:, 0], seconds[:, 1]))
        start_ns, stop_ns = self._extents(things, block, ends, n_blocks)
        lasts_s = (int(stop_ns.astype(object).sum()) - int(start_ns.astype(object).sum())) / NS_PER_S
        if lasts_s > LONGEST_S:
            h5.refuse(
                f"its {n_blocks} blocks last {lasts_s:.3g} s together: these are no seconds", STATE.format("spikes")
            )
        return Blocks(start_ns, stop_ns, block, spike)

    def _series(self, one: Series) -> _Thing | None:
        h5, data = self.h5, self.h5.dataset(one.group, "data")
        shape = () if data is None else h5.shape(data)
        timing = series_seconds(h5, one, shape[0] if shape else 0)
        if isinstance(timing, str):
            return None
        return _Thing(one.path, one.parts[-1], timing[0], timing[0])

    def _refuse_others(self, again: Sequence[_Thing]) -> None:
        """The spikes go on: where the blocks of anything else lie on their clock is not known."""
        if again:
            one = again[0]
            fact = (
                f"{one.path}: its time stamps are in {_restarts(one) + 1} blocks, the spikes in 1: where its later "
                "blocks lie on the clock of the spikes is not known"
            )
            self.h5.refuse(fact, OWN_CLOCK)

    def _rows(self, one: _Thing, n_blocks: int) -> np.ndarray:
        """int16: the block of each row."""
        known = is_time(one.seconds)
        time_ns = ns_from_seconds(one.seconds[known])
        first = _falls(time_ns, n_blocks, ties=one.ties)
        stated = self.stated.of(one.name, one.path)
        if len(first) == n_blocks - 1:
            of_known = np.searchsorted(first, np.arange(time_ns.size), side="right")
        elif not len(first) and stated is not None and stated <= n_blocks:
            of_known = np.full(time_ns.size, stated - 1)
        else:
            self._refuse(one.path, one.name, len(first) + 1, n_blocks)
        last = np.maximum(np.cumsum(known) - 1, 0)  # a row without a time is where the one before it is
        return of_known[last].astype(np.int16)

    def _refuse(self, what: str, name: str, n_found: int, n_blocks: int) -> None:
        fact = f"{what} has {n_found} {'block' if n_found == 1 else 'blocks'} of time, the spikes have {n_blocks}"
        say = f"say in which it lies with --restarts blocks --restarts {name}=K (1 to {n_blocks}), or {OWN_CLOCK}"
        self.h5.refuse(f"{fact}: to which it belongs is not known", say if n_found == 1 else OWN_CLOCK)

    def _spikes(self, time_ns: np.ndarray, offset: np.ndarray, ids: np.ndarray, n_blocks: int) -> np.ndarray:
        """int64 ``[N, B + 1]``, see :class:`Blocks`."""
        edges = np.empty((len(offset) - 1, n_blocks + 1), np.int64)
        stated, other = self.stated.of(SPIKES), []
        for n in range(len(edges)):
            own = time_ns[offset[n] : offset[n + 1]]
            first = _falls(own, n_blocks)
            if len(first) == n_blocks - 1 or not own.size:
                inner = first if own.size else np.zeros(n_blocks - 1, np.int64)
            elif not len(first) and stated is not None and stated <= n_blocks:
                inner = np.repeat([0, own.size], [stated - 1, n_blocks - stated])
            else:
                other.append((n, len(first) + 1, own.size))
                continue
            edges[n] = offset[n] + np.concatenate([[0], inner, [own.size]])
        if other:
            n, n_found, size = other[0]
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            what = f"unit '{ids[n]}' of {size} spikes{more}"
            self._refuse(what, SPIKES, n_found, n_blocks)
        return edges

    def _observed(self, seconds: np.ndarray, counts: np.ndarray, n_blocks: int) -> np.ndarray:
        """int16 ``[R]``: the block of each observation interval, unit after unit."""
        rows = [np.zeros(0, np.int16)]
        for own in np.split(seconds[:, 0], np.cumsum(counts)[:-1]):
            if own.size:
                rows.append(self._rows(_Thing(f"units/{OBSERVED}", OBSERVED, own, own, ties=True), n_blocks))
        return np.concatenate(rows)

    def _extents(
        self,
        things: Sequence[_Thing],
        block: Mapping[str, np.ndarray],
        ends: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        n_blocks: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """From where to where each block reaches; times over a day outside of the spikes' do not count."""
        for one in things:
            known = is_time(one.seconds)
            lasts = np.where(is_time(one.stop_s), np.fmax(one.stop_s, one.seconds), one.seconds)
            lasts_ns = ns_from_seconds(lasts[known])
            start_ns = ns_from_seconds(one.seconds[known])
            ends.append((start_ns, block[one.path][known], np.maximum(lasts_ns, start_ns + 1)))
        start, stop = np.empty(n_blocks, np.int64), np.empty(n_blocks, np.int64)
        for k in range(n_blocks):
            near = None
            for first_ns, number, last_ns in ends:
                own = number == k
                low, high = first_ns[own], last_ns[own]
                if near is None:
                    near = Reach(int(low.min()), int(high.max())) if low.size else None
                    low_ns, high_ns = (near.start_ns, near.stop_ns) if near else (0, 0)
                    continue
                low, high = low[near.is_near(low)], high[near.is_near(high)]
                low_ns, high_ns = int(low.min(initial=low_ns)), int(high.max(initial=high_ns))
            start[k], stop[k] = low_ns, high_ns
        return start, stop


def _falls(time_ns: np.ndarray, n_blocks: int, *, ties: bool = False) -> np.ndarray:
    """int64: before which rows times begin again: at all steps back if they are as many as wanted, else large ones.

    ``ties``: two rows may begin their blocks at the same time, as trials do that count from zero.
    """
    if not time_ns.size:
        return np.zeros(0, np.int64)
    span = telling_span(time_ns)
    row = np.flatnonzero((time_ns >= span[0]) & (time_ns <= span[1]))  # a filler is where the one before it is
    steps = np.diff(time_ns[row])
    for first in (np.flatnonzero(steps < 0) + 1, np.flatnonzero(steps <= 0) + 1 if ties else ()):
        if len(first) == n_blocks - 1:
            return row[first]
    return row[np.flatnonzero(steps <= -least_fall_ns(time_ns, span)) + 1]


def _restarts(one: _Thing) -> int:
    """How often the stamps of a series begin again, as they are refused without --restarts."""
    return samples_again(ns_from_seconds(one.seconds[is_time(one.seconds)]))


def _restarts_of_units(time_ns: np.ndarray, offset: np.ndarray) -> int | None:
    """How often the times of most units begin again; 0 where they do not; None where all have too few to tell."""
    span, counts = telling_span(time_ns), Counter()
    least_ns = least_fall_ns(time_ns, span)
    for n in np.flatnonzero(np.diff(offset) >= TELLING).tolist():
        own = time_ns[offset[n] : offset[n + 1]]
        n_again, n_back, _, _ = kernels.begins_again(own, least_ns, SPIKES_AROUND, *span)
        counts[int(n_again) if 2 * n_again >= n_back else 0] += 1
    if not counts:
        return None
    if 2 * counts[0] > counts.total():
        return 0
    return max((n for n in counts if n), key=lambda n: (counts[n], n))


def _numbers(spike: np.ndarray, n_blocks: int) -> np.ndarray:
    """int16 ``[S]``: the block of each spike."""
    return np.repeat(np.tile(np.arange(n_blocks, dtype=np.int16), len(spike)), np.diff(spike, axis=1).reshape(-1))
