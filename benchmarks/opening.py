"""What opening shards costs: unstamped, where every byte is read, and stamped; and what an open shard holds.

python benchmarks/opening.py FOLDER      every shard below a folder
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spiketok.storage.workspace import MANIFEST
from spiketok.tokens.context import FORMAT as CONTEXT_FORMAT
from spiketok.tokens.shards import ShardReader


@dataclass(frozen=True)
class Opened:
    """Opening shards: CPU seconds a shard where all of it is checked, and where its stamp is; descriptors left open."""

    n_shards: int
    checked_s: float
    stamped_s: float
    descriptors: int


def open_shards(folders: Sequence[Path], rounds: int = 5) -> Opened:
    """Open all shards at once, checked anew and then by their stamps: the median of some rounds.

    Args:
        folders: of shards that did not change in the last 0.1 s, and can be written to.
    """
    before, checked, stamped, readers = _descriptors(), [], [], []
    for _ in range(rounds):
        begun = time.process_time()
        readers = [ShardReader(folder, anew=True) for folder in folders]
        checked.append((time.process_time() - begun) / len(folders))
        begun = time.process_time()
        readers = [ShardReader(folder) for folder in folders]
        stamped.append((time.process_time() - begun) / len(folders))
    for reader in readers:  # with a map each
        _ = reader.columns["segment.row"]
    return Opened(len(folders), statistics.median(checked), statistics.median(stamped), _descriptors() - before)


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    manifests = sorted(parser.parse_args().folder.rglob(MANIFEST))
    folders = [m.parent for m in manifests if f'"{CONTEXT_FORMAT}"' not in m.read_text()]
    found = open_shards(folders)
    print(
        f"{found.n_shards} shards: {found.checked_s * 1e6:,.0f} us to check and open one, "
        f"{found.stamped_s * 1e6:,.0f} us with its stamp; {found.descriptors} descriptors left open"
    )


if __name__ == "__main__":
    main()
