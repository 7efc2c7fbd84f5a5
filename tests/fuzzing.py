"""Damage to good files, the same for the same seed: cuts, flipped bits and bytes, holes, and blocks out of place."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from spiketok.errors import SourceError
from spiketok.pipeline.isolation import isolated
from spiketok.pipeline.source_check import verify_session
from spiketok.recording.nouns import Session, Source
from spiketok.sources.formats.nwb import read_nwb
from spiketok.storage.store import read_session, write_session

KINDS = ("cut", "bit", "bytes", "zeros", "ones", "noise", "swap", "repeat", "lost")
DEADLINE_S, MEMORY_BYTES = 30, 10**9


def damaged(good: bytes, seed: int) -> tuple[str, bytes]:
    """What was done to the bytes of a good file, and what they are now."""
    rng = random.Random(seed)
    kind, out = rng.choice(KINDS), bytearray(good)
    at, size = rng.randrange(len(good)), min(rng.choice((8, 64, 512, 4096)), len(good) // 3)
    at = min(at, len(good) - size)
    if kind == "cut":
        del out[at:]
    elif kind == "bit":
        for _ in range(rng.choice((1, 1, 4, 32))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        for _ in range(rng.choice((1, 8, 64))):
            out[rng.randrange(len(out))] = rng.randrange(256)
    elif kind in ("zeros", "ones"):
        out[at : at + size] = bytes([0 if kind == "zeros" else 255]) * size
    elif kind == "noise":
        out[at : at + size] = rng.randbytes(size)
    elif kind == "swap":
        other = rng.randrange(len(good) - size)
        out[at : at + size], out[other : other + size] = good[other : other + size], good[at : at + size]
    elif kind == "repeat":
        out[at:at] = good[at : at + size]
    else:
        del out[at : at + size]
    return f"{kind} of {size} at {at}", bytes(out[: len(out)])


def judge(path: Path, good: Session) -> str:
    """What becomes of a damaged file: ``"refused"``, ``"equal"`` (to what pynwb reads), ``"whole"`` (no spike differs).

    Anything else is a finding, in words.
    """
    bounds = {"name": path.name, "memory_bytes": MEMORY_BYTES, "cpu_s": DEADLINE_S}
    try:
        isolated(_store, path, **bounds)
    except SourceError as error:
        text = str(error)
        if "\n" in text or path.name not in text or text.count(": ") < 1:
            return f"an error that is no clear line: {text!r}"
        return "crashed" if "crashed" in text or "processor time" in text else "refused"
    session = read_session(path.with_suffix(".zarr"))
    same = np.array_equal(session.spikes.time_ns, good.spikes.time_ns) and np.array_equal(
        session.spikes.unit, good.spikes.unit
    )
    try:
        differences = isolated(_compare, path, **bounds)
    except SourceError:
        return "whole" if same else "read alone"  # pynwb cannot: a value was hit, and who would know
    except (RecursionError, AssertionError, IndexError, UnicodeDecodeError, ZeroDivisionError):
        return "whole" if same else "read alone"
    if not differences:
        return "equal"
    if any(word in text for text in differences for word in ("spike", "units:")):
        return f"other spikes than pynwb reads: {differences[0]}"
    return "whole" if same else f"differs from pynwb: {differences[0]}"


def _read(path: Path) -> Session:
    return read_nwb(path, "set/session", Source(path.name, "0" * 64, 1))


def _store(path: Path) -> None:
    write_session(_read(path), path.with_suffix(".zarr"))


def _compare(path: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verify_session(read_session(path.with_suffix(".zarr")), path)


def run_cases(folder: Path, goods: list[Path], n_cases: int) -> tuple[Counter, list[str]]:
    """How many of so many cases ended in which way, and every finding with its seed."""
    bytes_, sessions = [g.read_bytes() for g in goods], [_read(g) for g in goods]
    ends, findings = Counter(), []
    for seed in range(n_cases):
        which = seed % len(goods)
        what, content = damaged(bytes_[which], seed)
        path = folder / "damaged.nwb"
        path.write_bytes(content)
        end = judge(path, sessions[which])
        if end in ("refused", "crashed", "equal", "whole", "read alone"):
            ends[end] += 1
        else:
            findings.append(f"seed {seed} ({goods[which].name}, {what}): {end}")
    return ends, findings
