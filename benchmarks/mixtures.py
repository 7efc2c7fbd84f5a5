"""Curriculum, experts and choice of sessions, each against the poyo that has none of them, on the same sessions.

    python benchmarks/mixtures.py FOLDER [--seeds 0,1,2] [--only parent,experts] [--table] [--set KEY=VALUE]

Simulated: three subjects reach on three days, the last day of each unseen; beside them two animals of another task
whose units are hardly tuned and lead the movement by 400 ms, so that they help nobody. Every training has the same
number of steps; a session's 30 s of calibration are its first. Lines go to FOLDER/mixtures.jsonl as they come, and what
stands there is not done again; ``--table`` prints what is there: mean and standard deviation over seeds, each the mean
over the unseen sessions.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from models import spiketok

from spiketok.evaluation.choosing import rank_sessions
from spiketok.evaluation.transfer import evaluate_transfer
from spiketok.storage.store import read_session
from spiketok.storage.workspace import Workspace
from spiketok.training.checkpoints import load_run
from spiketok.training.config import load_config
from spiketok.training.loop import train
from spiketok.training.runs import make_shards, open_shards

TASK = "decode:cursor_vel"
UNSEEN = "CO-day03"
CHOSEN = 5  # sessions of a choice; as many are drawn for each seed beside it
ROWS = ("identity_only", "mapped")
CURRICULUM = ["data.curriculum_epochs=4", "data.curriculum_first=0.3"]
SETS = [
    *("model.depth=1", "model.latents_per_step=4", "model.dropout_lin=0", "data.batch_size=16", "optim.steps=500"),
    *("optim.lr=4e-3", "optim.group_lr={units=4}", "optim.checkpoint_every=0", "data.eval_step_ms=1000"),
]


def simulated(root: Path) -> Workspace:
    """The sessions of all trainings, made once."""
    if not (root / "store").exists():
        size = ["--units", "40", "--duration-s", "90"]
        spiketok(root, "simulate", "--subjects", "3", "--sessions-per-subject", "3", "--seed", "1", *size)
        other = ["--set", "tuning_depth=0.1", "--set", "lag_ms=400"]
        words = ["--task", "random_target", "--subjects", "2", "--sessions-per-subject", "2", "--seed", "7"]
        spiketok(root, "simulate", *words, *size, *other)
    return Workspace.locate(root).indexed(print)


def rankings(workspace: Workspace, pool: list[str], unseen: list[str]) -> dict[str, list[str]]:
    """The sessions in order of their own R2, and of what they help the unseen ones; measured once."""
    file = workspace.root / "rankings.json"
    if file.exists():
        return json.loads(file.read_text())
    config = load_config("linear", None, [f"tasks={TASK}"])
    make_shards(workspace, [*pool, *unseen], config, print)
    candidates, targets = (open_shards(workspace, ids, config) for ids in (pool, unseen))
    found = {"own": rank_sessions(config, candidates), "helped": rank_sessions(config, candidates, targets)}
    ranked = {name: [one.session for one in choice.sessions] for name, choice in found.items()}
    file.write_text(json.dumps(ranked))
    return ranked


def conditions(pool: list[str], ranked: dict[str, list[str]], seed: int) -> dict[str, tuple[list[str], list[str]]]:
    """By name, sessions and settings."""
    drawn = np.random.default_rng(seed).choice(pool, CHOSEN, replace=False).tolist()

    def listed(order: list[str]) -> list[str]:
        return ["data.curriculum=listed", f"data.curriculum_order={json.dumps(order)}", *CURRICULUM]

    return {
        "parent": (pool, []),
        "experts": (pool, ["model.experts=4"]),
        "easy": (pool, listed(ranked["own"])),
        "hard": (pool, listed(ranked["own"][::-1])),
        "drawn": (pool, ["data.curriculum=drawn", *CURRICULUM]),
        "best": (ranked["helped"][:CHOSEN], []),
        "random": (drawn, []),
    }


def measure(workspace: Workspace, folder: Path, sessions: list[str], unseen: list[str], sets: list[str]) -> dict:
    """One training and its transfer."""
    config = load_config("poyo", None, [f"tasks={TASK}", *sets])
    opened = open_shards(workspace, sorted(sessions), config)
    trained = train(config, opened, folder, resume="never")
    run = load_run(folder)
    found = evaluate_transfer(
        run,
        open_shards(workspace, unseen, config),
        protocols=ROWS,
        device="cpu",
        stored=lambda session: read_session(workspace.store_path(session)),
        trained=lambda chosen: open_shards(workspace, chosen, config),
    )
    cells = {}
    for cell in found.cells:
        cells.setdefault(cell.protocol, {})[cell.session] = cell.score["r2_variance_weighted"] if cell.score else None
    within = {s: of[TASK]["r2_variance_weighted"] for s, of in trained.scores.items()}
    told = {"parameters": run.model.n_fitted(), "within": within, "cells": cells}
    if run.model.config.experts > 1:
        rows = run.model.session_rows(sorted(sessions))
        weight = run.model.expert_weights(run.model.session_table.weight.new_tensor(list(rows.values())).long())
        told["gate"] = dict(zip(rows, weight.detach().tolist(), strict=True))
    return told


def table(lines: list[dict]) -> None:
    """Means and standard deviations over seeds."""
    columns = (*ROWS, "linear")
    print("| | seeds | within, reaching | " + " | ".join(columns) + " |\n" + "|---" * (3 + len(columns)) + "|")
    for name in dict.fromkeys(line["name"] for line in lines):
        own = [line for line in lines if line["name"] == name]
        within = [np.mean([r2 for s, r2 in line["within"].items() if "CO" in s]) for line in own]
        cells = [[np.mean(list(line["cells"][row].values())) for line in own] for row in columns]
        shown = [f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}" for v in (within, *cells)]
        print(f"| {name} | {len(own)} | " + " | ".join(shown) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="parent,experts,easy,hard,drawn,best,random")
    parser.add_argument("--table", action="store_true", help="print what was measured, and measure nothing")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of all trainings")
    arguments = parser.parse_args()
    root = arguments.folder.absolute()
    file = root / "mixtures.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if arguments.table:
        table(lines)
        return
    workspace = simulated(root)
    unseen = [s for s in workspace.session_ids() if UNSEEN in s]
    pool = [s for s in workspace.session_ids() if s not in unseen]
    make_shards(workspace, [*pool, *unseen], load_config("poyo"), print)
    ranked = rankings(workspace, pool, unseen)
    for seed in map(int, arguments.seeds.split(",")):
        for name in arguments.only.split(","):
            sets = [*SETS, f"seed={seed}", *arguments.set]
            key = {"name": name, "seed": seed, "sets": arguments.set}
            if any(key.items() <= line.items() for line in lines):
                continue
            sessions, more = conditions(pool, ranked, seed)[name]
            found = key | measure(workspace, root / "mixtures" / f"{name}-{seed}", sessions, unseen, [*sets, *more])
            with open(file, "a") as stream:
                stream.write(json.dumps(found) + "\n")
            print(name, seed, {row: round(float(np.mean(list(of.values()))), 3) for row, of in found["cells"].items()})


if __name__ == "__main__":
    main()
