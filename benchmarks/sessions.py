"""Many sessions: what a training costs with 100, 1,000 and 5,000 of them, on one thread.

Sessions are tiny (20 s of 200 units) and made in memory: one recording under many names, each with units of its own.
Nothing is read from a disk, so what is measured is the model, the loader and the optimizer. All times are CPU seconds:
of one call each for the set-up, the median over steps for a step; a ratio is to the smallest number of sessions.

The last row is no time: the largest difference between tables under the lazy AdamW and under torch's dense one.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from harness import Row, machine, print_table
from torch import nn

from spiketok.models.vocabulary import Vocabulary
from spiketok.recording.nouns import NS_PER_S, Intervals, Session, SessionInfo, Signal, Source, Spikes, UnitTable
from spiketok.tokens.schemes import make_scheme
from spiketok.training.config import RunConfig, load_config
from spiketok.training.loop import build_model, train_loader
from spiketok.training.optimizers import build_optimizer, set_rates
from spiketok.training.sampling import SessionTokens
from spiketok.training.sections import OptimConfig
from spiketok.training.sessions import DividedSession
from spiketok.training.tables import clip_
from spiketok.training.tasks.decode import Decode

N_UNITS, SECONDS, RATE_HZ = 200, 20, 0.5
STEP_SESSIONS, SETUP_SESSIONS = (100, 1000, 5000), (1000, 5000)
STEPS = 30  # timed; as many are not, first
MODEL = ["model.dim=64", "model.depth=1", "model.dim_head=16", "model.self_heads=1", "model.latents_per_step=1"]


class Shard:
    """A shard in memory: what loaders ask of a :class:`spiketok.tokens.shards.ShardReader`."""

    def __init__(self, session: Session, info: SessionInfo, columns: dict[str, np.ndarray]) -> None:
        self.session, self.info, self.columns = session, info, columns
        self.scheme, self.path = make_scheme("per-spike"), info.id
        self.segments = Intervals([session.start_ns], [session.stop_ns])
        self.observed, self.splits, self.trials = session.observed, session.splits, session.trials

    def signal(self, name: str) -> Signal:
        return self.session.signals[name]

    def signal_reach_ns(self, name: str) -> tuple[int, int]:
        return 0, 0


@cache
def recording() -> tuple[Session, dict[str, np.ndarray]]:
    """The one recording, and its tokens."""
    rng, stop_ns = np.random.default_rng(0), SECONDS * NS_PER_S
    times = [np.sort(rng.integers(0, stop_ns, rng.poisson(RATE_HZ * SECONDS))) for _ in range(N_UNITS)]
    time_ns = np.arange(0, stop_ns, NS_PER_S // 50)
    value = rng.normal(size=(len(time_ns), 2)).astype(np.float32)
    session = Session(
        id="bench/0",
        subject="s",
        start_ns=0,
        stop_ns=stop_ns,
        units=UnitTable([f"u{n}" for n in range(N_UNITS)]),
        spikes=Spikes.from_units(times),
        observed=Intervals([0], [stop_ns]),
        source=Source("made.nwb", hashlib.sha256(b"made").hexdigest(), 1),
        signals={"vel": Signal(time_ns, value, ("x", "y"), "mm/s", np.ones(len(time_ns), np.bool_), 50.0)},
    )
    return session, make_scheme("per-spike").bake(session, Intervals([0], [stop_ns])).columns


def made_sessions(n: int) -> list[SessionTokens]:
    """So many sessions of different names."""
    session, columns = recording()
    signals = {"vel": (("x", "y"), "mm/s")}
    info = SessionInfo("bench/0", "s", session.units.id, len(session.spikes), 0, session.stop_ns, signals)
    names = [f"bench/{k:05}" for k in range(n)]
    return [SessionTokens({"spikes": Shard(session, replace(info, id=name), columns)}) for name in names]


def divided(tokens: list[SessionTokens]) -> tuple[list[DividedSession], list[Decode]]:
    """Each session with the first half of its time to train on."""
    task = Decode.resolve("vel", tokens[:1], load_config("poyo").task_config("decode"))
    half, stop = SECONDS * NS_PER_S // 2, SECONDS * NS_PER_S
    splits = {"train": Intervals([0], [half]), "valid": Intervals.empty(), "test": Intervals([half], [stop])}
    sessions = [DividedSession(one, (task,), one.observed, splits) for one in tokens]
    for one in sessions:  # as prepare does, before there is a model: each session keeps its territories
        one.windows("train")
    task.fit([(one.tokens, one.guarded["train"]) for one in sessions[:1]])
    return sessions, [task]


def config_of(optimizer: str) -> RunConfig:
    return load_config(
        "poyo", None, [*MODEL, "data.batch_size=32", "optim.steps=1000", f"optim.name={optimizer}", "optim.lr=0.001"]
    )


# ---- rows -----------------------------------------------------------------------------------------------------------


def step_rows(optimizer: str) -> list[Row]:
    """One step: cut, forward, backward, clip, optimizer; the numbers of sessions take turns, ratios are of one turn."""
    config, steps = config_of(optimizer), {}
    for n in STEP_SESSIONS:
        sessions, tasks = divided(made_sessions(n))
        torch.manual_seed(0)
        model = build_model(config, tasks, sessions)
        steps[n] = _steps(model.train(), train_loader(config, sessions, model, tasks), config)
    turns = list(zip(*steps.values(), strict=True))
    return [
        Row(
            f"poyo step, {optimizer}",
            f"{n:,} sessions x {N_UNITS} units",
            statistics.median(turn[k] for turn in turns),
            statistics.median(turn[k] / turn[0] for turn in turns),
            1.2,
        )
        for k, n in enumerate(STEP_SESSIONS)
    ]


def _steps(model, loader, config: RunConfig) -> Iterator[float]:
    from spiketok.models.batch import Progress

    optimizer = build_optimizer(model, config.optim)
    batches = (batch for _ in iter(int, 1) for batch in loader)
    for step in range(2 * STEPS):
        begun = time.process_time()
        batch = next(batches)
        set_rates(optimizer, step, 1000, config.optim)
        model.loss(batch, model(batch), Progress(step, 1000))["total"].backward()
        clip_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step >= STEPS:
            yield time.process_time() - begun


def setup_rows() -> list[Row]:
    """CPU seconds from divided sessions to the first batch."""
    found, first = [], 0.0
    config = config_of("adamw")
    for n in SETUP_SESSIONS:
        sessions, tasks = divided(made_sessions(n))
        parts, begun = {}, time.process_time()
        model = build_model(config, tasks, sessions)
        parts["build_model"] = time.process_time()
        train_loader(config, sessions, model, tasks)
        parts["train_loader"] = time.process_time()
        build_optimizer(model, config.optim)
        parts["optimizer"] = time.process_time()
        for name, ended in parts.items():
            found.append(Row(f"start, CPU: {name}", f"{n:,} sessions", ended - begun))
            begun = ended
        total = sum(row.seconds for row in found[-3:])
        first = first or total / n
        found.append(Row("start, CPU: together", f"{n:,} sessions", total, total / n / first))
    return found


def vocabulary_rows() -> list[Row]:
    """The units of a set such as BrainWideBench: 423 sessions of 1,343."""
    names = [f"bench/{k:03}" for k in range(423)]
    infos = [SessionInfo(name, "s", np.array([f"u{n}" for n in range(1343)]), 0, 0, 1) for name in names]
    begun = time.process_time()
    table = Vocabulary(64, padding=True)
    table.extend({info.id: info.unit_keys() for info in infos})
    return [Row("vocabulary, CPU", f"423 sessions x 1,343 units, {len(table) - 1:,} rows", time.process_time() - begun)]


def lazy_row() -> Row:
    """400 steps of rows that come at random gaps, with warm-up and cosine; both optimizers in float32."""
    rng, config = np.random.default_rng(0), OptimConfig(steps=400, lr=2e-3)
    torch.manual_seed(0)
    lazy = _OnlyTable(200)
    dense = nn.Parameter(lazy.table.weight.detach().clone())
    ours, theirs = build_optimizer(lazy, config), torch.optim.AdamW([dense], betas=config.betas, weight_decay=0.0)
    gap = rng.integers(1, 150, 200)
    for step in range(400):
        rows = torch.from_numpy(np.flatnonzero(rng.random(200) < 1 / gap))
        g = torch.from_numpy(rng.normal(size=(len(rows), 64)).astype(np.float32) * 10.0 ** rng.uniform(-8, 0))
        dense.grad = torch.zeros_like(dense).index_copy(0, rows, g)
        lazy.table.weight.grad = torch.sparse_coo_tensor(rows[None], g, dense.shape, check_invariants=True)
        theirs.param_groups[0]["lr"] = set_rates(ours, step, 400, config)
        ours.step()
        theirs.step()
    ours.catch_up()
    worst = float((lazy.table.weight - dense).detach().abs().max())
    return Row("lazy against dense AdamW, 400 steps", f"largest difference {worst:.1e} (goal 1e-5)", 0.0)


class _OnlyTable(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.table = Vocabulary(64, padding=False)
        self.table.extend({"all": [str(k) for k in range(n)]})

    def identity_parameters(self) -> list:
        return []


def rows() -> list[Row]:
    return [*step_rows("adamw"), *step_rows("lamb"), *setup_rows(), *vocabulary_rows(), lazy_row()]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; one thread\n")
    print_table(rows())


if __name__ == "__main__":
    main()
