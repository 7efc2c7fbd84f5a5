"""Whether the times of a file are seconds of one clock: a clock that began again, samples, milliseconds, periods.

What is unusual: what is not seconds of one clock is refused before anything is sorted or dropped. A time that steps
back and then goes on rising through what was there before is no disorder: the clock began again, or each trial has its
own zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spiketok.recording.nouns import NS_PER_S, Intervals
from spiketok.sources.formats.nwb import kernels
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.intervals import Reach, Table
from spiketok.sources.formats.nwb.tables import Findings, in_seconds, is_time, ns_from_seconds

UNBOUND = ("acquisition", "stimulus")  # what is there may run on long before and after the recording

FALL_SHARE = 0.02  # of the whole: a smaller step back is disorder
EDGE_SHARE, MOST_SAMPLED = 0.02, 2**16  # fillers are fewer than this share; so many times say where most lie
SPIKES_AROUND, SAMPLES_AROUND, ROWS_AROUND = 3, 5, 2  # on both sides of a step back must rise through the same time
TELLING = 20  # a unit with fewer spikes, a series with fewer samples, tells nothing of clocks
TELLING_ROWS = 5  # nor does a table of fewer rows
HOUR_NS, DAY_NS = 3600 * NS_PER_S, 24 * 3600 * NS_PER_S
LEAST_RATE_HZ = 0.01  # half the units below it in over an hour: no neurons in seconds
LOW_RATE_HZ = 0.2  # the same, where the spikes besides last ``MOST_RATIO`` times as long as all trials and behaviours
MOST_RATIO = 50  # a behaviour that lasts so many times as long as the spikes, and over an hour, is in no seconds
STEP_NS, STEP_RATIO = NS_PER_S, 10  # nor is one that lasts so many times as long in steps of a second or more
LONGER_NS = 60 * NS_PER_S
LONGEST_NS = 2 * DAY_NS
SPIKES = ("spikes",)
STATE = "say what they are with --time-unit {}=UNIT (s, ms, us, ns, samples:HZ)"
BLOCKS = "lay its blocks out one behind the other with --restarts blocks, or split the file into one for each"
OWN_CLOCK = "write its times on the clock of the spikes"


def telling_span(time_ns: np.ndarray) -> tuple[int, int]:
    """From where to where times int64 ``[T]``, in any order, tell of their clock: what lies far from most is a filler.

    >>> telling_span(np.array([-1] + list(range(1000)) + [10**9]))
    (-939, 1937)
    """
    some = np.sort(time_ns[:: max(time_ns.size // MOST_SAMPLED, 1)])
    if not some.size:
        return 0, 0
    edge = math.ceil(EDGE_SHARE * some.size) if some.size >= TELLING else 0
    low, high = int(some[edge]), int(some[some.size - 1 - edge])
    return max(2 * low - high, -(2**62)), min(2 * high - low, 2**62)


def least_fall_ns(time_ns: np.ndarray, span: tuple[int, int]) -> int:
    """How large a step back must be to be no disorder, of times int64 ``[T]`` of which those of a span tell."""
    first, last = max(int(time_ns.min()), span[0]), min(int(time_ns.max()), span[1])
    return max(int(FALL_SHARE * (last - first)), 1)


@dataclass(frozen=True)
class Again:
    """How many units' times begin again, of how many that tell, and the times before and after the first step back."""

    n_units: int
    n_telling: int
    before_ns: int
    after_ns: int

    @property
    def told(self) -> str:
        """For people."""
        step = f"after {in_seconds(self.before_ns)} comes {in_seconds(self.after_ns)}"
        return f"the spike times of {self.n_units} of {self.n_telling} units begin again ({step})"

    @property
    def is_restart(self) -> bool:
        """Whether so many units do that the clock must have."""
        return self.n_units > 0 and 2 * self.n_units >= self.n_telling


def units_again(time_ns: np.ndarray, offset: np.ndarray) -> Again:
    """Which units' times begin again somewhere.

    Args:
        time_ns: int64 ``[S]``, unit after unit, as the file has them. offset: int64 ``[N + 1]``.
    """
    if not time_ns.size:
        return Again(0, 0, 0, 0)
    telling = np.flatnonzero(np.diff(offset) >= TELLING)
    span = telling_span(time_ns)
    least_ns = least_fall_ns(time_ns, span)
    again, before_ns, after_ns = 0, 0, 0
    for unit in telling.tolist():
        n_again, n_back, before, after = kernels.begins_again(
            time_ns[offset[unit] : offset[unit + 1]], least_ns, SPIKES_AROUND, *span
        )
        if n_again and 2 * n_again >= n_back:
            before_ns, after_ns = (before, after) if not again else (before_ns, after_ns)
            again += 1
    return Again(again, int(telling.size), int(before_ns), int(after_ns))


