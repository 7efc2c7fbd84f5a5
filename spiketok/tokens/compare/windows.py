"""Where schemes are measured: stretches of a session that all share, and each scheme's windows in them."""

from __future__ import annotations

import numpy as np

from spiketok.errors import DataError
from spiketok.recording.nouns import NS_PER_S, Session
from spiketok.tokens.schemes import Scheme
from spiketok.tokens.schemes.base import Windows

BATCH = 128
WHOLE_SESSION = ("calibration",)  # schemes that are cut once a session


class TooShortError(DataError):
    """No window of a scheme fits into a session's stretches."""


def choose_stretches(session: Session, window_ns: int, n_windows: int, seed: int) -> np.ndarray:
    """int64: the starts of stretches on a grid of ``window_ns`` from the session's start, in order."""
    n = (session.stop_ns - session.start_ns) // window_ns
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_windows])
    return session.start_ns + chosen * window_ns


def lay_windows(scheme: Scheme, session: Session, stretches: np.ndarray, window_ns: int) -> Windows:
    """Windows laid end to end in each stretch, from the first place on the scheme's grid."""
    if scheme.name in WHOLE_SESSION:
        return Windows(np.zeros(1, np.int64), np.array([session.start_ns]), session.stop_ns - session.start_ns)
    grid, step = scheme.grid_ns, scheme.length_grid_ns
    length_ns = scheme.window_ns or max(step, window_ns // step * step)
    first = session.start_ns - (session.start_ns - stretches) // grid * grid
    fits = np.maximum((stretches + window_ns - first) // length_ns, 1)
    index = np.arange(fits.sum()) - np.repeat(np.cumsum(fits) - fits, fits)
    start = np.repeat(first, fits) + index * length_ns
    start = start[start + length_ns <= session.stop_ns]
    if start.size == 0:
        seconds, length_s = (session.stop_ns - session.start_ns) / NS_PER_S, length_ns / NS_PER_S
        message = f"{session.id} has no stretch for a window of {length_s:g} s: it lasts {seconds:.3f} s"
        raise TooShortError(message)
    return Windows(np.zeros(len(start), np.int64), start, length_ns)


def batches(windows: Windows) -> list[Windows]:
    rows = [slice(k, k + BATCH) for k in range(0, len(windows), BATCH)]
    return [Windows(windows.segment[r], windows.start_ns[r], windows.length_ns) for r in rows]
