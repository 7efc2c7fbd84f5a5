"""How many windows a second each way of Python's front door gives, beside the loader of ``spiketok train`` itself.

    python benchmarks/front_door.py [--seconds 600] [--rounds 3]

Recordings are generated: 4 sessions of 100 units at about 8 spikes/s, and a velocity at 100 Hz. All candidates give the
same jittered windows of one second by ``per-spike`` with their normalised targets, in batches of 32, on the CPU:

- loader: ``training.loader.Loader``, reused memory, two threads ahead: what ``spiketok train`` iterates;
- batches, 0 or 2 workers: ``ws.dataset(..., batch_size=32)``, each batch in memory of its own;
- windows, 0 or 2 workers: ``ws.dataset(...)``, single windows put together by its ``collate``.

Then a training of ``poyo`` of size tiny: ``ws.train`` (the command's loop) and ``ws.prepare`` with a loop of one's own
over the same batches. Candidates take turns; medians over rounds are printed, of the windows a second, and a second of
CPU of all processes, which other programs on the machine do not move much.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import spiketok
from spiketok.recording.nouns import Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.storage.store import write_session
from spiketok.training.loop import train_loader

BATCH, N_UNITS, RATE_HZ = 32, 100, 8.0


def make_session(number: int, seconds: int) -> Session:
    rng = np.random.default_rng(number)
    stop = seconds * 1_000_000_000
    times = [np.sort(rng.integers(0, stop, rng.poisson(RATE_HZ * seconds))) for _ in range(N_UNITS)]
    time_ns = np.arange(0, stop, 10_000_000)
    value = np.cumsum(rng.normal(size=(len(time_ns), 2)), axis=0).astype(np.float32)
    return Session(
        id=f"bench/{number}",
        subject="s",
        start_ns=0,
        stop_ns=stop,
        units=UnitTable([f"unit_{n}" for n in range(N_UNITS)]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop]),
        source=Source("made.nwb", f"{number:064d}", 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 100.0)},
    )


def spent() -> tuple[float, float]:
    """Seconds by the clock, and of the CPU in this process and those that it started and that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + ended.ru_utime + ended.ru_stime


def per_second(items: Iterable) -> tuple[float, float]:
    """Windows a second, and a second of CPU, of one pass over batches."""
    (began, cpu), n = spent(), 0
    for batch in items:
        n += len(batch)
    now, used = spent()
    return n / (now - began), n / (used - cpu)


def tell(name: str, each: list[tuple[float, float]]) -> None:
    by_clock, by_cpu = (statistics.median(column) for column in zip(*each, strict=True))
    print(f"{name:<24}{by_clock:>12,.0f} windows/s{by_cpu:>12,.0f} windows/s of CPU", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=600)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--steps", type=int, default=40)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ws = spiketok.open(folder)
        for number in range(4):
            session = make_session(number, given.seconds)
            write_session(session, Path(folder) / "store" / session.id)
        settings = {"data.batch_size": BATCH, "data.unit_dropout": None, "optim.steps": given.steps}
        ready = ws.prepare("poyo", hold_out="none", settings=settings, tokenize=True)
        own = train_loader(ready.config, ready.divided, ready.model, ready.tasks)
        batches = ws.dataset("per-spike", target="vel", batch_size=BATCH)
        single = ws.dataset("per-spike", target="vel")
        rates: dict[str, list[tuple[float, float]]] = {}
        candidates: dict[str, Callable[[], tuple[float, float]]] = {"loader": lambda: per_second(own)}
        for workers in (0, 2):
            whole = DataLoader(batches, batch_size=None, num_workers=workers)
            parts = DataLoader(single, batch_size=BATCH, collate_fn=single.collate, num_workers=workers)
            candidates[f"batches, {workers} workers"] = lambda whole=whole: per_second(whole)
            candidates[f"windows, {workers} workers"] = lambda parts=parts: per_second(parts)
        for candidate in candidates.values():
            candidate()  # compiled
        for _ in range(given.rounds):
            for name, candidate in candidates.items():
                rates.setdefault(name, []).append(candidate())
        for name, each in rates.items():
            tell(name, each)
        began, cpu = spent()
        run = ws.train("poyo", hold_out="none", settings=settings)
        n, (now, used) = given.steps * BATCH, spent()
        tell("spiketok train, scored", [(n / (now - began), n / (used - cpu))])
        print(f"{'its own steps':<24}{run.curve['windows_per_s'].median():>12,.0f} windows/s")
        for workers in (0, 2):
            loader, optimizer = ready.loader(num_workers=workers), ready.optimizer()
            (began, cpu), step, n = spent(), 0, 0
            while step < given.steps:
                for batch in loader:
                    ready.step(batch, optimizer, step)
                    step, n = step + 1, n + len(batch)
                    if step == given.steps:
                        break
            now, used = spent()
            tell(f"own loop, {workers} workers", [(n / (now - began), n / (used - cpu))])


if __name__ == "__main__":
    main()