def refuse_restarted_spikes(h5: Hdf5, time_ns: np.ndarray, offset: np.ndarray, found: Findings) -> None:
    """Raise SourceError where the times of most units begin again somewhere; note where those of some do.

    Args:
        h5: the file. time_ns, offset: as of :func:`units_again`. found: takes the note.
    """
    if h5.mends_clocks or h5.laid is not None:
        return
    again = units_again(time_ns, offset)
    if again.is_restart:
        h5.refuse(f"{again.told}: the clock restarted, or each trial has a zero of its own", BLOCKS)
    found.note("spikes-begin-again", again.n_units, f"{again.told}, those of the others go on; {SORTED_AS_ONE}")


SORTED_AS_ONE = "sorted into one train, as merged clusters are: if a clock restarted there, leave these units out"


def _again_of(time_ns: np.ndarray, around: int) -> tuple[int, int, int]:
    """How often times int64 ``[T]`` begin again, 0 where that is disorder; the times before and after the first."""
    if time_ns.size < 2 * around:
        return 0, 0, 0
    span = telling_span(time_ns)
    n_again, n_back, before, after = kernels.begins_again(time_ns, least_fall_ns(time_ns, span), around, *span)
    return (int(n_again) if 2 * n_again >= n_back else 0), int(before), int(after)


def samples_again(time_ns: np.ndarray) -> int:
    """How often the stamps of a series, int64 ``[T]`` as the file has them, begin again."""
    return _again_of(time_ns, SAMPLES_AROUND)[0]


def refuse_restarted_samples(h5: Hdf5, path: str, time_ns: np.ndarray) -> None:
    """Raise SourceError where the stamps of a series, int64 ``[T]`` as the file has them, begin again."""
    if h5.mends_clocks or h5.laid is not None:
        return
    n_again, before, after = _again_of(time_ns, SAMPLES_AROUND)
    if n_again:
        times = "time" if n_again == 1 else "times"
        fact = f"{path}: its time stamps begin again {n_again} {times} (after {in_seconds(before)} comes "
        cure = f"if the spikes begin again, too, {BLOCKS}; else {OWN_CLOCK}"
        h5.refuse(f"{fact}{in_seconds(after)}): the clock restarted", cure)


def refuse_restarted_trials(h5: Hdf5, table: Table) -> None:
    """Raise SourceError where the rows of ``trials`` begin again and lie over each other: no trial has another's time.

    Rows that are in another order and do not overlap (by condition) are as good as any, and so are tables of other
    names, whose rows may well overlap.
    """
    if table.parts[-1] != "trials" or h5.mends_clocks or h5.laid is not None or h5.time_unit.scale(table.parts) == 1:
        return
    known = is_time(table.start_s) & is_time(table.stop_s) & (table.stop_s > table.start_s)
    start_ns, stop_ns = ns_from_seconds(table.start_s[known]), ns_from_seconds(table.stop_s[known])
    if start_ns.size < TELLING_ROWS:
        return
    stated = f"or say with --time-unit {table.parts[-1]}=s that they are right"
    if start_ns.min() == start_ns.max():
        fact = f"{table.path}: all {start_ns.size} rows begin at {in_seconds(start_ns[0])}"
        h5.refuse(f"{fact}: each trial has a zero of its own", f"{OWN_CLOCK}, {stated}")
    n_again, before, after = _again_of(start_ns, ROWS_AROUND)
    if not n_again:
        return
    block = np.cumsum(np.concatenate([[0], np.diff(start_ns) < 0]))
    order = np.argsort(start_ns, kind="stable")
    over = start_ns[order][1:] < stop_ns[order][:-1]
    apart = np.diff(block[order]) != 0
    if (over & apart).sum() > max(1, 4 * (over & ~apart).sum()):
        times = "time" if n_again == 1 else "times"
        fact = f"{table.path}: its rows begin again {n_again} {times} (after {in_seconds(before)} comes "
        fact = f"{fact}{in_seconds(after)}) and {int((over & apart).sum())} lie over one from before"
        h5.refuse(f"{fact}: the clock restarted", f"{OWN_CLOCK}, {stated}")


def refuse_spikes_in_no_seconds(h5: Hdf5, time_ns: np.ndarray, n_units: int) -> None:
    """Raise SourceError where spike times, int64 ``[S]`` in order, of so many units are samples or milliseconds."""
    lasts_ns = int(time_ns[-1]) - int(time_ns[0])  # in int64 it may overflow
    stated = h5.time_unit.scale(SPIKES) is not None or h5.mends_clocks
    if stated or time_ns.size < TELLING or lasts_ns < HOUR_NS:
        return
    low, high = time_ns.size // 4, 3 * time_ns.size // 4
    rate_hz = (high - low) * NS_PER_S / max(int(time_ns[high]) - int(time_ns[low]), 1) / n_units
    whole = bool((time_ns % NS_PER_S == 0).all()) and int((np.diff(time_ns) > 0).sum()) >= TELLING
    if whole or rate_hz < LEAST_RATE_HZ or lasts_ns > LONGEST_NS:
        why = "all of them whole numbers" if whole else f"{rate_hz:.2g} Hz a unit"
        fact = f"{time_ns.size} spike times from {in_seconds(time_ns[0])} to {in_seconds(time_ns[-1])}, {why}"
        h5.refuse(f"{fact}: these are not seconds", STATE.format("spikes"))


