"""Whether the times of a file are seconds of one clock: a clock that began again, samples, milliseconds, periods.

What is unusual: what is not seconds of one clock is refused before anything is sorted or dropped. A time that steps
back and then goes on rising through what was there before is no disorder: the clock began again, or each trial has its
own zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketok.recording.nouns import NS_PER_S
from spiketok.sources.formats.nwb import kernels
from spiketok.sources.formats.nwb.hdf5 import Hdf5
from spiketok.sources.formats.nwb.intervals import Reach
from spiketok.sources.formats.nwb.tables import in_seconds, is_time

FALL_SHARE = 0.02  # of the whole: a smaller step back is disorder
SPIKES_AROUND, SAMPLES_AROUND = 3, 5  # so many on both sides of a step back must rise through the same time
TELLING = 20  # a unit with fewer spikes, a series with fewer samples, tells nothing of clocks
HOUR_NS, DAY_NS = 3600 * NS_PER_S, 24 * 3600 * NS_PER_S
LEAST_RATE_HZ = 0.01  # half the units below it in over an hour: no neurons in seconds
MOST_RATIO = 50  # a behaviour that lasts so many times as long as the spikes, and over an hour, is in no seconds
LONGEST_NS = 2 * DAY_NS
SPIKES = ("spikes",)
STATE = "say what they are with --time-unit {}=UNIT (s, ms, us, ns, samples:HZ)"
BLOCKS = "lay its blocks out one behind the other with --restarts blocks, or split the file into one for each"


def least_fall_ns(time_ns: np.ndarray) -> int:
    """How large a step back must be to be no disorder, of times int64 ``[T]``."""
    return max(int(FALL_SHARE * (int(time_ns.max()) - int(time_ns.min()))), 1)


def refuse_restarted_spikes(h5: Hdf5, time_ns: np.ndarray, offset: np.ndarray) -> None:
    """Raise SourceError where the times of most units begin again somewhere.

    Args:
        h5: the file. time_ns: int64 ``[S]``, unit after unit, as the file has them. offset: int64 ``[N + 1]``.
    """
    if not time_ns.size or h5.mends_clocks or h5.laid is not None:
        return
    count = np.diff(offset)
    telling = np.flatnonzero(count >= TELLING)
    least_ns = least_fall_ns(time_ns)
    again, before_ns, after_ns = 0, 0, 0
    for unit in telling.tolist():
        n_again, n_back, before, after = kernels.begins_again(
            time_ns[offset[unit] : offset[unit + 1]], least_ns, SPIKES_AROUND
        )
        if n_again and 2 * n_again >= n_back:
            before_ns, after_ns = (before, after) if not again else (before_ns, after_ns)
            again += 1
    if again and 2 * again >= telling.size:
        fact = (
            f"the spike times of {again} of {telling.size} units begin again (after {in_seconds(before_ns)} comes "
            f"{in_seconds(after_ns)}): the clock restarted, or each trial has a zero of its own"
        )
        h5.refuse(fact, BLOCKS)


def refuse_restarted_samples(h5: Hdf5, path: str, time_ns: np.ndarray) -> None:
    """Raise SourceError where the stamps of a series, int64 ``[T]`` as the file has them, begin again."""
    if time_ns.size < 2 * SAMPLES_AROUND or h5.mends_clocks or h5.laid is not None:
        return
    n_again, n_back, before, after = kernels.begins_again(time_ns, least_fall_ns(time_ns), SAMPLES_AROUND)
    if n_again and 2 * n_again >= n_back:
        times = "time" if n_again == 1 else "times"
        fact = f"{path}: its time stamps begin again {n_again} {times} (after {in_seconds(before)} comes "
        cure = f"if the spikes begin again, too, {BLOCKS}; else write its times on the clock of the spikes"
        h5.refuse(f"{fact}{in_seconds(after)}): the clock restarted", cure)


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


def refuse_times_in_no_seconds(h5: Hdf5, parts: Sequence[str], seconds: np.ndarray, near: Reach) -> None:
    """Raise SourceError where the times of a table or behaviour, float64 ``[T]``, last much longer than the spikes.

    Args:
        h5: the file. parts: the path of what has the times. near: the reach of the units.
    """
    seconds = seconds[is_time(seconds)]
    if h5.time_unit.scale(parts) is not None or h5.mends_clocks or seconds.size < TELLING:
        return
    if near.start_ns == near.stop_ns:  # a file without units: joining it holds its times against the spikes
        return
    low, high = np.quantile(seconds, (0.1, 0.9))
    lasts_ns, own_ns = (high - low) / 0.8 * NS_PER_S, near.stop_ns - near.start_ns
    if lasts_ns > max(MOST_RATIO * own_ns, HOUR_NS):
        fact = f"{'/'.join(parts)} lasts {in_seconds(lasts_ns)}, all spikes {in_seconds(own_ns)}"
        h5.refuse(f"{fact}: these are not seconds", STATE.format(parts[-1]))
