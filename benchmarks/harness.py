"""How every comparison is timed: candidates take turns in rounds, ratios are of one round, medians over rounds.

A sample repeats its candidate until it has run for a while, and is taken again where other programs had a core
meanwhile. Peers and spiketok do the same work on the same data; outputs are compared before anything is timed.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numba import njit

SAMPLE_S = 0.12
FOREIGN_SHARE = 0.15  # a sample with more foreign CPU than this, of one core, is taken again
RETRIES = 6
COMPILED_S = 5.0  # a first call that takes longer than compiling is a slow candidate's


@dataclass(frozen=True)
class Timing:
    """Seconds a call of each candidate, one value a round."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> float:
        """How many times longer ``slow`` takes: the median of the rounds' own ratios."""
        return statistics.median(a / b for a, b in zip(self.seconds[slow], self.seconds[fast], strict=True))


@dataclass(frozen=True)
class Row:
    """One line of the table: a task, who did it, how long it took, and how spiketok compares."""

    task: str
    who: str
    seconds: float
    ratio: float | None = None  # of this candidate's time to spiketok's; None for spiketok itself
    wanted: float | None = None  # at least (or for a limit: at most) this, where the project set itself a goal

    def cells(self) -> list[str]:
        ratio = "" if self.ratio is None else f"{self.ratio:,.2f}x" if self.ratio < 10 else f"{self.ratio:,.0f}x"
        return [self.task, self.who, duration(self.seconds), ratio, "" if self.wanted is None else f"{self.wanted:g}x"]


def measure(candidates: Mapping[str, Callable[[], object]], rounds: int = 5) -> Timing:
    """Time each candidate once a round, in turns, after calls that are not counted (caches, compilation)."""
    quick = {}
    for name, run in candidates.items():
        took = _once(run)
        quick[name] = took < COMPILED_S and _once(run) < SAMPLE_S
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            if quick[name]:
                run()  # what it works on has lain idle while slower candidates ran
            seconds[name].append(_sample(run))
    return Timing(seconds)


def _once(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _sample(run: Callable[[], object]) -> float:
    best, least = float("inf"), float("inf")
    for _ in range(RETRIES):
        foreign, begun, calls = _foreign_s(), time.perf_counter(), 0
        while (took := time.perf_counter() - begun) < SAMPLE_S or calls == 0:
            run()
            calls += 1
        took = time.perf_counter() - begun
        foreign = (_foreign_s() - foreign) / took
        if foreign < least:
            best, least = took / calls, foreign
        if foreign < FOREIGN_SHARE:
            break
    return best


def _foreign_s() -> float:
    """CPU seconds that other processes than this one (and its children) have used so far; 0 where that is not told."""
    try:
        with open("/proc/stat") as stream:
            fields = [int(word) for word in stream.readline().split()[1:9]]
    except OSError:
        return 0.0
    busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - (own.user + own.system + own.children_user + own.children_system)


@njit(cache=True)
def read(array):
    """Read every value once: half of what a limit is made of."""
    total = 0
    for k in range(array.size):
        total += array[k]
    return total


def duration(seconds: float) -> str:
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if seconds * factor >= 1:
            return f"{seconds * factor:,.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def compare(
    task: str, timing: Timing, ours: str, *, calls: int = 1, wanted: Mapping[str, float] | None = None
) -> list[Row]:
    """One row a candidate, spiketok's own among them; ``calls``: how many times the task is done in one sample."""
    return [
        Row(
            task,
            who,
            timing.median(who) / calls,
            None if who == ours else timing.ratio(who, ours),
            (wanted or {}).get(who),
        )
        for who in timing.seconds
    ]


def machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores ({platform.processor() or platform.machine()}), Python {platform.python_version()}"


def print_table(rows: list[Row]) -> None:
    """The rows as a markdown table."""
    print("| task | who | time | times spiketok's | goal |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row.cells())} |")