def refuse_times_in_no_seconds(
    h5: Hdf5, parts: Sequence[str], seconds: np.ndarray, near: Reach, *, is_table: bool = False
) -> None:
    """Raise SourceError where the times of a table or behaviour, float64 ``[T]``, last much longer than the spikes.

    Args:
        h5: the file. parts: the path of what has the times. near: the reach of the units. is_table: its rows have times
            of their own, and few of them tell.
    """
    seconds = seconds[is_time(seconds)]
    if h5.time_unit.scale(parts) is not None or h5.mends_clocks:
        return
    if seconds.size < (TELLING_ROWS if is_table else TELLING):
        return
    if near.start_ns == near.stop_ns:  # a file without units: joining it holds its times against the spikes
        return
    edge = 0.1 if seconds.size >= TELLING else 0.25
    low, high = np.quantile(seconds, (edge, 1 - edge))
    lasts_ns, own_ns = (high - low) / (1 - 2 * edge) * NS_PER_S, near.stop_ns - near.start_ns
    step_ns = 0.0 if is_table or parts[0] in UNBOUND else float(np.median(np.diff(seconds))) * NS_PER_S
    is_slow = step_ns >= STEP_NS and lasts_ns > max(STEP_RATIO * own_ns, own_ns + LONGER_NS)
    if lasts_ns > max(MOST_RATIO * own_ns, HOUR_NS) or is_slow:
        steps = f" in steps of {step_ns / NS_PER_S:.3g} s" if step_ns else ""
        fact = f"{'/'.join(parts)} lasts {in_seconds(lasts_ns)}{steps}, all spikes {in_seconds(own_ns)}"
        h5.refuse(f"{fact}: these are not seconds", f"{STATE.format(parts[-1])}, or the spikes with spikes=UNIT")


def refuse_spikes_that_last(h5: Hdf5, time_ns: np.ndarray, n_units: int, others: Sequence[np.ndarray]) -> None:
    """Raise SourceError where the spikes last much longer than all trials and behaviours, and are too few for that.

    Args:
        h5: the file. time_ns: int64 ``[S]``, of all spikes in order. n_units: how many units they are of.
        others: int64, each in order: the times of tables and behaviours on the recording's clock.
    """
    others = [times for times in others if times.size >= TELLING]
    if h5.time_unit.scale(SPIKES) is not None or h5.mends_clocks or time_ns.size < TELLING or not others:
        return
    low, high = int(time_ns[time_ns.size // 10]), int(time_ns[9 * time_ns.size // 10])
    lasts_ns, n_inside = max(high - low, 1) / 0.8, time_ns.size
    spans = [np.quantile(times, (0.1, 0.9)) for times in others]
    own_ns = (max(b for _, b in spans) - min(a for a, _ in spans)) / 0.8
    rate_hz = n_inside / n_units / lasts_ns * NS_PER_S
    if lasts_ns > max(MOST_RATIO * own_ns, HOUR_NS) and rate_hz < LOW_RATE_HZ:
        fact = (
            f"{time_ns.size} spikes last {in_seconds(lasts_ns)} at {rate_hz:.2g} Hz a unit, all trials and behaviours"
        )
        h5.refuse(f"{fact} {in_seconds(own_ns)}: these are not seconds", STATE.format("spikes"))


def refuse_observed_in_no_seconds(h5: Hdf5, observed: Intervals, near: Reach) -> None:
    """Raise SourceError where the stated observed time lasts much longer than the spikes, whose reach is ``near``."""
    lasts_ns = int(observed.stop_ns[-1]) - int(observed.start_ns[0])
    if h5.time_unit.scale(("units", "obs_intervals")) is not None or h5.mends_clocks:
        return
    # one that begins long before the spikes may well be in seconds
    is_beyond = int(observed.stop_ns[-1]) > MOST_RATIO * max(abs(near.start_ns), abs(near.stop_ns))
    if is_beyond and lasts_ns > max(MOST_RATIO * (near.stop_ns - near.start_ns), HOUR_NS):
        fact = f"units/obs_intervals last {in_seconds(lasts_ns)}, all spikes {in_seconds(near.stop_ns - near.start_ns)}"
        h5.refuse(f"{fact}: these are not seconds", STATE.format("obs_intervals"))
