"""What pretraining without labels is worth: a new day with 3 to 100 % of its training time, with and without it.

    python benchmarks/pretraining.py FOLDER [--models ndt2,mtm,neds] [--seeds 42,43,44]

The sessions are those of ``benchmarks/models.py``. A model is pretrained on six days by ``--task population``; then one
held-out day is learned, by the same steps from fresh weights and from the pretrained ones (``train --from``). With
``--spikes-of-all`` the pretraining has that day's spikes too, without its behaviour. The score is the behaviour's R2 on
the day's test time, the mean over seeds of the second training with the smallest and largest.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from models import BEHAVIOUR, simulated, spiketok

SHARES = (0.03, 0.1, 0.3, 1.0)
UNSEEN = "*S01*day04*"


def run(root: Path, *words: str, sets: list[str]) -> dict:
    """What a training prints as JSON."""
    chosen = [word for text in sets for word in ("--set", text)]
    return json.loads(spiketok(root, "train", "--tokenize", "--json", *words, *chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="ndt2,mtm,neds")
    parser.add_argument("--units", type=int, default=80)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seeds", default="42")
    parser.add_argument("--steps", type=int, default=300, help="of the second training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the second training")
    parser.add_argument("--spikes-of-all", action="store_true", help="pretrain on the held-out day's spikes too")
    arguments = parser.parse_args()
    root = arguments.folder.absolute()
    simulated(root, arguments.units, arguments.seconds)
    print("| model | weights |" + "".join(f" {share:.0%} |" for share in SHARES) + "\n" + "|---" * 6 + "|", flush=True)
    for model in arguments.models.split(","):
        chosen = ["--sessions", "*"] if arguments.spikes_of_all else []
        base = run(root, "--model", model, "--task", "population", *chosen, sets=[])["run"]
        for start in ([], ["--from", base]):
            cells = []
            for share in SHARES:
                scores = []
                for seed in arguments.seeds.split(","):
                    sets = [f"data.train_share={share}", f"optim.steps={arguments.steps}", f"seed={seed}"]
                    words = ["--model", model, *start, "--task", BEHAVIOUR, "--sessions", UNSEEN]
                    (row,) = run(root, *words, sets=[*sets, *arguments.set])["test"]
                    scores.append(row["r2_variance_weighted"])
                spread = f" ({min(scores):.3f} to {max(scores):.3f})" if len(scores) > 1 else ""
                cells.append(f"{np.mean(scores):.3f}{spread}")
            print(f"| {model} | {'pretrained' if start else 'fresh'} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
