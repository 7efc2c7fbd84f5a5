"""Reading a recording's NWB file: spiketok's reader and its whole ingest, and pynwb's ``units.to_dataframe()``.

Every sample is a process of its own, and they take turns. A process imports, touches a small file with the same code,
then starts the clock and reads the file, which lies in the machine's cache. Its peak is how far its memory rose
above what it held before the clock started. What is timed:

- pynwb: open, and the units as a data frame: each unit's seconds, in the order of the file;
- the same product: that, then all spikes as one stream of int64 ns in order of time, as numpy makes it from the frame;
- read: ``read_nwb``: the same product, checked, with all columns, findings and observed time;
- ingest: the digest of the file, ``read_nwb``, and the session written, compressed, digested and flushed to the disk.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Row
from sources import LAYOUTS, write_source

PYNWB, PRODUCT, READ, INGEST = "pynwb to_dataframe", "pynwb, to the same product", "spiketok read", "spiketok ingest"
WANTED_RATIO, WANTED_MEMORY = 5.0, 3.0


def rows(size: str, rounds: int) -> list[Row]:
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_source(folder / "small.nwb", "small", "contiguous", electrodes=True)
        for layout in LAYOUTS:
            for electrodes in (False, True):
                path = folder / f"{layout}-{electrodes}.nwb"
                n_spikes = write_source(path, size, layout, electrodes=electrodes)
                found += _of_file(path, folder, n_spikes, f"{layout}{', electrodes' if electrodes else ''}", rounds)
                path.unlink()
    return found


def _of_file(path: Path, folder: Path, n_spikes: int, what: str, rounds: int) -> list[Row]:
    samples: dict[str, list[dict]] = {who: [] for who in (PYNWB, PRODUCT, READ, INGEST)}
    for _ in range(rounds):
        for who, taken in samples.items():
            taken.append(_sample(who, path, folder))
    assert {s["n_spikes"] for taken in samples.values() for s in taken} == {n_spikes}
    found = []
    for who, taken in samples.items():
        memory = statistics.median(s["bytes"] for s in taken) / (8 * n_spikes)
        ratio = statistics.median(s["seconds"] / r["seconds"] for s, r in zip(taken, samples[READ], strict=True))
        cpu = statistics.median(s["cpu"] for s in taken)
        task = f"ingest, {what} (peak {memory:.2f} x the spike data, {cpu:.2f} s of CPU)"
        seconds = statistics.median(s["seconds"] for s in taken)
        found.append(Row(task, who, seconds, None if who == READ else ratio, WANTED_RATIO if who == PYNWB else None))
    return found


def _sample(who: str, path: Path, folder: Path) -> dict:
    words = [sys.executable, __file__, who, str(folder / "small.nwb"), str(path), str(folder / "store")]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


# ---- in a process of its own ----------------------------------------------------------------------------------------


def _pynwb(path: Path, _: Path) -> int:
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "r") as io:
        frame = io.read().units.to_dataframe()
        return sum(len(t) for t in frame["spike_times"])


def _product(path: Path, _: Path) -> int:
    import numpy as np
    from pynwb import NWBHDF5IO

    with NWBHDF5IO(str(path), "r") as io:
        times = io.read().units.to_dataframe()["spike_times"].tolist()
    time_ns = np.rint(np.concatenate(times) * 1e9).astype(np.int64)
    unit = np.repeat(np.arange(len(times), dtype=np.int32), [len(t) for t in times])
    order = np.argsort(time_ns, kind="stable")
    return len(time_ns[order]) + 0 * len(unit[order])


def _read(path: Path, _: Path) -> int:
    from spiketok.recording.nouns import Source
    from spiketok.sources.formats.nwb import read_nwb

    return len(read_nwb(path, "bench/one", Source(path.name, "", 0)).spikes)


def _ingest(path: Path, store: Path) -> int:
    from spiketok.recording.nouns import Source
    from spiketok.sources.formats.nwb import read_nwb
    from spiketok.storage.files import sha256_file
    from spiketok.storage.store import write_session

    session = read_nwb(path, "bench/one", Source(path.name, sha256_file(path), path.stat().st_size))
    write_session(session, store)
    return len(session.spikes)


def _memory(field: str) -> int:
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(field)) * 1024


def _main() -> None:
    import time
    import warnings

    warnings.simplefilter("ignore")
    who, small, path, store = sys.argv[1], *map(Path, sys.argv[2:])
    run = {PYNWB: _pynwb, PRODUCT: _product, READ: _read, INGEST: _ingest}[who]
    run(small, store)
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak begins anew
    before, begun, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    n_spikes = run(path, store)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    print(json.dumps({"n_spikes": n_spikes, "seconds": seconds, "cpu": cpu, "bytes": _memory("VmHWM") - before}))


if __name__ == "__main__":
    _main()
