"""Selection and planning of many sessions: what a command does before it opens the first shard.

The sessions are made of one that is real: each has its arrays (one file under many names), and attributes with an id, a
subject and a digest of its own. Shards are empty folders of the right name: a run asks first whether they exist.

    python benchmarks/planning.py [SESSIONS]
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from spiketok.pipeline.ingest import ingest
from spiketok.pipeline.tokenize import plan_session, shard_path
from spiketok.sources.simulator import SimulationConfig, simulate
from spiketok.storage.files import SESSION_MARKS, canonical_json, fingerprint
from spiketok.storage.members import ARRAYS
from spiketok.storage.workspace import Workspace
from spiketok.tokens.schemes import make_scheme
from spiketok.training.config import load_config
from spiketok.training.runs import choose_training, default_model, missing_shards

DAYS = 10  # sessions a subject


def make_store(root: Path, n_sessions: int) -> Workspace:
    """A workspace with so many sessions."""
    one = Workspace(root / "one")
    config = SimulationConfig(n_subjects=1, sessions_per_subject=1, n_units=30, duration_s=10.0)
    (outcome,) = ingest(one, simulate(config, one.simulated), "made")
    path = one.store_path(outcome.result.session_id)
    mark = SESSION_MARKS[0]
    attributes = json.loads((path / mark).read_text())
    del attributes["attributes_sha256"]
    workspace = Workspace(root / "many")
    for k in range(n_sessions):
        subject, day = f"S{k // DAYS:04}", k % DAYS + 1
        own = {"id": f"made/{subject}-{day:02}", "subject": subject, "digest": fingerprint(k) * 4}
        source = attributes["source"] | {"session_start": f"2020-01-{day:02}T10:00:00+00:00"}
        folder = workspace.store_path(own["id"])
        folder.mkdir(parents=True)
        told = attributes | own | {"source": source}
        told["attributes_sha256"] = hashlib.sha256(canonical_json(told).encode()).hexdigest()
        (folder / mark).write_text(json.dumps(told))
        os.link(path / ARRAYS, folder / ARRAYS)
    return workspace


def planning(n_sessions: int = 10_000) -> dict[str, float]:
    """CPU seconds of each part; ``"train"`` and ``"tokenize"`` are what these commands do with a true index."""
    took: dict[str, float] = {}

    def timed(name: str, work: Callable):
        before = time.process_time()
        result = work()
        took[name] = round(time.process_time() - before, 3)
        return result

    with tempfile.TemporaryDirectory() as folder:
        workspace = make_store(Path(folder), n_sessions)
        indexed = timed("index made of the sessions", lambda: workspace.indexed(print))
        scheme, config = make_scheme("per-spike"), load_config("poyo")

        def train() -> None:
            ready = workspace.indexed(print)
            chosen = choose_training(ready, config, None, None)
            assert len(chosen.sessions) == n_sessions - n_sessions // DAYS
            assert not missing_shards(ready, chosen.sessions, config)

        def tokenize() -> None:
            ready = workspace.indexed(print)
            plans = [plan for s in ready.select() for plan in plan_session(ready, s, [scheme])]
            assert len(plans) == 2 * n_sessions
            assert {plan.state for plan in plans} == {"new"}

        timed("index opened", lambda: workspace.indexed(print))
        timed("tokenize, with sizes", tokenize)
        for session_id in indexed.index.ids:
            shard_path(indexed, session_id, scheme, config.data.segments).mkdir(parents=True)
        timed("train", train)
        timed("train without --model", lambda: default_model(workspace.indexed(print), indexed.session_ids()))
    return took


if __name__ == "__main__":
    for part, seconds in planning(*map(int, sys.argv[1:])).items():
        print(f"{part:<28}{seconds:8.3f} s")
