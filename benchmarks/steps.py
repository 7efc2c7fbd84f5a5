"""Training steps: windows a second of named models and sizes on this machine's device, and how long they wait for data.

    python benchmarks/steps.py [poyo:11.8M ndt2:falcon-512 ...] [--device cpu|cuda] [--precision 32-true|bf16-mixed]
                               [--steps N] [--units N] [--batch N] [--set KEY=VALUE ...] [--compile]

Without names: the two sizes of the project's goals on a GPU, tiny ones elsewhere. Sessions are simulated in memory and
tokenized into a temporary folder; the batches are those of a training, cut ahead in two threads. All times are of the
wall, with the device waited for at both ends. By column:

- ``loader``: windows a second of whole steps (cut, forward, backward, clip, optimizer), batches from the loader;
- ``at hand``: the same steps on batches that were cut before; these two take turns in rounds, medians are printed;
- ``waiting``: share of the wall time that the steps of ``loader`` spent in asking for their batch;
- ``compiled``: ``at hand`` with ``torch.compile`` of the forward pass, or why there is none. Lengths of windows are
  lists of Python numbers, so that graphs break there; what is printed is what such a compilation gives all the same.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from harness import machine

from spiketok.models.batch import Batch, Progress
from spiketok.recording.nouns import NS_PER_S, Intervals, Session, Signal, Source, Spikes, UnitTable
from spiketok.tokens.shards import ShardReader, write_shard
from spiketok.training.config import RunConfig, load_config, model_class
from spiketok.training.loop import build_model, prepare, train_loader
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.runs import run_inputs, scheme_of
from spiketok.training.sampling import Once, SessionTokens
from spiketok.training.tables import clip_

GOALS = {"cuda": ["poyo:11.8M", "ndt2:falcon-512"], "cpu": ["poyo:tiny", "ndt2:tiny"]}
N_SESSIONS, SECONDS, RATE_HZ = 2, 120, 8.0
ROUNDS = 3


def made_session(number: int, n_units: int) -> Session:
    """Homogeneous spikes at about 8 Hz a unit, and a velocity at 100 Hz: enough to measure time."""
    rng, stop_ns = np.random.default_rng(number), SECONDS * NS_PER_S
    times = [np.sort(rng.integers(0, stop_ns, rng.poisson(RATE_HZ * SECONDS))) for _ in range(n_units)]
    time_ns = np.arange(0, stop_ns, NS_PER_S // 100)
    value = rng.normal(size=(len(time_ns), 2)).astype(np.float32)
    return Session(
        id=f"bench/{number}",
        subject="s",
        start_ns=0,
        stop_ns=stop_ns,
        units=UnitTable([f"u{n}" for n in range(n_units)], {"group": np.arange(n_units) // 96}),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop_ns]),
        source=Source("made.nwb", hashlib.sha256(str(number).encode()).hexdigest(), 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 100.0)},
    )


def tokens_of(folder: Path, config: RunConfig, session: Session) -> SessionTokens:
    """The shards of a session that a run reads."""
    windowed, once = {}, {}
    for name, wanted in run_inputs(config).items():
        target = folder / session.id / name
        write_shard(
            target, scheme_of(wanted), session, session.observed, segments_rule="observed", store_digest="d" * 64
        )
        if wanted.per == "session":
            once[name] = Once(ShardReader(target), wanted.most, wanted.choose)
        else:
            windowed[name] = ShardReader(target)
    return SessionTokens(windowed, once)


class Steps:
    """A model in training."""

    def __init__(self, config: RunConfig, sessions: list[SessionTokens], device: torch.device) -> None:
        divided, tasks = prepare(config, sessions)
        self.config, self.device = config, device
        self.model = build_model(config, tasks, divided).to(device).train()
        self.forward = self.model
        self.optimizer = build_optimizer(self.model, config.optim)
        self.loader = train_loader(config, divided, self.model, tasks)

    def batches(self) -> Iterator[Batch]:
        """Without an end, from the loader."""
        for _ in count():
            yield from self.loader

    def run(self, batches: Iterator[Batch], n: int) -> tuple[int, float, float]:
        """So many steps: windows, seconds of the wall, and those of them spent in waiting for a batch."""
        windows, waited, half = 0, 0.0, self.config.optim.precision == "bf16-mixed"
        self._wait()
        begun = time.perf_counter()
        for step in range(n):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            batch = batch.to(self.device)
            set_rates(self.optimizer, step, n, self.config.optim)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                total = self.model.loss(batch, self.forward(batch), Progress(step, n))["total"]
            total.backward()
            clip_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            windows += len(batch)
        self._wait()
        return windows, time.perf_counter() - begun, waited

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def again(batches: list[Batch]) -> Iterator[Batch]:
    """The same batches, without an end."""
    for _ in count():
        yield from batches


def row_of(name: str, config: RunConfig, arguments: argparse.Namespace, device: torch.device) -> list[str]:
    n_sessions = 1 if model_class(config.model).one_session else N_SESSIONS
    with tempfile.TemporaryDirectory() as folder:
        made = [made_session(k, arguments.units) for k in range(n_sessions)]
        steps = Steps(config, [tokens_of(Path(folder), config, session) for session in made], device)
        stream = steps.batches()
        kept = [next(stream).clone() for _ in range(4)]
        steps.run(stream, 3)
        loaded, at_hand = [], []
        for _ in range(ROUNDS):
            loaded.append(steps.run(stream, arguments.steps))
            at_hand.append(steps.run(again(kept), arguments.steps))
        compiled = compiled_rate(steps, kept, arguments.steps) if arguments.compile else "-"
    return [
        name,
        f"{steps.model.n_fitted() / 1e6:.2f} M",
        f"{config.data.window_ms / 1e3:g} s x {config.data.batch_size}",
        f"{statistics.median(w / s for w, s, _ in loaded):,.0f}",
        f"{statistics.median(w / s for w, s, _ in at_hand):,.0f}",
        f"{sum(waited for _, _, waited in loaded) / sum(seconds for _, seconds, _ in loaded):.1%}",
        compiled,
    ]


def compiled_rate(steps: Steps, kept: list[Batch], n: int) -> str:
    """Windows a second with a compiled forward pass, after as many steps that are not counted."""
    steps.forward = torch.compile(steps.model, dynamic=True)
    try:
        steps.run(again(kept), max(n, 2 * len(kept)))
    except RuntimeError as error:  # what the compiler cannot do is the answer
        return f"none: {type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
    windows, seconds, _ = steps.run(again(kept), n)
    return f"{windows / seconds:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="NAME:SIZE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--units", type=int, default=100)
    parser.add_argument("--batch", type=int, help="windows of a batch; by default the recipe's")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="as of spiketok train, for every model")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    device = torch.device(arguments.device)
    precision = arguments.precision or ("bf16-mixed" if device.type == "cuda" else "32-true")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, {precision}; {machine()}, torch {torch.__version__}")
    print(f"{arguments.units} units, {RATE_HZ:g} Hz; {ROUNDS} rounds of {arguments.steps} steps\n")
    rows = [["model", "parameters", "windows", "loader /s", "at hand /s", "waiting", "compiled /s"], ["---"] * 7]
    for name in arguments.models or GOALS[arguments.device]:
        model, _, size = name.partition(":")
        sets = [*([f"size={size}"] if size else []), f"optim.precision={precision}", *arguments.sets]
        sets += [f"data.batch_size={arguments.batch}"] if arguments.batch else []
        rows.append(row_of(name, load_config(model, None, sets), arguments, device))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
