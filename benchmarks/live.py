"""Live decoding on one CPU thread: what a window's predictions take, tokens and model, at full speed.

    python benchmarks/live.py [possm:tiny possm:8M ...] [--units N] [--seconds N] [--threads N] [--piece-ms MS]
                              [--set KEY=VALUE ...]

A simulated session is pushed in pieces of 1 ms, or others; models have the weights of their start, which cost what
trained ones cost. ``tokens``, ``model`` and ``total`` are of the wall; ``cpu`` is the thread's own time of all pieces
of a window, which other work on the machine moves less. Goals for possm, a 50 ms chunk: 2.5 ms (tiny), 6 ms (8M) at the
median, tokens within 100 us of the last spike.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
from harness import machine
from steps import made_session, tokens_of

from spiketok.evaluation.live import Decoded
from spiketok.evaluation.stream import Streamed, percentiles_ms, stream
from spiketok.recording.nouns import NS_PER_S
from spiketok.training.checkpoints import Run
from spiketok.training.config import load_config
from spiketok.training.loop import build_model, prepare
from spiketok.training.sessions import Stretches


def measure(
    name: str, size: str, n_units: int, seconds: float, piece_ns: int, sets: list[str], folder: Path
) -> tuple[Streamed, dict[str, float]]:
    """Stream some time of a session through a model: what was said and measured, and CPU ms of a window."""
    config = load_config(name, None, [f"size={size}", *sets])
    session = made_session(0, n_units)
    divided, tasks = prepare(config, [tokens_of(folder / size, config, session)])
    model = build_model(config, tasks, divided)
    model.fit(Stretches(divided, "train"))
    run = Run(folder, config, model.eval(), tuple(tasks), (), 0, 0, "", {})
    cpu_ns: list[int] = []
    begun = 0

    def count(decoded: Decoded, total_ns: int) -> None:
        nonlocal begun
        now = time.thread_time_ns()
        cpu_ns.append(now - begun)
        begun = now

    for duration_ns in (NS_PER_S, round(seconds * NS_PER_S)):  # the first warms up
        cpu_ns.clear()
        how = {"split": "train", "duration_ns": duration_ns, "piece_ns": piece_ns}
        found = stream(run, divided[0].tokens, session, **how, on_window=count)
    return found, percentiles_ms(cpu_ns[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["possm:tiny", "possm:8M"])
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--piece-ms", type=float, default=1.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, torch {torch.__version__}, {arguments.threads} threads, {arguments.units} units")
    print(f"load before {os.getloadavg()[0]:.1f}\n")
    print("| model | window ms | windows | | p50 ms | p95 | p99 | max |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for text in arguments.models:
            name, _, size = text.partition(":")
            how = arguments.units, arguments.seconds, round(arguments.piece_ms * 1e6), arguments.set
            found, cpu = measure(name, size or "tiny", *how, Path(folder))
            for part, values in {**found.latency_ms, "cpu": cpu}.items():
                shown = " | ".join(f"{values[p]:.3f}" for p in ("p50", "p95", "p99", "max"))
                window = f"{found.window_ns / 1e6:g} | {found.n_windows}"
                print(f"| {text} | {window} | {part} | {shown} |", flush=True)
    print(f"\nload after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
