"""All comparisons on one size of recording, as one table: what ``make bench`` prints.

    python benchmarks/run.py [--size small|S|L] [--rounds N] [--only binning,merging,...]

Needs the oracle environment (``make bench`` builds it), where the peers from PyPI stand beside spiketok. Close other
programs first: a sample during which others took a core is taken again, but not for ever.
"""

from __future__ import annotations

import argparse
from importlib import import_module

from harness import machine, print_table
from recordings import SIZES, recording

TASKS = ("binning", "merging", "layout", "calibration", "event_pairs", "cutting", "reading", "ingest", "window_reads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="S")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(TASKS), help="comma-separated: " + ", ".join(TASKS))
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(TASKS):
        parser.error(f"--only {', '.join(sorted(unknown))}: must be of {', '.join(TASKS)}")
    session = recording(arguments.size)
    units, seconds, _ = SIZES[arguments.size]
    print(f"{arguments.size}: {units} units x {seconds} s, {len(session.spikes):,} spikes; {machine()}")
    print(f"medians of {arguments.rounds} rounds; a ratio is how many times longer than spiketok, within a round\n")
    rows = []
    for name in chosen:
        rows += import_module(name).rows(arguments.size, arguments.rounds)
    print_table(rows)


if __name__ == "__main__":
    main()
